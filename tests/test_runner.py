"""The warm Python runner, driven as the agent drives it, with every Python from 3.10 on that this machine has."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vpod.protocol import ResultTag, parse_fields

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the runner opens pipes through /proc")

RUNNER = Path(__file__).parent.parent / "builder" / "agent" / "runner.py"


def interpreters() -> list[str]:
    """This Python, and one of each other version from 3.10 on."""
    found = {sys.version_info[:2]: sys.executable}
    candidates = [*map(str, Path.home().glob(".pyenv/versions/*/bin/python3"))]
    candidates += filter(None, (shutil.which(f"python3.{minor}") for minor in range(10, 15)))
    for path in candidates:
        asked = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if asked.returncode == 0:
            major, minor = map(int, asked.stdout.split())
            if (major, minor) >= (3, 10):
                found.setdefault((major, minor), path)
    return [found[key] for key in sorted(found)]


class Result(NamedTuple):
    code: int
    out: str
    err: str
    result: str | None
    error: str | None
    value: str | None
    traceback: str | None
    exited: str | None


class Runner:
    def __init__(self, python: str, home: Path) -> None:
        self.socket, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [python, str(RUNNER), str(number)],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            cwd=home,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home)},
        )
        theirs.close()
        self.socket.settimeout(30)
        assert self.receive() == (b"H", b"")

    def receive(self) -> tuple[bytes, bytes]:
        kind, length = struct.unpack("<cI", self.exactly(5))
        return kind, self.exactly(length)

    def exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, kind: bytes, payload: bytes) -> None:
        self.socket.sendall(struct.pack("<cI", kind, len(payload)) + payload)

    def run(self, source: str | bytes, meanwhile: tuple[float, int] | None = None) -> Result:
        """Run code; optionally send a signal after the first output and a pause."""
        text = source if isinstance(source, bytes) else source.encode()
        pipes = [os.pipe() for _ in range(2)]
        collected = [b"", b""]
        first = threading.Event()

        def collect(number: int) -> None:
            while part := os.read(pipes[number][0], 1 << 16):
                collected[number] += part
                first.set()

        threads = [threading.Thread(target=collect, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        self.send(b"C", struct.pack("<II", pipes[0][1], pipes[1][1]) + text)
        try:
            if meanwhile:
                assert first.wait(20)
                time.sleep(meanwhile[0])
                self.process.send_signal(meanwhile[1])
            kind, payload = self.receive()
        finally:
            for pipe in pipes:
                os.close(pipe[1])
            for thread in threads:
                thread.join(20)
            for pipe in pipes:
                os.close(pipe[0])
        assert kind == b"R"
        parts = {tag: value.decode() for tag, value in parse_fields(payload[4:])}
        return Result(
            struct.unpack_from("<i", payload)[0],
            collected[0].decode(errors="replace"),
            collected[1].decode(errors="replace"),
            *(parts.get(tag) for tag in (ResultTag.RESULT, ResultTag.ERROR_NAME, ResultTag.ERROR_VALUE)),
            parts.get(ResultTag.TRACEBACK),
            parts.get(ResultTag.EXITED),
        )

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(20) == 0


@pytest.fixture(params=interpreters(), ids=lambda path: re.sub(r".*versions/|/bin.*", "", path))
def py(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(request.param, tmp_path)
    yield runner
    runner.close()


def test_variables_last_and_the_final_expression_is_the_result(py: Runner) -> None:
    assert py.run("x = 6\ndef f(y):\n    return x * y")[:4] == (0, "", "", None)
    assert py.run("print('p'); f(7)")[:4] == (0, "p\n", "", "42")
    assert py.run("None").result is None
    assert py.run("'text'").result == "'text'"
    assert py.run("_").result == "'text'"
    assert py.run("").result is None
    assert py.run("# nothing").code == 0


def test_it_is_a_main_module_like_a_sessions(py: Runner) -> None:
    assert py.run("__name__, __doc__, __package__, __spec__").result == "('__main__', None, None, None)"
    assert (
        py.run("import sys; sys.argv, sys.path[0], sys.modules['__main__'].__dict__ is globals()").result
        == "([''], '', True)"
    )
    names = "{'__name__', '__doc__', '__package__', '__loader__', '__spec__', '__builtins__', '__annotations__', 'sys'}"
    assert py.run(f"set(globals()) - {names}").result == "set()"
    source = "import pickle\nclass C:\n    pass\npickle.loads(pickle.dumps(C())).__class__ is C, C.__module__"
    assert py.run(source).result == "(True, '__main__')"
    assert py.run("from dataclasses import dataclass\n@dataclass\nclass D:\n    a: int\nD(1)").result == "D(a=1)"
    assert py.run("if __name__ == '__main__':\n    print('main')").out == "main\n"


def test_a_module_beside_it_can_be_imported(py: Runner, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("value = 5")
    assert py.run("import helper; helper.value").result == "5"


def test_a_future_import_lasts(py: Runner) -> None:
    py.run("from __future__ import annotations")
    assert py.run("def f(x: Missing): pass\nf.__annotations__").result == "{'x': 'Missing'}"


def test_output_of_descriptors_children_and_c(py: Runner) -> None:
    source = """
import os, subprocess, sys, ctypes
print('one', end=' ', flush=True)
os.write(1, b'two ')
subprocess.run(['sh', '-c', 'echo three; echo err >&2'])
ctypes.CDLL(None).printf(b'four\\n')
sys.stdout.write('last without newline')
"""
    result = py.run(source)
    assert "one two three\n" in result.out and "four\n" in result.out and "last without newline" in result.out
    assert result.err == "err\n"


def test_text_of_any_kind(py: Runner) -> None:
    assert py.run("print('é\\u20ac\\U0001f600'); '\\udcff'")[1:4] == ("é€😀\n", "", "'\\udcff'")
    assert py.run("import sys; sys.stdout.buffer.write(bytes(range(256)))").result == "256"
    assert py.run(b"'\xff'").error == "UnicodeDecodeError"


def test_output_arrives_while_code_runs(py: Runner) -> None:
    result = py.run("print('early')\nimport time\nwhile True: time.sleep(0.01)", meanwhile=(0.0, signal.SIGINT))
    assert (result.code, result.out, result.error) == (130, "early\n", "KeyboardInterrupt")


def test_input_is_at_its_end(py: Runner) -> None:
    assert py.run("input()").error == "EOFError"
    assert py.run("import sys; sys.stdin.read()").result == "''"
    assert py.run("input()").error == "EOFError"


def test_errors_are_told_with_the_users_lines_only(py: Runner) -> None:
    result = py.run("def f():\n    raise ValueError('boom')\n\nf()")
    assert (result.code, result.error, result.value, result.err) == (1, "ValueError", "boom", "")
    assert result.traceback is not None
    lines = [line for line in result.traceback.splitlines() if not set(line.strip()) <= {"^", "~"}]
    assert lines == [
        "Traceback (most recent call last):",
        '  File "<code>", line 4, in <module>',
        "    f()",
        '  File "<code>", line 2, in f',
        "    raise ValueError('boom')",
        "ValueError: boom",
    ]
    later = py.run("\n\nf()").traceback
    assert later is not None and "    raise ValueError('boom')" in later and "line 3, in <module>" in later


def test_chained_errors_and_syntax_errors(py: Runner) -> None:
    text = py.run("try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e").traceback
    assert text is not None and "ZeroDivisionError" in text and "direct cause" in text and "runner" not in text
    result = py.run("x = 1\ny = = 2\n")
    assert result.error == "SyntaxError" and result.traceback is not None and result.code == 1
    assert result.traceback.startswith('  File "<code>", line 2\n    y = = 2\n') and "runner" not in result.traceback
    assert py.run("a\0b").error in ("ValueError", "SyntaxError")
    assert py.run("(" * 5000).error in ("SyntaxError", "MemoryError", "RecursionError")
    assert py.run("1").result == "1"


def test_errors_that_defy_being_told(py: Runner) -> None:
    source = "class E(Exception):\n    def __str__(self): raise RuntimeError\n    __repr__ = __str__\nraise E"
    result = py.run(source)
    assert result.error == "E" and result.code == 1 and result.traceback
    assert py.run("class R:\n    def __repr__(self): raise OSError('no')\nR()").error == "OSError"
    assert py.run("def f(): f()\nf()").error == "RecursionError"
    assert py.run("raise BaseException('b')").error == "BaseException"
    assert py.run("raise GeneratorExit").error == "GeneratorExit"
    assert py.run(
        "e = ValueError(); e.__context__ = e.__cause__ = TypeError(); e.__cause__.__context__ = e; raise e"
    ).error


@pytest.mark.parametrize(
    ("source", "code", "exited", "err"),
    [
        ("raise SystemExit(3)", 3, "3", ""),
        ("import sys; sys.exit()", 0, "0", ""),
        ("exit(5)", 5, "5", ""),
        ("import sys; sys.exit('why')", 1, "1", "why\n"),
        ("import sys; sys.exit(-1)", 255, "-1", ""),
    ],
)
def test_exit_ends_the_code_not_the_session(py: Runner, source: str, code: int, exited: str, err: str) -> None:
    py.run("kept = 1")
    result = py.run(source)
    assert (result.code, result.exited, result.err, result.error) == (code, exited, err, None)
    assert py.run("kept").result == "1"
    assert py.run("input()").error == "EOFError"  # exit() closes sys.stdin


def test_an_interrupt_keeps_variables(py: Runner) -> None:
    result = py.run("n = 0\nprint('up')\nwhile True: n += 1", meanwhile=(0.1, signal.SIGINT))
    assert (result.code, result.error) == (130, "KeyboardInterrupt")
    assert py.run("n > 0").result == "True"


def test_interrupts_between_requests_do_nothing(py: Runner) -> None:
    for _ in range(20):
        py.process.send_signal(signal.SIGINT)
        assert py.run("1 + 1").result in ("2", None)  # it may also come just when the code runs
    time.sleep(0.1)
    py.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert py.run("1 + 1").result == "2"


def test_a_handler_that_code_has_set_lasts(py: Runner) -> None:
    py.run("import signal, os\nseen = []\nold = signal.signal(signal.SIGINT, lambda *_: seen.append(1))")
    assert py.run("old is signal.default_int_handler").result == "True"
    assert py.run("os.kill(os.getpid(), signal.SIGINT); seen").result == "[1]"


def test_asyncio_threads_and_processes(py: Runner) -> None:
    assert (
        py.run("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 9\nasyncio.run(f())").result
        == "9"
    )
    assert py.run("import threading\nt = threading.Thread(target=print, args=('t',)); t.start(); t.join()").out == "t\n"
    py.run("import multiprocessing\ndef g(x): return x * x")
    assert py.run("with multiprocessing.get_context('fork').Pool(2) as p: r = p.map(g, [1, 2])\nr").result == "[1, 4]"
    assert (
        py.run(
            "import signal\nasync def h():\n    print('up')\n    await asyncio.sleep(60)\nasyncio.run(h())",
            meanwhile=(0.2, signal.SIGINT),
        ).error
        == "KeyboardInterrupt"
    )


def test_a_forked_child_ends_with_the_code(py: Runner) -> None:
    result = py.run(
        "import os\npid = os.fork()\nprint('child' if pid == 0 else 'parent')\nif pid: os.waitpid(pid, 0)\npid"
    )
    assert sorted(result.out.split()) == ["child", "parent"] and result.code == 0
    assert (
        py.run("pid = os.fork()\nif pid == 0: raise ValueError('in the child')\nos.waitpid(pid, 0)[1]").result == "256"
    )
    assert py.run("2").result == "2"


def test_streams_that_code_closes_or_replaces(py: Runner) -> None:
    py.run("import sys; sys.stdout.close(); sys.stderr.close(); sys.stdin.close()")
    assert py.run("print('again')").out == "again\n"
    py.run("import os; os.close(0); os.close(1); os.close(2)")
    assert py.run("import sys; print('again'); print('err', file=sys.stderr)")[1:3] == ("again\n", "err\n")
    py.run("import io; sys.stdout = io.StringIO()")
    assert py.run("print('kept'); sys.stdout.getvalue()")[1:4] == ("", "", "'kept\\n'")
    py.run("sys.stdout = None; sys.stderr = 5")
    assert py.run("1").result == "1"
    py.run("del sys.stdout")
    assert py.run("print('new')").out == "new\n"


def test_huge_results_are_cut_and_say_so(py: Runner) -> None:
    result = py.run("'x' * 3_000_000").result
    assert result is not None and len(result) <= 512 << 10 and result.endswith("... (3000002 bytes in all)")
    value = py.run("raise ValueError('é' * 1_000_000)").value
    assert value is not None and "bytes in all" in value
    assert len(py.run("print('y' * 5_000_000)").out) == 5_000_001


def test_a_new_seed_changes_what_was_seeded(py: Runner) -> None:
    seen = set()
    for seed in (bytes(64), b"\1" * 64):
        py.run("import random; random.seed(1)")
        py.send(b"S", seed)
        assert py.receive() == (b"S", b"")
        seen.add(py.run("random.random()").result)
    assert len(seen) == 2


def test_numpy_is_seeded_when_loaded(tmp_path: Path) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed for this Python")
    runner = Runner(sys.executable, tmp_path)
    seen = set()
    for seed in (bytes(64), b"\1" * 64):
        runner.run("import numpy; numpy.random.seed(1)")
        runner.send(b"S", seed)
        assert runner.receive() == (b"S", b"")
        seen.add(runner.run("numpy.random.random()").result)
    runner.close()
    assert len(seen) == 2


def test_ending_the_process_ends_the_socket(py: Runner) -> None:
    py.send(b"C", struct.pack("<II", 1, 2) + b"import os; os._exit(4)")
    with pytest.raises((EOFError, ConnectionResetError)):
        py.receive()
    assert py.process.wait(10) == 4
    py.process = subprocess.Popen(["true"])  # for close()


def test_it_ends_with_its_agent(tmp_path: Path) -> None:
    runner = Runner(sys.executable, tmp_path)
    runner.socket.close()
    assert runner.process.wait(10) == 0


def test_many_runs_keep_nothing(py: Runner) -> None:
    py.run("import os, linecache")
    before = py.run("len(os.listdir('/proc/self/fd'))").result
    for i in range(400):
        assert py.run(f"{i}").result == str(i)
    assert py.run("len(os.listdir('/proc/self/fd'))").result == before
    kept = py.run("sum(name.startswith('<code:') for name in linecache.cache)").result
    assert kept is not None and int(kept) <= 256
