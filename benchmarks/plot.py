"""The speeds of one run as a drawing: an SVG file, written by hand.

Why it exists: thirty ratios between a quarter and a hundred are read at a glance only if they are drawn, on a
logarithmic scale; and one drawing is no reason for a plotting library.

Invariants: the drawing is well-formed XML whatever the programs are called; a speed of 1 is QEMU's; every mark lies
within the axis, which ends at powers of two around all that is drawn; a row with an error has no mark.

    Path("result.svg").write_text(drawing(result), encoding="utf-8")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.engines import INTERPRETER, NATIVE, VPOD
from benchmarks.programs import GROUPS, Group
from benchmarks.report import Result

LEFT, RIGHT, TOP, LINE, GAP, WIDTH = 150, 80, 70, 18, 8, 880  # pixels; LINE is a row's height, GAP is below a group
FASTER, SLOWER, MEAN, OTHER, RULE = "#1a7f5a", "#c2452d", "#16324f", "#555", "#ddd"
STYLE = "text{font:12px sans-serif;fill:#222} .n{text-anchor:end} .t{text-anchor:middle;fill:#777} .b{font-weight:bold}"

Speeds = dict[str, float]  # of each engine but QEMU, in units of QEMU's


@dataclass(frozen=True)
class Scale:
    """From a speed to a horizontal place, logarithmic; `least` and `most` are exponents of two."""

    least: int
    most: int

    @classmethod
    def around(cls, speeds: Sequence[float]) -> Scale:
        """The narrowest with whole powers of two at its ends that holds 1 and all of `speeds`."""
        logs = [0.0, *(math.log2(speed) for speed in speeds)]
        least, most = math.floor(min(logs)), math.ceil(max(logs))
        return cls(least, max(most, least + 1))

    def x(self, speed: float) -> float:
        """Pixels from the left."""
        share = (math.log2(speed) - self.least) / (self.most - self.least)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Each power of two, and how it is written."""
        for exponent in range(self.least, self.most + 1):
            yield 2.0**exponent, f"{1 << exponent}" if exponent >= 0 else f"1/{1 << -exponent}"


@dataclass(frozen=True)
class Line:
    """One line of the drawing: a program, or a group's mean."""

    title: str
    speeds: Speeds
    mean: bool = False


def drawing(result: Result) -> str:
    """The whole file."""
    lines = list(_lines(result))
    scale = Scale.around([speed for line in lines for speed in line.speeds.values()])
    height = TOP + LINE * len(lines) + GAP * sum(line.mean for line in lines) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_legend(),
        *_axis(scale, height),
    ]
    y = TOP
    for line in lines:
        parts += _marks(line, scale, y)
        y += LINE + (GAP if line.mean else 0)
    return "\n".join([*parts, "</svg>", ""])


def _lines(result: Result) -> Iterator[Line]:
    """The programs of each group that has any, then the group's means."""
    for group in GROUPS:
        rows = [each for each in result.rows if each.group == group]
        for each in rows:
            yield Line(each.name, _speeds(each.speed))
        if rows:
            yield Line(group.title, _mean_speeds(result, group), mean=True)


def _mean_speeds(result: Result, group: Group) -> Speeds:
    def mean(engine: str) -> float | None:
        return result.mean(lambda each: each.speed(engine), (group,))

    return _speeds(mean)


def _speeds(of: Callable[[str], float | None]) -> Speeds:
    """What `of` says of each engine, where it says anything."""
    return {engine: speed for engine in (VPOD, INTERPRETER, NATIVE) if (speed := of(engine))}


def _legend() -> Iterator[str]:
    yield f'<text x="{LEFT}" y="18" class="b">Speed in units of QEMU\'s (TCG), same guest, same run</text>'
    yield f'<rect x="{LEFT}" y="29" width="22" height="9" fill="{FASTER}"/><text x="{LEFT + 28}" y="38">vpod</text>'
    yield f'<rect x="{LEFT + 70}" y="29" width="22" height="9" fill="{SLOWER}"/>'
    yield f'<text x="{LEFT + 98}" y="38">vpod, slower than QEMU</text>'
    yield f'{_circle(LEFT + 275, 33.5)}<text x="{LEFT + 285}" y="38">interpreter only</text>'
    yield f'<text x="{WIDTH - 12}" y="{TOP - 10}" class="n">vpod</text>'
    yield f'{_diamond(LEFT + 410, 33.5)}<text x="{LEFT + 420}" y="38">native (C programs)</text>'


def _axis(scale: Scale, height: int) -> Iterator[str]:
    for speed, label in scale.ticks():
        x, colour = scale.x(speed), "#777" if speed == 1 else RULE
        yield f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 14}" stroke="{colour}"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 10}" class="t">{label}</text>'


def _marks(line: Line, scale: Scale, y: int) -> Iterator[str]:
    middle, weight = y + LINE / 2, "b" if line.mean else "p"
    yield f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" class="n {weight}">{escape(line.title)}</text>'
    if VPOD in line.speeds:
        speed = line.speeds[VPOD]
        from_, to = sorted((scale.x(1), scale.x(speed)))
        colour = SLOWER if speed < 1 else MEAN if line.mean else FASTER
        yield f'<rect x="{from_:.1f}" y="{y + 4}" width="{to - from_:.1f}" height="{LINE - 8}" fill="{colour}"/>'
        yield f'<text x="{WIDTH - 12}" y="{middle + 4:.1f}" class="n {weight}">{speed:.2f}</text>'
    if INTERPRETER in line.speeds:
        yield _circle(scale.x(line.speeds[INTERPRETER]), middle)
    if NATIVE in line.speeds:
        yield _diamond(scale.x(line.speeds[NATIVE]), middle)


def _circle(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="white" stroke="{OTHER}" stroke-width="1.5"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="{OTHER}" stroke="white"/>'
