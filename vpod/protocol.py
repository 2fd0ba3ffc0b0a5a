"""The language between host and guest: the frames on the virtio-console port ``vpod.agent``.

Why it exists: the worker only passes bytes along; what they mean is known here on the host's side and in
``builder/agent/protocol.h`` on the guest's. Both follow ``docs/design/main-job.md``, "The agent's protocol".

A frame is ``u32 length of payload (<= 1 MiB) · u8 kind · u32 id · payload``, little endian. ``id`` is chosen by
the host and names one request; whatever the agent says about that request carries the same one.

Invariants:

- Whatever comes from the guest is hostile. A length above the limit, a kind that guests do not send, a field that
  ends outside its payload: each raises `AgentError`, and the parser that raised it stays broken, because the
  borders between frames are lost.
- A parser holds at most one unfinished frame (1 MiB and 9 bytes) between two calls of `Parser.feed`.

Example::

    >>> parser = Parser()
    >>> parser.feed(frame(Kind.STDOUT, 7, b"hello"))
    [Frame(kind=<Kind.STDOUT: 131>, id=7, payload=b'hello')]
    >>> parse_fields(fields((RunTag.SCRIPT, b"true"), (RunTag.CWD, b"/tmp")))
    [(1, b'true'), (3, b'/tmp')]
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from vpod.errors import AgentError, PythonNotAvailable, SandboxError, UnknownUser

__all__ = [
    "AGENT_KINDS",
    "CHUNK",
    "ENTROPY_SIZE",
    "HOST_KINDS",
    "INITIAL_CREDIT",
    "MAX_PAYLOAD",
    "VERSION",
    "ExitTag",
    "Frame",
    "Kind",
    "Parser",
    "ReadyTag",
    "ResultTag",
    "RunFlag",
    "RunTag",
    "error",
    "fields",
    "frame",
    "parse_done",
    "parse_exit",
    "parse_fields",
    "parse_u32",
    "restore_payload",
    "window_payload",
]

VERSION: Final = 1
MAX_PAYLOAD: Final = 1 << 20
CHUNK: Final = 64 << 10  # the largest piece of output or input either side puts into one frame
INITIAL_CREDIT: Final = 256 << 10  # bytes of STDIN a request may be sent before its first CREDIT
ENTROPY_SIZE: Final = 64

_HEADER: Final = struct.Struct("<IBI")
_FIELD: Final = struct.Struct("<BI")
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")


class Kind(IntEnum):
    """What a frame says. Below 0x80 the host speaks, from there on the guest."""

    HELLO = 0x01
    RESTORE = 0x02
    RUN = 0x10
    STDIN = 0x11
    SIGNAL = 0x12
    WINDOW = 0x13
    KILL = 0x14
    READ = 0x20
    WRITE = 0x21
    CODE = 0x30
    SETTLE = 0x40
    SYNC_TIME = 0x41

    READY = 0x81
    STARTED = 0x82
    STDOUT = 0x83
    STDERR = 0x84
    EXIT = 0x85
    CREDIT = 0x86
    DATA = 0x87
    DONE = 0x88
    RESULT = 0x89
    ERROR = 0x8F


HOST_KINDS: Final = frozenset(kind for kind in Kind if kind < 0x80)
AGENT_KINDS: Final = frozenset(kind for kind in Kind if kind >= 0x80)


class RunTag(IntEnum):
    """Fields of RUN: either one SCRIPT for the session shell, or an ARG for each argument of a plain exec."""

    SCRIPT = 1
    ARG = 2
    CWD = 3
    ENV = 4  # K=V, repeated
    USER = 5
    TTY = 6  # u16 rows, u16 columns
    FLAGS = 7  # u32 of RunFlag


class RunFlag(IntFlag):
    """Bits of RUN's FLAGS field."""

    MERGE_STDERR = 1  # standard error goes where standard output goes
    STDIN = 2  # STDIN frames follow; without this bit the command reads end of file


class ReadyTag(IntEnum):
    """Fields of READY."""

    VERSION = 1  # u32
    PYTHON = 2  # b"1" if a runner waits, absent or b"0" otherwise
    SHELL = 3  # path of the session shell
    HOSTNAME = 4


class ExitTag(IntEnum):
    """Fields after EXIT's code."""

    SESSION_LOST = 1  # the reason why the session shell (or the Python runner) had to be started anew


class ResultTag(IntEnum):
    """Fields of RESULT; texts are UTF-8."""

    RESULT = 1
    ERROR_NAME = 2
    ERROR_VALUE = 3
    TRACEBACK = 4
    EXITED = 5  # decimal exit code of a SystemExit


class Frame(NamedTuple):
    """One whole frame."""

    kind: Kind
    id: int
    payload: bytes


def frame(kind: int, id: int, payload: bytes = b"") -> bytes:
    """Encode one frame. `ValueError` if the payload is longer than `MAX_PAYLOAD` or `id` is no `u32`."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame's payload has {len(payload)} bytes, the limit is {MAX_PAYLOAD}; send it in pieces")
    if not 0 <= id <= 0xFFFF_FFFF:
        raise ValueError(f"a frame's id is {id}, it must fit 32 bits without sign")
    return _HEADER.pack(len(payload), kind, id) + payload


def fields(*items: tuple[int, bytes]) -> bytes:
    """Encode a run of fields: ``u8 tag, u32 length, bytes`` each."""
    return b"".join(_FIELD.pack(tag, len(value)) + value for tag, value in items)


def parse_fields(payload: bytes) -> list[tuple[int, bytes]]:
    """Decode a run of fields, in order, unknown tags included. `AgentError` if one ends outside the payload."""
    found = []
    at = 0
    while at < len(payload):
        if len(payload) - at < _FIELD.size:
            raise AgentError(
                f"the guest's agent sent a field cut off at byte {at} of {len(payload)}; close the sandbox"
            )
        tag, length = _FIELD.unpack_from(payload, at)
        at += _FIELD.size
        if length > len(payload) - at:
            raise AgentError(
                f"the guest's agent sent a field (tag {tag}) of {length} bytes where {len(payload) - at} are left;"
                " close the sandbox"
            )
        found.append((tag, payload[at : at + length]))
        at += length
    return found


def parse_u32(payload: bytes) -> int:
    """Decode the payload of STARTED or CREDIT, or a `u32` field. `AgentError` if it is not four bytes long."""
    if len(payload) != _U32.size:
        raise AgentError(f"the guest's agent sent {len(payload)} bytes where a number of 4 stands; close the sandbox")
    return int(_U32.unpack(payload)[0])


def parse_exit(payload: bytes) -> tuple[int, bytes | None]:
    """Decode EXIT: the exit code, and why the session was lost (``None`` if it was not)."""
    if len(payload) < _I32.size:
        raise AgentError(
            f"the guest's agent sent an EXIT of {len(payload)} bytes, at least 4 are due; close the sandbox"
        )
    lost = None
    for tag, value in parse_fields(payload[_I32.size :]):
        if tag == ExitTag.SESSION_LOST:
            lost = value
    return int(_I32.unpack_from(payload)[0]), lost


def parse_done(payload: bytes) -> tuple[int, str]:
    """Decode DONE: a Linux errno (0 = well) and a message."""
    if len(payload) < _U32.size:
        raise AgentError(
            f"the guest's agent sent a DONE of {len(payload)} bytes, at least 4 are due; close the sandbox"
        )
    return int(_U32.unpack_from(payload)[0]), payload[_U32.size :].decode("utf-8", "replace")


def restore_payload(wall_clock: int, entropy: bytes) -> bytes:
    """The payload of RESTORE: wall clock in ns since the epoch, and 64 bytes of fresh entropy (`ValueError` else)."""
    if len(entropy) != ENTROPY_SIZE:
        raise ValueError(f"RESTORE carries {ENTROPY_SIZE} bytes of entropy, not {len(entropy)}")
    return struct.pack("<Q", wall_clock) + entropy


def window_payload(rows: int, columns: int) -> bytes:
    """The payload of WINDOW, and the value of RUN's TTY field; sizes beyond a `u16` are cut to it."""
    return struct.pack("<HH", *(max(0, min(size, 0xFFFF)) for size in (rows, columns)))


def error(payload: bytes) -> SandboxError:
    """The exception an ERROR frame stands for: the message's first words say which."""
    text = payload.decode("utf-8", "replace")
    if text.startswith("unknown user: "):
        return UnknownUser(f"{text}; name one that the guest's /etc/passwd has")
    if text.startswith("no python: "):
        return PythonNotAvailable(text)
    return AgentError(f"the guest's agent could not carry out the request: {text}")


class Parser:
    """Cuts a stream of bytes into frames, however it was chopped on its way.

    `kinds` are those the other side may send: `AGENT_KINDS` for a host that listens to a guest (the default).
    """

    def __init__(self, kinds: frozenset[Kind] = AGENT_KINDS) -> None:
        self._kinds = kinds
        self._buffer = bytearray()
        self._broken: str | None = None

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take bytes as they came; return the frames they complete.

        Raises `AgentError` at the first frame that breaks the protocol, and at every later call. The frames that
        were completed before it by the same bytes are lost with it: nothing of such a guest is to be believed.
        """
        if self._broken is not None:
            raise AgentError(self._broken)
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, kind, id = _HEADER.unpack_from(buffer, at)
            self._check(length, kind)
            end = at + _HEADER.size + length
            if end > len(buffer):
                break
            frames.append(Frame(Kind(kind), id, bytes(memoryview(buffer)[at + _HEADER.size : end])))
            at = end
        del buffer[:at]
        return frames

    def _check(self, length: int, kind: int) -> None:
        """Refuse what no honest agent sends, before waiting for its payload."""
        if length > MAX_PAYLOAD:
            self._broken = f"the guest's agent announced a frame of {length} bytes, the limit is {MAX_PAYLOAD}"
        elif kind not in self._kinds:
            self._broken = f"the guest's agent sent a frame of kind {kind:#04x}, which it may not send"
        if self._broken is not None:
            self._broken += "; close the sandbox"
            self._buffer.clear()
            raise AgentError(self._broken)
