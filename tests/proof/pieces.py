"""What a target is made of: pieces of work, and their outcomes, which add up.

A target is a module with two functions:

    def pieces(form: Form, seed: int) -> Sequence[Piece]       # how the work is cut, for the short or the long form
    def run(**arguments) -> Outcome                            # does one piece; arguments are the piece's own

Invariants: a piece depends on its arguments alone, so it can be seen again; its arguments are numbers and strings;
an outcome counts only what was compared, and every difference that no known oracle error explains is in
`differences`, as text that says how to see it again.

    >>> Outcome(counts={"programs": 2}) + Outcome(counts={"programs": 3}, differences=("x1: 1, Unicorn 2",))
    Outcome(counts={'programs': 5}, differences=('x1: 1, Unicorn 2',), explained={}, missing=None)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Form = Literal["short", "long"]


@dataclass(frozen=True)
class Piece:
    """One process's worth of work of `target`; it is killed after `seconds`, which counts as a difference.

    `tier` is how its harts execute code: off (interpreted), on, force (translated at once), or as the piece has it.
    """

    target: str
    arguments: Mapping[str, int | str] = field(default_factory=dict)
    seconds: int = 600
    tier: str = ""

    def command(self) -> list[str]:
        """The arguments of `python -m tests.proof` that run this piece alone."""
        return ["piece", self.target, *(f"{name}={value}" for name, value in self.arguments.items())]


def total(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Both counts by name; a name that counts nothing stays, since "0 reports" is worth saying."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


@dataclass(frozen=True)
class Outcome:
    """What a piece compared.

    `counts` says how much, by unit, such as ``{"instructions": 10_000, "programs": 20}``; `differences` are the
    unexplained ones; `explained` counts the differences that a known error of an oracle explains, by its name;
    `missing` are things that should have been reached and were not by this piece: the sum keeps what is missing in
    every piece that reports any (such as rows of the instruction table never executed).
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    explained: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] | None = None

    def __add__(self, other: Outcome) -> Outcome:
        missing = [part for part in (self.missing, other.missing) if part is not None]
        return Outcome(
            total(self.counts, other.counts),
            self.differences + other.differences,
            total(self.explained, other.explained),
            tuple(name for name in missing[0] if all(name in part for part in missing)) if missing else None,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        found = json.loads(text)
        missing = found["missing"]
        return cls(
            found["counts"], tuple(found["differences"]), found["explained"],
            None if missing is None else tuple(missing),
        )  # fmt: skip
