"""The caller's half of a conversation with the guest's agent, without any input or output of its own.

Why it exists: what to ask, how to ask it and what the answers mean is the same for a caller that blocks
(`vpod.exchange`) and for one that awaits. Here are the parts that do no I/O: `Client` hands each frame to the
request that it belongs to, `Transcript` makes sense of one request's frames, and the ``*_request`` functions check
and encode what a caller asks for.

Invariants:

- Everything from the guest is hostile: frames of unknown requests are dropped, and a `Transcript` refuses what no
  honest agent would send, with `AgentError`.
- After `Client.fail` every request, pending or to come, gets the same error: nobody waits for a dead guest.
- `Transcript` keeps at most `limit` bytes of output.

Example::

    client = Client()
    id = client.open(inbox.put)                                # whatever is said about this request goes to the inbox
    link.send(frame(Kind.RUN, id, run_request("uname -m")))
    transcript = Transcript()
    while not transcript.done:
        transcript.accept(inbox.get())
    assert transcript.exit_code == 0 and b"".join(transcript.stdout) == b"riscv64\\n"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vpod.errors import AgentError, SandboxError
from vpod.protocol import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    Frame,
    Kind,
    Parser,
    ReadyTag,
    ResultTag,
    RunFlag,
    RunTag,
    error,
    fields,
    parse_exit,
    parse_fields,
    parse_u32,
    window_payload,
)

__all__ = [
    "Client",
    "Command",
    "Deliver",
    "Greeting",
    "Transcript",
    "check_environment",
    "code_request",
    "exit_reason",
    "run_request",
]

Command = str | Sequence[str]  # a script for the session's shell, or the arguments of a plain exec
Deliver = Callable[[Frame | SandboxError], object]

UNLIMITED: Final = 1 << 62


class Client:
    """Which request each frame belongs to. The driver around it must not call two methods at once."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._requests: dict[int, Deliver] = {}
        self._last = 0
        self._failure: SandboxError | None = None

    @property
    def failure(self) -> SandboxError | None:
        """Why nothing can be asked any more; a new exception each time, since each is raised on its own."""
        return None if self._failure is None else type(self._failure)(*self._failure.args)

    def open(self, deliver: Deliver) -> int:
        """Begin a request: an id nobody else uses. `deliver` gets its frames, and at last an error if all fails."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        self._last = self._last % 0xFFFF_FFFF + 1
        while self._last in self._requests:
            self._last = self._last % 0xFFFF_FFFF + 1
        self._requests[self._last] = deliver
        return self._last

    def close(self, id: int) -> None:
        """End a request: whatever is still said about it is dropped."""
        self._requests.pop(id, None)

    def feed(self, data: bytes) -> None:
        """Deliver the frames which these bytes complete. `AgentError` if the guest breaks the protocol."""
        for frame in self._parser.feed(data):
            deliver = self._requests.get(frame.id)
            if deliver is not None:
                deliver(frame)
            elif frame.kind == Kind.READY:
                raise AgentError("the guest's agent started anew and has lost its session; create another sandbox")

    def fail(self, failure: SandboxError) -> None:
        """End everything: all requests get `failure`, and so does every later `open`. Only the first call counts."""
        if self._failure is not None:
            return
        self._failure = failure
        for deliver in self._requests.values():
            deliver(type(failure)(*failure.args))
        self._requests.clear()


class Greeting:
    """READY: what the guest has. `python` says whether a warm runner waits, `shell` is the session shell's path."""

    def __init__(self, payload: bytes) -> None:
        found = dict(parse_fields(payload))
        self.version = parse_u32(found.get(ReadyTag.VERSION, bytes(4)))
        self.python = found.get(ReadyTag.PYTHON) == b"1"
        self.shell = found.get(ReadyTag.SHELL, b"/bin/sh").decode("utf-8", "surrogateescape")
        self.hostname = found.get(ReadyTag.HOSTNAME, b"").decode("utf-8", "replace")


class Transcript:
    """What the guest has said about one RUN or CODE request so far.

    `stdout` and `stderr` are lists of pieces (a gigabyte is joined once, at its end). `accept` raises what an ERROR
    frame stands for, and `SandboxError` when more than `limit` bytes came. With ``keep=False`` nothing is kept.
    """

    def __init__(self, limit: int = UNLIMITED, keep: bool = True) -> None:
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.exit_code: int | None = None
        self.session_lost: str | None = None
        self.pid: int | None = None
        self.result: dict[int, str] = {}  # RESULT's fields by ResultTag
        self.credit = INITIAL_CREDIT  # bytes of STDIN that may be sent now
        self._limit = limit
        self._keep = keep
        self._size = 0
        self._refused = False

    @property
    def done(self) -> bool:
        """The guest said EXIT, so all output is here; or ERROR, so there is none to come."""
        return self._refused or self.exit_code is not None

    def accept(self, frame: Frame) -> None:
        """Take one frame of this request."""
        kind = frame.kind
        if kind == Kind.STDOUT or kind == Kind.STDERR:
            self._output(self.stdout if kind == Kind.STDOUT else self.stderr, frame.payload)
        elif kind == Kind.EXIT:
            self.exit_code, lost = parse_exit(frame.payload)
            self.session_lost = None if lost is None else lost.decode("utf-8", "replace")
        elif kind == Kind.CREDIT:
            # More than all that could ever be sent is no honest credit, and would only feed the guest's memory.
            self.credit = min(self.credit + parse_u32(frame.payload), 4 * INITIAL_CREDIT)
        elif kind == Kind.STARTED:
            self.pid = parse_u32(frame.payload)
        elif kind == Kind.RESULT:
            self.result = {tag: value.decode("utf-8", "replace") for tag, value in parse_fields(frame.payload)}
        elif kind == Kind.ERROR:
            self._refused = True
            raise error(frame.payload)
        else:
            raise AgentError(f"the guest's agent answered a command with a {kind.name} frame; close the sandbox")

    def _output(self, stream: list[bytes], data: bytes) -> None:
        self._size += len(data)
        if not self._keep:
            return
        if self._size > self._limit:
            raise SandboxError(
                f"the command printed more than max_output={self._limit} bytes and was ended;"
                " raise max_output, or let it write to a file"
            )
        stream.append(data)


def run_request(
    command: Command,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    terminal: tuple[int, int] | None = None,
    stdin: bool = False,
) -> bytes:
    """The payload of a RUN. `terminal` is rows and columns; `stdin` says that STDIN frames follow.

    `ValueError` for what no command line can carry: nothing at all, a NUL, more than `MAX_PAYLOAD` bytes.
    """
    if isinstance(command, str):
        items = [(RunTag.SCRIPT, _text("the command", command))]
    else:
        items = [(RunTag.ARG, _text("an argument", argument)) for argument in command]
        if not items or not items[0][1]:
            raise ValueError("the command is empty: name a program to run")
    if cwd is not None:
        items.append((RunTag.CWD, _text("cwd", cwd)))
    items += [(RunTag.ENV, pair) for pair in check_environment(env or {})]
    if user is not None:
        items.append((RunTag.USER, _text("user", user)))
    if terminal is not None:
        items.append((RunTag.TTY, window_payload(*terminal)))
    if stdin:
        items.append((RunTag.FLAGS, RunFlag.STDIN.to_bytes(4, "little")))
    payload = fields(*items)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"the command has {len(payload)} bytes, the limit is {MAX_PAYLOAD}; send data through stdin")
    return payload


def code_request(source: str) -> bytes:
    """The payload of a CODE. `ValueError` if it is longer than `MAX_PAYLOAD` or no UTF-8 text."""
    payload = source.encode()
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"the code has {len(payload)} bytes, the limit is {MAX_PAYLOAD}; put it into a file")
    return payload


def check_environment(env: Mapping[str, str]) -> list[bytes]:
    """``K=V`` for each variable. `ValueError` for a name no shell could export and for a NUL."""
    pairs = []
    for name, value in env.items():
        if not isinstance(name, str) or not (name.isascii() and name.isidentifier()):
            raise ValueError(f"env: {name!r} is no variable's name; use letters, digits and underscores")
        pairs.append(name.encode() + b"=" + _text(f"env: {name}", value))
    return pairs


def exit_reason(result: Mapping[int, str]) -> str | None:
    """``"exited 3"`` for code that raised `SystemExit`, else ``None``."""
    code = result.get(ResultTag.EXITED)
    return None if code is None else f"exited {code}"


def _text(what: str, value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}: {value!r}")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL character, which no program can be given: {value!r}")
    return value.encode("utf-8", "surrogateescape")
