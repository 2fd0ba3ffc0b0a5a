"""Random user-level programs on the core and on Unicorn: all registers and all memory must be equal.

Unicorn is QEMU's translator as a library, an independent implementation down to its decoder. Programs are forward-only
(so they end), with branches and jumps over the next few instructions, loads and stores at any alignment, atomics, and
every compressed form. Invariants of a program: x8 and x9 point into its data and are never written, x2 neither;
everything else is fair game.

Rows left out, because this oracle (Unicorn 2, QEMU 5.0) knows otherwise or has no say:

* `ecall`, `ebreak`, `c.ebreak`: they trap; `fence.i` and CSRs: not user-level state.
* `sc.w`, `sc.d` without their `lr`: QEMU compares values where the specification speaks of reservations ("A store
  conditional ... succeeds only if the reservation is still valid"), so they appear only as pairs here.
* `jalr`, `c.jr`, `c.jalr`, `c.addi16sp`: their registers would break the invariants; `test_core_integer.py` has them.
* F and D: QEMU 5.0 neither checks NaN boxes nor has 2.2's fmin and fmax; `test_exec_fp.py` has other oracles.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from machine_code import RAM, Hart, word

from vpod import isa

unicorn = pytest.importorskip("unicorn", reason="the independent emulator: pip install unicorn (extra `test`)")
riscv = pytest.importorskip("unicorn.riscv_const")

CODE, DATA, SIZE = RAM, RAM + 0x1_0000, 0x2000  # data crosses a page in the middle, where x8 and x9 point
MIDDLE = DATA + SIZE // 2
BASES = {8: MIDDLE, 9: MIDDLE + 0x123, 2: MIDDLE - 0x280}
ALIGNED = 21  # x21 holds an aligned address for atomics
PROGRAM = 48  # instructions
BATCH = 400  # programs a test
INTERESTING = (
    0,
    1,
    2,
    31,
    32,
    63,
    64,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)

SKIPPED = {"ecall", "ebreak", "c.ebreak", "fence.i", "sc.w", "sc.d", "jalr", "c.jr", "c.jalr", "c.addi16sp"}
ROWS = [row for row in isa.ROWS if row.extension in ("I", "M", "A", "C") and row.name not in SKIPPED]
ROWS = [row for row in ROWS if not isa.expand(row)[0].flags & {"fp", "csr"}]
MEMORY = {row.name for row in ROWS if isa.expand(row)[0].flags & {"load", "store"}}


class Generator:
    """Programs from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def fields(self, row: isa.Row) -> dict[str, int]:
        """Random operands that keep the invariants above."""
        found: dict[str, int] = {}
        for name, slices in row.fields.items():
            width = sum(part.width for part in slices)
            if name == "imm":
                found[name] = row.take(name, sum(part.put(self.random.getrandbits(64)) for part in slices))
            else:
                found[name] = self.random.randrange(1 << width) + row.bias(name)
        if row.name in MEMORY and "rs1" in found:
            found["rs1"] = ALIGNED if "atomic" in row.flags else self.random.choice((8, 9))
        return found

    def one(self) -> list[bytes]:
        """One instruction, or an LR and its SC."""
        while True:
            row = self.random.choice(ROWS)
            fields = self.fields(row)
            if fields.get("rd") in (2, 8, 9, ALIGNED):
                continue
            if row.flags & {"branch", "jump"}:
                return [row.name.encode()]
            try:
                code = word(row.name, **fields)
            except ValueError:
                continue  # a reserved combination
            if row.name.startswith("lr."):
                other = word(
                    "sc." + row.name[3:], rd=self.register(), rs1=ALIGNED, rs2=self.random.randrange(32), imm=3
                )
                return [code, other]
            return [code]

    def register(self) -> int:
        return self.random.choice([n for n in range(32) if n not in (2, 8, 9, ALIGNED)])

    def program(self) -> bytes:
        """Forward jumps are placed last, when the sizes are known: each goes over the next one to six instructions."""
        parts = [part for _ in range(PROGRAM) for part in self.one()]
        parts += [word("addi", rd=0, rs1=0, imm=0)] * 8
        sizes = [
            len(part) if part.decode("latin1") not in isa.BY_NAME else isa.BY_NAME[part.decode()].length
            for part in parts
        ]
        for n, part in enumerate(parts):
            if part.decode("latin1") in isa.BY_NAME:
                parts[n] = self.jump(isa.BY_NAME[part.decode()], sum(sizes[n : n + self.random.randrange(1, 8)]))
        return b"".join(parts) + word("jal", rd=0, imm=0)

    def jump(self, row: isa.Row, offset: int) -> bytes:
        fields = {**self.fields(row), "imm": offset}
        if "rd" in fields:
            fields["rd"] = self.register()
        return word(row.name, **fields)

    def registers(self) -> list[int]:
        values = [self.random.choice((*INTERESTING, self.random.getrandbits(64))) for _ in range(32)]
        values[0] = 0
        for number, base in BASES.items():
            values[number] = base
        values[ALIGNED] = MIDDLE + 8 * self.random.randrange(-64, 64)
        return values


class Oracle:
    """One Unicorn machine, used again for each program."""

    def __init__(self) -> None:
        self.machine: Any = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        self.machine.mem_map(RAM, 0x2_0000)
        self.names = [riscv.UC_RISCV_REG_X0 + n for n in range(32)]

    def run(self, code: bytes, registers: list[int], data: bytes) -> tuple[list[int], bytes]:
        end = CODE + len(code) - 4
        self.machine.mem_write(CODE, code)
        self.machine.mem_write(DATA, data)
        self.machine.ctl_remove_cache(CODE, CODE + 0x1000)
        for name, value in zip(self.names[1:], registers[1:], strict=True):
            self.machine.reg_write(name, value)
        self.machine.emu_start(CODE, end, count=PROGRAM * 4)
        assert self.machine.reg_read(riscv.UC_RISCV_REG_PC) == end
        return [self.machine.reg_read(name) for name in self.names], bytes(self.machine.mem_read(DATA, SIZE))


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_agree_with_unicorn(seed: int) -> None:
    generator, oracle, hart = Generator(seed), Oracle(), Hart()
    for number in range(BATCH):
        code, registers = generator.program(), generator.registers()
        data = generator.random.randbytes(SIZE)
        wanted = oracle.run(code, registers, data)
        hart.cpu.write(CODE, code)
        hart.cpu.write(DATA, data)
        for n in range(1, 32):
            hart.cpu.set_x(n, registers[n])
        hart.cpu.pc = CODE
        hart.cpu.run(PROGRAM * 4)
        where = f"seed {seed}, program {number}: {code.hex()}, {hart.describe()}"
        assert hart.cpu.pc == CODE + len(code) - 4, where
        found = hart.registers()
        differing = [f"x{n}: {found[n]:#x}, Unicorn {wanted[0][n]:#x}" for n in range(32) if found[n] != wanted[0][n]]
        assert not differing, f"{differing}; {where}"
        assert hart.cpu.read(DATA, SIZE) == wanted[1], where


def test_the_programs_use_every_row_they_can() -> None:
    generator = Generator(99)
    seen = set()
    for _ in range(BATCH):
        code = generator.program()
        while code:
            row = isa.find(int.from_bytes(code[:4], "little"))
            assert row is not None
            seen.add(row.name)
            code = code[row.length :]
    assert seen >= {row.name for row in ROWS}
