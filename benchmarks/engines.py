"""What runs the programs: this machine itself, QEMU's translator, vpod's interpreter, vpod's translator.

Why it exists: each engine takes the same guest (or the same sources) and gives the same kind of samples, so that
nothing but the engine differs between two columns.

Invariants: an engine runs alone, from its start to its end; the guest's clock is the host's, so two at once would
measure each other. An engine that doesn't finish in time is ended, and `BenchmarkError` shows the console's last lines.
Every process started here is waited for.

    samples = run_vpod(guest, ["crc"], timeout=600)
    samples["crc"].seconds
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import BenchmarkError
from benchmarks.guest import COMMAND_LINE, Guest
from benchmarks.listener import Listener, Meters, Sample
from benchmarks.programs import Program, compiled, script

QEMU_PROGRAM = "qemu-system-riscv64"
NATIVE, QEMU, INTERPRETER, VPOD = "native", "QEMU", "interpreter", "vpod"
ENGINES = (NATIVE, QEMU, INTERPRETER, VPOD)
TRANSLATION = {INTERPRETER: "0", VPOD: "1"}  # VPOD_JIT
GRACE = 60  # seconds that vpod's process may take longer than its guest
ROOT = Path(__file__).resolve().parent.parent
Samples = dict[str, Sample]


@dataclass(frozen=True)
class Run:
    """One engine's round. `translator`: what vpod's counted from start to end; None where nothing translates."""

    samples: Samples
    translator: Mapping[str, Any] | None = None


def run_native(folder: Path, programs: Sequence[Program], timeout: float) -> Run:
    """Those of the programs that are C, on this machine, in the folder built natively."""
    here = compiled(programs)
    heard = Listener([program.name for program in here], lambda: Meters(time.monotonic()))
    command = ["sh", "-c", script(here)]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        _listen(process, heard, timeout, "the native run")
    return Run(heard.samples)


def run_qemu(guest: Guest, names: Sequence[str], timeout: float, qemu: str = QEMU_PROGRAM) -> Run:
    """The programs in the guest under QEMU's translator, vector extension off."""
    command = [qemu, "-machine", "virt", "-accel", "tcg", "-cpu", "rv64,v=false", "-smp", "1"]
    command += ["-m", f"{guest.memory >> 20}M", "-append", COMMAND_LINE, "-nodefaults", "-no-reboot"]
    command += ["-bios", str(guest.firmware), "-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
    command += ["-display", "none", "-serial", "stdio"]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise BenchmarkError(
            f"{qemu}: cannot be started ({error.strerror}); install it (Debian: qemu-system-misc) or pass --qemu"
        ) from None
    with process:
        heard = Listener(names, lambda: Meters(time.monotonic(), _cpu_seconds(process.pid)))
        _listen(process, heard, timeout, QEMU)
    if not heard.done:
        raise BenchmarkError(f"QEMU: the guest ended before its script did:\n{heard.text()}")
    return Run(heard.samples)


def run_vpod(guest: Guest, names: Sequence[str], timeout: float, engine: str = VPOD) -> Run:
    """The programs in the guest under vpod: as it is by default, or for `INTERPRETER` without its translator."""
    environment = {**os.environ, "VPOD_JIT": TRANSLATION[engine]}
    command = [sys.executable, "-m", "benchmarks.inside", str(guest.folder), str(guest.memory), str(timeout), *names]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout + GRACE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{engine}: vpod itself did not end {GRACE} s after its guest's time") from None
    if done.returncode != 0:
        raise BenchmarkError(f"{engine} ended with exit code {done.returncode}:\n{done.stderr.strip()}")
    told = json.loads(done.stdout)
    if told["ended"] != "poweroff" or not told["done"]:
        raise BenchmarkError(
            f"{engine}: the guest did not power off at its script's end, but ended with {told['ended']!r}:\n"
            f"{told['console']}"
        )
    if engine == INTERPRETER and told["translator"] is not None:
        raise BenchmarkError(
            "interpreter: vpod translated in spite of VPOD_JIT=0; its figures would be no interpreter's"
        )
    return Run({name: Sample(**fields) for name, fields in told["samples"].items()}, told["translator"])


def qemu_version(qemu: str = QEMU_PROGRAM) -> str:
    """The first line of ``--version``; `BenchmarkError` if there is no such program."""
    try:
        done = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(f"{qemu} does not run ({error}); install it (Debian: qemu-system-misc)") from None
    return done.stdout.partition("\n")[0]


def _listen(process: subprocess.Popen[bytes], heard: Listener, timeout: float, name: str) -> None:
    """Feed what a process prints to the listener until it ends; kill it when the time is over."""
    assert process.stdout is not None
    end = time.monotonic() + timeout
    while True:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            process.kill()
            raise BenchmarkError(f"{name} was not done after {timeout:.0f} s:\n{heard.text()}")
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            break
        heard.feed(data)
    if process.wait() != 0:
        raise BenchmarkError(f"{name} ended with exit code {process.returncode}:\n{heard.text()}")


def _cpu_seconds(pid: int) -> float | None:
    """CPU time of a running process and its threads, in seconds (proc(5), stat); None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
