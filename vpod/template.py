"""Templates: processes that hold a thawed machine and never run it, of which each new sandbox's worker is a fork.

Why it exists: to start an interpreter, import the emulator and restore a machine takes tens of milliseconds, to fork a
process that has done so takes one. `fork` gives the link to a new worker, starting a template first where none of that
snapshot and tier waits.

Invariants:

- A template has the snapshot and nothing else: no environment, no secret, no randomness of any caller's.
- Templates belong to this process. A fork of this process has none; when this process ends, they see their socket end.
- A worker is this process's child, not its template's (``CLONE_PARENT``): a template that dies takes nobody along.
- A template that was of no use for `IDLE` seconds ends by itself; `clear` ends all. Both are waited for.

Example::

    link = template.fork(snapshots.locate("debian:13"), Tier.chosen())
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final

from vpod import wire
from vpod.errors import SandboxError, WorkerDied
from vpod.link import Link, reason_of, start_process

if TYPE_CHECKING:
    from vpod.snapshots import Cached
    from vpod.tier import Tier

__all__ = ["Template", "clear", "fork", "possible"]

PATIENCE: Final = 60.0  # seconds for an answer; a host that swaps is slow
_FIRST: Final = struct.Struct("<IBI")  # a START frame of four bytes: the worker's process id
_Key = tuple[str, tuple[tuple[str, str], ...]]


class _Gone(Exception):
    """The template ended before it could fork; another one can be started."""


class Template:
    """One template process, from the caller's side. Safe to use from any thread."""

    def __init__(self, tier: Tier) -> None:
        """Start the process; it needs its machine (`start`) before it can do anything. `WorkerDied` if it can't be."""
        self._lock = threading.Lock()
        self._reader = wire.Reader()
        self._ended = False
        self.pid, self._socket = start_process(tier)
        self._socket.settimeout(PATIENCE)

    def start(self, cached: Cached) -> None:
        """Give it the snapshot. What is wrong with that is told by `fork`."""
        ram = os.open(cached.ram_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(ConnectionError):  # `fork` finds out why
                frame = wire.encode(wire.TEMPLATE, cached.state)
                sent = socket.send_fds(self._socket, [frame], [ram])
                self._socket.sendall(memoryview(frame)[sent:])
        finally:
            os.close(ram)

    def fork(self) -> Link:
        """A link to a new worker, whose machine is about to run. `WorkerDied` says why there is none."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                with theirs:
                    if self._ended:
                        raise _Gone
                    with contextlib.suppress(ConnectionError):
                        socket.send_fds(self._socket, [wire.encode(wire.FORK)], [theirs.fileno()])
                pid = self._child(ours)
            return Link(process=(pid, ours))
        except BaseException:
            ours.close()
            raise

    def close(self) -> None:
        """End the process and wait for that. May be called again."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._socket.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def ended(self) -> bool:
        """It has ended by itself, or was closed. What it leaves behind is taken away."""
        poll = select.poll()
        with self._lock:
            if self._ended:
                return True
            poll.register(self._socket, 0)
            if not poll.poll(0):
                return False
        self.close()
        return True

    def leave_to_parent(self) -> None:
        """In the child of a fork of this process: the template is the parent's."""
        self._lock = threading.Lock()
        self._ended = True
        self._socket.close()

    def _child(self, ours: socket.socket) -> int:
        """The new worker's process id. The template says it, or why there is none; else the worker's first words do."""
        try:
            while data := self._socket.recv(wire.MAX_PAYLOAD):
                for kind, payload in self._reader.feed(data):
                    if kind == wire.FORK and len(payload) == 4:
                        return int.from_bytes(payload, "little")
                    raise reason_of(payload)
        except TimeoutError:
            raise WorkerDied(f"its template forked no worker within {PATIENCE:g} s; the host may be too busy") from None
        except wire.WireError as error:
            raise WorkerDied(f"the template of this sandbox broke the protocol: {error}") from None
        except ConnectionError:
            pass
        ours.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):  # the template is gone: after the fork, or before
            said = ours.recv(_FIRST.size, socket.MSG_WAITALL)
            if len(said) == _FIRST.size:
                return int(_FIRST.unpack(said)[2])
        raise _Gone


def possible() -> bool:
    """Can this host fork workers from templates?"""
    from vpod._host import CAN_CLONE_SIBLINGS

    return CAN_CLONE_SIBLINGS


def prepare(tier: Tier) -> Template | None:
    """A process without a snapshot yet, if none of this tier waits with one: it starts up while that is looked for."""
    kind = tuple(sorted(tier.environment().items()))
    with _registry:
        if any(key[1] == kind for key in _templates):
            return None
    return Template(tier)


def fork(cached: Cached, tier: Tier, prepared: Template | None = None) -> Link:
    """The link to a new worker for this snapshot. `prepared` becomes its template if there is none, else it is ended.

    Raises `WorkerDied` with the reason: no process can be had, the snapshot's state is damaged.
    """
    key: _Key = (cached.id, tuple(sorted(tier.environment().items())))
    for _ in range(3):  # a template may end at any time
        with _registry:
            _bury()
            template = _templates.get(key)
            if template is None:
                template, prepared = prepared or Template(tier), None
                try:
                    template.start(cached)
                except BaseException:
                    template.close()
                    raise
                _templates[key] = template
        if prepared is not None:
            prepared.close()
            prepared = None
        try:
            return template.fork()
        except _Gone:
            _forget(template)
        except SandboxError:  # what it says, it says before it ends; what it can't do, another one may
            _forget(template)
            raise
    raise WorkerDied("templates of this snapshot end before they can fork; set VPOD_LOG=FILE to see what they write")


def clear() -> None:
    """End all templates of this process; the next sandbox starts one."""
    with _registry:
        ending = list(_templates.values())
        _templates.clear()
    for template in ending:
        template.close()


def _forget(template: Template) -> None:
    with _registry:
        for key in [key for key, known in _templates.items() if known is template]:
            del _templates[key]
    template.close()


def _bury() -> None:
    """Take away the templates that have ended. Needs the registry's lock."""
    for key in [key for key, template in _templates.items() if template.ended()]:
        del _templates[key]


def _after_fork() -> None:
    global _registry
    _registry = threading.Lock()
    for template in _templates.values():
        template.leave_to_parent()
    _templates.clear()


_registry = threading.Lock()
_templates: dict[_Key, Template] = {}
os.register_at_fork(after_in_child=_after_fork)
