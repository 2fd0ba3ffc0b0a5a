"""The board's plain devices, register by register, as their data sheets and specifications have them."""

from __future__ import annotations

import doctest
import importlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpod.bus import AccessFault, Bus, IrqLine, Ram
from vpod.devices.clint import Clint
from vpod.devices.plic import Plic
from vpod.devices.rtc import Rtc
from vpod.devices.syscon import Syscon
from vpod.devices.uart import Uart

WORD = 0xFFFF_FFFF


class Lines:
    """Interrupt lines that remember their level."""

    def __init__(self) -> None:
        self.level: dict[int, bool] = {}
        self.changes = 0

    def __call__(self, number: int, level: bool) -> None:
        self.changes += self.level.get(number, False) != level
        self.level[number] = level

    def __getitem__(self, number: int) -> bool:
        return self.level.get(number, False)


class Timer:
    mtime = 0
    mtimecmp = 0


def make_all() -> dict[str, Any]:
    """One of each device."""
    lines = Lines()
    return {
        "clint": Clint(Timer(), lines),
        "plic": Plic(lines),
        "uart": Uart(IrqLine(lines, 10)),
        "rtc": Rtc(IrqLine(lines, 11)),
        "syscon": Syscon(lambda reason: None),
    }


BOARD = ["bus", "fdt", "boot", "machine", *(f"devices.{name}" for name in ("fields", "clint", "plic", "rtc", "syscon"))]
BOARD += ["devices.uart", *(f"devices.virtio.{name}" for name in ("queue", "mmio", "console", "entropy", "block"))]


@pytest.mark.parametrize("module", BOARD)
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    assert doctest.testmod(importlib.import_module(f"vpod.{module}")).failed == 0


# The bus.


class Recorder:
    def __init__(self, size: int = 0x100) -> None:
        self.size = size
        self.calls: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.calls.append((offset, size))
        return -1

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append((offset, size, value))


def test_the_bus_gives_offsets_and_values_that_fit() -> None:
    bus, low, high = Bus(), Recorder(), Recorder()
    bus.attach(0x2000, high)
    bus.attach(0x1000, low)
    assert bus.read(0x1004, 2) == 0xFFFF
    bus.write(0x20F8, 8, 1 << 70 | 5)
    assert low.calls == [(4, 2)] and high.calls == [(0xF8, 8, 5)]


@pytest.mark.parametrize(
    ("address", "size"), [(0xFFF, 1), (0x1100, 1), (0x10FD, 4), (0x10FC, 8), (0, 1), (1 << 64, 4), (-1, 1), (0x1000, 3)]
)
def test_where_nothing_answers_is_an_access_fault(address: int, size: int) -> None:
    bus, device = Bus(), Recorder()
    bus.attach(0x1000, device)
    with pytest.raises(AccessFault):
        bus.read(address, size)
    with pytest.raises(AccessFault):
        bus.write(address, size, 0)
    assert not device.calls


def test_an_empty_bus_faults() -> None:
    with pytest.raises(AccessFault):
        Bus().read(0, 4)


@pytest.mark.parametrize("base", [0xF01, 0x1000, 0x10FF])
def test_ranges_may_not_overlap(base: int) -> None:
    bus = Bus()
    bus.attach(0x1000, Recorder())
    with pytest.raises(ValueError, match="overlaps"):
        bus.attach(base, Recorder())


class Bytes:
    """A stand-in for the core's RAM at 0x8000_0000."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def view(self, address: int, length: int) -> memoryview:
        return memoryview(self.data).toreadonly()[address - 0x8000_0000 :][:length]

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.view(address, length))

    def write(self, address: int, data: bytes) -> None:
        at = address - 0x8000_0000
        self.data[at : at + len(data)] = data


@pytest.mark.parametrize("address", [0, 0x7FFF_FFFF, 0x8000_0FFD, 0x8000_1000, 1 << 64, -4])
def test_dma_outside_ram_faults(address: int) -> None:
    ram = Ram(Bytes(4096), 4096)
    with pytest.raises(AccessFault):
        ram.read(address, 4)
    with pytest.raises(AccessFault):
        ram.write(address, b"1234")
    with pytest.raises(AccessFault):
        ram.read(0x8000_0000, -1)


# CLINT.


def test_the_clint_is_a_window_on_the_cores_timer() -> None:
    timer, lines = Timer(), Lines()
    clint = Clint(timer, lines)
    timer.mtime = 0x1_2345_6789
    assert clint.read(0xBFF8, 8) == 0x1_2345_6789
    assert clint.read(0xBFF8, 4) & WORD == 0x2345_6789 and clint.read(0xBFFC, 4) == 1
    clint.write(0x4000, 8, 0xAAAA_BBBB_CCCC_DDDD)
    clint.write(0x4004, 4, 7)
    assert timer.mtimecmp == 0x7_CCCC_DDDD
    clint.write(0x4000, 4, 9)
    assert timer.mtimecmp == 0x7_0000_0009 == clint.read(0x4000, 8)
    clint.write(0xBFF8, 8, 3)
    assert timer.mtime == 3


def test_msip_drives_the_software_interrupt() -> None:
    lines = Lines()
    clint = Clint(Timer(), lines)
    clint.write(0, 4, WORD)
    assert lines[3] and clint.read(0, 4) == 1
    clint.write(4, 4, 0)  # hart 1 does not exist
    assert lines[3]
    clint.write(0, 4, 0)
    assert not lines[3]


# PLIC.

CLAIM = (0x20_0004, 0x20_1004)
ENABLE = (0x2000, 0x2080)
THRESHOLD = (0x20_0000, 0x20_1000)
EIP = (11, 9)


def make_plic(*sources: int, priority: int = 1, context: int = 1) -> tuple[Plic, Lines]:
    lines = Lines()
    plic = Plic(lines)
    for source in sources:
        plic.write(4 * source, 4, priority)
        word = ENABLE[context] + 4 * (source // 32)
        plic.write(word, 4, plic.read(word, 4) | 1 << source % 32)
    return plic, lines


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("source", [1, 31, 32, 64, 95])
def test_an_interrupt_is_claimed_once_and_comes_again_after_completion(source: int, context: int) -> None:
    plic, lines = make_plic(source, context=context)
    plic.line(source).set(True)
    assert lines[EIP[context]] and not lines[EIP[1 - context]]
    assert plic.read(0x1000 + 4 * (source // 32), 4) == 1 << source % 32
    assert plic.read(CLAIM[context], 4) == source
    assert not lines[EIP[context]] and plic.read(CLAIM[context], 4) == 0
    assert plic.read(0x1000 + 4 * (source // 32), 4) == 0
    plic.write(CLAIM[context], 4, source)
    assert lines[EIP[context]], "the line is still high: level-triggered"
    assert plic.read(CLAIM[context], 4) == source
    plic.line(source).set(False)
    plic.write(CLAIM[context], 4, source)
    assert not lines[EIP[context]]


def test_the_highest_priority_is_claimed_first_and_ties_go_to_the_lowest_number() -> None:
    plic, _ = make_plic(3, 5, 40, 90)
    plic.write(4 * 40, 4, 7)
    for source in (90, 40, 5, 3):
        plic.line(source).set(True)
    assert [plic.read(CLAIM[1], 4) for _ in range(5)] == [40, 3, 5, 90, 0]


def test_only_priorities_above_the_threshold_interrupt_but_claims_ignore_it() -> None:
    plic, lines = make_plic(7, priority=3)
    plic.write(THRESHOLD[1], 4, 3)
    plic.line(7).set(True)
    assert not lines[9]
    plic.write(THRESHOLD[1], 4, 2)
    assert lines[9]
    plic.write(THRESHOLD[1], 4, 7)
    assert not lines[9] and plic.read(CLAIM[1], 4) == 7


def test_priority_zero_never_interrupts() -> None:
    plic, lines = make_plic(7, priority=0)
    plic.line(7).set(True)
    assert not lines[9] and plic.read(CLAIM[1], 4) == 0


def test_a_forwarded_request_outlives_its_line() -> None:
    plic, lines = make_plic(7)
    plic.line(7).set(True)
    plic.line(7).set(False)
    assert lines[9] and plic.read(CLAIM[1], 4) == 7


def test_a_shut_gateway_forwards_nothing() -> None:
    plic, lines = make_plic(7)
    line = plic.line(7)
    line.set(True)
    assert plic.read(CLAIM[1], 4) == 7
    line.set(False)
    line.set(True)
    assert not lines[9]
    plic.write(CLAIM[1], 4, 7)
    assert lines[9]


def test_completing_what_is_not_enabled_or_not_claimed_is_ignored() -> None:
    plic, lines = make_plic(7)
    plic.line(7).set(True)
    plic.read(CLAIM[1], 4)
    for source in (0, 8, 96, WORD):
        plic.write(CLAIM[1], 4, source)
    plic.write(CLAIM[0], 4, 7)  # not enabled in context 0
    assert not lines[9]
    plic.write(CLAIM[1], 4, 7)
    assert lines[9]


def test_source_zero_does_not_exist() -> None:
    plic, _ = make_plic()
    plic.write(0, 4, 7)
    plic.write(ENABLE[0], 4, WORD)
    assert plic.read(0, 4) == 0 and plic.read(ENABLE[0], 4) == WORD & ~1
    for source in (0, 96, -1):
        with pytest.raises(ValueError, match="sources 1 to 95"):
            plic.line(source)


def test_registers_keep_only_the_bits_they_have() -> None:
    plic, _ = make_plic()
    plic.write(4 * 9, 4, WORD)
    plic.write(THRESHOLD[0], 4, WORD)
    plic.write(0x1000, 4, WORD)
    plic.write(ENABLE[0] + 12, 4, WORD)  # sources 96 to 127
    assert plic.read(4 * 9, 4) == 7 and plic.read(THRESHOLD[0], 4) == 7
    assert plic.read(0x1000, 4) == 0 and plic.read(ENABLE[0] + 12, 4) == 0
    assert plic.read(ENABLE[0], 1) == 0 and plic.read(4 * 9 + 1, 4) == 0


# UART.


def make_uart() -> tuple[Uart, Lines, list[bytes]]:
    lines, out = Lines(), list[bytes]()
    uart = Uart(IrqLine(lines, 10), out.append)
    return uart, lines, out


def test_printed_bytes_come_out_together() -> None:
    uart, _, out = make_uart()
    for byte in b"hello":
        assert uart.read(5, 1) & 0x60 == 0x60
        uart.write(0, 1, byte)
    assert out == []
    uart.flush()
    uart.flush()
    assert out == [b"hello"]
    for _ in range(10_000):
        uart.write(0, 1, 0x58)
    uart.flush()
    assert len(b"".join(out)) == 10_005 and max(map(len, out)) <= 4096


def test_typed_bytes_interrupt_until_they_are_read() -> None:
    uart, lines, _ = make_uart()
    uart.write(1, 1, 1)
    assert uart.read(2, 1) & 0x0F == 1 and not lines[10]
    uart.send(b"ab")
    assert lines[10] and uart.read(2, 1) & 0x0F == 4 and uart.pending == 2
    assert (uart.read(0, 1), uart.read(5, 1) & 1, uart.read(0, 1)) == (0x61, 1, 0x62)
    assert not lines[10] and uart.read(5, 1) & 1 == 0 and uart.read(0, 1) == 0


def test_below_the_trigger_level_the_fifo_times_out() -> None:
    uart, lines, _ = make_uart()
    uart.write(2, 1, 0xC1)  # trigger at 14
    uart.write(1, 1, 1)
    uart.send(b"x" * 13)
    assert lines[10] and uart.read(2, 1) == 0xCC
    uart.send(b"x")
    assert uart.read(2, 1) == 0xC4


def test_the_transmitter_empty_interrupt_is_cleared_by_reading_iir() -> None:
    uart, lines, _ = make_uart()
    uart.write(1, 1, 2)
    assert lines[10] and uart.read(2, 1) == 2
    assert not lines[10] and uart.read(2, 1) == 1
    uart.write(0, 1, 0x41)
    assert lines[10] and uart.read(2, 1) == 2 and not lines[10]
    uart.write(1, 1, 0)
    uart.write(1, 1, 2)
    assert lines[10], "enabling it again raises it: Linux's driver tests this"


def test_receiving_has_priority_over_transmitting() -> None:
    uart, _, _ = make_uart()
    uart.write(1, 1, 3)
    uart.send(b"x")
    assert uart.read(2, 1) == 4
    uart.read(0, 1)
    assert uart.read(2, 1) == 2


def test_the_divisor_latch_hides_data_and_interrupt_enable() -> None:
    uart, _, out = make_uart()
    uart.write(1, 1, 5)
    uart.write(3, 1, 0x83)
    uart.write(0, 1, 0x34)
    uart.write(1, 1, 0x12)
    assert (uart.read(0, 1), uart.read(1, 1)) == (0x34, 0x12)
    uart.write(3, 1, 0x03)
    uart.flush()
    assert uart.read(1, 1) == 5 and out == []


def test_loopback_turns_bytes_and_modem_lines_around() -> None:
    uart, lines, out = make_uart()
    assert uart.read(6, 1) == 0xB0
    uart.write(4, 1, 0x10)
    assert uart.read(6, 1) & 0xF0 == 0
    uart.write(4, 1, 0x1A)  # RTS and OUT2: what Linux's autoconfiguration writes, and expects 0x90
    assert uart.read(6, 1) & 0xF0 == 0x90
    uart.write(1, 1, 8)
    uart.write(4, 1, 0x1B)
    assert lines[10] and uart.read(2, 1) == 0 and uart.read(6, 1) == 0xB2 and not lines[10]
    uart.write(0, 1, 0x55)
    uart.flush()
    assert uart.read(0, 1) == 0x55 and out == []


def test_ring_shows_its_end_only() -> None:
    uart, _, _ = make_uart()
    uart.write(4, 1, 0x10)
    uart.read(6, 1)
    uart.write(4, 1, 0x14)
    assert uart.read(6, 1) == 0x40
    uart.write(4, 1, 0x10)
    assert uart.read(6, 1) == 0x04


def test_loopback_is_bounded_and_overruns() -> None:
    uart, lines, _ = make_uart()
    uart.write(4, 1, 0x10)
    uart.write(1, 1, 4)
    for _ in range(100_000):
        uart.write(0, 1, 0x55)
    assert uart.pending == 16 and lines[10] and uart.read(2, 1) & 0x0F == 6
    assert uart.read(5, 1) & 2 and not uart.read(5, 1) & 2 and not lines[10]


def test_clearing_the_fifo_clears_the_fifo() -> None:
    uart, _, _ = make_uart()
    uart.send(b"x" * 10)
    uart.write(2, 1, 3)
    assert uart.pending == 0 and uart.read(2, 1) & 0xC0 == 0xC0


def test_scratch_and_line_control_are_kept() -> None:
    uart, _, _ = make_uart()
    uart.write(7, 1, 0x5A)
    uart.write(3, 1, 0x1B)
    assert (uart.read(7, 1), uart.read(3, 1)) == (0x5A, 0x1B)


# Real-time clock.


class Clock:
    now = 1_700_000_000_123_456_789

    def __call__(self) -> int:
        return self.now


def make_rtc() -> tuple[Rtc, Clock, Lines]:
    clock, lines = Clock(), Lines()
    return Rtc(IrqLine(lines, 11), clock), clock, lines


def read_time(rtc: Rtc) -> int:
    low = rtc.read(0, 4)
    return rtc.read(4, 4) << 32 | low


def set_pair(rtc: Rtc, offset: int, value: int) -> None:
    rtc.write(offset + 4, 4, value >> 32)
    rtc.write(offset, 4, value & WORD)


def test_the_clock_is_the_hosts_until_it_is_set() -> None:
    rtc, clock, _ = make_rtc()
    assert read_time(rtc) == clock.now
    low = rtc.read(0, 4)
    clock.now += 1 << 32
    assert rtc.read(4, 4) << 32 | low == clock.now - (1 << 32), "reading the low half latches the high half"
    set_pair(rtc, 0, 12345 << 32 | 678)
    clock.now += 1000
    assert read_time(rtc) == (12345 << 32 | 678) + 1000


def test_the_alarm_interrupts_when_its_time_comes() -> None:
    rtc, clock, lines = make_rtc()
    rtc.write(0x10, 4, 1)
    set_pair(rtc, 8, clock.now + 5000)
    assert rtc.read(0x18, 4) == 1 and rtc.nanoseconds_to_alarm() == 5000
    rtc.poll()
    assert not lines[11]
    clock.now += 5000
    rtc.poll()
    assert lines[11] and rtc.read(0x18, 4) == 0 and rtc.nanoseconds_to_alarm() == -1
    rtc.write(0x1C, 4, 1)
    assert not lines[11]


def test_an_alarm_in_the_past_goes_off_at_once_and_a_cleared_one_never() -> None:
    rtc, clock, lines = make_rtc()
    set_pair(rtc, 8, clock.now - 1)
    assert not lines[11], "not enabled"
    rtc.write(0x10, 4, 1)
    assert lines[11]
    rtc.write(0x1C, 4, 0)
    set_pair(rtc, 8, clock.now + 1)
    rtc.write(0x14, 4, 0)
    clock.now += 10
    rtc.poll()
    assert not lines[11] and rtc.nanoseconds_to_alarm() == -1


# Power.


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        (0x5555, ["poweroff"]),
        (0x7777, ["reboot"]),
        (0x0003_3333, ["exit 3"]),
        (0xFFFF_3333, ["exit 65535"]),
        (0, []),
        (WORD, []),
    ],
)
def test_the_finisher_ends_the_machine(value: int, reasons: list[str]) -> None:
    seen: list[str] = []
    syscon = Syscon(seen.append)
    syscon.write(4, 4, value)
    syscon.write(0, 1, value)
    assert seen == []
    syscon.write(0, 4, value)
    assert seen == reasons and syscon.read(0, 4) == 0


# All of them.

accesses = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.integers(0, 0x5F_FFF8), st.integers(0, 0x40), st.sampled_from([0xBFF8, 0x4000, 0x20_0004, 0x2080])
        ),
        st.sampled_from([1, 2, 4, 8]),
        st.integers(0, (1 << 64) - 1) | st.integers(0, 255),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(accesses, st.sampled_from(sorted(make_all())))
def test_no_access_disturbs_a_device_and_its_state_survives_a_save(accesses: list[Any], name: str) -> None:
    device = make_all()[name]
    for is_write, anywhere, size, value in accesses:
        offset = anywhere % (device.size - size + 1)
        if is_write:
            device.write(offset, size, value & (1 << 8 * size) - 1)
        else:
            assert device.read(offset, size) >= 0
    state = json.loads(json.dumps(device.save()))
    twin = make_all()[name]
    twin.restore(state)
    assert twin.save() == device.save()


BAD: list[Any] = [None, -1, 1 << 70, "zz", "a", [], {}, 1.5, [1 << 70] * 96, "ff" * 12, ["ff" * 12] * 2, True, 3]


@pytest.mark.parametrize("name", sorted(make_all()))
def test_a_hostile_state_is_refused_with_the_fields_name(name: str) -> None:
    good = make_all()[name].save()
    for field in good:
        missing = {key: value for key, value in good.items() if key != field}
        with pytest.raises(ValueError, match=field):
            make_all()[name].restore(missing)
        refused = 0
        for bad in BAD:
            try:
                make_all()[name].restore({**good, field: bad})
            except ValueError as error:
                refused += 1
                assert field in str(error)
        assert refused >= len(BAD) - 5, f"{field} believes too much"
