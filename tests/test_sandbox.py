"""Sandboxes as callers see them, before a stand-in for the guest: results, time-outs, input, failures, life and death.

What needs a real guest is in ``test_guest.py``.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator

import pytest

import vpod
from tests.sandboxes import ends, fake, is_running
from vpod import errors
from vpod.link import Link
from vpod.sandbox import Sandbox


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with fake("honest") as honest:
        yield honest


class TestResults:
    def test_output_is_text_without_trailing_newlines_and_bytes_as_they_were(self, box: Sandbox) -> None:
        r = box.commands.run(r"printf 'a\n\377\n\n'; printf 'e\n' >&2; exit 7")
        assert (r.stdout, r.stdout_bytes, r.stderr, r.stderr_bytes) == ("a\n\ufffd", b"a\n\377\n\n", "e", b"e\n")
        assert (r.exit_code, r.success) == (7, False)
        assert 0 < r.duration < 10

    def test_a_gigabyte_arrives_whole(self, box: Sandbox) -> None:
        r = box.commands.run("dd if=/dev/zero bs=1M count=1024 2>/dev/null; echo end")
        assert len(r.stdout_bytes) == (1 << 30) + 4
        assert r.stdout_bytes.endswith(b"\0end\n") and r.stdout_bytes.count(b"\0") == 1 << 30

    def test_arguments_are_given_to_the_program_as_they_are(self, box: Sandbox) -> None:
        assert box.commands.run(["printf", "%s|", "a b", "$HOME", "*", ""]).stdout == "a b|$HOME|*||"

    def test_cwd_and_env_are_for_this_command(self, box: Sandbox) -> None:
        assert box.commands.run("pwd; echo $V", cwd="/usr", env={"V": "1 2"}).stdout == "/usr\n1 2"

    def test_the_sandboxs_environment_reaches_commands_of_both_kinds_and_code(self) -> None:
        with fake("honest", env={"GREETING": "it's $fine"}) as box:
            assert box.commands.run(["sh", "-c", "echo $GREETING"]).stdout == "it's $fine"
            assert box.code.run("__import__('os').environ['GREETING']").result == repr("it's $fine")

    def test_lines_come_to_the_callback_as_they_are_printed(self, box: Sandbox) -> None:
        seen: list[tuple[float, str]] = []
        box.commands.run(
            "echo one; sleep 0.5; printf 'two\nthr'; sleep 0.3; printf 'ee'; echo x >&2",
            on_stdout=lambda line: seen.append((time.monotonic(), line)),
            on_stderr=lambda line: seen.append((time.monotonic(), "!" + line)),
        )
        assert sorted(line for _, line in seen) == ["!x", "one", "three", "two"]
        assert seen[1][0] - seen[0][0] > 0.4

    def test_what_a_callback_raises_ends_the_command_and_is_raised(self, box: Sandbox) -> None:
        def refuse(line: str) -> None:
            raise LookupError(line)

        began = time.monotonic()
        with pytest.raises(LookupError, match="first"):
            box.commands.run("echo first; sleep 30", on_stdout=refuse)
        assert time.monotonic() - began < 5
        assert box.commands.run("echo on").stdout == "on"

    def test_too_much_output_ends_the_command(self, box: Sandbox) -> None:
        with pytest.raises(errors.SandboxError, match="max_output=1000000"):
            box.commands.run("yes", max_output=1_000_000)
        assert box.commands.run("echo on").stdout == "on"

    def test_commands_of_several_threads_at_once_keep_apart(self, box: Sandbox) -> None:
        answers: dict[int, str] = {}

        def ask(n: int) -> None:
            answers[n] = box.commands.run(["sh", "-c", f"sleep 0.{n % 3}; echo {n}"]).stdout

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {n: str(n) for n in range(20)}


class TestInput:
    def test_none_is_end_of_file(self, box: Sandbox) -> None:
        assert box.commands.run("cat; echo done", timeout=5).stdout == "done"

    def test_megabytes_pass_through_unchanged(self, box: Sandbox) -> None:
        data = os.urandom(5 << 20)
        r = box.commands.run(["sha256sum"], stdin=data)
        assert r.stdout.split()[0] == hashlib.sha256(data).hexdigest()

    def test_an_iterable_is_asked_as_the_command_reads(self, box: Sandbox) -> None:
        assert box.commands.run(["cat"], stdin=(f"{n}\n" for n in range(1000))).stdout.split("\n")[-1] == "999"

    def test_a_queue_ends_with_none(self, box: Sandbox) -> None:
        pieces: queue.Queue[str | bytes | None] = queue.Queue()
        threading.Timer(0.2, lambda: [pieces.put(piece) for piece in ("a", b"b", None)]).start()
        assert box.commands.run(["cat"], stdin=pieces).stdout == "ab"

    def test_input_that_nobody_reads_holds_nothing_up(self, box: Sandbox) -> None:
        def endless() -> Iterator[bytes]:
            while True:
                yield bytes(65536)

        assert box.commands.run(["true"], stdin=endless(), timeout=20).exit_code == 0

    def test_an_error_of_the_iterable_is_raised(self, box: Sandbox) -> None:
        def failing() -> Iterator[str]:
            yield "x"
            raise LookupError("no more")

        with pytest.raises(LookupError, match="no more"):
            box.commands.run(["cat"], stdin=failing(), timeout=20)

    @pytest.mark.parametrize("wrong", [7, [b"", 7]])
    def test_what_is_no_data_is_refused(self, box: Sandbox, wrong: object) -> None:
        with pytest.raises(TypeError, match=r"stdin must be (str|bytes|str or)"):
            box.commands.run(["cat"], stdin=wrong, timeout=20)  # type: ignore[arg-type]


class TestEnds:
    @pytest.mark.parametrize("timeout", [0.3, 1.0])
    def test_a_time_out_is_exact_and_keeps_the_output_so_far(self, box: Sandbox, timeout: float) -> None:
        began = time.monotonic()
        r = box.commands.run("echo so far; sleep 60", timeout=timeout)
        assert timeout <= time.monotonic() - began < timeout + 0.5
        assert (r.exit_code, r.stdout) == (124, "so far")
        assert box.commands.run("echo on").stdout == "on"

    def test_an_interrupt_gives_130_and_the_session_goes_on(self, box: Sandbox) -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        r = box.commands.run("echo so far; sleep 60")
        assert (r.exit_code, r.stdout) == (130, "so far")
        assert time.monotonic() - began < 3
        assert box.commands.run("echo on").stdout == "on"

    def test_a_second_interrupt_kills_what_ignores_the_first(self, box: Sandbox) -> None:
        for delay in (0.3, 0.6):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        assert box.commands.run("trap '' INT; echo x; while :; do sleep 1; done").exit_code == 130
        assert time.monotonic() - began < 4

    def test_an_unknown_user_is_an_error_of_its_own(self, box: Sandbox) -> None:
        with pytest.raises(vpod.UnknownUser, match="nobody-here"):
            box.commands.run("true", user="nobody-here")
        assert box.commands.run("echo on").stdout == "on"

    @pytest.mark.parametrize(
        ("command", "keywords"),
        [
            ([], {}),
            ([""], {}),
            ("a\0b", {}),
            (["a", "b\0"], {}),
            ("true", {"env": {"A=B": "1"}}),
            ("true", {"env": {"": "1"}}),
            ("true", {"env": {"A": "\0"}}),
            ("true", {"cwd": "/\0"}),
            ("x" * (1 << 20), {}),
        ],
    )
    def test_what_no_command_can_carry_is_refused(self, box: Sandbox, command: object, keywords: dict) -> None:
        with pytest.raises(ValueError, match=r"empty|NUL|no variable's name|limit"):
            box.commands.run(command, **keywords)


class TestCode:
    def test_names_stay_and_print_is_text(self, box: Sandbox) -> None:
        box.code.run("data = [1, 2, 3]")
        x = box.code.run("print(sum(data)); print('end')")
        assert (x.text, x.logs, x.result, x.error, x.success) == ("6\nend", ["6", "end"], None, None, True)
        assert box.code.run("max(data)").result == "3"

    def test_an_exception_is_a_result(self, box: Sandbox) -> None:
        x = box.code.run("raise ValueError('boom')")
        assert (x.error, x.error_name, x.error_value) == ("ValueError: boom", "ValueError", "boom")
        assert x.traceback is not None and "Traceback" in x.traceback
        assert not x.success

    def test_system_exit_is_told(self, box: Sandbox) -> None:
        assert box.code.run("raise SystemExit(3)").error == "exited 3"

    def test_a_snapshot_without_python_says_so(self) -> None:
        with fake("without-python") as box, pytest.raises(vpod.PythonNotAvailable, match=r"fake:1.*debian"):
            box.code.run("1")


class TestFailures:
    """Whatever happens to worker or guest: a typed error within a second, for this call and for every later one."""

    @pytest.mark.parametrize(
        ("mode", "error", "message"),
        [
            ("crash", vpod.WorkerDied, "SIGSEGV"),
            ("exit", vpod.WorkerDied, "exit code 3"),
            ("hang-up", vpod.WorkerDied, "hung"),
            ("error", vpod.WorkerDied, "ValueError: no such thing"),
            ("wire-length", vpod.WorkerDied, "4294967295"),
            ("wire-kind", vpod.WorkerDied, "kind 99"),
            ("poweroff", vpod.GuestStopped, "poweroff"),
            ("panic", vpod.GuestStopped, "Kernel panic - not syncing: \ufffd\\[31mboom"),
            ("agent-length", vpod.AgentError, "4294967295"),
            ("agent-kind", vpod.AgentError, "0x10"),
            ("restarted-agent", vpod.AgentError, "started anew"),
        ],
    )
    def test_the_end_of_a_sandbox_is_typed(self, mode: str, error: type[Exception], message: str) -> None:
        with fake(mode) as box:
            began = time.monotonic()
            with pytest.raises(error, match=message):
                box.commands.run("anything")
            assert time.monotonic() - began < 2
            with pytest.raises(error, match=message):
                box.commands.run("again")
            assert box.closed
            assert ends(box.link.pid)

    @pytest.mark.parametrize(("mode", "message"), [("short-exit", "EXIT of 1 bytes"), ("foreign-kind", "DONE frame")])
    def test_a_wrong_answer_fails_its_own_request(self, mode: str, message: str) -> None:
        with fake(mode) as box, pytest.raises(vpod.AgentError, match=message):
            box.commands.run("anything")

    def test_frames_of_other_requests_are_dropped(self) -> None:
        with fake("other-ids") as box:
            assert box.commands.run("anything").stdout == "so far"

    def test_another_version_of_the_protocol_is_refused(self) -> None:
        with pytest.raises(vpod.AgentError, match="version 7"), fake("other-version"):
            pass

    def test_every_waiting_thread_is_told(self) -> None:
        with fake("honest") as box:
            told: list[Exception] = []

            def ask() -> None:
                try:
                    box.commands.run(["sleep", "60"])
                except vpod.VpodError as error:
                    told.append(error)

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            os.kill(box.link.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(2)
            assert [type(error) for error in told] == [vpod.WorkerDied] * 8
            assert "SIGKILL" in str(told[0])

    def test_a_worker_that_cannot_start_is_an_error(self) -> None:
        with pytest.raises(vpod.WorkerDied, match="no worker process could be started"):
            Link(["/nonexistent/python"])


class TestLife:
    def test_close_ends_the_worker_and_every_later_call(self) -> None:
        with fake("honest") as box:
            pid = box.link.pid
        assert not is_running(pid)
        with pytest.raises(vpod.SandboxClosed, match="closed"):
            box.commands.run("true")
        box.close()
        assert "closed" in repr(box)

    def test_garbage_collection_ends_the_worker(self) -> None:
        manager = fake("honest")
        box = manager.__enter__()
        pid = box.link.pid
        assert is_running(pid)
        del manager, box
        gc.collect()
        assert ends(pid)

    def test_nothing_is_left_open(self) -> None:
        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd"))

        with fake("honest"):
            pass
        before, threads = descriptors(), threading.active_count()
        for _ in range(10):
            with fake("honest") as box:
                box.commands.run(["true"])
        assert (descriptors(), threading.active_count()) == (before, threads)

    def test_a_fork_of_the_caller_can_neither_use_nor_end_it(self, box: Sandbox) -> None:
        def child(answers: multiprocessing.SimpleQueue[str]) -> None:
            try:
                box.commands.run("true")
            except vpod.SandboxClosed as error:
                answers.put(str(error))
            box.close()

        context = multiprocessing.get_context("fork")
        answers: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
        process = context.Process(target=child, args=(answers,))
        process.start()
        process.join(20)
        assert process.exitcode == 0 and "belongs to the process" in answers.get()
        assert box.commands.run("echo on").stdout == "on"

    def test_a_fork_closes_nothing_that_a_closed_sandbox_once_had(self) -> None:
        with fake("honest") as closed:
            pass
        pipes = [os.pipe() for _ in range(8)]  # they get the numbers that the sandbox had
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                os._exit(sum(os.write(write, b"x") != 1 for _, write in pipes))
            os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert closed.closed
        for descriptor in (descriptor for pipe in pipes for descriptor in pipe):
            os.close(descriptor)

    def test_a_worker_outlives_neither_its_caller_nor_a_child_of_it(self) -> None:
        read, write = os.pipe()
        caller = os.fork()
        if caller == 0:
            manager = fake("honest")
            box = manager.__enter__()
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            os.write(write, str(box.link.pid).encode())
            os._exit(0)
        os.waitpid(caller, 0)
        worker = int(os.read(read, 20))
        assert ends(worker)

    def test_the_worker_gets_no_secret_and_no_terminal_signal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("API_TOKEN", "secret")
        with fake("honest") as box:
            assert "API_TOKEN" not in box.commands.run(["env"]).stdout
            assert os.getpgid(box.link.pid) == box.link.pid


def test_every_public_name_is_there() -> None:
    for name in vpod.__all__:
        assert getattr(vpod, name, None) is not None, name
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        vpod.nothing_of_this_name  # noqa: B018
