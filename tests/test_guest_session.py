"""`commands.run` on real guests: each fixed point of API.md, with busybox's shell and with bash.

How the SDK and the agent deal with each other is in ``test_session.py``, without a machine; here is what only a real
kernel, its processes and its users can show. Each test runs in each snapshot.
"""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator

import pytest

import vpod
from tests.sandboxes import ends
from vpod import Sandbox, protocol

EVERY_BYTE = bytes(range(256))


def processes(box: Sandbox) -> str:
    """What ``ps`` shows, a process a line."""
    return box.commands.run(["sh", "-c", "ps -eo args 2>/dev/null || ps -o args"]).stdout


def soon_few(box: Sandbox) -> bool:
    """Are the thousands of processes gone? The last to go are dead already and wait for the shell to reap them."""
    until = time.monotonic() + 60
    while (many := len(processes(box).split("\n")) >= 100) and time.monotonic() < until:
        time.sleep(1)
    return not many


class TestPersistence:
    def test_directory_variables_functions_and_options_stay(self, box: Sandbox) -> None:
        run = box.commands.run
        run("cd /usr/bin; export A=1; B='it''s'; f() { echo \"f $1\"; }; umask 027; set -f")
        assert run("pwd; echo $A $B; f x; umask; echo *").stdout == "/usr/bin\n1 its\nf x\n0027\n*"
        assert run("sh -c 'echo $A $B'").stdout == "1"
        run("cd; unset A B; unset -f f; umask 022; set +f")

    def test_the_last_exit_code_is_there(self, box: Sandbox) -> None:
        box.commands.run("(exit 42)")
        assert box.commands.run("echo $?").stdout == "42"

    def test_what_a_plain_program_does_is_no_concern_of_the_session(self, box: Sandbox) -> None:
        box.commands.run("cd /tmp")
        assert box.commands.run(["pwd"], cwd="/usr").stdout == "/usr"
        assert box.commands.run("pwd").stdout == "/tmp"

    def test_a_command_that_ends_the_shell(self, box: Sandbox) -> None:
        box.commands.run("cd /usr")
        r = box.commands.run("echo bye; exit 3")
        assert (r.stdout, r.exit_code, r.session_lost is None) == ("bye", 3, False)
        r = box.commands.run("pwd")
        assert (r.stdout, r.session_lost) == ("/usr", None)

    @pytest.mark.parametrize("command", ["kill -9 $$", "kill -TERM $$", "exec false", "exec 2>&- >&- <&-"])
    def test_a_command_that_harms_the_shell(self, box: Sandbox, command: str) -> None:
        box.commands.run(command, timeout=20)
        assert box.commands.run("echo well").stdout == "well"


class TestExitCodes:
    @pytest.mark.parametrize(
        ("command", "code"),
        [
            ("true", 0),
            ("false", 1),
            ("(exit 255)", 255),
            ("no-such-program", 127),
            ("/etc/passwd", 126),
            ("sh -c 'kill -9 $$'", 137),
            ("sh -c 'kill -SEGV $$'", 139),
            ("if then", 2),
        ],
    )
    def test_of_the_session(self, box: Sandbox, command: str, code: int) -> None:
        r = box.commands.run(command)
        # A shell may say 1 or 2 for a syntax error; it must go on in any case.
        assert r.exit_code == code or (command == "if then" and r.exit_code != 0)
        assert r.success is (code == 0)
        assert box.commands.run("echo on").stdout == "on"

    @pytest.mark.parametrize(
        ("command", "code"), [(["sh", "-c", "exit 9"], 9), (["no-such-program"], 127), (["/etc/passwd"], 126)]
    )
    def test_of_plain_programs(self, box: Sandbox, command: list[str], code: int) -> None:
        assert box.commands.run(command).exit_code == code


class TestTimeouts:
    def test_output_so_far_and_nothing_left(self, box: Sandbox) -> None:
        box.commands.run("KEPT=1; cd /tmp")
        tree = "sleep 1111 & (sleep 1112 &) ; nohup sleep 1113 & sh -c 'trap \"\" INT TERM HUP; sleep 1114; sleep 1115'"
        r = box.commands.run(f"echo so far; echo wrong >&2; {tree}", timeout=1)
        assert (r.exit_code, r.stdout, r.success) == (124, "so far", False)
        assert "wrong" in r.stderr
        assert r.duration < 4
        assert "sleep 111" not in processes(box)
        assert box.commands.run("echo $KEPT; pwd").stdout == "1\n/tmp"

    def test_of_plain_programs(self, box: Sandbox) -> None:
        r = box.commands.run(["sh", "-c", "setsid sleep 2221 & echo so far; sleep 2222"], timeout=1)
        assert (r.exit_code, r.stdout) == (124, "so far")
        assert "sleep 222" not in processes(box)

    def test_of_a_shell_that_spins(self, box: Sandbox) -> None:
        r = box.commands.run("i=0; while :; do i=$((i+1)); done", timeout=0.5)
        assert r.exit_code == 124
        assert int(box.commands.run("echo $i").stdout) > 0  # the very same shell

    def test_an_interrupt(self, box: Sandbox) -> None:
        box.commands.run("KEPT=2")
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        r = box.commands.run("echo so far; sleep 3331; echo never")
        assert (r.exit_code, r.stdout) == (130, "so far")
        assert "sleep 333" not in processes(box)
        assert box.commands.run("echo $KEPT").stdout == "2"

    def test_a_fork_bomb(self, snapshot: str) -> None:
        with Sandbox.create(snapshot) as box:
            r = box.commands.run("sh -c 'bomb() { bomb | bomb & }; bomb' & while :; do :; done", timeout=3)
            assert r.exit_code == 124
            assert box.commands.run("unset -f bomb; echo on", timeout=60).stdout == "on"
            assert soon_few(box)

    def test_a_fork_bomb_of_the_sessions_own_shell(self, debian: str) -> None:
        with Sandbox.create(debian) as box:
            r = box.commands.run("bomb() { bomb | bomb & }; bomb; while :; do :; done", timeout=3)
            assert r.exit_code == 124
            assert box.commands.run("unset -f bomb; echo on", timeout=60).stdout == "on"
            assert soon_few(box)


class TestInput:
    def test_none_is_end_of_file(self, box: Sandbox) -> None:
        assert box.commands.run("wc -c; read x; echo $?").stdout.split() == ["0", "1"]

    def test_every_kind(self, box: Sandbox) -> None:
        def generated() -> Iterator[str | bytes]:
            yield "one "
            yield b"two "
            yield "thr\u00e9"

        waiting: queue.Queue[str | bytes | None] = queue.Queue()
        for piece in ("one ", b"two ", "thr\u00e9", None):
            waiting.put(piece)
        whole = "one two thr\u00e9"
        for stdin in (
            whole,
            whole.encode(),
            bytearray(whole.encode()),
            memoryview(whole.encode()),
            generated(),
            waiting,
        ):
            assert box.commands.run("cat", stdin=stdin).stdout == whole
        assert box.commands.run(["cat"], stdin=[]).stdout_bytes == b""

    def test_a_conversation(self, box: Sandbox) -> None:
        """Each line is answered before the next is given: nothing waits for a buffer to fill."""
        waiting: queue.Queue[str | None] = queue.Queue()
        heard: list[str] = []

        def hear(line: str) -> None:
            heard.append(line)
            waiting.put(f"{len(heard)}\n" if len(heard) < 5 else None)

        waiting.put("0\n")
        r = box.commands.run('while read x; do echo "got $x"; done', stdin=waiting, on_stdout=hear, timeout=30)
        assert heard == [f"got {n}" for n in range(5)] == r.stdout.split("\n")

    def test_an_error_of_the_input_ends_the_command(self, box: Sandbox) -> None:
        def failing() -> Iterator[bytes]:
            yield b"some"
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            box.commands.run("cat; sleep 4441", stdin=failing())
        assert "sleep 444" not in processes(box)

    def test_a_program_that_reads_none_of_it(self, box: Sandbox) -> None:
        assert box.commands.run("echo done", stdin=bytes(5_000_000), timeout=30).stdout == "done"
        assert box.commands.run("head -c 3", stdin=b"abc" + bytes(5_000_000), timeout=30).stdout == "abc"


class TestOutput:
    def test_streams_are_apart(self, box: Sandbox) -> None:
        r = box.commands.run("echo out; echo err >&2; printf '  more \\n\\n'")
        assert (r.stdout, r.stderr) == ("out\n  more ", "err")
        assert (r.stdout_bytes, r.stderr_bytes) == (b"out\n  more \n\n", b"err\n")

    def test_bytes_are_bytes(self, box: Sandbox) -> None:
        data = EVERY_BYTE * 999 + os.urandom(100_001)
        for command in ("cat", ["cat"]):
            assert box.commands.run(command, stdin=data).stdout_bytes == data
        assert box.commands.run("cat >&2", stdin=data).stderr_bytes == data

    def test_the_protocols_own_bytes(self, box: Sandbox) -> None:
        kinds = [*protocol.Kind] * 3
        frames = b"".join(protocol.frame(kind, id, b"\0\0\0\0") for id in range(1, 9) for kind in kinds)
        r = box.commands.run("cat", stdin=frames)
        assert (r.stdout_bytes, r.exit_code) == (frames, 0)

    def test_the_agents_port_is_the_agents(self, box: Sandbox) -> None:
        r = box.commands.run("for p in /dev/vport*; do echo forged > $p; done; ls /dev/vport*")
        assert "/dev/vport" in r.stdout and "busy" in r.stderr
        assert box.commands.run("echo on").stdout == "on"

    def test_lines_come_as_they_are_printed(self, box: Sandbox) -> None:
        times: list[float] = []
        box.commands.run("echo 1; sleep 0.6; echo 2", on_stdout=lambda _: times.append(time.monotonic()))
        assert times[1] - times[0] > 0.4

    def test_too_much(self, box: Sandbox) -> None:
        with pytest.raises(vpod.SandboxError, match="max_output=100000"):
            box.commands.run("yes", max_output=100_000)
        assert "yes" not in processes(box).split("\n")
        assert box.commands.run("echo on").stdout == "on"

    def test_order_within_a_stream_and_nothing_after_the_end(self, box: Sandbox) -> None:
        r = box.commands.run("for i in 1 2 3; do sh -c 'seq 20000'; done; echo end")
        expected = "".join(f"{n}\n" for n in range(1, 20_001)) * 3 + "end\n"
        assert hashlib.sha256(r.stdout_bytes).digest() == hashlib.sha256(expected.encode()).digest()


class TestDescriptors:
    def test_commands_that_close_theirs(self, box: Sandbox) -> None:
        assert box.commands.run("sh -c 'exec 0<&- 1>&- 2>&-; sleep 0.3; exit 9'").exit_code == 9
        assert box.commands.run(["sh", "-c", "exec 0<&- 1>&- 2>&-; sleep 0.3; exit 9"]).exit_code == 9

    def test_the_end_of_a_command_does_not_wait_for_its_daemons(self, box: Sandbox) -> None:
        began = time.monotonic()
        r = box.commands.run("sleep 5551 & echo on")  # which has this command's standard output open
        assert (r.stdout, r.exit_code) == ("on", 0)
        assert time.monotonic() - began < 5
        assert "sleep 5551" in processes(box)
        box.commands.run("kill $!")

    def test_a_daemon_lives_on_and_can_be_met_again(self, box: Sandbox) -> None:
        box.commands.run("mkfifo /tmp/door; (while read x < /tmp/door; do echo $x > /tmp/heard; done) >&- 2>&- <&- &")
        assert box.commands.run("echo knock > /tmp/door; sleep 0.3; cat /tmp/heard").stdout == "knock"
        box.commands.run("kill %% ; rm /tmp/door /tmp/heard")

    def test_a_program_gets_no_descriptor_but_its_three(self, box: Sandbox) -> None:
        for command in ("sh -c 'ls /proc/self/fd'", ["ls", "/proc/self/fd"]):
            assert box.commands.run(command).stdout.split() == ["0", "1", "2", "3"]  # 3 is the folder itself


class TestSurroundings:
    def test_variables_of_one_command(self, box: Sandbox) -> None:
        env = {"A": "x y", "B": "$HOME`id`'\"\\", "C": "", "D": "\u00e9\n2"}
        for command in ('printf "%s|" "$A" "$B" "$C" "$D"', ["sh", "-c", 'printf "%s|" "$A" "$B" "$C" "$D"']):
            assert box.commands.run(command, env=env).stdout == "".join(f"{value}|" for value in env.values())
        assert box.commands.run("echo [$A]").stdout == "[]"

    def test_directory_of_one_command(self, box: Sandbox) -> None:
        box.commands.run("cd /tmp; mkdir -p 'a b'")
        assert box.commands.run("pwd", cwd="/usr").stdout == "/usr"
        assert box.commands.run("pwd", cwd="a b").stdout == "/tmp/a b"
        assert box.commands.run("pwd").stdout == "/tmp"
        with pytest.raises(vpod.AgentError, match="/no/such"):
            box.commands.run("pwd", cwd="/no/such")

    def test_another_user(self, box: Sandbox) -> None:
        for command in ("id -un; id -Gn; cat /etc/shadow", ["sh", "-c", "id -un; id -Gn; cat /etc/shadow"]):
            r = box.commands.run(command, user="nobody")
            assert r.stdout.split()[0] == "nobody" and "root" not in r.stdout
            assert "denied" in r.stderr
        with pytest.raises(vpod.UnknownUser, match="no-such-user"):
            box.commands.run("true", user="no-such-user")

    def test_a_terminal(self, box: Sandbox) -> None:
        r = box.commands.run("tty; stty size; echo err >&2", tty=(33, 77))
        assert r.stdout_bytes.split(b"\r\n")[1:] == [b"33 77", b"err", b""]
        assert r.stdout.startswith("/dev/pts/") and r.stderr == ""
        assert box.commands.run(["tty"]).exit_code == 1


class TestEnds:
    def test_a_closed_sandbox(self, snapshot: str) -> None:
        box = Sandbox.create(snapshot)
        box.close()
        with pytest.raises(vpod.SandboxClosed):
            box.commands.run("true")
        assert ends(box.link.pid)

    def test_garbage_collection_ends_it(self, snapshot: str) -> None:
        box = Sandbox.create(snapshot)
        pid = box.link.pid
        box.commands.run("true")
        del box
        assert ends(pid)

    def test_a_killed_worker_is_told_at_once(self, snapshot: str) -> None:
        with Sandbox.create(snapshot) as box:
            told: list[float] = []

            def kill() -> None:
                os.kill(box.link.pid, signal.SIGKILL)
                told.append(time.monotonic())

            threading.Timer(0.5, kill).start()
            with pytest.raises(vpod.WorkerDied, match="SIGKILL"):
                box.commands.run("sleep 60")
            assert time.monotonic() - told[0] < 1
            with pytest.raises(vpod.WorkerDied):
                box.commands.run("true")
            assert box.closed

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("echo o > /proc/sysrq-trigger", "poweroff"),
            ("echo b > /proc/sysrq-trigger", "reboot"),
            ("echo c > /proc/sysrq-trigger", "panic"),
        ],
    )
    def test_the_guest_stops(self, snapshot: str, command: str, reason: str) -> None:
        with Sandbox.create(snapshot) as box:
            with pytest.raises(vpod.GuestStopped, match=reason):
                box.commands.run(f"{command}; sleep 60", timeout=30)
            assert ends(box.link.pid)
