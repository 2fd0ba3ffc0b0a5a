"""Physical memory protection against its text: modes, locks and rights crossed with every access around a border.

`Entry.range` and `permitted` state 3.7.1, "Physical Memory Protection CSRs" (privileged specification 1.12), for
naturally aligned accesses; they share nothing with the core. Single sentences and misaligned accesses are in
`test_core_pmp.py`.

    permitted(ranges([Entry(NA4, R, DATA >> 2)]), DATA, 8, R, level=M)   →   False: the entry matches half of it
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from machine_code import HANDLER, ONES, RAM, STEP, Hart, M, S, Trap, U, assemble
from privileged_isa import DATA, MPRV

R, W, X, L = 1, 2, 4, 1 << 7
OFF, TOR, NA4, NAPOT = (mode << 3 for mode in range(4))
RIGHTS = [0, R, R | W, X, R | X, R | W | X]  # W without R is reserved
EVERYWHERE = (1 << 54) - 1


@dataclass(frozen=True)
class Entry:
    """One PMP entry: its mode, L and rights, and pmpaddr."""

    mode: int
    rights: int
    address: int
    locked: int = 0

    @property
    def cfg(self) -> int:
        return self.mode | self.rights | self.locked

    def range(self, below: int) -> range:
        """The bytes that it matches; `below` is the preceding pmpaddr, or 0. "Address Matching", table 3.10."""
        if self.mode == OFF:
            return range(0)
        if self.mode == TOR:
            return range(below << 2, self.address << 2)  # empty if the bottom is not below the top
        if self.mode == NA4:
            return range(self.address << 2, (self.address << 2) + 4)
        size = 8
        base = self.address
        while base & 1:  # yyyy…y01…1: one more 1, twice the range
            base >>= 1
            size *= 2
        return range(base // 2 * size, base // 2 * size + size)


def ranges(entries: list[Entry]) -> list[tuple[Entry, range]]:
    """The entries that match anything, with what they match, lowest first."""
    below = [0, *(entry.address for entry in entries)]
    return [(entry, inside) for entry, bottom in zip(entries, below, strict=False) if (inside := entry.range(bottom))]


def permitted(entries: list[tuple[Entry, range]], at: int, size: int, right: int, level: int) -> bool:
    """ "Priority and Matching Logic" and "Locking and Privilege Mode" for one access of `size` bytes."""
    for entry, inside in entries:
        if at + size <= inside.start or inside.stop <= at:
            continue
        if at < inside.start or inside.stop < at + size:  # not all bytes: it fails, irrespective of L, R, W and X
            return False
        return (level == M and not entry.locked) or bool(entry.rights & right)
    return level == M


# ---- the bench ------------------------------------------------------------------------------------------------------

ACCESSES = {  # the instruction, its size, the right it needs, its cause
    "lb a2, 0(a0)": (1, R, 5), "lh a2, 0(a0)": (2, R, 5), "lw a2, 0(a0)": (4, R, 5), "ld a2, 0(a0)": (8, R, 5),
    "sb a1, 0(a0)": (1, W, 7), "sh a1, 0(a0)": (2, W, 7), "sw a1, 0(a0)": (4, W, 7), "sd a1, 0(a0)": (8, W, 7),
    "lr.w a2, (a0)": (4, R, 5), "lr.d a2, (a0)": (8, R, 5), "amoadd.w a2, a1, (a0)": (4, W, 7),
    "amoxor.d a2, a1, (a0)": (8, W, 7),
}  # fmt: skip
FIRST = DATA + 0x100
AROUND = range(FIRST - 8, FIRST + 40)
SECOND = [  # entry 1, beside every entry 0
    Entry(OFF, 0, 0),
    Entry(TOR, R | W, FIRST + 24 >> 2),
    Entry(TOR, R | X, FIRST >> 2, L),  # empty under most entries 0
    Entry(NAPOT, R, FIRST >> 2 | 3, L),  # 32 bytes
    Entry(NAPOT, R | W | X, FIRST >> 2 | 0x1FF),
]
FIRSTS = {
    "off": (OFF, FIRST >> 2),
    "tor": (TOR, FIRST + 12 >> 2),
    "na4": (NA4, FIRST + 4 >> 2),
    "napot 8": (NAPOT, FIRST + 8 >> 2),
    "napot 16": (NAPOT, FIRST >> 2 | 1),
    "napot of all ones": (NAPOT, EVERYWHERE),
    "tor of nothing": (TOR, 0),
}


class Bench:
    """A hart whose last entry lets code run everywhere, and the accesses in a row at STEP."""

    def __init__(self, *entries: Entry) -> None:
        self.hart = Hart()
        self.entries = [*entries, *[Entry(OFF, 0, 0)] * (15 - len(entries)), Entry(NAPOT, X, EVERYWHERE)]
        self.hart.csr(pmpcfg0=0, pmpcfg2=0)
        self.hart.csr(**{f"pmpaddr{n}": entry.address for n, entry in enumerate(self.entries)})
        for register, first in (("pmpcfg2", 8), ("pmpcfg0", 0)):
            values = [entry.cfg << 8 * n for n, entry in enumerate(self.entries[first : first + 8])]
            self.hart.csr(**{register: sum(values)})
        self.hart.cpu.write(STEP, assemble("; ".join(ACCESSES)).code)
        self.hart.cpu.write(AROUND.start, assemble("c.nop 0;" * (len(AROUND) // 2)).code)
        self.ranges = ranges(self.entries)
        self.pattern = self.hart.cpu.read(AROUND.start, len(AROUND))

    def run(self, pc: int, at: int, level: int, as_supervisor: bool) -> Trap | None:
        """One instruction at `pc` with a0 = `at`, in `level`, or in M with MPRV as S."""
        hart, cpu = self.hart, self.hart.cpu
        hart.csr(mstatus=MPRV | S << 11 if as_supervisor else 0).set(pc=pc, priv=level, a0=at)
        cpu.run(1)
        if cpu.pc != HANDLER:
            assert cpu.pc in (pc + 4, pc + 2)
            return None
        return Trap(hart.read("mcause"), hart.read("mepc"), hart.read("mtval"))

    def expected(self, pc: int, at: int, access: tuple[int, int, int], level: int, data_level: int) -> Trap | None:
        size, right, cause = access
        if not permitted(self.ranges, pc, 4, X, level):
            return Trap(1, pc, pc)
        return None if permitted(self.ranges, at, size, right, data_level) else Trap(cause, pc, at)


@pytest.mark.parametrize("locked", [0, L], ids=["", "locked"])
@pytest.mark.parametrize("name", FIRSTS)
@pytest.mark.parametrize("second", SECOND, ids=lambda entry: f"{entry.cfg:#x}")
def test_every_entry_access_and_mode(name: str, second: Entry, locked: int) -> None:
    """All rights of entry 0, entry 1 behind it, every aligned access at every address around their borders."""
    mode, address = FIRSTS[name]
    for rights in RIGHTS:
        bench = Bench(Entry(mode, rights, address, locked), second)
        for level, as_supervisor in ((U, False), (S, False), (M, False), (M, True)):
            for n, access in enumerate(ACCESSES.values()):
                for at in range(AROUND.start, AROUND.stop - 7, access[0]):
                    pc = STEP + 4 * n
                    wanted = bench.expected(pc, at, access, level, S if as_supervisor else level)
                    assert bench.run(pc, at, level, as_supervisor) == wanted, f"{rights} from {level} at {at:#x}"
                    if access[1] == W:
                        if wanted:
                            assert bench.hart.cpu.read(AROUND.start, len(AROUND)) == bench.pattern
                        else:
                            bench.hart.cpu.write(AROUND.start, bench.pattern)


@pytest.mark.parametrize("locked", [0, L], ids=["", "locked"])
@pytest.mark.parametrize("name", FIRSTS)
@pytest.mark.parametrize("second", SECOND, ids=lambda entry: f"{entry.cfg:#x}")
def test_every_fetch(name: str, second: Entry, locked: int) -> None:
    """Parcel by parcel, as this core fetches (which "Priority and Matching Logic" leaves open)."""
    mode, address = FIRSTS[name]
    for rights, (size, source) in itertools.product(RIGHTS, ((2, "c.nop 0"), (4, "nop"))):
        bench = Bench(Entry(mode, rights, address, locked), second)
        code = assemble(f"{source};" * (len(AROUND) // size)).code
        for shift in range(0, size, 2):
            bench.hart.cpu.write(AROUND.start + shift, code[: len(AROUND) - shift])
            for level, pc in itertools.product((U, S, M), range(AROUND.start + shift, AROUND.stop - 7, size)):
                refused = [at for at in range(pc, pc + size, 2) if not permitted(bench.ranges, at, 2, X, level)]
                assert bench.run(pc, 0, level, False) == (Trap(1, pc, refused[0]) if refused else None)


# ---- each of the sixteen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(15))
def test_each_entry_counts(number: int) -> None:
    """Entry `number` alone matches, in every mode of matching, and comes before those behind it."""
    for entry in (Entry(NAPOT, R, FIRST >> 2), Entry(NA4, R, FIRST >> 2), Entry(TOR, R, FIRST + 8 >> 2)):
        bench = Bench(*[Entry(OFF, 0, FIRST - 8 >> 2)] * number, entry)
        for at in (FIRST - 16, FIRST, FIRST + 16):
            load = ACCESSES["lw a2, 0(a0)"]
            assert bench.run(STEP + 8, at, S, False) == bench.expected(STEP + 8, at, load, S, S)
    if number:
        bench = Bench(*[Entry(OFF, 0, 0)] * (number - 1), Entry(NAPOT, R, FIRST >> 2), Entry(NAPOT, 0, FIRST >> 2))
        assert bench.run(STEP + 8, FIRST, S, False) is None


@pytest.mark.parametrize("bit", range(54))
def test_every_size_of_napot(bit: int) -> None:
    """Table "NAPOT range encoding": from 8 bytes up, each 1 at the end doubles the range."""
    address = FIRST >> 2 & ~((2 << bit) - 1) | (1 << bit) - 1
    inside = Entry(NAPOT, R, address).range(0)
    assert len(inside) == 8 << bit
    bench = Bench(Entry(NAPOT, R | X, address))
    assert bench.hart.read("pmpaddr0") == address
    for at in (inside.start - 8, inside.start, inside.start + 8, FIRST, inside.stop - 8, inside.stop):
        if RAM <= at < RAM + (4 << 20):
            wanted = bench.expected(STEP + 12, at, ACCESSES["ld a2, 0(a0)"], S, S)
            assert (wanted is None) == (at in inside)
            assert bench.run(STEP + 12, at, S, False) == wanted


# ---- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 7, 8, 15])
def test_what_a_lock_keeps(number: int) -> None:
    """ "Locking and Privilege Mode": both registers, of an entry that is off too, TOR's lower bound; until reset."""
    register, shift = f"pmpcfg{number // 8 * 2}", 8 * (number % 8)
    for mode, rights, locked in itertools.product((OFF, TOR, NA4, NAPOT), RIGHTS, (0, L)):
        hart = Hart().csr(pmpcfg0=0, pmpaddr0=0)
        own, below = f"pmpaddr{number}", f"pmpaddr{number - 1}"
        hart.csr(**{own: FIRST >> 2, register: (mode | rights | locked) << shift})
        hart.csr(**{register: (NAPOT | X) << shift, own: 77})
        kept = ((mode | rights | locked), FIRST >> 2)
        assert (hart.read(register) >> shift & 0xFF, hart.read(own)) == (kept if locked else (NAPOT | X, 77))
        if number:
            hart.csr(**{below: 99})
            assert hart.read(below) == (0 if locked and mode == TOR else 99)
        hart.cpu.reset()
        assert (hart.read(register), hart.read(own)) == (0, 0)


def test_a_lock_leaves_its_neighbours_free() -> None:
    """One write of pmpcfg0 changes the free entries of the eight and leaves the locked ones."""
    hart = Hart().csr(pmpcfg0=sum((R | (L if n % 2 else 0)) << 8 * n for n in range(8)))
    hart.csr(pmpcfg0=sum((NAPOT | X) << 8 * n for n in range(8)))
    assert hart.read("pmpcfg0") == sum((R | L if n % 2 else NAPOT | X) << 8 * n for n in range(8))


@pytest.mark.parametrize("cfg", range(256))
def test_every_value_of_an_entry(cfg: int) -> None:
    """Bits 5 and 6 are zero; W without R is reserved and becomes something that is not; all else is kept."""
    for number in (3, 11):
        hart = Hart().csr(pmpcfg0=0)
        hart.csr(**{f"pmpcfg{number // 8 * 2}": cfg << 24})
        found = hart.read(f"pmpcfg{number // 8 * 2}") >> 24
        assert found & 0x60 == 0 and found & (R | W) != W and found >> 8 == 0
        if cfg & (R | W) != W:
            assert found == cfg & ~0x60


def test_pmp_of_nothing_denies_s_and_u_everything() -> None:
    """All sixteen off: M has access, the others fail, since entries are implemented."""
    for level in (U, S, M):
        hart = Hart().csr(pmpcfg0=0).set(priv=level, a0=FIRST)
        assert hart.step("ld a1, 0(a0)") == (None if level == M else Trap(1, STEP, STEP))
    assert Hart().csr(pmpcfg0=0, pmpaddr0=ONES).read("pmpaddr0") == EVERYWHERE, "granularity is four bytes"
