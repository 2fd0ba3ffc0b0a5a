"""The bare runner: HTIF by itself, programs made here from instruction words, and assembled ones beside QEMU's `spike`.

QEMU's machine honours exit codes and console characters of HTIF, so those are compared; write and signatures are
checked against what the program's source says they must be.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_maker import BASE, assemble, make_elf

from vpod.errors import ProgramError

pytest.importorskip("vpod._cpu", reason="the core is not built: run `python setup.py build_ext --inplace`")

from vpod import bare, elf

PROGRAMS = Path(__file__).parent / "programs"
GCC = shutil.which("riscv64-linux-gnu-gcc")
QEMU = shutil.which("qemu-system-riscv64")

needs_gcc = pytest.mark.skipif(GCC is None, reason="needs riscv64-linux-gnu-gcc")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-riscv64")

TOHOST, FROMHOST, BLOCK, TEXT = 0x100, 0x140, 0x180, 0x200


class FakeMemory:
    """A kilobyte of RAM at address 0."""

    def __init__(self) -> None:
        self.data = bytearray(1024)

    def read(self, address: int, length: int) -> bytes:
        if not 0 <= address <= address + length <= len(self.data):
            raise ValueError("outside")
        return bytes(self.data[address : address + length])

    def write(self, address: int, data: bytes) -> None:
        self.read(address, len(data))
        self.data[address : address + len(data)] = data

    def put(self, address: int, *words: int) -> None:
        self.write(address, b"".join((word & bare.U64).to_bytes(8, "little") for word in words))

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def written() -> list[tuple[int, bytes]]:
    return []


@pytest.fixture
def htif(memory: FakeMemory, written: list[tuple[int, bytes]]) -> bare.Htif:
    return bare.Htif(memory, TOHOST, FROMHOST, lambda fd, data: written.append((fd, data)))


# HTIF


def test_nothing_asked_nothing_done(htif: bare.Htif, memory: FakeMemory) -> None:
    before = bytes(memory.data)
    assert not htif.poll() and htif.exit_code is None and memory.data == before


@pytest.mark.parametrize("code", [0, 1, 7, 255, 256, (1 << 47) - 1])
def test_exit(htif: bare.Htif, memory: FakeMemory, code: int) -> None:
    memory.put(TOHOST, code << 1 | 1)
    assert htif.poll() and htif.exit_code == code and memory.word(TOHOST) == 0


def test_write_answers_with_the_length(htif: bare.Htif, memory: FakeMemory, written: list[tuple[int, bytes]]) -> None:
    memory.write(TEXT, b"a\x00\xffb")
    memory.put(BLOCK, bare.SYS_WRITE, 2, TEXT, 4)
    memory.put(TOHOST, BLOCK)
    assert htif.poll()
    assert written == [(2, b"a\x00\xffb")]
    assert (memory.word(BLOCK), memory.word(FROMHOST), memory.word(TOHOST)) == (4, 1, 0)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ((bare.SYS_WRITE, 0, TEXT, 4), errno.EBADF),
        ((bare.SYS_WRITE, 3, TEXT, 4), errno.EBADF),
        ((bare.SYS_WRITE, 1, 1020, 5), errno.EFAULT),
        ((bare.SYS_WRITE, 1, -1, 1), errno.EFAULT),
        ((bare.SYS_WRITE, 1, TEXT, -1), errno.EFAULT),
        ((63, 0, TEXT, 4), errno.ENOSYS),
        ((1024, 0, TEXT, 4), errno.ENOSYS),
    ],
)
def test_calls_that_are_refused(
    htif: bare.Htif, memory: FakeMemory, written: list[tuple[int, bytes]], call: tuple[int, ...], error: int
) -> None:
    memory.put(BLOCK, *call)
    memory.put(TOHOST, BLOCK)
    assert htif.poll()
    assert written == [] and memory.word(BLOCK) == -error & bare.U64 and memory.word(FROMHOST) == 1


def test_exit_as_a_system_call(htif: bare.Htif, memory: FakeMemory) -> None:
    memory.put(BLOCK, bare.SYS_EXIT, 9, 0, 0)
    memory.put(TOHOST, BLOCK)
    assert htif.poll() and htif.exit_code == 9


def test_console(htif: bare.Htif, memory: FakeMemory, written: list[tuple[int, bytes]]) -> None:
    memory.put(TOHOST, 0x0101 << 48 | ord("x"))
    assert htif.poll() and written == [(1, b"x")]
    memory.put(TOHOST, 0x0100 << 48)  # a character is wanted
    assert htif.poll() and memory.word(FROMHOST) == 0 and memory.word(TOHOST) == 0


@pytest.mark.parametrize("word", [0x0200 << 48, 0x0102 << 48, 0x00FF << 48 | BLOCK, 0xFFFF_FFFF_FFFF_FFFF])
def test_what_htif_lacks(htif: bare.Htif, memory: FakeMemory, word: int) -> None:
    memory.put(TOHOST, word)
    with pytest.raises(ProgramError, match="which HTIF lacks"):
        htif.poll()


@pytest.mark.parametrize("block", [1016, 1022, 0xFFFF_FFFF_FFF8])
def test_a_call_outside_ram(htif: bare.Htif, memory: FakeMemory, block: int) -> None:
    memory.put(TOHOST, block)
    with pytest.raises(ProgramError, match="outside RAM"):
        htif.poll()


def test_words_that_can_not_be(memory: FakeMemory) -> None:
    for tohost, fromhost in ((TOHOST + 4, FROMHOST), (TOHOST, FROMHOST + 1), (1 << 63, FROMHOST)):
        with pytest.raises(ProgramError, match=r"aligned|outside RAM"):
            bare.Htif(memory, tohost, fromhost, print)


# Programs, made here


def ending_program(code: int, symbols: dict[str, int] | None = None) -> bytes:
    """A program that ends with `code` by HTIF, made without a compiler."""
    text = assemble(
        ("auipc", {"rd": "t0", "imm": 0x1000}),
        ("addi", {"rd": "a0", "rs1": 0, "imm": code << 1 | 1}),
        ("sd", {"rs1": "t0", "rs2": "a0", "imm": 0}),
        ("c.j", {"imm": 0}),
    )
    return make_elf(text, symbols={"tohost": BASE + 0x1000} if symbols is None else symbols, size=0x2000)


def run_cli(path: Path, *options: str, timeout: float = 60) -> tuple[int, bytes, str]:
    """`python -m vpod.bare`: exit code, standard output, standard error."""
    command = [sys.executable, "-m", "vpod.bare", str(path), *options]
    done = subprocess.run(command, capture_output=True, timeout=timeout, cwd=PROGRAMS.parents[1])
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_the_programs(tmp_path: Path, code: int) -> None:
    program = tmp_path / "program"
    program.write_bytes(ending_program(code))
    exit_code, output, message = run_cli(program)
    assert (exit_code, output) == (code, b"")
    assert message == ("" if code == 0 else f"vpod.bare: {program}: failed with exit code {code}\n")


def test_a_larger_exit_code_never_looks_like_success(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(ending_program(256))
    exit_code, _, message = run_cli(program)
    assert exit_code == 255 and "exit code 256" in message


def test_what_cannot_be_run_exits_with_125(tmp_path: Path) -> None:
    for content, complaint in [
        (b"hello", "not an ELF file"),
        (ending_program(0, symbols={"main": BASE}), "no symbol tohost"),
        (ending_program(0, symbols={"tohost": 0x1000}), "outside RAM"),
    ]:
        program = tmp_path / "program"
        program.write_bytes(content)
        exit_code, _, message = run_cli(program)
        assert exit_code == 125 and complaint in message and str(program) in message
    assert run_cli(tmp_path / "missing")[0] == 125


@pytest.mark.parametrize(
    "options",
    [
        ("--memory", "0"), ("--memory", "1000"), ("--memory", "8G"), ("--memory", "lots"), ("--memory", "-1"),
        ("--max-instructions", "0"), ("--max-instructions", "many"),
    ],
)  # fmt: skip
def test_usage_errors_exit_with_2(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run_cli(tmp_path / "program", *options)[0] == 2


@pytest.mark.parametrize(
    ("symbols", "complaint"),
    [
        ({}, "no symbol begin_signature and no end_signature"),
        ({"begin_signature": BASE + 8, "end_signature": BASE}, "no range of RAM"),
        ({"begin_signature": 0, "end_signature": BASE}, "no range of RAM"),
        ({"begin_signature": BASE, "end_signature": BASE + (1 << 40)}, "no range of RAM"),
    ],
)
def test_signatures_that_cannot_be(symbols: dict[str, int], complaint: str) -> None:
    program = elf.parse(ending_program(0, symbols={"tohost": BASE + 0x1000, **symbols}))
    with pytest.raises(ProgramError, match=complaint):
        bare.run(program, lambda fd, data: None, signature=True)


def test_memory_bounds_the_program() -> None:
    program = elf.parse(ending_program(0))
    assert bare.run(program, lambda fd, data: None, memory=0x2000).exit_code == 0
    with pytest.raises(ProgramError, match="give it more memory"):
        bare.run(program, lambda fd, data: None, memory=0x1000)


def test_the_limit_is_exact() -> None:
    """The program stores to tohost with its third instruction: two are too few."""
    program = elf.parse(ending_program(5))
    results = [bare.run(program, lambda fd, data: None, max_instructions=count) for count in (1, 2, 3, 4)]
    assert [result.exit_code for result in results] == [None, None, 5, 5]
    assert results[0].reason == "it did not end within 1 instructions; pc is 0x80000004"


# Programs, assembled


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Assembles and links tests/programs/NAME.S with definitions such as CODE=3."""
    folder = tmp_path_factory.mktemp("programs")

    def make(name: str, *definitions: str) -> Path:
        program = folder / "-".join((name, *definitions))
        if not program.exists():
            assert GCC is not None
            options = ["-march=rv64gc", "-mabi=lp64d", "-nostdlib", "-static", "-T", str(PROGRAMS / "link.ld")]
            linker = "-Wl,--build-id=none,--no-warn-rwx-segments"
            source = str(PROGRAMS / f"{name}.S")
            defined = [f"-D{definition}" for definition in definitions]
            subprocess.run([GCC, *options, linker, *defined, source, "-o", str(program)], check=True)
        return program

    return make


EVERYWHERE = [("exit", "CODE=0"), ("exit", "CODE=77"), ("console",), ("signature",), ("trap",), ("timer",)]


@needs_gcc
@needs_qemu
@pytest.mark.parametrize("name", EVERYWHERE, ids="-".join)
def test_exit_code_and_console_are_those_of_qemu(build: Callable[..., Path], name: tuple[str, ...]) -> None:
    program = build(*name)
    assert QEMU is not None
    command = [QEMU, "-M", "spike", "-bios", "none", "-nographic", "-kernel", str(program)]
    theirs = subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    exit_code, output, _ = run_cli(program, "--max-instructions", "10000000")
    assert (exit_code, output) == (theirs.returncode, theirs.stdout)


@needs_gcc
def test_text_goes_to_standard_output_and_error_as_it_is(build: Callable[..., Path]) -> None:
    command = [sys.executable, "-m", "vpod.bare", str(build("hello")), "--max-instructions", "1000000"]
    done = subprocess.run(command, capture_output=True, timeout=60, cwd=PROGRAMS.parents[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello, \xff\x00world", b"\xff\x00world")


@needs_gcc
def test_signature(build: Callable[..., Path], tmp_path: Path) -> None:
    a, b = 0x123456789ABCDEF0, -7
    low, mask = (1 << 32) - 1, (1 << 64) - 1
    words = [
        a * b & mask,
        a * (b & mask) >> 64,
        b * a >> 64 & mask,
        (2**32 - 0x9ABCDEF0) // 7,  # divw of two negative numbers
        a % 7,
        mask,
        (0x9ABCDEF0 - (1 << 32) >> 4) & mask,
    ]
    memory = b"".join(word.to_bytes(8, "little") for word in words)
    unaligned = memory[2:6]
    memory = ((words[0] + b) & low).to_bytes(4, "little") + memory[4:] + unaligned + memory[:4] + b"\x01\0\0\x80"
    expected = [f"{int.from_bytes(memory[at : at + 4], 'little'):08x}" for at in range(0, len(memory), 4)]
    signature = tmp_path / "signature"
    assert run_cli(build("signature"), "--signature", str(signature))[0] == 0
    assert signature.read_text().splitlines() == expected


@needs_gcc
@pytest.mark.parametrize(
    ("mode", "complaint"),
    [
        pytest.param("0", "did not end within 3000000 instructions", id="spinning"),
        pytest.param("1", "waits for an interrupt that does not come", id="waiting"),
        pytest.param("2", "did not end within 3000000 instructions", id="trapping into an illegal instruction"),
        pytest.param("3", "did not end within 3000000 instructions", id="trapping to where nothing is"),
    ],
)
def test_a_program_that_never_ends_exits_with_124(build: Callable[..., Path], mode: str, complaint: str) -> None:
    exit_code, _, message = run_cli(build("forever", f"MODE={mode}"), "--max-instructions", "3000000", timeout=20)
    assert exit_code == 124 and complaint in message


@needs_gcc
def test_waiting_for_a_timer_costs_the_host_nothing(build: Callable[..., Path]) -> None:
    program = elf.parse(build("timer").read_bytes())
    started, used = time.monotonic(), time.process_time()
    assert bare.run(program, lambda fd, data: None).exit_code == 0
    assert time.monotonic() - started >= 0.01 > time.process_time() - used
