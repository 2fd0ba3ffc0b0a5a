"""The machine: loading, running, sleeping, ending, and a state that can be taken back and can't be forged."""

from __future__ import annotations

import json
import os
import select
import struct
import threading
import time
from pathlib import Path

import pytest
from machine_code import assemble

from vpod.devices.virtio.block import BufferDisk
from vpod.errors import BuildError, SnapshotDamaged, SnapshotError
from vpod.fdt import parse
from vpod.machine import STATE_HEADER, Event, Machine

MEMORY = 64 << 20
UART, SYSCON, CLINT, RTC, PLIC = 0x1000_0000, 0x10_0000, 0x200_0000, 0x10_1000, 0xC00_0000


def machine(source: str, disk: BufferDisk | None = None) -> Machine:
    """A machine that runs an assembled program from the start of RAM."""
    made = Machine(MEMORY, disk)
    made.load(firmware=assemble(source).code)
    return made


def say(text: str) -> str:
    """Print through the UART; t0 and t1 are lost."""
    return f"li t0, {UART}\n" + "\n".join(f"li t1, {ord(letter)}\nsb t1, 0(t0)" for letter in text)


def finish(value: int) -> str:
    return f"li t0, {SYSCON}\nli t1, {value}\nsw t1, 0(t0)\nspin: j spin"


@pytest.mark.parametrize(
    ("value", "reason"), [(0x5555, "poweroff"), (0x7777, "reboot"), (0x0003_3333, "exit 3"), (0x002A_3333, "exit 42")]
)
def test_a_guest_that_ends_itself_says_why(value: int, reason: str) -> None:
    guest = machine(say("bye") + "\n" + finish(value))
    printed: list[bytes] = []
    guest.uart.output = printed.append
    assert guest.run(seconds=5) is Event.STOPPED and guest.stopped == reason and printed == [b"bye"]
    retired = guest.cpu.instret
    assert guest.run(seconds=5) is Event.STOPPED and guest.cpu.instret == retired, "it stays stopped"


@pytest.mark.parametrize(("chatter", "reason"), [(100, "panic"), (20_000, "reboot")])
def test_a_reboot_soon_after_the_kernels_last_words_is_a_panic(chatter: int, reason: str) -> None:
    loop = f"li t2, {chatter}\nmore: sb t1, 0(t0)\naddi t2, t2, -1\nbne t2, zero, more\n"
    guest = machine(say("Kernel panic - not syncing: x\n") + "\n" + loop + finish(0x7777))
    guest.run(seconds=5)
    assert guest.stopped == reason


def test_a_reboot_without_a_panic_is_none() -> None:
    guest = machine(say("Kernel panic - not") + "\n" + finish(0x7777))
    guest.run(seconds=5)
    assert guest.stopped == "reboot"


LAST_WORDS = "---[ end Kernel panic - not syncing: no memory ]---\n"


def test_a_kernel_that_panics_before_it_reads_its_options_is_not_waited_for() -> None:
    """It turns on the spot for ever: the reboot that `panic=-1` asks for never comes."""
    guest = machine(say(LAST_WORDS) + "\nspin: j spin")
    assert guest.run(seconds=20) is Event.STOPPED and guest.stopped == "panic"


@pytest.mark.parametrize("after", ["wait: wfi\nj wait", say("going on\n") + "\nspin: j spin"])
def test_a_guest_that_only_prints_such_words_lives_on(after: str) -> None:
    guest = machine(say(LAST_WORDS) + "\n" + after)
    assert guest.run(seconds=2.5) is Event.TIME and guest.stopped is None


def kernel_image(size: int = 8192) -> bytes:
    return struct.pack("<8xQQ32xI4x", 0x20_0000, 1 << 20, 0x0543_5352).ljust(size, b"k")


def test_firmware_finds_what_the_boot_protocol_promises() -> None:
    """OpenSBI, docs/firmware/fw_dynamic.md: a0 hart, a1 device tree, a2 struct fw_dynamic_info."""
    guest = Machine(MEMORY)
    kernel, initrd = kernel_image(), os.urandom(5000)
    guest.load(firmware=b"\x13\0\0\0", kernel=kernel, initrd=initrd, command_line="console=hvc0")
    assert guest.cpu.pc == 0x8000_0000 and guest.cpu.x(10) == 0
    assert guest.ram.read(0x8020_0000, len(kernel)) == kernel
    magic, version, entry, mode, options, hart = struct.unpack("<6Q", guest.ram.read(guest.cpu.x(12), 48))
    assert (magic, version, entry, mode, options, hart) == (0x4942_534F, 2, 0x8020_0000, 1, 1, 0)
    tree = guest.cpu.x(11)
    chosen = parse(guest.ram.read(tree, 0x8000_0000 + MEMORY - tree)).find("chosen").properties
    start, end = (int.from_bytes(chosen[f"linux,initrd-{which}"], "big") for which in ("start", "end"))
    assert guest.ram.read(start, end - start) == initrd
    assert chosen["bootargs"] == b"console=hvc0 panic=-1\0"


def test_a_panic_option_of_the_callers_is_left_alone() -> None:
    guest = Machine(MEMORY)
    guest.load(firmware=b"\x13\0\0\0", command_line="panic=5")
    tree = guest.cpu.x(11)
    blob = guest.ram.read(tree, 0x8000_0000 + MEMORY - tree)
    assert parse(blob).find("chosen").properties["bootargs"] == b"panic=5\0"


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    guest = Machine(MEMORY)
    with pytest.raises(BuildError, match="more memory"):
        guest.load(firmware=b"x" * 16, kernel=kernel_image(), initrd=bytes(MEMORY))
    assert guest.ram.read(0x8000_0000, 16) == bytes(16)


@pytest.mark.parametrize("memory", [0, 32 << 20, (64 << 20) + 4096, 5 << 30, -1])
def test_memory_has_limits(memory: int) -> None:
    with pytest.raises(ValueError, match="memory"):
        Machine(memory)


def test_a_spinning_guest_is_given_back_in_time() -> None:
    guest = machine("spin: j spin")
    before = time.monotonic()
    assert guest.run(seconds=0.2) is Event.TIME
    assert 0.15 < time.monotonic() - before < 2
    assert guest.slice(0.001) == 0.0
    assert guest.run(until=lambda: True) is Event.UNTIL


VIRTIO = 0x1000_1000
TABLE = 0x8010_0000


def notifies(slot: int, queue: int, *chain: tuple[int, int, int], disk: BufferDisk | None = None) -> Machine:
    """A machine whose guest offers one chain 128 times and notifies the device in `slot`, for ever."""
    registers = VIRTIO + slot * 0x1000
    guest = machine(
        f"li a0, {registers}; li a1, {queue}; li a2, {TABLE + 0x1002}; li a3, 0;"
        "again: addi a3, a3, 128; sh a3, 0(a2); sw a1, 0x50(a0); j again",
        disk,
    )
    rings = ((0x80, TABLE), (0x90, TABLE + 0x1000), (0xA0, TABLE + 0x2000))
    features = ((0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0), (0x20, 2 * (slot == 0)), (0x70, 11))
    for register, value in (*features, (0x30, queue), (0x38, 128), *rings, (0x44, 1), (0x70, 15)):
        guest.bus.write(registers + register, 4, value)
    for index, (address, length, flags) in enumerate(chain):
        following = index + 1 < len(chain)
        guest.ram.write(TABLE + 16 * index, struct.pack("<QIHH", address, length, flags | following, index + 1))
    guest.ram.write(TABLE + 0x1000, struct.pack("<HH", 1, 0))
    return guest


BUFFER = 0x8020_0000
SPLINTERS = [(BUFFER + 16 + at, 4, 2) for at in range(126)]  # 504 bytes, and 8 more with the status


@pytest.mark.parametrize(
    ("slot", "queue", "chain"),
    [
        (0, 1, [(BUFFER, 0, 0)] * 128),
        (0, 3, [(BUFFER, 64, 0)] * 128),
        (1, 0, [(BUFFER, 1, 2)] * 128),
        (2, 0, [(BUFFER, 16, 0), *SPLINTERS, (BUFFER, 9, 2)]),
    ],
)
def test_a_guest_that_only_notifies_gets_no_more_than_its_slice(
    slot: int, queue: int, chain: list[tuple[int, int, int]]
) -> None:
    """One access may take some 40 ms; 200 of them, or the 60,000 that a slice of other instructions has, may not."""
    guest = notifies(slot, queue, *chain, disk=BufferDisk(bytearray(4096)))
    before = time.thread_time()
    assert guest.slice(0.001, 800) == 0.0
    assert time.thread_time() - before < 0.6
    assert not guest.bus.read(VIRTIO + slot * 0x1000 + 0x70, 4) & 0x40, "the rings hold together"


def test_what_the_guest_says_in_a_slice_is_bounded() -> None:
    """The worker looks at what its caller has yet to read between slices only."""
    guest = notifies(0, 1, (BUFFER, 16 << 20, 0))
    said: list[int] = []
    guest.console.output = lambda data: said.append(len(data))
    guest.slice(0.001)
    assert 0 < sum(said) <= 64 << 20


@pytest.mark.parametrize("slow", ["lw a1, 0(a0)", "sfence.vma zero, zero", "csrw satp, a1; csrw satp, zero"])
def test_a_guest_of_slow_instructions_is_looked_at_more_often(slow: str) -> None:
    guest = machine(f"li a0, {VIRTIO}; li a1, {8 << 60 | 0x80100}; again: {slow}; j again")
    for _ in range(8):
        guest.slice(0.0)
    before = guest.cpu.instret
    guest.slice(0.0)
    assert guest.cpu.instret - before < 60_000
    guest.ram.write(guest.cpu.pc, assemble("again: j again").code)
    for _ in range(8):
        before = guest.cpu.instret
        guest.slice(0.0)
    assert guest.cpu.instret - before > 60_000, "and no longer than it is slow"


def test_poll_is_called_between_slices() -> None:
    calls: list[int] = []
    guest = machine("spin: j spin")
    assert guest.run(seconds=5, poll=lambda: calls.append(1), until=lambda: len(calls) == 3) is Event.UNTIL


def test_a_sleeping_guest_costs_nothing() -> None:
    guest = machine("sleep: wfi\nj sleep")
    assert guest.slice() is None
    assert guest.run() is Event.IDLE, "nothing could ever wake it"
    before = time.process_time()
    assert guest.run(seconds=0.5) is Event.TIME
    assert time.process_time() - before < 0.1


TIMER = f"""
    la t0, handler
    csrw mtvec, t0
    li t0, {CLINT + 0xBFF8}
    ld t1, 0(t0)
    li t2, 2000000                      # 0.2 s of 10 MHz
    add t1, t1, t2
    li t0, {CLINT + 0x4000}
    sd t1, 0(t0)
    li t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
sleep:
    wfi
    j sleep
.align 4
handler:
    {finish(0x5555)}
"""


def test_the_timer_wakes_a_sleeping_guest() -> None:
    guest = machine(TIMER)
    sleep = guest.slice()
    assert sleep is not None and 0.1 < sleep <= 0.2
    before, used = time.monotonic(), time.process_time()
    assert guest.run(seconds=5) is Event.STOPPED and guest.stopped == "poweroff"
    assert 0.05 < time.monotonic() - before < 2 and time.process_time() - used < 0.15


def interrupts(source: int) -> str:
    """Sleep until the PLIC's `source` interrupts machine mode, then power off with the claimed source as exit code."""
    return f"""
    la t0, handler
    csrw mtvec, t0
    li t0, {PLIC + 4 * source}
    li t1, 1
    sw t1, 0(t0)
    li t0, {PLIC + 0x2000}
    li t1, {1 << source}
    sw t1, 0(t0)
    li t0, 0x800
    csrw mie, t0
    csrsi mstatus, 8
sleep:
    wfi
    j sleep
.align 4
handler:
    li t0, {PLIC + 0x20_0004}
    lw t1, 0(t0)
    slli t1, t1, 16
    li t2, 0x3333
    or t1, t1, t2
    li t0, {SYSCON}
    sw t1, 0(t0)
spin: j spin
"""


def test_a_typed_byte_wakes_a_sleeping_guest_through_the_plic() -> None:
    guest = machine(f"li t0, {UART}\nli t1, 1\nsb t1, 1(t0)\n" + interrupts(10))
    assert guest.run(seconds=0.1) is Event.TIME and guest.stopped is None
    guest.uart.send(b"x")
    assert guest.run(seconds=5) is Event.STOPPED and guest.stopped == "exit 10"


def test_a_readable_descriptor_ends_a_sleep() -> None:
    guest = machine(f"li t0, {UART}\nli t1, 1\nsb t1, 1(t0)\n" + interrupts(10))
    reader, writer = os.pipe()
    try:

        def type_what_came() -> None:
            if select.select([reader], [], [], 0)[0]:
                guest.uart.send(os.read(reader, 1))

        threading.Timer(0.2, os.write, (writer, b"x")).start()
        before = time.monotonic()
        assert guest.run(poll=type_what_came, files=[reader]) is Event.STOPPED and guest.stopped == "exit 10"
        assert 0.1 < time.monotonic() - before < 2
    finally:
        os.close(reader)
        os.close(writer)


def test_the_clocks_alarm_wakes_a_sleeping_guest() -> None:
    alarm = time.time_ns() + 300_000_000
    arm = f"""
    li t0, {RTC}
    li t1, 1
    sw t1, 16(t0)
    li t1, {alarm >> 32}
    sw t1, 12(t0)
    li t1, {alarm & 0xFFFF_FFFF}
    sw t1, 8(t0)
    """
    guest = machine(arm + interrupts(11))
    assert guest.run(seconds=5) is Event.STOPPED and guest.stopped == "exit 11"
    assert time.time_ns() >= alarm


def test_where_no_device_is_the_guest_gets_its_access_fault() -> None:
    trap = f"""
    la t0, handler
    csrw mtvec, t0
    li t0, 0x40000000
    lw t1, 0(t0)
    {finish(0x5555).replace("spin", "missed")}
.align 4
handler:
    csrr t1, mcause
    slli t1, t1, 16
    li t2, 0x3333
    or t1, t1, t2
    li t0, {SYSCON}
    sw t1, 0(t0)
spin: j spin
"""
    guest = machine(trap)
    guest.run(seconds=5)
    assert guest.stopped == "exit 5", "load access fault"


# Saved states.

COUNTER = "again: addi a0, a0, 1\nj again"


def ram_file(guest: Machine, folder: Path) -> int:
    path = folder / "ram"
    path.write_bytes(guest.ram.data)
    return os.open(path, os.O_RDONLY)


def test_a_restored_machine_goes_on_where_it_was(tmp_path: Path) -> None:
    guest = machine(COUNTER)
    guest.run(seconds=0.05)
    guest.uart.send(b"typed")
    saved_count, saved_time = guest.cpu.x(10), guest.cpu.mtime
    state, fd = guest.save(), ram_file(guest, tmp_path)
    time.sleep(0.3)
    begun = time.monotonic()
    try:
        twins = [Machine.restore(state, fd) for _ in range(2)]
    finally:
        os.close(fd)
    for twin in twins:
        assert twin.cpu.x(10) == saved_count and twin.uart.pending == 5 and twin.memory == MEMORY
        passed = (twin.cpu.mtime - saved_time) / 10_000_000
        assert 0 <= passed < time.monotonic() - begun + 0.1, "mtime goes on where it stopped, not where the host is"
        twin.run(seconds=0.02)
        assert twin.cpu.x(10) > saved_count
    twins[0].ram.write(0x8100_0000, b"mine")
    assert twins[1].ram.read(0x8100_0000, 4) == bytes(4), "their memory is their own"
    guest.run(seconds=0.02)
    assert guest.cpu.x(10) > saved_count, "saving disturbs nothing"


def test_a_disk_must_be_there_again(tmp_path: Path) -> None:
    guest = machine(COUNTER, BufferDisk(bytearray(4096)))
    state, fd = guest.save(), ram_file(guest, tmp_path)
    try:
        assert Machine.restore(state, fd, BufferDisk(bytearray(4096))).stopped is None
        with pytest.raises(SnapshotDamaged, match="virtio2"):
            Machine.restore(state, fd)
    finally:
        os.close(fd)


def test_more_than_can_be_saved_is_said_and_not_lost(tmp_path: Path) -> None:
    guest = machine(COUNTER)
    for stream in (guest.uart, guest.console, guest.agent):
        stream.send(bytes(4 << 20))
    fd = ram_file(guest, tmp_path)
    try:
        twin = Machine.restore(guest.save(), fd)
    finally:
        os.close(fd)
    assert twin.uart.pending == twin.console.pending == twin.agent.pending == 4 << 20
    guest.agent.send(b"x")
    with pytest.raises(SnapshotError, match="agent"):
        guest.save()


def test_a_port_without_a_driver_keeps_nobody_awake() -> None:
    guest = machine("sleep: wfi\nj sleep")
    guest.agent.send(b"early")
    guest.agent.paused = True
    guest.agent.paused = False
    guest.slice()
    assert guest.slice() is None


def test_an_alarm_in_the_far_future_is_a_sleep_that_the_host_can_sleep() -> None:
    far = "\n".join(f"li t1, {value}\nsw t1, {at}(t0)" for at, value in ((16, 1), (12, -1), (8, -1)))
    guest = machine(f"li t0, {RTC}\n{far}\nsleep: wfi\nj sleep")
    assert guest.slice() == 3600
    assert guest.run(seconds=0.05) is Event.TIME


def test_a_stopped_machine_stays_stopped(tmp_path: Path) -> None:
    guest = machine(finish(0x0007_3333))
    guest.run(seconds=5)
    fd = ram_file(guest, tmp_path)
    try:
        twin = Machine.restore(guest.save(), fd)
        assert twin.stopped == "exit 7" and twin.run(seconds=1) is Event.STOPPED
    finally:
        os.close(fd)


def forge(state: bytes, **changes: object) -> bytes:
    """The state with fields of its JSON replaced."""
    _, version, json_length, hart_length = STATE_HEADER.unpack_from(state)
    start = STATE_HEADER.size
    described = json.loads(state[start : start + json_length]) | changes
    text = json.dumps(described).encode()
    return STATE_HEADER.pack(b"vpodmach", version, len(text), hart_length) + text + state[start + json_length :]


def test_a_forged_state_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    guest = machine(COUNTER)
    state, fd = guest.save(), ram_file(guest, tmp_path)
    devices = json.loads(state[STATE_HEADER.size : STATE_HEADER.size + STATE_HEADER.unpack_from(state)[2]])["devices"]
    text_length = STATE_HEADER.unpack_from(state)[2]
    deep = b"[" * 200_000
    cases = {
        "only 3 bytes": state[:3],
        "magic": b"x" + state[1:],
        "version": state[:8] + b"\xff" + state[9:],
        "lengths": state[:-1],
        "lengths: ": state[:12] + b"\xff\xff\xff\xff" + state[16:],
        "JSON": STATE_HEADER.pack(b"vpodmach", 1, len(deep), 0) + deep,
        "JSON: not an object": STATE_HEADER.pack(b"vpodmach", 1, 2, 0) + b"[]",
        "memory": forge(state, memory=1 << 50),
        "memory: ": forge(state, memory="64"),
        "RAM file": forge(state, memory=128 << 20),
        "stopped": forge(state, stopped=5),
        "devices": forge(state, devices={}),
        "devices: ": forge(state, devices=[]),
        "plic": forge(state, devices=devices | {"plic": {}}),
        "uart: ier": forge(state, devices=devices | {"uart": devices["uart"] | {"ier": 255}}),
        "virtio0": forge(state, devices=devices | {"virtio0": None}),
        "hart": STATE_HEADER.pack(b"vpodmach", 1, text_length, 0) + state[STATE_HEADER.size :][:text_length],
    }
    try:
        for complaint, forged in cases.items():
            with pytest.raises(SnapshotDamaged, match=complaint.strip()):
                Machine.restore(forged, fd)
        Machine.restore(state, fd)
    finally:
        os.close(fd)
