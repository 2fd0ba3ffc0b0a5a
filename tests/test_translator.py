"""The translator as such: when it begins, chains of translated blocks, patched and remapped code, memory for code.

Each test runs the same thing by the interpreter and by the translator (`two_tiers.Twins`), or says what must come out,
and makes sure by the translator's counters that translated code ran. What single instructions do, and where they fault,
is tests/test_translator_state.py; how it is chosen, tests/test_tier.py. The list of what breaks is "Pitfalls" in
docs/testing.md.

    a ring of two blocks, run by n instructions for every n   →   registers, pc and instret are the interpreter's
"""

from __future__ import annotations

import platform
import threading

import pytest
from machine_code import (
    HANDLER,
    INTERRUPT,
    ONES,
    RAM,
    Hart,
    PageTables,
    RecordingBus,
    S,
    Trap,
    U,
    assemble,
    word,
)
from two_tiers import BATCHED, COUNTED, FORCED, INTERPRETED, TICK, Twins, compare, named, ticks, translator

from vpod import _cpu
from vpod.tier import Tier

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 is translated to")

PAGE = 0x1000
CODE = RAM + 0x8000
DATA = RAM + 0xC000
FENCE = RAM + 0x6000
VA = 0x1_0000_0000
MIE = 1 << 3
STCE = 1 << 63


# ---- who turns it on, and when ------------------------------------------------------------------------------------

LOOP = f"loop: addi a0, a0, 1; {TICK}; j loop"


def test_a_cpu_does_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_JIT", "0")
    assert Hart().cpu.translator is None
    assert translator(Hart(tier=FORCED))["translations"] == 0, "the argument wins"
    monkeypatch.setenv("VPOD_JIT", "force")
    hart = Hart(LOOP)
    hart.cpu.run(30)
    assert (translator(hart)["translations"], ticks(hart)) == (1, 10)
    monkeypatch.setenv("VPOD_JIT", "sometimes")
    with pytest.raises(ValueError, match="VPOD_JIT"):
        Hart()


@pytest.mark.parametrize(("patience", "entries"), [(0, 30), (10, 41), (None, 95)])
def test_a_block_is_translated_when_it_was_entered_often_enough(patience: int | None, entries: int) -> None:
    hart = Hart(LOOP, tier=Tier(patience=patience))
    hart.cpu.run(3 * entries)
    assert translator(hart)["translations"] == 0
    hart.cpu.run(3 * 100)
    counters = translator(hart)
    assert (counters["translations"], counters["batches"], counters["bytes"]) == (1, 1, 12)
    assert counters["nanoseconds"] > 0
    assert ticks(hart) == 100, "from the entry that made the translation on"
    assert hart.x("a0") == entries + 100


# ---- batches ------------------------------------------------------------------------------------------------------

WAITING = 32  # blocks at most
HOPS = "start: {calls}; addi s1, s1, 1; {tick}; j start; .align 64; {functions}"


def hops(count: int) -> str:
    """A loop that calls functions of a block each, one of them twice a turn."""
    calls = "; ".join(f"call f{n}" for n in (0, *range(count)))
    functions = "; ".join(f"f{n}: addi a0, a0, {n + 1}; {TICK}; ret" for n in range(count))
    return HOPS.format(calls=calls, tick=TICK, functions=functions)


@pytest.mark.parametrize("count", [1, 5, 60])
@pytest.mark.parametrize("tier", [BATCHED, Tier(at_once=True, patience=3, memory=192 << 10), COUNTED])
def test_hot_blocks_are_translated_together(count: int, tier: Tier) -> None:
    """A block that was patient for long enough takes those with it that became hot meanwhile, but never too many."""
    twins = Twins(hops(count), tier=tier)
    for budget in (1000, 7, 3 * count + 1, 20_000, 50_000):
        twins.run(budget)
    counters = twins.translator
    assert counters["translations"] >= count + 2, "where each call returns to, and what is called twice"
    assert counters["batches"] <= 2 + 2 * counters["translations"] / WAITING, "and not one by one"


def test_links_between_what_was_translated_together_are_there_at_once() -> None:
    blocks = "; ".join(f"b{n}: addi a0, a0, {n}; j b{(n + 1) % 30}; nop" for n in range(30))
    twins = Twins(blocks, tier=Tier(at_once=True, patience=3, trace=1))
    twins.run(4 * 60 + 10)
    assert twins.translator["translations"] == 30 and twins.translator["batches"] == 1
    twins.run(600)
    assert twins.translator["entered"] < 15, "and not each block once, until it was known where it leads"


def test_a_block_that_is_dropped_while_it_waits_is_not_translated() -> None:
    """Its code is written; the block that stands there then is another, in other memory."""
    twins = Twins("loop: jalr ra, 0(s2); addi s1, s1, 1; j loop", tier=Tier(at_once=True, patience=20))
    twins.write(CODE, assemble("addi a0, a0, 100; ret").code).set(s2=CODE)
    for turn in range(30):
        twins.run(15)  # three turns of the loop: f waits
        twins.write(CODE, word("addi", rd="a0", rs1="a0", imm=turn))
    assert twins.translator["translations"] < 8, "the loop's, and hardly f's"
    made = twins.translator["translations"]
    twins.run(1000)
    assert twins.translator["translations"] == made + 1, "f's"


@pytest.mark.parametrize("tier", [BATCHED, Tier(patience=10)])
def test_what_waits_is_forgotten_when_all_blocks_are(tier: Tier) -> None:
    """The arena overflows while blocks wait: the same memory holds other blocks then, which didn't."""
    page = (word("c.addi", rd="a1", imm=1)) * 2046 + word("jalr", rd="ra", rs1="s1", imm=0)
    pages = 1600
    source = "loop: call f; call g; jr s3; f: addi a0, a0, 1; ret; g: addi a0, a0, 2; ret"
    twins = Twins(source, tier=tier, ram=16 << 20)
    start = RAM + (1 << 20)
    twins.write(start, page * pages + assemble("jr s2").code)
    twins.set(s1=twins.program["f"], s2=RAM, s3=start)
    for _ in range(3):
        twins.run(pages * 2049 + 300)
    assert twins.hart.x("a0") >= 3 * pages


def test_nothing_waits_while_m_uses_another_modes_data() -> None:
    """There is no key for that. What becomes hot afterwards is translated alone."""
    twins = Twins(
        "li t0, 1 << 17; csrs mstatus, t0; a: addi a0, a0, 1; bltu a0, a1, a; csrc mstatus, t0;"
        "b: addi a2, a2, 1; bltu a2, a3, b; done: j done",
        tier=Tier(at_once=True, patience=3),
    )
    twins.set(a1=3, a3=100).finish()
    assert twins.translator["translations"] >= 2, "b and the last one"


@pytest.mark.parametrize("floating", ["off", "dirty"])
def test_another_key_waits_too(floating: str) -> None:
    """A block that is translated for a process without floats waits before it is for one with them, and vice versa."""
    hart = Hart(LOOP, tier=Tier(at_once=True, patience=5)).csr(mstatus=(3 << 13) * (floating == "off"))
    hart.cpu.run(3 * 50)
    made, ticked = translator(hart)["translations"], ticks(hart)
    hart.csr(mstatus=(3 << 13) * (floating == "dirty"))
    hart.cpu.run(3 * 6)
    assert (translator(hart)["translations"], ticks(hart)) == (made, ticked)
    hart.cpu.run(3 * 10)
    assert (translator(hart)["translations"], ticks(hart)) == (made + 1, ticked + 10)


def test_a_forced_block_is_translated_before_it_first_runs() -> None:
    hart = Hart(f"{TICK}; addi a0, zero, 7; done: j done", tier=FORCED).run()
    assert (hart.x("a0"), ticks(hart)) == (7, 1)


def test_no_translation_without_a_translator() -> None:
    hart = Hart(LOOP, tier=INTERPRETED)
    hart.cpu.run(3000)
    assert hart.cpu.translator is None and hart.x("a0") == 1000


# ---- chains -------------------------------------------------------------------------------------------------------

CHAINS = {
    "one block": "loop: j loop",
    "a block and a count": f"loop: addi a0, a0, 1; {TICK}; j loop",
    "two blocks": "loop: addi a0, a0, 1; jal a1, two; nop; two: addi a0, a0, 3; jal a2, loop",
    "two pages": "loop: addi a0, a0, 1; jal a1, two; .align 4096; two: auipc a2, 0; addi a0, a0, 3; j loop",
    "jalr": "la s1, two; la s2, loop; loop: jalr s3, 1(s1); nop; two: addi a0, a0, 1; jalr a3, 0(s2)",
    "branches": "li a1, 1; loop: addi a0, a0, 1; bnez a1, two; nop; two: nop; nop; beqz zero, loop",
    "a branch both ways": "loop: addi a0, a0, 1; andi a1, a0, 3; beqz a1, even; addi t3, t3, 1; even: xor t4, t4, a0; "
    "bne a1, t0, loop; j loop",
    "calls": "loop: call f; call g; j loop; f: addi a0, a0, 1; ret; g: addi s1, s1, 2; jr ra",
    "a page crossing": "j loop; .space 4088; c.nop 0; loop: addi a0, a0, 1; c.j loop",
    "a run over a page's end": "loop: addi a0, a0, 1; j on; .space 4080; on: addi a0, a0, 2; addi a0, a0, 3; nop; "
    "j loop",
    "arms": f"la s1, word; loop: amoadd.w a0, s1, (s1); {TICK}; addi t6, t6, 1; csrr a1, mscratch; addi t5, t5, 1; "
    "j loop; .align 64; word: .dword 0",
    "long": "loop: " + "addi a0, a0, 1; addi t3, t3, 2; " * 50 + "j loop",
}


@pytest.mark.parametrize("tier", [FORCED, Tier(at_once=True, trace=1), Tier(at_once=True, trace=3), COUNTED])
@pytest.mark.parametrize("name", CHAINS)
def test_every_budget_is_exact(name: str, tier: Tier) -> None:
    """run(n) for every n, from wherever the last one ended: registers, pc and instret are the interpreter's."""
    twins = Twins(CHAINS[name], tier=tier)
    for budget in range(1, 260):
        before = twins.hart.cpu.instret
        assert twins.run(budget) == _cpu.EXIT_BUDGET
        assert twins.hart.cpu.instret - before == budget
    assert twins.translator["translations"] > 0


@pytest.mark.parametrize("name", CHAINS)
def test_one_long_run_is_exact(name: str) -> None:
    """Over several of the run loop's own budgets (a look at the clock every 16384 instructions)."""
    twins = Twins(CHAINS[name])
    for budget in (16_383, 16_384, 16_385, 50_001):
        twins.run(budget)
    assert twins.translator["translations"] > 0


class Bell(RecordingBus):
    """A device whose register ends the run."""

    hart: Hart

    def write(self, address: int, size: int, value: int) -> None:
        self.hart.cpu.stop()


RINGING = "csrr a7, time; li t0, 0x10000000; sw zero, 0(t0); j ."


@pytest.mark.parametrize("tier", [FORCED, COUNTED, Tier(at_once=True, trace=1, landings=1)])
@pytest.mark.parametrize("name", CHAINS)
def test_a_timer_reaches_every_chain(name: str, tier: Tier) -> None:
    """The bound is generous for a machine that does much else; an interrupt that is lost never comes."""
    bell = Bell()
    hart = bell.hart = Hart(CHAINS[name], bus=bell, tier=tier)
    hart.load(RINGING, HANDLER)
    hart.cpu.run(6000)  # hot before the interrupt is enabled
    made = translator(hart)["translations"]
    assert made > 0
    hart.csr(mstatus=MIE, mie=1 << 5, menvcfg=STCE, stimecmp=hart.cpu.mtime + 10_000)
    patience = threading.Timer(60, hart.cpu.stop)
    patience.start()
    assert hart.cpu.run(1 << 40) == _cpu.EXIT_STOP
    patience.cancel()
    assert hart.read("mcause") == INTERRUPT | 5
    assert 0 <= hart.x("a7") - hart.read("stimecmp") < 20_000_000, "ticks of 100 ns"
    assert hart.program.base <= hart.read("mepc") < hart.program.base + len(hart.program.code)


@pytest.mark.parametrize("name", CHAINS)
def test_stop_reaches_every_chain(name: str) -> None:
    hart = Hart(CHAINS[name], tier=FORCED)
    hart.cpu.run(1000)
    threading.Timer(0.01, hart.cpu.stop).start()
    assert hart.cpu.run(1 << 40) == _cpu.EXIT_STOP
    assert hart.cpu.run(1) == _cpu.EXIT_BUDGET, "asked once, stopped once"
    twin = Hart(CHAINS[name], tier=INTERPRETED)
    if hart.cpu.instret < 20_000_000:
        twin.cpu.run(hart.cpu.instret)
        compare(twin, hart)


RINGS = {
    "two blocks": "loop: addi a0, a0, 1; {tick}; jal a1, two; nop; two: addi a0, a0, 3; {tick}; jal a2, loop",
    "two pages": "loop: {tick}; jal a1, two; .align 4096; two: auipc a2, 0; addi a0, a0, 3; {tick}; j loop",
    "jalr": "la s1, two; la s2, loop; loop: {tick}; jalr s3, 1(s1); nop; two: addi a0, a0, 1; {tick}; jalr a3, 0(s2)",
    "calls": "loop: call f; {tick}; j loop; f: addi a0, a0, 1; ret; nop; nop; {tick}",
}


@pytest.mark.parametrize("name", RINGS)
def test_a_ring_runs_in_translated_code(name: str) -> None:
    """But for the passes that a budget of the run loop cuts short: it is small in a build without optimisation."""
    source = RINGS[name]
    twins = Twins(source.format(tick=TICK))
    wanted = Twins(source.format(tick="addi s0, s0, 1"))  # what counts, whoever executes it
    for pair in (twins, wanted):
        pair.run(100_000)
    assert wanted.hart.x("s0") * 0.99 < twins.ticks <= wanted.hart.x("s0")


def test_instret_read_in_hot_code_is_exact() -> None:
    """minstret in the middle of a loop, in blocks that translated code entered in every way."""
    twins = Twins(
        """
        la s1, table
        loop: csrr a0, minstret; csrr a1, mcycle; sd a0, 0(s1); andi a2, a3, 7; addi a3, a3, 1
        beqz a2, skip; sub t3, a1, a0; add t4, t4, a0
        skip: call f; li a4, 300; bltu a3, a4, loop
        done: j done
        f: csrr t5, minstret; add t4, t4, t5; ret
        .align 8
        table: .dword 0
        """
    ).finish(30_000)
    assert twins.hart.x("a3") == 300 and twins.translator["translations"] > 0


# ---- code that changes --------------------------------------------------------------------------------------------

PATCHING = """
        la s3, dummy; la s2, target; li t0, {alias}; add s2, s2, t0; sub s2, s2, s3
        la t0, new; lw t1, 0(t0); srli t2, t1, 16; ld t3, 0(t0); flw ft0, 0(t0); fld fa0, 0(t0); li s1, 100; j loop
        .align 64
    new: addi a0, zero, 2; nop
        .align 64
    loop:
        addi a4, s1, -50; sltiu a4, a4, 1; mul a4, a4, s2; add a4, a4, s3    # the dummy, but for one pass of a hundred
        {early}
        {store}
        {fence}
        {later}
        add s0, s0, a0; addi s1, s1, -1; bnez s1, loop
    done: j done
        .align {align}
        {apart}
"""
FUNCTION = "target: addi a0, zero, 1; nop; ret"
PLACES = {  # early, later, apart, align, what s0 becomes
    "a later instruction of the trace": ("", "target: addi a0, zero, 1; nop", "", 64, 150),
    "an earlier instruction of the trace": ("target: addi a0, zero, 1; nop", "", "", 64, 149),
    "another block of the page": ("", "call target", FUNCTION, 64, 150),
    "another page": ("", "call target", FUNCTION, 4096, 150),
    "another page, by jalr": ("la t5, target", "jalr ra, 0(t5)", FUNCTION, 4096, 150),
}
STORES = [
    "sw t1, 0(a4)",
    "sh t2, 2(a4)",
    "sd t3, 0(a4)",
    "fsw ft0, 0(a4)",
    "fsd fa0, 0(a4)",
    "amoswap.w zero, t1, (a4)",
    "sb t2, 2(a4); srli t4, t2, 8; sb t4, 3(a4)",
    "lr.w t4, (a4); sc.w t4, t1, (a4)",
]


def patching(place: str, store: str, fence: str = "", alias: int = 0) -> tuple[str, int]:
    early, later, apart, align, total = PLACES[place]
    source = PATCHING.format(early=early, later=later, apart=apart, align=align, store=store, fence=fence, alias=alias)
    return source, total


@pytest.mark.parametrize("tier", [FORCED, COUNTED, Tier(at_once=True, trace=1)])
@pytest.mark.parametrize("fence", ["", "fence.i"])
@pytest.mark.parametrize("place", PLACES)
def test_hot_code_is_patched(place: str, fence: str, tier: Tier) -> None:
    """In the middle of a loop that was translated and linked; the core is coherent without fence.i."""
    for store in STORES:
        source, total = patching(place, store, fence)
        twins = Twins(source, tier=tier, dummy=DATA).csr(mstatus=3 << 13).finish()
        assert twins.hart.x("s0") == total, store
        assert twins.translator["translations"] >= 2, "before the patch and after it"


@pytest.mark.parametrize("store", ["sw {value}, 0(sp)", "amoswap.w zero, {value}, (sp)", "fsw {f}, 0(sp)"])
@pytest.mark.parametrize("tier", [FORCED, COUNTED])
def test_a_page_that_is_written_becomes_code_and_is_written_again(tier: Tier, store: str) -> None:
    """Off the stack pointer, which has one window in all traces: what the page allowed as data isn't remembered."""
    first, second = (store.format(value=value, f=f) for value, f in (("s4", "fa4"), ("s5", "fa5")))
    twins = Twins(
        f"loop: {first}; {TICK}; {first}; jalr ra, 0(sp); {second}; jalr ra, 0(sp); add sp, sp, s3;"
        "addi s1, s1, -1; bnez s1, loop; done: j done",
        tier=tier,
        ram=8 << 20,
    )
    one, other = (assemble(f"addi a0, a0, {amount}").code for amount in (1, 1000))
    pages = 200
    for n in range(pages):
        twins.write(CODE + n * PAGE, one + assemble("ret").code)
    words = [int.from_bytes(code, "little") for code in (one, other)]
    twins.csr(mstatus=3 << 13).set(s1=pages, sp=CODE, s3=PAGE, s4=words[0], s5=words[1])
    twins.do(lambda hart: [hart.cpu.set_f(14 + n, -1 << 32 & ONES | value) for n, value in enumerate(words)] and None)
    twins.finish(20_000)
    assert twins.hart.x("a0") == pages * 1001


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_hot_code_is_patched_through_another_virtual_page(place: str, known: bool) -> None:
    """`known`: the alias is in the TLB, to be written, before anything is decoded from the page."""
    away = 16 * PAGE
    for store in STORES:
        source, total = patching(place, store, alias=away)
        twins = Twins(tier=FORCED).csr(mstatus=3 << 13)
        program = assemble(source, VA, dummy=VA + 2 * away)

        def prepare(hart: Hart, code: bytes = program.code) -> None:
            tables = PageTables(hart).identity().map(VA + 2 * away, DATA, "vrwad")
            for page in range(2):
                tables.map(VA + page * PAGE, CODE + page * PAGE, "vrxad")
                tables.map(VA + away + page * PAGE, CODE + page * PAGE, "vrwad")
            tables.on()
            hart.cpu.write(CODE, code)
            hart.set(priv=S, a4=VA + away + (PAGE if "page" in place else 0))
            if known:
                assert hart.step("ld a5, 0(a4)") is None and hart.step("sd a5, 0(a4)") is None
            hart.set(pc=VA)

        twins.do(prepare)
        twins.run(5000)
        assert (twins.hart.cpu.pc, twins.hart.x("s0")) == (program["done"], total), store
        assert twins.translator["translations"] >= 2


def test_a_store_across_pages_patches_both() -> None:
    """One sd whose halves lie in two pages of hot code, in the middle of the loop through them."""
    code = assemble(
        "addi a0, a0, 1; addi a1, a1, 1; addi s1, s1, -1; beqz s1, done; j loop; done: j done", CODE - 4, loop=RAM
    )
    new = assemble("addi a0, a0, 5; addi a1, a1, 7").code
    twins = Twins(
        f"loop: addi a4, s1, -50; bnez a4, on; sd s3, -4(s2); on: j {CODE - 4}", tier=FORCED
    )  # the loop's head is elsewhere: a link leads to the edge
    twins.write(CODE - 4, code.code).set(s1=100, s2=CODE, s3=int.from_bytes(new, "little"))
    twins.run(3000)
    assert twins.hart.cpu.pc == code["done"]
    assert (twins.hart.x("a0"), twins.hart.x("a1")) == (50 + 5 * 50, 50 + 7 * 50)
    assert twins.translator["translations"] >= 3


def test_a_device_patches_hot_code() -> None:
    """Between two runs, and while its own register is written in the middle of the trace that it patches."""

    class Doorbell(RecordingBus):
        cpu: _cpu.Cpu

        def write(self, address: int, size: int, value: int) -> None:
            self.log.append(("write", address, size, value))
            if value == 50:
                self.cpu.write(target, word("addi", rd="a0", rs1="zero", imm=100))

    source = """
            li s1, 100; li s2, 0x10000000
        loop: sw s1, 0(s2)
        target: addi a0, zero, 1
            add s0, s0, a0; addi s1, s1, -1; bnez s1, loop
        done: j done
        """
    target = assemble(source, RAM)["target"]

    def connect(hart: Hart) -> None:
        assert isinstance(hart.bus, Doorbell)
        hart.bus.cpu = hart.cpu

    twins = Twins(source, bus=Doorbell)
    twins.do(connect)
    assert twins.finish().hart.x("s0") == 50 + 50 * 100
    for value in range(1, 20):
        twins.write(target, word("addi", rd="a0", rs1="zero", imm=value))
        before = twins.hart.x("s0")
        twins.set(s1=40, pc=target).finish()
        assert twins.hart.x("s0") - before == 40 * value
    assert twins.translator["translations"] > 20


# ---- links across pages, address spaces ---------------------------------------------------------------------------


def paged(hart: Hart, at: int = RAM + 0x10_0000, rights: str = "vrwxad") -> PageTables:
    """Page tables with the start of RAM where it is; S mode."""
    tables = PageTables(hart, at)
    for page in range(RAM, RAM + 0x1_0000, PAGE):
        tables.map(page, page, rights)
    hart.set(priv=S)
    return tables.on()


FENCES = ["sfence.vma a2, zero", "sfence.vma zero, zero", "csrw satp, a3"]


@pytest.mark.parametrize("tier", [FORCED, COUNTED])
@pytest.mark.parametrize("fence", FENCES)
@pytest.mark.parametrize("crossing", [False, True])
def test_the_second_page_of_a_hot_loop_is_remapped(crossing: bool, fence: str, tier: Tier) -> None:
    """A jump leads from one page into the other (or to an instruction that lies in both) and back: none goes stale."""
    nop = "c.nop 0" if crossing else "nop; c.nop 0"  # the addi stands at 0xffe, or at 0x1000 behind a page of its own
    first = assemble(f"loop: addi a1, a1, 1; j . + {PAGE - 8 if crossing else PAGE - 10}", VA).code
    first = first.ljust(PAGE - 4 if crossing else PAGE - 6, b"\0") + assemble(nop).code
    others = []
    for amount in (1, 1 << 8):
        behind = assemble("nop; j loop", VA + PAGE + 2, loop=VA).code if crossing else b""
        add = assemble(f"addi a0, a0, {amount}").code
        others.append((add + behind) if crossing else add + assemble("j loop", VA + PAGE + 4, loop=VA).code)
    twins = Twins(tier=tier)

    def prepare(hart: Hart) -> PageTables:
        hart.cpu.write(CODE, first + (others[0][:2] if crossing else b""))
        for n, other in enumerate(others):
            hart.cpu.write(CODE + (n + 1) * PAGE, other[2:] if crossing else other)
        hart.load(fence, FENCE)
        return paged(hart).map(VA, CODE, "vrxad").map(VA + PAGE, CODE + PAGE, "vrxad")

    tables = [prepare(hart) for hart in (twins.interpreter, twins.hart)]
    for table in tables:
        table.hart.set(pc=VA, a2=VA + PAGE)
    for turn in range(6):
        before = twins.hart.x("a0"), twins.hart.x("a1")
        twins.run(400 if not turn else 403 + turn)
        made = twins.hart.x("a0") - before[0], twins.hart.x("a1") - before[1]
        assert made[0] // (1, 1 << 8)[turn % 2] in range(made[1] - 1, made[1] + 2)
        for table in tables:
            table.map(VA + PAGE, CODE + (1 + (turn + 1) % 2) * PAGE, "vrxad")
            table.hart.set(a3=table.satp | turn + 1 << 44)
        pc = twins.hart.cpu.pc
        twins.set(pc=FENCE).run(1)
        twins.set(pc=pc)
    assert twins.translator["translations"] > 0


KERNEL = """
    again: addi s1, s1, -1; beqz s1, done; mv t0, a2; mv a2, a3; mv a3, t0; csrw satp, a2
        csrw sepc, a4; sret
    back: add s0, s0, a0; slli t1, s0, 1; xor t2, t2, t1; j again
    done: j done
"""


@pytest.mark.parametrize("rights", ["vrwxad", "vrwxadg"])
@pytest.mark.parametrize("tier", [FORCED, COUNTED])
def test_two_address_spaces_show_different_code_at_one_address(tier: Tier, rights: str) -> None:
    """A kernel switches between them two hundred times without a fence (they have ASIDs); U's code is hot in both."""
    twins = Twins(tier=tier)
    program = assemble(KERNEL, RAM)

    def prepare(hart: Hart) -> None:
        hart.cpu.write(RAM, program.code)
        satps = []
        for n, amount in enumerate((1, 1000)):
            hart.cpu.write(CODE + n * PAGE, assemble(f"addi a0, zero, {amount}; addi t5, t5, {amount}; j . + 8").code)
            hart.cpu.write(CODE + n * PAGE + 16, assemble("j . + 0xff0").code)
            hart.cpu.write(DATA + n * PAGE, assemble(f"addi t6, t6, {amount}; ecall").code)
            tables = paged(hart, RAM + 0x10_0000 + n * 0x4_0000, rights).map(VA, CODE + n * PAGE, "vrxuad")
            tables.map(VA + PAGE, DATA + n * PAGE, "vrxuad")
            satps.append(tables.satp | n + 5 << 44)
        hart.csr(medeleg=1 << 8, stvec=program["back"], mstatus=1 << 18)
        hart.set(a2=satps[0], a3=satps[1], a4=VA, s1=201, pc=RAM, priv=S)

    twins.do(prepare)
    for budget in (37, 333, 10_000):
        twins.run(budget)
    assert twins.hart.cpu.pc == program["done"]
    assert twins.hart.x("s0") == twins.hart.x("t5") == twins.hart.x("t6") == 100 * 1001
    assert twins.translator["translations"] >= 6


def test_one_translation_serves_every_virtual_address() -> None:
    """auipc, jal and jalr give the addresses of the page that the code was entered through; nothing is made anew."""
    jumps = "auipc a0, 0; jal a1, . + 8; nop; auipc a2, 1; beqz zero, . + 8; nop"
    code = assemble(f"{jumps}; auipc a4, 0x7ffff; auipc a5, 0x80000; jalr a3, 0(ra)").code
    twins = Twins()
    back = RAM + 0x4000

    def prepare(hart: Hart) -> None:
        hart.cpu.write(CODE + 0x100, code)
        hart.load("j .", back)
        tables = paged(hart)
        for n in range(4):
            tables.map(VA + 3 * n * PAGE, CODE, "vrxad").map(-(1 << 38) + n * PAGE & ONES, CODE, "vrxad")

    twins.do(prepare)
    made = 0
    for n in range(12):
        at = (VA + 3 * (n % 4) * PAGE if n % 3 else -(1 << 38) + n % 4 * PAGE & ONES) + 0x100
        twins.set(ra=back, pc=at).run(20)
        hart = twins.hart
        assert [hart.x(name) for name in ("a0", "a1", "a2", "a3")] == [at, at + 8, at + 12 + PAGE, at + 36]
        assert [hart.x("a4"), hart.x("a5")] == [at + 24 + 0x7FFF_F000 & ONES, at + 28 - 0x8000_0000 & ONES]
        assert hart.cpu.pc == back
        made = made or twins.translator["translations"]
        assert twins.translator["translations"] == made > 0, "made once"


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=named)
def test_a_link_holds_for_the_page_that_it_was_made_from(tier: Tier) -> None:
    """One page of code shown at two addresses jumps to the next page, which is another one at each; called in turn."""
    twins = Twins("loop: jalr ra, 0(s2); jalr ra, 0(s3); addi s1, s1, -1; bnez s1, loop; done: j done", tier=tier)
    here, there = VA + 0x40, VA + 16 * PAGE + 0x40

    def prepare(hart: Hart) -> None:
        hart.cpu.write(CODE + 0x40, assemble("auipc a1, 0; add s4, s4, a1; j . + 0x1000").code)
        for n, amount in enumerate((1, 1000)):
            hart.cpu.write(
                CODE + (n + 1) * PAGE + 0x48, assemble(f"addi a0, a0, {amount}; auipc a2, 0; add s5, s5, a2; ret").code
            )
        tables = paged(hart).map(here & ~0xFFF, CODE, "vrxad").map(there & ~0xFFF, CODE, "vrxad")
        tables.map(VA + PAGE, CODE + PAGE, "vrxad").map(VA + 17 * PAGE, CODE + 2 * PAGE, "vrxad")
        hart.set(s1=100, s2=here, s3=there)

    twins.do(prepare)
    for budget in (3, 50, 5000):
        twins.run(budget)
    assert twins.hart.cpu.pc == twins.program["done"]
    assert twins.hart.x("a0") == 100 * 1001
    assert twins.hart.x("s4") == 100 * (here + there)
    assert twins.translator["translations"] > 0


SPREAD = """
    start: la s2, g0; {calls}; addi s1, s1, 1; sfence.vma zero, zero; j start
    .align 16384; {direct}; .align 4096; {indirect}
"""


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=named)
def test_translated_code_is_found_again_by_its_address(tier: Tier) -> None:
    """A fence empties the landings, and links across pages hold no more; one entry a page finds the rest."""
    count, turns = 12, 60
    calls = "; ".join(f"call f{n}; jalr ra, {16 * n}(s2)" for n in range(count))
    direct = "; ".join(f"f{n}: addi a0, a0, {n + 1}; ret" for n in range(count))
    indirect = "; ".join(f".align 16; g{n}: addi a1, a1, {n + 1}; ret" for n in range(count))
    twins = Twins(SPREAD.format(calls=calls, direct=direct, indirect=indirect), tier=tier)
    turn = 2 + 8 * count - count + 3  # la, a call of either kind and its function, the rest
    twins.run(turn * turns)
    before = twins.translator["entered"]
    twins.run(turn * turns)
    sums = twins.hart.x("s1") * count * (count + 1) // 2
    assert 0 <= twins.hart.x("a0") - sums <= sums // turns and twins.translator["translations"] >= 2 * count
    assert twins.translator["entered"] - before <= 4 * turns, "once a page and turn, not once a call"


def test_a_loop_through_two_aliases_of_one_page() -> None:
    """Both virtual pages show one physical page: a link between its blocks must not forget which page it is in."""
    twins = Twins()

    def prepare(hart: Hart) -> None:
        hart.cpu.write(CODE, assemble("addi a0, a0, 1; j . + 0x1000 - 4 + 16").code)
        hart.cpu.write(CODE + 16, assemble("auipc a1, 0; add a2, a2, a1; j . - 0x1000 - 8 - 16").code)
        paged(hart).map(VA, CODE, "vrxad").map(VA + PAGE, CODE, "vrxad")
        hart.set(pc=VA)

    twins.do(prepare)
    twins.run(500)
    assert twins.hart.x("a0") == 100 and twins.hart.x("a2") == 100 * (VA + PAGE + 16)
    for budget in range(1, 40):
        twins.run(budget)
    assert twins.translator["translations"] > 0


def test_a_page_loses_its_right_to_be_executed_while_hot() -> None:
    """It is still read, just before: the TLB has it."""
    for fence in FENCES:
        twins = Twins()

        def prepare(hart: Hart, fence: str = fence) -> PageTables:
            hart.load(fence, FENCE)
            hart.cpu.write(CODE, assemble("ld a5, 0(a2); addi a0, a0, 1; j . + 0x1000 - 8").code)
            hart.cpu.write(CODE + PAGE, assemble("addi a0, a0, 1; j . - 0x1000 - 4").code)
            hart.set(pc=VA, a2=VA + PAGE)
            return paged(hart).map(VA, CODE, "vrxad").map(VA + PAGE, CODE + PAGE, "vrxad")

        tables = [prepare(hart) for hart in (twins.interpreter, twins.hart)]
        twins.run(500)
        for table in tables:
            table.map(VA + PAGE, CODE + PAGE, "vrwad")
            table.hart.set(a3=table.satp | 7 << 44)
        twins.set(pc=FENCE).run(1)
        twins.set(pc=VA).run(100)
        assert twins.hart.trap() == Trap(12, VA + PAGE, VA + PAGE)
        assert twins.hart.x("a0") == 201 and twins.translator["translations"] > 0


STRADDLERS = [  # none of them changes a1, a2 or s1; what they do to the rest is compared
    "addi a0, a0, 3",
    "ld a0, 0(a2)",
    "sd s1, 0(a2)",
    "amoadd.d a0, s1, (a2)",
    "csrrs a0, minstret, zero",
    "csrrs a0, fcsr, zero",
    "csrrw a0, sscratch, s1",
    "fadd.d fa0, fa0, fa1",
    "fsd fa0, 0(a2)",
    "fence.i",
    "beq zero, zero, on",
    "bne zero, zero, on",
    "jal a0, on",
    "jalr a0, 0(a1)",
    "auipc a0, 1",
]


def straddling(instruction: str, fs: int = 3) -> Twins:
    """A hot loop at CODE, of which one instruction lies in two pages."""
    front = "loop: fadd.d fa2, fa2, fa1; addi s1, s1, -1; c.nop 0"
    behind = "addi s3, s3, 7; on: add s0, s0, a0; bnez s1, loop; done: j done"
    size = len(assemble(front, CODE).code)
    start = CODE + PAGE - 2 - size
    program = assemble(f"{front}; {instruction}; {behind}", start)
    twins = Twins("nop")
    twins.write(start, program.code).csr(mstatus=fs << 13).set(pc=start, a1=program["on"], a2=DATA, s1=1000)
    twins.do(lambda hart: [hart.cpu.set_f(n, 0x3FF0_0000_0000_0003 + n) for n in range(32)] and None)
    return twins


@pytest.mark.parametrize("instruction", STRADDLERS)
def test_what_lies_in_two_pages_is_no_reason_to_leave(instruction: str) -> None:
    twins = straddling(instruction)
    for budget in (1500, 1, 1, 1, 1, 1, 1, 1, 2, 3, 500, 6000):
        twins.run(budget)
    assert twins.hart.x("s1") == 0
    assert twins.translator["entered"] < 100, "a thousand rounds"


@pytest.mark.parametrize("instruction", ["fadd.d fa0, fa0, fa1", "fsd fa0, 0(a2)", "csrrs a0, fcsr, zero"])
def test_what_lies_in_two_pages_needs_the_floating_point_unit(instruction: str) -> None:
    twins = straddling(instruction, fs=0)
    twins.set(pc=CODE + PAGE - 4).run(50)
    assert twins.hart.read("mcause") == 2 and twins.hart.read("mepc") == CODE + PAGE - 2


def test_either_half_of_what_lies_in_two_pages_is_overwritten() -> None:
    twins = straddling("addi a0, a0, 3")
    twins.run(1500)
    for n in range(5):
        twins.write(CODE + PAGE, assemble(f"addi a0, a0, {n}").code[2:])
        twins.run(303)
    twins.write(CODE + PAGE - 2, assemble("c.addi a0, 9; c.nop 0").code)  # two instructions of two bytes
    twins.run(303)
    twins.write(CODE + PAGE - 2, assemble("addi a0, a0, 5").code)
    twins.run(303)
    twins.write(CODE + PAGE - 2, bytes(4))
    twins.run(303)
    assert twins.hart.read("mcause") == 2 and twins.hart.read("mepc") == CODE + PAGE - 2


def test_what_lay_in_two_pages_becomes_two_instructions() -> None:
    """No decoded instruction is near, so nothing is dropped when it is overwritten."""
    twins = Twins("nop")
    loop = assemble(f"loop: addi s1, s1, -1; j . + {PAGE - 6}", CODE)
    behind = assemble("beqz s1, done; j loop; done: j done", CODE + PAGE + 2, loop=CODE)
    twins.write(CODE, loop.code).write(CODE + PAGE + 2, behind.code)
    for amount, code in ((3, "addi a0, a0, 3"), (5, "c.addi a0, 5; c.nop 0"), (7, "addi a0, a0, 7")):
        twins.write(CODE + PAGE - 2, assemble(code).code)
        twins.set(pc=CODE, s1=50, a0=0).run(500)
        assert twins.hart.x("a0") == 50 * amount
        twins.set(pc=CODE, s1=50, a0=0).run(100)  # and it is hot again when the next one comes


@pytest.mark.parametrize("store", ["ld a0, 0(a2)", "sd s1, 0(a2)"])
def test_what_lies_in_two_pages_asks_a_device(store: str) -> None:
    twins = straddling(store)
    twins.do(lambda hart: hart.bus.registers.update({0x1000_0000: 7}))
    twins.set(a2=0x1000_0000).run(900)
    assert len(twins.hart.bus.log) > 100 and twins.hart.x("s1") < 900


# ---- indirect jumps -----------------------------------------------------------------------------------------------

ROUND = """
        li s1, 200
    loop: andi a3, s1, 3; slli a3, a3, 3; add a3, a3, s2; ld a4, 0(a3); jalr ra, 0(a4); add s0, s0, a0; xor t3, t3, ra
        addi s1, s1, -1; bnez s1, loop
    done: j done
"""
ALL_LANDINGS = [Tier(at_once=True, landings=landings) for landings in (1, 2, 4, 4096)]


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("tier", [COUNTED, *ALL_LANDINGS])
def test_targets_that_share_a_landing(tier: Tier, bit: int) -> None:
    """Four functions in turn, whose addresses differ where the table's index doesn't see it; bit 0 is ignored."""
    for step in (0x800, PAGE + 2, 2 * PAGE):
        targets = [CODE + 0x100 + n * step for n in range(4)]
        twins = Twins(ROUND, tier=tier)
        for n, target in enumerate(targets):
            twins.write(target, assemble(f"addi a0, zero, {10**n}; ret").code)
            twins.write(RAM + 0x4000 + 8 * n, (target | bit).to_bytes(8, "little"))
        twins.set(s2=RAM + 0x4000).finish()
        assert twins.hart.x("s0") == 50 * 1111 and twins.translator["translations"] > 0


@pytest.mark.parametrize("step", [0x2004, 0x4008])
def test_two_targets_of_one_landing_are_both_known(step: int) -> None:
    """They take turns, and none drives the other out."""
    targets = [CODE + 0x100, CODE + 0x100 + step]
    assert len({(target >> 1 ^ target >> 12) & 4095 for target in targets}) == 1
    twins = Twins(ROUND, tier=FORCED)
    for n in range(4):
        twins.write(targets[n % 2], assemble("addi a0, zero, 1; ret").code)
        twins.write(RAM + 0x4000 + 8 * n, targets[n % 2].to_bytes(8, "little"))
    twins.set(s2=RAM + 0x4000).run(2500)
    assert twins.hart.x("s0") == 200 and twins.translator["entered"] < 40


@pytest.mark.parametrize("tier", ALL_LANDINGS)
def test_targets_that_differ_above_bit_31(tier: Tier) -> None:
    twins = Twins(ROUND, tier=tier)
    targets = [at + 0x100 & ONES for at in (1 << 32, 1 << 33, 1 << 37, -(1 << 38))]

    def prepare(hart: Hart) -> None:
        tables = paged(hart)
        for n, target in enumerate(targets):
            hart.cpu.write(CODE + n * PAGE + 0x100, assemble(f"addi a0, zero, {10**n}; ret").code)
            hart.store(RAM + 0x4000 + 8 * n, target)
            tables.map(target & ~0xFFF, CODE + n * PAGE, "vrxad")
        hart.set(s2=RAM + 0x4000)

    twins.do(prepare)
    assert twins.finish().hart.x("s0") == 50 * 1111
    assert twins.translator["translations"] >= 5


@pytest.mark.parametrize("fence", FENCES)
def test_the_target_of_a_hot_indirect_jump_is_remapped(fence: str) -> None:
    target = VA + 0x40  # has a landing that nothing else of this uses
    twins = Twins("loop: jalr ra, 0(s2); add s0, s0, a0; addi s1, s1, -1; bnez s1, loop; done: j done")

    def prepare(hart: Hart) -> PageTables:
        hart.load(fence, FENCE)
        hart.set(s2=target, a2=VA)
        for n in range(2):
            hart.cpu.write(CODE + n * PAGE + 0x40, assemble(f"addi a0, zero, {n + 1}; ret").code)
        return paged(hart).map(VA, CODE, "vrxad")

    tables = [prepare(hart) for hart in (twins.interpreter, twins.hart)]
    for turn in range(6):
        for table in tables:
            table.map(VA, CODE + turn % 2 * PAGE, "vrxad")
            table.hart.set(a3=table.satp | turn + 1 << 44, s0=0, s1=60)
        twins.set(pc=FENCE).run(1)
        twins.set(pc=RAM).finish(2000)
        assert twins.hart.x("s0") == 60 * (1 + turn % 2)
    assert twins.translator["translations"] > 0


@pytest.mark.parametrize("level", [U, S])
def test_hot_indirect_jumps_to_where_they_may_not_go(level: int) -> None:
    """Unmapped, not canonical, the other privilege's page though hot there, no memory at all: epc is the target."""
    source = "addi a0, a0, 1; jalr ra, 0(s2); j . - 8"
    mine, theirs = (VA, VA + PAGE) if level == U else (VA + PAGE, VA)
    twins = Twins()

    def prepare(hart: Hart) -> None:
        hart.cpu.write(CODE, assemble(source).code)
        hart.cpu.write(CODE + PAGE, assemble(source).code)
        hart.cpu.write(DATA, assemble("addi a1, a1, 1; ret").code)
        tables = paged(hart).map(VA, CODE, "vrxuad").map(VA + PAGE, CODE + PAGE, "vrxad")
        tables.map(VA + 4 * PAGE, DATA, "vrxuad").map(VA + 5 * PAGE, DATA, "vrxad")
        tables.map(VA + 8 * PAGE, 0x4000_0000, "vrxad" + ("u" if level == U else ""))

    twins.do(prepare)
    functions = {U: VA + 4 * PAGE, S: VA + 5 * PAGE}
    wrong = [
        (functions[S if level == U else U], 12),
        (theirs, 12),
        (VA + 2 * PAGE, 12),
        (VA + 2 * PAGE + 0xFFE, 12),
        (functions[level] ^ 1 << 63, 12),
        (functions[level] ^ 1 << 39, 12),
        (VA + 8 * PAGE, 1),
    ]
    for target, cause in wrong:
        twins.set(pc=theirs, priv=S if level == U else U, s2=functions[S if level == U else U]).run(100)
        twins.set(pc=mine, priv=level, s2=functions[level]).run(101)
        twins.set(pc=mine, priv=level, s2=target | 1).run(50)
        assert twins.hart.trap() == Trap(cause, target, target)
        assert twins.hart.x("ra") == mine + 8
    assert twins.translator["translations"] > 0
