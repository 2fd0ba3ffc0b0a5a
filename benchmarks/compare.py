"""``python -m benchmarks``: vpod beside QEMU's translator and this machine itself, same guest, same run.

Why it exists: it prints the table that every claim about vpod's speed refers to.

How: the C programs are compiled once for the guest and once for this machine. Each round runs them natively, then boots
the guest under QEMU and runs all programs, then under vpod with `VPOD_JIT=0`, then under vpod as it is; never two at
once. After the last round the medians are compared. What the programs print is compared too, with what is known and
between the engines, and the guest's clock with the host's, so a run is also a test of vpod.

    python -m benchmarks --rounds 5 --json result.json --plot result.svg
    python -m benchmarks --rounds 1 --only nbody --group shell --engine QEMU --engine vpod

Exit code: 0; 1 if a program printed something wrong or a clock was wrong; 2 for usage; 125 if the benchmark could not
be run. Goals that are missed are shown, and change nothing of that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from vpod_builder.progress import Report
from vpod_builder.recipe import memory_size

from benchmarks import BenchmarkError, count
from benchmarks.engines import (
    ENGINES,
    INTERPRETER,
    NATIVE,
    QEMU,
    QEMU_PROGRAM,
    VPOD,
    Run,
    qemu_version,
    run_native,
    run_qemu,
    run_vpod,
)
from benchmarks.guest import Guest, Inputs
from benchmarks.plot import drawing
from benchmarks.programs import (
    GROUPS,
    Program,
    build,
    chosen,
    compiled,
    expecting,
    guest_compiler,
    make_texts,
    native_compiler,
)
from benchmarks.report import Result, row, translation_rate
from vpod.errors import VpodError

MIN_SHARE = 0.95  # of a CPU, below which other work has disturbed a run


def measure(
    folder: Path, guest: Guest, programs: Sequence[Program], options: argparse.Namespace, report: Report
) -> dict[str, list[Run]]:
    """All rounds of each engine. One engine runs at a time."""
    names = [program.name for program in programs]
    engines: dict[str, Callable[[], Run]] = {
        NATIVE: lambda: run_native(folder, programs, options.timeout),
        QEMU: lambda: run_qemu(guest, names, options.timeout, options.qemu),
        INTERPRETER: lambda: run_vpod(guest, names, options.timeout, INTERPRETER),
        VPOD: lambda: run_vpod(guest, names, options.timeout, VPOD),
    }
    taking_part = [engine for engine in engines if not options.engine or engine in options.engine]
    runs: dict[str, list[Run]] = {engine: [] for engine in taking_part}
    for number in range(1, options.rounds + 1):
        for engine in taking_part:
            began = time.monotonic()
            runs[engine].append(engines[engine]())
            report.line(f"Round {number} of {options.rounds}, {engine}: {time.monotonic() - began:.1f} s with boot")
    return runs


def run(options: argparse.Namespace, report: Report) -> tuple[Result, dict[str, Any]]:
    """Everything between the arguments and the table: the result, and all that is known about the run.

    Raises `BenchmarkError` and `VpodError`.
    """
    programs = chosen(options.only, options.group)
    for path in (options.json, options.plot):
        if path is not None and not path.absolute().parent.is_dir():  # said now, and not when all is measured
            raise BenchmarkError(f"{path}: cannot be written, there is no folder {path.parent}")
    version = qemu_version(options.qemu) if not options.engine or QEMU in options.engine else None
    with tempfile.TemporaryDirectory(prefix="vpod-bench-") as name:
        native, cross, boot = (Path(name, part) for part in (NATIVE, "cross", "boot"))
        boot.mkdir()
        with report.step("Compiling") as bar:
            for folder, compiler in ((native, native_compiler()), (cross, guest_compiler())):
                folder.mkdir()
                build(folder, compiler, programs)
            programs = expecting(programs, make_texts(native))
            bar.done(f"Compiled {len(compiled(programs))} programs for the guest and for this machine")
        inputs = Inputs(options.kernel, options.firmware, options.rootfs)
        guest = Guest.assemble(boot, cross, programs, inputs, report, options.memory)
        report.line(f"{version or 'no QEMU'}; Linux {guest.kernel_name}; {guest.memory >> 20} MiB")
        runs = measure(native, guest, programs, options, report)
    about = {
        "qemu": version, "kernel": guest.kernel_name, "memory": guest.memory, "rounds": options.rounds,
        "host": platform.platform(), "processor": _processor(), "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "samples": {
            engine: [{name: vars(sample) for name, sample in each.samples.items()} for each in rounds]
            for engine, rounds in runs.items()
        },
        "translator": [each.translator for each in runs.get(VPOD, ())],
    }  # fmt: skip
    samples = {engine: [each.samples for each in rounds] for engine, rounds in runs.items()}
    rates = [rate for each in runs.get(VPOD, ()) if (rate := translation_rate(each.translator)) is not None]
    return Result(tuple(row(program, samples) for program in programs), median(rates) if rates else None), about


def _processor() -> str:
    """This machine's CPU as Linux calls it, or as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def engine(text: str) -> str:
    """A command line's engine, in capitals or not; `ArgumentTypeError` naming those there are."""
    for name in ENGINES:
        if text.lower() == name.lower():
            return name
    raise argparse.ArgumentTypeError(f"there is no engine {text!r}; those there are: {', '.join(ENGINES)}")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser("python -m benchmarks", description="vpod beside QEMU's TCG and this machine.")
    made.add_argument("--rounds", type=count, default=3, metavar="N", help="how often each engine runs all (3)")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="this program; may be repeated")
    groups = ", ".join(group.name for group in GROUPS)
    made.add_argument("--group", action="append", default=[], metavar="NAME", help=f"these programs: {groups}")
    made.add_argument(
        "--engine", action="append", default=[], type=engine, metavar="NAME", help=f"this one: {', '.join(ENGINES)}"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there too")
    made.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the speeds beside QEMU's there")
    made.add_argument("--memory", type=memory_size, default=512 << 20, metavar="SIZE", help="of the guest (512M)")
    made.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="for one engine's round (900)")
    made.add_argument("--qemu", default=QEMU_PROGRAM, metavar="PROGRAM", help=f"the QEMU to run ({QEMU_PROGRAM})")
    made.add_argument("--kernel", type=Path, metavar="FILE", help="a RISC-V Image instead of Debian's kernel")
    made.add_argument("--firmware", type=Path, metavar="FILE", help="an fw_dynamic.bin instead of Debian's OpenSBI")
    made.add_argument("--rootfs", type=Path, metavar="FILE", help="a tarball instead of Alpine's minirootfs")
    return made


def _print(result: Result) -> None:
    """The tables, and what disturbed the run."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(result.table())
    console.print()
    console.print(result.goal_table())
    if result.translation_rate is None and VPOD in result.engines():
        console.print("vpod translated nothing: its figures are the interpreter's.")
    if apart := result.clocks_apart():
        seconds, name, where = apart
        console.print(f"Guest's and host's clock differ by {seconds * 1e3:.0f} ms at most ({name}, {where}).")
    for where, share in result.shares().items():
        if share < MIN_SHARE:
            console.print(f"Disturbed: {where} got {share:.0%} of a CPU. Run it again on a quiet machine.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    try:
        options = parser().parse_args(arguments)
        result, about = run(options, Report())
    except (BenchmarkError, VpodError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 125
    if options.json is not None:
        options.json.write_text(json.dumps(result.record() | about, indent=2) + "\n")
    if options.plot is not None:
        options.plot.write_text(drawing(result), encoding="utf-8")
    _print(result)
    return 1 if result.errors else 0
