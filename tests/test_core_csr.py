"""Control and status registers: which exist, who may touch them, what a write leaves; FS, counters and their enables.

Names in quotes and numbers are sections of the privileged specification 1.12
unless they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    Hart().set(priv=U).step("csrr a0, mstatus")   →   Trap(cause=2, epc=STEP, tval=<its bits>, level=M)
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import CSR, HANDLER, ONES, Hart, M, S, U
from privileged_isa import DATA, FS, MPP, MXR, SD, SIE, SPIE, SPP, SUM, each_level, illegal

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
