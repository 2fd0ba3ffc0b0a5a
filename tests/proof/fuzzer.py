"""A coverage-guided fuzzer: which bytes make a parser do what it never said it would?

A `Subject` is a function that takes bytes and either accepts them or raises one of the exceptions it declares. The
fuzzer mutates a corpus of inputs (`mutators`), runs the subject on each mutant while it watches which steps from line
to line the subject's own modules take, and keeps every mutant that takes a new one as a parent of others. What else
happens is a `Finding`: another exception, a broken promise (`Violation`, raised by the subject itself), more CPU time
than the subject is given, more memory than the process is given (`MemoryError`), a file touched or a process
started where none should be (`contained`).

Invariants: a run depends on subject, corpus and seed alone; of several findings of one kind at one place the smallest
is told, made smaller while it stays one; a subject's declared exceptions are its own business and are only counted.

    >>> def parse(data: bytes) -> None:
    ...     if data[:2] == b"\\x7fE" and len(data) > 20:
    ...         data[99]
    >>> report = Fuzzer(Subject("demo", parse, (), (parse.__code__.co_filename,)), [b"\\x7f" + bytes(9)], 1).run(20_000)
    >>> [finding.error for finding in report.findings]
    ['IndexError: index out of range']
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import CodeType, FrameType
from typing import Any

from tests.proof.limits import hurried
from tests.proof.mutators import Mutation, mutated

LARGEST = 128 << 10  # bytes of a mutant, unless a subject says otherwise
KEPT = 400  # mutants that are parents at a time, beside the corpus
SHRINKING = 300  # executions that making one finding smaller may take


class Violation(BaseException):
    """A promise was broken. No `except Exception` of a parser catches it."""


class TooSlow(BaseException):
    """The subject took more CPU time than it is given."""


@dataclass(frozen=True)
class Subject:
    """What is fuzzed: `parse` may raise `declared`, and its steps through the source files `files` guide the search.

    `mutate` are changes that know the format, tried beside the general ones; `repair` makes outer checksums and lengths
    right again, so that a mutant gets past them; `words` are pieces of the format's vocabulary; `seconds` of CPU time
    bound one execution (traced, so some ten times slower than untraced).
    """

    name: str
    parse: Callable[[bytes], object]
    declared: tuple[type[BaseException], ...]
    files: tuple[str, ...]
    mutate: tuple[Mutation, ...] = ()
    repair: Mutation | None = None
    words: tuple[bytes, ...] = ()
    largest: int = LARGEST
    seconds: float = 10.0


@dataclass(frozen=True)
class Finding:
    """What went wrong (`error`), where (`place`: the innermost step in the subject's files) and with which bytes."""

    error: str
    place: str
    data: bytes
    trace: str = field(repr=False, compare=False, default="")


@dataclass
class Report:
    """How a run went: executions, how many of them were accepted, steps between lines seen, findings."""

    executions: int = 0
    accepted: int = 0
    steps: int = 0
    findings: list[Finding] = field(default_factory=list)


class Steps:
    """A tracing function for `sys.settrace`: which steps from line to line of `files` were taken so far.

    `new` says, since it was last set to 0, how many were taken for the first time.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = frozenset(files)
        self._seen: dict[int, tuple[CodeType, set[int]]] = {}  # by id, which is a code's own while it is kept here
        self.new = 0

    def __len__(self) -> int:
        return sum(len(seen) for _, seen in self._seen.values())

    def __call__(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code.co_filename not in self._files:
            return None
        _, seen = self._seen.setdefault(id(code), (code, set()))
        last = 0

        def step(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            nonlocal last
            line = frame.f_lineno or 0
            taken = last << 20 | line
            if taken not in seen:
                seen.add(taken)
                self.new += 1
            last = line
            return step

        return step


class Fuzzer:
    """One subject, its corpus, and what has been learnt about it so far."""

    def __init__(self, subject: Subject, corpus: Sequence[bytes], seed: int) -> None:
        if not corpus:
            raise ValueError(f"{subject.name}: no corpus to begin with")
        self.subject = subject
        self._random = Random(f"{subject.name} {seed}")
        self._steps = Steps(subject.files)
        self._corpus = list(corpus)
        self._kept: list[bytes] = []  # mutants that took a new step
        self._accepted: list[bytes] = []  # seeds and such mutants that the subject accepts
        self._found: dict[tuple[str, str], Finding] = {}
        self.report = Report()

    def run(self, executions: int) -> Report:
        """Run the corpus, then mutants of it, `executions` in all (shrinking aside)."""
        for data in self._corpus[:executions]:
            self._try(data, self._corpus[:0])
        while self.report.executions < executions:
            self._try(self._mutant(), self._kept)
        self.report.steps = len(self._steps)
        self.report.findings = [self._shrunk(finding) for finding in self._found.values()]
        return self.report

    def execute(self, data: bytes) -> Finding | None:
        """Run the subject on `data` once, traced and within its time; what went wrong, if anything."""
        sys.settrace(self._steps)
        try:
            with hurried(self.subject.seconds, TooSlow):
                self.subject.parse(data)
        except self.subject.declared:
            return None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            sys.settrace(None)
            return self._finding(error, data)
        finally:
            sys.settrace(None)
        self.report.accepted += 1
        return None

    def _try(self, data: bytes, kept: list[bytes]) -> None:
        """Execute and note what went wrong; what took a new step goes onto `kept`, and is a parent if accepted."""
        self._steps.new, accepted = 0, self.report.accepted
        self.report.executions += 1
        finding = self.execute(data)
        if finding is not None:
            key = finding.error.partition(":")[0], finding.place
            known = self._found.get(key)
            if known is None or len(data) < len(known.data):
                self._found[key] = finding
        elif self._steps.new:
            for pool in (kept, self._accepted)[: 1 + (self.report.accepted > accepted)]:
                pool.append(data)
                if len(pool) > KEPT:  # the older ones go first
                    del pool[self._random.randrange(len(pool) // 2)]

    def _mutant(self) -> bytes:
        random = self._random
        pool = random.choice((self._kept, self._kept, self._accepted, self._accepted, self._corpus)) or self._corpus
        parent, other = random.choice(pool), random.choice(self._corpus)
        subject = self.subject
        data = mutated(parent, random, other, subject.words, subject.mutate)
        if subject.repair is not None and random.random() < 0.85:
            data = subject.repair(data, random)
        return data[: subject.largest]

    def _finding(self, error: BaseException, data: bytes) -> Finding:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if frame.filename in self.subject.files]
        last = (ours or list(frames))[-1]
        trace = "".join(traceback.format_exception(error, limit=-6, chain=False))
        told = f"{type(error).__name__}: {str(error)[:300]}"
        return Finding(told, f"{os.path.basename(last.filename)}:{last.lineno} {last.name}", data, trace)

    def _shrunk(self, finding: Finding) -> Finding:
        """The same fault with fewer bytes: pieces are left out, halves first, as long as the fault stays."""
        left = SHRINKING
        size = len(finding.data) // 2
        kind = finding.error.partition(":")[0]
        while size and left and kind != "TooSlow":
            at = 0
            while at < len(finding.data) and left:
                left -= 1
                smaller = self.execute(finding.data[:at] + finding.data[at + size :])
                if smaller and (smaller.error.partition(":")[0], smaller.place) == (kind, finding.place):
                    finding = smaller
                else:
                    at += size
            size //= 2
        return finding


# --- containment -----------------------------------------------------------------------------------------------------

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {  # audit events of CPython (docs, "Audit events table") → which arguments are paths that are written to
    "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (0, 1), "os.symlink": (1,),
    "os.chmod": (0,), "os.chown": (0,), "os.truncate": (0,), "os.utime": (0,), "os.setxattr": (0,),
}  # fmt: skip
_NEVER = (
    "subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty", "os.system", "os.kill", "os.spawn",
    "socket.connect", "socket.bind", "socket.sendto", "urllib.Request", "ctypes.dlopen",
)  # fmt: skip
_allowed: list[str] = []  # the folder of the innermost `contained` block; empty outside of all
_hooked = False


@contextmanager
def contained(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Whoever changes a file outside `folder` in this block, starts a process or opens a connection gets a Violation.

    By Python's audit events, so it holds for Python's own calls; compiled extensions that call the system do not tell.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)  # for ever: hooks can't be taken away
        _hooked = True
    _allowed.append(os.path.realpath(folder))
    try:
        yield
    finally:
        _allowed.pop()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event == "open":
        if isinstance(arguments[2], int) and arguments[2] & _WRITES:
            _check(event, arguments[0])
    elif event in _PATHS:
        for place in _PATHS[event]:
            _check(event, arguments[place])
    elif event in _NEVER:
        raise Violation(f"{event}{arguments!r}"[:300])


def _check(event: str, path: Any) -> None:
    """A path given as a number was opened before, and looked at then."""
    if isinstance(path, int):
        return
    absolute = os.path.abspath(os.fsdecode(path))
    place = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    if place != _allowed[-1] and not place.startswith(_allowed[-1] + os.sep) and place != os.devnull:
        raise Violation(f"{event} outside the target folder: {path!r}"[:300])
