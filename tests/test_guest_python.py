"""`code.run` on a real guest: the warm Python of ``debian:13`` in all its facets, and what a snapshot without it says.

What the runner does with code, line by line, is in ``test_runner.py``; here it waits in a frozen machine, beside a
session, with real child processes.
"""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time

import pytest

import vpod
from vpod import Sandbox


class TestState:
    def test_variables_imports_functions_and_classes_stay(self, debian_box: Sandbox) -> None:
        run = debian_box.code.run
        run("import math as m\nx = 6\ndef f(a): return a * x\nclass C: y = 7")
        assert run("print(f(C.y), m.pi)").text == "42 3.141592653589793"
        run("x = 1")
        assert run("f(C.y)").result == "7"

    def test_a_failure_in_the_middle_keeps_what_was_done(self, debian_box: Sandbox) -> None:
        assert debian_box.code.run("before = 1\n1 / 0\nafter = 2").error == "ZeroDivisionError: division by zero"
        assert debian_box.code.run("before, 'after' in globals()").result == "(1, False)"

    def test_threads_go_on_between_two_pieces_of_code(self, debian_box: Sandbox) -> None:
        source = """
            import threading, time
            ticks = 0
            def tick():
                global ticks
                while ticks < 1000:
                    ticks += 1
                    time.sleep(0.01)
            thread = threading.Thread(target=tick, daemon=True); thread.start()
        """
        debian_box.code.run(textwrap.dedent(source))
        time.sleep(0.3)
        assert int(debian_box.code.run("n = ticks; ticks = 1000; n").result or 0) > 3

    def test_it_is_the_main_module(self, debian_box: Sandbox) -> None:
        source = "class P: pass\nimport pickle, __main__\nprint(__name__, type(pickle.loads(pickle.dumps(P()))) is P)"
        assert debian_box.code.run(source).text == "__main__ True"

    def test_modules_written_beside_it_can_be_imported(self, debian_box: Sandbox) -> None:
        directory = debian_box.code.run("import os; print(os.getcwd())").text
        debian_box.commands.run(["sh", "-c", f"echo 'answer = 42' > {directory}/mine_too.py"])
        assert debian_box.code.run("import mine_too; mine_too.answer").result == "42"

    def test_what_it_shares_with_the_session(self, debian_box: Sandbox) -> None:
        debian_box.code.run("open('/tmp/shared', 'w').write('from python')")
        assert debian_box.commands.run("cat /tmp/shared").stdout == "from python"

    def test_the_sandboxs_variables(self, debian: str) -> None:
        with Sandbox.create(debian, env={"TZ": "UTC", "X": "a'b"}) as box:
            assert box.code.run("import os; os.environ['X']").result == '"a\'b"'
            assert box.code.run("import os; os.system('echo $X')").text == "a'b"


class TestResults:
    @pytest.mark.parametrize(
        ("source", "result"),
        [
            ("1 + 1", "2"),
            ("None", None),
            ("x = 3", None),
            ("x = 3; x", "3"),
            ("'a\\nb'", "'a\\nb'"),
            ("for i in range(3): i", None),
            ("print(1)", None),
            ("# only a comment", None),
            ("", None),
            ("'\\N{GREEK SMALL LETTER ALPHA}' * 2", "'\u03b1\u03b1'"),
            ("lambda: 0", "<function <lambda> at 0x"),
        ],
    )
    def test_the_value_of_a_final_expression(self, debian_box: Sandbox, source: str, result: str | None) -> None:
        found = debian_box.code.run(source)
        assert found.error is None and found.success and found.exit_code == 0
        assert found.result == result or (result is not None and result.startswith("<") and result in str(found.result))

    def test_what_is_printed_and_its_lines(self, debian_box: Sandbox) -> None:
        x = debian_box.code.run("import sys; print('a'); print(' b '); print(); print('e', file=sys.stderr); 5")
        assert (x.text, x.logs, x.stderr, x.result) == ("a\n b ", ["a", " b "], "e", "5")
        assert (x.stdout_bytes, x.stderr_bytes) == (b"a\n b \n\n", b"e\n")
        assert debian_box.code.run("pass").logs == []

    def test_what_children_and_descriptors_print(self, debian_box: Sandbox) -> None:
        x = debian_box.code.run(
            "import os, subprocess\n"
            "print('one'); os.write(1, b'two\\n'); os.system('echo three')\n"
            "subprocess.run(['sh', '-c', 'echo four; echo five >&2'])\nprint('six')"
        )
        assert x.logs == ["one", "two", "three", "four", "six"] and x.stderr == "five"

    def test_bytes_are_bytes(self, debian_box: Sandbox) -> None:
        x = debian_box.code.run("import sys; sys.stdout.buffer.write(bytes(range(256)) * 5000)")
        assert x.stdout_bytes == bytes(range(256)) * 5000 and x.result == "1280000"

    def test_lines_come_as_they_are_printed(self, debian_box: Sandbox) -> None:
        times: list[float] = []
        source = "import time; print(1); time.sleep(0.6); print(2)"
        debian_box.code.run(source, on_stdout=lambda _: times.append(time.monotonic()))
        assert times[1] - times[0] > 0.4


class TestErrors:
    def test_name_value_and_traceback(self, debian_box: Sandbox) -> None:
        x = debian_box.code.run("def f():\n    raise ValueError('boom')\nf()")
        assert (x.error, x.error_name, x.error_value) == ("ValueError: boom", "ValueError", "boom")
        assert (x.success, x.exit_code, x.result) == (False, 1, None)
        assert x.traceback is not None
        assert x.traceback.startswith("Traceback (most recent call last):")
        assert "raise ValueError('boom')" in x.traceback and "runner.py" not in x.traceback

    @pytest.mark.parametrize(
        ("source", "error"),
        [
            ("raise SystemExit(3)", "exited 3"),
            ("import sys; sys.exit()", "exited 0"),
            ("1 +", "SyntaxError: invalid syntax (<code>, line 1)"),
            ("nowhere", "NameError: name 'nowhere' is not defined"),
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("assert False", "AssertionError"),
            ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
            ("class E(Exception):\n def __str__(self): raise TypeError\nraise E", "E: <exception str() failed>"),
        ],
    )
    def test_in_one_line(self, debian_box: Sandbox, source: str, error: str) -> None:
        found = debian_box.code.run(source).error
        assert found is not None and found.replace("<code:", "<code").partition(",")[0][:16] == error[:16]
        assert debian_box.code.run("'goes on'").result == "'goes on'"

    def test_an_exit_code(self, debian_box: Sandbox) -> None:
        assert debian_box.code.run("raise SystemExit(3)").exit_code == 3


class TestEnds:
    def test_a_time_out_keeps_variables(self, debian_box: Sandbox) -> None:
        debian_box.code.run("kept = 1")
        x = debian_box.code.run("print('so far')\nwhile True: pass", timeout=1)
        assert (x.exit_code, x.error_name, x.text, x.session_lost) == (124, "TimeoutError", "so far", None)
        assert debian_box.code.run("kept").result == "1"

    def test_code_that_minds_no_interrupt_loses_its_variables(self, debian_box: Sandbox) -> None:
        debian_box.code.run("lost = 1")
        source = (
            "import os\nos.system('sleep 6661 &')\nwhile True:\n try:\n  while True: pass\n except BaseException: pass"
        )
        x = debian_box.code.run(source, timeout=1)
        assert x.exit_code == 124 and x.session_lost is not None
        assert x.duration < 6
        assert "sleep 666" not in debian_box.commands.run("ps -eo args").stdout
        assert debian_box.code.run("lost").error == "NameError: name 'lost' is not defined"

    def test_an_interrupt(self, debian_box: Sandbox) -> None:
        debian_box.code.run("kept = 2")
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        x = debian_box.code.run("import time\nprint('so far')\ntime.sleep(60)")
        assert (x.exit_code, x.text, x.error_name) == (130, "so far", "KeyboardInterrupt")
        assert debian_box.code.run("kept").result == "2"

    @pytest.mark.parametrize("source", ["import os; os._exit(5)", "import os; os.kill(os.getpid(), 9)"])
    def test_an_interpreter_that_dies_is_started_anew(self, debian_box: Sandbox, source: str) -> None:
        x = debian_box.code.run(source)
        assert x.session_lost is not None and not x.success
        assert debian_box.code.run("6 * 7").result == "42"

    def test_too_much_output(self, debian_box: Sandbox) -> None:
        with pytest.raises(vpod.SandboxError, match="max_output=100000"):
            debian_box.code.run("while True: print('y' * 1000)", max_output=100_000)
        assert debian_box.code.run("'on'").result == "'on'"

    def test_beside_a_long_command(self, debian_box: Sandbox) -> None:
        other = threading.Thread(target=debian_box.commands.run, args=("sleep 2",))
        began = time.monotonic()
        other.start()
        assert debian_box.code.run("'meanwhile'").result == "'meanwhile'"
        assert time.monotonic() - began < 1.5
        other.join()


def test_without_python_it_names_the_snapshots_that_have_it(alpine: str, debian: str) -> None:
    with Sandbox.create(alpine) as box:
        with pytest.raises(vpod.PythonNotAvailable, match=r"alpine:3\.23 has no Python.*debian:13"):
            box.code.run("1")
        assert box.commands.run("echo on").stdout == "on"
