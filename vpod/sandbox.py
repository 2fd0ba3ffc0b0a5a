"""A sandbox: one running machine, and the door to it.

Why it exists: ``Sandbox.create()`` is where a caller begins. It starts a worker, thaws a snapshot in it, gives the
guest fresh randomness and the right time, and returns when the guest has said that it is ready.

Invariants:

- The worker lives exactly as long as the sandbox: ``close``, the end of a ``with`` and garbage collection end it.
- Two sandboxes share no randomness: each gets 64 bytes of the host's before it answers its first command.
- All methods may be called from any thread.

Example::

    with Sandbox.create(env={"TZ": "UTC"}) as box:
        print(box.commands.run("whoami").stdout)                       # root
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from vpod import confine, protocol, template
from vpod.client import Greeting, check_environment, run_request
from vpod.errors import AgentError, SandboxError, SettingError
from vpod.link import Link
from vpod.protocol import Kind
from vpod.tier import Jit, Tier

if TYPE_CHECKING:
    from vpod.code import Code
    from vpod.commands import Commands
    from vpod.snapshots import Cached
    from vpod.template import Template

__all__ = ["START_TIMEOUT", "Sandbox"]

START_TIMEOUT: Final = 60.0


class Sandbox:
    """A running Linux machine. Made by `create`, ended by `close`."""

    def __init__(self, link: Link, cached: Cached, env: Mapping[str, str]) -> None:
        """Not for callers: use `Sandbox.create`."""
        self.link: Final = link
        self.env: Final = dict(env)
        self.meta: Final[Mapping[str, Any]] = cached.meta
        self.python = False
        self.shell = "/bin/sh"
        self._without_environment: set[Kind] = set()
        self._finalizer = weakref.finalize(self, link.abandon)

    @classmethod
    def create(
        cls,
        snapshot: str | os.PathLike[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = START_TIMEOUT,
        progress: Callable[[int, int], None] | None = None,
        quiet: bool = False,
        jit: Jit = None,
        isolation: Literal["default", "strict"] = "default",
    ) -> Sandbox:
        """Start a sandbox from `snapshot`: ``NAME[:TAG]``, or the path of a ``.snap`` file.

        ``None`` is the default snapshot. One that is not on this machine is fetched or made first, which takes minutes;
        `progress` then hears of bytes done and of all there are, and a build reports to standard error unless it is to
        be `quiet`. `env` holds variables for the session, for every command and for the Python runner. `timeout` is how
        many seconds the guest may take to report ready once its snapshot is there. `jit` says how guest code is run:
        ``True`` translates what is hot, ``False`` interprets, ``"force"`` translates all; ``None`` leaves that to the
        environment variable ``VPOD_JIT``. The worker is confined by every means that this host has; with
        ``isolation="strict"`` all must be there, else `SettingError` names those that aren't (`vpod doctor` does too).

        Raises `SnapshotNotFound`, `SnapshotDamaged`, `SnapshotTooNew`; `BuildError`, `SourceError` and `RegistryError`
        when a snapshot must be made or fetched and can't be; `WorkerDied`, `GuestStopped`, `AgentError` when it doesn't
        start; `ValueError` for an `env` that no process can have; `SettingError`, one too, for another `jit`.
        """
        variables = dict(env or {})
        check_environment(variables)
        tier = Tier.chosen(jit)
        _check_isolation(isolation)
        prepared: Template | Link | None  # first: it starts up while the snapshot is looked up
        prepared = template.prepare(tier) if template.possible() else Link(tier=tier)
        try:
            from vpod import snapshots

            if snapshot is None:
                cached = snapshots.default(progress, quiet=quiet)
            else:
                named = snapshot if isinstance(snapshot, str) else os.path.abspath(snapshot)
                cached = snapshots.locate(named, progress=progress, quiet=quiet)
        except BaseException:
            if prepared is not None:
                prepared.close()
            raise
        link = prepared if isinstance(prepared, Link) else template.fork(cached, tier, prepared)
        try:
            if link is prepared:
                link.thaw(cached.state, cached.ram_path)
            box = cls(link, cached, variables)
            box._start(timeout)
        except BaseException:
            link.close()
            raise
        return box

    @property
    def commands(self) -> Commands:
        """Commands in this sandbox's guest."""
        from vpod.commands import Commands

        return Commands(self)

    @property
    def code(self) -> Code:
        """Python code in this sandbox's guest."""
        from vpod.code import Code

        return Code(self)

    @property
    def name(self) -> str:
        """``NAME:TAG`` of the snapshot that this sandbox was started from."""
        return f"{self.meta.get('name', 'unnamed')}:{self.meta.get('tag', 'latest')}"

    @property
    def closed(self) -> bool:
        """Nothing can be asked of it any more: it was closed, or it has failed."""
        return self.link.failure is not None

    def close(self) -> None:
        """End the machine and its worker at once. May be called again; every other call raises `SandboxClosed` then."""
        self._finalizer.detach()
        self.link.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sandbox of {self.name}, {'closed' if self.closed else f'worker {self.link.pid}'}>"

    def _start(self, timeout: float) -> None:
        """Give the guest its randomness and time, and wait until it is ready."""
        deadline = time.monotonic() + timeout
        notice = protocol.restore_payload(time.time_ns(), os.urandom(protocol.ENTROPY_SIZE))
        greeting = Greeting(self._ask(Kind.RESTORE, notice, Kind.READY, deadline))
        if greeting.version != protocol.VERSION:
            raise AgentError(
                f"the snapshot {self.name} speaks version {greeting.version} of the agent's protocol, this vpod speaks"
                f" {protocol.VERSION}; make the snapshot again with this vpod's vpod-build"
            )
        self.python, self.shell = greeting.python, greeting.shell
        for kind in (Kind.RUN, Kind.CODE) if self.python else (Kind.RUN,):
            self.lost(kind)
            self.renew_environment(kind, deadline - time.monotonic())

    def renew_environment(self, kind: Kind, timeout: float = START_TIMEOUT) -> None:
        """Give the sandbox's variables to a session (RUN) or Python runner (CODE) that has been started anew."""
        if kind not in self._without_environment:
            return
        self._without_environment.discard(kind)
        from vpod.code import environment_code
        from vpod.commands import environment_script

        payload = run_request(environment_script(self.env)) if kind == Kind.RUN else environment_code(self.env)
        code, _ = protocol.parse_exit(self._ask(kind, payload, Kind.EXIT, time.monotonic() + timeout))
        if code != 0:
            raise AgentError(f"the guest could not set the environment (exit code {code}): {', '.join(self.env)}")

    def lost(self, kind: Kind) -> None:
        """The session or the runner had to be started anew: before its next request it gets its variables again."""
        if self.env:
            self._without_environment.add(kind)

    def _ask(self, kind: Kind, payload: bytes, answer: Kind, deadline: float) -> bytes:
        """The payload of the first frame of kind `answer`; others of the same request are passed over."""
        inbox: queue.SimpleQueue[protocol.Frame | SandboxError] = queue.SimpleQueue()
        id = self.link.open(inbox.put)
        try:
            self.link.send(kind, id, payload)
            while True:
                with contextlib.suppress(queue.Empty):
                    item = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
                    if not isinstance(item, protocol.Frame):
                        raise item
                    if item.kind == Kind.ERROR:
                        raise protocol.error(item.payload)
                    if item.kind == answer:
                        return item.payload
                    continue
                raise AgentError(f"the guest did not answer {kind.name} in time; the snapshot {self.name} may be bad")
        finally:
            self.link.finish(id)


def _check_isolation(isolation: str) -> None:
    """`SettingError` if it is no isolation, or one that this host can't give."""
    if isolation not in ("default", "strict"):
        raise SettingError(f"isolation is {isolation!r}; 'default' and 'strict' are known")
    if isolation == "strict" and (absent := confine.missing()):
        raise SettingError(f"isolation='strict', but this host has no {', no '.join(absent)}; see vpod doctor")
