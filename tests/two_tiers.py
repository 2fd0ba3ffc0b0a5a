"""The same machine twice: one hart interprets, the other translates, and whatever is done to them is compared.

Why it exists: the interpreter is the translator's reference. `Twins` gives both harts one program and one history; its
invariant is that after each `run` the two are equal in everything that a snapshot keeps (registers, CSRs, pc,
privilege, instructions retired) and in the start of RAM, where tests keep code and data. Nothing in here knows how the
translator works but `ticks` and `arms`, by which a test makes sure that translated code was compared.

    twins = Twins("loop: addi a0, a0, 1; j loop")
    twins.run(1001)                      # on both; AssertionError names the first register that differs
    assert twins.translator["translations"] == 1
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from machine_code import CSR, ONES, RAM, Hart, RecordingBus

from vpod import isa
from vpod.tier import Tier

Result = TypeVar("Result")

INTERPRETED = Tier(translate=False)
FORCED = Tier(at_once=True)
COUNTED = Tier(patience=10)  # programs of tests are short
BATCHED = Tier(at_once=True, patience=3)  # what is entered anew waits for others

FS_DIRTY = 3 << 13
COMPARED = 0x1_0000  # bytes from the start of RAM
NOT_COMPARED = {"mtime", "mip"}  # they follow the host's clock
CLOCK = re.compile(rb'"(%s)": \d+' % "|".join(NOT_COMPARED).encode())  # in what the hart saves
OP_NEXT = len(isa.OPCODES) + 1  # what only the block builder makes, numbered behind the table's
OP_CSR_INLINE = OP_NEXT + 1
NAME_OF_OP = {number: row.name for number, row in enumerate(isa.BASE_ROWS, start=1)} | {
    0: "illegal",
    OP_CSR_INLINE: "csr inline",
}
TICK = "csrr zero, sscratch"  # an arm's: translated code counts how often it calls one


def named(tier: Tier) -> str:
    """What a tier is, for the name of a test."""
    kind = "forced" if tier.at_once else "counted" if tier.translate else "interpreted"
    return f"{kind}-{tier.memory >> 10}K-{tier.trace}-{tier.landings}-{tier.patience}"


def ticks(hart: Hart) -> int:
    """How often translated code executed TICK, or another CSR instruction that doesn't end a block."""
    return arms(hart).get("csr inline", 0)


def arms(hart: Hart) -> dict[str, int]:
    """How often translated code called the interpreter's arms, by mnemonic."""
    return {NAME_OF_OP[number]: count for number, count in translator(hart)["arms"].items()}


def translator(hart: Hart) -> dict[str, Any]:
    counters = hart.cpu.translator
    assert counters is not None, "there is no translator on this host"
    return counters


def state(hart: Hart) -> dict[str, Any]:
    """Everything that a snapshot keeps of the hart, by name: `x10`, `f3`, `mepc`, `pc` and so on."""
    saved = json.loads(hart.cpu.save())
    for bank in "xf":
        saved.update({f"{bank}{n}": value for n, value in enumerate(saved.pop(bank))})
    return {name: value for name, value in saved.items() if name not in NOT_COMPARED}


def compare(wanted: Hart, found: Hart, *areas: tuple[int, int]) -> None:
    """AssertionError that names what differs: state, the start of RAM, or other `areas` of it, as address and size."""
    if CLOCK.sub(b"", wanted.cpu.save()) != CLOCK.sub(b"", found.cpu.save()):
        one, other = state(wanted), state(found)
        differences = [f"{name} {one[name]:#x} → {other[name]:#x}" for name in one if one[name] != other[name]]
        raise AssertionError(f"interpreter → translator: {', '.join(differences)}; at {found.describe()}")
    for start, size in ((RAM, min(COMPARED, wanted.cpu.ram_size)), *areas):
        one_bytes, other_bytes = wanted.cpu.read(start, size), found.cpu.read(start, size)
        if one_bytes != other_bytes:
            at = next(n for n in range(size) if one_bytes[n] != other_bytes[n])
            raise AssertionError(f"RAM differs at {start + at:#x}: {one_bytes[at]:#x} → {other_bytes[at]:#x}")
    assert wanted.bus.log == found.bus.log


class Twins:
    """Two harts of one program: `interpreter` and, with the tier under test, `hart`."""

    def __init__(
        self,
        source: str = "done: j done",
        *,
        tier: Tier = FORCED,
        ram: int = 4 << 20,
        bus: Callable[[], RecordingBus] = RecordingBus,
        **symbols: int,
    ) -> None:
        self.interpreter = Hart(source, ram=ram, bus=bus(), tier=INTERPRETED, **symbols)
        self.hart = Hart(source, ram=ram, bus=bus(), tier=tier, **symbols)
        self.program = self.hart.program
        assert self.interpreter.cpu.translator is None

    def do(self, action: Callable[[Hart], Result]) -> Result:
        """Do something to both; its result must be the same."""
        wanted, found = action(self.interpreter), action(self.hart)
        assert wanted == found
        return found

    def run(self, instructions: int) -> int:
        """Run both by the same budget; why they ended. They must be equal afterwards."""
        reason = self.do(lambda hart: hart.cpu.run(instructions))
        compare(self.interpreter, self.hart)
        return reason

    def finish(self, limit: int = 100_000) -> Twins:
        """Run both to the label `done` in one go, where they spin for a while."""
        self.run(limit)
        assert self.hart.cpu.pc == self.program["done"], self.hart.describe()
        return self

    def set(self, **registers: int) -> Twins:
        self.do(lambda hart: hart.set(**registers) and None)
        return self

    def csr(self, **values: int) -> Twins:
        self.do(lambda hart: hart.csr(**values) and None)
        return self

    def write(self, address: int, data: bytes) -> Twins:
        """As a device does."""
        self.do(lambda hart: hart.cpu.write(address, data))
        return self

    @property
    def translator(self) -> dict[str, Any]:
        return translator(self.hart)

    @property
    def ticks(self) -> int:
        return ticks(self.hart)


def set_f(hart: Hart, values: dict[int, int]) -> None:
    for number, value in values.items():
        hart.cpu.set_f(number, value & ONES)


__all__ = [
    "BATCHED",
    "COUNTED",
    "CSR",
    "FORCED",
    "FS_DIRTY",
    "INTERPRETED",
    "NAME_OF_OP",
    "TICK",
    "Twins",
    "arms",
    "compare",
    "named",
    "set_f",
    "state",
    "ticks",
    "translator",
]
