"""RISCOF's device under test: `python -m vpod.bare`. See riscof_machine.py."""

from __future__ import annotations

from pathlib import Path

from riscof_machine import Machine


class vpod(Machine):
    __model__ = "vpod"

    def command(self, program: Path, signature: Path) -> list[str]:
        return [self.python, "-m", "vpod.bare", str(program), "--signature", str(signature)]
