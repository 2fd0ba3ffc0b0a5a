"""F and D in translated code: values and flags by the exact model, modes that change in hot code, the host's state.

Translated code computes by SSE2 and FMA3 where the mode is to nearest, and asks the interpreter's arm for the rest; so
every instruction is run over the corners of the formats in a hot loop, by registers of the host and by those in memory,
and compared with `float_model`, which knows neither. What depends on mstatus.FS and frm has the interpreter as its
reference.

    fld fa1, 0(s0); csrw fflags, zero; fsqrt.s fa0, fa1; csrr t1, fflags; fsd fa0, 0(s2) ...   # 200 operand sets
"""

from __future__ import annotations

import ctypes
import platform
import random
import struct
import threading

import pytest
from machine_code import HANDLER, ONES, RAM, Hart, PageTables, RecordingBus, S, Trap
from two_tiers import COUNTED, FORCED, FS_DIRTY, TICK, Twins, arms, set_f, ticks, translator

from tests import float_operands
from tests.float_model import DZ, NV, NX, OF, RNE, SINGLE, UF
from tests.test_exec_fp import NAMES, ROUNDED, expected, operand_format, result_format
from vpod import _cpu, disasm, isa
from vpod.tier import Tier

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 is translated to")

BOX = 0xFFFFFFFF << 32
INPUT, OUTPUT = RAM + 0x1_0000, RAM + 0x2_0000
SETS = 160


def double(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def single(value: float) -> int:
    return BOX | int(struct.unpack("<I", struct.pack("<f", value))[0])


# ---- every instruction, by the model ------------------------------------------------------------------------------

# rd, rs1, rs2, rs3: in the host's registers, in memory, some of each, the result over an operand, all the same
FLOATING = [(10, 11, 12, 13), (20, 21, 22, 23), (0, 31, 17, 4), (19, 8, 24, 3), (14, 14, 15, 28), (25, 2, 25, 9),
            (16, 29, 1, 16), (5, 6, 6, 7), (18, 12, 26, 12), (30, 30, 30, 30)]  # fmt: skip
INTEGERS = [(10, 11), (22, 23), (15, 28), (29, 12), (14, 14), (25, 25), (1, 30), (17, 2), (13, 10), (8, 31)]


def loop(name: str, operands: tuple[int, ...], numbers: tuple[int, int], rounding: str) -> str:
    """A loop that reads operand sets of 32 bytes from s2 on to s3, and writes results and flags from s4 on."""
    row = isa.BY_NAME[name]
    form, target = operand_format(name), result_format(name)
    fd, *sources = (disasm.F_NAMES[n] for n in operands)
    xd, xs = (disasm.X_NAMES[n] for n in numbers)
    given = [sources[n] for n, field in enumerate(("rs1", "rs2", "rs3")) if field in row.fields]
    lines = [f"fld {source}, {8 * n}(s2)" for n, source in reversed(list(enumerate(sources)))]
    if form is None:
        given, lines = [xs], [f"ld {xs}, 0(s2)"]
    result = xd if target is None else fd
    lines.append("csrw fflags, zero")
    lines.append(f"{name} {', '.join([result, *given])}" + (f", {rounding}" if name in ROUNDED else ""))
    lines += ["csrr s5, fflags", f"{'sd' if target is None else 'fsd'} {result}, 0(s4)", "sd s5, 8(s4)"]
    return "again: " + "; ".join(lines) + "; addi s2, s2, 32; addi s4, s4, 16; bne s2, s3, again; done: j done"


def operand_sets(name: str, source: random.Random) -> list[tuple[int, int, int]]:
    """For an instruction: corners and random ones, as the model takes them (a single has 32 bits)."""
    form = operand_format(name)
    if form is None:
        column = list(float_operands.random_integers(SETS, source))
        return list(zip(column, column, column, strict=True))
    width = "s" if form is SINGLE else "d"
    if name.startswith("fcvt.") and result_format(name) is None:
        column = list(float_operands.random_convertibles(width, SETS, source))
        return list(zip(column, column, column, strict=True))
    return list(zip(*float_operands.random_sets(width, SETS, source), strict=True))


def aliased(name: str, values: tuple[int, int, int], operands: tuple[int, ...]) -> tuple[int, int, int]:
    """The values that the operands have when some are the same register: the one loaded last, the first of them."""
    sources = operands[1:]
    first, second, third = (values[sources.index(register)] for register in sources)
    return first, second, third


STATIC = ["rne", "rtz", "rdn", "rup", "rmm"]


@pytest.mark.parametrize(
    ("name", "rounding"),
    [(name, rounding) for name in NAMES for rounding in ("dyn", *(STATIC if name in ROUNDED else []))],
)
def test_values_and_flags(name: str, rounding: str) -> None:
    """Also of singles that are not boxed, which are the canonical NaN."""
    source = random.Random(name + rounding)
    mode = RNE if rounding == "dyn" else STATIC.index(rounding)
    boxed = operand_format(name) is SINGLE
    variants = list(zip(FLOATING, INTEGERS, strict=True))
    for operands, numbers in variants if rounding == "dyn" else source.sample(variants, 2):
        sets = operand_sets(name, source)[: SETS if operands == FLOATING[0] else SETS // 4]
        hart = Hart(loop(name, operands, numbers, rounding), tier=FORCED).csr(mstatus=FS_DIRTY)
        wanted = []
        for n, values in enumerate(sets):
            given = [value | BOX if boxed else value for value in values]
            for k in range(3):
                if boxed and source.randrange(8) == 0:
                    given[k] = given[k] & ONES >> 32 | source.choice((0, 0xFFFF_FFFE, 0x7FFF_FFFF, 1)) << 32
            hart.cpu.write(INPUT + 32 * n, struct.pack("<3Q", *given))
            values = aliased(name, (given[0], given[1], given[2]), operands)
            if boxed and name != "fmv.x.w":
                values = tuple(v if v >= BOX else BOX | SINGLE.nan for v in values)  # type: ignore[assignment]
            mask = ONES >> 32 if boxed else ONES
            wanted.append(expected(name, mode, *(value & mask for value in values)))
        hart.set(s2=INPUT, s3=INPUT + 32 * len(sets), s4=OUTPUT).run(len(sets) * 20)
        for n, (value, flags) in enumerate(wanted):
            got, raised = struct.unpack("<2Q", hart.cpu.read(OUTPUT + 16 * n, 16))
            value |= BOX if result_format(name) is SINGLE else 0
            shown = hart.cpu.read(INPUT + 32 * n, 24).hex(" ", 8)
            assert (hex(got), raised) == (hex(value & ONES), flags), f"{name} {operands} {rounding}: {shown}"
        assert ticks(hart) > 0 and translator(hart)["translations"] > 0


def test_what_is_plain_never_leaves_translated_code() -> None:
    """The arms are asked for what SSE doesn't do, and for nothing else: this file tests the emitters, not the arms."""
    plain = ["fadd", "fsub", "fmul", "fdiv", "fsgnj", "fsgnjn", "fsgnjx", "fmin", "fmax"]
    source = "; ".join(f"{name}.{form} fa0, fa1, fa2" for name in plain for form in "d") + "; "
    source += "; ".join(f"{name}.s fs2, fs3, fs4" for name in plain)
    source += "; fsqrt.d fa0, fa1; fsqrt.s fs2, fs3; fcvt.d.s fa0, fs3; fcvt.s.d fs2, fa1; fcvt.d.l fa0, a0"
    source += "; fcvt.l.d a0, fa1; fcvt.w.s a0, fs3, rtz; feq.d a0, fa1, fa2; flt.s a0, fs3, fs4; fmv.x.d a0, fa1"
    hart = Hart(f"again: {source}; addi s1, s1, 1; j again", tier=FORCED).csr(mstatus=FS_DIRTY)
    set_f(hart, {11: double(1.5), 12: double(0.25), 19: single(7.5), 20: single(1e9)})
    hart.cpu.run(5000)
    assert arms(hart) == {} and hart.x("s1") > 100


SINGLES = [name for name in NAMES if operand_format(name) is SINGLE]


@pytest.mark.parametrize("seed", range(24))
def test_singles_that_lose_their_box_in_hot_code(seed: int) -> None:
    """Several instructions with one operand: none relies on a box that another has seen only in the pass before."""
    source = random.Random(seed)
    operands, results = ["fa1", "ft8", "fa2", "fs9"], ["fs0", "fs5", "fa0", "ft9"]
    lines = [f"fld {register}, {8 * n}(s2)" for n, register in enumerate(operands)]
    for name in source.choices(SINGLES, k=12):
        fields = isa.BY_NAME[name].fields
        target = source.choice(results if result_format(name) else ["a0", "s10"])
        given = [source.choice(operands) for field in ("rs1", "rs2", "rs3") if field in fields]
        lines.append(f"{name} {', '.join([target, *given])}" + (", rne" if name in ROUNDED else ""))
        lines.append("add s5, s5, a0; add s6, s6, s10" if source.randrange(3) == 0 else f"fsd {target}, 0(s4)")
        if result_format(name) is None:
            lines[-1] = "add s5, s5, a0; xor s6, s6, s10"
    twins = Twins("again: " + "; ".join(lines) + "; addi s2, s2, 32; bne s2, s3, again; done: j done")
    rows = 200
    for n in range(rows):
        values = [single(source.choice((0.0, 1.5, -3.25, 1e30, 7.0))) for _ in operands]
        if n > 20 and source.randrange(4) == 0:
            values[source.randrange(4)] &= source.choice((ONES >> 32, ONES ^ 1 << 32, ONES ^ 1 << 63))
        twins.write(INPUT + 32 * n, struct.pack("<4Q", *values))
    twins.csr(mstatus=FS_DIRTY).set(s2=INPUT, s3=INPUT + 32 * rows, s4=OUTPUT)
    for budget in (*source.choices(range(1, 60), k=20), 20_000):
        twins.run(budget)
    assert twins.hart.cpu.pc == twins.program["done"]
    assert twins.translator["translations"] > 0


# ---- said outright ------------------------------------------------------------------------------------------------

INF, QNAN, SNAN = 0x7FF0 << 48, 0x7FF8 << 48, 0x7FF0_0000_0000_0001
NEGATIVE = 1 << 63
DIRECTED = [  # instruction, operands, result, flags
    ("fmin.d", (0, NEGATIVE), NEGATIVE, 0),
    ("fmin.d", (NEGATIVE, 0), NEGATIVE, 0),
    ("fmax.d", (0, NEGATIVE), 0, 0),
    ("fmax.d", (NEGATIVE, 0), 0, 0),
    ("fmin.d", (QNAN, double(1.0)), double(1.0), 0),
    ("fmax.d", (double(1.0), QNAN | 5), double(1.0), 0),
    ("fmin.d", (SNAN, double(1.0)), double(1.0), NV),
    ("fmax.d", (SNAN, QNAN | 7), QNAN, NV),
    ("fmin.d", (QNAN | NEGATIVE | 3, QNAN | 7), QNAN, 0),
    ("fadd.d", (QNAN | NEGATIVE | 3, double(1.0)), QNAN, 0),
    ("fadd.d", (SNAN, double(1.0)), QNAN, NV),
    ("fsub.d", (INF, INF), QNAN, NV),
    ("fmul.d", (INF, NEGATIVE), QNAN, NV),
    ("fdiv.d", (0, 0), QNAN, NV),
    ("fdiv.d", (double(-1.0), 0), INF | NEGATIVE, DZ),
    ("fsqrt.d", (double(-1.0),), QNAN, NV),
    ("fsqrt.d", (NEGATIVE,), NEGATIVE, 0),
    ("fmul.d", (double(1e200), double(1e200)), INF, OF | NX),
    ("fmul.d", (double(1e-200), double(1e-200)), 0, UF | NX),
    ("fmul.d", (1 << 52, 0x3FEFFFFF_FFFFFFFF), 1 << 52, UF | NX),  # the smallest normal, but tiny after rounding
    ("fmul.d", (1 << 52 | 1, 0x3FEFFFFF_FFFFFFFE), 1 << 52, NX),  # tiny before rounding, and not after it
    ("fadd.d", (1, 2), 3, 0),  # subnormals are exact, and raise nothing
    ("fmadd.d", (INF, 0, QNAN | 9), QNAN, NV),
    ("fmadd.d", (0, INF, SNAN), QNAN, NV),
    ("fnmadd.d", (INF, double(1.0), INF), INF | NEGATIVE, 0),
    ("fnmsub.d", (INF, double(1.0), INF), QNAN, NV),
    ("fmsub.d", (double(1.0), double(2.0), double(2.0)), 0, 0),
    ("fnmadd.d", (double(1.0), double(2.0), double(-2.0)), 0, 0),
    ("fcvt.s.d", (double(1e300),), single(float("inf")), OF | NX),
    ("fcvt.s.d", (QNAN | NEGATIVE | 1,), BOX | 0x7FC0_0000, 0),
    ("fcvt.d.s", (BOX | 0xFF80_0001,), QNAN, NV),
    ("fcvt.d.s", (0x3F80_0000,), QNAN, 0),
    ("fadd.s", (0x3F80_0000, single(1.0)), BOX | 0x7FC0_0000, 0),
    ("fsgnjn.s", (0x3F80_0000, single(1.0)), BOX | 0xFFC0_0000, 0),
    ("fsgnjx.s", (single(2.0), 0x3F80_0000), single(2.0), 0),
    ("fmin.s", (0x3F80_0000, single(1.0)), single(1.0), 0),
    ("fclass.s", (0x3F80_0000,), 1 << 9, 0),
    ("feq.d", (QNAN, QNAN), 0, 0),
    ("feq.d", (SNAN, 0), 0, NV),
    ("flt.d", (QNAN, 0), 0, NV),
    ("fle.d", (0, NEGATIVE), 1, 0),
    ("feq.s", (single(1.0), 0x3F80_0000), 0, 0),
    ("fcvt.w.d", (double(2147483647.5),), 0x7FFF_FFFF, NV),
    ("fcvt.w.d", (double(2147483647.49),), 0x7FFF_FFFF, NX),
    ("fcvt.w.d", (double(-2147483648.5),), -(1 << 31) & ONES, NX),
    ("fcvt.w.d", (double(-2147483649.0),), -(1 << 31) & ONES, NV),
    ("fcvt.w.d", (QNAN | NEGATIVE,), 0x7FFF_FFFF, NV),
    ("fcvt.l.d", (double(-9223372036854775808.0),), 1 << 63, 0),
    ("fcvt.l.d", (double(9223372036854775808.0),), (1 << 63) - 1, NV),
    ("fcvt.l.d", (INF | NEGATIVE,), 1 << 63, NV),
    ("fcvt.wu.d", (double(-0.25),), 0, NX),
    ("fcvt.wu.d", (double(-1.0),), 0, NV),
    ("fcvt.wu.d", (double(4294967295.0),), ONES, 0),
    ("fcvt.lu.s", (single(2.0**64),), ONES, NV),
]


@pytest.mark.parametrize(("name", "given", "wanted", "flags"), DIRECTED)
def test_a_corner(name: str, given: tuple[int, ...], wanted: int, flags: int) -> None:
    """In the first pass and in hot code, where other values went through before."""
    target = result_format(name)
    hart = Hart(loop(name, FLOATING[0], INTEGERS[0], "rne"), tier=FORCED).csr(mstatus=FS_DIRTY)
    other = [(single if operand_format(name) is SINGLE else double)(value) for value in (3.0, 0.75, 5.5)]
    values = [*given, 0, 0][:3]
    for n in range(60):
        hart.cpu.write(INPUT + 32 * n, struct.pack("<3Q", *(other if n % 59 else values)))
    hart.set(s2=INPUT, s3=INPUT + 32 * 60, s4=OUTPUT).run(60 * 20)
    for n in (0, 59):
        assert struct.unpack("<2Q", hart.cpu.read(OUTPUT + 16 * n, 16)) == (wanted, flags)
    assert target is not None or hart.x("a0") == wanted
    assert ticks(hart) >= 100


DOUBLES = [
    *("fadd.d {f}, fa1, fa2", "fsgnjn.d {f}, fa1, fa2", "fmin.d {f}, fa1, fa2", "fmadd.d {f}, fa1, fa2, fa3"),
    *("fsqrt.d {f}, fa1", "fcvt.d.s {f}, fs2", "fcvt.d.w {f}, s1", "fmv.d.x {f}, a1", "fld {f}, 0(s2)"),
]


@pytest.mark.parametrize("register", ["fa0", "fs9"])
@pytest.mark.parametrize("double_result", DOUBLES)
def test_what_was_a_single_is_none_any_more(double_result: str, register: str) -> None:
    """In one trace: a boxed single, a double over it, and that taken for a single, which is the canonical NaN."""
    body = f"fadd.s {register}, fs2, fs2; {double_result.format(f=register)}; fadd.s fa5, {register}, fs2"
    twins = Twins(f"loop: {body}; fmv.x.w a0, fa5; addi s1, s1, -1; bnez s1, loop; done: j done")
    twins.csr(mstatus=FS_DIRTY).set(s1=20, s2=INPUT, a1=double(3.0)).write(INPUT, struct.pack("<Q", double(0.1)))
    twins.do(lambda hart: set_f(hart, {11: double(1 / 3), 12: double(2.5), 13: double(7.0), 18: single(1.5)}))
    twins.finish(300)
    assert twins.hart.x("a0") == 0x7FC0_0000
    assert twins.translator["translations"] > 0


# ---- FS and frm change while code is hot --------------------------------------------------------------------------

SKIPPING = (
    "csrr t6, mepc; addi t6, t6, 4; csrw mepc, t6; addi s8, s8, 1; csrr t6, minstret; mret"  # counts what was illegal
)
STATES = """
        li s1, 120; li s3, 0x6000
    loop: andi t0, s1, 7; bnez t0, on           # every eighth pass: FS and frm become others
        csrc mstatus, s3; srli t1, s1, 3; slli t1, t1, {shift}; and t1, t1, {mask}; {change}
    on: fadd.d fa0, fa0, fa1; fmul.s fs2, fs3, fs4; fdiv.d ft8, fa1, fa2; fsqrt.s fs5, fs3; csrr t3, mstatus
        fmadd.d fa3, fa0, fa1, ft8; fcvt.w.d a0, fa0; fsd fa3, 0(s2); fld ft9, 0(s2); csrr t4, fflags; fmv.x.d a1, fa3
        xor s5, s5, t3; add s5, s5, a1; add s6, s6, a0; add s7, s7, t4; feq.d a2, fa0, fa3
        fcvt.l.s a3, fs2; xor s5, s5, a3
        addi s1, s1, -1; bnez s1, loop
    done: j done
"""
CHANGES = {
    "FS": STATES.format(shift=13, mask="s3", change="csrs mstatus, t1"),
    "frm": STATES.format(shift=0, mask="s4", change="csrs mstatus, s3; csrw frm, t1"),
    "fcsr": STATES.format(shift=5, mask="s9", change="csrs mstatus, s3; csrw fcsr, t1"),
}


@pytest.mark.parametrize("budget", [1, 7, 13, 100_000])
@pytest.mark.parametrize("tier", [FORCED, COUNTED, Tier(at_once=True, trace=1)])
@pytest.mark.parametrize("what", CHANGES)
def test_states_change_in_the_middle_of_hot_code(what: str, tier: Tier, budget: int) -> None:
    """Off, Initial, Clean and Dirty; every rounding mode and the reserved ones: traps, values, flags, FS are exact."""
    twins = Twins(CHANGES[what], tier=tier)

    def prepare(hart: Hart) -> None:
        hart.load(SKIPPING, HANDLER)
        set_f(hart, {11: double(1 / 3), 12: double(-7.7), 19: single(2.3), 20: single(1e-30), 10: double(1e10)})
        hart.set(s2=RAM + 0x8000, s4=7, s9=0xFF).csr(mstatus=FS_DIRTY)

    twins.do(prepare)
    for _ in range(1 if budget > 1000 else 60):
        twins.run(budget)
    twins.run(20_000)
    assert twins.hart.cpu.pc == twins.program["done"]
    assert twins.translator["translations"] > 0
    if what != "fcsr":
        assert twins.hart.x("s8") > 0, "some of it was illegal"


def test_the_rounding_mode_of_hot_code_is_the_present_one() -> None:
    """The same division under the five modes, again and again: its last place differs, whatever was translated."""
    hart = Hart("loop: fdiv.d fa0, fa1, fa2; addi s1, s1, -1; bnez s1, loop; done: j done", tier=FORCED)
    third = double(1 / 3)
    for mode in (0, 3, 0, 2, 1, 4, 3, 0):
        hart.csr(mstatus=FS_DIRTY, fcsr=mode << 5).set(pc=RAM, s1=50)
        set_f(hart, {11: double(1.0), 12: double(3.0)})
        hart.run(1000)
        assert hart.cpu.f(10) == third + (mode == 3), mode
        assert hart.read("fcsr") == mode << 5 | NX
    assert translator(hart)["translations"] >= 2


@pytest.mark.parametrize("fs", [0, 1, 2, 3])
def test_fs_of_hot_code_becomes_dirty_as_the_interpreters(fs: int) -> None:
    for access in ("fld fa0, 0(s2)", "flw ft8, 0(s2)", "fsd fa0, 0(s2)", "feq.d a0, fa0, fa1", "fsgnj.d fa0, fa1, fa2"):
        twins = Twins(f"loop: {TICK}; {access}; addi s1, s1, 1; j loop").csr(mstatus=fs << 13)
        twins.set(s2=RAM + 0x8000).do(lambda hart: hart.load(SKIPPING, HANDLER) and None)
        for budget in (1, 2, 3, 200, 1, 1, 1):
            twins.run(budget)
        twins.csr(mstatus=fs << 13).run(100)
        writes = access.startswith(("fl", "fs")) and not access.startswith("fsd")
        assert twins.hart.read("mstatus") >> 13 & 3 == (3 if fs and writes else fs)
        assert (twins.hart.x("s8") > 0) == (fs == 0) and twins.ticks > 0


def test_flags_pile_up_over_traces_and_faults() -> None:
    """What SSE collected is in fflags whoever looks next: a CSR instruction, a trap's handler, or Python."""
    source = "fdiv.d fa0, fa1, fa2; fsqrt.d fa3, fa4; ld a0, 0(a1); fmul.d fa5, fa6, fa6; j ."
    for faults in (False, True):
        twins = Twins(source).csr(mstatus=FS_DIRTY).set(a1=0 if faults else RAM + 0x8000)
        twins.do(lambda hart: set_f(hart, {11: double(1), 12: 0, 14: double(-1), 16: double(1e200)}))
        twins.run(100)
        assert twins.hart.read("fflags") == DZ | NV | (0 if faults else OF | NX)
        assert twins.hart.trap() == (Trap(5, RAM + 8, 0) if faults else None)
        assert twins.translator["translations"] > 0


# ---- the host's own state -----------------------------------------------------------------------------------------


def host() -> tuple[int, int, list[float]]:
    """How this process rounds, which exceptions it has seen, and what it computes at the edges."""
    libm = ctypes.CDLL(None)
    tiny = 5e-324
    sums = [1 / 3, -1 / 3, 2**0.5, 1e308 * 1.1, tiny / 3, tiny * 2, 2.2250738585072014e-308 / 2, 0.1 + 0.2, 1e16 + 1]
    flags = libm.fetestexcept(0x3F)
    return libm.fegetround(), flags, sums


class Stopper(RecordingBus):
    cpu: _cpu.Cpu

    def write(self, address: int, size: int, value: int) -> None:
        assert [1 / 3, 5e-324 / 2] == [0.3333333333333333, 0.0], "a device's own arithmetic"
        self.cpu.stop()


EXITS = {  # how run() ends or is interrupted in the middle of floating-point code
    "a budget": "j loop",
    "a fault": "ld a0, 0(zero); j loop",
    "wfi": "wfi; j loop",
    "a device": "sw zero, 0(s2); j loop",
    "an arm": "fmul.d fa5, fa5, fa5, rdn; fclass.d a0, fa5; j loop",
    "an illegal instruction": ".word 0; j loop",
    "an environment call": "ecall; j loop",
    "a jump": "jr s3",
}


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("way", EXITS)
def test_the_hosts_mode_and_flags_are_its_own(way: str, mode: int) -> None:
    """Whatever frm says and fflags collect: rounding, exceptions and subnormals of this process are as before."""
    libm = ctypes.CDLL(None)
    source = f"loop: fdiv.d fa0, fa1, fa2; fmul.d fa3, fa4, fa4; fdiv.d fa6, fa1, fa7; fcvt.w.d a0, fa5; {EXITS[way]}"
    bus = Stopper()
    hart = Hart(source, bus=bus, tier=FORCED).csr(mstatus=FS_DIRTY, fcsr=mode << 5)
    bus.cpu = hart.cpu
    set_f(hart, {11: double(1.0), 12: double(3.0), 14: double(1e-200), 15: double(1e30), 17: 0})
    hart.set(s2=0x1000_0000, s3=RAM)
    libm.feclearexcept(0x3F)
    before = libm.fegetround()
    for budget in (5, 6, 50, 1000):
        hart.cpu.run(budget)
        assert (libm.fegetround(), libm.fetestexcept(0x3F)) == (before, 0)
    wanted = host()
    for _ in range(20):
        hart.set(pc=RAM).cpu.run(500)
        assert host() == wanted
    assert hart.read("fflags") & (NX | DZ | UF) == NX | DZ | UF
    assert translator(hart)["translations"] > 0


@pytest.mark.parametrize("rounding", [0, 0x400, 0x800, 0xC00], ids=["nearest", "downward", "upward", "towards zero"])
def test_the_host_may_round_as_it_likes(rounding: int) -> None:
    """Its mode and the exceptions that it has raised outlast a run; the guest rounds to nearest all the same."""
    libm = ctypes.CDLL(None)
    hart = Hart("loop: fdiv.d fa0, fa1, fa2; fdiv.d fa4, fa5, fa2; j loop", tier=FORCED).csr(mstatus=FS_DIRTY)
    set_f(hart, {11: double(1.0), 12: double(3.0), 15: double(-1.0)})
    operands, raised = (
        ((1.0, 3.0), (-1.0, 3.0), (1.0, 10.0)),
        1 | 4,
    )  # invalid operation, division by zero: in MXCSR, by SSE

    def quotients() -> list[float]:
        return [one / other for one, other in operands]

    try:
        libm.fesetround(rounding)
        libm.feraiseexcept(raised)
        wanted = quotients()
        hart.cpu.run(1000)
        found, flags = quotients(), libm.fetestexcept(raised)
    finally:
        libm.fesetround(0)
        libm.feclearexcept(0x3F)
    assert found == wanted and flags == raised
    assert (hart.cpu.f(10), hart.cpu.f(14)) == (double(1 / 3), double(-1 / 3))
    assert (wanted == quotients()) == (rounding == 0), "the host's mode was another one"
    assert translator(hart)["translations"] > 0


def test_two_threads_have_a_mode_each() -> None:
    """One runs the guest with all flags raised; the other computes meanwhile."""
    hart = Hart("loop: fdiv.d fa0, fa1, fa2; fmul.d fa3, fa4, fa4; j loop", tier=FORCED).csr(mstatus=FS_DIRTY)
    set_f(hart, {11: double(1.0), 12: double(3.0), 14: double(1e-200)})
    wanted = host()[2]
    running = threading.Thread(target=hart.cpu.run, args=(20_000_000,))
    running.start()
    while running.is_alive():
        assert host()[2] == wanted
    running.join()
    assert hart.read("fflags") == NX | UF


def test_faults_and_floats_under_sv39() -> None:
    """A store and a load of floats fault in S: f registers and flags are as they were; the handler computes too."""
    twins = Twins("done: j done")

    def prepare(hart: Hart) -> None:
        tables = PageTables(hart).identity().map(0x1_0000_0000, RAM + 0x9000)
        hart.load(
            "loop: fadd.d fa0, fa0, fa1; fdiv.d fs7, fa0, fa2; fsd fs7, 0(a2); fld fs8, 0(a3); j loop", RAM + 0x8000
        )
        hart.load("fmul.d fa1, fa1, fs8; csrr t0, mepc; addi t0, t0, 4; csrw mepc, t0; mret", HANDLER)
        set_f(hart, {11: double(1.1), 12: double(3.0), 24: double(1.01)})
        hart.csr(mstatus=FS_DIRTY).set(a2=0x1_0000_0000, a3=0x1_0000_1000, pc=RAM + 0x8000, priv=S)
        tables.on()

    twins.do(prepare)
    for budget in (5, 300, 1, 2, 3, 500):
        twins.run(budget)
    assert twins.hart.read("mcause") == 13 and twins.hart.read("mtval") == 0x1_0000_1000
    assert twins.translator["translations"] > 0
