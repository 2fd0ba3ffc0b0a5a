"""CLINT: the hart's software interrupt and the machine timer (SiFive CLINT; RISC-V ACLINT specification, chapter 2, 3).

| offset | register | |
|---|---|---|
| 0x0000 | msip | bit 0 is the hart's MSIP |
| 0x4000 | mtimecmp | 64 bits, also in halves |
| 0xbff8 | mtime | 64 bits, also in halves |

The timer itself lives in the core, which compares on its own; this is the window on it. So msip is the only state.

>>> class Timer: mtime = 5; mtimecmp = 0
>>> clint = Clint(Timer(), lambda number, level: print(number, level))
>>> clint.read(0xbff8, 8)
5
>>> clint.write(0, 4, 1)
3 True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vpod.devices import fields

MSIP, MTIMECMP, MTIME = 0x0000, 0x4000, 0xBFF8
MSIP_INTERRUPT = 3  # bit of mip
LOW, ALL = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class Timer(Protocol):
    """The part of the core that keeps time: both in ticks of the board's 10 MHz."""

    mtime: int
    mtimecmp: int


class Clint:
    """Software interrupt and timer registers of one hart."""

    size = 0x10000

    def __init__(self, timer: Timer, set_interrupt: Callable[[int, bool], None]) -> None:
        self._timer = timer
        self._set_interrupt = set_interrupt
        self._msip = False

    def read(self, offset: int, size: int) -> int:
        """msip, mtimecmp or mtime in naturally aligned words or doublewords; 0 for anything else."""
        if size < 4 or offset % size:
            return 0
        register, shift = offset & ~7, 8 * (offset & 4)
        if register == MTIME:
            return self._timer.mtime >> shift
        if register == MTIMECMP:
            return self._timer.mtimecmp >> shift
        return int(self._msip) if offset == MSIP else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to msip, mtimecmp or mtime in naturally aligned words or doublewords; else nothing."""
        if size < 4 or offset % size:
            return
        register, shift = offset & ~7, 8 * (offset & 4)
        if register == MTIME:
            self._timer.mtime = _replace(self._timer.mtime, size, shift, value)
        elif register == MTIMECMP:
            self._timer.mtimecmp = _replace(self._timer.mtimecmp, size, shift, value)
        elif offset == MSIP:
            self._msip = bool(value & 1)
            self._set_interrupt(MSIP_INTERRUPT, self._msip)

    def save(self) -> fields.State:
        """What `restore` takes; mtime and mtimecmp are the core's."""
        return {"msip": self._msip}

    def restore(self, state: fields.State) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        self._msip = fields.flag(state, "msip")
        self._set_interrupt(MSIP_INTERRUPT, self._msip)


def _replace(old: int, size: int, shift: int, value: int) -> int:
    if size == 8:
        return value
    return (old & ~(LOW << shift) | value << shift) & ALL
