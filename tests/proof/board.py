"""One bare-metal image on two machines: vpod's core, and `qemu-system-riscv64 -M virt`.

The image is the beginning of RAM; the hart starts at its first byte in M-mode, with nothing else set up. It ends by
storing 0x5555 to the finisher at 0x10_0000. What it computed it leaves in RAM, and all of RAM is the result: QEMU's is
a file that both sides share, so nothing has to be printed. CLINT (0x200_0000), UART and PLIC are where QEMU's `virt`
has them; on vpod's side there are CLINT and finisher, and stores to a UART are taken and forgotten.

Invariants: both machines have `RAM_SIZE` bytes of RAM and get the same bytes; QEMU puts a device tree near the end of
its RAM, so only the first `USABLE` bytes are the program's to use and to compare. Neither run is unbounded.

    >>> image = assemble("li t0, 0x100000; li t1, 0x5555; sw t1, 0(t0); j .").code
    >>> on_vpod(image).memory == on_qemu(image).memory
    True
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vpod._cpu import EXIT_WFI, Cpu
from vpod.bus import RAM_BASE, Bus
from vpod.devices.clint import Clint
from vpod.devices.syscon import Syscon

RAM_SIZE, USABLE = 64 << 20, 32 << 20
FINISHER, CLINT, UART = 0x0010_0000, 0x0200_0000, 0x1000_0000
STEP = 100_000  # instructions between two looks at whether the program ended
# what vpod's hart has: Sstc and 29 counters that are zero; no vectors, hypervisor, bit manipulation, triggers
CPU = "rv64,sstc=on,pmu-num=29,marchid=0,mimpid=0,"
CPU += ",".join(f"{name}=off" for name in ("v", "h", "zba", "zbb", "zbc", "zbs", "debug"))


class Unfinished(Exception):
    """The program did not end within its bound; the message says on which machine."""


@dataclass(frozen=True)
class Finished:
    """How a run ended: the first `length` bytes of RAM, and the instructions retired (vpod only; 0 for QEMU)."""

    memory: bytes
    instructions: int = 0


class Quiet:
    """A UART that is always ready and forgets what it is sent."""

    size = 0x100

    def read(self, offset: int, size: int) -> int:
        return 0x60 if offset == 5 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        return


def on_vpod(image: bytes, *, length: int = USABLE, limit: int = 1_000_000_000) -> Finished:
    """Run `image` on the core for at most `limit` instructions. Raises Unfinished."""
    bus = Bus()
    cpu = Cpu(bus, RAM_SIZE)
    ended: list[str] = []

    def stop(reason: str) -> None:
        ended.append(reason)
        cpu.stop()

    bus.attach(CLINT, Clint(cpu, cpu.set_interrupt))
    bus.attach(FINISHER, Syscon(stop))
    bus.attach(UART, Quiet())
    cpu.write(RAM_BASE, image)
    cpu.pc = RAM_BASE
    spent = 0
    while not ended and spent < limit:
        before = cpu.instret
        reason = cpu.run(min(STEP, limit - spent))
        spent += STEP if reason != EXIT_WFI else max(cpu.instret - before, 1)
    if not ended:
        raise Unfinished(f"vpod: not at its end after {limit} instructions; pc={cpu.pc:#x} priv={cpu.priv}")
    return Finished(cpu.read(RAM_BASE, length), cpu.instret)


def on_qemu(image: bytes, *, length: int = USABLE, seconds: float = 120) -> Finished:
    """Run `image` under QEMU for at most `seconds`. Raises Unfinished, and RuntimeError if QEMU itself fails."""
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        raise RuntimeError("the oracle qemu-system-riscv64 is not installed: apt-get install qemu-system-misc")
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="vpod-proof-", dir=shared if shared.is_dir() else None) as folder:
        ram = Path(folder) / "ram"
        with ram.open("wb") as file:
            file.write(image)
            file.truncate(RAM_SIZE)
        command = [qemu, "-M", "virt,memory-backend=ram", "-cpu", CPU, "-bios", "none", "-display", "none"]
        command += ["-m", f"{RAM_SIZE >> 20}M", "-monitor", "none", "-serial", "null"]
        command += ["-object", f"memory-backend-file,id=ram,size={RAM_SIZE},mem-path={ram},share=on"]
        try:
            done = subprocess.run(
                command, timeout=seconds, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unfinished(f"QEMU: not at its end after {seconds} s") from None
        if done.returncode:
            raise RuntimeError(f"{qemu} ended with {done.returncode}: {done.stderr.strip()}")
        with ram.open("rb") as file:
            return Finished(file.read(length))
