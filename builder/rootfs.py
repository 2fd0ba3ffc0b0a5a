"""Putting a root filesystem together: a tarball or Debian packages, kernel modules, the agent, a few files in /etc.

    >>> image = assemble(find("debian-13"), Fetcher(report), Options())
    >>> len(image.initramfs()), image.configure
    (165…, '/var/lib/vpod/configure')

Invariants: everything happens in memory (`tree.py`); whatever is used was verified by `sources.py` or `debian.py`, but
for a tarball given with `--rootfs`, which is the user's own; files are added in an order that lets vpod's own
(agent, init, boot list) win over what an archive brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vpod.errors import BuildError

from . import agent, alpine, dpkg, kernel
from .deb import Deb
from .debian import Archive, security_mirrors, without_credentials
from .inflate import inflate
from .recipe import DebianSet, Recipe, Tarball
from .resolve import resolve
from .sources import Fetcher, Wanted
from .tar import Kind, entries
from .tree import Tree

MAX_ROOTFS = 2 << 30  # bytes, unpacked

HOSTNAME = b"vpod\n"
HOSTS = b"127.0.0.1\tlocalhost vpod\n::1\tlocalhost ip6-localhost ip6-loopback\n"
RESOLV_CONF = b"# This machine has no network; a name server is written here when it gets one.\n"


@dataclass(frozen=True)
class Options:
    """What the command line may change about a recipe."""

    rootfs: Path | None = None
    mirror: str | None = None
    add: tuple[str, ...] = ()
    kernel: str | None = None


@dataclass
class Image:
    """A root filesystem ready to boot, and what it is made of.

    `packages` are `name version` of all that was installed by the build; `configure` is a script that the booted
    machine has to run once, or empty; `sources` says where things came from, for the snapshot's metadata.
    """

    tree: Tree
    kernel: kernel.Kernel
    packages: list[str] = field(default_factory=list)
    configure: str = ""
    sources: list[str] = field(default_factory=list)

    def initramfs(self) -> bytes:
        """The whole tree as an uncompressed cpio archive."""
        return self.tree.cpio()


def assemble(recipe: Recipe, fetcher: Fetcher, options: Options) -> Image:
    """Fetch all that a recipe names and put it together. Raises `SourceError` and `BuildError`."""
    description = kernel.choose(recipe.kernel, options.kernel)
    wanted = recipe.debian if options.rootfs is None else None
    debian_mirror = options.mirror if wanted is not None else None
    archive = Archive(fetcher, suite=description.suite, components=description.components, mirror=debian_mirror)
    fetcher.report.line(f"Verified the signature of {without_credentials(archive.mirror)} {archive.suite}")
    image = Image(Tree(), kernel.load(description, archive, build=options.kernel is not None))
    image.sources.append(f"{without_credentials(archive.mirror)} {archive.suite}, {archive.release.get('Date', '')}")
    if options.rootfs is not None:
        _own_rootfs(image, options.rootfs)
    elif wanted is not None:
        if (wanted.suite, wanted.components) != (description.suite, description.components):
            archive = Archive(fetcher, suite=wanted.suite, components=wanted.components, mirror=debian_mirror)
        _debian(image, archive, wanted, options.add, fetcher)
    elif recipe.rootfs is not None:
        image.tree = tarball_tree(recipe.rootfs, fetcher, options.mirror)
        image.sources.append(f"{recipe.rootfs.file} {recipe.rootfs.digest}")
    packages = recipe.apk if options.rootfs is None else ()
    if wanted is None and (packages or options.add):
        added, image.configure = alpine.add(image.tree, [*packages, *options.add], fetcher, mirror=options.mirror)
        image.packages += added
    with fetcher.report.step("Assembling") as bar:
        _finish(image)
        what = f"{image.tree.size / 1e6:.1f} MB, {len(image.kernel.modules)} modules of Linux {image.kernel.version}"
        bar.done(f"Assembled the root filesystem: {what}")
    return image


def tarball_tree(tarball: Tarball, fetcher: Fetcher, mirror: str | None = None) -> Tree:
    """A released root filesystem as it is, its digest pinned in the recipe.

    `mirror` is tried first: a folder laid out as the distribution's own, `v3.23/releases/riscv64/FILE` in it.
    """
    folders = [url.rstrip("/") for url in tarball.urls]
    if mirror is not None:
        folders = ["/".join([mirror.rstrip("/"), *folder.split("/")[-3:]]) for folder in folders] + folders
    urls = tuple(f"{folder}/{tarball.file}" for folder in folders)
    (path,) = fetcher.fetch_all([Wanted(tarball.file, urls, tarball.digest)], tarball.file)
    tree = Tree()
    _unpack_tar(tree, path, tarball.file)
    return tree


def _own_rootfs(image: Image, path: Path) -> None:
    """The user's own tarball: used as it is, after the same checks against hostile contents."""
    if not path.is_file():
        raise BuildError(f"{path}: there is no such file; --rootfs takes a tar archive of a root filesystem")
    _unpack_tar(image.tree, path, path.name)
    image.sources.append(f"{path.name} (given with --rootfs)")


def _unpack_tar(tree: Tree, path: Path, name: str) -> None:
    data = inflate(path.read_bytes(), limit=MAX_ROOTFS, name=name)
    tree.unpack(entries(data, name=name), name=name)
    if "/bin/sh" not in tree:
        raise BuildError(f"{name}: has no /bin/sh; a root filesystem for a vpod machine needs a shell")


def _debian(image: Image, archive: Archive, wanted: DebianSet, add: Sequence[str], fetcher: Fetcher) -> None:
    """Debian packages, unpacked; they are configured in the booted machine."""
    packages = resolve(archive.index, [*archive.index.essential, *wanted.packages, *add])
    paths = archive.fetch(packages, f"{len(packages)} packages")
    database = dpkg.Database(image.tree, leave_out=wanted.leave_out, keep=wanted.keep)
    with fetcher.report.step("Unpacking", total=len(packages)) as bar:
        _usr_merge(image.tree)
        for package, path in zip(packages, paths, strict=True):
            bar.note(package.name)
            deb = Deb(path.read_bytes(), name=package.filename.rpartition("/")[2])
            if (deb.package, deb.control.get("Version")) != (package.name, package.version):
                raise BuildError(f"{deb.name}: holds {deb.package}, and the archive's index says {package.name}")
            database.unpack(deb)
            bar.advance(1)
        database.finish()
        bar.done(f"Unpacked {len(packages)} packages")
    security = [without_credentials(each) for each in security_mirrors()]
    sources = dpkg.sources_file(without_credentials(archive.mirror), wanted.suite, wanted.components, security)
    if sources:
        image.tree.file("/etc/apt/sources.list.d/debian.sources", sources)
    image.packages += [f"{package.name} {package.version}" for package in packages]
    image.configure = dpkg.CONFIGURE


def _usr_merge(tree: Tree) -> None:
    """`/bin` and its like lead into `/usr` from the start, so that packages unpacked before base-files go there too."""
    for name in ("bin", "sbin", "lib"):
        tree.folder(f"/usr/{name}")
        tree.symlink(f"/{name}", f"usr/{name}")


def _finish(image: Image) -> None:
    """Modules, agent, and the files in which every machine of vpod is alike."""
    tree = image.tree
    image.kernel.install(tree)
    for folder, mode in (("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755), ("/run", 0o755), ("/root", 0o700)):
        tree.folder(folder, mode)
    tree.folder("/tmp", 0o1777)
    tree.device("/dev/console", Kind.CHARACTER, 5, 1)
    tree.device("/dev/null", Kind.CHARACTER, 1, 3, 0o666)
    tree.file("/sbin/vpod-agent", agent.binary(), 0o755)
    tree.remove("/init")
    tree.symlink("/init", "/sbin/vpod-agent")
    tree.file("/usr/lib/vpod/runner.py", agent.runner_source().encode())
    tree.file("/etc/hostname", HOSTNAME)
    for path, text in (("/etc/hosts", HOSTS), ("/etc/resolv.conf", RESOLV_CONF)):
        tree.remove(path)  # a distribution's symbolic link to what a service would write
        tree.file(path, text)
