"""The host's terminal, lent to a program in the guest; and plain pipes for those who have none.

Why it exists: ``vpod`` and ``vpod run`` connect descriptors 0, 1 and 2 of this process with a command in a sandbox.
With a terminal on both sides (`attach` with ``terminal=True``) the host's is put in raw mode: every key, Ctrl-C
included, goes to the guest, whose own terminal decides what it means; a change of window size is passed on.

Invariants:

- The terminal is as it was before, whatever happens: normal end, error, SIGTERM, SIGHUP.
- Output is written in full and in order; when nobody reads it any more (a closed pipe) the command is ended and the
  exit code is 141, as for a program that dies of SIGPIPE.
- Without raw mode Ctrl-C interrupts the command (exit code 130), and a second one kills it.
- `ESCAPE` three times within a second ends a raw session even if the guest hangs.

Example::

    with Sandbox.create() as box:
        sys.exit(attach(box, [box.shell, "-l"], terminal=os.isatty(0), stdin=True))
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from vpod.client import run_request
from vpod.exchange import Exchange, Input
from vpod.protocol import CHUNK, Kind

if TYPE_CHECKING:
    from vpod.sandbox import Sandbox

__all__ = ["ESCAPE", "EXIT_PIPE", "attach", "raw_mode", "window_size"]

ESCAPE: Final = 0x1D  # Ctrl-]
ESCAPE_TIMES: Final = 3
EXIT_PIPE: Final = 141
_LOOK: Final = 0.2  # seconds between two looks at whether the reader of standard input is still wanted


class Detached(Exception):
    """The user pressed `ESCAPE` often enough."""


def attach(
    box: Sandbox,
    arguments: Sequence[str],
    *,
    terminal: bool,
    stdin: bool,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    timeout: float | None = None,
) -> int:
    """Run a program in the guest with this process's standard descriptors; return its exit code.

    `terminal`: give it a terminal (and, if descriptor 0 is one, put that in raw mode). `stdin`: pass standard input on;
    otherwise it reads end of file. Must be called from the main thread, because it handles signals.
    """
    variables = {**box.env, **(env or {})}
    if terminal:
        variables.setdefault("TERM", os.environ.get("TERM") or "xterm")
    request = run_request(
        list(arguments),
        cwd=cwd,
        env=variables,
        user=user,
        terminal=window_size() if terminal else None,
        stdin=stdin,
    )
    raw = terminal and stdin and os.isatty(0)
    exchange = Exchange(
        box.link,
        Kind.RUN,
        request,
        timeout=timeout,
        stdin=_standard_input(raw) if stdin else None,
        on_stdout=_writer(1),
        on_stderr=_writer(2),
        keep=False,
    )
    with raw_mode(0) if raw else _interrupts(exchange), _window_changes(exchange) if terminal else _nothing():
        try:
            transcript = exchange.run()
        except BrokenPipeError:
            return EXIT_PIPE
        except Detached:
            return 0
    assert transcript.exit_code is not None  # what Exchange.run returns has ended
    return transcript.exit_code


def window_size() -> tuple[int, int]:
    """Rows and columns of the terminal on descriptor 1, 0 or 2; 24 and 80 if there is none."""
    for descriptor in (1, 0, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.lines and size.columns:
                return size.lines, size.columns
    return 24, 80


@contextlib.contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Raw mode for the terminal on `descriptor`, and its old mode again at the end, by whatever way that comes."""
    before = termios.tcgetattr(descriptor)

    def again(_number: int, _frame: FrameType | None) -> None:
        tty.setraw(descriptor, termios.TCSANOW)

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handlers({signal.SIGCONT: again, signal.SIGTERM: leave, signal.SIGHUP: leave}):
        try:
            tty.setraw(descriptor, termios.TCSADRAIN)
            yield
        finally:
            with contextlib.suppress(termios.error):  # the terminal itself may be gone
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _handlers(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    """Signal handlers for a while."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupts(exchange: Exchange) -> contextlib.AbstractContextManager[None]:
    return _handlers({signal.SIGINT: lambda _number, _frame: exchange.interrupt()})


def _window_changes(exchange: Exchange) -> contextlib.AbstractContextManager[None]:
    return _handlers({signal.SIGWINCH: lambda _number, _frame: exchange.resize(*window_size())})


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def _standard_input(raw: bool) -> Input:
    """Descriptor 0 as an exchange's input."""
    source = Input(iter(()))
    pieces = _read(source)
    source.feed_from(_watch_escape(pieces) if raw else pieces)
    return source


def _read(until: Input) -> Iterator[bytes]:
    """What descriptor 0 gives, until its end or until nobody wants more: what comes later is for the next reader."""
    while not until.over:
        try:
            if not select.select([0], [], [], _LOOK)[0]:
                continue
            data = os.read(0, CHUNK)
        except BlockingIOError:
            continue
        except OSError:  # not open at all, or a terminal that hung up
            return
        if not data:
            return
        yield data


def _watch_escape(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pass everything on; `Detached` at the last of several `ESCAPE` in a row."""
    count, first = 0, 0.0
    for data in pieces:
        for byte in data:
            if byte != ESCAPE:
                count = 0
                continue
            if count == 0 or time.monotonic() - first > 1.0:
                count, first = 0, time.monotonic()
            count += 1
            if count == ESCAPE_TIMES:
                raise Detached
        yield data


def _writer(descriptor: int) -> Callable[[bytes], None]:
    """A function that writes all it is given to `descriptor`, waiting for it where it is non-blocking."""
    stream = sys.stdout if descriptor == 1 else sys.stderr
    with contextlib.suppress(OSError, ValueError):
        stream.flush()  # what Python printed before comes before

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                select.select([], [descriptor], [])

    return write
