"""Sandboxes for tests: on a stand-in for the guest (`fake`), and on a bare program in the real worker (`bare`).

Example: ``with fake("honest") as box: box.commands.run("true")``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vpod.link import Link
from vpod.sandbox import Sandbox

FAKE_WORKER = str(Path(__file__).with_name("fake_worker.py"))


class Cached(NamedTuple):
    """What `Sandbox` needs of a snapshot."""

    meta: Mapping[str, Any]
    state: bytes
    ram_path: str


@contextmanager
def fake(*mode: str, env: Mapping[str, str] | None = None) -> Iterator[Sandbox]:
    """A sandbox whose guest is `tests/fake_worker.py` in `mode`."""
    cached = Cached({"name": "fake", "tag": "1"}, b"state", os.devnull)
    box = Sandbox(Link([sys.executable, FAKE_WORKER, *mode]), cached, env or {})  # type: ignore[arg-type]
    try:
        box.link.thaw(cached.state, cached.ram_path)
        box._start(20.0)
        yield box
    finally:
        box.close()


def ends(pid: int, within: float = 5.0) -> bool:
    """The process ends in that many seconds, if it has not."""
    deadline = time.monotonic() + within
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def is_running(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended just now, or this system has no /proc
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"
