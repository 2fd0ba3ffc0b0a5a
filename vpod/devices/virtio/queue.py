"""Split virtqueues: the border across which the guest hands the device its buffers (virtio 1.2, section 2.7).

The guest owns the descriptor table, the available ring and every index in them, and all of it may be a lie. So:

* Each field is read once, with its buffer checked to lie in RAM before anybody sees it.
* A chain has at most `size` descriptors, whether they stand in the table or in one indirect table, and describes at
  most `MAX_CHAIN` bytes. A loop, an index outside the table, an indirect table within another or a
  writable buffer before a readable one breaks the queue.
* Between two notifications at most `size` buffers can be available; more break the queue.
* A broken queue raises `QueueBroken`; the transport then stops the device until the driver resets it.

A chain comes out as ``(head, readable, writable)``, the latter two lists of ``(offset, length)`` into ``ram.data``.
Descriptors never become objects: a console moves a gigabyte through here in 32 KiB buffers. A device uses it so::

    while (chain := queue.pop()) is not None:
        head, readable, writable = chain
        ...
        queue.push(head, written)
    if queue.publish():
        interrupt()
"""

from __future__ import annotations

from struct import Struct

from vpod.bus import AccessFault, Ram
from vpod.devices import fields

MAX_SIZE = 128  # descriptors; the same for every queue of every device
MAX_CHAIN = 16 << 20  # bytes that one chain may describe

DESCRIPTOR = Struct("<QIHH")  # address, length, flags, next
USED = Struct("<II")  # head, bytes written
HALF = Struct("<H")
RING_HEADER = 4  # flags and idx

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1  # flag of the available ring

Range = tuple[int, int]
Chain = tuple[int, list[Range], list[Range]]


class QueueBroken(Exception):
    """The guest's rings don't hold together. Says how; the device stops until it is reset."""


class Queue:
    """One virtqueue. The transport fills in `size`, `descriptors`, `available` and `used`, then calls `enable`."""

    __slots__ = (
        "_available", "_data", "_descriptors", "_next", "_offered", "_ram", "_signalled", "_used", "_written",
        "available", "descriptors", "enabled", "event_index", "size", "used",
    )  # fmt: skip

    def __init__(self, ram: Ram) -> None:
        self._ram = ram
        self._data = ram.data
        self.reset()

    def reset(self) -> None:
        """Back to the state after a device reset."""
        self.size = MAX_SIZE
        self.descriptors = self.available = self.used = 0  # guest-physical addresses
        self.enabled = False
        self.event_index = False
        self._descriptors = self._available = self._used = 0  # offsets into RAM, valid while enabled
        self._next = 0  # index of the available ring up to which buffers were taken
        self._offered = 0  # the driver's index, as last read
        self._written = 0  # index of the used ring up to which buffers were given back
        self._signalled = 0  # the same when the driver was last interrupted

    def enable(self, event_index: bool) -> None:
        """Check size and addresses and start. QueueBroken names what is wrong."""
        size = self.size
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise QueueBroken(f"size: {size} is not a power of two up to {MAX_SIZE}")
        # Sizes and alignments: virtio 1.2, section 2.7; each ring ends with an event index.
        parts = (
            ("descriptors", self.descriptors, 16 * size, 16),
            ("available", self.available, RING_HEADER + 2 * size + 2, 2),
            ("used", self.used, RING_HEADER + 8 * size + 2, 4),
        )
        offsets = []
        for name, address, length, alignment in parts:
            try:
                offsets.append(self._ram.offset(address, length))
            except AccessFault as fault:
                raise QueueBroken(f"{name}: {fault}") from None
            if address % alignment:
                raise QueueBroken(f"{name}: {address:#x} is not aligned to {alignment} bytes")
        self._descriptors, self._available, self._used = offsets
        self.event_index = event_index
        self.enabled = True

    def _available_index(self) -> int:
        index: int = HALF.unpack_from(self._data, self._available + 2)[0]
        if (index - self._next & 0xFFFF) > self.size:
            raise QueueBroken(f"{index - self._next & 0xFFFF} buffers are available in a queue of {self.size}")
        return index

    def pop(self) -> Chain | None:
        """Take the next available chain; None when there is none."""
        if not self.enabled:
            return None
        if self._next == self._offered:
            self._offered = self._available_index()
            if self._next == self._offered:
                return None
        at = self._available + RING_HEADER + 2 * (self._next & (self.size - 1))
        head: int = HALF.unpack_from(self._data, at)[0]
        if head >= self.size:
            raise QueueBroken(f"descriptor {head} is outside the table of {self.size}")
        address, length, flags, _ = DESCRIPTOR.unpack_from(self._data, self._descriptors + 16 * head)
        offset = address - self._ram.base
        if not flags & (NEXT | INDIRECT) and offset >= 0 and offset + length <= self._ram.size and length <= MAX_CHAIN:
            single = [(offset, length)]
            chain: Chain = (head, [], single) if flags & WRITE else (head, single, [])
        elif flags & INDIRECT:
            chain = self._indirect(head, address, length, flags)
        else:
            chain = (head, *self._walk(self._descriptors, self.size, head))
        self._next = self._next + 1 & 0xFFFF
        return chain

    def _indirect(self, head: int, address: int, length: int, flags: int) -> Chain:
        if flags & NEXT:
            raise QueueBroken("a descriptor is both indirect and continued")
        if not length or length % 16:
            raise QueueBroken(f"an indirect table of {length} bytes")
        try:
            table = self._ram.offset(address, length)
        except AccessFault as fault:
            raise QueueBroken(f"an indirect table: {fault}") from None
        return (head, *self._walk(table, length // 16, 0))

    def _walk(self, table: int, count: int, index: int) -> tuple[list[Range], list[Range]]:
        """Follow a chain through a table of `count` descriptors, at most `size` of them."""
        readable: list[Range] = []
        writable: list[Range] = []
        total = 0
        for _ in range(self.size):
            if index >= count:
                raise QueueBroken(f"descriptor {index} is outside a table of {count}")
            address, length, flags, index = DESCRIPTOR.unpack_from(self._data, table + 16 * index)
            if flags & INDIRECT:
                raise QueueBroken("an indirect descriptor within a chain")
            total += length
            if total > MAX_CHAIN:
                raise QueueBroken(f"a chain of more than {MAX_CHAIN} bytes")
            try:
                offset = self._ram.offset(address, length)
            except AccessFault as fault:
                raise QueueBroken(f"a buffer: {fault}") from None
            if flags & WRITE:
                writable.append((offset, length))
            elif writable:
                raise QueueBroken("a readable buffer follows a writable one")
            else:
                readable.append((offset, length))
            if not flags & NEXT:
                return readable, writable
        raise QueueBroken(f"a chain of more than {self.size} descriptors")

    def push(self, head: int, written: int) -> None:
        """Give the chain that began at descriptor `head` back, `written` bytes of it filled."""
        at = self._used + RING_HEADER + 8 * (self._written & (self.size - 1))
        self._ram.write(self._ram.base + at, USED.pack(head, written))
        self._written = self._written + 1 & 0xFFFF

    def publish(self) -> bool:
        """Show the driver what was pushed since the last call; True if it wants an interrupt for that.

        Also asks for a notification when the next buffer becomes available.
        """
        if not self.enabled:
            return False
        base = self._ram.base
        if self.event_index:
            avail_event = self._used + RING_HEADER + 8 * self.size
            self._ram.write(base + avail_event, HALF.pack(self._next))
        if self._written == self._signalled:
            return False
        self._ram.write(base + self._used + 2, HALF.pack(self._written))
        before, self._signalled = self._signalled, self._written
        if self.event_index:
            # vring_need_event of virtio 1.2, section 2.7.10
            used_event: int = HALF.unpack_from(self._data, self._available + RING_HEADER + 2 * self.size)[0]
            return (self._written - used_event - 1 & 0xFFFF) < (self._written - before & 0xFFFF)
        return not self._data[self._available] & NO_INTERRUPT

    def save(self) -> fields.State:
        """What `restore` takes."""
        return {
            "size": self.size,
            "descriptors": f"{self.descriptors:016x}",
            "available": f"{self.available:016x}",
            "used": f"{self.used:016x}",
            "enabled": self.enabled,
            "next": self._next,
            "written": self._written,
            "signalled": self._signalled,
        }

    def restore(self, state: fields.State, event_index: bool) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        self.reset()
        self.size = fields.integer(state, "size", 0xFFFF)
        addresses = [fields.data(state, name, 8) for name in ("descriptors", "available", "used")]
        self.descriptors, self.available, self.used = (int.from_bytes(address, "big") for address in addresses)
        following, written, signalled = (
            fields.integer(state, name, 0xFFFF) for name in ("next", "written", "signalled")
        )
        if fields.flag(state, "enabled"):
            try:
                self.enable(event_index)
            except QueueBroken as broken:
                raise ValueError(str(broken)) from None
        self._next = self._offered = following
        self._written, self._signalled = written, signalled


def total(ranges: list[Range]) -> int:
    """Bytes that the ranges describe."""
    return sum(length for _, length in ranges)
