"""Bounds that a piece puts on its own process: what asks for too much gets an error, and not the machine.

Invariant: what comes after has the bounds from before; an emulator that reserves gigabytes may be next in the process.

    >>> with limited(1 << 20):
    ...     len(bytes(1 << 30))
    Traceback (most recent call last):
    MemoryError
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def limited(headroom: int) -> Iterator[None]:
    """Let the process have no more bytes of address space than it has now and `headroom`: MemoryError beyond."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + headroom, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def hurried(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """Raise `error` in the block after so many seconds of this process's CPU time. Main thread only."""

    def late(number: int, frame: FrameType | None) -> None:
        raise error(f"not done after {seconds:g} s of CPU time")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
