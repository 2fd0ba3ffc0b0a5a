"""Draws random programs from the rows of the instruction table: see `programs.py` for what a program is.

Every row is drawn. Each turn of a loop reads fresh operands from a table by a pointer that advances, and folds what it
computes into an accumulator and into memory, so that values do not settle and an early difference is not lost.

Invariants: a program depends on (seed, number) alone. It ends, by a trap: branches go forward within their own body
or out of it, loops count a reserved register down, functions do not call. An `sc` comes only where the specification
leaves its result no choice. Nothing that is drawn writes the pointers, the counters, the link and the accumulator.

    >>> draw(seed=1, number=7) == draw(seed=1, number=7)
    True
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

from tests.machine_code import load_constant
from tests.proof.programs import (
    BOX,
    CODE,
    CODE_SIZE,
    HOLES,
    MIDDLE,
    ONES,
    SCRATCH,
    SCRATCH_SIZE,
    TABLE,
    TABLE_SIZE,
    Item,
    Program,
    Reference,
    double,
    integer,
    single,
    table,
)
from vpod import disasm, isa
from vpod.isa import Row

T = TypeVar("T")
LINK, STACK = 1, 2
FFLAGS, FRM, FCSR = 1, 2, 3
REACH = 0x1000  # the farthest from the operand pointer that a load reads
FOREIGN = (0x100, 0x105, 0x141, 0x142, 0x180, 0x300, 0x304, 0x341, 0x344, 0x3A0, 0x3B0, 0x7C0, 0xB00, 0xC01, 0xF14)

# ---- rows, ready to be drawn ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """A row's pools and places of registers, the bits of its immediate, and what its destination is.

    The pools: `to` and `of` integer destinations and sources, `at` and `from` pointers to store by and to load by,
    `s`, `d` and `e` floating-point registers that hold singles, doubles, either; `any` a number. An 8 behind them: x8
    to x15 only.
    """

    row: Row
    registers: tuple[tuple[str, int, int, bool], ...]  # (pool, lowest bit, what the field adds, is it written)
    immediate: int
    rounds: bool
    destination: str  # "", "x", "s" or "d"


def _shape(row: Row) -> Shape:
    base, _ = isa.expand(row)
    width = "s" if base.extension == "F" else "d"
    pools = {"rd": "to", "rs1": "of", "rs2": "of", "uimm": "any", "fd": width}
    pools |= dict.fromkeys(("fs1", "fs2", "fs3"), width)
    if base.flags & {"load", "store"}:
        pools["rs1"] = "at" if "store" in base.flags else "from"
    if base.name in ("fcvt.s.d", "fcvt.d.s"):
        pools |= {"fd": base.name[5], "fs1": base.name[7]}
    if base.name in ("fsw", "fmv.x.w"):  # they take the low half of whatever it is
        pools |= {"fs1": "e", "fs2": "e"}
    registers = tuple(
        (pools[name] + ("8" if row.bias(place) else ""), row.fields[place][0].low, row.bias(place), name[1:] == "d")
        for name in row.operands
        if name in pools
        for place in (isa.FIELD_OF_OPERAND[name],)
    )
    destination = pools["fd"] if "fd" in row.operands else "x" if "rd" in row.operands else ""
    immediate = sum(part.put(ONES) for part in row.fields.get("imm", ()))
    return Shape(row, registers, immediate, "rm" in row.fields, destination)


SHAPES = {row.name: _shape(row) for row in isa.ROWS}
_FLAGS = {row.name: isa.expand(row)[0].flags for row in isa.ROWS}
_ELSEWHERE = {"load", "store", "branch", "jump", "csr", "fence", "system"}
_GUARDED = ("fmin.s", "fmin.d", "fmax.s", "fmax.d")


def _shapes(wanted: Callable[[Row, frozenset[str]], object]) -> tuple[Shape, ...]:
    """The rows of which `wanted`, given the row and its base row's flags, says so."""
    return tuple(shape for name, shape in SHAPES.items() if wanted(shape.row, _FLAGS[name]))


COMPUTING = _shapes(lambda row, flags: not flags & {*_ELSEWHERE, "fp"} and row.name != "c.addi16sp")
FLOATING = _shapes(
    lambda row, flags: "fp" in flags and not flags & _ELSEWHERE and row.name not in _GUARDED and "rs3" not in row.fields
)
EXTREMA = tuple(SHAPES[name] for name in _GUARDED)
FUSED = _shapes(lambda row, flags: "rs3" in row.fields)
LOADS = _shapes(lambda row, flags: "load" in flags and "atomic" not in flags)
WIDE = tuple(shape for shape in LOADS if "ld" in shape.row.name or "fl" in shape.row.name)
STORES = _shapes(lambda row, flags: "store" in flags and "atomic" not in flags)
AMOS = _shapes(lambda row, flags: row.format == "amo")
RESERVING = (SHAPES["lr.w"], SHAPES["lr.d"])
BRANCHES = _shapes(lambda row, flags: "branch" in flags)
CSRS = _shapes(lambda row, flags: "csr" in flags)
PRIVILEGED = _shapes(lambda row, flags: row.extension == "Privileged")
DIRECT = (SHAPES["jal"], SHAPES["c.j"])
INDIRECT = (SHAPES["jalr"], SHAPES["c.jr"], SHAPES["c.jalr"])
QUIET = {  # arithmetic, whose results are never signalling NaNs
    "s": tuple(SHAPES[name] for name in ("fadd.s", "fsub.s", "fmul.s", "fdiv.s", "fsqrt.s", "fcvt.s.d", "fcvt.s.l")),
    "d": tuple(SHAPES[name] for name in ("fadd.d", "fsub.d", "fmul.d", "fdiv.d", "fsqrt.d", "fcvt.d.s", "fcvt.d.l")),
}


@cache
def encode(name: str, **operands: int) -> int:
    return disasm.encode(name, **operands)


def constant(register: int, value: int) -> tuple[int, ...]:
    """The words of `li`."""
    code = load_constant(disasm.X_NAMES[register], value)
    return tuple(int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4))


def size(words: tuple[int, ...]) -> int:
    return sum(4 if word & 3 == 3 else 2 for word in words)


# ---- drawing ----------------------------------------------------------------------------------------------------


class Drawer:
    """Draws one program."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = random.Random(f"program {seed} {number}")
        self.random = self.rng.random
        self.seed = seed
        self.labels = iter(range(1, 1 << 30))
        self.functions: list[int] = []
        self.forward: dict[int, Item] = {}  # items that were promised for a later label
        self.patchable: list[tuple[int, int]] = []  # (label, first word) of plain items
        self.times = 1  # how often what is being drawn is executed, at most
        self.advance = 0  # how far the operand pointer gets, at most
        self._share_out_registers()

    def _share_out_registers(self) -> None:
        few = self.rng.sample(range(8, 16), 3)
        self.operands, self.aligned, self.odd = few
        rest = [n for n in range(3, 32) if n not in few]
        self.outer, self.inner, self.total = self.rng.sample(rest, 3)
        free = [n for n in rest if n not in (self.outer, self.inner, self.total)]
        floats = list(range(32))
        while True:
            self.rng.shuffle(floats)
            cut = self.rng.randrange(8, 24)
            singles, doubles = floats[:cut], floats[cut:]
            if sum(8 <= n < 16 for n in doubles) >= 2:
                break
        self.singles = frozenset(singles)
        self.pointers = {
            self.operands: 0,  # when the program's length is known
            self.aligned: MIDDLE + 8 * self.rng.randrange(-64, 64),
            self.odd: MIDDLE - self.rng.choice((1, 2, 3, 4, 5, 6, 7, self.rng.randrange(-99, 99))),
            STACK: MIDDLE - 0x100 + self.rng.choice((0, 8, 2, 1, 0xF4)),
        }
        self.stores_into_code = self.random() < 0.06
        if self.stores_into_code:
            self.pointers |= {self.odd: 0, self.aligned: 0}  # when the program's place is known
        scratch = [self.aligned, self.odd]
        self.temporaries = tuple(free)
        pools = {
            "to": [*free, *free, 0],
            "of": [*free, *free, *range(32)],
            "at": [*scratch, STACK],
            "from": [*scratch, STACK, *[self.operands] * 5],
            "any": list(range(32)),
            "s": singles,
            "d": doubles,
            "e": floats,
        }
        self.pools = {name: tuple(pool) for name, pool in pools.items()}
        self.pools |= {f"{name}8": tuple(n for n in pool if 8 <= n < 16) for name, pool in pools.items()}

    # one instruction

    def pick(self, pool: tuple[T, ...]) -> T:
        return pool[int(self.random() * len(pool))]

    def shape(self, shapes: tuple[Shape, ...]) -> Shape:
        return shapes[int(self.random() * len(shapes))]

    def word(self, shape: Shape, **fixed: int) -> tuple[int, int]:
        """A word of `shape`, and its destination's number; `fixed` are registers by the name of their pool."""
        row = shape.row
        while True:
            word = row.match
            destination = 0
            for pool, low, bias, written in shape.registers:
                number = fixed[pool] if pool in fixed else self.pick(self.pools[pool])
                if written:
                    destination = number
                word |= number - bias << low
            if shape.immediate:
                word |= self.immediate(shape.immediate)
            if shape.rounds:
                word |= self.pick((0, 1, 2, 3, 4, 7, 7, 7)) << 12
            if not row.where or row.matches(word):
                return word, destination

    def immediate(self, bits: int) -> int:
        """Zero, all ones, a few ones, or anything, at these bits of the word."""
        kind = self.random()
        if kind < 0.1:
            return 0
        if kind < 0.2:
            return bits
        some = self.rng.getrandbits(32)
        return bits & (some & self.rng.getrandbits(32) if kind < 0.4 else some)

    def fold(self, destination: int, kind: str) -> tuple[int, ...]:
        """Instructions that add what is in the destination into the accumulator."""
        words: tuple[int, ...] = ()
        if kind in "sd":
            to = self.pick(self.temporaries)
            words = (encode("fmv.x.w" if kind == "s" else "fmv.x.d", rd=to, rs1=destination),)
            destination = to
        if not destination:
            return ()
        name = ("add", "sub", "xor", "c.add")[int(self.random() * 4)]
        if name == "c.add":
            return (*words, encode(name, rd=self.total, rs2=destination))
        return (*words, encode(name, rd=self.total, rs1=self.total, rs2=destination))

    def plain(self, shapes: tuple[Shape, ...]) -> tuple[int, ...]:
        """One computing instruction, and half of the time its result folded."""
        shape = self.shape(shapes)
        word, destination = self.word(shape)
        if shape.destination and self.random() < 0.5:
            return (word, *self.fold(destination, shape.destination))
        return (word,)

    def temporary(self, *others: int) -> int:
        """A free register that is none of `others`."""
        while (number := self.pick(self.temporaries)) in others:
            pass
        return number

    # items: each method gives the words of one, and its references

    def computing(self, label: int) -> Item:
        item = Item(label, self.plain(COMPUTING))
        self.patchable.append((label, item.words[0]))
        return item

    def floating(self, label: int) -> Item:
        kind = self.random()
        if kind < 0.1:
            return Item(label, self.extremum())
        if kind < 0.3:
            return Item(label, self.fused())
        return Item(label, self.plain(FLOATING))

    def extremum(self) -> tuple[int, ...]:
        """fmin or fmax of two results of arithmetic: see KNOWN, "fmin, fmax of a signalling NaN"."""
        shape = self.shape(EXTREMA)
        kind = shape.destination
        first, one = self.word(self.shape(QUIET[kind]))
        second, two = self.word(self.shape(QUIET[kind]))
        to = self.pick(self.pools[kind])
        word = shape.row.match | to << 7 | one << 15 | two << 20
        return (first, second, word, *self.fold(to, kind))

    def fused(self) -> tuple[int, ...]:
        """A fused operation with a finite addend or a finite factor other than 0: see KNOWN, "0 * inf + NaN"."""
        shape = self.shape(FUSED)
        kind = shape.destination
        number, of = self.pick(self.pools[kind]), self.temporary()
        word, to = self.word(shape)
        place = self.pick((15, 20, 27))
        before: tuple[int, ...] = ()
        if place != 27:
            source, of = of, self.temporary()
            before = (encode("ori", rd=of, rs1=source, imm=1),)
        convert = encode(f"fcvt.{kind}.l", rd=number, rs1=of, rm=self.pick((0, 1, 2, 3, 4)))
        word = word & ~(31 << place) | number << place
        return (*before, convert, word, *(self.fold(to, kind) if self.random() < 0.5 else ()))

    def load(self, label: int) -> Item:
        shape = self.shape(LOADS if self.random() < 0.5 else WIDE)
        if shape.destination == "x" and "x2" not in shape.row.operands and self.random() < 0.1:
            to = self.pick(self.pools["to8" if shape.row.length == 2 else "to"])  # the pointer is overwritten
            if to:
                alias = {pool: to for pool, _, _, _ in shape.registers}
                pointer = encode("addi", rd=to, rs1=self.aligned, imm=8 * self.rng.randrange(-100, 100))
                return Item(label, (pointer, self.word(shape, **alias)[0] & ~(1 << 31)))
        word, destination = self.word(shape)
        if shape.row.length == 4:
            word = self.placed(word, shape, 15)
        words = (word, *self.fold(destination, shape.destination)) if self.random() < 0.2 else (word,)
        return Item(label, words)

    def store(self, label: int) -> Item:
        shape = self.shape(STORES)
        word, _ = self.word(shape)
        return Item(label, (self.placed(word, shape, 15) if shape.row.length == 4 else word,))

    def placed(self, word: int, shape: Shape, low: int) -> int:
        """The same access, aligned half of the time, across the end of a page now and then."""
        kind = self.random()
        slices = shape.row.fields["imm"]
        base = self.pointers.get(word >> low & 31, 0)
        if kind < 0.06 and base:
            offset = MIDDLE - 1 - int(self.random() * 7) - base
            return word & ~shape.immediate | sum(part.put(offset) for part in slices)
        if kind < 0.5:
            return word & ~sum(part.put(7) for part in slices)
        return word

    def stack(self, label: int) -> Item:
        """c.addi16sp there and back, and an access between them."""
        amount = 16 * self.pick((-32, -9, -2, -1, 1, 2, 7, 31))
        way, back = encode("c.addi16sp", imm=amount), encode("c.addi16sp", imm=-amount if amount != -512 else 496)
        rest = (encode("c.addi16sp", imm=16),) if amount == -512 else ()
        word, _ = self.word(SHAPES[self.rng.choice(("c.sdsp", "c.swsp", "c.ldsp", "c.lwsp", "c.fldsp", "c.fsdsp"))])
        return Item(label, (way, word, back, *rest))

    def atomic(self, label: int) -> Item:
        """An AMO, or `lr` and `sc`; an `sc` alone or for another address fails."""
        at = self.temporary()
        point = encode("addi", rd=at, rs1=self.aligned, imm=8 * self.rng.randrange(-200, 200))
        if self.random() < 0.7:
            shape = self.shape(AMOS)
            word, to = self.word(shape, at=at)
            return Item(label, (point, word, *self.fold(to, "x")))
        return Item(label, (point, *self.reservation(at)))

    def reservation(self, at: int) -> tuple[int, ...]:
        """`lr` and `sc` at register `at`: in a pair, alone, or with others between, also for other addresses."""
        width, kind = self.rng.choice("wd"), self.random()
        load, _ = self.word(SHAPES[f"lr.{width}"], **{"from": at, "to": self.temporary(at)})
        store, to = self.word(SHAPES[f"sc.{width}"], at=at)
        last = (store, *self.fold(to, "x"))
        if kind < 0.15:
            return last
        between: list[int] = []
        for _ in range(self.rng.randrange(3)):
            word, written = self.word(self.shape(COMPUTING))
            if written != at:
                between.append(word)
        there, back = (encode("addi", rd=at, rs1=at, imm=imm) for imm in self.pick(((-64, 64), (8, -8))))
        if kind < 0.3:
            return (load, *between, there, *last)  # another address: fails
        if kind < 0.45:  # the one that fails, or succeeds, ends the reservation: then this fails
            other, first = self.word(SHAPES[f"sc.{width}"], at=at, to=self.temporary(at))
            ways = (there, other, back) if kind < 0.4 else (other,)
            return (load, *between, *ways, *self.fold(first, "x"), *last)
        if kind < 0.5:  # the second lr counts
            return (load, there, load, back, *last)
        return (load, *between, *last)

    def branch(self, label: int, target: int) -> Item:
        shape = self.shape(BRANCHES)
        return Item(label, (self.word(shape)[0] & ~shape.immediate,), (Reference(0, target),))

    def jump(self, label: int, target: int) -> Item:
        shape = self.shape(DIRECT if self.random() < 0.4 else INDIRECT)
        to = self.pick((*self.temporaries, 0, LINK))
        if shape.row.name == "jal":
            return Item(label, (encode("jal", rd=to, imm=0),), (Reference(0, target),))
        if shape.row.name == "c.j":
            return Item(label, (encode("c.j", imm=0),), (Reference(0, target),))
        return Item(label, self.indirect(shape.row.name, to), (Reference(0, target, address=True),))

    def indirect(self, name: str, to: int) -> tuple[int, ...]:
        """auipc, addi, and a jump to the register: with an offset that is taken off before, or none."""
        at = self.temporary() if self.random() < 0.9 else LINK
        words = (encode("auipc", rd=at, imm=0), encode("addi", rd=at, rs1=at, imm=0))
        if name != "jalr":
            return (*words, encode(name, rs1=at))
        away = self.rng.randrange(-2000, 2000)
        odd = int(self.random() * 2)  # the lowest bit of the sum is cleared
        less = encode("addi", rd=at, rs1=at, imm=-(away & ~1))
        return (*words, less, encode("jalr", rd=to, rs1=at, imm=(away & ~1) + odd))

    def call(self, label: int) -> Item:
        target = self.rng.choice(self.functions)
        name = self.rng.choice(("jal", "jalr", "c.jalr"))
        if name == "jal":
            return Item(label, (encode("jal", rd=LINK, imm=0),), (Reference(0, target, exact=True),))
        return Item(label, self.indirect(name, LINK), (Reference(0, target, address=True, exact=True),))

    def switch(self, label: int, targets: tuple[int, ...]) -> Item:
        """A jump to one of four jumps, by two bits of a register."""
        of, to = self.temporary(), self.temporary()
        word, base = encode("andi", rd=of, rs1=self.temporary(), imm=12), self.temporary(of)
        words = (
            word,
            encode("auipc", rd=base, imm=0),
            encode("add", rd=base, rs1=base, rs2=of),
            encode("jalr", rd=to, rs1=base, imm=12),
            *[encode("jal", rd=0, imm=0)] * len(targets),
        )
        return Item(label, words, tuple(Reference(4 + n, target) for n, target in enumerate(targets)))

    def csr(self, label: int) -> Item:
        """One of the three floating-point registers; what may be left in frm is made legal again, nearly always."""
        number = self.pick((FFLAGS, FFLAGS, FRM, FCSR))
        word, to = self.word(self.shape(CSRS))
        word = word & 0xF_FFFF | number << 20
        words = (word, *self.fold(to, "x"))
        if number != FFLAGS and self.random() < 0.99:
            words = (*words, encode("csrrwi", rd=0, imm=FRM, rs1=self.pick((0, 1, 2, 3, 4))))
        return Item(label, words)

    def flags(self, label: int) -> Item:
        """fflags read, and folded; sometimes cleared."""
        to = self.temporary()
        name = "csrrw" if self.random() < 0.5 else "csrrs"
        return Item(label, (encode(name, rd=to, imm=FFLAGS, rs1=0), *self.fold(to, "x")))

    def fence(self, label: int) -> Item:
        shape = SHAPES["fence" if self.random() < 0.6 else "fence.i"]
        return Item(label, (shape.row.match | self.rng.getrandbits(32) & ~shape.row.mask,))

    def patch(self, label: int, ahead: tuple[int, ...]) -> Item:
        """Stores over an instruction, which becomes another one, or itself again the second time; `fence.i`."""
        if ahead and self.random() < 0.5:
            target = self.rng.choice(ahead)
            if target not in self.forward:
                self.forward[target] = self.computing(target)
        if not self.patchable:
            return self.fence(label)
        # only once the same: two patches would make another word of it, which may be any
        target, old = self.patchable.pop(-1 - int(self.random() * min(len(self.patchable), 6)))
        length = isa.length(old)
        while True:
            shape = self.shape(COMPUTING)
            if shape.row.length == length:
                break
        new, _ = self.word(shape)
        at, was, becomes = self.rng.sample(self.temporaries, 3)
        # `becomes` is sign-extended, so a wider store has to leave what follows alone
        ways = [("lw", "sw"), ("ld", "sd")] if length == 4 else [("lhu", "sh"), ("lw", "sw"), ("ld", "sd")]
        read, write = self.rng.choice(ways if (old ^ new) >> 31 == 0 else ways[:1])
        words = (
            encode("auipc", rd=at, imm=0),
            encode("addi", rd=at, rs1=at, imm=0),
            *constant(becomes, (old ^ new ^ 1 << 31) - (1 << 31)),
            encode(read, rd=was, rs1=at, imm=0),
            encode("xor", rd=was, rs1=was, rs2=becomes),
            encode(write, rs2=was, rs1=at, imm=0),
            encode("fence.i"),
        )
        return Item(label, words, (Reference(0, target, address=True, exact=True, word=old),))

    # traps: each gives the words of an item that ends the program

    def trap(self, label: int) -> Item:
        ways = (
            (self.system, 6), (self.illegal, 2), (self.foreign, 1), (self.reserved_rounding, 1), (self.lost_load, 4),
            (self.lost_store, 4), (self.lost_atomic, 2), (self.misaligned_atomic, 1), (self.lost_jump, 2),
        )  # fmt: skip
        words = self.rng.choices([way for way, _ in ways], [weight for _, weight in ways])[0]()
        if self.random() < 0.5:  # only when a branch is not taken
            guard, _ = self.word(self.rng.choice([shape for shape in BRANCHES if shape.row.length == 4]))
            offset = 4 + size(words)
            imm = sum(part.put(offset) for part in isa.BY_NAME["beq"].fields["imm"])
            words = (guard & ~SHAPES["beq"].immediate | imm, *words)
        return Item(label, words)

    def system(self) -> tuple[int, ...]:
        names = ("ecall", "ebreak", "c.ebreak", *(shape.row.name for shape in PRIVILEGED))
        return (self.word(SHAPES[self.rng.choice(names)])[0],)

    def illegal(self) -> tuple[int, ...]:
        """A word that is no instruction, by the table; see KNOWN, "reserved compressed encodings"."""
        while True:
            word = self.rng.getrandbits(32) | 3
            if self.random() < 0.4:
                word = self.rng.getrandbits(16) & 0xE003 | self.pick((0, 0, self.rng.getrandbits(16) & 0x1FFC))
            passed_over = word & 0xE003 == 0x8000 or word & 0xFC43 == 0x9C41
            if isa.find(word) is None and word & 0x1F != 0x1F and not (isa.length(word) == 2 and passed_over):
                return (word,)

    def foreign(self) -> tuple[int, ...]:
        """A CSR that is not user level's."""
        word, _ = self.word(self.shape(CSRS))
        return (word & 0xF_FFFF | self.pick(FOREIGN) << 20,)

    def reserved_rounding(self) -> tuple[int, ...]:
        shape = self.shape(tuple(shape for shape in (*FLOATING, *FUSED) if shape.rounds))
        word, _ = self.word(shape)
        if self.random() < 0.5:
            return (word & ~(7 << 12) | self.pick((5, 6)) << 12,)
        return (encode("csrrwi", rd=0, imm=FRM, rs1=self.pick((5, 6, 7))), word | 7 << 12)

    def lost(self, shapes: tuple[Shape, ...], readable: bool) -> tuple[int, ...]:
        """An access to where nothing is, or, if it writes, where nothing may be written."""
        shape = self.shape(shapes)
        name = "from" if readable else "at"
        hole = self.rng.choice(HOLES) if readable or self.random() < 0.6 else TABLE + 0x1000
        if "x2" in shape.row.operands:
            return (*constant(STACK, hole), self.word(shape)[0])
        pool = self.pools["to8" if shape.row.length == 2 else "to"]
        at = self.pick(tuple(n for n in pool if n))
        word, _ = self.word(shape, **{name: at, f"{name}8": at})
        if shape.row.length == 4 and "atomic" not in shape.row.flags:
            word &= ~shape.immediate | sum(part.put(0x7F) for part in shape.row.fields["imm"])
        return (*constant(at, hole), word)

    def lost_load(self) -> tuple[int, ...]:
        if self.random() < 0.2:  # across the end of what is mapped
            shape = self.shape(tuple(shape for shape in LOADS if shape.row.name in ("ld", "lw", "lwu", "fld", "flw")))
            at = self.temporary()
            word, _ = self.word(shape, **{"from": at})
            where = constant(at, SCRATCH + SCRATCH_SIZE - self.rng.randrange(1, 4))
            return (*where, word & ~shape.immediate)
        return self.lost(LOADS, True)

    def lost_store(self) -> tuple[int, ...]:
        """See KNOWN, "stores that trap in their second half", for those across the end of what is mapped."""
        if self.random() < 0.9:
            return self.lost(STORES, False)
        shape = self.shape(tuple(shape for shape in STORES if shape.row.name in ("sd", "sw", "fsd", "fsw")))
        at = self.temporary()
        where = constant(at, SCRATCH + SCRATCH_SIZE - self.rng.randrange(1, 4))
        return (*where, self.word(shape, at=at)[0] & ~shape.immediate)

    def lost_atomic(self) -> tuple[int, ...]:
        return self.lost(AMOS, False) if self.random() < 0.7 else self.lost(RESERVING, True)

    def misaligned_atomic(self) -> tuple[int, ...]:
        shape = self.shape((*AMOS, *RESERVING))
        at = self.temporary()
        word, _ = self.word(shape, **{"from": at, "at": at})
        return (encode("addi", rd=at, rs1=self.aligned, imm=self.pick((1, 2, 3, 5, 6, 7))), word)

    def lost_jump(self) -> tuple[int, ...]:
        at = self.temporary()
        where = self.rng.choice((*HOLES, SCRATCH + 0x100, TABLE + 0x200)) + 2 * self.rng.randrange(16)
        name = self.shape(INDIRECT).row.name
        more = {"rd": self.temporary(), "imm": self.rng.randrange(2)} if name == "jalr" else {}
        return (*constant(at, where), encode(name, rs1=at, **more))

    # bodies and programs

    def body(self, count: int, after: int, depth: int, trap: bool = False) -> list[Item]:
        """`count` items in a row, then goes on to `after`; loops are `depth` deep in it."""
        labels = [next(self.labels) for _ in range(count)]
        ways = [*labels, after]
        items: list[Item] = []
        trapping = self.rng.randrange(count // 2, count) if trap else -1
        for index, label in enumerate(labels):
            ahead = tuple(ways[index + 1 : index + 6])
            if label in self.forward:
                items.append(self.forward.pop(label))
            elif index == trapping:
                items.append(self.trap(label))
            elif depth and self.random() < 0.06:
                items += self.loop(label, self.rng.randrange(3, 12), self.rng.randrange(2, 8), self.inner, depth - 1)
            else:
                items.append(self.item(label, ahead, tuple(labels[index + 1 : index + 6])))
        return items

    def item(self, label: int, ahead: tuple[int, ...], slots: tuple[int, ...]) -> Item:
        """Anything; `ahead` are the labels to go to, `slots` those that are not drawn yet."""
        kind = self.random()
        if kind < 0.28:
            return self.computing(label)
        if kind < 0.50:
            return self.floating(label)
        if kind < 0.69:
            return self.load(label)
        if kind < 0.79:
            return self.store(label)
        if kind < 0.83:
            return self.atomic(label)
        if kind < 0.89:
            return self.branch(label, self.pick(ahead))
        if kind < 0.92:
            return self.jump(label, self.pick(ahead))
        if kind < 0.94:
            return self.call(label) if self.functions else self.stack(label)
        if kind < 0.95:
            return self.switch(label, tuple(self.pick(ahead) for _ in range(4)))
        if kind < 0.97:
            return self.csr(label)
        if kind < 0.975:
            return self.stack(label)
        if kind < 0.985:
            return self.fence(label)
        return self.patch(label, slots)

    def loop(self, label: int, count: int, turns: int, counter: int, depth: int, trap: bool = False) -> list[Item]:
        """A body that is executed `turns` times at most, with its counter set before and flags read after it."""
        closing, after = next(self.labels), next(self.labels)
        self.times *= turns
        room = TABLE_SIZE // 2 - self.advance
        stride = min(8 * self.rng.randrange(1, 24), room // self.times & -8)
        self.advance += self.times * stride
        body = self.body(count, closing if self.random() < 0.8 else after, depth, trap)
        self.times //= turns
        start = Item(label, (encode("addi", rd=counter, rs1=0, imm=turns),), repeats=True)
        return [start, *body, self.close(closing, counter, stride, body), self.flags(after)]

    def close(self, label: int, counter: int, stride: int, body: list[Item]) -> Item:
        """The end of a loop: on to the next operands, the counter down, and while it isn't 0, back to the top."""
        top = body[0].label
        less = {"rd": counter, "imm": -1}
        words: tuple[int, ...] = (
            encode("addi", rd=self.operands, rs1=self.operands, imm=stride),
            encode("c.addi", **less) if self.random() < 0.5 else encode("addi", rs1=counter, **less),
        )
        length = sum(item.size for item in body)
        kind = self.random()
        if kind < 0.15 and length < 1900:
            words += (encode("beq", rs1=counter, rs2=0, imm=6), encode("c.j", imm=0))
        elif kind < 0.3:
            words += (encode("beq", rs1=counter, rs2=0, imm=8), encode("jal", rd=LINK, imm=0))
        elif length < 220 and 8 <= counter < 16:
            words += (encode("c.bnez", rs1=counter, imm=0),)
        else:
            name, one, two = self.rng.choice((("bne", counter, 0), ("blt", 0, counter), ("bltu", 0, counter)))
            words += (encode(name, rs1=one, rs2=two, imm=0),)
        return Item(label, words, (Reference(len(words) - 1, top, near=False),))

    def function(self) -> list[Item]:
        """Straight, without calls and jumps, and back."""
        labels = [next(self.labels) for _ in range(self.rng.randrange(2, 8))]
        draw = (self.computing, self.floating, self.load, self.store)
        items = [self.rng.choice(draw)(label) for label in labels]
        back = encode("c.jr", rs1=LINK) if self.random() < 0.5 else encode("jalr", rd=0, rs1=LINK, imm=0)
        self.functions.append(labels[0])
        return [*items, Item(next(self.labels), (back,))]

    def program(self, number: int) -> Program:
        """Maybe functions, then a straight line, one to three loops, or one that turns often."""
        kind, rng = self.random(), self.rng
        over, items = next(self.labels), []
        if rng.random() < 0.4:
            functions = [item for _ in range(rng.randrange(1, 3)) for item in self.function()]
            start = Item(next(self.labels), (encode("jal", rd=0, imm=0),), (Reference(0, over, near=False),))
            items = [start, *functions]
        items.append(self.flags(over))
        trap = rng.random() < 0.35
        if kind < 0.2:
            last = next(self.labels)
            items += [*self.body(rng.randrange(30, 90), last, 0, trap), self.flags(last)]
        elif kind < 0.97:
            rounds = rng.randrange(1, 4)
            for index in range(rounds):
                count, turns = rng.randrange(8, 40), rng.randrange(3, 40)
                items += self.loop(next(self.labels), count, turns, self.outer, 1, trap and index == rounds - 1)
        else:
            items += self.loop(next(self.labels), rng.randrange(8, 30), rng.randrange(300, 1000), self.outer, 0)
        return self.ended(number, items)

    def ended(self, number: int, items: list[Item]) -> Program:
        """The program of these items, with an end: mostly an ecall."""
        label, kind = next(self.labels), self.random()
        length = sum(item.size for item in items)
        call = Item(label, (encode("ecall"),))
        if kind < 0.1 and not self.stores_into_code:
            return self.finished(number, [*items, Item(next(self.labels), self.wild(length)), call])
        if kind < 0.15:  # runs into the hole; see KNOWN, "instructions that are half in a hole"
            last = Item(label, (self.word(self.shape(COMPUTING))[0],))
            return self.finished(number, [*items, last], CODE_SIZE - length - last.size)
        return self.finished(number, [*items, self.trap(label) if kind < 0.3 else call])

    def wild(self, length: int) -> tuple[int, ...]:
        """A jump or branch by any offset that does not lead back into the `length` bytes before it."""
        shape = self.shape((*DIRECT, *DIRECT, *BRANCHES))
        while True:
            word, _ = self.word(shape)
            if not -length <= shape.row.take("imm", word) < 8:
                return (word,)

    def finished(self, number: int, items: list[Item], offset: int | None = None) -> Program:
        """The program of these items: labels numbered as they come, a place found, registers and memory filled."""
        rng = self.rng
        order = {item.label: index for index, item in enumerate(items)}
        length = sum(item.size for item in items)
        if offset is None:  # a page ends in most programs
            offset = min(2 * rng.randrange(0x800, 0x1000), CODE_SIZE - 0x1100 - length)
        values = [integer(rng) for _ in range(32)]
        first = REACH + 8 * rng.randrange((TABLE_SIZE - 2 * REACH - self.advance) // 8)
        places = self.pointers | {self.operands: TABLE + first, 0: 0}
        if self.stores_into_code:  # behind the program, or, if that is at the end, before it
            behind = offset + length + 0x880
            places[self.odd] = CODE + (behind if behind < CODE_SIZE - 0x880 else offset - 0x880)
            places[self.aligned] = places[self.odd] & -8
        for register, value in places.items():
            values[register] = value
        at = 8 * rng.randrange((TABLE_SIZE - SCRATCH_SIZE) // 8)
        operands = self.seed, number // 4096
        return Program(
            items=tuple(
                Item(
                    order[item.label],
                    item.words,
                    tuple(replace(reference, label=order[reference.label]) for reference in item.references),
                    item.repeats,
                )
                for item in items
            ),
            x=tuple(values),
            f=tuple(single(rng) | BOX if n in self.singles else double(rng) for n in range(32)),
            fcsr=rng.randrange(5) << 5 | rng.randrange(32),
            singles=self.singles,
            scratch=table(*operands)[at : at + SCRATCH_SIZE],
            operands=operands,
            offset=offset,
            paged=bool(number & 1),
        )


def draw(seed: int, number: int) -> Program:
    """Program `number` of `seed`."""
    return Drawer(seed, number).program(number)
