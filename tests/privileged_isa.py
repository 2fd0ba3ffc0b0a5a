"""What tests of privileged behaviour share: fields of mstatus, the trap of an illegal instruction, a hart with pages.

Field positions are those of the privileged specification 1.12, 3.1.6, "Machine Status Registers". Nothing in here
computes what a hart does.

    assert Hart().set(priv=U).step("csrr a0, mstatus") == illegal("csrr a0, mstatus")
"""

from __future__ import annotations

import pytest
from machine_code import ONES, RAM, STEP, Hart, M, PageTables, S, Trap, U, assemble

SIE, MIE, SPIE, MPIE, SPP, MPP, FS = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 11, 3 << 13
MPRV, SUM, MXR, TVM, TW, TSR, SD = 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 63
STCE, ADUE = 1 << 63, 1 << 61  # of menvcfg
PAGE = 0x1000
DATA = RAM + 0x8000  # physical
VA = 0x40_0000_0000 - 0x20_0000  # virtual: the last 2 MiB of the low half
HIGH = -(1 << 38) & ONES  # the first page of the high half
CODE = 0x1_0000  # virtual: where Hart.step's page is for users
LEVELS = [pytest.param(level, id=name) for level, name in ((U, "U"), (S, "S"), (M, "M"))]

each_level = pytest.mark.parametrize("level", LEVELS)


def bits(source: str) -> int:
    """The instruction `source` as a number."""
    return int.from_bytes(assemble(source).code, "little")


def illegal(source: str, level: int = M) -> Trap:
    """The trap of an illegal instruction: mtval holds its bits, 3.1.16, "Machine Trap Value Register"."""
    return Trap(2, STEP, bits(source), level)


# ---- Sv39 -----------------------------------------------------------------------------------------------------------


def paged(level: int = S, rights: str = "vrwxad", **csrs: int) -> tuple[Hart, PageTables]:
    """RAM mapped to itself for S, the page of `step` for U too (at CODE), and `rights` on DATA's page at VA."""
    hart = Hart()
    tables = PageTables(hart).identity("vrwxad")
    tables.map(CODE, STEP & ~0xFFF, "vxuad")
    tables.map(VA, DATA, rights)
    tables.on()
    hart.csr(**csrs).set(priv=level, a0=VA, a1=0x5A)
    return hart, tables


def step(hart: Hart, source: str) -> Trap | None:
    """Run one instruction in S or M from STEP, in U from the page that is the user's."""
    return hart.step(source, pc=CODE if hart.cpu.priv == U else STEP)


def fault(hart: Hart, cause: int, tval: int) -> Trap:
    return Trap(cause, hart.read("mepc"), tval)
