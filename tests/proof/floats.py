"""Target `floats`: every F and D instruction against QEMU's softfloat, and the softfloat against the host's unit too.

Four kinds of piece, of which the first three run one image on both machines (`floats_image.py`, `board.py`):

* `cross`: all instructions of so many operands over the full cross product of the special values of their kind;
* `random`: all instructions of a kind over blocks of random sets, biased as `tests/float_operands.py` says;
* `reserved`: reserved rounding modes, in frm and in the instruction, and FS off: all are illegal and change nothing;
* `host`: `floats_host.py`.

Operands come in six `KINDS`, and an instruction belongs to one of them. Every set is computed in all five modes.
Values and flags are compared by hashes of a block; where two differ, the block is run again with results kept, and the
first differing set is the report. So a report is one set for an instruction and a mode, however much differs.

There is no table of known errors: QEMU 7.2 differs from the specification in nothing that is compared here.

    >>> run(kind="random", operands="doubles", seed=1, first=0, blocks=2).differences
    ()
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tests import float_operands
from tests.float_model import DOUBLE, FORMATS, SINGLE
from tests.proof import floats_host, floats_reserved
from tests.proof.board import on_qemu, on_vpod
from tests.proof.floats_image import (
    BLOCK,
    MASKS,
    ROWS,
    TEMPLATES,
    Cross,
    Random,
    Sweep,
    details,
    hashes,
    passes_of,
    trap,
)
from tests.proof.pieces import Form, Outcome, Piece

MACHINES = ("vpod", "QEMU")
NAN_BOX = 0xFFFF_FFFF << 32
SIGN = {"s": SINGLE.sign, "d": DOUBLE.sign, "": DOUBLE.sign}
Triple = tuple[int, int, int]

# ---- kinds of operands -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Operands of one sort, and the instructions that they are for.

    `width` is the format that near products are made in; `specials` are the values to cross, given how many operands
    there are; `templates` makes that many random sets.
    """

    width: str
    accepts: Callable[[str], bool]
    specials: Callable[[int], Sequence[int]]
    templates: Callable[[int, random.Random], Sequence[Triple]]
    single: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in ROWS if self.accepts(name))

    def random(self, seed: int) -> Random:
        rng = random.Random(f"floats {seed}")
        return Random(self.templates(TEMPLATES, rng), masks(self.single, rng))

    def of_arity(self, arity: int) -> tuple[str, ...]:
        """The instructions of that many operands."""
        return tuple(name for name in self.names if arity_of(name) == arity)


def arity_of(name: str) -> int:
    return sum(operand in ("rs1", "fs1", "fs2", "fs3") for operand in ROWS[name].operands)


def converts_to_integer(name: str) -> bool:
    return name.startswith("fcvt.") and "rd" in ROWS[name].operands


def from_integer(name: str) -> bool:
    return "rs1" in ROWS[name].operands


def computes(name: str, width: str) -> bool:
    """Whether it is an instruction on numbers of that width that isn't some other kind's."""
    return name.endswith(width) and name != "fcvt.s.d" and not converts_to_integer(name) and not from_integer(name)


def boxed(values: Sequence[int]) -> list[int]:
    return [NAN_BOX | value for value in values]


def unboxed_singles(arity: int) -> list[int]:
    """Registers that hold no single, though their low half is one: all count as the canonical NaN.

    The upper half lacks one bit of its 32, each in turn for instructions of one operand, or is no box at all.
    """
    low = (0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0x7F80_0001)
    uppers = [0, 0x3FF0_0000, *(0xFFFF_FFFF ^ 1 << bit for bit in (range(32) if arity == 1 else (0, 31)))]
    return [upper << 32 | low[k % 4] for k, upper in enumerate(uppers)]


def corners(width: str, arity: int) -> list[int]:
    """Values whose sums, products, quotients and roots tie, cancel, overflow, underflow, or are NaNs."""
    form = FORMATS[width]
    values = float_operands.specials(form)
    step, one = 1 << form.precision - 1, form.emax << form.precision - 1
    ties = [
        one + form.precision * step + 1, one - (form.precision + 1) * step, one + 3 * step // 2 + 1,
        one + step // 2 + 1, 2 * step + 1, (form.emax // 2) * step, (form.emax // 2) * step + 1,
        one + (form.emax // 2 + 1) * step,
    ]  # fmt: skip
    values += [value | sign for value in ties for sign in (0, form.sign)]
    if arity == 1:
        values += float_operands.saturation_edges(form)
    return boxed(values) + unboxed_singles(arity) if width == "s" else values + unboxed_singles(2)[:2]


def convertibles(width: str) -> list[int]:
    form = FORMATS[width]
    values = float_operands.saturation_edges(form) + float_operands.specials(form)
    return boxed(values) + unboxed_singles(1) if width == "s" else values


def masks(single: bool, rng: random.Random) -> list[int]:
    """Where a template may be changed: its fraction, wholly or a little, its sign, its exponent a little, anywhere."""
    form = SINGLE if single else DOUBLE
    fraction = (1 << form.precision - 1) - 1
    anywhere = (1 << form.width) - 1
    found = [fraction] * 16 + [fraction | form.sign] * 8 + [0] * 8 + [form.sign] * 4 + [anywhere] * 2
    found += [(1 << rng.randrange(1, form.precision)) - 1 for _ in range(12)]
    found += [1 << rng.randrange(form.precision - 1) for _ in range(8)]
    found += [(1 << rng.randint(1, 3)) << form.precision - 1 for _ in range(4)]
    found += [1 << rng.randrange(32, 64) for _ in range(2)] if single else [form.sign | 1, 3]
    assert len(found) == MASKS
    return found


def sets_of(width: str) -> Callable[[int, random.Random], Sequence[Triple]]:
    def make(count: int, rng: random.Random) -> Sequence[Triple]:
        columns = float_operands.random_sets(width, count, rng)
        return list(zip(*(boxed(column) if width == "s" else column for column in columns), strict=True))

    return make


def alone(make: Callable[[int, random.Random], Sequence[int]]) -> Callable[[int, random.Random], Sequence[Triple]]:
    """Sets whose first operand is all that counts."""
    return lambda count, rng: [(value, 0, 0) for value in make(count, rng)]


KINDS: Mapping[str, Kind] = {
    "singles": Kind(
        "s", lambda name: computes(name, "s") or name == "fmv.x.w", lambda n: corners("s", n), sets_of("s"), single=True
    ),
    "doubles": Kind("d", lambda name: computes(name, "d"), lambda n: corners("d", n), sets_of("d")),
    "narrowed": Kind(
        "", lambda name: name == "fcvt.s.d",
        lambda n: corners("d", n) + float_operands.narrowing_edges(), alone(float_operands.random_narrowed),
    ),
    "convertible-singles": Kind(
        "", lambda name: converts_to_integer(name) and name.endswith("s"), lambda n: convertibles("s"),
        alone(lambda count, rng: boxed(float_operands.random_convertibles("s", count, rng))), single=True,
    ),
    "convertible-doubles": Kind(
        "", lambda name: converts_to_integer(name) and name.endswith("d"), lambda n: convertibles("d"),
        alone(lambda count, rng: float_operands.random_convertibles("d", count, rng)),
    ),
    "integers": Kind("", from_integer, lambda n: float_operands.integers(), alone(float_operands.random_integers)),
}  # fmt: skip


# ---- comparing -------------------------------------------------------------------------------------------------------


def compare(ours: Sweep, theirs: Sweep | None = None) -> Outcome:
    """The sweep on the core and under QEMU (which can be given another one), block by block and pass by pass."""
    theirs = ours if theirs is None else theirs
    memories = run_both(ours, theirs)
    traps = [f"{machine}: {what}" for machine, memory in zip(MACHINES, memories, strict=True) if (what := trap(memory))]
    if traps:
        return Outcome(differences=("; ".join(traps),))
    found, expected = (hashes(memory, sweep) for memory, sweep in zip(memories, (ours, theirs), strict=True))
    first: dict[int, int] = {}  # the block in which a pass first differs
    for block, (row, other) in enumerate(zip(found, expected, strict=True), ours.first):
        for number, (our_hash, their_hash) in enumerate(zip(row, other, strict=True)):
            if our_hash != their_hash:
                first.setdefault(number, block)
    sets = ours.blocks * BLOCK
    if isinstance(ours.source, Cross):
        sets = min(sets, ours.source.sets)
    names = {one.name for one in ours.passes}
    return Outcome(
        {"results": sets * len(ours.passes), "operand sets": sets * len(names)},
        tuple(
            explain(ours.only(block, ours.passes[number]), theirs.only(block, theirs.passes[number]))
            for number, block in first.items()
        ),
        missing=tuple(name for name in ROWS if name not in names),
    )


def run_both(ours: Sweep, theirs: Sweep) -> tuple[bytes, bytes]:
    """The core's memory and QEMU's."""
    core = on_vpod(ours.image(), length=ours.length, limit=ours.instructions)
    return core.memory, on_qemu(theirs.image(), length=theirs.length, seconds=patience(theirs)).memory


def patience(sweep: Sweep) -> float:
    """Seconds that QEMU may take: a hundred times what it should."""
    return 60 + sweep.blocks * BLOCK * len(sweep.passes) * 15e-6


def explain(ours: Sweep, theirs: Sweep) -> str:
    """The first set of a block that differs, in words; both have one block and one pass."""
    found, expected = map(details, run_both(ours, theirs))
    (one,) = ours.passes
    where = f"{one}, block {ours.first}"
    odd_sets = 0
    for number, ((operands, result), (others, wanted)) in enumerate(zip(found, expected, strict=True)):
        if operands != others:
            odd_sets += 1
        elif result != wanted:
            shown = ", ".join(f"{operand:#x}" for operand in operands[: arity_of(one.name)])
            count = sum(a != b for a, b in zip(found, expected, strict=True))
            return (
                f"{where} set {number} of {shown}: vpod {result[0]:#x} fflags {result[1]:#x}, "
                f"QEMU {wanted[0]:#x} fflags {wanted[1]:#x}; {count} of the block's {BLOCK} sets differ"
            )
    if odd_sets:
        return f"{where}: {odd_sets} sets differ, of those that fmul made (see its own differences); results agree"
    return f"{where}: the hashes differ, and run again nothing does"


# ---- pieces ----------------------------------------------------------------------------------------------------------

RANDOM_BLOCKS: Mapping[Form, int] = {"short": 384, "long": 8_192}  # 786,432 and 16,777,216 sets an instruction
ARITIES = (3, 2, 1)
BLOCKS_A_PIECE = 1_200
HOST_SETS: Mapping[Form, int] = {"short": 20_000, "long": 200_000}


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    found = [Piece("floats", {"kind": "reserved"})]
    for name, kind in KINDS.items():
        for arity in ARITIES:
            if kind.of_arity(arity):
                found.append(Piece("floats", {"kind": "cross", "operands": name, "arity": arity}))
        for first in range(0, RANDOM_BLOCKS[form], BLOCKS_A_PIECE):
            blocks = min(BLOCKS_A_PIECE, RANDOM_BLOCKS[form] - first)
            part: dict[str, int | str] = {"operands": name, "seed": seed, "first": first, "blocks": blocks}
            found.append(Piece("floats", {"kind": "random", **part}, seconds=1800))
    return [*found, Piece("floats", {"kind": "host", "seed": seed, "count": HOST_SETS[form]})]


def run_cross(operands: str, arity: int) -> Outcome:
    kind = KINDS[operands]
    source = Cross(kind.specials(arity), arity)
    return compare(Sweep("", passes_of(kind.of_arity(arity)), source, blocks=-(-source.sets // BLOCK)))


def run_random(operands: str, seed: int, first: int, blocks: int) -> Outcome:
    kind = KINDS[operands]
    source = kind.random(seed * 1_000_003 + first)
    return compare(Sweep(kind.width, passes_of(kind.names), source, blocks, first, seed))


def run(kind: str, **arguments: int | str) -> Outcome:
    kinds: Mapping[str, Callable[..., Outcome]] = {
        "cross": run_cross,
        "random": run_random,
        "reserved": floats_reserved.compare,
        "host": floats_host.compare_all,
    }
    return kinds[kind](**arguments)
