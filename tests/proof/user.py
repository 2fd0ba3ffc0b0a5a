"""Target `user`: random user-level programs on the core and on Unicorn, whose states at the end must be equal.

Unicorn is QEMU's translator (5.0) as a library: independent of the core down to its decoder. Both machines run a
program (`programs.py`, `drawing.py`) in U-mode with the same memory at the same addresses; on the core it is either
protected by PMP or mapped by Sv39 to frames in another order, so that what crosses a page there is in two places. A
program ends with its first trap. Compared are all registers, `fcsr`, the memory that it could write, and the trap's
cause, value and pc.

Invariants: a program is run whole, at the core's full speed, and is compared once, at its end; the first ones of a
piece are also stepped, which must come to the same and tells which rows were executed. `instructions` counts what the
core retired. A piece depends on its arguments alone: `first` and `programs` number the programs of `seed`.

    >>> run(seed=1, first=0, programs=100).differences
    ()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import unicorn
from unicorn import riscv_const as names

from tests.machine_code import CSR, Hart, PageTables
from tests.proof.drawing import draw
from tests.proof.pieces import Form, Outcome, Piece
from tests.proof.programs import (
    BOX,
    CODE,
    CODE_SIZE,
    ONES,
    SCRATCH,
    SCRATCH_SIZE,
    TABLE,
    TABLE_SIZE,
    Item,
    Program,
    Unlinkable,
    table,
)
from tests.proof.shrink import shrink
from vpod import disasm, isa
from vpod._cpu import EXIT_WFI

LIMIT = 2_000_000  # instructions, many more than any program has
STEPPED, MOST_STEPPED = 40, 600  # programs of a piece that are also stepped: at least, and until all rows were seen
ENOUGH = 3  # differences, after which a piece stops
EVERY_ROW = {row.name for row in isa.ROWS}
PAGE = 0x1000
REGIONS = ((CODE, CODE_SIZE, "rwx"), (SCRATCH, SCRATCH_SIZE, "rw"), (TABLE, TABLE_SIZE, "r"))
FS = 0x6000

ILLEGAL, BREAKPOINT, LOAD_MISALIGNED = 2, 3, 4
FETCH, LOAD, STORE = 0, 1, 2
MISALIGNED, ACCESS_FAULTS, PAGE_FAULTS = (0, 4, 6), (1, 5, 7), (12, 13, 15)


@dataclass(frozen=True)
class End:
    """How a program ended: the trap, what it left in the registers and in its memory."""

    cause: int
    value: int
    pc: int
    fcsr: int
    x: list[int]
    f: list[int]
    scratch: bytes
    code: bytes
    instructions: int = 0


class Lost(Exception):
    """A machine did not come to the program's end, or did what no program can ask for."""


# ---- the core --------------------------------------------------------------------------------------------------------


class Core:
    """A hart in U-mode with the program's memory; at M's trap vector it stops."""

    RAM = 2 << 20
    HANDLER = 0x8000_0000
    FRAMES = 0x8010_0000

    def __init__(self, paged: bool) -> None:
        self.paged = paged
        self.hart = Hart(ram=self.RAM)
        self.cpu = self.hart.cpu
        self.hart.load("stop: wfi; j stop", self.HANDLER)
        self.hart.csr(mtvec=self.HANDLER)
        self.frames: dict[int, int] = {}
        pages = [page for at, size, _ in REGIONS for page in range(at, at + size, PAGE)]
        if paged:
            tables = PageTables(self.hart, 0x8001_0000)
            for number, page in enumerate(pages):  # 5 and the number of pages have no common divisor
                self.frames[page] = self.FRAMES + PAGE * (number * 5 % len(pages))
                rights = next(rights for at, size, rights in REGIONS if at <= page < at + size)
                tables.map(page, self.frames[page], f"vuad{rights}")
            if len(set(self.frames.values())) != len(pages):
                raise AssertionError("two pages have one frame")
            self.satp = tables.satp
        else:
            self.satp = 0
            self.frames = {page: page for page in pages}
            self._protect()

    def _protect(self) -> None:
        """PMP: a pair of entries a region, TOR. Privileged specification, "Physical Memory Protection CSRs"."""
        config = 0
        for number, (at, size, rights) in enumerate(REGIONS):
            bits = 1 << 3 | sum(1 << "rwx".index(right) for right in rights)
            config |= bits << 8 * (2 * number + 1)
            self.cpu.set_csr(CSR["pmpaddr0"] + 2 * number, at >> 2)
            self.cpu.set_csr(CSR["pmpaddr0"] + 2 * number + 1, at + size >> 2)
        self.hart.csr(pmpcfg0=config)

    def write(self, address: int, data: bytes) -> None:
        """Put `data` at the program's page-aligned `address`."""
        if not self.paged:
            self.cpu.write(address, data)
            return
        for at in range(0, len(data), PAGE):
            self.cpu.write(self.frames[address + at], data[at : at + PAGE])

    def read(self, address: int, length: int) -> bytes:
        if not self.paged:
            return self.cpu.read(address, length)
        return b"".join(self.cpu.read(self.frames[address + at], PAGE) for at in range(0, length, PAGE))

    def prepare(self, program: Program, code: bytes) -> None:
        cpu = self.cpu
        self.write(CODE, code)
        self.write(SCRATCH, program.scratch)
        for n in range(32):
            cpu.set_x(n, program.x[n])
            cpu.set_f(n, program.f[n])
        # satp, so that nothing translated before is left: a program behaves alike wherever it stands in a piece
        self.hart.csr(satp=self.satp, mstatus=FS, mcause=0, mepc=0, mtval=0, fcsr=program.fcsr)
        cpu.priv = 0
        cpu.pc = program.start

    def run(self, program: Program, code: bytes) -> End:
        """The whole program. Raises Lost."""
        self.prepare(program, code)
        before = self.cpu.instret
        reason = self.cpu.run(LIMIT)
        if reason != EXIT_WFI:
            raise Lost(f"the core: not at its end after {LIMIT} instructions, pc {self.cpu.pc:#x}")
        return self.end(self.cpu.instret - before - 1)  # without the handler's wfi

    def step(self, program: Program, code: bytes, seen: set[str]) -> End:
        """The same, an instruction at a time, adding the names of the rows that are executed to `seen`."""
        self.prepare(program, code)
        cpu = self.cpu
        for retired in range(LIMIT):
            pc = cpu.pc
            if cpu.priv == 3:
                return self.end(retired - 1)
            if self.executable(pc):
                seen.add(row_of(self.fetch(pc)))
            cpu.run(1)
        raise Lost(f"the core, stepping: not at its end after {LIMIT} instructions, pc {cpu.pc:#x}")

    def executable(self, pc: int) -> bool:
        return CODE <= pc < CODE + CODE_SIZE

    def fetch(self, pc: int) -> int:
        """The halfwords at pc, of which the second is 0 past the end of the code."""
        low = int.from_bytes(self.cpu.read(self.frames[pc & -PAGE] + pc % PAGE, 2), "little")
        pc += 2
        if low & 3 != 3 or not self.executable(pc):
            return low
        return low | int.from_bytes(self.cpu.read(self.frames[pc & -PAGE] + pc % PAGE, 2), "little") << 16

    def end(self, instructions: int) -> End:
        cpu, csr = self.cpu, self.cpu.csr
        return End(
            cause=csr(CSR["mcause"]),
            value=csr(CSR["mtval"]),
            pc=csr(CSR["mepc"]),
            fcsr=csr(CSR["fcsr"]),
            x=[cpu.x(n) for n in range(32)],
            f=[cpu.f(n) for n in range(32)],
            scratch=self.read(SCRATCH, SCRATCH_SIZE),
            code=self.read(CODE, CODE_SIZE),
            instructions=instructions,
        )


@cache
def row_of(word: int) -> str:
    """The name of the row that matches, or "illegal"."""
    row = isa.find(word)
    return row.name if row else "illegal"


# ---- Unicorn ---------------------------------------------------------------------------------------------------------

X = [names.UC_RISCV_REG_X0 + n for n in range(32)]
F = [names.UC_RISCV_REG_F0 + n for n in range(32)]
KINDS = {
    unicorn.UC_MEM_READ_UNMAPPED: LOAD, unicorn.UC_MEM_READ_PROT: LOAD,
    unicorn.UC_MEM_WRITE_UNMAPPED: STORE, unicorn.UC_MEM_WRITE_PROT: STORE,
    unicorn.UC_MEM_FETCH_UNMAPPED: FETCH, unicorn.UC_MEM_FETCH_PROT: FETCH,
}  # fmt: skip


class Oracle:
    """Unicorn in U-mode. It delivers no traps: it tells its hooks, and these are made a trap of here, in `trap`."""

    def __init__(self) -> None:
        self.machine: Any = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        bits = {"r": unicorn.UC_PROT_READ, "w": unicorn.UC_PROT_WRITE, "x": unicorn.UC_PROT_EXEC}
        for at, size, rights in REGIONS:
            self.machine.mem_map(at, size, sum(bits[right] for right in rights))
        self.machine.reg_write(names.UC_RISCV_REG_MSTATUS, FS)
        self.machine.reg_write(names.UC_RISCV_REG_PRIV, 0)
        self.told: list[tuple[str, int, int]] = []  # what the hooks were told: (hook, number or kind, address)
        self.machine.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.machine.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._invalid)
        self.machine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._memory)

    def _interrupt(self, machine: Any, number: int, _: object) -> None:
        self.told.append(("interrupt", number, 0))
        machine.emu_stop()

    def _invalid(self, machine: Any, _: object) -> bool:
        self.told.append(("invalid", 0, 0))
        return False

    def _memory(self, machine: Any, kind: int, address: int, size: int, value: int, _: object) -> bool:
        self.told.append(("memory", KINDS[kind], address))
        return False

    def write(self, address: int, data: bytes) -> None:
        self.machine.mem_write(address, data)

    def run(self, program: Program, code: bytes, count: int = 0) -> End:
        """The whole program, or `count` instructions of it. Raises Lost."""
        machine = self.machine
        machine.ctl_remove_cache(CODE, CODE + CODE_SIZE)
        machine.mem_write(CODE, code)
        machine.mem_write(SCRATCH, program.scratch)
        machine.reg_write_batch([*zip(X, program.x, strict=True), *zip(F, program.f, strict=True)])
        machine.reg_write(names.UC_RISCV_REG_FCSR, program.fcsr)
        self.told.clear()
        try:
            machine.emu_start(program.start, 0, count=count)
        except unicorn.UcError as error:
            if not self.told:
                raise Lost(f"Unicorn: {error}") from error
        if not self.told:
            raise Lost(f"Unicorn: not at its end after {count} instructions")
        values = [value & ONES for value in machine.reg_read_batch([*X, *F])]
        memory = bytes(machine.mem_read(CODE, CODE_SIZE))
        cause, value, pc = self.trap(machine.reg_read(names.UC_RISCV_REG_PC), memory, values, program.paged)
        return End(
            cause, value, pc, machine.reg_read(names.UC_RISCV_REG_FCSR), values[:32], values[32:],
            bytes(machine.mem_read(SCRATCH, SCRATCH_SIZE)), memory,
        )  # fmt: skip

    def trap(self, pc: int, code: bytes, x: Sequence[int], paged: bool) -> tuple[int, int, int]:
        """Cause, value and pc of the trap that the hooks were told of.

        After an interrupt hook pc has gone on by 4, whatever the instruction's length. The value of an illegal
        instruction is the instruction, which vpod chose of what the privileged specification allows in "Machine Trap
        Value Register"; that section makes it an address or 0 for a breakpoint, and 0 for an environment call.
        """
        hook, number, address = self.told[0]
        if hook == "interrupt":
            pc = pc - 4 & ONES
        word = int.from_bytes(code[max(pc - CODE, 0) : max(pc - CODE, 0) + 4], "little")
        word &= (1 << 8 * isa.length(word)) - 1
        if hook == "invalid":
            return BREAKPOINT, pc, pc
        if hook == "interrupt":
            if number != LOAD_MISALIGNED:
                return number, word if number == ILLEGAL else 0, pc
            kind, address, causes = LOAD, x[word >> 15 & 31], MISALIGNED  # an atomic: no others must be aligned
        else:
            kind, causes = number, PAGE_FAULTS if paged else ACCESS_FAULTS
        row = isa.find(word) if kind == LOAD else None
        if row is not None and row.format == "amo":
            kind = STORE  # "AMOs never raise load faults", says the privileged specification; Unicorn tells of the load
        return causes[kind], address, pc


# ---- comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What Unicorn does otherwise, and what decides for us.

    `shows` is assembly whose end differs for this reason alone, which keeps this table honest. Such programs are not
    drawn, because another oracle has them, or, where `explains` is given, their difference is told from others by it.
    """

    name: str
    decides: str
    shows: str
    explains: Callable[[Program, End, End], bool] | None = None
    offset: int = 0  # of `shows` in the code's memory


def _half_stored(program: Program, ours: End, theirs: End) -> bool:
    """Whether all that differs are the bytes before the end of the memory, across which the last store went."""
    tail = SCRATCH_SIZE - 7
    across = ours.cause in (ACCESS_FAULTS[STORE], PAGE_FAULTS[STORE]) and ours.value == SCRATCH + SCRATCH_SIZE
    mended = replace(theirs, scratch=theirs.scratch[:tail] + ours.scratch[tail:])
    return across and not differences(program, ours, mended)


# Registers for `shows`: s0 points to the middle of the scratch memory, s1 to its end.
KNOWN = (
    Known(
        "fmin, fmax of a signalling NaN",
        'Unprivileged specification, "Single-Precision Floating-Point Computational Instructions": if one operand is a '
        "NaN, the result is the other, and a signalling NaN sets the invalid flag. QEMU 5.0 has the older F, in which "
        "the result for a signalling NaN is the canonical NaN. `floats` has them.",
        "lui t0, 0x7f801; fmv.w.x ft0, t0; fmin.s ft1, ft0, ft2; ecall",
    ),
    Known(
        "0 * inf + NaN",
        "Unprivileged specification, same section: fused multiply-adds set the invalid flag when the factors are "
        "infinity and zero, even when the addend is a quiet NaN. QEMU 5.0 does not. `floats` has them.",
        "lui t0, 0x7f800; fmv.w.x ft0, t0; lui t0, 0x7fc00; fmv.w.x ft2, t0; fmv.w.x ft1, zero; "
        "fmadd.s ft3, ft0, ft1, ft2; ecall",
    ),
    Known(
        "singles that are not boxed",
        'Unprivileged specification, "NaN Boxing of Narrower Values": an operand that is no valid NaN box counts as '
        "the canonical NaN, and results are boxed. QEMU 5.0 does neither, so a program's singles and doubles keep to "
        "their own registers, and the upper halves of singles must be boxes on our side. `floats` has the rest.",
        "fmv.d.x ft0, zero; fadd.s ft0, ft0, ft0; fclass.s t0, ft0; ecall",
    ),
    Known(
        "sc by value",
        'Unprivileged specification, "Load-Reserved/Store-Conditional Instructions": whether an sc succeeds depends on '
        "the reservation; QEMU 5.0 compares the value in memory instead. What the hart's own stores between lr and "
        "sc do to the reservation is left open, so there are none.",
        "lr.d t0, (s0); sd s1, 0(s0); sc.d t1, t0, (s0); ecall",
    ),
    Known(
        "reserved compressed encodings",
        'Unprivileged specification, "RVC Instruction Set Listings": quadrant 0 with funct3 100 and '
        "the two that follow c.addw are reserved. QEMU 5.0 passes over them. `encodings` has all of them.",
        ".half 0x8000; ecall",
    ),
    Known(
        "stores that trap in their second half",
        'Unprivileged specification, "Load and Store Instructions": misaligned stores need not be atomic, so what was '
        "stored before the trap is left open. Here that is nothing, in QEMU 5.0 a part.",
        "li t0, -1; sd t0, -4(s1); ecall",
        _half_stored,
    ),
    Known(
        "instructions that are half in a hole",
        'Privileged specification, "Machine Exception Program Counter": mepc is the address of the instruction that '
        "trapped, so those before it are done. Unicorn stops before a run of instructions that ends with one whose "
        "second half is not there. `privileged` has such instructions.",
        "addi t0, t0, 1; addi t0, t0, 1; addi t0, t0, 1",
        offset=CODE_SIZE - 10,
    ),
)


def differences(program: Program, ours: End, theirs: End) -> list[str]:
    """What differs, one line each, the trap first."""
    found = [
        f"{name}: {getattr(ours, name):#x}, Unicorn {getattr(theirs, name):#x}"
        for name in ("cause", "value", "pc", "fcsr")
        if getattr(ours, name) != getattr(theirs, name)
    ]
    for n, (mine, other) in enumerate(zip(ours.x, theirs.x, strict=True)):
        if mine != other:
            found.append(f"{disasm.X_NAMES[n]}: {mine:#x}, Unicorn {other:#x}")
    for n, (mine, other) in enumerate(zip(ours.f, theirs.f, strict=True)):
        if n in program.singles:
            other |= BOX
        if mine != other:
            found.append(f"{disasm.F_NAMES[n]}: {mine:#x}, Unicorn {other:#x}")
    for start, one, two in ((SCRATCH, ours.scratch, theirs.scratch), (CODE, ours.code, theirs.code)):
        if one != two:
            at = next(at for at in range(len(one)) if one[at] != two[at])
            found.append(f"memory at {start + at:#x}: {one[at : at + 8].hex(' ')}, Unicorn {two[at : at + 8].hex(' ')}")
    return found


@dataclass(frozen=True)
class Verdict:
    """One program on both machines: what differs, unless `known`; instructions, and whether stepping was the same."""

    differences: list[str]
    instructions: int = 0
    known: str = ""


class Bench:
    """Both machines, and the operands in their memory."""

    def __init__(self) -> None:
        self.cores = {paged: Core(paged) for paged in (False, True)}
        self.oracle = Oracle()
        self.operands = b""

    def load(self, operands: bytes) -> None:
        """Put the table of operands into all machines, unless it is there."""
        if operands != self.operands:
            self.operands = operands
            for core in self.cores.values():
                core.write(TABLE, operands)
            self.oracle.write(TABLE, operands)

    def ours(self, program: Program, image: bytes) -> End:
        return self.cores[program.paged].run(program, image)

    def compare(self, program: Program, *, bounded: bool = False) -> Verdict:
        """Run it on both; `bounded` for programs that were changed, which may never end. Raises Unlinkable."""
        image = program.image()
        self.load(table(*program.operands))
        try:
            ours = self.ours(program, image)
        except Lost as lost:
            try:
                self.oracle.run(program, image, LIMIT)
            except Lost:
                return Verdict([])
            return Verdict([str(lost)])
        try:
            theirs = self.oracle.run(program, image, 4 * ours.instructions + 100_000 if bounded else 0)
        except Lost as lost:
            return Verdict([] if bounded else [str(lost)], ours.instructions)
        found = differences(program, ours, theirs)
        for known in KNOWN if found else ():
            if known.explains is not None and known.explains(program, ours, theirs):
                return Verdict([], ours.instructions, known.name)
        return Verdict(found, ours.instructions)

    def stepped(self, program: Program, seen: set[str]) -> list[str]:
        """Step it: what is otherwise than when it is run; adds the rows that were executed to `seen`."""
        image = program.image()
        self.load(table(*program.operands))
        try:
            ours, stepped = self.ours(program, image), self.cores[program.paged].step(program, image, seen)
        except Lost as lost:
            return [str(lost)]
        found = [line.replace("Unicorn", "stepped") for line in differences(program, ours, stepped)]
        if ours.instructions != stepped.instructions:
            found.append(f"instret: {ours.instructions}, stepped {stepped.instructions}")
        return found

    def unchanged(self) -> list[str]:
        """Differences in the memory that no program can write."""
        return [
            f"the core ({'paged' if paged else 'PMP'}) changed the operands, which are read-only"
            for paged, core in self.cores.items()
            if core.read(TABLE, TABLE_SIZE) != self.operands
        ]


# ---- failures --------------------------------------------------------------------------------------------------------


# Instructions that do what both machines agree on only with those beside them: see KNOWN.
FIRM = {row.name for row in isa.ROWS if row.format in ("lr", "sc", "ffff.rm") or row.name.startswith(("fmin", "fmax"))}


def simpler_item(item: Item) -> Iterator[Item]:
    """Fewer turns, or one instruction less."""
    if item.repeats:
        turns = item.words[0] >> 20
        for fewer in sorted({1, 2, turns // 2, turns - 1}):
            if 0 < fewer < turns:
                yield replace(item, words=(item.words[0] & 0xF_FFFF | fewer << 20,))
    elif len(item.words) > 1 and not item.references and FIRM.isdisjoint(map(row_of, item.words)):
        for index in range(len(item.words)):
            yield replace(item, words=item.words[:index] + item.words[index + 1 :])


def is_of_trap(found: list[str]) -> bool:
    """Whether the machines part in their traps, and not only in what they computed."""
    return any(line.startswith(("cause", "value", "pc")) for line in found)


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """The smallest program found that `fails`: fewer items, fewer turns, registers and memory of zeros."""
    items = shrink(
        program.items,
        lambda items: fails(replace(program, items=tuple(items))),
        blank=Item.nop,
        simpler=simpler_item,
        unfit=(Unlinkable,),
        tries=1000,
    )
    program = replace(program, items=tuple(items))
    for simplified in (
        lambda program: replace(program, scratch=bytes(SCRATCH_SIZE)),
        lambda program: replace(program, fcsr=0),
        lambda program: replace(program, offset=0),
        lambda program: replace(program, paged=False),
    ):
        if fails(simplified(program)):
            program = simplified(program)
    values = shrink(
        tuple(enumerate(program.x + program.f)),
        lambda values: fails(_with_values(program, values)),
        blank=lambda pair: (pair[0], BOX if pair[0] - 32 in program.singles else 0),
    )
    return _with_values(program, values)


def _with_values(program: Program, values: Sequence[tuple[int, int]]) -> Program:
    """The program with these registers (x, then f, by their numbers); those left out are 0."""
    state = [BOX if n - 32 in program.singles else 0 for n in range(64)]
    for number, value in values:
        state[number] = value
    return replace(program, x=tuple(state[:32]), f=tuple(state[32:]))


def report(bench: Bench, program: Program, seed: int, number: int, found: list[str]) -> str:
    """The failing program, shrunk and printed, its first difference, and how to see it again.

    What differs only after the programs before it is printed as it is.
    """

    def fails(candidate: Program) -> bool:
        now = bench.compare(candidate, bounded=True).differences
        return bool(now) and (is_of_trap(found) or not is_of_trap(now))

    if fails(program):
        program = shrunk(program, fails)
    again = bench.compare(program, bounded=True).differences
    shown = again or [*found[:1], "not when it is run again", *found[1:]]
    values = zip((*disasm.X_NAMES, *disasm.F_NAMES), program.x + program.f, strict=True)
    state = [f"{name}={value:#x}" for name, value in values if value not in (0, BOX)]
    return "\n".join(
        (
            f"program {number} of seed {seed}, in U-mode under {'Sv39' if program.paged else 'PMP'}: {shown[0]}",
            *(f"  {line}" for line in shown[1:4]),
            f"from fcsr={program.fcsr:#x} {' '.join(state)}",
            program.listing(),
            f"whole: python -m tests.proof piece user seed={seed} first={number} programs=1",
        )
    )


# ---- the target ------------------------------------------------------------------------------------------------------


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    count, programs = (4, 5_000) if form == "short" else (8, 45_000)
    return [
        Piece("user", {"seed": seed, "first": n * programs, "programs": programs}, 60 + programs // 25)
        for n in range(count)
    ]


def run(*, seed: int, first: int, programs: int) -> Outcome:
    """Compare `programs` programs of `seed`, from number `first` on; it stops when enough of them differ."""
    bench, seen, known = Bench(), set[str](), Counter[str]()
    found: list[str] = []
    instructions = 0
    for number in range(first, first + programs):
        program = draw(seed, number)
        verdict = bench.compare(program)
        instructions += verdict.instructions
        known[verdict.known] += 1
        if verdict.differences:
            found.append(report(bench, program, seed, number, verdict.differences))
        stepping = number - first < (STEPPED if seen >= EVERY_ROW else MOST_STEPPED)
        if stepping and (otherwise := bench.stepped(program, seen)):
            found.append(f"program {number} of seed {seed}, stepped: {', '.join(otherwise[:3])}")
        if len(found) >= ENOUGH:
            break
    found += bench.unchanged()
    del known[""]
    counts = {"instructions": instructions, "programs": number + 1 - first}
    return Outcome(counts, tuple(found), dict(known), tuple(sorted(EVERY_ROW - seen)))
