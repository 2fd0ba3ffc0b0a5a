"""Memory for translated code: bounded, never writable and executable at once, inherited by a fork, begun anew.

The tests give the translator less memory, fewer landings and shorter traces than it wants, and run more code than they
hold; nothing but its counters may show that. The interpreter is the reference (`two_tiers.Twins`).

    Tier(memory=192 << 10), two thousand functions called again and again   →   the same sums, and `regions` grows
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import resource
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from machine_code import RAM, Hart, assemble, word
from two_tiers import BATCHED, COUNTED, FORCED, INTERPRETED, TICK, Twins, compare, named, ticks, translator

from vpod.tier import Tier

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 is translated to")

SMALL = 192 << 10
CODE = RAM + 0x10_0000
POOL = RAM + 0x8000
PAGE = 4096


# ---- more code than memory for it ---------------------------------------------------------------------------------

FUNCTIONS = 2000
CALLING = """
        li s2, {start}; li s3, {end}; li s4, {rounds}
    again: mv s1, s2
    next: jalr ra, 0(s1); jalr ra, 0(s5); addi s1, s1, 16; bne s1, s3, next
        addi s4, s4, -1; bnez s4, again
    done: j done
        .align 64
    hot: addi t3, t3, 1; {tick}; ret
"""


def finish(hart: Hart, limit: int) -> Hart:
    """Run to `done` by one budget, which is cut up by the run loop alone."""
    hart.cpu.run(limit)
    assert hart.cpu.pc == hart.program["done"], hart.describe()
    return hart


def functions(count: int) -> bytes:
    """Functions of 16 bytes, each of which does something of its own to a0."""
    parts = []
    for n in range(count):
        amount = n % 2000 - 1000
        parts.append(word("addi", rd="a0", rs1="a0", imm=amount) + word("c.slli", rd="a0", imm=n % 7 + 1))
        parts[-1] += word("xori", rd="a0", rs1="a0", imm=n % 2047) + word("c.jr", rs1="ra")
        parts[-1] = parts[-1].ljust(16, b"\0")
    return b"".join(parts)


@pytest.mark.parametrize("size", [SMALL, 256 << 10, 300_000, 1 << 20])
def test_more_code_than_memory(size: int) -> None:
    """What is called all the while is moved before its region goes; the rest is made again when it comes round."""
    source = CALLING.format(start=CODE, end=CODE + 16 * FUNCTIONS, rounds=3, tick=TICK)
    twins = Twins(source, tier=Tier(at_once=True, memory=size))
    twins.write(CODE, functions(FUNCTIONS))
    twins.set(s5=twins.program["hot"]).finish(200_000)
    assert twins.hart.x("t3") == 3 * FUNCTIONS
    counters = twins.translator
    if size < 1 << 20:
        assert counters["translations"] > 3 * FUNCTIONS and counters["regions"] > 20
        assert counters["moved"] > 20
    else:
        assert counters["regions"] > 0
    assert twins.ticks >= 3 * FUNCTIONS - 50, "the hot function was never interpreted for long"


def test_a_moved_translation_is_not_counted_anew() -> None:
    """With the threshold of every day: what is cold is counted again when it was dropped, what is hot never."""
    source = CALLING.format(start=CODE, end=CODE + 16 * FUNCTIONS, rounds=45, tick=TICK)
    hart = Hart(source, tier=Tier(memory=SMALL, patience=10))
    hart.cpu.write(CODE, functions(FUNCTIONS))
    hart.set(s5=hart.program["hot"])
    finish(hart, 2_000_000)
    assert hart.x("t3") == 45 * FUNCTIONS
    counters = translator(hart)
    assert counters["regions"] > 10 and counters["moved"] > 5
    assert hart.x("t3") - ticks(hart) < 41 + counters["regions"], "the first entries, and a pass for each move at most"


def test_a_loop_that_never_leaves_translated_code_survives_a_new_region() -> None:
    """Other code is made between its turns, of which each is long: it is found again when its region was given away."""
    twins = Twins(
        f"loop: addi a2, a2, 1; {TICK}; bne a2, a1, loop; jalr ra, 0(s1); addi s1, s1, 16; addi a1, a1, 100;"
        "bne s1, s2, loop; done: j done",
        tier=Tier(at_once=True, memory=SMALL),
    )
    twins.write(CODE, functions(FUNCTIONS)).set(a1=100, s1=CODE, s2=CODE + 16 * FUNCTIONS)
    twins.finish(700_000)
    assert twins.translator["moved"] > 5 and twins.translator["regions"] > 5


# ---- protection ---------------------------------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")


def mappings() -> set[str]:
    """This process's mappings that are writable and executable."""
    with open("/proc/self/maps") as file:
        return {line.split()[0] for line in file if "w" in line.split()[1] and "x" in line.split()[1]}


def executable() -> int:
    """How much of this process's anonymous memory is executable."""
    total = 0
    with open("/proc/self/maps") as file:
        for line in file:
            fields = line.split()
            if "x" in fields[1] and len(fields) == 5:
                start, end = (int(part, 16) for part in fields[0].split("-"))
                total += end - start
    return total


@needs_proc
@pytest.mark.parametrize(("memory", "count", "rounds"), [(SMALL, FUNCTIONS, 40), (64 << 20, 30_000, 4)])
def test_memory_is_never_writable_and_executable(memory: int, count: int, rounds: int) -> None:
    """Looked at again and again by another thread while code is translated, moved and dropped, or is in huge pages."""
    others, before = mappings(), executable()
    source = CALLING.format(start=CODE, end=CODE + 16 * count, rounds=rounds, tick=TICK)
    hart = Hart(source, tier=Tier(at_once=True, memory=memory))
    hart.cpu.write(CODE, functions(count))
    hart.set(s5=hart.program["hot"])
    running = threading.Thread(target=finish, args=(hart, 25 * count * rounds))
    running.start()
    seen: set[str] = set()
    looks = 0
    while running.is_alive() or looks < 10:
        seen |= mappings() - others
        looks += 1
    running.join()
    assert not seen
    assert hart.x("t3") == rounds * count
    assert translator(hart)["regions"] > 100 if memory == SMALL else executable() - before >= 4 << 20
    assert 0 < executable() - before <= memory
    del hart, running
    assert executable() == before, "what a hart had is given back"


# ---- tiny tables --------------------------------------------------------------------------------------------------

REGISTERS = ["ra", "sp", "t0", "t3", "s0", "s1", "a0", "a1", "a4", "a5", "t5", "t6"]
OPERATIONS = ["add", "sub", "xor", "sltu", "addw", "sraw", "mul", "divu", "remw", "and", "sll", "or", "slt", "mulh"]


def random_step(source: random.Random) -> str:
    """One instruction that doesn't jump, or a pair of them."""
    d, a, b = (source.choice(REGISTERS) for _ in range(3))
    kind = source.randrange(10)
    if kind == 9:
        up, by = source.choice(((32, 32), (48, 48), (56, 56), (32, 29), (48, 52)))
        return f"slli {d}, {a}, {up}; srli {d}, {d}, {by}"
    if kind == 8:
        return f"slli {d}, {a}, {source.randrange(1, 4)}; add {d}, {d}, {b}"
    if kind == 0:
        return f"addi {d}, {a}, {source.randrange(-2048, 2048)}"
    if kind == 1:
        return f"ld {d}, {8 * source.randrange(64)}(gp)"
    if kind == 2:
        return f"sd {a}, {8 * source.randrange(64)}(gp)"
    if kind == 3:
        return f"sw {a}, {source.randrange(500)}(gp)"
    if kind == 4:
        return f"lhu {d}, {source.randrange(500)}(gp)"
    if kind == 5:
        return source.choice((f"csrrw {d}, sscratch, {a}", f"amoadd.d {d}, {a}, (gp)", f"csrr {d}, minstret"))
    return f"{source.choice(OPERATIONS)} {d}, {a}, {b}"


def random_program(source: random.Random, blocks: int) -> str:
    """Blocks that jump among each other for ever: branches on random values, jal, and jalr through a table at tp."""
    lines = []
    for n in range(blocks):
        lines.append(f"b{n}:")
        lines += [random_step(source) for _ in range(source.randrange(6))]
        target = f"b{source.randrange(max(n - 20, 0), min(n + 20, blocks))}"
        kind = source.randrange(6)
        if kind == 0:
            lines.append(f"jal {source.choice(('ra', 't0', 'zero', 'a5'))}, {target}")
        elif kind <= 2:
            index = source.choice(REGISTERS)
            lines += [f"andi s9, {index}, {8 * 31}", "add s9, s9, tp", "ld s9, 0(s9)"]
            lines.append(f"jalr {source.choice(('ra', 'zero', 's9'))}, 0(s9)")
        elif kind <= 4:
            a, b = source.choice(REGISTERS), source.choice([*REGISTERS, "zero"])
            lines.append(f"{source.choice(('beq', 'bne', 'blt', 'bgeu', 'bltu', 'bge'))} {a}, {b}, {target}")
        if source.randrange(12) == 0:
            lines.append(".align 4; j . + 256; .space 252")
    lines.append("j b0")
    return "\n".join(lines)


TINY = [
    Tier(at_once=True, landings=1, trace=1),
    Tier(at_once=True, landings=2, trace=2, memory=SMALL),
    Tier(at_once=True, landings=4, trace=3),
    Tier(at_once=True, memory=SMALL),
    Tier(at_once=True),
    Tier(at_once=True, memory=SMALL, patience=2),
    BATCHED,
    COUNTED,
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tier", TINY, ids=named)
def test_random_programs(tier: Tier, seed: int) -> None:
    source = random.Random(seed)
    twins = Twins(f"li gp, {POOL}; li tp, {POOL + 0x1000}; " + random_program(source, 120), tier=tier)
    for n in range(32):
        twins.write(POOL + 0x1000 + 8 * n, twins.program[f"b{source.randrange(120)}"].to_bytes(8, "little"))
    twins.set(**{name: source.getrandbits(64) >> source.randrange(64) for name in REGISTERS})
    for budget in (100, 1, 2, 3, 5, 8, 997, 4999, 20_011, *source.choices(range(2000), k=30)):
        twins.run(budget)
        twins.set(pc=twins.program[f"b{source.randrange(120)}"])  # some of its loops never end
    assert twins.translator["translations"] > (20 if tier.at_once else 5)


UNBOXED = "fcvt.s.lu fs2, a1; fcvt.s.lu fs3, a1; fcvt.s.lu fs4, a1; fmadd.s fs5, fs2, fs3, fs4"
LONGEST = [  # 60 instructions each: what takes most code and data for an instruction
    UNBOXED,
    "ld a1, 8(a2); sd a1, -8(s5); fsw ft9, 0(t3); fld fa0, 16(sp); lhu t4, 24(a2)",
    "amoadd.d t4, a1, (s5); csrr t5, sscratch; amoxor.w t6, a1, (a2); fclass.d t4, fs2; fcvt.lu.d t5, fs2, rtz",
    "div t4, t5, a1; remw t6, t4, t5; mulhsu t5, t6, t4; divu t6, t5, t4; rem t4, t4, t6",
]


@pytest.mark.parametrize("body", LONGEST, ids=["unboxed", "accesses", "arms", "divisions"])
def test_a_trace_that_takes_more_than_its_room(body: str) -> None:
    """Three blocks of the longest kind, one behind the other: wherever that is cut, nothing is lost or doubled."""
    block = "; ".join([body] * (60 // (body.count(";") + 1)))
    twins = Twins(
        f"loop: {block}; bne zero, zero, loop; {block}; beqz zero, on; nop; on: {block}; addi s1, s1, 1; j loop"
    )
    twins.csr(mstatus=3 << 13).set(a1=1 << 60, a2=POOL + 64, s5=POOL + 128, t3=POOL + 256, sp=POOL + 512)
    for budget in (100, 1000, 63, 64, 65, 127, 128, 129, 10_000):
        twins.run(budget)
    assert twins.hart.x("s1") > 50 and twins.translator["translations"] > 0


@pytest.mark.parametrize("room", [1, 100, 400, 1000, 3000])
@pytest.mark.parametrize("body", LONGEST, ids=["unboxed", "accesses", "arms", "divisions"])
def test_a_trace_that_is_too_long_is_cut_to_its_first_block_and_a_block_that_is_too_long_is_interpreted(
    body: str, room: int
) -> None:
    tight = Tier(at_once=True, room=room)
    twins = Twins(f"loop: {'; '.join([body] * 4)}; j on; nop; on: {body}; addi s1, s1, 1; j loop", tier=tight)
    twins.csr(mstatus=3 << 13).set(a1=1 << 60, a2=POOL + 64, s5=POOL + 128, t3=POOL + 256, sp=POOL + 512)
    for budget in (100, 63, 64, 65, 10_000):
        twins.run(budget)
    assert twins.hart.x("s1") > 50
    if room == 1:
        assert twins.translator["translations"] == 0
    if room == 3000:
        assert twins.translator["translations"] > 1


# ---- a host that refuses memory -----------------------------------------------------------------------------------

MPROTECT, READABLE, WRITABLE, EXECUTABLE = 10, 1, 2, 4  # Linux on x86-64
ENOMEM = 12


def refuse(protection: int) -> None:
    """From now on `mprotect(…, READABLE | protection)` fails in this thread, as under SELinux's `execmem`."""

    def step(code: int, k: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, k)

    load, equal, answer = 0x20, 0x15, 0x06
    program = b"".join(
        (
            step(load, 0),  # seccomp_data.nr
            step(equal, MPROTECT, 0, 3),
            step(load, 16 + 2 * 8),  # seccomp_data.args[2]
            step(equal, READABLE | protection, 0, 1),
            step(answer, 0x0005_0000 | ENOMEM),  # SECCOMP_RET_ERRNO
            step(answer, 0x7FFF_0000),  # SECCOMP_RET_ALLOW
        )
    )
    text = ctypes.create_string_buffer(program, len(program))
    filter_program = struct.pack("@HP", len(program) // 8, ctypes.addressof(text))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((38, 1, 0, 0, 0), (22, 2, ctypes.create_string_buffer(filter_program), 0, 0)):  # no new rights
        assert prctl(*arguments) == 0, os.strerror(ctypes.get_errno())


def in_a_thread(body: Callable[[], None]) -> None:
    """What a thread is refused ends with it."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


def test_where_code_is_can_be_asked() -> None:
    """For the cage of a worker, which lets nothing else become executable."""
    hart = Hart("loop: addi a0, a0, 1; j loop", tier=Tier(at_once=True, memory=1 << 20))
    hart.cpu.run(100)
    start, size = hart.cpu.code_memory or (0, 0)
    assert size == 1 << 20 and start >> 32 == (start + size - 1) >> 32
    if sys.platform.startswith("linux"):
        with open("/proc/self/maps") as file:
            starts = [int(line.partition("-")[0], 16) for line in file if line.split()[1].startswith("r-x")]
        assert start in starts, "what all translations share comes first"
    assert Hart(tier=Tier(translate=False)).cpu.code_memory is None


def test_a_host_without_executable_memory_interprets_and_says_so() -> None:
    def body() -> None:
        refuse(EXECUTABLE)
        with pytest.warns(RuntimeWarning, match=r"refuses 67108864 bytes .* VPOD_JIT=0 interprets without asking"):
            hart = Hart("li a0, 7; done: j done", tier=FORCED)
        assert hart.cpu.translator is None
        assert finish(hart, 100).x("a0") == 7

    in_a_thread(body)


def test_a_host_without_memory_interprets_and_says_so() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), limits[1]))
    try:
        with pytest.warns(RuntimeWarning, match="refuses 1073741824 bytes"):
            hart = Hart("li a0, 7; done: j done", tier=Tier(memory=1 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert hart.cpu.translator is None
    assert finish(hart, 100).x("a0") == 7


@pytest.mark.parametrize("protection", [WRITABLE, EXECUTABLE], ids=["writable", "executable"])
def test_memory_refused_in_the_middle_loses_nothing(protection: int) -> None:
    """What was translated may run on, or be lost; the interpreter does the rest, and the translator comes back."""
    source = CALLING.format(start=CODE, end=CODE + 16 * FUNCTIONS, rounds=6, tick=TICK)
    twins = Twins(source, tier=Tier(at_once=True, memory=SMALL))
    twins.write(CODE, functions(FUNCTIONS)).set(s5=twins.program["hot"])

    def body() -> None:
        refuse(protection)
        twins.run(40)

    for _ in range(500):
        made = twins.translator["translations"]
        in_a_thread(body)
        assert twins.translator["translations"] <= made + 1, "a page that was still writable"
        twins.run(12)  # a translation or two, so that it is often refused to begin a region
    twins.finish(200_000)
    assert twins.hart.x("t3") == 6 * FUNCTIONS
    assert twins.translator["translations"] > 1.5 * made


# ---- forks --------------------------------------------------------------------------------------------------------


def forked(body: Callable[[], None]) -> None:
    """Run `body` in a child; its failure is ours."""
    child = os.fork()
    if not child:
        try:
            body()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("tier", [FORCED, COUNTED, Tier(at_once=True, memory=SMALL)])
def test_a_fork_goes_on_with_its_parents_translations(tier: Tier) -> None:
    """Nothing is made anew; afterwards parent and child patch the same code differently, and neither sees that."""
    source = (
        f"loop: call f; add s0, s0, a0; {TICK}; addi s1, s1, -1; bnez s1, loop; done: j done; .align 64; f: nop; ret"
    )
    harts = Hart(source, tier=tier), Hart(source, tier=INTERPRETED)
    hart, twin = harts
    f = hart.program["f"]

    def turns(amount: int) -> int:
        for one in harts:
            one.cpu.write(f, word("addi", rd="a0", rs1="zero", imm=amount)) if amount else None
            finish(one.set(s0=0, s1=100, pc=RAM), 900)
        compare(twin, hart)
        return hart.x("s0")

    assert turns(3) == 300
    made, ticked = translator(hart)["translations"], ticks(hart)
    assert made > 0

    def child() -> None:
        assert turns(0) == 300
        assert translator(hart)["translations"] == made, "inherited"
        assert ticks(hart) >= ticked + 98, "and used, but where a budget of the run loop ends"
        for amount in range(100, 120):
            assert turns(amount) == 100 * amount
        assert translator(hart)["translations"] > made
        forked(lambda: check(7))
        check(11)

    def check(amount: int) -> None:
        assert turns(amount) == 100 * amount

    forked(child)
    assert turns(0) == 300
    assert translator(hart)["translations"] == made, "the child's are the child's"
    check(5)
    forked(lambda: check(6))
    assert turns(0) == 500


# ---- all decoded code is dropped ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [FORCED, Tier(at_once=True, memory=SMALL), COUNTED])
def test_the_arena_of_decoded_code_overflows(tier: Tier) -> None:
    """More than 64 MiB of decoded code in one run, twice; a function is called from each page of it, hot in between."""
    pages = 2800
    straight = (word("c.addi", rd="a0", imm=1) + word("c.addi", rd="a1", imm=2)) * 1021
    page = straight + word("jalr", rd="ra", rs1="s1", imm=0) + word("c.nop", imm=0) * 4
    assert len(page) == 4096
    hart = Hart(f"done: j done; .align 64; f: addi t3, t3, 1; {TICK}; ret", ram=16 << 20, tier=tier)
    start = RAM + (1 << 20)
    hart.cpu.write(start, page * pages + assemble("jr s2").code)
    hart.set(s1=hart.program["f"], s2=hart.program["done"])
    for turn in range(1, 4):
        finish(hart.set(pc=start), 8_000_000)
        assert (hart.x("a0"), hart.x("a1")) == (turn * pages * 1021, 2 * turn * pages * 1021)
        assert hart.x("t3") == turn * pages
    blocks = pages * (2 * 1021 // 64 + 2)
    assert blocks * 1600 > 64 << 20, "the size of a decoded block of 64 instructions"
    if tier.at_once:
        assert translator(hart)["translations"] > 3 * blocks * 0.9, "dropped and made again, each turn"
        assert ticks(hart) == hart.x("t3")
    else:
        assert ticks(hart) > 3 * pages * 0.8, "counted anew after each of the few times that all is dropped"
