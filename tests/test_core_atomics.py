"""LR, SC and AMOs: when a reservation holds, what faults they raise, and that they must be aligned.

Sections are those of the unprivileged specification's chapter "A" Standard Extension for Atomic Instructions unless
they say otherwise. `Hart.step` executes exactly one instruction and tells which trap it took.

    lr.d, ecall, sc.d   →   the SC fails and stores nothing
"""

from __future__ import annotations

import itertools

import pytest
from machine_code import ONES, STEP, Hart, M, S, Trap
from privileged_isa import DATA, PAGE, VA, bits, fault, paged, step

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


# ---- which SC may succeed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", "wd")
@pytest.mark.parametrize("stored", "wd")
def test_a_store_conditional_of_another_width_or_place(loaded: str, stored: str) -> None:
    """ "Load-Reserved/Store-Conditional": an SC outside the reservation set must fail; one that succeeds has stored.

    This hart's reservation is the address that was loaded from; of the rest of a constrained sequence only the same
    address with the same width must be able to succeed.
    """
    sizes = {"w": 4, "d": 8}
    for base, offset in itertools.product((DATA, DATA + 8), range(-16, 24, sizes[stored])):
        hart = Hart().set(a0=base, a1=base + offset, a2=0x55)
        hart.step(f"lr.{loaded} a4, (a0)")
        assert hart.step(f"sc.{stored} a3, a2, (a1)") is None
        succeeded = hart.x("a3") == 0
        assert hart.dword(base + offset & ~7) == (0x55 << 8 * (base + offset & 7) if succeeded else 0)
        if offset == 0 and loaded == stored:
            assert succeeded
        if offset:
            assert not succeeded, "this hart reserves one address"


@pytest.mark.parametrize("width", "wd")
def test_the_second_load_reserved_counts(width: str) -> None:
    """An SC pairs with the most recent LR in program order."""
    hart = Hart().set(a0=DATA, a1=DATA + 64, a2=7)
    hart.step(f"lr.{width} a4, (a0)")
    hart.step(f"lr.{width} a4, (a1)")
    hart.step(f"sc.{width} a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)
    hart.step(f"lr.{width} a4, (a0)")
    hart.step(f"lr.{width} a4, (a1)")
    hart.step(f"sc.{width} a3, a2, (a1)")
    assert (hart.x("a3"), hart.dword(DATA + 64)) == (0, 7)


BETWEEN = {  # what may stand between LR and SC, and whether the SC must be able to succeed
    "nop": True, "addi a5, a5, 1": True, "beq a5, zero, . + 4": True,  # RV64I without memory accesses: constrained
    "fence.i": False, "fence": False, "sd a2, 128(a0)": False, "ld a5, 0(a0)": False, "mul a5, a5, a5": False,
    "csrr a5, mcycle": False, "sfence.vma zero, zero": False, "amoadd.d a5, a2, (a6)": False,
}  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN)
def test_what_stands_between(between: str) -> None:
    """ "Eventual Success of Store-Conditional Instructions": in a constrained loop an SC succeeds sooner or later."""
    for turns in range(1, 4):
        hart = Hart(
            f"loop: lr.d a4, (a0); {between}; addi a4, a4, 1; sc.d a3, a4, (a0); add a7, a7, a3; addi s1, s1, -1;"
            "bnez s1, loop; done: j done"
        ).set(a0=DATA, a6=DATA + 256, s1=turns)
        hart.run()
        assert hart.dword(DATA) == turns - hart.x("a7"), "as often as SC said so"
        if BETWEEN[between]:
            assert hart.x("a7") == 0


def test_a_trap_that_returns_between_ends_the_reservation() -> None:
    """Interrupts, and exceptions whoever handles them, alike: this hart's choice, which the text allows."""
    for delegated, source in itertools.product((0, 0xB3FF), ("ecall", "ebreak", ".word 0xffffffff")):
        hart = Hart("done: j done").csr(medeleg=delegated, mepc=DATA, sepc=DATA).set(priv=S, a0=DATA, a2=7)
        hart.step("lr.d a4, (a0)")
        trap = hart.step(source)
        assert trap is not None
        letter = "m" if trap.level == M else "s"
        hart.csr(**{f"{letter}epc": STEP})
        hart.step(f"{letter}ret")
        assert hart.cpu.priv == S
        hart.step("sc.d a3, a2, (a0)")
        assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)
    hart = Hart().set(a0=DATA, a2=7).csr(mie=1 << 3, mstatus=1 << 3)
    hart.step("lr.d a4, (a0)")
    hart.cpu.set_interrupt(3, True)
    hart.step("nop")
    hart.cpu.set_interrupt(3, False)
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (1, 0)


@pytest.mark.parametrize("byte", range(-1, 9))
@pytest.mark.parametrize("width", "wd")
def test_a_device_that_writes_any_reserved_byte(width: str, byte: int) -> None:
    """The SC fails if a device writes to the bytes that the LR read; elsewhere it stays able to succeed or fails."""
    for length in (1, 2, 16):
        hart = Hart().set(a0=DATA, a2=7)
        hart.step(f"lr.{width} a4, (a0)")
        hart.cpu.write(DATA + byte, b"\xff" * length)
        hart.step(f"sc.{width} a3, a2, (a0)")
        size = 4 if width == "w" else 8
        if byte < size and byte + length > 0:
            assert hart.x("a3") == 1
        if byte >= 8 or byte + length <= 0:
            assert hart.x("a3") == 0


def test_a_reservation_is_of_memory_and_not_of_an_address() -> None:
    """Two virtual pages of one physical page: the bytes are the same, and so are the reserved ones."""
    hart, tables = paged(S)
    tables.map(VA + PAGE, DATA, "vrwad").map(VA + 2 * PAGE, DATA + PAGE, "vrwad")
    hart.set(a0=VA, a2=7).step("lr.d a4, (a0)")
    hart.set(a0=VA + PAGE).step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA)) == (0, 7)
    hart.set(a0=VA).step("lr.d a4, (a0)")
    tables.map(VA, DATA + PAGE, "vrwad")
    hart.step("sfence.vma zero, zero")
    hart.step("sc.d a3, a2, (a0)")
    assert (hart.x("a3"), hart.dword(DATA + PAGE)) == (1, 0), "the page behind the address is another"


def test_code_written_by_store_conditional_and_amo_is_seen() -> None:
    """Stores of every kind reach decoded code; a fence.i between LR and SC changes nothing in that."""
    new = bits("addi a5, zero, 2")
    for source in ("lr.w a4, (a0); fence.i; sc.w a3, a2, (a0); bnez a3, loop", "amoswap.w a4, a2, (a0)"):
        hart = Hart(f"call f; loop: {source}; fence.i; call f; done: j done; .align 4; f: addi a5, zero, 1; ret")
        hart.set(a0=hart.program["f"], a2=new).run()
        assert hart.x("a5") == 2


# ---- faults ---------------------------------------------------------------------------------------------------------

AMOS = ["swap", "add", "xor", "and", "or", "min", "max", "minu", "maxu"]
STORING = [f"amo{name}.{width} a1, a2, (a0)" for name in AMOS for width in "wd"] + [
    "sc.w a1, a2, (a0)",
    "sc.d a1, a2, (a0)",
]
LOADING = ["lr.w a1, (a0)", "lr.d a1, (a0)"]


@pytest.mark.parametrize(
    "source", [*STORING, *LOADING, "amoadd.w.aqrl a1, a2, (a0)", "lr.d.aq a1, (a0)", "sc.d.rl a1, a2, (a0)"]
)
def test_faults_of_every_atomic(source: str) -> None:
    """AMOs and SC raise the store's causes whichever half of them fails, LR the load's: privileged, 3.1.15."""
    load = source.startswith("lr")
    page, access, misaligned = (13, 5, 4) if load else (15, 7, 6)
    for rights in ("", "vwad", "vxad", "vrwuad", *(() if load else ("vrad", "vrxad"))):
        hart, _ = paged(S, rights)
        before = hart.dword(DATA)
        assert step(hart, source) == fault(hart, page, VA), rights
        assert (hart.dword(DATA), hart.x("a1")) == (before, 0x5A)
    hart, tables = paged(S)
    tables.map(VA, 0x1000, "vrwad")
    assert step(hart, source) == fault(hart, access, VA), "no memory there"
    for rights in (0,) if load else (0, 1):  # of PMP: without R, or without W
        hart = Hart().csr(pmpaddr0=DATA >> 2 | 0x1FF, pmpaddr1=ONES, pmpcfg0=0x1F << 8 | 0x18 | rights)
        assert hart.set(priv=S, a0=DATA).step(source) == Trap(access, STEP, DATA)
    for offset in range(1, 8 if ".d" in source else 4):
        hart, _ = paged(S)
        assert step(hart.set(a0=VA + offset), source) == fault(hart, misaligned, VA + offset)
        hart, _ = paged(S, "")
        trap = step(hart.set(a0=VA + offset), source)
        assert trap is not None and trap.cause in (misaligned, page) and trap.tval == VA + offset


@pytest.mark.parametrize("source", [*STORING, *LOADING])
def test_atomics_that_straddle_a_page_are_misaligned(source: str) -> None:
    hart, tables = paged(S)
    tables.map(VA + PAGE, DATA + PAGE, "vrwad")
    for offset in (1, 2, 3):
        at = VA + PAGE - offset
        assert step(hart.set(a0=at, priv=S), source) == fault(hart, 4 if source.startswith("lr") else 6, at)


@pytest.mark.parametrize("source", STORING)
def test_an_atomic_word_leaves_its_neighbour_alone(source: str) -> None:
    if ".w" not in source:
        source = source.replace(".d", ".w")
    for offset in (0, 4):
        hart = Hart().set(a0=DATA + offset, a2=0x1111).store(DATA, 0x2222_0000_2222_0000)
        if source.startswith("sc"):
            hart.step("lr.w a1, (a0)")
        assert hart.step(source) is None
        other = hart.dword(DATA) >> (0 if offset else 32) & 0xFFFF_FFFF
        assert other == 0x2222_0000
