"""The parts of the benchmarks: the programs' answers, what is heard on a console, the arithmetic. No timing."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from machine_code import assemble

from benchmarks import BenchmarkError, compare, engines, guest, start
from benchmarks import programs as table
from benchmarks.engines import ENGINES, INTERPRETER, NATIVE, QEMU, VPOD
from benchmarks.guest import Guest
from benchmarks.listener import MAX_LINE, Listener, Meters, Sample
from benchmarks.plot import Scale, drawing
from benchmarks.programs import PROGRAMS, Kind, by_name, chosen, digest
from benchmarks.report import Cell, Goal, Result, Row, geometric_mean, row, translation_rate
from tests.real_snapshots import Made
from vpod import Sandbox

COMPILED = table.compiled(PROGRAMS)
PYTHONS = [program for program in PROGRAMS if program.group is table.CPYTHON]
BYTES = bytes(number * 7 & 255 for number in range(1 << 16))  # what crc.c and keccak.c work on


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every program compiled for this machine."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("there is no C compiler for this machine")
    folder = tmp_path_factory.mktemp("native")
    table.build(folder, table.native_compiler(), PROGRAMS)
    return folder


@pytest.mark.parametrize("program", COMPILED, ids=lambda program: program.name)
def test_a_program_gives_its_known_answer(program: table.Program, native: Path) -> None:
    done = subprocess.run(program.command, cwd=native, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, program.output, "")


def test_the_answers_of_crc_and_keccak_are_those_of_other_implementations() -> None:
    assert by_name()["crc"].output == f"crc {zlib.crc32(BYTES * 2400):016x}\n"
    assert by_name()["keccak"].output == f"keccak {hashlib.sha3_256(BYTES * 192).hexdigest()[:16]}\n"


def test_the_answer_of_the_interpreter_is_collatz() -> None:
    steps = 0
    for number in range(1, 25001):
        while number != 1:
            number, steps = (3 * number + 1 if number & 1 else number // 2), steps + 1
    assert by_name()["interpreter"].output == f"interpreter {steps:016x}\n"


def test_every_source_is_in_the_table() -> None:
    sources = {path.stem for path in table.SOURCES.glob("*.c")}
    assert sources == {program.name for program in COMPILED} | set(table.TOOLS)
    assert {path.stem for path in table.SOURCES.glob("*.py")} == {program.name for program in PYTHONS}


@pytest.mark.parametrize("program", PYTHONS, ids=lambda program: program.name)
def test_the_hosts_python_gives_the_known_answer(program: table.Program) -> None:
    """Of `pycompile`, whose bytecode is one version's own, that the answer doesn't change from run to run."""

    def answer() -> str:
        command = [sys.executable, str(table.SOURCES / f"{program.name}.py")]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert answer() == (answer() if program.output is None else program.output)


def test_what_the_python_programs_import_is_compiled_before() -> None:
    def imported(path: Path) -> set[str]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        return {name.partition(".")[0] for name in plain} | {
            (node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
        }

    needed = set.union(*(imported(path) for path in table.SOURCES.glob("*.py")))
    assert needed - set(sys.builtin_module_names) - {"math", "zlib"} == set(table.WARM)


def test_a_program_is_repeated_until_it_fails(native: Path, tmp_path: Path) -> None:
    def repeat(*arguments: str) -> int:
        return subprocess.run([native / "repeat", *arguments], cwd=tmp_path, capture_output=True).returncode

    assert repeat("3", "sh", "-c", "echo x >> seen") == 0
    assert (tmp_path / "seen").read_text() == "x\n" * 3
    assert repeat("3", "sh", "-c", "echo x >> seen; exit 7") == 7
    assert (tmp_path / "seen").read_text() == "x\n" * 4
    assert (repeat("2", "./there-is-none"), repeat("2", "sh", "-c", "kill -9 $$")) == (125, 137)
    assert (repeat("0", "true"), repeat("x", "true"), repeat("2")) == (2, 2, 2)


def test_the_text_is_the_same_everywhere_and_compresses_like_prose(native: Path) -> None:
    text = subprocess.run(["./text", "1"], cwd=native, capture_output=True, check=True).stdout
    assert len(text) == 1 << 20
    assert hashlib.sha256(text).hexdigest() == "ee78b1a89d30f611b0a92792985f3a7db3960b3d87bc333c499e8bda12e1db75"
    assert 0.3 < len(gzip.compress(text, 1)) / len(text) < 0.6
    longer = subprocess.run(["./text", "2"], cwd=native, capture_output=True, check=True).stdout
    assert longer.startswith(text) and len(longer) == 2 << 20


@pytest.mark.parametrize("size", ["0", "-1", "1025", "x", ""])
def test_the_text_has_a_size_within_reason(size: str, native: Path) -> None:
    assert subprocess.run(["./text", size], cwd=native, capture_output=True).returncode == 2


@pytest.mark.skipif(not shutil.which("busybox"), reason="there is no busybox on this machine")
@pytest.mark.parametrize("name", ["sh", "awk"])
def test_busybox_gives_its_known_answer(name: str) -> None:
    program = by_name()[name]
    assert subprocess.run(program.command, capture_output=True, text=True, check=True).stdout == program.output


@pytest.mark.skipif(not shutil.which("busybox"), reason="there is no busybox on this machine")
def test_busybox_gives_the_answers_that_are_expected_of_the_texts(native: Path, tmp_path: Path) -> None:
    texts = table.make_texts(native)
    assert {name: len(text) for name, text in texts.items()} == {name: size << 20 for name, size in table.TEXTS.items()}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    for program in table.expecting(chosen(["sort", "sha256sum"]), texts):
        done = subprocess.run(program.command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == program.output


def test_only_what_is_read_is_made_before() -> None:
    assert table.preparation(chosen(["crc"])) == ""
    assert table.preparation(chosen(["gzip"])) == "./text 6 > text.txt\n"
    (line,) = table.preparation(chosen(["pyjson"])).splitlines()
    assert line.startswith("chroot /debian /usr/bin/python3 -c 'import collections, ")


def test_python_is_measured_behind_its_chroot() -> None:
    assert table.script(chosen(["crc", "pyjson"])) == (
        "./stopwatch crc ./crc\nchroot /debian /bench/stopwatch pyjson /usr/bin/python3 /bench/pyjson.py\n"
    )


def stopwatch(native: Path, *command: str) -> Sample:
    heard = Listener(["it"])
    heard.feed(subprocess.run(["./stopwatch", "it", *command], cwd=native, stdout=subprocess.PIPE, check=True).stdout)
    return heard.samples["it"]


def test_the_stopwatch_tells_time_exit_code_and_digest(native: Path) -> None:
    sample = stopwatch(native, "sh", "-c", "sleep 0.2; printf hello; exit 3")
    assert (sample.exit_code, sample.digest) == (3, digest(b"hello"))
    assert 0.2 <= sample.seconds < 20


def test_the_stopwatch_tells_a_signal_and_hashes_much_output(native: Path) -> None:
    assert stopwatch(native, "sh", "-c", "kill -9 $$").exit_code == 137
    assert stopwatch(native, "sh", "-c", "head -c 300000 /dev/zero").digest == digest(bytes(300000))
    assert stopwatch(native, "./there-is-none").exit_code == 125


def test_a_native_run_measures_every_program(native: Path) -> None:
    programs = [by_name()["crc"], by_name()["calls"]]
    samples = engines.run_native(native, [*programs, by_name()["sh"], by_name()["pyjson"]], timeout=60).samples
    assert samples.keys() == {"crc", "calls"}  # another build of busybox or Python would be another program
    assert [samples[program.name].digest for program in programs] == [
        digest((program.output or "").encode()) for program in programs
    ]


def test_a_native_run_that_hangs_is_ended(native: Path) -> None:
    slow = table.Program("slow", ("sleep", "100"))
    with pytest.raises(BenchmarkError, match="not done after 0 s"):
        engines.run_native(native, [slow], timeout=0.3)


@pytest.mark.parametrize(("data", "known"), [(b"", "cbf29ce484222325"), (b"foobar", "85944171f73967e8")])
def test_the_digest_is_fnv_1a(data: bytes, known: str) -> None:
    assert digest(data) == known


def test_an_unknown_program_is_named() -> None:
    with pytest.raises(BenchmarkError, match="no program nbdy; those there are: crc, "):
        chosen(["nbdy"])
    with pytest.raises(BenchmarkError, match="no group floats; those there are: integer, "):
        chosen([], ["floats"])


def test_programs_are_chosen_by_name_and_by_group() -> None:
    assert [program.name for program in chosen(["awk", "crc"])] == ["crc", "awk"]
    assert [program.name for program in chosen(["awk"], ["memory"])] == ["sieve", "copy", "chase", "awk"]
    assert chosen([]) == list(PROGRAMS)
    assert {group.name for group in table.GROUPS} == {program.group.name for program in PROGRAMS}


def test_a_failing_compiler_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"compiling stopwatch\.c failed"):
        table.build(tmp_path, ["false"], PROGRAMS)


# What is heard on a console


def test_a_sample_is_heard_in_pieces_between_other_lines() -> None:
    moments = iter([Meters(50.0, 1.0, 100), Meters(51.625, 3.5, 700)])
    heard = Listener(["crc"], lambda: next(moments))
    console = (
        b"[ 1.0] a kernel line\r\nBENCH begin crc\r\n[ 2.0] another\r\nBENCH ran crc 1500000000 0\r\n[ 3.0]\r\n"
        b"BENCH printed crc 0123456789abcdef\r\n"
    )
    for position in range(len(console)):
        heard.feed(console[position : position + 1])
    assert heard.samples == {"crc": Sample("crc", 1.5, 0, "0123456789abcdef", 1.625, 2.5, 600)}
    assert not heard.done
    heard.feed(b"BENCH done\r\n")
    assert heard.done


BEGIN, RAN, PRINTED = b"BENCH begin crc\n", b"BENCH ran crc 1 0\n", b"BENCH printed crc 0123456789abcdef\n"


@pytest.mark.parametrize(
    "lines",
    [
        RAN + PRINTED,
        BEGIN + PRINTED,
        BEGIN + RAN,
        BEGIN + RAN + BEGIN + PRINTED,
        BEGIN + b"BENCH ran sort 1 0\n" + PRINTED,
        BEGIN + RAN + b"BENCH printed sort 0123456789abcdef\n",
        BEGIN + b"BENCH ran crc -1 0\n" + PRINTED,
        BEGIN + b"BENCH ran crc " + b"9" * 4000 + b" 0\n" + PRINTED,
        BEGIN + RAN + b"BENCH printed crc 0123456789abcde\n",
        BEGIN + RAN + b"BENCH printed crc 0123456789abcdef and more\n",
        BEGIN.replace(b"crc", b"other") + RAN.replace(b"crc", b"other") + PRINTED.replace(b"crc", b"other"),
    ],
)
def test_a_line_that_is_missing_or_not_quite_right_is_no_sample(lines: bytes) -> None:
    heard = Listener(["crc", "sort"])
    heard.feed(lines)
    assert heard.samples == {}
    heard.feed(BEGIN + RAN + PRINTED)
    assert heard.samples.keys() == {"crc"}


def test_a_console_that_floods_is_not_kept() -> None:
    heard = Listener(["crc"])
    for _ in range(40):
        heard.feed(b"x" * (1 << 16))
    assert len(heard._partial) <= MAX_LINE and len(heard.tail) <= 4096


# The arithmetic


def samples(name: str, *runs: tuple[float, float | None], code: int = 0, answer: str = "a") -> list[dict[str, Sample]]:
    """Rounds of one program: (seconds, CPU seconds) of each."""
    return [
        {name: Sample(name, clock, code, digest(answer.encode()), clock, cpu, 2_000_000_000)} for clock, cpu in runs
    ]


PLAIN = table.Program("it", ("./it",))


def test_a_row_has_medians_ratios_and_a_rate() -> None:
    found = row(
        PLAIN,
        {
            NATIVE: samples("it", (0.1, None), (0.3, None), (0.2, None)),
            QEMU: samples("it", (1.0, 0.5), (9.0, 0.5), (2.0, 0.5)),
            INTERPRETER: samples("it", (8.0, 2.0), (4.0, 2.0), (5.0, 2.0)),
            VPOD: samples("it", (0.6, 0.2), (0.4, 0.2), (0.5, 0.2)),
        },
    )
    assert [found.cells[engine].seconds for engine in ENGINES] == [0.2, 2.0, 5.0, 0.5] and found.error is None
    assert (found.speed(INTERPRETER), found.speed(INTERPRETER, by="cpu"), found.mips(INTERPRETER)) == (0.4, 0.25, 400.0)
    assert (found.speed(VPOD), found.speed(VPOD, by="cpu"), found.mips()) == (4.0, 2.5, 4000.0)
    assert (found.speed(VPOD, INTERPRETER), found.slower(VPOD), found.speed(NATIVE)) == (10.0, 2.5, 10.0)
    assert found.speed(NATIVE, by="cpu") is None


def test_a_row_of_another_program_has_no_native_time() -> None:
    program = table.Program("it", ("busybox", "it"), kind=Kind.BUSYBOX)
    found = row(program, {NATIVE: [{}], QEMU: samples("it", (1.0, 1.0)), VPOD: samples("it", (2.0, 2.0))})
    assert (found.slower(VPOD), found.speed(VPOD), found.error) == (None, 0.5, None)


def test_an_engine_that_does_not_take_part_is_not_missed() -> None:
    found = row(PLAIN, {VPOD: samples("it", (2.0, 2.0))})
    assert (list(found.cells), found.speed(VPOD), found.error) == ([VPOD], None, None)


def test_a_wrong_answer_is_an_error_and_no_ratio() -> None:
    good, bad = samples("it", (1.0, 1.0)), samples("it", (1.0, 1.0), answer="b")
    assert "vpod: printed something else" in (row(PLAIN, {NATIVE: good, QEMU: good, VPOD: bad}).error or "")
    assert "QEMU: printed something else" in (row(PLAIN, {NATIVE: good, QEMU: bad, VPOD: bad}).error or "")
    known = table.Program("it", ("./it",), output="b")
    found = row(known, {NATIVE: good, QEMU: good, VPOD: good})
    assert "native: printed something else" in (found.error or "") and found.speed(VPOD) is None


def test_a_failure_or_a_missing_run_is_an_error() -> None:
    good = samples("it", (1.0, 1.0))
    assert (
        row(PLAIN, {NATIVE: good, QEMU: good, VPOD: samples("it", (1.0, 1.0), code=139)}).error == "vpod: exit code 139"
    )
    assert row(PLAIN, {NATIVE: good, QEMU: [{}], VPOD: good}).error == "QEMU: ran 0 times of 1"
    assert row(PLAIN, {NATIVE: [{}], QEMU: good, VPOD: good}).error == "native: ran 0 times of 1"


@pytest.mark.parametrize(("guest", "host", "lies"), [(1.0, 1.1, False), (2.0, 1.0, True), (1.0, 2.0, True)])
def test_a_guests_clock_that_is_not_the_hosts_is_an_error(guest: float, host: float, lies: bool) -> None:
    found = row(PLAIN, {VPOD: [{"it": Sample("it", guest, 0, digest(b""), host)}]})
    assert (found.error is not None) == lies
    if found.error is not None:
        assert found.error == f"vpod: took {guest:.2f} s by its own clock and {host:.2f} s by the host's"


def test_the_geometric_mean() -> None:
    assert geometric_mean([0.1, 0.4]) == 0.2
    assert geometric_mean([3.0]) == 3.0
    assert geometric_mean([]) is None


def a_row(name: str, group: table.Group, vpod: float, cpu: float, native: float | None = 0.25) -> Row:
    cells = {QEMU: Cell(1.0, 1.0, 0.75), INTERPRETER: Cell(2.0, 2.0, 2.0), VPOD: Cell(vpod, vpod + 0.125, cpu, 1e9)}
    return Row(name, group, cells if native is None else {NATIVE: Cell(native)} | cells)


RESULT = Result(
    (
        a_row("fast", table.INTEGER, 0.25, 0.25),
        a_row("slow", table.INTEGER, 1.0, 0.75),
        a_row("shell", table.SHELL, 0.5, 0.5, native=None),
        a_row("float", table.FLOATING, 0.125, 0.125),
        Row("broken", table.MEMORY, error="vpod: exit code 1"),
    )
)


def test_means_are_of_groups_and_of_rows_without_error() -> None:
    assert RESULT.mean(lambda each: each.speed(VPOD), (table.INTEGER,)) == 2.0
    assert RESULT.mean(lambda each: each.speed(VPOD), (table.INTEGER, table.SHELL, table.MEMORY)) == 2.0
    assert RESULT.mean(lambda each: each.speed(VPOD), (table.MEMORY,)) is None
    assert [each.name for each in RESULT.errors] == ["broken"]
    assert RESULT.worst is not None and RESULT.worst.name == "slow"
    assert RESULT.shares() == {QEMU: 0.75, INTERPRETER: 1.0, VPOD: pytest.approx(1.625 / 1.875)}
    assert RESULT.clocks_apart() == (0.125, "slow", VPOD)


def test_each_goal_is_beside_what_was_found() -> None:
    found = {goal.what: (goal.found, goal.wanted, goal.kept) for goal in RESULT.goals()}
    assert found == {
        "vpod/QEMU: C kernels and busybox": (2.0, 2.0, True),
        "vpod/QEMU: floating point": (8.0, 5.0, True),
        "vpod/QEMU: CPython and its start": (None, 2.0, None),
        "vpod/QEMU: the worst row (slow)": (1.0, 1.1, False),
        "slower than native: C kernels": (2.0, 4.0, True),
        "slower than native: floating point": (0.5, 3.0, True),
        "guest code translated, MB/s": (None, 5.0, None),
    }
    (*_, rate) = Result(RESULT.rows, translation_rate=4.5).goals()
    assert (rate.found, rate.kept) == (4.5, False)
    assert translation_rate({"bytes": 3_000_000, "nanoseconds": 500_000_000}) == 6.0
    assert translation_rate(None) is None and translation_rate({"bytes": 0, "nanoseconds": 0}) is None
    assert Goal("it", 4.5, 4.0, at_least=False).shown() == ("it", "4.50", "at most 4", "[red]missed[/]")


def test_the_record_and_the_tables_hold_every_row() -> None:
    record = json.loads(json.dumps(RESULT.record()))
    assert [each["name"] for each in record["rows"]] == ["fast", "slow", "shell", "float", "broken"]
    assert record["rows"][0]["speed"] == {NATIVE: 4.0, INTERPRETER: 0.5, VPOD: 4.0}
    assert record["rows"][0]["engines"][VPOD]["seconds"] == 0.25
    assert record["means"]["integer"] == {
        "speed": 2.0,
        "speed_by_cpu": 1.732050807569,
        "interpreter_speed": 0.5,
        "slower": 2.0,
    }
    assert record["means"]["python"]["speed"] is None and record["worst"] == "slow"
    assert RESULT.table().row_count == 5 + 4 + 1  # rows, groups that have any, all
    assert RESULT.goal_table().row_count == 7


def test_a_result_of_errors_alone_has_no_mean() -> None:
    result = Result((Row("broken", table.MEMORY, error="x"),))
    assert (result.mean(lambda each: each.speed(VPOD)), result.worst, result.shares()) == (None, None, {})
    assert result.table().row_count == 3 and result.clocks_apart() is None
    ElementTree.fromstring(drawing(result))


# The drawing


def test_the_drawing_is_xml_with_every_row_and_mean() -> None:
    odd = Row('a<b>&"c', table.CALLS, {QEMU: Cell(1.0), VPOD: Cell(0.5)})
    root = ElementTree.fromstring(drawing(Result((*RESULT.rows, odd))))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"fast", "slow", "broken", 'a<b>&"c', "integer arithmetic", "8.00", "1/2", "8"} <= set(texts)
    assert "64" not in texts


def test_each_mark_is_where_its_speed_is_on_the_axis() -> None:
    root = ElementTree.fromstring(drawing(RESULT))
    name = "{http://www.w3.org/2000/svg}"
    scale = Scale.around([0.5, 8.0])
    assert (scale.least, scale.most, Scale.around([])) == (-1, 3, Scale(0, 1))
    assert scale.x(2.0) - scale.x(1.0) == pytest.approx(scale.x(8.0) - scale.x(4.0))
    bars = [each for each in root.iter(f"{name}rect") if each.get("fill") == "#1a7f5a"][1:]  # behind the legend's
    assert [float(bar.get("width", "")) for bar in bars] == [
        pytest.approx(scale.x(speed) - scale.x(1.0), abs=0.1) for speed in (4.0, 1.0, 2.0, 8.0)
    ]
    circles = [float(each.get("cx", "")) for each in root.iter(f"{name}circle")][1:]
    assert set(circles) == {round(scale.x(0.5), 1)}


# The command


def test_the_command_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--qemu", "/there/is/none"]) == 125
    assert "/there/is/none does not run" in capsys.readouterr().err
    assert compare.main(["--only", "nothing"]) == 125
    assert "there is no program nothing" in capsys.readouterr().err
    assert compare.main(["--plot", "/there/is/none/x.svg"]) == 125
    assert "there is no folder /there/is/none" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        compare.main(["--rounds", "0"])
    with pytest.raises(SystemExit, match="2"):
        compare.main(["--engine", "kvm"])
    assert "there is no engine 'kvm'; those there are: native, QEMU, interpreter, vpod" in capsys.readouterr().err
    assert compare.parser().parse_args(["--engine", "qemu", "--engine", "vpod"]).engine == [QEMU, VPOD]


# benchmarks.start

SMAPS = """\
7f0000000000-7f0010000000 rw-p 00000000 08:01 1234                       /home/x/expanded/ab.ram
Size:             262144 kB
Rss:               20000 kB
Private_Clean:     17000 kB
Private_Dirty:      3000 kB
Anonymous:          3000 kB
VmFlags: rd wr mr mw me ac sd
7f0020000000-7f0020001000 r-xp 00000000 08:01 99                         /usr/lib/libc.so.6
Rss:                1500 kB
Anonymous:             0 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                 100 kB
Anonymous:           100 kB
7ffc00030000-7ffc00031000 rw-p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             4 kB
"""


@pytest.mark.parametrize("suffix", ["", " (deleted)"])
def test_clean_pages_of_the_snapshot_are_not_the_workers_own(suffix: str) -> None:
    smaps = SMAPS.replace("ab.ram", "ab.ram" + suffix)
    resident, beyond, written = start.memory(smaps, "/home/x/expanded/ab.ram")
    assert (resident >> 10, beyond >> 10, written >> 10) == (21604, 4604, 3000)
    assert start.memory(smaps, "/home/x/expanded/other.ram") == (resident, resident, 0)


def test_a_limit_is_for_the_median() -> None:
    assert start.Figure("s", "w", "ms", (1.0, 2.0, 300.0), limit=100.0).kept
    assert not start.Figure("s", "w", "ms", (1.0, 200.0, 300.0), limit=100.0).kept
    assert start.Figure("s", "w", "ms", (5.0,)).kept
    assert start.table([start.Figure("s", "w", "ms", (200.0,), 100.0)]).row_count == 1
    assert start.Figure("s", "w", "", (2.5,), least=2.0).kept and not start.Figure("s", "w", "", (1.9,), least=2.0).kept
    assert start.Figure("s", "w", "", (1.9,), least=2.0).wanted() == "[red]missed[/] at least 2"
    assert start.Figure("s", "w", "ms", (1.0,), 5.0).wanted() == "5 ms"


def test_translation_is_chosen_for_new_sandboxes_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPOD_JIT", raising=False)
    for engine, value in ((INTERPRETER, "0"), (VPOD, "1")):
        with start._translation(engine):
            assert os.environ["VPOD_JIT"] == value
        assert "VPOD_JIT" not in os.environ
    monkeypatch.setenv("VPOD_JIT", "force")
    with pytest.raises(ZeroDivisionError), start._translation(VPOD):
        raise ZeroDivisionError
    assert os.environ["VPOD_JIT"] == "force"


def test_every_call_is_timed() -> None:
    calls: list[int] = []
    assert len(start.timed(4, lambda: calls.append(1))) == len(calls) == 4


@pytest.mark.parametrize("kernels", [("debian-stock",), ("debian-stock", "lean")])
def test_a_build_that_fetched_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: tuple[str, ...]
) -> None:
    target, downloads = tmp_path / "x.snap", iter([set(), {"sha256-1"}, {"sha256-1"}, {"sha256-1"}])
    builds: list[tuple[str, str]] = []

    def build_once(recipe: str, target: Path, key: str) -> float:
        builds.append((recipe, key))
        target.write_bytes(bytes(1_000_000 if key == "lean" else 2_000_000))
        return float(len(builds))

    monkeypatch.setattr(start, "kernels", lambda: kernels)
    monkeypatch.setattr(start, "_downloads", lambda: next(downloads))
    monkeypatch.setattr(start, "_build_once", build_once)
    time, size, *lean = start.build("alpine-3.23", target)
    assert builds == [("alpine-3.23", key) for key in (kernels[0], *kernels)]
    assert (time.values, size.values) == ((2.0,), (2.0,))
    assert (time.limit, size.limit) == (15.0, 40.0)
    assert [(each.values, each.limit) for each in lean] == [((3.0,), 15.0), ((1.0,), 40.0), ((0.5,), 0.6)][: len(lean)]
    assert len(lean) == 3 * (len(kernels) - 1)


def test_a_guest_without_a_prompt_is_an_error_that_shows_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "BOOT_PATIENCE", 0.1)
    silent = guest.Bare("6.0-mute", assemble("j .").code, b"", b"")
    with pytest.raises(BenchmarkError, match=r"6\.0-mute: no prompt, but time; the last heard: b''"):
        start.boot(silent)


def test_an_empty_home_is_told_what_to_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path))
    assert start.main([]) == 125
    assert "pass --build alpine-3.23" in capsys.readouterr().err


# Whole runs

CROSS = "riscv64-linux-gnu-gcc"


@pytest.mark.skipif(not shutil.which(engines.QEMU_PROGRAM), reason=f"{engines.QEMU_PROGRAM} is not installed")
@pytest.mark.skipif(not shutil.which(CROSS), reason=f"{CROSS} is not installed")
def test_every_engine_gives_the_same_answers(
    alpine_build: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With GNU's compiler instead of ziglang's, which only those who measure need; `alpine_build` has the sources."""
    monkeypatch.setattr(compare, "guest_compiler", lambda: [CROSS, "-static", *table.FLAGS])
    record_path, plot_path = tmp_path / "result.json", tmp_path / "result.svg"
    monkeypatch.setattr(guest, "SETTLE", 0)
    names = ("sh", "fft", "pystart")
    only = [word for name in names for word in ("--only", name)]
    assert compare.main(["--rounds", "1", *only, "--json", str(record_path), "--plot", str(plot_path)]) == 0
    assert "CPython and its start" in capsys.readouterr().out
    record = json.loads(record_path.read_text())
    for each in record["rows"]:
        assert each["error"] is None and each["engines"][VPOD]["instructions"] > 1e6
        assert each["speed"][VPOD] > 0 and each["speed"][INTERPRETER] > 0
        assert (NATIVE in each["engines"]) == (each["name"] == "fft")
    for engine in (QEMU, INTERPRETER, VPOD):
        (found,) = record["samples"][engine]
        assert found.keys() == set(names)
        for name, answer in ((name, by_name()[name].output) for name in names):
            assert answer is None or found[name]["digest"] == digest(answer.encode())
    ElementTree.parse(plot_path)


@pytest.mark.parametrize("translator", [None, {"bytes": 8, "nanoseconds": 2}])
def test_an_interpreter_that_translates_is_no_interpreter(
    translator: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vpod's process is told by VPOD_JIT what to do, and tells what it did."""

    def vpod(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        told = {"ended": "poweroff", "done": True, "console": "", "samples": {}, "translator": translator}
        environments.append(env["VPOD_JIT"])
        return subprocess.CompletedProcess(command, 0, json.dumps(told), "")

    environments: list[str] = []
    monkeypatch.setattr(subprocess, "run", vpod)
    none = Guest(tmp_path, 64 << 20, "none")
    assert engines.run_vpod(none, [], 1.0).translator == translator
    if translator is None:
        assert engines.run_vpod(none, [], 1.0, INTERPRETER).samples == {}
    else:
        with pytest.raises(BenchmarkError, match="translated in spite of VPOD_JIT=0"):
            engines.run_vpod(none, [], 1.0, INTERPRETER)
    assert environments == ["1", "0"]


def test_an_engine_whose_guest_does_not_come_up_shows_its_console(tmp_path: Path) -> None:
    none = Guest(tmp_path, 64 << 20, "none")
    for path in (none.firmware, none.kernel, none.initrd):
        path.write_bytes(bytes(1 << 12))
    with pytest.raises(BenchmarkError, match="interpreter"):
        engines.run_vpod(none, ["crc"], 0.2, INTERPRETER)


def test_a_real_sandbox_is_measured(alpine: str) -> None:
    figures = start.start(alpine, "it", times=3)
    assert [each.what for each in figures][:3] == [
        "create, first command: once",
        "create, first command: again",
        'commands.run("true") again',
    ]
    assert figures[-1].what == "vpod run -- true"
    assert all(each.snapshot == "it" and min(each.values) > 0 for each in figures)


def test_python_is_started_in_new_sandboxes_with_translation_and_without(
    debian: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[str | None] = []
    create = Sandbox.create

    def noted(name: str) -> Sandbox:
        created.append(os.environ.get("VPOD_JIT"))
        return create(name)

    monkeypatch.setattr(Sandbox, "create", noted)
    slow, fast, ratio = start.python_after_restore(debian, "it", times=2)
    assert created == ["0", "1", "0", "1"]
    assert ratio.values == tuple(a / b for a, b in zip(slow.values, fast.values, strict=True))
    assert ratio.least == 2.0 and min(fast.values) > 1
