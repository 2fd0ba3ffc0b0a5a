"""Archives: what is sound is read exactly, what is hostile is refused before any of it is used."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from builder_parts import ar_of, deb_of, folder, hardlink, symlink, tar_of
from hypothesis import given, settings
from hypothesis import strategies as st
from vpod_builder.deb import Deb
from vpod_builder.inflate import gzip_members, inflate
from vpod_builder.tar import Kind, entries
from vpod_builder.tree import Tree

from vpod.errors import BuildError, VerificationFailed

CONTROL = "Package: demo\nVersion: 1.0\nArchitecture: riscv64\nDescription: a demo\n of two lines\n"


def unpacked(*members: tuple[str, Any]) -> Tree:
    tree = Tree()
    tree.unpack(entries(tar_of(*members), name="demo.tar"), name="demo.tar")
    return tree


# --- decompression ---------------------------------------------------------------------------------------------------

PACKERS = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.compress, "plain": bytes}


@pytest.mark.parametrize("kind", PACKERS)
def test_what_was_packed_comes_out(kind: str) -> None:
    data = bytes(range(256)) * 9999
    assert inflate(PACKERS[kind](data), limit=len(data), name="a") == data


@pytest.mark.parametrize("kind", PACKERS)
def test_more_than_the_limit_is_refused(kind: str) -> None:
    with pytest.raises(VerificationFailed, match=r"bomb|more than"):
        inflate(PACKERS[kind](bytes(2_000_000)), limit=1_999_999, name="bomb.xz")


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd"])
def test_every_truncation_is_an_error(kind: str) -> None:
    packed = PACKERS[kind](b"some words, some more words, " * 40)
    for length in range(6, len(packed)):
        with pytest.raises(VerificationFailed):
            inflate(packed[:length], limit=1 << 20, name="short")


def test_concatenated_streams_are_one() -> None:
    for kind in ("gzip", "xz"):
        packed = PACKERS[kind](b"a" * 3_000_000) + PACKERS[kind](b"b")
        assert inflate(packed, limit=1 << 22, name="two") == b"a" * 3_000_000 + b"b"


def test_gzip_members_are_told_apart() -> None:
    first, second = gzip.compress(b"one"), gzip.compress(b"two" * 1_000_000)
    found = list(gzip_members(first + second, limit=1 << 22, name="m"))
    assert found == [(first, b"one"), (second, b"two" * 1_000_000)]


# --- tar -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes(form: int) -> None:
    long = "/".join(["d" * 45] * 4)
    archive = tar_of(
        ("./usr/", folder(0o2755)),
        (f"./{long}/file", b"x" * 1000),
        ("./usr/link", symlink("../somewhere")),
        ("./dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}),
        ("./usr/owned", {"mode": 0o4755, "uid": 42, "gid": 1000, "mtime": 1_700_000_000, "data": b"y"}),
        format=form,
    )
    found = {entry.path: entry for entry in entries(archive, name="a")}
    assert list(found) == ["usr", f"{long}/file", "usr/link", "dev/null", "usr/owned"]
    assert (found["usr"].kind, found["usr"].mode) == (Kind.DIRECTORY, 0o2755)
    assert bytes(found[f"{long}/file"].data) == b"x" * 1000
    assert found["usr/link"].target == "../somewhere"
    assert found["dev/null"].device == (1, 3)
    owned = found["usr/owned"]
    assert (owned.mode, owned.uid, owned.gid, owned.mtime, bytes(owned.data)) == (0o4755, 42, 1000, 1_700_000_000, b"y")


@pytest.mark.parametrize("path", ["../etc/passwd", "usr/../../x", "/etc/passwd", "a/" + "n" * 256])
def test_paths_that_lead_out_or_are_impossible(path: str) -> None:
    with pytest.raises(VerificationFailed, match="refused"):
        list(entries(tar_of((path, b"evil")), name="evil.tar"))


def test_hard_link_out_of_the_archive() -> None:
    for target in ("../../etc/shadow", "/etc/shadow"):
        with pytest.raises(VerificationFailed, match="refused"):
            list(entries(tar_of(("a", hardlink(target))), name="evil.tar"))


def test_every_truncation_of_an_archive_is_noticed() -> None:
    archive = tar_of(("a", b"1" * 600), ("b", b"2"))
    whole = len(archive.rstrip(b"\0")) // 512 * 512 + 512  # up to the end mark
    for length in range(0, whole, 64):
        with pytest.raises(VerificationFailed):
            list(entries(archive[:length], name="short.tar"))


def test_a_flipped_header_bit_is_noticed() -> None:
    archive = bytearray(tar_of(("a", b"data")))
    archive[101] ^= 1
    with pytest.raises(VerificationFailed, match="checksum"):
        list(entries(bytes(archive), name="bad.tar"))


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"-1\0" + bytes(9)])
def test_sizes_beyond_the_archive(size: bytes) -> None:
    archive = bytearray(tar_of(("a", b"data")))
    archive[124:136] = size
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    with pytest.raises(VerificationFailed):
        list(entries(bytes(archive), name="bad.tar"))


def test_sparse_and_unknown_members_are_refused() -> None:
    for kind in (tarfile.GNUTYPE_SPARSE, b"V"):
        archive = bytearray(tar_of(("a", b"data")))
        archive[156:157] = kind
        archive[148:156] = b" " * 8
        archive[148:156] = b"%06o\0 " % sum(archive[:512])
        with pytest.raises(VerificationFailed, match="refuses"):
            list(entries(bytes(archive), name="odd.tar"))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 1023))
def test_damage_anywhere_gives_entries_or_a_clear_error(noise: bytes, place: int) -> None:
    archive = bytearray(tar_of(("a", b"data"), ("p" * 150, b"more"), format=tarfile.PAX_FORMAT))
    archive[place : place + len(noise)] = noise
    try:
        for entry in entries(bytes(archive), name="noise.tar"):
            assert ".." not in entry.path.split("/") and not entry.path.startswith("/")
    except VerificationFailed:
        pass


# --- the tree --------------------------------------------------------------------------------------------------------


def test_symbolic_links_are_followed_inside_the_tree_only() -> None:
    tree = unpacked(("usr/bin/", folder()), ("bin", symlink("usr/bin")), ("up", symlink("../../../..")))
    tree.file("/bin/sh", b"shell")
    tree.file("/up/etc/passwd", b"root")
    assert tree.read("/usr/bin/sh") == b"shell"
    assert tree.read("/etc/passwd") == b"root"
    assert tree.read("/bin/../bin/sh") == b"shell"


def test_links_in_a_circle_are_an_error() -> None:
    tree = unpacked(("a", symlink("b")), ("b", symlink("a")))
    with pytest.raises(BuildError, match="circle"):
        tree.file("/a/x", b"")


def test_hard_links_share_one_file_and_need_their_target() -> None:
    tree = unpacked(("a", b"data"), ("b", hardlink("a")))
    assert tree.get("a") is tree.get("b")
    with pytest.raises(VerificationFailed, match="hard link"):
        unpacked(("b", hardlink("missing")))


@pytest.mark.parametrize(
    "members",
    [
        [("a", b"file"), ("a/b", b"below a file")],
        [("a/", folder()), ("a", symlink("/etc"))],
        [("a/", folder()), ("a", b"file over folder")],
        [("dir", symlink("file")), ("file", b"x"), ("dir/y", b"through a link to a file")],
    ],
)
def test_members_that_contradict_each_other(members: list[tuple[str, Any]]) -> None:
    with pytest.raises(VerificationFailed):
        unpacked(*members)


def test_a_folder_over_a_link_to_a_folder_keeps_the_link() -> None:
    tree = unpacked(("usr/lib/", folder()), ("lib", symlink("usr/lib")), ("lib/", folder()), ("lib/x", b"1"))
    assert tree.read("/usr/lib/x") == b"1"


def test_skipping_and_keeping() -> None:
    tree = Tree()
    archive = tar_of(("usr/share/doc/a/copyright", b"c"), ("usr/share/doc/a/changelog", b"l"), ("usr/bin/a", b"a"))
    listed = tree.unpack(
        entries(archive, name="a"), name="a", skip=["/usr/share/doc/*"], keep=["/usr/share/doc/*/copyright"]
    )
    assert "/usr/share/doc/a/copyright" in tree and "/usr/share/doc/a/changelog" not in tree and "/usr/bin/a" in tree
    assert "/usr/share/doc/a/changelog" in listed


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio, the oracle of this test, is not installed")
def test_cpio_is_what_cpio_reads(tmp_path: Path) -> None:
    tree = unpacked(("etc/", folder()), ("bin", symlink("usr/bin")), ("usr/bin/", folder()), ("usr/bin/sh", b"#!"))
    tree.file("/usr/bin/odd", b"abc", 0o4755, uid=7, gid=8, mtime=1_600_000_000)
    tree.unpack(entries(tar_of(("usr/bin/ash", hardlink("usr/bin/sh"))), name="l"), name="l")
    tree.device("/dev/console", Kind.CHARACTER, 5, 1)
    listing = subprocess.run(["cpio", "-tv", "--quiet"], input=tree.cpio(), capture_output=True, check=True)
    rows = {line.split(maxsplit=8)[-1]: line.split() for line in listing.stdout.decode().splitlines()}
    assert rows["usr/bin/odd"][:5] == ["-rwsr-xr-x", "1", "7", "8", "3"] or "odd" in rows["usr/bin/odd"][-1]
    assert rows["usr/bin/ash"][1] == "2" and rows["usr/bin/sh"][1] == "2"
    assert any(line.startswith("c") and "5,   1" in line for line in listing.stdout.decode().splitlines())
    subprocess.run(
        ["cpio", "-idm", "--quiet", "--no-absolute-filenames", "etc", "bin", "usr*"],
        input=tree.cpio(), cwd=tmp_path, check=True,
    )  # fmt: skip
    assert (tmp_path / "usr/bin/ash").read_bytes() == b"#!"
    assert (tmp_path / "usr/bin/sh").stat().st_ino == (tmp_path / "usr/bin/ash").stat().st_ino
    odd = (tmp_path / "usr/bin/odd").stat()
    assert stat.S_IMODE(odd.st_mode) & 0o755 == 0o755 and odd.st_mtime == 1_600_000_000
    assert (tmp_path / "bin").is_symlink()


def test_cpio_is_reproducible() -> None:
    one, other = Tree(), Tree()
    for tree, names in ((one, "abc"), (other, "cba")):
        for name in names:
            tree.file(f"/{name}", name.encode())
    assert one.cpio() == other.cpio()


# --- .deb ------------------------------------------------------------------------------------------------------------


def test_a_package_is_read() -> None:
    deb = Deb(deb_of(CONTROL, ("./usr/bin/demo", b"#!/bin/sh"), postinst="#!/bin/sh\ntrue\n"), name="demo.deb")
    assert deb.control["Version"] == "1.0" and deb.control["Description"] == "a demo\n of two lines"
    assert deb.text("postinst").startswith("#!")
    assert [entry.path for entry in deb.members()] == ["", "usr/bin/demo"]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb, the oracle of this test, is not installed")
def test_a_package_made_by_dpkg(tmp_path: Path) -> None:
    (tmp_path / "p/DEBIAN").mkdir(parents=True)
    (tmp_path / "p/DEBIAN/control").write_text(CONTROL + "Maintainer: nobody <n@example.invalid>\n")
    (tmp_path / "p/DEBIAN").chmod(0o755)
    (tmp_path / "p/usr").mkdir()
    (tmp_path / "p/usr/file").write_bytes(b"contents" * 1000)
    for kind in ("xz", "gzip", "zstd"):
        made = subprocess.run(["dpkg-deb", f"-Z{kind}", "-b", "p", "p.deb"], cwd=tmp_path, capture_output=True)
        if made.returncode and b"unknown compression" in made.stderr:
            continue
        deb = Deb((tmp_path / "p.deb").read_bytes(), name="p.deb")
        assert {entry.path: bytes(entry.data) for entry in deb.members()}["usr/file"] == b"contents" * 1000


def test_packages_that_are_none() -> None:
    good = deb_of(CONTROL)
    for bad in (b"", b"!<arch>\n", good[:100], good[:-600], ar_of(("debian-binary", b"3.0\n")), b"x" + good[1:]):
        with pytest.raises(VerificationFailed):
            list(Deb(bad, name="bad.deb").members())


def test_a_package_with_a_hostile_name() -> None:
    with pytest.raises(VerificationFailed, match="names no package"):
        Deb(deb_of("Package: ../../x\nVersion: 1\n"), name="evil.deb")


def test_a_package_that_escapes() -> None:
    deb = Deb(deb_of(CONTROL, ("./../../etc/cron.d/x", b"evil")), name="evil.deb")
    with pytest.raises(VerificationFailed, match="climbs out"):
        Tree().unpack(deb.members(), name=deb.name)


def test_a_bomb_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpod_builder.deb.MAX_DATA", 50 << 20)
    bomb = lzma.compress(bytes(1 << 20)) * 60
    parts = ("debian-binary", b"2.0\n"), ("control.tar.gz", _control()), ("data.tar.xz", bomb)
    deb = Deb(ar_of(*parts), name="bomb.deb")
    with pytest.raises(VerificationFailed, match="bomb"):
        list(deb.members())


def _control() -> bytes:
    buffer = io.BytesIO(gzip.compress(tar_of(("./control", CONTROL.encode()))))
    return buffer.getvalue()
