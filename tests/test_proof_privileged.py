"""The privileged target of the proof: it notices what differs, explains only what is known, and shows little of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tests.machine_code import ONES, M, S, U
from tests.proof import privileged
from tests.proof.board import Finished, on_vpod
from tests.proof.monitor import DATA, FIELDS, Episode, Image, Poke, Slot, Step, handlers
from tests.proof.privileged import Difference, compare, explain, shrink
from tests.proof.privileged_draw import EMPTY, Program, draw

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-riscv64") is None, reason="needs qemu-system-riscv64")


def program(*slots: tuple[str, ...], mode: int = M, **settings: int) -> Program:
    """One episode, with a step in `mode` for each slot; s0 = x8 points to DATA."""
    registers = tuple(DATA if n == 8 else n for n in range(1, 32))
    steps = [Step(n, mode) for n in range(len(slots))]
    return Program(0, tuple(map(Slot, slots)), (Episode(steps, settings, registers),), "nop")


def records(of: Program) -> list[dict[str, int]]:
    image = of.image()
    return image.records(on_vpod(image.memory, length=image.used, limit=100_000).memory)


# ---- the monitor, on vpod alone -------------------------------------------------------------------------------------


def test_a_record_has_the_state_at_the_trap() -> None:
    first, second = records(program(("li a0, 5", "csrw mscratch, a0", "ebreak"), ("addi a0, a0, 1", "ecall")))
    assert (first["mcause"], first["x10"], first["mscratch"], first["x31"]) == (3, 5, 5, 31)
    assert (second["mcause"], second["x10"]) == (11, 6)  # registers stay from step to step


@pytest.mark.parametrize(("mode", "cause"), [(U, 8), (S, 9), (M, 11)])
def test_a_step_runs_in_its_mode(mode: int, cause: int) -> None:
    (only,) = records(program(("ecall",), mode=mode))
    assert only["mcause"] == cause


def test_a_delegated_trap_comes_by_the_handler_of_s() -> None:
    handler = next(address for (cause, _), address in handlers().items() if cause == 9)
    (only,) = records(program(("ebreak",), mode=U, medeleg=1 << 3, stvec=handler))
    assert (only["mcause"], only["scause"], only["x29"]) == (9, 3, handler + 4)


def test_poked_memory_is_logged_and_put_back() -> None:
    of = program(("ld a0, 0(s0)", "ebreak"))
    of = replace(of, episodes=(replace(of.episodes[0], pokes=(Poke(DATA, 7, 9),)),))
    image = of.image()
    memory = on_vpod(image.memory, length=image.used, limit=100_000).memory
    (only,) = image.records(memory)
    assert (only["x10"], only[f"[{DATA:#x}]"]) == (7, 7)
    assert memory[DATA - 0x8000_0000] == 9


# ---- what is drawn ------------------------------------------------------------------------------------------------


def test_a_seed_says_everything() -> None:
    assert draw(3, 20).image().memory == draw(3, 20).image().memory != draw(4, 20).image().memory


def test_pieces_of_a_form_do_not_overlap() -> None:
    for form in privileged.PROGRAMS:
        pieces = privileged.pieces(form, 1)
        seeds = [int(p.arguments["seed"]) + n for p in pieces for n in range(int(p.arguments["programs"]))]
        assert len(seeds) == len(set(seeds))


# ---- differences ----------------------------------------------------------------------------------------------------


@needs_qemu
def test_programs_agree() -> None:
    outcome = privileged.run(seed=5, programs=1, episodes=700)
    assert outcome.differences == ()
    assert outcome.counts["instructions"] > 100_000
    assert set(outcome.explained) <= set(privileged.KNOWN)
    assert {"mret from M to S", "cause 13 to M", "cause 8 to S"}.isdisjoint(outcome.missing or ())


@needs_qemu
@pytest.mark.parametrize(
    ("theirs", "field"),
    [
        (("li a0, 6", "sd zero, 0(s0)", "ebreak"), "x10"),
        (("li a0, 5", "sd a0, 0(s0)", "ebreak"), f"[{DATA:#x}]"),
        (("li a0, 5", "sd zero, 0(s0)", "ecall"), "mcause"),
    ],
)
def test_one_altered_instruction_is_noticed(theirs: tuple[str, ...], field: str) -> None:
    ours = program(("li a0, 5", "sd zero, 0(s0)", "ebreak"))
    assert compare(ours).difference is None
    found = compare(ours, program(theirs)).difference
    assert found is not None
    assert found.fields[0][0] == field


@needs_qemu
@pytest.mark.parametrize("setting", ["mstatus", "medeleg", "scounteren", "satp", "mip"])
def test_one_altered_setting_is_noticed(setting: str) -> None:
    values = {"mstatus": 10 << 32 | 1 << 22, "satp": 8 << 60 | EMPTY >> 12}
    ours, theirs = program(("ebreak",)), program(("ebreak",), **{setting: values.get(setting, 2)})
    assert compare(ours).difference is None
    assert compare(ours, theirs).difference is not None


def explained(atomic: bool, **pairs: tuple[int, int]) -> str | None:
    """How a record is explained that differs in `pairs`: ours and QEMU's."""
    ours = dict.fromkeys(FIELDS, 0) | {name: mine for name, (mine, _) in pairs.items()}
    theirs = ours | {name: other for name, (_, other) in pairs.items()}
    fields = tuple((name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name])
    return explain(Episode([Step(0, M)], atomic=atomic), 0, [ours], [theirs], Difference(0, 0, fields))


def test_only_known_errors_are_explained() -> None:
    amo = "AMO faults as a load"
    assert explained(True, mcause=(15, 13)) == amo
    assert explained(False, mcause=(15, 13)) is None  # no AMO here
    assert explained(True, mcause=(13, 15)) is None  # that would be vpod's error
    assert explained(True, mcause=(15, 13), x10=(1, 2)) is None
    tval = "tval of a misaligned access fault"
    assert explained(False, mcause=(5, 5), mtval=(0x1003, 0x1000)) == tval
    assert explained(False, mcause=(13, 13), mtval=(0x1003, 0x1000)) is None
    assert explained(False, mcause=(5, 5), mtval=(0x1003, 0xFF8)) is None
    assert explained(False, mcause=(5, 5), mtval=(0x1000, 0x1003)) is None


# ---- shrinking, against an oracle that is wrong ---------------------------------------------------------------------


images: list[Image] = []  # the last that was laid out


def wrong_oracle(memory: bytes, *, length: int, **_: object) -> Finished:
    """vpod itself, but for a register wherever an S-mode ecall trapped."""
    ran = bytearray(on_vpod(memory, length=length).memory)
    cause, register = 8 * FIELDS.index("mcause"), 8 * FIELDS.index("x28")
    for image in images:
        for n, episode in enumerate(image.episodes):
            for step in range(len(episode.steps)):
                at = image.log_of[n] - 0x8000_0000 + 8 * len(FIELDS) * step
                if ran[at + cause : at + cause + 8] == b"\x09" + bytes(7) and image.memory == memory:
                    ran[at + register] ^= 1
    return Finished(bytes(ran))


def test_a_failing_program_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Program.image

    def remembered(self: Program) -> Image:
        images[:] = [original(self)]
        return images[0]

    monkeypatch.setattr(Program, "image", remembered)
    monkeypatch.setattr(privileged, "on_qemu", wrong_oracle)
    whole = draw(1, 40)
    found = compare(whole).difference
    assert found is not None
    small = shrink(whole, found)
    assert len(small.episodes) == 1
    assert len(small.episodes[0].steps) <= 2
    shown = privileged.show(small)
    assert "x28" in shown
    assert "-> " in shown


def test_every_field_is_the_log_of_something() -> None:
    of = program(("li a0, -1", "ebreak"))
    assert len(records(of)[0]) == len(FIELDS)
    assert records(of)[0]["x10"] == ONES
