"""The guest's agent, compiled for this machine and driven over a socket pair.

What is tested is the very source that runs in the guest; `--machine` is not given, so clock, entropy and memory of the
host stay as they are. Session tests run with every kind of shell that guests have: bash, dash, busybox's ash.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.agent import build
from tests.agent_host import PATIENCE, Host
from vpod.protocol import (
    ExitTag,
    Kind,
    ReadyTag,
    ResultTag,
    RunFlag,
    RunTag,
    fields,
    frame,
    parse_fields,
    parse_u32,
    restore_payload,
    window_payload,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the agent is a Linux program")

RUNNER = Path(build.HERE, "runner.py")
SHELLS = [name for name in ("bash", "dash", "busybox") if shutil.which(name)]


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sanitizers = tuple(filter(None, os.environ.get("VPOD_AGENT_FLAGS", "").split()))
    return build.build(tmp_path_factory.mktemp("agent") / "vpod-agent", host=True, flags=sanitizers)


@pytest.fixture(scope="session")
def busybox_sh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """busybox under the name that makes it a shell."""
    path = tmp_path_factory.mktemp("shell") / "sh"
    found = shutil.which("busybox")
    if found:
        path.symlink_to(found)
    return str(path)


@pytest.fixture
def plain(binary: Path) -> Iterator[Host]:
    host = Host(binary, "--runner", "/nonexistent")
    yield host
    host.close()


@pytest.fixture(params=SHELLS)
def box(request: pytest.FixtureRequest, binary: Path, busybox_sh: str) -> Iterator[Host]:
    """A host with each kind of shell."""
    shell = busybox_sh if request.param == "busybox" else str(shutil.which(request.param))
    host = Host(binary, "--runner", "/nonexistent", "--shell", shell)
    host.shell = request.param  # type: ignore[attr-defined]
    yield host
    host.close()


@pytest.fixture
def python(binary: Path) -> Iterator[Host]:
    host = Host(binary, "--runner", str(RUNNER), "--python", sys.executable)
    yield host
    host.close()


def terminal(rows: int, columns: int) -> tuple[tuple[RunTag, bytes]]:
    return ((RunTag.TTY, window_payload(rows, columns)),)


def alive(marker: str) -> list[str]:
    """Processes, zombies aside, whose command line has the marker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if marker in line and state not in "ZX":
            found.append(line)
    return found


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> Iterator[str]:
    """A number of seconds that no other test sleeps: what to look for in /proc."""
    value = str(100000 + (hash((request.node.nodeid, os.getpid())) % 800000))
    yield value
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if value in (entry / "cmdline").read_bytes().decode(errors="replace").split("\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue


# ---- READY, and requests that make no sense ------------------------------------------------------------------------


def test_ready_says_who_is_there(plain: Host) -> None:
    ready = dict(parse_fields(plain.ready.payload))
    assert parse_u32(ready[ReadyTag.VERSION]) == 1
    assert ready[ReadyTag.HOSTNAME].decode() == socket.gethostname()
    assert os.access(ready[ReadyTag.SHELL], os.X_OK)
    assert ReadyTag.PYTHON not in ready


def test_hello_is_answered_with_its_id(plain: Host) -> None:
    plain.send(Kind.HELLO, 77, struct.pack("<I", 1))
    assert plain.wait(lambda f: f.id == 77).kind == Kind.READY


def test_hello_of_another_version_is_an_error(plain: Host) -> None:
    plain.send(Kind.HELLO, 77, struct.pack("<I", 99))
    assert plain.finish(77).error == b"this agent speaks version 1 of the protocol"


def test_nonsense_is_an_error_and_the_agent_goes_on(plain: Host) -> None:
    for id, kind, payload in (
        (900, 0x7E, b""),
        (901, Kind.RUN, b""),
        (902, Kind.RUN, b"\x01\xff\xff\xff\x7f"),
        (903, Kind.RUN, fields((99, b"x"))),
        (904, Kind.RUN, fields((RunTag.SCRIPT, b"a\0b"))),
        (905, Kind.RUN, fields((RunTag.ARG, b"true"), (RunTag.ENV, b"=x"))),
        (906, Kind.RESTORE, b"short"),
        (907, Kind.CODE, b"1"),
    ):
        plain.socket.sendall(frame(kind, id, payload))
        assert plain.finish(id).error, kind
    assert plain.exec("true").code == 0


def test_a_frame_that_is_too_long_ends_the_agent(binary: Path) -> None:
    host = Host(binary, "--runner", "/nonexistent")
    host.socket.sendall(struct.pack("<IBI", (1 << 20) + 1, 0x10, 1))
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            host.receive()
    assert host.process.wait(PATIENCE) == 70


def test_frames_may_come_in_any_pieces(plain: Host) -> None:
    for byte in frame(Kind.RUN, 500, fields((RunTag.ARG, b"echo"), (RunTag.ARG, b"hi"))):
        plain.socket.sendall(bytes([byte]))
    assert plain.finish(500).out == b"hi\n"


# ---- plain commands ------------------------------------------------------------------------------------------------


def test_exec_separates_the_streams(plain: Host) -> None:
    result = plain.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.code, result.out, result.err) == (3, b"out\n", b"err\n")


def test_exec_can_merge_the_streams(plain: Host) -> None:
    result = plain.exec("sh", "-c", "echo a; echo b >&2; echo c", flags=RunFlag.MERGE_STDERR)
    assert (result.out, result.err) == (b"a\nb\nc\n", b"")


def test_exec_of_nothing_is_127_and_of_a_file_126(plain: Host, tmp_path: Path) -> None:
    missing = plain.exec("no-such-program")
    assert missing.code == 127 and b"no-such-program" in missing.err
    (tmp_path / "f").write_text("x")
    assert plain.exec(str(tmp_path / "f")).code == 126


def test_exec_ends_by_a_signal_as_128_plus_n(plain: Host) -> None:
    assert plain.exec("sh", "-c", "kill -9 $$").code == 137


def test_exec_environment_and_directory(plain: Host, tmp_path: Path) -> None:
    result = plain.exec("sh", "-c", "echo $A $B; pwd; echo $LANG $USER", cwd=str(tmp_path), env="A=1\nB=two=2")
    assert result.out.decode().split("\n")[:2] == ["1 two=2", str(tmp_path)]
    assert b"C.UTF-8 root" in result.out or os.geteuid() != 0
    result = plain.exec("env")
    names = {line.split(b"=")[0] for line in result.out.splitlines()}
    assert names == {b"HOME", b"PATH", b"TERM", b"LANG", b"SHELL", b"USER", b"LOGNAME"}
    assert plain.exec("true", cwd="/nonexistent").code == 126


def test_a_child_begins_clean(plain: Host) -> None:
    result = plain.exec(
        sys.executable,
        "-c",
        "import os, signal as s;"
        "print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1], oct(os.umask(0)), os.getsid(0) == os.getpid(),"
        "[n.name for n in s.Signals if s.getsignal(n) is s.SIG_IGN], s.pthread_sigmask(0, []))",
    )
    # Python itself ignores SIGPIPE and SIGXFSZ
    assert result.out.strip() == b"[0, 1, 2] 0o22 True ['SIGPIPE', 'SIGXFSZ'] set()"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_exec_as_another_user(plain: Host) -> None:
    result = plain.exec("sh", "-c", "id -un; id -gn; echo $HOME $USER $LOGNAME", user="nobody")
    assert result.out.split()[:2] == [b"nobody", b"nogroup"] and result.out.endswith(b" nobody nobody\n")
    assert plain.exec("id", "-u", user="1").out == b"1\n"
    assert plain.exec("id", "-u", user="no-such-user").error == b"unknown user: no-such-user"


def test_stdin_is_given_or_empty(plain: Host) -> None:
    assert plain.exec("cat").out == b""
    id = plain.start("cat", flags=RunFlag.STDIN)
    plain.send(Kind.STDIN, id, b"hello ")
    plain.send(Kind.STDIN, id, bytes(range(256)))
    plain.send(Kind.STDIN, id)
    assert plain.finish(id).out == b"hello " + bytes(range(256))


def test_stdin_beyond_the_first_credit(plain: Host) -> None:
    data = os.urandom(1 << 20) * 3
    id = plain.start("sha256sum", flags=RunFlag.STDIN)
    sent, credit = 0, 256 << 10
    while sent < len(data):
        while credit == 0:
            plain.receive()
            credit += sum(parse_u32(f.payload) for f in plain.frames if f.kind == Kind.CREDIT)
            plain.frames = [f for f in plain.frames if f.kind != Kind.CREDIT]
        piece = data[sent : sent + min(credit, 60000)]
        plain.send(Kind.STDIN, id, piece)
        sent, credit = sent + len(piece), credit - len(piece)
    plain.send(Kind.STDIN, id)
    import hashlib

    assert plain.finish(id).out.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_stdin_that_nobody_reads_still_gives_credit(plain: Host) -> None:
    id = plain.start("sh", "-c", "exec <&-; echo closed; sleep 1", flags=RunFlag.STDIN)
    plain.wait(lambda f: f.kind == Kind.STDOUT)
    plain.send(Kind.STDIN, id, b"x" * 100000)
    plain.wait(lambda f: f.kind == Kind.CREDIT)
    assert plain.finish(id).code == 0


def test_many_at_once(plain: Host) -> None:
    ids = {plain.start("sh", "-c", f"sleep 0.{i % 5}; echo {i}"): i for i in range(40)}
    for id, i in ids.items():
        assert plain.finish(id).out == b"%d\n" % i


def test_output_of_any_bytes_and_any_size_arrives_whole(plain: Host) -> None:
    everything = bytes(range(256)) + frame(Kind.EXIT, 1, b"\0\0\0\0") * 3
    escaped = "".join(f"\\{byte:03o}" for byte in everything)
    assert plain.exec("printf", escaped).out == everything
    id = plain.start("sh", "-c", "head -c 50000000 /dev/zero; echo end >&2; exit 4")
    assert select.select([plain.socket], [], [], 5)[0]
    time.sleep(0.3)  # nobody reads: the agent must wait, not grow or drop
    rss = int(Path(f"/proc/{plain.process.pid}/statm").read_text().split()[1]) * 4096
    result = plain.finish(id)
    assert (result.code, len(result.out), result.out.strip(b"\0"), result.err) == (4, 50000000, b"", b"end\n")
    assert rss < 32 << 20


def test_a_port_that_takes_nothing_blocks_no_other_work_for_ever(plain: Host) -> None:
    noisy = plain.start("sh", "-c", "head -c 3000000 /dev/zero")
    quick = plain.start("echo", "quick")
    time.sleep(0.2)
    assert plain.finish(quick).out == b"quick\n"
    assert len(plain.finish(noisy).out) == 3000000


def test_a_background_process_neither_delays_nor_dies(plain: Host, marker: str, tmp_path: Path) -> None:
    done = tmp_path / "done"
    begin = time.monotonic()
    result = plain.exec("sh", "-c", f"(sleep 1; echo late; echo later >&2; sleep 0.2; echo ok > {done}) & echo now")
    assert result.out == b"now\n" and time.monotonic() - begin < 0.9
    end = time.monotonic() + 10
    while not done.exists():
        assert time.monotonic() < end, "the background process was ended by a closed pipe"
        time.sleep(0.05)


def test_a_background_process_that_never_stops_talking(plain: Host) -> None:
    begin = time.monotonic()
    result = plain.exec("sh", "-c", "yes & echo $! >&2; sleep 0.3")
    try:
        assert result.code == 0 and result.out and time.monotonic() - begin < 10
    finally:
        os.kill(int(result.err), signal.SIGKILL)  # it lived on: there is somebody to end


def test_signals_reach_the_whole_tree(plain: Host) -> None:
    id = plain.start("sh", "-c", "sh -c 'echo $$; while :; do sleep 0.05; done' & wait $!")
    inner = Path("/proc", plain.wait(lambda f: f.kind == Kind.STDOUT).payload.decode().strip())
    plain.send(Kind.SIGNAL, id, struct.pack("<I", signal.SIGTERM))
    assert plain.finish(id).code == 128 + signal.SIGTERM
    deadline = time.monotonic() + 5
    while inner.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not inner.exists()


ESCAPE = """
import os, signal, time
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
for i in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "MARKER"])
        os._exit(0)
print("up", flush=True)
while True: time.sleep(1)
"""


def test_kill_leaves_nothing(plain: Host, marker: str) -> None:
    id = plain.start(sys.executable, "-c", ESCAPE.replace("MARKER", marker))
    plain.wait(lambda f: f.kind == Kind.STDOUT)
    time.sleep(0.2)
    assert len(alive(marker)) >= 3
    result = plain.kill(id)
    assert result.code == 137 and not alive(marker)


def test_kill_of_a_tree_that_keeps_forking(plain: Host, marker: str) -> None:
    script = f"for i in 1 2 3 4; do (while :; do sleep {marker} & sleep 0.01; done) & done; echo up; wait"
    id = plain.start("sh", "-c", script)
    plain.wait(lambda f: f.kind == Kind.STDOUT)
    time.sleep(0.3)
    assert plain.kill(id).code == 137 and not alive(marker)


def test_terminal(plain: Host) -> None:
    id = plain.start("sh", "-c", "tty; stty size; read x; stty size; echo got $x", more=terminal(30, 90))
    plain.wait(lambda f: f.kind == Kind.STDOUT and b"30 90" in f.payload)
    plain.send(Kind.WINDOW, id, window_payload(31, 91))
    plain.send(Kind.STDIN, id, b"word\n")
    result = plain.finish(id)
    assert result.out.startswith(b"/dev/pts/") and b"31 91\r\ngot word\r\n" in result.out


def test_terminal_passes_control_c_and_end_of_file(plain: Host) -> None:
    id = plain.start("sh", "-c", "echo up; cat; echo no", more=terminal(24, 80))
    plain.wait(lambda f: f.kind == Kind.STDOUT and b"up" in f.payload)
    time.sleep(0.3)
    plain.send(Kind.STDIN, id, b"\x03")
    assert plain.finish(id).code == 130
    id = plain.start("cat", more=terminal(24, 80))
    plain.send(Kind.STDIN, id, b"line\n")
    plain.wait(lambda f: f.id == id and f.kind == Kind.STDOUT)
    plain.send(Kind.STDIN, id)
    assert plain.finish(id).code == 0


# ---- the session ---------------------------------------------------------------------------------------------------


def test_the_session_remembers(box: Host, tmp_path: Path) -> None:
    assert box.run(f"cd {tmp_path}; export A=1; b=2; f() {{ echo f$b; }}; set -f; umask 077").code == 0
    result = box.run("pwd; sh -c 'echo $A'; f; echo *; umask; echo $0")
    lines = result.out.decode().split("\n")
    assert lines[:4] == [str(tmp_path), "1", "f2", "*"] and lines[4] in ("0077", "077")
    assert lines[5] in ("bash", "sh") and result.err == b""


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("true", 0),
        ("false", 1),
        ("false | true", 0),
        ("true | false", 1),
        ("(exit 42)", 42),
        ("return 7", 7),
        ("sh -c 'exit 5'", 5),
        ("sh -c 'kill -TERM $$'", 143),
        ("! true", 1),
        ("no-such-command", 127),
        ("/etc/passwd", 126),
        ("if", 2),
        ("echo 'open", 2),
        ("", 0),
        ("# only a comment", 0),
        ("false\n\n", 1),
        ("true &", 0),
    ],
)
def test_exit_codes(box: Host, script: str, code: int) -> None:
    result = box.run(script)
    expected = {code, 1} if code == 2 else {code}  # a syntax error is 1 or 2
    assert result.code in expected and result.lost is None
    assert box.run("echo alive").out == b"alive\n"


def test_the_last_status_is_seen_by_the_next_command(box: Host) -> None:
    box.run("(exit 9)")
    assert box.run("echo $?").out == b"9\n"
    assert box.run("echo $?").out == b"0\n"


def test_a_multi_line_script_with_here_documents_and_quotes(box: Host) -> None:
    script = "cat <<'E'\nit's $HOME\nE\nfor i in 1 2\ndo\n  echo \"$i'\"\ndone\ncat <<E | tr a-z A-Z\nlast\nE\n"
    assert box.run(script).out == b"it's $HOME\n1'\n2'\nLAST\n"


def test_a_long_script(box: Host) -> None:
    script = "".join(f"x{i}={i} # {'é' * 20}\n" for i in range(15000)) + "echo $x14999"
    assert len(script.encode()) > 700000
    assert box.run(script).out == b"14999\n"


def test_commands_find_end_of_file_or_what_is_given(box: Host) -> None:
    assert box.run("cat; read x; echo $?").out == b"1\n"
    id = box.start(script="read a; cat; echo [$a]", flags=RunFlag.STDIN)
    box.send(Kind.STDIN, id, b"one\ntwo\n")
    box.send(Kind.STDIN, id, b"\x00\xff\n")
    box.send(Kind.STDIN, id)
    assert box.finish(id).out == b"two\n\x00\xff\n[one]\n"
    id = box.start(script="cat", flags=RunFlag.STDIN)
    box.send(Kind.STDIN, id)
    assert box.finish(id).out == b""
    assert box.run("echo still").out == b"still\n"


def test_input_for_a_command_that_waits_its_turn(box: Host) -> None:
    first = box.start(script="sleep 0.3; echo first")
    second = box.start(script="cat", flags=RunFlag.STDIN)
    box.send(Kind.STDIN, second, b"kept")
    box.send(Kind.STDIN, second)
    assert box.finish(second).out == b"kept"
    assert box.finish(first).out == b"first\n"


def test_descriptors_may_be_closed_and_moved(box: Host) -> None:
    for script in (
        "exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-",
        "exec >/dev/null 2>&1",
        "exec 3>&1; exec 1>&2",
    ):
        assert box.run(script).code == 0
        assert box.run("echo alive; echo e >&2")[1:3] == (b"alive\n", b"e\n")


def test_commands_see_no_descriptor_of_the_agent(box: Host) -> None:
    assert box.run("ls /proc/self/fd").out.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls reading the folder


def test_output_of_any_bytes(box: Host) -> None:
    everything = bytes(range(256)) + b"vpod:1:0\nvpod:2:0\n"
    escaped = "".join(f"\\{byte:03o}" for byte in everything)
    assert box.run(f"printf '{escaped}'").out == everything
    result = box.run("head -c 20000000 /dev/zero; echo x >&2")
    assert len(result.out) == 20000000 and result.err == b"x\n"


def test_merged_streams_keep_their_order(box: Host) -> None:
    result = box.run("echo a; echo b >&2; echo c", flags=RunFlag.MERGE_STDERR)
    assert (result.out, result.err) == (b"a\nb\nc\n", b"")


def test_background_jobs_go_on_silently(box: Host, marker: str) -> None:
    begin = time.monotonic()
    result = box.run(f"sleep {marker} & echo started")
    assert (result.out, result.err) == (b"started\n", b"") and time.monotonic() - begin < 2
    assert box.run("true").err == b""
    end = time.monotonic() + 10
    while len(alive(marker)) != 1:  # the shell's child has yet to become `sleep`
        assert time.monotonic() < end
    assert box.run("kill $!; wait $!; echo $?").out == b"143\n"
    result = box.run("true")
    assert (result.out, result.err) == (b"", b"")


def test_a_background_job_may_write_later(box: Host, tmp_path: Path) -> None:
    done = tmp_path / "done"
    box.run(f"(sleep 0.5; echo late; echo late >&2; echo ok > {done}) &")
    assert box.run("echo mine").out == b"mine\n"
    end = time.monotonic() + 10
    while not done.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert box.run("echo mine").out == b"mine\n"


def test_exit_gives_its_code_and_a_new_session_in_the_same_place(box: Host, tmp_path: Path) -> None:
    box.run(f"cd {tmp_path}; a=1")
    result = box.run("echo before; exit 3")
    assert (result.code, result.out) == (3, b"before\n") and result.lost and b"3" in result.lost
    assert box.run("pwd; echo [$a]").out.decode() == f"{tmp_path}\n[]\n"


def test_exec_replaces_the_session_and_gives_its_code(box: Host) -> None:
    result = box.run("exec sh -c 'echo replaced; exit 6'")
    assert (result.code, result.out) == (6, b"replaced\n") and result.lost
    assert box.run("echo back").out == b"back\n"


def test_errexit_lasts_and_ends_the_session_as_in_a_terminal(box: Host) -> None:
    assert box.run("set -e").code == 0
    assert box.run("true; echo ok").out == b"ok\n"
    result = box.run("false; echo no")
    assert (result.code, result.out) == (1, b"") and result.lost
    assert box.run("false; echo yes").out == b"yes\n"


def test_shell_options_disturb_nothing(box: Host) -> None:
    for option in ("-u", "-x", "-v", "-f", "-C", "-a"):
        box.run(f"set {option}")
        result = box.run("echo ok")
        assert result.out == b"ok\n" and b"vpod" not in result.err, option
        box.run(f"set +{option[1]}")
    assert box.run("set -u; echo $nope; echo no").code != 0 or box.shell == "bash"  # type: ignore[attr-defined]
    assert box.run("echo alive").out == b"alive\n"


def test_an_unset_path_and_odd_names_disturb_nothing(box: Host) -> None:
    box.run("unset PATH; echo() { :; }; alias command=false; PS1='$ '; PS2='> '; cd /")
    assert box.run("pwd").out == b"/\n"
    assert box.run("no-such").code == 127
    box.run("unset -f echo; PATH=/usr/bin:/bin")
    assert box.run("echo a; ls -d /").out == b"a\n/\n"


def test_errors_of_expansion_do_not_end_the_session(box: Host) -> None:
    box.run("keep=1")
    for script in ("echo ${nope?gone}", "echo $((1/0))", "eval 'if'", ". /nonexistent", "readonly r=1; r=2"):
        result = box.run(script)
        assert result.err and result.lost is None, script
    assert box.run("echo $keep").out == b"1\n"


def test_a_directory_for_one_command(box: Host, tmp_path: Path) -> None:
    box.run("cd /usr; cd /")
    assert box.run("pwd; v=kept; cd /etc", cwd=str(tmp_path)).out.decode() == f"{tmp_path}\n"
    assert box.run("pwd; echo $v $OLDPWD").out == b"/\nkept /usr\n"
    assert box.run("(exit 4)", cwd="usr").code == 4
    assert box.run("pwd", cwd="usr").out == b"/usr\n"
    assert box.run("true", cwd="/no where").error == b"no such directory: /no where"
    assert b"_vpod_pwd=" not in box.run("set").out


def test_variables_for_one_command(box: Host) -> None:
    box.run("A=mine; export B=yours")
    result = box.run("echo $A $B $C; sh -c 'echo $A $B \"$C\"'; export D=4; C=changed", env="A=1\nB=2\nC=it's  $HOME\n")
    assert result.error  # the last pair is empty: no NAME=VALUE
    result = box.run("echo $A $B; sh -c 'echo $A $B \"$C\"'; export D=4; C=changed", env="A=1\nB=2\nC=it's  $HOME")
    assert result.out == b"1 2\n1 2 it's  $HOME\n"
    assert box.run("echo $A $B [$C] $D; sh -c 'echo [$A] $B [$C] $D'").out == b"mine yours [] 4\n[] yours [] 4\n"
    assert box.run("true", env="A-B=1").error
    assert box.run("echo $PATH; ls -d /", env="PATH=/usr/bin:/bin").out == b"/usr/bin:/bin\n/\n"


def test_an_interrupt_drops_a_loop_of_builtins_and_keeps_variables(box: Host) -> None:
    box.run("n=1")
    id = box.start(script="n=2; while :; do :; done")
    box.wait(lambda f: f.id == id and f.kind == Kind.STARTED)
    time.sleep(0.3)
    box.send(Kind.SIGNAL, id, struct.pack("<I", signal.SIGINT))
    result = box.finish(id)
    assert (result.code, result.lost) == (130, None)
    assert box.run("echo $n").out == b"2\n"


def test_an_interrupt_drops_a_loop_of_programs(box: Host) -> None:
    """Said again if need be: bash goes on after a child that was still bash itself when the signal came."""
    id = box.start(script="n=3; while :; do sleep 0.5; done")
    for _ in range(3):
        time.sleep(0.3)
        box.send(Kind.SIGNAL, id, struct.pack("<I", signal.SIGINT))
        if box.ended(id, 2):
            break
    result = box.finish(id)
    assert (result.code, result.lost, result.err) == (130, None, b"")
    assert box.run("echo $n").out == b"3\n"


def test_kill_keeps_the_session(box: Host, marker: str, tmp_path: Path) -> None:
    box.run(f"cd {tmp_path}; sleep {marker} & keep=1")
    other = str(int(marker) + 1)
    for script in (
        f"while :; do sleep {other}; done",
        "while :; do :; done",
        f"sleep {other} | cat",
        f"(trap '' INT TERM; sleep {other}; :)",
        f"sleep {other} & wait",
        "while :; do sleep 0.01; done",
    ):
        id = box.start(script=f"echo up; {script}", cwd="/usr")
        box.wait(lambda f, id=id: f.id == id and f.kind == Kind.STDOUT)
        time.sleep(0.1)
        result = box.kill(id)
        assert (result.code, result.lost, result.out) == (137, None, b"up\n"), script
        assert not alive(other), script
        assert box.run("pwd; echo $keep").out.decode() == f"{tmp_path}\n1\n", script
    assert len(alive(marker)) == 1, "a job of an earlier command was ended"


def test_kill_of_a_command_that_ignores_everything_costs_the_session(box: Host, marker: str, tmp_path: Path) -> None:
    box.run(f"cd {tmp_path}; sleep {marker} &")
    other = str(int(marker) + 1)
    id = box.start(script=f"trap '' INT; echo up; while :; do sleep {other}; done")
    box.wait(lambda f: f.id == id and f.kind == Kind.STDOUT)
    result = box.kill(id)
    assert result.code == 137 and result.lost
    assert not alive(other) and len(alive(marker)) == 1
    assert box.run("pwd").out.decode() == f"{tmp_path}\n"


def test_kill_finds_daemons(box: Host, marker: str, tmp_path: Path) -> None:
    program = tmp_path / "escape.py"
    program.write_text(ESCAPE.replace("MARKER", marker))
    id = box.start(script=f"{sys.executable} {program}")
    box.wait(lambda f: f.id == id and f.kind == Kind.STDOUT)
    time.sleep(0.2)
    assert alive(marker)
    result = box.kill(id)
    assert (result.code, result.lost) == (137, None) and not alive(marker)


def test_kill_of_a_command_that_waits_its_turn(box: Host) -> None:
    first = box.start(script="sleep 0.5; echo done")
    second = box.start(script="echo never")
    assert box.kill(second)[:2] == (137, b"")
    assert box.finish(first).out == b"done\n"


def test_commands_run_in_the_order_they_came(box: Host) -> None:
    ids = [box.start(script=f"sleep 0.02; n=${{n}}{i}; echo $n") for i in range(5)]
    assert [box.finish(id).out for id in ids] == [b"0\n", b"01\n", b"012\n", b"0123\n", b"01234\n"]


def test_traps_work(box: Host) -> None:
    assert box.run("trap 'echo usr' USR1; kill -USR1 $$; :").out == b"usr\n"
    result = box.run("trap 'echo bye' EXIT; exit 2")
    assert (result.code, result.out) == (2, b"bye\n")


def test_a_session_command_on_a_terminal(box: Host, tmp_path: Path) -> None:
    box.run(f"cd {tmp_path}; export A=seen")
    id = box.start(script="tty; pwd; echo $A; stty size; read x; echo [$x]; exit 5", more=terminal(20, 70))
    box.wait(lambda f: f.id == id and b"20 70" in f.payload)
    box.send(Kind.STDIN, id, b"typed\n")
    result = box.finish(id)
    assert result.code == 5 and result.lost is None
    text = result.out.decode()
    assert text.startswith("/dev/pts/") and f"{tmp_path}\r\nseen\r\n" in text and "[typed]" in text


def test_a_terminal_interrupt_reaches_the_session_command(box: Host) -> None:
    id = box.start(script="echo up; sleep 60", more=terminal(20, 70))
    box.wait(lambda f: f.id == id and b"up" in f.payload)
    for _ in range(3):  # dash forgets an interrupt that comes between two programs until the second has ended
        time.sleep(0.3)
        box.send(Kind.STDIN, id, b"\x03")
        if box.ended(id, 2):
            break
    assert box.finish(id).code == 130
    assert box.run("echo alive").out == b"alive\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_script_for_another_user(plain: Host) -> None:
    assert plain.run("id -un; cd /", user="nobody").out == b"nobody\n"
    assert plain.run("id -u", user="root").out == b"0\n"
    assert plain.run("true", user="ghost").error == b"unknown user: ghost"


def test_restore_reseeds_the_shell_and_answers(box: Host) -> None:
    box.run("RANDOM=1")
    box.send(Kind.RESTORE, 800, restore_payload(time.time_ns(), os.urandom(64)))
    assert box.wait(lambda f: f.id == 800).kind == Kind.READY
    first = box.run("echo $RANDOM").out
    box.run("RANDOM=1")
    box.send(Kind.RESTORE, 801, restore_payload(time.time_ns(), os.urandom(64)))
    box.wait(lambda f: f.id == 801)
    second = box.run("echo $RANDOM").out
    assert first != second or box.shell == "dash"  # type: ignore[attr-defined]  # dash has no $RANDOM


def test_many_commands_leave_nothing(box: Host) -> None:
    def census() -> tuple[int, int]:
        shell = [pid for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == box.process.pid]
        return len(os.listdir(f"/proc/{box.process.pid}/fd")), sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in shell)

    box.run("true")
    before = census()
    for i in range(300):
        assert box.run("true" if i % 10 else "ls / >/dev/null").code == 0
    assert census() == before


def parent_of(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_shell_that_does_not_start_is_an_error(binary: Path) -> None:
    host = Host(binary, "--runner", "/nonexistent", "--shell", "/bin/false")
    assert b"does not start" in (host.run("true").error or b"")
    assert host.exec("true").code == 0
    host.close()


# ---- files ---------------------------------------------------------------------------------------------------------


def test_files_are_read_and_written(plain: Host, tmp_path: Path) -> None:
    data = os.urandom(700000)
    path = tmp_path / "file"
    plain.send(Kind.WRITE, 600, struct.pack("<I", 0o640) + os.fsencode(path))
    for at in range(0, len(data), 50000):
        plain.send(Kind.STDIN, 600, data[at : at + 50000])
    plain.send(Kind.STDIN, 600)
    assert plain.finish(600).code == 0
    assert path.read_bytes() == data and path.stat().st_mode & 0o777 == 0o640
    plain.send(Kind.READ, 601, os.fsencode(path))
    assert plain.finish(601)[:2] == (0, data)
    plain.send(Kind.READ, 602, b"/proc/self/stat")
    assert plain.finish(602).out.startswith(b"%d (" % plain.process.pid)


@pytest.mark.parametrize(
    ("path", "errno"), [("/nonexistent", 2), ("/", 21), ("/dev/zero", 22), ("", 22), ("/tmp/a\0b", 22)]
)
def test_files_that_cannot_be_read(plain: Host, path: str, errno: int) -> None:
    plain.send(Kind.READ, 600, path.encode())
    assert plain.finish(600).code == errno


def test_a_fifo_does_not_hold_up_the_agent(plain: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    plain.send(Kind.READ, 600, os.fsencode(tmp_path / "fifo"))
    assert plain.finish(600).code == 22
    plain.send(Kind.WRITE, 601, struct.pack("<I", 0) + os.fsencode(tmp_path / "fifo"))
    assert plain.finish(601).code == 6
    plain.send(Kind.WRITE, 602, struct.pack("<I", 0) + b"/nonexistent/x")
    assert plain.finish(602).code == 2


def test_settle_is_answered(plain: Host) -> None:
    plain.send(Kind.SETTLE, 600)
    assert plain.finish(600).code == 0


# ---- Python --------------------------------------------------------------------------------------------------------


def test_code_runs_warm(python: Host) -> None:
    assert dict(parse_fields(python.ready.payload))[ReadyTag.PYTHON] == b"1"
    python.code("x = 6")
    result = python.code("print('p'); x * 7")
    assert (result.code, result.out, result.result) == (0, b"p\n", {ResultTag.RESULT: b"42"})


def test_code_and_commands_run_side_by_side(python: Host) -> None:
    id = python.start_code("import time; time.sleep(0.5); print('slow')")
    assert python.exec("echo", "hi").out == b"hi\n"
    assert python.run("echo session").out == b"session\n"
    assert python.finish(id).out == b"slow\n"


def test_code_that_ends_the_interpreter(python: Host) -> None:
    python.code("x = 1")
    result = python.code("import os; print('last', flush=True); os._exit(5)")
    assert (result.code, result.out) == (5, b"last\n") and result.lost and b"5" in result.lost
    assert python.code("'x' in globals()").result[ResultTag.RESULT] == b"False"
    result = python.code("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert result.code == 139 and result.lost
    assert python.code("1").code == 0


def test_code_is_interrupted_and_keeps_its_variables(python: Host) -> None:
    id = python.start_code("y = 5\nprint('up')\nwhile True: pass")
    python.wait(lambda f: f.id == id and f.kind == Kind.STDOUT)
    python.send(Kind.SIGNAL, id, struct.pack("<I", signal.SIGINT))
    result = python.finish(id)
    assert result.code == 130 and result.result[ResultTag.ERROR_NAME] == b"KeyboardInterrupt"
    assert python.code("y").result[ResultTag.RESULT] == b"5"


def test_kill_of_code_ends_what_it_started_and_keeps_what_came_before(python: Host, marker: str) -> None:
    other = str(int(marker) + 1)
    python.code(f"import subprocess as s; p = s.Popen(['sleep', '{marker}'])")
    id = python.start_code(f"print('up'); s.run(['sh', '-c', 'sleep {other} & sleep {other}'])")
    python.wait(lambda f: f.id == id and f.kind == Kind.STDOUT)
    time.sleep(0.2)
    result = python.kill(id)
    assert (result.code, result.lost) == (137, None) and not alive(other) and len(alive(marker)) == 1
    assert python.code("p.poll() is None").result[ResultTag.RESULT] == b"True"


def test_kill_of_code_that_ignores_interrupts(python: Host) -> None:
    id = python.start_code("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up')\nwhile True: pass")
    python.wait(lambda f: f.id == id and f.kind == Kind.STDOUT)
    result = python.kill(id)
    assert result.code == 137 and result.lost
    assert python.code("1 + 1").result[ResultTag.RESULT] == b"2"


def test_restore_reseeds_python(python: Host) -> None:
    seen = set()
    for id in (700, 701):
        python.code("import random; random.seed(1)")
        python.send(Kind.RESTORE, id, restore_payload(time.time_ns(), os.urandom(64)))
        python.wait(lambda f, id=id: f.id == id)
        seen.add(python.code("random.random()").result[ResultTag.RESULT])
    assert len(seen) == 2


def test_exit_tag_is_what_the_agent_sends(plain: Host) -> None:
    id = plain.start(script="exit 1")
    last = plain.wait(lambda f: f.id == id and f.kind == Kind.EXIT)
    assert [tag for tag, _ in parse_fields(last.payload[4:])] == [ExitTag.SESSION_LOST]
