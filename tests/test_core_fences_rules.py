"""sfence.vma in its four forms, crossed with pages, sizes, spaces and modes: what must be seen, and what may be.

4.2.1, "Supervisor Memory-Management Fence Instruction", of the privileged specification 1.12 says for each form which
changes of page tables later accesses must see. `must_see` states that; where it is silent, old and new are right, and
nothing else. Each case uses a page, so that it is cached, changes its entry, fences, and uses it again.

    must_see("same", "other", globally=False)   →   False: another space's pages may stay cached
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import ONES, RAM, STEP, Hart, M, PageTables, S, Trap, U, assemble, pte
from privileged_isa import CODE, PAGE, SUM

MEGA = 0x20_0000
SPACES = (7, 8)  # ASIDs
FRAMES = {1: RAM + 4 * MEGA, 2: RAM + 5 * MEGA}
OUTSIDE = 0x1000  # physical: no RAM
PLACES = {0: (0x1_0000_0000, -(1 << 38) & ONES), 1: (0x1_4000_0000, -(3 << 30) & ONES)}  # by level: low and high half
FORMS = [*itertools.product((None, "same", "other"), repeat=2)]  # rs1, the address, and rs2, the ASID; None: x0
KINDS = ("load", "store", "fetch")
CONTENT = {n: assemble(f"addi a1, zero, {n}; ret").code for n in FRAMES}  # what stands at the start of each frame
WRITTEN = 0x55
CODES = {  # one page of code, written once: a write to it would make the core forget what it has cached
    "sfence.vma zero, zero": STEP, "sfence.vma a0, zero": STEP + 4, "sfence.vma zero, a2": STEP + 8,
    "sfence.vma a0, a2": STEP + 12, "csrw satp, a2": STEP + 16, "csrw satp, zero": STEP + 20, "ld a1, 0(a0)": STEP + 24,
    "sd a3, 0(a0)": STEP + 28,
}  # fmt: skip


def must_see(address: str | None, asid: str | None, globally: bool) -> bool:
    """Without rs1 every address, without rs2 every space and the global mappings; else only what is named."""
    return address != "other" and (asid is None or (asid == "same" and not globally))


class World:
    """Two address spaces with a kernel of global pages, and the user's view of STEP's page."""

    def __init__(self) -> None:
        self.hart = Hart(ram=8 * MEGA)
        self.spaces = {asid: PageTables(self.hart, RAM + MEGA + asid * 0x1_0000) for asid in SPACES}
        for tables in self.spaces.values():
            tables.map(RAM, RAM, "vrwxgad", 1).map(CODE, STEP, "vxuad")
        for n, frame in FRAMES.items():
            self.hart.cpu.write(frame, CONTENT[n])
        self.hart.load("; ".join(CODES), STEP)
        self.switch(SPACES[0])

    def switch(self, asid: int) -> None:
        """Another address space, without a fence."""
        self.hart.set(a2=self.spaces[asid].satp | asid << 44)
        assert self.execute("csrw satp, a2") is None

    def execute(self, source: str, level: int = S) -> Trap | None:
        """One of CODES, from `level`; the trap that it took."""
        at = CODES[source]
        return self.hart.set(priv=level, pc=CODE + at - STEP if level == U else at).go()

    def fence(self, address: int | None = None, asid: int | None = None) -> None:
        self.hart.set(a0=address or 0, a2=asid or 0)
        source = f"sfence.vma {'zero' if address is None else 'a0'}, {'zero' if asid is None else 'a2'}"
        assert self.execute(source) is None

    def use(self, kind: str, va: int, level: int) -> int:
        """Access `va` from `level`: the number of the frame that answered, 0 for a page fault."""
        hart = self.hart.csr(mstatus=SUM).set(priv=level, a0=va, a1=0, a3=WRITTEN)
        if kind == "fetch":  # as many instructions as stand there: a core that keeps blocks may run the one it kept
            hart.set(pc=va, ra=RAM).cpu.run(2)
            trap = hart.trap()
            assert trap or hart.cpu.pc == RAM
        else:
            trap = self.execute("ld a1, 0(a0)" if kind == "load" else "sd a3, 0(a0)", level)
        if trap is not None:
            assert (trap.cause, trap.tval) == ({"load": 13, "store": 15, "fetch": 12}[kind], va)
            return 0
        if kind == "fetch":
            return hart.x("a1")
        if kind == "load":
            return next(n for n, content in CONTENT.items() if int.from_bytes(content, "little") == hart.x("a1"))
        (answered,) = (n for n, frame in FRAMES.items() if hart.dword(frame) == WRITTEN)
        hart.cpu.write(FRAMES[answered], CONTENT[answered])
        return answered


@pytest.fixture(scope="module")
def world() -> World:
    return World()


# ---- the forms ------------------------------------------------------------------------------------------------------

CHANGES = {"remapped": (FRAMES[2], "vrwxad", 2), "unmapped": (0, "", 0), "reserved": (FRAMES[2], "vwxad", 0)}


@pytest.mark.parametrize("globally", ["", "g"], ids=["local", "global"])
@pytest.mark.parametrize("user", ["", "u"], ids=["kernel's", "user's"])
@pytest.mark.parametrize(("address", "asid"), FORMS)
def test_every_form(world: World, address: str | None, asid: str | None, user: str, globally: str) -> None:
    """Both sizes in both halves, every kind of access, from each mode that may: the change is seen if it must be."""
    modes = {"": [S], "u": [U, S]}[user]
    for size, kind, level, change in itertools.product(PLACES, KINDS, modes, CHANGES):
        if kind == "fetch" and user and level == S:
            continue
        for va in PLACES[size]:
            tables = world.spaces[SPACES[0]].map(va, FRAMES[1], "vrwxad" + user + globally, size)
            world.fence()
            assert world.use(kind, va, level) == 1
            frame, rights, wanted = CHANGES[change]
            tables.map(va, frame, rights and rights + user + globally, size)
            elsewhere = va ^ 8 << 32 ^ 3 * PAGE
            world.fence(
                {None: None, "same": va + (5 * PAGE if size else 8), "other": elsewhere}[address or None],
                {None: None, "same": SPACES[0], "other": 99}[asid or None],
            )
            seen = world.use(kind, va, level)
            shown = f"{kind} from {level} at {va:#x}, {change}"
            assert seen == wanted if must_see(address, asid, bool(globally)) else seen in (1, wanted), shown
            tables.map(va, 0, "", size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_address", [False, True])
@pytest.mark.parametrize("level", [U, S])
def test_a_fence_for_a_space_that_is_not_current(world: World, level: int, with_address: bool, kind: str) -> None:
    """rs2 names any space: its pages are looked up anew when satp comes back to it."""
    for size, va in ((size, va) for size, both in PLACES.items() for va in both):
        rights = "vrwxad" + ("u" if level == U else "")
        tables = world.spaces[SPACES[0]].map(va, FRAMES[1], rights, size)
        world.switch(SPACES[0])
        world.fence()
        assert world.use(kind, va, level) == 1
        world.switch(SPACES[1])
        tables.map(va, FRAMES[2], rights, size)
        world.fence(va if with_address else None, SPACES[0])
        world.switch(SPACES[0])
        assert world.use(kind, va, level) == 2
        tables.map(va, 0, "", size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [U, S])
def test_spaces_with_two_asids_need_no_fence(level: int, kind: str) -> None:
    """4.1.11: each ASID has its own mappings, so satp may go to and fro; what only one space has, the other hasn't."""
    world = World()
    rights = "vrwxad" + ("u" if level == U else "")
    for size, va in ((size, va) for size, both in PLACES.items() for va in both):
        for n, asid in enumerate(SPACES, 1):
            world.spaces[asid].map(va, FRAMES[n], rights, size)
        world.spaces[SPACES[0]].map(va + 16 * MEGA, FRAMES[1], rights, size)
        world.fence()
        for _ in range(2):
            for n, asid in enumerate(SPACES, 1):
                world.switch(asid)
                assert world.use(kind, va, level) == n
                assert world.use(kind, va + 16 * MEGA, level) == (1 if asid == SPACES[0] else 0)


@pytest.mark.parametrize("asid", [SPACES[0] | 1 << 16, SPACES[0] | 0xFFFF_FFFF_FFFF << 16])
def test_the_upper_bits_of_rs2_are_ignored(world: World, asid: int) -> None:
    """4.2.1: bits above ASIDMAX are reserved, and are to be ignored by implementations of today."""
    va = PLACES[0][0]
    tables = world.spaces[SPACES[0]].map(va, FRAMES[1], "vrwxad")
    world.fence()
    assert world.use("load", va, S) == 1
    tables.map(va, FRAMES[2])
    world.fence(None, asid)
    assert world.use("load", va, S) == 2


def test_a_register_that_holds_zero_is_not_x0() -> None:
    """rs1 and rs2 count by their number: a0 = 0 names address 0, a2 = 0 names space 0."""
    for asid in (None, 0):
        world = World()
        tables = world.spaces[SPACES[0]].map(0, FRAMES[1])
        world.hart.csr(satp=tables.satp)  # space 0
        world.fence()
        assert world.use("load", 0, S) == 1
        tables.map(0, FRAMES[2])
        world.fence(0, asid)
        assert world.use("load", 0, S) == 2


@pytest.mark.parametrize("address", [1 << 38, 1 << 62, (1 << 63) - 1, PLACES[0][0] | 1 << 50])
def test_an_address_that_cannot_be_one(world: World, address: int) -> None:
    """4.2.1: a fence for an invalid virtual address has no effect, and raises nothing."""
    for asid in (None, SPACES[0]):
        world.fence(address, asid)


# ---- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asid", [None, SPACES[0]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pointer_that_leads_elsewhere(kind: str, asid: int | None) -> None:
    """Without rs1 the fence is for all levels of the tables: a whole table is exchanged, or the root."""
    for level in (1, 2):
        world = World()
        va = PLACES[0][0]
        tables = world.spaces[SPACES[0]].map(va, FRAMES[1])
        assert world.use(kind, va, S) == 1
        other = PageTables(world.hart, RAM + MEGA + 0x9_0000).map(va, FRAMES[2])
        world.hart.store(tables.entry(va, level), world.hart.dword(other.entry(va, level)))
        world.fence(None, asid)
        assert world.use(kind, va, S) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_superpage_that_becomes_pages_and_back(kind: str) -> None:
    """The sizes of what is cached and of what the tables now say differ: nothing of the old remains after the fence."""
    world = World()
    va = PLACES[1][0]
    tables = world.spaces[SPACES[0]].map(va, FRAMES[1], "vrwxad", 1)
    for _ in range(2):
        assert world.use(kind, va, S) == 1
        world.hart.store(tables.entry(va, 1), 0)
        tables.map(va, FRAMES[2])  # makes a table for it
        world.fence()
        assert world.use(kind, va, S) == 2
        assert world.use(kind, va + PAGE, S) == 0
        tables.map(va, FRAMES[1], "vrwxad", 1)
        world.fence()


# ---- satp -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_root_under_the_same_asid(kind: str) -> None:
    """Seen after a fence of that space: 4.2.1, the first of the common cases in which software needs one."""
    world = World()
    va = PLACES[0][0]
    world.spaces[7].map(va, FRAMES[1])
    world.spaces[8].map(va, FRAMES[2])
    assert world.use(kind, va, S) == 1
    world.hart.set(a2=world.spaces[8].satp | 7 << 44)
    assert world.execute("csrw satp, a2") is None
    world.fence(None, 7)
    assert world.use(kind, va, S) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [U, S])
def test_bare_and_sv39_change_at_once(level: int, kind: str) -> None:
    """4.1.11: "Changing satp.MODE from Bare to other modes and vice versa also takes effect immediately"."""
    world = World()
    hart, frame = world.hart, FRAMES[2]
    rights = "vrwxad" + ("u" if level == U else "")
    world.spaces[SPACES[0]].map(frame, FRAMES[1], rights)  # at the address of frame 2: frame 1
    world.fence()
    for _ in range(3):
        assert world.use(kind, frame, level) == 1
        assert world.execute("csrw satp, zero") is None
        if kind == "fetch":
            hart.set(priv=level, pc=frame, ra=RAM).cpu.run(2)
            assert (hart.cpu.pc, hart.x("a1")) == (RAM, 2)
        else:
            hart.set(priv=level, a0=frame, a3=WRITTEN, pc=CODES["ld a1, 0(a0)" if kind == "load" else "sd a3, 0(a0)"])
            assert hart.go() is None
            assert hart.dword(frame) == (WRITTEN if kind == "store" else int.from_bytes(CONTENT[2], "little"))
            hart.cpu.write(frame, CONTENT[2])
        world.switch(SPACES[0])


def test_m_is_never_translated() -> None:
    """4.1.11: satp is for S and U; M's accesses are physical in every mode of it, cached pages or not."""
    world = World()
    world.spaces[SPACES[0]].map(FRAMES[2], FRAMES[1])
    for kind, level in itertools.product(KINDS, (S, M, S, M)):
        assert world.use(kind, FRAMES[2], level) == (1 if level == S else 2)


def test_an_entry_that_is_not_there_may_be_cached_or_not() -> None:
    """4.3.2: a page that was not valid may need a fence; after one it is there, for every kind and mode."""
    for kind, level in itertools.product(KINDS, (U, S)):
        world = World()
        va = PLACES[0][1]
        rights = "vrwxad" + ("u" if level == U else "")
        tables = world.spaces[SPACES[0]].map(va, OUTSIDE, "")
        assert world.use(kind, va, level) == 0
        world.hart.store(tables.entry(va), pte(FRAMES[2], rights))
        world.fence(va, SPACES[0])
        assert world.use(kind, va, level) == 2
