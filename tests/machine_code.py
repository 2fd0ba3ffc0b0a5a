"""A small vocabulary for tests of the core: an assembler, Sv39 page tables, a hart with a recording bus.

`assemble` knows every row of `vpod.isa` by the row's own syntax, so a program in a test is the specification's assembly
text. `Hart` wraps `vpod._cpu.Cpu`. Invariants: no run is unbounded (each has an instruction limit and ends at the label
`done`, or fails); nothing in here computes what an instruction does.

    >>> hart = Hart("li a0, 40\\n addi a0, a0, 2\\n done: j done")
    >>> hart.run().x("a0")
    42
    >>> hart.step("csrrw a0, 0x7c0, a1")                         # there is no such register
    Trap(cause=2, epc=2147487744, tval=2080740723, level=3)
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType

from vpod import _cpu, disasm, isa
from vpod.bus import AccessFault
from vpod.tier import Tier

RAM = 0x8000_0000
STEP = RAM + 0x1000  # where Hart.step puts its instruction
HANDLER = RAM + 0x2000  # M's trap vector of a fresh Hart: `j .`
S_HANDLER = RAM + 0x3000  # S's
TABLES = RAM + 0x10_0000  # page tables
U, S, M = 0, 1, 3
ONES = (1 << 64) - 1
INTERRUPT = 1 << 63

CSR = {name: number for number, name in disasm.CSR_NAMES.items()}

# ---- numbers ----------------------------------------------------------------------------------------------------


def signed(value: int, bits: int = 64) -> int:
    """`value` modulo 2**bits, as a two's complement number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


# ---- the assembler ------------------------------------------------------------------------------------------------

ALIASES = {  # pseudo-instructions that are one instruction with other words around the operands
    "nop": ("addi", "zero, zero, 0"),
    "mv": ("addi", "{0}, {1}, 0"),
    "not": ("xori", "{0}, {1}, -1"),
    "j": ("jal", "zero, {0}"),
    "jr": ("jalr", "zero, 0({0})"),
    "ret": ("jalr", "zero, 0(ra)"),
    "call": ("jal", "ra, {0}"),
    "beqz": ("beq", "{0}, zero, {1}"),
    "bnez": ("bne", "{0}, zero, {1}"),
    "csrr": ("csrrs", "{0}, {1}, zero"),
    "csrw": ("csrrw", "zero, {0}, {1}"),
    "csrs": ("csrrs", "zero, {0}, {1}"),
    "csrc": ("csrrc", "zero, {0}, {1}"),
    "csrwi": ("csrrwi", "zero, {0}, {1}"),
    "csrsi": ("csrrsi", "zero, {0}, {1}"),
    "csrci": ("csrrci", "zero, {0}, {1}"),
}
DATA = {".byte": 1, ".half": 2, ".word": 4, ".dword": 8}


@dataclass(frozen=True)
class Program:
    """Assembled bytes, the address of the first one, and where the labels are."""

    base: int
    code: bytes
    labels: Mapping[str, int] = field(repr=False)

    def __getitem__(self, label: str) -> int:
        return self.labels[label]


def assemble(source: str, base: int = RAM, **symbols: int) -> Program:
    """The program of `source`: one instruction a line or between semicolons, `#` comments, `label:` before any of them.

    Beside the rows of `vpod.isa` it knows the usual pseudo-instructions, `li` (any constant), `la` (any label),
    `.byte .half .word .dword VALUE, ...`, `.align BYTES` and `.space BYTES`. A value is a Python expression of labels,
    `symbols` and CSR names; `.` is the address of the line. Raises ValueError with the line it can't make sense of.
    """
    return _assemble(source, base, tuple(symbols.items()))


@functools.lru_cache(maxsize=1024)  # many tests begin with the same few lines
def _assemble(source: str, base: int, symbols: tuple[tuple[str, int], ...]) -> Program:
    lines = [part.strip() for line in source.splitlines() for part in line.split("#")[0].split(";")]
    names: dict[str, int] = {**CSR, **dict(symbols)}
    code = bytearray()
    for last in (False, True):  # sizes don't depend on labels, so two passes are enough
        code.clear()
        for line in lines:
            while found := re.match(r"(\w+):\s*", line):
                names[found[1]] = base + len(code)
                line = line[found.end() :]
            if line:
                try:
                    code += _line(line, base + len(code), names, last)
                except (ValueError, SyntaxError, TypeError) as error:
                    raise ValueError(f"{line!r}: {error}") from error
    return Program(base, bytes(code), names)


@functools.cache
def _expression(text: str) -> CodeType:
    return compile(text, "<operand>", "eval")


def _value(text: str, pc: int, names: Mapping[str, int], last: bool) -> int:
    text = re.sub(r"(?<![\w.])\.(?!\w)", str(pc), text.strip())
    try:
        return int(eval(_expression(text), {"__builtins__": {}}, names))
    except NameError:
        if last:
            raise ValueError(f"nothing is called {text}") from None
        return pc  # a label that comes later


def _line(line: str, pc: int, names: Mapping[str, int], last: bool) -> bytes:
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in DATA:
        size = DATA[name]
        values = [_value(part, pc, names, last) for part in rest.split(",")]
        return b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in values)
    if name == ".align":
        return bytes(-pc % _value(rest, pc, names, last))
    if name == ".space":
        return bytes(_value(rest, pc, names, last))
    if name == "li":
        register, _, text = rest.partition(",")
        return load_constant(register.strip(), _value(text, pc, names, True))
    if name == "la":
        register, _, text = rest.partition(",")
        offset = _value(text, pc, names, last) - pc
        upper = signed(offset + 0x800 & ~0xFFF, 32)
        return word("auipc", rd=register, imm=upper) + word("addi", rd=register, rs1=register, imm=signed(offset, 12))
    if name in ALIASES:
        name, pattern = ALIASES[name]
        rest = pattern.format(*(part.strip() for part in rest.split(",")))
    return _instruction(name, rest, pc, names, last)


def _instruction(name: str, text: str, pc: int, names: Mapping[str, int], last: bool) -> bytes:
    """One row of the table, its operands read by the row's own syntax."""
    ordering = 0
    for suffix, bits in ((".aqrl", 3), (".aq", 2), (".rl", 1)):
        if name.endswith(suffix) and name not in isa.BY_NAME:
            name, ordering = name.removesuffix(suffix), bits
            break
    row = isa.BY_NAME.get(name)
    if row is None:
        raise ValueError("no such instruction")
    wanted = [operand for operand in row.operands if not re.fullmatch(r"x\d+", operand)]
    given = [part for part in re.split(r"[,\s()]+", re.sub(r"\s*([-+*|&])\s*", r"\1", text)) if part]
    if row.format == "fence":
        return word(name, imm=0xFF)
    given = [part for part in given if len(given) == len(wanted) or part not in ("sp", "x2")]
    operands: dict[str, int | str] = {"imm": ordering} if "atomic" in row.flags else {}
    if len(given) == len(wanted) - 1 and wanted[-1] == "rm":
        wanted = wanted[:-1]
    for operand, part in zip(wanted, given, strict=True):
        where = isa.FIELD_OF_OPERAND[operand]
        if where in ("rd", "rs1", "rs2", "rs3") and operand != "uimm":
            operands[where] = part if part in disasm.REGISTERS else int(part.removeprefix("x"))
        elif operand == "rm":
            operands[where] = part
        else:
            value = _value(part, pc, names, last)
            value -= pc if operand == "target" and last else value if operand == "target" else 0
            operands[where] = signed(value << 12, 32) if operand == "upper" else value
    return word(name, **operands)


@functools.cache
def word(name: str, **operands: int | str) -> bytes:
    """The bytes of one instruction: `vpod.disasm.encode`, in memory order."""
    return disasm.encode(name, **operands).to_bytes(isa.BY_NAME[name].length, "little")


def load_constant(register: str, value: int) -> bytes:
    """`li`: from the top down, as few bits at a time as an addi takes."""
    value = signed(value)
    if -0x800 <= value < 0x800:
        return word("addi", rd=register, rs1="zero", imm=value)
    low = signed(value, 12)
    if -(1 << 31) <= value < 1 << 31:
        code = word("lui", rd=register, imm=signed(value - low, 32))
        return code + (word("addiw", rd=register, rs1=register, imm=low) if low else b"")
    code = load_constant(register, value - low >> 12) + word("slli", rd=register, rs1=register, imm=12)
    return code + (word("addi", rd=register, rs1=register, imm=low) if low else b"")


# ---- a bus that remembers -------------------------------------------------------------------------------------------


class RecordingBus:
    """Devices of a test: `registers` maps addresses to what they hold; accesses are logged, elsewhere they fault."""

    def __init__(self) -> None:
        self.registers: dict[int, int] = {}
        self.log: list[tuple[str, int, int, int]] = []

    def read(self, address: int, size: int) -> int:
        if address not in self.registers:
            raise AccessFault(f"nothing at {address:#x}")
        value = self.registers[address] & (1 << 8 * size) - 1
        self.log.append(("read", address, size, value))
        return value

    def write(self, address: int, size: int, value: int) -> None:
        if address not in self.registers:
            raise AccessFault(f"nothing at {address:#x}")
        self.registers[address] = value
        self.log.append(("write", address, size, value))


# ---- the hart ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trap:
    """What a trap left behind, and the privilege that it was taken to."""

    cause: int
    epc: int
    tval: int
    level: int = M


class Hart:
    """A `Cpu` with `source` at the start of RAM, PMP open to all modes, and `j .` at both trap vectors."""

    def __init__(
        self,
        source: str = "done: j done",
        *,
        ram: int = 4 << 20,
        bus: RecordingBus | None = None,
        tier: Tier | None = None,
        **symbols: int,
    ) -> None:
        self.bus = RecordingBus() if bus is None else bus
        self.cpu = _cpu.Cpu(self.bus, ram, tier=tier)
        self.program = self.load(source, RAM, **symbols)
        self.load("j .", HANDLER)
        self.load("j .", S_HANDLER)
        self.csr(mtvec=HANDLER, stvec=S_HANDLER, pmpaddr0=ONES, pmpcfg0=0x1F)

    def load(self, source: str, at: int, **symbols: int) -> Program:
        program = assemble(source, at, **symbols)
        self.cpu.write(at, program.code)
        return program

    # state by name

    def x(self, name: str) -> int:
        return int(self.cpu.x(disasm.REGISTERS[name]))

    def set(self, **registers: int) -> Hart:
        """Set integer registers by their ABI names, `pc` and `priv`."""
        for name, value in registers.items():
            if name in ("pc", "priv"):
                setattr(self.cpu, name, value)
            else:
                self.cpu.set_x(disasm.REGISTERS[name], value & ONES)
        return self

    def csr(self, **values: int) -> Hart:
        """Write control and status registers, as M-mode would."""
        for name, value in values.items():
            self.cpu.set_csr(CSR[name], value & ONES)
        return self

    def read(self, csr: str) -> int:
        return int(self.cpu.csr(CSR[csr]))

    def registers(self) -> list[int]:
        return [self.cpu.x(n) for n in range(32)]

    def dword(self, address: int) -> int:
        return int.from_bytes(self.cpu.read(address, 8), "little")

    def store(self, address: int, value: int, size: int = 8) -> Hart:
        self.cpu.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
        return self

    # running

    def run(self, limit: int = 100_000, done: str = "done") -> Hart:
        """Run to the label `done`, where the program spins; AssertionError if that takes over `limit` instructions."""
        target = self.program[done]
        spent = 0
        while self.cpu.pc != target and spent < limit:
            before = self.cpu.instret
            reason = self.cpu.run(min(64, limit - spent))
            spent += max(self.cpu.instret - before, 1)
            if reason not in (_cpu.EXIT_BUDGET, _cpu.EXIT_WFI):
                break
        if self.cpu.pc != target:
            raise AssertionError(f"not at {done} ({target:#x}) after {limit} instructions: {self.describe()}")
        return self

    def step(self, source: str, *, at: int = STEP, pc: int | None = None) -> Trap | None:
        """Execute one instruction in the present mode: put it at physical `at`, go to `pc` (default: the same), run it.

        Returns the trap that it took, or None.
        """
        self.load(source, at)
        self.cpu.pc = at if pc is None else pc
        return self.go()

    def go(self) -> Trap | None:
        """Execute the one instruction at pc; the trap that it took, or None."""
        self.cpu.run(1)
        return self.trap()

    def trap(self) -> Trap | None:
        """The trap whose handler the hart stands at; also of a vectored one."""
        for level, letter in ((M, "m"), (S, "s")):
            vector = self.read(f"{letter}tvec")
            cause = self.read(f"{letter}cause")
            entry = (vector & ~3) + (4 * (cause & 63) if vector & 1 and cause >> 63 else 0)
            if self.cpu.pc == entry and self.cpu.priv == level:
                return Trap(cause, self.read(f"{letter}epc"), self.read(f"{letter}tval"), level)
        return None

    def describe(self) -> str:
        return (
            f"pc={self.cpu.pc:#x} priv={self.cpu.priv} mcause={self.read('mcause'):#x} mepc={self.read('mepc'):#x} "
            f"mtval={self.read('mtval'):#x} scause={self.read('scause'):#x} stval={self.read('stval'):#x}"
        )


# ---- Sv39 page tables ---------------------------------------------------------------------------------------------

PTE_BITS = {letter: 1 << bit for bit, letter in enumerate("vrwxugad")}


def pte(pa: int, rights: str) -> int:
    """A page-table entry: `rights` are letters of `vrwxugad`."""
    return pa >> 12 << 10 | sum(PTE_BITS[letter] for letter in rights)


class PageTables:
    """Sv39 tables in a hart's RAM from `at` on, built by `map`. Privileged specification, "Sv39"."""

    def __init__(self, hart: Hart, at: int = TABLES) -> None:
        self.hart = hart
        self.root = at
        self.next = at + 0x1000
        hart.cpu.write(at, bytes(0x1000))

    @property
    def satp(self) -> int:
        return 8 << 60 | self.root >> 12

    def entry(self, va: int, level: int = 0) -> int:
        """The address of the entry for `va` at `level` (2: 1 GiB, 1: 2 MiB, 0: 4 KiB); tables above it are made."""
        table = self.root
        for above in range(2, level, -1):
            at = table + 8 * (va >> 12 + 9 * above & 511)
            if not self.hart.dword(at) & 1:
                self.hart.cpu.write(self.next, bytes(0x1000))
                self.hart.store(at, pte(self.next, "v"))
                self.next += 0x1000
            table = self.hart.dword(at) >> 10 << 12
        return table + 8 * (va >> 12 + 9 * level & 511)

    def map(self, va: int, pa: int, rights: str = "vrwxad", level: int = 0) -> PageTables:
        self.hart.store(self.entry(va, level), pte(pa, rights))
        return self

    def get(self, va: int, level: int = 0) -> int:
        return self.hart.dword(self.entry(va, level))

    def identity(self, rights: str = "vrwxad") -> PageTables:
        """The first 2 MiB of RAM where they are, one page at a time."""
        for page in range(RAM, RAM + 0x20_0000, 0x1000):
            self.map(page, page, rights)
        return self

    def on(self) -> PageTables:
        self.hart.csr(satp=self.satp)
        return self


def dwords(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *(value & ONES for value in values))
