"""Translated code leaves the state that the interpreter leaves: at every fault, after every slow access, for every row.

Each access of the instruction table is made to fault, to miss and to hit at every place of a trace, by registers that
live in the host's registers and by those that don't (PINS and FPINS in vpod/_translator.pxd); and every row of the
table is executed with random operands. The interpreter is the reference (`two_tiers.Twins`); traps are also said
outright.

    loop: addi ...; fadd.d ...; ld a3, 0(a2); mul ...; j loop      # hot, and then a2 leads to a missing page
"""

from __future__ import annotations

import platform
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from machine_code import HANDLER, ONES, RAM, Hart, M, PageTables, RecordingBus, S, Trap, assemble, load_constant, word
from two_tiers import COUNTED, FORCED, FS_DIRTY, Twins, arms, compare, named, set_f, translator

from vpod import disasm, isa
from vpod.isa import Row
from vpod.tier import Tier

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 is translated to")

PAGE = 0x1000
DEVICE = 0x1000_0000
PINNED, UNPINNED = "a2", "s5"  # base registers; s8 holds the address
VA = 0x1_0000_0000
BOX = 0xFFFFFFFF << 32

COUNTING = HANDLER + 0x100  # M's handler in `furnish`: what had been retired goes to s9, and then on to HANDLER

LOADS = ["lb", "lbu", "lh", "lhu", "lw", "lwu", "ld", "flw", "fld"]
STORES = ["sb", "sh", "sw", "sd", "fsw", "fsd"]
SIZES = {"b": 1, "h": 2, "w": 4, "d": 8}


def size_of(kind: str) -> int:
    return SIZES[kind.removesuffix("u")[-1]]


# ---- a trace with an access in it ---------------------------------------------------------------------------------

FILL = [  # what stands around the access: integers and floats, pinned and not
    "addi a1, a1, 3; xor t4, t4, a1",
    "fadd.d fa0, fa0, fa1; fmul.d fs4, fs4, fa0",
    "mul s3, t4, a1; sltu a5, s3, t4",
    "fmadd.s ft8, ft8, ft1, fs3; fsub.s ft1, ft1, fs3",
]
REGISTERS = {False: ["a3", "t5", "base", "zero", "ra", "s10"], True: ["fa2", "ft9", "fs0", "fs11", "ft0", "fa7"]}


@dataclass(frozen=True)
class Place:
    """One trace: a loop that begins at `at`, with an access at `access`, to s8, which is XORed with s11 before."""

    kind: str
    base: str
    register: str
    at: int
    source: str
    access: int
    length: int


def place(kind: str, n: int, at: int) -> Place:
    """The nth variant of a loop with the access in it: each position with each kind of register."""
    before, base = n % (len(FILL) + 1), (PINNED, UNPINNED)[n // 2 % 2]
    register = REGISTERS[kind[0] == "f"][n % 6].replace("base", base)
    front, back = "; ".join(FILL[:before]), "; ".join(FILL[before:])
    access = f"xor s8, s8, s11; mv {base}, s8; {front}; {kind} {register}, 0({base})"
    source = f"{access}; {back}; add s7, s7, {'a3' if kind[0] == 'f' else register}; j {at}"
    return Place(kind, base, register, at, source, at + 8 + 8 * before, 2 * len(FILL) + 5)


def bus() -> RecordingBus:
    """A device with eight registers."""
    bus = RecordingBus()
    bus.registers = {DEVICE + 8 * n: 0x8182_8384_8586_8788 * (n + 1) & ONES for n in range(8)}
    return bus


def caught(hart: Hart) -> Trap | None:
    """The trap whose handler the hart stands at, by way of COUNTING."""
    return Trap(hart.read("mcause"), hart.read("mepc"), hart.read("mtval")) if hart.cpu.pc == HANDLER else None


def furnish(hart: Hart) -> None:
    """An address space with everything that an access may meet; the start of RAM is where it is."""
    noise = random.Random(5).randbytes(2 * PAGE)
    hart.cpu.write(RAM + 0xC000, noise)
    hart.cpu.write(RAM + 0x8F00, noise[:64])
    tables = PageTables(hart)
    for page in range(RAM, RAM + 0x1_0000, PAGE):
        tables.map(page, page)
    tables.map(VA, RAM + 0xD000).map(VA + PAGE, RAM + 0xC000)  # not side by side, and nothing behind
    tables.map(VA + 4 * PAGE, RAM + 0xE000, "vrwxa").map(VA + 5 * PAGE, RAM + 0xB000, "vrwx")
    tables.map(VA + 6 * PAGE, RAM + 0xB000, "vrad").map(VA + 7 * PAGE, RAM + 0xB000, "vrwxuad")
    tables.map(VA + 8 * PAGE, DEVICE).map(VA + 9 * PAGE, 0x4000_0000).map(VA + 10 * PAGE, RAM + 0x2_0000)
    hart.load(f"csrr s9, minstret; j {HANDLER}", COUNTING)
    hart.csr(mtvec=COUNTING)
    denied = 0x18  # PMP: no rights to the page at RAM + 0x20000, and all to the rest
    hart.csr(pmpaddr0=(RAM + 0x2_0000 >> 2) | 0x1FF, pmpaddr1=ONES, pmpcfg0=0x1F00 | denied, mstatus=FS_DIRTY)
    tables.on()


def world(tier: Tier, kind: str, variants: range) -> tuple[Twins, list[Place]]:
    """Twins with a loop for each variant, in S."""
    twins = Twins(tier=tier, bus=bus)
    places = [place(kind, n, RAM + 0x8000 + 0x80 * n) for n in variants]
    for one in places:
        twins.do(lambda hart, one=one: hart.load(one.source, one.at) and None)  # type: ignore[misc]
    twins.do(furnish)
    return twins, places


def start(hart: Hart, one: Place, address: int) -> None:
    """Stand at the loop in S with the same values every time."""
    values = random.Random(9)
    for n in range(1, 32):
        hart.cpu.set_x(n, values.getrandbits(64))
    set_f(hart, {n: struct.unpack("<Q", struct.pack("<d", values.uniform(0.5, 2)))[0] for n in range(32)})
    for name in ("ft8", "ft1", "fs3"):
        hart.cpu.set_f(disasm.REGISTERS[name], BOX | struct.unpack("<I", struct.pack("<f", values.uniform(0.5, 1)))[0])
    hart.set(pc=one.at, priv=S, s8=address, s11=0)
    hart.csr(fcsr=0)


# ---- faults -------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[int, int | None, int | None]] = {  # address, cause of a load and of a store; None: no fault
    "a missing page": (VA + 2 * PAGE + 8, 13, 15),
    "not canonical": (1 << 40, 13, 15),
    "a read-only page": (VA + 6 * PAGE + 16, None, 15),
    "the user's page": (VA + 7 * PAGE + 16, 13, 15),
    "PMP": (VA + 10 * PAGE + 24, 5, 7),
    "no device": (VA + 9 * PAGE + 32, 5, 7),
    "a device that refuses": (VA + 8 * PAGE + 0x100, 5, 7),
}


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=["forced", "counted"])
@pytest.mark.parametrize("kind", LOADS + STORES)
def test_state_is_exact_at_every_fault(kind: str, tier: Tier) -> None:
    """When the code runs for the first time, and after a hundred passes: all registers, epc, tval and instret."""
    twins, places = world(tier, kind, range(12))
    for bad, *causes in FAULTS.values():
        cause = causes[kind in STORES]
        for one in places:
            for passes in (0, 100):
                twins.do(lambda hart, one=one: start(hart, one, VA + 64))  # type: ignore[misc]
                twins.run(one.length * passes)
                assert twins.hart.cpu.pc == one.at
                twins.set(s8=bad).run(one.length * 3)
                assert caught(twins.hart) == (Trap(cause, one.access, bad) if cause else None)
    assert twins.translator["translations"] >= len(places)


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=["forced", "counted"])
@pytest.mark.parametrize("kind", [kind for kind in LOADS + STORES if size_of(kind) > 1])
def test_state_is_exact_where_the_second_page_faults(kind: str, tier: Tier) -> None:
    """Misaligned at a page's end, by every amount; nothing of a store is done. And misaligned at a device."""
    twins, places = world(tier, kind, range(12))
    size, store = size_of(kind), kind in STORES
    for n, one in enumerate(places):
        bad = VA + 2 * PAGE - 1 - n % (size - 1)
        for address, cause, value in (
            (bad, 15 if store else 13, VA + 2 * PAGE),
            (VA + 8 * PAGE + 1 + n % (size - 1), 7 if store else 5, None),
        ):
            twins.do(lambda hart, one=one: start(hart, one, VA + 64))  # type: ignore[misc]
            if n % 3:
                twins.run(one.length * 50)
            twins.set(pc=one.at, s8=address).run(one.length * 2)
            assert caught(twins.hart) == Trap(cause, one.access, address if value is None else value)
    assert twins.translator["translations"] > 0


# ---- accesses that miss and don't fault ---------------------------------------------------------------------------

SLOW = {
    "over a page's end": VA + PAGE - 1,
    "over a page's end, evenly": VA + PAGE - 4,
    "a clean page": VA + 4 * PAGE + 128,
    "a page never accessed": VA + 5 * PAGE + 128,
    "a page with code": RAM + 0x8F00,
    "a page with code, over its end": RAM + 0x8FFE,
    "misaligned": VA + 131,
    "a device": VA + 8 * PAGE + 8,
    "user memory": VA + 7 * PAGE + 8,
}


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=["forced", "counted"])
@pytest.mark.parametrize("kind", LOADS + STORES)
def test_slow_accesses_give_the_right_values(kind: str, tier: Tier) -> None:
    """In turn with fast ones, in one hot loop: each pass goes to the other address."""
    twins, places = world(tier, kind, range(12))
    twins.csr(mstatus=FS_DIRTY | 1 << 18)  # SUM: the user's memory is ours
    for slow in SLOW.values():
        for one in places:
            twins.do(lambda hart, one=one: start(hart, one, VA + 64))  # type: ignore[misc]
            twins.set(s11=slow ^ (VA + 64))
            for budget in (one.length, 1, 50 * one.length, 77):
                twins.run(budget)
            assert caught(twins.hart) is None
    assert twins.translator["translations"] > 0


@pytest.mark.parametrize("register", disasm.F_NAMES)
def test_a_float_just_computed_is_stored_by_the_slow_path(register: str) -> None:
    """FSD and FSW of every f register, over a page's end and into a page with code: the new value, not an older one."""
    n = disasm.REGISTERS[register]
    one, two = (disasm.F_NAMES[(n + k) % 32] for k in (1, 2))
    hart = Hart(
        f"""
        li s1, 80
    loop: fadd.d {register}, {register}, {one}; fsd {register}, 0(a2); fsd {register}, 0(s5); fsw {register}, 0(a4)
        fmul.d {register}, {register}, {two}; fsd {register}, 0(t3)
        addi s1, s1, -1; bnez s1, loop
    done: j done
        .align 256
    """,
        tier=FORCED,
    )
    hart.csr(mstatus=FS_DIRTY)
    set_f(hart, {(n + k) % 32: struct.unpack("<Q", struct.pack("<d", v))[0] for k, v in enumerate((0.0, 1.0, 1.0))})
    here = RAM + 0x900
    hart.set(a2=RAM + 0xA000 - 3, s5=here, a4=here + 16, t3=RAM + 0xB000 - 4).run()
    wanted = struct.pack("<d", 80.0)
    assert hart.cpu.read(RAM + 0xA000 - 3, 8) == hart.cpu.read(here, 8) == hart.cpu.read(RAM + 0xB000 - 4, 8) == wanted
    assert hart.cpu.read(here + 16, 4) == wanted[:4]
    assert translator(hart)["translations"] > 0


@pytest.mark.parametrize("number", range(1, 32))
def test_an_integer_is_loaded_and_stored_by_the_slow_path(number: int) -> None:
    """Over a page's end, by every x register: what was stored is what is loaded, with the extension of each kind."""
    base = 9 if number != 9 else 18
    name, pointer = (disasm.X_NAMES[n] for n in (number, base))
    twins = Twins(
        f"loop: addi {name}, {name}, -7; sd {name}, 0({pointer}); "
        + "; ".join(
            f"{kind} {name}, 0({pointer}); sd {name}, {16 * k + 16}({pointer})" for k, kind in enumerate(LOADS[:7])
        )
        + "; j loop"
    )
    twins.set(**{pointer: RAM + 0xA000 - 1, name: 0x1234_8586_8788_898A})
    twins.run(17 * 60)
    assert twins.hart.x(name) == 0x1234_8586_8788_898A - 7 * 60
    assert twins.translator["translations"] > 0


# ---- several accesses off one register ----------------------------------------------------------------------------

BASES = ["a2", "s5", "sp", "t3"]  # two live in the host's registers
CALM = [  # what may stand between accesses that are checked together, and what may not
    "addi a5, a4, 77; sltu t4, a5, a3",
    "auipc s10, 5; lui a4, 0x12345; xor s10, s10, a4",
    "mul a4, a3, t4; mulw t4, a4, a3; addw a3, a3, t4; sraw s10, a4, a3",
    "mulh a4, a3, t4; mulhsu s10, a4, a3",
    "div a4, a3, t4; remuw t4, a4, a3",
    "fadd.d fa0, fa0, fa1; fcvt.l.d a4, fa0",
    "fmul.s ft8, ft8, ft1; feq.s a4, ft8, ft8",
    "csrr a4, sscratch; amoadd.d a3, t4, (s7)",
    "jal zero, . + 8; addi a3, a3, 1; nop",
    "jal ra, . + 8; addi a3, a3, 1; add a4, a4, ra",
    "jal t5, . + 8; addi a3, a3, 1; xor a4, a4, t5",
    "bltu a3, t4, . + 12; addi a3, a3, 3; xori t4, t4, 5; nop",
    "beq zero, zero, . + 8; addi a3, a3, 3; nop",
    "fence; slli a4, a3, 7; sll t4, a4, a3",
]
COUNTS = [
    ("ld", "addi a4, a4, 1", "sd"),
    ("lw", "addiw a4, a4, -1", "sw"),
    ("lhu", "xori a4, a4, 7; add t4, t4, a4", "sh"),
    ("ld", "mulh a4, a4, a3", "sw"),
    ("lbu", "ori a4, a4, 8", "sb"),
    ("lw", "addi a4, a4, 1", "sd"),
]
ATOMICS = [
    f"{name}.{size}" for size in "wd" for name in ("sc", "amoswap", "amoadd", "amoxor", "amoand", "amoor", "amomax")
]
ADDRESSES = [
    *[VA + 256, VA + 0x7F0, RAM + 0xA100, VA + 1001] * 4,  # plain
    VA + PAGE - 40, VA + PAGE - 4, VA + PAGE + 8,  # over a page's end, forwards and backwards
    VA + 2 * PAGE - 16, VA + 2 * PAGE + 16, VA - 20, VA + 20,  # at a missing page
    VA + 4 * PAGE + 64, VA + 5 * PAGE + 64, VA + 6 * PAGE + 64,  # clean, never accessed, read-only
    RAM + 0x8F20, RAM + 0x8FF8, VA + 8 * PAGE + 24, VA + 9 * PAGE, VA + 10 * PAGE,  # with code, devices, denied
    0, 8, ONES, ONES - 2, (1 << 38) - 8, 1 << 38, -(1 << 38) & ONES,  # missing: around zero and the hole
]  # fmt: skip
LEAVING = "csrr t6, mepc; addi t6, t6, 4; csrw mepc, t6; mret"  # every instruction here has four bytes


def dense_body(source: random.Random) -> str:
    """Many loads and stores off few registers, with other things in between, some of which change those registers."""
    reach = source.choice((24, 64, 500))
    parts = []
    for _ in range(source.randrange(6, 26)):
        base = source.choice(BASES[: source.randrange(1, 5)])
        kind = source.choice(LOADS + STORES)
        integers = ["a3", "a4", "t4", "s10", "zero", "a3", "a4", "t4"] + ([base] if source.randrange(12) == 0 else [])
        register = source.choice(["fa2", "ft8", "fs1", "fs11"] if kind[0] == "f" else integers)
        parts.append(f"{kind} {register}, {source.randrange(-reach, reach)}({base})")
        chance = source.randrange(20)
        if chance >= 18:  # read and written again, as a reference count is
            offset = source.randrange(-reach, reach)
            read, change, write = source.choice(COUNTS)
            beside = offset + source.choice((0, 0, 4))
            parts.append(f"{read} a4, {offset}({base}); {change}; {write} a4, {beside}({base})")
        elif chance >= 16:
            parts.append(f"{source.choice(ATOMICS)} {register if kind[0] != 'f' else 't4'}, a3, ({base})")
        elif chance < 4:
            parts.append(source.choice(CALM))
        elif chance == 4:
            parts.append(f"addi {base}, {base}, {source.choice((8, -8, 16, 2047, -2048))}")
        elif chance == 5:
            parts.append(f"mv {base}, {source.choice(BASES)}")
    return "; ".join(parts)


@pytest.mark.parametrize("tier", [FORCED, COUNTED, Tier(at_once=True, trace=7)], ids=named)
@pytest.mark.parametrize("seed", range(30))
def test_accesses_off_one_register(seed: int, tier: Tier) -> None:
    """Those near each other may be checked together: each one still hits, misses and faults by itself, in its turn."""
    source = random.Random(seed)
    head = "; ".join(f"ld {base}, {8 * n}(gp)" for n, base in enumerate(BASES))
    twins = Twins(tier=tier, bus=bus)
    twins.do(furnish)
    twins.do(lambda hart: hart.load(LEAVING, HANDLER) and None)
    text = f"loop: {head}; addi gp, gp, 32; {dense_body(source)}; {dense_body(source)}; bne gp, tp, loop; j ."
    code = assemble(text, RAM + 0x8000).code
    assert len(code) < 0xEC0
    twins.write(RAM + 0x8000, code)
    rows = 120
    for n in range(rows):
        row = [source.choice(ADDRESSES[:16] if source.randrange(3) else ADDRESSES) for _ in BASES]
        twins.write(RAM + 0x4000 + 32 * n, struct.pack("<4Q", *row))
    twins.do(lambda hart: any_state(hart, random.Random(seed), 3, 0))
    twins.set(pc=RAM + 0x8000, priv=S, gp=RAM + 0x4000, tp=RAM + 0x4000 + 32 * rows, s7=RAM + 0x7000)
    for budget in (*source.choices(range(1, 200), k=20), 100_000):
        twins.run(budget)
    assert twins.hart.cpu.pc == RAM + 0x8000 + len(code) - 4
    assert twins.translator["translations"] > 0


GROUP = "ld a0, 0({b}); sd a1, 8({b}); lw a3, 16({b}); {between}; sw a3, 24({b}); fld fa0, 32({b}); fsd fa1, 40({b})"


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=named)
@pytest.mark.parametrize("front", ["", "sd s5, 0(gp); ld s5, 0(gp); "], ids=["window", "TLB"])
@pytest.mark.parametrize("count", COUNTS, ids=lambda count: "-".join(count[::2]))
def test_a_count_over_a_pages_end(count: tuple[str, str, str], front: str, tier: Tier) -> None:
    """Read and written again at every address around the end, where the pages are not side by side."""
    read, change, write = count
    twins = Twins(tier=tier, bus=bus)
    twins.do(furnish)
    body = f"{front}{read} a4, 0(s5); {change}; {write} a4, 0(s5); add s10, s10, a4"
    text = f"loop: {body}; addi s5, s5, 1; addi s1, s1, -1; bnez s1, loop; j ."
    twins.write(RAM + 0x8000, assemble(text, RAM + 0x8000).code)
    for _ in range(4):
        twins.set(pc=RAM + 0x8000, priv=S, gp=RAM + 0x4000, s5=VA + PAGE - 24, s1=40, s10=0, a3=77, t4=5).run(600)
    assert twins.hart.x("s1") == 0
    assert twins.translator["translations"] > 0


@pytest.mark.parametrize("base", [*BASES, "zero"])
@pytest.mark.parametrize("between", CALM)
def test_what_stands_between_accesses_leaves_them_where_they_are(base: str, between: str) -> None:
    """A structure's fields, in hot code, first all in one page and then split by a page's end at every place."""
    twins = Twins(f"loop: {GROUP.format(b=base, between=between)}; addi s1, s1, 1; j loop", bus=bus)
    twins.do(furnish)
    twins.do(lambda hart: hart.load(LEAVING, HANDLER) and None)
    twins.do(lambda hart: any_state(hart, random.Random(base), 3, 0))
    twins.set(pc=RAM, priv=S, s7=RAM + 0x7000)
    for at in (VA + 64, *(VA + PAGE - 4 * n for n in range(13)), VA + 64, VA + 2 * PAGE - 24, VA + 6 * PAGE, VA + 64):
        if base != "zero":
            twins.set(**{base: at})
        twins.run(160)
    assert twins.translator["translations"] > 0


@pytest.mark.parametrize("slot", range(3))
def test_a_store_in_the_middle_patches_what_follows(slot: int) -> None:
    """Three stores that are checked together, for one pass into the code behind them: it takes effect at once."""
    stores = "; ".join(f"sw {'s4' if n == slot else 's5'}, {4 * n}(a2)" for n in range(3))
    twins = Twins(
        f"li s1, 60; loop: mv a2, s2; bne s1, s6, on; mv a2, s3; on: {stores}; li a0, 0;"
        "target: addi a0, a0, 1; addi a0, a0, 1; addi a0, a0, 1; add s0, s0, a0; addi s1, s1, -1; bnez s1, loop;"
        "done: j done"
    )
    words = {n: int.from_bytes(word("addi", rd="a0", rs1="a0", imm=n), "little") for n in (1, 9)}
    twins.set(s2=RAM + 0xA000, s3=twins.program["target"], s4=words[9], s5=words[1], s6=30).finish(2000)
    assert twins.hart.x("s0") == 30 * 3 + 30 * 11
    assert twins.translator["translations"] >= 2


# ---- rights that change under hot accesses --------------------------------------------------------------------------

TURNING = """
        li s1, 200; li s2, {all}
    loop: li t0, {all}; slli t1, s1, {shift}; and t0, t0, t1; csrc {status}, s2; csrs {status}, t0
        ld a3, 0(a2); ld a4, 0(s5); add s7, s7, a3; sd s7, 8(a2); lw a5, 16(a2); lbu a4, 24(s5); add s7, s7, a5
        li t0, {all}; csrc {status}, t0; sd s7, 64(s10); ld a4, 64(s10); addi s1, s1, -1; bnez s1, loop
    done: j done
"""


@pytest.mark.parametrize("tier", [FORCED, COUNTED], ids=named)
@pytest.mark.parametrize(
    ("level", "status", "bits", "shift"),
    [
        (S, "sstatus", 3 << 18, 17),  # SUM and MXR: the user's pages, pages that may only be executed
        (M, "mstatus", 1 << 17 | 1 << 11 | 3 << 18, 11),  # MPRV, MPP that is U or S, SUM, MXR
        (M, "mstatus", 1 << 17, 17),
    ],
)
def test_rights_change_under_hot_accesses(level: int, status: str, bits: int, shift: int, tier: Tier) -> None:
    """Each pass has other rights than the last: what was allowed faults, and the other way round."""
    twins = Twins(TURNING.format(all=bits, shift=shift, status=status), tier=tier)

    def prepare(hart: Hart) -> None:
        furnish(hart)
        PageTables(hart, RAM + 0x18_0000).on()
        tables = PageTables(hart, RAM + 0x10_0000)
        for page in range(RAM, RAM + 0x1_0000, PAGE):
            tables.map(page, page)
        tables.map(RAM + 0xA000, RAM + 0xC000, "vrwuad").map(RAM + 0xB000, RAM + 0xD000, "vxad").on()
        hart.load(LEAVING, HANDLER)
        hart.set(pc=RAM, priv=level, a2=RAM + 0xA000, s5=RAM + 0xB000, s10=RAM + 0x9000)

    twins.do(prepare)
    for budget in (100, 1, 2, 3, 1001, 20_000):
        twins.run(budget)
    assert twins.hart.cpu.pc == twins.program["done"]
    assert twins.hart.read("mcause") in (13, 15), "some of it was forbidden"
    assert twins.translator["translations"] > 0


def test_a_dirty_bit_that_software_clears_is_set_again() -> None:
    """A hot store to a page whose D was cleared and fenced misses once more."""
    twins = Twins("loop: sd a1, 0(a2); addi a1, a1, 1; sd a1, 8(a2); sw a1, 24(a2); j loop")
    for one in (twins.interpreter, twins.hart):
        tables = PageTables(one)
        for page in range(RAM, RAM + 0x1_0000, PAGE):
            tables.map(page, page)
        tables.map(VA, RAM + 0xC000, "vrw").on()
        one.load("sfence.vma a2, zero", RAM + 0x6000)
        one.set(a2=VA, pc=RAM, priv=S).cpu.run(500)
        for _ in range(3):
            assert tables.get(VA) & 0xC0 == 0xC0
            tables.map(VA, RAM + 0xC000, "vrw")
            one.set(pc=RAM + 0x6000).cpu.run(1)
            one.set(pc=RAM).cpu.run(1)
            assert tables.get(VA) & 0xC0 == 0xC0
            one.cpu.run(400)
    compare(twins.interpreter, twins.hart)
    assert twins.translator["translations"] > 0


def test_pmp_takes_rights_away_from_a_hot_page() -> None:
    twins = Twins("loop: ld a3, 0(a2); sd a1, 8(a2); addi a1, a1, 1; sd a1, 16(a2); j loop")
    twins.csr(pmpaddr1=ONES, pmpcfg0=0x1F00).set(priv=S, a2=RAM + 0xA000).run(500)
    for rights, cause, at in ((0x19, 7, 4), (0x1B, None, 0), (0x18, 5, 0), (0x1F, None, 0)):
        twins.csr(pmpaddr0=(RAM + 0xA000 >> 2) | 0x1FF, pmpcfg0=0x1F00 | rights).set(priv=S, pc=RAM).run(100)
        wanted = Trap(cause, RAM + at, RAM + 0xA000 + 2 * at) if cause else None
        assert twins.hart.trap() == wanted
    assert twins.translator["translations"] > 0


# ---- every row ----------------------------------------------------------------------------------------------------

BEGIN = RAM + 0x1000
AREA = RAM + 0x4000
SKIPPING = """                      # M's handler: go on behind the instruction that trapped
    csrr t6, mepc; lhu t5, 0(t6); andi t5, t5, 3; addi t5, t5, -3; sltiu t5, t5, 1; slli t5, t5, 1
    add t6, t6, t5; addi t6, t6, 2; csrw mepc, t6; csrr t5, minstret; mret
"""
QUIET = [row for row in isa.ROWS if not row.flags & {"load", "store", "atomic", "ends_block"} and row.name != "fence.i"]
CSRS = [0x001, 0x002, 0x003, 0x140, 0x141, 0x142, 0x143, 0x340, 0x343, 0xB00, 0xB02, 0xC00, 0xC02, 0x7C0, 0xF14]
CORNERS = [0, 1, ONES, 1 << 63, (1 << 63) - 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFF_8000_0000]
FLOATS = [
    *(struct.unpack("<Q", struct.pack("<d", v))[0] for v in (0.0, -0.0, 1.0, -1.5, 1e308, 5e-324, 3e9, -9.3e18, 1 / 3)),
    *(BOX | struct.unpack("<I", struct.pack("<f", v))[0] for v in (0.0, -0.0, 1.0, -2.5, 3e38, 1e-45, 0.1, 4e9)),
    *(BOX | bits for bits in (0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F80_0001, 0xFFFF_FFFF)),
    *(0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, 0x7FF0_0000_0000_0001, 0x3F80_0000, 0xFFFF_FFFE_3F80_0000),
]


def any_word(row: Row, source: random.Random) -> int:
    """A word of `row` with random operands."""
    while True:
        bits = source.getrandbits(8 * row.length) & ~row.mask | row.match
        if isa.find(bits) is row:
            return bits


def fitting(row: Row, source: random.Random, pc: int) -> bytes:
    """An instruction of `row` for `pc`, behind what makes it go into AREA, or jump a few instructions on."""
    bits = any_word(row, source)
    decoded = isa.decode(bits)
    assert decoded is not None
    base = decoded.base
    front = b""
    if base.flags & {"load", "store"}:
        while not decoded.rs1:
            bits = any_word(row, source)
            decoded = isa.decode(bits)
            assert decoded is not None
        aligned = 0 if "atomic" not in base.flags and source.randrange(4) == 0 else 7
        target = AREA + source.randrange(0x1FF8) & ~aligned
        offset = 0 if "atomic" in base.flags else decoded.imm
        front = load_constant(disasm.X_NAMES[decoded.rs1], target - offset)
    elif base.name == "jalr":
        while not decoded.rs1:
            bits = any_word(row, source)
            decoded = isa.decode(bits)
            assert decoded is not None
        register = disasm.X_NAMES[decoded.rs1]
        size = len(load_constant(register, pc + 64 - decoded.imm))
        size = len(load_constant(register, pc + size + row.length - decoded.imm))
        front = load_constant(register, pc + size + row.length - decoded.imm + source.randrange(2))
        if len(front) != size:
            return b""
    elif base.flags & {"jump", "branch"}:
        fields = {field: row.take(field, bits) for field in row.fields}
        bits = disasm.encode(row.name, **{**fields, "imm": row.length + source.choice((0, 4, 8))})
    elif "csr" in base.flags:
        fields = {field: row.take(field, bits) for field in row.fields}
        bits = disasm.encode(row.name, **{**fields, "imm": source.choice(CSRS)})
    elif base.name in ("mret", "sret"):
        csr = {"mret": "mepc", "sret": "sepc"}[base.name]
        front = load_constant("t6", pc)
        front = load_constant("t6", pc + len(front) + 8) + assemble(f"csrw {csr}, t6").code
    return front + bits.to_bytes(row.length, "little")


def companion(source: random.Random) -> bytes:
    """An instruction of four bytes that only computes."""
    row = source.choice([row for row in QUIET if row.length == 4])
    return any_word(row, source).to_bytes(4, "little")


def program(row: Row, source: random.Random) -> bytes:
    """Three instructions of `row` among others, and a loop at the end."""
    code = b""
    for _ in range(3):
        code += companion(source)
        code += fitting(row, source, BEGIN + len(code))
        code += companion(source) + companion(source) + companion(source)
    return code + assemble("j .").code


def values(source: random.Random) -> Iterator[int]:
    while True:
        yield source.choice(
            (source.choice(CORNERS), source.getrandbits(64), source.getrandbits(64) >> source.randrange(64))
        )


STATUS = [(3, 0)] * 6 + [(1, 0), (2, 0), (0, 0), (3, 1), (3, 4), (1, 3), (3, 7)]  # FS and frm


def any_state(hart: Hart, source: random.Random, fs: int, frm: int) -> None:
    for n, value in zip(range(1, 32), values(source), strict=False):
        hart.cpu.set_x(n, value)
    for n in range(32):
        hart.cpu.set_f(n, source.choice((source.choice(FLOATS), source.getrandbits(64), BOX | source.getrandbits(32))))
    hart.csr(fcsr=frm << 5 | source.getrandbits(5), mstatus=fs << 13, sscratch=source.getrandbits(64), mepc=BEGIN)
    hart.csr(mcause=0, mtval=0)
    hart.set(pc=BEGIN, priv=M)


@pytest.mark.parametrize("row", isa.ROWS, ids=lambda row: row.name)
def test_every_row(row: Row) -> None:
    """Three of them in a program with others, random operands, in every state of the floating-point unit, twice."""
    source = random.Random(row.name)
    twins = Twins(ram=1 << 20)
    twins.do(lambda hart: hart.load(SKIPPING, HANDLER) and None)
    twins.csr(mtvec=HANDLER, mcounteren=7, scounteren=7)
    for fs, frm in STATUS:
        code = program(row, source)
        seed = source.getrandbits(32)
        twins.write(BEGIN, code)
        for turn in range(2):
            twins.do(lambda hart, seed=seed + turn, fs=fs, frm=frm: any_state(hart, random.Random(seed), fs, frm))  # type: ignore[misc]
            for _ in range(4):  # a wfi ends a run
                twins.run(150)
            assert twins.hart.cpu.pc == BEGIN + len(code) - 4 or "ends_block" in row.flags
    assert twins.translator["translations"] >= len(STATUS)


# ---- two instructions that become one ------------------------------------------------------------------------------

WAYS = [(16, 16), (32, 32), (48, 48), (56, 56), (32, 31), (32, 29), (32, 40), (48, 50), (48, 3), (56, 63), (56, 0)]
CONSTANTS = [(0x12345, 0x678), (0x80000, -1), (0x7FFFF, 2047), (0xFFFFF, -2048), (0, 5), (0x80000, 0), (1, 0)]
PAIRS = [
    *(f"slli {{d}}, {{s}}, {up}; {down} {{e}}, {{d}}, {by}" for up, by in WAYS for down in ("srli", "srai")),
    *(f"slli {{d}}, {{s}}, {by}; add {{e}}, {{one}}, {{two}}" for by in (0, 1, 2, 3, 4)),
    *(
        f"{upper} {{d}}, {high}; {lower} {{e}}, {{d}}, {low}"
        for upper in ("lui", "auipc")
        for lower in ("addi", "addiw")
        for high, low in CONSTANTS
    ),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs(pair: str) -> None:
    """In every order of registers that the host has and hasn't, the same one again and x0; and what is none."""
    source = random.Random(pair)
    names = ["a0", "a1", "t4", "s9", "zero"]
    lines = []
    for d in names[:-1]:
        for s in names:
            for one, two in ((d, s), (s, d), (d, d), ("a1", "s9")):
                lines.append(pair.format(d=d, e=d, s=s, one=one, two=two))
                lines.append(f"add s2, s2, {d}; xor s3, s3, s2")
    none = pair.format(d="t4", e="t5", s="a1", one="a1", two="t4")
    twins = Twins(f"loop: {'; '.join(lines)}; {none}; add s2, s2, t4; xor s3, s3, t5; j loop")
    for _ in range(12):
        twins.set(pc=RAM, **{name: next(values(source)) for name in ("a0", "a1", "t4", "s9")}).run(len(lines) * 5)
    assert twins.translator["translations"] > 0


@pytest.mark.parametrize("front", ["bnez zero, loop", "j on; on: nop", "addi a1, a1, 3"])
@pytest.mark.parametrize(
    "pair", ["slli a0, a1, 32; srli a0, a0, 32", "slli t4, a1, 3; add t4, t4, a1", "lui s9, 5; addi s9, s9, 7"]
)
def test_a_pair_at_a_pages_end(pair: str, front: str) -> None:
    """It is a block of its own, or the end of one, and what follows is on the next page."""
    before = "loop: addi a1, a1, 5; " + front
    count = before.count(";") + 1
    behind = "add s2, s2, a0; add s3, s3, t4; add s4, s4, s9; j loop"
    twins = Twins(f"j loop; {'nop; ' * (1021 - count)} {before}; {pair}; {behind}")
    assert twins.program["loop"] == RAM + PAGE - 8 - 4 * count
    for budget in (1000, 7, 1, 2, 3, 5000):
        twins.run(budget)
    assert twins.translator["translations"] > 0


# ---- atomics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", "wd")
@pytest.mark.parametrize("register", ["a2", "t4", "zero"])
@pytest.mark.parametrize("pointer", ["a1", "t3"])
def test_a_reservation(size: str, pointer: str, register: str) -> None:
    """SC stores once, where LR was, and not after another SC or a device's write; the rest of memory stays."""
    body = f"""
        sd zero, 0({pointer}); addi s2, {pointer}, 64
        lr.{size} a3, ({pointer}); addi a4, a3, 1; sc.{size} {register}, a4, ({pointer}); add s3, s3, {register}
        sc.{size} {register}, a4, ({pointer}); add s3, s3, {register}
        lr.{size} a3, ({pointer}); sc.{size} {register}, a4, (s2); add s3, s3, {register}
        lr.{size} a3, (s2); lr.{size} zero, ({pointer}); sc.{size} {register}, zero, ({pointer}); add s3, s3, {register}
        lr.{size} {register}, ({pointer}); add s4, s4, {register}"""
    twins = Twins(f"loop: {body}; j loop").set(a1=RAM + 0x4000, t3=RAM + 0x4000)
    twins.write(RAM + 0x4040, bytes(range(16)))
    for budget in (200, *range(1, 40), 3000):
        twins.run(budget)
    assert set(arms(twins.hart)) <= {f"{name}.{size}" for name in ("lr", "sc")}
    assert sum(arms(twins.hart).values()) < 50, "but for the first ones"
    twins.do(lambda hart: hart.load(f"lr.{size} a3, ({pointer}); done: j done", BEGIN) and None)
    twins.set(pc=BEGIN).run(100)
    twins.write(RAM + 0x4000, b"x")
    twins.do(lambda hart: hart.load(f"li a2, 5; sc.{size} a2, a4, ({pointer}); done: j done", BEGIN) and None)
    twins.set(pc=BEGIN).run(100)
    assert twins.hart.x("a2") == 1, "a device wrote there"


@pytest.mark.parametrize("name", [row.name for row in isa.BASE_ROWS if "atomic" in row.flags])
def test_an_atomic_on_code_and_across_pages(name: str) -> None:
    """It patches hot code; misaligned, it traps with nothing changed; its operands may all be one register."""
    other = "" if name.startswith("lr") else "a2, "
    same = other.replace("a2", "a1")
    source = f"loop: call f; {name} a3, {other}(s2); {name} a1, {same}(a1); mv a1, s2; call f; j loop"
    twins = Twins(f"{source}; .align 64; f: addi a0, a0, 1; ret", tier=FORCED)
    patched = int.from_bytes(assemble("addi a0, a0, 100; ret").code, "little")
    f = twins.program["f"]
    for turn, at in enumerate((RAM + 0x4000, f, f + 1, RAM + 0x5FFE, RAM + 0x6000, f)):
        twins.set(pc=RAM, s2=at, a1=at, a2=patched if turn % 2 else 0).run(97)
    assert twins.translator["translations"] > 0


# ---- rows without an emitter --------------------------------------------------------------------------------------

FUSED = [f"{name}.{form}" for form in "sd" for name in ("fmadd", "fmsub", "fnmsub", "fnmadd")]
BY_ARM = {  # the rows that have no emitter; the rest are never seen by the interpreter while their operands are plain
    *(row.name for row in isa.BASE_ROWS if row.flags & {"csr", "system"} or row.name == "fence.i"),
    *(f"amo{name}.{size}" for size in "wd" for name in ("min", "max", "minu", "maxu")),
    *(f"fcvt.{to}.{form}" for form in "sd" for to in ("wu", "lu")),
    *(f"fcvt.{form}.lu" for form in "sd"),
    *(f"fclass.{form}" for form in "sd"),
}


def has_fma() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            return any(line.startswith("flags") and " fma " in line for line in file)
    except FileNotFoundError:
        return True


def plain(row: Row) -> bytes:
    """`row` with operands that no instruction makes anything unusual of."""
    fields: dict[str, int | str] = {"rd": 10, "rs1": 11, "rs2": 12, "rs3": 13, "rm": 7}
    fields |= {"imm": 0x340 if "csr" in row.flags else 8 if row.flags & {"branch", "jump"} else 0}
    return word(row.name, **{field: value for field, value in fields.items() if field in row.fields})


@pytest.mark.parametrize("row", isa.BASE_ROWS, ids=lambda row: row.name)
def test_rows_without_an_emitter_are_these(row: Row) -> None:
    """What docs/translator.md says runs by an interpreter's arm does, and nothing else."""
    hart = Hart("j .", tier=FORCED)
    known = "sd zero, 0(a1)" if "atomic" in row.flags else "nop"  # they ask the TLB, and their arm when it doesn't know
    hart.cpu.write(BEGIN, assemble(known).code + plain(row) + assemble("nop; j .").code)
    hart.csr(mstatus=FS_DIRTY, mepc=BEGIN + 8, sepc=BEGIN + 8, mcounteren=7)
    single = row.name == "fcvt.d.s" or row.name.endswith(".s") or row.name == "fmv.x.w"
    one = BOX | 0x4049_0FDB if single else 0x4009_21FB_5444_2D18
    set_f(hart, {n: one + n for n in (11, 12, 13)})
    hart.set(pc=BEGIN, a1=BEGIN + 8 if row.name == "jalr" else RAM + 0x5008, a2=3)
    hart.cpu.run(20)
    called = set(arms(hart)) - {"csr inline", "illegal"}
    by_arm = BY_ARM | (set() if has_fma() else set(FUSED))
    assert called == ({row.name} if row.name in by_arm else set())
    assert translator(hart)["translations"] > 0


@pytest.mark.parametrize("csr", ["fflags", "frm", "fcsr", "sscratch", "sepc", "scause", "stval", "time"])
def test_quiet_csrs_are_read_within_a_trace(csr: str) -> None:
    """By an arm, one counter for all of them; those of the floating-point unit end the trace, the others don't."""
    hart = Hart(f"csrr a0, {csr}; addi a1, a1, 1; done: j done", tier=FORCED).csr(mstatus=FS_DIRTY)
    hart.cpu.run(2)
    assert arms(hart) == {}, "a budget that cuts the trace is the interpreter's"
    hart.set(pc=RAM).cpu.run(100)
    assert arms(hart) == {"csr inline": 1}


@pytest.mark.parametrize("fs", [1, 2])
@pytest.mark.parametrize(
    "store", ["fsd fs0, 8(a1)", "fsw fs0, 8(a1)", "fsd fa0, 8(a1); fsd fs1, 16(a1); sd a1, 24(a1)"]
)
def test_floats_at_rest_are_stored_within_a_trace(store: str, fs: int) -> None:
    """As setjmp does in a process that doesn't compute with them."""
    twins = Twins(f"loop: {store}; addi s1, s1, -1; bnez s1, loop; done: j done").csr(mstatus=fs << 13)
    twins.set(s1=300, a1=RAM + 0x5000)
    twins.do(lambda hart: set_f(hart, {n: 0x4009_21FB_5444_2D18 + n for n in range(32)}))
    twins.run(900)
    assert arms(twins.hart) == {} and twins.translator["entered"] < 20


def test_an_illegal_instruction_is_an_arms() -> None:
    twins = Twins("addi a0, a0, 1; .word 0x0000007b; addi a0, a0, 1; done: j done")
    twins.run(30)
    assert twins.hart.trap() == Trap(2, RAM + 4, 0x7B)
    assert arms(twins.hart) == {"illegal": 1}
