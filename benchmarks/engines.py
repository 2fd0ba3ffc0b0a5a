"""What runs the programs: this machine itself, QEMU's translator, vpod's interpreter.

Why it exists: each engine takes the same guest (or the same folder) and gives the same kind of samples, so that nothing
but the engine differs between two columns.

Invariants: an engine runs alone, from its start to its end; the guest's clock is the host's, so two at once would
measure each other. An engine that doesn't finish in time is ended, and `BenchmarkError` shows the console's last lines.
Every process started here is waited for.

    samples = run_vpod(guest, ["crc"], timeout=600)
    samples["crc"].seconds
"""

from __future__ import annotations

import gc
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import BenchmarkError
from benchmarks.guest import COMMAND_LINE, Guest
from benchmarks.listener import Listener, Meters, Sample
from benchmarks.programs import Program, script
from vpod.machine import Machine

QEMU = "qemu-system-riscv64"
Samples = dict[str, Sample]


def run_native(folder: Path, programs: Sequence[Program], timeout: float) -> Samples:
    """The programs on this machine, in the folder built natively. busybox's are left out where there is no busybox."""
    here = [program for program in programs if program.compiled or shutil.which("busybox")]
    heard = Listener([program.name for program in here])
    command = ["sh", "-c", script(here)]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        _listen(process, heard, timeout, "the native run")
    return heard.samples


def run_qemu(guest: Guest, names: Sequence[str], timeout: float, qemu: str = QEMU) -> Samples:
    """The programs in the guest under QEMU's translator, vector extension off."""
    with tempfile.TemporaryDirectory(prefix="vpod-bench-") as folder:
        files = {"-bios": guest.firmware, "-kernel": guest.kernel, "-initrd": guest.initrd}
        command = [qemu, "-machine", "virt", "-accel", "tcg", "-cpu", "rv64,v=false", "-smp", "1"]
        command += ["-m", f"{guest.memory >> 20}M", "-append", COMMAND_LINE, "-nodefaults", "-no-reboot"]
        command += ["-display", "none", "-serial", "stdio"]
        for option, data in files.items():
            path = Path(folder, option[1:])
            path.write_bytes(data)
            command += [option, str(path)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise BenchmarkError(
                f"{qemu}: cannot be started ({error.strerror}); install it (Debian: qemu-system-misc) or pass --qemu"
            ) from None
        with process:
            heard = Listener(names, lambda: Meters(_cpu_seconds(process.pid)))
            _listen(process, heard, timeout, "QEMU")
    return _finished(heard, "QEMU")


def run_vpod(guest: Guest, names: Sequence[str], timeout: float) -> Samples:
    """The programs in the guest under vpod, in this process."""
    heard = Listener(names)
    ended = _run_machine(guest, heard, timeout)
    gc.collect()  # a machine and its devices hold each other; its memory is wanted back before the next engine starts
    if ended != "poweroff":
        raise BenchmarkError(f"vpod: the guest did not power off but ended with {ended!r}:\n{heard.text()}")
    return _finished(heard, "vpod")


def _run_machine(guest: Guest, heard: Listener, timeout: float) -> str:
    """Boot the guest in a machine of its own and let it run; the reason of its end, or `time`."""
    machine = Machine(guest.memory)
    heard.meters = lambda: Meters(time.process_time(), machine.cpu.instret)
    machine.uart.output = heard.feed
    machine.load(guest.firmware, guest.kernel, guest.initrd, COMMAND_LINE)
    event = machine.run(seconds=timeout)
    heard.meters = Meters
    return machine.stopped or event.value


def qemu_version(qemu: str = QEMU) -> str:
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


def _finished(heard: Listener, name: str) -> Samples:
    if not heard.done:
        raise BenchmarkError(f"{name}: the guest ended before its script did:\n{heard.text()}")
    return heard.samples


def _cpu_seconds(pid: int) -> float | None:
    """CPU time of a running process and its threads, in seconds (proc(5), stat); None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
