"""The proof's target `floats` notices wrong values, flags, modes and refusals, and agrees where it should.

QEMU is given an image with another instruction in the place of one, which is what a fault in the core would look like.
"""

from __future__ import annotations

import itertools
import shutil
import struct
from array import array
from dataclasses import replace

import pytest

from tests.float_model import DOUBLE
from tests.proof import floats, floats_reserved
from tests.proof.board import Finished, on_vpod
from tests.proof.floats import ARITIES, KINDS
from tests.proof.floats_image import BLOCK, ROWS, Cross, Pass, Sweep, details, hashes, passes_of
from tests.proof.pieces import Form
from vpod import _fpu, isa

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-riscv64") is None, reason="needs qemu-system-riscv64")
ONE, QUIET = 0x3FF0_0000_0000_0000, DOUBLE.nan


def random_sweep(kind: str, blocks: int, first: int = 0) -> Sweep:
    found = KINDS[kind]
    return Sweep(found.width, passes_of(found.names), found.random(5), blocks, first, seed=5)


def on_the_core(sweep: Sweep) -> bytes:
    return on_vpod(sweep.image(), length=sweep.length, limit=sweep.instructions).memory


def disguised(sweep: Sweep, name: str, other: str) -> Sweep:
    return replace(sweep, disguised={name: other})


# ---- what is compared ------------------------------------------------------------------------------------------------


def test_every_instruction_is_of_one_kind() -> None:
    memory = {"flw", "fsw", "fld", "fsd"}
    everything = [row.name for row in isa.BASE_ROWS if row.extension in ("F", "D") and row.name not in memory]
    assert sorted(name for kind in KINDS.values() for name in kind.names) == sorted(everything)


@pytest.mark.parametrize(("form", "least"), [("short", 100_000), ("long", 10_000_000)])
def test_each_instruction_gets_its_random_sets_and_its_cross_product(form: Form, least: int) -> None:
    blocks = dict.fromkeys(KINDS, 0)
    crossed: set[str] = set()
    for piece in floats.pieces(form, 1):
        kind = str(piece.arguments.get("operands"))
        if piece.arguments["kind"] == "random":
            assert piece.arguments["first"] == blocks[kind]
            blocks[kind] += int(piece.arguments["blocks"])
        elif piece.arguments["kind"] == "cross":
            crossed.update(KINDS[kind].of_arity(int(piece.arguments["arity"])))
    assert min(blocks.values()) * BLOCK >= least
    assert crossed == set(ROWS)
    assert {str(piece.arguments["kind"]) for piece in floats.pieces(form, 1)} == {"cross", "random", "reserved", "host"}


@pytest.mark.parametrize("arity", ARITIES)
def test_a_cross_product_has_every_set_and_starts_again(arity: int) -> None:
    values = [3, 5, 8]
    source = Cross(values, arity)
    sweep = Sweep("", (Pass("fmv.x.d"),), source, blocks=1, detail=True)
    sets = [operands[:arity] for operands, _ in details(on_the_core(sweep))]
    assert set(sets) == set(itertools.product(values, repeat=arity))
    assert sets[source.sets : 2 * source.sets] == sets[: source.sets]


def test_random_sets_depend_on_the_blocks_number_alone() -> None:
    three = random_sweep("doubles", 3)
    assert hashes(on_the_core(three), three)[2] == hashes(on_the_core(last := random_sweep("doubles", 1, 2)), last)[0]
    sets = [operands for operands, _ in details(on_the_core(three.only(2, three.passes[0])))]
    others = [operands for operands, _ in details(on_the_core(three.only(1, three.passes[0])))]
    assert len(set(sets)) > 0.9 * BLOCK and len({*sets, *others}) > 1.9 * BLOCK * 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_random_sets_tell_all_modes_apart(kind: str) -> None:
    """So every instruction's sets have ties and numbers between two, of both signs where it has both."""
    sweep = random_sweep(kind, 8)
    rows = hashes(on_the_core(sweep), sweep)
    seen: dict[str, set[tuple[int, ...]]] = {}
    for number, one in enumerate(sweep.passes):
        seen.setdefault(one.name, set()).add(tuple(row[number] for row in rows))
    assert {name: len(found) for name, found in seen.items()} == {name: modes_that_differ(name) for name in seen}


def modes_that_differ(name: str) -> int:
    if "rounds" not in ROWS[name].flags or "exact" in ROWS[name].flags:
        return 1
    if name.startswith("fsqrt"):
        return 3  # never negative, and never a tie
    return 4 if name in ("fcvt.s.wu", "fcvt.s.lu", "fcvt.d.lu") else 5  # never negative


def test_every_flag_is_raised_kept_and_seen() -> None:
    """Odd blocks 7, 15, ... start with flags set, which stick; all others clear them."""
    sweep = random_sweep("doubles", 1)
    raised = {flags for _, (_, flags) in details(on_the_core(sweep.only(0, Pass("fdiv.d", 0))))}
    assert raised >= {0, 1, 3, 5, 8, 16}
    kept = {flags & 12 for _, (_, flags) in details(on_the_core(sweep.only(15, Pass("fmv.x.d"))))}
    assert kept == {12}
    crossed = Sweep("", (Pass("fmv.x.d"),), Cross((ONE,), 1), blocks=1, first=15, detail=True)
    assert {flags for _, (_, flags) in details(on_the_core(crossed))} == {0}, "flags of special operands aren't hidden"


# ---- agreement -----------------------------------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("kind", KINDS)
def test_random_sets_agree_with_qemu(kind: str) -> None:
    outcome = floats.run(kind="random", operands=kind, seed=3, first=8, blocks=8)
    assert outcome.differences == ()
    assert outcome.counts["operand sets"] == 8 * BLOCK * len(KINDS[kind].names)


@needs_qemu
@pytest.mark.parametrize(("kind", "arity"), [("singles", 2), ("doubles", 1), ("narrowed", 1), ("integers", 1)])
def test_special_operands_agree_with_qemu(kind: str, arity: int) -> None:
    outcome = floats.run(kind="cross", operands=kind, arity=arity)
    assert outcome.differences == ()
    sets = len(KINDS[kind].specials(arity)) ** arity
    assert outcome.counts["operand sets"] == sets * len(KINDS[kind].of_arity(arity))


@needs_qemu
def test_reserved_modes_agree_with_qemu() -> None:
    outcome = floats.run(kind="reserved")
    assert outcome.differences == ()
    rounding = sum("rounds" in row.flags for row in ROWS.values())
    assert outcome.counts["refused"] == rounding * (3 + 6) + len(ROWS) * 2


# ---- differences are noticed ---------------------------------------------------------------------------------------


@needs_qemu
def test_a_wrong_instruction_is_named_with_its_operands() -> None:
    sweep = Sweep("", passes_of(["fadd.d", "fmul.d"]), Cross((ONE, ONE | DOUBLE.sign), 2), blocks=2)
    outcome = floats.compare(sweep, disguised(sweep, "fadd.d", "fsub.d"))
    modes = ("rne", "rtz", "rdn", "rup", "rmm")
    assert [text.split(",")[0] for text in outcome.differences] == [f"fadd.d {mode}" for mode in modes]
    one = f"{ONE:#x}"
    assert f"set 0 of {one}, {one}: vpod 0x4000000000000000 fflags 0x0, QEMU 0x0 fflags 0x0" in outcome.differences[0]


@needs_qemu
def test_a_wrong_flag_is_noticed() -> None:
    sweep = Sweep("", (Pass("feq.d"),), Cross((QUIET,), 2), blocks=1)
    (difference,) = floats.compare(sweep, disguised(sweep, "feq.d", "flt.d")).differences
    assert "vpod 0x0 fflags 0x0, QEMU 0x0 fflags 0x10" in difference


@needs_qemu
@pytest.mark.parametrize(
    ("kind", "name", "other"),
    [
        ("doubles", "fsgnj.d", "fsgnjn.d"),  # signs alone, and every one of a block's
        ("singles", "fsgnjn.s", "fsgnjn.d"),  # boxes
        ("singles", "fmin.s", "fmax.s"),
        ("doubles", "fle.d", "flt.d"),
        ("convertible-doubles", "fcvt.wu.d", "fcvt.w.d"),
        ("convertible-singles", "fcvt.lu.s", "fcvt.l.s"),
        ("integers", "fcvt.d.l", "fcvt.d.lu"),
        ("narrowed", "fcvt.s.d", "fcvt.d.s"),
    ],
)
def test_a_wrong_instruction_is_noticed_and_no_other(kind: str, name: str, other: str) -> None:
    sweep = random_sweep(kind, 2)
    differences = floats.compare(sweep, disguised(sweep, name, other)).differences
    assert len(differences) == (5 if "rounds" in ROWS[name].flags else 1)
    assert all(text.startswith(name) and "vpod" in text for text in differences)


@needs_qemu
@pytest.mark.parametrize("block", [0, 1])
def test_a_wrong_rounding_is_noticed_in_frm_and_in_the_instruction(block: int) -> None:
    """Even blocks round as frm says, odd ones as the instruction does."""
    sweep = replace(random_sweep("doubles", 1, block), passes=(Pass("fadd.d", 0),))
    (difference,) = floats.compare(sweep, replace(sweep, passes=(Pass("fadd.d", 4),))).differences
    assert difference.startswith(f"fadd.d rne, block {block} set ")


@needs_qemu
def test_products_that_differ_are_not_the_instructions_fault() -> None:
    sweep = replace(random_sweep("doubles", 1), passes=(Pass("fmv.x.d"),))
    (difference,) = floats.compare(sweep, replace(sweep, width="s")).differences
    assert "sets differ, of those that fmul made" in difference


@needs_qemu
@pytest.mark.parametrize(("first", "mode"), [(0, "dyn"), (1, "rm5")])
def test_a_trap_is_told(first: int, mode: str) -> None:
    """As if the core took a rounding mode that is legal for a reserved one."""
    sweep = Sweep("", (Pass("fadd.d", 0),), Cross((ONE,), 2), blocks=1, first=first)
    (difference,) = floats.compare(replace(sweep, passes=(Pass("fadd.d", 5),)), sweep).differences
    assert difference.startswith(f"vpod: a trap of cause 2 in block {first} at fadd.d ")
    assert difference.endswith(", rm5") == (mode == "rm5")


def test_a_wrong_refusal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list(floats_reserved.trials())
    number = next(k for k, trial in enumerate(tried) if (trial.name, trial.rm, trial.frm) == ("fadd.s", "dyn", 5))

    def another(image: bytes, *, length: int) -> Finished:
        memory = bytearray(on_vpod(image, length=length).memory)
        at = floats_reserved.RESULTS_AT + 8 * floats_reserved.WORDS * number
        assert struct.unpack_from("<Q", memory, at) == (floats_reserved.ILLEGAL,)
        memory[at : at + 8] = bytes([0xFF]) * 8  # as if it had not trapped
        return Finished(bytes(memory))

    monkeypatch.setattr(floats_reserved, "on_qemu", another)
    (difference,) = floats_reserved.compare().differences
    assert difference.startswith("fadd.s dyn with frm 5 and FS 3: cause, tval, pc, result, fflags are ['0x2', ")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler called cc to build tests/host_fpu.c")
def test_the_host_disagrees_with_a_wrong_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = _fpu.evaluate

    def another(op: str, rm: int, *columns: array[int]) -> tuple[array[int], bytes]:
        results, flags = evaluate("fsub.s" if op == "fadd.s" else op, rm, *columns)
        return results, flags

    monkeypatch.setattr(_fpu, "evaluate", another)
    outcome = floats.run(kind="host", seed=1, count=500)
    assert [text.split()[:2] for text in outcome.differences] == [["fadd.s", m] for m in ("RNE", "RTZ", "RDN", "RUP")]
    assert outcome.counts["results (host)"] > 40_000
