"""A real machine under watch, for guests that mean harm: `Board` plays operations and says which promise was broken.

The promises, looked at after every operation: the host raises nothing but the guest's access faults, and those exactly
where the memory map has nothing; it is done within `PATIENCE`; a device writes only used rings and buffers that a whole
chain of an enabled queue declares writable, by this module's own reading of virtio 1.2, section 2.7; the disk changes
only by write requests inside its capacity; what the device keeps is small, and can be saved and restored to the same.
`Board.untouched` then compares all of RAM with what was written through the watch.

Invariants: `Shadow` is all of RAM as it must be; an operation depends on nothing but the operations before it and the
board's seed, so a list of them shows a fault again.

    >>> board = Board(seed=1)
    >>> board.play(Load(0x1000_1000, 4, guest=True))
    >>> board.play(Poke(0x8001_0000, b"descriptors"))
    >>> board.faults, board.untouched()
    ([], None)
"""

from __future__ import annotations

import functools
import json
import os
import random
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

from tests.machine_code import assemble
from tests.proof.limits import hurried
from vpod.bus import AccessFault, Ram
from vpod.devices.virtio import entropy
from vpod.machine import Machine

RAM, RAM_SIZE = 0x8000_0000, 64 << 20
RAM_END = RAM + RAM_SIZE
MIB, PAGE = 1 << 20, 4096
SECTOR, CAPACITY = 512, 64 << 10

# QEMU's virt, as docs/design/main-job.md has it: where each device answers, and for how many bytes.
DEVICES = {
    "syscon": (0x0010_0000, 0x1000),
    "rtc": (0x0010_1000, 0x1000),
    "clint": (0x0200_0000, 0x1_0000),
    "plic": (0x0C00_0000, 0x60_0000),
    "uart": (0x1000_0000, 0x100),
    **{f"virtio{slot}": (0x1000_1000 + 0x1000 * slot, 0x1000) for slot in range(8)},
}
VIRTIO = ("virtio0", "virtio1", "virtio2")  # the slots with a device: console, entropy, block

# The guest's own code, in the first page.
HANDLER, STORM, RETURN = RAM + 0x100, RAM + 0x200, RAM + 0x300
INSTRUCTIONS = {
    ("load", 1): "lbu", ("load", 2): "lhu", ("load", 4): "lwu", ("load", 8): "ld",
    ("store", 1): "sb", ("store", 2): "sh", ("store", 4): "sw", ("store", 8): "sd",
}  # fmt: skip
ACCESSES = {access: RAM + 8 * index for index, access in enumerate(INSTRUCTIONS)}
GUEST = {
    **{at: f"{INSTRUCTIONS[access]} a1, 0(a0)" for access, at in ACCESSES.items()},
    HANDLER: "j .",
    STORM: "again: add a3, a3, a4; sh a3, 0(a2); sw a1, 0(a0); sd a6, 0(a5); j again",
    RETURN: "mret",
}

PATIENCE = 0.8  # CPU seconds that one operation may take: the longest has 128 chains of 128 descriptors
HANG = 10.0  # CPU seconds after which an operation is interrupted
KEPT = 1 << 20  # bytes of JSON that a device's state may come to
NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("<QIHH")

Range = tuple[int, int]  # from the first address to the one behind the last


class Hang(Exception):
    """An operation was interrupted after `HANG`."""


# ---- what the guest declared ---------------------------------------------------------------------------------------


@dataclass
class Declared:
    """What the queues' rings say now: what may be written, the readable parts of chains, and where the rings are."""

    writable: list[Range] = field(default_factory=list)
    chains: list[list[Range]] = field(default_factory=list)  # the readable parts
    structures: list[Range] = field(default_factory=list)

    def add(self, ram: Ram, queue: Mapping[str, Any]) -> None:
        """Read one queue's rings, as its `save()` describes it: whole chains alone count (section 2.7.5)."""
        size = queue["size"]
        table, available, used = (int(queue[name], 16) for name in ("descriptors", "available", "used"))
        self.structures += [(table, table + 16 * size), (available, available + 6 + 2 * size)]
        self.writable.append((used, used + 6 + 8 * size))
        for head in set(struct.unpack(f"<{size}H", ram.read(available + 4, 2 * size))):
            chain = self._chain(ram, table, size, head)
            if chain is not None:
                self.chains.append(chain[0])
                self.writable += chain[1]

    def _chain(self, ram: Ram, table: int, size: int, head: int) -> tuple[list[Range], list[Range]] | None:
        if head >= size:
            return None
        address, length, flags, _ = DESCRIPTOR.unpack(ram.read(table + 16 * head, 16))
        count = size
        if flags & INDIRECT:
            if flags & NEXT or not length or length % 16 or not _in_ram(address, length):
                return None
            self.structures.append((address, address + length))
            table, count, head = address, length // 16, 0
        readable: list[Range] = []
        writable: list[Range] = []
        for _ in range(size):
            if head >= count:
                return None
            address, length, flags, head = DESCRIPTOR.unpack(ram.read(table + 16 * head, 16))
            if flags & INDIRECT or not _in_ram(address, length) or (writable and not flags & WRITE):
                return None
            (writable if flags & WRITE else readable).append((address, address + length))
            if not flags & NEXT:
                return readable, writable
        return None

    def allows(self, start: int, end: int) -> bool:
        return any(first <= start and end <= last for first, last in self.writable)

    def overlaps(self, start: int, end: int) -> bool:
        return any(first < end and start < last for first, last in self.structures)


def _in_ram(address: int, length: int) -> bool:
    return address >= RAM and address + length <= RAM_END


# ---- RAM and disk under watch ----------------------------------------------------------------------------------------


class Shadow:
    """All of RAM as it must be; pages that nobody wrote are zeros."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def write(self, address: int, data: bytes) -> None:
        at = address - RAM
        while data:
            page, offset = divmod(at, PAGE)
            piece = data[: PAGE - offset]
            self.pages.setdefault(page, bytearray(PAGE))[offset : offset + len(piece)] = piece
            at, data = at + len(piece), data[len(piece) :]

    def difference(self, view: memoryview) -> int | None:
        """The address of the first byte of RAM that is not what it must be."""
        touched: dict[int, bytearray] = {}
        for page, content in self.pages.items():
            mib, inside = divmod(page * PAGE, MIB)
            touched.setdefault(mib, bytearray(MIB))[inside : inside + PAGE] = content
        zeros = bytes(MIB)
        for mib in range(RAM_SIZE // MIB):
            expected = touched.get(mib, zeros)
            found = bytes(view[mib * MIB : (mib + 1) * MIB])
            if found != expected:
                return RAM + mib * MIB + next(at for at in range(MIB) if found[at] != expected[at])
        return None

    def follow(self, view: memoryview) -> None:
        """Take RAM as it is for right: the guest itself wrote something."""
        zeros = bytes(PAGE)
        pages = {page: bytearray(view[page * PAGE : (page + 1) * PAGE]) for page in range(RAM_SIZE // PAGE)}
        self.pages = {page: content for page, content in pages.items() if content != zeros}


@functools.cache
def _blank_ram() -> int:
    """A file of zeros for every board's RAM: reading all of it costs the host less than memory without a file."""
    descriptor = os.memfd_create("blank")
    os.ftruncate(descriptor, RAM_SIZE)
    return descriptor


class Watch:
    """Stands between `Ram` and the core: the board sees each write of a device before it happens."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.view, self.read = board.machine.cpu.view, board.machine.cpu.read

    def write(self, address: int, data: bytes) -> None:
        self._board.written(address, bytes(data))
        self._board.machine.cpu.write(address, data)


class WatchedDisk:
    """A disk that checks what it is asked and, while `failing`, sometimes fails as a host's disk does."""

    size, read_only = CAPACITY, False

    def __init__(self, board: Board) -> None:
        self._board = board
        self.data = bytearray(board.random.randbytes(CAPACITY))
        self.failing = True

    def _fail(self) -> None:
        if self.failing and not self._board.random.randrange(32):
            raise OSError("the disk fails, as disks do")

    def _inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > CAPACITY:
            self._board.faults.append(f"the disk is asked for {length} bytes at {offset}, outside of it")

    def read(self, offset: int, length: int) -> bytes:
        self._inside(offset, length)
        self._fail()
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._inside(offset, len(data))
        if not self._board.asked_to_write(offset, data):
            self._board.faults.append(f"the disk is written at {offset}, which no request asks for")
        self._fail()
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self._fail()


# ---- operations ------------------------------------------------------------------------------------------------------


class Operation(Protocol):
    """Something that a hostile guest, or its host, does."""

    def on(self, board: Board) -> None: ...


@dataclass(frozen=True)
class Store:
    """To a device; by an instruction of the guest's, or straight on the bus."""

    address: int
    size: int
    value: int
    guest: bool = False

    def on(self, board: Board) -> None:
        board.access("store", self.address, self.size, self.value, self.guest)

    def __repr__(self) -> str:
        return f"Store({self.address:#x}, {self.size}, {self.value:#x}, {self.guest})"


@dataclass(frozen=True)
class Load:
    """From a device."""

    address: int
    size: int
    guest: bool = False

    def on(self, board: Board) -> None:
        board.access("load", self.address, self.size, 0, self.guest)

    def __repr__(self) -> str:
        return f"Load({self.address:#x}, {self.size}, {self.guest})"


@dataclass(frozen=True)
class Poke:
    """The guest writes its own memory."""

    address: int
    data: bytes

    def on(self, board: Board) -> None:
        board.poke(self.address, self.data)

    def __repr__(self) -> str:
        return f"Poke({self.address:#x}, bytes.fromhex('{self.data.hex()}'))"


@dataclass(frozen=True)
class Host:
    """The host's side of a stream does something: `what` is a key of `HOST`."""

    what: str
    value: int

    def on(self, board: Board) -> None:
        HOST[self.what](board.machine, self.value)


def _counting_up(first: int) -> bytes:
    """Bytes that a guest who lets them be written over its ring's index has chosen well."""
    return struct.pack("<40H", *range(first, first + 40))


HOST: dict[str, Any] = {
    "agent sends": lambda machine, value: machine.agent.send(bytes(range(1, 256)) * (value % 40)),
    "console sends": lambda machine, value: machine.console.send(_counting_up(value & 0xFF)),
    "uart sends": lambda machine, value: machine.uart.send(bytes(value % 40)),
    "agent pauses": lambda machine, value: setattr(machine.agent, "paused", bool(value & 1)),
    "console pauses": lambda machine, value: setattr(machine.console, "paused", bool(value & 1)),
    "resizes": lambda machine, value: machine._devices["virtio0"].resize(value & 0xFFFF, value >> 3),
    "serves": lambda machine, value: machine.service(),
}


@dataclass(frozen=True)
class Storm:
    """A slice of a guest that only counts an index up, notifies, and stores to a device; or is only interrupted."""

    counter: int  # where the 16-bit index is
    step: int
    notify: int
    queue: int
    address: int
    value: int
    interrupts: bool

    def on(self, board: Board) -> None:
        board.storm(self)


# ---- the board -------------------------------------------------------------------------------------------------------


class Board:
    """The machine, its twin that takes back every saved state, and what went wrong so far: `faults`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.faults: list[str] = []
        self.requests = 0
        self.heard = b""  # the last bytes that came out of a stream
        self.shadow = Shadow()
        self.disk = WatchedDisk(self)
        self.adopt(Machine(RAM_SIZE, self.disk, ram_fd=_blank_ram()))
        self.twin = Machine(RAM_SIZE, self.disk)
        self._written = dict.fromkeys(VIRTIO, (0,) * 6)
        self._declared: Declared | None = None
        self._reread = False  # the rings were written: what they declare has to be read again
        self._code_hit = False
        self._lay_code()

    def adopt(self, machine: Machine) -> None:
        """Watch `machine` from now on; its RAM must be what the shadow says."""
        self.machine = machine
        machine.ram._memory = Watch(self)
        machine.uart.output = machine.console.output = machine.agent.output = self._hear

    def _hear(self, data: bytes) -> None:
        self.heard = (self.heard + data[-64:])[-64:]

    def _lay_code(self) -> None:
        for at, source in GUEST.items():
            self.poke(at, assemble(source, at).code)
        self.machine.cpu.set_csr(0x305, HANDLER)  # mtvec
        self._code_hit = False

    def play(self, operation: Operation) -> None:
        """Do it, and look at every promise. Faults are added to `faults`, with the operation."""
        known = len(self.faults)
        self._declared = None
        start = time.thread_time()
        try:
            with patch.object(entropy, "os", SimpleNamespace(urandom=self.random.randbytes)), hurried(HANG, Hang):
                operation.on(self)
            self._check_state(operation)
        except Exception as error:  # the point of it all: nothing may be raised, so anything is a finding
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            line = f" at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
            self.faults.append(f"{type(error).__name__}: {error}{line}")
        if (took := time.thread_time() - start) > PATIENCE:
            self.faults.append(f"it took {took:.1f} s")
        if self.machine.stopped is not None:  # by the finisher: here the guest goes on
            self.machine.stopped = None
            self.machine.cpu.run(0)
        if self._code_hit:
            self._lay_code()
        self.faults[known:] = [f"{operation}: {fault}" for fault in self.faults[known:]]

    # What operations are made of.

    def access(self, kind: str, address: int, size: int, value: int, guest: bool) -> None:
        """Load or store; the access must fault exactly where no device answers, or the guest's is misaligned."""
        answered = any(base <= address and address + size <= base + length for base, length in DEVICES.values())
        if guest:
            refused = self._guest_access(kind, address, size, value)
            answered &= address % size == 0
        else:
            try:
                self.machine.bus.read(address, size) if kind == "load" else self.machine.bus.write(address, size, value)
                refused = False
            except AccessFault:
                refused = True
        if refused is answered and not self._code_hit:
            self.faults.append("a fault where a device answers" if refused else "no fault where nothing answers")

    def _guest_access(self, kind: str, address: int, size: int, value: int) -> bool:
        """One instruction in machine mode; whether it took the access fault that it should where none answers."""
        cpu = self.machine.cpu
        cpu.pc, cpu.priv = ACCESSES[kind, size], 3
        cpu.set_x(10, address)
        cpu.set_x(11, value)
        cpu.run(1)
        if self._code_hit:  # the instruction was overwritten while its access was under way, and anything may have run
            self.shadow.follow(self.machine.ram.data)
            return False
        if cpu.pc != HANDLER:
            return False
        cause, wrong = cpu.csr(0x342), cpu.csr(0x343)
        first = RAM_END if RAM <= address < RAM_END else address  # of the bytes that are not RAM
        if cause != (5 if kind == "load" else 7) or wrong != first:
            self.faults.append(f"mcause {cause}, mtval {wrong:#x}")
        return True

    def poke(self, address: int, data: bytes) -> None:
        """The guest writes its own memory, its rings perhaps."""
        self._declared = None
        self._code_hit |= address < RAM + PAGE
        self.shadow.write(address, data)
        self.machine.cpu.write(address, data)

    def storm(self, storm: Storm) -> None:
        """Run a slice of the guest's loop; it writes its own index, so RAM is taken as it is there."""
        cpu = self.machine.cpu
        for number, value in (
            (10, storm.notify), (11, storm.queue), (12, storm.counter), (13, 0), (14, storm.step), (15, storm.address),
            (16, storm.value),
        ):  # fmt: skip
            cpu.set_x(number, value)
        cpu.pc, cpu.priv = STORM, 3
        if storm.interrupts:
            cpu.set_csr(0x305, RETURN)
            cpu.set_csr(0x304, 0x888)  # mie: software, timer, external
            cpu.set_csr(0x300, 0x1888)  # mstatus: MPP is M, MPIE, MIE
        self.machine.slice(0.001)
        cpu.set_csr(0x300, 0x1800)
        cpu.set_csr(0x304, 0)
        cpu.set_csr(0x305, HANDLER)
        if self._code_hit:  # and so ran code that a device wrote
            self.shadow.follow(self.machine.ram.data)
        else:
            self.shadow.write(storm.counter, self.machine.ram.read(storm.counter, 2))
            self._code_hit = storm.counter < RAM + PAGE

    # What the watch sees.

    def _now_declared(self) -> Declared:
        if self._declared is None or self._reread:
            declared = self._declared or Declared()
            for name in VIRTIO:
                for queue in self.machine._devices[name].save()["queues"]:
                    if queue["enabled"]:
                        declared.add(self.machine.ram, queue)
            self._declared, self._reread = declared, False
        return self._declared

    def written(self, address: int, data: bytes) -> None:
        """A device is about to write RAM."""
        end = address + len(data)
        declared = self._now_declared()
        if data and not declared.allows(address, end):
            self.faults.append(f"a device writes {len(data)} bytes at {address:#x}, which no chain lets it")
        self.shadow.write(address, data)
        self._reread |= declared.overlaps(address, end)
        self._code_hit |= address < RAM + PAGE

    def asked_to_write(self, offset: int, data: bytes) -> bool:
        """Whether a block request (virtio 1.2, section 5.2.6) that stands in the rings says so."""
        for readable in self._now_declared().chains:
            request = b"".join(self.machine.ram.read(start, end - start) for start, end in readable)
            if len(request) < 16:
                continue
            kind, _, sector = struct.unpack_from("<IIQ", request)
            inside = offset - sector * SECTOR
            if kind == 1 and inside >= 0 and request[16 + inside :][: len(data)] == data:
                return True
        return False

    # Promises.

    def _check_state(self, operation: Operation) -> None:
        """Devices that the operation may have changed can be saved and restored; their requests are counted."""
        for name in self._touched(operation):
            device = self.machine._devices[name]
            text = json.dumps(device.save())
            if len(text) > KEPT:
                self.faults.append(f"{name} keeps {len(text)} bytes")
            twin = self.twin._devices[name]
            twin.restore(json.loads(text))
            if (again := json.dumps(twin.save())) != text:
                self.faults.append(f"{name} is saved as {text}, restored as {again}")
            for what, value, restored in _differing(device, twin):
                self.faults.append(f"{name}: {what} is {value}, restored it is {restored}")
            if name in VIRTIO:
                self._count(name, tuple(queue["written"] for queue in json.loads(text)["queues"]))

    def _touched(self, operation: Operation) -> Iterator[str]:
        if isinstance(operation, Store | Load):
            for name, (base, length) in DEVICES.items():
                if base <= operation.address < base + length:
                    yield name
        elif not isinstance(operation, Poke):
            yield from DEVICES if isinstance(operation, Storm) else ("virtio0", "uart")

    def _count(self, name: str, written: tuple[int, ...]) -> None:
        """The used rings' indexes wrap; one that is zero was reset, or can wait for the next request to be counted."""
        before = self._written[name]
        self.requests += sum(now - then & 0xFFFF for now, then in zip(written, before, strict=False) if now)
        self._written[name] = written

    def untouched(self) -> str | None:
        """None if RAM is what the guest and the devices, through the watch, have made of it."""
        at = self.shadow.difference(self.machine.ram.data)
        return None if at is None else f"RAM at {at:#x} was written behind the watch's back"


UNSAVED = {  # attributes that a restored device need not have from the one that was saved, and why
    "_offered": "read again from the available ring",
    "_busy": "every queue is looked at once",
    "_output": "of the PLIC: what the core was told last, which is told again",
    "_paused": "the host's",
    "_printed": "of the UART: flushed when it is saved",
}
WHILE_ENABLED = (
    "_descriptors",
    "_available",
    "_used",
    "event_index",
)  # attributes that mean nothing in a disabled queue


def _differing(device: Any, twin: Any) -> Iterator[tuple[str, Any, Any]]:
    """Attributes of a device, its queues and ports that were not restored: what `save` forgets shows here alone."""
    for name, value in _attributes(device):
        other = getattr(twin, name)
        if isinstance(value, list) and value and not isinstance(value[0], int):
            for index, (part, other_part) in enumerate(zip(value, other, strict=True)):
                for inner, mine, its in _differing(part, other_part):
                    yield f"{name}[{index}].{inner}", mine, its
        elif isinstance(value, bool | int | str | bytes | bytearray | list | deque) and value != other:
            yield name, value, other


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    disabled = getattr(owner, "enabled", True) is False
    for name in getattr(type(owner), "__slots__", None) or vars(owner):
        if name not in UNSAVED and not (disabled and name in WHILE_ENABLED):
            yield name, getattr(owner, name)
