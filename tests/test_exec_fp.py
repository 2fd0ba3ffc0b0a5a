"""F and D instructions in the core: operands, NaN boxes, rounding modes, flags and mstatus.FS.

What an operation computes is `test_softfloat.py`'s business; here each instruction is run by the hart and must be that
operation on the right registers. The expected values come from the exact model, not from the softfloat.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
import struct
from fractions import Fraction

import pytest

from tests import float_model, float_operands
from tests.float_model import DOUBLE, FORMATS, NV, NX, RDN, RMM, RNE, SINGLE
from vpod import isa
from vpod._cpu import Cpu
from vpod.disasm import encode

START, HANDLER = 0x8000_0000, 0x8000_0800
FFLAGS, FRM, FCSR, MSTATUS, MTVEC, MEPC, MCAUSE = 0x001, 0x002, 0x003, 0x300, 0x305, 0x341, 0x342
SSTATUS = 0x100
OFF, INITIAL, CLEAN, DIRTY = range(4)
ILLEGAL = 2
BOX = 0xFFFFFFFF_00000000
ONE_S, ONE_D = 0x3F800000, 0x3FF0000000000000
DYNAMIC = 7

MEMORY = ("flw", "fsw", "fld", "fsd")
ROWS = [row for row in isa.BY_NAME.values() if row.extension in ("F", "D") and row.name not in MEMORY]
NAMES = [row.name for row in ROWS]
ROUNDED = [row.name for row in ROWS if "rm" in row.fields]
UNROUNDED = [name for name in NAMES if name not in ROUNDED]
SIGN_INJECTION = ("fsgnj", "fsgnjn", "fsgnjx")


class Hart:
    """A Cpu with one instruction in front of its pc."""

    def __init__(self) -> None:
        self.cpu = Cpu(None, 1 << 16)
        self.cpu.set_csr(MTVEC, HANDLER)
        self.cpu.write(HANDLER, bytes.fromhex("13000000") * 4)
        self.set_fs(INITIAL)

    def set_fs(self, fs: int) -> None:
        self.cpu.set_csr(MSTATUS, fs << 13)

    @property
    def fs(self) -> int:
        return int(self.cpu.csr(MSTATUS) >> 13 & 3)

    def run(self, name: str, **operands: int | str) -> bool:
        """Execute it once; whether it was legal."""
        return self.run_word(encode(name, **operands))

    def run_word(self, word: int) -> bool:
        self.cpu.write(START, word.to_bytes(4, "little"))
        self.cpu.set_csr(MCAUSE, 0)
        self.cpu.pc = START
        self.cpu.run(1)
        if self.cpu.csr(MCAUSE) == 0:
            assert self.cpu.pc == START + 4
            return True
        assert (self.cpu.csr(MCAUSE), self.cpu.csr(MEPC)) == (ILLEGAL, START)
        return False


@pytest.fixture
def hart() -> Hart:
    return Hart()


def plain_operands(name: str) -> dict[str, int | str]:
    """Registers 4, 1, 2, 3 for whatever the row has; integer and floating-point ones are told apart by the hart."""
    numbers = {"rd": 4, "rs1": 1, "rs2": 2, "rs3": 3}
    return {field: numbers[field] for field in isa.BY_NAME[name].fields if field in numbers}


def expected(name: str, rm: int, a: int, b: int, c: int) -> tuple[int, int]:
    """What the specification says the destination and fflags become; operands without boxes, singles in 32 bits."""
    head, _, tail = name.rpartition(".")
    if name in ("fmv.x.d", "fmv.d.x", "fmv.w.x"):
        return a & (0xFFFFFFFF if name == "fmv.w.x" else ~0), 0
    if name == "fmv.x.w":
        return (a & 0xFFFFFFFF) | (BOX if a >> 31 & 1 else 0), 0
    if head in SIGN_INJECTION:
        sign = FORMATS[tail].sign
        chosen = {"fsgnj": b, "fsgnjn": ~b, "fsgnjx": a ^ b}[head]
        return (a & (sign - 1)) | (chosen & sign), 0
    if head in ("fmsub", "fnmsub", "fnmadd"):
        sign = FORMATS[tail].sign
        product = a if head == "fmsub" else a ^ sign
        return float_model.evaluate(f"fmadd.{tail}", rm, product, b, c if head == "fnmsub" else c ^ sign)
    return float_model.evaluate(name, rm, a, b, c)


def operand_format(name: str) -> float_model.Format | None:
    """Of the floating-point operands; None where the operand is an integer."""
    if name in ("fmv.x.w", "fmv.x.d"):
        return SINGLE if name.endswith("w") else DOUBLE
    tail = name.rpartition(".")[2]
    return FORMATS.get(tail)


def result_format(name: str) -> float_model.Format | None:
    """Of the destination; None for an integer register."""
    if name.startswith(("feq", "flt", "fle", "fclass", "fmv.x", "fcvt.w.", "fcvt.wu.", "fcvt.l.", "fcvt.lu.")):
        return None
    if name.startswith(("fcvt.", "fmv.")):
        return SINGLE if name.split(".")[1] in ("s", "w") else DOUBLE
    return operand_format(name)


def load_operands(hart: Hart, name: str, values: tuple[int, int, int]) -> None:
    form = operand_format(name)
    for n, value in enumerate(values, start=1):
        if form is None:
            hart.cpu.set_x(n, value)
        else:
            hart.cpu.set_f(n, value | BOX if form is SINGLE else value)


@pytest.mark.parametrize("name", NAMES)
def test_each_instruction_is_its_operation(hart: Hart, name: str) -> None:
    rng = random.Random(name)
    form = operand_format(name)
    if form is None:
        column = float_operands.random_integers(150, rng)
        sets = list(zip(column, column, column, strict=True))
    else:
        sets = list(zip(*float_operands.random_sets("s" if form is SINGLE else "d", 150, rng), strict=True))
    for k, values in enumerate(sets):
        mode = k % 5
        dynamic = k % 2 == 0 and name in ROUNDED
        operands = plain_operands(name)
        if name in ROUNDED:
            operands["rm"] = DYNAMIC if dynamic else mode
        hart.cpu.set_csr(FCSR, mode << 5 if dynamic else RDN << 5)
        load_operands(hart, name, values)
        assert hart.run(name, **operands)
        want, flags = expected(name, mode, *values)
        target = result_format(name)
        got = hart.cpu.x(4) if target is None else hart.cpu.f(4)
        shown = f"{name} mode {mode}: " + ", ".join(f"{v:#x}" for v in values)
        assert got == (want | BOX if target is SINGLE else want), shown
        assert hart.cpu.csr(FFLAGS) == flags, shown


@pytest.mark.parametrize("name", NAMES)
def test_illegal_when_fs_is_off(hart: Hart, name: str) -> None:
    hart.set_fs(OFF)
    hart.cpu.set_x(4, 77)
    assert not hart.run(name, **plain_operands(name), **({"rm": RNE} if name in ROUNDED else {}))
    assert hart.fs == OFF
    assert (hart.cpu.x(4), hart.cpu.f(4)) == (77, 0)


@pytest.mark.parametrize("name", ROUNDED)
def test_reserved_rounding_modes_are_illegal(hart: Hart, name: str) -> None:
    word = encode(name, **plain_operands(name), rm=RNE)
    for reserved in (5, 6):
        assert not hart.run_word(word | reserved << 12)
    for reserved in (5, 6, 7):
        hart.cpu.set_csr(FRM, reserved)
        assert hart.run_word(word), "a static mode does not look at frm"
        hart.set_fs(INITIAL)
        assert not hart.run_word(word | DYNAMIC << 12)
        assert hart.fs == INITIAL


@pytest.mark.parametrize("name", UNROUNDED)
def test_instructions_without_a_mode_do_not_look_at_frm(hart: Hart, name: str) -> None:
    hart.cpu.set_csr(FRM, 7)
    assert hart.run(name, **plain_operands(name))


@pytest.mark.parametrize("name", NAMES)
def test_fs_becomes_dirty_with_an_f_register_and_only_then(hart: Hart, name: str) -> None:
    load_operands(hart, name, (0, 0, 0))
    assert hart.run(name, **plain_operands(name), **({"rm": RNE} if name in ROUNDED else {}))
    assert hart.fs == (INITIAL if result_format(name) is None else DIRTY)
    assert hart.cpu.csr(SSTATUS) >> 63 == (hart.fs == DIRTY)


@pytest.mark.parametrize("name", ["feq.s", "feq.d", "flt.s", "fle.d", "fcvt.w.s", "fcvt.lu.d"])
def test_a_new_flag_alone_dirties_fs(hart: Hart, name: str) -> None:
    signalling = 0x7F800001 if operand_format(name) is SINGLE else 0x7FF0000000000001
    load_operands(hart, name, (signalling, 0, 0))
    rounding = {"rm": RNE} if name in ROUNDED else {}
    assert hart.run(name, **plain_operands(name), **rounding)
    assert (hart.fs, hart.cpu.csr(FFLAGS)) == (DIRTY, NV)
    hart.set_fs(CLEAN)
    assert hart.run(name, **plain_operands(name), **rounding)
    assert (hart.fs, hart.cpu.csr(FFLAGS)) == (CLEAN, NV), "the flag was set already: nothing changed"


def test_flags_accumulate(hart: Hart) -> None:
    hart.cpu.set_f(1, ONE_D)
    hart.cpu.set_f(2, 0)
    hart.cpu.set_f(3, 0x4008000000000000)
    hart.run("fdiv.d", rd=4, rs1=1, rs2=2, rm=RNE)
    hart.run("fdiv.d", rd=4, rs1=1, rs2=3, rm=RNE)
    hart.run("fadd.d", rd=4, rs1=1, rs2=1, rm=RNE)
    assert hart.cpu.csr(FFLAGS) == 8 | NX


@pytest.mark.parametrize("upper", [0, 0x7FFFFFFF, 0xFFFFFFFE, 0x3FF00000])
def test_an_unboxed_single_is_the_canonical_nan(hart: Hart, upper: int) -> None:
    hart.cpu.set_x(5, upper << 32 | ONE_S)
    hart.cpu.set_f(2, BOX | ONE_S)
    assert hart.run("fmv.d.x", rd=1, rs1=5)
    for name in ("fadd.s", "fsub.s", "fmul.s", "fdiv.s"):
        assert hart.run(name, rd=4, rs1=1, rs2=2, rm=RNE)
        assert hart.cpu.f(4) == BOX | SINGLE.nan, name
        assert hart.run(name, rd=4, rs1=2, rs2=1, rm=RNE)
        assert hart.cpu.f(4) == BOX | SINGLE.nan, name
    for sources in ((1, 2, 2), (2, 1, 2), (2, 2, 1)):
        assert hart.run("fmadd.s", rd=4, rs1=sources[0], rs2=sources[1], rs3=sources[2], rm=RNE)
        assert hart.cpu.f(4) == BOX | SINGLE.nan
    assert hart.run("fclass.s", rd=4, rs1=1) and hart.cpu.x(4) == 1 << 9
    assert hart.run("fmin.s", rd=4, rs1=1, rs2=2) and hart.cpu.f(4) == BOX | ONE_S
    assert hart.run("fsgnj.s", rd=4, rs1=1, rs2=1) and hart.cpu.f(4) == BOX | SINGLE.nan
    assert hart.run("fsgnjn.s", rd=4, rs1=2, rs2=1) and hart.cpu.f(4) == BOX | ONE_S | SINGLE.sign
    assert hart.run("fcvt.d.s", rd=4, rs1=1, rm=RNE) and hart.cpu.f(4) == DOUBLE.nan
    assert hart.cpu.csr(FFLAGS) == 0, "the canonical NaN is quiet"
    assert hart.run("fcvt.w.s", rd=4, rs1=1, rm=RNE) and hart.cpu.x(4) == 0x7FFFFFFF
    assert hart.cpu.csr(FFLAGS) == NV


def test_moves_look_at_no_box(hart: Hart) -> None:
    hart.cpu.set_f(1, 0x0123456789ABCDEF)
    assert hart.run("fmv.x.w", rd=4, rs1=1) and hart.cpu.x(4) == 0xFFFFFFFF89ABCDEF
    hart.cpu.set_x(5, 0x0123456789ABCDEF)
    assert hart.run("fmv.w.x", rd=4, rs1=5) and hart.cpu.f(4) == 0xFFFFFFFF89ABCDEF


def test_double_operations_take_boxed_singles_as_the_nans_they_are(hart: Hart) -> None:
    hart.cpu.set_f(1, BOX | ONE_S)
    hart.cpu.set_f(2, ONE_D)
    assert hart.run("fadd.d", rd=4, rs1=1, rs2=2, rm=RNE) and hart.cpu.f(4) == DOUBLE.nan
    assert hart.cpu.csr(FFLAGS) == 0, "a box is a quiet NaN"


def test_x0_takes_no_result_but_flags_are_raised(hart: Hart) -> None:
    hart.cpu.set_f(1, DOUBLE.infinity + 1)
    assert hart.run("feq.d", rd=0, rs1=1, rs2=1) and hart.cpu.x(0) == 0
    assert hart.cpu.csr(FFLAGS) == NV
    hart.cpu.set_f(1, ONE_D)
    assert hart.run("fcvt.l.d", rd=0, rs1=1, rm=RNE) and hart.cpu.x(0) == 0


def test_f0_is_a_register_like_any_other(hart: Hart) -> None:
    hart.cpu.set_f(1, ONE_D)
    assert hart.run("fadd.d", rd=0, rs1=1, rs2=1, rm=RNE) and hart.cpu.f(0) == 0x4000000000000000


def test_destination_may_be_every_source(hart: Hart) -> None:
    hart.cpu.set_f(1, 0x4000000000000000)
    assert hart.run("fmadd.d", rd=1, rs1=1, rs2=1, rs3=1, rm=RMM) and hart.cpu.f(1) == 0x4018000000000000


# ---- tables of the F and D extensions, stated anew ------------------------------------------------------------------

ROUNDINGS = {  # F, table "Rounding mode encoding": of an exact value, to an integer
    0: round,  # RNE: Python's own goes to the even one of two that are as near
    1: lambda value: -math.floor(-value) if value < 0 else math.floor(value),
    2: math.floor,
    3: math.ceil,
    4: lambda value: math.floor(abs(value) + Fraction(1, 2)) * (-1 if value < 0 else 1),
}
INTEGERS = {"w": (-(1 << 31), (1 << 31) - 1), "wu": (0, (1 << 32) - 1), "l": (-(1 << 63), (1 << 63) - 1),
            "lu": (0, (1 << 64) - 1)}  # fmt: skip
FORMAT_OF = {"s": "<f", "d": "<d"}


def encoded(width: str, value: float) -> int:
    return int.from_bytes(struct.pack(FORMAT_OF[width], value), "little")


def edges(width: str) -> list[float]:
    """Values around every bound of every integer, as far as the format has them, and their neighbours."""
    found = {0.0, -0.0, 5e-324, 1.5, 2.5, -1.5, -2.5, 1e30, -1e30}
    for bound in {bound for both in INTEGERS.values() for bound in both}:
        for quarters in range(-8, 9):
            try:
                value = float(struct.unpack(FORMAT_OF[width], struct.pack(FORMAT_OF[width], bound + quarters / 4))[0])
            except OverflowError:
                continue
            found |= {value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)}
    return [value for value in found if width == "d" or struct.unpack("<f", struct.pack("<f", value))[0] == value]


@pytest.mark.parametrize("width", FORMAT_OF)
@pytest.mark.parametrize("integer", INTEGERS)
def test_conversions_at_their_edges(hart: Hart, integer: str, width: str) -> None:
    """F, table "Domains of float-to-integer conversions and behavior for invalid inputs", and the text around it.

    Out of range after rounding is the nearest integer and invalid, never inexact besides; a NaN is the largest; results
    of 32 bits are sign-extended, the unsigned ones too.
    """
    low, high = INTEGERS[integer]
    name = f"fcvt.{integer}.{width}"
    cases = [(encoded(width, value), Fraction(value)) for value in edges(width)]
    special = [(math.inf, high), (-math.inf, low), (math.nan, high), (-math.nan, high)]
    for mode, rounding in ROUNDINGS.items():
        wanted = []
        for bits, value in cases:
            result = rounding(value)
            wanted.append((bits, min(max(result, low), high), 0 if result == value else NX, low <= result <= high))
        wanted += [(encoded(width, value), result, 0, False) for value, result in special]
        for bits, result, inexact, fits in wanted:
            hart.cpu.set_csr(FCSR, 0)
            hart.cpu.set_f(1, bits | (BOX if width == "s" else 0))
            assert hart.run(name, rd=4, rs1=1, rm=mode)
            extended = result & (1 << 32) - 1 if "w" in integer else result & (1 << 64) - 1
            if "w" in integer and extended >> 31:
                extended |= BOX
            assert hart.cpu.x(4) == extended, f"{name} of {bits:#x} in mode {mode}"
            assert hart.cpu.csr(FFLAGS) == (inexact if fits else NV), f"{name} of {bits:#x} in mode {mode}"


NUMBERS = [-math.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, math.inf]  # in order, of the two zeros as well
NANS = {"s": (0x7FC00000, 0xFFC12345, 0x7F800001, 0xFFBFFFFF),
        "d": (0x7FF8 << 48, 0xFFF8_0000_1234_5678, 0x7FF0_0000_0000_0001, 0xFFF7 << 48 | 0xFFFF)}  # fmt: skip


@pytest.mark.parametrize("width", FORMAT_OF)
def test_minima_maxima_and_comparisons(hart: Hart, width: str) -> None:
    """F 2.2: -0.0 is less than +0.0 for fmin and fmax alone; a number wins over a NaN, two NaNs give the canonical one.

    A signalling NaN is invalid everywhere; a quiet one for flt and fle, and not for feq.
    """
    numbers = [encoded(width, value) for value in NUMBERS]
    signalling = NANS[width][2:]
    box = BOX if width == "s" else 0
    canonical = NANS[width][0]
    for a, b in itertools.product((*numbers, *NANS[width]), repeat=2):
        nans = [bits for bits in (a, b) if bits in NANS[width]]
        invalid = NV if any(bits in signalling for bits in nans) else 0
        for register, bits in ((1, a), (2, b)):
            hart.cpu.set_f(register, bits | box)
        values = [0.0 if bits in nans else NUMBERS[numbers.index(bits)] for bits in (a, b)]
        for name in ("fmin", "fmax"):
            if nans:
                result = canonical if len(nans) == 2 else b if a in nans else a
            else:
                result = numbers[(min if name == "fmin" else max)(numbers.index(a), numbers.index(b))]
            hart.cpu.set_csr(FCSR, 0)
            assert hart.run(f"{name}.{width}", rd=4, rs1=1, rs2=2)
            assert (hart.cpu.f(4), hart.cpu.csr(FFLAGS)) == (result | box, invalid), f"{name} {a:#x}, {b:#x}"
        for name, compare in (("feq", operator.eq), ("flt", operator.lt), ("fle", operator.le)):
            result = 0 if nans else int(compare(*values))
            flags = NV if nans and name != "feq" else invalid
            hart.cpu.set_csr(FCSR, 0)
            assert hart.run(f"{name}.{width}", rd=4, rs1=1, rs2=2)
            assert (hart.cpu.x(4), hart.cpu.csr(FFLAGS)) == (result, flags), f"{name} {a:#x}, {b:#x}"


@pytest.mark.parametrize("width", FORMAT_OF)
def test_the_ten_classes(hart: Hart, width: str) -> None:
    """F, table "Format of result of FCLASS instruction"."""
    smallest = encoded(width, 2.0**-126 if width == "s" else 2.0**-1022)
    sign = 1 << (31 if width == "s" else 63)
    positive = [
        0,
        1,
        smallest - 1,
        smallest,
        encoded(width, 1.0),
        encoded(width, math.inf) - 1,
        encoded(width, math.inf),
    ]
    classes = [4, 5, 5, 6, 6, 6, 7]
    table = [
        *zip(positive, classes, strict=True),
        *((bits | sign, 7 - n) for bits, n in zip(positive, classes, strict=True)),
    ]
    table += [(bits, 9 if place < 2 else 8) for place, bits in enumerate(NANS[width])]
    for bits, n in table:
        hart.cpu.set_f(1, bits | (BOX if width == "s" else 0))
        assert hart.run(f"fclass.{width}", rd=4, rs1=1)
        assert (hart.cpu.x(4), hart.cpu.csr(FFLAGS)) == (1 << n, 0), f"{bits:#x}"
