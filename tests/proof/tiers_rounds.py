"""Scenes of user programs that run over and over: two of `drawing.py`'s programs, and a driver in M-mode.

Each trap ends a round. The driver folds the registers and the trap into a digest in memory, and starts the next round:
one of four *tasks* (two programs, each in U-mode at its own place and in S-mode at another), with the pointers set
anew, other operands, another fcsr, FS and mstatus, and everything else as the last round left it. Under Sv39 there are
two address spaces, in which one program each is mapped at the same virtual addresses; now and then the driver exchanges
the entries of all their pages and fences. So code gets hot, and is run under changing keys, addresses and meanings.

Invariant: the programs are position-independent; they needn't end, and nor does the driver.

    >>> scene = Rounds((draw(1, 0), draw(1, 1)), seed=1).scene()
    >>> spend(scene, Tier(at_once=True), [Step(100_000)]).differences
    ()
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from tests.machine_code import ONES, RAM, Hart, PageTables, assemble, dwords
from tests.proof.drawing import draw
from tests.proof.programs import CODE, CODE_SIZE, SCRATCH, SCRATCH_SIZE, TABLE, TABLE_SIZE, Item, Program, table
from tests.proof.tiers_scene import Scene, Step, Tier, spend
from vpod.disasm import F_NAMES

__all__ = ["Rounds", "Step", "Tier", "draw", "spend"]

PAGE = 0x1000
TASKS, TASK = RAM + 0x1000, 0x400  # of the driver, as all below SCRATCH's hole
GLOBALS = RAM + 0x2000
DIGEST, SEED, FLIP, SPACES, FENCED, STATUSES, FCSRS, SWAPS = 256, 264, 272, 280, 296, 512, 640, 768  # offsets there
PC, SPACE, MODE = 768, 776, 784  # offsets in a task, after its three rows of 32 dwords
OTHER = TABLE + TABLE_SIZE + 0x4000  # the second program's code; its scratch memory is as far from it as the first's
AWAY = OTHER - CODE
TABLES = TABLE + TABLE_SIZE + 0x1_0000
RAM_SIZE = 0xC_0000
ALIAS = 0x10_0000_0000  # where S-mode has the code, under Sv39
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's, for the driver's random numbers
FS, SUM, MPP_S = 0x6000, 1 << 18, 1 << 11
STATUS_BITS = (1 << 19, 1 << 20, 1 << 21, 1 << 22)  # MXR, TVM, TW, TSR
LINES = 0xA88  # the interrupts that a step may raise


@cache
def _driver() -> bytes:
    saved = [n for n in range(1, 32) if n != 5]
    fold = "slli t3, a0, 9; srli a0, a0, 55; or a0, a0, t3; add a0, a0, t1"
    lines = [
        f"start: li t0, {GLOBALS}; csrw mscratch, t0; la t1, trap; csrw mtvec, t1; li t1, {LINES}; csrw mie, t1; ecall",
        ".align 64; trap: csrrw t0, mscratch, t0",
        *(f"sd x{n}, {8 * n}(t0)" for n in saved),
        "mv s0, t0; csrrw t1, mscratch, t0; sd t1, 40(s0)",
        f"ld a0, {DIGEST}(s0); csrr t1, mstatus; {fold}; li t2, {FS}; csrs mstatus, t2",
        *(f"csrr t1, {name}; {fold}" for name in ("mepc", "mtval", "fcsr", "mcause")),
        # an interrupt comes once: its line is high until the step ends
        f"csrw mie, zero; blt t1, zero, taken; li t2, {LINES}; csrw mie, t2; taken:",
        f"addi t2, s0, 8; addi t4, s0, 256; folding: ld t1, 0(t2); {fold}; addi t2, t2, 8; bne t2, t4, folding",
        f"sd a0, {DIGEST}(s0)",
        f"ld a1, {SEED}(s0); li t1, {MULTIPLIER}; mul a1, a1, t1; li t1, {INCREMENT}; add a1, a1, t1",
        f"sd a1, {SEED}(s0); srli a2, a1, 33; srli a3, a1, 20; ld a4, {FLIP}(s0)",
        # exchange the address spaces' entries, one round in eight
        "andi t1, a2, 0x700; bnez t1, kept; xori a4, a4, 8",
        f"sd a4, {FLIP}(s0); addi t2, s0, {SWAPS}; andi a5, a2, 0x80",
        "swapping: ld t3, 0(t2); beqz t3, swapped; ld t4, 8(t2); ld t5, 0(t3); ld t6, 0(t4); sd t6, 0(t3)",
        "sd t5, 0(t4); ld t1, 16(t2); addi t2, t2, 24; beqz a5, swapping; sfence.vma t1, zero; j swapping",
        "swapped: bnez a5, kept; sfence.vma zero, zero; kept:",
        # the next task, and the registers it begins with
        f"andi s1, a2, 3; slli s1, s1, 10; li t1, {TASKS}; add s1, s1, t1; addi t2, s0, 8; addi t3, s1, 8",
        "addi t4, s0, 256; setting: ld t1, 0(t2); ld t5, 0(t3); and t1, t1, t5; ld t5, 256(t3); add t1, t1, t5",
        "ld t5, 512(t3); and t5, t5, a3; add t1, t1, t5; sd t1, 0(t2); addi t2, t2, 8; addi t3, t3, 8",
        f"bne t2, t4, setting; li t1, {TABLE}; srli t2, a1, 24; li t3, 0x7ff8; and t2, t2, t3; add t1, t1, t2",
        *(f"fld {F_NAMES[n]}, {8 * n}(t1)" for n in range(0, 32, 5)),
        f"ld t1, {SPACE}(s1); xor t1, t1, a4; add t1, t1, s0; ld t1, {SPACES}(t1); csrw satp, t1",
        f"ld t1, {FENCED}(s0); and t1, t1, a2; beqz t1, unfenced; sfence.vma zero, zero; fence.i; unfenced:",
        f"srli t1, a2, 4; andi t1, t1, 0x78; add t1, t1, s0; ld t2, {FCSRS}(t1); csrw fcsr, t2",
        f"srli t1, a2, 8; andi t1, t1, 0x78; add t1, t1, s0; ld t2, {STATUSES}(t1); ld t3, {MODE}(s1); or t2, t2, t3",
        f"csrw mstatus, t2; ld t1, {PC}(s1); csrw mepc, t1; mv t0, s0",
        *(f"ld x{n}, {8 * n}(t0)" for n in saved),
        "ld t0, 40(t0); mret",
    ]
    code = assemble("\n".join(lines), RAM).code
    if RAM + len(code) > TASKS:
        raise ValueError(f"the driver's {len(code)} bytes run into its tasks")
    return code


# ---- address spaces --------------------------------------------------------------------------------------------------


def _pages(at: int, size: int) -> range:
    return range(at, at + size, PAGE)


@cache
def _spaces() -> tuple[tuple[int, int], bytes, tuple[int, ...]]:
    """Both spaces' satp, their tables, and what is exchanged between them: two entries and the address, and so on."""
    hart = Hart(ram=RAM_SIZE)
    spaces = [PageTables(hart, TABLES), PageTables(hart, TABLES + 0x8000)]
    swaps = []
    for number, space in enumerate(spaces):
        away = AWAY * number
        for page in _pages(CODE, CODE_SIZE):
            space.map(page, page + away, "vrwxuad").map(page + ALIAS, page + away, "vrwxad")
        for page in _pages(SCRATCH, SCRATCH_SIZE):
            space.map(page, page + away, "vrwuad")
        for page in _pages(TABLE, TABLE_SIZE):
            space.map(page, page, "vruad")
    own = [*_pages(CODE, CODE_SIZE), *_pages(SCRATCH, SCRATCH_SIZE)]
    for page in [*own, *(page + ALIAS for page in _pages(CODE, CODE_SIZE))]:
        swaps += [spaces[0].entry(page), spaces[1].entry(page), page]
    satps = (spaces[0].satp | 1 << 44, spaces[1].satp | 2 << 44)
    return satps, bytes(hart.cpu.read(TABLES, 0x1_0000)), tuple(swaps)


def _protection() -> tuple[tuple[str, int], ...]:
    """PMP for both programs without paging: pairs of TOR entries, read, write and execute where they are."""
    regions = (
        (CODE, CODE_SIZE, 7), (SCRATCH, SCRATCH_SIZE, 3), (TABLE, TABLE_SIZE, 1), (OTHER, CODE_SIZE + 0x4000, 7),
    )  # fmt: skip
    addresses = [(f"pmpaddr{n}", at >> 2) for n, at in enumerate(at for r in regions for at in (r[0], r[0] + r[1]))]
    config = sum((8 | rights) << 8 * (2 * n + 1) for n, (_, _, rights) in enumerate(regions))
    return (*addresses, ("pmpcfg0", config))


# ---- scenes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounds:
    """The two programs, and the seed of what the driver draws. Whether there is paging, the first program says."""

    programs: tuple[Program, Program]
    seed: int

    def scene(self) -> Scene:
        """Raises Unlinkable."""
        rng = random.Random(f"rounds {self.seed}")
        first, second = self.programs
        paged = first.paged
        satps, tables, swaps = _spaces() if paged else ((0, 0), b"", ())
        statuses = [
            rng.choice((FS, FS, FS, 0x4000, 0x2000)) | sum(bit for bit in STATUS_BITS if rng.random() < 0.1)
            for _ in range(15)
        ]
        numbers = [
            rng.choice((0, 0, 0, 0, 0, 1, 2, 3, 4, 7)) << 5 | rng.choice((0, rng.getrandbits(5))) for _ in range(16)
        ]
        fenced = rng.choice((0, 0, 3, ONES >> 1))
        at_globals = bytearray(PAGE)
        for offset, values in (
            (SEED, [rng.getrandbits(64)]), (SPACES, satps), (FENCED, [fenced]),
            (STATUSES, [*statuses, rng.choice((0, FS))]), (FCSRS, numbers), (SWAPS, swaps),
        ):  # fmt: skip
            at_globals[offset : offset + 8 * len(values)] = dwords(*values)
        memory = [(RAM, _driver()), (TASKS, self._tasks()), (GLOBALS, bytes(at_globals))]
        memory += [(CODE, first.image()), (SCRATCH, first.scratch), (TABLE, table(*first.operands))]
        memory += [(OTHER, second.image()), (SCRATCH + AWAY, second.scratch), (TABLES, tables)]
        protection = (("pmpaddr0", ONES >> 10), ("pmpcfg0", 0x1F)) if paged else _protection()
        patches = tuple(CODE + AWAY * n + p.offset + 2 * rng.randrange(64) for n, p in enumerate(self.programs))
        return Scene(RAM_SIZE, tuple((at, data) for at, data in memory if data), protection, RAM, patches)

    def _tasks(self) -> bytes:
        """Each task's rows and its numbers."""
        tasks = b""
        for task in range(4):
            number, other = task >> 1, task & 1
            program, paged = self.programs[number], self.programs[0].paged
            away = ALIAS * other if paged else AWAY * number
            keep, first, vary = [], [], []
            for value in program.x:
                pointer = any(at <= value < at + size for at, size in ((CODE, CODE_SIZE), (SCRATCH, SCRATCH_SIZE)))
                operands = TABLE <= value < TABLE + TABLE_SIZE
                keep.append(0 if pointer or operands else ONES)
                first.append(value + (away if CODE <= value < CODE + CODE_SIZE else 0) if pointer or operands else 0)
                vary.append(0x1FF8 if operands else 0)
            mode = (SUM | MPP_S) * other
            rows = dwords(*keep, *first, *vary, program.start + away, 8 * number, mode)
            tasks += rows.ljust(TASK, b"\0")
        return tasks

    def smaller(self) -> Iterator[Rounds]:
        """Rounds whose programs have fewer items, or do nothing in their place."""
        for number, program in enumerate(self.programs):
            length = len(program.items)
            while length := length // 2:
                for at in range(0, len(program.items), length):
                    before, now, after = (
                        program.items[:at],
                        program.items[at : at + length],
                        program.items[at + length :],
                    )
                    yield self._with(number, (*before, *after))
                    if any(item != item.nop() for item in now):
                        yield self._with(number, (*before, *(item.nop() for item in now), *after))

    def _with(self, number: int, items: tuple[Item, ...]) -> Rounds:
        changed = replace(self.programs[number], items=items)
        return replace(self, programs=(changed, self.programs[1]) if number == 0 else (self.programs[0], changed))

    def show(self) -> str:
        """Both programs as assembly."""
        names = ("at its own place and below ALIAS", "at OTHER or in the second address space")
        return "\n".join(
            f"program {number}, {place}, fcsr={program.fcsr:#x}:\n{program.listing()}"
            for number, (program, place) in enumerate(zip(self.programs, names, strict=True))
        )
