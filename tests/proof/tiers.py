"""Target `tiers`: the same random programs in the interpreter and in the translator, whose states must be equal.

Three kinds of scenes (`tiers_scene.py`): *rounds* of user programs under changing keys and address spaces
(`tiers_rounds.py`), a *web* of functions whose pages change under it (`tiers_web.py`), and the *episodes* of the target
`privileged` over and over (`tiers_episodes.py`). Each runs with a translator of its own kind: at once or when code is
hot, with memory for code from the least to plenty, traces from 1 to 128, landings from 1 to 4096. The budgets are
random, so that code is left anywhere, and after each all of the architectural state is compared: registers, CSRs,
counters, privilege, memory. Interrupts come, and devices write into code, between two budgets.

Nothing is slow: both tiers run at their full speed, so billions of instructions can be compared. What the interpreter
itself does right is for the other targets to say, which run in either tier (`--tier`).

Invariants: a piece depends on its arguments alone; what a scene is worth is measured in instructions and translations,
not in time. A difference is shown with the smallest scene, the plainest translator and the fewest steps found.

    >>> run(kind="rounds", seed=1, first=0, scenes=2).differences
    ()
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from tests.proof import drawing, privileged_draw, tiers_web
from tests.proof.pieces import Form, Outcome, Piece
from tests.proof.programs import Unlinkable
from tests.proof.tiers_episodes import Episodes
from tests.proof.tiers_rounds import Rounds
from tests.proof.tiers_scene import EFFORT, Made, Source, Step, Tier, Verdict, draw_steps, draw_tier, spend

ENOUGH = 2  # differences, after which a piece stops
TRIALS, SHRINKING = 600, 40  # that making one smaller may take: runs, and seconds of CPU time
SCENES: dict[Form, dict[str, tuple[int, int]]] = {  # pieces of each kind, and scenes in each
    "short": {"rounds": (1, 60), "web": (1, 40), "episodes": (1, 25)},
    "long": {"rounds": (4, 400), "web": (4, 250), "episodes": (2, 150)},
}


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    return [
        Piece("tiers", {"kind": kind, "seed": seed, "first": n * scenes, "scenes": scenes}, 120 + 10 * scenes)
        for kind, (count, scenes) in SCENES[form].items()
        for n in range(count)
    ]


def rounds(seed: int, number: int) -> Rounds:
    first, second = drawing.draw(seed, 2 * number), drawing.draw(seed, 2 * number + 1)
    paged = number % 3 != 0
    return Rounds((replace(first, paged=paged), replace(second, paged=paged)), seed=number)


KINDS: dict[str, Callable[[int, int], Source]] = {
    "rounds": rounds,
    "web": lambda seed, number: tiers_web.draw(100_000 * seed + number),
    "episodes": lambda seed, number: Episodes(privileged_draw.draw(100_000 * seed + number, episodes=60, slots=40)),
}


# ---- failures --------------------------------------------------------------------------------------------------------


def plainer(tier: Tier) -> Iterator[Tier]:
    """Translators with one thing less out of the ordinary."""
    usual, mine = settings(Tier(at_once=tier.at_once)), settings(tier)
    for name in usual:
        if mine[name] != usual[name]:
            yield Tier(at_once=tier.at_once, **(mine | {name: usual[name]}))


def settings(tier: Tier) -> dict[str, int]:
    return {
        "memory": tier.memory,
        "landings": tier.landings,
        "trace": tier.trace,
        "room": tier.room,
        "patience": tier.patience,
    }


def fewer(steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """The same instructions in fewer steps, fewer instructions, or nothing else than budgets."""
    for length in (len(steps) - 1, len(steps) // 2, 2):
        for at in range(0, len(steps) - 1, max(length, 1)):
            some = steps[at : at + length]
            if len(some) > 1:
                yield (*steps[:at], Step(sum(step.budget for step in some)), *steps[at + length :])
    for at, step in enumerate(steps):
        if step.line or step.writes:
            yield (*steps[:at], Step(step.budget), *steps[at + 1 :])
        if step.budget > 1:
            yield (*steps[:at], replace(step, budget=step.budget // 2), *steps[at + 1 :])


class Failure:
    """A scene that ends differently, made smaller while it still does."""

    def __init__(self, source: Source, tier: Tier, steps: Sequence[Step]) -> None:
        self.source, self.tier, self.steps = source, tier, tuple(steps)
        self.verdict = self.tried(source, tier, self.steps)

    def tried(self, source: Source, tier: Tier, steps: Sequence[Step]) -> Verdict | None:
        """How it differs, if it does; what makes no sense any more doesn't."""
        try:
            verdict = spend(source.scene(), tier, steps, effort=1 << 62)
        except (Unlinkable, ValueError):
            return None
        return verdict if verdict.differences else None

    def shrink(self, seconds: float) -> None:
        end, trials = time.process_time() + seconds, TRIALS
        progress = self.verdict is not None
        while progress:
            progress = False
            for source, tier, steps in self.candidates():
                trials -= 1
                if trials < 0 or time.process_time() > end:
                    return
                if verdict := self.tried(source, tier, steps):
                    self.source, self.tier, self.steps = source, tier, steps[: verdict.step + 1]
                    self.verdict, progress = verdict, True
                    break

    def candidates(self) -> Iterator[tuple[Source, Tier, tuple[Step, ...]]]:
        for tier in plainer(self.tier):
            yield self.source, tier, self.steps
        for steps in fewer(self.steps):
            yield self.source, self.tier, steps
        for source in _smaller(self.source):
            yield source, self.tier, self.steps

    def show(self, first: Sequence[str]) -> str:
        found = self.verdict.differences if self.verdict else ("not when it is run again", *first)
        steps = ", ".join(map(str, self.steps))
        told = f"translated {'at once' if self.tier.at_once else 'when hot'}, {settings(self.tier)}"
        return "\n".join((found[0], *(f"  {line}" for line in found[1:6]), told, f"steps: {steps}", self.source.show()))


def _smaller(source: Made) -> Iterator[Made]:
    return source.smaller()


# ---- the target ------------------------------------------------------------------------------------------------------


def run(*, kind: str, seed: int, first: int, scenes: int, effort: int = EFFORT, shrinking: int = SHRINKING) -> Outcome:
    """Compare `scenes` scenes of a kind, from number `first` of `seed` on; each is worth `effort`."""
    counts = Counter({"instructions": 0, "scenes": 0, "comparisons": 0, "translations": 0})
    found: list[str] = []
    for number in range(first, first + scenes):
        source = KINDS[kind](seed, number)
        rng = random.Random(f"tiers {kind} {seed} {number}")
        tier, scene = draw_tier(rng), source.scene()
        verdict = spend(scene, tier, draw_steps(rng, tier, scene.patches), effort)
        counts += Counter(instructions=verdict.instructions, scenes=1, comparisons=verdict.step + 1)
        counts += Counter(verdict.translator)
        if verdict.differences:
            again = random.Random(f"tiers {kind} {seed} {number}")
            draw_tier(again)
            failure = Failure(source, tier, tuple(islice(draw_steps(again, tier, scene.patches), verdict.step + 1)))
            failure.shrink(shrinking)
            found.append(f"{kind} {number} of seed {seed}: {failure.show(verdict.differences)}")
        if len(found) >= ENOUGH:
            break
    return Outcome(dict(counts), tuple(found))
