"""From samples to a table: medians, ratios, means of groups, what the project asks of them, what went wrong.

Why it exists: the arithmetic of a comparison is small and easily wrong, so it stands alone and is tested alone.

Invariants: a row has figures only if every run of it, on every engine that took part, exited with 0, printed what it
must, and took as long by the guest's clock as by the host's; otherwise it has an error, and no part in any mean.
`speed` above 1 means faster than what it is compared with; `slower` above 1 means slower.

>>> geometric_mean([0.1, 0.4])
0.2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.engines import INTERPRETER, NATIVE, QEMU, VPOD
from benchmarks.listener import Sample
from benchmarks.programs import (
    CALLS,
    CPYTHON,
    FLOATING,
    GROUPS,
    INDIRECT,
    INTEGER,
    MEMORY,
    SHELL,
    START,
    Group,
    Kind,
    Program,
    digest,
)

Runs = Mapping[str, Sequence[Mapping[str, Sample]]]  # for each engine that took part, the samples of each round
CLOCKS_APART = (0.1, 0.05)  # seconds, and share of the time, that the guest's clock and the host's may differ


@dataclass(frozen=True)
class Cell:
    """One program under one engine: medians over the rounds. `seconds` are the guest's, the others the host's view."""

    seconds: float
    host: float | None = None
    cpu: float | None = None
    instructions: float | None = None


@dataclass(frozen=True)
class Row:
    """One program under the engines that ran it."""

    name: str
    group: Group
    cells: Mapping[str, Cell] = field(default_factory=dict)
    error: str | None = None

    def speed(self, engine: str, against: str = QEMU, *, by: str = "seconds") -> float | None:
        """How many times as fast `engine` is, by the field `by` of `Cell`; None if either did not run it."""
        ours, theirs = (getattr(self.cells.get(each), by, None) for each in (engine, against))
        return theirs / ours if ours and theirs is not None else None

    def slower(self, engine: str, than: str = NATIVE) -> float | None:
        """How many times as long `engine` takes."""
        return self.speed(than, engine)

    def mips(self, engine: str = VPOD) -> float | None:
        """Millions of guest instructions a second."""
        cell = self.cells.get(engine)
        return cell.instructions / cell.seconds / 1e6 if cell and cell.instructions and cell.seconds else None

    def record(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "name": self.name, "group": self.group.name, "error": self.error,
            "engines": {engine: asdict(cell) for engine, cell in self.cells.items()},
            "speed": {engine: self.speed(engine) for engine in self.cells if engine != QEMU},
            "speed_by_cpu": {engine: self.speed(engine, by="cpu") for engine in self.cells if engine != QEMU},
            "slower_than_native": {engine: self.slower(engine) for engine in self.cells if engine != NATIVE},
        }  # fmt: skip


def row(program: Program, runs: Runs) -> Row:
    """What all runs of one program come to."""
    samples = {
        engine: [each[program.name] for each in rounds if program.name in each] for engine, rounds in runs.items()
    }
    error = next(_errors(program, samples, runs), None)
    if error is not None:
        return Row(program.name, program.group, error=error)
    return Row(program.name, program.group, {engine: _cell(found) for engine, found in samples.items() if found})


def _cell(samples: Sequence[Sample]) -> Cell:
    def middle(name: str) -> float | None:
        values = [getattr(sample, name) for sample in samples]
        return None if None in values else float(median(values))

    return Cell(median(sample.seconds for sample in samples), middle("host"), middle("cpu"), middle("instructions"))


def _errors(program: Program, samples: Mapping[str, Sequence[Sample]], runs: Runs) -> Iterator[str]:
    """What is wrong with the runs of one program, the first thing first."""
    wanted = None if program.output is None else digest(program.output.encode())
    for engine, found in samples.items():
        if len(found) < len(runs[engine]) and (engine != NATIVE or program.kind is Kind.C):
            yield f"{engine}: ran {len(found)} times of {len(runs[engine])}"
        for sample in found:
            if sample.exit_code != 0:
                yield f"{engine}: exit code {sample.exit_code}"
            wanted = wanted or sample.digest
            if sample.digest != wanted:
                yield f"{engine}: printed something else ({sample.digest}, not {wanted})"
            least, share = CLOCKS_APART
            if sample.host is not None and abs(sample.host - sample.seconds) > least + share * sample.host:
                yield f"{engine}: took {sample.seconds:.2f} s by its own clock and {sample.host:.2f} s by the host's"


@dataclass(frozen=True)
class Goal:
    """A mean, or the worst row, and what the project asks of it: at least `wanted`, or at most."""

    what: str
    found: float | None
    wanted: float
    at_least: bool = True

    @property
    def kept(self) -> bool | None:
        """Whether it holds; None if it was not measured."""
        if self.found is None:
            return None
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted

    def shown(self) -> tuple[str, str, str, str]:
        """For a table: what, found, wanted, verdict."""
        verdict = {True: "kept", False: "[red]missed[/]", None: "not measured"}[self.kept]
        return self.what, _shown(self.found, 2), f"at {'least' if self.at_least else 'most'} {self.wanted:g}", verdict


@dataclass(frozen=True)
class Result:
    """All rows of one run. `translation_rate`: MB of guest code that vpod translated a second; None if it did not."""

    rows: tuple[Row, ...]
    translation_rate: float | None = None

    def engines(self) -> set[str]:
        """Those that ran anything rightly."""
        return {engine for each in self.rows for engine in each.cells}

    def mean(self, ratio: Callable[[Row], float | None], groups: Sequence[Group] = GROUPS) -> float | None:
        """The geometric mean of a ratio over the rows of some groups; None if none of them has it."""
        values = [ratio(each) for each in self.rows if each.group in groups]
        return geometric_mean([value for value in values if value is not None])

    @property
    def worst(self) -> Row | None:
        """The row in which vpod is the slowest beside QEMU."""
        rows = [each for each in self.rows if each.speed(VPOD) is not None]
        return min(rows, key=lambda each: each.speed(VPOD) or 0, default=None)

    @property
    def errors(self) -> list[Row]:
        """Rows that ran wrongly."""
        return [each for each in self.rows if each.error is not None]

    def goals(self) -> list[Goal]:
        """What the project asks of the translator, beside what was found."""
        kernels = (INTEGER, MEMORY, CALLS, INDIRECT)
        worst = self.worst.speed(VPOD) if self.worst is not None else None
        name = f" ({self.worst.name})" if self.worst is not None else ""
        return [
            Goal("vpod/QEMU: C kernels and busybox", self.mean(_vpod, (*kernels, SHELL)), 2.0),
            Goal("vpod/QEMU: floating point", self.mean(_vpod, (FLOATING,)), 5.0),
            Goal("vpod/QEMU: CPython and its start", self.mean(_vpod, (CPYTHON, START)), 2.0),
            Goal(f"vpod/QEMU: the worst row{name}", worst, 1.1),
            Goal("slower than native: C kernels", self.mean(_vpod_native, kernels), 4.0, at_least=False),
            Goal("slower than native: floating point", self.mean(_vpod_native, (FLOATING,)), 3.0, at_least=False),
            Goal("guest code translated, MB/s", self.translation_rate, 5.0),
        ]

    def shares(self) -> dict[str, float]:
        """CPU time over clock time of each emulator: near 1 on a quiet machine, less when others took their part."""
        found = {}
        for engine in (QEMU, INTERPRETER, VPOD):
            cells = [each.cells[engine] for each in self.rows if engine in each.cells]
            clock = sum(cell.seconds for cell in cells if cell.cpu is not None)
            if clock:
                found[engine] = sum(cell.cpu or 0 for cell in cells) / clock
        return found

    def clocks_apart(self) -> tuple[float, str, str] | None:
        """The largest difference between the guest's clock and the host's, in seconds; its program and engine."""
        found = [
            (abs(cell.seconds - cell.host), each.name, engine)
            for each in self.rows
            for engine, cell in each.cells.items()
            if cell.host is not None
        ]
        return max(found, default=None)

    def table(self) -> Table:
        """For a terminal: the rows of each group and their means."""
        table = Table(box=None, pad_edge=False)
        table.add_column("program", no_wrap=True)
        titles = (
            "native s",
            "QEMU s",
            "interpreter s",
            "vpod s",
            "vpod/QEMU",
            "by CPU",
            "interp./QEMU",
            "slower",
            "MIPS",
        )
        for title in titles:
            table.add_column(title, justify="right")
        for group in GROUPS:
            rows = [each for each in self.rows if each.group == group]
            for each in rows:
                table.add_row(each.name, *(_error_cells(each) or _cells(each)))
            if rows:
                table.add_row(f"[bold]{group.title}[/]", *self._means((group,)))
                table.add_section()
        table.add_row("[bold]all[/]", *self._means(GROUPS))
        return table

    def _means(self, groups: Sequence[Group]) -> list[str]:
        ratios = [self.mean(ratio, groups) for ratio in (_vpod, _vpod_by_cpu, _interpreter, _vpod_native)]
        return ["", "", "", "", *(f"[bold]{_shown(value, 2)}[/]" for value in ratios), ""]

    def goal_table(self) -> Table:
        """For a terminal: what the project asks."""
        table = Table(box=None, pad_edge=False)
        for title in ("goal", "found", "wanted", ""):
            table.add_column(title, justify="right" if title == "found" else "left")
        for goal in self.goals():
            table.add_row(*goal.shown())
        return table

    def record(self) -> dict[str, Any]:
        """For ``--json``: the rows with their ratios, the means, the goals."""
        ratios = {
            "speed": _vpod,
            "speed_by_cpu": _vpod_by_cpu,
            "interpreter_speed": _interpreter,
            "slower": _vpod_native,
        }
        groups = {group.name: (group,) for group in GROUPS} | {"all": GROUPS}
        return {
            "rows": [each.record() for each in self.rows],
            "means": {
                name: {ratio: self.mean(of, each) for ratio, of in ratios.items()} for name, each in groups.items()
            },
            "goals": [asdict(goal) | {"kept": goal.kept} for goal in self.goals()],
            "worst": self.worst.name if self.worst is not None else None,
            "translation_rate": self.translation_rate,
            "cpu_share": self.shares(), "clocks_apart": self.clocks_apart(),
        }  # fmt: skip


def _vpod(each: Row) -> float | None:
    return each.speed(VPOD)


def _vpod_by_cpu(each: Row) -> float | None:
    return each.speed(VPOD, by="cpu")


def _interpreter(each: Row) -> float | None:
    return each.speed(INTERPRETER)


def _vpod_native(each: Row) -> float | None:
    return each.slower(VPOD)


def _cells(each: Row) -> list[str]:
    seconds = [
        each.cells[engine].seconds if engine in each.cells else None for engine in (NATIVE, QEMU, INTERPRETER, VPOD)
    ]
    ratios = [_vpod(each), _vpod_by_cpu(each), _interpreter(each), _vpod_native(each)]
    return [
        *(_shown(value, 3) for value in seconds),
        *(_shown(value, 2) for value in ratios),
        _shown(each.mips(), 0),
    ]


def _error_cells(each: Row) -> list[str]:
    return [] if each.error is None else [f"[red]error[/] {each.error}"]


def translation_rate(counted: Mapping[str, Any] | None) -> float | None:
    """MB of guest code a second, from what a translator counted; None if it made nothing.

    >>> translation_rate({"bytes": 3_000_000, "nanoseconds": 500_000_000})
    6.0
    """
    return counted["bytes"] * 1e3 / counted["nanoseconds"] if counted and counted["nanoseconds"] else None


def geometric_mean(values: Sequence[float]) -> float | None:
    """The n-th root of the product of n positive numbers; None of none."""
    if not values:
        return None
    return round(math.exp(math.fsum(math.log(value) for value in values) / len(values)), 12)


def _shown(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"
