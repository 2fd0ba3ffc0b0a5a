"""RISCOF's reference model: QEMU's `spike` machine, as `tests.proof.suites` reads it. See riscof_machine.py."""

from __future__ import annotations

from pathlib import Path

from riscof_machine import Machine


class qemu(Machine):
    __model__ = "qemu"

    def command(self, program: Path, signature: Path) -> list[str]:
        return [self.python, "-m", "tests.proof.suites", "signature", str(program), str(signature)]
