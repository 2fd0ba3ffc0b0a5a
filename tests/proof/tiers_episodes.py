"""Scenes of the target `privileged`'s programs, whose episodes come over and over, so that their code gets hot.

The last episode of an image is followed by the first one: the monitor never finishes, and overwrites its log. All that
`privileged` compares with QEMU is compared here between the tiers, and what it leaves out of its logs as well.

    >>> scene = Episodes(draw(1, episodes=4, slots=8)).scene()
    >>> spend(scene, Tier(at_once=True), [Step(100_000)]).differences
    ()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.machine_code import RAM
from tests.proof.monitor import CODE, CODE_PAGES, EPISODES
from tests.proof.privileged import assembly, smaller
from tests.proof.privileged_draw import Program, draw
from tests.proof.tiers_scene import Scene, Step, Tier, spend

__all__ = ["Episodes", "Step", "Tier", "draw", "spend"]


def _endless(memory: bytes) -> bytes:
    """The image with its last descriptor followed by the first one: each begins with the address of the next."""
    found = bytearray(memory)
    at = EPISODES - RAM
    while following := int.from_bytes(found[at : at + 8], "little"):
        last, at = at, following - RAM
    found[last : last + 8] = EPISODES.to_bytes(8, "little")
    return bytes(found)


@dataclass(frozen=True)
class Episodes:
    """The program, which has an episode at least."""

    program: Program

    def scene(self) -> Scene:
        image = self.program.image()
        size = max(image.used, len(image.memory)) + 0xFFF & ~0xFFF
        patches = tuple(CODE + (page << 12) + 0x800 for page in range(CODE_PAGES))
        return Scene(size, ((RAM, _endless(image.memory)),), patches=patches)

    def smaller(self) -> Iterator[Episodes]:
        """As `privileged` makes them smaller."""
        return map(Episodes, smaller(self.program))

    def show(self) -> str:
        """The episodes' settings and their slots as assembly."""
        lines = []
        for number, episode in enumerate(self.program.episodes):
            lines.append(f"episode {number}: " + "; ".join(f"{k}={v:#x}" for k, v in episode.settings.items() if v))
            lines.append("  " + "; ".join(f"x{n}={value:#x}" for n, value in enumerate(episode.registers, 1)))
            lines += [f"  poke [{poke.address:#x}] = {poke.value:#x}" for poke in episode.pokes]
            for step in episode.steps:
                lines.append(f"  {'US?M'[step.mode]}, mstatus |= {step.status:#x}:")
                lines += [f"    {line}" for line in assembly(self.program.slots[step.slot])]
        return "\n".join(lines)
