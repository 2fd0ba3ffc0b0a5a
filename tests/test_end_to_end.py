"""The whole chain, as a user types it: the builder's commands, ``vpod`` on real snapshots, and API.md to the letter.

The session's fixed points are in ``test_guest_session.py``, Python's in ``test_guest_python.py``, what the machine
itself must be like in ``test_guest_machine.py``; the guest's own tools are oracles in ``test_guest_tools.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pexpect
import pyte
import pytest

from tests.real_snapshots import ROOT, Made
from vpod import Sandbox, protocol

MEGABYTE = 1_000_000
EVERY_BYTE = bytes(range(256))


def vpod(*arguments: str, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command ``vpod`` with `stdin` on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "vpod", *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **environ},
        timeout=120,
    )


class TestBuilding:
    def test_alpine_says_what_it_did_and_is_small(self, alpine_build: Made) -> None:
        for step in ("signature", "alpine-minirootfs-3.23.0-riscv64.tar.gz", "Booted Linux", "Settled", "alpine:3.23"):
            assert step in alpine_build.stderr
        assert alpine_build.stdout == ""
        assert alpine_build.path.stat().st_size < 40 * MEGABYTE

    def test_debian_is_small(self, debian_build: Made) -> None:
        assert debian_build.path.stat().st_size < 90 * MEGABYTE

    def test_the_first_run_makes_a_default_with_python_and_says_why(self, first_run: Made) -> None:
        assert first_run.stdout == "riscv64\n"
        made_alpine = "can be reached" in first_run.stderr
        assert first_run.path.name == ("alpine@3.23-python.snap" if made_alpine else "debian@13.snap")
        assert made_alpine or "Alpine's sites cannot be reached" in first_run.stderr

    def test_list_shows_what_is_here(self, alpine: str, debian: str) -> None:
        rows = {f"{row['name']}:{row['tag']}": row for row in json.loads(vpod("list", "--json").stdout)}
        assert rows["alpine:3.23"]["here"] and not rows["alpine:3.23"]["has_python"]
        assert rows["debian:13"]["here"] and rows["debian:13"]["has_python"]
        assert [name for name, row in rows.items() if row["default"]] != ["alpine:3.23"]


class TestRun:
    """``vpod run``: data on stdout, messages on stderr, the guest's own exit code."""

    @pytest.fixture(autouse=True)
    def _default(self, alpine: str, first_run: Made) -> None:
        """Both are there."""

    def test_alpines_release(self) -> None:
        done = vpod("run", "-s", "alpine:3.23", "--", "cat", "/etc/alpine-release", VPOD_OFFLINE="1")
        assert (done.stdout, done.stderr, done.returncode) == (b"3.23.0\n", b"", 0)

    def test_debians_python_without_the_network(self, debian: str) -> None:
        nowhere = "http://127.0.0.1:9"
        command = ("run", "-s", "debian:13", "--", "python3", "-c", "print(6*7)")
        done = vpod(*command, VPOD_OFFLINE="1", http_proxy=nowhere, https_proxy=nowhere)
        assert (done.stdout, done.stderr, done.returncode) == (b"42\n", b"", 0)

    def test_the_default_is_riscv(self) -> None:
        done = vpod("run", "--", "uname", "-m")
        assert (done.stdout, done.stderr, done.returncode) == (b"riscv64\n", b"", 0)

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (("sh", "-c", "exit 7"), 7),
            (("sh", "-c", "kill -9 $$"), 137),
            (("sh", "-c", "kill -TERM $$"), 143),
            (("/etc/passwd",), 126),
            (("no-such-program",), 127),
            (("true",), 0),
        ],
    )
    def test_exit_codes_are_the_guests(self, command: tuple[str, ...], code: int) -> None:
        assert vpod("run", "-s", "alpine:3.23", "--", *command).returncode == code

    def test_exit_codes_of_vpod_itself(self) -> None:
        assert vpod("run").returncode == 2
        missing = vpod("run", "-s", "no-such:snapshot", "--", "true")
        assert missing.returncode == 125 and b"no-such:snapshot" in missing.stderr and missing.stdout == b""

    def test_a_time_out(self) -> None:
        began = time.monotonic()
        done = vpod("run", "-s", "alpine:3.23", "-t", "1", "--", "sh", "-c", "echo so far; sleep 60")
        assert (done.stdout, done.returncode) == (b"so far\n", 124)
        assert time.monotonic() - began < 10

    def test_an_interrupt(self) -> None:
        command = [sys.executable, "-m", "vpod", "run", "-s", "alpine:3.23", "--", "sh", "-c", "echo on; sleep 60"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"on\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 130

    def test_streams_are_apart_and_bytes_are_bytes(self) -> None:
        data = EVERY_BYTE * 1000 + b"no newline at the end"
        done = vpod("run", "-i", "-s", "alpine:3.23", "--", "sh", "-c", "tee /dev/stderr", stdin=data)
        assert (done.stdout, done.stderr, done.returncode) == (data, data, 0)

    def test_the_protocols_own_bytes_are_only_bytes(self) -> None:
        frames = b"".join(protocol.frame(kind, 1, b"\x07\0\0\0") for kind in protocol.Kind)
        done = vpod("run", "-i", "-s", "alpine:3.23", "--", "cat", stdin=frames)
        assert (done.stdout, done.returncode) == (frames, 0)

    def test_standard_input_is_passed_on_only_when_asked(self) -> None:
        assert vpod("run", "-s", "alpine:3.23", "--", "wc", "-c", stdin=b"12345").stdout.strip() == b"0"
        assert vpod("run", "-s", "alpine:3.23", "-i", "--", "wc", "-c", stdin=b"12345").stdout.strip() == b"5"

    def test_variables_directory_and_user(self) -> None:
        options = ("-s", "alpine:3.23", "-e", "A=it's", "-e", "GIVEN", "-w", "/tmp", "-u", "nobody")
        done = vpod("run", *options, "--", "sh", "-c", "echo $A $GIVEN; pwd; id -un", GIVEN="from the host")
        assert done.stdout == b"it's from the host\n/tmp\nnobody\n"

    def test_arguments_arrive_as_they_are(self) -> None:
        arguments = ["", " ", "a b", "$HOME", "*", "'", '"', "\\", "\n", "-n", "--", "é"]
        program = 'for a; do printf "[%s]" "$a"; done'
        done = vpod("run", "-s", "alpine:3.23", "--", "sh", "-c", program, "sh", *arguments)
        assert done.stdout.decode() == "".join(f"[{argument}]" for argument in arguments)

    def test_a_reader_that_goes_away_ends_it(self) -> None:
        command = [sys.executable, "-m", "vpod", "run", "-s", "alpine:3.23", "--", "yes"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stderr is not None
            assert child.stdout.readline() == b"y\n"
            child.stdout.close()
            assert child.wait(20) == 141
            assert child.stderr.read() == b""


class TestInterface:
    """API.md's examples to the letter, on the default snapshot."""

    def test_without_a_with(self, first_run: Made) -> None:
        sandbox = Sandbox.create()
        result = sandbox.commands.run("whoami")
        assert result.stdout == "root"
        sandbox.close()

    def test_a_session(self, first_run: Made) -> None:
        with Sandbox.create() as sandbox:
            sandbox.commands.run("export API_KEY=secret")
            result = sandbox.commands.run("echo $API_KEY")
            assert result.stdout == "secret"

    def test_python(self, first_run: Made) -> None:
        with Sandbox.create() as sandbox:
            assert sandbox.code.run("import requests").error is None
            sandbox.code.run("data = [1, 2, 3]")
            result = sandbox.code.run("print(sum(data))")
            assert result.text == "6"


class Terminal:
    """``vpod`` on a pseudo-terminal, and a terminal emulator that draws what it prints."""

    def __init__(self, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        command = ["-m", "vpod", *arguments]
        environ = {**os.environ, "TERM": "vt100"}
        size = (rows, columns)
        self.child = pexpect.spawn(sys.executable, command, cwd=ROOT, env=environ, dimensions=size, timeout=60)
        self.child.delaybeforesend = None
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)

    def until(self, *texts: str, seconds: float = 30) -> None:
        """Draw until the screen shows all of `texts`."""
        deadline = time.monotonic() + seconds
        while not all(any(text in line for line in self.screen.display) for text in texts):
            try:
                self.stream.feed(self.child.read_nonblocking(4096, timeout=max(0.0, deadline - time.monotonic())))
            except (pexpect.TIMEOUT, pexpect.EOF) as end:
                lines = "\n".join(self.screen.display)
                raise AssertionError(f"{type(end).__name__} before {texts} on the screen:\n{lines}") from end

    def type(self, text: str) -> None:
        self.child.send(text)

    def resize(self, rows: int, columns: int) -> None:
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def exit_code(self) -> int | None:
        """What it ends with; waits for its end."""
        self.child.expect(pexpect.EOF)
        self.child.wait()
        code: int | None = self.child.exitstatus
        return code

    def close(self) -> None:
        self.child.close(force=True)


class TestTerminal:
    @pytest.fixture
    def shell(self, alpine: str) -> Iterator[Terminal]:
        terminal = Terminal("start", "alpine:3.23")
        terminal.until("# ")
        yield terminal
        terminal.close()

    def test_top_fills_the_screen_of_any_size(self, shell: Terminal) -> None:
        shell.type("top -d 1\r")
        shell.until("Mem:", "Load average:", "PID", "[kworker/")
        shell.resize(40, 100)
        shell.until("[rcu_")  # further down than 24 rows show
        shell.type("q")
        shell.type("clear; stty size\r")
        shell.until("40 100")

    def test_ctrl_c_and_ctrl_z_are_the_guests(self, shell: Terminal) -> None:
        shell.type("sleep 60; echo sl''ept=$?\r")
        time.sleep(0.5)
        shell.type("\x03")
        shell.type("echo st''ill here\r")
        shell.until("still here")
        shell.type("clear; sleep 61\r")
        time.sleep(0.5)
        shell.type("\x1a")
        shell.until("Stopped")
        shell.type("kill %1; exit 9\r")
        shell.type("exit 9\r")  # in case the shell minded the job
        assert shell.exit_code() == 9

    def test_vi_writes_what_it_shows(self, shell: Terminal) -> None:
        shell.type("vi /tmp/note\r")
        shell.until("~", "/tmp/note")
        shell.type("ifirst\rsecond\x1b")
        shell.until("first", "second")
        time.sleep(1)  # or vi takes Escape and what follows for one key
        shell.type(":wq\r")
        shell.type("clear; md5sum < /tmp/note\r")
        shell.until(hashlib.md5(b"first\nsecond\n").hexdigest())
        assert "first" not in "".join(shell.screen.display)

    def test_colours_keys_and_characters_reach_the_screen(self, shell: Terminal) -> None:
        shell.type("clear; printf '\\033[31mred\\033[0m \\303\\251\\n'; cat -v\r")
        shell.until("red é")
        row = next(y for y, line in enumerate(shell.screen.display) if line.startswith("red é"))
        assert shell.screen.buffer[row][0].fg == "red"
        shell.type("\x1b[A\r")
        shell.until("^[[A")
        shell.type("\x04")

    def test_run_with_a_terminal(self, debian: str) -> None:
        command = ("run", "-T", "-s", "debian:13", "--", "sh", "-c", "tty; stty size; exit 3")
        terminal = Terminal(*command, rows=31, columns=99)
        terminal.until("/dev/pts/", "31 99")
        assert terminal.exit_code() == 3
        terminal.close()

    def test_debians_shell_edits_lines(self, debian: str) -> None:
        terminal = Terminal("debian:13")
        terminal.until("# ")
        terminal.type("echo wrong\x15echo $((6*7))' answers'\r")
        terminal.until("42 answers")
        terminal.type("exit\r")
        assert terminal.exit_code() == 0
        terminal.close()


class TestPipedShell:
    def test_a_script_on_standard_input(self, snapshot: str) -> None:
        script = b"cd /tmp\nx=$(pwd)\nfor i in 1 2; do\necho $i\ndone\necho $x >&2\nexit 5\n"
        done = vpod(stdin=script, VPOD_SNAPSHOT=snapshot)
        assert (done.stdout, done.stderr, done.returncode) == (b"1\n2\n", b"/tmp\n", 5)

    def test_a_script_may_read_its_own_next_line(self, debian: str) -> None:
        done = vpod("debian:13", stdin=b"read line\nthe next line\necho $line\n")
        assert (done.stdout, done.stderr, done.returncode) == (b"the next line\n", b"", 0)

    def test_nothing_on_standard_input(self, alpine: str) -> None:
        done = vpod("start", "alpine:3.23", stdin=b"")
        assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
