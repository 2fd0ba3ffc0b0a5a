"""Devices against hostile drivers: the host survives, keeps its promises, and the device works again after a reset.

A piece is a number of sessions, each a fresh machine and a list of operations drawn from the piece's seed
(`hostile_guest.py`), played on a board that looks at every promise after every operation (`hostile_board.py`). At the
end of each, all of RAM is compared with what was allowed to change, the machine is saved, restored from its bytes and
compared, and a good driver (`tests/virtio_driver.py`) resets every device of the restored machine and uses it. One
piece is no session but a sweep: every byte of every device's range, at every width, both ways.

Invariants: a difference is shrunk and printed as the list of operations that shows it on a fresh board; memory is
limited while a piece runs, so that a device which allocates without bound fails.

    >>> run(seed=1, first=0, sessions=1).differences
    ()
"""

from __future__ import annotations

import gc
import json
import os
import struct
import time
from collections.abc import Callable, Sequence

from tests.proof.hostile_board import CAPACITY, DEVICES, RAM, SECTOR, VIRTIO, Board, Load, Operation, Store
from tests.proof.hostile_guest import operations
from tests.proof.limits import limited
from tests.proof.pieces import Form, Outcome, Piece
from tests.virtio_driver import FEATURES, Driver
from vpod.machine import STATE_HEADER, Machine

LENGTH = 800  # operations a session
SESSIONS = {"short": (4, 30), "long": (10, 256)}  # pieces, and sessions in each
HEADROOM = 768 << 20  # bytes of address space that a piece may take beyond what it has at its start
SHOWN = 3  # differences after which a piece gives up
SEARCH = 20.0  # seconds that making a difference smaller may take
EMPTY = ("virtio4", "virtio5", "virtio6", "virtio7")  # and virtio3, which is swept whole for all of them
EXTREMES = (0, 0x5A, (1 << 64) - 1)

DRIVER_AREA = 0x4_0000  # bytes of RAM from its second page on that the good driver takes for its rings
AGENT_PORT, PORT_OPEN, MULTIPORT = 1, 6, 2


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    """The sessions, and the sweep in two parts, one of which is the large range of the PLIC."""
    count, sessions = SESSIONS[form]
    played = [Piece("hostile", {"seed": seed, "first": sessions * n, "sessions": sessions}) for n in range(count)]
    step = 61 if form == "short" else 7
    return [*played, *(Piece("hostile", {"seed": seed, "sweep": part, "step": step}) for part in ("plic", "others"))]


def run(seed: int, first: int = 0, sessions: int = 0, sweep: str = "", step: int = 1) -> Outcome:
    """Play `sessions` from the `first` on, or sweep a part of the devices' ranges."""
    with limited(HEADROOM):
        if sweep:
            return swept(seed, ["plic"] if sweep == "plic" else [name for name in DEVICES if name != "plic"], step)
        outcome = Outcome()
        for number in range(first, first + sessions):
            outcome += played(f"{seed}/{number}", operations(f"{seed}/{number}", LENGTH), thorough=number % 4 == 0)
            if len(outcome.differences) >= SHOWN:
                break
        return outcome


# ---- sessions --------------------------------------------------------------------------------------------------------


def played(seed: str, session: Sequence[Operation], thorough: bool = True) -> Outcome:
    """One session and its end; a difference is made smaller first."""
    faults, board = play(session, thorough)
    counts = {"operations": len(session), "requests": board.requests, "machines restored": int(thorough)}
    if not faults:
        return Outcome(counts)
    short = shrunk(session, thorough)
    told, _ = play(short, thorough)
    listed = "\n".join(f"    {operation!r}" for operation in short)
    return Outcome(counts, (f"session {seed}: {(told or faults)[0]}\n  after, on a fresh board:\n{listed}",))


def play(session: Sequence[Operation], thorough: bool) -> tuple[list[str], Board]:
    """Play it on a fresh board and look at the end of it: the faults, up to the first operation that shows one.

    If `thorough` the whole machine is saved and restored there, which takes as long as a hundred operations.
    """
    gc.collect()  # the last board's machines are in a cycle, and their address space is counted
    board = Board(seed=1)
    for operation in session:
        board.play(operation)
        if board.faults:
            return board.faults, board
    for check in (unchanged, *([restored, recovered, unchanged] if thorough else [recovered])):
        fault = check(board)
        if fault is not None:
            return [*board.faults, f"at the end: {fault}"], board
    return board.faults, board


def unchanged(board: Board) -> str | None:
    """None if RAM is what the guest and its devices have made of it before the board's eyes."""
    return board.untouched()


def shrunk(session: Sequence[Operation], thorough: bool) -> list[Operation]:
    """Fewer operations that still show a fault: pieces of them are left out, larger ones first, as long as it does."""
    left = list(session)
    end = time.monotonic() + SEARCH
    size = len(left) // 2
    while size and time.monotonic() < end:
        at = 0
        while at < len(left) and time.monotonic() < end:
            without = left[:at] + left[at + size :]
            if play(without, thorough)[0]:
                left = without
            else:
                at += size
        size //= 2
    return left


def restored(board: Board) -> str | None:
    """Save the machine, go on with the one restored from those bytes; None if both are the same but for the time."""
    state = board.machine.save()
    descriptor = os.memfd_create("hostile")
    try:
        os.ftruncate(descriptor, board.machine.memory)
        for page, content in board.shadow.pages.items():
            os.pwrite(descriptor, content, page * len(content))
        twin = Machine.restore(state, descriptor, board.disk)
    finally:
        os.close(descriptor)
    again = twin.save()
    board.adopt(twin)
    return None if _timeless(state) == _timeless(again) else f"saved as {state!r}, restored as {again!r}"


def _timeless(state: bytes) -> tuple[object, object]:
    """Devices and hart of a saved machine without the time that has passed."""
    _, _, length, _ = STATE_HEADER.unpack_from(state)
    text, hart = state[STATE_HEADER.size :][:length], json.loads(state[STATE_HEADER.size + length :])
    del hart["mtime"]
    return json.loads(text), hart


# ---- a good driver afterwards ----------------------------------------------------------------------------------------


class GuestMemory:
    """RAM as the good driver writes and reads it: the board knows of each write."""

    def __init__(self, board: Board) -> None:
        self.write, self.read = board.poke, board.machine.cpu.read


def recovered(board: Board) -> str | None:
    """Reset every device and use it as it is meant to be used; None if it works."""
    board.disk.failing = False
    bus = board.machine.bus
    for slot in range(len(VIRTIO)):
        bus.write(_virtio(slot) + 0x70, 4, 0)
    for name in ("rtc", "uart", "plic", "clint"):
        if not WORKS[name](board):
            return f"{name} does not work any more"
    for slot, name in enumerate(VIRTIO):
        board.poke(RAM + 0x8000, bytes(DRIVER_AREA))
        features = FEATURES | (MULTIPORT if slot == 0 else 0)
        driver = Driver.of(board.machine._devices[name], GuestMemory(board), features)
        if not WORKS[name](board, driver):
            return f"{name} does not work after a reset: status {driver.read(0x70):#x}"
        if not bus.read(DEVICES["plic"][0] + 0x1000, 4) >> slot + 1 & 1:
            return f"{name} does not interrupt after a reset"
    bus.write(DEVICES["syscon"][0], 4, 0x5555)
    return None if board.machine.stopped == "poweroff" else "the finisher does not end the machine"


def _virtio(slot: int) -> int:
    return DEVICES[VIRTIO[slot]][0]


def _entropy_works(board: Board, driver: Driver) -> bool:
    first, second = driver.rings[0].ask(64), driver.rings[0].ask(64)
    return bool(first and second) and len(first or b"") == 64 and first != second


def _block_works(board: Board, driver: Driver) -> bool:
    ring, data = driver.rings[0], bytes(range(256)) * 2
    sector = CAPACITY // SECTOR - 1
    wrote = ring.ask(struct.pack("<IIQ", 1, 0, sector), data, 1)
    read = ring.ask(struct.pack("<IIQ", 0, 0, sector), SECTOR, 1)
    return wrote == b"\0" and read == data + b"\0" and bytes(board.disk.data[-SECTOR:]) == data


def _console_works(board: Board, driver: Driver) -> bool:
    port = board.machine.agent
    port.paused = False
    driver.rings[3].ask(struct.pack("<IHH", AGENT_PORT, PORT_OPEN, 1))
    driver.rings[5].ask(b"from the guest")
    port.send(b"for the guest")
    taken = b""
    while port.pending and not driver.broken:
        taken += driver.rings[4].ask(0x1000) or b""
    return board.heard.endswith(b"from the guest") and taken.endswith(b"for the guest")


def _rtc_works(board: Board) -> bool:
    rtc, bus = DEVICES["rtc"][0], board.machine.bus
    for register in (0x10, 0x14, 0x1C, 4, 0):  # quiet, then the time is 0
        bus.write(rtc + register, 4, 0)
    return bus.read(rtc, 4) < 1 << 32 and bus.read(rtc + 4, 4) < 16


def _uart_works(board: Board) -> bool:
    uart, bus, machine = DEVICES["uart"][0], board.machine.bus, board.machine
    for register, value in ((3, 3), (1, 0), (2, 7), (4, 0)):  # no latch, no interrupts, empty FIFOs, no loop
        bus.write(uart + register, 1, value)
    while machine.uart.pending:
        bus.read(uart, 1)
    for byte in b"typed":
        bus.write(uart, 1, byte)
    machine.uart.flush()
    machine.uart.send(b"k")
    return board.heard.endswith(b"typed") and bus.read(uart + 5, 1) & 1 == 1 and bus.read(uart, 1) == ord("k")


def _plic_works(board: Board) -> bool:
    """Complete and claim whatever is under way; then nothing is, since all devices are quiet."""
    plic, bus = DEVICES["plic"][0], board.machine.bus
    for source in range(1, 96):
        bus.write(plic + 4 * source, 4, 1)
    for word in range(3):
        bus.write(plic + 0x2000 + 4 * word, 4, 0xFFFF_FFFF)
    claim = plic + 0x20_0004
    for source in range(1, 96):
        bus.write(claim, 4, source)
    for _ in range(96):
        bus.write(claim, 4, bus.read(claim, 4))
    return bus.read(claim, 4) == 0


def _clint_works(board: Board) -> bool:
    clint, bus, cpu = DEVICES["clint"][0], board.machine.bus, board.machine.cpu
    seen = []
    for level in (1, 0):
        bus.write(clint, 4, level)
        seen.append(cpu.csr(0x344) >> 3 & 1)
    bus.write(clint + 0x4000, 8, 12345)
    return seen == [1, 0] and bus.read(clint + 0x4000, 8) == 12345


WORKS: dict[str, Callable[..., bool]] = {
    "rtc": _rtc_works,
    "uart": _uart_works,
    "plic": _plic_works,
    "clint": _clint_works,
    "virtio0": _console_works,
    "virtio1": _entropy_works,
    "virtio2": _block_works,
}


# ---- the sweep -------------------------------------------------------------------------------------------------------


def swept(seed: int, names: Sequence[str], step: int) -> Outcome:
    """Read and write those devices at each byte and a few bytes outside, and at each width.

    Of a range beyond 4 KiB, and of the empty slots but one, it is every `step`-th byte, and the first 64 of each page.
    """
    board = Board(seed)
    count = 0
    for name in names:
        base, length = DEVICES[name]
        whole = length <= 0x1000 and name not in EMPTY
        offsets = [at for at in range(-8, length + 8) if whole or at % step == 0 or at % 0x1000 < 64]
        if length > 0x10_0000:  # of which most is a hole
            offsets = [at for at in offsets if at < 0x3000 or 0x20_0000 <= at < 0x20_3000 or at % 0x1000 == 0]
        for number, offset in enumerate(offsets):
            for size in (1, 2, 4, 8):
                value = EXTREMES[(number + size) % len(EXTREMES)] & (1 << 8 * size) - 1
                board.play(Load(base + offset, size, guest=number % 4 > 0))
                board.play(Store(base + offset, size, value, guest=number % 4 > 1))
                count += 2
            if len(board.faults) >= SHOWN:
                return Outcome({"operations": count}, tuple(board.faults[:SHOWN]))
    ending = unchanged(board) or restored(board) or recovered(board)
    return Outcome({"operations": count}, (*board.faults, *([ending] if ending else ())))
