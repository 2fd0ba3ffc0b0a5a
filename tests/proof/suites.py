"""Public test suites on vpod: riscv-tests and riscv-arch-test, from a checkout that somebody fetched.

    python -m tests.proof.suites run CHECKOUT [--only PATTERN ...]       compile what applies, run it, print a table
    python -m tests.proof.suites signature ELF FILE                      the signature that QEMU computes

Each program runs through `python -m vpod.bare`. A riscv-test says itself whether it passed. An arch-test leaves a
signature, which is compared with the one in the suite, or with QEMU's where the suite has none. docs/suites.md tells
how to fetch the suites; none of their files are here, only the environment in `riscof/env`, which is ours.

Invariants: a test that doesn't compile, doesn't end or prints no signature has failed; nothing is run that the suite
says doesn't apply to this machine (ISA); a checkout in which nothing applies is an error.

Exit codes: 0 all passed; 1 some failed; 2 usage, no tests, or no compiler.

    $ python -m tests.proof.suites run ~/riscv-tests --only 'rv64u*'
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.proof.board import CPU, Unfinished
from tests.proof.riscof.toolchain import COMPILERS, OPTIONS, compiler, march
from vpod import elf
from vpod.bus import RAM_BASE

ENVIRONMENT = Path(__file__).parent / "riscof" / "env"
ISA = "RV64IMAFDCSUZicsr_Zifencei"
LIMIT, SECONDS = 50_000_000, 120  # instructions, and what the host may take for them
MEMORY = 64 << 20  # of QEMU's machine

FOLDERS = ("rv64ui", "rv64um", "rv64ua", "rv64uf", "rv64ud", "rv64uc", "rv64mi", "rv64si")  # of riscv-tests
SKIPPED = {  # what of riscv-tests can't be asked of this machine, and why
    "rv64mi/ma_addr": "misaligned loads and stores are done, not trapped: either is allowed",
    "rv64mi/breakpoint": "there are no debug triggers, so that tselect is an illegal instruction: they are optional",
}
CHECKED = {"hw_data_misaligned_support": "True"}  # what arch-tests ask for beside the ISA


class SuiteError(Exception):
    """The checkout or the tools are not what they should be; the message says what to do."""


@dataclass(frozen=True)
class Test:
    """One program: how it is compiled, and what its signature must be (None: the program itself says how it went)."""

    name: str
    source: Path
    options: tuple[str, ...]
    signature: Path | None = None
    compares: bool = False


@dataclass(frozen=True)
class Verdict:
    """How a test went; `reason` is empty if it passed."""

    test: Test
    reason: str


# ---- what there is to run -------------------------------------------------------------------------------------------


def find_tests(checkout: Path) -> list[Test]:
    """The tests in `checkout` that apply to this machine. Raises SuiteError if it is neither suite."""
    if (checkout / "isa" / "rv64ui").is_dir():
        return list(_riscv_tests(checkout))
    if (checkout / "riscv-test-suite" / "rv64i_m").is_dir():
        return list(_arch_tests(checkout / "riscv-test-suite"))
    raise SuiteError(f"{checkout}: neither riscv-tests (isa/rv64ui) nor riscv-arch-test (riscv-test-suite/rv64i_m)")


def _riscv_tests(checkout: Path) -> Iterator[Test]:
    environment = checkout / "env" / "p"
    if not (environment / "riscv_test.h").is_file():
        raise SuiteError(f"{environment}: no riscv_test.h; run `git submodule update --init` in the checkout")
    options = (
        f"-I{environment}", f"-I{checkout / 'isa' / 'macros' / 'scalar'}", f"-T{environment / 'link.ld'}",
        "-DENTROPY=1", "-march=rv64g",
    )  # fmt: skip
    for folder in FOLDERS:
        for name in _listed(checkout / "isa" / folder):
            if f"{folder}/{name}" not in SKIPPED:
                yield Test(f"{folder}-p-{name}", checkout / "isa" / folder / f"{name}.S", options)


def _listed(folder: Path) -> list[str]:
    """The tests that the folder's Makefrag lists and that are there; all of them where there is no Makefrag."""
    there = sorted(path.stem for path in folder.glob("*.S"))
    makefrag = folder / "Makefrag"
    if not makefrag.is_file():
        return there
    text = makefrag.read_text().replace("\\\n", " ")
    lists = re.findall(rf"^{folder.name}_(?:sc|mc)_tests\s*[+:]?=(.*)$", text, re.MULTILINE)
    listed = {name for line in lists for name in line.split("#")[0].split()}
    return [name for name in there if name in listed]


def _arch_tests(suite: Path) -> Iterator[Test]:
    for source in sorted((suite / "rv64i_m").glob("*/src/*.S")):
        text = source.read_text(errors="replace")
        macros = applies(text)
        if macros is None:
            continue
        isa = re.search(r'RVTEST_ISA\("([^",]*)', text)
        folder = source.parent.parent
        reference = folder / "references" / f"{source.stem}.reference_output"
        options = (
            f"-I{ENVIRONMENT}", f"-I{suite / 'env'}", f"-T{ENVIRONMENT / 'link.ld'}", "-DXLEN=64", "-DFLEN=64",
            f"-march={march(isa[1] if isa else ISA)}", *(f"-D{macro}" for macro in macros),
        )  # fmt: skip
        yield Test(
            f"{folder.name}/{source.stem}", source, options, reference if reference.is_file() else None, compares=True
        )


def applies(source: str) -> list[str] | None:
    """The macros with which an arch-test is compiled for this machine; None if none of its cases applies.

    A case is `RVTEST_CASE(number, "//check ...; check ...; def NAME=VALUE; ...", ...)`; all its checks must hold.
    """
    macros: list[str] | None = None
    for case in re.findall(r'RVTEST_CASE\(\s*[^,]+,\s*"//([^"]*)"', source):
        parts = [part.strip() for part in case.split(";") if part.strip()]
        if all(_holds(part.removeprefix("check").strip()) for part in parts if part.startswith("check")):
            macros = (macros or []) + [part.removeprefix("def").strip() for part in parts if part.startswith("def")]
    return None if macros is None else sorted(set(macros))


def _holds(condition: str) -> bool:
    what, _, value = condition.partition(":=")
    if what == "ISA" and value.startswith("regex("):
        return re.match(value.removeprefix("regex(").removesuffix(")"), ISA) is not None
    return CHECKED.get(what) == value


# ---- running it -----------------------------------------------------------------------------------------------------


def run_test(test: Test, gcc: str, folder: Path) -> Verdict:
    """Compiles `test` in `folder` and runs it."""
    stem = folder / re.sub(r"\W+", "-", test.name)
    program, signature = stem.with_suffix(".elf"), stem.with_suffix(".signature")
    command = [gcc, *OPTIONS, *test.options, str(test.source), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode:
        lines = compiled.stderr.strip().splitlines() or [f"ended with {compiled.returncode}"]
        return Verdict(test, f"does not compile: {next((line for line in lines if 'rror' in line), lines[-1])}")
    command = [sys.executable, "-m", "vpod.bare", str(program), "--max-instructions", str(LIMIT)]
    if test.compares:
        command += ["--signature", str(signature)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return Verdict(test, f"not done after {SECONDS} s")
    if done.returncode:
        return Verdict(test, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return Verdict(test, _unlike(test, program, signature) if test.compares else "")


def _unlike(test: Test, program: Path, signature: Path) -> str:
    """How the signature differs from the reference; empty if it does not."""
    ours = signature.read_text().split()
    try:
        theirs = test.signature.read_text().split() if test.signature else qemu_signature(program).split()
    except (OSError, RuntimeError, Unfinished) as error:
        return f"no reference: {error}"
    if not ours or ours == theirs:
        return "" if ours else "the signature is empty"
    if len(ours) != len(theirs):
        return f"{len(ours)} words of signature, the reference has {len(theirs)}"
    word = next(index for index, (mine, yours) in enumerate(zip(ours, theirs, strict=True)) if mine != yours)
    return f"word {word} of the signature is {ours[word]}, in the reference {theirs[word]}"


def qemu_signature(program: Path) -> str:
    """The signature that QEMU's `spike` machine computes, as `vpod.bare` writes it: its RAM is a file, read afterwards.

    Raises RuntimeError if QEMU is missing or fails, Unfinished if the program doesn't end.
    """
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        raise RuntimeError("the oracle qemu-system-riscv64 is not installed: apt-get install qemu-system-misc")
    symbols = elf.parse(program.read_bytes()).symbols
    begin, end = symbols["begin_signature"], symbols["end_signature"]
    with tempfile.TemporaryDirectory(prefix="vpod-suites-") as folder:
        ram = Path(folder) / "ram"
        command = [qemu, "-M", "spike,memory-backend=ram", "-cpu", CPU, "-bios", str(program), "-m", f"{MEMORY >> 20}M"]
        command += ["-object", f"memory-backend-file,id=ram,size={MEMORY},mem-path={ram},share=on"]
        command += ["-display", "none", "-monitor", "none", "-serial", "null"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unfinished(f"QEMU: {program.name} not at its end after {SECONDS} s") from None
        if done.returncode:
            raise RuntimeError(f"QEMU: {program.name} ended with {done.returncode}: {done.stderr.strip()}")
        data = ram.read_bytes()[begin - RAM_BASE : end - RAM_BASE + (begin - end) % 4]
    return "".join(f"{word:08x}\n" for (word,) in struct.iter_unpack("<I", data))


# ---- the command ----------------------------------------------------------------------------------------------------


def run(checkout: Path, patterns: Sequence[str], gcc: str | None, jobs: int) -> int:
    """`run`: the table of all tests whose name matches one of `patterns`; the exit code."""
    tests = [test for test in find_tests(checkout) if any(fnmatch.fnmatch(test.name, each) for each in patterns)]
    if not tests:
        raise SuiteError(f"{checkout}: no test of this machine's matches {' or '.join(patterns)}")
    found = compiler(gcc)
    if found is None:
        raise SuiteError(f"no {gcc or ' and no '.join(COMPILERS)}: apt-get install gcc-riscv64-linux-gnu")
    with tempfile.TemporaryDirectory(prefix="vpod-suites-") as folder, ThreadPoolExecutor(jobs) as pool:
        verdicts = list(pool.map(lambda test: run_test(test, found, Path(folder)), tests))
    failed = [verdict for verdict in verdicts if verdict.reason]
    table = Table("test", "result")
    for verdict in verdicts:
        table.add_row(verdict.test.name, verdict.reason or "passed")
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False, markup=False)
    console.print(table)
    console.print(f"{len(tests) - len(failed)} of {len(tests)} passed" + (f", {len(failed)} FAILED" if failed else ""))
    return int(bool(failed))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.proof.suites", description="Run public test suites on vpod.")
    commands = parser.add_subparsers(required=True, dest="command")
    one = commands.add_parser("run", help="run the tests of a checkout of riscv-tests or riscv-arch-test")
    one.add_argument("checkout", type=Path)
    one.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names such as 'rv64u*' or 'A/*'")
    one.add_argument("--gcc", help=f"the compiler; by default {' or '.join(COMPILERS)}")
    one.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="tests at a time; one a core by default")
    two = commands.add_parser("signature", help="write the signature of a program as QEMU computes it")
    two.add_argument("program", type=Path, metavar="ELF")
    two.add_argument("file", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            return run(options.checkout.resolve(), options.only, options.gcc, options.jobs)
        options.file.write_text(qemu_signature(options.program))
        return 0
    except (SuiteError, RuntimeError, Unfinished, OSError) as error:
        print(f"suites: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
