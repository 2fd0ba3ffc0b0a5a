"""The softfloat's face for tests: one instruction, many operands."""

from array import array
from typing import Final

from typing_extensions import Buffer

OPERATIONS: Final[tuple[str, ...]]

def evaluate(
    op: str, rm: int, a: Buffer, b: Buffer | None = None, c: Buffer | None = None
) -> tuple[array[int], bytes]:
    """Apply one instruction to each operand set.

    op: one of OPERATIONS, as the assembler spells it: `fadd.s`, `fmadd.d`, `fcvt.wu.s`, `fcvt.d.l`.
    rm: the rounding mode's encoding, 0 to 4: RNE, RTZ, RDN, RUP, RMM.
    a, b, c: buffers of n 64-bit patterns. A single is the low 32 bits of its pattern (no NaN boxing here), as is a
    32-bit integer. Operands that are left out, or that the instruction doesn't have, are ignored.

    Returns n patterns (a single's upper half is zero; an integer is what the x register gets) and n bytes of the
    flags that each operation raised: NX 1, UF 2, OF 4, DZ 8, NV 16.

    Raises ValueError for an unknown op or rm, for buffers of different length or not of whole 64-bit words.
    Specification: RISC-V unprivileged, "F" and "D" extensions; IEEE 754-2019.
    """
