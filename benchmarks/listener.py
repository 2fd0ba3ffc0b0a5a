"""Reading what `stopwatch` says on a console, and noting what the host's meters say at the same moments.

Why it exists: all engines speak through a byte stream: a pipe, QEMU's serial port, vpod's UART. One listener hears them
all, so that a sample means the same wherever it comes from.

Invariants: a line counts only if every field of it is what it must be and names a program asked for; each line counts
only after the one before it. At most `MAX_LINE` bytes of an unfinished line and `MAX_TAIL` of other text are kept.

>>> heard = Listener(["crc"])
>>> heard.feed(b"BENCH begin crc\\r\\nBENCH ran crc 2500000000 0\\r\\nBENCH printed crc 00000000deadbeef\\r\\n")
>>> heard.samples["crc"].seconds
2.5
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

MAX_LINE = 1 << 16
MAX_TAIL = 1 << 12
DONE = b"BENCH done"

_BEGIN = re.compile(rb"BENCH begin ([a-z0-9]{1,32})")
_RAN = re.compile(rb"BENCH ran ([a-z0-9]{1,32}) ([0-9]{1,18}) ([0-9]{1,3})")
_PRINTED = re.compile(rb"BENCH printed ([a-z0-9]{1,32}) ([0-9a-f]{16})")


@dataclass(frozen=True)
class Meters:
    """The host's view at one moment: its clock, seconds of CPU that the engine has used, instructions retired."""

    clock: float | None = None
    cpu: float | None = None
    instructions: int | None = None


@dataclass(frozen=True)
class Sample:
    """One run of one program. `seconds` by the guest's clock; `host`, `cpu` and `instructions` by the host's meters."""

    name: str
    seconds: float
    exit_code: int
    digest: str
    host: float | None = None
    cpu: float | None = None
    instructions: int | None = None


class Listener:
    """Takes bytes as they come. `samples` fills up; `done` is True once the script's last line was heard."""

    def __init__(self, names: Sequence[str], meters: Callable[[], Meters] = Meters) -> None:
        self.samples: dict[str, Sample] = {}
        self.done = False
        self.tail = b""
        self.meters = meters
        self._names = frozenset(names)
        self._began: tuple[str, Meters] | None = None
        self._ran: Sample | None = None  # its digest not heard yet
        self._partial = b""

    def feed(self, data: bytes) -> None:
        """The next bytes of the console."""
        self.tail = (self.tail + data)[-MAX_TAIL:]
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[-MAX_LINE:]
        for line in lines:
            self._line(line.strip(b"\r"))

    def _line(self, line: bytes) -> None:
        if line == DONE:
            self.done = True
        elif begin := _BEGIN.fullmatch(line):
            self._began, self._ran = (begin[1].decode(), self.meters()), None
        elif ran := _RAN.fullmatch(line):
            if self._began is not None and ran[1].decode() == self._began[0]:
                self._ran = _sample(*self._began, self.meters(), int(ran[2]), int(ran[3]))
            self._began = None
        elif printed := _PRINTED.fullmatch(line):
            if self._ran is not None and printed[1].decode() == self._ran.name and self._ran.name in self._names:
                self.samples[self._ran.name] = replace(self._ran, digest=printed[2].decode())
            self._ran = None

    def text(self) -> str:
        """The last lines heard, fit for a message: control characters replaced."""
        shown = self.tail.decode("utf-8", "replace").replace("\r", "")
        return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in shown).strip()


def _sample(name: str, before: Meters, after: Meters, nanoseconds: int, exit_code: int) -> Sample:
    """A sample without its digest: what each meter has gone on by; None where it cannot be read."""
    clock = None if before.clock is None or after.clock is None else after.clock - before.clock
    cpu = None if before.cpu is None or after.cpu is None else after.cpu - before.cpu
    known = before.instructions is not None and after.instructions is not None
    retired = (after.instructions or 0) - (before.instructions or 0) if known else None
    return Sample(name, nanoseconds / 1e9, exit_code, "", clock, cpu, retired)
