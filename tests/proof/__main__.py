"""The command: see `python -m tests.proof --help` and docs/design/proof.md.

Exit codes: 0 every difference is explained and every target compared at least what its form asks for; 1 otherwise;
2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.proof.pieces import Form, Outcome, Piece
from tests.proof.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
VPOD_JIT = {"off": "0", "on": "1", "force": "force"}  # what each tier is called in the environment
SHOWN = 10  # differences a target that are printed whole


def with_tier(piece: Piece) -> list[str]:
    """The arguments that run the piece, in its tier if it has one."""
    return [*(("--tier", piece.tier) if piece.tier else ()), *piece.command()]


def all_pieces(form: Form, names: Sequence[str], seed: int, tier: str | None) -> list[Piece]:
    """The targets' pieces: in `tier`, or else in both by turns, as the target says."""
    return [
        replace(piece, tier=tier or ("force" if translates(number, piece) else "off")) if translates else piece
        for name in names
        for translates in (TARGETS[name].translates,)
        for number, piece in enumerate(TARGETS[name].module.pieces(form, seed))
    ]


def run_piece(piece: Piece) -> Outcome:
    """Run `piece` in a process of its own; however that ends, there is an outcome."""
    command = [sys.executable, "-m", "tests.proof", *with_tier(piece)]
    again = " ".join(["python", *command[1:]])
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=piece.seconds, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return Outcome(differences=(f"not done after {piece.seconds} s: {again}",))
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        return Outcome(differences=(f"ended with {done.returncode}: {again}\n{tail}",))
    outcome = Outcome.from_json(done.stdout.splitlines()[-1])
    told = tuple(f"{difference}\nagain: {again}" for difference in outcome.differences)
    return Outcome(outcome.counts, told, outcome.explained, outcome.missing)


def run_all(pieces: Sequence[Piece], jobs: int, patience: int | None) -> Iterator[tuple[Piece, Outcome, float]]:
    """The pieces' outcomes with the seconds each took, as they come; stops handing out after `patience` differences."""
    found = 0

    def timed(piece: Piece) -> tuple[Piece, Outcome, float] | None:
        if patience is not None and found >= patience:
            return None
        start = time.monotonic()
        return piece, run_piece(piece), time.monotonic() - start

    with ThreadPoolExecutor(jobs) as pool:
        futures: list[Future[tuple[Piece, Outcome, float] | None]] = [pool.submit(timed, piece) for piece in pieces]
        for future in futures:
            if (result := future.result()) is not None:
                found += len(result[1].differences)
                yield result


def shortfalls(target: Target, form: Form, outcome: Outcome) -> list[str]:
    """What `outcome` lacks of what the form asks for."""
    lacks = [
        f"{unit}: {outcome.counts.get(unit, 0):,} of at least {least:,}"
        for unit, least in target.least.get(form, {}).items()
        if outcome.counts.get(unit, 0) < least
    ]
    return lacks + ([f"never reached: {', '.join(outcome.missing)}"] if outcome.missing else [])


def prove(form: Form, names: Sequence[str], seed: int, jobs: int, patience: int | None, tier: str | None = None) -> int:
    """Run the targets, print the table; the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    pieces = all_pieces(form, names, seed, tier)
    outcomes = dict.fromkeys(names, Outcome())
    seconds = dict.fromkeys(names, 0.0)
    start = time.monotonic()
    for done, (piece, outcome, took) in enumerate(run_all(pieces, jobs, patience), 1):
        outcomes[piece.target] += outcome
        seconds[piece.target] += took
        word = f"{len(outcome.differences)} differences" if outcome.differences else "ok"
        told = f", tier {piece.tier}" if piece.tier else ""
        console.print(
            f"[{done}/{len(pieces)}] {' '.join(piece.command()[1:])}{told}: {word}, {took:.1f} s", markup=False
        )
    table = Table("target", "against", "compared", "explained", "unexplained", "CPU s", title=f"the proof, {form} form")
    failed = False
    for name in names:
        outcome, target = outcomes[name], TARGETS[name]
        lacks = shortfalls(target, form, outcome)
        failed |= bool(lacks or outcome.differences)
        table.add_row(
            name,
            target.oracle,
            "\n".join(f"{count:,} {unit}" for unit, count in outcome.counts.items()),
            "\n".join(f"{count:,} {reason}" for reason, count in outcome.explained.items()),
            "\n".join([str(len(outcome.differences)), *lacks]),
            f"{seconds[name]:.0f}",
        )
        for difference in outcome.differences[:SHOWN]:
            console.print(f"\n{name}: {difference}", markup=False)
    console.print(table)
    console.print(f"{'FAILED' if failed else 'proved'} in {time.monotonic() - start:.0f} s, seed {seed}")
    return int(failed)


def piece(target: str, arguments: Sequence[str]) -> int:
    """One piece alone, its outcome as JSON on the last line."""
    pairs = [argument.partition("=") for argument in arguments]
    values = {name: int(text) if text.lstrip("-").isdigit() else text for name, _, text in pairs}
    print(TARGETS[target].module.run(**values).to_json())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.proof", description="Compare vpod's machine with others.")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", dest="form", action="store_const", const="short", default="short", help="minutes")
    form.add_argument("--long", dest="form", action="store_const", const="long", help="an hour on two cores")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--seed", type=int, default=1, help="of everything random; 1 by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pieces at a time; one a core by default")
    parser.add_argument("--patience", type=int, metavar="N", help="stop after N differences")
    parser.add_argument("--tier", choices=list(VPOD_JIT), help="of the hart, where a target runs one: both by turns")
    commands = parser.add_subparsers(metavar="piece ...")
    one = commands.add_parser("piece", help="one piece, as printed beside its outcome")
    one.add_argument("target", choices=list(TARGETS))
    one.add_argument("arguments", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    try:
        if "target" in options:
            if options.tier:
                os.environ["VPOD_JIT"] = VPOD_JIT[options.tier]
            return piece(options.target, options.arguments)
        return prove(options.form, options.only, options.seed, options.jobs, options.patience, options.tier)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
