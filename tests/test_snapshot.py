"""The `.snap` format: what is written is what is read, and nothing else is ever believed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpod import snapshot
from vpod.errors import SnapshotDamaged, SnapshotError, SnapshotNotFound, SnapshotTooNew
from vpod.snapshot import PAGE, Frame, Header, Snapshot

MIB = 1 << 20
META = {"name": "test", "tag": "1", "nested": {"ä": [1, 2.5, None, True]}}
STATE = b"hart and devices"


def machine(pages: dict[int, bytes], size: int = 64 * MIB) -> memoryview:
    """RAM of `size` bytes, zero but for `pages`: page number → what the page begins with."""
    ram = bytearray(size)
    for number, content in pages.items():
        ram[number * PAGE : number * PAGE + len(content)] = content
    return memoryview(ram)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small snapshot: two frames, three pages."""
    path = tmp_path_factory.mktemp("small") / "small.snap"
    snapshot.write(path, META, STATE, machine({0: b"first", 1: b"second", 16000: b"far"}))
    return path.read_bytes()


def refused(path: Path, data: bytes, error: type[Exception] = SnapshotDamaged, match: str | None = None) -> None:
    """Asserts that `data` is not taken for a snapshot, neither when opened nor when expanded."""
    path.write_bytes(data)
    with pytest.raises(error, match=match), Snapshot(path) as snap:
        snap.expand(path.with_suffix(".ram"))
    assert os.listdir(path.parent) == [path.name]


# --- what is written is what is read ---------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    ram = machine({0: b"a", 5: os.urandom(PAGE), 255: b"b", 256: b"c", 700: os.urandom(PAGE), 16383: b"last"})
    name = snapshot.write(tmp_path / "x.snap", META, STATE, ram)
    with Snapshot(tmp_path / "x.snap") as snap:
        assert (snap.meta, snap.state, snap.ram_size) == (META, STATE, 64 * MIB)
        assert snap.id == name == snapshot.identity(tmp_path / "x.snap")
        assert snap.size == os.path.getsize(tmp_path / "x.snap")
        snap.verify()
        snap.expand(tmp_path / "x.ram")
    assert (tmp_path / "x.ram").read_bytes() == ram
    assert sorted(os.listdir(tmp_path)) == ["x.ram", "x.snap"]


def test_expanded_ram_is_read_only_and_its_zero_pages_are_holes(tmp_path: Path) -> None:
    snapshot.write(tmp_path / "x.snap", {}, b"", machine({1000: b"x", 1001: b"y"}))
    with Snapshot(tmp_path / "x.snap") as snap:
        snap.expand(tmp_path / "x.ram")
    status = os.stat(tmp_path / "x.ram")
    assert stat.S_IMODE(status.st_mode) == 0o400
    assert status.st_size == 64 * MIB and status.st_blocks * 512 <= MIB
    with open(tmp_path / "x.ram", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 1000 * PAGE
        assert os.lseek(file.fileno(), 1000 * PAGE, os.SEEK_HOLE) == 1002 * PAGE


def read_by_the_table(data: bytes) -> tuple[dict[str, Any], bytes, dict[int, bytes]]:
    """A second reader, written from the docstring's tables alone: metadata, state, and every page that is stored."""
    assert data[:8] == bytes.fromhex("8956504f440d0a1a")
    version, header_size, flags, _ram, meta_size, state_size, frames_size, count = struct.unpack_from(
        "<IIQQQQQQ", data, 8
    )
    assert (version, header_size, flags) == (1, 256, 0)
    meta = data[256 : 256 + meta_size]
    state = data[256 + meta_size :][:state_size]
    frames = data[256 + meta_size + state_size :][:frames_size]
    index = data[256 + meta_size + state_size + frames_size :]
    digests = [hashlib.sha256(part).digest() for part in (meta, state, index)]
    assert data[64:160] == b"".join(digests) and data[160:224] == bytes(64)
    assert data[224:256] == hashlib.sha256(data[:224]).digest()
    pages = {}
    for entry in range(count):
        number, size, bits, digest = struct.unpack_from("<II32s32s", index, 72 * entry)
        packed, frames = frames[:size], frames[size:]
        assert hashlib.sha256(packed).digest() == digest
        content = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        held = [page for page in range(256) if bits[page // 8] >> page % 8 & 1]
        assert len(content) == 4096 * len(held)
        for place, page in enumerate(held):
            pages[number * 256 + page] = content[4096 * place :][:4096]
    assert not frames
    return json.loads(meta), state, pages


def test_the_docstring_is_the_specification(small: bytes) -> None:
    meta, state, pages = read_by_the_table(small)
    assert (meta, state) == (META, STATE)
    assert {number: page.rstrip(b"\0") for number, page in pages.items()} == {0: b"first", 1: b"second", 16000: b"far"}


def test_the_same_machine_gives_the_same_bytes(tmp_path: Path, small: bytes) -> None:
    reordered = dict(reversed(META.items()))
    snapshot.write(tmp_path / "x.snap", reordered, STATE, machine({0: b"first", 1: b"second", 16000: b"far"}))
    assert (tmp_path / "x.snap").read_bytes() == small


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pages=st.dictionaries(st.integers(0, 16384 + 9), st.binary(min_size=1, max_size=40), max_size=40),
    state=st.binary(max_size=200),
    meta=st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.integers() | st.text(st.characters(codec="utf-8")) | st.none()
    ),
)
def test_any_machine_round_trips(tmp_path: Path, pages: dict[int, bytes], state: bytes, meta: dict[str, Any]) -> None:
    ram = machine(pages, 64 * MIB + 10 * PAGE)
    snapshot.write(tmp_path / "x.snap", meta, state, ram, level=1)
    with Snapshot(tmp_path / "x.snap") as snap:
        assert (snap.meta, snap.state, snap.ram_size) == (meta, state, len(ram))
        snap.expand(tmp_path / "x.ram")
    assert (tmp_path / "x.ram").read_bytes() == ram


def test_keys_that_are_numbers_become_text_in_canonical_order(tmp_path: Path) -> None:
    snapshot.write(tmp_path / "x.snap", {"slots": {2: "b", 10: "j"}}, b"", machine({}))
    with Snapshot(tmp_path / "x.snap") as snap:
        assert snap.meta == {"slots": {"2": "b", "10": "j"}}


def test_progress_rises_to_the_total(tmp_path: Path, small: bytes) -> None:
    heard: list[tuple[int, int]] = []
    ram = machine({n * 256: b"x" for n in range(20)})
    snapshot.write(tmp_path / "x.snap", {}, b"", ram, lambda done, total: heard.append((done, total)))
    assert heard == sorted(heard) and heard[-1] == (64 * MIB, 64 * MIB)
    for use in (Snapshot.verify, lambda snap, progress: snap.expand(tmp_path / "x.ram", progress)):
        heard.clear()
        with Snapshot(tmp_path / "x.snap") as snap:
            use(snap, lambda done, total: heard.append((done, total)))
        assert len(heard) == 20 and heard == sorted(heard) and heard[-1][0] == heard[-1][1]


@pytest.mark.parametrize("size", [0, PAGE, 64 * MIB - PAGE, 64 * MIB + 1])
def test_ram_of_impossible_size_is_not_written(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="RAM"):
        snapshot.write(tmp_path / "x.snap", {}, b"", memoryview(bytearray(size)))
    assert not os.listdir(tmp_path)


def test_metadata_and_state_have_limits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metadata"):
        snapshot.write(tmp_path / "x.snap", {"long": "x" * MIB}, b"", machine({}))
    with pytest.raises(ValueError, match="state"):
        snapshot.write(tmp_path / "x.snap", {}, bytes(16 * MIB + 1), machine({}))
    with pytest.raises(ValueError, match="JSON"):
        snapshot.write(tmp_path / "x.snap", {"x": float("nan")}, b"", machine({}))
    assert not os.listdir(tmp_path)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "x.snap"
    for place in range(len(small)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(small)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            with pytest.raises(SnapshotDamaged), Snapshot(path) as snap:
                snap.verify()


def test_a_flipped_frame_is_noticed_before_its_pages_are_used(tmp_path: Path, small: bytes) -> None:
    header = Header._make(snapshot.HEADER.unpack_from(small))
    frames = snapshot.HEADER.size + header.meta_size + header.state_size
    refused(tmp_path / "x.snap", small[: frames + 20] + b"!" + small[frames + 21 :], match="frame 0")


def test_every_truncation_is_noticed(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "x.snap"
    for length in range(len(small)):
        path.write_bytes(small[:length])
        with pytest.raises(SnapshotDamaged):
            Snapshot(path)


@pytest.mark.parametrize("garbage", [b"\0", b"x" * 5000])
def test_trailing_garbage_is_refused(tmp_path: Path, small: bytes, garbage: bytes) -> None:
    refused(tmp_path / "x.snap", small + garbage, match="bytes and should have")


def test_a_file_that_shrinks_while_open_is_noticed(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "x.snap"
    path.write_bytes(small)
    with Snapshot(path) as snap:
        os.truncate(path, 350)
        with pytest.raises(SnapshotDamaged, match="ends within"):
            snap.expand(tmp_path / "x.ram")
    assert os.listdir(tmp_path) == ["x.snap"]


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    refused(tmp_path / "x.snap", b"", match="not a vpod snapshot")
    refused(tmp_path / "x.snap", b"#!/bin/sh\n" * 100, match="not a vpod snapshot")
    with pytest.raises(SnapshotNotFound, match=r"none\.snap"):
        Snapshot(tmp_path / "none.snap")
    with pytest.raises(SnapshotDamaged, match="regular"):
        Snapshot(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SnapshotDamaged, match="regular"):
        Snapshot(tmp_path / "fifo")


# --- hostile files: the digests are right, the contents are not -------------------------------------------------------


def forged(
    small: bytes,
    change: Callable[[Header], Header] = lambda header: header,
    *,
    meta: bytes | None = None,
    index: Callable[[list[Frame]], list[Frame]] | None = None,
    frames: list[bytes] | None = None,
) -> bytes:
    """`small` with parts replaced and every digest made right again; `change` has the last word on the header."""
    header = Header._make(snapshot.HEADER.unpack_from(small))
    at_state = snapshot.HEADER.size + header.meta_size
    at_frames = at_state + header.state_size
    at_index = at_frames + header.frames_size
    metadata = small[snapshot.HEADER.size : at_state] if meta is None else meta
    packed = small[at_frames:at_index]
    entries = [
        Frame(number, size, int.from_bytes(bits, "little"), digest, 0)
        for number, size, bits, digest in snapshot.ENTRY.iter_unpack(small[at_index:])
    ]
    if frames is not None:
        packed = b"".join(frames)
        entries = [
            entry._replace(size=len(frame), digest=hashlib.sha256(frame).digest())
            for entry, frame in zip(entries, frames, strict=True)
        ]
    if index is not None:
        entries = index(entries)
    table = b"".join(
        snapshot.ENTRY.pack(entry.number, entry.size, entry.pages.to_bytes(32, "little"), entry.digest)
        for entry in entries
    )
    header = header._replace(
        meta_size=len(metadata),
        meta_digest=hashlib.sha256(metadata).digest(),
        frames_size=len(packed),
        frame_count=len(entries),
        index_digest=hashlib.sha256(table).digest(),
    )
    return change(header).pack() + metadata + small[at_state:at_frames] + packed + table


def original_frames(small: bytes) -> list[bytes]:
    pages = read_by_the_table(small)[2]
    compress = zstandard.ZstdCompressor().compress
    return [compress(pages[0] + pages[1]), compress(pages[16000])]


def test_forging_alone_is_not_refused(tmp_path: Path, small: bytes) -> None:
    assert forged(small) == small
    (tmp_path / "x.snap").write_bytes(forged(small, frames=original_frames(small)))
    with Snapshot(tmp_path / "x.snap") as snap:
        snap.expand(tmp_path / "x.ram")
    assert (tmp_path / "x.ram").read_bytes() == machine({0: b"first", 1: b"second", 16000: b"far"})


HUGE = [2**32, 2**40, 2**63, 2**64 - 1]


@pytest.mark.parametrize(
    "fields",
    [{"ram_size": size} for size in (0, PAGE, 64 * MIB - PAGE, 64 * MIB + 1, 4096 * MIB + PAGE, *HUGE[1:])]
    + [{field: size} for field in ("meta_size", "state_size", "frames_size", "frame_count") for size in (*HUGE, 70000)]
    + [{"frame_count": 0}, {"frames_size": 0}, {"frame_count": 1}, {"frame_count": 3}]
    + [{"meta_size": 2**64 - 100, "state_size": 356}, {"frames_size": 1, "frame_count": 2}]
    + [{"parent": b"p" * 32}, {"reserved": b"\1" + bytes(31)}, {"header_size": 224}, {"version": 0}],
    ids=str,
)
def test_a_header_that_does_not_hold_together(tmp_path: Path, small: bytes, fields: dict[str, Any]) -> None:
    tracemalloc.start()
    try:
        refused(tmp_path / "x.snap", forged(small, lambda header: header._replace(**fields)))
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["meta_size", "state_size", "frames_size"])
def test_sizes_are_limited_even_in_a_file_that_large(tmp_path: Path, small: bytes, field: str) -> None:
    path = tmp_path / "x.snap"
    header = Header._make(snapshot.HEADER.unpack_from(small))._replace(**cast("dict[str, Any]", {field: 1 << 30}))
    path.write_bytes(header.pack())
    os.truncate(path, header.file_size)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotDamaged, match="does not hold together"):
            Snapshot(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def test_a_newer_format_and_a_delta_are_told_from_damage(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "x.snap"
    refused(path, forged(small, lambda header: header._replace(version=2)), SnapshotTooNew, "format 2.*newer vpod")
    delta = forged(small, lambda header: header._replace(flags=1, parent=b"p" * 32))
    refused(path, delta, SnapshotTooNew, "is a delta")
    refused(path, forged(small, lambda header: header._replace(flags=4)), SnapshotTooNew, "features 0x4")
    longer = bytearray(small[:224] + bytes(256))  # a newer version may have a longer header
    struct.pack_into("<II", longer, 8, 9, 512)
    refused(path, bytes(longer) + hashlib.sha256(longer).digest() + b"whatever", SnapshotTooNew, "format 9")


def first(**fields: Any) -> Callable[[list[Frame]], list[Frame]]:
    return lambda entries: [entries[0]._replace(**fields), *entries[1:]]


def last(**fields: Any) -> Callable[[list[Frame]], list[Frame]]:
    return lambda entries: [*entries[:-1], entries[-1]._replace(**fields)]


INDEXES: dict[str, Callable[[list[Frame]], list[Frame]]] = {
    "descending": lambda entries: entries[::-1],
    "twice": lambda entries: [entries[0], entries[0]],
    "one left out": lambda entries: entries[:1],
    "one too many": lambda entries: [*entries, entries[-1]._replace(number=63)],
    "first outside RAM": first(number=64),
    "last outside RAM": last(number=64),
    "far outside RAM": last(number=2**32 - 1),
    "no pages": first(pages=0),
    "no bytes": first(size=0),
    "short": first(size=1),
    "huge": first(size=2**32 - 1),
    "last short": last(size=1),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_an_index_that_does_not_hold_together(
    tmp_path: Path, small: bytes, index: Callable[[list[Frame]], list[Frame]]
) -> None:
    refused(tmp_path / "x.snap", forged(small, index=index))


def test_frames_out_of_order_are_refused_even_when_each_is_good(tmp_path: Path, small: bytes) -> None:
    two, far = original_frames(small)

    def swapped(entries: list[Frame]) -> list[Frame]:
        return [entry._replace(number=e.number, pages=e.pages) for entry, e in zip(entries, entries[::-1], strict=True)]

    def doubled(entries: list[Frame]) -> list[Frame]:
        return [entry._replace(number=entries[0].number, pages=entries[0].pages) for entry in entries]

    refused(tmp_path / "x.snap", forged(small, frames=[far, two], index=swapped), match="out of order")
    refused(tmp_path / "x.snap", forged(small, frames=[two, two], index=doubled), match="out of order")


def test_pages_beyond_the_end_of_ram_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.snap"
    snapshot.write(path, {}, b"", machine({0: b"x", 16384 + 2: b"last"}, 64 * MIB + 3 * PAGE))
    refused(path, forged(path.read_bytes(), index=last(pages=0b1001)), match="outside RAM")


def content(size: int) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(bytes(size))


def streamed(size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(bytes(size)) + compressor.flush()


ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, "Zstandard Frames": magic, descriptor, content size, blocks
RUN_OF_TWO_PAGES = struct.pack("<I", 2 * PAGE << 3 | 2)[:3] + b"x"  # a block: not the last, RLE, size; the byte
FRAMES = {
    "too little": content(PAGE),
    "too much": content(3 * PAGE),
    "a bomb": content(200 * MIB),
    "nothing": content(0),
    "size not declared": streamed(2 * PAGE),
    "a bomb, not declared": streamed(200 * MIB),
    "a terabyte declared": ZSTD + b"\xe0" + struct.pack("<Q", 1 << 40) + b"\x01\x00\x00",
    "more there than declared": ZSTD + b"\xa0" + struct.pack("<I", 2 * PAGE) + RUN_OF_TWO_PAGES * 3 + b"\x01\x00\x00",
    "cut off": content(2 * PAGE)[:-1],
    "a byte more": content(2 * PAGE) + b"\0",
    "two frames": content(2 * PAGE) * 2,
    "not zstd": b"not zstd",
    "only the magic": ZSTD,
    "skippable": b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_must_expand_to_exactly_its_pages(tmp_path: Path, small: bytes, frame: bytes) -> None:
    far = original_frames(small)[1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "x.snap", forged(small, frames=[frame, far]), match="frame 0")
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 40 * MIB


METADATA = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "cut off": b"{",
    "spaces": b'{"a": 1}',
    "unsorted": b'{"b":1,"a":2}',
    "a key twice": b'{"a":1,"a":1}',
    "NaN": b'{"a":NaN}',
    "infinity": b'{"a":Infinity}',
    "beyond floats": b'{"a":1e999}',
    "another way to write a number": b'{"a":1E5}',
    "escapes": b'{"a":"\\u00e4"}',
    "half a surrogate pair": b'{"a":"\\ud800"}',
    "not UTF-8": b'{"a":"\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "trailing space": b"{} ",
    "deep": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a long number": b'{"a":' + b"1" * 9000 + b"}",
}


@pytest.mark.parametrize("meta", METADATA.values(), ids=METADATA.keys())
def test_metadata_must_be_canonical(tmp_path: Path, small: bytes, meta: bytes) -> None:
    refused(tmp_path / "x.snap", forged(small, meta=meta), match="canonical")


number = st.sampled_from([0, 1, 2, PAGE, 64 * MIB, *HUGE]) | st.integers(0, 2**64 - 1)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "version": st.integers(0, 2**32 - 1),
            "header_size": st.integers(0, 2**32 - 1) | st.sampled_from([224, 255, 256, 257]),
            "flags": number,
            "ram_size": number | st.integers(0, 2**20).map(lambda pages: pages * PAGE),
            "meta_size": number,
            "state_size": number,
            "frames_size": number,
            "frame_count": number,
            "parent": st.sampled_from([bytes(32), b"p" * 32]),
            "reserved": st.sampled_from([bytes(32), b"r" * 32]),
        },
    )
)
def test_a_forged_header_is_refused_or_tells_the_truth(tmp_path: Path, small: bytes, fields: dict[str, Any]) -> None:
    path = tmp_path / "x.snap"
    path.write_bytes(forged(small, lambda header: header._replace(**fields)))
    try:
        with Snapshot(path) as snap:
            assert (snap.meta, snap.state) == (META, STATE)
            snap.verify()
            assert snap.ram_size == fields.get("ram_size", 64 * MIB)
    except SnapshotError:
        assert fields


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=5)
)
def test_a_mangled_file_is_refused_or_unchanged(
    tmp_path: Path, small: bytes, cuts: list[tuple[int, int, bytes]]
) -> None:
    mangled = small
    for place, length, put in cuts:
        mangled = mangled[:place] + put + mangled[place + length :]
    path = tmp_path / "x.snap"
    path.write_bytes(mangled)
    try:
        with Snapshot(path) as snap:
            snap.verify()
    except SnapshotError:
        return
    assert mangled == small


# --- full disks, several processes, kills -----------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs Linux and root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, tiny_disk: Path) -> None:
    noise = machine({n: os.urandom(PAGE) for n in range(1000)})
    with pytest.raises(SnapshotError, match=r"x\.snap: cannot be written .No space left.*make room"):
        snapshot.write(tiny_disk / "x.snap", {}, b"", noise)
    assert not os.listdir(tiny_disk)
    snapshot.write(tmp_path / "x.snap", {}, b"", noise)
    with Snapshot(tmp_path / "x.snap") as snap, pytest.raises(SnapshotError, match=r"x\.ram: cannot be written"):
        snap.expand(tiny_disk / "x.ram")
    assert not os.listdir(tiny_disk)


def _expand_with_a_file_size_limit(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
    with Snapshot(path) as snap:
        try:
            snap.expand(path + ".ram")
        except SnapshotError as error:
            sys.exit(0 if "cannot be written" in str(error) else 1)
    sys.exit(2)


def test_a_limit_on_file_sizes_is_named_and_nothing_is_left(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "x.snap").write_bytes(small)
    process = multiprocessing.get_context("spawn").Process(
        target=_expand_with_a_file_size_limit, args=(str(tmp_path / "x.snap"),)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert os.listdir(tmp_path) == ["x.snap"]


def _expand_and_compare(path: str, ram_path: str, turns: int) -> None:
    for _ in range(turns):
        with Snapshot(path) as snap:
            snap.expand(ram_path)
        digest = hashlib.sha256(Path(ram_path).read_bytes()).hexdigest()
        assert digest == snap.meta["ram"], "half a file was seen"


def test_two_processes_expand_at_once(tmp_path: Path) -> None:
    ram = machine({n: b"%d" % n for n in range(0, 16384, 7)})
    path = str(tmp_path / "x.snap")
    snapshot.write(path, {"ram": hashlib.sha256(ram).hexdigest()}, b"", ram)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_expand_and_compare, args=(path, path + ".ram", 3)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["x.snap", "x.snap.ram"]


SLOW = """
import sys, time
from vpod.snapshot import Snapshot
def slowly(done, total):
    print(done, flush=True)
    time.sleep(60)
with Snapshot(sys.argv[1]) as snap:
    snap.expand(sys.argv[2], slowly)
"""


def test_a_kill_in_the_middle_leaves_no_ram_file(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "x.snap").write_bytes(small)
    command = [sys.executable, "-c", SLOW, str(tmp_path / "x.snap"), str(tmp_path / "x.ram")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "x.ram").exists()
    with Snapshot(tmp_path / "x.snap") as snap:
        snap.expand(tmp_path / "x.ram")
    assert sorted(os.listdir(tmp_path)) == ["x.ram", "x.snap"]


def test_an_exception_from_progress_stops_and_leaves_nothing(tmp_path: Path, small: bytes) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "x.snap").write_bytes(small)
    with Snapshot(tmp_path / "x.snap") as snap, pytest.raises(KeyboardInterrupt):
        snap.expand(tmp_path / "x.ram", stop)
    with pytest.raises(KeyboardInterrupt):
        snapshot.write(tmp_path / "y.snap", {}, b"", machine({}), stop)
    assert os.listdir(tmp_path) == ["x.snap"]


def test_opening_is_quick_and_imports_nothing_heavy(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "x.snap").write_bytes(small)
    code = (
        "import sys; from vpod.snapshot import Snapshot; Snapshot(sys.argv[1]).close();"
        "print([m for m in ('zstandard', 'concurrent.futures', 'rich', 'urllib.request', 'platformdirs', 'dataclasses')"
        " if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code, tmp_path / "x.snap"]) == b"[]\n"
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        Snapshot(tmp_path / "x.snap").close()
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.002
