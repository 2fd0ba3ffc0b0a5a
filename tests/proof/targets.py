"""The targets in the order in which they run: what each is compared with, and the least each form must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from tests.proof.pieces import Form, Piece

Translates = Callable[[int, Piece], bool]


def every_other(number: int, piece: Piece) -> bool:
    return number % 2 == 1


def all_but_first_sets(number: int, piece: Piece) -> bool:
    """Each operation in both tiers: the first random sets, and the host's, are interpreted; all else isn't."""
    return piece.arguments["kind"] != "host" and piece.arguments.get("first") != 0


@dataclass(frozen=True)
class Target:
    """One module of this package; `least` says, for each form, what its counts must come to.

    `translates` says which of its pieces, by number, run with code translated at once, the others being interpreted;
    None where that is the target's own business, or none of its harts executes anything.
    """

    name: str
    oracle: str
    least: Mapping[Form, Mapping[str, int]] = field(default_factory=dict)
    translates: Translates | None = None

    @property
    def module(self) -> Any:
        return import_module(f"tests.proof.{self.name}")


TARGETS = {
    target.name: target
    for target in (
        Target("builds", "the compilers' sanitizers, Cython's bounds checks, gcov"),
        Target(
            "tiers",
            "the interpreter",
            {
                "short": {"instructions": 300_000_000, "translations": 300_000, "regions": 5_000, "moved": 10_000},
                "long": {
                    "instructions": 10_000_000_000,
                    "translations": 10_000_000,
                    "regions": 100_000,
                    "moved": 200_000,
                },
            },
        ),
        Target(
            "user",
            "Unicorn",
            {"short": {"instructions": 20_000_000}, "long": {"instructions": 1_000_000_000}},
            every_other,
        ),
        Target(
            "privileged",
            "QEMU",
            {"short": {"instructions": 1_000_000}, "long": {"instructions": 50_000_000}},
            every_other,
        ),
        Target(
            "floats",
            "QEMU, host FPU",
            {"short": {"results": 5_000_000}, "long": {"results": 500_000_000}},
            all_but_first_sets,
        ),
        Target(
            "encodings",
            "QEMU, GNU binutils",
            {
                "short": {"encodings executed": 1_800_000, "encodings decoded": 370_000},
                "long": {"encodings executed": 9_000_000, "encodings decoded": 10_000_000},
            },
            every_other,
        ),
        Target("files", "declared errors only", {"short": {"executions": 90_000}, "long": {"executions": 900_000}}),
        Target(
            "hostile",
            "a host that survives",
            {
                "short": {"operations": 90_000, "requests": 1_000},
                "long": {"operations": 2_000_000, "requests": 30_000},
            },
            every_other,
        ),
    )
}
