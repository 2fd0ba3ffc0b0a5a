"""What each form of `vpod/_x86.pxd` means, in the words of GNU as: the text that must give the same bytes.

A form is described by a function of its name: the decorator has a `Domain` for each operand, the function gives the
text in Intel's syntax for such operands, or None for those that make no instruction. Registers and operations are
given by the encoder's own names for them, so that the names' values are compared too.

`corners` has every combination of a form's corner values or, where those are too many, every pair of two operands'
values beside random others: what an operand needs (REX bits, SIB bytes, displacements) depends on two of them at most.
`draw` takes any values.

Invariants: `{load}` and `{store}` are in the text only where an instruction has two opcodes for the same operands;
`Longer` says that as knows an encoding one byte shorter, and is in use for nothing but immediates.

    >>> alu_rm = FORMS["alu_rm"]
    >>> alu_rm.text("ADD", 1, "R9", "RBP", -8)
    '{load} add r9, [rbp-8]'
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

MOST = 10_000  # combinations of a form, above which pairs must do


class Near(int):
    """An offset from the instruction's start."""


class Longer(str):
    """Text of which GNU as makes one byte less than the encoder."""


# ---- operands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """An operand's corner values, all that may behave in a way of its own; and any value, if there are others."""

    corners: Sequence[Any]
    any_value: Callable[[Random], Any] | None = None

    def draw(self, source: Random) -> Any:
        if self.any_value is None or source.random() < 0.3:
            return source.choice(self.corners)
        return self.any_value(source)


def number(bits: int, *, signed: bool) -> Callable[[Random], int]:
    """Numbers of up to so many bits, each length as likely as the others."""

    def any_value(source: Random) -> int:
        value = source.getrandbits(source.randint(1, bits - signed))
        return ~value if signed and source.random() < 0.5 else value

    return any_value


def near(source: Random) -> Near:
    return Near(number(31, signed=True)(source))


CONDITIONS = ("O", "NO", "B", "AE", "E", "NE", "BE", "A", "S", "NS", "P", "NP", "L", "GE", "LE", "G")
GPRS = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"]
ENDS_32 = (0, 1, -1, 127, -128, 128, -129, 255, 256, 2**31 - 1, -(2**31))
ENDS_64 = (
    *(0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1),  # 32 bits are enough
    *(2**32, 2**63 - 1, 2**63, 2**64 - 2**31 - 1),  # 64 are needed
    *(2**64 - 2**31, 2**64 - 129, 2**64 - 1),  # 32 and a sign
)

WIDE = Domain((0, 1))
GPR = Domain(GPRS)
INDEX = Domain([name for name in GPRS if name != "RSP"])
XMM = Domain(range(16))
SCALE = Domain(range(4))
DISP = Domain(ENDS_32, number(32, signed=True))
IMM32 = Domain(ENDS_32, number(32, signed=True))
IMM64 = Domain(ENDS_64, number(64, signed=False))
COUNT = Domain(range(64))
NEAR = Domain([Near(n) for n in (0, 1, -1, 7, 127, 128, -128, -129, 4096, 2**31 - 16, 16 - 2**31)], near)
ALU = Domain(["ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "CMP"])
SHIFT = Domain(["ROL", "ROR", "SHL", "SHR", "SAR"])
UNARY = Domain(["NOT", "NEG", "MUL", "IMUL", "DIV", "IDIV"])
CONDITION = Domain([f"CC_{name}" for name in CONDITIONS])


def gpr(name: str, bits: int = 64) -> str:
    """What the assembler calls the low bits of a register.

    >>> gpr("RSI", 8), gpr("R9", 32)
    ('sil', 'r9d')
    """
    low = name.lower()
    if low[1:].isdigit():
        return low + {64: "", 32: "d", 16: "w", 8: "b"}[bits]
    if bits == 8:
        return low[1] + "l" if low.endswith("x") else low[1:] + "l"
    return {64: low, 32: "e" + low[1:], 16: low[1:]}[bits]


def sized(wide: int, name: str) -> str:
    return gpr(name, 64 if wide else 32)


def xmm(number: int) -> str:
    return f"xmm{number}"


def memory(base: str, disp: int, size: str = "") -> str:
    return f"{size} ptr [{gpr(base)}{disp:+d}]" if size else f"[{gpr(base)}{disp:+d}]"


def indexed(base: str, index: str, scale: int, disp: int, size: str = "") -> str:
    inner = f"[{gpr(base)}+{gpr(index)}*{1 << scale}{disp:+d}]"
    return f"{size} ptr {inner}" if size else inner


def relative(target: int, size: str = "") -> str:
    """Memory relative to the instruction pointer, so far from the label 1, which stands before the instruction."""
    return f"{size} ptr [rip+1b{target:+d}]" if size else f"[rip+1b{target:+d}]"


# ---- forms ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A call of the encoder, and the text of what it emits."""

    form: str
    arguments: tuple[Any, ...]
    text: str


@dataclass(frozen=True)
class Form:
    name: str
    domains: tuple[Domain, ...]
    text: Callable[..., str | None]
    given: Callable[..., tuple[Any, ...]]  # what the function takes for such operands

    def case(self, values: tuple[Any, ...]) -> Case | None:
        text = self.text(*values)
        return None if text is None else Case(self.name, self.given(*values), text)

    def corners(self) -> Iterator[Case]:
        count = math.prod(len(domain.corners) for domain in self.domains)
        if count <= MOST:
            yield from filter(None, map(self.case, itertools.product(*(domain.corners for domain in self.domains))))
            return
        source = Random(self.name)
        for first, second in itertools.combinations(range(len(self.domains)), 2):
            for pair in itertools.product(self.domains[first].corners, self.domains[second].corners):
                yield from itertools.islice(filter(None, map(self.case, self.around(source, first, second, pair))), 1)

    def around(self, source: Random, first: int, second: int, pair: tuple[Any, Any]) -> Iterator[tuple[Any, ...]]:
        """Operands of which two are given; several, since some may make no instruction."""
        for _ in range(100):
            values = [source.choice(domain.corners) for domain in self.domains]
            values[first], values[second] = pair
            yield tuple(values)

    def draw(self, source: Random) -> Case:
        while True:
            case = self.case(tuple(domain.draw(source) for domain in self.domains))
            if case is not None:
                return case


FORMS: dict[str, Form] = {}

Text = Callable[..., "str | None"]


def as_they_are(*values: Any) -> tuple[Any, ...]:
    return values


def form(*domains: Domain, given: Callable[..., tuple[Any, ...]] = as_they_are) -> Callable[[Text], Text]:
    """The decorated function gives the text of the form that is called like it."""

    def add(text: Text) -> Text:
        name = text.__name__
        FORMS[name] = Form(name, domains, text, given)
        return text

    return add


# ---- general forms -------------------------------------------------------------------------------------------------


class Opcode(NamedTuple):
    """An instruction of a register and a register or memory."""

    op: str | int
    mnemonic: str
    memory: str = ""  # the size, where the register doesn't say it
    bits: int = 0  # of the second operand, where it isn't as wide as the first
    second_first: bool = False  # the register is the second operand
    digit: int | None = None  # instead of a register
    registers: bool = True  # there is a form of two registers
    wide: int | None = None  # the only legal one


ALU_LOADS = [Opcode(number << 3 | 3, "{load} " + name.lower()) for number, name in enumerate(ALU.corners)]
OPCODES = (
    Opcode("OP_MOV_LOAD", "{load} mov"),
    Opcode("OP_MOV_STORE", "{store} mov", second_first=True),
    Opcode("OP_MOVSXD", "movsxd", "dword", bits=32, wide=1),
    Opcode("OP_MOVZX16", "movzx", "word", bits=16),
    Opcode("OP_MOVSX16", "movsx", "word", bits=16),
    Opcode("OP_IMUL", "imul"),
    Opcode("OP_TEST", "test", second_first=True),
    Opcode(0x0F38F0, "movbe", registers=False),
    Opcode("OP_LEA", "lea", registers=False),
    *ALU_LOADS,
)
BYTES = (Opcode("OP_MOVZX8", "movzx", "byte", bits=8), Opcode("OP_MOVSX8", "movsx", "byte", bits=8))
JUMP = Opcode(0xFF, "jmp", "qword", digit=4, registers=False, wide=0)  # what jump_m does, with an index

TWO_REGISTERS = Domain([one for one in OPCODES if one.registers])
OF_MEMORY = Domain((*OPCODES, *BYTES, JUMP))


def general(one: Opcode, wide: int, reg: str, other: str) -> str | None:
    """The instruction's text. Where the opcode has a digit, that is the number of the only legal register."""
    if one.wide not in (None, wide):
        return None
    if one.digit is not None:
        return f"{one.mnemonic} {other}" if reg == GPRS[one.digit] else None
    operands = (other, sized(wide, reg)) if one.second_first else (sized(wide, reg), other)
    return f"{one.mnemonic} {', '.join(operands)}"


def opcode_first(one: Opcode, *rest: Any) -> tuple[Any, ...]:
    return one.op, *rest


@form(TWO_REGISTERS, WIDE, GPR, GPR, given=opcode_first)
def op_rr(one: Opcode, wide: int, reg: str, rm: str) -> str | None:
    return general(one, wide, reg, gpr(rm, one.bits or (64 if wide else 32)))


@form(Domain(BYTES), WIDE, GPR, GPR, given=opcode_first)
def op_rr8(one: Opcode, wide: int, reg: str, rm: str) -> str | None:
    text = general(one, wide, reg, gpr(rm, 8))
    return f"{{rex}} {text}"  # always with a REX prefix


@form(OF_MEMORY, WIDE, GPR, GPR, DISP, given=opcode_first)
def op_rm(one: Opcode, wide: int, reg: str, base: str, disp: int) -> str | None:
    return general(one, wide, reg, memory(base, disp, one.memory))


@form(OF_MEMORY, WIDE, GPR, GPR, INDEX, SCALE, DISP, given=opcode_first)
def op_rx(one: Opcode, wide: int, reg: str, base: str, index: str, scale: int, disp: int) -> str | None:
    return general(one, wide, reg, indexed(base, index, scale, disp, one.memory))


@form(OF_MEMORY, WIDE, GPR, NEAR, given=opcode_first)
def op_rp(one: Opcode, wide: int, reg: str, target: Near) -> str | None:
    return general(one, wide, reg, relative(target, one.memory))


# ---- moves ---------------------------------------------------------------------------------------------------------


@form(WIDE, GPR, GPR)
def mov_rr(wide: int, to: str, source: str) -> str:
    if wide and to == source:
        return ""  # changes nothing; a 32-bit one clears the upper half
    return f"{{load}} mov {sized(wide, to)}, {sized(wide, source)}"


@form(WIDE, GPR, GPR, DISP)
def mov_rm(wide: int, to: str, base: str, disp: int) -> str:
    return f"mov {sized(wide, to)}, {memory(base, disp)}"


@form(WIDE, GPR, DISP, GPR)
def mov_mr(wide: int, base: str, disp: int, source: str) -> str:
    return f"mov {memory(base, disp)}, {sized(wide, source)}"


@form(GPR, DISP, GPR)
def mov_mr8(base: str, disp: int, source: str) -> str:
    return f"mov {memory(base, disp)}, {gpr(source, 8)}"


@form(GPR, DISP, GPR)
def mov_mr16(base: str, disp: int, source: str) -> str:
    return f"mov {memory(base, disp)}, {gpr(source, 16)}"


@form(GPR, INDEX, DISP, GPR)
def mov_xr8(base: str, index: str, disp: int, source: str) -> str:
    return f"mov {indexed(base, index, 0, disp)}, {gpr(source, 8)}"


@form(GPR, INDEX, DISP, GPR)
def mov_xr16(base: str, index: str, disp: int, source: str) -> str:
    return f"mov {indexed(base, index, 0, disp)}, {gpr(source, 16)}"


@form(WIDE, GPR, DISP, IMM32)
def mov_mi(wide: int, base: str, disp: int, value: int) -> str:
    return f"mov {memory(base, disp, 'qword' if wide else 'dword')}, {value}"


@form(GPR, IMM64)
def mov_ri(to: str, value: int) -> str:
    if value == 0:
        return f"xor {gpr(to, 32)}, {gpr(to, 32)}"
    if value < 2**32:
        return f"mov {gpr(to, 32)}, {value}"
    if value >= 2**64 - 2**31:
        return f"mov {gpr(to)}, {value - 2**64}"
    return f"movabs {gpr(to)}, {value}"


@form(GPR)
def push_r(reg: str) -> str:
    return f"push {gpr(reg)}"


@form(GPR)
def pop_r(reg: str) -> str:
    return f"pop {gpr(reg)}"


# ---- arithmetic ----------------------------------------------------------------------------------------------------


@form(ALU, WIDE, GPR, GPR)
def alu_rr(op: str, wide: int, to: str, source: str) -> str:
    return f"{{load}} {op.lower()} {sized(wide, to)}, {sized(wide, source)}"


@form(ALU, WIDE, GPR, GPR, DISP)
def alu_rm(op: str, wide: int, to: str, base: str, disp: int) -> str:
    return f"{{load}} {op.lower()} {sized(wide, to)}, {memory(base, disp)}"


@form(ALU, WIDE, GPR, DISP, GPR)
def alu_mr(op: str, wide: int, base: str, disp: int, source: str) -> str:
    return f"{op.lower()} {memory(base, disp)}, {sized(wide, source)}"


@form(ALU, WIDE, GPR, IMM32)
def alu_ri(op: str, wide: int, to: str, value: int) -> str:
    text = f"{op.lower()} {sized(wide, to)}, {value}"
    return Longer(text) if to == "RAX" and not -128 <= value < 128 else text  # as: the accumulator's opcode


@form(ALU, WIDE, GPR, DISP, IMM32)
def alu_mi(op: str, wide: int, base: str, disp: int, value: int) -> str:
    return f"{op.lower()} {memory(base, disp, 'qword' if wide else 'dword')}, {value}"


@form(SHIFT, WIDE, GPR, COUNT)
def shift_ri(op: str, wide: int, to: str, count: int) -> str:
    text = f"{op.lower()} {sized(wide, to)}, {count}"
    return Longer(text) if count == 1 else text  # as: the opcode for one bit


@form(SHIFT, WIDE, GPR)
def shift_rcl(op: str, wide: int, to: str) -> str:
    return f"{op.lower()} {sized(wide, to)}, cl"


@form(UNARY, WIDE, GPR)
def unary_r(op: str, wide: int, reg: str) -> str:
    return f"{op.lower()} {sized(wide, reg)}"


@form(WIDE, GPR, GPR, IMM32)
def imul_rri(wide: int, to: str, source: str, value: int) -> str:
    return f"imul {sized(wide, to)}, {sized(wide, source)}, {value}"


@form(WIDE)
def sign_into_rdx(wide: int) -> str:
    return "cqo" if wide else "cdq"


@form(WIDE, GPR, GPR, DISP)
def lea_rm(wide: int, to: str, base: str, disp: int) -> str:
    return f"lea {sized(wide, to)}, {memory(base, disp)}"


@form(CONDITION, GPR)
def set_cc(cc: str, to: str) -> str:
    return f"set{cc[3:].lower()} {gpr(to, 8)}"


@form(CONDITION, WIDE, GPR, GPR)
def cmov_rr(cc: str, wide: int, to: str, source: str) -> str:
    return f"cmov{cc[3:].lower()} {sized(wide, to)}, {sized(wide, source)}"


# ---- VEX -----------------------------------------------------------------------------------------------------------


class Vex(NamedTuple):
    """Operands are `reg`, `vvvv`, `rm`, or the last two exchanged."""

    pp: int
    op: int
    mnemonic: str
    exchanged: bool = False


VEX = Domain(
    (
        Vex(0, 0xF2, "andn"),
        Vex(0, 0xF7, "bextr", exchanged=True),
        Vex(1, 0xF7, "shlx", exchanged=True),
        Vex(2, 0xF5, "pext"),
        Vex(3, 0xF6, "mulx"),
    )
)
FUSED = Domain(
    [
        (f"V{name}213" if order == 0x10 else base + order, f"v{name.lower()}{digits}")
        for base, name in ((0x99, "FMADD"), (0x9B, "FMSUB"), (0x9D, "FNMADD"), (0x9F, "FNMSUB"))
        for order, digits in ((0x00, 132), (0x10, 213), (0x20, 231))
    ]
)


def opcode_of(one: tuple[str | int, str], *rest: Any) -> tuple[Any, ...]:
    return one[0], *rest


@form(VEX, WIDE, GPR, GPR, GPR, given=lambda one, wide, *registers: (one.pp, wide, one.op, *registers))
def vex_0f38(one: Vex, wide: int, reg: str, vvvv: str, rm: str) -> str:
    second, third = (rm, vvvv) if one.exchanged else (vvvv, rm)
    return f"{one.mnemonic} {sized(wide, reg)}, {sized(wide, second)}, {sized(wide, third)}"


@form(FUSED, WIDE, XMM, XMM, XMM, given=opcode_of)
def fma_rr(one: tuple[str | int, str], double: int, reg: int, vvvv: int, rm: int) -> str:
    return f"{one[1]}{'sd' if double else 'ss'} {xmm(reg)}, {xmm(vvvv)}, {xmm(rm)}"


@form(FUSED, WIDE, XMM, XMM, GPR, DISP, given=opcode_of)
def fma_rm(one: tuple[str | int, str], double: int, reg: int, vvvv: int, base: str, disp: int) -> str:
    kind, size = ("sd", "qword") if double else ("ss", "dword")
    return f"{one[1]}{kind} {xmm(reg)}, {xmm(vvvv)}, {memory(base, disp, size)}"


def shift_by_register(mnemonic: str) -> Text:
    def text(wide: int, to: str, source: str, count: str) -> str:
        return f"{mnemonic} {sized(wide, to)}, {sized(wide, source)}, {sized(wide, count)}"

    text.__name__ = f"{mnemonic}_rrr"
    return text


for mnemonic in ("shlx", "shrx", "sarx"):
    form(WIDE, GPR, GPR, GPR)(shift_by_register(mnemonic))


# ---- jumps ---------------------------------------------------------------------------------------------------------


@form()
def jump() -> str:
    return "{disp32} jmp .+5"  # an offset of zero until it is patched


@form(CONDITION)
def jump_cc(cc: str) -> str:
    return f"{{disp32}} j{cc[3:].lower()} .+6"


@form(NEAR)
def jump_to(target: Near) -> str:
    return f"{{disp32}} jmp .{target:+d}"


@form(CONDITION, NEAR)
def jump_cc_to(cc: str, target: Near) -> str:
    return f"{{disp32}} j{cc[3:].lower()} .{target:+d}"


@form(GPR)
def jump_r(reg: str) -> str:
    return f"jmp {gpr(reg)}"


@form(GPR, DISP)
def jump_m(base: str, disp: int) -> str:
    return f"jmp {memory(base, disp, 'qword')}"


@form(NEAR)
def jump_p(slot: Near) -> str:
    return f"jmp {relative(slot, 'qword')}"


@form(GPR, DISP)
def call_m(base: str, disp: int) -> str:
    return f"call {memory(base, disp, 'qword')}"


@form(NEAR)
def call_p(slot: Near) -> str:
    return f"call {relative(slot, 'qword')}"


@form(NEAR)
def call_to(target: Near) -> str:
    return f"call .{target:+d}"


@form()
def ret() -> str:
    return "ret"


# ---- SSE -----------------------------------------------------------------------------------------------------------


class Sse(NamedTuple):
    """Kinds of operands: x an XMM register, r a general one, of 64 bits if wide; the second may be memory."""

    prefix: int
    op: str | int
    mnemonic: str
    memory: str = ""  # the size; as doesn't want it for 16 bytes
    kinds: str = "xx"
    wide: int = 0
    second_first: bool = False
    registers: bool = True
    of_memory: bool = True


ARITHMETIC = ("SQRT", "ADD", "MUL", "SUB", "DIV", "MIN", "MAX")


def scalar(op: str, mnemonic: str, **more: Any) -> tuple[Sse, Sse]:
    """An operation on doubles, and on singles."""
    return Sse(0xF2, op, mnemonic + "sd", "qword", **more), Sse(0xF3, op, mnemonic + "ss", "dword", **more)


SSE = (
    *scalar("SSE_LOAD", "{load} mov"),
    *scalar("SSE_STORE", "mov", second_first=True, registers=False),
    *(
        one
        for name in ["SQRT", "ADD", "MUL", "SUB", "DIV", "MIN", "MAX"]
        for one in scalar(f"SSE_{name}", name.lower())
    ),
    Sse(0xF3, "SSE_MOVQ_LOAD", "movq", "qword"),
    Sse(0x66, "SSE_MOVQ_STORE", "movq", "qword", second_first=True, registers=False),
    Sse(0x66, "SSE_MOV_FROM_GPR", "movd", "dword", "xr"),
    Sse(0x66, "SSE_MOV_FROM_GPR", "movq", "qword", "xr", wide=1, of_memory=False),
    Sse(0x66, "SSE_MOV_TO_GPR", "movd", "dword", "xr", second_first=True),
    Sse(0x66, "SSE_MOV_TO_GPR", "movq", "qword", "xr", wide=1, second_first=True, of_memory=False),
    Sse(0, "SSE_MOVAPS", "{load} movaps"),
    Sse(0, "SSE_UCOMI", "ucomiss", "dword"),
    Sse(0x66, "SSE_UCOMI", "ucomisd", "qword"),
    Sse(0, "SSE_COMI", "comiss", "dword"),
    Sse(0x66, "SSE_COMI", "comisd", "qword"),
    *(
        Sse(prefix, "SSE_CVT_FROM_GPR", f"cvtsi2{kind}", size, "xr", wide)
        for wide, size in ((0, "dword"), (1, "qword"))
        for prefix, kind in ((0xF2, "sd"), (0xF3, "ss"))
    ),
    *(
        Sse(prefix, op, f"{name}{kind}2si", size, "rx", wide)
        for wide in (0, 1)
        for op, name in (("SSE_CVTT_TO_GPR", "cvtts"), ("SSE_CVT_TO_GPR", "cvts"))
        for prefix, kind, size in ((0xF2, "d", "qword"), (0xF3, "s", "dword"))
    ),
    Sse(0xF2, "SSE_CVT_FLOAT", "cvtsd2ss", "qword"),
    Sse(0xF3, "SSE_CVT_FLOAT", "cvtss2sd", "dword"),
    *(Sse(0, f"SSE_{name}", f"{name.lower()}ps") for name in ("AND", "OR", "XOR")),
    *(Sse(0x66, f"SSE_{name}", f"{name.lower()}pd") for name in ("AND", "OR", "XOR")),
    Sse(0x66, 0x0FEF, "pxor"),
    Sse(0x66, 0x0F3817, "ptest"),  # of a map with three bytes
)


def sse_text(one: Sse, reg: int, other: str) -> str:
    first = sized(one.wide, GPRS[reg]) if one.kinds[0] == "r" else xmm(reg)
    operands = (other, first) if one.second_first else (first, other)
    return f"{one.mnemonic} {', '.join(operands)}"


def sse_given(one: Sse, *rest: Any) -> tuple[Any, ...]:
    return one.prefix, one.op, one.wide, *rest


@form(Domain([one for one in SSE if one.registers]), XMM, XMM, given=sse_given)
def sse_rr(one: Sse, reg: int, rm: int) -> str:
    return sse_text(one, reg, sized(one.wide, GPRS[rm]) if one.kinds[1] == "r" else xmm(rm))


@form(Domain([one for one in SSE if one.of_memory]), XMM, GPR, DISP, given=sse_given)
def sse_rm(one: Sse, reg: int, base: str, disp: int) -> str:
    return sse_text(one, reg, memory(base, disp, one.memory))


OF_NARROW_MEMORY = Domain([one for one in SSE if one.of_memory and not one.wide])


def sse_narrow(one: Sse, *rest: Any) -> tuple[Any, ...]:
    return one.prefix, one.op, *rest


@form(OF_NARROW_MEMORY, XMM, GPR, INDEX, DISP, given=sse_narrow)
def sse_rx(one: Sse, reg: int, base: str, index: str, disp: int) -> str:
    return sse_text(one, reg, indexed(base, index, 0, disp, one.memory))


@form(OF_NARROW_MEMORY, XMM, NEAR, given=sse_narrow)
def sse_rp(one: Sse, reg: int, target: Near) -> str:
    return sse_text(one, reg, relative(target, one.memory))


@form(GPR, DISP)
def ldmxcsr_m(base: str, disp: int) -> str:
    return f"ldmxcsr {memory(base, disp, 'dword')}"


@form(GPR, DISP)
def stmxcsr_m(base: str, disp: int) -> str:
    return f"stmxcsr {memory(base, disp, 'dword')}"
