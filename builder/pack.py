"""Freezing a prepared machine into a `.snap` file.

    >>> pack(guest, image, find("alpine-3.23"), path_of("alpine:3.23"), commands=[])
    Packed(path=…, size=15…)

What the metadata says is for people and for `vpod list`: nothing in it is believed when a snapshot is restored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vpod
from vpod import snapshot

from .boot import COMMAND_LINE, Guest
from .recipe import Recipe
from .rootfs import Image


@dataclass(frozen=True)
class Packed:
    """A finished snapshot: where it is, its size in bytes, its identity in hex."""

    path: Path
    size: int
    identity: str


def describe(guest: Guest, image: Image, recipe: Recipe, commands: Sequence[str]) -> dict[str, Any]:
    """The metadata of a snapshot: name and tag, machine, kernel, packages, how it was built, when."""
    return {
        "name": recipe.name,
        "tag": recipe.tags[0],
        "description": recipe.summary,
        "has_python": guest.has_python,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"board": "virt", "isa": "rv64gc", "memory": guest.machine.memory, "command_line": COMMAND_LINE},
        "kernel": {"version": image.kernel.version, "packages": image.kernel.packages},
        "packages": image.packages,
        "built": {
            "by": f"vpod-build {vpod.__version__}",
            "recipe": recipe.key,
            "sources": image.sources,
            "commands": list(commands),
        },
    }


def pack(guest: Guest, image: Image, recipe: Recipe, path: Path, *, commands: Sequence[str]) -> Packed:
    """Write the machine to `path`, which appears whole or not at all. Raises `SnapshotError`, `OSError`."""
    machine = guest.machine
    with guest.report.step("Packing", total=machine.memory) as bar:
        state = machine.save()
        done = 0

        def progress(sofar: int, _total: int) -> None:
            nonlocal done
            bar.advance(sofar - done)
            done = sofar

        meta = describe(guest, image, recipe, commands)
        identity = snapshot.write(path, meta, state, machine.ram.data, progress)
        bar.done(f"Packed {machine.memory >> 20} MiB of memory")
    return Packed(path, path.stat().st_size, identity)
