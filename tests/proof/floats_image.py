"""The bare-metal image behind the target `floats`: operand sets into RAM, then every instruction over all of them.

It works in blocks of `BLOCK` sets of three operands. A block is filled by the guest itself, either with the cross
product of a list of specials or with random sets: a template made by the host, each operand of it changed in bits that
a random mask allows, and some sets made near an exact product, so that fused sums cancel and quotients and roots tie.
Then comes one loop a `Pass`, an instruction in a rounding mode. The loop over block b uses

* the mode in frm when b is even, the mode in the instruction when b is odd; frm then holds another one or a reserved
  value, which must not matter, and doesn't to instructions without a mode either;
* fflags cleared before each instruction, but for every eighth block of random sets set to one of its 32 values, which
  must stick.

What a pass leaves is one word a block: a hash of all results and flags. `detail` instead keeps them, for one pass.

Invariants: a set's operands depend on the source, the seed and the set's number alone, not on which blocks an image
has; each step of the hash is one-to-one in the hash before it, so one wrong bit anywhere in a block always shows, and
shifts what it multiplies, so that two wrong signs don't cancel. All registers of the operation are drawn from `seed`,
and its destination may be one of its sources.

    >>> sweep = Sweep("", (Pass("fadd.d", 1),), Cross((0, 1 << 63), 2), blocks=1, detail=True)
    >>> details(on_vpod(sweep.image(), length=sweep.length).memory)[1]      # -0 + 0 is 0, and raises no flag
    ((9223372036854775808, 0, 0), (0, 0))
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.machine_code import RAM, assemble
from tests.proof.board import FINISHER, USABLE
from vpod import disasm, isa
from vpod.isa import Row

BLOCK = 2048
TEMPLATES = 8192
MASKS = 64
ONES = (1 << 64) - 1
DYNAMIC = 7
# where things are, from the start of RAM
MASKS_AT, SOURCES_AT, SETS_AT, RESULTS_AT = 0x8_0000, 0x10_0000, 0x20_0000, 0x30_0000
SOURCES_END = SETS_AT
TRAP_AT = MASKS_AT + 8 * MASKS  # mcause + 1, the block, the instruction
SET_BYTES, RESULT_BYTES = 24, 16
ODD = 0xD129_0B26_88CC_E54D  # the hash's multiplier
GOLDEN = 0x9E37_79B9_7F4A_7C15

F_REGISTERS = [name for name in disasm.REGISTERS if name.startswith("f")]
X_RESULTS = ["a0", "a2", "a3", "a4", "a5", "a6", "a7", "t4", "t5", "t6"]

ROWS = {row.name: row for row in isa.BASE_ROWS if "fp" in row.flags and not row.flags & {"load", "store"}}


@dataclass(frozen=True)
class Pass:
    """One instruction over a block; `mode` is None where the instruction has no rounding mode."""

    name: str
    mode: int | None = None

    def __str__(self) -> str:
        return self.name if self.mode is None else f"{self.name} {disasm.ROUNDING_MODES[self.mode]}"

    @property
    def row(self) -> Row:
        return ROWS[self.name]


def passes_of(names: Iterable[str]) -> tuple[Pass, ...]:
    """Each instruction in all five modes, or once where it has none."""
    return tuple(Pass(name, mode) for name in names for mode in (range(5) if "rounds" in ROWS[name].flags else (None,)))


# ---- where operands come from ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cross:
    """Set number k is the k-th of the product of `values` with itself, `arity` times; past the end it starts again."""

    values: Sequence[int]
    arity: int

    @property
    def sets(self) -> int:
        return int(len(self.values) ** self.arity)

    def data(self) -> Mapping[int, bytes]:
        assert SOURCES_AT + 8 * len(self.values) <= SOURCES_END
        return {SOURCES_AT: struct.pack(f"<{len(self.values)}Q", *self.values)}

    def code(self, seed: int, width: str) -> str:
        """s0 runs over the block's sets; s6 is the set's number, whose digits choose the operands."""
        lines = [f"li t0, {BLOCK}; mul s6, s4, t0; mv s0, s11", "fill:", "mv t0, s6"]
        for k in range(self.arity):
            lines += [f"li t1, {len(self.values)}; remu t2, t0, t1; divu t0, t0, t1"]
            lines += [f"slli t2, t2, 3; add t2, t2, s7; ld t2, 0(t2); sd t2, {8 * k}(s0)"]
        lines += [f"addi s6, s6, 1; addi s0, s0, {SET_BYTES}; bne s0, s1, fill"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Random:
    """Each set is one of `templates`, each operand of it changed in bits that one of `masks` allows."""

    templates: Sequence[tuple[int, int, int]]
    masks: Sequence[int]

    def data(self) -> Mapping[int, bytes]:
        assert len(self.templates) == TEMPLATES and len(self.masks) == MASKS
        rows = b"".join(struct.pack("<4Q", *template, 0) for template in self.templates)
        return {SOURCES_AT: rows, MASKS_AT: struct.pack(f"<{MASKS}Q", *self.masks)}

    def code(self, seed: int, width: str) -> str:
        """One generator a block (xorshift, multiplied), started from the seed and the block's number."""
        lines = [
            f"li s6, {seed}; li t0, {GOLDEN}; mul t1, s4, t0; add s6, s6, t1; mul s6, s6, t0",
            "srli t1, s6, 31; xor s6, s6, t1; mul s6, s6, s3; srli t1, s6, 29; xor s6, s6, t1; ori s6, s6, 1",
            "csrrwi zero, frm, 0; mv s0, s11",
            "fill:",
            draw("t0"),
            f"srli t1, t0, {64 - 13}; slli t1, t1, 5; add t1, t1, s7",
        ]
        for k in range(3):
            lines += [draw("t2"), f"srli t3, t0, {8 + 6 * k}; andi t3, t3, {MASKS - 1}; slli t3, t3, 3; add t3, t3, s9"]
            lines += [f"ld t3, 0(t3); and t2, t2, t3; ld t3, {8 * k}(t1); xor t2, t2, t3; sd t2, {8 * k}(s0)"]
        if width:
            lines += [near_products(width)]
        lines += [f"addi s0, s0, {SET_BYTES}; bne s0, s1, fill"]
        return "\n".join(lines)


def draw(register: str) -> str:
    """The next random word."""
    shifts = (("slli", 13), ("srli", 7), ("slli", 17))
    return "".join(f"{name} {register}, s6, {n}; xor s6, s6, {register};" for name, n in shifts) + (
        f"mul {register}, s6, s3"
    )


def near_products(width: str) -> str:
    """Of eight sets, one with c = -a*b, one with b of few digits and a = b*b, one with b = a or -a, all but for -1 to 2
    last places; and one with b a power of two, by which subnormal products and quotients tie.

    t0 is the set's random word. Singles stay boxed: the move from an integer register boxes them.
    """
    to_x, from_x, low, sign = ("fmv.x.w", "fmv.w.x", 13, 31) if width == "s" else ("fmv.x.d", "fmv.d.x", 27, 63)
    fraction = 23 if width == "s" else 52
    return f"""
        andi t1, t0, 7
        srli t2, t0, 4; andi t2, t2, 3; addi t2, t2, -1
        bnez t1, not_c
        fld fa0, 0(s0); fld fa1, 8(s0); fmul.{width} fa0, fa0, fa1, rne; fsgnjn.{width} fa0, fa0, fa0
        {to_x} t3, fa0; add t3, t3, t2; {from_x} fa0, t3; fsd fa0, 16(s0)
        not_c: addi t1, t1, -1
        bnez t1, not_a
        ld t3, 8(s0); srli t3, t3, {low}; slli t3, t3, {low}; sd t3, 8(s0)
        fld fa1, 8(s0); fmul.{width} fa0, fa1, fa1, rne
        {to_x} t3, fa0; add t3, t3, t2; {from_x} fa0, t3; fsd fa0, 0(s0)
        not_a: addi t1, t1, -1
        bnez t1, not_b
        fld fa0, 0(s0); {to_x} t3, fa0
        add t3, t3, t2; srli t2, t0, 6; andi t2, t2, 1; slli t2, t2, {sign}; xor t3, t3, t2
        {from_x} fa0, t3; fsd fa0, 8(s0)
        not_b: addi t1, t1, -1
        bnez t1, not_power
        ld t3, 8(s0); srli t3, t3, {fraction}; slli t3, t3, {fraction}; sd t3, 8(s0)
        not_power:"""


# ---- the image -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """Blocks `first` to `first + blocks` of `source`, each through all passes.

    `width` ("s", "d" or none) says whether random sets may be made near products, and of which format. `disguised` has
    the image execute another instruction in the place of a pass's: so the tests show that a difference is seen.
    """

    width: str
    passes: tuple[Pass, ...]
    source: Cross | Random
    blocks: int
    first: int = 0
    seed: int = 0
    detail: bool = False
    disguised: Mapping[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """How much of RAM has to be read."""
        size = BLOCK * RESULT_BYTES if self.detail else 8 * self.blocks * len(self.passes)
        assert RESULTS_AT + size <= USABLE, "too many blocks for one image"
        return RESULTS_AT + size

    @property
    def instructions(self) -> int:
        """More than it can take."""
        return 100_000 + self.blocks * (BLOCK + 2) * (120 + 24 * len(self.passes))

    def only(self, block: int, one: Pass) -> Sweep:
        """The same sets of one block through one pass, results kept."""
        return replace(self, first=block, blocks=1, passes=(one,), detail=True)

    def image(self) -> bytes:
        code = assemble("\n".join(self._source())).code
        assert len(code) <= MASKS_AT
        image = bytearray(RESULTS_AT)
        for at, data in {0: code, **self.source.data()}.items():
            image[at : at + len(data)] = data
        return bytes(image)

    def _source(self) -> Iterable[str]:
        yield f"""
            la t0, trapped; csrw mtvec, t0
            li t0, 0x6000; csrs mstatus, t0
            li s3, {ODD}
            li s4, {self.first}; li s10, {self.first + self.blocks}
            li s7, {RAM + SOURCES_AT}; li s8, {RAM + RESULTS_AT}; li s9, {RAM + MASKS_AT}
            li s11, {RAM + SETS_AT}; li s1, {RAM + SETS_AT + BLOCK * SET_BYTES}
        block:
            {self.source.code(self.seed, self.width)}
            li s5, 0
            {"li t0, 7" if isinstance(self.source, Random) else "j clear"}
            andi t1, s4, 7
            bne t0, t1, clear
            srli s5, s4, 3; li t0, 11; mul s5, s5, t0; addi s5, s5, 1; andi s5, s5, 31
        clear:"""
        for number, one in enumerate(self.passes):
            yield self._pass(f"p{number}_", one)
        yield f"""
            addi s4, s4, 1
            beq s4, s10, finish
            j block
            .align 4
        trapped:
            li t0, {RAM + TRAP_AT}; csrr t1, mcause; addi t1, t1, 1; sd t1, 0(t0); sd s4, 8(t0)
            csrr t1, mepc; lwu t1, 0(t1); sd t1, 16(t0)
        finish:
            li t0, {FINISHER}; li t1, 0x5555; sw t1, 0(t0)
            j ."""

    def _pass(self, label: str, one: Pass) -> str:
        lines = ["mv s0, s11", f"mv s2, {'s8' if self.detail else 'zero'}"]
        if one.mode is None:
            lines += ["andi t0, s4, 7; csrw frm, t0", self._loop(f"{label}only", one, "")]
        else:
            lines += ["andi t0, s4, 1", f"bnez t0, {label}even", f"csrrwi zero, frm, {one.mode}"]
            lines += [self._loop(f"{label}dynamic", one, ", dyn"), f"j {label}done"]
            lines += [f"{label}even: andi t0, s4, 6; addi t0, t0, {one.mode + 1}; andi t0, t0, 7; csrw frm, t0"]
            lines += [self._loop(f"{label}static", one, f", {disasm.ROUNDING_MODES[one.mode]}"), f"{label}done:"]
        return "\n".join(lines if self.detail else [*lines, "sd s2, 0(s8); addi s8, s8, 8"])

    def _loop(self, label: str, one: Pass, mode: str) -> str:
        """Over the block's sets: operands, operation, flags and result; the registers are drawn."""
        rng = random.Random(f"{self.seed} {one} {mode}")
        row = ROWS[self.disguised.get(one.name, one.name)]
        operands = [operand for operand in row.operands if operand != "rm"]
        sources = rng.sample(F_REGISTERS, 3)
        target = rng.choice((rng.choice(F_REGISTERS), *sources))
        loads, written = [], []
        for operand in operands:
            if operand == "rd":
                written.append(target := rng.choice(X_RESULTS))
            elif operand == "fd":
                written.append(target)
            elif operand == "rs1":
                written.append("a1")
                loads.append("ld a1, 0(s0)")
            else:
                k = int(operand[2]) - 1
                written.append(sources[k])
                loads.append(f"fld {sources[k]}, {8 * k}(s0)")
        fetch = f"fmv.x.d t1, {target}" if "fd" in operands else f"mv t1, {target}"
        keep = (
            f"sd t1, 0(s2); sd t0, 8(s2); addi s2, s2, {RESULT_BYTES}"
            if self.detail
            else "xor s2, s2, t1; mul s2, s2, s3; srli t1, s2, 29; xor s2, s2, t1; add s2, s2, t0"
        )
        return f"""
            csrw fflags, s5
        {label}: {"; ".join(loads)}
            {row.name} {", ".join(written)}{mode}
            csrrw t0, fflags, s5
            {fetch}
            addi s0, s0, {SET_BYTES}
            {keep}
            bne s0, s1, {label}"""


# ---- what it left ----------------------------------------------------------------------------------------------------


def trap(memory: bytes) -> str | None:
    """Where the image ended before its time, if it did: nothing in it may trap."""
    cause, block, word = struct.unpack_from("<3Q", memory, TRAP_AT)
    return f"a trap of cause {cause - 1} in block {block} at {disasm.disassemble(word)}" if cause else None


def hashes(memory: bytes, sweep: Sweep) -> list[list[int]]:
    """A row a block, a word a pass."""
    width = len(sweep.passes)
    words = struct.unpack_from(f"<{sweep.blocks * width}Q", memory, RESULTS_AT)
    return [list(words[at : at + width]) for at in range(0, len(words), width)]


def details(memory: bytes) -> list[tuple[tuple[int, int, int], tuple[int, int]]]:
    """Of a sweep with `detail`: each set's operands, and its result and flags."""
    sets = struct.iter_unpack("<3Q", memory[SETS_AT : SETS_AT + BLOCK * SET_BYTES])
    results = struct.iter_unpack("<2Q", memory[RESULTS_AT : RESULTS_AT + BLOCK * RESULT_BYTES])
    return list(zip(sets, results, strict=True))
