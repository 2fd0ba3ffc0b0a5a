"""Single faults put into the core on purpose: each must be noticed by something that the short form runs.

    python -m tests.proof.mutations [--only WORD ...] [--jobs 2] [--quick] [--write]

The checkout is copied and built once, without optimisation; every catcher must pass there, or catching would prove
nothing. Then each mutation of `mutants.py` gets a copy of that, in which only what depends on the changed file is built
again. Its catcher runs first; if that notices nothing, the directed tests that the target `builds` runs, then the other
targets' short forms. A run that crashes, hangs or doesn't come up counts as noticed, as a piece that ends so is a
difference of the proof; a mutation that doesn't build is a fault of this list. `--write` puts the table into
docs/mutations.md.

Exit codes: 0 all were noticed; 1 one was not; 2 usage.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.proof import mutants, mutants_translator
from tests.proof.builds import (
    ROOT,
    TRANSLATOR,
    build_core,
    copy_checkout,
    environment_of,
    files,
    run_piece,
    run_tests,
    selected,
)
from tests.proof.mutants import Mutation
from tests.proof.pieces import Piece

MUTATIONS = (*mutants.MUTATIONS, *mutants_translator.MUTATIONS)
PAGE = ROOT / "docs" / "mutations.md"
OTHERS = ("user", "privileged", "floats", "encodings", "hostile", "tiers")  # targets that look at the core
SECONDS = 300  # that a catcher may take, several times what it needs: a mutant that loops for ever is noticed then
HEAD = """# Mutations: faults that the proof notices

Each row is one fault put into the core on purpose, built, and given to what the short form of `python -m tests.proof`
runs (its target `builds` runs the directed tests), or, if it is the encoder's, to `tests/test_x86.py`: the last column
is the first test that failed, or how the run ended.
Made by `python -m tests.proof.mutations --write`; the changes themselves are in `tests/proof/mutants.py`.

"""


@dataclass(frozen=True)
class Result:
    """What noticed a mutation, empty if nothing did, and after how many seconds, building included."""

    mutation: Mutation
    noticed_by: str
    seconds: float


# ---- one mutation --------------------------------------------------------------------------------------------------


def apply(mutation: Mutation, folder: Path) -> None:
    """Change the file in `folder`. ValueError unless what is to be changed is there exactly once."""
    path = folder / mutation.file
    text = path.read_text()
    times = text.count(mutation.before)
    if times != 1:
        raise ValueError(f"{mutation.name}: {times} times in {mutation.file}: {mutation.before!r}")
    path.write_text(text.replace(mutation.before, mutation.after))


def environment_in(folder: Path, tier: str) -> dict[str, str]:
    return {**environment_of(folder, ""), "VPOD_JIT": tier}


def first_failure(folder: Path, tests: Sequence[str], tier: str, seconds: int) -> str:
    """What `tests` notice first of the core in `folder`: a test's name or how they ended; empty if all pass."""
    what = " ".join(tests) if len(tests) < 3 else "the directed tests"
    try:
        outcome = run_tests(folder, environment_in(folder, tier), tests, "-x", seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"{what}: not done after {seconds} s"
    if not outcome.differences:
        return ""
    told = outcome.differences[0].removeprefix("tests.").partition(": ")
    return told[0] if "::" in told[0] else f"{what}: {told[0].splitlines()[0]}"


def notice(folder: Path, catcher: str, tier: str) -> str:
    """What `catcher`, test files or a piece, notices of the core in `folder`; empty if nothing."""
    if catcher.startswith("tests/"):
        return first_failure(folder, catcher.split(), tier, SECONDS)
    target, *arguments = catcher.split()
    piece = Piece(target, dict(argument.split("=") for argument in arguments), SECONDS)
    try:
        outcome = run_piece(folder, environment_in(folder, tier), piece)
    except subprocess.TimeoutExpired:
        return f"{catcher}: not done after {SECONDS} s"
    if not outcome.differences:
        return ""
    told = outcome.differences[0].splitlines()[0]  # which begins with the piece's command
    return told.removeprefix("piece ")[:160]


def short_form(folder: Path) -> str:
    """What the short forms of the other targets notice."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof", "--short", "--patience", "1", "--jobs", "1", "--only", *OTHERS],
        cwd=folder,
        env=environment_of(folder, ""),
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("[") and not line.endswith("s: ok")]
    found = [line for line in found if ": ok, " not in line]
    return f"python -m tests.proof: {found[0]}" if done.returncode and found else ""


def attempt(mutation: Mutation, base: Path, quick: bool = False) -> Result:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vpod-mutant-") as name:
        folder = Path(name).resolve() / "checkout"
        shutil.copytree(base, folder, symlinks=True)
        apply(mutation, folder)
        build_core(folder, ["VPOD_QUICK"])
        noticed = notice(folder, mutation.catcher, mutation.tier)
        if not quick:
            noticed = noticed or (
                first_failure(folder, selected(folder, "coverage", "short"), mutation.tier, 4 * SECONDS)
                or first_failure(folder, files(folder, TRANSLATOR), mutation.tier, 4 * SECONDS)
                or short_form(folder)
            )
    return Result(mutation, noticed, time.monotonic() - start)


def prepare(folder: Path, mutations: Sequence[Mutation]) -> None:
    """A built checkout in `folder` whose catchers all pass. RuntimeError with what fails otherwise."""
    copy_checkout(folder)
    build_core(folder, ["VPOD_QUICK"])
    for catcher, tier in sorted({(mutation.catcher, mutation.tier) for mutation in mutations}):
        if failure := notice(folder, catcher, tier):
            raise RuntimeError(f"a catcher fails without any mutation: {failure}")


# ---- the command ---------------------------------------------------------------------------------------------------


def page(results: Sequence[Result]) -> str:
    """The text of docs/mutations.md."""
    rows = [f"| {one.mutation.name} | `{one.mutation.file}` | `{one.noticed_by or 'nothing'}` |" for one in results]
    noticed = sum(bool(result.noticed_by) for result in results)
    table = ["| the fault | in | noticed by |", "|---|---|---|", *rows]
    return f"{HEAD}{noticed} of {len(results)} are noticed.\n\n" + "\n".join(table) + "\n"


def show(results: Sequence[Result]) -> None:
    table = Table("fault", "file", "noticed by", "s", title="mutations of the core")
    for result in results:
        table.add_row(
            result.mutation.name, result.mutation.file, result.noticed_by or "[bold]nothing[/]", f"{result.seconds:.0f}"
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.proof.mutations", description="Put faults into the core.")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="mutations with one of these in their name or file")
    parser.add_argument("--jobs", type=int, default=2, help="mutations at a time; 2 by default")
    parser.add_argument("--quick", action="store_true", help="ask the catchers only, and not all of the short form")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}; with all of them only")
    options = parser.parse_args(arguments)
    if options.write and options.only:
        parser.error("--write needs all mutations, so it takes no --only")
    wanted = [m for m in MUTATIONS if not options.only or any(word in m.name + m.file for word in options.only)]
    if not wanted:
        parser.error("no mutation is called so")
    with tempfile.TemporaryDirectory(prefix="vpod-mutations-") as name:
        base = Path(name).resolve() / "checkout"
        base.mkdir()
        prepare(base, wanted)
        results = []
        with ThreadPoolExecutor(options.jobs) as pool:
            for result in pool.map(lambda mutation: attempt(mutation, base, options.quick), wanted):
                results.append(result)
                noticed = result.noticed_by or "NOT NOTICED"
                print(f"{result.mutation.name}: {noticed} ({result.seconds:.0f} s)", flush=True)
    show(results)
    if options.write:
        PAGE.write_text(page(results))
    return int(not all(result.noticed_by for result in results))


if __name__ == "__main__":
    sys.exit(main())
