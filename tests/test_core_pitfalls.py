"""What breaks emulators that cache: each row of the table "What breaks" in the performance notes, for the interpreter.

Stale code, links between blocks, page-crossing instructions, remapping while hot, interrupts lost in chains, imprecise
state at a fault. Which row is which test stands in docs/testing.md, "Pitfalls". Each test first makes the caches hot
(runs the code often enough to be decoded, linked and in the TLB), then changes what they stand for.

    patch, fence.i, call   →   the new instruction runs
"""

from __future__ import annotations

import ctypes
import os
import random
import struct
import threading
from collections.abc import Callable

import pytest
from machine_code import (
    HANDLER,
    INTERRUPT,
    ONES,
    RAM,
    S_HANDLER,
    STEP,
    Hart,
    M,
    PageTables,
    RecordingBus,
    S,
    Trap,
    U,
    assemble,
    dwords,
    word,
)
from virtio_driver import NEXT, WRITE, Driver

from vpod import _cpu
from vpod.bus import IrqLine, Ram
from vpod.devices.virtio.block import Block, BufferDisk

PAGE = 0x1000
CODE = RAM + 0x8000  # physical: a page of code besides the program
DATA = RAM + 0xA000
FENCE = RAM + 0x6000  # a fence that is not written anew: a write to code makes the core forget more than a fence
VA = 0x1_0000_0000
SIE, MIE = 1 << 1, 1 << 3
STCE = 1 << 63


def returning(value: int) -> bytes:
    """A function that returns `value`: 8 bytes."""
    return assemble(f"addi a0, zero, {value}; ret").code


def call(hart: Hart, address: int) -> int:
    """Call the function at `address` in the present mode; its a0."""
    back = RAM + 0x4000
    hart.set(ra=back, pc=address, a0=0)
    hart.cpu.run(2)
    assert hart.cpu.pc == back, hart.describe()
    return hart.x("a0")


def paged(level: int = S, ram: int = 4 << 20) -> tuple[Hart, PageTables]:
    hart = Hart(ram=ram)
    tables = PageTables(hart).identity().on()
    hart.set(priv=level)
    return hart, tables


def run_fence(hart: Hart) -> None:
    """Execute what stands at FENCE."""
    hart.set(pc=FENCE).cpu.run(1)
    assert hart.cpu.pc == FENCE + 4, hart.describe()


# ---- stale code -----------------------------------------------------------------------------------------------------

PATCHING = """
        li s1, {turns}
    again:
        call f
        add s0, s0, a0
        la t0, f; lw t1, 0(t0); lui t2, 0x100; add t1, t1, t2; {store}   # addi's immediate grows by one
        {fence}
        addi s1, s1, -1; bnez s1, again
    done: j done
        .align {align}
    f:  addi a0, zero, 1
        ret
"""


@pytest.mark.parametrize("fence", ["fence.i", "nop"])
@pytest.mark.parametrize("align", [4, 4096])
@pytest.mark.parametrize(
    "store", ["sw t1, 0(t0)", "sh t1, 0(t0); srli t3, t1, 16; sh t3, 2(t0)", "amoswap.w t3, t1, (t0)"]
)
def test_patched_code_runs_after_the_fence(fence: str, align: int, store: str) -> None:
    """In the same page as the loop and in another; the core is coherent without fence.i, which is more than asked."""
    hart = Hart(PATCHING.format(turns=50, fence=fence, align=align, store=store)).run()
    assert hart.x("s0") == sum(range(1, 51))


def test_a_block_that_patches_itself() -> None:
    """The very next instruction is the one written, in a straight run: the block ends at the store."""
    hart = Hart(
        """
            la t0, target; li t1, 0x00700513          # addi a0, zero, 7
            li s1, 3
        again:
            sw t1, 0(t0)
            fence.i
        target: addi a0, zero, 1
            addi s0, s0, 1
            addi s1, s1, -1; bnez s1, again
        done: j done
        """
    ).run()
    assert (hart.x("a0"), hart.x("s0")) == (7, 3)
    hart = Hart(
        "la t0, target; li t1, 0x00700513; sw t1, 0(t0); target: addi a0, zero, 1; addi s0, s0, 1; done: j done"
    ).run()
    assert (hart.x("a0"), hart.x("s0")) == (7, 1)


def test_a_page_crossing_store_into_code() -> None:
    hart = Hart()
    hart.cpu.write(CODE + PAGE, returning(1))
    assert call(hart, CODE + PAGE) == 1
    low, high = returning(9)[:4], assemble("nop").code
    hart.set(a0=CODE + PAGE - 4, a1=int.from_bytes(high + low, "little"))
    assert hart.step("sd a1, 0(a0)") is None
    assert call(hart, CODE + PAGE) == 9


def test_writes_through_another_virtual_page() -> None:
    hart, tables = paged()
    tables.map(VA, CODE, "vrxad").map(VA + PAGE, CODE, "vrwad")
    hart.cpu.write(CODE, returning(1))
    hart.set(a2=VA + PAGE)
    hart.step("ld a3, 0(a2)")
    hart.step("sd a3, 0(a2)")  # the alias is in the TLB for writing before anything is decoded
    for value in range(1, 20):
        hart.set(a1=int.from_bytes(returning(value), "little"))
        assert hart.step("sd a1, 0(a2)") is None
        assert hart.step("fence.i") is None
        assert call(hart, VA) == value


def test_a_device_that_writes_into_code() -> None:
    hart = Hart()
    for value in range(1, 20):
        hart.cpu.write(CODE, returning(value))
        assert call(hart, CODE) == value


def test_a_device_that_writes_into_code_while_it_is_accessed() -> None:
    """The doorbell's own block is patched during the store to the doorbell: what follows it is the new code."""

    class Doorbell(RecordingBus):
        def write(self, address: int, size: int, value: int) -> None:
            hart.cpu.write(hart.program["target"], word("addi", rd="a0", rs1="a0", imm=100))

    hart = Hart("li t0, 0x10000000; sw zero, 0(t0); target: addi a0, a0, 1; done: j done", bus=Doorbell())
    assert hart.run().x("a0") == 100


def test_a_device_that_overwrites_the_instruction_that_rang() -> None:
    """Its answer ends with that instruction: the hart neither hands it to another access nor runs beyond its budget."""

    class Doorbell(RecordingBus):
        def write(self, address: int, size: int, value: int) -> None:
            hart.cpu.write(hart.program["rings"], word("jal", rd=0, imm=0))

    hart = Hart("li t0, 0x10000000; rings: sw zero, 0(t0); done: j done", bus=Doorbell())
    before = hart.cpu.instret
    assert hart.cpu.run(1000) == _cpu.EXIT_BUDGET
    assert hart.cpu.instret - before == 1000
    hart.csr(mie=1 << 11, mstatus=MIE)
    hart.cpu.set_interrupt(11, True)
    hart.cpu.run(1)
    assert hart.read("mcause") == INTERRUPT | 11


class DiskBus(RecordingBus):
    """A virtio disk at 0x1000_0000, which reads and writes the hart's RAM when its doorbell rings."""

    device: Block

    def write(self, address: int, size: int, value: int) -> None:
        self.device.write(address - 0x1000_0000, size, value)


def test_a_disk_that_reads_sectors_into_code() -> None:
    """The guest calls a function, asks for the next sector at its address, and calls it again, in one run."""
    bus = DiskBus()
    hart = Hart("again: call f; add s0, s0, a0; rings: sw zero, 0x50(s1); j again; .align 4096; f: ret", bus=bus)
    sectors = 5
    disk = BufferDisk(b"".join(returning(n + 1).ljust(512, b"\0") for n in range(sectors)))
    bus.device = Block(Ram(hart.cpu, hart.cpu.ram_size), IrqLine(lambda number, level: None, 1), disk)
    ring = Driver.of(bus.device, hart.cpu).rings[0]
    ring.describe(0, ring.heap, 16, NEXT, 1)
    ring.describe(1, hart.program["f"], 512, NEXT | WRITE, 2)
    ring.describe(2, ring.heap + 16, 1, WRITE)
    hart.set(s1=0x1000_0000).cpu.run(3)  # to the doorbell
    for sector in range(sectors):
        assert hart.cpu.pc == hart.program["rings"]
        hart.cpu.write(ring.heap, dwords(0, sector))  # a read of that sector
        ring.offer(0)
        hart.cpu.run(6)  # and round to the next one
        assert ring.finished() == [(0, 513)]
    assert hart.x("s0") == sum(range(1, sectors + 1))


def test_two_harts_of_one_file_patch_their_code_differently() -> None:
    """RAM is a private map: what one of them has written, or decoded, the other has not."""
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, 1 << 20)
    os.pwrite(descriptor, returning(1), CODE - RAM)
    harts = [Hart() for _ in range(3)]
    for hart in harts:
        hart.cpu = _cpu.Cpu(hart.bus, 1 << 20, descriptor)
        assert call(hart, CODE) == 1
    for n, hart in enumerate(harts[:2]):
        hart.cpu.write(CODE, returning(n + 7))
    assert [call(hart, CODE) for hart in harts] == [7, 8, 1]
    assert os.pread(descriptor, 8, CODE - RAM) == returning(1)
    os.close(descriptor)


def test_code_that_is_data_and_code_at_once() -> None:
    """Stores beside hot code in one page don't disturb it, however the lines fall."""
    hart = Hart()
    for off in range(0, 512, 24):
        hart.cpu.write(CODE + off, returning(off))
    for turn in range(3):
        for off in range(0, 512, 24):
            hart.set(a2=CODE + off, a1=turn).step("sd a1, 8(a2)")
            assert call(hart, CODE + off) == off
            assert hart.dword(CODE + off + 8) == turn


def test_the_arena_of_decoded_code_can_overflow() -> None:
    """Far more code than the core keeps decoded, run twice over: what was dropped is decoded again."""
    hart = Hart(ram=64 << 20)
    size = 48 << 20
    start = RAM + 0x10_0000
    hart.cpu.write(start, (word("c.addi", rd="a0", imm=1) + word("c.addi", rd="a1", imm=2)) * (size // 4))
    for _ in range(2):
        before = hart.x("a0"), hart.x("a1")
        hart.set(pc=start)
        hart.cpu.run(size // 2)
        assert hart.cpu.pc == start + size
        assert (hart.x("a0") - before[0], hart.x("a1") - before[1]) == (size // 4, size // 2)


# ---- instructions across pages, fetch faults ------------------------------------------------------------------------


def crossing() -> tuple[Hart, PageTables, bytes]:
    """`addi a0, a0, 1` at the last two bytes of a page at VA, hot; then `ret` and, before it, room for a jump to it."""
    hart, tables = paged()
    tables.map(VA, CODE, "vrxad").map(VA + PAGE, CODE + PAGE, "vrxad")
    code = word("addi", rd="a0", rs1="a0", imm=1)
    hart.cpu.write(CODE + PAGE - 4, word("c.nop", imm=0) + code + assemble("ret").code)
    hart.cpu.write(CODE, assemble(f"j . + {PAGE - 4}").code)
    return hart, tables, code


def enter(hart: Hart) -> Trap | None:
    """Jump to VA, on to the crossing instruction, and back."""
    hart.set(ra=RAM + 0x4000, pc=VA, priv=S)
    hart.cpu.run(4)
    return hart.trap()


def test_a_crossing_instruction_whose_second_page_is_remapped() -> None:
    hart, tables, _ = crossing()
    hart.load("sfence.vma a2, zero", FENCE)
    for _ in range(5):
        assert enter(hart) is None
    assert hart.x("a0") == 5
    other = word("addi", rd="a0", rs1="a0", imm=1 << 10)[2:] + assemble("ret").code
    hart.cpu.write(CODE + 2 * PAGE, other)
    tables.map(VA + PAGE, CODE + 2 * PAGE, "vrxad")
    run_fence(hart.set(a2=VA + PAGE))
    for _ in range(3):
        assert enter(hart) is None
    assert hart.x("a0") == 5 + 3 * (1 << 10)


def test_a_crossing_instruction_whose_second_page_is_written() -> None:
    hart, _, _ = crossing()
    assert enter(hart) is None
    hart.cpu.write(CODE + PAGE, word("addi", rd="a0", rs1="a0", imm=64)[2:])
    assert enter(hart) is None
    assert hart.x("a0") == 65


def test_a_crossing_fetch_that_faults() -> None:
    """ "stval": the part that caused the fault, while sepc points to the beginning of the instruction."""
    hart, tables, _ = crossing()
    assert enter(hart) is None
    tables.map(VA + PAGE, CODE + PAGE, "vrad")
    hart.step("sfence.vma zero, zero")
    assert enter(hart) == Trap(12, VA + PAGE - 2, VA + PAGE)
    tables.map(VA, CODE, "vrad")
    hart.set(priv=S).step("sfence.vma zero, zero")
    hart.set(pc=VA + PAGE - 2)
    assert hart.go() == Trap(12, VA + PAGE - 2, VA + PAGE - 2)


def test_a_compressed_instruction_at_the_end_needs_no_next_page() -> None:
    hart, tables = paged()
    tables.map(VA, CODE, "vrxad")
    assert hart.step("c.li a0, 5", at=CODE + PAGE - 2, pc=VA + PAGE - 2) is None
    assert hart.x("a0") == 5
    assert hart.go() == Trap(12, VA + PAGE, VA + PAGE)


def test_an_illegal_instruction_across_pages_gives_all_its_bits() -> None:
    hart, tables = paged()
    tables.map(VA, CODE, "vrxad").map(VA + PAGE, DATA, "vrxad")
    hart.cpu.write(CODE + PAGE - 2, (0x707B).to_bytes(2, "little"))
    hart.cpu.write(DATA, (0xABCD).to_bytes(2, "little"))
    hart.set(pc=VA + PAGE - 2)
    assert hart.go() == Trap(2, VA + PAGE - 2, 0xABCD_707B)
    bits = int.from_bytes(assemble("csrr a0, mscratch").code, "little")
    hart.cpu.write(CODE + PAGE - 2, bits.to_bytes(4, "little")[:2])
    hart.cpu.write(DATA, bits.to_bytes(4, "little")[2:])
    hart.set(pc=VA + PAGE - 2, priv=S)
    assert hart.go() == Trap(2, VA + PAGE - 2, bits)


def test_running_off_the_end_of_ram() -> None:
    hart = Hart(ram=1 << 20)
    end = RAM + (1 << 20)
    assert hart.step("nop", at=end - 4) is None
    assert hart.go() == Trap(1, end, end)
    hart.cpu.write(end - 2, b"\x13\x00")
    hart.set(pc=end - 2)
    assert hart.go() == Trap(1, end - 2, end), "the second half is outside"


# ---- remapping while hot --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("va", [VA, -(1 << 38) & ONES, ONES & ~0xFFFF])
@pytest.mark.parametrize("fence", ["sfence.vma a2, zero", "sfence.vma zero, zero", "csrw satp, a3"])
def test_code_that_is_remapped_while_hot(va: int, fence: str) -> None:
    hart, tables = paged()
    hart.cpu.write(CODE, returning(1))
    hart.cpu.write(CODE + PAGE, returning(2))
    hart.set(a2=va).load(fence, FENCE)
    for turn in range(6):
        hart.set(a3=tables.satp | turn + 1 << 44)  # another address space: the same one need not be looked up anew
        tables.map(va, CODE + PAGE * (turn % 2), "vrxad")
        run_fence(hart)
        for _ in range(3):
            assert call(hart, va) == 1 + turn % 2


def test_a_superpage_of_code_that_is_remapped_while_hot() -> None:
    hart, tables = paged(ram=8 << 20)
    for base, value in ((RAM + (2 << 20), 1), (RAM + (4 << 20), 2)):
        hart.cpu.write(base + 5 * PAGE, returning(value))
    hart.set(a2=VA + 9 * PAGE).load("sfence.vma a2, zero", FENCE)  # another page of the same superpage
    for turn in range(6):
        tables.map(VA, RAM + ((2 << 20) << turn % 2), "vrxad", 1)
        run_fence(hart)
        for _ in range(3):
            assert call(hart, VA + 5 * PAGE) == 1 + turn % 2


def test_the_same_code_at_two_addresses() -> None:
    """Blocks are shared by physical address; auipc, jal and links must not carry one address into the other."""
    hart, tables = paged()
    hart.cpu.write(
        CODE, assemble("auipc a0, 0; jal a1, . + 8; nop; auipc a2, 0; beq zero, zero, . + 8; nop; ret", 0).code
    )
    for turn in range(6):
        at = VA + 3 * PAGE * (turn % 3)
        tables.map(at, CODE, "vrxad")
        hart.set(ra=RAM + 0x4000, pc=at)
        hart.cpu.run(5)
        assert hart.cpu.pc == RAM + 0x4000
        assert [hart.x(name) for name in ("a0", "a1", "a2")] == [at, at + 8, at + 12]


def test_a_loop_through_two_aliases_of_one_page() -> None:
    """Both virtual pages show one physical page: a link between its blocks must not forget which page it is in."""
    hart, tables = paged()
    tables.map(VA, CODE, "vrxad").map(VA + PAGE, CODE, "vrxad")
    hart.cpu.write(CODE, assemble("addi a0, a0, 1; j . + 0x1000 - 4 + 16").code)  # to the other page's offset 16
    hart.cpu.write(CODE + 16, assemble("auipc a1, 0; j . - 0x1000 - 4 - 16").code)  # and back to the first one's start
    hart.set(pc=VA)
    for turn in range(1, 8):
        hart.cpu.run(4)
        assert (hart.cpu.pc, hart.x("a0"), hart.x("a1")) == (VA, turn, VA + PAGE + 16)


@pytest.mark.parametrize("source", ["ld a1, 0(a2)", "sd a1, 0(a2)", "lr.d a1, (a2)"])
def test_a_missing_page_is_not_remembered(source: str) -> None:
    """Fault, map, retry without a fence; an implementation may fault again, but Linux expects it not to."""
    hart, tables = paged()
    hart.set(a2=VA)
    trap = hart.step(source)
    assert trap is not None and trap.cause in (13, 15)
    tables.map(VA, DATA)
    assert hart.set(priv=S).step(source) is None
    hart.set(priv=S, pc=VA + PAGE)
    assert hart.go() == Trap(12, VA + PAGE, VA + PAGE)
    tables.map(VA + PAGE, CODE)
    assert hart.set(priv=S).step("nop", at=CODE, pc=VA + PAGE) is None


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_code_that_was_unmapped_without_a_fence_and_cut_short_by_the_budget(budget: int) -> None:
    """The block is still in the jump cache and its page no longer in the TLB: a part of it can't be fetched."""
    hart, tables = paged()
    others = [VA + n * _cpu.TLB_ENTRIES * PAGE for n in (1, 2)]
    tables.map(VA, CODE, "vrxad").map(others[0], DATA).map(others[1], DATA)
    hart.cpu.write(CODE, assemble("nop; nop; nop; j .").code)
    hart.set(pc=VA, a2=others[0], a3=others[1]).cpu.run(100)
    tables.map(VA, CODE, "")
    assert hart.step("ld a1, 0(a2)") is None and hart.step("ld a1, 0(a3)") is None  # take its places in the TLB
    hart.set(pc=VA).cpu.run(budget)
    assert hart.cpu.pc == HANDLER and (hart.read("mcause"), hart.read("mepc")) == (12, VA)


def test_more_rights_need_no_fence() -> None:
    hart, tables = paged()
    tables.map(VA, DATA, "vrad")
    hart.set(a2=VA)
    assert hart.step("ld a1, 0(a2)") is None
    assert hart.step("sd a1, 0(a2)") == Trap(15, STEP, VA)
    tables.map(VA, DATA, "vrwad")
    assert hart.set(priv=S).step("sd a1, 0(a2)") is None


def test_satp_is_turned_on_in_the_middle_of_a_page() -> None:
    """As Linux does it: the next instruction is not mapped where it is, and its fault leads to the high address."""
    hart = Hart()
    high = -(1 << 38) & ONES
    tables = PageTables(hart)
    tables.map(high, CODE, "vrxad")
    program = hart.load("csrw satp, a2; nop; on: auipc a0, 0; nop; nop", CODE)
    offset = program["on"] - CODE
    hart.set(pc=CODE, priv=S, a2=tables.satp).csr(stvec=high + offset, medeleg=1 << 12)
    hart.cpu.run(3)  # csrw, the fetch fault, auipc
    assert (hart.x("a0"), hart.read("scause"), hart.read("sepc")) == (high + offset, 12, CODE + 4)
    hart = Hart()  # and mapped where it is, but to other code
    other = PageTables(hart).map(CODE, DATA, "vrxad")
    hart.cpu.write(CODE, assemble("csrw satp, a2; addi a0, zero, 1").code)
    hart.cpu.write(DATA, assemble("csrw satp, a2; addi a0, zero, 2").code)
    hart.set(pc=CODE, priv=S, a2=other.satp).cpu.run(2)
    assert hart.x("a0") == 2


def test_a_page_crossing_store_is_all_or_nothing() -> None:
    hart, tables = paged()
    tables.map(VA, DATA, "vrwad").map(VA + PAGE, DATA + PAGE, "vrad")
    hart.cpu.write(DATA, b"\xee" * (2 * PAGE))
    for size, store in ((2, "sh"), (4, "sw"), (8, "sd")):
        for off in range(1, size):
            at = VA + PAGE - off
            assert hart.set(a2=at, a1=0, priv=S).step(f"{store} a1, 0(a2)") == Trap(15, STEP, VA + PAGE)
            assert hart.cpu.read(DATA, 2 * PAGE) == b"\xee" * (2 * PAGE)


@pytest.mark.parametrize("bit", range(39, 64))
@pytest.mark.parametrize("level", [U, S, M])
def test_a_hot_address_and_its_non_canonical_twin(level: int, bit: int) -> None:
    """Each cache compares all of an address: with one of the upper bits flipped it is another one, in every mode.

    The other mode's hot code must not answer for it either (a cache that mixes the privilege into the address would).
    """
    hart = Hart(ram=4 << 20)
    tables = PageTables(hart).identity().on()
    tables.map(VA, CODE, "vrxuad").map(VA + PAGE, CODE, "vrxad")
    hart.cpu.write(CODE, assemble("auipc a0, 0; j . - 4").code)
    for mode, at in ((U, VA), (S, VA + PAGE), (M, CODE)):
        hart.set(priv=mode, pc=at).cpu.run(20)
    for at in (VA, VA + PAGE, CODE):
        twin = at ^ 1 << bit
        for other in (0, 1 << 60, 1 << 61, 3 << 60):
            address = twin ^ other
            if address in (VA, VA + PAGE, CODE):
                continue
            hart.set(priv=level, pc=address)
            assert hart.go() == Trap(1 if level == M else 12, address, address)


# ---- interrupts in chains -------------------------------------------------------------------------------------------

CHAINS = {
    "one block": "loop: j loop",
    "two blocks": "loop: addi a0, a0, 1; j two; nop; two: addi a0, a0, 1; j loop",
    "two pages": "loop: addi a0, a0, 1; j two; .align 4096; two: addi a0, a0, 1; j loop",
    "jalr": "la s1, two; la s2, loop; loop: jalr s3, 0(s1); nop; two: jalr s3, 0(s2)",
    "branches": "li a1, 1; loop: bnez a1, two; nop; two: beqz zero, loop",
    "calls": "loop: call f; j loop; f: ret",
    "page crossing": "j loop; .space 4088; c.nop 0; loop: nop; c.j loop",
}


class Bell(RecordingBus):
    """A device whose register ends the run."""

    hart: Hart

    def write(self, address: int, size: int, value: int) -> None:
        self.hart.cpu.stop()


RINGING = "csrr a7, time; li t0, 0x10000000; sw zero, 0(t0); j ."  # a handler that notes when it came, and rings


def interrupted(hart: Hart, bell: Bell) -> int:
    """Run into the timer's interrupt, which is due in a millisecond; how late it came, in ticks of 100 ns."""
    bell.hart = hart
    hart.csr(mie=1 << 5, menvcfg=STCE, stimecmp=hart.cpu.mtime + 10_000)
    patience = threading.Timer(60, hart.cpu.stop)
    patience.start()
    assert hart.cpu.run(1 << 40) == _cpu.EXIT_STOP
    patience.cancel()
    return hart.x("a7") - hart.read("stimecmp")


IN_TIME = 50_000_000  # five seconds, for a machine that does much else; a lost interrupt never comes


@pytest.mark.parametrize("name", CHAINS)
def test_a_timer_reaches_every_chain(name: str) -> None:
    bell = Bell()
    hart = Hart(CHAINS[name], bus=bell).csr(mstatus=MIE)
    hart.load(RINGING, HANDLER)
    assert 0 <= interrupted(hart, bell) < IN_TIME
    assert hart.read("mcause") == INTERRUPT | 5


@pytest.mark.parametrize("level", [U, S])
@pytest.mark.parametrize("name", CHAINS)
def test_a_timer_reaches_every_chain_under_sv39(name: str, level: int) -> None:
    """Each page of the chain is mapped where it isn't, to memory that isn't contiguous; the interrupt is delegated."""
    bell = Bell()
    hart = Hart(bus=bell).csr(mideleg=1 << 5, mstatus=SIE, mcounteren=2)
    hart.load(RINGING, S_HANDLER)
    program = assemble(CHAINS[name], VA)
    tables = PageTables(hart).map(S_HANDLER, S_HANDLER).map(0x1000_0000, 0x1000_0000)
    for page in range(2):
        tables.map(VA + page * PAGE, CODE + 3 * page * PAGE, "vrxad" + ("u" if level == U else ""))
        hart.cpu.write(CODE + 3 * page * PAGE, program.code[page * PAGE : (page + 1) * PAGE] or bytes(2))
    tables.on()
    assert 0 <= interrupted(hart.set(pc=VA, priv=level), bell) < IN_TIME
    assert (hart.read("scause"), hart.read("sepc") >> 13, hart.cpu.priv) == (INTERRUPT | 5, VA >> 13, S)


@pytest.mark.parametrize("name", CHAINS)
def test_stop_reaches_every_chain(name: str) -> None:
    hart = Hart(CHAINS[name])
    threading.Timer(0.02, hart.cpu.stop).start()
    assert hart.cpu.run(1 << 40) == _cpu.EXIT_STOP
    assert hart.cpu.run(1) == _cpu.EXIT_BUDGET, "asked once, stopped once"


@pytest.mark.parametrize(
    "source",
    [
        "csrw mtvec, zero; ecall",  # the handler can't be fetched
        "la t0, on; csrw mtvec, t0; on: ecall",  # the handler is the ecall
        "la t0, on; csrw mtvec, t0; on: .half 0",
        "la t0, on; csrw mtvec, t0; on: ld a0, 0(zero)",
    ],
)
def test_a_handler_that_traps_at_once_spends_the_budget(source: str) -> None:
    """Otherwise a guest could keep run() from ever returning to the worker, which then hears nobody."""
    hart = Hart(source)
    stopper = threading.Timer(60, hart.cpu.stop)  # a slow build is no hang
    stopper.start()
    assert hart.cpu.run(100_000) == _cpu.EXIT_BUDGET
    stopper.cancel()
    assert hart.cpu.instret < 10


def test_a_load_and_a_store_that_share_a_place_in_the_tlb() -> None:
    for pages in (256, 512, 1024, 4096):
        hart, tables = paged(ram=4 << 20)
        tables.map(VA, DATA).map(VA + pages * PAGE, DATA + PAGE).map(VA + 2 * pages * PAGE, CODE, "vrxad")
        hart.cpu.write(
            CODE, assemble("ld a1, 0(a2); addi a1, a1, 1; sd a1, 0(a3); ld a1, 0(a3); sd a1, 0(a2); ret").code
        )
        hart.set(a2=VA, a3=VA + pages * PAGE)
        for turn in range(1, 10):
            hart.set(ra=RAM + 0x4000, pc=VA + 2 * pages * PAGE)
            hart.cpu.run(6)
            assert hart.cpu.pc == RAM + 0x4000
            assert (hart.dword(DATA), hart.dword(DATA + PAGE)) == (turn, turn)


def test_a_crossing_access_whose_pages_share_a_place_with_the_code() -> None:
    hart, tables = paged()
    tables.map(VA - PAGE, DATA).map(VA, DATA + PAGE).map(VA + _cpu.TLB_ENTRIES * PAGE, CODE, "vrxad").map(
        VA + (_cpu.TLB_ENTRIES - 1) * PAGE, CODE, "vrxad"
    )
    hart.cpu.write(CODE, assemble("sd a1, 0(a2); ld a0, 0(a2); ret").code)
    for turn in range(20):
        hart.set(ra=RAM + 0x4000, pc=VA + (_cpu.TLB_ENTRIES - 1 + turn % 2) * PAGE, a1=turn << 32 | turn, a2=VA - 4)
        hart.cpu.run(3)
        assert hart.cpu.pc == RAM + 0x4000
        assert hart.x("a0") == turn << 32 | turn


# ---- imprecise state ------------------------------------------------------------------------------------------------


def random_block(source: random.Random) -> list[bytes]:
    """Twenty instructions without jumps; loads and stores go through s0 (a page that the test takes away)."""
    kinds: list[Callable[[], bytes]] = [
        lambda: word("ld", rd=source.randrange(10, 18), rs1="s0", imm=8 * source.randrange(64)),
        lambda: word("lbu", rd=source.randrange(10, 18), rs1="s0", imm=source.randrange(64)),
        lambda: word("sd", rs2=source.randrange(10, 18), rs1="s0", imm=8 * source.randrange(64)),
        lambda: word("sh", rs2=source.randrange(10, 18), rs1="s0", imm=source.randrange(64)),
        lambda: word("amoadd.d", rd=source.randrange(10, 18), rs2=source.randrange(10, 18), rs1="s0"),
        lambda: word("fld", rd=3, rs1="s0", imm=8),
        lambda: word("add", rd=source.randrange(10, 18), rs1=source.randrange(10, 18), rs2=source.randrange(10, 18)),
        lambda: word("c.addi", rd=source.randrange(10, 18), imm=source.randrange(1, 31)),
        lambda: word("mulh", rd=source.randrange(10, 18), rs1=source.randrange(10, 18), rs2=source.randrange(10, 18)),
    ]
    return [source.choice(kinds)() for _ in range(20)]


def accesses_memory(code: bytes) -> bool:
    """Load, store, floating-point load and store, AMO: by their major opcodes."""
    return code[0] & 0x7F in (0x03, 0x23, 0x07, 0x27, 0x2F)


class Victim:
    """A hart in S with a random block at CODE, and the page that its accesses go to at VA."""

    def __init__(self, source: random.Random) -> None:
        self.hart, self.tables = paged()
        self.hart.csr(mstatus=3 << 13)
        self.parts = random_block(source)
        self.hart.cpu.write(CODE, b"".join(self.parts) + assemble("j .").code)
        self.data = source.randbytes(1024)
        self.start = [source.getrandbits(64) for _ in range(8)]

    def map(self, *page: int | str) -> None:
        """Map VA anew, fence, and stand at CODE in S."""
        self.tables.map(VA, *page)  # type: ignore[arg-type]
        assert self.hart.set(priv=S).step("sfence.vma zero, zero") is None
        self.hart.set(pc=CODE)

    def advance(self, *budgets: int) -> tuple[list[int], int, bytes, int]:
        """From the start by these budgets: registers, pc, memory, instructions retired."""
        self.map(DATA)
        self.hart.cpu.write(DATA, self.data)
        for register, value in enumerate(self.start, 10):
            self.hart.cpu.set_x(register, value)
        self.hart.set(s0=VA)
        before = self.hart.cpu.instret
        for budget in budgets:
            self.hart.cpu.run(budget)
        return self.state(before)

    def state(self, before: int) -> tuple[list[int], int, bytes, int]:
        cpu = self.hart.cpu
        return self.hart.registers(), cpu.pc, cpu.read(DATA, 1024), cpu.instret - before


@pytest.mark.parametrize("seed", range(12))
def test_state_is_exact_at_every_faulting_access(seed: int) -> None:
    """Each access of a hot block faults in turn; registers, memory and instret are what single steps up to it made."""
    victim = Victim(random.Random(seed))
    hart, at = victim.hart, CODE
    for n, part in enumerate(victim.parts):
        if accesses_memory(part) and len(part) == 4:
            stepped = victim.advance(*[1] * n)
            assert victim.advance(n) == stepped
            registers, pc, data, retired = stepped
            assert (pc, retired) == (at, n)
            victim.map(0, "")
            hart.set(pc=at)
            before = hart.cpu.instret
            hart.cpu.run(20)
            assert (hart.read("mepc"), hart.read("mtval") >> 12) == (at, VA >> 12)
            assert victim.state(before) == (registers, HANDLER, data, 19), "the trap cost one, the handler spins"
        at += len(part)


@pytest.mark.parametrize("seed", range(12))
def test_a_fault_behind_hot_code_leaves_exact_state(seed: int) -> None:
    """The block runs as a whole up to an access that goes to a missing page: nothing behind it has happened."""
    victim = Victim(random.Random(100 + seed))
    hart = victim.hart
    for n in range(2, len(victim.parts)):
        parts = [part for part in victim.parts[:n] if not (accesses_memory(part) and part[0] & 0x7F == 0x07)]
        code = b"".join(parts)
        hart.cpu.write(CODE, code + assemble("ld a0, 0(s1); addi a1, a1, 1; j .").code)
        stepped = victim.advance(*[1] * len(parts))
        hart.set(s1=VA + PAGE)
        victim.advance(40)
        assert hart.trap() == Trap(13, CODE + len(code), VA + PAGE)
        assert hart.x("a1") == stepped[0][11] and hart.cpu.read(DATA, 1024) == stepped[2]


def test_a_fault_in_the_middle_of_a_hot_block() -> None:
    """The whole block runs at once, and the fault comes from its middle."""
    hart, tables = paged()
    tables.map(VA, DATA)
    hart.cpu.write(CODE, assemble("addi a0, a0, 1; addi a1, a1, 1; ld a2, 0(s0); addi a3, a3, 1; j . - 16").code)
    hart.set(pc=CODE, s0=VA).cpu.run(500)
    assert [hart.x(name) for name in ("a0", "a1", "a3")] == [100, 100, 100]
    tables.map(VA, 0, "")
    hart.step("sfence.vma zero, zero")
    before = hart.cpu.instret
    hart.set(pc=CODE).cpu.run(3)
    assert hart.trap() == Trap(13, CODE + 8, VA)
    assert [hart.x(name) for name in ("a0", "a1", "a3")] == [101, 101, 100]
    assert hart.cpu.instret - before == 2


# ---- the host's own state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", range(5))
def test_rounding_and_flags_of_the_guest_stay_there(mode: int) -> None:
    """Whatever frm says and fflags collect, Python's floats are computed as before, the host's mode is as it was."""
    libm = ctypes.CDLL(None)
    before = libm.fegetround(), [1 / 3, -1 / 3, 2**0.5, 1e308 * 1.1, 5e-324 / 3]
    hart = Hart("fdiv.d fa0, fa1, fa2; fcvt.w.d a1, fa0; fmul.d fa3, fa4, fa4; fdiv.d fa5, fa1, fa6; done: j done")
    hart.csr(mstatus=3 << 13, frm=mode)
    for register, value in ((11, 1.0), (12, 3.0), (14, 1e-200), (16, 0.0)):
        hart.cpu.set_f(register, int.from_bytes(struct.pack("<d", value), "little"))
    hart.run()
    assert hart.read("fflags") == 1 | 2 | 8, "NX, UF and DZ"
    assert (libm.fegetround(), [1 / 3, -1 / 3, 2**0.5, 1e308 * 1.1, 5e-324 / 3]) == before
    assert libm.fetestexcept(0) == 0
