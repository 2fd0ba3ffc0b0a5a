"""The whole way: recipe, real kernel, boot, commands, freeze, thaw. Minutes shorter than Debian's, but every step real.

It needs Alpine's root filesystem in a folder of `VPOD_SOURCES` (or in `../shared/sources`) and a Debian mirror; what is
fetched stays in vpod's own cache, so that only the first run downloads the kernel (112 MB).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder_parts import ROOT, folder, tar_of
from vpod_builder import boot, cli, recipe, rootfs
from vpod_builder.debian import mirrors
from vpod_builder.progress import Report
from vpod_builder.sources import Fetcher, split_places
from vpod_builder.tree import Tree

from vpod import Sandbox
from vpod.errors import BuildError, SourceError
from vpod.snapshot import Snapshot

ALPINE = recipe.find("alpine-3.23")


def sources() -> list[str]:
    """Folders that may have Alpine's root filesystem."""
    return [*split_places(os.environ.get("VPOD_SOURCES", "")), str(ROOT.parent / "shared/sources")]


@pytest.fixture(scope="module")
def alpine_sources() -> str:
    assert ALPINE.rootfs is not None
    file = ALPINE.rootfs.file
    found = [place for place in sources() if (Path(place) / file).is_file()]
    if not found:
        pytest.skip(f"{file} is in no folder of VPOD_SOURCES, nor in ../shared/sources")
    try:
        mirrors()
    except SourceError as error:
        pytest.skip(f"no Debian mirror for the kernel: {error}")
    return found[0]


@pytest.fixture(scope="module")
def built(alpine_sources: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("snapshots") / "alpine.snap"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPOD_SOURCES", alpine_sources)
        changes = ["--kernel", "stock", "--run", "echo made > /root/made"]
        assert cli.main(["alpine-3.23", "-q", "-o", str(path), *changes]) == 0
    yield path


def test_the_snapshot_says_what_it_is(built: Path) -> None:
    with Snapshot(built) as snap:
        snap.verify()
        meta = snap.meta
    assert (meta["name"], meta["tag"], meta["has_python"]) == ("alpine", "3.23", False)
    assert meta["kernel"]["version"].endswith("-riscv64") and meta["machine"]["memory"] == ALPINE.memory
    assert meta["built"]["commands"] == ["echo made > /root/made"]
    assert built.stat().st_size < 40_000_000


def test_what_was_built_runs(built: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPOD_SNAPSHOT", str(built))
        with Sandbox.create() as box:
            assert box.commands.run("cat /etc/alpine-release").stdout == "3.23.0"
            assert box.commands.run("cat /root/made; hostname; id -u").stdout == "made\nvpod\n0"
            assert box.commands.run("modprobe virtio_net && lsmod | grep -c ^virtio_").stdout == "3"


@pytest.fixture(scope="module")
def image(alpine_sources: str) -> rootfs.Image:
    return rootfs.assemble(ALPINE, Fetcher(Report(quiet=True), places=[alpine_sources]), rootfs.Options(kernel="stock"))


def guest_of(image: rootfs.Image, script: str) -> boot.Guest:
    """A machine with the real kernel and, for its init, a shell script on Alpine's busybox."""
    image.tree.remove("/init")
    image.tree.file("/init", f"#!/bin/sh\n{script}\n".encode(), 0o755)
    return boot.Guest(image, 128 << 20, Report(quiet=True))


def test_a_guest_that_stops_is_a_build_error(image: rootfs.Image) -> None:
    with pytest.raises(BuildError, match=r"the machine stopped \(panic\)"):
        guest_of(image, "exit 1").wait_ready()


def test_a_guest_without_an_agent_is_given_up(image: rootfs.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "BOOT_SECONDS", 1.0)
    with pytest.raises(BuildError, match=r"booting: not over after 1 s"):
        guest_of(image, "sleep 1000").wait_ready()


def test_an_image_larger_than_the_machine(image: rootfs.Image) -> None:
    large = rootfs.Image(Tree(), image.kernel)
    large.tree.file("/big", bytes(80 << 20))
    with pytest.raises(BuildError, match="give the machine more memory"):
        boot.Guest(large, 64 << 20, Report(quiet=True))


def test_a_rootfs_of_ones_own(alpine_sources: str, image: rootfs.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--rootfs` takes any tar archive with a shell, and vpod's own files win over what it brings."""
    monkeypatch.setattr("vpod_builder.kernel.load", lambda *_, **__: image.kernel)
    fetcher = Fetcher(Report(quiet=True), places=[alpine_sources])
    with tempfile.NamedTemporaryFile(suffix="-mine.tar") as file:
        members = ("bin/", folder()), ("bin/sh", b"#!"), ("init", b"theirs"), ("etc/hostname", b"theirs")
        file.write(tar_of(*members))
        file.flush()
        own = rootfs.assemble(ALPINE, fetcher, rootfs.Options(rootfs=Path(file.name)))
    assert own.tree.read("/etc/hostname") == b"vpod\n" and own.tree.read("/init")[:4] == b"\x7fELF"
    assert own.configure == "" and "-mine.tar" in own.sources[-1]
