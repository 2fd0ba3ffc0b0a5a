"""Booting the image in vpod itself, in this process, and talking to its agent until the machine is worth freezing.

    >>> guest = Guest(image, memory=256 << 20, report=report)
    >>> guest.wait_ready()
    >>> guest.run(["apk", "--version"], "apk --version")
    >>> guest.settle()

Invariants: every step has a time limit; what the guest says is bounded (`KEPT` bytes of its console and output are
kept, for error messages) and goes through the same checked protocol as a sandbox's; a guest that stops, panics or
breaks the protocol is a `BuildError` with the end of its console.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

from vpod.client import Greeting, Transcript, code_request, run_request
from vpod.errors import BuildError, VpodError
from vpod.machine import Event, Machine
from vpod.protocol import Frame, Kind, Parser, ResultTag, frame, parse_done

from .progress import Report
from .recipe import Recipe
from .rootfs import Image

# `rdinit` is the default; the rest leaves out what costs every system call or would misread a machine that slept:
# security modules nobody configures, clearing pages twice, and watchdogs that take a pause for a hang. The last two
# leave out three fifths of the boot of Debian's kernel: tests of its ciphers, and of how random a hart's timing is.
COMMAND_LINE = (
    "console=ttyS0 quiet rdinit=/init lsm=landlock,yama init_on_alloc=0 audit=0 nowatchdog "
    "rcupdate.rcu_cpu_stall_suppress=1 cryptomgr.notests=1 initcall_blacklist=jent_mod_init"
)
BOOT_SECONDS = 300.0
CONFIGURE_SECONDS = 3600.0
RUN_SECONDS = 3600.0
SETTLE_SECONDS = 600.0
KEPT = 64 << 10
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Guest:
    """A machine that boots an image, and the requests its agent has been sent. Not for several threads."""

    def __init__(self, image: Image, memory: int, report: Report) -> None:
        """`memory` in bytes. `BuildError` when the image does not fit into it."""
        self.report = report
        self.machine = Machine(memory=memory)
        self.greeting: Greeting | None = None
        self._console = bytearray()
        self._parser = Parser()
        self._frames: list[Frame] = []
        self._request = 0
        self._failure: VpodError | None = None
        self.machine.uart.output = self._on_console
        self.machine.agent.output = self._on_agent
        self.machine.load(
            firmware=image.kernel.firmware,
            kernel=image.kernel.image,
            initrd=image.initramfs(),
            command_line=COMMAND_LINE,
        )

    @property
    def has_python(self) -> bool:
        """Whether a warm Python runner waits in the guest."""
        return self.greeting is not None and self.greeting.python

    def wait_ready(self) -> None:
        """Boot until the agent says that shell and runner wait."""
        with self.report.step("Booting Linux", total=None) as bar:
            self._until(lambda: self.greeting is not None, BOOT_SECONDS, "booting")
            bar.done("Booted Linux to its agent")

    def restart_agent(self) -> None:
        """Let init start the agent anew, with a shell and a runner that begin from what the machine has become."""
        self.greeting = None
        self.machine.agent.send(frame(Kind.RUN, self._next(), run_request(["/bin/sh", "-c", "kill -KILL $PPID"])))
        with self.report.step("Restarting") as bar:
            self._until(lambda: self.greeting is not None, BOOT_SECONDS, "restarting the agent")
            bar.done("Restarted shell and Python")

    def set_clock(self) -> None:
        """Give the guest this host's time, so that what it writes is dated."""
        self.machine.agent.send(frame(Kind.SYNC_TIME, self._next(), struct.pack("<Q", time.time_ns())))

    def run(self, command: str | Sequence[str], title: str, *, seconds: float = RUN_SECONDS) -> bytes:
        """Run a command (a script for the session's shell, or arguments) and give its output, the last `KEPT` bytes.

        `BuildError` with that output if it ends with anything but 0 or takes longer than `seconds`.
        """
        output = bytearray()
        transcript = self._ask(Kind.RUN, run_request(command), title, seconds, output)
        if transcript.exit_code != 0:
            raise BuildError(f"{title}: ended with exit code {transcript.exit_code}{_quoted(output)}")
        return bytes(output)

    def code(self, source: str, title: str, *, seconds: float = RUN_SECONDS) -> None:
        """Run Python in the waiting runner; `BuildError` with the traceback if it raises."""
        output = bytearray()
        transcript = self._ask(Kind.CODE, code_request(source), title, seconds, output)
        if transcript.exit_code != 0:
            trace = transcript.result.get(ResultTag.TRACEBACK, "").encode()
            raise BuildError(f"{title}: failed{_quoted(output + trace)}")

    def settle(self) -> None:
        """Let the guest flush, drop its caches and zero its free memory: the last thing before the freeze."""
        with self.report.step("Settling") as bar:
            request = self._next()
            self.machine.agent.send(frame(Kind.SETTLE, request))
            self._until(lambda: bool(self._frames), SETTLE_SECONDS, "settling")
            answer = self._frames.pop(0)
            if answer.kind != Kind.DONE or parse_done(answer.payload)[0] != 0:
                raise BuildError(f"the guest could not settle before the freeze: {answer.payload[:200]!r}")
            bar.done("Settled: caches dropped, free memory zeroed")

    def _ask(self, kind: Kind, payload: bytes, title: str, seconds: float, output: bytearray) -> Transcript:
        """One RUN or CODE until its EXIT; output is bounded, and shown line by line where there is a bar."""
        transcript = Transcript(keep=False)
        request = self._next()
        self.machine.agent.send(frame(kind, request, payload))
        deadline = time.monotonic() + seconds
        with self.report.step(title) as bar:
            while not transcript.done:
                self._until(lambda: bool(self._frames), deadline - time.monotonic(), title, output)
                answer = self._frames.pop(0)
                if answer.kind in (Kind.STDOUT, Kind.STDERR):
                    output += answer.payload
                    del output[:-KEPT]
                    bar.note(output[-200:].decode("utf-8", "replace").rstrip().rpartition("\n")[2])
                transcript.accept(answer)
            bar.done(title)
        return transcript

    def _next(self) -> int:
        self._request += 1
        self._frames.clear()
        return self._request

    def _until(self, done: Callable[[], bool], seconds: float, what: str, output: bytearray | None = None) -> None:
        """Run the machine until `done`; `BuildError` when time is over or the machine ends."""
        event = self.machine.run(max(seconds, 0.0), until=lambda: self._failure is not None or done())
        if self._failure is not None:
            raise BuildError(f"{what}: {self._failure}") from self._failure
        if done():
            return
        if event is Event.STOPPED:
            raise BuildError(f"{what}: the machine stopped ({self.machine.stopped}){_quoted(self._console)}")
        raise BuildError(f"{what}: not over after {seconds:.0f} s{_quoted(output or self._console)}")

    def _on_console(self, data: bytes) -> None:
        self._console += data
        del self._console[:-KEPT]

    def _on_agent(self, data: bytes) -> None:
        if self._failure is not None:
            return
        try:
            for each in self._parser.feed(data):
                if each.kind == Kind.READY:
                    self.greeting = Greeting(each.payload)
                elif each.id == self._request:
                    self._frames.append(each)
        except VpodError as error:
            self._failure = error


def prepare(guest: Guest, image: Image, recipe: Recipe, *, commands: Sequence[str]) -> None:
    """All that happens between boot and freeze: room, clock, packages' configuration, `--run`, what is to be warm."""
    guest.wait_ready()
    guest.set_clock()
    # The kernel gives the root filesystem half of the memory; what is not used of it costs nothing.
    guest.run(["mount", "-o", "remount,size=90%", "/"], "Gave the root filesystem room")
    if image.configure:
        guest.run(["/bin/sh", image.configure], "Configured the packages", seconds=CONFIGURE_SECONDS)
    for command in commands:
        guest.run(["/bin/sh", "-ec", command], f"Ran {command}")
    if image.configure or commands:
        guest.restart_agent()
    if guest.has_python and recipe.warm:
        for command in recipe.warm_runs:
            guest.run(["/bin/sh", "-ec", command], f"Warmed {command}")
        names = ", ".join(repr(name) for name in recipe.warm)
        source = f"for _module in ({names},): __import__(_module)\ndel _module"
        guest.code(source, f"Imported {', '.join(recipe.warm)}")


def _quoted(output: bytes | bytearray) -> str:
    """The last lines of what the guest said, for a message."""
    text = bytes(output[-4000:]).decode("utf-8", "replace").strip()
    lines = text.splitlines()[-20:]
    return ". It said last:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
