"""The warm Python in the guest: waits for code from the agent and runs it in one lasting ``__main__``.

Why it exists: starting an interpreter costs far more than most code run in it, and variables, imports and threads are
to last from one ``code.run`` to the next, as in an interactive session.

How it talks (see ``runner.c``): frames ``u8 kind, u32 length, payload`` over one inherited socket. ``C`` brings the
numbers of the agent's pipes and the source; ``R`` takes back an exit code and RESULT's fields.

Invariants:

- Output is a matter of descriptors: 1 and 2 *are* the request's pipes while code runs (child processes and C
  libraries included) and ``/dev/null`` between requests; everything is flushed before ``R`` is sent.
- Only user code can be interrupted: outside it SIGINT does nothing. What SIGINT does inside is the code's choice.
- A traceback begins with the user's code: file ``<code>``, with its source lines.
- Nothing here is in ``__main__``, which belongs to the code. A child that code forked never comes back to the loop.

Example: ``x = 6`` and then ``x * 7`` give the results ``None`` and ``'42'``.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import linecache
import os
import re
import signal
import struct
import sys
import traceback
import types
from typing import IO, Any

try:
    import ctypes

    _flush_c: Any = ctypes.CDLL(None).fflush
except Exception:  # built without libffi: then no C code that needs flushing can have been called through it
    _flush_c = None

RESULT, ERROR_NAME, ERROR_VALUE, TRACEBACK, EXITED = 1, 2, 3, 4, 5

LIMITS = {RESULT: 512 << 10, ERROR_NAME: 1 << 10, ERROR_VALUE: 64 << 10, TRACEBACK: 256 << 10, EXITED: 64}
MAX_PAYLOAD = 1 << 20
KEPT_SOURCES = 256
FUTURES = 0
for _name in __future__.all_feature_names:
    FUTURES |= getattr(__future__, _name).compiler_flag

NAMES = ("stdin", "stdout", "stderr")

Fields = list[tuple[int, str]]
Handler = Any  # what signal.signal takes and gives


def clip(text: str, limit: int) -> bytes:
    """Encode, cut to `limit` bytes with a note of how much is missing."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data
    note = f"... ({len(data)} bytes in all)".encode()
    return data[: limit - len(note)].decode("utf-8", "ignore").encode() + note


def pack(code: int, fields: Fields) -> bytes:
    """The payload of ``R``: exit code, then ``u8 tag, u32 length, bytes`` for each field."""
    parts = [struct.pack("<i", code)]
    for tag, text in fields:
        value = clip(text, LIMITS[tag])
        parts += struct.pack("<BI", tag, len(value)), value
    return b"".join(parts)


def ignore_signal(number: int, frame: Any) -> None:
    """SIGINT between two pieces of code. A function, not SIG_IGN, which children would inherit."""


class Interrupts:
    """Lets SIGINT through to the code, with the handler that the code last chose, and to nothing else."""

    def __init__(self) -> None:
        self.chosen: Handler = signal.default_int_handler
        signal.signal(signal.SIGINT, ignore_signal)

    def allow(self) -> None:
        signal.signal(signal.SIGINT, self.chosen)

    def forbid(self) -> None:
        """Remember the code's handler and put ours in its place, even if SIGINT comes just now."""
        while True:
            try:
                found = signal.getsignal(signal.SIGINT)
                signal.signal(signal.SIGINT, ignore_signal)
            except KeyboardInterrupt:
                continue
            if found is not ignore_signal:
                self.chosen = found
            return


class Streams:
    """Descriptors 0, 1, 2 and the objects ``sys.stdin``, ``sys.stdout``, ``sys.stderr`` above them."""

    def __init__(self) -> None:
        for number, name in enumerate(NAMES):
            setattr(sys, name, self._open(number))
            setattr(sys, f"__{name}__", getattr(sys, name))

    def restore(self) -> None:
        """Point the descriptors nowhere. Objects that code closed are made anew; ones that it put there stay."""
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            if null != number:
                os.dup2(null, number)
            os.set_inheritable(number, True)
        if null > 2:
            os.close(null)
        for number, name in enumerate(NAMES):
            for holder in (f"__{name}__", name):
                if self._is_closed(holder):
                    setattr(sys, holder, self._open(number))

    def _is_closed(self, holder: str) -> bool:
        """Also of what code has put in a stream's place, which can be anything."""
        try:
            return bool(getattr(sys, holder).closed)
        except Exception:
            return True

    def _open(self, number: int) -> IO[Any]:
        mode = "r" if number == 0 else "w"
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        # Line by line, so that a caller who listens hears each line as it is printed.
        return open(number, mode, encoding="utf-8", errors=errors, closefd=False, buffering=1)

    def connect(self, agent: int, out: int, err: int) -> None:
        for number, pipe in ((1, out), (2, err)):
            fd = os.open(f"/proc/{agent}/fd/{pipe}", os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(fd, number)
            os.close(fd)

    def disconnect(self) -> None:
        for holder in ("stdout", "stderr", "__stdout__", "__stderr__"):
            try:
                getattr(sys, holder).flush()
            except BaseException:  # its reader has gone, or it is no stream at all: the code's affair
                continue
        if _flush_c is not None:
            _flush_c(None)
        self.restore()


class Interpreter:
    """One ``__main__``, the sources that tracebacks quote, and the forms an error takes."""

    def __init__(self, interrupts: Interrupts) -> None:
        self.main = types.ModuleType("__main__")
        self.main.__dict__.update(__builtins__=builtins, __annotations__={})
        sys.modules["__main__"] = self.main
        self.interrupts = interrupts
        self.flags = 0
        self.count = 0
        self.process = os.getpid()

    def remember(self, source: str) -> str:
        """Give the source a file name of its own, under which tracebacks of any later run find its lines."""
        self.count += 1
        linecache.cache.pop(f"<code:{self.count - KEPT_SOURCES}>", None)
        name = f"<code:{self.count}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        return name

    def compile(self, source: str, name: str) -> tuple[types.CodeType, types.CodeType | None]:
        """The statements, and the final expression if the last statement is one."""
        flags = self.flags
        tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        final = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            final = ast.Expression(tree.body.pop().value)
        body = compile(tree, name, "exec", flags, dont_inherit=True)
        flags |= body.co_flags & FUTURES
        value = None if final is None else compile(final, name, "eval", flags, dont_inherit=True)
        self.flags = flags  # a `from __future__ import` lasts, as in an interactive session
        return body, value

    def run(self, source: str) -> tuple[int, Fields]:
        """Run code; the exit code and what RESULT says of it."""
        try:
            self.interrupts.allow()
            fields = self.evaluate(source)
            self.interrupts.forbid()
        except SystemExit as exit_:
            self.interrupts.forbid()
            code = exit_code(exit_)
            return code & 0xFF, [(EXITED, str(code))]
        except BaseException as error:
            self.interrupts.forbid()
            return 130 if isinstance(error, KeyboardInterrupt) else 1, describe(error)
        return 0, fields

    def evaluate(self, source: str) -> Fields:
        name = self.remember(source)
        try:
            body, final = self.compile(source, name)
        except (SyntaxError, ValueError, OverflowError) as error:
            raise error.with_traceback(None) from None
        exec(body, self.main.__dict__)
        if final is None:
            return []
        value = eval(final, self.main.__dict__)
        if value is None:
            return []
        builtins._ = value  # type: ignore[attr-defined]
        return [(RESULT, repr(value))]


def exit_code(exit_: SystemExit) -> int:
    """As the interpreter ends with it: ``None`` is 0, a number itself, anything else is printed and 1."""
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code
    print(exit_.code, file=sys.stderr)
    return 1


def own_frames_off(error: BaseException) -> None:
    """Cut the frames of this file from the head of a traceback, and of those it stands on."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        trace = one.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        one.__traceback__ = trace
        waiting += one.__cause__, one.__context__


def describe(error: BaseException) -> Fields:
    """Name, value and traceback of an error, whatever its own methods do."""
    own_frames_off(error)
    try:
        value = str(error)
    except BaseException:
        value = "<exception str() failed>"
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as broken:
        text = f"{type(error).__name__}: {value} (its traceback can't be printed: {type(broken).__name__})\n"
    text = re.sub(r'File "<code:\d+>"', 'File "<code>"', text)
    return [(ERROR_NAME, type(error).__name__), (ERROR_VALUE, value), (TRACEBACK, text)]


def reseed(seed: bytes) -> None:
    """Give the generators that seeded themselves before the machine was frozen a seed of this machine's own."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed([part for (part,) in struct.iter_unpack("<I", seed)])
    openssl = sys.modules.get("_ssl")
    if openssl is not None:  # its generators live in this process; they draw anew from the kernel's, which is reseeded
        openssl.RAND_add(seed, float(len(seed)))


class Runner:
    """The loop between the agent's socket and the interpreter."""

    def __init__(self, socket: int) -> None:
        self.socket = socket
        self.agent = os.getppid()
        os.set_inheritable(socket, False)
        self.interrupts = Interrupts()
        self.streams = Streams()
        self.interpreter = Interpreter(self.interrupts)

    def read(self, length: int) -> bytes:
        parts = []
        while length > 0:
            part = os.read(self.socket, min(length, 1 << 16))
            if not part:
                os._exit(0)  # the agent has gone, and with it whoever could ask for more
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def say(self, kind: bytes, payload: bytes = b"") -> None:
        data = memoryview(struct.pack("<cI", kind, len(payload)) + payload)
        while data:
            data = data[os.write(self.socket, data) :]

    def serve(self) -> None:
        self.say(b"H")
        while True:
            kind, length = struct.unpack("<cI", self.read(5))
            if length > MAX_PAYLOAD + 8:
                os._exit(70)
            payload = self.read(length)
            if kind == b"S":
                reseed(payload)
                self.say(b"S")
            elif kind == b"C":
                self.serve_code(payload)

    def serve_code(self, payload: bytes) -> None:
        out, err = struct.unpack_from("<II", payload)
        self.streams.connect(self.agent, out, err)
        try:
            source = payload[8:].decode("utf-8")
        except UnicodeDecodeError as error:
            code, fields = 1, describe(error)
        else:
            code, fields = self.interpreter.run(source)
        if os.getpid() != self.interpreter.process:
            self.end_child(code, fields)
        self.streams.disconnect()
        self.say(b"R", pack(code, fields))

    def end_child(self, code: int, fields: Fields) -> None:
        """A process that code forked has come to the code's end: it ends like a script, and answers nobody."""
        for tag, text in fields:
            if tag == TRACEBACK:
                sys.stderr.write(text)
        self.streams.disconnect()
        os._exit(code)


def main() -> None:
    socket = int(sys.argv[1])
    sys.argv[:] = [""]
    sys.path[0] = ""
    Runner(socket).serve()


if __name__ == "__main__":
    main()
