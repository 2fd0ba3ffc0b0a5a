"""Block device: a disk of 512-byte sectors (virtio 1.2, section 5.2).

A request is one chain: a 16-byte header to read, data to read or to write, one status byte to write. The disk behind
it is whatever has `size`, `read`, `write` and `flush`: `BufferDisk` for bytes and maps, `FileDisk` for an open file.

Invariants: no request reaches outside the disk, none writes a read-only disk, and a request that
fails gets a status and changes no data. A chain that is no request breaks the queue.

>>> disk = BufferDisk(bytearray(1024))
>>> disk.write(512, b"hello"); disk.read(512, 5)
b'hello'
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from typing import Protocol

from vpod.bus import IrqLine, Ram
from vpod.devices.virtio.mmio import VirtioMmio
from vpod.devices.virtio.queue import MAX_SIZE, Chain, QueueBroken, Range, total

SECTOR = 512
F_SEG_MAX, F_READ_ONLY, F_BLOCK_SIZE, F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
SEGMENTS = MAX_SIZE - 2  # the header and the status take a descriptor each

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
STATUS_OK, STATUS_ERROR, STATUS_UNSUPPORTED = 0, 1, 2
HEADER = Struct("<IIQ")  # type, reserved, sector
CONFIG = Struct("<QIIHBBI36x")  # capacity, size_max, seg_max, geometry, blk_size, and what was not offered
SERIAL = b"vpod"
SERIAL_LENGTH = 20
BUDGET = 16 << 20  # bytes moved in one call of process


class Disk(Protocol):
    """What the device stands on. Offsets and lengths are within `size` whenever the device calls."""

    @property
    def size(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None: ...


class BufferDisk:
    """A disk in memory: bytes (read-only), a bytearray, a memoryview or a map of a file."""

    def __init__(self, buffer: bytes | bytearray | memoryview | mmap.mmap, read_only: bool = False) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer).cast("B")
        self.size = self._view.nbytes
        self.read_only = read_only or self._view.readonly

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes from `offset`."""
        return bytes(self._view[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`."""
        self._view[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Bring a map's pages to its file."""
        if isinstance(self._buffer, mmap.mmap):
            self._buffer.flush()


class FileDisk:
    """A disk in a file whose descriptor is open for reading and, unless `read_only`, writing; it stays the caller's."""

    def __init__(self, descriptor: int, read_only: bool = False) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.read_only = read_only

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. OSError if the file has become shorter."""
        data = os.pread(self._descriptor, length, offset)
        if len(data) != length:
            raise OSError(f"the disk's file ends at {offset + len(data)}, before {offset + length}")
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`. OSError if the host can't."""
        if os.pwrite(self._descriptor, data, offset) != len(data):
            raise OSError(f"the disk's file did not take {len(data)} bytes at {offset}")

    def flush(self) -> None:
        """Bring what was written to the host's disk."""
        os.fsync(self._descriptor)


class Block(VirtioMmio):
    """The disk controller."""

    device_id = 2
    queue_count = 1

    def __init__(self, ram: Ram, irq: IrqLine, disk: Disk) -> None:
        self._disk = disk
        self._sectors = disk.size // SECTOR
        self.offered = F_SEG_MAX | F_BLOCK_SIZE | F_FLUSH | (F_READ_ONLY if disk.read_only else 0)
        super().__init__(ram, irq)

    def configuration(self) -> bytes:
        """struct virtio_blk_config, zero where no feature was offered."""
        return CONFIG.pack(self._sectors, 0, SEGMENTS, 0, 0, 0, SECTOR)

    def process(self, index: int) -> bool:
        """Carry out the requests that are available, within the budget."""
        queue = self.queues[index]
        budget = BUDGET
        for _ in range(MAX_SIZE):
            if budget <= 0:
                return True
            chain = queue.pop()
            if chain is None:
                return False
            _, readable, writable = chain
            budget -= total(readable) + total(writable)
            queue.push(chain[0], self._request(chain))
        return True

    def _request(self, chain: Chain) -> int:
        """Carry out one request and write its status; the bytes written to the guest, from the first one on."""
        _, readable, writable = chain
        if total(readable) < HEADER.size or not total(writable):
            raise QueueBroken("a block request without header or status")
        # The driver may cut header, data and status into descriptors as it likes: virtio 1.2, section 2.7.4.
        header, outgoing = _split(readable, HEADER.size)
        incoming, status_at = _split(writable, total(writable) - 1)
        data = b"".join(bytes(self.ram.data[at : at + length]) for at, length in header)
        kind, _, sector = HEADER.unpack(data)
        try:
            status, written = self._carry_out(kind, sector, outgoing, incoming)
        except OSError:
            status, written = STATUS_ERROR, 0
        at = next(offset for offset, length in status_at if length)
        self.ram.write(self.ram.base + at, bytes([status]))
        return written + (written == total(incoming))  # a failed request leaves a gap before the status

    def _carry_out(self, kind: int, sector: int, outgoing: list[Range], incoming: list[Range]) -> tuple[int, int]:
        if kind == FLUSH:
            self._disk.flush()
            return STATUS_OK, 0
        if kind == GET_ID:
            return self._identify(incoming)
        if kind not in (IN, OUT):
            return STATUS_UNSUPPORTED, 0
        ranges = incoming if kind == IN else outgoing
        length = total(ranges)
        if length % SECTOR or sector + length // SECTOR > self._sectors or (kind == OUT and self._disk.read_only):
            return STATUS_ERROR, 0
        position = sector * SECTOR
        for offset, count in ranges:
            if kind == IN:
                self.ram.write(self.ram.base + offset, self._disk.read(position, count))
            else:
                self._disk.write(position, bytes(self.ram.data[offset : offset + count]))
            position += count
        return STATUS_OK, length if kind == IN else 0

    def _identify(self, incoming: list[Range]) -> tuple[int, int]:
        if total(incoming) < SERIAL_LENGTH:
            return STATUS_ERROR, 0
        text = SERIAL.ljust(SERIAL_LENGTH, b"\0")
        for offset, length in _split(incoming, SERIAL_LENGTH)[0]:
            self.ram.write(self.ram.base + offset, text[:length])
            text = text[length:]
        return STATUS_OK, SERIAL_LENGTH


def _split(ranges: list[Range], at: int) -> tuple[list[Range], list[Range]]:
    """The ranges before and from byte `at` of what they describe together."""
    before: list[Range] = []
    after: list[Range] = []
    for offset, length in ranges:
        first = min(length, at)
        if first:
            before.append((offset, first))
        if length > first:
            after.append((offset + first, length - first))
        at -= first
    return before, after
