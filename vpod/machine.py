"""The machine: one hart, its RAM, the bus with its devices, and the loop that lets them run.

    machine = Machine(memory=256 << 20)
    machine.load(firmware=..., kernel=..., initrd=..., command_line="console=ttyS0")
    machine.uart.output = sys.stdout.buffer.write
    machine.run(seconds=30)                    # Event.STOPPED, Event.TIME or Event.UNTIL
    state = machine.save()                     # RAM is apart: machine.ram.data
    twin = Machine.restore(state, ram_fd)

The memory map and interrupt numbers are QEMU's ``virt`` (docs/design/main-job.md, "The board").

Invariants:

* Devices run only between instructions of the hart, in the thread that calls `slice` or `run`.
* `slice` returns within about its time, whatever the guest does: a store to a device that ends too late ends the slice,
  and a guest of slow instructions (`sfence.vma`, loads from devices) runs fewer of them between two looks at the clock.
* A sleeping guest costs no CPU, because `slice` says how long to sleep and `run` sleeps so long.
* Once `stopped` says why the machine ended, no further instruction runs.
* A saved state is believed field by field: `restore` raises SnapshotDamaged naming the first field that is wrong.

The saved state is ``"vpodmach" · u32 version · u32 length of JSON · u32 length of hart · JSON · hart``, little
endian; the hart's bytes are `vpod._cpu.Cpu.save`'s, the JSON holds memory size, the reason of the stop and each
device's `save()`.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from vpod._cpu import EXIT_WFI, Cpu
from vpod.bus import Bus, Ram
from vpod.devices.clint import Clint
from vpod.devices.fields import MAX_STREAM
from vpod.devices.plic import Plic
from vpod.devices.rtc import Rtc
from vpod.devices.syscon import Syscon
from vpod.devices.uart import Uart
from vpod.devices.virtio.console import Console, Port
from vpod.devices.virtio.entropy import Entropy
from vpod.devices.virtio.mmio import EmptySlot, VirtioMmio
from vpod.errors import SnapshotDamaged, SnapshotError
from vpod.tier import Tier

if TYPE_CHECKING:
    from vpod.devices.virtio.block import Disk

__all__ = ["Event", "Machine"]

SYSCON, RTC, CLINT, PLIC, UART, VIRTIO = 0x0010_0000, 0x0010_1000, 0x0200_0000, 0x0C00_0000, 0x1000_0000, 0x1000_1000
VIRTIO_STRIDE, VIRTIO_SLOTS = 0x1000, 8
UART_IRQ, RTC_IRQ, VIRTIO_IRQ = 10, 11, 1
CONSOLE_SLOT, ENTROPY_SLOT, BLOCK_SLOT = 0, 1, 2
TIMEBASE = 10_000_000  # Hz of mtime

MIN_MEMORY, MAX_MEMORY = 64 << 20, 4 << 30
SLICE = 200_000  # instructions: about a millisecond
LEAST = 1_000  # instructions between two looks at the clock, of a guest whose instructions are slow
LATE = 0.004  # seconds between two looks at the clock that are too many
MAX_SLEEP = 3600.0  # seconds of one sleep
POLL_SLEEP = 0.02  # seconds between two looks at what can't wake a sleep

STATE_MAGIC = b"vpodmach"
STATE_VERSION = 1
STATE_HEADER = struct.Struct("<8s3I")
MAX_JSON, MAX_HART = 32 << 20, 1 << 20

PANIC = b"Kernel panic - not syncing"
PANIC_REACH = 16 << 10  # bytes of console after the words within which a reboot is the panic's doing
PANIC_END = b"---[ end Kernel panic"  # said by a kernel that will not reboot: it panicked before it read its options
PANIC_SPIN = 1.0  # seconds that a guest which has said so turns without a word before it is taken to be dead


class Event(Enum):
    """Why `Machine.run` returned."""

    STOPPED = "stopped"  # the guest ended: see Machine.stopped
    TIME = "time"  # the time given is over
    UNTIL = "until"  # the condition given holds
    IDLE = "idle"  # the guest waits for an interrupt that nothing can bring


class _BoardBus(Bus):
    """The bus as the core sees it: from the time `until` on, a store to a device is the last instruction of a run.

    A device may work for milliseconds when it is notified, and the guest needs two instructions to ask for that again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.until = math.inf  # of the monotonic clock
        self.stop: Callable[[], object]

    def write(self, address: int, size: int, value: int) -> None:
        """As `Bus.write`."""
        super().write(address, size, value)
        if time.monotonic() >= self.until:
            self.stop()


class Machine:
    """A whole computer. `memory` is in bytes, 64 MiB to 4 GiB in whole MiB; `disk` is its block device, if any; `tier`
    says how guest code is run (``None``: as the environment has it).

    Streams: `uart` and `console` are terminals (``ttyS0``, ``hvc0``), `agent` is the port ``vpod.agent``. Each has
    ``output``, a callable that gets bytes, ``send(bytes)`` and ``pending``.
    """

    def __init__(
        self, memory: int = 256 << 20, disk: Disk | None = None, *, ram_fd: int = -1, tier: Tier | None = None
    ) -> None:
        if not MIN_MEMORY <= memory <= MAX_MEMORY or memory % (1 << 20):
            raise ValueError(f"memory: {memory} bytes; whole MiB from {MIN_MEMORY >> 20} to {MAX_MEMORY >> 20} are had")
        self.memory = memory
        self.stopped: str | None = None
        self.bus = _BoardBus()
        self.cpu = Cpu(self.bus, memory, ram_fd, tier)
        self.bus.stop = self.cpu.stop
        self.ram = Ram(self.cpu, memory)
        self._panics = (_PanicWatch(), _PanicWatch())  # of the UART and of the console port
        self._spins_since: float | None = None  # when it was first seen to turn on after its last words
        self._pace = SLICE  # instructions between two looks at the clock
        self._devices: dict[str, Any] = {}
        self._attach(disk)
        self._virtio: list[VirtioMmio] = [
            device for device in self._devices.values() if isinstance(device, VirtioMmio) and device.device_id
        ]

    def _attach(self, disk: Disk | None) -> None:
        def attach(name: str, base: int, device: Any) -> Any:
            self.bus.attach(base, device)
            self._devices[name] = device
            return device

        self.plic: Plic = attach("plic", PLIC, Plic(self.cpu.set_interrupt))
        attach("clint", CLINT, Clint(self.cpu, self.cpu.set_interrupt))
        attach("syscon", SYSCON, Syscon(self._stop))
        self.rtc: Rtc = attach("rtc", RTC, Rtc(self.plic.line(RTC_IRQ)))
        self.uart: Uart = attach("uart", UART, Uart(self.plic.line(UART_IRQ)))
        self.uart.watch = self._panics[0].feed

        for slot in range(VIRTIO_SLOTS):
            line = self.plic.line(VIRTIO_IRQ + slot)
            device: VirtioMmio
            if slot == CONSOLE_SLOT:
                device = Console(self.ram, line, ("", "vpod.agent"))
                self.console: Port = device.ports[0]
                self.agent: Port = device.ports[1]
                self.console.watch = self._panics[1].feed
            elif slot == ENTROPY_SLOT:
                device = Entropy(self.ram, line)
            elif slot == BLOCK_SLOT and disk is not None:
                from vpod.devices.virtio.block import Block  # most machines have no disk, and start sooner without it

                device = Block(self.ram, line, disk)
            else:
                device = EmptySlot(self.ram, line)
            attach(f"virtio{slot}", VIRTIO + slot * VIRTIO_STRIDE, device)

    def load(self, firmware: bytes, kernel: bytes = b"", initrd: bytes = b"", command_line: str = "") -> None:
        """Put everything in RAM and the hart before its first instruction. BuildError says what doesn't fit.

        ``panic=-1`` is added to a command line without ``panic=``, so that a guest's panic ends the run.
        """
        from vpod import boot

        layout = boot.place(self.memory, firmware, kernel, initrd)
        if "panic=" not in command_line:
            command_line = f"{command_line} panic=-1".lstrip()
        tree = boot.flat_tree(self.memory, command_line, (layout.initrd, layout.initrd_end) if initrd else None)
        parts = (
            (layout.firmware, firmware),
            (layout.kernel, kernel),
            (layout.initrd, initrd),
            (layout.tree, tree),
            (layout.info, boot.dynamic_info()),
        )
        for address, data in parts:
            if data:
                self.ram.write(address, data)
        for register, value in ((10, 0), (11, layout.tree), (12, layout.info)):  # a0 hart, a1 tree, a2 info
            self.cpu.set_x(register, value)
        self.cpu.pc = layout.firmware

    def _stop(self, reason: str) -> None:
        if self.stopped is None:
            self.uart.flush()
            panicked = any(panic.recent for panic in self._panics)
            self.stopped = "panic" if reason == "reboot" and panicked else reason
        self.cpu.stop()

    def slice(self, seconds: float = 0.001, instructions: int = SLICE) -> float | None:
        """Let the machine run for about `seconds`; return how long it may sleep then.

        0.0: it has more to do. A number: seconds until its next timer. None: only a byte from the host wakes it.
        """
        now = time.monotonic()
        end = self.bus.until = now + seconds
        try:
            while self.stopped is None:
                before = now
                sleeps = self.cpu.run(min(instructions, self._pace)) == EXIT_WFI
                self.uart.flush()
                if self._panics[0].ended or self._panics[1].ended:
                    self._watch_spinning(sleeps)
                busy = self.service()
                if sleeps and not busy:
                    return self._sleep()
                now = time.monotonic()
                self._pace = max(self._pace // 4, LEAST) if now - before > LATE else min(self._pace * 2, SLICE)
                if now >= end:
                    break
        finally:
            self.bus.until = math.inf
        return 0.0

    def _watch_spinning(self, sleeps: bool) -> None:
        """Stop a guest whose kernel has said its last words and now turns on the spot, which nothing would ever end."""
        if sleeps or self._spins_since is None:
            self._spins_since = time.monotonic()
        elif time.monotonic() - self._spins_since > PANIC_SPIN:
            self._stop("reboot")

    def service(self) -> bool:
        """Let devices do what waits for time or for a caller; True if one of them has more to do at once."""
        self.rtc.poll()
        busy = False
        for device in self._virtio:
            busy |= device.service()
        return busy

    def _sleep(self) -> float | None:
        waits = [wait for wait in (self.cpu.nanoseconds_to_timer(), self.rtc.nanoseconds_to_alarm()) if wait >= 0]
        return min(min(waits) / 1e9, MAX_SLEEP) if waits else None  # the guest may set an alarm in 500 years

    def run(
        self,
        seconds: float | None = None,
        until: Callable[[], bool] | None = None,
        poll: Callable[[], object] | None = None,
        files: Iterable[int] = (),
    ) -> Event:
        """Run until the guest stops, `seconds` are over or `until()` holds, whichever is first.

        `poll()` is called between slices. While the guest sleeps so does the host, until the next timer or until one
        of the descriptors `files` can be read; without any, `poll` and `until` are asked 50 times a second.
        """
        descriptors: Sequence[int] = tuple(files)
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if poll is not None:
                poll()
            sleep = self.slice()  # after poll, which may have brought the guest something
            if until is not None and until():
                return Event.UNTIL
            if self.stopped is not None:
                return Event.STOPPED
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    return Event.TIME
                sleep = left if sleep is None else min(sleep, left)
            elif sleep is None and not (descriptors or poll or until):
                return Event.IDLE
            if sleep != 0:
                asked = POLL_SLEEP if (poll or until) and not descriptors else MAX_SLEEP
                select.select(descriptors, [], [], asked if sleep is None else min(asked, sleep))

    def save(self) -> bytes:
        """Hart and devices as bytes; RAM is not among them. The machine may go on afterwards.

        SnapshotError if more than 4 MiB wait in a stream for the guest: let it run and take them first.
        """
        for name, stream in (("uart", self.uart), ("console", self.console), ("agent", self.agent)):
            if stream.pending > MAX_STREAM:
                raise SnapshotError(
                    f"{name}: {stream.pending} bytes wait for the guest, {MAX_STREAM} can be saved; let it run"
                )
        devices = {name: device.save() for name, device in self._devices.items()}
        described = {"memory": self.memory, "stopped": self.stopped, "devices": devices}
        text = json.dumps(described, separators=(",", ":")).encode()
        hart: bytes = self.cpu.save()
        return STATE_HEADER.pack(STATE_MAGIC, STATE_VERSION, len(text), len(hart)) + text + hart

    @classmethod
    def restore(cls, state: bytes, ram_fd: int, disk: Disk | None = None) -> Machine:
        """The machine that `save` wrote, on a private mapping of the RAM file. mtime goes on where it stopped.

        The caller may close `ram_fd` afterwards. SnapshotDamaged names the field that is wrong.
        """
        described, hart = _open_state(state)
        memory = described.get("memory")
        if type(memory) is not int or not MIN_MEMORY <= memory <= MAX_MEMORY or memory % (1 << 20):
            raise SnapshotDamaged(f"machine state: memory: {str(memory)[:40]} is not a possible size")
        if os.fstat(ram_fd).st_size < memory:
            raise SnapshotDamaged(f"machine state: the RAM file has {os.fstat(ram_fd).st_size} bytes, not {memory}")
        machine = cls(memory, disk, ram_fd=ram_fd)
        machine._take(described, hart)
        return machine

    def _take(self, described: dict[str, Any], hart: bytes) -> None:
        stopped, devices = described.get("stopped"), described.get("devices")
        if stopped is not None and (type(stopped) is not str or len(stopped) > 40):
            raise SnapshotDamaged("machine state: stopped: not a reason")
        if type(devices) is not dict or devices.keys() != self._devices.keys():
            raise SnapshotDamaged(f"machine state: devices: not exactly {', '.join(self._devices)}")
        try:
            self.cpu.restore(hart)
        except ValueError as error:
            raise SnapshotDamaged(f"machine state: hart: {error}") from error
        for name, device in self._devices.items():
            try:
                device.restore(devices[name])
            except ValueError as error:
                raise SnapshotDamaged(f"machine state: {name}: {error}") from error
        self.stopped = stopped


def _open_state(state: bytes) -> tuple[dict[str, Any], bytes]:
    """The parts of a saved state: the JSON object, and the hart's bytes."""
    if len(state) < STATE_HEADER.size:
        raise SnapshotDamaged(f"machine state: only {len(state)} bytes")
    magic, version, json_length, hart_length = STATE_HEADER.unpack_from(state)
    if magic != STATE_MAGIC:
        raise SnapshotDamaged("machine state: magic: these bytes are not a machine's state")
    if version != STATE_VERSION:
        raise SnapshotDamaged(f"machine state: version: {version} is unknown, {STATE_VERSION} is known")
    if json_length > MAX_JSON or hart_length > MAX_HART or len(state) != STATE_HEADER.size + json_length + hart_length:
        raise SnapshotDamaged("machine state: lengths: they don't add up to the state's size")
    text = state[STATE_HEADER.size : STATE_HEADER.size + json_length]
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SnapshotDamaged(f"machine state: JSON: {error}") from error
    if type(described) is not dict:
        raise SnapshotDamaged("machine state: JSON: not an object")
    return described, state[STATE_HEADER.size + json_length :]


class _PanicWatch:
    """Looks for the kernel's last words in what it prints; keeps no more of it than the words are long."""

    def __init__(self) -> None:
        self._tail = b""
        self._since = PANIC_REACH + 1  # bytes since the words were seen
        self.ended = False  # the end of a panic was printed, and nothing after that line

    @property
    def recent(self) -> bool:
        """The words were said, and little after them."""
        return self._since <= PANIC_REACH

    def feed(self, data: bytes) -> None:
        """Look through the next piece of the console's output."""
        text = self._tail + data
        at = text.rfind(PANIC)
        self._since = len(text) - at if at >= 0 else min(self._since + len(data), PANIC_REACH + 1)
        end = text.rfind(PANIC_END)
        self.ended = text.count(b"\n", end) <= 1 if end >= 0 else self.ended and b"\n" not in data.rstrip(b"\r\n")
        self._tail = text[1 - max(len(PANIC), len(PANIC_END)) :]
