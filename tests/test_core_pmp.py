"""Physical memory protection: address modes, locks, priority, accesses that straddle, and where page tables meet it.

Names in quotes and numbers are sections of the privileged specification 1.12
unless they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    an entry that covers half of it:  ld → Trap(cause=5, epc, tval=its address), in every mode
"""

from __future__ import annotations

import pytest
from machine_code import ONES, RAM, STEP, Hart, M, S, Trap, U
from privileged_isa import DATA, MPRV, each_level

# ---- physical memory protection -------------------------------------------------------------------------------------


R, W, X, TOR, NA4, NAPOT, L = 1, 2, 4, 1 << 3, 2 << 3, 3 << 3, 1 << 7
CODE_ENTRY = {"pmpaddr15": ONES, "pmpcfg2": (NAPOT | X) << 56}  # the last entry lets code run everywhere


def napot(base: int, size: int) -> int:
    return base >> 2 | (size >> 3) - 1


def protected(level: int, **csrs: int) -> Hart:
    hart = Hart()
    hart.csr(pmpcfg0=0, pmpaddr0=0, **CODE_ENTRY)
    for name, value in csrs.items():
        hart.csr(**{name: value})
    return hart.set(priv=level, a0=DATA, a1=DATA)


def load(hart: Hart, at: int, source: str = "lb a1, 0(a0)") -> Trap | None:
    return hart.set(a0=at).step(source)


def denied(cause: int, at: int) -> Trap:
    return Trap(cause, STEP, at)


@pytest.mark.parametrize("level", [U, S])
def test_without_a_match_only_m_has_access(level: int) -> None:
    assert load(protected(level), DATA) == denied(5, DATA)
    assert load(protected(M), DATA) is None
    hart = Hart().csr(pmpcfg0=0).set(priv=level)
    assert hart.step("nop") == denied(1, STEP)


@pytest.mark.parametrize("rights", [0, R, R | W, X, R | X, R | W | X])
def test_rights_of_an_entry(rights: int) -> None:
    hart = protected(S, pmpaddr0=napot(DATA, 0x1000), pmpcfg0=NAPOT | rights)
    assert load(hart, DATA) == (None if rights & R else denied(5, DATA))
    hart.set(priv=S)
    assert load(hart, DATA, "sb a1, 0(a0)") == (None if rights & W else denied(7, DATA))
    hart.set(priv=S)
    assert load(hart, DATA, "amoadd.w a1, a1, (a0)") == (None if rights & W else denied(7, DATA))
    hart.set(priv=S)
    assert hart.step("nop", at=DATA) == (None if rights & X else Trap(1, DATA, DATA))


@pytest.mark.parametrize("size", [8, 16, 64, 4096, 1 << 16])
def test_napot_ranges(size: int) -> None:
    base = RAM + 0x10_0000
    hart = protected(S, pmpaddr0=napot(base, size), pmpcfg0=NAPOT | R)
    for at, allowed in ((base - 1, False), (base, True), (base + size - 1, True), (base + size, False)):
        assert load(hart.set(priv=S), at) == (None if allowed else denied(5, at))


def test_na4_ranges() -> None:
    hart = protected(S, pmpaddr0=DATA + 4 >> 2, pmpcfg0=NA4 | R)
    for at, allowed in ((DATA + 3, False), (DATA + 4, True), (DATA + 7, True), (DATA + 8, False)):
        assert load(hart.set(priv=S), at) == (None if allowed else denied(5, at))
    assert load(hart.set(priv=S), DATA + 4, "lw a1, 0(a0)") is None
    assert load(hart.set(priv=S), DATA + 4, "ld a1, 0(a0)") == denied(5, DATA + 4), "the entry covers half of it"


def test_tor_ranges() -> None:
    hart = protected(S, pmpaddr0=DATA >> 2, pmpaddr1=DATA + 0x14 >> 2, pmpcfg0=(TOR | R) << 8)
    for at, allowed in ((DATA - 1, False), (DATA, True), (DATA + 0x13, True), (DATA + 0x14, False)):
        assert load(hart.set(priv=S), at) == (None if allowed else denied(5, at))
    hart = protected(S, pmpaddr0=DATA + 8 >> 2, pmpcfg0=TOR | R | X)
    assert load(hart, DATA) is None, "entry 0 begins at address 0"
    hart = protected(S, pmpaddr0=DATA + 0x1000 >> 2, pmpaddr1=DATA >> 2, pmpcfg0=(TOR | R) << 8)
    assert load(hart, DATA) == denied(5, DATA), "an empty range matches nothing"


def test_the_lowest_matching_entry_decides() -> None:
    both = {"pmpaddr0": napot(DATA, 0x100), "pmpaddr1": napot(DATA, 0x1000)}
    hart = protected(S, **both, pmpcfg0=(NAPOT | R) << 8 | NAPOT)
    assert load(hart, DATA) == denied(5, DATA)
    assert load(hart.set(priv=S), DATA + 0x100) is None


@each_level
def test_a_straddling_access_fails_in_every_mode(level: int) -> None:
    """ "Priority and Matching Logic": an entry must match all bytes, or the access fails whatever L, R, W, X say."""
    hart = protected(
        level, pmpaddr0=napot(DATA, 8), pmpaddr1=napot(DATA, 0x1000), pmpcfg0=(NAPOT | R | W) << 8 | NAPOT | R | W
    )
    assert load(hart, DATA + 4, "ld a1, 0(a0)") == denied(5, DATA + 4)
    assert load(hart.set(priv=level), DATA + 4, "sd a1, 0(a0)") == denied(7, DATA + 4)
    assert load(hart.set(priv=level), DATA + 8, "ld a1, 0(a0)") is None


def test_a_locked_entry_binds_m_and_cannot_be_changed() -> None:
    hart = protected(M, pmpaddr1=napot(DATA, 0x1000), pmpcfg0=(L | NAPOT | R) << 8)
    assert load(hart, DATA) is None
    assert load(hart, DATA, "sb a1, 0(a0)") == denied(7, DATA)
    assert hart.step("nop", at=DATA) == Trap(1, DATA, DATA)
    before = hart.read("pmpcfg0"), hart.read("pmpaddr1")
    hart.csr(pmpcfg0=0, pmpaddr1=0)
    assert (hart.read("pmpcfg0"), hart.read("pmpaddr1")) == before
    hart.csr(pmpaddr0=5)
    assert hart.read("pmpaddr0") == 5, "its lower neighbour is free: it is no TOR entry"


def test_a_locked_tor_entry_locks_the_address_below_it() -> None:
    hart = protected(M, pmpaddr0=DATA >> 2, pmpaddr1=DATA + 8 >> 2, pmpcfg0=(L | TOR | R) << 8)
    assert hart.csr(pmpaddr0=1).read("pmpaddr0") == DATA >> 2


def test_w_without_r_cannot_be_written() -> None:
    for cfg in (W, W | X):
        assert Hart().csr(pmpcfg0=cfg).read("pmpcfg0") & 3 != W


def test_a_changed_entry_is_seen_at_once() -> None:
    hart = protected(S, pmpaddr0=napot(DATA, 0x1000), pmpcfg0=NAPOT | R | W)
    assert load(hart, DATA) is None and load(hart, DATA, "sd a1, 0(a0)") is None
    hart.csr(pmpcfg0=NAPOT)
    assert load(hart, DATA) == denied(5, DATA)
    hart.csr(pmpcfg0=NAPOT | R).set(priv=S)
    assert load(hart, DATA) is None
    assert load(hart, DATA, "sd a1, 0(a0)") == denied(7, DATA)


def test_code_beside_a_pmp_border() -> None:
    """A page that PMP splits runs instruction by instruction, up to the border and not over it."""
    hart = protected(S, pmpaddr0=napot(DATA, 16), pmpcfg0=NAPOT | X, pmpcfg2=(NAPOT | R) << 56)
    hart.load("addi a2, zero, 1; addi a3, zero, 2; addi a4, zero, 3; addi a5, zero, 4; nop", DATA)
    hart.set(pc=DATA).cpu.run(5)
    assert [hart.x(name) for name in ("a2", "a3", "a4", "a5")] == [1, 2, 3, 4]
    assert hart.trap() == Trap(1, DATA + 16, DATA + 16)


def test_mprv_takes_mpp_for_loads_and_stores_alone() -> None:
    hart = protected(M, pmpaddr0=napot(DATA, 0x1000), pmpcfg0=NAPOT | R, pmpcfg2=(NAPOT) << 56)
    for level in (U, S):
        hart.set(priv=M).csr(mstatus=MPRV | level << 11)
        assert load(hart, DATA) is None
        assert load(hart, DATA + 0x1000) == denied(5, DATA + 0x1000)
        assert hart.csr(mstatus=MPRV | level << 11).step("nop") is None, "fetches are M's"
    hart.csr(mstatus=MPRV | M << 11)
    assert load(hart, DATA + 0x1000) is None
