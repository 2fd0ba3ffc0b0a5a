"""The encoder of x86-64 code (`vpod/_x86.pxd`) against GNU as and objdump, and what it emits against arithmetic.

`x86_forms.py` says what each form means, as text; here as assembles the text, and the bytes must be the same, at all
corners of the operands and in random programs. What as can't say stands below that: buffers that are too small, jumps
that are patched, and a few functions that this processor executes.

    pytest tests/test_x86.py -k alu_ri
"""

from __future__ import annotations

import array
import itertools
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, NoReturn

import pytest

from tests import x86_face
from tests.x86_forms import CONDITIONS, FORMS, GPRS, Case, Longer, Near

TEXT = x86_face.SOURCE.read_text()
FUNCTIONS = {function.name: function for function in x86_face.functions(TEXT)}
# of the forms, which look for room first
PARTS = {"put8", "put32", "put64", "opcode", "rex", "modrm_r", "modrm_m", "modrm_x"}
ELSEWHERE = {  # what has no text, and the test that is about it
    "room": "test_what_does_not_fit_is_not_written",
    "fits8": "test_which_numbers_fit",
    "fits32": "test_which_numbers_fit",
    "patch": "test_patched_jumps",
}
MASK = (1 << 64) - 1
Buffer = Any  # the class of the face


def missing(what: str) -> NoReturn:
    """Skip; but in CI what can be had must be had."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The encoder behind Python functions."""
    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        missing("a C compiler")
    return x86_face.build(tmp_path_factory.mktemp("x86"))


@pytest.fixture
def buffer(face: ModuleType) -> Buffer:
    return face.Buffer(1 << 16)


# ---- GNU's words ---------------------------------------------------------------------------------------------------


class Binutils:
    """GNU as and objdump for x86-64, whatever the host is."""

    def __init__(self, assembler: str, objdump: str, folder: Path) -> None:
        self.assembler, self.objdump, self.folder = assembler, objdump, folder

    def assemble(self, lines: Sequence[str]) -> list[bytes]:
        """The bytes of each line; `1b` in a line is where its own begin."""
        source, listing = self.folder / "code.s", self.folder / "code.lst"
        source.write_text("".join(f"1: {line}\n" for line in lines))
        command = [self.assembler, "--64", "-msyntax=intel", "-mmnemonic=intel", "-mnaked-reg"]
        command += [f"-aln={listing}", "--listing-lhs-width=4", "-o", str(self.folder / "code.o"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]
        found = [b""] * len(lines)
        for number, code in re.findall(r"^ *(\d+) [0-9a-f]{4,} ([0-9A-F ]+?) *\t", listing.read_text(), re.MULTILINE):
            found[int(number) - 1] = bytes.fromhex(code)
        return found

    def disassemble(self, code: bytes) -> list[tuple[int, str]]:
        """Where each instruction begins, and its text with numbers written in one way."""
        path = self.folder / "code.bin"
        path.write_bytes(code)
        command = [self.objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "-w", "-z", str(path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.findall(r"^ *([0-9a-f]+):\t[0-9a-f ]+\t(.*)$", told, re.MULTILINE)
        return [(int(at, 16), " ".join(re.sub(r",1$", ",0x1", text).split())) for at, text in found]


@pytest.fixture(scope="session")
def binutils(tmp_path_factory: pytest.TempPathFactory) -> Binutils:
    for prefix in ("", "x86_64-linux-gnu-"):
        assembler, objdump = shutil.which(f"{prefix}as"), shutil.which(f"{prefix}objdump")
        if assembler is None or objdump is None:
            continue
        told = subprocess.run([assembler, "--version"], capture_output=True, text=True, check=False).stdout
        if "GNU assembler" in told and "x86_64" in told:
            return Binutils(assembler, objdump, tmp_path_factory.mktemp("binutils"))
    missing("GNU as and objdump for x86-64: apt-get install binutils-x86-64-linux-gnu")


def call(face: ModuleType, buffer: Buffer, case: Case) -> Any:
    """Have the encoder emit the case where the buffer is."""

    def value(argument: Any) -> Any:
        if isinstance(argument, str):
            return face.CONSTANTS[argument]
        return argument + buffer.at if isinstance(argument, Near) else argument

    return getattr(buffer, case.form)(*map(value, case.arguments))


def differences(binutils: Binutils, cases: Sequence[Case], codes: Sequence[bytes]) -> list[str]:
    """The cases whose bytes aren't as's; where as knows a shorter encoding, whose text isn't the same."""
    wanted = binutils.assemble([case.text for case in cases])
    found: list[str] = []
    longer: list[tuple[Case, bytes, bytes]] = []
    for case, code, want in zip(cases, codes, wanted, strict=True):
        if not isinstance(case.text, Longer):
            if code != want:
                found.append(f"{case.form}{case.arguments}: {code.hex(' ')}; as: {case.text}: {want.hex(' ')}")
        elif len(code) == len(want) + 1:
            longer.append((case, code, want))
        else:
            found.append(f"{case.form}{case.arguments}: {code.hex(' ')} isn't one byte longer than {want.hex(' ')}")
    ours = texts(binutils, [code for _, code, _ in longer])
    theirs = texts(binutils, [want for *_, want in longer])
    for (case, *_), our, their in zip(longer, ours, theirs, strict=True):
        if our != their or not our:
            found.append(f"{case.form}{case.arguments}: {our}; as: {their}")
    return found


def texts(binutils: Binutils, codes: Sequence[bytes]) -> list[str]:
    """Each instruction's text; '' unless objdump finds it where it is and as long as it is."""
    starts, at = [], 0
    for code in codes:
        starts.append(at)
        at += len(code)
    listed = dict(binutils.disassemble(b"".join(codes))) if codes else {}
    return [listed.get(start, "") if len(listed) == len(codes) else "" for start in starts]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("add eax, ecx", "01 c8", ""),
        ("add eax, ecx", "03 c1", "add eax, ecx: 01 c8"),  # right, but not what was asked for
        ("add eax, ecx", "01 c8 90", "add eax, ecx: 01 c8"),
        ("add eax, ecx", "", "add eax, ecx: 01 c8"),
        (Longer("add eax, 1000"), "81 c0 e8 03 00 00", ""),
        (Longer("add eax, 1000"), "05 e8 03 00 00", "isn't one byte longer"),
        (Longer("add eax, 1000"), "81 c1 e8 03 00 00", "add ecx,0x3e8; as: add eax,0x3e8"),
        (Longer("add eax, 1000"), "66 05 e8 03 90 90", "; as: add eax,0x3e8"),
    ],
)
def test_what_a_difference_is(binutils: Binutils, text: str, code: str, said: str) -> None:
    found = differences(binutils, [Case("it", (), text)], [bytes.fromhex(code)])
    assert len(found) == bool(said) and said in "".join(found)


def test_a_function_that_the_face_would_lack_is_an_error() -> None:
    good = "cdef inline uint8_t* jump(Code* c, int cc) noexcept nogil:\n    return NULL\n"
    assert x86_face.functions(good) == [x86_face.Function("jump", "uint8_t*", (("Code*", "c"), ("int", "cc")))]
    with pytest.raises(ValueError, match="a function is not"):
        x86_face.functions(good + "cdef inline int other(int cc) except -1:\n    return cc\n")


# ---- every form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_what_gnu_as_makes_of_its_text(face: ModuleType, binutils: Binutils, name: str) -> None:
    buffer, cases, codes = face.Buffer(64), list(FORMS[name].corners()), []
    for case in cases:
        buffer.clear(64, 0)
        call(face, buffer, case)
        assert not buffer.full
        codes.append(buffer.code())
    assert differences(binutils, cases, codes)[:10] == []


def test_every_function_has_its_cases() -> None:
    undescribed = FUNCTIONS.keys() - FORMS.keys() - PARTS - ELSEWHERE.keys()
    assert sorted(undescribed) == [], "describe them in tests/x86_forms.py"
    assert sorted(FORMS.keys() - FUNCTIONS.keys()) == [], "the encoder has no such forms"
    for name, test in ELSEWHERE.items():
        assert name in FUNCTIONS and test in globals()


def test_every_part_is_of_a_form() -> None:
    for part in PARTS:
        assert part in FUNCTIONS
        assert len(re.findall(rf"\b{part}\(", TEXT)) > 1, f"nothing uses {part}"


def test_every_name_of_a_register_operation_or_opcode_is_used() -> None:
    used = {argument for form in FORMS.values() for case in form.corners() for argument in case.arguments}
    names = {name for enum in x86_face.constants(TEXT).values() for name in enum}
    assert names - used == {"MAX_LENGTH", "MXCSR_DEFAULT"}, "these are no opcodes"


@pytest.mark.parametrize("seed", range(8))
def test_random_programs(face: ModuleType, binutils: Binutils, seed: int) -> None:
    """Any forms with any operands, one behind the other: each is as's, and objdump sees no other instructions."""
    source, buffer = Random(seed), face.Buffer(1 << 17)
    cases, codes = [], []
    for _ in range(4000):
        case, before = FORMS[source.choice(list(FORMS))].draw(source), buffer.at
        call(face, buffer, case)
        cases.append(case)
        codes.append(buffer.code()[before:])
    assert not buffer.full
    assert differences(binutils, cases, codes)[:10] == []
    boundaries, at = [], 0
    for code in filter(None, codes):
        boundaries.append(at)
        at += len(code)
    assert [at for at, _ in binutils.disassemble(buffer.code())] == boundaries


def test_the_longest_instruction_is_within_the_architectures_bound(face: ModuleType, buffer: Buffer) -> None:
    lengths = []
    for form in FORMS.values():
        for case in itertools.islice(form.corners(), 0, None, 7):
            buffer.clear(64, 0)
            call(face, buffer, case)
            lengths.append(buffer.at)
    assert max(lengths) == 12 <= face.CONSTANTS["MAX_LENGTH"] == 15


# ---- what doesn't fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0x00, 0xA5, 0xFF])
@pytest.mark.parametrize("name", FORMS)
def test_what_does_not_fit_is_not_written(face: ModuleType, name: str, fill: int) -> None:
    """In a buffer of any size: the whole instruction or nothing, never a byte behind the end."""
    case = max(FORMS[name].corners(), key=lambda case: len(case.text))
    buffer = face.Buffer(96)
    call(face, buffer, case)
    whole = buffer.code()
    assert whole
    for room in range(48):
        buffer.clear(room, fill)
        result = call(face, buffer, case)
        if buffer.full:
            assert room < face.CONSTANTS["MAX_LENGTH"] and result is None
            assert buffer.at == 0 and buffer.all() == bytes([fill]) * 96
        else:
            assert len(whole) <= room
            assert buffer.code() == whole and buffer.all()[len(whole) :] == bytes([fill]) * (96 - len(whole))


@pytest.mark.parametrize("seed", range(4))
def test_programs_that_do_not_fit_end_in_front_of_what_does_not(face: ModuleType, seed: int) -> None:
    """Whatever comes behind the instruction that was too long is left out too, and the buffer stays full."""
    source, buffer = Random(seed), face.Buffer(1024)
    cases = [FORMS[source.choice(list(FORMS))].draw(source) for _ in range(60)]
    ends = [0]
    for case in cases:
        call(face, buffer, case)
        ends.append(buffer.at)
    whole = buffer.code()
    for room in range(600):
        buffer.clear(room, 0xA5)
        for case in cases:
            was_full, before = buffer.full, buffer.at
            call(face, buffer, case)
            assert buffer.full or not was_full
            assert buffer.at == before or not was_full
        assert buffer.at in ends and buffer.at <= room
        assert buffer.all() == whole[: buffer.at] + b"\xa5" * (1024 - buffer.at)
        assert buffer.full == (buffer.at < len(whole))


@pytest.mark.parametrize("bits", [8, 32])
def test_which_numbers_fit(buffer: Buffer, bits: int) -> None:
    edge = 1 << bits - 1
    fits = {8: buffer.fits8, 32: buffer.fits32}[bits]
    numbers = {0, 1, -1, edge - 1, -edge, edge, -edge - 1, 2 * edge, -2 * edge, 1 << 62, -(1 << 63), (1 << 63) - 1}
    assert {n for n in numbers if fits(n)} == {n for n in numbers if -edge <= n < edge}


# ---- jumps to places that are not yet known ------------------------------------------------------------------------


@pytest.mark.parametrize("between", [0, 1, 127, 128, 1000])
@pytest.mark.parametrize("condition", [None, *CONDITIONS])
def test_patched_jumps(
    face: ModuleType, binutils: Binutils, buffer: Buffer, condition: str | None, between: int
) -> None:
    """Forward over `between` bytes and back to before them, as as does it with labels."""

    def jump() -> int:
        place = buffer.jump() if condition is None else buffer.jump_cc(face.CONSTANTS[f"CC_{condition}"])
        assert place == buffer.at - 4
        return int(place)

    forward = jump()
    start = buffer.at
    buffer.put(start, b"\x90" * between)
    buffer.go_on(start + between)
    back = jump()
    buffer.patch(back, start)
    buffer.patch(forward, start)  # which the next one replaces
    buffer.patch(forward, buffer.at)
    mnemonic = "{disp32} j" + ("mp" if condition is None else condition.lower())
    lines = [f"{mnemonic} 3f", "2:", *["nop"] * between, f"{mnemonic} 2b", "3:"]
    assert buffer.code() == b"".join(binutils.assemble(lines))


def test_a_jump_that_did_not_fit_is_not_patched(face: ModuleType, buffer: Buffer) -> None:
    for jump in (buffer.jump, lambda: buffer.jump_cc(0)):
        buffer.clear(14, 0xA5)
        place = jump()
        assert place is None and buffer.full
        buffer.patch(place, 0)
        assert buffer.all() == b"\xa5" * buffer.size


# ---- what the processor makes of it --------------------------------------------------------------------------------

SAVED = ("RBX", "RBP", "R12", "R13", "R14", "R15", "RDI")
XMM_AT = 16  # in the argument of a program, behind the general registers


class Program:
    """A function of what all registers hold before, RSP aside, to what they hold after: emitted once, run often.

    >>> Program(face, lambda c: c.unary_r(UNARY["NOT"], 1, 0)).run(RAX=0)["RAX"] == MASK
    True
    """

    def __init__(self, face: ModuleType, body: Callable[[Buffer], object], needs: str = "x86-64") -> None:
        if needs not in face.HOST:
            pytest.skip(f"needs a processor that has {needs}")
        self.names = {name: face.CONSTANTS[name] for name in GPRS}
        self.buffer = c = face.Buffer(1 << 14)
        rdi, rsp = self.names["RDI"], self.names["RSP"]
        general = [n for n in self.names.values() if n not in (rdi, rsp)]
        for name in SAVED:
            c.push_r(self.names[name])
        for n in range(16):
            c.sse_rm(0xF3, 0x0F7E, 0, n, rdi, 8 * (XMM_AT + n))
        for n in (*general, rdi):
            c.mov_rm(1, n, rdi, 8 * n)
        body(c)
        c.push_r(rdi)
        c.mov_rm(1, rdi, rsp, 8)
        for n in range(16):
            c.sse_rm(0x66, 0x0FD6, 0, n, rdi, 8 * (XMM_AT + n))
        for n in general:
            c.mov_mr(1, rdi, 8 * n, n)
        c.pop_r(general[0])
        c.mov_mr(1, rdi, 8 * rdi, general[0])
        for name in reversed(SAVED):
            c.pop_r(self.names[name])
        c.ret()
        assert not c.full

    def run(self, **before: int) -> dict[str, int]:
        """Registers by name, XMM0 to XMM15 for the low halves of those; others hold 0xa5a5…"""
        names = {**self.names, **{f"XMM{n}": XMM_AT + n for n in range(16)}}
        argument = array.array("Q", [0xA5A5_A5A5_A5A5_A5A5] * 32)
        for name, value in before.items():
            argument[names[name]] = value & MASK
        self.buffer.run(0, argument)
        return {name: argument[n] for name, n in names.items()}


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


NUMBERS = (0, 1, 2, 0x7F, 0x80, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x0123_4567_89AB_CDEF, 1 << 63, MASK >> 1, MASK)
SHIFTS: dict[str, Callable[[int, int, int], int]] = {
    "ROL": lambda value, n, bits: value << n | value >> bits - n,
    "ROR": lambda value, n, bits: value >> n | value << bits - n,
    "SHL": lambda value, n, bits: value << n,
    "SHR": lambda value, n, bits: value >> n,
    "SAR": lambda value, n, bits: signed(value, bits) >> n,
}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", SHIFTS)
def test_shifts_by_cl(face: ModuleType, op: str, bits: int) -> None:
    """Of the count, the low 6 bits matter, or 5; 32-bit results clear the upper half."""
    program = Program(face, lambda c: c.shift_rcl(face.CONSTANTS[op], bits == 64, face.CONSTANTS["R9"]))
    low = (1 << bits) - 1
    for count in (*range(70), 127, 128, MASK):
        for value in NUMBERS:
            result = SHIFTS[op](value & low, count % bits, bits) & low
            assert program.run(RCX=count, R9=value)["R9"] == result, (value, count)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", ["SHL", "SHR", "SAR"])
def test_shifts_that_leave_the_flags_alone(face: ModuleType, op: str, bits: int) -> None:
    """By a register that isn't CL, between a comparison and what looks at it."""
    at = face.CONSTANTS

    def body(c: Buffer) -> None:
        c.alu_rr(at["CMP"], 1, at["RAX"], at["RAX"])
        getattr(c, f"{op.lower()}x_rrr")(bits == 64, at["R8"], at["R14"], at["RBX"])
        c.set_cc(at["CC_E"], at["RDX"])

    program, low = Program(face, body, "bmi2"), (1 << bits) - 1
    for count in (*range(66), MASK):
        for value in NUMBERS:
            after = program.run(R14=value, RBX=count, RDX=0)
            assert after["R8"] == SHIFTS[op](value & low, count % bits, bits) & low, (value, count)
            assert after["RDX"] == 1 and after["R14"] == value and after["RBX"] == count & MASK


@pytest.mark.parametrize("bits", [32, 64])
def test_multiplications_and_divisions(face: ModuleType, bits: int) -> None:
    """RDX:RAX is the product, or quotient and remainder; signed division after the sign's extension."""
    at, wide, low = face.CONSTANTS, bits == 64, (1 << bits) - 1

    def unary(op: str) -> Program:
        return Program(face, lambda c: c.unary_r(at[op], wide, at["R10"]))

    def divide(c: Buffer) -> None:
        c.sign_into_rdx(wide)
        c.unary_r(at["IDIV"], wide, at["R10"])

    programs = {"MUL": unary("MUL"), "IMUL": unary("IMUL"), "DIV": unary("DIV"), "IDIV": Program(face, divide)}
    for a in NUMBERS:
        for b in NUMBERS:
            sa, sb = signed(a, bits), signed(b, bits)
            product = (a & low) * (b & low)
            wanted = {"MUL": (product & low, product >> bits), "IMUL": (sa * sb & low, sa * sb >> bits & low)}
            if b & low:
                wanted["DIV"] = ((a & low) // (b & low), (a & low) % (b & low))
                quotient = abs(sa) // abs(sb) * (1 if (sa < 0) == (sb < 0) else -1)
                if quotient < 1 << bits - 1:  # else the processor raises #DE
                    wanted["IDIV"] = (quotient & low, sa - quotient * sb & low)
            for op, (rax, rdx) in wanted.items():
                after = programs[op].run(RAX=a, RDX=0, R10=b)
                assert (after["RAX"], after["RDX"]) == (rax, rdx), (op, a, b)


def flags(a: int, b: int, bits: int) -> dict[str, bool]:
    """The conditions that hold after a comparison."""
    low = (1 << bits) - 1
    difference = (a - b) & low
    over = signed(a, bits) - signed(b, bits) != signed(difference, bits)
    holds = {
        "O": over,
        "B": a & low < b & low,
        "E": difference == 0,
        "BE": a & low <= b & low,
        "S": signed(difference, bits) < 0,
        "P": (difference & 0xFF).bit_count() % 2 == 0,
        "L": signed(a, bits) < signed(b, bits),
        "LE": signed(a, bits) <= signed(b, bits),
    }
    opposite = {"O": "NO", "B": "AE", "E": "NE", "BE": "A", "S": "NS", "P": "NP", "L": "GE", "LE": "G"}
    return holds | {opposite[name]: not value for name, value in holds.items()}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(face: ModuleType, condition: str, bits: int) -> None:
    """As a byte, as a move, as a jump: each after the same comparison."""
    at, wide = face.CONSTANTS, bits == 64
    cc = at[f"CC_{condition}"]

    def body(c: Buffer) -> None:
        c.alu_rr(at["CMP"], wide, at["RSI"], at["R12"])
        c.set_cc(cc, at["RDI"])
        c.cmov_rr(cc, 0, at["R8"], at["RAX"])
        place = c.jump_cc(cc)
        c.mov_ri(at["RBX"], 7)
        c.patch(place, c.at)

    program, old = Program(face, body), 0x1122_3344_5566_7788
    for a in NUMBERS:
        for b in NUMBERS:
            after = program.run(RSI=a, R12=b, RDI=old, R8=old, RAX=MASK, RBX=3)
            holds = flags(a, b, bits)[condition]
            assert after["RDI"] == old & ~0xFF | holds
            assert after["R8"] == (0xFFFF_FFFF if holds else 0x5566_7788), "32 bits clear the upper half either way"
            assert after["RBX"] == (3 if holds else 7)


def test_immediates_are_sign_extended_and_narrow_moves_are_not(face: ModuleType) -> None:
    at = face.CONSTANTS

    def body(c: Buffer) -> None:
        c.alu_ri(at["ADD"], 1, at["RAX"], -(2**31))
        c.alu_ri(at["XOR"], 1, at["RBX"], -1)
        c.alu_ri(at["ADD"], 0, at["R13"], 1)
        c.imul_rri(1, at["RSI"], at["RSI"], -3)
        c.mov_rr(0, at["R8"], at["R8"])
        c.mov_ri(at["R9"], 2**64 - 5)
        c.mov_ri(at["R10"], 2**31)
        c.op_rr8(at["OP_MOVSX8"], 1, at["R11"], at["RBP"])
        c.op_rr8(at["OP_MOVZX8"], 0, at["R12"], at["RBP"])
        c.op_rr(at["OP_MOVSXD"], 1, at["R14"], at["RBP"])

    after = Program(face, body).run(RAX=5, RBX=0xFF00, R13=MASK, RSI=7, R8=MASK, RBP=0xFFFF_FF7F_8000_0080)
    assert after["RAX"] == 5 - 2**31 & MASK
    assert after["RBX"] == 0xFF00 ^ MASK
    assert after["R13"] == 0
    assert after["RSI"] == -21 & MASK
    assert after["R8"] == 0xFFFF_FFFF
    assert (after["R9"], after["R10"]) == (2**64 - 5, 2**31)
    assert (after["R11"], after["R12"]) == (MASK ^ 0x7F, 0x80)
    assert after["R14"] == MASK ^ 0x7FFF_FF7F


def test_narrow_stores_and_memory_operands(face: ModuleType) -> None:
    """Below the stack pointer, where no signal's frame comes within 128 bytes."""
    at = face.CONSTANTS
    rsp = at["RSP"]

    def body(c: Buffer) -> None:
        c.mov_mr(1, rsp, -16, at["RAX"])
        c.mov_mr8(rsp, -16, at["RSI"])
        c.mov_mr16(rsp, -14, at["R9"])
        c.mov_mi(0, rsp, -12, -2)
        c.mov_rm(1, at["RAX"], rsp, -16)
        c.mov_mi(1, rsp, -24, -2)
        c.alu_mi(at["ADD"], 1, rsp, -24, 130)
        c.alu_mr(at["SUB"], 1, rsp, -24, at["RBX"])
        c.alu_rm(at["XOR"], 1, at["R15"], rsp, -24)
        c.lea_rm(1, at["R8"], rsp, -16)
        c.op_rx(at["OP_MOVZX8"], 0, at["R10"], at["R8"], at["RCX"], 1, 1)  # RCX is 1: the byte at -13
        c.mov_xr8(at["R8"], at["RCX"], 2, at["RSI"])
        c.mov_xr16(at["R8"], at["RCX"], -1, at["R9"])
        c.mov_rm(1, at["R8"], rsp, -16)

    after = Program(face, body).run(RAX=0x1122_3344_5566_7788, RSI=0xABCD, R9=0x1_2345, RBX=100, R15=0, RCX=1)
    assert after["RAX"] == 0xFFFF_FFFE_2345_77CD
    assert after["R15"] == 28
    assert after["R10"] == 0x23
    assert after["R8"] == 0xFFFF_FFFE_CD45_2345


def test_calls_and_jumps_by_every_way(face: ModuleType) -> None:
    """Each call adds a digit of its own; a jump that falls through would be seen in RDX."""
    at, slots = face.CONSTANTS, 8192

    def body(c: Buffer) -> None:
        def slot(target: int) -> int:
            nonlocal slots
            slots += 8
            c.put(slots, struct.pack("<Q", c.address(target)))
            return slots

        def land(digit: int, go: Callable[[int], object]) -> None:
            over = c.jump()
            target = c.at
            c.alu_ri(at["ADD"], 1, at["RAX"], digit)
            on = c.jump()
            c.patch(over, c.at)
            go(target)
            c.alu_ri(at["OR"], 1, at["RDX"], digit)
            c.patch(on, c.at)

        def through_memory(target: int) -> None:
            c.op_rp(at["OP_LEA"], 1, at["R13"], slot(target) - 4)
            c.jump_m(at["R13"], 4)

        def through_register(target: int) -> None:
            c.op_rp(at["OP_LEA"], 1, at["R9"], target)
            c.jump_r(at["R9"])

        over = c.jump()
        function = c.at
        c.alu_ri(at["ADD"], 1, at["RAX"], 1)
        c.ret()
        c.patch(over, c.at)
        c.call_to(function)
        c.call_p(slot(function))
        c.op_rp(at["OP_LEA"], 1, at["R12"], slot(function))
        c.call_m(at["R12"], 0)
        land(0x10, c.jump_to)
        land(0x100, lambda target: c.jump_p(slot(target)))
        land(0x1000, through_memory)
        land(0x10000, through_register)

    after = Program(face, body).run(RAX=0, RDX=0)
    assert (after["RAX"], after["RDX"]) == (0x11113, 0)


# ---- floating point ------------------------------------------------------------------------------------------------

PREFIX = {"d": 0xF2, "s": 0xF3}
PRECISION = {"d": 53, "s": 24}
FLOATS = (1.0, -1.0, 3.0, 0.1, -7.25, 1 + 2**-23, 1 - 2**-24, 1e10, -2.5, 2.0**-40)


def bits_of(value: float, kind: str) -> int:
    code, size = {"d": ("<d", 8), "s": ("<f", 4)}[kind]
    return int.from_bytes(struct.pack(code, value)[:size], "little")


def nearest(value: Fraction, kind: str) -> float:
    """The normal number of a kind that is nearest, ties to even."""
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length() - PRECISION[kind]
    unit = Fraction(2) ** exponent
    while abs(value / unit) >= 1 << PRECISION[kind]:
        unit *= 2
    return float(round(value / unit) * unit)


OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "ADD": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "MUL": lambda a, b: a * b,
    "DIV": lambda a, b: a / b,
    "MIN": min,
    "MAX": max,
}


@pytest.mark.parametrize("kind", PREFIX)
@pytest.mark.parametrize("op", OPERATIONS)
def test_arithmetic_of_floats(face: ModuleType, op: str, kind: str) -> None:
    program = Program(face, lambda c: c.sse_rr(PREFIX[kind], face.CONSTANTS[f"SSE_{op}"], 0, 9, 2))
    for a in (nearest(Fraction(value), kind) for value in FLOATS):
        for b in (nearest(Fraction(value), kind) for value in FLOATS):
            wanted = nearest(OPERATIONS[op](Fraction(a), Fraction(b)), kind)
            after = program.run(XMM9=bits_of(a, kind), XMM2=bits_of(b, kind))
            assert after["XMM9"] == bits_of(wanted, kind), (a, b)


@pytest.mark.parametrize("kind", PREFIX)
@pytest.mark.parametrize("order", [132, 213, 231])
@pytest.mark.parametrize("name", ["FMADD", "FMSUB", "FNMADD", "FNMSUB"])
def test_fused_multiply_and_add(face: ModuleType, name: str, order: int, kind: str) -> None:
    """Which operand is which, which sign is changed, one rounding: of registers and with the third in memory."""
    at = face.CONSTANTS
    op, double = at[f"V{name}213"] + {132: -0x10, 213: 0, 231: 0x10}[order], kind == "d"

    def body(c: Buffer) -> None:
        c.sse_rm(0x66, at["SSE_MOVQ_STORE"], 0, 14, at["RSP"], -16)
        c.sse_rr(0, at["SSE_MOVAPS"], 0, 8, 3)
        c.fma_rr(op, double, 3, 12, 14)
        c.fma_rm(op, double, 8, 12, at["RSP"], -16)

    program = Program(face, body, "fma")
    for a in (nearest(Fraction(value), kind) for value in FLOATS):
        for b, c in ((3.0, -0.125), (1 + 2**-23, -1.0), (1 - 2**-23, 1.0), (-2.5, 2.0**-22)):
            first, second, third = {132: (a, c, b), 213: (b, a, c), 231: (b, c, a)}[order]
            product = Fraction(first) * Fraction(second) * (-1 if "FN" in name else 1)
            wanted = nearest(product + Fraction(third) * (-1 if "SUB" in name else 1), kind)
            after = program.run(XMM3=bits_of(a, kind), XMM12=bits_of(b, kind), XMM14=bits_of(c, kind))
            assert after["XMM3"] == after["XMM8"] == bits_of(wanted, kind), (a, b, c)


def test_conversions_and_moves_between_registers(face: ModuleType) -> None:
    at = face.CONSTANTS

    def body(c: Buffer) -> None:
        c.sse_rr(0xF2, at["SSE_CVT_FROM_GPR"], 1, 8, at["RBX"])  # 64 bits
        c.sse_rr(0xF2, at["SSE_CVT_FROM_GPR"], 0, 9, at["RBX"])  # the low 32 of them
        c.sse_rr(0xF2, at["SSE_CVTT_TO_GPR"], 1, at["R8"], 1)
        c.sse_rr(0xF2, at["SSE_CVT_TO_GPR"], 1, at["R9"], 1)
        c.sse_rr(0xF2, at["SSE_CVT_FLOAT"], 0, 10, 1)
        c.sse_rr(0xF3, at["SSE_CVT_FLOAT"], 0, 11, 10)
        c.sse_rr(0x66, at["SSE_MOV_TO_GPR"], 1, 1, at["R10"])
        c.sse_rr(0x66, at["SSE_MOV_FROM_GPR"], 0, 12, at["RBX"])
        c.sse_rr(0x66, at["SSE_MOV_FROM_GPR"], 1, 13, at["RBX"])
        c.sse_rr(0, at["SSE_XOR"], 0, 14, 14)
        c.sse_rr(0xF2, at["SSE_SQRT"], 0, 15, 2)

    number, value = -5_000_000_000, 1234567.5625
    after = Program(face, body).run(RBX=number, XMM1=bits_of(value, "d"), XMM2=bits_of(2.0, "d"), XMM11=0)
    assert after["XMM8"] == bits_of(number, "d")
    assert after["XMM9"] == bits_of(signed(number, 32), "d")
    assert (after["R8"], after["R9"]) == (1234567, 1234568)
    assert after["XMM10"] & 0xFFFF_FFFF == bits_of(value, "s")
    assert after["XMM11"] == bits_of(nearest(Fraction(value), "s"), "d")
    assert after["R10"] == bits_of(value, "d")
    assert (after["XMM12"], after["XMM13"], after["XMM14"]) == (number & 0xFFFF_FFFF, number & MASK, 0)
    assert after["XMM15"] == bits_of(2.0**0.5, "d")


@pytest.mark.parametrize("name", ["UCOMI", "COMI"])
def test_comparisons_of_floats(face: ModuleType, name: str) -> None:
    """Below by CF, equal by ZF, unordered by PF and both of those."""
    at = face.CONSTANTS

    def body(c: Buffer) -> None:
        c.sse_rr(0x66, at[f"SSE_{name}"], 0, 4, 11)
        for condition, register in (("B", "RAX"), ("E", "RBX"), ("P", "RCX")):
            c.set_cc(at[f"CC_{condition}"], at[register])

    program = Program(face, body)
    nan = float("nan")
    for a, b, wanted in ((1, 2, (1, 0, 0)), (2, 2, (0, 1, 0)), (3, 2, (0, 0, 0)), (nan, 2, (1, 1, 1))):
        after = program.run(XMM4=bits_of(a, "d"), XMM11=bits_of(b, "d"), RAX=0, RBX=0, RCX=0)
        assert (after["RAX"], after["RBX"], after["RCX"]) == wanted


def test_mxcsr_is_loaded_and_stored(face: ModuleType) -> None:
    """Rounding down takes effect, the inexact flag comes back, and the host's own state is what the default says."""
    at = face.CONSTANTS
    rsp = at["RSP"]

    def body(c: Buffer) -> None:
        c.stmxcsr_m(rsp, -8)
        c.mov_mi(0, rsp, -4, at["MXCSR_DEFAULT"] | 1 << 13)
        c.ldmxcsr_m(rsp, -4)
        c.sse_rr(0xF2, at["SSE_DIV"], 0, 0, 1)
        c.stmxcsr_m(rsp, -4)
        c.ldmxcsr_m(rsp, -8)
        c.mov_rm(0, at["RAX"], rsp, -8)
        c.mov_rm(0, at["RBX"], rsp, -4)

    after = Program(face, body).run(XMM0=bits_of(1.0, "d"), XMM1=bits_of(10.0, "d"))
    assert after["RAX"] & ~0x3F == at["MXCSR_DEFAULT"]
    assert after["RBX"] == at["MXCSR_DEFAULT"] | 1 << 13 | 0x20
    assert after["XMM0"] == bits_of(0.1, "d") - 1, "0.1 is above a tenth"
    assert bits_of(1.0 / 10.0, "d") == bits_of(0.1, "d")
