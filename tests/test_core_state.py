"""The core from outside: exact budgets, `save` and `restore`, hostile states and hostile code, Python's face.

Invariant of all of it: how a run is cut into calls of `run`, or moved from one hart to another between them, can't be
told from its result; and nothing that a snapshot or a guest holds can hurt the host.

    run(3000)  and  run(7) 428 times and run(4)   →   the same registers, memory and device accesses
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from machine_code import HANDLER, ONES, RAM, STEP, Hart, M, S, U, dwords

from vpod import _cpu
from vpod.errors import SnapshotDamaged

DATA = RAM + 0xA000


# ---- exact budgets, saving and restoring ----------------------------------------------------------------------------

BUSY = """
        la t0, m_handler; csrw mtvec, t0; li s2, 0x10000000; la s3, table
        li t0, 1 << 8; la t1, user; csrw mepc, t1; csrw mstatus, zero; mret
    user:
        li s0, 0
    loop:
        addi s0, s0, 1
        andi t0, s0, 7; slli t0, t0, 3; add t0, t0, s3; ld t1, 0(t0); add t1, t1, s0; sd t1, 0(t0)
        andi t0, s0, 3; bnez t0, skip
        ecall
    skip:
        andi t0, s0, 15; bnez t0, far
        lw t1, 0(s2); sw s0, 4(s2)                    # a device
        amoadd.d t2, s0, (s3)
        ld t3, 1(s3)                                  # misaligned
    far:
        j loop
    m_handler:
        csrr t4, mepc; addi t4, t4, 4; csrw mepc, t4; csrr t5, minstret; add s4, s4, t5; mret
        .align 8
    table: .space 128
"""
TOTAL = 3000
LOOPS = (
    "loop: addi a0, a0, 1; j two; nop; two: addi a0, a0, 1; j loop",
    "li a1, 1; loop: bnez a1, two; nop; two: beqz zero, loop",
    "loop: call f; j loop; f: ret",
    "j loop; .space 4088; c.nop 0; loop: nop; c.j loop",  # an instruction that crosses pages
)


def busy() -> Hart:
    hart = Hart(BUSY)
    hart.bus.registers.update({0x1000_0000: 5, 0x1000_0004: 0})
    return hart


def everything(hart: Hart) -> tuple[object, ...]:
    state = json.loads(hart.cpu.save())
    del state["mtime"]
    return state, hart.cpu.instret, hart.cpu.read(RAM, 0x1000), list(hart.bus.log)


def spend(hart: Hart, budget: int) -> int:
    """Run and check that the budget was spent to the last instruction; what was retired."""
    before = hart.cpu.instret
    assert hart.cpu.run(budget) == _cpu.EXIT_BUDGET
    return hart.cpu.instret - before


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 16, 64, 65, 1000])
def test_pieces_of_any_size_make_the_same_run(piece: int) -> None:
    whole, parts = busy(), busy()
    spend(whole, TOTAL)
    for _ in range(TOTAL // piece):
        assert spend(parts, piece) <= piece
    spend(parts, TOTAL % piece)
    assert everything(parts) == everything(whole)


def test_pieces_of_random_sizes_make_the_same_run() -> None:
    source = random.Random(1)
    whole, parts, left = busy(), busy(), TOTAL
    spend(whole, TOTAL)
    while left:
        piece = min(left, source.choice((0, 1, 1, 2, 10, 50, 100)))
        spend(parts, piece)
        left -= piece
    assert everything(parts) == everything(whole)


def test_a_budget_without_exceptions_is_exact() -> None:
    for budget in (0, 1, 2, 3, 63, 64, 65, 100, 16383, 16384, 16385, 50_000):
        for source in LOOPS:
            assert spend(Hart(source), budget) == budget


@pytest.mark.parametrize("seed", range(4))
def test_save_and_restore_in_the_middle(seed: int) -> None:
    """Into a fresh hart with the same RAM and devices, at random moments: the rest of the run is the same."""
    source = random.Random(seed)
    whole, hart, left = busy(), busy(), TOTAL
    spend(whole, TOTAL)
    while left:
        piece = min(left, source.randrange(1, 300))
        spend(hart, piece)
        left -= piece
        successor = Hart(bus=hart.bus)
        successor.cpu.write(RAM, hart.cpu.read(RAM, 0x1000))
        successor.cpu.restore(hart.cpu.save())
        hart = successor
    assert everything(hart) == everything(whole)


def test_everything_architectural_is_saved() -> None:
    values = {
        "mstatus": 0x7E79AA, "medeleg": 0xB109, "mideleg": 0x222, "mie": 0xAAA, "mtvec": HANDLER | 1, "mcounteren": 7,
        "menvcfg": 1 << 61 | 1, "mcountinhibit": 0, "mscratch": 1, "mepc": 2, "mcause": 3, "mtval": 4, "stvec": 8,
        "scounteren": 5, "senvcfg": 1, "sscratch": 6, "sepc": 8, "scause": 9, "stval": 10, "stimecmp": 11,
        "satp": 8 << 60 | 0x80123, "pmpaddr3": 77, "pmpaddr4": 99, "pmpcfg0": 0x8F << 32 | 0x1F << 24, "pmpcfg2": 0x9F,
        "fcsr": 0xE5, "mip": 0x222,
    }  # fmt: skip
    hart = Hart().csr(**values)
    hart.csr(mstatus=values["mstatus"])
    for n in range(32):
        hart.cpu.set_x(n, n * 0x0101_0101_0101_0101 & ONES)
        hart.cpu.set_f(n, ~n & ONES)
    hart.cpu.mtimecmp, hart.cpu.mtime = 123 << 40, 77 << 30
    hart.cpu.set_interrupt(9, True)
    hart.cpu.set_interrupt(11, True)
    hart.set(pc=0x1234_5678, priv=S)
    other = Hart(ram=1 << 20)
    other.cpu.restore(hart.cpu.save())
    for name in values:
        assert other.read(name) == hart.read(name), name
    assert other.registers() == hart.registers()
    assert [other.cpu.f(n) for n in range(32)] == [hart.cpu.f(n) for n in range(32)]
    assert (other.cpu.pc, other.cpu.priv, other.cpu.mtimecmp) == (0x1234_5678, S, 123 << 40)
    assert 0 <= other.cpu.mtime - (77 << 30) < 10**8, "the clock goes on where it stood"
    other.csr(pmpaddr4=1, pmpaddr3=1)
    assert (other.read("pmpaddr4"), other.read("pmpaddr3")) == (99, 77), "locks are locks after a restore"
    assert other.csr(mip=0).read("mip") & 1 << 9, "the PLIC's line is up, without software's bit"


# ---- hostile states -------------------------------------------------------------------------------------------------


def broken(change: Callable[[dict[str, object]], object]) -> bytes:
    state = json.loads(Hart().cpu.save())
    change(state)
    return json.dumps(state).encode()


NO_NUMBERS: list[object] = [-1, 1 << 64, 1.5, "1", None, True, [], float("nan")]
BAD = {
    "empty": b"",
    "not JSON": b"hello",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "nothing in it": b"{}",
    "deeply nested": b"[" * 200_000,
    "deep dicts": b'{"x":' * 200_000,
    "a huge number": b'{"pc": 1' + b"0" * 100_000 + b"}",
    **{
        f"{name}: {value!r}": broken(lambda state, name=name, value=value: state.update({name: value}))  # type: ignore
        for name in ("pc", "mstatus", "priv", "instret", "satp", "pmpcfg0", "stimecmp", "mtime", "external")
        for value in NO_NUMBERS
    },
    **{
        f"no {name}": broken(lambda state, name=name: state.pop(name))  # type: ignore[misc]
        for name in ("pc", "x", "f", "fcsr", "pmpaddr15", "mip", "cycle_offset")
    },
    "priv 2": broken(lambda state: state.update(priv=2)),
    "31 registers": broken(lambda state: state.update(x=[0] * 31)),
    "33 registers": broken(lambda state: state.update(f=[0] * 33)),
    "a register too wide": broken(lambda state: state.update(x=[0] * 31 + [1 << 64])),
    "a dict of registers": broken(lambda state: state.update(x={})),
}


@pytest.mark.parametrize("name", BAD)
def test_a_state_that_cannot_be_one_is_refused_and_changes_nothing(name: str) -> None:
    hart = Hart().set(a0=5, pc=STEP).csr(mscratch=6)
    before = everything(hart)
    with pytest.raises(SnapshotDamaged):
        hart.cpu.restore(BAD[name])
    assert everything(hart) == before


@pytest.mark.parametrize("seed", range(20))
def test_a_state_of_random_numbers_cannot_hurt_the_host(seed: int) -> None:
    """Every field is what a hostile snapshot likes; the hart runs (into faults) and what it shows is still legal."""
    source = random.Random(seed)
    state = json.loads(Hart().cpu.save())
    for name, value in state.items():
        wild = [source.choice((0, ONES, source.getrandbits(64), RAM, RAM + 0xFFFE)) for _ in range(32)]
        state[name] = wild if isinstance(value, list) else wild[0]
    state["priv"] = source.choice((0, 1, 3))
    state["instret"] = source.choice((0, 2**63 - 1, 2**40))
    hart = Hart(ram=1 << 20)
    hart.cpu.write(RAM, source.randbytes(1 << 16))
    hart.cpu.restore(json.dumps(state).encode())
    for _ in range(20):
        hart.cpu.run(1000)
    assert hart.read("satp") >> 60 in (0, 8)
    assert hart.read("mstatus") >> 11 & 3 != 2
    assert hart.read("mideleg") & ~0x222 == 0


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_as_code_cannot_hurt_the_host(seed: int) -> None:
    """Random instructions in every mode, with page tables made of noise; the hart only ever faults inside the guest."""
    source = random.Random(seed)
    hart = Hart(ram=1 << 20)
    hart.cpu.write(RAM, source.randbytes(1 << 20))
    tables = dwords(*((RAM >> 12) + source.randrange(256) << 10 | source.getrandbits(8) | 1 for _ in range(512)))
    for page in range(0, 1 << 20, 0x1_0000):
        hart.cpu.write(RAM + page, tables)
    for level in (U, S, M):
        hart.csr(satp=8 << 60 | RAM + 0x1_0000 * source.randrange(16) >> 12, medeleg=source.getrandbits(16))
        hart.csr(
            mtvec=RAM + source.randrange(1 << 20), stvec=RAM + source.randrange(1 << 20), pmpcfg0=0x1F, pmpaddr0=ONES
        )
        for _ in range(50):
            hart.set(priv=level, pc=RAM + source.randrange(1 << 20))
            for n in range(32):
                hart.cpu.set_x(n, source.choice((RAM + source.randrange(1 << 20), source.getrandbits(64))))
            hart.cpu.run(500)
    assert hart.cpu.ram_size == 1 << 20


# ---- Python's face --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, (4 << 30) + 4096, -4096])
def test_ram_sizes_that_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="RAM"):
        _cpu.Cpu(None, size)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 1), (RAM - 1, 2), (RAM + (1 << 20), 1), (RAM, (1 << 20) + 1), (RAM + 8, ONES), (ONES, 1), (-1, 1),
        (-RAM, 8), (RAM, -1), (RAM + 8, -8), (1 << 64, 1), (RAM + (1 << 64), 1), (RAM, 1 << 64),
    ],
)  # fmt: skip
def test_memory_outside_ram_is_refused(address: int, length: int) -> None:
    cpu = Hart(ram=1 << 20).cpu
    for access in (cpu.read, cpu.view):
        with pytest.raises(ValueError, match="RAM"):
            access(address, length)
    if 0 <= length < 1 << 21:
        with pytest.raises(ValueError, match="RAM"):
            cpu.write(address, bytes(length))


def test_views_are_read_only_and_outlive_the_cpu() -> None:
    hart = Hart()
    view = hart.cpu.view(DATA, 8)
    hart.store(DATA, 0x55)
    assert view[0] == 0x55 and view.readonly
    del hart
    assert view[0] == 0x55


@pytest.mark.parametrize(
    "call",
    [
        lambda cpu: cpu.x(32), lambda cpu: cpu.set_f(-1, 0), lambda cpu: cpu.csr(0x7C0), lambda cpu: cpu.run(-1),
        lambda cpu: cpu.set_csr(0xF14, 1), lambda cpu: cpu.set_interrupt(7, True),
        lambda cpu: setattr(cpu, "priv", 2),
    ],
)  # fmt: skip
def test_nonsense_is_refused(call: Callable[[_cpu.Cpu], object]) -> None:
    with pytest.raises(ValueError):
        call(Hart().cpu)
