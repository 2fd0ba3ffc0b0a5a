"""One request to the guest's agent, driven by a thread that blocks on it.

Why it exists: `commands.run`, `code.run` and the terminal ask different things but wait in the same way: feed
standard input as the guest has room, hand output on as it comes, keep the time, and make sure that nothing of the
request is left running when it ends early. `Exchange.run` is that loop.

How a request ends early:

- *Time-out*: KILL, then the EXIT that answers it; ``timed_out`` is set and the exit code is 124.
- *Interrupt* (`Exchange.interrupt`, or Ctrl-C, that is `KeyboardInterrupt` in the waiting thread): SIGINT to the
  command; KILL after `INTERRUPT_PATIENCE` seconds or at a second one; ``interrupted`` is set, the exit code is 130.
- *An error of a callback, of the input, or too much output*: KILL, then that error is raised.

Invariants:

- All sending and every callback happen in the thread that called `run`.
- After `run` the guest has nothing left of the request, or an error was raised that says so.
- Only a guest that doesn't even answer KILL within `KILL_PATIENCE` seconds makes a time-out late: `AgentError`.

Example::

    exchange = Exchange(link, Kind.RUN, run_request("sleep 9; echo late"), timeout=1.0)
    transcript = exchange.run()                        # after one second
    assert transcript.exit_code == 124
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from vpod.client import UNLIMITED, Transcript
from vpod.errors import AgentError, SandboxError
from vpod.link import Link
from vpod.protocol import CHUNK, Frame, Kind, window_payload

__all__ = ["EXIT_INTERRUPT", "EXIT_TIMEOUT", "Data", "Exchange", "Input", "Stdin", "input_of"]

EXIT_TIMEOUT: Final = 124
EXIT_INTERRUPT: Final = 130
INTERRUPT_PATIENCE: Final = 5.0
KILL_PATIENCE: Final = 300.0  # the thousands of processes of a fork bomb take a minute to end on a busy host
ABORT_PATIENCE: Final = 2.0  # for the answer to a KILL that nobody waits for

_AHEAD: Final = 4  # pieces of input taken from the caller's iterable before the guest has room for them

Data = str | bytes | bytearray | memoryview
Stdin = Data | Iterable[Data] | queue.Queue[Any]
Sink = Callable[[bytes], object]


class _Piece(NamedTuple):
    """From a feeding thread: standard input, or an error that ends it (``b""``: end of file)."""

    data: bytes
    error: BaseException | None = None


class _Window(NamedTuple):
    """From a terminal: its new size."""

    rows: int
    columns: int


class _Interrupt:
    """From `Exchange.interrupt`."""


_Inbox = queue.SimpleQueue["Frame | SandboxError | _Piece | _Window | _Interrupt"]


class Input:
    """Where an exchange's standard input comes from: a thread that puts pieces into the exchange's inbox.

    `pieces` runs in a daemon thread of its own; it may block as long as it likes and is asked for nothing more
    once the exchange is over. At most `_AHEAD` pieces wait for the guest.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._slots = threading.Semaphore(_AHEAD)
        self._over = False

    def feed_from(self, pieces: Iterator[bytes]) -> None:
        """Other pieces instead, before `start`: for sources that look at `over`."""
        self._pieces = pieces

    def start(self, inbox: _Inbox) -> None:
        """Begin feeding `inbox`."""
        threading.Thread(target=self._feed, args=(inbox,), name="vpod-stdin", daemon=True).start()

    def taken(self) -> None:
        """One piece has gone to the guest."""
        self._slots.release()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._over = True
        self._slots.release()

    @property
    def over(self) -> bool:
        """The exchange wants nothing more: for sources that can look at it between two waits."""
        return self._over

    def _feed(self, inbox: _Inbox) -> None:
        try:
            for data in self._pieces:
                for at in range(0, len(data), CHUNK):
                    self._slots.acquire()
                    if self._over:
                        return
                    inbox.put(_Piece(data[at : at + CHUNK]))
            inbox.put(_Piece(b""))
        except BaseException as error:  # raised again in the thread that waits for the command
            inbox.put(_Piece(b"", error))


def input_of(stdin: Stdin) -> Input:
    """The `Input` for what a caller gave: data, an iterable of data, or a queue of data that ``None`` ends."""
    if isinstance(stdin, (str, bytes, bytearray, memoryview)):
        return Input(iter([_encode(stdin)]))
    if isinstance(stdin, (queue.Queue, queue.SimpleQueue)) or (hasattr(stdin, "get") and hasattr(stdin, "put")):
        source = Input(iter(()))
        source.feed_from(_drain(stdin, source))
        return source
    if not isinstance(stdin, Iterable):
        raise TypeError(f"stdin must be str, bytes, an iterable or a queue of them, not {type(stdin).__name__}")
    return Input(_encode(piece) for piece in stdin)


def _encode(data: Data) -> bytes:
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a piece of stdin must be str or bytes, not {type(data).__name__}")


def _drain(source: Any, until: Input) -> Iterator[bytes]:
    """The pieces of a queue until ``None``, or until its reader has ended; looks up ten times a second."""
    while not until.over:
        try:
            piece = source.get(timeout=0.1)
        except queue.Empty:
            continue
        except Exception as error:
            if type(error).__name__ == "ShutDown":  # queue.ShutDown, Python 3.13: the same as None
                return
            raise
        if piece is None:
            return
        yield _encode(piece)


class Exchange:
    """One RUN or CODE request. `timeout` in seconds from now, ``None`` for none.

    `on_stdout` and `on_stderr` get the bytes as they come; with ``keep=False`` that is all that becomes of them, and
    a callback that is slower than the guest makes the guest wait. With ``gentle`` a time-out sends SIGINT first and
    KILL a second later, so that what can be interrupted keeps its state.
    """

    def __init__(
        self,
        link: Link,
        kind: Kind,
        payload: bytes,
        *,
        timeout: float | None = None,
        stdin: Input | None = None,
        on_stdout: Sink | None = None,
        on_stderr: Sink | None = None,
        keep: bool = True,
        limit: int = UNLIMITED,
        gentle: bool = False,
    ) -> None:
        self._link = link
        self._request = (kind, payload)
        self._now = time.monotonic
        self._began = self._now()
        self._deadline = None if timeout is None else self._began + timeout
        self._stdin = stdin
        self._sinks = {Kind.STDOUT: on_stdout, Kind.STDERR: on_stderr}
        self._keep = keep
        self._gentle = gentle
        self._inbox: _Inbox = queue.SimpleQueue()
        self._waiting: list[bytes] = []  # input that the guest has no room for yet
        self._kill_at: float | None = None  # when SIGINT must have helped
        self._killed = False
        self.transcript = Transcript(limit, keep)
        self.timed_out = False
        self.duration = 0.0  # seconds from the making of this object to the end of `run`
        self.interrupted = False
        self.id = 0

    def run(self) -> Transcript:
        """Ask, and wait for the end. Raises what the agent, the link, the input or a callback raises."""
        try:
            self.id = self._link.open(self._deliver)
            self._link.send(self._request[0], self.id, self._request[1])
            if self._stdin is not None:
                self._stdin.start(self._inbox)
            self._converse()
        finally:
            if self.id and not self.transcript.done and not self._killed:
                with contextlib.suppress(SandboxError):
                    self._link.send(Kind.KILL, self.id)
            self._link.finish(self.id)
            self.duration = self._now() - self._began
            if self._stdin is not None:
                self._stdin.stop()
        if self.timed_out:
            self.transcript.exit_code = EXIT_TIMEOUT
        elif self.interrupted:
            self.transcript.exit_code = EXIT_INTERRUPT
        return self.transcript

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has a new size. From any thread."""
        self._inbox.put(_Window(rows, columns))

    def interrupt(self) -> None:
        """Interrupt the command; a second time: kill it. From any thread, and from a signal handler."""
        self._inbox.put(_Interrupt())

    def _deliver(self, item: Frame | SandboxError) -> None:
        """From the link's reading thread."""
        if not self._keep and isinstance(item, Frame):
            self._link.hold(self.id, len(item.payload))
        self._inbox.put(item)

    def _converse(self) -> None:
        """Take what comes until EXIT; whatever goes wrong on our side ends the request first."""
        while not self.transcript.done:
            try:
                self._step()
            except KeyboardInterrupt:
                self._interrupt()
            except SandboxError as error:
                if self._link.failure is None and not isinstance(error, AgentError):
                    self._abort()
                raise
            except BaseException:
                self._abort()
                raise

    def _step(self) -> None:
        """Wait for one thing to happen, and deal with it."""
        try:
            item = self._inbox.get(timeout=self._patience())
        except queue.Empty:
            self._overdue()
            return
        if isinstance(item, Frame):
            self._accept(item)
        elif isinstance(item, _Piece):
            if self._stdin is None:  # too late: this request is being ended
                return
            if item.error is not None:
                raise item.error
            self._waiting.append(item.data)
            self._feed()
        elif isinstance(item, _Interrupt):
            self._interrupt()
        elif isinstance(item, _Window):
            self._link.send(Kind.WINDOW, self.id, window_payload(*item))
        else:
            raise item

    def _accept(self, frame: Frame) -> None:
        self.transcript.accept(frame)
        if frame.kind in self._sinks:
            sink = self._sinks[frame.kind]
            if sink is not None:
                sink(frame.payload)
        elif frame.kind == Kind.CREDIT:
            self._feed()
        if not self._keep:
            self._link.hold(self.id, -len(frame.payload))

    def _feed(self) -> None:
        """Send as much of the input as the guest has room for."""
        while self._waiting and not self._killed:
            data = self._waiting[0]
            if len(data) > self.transcript.credit:
                return
            self._link.send(Kind.STDIN, self.id, data)
            self.transcript.credit -= len(data)
            del self._waiting[0]
            if self._stdin is not None:
                self._stdin.taken()

    def _patience(self) -> float | None:
        """Seconds until something is overdue."""
        moments = [moment for moment in (self._deadline, self._kill_at) if moment is not None]
        return max(0.0, min(moments) - self._now()) if moments else None

    def _overdue(self) -> None:
        """A moment has passed: the time-out's, SIGINT's, or KILL's."""
        now = self._now()
        if self._kill_at is not None and now >= self._kill_at:
            if self._killed:
                raise AgentError(
                    f"the guest did not end a command within {KILL_PATIENCE:g} s of being told to; close the sandbox"
                )
            self._kill()
        elif self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self.timed_out = not self.interrupted
            if self._gentle and self._kill_at is None:
                self._signal(1.0)
            elif self._kill_at is None:
                self._kill()

    def _interrupt(self) -> None:
        """Ctrl-C: once politely, twice for certain."""
        if self.interrupted:
            if not self._killed:
                self._kill()
            return
        self.interrupted = not self.timed_out
        if self._kill_at is None:
            self._signal(INTERRUPT_PATIENCE)

    def _signal(self, patience: float) -> None:
        self._kill_at = self._now() + patience
        self._link.send(Kind.SIGNAL, self.id, int(signal.SIGINT).to_bytes(4, "little"))

    def _kill(self) -> None:
        self._kill_at = self._now() + KILL_PATIENCE
        self._killed = True
        self._link.send(Kind.KILL, self.id)

    def _abort(self) -> None:
        """Our side failed: end the request, drop what it still says, and let the error go on."""
        if self.transcript.done:
            return
        self._deadline = None
        self._sinks = {}
        self._stdin, stdin = None, self._stdin
        if stdin is not None:
            stdin.stop()
        self.transcript = Transcript(keep=False)
        with contextlib.suppress(SandboxError):
            self._kill()
            self._kill_at = self._now() + ABORT_PATIENCE
            while not self.transcript.done:
                self._step()
