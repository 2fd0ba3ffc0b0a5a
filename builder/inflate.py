"""Decompression that cannot be made to fill the memory.

Archives come from the network. A few kilobytes of xz may claim to be a terabyte, so nothing here decompresses
without a limit on what comes out, and a stream that ends early is an error rather than a short result.

    >>> inflate(gzip.compress(b"x" * 100), limit=1 << 20, name="demo.gz")
    b'xxx...'

Invariants: at most `limit` bytes are ever produced; memory for dictionaries is bounded too (`MEMORY`).
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

from vpod.errors import VerificationFailed

MEMORY = 160 << 20  # bytes a decoder may use for its dictionary; `xz -9` needs 65 MiB
_CHUNK = 1 << 20
_FIRST = 4096  # bytes of the first piece of a stream: whatever of it lies behind the stream's end is copied once more
_PADDING = 1024  # zero bytes that may pad the end of a stream

_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\x00"
_ZSTD = b"\x28\xb5\x2f\xfd"


class _Decoder(Protocol):
    """What gzip's, xz's and zstd's decoders have in common once wrapped."""

    def feed(self, data: bytes | memoryview, most: int) -> bytes:
        """Decode, giving at most `most` bytes; call with `b""` for more of the same input."""

    @property
    def finished(self) -> bool:
        """True once the stream's own end marker was seen."""

    @property
    def rest(self) -> bytes:
        """Input behind the end marker: the start of a concatenated stream."""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes | memoryview, most: int) -> bytes:
        return self._stream.decompress(data or self._stream.unconsumed_tail, most)

    @property
    def finished(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data


class _Xz:
    def __init__(self) -> None:
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)

    def feed(self, data: bytes | memoryview, most: int) -> bytes:
        return self._stream.decompress(data, most)

    @property
    def finished(self) -> bool:
        return self._stream.eof

    @property
    def rest(self) -> bytes:
        return self._stream.unused_data


def inflate(data: bytes | memoryview, *, limit: int, name: str) -> bytes:
    """All of `data`, decompressed by what its first bytes say it is: gzip, xz, zstd, or not compressed.

    `limit` is in bytes. Concatenated gzip and xz streams are one stream (RFC 1952 section 2.2; xz format 1.2.1,
    section 2). Raises `VerificationFailed` naming `name` when it is damaged, cut short, or longer than `limit`.
    """
    view = memoryview(data)
    if bytes(view[:2]) == _GZIP:
        return _streams(view, _Gzip, limit, name)
    if bytes(view[:6]) == _XZ:
        return _streams(view, _Xz, limit, name)
    if bytes(view[:4]) == _ZSTD:
        return _zstd(view, limit, name)
    if len(view) > limit:
        raise VerificationFailed(f"{name}: {len(view)} bytes, more than the {limit} allowed")
    return bytes(view)


def gzip_members(data: bytes | memoryview, *, limit: int, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Each gzip member of `data` as `(compressed, decompressed)`; Alpine signs and joins whole members.

    `limit` bounds the decompressed bytes of all members together. Raises `VerificationFailed` as `inflate` does.
    """
    view = memoryview(data)
    while len(view):
        used, content = _stream(view, _Gzip(), limit, name)
        limit -= len(content)
        yield bytes(view[:used]), content
        view = view[used:]


def _streams(view: memoryview, kind: type[_Gzip] | type[_Xz], limit: int, name: str) -> bytes:
    """Every stream of a concatenation, and the zero padding that may follow the last."""
    pieces: list[bytes] = []
    while True:
        used, content = _stream(view, kind(), limit, name)
        limit -= len(content)
        pieces.append(content)
        view = view[used:]
        if not any(view[:_PADDING]):
            return b"".join(pieces)


def _stream(view: memoryview, decoder: _Decoder, limit: int, name: str) -> tuple[int, bytes]:
    """Decode the first stream of `view`: how many bytes of it that took, and what came out, at most `limit` bytes."""
    pieces: list[bytes] = []
    position, size, total = 0, _FIRST, 0
    try:
        while not decoder.finished:
            feed = view[position : position + size]
            position += len(feed)
            size = min(2 * size, _CHUNK)
            piece = decoder.feed(feed, _CHUNK)
            while piece:
                total += len(piece)
                if total > limit:
                    raise _bomb(name)
                pieces.append(piece)
                piece = b"" if decoder.finished else decoder.feed(b"", _CHUNK)
            if not len(feed) and not decoder.finished:
                raise VerificationFailed(f"{name}: ends in the middle of its compressed data; fetch it again")
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise VerificationFailed(f"{name}: damaged compressed data ({error}); fetch it again") from error
    return position - len(decoder.rest), b"".join(pieces)


def _bomb(name: str) -> VerificationFailed:
    return VerificationFailed(f"{name}: unpacks to more than is allowed; refused as a decompression bomb")


def _zstd(view: memoryview, limit: int, name: str) -> bytes:
    """A zstd frame; its window is bounded by `MEMORY`."""
    pieces: list[bytes] = []
    decoder = zstandard.ZstdDecompressor(max_window_size=MEMORY).decompressobj(read_across_frames=False)
    position = 0
    try:
        while not decoder.eof and position < len(view):
            # A zstd block expands to at most 128 KiB and takes at least 3 bytes: small feeds bound what one call gives.
            piece = decoder.decompress(view[position : position + 4096])
            position += 4096
            limit -= len(piece)
            if limit < 0:
                raise _bomb(name)
            pieces.append(piece)
    except zstandard.ZstdError as error:
        raise VerificationFailed(f"{name}: damaged zstd data ({error}); fetch it again") from error
    if not decoder.eof:
        raise VerificationFailed(f"{name}: ends in the middle of its zstd data; fetch it again")
    return b"".join(pieces)
