"""What a guest that means harm does: `operations(seed, length)`, drawn for `hostile_board.Board`.

A session aims at one device most of the time, because a request that gets somewhere needs a queue that was set up: half
of what is drawn is what a good driver does, with one thing wrong in it every now and then. The lies are those of
`ADDRESSES`, `LENGTHS`, `INDEXES` and `VALUES`; rings overlap, buffers lie on rings, on code and on the edge of RAM.

Invariants: the operations depend on the arguments alone, not on what the devices answer.

    >>> operations(1, 500) == operations(1, 500)
    True
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.proof.hostile_board import (
    CAPACITY,
    DESCRIPTOR,
    DEVICES,
    HOST,
    INDIRECT,
    NEXT,
    RAM,
    RAM_END,
    SECTOR,
    WRITE,
    Host,
    Load,
    Operation,
    Poke,
    Store,
    Storm,
)

QUEUES = (6, 1, 1)  # of the devices in slots 0 to 2
HEAP, HEAP_SIZE = RAM + 0x6_0000, 0x2_0000
TABLES = RAM + 0x8_0000  # indirect ones
MAX_CHAIN = 16 << 20

F_INDIRECT, F_EVENT_INDEX, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 32
OFFERED = (3, 0, 1 << 2 | 1 << 6 | 1 << 9)  # by the devices in slots 0 to 2
STATUS, SELECT, SIZE, READY, NOTIFY, ACKNOWLEDGE = 0x70, 0x30, 0x38, 0x44, 0x50, 0x64
REGISTERS = (
    0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x20, 0x24, SELECT, 0x34, SIZE, READY, NOTIFY, 0x60, ACKNOWLEDGE, STATUS,
    0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4, 0xAC, 0xB0, 0xB8, 0xBC, 0xC0, 0xFC, 0x100, 0x104, 0x108, 0x120, 0x13C, 0xFFC,
)  # fmt: skip
PLAIN = {  # offsets of the other devices' registers
    "syscon": (0, 1, 4, 0xFFC),
    "rtc": tuple(range(0, 0x24, 4)),
    "clint": (0, 4, 0x4000, 0x4004, 0xBFF8, 0xBFFC, 0xFFFC),
    "plic": (0, 4, 4 * 10, 4 * 95, 4 * 96, 0x1000, 0x1008, 0x100C, 0x2000, 0x2004, 0x208C, 0x2100, 0x1F_FFFC, 0x20_0000,
             0x20_0004, 0x20_0008, 0x20_1000, 0x20_1004, 0x20_2004, 0x5F_FFFC),
    "uart": tuple(range(9)),
}  # fmt: skip

VALUES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x1_0000, 0x5555, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF,
          1 << 32, 1 << 63, (1 << 64) - 1)  # fmt: skip
ADDRESSES = (
    0, 1, RAM - 1, RAM - 8, RAM, RAM + 0x3C, RAM + 0x100, RAM_END - 1, RAM_END - 8, RAM_END - 512, RAM_END, 1 << 56,
    0x1000_1000, (1 << 63) + RAM, (1 << 64) - 1, (1 << 64) - 16,
)  # fmt: skip
LENGTHS = (0, 1, 2, 7, 16, 20, 511, 512, 513, 4096, 65536, MAX_CHAIN - 1, MAX_CHAIN, MAX_CHAIN + 1, RAM_END - RAM,
           0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)  # fmt: skip
INDEXES = (0, 1, 7, 8, 127, 128, 129, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)


@dataclass
class Ring:
    """A queue as its driver set it up, if it did; `index` is the available ring's."""

    size: int
    table: int
    available: int
    used: int
    index: int = 0


Part = list[int]  # of a chain: address, length, flags


class Guest:
    """Draws one session. `aim` is the slot of the virtio device it is after; 3 stands for the board's other devices."""

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        self.aim = self.random.choice((0, 0, 1, 2, 2, 3))
        self.rings: dict[tuple[int, int], Ring] = {}
        self.suspect = False  # something was done for which the device may have stopped

    def sometimes(self, share: float) -> bool:
        return self.random.random() < share

    def session(self) -> Iterator[Operation]:
        """Operations without end."""
        acts: list[tuple[int, Callable[[], Iterator[Operation]]]] = [
            (1, self.bring_up), (40, self.offer), (6, self.notify), (6, self.scribble), (5, self.configure),
            (6, self.look), (4, self.elsewhere), (8, self.host), (1, self.misplace),
        ]  # fmt: skip
        weights = [weight for weight, _ in acts]
        if self.aim == 3:
            weights = [0, 0, 0, 0, 0, 1, 20, 6, 0]
        else:
            yield from self.bring_up()
        stormy = self.random.randrange(120)
        for number in range(1 << 62):
            if number == stormy:
                yield self.storm()
            (act,) = self.random.choices([act for _, act in acts], weights)
            self.suspect |= act in (self.scribble, self.configure, self.misplace)
            yield from act()
            if self.suspect and self.aim < 3 and self.sometimes(0.3):
                yield from self.bring_up()

    # Registers.

    def store(self, slot: int, register: int, value: int, size: int = 4) -> Store:
        value &= (1 << 8 * size) - 1
        return Store(0x1000_1000 + 0x1000 * slot + register, size, value, self.sometimes(0.3))

    def queue(self) -> int:
        """One of the device's, of those that were set up in most cases."""
        known = [queue for slot, queue in self.rings if slot == self.aim]
        return self.random.choice(known) if known and self.sometimes(0.9) else self.random.randrange(QUEUES[self.aim])

    def bring_up(self) -> Iterator[Operation]:
        """As section 3.1.1 has it, from the reset to DRIVER_OK, with all queues or some."""
        slot = self.aim
        self.suspect = False
        yield self.store(slot, STATUS, 0)
        self.rings = {key: ring for key, ring in self.rings.items() if key[0] != slot}
        features = F_VERSION_1 | self.random.choice((0, F_INDIRECT, F_INDIRECT | F_EVENT_INDEX)) | OFFERED[slot]
        if self.sometimes(0.1):
            features ^= 1 << self.random.randrange(64)
        if self.sometimes(0.2):
            features &= ~OFFERED[slot]
        steps = [(STATUS, 1), (STATUS, 3), (0x24, 0), (0x20, features & 0xFFFF_FFFF), (0x24, 1), (0x20, features >> 32)]
        steps.append((STATUS, 11))
        if self.sometimes(0.1):
            self.random.shuffle(steps)
        for register, value in steps:
            yield self.store(slot, register, value)
        queues = range(QUEUES[slot])
        for queue in self.random.sample(queues, self.random.choice((1, 2, 2, 3, 6))) if slot == 0 else queues:
            yield from self.set_up(queue)
        yield self.store(slot, STATUS, 15)
        if slot == 0:
            for port in (0, 1):
                yield from self.offer(3, [struct.pack("<IHH", port, 6, 1)])

    def set_up(self, queue: int) -> Iterator[Operation]:
        """Give one queue its rings: apart from each other in most cases."""
        slot = self.aim
        size = self.random.choice((1, 2, 4, 8, 8, 8, 16, 16, 128))
        table = RAM + 0x1_0000 + 0x8000 * queue
        ring = Ring(size, table, table + 0x2000, table + 0x3000)
        if self.sometimes(0.1):
            self.suspect = True
            places = (table, table + 4 * size, table + 16 * size - 4, HEAP, RAM, RAM_END - 16 * size, RAM_END - 64)
            what = self.random.choice(("table", "available", "used"))
            setattr(ring, what, self.random.choice(places))
        steps = [(SELECT, queue), (SIZE, size)]
        for register, address in ((0x80, ring.table), (0x90, ring.available), (0xA0, ring.used)):
            steps += [(register, address & 0xFFFF_FFFF), (register + 4, address >> 32)]
        for address, length in ((ring.table, 16 * size), (ring.available, 6 + 2 * size), (ring.used, 6 + 8 * size)):
            yield from poke(address, bytes(length))
        for register, value in [*steps, (READY, 1)]:
            yield self.store(slot, register, value)
        self.rings[slot, queue] = ring

    def configure(self) -> Iterator[Operation]:
        """Write some register of the device, however busy it is."""
        register = self.random.choice(REGISTERS)
        size = 4
        if self.sometimes(0.2):
            register, size = min(register + self.random.randrange(8), 0xFF8), self.random.choice((1, 2, 4, 8))
        value = self.random.choice((*VALUES, self.random.getrandbits(64)))
        if register in (STATUS, READY) and self.sometimes(0.6):
            value = self.random.choice((1, 3, 11, 15))
        if register == SELECT:
            value = self.random.choice((self.queue(), value))
        yield self.store(self.aim, register, value, size)

    def misplace(self) -> Iterator[Operation]:
        """Take a queue out of use, change it, and put it back, as nothing allows."""
        queue = self.queue()
        change = self.random.choice((SIZE, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4))
        value = self.random.choice((*VALUES, *ADDRESSES, *(place + 2 for place in ADDRESSES)))
        for register, stored in ((SELECT, queue), (READY, 0), (change, value & 0xFFFF_FFFF), (READY, 1)):
            yield self.store(self.aim, register, stored)

    def look(self) -> Iterator[Operation]:
        slot = self.random.choice((self.aim, self.random.randrange(8)))
        register, size = self.random.choice(REGISTERS), 4
        if self.sometimes(0.4):
            register, size = self.random.randrange(0x1000), self.random.choice((1, 2, 4, 8))
        yield Load(0x1000_1000 + 0x1000 * slot + register, size, self.sometimes(0.5))

    def elsewhere(self) -> Iterator[Operation]:
        """Any device, or none, at any offset and width."""
        name = self.random.choice(tuple(DEVICES))
        base, length = DEVICES[name]
        offset = self.random.randrange(-8, length + 8)
        if name in PLAIN and self.sometimes(0.7):
            offset = self.random.choice(PLAIN[name]) + self.random.choice((0, 0, 0, 0, 1, 2, 4))
        address, size = base + offset, self.random.choice((1, 2, 4, 4, 8))
        if self.sometimes(0.1):
            address = self.random.choice([place for place in ADDRESSES if not RAM <= place <= RAM_END - size])
        if self.sometimes(0.5):
            yield Load(address, size, self.sometimes(0.5))
        else:
            value = self.random.choice((*VALUES, self.random.getrandbits(64))) & (1 << 8 * size) - 1
            yield Store(address, size, value, self.sometimes(0.5))

    def notify(self) -> Iterator[Operation]:
        yield self.store(self.aim, NOTIFY, self.random.choice((self.queue(), self.queue(), *VALUES)))

    def host(self) -> Iterator[Operation]:
        yield Host(self.random.choice(tuple(HOST)), self.random.getrandbits(16))

    # Rings.

    def offer(self, queue: int | None = None, parts: list[bytes | int] | None = None) -> Iterator[Operation]:
        """Describe a request, with lies or without, offer it, and notify the device in most cases."""
        if queue is None:
            queue = self.queue()
        ring = self.rings.get((self.aim, queue))
        if ring is None:
            return
        if parts is None:
            parts = self.request(queue)
        chain: list[Part] = []
        at = HEAP + self.random.randrange(0, HEAP_SIZE // 2, 8)
        for part in parts:
            if isinstance(part, bytes):
                yield Poke(at, part)
            length = len(part) if isinstance(part, bytes) else part
            chain.append([at, length, WRITE * isinstance(part, int)])
            at += length
        lying = self.sometimes(0.2)
        if lying:
            self.suspect = True
            self.lie(chain, ring)
        head = self.random.randrange(ring.size)
        yield from self.describe(ring, head, chain, lying)
        for _ in range(self.random.choice((1, 1, 1, 1, 2, ring.size, ring.size + 1)) if lying else 1):
            yield from poke(ring.available + 4 + 2 * (ring.index % ring.size), struct.pack("<H", head))
            ring.index = ring.index + 1 & 0xFFFF
        yield from poke(ring.available + 2, struct.pack("<H", ring.index))
        if self.sometimes(0.85):
            yield self.store(self.aim, NOTIFY, queue)

    def request(self, queue: int) -> list[bytes | int]:
        """What the device expects in that queue: bytes to read, and numbers of bytes to write."""
        draw = self.random
        if self.aim == 1:
            return [draw.choice((1, 16, 64, 512)) for _ in range(draw.choice((1, 1, 2, 5)))]
        if self.aim == 0:
            if queue == 3:
                port, event = draw.choice((0, 0, 1, 2, 0xFFFF_FFFF)), draw.choice((0, 3, 6, 6, 7, 99))
                return [struct.pack("<IHH", port, event, draw.choice((0, 1, 1)))]
            if queue % 2:
                return [draw.randbytes(draw.choice((0, 1, 5, 200))) for _ in range(draw.choice((1, 1, 2)))]
            return [draw.choice((1, 8, 32, 64)) for _ in range(draw.choice((1, 1, 2)))]
        kind = draw.choice((0, 0, 1, 1, 4, 8, 5, 0xFFFF_FFFF))
        sectors = draw.choice((0, 1, 1, 2, 5))
        last = CAPACITY // SECTOR
        sector = draw.choice((0, draw.randrange(last), last - 1, last - sectors, last, 1 << 55, 1 << 63, (1 << 64) - 1))
        header = struct.pack("<IIQ", kind, 0, sector)
        if kind == 1:
            return [header, *(draw.randbytes(SECTOR) for _ in range(sectors)), 1]
        return [header, *([20] if kind == 8 else [SECTOR] * sectors if kind == 0 else []), 1]

    def lie(self, chain: list[Part], ring: Ring) -> None:
        """Make one or two things of a chain wrong."""
        places = [place + at for place in (ring.table, ring.available, ring.used) for at in (0, 2, 8)] + [TABLES, HEAP]
        for _ in range(self.random.choice((1, 1, 2))):
            part = self.random.choice(chain)
            what = self.random.randrange(6)
            if what == 0:
                part[0] = self.random.choice(ADDRESSES)
            elif what == 1:
                part[0] = self.random.choice(places)
            elif what == 2:
                part[1] = self.random.choice(LENGTHS)
            elif what == 3:
                part[2] = self.random.choice((0, WRITE, INDIRECT, WRITE | INDIRECT, 0xFFF8, 0xFFFF))
            elif what == 4:
                chain.insert(self.random.randrange(len(chain) + 1), [HEAP, self.random.choice(LENGTHS), WRITE])
            else:
                self.random.shuffle(chain)

    def describe(self, ring: Ring, head: int, chain: list[Part], lying: bool) -> Iterator[Operation]:
        """Write the chain's descriptors into the ring's table from `head` on, or into an indirect one."""
        if self.sometimes(0.3):
            length = 16 * len(chain)
            table = TABLES + self.random.randrange(0, 0x1000, 16)
            flags = INDIRECT
            if lying and self.sometimes(0.3):
                length = self.random.choice((*LENGTHS, length - 8, length + 16, 16 * 129))
                flags |= self.random.choice((0, NEXT, WRITE))
                table = self.random.choice((table, ring.table, *ADDRESSES))
            yield from poke(ring.table + 16 * head, DESCRIPTOR.pack(table, length, flags, self.random.choice(INDEXES)))
            slots, at = list(range(len(chain))), table
        else:
            slots, at = [(head + index) % ring.size for index in range(len(chain))], ring.table
        for index, (address, length, flags) in enumerate(chain):
            last = index + 1 == len(chain)
            following = slots[index + 1] if not last else self.random.choice(INDEXES)
            if lying and self.sometimes(0.1):
                following, last = self.random.choice((*INDEXES, slots[index], slots[0])), False
            packed = DESCRIPTOR.pack(address, length & 0xFFFF_FFFF, flags | (0 if last else NEXT), following)
            yield from poke(at + 16 * slots[index], packed)

    def scribble(self) -> Iterator[Operation]:
        """Write one field of a ring, whether the device is looking or not."""
        ring = self.rings.get((self.aim, self.queue()))
        if ring is None:
            return
        entry = self.random.randrange(ring.size)
        where, format, values = self.random.choice((
            (ring.available, "<H", (0, 1, 0xFFFF)),
            (ring.available + 2, "<H", (*INDEXES, ring.index - 1 & 0xFFFF, ring.index + ring.size & 0xFFFF)),
            (ring.available + 4 + 2 * entry, "<H", INDEXES),
            (ring.available + 4 + 2 * ring.size, "<H", INDEXES),
            (ring.used, "<H", INDEXES),
            (ring.used + 2, "<H", INDEXES),
            (ring.table + 16 * entry, "<Q", ADDRESSES),
            (ring.table + 16 * entry + 8, "<I", LENGTHS),
            (ring.table + 16 * entry + 12, "<H", tuple(range(8))),
            (ring.table + 16 * entry + 14, "<H", INDEXES),
        ))  # fmt: skip
        yield from poke(where, struct.pack(format, self.random.choice(values)))

    def storm(self) -> Storm:
        """What a slice is to survive: an index that runs and a device that is notified, or nothing but interrupts."""
        aim = min(self.aim, 2)
        queue = self.random.randrange(QUEUES[aim])
        ring = self.rings.get((aim, queue))
        base = 0x1000_1000 + 0x1000 * aim
        return Storm(
            ring.available + 2 if ring else HEAP,
            self.random.choice((0, 1, 1, ring.size if ring else 8)),
            base + NOTIFY,
            queue,
            self.random.choice((base + 0x100, 0x0C20_0000, 0x1000_0000, 0x0200_0000, 0x0200_BFF8)),
            self.random.choice(VALUES),
            self.sometimes(0.4),
        )


def poke(address: int, data: bytes) -> Iterator[Operation]:
    """Write memory, if that is where memory is."""
    if address >= RAM and address + len(data) <= RAM_END:
        yield Poke(address, data)


def operations(seed: int | str, length: int) -> list[Operation]:
    """The first `length` operations of the session of that seed."""
    session = Guest(seed).session()
    return [next(session) for _ in range(length)]
