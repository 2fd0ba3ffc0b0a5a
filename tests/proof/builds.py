"""The core built in other ways, and the same tests on it: sanitizers, checks, coverage.

Each piece copies the checkout (what git tracks, and what it doesn't ignore) to a folder of its own, builds the core
there in one way, and runs tests, and in the long form pieces of the other targets, on that build:

    sanitize   AddressSanitizer and UBSan watch every access and every shift
    checked    Cython's bounds checks, and its checks of divisions, whose rounding is then Python's
    coverage   gcov counts the lines of the core: coverage.py says which must be reached

Invariants: the build that was asked for is the one that is imported, or the piece fails (`check_import`); nothing is
built in the checkout itself; a report of a sanitizer is a difference even when every test passes, since reports go to
files that no test sees; a test that is skipped was not run, so it is a difference too.

    python -m tests.proof piece builds build=sanitize part=tests form=short seed=1
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.proof import coverage
from tests.proof.pieces import Form, Outcome, Piece

ROOT = Path(__file__).parents[2]
REPORT = re.compile(rb"^.*(?:ERROR: AddressSanitizer|runtime error:).*$", re.MULTILINE)

CORE = ("tests/test_core_*.py", "tests/test_exec_fp.py")
AROUND = ("tests/test_devices_*.py", "tests/test_snapshot.py", "tests/test_bare.py")
SLOW = ("tests/test_isa.py", "tests/test_softfloat.py", "tests/test_fdt.py", "tests/test_elf.py")
ORACLES = ("tests/test_core_qemu.py",)  # what another target does at greater length

TIERS = ("0", "force")  # values of VPOD_JIT with which those tests run; in the short form, but for coverage, the first
TRANSLATOR = ("tests/test_translator*.py",)  # they choose their tiers themselves: once is enough


@dataclass(frozen=True)
class Build:
    """One way to build the core: the variables that setup.py reads, and words that only such a core contains."""

    variables: tuple[str, ...]
    traces: tuple[bytes, ...]
    without: tuple[str, ...] = ()  # tests that the short form leaves out


BUILDS = {
    "sanitize": Build(
        ("VPOD_SANITIZE", "VPOD_QUICK"),
        (b"__asan_init", b"__ubsan_handle"),
        (*ORACLES, "tests/test_snapshot.py", "tests/test_translator_floats.py"),
    ),
    "coverage": Build(("VPOD_COVERAGE", "VPOD_QUICK"), (b"__gcov_init",)),
    "checked": Build(
        ("VPOD_CHECKED",), (b"Out of bounds on buffer access", b"integer division or modulo by zero"), ORACLES
    ),
}


def borrowed(seed: int) -> Sequence[Piece]:
    """Pieces of the other targets that the long form runs on each build: short ones, since these builds are slow."""
    return [
        Piece("user", {"seed": seed, "first": 0, "programs": 1000}),
        Piece("privileged", {"seed": 1000 * seed, "programs": 1}),
        Piece("floats", {"kind": "cross", "operands": "singles", "arity": 2}),
        Piece("floats", {"kind": "cross", "operands": "doubles", "arity": 2}),
        Piece("encodings", {"sweep": "compressed", "contexts": "M+U"}),
        Piece("encodings", {"sweep": "csr", "contexts": "M+S"}),
        Piece("hostile", {"seed": seed, "first": 0, "sessions": 8}),
    ]


def both_tiers(build: str, form: Form, seed: int) -> Sequence[Piece]:
    """Pieces of the target `tiers` that belong to the tests: no test takes code from the translator, and moves it."""
    scenes = 60 if form == "long" else 16 if build == "coverage" else 6
    effort = 1_000_000
    return [
        Piece("tiers", {"kind": kind, "seed": seed, "first": 0, "scenes": scenes, "effort": effort}, 1200)
        for kind in ("rounds", "web", "episodes")
    ]


# ---- a checkout of one's own ---------------------------------------------------------------------------------------


def copy_checkout(target: Path) -> None:
    """The checkout's own files, committed or not, without anything that was built. RuntimeError if git can't say."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        raise RuntimeError(f"{ROOT} must be a git checkout: {os.fsdecode(listed.stderr).strip()}")
    for name in map(os.fsdecode, listed.stdout.split(b"\0")):
        source = ROOT / name
        if name and source.is_file():  # deleted files are still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def build_core(folder: Path, variables: Sequence[str]) -> None:
    """Build the extension modules in `folder`. RuntimeError with the compiler's words if that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VPOD_")}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**environment, "VPOD_AGENT": "skip", **dict.fromkeys(variables, "1")},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        told = done.stdout[-2000:] + done.stderr[-2000:]
        raise RuntimeError(f"the core with {', '.join(variables)} doesn't build:\n{told}")


def environment_of(folder: Path, build: str) -> dict[str, str]:
    """The variables with which a process imports the core of `folder`, and a sanitized one writes its reports there."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    if build == "sanitize":
        (folder / "reports").mkdir(exist_ok=True)
        log = f"log_path={folder}/reports/report"
        environment |= {
            "LD_PRELOAD": " ".join(library(name) for name in ("libasan.so", "libubsan.so")),
            "ASAN_OPTIONS": f"detect_leaks=0:{log}",  # Python keeps much to its end
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        }
    return environment


def library(name: str) -> str:
    """The path of one of gcc's libraries. RuntimeError if it has none."""
    command = ["gcc", f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(found):
        raise RuntimeError(f"gcc has no {name}: apt-get install gcc")
    return found


def check_import(folder: Path, build: str) -> None:
    """RuntimeError unless Python imports the core of `folder`, and that core is built as `build` says."""
    asked = [sys.executable, "-c", "import vpod._cpu; print(vpod._cpu.__file__)"]
    done = subprocess.run(
        asked, cwd=folder, env=environment_of(folder, build), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the {build} core can't be imported: {done.stderr.strip()}")
    core = Path(done.stdout.strip())
    if not core.is_relative_to(folder):
        raise RuntimeError(f"not the {build} core is imported but {core}")
    code = core.read_bytes()
    for trace in BUILDS[build].traces:
        if trace not in code:
            raise RuntimeError(f"{core} has no {trace.decode()}: it isn't built as {build}")


@contextmanager
def prepared(build: str) -> Iterator[Path]:
    """A folder with a copy of the checkout and a core that is built as `build` says."""
    with tempfile.TemporaryDirectory(prefix=f"vpod-{build}-") as name:
        folder = Path(name).resolve()
        copy_checkout(folder)
        build_core(folder, BUILDS[build].variables)
        check_import(folder, build)
        yield folder


# ---- tests and pieces there ----------------------------------------------------------------------------------------


def selected(folder: Path, build: str, form: Form) -> list[str]:
    """The test files to run, by their paths in `folder`."""
    return kept(folder, build, form, CORE + AROUND + (SLOW if form == "long" else ()))


def kept(folder: Path, build: str, form: Form, patterns: Sequence[str]) -> list[str]:
    """Those of the files that this form doesn't leave out on this build."""
    left_out = BUILDS[build].without if form == "short" else ()
    return [name for name in files(folder, patterns) if name not in left_out]


def files(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The paths of the files in `folder` that fit any of `patterns`, as seen from there."""
    return sorted(str(path.relative_to(folder)) for pattern in patterns for path in folder.glob(pattern))


def run_in(
    folder: Path, environment: Mapping[str, str], arguments: Sequence[str], seconds: float | None
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `folder`; what it says on stderr is kept where `reports` looks, if there is such a place.

    UBSan's reports go there: beside AddressSanitizer it doesn't heed its log_path.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds,
    )
    if (folder / "reports").is_dir():
        with (folder / "reports" / "report.stderr").open("a") as file:
            file.write(done.stderr)
    return done


def run_tests(
    folder: Path, environment: Mapping[str, str], tests: Sequence[str], *options: str, seconds: float | None = None
) -> Outcome:
    """`pytest` on `tests` in `folder`, guests left out: each failure, error, skip and early end is a difference.

    Raises subprocess.TimeoutExpired when that takes over `seconds`.
    """
    results = folder / "results.xml"
    results.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", "-m", "not guest", "--capture=sys", "-p", "no:cacheprovider"]
    command += [f"--junitxml={results}", "-W", "error::pytest.PytestUnraisableExceptionWarning", *options, *tests]
    done = run_in(folder, environment, command, seconds)
    if not results.exists():
        told = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        return Outcome(differences=(f"pytest ended with {done.returncode}:\n{told}",))
    outcome = read_results(results.read_text())
    if done.returncode not in (0, 1) or (done.returncode and not outcome.differences):
        return outcome + Outcome(differences=(f"pytest ended with {done.returncode}: {done.stderr.strip()[-1000:]}",))
    return outcome


def read_results(xml: str) -> Outcome:
    """The outcome that a JUnit report of pytest's tells.

    >>> read_results('<s><testcase classname="a" name="b"><skipped message="no"/></testcase></s>')
    Outcome(counts={'tests': 0}, differences=('a::b: skipped: no',), explained={}, missing=None)
    """
    cases = list(ElementTree.fromstring(xml).iter("testcase"))
    differences = [
        f"{case.get('classname')}::{case.get('name')}: {problem.tag}: {problem.get('message', '')[:500]}"
        for case in cases
        for problem in case
        if problem.tag in ("failure", "error", "skipped")
    ]
    passed = sum(not any(problem.tag in ("failure", "error", "skipped") for problem in case) for case in cases)
    return Outcome({"tests": passed}, tuple(differences))


def run_borrowed(folder: Path, environment: Mapping[str, str], seed: int) -> Outcome:
    return sum((run_piece(folder, environment, piece) for piece in borrowed(seed)), Outcome())


def run_piece(folder: Path, environment: Mapping[str, str], piece: Piece) -> Outcome:
    """One piece of another target on the core of `folder`; what it counts is this target's to report as pieces.

    Raises subprocess.TimeoutExpired when it takes over its seconds.
    """
    done = run_in(folder, environment, ["-m", "tests.proof", *piece.command()], piece.seconds)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        return Outcome(differences=(f"{' '.join(piece.command())} ended with {done.returncode}:\n{tail}",))
    found = Outcome.from_json(done.stdout.splitlines()[-1])
    return Outcome({"pieces": 1}, tuple(f"{' '.join(piece.command())}: {text}" for text in found.differences))


def reports(folder: Path) -> Outcome:
    """What the sanitizers wrote: each report is a difference. Their warnings about themselves are none."""
    texts = [path.read_bytes() for path in sorted((folder / "reports").glob("report*"))]
    found = [text[match.start() : match.start() + 3000] for text in texts for match in REPORT.finditer(text)]
    return Outcome({"sanitizer reports": len(found)}, tuple(os.fsdecode(text) for text in found))


# ---- the target ----------------------------------------------------------------------------------------------------


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    parts = ("tests",) if form == "short" else ("tests", "pieces")
    return [
        Piece("builds", {"build": build, "part": part, "form": form, "seed": seed}, seconds=1800)
        for part in parts
        for build in BUILDS
        if (build, part) != ("coverage", "pieces")  # its counts are of all that ran: one piece does both
    ]


def run(build: str, part: str, form: Form, seed: int) -> Outcome:
    with prepared(build) as folder:
        environment = environment_of(folder, build)
        outcome = Outcome()
        if part == "tests":
            for tier in TIERS if form == "long" or build == "coverage" else TIERS[:1]:
                outcome += run_tests(folder, {**environment, "VPOD_JIT": tier}, selected(folder, build, form))
            outcome += run_tests(folder, environment, kept(folder, build, form, TRANSLATOR))
            pressed = both_tiers(build, form, seed)
            outcome += sum((run_piece(folder, environment, piece) for piece in pressed), Outcome())
        if part == "pieces" or (build == "coverage" and form == "long"):
            outcome += run_borrowed(folder, environment, seed)
        if build == "sanitize":
            outcome += reports(folder)
        if build == "coverage":
            outcome += coverage.outcome(folder)
        return outcome
