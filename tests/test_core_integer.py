"""RV64IMAC, one row at a time: the core against a model that restates the specification in Python's integers.

The model knows neither the core nor the table's expansions: a result is a function of two 64-bit operands, written
from volume I ("RV32I", "RV64I", "M", "A", "C"). Operands are biased to where implementations break: zero, one, minus
one, the sign boundaries of each width, shift amounts beyond the width, division by zero and its overflow. Random
programs against another emulator are in `test_proof_user.py`.

    hart with rs1 = 2**63, rs2 = -1:  div gives 2**63, rem gives 0
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from machine_code import ONES, RAM, STEP, Hart, Trap, signed, word

from vpod import isa

B = 1 << 63
W = 1 << 31
OPERANDS = [
    0, 1, 2, 31, 32, 33, 63, 64, 65, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, W - 1, W, W + 1, 2 * W - 1, 2 * W,
    0xFFFF_FFFF_7FFF_FFFF, 0xFFFF_FFFF_8000_0000, 0x0123_4567_89AB_CDEF, B - 1, B, B + 1, ONES - 1, ONES,
]  # fmt: skip
IMMEDIATES = [-2048, -2047, -256, -33, -2, -1, 0, 1, 2, 31, 32, 63, 127, 255, 1024, 2046, 2047]
DATA = RAM + 0x8000


def w(value: int) -> int:
    """A 32-bit result as a register holds it: sign-extended, RV64I "Integer Computational Instructions"."""
    return signed(value, 32) & ONES


def quotient(a: int, b: int, otherwise: int) -> int:
    """Division rounding towards zero; M extension, "Division Operations": by zero it is all ones."""
    return otherwise if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    """The sign is the dividend's; by zero it is the dividend."""
    return a if b == 0 else a - b * quotient(a, b, 0)


def s(value: int) -> int:
    return signed(value, 64)


def s32(value: int) -> int:
    return signed(value, 32)


def u32(value: int) -> int:
    return value & 0xFFFF_FFFF


Binary = Callable[[int, int], int]

ALU: dict[str, Binary] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "sll": lambda a, b: a << b % 64,
    "slt": lambda a, b: int(s(a) < s(b)),
    "sltu": lambda a, b: int(a < b),
    "xor": lambda a, b: a ^ b,
    "srl": lambda a, b: a >> b % 64,
    "sra": lambda a, b: s(a) >> b % 64,
    "or": lambda a, b: a | b,
    "and": lambda a, b: a & b,
    "addw": lambda a, b: w(a + b),
    "subw": lambda a, b: w(a - b),
    "sllw": lambda a, b: w(a << b % 32),
    "srlw": lambda a, b: w(u32(a) >> b % 32),
    "sraw": lambda a, b: w(s32(a) >> b % 32),
    "mul": lambda a, b: a * b,
    "mulh": lambda a, b: s(a) * s(b) >> 64,
    "mulhsu": lambda a, b: s(a) * b >> 64,
    "mulhu": lambda a, b: a * b >> 64,
    "div": lambda a, b: quotient(s(a), s(b), -1),
    "divu": lambda a, b: quotient(a, b, -1),
    "rem": lambda a, b: remainder(s(a), s(b)),
    "remu": lambda a, b: remainder(a, b),
    "mulw": lambda a, b: w(a * b),
    "divw": lambda a, b: w(quotient(s32(a), s32(b), -1)),
    "divuw": lambda a, b: w(quotient(u32(a), u32(b), -1)),
    "remw": lambda a, b: w(remainder(s32(a), s32(b))),
    "remuw": lambda a, b: w(remainder(u32(a), u32(b))),
}
IMMEDIATE: dict[str, Binary] = {  # the second operand is the sign-extended immediate, or the shift amount
    **{name + "i": ALU[name] for name in ("add", "slt", "xor", "or", "and", "sll", "srl", "sra")},
    "sltiu": lambda a, b: int(a < b & ONES),
    **{name: ALU[name.replace("iw", "w")] for name in ("addiw", "slliw", "srliw", "sraiw")},
}
BRANCH: dict[str, Callable[[int, int], bool]] = {
    "beq": lambda a, b: a == b,
    "bne": lambda a, b: a != b,
    "blt": lambda a, b: s(a) < s(b),
    "bge": lambda a, b: s(a) >= s(b),
    "bltu": lambda a, b: a < b,
    "bgeu": lambda a, b: a >= b,
}
LOAD: dict[str, tuple[int, bool]] = {  # size, sign-extended
    "lb": (1, True), "lh": (2, True), "lw": (4, True), "ld": (8, True), "lbu": (1, False), "lhu": (2, False),
    "lwu": (4, False),
}  # fmt: skip
STORE = {"sb": 1, "sh": 2, "sw": 4, "sd": 8}
AMO: dict[str, Callable[[int, int, int], int]] = {  # old, operand and width in bits; what is stored
    "amoswap": lambda a, b, n: b,
    "amoadd": lambda a, b, n: a + b,
    "amoxor": lambda a, b, n: a ^ b,
    "amoand": lambda a, b, n: a & b,
    "amoor": lambda a, b, n: a | b,
    "amomin": lambda a, b, n: min(signed(a, n), signed(b, n)),
    "amomax": lambda a, b, n: max(signed(a, n), signed(b, n)),
    "amominu": lambda a, b, n: min(a & (1 << n) - 1, b & (1 << n) - 1),
    "amomaxu": lambda a, b, n: max(a & (1 << n) - 1, b & (1 << n) - 1),
}

# compressed rows that compute: the instruction's own operands to (destination, model, first operand, second operand); a
# string names a register field, an integer is a constant, "imm" the immediate. From the text of chapter "C".
COMPRESSED: dict[str, tuple[str | int, Binary, str | int, str | int]] = {
    "c.addi4spn": ("rd", ALU["add"], 2, "imm"),
    "c.addi": ("rd", ALU["add"], "rd", "imm"),
    "c.addiw": ("rd", ALU["addw"], "rd", "imm"),
    "c.li": ("rd", ALU["add"], 0, "imm"),
    "c.addi16sp": (2, ALU["add"], 2, "imm"),
    "c.lui": ("rd", ALU["add"], 0, "imm"),
    "c.srli": ("rd", ALU["srl"], "rd", "imm"),
    "c.srai": ("rd", ALU["sra"], "rd", "imm"),
    "c.slli": ("rd", ALU["sll"], "rd", "imm"),
    "c.andi": ("rd", ALU["and"], "rd", "imm"),
    "c.sub": ("rd", ALU["sub"], "rd", "rs2"),
    "c.xor": ("rd", ALU["xor"], "rd", "rs2"),
    "c.or": ("rd", ALU["or"], "rd", "rs2"),
    "c.and": ("rd", ALU["and"], "rd", "rs2"),
    "c.subw": ("rd", ALU["subw"], "rd", "rs2"),
    "c.addw": ("rd", ALU["addw"], "rd", "rs2"),
    "c.mv": ("rd", ALU["add"], 0, "rs2"),
    "c.add": ("rd", ALU["add"], "rd", "rs2"),
}
COMPRESSED_MEMORY = {"c.lw": "lw", "c.ld": "ld", "c.lwsp": "lw", "c.ldsp": "ld"}
COMPRESSED_STORES = {"c.sw": 4, "c.sd": 8, "c.swsp": 4, "c.sdsp": 8}
ELSEWHERE = {  # rows of I, M, A and C that are covered by tests with names of their own, below or in other files
    "lui", "auipc", "jal", "jalr", "fence", "ecall", "ebreak", "lr.w", "sc.w", "lr.d", "sc.d", "c.nop", "c.j", "c.jr",
    "c.jalr", "c.beqz", "c.bnez", "c.ebreak", "c.fld", "c.fsd", "c.fldsp", "c.fsdsp",
}  # fmt: skip


class Bench:
    """One hart on which single instructions run with the registers given."""

    def __init__(self) -> None:
        self.hart = Hart()
        self.source = random.Random(5)

    def registers(self, count: int) -> list[int]:
        """Register numbers, x0 and equal ones among them."""
        return [self.source.choice((0, self.source.randrange(1, 32), 10, 11)) for _ in range(count)]

    def execute(self, code: bytes, values: dict[int, int]) -> tuple[list[int], list[int]]:
        """All registers before and after the instruction; it took no trap and pc is the next one's."""
        cpu = self.hart.cpu
        for number, value in values.items():
            cpu.set_x(number, value & ONES)
        before = self.hart.registers()
        cpu.write(STEP, code)
        cpu.pc = STEP
        cpu.run(1)
        assert cpu.pc == STEP + len(code), self.hart.describe()
        return before, self.hart.registers()


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def expect(before: list[int], after: list[int], rd: int, value: int) -> None:
    """Only rd changed, and x0 not even then."""
    wanted = list(before)
    if rd:
        wanted[rd] = value & ONES
    assert after == wanted


def test_every_integer_row_has_a_test() -> None:
    amos = {f"{name}.{width}" for name in AMO for width in "wd"}
    tested = {*ALU, *IMMEDIATE, *BRANCH, *LOAD, *STORE, *COMPRESSED, *COMPRESSED_MEMORY, *COMPRESSED_STORES, *amos}
    assert tested | ELSEWHERE == {row.name for row in isa.ROWS if row.extension in ("I", "M", "A", "C")}


@pytest.mark.parametrize("name", ALU)
def test_register_operations(bench: Bench, name: str) -> None:
    for a, b in itertools.product(OPERANDS, repeat=2):
        rd, rs1, rs2 = bench.registers(3)
        before, after = bench.execute(word(name, rd=rd, rs1=rs1, rs2=rs2), {rs1: a, rs2: b})
        expect(before, after, rd, ALU[name](before[rs1], before[rs2]))


@pytest.mark.parametrize("name", IMMEDIATE)
def test_immediate_operations(bench: Bench, name: str) -> None:
    shift = isa.BY_NAME[name].format
    amounts = {"shift": range(64), "shiftw": range(32)}.get(shift, IMMEDIATES)
    for a, imm in itertools.product(OPERANDS, amounts):
        rd, rs1 = bench.registers(2)
        before, after = bench.execute(word(name, rd=rd, rs1=rs1, imm=imm), {rs1: a})
        expect(before, after, rd, IMMEDIATE[name](before[rs1], imm))


@pytest.mark.parametrize("upper", [0, 1, 0x7FFFF, 0x80000, 0xFFFFF, 0x12345])
def test_upper_immediates(bench: Bench, upper: int) -> None:
    for rd in (0, 1, 17, 31):
        for name, base in (("lui", 0), ("auipc", STEP)):
            before, after = bench.execute(word(name, rd=rd, imm=signed(upper << 12, 32)), {})
            expect(before, after, rd, base + signed(upper << 12, 32))


@pytest.mark.parametrize("name", BRANCH)
def test_branches(bench: Bench, name: str) -> None:
    cpu = bench.hart.cpu
    for (a, b), offset in zip(
        itertools.product(OPERANDS, repeat=2), itertools.cycle((-4096, -2048, -2, 2, 8, 2046, 4094)), strict=False
    ):
        rs1, rs2 = bench.registers(2)
        for number, value in ((rs1, a), (rs2, b)):
            cpu.set_x(number, value)
        before = bench.hart.registers()
        cpu.write(STEP, word(name, rs1=rs1, rs2=rs2, imm=offset))
        cpu.pc = STEP
        cpu.run(1)
        taken = BRANCH[name](before[rs1], before[rs2])
        assert cpu.pc == STEP + (offset if taken else 4)
        assert bench.hart.registers() == before


@pytest.mark.parametrize("offset", [-(1 << 20), -4096, -2, 0, 2, 4, 2048, (1 << 20) - 2])
@pytest.mark.parametrize("rd", [0, 1, 5, 31])
def test_jal(offset: int, rd: int) -> None:
    hart = Hart()
    at = RAM + 0x20_0000
    hart.cpu.write(at, word("jal", rd=rd, imm=offset))
    hart.cpu.pc = at
    hart.cpu.run(1)
    assert hart.cpu.pc == at + offset
    assert hart.registers() == [at + 4 if n and n == rd else 0 for n in range(32)]


@pytest.mark.parametrize(("rd", "rs1"), [(0, 1), (1, 1), (5, 1), (1, 5), (0, 0), (31, 30)])
@pytest.mark.parametrize("imm", [-2048, -3, -1, 0, 1, 2, 5, 2047])
def test_jalr(rd: int, rs1: int, imm: int) -> None:
    hart = Hart()
    hart.cpu.set_x(rs1, DATA + 0x1001)
    target = hart.cpu.x(rs1) + imm & ONES & ~1  # RV32I, "JALR": the least significant bit of the result is zero
    hart.cpu.write(STEP, word("jalr", rd=rd, rs1=rs1, imm=imm))
    hart.cpu.pc = STEP
    hart.cpu.run(1)
    assert hart.cpu.pc == target
    assert hart.cpu.x(rd) == (STEP + 4 if rd else 0)


@pytest.mark.parametrize("name", LOAD)
def test_loads_at_every_alignment(bench: Bench, name: str) -> None:
    size, extended = LOAD[name]
    for value in OPERANDS:
        for misaligned in (0, 1, 2, 3, 4, 5, 6, 7, 0xFF9, 0xFFF):  # the last two cross a page
            at = DATA + misaligned
            rd, rs1, imm = bench.registers(1)[0], 9, bench.source.choice(IMMEDIATES)
            bench.hart.cpu.write(at, value.to_bytes(8, "little"))
            before, after = bench.execute(word(name, rd=rd, rs1=rs1, imm=imm), {rs1: at - imm})
            part = value & (1 << 8 * size) - 1
            expect(before, after, rd, signed(part, 8 * size) if extended else part)


@pytest.mark.parametrize("name", STORE)
def test_stores_at_every_alignment(bench: Bench, name: str) -> None:
    size = STORE[name]
    for value in OPERANDS:
        for misaligned in (0, 1, 2, 3, 4, 5, 6, 7, 0xFF9, 0xFFF):
            at, imm = DATA + misaligned, bench.source.choice(IMMEDIATES)
            bench.hart.cpu.write(at - 8, bytes(range(24)))
            before, after = bench.execute(word(name, rs2=7, rs1=9, imm=imm), {9: at - imm, 7: value})
            assert before == after
            wanted = bytes(range(8)) + value.to_bytes(8, "little")[:size] + bytes(range(8 + size, 24))
            assert bench.hart.cpu.read(at - 8, 24) == wanted


@pytest.mark.parametrize(("name", "width"), [*itertools.product(AMO, "wd")])
def test_amos(bench: Bench, name: str, width: str) -> None:
    bits = 32 if width == "w" else 64
    for old, operand in itertools.product(OPERANDS, repeat=2):
        rd, rs2 = bench.registers(2)
        at = DATA + bits // 8 * bench.source.randrange(8)
        rs1 = next(n for n in (9, 20) if n != rs2)
        bench.hart.cpu.write(DATA, bytes(64))
        bench.hart.cpu.write(at, old.to_bytes(8, "little"))
        code = word(f"{name}.{width}", rd=rd, rs1=rs1, rs2=rs2, imm=bench.source.randrange(4))
        before, after = bench.execute(code, {rs1: at, rs2: operand})
        expect(before, after, rd, signed(old, bits))
        stored = AMO[name](old, before[rs2], bits) & (1 << bits) - 1
        assert bench.hart.cpu.read(at, 8) == (old >> bits << bits | stored).to_bytes(8, "little")


def compressed_words(name: str) -> list[int]:
    """Every encoding of a compressed row."""
    return [half for half in range(1 << 16) if isa.length(half) == 2 and isa.BY_NAME[name].matches(half)]


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_operations(bench: Bench, name: str) -> None:
    row = isa.BY_NAME[name]
    destination, model, first, second = COMPRESSED[name]
    for half in bench.source.sample(
        compressed_words(name), 128 if name == "c.nop" else min(400, len(compressed_words(name)))
    ):
        fields = {field: row.take(field, half) for field in row.fields}
        values = {n: bench.source.choice(OPERANDS) for n in {2, fields.get("rd", 2), fields.get("rs2", 2)}}
        before, after = bench.execute(half.to_bytes(2, "little"), values)

        def operand(which: str | int) -> int:
            if which == "imm":
                return fields["imm"] & ONES  # noqa: B023
            return before[fields[which] if isinstance(which, str) else which]  # noqa: B023

        rd = fields[destination] if isinstance(destination, str) else destination
        expect(before, after, rd, model(operand(first), operand(second)))


@pytest.mark.parametrize("name", COMPRESSED_MEMORY)
def test_compressed_loads(bench: Bench, name: str) -> None:
    row = isa.BY_NAME[name]
    size, _ = LOAD[COMPRESSED_MEMORY[name]]
    for half in bench.source.sample(compressed_words(name), 300):
        fields = {field: row.take(field, half) for field in row.fields}
        value = bench.source.choice(OPERANDS)
        bench.hart.cpu.write(DATA + fields["imm"], value.to_bytes(8, "little"))
        before, after = bench.execute(half.to_bytes(2, "little"), {fields.get("rs1", 2): DATA})
        expect(before, after, fields["rd"], signed(value, 8 * size))


@pytest.mark.parametrize("name", COMPRESSED_STORES)
def test_compressed_stores(bench: Bench, name: str) -> None:
    row, size = isa.BY_NAME[name], COMPRESSED_STORES[name]
    for half in bench.source.sample(compressed_words(name), 300):
        fields = {field: row.take(field, half) for field in row.fields}
        at = DATA + fields["imm"]
        bench.hart.cpu.write(at - 8, bytes(range(24)))
        values = {fields["rs2"]: bench.source.choice(OPERANDS)}
        before, after = bench.execute(half.to_bytes(2, "little"), {**values, fields.get("rs1", 2): DATA})
        assert before == after
        stored = before[fields["rs2"]].to_bytes(8, "little")[:size]
        assert bench.hart.cpu.read(at - 8, 24) == bytes(range(8)) + stored + bytes(range(8 + size, 24))


@pytest.mark.parametrize("name", ["c.nop", "c.j", "c.jr", "c.jalr", "c.beqz", "c.bnez"])
def test_compressed_jumps(bench: Bench, name: str) -> None:
    row, cpu = isa.BY_NAME[name], bench.hart.cpu
    words = compressed_words(name)
    for half in bench.source.sample(words, min(300, len(words))):
        fields = {field: row.take(field, half) for field in row.fields}
        if "rs1" in fields:
            cpu.set_x(fields["rs1"], bench.source.choice((0, 1, B, DATA, DATA + 1)))
        before = bench.hart.registers()
        source = before[fields.get("rs1", 0)]
        cpu.write(STEP, half.to_bytes(2, "little"))
        cpu.pc = STEP
        cpu.run(1)
        straight, target = STEP + 2, STEP + fields.get("imm", 0)
        wanted = {
            "c.nop": straight,
            "c.j": target,
            "c.jr": source & ~1,
            "c.jalr": source & ~1,
            "c.beqz": straight if source else target,
            "c.bnez": target if source else straight,
        }[name]
        assert cpu.pc == wanted
        expect(before, bench.hart.registers(), 1 if name == "c.jalr" else 0, straight)


def test_ebreak_and_ecall_do_not_retire() -> None:
    hart = Hart()
    for source in ("ebreak", "c.ebreak", "ecall"):
        before = hart.cpu.instret
        assert isinstance(hart.step(source), Trap)
        assert hart.cpu.instret == before


def test_fences_change_nothing_but_pc(bench: Bench) -> None:
    for name, operands in (
        ("fence", {"imm": 0xFF}),
        ("fence", {"imm": 0x833}),
        ("fence", {"imm": 0x10}),
        ("fence.i", {}),
    ):
        before, after = bench.execute(word(name, **operands), {})
        assert before == after
