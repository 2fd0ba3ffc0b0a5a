"""The target `builds` and the mutations: that each notices what it is for, without building the core again.

Whether the core itself passes is for `python -m tests.proof --only builds` to say, whether mutations are noticed for
`python -m tests.proof.mutations`; here their parts get small things made for the purpose.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from tests.proof import builds, coverage, mutations
from tests.proof.coverage import Counts, Excuse
from tests.proof.mutants import ENCODING, Mutation
from tests.proof.mutations import MUTATIONS
from tests.proof.pieces import Form, Outcome, Piece
from vpod import isa

ROOT = Path(__file__).parents[1]


# ---- mutations -----------------------------------------------------------------------------------------------------


def test_there_are_enough_mutations_each_of_another_name() -> None:
    assert len(MUTATIONS) >= 48 + 30
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert len({(mutation.file, mutation.before, mutation.after) for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_changes_one_place_and_has_a_catcher(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text().count(mutation.before) == 1
    assert mutation.before != mutation.after
    if mutation.catcher.startswith("tests/"):
        run = {*builds.selected(ROOT, "coverage", "short"), *builds.files(ROOT, builds.TRANSLATOR), ENCODING}
        assert {*mutation.catcher.split()} <= run, "the short form runs them, and the encoder's own"


def test_a_mutation_is_applied_once_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one two two")
    mutations.apply(Mutation("", "a", "one", "1", ""), tmp_path)
    assert (tmp_path / "a").read_text() == "1 two two"
    for before in ("two", "three"):
        with pytest.raises(ValueError, match="times in a"):
            mutations.apply(Mutation("wrong", "a", before, "2", ""), tmp_path)


def test_the_page_says_what_noticed_what_and_counts() -> None:
    seen = mutations.Result(MUTATIONS[0], "test_core_integer::test_a", 3)
    unseen = mutations.Result(MUTATIONS[1], "", 3)
    text = mutations.page([seen, unseen])
    assert "1 of 2 are noticed" in text
    assert f"| {MUTATIONS[0].name} | `{MUTATIONS[0].file}` | `test_core_integer::test_a` |" in text
    assert f"| {MUTATIONS[1].name} | `{MUTATIONS[1].file}` | `nothing` |" in text


# ---- tests that the target runs ------------------------------------------------------------------------------------

TESTS = {
    "passes": "def test_it(): pass",
    "fails": "def test_it(): assert False",
    "skips": "import pytest\ndef test_it(): pytest.skip('no oracle')",
    "ends": "import os\ndef test_it(): os.abort()",
    "can't be raised": "class A:\n    def __del__(self): 1 // 0\ndef test_it(): A()",
    "nothing": "",
}


@pytest.mark.parametrize("what", TESTS)
def test_whatever_is_no_passed_test_is_a_difference(tmp_path: Path, what: str) -> None:
    (tmp_path / "test_one.py").write_text(TESTS[what])
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["guest: none"]\n')
    outcome = builds.run_tests(tmp_path, builds.environment_of(tmp_path, ""), ["test_one.py"])
    if what == "passes":
        assert (outcome.counts, outcome.differences) == ({"tests": 1}, ())
    else:
        assert outcome.differences


@pytest.mark.parametrize(
    ("build", "form", "tiers"),
    [("checked", "short", ["0"]), ("coverage", "short", ["0", "force"]), ("sanitize", "long", ["0", "force"])],
)
def test_the_tests_run_in_both_tiers_and_the_translator_is_pressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, form: Form, tiers: list[str]
) -> None:
    """What no directed test does, tiny memories and evictions, pieces of the target `tiers` do on each build."""
    ran: list[str] = []

    def tests(folder: Path, environment: dict[str, str], names: list[str]) -> Outcome:
        ran.append(environment.get("VPOD_JIT", " ".join(names)))
        return Outcome({"tests": len(names)})

    def piece(folder: Path, environment: dict[str, str], wanted: Piece) -> Outcome:
        ran.append(f"{wanted.target} {wanted.arguments['kind']}")
        return Outcome({"pieces": 1})

    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_translator.py").touch()
    monkeypatch.setattr(builds, "prepared", lambda build: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(builds, "run_tests", tests)
    monkeypatch.setattr(builds, "run_piece", piece)
    monkeypatch.setattr(coverage, "outcome", lambda folder: Outcome())
    monkeypatch.setattr(builds, "reports", lambda folder: Outcome())
    assert builds.run(build, "tests", form, 1).counts["pieces"] == 3
    assert ran == [*tiers, "tests/test_translator.py", "tiers rounds", "tiers web", "tiers episodes"]


def test_another_core_than_the_one_that_was_built_is_refused(tmp_path: Path) -> None:
    """Nothing was built in this folder, so what is imported is the package's own core."""
    with pytest.raises(RuntimeError, match="not the checked core is imported"):
        builds.check_import(tmp_path, "checked")


def test_the_checkout_is_copied_without_what_was_built(tmp_path: Path) -> None:
    builds.copy_checkout(tmp_path)
    assert (tmp_path / "vpod" / "_cpu.pyx").read_bytes() == (ROOT / "vpod" / "_cpu.pyx").read_bytes()
    assert (tmp_path / "tests" / "proof" / "pieces.py").exists()
    assert not list(tmp_path.glob("vpod/*.so")) and not (tmp_path / "build").exists()


# ---- sanitizers ----------------------------------------------------------------------------------------------------

FAULTS = """
#include <stdlib.h>
int shift(int by) { return 1 << by; }
int beyond(int at) { char *p = malloc(8); char found = p[at]; free(p); return found; }
"""


@pytest.mark.parametrize(
    ("call", "word"), [("shift(40)", "runtime error: shift"), ("beyond(9)", "AddressSanitizer: heap-buffer-overflow")]
)
def test_what_a_sanitizer_reports_is_a_difference(tmp_path: Path, call: str, word: str) -> None:
    (tmp_path / "faults.c").write_text(FAULTS)
    library = tmp_path / "faults.so"
    flags = ["-fsanitize=address,undefined", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run(["gcc", *flags, str(tmp_path / "faults.c")], check=True)
    script = f"import ctypes; ctypes.CDLL({str(library)!r}).{call}"
    environment = builds.environment_of(tmp_path, "sanitize")
    assert builds.reports(tmp_path).differences == ()
    builds.run_in(tmp_path, environment, ["-c", script], None)
    (difference,) = builds.reports(tmp_path).differences
    assert word in difference
    assert builds.reports(tmp_path).counts == {"sanitizer reports": 1}


# ---- coverage ------------------------------------------------------------------------------------------------------


def records(*counts: tuple[int, int]) -> list[dict[str, int]]:
    return [{"line_number": number, "count": count} for number, count in counts]


def test_lines_are_summed_over_functions_and_glue_is_left_out() -> None:
    source = ["cdef f(a):", '    """Says what."""', "    return a", "from x cimport y"]
    assert coverage.executable(records((1, 1), (2, 0), (3, 0), (3, 2), (4, 0), (99, 0)), source) == {1: 1, 3: 2}


def test_lines_that_both_modules_have_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chapter that both include: what either of them reached was reached."""
    told = {
        "_cpu": [{"file": "vpod/_a.pxd", "lines": records((1, 0), (2, 3)), "functions": []}],
        "_jit": [
            {"file": "vpod/_a.pxd", "lines": records((1, 2), (3, 0)), "functions": []},
            {"file": "vpod/_jit.pyx", "lines": records((1, 1)), "functions": [{"name": "f", "execution_count": 4}]},
            {"file": "/usr/include/stdio.h", "lines": records((1, 1)), "functions": []},
        ],
    }
    monkeypatch.setattr(coverage, "asked", lambda folder, module: told[module])
    (tmp_path / "vpod").mkdir()
    (tmp_path / "vpod" / "_a.pxd").write_text("a\nb\nc\n")
    (tmp_path / "vpod" / "_jit.pyx").write_text("d\n")
    counts = coverage.read_counts(tmp_path)
    assert counts.lines == {"vpod/_a.pxd": {1: 2, 2: 3, 3: 0}, "vpod/_jit.pyx": {1: 1}}
    assert counts.functions == {"f": 4}


def test_what_leads_into_a_reached_line_was_reached() -> None:
    source = ["if a == 1:", "    b()", "elif a == 2:", "    c()"]
    assert coverage.executable(records((1, 1), (2, 0), (3, 0), (4, 1)), source) == {1: 1, 2: 0, 3: 1, 4: 1}


def counts_of(*lines: int, executed: int = 1) -> Counts:
    """A core of three lines that ran that often, whose arms are those of the real one."""
    names = ("vpod/_arms.pxd", "vpod/_decode.pxd", "vpod/_exec_fp.pxd")
    sources = {"vpod/a.pxd": ["a", "b", "c"], **{name: (ROOT / name).read_text().splitlines() for name in names}}
    all_of = {name: {n: executed for n in range(1, len(sources[name]) + 1)} for name in sources}
    arms = {f"{coverage.ARM}{op.removeprefix('do_')}": executed for op in ("do_addi", "do_lui")}
    return Counts({**all_of, "vpod/a.pxd": dict(enumerate(lines, 1))}, arms, sources)


def test_a_line_that_is_not_reached_is_a_difference_unless_it_is_excused() -> None:
    counts = counts_of(1, 0, 1)
    assert coverage.judge(counts, ()).differences == ("line 2 of vpod/a.pxd was never reached: b",)
    assert coverage.judge(counts, (Excuse("vpod/a.pxd", "b", "why"),)).differences == ()


@pytest.mark.parametrize("text", ["c", "gone"])
def test_an_excuse_for_a_line_that_is_reached_or_gone_is_a_difference(text: str) -> None:
    outcome = coverage.judge(counts_of(1, 1, 1), (Excuse("vpod/a.pxd", text, "why"),))
    assert outcome.differences == (f"an excuse that is not needed: vpod/a.pxd: {text}",)


def test_a_core_that_never_ran_lacks_lines_arms_and_rows() -> None:
    outcome = coverage.judge(counts_of(0, 0, 0, executed=0), ())
    assert any("less than 95 %" in text for text in outcome.differences)
    assert "an arm that never ran: do_addi" in outcome.differences
    assert outcome.missing == tuple(row.name for row in isa.BASE_ROWS)


def test_rows_are_missing_whose_arm_or_decoding_never_ran() -> None:
    outcome = coverage.judge(counts_of(1, 1, 1), ())
    assert outcome.missing is not None and "addi" not in outcome.missing and "fadd.s" not in outcome.missing
    assert "add" in outcome.missing, "its arm is not among those that ran"
