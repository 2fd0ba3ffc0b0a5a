"""Python code in a sandbox: ``box.code.run(...)`` and what it gives.

Why it exists: a snapshot with Python holds an interpreter that is already running, so a line of code takes
milliseconds where starting Python would take seconds. Variables, imports and functions stay from one call to the next.

Invariants:

- Code that raises is a result, not an exception.
- `CodeResult` holds everything that the code printed, by whatever means.
- After a time-out nothing of the code is left running. Code that can be interrupted keeps its variables; only when it
  doesn't end within a second is the interpreter started anew, and `CodeResult.session_lost` says so.

Example::

    box.code.run("data = [1, 2, 3]")
    x = box.code.run("print(sum(data)); max(data)")
    assert (x.text, x.result, x.error) == ("6", "3", None)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from vpod.client import Transcript, code_request, exit_reason
from vpod.commands import MAX_OUTPUT, LineSink, text_of
from vpod.errors import PythonNotAvailable, RegistryError
from vpod.exchange import Exchange
from vpod.protocol import Kind, ResultTag

if TYPE_CHECKING:
    from vpod.sandbox import Sandbox

__all__ = ["Code", "CodeResult"]


class CodeResult:
    """What a piece of code printed and how it ended.

    `text` is what was printed, `logs` its lines, `stderr` what went to standard error; none has trailing newlines, and
    `stdout_bytes` and `stderr_bytes` are exact. `result` is the `repr` of a final expression, or ``None``. `error` is
    ``"ValueError: boom"``, with `error_name`, `error_value` and `traceback` beside it; ``"exited 3"`` for
    ``SystemExit(3)``; ``None`` if all went well. `exit_code` is 0, 1, that of a `SystemExit`, 124 after a time-out or
    130 after an interrupt. `duration` is in seconds. `session_lost` says why the interpreter had to be started anew.
    """

    def __init__(self, transcript: Transcript, duration: float, failure: tuple[str, str] | None = None) -> None:
        found = transcript.result
        self.stdout_bytes = b"".join(transcript.stdout)
        self.stderr_bytes = b"".join(transcript.stderr)
        self.exit_code = transcript.exit_code if transcript.exit_code is not None else 1
        self.duration = duration
        self.session_lost = transcript.session_lost
        self.result = found.get(ResultTag.RESULT)
        self.traceback = found.get(ResultTag.TRACEBACK)
        self.error_name, self.error_value = failure or (
            found.get(ResultTag.ERROR_NAME),
            found.get(ResultTag.ERROR_VALUE),
        )
        self.error = _error(self.error_name, self.error_value, exit_reason(found), self.exit_code, self.session_lost)

    @cached_property
    def text(self) -> str:
        """What was printed, without trailing newlines."""
        return text_of(self.stdout_bytes)

    @cached_property
    def stderr(self) -> str:
        """What was written to standard error, without trailing newlines."""
        return text_of(self.stderr_bytes)

    @property
    def logs(self) -> list[str]:
        """The lines of `text`."""
        return self.text.split("\n") if self.text else []

    @property
    def success(self) -> bool:
        """No error, and no exit with another code than 0."""
        return self.error is None

    def __repr__(self) -> str:
        parts = [f"text={self.text[:200]!r}"]
        parts += [f"{name}={value!r}" for name, value in (("result", self.result), ("error", self.error)) if value]
        return f"CodeResult({', '.join(parts)}, duration={self.duration:.3f})"


class Code:
    """The warm Python of one sandbox; reached as ``box.code``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def run(
        self,
        source: str,
        *,
        timeout: float | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> CodeResult:
        """Run Python source text in the sandbox's one interpreter and wait for its end.

        `timeout`: seconds from this call on; then the code is interrupted, `CodeResult.exit_code` is 124 and
        `CodeResult.error_name` is ``TimeoutError``. `on_stdout`, `on_stderr`: called in this thread with each line of
        text as it comes. `max_output`: bytes printed at which the code is ended with a `SandboxError`.

        Raises `PythonNotAvailable` in a snapshot without Python; `AgentError`, `GuestStopped`, `WorkerDied`,
        `SandboxClosed`; `ValueError` for source text of more than a mebibyte.
        """
        box = self._sandbox
        request = code_request(source)
        if not box.python:
            raise PythonNotAvailable(_without_python(box.name))
        box.renew_environment(Kind.CODE)
        sinks = [None if callback is None else LineSink(callback) for callback in (on_stdout, on_stderr)]
        exchange = Exchange(
            box.link,
            Kind.CODE,
            request,
            timeout=timeout,
            on_stdout=sinks[0],
            on_stderr=sinks[1],
            limit=max_output,
            gentle=True,
        )
        transcript = exchange.run()
        for sink in sinks:
            if sink is not None:
                sink.finish()
        if transcript.session_lost is not None:
            box.lost(Kind.CODE)
        late = ("TimeoutError", f"timed out after {timeout:g} s") if exchange.timed_out else None
        return CodeResult(transcript, exchange.duration, late)


def environment_code(env: Mapping[str, str]) -> bytes:
    """The payload of a CODE that puts `env` into the interpreter's environment and leaves nothing else behind."""
    return code_request(f"__import__('os').environ.update({dict(env)!r})")


def _error(name: str | None, value: str | None, exited: str | None, code: int, lost: str | None) -> str | None:
    """One line for what went wrong, or ``None``."""
    if name is not None:
        return f"{name}: {value}" if value else name
    if exited is not None:
        return exited
    return None if code == 0 else lost or f"exited {code}"


def _without_python(name: str) -> str:
    """The message of `PythonNotAvailable`, naming the snapshots that have it."""
    from vpod import snapshots

    try:
        rows = snapshots.catalog()
    except RegistryError:
        rows = snapshots.local()
    having = [f"{row['name']}:{row['tag']}" for row in rows if row["has_python"]]
    hint = f"use one that has: {', '.join(having)}" if having else "make one that has, with vpod-build debian-13"
    return f"the snapshot {name} has no Python, so code.run cannot work in it; {hint}"
