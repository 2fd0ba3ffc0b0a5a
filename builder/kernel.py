"""Kernel, firmware and modules as `kernels/*.toml` describes: out of Debian's packages, or built from Debian's source.

    >>> kernel = load(choose("debian-stock", "stock"), archive)
    >>> kernel.version, kernel.boot
    ('6.12.…-riscv64', ['/lib/modules/…/virtio_mmio.ko', …])

A kernel with a [source] is built here (`kernel_build.py`) when it is asked for by name; a recipe that names the stock
one takes it unasked where it has been built before. All its drivers are built in.

The stock kernel's modules are unpacked (the guest's busybox knows no `.ko.xz`), few, and complete: each comes with the
modules that its own `.modinfo` section says it depends on. `modules.dep` and `modules.alias` are written from the same
sections, so that `modprobe NAME` works in the guest.

Invariants: every offset in a module's ELF headers is checked before it is followed; the boot list is ordered so that
no module comes before one it needs. Sources: ELF-64 object file format; modules.dep(5); Linux `include/linux/module.h`.
"""

from __future__ import annotations

import fnmatch
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from vpod.errors import BuildError, VerificationFailed

from . import kernel_build, kernel_folder
from .deb import Deb
from .debian import Archive
from .inflate import inflate
from .recipe import Reader, read_toml
from .resolve import Package
from .tar import Kind
from .tree import Tree

STOCK, LEAN = "debian-stock", "lean"
MAX_MODULE = 64 << 20
MAX_MODINFO = 1 << 20  # bytes; that of a driver with a thousand aliases has 60 KiB


@dataclass(frozen=True)
class Description:
    """One file of `kernels/`, checked.

    A kernel out of a package has `image` and modules; one that is built has `tree` (the source archive in its package)
    and `config` (the configuration's file in `kernels/`).
    """

    key: str
    suite: str
    components: tuple[str, ...]
    package: str
    firmware_package: str
    firmware_image: str
    image: str = ""
    boot: tuple[str, ...] = ()
    ship: tuple[str, ...] = ()
    tree: str = ""
    config: str = ""

    @property
    def is_built(self) -> bool:
        """Whether it is built on this host."""
        return bool(self.config)


@dataclass
class Kernel:
    """What a machine boots. `modules` are (path below /lib/modules/VERSION, unpacked ELF); `boot` absolute paths."""

    version: str
    image: bytes
    firmware: bytes
    packages: list[str]
    modules: dict[str, bytes] = field(default_factory=dict)
    lists: dict[str, bytes] = field(default_factory=dict)
    boot: list[str] = field(default_factory=list)

    def install(self, tree: Tree) -> None:
        """Put the modules, their lists and init's boot list into a root filesystem."""
        folder = f"/lib/modules/{self.version}"
        for path, data in self.modules.items():
            tree.file(f"{folder}/{path}", data)
        for name, data in self.lists.items():
            tree.file(f"{folder}/{name}", data)
        if self.boot:
            tree.file("/etc/vpod/modules", "".join(f"{path}\n" for path in self.boot).encode())


def describe(key: str) -> Description:
    """Read and check `kernels/KEY.toml`. Raises `BuildError` naming file and field."""
    known = {path.stem: path for path in kernel_folder.folder().glob("*.toml")}
    if key not in known:
        raise BuildError(f"there is no kernel {key!r} in kernels/; those there are: {', '.join(sorted(known))}")
    path = known[key]
    table, _ = read_toml(path)
    reader = Reader(table, path.name)
    suite, components = reader.word("suite"), reader.words("components")
    source, firmware = reader.part("source"), reader.part("firmware")
    kernel, modules = (reader.part("kernel"), reader.part("modules")) if source is None else (None, None)
    if firmware is None or (source is None and (kernel is None or modules is None)):
        raise BuildError(f"{path.name}: needs the sections [firmware], and [kernel] and [modules] or else [source]")
    firmware_package, firmware_image = firmware.word("package"), firmware.text("image")
    if kernel is not None and modules is not None:
        description = Description(
            key, suite, components, kernel.word("package"), firmware_package, firmware_image,
            image=kernel.text("image"), boot=modules.words("boot"), ship=modules.words("ship"),
        )  # fmt: skip
    elif source is not None:
        description = Description(
            key, suite, components, source.word("package"), firmware_package, firmware_image,
            tree=source.text("tree"), config=source.word("config"),
        )  # fmt: skip
    for each in (reader, source, kernel, firmware, modules):
        if each is not None:
            each.end()
    return description


def choose(recipe: str, asked: str | None = None) -> Description:
    """The kernel for a recipe that names `recipe`: the one asked for; else the lean one for Debian's, if it is here.

    `asked` is the name of a description, or `stock`. Raises `BuildError` for one that there is not.
    """
    if asked is not None:
        return describe(STOCK if asked == "stock" else asked)
    if recipe == STOCK and kernel_build.newest(lean := describe(LEAN)) is not None:
        return lean
    return describe(recipe)


def load(description: Description, archive: Archive, *, build: bool = False) -> Kernel:
    """Fetch the packages and take out what is needed. Raises `SourceError` or `BuildError`.

    A kernel that is built is taken as it was kept, however old its source; unless there is none, or `build` asks for
    one of the archive's present source.
    """
    if description.is_built:
        return _built(description, archive, build)
    packages = [_kernel_package(description, archive), _package(archive, description.firmware_package)]
    kernel_path, firmware_path = archive.fetch(packages, "kernel and firmware")
    firmware = _one(Deb(firmware_path.read_bytes(), name=firmware_path.name), description.firmware_image)
    deb = Deb(kernel_path.read_bytes(), name=packages[0].filename.rpartition("/")[2])
    wanted = (description.image, "*/lib/modules/*", "lib/modules/*")
    files = {
        entry.path.removeprefix("usr/"): entry.data
        for entry in deb.members()
        if entry.kind is Kind.FILE and any(fnmatch.fnmatchcase(entry.path, pattern) for pattern in wanted)
    }
    images = [path for path in files if fnmatch.fnmatchcase(path, description.image)]
    if len(images) != 1:
        raise BuildError(f"{deb.name}: {description.image} matches {len(images)} files, and must match one")
    folders = {"/".join(path.split("/")[:3]) for path in files if path.startswith("lib/modules/")}
    if len(folders) != 1:
        raise BuildError(f"{deb.name}: has modules for {len(folders)} kernels, and must have them for one")
    root = folders.pop()
    modules = {path.removeprefix(root + "/"): data for path, data in files.items() if path.startswith(root + "/")}
    kernel = Kernel(
        root.rpartition("/")[2], bytes(files[images[0]]), firmware, [f"{each.name} {each.version}" for each in packages]
    )
    _take_modules(kernel, description, modules)
    return kernel


def _built(description: Description, archive: Archive, build: bool) -> Kernel:
    """The kernel of a [source] and the firmware's package."""
    built = None if build else kernel_build.newest(description)
    if built is None:
        built = kernel_build.current(description, archive)
    elif (source := archive.index.get(description.package)) is not None and source.sha256 != built.source:
        age = f"The {description.key} kernel is of {built.package} {built.package_version}"
        newer = f"{archive.suite} has {source.version} now: vpod-build --kernel {description.key} builds it"
        archive.report.line(f"{age}; {newer}")
    package = _package(archive, description.firmware_package)
    (path,) = archive.fetch([package], "firmware")
    firmware = _one(Deb(path.read_bytes(), name=path.name), description.firmware_image)
    origin = f"{built.package} {built.package_version}, {description.config}, {built.compiler}"
    lists = {**built.lists, "modules.dep": b"", "modules.alias": b""}  # modprobe finds nothing to load, and what is in
    return Kernel(built.version, built.image, firmware, [origin, f"{package.name} {package.version}"], lists=lists)


def _package(archive: Archive, name: str) -> Package:
    package = archive.index.get(name)
    if package is None:
        raise BuildError(f"{archive.mirror}: {archive.suite} has no package {name!r}")
    return package


def _kernel_package(description: Description, archive: Archive) -> Package:
    """The kernel that a meta-package depends on; the package itself if it is no meta-package."""
    package = _package(archive, description.package)
    for group in package.needs:
        if group[0].name.startswith("linux-image-"):
            found = archive.index.candidates(group[0])
            if not found:
                raise BuildError(f"{package.name} needs {group[0]}, which the archive does not have")
            return found[0]
    return package


def _one(deb: Deb, path: str) -> bytes:
    for entry in deb.members():
        if entry.path == path and entry.kind is Kind.FILE:
            return bytes(entry.data)
    raise BuildError(f"{deb.name}: has no {path}; kernels/ describes another version of it")


def _take_modules(kernel: Kernel, description: Description, files: dict[str, memoryview]) -> None:
    """Unpack the modules named and those they need; write their lists and the boot list."""
    paths = {_module_name(path): path for path in files if ".ko" in path.rpartition("/")[2]}
    infos: dict[str, dict[str, list[str]]] = {}
    needs: dict[str, list[str]] = {}
    plain: dict[str, str] = {}

    wanted = [(name.replace("-", "_"), f"kernels/{description.key}.toml") for name in _named(description)]
    for name, asked_by in wanted:  # which grows meanwhile
        if name in needs:
            continue
        if name not in paths:
            raise BuildError(f"{asked_by} needs the kernel module {name}, which Linux {kernel.version} does not have")
        path = paths[name]
        data = inflate(files[path], limit=MAX_MODULE, name=path)
        infos[name] = modinfo(data, path)
        depends = ",".join(infos[name].get("depends", []))
        needs[name] = [each.replace("-", "_") for each in depends.split(",") if each]
        plain[name] = path[: path.rindex(".ko")] + ".ko"
        kernel.modules[plain[name]] = data
        wanted += [(other, name) for other in needs[name]]
    order = load_order(needs, [name.replace("-", "_") for name in description.boot])
    kernel.boot = [f"/lib/modules/{kernel.version}/{plain[name]}" for name in order]
    dependencies = {name: list(reversed(load_order(needs, [name])[:-1])) for name in sorted(needs)}
    kernel.lists["modules.dep"] = "".join(
        f"{plain[name]}:{''.join(' ' + plain[other] for other in others)}\n" for name, others in dependencies.items()
    ).encode(errors="surrogateescape")
    kernel.lists["modules.alias"] = "".join(
        f"alias {alias} {name}\n" for name in sorted(infos) for alias in infos[name].get("alias", [])
    ).encode()
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        kernel.lists[name] = bytes(files.get(name, b""))


def load_order(needs: dict[str, list[str]], names: Iterable[str]) -> list[str]:
    """The modules named and all they need, each after what it needs; `BuildError` for a circle."""
    order: dict[str, None] = {}  # a set that keeps its order
    for first in names:
        unfinished = {first: iter(needs[first])} if first not in order else {}
        while unfinished:  # not recursion: a chain of needs may be longer than Python's stack is deep
            name = next(reversed(unfinished))
            other = next(unfinished[name], None)
            if other is None:
                order[name] = None
                del unfinished[name]
            elif other in unfinished:
                raise BuildError(f"the kernel module {other} depends on itself")
            elif other not in order:
                unfinished[other] = iter(needs[other])
    return list(order)


def _named(description: Description) -> tuple[str, ...]:
    """The modules that a description names."""
    return (*description.boot, *description.ship)


def _module_name(path: str) -> str:
    """`kernel/drivers/char/hw_random/virtio-rng.ko.xz` → `virtio_rng`, as `lsmod` shows it."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def modinfo(data: bytes, name: str) -> dict[str, list[str]]:
    """The `key=value` strings of a module's `.modinfo` section; `VerificationFailed` if it is no 64-bit ELF file."""
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise VerificationFailed(f"{name}: not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry, count, names = struct.unpack_from("<HHH", data, 0x3A)
    if entry != 64 or table + entry * count > len(data) or names >= count:
        raise VerificationFailed(f"{name}: its section table lies outside the file")

    def section(number: int) -> tuple[int, bytes]:
        title, offset, size = struct.unpack_from("<I20xQQ", data, table + number * entry)
        if offset + size > len(data):
            raise VerificationFailed(f"{name}: section {number} lies outside the file")
        return title, data[offset : offset + size]

    strings = section(names)[1]
    found: dict[str, list[str]] = {}
    left = MAX_MODINFO
    for number in range(count):
        (title,) = struct.unpack_from("<I", data, table + number * entry)
        if strings[title : title + 9] == b".modinfo\0":
            info = section(number)[1]
            left -= len(info)
            if left < 0:  # of one section, or of many that lie over each other
                raise VerificationFailed(f"{name}: more than {MAX_MODINFO} bytes of .modinfo")
            for text in filter(None, info.split(b"\0")):
                key, equals, value = text.decode("utf-8", "replace").partition("=")
                if equals and "\n" not in value:
                    found.setdefault(key, []).append(value)
    return found
