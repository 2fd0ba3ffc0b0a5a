"""Every exception from every mode, delegated or not, and every return: all of mstatus as the text computes it.

`stacked`, `after_mret` and `after_sret` state 3.1.6.1, "Privilege and Global Interrupt-Enable Stack in mstatus
register", and 3.3.2, "Trap-Return Instructions" (privileged specification 1.12); they share nothing with the core.

    ecall from U with medeleg bit 8   →   Trap(8, its pc, 0, level=S), and not a register of M's has changed
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from machine_code import HANDLER, RAM, S_HANDLER, STEP, Hart, M, PageTables, S, Trap, U
from privileged_isa import (
    CODE,
    DATA,
    FS,
    LEVELS,
    MIE,
    MPIE,
    MPP,
    MPRV,
    MXR,
    PAGE,
    SIE,
    SPIE,
    SPP,
    SUM,
    TSR,
    TVM,
    TW,
    VA,
    bits,
    illegal,
)

STACK = SIE | MIE | SPIE | MPIE | SPP | MPP | MPRV
OTHERS = FS | SUM | MXR | TVM | TW | TSR


def field(status: int, mask: int, value: int) -> int:
    """`status` with the field `mask` set to `value`."""
    return status & ~mask | value * (mask & -mask)


def value(status: int, mask: int) -> int:
    return (status & mask) // (mask & -mask)


# ---- the text -------------------------------------------------------------------------------------------------------


def stacked(status: int, level: int, to: int) -> int:
    """3.1.6.1: "When a trap is taken from privilege mode y into privilege mode x": xPIE is xIE, xIE is 0, xPP is y."""
    enable, previous, privilege = (MIE, MPIE, MPP) if to == M else (SIE, SPIE, SPP)
    status = field(status, previous, value(status, enable))
    return field(field(status, enable, 0), privilege, level)


def after_mret(status: int) -> tuple[int, int]:
    """The status and the mode. 3.1.6.1: xIE is xPIE, xPIE 1, xPP the least privileged mode; out of M, MPRV is 0."""
    level = value(status, MPP)
    status = field(field(field(status, MIE, value(status, MPIE)), MPIE, 1), MPP, U)
    return (status if level == M else field(status, MPRV, 0)), level


def after_sret(status: int) -> tuple[int, int]:
    status, level = field(status, MPRV, 0), value(status, SPP)  # to S or U: always out of M
    return field(field(field(status, SIE, value(status, SPIE)), SPIE, 1), SPP, U), level


# ---- exceptions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """How to get an exception: the instruction, a0, and what its value is: the address, the bits or 0."""

    number: int
    source: str
    a0: int = 0
    tval: int | None = None
    paged: bool = False

    def expected_tval(self) -> int:
        return bits(self.source) if self.tval is None else self.tval


NOWHERE = 0x1000  # physical: no RAM, no device
MISSING = VA  # virtual: not mapped
CAUSES = [
    Cause(2, ".word 0xffffffff"),
    Cause(2, ".half 0"),
    Cause(2, "csrr a1, 0x7c0"),
    Cause(3, "ebreak", tval=-1),  # its own address
    Cause(3, "c.ebreak", tval=-1),
    Cause(4, "lr.d a1, (a0)", DATA + 4, DATA + 4),
    Cause(5, "ld a1, 0(a0)", NOWHERE, NOWHERE),
    Cause(6, "sc.w a1, a1, (a0)", DATA + 2, DATA + 2),
    Cause(6, "amoor.d a1, a1, (a0)", DATA + 1, DATA + 1),
    Cause(7, "sb a1, 0(a0)", NOWHERE, NOWHERE),
    Cause(7, "amoadd.w a1, a1, (a0)", NOWHERE, NOWHERE),
    Cause(8, "ecall", tval=0),
    Cause(13, "lbu a1, 3(a0)", MISSING, MISSING + 3, paged=True),
    Cause(15, "sh a1, 5(a0)", MISSING, MISSING + 5, paged=True),
    Cause(15, "amomaxu.d a1, a1, (a0)", MISSING, MISSING, paged=True),
]
FETCHES = [Cause(1, "", NOWHERE, NOWHERE), Cause(12, "", MISSING, MISSING, paged=True)]


def prepared(paged: bool, level: int) -> tuple[Hart, int]:
    """A hart with code for every mode at the address that comes with it; pages, if they are needed, for S and U."""
    hart = Hart()
    if paged:
        PageTables(hart).map(STEP, STEP, "vxad").map(CODE, STEP, "vxuad").on()
    return hart, CODE if paged and level == U else STEP


@pytest.mark.parametrize(
    ("level", "cause"),
    [
        pytest.param(level, cause, id=f"{level} {cause.number} {cause.source.split()[0]}")
        for level, cause in itertools.product((U, S, M), CAUSES)
        if not (cause.paged and level == M)  # which has no pages
    ],
)
def test_every_exception_delegated_and_not(level: int, cause: Cause) -> None:
    """3.1.8: a delegated trap in S or U goes to S, in M to M; only the registers of the mode it goes to are written."""
    number = cause.number + level if cause.source == "ecall" else cause.number
    everything_else = 0xB3FF & ~(1 << number)
    for delegated, before in itertools.product((0, 1 << number, everything_else), (0, STACK & ~(MPP | MPRV), SIE, MIE)):
        hart, start = prepared(cause.paged, level)
        hart.csr(medeleg=delegated, mstatus=before | OTHERS & ~TVM).set(a0=cause.a0, a1=0x77, priv=level)
        status = hart.read("mstatus")
        tval = start if cause.tval == -1 else cause.expected_tval()
        to = S if delegated >> number & 1 and level != M else M
        assert hart.step(cause.source, at=STEP, pc=start) == Trap(number, start, tval, to)
        assert hart.read("mstatus") == stacked(status, level, to)
        assert hart.x("a1") == 0x77
        other = "m" if to == S else "s"
        assert [hart.read(f"{other}{name}") for name in ("cause", "epc", "tval")] == [0, 0, 0]


@pytest.mark.parametrize("cause", FETCHES, ids=lambda cause: str(cause.number))
@pytest.mark.parametrize("level", [U, S])
def test_every_fetch_exception_delegated_and_not(level: int, cause: Cause) -> None:
    for delegated in (0, 1 << cause.number, 0xB3FF & ~(1 << cause.number)):
        hart, _ = prepared(cause.paged, level)
        hart.csr(medeleg=delegated).set(priv=level, pc=cause.a0)
        to = S if delegated >> cause.number & 1 else M
        hart.cpu.run(1)
        assert (hart.cpu.priv, hart.cpu.pc) == (to, S_HANDLER if to == S else HANDLER)
        letter = "s" if to == S else "m"
        assert [hart.read(f"{letter}{name}") for name in ("cause", "epc", "tval")] == [cause.number, cause.a0, cause.a0]


def test_a_misaligned_jump_does_not_exist() -> None:
    """3.1.15: with IALIGN=16 an instruction-address-misaligned exception can't occur: jumps to 2 mod 4 are taken."""
    for source in ("jal a1, . + 6", "jalr a1, 2(a0)", "beq zero, zero, . + 2", "jalr a1, 3(a0)"):
        assert Hart().set(a0=STEP).step(source) is None


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_medeleg(bit: int) -> None:
    """3.1.8: bits of causes that can't be delegated are read-only zero: 11, 10, 14 and all from 16 on here."""
    kept = bit in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15)
    assert Hart().csr(medeleg=1 << bit).read("medeleg") == (1 << bit if kept else 0)


# ---- nested traps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [U, S])
def test_a_trap_in_s_s_handler_stays_in_s(level: int) -> None:
    """The second trap takes the place of the first in S's registers, with SPP=1 and SPIE=0."""
    hart = Hart().csr(medeleg=1 << 3, mstatus=SIE).set(priv=level)
    hart.load("ebreak", S_HANDLER)
    hart.step("ebreak")
    assert (hart.cpu.pc, hart.read("mstatus") & (SPP | SPIE | SIE)) == (S_HANDLER, (SPP if level else 0) | SPIE)
    hart.cpu.run(1)
    assert (hart.cpu.pc, hart.cpu.priv, hart.read("sepc")) == (S_HANDLER, S, S_HANDLER)
    assert hart.read("mstatus") & (SPP | SPIE | SIE) == SPP


def test_a_trap_in_m_s_handler() -> None:
    hart = Hart().csr(mstatus=MIE, medeleg=1 << 3).set(priv=S)
    hart.load("ebreak", HANDLER)
    hart.step("ecall")
    assert hart.read("mstatus") & (MPP | MPIE | MIE) == S << 11 | MPIE
    hart.cpu.run(1)
    assert (hart.cpu.pc, hart.cpu.priv, hart.read("mepc"), hart.read("mcause")) == (HANDLER, M, HANDLER, 3)
    assert hart.read("mstatus") & (MPP | MPIE | MIE) == MPP
    assert hart.read("scause") == 0, "delegation never sends a trap of M's to S"


def test_three_levels_down_and_up() -> None:
    """U's ecall to S, whose illegal instruction goes to M, whose load faults in M; each returns whence it came."""
    hart = Hart(
        """
            la t0, machine; csrw mtvec, t0; la t0, supervisor; csrw stvec, t0
            li t0, 1 << 8; csrw medeleg, t0; la t0, user; csrw mepc, t0; csrw mstatus, zero; mret
        user: ecall; addi s0, s0, 1; j done
            .align 4
        supervisor: csrr s1, sepc; addi s1, s1, 4; .half 0; addi s0, s0, 2; csrw sepc, s1; sret
            .align 4
        machine: csrr t1, mcause; addi t4, zero, 2; bne t1, t4, inner; csrr t2, mepc; csrr t3, mstatus
            addi s0, s0, 4; ld t5, 0(zero); csrw mstatus, t3; addi t2, t2, 2; csrw mepc, t2; mret
        inner: addi s0, s0, 8; csrr s3, mstatus; csrr s2, mepc; addi s2, s2, 4; csrw mepc, s2; mret
        done: j done
        """
    ).run()
    assert (hart.x("s0"), hart.cpu.priv) == (1 + 2 + 4 + 8, U)
    assert hart.x("s3") & MPP == M << 11


# ---- returns --------------------------------------------------------------------------------------------------------


def statuses(*masks: int) -> list[int]:
    """Every combination of these fields' legal values."""
    choices = [[n * (mask & -mask) for n in ((0, 1, 3) if mask == MPP else (0, 1))] for mask in masks]
    return [sum(choice) for choice in itertools.product(*choices)]


def test_every_mret() -> None:
    """From M with all of the stack, MPRV and TSR; elsewhere it is illegal."""
    for status in statuses(SIE, MIE, SPIE, MPIE, SPP, MPP, MPRV, TSR):
        hart = Hart().csr(mstatus=status | OTHERS & ~TSR, mepc=DATA, sepc=RAM)
        wanted, level = after_mret(hart.read("mstatus"))
        assert hart.step("mret") is None
        assert (hart.cpu.pc, hart.cpu.priv, hart.read("mstatus")) == (DATA, level, wanted)
    for level in (U, S):
        assert Hart().set(priv=level).step("mret") == illegal("mret")


@pytest.mark.parametrize("level", LEVELS)
def test_every_sret(level: int) -> None:
    """3.1.6.5 and 3.3.2: legal in M, in S unless TSR is set, never in U."""
    for status in statuses(SIE, MIE, SPIE, MPIE, SPP, MPP, MPRV, TSR):
        hart = Hart().csr(mstatus=status | OTHERS & ~TSR, sepc=DATA, mepc=RAM).set(priv=level)
        before = hart.read("mstatus")
        if level == U or (level == S and status & TSR):
            assert hart.step("sret") == illegal("sret")
            assert hart.read("mstatus") == stacked(before, level, M)
        else:
            wanted, to = after_sret(before)
            assert hart.step("sret") is None
            assert (hart.cpu.pc, hart.cpu.priv, hart.read("mstatus")) == (DATA, to, wanted)


# ---- what mstatus takes away from S and U ---------------------------------------------------------------------------

VIRTUALIZED = {  # 3.1.6.5: the bit that takes an instruction from S; -1: it never had it
    "sfence.vma zero, zero": TVM, "sfence.vma a0, zero": TVM, "sfence.vma zero, a1": TVM, "sfence.vma a0, a1": TVM,
    "csrr a1, satp": TVM, "csrw satp, zero": TVM, "csrrs a1, satp, zero": TVM, "csrrci a1, satp, 0": TVM,
    "wfi": TW, "sret": TSR, "mret": -1,
}  # fmt: skip


@pytest.mark.parametrize("source", VIRTUALIZED)
@pytest.mark.parametrize("level", LEVELS)
def test_tvm_tw_and_tsr(level: int, source: str) -> None:
    """3.1.6.5: each bit takes its own instructions from S alone; M keeps all, U has none."""
    for status in statuses(TVM, TW, TSR):
        hart = Hart().csr(mstatus=status, sepc=DATA, mepc=DATA).set(priv=level)
        taken_away = level == U or (level == S and (VIRTUALIZED[source] == -1 or status & VIRTUALIZED[source]))
        assert hart.step(source) == (illegal(source) if taken_away else None)


def test_wfi_in_u_traps_even_with_an_interrupt_pending() -> None:
    """The bounded time in which it might have completed is zero here, with TW and without."""
    for status in (0, TW):
        hart = Hart().csr(mstatus=status, mie=1 << 3, mideleg=0x222).set(priv=U)
        assert hart.step("wfi") == illegal("wfi")


# ---- trap vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("register", ["mtvec", "stvec"])
def test_every_trap_vector(register: str) -> None:
    """3.1.7, 4.1.2: BASE is any multiple of four, MODE direct or vectored; reserved modes leave a legal one."""
    hart = Hart()
    for base, mode in itertools.product((0, 4, RAM, RAM + 4, RAM + PAGE - 4, (1 << 64) - 4, 0xDEAD_BEEC), range(4)):
        hart.csr(**{register: base | mode})
        found = hart.read(register)
        assert found & ~3 == base and found & 3 in (0, 1)
        if mode < 2:
            assert found & 3 == mode


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("source", ["ecall", "ebreak", ".half 0", "ld a1, 0(zero)"])
def test_exceptions_go_to_the_base_in_either_mode(source: str, mode: int) -> None:
    for base in (HANDLER, HANDLER + 4, HANDLER + 60):
        hart = Hart().csr(mtvec=base | mode)
        hart.step(source)
        assert (hart.cpu.pc, hart.cpu.priv) == (base, M)
        hart = Hart().csr(stvec=base | mode, medeleg=0xB3FF).set(priv=U)
        hart.step(source)
        assert (hart.cpu.pc, hart.cpu.priv) == (base, S)


@pytest.mark.parametrize("register", ["mepc", "sepc"])
def test_exception_pcs_hold_any_even_address(register: str) -> None:
    """3.1.14, 4.1.7: bit 0 is zero, bit 1 isn't with IALIGN=16, and addresses need not be valid."""
    hart = Hart()
    for address in (0, 2, 3, RAM + 2, 1 << 38, (1 << 64) - 1, 0x8000_0000_0000_0001):
        assert hart.csr(**{register: address}).read(register) == address & ~1
