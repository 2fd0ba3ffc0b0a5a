"""The `encodings` target itself: what it executes, what it would notice, and that its oracles know their subject."""

from __future__ import annotations

import dataclasses
import shutil
import struct

import pytest

pytest.importorskip("vpod._cpu", reason="the core is not built: run `python setup.py build_ext --inplace`")

from tests.proof import encodings
from tests.proof.board import Finished, on_vpod
from tests.proof.encodings_image import RECORDS, SLOT, image, records
from tests.proof.listing import Context, legal
from vpod import disasm, isa
from vpod.bus import RAM_BASE

M, U = Context("M"), Context("U")
ILLEGAL, BREAKPOINT, ECALL_U, TIMER = 2, 3, 8, 1 << 63 | 7

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-riscv64") is None, reason="needs qemu-system-riscv64")
needs_objdump = pytest.mark.skipif(
    shutil.which("riscv64-linux-gnu-objdump") is None, reason="needs riscv64-linux-gnu-objdump"
)


# The listing


@pytest.mark.parametrize(
    ("text", "context", "expected"),
    [
        ("mret", M, True),
        ("mret", Context("S"), False),
        ("sret", Context("S"), True),
        ("sret", Context("S", trapped=True), False),
        ("wfi", U, False),
        ("ecall", U, True),
        ("fadd.d", Context("M", frm=4), True),
        ("fadd.d", Context("M", frm=5), False),
        ("fadd.d", Context("U", floating=False), False),
        ("fmin.d", Context("M", frm=5), True),
        ("c.fld", Context("M", floating=False), False),
    ],
)
def test_the_listing_knows_the_context(text: str, context: Context, expected: bool) -> None:
    row = isa.BY_NAME[text]
    assert legal(row.match | (7 << 12 if "rm" in row.fields else 0), context) is expected


def test_the_listing_and_the_table_agree_on_every_compressed_encoding() -> None:
    halves = [half for half in range(1 << 16) if half & 3 != 3]
    assert [half for half in halves if legal(half, M) != (isa.find(half) is not None)] == []


def test_the_listing_knows_every_row_of_the_table() -> None:
    """With any operands; CSR numbers aside, of which there are few."""
    for row in isa.BASE_ROWS:
        if "csr" not in row.flags:
            assert legal(row.match, M) and legal(row.match | ~row.mask & 0x01FF_0F80 & ~(1 << 24), M), row.name


# The monitor, on the core alone


def executed(words: list[int], context: Context, **how: bool) -> list[tuple[int, int, int]]:
    """Cause, previous privilege and offset of the trap from the case's slot."""
    found = records(on_vpod(image(words, context, **how)).memory, len(words))
    places = [SLOT + (0 if how.get("lone") else 16 * index) for index in range(len(words))]
    return [(record.cause, record.previous, record.epc - at) for record, at in zip(found, places, strict=True)]


def test_a_case_ends_where_it_stands_or_after_it() -> None:
    words = [disasm.encode("c.ebreak"), disasm.encode("ecall"), disasm.encode("addi", rd=1, rs1=1, imm=1), 0x4501, 0]
    assert executed(words, U) == [
        (BREAKPOINT, 0, 0), (ECALL_U, 0, 0), (ILLEGAL, 0, 4), (ILLEGAL, 0, 2), (ILLEGAL, 0, 0)
    ]  # fmt: skip


def test_a_jump_to_itself_is_ended_by_the_timer() -> None:
    assert executed([disasm.encode("c.j", imm=0)], U, lone=True, timed=True) == [(TIMER, 0, 0)]


def test_every_difference_of_registers_shows_in_the_hash() -> None:
    words = [disasm.encode("addi", rd=rd, rs1="sp", imm=1) for rd in range(1, 32)]
    words += [disasm.encode("fsgnjn.d", rd=rd, rs1=3, rs2=3) for rd in range(32)]
    found = records(on_vpod(image(words, M)).memory, len(words))
    assert len({record.registers for record in found}) == len(words)


# What is swept


def test_kinds() -> None:
    kinds = {
        "sw": "writer", "amoadd.d": "writer", "c.fsdsp": "writer", "ld": "plain", "c.jr": "plain", "jalr": "plain",
        "beq": "loop", "jal": "loop", "c.j": "loop", "csrrw": "csr", "wfi": "system",
    }  # fmt: skip
    assert {name: encodings.kind_of(isa.BY_NAME[name].match) for name in kinds} == kinds
    assert encodings.kind_of(disasm.encode("jal", rd=1, imm=4)) == "jump"
    assert encodings.kind_of(disasm.encode("bne", rs1=1, rs2=2, imm=-2)) == "jump"
    assert encodings.kind_of(disasm.encode("bne", rs1=1, rs2=2, imm=2)) == "loop"  # it may jump to a jump to itself


def test_the_sweeps_have_every_place_in_the_map() -> None:
    places = {word & 0xFFF0_707F for part in range(3) for word in encodings.full(part, 3, 1)}
    assert len(places) == (1 << 20) - 6 * (1 << 12)  # the CSR instructions have a sweep of their own
    numbers = {words[-1] >> 20 for words in encodings.csr_cases(M)}
    assert numbers == set(range(1 << 12))
    elsewhere = {row.name for row in isa.ROWS if row.length == 2 or {"csr", "system"} & row.flags}
    assert set(encodings.missing_rows(word for word in places if legal(word, M))) <= elsewhere
    assert set(encodings.missing_rows(encodings.privileged(1))) & elsewhere == {
        row.name for row in isa.ROWS if row.length == 2 or "csr" in row.flags
    }


def test_forms() -> None:
    for form in ("short", "long"):
        pieces = encodings.pieces(form, 1)
        names = {name for piece in pieces for name in str(piece.arguments.get("contexts", "M")).split("+")}
        assert names <= encodings.CONTEXTS.keys()
        assert len({str(piece.arguments) for piece in pieces}) == len(pieces)


# What it would notice


@needs_qemu
def test_a_piece() -> None:
    outcome = encodings.run(sweep="rounding", contexts="M+M-frm5+U-off")
    assert outcome.differences == () and outcome.counts == {"encodings executed": 3456, "of them legal": 864 + 720}
    assert outcome.missing is not None and "fadd.d" not in outcome.missing and "addi" in outcome.missing


@needs_qemu
@pytest.mark.parametrize(
    ("field", "value"), [(1, SLOT + 7 * 16), (0, 2 | 1 << 11), (0, 3 | 3 << 11), (1, SLOT + 2), (2, 1), (3, 5)],
    ids=["illegal", "previous privilege", "cause", "place", "value", "registers"],
)  # fmt: skip
def test_a_record_of_the_core_that_is_wrong_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, field: int, value: int
) -> None:
    def wrong(code: bytes, **how: int) -> Finished:
        found = on_vpod(code, **how)
        memory = bytearray(found.memory)
        struct.pack_into("<Q", memory, RECORDS - RAM_BASE + 32 * 7 + 8 * field, value)
        return dataclasses.replace(found, memory=bytes(memory))

    words = [disasm.encode("addi", rd=rd, rs1=1, imm=0) for rd in range(9)]
    tally = encodings.Tally()
    encodings.execute(((word,) for word in words), M, tally)
    assert tally.differences == []
    monkeypatch.setattr(encodings, "on_vpod", wrong)
    encodings.execute(((word,) for word in words), M, tally)
    assert len(tally.differences) == 1 and "addi t2, ra, 0" in tally.differences[0]


@needs_qemu
def test_both_machines_against_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "legal", lambda word, context: word != 0x8067 and legal(word, context))
    tally = encodings.Tally()
    encodings.execute([(0x8067,), (0x8093,)], M, tally)
    assert len(tally.differences) == 1 and "word 0 is illegal" in tally.differences[0]


@needs_objdump
def test_binutils_notices_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = encodings.Tally()
    words = [disasm.encode("add", rd=1, rs1=2, rs2=3), disasm.encode("sub", rd=1, rs1=2, rs2=3), 0x0000_705B]
    encodings.decode(words, tally)
    assert tally.differences == [] and tally.counts == {"encodings decoded": 3}
    monkeypatch.setitem(encodings.NAMES, isa.OPCODES["OP_SUB"], "add")
    encodings.decode(words, tally)
    assert tally.differences == ["0x403100b3: add, binutils sub"]
