"""The target `hostile` of the proof: it finds nothing in devices as they are, and notices faults planted in them."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.proof import hostile, hostile_board
from tests.proof.hostile_board import DEVICES, RAM, Board, Load, Operation, Poke, Store, Storm
from tests.proof.hostile_guest import operations
from tests.proof.pieces import Form
from tests.proof.targets import TARGETS
from vpod import machine
from vpod.bus import AccessFault, Bus
from vpod.devices.plic import Plic
from vpod.devices.syscon import Syscon
from vpod.devices.virtio import console, queue
from vpod.devices.virtio.block import Block
from vpod.devices.virtio.entropy import Entropy
from vpod.devices.virtio.mmio import VirtioMmio
from vpod.devices.virtio.queue import Queue, QueueBroken

TABLE, AVAILABLE, USED, BUFFER = RAM + 0x1_0000, RAM + 0x1_2000, RAM + 0x1_3000, RAM + 0x6_0000
NEXT, WRITE = 1, 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault is told at once: a hang is called one soon, and nobody looks for the smallest session."""
    monkeypatch.setattr(hostile_board, "HANG", 1.0)
    monkeypatch.setattr(hostile, "SEARCH", 0.0)
    monkeypatch.setattr(hostile, "SHOWN", 1)


def offered(device: str, number: int, features: int, *chain: tuple[int, int, int]) -> list[Operation]:
    """What a driver does to offer one chain, at descriptor 0, of parts of address, length and flags."""
    rings = ((0x80, TABLE), (0x90, AVAILABLE), (0xA0, USED))
    agreed = ((0x70, 0), (0x70, 3), (0x20, features), (0x24, 1), (0x20, 1), (0x70, 11))
    steps = (*agreed, (0x30, number), (0x38, 128), *rings, (0x44, 1), (0x70, 15))
    described = b"".join(
        struct.pack("<QIHH", address, length, flags | NEXT * (index + 1 < len(chain)), index + 1)
        for index, (address, length, flags) in enumerate(chain)
    )
    pokes = [Poke(TABLE, described), Poke(AVAILABLE, struct.pack("<HHH", 0, 1, 0))]
    return [*pokes, *(Store(DEVICES[device][0] + register, 4, value) for register, value in steps)]


def storm(device: str, number: int) -> Storm:
    registers = DEVICES[device][0]
    return Storm(AVAILABLE + 2, 1, registers + 0x50, number, registers + 0x100, 0, interrupts=False)


def test_a_real_piece_finds_nothing_and_says_how_much_it_did() -> None:
    outcome = hostile.run(seed=1, first=0, sessions=3)
    assert outcome.differences == ()
    assert outcome.counts["operations"] == 3 * hostile.LENGTH and outcome.counts["requests"] > 20


def test_a_piece_depends_on_its_arguments_alone() -> None:
    assert operations("1/2", 600) == operations("1/2", 600) != operations("1/3", 600)
    assert hostile.run(seed=3, first=5, sessions=1) == hostile.run(seed=3, first=5, sessions=1)


@pytest.mark.parametrize("form", ["short", "long"])
def test_the_pieces_come_to_what_the_form_asks_for(form: Form) -> None:
    sessions = [piece.arguments for piece in hostile.pieces(form, 1) if "sessions" in piece.arguments]
    played = [set(range(int(a["first"]), int(a["first"]) + int(a["sessions"]))) for a in sessions]
    assert not any(one & other for one, other in itertools.combinations(played, 2))
    least = TARGETS["hostile"].least.get(form, {}).get("operations", {"short": 20_000, "long": 2_000_000}[form])
    assert hostile.LENGTH * sum(map(len, played)) >= least


def test_the_sweep_reaches_every_byte_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[tuple[str, int, int]] = set()

    def remember(board: Board, operation: Operation) -> None:
        assert isinstance(operation, Load | Store)
        reached.add((type(operation).__name__, operation.address, operation.size))

    monkeypatch.setattr(Board, "play", remember)
    hostile.swept(1, ["uart"], 1)
    base, length = DEVICES["uart"]
    wanted = {
        (kind, base + at, size) for kind in ("Load", "Store") for at in range(-8, length + 8) for size in (1, 2, 4, 8)
    }
    assert reached == wanted


# Planted faults: each is what a device could do wrong, and the words with which the target tells it.


def _walk_without_bound(self: Queue, table: int, count: int, index: int) -> tuple[list[Any], list[Any]]:
    readable: list[tuple[int, int]] = []
    writable: list[tuple[int, int]] = []
    while True:
        if index >= count:
            raise QueueBroken("outside")
        address, length, flags, index = queue.DESCRIPTOR.unpack_from(self._data, table + 16 * index)
        if flags & queue.INDIRECT or (writable and not flags & WRITE):
            raise QueueBroken("no chain")
        try:
            offset = self._ram.offset(address, length)
        except AccessFault as fault:
            raise QueueBroken("a buffer") from fault
        if len(readable) + len(writable) < 1000:
            (writable if flags & WRITE else readable).append((offset, length))
        if not flags & NEXT:
            return readable, writable


def _fills_one_byte_more(self: Entropy, index: int) -> bool:
    while (chain := self.queues[index].pop()) is not None:
        for offset, length in chain[2]:
            self.ram.write(self.ram.base + offset, os.urandom(min(length, 64) + 1))
        self.queues[index].push(chain[0], 0)
    return False


def _makes_room_first(self: Queue, table: int, count: int, index: int, original: Any = Queue._walk) -> Any:
    if index < count:
        bytearray(queue.DESCRIPTOR.unpack_from(self._data, table + 16 * index)[1])
    return original(self, table, count, index)


def _pushes_past_the_ring(self: Queue, head: int, written: int) -> None:
    at = self._used + queue.RING_HEADER + 8 * self._written
    self._ram.write(self._ram.base + at, queue.USED.pack(head, written))
    self._written = self._written + 1 & 0xFFFF


def _sees_no_end_of_the_disk(self: Block, *rest: Any, original: Callable[..., None] = Block.__init__) -> None:
    original(self, *rest)
    self._sectors = 1 << 60


def _reads_as_if_it_were_a_table(self: VirtioMmio, offset: int, size: int) -> int:
    return {0: 0x7472_6976, 0x70: self._status, 0x44: 0}[offset]


def _keeps_its_queues(self: VirtioMmio) -> None:
    self._status = self._driver_features = self._interrupt_status = self._busy = self._queue_select = 0
    self._features_select = [0, 0]


def _forgets_where_it_was(self: Queue, original: Callable[..., Any] = Queue.save) -> Any:
    return original(self) | {"next": 0}


def _takes_any_width(self: Bus, address: int, size: int, original: Any = Bus._find) -> Any:
    return original(self, address, 1)


def _claims_for_ever(self: Plic, context: int, source: int) -> None:
    return


Plant = tuple[Any, str, Any, str]
PLANTED: dict[str, Plant] = {
    "follows NEXT without a bound": (Queue, "_walk", _walk_without_bound, ""),
    "fills a byte more than there is": (Entropy, "process", _fills_one_byte_more, "no chain lets it"),
    "believes lengths": (Queue, "_walk", _makes_room_first, "MemoryError"),
    "pushes past the used ring": (Queue, "push", _pushes_past_the_ring, "no chain lets it"),
    "sees no end of the disk": (Block, "__init__", _sees_no_end_of_the_disk, "outside of it"),
    "knows some registers only": (VirtioMmio, "read", _reads_as_if_it_were_a_table, "KeyError"),
    "keeps its queues over a reset": (VirtioMmio, "_reset", _keeps_its_queues, ""),
    "saves less than it has": (Queue, "save", _forgets_where_it_was, "restored it is 0"),
    "does not wrap its answers": (Bus, "_find", _takes_any_width, "no fault where nothing answers"),
    "never completes an interrupt": (Plic, "_complete", _claims_for_ever, "after a reset"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, fault, words = PLANTED[name]
    monkeypatch.setattr(owner, attribute, fault)
    outcome = hostile.run(seed=1, first=0, sessions=40)
    assert outcome.differences, f"a device that {name} goes unnoticed"
    assert words in outcome.differences[0]


def test_a_device_that_writes_without_anybody_seeing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with a pointer into RAM could."""

    def write(self: Syscon, offset: int, size: int, value: int) -> None:
        board.machine.cpu.write(RAM + 0x123_4567, b"!")

    monkeypatch.setattr(Syscon, "write", write)
    board = Board(seed=1)
    board.play(Store(DEVICES["syscon"][0], 4, 0))
    assert board.faults == [] and "0x81234567" in (board.untouched() or "")


def test_a_loop_that_is_followed_for_ever_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Poke(TABLE, struct.pack("<QIHH", BUFFER, 1, WRITE | NEXT, 0))
    session = [*offered("virtio1", 0, 0, (BUFFER, 1, WRITE)), loop, Store(DEVICES["virtio1"][0] + 0x50, 4, 0)]
    assert hostile.play(session, thorough=False)[0] == []
    monkeypatch.setattr(Queue, "_walk", _walk_without_bound)
    (fault, *_), _ = hostile.play(session, thorough=False)
    assert "Hang" in fault


SPLINTERS = [(BUFFER, 1, WRITE)] * 128


def test_a_slice_that_a_notifying_guest_holds_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    session = [*offered("virtio1", 0, 0, *SPLINTERS), storm("virtio1", 0)]
    assert hostile.play(session, thorough=False)[0] == []
    monkeypatch.setattr(machine._BoardBus, "write", Bus.write)
    (fault, *_), _ = hostile.play(session, thorough=False)
    assert "Storm" in fault and ("Hang" in fault or "it took" in fault)


def test_messages_that_are_queued_without_end_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """PORT_READY of port 0 is answered with three messages, which this guest never fetches."""
    ready = Poke(BUFFER, struct.pack("<IHH", 0, 3, 1))
    session = [ready, *offered("virtio0", 3, 2, (BUFFER, 8, 0)), storm("virtio0", 3)]
    assert hostile.play(session, thorough=False)[0] == []
    monkeypatch.setattr(console, "MAX_CONTROL", 1 << 60)
    monkeypatch.setattr(machine._BoardBus, "write", Bus.write)
    (fault, *_), _ = hostile.play(session, thorough=False)
    assert "virtio0 keeps" in fault or "Hang" in fault


def test_a_difference_is_shown_by_the_few_operations_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "SEARCH", 30.0)
    monkeypatch.setattr(VirtioMmio, "read", _reads_as_if_it_were_a_table)
    (difference,) = hostile.run(seed=1, first=1, sessions=1).differences
    assert difference.count("\n") <= 4 and "Load(" in difference and "KeyError" in difference
