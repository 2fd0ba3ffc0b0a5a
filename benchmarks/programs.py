"""The programs that are measured, and how they are compiled for the guest and for this machine.

Why it exists: one table says what runs, so that every engine runs exactly the same. A compiled program is one C file of
`programs/`; the guest's binary is made once, by ziglang, and both guests run those bytes. The others are busybox's own.

Invariants: a program prints the same bytes on every machine, known beforehand wherever something independent knows
them; `exact` is False only where another build of the same tool may rightly print other bytes. Commands are relative to
one folder, which holds everything that `build` makes.

>>> by_name()["crc"].command
('./crc',)
>>> digest(b"")
'cbf29ce484222325'
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import BenchmarkError

SOURCES = Path(__file__).resolve().parent / "programs"
FLAGS = ("-O2", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra")
TARGET, CPU = "riscv64-linux-musl", "generic_rv64+m+a+f+d+c"
TOOLS = ("stopwatch", "text")  # of programs/, beside what is measured
TEXT = "text.txt"  # what sha256sum and gzip read
TEXT_MEBIBYTES = 16


@dataclass(frozen=True)
class Program:
    """One row of the table. `output` is all that it prints, if that is known; `exact`: natively it prints the same."""

    name: str
    command: tuple[str, ...]
    output: str | None = None
    exact: bool = True
    compiled: bool = False


def _compiled(name: str, checksum: str) -> Program:
    return Program(name, (f"./{name}",), f"{name} {checksum}\n", compiled=True)


def _busybox(name: str, *arguments: str, output: str | None = None, exact: bool = True) -> Program:
    return Program(name, ("busybox", *arguments), output, exact)


PROGRAMS = (
    _compiled("crc", "000000003ff44a76"),
    _compiled("sort", "68ed8a4ba8204c45"),
    _compiled("sieve", "7f82305daf3bb7bc"),
    _compiled("matrix", "0a23a238379cdd28"),
    _compiled("nbody", "7723cd64448fa006"),
    _compiled("calls", "538452c33070398b"),
    _compiled("trees", "6e0896b4181ca5d2"),
    _compiled("interpreter", "000000000023c4e1"),
    _compiled("keccak", "f5b89562ec7d753b"),
    _busybox("sh", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i", output="20000\n"),
    _busybox(
        "awk", "awk", "BEGIN { for (i = 0; i < 200000; i++) { s = s + i * 2; a[i % 100] = s } print s }",
        output="39999800000\n",
    ),
    _busybox("sha256sum", "sha256sum", TEXT),
    _busybox("gzip", "gzip", "-1", "-c", TEXT, exact=False),
)  # fmt: skip


def by_name() -> dict[str, Program]:
    """Every program under its name."""
    return {program.name: program for program in PROGRAMS}


def chosen(names: Sequence[str]) -> list[Program]:
    """The programs named, in the table's order; all for no names. `BenchmarkError` for an unknown one."""
    unknown = sorted(set(names) - set(by_name()))
    if unknown:
        raise BenchmarkError(f"there is no program {', '.join(unknown)}; those there are: {', '.join(by_name())}")
    return [program for program in PROGRAMS if not names or program.name in names]


def expecting(programs: Sequence[Program], text: bytes) -> list[Program]:
    """The same programs, with what `sha256sum` must print for this text."""
    answer = f"{hashlib.sha256(text).hexdigest()}  {TEXT}\n"
    return [replace(program, output=answer) if program.name == "sha256sum" else program for program in programs]


def digest(output: bytes) -> str:
    """FNV-1a, 64 bits, as `stopwatch` prints it (draft-eastlake-fnv, section 2)."""
    value = 0xCBF29CE484222325
    for byte in output:
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return f"{value:016x}"


def script(programs: Sequence[Program]) -> str:
    """Shell lines that measure one program after the other, to be run where `build` put them."""
    return "".join(f"{shlex.join(['./stopwatch', each.name, *each.command])}\n" for each in programs)


def native_compiler() -> list[str]:
    """This machine's compiler with its flags: ``$CC``, or the first of the usual names. Raises `BenchmarkError`."""
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise BenchmarkError("no C compiler for this machine was found; install gcc or clang, or name one in CC")
    return [*shlex.split(compiler), "-march=native", *FLAGS]


def guest_compiler() -> list[str]:
    """The cross compiler with its flags: ziglang's, started by this interpreter."""
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, f"-mcpu={CPU}"]
    return [*zig, "-static", "-fno-sanitize=all", "-Wl,-s", *FLAGS]


def build(folder: Path, compiler: Sequence[str], programs: Sequence[Program]) -> None:
    """Compile the tools and what is compiled of `programs` into `folder`.

    `BenchmarkError` holds what the compiler said, if it failed.
    """
    environment = dict(os.environ)  # zig needs a cache folder it may write to, also where the home folder isn't one
    environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(Path(tempfile.gettempdir(), f"vpod-zig-{os.getuid()}")))
    for name in (*TOOLS, *(program.name for program in programs if program.compiled)):
        command = [*compiler, "-o", str(folder / name), str(SOURCES / f"{name}.c"), "-lm"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchmarkError(
                f"compiling {name}.c failed (exit code {done.returncode}): {shlex.join(command)}\n"
                f"{done.stderr}{done.stdout}\nIs the compiler there? For the guest: pip install ziglang"
            )


def make_text(folder: Path) -> bytes:
    """Write the text into a folder built natively; its bytes."""
    path = folder / TEXT
    with path.open("wb") as file:
        subprocess.run([folder / "text", str(TEXT_MEBIBYTES)], stdout=file, check=True)
    return path.read_bytes()
