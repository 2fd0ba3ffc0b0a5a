"""All 4,096 CSR numbers from every mode; what a write leaves of any value; FS and the counter enables in every state.

`EXISTING`, `legal` and the rest state chapter 2, "Control and Status Registers (CSRs)", and the sections named beside
each (privileged specification 1.12, Sstc, Zicsr). Where a WARL field leaves a choice, the choice declared here is this
core's; `test_core_qemu.py` shows where QEMU makes another.

    csrrs a0, 0x7c0, zero   →   illegal in every mode: custom registers there are none
"""

from __future__ import annotations

import itertools
import random

import pytest
from machine_code import CSR, HANDLER, ONES, STEP, Hart, M, S, U
from privileged_isa import DATA, FS, LEVELS, MPP, SD, STCE, TVM, bits, illegal

EXISTING = {
    *(0x001, 0x002, 0x003),  # fflags frm fcsr
    *range(0xC00, 0xC20),  # cycle time instret hpmcounter3-31
    *(0x100, 0x104, 0x105, 0x106, 0x10A),  # sstatus sie stvec scounteren senvcfg
    *range(0x140, 0x145),  # sscratch sepc scause stval sip
    *(0x14D, 0x180),  # stimecmp satp
    *range(0xF11, 0xF16),  # mvendorid marchid mimpid mhartid mconfigptr
    *range(0x300, 0x307),  # mstatus misa medeleg mideleg mie mtvec mcounteren
    *(0x30A, 0x320),  # menvcfg mcountinhibit
    *range(0x323, 0x340),  # mhpmevent3-31
    *range(0x340, 0x345),  # mscratch mepc mcause mtval mip
    *(0x3A0, 0x3A2),  # pmpcfg: on RV64 the even ones
    *range(0x3B0, 0x3C0),  # pmpaddr0-15
    *(0xB00, *range(0xB02, 0xB20)),  # mcycle minstret mhpmcounter3-31
}
REGISTERS = [number for number in sorted(EXISTING) if number >> 10 != 3]  # those that can be written
HPM = range(3, 32)

# ---- which there are ------------------------------------------------------------------------------------------------


def access(kind: str, number: int, rd: int = 10, operand: int = 0) -> int:
    """The bits of a CSR instruction, for any number."""
    funct = {"csrrw": 1, "csrrs": 2, "csrrc": 3, "csrrwi": 5, "csrrsi": 6, "csrrci": 7}[kind]
    return number << 20 | operand << 15 | funct << 12 | rd << 7 | 0x73


def refused(hart: Hart, word: int, level: int) -> bool:
    """Execute `word` in `level`; whether it was illegal, which must have left no trace but the trap's."""
    hart.cpu.write(STEP, word.to_bytes(4, "little"))
    hart.set(pc=STEP, priv=level, a0=0xA0)
    hart.cpu.run(1)
    if hart.cpu.pc == STEP + 4:
        return False
    assert (hart.cpu.pc, hart.read("mcause"), hart.read("mtval"), hart.read("mepc")) == (HANDLER, 2, word, STEP)
    assert hart.x("a0") == 0xA0
    return True


@pytest.mark.parametrize("level", LEVELS)
def test_every_number(level: int) -> None:
    """2.1: bits 9-8 are the lowest mode with access, bits 11-10 are 11 for read-only; the rest must be implemented.

    csrrs and csrrc with x0 (csrrsi, csrrci with 0) don't write, and so may name read-only registers: Zicsr.
    """
    hart = Hart().csr(mstatus=FS, mcounteren=ONES, scounteren=ONES, menvcfg=STCE).set(a1=0)
    for number in range(4096):
        counter = 0xC03 <= number < 0xC20 and level < M  # whose enables are read-only zero: 3.1.11
        reachable = number in EXISTING and level >= (number >> 8 & 3) and not counter
        for kind in ("csrrs", "csrrc", "csrrsi", "csrrci"):
            assert refused(hart, access(kind, number), level) == (not reachable), f"{kind} {number:#x}"
        writable = reachable and number >> 10 != 3
        for kind, rd, operand in (("csrrs", 10, 11), ("csrrc", 0, 11)):  # a1 is zero: what is written is what was there
            assert refused(hart, access(kind, number, rd, operand), level) == (not writable), f"{kind} {number:#x}"
        if not writable:
            for kind, rd, operand in (("csrrw", 10, 11), ("csrrwi", 0, 0), ("csrrsi", 0, 1), ("csrrci", 10, 31)):
                assert refused(hart, access(kind, number, rd, operand), level), f"{kind} {number:#x}"


def test_the_reserved_function_is_illegal() -> None:
    for level, number in itertools.product((U, S, M), (0x300, 0xC00, 0x140)):
        assert refused(Hart(), number << 20 | 4 << 12 | 0x73, level)


# ---- what a write leaves --------------------------------------------------------------------------------------------

MASKS = {  # registers that keep these bits, and have 0 (or what stands in FIXED) in the others
    "sscratch": ONES, "mscratch": ONES, "scause": ONES, "mcause": ONES, "stval": ONES, "mtval": ONES, "stimecmp": ONES,
    "sepc": ONES - 1, "mepc": ONES - 1, "misa": 0, "medeleg": 0xB3FF, "mideleg": 0x222, "mie": 0xAAA,
    "mcounteren": 7, "scounteren": 7, "mcountinhibit": 5, "menvcfg": 1 << 63 | 1 << 61 | 1, "senvcfg": 1,
    "fflags": 31, "frm": 7, "fcsr": 255, "pmpaddr0": (1 << 54) - 1, "pmpaddr15": (1 << 54) - 1,
    "mhpmcounter3": 0, "mhpmcounter31": 0, "mhpmevent3": 0, "mhpmevent31": 0,
}  # fmt: skip
FIXED = {"misa": 2 << 62 | sum(1 << ord(letter) - ord("A") for letter in "ACDFIMSU")}
MSTATUS = 0x7E_79AA  # SIE MIE SPIE MPIE SPP MPP FS MPRV SUM MXR TVM TW TSR: 3.1.6
SSTATUS = 0x0C_6122  # SIE SPIE SPP FS SUM MXR: 4.1.1
UXL, SXL = 2 << 32, 2 << 34  # 3.1.6.2: read-only, 64 bits


def legal(name: str, old: int, value: int) -> int:
    """What the register holds after `value` is written to `old`."""
    if name in MASKS:
        return value & MASKS[name] | FIXED.get(name, 0)
    if name in ("mtvec", "stvec"):  # 3.1.7: modes 2 and 3 are reserved; the mode stays
        return value if value & 3 < 2 else value & ~3 | old & 3
    if name == "satp":  # 4.1.11: "the entire write has no effect; no fields in satp are modified"
        return value if value >> 60 in (0, 8) else old
    if name in ("mstatus", "sstatus"):
        mask = MSTATUS if name == "mstatus" else SSTATUS
        new = old & ~mask | value & mask
        if name == "mstatus" and value & MPP == 2 << 11:  # no such mode: the field stays
            new = new & ~MPP | old & MPP
        new = new & ~SD | (SD if new & FS == FS else 0)
        return new
    raise AssertionError(name)


NUMBERS = [0, ONES, *(1 << bit for bit in range(64)), *(ONES ^ 1 << bit for bit in range(0, 64, 7))]


@pytest.mark.parametrize("name", [*MASKS, "mtvec", "stvec", "satp", "mstatus", "sstatus"])
def test_what_a_write_leaves(name: str) -> None:
    """Walking ones, zeros and random numbers by csrrw, csrrs and csrrc; rd is the old value in any case."""
    source = random.Random(name)
    hart = Hart().csr(mstatus=FS)
    if name.startswith("pmpaddr"):
        hart.csr(pmpcfg0=0, pmpcfg2=0)
    old = hart.read(name)
    for value in [*NUMBERS, *(source.getrandbits(64) for _ in range(200))]:
        kind = source.choice(("csrrw", "csrrw", "csrrs", "csrrc"))
        wanted = legal(name, old, {"csrrw": value, "csrrs": old | value, "csrrc": old & ~value}[kind])
        assert not refused(hart.set(a1=value), access(kind, CSR[name], 12, 11), M)
        assert hart.x("a2") == old
        old = hart.read(name)
        assert old == wanted, f"{kind} {value:#x}"


@pytest.mark.parametrize("name", ["mscratch", "mcause", "medeleg", "fcsr", "mstatus"])
def test_immediate_forms(name: str) -> None:
    """Zicsr: the immediate is five bits, zero-extended."""
    for kind, value in itertools.product(("csrrwi", "csrrsi", "csrrci"), (0, 1, 2, 16, 31)):
        hart = Hart().csr(mstatus=FS)
        hart.csr(**{name: 0x55 if name != "mstatus" else FS | 0xA2})
        old = hart.read(name)
        new = {"csrrwi": value, "csrrsi": old | value, "csrrci": old & ~value}[kind]
        assert not refused(hart, access(kind, CSR[name], 12, value), M)
        assert hart.x("a2") == old
        assert hart.read(name) == (old if kind != "csrrwi" and not value else legal(name, old, new))


@pytest.mark.parametrize("mode", [mode for mode in range(16) if mode not in (0, 8)])
def test_satp_of_an_unsupported_mode(mode: int) -> None:
    """4.1.11: no field changes, from Bare and from Sv39, by S as by M."""
    for before in (0, 8 << 60 | 0x1234 << 44 | 0x8_0000_0000):
        for level in (S, M):
            hart = Hart().csr(satp=before).set(a1=mode << 60 | 0x5678 << 44 | 0x8_1234)
            if level == S and before:
                continue  # its code isn't mapped
            assert not refused(hart, access("csrrw", CSR["satp"], 0, 11), level)
            assert hart.read("satp") == before


def test_the_widths_of_s_and_u_are_read_only() -> None:
    """3.1.6.2: SXL and UXL say 64 and keep saying so."""
    for value in (0, ONES, 1 << 32, 3 << 32, 1 << 34, 3 << 34):
        hart = Hart().csr(mstatus=value, sstatus=value)
        assert hart.read("mstatus") & 15 << 32 == UXL | SXL
        assert hart.read("sstatus") & 15 << 32 == UXL


def test_every_previous_mode() -> None:
    """MPP holds U, S and M, and what is written with the reserved 2 leaves one of them; SPP is one bit."""
    for before, written in itertools.product((U, S, M), range(4)):
        hart = Hart().csr(mstatus=before << 11)
        found = hart.csr(mstatus=written << 11).read("mstatus") >> 11 & 3
        assert found == (written if written != 2 else before)


def test_windows_of_the_interrupt_registers() -> None:
    """4.1.3: sie and sip show what mideleg gives, and of it sie writes all and sip SSIP alone."""
    every = [sum(bits) for bits in itertools.product((0, 2), (0, 1 << 5), (0, 1 << 9))]
    for given, held, written in itertools.product(every, every, every):
        hart = Hart().csr(mideleg=given, mie=held | 0x888, mip=held)
        assert (hart.read("sie"), hart.read("sip")) == (held & given, held & given)
        hart.csr(sie=written | 0x888, sip=written | 0x888)
        assert hart.read("mie") == held & ~given | written & given | 0x888
        assert hart.read("mip") == held & ~(given & 2) | written & given & 2


# ---- FS -------------------------------------------------------------------------------------------------------------

NEEDS_F = {  # what needs FS on; whether it changes the state that FS speaks of (3.1.6.6)
    "flw fa0, 0(a0)": True, "fld fa0, 0(a0)": True, "fsw fa0, 0(a0)": False, "fsd fa0, 0(a0)": False,
    "c.fld fa0, 0(a0)": True, "c.fsd fa0, 0(a0)": False, "c.fldsp fa0, 0(sp)": True, "c.fsdsp fa0, 0(sp)": False,
    "fadd.s fa0, fa1, fa2": True, "fsqrt.d fa0, fa1": True, "fmadd.d fa0, fa1, fa2, fa3": True,
    "fsgnj.s fa0, fa1, fa2": True, "fmin.d fa0, fa1, fa2": True, "fcvt.s.w fa0, a0": True, "fcvt.d.s fa0, fa1": True,
    "fmv.w.x fa0, a0": True, "fmv.d.x fa0, a0": True, "fmv.x.w a1, fa0": False, "fmv.x.d a1, fa0": False,
    "feq.d a1, fa0, fa1": False, "fclass.s a1, fa0": False, "fcvt.l.d a1, fa1": False,
    "csrr a1, fcsr": False, "csrr a1, frm": False, "csrrsi a1, fflags, 0": False,
    "csrwi fcsr, 0": True, "csrwi frm, 1": True, "csrrsi a1, fflags, 1": True, "csrrci zero, fflags, 1": True,
}  # fmt: skip


@pytest.mark.parametrize("source", NEEDS_F)
@pytest.mark.parametrize("level", LEVELS)
def test_fs_in_every_state(level: int, source: str) -> None:
    """3.1.6.6: off is illegal for all of F, initial and clean become dirty when state changes; SD says dirty."""
    for fs in range(4):
        hart = Hart().csr(mstatus=fs << 13).set(priv=level, a0=DATA, sp=DATA)
        assert hart.step(source) == (illegal(source) if fs == 0 else None)
        after = 3 if fs and NEEDS_F[source] else fs
        status = hart.read("mstatus")
        assert (status >> 13 & 3, status >> 63) == (after, after == 3)
        assert hart.read("sstatus") & (FS | SD) == status & (FS | SD)


@pytest.mark.parametrize("source", ["flw fa0, 0(a0)", "fld fa0, 0(a0)", "fsw fa0, 0(a0)", "fsd fa0, 0(a0)"])
def test_fs_and_faults(source: str) -> None:
    """A load that faults leaves FS as it was; with FS off the instruction is illegal before it has an address."""
    for fs in range(4):
        hart = Hart().csr(mstatus=fs << 13).set(a0=0)
        trap = hart.step(source)
        assert trap is not None and trap.cause == (2 if fs == 0 else 5 if source.startswith("fl") else 7)
        assert hart.read("mstatus") & FS == fs << 13


def test_sd_cannot_be_written() -> None:
    assert not Hart().csr(mstatus=SD).read("mstatus") & SD
    assert Hart().csr(mstatus=FS).csr(mstatus=FS).read("mstatus") & SD


# ---- counters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(32))
def test_counter_enables_of_every_counter(number: int) -> None:
    """3.1.11, 4.1.5: S needs the bit of mcounteren, U both; those of the hpmcounters are read-only zero here."""
    word = access("csrrs", 0xC00 + number)
    bit = 1 << number
    for m, s, level in itertools.product((0, bit, ONES ^ bit, ONES), (0, bit, ONES ^ bit, ONES), (U, S, M)):
        enabled = number < 3 and m & bit and (level == S or s & bit)
        assert refused(Hart().csr(mcounteren=m, scounteren=s), word, level) == (not (enabled or level == M))


@pytest.mark.parametrize("number", HPM)
def test_performance_counters_are_zero(number: int) -> None:
    """3.1.10: those that aren't implemented are read-only zero, and so are their events."""
    hart = Hart().set(a1=ONES)
    for csr in (0xB00 + number, 0x320 + number):
        assert not refused(hart, access("csrrw", csr, 0, 11), M)
        assert not refused(hart, access("csrrs", csr, 12), M)
        assert hart.x("a2") == 0
    assert not refused(hart, access("csrrs", 0xC00 + number, 12), M)
    assert hart.x("a2") == 0


@pytest.mark.parametrize("counter", ["mcycle", "minstret"])
@pytest.mark.parametrize("value", [0, 1, 1000, 1 << 32, 1 << 63, ONES, ONES - 1])
def test_counters_hold_64_bits_and_wrap(counter: str, value: int) -> None:
    """3.1.10: written values are what is read next; the shadow of U shows the same; after all ones comes zero."""
    shadow = counter[1:]
    hart = Hart(
        f"li a0, {value}; csrw {counter}, a0; csrr a1, {counter}; nop; csrr a2, {shadow}; csrr a3, {counter};"
        "done: j done"
    ).run()
    assert [hart.x(name) for name in ("a1", "a2", "a3")] == [value, value + 2 & ONES, value + 3 & ONES]


@pytest.mark.parametrize(("counter", "bit"), [("mcycle", 1), ("minstret", 4)])
def test_an_inhibited_counter_can_be_written(counter: str, bit: int) -> None:
    """3.1.12: it stands, and keeps what is written; the other one goes on."""
    other = "cycle" if counter == "minstret" else "instret"
    hart = Hart(
        f"csrwi mcountinhibit, {bit}; li a0, 500; csrw {counter}, a0; nop; nop; csrr a1, {counter}; nop;"
        f"csrr a2, {counter}; csrr a3, m{other}; csrr a4, {other};"
        "csrwi mcountinhibit, 0; nop; csrr a5, minstret; csrr a6, minstret; done: j done"
    ).run()
    assert (hart.x("a1"), hart.x("a2"), hart.x("a4") - hart.x("a3")) == (500, 500, 1)
    assert hart.x("a6") - hart.x("a5") == 1


# ---- single registers taken away ------------------------------------------------------------------------------------


def test_stimecmp_in_every_state_of_its_enables() -> None:
    """Sstc: outside M it needs menvcfg.STCE and mcounteren.TM, to be read as to be written; scounteren has no say."""
    for stce, tm, s, level in itertools.product((0, STCE), (0, 2, 5, 7), (0, 7), (U, S, M)):
        for kind, operand in (("csrrs", 0), ("csrrw", 11), ("csrrs", 11)):
            hart = Hart().csr(menvcfg=stce, mcounteren=tm, scounteren=s)
            allowed = level == M or (level == S and stce and tm & 2)
            assert refused(hart, access(kind, 0x14D, 10, operand), level) == (not allowed)


def test_tvm_takes_satp_and_nothing_else() -> None:
    """3.1.6.5: every other register of S stays."""
    for number in (number for number in EXISTING if number >> 8 & 3 == S):
        hart = Hart().csr(mstatus=TVM | FS, menvcfg=STCE, mcounteren=7)
        assert refused(hart, access("csrrs", number), S) == (number == CSR["satp"])


def test_the_assembler_and_this_file_agree() -> None:
    """`access` names any number, the assembler those with names; they must be the same instruction."""
    assert access("csrrw", CSR["mscratch"], 10, 11) == bits("csrrw a0, mscratch, a1")
    assert access("csrrci", CSR["fflags"], 0, 1) == bits("csrrci zero, fflags, 1")
