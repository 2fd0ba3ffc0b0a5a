"""The instruction table and what is made from it: no overlaps, round trips, GNU binutils, and the generated decoder.

The oracle is `riscv64-linux-gnu-objdump`: every one of the 49,152 compressed encodings, and for each base row random
words that match it and words one bit away from it. Where binutils knowingly differs from the specification the
difference is named in `binutils_differs`, so nothing is left out silently.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import vpod
from vpod import disasm, isa, isagen
from vpod.isa import Row

OBJDUMP = shutil.which("riscv64-linux-gnu-objdump")
SOURCES = Path(vpod.__file__).parent
WITH_TARGET = {row.name for row in isa.ROWS if "target" in row.operands}
COMPRESSED_WORDS = [word for word in range(1 << 16) if word & 3 != 3]

each_row = pytest.mark.parametrize("row", isa.ROWS, ids=lambda row: row.name)
needs_objdump = pytest.mark.skipif(
    OBJDUMP is None, reason="needs riscv64-linux-gnu-objdump (binutils-riscv64-linux-gnu)"
)


def full_words() -> list[int]:
    """For each base row: 40 random words of it, and one for each fixed bit with that bit wrong; the seed is fixed."""
    source = random.Random(64)
    words = []
    for row in isa.BASE_ROWS:
        words += [source.getrandbits(32) & ~row.mask | row.match for _ in range(40)]
        wrong = [1 << bit for bit in range(2, 32) if row.mask >> bit & 1]
        words += [source.getrandbits(32) & ~row.mask | row.match ^ bit for bit in wrong]
    return words


# The table itself


def test_no_two_patterns_overlap() -> None:
    for one, other in itertools.combinations(isa.BASE_ROWS, 2):
        shared = one.mask & other.mask
        assert one.match & shared != other.match & shared, f"{one.name} and {other.name} overlap"
    for word in COMPRESSED_WORDS:
        found = [row.name for row in isa.COMPRESSED_ROWS if row.matches(word)]
        assert len(found) <= 1, f"{word:#06x} is {' and '.join(found)}"


def test_names_and_numbers() -> None:
    assert len(isa.BY_NAME) == len(isa.ROWS)
    assert list(isa.OPCODES.values()) == list(range(1, len(isa.BASE_ROWS) + 1))
    assert {"OP_ADDI", "OP_FADD_D", "OP_AMOADD_W", "OP_LR_D", "OP_FCVT_L_S", "OP_FENCE_I"} <= isa.OPCODES.keys()


def test_extensions_have_as_many_instructions_as_the_listings_of_the_specification() -> None:
    assert Counter(row.extension for row in isa.ROWS) == {
        "I": 40 + 12, "Zifencei": 1, "Zicsr": 6, "Privileged": 4, "M": 8 + 5, "A": 22,
        "F": 26 + 4, "D": 26 + 6, "C": 37,
    }  # fmt: skip


@each_row
def test_flags_follow_the_kind_of_instruction(row: Row) -> None:
    base, _ = isa.expand(row)
    leaves = {"J", "jalr", "B", "csr", "csri", "system", "sfence"}
    assert ("ends_block" in row.flags) == (base.format in leaves or base.name == "fence.i")
    assert ("rounds" in base.flags) == ("mmm" in base.pattern)
    memory = {"load", "store"} & row.flags
    assert bool(memory) == bool(re.fullmatch(r"f?[ls][bhwd]u?|lr\..|sc\..|amo.*", base.name))
    assert not {"writes_x", "writes_f"} <= base.flags


# Reserved encodings, by the words of the specification


@pytest.mark.parametrize(
    "word",
    [
        pytest.param(0x0000, id="all zeros"),
        pytest.param(0x0004, id="c.addi4spn with immediate 0"),
        pytest.param(0x8000, id="quadrant 0, funct3 100"),
        pytest.param(0x2001, id="c.addiw to x0"),
        pytest.param(0x6101, id="c.addi16sp with immediate 0"),
        pytest.param(0x6501, id="c.lui with immediate 0"),
        pytest.param(0x6001, id="c.lui x0 with immediate 0"),
        pytest.param(0x9C41, id="quadrant 1, where c.mul is to come"),
        pytest.param(0x4002, id="c.lwsp to x0"),
        pytest.param(0x6002, id="c.ldsp to x0"),
        pytest.param(0x8002, id="c.jr x0"),
        pytest.param(0x0000007F, id="a longer instruction"),
        pytest.param(0xFFFFFFFF, id="all ones"),
        pytest.param(0x0000200F, id="misc-mem, funct3 010"),
        pytest.param(0x1015A52F, id="lr.w with rs2 1"),
        pytest.param(0x04C5F553, id="fadd with format 10"),
        pytest.param(0x0200151B, id="slliw by 32"),
        pytest.param(0x04001513, id="slli by 64"),
        pytest.param(0x00004073, id="system, funct3 100"),
        pytest.param(0x12000573, id="sfence.vma with a destination"),
        pytest.param(0x10200173, id="sret with a destination"),
        pytest.param(0x7FF0_707B, id="custom-3"),
    ],
)
def test_reserved_encodings_are_illegal(word: int) -> None:
    assert isa.decode(word) is None


def test_hints_write_nothing() -> None:
    for name, operands in {
        "c.li": {"rd": 0, "imm": 5},
        "c.lui": {"rd": 0, "imm": 4096},
        "c.mv": {"rd": 0, "rs2": 3},
        "c.add": {"rd": 0, "rs2": 2},  # c.ntl.p1
        "c.slli": {"rd": 0, "imm": 3},
        "c.nop": {"imm": 9},
        "addi": {"rd": 0, "rs1": 1, "imm": 1},
    }.items():
        insn = isa.decode(disasm.encode(name, **operands))
        assert insn is not None and insn.row.name == name and insn.rd == isa.X0_SINK


def test_fences_ignore_their_reserved_fields() -> None:
    for word in (0x0FF0000F, 0x5330_000F, 0x0FF5_858F, 0x0100_000F):
        insn = isa.decode(word)
        assert insn is not None and insn.base.name == "fence" and insn.rd == isa.X0_SINK and insn.imm == word >> 20
    insn = isa.decode(0xABCD_958F)
    assert insn is not None and insn.base.name == "fence.i" and insn.rd == isa.X0_SINK and insn.rs1 == 0


# Encode, decode, print


def random_words(row: Row, count: int) -> list[int]:
    source = random.Random(row.name)
    drawn = (source.getrandbits(8 * row.length) & ~row.mask | row.match for _ in range(100 * count))
    return list(itertools.islice(filter(row.matches, drawn), count))


@each_row
def test_encode_inverts_decode(row: Row) -> None:
    words = random_words(row, 50) if row.fields else [row.match]
    assert words
    for word in words:
        assert isa.find(word) is row
        fields = {field: row.take(field, word) for field in row.fields}
        ignored = sum(1 << bit for bit, drawn in enumerate(reversed(row.pattern.replace(" ", ""))) if drawn == ".")
        assert disasm.encode(row.name, **fields) == word & ~ignored
        assert disasm.disassemble(word).split()[0] in {
            row.name,
            *(row.name + order for order in (".aq", ".rl", ".aqrl")),
        } | ({"pause", "fence.tso"} if row.name == "fence" else set())


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0x00A58533, "add a0, a1, a0"),
        (0xFFC5A503, "lw a0, -4(a1)"),
        (0x80000537, "lui a0, 0x80000"),
        (0x02159513, "slli a0, a1, 33"),
        (0x30059573, "csrrw a0, mstatus, a1"),
        (0x7C08D573, "csrrwi a0, 0x7c0, 17"),
        (0x1605A52F, "lr.w.aqrl a0, (a1)"),
        (0x68C59543, "fmadd.s fa0, fa1, fa2, fa3, rtz"),
        (0x5A05F553, "fsqrt.d fa0, fa1"),
        (0x0310000F, "fence rw, w"),
        (0x8330000F, "fence.tso"),
        (0x0100000F, "pause"),
        (0x12B50073, "sfence.vma a0, a1"),
        (0x0808, "c.addi4spn a0, sp, 16"),
        (0x717D, "c.addi16sp sp, -16"),
        (0x757D, "c.lui a0, 0xfffff"),
        (0x2508, "c.fld fa0, 8(a0)"),
        (0xA011, "c.j .+4"),
        (0x9002, "c.ebreak"),
        (0x0000, ".half 0x0000"),
        (0x0000007F, ".word 0x0000007f"),
    ],
)
def test_canonical_text(word: int, text: str) -> None:
    assert disasm.disassemble(word) == text


def test_targets_are_addresses_when_the_pc_is_known() -> None:
    assert disasm.disassemble(0xFE0514E3, pc=0x8000_0010) == "bne a0, zero, 0x7ffffff8"
    assert disasm.disassemble(0xBFFD, pc=0) == "c.j 0xfffffffffffffffe"


@pytest.mark.parametrize(
    ("name", "operands", "complaint"),
    [
        ("addi", {"rd": 1, "rs1": 1, "imm": 2048}, "imm=2048 does not fit"),
        ("addi", {"rd": 1, "rs1": 1}, "needs the operand imm"),
        ("addi", {"rd": 32, "rs1": 1, "imm": 0}, "rd=32 does not fit"),
        ("beq", {"rs1": 1, "rs2": 1, "imm": 3}, "imm=3 does not fit"),
        ("add", {"rd": "a0", "rs1": "a9", "rs2": 0}, "rs1='a9'"),
        ("add", {"rd": 0, "rs1": 0, "rs2": 0, "rs3": 0}, "no operand rs3"),
        ("c.lw", {"rd": "t0", "rs1": "a0", "imm": 0}, "rd=5 does not fit"),
        ("c.lui", {"rd": 2, "imm": 4096}, "needs rd other than 2"),
        ("vadd.vv", {}, "not an instruction of RV64GC"),
    ],
)
def test_encode_refuses(name: str, operands: dict[str, int | str], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        disasm.encode(name, **operands)


# GNU binutils


def objdump(words: list[int], size: int, folder: Path) -> list[str]:
    """What binutils prints for each word, without comments and symbols."""
    image = folder / "words.bin"
    image.write_bytes(b"".join(word.to_bytes(size, "little") for word in words))
    assert OBJDUMP is not None
    options = ["-D", "-z", "-b", "binary", "-m", "riscv:rv64", "-M", "no-aliases,priv-spec=1.12"]
    listing = subprocess.run([OBJDUMP, *options, image], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^ *([0-9a-f]+):\t[0-9a-f]+ *\t(.*)$", listing, re.MULTILINE)
    assert [int(address, 16) for address, _ in lines] == [size * index for index in range(len(words))]
    return [re.sub(r" *(#.*|<.*>)$", "", text.replace("\t", " ")).strip() for _, text in lines]


def binutils_differs(word: int, theirs: str) -> bool:
    """The encodings in which binutils knowingly says other than the specification, or than this table."""
    row = isa.find(word)
    if row is None:  # instructions that were never ratified or that this machine doesn't have; a reserved immediate
        return theirs.split()[0] in {"c.unimp", "uret", "hret", "dret", "sfence.vm"} or theirs == "c.addi16sp sp,0"
    if row.name in ("fence", "fence.i"):  # reserved fields, which "shall be ignored"
        return word & 0xF00F_8F80 != 0 or (row.name == "fence.i" and word >> 20 != 0)
    return "exact" in row.flags and row.take("rm", word) != 0  # a rounding mode where nothing is rounded


def as_binutils(word: int, pc: int) -> str:
    """Our text, rewritten in the notation of binutils, whose spelling of numbers and hints differs."""
    text = disasm.disassemble(word, pc).replace(", ", ",")
    row = isa.find(word)
    if row is None:
        return ".reserved"
    operands = row.operands
    if "target" in operands:
        return text.replace("0x", "")
    if operands[-1:] == ["shamt"]:
        text, _, amount = text.rpartition(",")
        if amount == "0" and row.length == 2:
            return text.replace(row.name, f"{row.name}64")
        return f"{text},{int(amount):#x}"
    if row.name == "c.nop":
        return f"c.addi zero,{row.take('imm', word)}"
    return re.sub("rm[56]$", "unknown", text)


def compare(words: list[int], size: int, folder: Path) -> int:
    """Compares all words; returns how many were compared, known differences aside."""
    compared = 0
    for index, (word, theirs) in enumerate(zip(words, objdump(words, size, folder), strict=True)):
        if binutils_differs(word, theirs):
            continue
        ours = as_binutils(word, size * index)
        theirs = re.sub(r"^\.[248]?byte.*", ".reserved", theirs)
        if ours.split()[0] in WITH_TARGET:
            theirs = theirs.replace("0x", "")
        if ours.startswith("csr") and ",0x" in ours:  # CSRs that this machine doesn't have and binutils names
            ours, theirs = (re.sub(r"^(\S+ \w+),\w+,", r"\1,CSR,", text) for text in (ours, theirs))
        assert ours == theirs, f"{word:#x}: {disasm.disassemble(word)}"
        compared += 1
    return compared


@needs_objdump
def test_binutils_agrees_on_every_compressed_encoding(tmp_path: Path) -> None:
    assert compare(COMPRESSED_WORDS, 2, tmp_path) == len(COMPRESSED_WORDS) - 2  # c.unimp, c.addi16sp sp,0


@needs_objdump
def test_binutils_agrees_on_full_encodings(tmp_path: Path) -> None:
    words = [word for word in full_words() if word & 0x1F != 0x1F]  # longer instructions would shift the listing
    assert compare(words, 4, tmp_path) > 0.95 * len(words)


# The generated decoder

FACE = """\
# cython: language_level=3
from libc.stdint cimport uint32_t
from vpod._decode cimport OP_TABLE_END, decode as _decode
from vpod._hart cimport Insn

TABLE_END = OP_TABLE_END

def decode(uint32_t word):
    cdef Insn insn
    _decode(word, &insn)
    return insn.op, insn.length, insn.rd, insn.rs1, insn.rs2, insn.rs3, insn.rm, insn.imm
"""

BUILD = """\
from Cython.Build import cythonize
from setuptools import Extension, setup
face = Extension("face", ["face.pyx"], extra_compile_args=["-O1"])
setup(ext_modules=cythonize([face], include_path=["."], quiet=True))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The decoder that isagen generates now, compiled behind a Python function."""
    pytest.importorskip("Cython", reason="needs Cython to compile the generated decoder")
    folder = tmp_path_factory.mktemp("decoder")
    package = folder / "vpod"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(SOURCES / "_hart.pxd", package)
    isagen.write(package / "_decode.pxd")
    (folder / "face.pyx").write_text(FACE)
    (folder / "setup.py").write_text(BUILD)
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    result = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    spec = importlib.util.spec_from_file_location("face", next(folder.glob("face.*.so")))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(word: int) -> tuple[int, ...]:
    """What the rows say that the generated decoder should make of `word`."""
    insn = isa.decode(word)
    if insn is None:
        size = isa.length(word)
        raw = word & (1 << 8 * size) - 1
        raw -= (raw >> 31) << 32  # imm is an int32_t
        return 0, size, isa.X0_SINK, 0, 0, 0, 0, raw
    return isa.OPCODES[insn.base.op], insn.length, insn.rd, insn.rs1, insn.rs2, insn.rs3, insn.rm, insn.imm


def disagreements(decode: Callable[[int], tuple[int, ...]], words: list[int]) -> list[str]:
    return [f"{word:#010x} {disasm.disassemble(word)}" for word in words if decode(word) != reference(word)]


def test_generated_decoder_on_every_compressed_encoding(compiled: ModuleType) -> None:
    upper = 0xDEAD_0000  # the next instruction's bits: of no consequence
    assert disagreements(compiled.decode, [upper | word for word in COMPRESSED_WORDS]) == []


def test_generated_decoder_on_full_encodings(compiled: ModuleType) -> None:
    source = random.Random(65)
    words = full_words() + [source.getrandbits(32) | 3 for _ in range(20_000)]
    assert disagreements(compiled.decode, words) == []


def test_table_end_follows_the_last_opcode(compiled: ModuleType) -> None:
    assert len(isa.BASE_ROWS) + 1 == compiled.TABLE_END


def test_generator_refuses_rows_that_break_its_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = isa._row("odd", "I", "iiiiiiiiiiii sssss 111 ddddd 1110111", isa.FORMATS["load"], format="store")
    monkeypatch.setattr(isa, "BASE_ROWS", (*isa.BASE_ROWS, odd))
    with pytest.raises(ValueError, match="odd and sb share the format store"):
        isagen.generate()


def test_unchanged_decoder_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "_decode.pxd"
    isagen.write(path)
    before = path.stat()
    isagen.write(path)
    assert path.stat() == before
    path.write_text("old")
    isagen.write(path)
    assert path.read_text() == isagen.generate()


# The interpreter


def test_the_built_core_decodes_as_the_table_says() -> None:
    core = pytest.importorskip("vpod._cpu", reason="the core is not built: run `python setup.py build_ext --inplace`")
    fields = ("op", "length", "rd", "rs1", "rs2", "rs3", "rm", "imm")
    words = full_words() + COMPRESSED_WORDS[::17]
    assert disagreements(lambda word: tuple(core.decode_word(word)[field] for field in fields), words) == []


@pytest.mark.skipif(not (SOURCES / "_cpu.pyx").exists(), reason="the core's sources are not beside the package")
def test_every_base_row_has_an_arm_in_the_interpreter() -> None:
    chapters = [path for path in SOURCES.glob("_*.p[xy][dx]") if path.name != "_decode.pxd"]
    named = set(re.findall(r"\bOP_\w+", "\n".join(path.read_text() for path in chapters)))
    assert isa.OPCODES.keys() - named == set()
