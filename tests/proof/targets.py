"""The targets in the order in which they run: what each is compared with, and the least each form must reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from tests.proof.pieces import Form


@dataclass(frozen=True)
class Target:
    """One module of this package; `least` says, for each form, what its counts must come to."""

    name: str
    oracle: str
    least: Mapping[Form, Mapping[str, int]] = field(default_factory=dict)

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
                "short": {"instructions": 400_000_000, "translations": 300_000, "regions": 5_000, "moved": 10_000},
                "long": {
                    "instructions": 10_000_000_000,
                    "translations": 10_000_000,
                    "regions": 100_000,
                    "moved": 200_000,
                },
            },
        ),
        Target("user", "Unicorn", {"short": {"instructions": 20_000_000}, "long": {"instructions": 1_000_000_000}}),
        Target("privileged", "QEMU", {"short": {"instructions": 1_000_000}, "long": {"instructions": 50_000_000}}),
        Target("floats", "QEMU, host FPU", {"short": {"results": 5_000_000}, "long": {"results": 500_000_000}}),
        Target(
            "encodings",
            "QEMU, GNU binutils",
            {
                "short": {"encodings executed": 1_800_000, "encodings decoded": 370_000},
                "long": {"encodings executed": 9_000_000, "encodings decoded": 10_000_000},
            },
        ),
        Target("files", "declared errors only", {"short": {"executions": 90_000}, "long": {"executions": 900_000}}),
        Target(
            "hostile",
            "a host that survives",
            {
                "short": {"operations": 90_000, "requests": 1_000},
                "long": {"operations": 2_000_000, "requests": 30_000},
            },
        ),
    )
}
