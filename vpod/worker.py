"""The worker process: one machine, one socket, and nothing else.

Why it exists: the emulator runs code that wants to harm its host, so it runs where there is nothing to harm, in a cage
(`vpod.confine`) that is closed before the guest's first instruction. The caller (`vpod.link`, `vpod.template`) starts
this process with the socket as descriptor 0 and no other but the null device, or the log that ``VPOD_LOG`` names, as 1
and 2; the machine's state and its RAM file's descriptor come over that socket, and so does every byte that the guest
ever sees.

A process that is started as a *template* (`vpod.template`) restores its machine in the same way and then waits: for
each FORK it forks a process, which goes on as a worker with a socket of its own. It never runs the machine itself.

One thread: run a slice of about a millisecond, look at the socket, go on. While the guest waits for an interrupt
the worker sleeps in ``select`` until the next timer or frame, so that an idle sandbox uses no CPU.

Invariants:

- The process ends when its socket does: no descriptor, and so no worker, outlives its caller. There is no
  ``PR_SET_PDEATHSIG``, because Linux sends that when the *thread* that started the worker ends, and callers start
  sandboxes from threads that end.
- What the caller doesn't read stays bounded: above `HIGH` bytes unsent the guest stands still until it has read.
  What the guest doesn't read stays bounded: above `HIGH` bytes waiting for it the socket is left alone.
- Whatever goes wrong is told in a STOP frame, ``guest: <reason>`` or ``worker: <error>``; then the process ends.

Example: ``python -I -S -c "import sys; sys.path.insert(0, ROOT); from vpod.worker import main; main()"``.
"""

from __future__ import annotations

import _socket  # `socket` would bring selectors and enum along: 5 ms before the machine starts
import gc
import json  # before the cage closes, as all else
import os
import resource
import select
from struct import calcsize, unpack
from typing import TYPE_CHECKING, Final

from vpod import confine, wire
from vpod._host import clone_sibling

if TYPE_CHECKING:
    from vpod.machine import Machine

__all__ = ["HIGH", "IDLE", "Worker", "main"]

HIGH: Final = 1 << 20  # bytes on their way in either direction before somebody has to wait
ADDRESS_SPACE: Final = 1536 << 20  # bytes beside RAM: Python, decoded blocks and translated code, which may be 1 GiB
IDLE: Final = 300.0  # seconds that a template of no use waits
_RECEIVE: Final = 256 << 10
_SLICE: Final = 0.001  # seconds of guest time between two looks at the socket


class CallerGone(Exception):
    """The socket ended: so does the worker, without a word."""


class Worker:
    """The loop around one machine. `socket` is connected and non-blocking."""

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._reader = wire.Reader()
        self._unsent = bytearray()
        self._agent = bytearray()  # what the guest said since the last look, to be one frame
        self._console = bytearray()
        self._ending = False

    def receive_start(self) -> tuple[int, bytes, int]:
        """Wait for START or TEMPLATE: which it is, the machine's state, and its RAM file's descriptor, to be closed."""
        rule = "the first frame must be START or TEMPLATE"
        return self._receive_with_descriptor((wire.START, wire.TEMPLATE), rule, None)

    def wait_as_template(self, machine: Machine) -> None:
        """Fork a process for each FORK; returns in these processes only, each with a socket of its own."""
        now = machine.cpu.mtime
        tighter = _cage(machine, forks=False)
        absent = confine.close(_cage(machine, forks=True))
        gc.collect()
        gc.freeze()  # so that collections in the workers don't write to what they share
        while True:
            _, _, descriptor = self._receive_with_descriptor((wire.FORK,), "a template is told nothing but FORK", IDLE)
            try:
                pid = clone_sibling()
                answer = wire.encode(wire.FORK, pid.to_bytes(4, "little"))
            except OSError as error:
                pid, answer = -1, wire.encode(wire.STOP, f"worker: {error}".encode())
            if pid == 0:
                os.setsid()
                os.dup2(descriptor, self._socket.fileno())
                os.close(descriptor)
                self._socket.setblocking(False)
                self._reader = wire.Reader()
                self._unsent.clear()  # what was for the template's caller
                confine.tighten(tighter, absent)
                machine.cpu.mtime = now  # the guest's time stood still
                return
            os.close(descriptor)
            self._unsent += answer
            self._send()

    def _receive_with_descriptor(
        self, kinds: tuple[int, ...], rule: str, patience: float | None
    ) -> tuple[int, bytes, int]:
        """The next frame, of one of these kinds, alone, with one descriptor beside it; `WireError` says the `rule`.

        `CallerGone` if nothing comes for `patience` seconds.
        """
        descriptors: list[int] = []
        while True:
            if not select.select([self._socket], [], [], patience)[0]:
                raise CallerGone
            data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE, 64)
            for level, kind, value in ancillary:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    count = len(value) // calcsize("i")
                    descriptors += unpack(f"{count}i", value[: count * calcsize("i")])
            if not data:
                raise CallerGone
            frames = self._reader.feed(data)
            if not frames:
                continue
            (kind, payload), *more = frames
            if kind not in kinds or more or len(descriptors) != 1:
                raise wire.WireError(f"{rule}, alone, and carry one descriptor")
            return kind, payload, descriptors[0]

    def serve(self, machine: Machine) -> str:
        """Run the machine until it stops, and return why; `CallerGone` when the socket ends or STOP comes first."""
        machine.agent.output = self._agent.extend
        machine.uart.output = self._console.extend
        self._unsent += wire.encode(wire.START, os.getpid().to_bytes(4, "little"))
        while machine.stopped is None:
            sleep = 0.0 if self._blocked else machine.slice(_SLICE)
            self._collect()
            self._exchange(machine, sleep)
        return machine.stopped

    def finish(self, reason: str) -> None:
        """Send what is unsent and the STOP frame, waiting for a caller that reads; give up when it doesn't."""
        self._collect()
        self._unsent += wire.encode(wire.STOP, reason.encode("utf-8", "replace")[: wire.MAX_PAYLOAD])
        while self._unsent:
            _, writable, _ = select.select([], [self._socket], [], 5.0)
            if not writable:
                return
            self._send()

    @property
    def _blocked(self) -> bool:
        """The caller has a whole `HIGH` to read before the guest may say more."""
        return len(self._unsent) > HIGH

    def _collect(self) -> None:
        """Frame what the guest said during the last slice."""
        for kind, said in ((wire.AGENT, self._agent), (wire.CONSOLE, self._console)):
            while said:
                self._unsent += wire.encode(kind, said[: wire.MAX_PAYLOAD])
                del said[: wire.MAX_PAYLOAD]

    def _exchange(self, machine: Machine, sleep: float | None) -> None:
        """Send and receive what is possible now; wait for it up to `sleep` seconds (``None``: until it is)."""
        if self._unsent:
            self._send()
        if self._blocked:
            sleep = None
        if machine.agent.pending + machine.uart.pending > HIGH:
            self._wait_while_full(sleep)
            return
        readable, writable, _ = select.select([self._socket], [self._socket] if self._unsent else [], [], sleep)
        if writable:
            self._send()
        if readable:
            self._receive(machine)

    def _wait_while_full(self, sleep: float | None) -> None:
        """The guest has enough to read: wait without looking at the socket, except for its end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT if self._unsent else 0)
        for _, event in poll.poll(None if sleep is None else sleep * 1000):
            if event & (select.POLLHUP | select.POLLERR):
                raise CallerGone
            self._send()

    def _receive(self, machine: Machine) -> None:
        data = self._socket.recv(_RECEIVE)
        if not data:
            raise CallerGone
        for kind, payload in self._reader.feed(data):
            if kind == wire.AGENT:
                machine.agent.send(payload)
            elif kind == wire.CONSOLE:
                machine.uart.send(payload)
            elif kind == wire.STOP:
                raise CallerGone
            elif kind == wire.STATS:
                self._unsent += wire.encode(wire.STATS, self._statistics(machine))
            else:
                raise wire.WireError("what only a new process or a template is told")
        machine.service()  # so that the guest's interrupt is there before its next instruction

    def _statistics(self, machine: Machine) -> bytes:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "instructions": machine.cpu.instret,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "max_resident": usage.ru_maxrss,
            "unread_by_guest": machine.agent.pending,
            "unread_by_caller": len(self._unsent),
        }
        return json.dumps(figures).encode()

    def _send(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            raise CallerGone from error


def _cage(machine: Machine, forks: bool) -> confine.Cage:
    """The cage of this process: address space for the machine, its code, and as much again as Python may need."""
    log = os.fstat(2).st_mode & 0o170000 == 0o100000  # a regular file
    return confine.Cage(machine.memory + ADDRESS_SPACE, machine.cpu.code_memory, forks, log)


def main() -> None:
    """The process's entry: serve the caller at the other end of descriptor 0, then end."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, 0)
    socket.setblocking(False)
    worker = Worker(socket)
    try:
        worker.finish(_run(worker))
    except (CallerGone, OSError):
        os._exit(0)  # nobody is left to tell; and no time is spent on taking the interpreter down
    os._exit(0)


def _run(worker: Worker) -> str:
    """What `main` reports: the machine's own end, or the error that kept it from going on."""
    try:
        from vpod.machine import Machine

        kind, state, ram_fd = worker.receive_start()
        machine = Machine.restore(state, ram_fd)
        os.close(ram_fd)
        if kind == wire.TEMPLATE:
            worker.wait_as_template(machine)
        else:
            confine.close(_cage(machine, forks=False))
        return f"guest: {worker.serve(machine)}"
    except CallerGone:
        raise
    except MemoryError:
        return "worker: MemoryError: the host has no memory left for this sandbox"
    except Exception as error:  # told to the caller in full, who raises it as WorkerDied
        return f"worker: {type(error).__name__}: {error}"
