"""The terminal: keys to the guest, sizes too, and the host's terminal as it was afterwards. Over a real pty."""

from __future__ import annotations

import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

FAKE_VPOD = str(Path(__file__).with_name("fake_vpod.py"))


def spawn(*arguments: str) -> pexpect.spawn:
    child = pexpect.spawn(
        sys.executable,
        [FAKE_VPOD, *arguments],
        dimensions=(31, 97),
        timeout=20,
        env={**os.environ, "TERM": "vt220", "PS1": "ready> ", "ENV": ""},
    )
    child.delaybeforesend = None
    return child


@pytest.fixture
def shell() -> Iterator[pexpect.spawn]:
    child = spawn()
    child.expect("[#$>] ")
    yield child
    child.close(force=True)


def modes(child: pexpect.spawn) -> list:
    return termios.tcgetattr(child.child_fd)


def test_a_shell_has_a_terminal_of_the_hosts_size_and_kind(shell: pexpect.spawn) -> None:
    shell.send("echo size $(stty size) $TERM; tty\r")
    shell.expect("size 31 97 vt220\r\n/dev/pts/")


def test_a_change_of_size_is_passed_on(shell: pexpect.spawn) -> None:
    shell.setwinsize(40, 132)
    time.sleep(0.3)
    shell.send("stty size\r")
    shell.expect("40 132")


def test_ctrl_c_goes_to_the_guest_and_not_to_us(shell: pexpect.spawn) -> None:
    shell.send("sleep 60; echo code $?\r")
    time.sleep(0.5)
    shell.send("\x03")
    shell.expect("[#$>] ")
    shell.send("echo still $((1+1))\r")
    shell.expect("still 2")


def test_the_exit_code_is_the_shells(shell: pexpect.spawn) -> None:
    shell.send("exit 9\r")
    shell.expect(pexpect.EOF)
    shell.wait()
    assert shell.exitstatus == 9


def test_the_terminal_is_raw_meanwhile_and_as_before_at_the_end() -> None:
    child = pexpect.spawn("/bin/sh", env={**os.environ, "PS1": "outer> "}, timeout=20)
    child.expect_exact("outer> ")
    before = modes(child)
    child.send(f"PS1='inner> ' {sys.executable} {FAKE_VPOD}\r")
    child.expect("\r\n(inner>|#) ")
    assert not modes(child)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    child.send("exit\r")
    child.expect_exact("outer> ")
    assert modes(child) == before
    child.close(force=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_us_restores_the_terminal(number: signal.Signals) -> None:
    child = pexpect.spawn("/bin/sh", env={**os.environ, "PS1": "outer> "}, timeout=20)
    child.expect_exact("outer> ")
    before = modes(child)
    child.send(f"PS1='inner> ' {sys.executable} {FAKE_VPOD}; echo code $?\r")
    child.expect("\r\n(inner>|#) ")
    vpod = int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[0])
    os.kill(vpod, number)
    child.expect_exact(f"code {128 + number}")
    child.expect_exact("outer> ")
    assert modes(child) == before
    child.close(force=True)


def test_a_guest_that_hangs_can_be_left() -> None:
    child = pexpect.spawn(
        sys.executable, [FAKE_VPOD], timeout=20, env={**os.environ, "FAKE_MODE": "silent", "TERM": "xterm"}
    )
    child.expect_exact("so far")
    for _ in range(3):
        child.send("\x1d")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_run_with_a_terminal() -> None:
    child = spawn("run", "-T", "--", "sh", "-c", "stty size; read x; echo got $x; exit 3")
    child.expect_exact("31 97")
    child.send("word\r")
    child.expect_exact("got word")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 3


def test_run_without_a_terminal_leaves_the_hosts_alone() -> None:
    child = spawn("run", "--", "sh", "-c", "tty; sleep 1")
    before = modes(child)
    child.expect_exact("not a tty")
    assert modes(child) == before
    child.expect(pexpect.EOF)
    child.close()
