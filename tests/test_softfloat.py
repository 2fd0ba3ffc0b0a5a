"""The softfloat against two oracles: exact fractions (`float_model.py`) and the host's own unit (`host_fpu.c`).

Every operation, all five rounding modes, results and flags. The model sees the cross product of the corners and some
random operands; the host, which is quick, sees a hundred thousand biased random sets an operation and mode (it has no
RMM and no opinion on conversions out of range: those are the model's). The long form is the proof's target `floats`:

    python -m tests.proof --long --only floats
"""

from __future__ import annotations

import itertools
import random
import shutil
from array import array
from fractions import Fraction
from pathlib import Path

import pytest

from tests import float_model, float_operands
from tests.float_model import DOUBLE, FORMATS, INTEGERS, MODES, NV, NX, OF, RDN, RMM, RNE, RTZ, RUP, SINGLE, UF
from tests.proof.floats_host import HOST_OPERATIONS, Columns, build_host, compare_with_host, like, operands_for
from vpod import _fpu

TWO_OPERANDS = ["fadd", "fsub", "fmul", "fdiv", "fmin", "fmax", "feq", "flt", "fle"]
TO_INTEGERS = [f"fcvt.{name}" for name in INTEGERS]
FROM_INTEGERS = [f"fcvt.{width}.{name}" for name in INTEGERS for width in "sd"]


def check_with_model(op: str, sets: list[tuple[int, int, int]], modes: dict[int, str] = MODES) -> None:
    """Every set in every mode gives the model's pattern and flags."""
    a, b, c = (array("Q", column) for column in zip(*sets, strict=True))
    for rm, mode in modes.items():
        results, flags = _fpu.evaluate(op, rm, a, b, c)
        for operands, result, raised in zip(sets, results, flags, strict=True):
            expected = float_model.evaluate(op, rm, *operands)
            if (result, raised) != expected:
                shown = ", ".join(f"{x:#x}" for x in operands)
                pytest.fail(
                    f"{op} {mode} {shown}: got {result:#x} flags {raised:#x}, "
                    f"the model says {expected[0]:#x} flags {expected[1]:#x}"
                )


def alone(values: list[int]) -> list[tuple[int, int, int]]:
    return [(value, 0, 0) for value in values]


def test_every_operation_is_tested() -> None:
    tested = {f"{head}.{width}" for head in [*TWO_OPERANDS, *TO_INTEGERS, "fsqrt", "fmadd", "fclass"] for width in "sd"}
    assert tested | set(FROM_INTEGERS) | {"fcvt.s.d", "fcvt.d.s"} == set(_fpu.OPERATIONS)


@pytest.mark.parametrize("width", "sd")
@pytest.mark.parametrize("head", TWO_OPERANDS)
def test_corners_in_pairs(head: str, width: str) -> None:
    corners = float_operands.specials(FORMATS[width])
    check_with_model(f"{head}.{width}", [(a, b, 0) for a, b in itertools.product(corners, corners)])


@pytest.mark.parametrize("width", "sd")
def test_fused_corners_in_triples(width: str) -> None:
    corners = float_operands.few_specials(FORMATS[width])
    check_with_model(f"fmadd.{width}", list(itertools.product(corners, corners, corners)))


@pytest.mark.parametrize("width", "sd")
@pytest.mark.parametrize("head", ["fsqrt", "fclass", *TO_INTEGERS])
def test_corners_alone(head: str, width: str) -> None:
    form = FORMATS[width]
    check_with_model(f"{head}.{width}", alone(float_operands.specials(form) + float_operands.saturation_edges(form)))


@pytest.mark.parametrize("op", FROM_INTEGERS)
def test_integers_near_powers_of_two(op: str) -> None:
    check_with_model(op, alone(float_operands.integers()))


def test_narrowing_and_widening_corners() -> None:
    check_with_model("fcvt.d.s", alone(float_operands.specials(SINGLE)))
    check_with_model("fcvt.s.d", alone(float_operands.specials(DOUBLE) + float_operands.narrowing_edges()))


@pytest.mark.parametrize("op", _fpu.OPERATIONS)
def test_random_operands_against_the_model(op: str) -> None:
    columns = operands_for(op, 1500, random.Random(f"model {op}"))
    check_with_model(op, list(zip(*columns, strict=True)))


@pytest.mark.parametrize("width", "sd")
def test_square_roots_of_squares_and_their_neighbours(width: str) -> None:
    """The root's last digit is a guess that is corrected: exact squares and what lies next to them show a wrong one."""
    form, rng = FORMATS[width], random.Random(7)
    half = form.precision // 2
    values = []
    for _ in range(2000):
        root = rng.getrandbits(half) | 1 << (half - 1)
        square, _ = float_model.encode(form, Fraction(root * root), False, RNE)
        values += [square - 1, square, square + 1]
    check_with_model(f"fsqrt.{width}", alone(values))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler called cc to build tests/host_fpu.c")
    return build_host(tmp_path_factory.mktemp("host_fpu"))


@pytest.fixture(scope="session")
def pool() -> dict[str, Columns]:
    """A hundred thousand operand sets of each kind, made once: making them takes longer than everything else."""
    rng = random.Random(20240607)
    return {op: operands_for(op, 100_000, rng) for op in sorted({like(op) for op in HOST_OPERATIONS})}


@pytest.mark.parametrize("op", HOST_OPERATIONS)
def test_against_the_hosts_unit(op: str, host: Path, pool: dict[str, Columns]) -> None:
    for rm in (RNE, RTZ, RDN, RUP):
        compared = compare_with_host(host, op, rm, pool[like(op)])
        few = like(op).startswith("fcvt.w")                    # many are out of range
        assert compared > 50_000 or few, f"{op}: the host had an opinion on {compared} sets only"


@pytest.mark.parametrize(
    ("op", "rm", "operands", "expected"),
    [
        # tininess after rounding: just under the smallest normal, but rounded with unbounded exponent it is normal
        ("fmul.s", RNE, (0x00FFFFFF, 0x3F000000, 0), (0x00800000, NX | UF)),
        ("fmul.d", RNE, (0x001FFFFFFFFFFFFF, 0x3FE0000000000000, 0), (0x0010000000000000, NX | UF)),
        ("fmul.d", RNE, (0x0010000000000001, 0x3FEFFFFFFFFFFFFF, 0), (0x0010000000000000, NX)),
        ("fmul.d", RTZ, (0x0010000000000001, 0x3FEFFFFFFFFFFFFF, 0), (0x0010000000000000, NX)),
        # overflow goes to the largest number when rounding towards zero
        ("fadd.s", RTZ, (0x7F7FFFFF, 0x7F7FFFFF, 0), (0x7F7FFFFF, OF | NX)),
        ("fadd.s", RUP, (0xFF7FFFFF, 0xFF7FFFFF, 0), (0xFF7FFFFF, OF | NX)),
        ("fadd.s", RMM, (0x7F7FFFFF, 0x7F7FFFFF, 0), (0x7F800000, OF | NX)),
        # infinity times zero plus a quiet NaN is invalid all the same
        ("fmadd.d", RNE, (0x7FF0000000000000, 0, 0x7FF8000000000000), (0x7FF8000000000000, NV)),
        # minimumNumber: the number wins over a NaN, and a signalling one is invalid besides
        ("fmin.s", RNE, (0x7F800001, 0x3F800000, 0), (0x3F800000, NV)),
        ("fmax.s", RNE, (0x80000000, 0x00000000, 0), (0x00000000, 0)),
        # saturation: NV alone, never NX with it; NaN is the largest integer
        ("fcvt.wu.d", RTZ, (0xBFF8000000000000, 0, 0), (0, NV)),
        ("fcvt.wu.d", RTZ, (0xBFE0000000000000, 0, 0), (0, NX)),
        ("fcvt.wu.d", RNE, (0x41EFFFFFFFE00000, 0, 0), (0xFFFFFFFFFFFFFFFF, 0)),
        ("fcvt.w.s", RNE, (0xFFC00000, 0, 0), (0x7FFFFFFF, NV)),
        ("fcvt.lu.s", RNE, (0x7F800000, 0, 0), (0xFFFFFFFFFFFFFFFF, NV)),
        ("fcvt.l.d", RMM, (0x3FE0000000000000, 0, 0), (1, NX)),
        # x - x is -0 only when rounding down
        ("fsub.d", RDN, (0x3FF0000000000000, 0x3FF0000000000000, 0), (0x8000000000000000, 0)),
        ("fsub.d", RUP, (0x3FF0000000000000, 0x3FF0000000000000, 0), (0, 0)),
    ],
)
def test_known_answers(op: str, rm: int, operands: tuple[int, int, int], expected: tuple[int, int]) -> None:
    """Written by hand from the specification, so that the model itself has a witness."""
    assert float_model.evaluate(op, rm, *operands) == expected
    results, flags = _fpu.evaluate(op, rm, *(array("Q", [x]) for x in operands))
    assert (results[0], flags[0]) == expected


def test_bad_arguments_are_refused() -> None:
    one = array("Q", [0])
    with pytest.raises(ValueError, match=r"fsin\.d: no such operation"):
        _fpu.evaluate("fsin.d", RNE, one)
    with pytest.raises(ValueError, match="rounding mode 5"):
        _fpu.evaluate("fadd.d", 5, one, one)
    with pytest.raises(ValueError, match="1, 2 and 1 operands"):
        _fpu.evaluate("fadd.d", RNE, one, array("Q", [0, 0]))
    assert _fpu.evaluate("fadd.d", RNE, b"") == (array("Q"), b"")
