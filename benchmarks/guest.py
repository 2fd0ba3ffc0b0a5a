"""The guest that both emulators boot: Debian's kernel and firmware, Alpine's root filesystem, the programs.

Why it exists: a comparison is one only if both sides boot the same bytes. They come from the builder's own sources, so
they are verified and cached like those of a snapshot (`VPOD_SOURCES`, `VPOD_DEBIAN_MIRROR`), or from files that the
caller names. Where Python is measured, Debian's `python3` and all that it depends on lie in a folder of their own, into
which Python's programs are chrooted.

Invariants: what boots depends on nothing but these inputs; the guest has no network and no disk, measures one program
after the other, says ``BENCH done`` and powers off.

    guest = Guest.assemble(target, folder, chosen([]), Inputs(), Report())
    guest.initrd.stat().st_size, guest.kernel_name
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vpod_builder import kernel, recipe
from vpod_builder.deb import Deb
from vpod_builder.debian import Archive
from vpod_builder.inflate import inflate
from vpod_builder.progress import Report
from vpod_builder.resolve import resolve
from vpod_builder.sources import Fetcher, Wanted
from vpod_builder.tar import Entry, Kind, entries
from vpod_builder.tree import Tree

from benchmarks import BenchmarkError
from benchmarks.listener import DONE
from benchmarks.programs import BENCH, DEBIAN, SOURCES, TOOLS, Program, compiled, preparation, script
from benchmarks.programs import Kind as Source

RECIPE = "alpine:3.23"
DEBIAN_RECIPE = "debian:13"
PACKAGES = ("python3",)
MAX_ROOTFS = 256 << 20
SETTLE = 5  # seconds for what the kernel puts off until after the boot, lest the first program be charged with it
COMMAND_LINE = "console=ttyS0 quiet loglevel=0 panic=-1"


@dataclass(frozen=True)
class Inputs:
    """Files to use instead of those that the builder would fetch."""

    kernel: Path | None = None
    firmware: Path | None = None
    rootfs: Path | None = None


@dataclass(frozen=True)
class Guest:
    """What a machine boots: three files of `folder`. `memory` is in bytes."""

    folder: Path
    memory: int
    kernel_name: str

    @property
    def firmware(self) -> Path:
        """OpenSBI's fw_dynamic.bin."""
        return self.folder / "firmware"

    @property
    def kernel(self) -> Path:
        """Linux's Image."""
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        """The root filesystem as an uncompressed cpio archive."""
        return self.folder / "initrd"

    @classmethod
    def assemble(
        cls, target: Path, binaries: Path, programs: Sequence[Program], inputs: Inputs, report: Report,
        memory: int = 512 << 20,
    ) -> Guest:  # fmt: skip
        """The guest, written into the folder `target`, with what `programs.build` put into the folder `binaries`.

        Raises `SourceError` and `BuildError` as a build of a snapshot does, `BenchmarkError` for a missing file.
        """
        fetcher = Fetcher(report)
        name, image, firmware = _kernel_and_firmware(inputs, fetcher)
        tree = _alpine(inputs, fetcher)
        for binary in (*TOOLS, *(program.name for program in compiled(programs))):
            tree.file(f"{BENCH}/{binary}", (binaries / binary).read_bytes(), 0o755)
        if any(program.kind is Source.PYTHON for program in programs):
            _debian(tree, fetcher)
            _python_programs(tree, binaries)
        tree.file(f"{BENCH}/prepare", preparation(programs).encode())
        tree.file(f"{BENCH}/script", script(programs).encode())
        tree.file("/init", _init().encode(), 0o755)
        guest = cls(target, memory, name)
        for path, data in ((guest.firmware, firmware), (guest.kernel, image), (guest.initrd, tree.cpio())):
            path.write_bytes(data)
        return guest


class Bare(NamedTuple):
    """A guest of one kernel and Alpine's root filesystem as released, to whose shell it boots."""

    kernel_name: str
    firmware: bytes
    kernel: bytes
    initrd: bytes

    @classmethod
    def assemble(cls, key: str, report: Report) -> Bare:
        """With the kernel of `kernels/KEY.toml`. Raises `SourceError` and `BuildError` as a build of a snapshot."""
        fetcher = Fetcher(report)
        name, image, firmware = _kernel_and_firmware(Inputs(), fetcher, key)
        return cls(name, firmware, image, _alpine(Inputs(), fetcher).cpio())


def _init() -> str:
    """The guest's first process: what is prepared, a pause, what is measured."""
    return f"""#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
if [ -d {DEBIAN} ]; then
    mount -o bind /dev {DEBIAN}/dev
    mount -t proc proc {DEBIAN}/proc
fi
export PYTHONHASHSEED=0 # so that each run of a program does the same
cd {BENCH}
. ./prepare
sleep {SETTLE}
. ./script
echo "{DONE.decode()}"
poweroff -f
"""


def _debian(tree: Tree, fetcher: Fetcher) -> None:
    """Debian's Python and what it depends on, unpacked and not configured, below `DEBIAN`."""
    wanted = recipe.find(DEBIAN_RECIPE).debian
    if wanted is None:
        raise BenchmarkError(f"the recipe {DEBIAN_RECIPE} names no packages of Debian; put back its [debian]")
    archive = Archive(fetcher, suite=wanted.suite, components=wanted.components)
    packages = resolve(archive.index, PACKAGES)
    for name in ("bin", "sbin", "lib"):  # as in any Debian since 12: packages have their files in /usr
        tree.folder(f"{DEBIAN}/usr/{name}")
        tree.symlink(f"{DEBIAN}/{name}", f"usr/{name}")
    skip = [DEBIAN + pattern for pattern in wanted.leave_out]
    for package, path in zip(packages, archive.fetch(packages, f"{len(packages)} packages"), strict=True):
        deb = Deb(path.read_bytes(), name=path.name)
        tree.unpack(map(_below, deb.members()), name=package.name, skip=skip)
    for name in ("dev", "proc", "tmp"):
        tree.folder(f"{DEBIAN}/{name}", 0o1777 if name == "tmp" else 0o755)


def _below(entry: Entry) -> Entry:
    """A package's file, in the folder of Debian's root filesystem."""
    folder = DEBIAN.lstrip("/")
    target = f"{folder}/{entry.target}" if entry.kind is Kind.HARDLINK else entry.target
    return replace(entry, path=f"{folder}/{entry.path}".rstrip("/"), target=target)


def _python_programs(tree: Tree, binaries: Path) -> None:
    """Each of Python's programs, and the tools that run them, where they find them after `chroot`."""
    for path in sorted(SOURCES.glob("*.py")):
        tree.file(f"{DEBIAN}{BENCH}/{path.name}", path.read_bytes())
    for tool in ("stopwatch", "repeat"):
        tree.file(f"{DEBIAN}{BENCH}/{tool}", (binaries / tool).read_bytes(), 0o755)


def _kernel_and_firmware(inputs: Inputs, fetcher: Fetcher, key: str = kernel.STOCK) -> tuple[str, bytes, bytes]:
    """The kernel's name, its image and the firmware's."""
    if inputs.kernel is not None and inputs.firmware is not None:
        return inputs.kernel.name, _read(inputs.kernel), _read(inputs.firmware)
    description = kernel.describe(key)
    archive = Archive(fetcher, suite=description.suite, components=description.components)
    loaded = kernel.load(description, archive)
    image = loaded.image if inputs.kernel is None else _read(inputs.kernel)
    firmware = loaded.firmware if inputs.firmware is None else _read(inputs.firmware)
    return loaded.version if inputs.kernel is None else inputs.kernel.name, image, firmware


def _alpine(inputs: Inputs, fetcher: Fetcher) -> Tree:
    """Alpine's root filesystem, and the console that a kernel gives to its first process."""
    tree = Tree()
    rootfs, label = _rootfs(inputs, fetcher)
    tree.unpack(entries(inflate(rootfs, limit=MAX_ROOTFS, name=label), name=label), name=label)
    tree.device("/dev/console", Kind.CHARACTER, 5, 1)
    return tree


def _rootfs(inputs: Inputs, fetcher: Fetcher) -> tuple[bytes, str]:
    """Alpine's released root filesystem, packed, and its name."""
    if inputs.rootfs is not None:
        return _read(inputs.rootfs), inputs.rootfs.name
    tarball = recipe.find(RECIPE).rootfs
    if tarball is None:
        raise BenchmarkError(f"the recipe {RECIPE} names no root filesystem; pass one with --rootfs")
    urls = tuple(f"{url.rstrip('/')}/{tarball.file}" for url in tarball.urls)
    (path,) = fetcher.fetch_all([Wanted(tarball.file, urls, tarball.digest)], tarball.file)
    return path.read_bytes(), tarball.file


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read ({error.strerror})") from None
