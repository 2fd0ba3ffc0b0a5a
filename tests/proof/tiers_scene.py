"""What the target `tiers` runs: a scene is all that a hart starts with, and steps are what is done to it on the way.

Two harts that start from one scene and are given the same steps must be in the same state after each of them, whatever
tier their code runs in. Scenes are made by `tiers_rounds.py`, `tiers_web.py` and `tiers_episodes.py`.

Invariants: nothing that a scene's code computes depends on the host's time: timers are due at once or never. Scenes
needn't end: a step is a budget, and the state is compared when it is used up.

    >>> cpu = Scene(ram=0x1000, memory=((RAM, word("addi", rd=5, rs1=5, imm=1)),)).start(Tier(translate=False))
    >>> Step(1).do(cpu), cpu.x(5)
    (0, 1)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tests.machine_code import CSR, RAM, word
from tests.proof.board import CLINT, UART, Quiet
from vpod import disasm
from vpod._cpu import SAVED_CSRS, Cpu
from vpod.bus import Bus
from vpod.devices.clint import Clint
from vpod.tier import MAX_ROOM, Tier

__all__ = ["RAM", "Scene", "Step", "Tier", "differences", "draw_steps", "draw_tier", "spend", "word"]

Made = TypeVar("Made", bound="Source")

INTERPRETER = Tier(translate=False)
EFFORT = 20_000_000  # what a scene is worth, in instructions
TRANSLATION, COMPARISON = 2000, 40_000  # what making one and comparing once are, likewise
LINES = (3, 9, 11)  # interrupts that a step may raise: M's software one, S's and M's external ones
NUMBERS = {name: number for name, number in SAVED_CSRS.items()} | {
    name: CSR[name] for name in ("mip", "sip", "mcycle", "minstret")
}


@dataclass(frozen=True)
class Scene:
    """RAM of `ram` bytes with `memory` in it, by address, and the hart in M-mode at `pc` with these CSRs."""

    ram: int
    memory: tuple[tuple[int, bytes], ...] = field(repr=False)
    csrs: tuple[tuple[str, int], ...] = ()
    pc: int = RAM
    patches: tuple[int, ...] = ()  # where a device may write what is there already

    def start(self, tier: Tier) -> Cpu:
        bus = Bus()
        cpu = Cpu(bus, self.ram, tier=tier)
        bus.attach(CLINT, Clint(cpu, cpu.set_interrupt))
        bus.attach(UART, Quiet())
        for at, data in self.memory:
            cpu.write(at, data)
        for name, value in self.csrs:
            cpu.set_csr(CSR[name], value)
        cpu.pc = self.pc
        return cpu


class Source(Protocol):
    """What a scene is made from, and may be shrunk by leaving parts of it away."""

    def scene(self) -> Scene: ...

    def smaller(self: Made) -> Iterator[Made]: ...

    def show(self) -> str: ...


@dataclass(frozen=True)
class Step:
    """A budget, and before it: an interrupt raised, which is lowered after it, or a device that writes at `writes`."""

    budget: int
    line: int = 0
    writes: int = 0

    def __str__(self) -> str:
        interrupt = f" with interrupt {self.line}" if self.line else ""
        return f"{self.budget}{interrupt}" + (f" after a write to {self.writes:#x}" if self.writes else "")

    def do(self, cpu: Cpu) -> int:
        if self.line:
            cpu.set_interrupt(self.line, True)
        if self.writes:
            cpu.write(self.writes, cpu.read(self.writes, 2))
        reason = cpu.run(self.budget)
        if self.line:
            cpu.set_interrupt(self.line, False)
        return reason


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw_tier(rng: random.Random) -> Tier:
    """Any translator: at once or when code is hot, patient or not, with much memory or hardly any, short traces, few
    landings."""
    return Tier(
        at_once=rng.random() < 0.5,
        memory=rng.choice((192 << 10, 192 << 10, 256 << 10, 1 << 20, 64 << 20)),
        trace=rng.choice((1, 2, rng.randrange(1, 129), 128, 128, 128)),
        landings=1 << rng.choice((0, 1, rng.randrange(13), 12, 12, 12)),
        room=rng.choice((rng.randrange(1, MAX_ROOM), MAX_ROOM, MAX_ROOM, MAX_ROOM)),
        patience=rng.choice((0, 0, 1, rng.randrange(20), 64)),
    )


def draw_steps(rng: random.Random, tier: Tier, patches: Sequence[int]) -> Iterator[Step]:
    """Steps of any size, without end; not too large where code is translated again and again."""
    largest = 17 if tier.at_once or tier.memory < 1 << 20 else 22
    while True:
        budget = int(2 ** rng.uniform(0, largest))
        line = rng.choice(LINES) if rng.random() < 0.2 else 0
        writes = rng.choice(patches) if patches and rng.random() < 0.2 else 0
        yield Step(budget, line, writes)


# ---- comparing -------------------------------------------------------------------------------------------------------


def _state(cpu: Cpu) -> tuple[int, ...]:
    csr = cpu.csr
    return (
        cpu.pc, cpu.priv, cpu.instret, *map(cpu.x, range(32)), *map(cpu.f, range(32)), *map(csr, NUMBERS.values()),
    )  # fmt: skip


NAMES = ("pc", "priv", "instret", *disasm.X_NAMES, *disasm.F_NAMES, *NUMBERS)


def differences(ours: Cpu, theirs: Cpu) -> Iterator[str]:
    """What the translator's hart has otherwise than the interpreter's, the registers first."""
    one, other = _state(ours), _state(theirs)
    if one != other:
        for name, mine, its in zip(NAMES, one, other, strict=True):
            if mine != its:
                yield f"{name}: {mine:#x}, interpreted {its:#x}"
    size = ours.ram_size
    left, right = ours.read(RAM, size), theirs.read(RAM, size)
    if left != right:
        at = next(at for at in range(0, size, 8) if left[at : at + 8] != right[at : at + 8])
        yield f"memory at {RAM + at:#x}: {left[at : at + 8].hex(' ')}, interpreted {right[at : at + 8].hex(' ')}"


@dataclass(frozen=True)
class Verdict:
    """How far two harts came with the same state, and what was different then, if anything."""

    instructions: int
    differences: tuple[str, ...] = ()
    step: int = -1  # the last one that was done
    translator: dict[str, int] = field(default_factory=dict)


def spend(scene: Scene, tier: Tier, steps: Iterable[Step], effort: int = EFFORT) -> Verdict:
    """Run `scene` in both tiers, comparing after each step: to the first difference, or until `effort` is used up."""
    ours, theirs = scene.start(tier), scene.start(INTERPRETER)
    if ours.translator is None:
        raise RuntimeError(
            "this host has no translator (it is not x86-64): there is nothing that `tiers` could compare"
        )
    number = -1
    for number, step in enumerate(steps):
        ended, wanted = step.do(ours), step.do(theirs)
        found = tuple(differences(ours, theirs))
        if ended != wanted:
            found = (f"run() returned {ended}, interpreted {wanted}", *found)
        if found:
            return Verdict(theirs.instret, found, number, _counters(ours))
        if theirs.instret + TRANSLATION * _counters(ours)["translations"] + COMPARISON * number > effort:
            break
    return Verdict(theirs.instret, (), number, _counters(ours))


def _counters(cpu: Cpu) -> dict[str, int]:
    told = cpu.translator or {}
    return {name: told[name] for name in ("translations", "regions", "moved")}
