"""The SDK and the guest's own agent, compiled for this host: what is agreed on between them, without a machine.

What needs the guest's kernel and files is in ``test_guest.py``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import vpod
from tests.sandboxes import fake
from vpod.sandbox import Sandbox

AGENT = Path(__file__).resolve().parent.parent / "builder" / "agent"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the agent for this host with")
    program = tmp_path_factory.mktemp("agent") / "vpod-agent"
    sources = sorted(map(str, AGENT.glob("*.c")))
    subprocess.run([compiler, "-O1", "-D_GNU_SOURCE", "-std=gnu11", "-o", str(program), *sources], check=True)
    return str(program)


@pytest.fixture
def box(agent: str) -> Iterator[Sandbox]:
    with fake("agent", agent, env={"GIVEN": "it's $here"}) as box:
        yield box


def test_the_session_keeps_directory_variables_and_functions(box: Sandbox) -> None:
    box.commands.run("cd /usr; export X=1; f() { echo F$1; }")
    assert box.commands.run("pwd; echo $X; f 2").stdout == "/usr\n1\nF2"


def test_cwd_and_env_end_with_their_command(box: Sandbox) -> None:
    assert box.commands.run("pwd; echo $V", cwd="/usr", env={"V": "1"}).stdout == "/usr\n1"
    assert box.commands.run("pwd; echo [$V]").stdout.endswith("\n[]")
    assert not box.commands.run("pwd").stdout.startswith("/usr")


def test_a_lost_session_gets_the_sandboxs_variables_again(box: Sandbox) -> None:
    assert box.commands.run("echo $GIVEN").stdout == "it's $here"
    r = box.commands.run("echo bye; exit 3")
    assert (r.exit_code, r.stdout) == (3, "bye")
    assert r.session_lost is not None and "exit code 3" in r.session_lost
    assert box.commands.run("echo $GIVEN").stdout == "it's $here"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_commands_of_another_user_are_beside_the_session(box: Sandbox) -> None:
    box.commands.run("X=secret; cd /usr")
    assert box.commands.run("id -un; echo [$X] $GIVEN", user="nobody").stdout == "nobody\n[] it's $here"
    assert box.commands.run(["id", "-un"], user="nobody").stdout == "nobody"
    with pytest.raises(vpod.UnknownUser, match="nobody-here"):
        box.commands.run("true", user="nobody-here")


def test_a_terminal_is_given_and_has_its_size(box: Sandbox) -> None:
    assert "24 80" in box.commands.run("stty size; tty", tty=True).stdout
    assert "10 20" in box.commands.run(["stty", "size"], tty=(10, 20)).stdout


def test_time_outs_end_everything_and_keep_the_session(box: Sandbox) -> None:
    box.commands.run("X=kept")
    marker = f"6{os.getpid()}"
    r = box.commands.run(f"echo so far; (sleep {marker} &) ; sh -c 'trap \"\" INT TERM; sleep {marker}'", timeout=0.5)
    assert (r.exit_code, r.stdout) == (124, "so far")
    assert r.duration < 2
    assert box.commands.run("echo $X").stdout == "kept"
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {marker}" not in running


def test_a_time_out_counts_while_another_thread_has_the_session(box: Sandbox) -> None:
    other = threading.Thread(target=box.commands.run, args=("sleep 1.5",))
    other.start()
    time.sleep(0.2)
    r = box.commands.run("echo never", timeout=0.3)
    assert (r.exit_code, r.stdout) == (124, "") and r.duration < 1
    other.join()
    assert box.commands.run("echo on").stdout == "on"


def test_an_interrupt_keeps_the_session(box: Sandbox) -> None:
    box.commands.run("X=kept")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    r = box.commands.run("echo so far; while :; do sleep 1; done")
    assert (r.exit_code, r.stdout) == (130, "so far")
    assert box.commands.run("echo $X").stdout == "kept"


def test_input_reaches_session_and_program(box: Sandbox) -> None:
    data = os.urandom(3 << 20)
    for command in ("sha256sum", ["sha256sum"]):
        assert box.commands.run(command, stdin=data).stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_output_of_many_threads_keeps_apart(box: Sandbox) -> None:
    sums: dict[int, str] = {}

    def ask(n: int) -> None:
        output = box.commands.run(["sh", "-c", f"yes {n} | head -c 1000000"]).stdout_bytes
        sums[n] = hashlib.sha256(output).hexdigest()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {n: hashlib.sha256((f"{n}\n".encode() * 1000000)[:1000000]).hexdigest() for n in range(10)}
    assert sums == expected


def test_bytes_of_the_protocol_are_bytes(box: Sandbox) -> None:
    raw = bytes(range(256)) * 64
    assert box.commands.run(["cat"], stdin=raw).stdout_bytes == raw


def test_the_agents_end_is_told(box: Sandbox) -> None:
    with pytest.raises(vpod.GuestStopped, match="exit"):
        box.commands.run("kill -9 $PPID; sleep 60")
