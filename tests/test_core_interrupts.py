"""Interrupts: pending, enabled, delegated, by priority, vectored; the timers, Sstc, and what wakes wfi.

Names in quotes and numbers are sections of the privileged specification 1.12
unless they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    pend(Hart().csr(mie=0xAAA, mstatus=MIE), (3, 11))   →   taken: cause 11, MEI comes first
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import HANDLER, INTERRUPT, ONES, RAM, S_HANDLER, STEP, Hart, M, S, Trap, U
from privileged_isa import MIE, SIE, STCE, each_level, illegal

from vpod import _cpu

NEVER = ONES  # a timer that doesn't come


# ---- interrupts -----------------------------------------------------------------------------------------------------


ORDER = [11, 3, 7, 9, 1, 5]  # "Machine Interrupt Registers": MEI, MSI, MTI, SEI, SSI, STI


def pend(hart: Hart, numbers: tuple[int, ...]) -> Hart:
    """Make these interrupts pending, each by its own means."""
    for number in numbers:
        if number in (3, 11):
            hart.cpu.set_interrupt(number, True)
        elif number == 7:
            hart.cpu.mtimecmp = 0
        else:
            hart.csr(mip=hart.read("mip") | 1 << number)
    return hart


def taken(hart: Hart) -> Trap | None:
    """The trap that is taken instead of a nop."""
    hart.load("nop", STEP)
    hart.cpu.pc = STEP
    hart.cpu.run(1)
    for level, letter in ((M, "m"), (S, "s")):  # the handler is `j .`: the instruction that ran is the handler's first
        if hart.cpu.pc in (HANDLER, S_HANDLER) and hart.cpu.priv == level:
            return Trap(hart.read(f"{letter}cause"), hart.read(f"{letter}epc"), hart.read(f"{letter}tval"), level)
    return None


@pytest.mark.parametrize("pair", [*itertools.combinations(ORDER, 2)])
def test_interrupt_priorities(pair: tuple[int, int]) -> None:
    hart = pend(Hart().csr(mie=0xAAA, mstatus=MIE), pair)
    assert taken(hart) == Trap(INTERRUPT | pair[0], STEP, 0)


@pytest.mark.parametrize("number", ORDER)
@each_level
def test_machine_interrupts_are_enabled_by_mie_and_below_m_always(number: int, level: int) -> None:
    for status, enable in itertools.product((0, MIE, SIE), (0, 1 << number)):
        hart = pend(Hart().csr(mie=enable, mstatus=status), (number,)).set(priv=level)
        expected = bool(enable) and (level < M or status == MIE)
        assert taken(hart) == (Trap(INTERRUPT | number, STEP, 0) if expected else None)


@pytest.mark.parametrize("number", [9, 1, 5])
@each_level
def test_delegated_interrupts(number: int, level: int) -> None:
    """Masked in M whatever MIE says, enabled in S by SIE, in U always: "Machine Trap Delegation Registers"."""
    for status in (0, MIE, SIE, MIE | SIE):
        hart = pend(Hart().csr(mie=1 << number, mideleg=0x222, mstatus=status), (number,)).set(priv=level)
        expected = level == U or (level == S and status & SIE)
        assert taken(hart) == (Trap(INTERRUPT | number, STEP, 0, S) if expected else None)


def test_an_interrupt_for_m_comes_before_a_delegated_one() -> None:
    hart = pend(Hart().csr(mie=0xAAA, mideleg=0x200, mstatus=SIE), (5, 9)).set(priv=U)
    assert taken(hart) == Trap(INTERRUPT | 5, STEP, 0, M)


@pytest.mark.parametrize("number", ORDER)
def test_vectored_interrupts(number: int) -> None:
    hart = pend(Hart().csr(mie=0xAAA, mstatus=MIE, mtvec=HANDLER | 1), (number,))
    hart.load("j ." + "; j ." * 15, HANDLER)
    assert taken(hart) is None
    assert hart.trap() == Trap(INTERRUPT | number, STEP, 0)
    assert hart.cpu.pc == HANDLER + 4 * number


def test_vectored_mode_leaves_exceptions_at_the_base() -> None:
    hart = Hart().csr(mtvec=HANDLER | 1)
    hart.step("ecall")
    assert hart.cpu.pc == HANDLER
    hart = Hart().csr(stvec=S_HANDLER | 1, medeleg=1 << 8).set(priv=U)
    hart.step("ecall")
    assert hart.cpu.pc == S_HANDLER


def test_vectored_supervisor_interrupts() -> None:
    hart = pend(Hart().csr(mie=2, mideleg=2, stvec=S_HANDLER | 1), (1,)).set(priv=U)
    hart.load("j .; j .; j .", S_HANDLER)
    taken(hart)
    assert (hart.cpu.pc, hart.cpu.priv) == (S_HANDLER + 4, S)


def test_the_machine_timer_is_level_triggered() -> None:
    hart = Hart().csr(mie=1 << 7, mstatus=MIE)
    hart.cpu.mtimecmp = 0
    assert hart.read("mip") == 1 << 7
    assert taken(hart) == Trap(INTERRUPT | 7, STEP, 0)
    hart.cpu.mtimecmp = NEVER
    assert hart.read("mip") == 0


# ---- Sstc -----------------------------------------------------------------------------------------------------------


def test_stimecmp_raises_stip_when_enabled() -> None:
    hart = Hart().csr(menvcfg=STCE, mideleg=1 << 5, mie=1 << 5, mcounteren=2)
    hart.set(priv=S, a0=0)
    assert hart.step("csrw stimecmp, a0") is None
    assert hart.read("mip") == 1 << 5
    assert taken(hart.csr(mstatus=SIE)) == Trap(INTERRUPT | 5, STEP, 0, S)
    hart.set(a0=ONES).step("csrw stimecmp, a0")
    assert hart.read("mip") == 0


def test_stip_is_read_only_while_sstc_is_on() -> None:
    hart = Hart().csr(menvcfg=STCE, mip=1 << 5)
    assert hart.read("mip") == 0
    hart.csr(stimecmp=0, mip=0)
    assert hart.read("mip") == 1 << 5
    hart.csr(menvcfg=0)
    assert hart.csr(mip=1 << 5).read("mip") == 1 << 5, "without Sstc it is software's bit"
    assert hart.csr(mip=0).read("mip") == 0


@pytest.mark.parametrize(("stce", "tm"), [(0, 0), (STCE, 0), (0, 2), (STCE, 2)])
def test_who_may_use_stimecmp(stce: int, tm: int) -> None:
    for level in (S, M):
        allowed = level == M or (stce and tm)
        result = Hart().csr(menvcfg=stce, mcounteren=tm).set(priv=level).step("csrr a0, stimecmp")
        assert result == (None if allowed else illegal("csrr a0, stimecmp"))


def test_the_timer_interrupts_a_loop() -> None:
    hart = Hart("csrw mstatus, a0; loop: addi a1, a1, 1; j loop; on: li a2, 7; done: j done")
    hart.csr(mie=1 << 5, menvcfg=STCE, mtvec=hart.program["on"], stimecmp=hart.cpu.mtime + 20_000).set(a0=MIE)
    for _ in range(100_000):
        hart.cpu.run(10_000)
        if hart.x("a2"):
            break
    assert hart.cpu.pc == hart.program["done"]
    assert hart.read("mcause") == INTERRUPT | 5
    assert hart.cpu.mtime >= hart.read("stimecmp")


# ---- wfi ------------------------------------------------------------------------------------------------------------


def test_wfi_waits_until_something_is_pending() -> None:
    hart = Hart("wfi; addi a0, a0, 1; done: j done").csr(mie=1 << 11)
    assert hart.cpu.run(100) == _cpu.EXIT_WFI
    assert hart.x("a0") == 0 and hart.cpu.pc == RAM + 4
    assert hart.cpu.run(1) == _cpu.EXIT_BUDGET, "going on is the caller's decision"
    assert hart.x("a0") == 1


@pytest.mark.parametrize("status", [0, MIE])
def test_wfi_does_not_wait_when_an_enabled_interrupt_is_pending(status: int) -> None:
    """Whatever the global enables: "Wait for Interrupt"."""
    hart = pend(Hart("wfi; addi a0, a0, 1; done: j done").csr(mie=1 << 11), (11,)).csr(mstatus=status)
    assert hart.cpu.run(3) == _cpu.EXIT_BUDGET
    assert hart.x("a0") == (0 if status else 1)


def test_wfi_waits_when_what_is_pending_is_not_enabled() -> None:
    hart = pend(Hart("wfi; done: j done").csr(mie=1 << 3), (11,))
    assert hart.cpu.run(3) == _cpu.EXIT_WFI


def test_the_interrupt_after_wfi_returns_behind_it() -> None:
    hart = Hart("wfi; done: j done").csr(mie=1 << 11, mstatus=MIE)
    assert hart.cpu.run(100) == _cpu.EXIT_WFI
    hart.cpu.set_interrupt(11, True)
    hart.cpu.run(1)
    assert hart.trap() == Trap(INTERRUPT | 11, RAM + 4, 0)


def test_time_until_the_timer() -> None:
    hart = Hart()
    assert hart.cpu.nanoseconds_to_timer() == -1
    hart.csr(mie=1 << 7)
    assert hart.cpu.nanoseconds_to_timer() == -1, "mtimecmp is at its end"
    hart.cpu.mtimecmp = hart.cpu.mtime + 10_000_000
    assert 0 < hart.cpu.nanoseconds_to_timer() <= 10**9
    hart.cpu.mtimecmp = (1 << 64) - 2
    assert hart.cpu.nanoseconds_to_timer() > 1 << 64, "more nanoseconds than 64 bits hold"
    hart.csr(mie=1 << 5, menvcfg=STCE, stimecmp=0)
    assert hart.cpu.nanoseconds_to_timer() == 0
