"""What floating point must refuse: reserved rounding modes, in frm and in the instruction, and everything with FS off.

The unprivileged specification ("Floating-Point Control and Status Register") reserves the modes 101 and 110, and 111
in frm. To vpod, as to QEMU, an instruction that would round by one is illegal; those without a mode are left alone.
One image tries all of it on both machines, with a handler that notes the trap and goes on.

Invariants: each trial leaves `WORDS` words: mcause, mtval, the trap's pc less the instruction's, the destination, and
fflags, which say together that the instruction was refused, precisely, and changed nothing (or not refused, and what
it did).

    >>> compare().differences
    ()
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from tests.machine_code import RAM, assemble
from tests.proof.board import FINISHER, on_qemu, on_vpod
from tests.proof.floats_image import ROWS
from tests.proof.pieces import Outcome

RESULTS_AT, WORDS = 0x10_0000, 5
ON = 0x6000
FIRST, SECOND, THIRD, BEFORE = 0x3FF8_0000_0000_0000, 0x4008_0000_0000_0001, 0xFFFF_FFFF_3F80_0000, 0x1234_5678
ILLEGAL = 2


@dataclass(frozen=True)
class Trial:
    """One instruction with its own rounding mode ("" if it has none), the value of frm, and mstatus.FS."""

    name: str
    rm: str
    frm: int
    status: int = ON

    def __str__(self) -> str:
        return f"{self.name} {self.rm} with frm {self.frm} and FS {self.status >> 13}"

    @property
    def in_x(self) -> bool:
        return "rd" in ROWS[self.name].operands

    def text(self) -> str:
        operands = [operand for operand in ROWS[self.name].operands if operand != "rm"]
        names = {"rd": "a0", "fd": "fa0", "rs1": "a1", "fs1": "fa1", "fs2": "fa2", "fs3": "fa3"}
        return f"{self.name} {', '.join([*(names[operand] for operand in operands), *([self.rm] if self.rm else [])])}"


def trials() -> Iterable[Trial]:
    for name, row in ROWS.items():
        if "rounds" in row.flags:
            yield from (Trial(name, "dyn", frm) for frm in range(8))
            yield from (Trial(name, rm, frm) for rm in ("rm5", "rm6") for frm in (0, 4, 7))
            yield Trial(name, "rne", 5)
        yield from (Trial(name, "rne" if "rounds" in row.flags else "", frm, 0) for frm in (0, 5))


def image(tried: Iterable[Trial]) -> bytes:
    lines = [
        f"la t0, handler; csrw mtvec, t0; li s0, {RAM + RESULTS_AT}; li s1, {ON}; csrs mstatus, s1",
        f"li a1, {FIRST}; li a2, {SECOND}; li a3, {THIRD}; li a4, {BEFORE}",
        "fmv.d.x fa1, a1; fmv.d.x fa2, a2; fmv.d.x fa3, a3; j start",
        ".align 4",
        "handler: csrr s2, mcause; csrr s3, mtval; csrr s4, mepc; addi t0, s4, 4; csrw mepc, t0; mret",
        "start:",
    ]
    for number, trial in enumerate(tried):
        lines += [
            f"mv a0, a4; fmv.d.x fa0, a4; csrrwi zero, fflags, 0; csrrwi zero, frm, {trial.frm}",
            f"li s2, -1; li s3, -1; la s5, at{number}; li s4, -1; add s4, s4, s5",
            *([] if trial.status else ["csrc mstatus, s1"]),
            f"at{number}: {trial.text()}",
            f"csrs mstatus, s1; sub s4, s4, s5; {'mv t0, a0' if trial.in_x else 'fmv.x.d t0, fa0'}; csrr t1, fflags",
            "sd s2, 0(s0); sd s3, 8(s0); sd s4, 16(s0); sd t0, 24(s0); sd t1, 32(s0); addi s0, s0, 40",
        ]
    lines += [f"li t0, {FINISHER}; li t1, 0x5555; sw t1, 0(t0); j ."]
    code = assemble("\n".join(lines)).code
    assert len(code) < RESULTS_AT
    return code


def compare() -> Outcome:
    """Every trial on both machines."""
    tried = list(trials())
    code, length = image(tried), RESULTS_AT + 8 * WORDS * len(tried)
    ours, theirs = (
        list(struct.iter_unpack(f"<{WORDS}Q", machine(code, length=length).memory[RESULTS_AT:]))
        for machine in (on_vpod, on_qemu)
    )
    differences = tuple(
        f"{trial}: cause, tval, pc, result, fflags are {[hex(word) for word in found]} on vpod, "
        f"{[hex(word) for word in expected]} under QEMU"
        for trial, found, expected in zip(tried, ours, theirs, strict=True)
        if found != expected
    )
    refused = sum(found[0] == ILLEGAL for found in ours)
    return Outcome({"refused": refused, "not refused": len(tried) - refused}, differences)
