"""Every combination of page rights, access and mode on a leaf, and every way a walk can fail, against the algorithm.

`leaf_allows` and `updated` state steps 3 to 7 of "Virtual Address Translation Process" (privileged specification 1.12,
4.3.2) for one entry; they share nothing with the core. A hart with three places to try (a page, a superpage, a
gigapage) runs each access once, freshly fenced, and cause, value, the entry and memory must be what the text says.

    leaf_allows(R | U, "load", S, status=0)   →   False: a user's page, and SUM is clear
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from machine_code import HANDLER, ONES, RAM, STEP, TABLES, Hart, M, PageTables, S, Trap, U, assemble, pte
from privileged_isa import ADUE, CODE, DATA, FS, MPRV, MXR, PAGE, SUM

V, R, W, X, USER, G, A, D = (1 << bit for bit in range(8))
PLACES = {  # level: the virtual address that shows DATA through a leaf of that level
    0: 0x1_0000_0000,
    1: 0x1_4000_0000 + DATA - RAM,
    2: 0x2_0000_0000 + DATA - RAM,
}
PROGRAM = {  # what each kind of access is; a0 is its address, a1 what it stores
    "fetch": "nop",
    "load": "ld a2, 0(a0)",
    "fload": "fld fa2, 0(a0)",
    "lr": "lr.d a2, (a0)",
    "store": "sd a1, 0(a0)",
    "fstore": "fsd fa1, 0(a0)",
    "sc": "sc.d a2, a1, (a0)",
    "amo": "amoswap.d a2, a1, (a0)",
}
KINDS = [*PROGRAM]
READS, WRITES = ("load", "fload", "lr"), ("store", "fstore", "sc", "amo")
PAGE_FAULT = {"fetch": 12} | dict.fromkeys(READS, 13) | dict.fromkeys(WRITES, 15)  # 3.1.15, table "mcause values"
ACCESS_FAULT = {"fetch": 1} | dict.fromkeys(READS, 5) | dict.fromkeys(WRITES, 7)  # AMOs and SC: as stores
OLD, NEW = 0x0000_0013_0000_0013, 0x1122_3344_5566_7788  # what stands at DATA (two nops), and what stores put there
OUTSIDE = 0x1000  # physical: no RAM, no device

# ---- the text -------------------------------------------------------------------------------------------------------


def leaf_allows(entry: int, kind: str, level: int, status: int) -> bool:
    """4.3.2, steps 3 to 5, and 4.3.1: may `kind` use this entry from privilege `level` with these SUM and MXR?"""
    if not entry & V or entry & (R | W) == W:  # step 3
        return False
    if not entry & (R | X):  # step 4: a pointer, here at the last level or to a table of zeros
        return False
    if level == U and not entry & USER:  # 4.3.1: "U-mode software may only access the page when U=1"
        return False
    if level == S and entry & USER and (kind == "fetch" or not status & SUM):
        return False  # 3.1.6.3: SUM for loads and stores; supervisor may not execute code on pages with U=1
    if kind == "fetch":
        return bool(entry & X)
    if kind in READS:
        return bool(entry & R or (status & MXR and entry & X))  # 3.1.6.3: MXR
    return bool(entry & W)


def updated(entry: int, kind: str, environment: int) -> int | None:
    """Step 7: the entry after an access that its rights allow; None for a page fault (Svade, menvcfg.ADUE clear)."""
    after = entry | A | (D if kind in WRITES else 0)
    return after if after == entry or environment & ADUE else None


# ---- the bench ------------------------------------------------------------------------------------------------------


class Bench:
    """A hart whose tables show DATA at every level, and the code of every kind where each mode may run it."""

    def __init__(self) -> None:
        self.hart = Hart().store(RAM, 0).store(DATA, OLD)  # read as a table, RAM's first page has no valid entry for us
        tables = PageTables(self.hart)
        tables.map(STEP, STEP, "vxad").map(CODE, STEP, "vxuad")
        self.entries = {level: tables.entry(va, level) for level, va in PLACES.items()}
        tables.map(PLACES[0] + PAGE, DATA + PAGE, "vrwxad")
        tables.on()
        self.tables = tables
        source = "; ".join(["sfence.vma zero, zero", "lr.d a2, (a0)", *PROGRAM.values()])
        self.hart.cpu.write(STEP, assemble(source).code)
        self.offsets = {kind: 8 + 4 * n for n, kind in enumerate(PROGRAM)}
        self.hart.set(a1=NEW)
        self.hart.cpu.set_f(11, NEW)

    def fence(self) -> None:
        """sfence.vma, by M, so that what is tried next finds nothing cached."""
        self.hart.csr(mstatus=FS).set(priv=M, pc=STEP).cpu.run(1)

    def attempt(
        self, kind: str, level: int, va: int, status: int = 0, by_mprv: bool = False
    ) -> tuple[int, int, int] | None:
        """Run `kind` at `va` in `level`, or in M with MPRV as if there: cause, epc and value of its trap, or None."""
        hart, cpu = self.hart, self.hart.cpu
        self.fence()
        if kind == "sc":  # its reservation is a physical address's
            hart.set(a0=DATA, pc=STEP + 4)
            cpu.run(1)
        hart.csr(mstatus=FS | status | (MPRV | level << 11 if by_mprv else 0))
        start = va if kind == "fetch" else (CODE if level == U and not by_mprv else STEP) + self.offsets[kind]
        hart.set(a0=va, a2=0, pc=start, priv=M if by_mprv else level)
        cpu.run(1)
        if cpu.pc != HANDLER:
            assert cpu.pc == start + 4, hart.describe()
            return None
        assert hart.read("mepc") == start
        return hart.read("mcause"), start, hart.read("mtval")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def entries() -> Iterator[int]:
    """Every value of the eight low bits but those that only G tells apart, and a few with G."""
    yield from (low for low in range(256) if not low & G)
    yield from (V | R | W | G | A | D, V | R | X | USER | G | A | D, V | G)


# ---- leaves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [ADUE, 0], ids=["Svadu", "Svade"])
@pytest.mark.parametrize("depth", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_leaf_and_every_mode(bench: Bench, kind: str, depth: int, environment: int) -> None:
    """4.3.2 on all entries, from U and S and (but for fetches) through MPRV, with every SUM and MXR."""
    hart, va = bench.hart, PLACES[depth]
    frame = RAM if depth else DATA
    hart.csr(menvcfg=environment)
    for low, level, status in itertools.product(entries(), (U, S), (0, SUM, MXR, SUM | MXR)):
        entry = frame >> 12 << 10 | low
        allowed = leaf_allows(low, kind, level, status)
        after = updated(entry, kind, environment) if allowed else None
        for by_mprv in (False,) if kind == "fetch" else (False, True):
            hart.store(bench.entries[depth], entry).store(DATA, OLD)
            trap = bench.attempt(kind, level, va, status, by_mprv)
            shown = f"{low:#x} from {level}, status {status:#x}, MPRV {by_mprv}"
            if after is None:
                assert trap is not None and (trap[0], trap[2]) == (PAGE_FAULT[kind], va), shown
                assert hart.dword(bench.entries[depth]) == entry, f"{shown}: a refused access sets nothing"
            else:
                assert trap is None, shown
                assert hart.dword(bench.entries[depth]) == after, shown
            stored = NEW if after is not None and kind in WRITES else OLD
            assert hart.dword(DATA) == stored, shown
            if after is not None and kind in ("load", "lr", "amo"):
                assert hart.x("a2") == OLD, shown
            if kind == "sc":
                assert hart.x("a2") == 0, shown


def test_mprv_leaves_fetches_alone(bench: Bench) -> None:
    """3.1.6.3: "Instruction address-translation and protection are unaffected by the setting of MPRV"."""
    for level in (U, S):
        bench.fence()
        bench.hart.csr(mstatus=MPRV | level << 11).set(pc=DATA + 16, priv=M).store(DATA + 16, OLD)
        bench.hart.cpu.run(1)
        assert (bench.hart.cpu.pc, bench.hart.cpu.priv) == (DATA + 20, M)


def test_mprv_with_mpp_m_is_m(bench: Bench) -> None:
    bench.fence()
    bench.hart.csr(mstatus=MPRV | M << 11).set(a0=DATA, pc=STEP + bench.offsets["load"]).store(DATA, 77).cpu.run(1)
    assert bench.hart.x("a2") == 77


# ---- walks that fail ------------------------------------------------------------------------------------------------


def damages() -> Iterator[tuple[str, int, int, bool]]:
    """What is wrong with which level's entry, the entry as it then stands, and whether it is an access fault."""
    for level in (2, 1, 0):
        good = pte(TABLES, "v") if level else pte(DATA, "vrwxad")
        yield "not valid", level, good & ~V, False
        yield "W alone", level, pte(0, "vwad"), False
        yield "W and X", level, pte(0, "vwxad"), False
        for bit in range(54, 64):  # 4.4.1: bits 60-54 reserved; N and PBMT without Svnapot and Svpbmt
            yield f"bit {bit}", level, good | 1 << bit, False
    yield "a pointer at the last level", 0, pte(DATA, "v"), False
    for level, letters in itertools.product((2, 1), ("u", "a", "d", "uad")):  # 4.3.1: reserved in non-leaf entries
        yield f"a pointer with {letters}", level, pte(TABLES, "v" + letters), False
    for level in (2, 1):
        yield "a table outside RAM", level, pte(OUTSIDE, "v"), True
        yield "a table far outside", level, pte((1 << 56) - PAGE, "v"), True
        for bit in range(9 * level):  # step 6
            yield f"misaligned by bit {bit}", level, pte(1 << 12 + bit, "vrwxad"), False
    yield "a page outside RAM", 0, pte(OUTSIDE, "vrwxad"), True
    yield "a page far outside", 0, pte((1 << 56) - PAGE, "vrwxad"), True


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_a_walk_fails(kind: str) -> None:
    """The cause is the original access's, the value its virtual address: steps 2, 3, 4 and 6; 3.1.16; 4.1.9."""
    bench = Bench()
    hart = bench.hart
    va = PLACES[0]
    for name, level, entry, outside in damages():
        at = bench.tables.entry(va, level)
        whole = hart.dword(at) | (pte(DATA, "vrwxad") if level == 0 else 0)
        hart.store(at, entry)
        cause = ACCESS_FAULT[kind] if outside else PAGE_FAULT[kind]
        trap = bench.attempt(kind, S, va)
        assert trap is not None and (trap[0], trap[2]) == (cause, va), f"{name} at level {level}"
        assert hart.dword(at) == entry
        hart.store(at, whole)
        assert hart.store(bench.entries[0], pte(DATA, "vrwxad")) and bench.attempt(kind, S, va) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_outside_ram_is_an_access_fault(kind: str) -> None:
    """Step 2: "an access-fault exception corresponding to the original access type"."""
    for root in (OUTSIDE, (1 << 56) - PAGE, RAM + (4 << 20)):
        bench = Bench()
        bench.hart.csr(satp=8 << 60 | root >> 12).set(a0=PLACES[0])
        bench.hart.load(PROGRAM[kind], STEP)
        bench.hart.csr(mstatus=FS | MPRV | S << 11)
        if kind == "fetch":
            bench.hart.set(priv=S)
        expected = STEP if kind == "fetch" else PLACES[0]
        assert bench.hart.set(pc=STEP).go() == Trap(ACCESS_FAULT[kind], STEP, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pmp_is_asked_for_every_entry_of_the_walk(kind: str) -> None:
    """3.7.2: a walk's accesses have S's rights; a refusal is an access fault of the original access."""
    bench = Bench()
    hart, va = bench.hart, PLACES[0]
    hart.store(bench.entries[0], pte(DATA, "vrwxuad"))
    everything = {"pmpaddr1": ONES, "pmpcfg0": 0x1F << 8}
    for level in (2, 1, 0):
        at = bench.tables.entry(va, level)
        for rights, mode in itertools.product((0, 1, 3, 4, 5, 7), (U, S)):
            hart.csr(pmpaddr0=at >> 2, **everything | {"pmpcfg0": 0x1F << 8 | 3 << 3 | rights})  # NAPOT: 8 bytes
            if mode == S and kind == "fetch":
                continue  # the page is the user's
            trap = bench.attempt(kind, mode, va, SUM)
            if rights & 1:
                assert trap is None, f"level {level}, rights {rights}"
            else:
                assert trap is not None and (trap[0], trap[2]) == (ACCESS_FAULT[kind], va)


@pytest.mark.parametrize("kind", KINDS)
def test_pmp_is_asked_to_set_a_and_d(kind: str) -> None:
    """Step 7: where PMP refuses the update it is an access fault of the original access; the entry is kept."""
    bench = Bench()
    hart, va = bench.hart, PLACES[0]
    hart.csr(menvcfg=ADUE)
    hart.csr(pmpaddr0=bench.entries[0] >> 2, pmpaddr1=ONES, pmpcfg0=0x1F << 8 | 3 << 3 | 1)
    for rights in ("vrwx", "vrwxa", "vrwxd", "vrwxad"):
        entry = pte(DATA, rights)
        hart.store(bench.entries[0], entry)
        complete = "a" in rights and ("d" in rights or kind not in WRITES)
        trap = bench.attempt(kind, S, va)
        assert (trap is None) == complete, rights
        if trap is not None:
            assert (trap[0], trap[2]) == (ACCESS_FAULT[kind], va)
        assert hart.dword(bench.entries[0]) == entry


# ---- instructions that straddle pages ------------------------------------------------------------------------------


HALVES = {  # what can be wrong with a page that half an instruction lies in: its entry, the cause
    "fine": (pte(DATA, "vrxad"), None),
    "not valid": (0, 12),
    "not executable": (pte(DATA, "vrwad"), 12),
    "the user's": (pte(DATA, "vrxuad"), 12),
    "reserved": (pte(DATA, "vrxad") | 1 << 54, 12),
    "outside RAM": (pte(OUTSIDE, "vrxad"), 1),
}


@pytest.mark.parametrize("second", HALVES)
@pytest.mark.parametrize("first", HALVES)
def test_an_instruction_that_straddles_two_pages(first: str, second: str) -> None:
    """3.1.16 and 4.1.9: xepc is the instruction's address, xtval that of the portion that caused the fault."""
    bench = Bench()
    hart, start = bench.hart, PLACES[0] + PAGE - 2
    parts = HALVES[first][0], HALVES[second][0]
    for n, entry in enumerate(parts):
        hart.store(bench.tables.entry(PLACES[0] + n * PAGE), entry)
    hart.cpu.write(DATA + PAGE - 2, assemble("addi a0, zero, 5").code[:2])
    hart.cpu.write(DATA, assemble("addi a0, zero, 5").code[2:])  # both pages show DATA
    bench.fence()
    trap = hart.set(pc=start, priv=S).go()
    if HALVES[first][1]:
        assert trap == Trap(HALVES[first][1] or 0, start, start)
    elif HALVES[second][1]:
        assert trap == Trap(HALVES[second][1] or 0, start, start + 2)
    else:
        assert trap is None and hart.x("a0") == 5
    hart.cpu.write(DATA + PAGE - 2, assemble("c.li a0, 6").code)
    bench.fence()
    trap = hart.set(pc=start, priv=S).go()
    assert trap == (Trap(HALVES[first][1] or 0, start, start) if HALVES[first][1] else None), "needs one page alone"


# ---- data that straddles pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [ADUE, 0], ids=["Svadu", "Svade"])
@pytest.mark.parametrize("kind", ["load", "fload", "store", "fstore"])
def test_data_that_straddles_two_pages(bench: Bench, kind: str, environment: int) -> None:
    """Each page has its own rights, A and D; the value is the page that fails; a store is done whole or not at all.

    A page that was good keeps what step 7 did to it, or doesn't: the text lets both halves be accesses of their own.
    """
    hart, start = bench.hart.csr(menvcfg=environment), PLACES[0] + PAGE - 4
    frames = DATA, DATA + 2 * PAGE
    kinds = [V | R | W | A | D, V | R | W | A, V | R | W, V | R | A | D, V | X | A | D, 0, V | R | W | A | D | USER]
    for low in itertools.product(kinds, repeat=2):
        before = [frame >> 12 << 10 | bits for frame, bits in zip(frames, low, strict=True)]
        after: list[int | None] = []
        for n, entry in enumerate(before):
            hart.store(bench.tables.entry(PLACES[0] + n * PAGE), entry)
            after.append(updated(entry, kind, environment) if leaf_allows(entry & 255, kind, S, 0) else None)
        hart.cpu.write(DATA + PAGE - 4, b"\x11" * 4)
        hart.cpu.write(DATA + 2 * PAGE, b"\x22" * 4)
        trap = bench.attempt(kind, S, start)
        found = [hart.dword(bench.tables.entry(PLACES[0] + n * PAGE)) for n in (0, 1)]
        memory = hart.cpu.read(DATA + PAGE - 4, 4) + hart.cpu.read(DATA + 2 * PAGE, 4)
        if None in after:
            assert trap is not None and (trap[0], trap[2]) == (
                PAGE_FAULT[kind],
                start if after[0] is None else start + 4,
            )
            assert memory == b"\x11" * 4 + b"\x22" * 4
            for entry, old, new in zip(found, before, after, strict=True):
                assert entry == old or (entry == new and new is not None)
        else:
            assert trap is None and found == after
            assert memory == (NEW.to_bytes(8, "little") if kind in WRITES else b"\x11" * 4 + b"\x22" * 4)
            if kind == "load":
                assert hart.x("a2") == 0x2222_2222_1111_1111


@pytest.mark.parametrize("kind", ["load", "fload", "store", "fstore"])
def test_pmp_and_data_that_straddles_two_pages(kind: str) -> None:
    """Where PMP refuses one of the pages, the value is the first byte that it refuses, and memory is as it was."""
    for refused, level in itertools.product(((0,), (1,), (0, 1)), (U, S)):
        bench = Bench()
        hart, start = bench.hart, PLACES[0] + PAGE - 4
        for n in (0, 1):
            rights = "vrwxad" + ("u" if level == U else "")
            hart.store(bench.tables.entry(PLACES[0] + n * PAGE), pte(DATA + 2 * n * PAGE, rights))
        cfg = [3 << 3 | (0 if n in refused else 7) for n in (0, 1)]
        hart.csr(pmpaddr0=DATA >> 2 | 0x1FF, pmpaddr1=DATA + 2 * PAGE >> 2 | 0x1FF, pmpaddr2=ONES)
        hart.csr(pmpcfg0=0x1F << 16 | cfg[1] << 8 | cfg[0])
        hart.cpu.write(DATA + PAGE - 4, bytes(4))
        hart.cpu.write(DATA + 2 * PAGE, bytes(4))
        trap = bench.attempt(kind, level, start)
        assert trap is not None and (trap[0], trap[2]) == (ACCESS_FAULT[kind], start if 0 in refused else start + 4)
        assert hart.cpu.read(DATA + PAGE - 4, 4) + hart.cpu.read(DATA + 2 * PAGE, 4) == bytes(8)
