"""From samples to a table: medians, ratios, what went wrong.

Why it exists: the arithmetic of a comparison is small and easily wrong, so it stands alone and is tested alone.

Invariants: a row has a ratio only if every run of it, on every engine, exited with 0 and printed what it must;
otherwise it has an error, and no part in the mean. A ratio above 1 means that vpod is faster.

>>> geometric_mean([0.1, 0.4])
0.2
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.listener import Sample
from benchmarks.programs import Program, digest

NATIVE, QEMU, VPOD = "native", "QEMU", "vpod"
Runs = Mapping[str, Sequence[Mapping[str, Sample]]]  # for each engine, the samples of each round


@dataclass(frozen=True)
class Row:
    """One program. Seconds are medians over the rounds, by the guest's clock; `cpu_*` by the host's CPU time."""

    name: str
    native: float | None = None
    qemu: float | None = None
    vpod: float | None = None
    cpu_qemu: float | None = None
    cpu_vpod: float | None = None
    instructions: float | None = None
    error: str | None = None

    @property
    def ratio(self) -> float | None:
        """vpod's speed in units of QEMU's, by the guest's clock."""
        return _quotient(self.qemu, self.vpod)

    @property
    def cpu_ratio(self) -> float | None:
        """The same by CPU time, which other work on the host disturbs less."""
        return _quotient(self.cpu_qemu, self.cpu_vpod)

    @property
    def mips(self) -> float | None:
        """Millions of guest instructions a second under vpod."""
        rate = _quotient(self.instructions, self.vpod)
        return None if rate is None else rate / 1e6


def row(program: Program, runs: Runs) -> Row:
    """What all runs of one program come to."""
    samples = {
        engine: [each[program.name] for each in rounds if program.name in each] for engine, rounds in runs.items()
    }
    error = next(_errors(program, samples, runs), None)
    if error is not None:
        return Row(program.name, error=error)

    def middle(engine: str, field: str) -> float | None:
        values = [getattr(sample, field) for sample in samples.get(engine, ())]
        return None if not values or None in values else float(median(values))

    return Row(
        program.name, middle(NATIVE, "seconds"), middle(QEMU, "seconds"), middle(VPOD, "seconds"),
        middle(QEMU, "cpu"), middle(VPOD, "cpu"), middle(VPOD, "instructions"),
    )  # fmt: skip


def _errors(program: Program, samples: Mapping[str, Sequence[Sample]], runs: Runs) -> Iterator[str]:
    """What is wrong with the runs of one program, the first thing first."""
    wanted = None if program.output is None else digest(program.output.encode())
    for engine, found in samples.items():
        if len(found) < len(runs[engine]) and (engine != NATIVE or program.compiled):
            yield f"{engine}: ran {len(found)} times of {len(runs[engine])}"
        exact = program.exact or engine != NATIVE
        for sample in found:
            if sample.exit_code != 0:
                yield f"{engine}: exit code {sample.exit_code}"
            wanted = wanted or (sample.digest if exact else None)
            if exact and sample.digest != wanted:
                yield f"{engine}: printed something else ({sample.digest}, not {wanted})"


@dataclass(frozen=True)
class Result:
    """All rows of one run."""

    rows: tuple[Row, ...]

    @property
    def mean(self) -> float | None:
        """The geometric mean of the ratios; None if there is none."""
        return geometric_mean([each.ratio for each in self.rows if each.ratio is not None])

    @property
    def cpu_mean(self) -> float | None:
        """The geometric mean of the ratios by CPU time."""
        return geometric_mean([each.cpu_ratio for each in self.rows if each.cpu_ratio is not None])

    @property
    def worst(self) -> Row | None:
        """The row with the lowest ratio."""
        return min(
            (each for each in self.rows if each.ratio is not None), key=lambda each: each.ratio or 0, default=None
        )

    @property
    def errors(self) -> list[Row]:
        """Rows that ran wrongly."""
        return [each for each in self.rows if each.error is not None]

    def shares(self) -> dict[str, float]:
        """CPU time over clock time of each emulator: near 1 on a quiet machine, less when others took their part."""
        pairs = {
            QEMU: [(each.cpu_qemu, each.qemu) for each in self.rows],
            VPOD: [(each.cpu_vpod, each.vpod) for each in self.rows],
        }
        sums = {
            engine: (sum(cpu or 0 for cpu, _ in values), sum(clock or 0 for cpu, clock in values if cpu is not None))
            for engine, values in pairs.items()
        }
        return {engine: cpu / clock for engine, (cpu, clock) in sums.items() if clock}

    def table(self) -> Table:
        """For a terminal."""
        table = Table(box=None, pad_edge=False)
        table.add_column("program")
        for title in ("native s", "QEMU s", "vpod s", "vpod/QEMU", "by CPU time", "MIPS"):
            table.add_column(title, justify="right")
        for each in self.rows:
            if each.error is not None:
                table.add_row(each.name, f"[red]error[/] {each.error}")
                continue
            numbers = [(each.native, 3), (each.qemu, 3), (each.vpod, 3), (each.ratio, 3), (each.cpu_ratio, 3)]
            table.add_row(each.name, *(_shown(value, places) for value, places in numbers), _shown(each.mips, 0))
        table.add_section()
        table.add_row("geometric mean", "", "", "", _shown(self.mean, 3), _shown(self.cpu_mean, 3), "")
        if self.worst is not None:
            table.add_row(f"worst: {self.worst.name}", "", "", "", _shown(self.worst.ratio, 3), "", "")
        return table

    def record(self) -> dict[str, Any]:
        """For ``--json``: the rows with their ratios, the means and the worst row."""
        rows = [
            asdict(each) | {"ratio": each.ratio, "cpu_ratio": each.cpu_ratio, "mips": each.mips} for each in self.rows
        ]
        worst = self.worst.name if self.worst is not None else None
        return {
            "rows": rows, "geometric_mean": self.mean, "cpu_geometric_mean": self.cpu_mean, "worst": worst,
            "cpu_share": self.shares(),
        }  # fmt: skip


def geometric_mean(values: Sequence[float]) -> float | None:
    """The n-th root of the product of n positive numbers; None of none."""
    if not values:
        return None
    return round(math.exp(math.fsum(math.log(value) for value in values) / len(values)), 12)


def _quotient(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
