"""Reading what `stopwatch` says on a console, and noting what the host's meters say at the same moments.

Why it exists: all engines speak through a byte stream: a pipe, QEMU's serial port, vpod's UART. One listener hears them
all, so that a sample means the same wherever it comes from.

Invariants: a line counts only if every field of it is what it must be and names a program asked for; an end counts only
after its begin. At most `MAX_LINE` bytes of an unfinished line and `MAX_TAIL` of other text are kept.

>>> heard = Listener(["crc"])
>>> heard.feed(b"BENCH begin crc\\r\\nBENCH end crc 2500000000 0 00000000deadbeef\\r\\n")
>>> heard.samples["crc"].seconds
2.5
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_LINE = 1 << 16
MAX_TAIL = 1 << 12
DONE = b"BENCH done"

_BEGIN = re.compile(rb"BENCH begin ([a-z0-9]{1,32})")
_END = re.compile(rb"BENCH end ([a-z0-9]{1,32}) ([0-9]{1,18}) ([0-9]{1,3}) ([0-9a-f]{16})")


@dataclass(frozen=True)
class Meters:
    """The host's view at one moment: seconds of CPU that the engine has used, instructions that the guest retired."""

    cpu: float | None = None
    instructions: int | None = None


@dataclass(frozen=True)
class Sample:
    """One run of one program. `seconds` by the guest's clock; `cpu` and `instructions` by the host's meters."""

    name: str
    seconds: float
    exit_code: int
    digest: str
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
            self._began = begin[1].decode(), self.meters()
        elif (end := _END.fullmatch(line)) and self._began is not None:
            name, before = self._began
            if end[1].decode() == name and name in self._names:
                after = self.meters()
                self.samples[name] = Sample(
                    name, int(end[2]) / 1e9, int(end[3]), end[4].decode(),
                    None if before.cpu is None or after.cpu is None else after.cpu - before.cpu,
                    None
                    if before.instructions is None or after.instructions is None
                    else after.instructions - before.instructions,
                )  # fmt: skip
            self._began = None

    def text(self) -> str:
        """The last lines heard, fit for a message: control characters replaced."""
        shown = self.tail.decode("utf-8", "replace").replace("\r", "")
        return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in shown).strip()
