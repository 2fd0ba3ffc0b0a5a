"""What the core does where programs seldom go: special operands, RAM's last bytes, blocks that share a hash slot.

These are the lines that the other tests of the core leave out, as gcov counts them (tests/proof/coverage.py); each test
states what the specification, or the core's stub, says of that case.

    fmadd.s inf * 0 + NaN is invalid even though the NaN is quiet
"""

from __future__ import annotations

import pytest
from machine_code import ONES, RAM, STEP, Hart, S, Trap, assemble

from vpod import isa
from vpod._cpu import Cpu, decode_word

BOX = 0xFFFF_FFFF_0000_0000
INF_S, NAN_S, ONE_S, MAX_S = 0x7F80_0000, 0x7FC0_0000, 0x3F80_0000, 0x7F7F_FFFF
INF, NAN, ONE = 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 0x3FF0_0000_0000_0000
MINUS, MINUS_S = 1 << 63, 1 << 31
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
DIRTY = 3 << 13


def floating(source: str, *operands: int) -> Hart:
    """A hart that has carried out `source`, with `operands` in f1, f2, f3."""
    hart = Hart().csr(mstatus=DIRTY)
    for number, value in enumerate(operands, start=1):
        hart.cpu.set_f(number, value)
    assert hart.step(source) is None
    return hart


# ---- floating point ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "quotient", "flags"),
    [(INF, INF, NAN, NV), (INF, ONE, INF, 0), (INF | MINUS, ONE, INF | MINUS, 0), (ONE, INF, 0, 0),
     (ONE | MINUS, INF, MINUS, 0), (0, ONE, 0, 0), (MINUS, ONE, MINUS, 0), (0, 0, NAN, NV), (ONE, 0, INF, DZ)],
)  # fmt: skip
def test_quotients_of_infinities_and_zeros(a: int, b: int, quotient: int, flags: int) -> None:
    hart = floating("fdiv.d ft0, ft1, ft2", a, b)
    assert (hart.cpu.f(0), hart.read("fflags")) == (quotient, flags)


@pytest.mark.parametrize(
    ("operands", "result", "flags"),
    [((INF, 0, NAN), NAN, NV), ((0, INF, NAN), NAN, NV), ((INF, 0, ONE), NAN, NV), ((INF, ONE, NAN), NAN, 0),
     ((INF, ONE, INF | MINUS), NAN, NV), ((INF, ONE, INF), INF, 0), ((ONE, ONE, INF), INF, 0)],
)  # fmt: skip
def test_fused_operations_on_infinities(operands: tuple[int, int, int], result: int, flags: int) -> None:
    """F extension: infinity times zero is invalid "even when the addend is a quiet NaN"."""
    hart = floating("fmadd.d ft0, ft1, ft2, ft3", *operands)
    assert (hart.cpu.f(0), hart.read("fflags")) == (result, flags)


@pytest.mark.parametrize("sign", [0, 1])
def test_infinities_are_classified_and_converted(sign: int) -> None:
    single, double = BOX | INF_S | sign << 31, INF | sign << 63
    assert floating("fclass.d a0, ft1", double).x("a0") == 1 << (0 if sign else 7)
    assert floating("fclass.s a0, ft1", single).x("a0") == 1 << (0 if sign else 7)
    assert floating("fcvt.d.s ft0, ft1", single).cpu.f(0) == double
    hart = floating("fcvt.s.d ft0, ft1", double)
    assert (hart.cpu.f(0), hart.read("fflags")) == (single, 0)


@pytest.mark.parametrize(("factor", "expected"), [(0b01, 0b00), (0b11, 0b10), (0b101, 0b10)])
def test_a_tie_between_subnormals_goes_to_the_even_one(factor: int, expected: int) -> None:
    """Half of `factor` times the smallest subnormal number lies half way between two of them."""
    hart = floating("fmul.d ft0, ft1, ft2", factor, 0x3FE0_0000_0000_0000)
    assert (hart.cpu.f(0), hart.read("fflags")) == (expected, UF | NX)


@pytest.mark.parametrize(
    ("a", "b", "flags"), [(ONE + 1, 0x000F_FFFF_FFFF_FFFF, NX), (ONE - 1, 0x0010_0000_0000_0000, UF | NX)]
)
def test_tininess_is_detected_after_rounding(a: int, b: int, flags: int) -> None:
    """Both products round up to the smallest normal number; the first would with any exponent: it isn't tiny."""
    hart = floating("fmul.d ft0, ft1, ft2", a, b)
    assert (hart.cpu.f(0), hart.read("fflags")) == (0x0010_0000_0000_0000, flags)


@pytest.mark.parametrize(
    "source", ["fclass.s zero, ft1", "lr.d zero, (a1)", "sc.d zero, a2, (a1)", "amoadd.d zero, a2, (a1)"]
)
def test_a_result_for_x0_is_dropped(source: str) -> None:
    hart = floating("nop", BOX | ONE_S).set(a1=RAM + 0x8000, a2=7).store(RAM + 0x8000, 5)
    assert hart.step(source) is None
    assert hart.registers()[0] == 0
    assert hart.step("addi a0, zero, 5") is None and hart.x("a0") == 5


def test_singles_are_loaded_and_stored_alike_the_first_time_and_the_next() -> None:
    """The first access misses the TLB, the second one hits it."""
    hart = Hart().csr(mstatus=DIRTY).set(a0=RAM + 0x8000).store(RAM + 0x8000, 0x1122_3344_5566_7788)
    for register in ("ft1", "ft2"):
        assert hart.step(f"flw {register}, 4(a0)") is None
    assert (hart.cpu.f(1), hart.cpu.f(2)) == (BOX | 0x1122_3344, BOX | 0x1122_3344)
    for offset in (8, 16):
        assert hart.step(f"fsw ft1, {offset}(a0)") is None
        assert hart.dword(RAM + 0x8000 + offset) == 0x1122_3344


# ---- the end of RAM ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "size", "cause"), [("ld a1, 0(a0)", 8, 5), ("sd a1, 0(a0)", 8, 7), ("lw a1, 0(a0)", 4, 5)]
)
def test_an_access_over_the_end_of_ram_faults_and_does_nothing(source: str, size: int, cause: int) -> None:
    """The trap value is the address of the part that failed: privileged specification, on `mtval`."""
    end = RAM + (4 << 20)
    for inside in range(1, size):
        hart = Hart().set(a0=end - inside, a1=ONES).store(end - 8, 0x1122_3344_5566_7788)
        assert hart.step(source) == Trap(cause, STEP, end)
        assert hart.dword(end - 8) == 0x1122_3344_5566_7788
        assert hart.x("a1") == ONES


def test_an_access_over_the_beginning_of_ram_faults_at_its_own_address() -> None:
    for source, cause in (("ld a1, 0(a0)", 5), ("sd a1, 0(a0)", 7)):
        before = Hart().set(a0=RAM - 3, a1=ONES)
        first = before.dword(RAM)
        assert before.step(source) == Trap(cause, STEP, RAM - 3)
        assert before.dword(RAM) == first


# ---- decoded code --------------------------------------------------------------------------------------------------


def test_blocks_that_share_a_hash_slot_are_forgotten_one_by_one() -> None:
    """The slot of a block is made of bits 1 to 16 of its address, exclusive-or 17 to 32: these two share one."""
    first, second = RAM + 0x4000, RAM + 0x2_4002
    hart = Hart()
    for at, value in ((first, 1), (second, 2)):
        assert hart.step(f"addi a0, zero, {value}", at=at) is None and hart.x("a0") == value
        hart.load("done: j done", at + 4)
        hart.set(pc=at).cpu.run(3)  # decoded whole
    hart.load("addi a0, zero, 3", first)
    for at, value in ((first, 3), (second, 2)):
        hart.set(pc=at).cpu.run(3)
        assert hart.x("a0") == value


@pytest.mark.parametrize("beside", ["sw zero, 0x400(a1)", "nop"])
@pytest.mark.parametrize("store", ["sw a2, 0(a1)", "sd a3, -4(a1)"])
def test_code_is_noticed_to_change(beside: str, store: str) -> None:
    """Also after a store that fills the TLB and touches no decoded line, and by one that begins in the line before."""
    code = RAM + 0x6040
    patch = int.from_bytes(assemble("addi a0, zero, 2").code, "little")
    hart = Hart().set(a1=code, a2=patch, a3=patch << 32)
    hart.load("addi a0, zero, 1; done: j done", code)
    hart.set(pc=code).cpu.run(3)
    assert hart.x("a0") == 1
    for source in (beside, store, "fence.i"):
        assert hart.step(source) is None
    hart.set(pc=code).cpu.run(3)
    assert hart.x("a0") == 2


@pytest.mark.parametrize("change", [{"pmpaddr1": STEP + 0x1000 >> 2}, {"pmpcfg0": 0x080F}])
def test_a_change_of_pmp_is_heeded_at_once(change: dict[str, int]) -> None:
    """The specification lets it wait for an sfence.vma; this hart doesn't, whatever its TLB knew."""
    hart = Hart().csr(pmpaddr0=STEP + 0x1000 >> 2, pmpaddr1=RAM + 0x10_0000 >> 2, pmpcfg0=0x0F0F)
    hart.set(a0=RAM + 0x8000, priv=S)
    assert hart.step("ld a1, 0(a0)") is None and hart.step("ld a1, 8(a0)") is None
    hart.csr(**change)
    assert hart.step("ld a1, 16(a0)") == Trap(5, STEP, RAM + 0x8010)


# ---- Python's face -------------------------------------------------------------------------------------------------


def test_registers_that_are_not_there() -> None:
    hart = Hart()
    for number in (-1, 32, 33):
        for refused in (lambda n: hart.cpu.x(n), lambda n: hart.cpu.f(n),
                        lambda n: hart.cpu.set_x(n, 1), lambda n: hart.cpu.set_f(n, 1)):  # fmt: skip
            with pytest.raises(ValueError, match="is no register"):
                refused(number)


def test_writing_nothing_is_no_write() -> None:
    hart = Hart()
    hart.cpu.write(0, b"")
    assert hart.cpu.read(RAM, 0) == b""


def test_ram_that_can_not_be_mapped() -> None:
    with pytest.raises(MemoryError, match="cannot map"):
        Cpu(None, 4096, 1 << 20)  # no file of that number is open


@pytest.mark.parametrize("name", ["add", "fmadd.s", "c.addi4spn", "beq"])
def test_the_decoder_shows_what_it_makes_of_a_word(name: str) -> None:
    row = isa.BY_NAME[name]
    bits = row.match | (0x20 if row.length == 2 else 0x0031_0280 & ~row.mask)
    found, expected = decode_word(bits), isa.decode(bits)
    assert expected is not None and isa.OPCODES[expected.base.op] == found.pop("op")
    assert found == {field: getattr(expected, field) for field in found}
