"""Traps and returns from them: causes and values, delegation both ways, nesting, vectors, mret and sret, TVM, TW, TSR.

Names in quotes and numbers are sections of the privileged specification 1.12
unless they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    Hart().csr(medeleg=1 << 3).set(priv=U).step("ebreak")   →   Trap(cause=3, epc=STEP, tval=STEP, level=S)
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import ONES, STEP, Hart, M, S, Trap, U
from privileged_isa import DATA, MIE, MPIE, MPP, MPRV, SIE, SPIE, SPP, TSR, TVM, TW, each_level, illegal

# ---- exceptions -----------------------------------------------------------------------------------------------------


@each_level
def test_ecall_names_the_level_it_comes_from(level: int) -> None:
    assert Hart().set(priv=level).step("ecall") == Trap(8 + level, STEP, 0)


@each_level
def test_ebreak(level: int) -> None:
    assert Hart().set(priv=level).step("ebreak") == Trap(3, STEP, STEP)
    assert Hart().set(priv=level).step("c.ebreak") == Trap(3, STEP, STEP)


@pytest.mark.parametrize(
    "source", [".half 0", ".half 0xffff; .half 0xffff", ".word 0x0000707b", ".half 0x8002", "uret"]
)
@each_level
def test_illegal_instructions_give_their_bits(source: str, level: int) -> None:
    source = source.replace("uret", ".word 0x00200073")
    assert Hart().set(priv=level).step(source) == illegal(source)


def test_a_trap_into_m_stacks_privilege_and_interrupt_enable() -> None:
    for level, enabled in itertools.product((U, S, M), (0, MIE)):
        hart = Hart().csr(mstatus=enabled | SIE).set(priv=level)
        hart.step("ebreak")
        status = hart.read("mstatus")
        assert status & MPP == level << 11
        assert status & MPIE == (MPIE if enabled else 0)
        assert not status & MIE
        assert status & SIE, "S's enable is none of M's business"
        assert hart.cpu.priv == M


def test_a_trap_into_s_stacks_privilege_and_interrupt_enable() -> None:
    for level, enabled in itertools.product((U, S), (0, SIE)):
        hart = Hart().csr(mstatus=enabled | MIE, medeleg=1 << 3).set(priv=level)
        assert hart.step("ebreak") == Trap(3, STEP, STEP, S)
        status = hart.read("mstatus")
        assert status & SPP == (SPP if level == S else 0)
        assert status & SPIE == (SPIE if enabled else 0)
        assert not status & SIE
        assert status & MIE and hart.cpu.priv == S


@pytest.mark.parametrize("cause", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15])
def test_every_cause_but_ecall_from_m_can_be_delegated(cause: int) -> None:
    hart = Hart().csr(medeleg=1 << cause)
    assert hart.read("medeleg") == 1 << cause
    assert Hart().csr(medeleg=ONES).read("medeleg") == 0xB3FF, "reserved causes and ecall from M are read-only zero"


def test_traps_never_go_to_a_less_privileged_level() -> None:
    assert Hart().csr(medeleg=ONES).set(priv=M).step("ebreak") == Trap(3, STEP, STEP, M)


def test_an_undelegated_trap_in_s_goes_to_m() -> None:
    assert Hart().csr(medeleg=1 << 2).set(priv=S).step("ebreak") == Trap(3, STEP, STEP, M)


def test_nested_traps_return_through_both_handlers() -> None:
    hart = Hart(
        """
            la t0, m_handler; csrw mtvec, t0; la t0, s_handler; csrw stvec, t0
            li t0, 1 << 8; csrw medeleg, t0                          # U's ecall to S
            la t0, user; csrw mepc, t0; csrw mstatus, zero; mret
        user: li a0, 1; ecall; addi a0, a0, 100; j done
        s_handler: addi a0, a0, 10; ecall                            # S's ecall to M
            csrr t1, sepc; addi t1, t1, 4; csrw sepc, t1; addi a0, a0, 2000; sret
        m_handler: csrr t2, mepc; addi t2, t2, 4; csrw mepc, t2; csrr a1, mcause; li t3, 30000; add a0, a0, t3; mret
        done: j done
        """
    ).run()
    assert (hart.x("a0"), hart.x("a1"), hart.cpu.priv) == (1 + 10 + 30000 + 2000 + 100, 9, U)
    assert hart.read("sepc") == hart.program["user"] + 8


# ---- mret, sret -----------------------------------------------------------------------------------------------------


@each_level
def test_mret_restores_the_stack(level: int) -> None:
    for enabled in (0, MPIE):
        hart = Hart().csr(mepc=DATA, mstatus=level << 11 | enabled | MPRV)
        hart.step("mret")
        status = hart.read("mstatus")
        assert (hart.cpu.pc, hart.cpu.priv) == (DATA, level)
        assert status & MIE == (MIE if enabled else 0)
        assert status & MPIE and not status & MPP, "MPIE becomes 1, MPP the least privileged mode"
        assert bool(status & MPRV) == (level == M), "MPRV is cleared on the way out of M"


@pytest.mark.parametrize("level", [S, M])
@pytest.mark.parametrize("target", [U, S])
def test_sret_restores_the_stack(level: int, target: int) -> None:
    for enabled in (0, SPIE):
        hart = Hart().csr(sepc=DATA, mstatus=(SPP if target else 0) | enabled | MPRV).set(priv=level)
        hart.step("sret")
        status = hart.read("mstatus")
        assert (hart.cpu.pc, hart.cpu.priv) == (DATA, target)
        assert status & SIE == (SIE if enabled else 0)
        assert status & SPIE and not status & SPP and not status & MPRV


@pytest.mark.parametrize(
    ("source", "level", "status"),
    [
        ("mret", S, 0), ("mret", U, 0), ("sret", U, 0), ("sret", S, TSR), ("wfi", U, 0), ("wfi", S, TW), ("wfi", U, TW),
        ("sfence.vma zero, zero", U, 0), ("sfence.vma zero, zero", S, TVM), ("sfence.vma a0, a1", S, TVM),
        ("csrr a0, satp", S, TVM), ("csrw satp, zero", S, TVM), ("csrr a0, satp", U, 0),
    ],
)  # fmt: skip
def test_what_a_mode_may_not_do(source: str, level: int, status: int) -> None:
    assert Hart().csr(mstatus=status).set(priv=level).step(source) == illegal(source)


@pytest.mark.parametrize(
    ("source", "level", "status"),
    [
        ("sret", S, 0), ("sret", M, TSR), ("wfi", S, 0), ("wfi", M, TW), ("sfence.vma zero, zero", S, 0),
        ("sfence.vma a0, a1", M, TVM), ("csrr a0, satp", S, 0), ("csrr a0, satp", M, TVM),
    ],
)  # fmt: skip
def test_what_a_mode_may_do(source: str, level: int, status: int) -> None:
    hart = Hart().csr(mstatus=status, sepc=DATA).set(priv=level)
    assert hart.step(source) is None


def test_odd_return_addresses_are_made_even() -> None:
    hart = Hart().csr(mepc=DATA + 1, sepc=DATA + 3)
    assert (hart.read("mepc"), hart.read("sepc")) == (DATA, DATA + 2), "IALIGN is 16: bit 0 is always zero"
