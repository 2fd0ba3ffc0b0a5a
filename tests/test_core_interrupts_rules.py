"""Which interrupt is taken, where to and when, for every set of pending ones: 3.1.9 and 4.1.3 as a model.

`chosen` states when an interrupt traps and in which order ("Machine Interrupt Registers (mip and mie)" and "Supervisor
Interrupt Registers (sip and sie)", privileged specification 1.12); it shares nothing with the core.

    chosen(pending={SSI, STI}, enabled=all, delegated=SSI, level=U, status=0)   →   (STI, M)
"""

from __future__ import annotations

import itertools
import random

import pytest
from machine_code import INTERRUPT, ONES, STEP, Hart, M, S
from privileged_isa import DATA, LEVELS, MIE, MPIE, MPP, SIE, SPIE, SPP, STCE, TW, illegal

from vpod import _cpu

MEI, MSI, MTI, SEI, SSI, STI = 11, 3, 7, 9, 1, 5
ORDER = (MEI, MSI, MTI, SEI, SSI, STI)  # 3.1.9: the order in which simultaneous interrupts for one mode are handled
ALL, OF_S = 0xAAA, 0x222
TABLES = {M: DATA, S: DATA + 0x100}  # trap vectors: sixteen times `j .`
NEVER = ONES


def chosen(ready: int, delegated: int, level: int, status: int) -> tuple[int, int] | None:
    """The interrupt that traps and the mode that it goes to; `ready` is mip and mie."""
    for_m = level < M or status & MIE
    for_s = level < S or (level == S and status & SIE)
    for to, possible, mine in ((M, for_m, ready & ~delegated), (S, for_s, ready & delegated)):
        if possible and mine:
            return next(number for number in ORDER if mine >> number & 1), to
    return None


class Bench:
    """A hart with a nop at STEP and both trap vectors at tables."""

    def __init__(self) -> None:
        self.hart = Hart()
        for table in TABLES.values():
            self.hart.load("j .;" * 16, table)
        self.hart.load("nop; wfi; nop", STEP)

    def pend(self, pending: int) -> None:
        """Make exactly these pending, each by its own means."""
        cpu = self.hart.cpu
        cpu.set_interrupt(MEI, bool(pending >> MEI & 1))
        cpu.set_interrupt(MSI, bool(pending >> MSI & 1))
        cpu.mtimecmp = 0 if pending >> MTI & 1 else NEVER
        self.hart.csr(mip=pending & OF_S)
        assert self.hart.read("mip") == pending

    def step(self, level: int, at: int = STEP) -> None:
        self.hart.set(pc=at, priv=level)
        self.hart.cpu.run(1)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def subsets(mask: int) -> list[int]:
    """Every subset of the bits of `mask`."""
    bits = [1 << n for n in range(64) if mask >> n & 1]
    return [sum(part) for part in itertools.product(*((0, bit) for bit in bits))]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("delegated", subsets(OF_S))
def test_every_set_of_interrupts(bench: Bench, delegated: int, level: int) -> None:
    """All 64 sets of pending ones, enabled all and in part, with every MIE and SIE, direct and vectored."""
    source = random.Random(delegated + level)
    hart = bench.hart.csr(mideleg=delegated)
    for pending, status in itertools.product(subsets(ALL), (0, MIE, SIE, MIE | SIE)):
        bench.pend(pending)
        for enabled in (ALL, ALL & source.getrandbits(12), ALL & source.getrandbits(12)):
            mode = source.randrange(2)
            hart.csr(mie=enabled, mstatus=status, mtvec=TABLES[M] | mode, stvec=TABLES[S] | mode)
            bench.step(level)
            wanted = chosen(pending & enabled, delegated, level, status)
            if wanted is None:
                assert (hart.cpu.pc, hart.cpu.priv) == (STEP + 4, level)
                continue
            number, to = wanted
            assert (hart.cpu.priv, hart.cpu.pc) == (to, TABLES[to] + 4 * number * mode)
            letter = "m" if to == M else "s"
            assert hart.read(f"{letter}cause") == INTERRUPT | number
            assert (hart.read(f"{letter}epc"), hart.read(f"{letter}tval")) == (STEP, 0)
            after = hart.read("mstatus") & (MIE | SIE | MPIE | SPIE | MPP | SPP)
            if to == M:
                assert after == status & SIE | (MPIE if status & MIE else 0) | level << 11
            else:
                assert after == status & MIE | (SPIE if status & SIE else 0) | (SPP if level == S else 0)


def test_an_interrupt_of_s_waits_while_m_runs(bench: Bench) -> None:
    """Delegated ones are never taken in M, and come as soon as it returns."""
    hart = bench.hart.csr(
        mideleg=OF_S, mie=ALL, mstatus=MIE | SIE | S << 11, mepc=STEP, mtvec=TABLES[M], stvec=TABLES[S]
    )
    bench.pend(1 << SEI)
    bench.step(M)
    assert (hart.cpu.pc, hart.cpu.priv) == (STEP + 4, M)
    hart.load("mret", STEP + 0x100)
    bench.step(M, STEP + 0x100)
    assert (hart.cpu.pc, hart.read("sepc"), hart.read("scause")) == (TABLES[S], STEP, INTERRUPT | SEI)


AT_ONCE = {  # what the conditions depend on: mode, state before, instruction, what is pending, what is taken after it
    "mstatus.MIE": (M, {"mie": ALL}, "csrrsi zero, mstatus, 8", 1 << MSI, (MSI, M)),
    "mie": (M, {"mstatus": MIE}, "csrrsi zero, mie, 8", 1 << MSI, (MSI, M)),
    "mip": (M, {"mstatus": MIE, "mie": ALL}, "csrrsi zero, mip, 2", 0, (SSI, M)),
    "mideleg": (M, {"mstatus": MIE, "mie": ALL, "mideleg": 2}, "csrrci zero, mideleg, 2", 2, (SSI, M)),
    "sstatus.SIE": (S, {"mie": ALL, "mideleg": OF_S}, "csrrsi zero, sstatus, 2", 2, (SSI, S)),
    "sie": (S, {"mstatus": SIE, "mideleg": OF_S}, "csrrsi zero, sie, 2", 2, (SSI, S)),
    "sip": (S, {"mstatus": SIE, "mie": ALL, "mideleg": OF_S}, "csrrsi zero, sip, 2", 0, (SSI, S)),
    "stimecmp": (S, {"mstatus": SIE, "mie": ALL, "mideleg": OF_S}, "csrrwi zero, stimecmp, 0", 0, (STI, S)),
    "menvcfg.STCE": (
        M,
        {"mstatus": MIE, "mie": 1 << STI, "menvcfg": 0, "stimecmp": 0},
        "csrw menvcfg, a1",
        0,
        (STI, M),
    ),
    "sret": (S, {"mstatus": SPIE | SPP, "mie": ALL, "mideleg": OF_S, "sepc": DATA}, "sret", 2, (SSI, S)),
    "mret": (M, {"mstatus": MPIE | M << 11, "mie": ALL, "mepc": DATA}, "mret", 2, (SSI, M)),
    "mret to U": (M, {"mie": ALL, "mideleg": OF_S, "mepc": DATA}, "mret", 2, (SSI, S)),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_conditions_are_looked_at_at_once(name: str) -> None:
    """3.1.9: immediately after an xRET or an explicit write to a CSR on which the conditions depend."""
    level, before, source, pending, (number, to) = AT_ONCE[name]
    bench = Bench()
    hart = bench.hart.csr(menvcfg=STCE, mcounteren=2, stimecmp=NEVER).set(a1=STCE)
    bench.pend(pending)
    hart.csr(**before)
    hart.load(f"{source}; addi a0, a0, 1", STEP)
    bench.step(level)
    behind = DATA if source.endswith("ret") else STEP + 4  # the instruction itself is done
    letter = "m" if to == M else "s"
    assert (hart.cpu.priv, hart.read(f"{letter}cause"), hart.read(f"{letter}epc")) == (to, INTERRUPT | number, behind)
    assert hart.x("a0") == 0


@pytest.mark.parametrize(
    "source", ["csrrci zero, mie, 2", "csrrci zero, mip, 2", "csrrci zero, sip, 2", "csrrsi zero, mideleg, 2"]
)
def test_what_ceases_to_be_possible_is_not_taken(source: str) -> None:
    """A pending interrupt is taken away, or given to S, while M has them off; then M lets them in."""
    bench = Bench()
    hart = bench.hart.csr(mie=2, mideleg=2 if "sip" in source else 0, mstatus=0)
    bench.pend(2)
    hart.load(f"{source}; csrrci zero, mideleg, {2 if 'sip' in source else 0}; csrrsi zero, mstatus, 8; nop", STEP)
    hart.set(pc=STEP, priv=M).cpu.run(4)
    assert hart.cpu.pc == STEP + 16


# ---- wfi ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delegated", [0, OF_S])
@pytest.mark.parametrize("level", [S, M])
def test_wfi_goes_on_for_every_interrupt_that_is_enabled(bench: Bench, level: int, delegated: int) -> None:
    """3.3.3: whatever the global enables and mideleg say; what mie doesn't enable, doesn't wake."""
    hart = bench.hart.csr(mideleg=delegated, mtvec=TABLES[M], stvec=TABLES[S], mstatus=0)
    for pending, enabled in itertools.product(subsets(ALL), (0, ALL, *(1 << number for number in ORDER))):
        bench.pend(pending)
        hart.csr(mie=enabled, mstatus=0)
        hart.set(pc=STEP + 4, priv=level)
        wakes = pending & enabled
        taken = chosen(wakes, delegated, level, 0)
        assert hart.cpu.run(1) == (_cpu.EXIT_BUDGET if wakes else _cpu.EXIT_WFI)
        assert hart.cpu.pc == (STEP + 8 if taken is None else TABLES[taken[1]])


@pytest.mark.parametrize("number", ORDER)
@pytest.mark.parametrize("enabled", [True, False])
def test_every_interrupt_ends_a_wait(number: int, enabled: bool) -> None:
    """3.3.3: with the global enable it is taken with epc behind the wfi, without it the wfi is over."""
    bench = Bench()
    hart = bench.hart.csr(mie=1 << number, mstatus=MIE if enabled else 0, mtvec=TABLES[M])
    hart.set(pc=STEP + 4, priv=M)
    assert hart.cpu.run(10) == _cpu.EXIT_WFI
    bench.pend(1 << number)
    hart.cpu.run(1)
    if enabled:
        assert (hart.cpu.pc, hart.read("mepc"), hart.read("mcause")) == (TABLES[M], STEP + 8, INTERRUPT | number)
    else:
        assert hart.cpu.pc == STEP + 12


@pytest.mark.parametrize("timer", ["mtimecmp", "stimecmp"])
def test_a_timer_ends_a_wait(timer: str) -> None:
    """The caller sleeps as long as the hart says, and then the interrupt is there."""
    bench = Bench()
    hart = bench.hart.csr(mie=1 << STI | 1 << MTI, menvcfg=STCE, stimecmp=NEVER, mtvec=TABLES[M], mstatus=MIE)
    hart.set(pc=STEP + 4, priv=M)
    if timer == "mtimecmp":
        hart.cpu.mtimecmp = hart.cpu.mtime + 1_000_000
    else:
        hart.csr(stimecmp=hart.cpu.mtime + 1_000_000)
    assert hart.cpu.run(10) == _cpu.EXIT_WFI
    wait = hart.cpu.nanoseconds_to_timer()
    assert 0 < wait <= 100_000_000
    hart.cpu.mtime = hart.cpu.mtime + wait // 100
    assert hart.cpu.nanoseconds_to_timer() == 0
    hart.cpu.run(1)
    assert (hart.cpu.pc, hart.read("mcause")) == (TABLES[M], INTERRUPT | (MTI if timer == "mtimecmp" else STI))


def test_tw_is_about_wfi_in_s_alone() -> None:
    """3.1.6.5, with a time limit of zero: illegal even if something is pending."""
    for pending, level in itertools.product((0, 1 << MSI), (S, M)):
        bench = Bench()
        bench.pend(pending)
        bench.hart.csr(mstatus=TW, mie=ALL & ~(1 << MSI)).set(priv=level)
        assert bench.hart.step("wfi") == (illegal("wfi") if level == S else None)


# ---- timers ---------------------------------------------------------------------------------------------------------

TICK = 10**7  # a second: longer than the test takes from one line to the next


@pytest.mark.parametrize("now", [0, 1 << 31, (1 << 63) - TICK // 2, 1 << 63, ONES - 3 * TICK])
def test_timers_compare_without_sign(now: int) -> None:
    """3.2.1 and Sstc: pending while time is at or beyond the compare register, both unsigned numbers of 64 bits."""
    hart = Hart().csr(menvcfg=STCE)
    for compare, due in ((0, True), (now, True), (now + 2 * TICK, False), (ONES, False), (1 << 63, now >= 1 << 63)):
        if compare == 1 << 63 and abs(now - compare) < TICK:
            continue  # the clock may pass it while the test looks
        hart.cpu.mtime = now
        hart.cpu.mtimecmp = compare
        hart.csr(stimecmp=compare)
        hart.step("nop")
        assert hart.read("mip") == (1 << MTI | 1 << STI if due else 0), f"{compare:#x}"


def test_what_sstc_makes_of_stip() -> None:
    """Sstc: with STCE the bit follows the timer and is read-only in mip and sip; without it, it is M's to write."""
    for compare, written in itertools.product((0, NEVER), (0, 1 << STI)):
        hart = Hart().csr(menvcfg=STCE, mideleg=OF_S, stimecmp=compare)
        hart.csr(mip=written, sip=written)
        assert hart.read("mip") == hart.read("sip") == (1 << STI if compare == 0 else 0)
        hart.csr(menvcfg=0, mip=written)
        assert hart.read("mip") == hart.read("sip") == written
        hart.csr(sip=written ^ 1 << STI)
        assert hart.read("mip") == written, "S can't write it"
