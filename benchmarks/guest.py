"""The guest that both emulators boot: Debian's kernel and firmware, Alpine's root filesystem, the programs.

Why it exists: a comparison is one only if both sides boot the same bytes. They come from the builder's own sources, so
they are verified and cached like those of a snapshot (`VPOD_SOURCES`, `VPOD_DEBIAN_MIRROR`), or from files that the
caller names.

Invariants: what boots depends on nothing but these inputs; the guest has no network and no disk, measures one program
after the other, says ``BENCH done`` and powers off.

    guest = Guest.assemble(folder, chosen([]), Inputs(), Report())
    len(guest.initrd), guest.kernel_name
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpod_builder import kernel, recipe
from vpod_builder.debian import Archive
from vpod_builder.inflate import inflate
from vpod_builder.progress import Report
from vpod_builder.sources import Fetcher, Wanted
from vpod_builder.tar import Kind, entries
from vpod_builder.tree import Tree

from benchmarks import BenchmarkError
from benchmarks.listener import DONE
from benchmarks.programs import TEXT, TEXT_MEBIBYTES, TOOLS, Program, script

RECIPE = "alpine:3.23"
MAX_ROOTFS = 256 << 20
SETTLE = 5  # seconds for what the kernel puts off until after the boot, lest the first program be charged with it
COMMAND_LINE = "console=ttyS0 quiet loglevel=0 panic=-1"

INIT = f"""#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
sleep {SETTLE}
cd /bench
. ./script
echo "{DONE.decode()}"
poweroff -f
"""


@dataclass(frozen=True)
class Inputs:
    """Files to use instead of those that the builder would fetch."""

    kernel: Path | None = None
    firmware: Path | None = None
    rootfs: Path | None = None


@dataclass(frozen=True)
class Guest:
    """What a machine boots. `memory` is in bytes."""

    memory: int
    firmware: bytes
    kernel: bytes
    initrd: bytes
    kernel_name: str

    @classmethod
    def assemble(
        cls, folder: Path, programs: Sequence[Program], inputs: Inputs, report: Report, memory: int = 512 << 20
    ) -> Guest:
        """The guest with the binaries that `programs.build` put into `folder`.

        Raises `SourceError` and `BuildError` as a build of a snapshot does, `BenchmarkError` for a missing file.
        """
        fetcher = Fetcher(report)
        name, image, firmware = _kernel_and_firmware(inputs, fetcher)
        tree = Tree()
        rootfs, label = _rootfs(inputs, fetcher)
        tree.unpack(entries(inflate(rootfs, limit=MAX_ROOTFS, name=label), name=label), name=label)
        tree.device("/dev/console", Kind.CHARACTER, 5, 1)
        for binary in (*TOOLS, *(program.name for program in programs if program.compiled)):
            tree.file(f"/bench/{binary}", (folder / binary).read_bytes(), 0o755)
        lines = script(programs)
        if TEXT in lines:
            lines = f"./text {TEXT_MEBIBYTES} > {TEXT}\n{lines}"
        tree.file("/bench/script", lines.encode())
        tree.file("/init", INIT.encode(), 0o755)
        return cls(memory, firmware, image, tree.cpio(), name)


def _kernel_and_firmware(inputs: Inputs, fetcher: Fetcher) -> tuple[str, bytes, bytes]:
    """The kernel's name, its image and the firmware's."""
    if inputs.kernel is not None and inputs.firmware is not None:
        return inputs.kernel.name, _read(inputs.kernel), _read(inputs.firmware)
    description = kernel.describe(recipe.find(RECIPE).kernel)
    archive = Archive(fetcher, suite=description.suite, components=description.components)
    loaded = kernel.load(description, archive)
    image = loaded.image if inputs.kernel is None else _read(inputs.kernel)
    firmware = loaded.firmware if inputs.firmware is None else _read(inputs.firmware)
    return loaded.version if inputs.kernel is None else inputs.kernel.name, image, firmware


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
