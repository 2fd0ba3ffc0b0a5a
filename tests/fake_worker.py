"""A worker without a machine: the wire's frames on descriptor 0, and behind them a guest that is this host.

Why it exists: the SDK is to be tested without waiting for a guest, and against guests and workers that no honest
machine would be. ``python tests/fake_worker.py MODE``: ``honest`` runs commands on the host (only what tests send it);
``agent PATH`` starts the guest's agent, compiled for the host, and passes bytes along; every other mode does one thing
wrong, on a RUN, as `Guest.misbehave` lists them.

Example: ``Link([sys.executable, "tests/fake_worker.py", "honest"])``.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from vpod import protocol, wire
from vpod.protocol import Frame, Kind, ReadyTag, ResultTag, RunTag, fields, frame, parse_fields


class Guest:
    """The agent's side, well or badly behaved."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.socket = socket.socket(fileno=0)
        self.lock = threading.Lock()
        self.parser = protocol.Parser(protocol.HOST_KINDS)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.terminals: dict[int, int] = {}
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.exports: dict[str, str] = {}

    def serve(self) -> None:
        data, _, _, _ = self.socket.recvmsg(1 << 20, 64)
        reader = wire.Reader()
        frames = reader.feed(data)
        while True:
            for kind, payload in frames:
                if kind == wire.START:
                    self.wire(wire.START)
                elif kind == wire.AGENT:
                    for asked in self.parser.feed(payload):
                        self.answer(asked)
                elif kind == wire.STATS:
                    self.wire(wire.STATS, b'{"instructions": 42}')
            data = self.socket.recv(1 << 18)
            if not data:
                self.end()
            frames = reader.feed(data)

    def pass_on(self, agent: str) -> None:
        """Be a worker whose machine is the program `agent`."""
        ours, theirs = socket.socketpair()
        process = subprocess.Popen([agent, "--port", f"/dev/fd/{theirs.fileno()}"], pass_fds=[theirs.fileno()])
        theirs.close()
        first = protocol.Parser()
        while not first.feed(ours.recv(1)):  # the READY of its start, which a snapshot holds behind it
            pass

        def from_agent() -> None:
            while data := ours.recv(1 << 16):
                self.wire(wire.AGENT, data)
            self.wire(wire.STOP, b"guest: exit")

        threading.Thread(target=from_agent, daemon=True).start()
        reader = wire.Reader()
        data = self.socket.recvmsg(1 << 20, 64)[0]
        while data:
            for kind, payload in reader.feed(data):
                if kind == wire.AGENT:
                    ours.sendall(payload)
            data = self.socket.recv(1 << 18)
        process.kill()
        os._exit(0)

    def wire(self, kind: int, payload: bytes = b"") -> None:
        try:
            with self.lock:
                self.socket.sendall(wire.encode(kind, payload))
        except OSError:  # the caller has gone
            self.end()

    def end(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        os._exit(0)

    def say(self, kind: Kind, id: int, payload: bytes = b"") -> None:
        self.wire(wire.AGENT, frame(kind, id, payload))

    def answer(self, asked: Frame) -> None:
        if asked.kind == Kind.RESTORE:
            python = b"0" if self.mode == "without-python" else b"1"
            version = (7 if self.mode == "other-version" else 1).to_bytes(4, "little")
            self.say(Kind.READY, asked.id, fields((ReadyTag.VERSION, version), (ReadyTag.PYTHON, python)))
        elif asked.kind == Kind.RUN and self.mode in ("honest", "without-python"):
            self.run(asked)
        elif asked.kind == Kind.RUN:
            self.misbehave(asked.id)
        elif asked.kind == Kind.CODE:
            threading.Thread(target=self.code, args=(asked,)).start()
        elif asked.id in self.terminals and asked.kind in (Kind.STDIN, Kind.WINDOW):
            if asked.kind == Kind.WINDOW:
                fcntl.ioctl(self.terminals[asked.id], termios.TIOCSWINSZ, asked.payload + bytes(4))
            else:
                os.write(self.terminals[asked.id], asked.payload or b"\x04")
                self.say(Kind.CREDIT, asked.id, len(asked.payload).to_bytes(4, "little"))
        elif asked.kind in (Kind.KILL, Kind.SIGNAL, Kind.STDIN) and asked.id in self.processes:
            process = self.processes[asked.id]
            number = signal.SIGKILL if asked.kind == Kind.KILL else int.from_bytes(asked.payload, "little")
            if asked.kind != Kind.STDIN:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            elif process.stdin is not None:
                with contextlib.suppress(OSError):
                    if asked.payload:
                        process.stdin.write(asked.payload)
                        process.stdin.flush()
                        self.say(Kind.CREDIT, asked.id, len(asked.payload).to_bytes(4, "little"))
                    else:
                        process.stdin.close()

    def run(self, asked: Frame) -> None:
        items = parse_fields(asked.payload)
        arguments = [os.fsdecode(value) for tag, value in items if tag == RunTag.ARG]
        script = [os.fsdecode(value) for tag, value in items if tag == RunTag.SCRIPT]
        env = dict(os.fsdecode(value).split("=", 1) for tag, value in items if tag == RunTag.ENV)
        users = [value for tag, value in items if tag == RunTag.USER]
        if users and users[0] != b"root":
            self.say(Kind.ERROR, asked.id, b"unknown user: " + users[0])
            return
        if script and script[0].startswith("export "):
            for line in script[0].splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                self.exports[name] = value.strip("'")
        window = next((value for tag, value in items if tag == RunTag.TTY), None)
        if window is not None:
            self.run_in_terminal(asked.id, arguments, window, env)
            return
        try:
            process = subprocess.Popen(
                arguments or ["sh", "-c", script[0]],
                stdin=subprocess.PIPE if any(tag == RunTag.FLAGS for tag, _ in items) else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **self.exports, **env},
                cwd=next((os.fsdecode(value) for tag, value in items if tag == RunTag.CWD), None),
                start_new_session=True,
            )
        except FileNotFoundError:
            self.say(Kind.EXIT, asked.id, (127).to_bytes(4, "little"))
            return
        self.processes[asked.id] = process
        threading.Thread(target=self.follow, args=(asked.id, process)).start()

    def run_in_terminal(self, id: int, arguments: list[str], window: bytes, env: dict[str, str]) -> None:
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, window + bytes(4))
        process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.terminals[id] = master
        self.processes[id] = process

        def pump() -> None:
            with contextlib.suppress(OSError):
                while data := os.read(master, protocol.CHUNK):
                    self.say(Kind.STDOUT, id, data)
            code = process.wait()
            self.say(Kind.EXIT, id, (code if code >= 0 else 128 - code).to_bytes(4, "little"))

        threading.Thread(target=pump).start()

    def follow(self, id: int, process: subprocess.Popen[bytes]) -> None:
        def pump(kind: Kind, stream: io.BufferedReader) -> None:
            while data := stream.read1(protocol.CHUNK):
                self.say(kind, id, data)

        pumps = [
            threading.Thread(target=pump, args=pair)
            for pair in ((Kind.STDOUT, process.stdout), (Kind.STDERR, process.stderr))
        ]
        for thread in pumps:
            thread.start()
        code = process.wait()
        for thread in pumps:
            thread.join()
        self.say(Kind.EXIT, id, (code if code >= 0 else 128 - code).to_bytes(4, "little"))

    def code(self, asked: Frame) -> None:
        out, found, code = io.StringIO(), [], 0
        try:
            with contextlib.redirect_stdout(out):
                try:
                    value = eval(asked.payload.decode(), self.names)
                    found = [] if value is None else [(ResultTag.RESULT, repr(value).encode())]
                except SyntaxError:
                    exec(asked.payload.decode(), self.names)
        except SystemExit as end:
            code = end.code
            found = [(ResultTag.EXITED, str(code).encode())]
        except BaseException as error:
            code = 1
            found = [
                (ResultTag.ERROR_NAME, type(error).__name__.encode()),
                (ResultTag.ERROR_VALUE, str(error).encode()),
                (ResultTag.TRACEBACK, traceback.format_exc().encode()),
            ]
        self.say(Kind.STDOUT, asked.id, out.getvalue().encode())
        self.say(Kind.RESULT, asked.id, fields(*found))
        self.say(Kind.EXIT, asked.id, code.to_bytes(4, "little"))

    def misbehave(self, id: int) -> None:
        """One way to be wrong for each mode."""
        self.say(Kind.STDOUT, id, b"so far\n")
        if self.mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.mode == "exit":
            os._exit(3)
        elif self.mode == "hang-up":
            self.socket.shutdown(socket.SHUT_RDWR)
            time.sleep(60)
        elif self.mode == "poweroff":
            self.wire(wire.STOP, b"guest: poweroff")
        elif self.mode == "panic":
            self.wire(wire.CONSOLE, b"[1.0] Kernel panic - not syncing: \x1b[31mboom\n")
            self.wire(wire.STOP, b"guest: panic")
        elif self.mode == "error":
            self.wire(wire.STOP, b"worker: ValueError: no such thing")
        elif self.mode == "wire-length":
            self.socket.sendall(b"\xff\xff\xff\xff\x02")
        elif self.mode == "wire-kind":
            self.socket.sendall(b"\0\0\0\0\x63")
        elif self.mode == "agent-length":
            self.wire(wire.AGENT, b"\xff\xff\xff\xff\x83" + bytes(4))
        elif self.mode == "agent-kind":
            self.wire(wire.AGENT, frame(Kind.RUN, id))
        elif self.mode == "short-exit":
            self.say(Kind.EXIT, id, b"\0")
        elif self.mode == "foreign-kind":
            self.say(Kind.DONE, id, bytes(4))
        elif self.mode == "other-ids":
            for other in range(1000):
                self.say(Kind.STDOUT, id + 1 + other, b"not yours")
            self.say(Kind.EXIT, id, bytes(4))
        elif self.mode == "restarted-agent":
            self.say(Kind.READY, 0, b"")
        elif self.mode != "silent":
            raise AssertionError(self.mode)


if __name__ == "__main__":
    if sys.argv[1] == "agent":
        Guest("agent").pass_on(sys.argv[2])
    Guest(sys.argv[1]).serve()
