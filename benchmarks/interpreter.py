"""``python -m benchmarks.interpreter``: vpod's interpreter beside QEMU's translator, same guest, same run.

Why it exists: it prints the table that every claim about vpod's speed refers to.

How: the programs are compiled once for the guest and once for this machine. Each round runs them natively, then boots
the guest under QEMU and runs them, then under vpod; never two at once. After the last round the medians are compared.
What the programs print is compared too, with what is known and between the engines, so a run is also a test of vpod.

    python -m benchmarks.interpreter --rounds 5 --json result.json
    python -m benchmarks.interpreter --rounds 1 --only nbody --only awk

Exit code: 0; 1 if a program printed something wrong; 2 for usage; 125 if the benchmark could not be run.
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

from rich.console import Console
from vpod_builder.progress import Report
from vpod_builder.recipe import memory_size

from benchmarks import BenchmarkError, count
from benchmarks.engines import QEMU as QEMU_PROGRAM
from benchmarks.engines import Samples, qemu_version, run_native, run_qemu, run_vpod
from benchmarks.guest import Guest, Inputs
from benchmarks.programs import Program, build, chosen, expecting, guest_compiler, make_text, native_compiler
from benchmarks.report import NATIVE, QEMU, VPOD, Result, row
from vpod.errors import VpodError

MIN_SHARE = 0.95  # of a CPU, below which other work has disturbed a run


def measure(
    folder: Path, guest: Guest, programs: Sequence[Program], options: argparse.Namespace, report: Report
) -> dict[str, list[Samples]]:
    """All rounds: for each engine the samples of each round. One engine runs at a time."""
    names = [program.name for program in programs]
    engines: dict[str, Callable[[], Samples]] = {
        NATIVE: lambda: run_native(folder, programs, options.timeout),
        QEMU: lambda: run_qemu(guest, names, options.timeout, options.qemu),
        VPOD: lambda: run_vpod(guest, names, options.timeout),
    }
    runs: dict[str, list[Samples]] = {engine: [] for engine in engines}
    for number in range(1, options.rounds + 1):
        for engine, run in engines.items():
            began = time.monotonic()
            runs[engine].append(run())
            report.line(f"Round {number} of {options.rounds}, {engine}: {time.monotonic() - began:.1f} s with boot")
    return runs


def run(options: argparse.Namespace, report: Report) -> Result:
    """Everything between the arguments and the table. Raises `BenchmarkError` and `VpodError`."""
    programs = chosen(options.only)
    version = qemu_version(options.qemu)
    with tempfile.TemporaryDirectory(prefix="vpod-bench-") as name:
        native, cross = Path(name, "native"), Path(name, "guest")
        with report.step("Compiling") as bar:
            for folder, compiler in ((native, native_compiler()), (cross, guest_compiler())):
                folder.mkdir()
                build(folder, compiler, programs)
            programs = expecting(programs, make_text(native))
            bar.done(f"Compiled {len(programs)} programs for the guest and for this machine")
        inputs = Inputs(options.kernel, options.firmware, options.rootfs)
        guest = Guest.assemble(cross, programs, inputs, report, options.memory)
        report.line(f"{version}; Linux {guest.kernel_name}; {guest.memory >> 20} MiB")
        runs = measure(native, guest, programs, options, report)
    result = Result(tuple(row(program, runs) for program in programs))
    if options.json is not None:
        about = {
            "qemu": version, "kernel": guest.kernel_name, "memory": guest.memory, "rounds": options.rounds,
            "host": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count(),
            "samples": {
                engine: [{name: vars(sample) for name, sample in each.items()} for each in rounds]
                for engine, rounds in runs.items()
            },
        }  # fmt: skip
        options.json.write_text(json.dumps(result.record() | about, indent=2) + "\n")
    return result


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        "python -m benchmarks.interpreter", description="vpod's interpreter beside QEMU's TCG."
    )
    made.add_argument("--rounds", type=count, default=3, metavar="N", help="how often each engine runs all (3)")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="this program; may be repeated")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there too")
    made.add_argument("--memory", type=memory_size, default=512 << 20, metavar="SIZE", help="of the guest (512M)")
    made.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="for one engine's round (900)")
    made.add_argument("--qemu", default=QEMU_PROGRAM, metavar="PROGRAM", help=f"the QEMU to run ({QEMU_PROGRAM})")
    made.add_argument("--kernel", type=Path, metavar="FILE", help="a RISC-V Image instead of Debian's kernel")
    made.add_argument("--firmware", type=Path, metavar="FILE", help="an fw_dynamic.bin instead of Debian's OpenSBI")
    made.add_argument("--rootfs", type=Path, metavar="FILE", help="a tarball instead of Alpine's minirootfs")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    try:
        options = parser().parse_args(arguments)
        result = run(options, Report())
    except (BenchmarkError, VpodError) as error:
        print(f"benchmarks.interpreter: {error}", file=sys.stderr)
        return 125
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(result.table())
    for engine, share in result.shares().items():
        if share < MIN_SHARE:
            console.print(f"Disturbed: {engine} got {share:.0%} of a CPU. Run it again on a quiet machine.")
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
