"""The long form of `test_softfloat.py`: N rounds (default 100) of new random operands for every operation.

    python tests/softfloat_long.py [N]

A round is 100,000 operand sets an operation in the four modes that the host has, compared with its floating-point unit,
and 1,000 sets an operation in all five modes compared with the exact model. Prints a line a round; exits 1 on the first
difference, with the operands. The seed is the round's number, so a difference can be seen again.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

import float_model
import float_operands

from vpod import _fpu

Columns = tuple["array[int]", "array[int]", "array[int]"]

HOST_OPERATIONS = [op for op in _fpu.OPERATIONS if not op.startswith(("fmin", "fmax", "fclass"))]
NO_OPINION = 0x80


def build_host(folder: Path) -> Path:
    """Compile `host_fpu.c`; the program is put into the folder."""
    program = folder / "host_fpu"
    source = Path(__file__).with_name("host_fpu.c")
    options = ["-O1", "-frounding-math", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    subprocess.run(["cc", *options, "-o", str(program), str(source), "-lm"], check=True)
    return program


def operands_for(op: str, count: int, rng: random.Random) -> Columns:
    """Random operands that suit the operation: columns of a, b and c."""
    if op.startswith("fcvt.") and op.endswith((".w", ".wu", ".l", ".lu")):
        column = float_operands.random_integers(count, rng)
        return column, column, column
    if op.startswith("fcvt.") and op not in ("fcvt.s.d", "fcvt.d.s"):
        column = float_operands.random_convertibles(op[-1], count, rng)
        return column, column, column
    a, b, c = float_operands.random_sets(op[-1], count, rng)
    if op == "fcvt.s.d":                                       # half of them near a single's range
        for k in range(0, count, 2):
            a[k] = (a[k] & ~(0x7FF << 52)) | (1023 + rng.randint(-155, 130)) << 52
    return a, b, c


def compare_with_host(program: Path, op: str, rm: int, columns: Columns) -> int:
    """How many sets were compared; AssertionError with the operands of the first difference."""
    data = b"".join(column.tobytes() for column in columns)
    answer = subprocess.run([str(program), op, str(rm)], input=data, stdout=subprocess.PIPE, check=True).stdout
    count = len(columns[0])
    expected, expected_flags = array("Q", answer[: 8 * count]), answer[8 * count :]
    results, flags = _fpu.evaluate(op, rm, *columns)
    if results == expected and flags == expected_flags:
        return count
    compared = 0
    for k in range(count):
        if expected_flags[k] == NO_OPINION:
            continue
        compared += 1
        if results[k] != expected[k] or flags[k] != expected_flags[k]:
            shown = ", ".join(f"{column[k]:#x}" for column in columns)
            raise AssertionError(
                f"{op} {float_model.MODES[rm]} {shown}: got {results[k]:#x} flags {flags[k]:#x}, "
                f"the host says {expected[k]:#x} flags {expected_flags[k]:#x}"
            )
    return compared


def compare_with_model(op: str, rm: int, columns: Columns) -> int:
    """How many sets were compared; AssertionError with the operands of the first difference."""
    results, flags = _fpu.evaluate(op, rm, *columns)
    for a, b, c, result, raised in zip(*columns, results, flags, strict=True):
        expected = float_model.evaluate(op, rm, a, b, c)
        if (result, raised) != expected:
            raise AssertionError(
                f"{op} {float_model.MODES[rm]} {a:#x}, {b:#x}, {c:#x}: got {result:#x} flags {raised:#x}, "
                f"the model says {expected[0]:#x} flags {expected[1]:#x}"
            )
    return len(results)


def one_round(program: Path, seed: int, count: int = 100_000, modelled: int = 1_000) -> tuple[int, int]:
    """Sets compared with the host and with the model."""
    by_host = by_model = 0
    for op in _fpu.OPERATIONS:
        rng = random.Random(f"{seed} {op}")
        columns = operands_for(op, count, rng)
        for rm in float_model.MODES:
            if op in HOST_OPERATIONS and rm != float_model.RMM:
                by_host += compare_with_host(program, op, rm, columns)
            a, b, c = columns
            by_model += compare_with_model(op, rm, (a[:modelled], b[:modelled], c[:modelled]))
    return by_host, by_model


def main(arguments: list[str]) -> int:
    rounds = int(arguments[0]) if arguments else 100
    with tempfile.TemporaryDirectory() as folder:
        program = build_host(Path(folder))
        for seed in range(rounds):
            try:
                by_host, by_model = one_round(program, seed)
            except AssertionError as difference:
                print(f"round {seed}: {difference}")
                return 1
            print(f"round {seed}: {by_host:,} sets agree with the host, {by_model:,} with the model", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
