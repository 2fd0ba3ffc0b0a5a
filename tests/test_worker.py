"""The real worker, before bare programs of a few instructions: what it passes on, how it sleeps, how it ends."""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sandboxes import ends
from vpod import wire
from vpod.bus import RAM_BASE
from vpod.disasm import encode
from vpod.errors import GuestStopped, WorkerDied
from vpod.link import Link, worker_command
from vpod.machine import UART, Machine
from vpod.worker import HIGH

MEMORY = 64 << 20
UART_LSR = 5

TO_UART = encode("lui", rd="t0", imm=UART)
SELF = encode("jal", rd="zero", imm=0)


def say(text: str) -> list[int]:
    """Instructions that write `text` to the UART, whose address is in t0."""
    pairs = [(encode("addi", rd="t1", rs1="zero", imm=ord(c)), encode("sb", rs2="t1", rs1="t0", imm=0)) for c in text]
    return [word for pair in pairs for word in pair]


POWER_OFF = [
    encode("lui", rd="t0", imm=0x100000),
    encode("lui", rd="t1", imm=0x5000),
    encode("addi", rd="t1", rs1="t1", imm=0x555),
    encode("sw", rs2="t1", rs1="t0", imm=0),
    SELF,
]
SLEEP = [encode("wfi"), encode("jal", rd="zero", imm=-4)]
FLOOD = [TO_UART, *say("x"), encode("jal", rd="zero", imm=-4)]
ECHO = [
    TO_UART,
    encode("lbu", rd="t1", rs1="t0", imm=UART_LSR),
    encode("andi", rd="t1", rs1="t1", imm=1),  # data ready
    encode("beq", rs1="t1", rs2="zero", imm=-8),
    encode("lbu", rd="t1", rs1="t0", imm=0),
    encode("sb", rs2="t1", rs1="t0", imm=0),
    encode("jal", rd="zero", imm=-20),
]


def frozen(program: list[int], folder: Path) -> tuple[bytes, int]:
    """A machine about to run `program`: its state, and a descriptor of its RAM file."""
    machine = Machine(MEMORY)
    machine.cpu.pc = RAM_BASE
    ram = os.open(folder / "ram", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(ram, struct.pack(f"<{len(program)}I", *program))
    os.truncate(ram, MEMORY)
    return machine.save(), ram


@contextmanager
def linked(program: list[int], folder: Path) -> Iterator[tuple[Link, queue.SimpleQueue]]:
    """A link to a worker that runs `program`, and the inbox of one request."""
    state, ram = frozen(program, folder)
    link = Link()
    try:
        inbox: queue.SimpleQueue = queue.SimpleQueue()
        link.open(inbox.put)
        link.start(state, ram)
        yield link, inbox
    finally:
        os.close(ram)
        link.close()


class Raw:
    """A worker at the other end of a bare socket, for callers that break rules no `Link` breaks."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.process = subprocess.Popen(worker_command(), stdin=theirs)
        theirs.close()
        self.socket.settimeout(20)
        self.reader = wire.Reader()
        self.frames: list[tuple[int, bytes]] = []

    def start(self, program: list[int], folder: Path) -> None:
        state, ram = frozen(program, folder)
        socket.send_fds(self.socket, [wire.encode(wire.START, state)], [ram])
        os.close(ram)

    def receive(self, kind: int) -> bytes:
        """The payload of the next frame of that kind."""
        while True:
            while self.frames:
                found, payload = self.frames.pop(0)
                if found == kind:
                    return payload
            data = self.socket.recv(1 << 18)
            if not data:
                raise EOFError
            self.frames += self.reader.feed(data)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


def resident(pid: int) -> int:
    """Bytes of anonymous memory that are the process's own."""
    fields = Path(f"/proc/{pid}/status").read_text().split()
    return int(fields[fields.index("RssAnon:") + 1]) << 10


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_console_and_a_power_off_are_told(tmp_path: Path) -> None:
    with linked([TO_UART, *say("hi\n"), *POWER_OFF], tmp_path) as (link, inbox):
        answer = inbox.get(timeout=20)
        assert isinstance(answer, GuestStopped) and "poweroff" in str(answer)
        assert link.console == b"hi\n"
        assert ends(link.pid)


def test_bytes_to_the_console_reach_the_guest(tmp_path: Path) -> None:
    with Raw() as worker:
        worker.start(ECHO, tmp_path)
        worker.receive(wire.START)
        worker.socket.sendall(wire.encode(wire.CONSOLE, b"round trip"))
        heard = b""
        while len(heard) < 10:
            heard += worker.receive(wire.CONSOLE)
        assert heard == b"round trip"


def test_a_sleeping_guest_costs_no_time_and_still_answers(tmp_path: Path) -> None:
    with linked(SLEEP, tmp_path) as (link, _inbox):
        link.statistics()
        before = cpu_seconds(link.pid)
        time.sleep(1.5)
        assert cpu_seconds(link.pid) - before <= 0.03
        began = time.monotonic()
        assert link.statistics()["instructions"] >= 1
        assert time.monotonic() - began < 0.5


def test_a_busy_guest_answers_within_milliseconds_and_ends_at_once(tmp_path: Path) -> None:
    with linked([SELF], tmp_path) as (link, _inbox):
        first = link.statistics()["instructions"]
        took = []
        for _ in range(20):
            began = time.monotonic()
            last = link.statistics()["instructions"]
            took.append(time.monotonic() - began)
        assert last > first
        assert sorted(took)[10] < 0.05
        began = time.monotonic()
        link.close()
        assert time.monotonic() - began < 1 and ends(link.pid, 0)


def test_a_worker_whose_caller_hangs_up_ends_whatever_its_guest_does(tmp_path: Path) -> None:
    for program in ([SELF], SLEEP, FLOOD):
        with Raw() as worker:
            worker.start(program, tmp_path)
            worker.receive(wire.START)
            worker.socket.close()
            assert worker.process.wait(5) == 0


def test_what_the_caller_does_not_read_stays_bounded_and_is_not_lost(tmp_path: Path) -> None:
    with Raw() as worker:
        worker.start(FLOOD, tmp_path)
        worker.receive(wire.START)
        time.sleep(1.0)
        before = resident(worker.process.pid)
        time.sleep(2.0)
        assert resident(worker.process.pid) - before < 8 * HIGH
        heard = 0
        while heard < 4 * HIGH:
            piece = worker.receive(wire.CONSOLE)
            assert piece.count(b"x") == len(piece)
            heard += len(piece)


def test_what_the_guest_does_not_read_fills_the_socket_and_no_more(tmp_path: Path) -> None:
    with Raw() as worker:
        worker.start([SELF], tmp_path)
        worker.receive(wire.START)
        worker.socket.setblocking(False)
        frame = wire.encode(wire.CONSOLE, bytes(1 << 16))
        sent = 0
        deadline = time.monotonic() + 10
        while sent < 64 * HIGH and time.monotonic() < deadline:
            if not select.select([], [worker.socket], [], 1.0)[1]:
                break
            sent += worker.socket.send(frame)  # what is cut off here is the next frame's beginning: never parsed
        assert sent < 8 * HIGH
        worker.socket.close()
        assert worker.process.wait(5) == 0


class TestWrongCallers:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (wire.encode(wire.AGENT, b"x"), b"first frame must be START or TEMPLATE"),
            (wire.encode(wire.START, b"x"), b"first frame must be START or TEMPLATE"),
            (b"\xff\xff\xff\xff\x01", b"against the rules"),
            (b"\0\0\0\0\x09", b"kind 9"),
        ],
    )
    def test_a_wrong_beginning_is_told(self, data: bytes, message: bytes) -> None:
        with Raw() as worker:
            worker.socket.sendall(data)
            assert message in worker.receive(wire.STOP)
            assert worker.process.wait(5) == 0

    def test_a_second_start_is_told(self, tmp_path: Path) -> None:
        with Raw() as worker:
            worker.start(SLEEP, tmp_path)
            worker.receive(wire.START)
            worker.socket.sendall(wire.encode(wire.START, b"x"))
            assert b"only a new process" in worker.receive(wire.STOP)

    def test_descriptors_sent_later_are_not_taken(self, tmp_path: Path) -> None:
        with Raw() as worker:
            worker.start(SLEEP, tmp_path)
            worker.receive(wire.START)
            before = len(os.listdir(f"/proc/{worker.process.pid}/fd"))
            with open(os.devnull) as null:
                for _ in range(10):
                    socket.send_fds(worker.socket, [wire.encode(wire.STATS)], [null.fileno()])
                    worker.receive(wire.STATS)
            assert len(os.listdir(f"/proc/{worker.process.pid}/fd")) == before

    def test_a_bad_state_is_told_by_its_field(self, tmp_path: Path) -> None:
        state, ram = frozen(SLEEP, tmp_path)
        os.truncate(ram, MEMORY - 4096)
        link = Link()
        inbox: queue.SimpleQueue = queue.SimpleQueue()
        link.open(inbox.put)
        link.start(state, ram)
        answer = inbox.get(timeout=20)
        os.close(ram)
        link.close()
        assert isinstance(answer, WorkerDied) and "RAM file" in str(answer)


def test_the_worker_holds_no_descriptor_but_its_socket(tmp_path: Path) -> None:
    with open(os.devnull) as null:
        os.set_inheritable(null.fileno(), True)
        with linked(SLEEP, tmp_path) as (link, _inbox):
            link.statistics()
            folder = f"/proc/{link.pid}/fd"
            held = {int(name): os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
    assert held.pop(0).startswith("socket:")
    assert set(held.values()) == {os.devnull}


def test_the_ram_file_is_never_written(tmp_path: Path) -> None:
    store = [
        encode("auipc", rd="t0", imm=0),
        encode("sd", rs2="t0", rs1="t0", imm=64),
        encode("ld", rd="t1", rs1="t0", imm=64),
        encode("bne", rs1="t0", rs2="t1", imm=0),
        *POWER_OFF,
    ]
    with linked(store, tmp_path) as (_link, inbox):
        before = (tmp_path / "ram").read_bytes()
        assert "poweroff" in str(inbox.get(timeout=20))
    assert (tmp_path / "ram").read_bytes() == before
