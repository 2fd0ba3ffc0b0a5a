"""The host's floating-point unit (`tests/host_fpu.c`) beside QEMU: the softfloat called directly, in four modes.

A host has no RMM, no fmin or fclass of RISC-V's kind, and no opinion on conversions out of range; in the rest it is
silicon, and nobody's program. Invariants: nothing is compared where the host says that it has no opinion, and that is
not counted either.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     compare_with_host(build_host(Path(folder)), "fadd.d", 0, operands_for("fadd.d", 1000, random.Random(1)))
    1000
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from array import array
from pathlib import Path

from tests import float_operands
from tests.float_model import MODES, RMM
from tests.proof.pieces import Outcome
from vpod import _fpu

Columns = tuple["array[int]", "array[int]", "array[int]"]

SOURCE = Path(__file__).parent.parent / "host_fpu.c"
HOST_OPERATIONS = [op for op in _fpu.OPERATIONS if not op.startswith(("fmin", "fmax", "fclass"))]
HOST_MODES = [mode for mode in MODES if mode != RMM]
NO_OPINION = 0x80


class Disagreement(AssertionError):
    """The host computes something else; the message has the first such operands."""


def build_host(folder: Path) -> Path:
    """Compile `host_fpu.c`; the program is put into the folder."""
    program = folder / "host_fpu"
    options = ["-O1", "-frounding-math", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    subprocess.run(["cc", *options, "-o", str(program), str(SOURCE), "-lm"], check=True)
    return program


def like(op: str) -> str:
    """The operation that has the same kind of operands as `op`, and can share them."""
    if op.endswith((".w", ".wu", ".l", ".lu")):
        return "fcvt.s.w"
    if op.startswith("fcvt.") and op not in ("fcvt.s.d", "fcvt.d.s"):
        return f"fcvt.w.{op[-1]}"
    return op if op == "fcvt.s.d" else f"fadd.{op[-1]}"


def operands_for(op: str, count: int, rng: random.Random) -> Columns:
    """Random operands that suit the operation: columns of a, b and c."""
    kind = like(op)
    if kind.startswith("fadd."):
        return float_operands.random_sets(kind[-1], count, rng)
    if kind == "fcvt.s.w":
        column = float_operands.random_integers(count, rng)
    elif kind == "fcvt.s.d":
        column = float_operands.random_narrowed(count, rng)
    else:
        column = float_operands.random_convertibles(kind[-1], count, rng)
    return column, column, column


def compare_with_host(program: Path, op: str, rm: int, columns: Columns) -> int:
    """How many sets were compared. Raises Disagreement with the operands of the first difference."""
    data = b"".join(column.tobytes() for column in columns)
    answer = subprocess.run([str(program), op, str(rm)], input=data, stdout=subprocess.PIPE, check=True).stdout
    count = len(columns[0])
    expected, expected_flags = array("Q", answer[: 8 * count]), answer[8 * count :]
    results, flags = _fpu.evaluate(op, rm, *columns)
    if results == expected and flags == expected_flags:
        return count
    for k in range(count):
        if expected_flags[k] != NO_OPINION and (results[k] != expected[k] or flags[k] != expected_flags[k]):
            shown = ", ".join(f"{column[k]:#x}" for column in columns)
            raise Disagreement(
                f"{op} {MODES[rm]} {shown}: got {results[k]:#x} flags {flags[k]:#x}, "
                f"the host says {expected[k]:#x} flags {expected_flags[k]:#x}"
            )
    return count - expected_flags.count(NO_OPINION)


def compare_all(seed: int, count: int) -> Outcome:
    """Every operation that the host has, in its modes, over `count` sets; operations of one kind share theirs."""
    rng = random.Random(f"host {seed}")
    columns: dict[str, Columns] = {}
    compared, differences = 0, []
    with tempfile.TemporaryDirectory() as folder:
        program = build_host(Path(folder))
        for op in HOST_OPERATIONS:
            if like(op) not in columns:
                columns[like(op)] = operands_for(op, count, rng)
            for mode in HOST_MODES:
                try:
                    compared += compare_with_host(program, op, mode, columns[like(op)])
                except Disagreement as difference:
                    differences.append(str(difference))
    return Outcome({"results (host)": compared}, tuple(differences))
