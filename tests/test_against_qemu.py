"""Random programs of every computing instruction, run here and by QEMU: all registers, flags and memory must be equal.

A program loads all registers from a table of interesting values, runs steps drawn from the rows of the instruction
table (forward branches and jumps included), stores all registers and `fcsr`, and prints its memory by HTIF. The seeds
are fixed; `VPOD_RANDOM_PROGRAMS=1000 python -m pytest tests/test_against_qemu.py` runs more of them. Left out are lr
(whether sc then succeeds after a store of the same hart is the implementation's choice, and QEMU's differs), and what
needs an environment: system instructions, CSRs other than the floating-point ones.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elf_maker import BASE, assemble, make_elf

from vpod import isa
from vpod.isa import Row

pytest.importorskip("vpod._cpu", reason="the core is not built: run `python setup.py build_ext --inplace`")

from vpod import bare, elf

QEMU = shutil.which("qemu-system-riscv64")
PROGRAMS = int(os.environ.get("VPOD_RANDOM_PROGRAMS", "25"))
STEPS = 120

Instruction = tuple[str, dict[str, int | str]]

# Where things are: the program, then from x31 on values, scratch memory (x30 points to it) and results
TABLE = 0x2000
SCRATCH, RESULTS, END = 0x400, 0x800, 0xB00  # from TABLE on
TOHOST = 0x4000
POINTERS = (30, 31)

INTEGERS = (0, 1, 2**64 - 1, 2**63, 2**63 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**64 - 2**31)
SINGLES = (
    0x00000000, 0x80000000, 0x3F800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC01234, 0x00000001,
    0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x4F000000, 0xCF000000, 0x5F000000, 0x4B800001,
)  # fmt: skip
DOUBLES = (
    0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0x7FF0000000000000, 0xFFF0000000000000,
    0x7FF8000000000000, 0x7FF0000000000001, 0x0000000000000001, 0x000FFFFFFFFFFFFF, 0x0010000000000000,
    0x7FEFFFFFFFFFFFFF, 0x4340000000000001, 0x41E0000000000000, 0xC1E0000000000000, 0x43E0000000000000,
)  # fmt: skip

COMPUTING = tuple(
    row
    for row in isa.ROWS
    if not {"system", "csr", "fence"} & isa.expand(row)[0].flags and isa.expand(row)[0].format != "lr"
)


def value(source: random.Random) -> int:
    """A register's 64 bits: an integer, a boxed single, a double, or anything."""
    kind = source.randrange(6)
    if kind < 3:
        return source.choice((INTEGERS, [2**64 - 2**32 | single for single in SINGLES], DOUBLES)[kind])
    if kind == 3:
        return 2**64 - 2**32 | source.getrandbits(32)
    return source.getrandbits(source.choice((8, 32, 64)))


def draw(source: random.Random, row: Row) -> dict[str, int | str] | None:
    """Random operands of `row`; None when they won't do: a reserved encoding, or one that overwrites a pointer."""
    word = source.getrandbits(8 * row.length) & ~row.mask | row.match
    insn = isa.decode(word)
    if insn is None or insn.row is not row or ("writes_x" in insn.base.flags and insn.rd in POINTERS):
        return None
    operands: dict[str, int | str] = {field: row.take(field, word) for field in row.fields}
    if "rm" in operands:
        operands["rm"] = source.choice((0, 1, 2, 3, 4, 7, 7, 7))
    return operands


def step(source: random.Random) -> list[Instruction]:
    """One instruction, with what it needs before it. Branches and jumps get their offsets in `link`."""
    while True:
        row = source.choice(COMPUTING)
        operands = draw(source, row)
        if operands is None:
            continue
        base, sources = isa.expand(row)
        if not base.flags & {"load", "store", "indirect"}:
            return [(row.name, operands)]
        if row.length == 4 and "indirect" not in base.flags:  # relative to the scratch memory
            operands["rs1"] = 30
            if "atomic" not in base.flags:
                operands["imm"] = source.randrange(SCRATCH - 8)
            return [(row.name, operands)]
        pointer = sources["rs1"] if isinstance(sources["rs1"], int) else operands["rs1"]
        if pointer in (0, *POINTERS):
            continue
        if "indirect" in base.flags:
            return [
                ("auipc", {"rd": pointer, "imm": 0}),
                ("addi", {"rd": pointer, "rs1": pointer}),
                (row.name, operands),
            ]
        return [("addi", {"rd": pointer, "rs1": 30, "imm": 0}), (row.name, operands)]


def size(instructions: list[Instruction]) -> int:
    return sum(isa.BY_NAME[name].length for name, _ in instructions)


def link(source: random.Random, steps: list[list[Instruction]]) -> Iterator[Instruction]:
    """Makes each branch and jump go to the beginning of one of the next four steps."""
    for index, instructions in enumerate(steps):
        name, operands = instructions[-1]
        flags = isa.expand(isa.BY_NAME[name])[0].flags
        if flags & {"branch", "jump"}:
            over = size([one for skipped in steps[index + 1 : index + 1 + source.randrange(4)] for one in skipped])
            if "indirect" in flags:  # auipc and addi made a pointer: it points there, less what jalr itself adds
                target = size(instructions) + over
                if name == "jalr":
                    operands["imm"] = source.randrange(-100, 100)
                    target -= int(operands["imm"])
                instructions[1][1]["imm"] = target
                if name == "jalr":
                    operands["rs1"] = instructions[0][1]["rd"]
            else:
                operands["imm"] = isa.BY_NAME[name].length + over
        yield from instructions


def floating_point_csr(source: random.Random) -> list[Instruction]:
    """Reads or sets the flags or the rounding mode."""
    if source.random() < 0.5:
        return [("csrrs", {"rd": source.randrange(1, 30), "imm": source.choice((1, 2, 3)), "rs1": 0})]
    return [("csrrwi", {"rd": 0, "imm": 2, "rs1": source.randrange(5)})]


def prologue() -> Iterator[Instruction]:
    yield "auipc", {"rd": 31, "imm": TABLE}
    yield "lui", {"rd": 1, "imm": 0x6000}
    yield "csrrs", {"rd": 0, "imm": 0x300, "rs1": 1}  # mstatus.FS
    for number in range(1, 30):
        yield "ld", {"rd": number, "rs1": 31, "imm": 8 * number}
    for number in range(32):
        yield "fld", {"rd": number, "rs1": 31, "imm": 8 * (32 + number)}
    yield "addi", {"rd": 30, "rs1": 31, "imm": SCRATCH}


def epilogue() -> Iterator[Instruction]:
    """Stores the registers, then prints everything from the table on, byte by byte, and ends with 0."""
    yield "addi", {"rd": 30, "rs1": 30, "imm": RESULTS - SCRATCH}
    for number in range(1, 30):
        yield "sd", {"rs2": number, "rs1": 30, "imm": 8 * number}
    for number in range(32):
        yield "fsd", {"rs2": number, "rs1": 30, "imm": 8 * (32 + number)}
    yield "csrrs", {"rd": 1, "imm": 3, "rs1": 0}
    yield "sd", {"rs2": 1, "rs1": 30, "imm": 0x200}
    yield "lui", {"rd": 5, "imm": TOHOST - TABLE}
    yield "add", {"rd": 5, "rs1": 5, "rs2": 31}
    yield "addi", {"rd": 6, "rs1": 30, "imm": END - RESULTS}
    yield "addi", {"rd": 7, "rs1": 0, "imm": 0x101}  # the console's "write a character"
    yield "slli", {"rd": 7, "rs1": 7, "imm": 48}
    yield "lbu", {"rd": 8, "rs1": 31, "imm": 0}
    yield "or", {"rd": 8, "rs1": 8, "rs2": 7}
    yield "sd", {"rs2": 8, "rs1": 5, "imm": 0}
    yield "ld", {"rd": 8, "rs1": 5, "imm": 0}
    yield "bne", {"rs1": 8, "rs2": 0, "imm": -4}
    yield "addi", {"rd": 31, "rs1": 31, "imm": 1}
    yield "bltu", {"rs1": 31, "rs2": 6, "imm": -24}
    yield "addi", {"rd": 8, "rs1": 0, "imm": 1}
    yield "sd", {"rs2": 8, "rs1": 5, "imm": 0}
    yield "jal", {"rd": 0, "imm": 0}


def random_program(seed: int) -> bytes:
    """The ELF file of one program."""
    source = random.Random(seed)
    steps = [floating_point_csr(source) if source.random() < 0.1 else step(source) for _ in range(STEPS)]
    code = assemble(*prologue(), *link(source, steps), *epilogue())
    values = struct.pack("<64Q", *(value(source) for _ in range(64)))
    memory = code.ljust(TABLE, b"\0") + values.ljust(SCRATCH, b"\0") + source.randbytes(RESULTS - SCRATCH)
    return make_elf(memory, symbols={"tohost": BASE + TOHOST, "fromhost": BASE + TOHOST + 64}, size=0x5000)


def where(offset: int) -> str:
    """What stands at `offset` of the printed memory."""
    number = (offset - RESULTS) // 8
    if number < 0:
        return f"memory at {offset:#x}"
    return "fcsr" if number == 64 else f"f{number - 32}" if number >= 32 else f"x{number}"


@pytest.mark.skipif(QEMU is None, reason="needs qemu-system-riscv64")
@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_program(seed: int, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(random_program(seed))
    assert QEMU is not None
    command = [QEMU, "-M", "spike", "-cpu", "rv64,v=false", "-bios", "none", "-nographic", "-kernel", str(program)]
    theirs = subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    ours = bytearray()
    parsed = elf.parse(program.read_bytes())
    result = bare.run(parsed, lambda fd, data: ours.extend(data), memory=1 << 20, max_instructions=50_000_000)
    assert (result.exit_code, theirs.returncode) == (0, 0), result.reason or theirs.stderr.decode()
    assert len(ours) == len(theirs.stdout) == END
    different = [
        f"{where(at)}: {ours[at : at + 8][::-1].hex()}, QEMU {theirs.stdout[at : at + 8][::-1].hex()}"
        for at in range(0, END, 8)
        if ours[at : at + 8] != theirs.stdout[at : at + 8]
    ]
    assert different == []


def test_every_computing_instruction_is_drawn() -> None:
    source = random.Random(1)
    drawn = {name for _ in range(20_000) for name, _ in step(source)}
    assert drawn == {row.name for row in COMPUTING}
