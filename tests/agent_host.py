"""The other end of the agent's port: what tests use to speak with an agent, compiled for this machine or in a guest.

Example::

    host = Host(binary, "--runner", "/nonexistent")
    assert host.run("echo hi").out == b"hi\n"
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vpod.protocol import Frame, Kind, Parser, RunTag, fields, frame, parse_done, parse_exit, parse_fields

PATIENCE = 30.0


class Result(NamedTuple):
    code: int
    out: bytes
    err: bytes
    lost: bytes | None
    result: dict[int, bytes]
    error: bytes | None


class Host:
    """The other end of the port."""

    def __init__(self, binary: Path, *options: str) -> None:
        self.socket, theirs = socket.socketpair()
        fd = theirs.fileno()
        self.process = subprocess.Popen([binary, "--port", f"/dev/fd/{fd}", *options], pass_fds=[fd])
        theirs.close()
        self.parser = Parser()
        self.frames: list[Frame] = []
        self.next_id = 1
        self.ready = self.wait(lambda f: f.kind == Kind.READY)

    def send(self, kind: Kind, id: int, payload: bytes = b"") -> None:
        self.socket.sendall(frame(kind, id, payload))

    def receive(self, timeout: float = PATIENCE) -> bool:
        """Take what has come; False if nothing came in time."""
        if not select.select([self.socket], [], [], timeout)[0]:
            return False
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError("the agent has gone")
        self.frames += self.parser.feed(data)
        return True

    def wait(self, wanted: Callable[[Frame], bool], timeout: float = PATIENCE) -> Frame:
        """The first frame that is wanted; it and the ones before it stay in `frames` until collected."""
        end = time.monotonic() + timeout
        seen = 0
        while True:
            for found in self.frames[seen:]:
                if wanted(found):
                    return found
            seen = len(self.frames)
            left = end - time.monotonic()
            assert left > 0 and self.receive(left), f"nothing came in time; have {self.frames[-10:]}"

    def start(self, *args: str, script: str | None = None, flags: int = 0, more: tuple = (), **options: str) -> int:
        id = self.next_id
        self.next_id += 1
        items = [(RunTag.ARG, os.fsencode(arg)) for arg in args]
        if script is not None:
            items.append((RunTag.SCRIPT, script.encode("utf-8", "surrogateescape")))
        for key, tag in (("cwd", RunTag.CWD), ("user", RunTag.USER)):
            if key in options:
                items.append((tag, options[key].encode()))
        if "env" in options:
            items += [(RunTag.ENV, pair.encode()) for pair in options["env"].split("\n")]
        if flags:
            items.append((RunTag.FLAGS, struct.pack("<I", flags)))
        self.send(Kind.RUN, id, fields(*items, *more))
        return id

    def ended(self, id: int, timeout: float) -> bool:
        """Whether a request ends within `timeout` seconds; what it said stays for `finish`."""
        end = time.monotonic() + timeout
        while not any(f.id == id and f.kind == Kind.EXIT for f in self.frames):
            left = end - time.monotonic()
            if left <= 0 or not self.receive(left):
                return False
        return True

    def finish(self, id: int, timeout: float = PATIENCE) -> Result:
        """Everything said of a request, up to its end."""
        last = self.wait(lambda f: f.id == id and f.kind in (Kind.EXIT, Kind.ERROR, Kind.DONE), timeout)
        mine = [f for f in self.frames if f.id == id]
        self.frames = [f for f in self.frames if f.id != id]
        assert mine[-1] is last
        joined = {kind: b"".join(f.payload for f in mine if f.kind == kind) for kind in Kind}
        if last.kind == Kind.ERROR:
            return Result(-1, b"", b"", None, {}, last.payload)
        if last.kind == Kind.DONE:
            return Result(parse_done(last.payload)[0], joined[Kind.DATA], b"", None, {}, None)
        code, lost = parse_exit(last.payload)
        result = dict(parse_fields(joined[Kind.RESULT]))
        return Result(code, joined[Kind.STDOUT], joined[Kind.STDERR], lost, result, None)

    def run(self, script: str, **options: str) -> Result:
        return self.finish(self.start(script=script, **options))

    def exec(self, *args: str, **options: str) -> Result:
        return self.finish(self.start(*args, **options))

    def code(self, source: str) -> Result:
        return self.finish(self.start_code(source))

    def start_code(self, source: str) -> int:
        id = self.next_id
        self.next_id += 1
        self.send(Kind.CODE, id, source.encode())
        return id

    def kill(self, id: int) -> Result:
        self.send(Kind.KILL, id)
        return self.finish(id)

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(PATIENCE) == 0
