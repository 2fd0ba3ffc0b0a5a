"""Sv39: permissions, faults and their values, superpages, A and D, MPRV, addresses, misaligned accesses.

Sections in quotes are of the privileged specification, chapter "Supervisor-Level ISA"; the fences that go with all
this have a file of their own, `test_core_fences.py`. Code runs from a page that only M or S can execute, or from one
marked for users; data pages get the rights of the test.

    a page without W:  sd → Trap(cause=15, epc, tval=the virtual address)
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import ONES, RAM, STEP, Hart, M, S, Trap, U, pte
from privileged_isa import ADUE, DATA, HIGH, MPRV, MXR, PAGE, SUM, VA, fault, paged, step

# ---- permissions ----------------------------------------------------------------------------------------------------

ACCESSES = {"r": ("ld a1, 0(a0)", 13), "w": ("sd a1, 0(a0)", 15)}
READABLE = ["vrad", "vrwad", "vrxad", "vrwxad"]


@pytest.mark.parametrize("user", ["", "u"])
@pytest.mark.parametrize("rights", [*READABLE, "vxad"])
@pytest.mark.parametrize("level", [U, S])
@pytest.mark.parametrize("status", [0, SUM, MXR, SUM | MXR])
def test_who_may_read_and_write_a_page(level: int, rights: str, user: str, status: int) -> None:
    mine = (level == U) == bool(user) or (level == S and status & SUM)
    for letter, (source, cause) in ACCESSES.items():
        hart, _ = paged(level, rights + user, mstatus=status)
        allowed = mine and (letter in rights or (letter == "r" and status & MXR and "x" in rights))
        assert step(hart, source) == (None if allowed else fault(hart, cause, VA))


@pytest.mark.parametrize("user", ["", "u"])
@pytest.mark.parametrize("rights", ["vrad", "vrwad", "vrxad", "vxad"])
@pytest.mark.parametrize("level", [U, S])
@pytest.mark.parametrize("status", [0, SUM | MXR])
def test_who_may_execute_a_page(level: int, rights: str, user: str, status: int) -> None:
    """SUM has no say in it: S never executes a page of the user."""
    hart, _ = paged(level, rights + user, mstatus=status)
    allowed = "x" in rights and (level == U) == bool(user)
    assert hart.step("nop", at=DATA, pc=VA) == (None if allowed else Trap(12, VA, VA))


@pytest.mark.parametrize("source", ["lr.d a2, (a0)", "amoadd.d a2, a1, (a0)", "sc.d a2, a1, (a0)"])
def test_atomics_need_the_right_to_write(source: str) -> None:
    hart, _ = paged(S, "vrad")
    assert step(hart, source) == (None if source.startswith("lr") else fault(hart, 15, VA))
    hart, _ = paged(S, "ad")
    assert step(hart, source) == fault(hart, 13 if source.startswith("lr") else 15, VA)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("not valid", pte(DATA, "rwxad")),
        ("W without R", pte(DATA, "vwad")),
        ("W and X without R", pte(DATA, "vwxad")),
        ("Svnapot's N", pte(DATA, "vrwad") | 1 << 63),
        ("Svpbmt's PBMT", pte(DATA, "vrwad") | 1 << 61),
        ("reserved bits", pte(DATA, "vrwad") | 1 << 54),
        ("a pointer at the last level", pte(DATA, "v")),
    ],
)
def test_entries_that_are_no_page(name: str, entry: int) -> None:
    hart, tables = paged()
    hart.store(tables.entry(VA), entry)
    assert step(hart, "ld a1, 0(a0)") == fault(hart, 13, VA), name
    hart.set(priv=S)
    assert step(hart, "sd a1, 0(a0)") == fault(hart, 15, VA), name
    assert hart.set(priv=S).step("nop", at=DATA, pc=VA) == Trap(12, VA, VA), name


@pytest.mark.parametrize("bit", ["u", "a", "d"])
def test_reserved_bits_of_a_pointer(bit: str) -> None:
    hart, tables = paged()
    at = tables.entry(VA, 1)
    hart.store(at, hart.dword(at) | pte(0, bit))
    assert step(hart, "ld a1, 0(a0)") == fault(hart, 13, VA)


def test_a_table_outside_ram_is_an_access_fault() -> None:
    for level in (1, 2):
        hart, tables = paged()
        hart.store(tables.entry(VA, level), pte(0x1000, "v"))
        assert step(hart, "ld a1, 0(a0)") == fault(hart, 5, VA)
        assert step(hart.set(priv=S), "sd a1, 0(a0)") == fault(hart, 7, VA)
        assert hart.set(priv=S).step("nop", at=DATA, pc=VA) == Trap(1, VA, VA)


def test_tables_are_subject_to_pmp() -> None:
    """ "Physical Memory Protection and Paging": an implicit access counts as S's, and fails as the original access."""
    hart, tables = paged()
    table = tables.entry(VA) & ~0xFFF
    hart.set(priv=M).csr(pmpcfg0=0, pmpaddr0=table >> 2 | 0x1FF, pmpaddr1=ONES)
    hart.csr(pmpcfg0=0x1F << 8 | 0x18).set(priv=S)
    assert step(hart, "ld a1, 0(a0)") == fault(hart, 5, VA)
    hart.csr(pmpcfg0=0x1F << 8 | 0x19).set(priv=S)
    assert step(hart, "ld a1, 0(a0)") is None


def test_machine_mode_knows_no_pages() -> None:
    hart, _ = paged(M)
    hart.store(DATA, 7).set(a0=DATA)
    assert step(hart, "ld a1, 0(a0)") is None and hart.x("a1") == 7


def test_bare_mode_knows_no_pages() -> None:
    for level in (U, S):
        hart = Hart().set(priv=level, a0=DATA).store(DATA, 7)
        assert hart.step("ld a1, 0(a0)") is None and hart.x("a1") == 7


def test_a_device_behind_a_page() -> None:
    hart, tables = paged()
    tables.map(VA, 0x1000_0000, "vrwad")
    hart.bus.registers[0x1000_0008] = 3
    assert step(hart, "ld a1, 8(a0)") is None and hart.x("a1") == 3
    assert step(hart, "sw a1, 8(a0)") is None
    assert hart.bus.log == [("read", 0x1000_0008, 8, 3), ("write", 0x1000_0008, 4, 3)]
    assert step(hart, "lw a1, 16(a0)") == fault(hart, 5, VA + 16), "the fault's address is the virtual one"


# ---- MPRV -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "user"), [(U, "u"), (U, ""), (S, "u"), (S, "")])
def test_mprv_loads_and_stores_as_mpp(level: int, user: str) -> None:
    for status in (0, SUM):
        hart, _ = paged(M, "vrwad" + user, mstatus=MPRV | level << 11 | status)
        hart.store(DATA, 9)
        allowed = (level == U) == bool(user) or (level == S and status)
        assert step(hart, "ld a1, 0(a0)") == (None if allowed else fault(hart, 13, VA))
        hart.csr(mstatus=MPRV | level << 11 | status)
        assert step(hart, "amoadd.d a1, a1, (a0)") == (None if allowed else fault(hart, 15, VA))


def test_mprv_ends_with_mret_to_s() -> None:
    hart, _ = paged(M, "vrwad", mstatus=MPRV | S << 11, mepc=STEP)
    step(hart, "mret")
    assert hart.cpu.priv == S and not hart.read("mstatus") & MPRV


# ---- superpages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2])
def test_superpages(level: int) -> None:
    hart, tables = paged()
    size = 1 << 12 + 9 * level
    base = 5 << 30
    tables.map(base, RAM & ~(size - 1), "vrwxad", level)
    offset = RAM & (size - 1)
    for physical in (DATA, RAM + 0x12_3458, RAM + 0x1F_FFF8):
        hart.store(physical, physical)
        assert step(hart.set(a0=base + offset + physical - RAM), "ld a1, 0(a0)") is None
        assert hart.x("a1") == physical
    hart.load("nop", DATA)
    assert hart.step("nop", at=DATA, pc=base + offset + DATA - RAM) is None


@pytest.mark.parametrize("level", [1, 2])
def test_misaligned_superpages_fault(level: int) -> None:
    """ "Virtual Address Translation Process", step 6: the low parts of the page number must be zero."""
    for low in range(9 * level):
        hart, tables = paged()
        tables.map(5 << 30, 1 << 12 + low, "vrwxad", level)
        assert step(hart.set(a0=5 << 30), "ld a1, 0(a0)") == fault(hart, 13, 5 << 30)


# ---- A and D --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rights", ["vrwx", "vrwxa", "vrwxd", "vrwxad"])
def test_a_and_d_set_by_the_hart(rights: str) -> None:
    hart, tables = paged(S, rights, menvcfg=ADUE)
    assert step(hart, "ld a1, 0(a0)") is None
    assert tables.get(VA) == pte(DATA, rights) | pte(0, "a"), "a load sets A alone"
    assert step(hart, "sd a1, 0(a0)") is None
    assert tables.get(VA) == pte(DATA, "vrwxad"), "a store after a load that filled the TLB sets D"


def test_a_fetch_sets_a() -> None:
    hart, tables = paged(S, "vrwx", menvcfg=ADUE)
    assert hart.step("nop", at=DATA, pc=VA) is None
    assert tables.get(VA) == pte(DATA, "vrwxa")


@pytest.mark.parametrize("rights", ["vrwx", "vrwxd", "vrwxa"])
def test_a_and_d_left_to_software(rights: str) -> None:
    """With ADUE clear the hart raises a page fault instead: Svade."""
    for source, cause, needed in (
        ("ld a1, 0(a0)", 13, "a"),
        ("sd a1, 0(a0)", 15, "ad"),
        ("amoor.w a1, a1, (a0)", 15, "ad"),
    ):
        hart, tables = paged(S, rights, menvcfg=0)
        allowed = all(letter in rights for letter in needed)
        assert step(hart, source) == (None if allowed else fault(hart, cause, VA))
        assert tables.get(VA) == pte(DATA, rights), "nothing is written"
    hart, _ = paged(S, rights, menvcfg=0)
    assert hart.step("nop", at=DATA, pc=VA) == (None if "a" in rights else Trap(12, VA, VA))


def test_a_refused_access_sets_nothing() -> None:
    hart, tables = paged(S, "vr", menvcfg=ADUE)
    step(hart, "sd a1, 0(a0)")
    assert tables.get(VA) == pte(DATA, "vr")
    hart, tables = paged(U, "vrw", menvcfg=ADUE)
    step(hart, "ld a1, 0(a0)")
    assert tables.get(VA) == pte(DATA, "vrw")


def test_setting_a_needs_pmp_to_let_the_table_be_written() -> None:
    hart, tables = paged(S, "vrw", menvcfg=ADUE)
    table = tables.entry(VA) & ~0xFFF
    hart.set(priv=M).csr(pmpcfg0=0, pmpaddr0=table >> 2 | 0x1FF, pmpaddr1=ONES)
    hart.csr(pmpcfg0=0x1F << 8 | 0x19).set(priv=S)
    assert step(hart, "ld a1, 0(a0)") == fault(hart, 5, VA)


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [1 << 38, 1 << 39, (1 << 63) - 8, 1 << 63, HIGH - 8, VA | 1 << 60, HIGH ^ 1 << 62, VA | 1 << 39]
)
def test_non_canonical_addresses_fault(address: int) -> None:
    """ "Sv39": bits 63 to 39 must all be equal to bit 38, or else a page-fault exception occurs."""
    hart, tables = paged()
    tables.map(HIGH, DATA)
    assert step(hart.set(a0=VA), "ld a1, 0(a0)") is None
    assert step(hart.set(a0=HIGH), "ld a1, 0(a0)") is None
    assert step(hart.set(a0=address), "ld a1, 0(a0)") == fault(hart, 13, address)
    assert step(hart.set(a0=address, priv=S), "sd a1, 0(a0)") == fault(hart, 15, address)
    assert hart.set(pc=address, priv=S).go() == Trap(12, address, address)


def test_both_sides_of_the_hole() -> None:
    hart, tables = paged()
    tables.map((1 << 38) - PAGE, DATA).map(HIGH, DATA + PAGE)
    hart.store(DATA + PAGE - 8, 1).store(DATA + PAGE, 2)
    for address, value in (((1 << 38) - 8, 1), (HIGH, 2)):
        assert step(hart.set(a0=address), "ld a1, 0(a0)") is None
        assert hart.x("a1") == value
    for off in range(1, 8):
        straddling = (1 << 38) - off
        assert step(hart.set(a0=straddling, priv=S), "ld a1, 0(a0)") == fault(hart, 13, 1 << 38)
        assert step(hart.set(a0=straddling, priv=S), "sd a1, 0(a0)") == fault(hart, 15, 1 << 38)
        below = HIGH - off
        assert step(hart.set(a0=below, priv=S), "ld a1, 0(a0)") == fault(hart, 13, below)


def test_the_ends_of_the_address_space() -> None:
    hart, tables = paged()
    tables.map(ONES & ~0xFFF, DATA).map(0, DATA + PAGE)
    hart.store(DATA + PAGE - 8, 0x1122_3344_5566_7788).store(DATA + PAGE, 0x99AA_BBCC_DDEE_FF00)
    assert step(hart.set(a0=ONES - 7), "ld a1, 0(a0)") is None
    assert hart.x("a1") == 0x1122_3344_5566_7788
    assert step(hart.set(a0=ONES - 3), "ld a1, 0(a0)") is None, "addresses wrap around: RV64I, memory is circular"
    assert hart.x("a1") == 0xDDEE_FF00_1122_3344


# ---- misaligned and page-crossing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "store", "size"), [("lhu", "sh", 2), ("lwu", "sw", 4), ("ld", "sd", 8), ("fld", "fsd", 8)]
)
def test_misaligned_accesses_within_and_across_pages(load: str, store: str, size: int) -> None:
    hart, tables = paged(S, mstatus=3 << 13)
    tables.map(VA + PAGE, DATA + 5 * PAGE)  # not the next physical page
    register = "fa1" if load[0] == "f" else "a1"
    for off in (*range(1, 9), *range(PAGE - 9, PAGE)):
        value = 0x8877_6655_4433_2211 + off & (1 << 8 * size) - 1
        data = value.to_bytes(size, "little")
        for at, part in enumerate(data):
            place = off + at
            hart.cpu.write(DATA + place if place < PAGE else DATA + 4 * PAGE + place, bytes([part]))
        assert step(hart.set(a0=VA + off), f"{load} {register}, 0(a0)") is None
        assert (hart.cpu.f(11) if load[0] == "f" else hart.x("a1")) == value
        hart.cpu.write(DATA, bytes(PAGE))
        hart.cpu.write(DATA + 5 * PAGE, bytes(PAGE))
        assert step(hart, f"{store} {register}, 0(a0)") is None
        both = hart.cpu.read(DATA, PAGE) + hart.cpu.read(DATA + 5 * PAGE, PAGE)
        assert both == bytes(off) + data + bytes(2 * PAGE - off - size)


@pytest.mark.parametrize("off", range(1, 8))
def test_a_crossing_access_faults_on_the_page_that_is_missing(off: int) -> None:
    for first, second in itertools.product((True, False), repeat=2):
        hart, tables = paged(S, "vrwad" if first else "r")
        tables.map(VA + PAGE, DATA + PAGE, "vrwad" if second else "r")
        at = VA + PAGE - off
        where = at if not first else VA + PAGE
        for source, cause in ACCESSES.values():
            result = step(hart.set(a0=at, priv=S), source)
            assert result == (None if first and second else fault(hart, cause, where))


def test_a_misaligned_access_to_a_device_is_an_access_fault() -> None:
    hart = Hart().set(a0=0x1000_0001)
    hart.bus.registers[0x1000_0001] = 0
    assert hart.step("lw a1, 0(a0)") == Trap(5, STEP, 0x1000_0001)
    assert hart.step("sw a1, 0(a0)") == Trap(7, STEP, 0x1000_0001)
    assert not hart.bus.log
