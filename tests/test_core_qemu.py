"""The same bare-metal binary on the core and under `qemu-system-riscv64 -M virt -bios none`: the same text comes out.

The binary is made here: a monitor in machine mode, and some thousand scenarios. For each the monitor resets the
privileged state, runs the scenario's setup, goes to its body in the scenario's mode, and when the body traps into M
prints one line:

    mcause mepc mtval mstatus mip scause sepc stval probe a0 a1 ... a7          (hexadecimal)

A body that runs to its end meets an ebreak. Traps delegated to S meet an ecall there, so they show in scause and its
neighbours. Page tables and data are part of the image. Lines are compared one by one; what QEMU 7 is known to do
otherwise is left out of the scenarios, or allowed for, with the reason beside it.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine_code import ONES, RAM, Hart, M, PageTables, RecordingBus, S, U, assemble, dwords, pte

from vpod.bus import AccessFault

QEMU = shutil.which("qemu-system-riscv64")
CPU = "rv64,v=false,h=false,sstc=true"
UART, FINISHER, CLINT = 0x1000_0000, 0x10_0000, 0x200_0000
SIZE = 0x40_0000  # of the image: code below, tables and data from TABLES on
TABLES = RAM + 0x20_0000
DATA = RAM + 0x30_0000
PAGES = 0x1_0000_0000  # virtual: pages with the rights to be tried, a hole after each
USER = 0x4000_0000  # virtual: the code, for users
UXL = 2 << 32
SUM, MXR, MPRV, TVM, TW, TSR = 1 << 18, 1 << 19, 1 << 17, 1 << 20, 1 << 21, 1 << 22
NAMES = ["mcause", "mepc", "mtval", "mstatus", "mip", "scause", "sepc", "stval", "probe", *(f"a{n}" for n in range(8))]

MONITOR = """
    start:
        li t0, 0x2004000; li t1, -1; sd t1, 0(t0)   # mtimecmp
        la t0, table; la t1, current; sd t0, 0(t1)
    next:
        la t1, current; ld s0, 0(t1); ld t0, 0(s0); beqz t0, finish
        la t0, m_trap; csrw mtvec, t0; la t0, s_trap; csrw stvec, t0
        csrw medeleg, zero; csrw mideleg, zero; csrw menvcfg, zero; csrw mie, zero; csrw mip, zero; csrw satp, zero
        csrw mcounteren, zero; csrw scounteren, zero; csrw sscratch, zero; csrw sepc, zero; csrw scause, zero
        csrw stval, zero; csrw mtval, zero
        li t0, 1 << 61; csrw menvcfg, t0; csrw mstatus, zero;   # A and D by hardware, as always in QEMU 7
         li t0, 0x2000000; sw zero, 0(t0)
        csrw pmpcfg0, zero; csrw pmpcfg2, zero; li t0, -1; srli t0, t0, 10; csrw pmpaddr0, t0
        li t0, 0x1f; csrw pmpcfg0, t0
        sfence.vma zero, zero
        la t0, save; csrw mscratch, t0; ld t0, 8(s0); csrw mepc, t0; ld t0, 16(s0); csrw mstatus, t0
        ld t0, 0(s0); jalr ra, 0(t0)
        {zero}
        mret
        .align 256
    m_trap:
        {vectors}
    common:
        csrrw sp, mscratch, sp
        {save}
        csrr s0, mcause; sd s0, 0(sp); csrr s0, mepc; sd s0, 8(sp); csrr s0, mtval; sd s0, 16(sp)
        csrr s0, mstatus; sd s0, 24(sp); csrr s0, mip; sd s0, 32(sp); csrr s0, scause; sd s0, 40(sp)
        csrr s0, sepc; sd s0, 48(sp); csrr s0, stval; sd s0, 56(sp)
        csrw mstatus, zero; csrw mie, zero; csrw pmpcfg0, zero
        la s1, current; ld s0, 0(s1); ld s2, 24(s0); ld s2, 0(s2); sd s2, 64(sp)
        addi s0, s0, 32; sd s0, 0(s1)
        li s0, {count}
    line:
        ld a0, 0(sp); addi sp, sp, 8; call hex
        addi s0, s0, -1; bnez s0, line
        li a0, 10; call put; j next
    hex:                                            # a0 in hexadecimal without leading zeros, and a space
        mv s4, ra; li s2, 60; mv s3, a0; li s5, 0
    digit:
        srl a0, s3, s2; andi a0, a0, 15; add s5, s5, a0; bnez s5, shown; bnez s2, hidden
    shown:
        slti t0, a0, 10; bnez t0, decimal; addi a0, a0, 39
    decimal:
        addi a0, a0, 48; call put
    hidden:
        addi s2, s2, -4; bge s2, zero, digit
        li a0, 32; call put; jr s4
    put:
        li t0, 0x10000000
    busy:
        lbu t1, 5(t0); andi t1, t1, 0x20; beqz t1, busy; sb a0, 0(t0); ret
    finish:
        li t0, 0x100000; li t1, 0x5555; sw t1, 0(t0)
    done: j done
        .align 64
    s_trap: ecall
        .align 8
    current: .dword 0
    save: .space 512
""".format(
    zero="; ".join(f"addi x{n}, x0, 0" for n in range(1, 32)).replace("x0", "zero"),
    vectors="; ".join(["jal zero, common"] * 16),
    save="; ".join(f"sd a{n}, {72 + 8 * n}(sp)" for n in range(8)),
    count=len(NAMES),
)


@dataclass(frozen=True)
class Scenario:
    """`setup` runs in M before, `body` in `level`; `paged` turns Sv39 on; `probe`: where a dword to print is."""

    name: str
    level: int
    body: str
    setup: str = ""
    paged: bool = False
    status: int = 0
    probe: int = DATA


RIGHTS = ["", "v", "vr", "vra", "vrad", "vrwad", "vrwa", "vrw", "vwad", "vxad", "vx", "vrxad", "vrwxad", "vwxad"]
RIGHTS = [rights + user for rights in RIGHTS for user in ("", "u")]
ENTRIES = {f"page {rights or 'none'}": (rights, 0) for rights in RIGHTS} | {
    "reserved bit 54": ("vrwad", 1 << 54), "reserved bit 60": ("vrwad", 1 << 60), "pbmt": ("vrwad", 1 << 61),
    "napot": ("vrwad", 1 << 63),
}  # fmt: skip
ACCESSES = {
    "load": "ld a0, 0(a1)", "store": "sd a1, 0(a1)", "amo": "amoadd.d a0, zero, (a1)", "lr": "lr.d a0, (a1)",
    "jump": "jr a1",
}  # fmt: skip
LEVELS = {"U": U, "S": S, "M": M}


def page(n: int) -> int:
    """The virtual address of the n-th page to be tried."""
    return PAGES + 0x2000 * n


def exceptions() -> Iterator[Scenario]:
    sources = ["ecall", ".half 0", ".word 0xffffffff", ".word 0x707b", "mret", "sret", "wfi", "sfence.vma zero, zero",
               "csrr a0, 0x7c0", "csrw mhartid, a0", "fadd.d fa0, fa1, fa2", "csrr a0, fcsr",
               "fld fa0, 0(sp)", "fence.i"]  # fmt: skip
    for source, (mode, level), delegated in itertools.product(sources, LEVELS.items(), (0, 0xB0FF)):
        for status in (0, TSR | TW | TVM):
            if (source == "wfi" and level != U and not status) or (source == "wfi" and level == M):
                continue  # it would wait
            setup = f"li t0, {delegated}; csrw medeleg, t0; csrw mepc, t2; la t3, s_trap; csrw sepc, t3"
            setup = f"csrr t2, mepc; {setup}"
            yield Scenario(f"{source} in {mode}", level, source, setup, status=status)


def registers() -> Iterator[Scenario]:
    values = ["mstatus", "sstatus", "mie", "sie", "mip", "sip", "mtvec", "stvec", "sscratch", "mepc", "satp", "sepc",
              "scause", "stval", "mhartid", "pmpcfg0", "pmpaddr0", "medeleg", "mideleg"]  # fmt: skip
    for name, (mode, level) in itertools.product(values, LEVELS.items()):
        yield Scenario(
            f"read {name} in {mode}", level, f"csrr a0, {name}; li a0, 0" if name == "mepc" else f"csrr a0, {name}"
        )
    for name, enables in itertools.product(("cycle", "time", "instret"), itertools.product((0, 7), repeat=2)):
        for mode, level in LEVELS.items():
            setup = f"csrwi mcounteren, {enables[0]}; csrwi scounteren, {enables[1]}"
            yield Scenario(f"{name} in {mode}, enabled {enables}", level, f"csrr a0, {name}; li a0, 1", setup)
    for name in ("stvec", "sepc", "mepc", "sscratch", "sie", "sip", "sstatus", "stval", "satp", "pmpaddr3", "pmpcfg2"):
        for value in (
            ONES,
            1,
            2,
            4,
            8 << 60,
            8 << 60 | 0xFFFF << 44 | 5,
            9 << 60 | 5,
            0x222,
            0x0C6122,
            0x80001001,
            0x1A << 8,
        ):
            if qemu_keeps_what_is_reserved(name, value):
                continue
            value |= UXL if name == "sstatus" else 0
            body = f"li a1, {value}; csrrw a2, {name}, a1; csrr a0, {name}; csrw satp, zero"
            yield Scenario(f"write {value:#x} to {name}", M, body, "li t0, 0x222; csrw mideleg, t0")


def qemu_keeps_what_is_reserved(name: str, value: int) -> bool:
    """What QEMU 7 stores though the specification lets it read otherwise, and PMP locks, which would outlast it all.

    mstatus.MPP = 2, sstatus.UXL and VS without V, bit 0 of sepc and mepc, modes 2 and 3 of stvec (QEMU keeps the whole
    old value, which is as legal), Sv48, bits 63:54 of pmpaddr, W without R, and the enables and delegations of
    what vpod does not have.
    """
    return {
        "sepc": value & 1 == 1,
        "mepc": value & 1 == 1,
        "stvec": value & 2 == 2,
        "sstatus": value & ~0x0C6122 != 0,
        "satp": value >> 60 == 9,
        "pmpaddr3": value >> 54 != 0,
        "pmpcfg2": any(value >> at & 0x83 in (2, 0x80, 0x81, 0x82, 0x83) for at in range(0, 64, 8)),
    }.get(name, False)


def returns() -> Iterator[Scenario]:
    for level, bits, target in itertools.product(
        (M, S), (0, 1 << 1, 1 << 3, 1 << 5, 1 << 7, MPRV, 0xAA, 0xAA | MPRV), LEVELS.values()
    ):
        body = f"li a1, {bits | target << 11 | (1 << 8 if target else 0) | UXL}; la a2, s_trap"
        if level == M:
            if bits & MPRV and target != M:
                continue  # QEMU 7 knows the rule of 1.11: returns leave MPRV alone
            yield Scenario(f"mret to {target}", M, f"{body}; csrw mstatus, a1; csrw mepc, a2; mret")
            if bits & MPRV:
                continue
            yield Scenario(f"sret in M to {target}", M, f"{body}; csrw mstatus, a1; csrw sepc, a2; sret")
        else:
            yield Scenario(f"sret to {target}", S, f"{body}; csrw sstatus, a1; csrw sepc, a2; sret")


def pages() -> Iterator[Scenario]:
    for (n, (name, (rights, more))), access, level in itertools.product(enumerate(ENTRIES.items()), ACCESSES, (U, S)):
        renew = f"li t0, {entry(n)}; li t1, {pte(DATA + 0x1000 * n, rights) | more}; sd t1, 0(t0)"
        what, body, probe = f"{access} at {name}", ACCESSES[access], entry(n)
        for status in (0, SUM, MXR):
            yield Scenario(what, level, f"li a1, {page(n)}; {body}", renew, True, status, probe)
        for status in (MPRV, MPRV | SUM | MXR):
            if access != "jump":
                source = f"li a1, {page(n)}; li a2, {status | level << 11}; csrw mstatus, a2; {body}"
                yield Scenario(f"{what} with MPRV as {level}", M, source, renew, True, 0, probe)
    addresses = [(1 << 38) - 8, (1 << 38) - 4, 1 << 38, 1 << 39, 1 << 63, ONES << 38 & ONES,
                 (ONES << 38 & ONES) - 8, PAGES | 1 << 60,
                 page(5) + 0xFFC, page(5) + 0xFFE, page(5) - 2, 3 << 30, (3 << 30) + 0x1000, 5 << 30]  # fmt: skip
    for address, access in itertools.product(addresses, ("load", "store", "jump")):
        yield Scenario(f"{access} at {address:#x}", S, f"li a1, {address}; {ACCESSES[access]}", paged=True)


def entry(n: int) -> int:
    """The physical address of the n-th tried page's entry: the tables are laid out in `image`."""
    return LEAVES + 8 * (page(n) >> 12 & 511)


def protections() -> Iterator[Scenario]:
    for cfg, level in itertools.product((0, 1, 3, 4, 5, 7, 0x80, 0x81), LEVELS.values()):
        for kind, address in (
            (0x10, DATA >> 2),
            (0x18, DATA >> 2 | 1),
            (0x18, DATA >> 2 | 0x1FF),
            (0x08, DATA + 8 >> 2),
        ):
            if cfg & 0x80:
                continue  # a lock would outlast its scenario
            setup = f"li t0, {address}; csrw pmpaddr1, t0; li t0, {DATA >> 2}; csrw pmpaddr0, t0"
            setup += "; li t0, -1; csrw pmpaddr2, t0"
            setup += f"; li t0, {0x1F << 16 | (kind | cfg) << 8}; csrw pmpcfg0, t0; sfence.vma zero, zero"
            for offset, body in itertools.product(
                (-8, -4, 0, 4, 8, 16), ("lw a0, 0(a1)", "sw a1, 0(a1)", "ld a0, 0(a1)")
            ):
                if body.startswith("ld") and offset % 8:
                    continue  # QEMU checks a misaligned access piece by piece
                yield Scenario(f"pmp {kind | cfg:#x} {body}", level, f"li a1, {DATA + offset}; {body}", setup)


def interrupts() -> Iterator[Scenario]:
    masks = [
        1 << 1,
        1 << 5,
        1 << 9,
        0x22,
    ]  # QEMU 7 takes the lowest number first, not SEI, SSI, STI as the specification
    for pending, delegated, enabled in itertools.product(masks, (0, 0x222, 0x20), (0, 0x222, 0x22)):
        for status, (mode, level) in itertools.product((0, 1 << 5, 1 << 7, 1 << 1, 0xA2), LEVELS.items()):
            setup = (
                f"li t0, {delegated}; csrw mideleg, t0; li t0, {enabled}; csrw mie, t0; li t0, {pending}; csrw mip, t0"
            )
            yield Scenario(
                f"interrupts {pending:#x} {delegated:#x} {enabled:#x} {mode}", level, "nop; nop", setup, status=status
            )
    for enabled, vectored in itertools.product((0, 8, 0xAAA), (0, 1)):
        setup = f"la t0, m_trap; addi t0, t0, {vectored}; csrw mtvec, t0; li t0, {enabled}; csrw mie, t0"
        yield Scenario(
            "software interrupt",
            S,
            "nop; nop",
            f"{setup}; li t0, {CLINT}; li t1, 1; sw t1, 0(t0); li t0, 0x20; csrw mip, t0",
        )
    for source in ("csrwi sip, 2", "csrsi mip, 2", "csrwi sie, 2", "csrci sip, 2"):
        setup = "li t0, 0x222; csrw mideleg, t0; csrw mie, t0; csrw mip, zero"
        yield Scenario(source, S, f"csrsi sstatus, 2; {source}; nop", setup)
    for timer, enabled in itertools.product((0, ONES), (0, 1 << 63)):
        setup = f"li t0, {enabled}; csrw menvcfg, t0; csrwi mcounteren, 2; li t0, 0x20; csrw mideleg, t0; csrw mie, t0"
        yield Scenario("stimecmp", S, f"li a1, {timer}; csrw stimecmp, a1; csrsi sstatus, 2; nop; nop", setup)


def atomics() -> Iterator[Scenario]:
    d = f"li a1, {DATA}; addi a2, a1, 64; li a3, -5; sd a3, 0(a1); sd zero, 0(a2)"
    sources = ["lr.d a0, (a1); sc.d a4, a3, (a1); ld a5, 0(a1)", "sc.d a4, a3, (a1); ld a5, 0(a1)",
               "lr.d a0, (a1); sc.d a4, a3, (a2); sc.d a5, a3, (a1)",
               "lr.w a0, (a1); sc.w a4, zero, (a1); ld a5, 0(a1)",
               "lr.d a0, (a1); sc.d a4, zero, (a1); sc.d a5, a3, (a1); ld a6, 0(a1)"]  # fmt: skip
    operations = ["swap", "add", "xor", "and", "or", "min", "max", "minu", "maxu"]
    sources += [f"amo{name}.{width} a0, a4, (a1); ld a5, 0(a1)" for name in operations for width in "wd"]
    for source, value in itertools.product(sources, (0, 7, -7, 1 << 31, 1 << 63)):
        yield Scenario(source, S, f"{d}; li a4, {value}; {source}")
    for source, offset in itertools.product(("amoadd.w a0, a1, (a2)", "amoadd.d a0, a1, (a2)"), (1, 2, 4)):
        yield Scenario(f"amo at {offset} off", S, f"li a2, {DATA + offset}; {source}")


def accesses() -> Iterator[Scenario]:
    """Misaligned ones, within and across pages, and what no device or RAM answers."""
    for offset, size in itertools.product((1, 2, 3, 5, 7, 0xFF9, 0xFFB, 0xFFD, 0xFFF), "hwd"):
        source = (
            f"li a1, {DATA + offset}; li a2, 0x8182838485868788; s{size} a2, 0(a1); l{size} a3, 0(a1); lbu a4, 1(a1)"
        )
        yield Scenario(f"misaligned {size}", S, source, probe=DATA + offset & ~7)
    for address, access in itertools.product((0x8, 0x1800_0000, 1 << 40, 1 << 55), ("load", "store", "jump")):
        yield Scenario(f"{access} of nothing at {address:#x}", M, f"li a1, {address}; {ACCESSES[access]}")


def scenarios() -> list[Scenario]:
    parts = (exceptions, registers, returns, pages, protections, interrupts, atomics, accesses)
    return [scenario for part in parts for scenario in part()]


# ---- the image ------------------------------------------------------------------------------------------------------

LEAVES = TABLES + 0x2000  # root, the table of PAGES' gigabyte, and its first leaf table


def lay_out_tables(hart: Hart) -> PageTables:
    """RAM for S where it is and for U at USER; the pages to be tried; three superpages, of which one is misaligned."""
    tables = PageTables(hart, TABLES)
    assert tables.entry(PAGES) & ~0xFFF == LEAVES
    for n, (rights, more) in enumerate(ENTRIES.values()):
        hart.store(tables.entry(page(n)), pte(DATA + 0x1000 * n, rights) | more)
    tables.map(RAM, RAM, "vrwxad", 1).map(RAM + 0x20_0000, RAM + 0x20_0000, "vrwad", 1)
    tables.map(USER, RAM, "vrwxuad", 1)
    tables.map(3 << 30, RAM + 0x1000, "vrwxad", 1).map(5 << 30, RAM, "vrwad", 2)
    tables.map((1 << 38) - 0x1000, DATA, "vrwad").map(ONES << 38 & ONES, DATA + 0x1000, "vrwxad")
    return tables


def image(all_of_them: list[Scenario]) -> bytes:
    """The memory that the machine starts with: monitor, scenarios, their table, page tables, data of `jr ra`s."""
    hart = Hart(ram=SIZE)
    tables = lay_out_tables(hart)
    source = [MONITOR]
    for n, scenario in enumerate(all_of_them):
        paged = "li t0, satp_on; csrw satp, t0; sfence.vma zero, zero" if scenario.paged else "nop"
        source.append(f"setup_{n}: {scenario.setup or 'nop'}; {paged}; ret; body_{n}: {scenario.body}; ebreak")
    source.append(".align 8; table:")
    for n, scenario in enumerate(all_of_them):
        body = f"body_{n} + {USER - RAM if scenario.paged and scenario.level == U else 0}"
        source.append(f".dword setup_{n}, {body}, {scenario.level << 11 | scenario.status}, {scenario.probe}")
    source.append(".dword 0")
    program = assemble("\n".join(source), RAM, satp_on=tables.satp)
    assert RAM + len(program.code) < TABLES
    hart.cpu.write(RAM, program.code)
    hart.cpu.write(DATA, dwords(*([0x0010_0073_0010_0073] * 0x4000)))  # ebreaks, to be jumped to
    return bytes(hart.cpu.read(RAM, SIZE))


# ---- the two machines -----------------------------------------------------------------------------------------------


class Board(RecordingBus):
    """As much of QEMU's `virt` as the monitor uses: UART, software interrupt, finisher."""

    def __init__(self) -> None:
        super().__init__()
        self.text = bytearray()
        self.hart: Hart | None = None

    def read(self, address: int, size: int) -> int:
        if address == UART + 5:
            return 0x60
        raise AccessFault(f"nothing at {address:#x}")

    def write(self, address: int, size: int, value: int) -> None:
        assert self.hart is not None
        if address == UART:
            self.text.append(value)
        elif address == FINISHER:
            self.hart.cpu.stop()
        elif address == CLINT:
            self.hart.cpu.set_interrupt(3, bool(value & 1))
        elif address == CLINT + 0x4000:
            self.hart.cpu.mtimecmp = value
        else:
            raise AccessFault(f"nothing at {address:#x}")


def run_here(memory: bytes, count: int) -> list[str]:
    board = Board()
    hart = board.hart = Hart(ram=128 << 20, bus=board)
    hart.cpu.reset()
    hart.cpu.write(RAM, memory)
    for _ in range(count):
        hart.cpu.run(20_000)
        if hart.cpu.pc in (RAM + at for at in range(0, 4096, 2)) and board.text.count(b"\n") == count:
            break
    return board.text.decode("latin1").splitlines()


def run_qemu(memory: bytes, folder: Path) -> list[str]:
    (folder / "image").write_bytes(memory)
    command = [str(QEMU), "-M", "virt", "-m", "128M", "-cpu", CPU, "-bios", str(folder / "image"), "-display", "none"]
    command += ["-monitor", "none", "-serial", f"file:{folder / 'text'}"]
    subprocess.run(command, timeout=120, check=True, stdin=subprocess.DEVNULL)
    return (folder / "text").read_text("latin1").splitlines()


def fields(line: str) -> dict[str, str]:
    """A line by its names. A breakpoint's tval is zero or the address, as "Machine Trap Value Register" leaves open."""
    found = dict(zip(NAMES, line.split(), strict=True))
    for cause, value in (("mcause", "mtval"), ("scause", "stval")):
        if found[cause] == "3":
            found[value] = "open"
    return found


def allow_for_qemu_amos(mine: dict[str, str], other: dict[str, str]) -> None:
    """QEMU 7 reads before it asks for the right to write: load faults, which AMOs never raise, and A set in vain."""
    if mine["mcause"] in ("6", "7", "f"):
        other["mcause"] = {"4": "6", "5": "7", "d": "f"}.get(other["mcause"], other["mcause"])
        other["probe"] = f"{int(other['probe'], 16) & ~0x40 | int(mine['probe'], 16) & 0x40:x}"


@pytest.mark.skipif(QEMU is None, reason="needs qemu-system-riscv64 (package qemu-system-misc)")
def test_every_scenario_ends_as_under_qemu(tmp_path: Path) -> None:
    everything = scenarios()
    memory = image(everything)
    theirs, ours = run_qemu(memory, tmp_path), run_here(memory, len(everything))
    assert len(theirs) == len(ours) == len(everything)
    differing = []
    for scenario, here, there in zip(everything, ours, theirs, strict=True):
        mine, other = fields(here), fields(there)
        if scenario.name.startswith("amo"):
            allow_for_qemu_amos(mine, other)
        if wrong := [f"{name} {mine[name]} (QEMU {other[name]})" for name in NAMES if mine[name] != other[name]]:
            differing.append(f"{scenario.name}, level {scenario.level} [{scenario.body}]: {', '.join(wrong)}")
    assert not differing, f"{len(differing)} of {len(everything)}:\n" + "\n".join(differing[:40])
