"""Real-time clock: Android's goldfish RTC, nanoseconds since 1970, as QEMU has it and Linux drives it.

| offset | register | |
|---|---|---|
| 0x00 | TIME_LOW | reading it latches TIME_HIGH; writing it sets the clock together with TIME_HIGH |
| 0x04 | TIME_HIGH | |
| 0x08 | ALARM_LOW | writing it arms the alarm together with ALARM_HIGH |
| 0x0c | ALARM_HIGH | |
| 0x10 | IRQ_ENABLED | |
| 0x14 | CLEAR_ALARM | disarm |
| 0x18 | ALARM_STATUS | 1 while armed |
| 0x1c | CLEAR_INTERRUPT | |

The clock is the host's plus what the guest changed, so it is right after a restore too. It can't wake the machine by
itself: whoever runs the machine calls `poll` and sleeps no longer than `nanoseconds_to_alarm`.

>>> rtc = Rtc(IrqLine(lambda number, level: None, 11), clock=lambda: 7 << 32 | 5)
>>> rtc.read(0x00, 4), rtc.read(0x04, 4)
(5, 7)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vpod.bus import IrqLine
from vpod.devices import fields

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH = 0x00, 0x04, 0x08, 0x0C
IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C
WORD, DOUBLEWORD = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class Rtc:
    """The clock; `clock()` is the host's time in nanoseconds since 1970."""

    size = 0x1000

    def __init__(self, irq: IrqLine, clock: Callable[[], int] = time.time_ns) -> None:
        self._irq = irq
        self._clock = clock
        self._offset = 0  # the guest's time minus the host's
        self._time_high = 0  # latched by reading TIME_LOW, or written for the next TIME_LOW
        self._alarm = 0
        self._armed = False
        self._enabled = False
        self._pending = False

    def _now(self) -> int:
        return self._clock() + self._offset & DOUBLEWORD

    def nanoseconds_to_alarm(self) -> int:
        """How long until the alarm would interrupt; -1 when it won't."""
        return max(0, self._alarm - self._now()) if self._armed and self._enabled else -1

    def poll(self) -> None:
        """Let an alarm whose time has come go off."""
        if self._armed and self._now() >= self._alarm:
            self._armed = False
            self._pending = True
            self._update()

    def _update(self) -> None:
        self._irq.set(self._pending and self._enabled)

    def read(self, offset: int, size: int) -> int:
        """A 32-bit register; 0 for other sizes and offsets."""
        if size != 4:
            return 0
        if offset == TIME_LOW:
            now = self._now()
            self._time_high = now >> 32
            return now & WORD
        return {
            TIME_HIGH: self._time_high,
            ALARM_LOW: self._alarm & WORD,
            ALARM_HIGH: self._alarm >> 32,
            IRQ_ENABLED: int(self._enabled),
            ALARM_STATUS: int(self._armed),
        }.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a 32-bit register; other sizes and offsets are ignored."""
        if size != 4:
            return
        if offset == TIME_LOW:
            self._offset = (self._time_high << 32 | value) - self._clock()
        elif offset == TIME_HIGH:
            self._time_high = value
        elif offset == ALARM_LOW:
            self._alarm = self._alarm & ~WORD | value
            self._armed = True
            self.poll()
        elif offset == ALARM_HIGH:
            self._alarm = value << 32 | self._alarm & WORD
        elif offset == IRQ_ENABLED:
            self._enabled = bool(value & 1)
            self._update()
        elif offset == CLEAR_ALARM:
            self._armed = False
        elif offset == CLEAR_INTERRUPT:
            self._pending = False
            self._update()

    def save(self) -> fields.State:
        """What `restore` takes. The host's time is not part of it."""
        return {
            "offset": self._offset,
            "time_high": self._time_high,
            "alarm": self._alarm,
            "armed": self._armed,
            "enabled": self._enabled,
            "pending": self._pending,
        }

    def restore(self, state: fields.State) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        offset = fields.integer(state, "offset", DOUBLEWORD, -DOUBLEWORD)
        time_high = fields.integer(state, "time_high", WORD)
        alarm = fields.integer(state, "alarm", DOUBLEWORD)
        armed, enabled, pending = (fields.flag(state, name) for name in ("armed", "enabled", "pending"))
        self._offset, self._time_high, self._alarm = offset, time_high, alarm
        self._armed, self._enabled, self._pending = armed, enabled, pending
        self._update()
