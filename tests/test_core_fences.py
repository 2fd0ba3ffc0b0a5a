"""What a translation cache may remember: sfence.vma in its four forms, satp, ASIDs, global pages, rights that change.

Sections in quotes are of the privileged specification, chapter "Supervisor-Level ISA". Each test first uses a page, so
that it is cached, then changes its entry or the space it belongs to.

    ld, entry changed, sfence.vma va, zero, ld   →   the new page
"""

from __future__ import annotations

import pytest
from machine_code import ONES, RAM, STEP, Hart, PageTables, S, Trap, U
from privileged_isa import CODE, DATA, HIGH, MXR, PAGE, SUM, VA, fault, paged, step

from vpod import _cpu

# ---- fences ---------------------------------------------------------------------------------------------------------


def moved(level: int = 0, va: int = VA) -> tuple[Hart, PageTables]:
    """`va` was read while it showed DATA, and its entry now shows DATA + 4 MiB's worth of pages on, unfenced."""
    hart = Hart(ram=16 << 20)
    tables = PageTables(hart).identity()
    size = 1 << 12 + 9 * level
    tables.map(va, RAM + 4 * 0x20_0000, "vrwxad", level)
    tables.on()
    for page in range(0, min(size, 0x20_0000), PAGE):
        hart.store(RAM + 4 * 0x20_0000 + page, 1).store(RAM + 5 * 0x20_0000 + page, 2)
    hart.set(priv=S, a0=va)
    assert hart.step("ld a1, 0(a0)") is None and hart.x("a1") == 1
    tables.map(va, RAM + 5 * 0x20_0000, "vrwxad", level)
    return hart, tables


@pytest.mark.parametrize(
    "source", ["sfence.vma zero, zero", "sfence.vma a0, zero", "sfence.vma zero, a2", "sfence.vma a0, a2"]
)
@pytest.mark.parametrize("va", [VA, HIGH, 0x1000, ONES & ~0x1F_FFFF])
def test_every_form_of_sfence_lets_the_new_entry_be_seen(source: str, va: int) -> None:
    hart, _ = moved(va=va)
    assert hart.step(source) is None
    assert hart.step("ld a1, 0(a0)") is None and hart.x("a1") == 2


@pytest.mark.parametrize("va", [VA, HIGH])
@pytest.mark.parametrize("offset", [0, 0x1000, 0x10_0000, 0x1F_F000])
def test_a_fence_anywhere_in_a_superpage_renews_all_of_it(va: int, offset: int) -> None:
    hart, _ = moved(1, va)
    for page in (0, 0x1000, 0x3_0000, 0x1F_F000):
        hart.set(a0=va + page).step("ld a1, 0(a0)")
    hart, _ = moved(1, va)
    hart.set(a3=va + offset)
    assert hart.step("sfence.vma a3, zero") is None
    for page in (0, 0x1000, 0x3_0000, 0x1F_F000):
        assert hart.set(a0=va + page).step("ld a1, 0(a0)") is None
        assert hart.x("a1") == 2


def test_satp_takes_effect_at_once() -> None:
    hart, _ = moved()
    other = PageTables(hart, RAM + 0x30_0000).identity().map(VA, DATA)
    hart.store(DATA, 3).set(a2=other.satp)
    hart.step("csrw satp, a2")
    assert hart.step("ld a1, 0(a0)") is None and hart.x("a1") == 3


@pytest.mark.parametrize("rights", ["vrwad", "vrwuad"])
@pytest.mark.parametrize("level", [0, 1])
def test_an_address_space_sees_its_own_pages_without_a_fence(rights: str, level: int) -> None:
    """Two ASIDs may alternate in satp and never be fenced: "Supervisor Address Translation and Protection Register"."""
    hart = Hart(ram=16 << 20)
    spaces = [PageTables(hart, RAM + at).identity("vrwxgad") for at in (0x10_0000, 0x18_0000)]
    for number, tables in enumerate(spaces):
        tables.map(VA, RAM + (4 + number) * 0x20_0000, rights, level)
        hart.store(RAM + (4 + number) * 0x20_0000, number + 1)
    hart.csr(mstatus=SUM).set(priv=S, a0=VA)
    for number in (0, 1, 0, 1):
        hart.set(a2=spaces[number].satp | (number + 7) << 44).step("csrw satp, a2")
        assert hart.step("ld a1, 0(a0)") is None and hart.x("a1") == number + 1


@pytest.mark.parametrize("asid, seen", [(7, 2), (8, 1)])
def test_a_fence_of_one_asid(asid: int, seen: int) -> None:
    """Its own pages are renewed; a fence of another address space may leave them, and here does."""
    hart = Hart(ram=16 << 20)
    tables = PageTables(hart).identity("vrwxgad").map(VA, DATA, "vrwuad")
    hart.store(DATA, 1).store(DATA + 0x1000, 2).csr(satp=tables.satp | 7 << 44, mstatus=SUM).set(priv=S, a0=VA, a2=asid)
    assert hart.step("ld a1, 0(a0)") is None
    tables.map(VA, DATA + 0x1000, "vrwuad")
    assert hart.step("sfence.vma zero, a2") is None
    assert hart.step("ld a1, 0(a0)") is None and hart.x("a1") == seen


def test_rights_are_taken_away() -> None:
    hart, tables = paged(S, "vrwxad")
    for source in ("ld a1, 0(a0)", "sd a1, 0(a0)"):
        assert step(hart, source) is None
    assert hart.step("nop", at=DATA, pc=VA) is None
    tables.map(VA, DATA, "vrad")
    step(hart, "sfence.vma a0, zero")
    assert step(hart, "ld a1, 0(a0)") is None
    assert step(hart, "sd a1, 0(a0)") == fault(hart, 15, VA)
    assert hart.set(priv=S).step("nop", at=DATA, pc=VA) == Trap(12, VA, VA)


@pytest.mark.parametrize("rights", ["vrad", "vxad"])
def test_an_entry_that_another_drove_to_its_second_place_gives_no_more_rights(rights: str) -> None:
    """Pages so far apart share a place of the core's TLB; the one that was there goes to another."""
    hart, tables = paged(S, "vrwxad")
    tables.map(VA, DATA, rights).map(VA - _cpu.TLB_ENTRIES * PAGE, DATA, "vrwxad")
    hart.load("ld a1, 0(a0); ld a1, 0(a2); sd a1, 0(a0)", STEP)
    hart.load("nop", DATA)
    reads, writes, executes = "ld a1, 0(a0)", "sd a1, 0(a0)", ""
    for source, causes in ((reads, {"vxad": 13}), (writes, {"vrad": 15, "vxad": 15}), (executes, {"vrad": 12})):
        hart.set(priv=S, a0=VA, a2=VA, pc=VA)
        hart.go()  # it is known as what it is
        hart.set(priv=S, pc=STEP + 4).go()
        hart.set(priv=S, a2=VA - _cpu.TLB_ENTRIES * PAGE, pc=STEP + 4)
        assert hart.go() is None  # and then something else is there
        hart.set(priv=S, pc={reads: STEP, writes: STEP + 8, executes: VA}[source])
        trap = hart.go()
        assert (trap and trap.cause) == causes.get(rights), source


def test_mxr_and_sum_take_effect_at_once() -> None:
    hart, _ = paged(S, "vxad")
    for status, allowed in ((MXR, True), (0, False), (MXR, True)):
        hart.set(a2=status, priv=S)
        step(hart, "csrw sstatus, a2")
        assert step(hart, "ld a1, 0(a0)") == (None if allowed else fault(hart, 13, VA))
    hart, _ = paged(S, "vrwuad")
    for status, allowed in ((SUM, True), (0, False), (SUM, True)):
        hart.set(a2=status, priv=S)
        step(hart, "csrw sstatus, a2")
        assert step(hart, "sd a1, 0(a0)") == (None if allowed else fault(hart, 15, VA))


def test_supervisor_and_user_entries_live_side_by_side_and_apart() -> None:
    """What S has in its TLB gives U nothing, and the other way round."""
    hart, _ = paged(S, "vrwad")
    assert step(hart, "sd a1, 0(a0)") is None
    hart.csr(sepc=CODE, mstatus=0)
    step(hart, "sret")
    assert step(hart, "ld a1, 0(a0)") == fault(hart, 13, VA)
    hart, _ = paged(U, "vrwuad", medeleg=1 << 8)
    assert step(hart, "sd a1, 0(a0)") is None
    hart.step("ecall", pc=CODE)
    assert hart.cpu.priv == S
    assert step(hart, "ld a1, 0(a0)") == fault(hart, 13, VA)


def test_faults_can_be_delegated_with_their_value() -> None:
    hart, _ = paged(U, "vrad", medeleg=1 << 13 | 1 << 15)
    assert step(hart, "sd a1, 8(a0)") == Trap(15, CODE, VA + 8, S)
