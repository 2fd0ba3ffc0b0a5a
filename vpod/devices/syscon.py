"""Power-off and reboot: the SiFive test finisher, which the device tree also calls a syscon.

One 32-bit register at offset 0. Its low half says what to do, its high half is the exit code of a failed test:
0x5555 ends the machine well (power-off), 0x3333 ends it with a code, 0x7777 reboots. There is no state.

>>> syscon = Syscon(print)
>>> syscon.write(0, 4, 0x0003_3333)
exit 3
"""

from __future__ import annotations

from collections.abc import Callable

from vpod.devices import fields

PASS, FAIL, RESET = 0x5555, 0x3333, 0x7777


class Syscon:
    """Ends the machine: `stop(reason)` gets ``poweroff``, ``reboot`` or ``exit N``."""

    size = 0x1000

    def __init__(self, stop: Callable[[str], object]) -> None:
        self._stop = stop

    def read(self, offset: int, size: int) -> int:
        """Always 0: the register is write-only."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End the machine if offset 0 is written with a command; a halfword will do, as in QEMU."""
        if offset or size < 2:
            return
        command = value & 0xFFFF
        if command == PASS:
            self._stop("poweroff")
        elif command == RESET:
            self._stop("reboot")
        elif command == FAIL:
            self._stop(f"exit {value >> 16 & 0xFFFF}")

    def save(self) -> fields.State:
        """Nothing to keep."""
        return {}

    def restore(self, state: fields.State) -> None:
        """Nothing to take back."""
