"""Commands in a sandbox: ``box.commands.run(...)`` and what it gives.

Why it exists: this is what most callers use vpod for. A command given as text runs in the sandbox's one persistent
session, so ``cd``, ``export`` and functions stay; a command given as a list of arguments is started directly, without
a shell and beside the session.

Invariants:

- A command that fails is a result, not an exception; exceptions are for sandboxes that fail.
- `CommandResult` holds every byte that the command printed, unchanged.
- Commands of the session run one after another, whatever the number of threads that ask for them.

Example::

    r = box.commands.run("cd /tmp && export A=1 && ls")
    r = box.commands.run("pwd; echo $A")
    assert r.success and r.stdout == "/tmp\\n1"
    r = box.commands.run(["cat"], stdin="no shell")
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from vpod.client import Transcript, run_request
from vpod.exchange import Exchange, Stdin, input_of
from vpod.protocol import Kind

if TYPE_CHECKING:
    from vpod.sandbox import Sandbox

__all__ = ["MAX_OUTPUT", "CommandResult", "Commands", "LineSink"]

MAX_OUTPUT: Final = 4 << 30
_LONGEST_LINE: Final = 1 << 20  # characters of an unfinished line that are kept back from a callback
_TERMINAL: Final = (24, 80)

OnText = Callable[[str], object]


class CommandResult:
    """How a command ended and what it printed.

    `exit_code` is the command's own, 128+n after signal n, 124 after a time-out, 130 after an interrupt. `stdout_bytes`
    and `stderr_bytes` are exact; `stdout` and `stderr` are their text without trailing newlines, as ``$(...)`` in a
    shell gives them, with undecodable bytes replaced. `duration` is in seconds. `session_lost` says why the session had
    to be started anew (the command was ``exit``, or killed the shell); ``None`` if it goes on.
    """

    def __init__(
        self,
        stdout: bytes,
        stderr: bytes,
        exit_code: int,
        duration: float,
        session_lost: str | None = None,
    ) -> None:
        self.stdout_bytes = stdout
        self.stderr_bytes = stderr
        self.exit_code = exit_code
        self.duration = duration
        self.session_lost = session_lost

    @classmethod
    def of(cls, transcript: Transcript, duration: float) -> CommandResult:
        """The result that a finished transcript tells."""
        assert transcript.exit_code is not None  # what Exchange.run returns has ended
        stdout, stderr = b"".join(transcript.stdout), b"".join(transcript.stderr)
        return cls(stdout, stderr, transcript.exit_code, duration, transcript.session_lost)

    @cached_property
    def stdout(self) -> str:
        """Standard output as text, without trailing newlines."""
        return text_of(self.stdout_bytes)

    @cached_property
    def stderr(self) -> str:
        """Standard error as text, without trailing newlines."""
        return text_of(self.stderr_bytes)

    @property
    def success(self) -> bool:
        """The exit code is 0."""
        return self.exit_code == 0

    def __repr__(self) -> str:
        parts = [f"exit_code={self.exit_code}"]
        for name, data in (("stdout", self.stdout_bytes), ("stderr", self.stderr_bytes)):
            if len(data) > 200:
                parts.append(f"{name}={text_of(data[:200])!r}...{len(data)} bytes")
            elif data or name == "stdout":
                parts.append(f"{name}={text_of(data)!r}")
        return f"CommandResult({', '.join(parts)}, duration={self.duration:.3f})"


class Commands:
    """The commands of one sandbox; reached as ``box.commands``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        timeout: float | None = None,
        stdin: Stdin | None = None,
        tty: bool | tuple[int, int] = False,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> CommandResult:
        """Run a command and wait for its end.

        `command`: text for the session's shell, or a list of arguments for a program started without one. Text with
        `tty` runs in a shell of its own that sees the session's directory and exported variables and changes nothing
        in it; text for another `user` runs in a fresh shell of that user.

        `cwd`, `env`: for this command only. `timeout`: seconds from this call on; then everything that the command
        started is ended and the result has exit code 124. `stdin`: data, or an iterable or a queue (``None`` ends it)
        of data; without it the command reads end of file. `tty`: give it a terminal of 24 rows and 80 columns, or of
        ``(rows, columns)``; standard error then comes as standard output. `on_stdout`, `on_stderr`: called in this
        thread with each line of text as it comes, without its newline; what they raise ends the command and is raised.
        `max_output`: bytes printed at which the command is ended with a `SandboxError`.

        Ctrl-C interrupts the command, and again kills it; the result has exit code 130, and the session goes on.

        Raises `UnknownUser`, `AgentError`, `GuestStopped`, `WorkerDied`, `SandboxClosed`; `ValueError` and `TypeError`
        for arguments that no command can have.
        """
        box = self._sandbox
        in_session = isinstance(command, str) and user in (None, "root")
        request = run_request(
            command,
            cwd=cwd,
            env=env if in_session else {**box.env, **(env or {})},
            user=user,
            terminal=tty if isinstance(tty, tuple) else _TERMINAL if tty else None,
            stdin=stdin is not None,
        )
        if in_session:
            box.renew_environment(Kind.RUN)
        sinks = [None if callback is None else LineSink(callback) for callback in (on_stdout, on_stderr)]
        exchange = Exchange(
            box.link,
            Kind.RUN,
            request,
            timeout=timeout,
            stdin=None if stdin is None else input_of(stdin),
            on_stdout=sinks[0],
            on_stderr=sinks[1],
            limit=max_output,
        )
        transcript = exchange.run()
        for sink in sinks:
            if sink is not None:
                sink.finish()
        if transcript.session_lost is not None:
            box.lost(Kind.RUN)
        return CommandResult.of(transcript, exchange.duration)


class LineSink:
    """Turns pieces of bytes into calls with whole lines of text, without their newlines."""

    def __init__(self, callback: OnText) -> None:
        self._callback = callback
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._partial: list[str] = []
        self._length = 0

    def __call__(self, data: bytes) -> None:
        """Take the next piece."""
        first, *lines = self._decode(data).split("\n")
        self._keep(first)
        for line in lines:
            self._emit()
            self._keep(line)
        if self._length > _LONGEST_LINE:
            self._emit()

    def finish(self) -> None:
        """There is no more: pass on a last line that has no newline."""
        self._keep(self._decode(b"", True))
        if self._partial:
            self._emit()

    def _keep(self, text: str) -> None:
        if text:
            self._partial.append(text)
            self._length += len(text)

    def _emit(self) -> None:
        line = "".join(self._partial)
        self._partial.clear()
        self._length = 0
        self._callback(line)


def environment_script(env: Mapping[str, str]) -> str:
    """Shell text that exports `env`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in env.items())


def text_of(data: bytes) -> str:
    """Text as a shell's ``$(...)`` gives it: trailing newlines gone; bytes that are no UTF-8 replaced."""
    return data.decode("utf-8", "replace").rstrip("\n")
