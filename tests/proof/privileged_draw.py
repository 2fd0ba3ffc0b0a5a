"""What the privileged target's programs are made of: random slots, episodes, page tables, all from one seed.

`draw(seed)` gives a `Program`; `Program.image()` lays it out for the monitor (monitor.py, whose invariants are kept
here). What QEMU 7 is known to do otherwise is left out where it is drawn, with the specification's rule in `EXCLUDED`:
nothing is lost by it, since the directed tests of the core (tests/test_core_*.py) state those rules themselves.

    >>> program = draw(1, episodes=3)
    >>> program.episodes[0].steps[0].mode in (0, 1, 3)
    True
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.machine_code import CSR, ONES, RAM, Hart, M, PageTables, S, U, pte
from tests.proof.monitor import (
    CODE,
    CODE_PAGES,
    DATA,
    DATA_PAGES,
    ENTRIES,
    EXITS,
    FAR,
    HANDLERS,
    MPIE,
    OTHER_SATP,
    PATCHED,
    POKE_ADDRESS,
    POKE_ASID,
    POKE_AT,
    POKE_WITH,
    PROTECTED,
    SLOTS,
    SLOTS_SIZE,
    TABLES,
    USER,
    USER_OFFSET,
    UXL_SXL,
    Episode,
    Image,
    Poke,
    Slot,
    Step,
    handlers,
)
from vpod import disasm, isa
from vpod.isa import Row

EXCLUDED = {
    "mstatus.MPP = 2, UXL and SXL but 2, VS without V": "WARL fields (Machine Status Registers): vpod refuses them",
    "bit 0 of mepc and sepc": "always zero (Machine Exception Program Counter); QEMU 7 keeps it until it is used",
    "mode 2 and 3 of mtvec and stvec": "reserved (Trap-Vector Base-Address): QEMU ignores the write, vpod the field",
    "Sv48 and Sv57 in satp": "vpod has Sv39; a write of an unsupported mode has no effect",
    "menvcfg": "QEMU 7 sets A and D itself and has no ADUE, so ADUE is always set here; its readable bits differ",
    "PMP's reserved combination W without R, bits 5 and 6, addresses over 54 bits": "WARL; QEMU 7 keeps them",
    "no PMP entry on at all": "S and U then have no access (Physical Memory Protection); QEMU 7 lets them",
    "PMP that lets tables be read and not written": "setting A is an implicit store; QEMU 7 does not ask PMP for it",
    "a PMP region that begins or ends within a page and goes on beyond it": "QEMU 7 then caches the whole page",
    "misaligned accesses where PMP splits memory": "QEMU 7 does not see a region within the access",
    "misaligned accesses across pages of which one leads nowhere": "which half faults first is not said",
    "several interrupts whose order is not that of their numbers": "MEI, MSI, MTI, SEI, SSI, STI (Machine Interrupt "
    "Registers); QEMU 7 takes the lowest number",
    "returning below M with MPRV": "MRET and SRET clear MPRV (1.12); QEMU 7 leaves it",
    "SC without an LR of the same address and width before it": "QEMU 7 accesses nothing then; vpod checks rights",
    "stimecmp in the past while STCE is off": "STIP is then mip's own bit; QEMU 7 sets it from the timer",
    "floating-point instructions that write an x register": "flags that are raised make FS Dirty (Extension Context "
    "Status in mstatus Register); QEMU 7 leaves it",
    "counters' values": "QEMU counts the host's time; whether they may be read is compared",
    "page tables outside RAM": "an access fault (Virtual Address Translation Process, step 2); QEMU 7: a page fault",
    "csrrs and csrrc with a register that holds zero": "they write, as far as the whole register is concerned (CSR "
    "Instructions): FS becomes Dirty, and read-only CSRs trap; QEMU 7 does not write",
    "S-mode loads from pages that it fetches from": "S never executes U pages (Addressing and Memory Protection); "
    "QEMU 7 does after a load with SUM",
    "an instruction that begins in RAM and goes on where there is none": "QEMU 7 aborts (translator_access)",
    "CSR 0x24d": "vstimecmp belongs to the hypervisor extension, which is off; QEMU 7 has it nevertheless",
}

# ---- address spaces -------------------------------------------------------------------------------------------------

WORLDS = 3
EMPTY = TABLES + WORLDS * 0x2_0000  # a page of zeros: an address space in which nothing is mapped
SPAN = 32  # pages of each region: half of them show DATA, half CODE
LOW, HIGH, SHARED = (1 << 38) - (SPAN << 12), ONES << 38 & ONES, 0x18_0000_0000  # both edges of the hole; global pages
BIG, HUGE = 0x30_0000_0000, 0x31_0000_0000  # superpages of 2 MiB and of 1 GiB
BIGS, HUGES = 8, 4
BORDER = (SPAN // 2 - 1, SPAN // 2)  # where DATA meets CODE
NOWHERE = (0x1800_0000, 1 << 40, 1 << 55)  # physical: no RAM, no device


def shows_data(region: int, page: int) -> bool:
    """Whether a page of a region is for stores: the half beside the hole in the middle of the address space."""
    return page >= SPAN // 2 if region == LOW else page < SPAN // 2


@dataclass(frozen=True)
class World:
    """An address space: its satp, where its leaf entries are and what they hold at the start."""

    satp: int
    entries: dict[int, tuple[int, int]]  # virtual address: (the entry's address, its value)
    pointers: tuple[tuple[int, int], ...]  # entries that lead to tables: (address, value)


@functools.cache
def address_spaces() -> tuple[tuple[World, ...], bytes]:
    """The worlds of every program, and the tables' bytes. All show code alike, and share the table of SHARED."""
    source = random.Random("worlds")
    hart = Hart(ram=4 << 20)
    worlds = []
    shared = 0
    for n in range(WORLDS):
        tables = PageTables(hart, TABLES + n * 0x2_0000)
        for page in (HANDLERS, *range(SLOTS, SLOTS + SLOTS_SIZE, 0x1000)):
            tables.map(page, page, "vrxgad").map(page + USER, page, "vxuad")
        for region in (LOW, HIGH) if n else (LOW, HIGH, SHARED):
            for page in range(SPAN):
                home = DATA if shows_data(region, page) else CODE
                hart.store(tables.entry(region + (page << 12)), leaf(source, home, region == SHARED))
        shared = shared or tables.entry(SHARED) & ~0xFFF
        hart.store(tables.entry(SHARED, 1), pte(shared, "v"))
        for k in range(BIGS):
            hart.store(tables.entry(BIG + (k << 21), 1), superpage(source, 1))
        for k in range(HUGES):
            hart.store(tables.entry(HUGE + (k << 30), 2), superpage(source, 2))
        entries = {}
        for region in (LOW, HIGH, SHARED):
            for va in range(region, region + (SPAN << 12), 0x1000):
                entries[va & ONES] = tables.entry(va), tables.get(va)
        for va, level in [(BIG + (k << 21), 1) for k in range(BIGS)] + [(HUGE + (k << 30), 2) for k in range(HUGES)]:
            entries[va] = tables.entry(va, level), tables.get(va, level)
        pointers = [(tables.entry(va, level), tables.get(va, level)) for va in (LOW, HIGH) for level in (1, 2)]
        asid = (0, 1, 0xFFFF)[n]
        worlds.append(World(tables.satp | asid << 44, entries, tuple(pointers)))
    return tuple(worlds), bytes(hart.cpu.read(TABLES, WORLDS * 0x2_0000))


def leaf(source: random.Random, home: int, shared: bool, nowhere: bool = False) -> int:
    """A random entry for a 4 KiB page of DATA or CODE: most are valid, some are not, or, if they may, lead nowhere."""
    pages = DATA_PAGES if home == DATA else CODE_PAGES
    where = home + (source.randrange(pages) << 12)
    if nowhere and home == DATA and source.random() < 0.05:
        where = source.choice(NOWHERE)
    return pte(where, "") | rights(source) | (0x20 if shared and source.random() < 0.8 else 0)


def superpage(source: random.Random, level: int) -> int:
    """A random entry for a superpage that shows RAM from its start; now and then it is misaligned."""
    where = RAM + (source.choice((1, 3, 256)) << 12 if source.random() < 0.15 else 0)
    if level == 2 and source.random() < 0.1:
        where = RAM + 0x20_0000
    return pte(where, "") | rights(source)


def rights(source: random.Random) -> int:
    """The low bits and, rarely, the reserved high bits of an entry."""
    bits = source.choice((0x0F, 0x0B, 0x07, 0x03, 0x09, 0x0F, 0x07, 0x0D, 0x05, 0x01, 0x0E))
    bits |= source.getrandbits(1) << 4 | source.getrandbits(2) << 8
    bits |= source.choice((0xC0, 0xC0, 0xC0, 0x40, 0x00, 0x80))
    if source.random() < 0.04:
        bits &= ~1
    if source.random() < 0.04:
        bits |= 1 << source.randrange(54, 64)
    return bits


# ---- values of registers and CSRs -----------------------------------------------------------------------------------

INTEGERS = (0, 1, ONES, 1 << 63, (1 << 63) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, ONES << 31 & ONES)


def integer(source: random.Random) -> int:
    return source.choice(INTEGERS) if source.random() < 0.4 else source.getrandbits(source.choice((8, 32, 64)))


STATUS_BITS = tuple(1 << bit for bit in (1, 5, 7, 8, 13, 14, 18, 19, 20, 21, 22))
M_STATUS, S_STATUS = 0x7C61AA, 0x0C6122  # of mstatus without MPP and MPRV; of sstatus
ONE_INTERRUPT = (0, 2, 0x20, 0x200, 8, 0x80)

# what a slot may write to a CSR: the value's bits
WRITABLE = {
    "fflags": 31, "frm": 7, "fcsr": 255, "sstatus": S_STATUS, "scounteren": 7, "senvcfg": 1, "sscratch": ONES,
    "sepc": ONES - 1, "scause": ONES, "stval": ONES, "sip": 0x222, "mstatus": M_STATUS, "mcounteren": 7,
    "mcountinhibit": 5, "mscratch": ONES, "mepc": ONES - 1, "mcause": ONES, "mtval": ONES, "mip": 0x222,
    "mcycle": ONES, "minstret": ONES,
}  # fmt: skip
SWAPPED = {"medeleg": 0xB3FF, "mideleg": 0x222, "mtvec": ONES - 2, "stvec": ONES - 2}  # written, read, put back
COUNTERS = {name for name in CSR if name in ("cycle", "time", "instret", "mcycle", "minstret")}
UNKNOWN = (
    0x000, 0x004, 0x008, 0x110, 0x145, 0x150, 0x200, 0x280, 0x310, 0x321, 0x345, 0x34A, 0x3A1, 0x3A3, 0x5A8, 0x680,
    0x747, 0x7A0, 0x7B0, 0x7C0, 0x800, 0x9C0, 0xC80, 0xCC0, 0xDA0, 0xDB0, 0xF10, 0xF16, 0xFC0,
)  # fmt: skip
UNREADABLE = {"menvcfg"}  # see EXCLUDED


@functools.cache
def implemented() -> tuple[str, ...]:
    """The names of the CSRs that vpod has."""
    cpu = Hart().cpu
    names = []
    for number, name in disasm.CSR_NAMES.items():
        try:
            cpu.csr(number)
        except ValueError:
            continue
        names.append(name)
    return tuple(names)


# ---- single instructions, as lines ----------------------------------------------------------------------------------

FREE = tuple(n for n in range(1, 32) if n not in PROTECTED)
STORE_POINTERS, JUMP_POINTERS = (8, 9, 2), (10, 11)
ALIGNED_ENTRIES = tuple(offset for offset in ENTRIES if offset % 8 == 0)
_NOT_COMPUTING = {"system", "csr", "fence", "load", "store", "atomic", "branch", "jump"}
COMPUTING = tuple(
    row
    for row in isa.ROWS
    if not _NOT_COMPUTING & isa.expand(row)[0].flags
    and not {"fp", "writes_x"} <= row.flags  # see EXCLUDED
    and row.name != "c.addi16sp"
)
WIDE_COMPUTING = tuple(row for row in COMPUTING if row.length == 4)
LOADS_STORES = tuple(
    row for row in isa.ROWS if {"load", "store"} & row.flags and "atomic" not in isa.expand(row)[0].flags
)
WIDE_LOADS_STORES = tuple(row for row in LOADS_STORES if row.length == 4)
AMOS = tuple(row.name for row in isa.ROWS if row.format == "amo")
X, F = disasm.X_NAMES, disasm.F_NAMES


def word(row: Row, **fields: int | str) -> str:
    """The line of one encoded instruction."""
    return f".{'half' if row.length == 2 else 'word'} {disasm.encode(row.name, **fields):#x}"


def computing(source: random.Random, wide: bool) -> str:
    """Any instruction that only computes, and spares the protected registers."""
    rows = WIDE_COMPUTING if wide else COMPUTING
    while True:
        row = source.choice(rows)
        bits = source.getrandbits(8 * row.length) & ~row.mask | row.match
        base, sources = isa.expand(row)
        if not row.matches(bits):
            continue
        if "writes_x" in base.flags:
            target = sources["rd"]
            number = target if isinstance(target, int) else row.take(target, bits)
            if number in PROTECTED and number:
                continue
        return f".{'half' if row.length == 2 else 'word'} {bits:#x}"


def load_or_store(source: random.Random, mode: int, wide: bool) -> str:
    """Any width and kind, through a pointer; stores only through those that don't lead to code."""
    pointers = STORE_POINTERS[:2] + JUMP_POINTERS[: mode == U]  # see EXCLUDED
    while True:
        row = source.choice(WIDE_LOADS_STORES if wide else LOADS_STORES)
        base, _ = isa.expand(row)
        store = "store" in base.flags
        fields: dict[str, int | str] = {}
        if "rs1" in row.fields:
            fields["rs1"] = source.choice(STORE_POINTERS[:2] if store else pointers)
        for name in ("rd", "rs2"):
            if name in row.fields:
                small = row.fields[name][0].width == 3
                fields[name] = source.randrange(12, 16) if small else source.choice(FREE)
        fields["imm"] = 8 * source.randrange(4) if row.length == 2 else 8 * source.randrange(-3, 4)
        return word(row, **fields)


def atomic_pair(source: random.Random) -> str:
    """LR and SC of the same address. The A extension lets anything between them make SC fail, so nothing is."""
    width, pointer, first, second = source.choice("wd"), X[source.choice((8, 9))], *source.sample(FREE, 2)
    order = source.choice(("", ".aq", ".rl", ".aqrl"))
    value = X[source.choice(FREE)]
    return f"lr.{width}{order} {X[first]}, ({pointer})\nsc.{width}{order} {X[second]}, {value}, ({pointer})"


def jump(source: random.Random) -> str:
    """A call of a page of CODE, which returns or traps. `ra` is always set, for the code that returns."""
    return f"jalr ra, 0({X[source.choice(JUMP_POINTERS)]})"


def illegal(source: random.Random) -> str:
    """A reserved encoding. All of them are the target `encodings`' business."""
    words = (".half 0", ".word 0xffffffff", ".word 0x0000707b", ".word 0x80000057", ".half 0x8002", ".half 0x6101",
             ".word 0x4000705b", ".word 0x0e000053")  # fmt: skip
    return source.choice(words)


EDIT = f"sd {X[POKE_WITH]}, 0({X[POKE_AT]})"
FENCES = ("sfence.vma zero, zero", "sfence.vma s6, zero", "sfence.vma zero, s7", "sfence.vma s6, s7")  # x22, x23
SYSTEM = ("ecall", "ebreak", "c.ebreak", "mret", "fence", "fence.i", *FENCES)


def csr_access(source: random.Random, mode: int) -> tuple[str, str]:
    """Lines that read or write a CSR in a mode, and the CSR's name; most of them may be touched there."""
    names = [name for name in implemented() if name not in UNREADABLE or mode < M]
    if source.random() < 0.75:
        often = source.random() < 0.75  # most registers are counters
        names = [name for name in names if CSR[name] >> 8 & 3 <= mode and ("hpm" not in name or not often)]
    name = source.choice(names)
    if source.random() < 0.05:
        return f"csrrs {X[source.choice(FREE)]}, {source.choice(UNKNOWN)}, zero", ""
    reads = f"csrrs {'zero' if name in COUNTERS else X[source.choice(FREE)]}, {name}, zero"
    if CSR[name] >> 8 & 3 > mode or CSR[name] >> 10 == 3:  # illegal, whatever is written, or only if it is
        return (reads if source.random() < 0.6 else f"csrrw t0, {name}, t1"), name
    if source.random() < 0.4:
        return reads, name
    write = csr_write(source, name, mode)
    return (reads if write is None else f"{write}\n{reads}"), name


def csr_write(source: random.Random, name: str, mode: int) -> str | None:
    """Lines that write `name`, in a mode that may, with a value of those that both machines must keep alike."""
    old = "zero" if name in COUNTERS else X[source.choice([n for n in FREE if n not in (5, 6)])]
    if name in SWAPPED:
        value = source.getrandbits(64) & SWAPPED[name] if name != "medeleg" else source.getrandbits(16) & 0xB3FF
        quiet = "csrw mie, zero\n" if mode == M else ""  # the order of interrupts: see EXCLUDED
        return f"{quiet}li t1, {value}\ncsrrw t0, {name}, t1\ncsrrw {old}, {name}, t0"
    if name.startswith("pmpaddr"):
        number = int(name[7:])
        if not 8 <= number < 14:
            return None
        return f"li t1, {source.getrandbits(54) | 1}\ncsrr{source.choice('wsc')} {old}, {name}, t1"
    if name == "pmpcfg2":  # entries 8 to 13, and back
        entries = bytes(source.choice((0, 0x1F, 0x0F, 0x19, 0x11, 0x0B, 0x1D)) for _ in range(6))
        value = int.from_bytes(entries, "little")
        return f"li t1, {value | 0x1F << 56}\ncsrrw t0, pmpcfg2, t1\ncsrrw {old}, pmpcfg2, t0"
    if name in ("mie", "sie"):
        allowed = ONE_INTERRUPT if name == "mie" else (0, 2, 0x20, 0x200)
        value = source.choice(allowed)
        return f"li t1, {value}\ncsrr{source.choice('wwc') if value else 'w'} {old}, {name}, t1"
    if name == "stimecmp":
        if mode == M:  # see EXCLUDED
            return None
        return f"li t1, {source.choice((0, FAR))}\ncsrrw {old}, stimecmp, t1"
    if name == "satp":
        value = source.choice((1, 2, 7, 11, 15)) << 60 | source.getrandbits(60)
        return source.choice(("csrrw s8, satp, s8", f"li t1, {value}\ncsrrw {old}, satp, t1"))
    if name not in WRITABLE:
        return None
    value = source.choice((ONES, *(source.getrandbits(64) for _ in range(4)))) & WRITABLE[name]
    if name in ("mstatus", "sstatus"):
        value |= source.choice((0, 1 << 11, 3 << 11)) if name == "mstatus" else 0
        if source.random() < 0.5:  # set or clear: MPP only as a whole
            value &= ~(3 << 11) if value >> 11 & 3 != 3 else ONES
            return f"li t1, {value or 2}\ncsrr{source.choice('sc')} {old}, {name}, t1"
        return f"li t1, {value | (UXL_SXL if name == 'mstatus' else 2 << 32)}\ncsrrw {old}, {name}, t1"
    if source.random() < 0.25:
        form = source.choice(("csrrwi", "csrrsi", "csrrci"))
        return f"{form} {old}, {name}, {source.getrandbits(5) & WRITABLE[name]}"
    if not value:  # see EXCLUDED
        return f"csrrw {old}, {name}, zero"
    return f"li t1, {value}\ncsrr{source.choice('wsc')} {old}, {name}, t1"


# ---- slots ----------------------------------------------------------------------------------------------------------

ENDS = ("ebreak", "ecall", ".word 0")


def some_work(source: random.Random, mode: int, wide: bool) -> list[str]:
    """A few lines of anything that every mode may try."""
    work: list[str] = []
    for _ in range(source.choice((1, 1, 2, 3))):
        kind = source.random()
        if kind < 0.45:
            work.append(load_or_store(source, mode, wide))
        elif kind < 0.60:
            work.append(jump(source))
        elif kind < 0.68 and not wide:  # a handler might go on between the two
            work.append(atomic_pair(source))
        else:
            work.append(computing(source, wide))
        if source.random() < 0.3:
            work.append(computing(source, wide))
    return work


def returning(source: random.Random, mode: int, to: int, work: Sequence[str], before: Sequence[str] = ()) -> list[str]:
    """Lines for `mode` that return to `to` by mret or sret, and work there."""
    by = "mret" if mode == M and (to == M or source.random() < 0.5) else "sret"
    letter = by[0]
    status = sum(bit for bit in STATUS_BITS if source.random() < 0.25) & (M_STATUS if mode == M else S_STATUS)
    clear, bits = (3 << 11, to << 11) if by == "mret" else (1 << 8, to << 8)
    keep = status & ~clear & ~(2 if mode == S else 0xA)  # not SIE and MIE at once: the return itself is meant
    user = ["add t1, t1, gp"] if to == U else []
    register = "mstatus" if mode == M else "sstatus"
    return [
        *before,
        f"li t0, {clear}", f"csrc {register}, t0", f"li t0, {bits | keep}", f"csrs {register}, t0",
        "la t1, there", *user, f"csrw {letter}epc, t1", by, "there:", *work,
    ]  # fmt: skip


def ordinary(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    return some_work(source, mode, wide), set()


def registers(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    lines, covers = [], set()
    for _ in range(source.choice((1, 2))):
        text, name = csr_access(source, mode)
        lines += text.splitlines()
        covers |= {name} - {""}
    return lines, covers


def system(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    lines = some_work(source, mode, wide) if source.random() < 0.3 else []
    kinds = [line for line in SYSTEM if not (wide and line == "c.ebreak")] + ["sret"] * (mode == U)
    line = illegal(source) if source.random() < 0.3 and not wide else source.choice(kinds)
    return [*lines, line], set()


def returns(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    to = source.choice((U, S, M) if mode == M else (U, S))
    lines = returning(source, mode, to, some_work(source, to, wide))
    by = "mret" if "mret" in lines else "sret"
    return lines, {f"{by} from {'US?M'[mode]} to {'US?M'[to]}"}


def as_another(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    """Loads and stores in M with MPRV."""
    status = 1 << 17 | source.choice((U, S, M)) << 11 | source.choice((0, 1 << 18)) | source.choice((0, 1 << 19))
    lines = [f"li t0, {3 << 11 | 3 << 18}", "csrc mstatus, t0", f"li t0, {status}", "csrs mstatus, t0"]
    work = [load_or_store(source, mode, wide) for _ in range(source.choice((1, 2)))]
    return [*lines, *work, *([] if wide or source.random() < 0.8 else [atomic_pair(source)])], {"MPRV"}


def edits(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    """Another entry for a page that may be cached, and a fence for it: here, or in S."""
    fence = source.choice(FENCES)
    edit = [EDIT]
    if source.random() < 0.5:
        return [*edit, fence], {f"{fence} in M"}
    edit += ["csrw mie, zero", f"li t0, {1 << 20}", "csrc mstatus, t0"]  # nothing comes before the fence
    work = [fence, *some_work(source, S, wide)]
    lines = returning(source, M, S, work, edit)
    lines = [line if not line.startswith("li t0") else f"li t0, {int(line[7:]) & ~(1 << 20)}" for line in lines[4:]]
    return [*edit, *lines], {f"{fence} in S"}


def waits(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    """wfi with SSIP pending and enabled, so that it ends; taken or not, as delegation and enables have it."""
    ready = ["csrwi mie, 2", "csrsi mip, 2"]
    to = source.choice((U, S, M))
    if to == M:
        return [*ready, "wfi"], {"wfi in M"}
    return returning(source, M, to, ["wfi"], ready), {f"wfi in {'US'[to]}"} if to == S else set()


def reservations(source: random.Random, mode: int, wide: bool) -> tuple[list[str], set[str]]:
    """LR before a trap, or SC after one, which then fails: in M, where nothing keeps it from the access itself."""
    width = source.choice("wd")
    there = f"li t1, {DATA + (DATA_PAGES << 12)}"
    return [there, source.choice((f"lr.{width} t2, (t1)", f"sc.{width} t2, t1, (t1)"))], set()


Kind = Callable[[random.Random, int, bool], tuple[list[str], set[str]]]
KINDS: dict[int, tuple[Kind, ...]] = {
    U: (ordinary, ordinary, ordinary, registers, system),
    S: (ordinary, ordinary, ordinary, registers, registers, system, returns),
    M: (ordinary, *[registers] * 3, system, *[returns] * 2, *[as_another] * 2, *[edits] * 2, waits, reservations),
}


def slot(source: random.Random, mode: int, wide: bool) -> Slot:
    kind = source.choice(KINDS[mode])
    lines, covers = kind(source, mode, wide)
    lines = [line for part in lines for line in part.splitlines()]
    return Slot((*lines, source.choice(ENDS if wide else (*ENDS, "c.ebreak"))), frozenset(covers))


def amo_slot(source: random.Random) -> Slot:
    name = source.choice(AMOS) + source.choice(("", ".aq", ".rl", ".aqrl"))
    first, second = (X[source.choice(FREE)] for _ in range(2))
    return Slot((f"{name} {first}, {second}, ({X[source.choice((8, 9))]})", source.choice(ENDS)))


# ---- episodes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The slots of a program by what they are for: numbers in `slots`."""

    slots: tuple[Slot, ...]
    by_mode: dict[tuple[int, bool], tuple[int, ...]]
    amos: tuple[int, ...]
    editing: dict[tuple[bool, bool], tuple[int, ...]]  # M's that edit tables: by width, and whether they name an ASID


def draw_slots(source: random.Random, each: int) -> Pool:
    """`each` slots for every mode, half of them of instructions of four bytes only, and AMOs."""
    slots: list[Slot] = []
    by_mode: dict[tuple[int, bool], tuple[int, ...]] = {}
    editing: dict[tuple[bool, bool], tuple[int, ...]] = {}
    for mode in (U, S, M):
        for wide in (False, True):
            start = len(slots)
            slots += [slot(source, mode, wide) for _ in range(each)]
            numbers = range(start, len(slots))
            edits_here = [n for n in numbers if slots[n].lines[0] == EDIT]
            if mode == M:
                for named in (False, True):
                    editing[wide, named] = tuple(n for n in edits_here if slots[n].names_asid == named)
            by_mode[mode, wide] = tuple(n for n in numbers if n not in edits_here)
    amos = range(len(slots), len(slots) + each // 2)
    slots += [amo_slot(source) for _ in amos]
    return Pool(tuple(slots), by_mode, tuple(amos), editing)


def interrupts(source: random.Random) -> dict[str, int]:
    """Pending and enabled ones, of which at most one order is possible: see EXCLUDED."""
    found = {"mideleg": source.getrandbits(64) & 0x222, "mip": source.getrandbits(64) & 0x222}
    if source.random() < 0.4:
        found["mie"] = source.getrandbits(12) & source.choice((0x288, 0x22))
    return found


@dataclass(frozen=True)
class Protection:
    """An episode's PMP: settings, where in DATA its regions begin and end, whether S's handlers stay fetchable."""

    settings: dict[str, int]
    edges: tuple[int, ...]
    safe: bool


def protection(source: random.Random, locked: tuple[int, ...]) -> Protection:
    """Entries 0 to 3 are windows over DATA and CODE, 15 is the rest of memory. A program may lock 4 to 7."""
    settings: dict[str, int] = {}
    config = [0] * 16
    edges = list(locked)
    if source.random() < 0.35:
        for n in range(source.randrange(1, 5)):
            config[n] = window(source, settings, n, config, edges)
    rest = 7 if source.random() < 0.85 else source.choice((0, 3, 4))
    config[15] = 0x18 | rest
    settings["pmpaddr15"] = ONES >> 10
    settings["pmpcfg0"] = int.from_bytes(bytes(config[:8]), "little")
    settings["pmpcfg2"] = int.from_bytes(bytes(config[8:]), "little")
    return Protection(settings, tuple(edges), rest == 7)


def napot(at: int, size: int) -> int:
    """What pmpaddr holds for a naturally aligned region of at least 8 bytes."""
    return at >> 2 | (size >> 3) - 1


def window(source: random.Random, settings: dict[str, int], n: int, config: list[int], edges: list[int]) -> int:
    """One entry's configuration; its address is set, and its edges are noted."""
    allowed = source.choice((0, 1, 3, 4, 5, 7))
    page = DATA + (source.randrange(DATA_PAGES) << 12)
    kind = source.random()
    if n and config[n - 1] & 0x18 == 0x10 and kind < 0.5:
        low = settings[f"pmpaddr{n - 1}"] << 2
        high = (low & ~0xFFF) + 4 * source.randrange(1025)
        settings[f"pmpaddr{n}"] = high >> 2  # from the NA4 before, in its page
        edges.append(min(high, (low | 0xFFF) - 7))
        return 8 | allowed
    if kind < 0.2:  # whole pages
        base, size = source.choice((DATA, CODE)), source.choice((0x1000, 0x2000, 0x4000, 0x8000))
        at = base + source.randrange(0x1_0000 // size) * size
        settings[f"pmpaddr{n}"] = napot(at, size)
        edges += [at, at + size - 8] if base == DATA else []
        return 0x18 | allowed
    size = source.choice((8, 16, 64, 512, 2048)) if kind < 0.6 else 4
    at = page + source.randrange(0x1000 // size) * size
    settings[f"pmpaddr{n}"] = napot(at, size) if size > 4 else at >> 2
    edges += [at, at + size - 4]
    return (0x18 if size > 4 else 0x10) | allowed


def locks(source: random.Random) -> tuple[str, tuple[int, ...]]:
    """What the monitor runs at the start of a program with locked entries, which nothing can undo; and their edges."""
    lines, config, edges = [], 0, []
    for n in (4, 5):
        size = source.choice((8, 64, 0x1000, 0x2000))
        at = DATA + source.randrange(0x1_0000 // size) * size
        lines.append(f"li t0, {napot(at, size)}; csrw pmpaddr{n}, t0")
        config |= (0x80 | source.choice((0x18, 0x18, 0)) | source.choice((0, 1, 3, 5, 7))) << 8 * n
        edges += [at, at + size - 8]
    low, high = (DATA + (source.randrange(DATA_PAGES) << 12) for _ in range(2))
    lines.append(f"li t0, {low >> 2}; csrw pmpaddr6, t0; li t0, {high >> 2}; csrw pmpaddr7, t0")
    config |= (0x88 | source.choice((0, 1, 3, 5, 7))) << 56  # a locked TOR entry locks the address before it, too
    return "; ".join([*lines, f"li t0, {config}; csrw pmpcfg0, t0"]), (*edges, low, high)


@dataclass
class Surroundings:
    """What an episode's pointers need to know while they are drawn."""

    source: random.Random
    world: World
    aligned: bool  # every access is naturally aligned, for pages may lead nowhere, and PMP may split them
    edges: tuple[int, ...]  # of PMP's regions
    pokes: list[Poke]
    poked: list[int]  # the virtual pages

    def poke(self, va: int) -> None:
        """Give the page of `va`, if the world has it, another entry."""
        page = va & ~0xFFF & ONES
        found = self.world.entries.get(page)
        if found is None or page in self.poked or self.source.random() < 0.25:
            return
        self.pokes.append(Poke(found[0], another_entry(self.source, page, self.aligned), found[1]))
        self.poked.append(page)

    def pointer(self, home: int, offset: int) -> int:
        """An address of DATA or CODE: physical, or in a region, whose entries are poked; or nowhere at all."""
        source = self.source
        pages = DATA_PAGES if home == DATA else CODE_PAGES
        kind = source.random()
        where = home + (source.randrange(pages) << 12) + offset
        if home == DATA and self.edges and source.random() < 0.6:  # about the beginning or the end of a region
            where, kind = (source.choice(self.edges) & ~7) + 8 * source.randrange(-1, 2), source.choice((0, 0.9))
        if kind < 0.2:
            return where
        if kind < 0.75:
            region = source.choice((LOW, HIGH, SHARED))
            page = source.choice([n for n in range(SPAN) if shows_data(region, n) == (home == DATA)])
            if page in BORDER:  # nothing crosses from one to the other
                page ^= 8
            va = region + (page << 12) + offset & ONES
            self.poke(va)
            if offset > 0xFF0:
                self.poke(va + 16)
            return va
        if kind < 0.93:
            big = source.random() < 0.7
            base = BIG + (source.randrange(BIGS) << 21) if big else HUGE + (source.randrange(HUGES) << 30)
            self.poke(base)
            return base + where - RAM
        va = LOW + (source.randrange(SPAN) << 12) + offset
        return va ^ 1 << source.randrange(39, 64) if source.random() < 0.7 else source.choice(NOWHERE) + offset

    def data_pointer(self) -> int:
        source = self.source
        offset = 8 * source.randrange(512)
        if not self.aligned and source.random() < 0.4:
            offset = source.choice((0xFF8, 0xFF8, 0, offset)) + source.randrange(8)
        return self.pointer(DATA, offset)


def another_entry(source: random.Random, va: int, nowhere: bool) -> int:
    if va >= BIG and va < HIGH and va < LOW:
        return superpage(source, 1 if va < HUGE else 2)
    region = SHARED if va < BIG else LOW if va < HIGH else HIGH
    home = DATA if shows_data(region, (va - region) >> 12) else CODE
    return leaf(source, home, region == SHARED, nowhere)


def delegation(source: random.Random, leave: int, safe: bool, atomic: bool) -> int:
    """medeleg: never the cause by which S's handler leaves, nor fetch faults when the handler might raise them."""
    bits = source.choice((0, source.getrandbits(16), 0xB3FF)) & 0xB3FF & ~(1 << leave)
    if not safe:
        bits &= ~(1 << 1 | 1 << 12)
    if atomic:  # QEMU 7 raises a load's cause: both go the same way
        bits = bits & ~0xA0F0 | source.choice((0, 0xA0F0))
    return bits


def episode(source: random.Random, pool: Pool, locked: tuple[int, ...]) -> Episode:
    worlds, _ = address_spaces()
    guard = protection(source, locked)
    settings, safe, splits = dict(guard.settings), guard.safe, bool(guard.edges or guard.settings["pmpcfg0"])
    at = Surroundings(source, source.choice(worlds), splits or source.random() < 0.5, guard.edges, [], [])
    paged = source.random() < 0.75
    atomic = source.random() < 0.15 and not splits
    registers = [integer(source) for _ in range(32)]
    for n in STORE_POINTERS:
        registers[n] = at.data_pointer()
    for n, entries in zip(JUMP_POINTERS, (ALIGNED_ENTRIES, ENTRIES), strict=True):  # the first is loaded from, too
        registers[n] = at.pointer(CODE, source.choice(entries))
    registers[USER_OFFSET] = USER if paged else 0
    settings["satp"] = at.world.satp if paged else 0
    if paged and source.random() < 0.03 and safe:
        settings["satp"], safe = 8 << 60 | EMPTY >> 12, False
    shared_edit = edit_registers(source, at, registers, worlds)
    leave, body = source.choice(tuple(EXITS)), source.choice(["at once", "nested", *["returns"] * (not atomic)])
    settings |= {
        "mtvec": source.getrandbits(1), "stvec": handlers()[leave, body] | source.getrandbits(1),
        "medeleg": delegation(source, leave, safe, atomic), "mcounteren": source.getrandbits(3),
        "scounteren": source.getrandbits(3), "senvcfg": source.getrandbits(1), "sscratch": integer(source),
        "mscratch": integer(source), "mcountinhibit": source.choice((0, 1, 4, 5)), "fcsr": source.getrandbits(8),
        "sepc": CODE + source.choice((0x400, 0x900, 0xFFC, 0xFFE)), **interrupts(source),
    }  # fmt: skip
    if source.random() < 0.4:
        settings |= {"menvcfg": 1 << 63 | 1 << 61 | source.getrandbits(1), "stimecmp": source.choice((0, FAR))}
    status = sum(bit for bit in STATUS_BITS if source.random() < 0.4) | source.choice((U, S, M)) << 11
    settings["mstatus"] = status & ~8 | UXL_SXL
    if source.random() < 0.1:
        add_patch(source, at.pokes)
    if paged and source.random() < 0.05 and safe:
        spoil_pointer(source, at)
    named = None if not safe else not shared_edit and source.random() < 0.6
    steps = draw_steps(source, pool, body == "returns", named, atomic)
    return Episode(
        steps, settings, tuple(registers[1:]), tuple(at.pokes), source.getrandbits(1),
        source.choice((0, FAR, FAR)), atomic,
    )  # fmt: skip


def edit_registers(source: random.Random, at: Surroundings, registers: list[int], worlds: Sequence[World]) -> bool:
    """What slots that edit page tables work with; True when the entry belongs to all address spaces."""
    if not at.poked:
        at.pokes.append(Poke(*(at.world.entries[LOW][n] for n in (0, 1, 1))))
        at.poked.append(LOW)
    n = source.randrange(len(at.poked))
    va = at.poked[n]
    registers[POKE_AT], registers[POKE_WITH] = at.world.entries[va][0], another_entry(source, va, at.aligned)
    registers[POKE_ADDRESS], registers[POKE_ASID] = va + source.randrange(0x1000), at.world.satp >> 44 & 0xFFFF
    if BIG <= va < LOW:  # any address within a superpage stands for it
        registers[POKE_ADDRESS] = va + source.randrange(1 << (21 if va < HUGE else 30))
    registers[OTHER_SATP] = source.choice((0, *(world.satp for world in worlds)))
    return SHARED <= va < BIG


def add_patch(source: random.Random, pokes: list[Poke]) -> None:
    """Another instruction where CODE's pages have `addi s10, zero, 7`: fetched code is never what it was before."""
    at = CODE + (source.randrange(CODE_PAGES) << 12) + PATCHED
    ret = 0x0000_8067
    was = ret << 32 | disasm.encode("addi", rd=26, rs1=0, imm=7)
    pokes.append(Poke(at, ret << 32 | disasm.encode("addi", rd=26, rs1=0, imm=source.randrange(-2048, 2048)), was))


def spoil_pointer(source: random.Random, at: Surroundings) -> None:
    """An entry that leads to a table, with a bit that it must not have, or without V."""
    address, value = source.choice(at.world.pointers)
    at.pokes.append(Poke(address, value ^ source.choice((1, 0x10, 0x40, 0x80, 1 << 54, 1 << 63, 4)), value))


def draw_steps(source: random.Random, pool: Pool, wide: bool, named: bool | None, atomic: bool) -> list[Step]:
    """Steps; those that edit page tables fence with or without an address space's number, as `named` says, if any."""
    steps = []
    for _ in range(source.randrange(4, 12)):
        mode = source.choice((U, S, M))
        narrow = wide or source.random() < 0.3
        numbers = pool.by_mode[mode, narrow]
        if mode == M and named is not None and source.random() < 0.3:  # its S-mode fence is reached for certain
            numbers = pool.editing[narrow, named] or numbers
        status = sum(bit for bit in STATUS_BITS if source.random() < 0.08)
        status |= MPIE * (source.random() < 0.3) | source.getrandbits(2) << 18
        steps.append(Step(source.choice(numbers), mode, status))
    if atomic:
        steps.append(Step(source.choice(pool.amos), source.choice((U, S, M)), source.choice((0, 1 << 18, 1 << 19))))
    return steps


# ---- programs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """What one image is made from, and may be shrunk by leaving parts away."""

    seed: int
    slots: tuple[Slot, ...]
    episodes: tuple[Episode, ...]
    prologue: str

    def image(self) -> Image:
        return Image(self.slots, self.episodes, address_spaces()[1], self.seed, self.prologue)


def draw(seed: int, episodes: int = 1500, slots: int = 150) -> Program:
    """The program of a seed. One in four has locked PMP entries from its start."""
    source = random.Random(f"privileged {seed}")
    pool = draw_slots(source, slots)
    prologue, locked = locks(source) if source.random() < 0.25 else ("nop", ())
    found = tuple(episode(source, pool, locked) for _ in range(episodes))
    return Program(seed, pool.slots, found, prologue)
