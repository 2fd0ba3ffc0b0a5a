"""The frames between a caller and its worker: ``u32 length of payload · u8 kind · payload``, little endian.

Why it exists: both ends of the socket pair need the same few lines, and neither may believe the other. The
worker may have been taken over by its guest; the caller's bytes go through the same checks so that there is one
reader. The kinds are the table of ``docs/design/main-job.md``, "Worker". It imports next to nothing, because
every worker loads it before its machine can start.

Invariants:

- A length above the limit or a kind outside 1..7 raises `WireError` before any of its payload is awaited, and the
  reader stays broken: the borders between frames are lost.
- A reader holds at most one unfinished frame between two calls of `Reader.feed`.

Example::

    >>> reader = Reader()
    >>> reader.feed(encode(AGENT, b"hello")[:6]), reader.feed(encode(AGENT, b"hello")[6:])
    ([], [(2, b'hello')])
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = [
    "AGENT",
    "CONSOLE",
    "FORK",
    "MAX_PAYLOAD",
    "MAX_START",
    "START",
    "STATS",
    "STOP",
    "TEMPLATE",
    "Reader",
    "WireError",
    "encode",
]

START: Final = 1  # caller: the state of a machine, its RAM file's descriptor beside it; worker: its process id, it runs
AGENT: Final = 2  # bytes of the agent's port
CONSOLE: Final = 3  # bytes of the UART
STOP: Final = 4  # caller: end; worker: why it ended, "guest: ..." or "worker: ..."
STATS: Final = 5  # caller: ask; worker: JSON
TEMPLATE: Final = 6  # caller: as START, but for a machine that isn't to run
FORK: Final = 7  # caller, to a template: fork a worker, its socket's descriptor beside it; template: its process id

MAX_PAYLOAD: Final = 1 << 20  # of any frame but a START or a TEMPLATE
MAX_START: Final = 64 << 20

_HEADER: Final = Struct("<IB")
_KINDS: Final = range(START, FORK + 1)


class WireError(Exception):
    """The other side broke the framing. Never leaves vpod: the caller's side turns it into `WorkerDied`."""


def encode(kind: int, payload: bytes | bytearray = b"") -> bytes:
    """Encode one frame. `ValueError` if the payload is longer than its kind may be."""
    if len(payload) > _limit(kind):
        raise ValueError(f"a frame of kind {kind} has {len(payload)} bytes, the limit is {_limit(kind)}")
    return _HEADER.pack(len(payload), kind) + payload


def _limit(kind: int) -> int:
    return MAX_START if kind in (START, TEMPLATE) else MAX_PAYLOAD


class Reader:
    """Cuts a stream of bytes into ``(kind, payload)``, however it was chopped on its way."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken: str | None = None

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes as they came; return the frames they complete. `WireError` at the first that breaks the rules."""
        if self._broken is not None:
            raise WireError(self._broken)
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, at)
            if kind not in _KINDS or length > _limit(kind):
                self._broken = f"a frame of kind {kind} and {length} bytes is against the rules"
                buffer.clear()
                raise WireError(self._broken)
            start = at + _HEADER.size
            if start + length > len(buffer):
                break
            at = start + length
            with memoryview(buffer) as view:
                frames.append((kind, bytes(view[start:at])))
        del buffer[:at]
        return frames
