"""README.md, run: each Python example prints what its comments say, each shell line does what it says.

Every block of code in the README is found by its fence, and every line of a shell block must be known here: by how it
is run, or by the reason why it can't be. A line that is added to the README without either fails, and so does one that
stands here and is in the README no more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pexpect
import pytest

from tests.real_snapshots import ROOT, Made

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = Path(sys.executable).parent  # where pip puts `vpod` and `vpod-build`


def blocks(language: str) -> list[str]:
    """The code blocks in `language`, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_lines() -> list[tuple[str, str]]:
    """Each command of the shell blocks, and what its comment says."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [(command.rstrip(), comment) for command, _, comment in (line.partition("  #") for line in lines)]


def expected_output(source: str) -> str:
    """What the comments after `print(...)` of a Python example say."""
    return "".join(f"{text}\n" for text in re.findall(r"^\s*print\(.*\)\s+# (.*)$", source, re.MULTILINE))


# --- Python ----------------------------------------------------------------------------------------------------------


def test_there_are_examples() -> None:
    assert len(blocks("python")) >= 4 and len(shell_lines()) >= 10
    assert set(re.findall(r"^```(\S+)$", README, re.MULTILINE)) <= {"python", "sh"}


@pytest.mark.parametrize("source", blocks("python"))
def test_every_print_of_an_example_says_what_it_prints(source: str) -> None:
    assert source.count("print(") - source.count('run("print(') == expected_output(source).count("\n") > 0


@pytest.mark.parametrize("source", blocks("python"))
def test_a_python_example_prints_what_it_says(source: str, first_run: Made, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", source], tmp_path)
    assert (done.stdout.decode(), done.stderr.decode(), done.returncode) == (expected_output(source), "", 0)


# --- the shell -------------------------------------------------------------------------------------------------------

Check = Callable[[str, str, Path], None]


def run(command: list[str] | str, folder: Path, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """A command, or a shell's line, in an empty folder, with the programs of this Python first on the path."""
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env={**os.environ, "PATH": path, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=600,
    )


def prints(pattern: str, code: int = 0) -> Check:
    """The line ends with `code` and prints what the whole `pattern` matches, with nothing on standard error."""

    def check(command: str, comment: str, folder: Path) -> None:
        done = run(command, folder)
        assert (done.returncode, done.stderr) == (code, b"")
        assert re.fullmatch(pattern, done.stdout.decode(), re.DOTALL), done.stdout

    return check


def gives_a_shell(command: str, comment: str, folder: Path) -> None:
    """On a terminal: a prompt, an answer, and the shell's own exit code."""
    child = pexpect.spawn("/bin/sh", ["-c", f"exec {command}"], cwd=str(folder), env=on_path(), timeout=60)
    child.delaybeforesend = None
    child.expect("# ")
    child.send("echo $((6 * 7))th of $(uname -m)\r")
    child.expect_exact("42th of riscv64")
    child.send("exit 5\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 5


def on_path() -> os._Environ[str]:
    environ = os.environ.copy()
    environ["PATH"] = f"{PROGRAMS}{os.pathsep}{environ['PATH']}"
    environ["TERM"] = "xterm"
    return environ  # type: ignore[return-value]


def finds_this_host_well(command: str, comment: str, folder: Path) -> None:
    done = run(command, folder)
    assert b"worker" in done.stdout and b"snapshots" in done.stdout
    assert not re.search(rb"^missing", done.stdout, re.MULTILINE), done.stdout.decode()
    assert done.returncode == 0


def makes_a_file(command: str, comment: str, folder: Path) -> None:
    """`VPOD_SOURCES=/some/folder vpod-build ... -o mine.snap`, with a folder that there is."""
    done = run(command.replace("/some/folder", os.environ.get("VPOD_SOURCES", "/some/folder")), folder)
    assert done.returncode == 0, done.stderr.decode()
    assert (folder / "mine.snap").stat().st_size > 1_000_000
    done = run("vpod run -s ./mine.snap -- grep MemTotal /proc/meminfo", folder)
    assert 400_000 < int(done.stdout.split()[1]) < 520_000  # of 512M


# The builds of these three are those of the fixtures: the very same commands, in `real_snapshots`.
BUILT = "is the command by which the `alpine` fixture's snapshot is made"
BY_CI = "is what .ci/run does before it runs these tests"
SHELL: dict[str, Check | str] = {
    "pip install . && vpod": BY_CI,
    "pip install -e '.[test]' && pytest": BY_CI,
    "pip install -e '.[dev]'": BY_CI,
    "python setup.py build_ext --inplace": "would rebuild the core under the tests that are using it",
    "pytest": BY_CI,
    "pytest tests/test_isa.py -k overlap": prints(r".* passed.*"),
    "python -m tests.proof": "is what .ci/run does after these tests",
    "vpod": gives_a_shell,
    "vpod run -- uname -m": prints("riscv64\n"),
    "vpod run -e NAME=world -- sh -c 'echo hello $NAME'": prints("hello world\n"),
    "echo 'print(6 * 7)' | vpod run -i -- python3 -": prints("42\n"),
    "vpod run -t 5 -- sleep 60": prints("", 124),
    "vpod list": prints(r"SNAPSHOT.*alpine:3\.23 .*debian:13 .*"),
    "vpod doctor": finds_this_host_well,
    "vpod-build --list": prints(r"alpine-3\.23.*debian-13.*"),
    "vpod-build --explain alpine-3.23": prints(r"alpine-3\.23 makes alpine:3\.23.*SHA-512.*"),
    "vpod-build alpine-3.23": BUILT,
    "VPOD_SOURCES=/some/folder vpod-build alpine-3.23 --memory 512M -o mine.snap": makes_a_file,
    "vpod start alpine:3.23": gives_a_shell,
}


def test_every_line_is_known_and_none_is_left_over() -> None:
    assert {command for command, _ in shell_lines()} - {PUBLISHED} == set(SHELL)


@pytest.mark.parametrize(("command", "comment"), [line for line in shell_lines() if callable(SHELL.get(line[0]))])
def test_a_shell_line(command: str, comment: str, alpine: str, first_run: Made, tmp_path: Path) -> None:
    check = SHELL[command]
    assert callable(check)
    check(command, comment, tmp_path if "tests/" not in command else ROOT)


PUBLISHED = next(command for command, _ in shell_lines() if "--publish" in command)


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which any web server would show it."""
    folder = tmp_path / "www"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/vpod/"
    server.shutdown()
    server.server_close()


def test_a_published_snapshot_can_be_pulled(alpine: str, web_server: tuple[Path, str], tmp_path: Path) -> None:
    """`vpod-build ... --publish DIR`, then `VPOD_REGISTRY=URL vpod pull alpine` on a machine that has nothing."""
    folder, url = web_server
    command = PUBLISHED.replace("/srv/www/vpod", str(folder / "vpod"))
    made = run(command, tmp_path)
    assert made.returncode == 0, made.stderr.decode()
    empty = tmp_path / "home"
    (comment,) = (comment for line, comment in shell_lines() if line == PUBLISHED)
    pull = re.search(r"VPOD_REGISTRY=\S+ (vpod pull \S+)", comment)
    assert pull is not None
    done = run(pull[1], tmp_path, VPOD_REGISTRY=url, VPOD_HOME=str(empty))
    assert done.returncode == 0, done.stderr.decode()
    assert Path(done.stdout.decode().strip()).is_relative_to(empty)
    done = run("vpod run -s alpine -- cat /etc/alpine-release", tmp_path, VPOD_OFFLINE="1", VPOD_HOME=str(empty))
    assert (done.stdout, done.returncode) == (b"3.23.0\n", 0)
