"""Privileged behaviour, a sentence of the specification at a time: traps, delegation, status, CSRs, counters, PMP.

Sv39 and what surrounds it has a file of its own, `test_core_memory.py`. Names in quotes are sections of the privileged
specification 1.12 unless they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    Hart().set(priv=U).step("csrr a0, mstatus")   →   Trap(cause=2, epc=STEP, tval=<its bits>, level=M)
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import (
    CSR,
    HANDLER,
    INTERRUPT,
    ONES,
    RAM,
    S_HANDLER,
    STEP,
    Hart,
    M,
    RecordingBus,
    S,
    Trap,
    U,
    assemble,
)

from vpod import _cpu

SIE, MIE, SPIE, MPIE, SPP, MPP, FS = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 11, 3 << 13
MPRV, SUM, MXR, TVM, TW, TSR, SD = 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 63
STCE = 1 << 63
NEVER = ONES  # a timer that doesn't come
DATA = RAM + 0x8000
LEVELS = [pytest.param(level, id=name) for level, name in ((U, "U"), (S, "S"), (M, "M"))]

each_level = pytest.mark.parametrize("level", LEVELS)


def bits(source: str) -> int:
    return int.from_bytes(assemble(source).code, "little")


def illegal(source: str, level: int = M) -> Trap:
    """The trap of an illegal instruction: mtval holds its bits, "Machine Trap Value Register"."""
    return Trap(2, STEP, bits(source), level)


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


# ---- CSRs: existence, privilege, WARL -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mstatus", "mscratch", "pmpaddr0", "satp", "sscratch", "mhartid", "mcycle"])
@each_level
def test_a_csr_belongs_to_its_level(name: str, level: int) -> None:
    allowed = level >= (CSR[name] >> 8 & 3)
    source = f"csrr a0, {name}"
    assert Hart().set(priv=level).step(source) == (None if allowed else illegal(source))


@pytest.mark.parametrize(
    "name", ["mvendorid", "marchid", "mimpid", "mhartid", "mconfigptr", "cycle", "time", "instret"]
)
def test_read_only_csrs(name: str) -> None:
    for source in (f"csrw {name}, a0", f"csrrs a0, {name}, a1", f"csrrci a0, {name}, 1", f"csrwi {name}, 0"):
        assert Hart().step(source) == illegal(source)
    for source in (f"csrr a0, {name}", f"csrrsi a0, {name}, 0", f"csrrc a0, {name}, zero"):
        assert Hart().step(source) is None, "set and clear with x0 or 0 don't write: Zicsr"


@pytest.mark.parametrize("number", [0x7C0, 0x3A1, 0x3A3, 0x3C0, 0x200, 0x600, 0x7A0, 0xC80, 0xB01, 0x321, 0x5A8, 0xFFF])
def test_csrs_that_do_not_exist(number: int) -> None:
    assert Hart().step(f"csrr a0, {number}") == illegal(f"csrr a0, {number}")


@pytest.mark.parametrize("kind", ["csrrw", "csrrs", "csrrc"])
def test_csr_instructions(kind: str) -> None:
    old, operand = 0x0F0F_1234_5678_00FF, 0x00FF_FFFF_0000_0F0F
    new = {"csrrw": operand, "csrrs": old | operand, "csrrc": old & ~operand}
    hart = Hart().csr(mscratch=old).set(a1=operand)
    assert hart.step(f"{kind} a1, mscratch, a1") is None, "rd and rs1 may be the same register"
    assert (hart.x("a1"), hart.read("mscratch")) == (old, new[kind])
    hart.csr(mscratch=old)
    hart.step(f"{kind}i a2, mscratch, 21")
    new = {"csrrw": 21, "csrrs": old | 21, "csrrc": old & ~21}
    assert (hart.x("a2"), hart.read("mscratch")) == (old, new[kind])


WARL = {  # what can stand in a register when all ones and when zero were written
    "mstatus": (SD | 10 << 32 | 0x7E79AA, 10 << 32),
    "misa": (2 << 62 | 0x14112D, 2 << 62 | 0x14112D),
    "mideleg": (0x222, 0),
    "mie": (0xAAA, 0),
    "mcounteren": (7, 0),
    "scounteren": (7, 0),
    "menvcfg": (1 << 63 | 1 << 61 | 1, 0),
    "senvcfg": (1, 0),
    "mcountinhibit": (5, 0),
    "mepc": (ONES - 1, 0),
    "sepc": (ONES - 1, 0),
    "mscratch": (ONES, 0),
    "sscratch": (ONES, 0),
    "mtval": (ONES, 0),
    "stval": (ONES, 0),
    "stimecmp": (ONES, 0),
    "pmpaddr0": ((1 << 54) - 1, 0),
    "mhpmcounter3": (0, 0),
    "mhpmevent31": (0, 0),
    "fcsr": (0xFF, 0),
    "frm": (7, 0),
    "fflags": (31, 0),
}


@pytest.mark.parametrize("name", WARL)
def test_warl_fields(name: str) -> None:
    hart = Hart().csr(pmpcfg0=0, mstatus=FS)
    for written, left in zip((ONES, 0), WARL[name], strict=True):
        hart.set(a0=written)
        assert hart.step(f"csrw {name}, a0") is None
        assert hart.read(name) == left


def test_reserved_values_leave_a_legal_one() -> None:
    hart = Hart().csr(mstatus=M << 11)
    assert hart.csr(mstatus=2 << 11).read("mstatus") & MPP in (U << 11, S << 11, M << 11)
    assert hart.csr(mtvec=HANDLER | 2).read("mtvec") & 3 < 2
    assert hart.csr(stvec=HANDLER | 3).read("stvec") & 3 < 2
    for mode in (1, 2, 7, 9, 10, 15):
        hart.csr(satp=8 << 60 | 0x80123)
        hart.csr(satp=mode << 60 | 1)
        assert hart.read("satp") == 8 << 60 | 0x80123, "a write with an unsupported MODE has no effect: satp"
    assert hart.csr(satp=8 << 60 | 0xFFFF << 44).read("satp") == 8 << 60 | 0xFFFF << 44, "ASIDLEN is 16"


def test_sstatus_is_a_window_on_mstatus() -> None:
    hart = Hart().csr(mstatus=ONES)
    hart.step("csrr a0, sstatus")
    assert hart.x("a0") == SD | 2 << 32 | SUM | MXR | FS | SPP | SPIE | SIE
    hart.step("csrw sstatus, zero")
    assert hart.read("mstatus") == 10 << 32 | 0x7E79AA & ~(SUM | MXR | FS | SPP | SPIE | SIE)


def test_sie_and_sip_show_only_delegated_interrupts() -> None:
    hart = Hart().csr(mie=0xAAA, mip=0x222)
    assert (hart.read("sie"), hart.read("sip")) == (0, 0)
    hart.csr(mideleg=0x22)
    assert (hart.read("sie"), hart.read("sip")) == (0x22, 0x22)
    hart.csr(sie=0)
    assert hart.read("mie") == 0xAAA & ~0x22
    hart.csr(sip=0)
    assert hart.read("mip") & 0x222 == 0x220, "of sip only SSIP can be written"


def test_machine_lines_cannot_be_written_in_mip() -> None:
    hart = Hart().set(a0=ONES)
    hart.step("csrw mip, a0")
    assert hart.read("mip") == 0x222
    hart.cpu.set_interrupt(11, True)
    hart.step("csrw mip, zero")
    assert hart.read("mip") == 1 << 11


def test_seip_of_the_plic_is_not_written_back() -> None:
    """ "mip": what csrrs reads is ORed with the external line, what it writes back is the software bit alone."""
    hart = Hart()
    hart.cpu.set_interrupt(9, True)
    hart.step("csrrsi a0, mip, 2")
    assert hart.x("a0") & 1 << 9
    hart.cpu.set_interrupt(9, False)
    assert hart.read("mip") == 2


# ---- floating-point unit off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["fadd.d fa0, fa1, fa2", "flw fa0, 0(a0)", "fsd fa0, 0(a0)", "c.fld fa0, 0(a0)", "c.fsdsp fa0, 0(sp)",
     "fmv.x.d a0, fa0", "csrr a0, fcsr", "csrwi frm, 1", "csrr a0, fflags", "feq.s a0, fa0, fa1"],
)  # fmt: skip
@each_level
def test_fs_off_makes_everything_of_f_illegal(source: str, level: int) -> None:
    hart = Hart().set(priv=level, a0=DATA, sp=DATA)
    assert hart.step(source) == illegal(source)
    assert Hart().csr(mstatus=1 << 13).set(priv=level, a0=DATA, sp=DATA).step(source) is None


@pytest.mark.parametrize("source", ["fadd.d fa0, fa1, fa2", "flw fa0, 0(a0)", "csrwi fflags, 0", "fmv.w.x fa0, zero"])
def test_what_writes_the_state_makes_fs_dirty(source: str) -> None:
    for before in (1 << 13, 2 << 13):
        hart = Hart().csr(mstatus=before).set(a0=DATA)
        assert not hart.read("mstatus") & SD
        hart.step(source)
        assert hart.read("mstatus") & (SD | FS) == SD | FS


@pytest.mark.parametrize("rm", ["rm5", "rm6"])
def test_reserved_rounding_modes_are_illegal(rm: str) -> None:
    hart = Hart().csr(mstatus=FS)
    assert hart.step(f"fadd.s fa0, fa1, fa2, {rm}") == illegal(f"fadd.s fa0, fa1, fa2, {rm}")
    hart = Hart().csr(mstatus=FS, frm=5)
    assert hart.step("fadd.s fa0, fa1, fa2, dyn") == illegal("fadd.s fa0, fa1, fa2, dyn")
    assert Hart().csr(mstatus=FS, frm=5).step("fadd.s fa0, fa1, fa2, rtz") is None


# ---- counters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bit"), [("cycle", 1), ("time", 2), ("instret", 4), ("hpmcounter3", 8)])
def test_counter_enables(name: str, bit: int) -> None:
    source = f"csrr a0, {name}"
    writable = bit != 8
    for m, s in itertools.product((0, bit), repeat=2):
        assert Hart().csr(mcounteren=m, scounteren=s).set(priv=M).step(source) is None
        allowed = bool(m) and writable
        assert Hart().csr(mcounteren=m, scounteren=s).set(priv=S).step(source) == (None if allowed else illegal(source))
        allowed = bool(m and s) and writable
        assert Hart().csr(mcounteren=m, scounteren=s).set(priv=U).step(source) == (None if allowed else illegal(source))


def test_instret_counts_instructions_before_it() -> None:
    hart = Hart("csrr a0, minstret; nop; nop; c.nop 0; csrr a1, minstret; csrr a2, mcycle; done: j done").run()
    assert hart.x("a1") - hart.x("a0") == 4
    assert hart.x("a2") - hart.x("a1") == 1


def test_written_counters_read_as_written_next() -> None:
    """ "Hardware Performance Monitor": a write takes effect after its instruction, whose increment is dropped."""
    hart = Hart(
        "li a0, 1000; csrw minstret, a0; csrr a1, minstret; csrr a2, instret; csrw mcycle, a0; csrr a3, cycle;"
        "done: j done"
    )
    hart.run()
    assert (hart.x("a1"), hart.x("a2"), hart.x("a3")) == (1000, 1001, 1000)


def test_mcountinhibit_stops_a_counter() -> None:
    hart = Hart(
        "csrwi mcountinhibit, 4; csrr a0, minstret; nop; nop; csrr a1, minstret; csrr a2, mcycle; csrr a3, mcycle;"
        "csrwi mcountinhibit, 0; csrr a4, minstret; csrr a5, minstret; done: j done"
    ).run()
    assert hart.x("a0") == hart.x("a1")
    assert hart.x("a4") - hart.x("a1") in (0, 1), "whether the instruction that lets it go counts is open"
    assert hart.x("a3") == hart.x("a2") + 1
    assert hart.x("a5") == hart.x("a4") + 1


def test_faulting_instructions_do_not_count() -> None:
    hart = Hart(
        "la t0, on; csrw mtvec, t0; csrr a0, minstret; ld a1, 0(zero); on: csrr a2, minstret; done: j done"
    ).run()
    assert hart.x("a2") - hart.x("a0") == 1


def test_time_is_mtime() -> None:
    hart = Hart()
    hart.cpu.mtime = 10**12
    hart.step("csrr a0, time")
    assert 0 <= hart.x("a0") - 10**12 < 10**8


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
    hart.csr(mie=1 << 5, menvcfg=STCE, stimecmp=0)
    assert hart.cpu.nanoseconds_to_timer() == 0


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


# ---- LR and SC ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", "wd")
def test_a_store_conditional_after_its_load_reserved_succeeds_once(width: str) -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step(f"lr.{width} a1, (a0)")
    hart.step(f"sc.{width} a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (0, 7)
    hart.set(a2=8).step(f"sc.{width} a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 7), "the first SC took the reservation"


def test_a_store_conditional_without_reservation_fails() -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)


def test_a_store_conditional_to_another_address_fails() -> None:
    hart = Hart().set(a0=DATA, a1=DATA + 64, a2=7)
    hart.step("lr.d a4, (a0)")
    hart.step("sc.d a3, a2, (a1)")
    assert (hart.x("a3"), hart.dword(DATA + 64)) == (1, 0)
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0), "a failed SC ends the reservation too"


def test_a_trap_between_load_reserved_and_store_conditional() -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step("lr.d a4, (a0)")
    hart.step("ecall")
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)


def test_a_device_that_writes_ends_the_reservation() -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step("lr.d a4, (a0)")
    hart.cpu.write(DATA + 4, b"\x01")
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 1 << 32)


@pytest.mark.parametrize(
    "source", ["lr.w a1, (a0)", "lr.d a1, (a0)", "sc.d a1, a2, (a0)", "amoadd.w a1, a2, (a0)", "amoswap.d a1, a2, (a0)"]
)
def test_misaligned_atomics_trap(source: str) -> None:
    size = 8 if ".d" in source else 4
    for off in (1, 2, size // 2, size - 1):
        cause = 4 if source.startswith("lr") else 6
        assert Hart().set(a0=DATA + off).step(source) == Trap(cause, STEP, DATA + off)


# ---- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "value"),
    [("lb", 0xFFFF_FFFF_FFFF_FF88), ("lbu", 0x88), ("lh", 0xFFFF_FFFF_FFFF_9988), ("lhu", 0x9988),
     ("lw", 0xFFFF_FFFF_BBAA_9988), ("lwu", 0xBBAA_9988), ("ld", 0xFFEE_DDCC_BBAA_9988)],
)  # fmt: skip
def test_loads_from_a_device(source: str, value: int) -> None:
    hart = Hart().set(a0=0x1000_0000)
    hart.bus.registers[0x1000_0000] = 0xFFEE_DDCC_BBAA_9988
    assert hart.step(f"{source} a1, 0(a0)") is None
    assert hart.x("a1") == value
    assert len(hart.bus.log) == 1, "asked once"


@pytest.mark.parametrize(("source", "size"), [("sb", 1), ("sh", 2), ("sw", 4), ("sd", 8)])
def test_stores_to_a_device(source: str, size: int) -> None:
    hart = Hart().set(a0=0x1000_0000, a1=0x1122_3344_5566_7788)
    hart.bus.registers[0x1000_0000] = 0
    before = hart.cpu.instret
    assert hart.step(f"{source} a1, 0(a0)") is None
    assert hart.bus.log == [("write", 0x1000_0000, size, 0x1122_3344_5566_7788 & (1 << 8 * size) - 1)]
    assert hart.cpu.instret == before + 1


def test_where_no_device_answers_there_is_an_access_fault() -> None:
    for at in (0, 0x1000, RAM - 8, RAM + (4 << 20), 1 << 40, ONES - 7):
        assert Hart().set(a0=at).step("ld a1, 0(a0)") == denied(5, at)
        assert Hart().set(a0=at).step("sd a1, 0(a0)") == denied(7, at)
        assert Hart().set(a0=at).step("lr.d a1, (a0)") == denied(5, at)
        assert Hart().set(a0=at).step("amoadd.d a1, a1, (a0)") == denied(7, at)
    hart = Hart()
    for at in (0, 0x1000, RAM - 2, RAM + (4 << 20), 1 << 40):
        hart.set(pc=at, priv=M)
        assert hart.go() == Trap(1, at, at)


def test_an_error_of_the_bus_leaves_the_instruction_undone() -> None:
    class Broken(RecordingBus):
        def read(self, address: int, size: int) -> int:
            raise RuntimeError("the device broke")

    hart = Hart(bus=Broken()).set(a0=0x1000, a1=5)
    with pytest.raises(RuntimeError, match="the device broke"):
        hart.step("ld a1, 0(a0)")
    assert (hart.cpu.pc, hart.x("a1"), hart.cpu.instret) == (STEP, 5, 0)
    hart.load("addi a1, a1, 1", STEP)
    hart.cpu.run(1)
    assert hart.x("a1") == 6
