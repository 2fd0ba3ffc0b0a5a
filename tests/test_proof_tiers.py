"""The target `tiers` itself: that scenes do what they are for, that faults are noticed, and shown small.

A fault is made by falsifying what the translator's hart tells of itself, as a fault of the translator would.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.machine_code import CSR, RAM
from tests.proof import __main__ as command
from tests.proof import tiers, tiers_scene, tiers_web
from tests.proof.pieces import Outcome, Piece
from tests.proof.targets import TARGETS
from tests.proof.tiers import KINDS, Failure, fewer, plainer
from tests.proof.tiers_scene import INTERPRETER, MAX_ROOM, Scene, Step, Tier, draw_steps, draw_tier, spend, word
from tests.proof.tiers_web import FAULTS, FLIP, GLOBALS, TALLY, Web
from vpod._cpu import Cpu

AT_ONCE = Tier(at_once=True, memory=256 << 10)


def dword(cpu: Cpu, address: int) -> int:
    return int.from_bytes(cpu.read(address, 8), "little")


# ---- scenes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_tiers_agree_and_code_is_translated(kind: str) -> None:
    outcome = tiers.run(kind=kind, seed=7, first=0, scenes=3, effort=400_000)
    assert outcome.differences == ()
    assert outcome.counts["scenes"] == 3
    assert outcome.counts["instructions"] > 20_000
    assert outcome.counts["translations"] > 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_depends_on_its_numbers_alone(kind: str) -> None:
    one, again, other = (KINDS[kind](3, number).scene() for number in (5, 5, 6))
    assert one == again
    assert one != other


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_go_on_and_on(kind: str) -> None:
    """Each instruction of a budget is executed, or traps: nothing stops, waits for ever or stands still."""
    cpu = KINDS[kind](7, 1).scene().start(INTERPRETER)
    seen = set()
    for _ in range(1000):
        cpu.run(301)
        seen.add((cpu.pc, cpu.priv))
    assert cpu.instret > 100_000
    assert len({pc for pc, _ in seen}) > 10
    assert len({priv for _, priv in seen}) > 1


def test_a_webs_variants_differ_in_immediates_alone() -> None:
    web = tiers_web.draw(4)
    (one, labels), (other, others) = web.code(0), web.code(1)
    assert labels == others
    assert one != other
    assert len(one) == len(other)


@pytest.mark.parametrize("seed", range(6))
def test_a_webs_pages_change_under_it_and_it_goes_on(seed: int) -> None:
    web = tiers_web.draw(seed)
    web = Web(web.functions, web.kernel, web.user, seed, rarity=0)
    cpu = web.scene().start(INTERPRETER)
    spaces = set()
    for _ in range(400):
        cpu.run(997)
        spaces.add(dword(cpu, GLOBALS + FLIP))
    assert spaces == {0, 8}
    assert dword(cpu, GLOBALS + FAULTS) > 0, "rights were taken, and missed"
    assert dword(cpu, GLOBALS + TALLY) == 0, "nothing else trapped"


# ---- steps and translators -------------------------------------------------------------------------------------------


def test_translators_of_every_kind_are_drawn() -> None:
    drawn = [draw_tier(random.Random(n)) for n in range(300)]
    assert {tier.at_once for tier in drawn} == {False, True}
    assert {tier.memory for tier in drawn} >= {192 << 10, 64 << 20}
    assert {1, 128} <= {tier.trace for tier in drawn} and len({tier.trace for tier in drawn}) > 20
    assert {tier.landings for tier in drawn} >= {1, 4096}
    assert {tier.patience for tier in drawn} >= {0, 1, 64}
    assert {tier.room for tier in drawn} > {MAX_ROOM} and min(tier.room for tier in drawn) < 2048
    assert all(tier.translate for tier in drawn)


def test_steps_are_of_every_size_and_kind() -> None:
    drawn = draw_steps(random.Random(1), Tier(), (RAM,))
    steps = [next(drawn) for _ in range(400)]
    assert min(step.budget for step in steps) < 10
    assert max(step.budget for step in steps) > 1_000_000
    assert {step.line for step in steps} == {0, 3, 9, 11}
    assert {step.writes for step in steps} == {0, RAM}


def test_an_interrupt_is_lowered_after_its_step() -> None:
    cpu = Scene(0x1000, ((RAM, word("addi", rd=5, rs1=5, imm=1) * 8),)).start(INTERPRETER)
    Step(1, line=11).do(cpu)
    assert cpu.csr(CSR["mip"]) == 0
    assert cpu.instret == 1


# ---- differences -----------------------------------------------------------------------------------------------------

COUNTING = Scene(0x1000, ((RAM, word("addi", rd=5, rs1=5, imm=1) + word("jal", rd=0, imm=-4)),))


def test_equal_harts_have_no_differences() -> None:
    verdict = spend(COUNTING, AT_ONCE, [Step(100), Step(1), Step(1001)])
    assert (verdict.differences, verdict.instructions, verdict.step) == ((), 1102, 2)
    assert verdict.translator["translations"] > 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda cpu: cpu.set_x(7, 9), "t2: 0x9, interpreted 0x0"),
        (lambda cpu: cpu.set_f(3, 1), "ft3: 0x1, interpreted 0x0"),
        (lambda cpu: cpu.set_csr(CSR["fcsr"], 1), "fcsr: 0x1, interpreted 0x0"),
        (lambda cpu: cpu.set_csr(CSR["sscratch"], 2), "sscratch: 0x2, interpreted 0x0"),
        (lambda cpu: cpu.set_csr(CSR["minstret"], 9), "minstret: 0x9, interpreted 0x0"),
        (lambda cpu: setattr(cpu, "pc", RAM + 4), "pc: 0x80000004, interpreted 0x80000000"),
        (lambda cpu: setattr(cpu, "priv", 1), "priv: 0x1, interpreted 0x3"),
        (lambda cpu: cpu.run(2), "instret: 0x2, interpreted 0x0"),
        (lambda cpu: cpu.write(RAM + 0xFF9, b"\1"), "memory at 0x80000ff8: 00 01 00 00 00 00 00 00, interpreted"),
    ],
)
def test_whatever_differs_is_told(spoil: Callable[[Cpu], object], told: str) -> None:
    ours, theirs = COUNTING.start(AT_ONCE), COUNTING.start(INTERPRETER)
    assert list(tiers_scene.differences(ours, theirs)) == []
    spoil(ours)
    assert any(line.startswith(told) for line in tiers_scene.differences(ours, theirs))


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The translator's hart has one more in t0 than it should have once it retired 5,000 instructions."""
    sound = tiers_scene._state

    def state(cpu: Cpu) -> tuple[int, ...]:
        found = list(sound(cpu))
        found[3 + 5] += cpu.translator is not None and cpu.instret > 5000
        return tuple(found)

    monkeypatch.setattr(tiers_scene, "_state", state)


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("kind", "shown"), [("rounds", "program 0, "), ("web", "main: addi s11"), ("episodes", "episode 0: ")]
)
def test_a_fault_is_reported_with_the_code(kind: str, shown: str) -> None:
    outcome = tiers.run(kind=kind, seed=7, first=1, scenes=1, effort=1_000_000, shrinking=3)
    (difference,) = outcome.differences
    assert difference.startswith(f"{kind} 1 of seed 7: t0: ")
    assert "steps: " in difference and "translated " in difference
    assert shown in difference


@pytest.mark.usefixtures("faulty")
def test_a_failure_becomes_plain_and_short() -> None:
    steps = (Step(20_000), Step(3, line=9), Step(40_000, writes=RAM + 0x1_0000), Step(90_000))
    tier = Tier(at_once=True, memory=192 << 10, trace=5, landings=2, room=9999, patience=2)
    failure = Failure(tiers_web.draw(2), tier, steps)
    failure.shrink(20)
    assert (failure.tier.memory, failure.tier.trace, failure.tier.landings) == (64 << 20, 128, 4096)
    assert (failure.tier.room, failure.tier.patience) == (MAX_ROOM, 0)
    assert all(step.line == step.writes == 0 for step in failure.steps)
    assert sum(step.budget for step in failure.steps) <= 20_000


def test_what_does_not_fail_again_is_no_failure() -> None:
    failure = Failure(tiers_web.draw(2), Tier(), (Step(1000),))
    failure.shrink(1)
    assert failure.show(("t0: 1",)).startswith("not when it is run again\n  t0: 1")


def test_fewer_steps_and_plainer_translators_are_the_same_work() -> None:
    steps = (Step(5), Step(6, line=3), Step(7))
    assert (Step(11), Step(7)) in set(fewer(steps))
    assert (Step(5), Step(6), Step(7)) in set(fewer(steps))
    assert list(plainer(Tier())) == []


# ---- the tier of the other targets -----------------------------------------------------------------------------------


def test_pieces_run_in_both_tiers_by_turns_or_in_the_one_that_is_asked_for() -> None:
    names = list(TARGETS)
    turns = command.all_pieces("short", names, 1, None)
    for name in ("user", "privileged", "floats", "encodings", "hostile"):
        assert {piece.tier for piece in turns if piece.target == name} == {"off", "force"}
    assert {piece.tier for piece in turns if piece.target in ("builds", "tiers", "files")} == {""}
    forced = command.all_pieces("short", ["user", "floats", "files"], 1, "on")
    assert {piece.tier for piece in forced if piece.target != "files"} == {"on"}


@pytest.mark.parametrize(("tier", "jit"), [("off", "0"), ("on", "1"), ("force", "force")])
def test_a_pieces_tier_is_that_of_its_harts(monkeypatch: pytest.MonkeyPatch, tier: str, jit: str) -> None:
    told: list[str | None] = []

    def run(**arguments: object) -> Outcome:
        told.append(command.os.environ.get("VPOD_JIT"))
        return Outcome()

    monkeypatch.setenv("VPOD_JIT", "something else")
    monkeypatch.setattr(TARGETS["user"].module, "run", run)
    arguments = command.with_tier(Piece("user", {"seed": 1, "first": 0, "programs": 1}, tier=tier))
    assert command.main(arguments) == 0
    assert told == [jit]


def test_operations_are_compared_in_both_tiers_in_the_short_form() -> None:
    """The first random sets and the crossed ones are each of all operations."""
    turns = command.all_pieces("short", ["floats"], 1, None)
    by_kind = {(piece.arguments["kind"], piece.tier) for piece in turns}
    assert by_kind == {("reserved", "force"), ("cross", "force"), ("random", "off"), ("host", "off")}
