"""Real guests: the SDK and the command line on snapshots that ``vpod-build`` made (`conftest`), as users meet them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pyte
import pytest

import vpod
from tests.sandboxes import ends
from vpod import Sandbox

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def path(alpine: str) -> str:
    return alpine


@pytest.fixture(scope="module")
def box(path: str) -> Iterator[Sandbox]:
    with Sandbox.create(path) as box:
        yield box


def resident(pid: int) -> int:
    """Bytes of memory that are the process's own."""
    fields = Path(f"/proc/{pid}/status").read_text().split()
    return int(fields[fields.index("RssAnon:") + 1]) << 10


class TestSession:
    def test_it_is_root_on_riscv(self, box: Sandbox) -> None:
        assert box.commands.run("whoami").stdout == "root"
        assert box.commands.run(["uname", "-m"]).stdout == "riscv64"

    def test_exports_directory_and_functions_stay(self, box: Sandbox) -> None:
        box.commands.run("export API_KEY=secret; cd /tmp; f() { echo F$1; }")
        assert box.commands.run("echo $API_KEY; pwd; f 1").stdout == "secret\n/tmp\nF1"

    def test_a_time_out_leaves_nothing_running_and_keeps_the_session(self, box: Sandbox) -> None:
        box.commands.run("KEPT=1")
        began = time.monotonic()
        r = box.commands.run("echo so far; sleep 61 & sh -c 'trap \"\" INT TERM; while :; do :; done'", timeout=1)
        assert time.monotonic() - began < 3
        assert (r.exit_code, r.stdout) == (124, "so far")
        assert box.commands.run("echo $KEPT").stdout == "1"
        assert "sleep 61" not in box.commands.run("ps").stdout

    def test_an_interrupt_keeps_the_session(self, box: Sandbox) -> None:
        box.commands.run("KEPT=1")
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert box.commands.run("while :; do sleep 1; done").exit_code == 130
        assert box.commands.run("echo $KEPT").stdout == "1"

    def test_input_and_output_of_megabytes(self, box: Sandbox) -> None:
        data = os.urandom(3 << 20)
        assert box.commands.run(["sha256sum"], stdin=data).stdout.split()[0] == hashlib.sha256(data).hexdigest()
        assert box.commands.run(["cat"], stdin=data).stdout_bytes == data
        assert box.commands.run("dd if=/dev/zero bs=1M count=32 2>/dev/null").stdout_bytes == bytes(32 << 20)

    def test_commands_at_once(self, box: Sandbox) -> None:
        answers = {}

        def ask(n: int) -> None:
            answers[n] = box.commands.run(["sh", "-c", f"yes {n} | head -c 300000"]).stdout_bytes

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert answers == {n: (f"{n}\n".encode() * 300_000)[:300_000] for n in range(8)}

    def test_another_user(self, box: Sandbox) -> None:
        assert box.commands.run("id -un", user="nobody").stdout == "nobody"
        with pytest.raises(vpod.UnknownUser):
            box.commands.run("true", user="nobody-here")

    def test_the_sandboxs_environment(self, path: str) -> None:
        with Sandbox.create(path, env={"TZ": "UTC", "X": "a'b"}) as box:
            assert box.commands.run("echo $X").stdout == "a'b"
            assert box.commands.run(["sh", "-c", "echo $X"]).stdout == "a'b"


class TestRestore:
    def test_the_clock_is_right(self, box: Sandbox) -> None:
        assert abs(int(box.commands.run("date +%s").stdout) - time.time()) < 3

    def test_two_sandboxes_share_no_randomness_and_no_files(self, path: str) -> None:
        asked = "echo $RANDOM$RANDOM$RANDOM; head -c 16 /dev/urandom | sha256sum; ls /tmp/mark; touch /tmp/mark"
        with Sandbox.create(path) as one, Sandbox.create(path) as other:
            first, second = one.commands.run(asked), other.commands.run(asked)
        assert not set(first.stdout.split()) & set(second.stdout.split()) - {"-"}
        assert "No such file" in first.stderr and "No such file" in second.stderr

    def test_fifty_at_once_each_answer(self, path: str) -> None:
        boxes = [Sandbox.create(path) for _ in range(50)]
        try:
            assert [box.commands.run(f"echo {n}").stdout for n, box in enumerate(boxes)] == [*map(str, range(50))]
        finally:
            for box in boxes:
                box.close()
        assert all(ends(box.link.pid) for box in boxes)


class TestCosts:
    """Bounds with room for a busy machine; ``benchmarks/`` says what they really are."""

    def test_an_idle_sandbox_uses_little_memory_and_no_time(self, path: str) -> None:
        with Sandbox.create(path) as box:
            box.commands.run("true")
            assert resident(box.link.pid) < 60 << 20
            time.sleep(1)
            before = box.link.statistics()["cpu_seconds"]
            time.sleep(2)
            assert box.link.statistics()["cpu_seconds"] - before < 0.1

    def test_create_and_first_command(self, path: str) -> None:
        took = []
        for _ in range(7):
            began = time.perf_counter()
            with Sandbox.create(path) as box:
                box.commands.run("true")
                took.append(time.perf_counter() - began)
        assert sorted(took)[3] < 0.3

    def test_many_commands_leak_nothing(self, path: str) -> None:
        with Sandbox.create(path) as box:
            for _ in range(200):
                box.commands.run("true")
            processes = box.commands.run("ls -d /proc/[0-9]* | wc -l; ls /proc/$PPID/fd | wc -l").stdout
            worker, ours = resident(box.link.pid), len(os.listdir("/proc/self/fd"))
            for _ in range(1000):
                box.commands.run("true")
            after = box.commands.run("ls -d /proc/[0-9]* | wc -l; ls /proc/$PPID/fd | wc -l").stdout
            assert all(abs(int(a) - int(b)) <= 2 for a, b in zip(after.split(), processes.split(), strict=True))
            assert resident(box.link.pid) - worker < 8 << 20
            assert len(os.listdir("/proc/self/fd")) == ours


class TestEnds:
    @pytest.mark.parametrize("command", ["poweroff -f", "reboot -f"])
    def test_a_guest_that_ends_is_told(self, path: str, command: str) -> None:
        with Sandbox.create(path) as box:
            with pytest.raises(vpod.GuestStopped, match=command.split()[0]):
                box.commands.run(f"{command}; sleep 60", timeout=30)
            assert ends(box.link.pid)

    def test_a_panic_is_told_with_its_words(self, path: str) -> None:
        with Sandbox.create(path) as box, pytest.raises(vpod.GuestStopped, match="panic"):
            box.commands.run("echo c > /proc/sysrq-trigger; sleep 60", timeout=30)


class TestPython:
    def test_the_examples(self, debian_box: Sandbox) -> None:
        assert debian_box.code.run("import requests").error is None
        debian_box.code.run("data = [1, 2, 3]")
        assert debian_box.code.run("print(sum(data))").text == "6"

    def test_errors_and_results(self, debian_box: Sandbox) -> None:
        run = debian_box.code.run
        assert run("1 + 1").result == "2"
        assert run("raise ValueError('boom')").error == "ValueError: boom"
        assert run("raise SystemExit(3)").error == "exited 3"
        x = run("import os; os.system('echo child'); print('own')")
        assert sorted(x.logs) == ["child", "own"]

    def test_a_time_out_keeps_variables(self, debian_box: Sandbox) -> None:
        debian_box.code.run("kept = 1")
        x = debian_box.code.run("print('so far', flush=True)\nwhile True: pass", timeout=1)
        assert (x.exit_code, x.error_name, x.text) == (124, "TimeoutError", "so far")
        assert debian_box.code.run("kept").result == "1"

    def test_a_snapshot_without_it_names_those_that_have(self, box: Sandbox) -> None:
        with pytest.raises(vpod.PythonNotAvailable, match="debian:13"):
            box.code.run("1")


class TestTerminal:
    """Through ``vpod`` itself on a pty, with a terminal emulator that draws what comes."""

    @pytest.fixture
    def shell(self, path: str) -> Iterator[pexpect.spawn]:
        env = {**os.environ, "VPOD_SNAPSHOT": path, "TERM": "vt100"}
        child = pexpect.spawn(
            sys.executable, ["-m", "vpod"], cwd=ROOT, env=env, dimensions=(30, 90), timeout=30, encoding="utf-8"
        )
        child.delaybeforesend = None
        child.expect("# ")
        yield child
        child.close(force=True)

    def test_size_keys_and_exit_code(self, shell: pexpect.spawn) -> None:
        shell.send("stty size\r")
        shell.expect_exact("30 90")
        shell.setwinsize(41, 101)
        time.sleep(0.3)
        shell.send("stty size\r")
        shell.expect_exact("41 101")
        shell.send("sleep 60\r")
        time.sleep(0.5)
        shell.send("\x03")
        shell.expect("# ")
        shell.send("exit 6\r")
        shell.expect(pexpect.EOF)
        shell.wait()
        assert shell.exitstatus == 6

    def test_a_full_screen_editor_draws_and_saves(self, shell: pexpect.spawn) -> None:
        screen = pyte.Screen(90, 30)
        stream = pyte.Stream(screen)

        def settle() -> None:
            with pytest.raises(pexpect.TIMEOUT):
                while True:
                    stream.feed(shell.read_nonblocking(4096, timeout=1))

        shell.send("vi /tmp/note\r")
        settle()
        assert screen.display[3].startswith("~")
        shell.send("ifirst line\rsecond\x1b")
        settle()
        assert [line.rstrip() for line in screen.display[:3]] == ["first line", "second", "~"]
        shell.send(":wq\r")
        settle()
        shell.send("cat /tmp/note\r")
        shell.expect("first line\r\nsecond\r\n")


def test_a_script_on_standard_input(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vpod"],
        input=b"uname -m\nexit 5\n",
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "VPOD_SNAPSHOT": path},
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"riscv64\n", b"", 5)
