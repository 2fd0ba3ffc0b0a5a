"""The caller's side of a worker: start it, pass bytes both ways, say in one sentence how it ended.

Why it exists: a worker is a process that may be taken over by its guest, may be killed, may hang. This file is the
only one that knows it is a process at all; everybody above asks requests and gets frames or one typed error.

One thread a link reads the socket and hands frames out; any thread may send. Sending never blocks: what the
socket doesn't take at once is queued (at most `MAX_UNSENT` bytes) and sent by the reading thread, so that a guest
that has stopped reading can't hold a caller past its time-out.

Invariants:

- The worker inherits a socket as descriptor 0, the null device (or the file that ``VPOD_LOG`` names) as 1 and 2, and an
  environment without the caller's secrets. It leads its own process group: a Ctrl-C at the terminal is not for it.
- When the worker ends, however it ends, every pending request gets a `SandboxError` at once: `GuestStopped` with the
  reason, or `WorkerDied` with the signal or the error.
- After ``close`` the process is gone and reaped. A fork of the caller gets none of it: the child's copies of the
  descriptors are closed, and its sandboxes are closed ones.

Example::

    link = Link()                                # the worker starts up while the caller looks for a snapshot
    link.start(state, ram_fd)
    id = link.open(inbox.put)
    link.send(Kind.HELLO, id, payload)
    frame = inbox.get()
    link.close()
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Final

from vpod import protocol, wire
from vpod.client import Client, Deliver
from vpod.errors import AgentError, GuestStopped, SandboxClosed, SandboxError, WorkerDied
from vpod.tier import Tier

__all__ = ["MAX_UNSENT", "Link", "reason_of", "start_process", "worker_command"]

MAX_UNSENT: Final = 16 << 20
_RECEIVE: Final = 256 << 10
_CONSOLE_KEPT: Final = 64 << 10
_END_WAIT: Final = 1.0  # seconds between the end of a worker's socket and the end of its process
_CLOSED: Final = "this sandbox is closed; create another with Sandbox.create()"

_HINTS: Final = {
    signal.SIGKILL: "; the host may be out of memory",
    getattr(signal, "SIGSYS", 0): ": it made a system call that its cage forbids",
}

# What a worker's interpreter may need to find its own libraries; never the rest, which may hold secrets.
_INHERITED: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")


def worker_command() -> list[str]:
    """The command of a worker: this interpreter, isolated, with nothing on its path but itself and vpod."""
    if not sys.executable:
        raise WorkerDied("a worker needs this Python's interpreter, but sys.executable is empty; set it to its path")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = f"import sys; sys.path.insert(0, {root!r}); from vpod.worker import main; main()"
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", program]


class Link:
    """One worker process and the conversation with its guest's agent. Safe to use from any thread.

    Starts a process, or takes `process`, a child of this one and the socket to it. `command` is for tests that put
    something else in the worker's place; `tier` says how guest code is run (``None``: as the environment has it).
    `WorkerDied` if no process can be started, `SettingError` if the environment asks nonsense.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        tier: Tier | None = None,
        *,
        process: tuple[int, socket.socket] | None = None,
    ) -> None:
        pid, self._socket = start_process(tier or Tier.chosen(), command) if process is None else process
        self._pid = pid
        self._client = Client()
        self._lock = threading.RLock()  # guards the client and what is unsent
        self._unsent = bytearray()
        self._console = bytearray()
        self._statistics: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._held: dict[int, int] = {}  # bytes delivered to slow readers and not taken yet, by request
        self._reaping = threading.RLock()
        self._reaped = self._killed = self._closing = False
        self._status: int | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._socket.setblocking(False)
        self._thread = threading.Thread(target=self._read, name=f"vpod-{self._pid}", daemon=True)
        self._thread.start()
        _links.add(self)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._pid

    @property
    def console(self) -> bytes:
        """The last 64 KiB that the guest wrote to its serial console, for whoever wonders why it stopped."""
        return bytes(self._console)

    @property
    def failure(self) -> SandboxError | None:
        """Why the link is of no more use, or ``None`` while it is."""
        return self._client.failure

    def start(self, state: bytes, ram_fd: int) -> None:
        """Give the worker its machine. The descriptor stays the caller's to close."""
        frame = wire.encode(wire.START, state)
        with self._lock:
            if (failure := self._client.failure) is not None:
                raise failure
            sent = 0
            if not self._unsent:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", ram_fd))]
                # A worker that died already is reported by the reading thread, with its reason.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sent = self._socket.sendmsg([frame], rights)
            self._queue(frame[sent:])

    def thaw(self, state: bytes, ram: str | os.PathLike[str]) -> None:
        """`start` with the RAM file at `ram`."""
        descriptor = os.open(ram, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.start(state, descriptor)
        finally:
            os.close(descriptor)

    def open(self, deliver: Deliver) -> int:
        """Begin a request: see `Client.open`. Raises why the link is of no more use when it isn't."""
        with self._lock:
            return self._client.open(deliver)

    def finish(self, id: int) -> None:
        """End a request: whatever is still said about it is dropped."""
        with self._lock:
            self._client.close(id)
        with self._room:
            if self._held.pop(id, None) is not None:
                self._room.notify_all()

    def send(self, kind: protocol.Kind, id: int, payload: bytes = b"") -> None:
        """Send one frame to the agent. Never blocks; a guest that takes nothing makes it raise `SandboxError`."""
        data = protocol.frame(kind, id, payload)
        frames = b"".join(
            wire.encode(wire.AGENT, data[at : at + wire.MAX_PAYLOAD]) for at in range(0, len(data), wire.MAX_PAYLOAD)
        )
        self._send(frames)

    def hold(self, id: int, size: int) -> None:
        """Count `size` delivered bytes that request `id` has to take yet (negative: has taken).

        Above a mebibyte the reading thread waits, the socket fills, and the guest stands still. Only for requests
        whose reader asks nothing else of this link meanwhile, or it would wait for itself.
        """
        with self._room:
            self._held[id] = self._held.get(id, 0) + size
            if size < 0:
                self._room.notify_all()

    def statistics(self, timeout: float = 5.0) -> dict[str, float]:
        """What the worker says of itself: instructions, CPU seconds, resident memory, bytes on their way."""
        import json

        self._send(wire.encode(wire.STATS))
        try:
            figures = json.loads(self._statistics.get(timeout=timeout))
        except (queue.Empty, ValueError, RecursionError) as error:
            raise WorkerDied(f"the worker gave no statistics within {timeout:g} s: {error!r}") from error
        if not isinstance(figures, dict):
            raise WorkerDied("the worker gave statistics that are none")
        return {name: value for name, value in figures.items() if isinstance(value, (int, float))}

    def close(self) -> None:
        """End the worker and wait until it has ended. May be called again, from any thread."""
        self._closing = True
        self._fail(SandboxClosed(_CLOSED))
        self._reap(0.0)
        self.abandon()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self) -> None:
        """End the worker without waiting and without a lock: for a garbage collector, which may run anywhere.

        The worker sees its socket end; the reading thread sees it too and cleans up.
        """
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, data: bytes) -> None:
        with self._lock:
            if (failure := self._client.failure) is not None:
                raise failure
            if len(self._unsent) + len(data) > MAX_UNSENT:
                raise SandboxError(
                    f"the guest has {len(self._unsent)} bytes to read and takes none; wait, or close the sandbox"
                )
            self._queue(data)

    def _queue(self, data: bytes) -> None:
        """Send now what the socket takes, and leave the rest to the reading thread. Needs the lock."""
        sent = 0
        if not self._unsent:
            with contextlib.suppress(OSError):  # full, or dead: the reading thread finds out which
                sent = self._socket.send(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"x")

    def _read(self) -> None:
        """The reading thread: until the socket ends, then say why and leave nothing behind."""
        reader = wire.Reader()
        ending: SandboxError | None = None
        patience = _END_WAIT
        try:
            while ending is None:
                self._wait()
                ending = self._receive(reader)
        except AgentError as error:
            ending, patience = error, 0.0
        except wire.WireError as error:
            ending, patience = WorkerDied(f"the worker broke the protocol and was ended: {error}"), 0.0
        except OSError as error:
            ending, patience = WorkerDied(f"the worker cannot be reached any more: {error}"), 0.0
        self._fail(SandboxClosed(_CLOSED) if self._closing else ending)
        self._reap(patience)
        self._close_descriptors()

    def _wait(self) -> None:
        """Sleep until there is something to read; send what is unsent meanwhile; let slow readers catch up."""
        with self._room:
            while not self._closing and any(held > wire.MAX_PAYLOAD for held in self._held.values()):
                self._room.wait(0.1)  # `abandon` takes no lock, so it can't notify
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for descriptor, event in poll.poll():
            if descriptor == self._wake_read:
                os.read(descriptor, 64)
            elif event & select.POLLOUT:
                self._send_unsent()

    def _send_unsent(self) -> None:
        with self._lock:
            try:
                del self._unsent[: self._socket.send(self._unsent)]
            except BlockingIOError:
                return
            except ConnectionError:  # nobody takes it any more; what the worker said last is still to be read
                self._unsent.clear()

    def _receive(self, reader: wire.Reader) -> SandboxError | None:
        """Read once and hand out what came. Returns how the worker ended, if it did."""
        try:
            data = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return None
        except ConnectionError:  # it ended before it read everything
            data = b""
        if not data:
            self._reap(_END_WAIT)
            return self._epitaph()
        for kind, payload in reader.feed(data):
            if kind == wire.AGENT:
                with self._lock:
                    self._client.feed(payload)
            elif kind == wire.CONSOLE:
                self._console += payload
                del self._console[:-_CONSOLE_KEPT]
            elif kind == wire.STATS:
                self._statistics.put(payload)
            elif kind == wire.STOP:
                return reason_of(payload, self.console)
        return None

    def _epitaph(self) -> WorkerDied:
        """How the process ended, for one that did not say so itself."""
        if self._status is None:
            return WorkerDied("the worker process ended, and something else in this process took its exit status")
        if self._killed:
            return WorkerDied("the worker process closed its socket and hung; it was ended, its sandbox is lost")
        code = os.waitstatus_to_exitcode(self._status)
        if code >= 0:
            return WorkerDied(
                f"the worker process ended with exit code {code} and gave no reason;"
                " set VPOD_LOG=FILE to see what it writes"
            )
        hint = _HINTS.get(-code, "")
        return WorkerDied(f"the worker process was ended by {_signal_name(-code)}{hint}; its sandbox is lost")

    def _fail(self, failure: SandboxError) -> None:
        with self._lock:
            self._client.fail(failure)

    def _reap(self, patience: float) -> None:
        """Take the worker's exit status; kill it first if it is still there after `patience` seconds."""
        with self._reaping:
            if self._reaped:
                return
            deadline = time.monotonic() + patience
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                while pid == 0 and time.monotonic() < deadline:
                    time.sleep(0.001)
                    pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid == 0:  # still our child, so the number is still its
                    os.kill(self._pid, signal.SIGKILL)
                    self._killed = True
                    pid, status = os.waitpid(self._pid, 0)
                self._status = status
            except ChildProcessError:
                pass
            self._reaped = True

    def _close_descriptors(self) -> None:
        with self._lock:  # so that nobody is about to use them; whoever comes later meets the failure first
            self._socket.close()
            ours, self._wake_read, self._wake_write = (self._wake_read, self._wake_write), -1, -1
            for descriptor in ours:  # once only: a second time the number may be somebody else's
                if descriptor >= 0:
                    os.close(descriptor)

    def _leave_to_parent(self) -> None:
        """In the child of a fork: the worker is the parent's. Other threads are gone, and their locks may be held."""
        self._lock = threading.RLock()
        self._reaping = threading.RLock()
        self._reaped = self._closing = True
        self._client.fail(SandboxClosed("this sandbox belongs to the process that forked this one; create another"))
        self._close_descriptors()


def start_process(tier: Tier, command: Sequence[str] | None = None) -> tuple[int, socket.socket]:
    """Start a worker or a template: its process id, and our end of the socket to it. `WorkerDied` if none can be."""
    ours, theirs = socket.socketpair()
    try:
        return _spawn(worker_command() if command is None else command, theirs, tier.environment()), ours
    except OSError as error:
        ours.close()
        raise WorkerDied(f"no worker process could be started: {error}") from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def _spawn(command: Sequence[str], theirs: socket.socket, chosen: dict[str, str]) -> int:
    """Start the worker with `theirs` as its descriptor 0 and `chosen` in its environment; return its process id."""
    spare = -1
    descriptor = theirs.fileno()
    if descriptor <= 2:  # the caller has closed a standard descriptor, and `dup2` onto itself would do nothing
        descriptor = spare = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    log = os.path.abspath(os.environ.get("VPOD_LOG") or os.devnull)
    actions = [
        (os.POSIX_SPAWN_DUP2, descriptor, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
    ]
    environment = chosen | {name: os.environ[name] for name in _INHERITED if name in os.environ}
    try:
        return os.posix_spawn(command[0], list(command), environment, file_actions=actions, setpgroup=0, setsigmask=[])
    finally:
        if spare >= 0:
            os.close(spare)


def reason_of(payload: bytes, console: bytes = b"") -> SandboxError:
    """The error that a STOP frame stands for; `console` is what the guest wrote last."""
    who, _, what = payload.decode("utf-8", "replace").partition(": ")
    if who == "worker":
        return WorkerDied(f"the worker failed: {_printable(what)}")
    message = f"the guest stopped: {_printable(what or who)}"
    if what == "panic":
        text = console.decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if "panic" in line.lower()][-1:]
        message += "".join(f" ({_printable(line)})" for line in lines)
    return GuestStopped(message)


def _printable(text: str) -> str:
    """Text from the other side, fit for a message on a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:2000])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _after_fork() -> None:
    for link in list(_links):
        link._leave_to_parent()


_links: weakref.WeakSet[Link] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
