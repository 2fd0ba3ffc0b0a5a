"""The vpod-build command, recipes and kernels: what a user types and reads, without a machine being booted."""

from __future__ import annotations

import gzip
import json
import re
import struct
from pathlib import Path

import pytest
from builder_parts import ROOT, sha256, tar_of
from vpod_builder import cli, kernel, recipe
from vpod_builder.progress import Report, printable, size
from vpod_builder.tree import Tree

from vpod import snapshots
from vpod.errors import BuildError, SnapshotNotFound, VerificationFailed

RECIPE = """
name = "mine"
tags = ["1"]
summary = "my own"
memory = "256M"
kernel = "debian-stock"
[rootfs]
file = "root.tar.gz"
urls = ["https://nowhere.invalid/"]
sha512 = "{digest}"
"""


def own_recipe(tmp_path: Path, **change: str) -> Path:
    text = RECIPE.format(digest="0" * 128)
    for key, value in change.items():
        text = text.replace(key, value)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_the_recipes_that_come_with_vpod_are_those_the_runtime_knows() -> None:
    built = {(each.key, each.name, each.tags, each.has_python, each.summary) for each in recipe.catalog()}
    known = {
        (each.key, each.name, (each.tag, *each.aliases), each.has_python, each.description)
        for each in snapshots.RECIPES
    }
    assert built == known


@pytest.mark.parametrize("name", ["alpine-3.23", "alpine:3.23", "alpine", "alpine:latest"])
def test_names_of_one_recipe(name: str) -> None:
    assert recipe.find(name).key == "alpine-3.23"


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(SnapshotNotFound, match=r"alpine-3\.23.*debian-13"):
        recipe.find("gentoo")


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    found = recipe.find(str(own_recipe(tmp_path)))
    assert (found.reference, found.memory) == ("mine:1", 256 << 20)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('summary = "my own"', "summary = 3"),
        ('tags = ["1"]', "tags = []"),
        ('memory = "256M"', 'memory = "8G"'),
        ('memory = "256M"', 'memory = "lots"'),
        ('name = "mine"', 'name = "../mine"'),
        ('kernel = "debian-stock"', 'kernel = "debian-stock"\nmisspelt = 1'),
        ("0" * 128, "0" * 127),
        ('file = "root.tar.gz"', 'file = "../../root.tar.gz"'),
        ("[rootfs]", "[rootfs"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(BuildError):
        recipe.find(str(own_recipe(tmp_path, **{old: new})))


def test_sizes() -> None:
    assert recipe.memory_size("512M") == recipe.memory_size("524288K") == 512 << 20
    assert recipe.memory_size("4G") == 4 << 30
    for bad in ("", "63M", "5G", "-1", "1.5G", "100000001", "1T"):
        with pytest.raises(BuildError):
            recipe.memory_size(bad)


# --- the command -----------------------------------------------------------------------------------------------------


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == [each.key for each in recipe.catalog()]
    assert cli.main(["--list", "--json"]) == 0
    assert {row["key"] for row in json.loads(capsys.readouterr().out)} == {each.key for each in recipe.catalog()}


@pytest.mark.parametrize("key", [each.key for each in recipe.catalog()])
def test_explain(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--explain", key]) == 0
    out = capsys.readouterr().out
    assert "linux-image-riscv64" in out and "opensbi" in out and key in out


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["a", "--list"], ["--memory"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_an_unknown_recipe_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gentoo"]) == 2
    assert "debian-13" in capsys.readouterr().err


def test_an_unreachable_source_is_125_and_lists_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path))
    monkeypatch.setenv("VPOD_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    assert cli.main(["alpine-3.23"]) == 125
    captured = capsys.readouterr()
    assert "127.0.0.1:9/debian/dists/trixie/InRelease" in captured.err and "--mirror" in captured.err
    assert captured.out == "" and not list((tmp_path / "snapshots").glob("*.snap"))


def test_a_bad_memory_size_is_125(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path))
    assert cli.main(["alpine-3.23", "--memory", "9G"]) == 125


def test_progress_without_a_terminal_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.step("Working", total=10) as bar:
        bar.advance(5)
        bar.note("evil\x1b[2J")
        bar.done("Worked on [bold]evil\x1b[2J")
    err = capsys.readouterr().err
    assert err == "  Worked on [bold]evil?[2J\n"
    with Report(quiet=True).step("Working"):
        pass
    assert capsys.readouterr().err == ""


def test_words_for_readers() -> None:
    assert [size(number) for number in (5, 1500, 3_458_289, 2e9)] == ["5 bytes", "1.5 kB", "3.5 MB", "2.00 GB"]
    assert printable("a\r\nb\x9b") == "a??b?"


# --- kernels ---------------------------------------------------------------------------------------------------------


def module(*strings: bytes) -> bytes:
    """An ELF file with a `.modinfo` section and little else."""
    info, names = b"\0".join(strings) + b"\0", b"\0.modinfo\0.shstrtab\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 243, 1, 0, 0, 0, 0, 64, 0, 0, 64, 3, 2)
    body = info + names
    header = header[:0x28] + struct.pack("<Q", 64 + len(body)) + header[0x30:]
    sections = [(0, 0, 0), (1, 64, len(info)), (10, 64 + len(info), len(names))]
    rows = [struct.pack("<IIQQQQIIQQ", title, 1, 0, 0, at, length, 0, 0, 1, 0) for title, at, length in sections]
    table = b"".join(rows)
    return header + body + table


def test_modinfo() -> None:
    data = module(b"depends=net_failover,failover", b"alias=virtio:d1v*", b"alias=x", b"license=GPL")
    assert kernel.modinfo(data, "m.ko")["depends"] == ["net_failover,failover"]
    assert kernel.modinfo(data, "m.ko")["alias"] == ["virtio:d1v*", "x"]


def test_modules_that_point_outside_themselves() -> None:
    good = module(b"depends=")
    for place in (0x28, 0x3A, 0x3C, 0x3E, len(good) - 64 + 24, len(good) - 128 + 32):
        bad = bytearray(good)
        bad[place : place + 2] = b"\xff\xff"
        with pytest.raises(VerificationFailed):
            kernel.modinfo(bytes(bad), "m.ko")
    for length in (0, 10, 63, len(good) - 1):
        with pytest.raises(VerificationFailed):
            kernel.modinfo(good[:length], "m.ko")


def test_modules_load_after_what_they_need() -> None:
    needs = {"virtio_net": ["net_failover", "failover"], "net_failover": ["failover"], "failover": [], "x": ["x"]}
    assert kernel.load_order(needs, ["virtio_net"]) == ["failover", "net_failover", "virtio_net"]
    with pytest.raises(BuildError, match="itself"):
        kernel.load_order(needs, ["x"])


def test_modules_are_taken_with_what_they_need() -> None:
    files = {
        "kernel/net/core/failover.ko.xz": module(b"depends="),
        "kernel/drivers/net/virtio-net.ko.xz": module(b"depends=failover", b"alias=virtio:d1v*"),
        "kernel/drivers/virtio/virtio_mmio.ko": module(b"depends="),
        "kernel/unused.ko": module(b"depends="),
        "modules.builtin": b"kernel/fs/fuse/fuse.ko\n",
    }
    description = kernel.describe("debian-stock")
    description = kernel.Description(**{**vars(description), "boot": ("virtio_mmio",), "ship": ("virtio_net",)})
    found = kernel.Kernel("6.1", b"", b"", [])
    kernel._take_modules(found, description, {path: memoryview(gzip.compress(data)) for path, data in files.items()})
    tree = Tree()
    found.install(tree)
    assert tree.read("/etc/vpod/modules") == b"/lib/modules/6.1/kernel/drivers/virtio/virtio_mmio.ko\n"
    assert tree.read("/lib/modules/6.1/modules.dep").decode().splitlines() == [
        "kernel/net/core/failover.ko:",
        "kernel/drivers/virtio/virtio_mmio.ko:",
        "kernel/drivers/net/virtio-net.ko: kernel/net/core/failover.ko",
    ]
    assert tree.read("/lib/modules/6.1/modules.alias") == b"alias virtio:d1v* virtio_net\n"
    assert "/lib/modules/6.1/kernel/unused.ko" not in tree


def test_a_kernel_description_that_does_not_exist() -> None:
    with pytest.raises(BuildError, match="debian-stock"):
        kernel.describe("../secret")


def test_no_registry_is_named_in_the_tree() -> None:
    """Mirrors come from the system's configuration: no host of a package registry stands in the builder."""
    hosts = re.compile(r"[a-z-]+\.debian\.(?:org|net)|\bpypi\.|pythonhosted\.|npmjs\.")
    for path in [*(ROOT / "builder").rglob("*"), *(ROOT / "kernels").rglob("*")]:
        if path.suffix in (".py", ".toml", ".md"):
            assert not hosts.findall(path.read_text(encoding="utf-8")), path


def test_rootfs_needs_a_shell(tmp_path: Path) -> None:
    from vpod_builder.rootfs import _unpack_tar

    path = tmp_path / "root.tar"
    path.write_bytes(tar_of(("etc/passwd", b"root")))
    assert sha256(path.read_bytes())
    with pytest.raises(BuildError, match="/bin/sh"):
        _unpack_tar(Tree(), path, "root.tar")
