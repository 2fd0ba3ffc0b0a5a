"""virtio: the transport's registers, the rings as a border, and the three devices behind them."""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_code import assemble
from virtio_driver import (
    BASE,
    EVENT_INDEX,
    FEATURES,
    INDIRECT,
    INDIRECT_FEATURE,
    NEXT,
    RAM_SIZE,
    WRITE,
    Driver,
    Ring,
)

from vpod.devices.virtio.block import Block, BufferDisk, FileDisk
from vpod.devices.virtio.console import Console
from vpod.devices.virtio.entropy import MAX_REQUEST, Entropy
from vpod.devices.virtio.mmio import EmptySlot
from vpod.devices.virtio.queue import MAX_CHAIN, MAX_SIZE
from vpod.machine import Machine

SECTOR = 512
MULTIPORT = 2


def console(ram: Any, line: Any) -> Console:
    return Console(ram, line, ("", "vpod.agent"))


def block(ram: Any, line: Any) -> Block:
    return Block(ram, line, BufferDisk(bytearray(range(256)) * 64))


MAKERS: dict[str, Any] = {"console": console, "entropy": Entropy, "block": block, "empty": EmptySlot}


# The transport.


@pytest.mark.parametrize(("name", "number"), [("console", 3), ("entropy", 4), ("block", 2), ("empty", 0)])
def test_a_device_says_what_it_is(name: str, number: int) -> None:
    driver = Driver(MAKERS[name])
    assert [driver.read(at) for at in (0, 4, 8)] == [0x7472_6976, 2, number]
    driver.write(0x14, 1)
    assert driver.read(0x10) == 1, "VERSION_1"
    driver.write(0x14, 2)
    assert driver.read(0x10) == 0
    assert [driver.read(at) for at in (0xB0, 0xB4, 0xB8, 0xBC)] == [0xFFFF_FFFF] * 4, "no shared memory"


def test_features_that_were_not_offered_are_not_agreed_to() -> None:
    assert Driver(Entropy).read(0x70) == 15
    assert Driver(Entropy, features=FEATURES | 1).read(0x70) & 0x0C == 0
    assert Driver(Entropy, features=0).read(0x70) & 0x0C == 0, "a legacy driver"


def test_a_queue_reports_its_greatest_size_and_others_do_not_exist() -> None:
    driver = Driver(Entropy)
    driver.write(0x30, 0)
    assert driver.read(0x34) == MAX_SIZE and driver.read(0x44) == 1
    for missing in (1, 99, 0xFFFF_FFFF):
        driver.write(0x30, missing)
        driver.write(0x44, 1)
        driver.write(0x50, missing)
        assert driver.read(0x34) == 0 and driver.read(0x44) == 0
    assert not driver.broken


def test_registers_are_words() -> None:
    driver = Driver(Entropy)
    assert driver.device.read(0, 1) == driver.device.read(0, 8) == driver.device.read(2, 4) == 0
    driver.device.write(0x70, 1, 0)
    assert driver.read(0x70) == 15


def test_an_interrupt_lasts_until_it_is_acknowledged() -> None:
    driver = Driver(Entropy)
    assert driver.rings[0].ask(16)
    assert driver.line.level and driver.read(0x60) == 1
    driver.write(0x64, 1)
    assert not driver.line.level and driver.read(0x60) == 0


def test_reset_forgets_everything() -> None:
    driver = Driver(Entropy)
    driver.rings[0].ask(16)
    driver.write(0x70, 0)
    assert driver.read(0x70) == 0 and not driver.line.level
    driver.write(0x30, 0)
    assert driver.read(0x44) == 0
    driver.rings[0].offer(0)
    driver.rings[0].notify()
    assert driver.rings[0].finished() == []


def test_nothing_is_processed_before_the_driver_is_ready() -> None:
    driver = Driver(Entropy)
    driver.negotiate()
    ring = driver.set_up(0)
    assert ring.ask(16) is None
    driver.write(0x70, 15)
    ring.notify()
    assert len(ring.finished()) == 1


# The rings.


def test_a_chain_may_be_in_an_indirect_table() -> None:
    driver = Driver(block, features=FEATURES | INDIRECT_FEATURE)
    ring = driver.rings[0]
    table, header, data = BASE + 0x9_0000, BASE + 0x9_1000, BASE + 0x9_2000
    driver.memory.write(header, struct.pack("<IIQ", 0, 0, 1))
    ring.store(table, "<QIHH", header, 16, NEXT, 1)
    ring.store(table + 16, "<QIHH", data, SECTOR, NEXT | WRITE, 2)
    ring.store(table + 32, "<QIHH", data + SECTOR, 1, WRITE, 0)
    ring.describe(5, table, 48, INDIRECT)
    ring.offer(5)
    ring.notify()
    assert ring.finished() == [(5, SECTOR + 1)]
    assert driver.memory.read(data, SECTOR + 1) == bytes(range(256)) * 2 + b"\0"


HEAP = BASE + 0x9_0000
LIES: dict[str, Any] = {
    "head outside the table": lambda ring: ring.offer(8),
    "next outside the table": lambda ring: (ring.describe(0, HEAP, 8, NEXT | WRITE, 8), ring.offer(0)),
    "a loop": lambda ring: (ring.describe(0, HEAP, 8, NEXT | WRITE, 0), ring.offer(0)),
    "a long loop": lambda ring: (
        [ring.describe(i, HEAP, 8, NEXT | WRITE, (i + 1) % 8) for i in range(8)],
        ring.offer(0),
    ),
    "below RAM": lambda ring: (ring.describe(0, BASE - 1, 8, WRITE), ring.offer(0)),
    "above RAM": lambda ring: (ring.describe(0, BASE + RAM_SIZE - 7, 8, WRITE), ring.offer(0)),
    "address wraps": lambda ring: (ring.describe(0, (1 << 64) - 4, 8, WRITE), ring.offer(0)),
    "4 GiB": lambda ring: (ring.describe(0, HEAP, 0xFFFF_FFFF, WRITE), ring.offer(0)),
    "4 GiB in a chain": lambda ring: (
        ring.describe(0, HEAP, 8, WRITE | NEXT, 1),
        ring.describe(1, HEAP, 0xFFFF_FFFF, WRITE),
        ring.offer(0),
    ),
    "readable after writable": lambda ring: (
        ring.describe(0, HEAP, 8, WRITE | NEXT, 1),
        ring.describe(1, HEAP, 8),
        ring.offer(0),
    ),
    "more than the queue holds": lambda ring: ring.store(ring.available + 2, "<H", 9),
    "index gone back": lambda ring: ring.store(ring.available + 2, "<H", 0xFFFF),
    "indirect and next": lambda ring: (ring.describe(0, HEAP, 16, INDIRECT | NEXT, 1), ring.offer(0)),
    "indirect of no whole entry": lambda ring: (ring.describe(0, HEAP, 24, INDIRECT), ring.offer(0)),
    "indirect of nothing": lambda ring: (ring.describe(0, HEAP, 0, INDIRECT), ring.offer(0)),
    "indirect outside RAM": lambda ring: (ring.describe(0, BASE + RAM_SIZE, 16, INDIRECT), ring.offer(0)),
    "indirect in indirect": lambda ring: (
        ring.store(HEAP, "<QIHH", HEAP, 16, INDIRECT, 0),
        ring.describe(0, HEAP, 16, INDIRECT),
        ring.offer(0),
    ),
    "indirect in a chain": lambda ring: (
        ring.describe(0, HEAP, 8, NEXT | WRITE, 1),
        ring.describe(1, HEAP, 16, INDIRECT),
        ring.offer(0),
    ),
    "an enormous indirect table": lambda ring: (ring.describe(0, BASE, 0xFFFF_FFF0, INDIRECT), ring.offer(0)),
    "straddling the end of RAM in a chain": lambda ring: (
        ring.describe(0, HEAP, 8, WRITE | NEXT, 1),
        ring.describe(1, BASE + RAM_SIZE - 8, 16, WRITE),
        ring.offer(0),
    ),
    "loop in an indirect table": lambda ring: (
        ring.store(HEAP, "<QIHH", HEAP, 8, NEXT | WRITE, 0),
        ring.describe(0, HEAP, 1 << 16, INDIRECT),
        ring.offer(0),
    ),
    "next outside an indirect table": lambda ring: (
        ring.store(HEAP, "<QIHH", HEAP, 8, NEXT | WRITE, 1),
        ring.describe(0, HEAP, 16, INDIRECT),
        ring.offer(0),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_ring_stops_the_device_until_it_is_reset(lie: str) -> None:
    driver = Driver(Entropy, features=FEATURES | INDIRECT_FEATURE)
    ring = driver.rings[0]
    LIES[lie](ring)
    ring.notify()
    assert driver.broken and driver.read(0x60) & 2 and driver.line.level and ring.finished() == []
    ring.store(ring.available + 2, "<H", 0)
    assert ring.ask(16) is None, "a broken device does nothing"
    driver.memory.data[:] = bytes(RAM_SIZE)
    driver.start(None)
    assert not driver.broken and len(driver.rings[0].ask(16) or b"") == 16


MISPLACED = [
    (0x38, 0),
    (0x38, 3),
    (0x38, 2 * MAX_SIZE),
    (0x80, 0),
    (0x80, BASE + 8),
    (0x84, 1),
    (0x90, BASE + 1),
    (0x90, BASE + RAM_SIZE - 4),
    (0xA0, BASE + 2),
    (0xA0, BASE + RAM_SIZE - 8),
    (0xA4, 0xFFFF_FFFF),
]


@pytest.mark.parametrize(("register", "value"), MISPLACED)
def test_rings_must_be_aligned_in_ram_and_of_a_legal_size(register: int, value: int) -> None:
    driver = Driver(Entropy)
    driver.negotiate()
    ring = driver.set_up(0)
    driver.write(0x44, 0)
    driver.write(register, value)
    driver.write(0x44, 1)
    assert driver.broken and driver.read(0x44) == 0
    assert ring.ask(16) is None


def test_a_queue_in_use_cannot_be_moved() -> None:
    driver = Driver(Entropy)
    driver.write(0x30, 0)
    driver.write(0x80, 0xFFFF_FFFF)
    driver.write(0x38, 3)
    assert driver.rings[0].ask(16) and not driver.broken


def test_zero_lengths_are_allowed() -> None:
    ring = Driver(Entropy).rings[0]
    assert ring.ask(0) == b"" and ring.ask(0, 4, 0) is not None


def test_indexes_wrap() -> None:
    driver = Driver(Entropy, size=2)
    ring = driver.rings[0]
    for _ in range(70_000):
        assert len(ring.ask(1) or b"") == 1
    assert not driver.broken


def test_event_index_suppresses_interrupts_that_nobody_waits_for() -> None:
    driver = Driver(Entropy, features=FEATURES | EVENT_INDEX, size=8)
    ring = driver.rings[0]
    for request in range(20):
        ring.store(ring.available + 4 + 2 * 8, "<H", 10)  # interrupt me after the eleventh
        ring.ask(1)
        assert driver.line.rises == (request >= 10)
        assert ring.fetch(ring.used + 4 + 8 * 8, "<H") == (request + 1,), "notify me of the next buffer"


def test_without_event_index_the_drivers_flag_suppresses_them() -> None:
    driver = Driver(Entropy)
    ring = driver.rings[0]
    ring.store(ring.available, "<H", 1)
    ring.ask(1)
    assert driver.line.rises == 0
    ring.store(ring.available, "<H", 0)
    ring.ask(1)
    assert driver.line.rises == 1


pieces = st.tuples(
    st.sampled_from([0, BASE, HEAP, BASE + 0x8000, BASE + 0xA000, BASE + RAM_SIZE - 16, 1 << 63, (1 << 64) - 1]),
    st.sampled_from([0, 1, 16, 48, 512, 4096, MAX_CHAIN, MAX_CHAIN + 1, 0xFFFF_FFFF]),
    st.integers(0, 7),
    st.integers(0, 9),
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["console", "entropy", "block"]),
    st.lists(pieces, min_size=8, max_size=8),
    st.lists(st.integers(0, 9), max_size=8),
    st.binary(max_size=64),
    st.lists(st.tuples(st.integers(0, 0x1FF), st.sampled_from([1, 2, 4, 8]), st.integers(0, 1 << 32)), max_size=10),
)
def test_whatever_the_guest_writes_the_device_survives(
    name: str, table: list[Any], heads: list[int], junk: bytes, accesses: list[Any]
) -> None:
    driver = Driver(
        MAKERS[name], features=FEATURES | INDIRECT_FEATURE | EVENT_INDEX | (MULTIPORT * (name == "console"))
    )
    driver.memory.write(HEAP, junk)
    for ring in driver.rings:
        for index, (address, length, flags, following) in enumerate(table):
            ring.describe(index, address, length, flags, following)
        ring.offer(*heads)
        ring.notify()
    for offset, size, value in accesses:
        driver.device.write(offset, size, value & (1 << 8 * size) - 1)
        driver.device.read(offset, size)
    for _ in range(100):
        if not driver.device.service():
            break
    else:
        pytest.fail("the device never finishes")
    state = json.loads(json.dumps(driver.device.save()))
    twin = MAKERS[name](driver.device.ram, driver.device._irq)
    twin.restore(state)
    assert twin.save() == state


# Drivers that break the rules of the transport.


def test_without_features_agreed_to_there_is_no_driver() -> None:
    driver = Driver(Entropy)
    driver.write(0x70, 0)
    driver.write(0x70, 4)
    assert driver.read(0x70) == 0, "DRIVER_OK before FEATURES_OK"
    driver.set_up(0)
    driver.write(0x30, 0)
    assert driver.read(0x44) == 0, "nor a queue"
    assert not driver.device.running and driver.rings[0].ask(16) is None


def test_what_was_agreed_to_cannot_be_changed() -> None:
    driver = Driver(Entropy)
    for select in (0, 1, 2, 0xFFFF_FFFF):
        driver.write(0x24, select)
        driver.write(0x20, 0xFFFF_FFFF)
    driver.write(0x70, 8)
    assert driver.read(0x70) == 15 and driver.device.accepted == FEATURES
    assert driver.rings[0].ask(16)


def test_a_queue_that_was_never_set_up_is_notified_in_vain() -> None:
    driver = Driver(Entropy, queues=0)
    before = bytes(driver.memory.data)
    driver.write(0x50, 0)
    assert not driver.broken and bytes(driver.memory.data) == before


def test_a_driver_that_says_it_needs_a_reset_gets_nothing_until_it_resets() -> None:
    driver = Driver(Entropy)
    driver.write(0x70, 0x40)
    assert driver.rings[0].ask(16) is None
    driver.memory.data[:] = bytes(RAM_SIZE)
    driver.start(None)
    assert driver.rings[0].ask(16)


# Requests that change while they are in flight: the console's port is paused, so a chain waits in its queue.


def waiting() -> Terminal:
    terminal = Terminal()
    terminal.agent.paused = True
    assert terminal.transmit.ask(b"said before") is None
    return terminal


def resume(terminal: Terminal) -> None:
    terminal.agent.paused = False
    for _ in range(10):
        if not terminal.device.service():
            return
    pytest.fail("the device never finishes")


def test_a_chain_is_read_when_it_is_taken() -> None:
    terminal = waiting()
    terminal.driver.memory.write(terminal.transmit.heap, b"said after.")
    resume(terminal)
    assert b"".join(terminal.out) == b"said after." and not terminal.driver.broken


LATE_LIES: dict[str, Any] = {
    "descriptor outside RAM": lambda ring: ring.describe(0, BASE + RAM_SIZE, 8),
    "descriptor of 4 GiB": lambda ring: ring.describe(0, BASE, 0xFFFF_FFFF),
    "a loop": lambda ring: ring.describe(0, BASE, 1, NEXT, 0),
    "head outside the table": lambda ring: ring.store(ring.available + 4, "<H", 0xFFFF),
    "index far ahead": lambda ring: ring.store(ring.available + 2, "<H", 0x8000),
}


@pytest.mark.parametrize("lie", LATE_LIES)
def test_a_lie_that_comes_late_is_still_one(lie: str) -> None:
    terminal = waiting()
    LATE_LIES[lie](terminal.transmit)
    resume(terminal)
    assert terminal.driver.broken and terminal.out == [] and terminal.transmit.finished() == []


@pytest.mark.parametrize(("register", "value"), [(0x70, 0), (0x44, 0), (0x70, 0x40)])
def test_a_request_ends_with_its_queue(register: int, value: int) -> None:
    """By a reset, by taking the queue out of use, and by giving the device up."""
    terminal = waiting()
    terminal.driver.write(0x30, 5)
    terminal.driver.write(register, value)
    before = bytes(terminal.driver.memory.data)
    resume(terminal)
    assert terminal.out == [] and bytes(terminal.driver.memory.data) == before


def test_a_queue_that_moves_with_a_request_in_it_is_read_where_it_is_now() -> None:
    terminal = waiting()
    driver, ring = terminal.driver, terminal.transmit
    moved = BASE + 0xE_0000
    driver.memory.write(moved, driver.memory.read(ring.table, 0x4000))
    driver.write(0x30, 5)
    driver.write(0x44, 0)
    for register, place in ((0x80, 0), (0x90, 0x2000), (0xA0, 0x3000)):
        driver.write(register, moved + place)
    driver.memory.write(ring.table, bytes(0x4000))
    driver.write(0x44, 1)
    resume(terminal)
    assert terminal.out == [b"said before"]
    assert driver.memory.read(ring.used, 12) == bytes(12) != driver.memory.read(moved + 0x3000, 12)


# Buffers that are the rings themselves.


def disk_with(*sectors: bytes) -> Any:
    store = b"".join(sector.ljust(SECTOR, b"\0") for sector in sectors)
    return lambda ram, line: Block(ram, line, BufferDisk(bytearray(store)))


def read_over(driver: Driver, target: int, sector: int = 0) -> None:
    """Ask for a sector of the disk at `target`, which the driver should not."""
    ring = driver.rings[0]
    header = HEAP
    driver.memory.write(header, struct.pack("<IIQ", 0, 0, sector))
    ring.describe(0, header, 16, NEXT, 1)
    ring.describe(1, target, SECTOR, NEXT | WRITE, 2)
    ring.describe(2, HEAP + 16, 1, WRITE)
    ring.offer(0)
    ring.notify()


def works_after_a_reset(driver: Driver) -> bool:
    driver.memory.data[:] = bytes(RAM_SIZE)
    driver.start(None)
    return request(driver.rings[0], 0, 0, SECTOR) is not None and not driver.broken


def test_a_request_may_overwrite_its_own_descriptors() -> None:
    """They were read before; the status goes where they said, and the next request is what the disk says."""
    second = struct.pack("<QIHH", BASE + RAM_SIZE, 16, NEXT, 1)
    driver = Driver(disk_with(second))
    ring = driver.rings[0]
    read_over(driver, ring.table)
    assert ring.finished() == [(0, SECTOR + 1)] and driver.memory.read(HEAP + 16, 1) == b"\0"
    ring.offer(0)
    ring.notify()
    assert driver.broken and works_after_a_reset(driver)


@pytest.mark.parametrize("index", [0, 1, 9, 10, 0x8000, 0xFFFF])
def test_a_request_may_overwrite_the_index_that_made_it_available(index: int) -> None:
    driver = Driver(disk_with(struct.pack("<HH", 0, index)))
    read_over(driver, driver.rings[0].available)
    assert driver.broken == (index not in (1, 9)), "nothing more, or the same eight times"
    assert works_after_a_reset(driver)


def test_a_disk_that_makes_its_own_requests_available_is_read_in_bounded_steps() -> None:
    """Each sector holds the index one further, and the header of the next request."""
    driver = Driver(disk_with(*(struct.pack("<HHIIQ", 0, n + 2, 0, 0, n + 1) for n in range(1000))), size=MAX_SIZE)
    ring = driver.rings[0]
    driver.memory.write(HEAP, struct.pack("<IIQ", 0, 0, 0))
    parts = ((HEAP, 16, 0), (ring.available, 4, WRITE), (HEAP, 16, WRITE), (HEAP + 64, SECTOR - 20, WRITE))
    for index, (address, length, flags) in enumerate(parts):
        ring.describe(index, address, length, flags | NEXT, index + 1)
    ring.describe(4, HEAP + 16, 1, WRITE)
    ring.offer(0)
    ring.notify()
    assert ring.fetch(ring.used + 2, "<H") == (MAX_SIZE,) and not driver.broken
    assert driver.device.service() and ring.fetch(ring.used + 2, "<H") == (2 * MAX_SIZE,)
    while driver.device.service():
        pass
    assert ring.fetch(ring.used + 2, "<H") > (1000,), "past the disk's end, where the index no longer changes"


def test_the_used_ring_may_be_the_buffer() -> None:
    driver = Driver(disk_with(b"\xff" * SECTOR))
    ring = driver.rings[0]
    read_over(driver, ring.used)
    assert ring.fetch(ring.used + 2, "<HII") == (1, 0, SECTOR + 1), "the ring is written last"
    assert works_after_a_reset(driver)


def test_the_rings_may_lie_on_each_other() -> None:
    for places in ((0, 0, 0), (0, 4, 4), (0, 0, 8), (8, 0, 0)):
        driver = Driver(Entropy)
        driver.negotiate()
        driver.write(0x30, 0)
        for register, place in zip((0x80, 0x90, 0xA0), places, strict=True):
            driver.write(register, BASE + 0x8000 + place)
        driver.memory.data[0x8000:0x9000] = struct.pack("<QIHH", HEAP, 64, WRITE, 1) * 256
        driver.write(0x44, 1)
        driver.write(0x70, 15)
        for _ in range(300):
            driver.write(0x50, 0)
            driver.device.service()
        driver.memory.data[:] = bytes(RAM_SIZE)
        driver.start(None)
        assert len(driver.rings[0].ask(16) or b"") == 16


def test_code_that_a_disk_brings_over_the_guests_next_instruction_is_what_runs() -> None:
    """Also when the store that asks for it and the instruction behind it were decoded together."""
    code = assemble("li a0, 77\ndone: j done", BASE + 0x1000).code
    guest = Machine(64 << 20, BufferDisk(bytearray(code.ljust(SECTOR, b"\0"))))
    start = 0x1000 - 4
    guest.ram.write(BASE + start, assemble("sw zero, 0x50(a1)\nli a0, 1\ndone: j done").code)
    driver = Driver.of(guest._devices["virtio2"], guest.cpu)
    ring = driver.rings[0]
    ring.store(HEAP, "<IIQ", 0, 0, 0)
    ring.describe(0, HEAP, 16, NEXT, 1)
    ring.describe(1, BASE + 0x1000, SECTOR, NEXT | WRITE, 2)
    ring.describe(2, HEAP + 16, 1, WRITE)
    ring.offer(0)
    guest.cpu.pc = BASE + start
    guest.cpu.set_x(11, 0x1000_3000)
    guest.cpu.run(20)
    assert ring.finished() == [(0, SECTOR + 1)] and guest.cpu.x(10) == 77


# State.


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_restored_device_goes_on_where_it_was(name: str) -> None:
    driver = Driver(MAKERS[name])
    driver.memory.data[0x8000:] = bytes(RAM_SIZE - 0x8000)
    twin = MAKERS[name](driver.device.ram, driver.device._irq)
    twin.restore(json.loads(json.dumps(driver.device.save())))
    assert twin.read(0x70, 4) == 15 and twin.running
    if name == "entropy":
        driver.device = driver.rings[0].device = twin
        assert len(driver.rings[0].ask(32) or b"") == 32


@pytest.mark.parametrize("name", ["console", "entropy", "block"])
def test_a_hostile_state_is_refused_with_the_fields_name(name: str) -> None:
    driver = Driver(MAKERS[name])
    good = json.loads(json.dumps(driver.device.save()))

    def refused(state: Any, field: str) -> None:
        with pytest.raises(ValueError, match=field):
            MAKERS[name](driver.device.ram, driver.device._irq).restore(state)

    for field in good:
        refused({key: value for key, value in good.items() if key != field}, field)
        refused({**good, field: "no"}, field)
        refused({**good, field: [{"size": 1 << 80}]}, field)
    for field, value in (("size", 3), ("descriptors", "ff" * 8), ("next", 1 << 16), ("used", "00" * 9), ("enabled", 1)):
        queues = [{**good["queues"][0], field: value}, *good["queues"][1:]]
        refused({**good, "queues": queues}, r"queues\[0\]")
    refused({**good, "driver_features": "ff" * 8}, "driver_features")


# Entropy.


def test_entropy_is_random_and_bounded() -> None:
    ring = Driver(Entropy).rings[0]
    first, second = ring.ask(64), ring.ask(64)
    assert first and second and first != second and len(first) == 64
    assert len(ring.ask(100_000, 100_000) or b"") == MAX_REQUEST


# Block.


def request(ring: Ring, kind: int, sector: int, *parts: bytes | int) -> bytes | None:
    return ring.ask(struct.pack("<IIQ", kind, 0, sector), *parts, 1)


def failed_read(ring: Ring, sector: int, length: int) -> bool:
    """Ask for `length` bytes from `sector`: whether the status, which stands behind them, is an error."""
    assert request(ring, 0, sector, length) == b"", "nothing was written from the first byte on: section 2.7.8.2"
    return ring.memory.read(ring.heap + 16 + length, 1) == b"\1"


def make_disk(disk: Any) -> tuple[Driver, Ring]:
    driver = Driver(lambda ram, line: Block(ram, line, disk))
    return driver, driver.rings[0]


def test_sectors_are_read_and_written() -> None:
    store = bytearray(range(256)) * 8
    driver, ring = make_disk(BufferDisk(store))
    assert driver.device.read(0x100, 8) == 4, "capacity in sectors"
    assert request(ring, 0, 1, SECTOR) == bytes(range(256)) * 2 + b"\0"
    assert request(ring, 1, 2, b"x" * SECTOR) == b"\0"
    assert store[1024:1536] == b"x" * SECTOR and store[:1024] == bytearray(range(256)) * 4
    assert request(ring, 4, 0) == b"\0"


def test_the_driver_cuts_requests_as_it_likes() -> None:
    _, ring = make_disk(BufferDisk(bytearray(range(256)) * 8))
    header = struct.pack("<IIQ", 0, 0, 1)
    assert ring.ask(header[:3], header[3:], 100, 412 + 1, 0) == bytes(range(256)) * 2 + b"\0"


@pytest.mark.parametrize(
    ("sector", "length"), [(4, 512), (3, 1024), (0, 2560), (1 << 63, 512), ((1 << 64) - 1, 512), (0, 511)]
)
def test_no_request_reaches_past_the_disk(sector: int, length: int) -> None:
    store = bytearray(2048)
    _, ring = make_disk(BufferDisk(store))
    assert failed_read(ring, sector, length)
    assert request(ring, 1, sector, b"x" * length) == b"\1" and store == bytes(2048)


def test_a_read_only_disk_is_never_written() -> None:
    driver, ring = make_disk(BufferDisk(bytes(2048)))
    assert driver.read(0x10) & 1 << 5
    assert request(ring, 1, 0, b"x" * SECTOR) == b"\1"
    assert request(ring, 0, 0, SECTOR) == bytes(SECTOR + 1)


def test_data_in_the_wrong_direction_is_not_moved() -> None:
    store = bytearray(b"d" * 2048)
    driver, ring = make_disk(BufferDisk(store))
    assert request(ring, 0, 0, b"x" * SECTOR) == b"\0", "a read of no bytes"
    assert request(ring, 1, 0, SECTOR) is not None and ring.memory.read(ring.heap + 16 + SECTOR, 1) == b"\0"
    assert store == b"d" * 2048 and not driver.broken
    request(ring, 8, 0, 19)
    assert ring.memory.read(ring.heap + 16, 20) == b"x" * 19 + b"\1", "no room for an identity"


def test_identity_and_unknown_requests() -> None:
    _, ring = make_disk(BufferDisk(bytearray(2048)))
    assert request(ring, 8, 0, 20) == b"vpod".ljust(20, b"\0") + b"\0"
    assert request(ring, 99, 0) == b"\2"


def test_a_chain_that_is_no_request_breaks_the_device() -> None:
    """Too short a header, no status, nothing to read, and a header that the device is to write."""
    for parts in (
        (b"short", 1),
        (struct.pack("<IIQ", 0, 0, 0),),
        (16,),
        (16, SECTOR, 1),
        (struct.pack("<IIQ", 0, 0, 0), 0),
    ):
        driver, ring = make_disk(BufferDisk(bytearray(2048)))
        assert ring.ask(*parts) is None and driver.broken


def test_disks_in_files_and_maps(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"a" * 2048)
    descriptor = os.open(path, os.O_RDWR)
    try:
        _, ring = make_disk(FileDisk(descriptor))
        assert request(ring, 1, 1, b"b" * SECTOR) == request(ring, 4, 0) == b"\0"
        assert path.read_bytes() == b"a" * 512 + b"b" * 512 + b"a" * 1024
        with mmap.mmap(descriptor, 2048) as mapping:
            disk = BufferDisk(mapping)
            _, ring = make_disk(disk)
            assert request(ring, 0, 1, SECTOR) == b"b" * SECTOR + b"\0"
            assert request(ring, 1, 3, b"c" * SECTOR) == request(ring, 4, 0) == b"\0"
            disk._view.release()
        assert path.read_bytes()[1536:] == b"c" * 512
        _, ring = make_disk(FileDisk(descriptor))
        os.truncate(path, 512)
        assert failed_read(ring, 1, SECTOR), "a file that has become shorter is an error, not zeros"
    finally:
        os.close(descriptor)


def test_a_failing_host_disk_is_an_error_status() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1024)
        reader = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        try:
            _, ring = make_disk(FileDisk(reader))
            assert request(ring, 1, 0, b"x" * SECTOR) == b"\1"
        finally:
            os.close(reader)


# Console.


class Terminal:
    """A console brought up by a driver that speaks multiport, with both ports open."""

    def __init__(self, features: int = FEATURES | MULTIPORT) -> None:
        self.driver = Driver(console, features=features)
        device = self.driver.device
        assert isinstance(device, Console)
        self.device = device
        self.port, self.agent = device.ports
        self.out: list[bytes] = []
        self.agent.output = self.out.append
        self.receive, self.transmit = self.driver.rings[4], self.driver.rings[5]

    def say(self, port: int, event: int, value: int) -> None:
        self.driver.rings[3].ask(struct.pack("<IHH", port, event, value))

    def hear(self) -> list[tuple[int, int, int, bytes]]:
        """Fetch the control messages that wait."""
        ring, heard = self.driver.rings[2], []
        while (message := ring.ask(64)) is not None:
            heard.append((*struct.unpack_from("<IHH", message), message[8:]))
        ring.next = ring.next - 1 & 0xFFFF  # the last buffer is still the driver's to take back
        ring.store(ring.available + 2, "<H", ring.next)
        return heard


def test_ports_are_announced_named_and_opened() -> None:
    terminal = Terminal()
    assert terminal.driver.device.read(0x104, 4) == 2, "ports"
    terminal.say(0, 0, 1)
    assert terminal.hear() == [(0, 1, 1, b""), (1, 1, 1, b"")]
    terminal.say(0, 3, 1)
    assert terminal.hear() == [(0, 4, 1, b""), (0, 5, 0, struct.pack("<HH", 80, 24)), (0, 6, 1, b"")]
    terminal.say(1, 3, 1)
    assert terminal.hear() == [(1, 7, 1, b"vpod.agent"), (1, 6, 1, b"")]
    terminal.say(0, 6, 1)
    terminal.device.resize(132, 50)
    assert terminal.hear() == [(0, 5, 0, struct.pack("<HH", 132, 50))]
    for port, event in ((2, 3), (0xFFFF_FFFF, 6), (0, 99)):
        terminal.say(port, event, 1)
    assert terminal.hear() == [] and not terminal.driver.broken


def test_bytes_from_the_guest_come_out_in_order() -> None:
    terminal = Terminal()
    terminal.transmit.ask(b"one ")
    terminal.transmit.ask(b"two ", b"three ", b"", b"four")
    terminal.transmit.ask(b"")
    assert b"".join(terminal.out) == b"one two three four" and b"" not in terminal.out


def test_bytes_for_the_guest_wait_for_its_reader_and_its_buffers() -> None:
    terminal = Terminal()
    terminal.agent.send(b"early ")
    assert terminal.receive.ask(64) is None and terminal.agent.pending == 6
    terminal.say(1, 6, 1)
    terminal.device.service()
    assert terminal.receive.finished() == [(0, 6)] and terminal.agent.pending == 0
    terminal.agent.send(b"0123456789")
    assert terminal.receive.ask(4) == b"0123" and terminal.receive.ask(2, 3) == b"45678"
    assert terminal.agent.pending == 1


def test_buffers_that_the_bytes_themselves_make_available_are_taken_in_bounded_steps() -> None:
    """The buffer is the available ring's index, and the host's bytes are always one more than it was."""
    terminal = Terminal()
    terminal.say(1, 6, 1)
    ring = terminal.receive
    ring.describe(0, ring.available + 2, 2, WRITE)
    ring.offer(0)
    terminal.agent.send(struct.pack("<1000H", *range(2, 1002)))
    assert terminal.agent.pending > 1400 and not terminal.driver.broken
    while terminal.device.service():
        pass
    assert terminal.agent.pending == 0 and ring.fetch(ring.used + 2, "<H") == (1000,)


def test_what_waits_when_the_reader_goes_is_dropped() -> None:
    terminal = Terminal()
    terminal.say(1, 6, 1)
    terminal.agent.send(b"stale")
    terminal.say(1, 6, 0)
    terminal.say(1, 6, 1)
    terminal.agent.send(b"fresh")
    assert terminal.receive.ask(64) == b"fresh"


def test_a_paused_port_leaves_the_guests_bytes_where_they_are() -> None:
    terminal = Terminal()
    terminal.agent.paused = True
    assert terminal.transmit.ask(b"later") is None and terminal.out == []
    assert not terminal.device.service()
    terminal.agent.paused = False
    terminal.device.service()
    assert (terminal.out == [b"later"] and terminal.transmit.finished() == [(0, 5)]) or terminal.out == [b"later"]


def test_large_output_is_done_in_bounded_steps() -> None:
    terminal = Terminal()
    ring = terminal.transmit
    for index in range(8):
        ring.describe(index, BASE, RAM_SIZE)
    ring.offer(*range(8))
    ring.notify()
    assert sum(map(len, terminal.out)) < 8 * RAM_SIZE
    while terminal.device.service():
        pass
    assert sum(map(len, terminal.out)) == 8 * RAM_SIZE


def test_control_messages_that_nobody_fetches_are_bounded() -> None:
    terminal = Terminal()
    for _ in range(1000):
        terminal.say(1, 3, 1)
    assert terminal.driver.broken and len(terminal.device._control) <= 64


def test_without_multiport_port_0_is_simply_there() -> None:
    terminal = Terminal(features=FEATURES)
    out: list[bytes] = []
    terminal.port.output = out.append
    terminal.driver.rings[1].ask(b"hello")
    terminal.port.send(b"hi")
    assert out == [b"hello"] and terminal.driver.rings[0].ask(16) == b"hi"
    terminal.device.resize(100, 40)
    assert terminal.driver.read(0x60) & 2 and terminal.driver.device.read(0x100, 4) == 40 << 16 | 100


def test_waiting_bytes_survive_a_snapshot() -> None:
    terminal = Terminal()
    terminal.say(1, 6, 1)
    terminal.say(1, 3, 1)
    terminal.agent.send(b"question")
    twin = console(terminal.device.ram, terminal.device._irq)
    twin.restore(json.loads(json.dumps(terminal.device.save())))
    assert twin.ports[1].pending == 8 and twin.ports[1].guest_open and not twin.ports[0].guest_open
    terminal.receive.device = terminal.driver.rings[2].device = twin
    assert terminal.receive.ask(64) == b"question"
    assert terminal.hear() == [(1, 7, 1, b"vpod.agent"), (1, 6, 1, b"")]
