"""LR, SC and AMOs: when a reservation holds, what faults they raise, and that they must be aligned.

Sections are those of the unprivileged specification's chapter "A" Standard Extension for Atomic Instructions unless
they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    lr.d, ecall, sc.d   →   the SC fails and stores nothing
"""

from __future__ import annotations

import pytest
from machine_code import STEP, Hart, Trap
from privileged_isa import DATA

# ---- LR and SC ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", "wd")
def test_a_store_conditional_after_its_load_reserved_succeeds_once(width: str) -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step(f"lr.{width} a1, (a0)")
    hart.step(f"sc.{width} a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (0, 7)
    hart.set(a2=8).step(f"sc.{width} a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 7), "the first SC took the reservation"


def test_a_store_conditional_without_reservation_fails() -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)


def test_a_store_conditional_to_another_address_fails() -> None:
    hart = Hart().set(a0=DATA, a1=DATA + 64, a2=7)
    hart.step("lr.d a4, (a0)")
    hart.step("sc.d a3, a2, (a1)")
    assert (hart.x("a3"), hart.dword(DATA + 64)) == (1, 0)
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0), "a failed SC ends the reservation too"


def test_a_trap_between_load_reserved_and_store_conditional() -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step("lr.d a4, (a0)")
    hart.step("ecall")
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)


def test_a_device_that_writes_ends_the_reservation() -> None:
    hart = Hart().set(a0=DATA, a2=7)
    hart.step("lr.d a4, (a0)")
    hart.cpu.write(DATA + 4, b"\x01")
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 1 << 32)


@pytest.mark.parametrize(
    "source", ["lr.w a1, (a0)", "lr.d a1, (a0)", "sc.d a1, a2, (a0)", "amoadd.w a1, a2, (a0)", "amoswap.d a1, a2, (a0)"]
)
def test_misaligned_atomics_trap(source: str) -> None:
    size = 8 if ".d" in source else 4
    for off in (1, 2, size // 2, size - 1):
        cause = 4 if source.startswith("lr") else 6
        assert Hart().set(a0=DATA + off).step(source) == Trap(cause, STEP, DATA + off)
