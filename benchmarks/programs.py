"""The programs that are measured, and how they are compiled for the guest and for this machine.

Why it exists: one table says what runs, so that every engine runs exactly the same. A program is one C file of
`programs/`, compiled for the guest once, by ziglang; or a command of Alpine's busybox; or Python, one file of
`programs/` or a command, run by Debian's own `python3` in a root filesystem of its own (`DEBIAN`).

Invariants: a program prints the same bytes on every machine, known beforehand wherever something independent knows
them. Only C runs natively: another build of busybox or Python is another program. C and busybox's commands are relative
to one folder, which holds everything that `build` makes.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from benchmarks import BenchmarkError

SOURCES = Path(__file__).resolve().parent / "programs"
FLAGS = ("-O2", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra")
TARGET, CPU = "riscv64-linux-musl", "generic_rv64+m+a+f+d+c"
TOOLS = ("stopwatch", "text", "repeat")  # of programs/, beside what is measured
BENCH = "/bench"  # the guest's folder of programs, in both of its root filesystems
DEBIAN = "/debian"  # where Debian's root filesystem is in the guest
PYTHON = "/usr/bin/python3"
TEXTS = {"text.txt": 6, "lines.txt": 2}  # what busybox reads: MiB that `text` makes
WARM = ("collections", "compileall", "concurrent", "json", "pathlib", "py_compile", "re", "shutil", "tempfile")
"""What the Python programs import: compiled once before they are measured, as Debian does when it installs Python."""


@dataclass(frozen=True)
class Group:
    """Rows of the table that are summed up together."""

    name: str
    title: str


INTEGER, MEMORY = Group("integer", "integer arithmetic"), Group("memory", "memory")
CALLS, INDIRECT = Group("calls", "calls and returns"), Group("indirect", "indirect jumps")
SHELL, FLOATING = Group("shell", "busybox"), Group("floating", "floating point")
CPYTHON, START = Group("python", "CPython"), Group("start", "starting processes")
GROUPS = (INTEGER, MEMORY, CALLS, INDIRECT, SHELL, FLOATING, CPYTHON, START)


class Kind(Enum):
    """Where a program comes from, and so where it runs."""

    C = "C"
    BUSYBOX = "busybox"
    PYTHON = "Python"


@dataclass(frozen=True)
class Program:
    """One row of the table. `output` is all that it prints, if that is known."""

    name: str
    command: tuple[str, ...]
    output: str | None = None
    group: Group = INTEGER
    kind: Kind = Kind.C


def _c(group: Group, name: str, checksum: str) -> Program:
    return Program(name, (f"./{name}",), f"{name} {checksum}\n", group)


def _busybox(name: str, *arguments: str, output: str | None = None) -> Program:
    return Program(name, ("busybox", *arguments), output, SHELL, Kind.BUSYBOX)


def _python(name: str, answer: str | None) -> Program:
    output = None if answer is None else f"{name} {answer}\n"
    return Program(name, (PYTHON, f"{BENCH}/{name}.py"), output, CPYTHON, Kind.PYTHON)


PROGRAMS = (
    _c(INTEGER, "crc", "0000000065c06a49"),
    _c(INTEGER, "keccak", "f5b89562ec7d753b"),
    _c(INTEGER, "primes", "0c61a99afaa4298e"),
    _c(MEMORY, "sieve", "833f5045739f0cb2"),
    _c(MEMORY, "copy", "5edb2a1091e1f149"),
    _c(MEMORY, "chase", "ca6dfe8b21d41404"),
    _c(CALLS, "calls", "8ff34700ad25e80b"),
    _c(CALLS, "trees", "6e0896b4181ca5d2"),
    _c(INDIRECT, "quicksort", "e1f944f605b2ee22"),
    _c(INDIRECT, "interpreter", "000000000023c4e1"),
    _c(INDIRECT, "shapes", "02f5f051e99e558e"),
    _busybox("sh", "sh", "-c", "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done; echo $i", output="40000\n"),
    _busybox(
        "awk", "awk", "BEGIN { for (i = 0; i < 40000; i++) { s = s + i * 2; a[i % 100] = s } print s }",
        output="1599960000\n",
    ),
    _busybox("sort", "sort", "lines.txt"),
    _busybox("sha256sum", "sha256sum", *["text.txt"] * 6),
    _busybox("gzip", "gzip", "-1", "-c", "text.txt"),
    _c(FLOATING, "matrix", "0a23a238379cdd28"),
    _c(FLOATING, "nbody", "272ba1d6dfac443c"),
    _c(FLOATING, "mandelbrot", "1ad11e0746aba504"),
    _c(FLOATING, "fft", "60f9eb154d7092f4"),
    _c(FLOATING, "rays", "692c53facb269e84"),
    _python("pyarith", "788071 28667054"),
    _python("pystrings", "3040 95148 3963044512"),
    _python("pydicts", "122776180401"),
    _python("pyregex", "3637 728 94531281 3637 17575"),
    _python("pyjson", "896582 1401670415"),
    _python("pymandel", "220780"),
    _python("pynbody", "-0.169061220"),
    _python("pycompile", None),
    Program("pystart", (f"{BENCH}/repeat", "3", PYTHON, "-c", "pass"), "", START, Kind.PYTHON),
)  # fmt: skip


def by_name() -> dict[str, Program]:
    """Every program under its name."""
    return {program.name: program for program in PROGRAMS}


def chosen(names: Sequence[str], groups: Sequence[str] = ()) -> list[Program]:
    """The programs named and those of the groups named, in the table's order; all if nothing is named.

    `BenchmarkError` for an unknown name.
    """
    _known("program", names, by_name())
    _known("group", groups, [group.name for group in GROUPS])
    named = [each for each in PROGRAMS if each.name in names or each.group.name in groups]
    return named if names or groups else list(PROGRAMS)


def _known(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise BenchmarkError(f"there is no {what} {', '.join(unknown)}; those there are: {', '.join(known)}")


def compiled(programs: Sequence[Program]) -> list[Program]:
    """Those that are C."""
    return [program for program in programs if program.kind is Kind.C]


def expecting(programs: Sequence[Program], texts: Mapping[str, bytes]) -> list[Program]:
    """The same programs, with what `sha256sum` and `sort` must print for these texts."""
    line = f"{hashlib.sha256(texts['text.txt']).hexdigest()}  text.txt\n"
    in_order = b"".join(each + b"\n" for each in sorted(texts["lines.txt"].splitlines()))
    answers = {"sha256sum": line * 6, "sort": in_order.decode()}
    return [replace(program, output=answers.get(program.name, program.output)) for program in programs]


def digest(output: bytes) -> str:
    """FNV-1a, 64 bits, as `stopwatch` prints it (draft-eastlake-fnv, section 2)."""
    value = 0xCBF29CE484222325
    for byte in output:
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return f"{value:016x}"


def script(programs: Sequence[Program]) -> str:
    """Shell lines that measure one program after the other, to be run where `build` put them."""
    return "".join(f"{shlex.join([*_stopwatch(each), each.name, *each.command])}\n" for each in programs)


def _stopwatch(program: Program) -> list[str]:
    """Python's runs behind `chroot`, whose own time so is not measured."""
    return ["chroot", DEBIAN, f"{BENCH}/stopwatch"] if program.kind is Kind.PYTHON else ["./stopwatch"]


def preparation(programs: Sequence[Program]) -> str:
    """Shell lines that make what the programs read, before the first is measured."""
    lines = [
        f"./text {size} > {name}" for name, size in TEXTS.items() if any(name in each.command for each in programs)
    ]
    if any(each.kind is Kind.PYTHON for each in programs):
        lines.append(shlex.join(["chroot", DEBIAN, PYTHON, "-c", f"import {', '.join(WARM)}"]))
    return "".join(f"{line}\n" for line in lines)


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
    for name in (*TOOLS, *(program.name for program in compiled(programs))):
        command = [*compiler, "-o", str(folder / name), str(SOURCES / f"{name}.c"), "-lm"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchmarkError(
                f"compiling {name}.c failed (exit code {done.returncode}): {shlex.join(command)}\n"
                f"{done.stderr}{done.stdout}\nIs the compiler there? For the guest: pip install ziglang"
            )


def make_texts(folder: Path) -> dict[str, bytes]:
    """What the guest will read, made by the `text` of a folder built natively."""
    return {
        name: subprocess.run([folder / "text", str(size)], stdout=subprocess.PIPE, check=True).stdout
        for name, size in TEXTS.items()
    }
