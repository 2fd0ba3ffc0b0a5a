"""Linux's own drivers on the board: OpenSBI and a kernel boot, and a small init asks about every device.

Kernel and firmware are no part of the repository: they are fetched and verified as a build does it, and kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from vpod_builder.debian import Archive
from vpod_builder.kernel import Kernel, describe, load
from vpod_builder.progress import Report
from vpod_builder.sources import Fetcher

from vpod.devices.virtio.block import BufferDisk
from vpod.errors import SourceError
from vpod.machine import Event, Machine

COMPILER = "riscv64-linux-gnu-gcc"
MODULES = ("virtio_mmio.ko", "virtio-rng.ko", "virtio_blk.ko")
pytestmark = pytest.mark.skipif(
    not shutil.which(COMPILER), reason=f"{COMPILER} is not installed: it compiles the guest's init"
)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """Debian's stock kernel, its modules and OpenSBI."""
    description = describe("debian-stock")
    try:
        archive = Archive(Fetcher(Report(quiet=True)), suite=description.suite, components=description.components)
        return load(description, archive)
    except SourceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Debian mirror for the kernel: {error}")


class Guest:
    """A booted machine and what it said."""

    def __init__(self, machine: Machine, disk: BufferDisk) -> None:
        self.machine, self.disk = machine, disk
        self.printed, self.terminal, self.agent = bytearray(), bytearray(), bytearray()
        machine.uart.output = self.printed.extend
        machine.console.output = self.terminal.extend
        machine.agent.output = self.agent.extend

    def wait(self, words: bytes) -> None:
        event = self.machine.run(seconds=120, until=lambda: words in self.agent)
        assert event is Event.UNTIL, f"{event}, {self.machine.stopped}: {self.printed.decode(errors='replace')}"

    def ask(self, request: bytes, answer: bytes) -> None:
        self.agent.clear()
        self.machine.agent.send(request)
        self.wait(answer)


@pytest.fixture(scope="module")
def initrd(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A cpio with the compiled init and the modules."""
    root = tmp_path_factory.mktemp("root")
    source = Path(__file__).parent / "guest" / "board.c"
    subprocess.run([COMPILER, "-O2", "-static", "-w", "-o", root / "init", source], check=True)
    for folder in ("dev", "proc", "sys", "modules"):
        (root / folder).mkdir()
    for path, module in kernel.modules.items():
        if Path(path).name in MODULES:
            (root / "modules" / Path(path).name).write_bytes(module)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=root,
        input="\n".join(names).encode(),
        capture_output=True,
        check=True,
    )
    return archive.stdout


@pytest.fixture(scope="module")
def booted(kernel: Kernel, initrd: bytes, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path, Guest]:
    """One boot for all tests: its saved state, its RAM file, and the guest as it was."""
    disk = BufferDisk(bytearray(b"hello disk!".ljust(512) + bytes(1 << 20)))
    machine = Machine(256 << 20, disk)
    machine.load(kernel.firmware, kernel.image, initrd, "console=ttyS0 quiet")
    guest = Guest(machine, disk)
    guest.wait(b"READY\n")
    path = tmp_path_factory.mktemp("saved") / "ram"
    path.write_bytes(machine.ram.data)
    return machine.save(), path, guest


@pytest.fixture
def thawed(booted: tuple[bytes, Path, Guest]) -> Guest:
    """A fresh copy of the booted machine."""
    state, path, _ = booted
    disk = BufferDisk(bytearray(1 << 20))
    fd = os.open(path, os.O_RDONLY)
    try:
        return Guest(Machine.restore(state, fd, disk), disk)
    finally:
        os.close(fd)


def test_linux_binds_its_drivers_to_every_device(booted: tuple[bytes, Path, Guest]) -> None:
    guest = booted[2]
    printed = guest.printed.decode()
    clock = int(printed.split("clock ")[1].split()[0])
    assert abs(clock - time.time()) < 120, "the kernel set its clock from the goldfish RTC"
    for line in (
        "hwrng 16",
        "port vpod.agent",
        "rtc goldfish_rtc 101000.rtc",
        "rng virtio_rng.0",
        "disk 2049 sectors",
        "serial vpod",
        "first sector hello disk!",
        "written 512 0",
    ):
        assert f"{line}\r\n" in printed
    assert guest.disk.read(8192, 512) == b"w" * 512
    assert b"this is hvc0" in guest.terminal


def test_a_thawed_machine_answers_at_once(thawed: Guest) -> None:
    before = time.monotonic()
    thawed.ask(b"Ehello", b"Ehello")
    assert time.monotonic() - before < 1


def test_a_large_output_arrives_whole(thawed: Guest) -> None:
    thawed.agent.clear()
    thawed.machine.agent.send(b"G")
    assert thawed.machine.run(seconds=120, until=lambda: len(thawed.agent) >= 16 << 20) is Event.UNTIL
    assert thawed.agent == b"z" * (16 << 20)


def test_a_paused_port_holds_the_guest_back(thawed: Guest) -> None:
    thawed.machine.agent.paused = True
    thawed.machine.agent.send(b"G")
    thawed.machine.run(seconds=0.5)
    assert not thawed.agent
    thawed.machine.agent.paused = False
    assert thawed.machine.run(seconds=120, until=lambda: len(thawed.agent) >= 16 << 20) is Event.UNTIL


def test_the_clocks_alarm_reaches_linux(thawed: Guest) -> None:
    thawed.ask(b"A", b"ALARM 0 a0\n")


@pytest.mark.parametrize(("letter", "reason"), [(b"P", "poweroff"), (b"R", "reboot"), (b"C", "panic")])
def test_how_linux_ends_is_told(thawed: Guest, letter: bytes, reason: str) -> None:
    thawed.machine.agent.send(letter)
    assert thawed.machine.run(seconds=60) is Event.STOPPED and thawed.machine.stopped == reason


def test_an_idle_linux_uses_no_cpu(thawed: Guest) -> None:
    """After a few seconds of the kernel's own business, half a second of idling costs next to nothing."""
    used = []
    for _ in range(40):
        before = time.process_time()
        thawed.machine.run(seconds=0.5)
        used.append(time.process_time() - before)
        if used[-1] < 0.01:
            return
    pytest.fail(f"seconds of CPU in each half second: {used}")
