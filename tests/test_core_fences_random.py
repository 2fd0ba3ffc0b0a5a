"""Random lives of two address spaces: pages are remapped, fenced by whichever form suffices, and used; a model watches.

The model is the privileged specification's "Virtual Address Translation Process" over the tables in RAM, without any
cache. As every change is fenced as the specification asks (`sfence.vma` with an address, an ASID, both or neither), the
hart's TLB, jump cache and links must not be noticeable at all: each access ends as the model says, A and D included.

    map VA in space 7, sfence.vma va, asid, store → where the model says, or its page fault
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from machine_code import ONES, RAM, STEP, Hart, PageTables, S, Trap, U, assemble

from vpod._cpu import TLB_ENTRIES

SUM, MXR = 1 << 18, 1 << 19
PAGE, MEGA = 0x1000, 0x20_0000
FRAMES = RAM + 4 * MEGA  # physical: what the pages show
CODE = 0x1_0000  # virtual: the user's page of Hart.step
V, R, W, X, USER, G, A, D = (1 << bit for bit in range(8))
CAUSES = {R: 13, W: 15, X: 12}
SOURCES = {R: "ld a1, 0(a0)", W: "sd a1, 0(a0)"}
FENCES = ["sfence.vma zero, zero", "sfence.vma a0, zero", "sfence.vma a0, a2", "sfence.vma zero, a2"]
PLACED = {  # the page at STEP, written once: a write to code would make the core forget more than a fence does
    source: 4 * n for n, source in enumerate((*SOURCES.values(), *FENCES, "csrw satp, a2"))
}
RIGHTS = ["", "vr", "vrw", "vx", "vrx", *["vrwx", "vrwxa", "vrwxad"] * 3, "vrad", "vrwad"]
LOW = [0x1_0000_0000 + TLB_ENTRIES * PAGE * n for n in range(3)]  # one set of the TLB, which has two places
HIGH = [-(1 << 38) + TLB_ENTRIES * PAGE * n & ONES for n in range(3)]
SUPER = [0x2_0000_0000, -(1 << 38) + (1 << 30) & ONES]
STEPS = 400


@dataclass
class Space:
    tables: PageTables
    asid: int

    @property
    def satp(self) -> int:
        return self.tables.satp | self.asid << 44


class World:
    """A hart, two address spaces with the kernel in both, and the model."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hart = Hart(ram=8 * MEGA)
        kernel = "vrwxad" + self.random.choice(("", "g"))  # a kernel that is global, or one that is not
        self.spaces = [Space(PageTables(self.hart, RAM + (1 + n) * MEGA), n + 7) for n in range(2)]
        for space in self.spaces:
            space.tables.map(RAM, RAM, kernel, 1).map(CODE, STEP & ~0xFFF, "vxuad")
        for page in range(3 * MEGA // PAGE):
            self.hart.cpu.write(FRAMES + page * PAGE, assemble("j . + 4;" * 4).code)  # blocks of their own
        self.hart.load("; ".join(PLACED), STEP)
        self.mxr = 0
        self.switch(self.spaces[0])

    def switch(self, space: Space) -> None:
        """To the other address space, without a fence."""
        self.current = space
        assert self.execute("csrw satp, a2", a2=space.satp) is None

    def execute(self, source: str, **registers: int) -> Trap | None:
        """One of PLACED, by S."""
        return self.hart.set(priv=S, pc=STEP + PLACED[source], **registers).go()

    def remap(self) -> None:
        """Change an entry of either space, and fence it."""
        space = self.random.choice(self.spaces)
        level = self.random.choice((0, 0, 0, 1))
        va = self.random.choice(SUPER if level else LOW + HIGH)
        rights = self.random.choice(RIGHTS) + self.random.choice(("", "u"))
        frame = FRAMES + self.random.randrange(3) * (MEGA if level else PAGE)
        space.tables.map(va, frame, rights, level)
        if level:
            va += self.random.randrange(MEGA // PAGE) * PAGE  # any address in a superpage does
        assert self.execute(self.random.choice(FENCES), a0=va, a2=space.asid) is None

    def use(self) -> None:
        """One access in a random mode; the hart must do what the model says."""
        self.mxr ^= MXR * (self.random.random() < 0.02)  # seldom: the core empties its TLB for it
        level, status = self.random.choice((U, S)), self.random.choice((0, SUM, SUM)) | self.mxr
        kind = self.random.choice((R, W, X))
        va = self.random.choice(LOW + HIGH + SUPER)
        if va in SUPER:
            va += self.random.choice((0, 511)) * PAGE
        va += 4 * self.random.randrange(3) if kind == X else 8 * self.random.randrange(32, 64)
        wanted = self.translate(va, kind, level, status)
        hart = self.hart.csr(mstatus=status).set(priv=level, a0=va, a1=self.random.getrandbits(64))
        start = va if kind == X else (CODE if level == U else STEP) + PLACED[SOURCES[kind]]
        trap = hart.set(pc=start).go()
        if wanted is None:
            assert trap == Trap(CAUSES[kind], start, va)
            return
        at, entry, updated = wanted
        assert trap is None, f"{trap}, the model says {at:#x}"
        assert hart.dword(entry) == updated
        if kind != X:
            assert hart.dword(at) == hart.x("a1")
        assert hart.cpu.pc == start + 4

    def translate(self, va: int, kind: int, level: int, status: int) -> tuple[int, int, int] | None:
        """Physical address, the leaf's address, and what it holds afterwards; None for a page fault."""
        table = self.current.tables.root
        for depth in (2, 1, 0):
            entry = table + 8 * (va >> 12 + 9 * depth & 511)
            value = self.hart.dword(entry)
            if not value & V:
                return None
            if value & (R | X):
                break
            table = value >> 10 << 12
        readable = value & R or (status & MXR and value & X)
        allowed = {R: readable, W: value & W, X: value & X}[kind]
        if level == U:
            allowed = allowed and value & USER
        elif value & USER:
            allowed = allowed and status & SUM and kind != X
        if not allowed:
            return None
        low = (1 << 12 + 9 * depth) - 1
        return value >> 10 << 12 & ~low | va & low, entry, value | A | (D if kind == W else 0)


@pytest.mark.parametrize("seed", range(16))
def test_caches_are_not_noticed(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        action = world.random.random()
        if action < 0.2:
            world.remap()
        elif action < 0.3:
            world.switch(world.random.choice(world.spaces))
        else:
            world.use()
