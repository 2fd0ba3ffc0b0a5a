"""The bare-metal image of the `encodings` target: a monitor that executes encodings one by one and records each trap.

A *case* is eight bytes: one instruction, or a prefix that sets up a register and one instruction, and then zeros, the
defined illegal instruction, whose mtval is 0 everywhere. The monitor copies cases from a list into slots, executes
`fence.i`, and for each slot resets what a case may have changed, loads all registers, and goes there by `mret` in the
context's mode. Whatever happens ends in a trap to M and leaves a record: cause and previous privilege, mepc, mtval, and
a hash of all integer and floating-point registers and fcsr.

    RAM + 0         monitor, its tables, the registers' values
    RAM + 2 MiB     the slots; around them zeros, in which jumps of up to 1 MiB end at once
    RAM + 4 MiB     8 KiB of scratch memory: all registers point to its middle; it is full of reserved encodings
    RAM + 5 MiB     the cases
    RAM + 12 MiB    the records

Slots are 16 bytes apart, `DENSE` of them, or one alone in its zeros for cases that jump from where they are (`lone`).
A case that would jump to itself for ever is ended by the timer (`timed`). With `restore` the monitor also resets the
CSRs that system instructions write.

Invariant: a case can spoil nothing that outlives it but the scratch memory, which is part of the result.

    >>> (record,) = records(on_vpod(image([0x9002], Context("U"))).memory, 1)        # c.ebreak
    >>> record.cause, record.epc == SLOT
    (3, True)
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import NamedTuple

from tests.machine_code import assemble
from tests.proof.listing import Context
from vpod.bus import RAM_BASE
from vpod.disasm import F_NAMES

MIB = 1 << 20
SLOT, SCRATCH, CASES, RECORDS = (RAM_BASE + offset * MIB for offset in (2, 4, 5, 12))
SCRATCH_SIZE = 8 << 10
DENSE, PITCH = 128, 16
CAPACITY = 1 << 19  # cases that fit into one image
LENGTH = RECORDS - RAM_BASE + 32 * CAPACITY  # of memory that holds the result
FS, MPIE = 3 << 13, 1 << 7
TRAPPED = 7 << 20  # mstatus.TVM, TW, TSR
PATIENCE = 20_000  # ticks of 100 ns until the timer ends a case; a busy host may stop us for a while before it begins

MONITOR = """
    start:
        la t0, handler; csrw mtvec, t0
        {restore_once}
        li s0, CASES; li s1, RECORDS; li s2, ROUNDS; j refill
        .align 64
    handler:                        # an immediate written to mtvec may move it by a few entries
        j trapped; j trapped; j trapped; j trapped; j trapped; j trapped; j trapped; j trapped
    trapped:
        csrw mscratch, t6; la t6, save
        {save_x}
        csrr t0, mscratch; sd t0, 248(t6)
        csrr s3, mcause; csrr s4, mepc; csrr s5, mtval; csrr t0, mstatus; li t1, 3 << 11; and t0, t0, t1; or s3, s3, t0
        la t0, handler; csrw mtvec, t0
        li t0, FLOATING; csrs mstatus, t0
        csrr s7, fcsr
        {save_f}
        li t2, 0x9e3779b97f4a7c15
        {hash}
        la t6, state; ld s0, 0(t6); ld s1, 8(t6); ld s2, 16(t6); ld s8, 24(t6); ld s9, 32(t6)
        sd s3, 0(s1); sd s4, 8(s1); sd s5, 16(s1); sd s7, 24(s1); addi s1, s1, 32
        addi s8, s8, PITCH; addi s9, s9, -1; bnez s9, enter
        addi s2, s2, -1; beqz s2, finish
    refill:                         # s0: cases, s1: records, s2: rounds left; then s8: the slot, s9: slots left
        li s8, SLOT; li s9, SLOTS
    copy:
        ld t0, 0(s0); sd t0, 0(s8); sd zero, 8(s8); addi s0, s0, 8; addi s8, s8, PITCH; addi s9, s9, -1; bnez s9, copy
        fence.i
        li s8, SLOT; li s9, SLOTS
    enter:
        la t6, state; sd s0, 0(t6); sd s1, 8(t6); sd s2, 16(t6); sd s8, 24(t6); sd s9, 32(t6)
        {restore}
        li t0, SLOT - 1024; csrw sepc, t0
        li t0, FLOATING; csrs mstatus, t0; li t0, FRM << 5; csrw fcsr, t0
        la t6, floats
        {load_f}
        csrw mepc, s8; li t0, STATUS; csrw mstatus, t0
        {timer}
        la t6, integers
        {load_x}
        mret
    finish:
        li t0, 0x100000; li t1, 0x5555; sw t1, 0(t0); j .
        .align 4096                     # apart from the code: QEMU is slow where a page of code is written
    state: .space 64
    save: .space 512
    integers: .dword {integers}
    floats: .dword {floats}
"""

# What is the same for all cases; with `restore`, again before each. A supervisor software interrupt pends, is enabled
# and is delegated, so that WFI returns at once where it is legal; it is never taken.
RESTORE = """
    csrw medeleg, zero; li t0, 2; csrw mideleg, t0; csrw mie, zero; li t0, MIE; csrw mie, t0; li t0, 2; csrw mip, t0
    li t0, 7; csrw mcounteren, t0; csrw scounteren, t0; csrw mcountinhibit, zero; csrw satp, zero
    li t0, 1 << 63; csrw menvcfg, t0; li t0, -1; csrw stimecmp, t0; li t0, SLOT - 2048; csrw stvec, t0
    csrw pmpcfg0, zero; csrw pmpcfg2, zero; li t0, -1; srli t0, t0, 10; csrw pmpaddr0, t0; li t0, 0x1f; csrw pmpcfg0, t0
"""
NO_TIMER = "li t0, 0x2004000; li t1, -1; sd t1, 0(t0);"
TIMER = "li t0, 0x200bff8; ld t1, 0(t0); li t0, PATIENCE; add t1, t1, t0; li t0, 0x2004000; sd t1, 0(t0)"


class Record(NamedTuple):
    """What one case left: mcause with the previous privilege, mepc, mtval, and the hash of the registers."""

    trap: int
    epc: int
    tval: int
    registers: int

    @property
    def cause(self) -> int:
        return self.trap & ~(3 << 11)

    @property
    def previous(self) -> int:
        return self.trap >> 11 & 3


def _registers() -> tuple[str, str]:
    """Integer registers point into the scratch memory, no two alike; the others are doubles or boxed singles."""
    integers = [SCRATCH + SCRATCH_SIZE // 2 + 16 * number for number in range(32)]
    doubles = struct.unpack("<32Q", struct.pack("<32d", *(1.5 * (number - 11) for number in range(32))))
    singles = struct.unpack("<32I", struct.pack("<32f", *(0.75 * (17 - number) for number in range(32))))
    floats = [0xFFFF_FFFF << 32 | singles[number] if number % 2 else doubles[number] for number in range(32)]
    return ", ".join(map(str, integers)), ", ".join(map(str, floats))


@functools.cache
def monitor(context: Context, rounds: int, lone: bool, timed: bool, restore: bool) -> bytes:
    """The monitor's code for these cases."""
    supervisor = 0 if context.mode == "U" else 2  # in U a delegated interrupt that is enabled would be taken
    integers, floats = _registers()
    mix = "ld t1, {0}(t6); xor s7, s7, t1; mul s7, s7, t2; srli t3, s7, 29; xor s7, s7, t3"
    source = MONITOR.format(
        restore_once=RESTORE + NO_TIMER,
        restore=RESTORE if restore else "",
        timer=TIMER if timed else "",
        save_x="; ".join(f"sd x{n}, {8 * n}(t6)" for n in range(1, 31)),
        save_f="; ".join(f"fsd {name}, {256 + 8 * n}(t6)" for n, name in enumerate(F_NAMES)),
        hash="\n".join(mix.format(8 * n) for n in range(1, 64)),
        load_f="; ".join(f"fld {name}, {8 * n}(t6)" for n, name in enumerate(F_NAMES)),
        load_x="; ".join(f"ld x{n}, {8 * n}(t6)" for n in range(1, 32)),
        integers=integers,
        floats=floats,
    )
    status = context.level << 11 | (FS if context.floating else 0)
    status |= (TRAPPED if context.trapped else 0) | (MPIE if timed else 0)
    symbols = {
        "CASES": CASES, "RECORDS": RECORDS, "ROUNDS": rounds,
        "SLOT": SLOT, "SLOTS": 1 if lone else DENSE, "PITCH": PITCH,
        "FLOATING": FS, "FRM": context.frm, "STATUS": status, "MIE": supervisor | (1 << 7 if timed else 0),
        "PATIENCE": PATIENCE,
    }  # fmt: skip
    return assemble(source, RAM_BASE, **symbols).code


def image(
    cases: Sequence[int], context: Context, *, lone: bool = False, timed: bool = False, restore: bool = False
) -> bytes:
    """The image that executes `cases`, at most CAPACITY of them."""
    slots = 1 if lone else DENSE
    rounds = -(-len(cases) // slots)
    if not 0 < len(cases) <= CAPACITY - DENSE:
        raise ValueError(f"{len(cases)} cases: one image holds 1 to {CAPACITY - DENSE}")
    padded = [*cases, *[0] * (rounds * slots - len(cases))]
    parts = {
        RAM_BASE: monitor(context, rounds, lone, timed, restore),
        SCRATCH: b"".join(struct.pack("<H", 0x8000 | (n % 2048) << 2) for n in range(SCRATCH_SIZE // 2)),
        CASES: struct.pack(f"<{len(padded)}Q", *padded),
    }
    memory = bytearray(max(at + len(data) for at, data in parts.items()) - RAM_BASE)
    for at, data in parts.items():
        memory[at - RAM_BASE : at - RAM_BASE + len(data)] = data
    return bytes(memory)


def records(memory: bytes, count: int) -> list[Record]:
    """The records of the first `count` cases in the memory that a run left."""
    start = RECORDS - RAM_BASE
    return [Record(*fields) for fields in struct.iter_unpack("<4Q", memory[start : start + 32 * count])]


def scratch(memory: bytes) -> bytes:
    """The scratch memory as the cases left it."""
    return memory[SCRATCH - RAM_BASE : SCRATCH - RAM_BASE + SCRATCH_SIZE]
