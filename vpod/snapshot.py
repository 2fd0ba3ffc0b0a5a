"""The `.snap` format: a frozen machine in one file that is believed only as far as its digests go.

    ┌────────┬──────────┬───────┬─────────┬─────────┬───┬─────────┬───────┐
    │ header │ metadata │ state │ frame 0 │ frame 1 │ … │ frame n │ index │
    └────────┴──────────┴───────┴─────────┴─────────┴───┴─────────┴───────┘
      256 B    JSON       opaque  zstd, each by itself              72 B a frame

The sections follow one another without gaps and the file ends with the last: there are no offsets that could overlap,
and a byte more or less is damage. Numbers are unsigned and little endian; digests are SHA-256.

    header                                                        index, one entry a frame
    offset  size                                                  offset  size
         0     8  magic: 89 56 50 4f 44 0d 0a 1a                       0     4  frame number, ascending
         8     4  format version: 1                                    4     4  size of the compressed frame
        12     4  size of the header: 256                              8    32  which of its 256 pages it holds,
        16     8  flags: 1 = delta; all others 0                                page p as bit p % 8 of byte p / 8
        24     8  size of RAM: 64 MiB to 4 GiB, whole pages           40    32  digest of the compressed frame
        32     8  size of the metadata, at most 1 MiB
        40     8  size of the state, at most 16 MiB               frame n covers RAM from n MiB on: its pages of
        48     8  size of all frames together                     4 KiB in ascending order, compressed as one zstd
        56     8  number of frames                                frame that declares its size, without dictionary.
        64    32  digest of the metadata                          A page that no frame holds is zero; a frame without
        96    32  digest of the state                             pages is not in the file.
       128    32  digest of the index
       160    32  identity of the parent, or zeros                The metadata is one JSON object in canonical form:
       192    32  zeros                                           UTF-8, keys sorted, no spaces, no NaN. The state is
       224    32  digest of the 224 bytes before: the identity    what `Machine.save()` gave.

*The identity* covers the header, the header has the digests of metadata, state and index, and the index those of the
frames; so every bit of the file is covered, the identity names the whole machine, and each part is verified before it
is used. Magic, version, header size and the digest in the header's last 32 bytes stay where they are in all versions:
that tells a newer file from a damaged one. *A delta* (flag 1, with the identity of its parent, its pages replacing the
parent's, zero pages among them) is reserved: this version writes none and refuses them.

Invariants: every size and count is checked before anything of that size is allocated; a frame is read once, verified,
and expanded from the same bytes, into exactly the size its pages need; files appear whole or not at all.

>>> ram = memoryview(bytearray(64 << 20))
>>> name = write("/tmp/empty.snap", {"name": "empty"}, b"state", ram)
>>> with Snapshot("/tmp/empty.snap") as snap: snap.meta, snap.state, snap.ram_size, snap.id == name
({'name': 'empty'}, b'state', 67108864, True)
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from vpod import paths
from vpod.errors import SnapshotDamaged, SnapshotError, SnapshotNotFound, SnapshotTooNew

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Self

    StrPath = str | os.PathLike[str]
    Progress = Callable[[int, int], None]  # bytes done, bytes in all

__all__ = ["MAX_RAM", "MIN_RAM", "PAGE", "Snapshot", "identity", "write"]

PAGE = 4096
FRAME_PAGES = 256
FRAME = FRAME_PAGES * PAGE
MIN_RAM = 64 << 20
MAX_RAM = 4 << 30
MAX_META = 1 << 20
MAX_STATE = 16 << 20
MAX_COMPRESSED = FRAME + (FRAME >> 7)  # above ZSTD_compressBound(FRAME)

MAGIC = b"\x89VPOD\r\n\x1a"
VERSION = 1
DELTA = 1
HEADER = struct.Struct("<8sIIQQQQQQ32s32s32s32s32s32s")
PREFIX = struct.Struct("<8sII")  # the same in every version
MAX_HEADER = 4096
ENTRY = struct.Struct("<II32s32s")
ZERO_PAGE = bytes(PAGE)
ZERO_FRAME = bytes(FRAME)
NO_DIGEST = bytes(32)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Header(NamedTuple):
    """The header's fields, in their order; see the table above."""

    magic: bytes
    version: int
    header_size: int
    flags: int
    ram_size: int
    meta_size: int
    state_size: int
    frames_size: int
    frame_count: int
    meta_digest: bytes
    state_digest: bytes
    index_digest: bytes
    parent: bytes
    reserved: bytes
    digest: bytes

    def pack(self) -> bytes:
        """The header's 256 bytes, with their digest made anew."""
        covered = HEADER.pack(*self)[:-32]
        return covered + _sha256(covered)

    @property
    def file_size(self) -> int:
        """The size that the whole file must have, in bytes."""
        sections = self.meta_size + self.state_size + self.frames_size
        return HEADER.size + sections + self.frame_count * ENTRY.size


class Frame(NamedTuple):
    """One entry of the index, and where in the file its frame begins."""

    number: int
    size: int
    pages: int  # bit p: page p is in the frame
    digest: bytes
    offset: int

    @property
    def expanded_size(self) -> int:
        """Bytes of RAM that the frame holds."""
        return bin(self.pages).count("1") * PAGE


# --- writing ---------------------------------------------------------------------------------------------------------


def write(
    path: StrPath,
    meta: dict[str, Any],
    state: bytes,
    ram: memoryview,
    progress: Progress | None = None,
    *,
    level: int = 9,
) -> str:
    """Freezes a machine into the file `path`, which appears whole or not at all; returns its identity, 64 hex digits.

    `meta` is anything JSON can say; `state` at most 16 MiB; `ram` the guest's memory, 64 MiB to 4 GiB in whole pages,
    unchanged while this runs. `progress` hears of bytes of RAM. `level` is zstd's: 9 packs some 50 MB/s a core, 3 some
    300 MB/s into a file a tenth larger; reading is equally fast.

    Raises `ValueError` for what no snapshot can hold, `SnapshotError` when the disk is full, `OSError` otherwise.
    """
    encoded = _encode_meta(meta)
    ram = ram.cast("B")
    if len(encoded) > MAX_META or len(state) > MAX_STATE:
        raise ValueError(f"metadata of {len(encoded)} or state of {len(state)} bytes is more than a snapshot holds")
    if not _is_ram_size(len(ram)):
        raise ValueError(f"RAM of {len(ram)} bytes: a snapshot's is 64 MiB to 4 GiB, in whole pages of 4 KiB")
    with disk_full_named(path), paths.writing(path) as file:
        file.write(bytes(HEADER.size) + encoded + state)
        index = []
        frames_size = 0
        for number, pages, packed in _compressed(ram, level):
            if pages:
                file.write(packed)
                frames_size += len(packed)
                index.append(ENTRY.pack(number, len(packed), pages.to_bytes(32, "little"), _sha256(packed)))
            if progress:
                progress(min((number + 1) * FRAME, len(ram)), len(ram))
        joined = b"".join(index)
        file.write(joined)
        header = Header(
            magic=MAGIC,
            version=VERSION,
            header_size=HEADER.size,
            flags=0,
            ram_size=len(ram),
            meta_size=len(encoded),
            state_size=len(state),
            frames_size=frames_size,
            frame_count=len(index),
            meta_digest=_sha256(encoded),
            state_digest=_sha256(state),
            index_digest=_sha256(joined),
            parent=NO_DIGEST,
            reserved=NO_DIGEST,
            digest=NO_DIGEST,
        ).pack()
        file.seek(0)
        file.write(header)
    return header[-32:].hex()


def _compressed(ram: memoryview, level: int) -> Iterator[tuple[int, int, bytes]]:
    """Number, page map and compressed pages of every frame of `ram`, in order; those without pages are empty."""
    import zstandard

    class Compressor(threading.local):
        def __init__(self) -> None:
            self.compress = zstandard.ZstdCompressor(level=level, write_content_size=True).compress

    compressor = Compressor()

    def compressed(number: int) -> tuple[int, int, bytes]:
        pages, packed = _packed(bytes(ram[number * FRAME : (number + 1) * FRAME]))
        return number, pages, compressor.compress(packed) if pages else b""

    return _in_threads(compressed, range(-(-len(ram) // FRAME)))


def _packed(frame: bytes) -> tuple[int, bytes]:
    """The map of the pages of `frame` that are not zero, and those pages."""
    if frame == ZERO_FRAME[: len(frame)]:
        return 0, b""
    pages = 0
    kept = []
    for number in range(len(frame) // PAGE):
        page = frame[number * PAGE : (number + 1) * PAGE]
        if page != ZERO_PAGE:
            pages |= 1 << number
            kept.append(page)
    return pages, b"".join(kept)


# --- reading ---------------------------------------------------------------------------------------------------------


class Snapshot:
    """A `.snap` file, open for reading: its metadata, its state and its RAM.

    Opening verifies all but the frames, which `verify()` and `expand()` check. Attributes: `path`; `id`, the identity
    in 64 hex digits; `meta`; `state`; `ram_size` and `size` (of the file), in bytes.

    Raises `SnapshotNotFound`; `SnapshotDamaged` for what is not a whole, undamaged snapshot; `SnapshotTooNew` for a
    newer format and for deltas; `OSError` when the file cannot be read.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = os.fspath(path)
        self._fd, self.size = _open_regular(self.path)
        try:
            header = _read_header(self.path, self._fd)
            if header.file_size != self.size:
                raise _damaged(self.path, f"it has {self.size} bytes and should have {header.file_size}")
            self.id = header.digest.hex()
            self.ram_size = header.ram_size
            self.meta = _decode_meta(
                self.path, self._section("metadata", HEADER.size, header.meta_size, header.meta_digest)
            )
            after_meta = HEADER.size + header.meta_size
            self.state = self._section("state", after_meta, header.state_size, header.state_digest)
            self._frames = self._read_index(header, after_meta + header.state_size)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def close(self) -> None:
        """Closes the file; `meta` and `state` stay."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def verify(self, progress: Progress | None = None) -> None:
        """Checks and expands every frame without keeping it; `progress` hears of compressed bytes.

        After this every bit of the file is known to be good. Raises `SnapshotDamaged`.
        """
        self._each_frame(lambda frame, pages: None, progress)

    def expand(self, ram_path: StrPath, progress: Progress | None = None) -> None:
        """Writes the machine's RAM to `ram_path`: a sparse, read-only file of `ram_size` bytes, ready to be mapped.

        Every frame is verified first; the file appears whole or not at all, and zero pages are holes in it. `progress`
        hears of compressed bytes. Several processes may expand to the same path at once.

        Raises `SnapshotDamaged`; `SnapshotError` when the disk is full; `OSError`.
        """
        with disk_full_named(ram_path), paths.writing(ram_path, mode=0o400) as file:
            fd = file.fileno()
            os.ftruncate(fd, self.ram_size)
            self._each_frame(lambda frame, pages: _write_pages(fd, frame, pages), progress)

    def _section(self, name: str, offset: int, size: int, digest: bytes) -> bytes:
        data = _read(self.path, self._fd, offset, size)
        if _sha256(data) != digest:
            raise _damaged(self.path, f"the digest of its {name} is wrong")
        return data

    def _read_index(self, header: Header, offset: int) -> list[Frame]:
        """The index, checked: frames ascending and inside RAM, their sizes adding up to what the header says."""
        entries = self._section(
            "index", offset + header.frames_size, header.frame_count * ENTRY.size, header.index_digest
        )
        end = offset + header.frames_size
        frames: list[Frame] = []
        last = -1
        for number, size, bits, digest in ENTRY.iter_unpack(entries):
            pages = int.from_bytes(bits, "little")
            room = min(FRAME, header.ram_size - number * FRAME) // PAGE
            if number <= last or room <= 0 or not 0 < pages < 1 << room:
                raise _damaged(self.path, f"entry {len(frames)} of its index names pages out of order or outside RAM")
            if not 0 < size <= min(MAX_COMPRESSED, end - offset):
                raise _damaged(self.path, f"frame {number} has the impossible size of {size} bytes")
            frames.append(Frame(number, size, pages, digest, offset))
            last = number
            offset += size
        if offset != end:
            raise _damaged(self.path, f"its frames are {end - offset} bytes short of what the header says")
        return frames

    def _each_frame(self, use: Callable[[Frame, bytes], None], progress: Progress | None) -> None:
        """Calls `use(frame, pages)`, from several threads, with every frame's verified and expanded pages."""
        import zstandard

        class Decompressor(threading.local):
            def __init__(self) -> None:
                self.decompress = zstandard.ZstdDecompressor(max_window_size=FRAME).decompress

        decompressor = Decompressor()

        def used(frame: Frame) -> int:
            packed = _read(self.path, self._fd, frame.offset, frame.size)
            if _sha256(packed) != frame.digest:
                raise _damaged(self.path, f"the digest of frame {frame.number} is wrong")
            try:
                # The size that a frame declares is allocated at once, so it is looked at first.
                if zstandard.frame_content_size(packed) != frame.expanded_size:
                    raise _damaged(self.path, f"frame {frame.number} does not have the size of its pages")
                pages = decompressor.decompress(packed, allow_extra_data=False)
            except zstandard.ZstdError as error:
                raise _damaged(self.path, f"frame {frame.number} does not expand ({error})") from None
            use(frame, pages)
            return frame.size

        total = sum(frame.size for frame in self._frames)
        done = 0
        for size in _in_threads(used, self._frames):
            done += size
            if progress:
                progress(done, total)


def identity(path: StrPath) -> str:
    """The identity of the snapshot `path`, 64 hex digits; reads and verifies its header. Raises as `Snapshot`."""
    path = os.fspath(path)
    fd, _ = _open_regular(path)
    try:
        return _read_header(path, fd).digest.hex()
    finally:
        os.close(fd)


def _read_header(path: str, fd: int) -> Header:
    """The header, verified; every size in it is within its bounds."""
    start = os.pread(fd, MAX_HEADER, 0)
    if len(start) < HEADER.size or not start.startswith(MAGIC):
        raise _damaged(path, "it is not a vpod snapshot, or only the beginning of one")
    _, version, size = PREFIX.unpack_from(start)
    if not HEADER.size <= size <= len(start) or _sha256(start[: size - 32]) != start[size - 32 : size]:
        raise _damaged(path, "the digest of its header is wrong")
    if version > VERSION:
        raise SnapshotTooNew(f"{path}: is in format {version}, this vpod reads up to {VERSION}; install a newer vpod")
    if version != VERSION or size != HEADER.size:
        raise _damaged(path, f"no vpod wrote a format {version} with a header of {size} bytes")
    header = Header._make(HEADER.unpack_from(start))
    if header.flags:
        kind = "a delta" if header.flags == DELTA else f"made with features {header.flags:#x}"
        raise SnapshotTooNew(f"{path}: is {kind}, which this vpod does not read; install a newer vpod")
    sizes = (
        _is_ram_size(header.ram_size)
        and header.meta_size <= MAX_META
        and header.state_size <= MAX_STATE
        and header.frame_count <= -(-header.ram_size // FRAME)
        and header.frame_count <= header.frames_size <= header.frame_count * MAX_COMPRESSED
    )
    if not sizes or header.parent != NO_DIGEST or header.reserved != NO_DIGEST:
        raise _damaged(path, "its header does not hold together")
    return header


def _open_regular(path: str) -> tuple[int, int]:
    """A descriptor of the regular file `path`, and its size; never waits, as opening a FIFO would."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotNotFound(f"{path}: there is no such file; `vpod list` shows what there is") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise _damaged(path, "it is not even a regular file")
    return fd, status.st_size


def _read(path: str, fd: int, offset: int, size: int) -> bytes:
    """Exactly `size` bytes from `offset`; the caller has checked `size` against the file's."""
    data = os.pread(fd, size, offset)
    if len(data) != size:
        raise _damaged(path, f"it ends within the {size} bytes at {offset}")
    return data


def _write_pages(fd: int, frame: Frame, pages: bytes) -> None:
    """Puts a frame's pages where they belong, each run of adjacent ones with one write."""
    rest = memoryview(pages)
    remaining, page = frame.pages, 0
    while remaining:
        gap = (remaining & -remaining).bit_length() - 1
        remaining >>= gap
        run = (~remaining & (remaining + 1)).bit_length() - 1
        offset = frame.number * FRAME + (page + gap) * PAGE
        data, rest = rest[: run * PAGE], rest[run * PAGE :]
        while data:  # a nearly full disk takes a part before it says so
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
        remaining >>= run
        page += gap + run


# --- small things ----------------------------------------------------------------------------------------------------

Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(work, items)` in a few threads, in order, with only a few items under way at a time."""
    from concurrent.futures import ThreadPoolExecutor

    threads = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "vpod-snapshot") as pool:
        under_way: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(under_way) == 2 * threads:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(work, item))
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def _encode_meta(meta: dict[str, Any]) -> bytes:
    """`meta` as canonical JSON. Raises `ValueError` or `TypeError` for what JSON cannot say."""

    def canonical(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    return canonical(json.loads(canonical(meta))).encode()  # twice: keys that are numbers sort otherwise as text


def _decode_meta(path: str, encoded: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(encoded.decode())
        if type(meta) is dict and _encode_meta(meta) == encoded:
            return cast("dict[str, Any]", meta)
    except (ValueError, RecursionError):
        pass
    raise _damaged(path, "its metadata is not a JSON object in canonical form")


def _is_ram_size(size: int) -> bool:
    return MIN_RAM <= size <= MAX_RAM and size % PAGE == 0


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _damaged(path: str, why: str) -> SnapshotDamaged:
    return SnapshotDamaged(f"{path}: damaged snapshot: {why}; delete it and pull or build it again")


@contextmanager
def disk_full_named(path: StrPath) -> Iterator[None]:
    """Turns "no space left" within its block into a `SnapshotError` that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        why = f"{os.fspath(path)}: cannot be written ({error.strerror})"
        raise SnapshotError(f"{why}; make room there, or name another place in VPOD_HOME") from error
