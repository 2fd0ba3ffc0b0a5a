"""The parts of the benchmarks: the programs' answers, what is heard on a console, the arithmetic. No timing."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from benchmarks import BenchmarkError, engines, interpreter, start
from benchmarks import programs as table
from benchmarks.listener import MAX_LINE, Listener, Meters, Sample
from benchmarks.programs import PROGRAMS, by_name, chosen, digest
from benchmarks.report import NATIVE, QEMU, VPOD, Result, Row, geometric_mean, row
from tests.real_snapshots import Made

COMPILED = [program for program in PROGRAMS if program.compiled]
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
    assert by_name()["crc"].output == f"crc {zlib.crc32(BYTES * 1200):016x}\n"
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
    samples = engines.run_native(native, programs, timeout=60)
    assert [samples[program.name].digest for program in programs] == [
        digest((program.output or "").encode()) for program in programs
    ]


def test_a_native_run_that_hangs_is_ended(native: Path) -> None:
    slow = table.Program("slow", ("sleep", "100"), compiled=True)
    with pytest.raises(BenchmarkError, match="not done after 0 s"):
        engines.run_native(native, [slow], timeout=0.3)


@pytest.mark.parametrize(("data", "known"), [(b"", "cbf29ce484222325"), (b"foobar", "85944171f73967e8")])
def test_the_digest_is_fnv_1a(data: bytes, known: str) -> None:
    assert digest(data) == known


def test_an_unknown_program_is_named() -> None:
    with pytest.raises(BenchmarkError, match="no program nbdy; those there are: crc, "):
        chosen(["nbdy"])
    assert [program.name for program in chosen(["awk", "crc"])] == ["crc", "awk"]


def test_a_failing_compiler_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"compiling stopwatch\.c failed"):
        table.build(tmp_path, ["false"], PROGRAMS)


# What is heard on a console


def test_a_sample_is_heard_in_pieces_between_other_lines() -> None:
    moments = iter([Meters(1.0, 100), Meters(3.5, 700)])
    heard = Listener(["crc"], lambda: next(moments))
    console = (
        b"[ 1.0] a kernel line\r\nBENCH begin crc\r\n[ 2.0] another\r\nBENCH end crc 1500000000 0 0123456789abcdef\r\n"
    )
    for position in range(len(console)):
        heard.feed(console[position : position + 1])
    assert heard.samples == {"crc": Sample("crc", 1.5, 0, "0123456789abcdef", 2.5, 600)}
    assert not heard.done
    heard.feed(b"BENCH done\r\n")
    assert heard.done


@pytest.mark.parametrize(
    "line",
    [
        b"BENCH end crc 1500000000 0 0123456789abcdef",  # without a begin
        b"BENCH begin crc\nBENCH end sort 1 0 0123456789abcdef",
        b"BENCH begin crc\nBENCH end crc -1 0 0123456789abcdef",
        b"BENCH begin crc\nBENCH end crc 1 0 0123456789abcde",
        b"BENCH begin crc\nBENCH end crc 1 0 0123456789abcdef and more",
        b"BENCH begin crc\nBENCH end crc " + b"9" * 4000 + b" 0 0123456789abcdef",
        b"BENCH begin other\nBENCH end other 1 0 0123456789abcdef",
    ],
)
def test_a_line_that_is_not_quite_right_is_no_sample(line: bytes) -> None:
    heard = Listener(["crc", "sort"])
    heard.feed(line + b"\n")
    assert heard.samples == {}


def test_a_console_that_floods_is_not_kept() -> None:
    heard = Listener(["crc"])
    for _ in range(40):
        heard.feed(b"x" * (1 << 16))
    assert len(heard._partial) <= MAX_LINE and len(heard.tail) <= 4096


# The arithmetic


def samples(name: str, *runs: tuple[float, float | None], code: int = 0, answer: str = "a") -> list[dict[str, Sample]]:
    """Rounds of one program: (seconds, CPU seconds) of each."""
    return [{name: Sample(name, clock, code, digest(answer.encode()), cpu, 2_000_000_000)} for clock, cpu in runs]


PLAIN = table.Program("it", ("./it",), compiled=True)


def test_a_row_has_medians_ratios_and_a_rate() -> None:
    found = row(
        PLAIN,
        {
            NATIVE: samples("it", (0.1, None), (0.3, None), (0.2, None)),
            QEMU: samples("it", (1.0, 0.5), (9.0, 0.5), (2.0, 0.5)),
            VPOD: samples("it", (8.0, 2.0), (4.0, 2.0), (5.0, 2.0)),
        },
    )
    assert (found.native, found.qemu, found.vpod, found.error) == (0.2, 2.0, 5.0, None)
    assert (found.ratio, found.cpu_ratio, found.mips) == (0.4, 0.25, 400.0)


def test_a_row_without_a_native_busybox_has_no_native_time() -> None:
    program = table.Program("it", ("busybox", "it"))
    found = row(program, {NATIVE: [{}], QEMU: samples("it", (1.0, 1.0)), VPOD: samples("it", (2.0, 2.0))})
    assert (found.native, found.ratio, found.error) == (None, 0.5, None)


def test_a_wrong_answer_is_an_error_and_no_ratio() -> None:
    good, bad = samples("it", (1.0, 1.0)), samples("it", (1.0, 1.0), answer="b")
    assert "vpod: printed something else" in (row(PLAIN, {NATIVE: good, QEMU: good, VPOD: bad}).error or "")
    assert "QEMU: printed something else" in (row(PLAIN, {NATIVE: good, QEMU: bad, VPOD: bad}).error or "")
    known = table.Program("it", ("./it",), output="b", compiled=True)
    found = row(known, {NATIVE: good, QEMU: good, VPOD: good})
    assert "native: printed something else" in (found.error or "") and found.ratio is None


def test_another_build_of_a_tool_may_print_something_else_but_the_guests_may_not() -> None:
    gzip = table.Program("it", ("busybox", "it"), exact=False)
    a, b = samples("it", (1.0, 1.0)), samples("it", (1.0, 1.0), answer="b")
    assert row(gzip, {NATIVE: b, QEMU: a, VPOD: a}).error is None
    assert "vpod: printed" in (row(gzip, {NATIVE: a, QEMU: a, VPOD: b}).error or "")


def test_a_failure_or_a_missing_run_is_an_error() -> None:
    good = samples("it", (1.0, 1.0))
    assert (
        row(PLAIN, {NATIVE: good, QEMU: good, VPOD: samples("it", (1.0, 1.0), code=139)}).error == "vpod: exit code 139"
    )
    assert row(PLAIN, {NATIVE: good, QEMU: [{}], VPOD: good}).error == "QEMU: ran 0 times of 1"


def test_the_geometric_mean() -> None:
    assert geometric_mean([0.1, 0.4]) == 0.2
    assert geometric_mean([3.0]) == 3.0
    assert geometric_mean([]) is None


def test_the_result_has_the_mean_the_worst_and_the_share_of_the_cpu() -> None:
    result = Result(
        (
            Row("fast", 0.1, 1.0, 2.0, 0.9, 2.0, 1e9),
            Row("slow", 0.1, 1.0, 8.0, 0.9, 6.0, 1e9),
            Row("broken", error="vpod: exit code 1"),
        )
    )
    assert result.mean == 0.25 and result.worst is not None and result.worst.name == "slow"
    assert [each.name for each in result.errors] == ["broken"]
    assert result.shares() == {QEMU: 0.9, VPOD: 0.8}
    record = result.record()
    assert (record["geometric_mean"], record["worst"], record["rows"][1]["ratio"]) == (0.25, "slow", 0.125)
    assert result.table().row_count == 5


def test_a_result_of_errors_alone_has_no_mean() -> None:
    result = Result((Row("broken", error="x"),))
    assert (result.mean, result.worst, result.shares()) == (None, None, {})
    assert result.table().row_count == 2


def test_the_command_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert interpreter.main(["--qemu", "/there/is/none"]) == 125
    assert "/there/is/none does not run" in capsys.readouterr().err
    assert interpreter.main(["--only", "nothing"]) == 125
    assert "there is no program nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        interpreter.main(["--rounds", "0"])


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


def test_every_call_is_timed() -> None:
    calls: list[int] = []
    assert len(start.timed(4, lambda: calls.append(1))) == len(calls) == 4


def test_a_build_that_fetched_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target, downloads = tmp_path / "x.snap", iter([set(), {"sha256-1"}])
    builds: list[str] = []

    def build_once(recipe: str, target: Path) -> float:
        builds.append(recipe)
        target.write_bytes(bytes(2_000_000))
        return float(len(builds))

    monkeypatch.setattr(start, "_downloads", lambda: next(downloads))
    monkeypatch.setattr(start, "_build_once", build_once)
    time, size = start.build("alpine-3.23", target)
    assert builds == ["alpine-3.23"] * 2 and (time.values, size.values) == ((2.0,), (2.0,))
    assert (time.limit, size.limit) == (60.0, 40.0)


def test_an_empty_home_is_told_what_to_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path))
    assert start.main([]) == 125
    assert "pass --build alpine-3.23" in capsys.readouterr().err


# Whole runs

CROSS = "riscv64-linux-gnu-gcc"


@pytest.mark.skipif(not shutil.which(engines.QEMU), reason=f"{engines.QEMU} is not installed")
@pytest.mark.skipif(not shutil.which(CROSS), reason=f"{CROSS} is not installed")
def test_every_engine_gives_the_same_answers(
    alpine_build: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With GNU's compiler instead of ziglang's, which only those who measure need; `alpine_build` has the sources."""
    monkeypatch.setattr(interpreter, "guest_compiler", lambda: [CROSS, "-static", *table.FLAGS])
    path = tmp_path / "result.json"
    assert interpreter.main(["--rounds", "1", "--only", "nbody", "--only", "sh", "--json", str(path)]) == 0
    assert "geometric mean" in capsys.readouterr().out
    record = json.loads(path.read_text())
    for each in record["rows"]:
        assert each["error"] is None and each["ratio"] > 0 and each["instructions"] > 1e6
    for engine in (QEMU, VPOD):
        (samples,) = record["samples"][engine]
        assert {name: sample["digest"] for name, sample in samples.items()} == {
            name: digest((by_name()[name].output or "").encode()) for name in ("nbody", "sh")
        }


def test_a_real_sandbox_is_measured(alpine: str) -> None:
    figures = start.start(alpine, "it", times=3)
    assert [each.what for each in figures][:3] == [
        "create, first command: once",
        "create, first command: again",
        'commands.run("true") again',
    ]
    assert figures[-1].what == "vpod run -- true"
    assert all(each.snapshot == "it" and min(each.values) > 0 for each in figures)
