"""A small virtio driver for tests: it writes rings into a stand-in for RAM and reads what the device answered.

It follows virtio 1.2, sections 2.7 and 4.2, from the driver's side, and can lie wherever a guest could.
"""

from __future__ import annotations

import struct
from typing import Any

from vpod.bus import IrqLine, Ram
from vpod.devices.virtio.mmio import VirtioMmio

BASE = 0x8000_0000
RAM_SIZE = 1 << 20
NEXT, WRITE, INDIRECT = 1, 2, 4
FEATURES = 1 << 32  # VERSION_1
INDIRECT_FEATURE, EVENT_INDEX = 1 << 28, 1 << 29


class Memory:
    """RAM at 0x8000_0000, as `vpod._cpu.Cpu` shows it."""

    def __init__(self, size: int = RAM_SIZE) -> None:
        self.data = bytearray(size)

    def view(self, address: int, length: int) -> memoryview:
        return memoryview(self.data).toreadonly()[address - BASE : address - BASE + length]

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.view(address, length))

    def write(self, address: int, data: bytes) -> None:
        at = address - BASE
        assert at >= 0 and at + len(data) <= len(self.data), "a device wrote outside RAM"
        self.data[at : at + len(data)] = data


class Line:
    """An interrupt line that counts its rises."""

    def __init__(self) -> None:
        self.level = False
        self.rises = 0

    def set(self, number: int, level: bool) -> None:
        self.rises += level and not self.level
        self.level = level


class Ring:
    """One queue as the driver sees it: table, available ring and used ring at fixed places, buffers after them."""

    def __init__(self, driver: Driver, index: int, size: int) -> None:
        self.memory, self.device, self.index, self.size = driver.memory, driver.device, index, size
        self.table = BASE + 0x8000 * (index + 1)
        self.available, self.used = self.table + 0x2000, self.table + 0x3000
        self.heap = self.table + 0x4000
        self.next = 0
        self.seen = 0
        self.event_index = driver.event_index

    def store(self, address: int, format: str, *values: int) -> None:
        self.memory.write(address, struct.pack(format, *values))

    def fetch(self, address: int, format: str) -> tuple[Any, ...]:
        return struct.unpack(format, self.memory.read(address, struct.calcsize(format)))

    def describe(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor of the table."""
        self.store(self.table + 16 * index, "<QIHH", address, length, flags, following)

    def offer(self, *heads: int) -> None:
        """Make chains available, without a notification."""
        for head in heads:
            self.store(self.available + 4 + 2 * (self.next % self.size), "<H", head)
            self.next = self.next + 1 & 0xFFFF
        self.store(self.available + 2, "<H", self.next)

    def chain(self, *parts: bytes | int) -> int:
        """Lay a chain out from descriptor 0 on: bytes are readable, a number is a writable buffer of that length."""
        at = self.heap
        for index, part in enumerate(parts):
            length = part if isinstance(part, int) else len(part)
            if not isinstance(part, int):
                self.memory.write(at, part)
            flags = WRITE * isinstance(part, int) | NEXT * (index + 1 < len(parts))
            self.describe(index, at, length, flags, index + 1)
            at += length
        return 0

    def notify(self) -> None:
        self.device.write(0x50, 4, self.index)

    def ask(self, *parts: bytes | int) -> bytes | None:
        """One chain to the device and back: what it wrote, or None if the chain didn't come back."""
        self.offer(self.chain(*parts))
        self.notify()
        done = self.finished()
        if not done:
            return None
        start = self.heap + sum(len(part) for part in parts if not isinstance(part, int))
        return self.memory.read(start, done[0][1])

    def finished(self) -> list[tuple[int, int]]:
        """The (head, length) entries of the used ring that are new since the last call."""
        (index,) = self.fetch(self.used + 2, "<H")
        entries = []
        while self.seen != index:
            entries.append(self.fetch(self.used + 4 + 8 * (self.seen % self.size), "<II"))
            self.seen = self.seen + 1 & 0xFFFF
        return entries


class Driver:
    """Brings a device up through its registers. `make(ram, line)` builds the device."""

    def __init__(self, make: Any, features: int = FEATURES, size: int = 8, queues: int | None = None) -> None:
        self.memory, self.line = Memory(), Line()
        self.device: VirtioMmio = make(Ram(self.memory, RAM_SIZE), IrqLine(self.line.set, 1))
        self._take(features, size)
        self.start(queues)

    @classmethod
    def of(cls, device: VirtioMmio, memory: Any, features: int = FEATURES, size: int = 8) -> Driver:
        """Bring up a device that is part of a machine, whose RAM `memory` reads and writes."""
        driver = cls.__new__(cls)
        driver.memory, driver.device = memory, device
        driver._take(features, size)
        driver.start(None)
        return driver

    def _take(self, features: int, size: int) -> None:
        self.features, self.size = features, size
        self.event_index = bool(features & EVENT_INDEX)
        self.rings: list[Ring] = []

    def read(self, offset: int) -> int:
        return self.device.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.device.write(offset, 4, value)

    @property
    def broken(self) -> bool:
        return bool(self.read(0x70) & 0x40)

    def negotiate(self) -> None:
        self.write(0x70, 0)
        self.write(0x70, 1)
        self.write(0x70, 3)
        for half in (0, 1):
            self.write(0x24, half)
            self.write(0x20, self.features >> 32 * half & 0xFFFF_FFFF)
        self.write(0x70, 11)

    def set_up(self, index: int, size: int | None = None) -> Ring:
        ring = Ring(self, index, size or self.size)
        self.write(0x30, index)
        self.write(0x38, ring.size)
        for register, address in ((0x80, ring.table), (0x90, ring.available), (0xA0, ring.used)):
            self.write(register, address & 0xFFFF_FFFF)
            self.write(register + 4, address >> 32)
        self.write(0x44, 1)
        return ring

    def start(self, queues: int | None) -> None:
        self.negotiate()
        count = len(self.device.queues) if queues is None else queues
        self.rings = [self.set_up(index) for index in range(count)]
        self.write(0x70, 15)
