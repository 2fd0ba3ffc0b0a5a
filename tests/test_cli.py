"""The command line: what is printed where, exit codes, usage errors. The guest is a stand-in (see `fake_worker`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpod import cli

ROOT = Path(__file__).resolve().parent.parent
FAKE_VPOD = str(ROOT / "tests" / "fake_vpod.py")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "home"))
    for name in ("VPOD_REGISTRY", "VPOD_SNAPSHOT"):
        monkeypatch.delenv(name, raising=False)


def vpod(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, FAKE_VPOD, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, env={**os.environ, **(env or {})})


class TestRun:
    def test_output_and_exit_code_are_the_commands(self) -> None:
        done = vpod("run", "--", "sh", "-c", r"printf 'a\000b'; echo e >&2; exit 42")
        assert (done.stdout, done.stderr, done.returncode) == (b"a\0b", b"e\n", 42)

    def test_options_of_the_command_are_not_ours(self) -> None:
        assert vpod("run", "echo", "-n", "-s", "x", "--", "-t").stdout == b"-s x -- -t"
        assert vpod("run", "--", "printf", "%s", "--quiet").stdout == b"--quiet"

    def test_options(self) -> None:
        done = vpod(
            "run", "-e", "A=1 = 2", "-e", "FROM_HOST", "-w", "/usr", "--", "sh", "-c", 'echo "$A|$FROM_HOST"; pwd',
            env={"FROM_HOST": "here"},
        )  # fmt: skip
        assert done.stdout == b"1 = 2|here\n/usr\n"

    def test_input_is_passed_on_only_when_asked_for(self) -> None:
        data = os.urandom(1 << 20)
        assert vpod("run", "-i", "--", "cat", stdin=data).stdout == data
        assert vpod("run", "--", "cat", stdin=data).stdout == b""

    def test_a_time_out_gives_124_and_the_output_so_far(self) -> None:
        began = time.monotonic()
        done = vpod("run", "-t", "0.5", "--", "sh", "-c", "echo so far; sleep 60")
        assert (done.returncode, done.stdout) == (124, b"so far\n")
        assert time.monotonic() - began < 5

    def test_a_command_that_is_not_there_gives_127(self) -> None:
        assert vpod("run", "--", "/nonexistent").returncode == 127

    def test_an_unknown_user_gives_125_and_a_message(self) -> None:
        done = vpod("run", "-u", "nobody-here", "--", "true")
        assert done.returncode == 125 and b"vpod: unknown user: nobody-here" in done.stderr

    @pytest.mark.parametrize("mode", ["crash", "poweroff", "agent-length"])
    def test_a_sandbox_that_fails_gives_125_and_one_line(self, mode: str) -> None:
        done = vpod("run", "--", "true", env={"FAKE_MODE": mode})
        assert done.returncode == 125
        assert done.stdout == b"so far\n"
        assert done.stderr.startswith(b"vpod: ") and done.stderr.count(b"\n") == 1

    def test_ctrl_c_gives_130(self) -> None:
        command = [sys.executable, FAKE_VPOD, "run", "--", "sh", "-c", "echo up; sleep 60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130

    def test_a_reader_that_goes_away_ends_the_command(self) -> None:
        command = f"{sys.executable} {FAKE_VPOD} run -- yes | head -n 1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30)
        assert (done.stdout, done.stderr) == (b"y\n141\n", b"")

    def test_a_slow_reader_slows_the_command_and_not_our_memory_down(self) -> None:
        command = [sys.executable, FAKE_VPOD, "run", "--", "yes"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.read(2) == b"y\n"
            time.sleep(2)
            status = Path(f"/proc/{process.pid}/status").read_text().split()
            assert int(status[status.index("RssAnon:") + 1]) < 60_000  # kB
            process.kill()


class TestShell:
    def test_a_script_on_standard_input_runs_and_its_code_is_ours(self) -> None:
        done = vpod(stdin=b"echo $0; uname -s\nexit 5\n")
        assert done.stdout.endswith(b"Linux\n") and done.returncode == 5

    def test_a_name_is_short_for_start(self) -> None:
        done = vpod("no-such-snapshot")
        assert done.returncode == 125
        assert done.stderr == vpod("start", "no-such-snapshot").stderr
        assert b"no-such-snapshot" in done.stderr


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["run"],
            ["run", "--"],
            ["run", "-t", "soon", "--", "true"],
            ["run", "-t", "-1", "--", "true"],
            ["run", "-e", "A-B=1", "--", "true"],
            ["run", "-e", "NOT_SET_ANYWHERE", "--", "true"],
            ["run", "--nonsense", "--", "true"],
            ["start", "a", "b"],
            ["pull"],
            ["--nonsense"],
        ],
    )
    def test_errors_give_2_and_say_what_is_wrong(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and "vpod" in err

    @pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
    def test_help_goes_to_standard_output(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(arguments) == 0
        assert "vpod" in capsys.readouterr().out


class TestLists:
    def test_list_names_what_can_be_had(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["list", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert {"alpine", "debian"} <= {row["name"] for row in rows}
        assert not any(row["here"] for row in rows)
        assert cli.main(["list"]) == 0
        table = capsys.readouterr().out.splitlines()
        assert table[0].split() == ["SNAPSHOT", "HERE", "SIZE", "PYTHON", "DESCRIPTION"]
        assert len(table) == len(rows) + 1

    def test_df_adds_up(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["df", "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == {"snapshots", "expanded", "downloads"}

    def test_rmi_of_what_is_not_here_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["rmi", "alpine:3.23"]) == 125
        assert "alpine:3.23" in capsys.readouterr().err

    def test_pull_of_what_nobody_has_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["pull", "nothing:1"]) == 125
        assert "nothing:1" in capsys.readouterr().err


def test_what_run_imports_is_light() -> None:
    """Nothing that a sandbox doesn't need is loaded on the way to its first command."""
    program = "import sys, vpod.cli, vpod.sandbox, vpod.commands, vpod.terminal, vpod.snapshots; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=True).stdout.split()
    assert not {b"rich", b"zstandard", b"asyncio", b"urllib.request", b"http.client"} & set(loaded)
