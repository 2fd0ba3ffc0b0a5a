"""The bus: which device answers at which physical address, and what devices share.

The core handles RAM itself; every other access comes here. A device claims one range and from then on sees only
offsets into it. Devices get a `Ram` for DMA and an `IrqLine` for interrupts, never the machine.

Invariants:

* Ranges never overlap, so at most one device answers an address.
* A device is called only with ``size`` in 1, 2, 4, 8, with the whole access inside its range, and with a value
  that fits the size. Alignment and width are the guest's choice: the device has to cope.
* Everything else is an `AccessFault`, which the core turns into the guest's access fault.

>>> class Scratch:
...     size = 8
...     value = 0
...     def read(self, offset, size): return self.value
...     def write(self, offset, size, value): self.value = value
>>> bus = Bus()
>>> bus.attach(0x1000, Scratch())
>>> bus.write(0x1000, 4, 7); bus.read(0x1000, 4)
7
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from typing import Protocol

RAM_BASE = 0x8000_0000
ADDRESS_LIMIT = 1 << 56  # physical addresses of RV64 have at most 56 bits: privileged specification, "Sv39"
SIZE_MASK = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}


class AccessFault(Exception):
    """No device, or no RAM, answers at that address. Caught by the core; the guest gets an access fault."""


class Device(Protocol):
    """What the bus asks of a device."""

    @property
    def size(self) -> int:
        """Bytes of address space that it takes."""

    def read(self, offset: int, size: int) -> int:
        """The value at `offset`; 0 where the device has no register."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Store `value` at `offset`; nothing happens where the device has no register."""


class Memory(Protocol):
    """The part of `vpod._cpu.Cpu` that `Ram` stands on."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...

    def view(self, address: int, length: int) -> memoryview: ...


class Bus:
    """Ranges of physical address space and the devices that answer in them."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, Device]] = []  # (base, end, device), ordered by base
        self._bases: list[int] = []

    def attach(self, base: int, device: Device) -> None:
        """Let `device` answer from `base` on for `device.size` bytes. ValueError if the range is taken or absurd."""
        end = base + device.size
        if not 0 <= base < end <= ADDRESS_LIMIT:
            raise ValueError(f"{type(device).__name__}: {base:#x}..{end:#x} is no range of physical addresses")
        for other_base, other_end, other in self._ranges:
            if base < other_end and other_base < end:
                raise ValueError(
                    f"{type(device).__name__} at {base:#x} overlaps {type(other).__name__} at {other_base:#x}"
                )
        insort(self._ranges, (base, end, device), key=lambda entry: entry[0])
        self._bases = [entry[0] for entry in self._ranges]

    def read(self, address: int, size: int) -> int:
        """Read `size` bytes (1, 2, 4 or 8) at the physical `address`. AccessFault where nothing answers."""
        device, offset = self._find(address, size)
        return device.read(offset, size) & SIZE_MASK[size]

    def write(self, address: int, size: int, value: int) -> None:
        """Write `size` bytes (1, 2, 4 or 8) at the physical `address`. AccessFault where nothing answers."""
        device, offset = self._find(address, size)
        device.write(offset, size, value & SIZE_MASK[size])

    def _find(self, address: int, size: int) -> tuple[Device, int]:
        index = bisect_right(self._bases, address)
        if index and size in SIZE_MASK:
            base, end, device = self._ranges[index - 1]
            if address + size <= end:
                return device, address - base
        raise AccessFault(f"no device answers an access of {size} bytes at {address:#x}")


class IrqLine:
    """One wire into an interrupt controller. The controller remembers its level, so setting it again is harmless."""

    __slots__ = ("_number", "_sink")

    def __init__(self, sink: Callable[[int, bool], None], number: int) -> None:
        self._sink = sink
        self._number = number

    def set(self, level: bool) -> None:
        """Drive the wire high (True: the device wants attention) or low."""
        self._sink(self._number, level)


class Ram:
    """Guest memory as a device sees it for DMA: guest-physical addresses, each access checked.

    `data` is a read-only view of all of it; byte 0 is the address `base`. Whoever indexes it checks first, with
    `offset(address, length)`.
    """

    __slots__ = ("_memory", "base", "data", "size")

    def __init__(self, memory: Memory, size: int, base: int = RAM_BASE) -> None:
        self._memory = memory
        self.base = base
        self.size = size
        self.data = memory.view(base, size)

    def offset(self, address: int, length: int) -> int:
        """Where in `data` the range starts. AccessFault unless all of it is RAM."""
        offset = address - self.base
        if offset < 0 or length < 0 or offset + length > self.size:
            raise AccessFault(f"{length} bytes at {address:#x} are not in RAM")
        return offset

    def read(self, address: int, length: int) -> bytes:
        """A copy of `length` bytes at `address`. AccessFault unless all of them are RAM."""
        offset = self.offset(address, length)
        return bytes(self.data[offset : offset + length])

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`; code decoded from there is dropped. AccessFault unless all of it is RAM."""
        self.offset(address, len(data))
        self._memory.write(address, data)
