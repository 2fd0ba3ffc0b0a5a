"""Random user-level programs: what they are made of, where they run, and the operands that they compute with.

`drawing.py` draws them. A program is a list of items, each a few instructions that only make sense together (an address
and the jump that uses it), with labels in place of addresses, so that `shrink.py` can drop items and `Program.link`
still makes sense of the rest.

Invariants: items are numbered by their labels in the order in which they stand; a linked program is followed by zeros,
which are illegal instructions, so that no program runs on. The f registers are shared out, for each program, between
singles (`Program.singles`) and doubles: see KNOWN in `user.py`.

    >>> item = Item(0, (disasm.encode("c.j", imm=0), disasm.encode("c.nop", imm=0)), (Reference(0, label=1),))
    >>> end = Item(1, (disasm.encode("ecall"),))
    >>> print(Program((item, end)).listing())
    0x80004000  a011      c.j 0x80004004
    0x80004002  0001      c.nop
    0x80004004  00000073  ecall
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache, lru_cache
from struct import pack

from vpod import disasm, isa

# Where things are for the program; both machines have it so. What lies between is not mapped: the holes.
CODE, CODE_SIZE = 0x8000_4000, 0x4000  # read, write, execute
SCRATCH, SCRATCH_SIZE = 0x8000_A000, 0x2000  # read, write
TABLE, TABLE_SIZE = 0x8001_0000, 0x8_0000  # read
MIDDLE = SCRATCH + SCRATCH_SIZE // 2  # where the pointers into scratch memory point to: a page ends here
HOLES = (CODE - 0x1000, SCRATCH - 0x1000, SCRATCH + SCRATCH_SIZE + 0x100, TABLE + TABLE_SIZE, 0, 1 << 40)

ONES = (1 << 64) - 1
BOX = 0xFFFF_FFFF_0000_0000


class Unlinkable(ValueError):
    """A reference to an item that is no longer there, or is too far away."""


# ---- operands --------------------------------------------------------------------------------------------------------

INTEGERS = tuple(
    value & ONES
    for bit in (0, 1, 5, 6, 7, 8, 15, 16, 31, 32, 33, 52, 62, 63, 64)
    for value in ((1 << bit) - 1, 1 << bit, (1 << bit) + 1, -(1 << bit), -(1 << bit) - 1)
)
EXTREMES = (0, 1, ONES, 1 << 63, (1 << 63) - 1, 1 << 31, ONES << 31 & ONES, (1 << 31) - 1, (1 << 32) - 1)
SINGLES = tuple(
    sign | bits
    for sign in (0, 1 << 31)
    for bits in (
        0x00000000, 0x00000001, 0x00000002, 0x003FFFFF, 0x00400000, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF,
        0x33800000, 0x34000000, 0x3EFFFFFF, 0x3F000000, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000, 0x40000000,
        0x40490FDB, 0x4B000000, 0x4B800001, 0x4EFFFFFF, 0x4F000000, 0x4F7FFFFF, 0x4F800000, 0x5EFFFFFF, 0x5F000000,
        0x5F7FFFFF, 0x5F800000, 0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FA12345, 0x7FBFFFFF,
        0x7FC00000, 0x7FC00001, 0x7FFFFFFF,
    )
)  # fmt: skip
DOUBLES = tuple(
    sign | bits
    for sign in (0, 1 << 63)
    for bits in (
        0x0000000000000000, 0x0000000000000001, 0x0008000000000000, 0x000FFFFFFFFFFFFF, 0x0010000000000000,
        0x0010000000000001, 0x001FFFFFFFFFFFFF, 0x3690000000000000, 0x36A0000000000000, 0x380FFFFFE0000000,
        0x380FFFFFFFFFFFFF, 0x3810000000000000, 0x3CA0000000000000, 0x3CB0000000000000, 0x3FDFFFFFFFFFFFFF,
        0x3FE0000000000000, 0x3FEFFFFFFFFFFFFF, 0x3FF0000000000000, 0x3FF0000000000001, 0x3FF0000010000000,
        0x3FF8000000000000, 0x4000000000000000, 0x400921FB54442D18, 0x41DFFFFFFFC00000, 0x41E0000000000000,
        0x41EFFFFFFFE00000, 0x41F0000000000000, 0x4340000000000001, 0x43DFFFFFFFFFFFFF, 0x43E0000000000000,
        0x43EFFFFFFFFFFFFF, 0x43F0000000000000, 0x47EFFFFFE0000000, 0x47EFFFFFF0000000, 0x47F0000000000000,
        0x7FE0000000000000, 0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF0000000000001, 0x7FF4DEADBEEF0000,
        0x7FF7FFFFFFFFFFFF, 0x7FF8000000000000, 0x7FF8000000000001, 0x7FFFFFFFFFFFFFFF,
    )
)  # fmt: skip


def single(rng: random.Random) -> int:
    """A biased single: a corner, near one in magnitude (so that sums cancel and round), or any bits."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(SINGLES)
    if kind < 0.8:
        return rng.getrandbits(1) << 31 | rng.randrange(0x7F - 14, 0x7F + 14) << 23 | fraction(rng, 23)
    return rng.getrandbits(32)


def double(rng: random.Random) -> int:
    """A biased double, in the same way."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(DOUBLES)
    if kind < 0.8:
        return rng.getrandbits(1) << 63 | rng.randrange(0x3FF - 30, 0x3FF + 30) << 52 | fraction(rng, 52)
    return rng.getrandbits(64)


def fraction(rng: random.Random, width: int) -> int:
    """Any bits, a few, or a run of ones: the last two make ties and long carries."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.getrandbits(width)
    if kind == 1:
        return 1 << rng.randrange(width) | 1 << rng.randrange(width)
    return (1 << width) - (1 << rng.randrange(width))


def integer(rng: random.Random) -> int:
    """A biased 64-bit integer: a boundary, a small number, or any bits of any width."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(EXTREMES if kind < 0.25 else INTEGERS)
    value = rng.getrandbits(rng.choice((4, 8, 16, 32, 40, 64, 64)))
    return value if kind < 0.8 else -value & ONES


def operand(rng: random.Random) -> int:
    """What a doubleword of the table holds: an integer, a double, or two singles."""
    kind = rng.random()
    if kind < 0.4:
        return integer(rng)
    return double(rng) if kind < 0.7 else single(rng) << 32 | single(rng)


@lru_cache(2)
def table(seed: int, number: int) -> bytes:
    """The operands that programs read, `TABLE_SIZE` bytes: table `number` of `seed`."""
    rng = random.Random(f"operands {seed} {number}")
    return pack(f"<{TABLE_SIZE // 8}Q", *(operand(rng) for _ in range(TABLE_SIZE // 8)))


# ---- items and programs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """Word `at` of an item goes to the item `label`: as a jump's offset, or as an auipc and the addi after it.

    Where that item was dropped, they go to the next one that is left, unless the reference is `exact`. A jump that does
    not reach goes to the next instruction, if it may be `near`. What is going to be patched must begin with `word`.
    """

    at: int
    label: int
    address: bool = False
    exact: bool = False
    near: bool = True
    word: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """Instructions that stay together. `repeats` marks those that begin a loop, whose first word is its count."""

    label: int
    words: tuple[int, ...]
    references: tuple[Reference, ...] = ()
    repeats: bool = False

    @property
    def size(self) -> int:
        return sum(4 if word & 3 == 3 else 2 for word in self.words)

    def nop(self) -> Item:
        """As many bytes that do nothing."""
        return Item(self.label, tuple(NOP if word & 3 == 3 else C_NOP for word in self.words))


NOP, C_NOP = disasm.encode("addi", rd=0, rs1=0, imm=0), disasm.encode("c.nop", imm=0)


@dataclass(frozen=True, slots=True)
class Program:
    """Items and the state they start in. `offset` is where in the code's memory it begins; `paged`: under Sv39."""

    items: tuple[Item, ...]
    x: tuple[int, ...] = (0,) * 32
    f: tuple[int, ...] = (0,) * 32
    fcsr: int = 0
    singles: frozenset[int] = frozenset()  # the f registers that hold singles
    scratch: bytes = field(default=bytes(SCRATCH_SIZE), repr=False)
    operands: tuple[int, int] = (0, 0)  # which table
    offset: int = 0
    paged: bool = False

    @property
    def start(self) -> int:
        return CODE + self.offset

    def link(self) -> bytes:
        """The program's bytes. Raises Unlinkable."""
        places: dict[int, int] = {}
        at = self.start
        starts = []
        for item in self.items:
            places[item.label] = at
            starts.append(at)
            at += item.size
        labels = sorted(places)
        first = {item.label: item.words[0] for item in self.items}
        code = bytearray()
        for item, start in zip(self.items, starts, strict=True):
            words = list(item.words)
            for reference in item.references:
                if reference.word not in (None, first.get(reference.label)):
                    raise Unlinkable(f"item {reference.label} is no longer what is to be patched")
                _resolve(words, reference, start, places, labels)
            for word in words:
                code += word.to_bytes(4 if word & 3 == 3 else 2, "little")
        if self.offset + len(code) > CODE_SIZE + 2:  # the last instruction may be half in the hole
            raise Unlinkable(f"{len(code)} bytes are too many")
        return bytes(code)

    def image(self) -> bytes:
        """All of the code's memory, with zeros around the program. Raises Unlinkable."""
        return (bytes(self.offset) + self.link()).ljust(CODE_SIZE, b"\0")[:CODE_SIZE]

    def listing(self) -> str:
        """The assembly text, an instruction a line; bytes that are no instruction are shown as data."""
        code = self.link()
        lines = []
        at = 0
        while at < len(code):
            word = int.from_bytes(code[at : at + 4], "little")
            size = isa.length(word)
            word &= (1 << 8 * size) - 1
            pc = self.start + at
            lines.append(f"{pc:#x}  {word:0{2 * size}x}{' ' * (10 - 2 * size)}{disasm.disassemble(word, pc)}")
            at += size
        return "\n".join(lines)


def _resolve(words: list[int], reference: Reference, start: int, places: dict[int, int], labels: list[int]) -> None:
    """Put the place of `reference.label` into the words of the item at `start`."""
    pc = start + sum(4 if word & 3 == 3 else 2 for word in words[: reference.at])
    word = words[reference.at]
    target = places.get(reference.label)
    if target is None:
        later = [label for label in labels if label > reference.label]
        if reference.exact or not later:
            raise Unlinkable(f"nothing is left of item {reference.label}")
        target = places[later[0]]
    offset = target - pc
    if reference.address:
        low = (offset & 0xFFF ^ 0x800) - 0x800
        words[reference.at] = word & 0xFFF | (offset - low & 0xFFFF_F000)
        words[reference.at + 1] = words[reference.at + 1] & 0xF_FFFF | (low & 0xFFF) << 20
        return
    size = 4 if word & 3 == 3 else 2
    slices = _target_slices(word)
    top = max(part.to + part.width for part in slices) - 1
    if not -(1 << top) <= offset < 1 << top:
        if not reference.near:
            raise Unlinkable(f"item {reference.label} is {offset} bytes away")
        offset = size
    words[reference.at] = word | sum(part.put(offset) for part in slices)


@cache
def _target_slices(word: int) -> tuple[isa.Slice, ...]:
    """Where the offset of this jump, drawn with an offset of 0, stands."""
    row = isa.find(word)
    if row is None or "target" not in row.operands:
        raise ValueError(f"{word:#x} is no jump")
    return row.fields["imm"]
