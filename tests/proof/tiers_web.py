"""Scenes of functions that call each other across pages, while a kernel changes what those pages are.

The *web* is a program of random functions: loops, branches, direct and indirect calls, returns, tail calls, loads and
stores, over `PAGES` pages and their ends. There are two variants of it, equal but for immediate operands, so that any
page of one may stand in for the other's without changing where control goes. Two address spaces begin with one page of
each in turn; each page is also mapped at a second address. At an `ecall` the *kernel* now and then exchanges a page's
entries between the spaces, switches to the other space, takes rights from a page (and gives them back when it faults),
writes another immediate into a frame, or makes FS Clean; the web itself rewrites immediates of its own. Any result of a
stale translation, link or check ends in the web's registers.

Invariants: the web never ends, and never leaves its functions; a fault's instruction is executed again; functions call
each other only while there is fuel, so the stack has a bound.

    >>> scene = draw(seed=1).scene()
    >>> spend(scene, Tier(at_once=True), [Step(100_000)]).differences
    ()
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from tests.machine_code import ONES, RAM, Hart, PageTables, assemble, dwords
from tests.proof.tiers_scene import Scene, Step, Tier, spend
from vpod import disasm

__all__ = ["Function", "Item", "Step", "Tier", "Web", "draw", "spend"]

PAGE = 0x1000
PAGES, HEAP_PAGES = 12, 4
GLOBALS = RAM + 0x2000
CODE_FRAMES = (RAM + 0x1_0000, RAM + 0x2_0000)
HEAP_FRAMES = (RAM + 0x3_0000, RAM + 0x3_4000)
FIXED_FRAMES = RAM + 0x3_8000  # the stack, and the table of functions, of both spaces
TABLES = RAM + 0x4_0000
RAM_SIZE = 0x6_0000

WINDOW = 0x20_0000_0000  # 2 MiB of virtual memory, for which one table has all entries
SECOND = 0x10_0000  # added: the same pages again
HEAP, STACK, POINTERS = WINDOW + 0x2_0000, WINDOW + 0x3_0000, WINDOW + 0x3_2000
COUNT = 64  # entries of the table of functions
SIZE = PAGES * PAGE

FUEL, HERE = 27, 8  # s11, and s0 as a pointer into the heap
FREE = (10, 11, 12, 13, 14, 15, 16, 17, 5, 6, 7, 9, 18, 19, 20, 21)  # a0 to a7, t0 to t2, s1 to s5
X, F = disasm.X_NAMES, disasm.F_NAMES

# offsets in the kernel's globals, after what it saves
SEED, FLIP, SPACES, LEAVES, RARITY, MAIN, TALLY, FAULTS, SITES, PATCHES = (
    256,
    264,
    272,
    288,
    304,
    312,
    320,
    328,
    512,
    1024,
)
RIGHTS = 0xCF  # what a fault gives back, beside U
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407
FS = 0x6000


# ---- what a web is made of -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """Lines of assembly that stay together; `{i}` is the immediate, one in each variant."""

    lines: str
    immediates: tuple[int, int] = (0, 0)

    def text(self, variant: int, label: str) -> str:
        return self.lines.replace("{i}", str(self.immediates[variant])).replace("@", label)


@dataclass(frozen=True)
class Function:
    """`gap` bytes of nothing, a prologue that gives up without fuel, the items, and the way back."""

    gap: int
    items: tuple[Item, ...]
    tail: int = -1  # the function to go on with instead of returning


@dataclass(frozen=True)
class Web:
    """The functions; the modes of kernel and web, as letters; the seed of all the rest."""

    functions: tuple[Function, ...]
    kernel: str
    user: str
    seed: int
    rarity: int = 7  # the kernel acts at an ecall when these bits of a random number are 0

    def source(self, variant: int) -> str:
        calls = "; ".join(f"jal ra, f{n}" for n in range(len(self.functions)))
        lines = [f"main: addi s11, zero, 100; {calls}; ecall; j main"]
        for number, function in enumerate(self.functions):
            name = f"f{number}"
            lines.append(f".space {function.gap}; .align 2; {name}: addi s11, s11, -1; blt s11, zero, {name}_out")
            lines.append("addi sp, sp, -16; sd ra, 0(sp)")
            lines += [item.text(variant, f"{name}_{n}") for n, item in enumerate(function.items)]
            back = "c.jr ra" if function.tail < 0 else f"j f{function.tail}"
            lines.append(f"ld ra, 0(sp); addi sp, sp, 16; {back}; {name}_out: jalr zero, 0(ra)")
        return "\n".join(lines)

    def code(self, variant: int) -> tuple[bytes, dict[str, int]]:
        """The bytes, and where the labels are. ValueError if the functions take too many pages."""
        program = assemble(self.source(variant), WINDOW)
        if len(program.code) > SIZE:
            raise ValueError(f"the web's {len(program.code)} bytes are more than {SIZE}")
        return program.code, dict(program.labels)

    def scene(self) -> Scene:
        rng = random.Random(f"web {self.seed}")
        (code, labels), (other, _) = self.code(0), self.code(1)
        satps, leaves, tables, sites = _spaces(self.user)
        changed = [*rng.choices(sites[:-HEAP_PAGES], k=36), *rng.choices(sites[-HEAP_PAGES:], k=28)]
        starts = [
            labels[f"f{n}"] + SECOND * rng.getrandbits(1) for n in rng.choices(range(len(self.functions)), k=COUNT)
        ]
        patchable = [at - WINDOW for name, at in labels.items() if name.endswith("_patch")] or [SIZE - 4]
        patches = tuple(CODE_FRAMES[rng.getrandbits(1)] + rng.choice(patchable) + 2 for _ in range(64))
        state = [WINDOW if n == 0 else rng.getrandbits(64) for n in range(32)]
        state[2], state[3], state[HERE] = STACK + PAGE - 16, POINTERS, HEAP + PAGE - 0x20
        at_globals = bytearray(PAGE)
        for offset, values in (
            (0, state), (SEED, [rng.getrandbits(64)]), (SPACES, satps), (LEAVES, leaves), (RARITY, [self.rarity]),
            (MAIN, [WINDOW]), (SITES, rng.sample(changed, 64)), (PATCHES, patches),
        ):  # fmt: skip
            at_globals[offset : offset + 8 * len(values)] = dwords(*values)
        memory = (
            (RAM, _kernel(self.kernel, self.user)), (GLOBALS, bytes(at_globals)),
            *zip(CODE_FRAMES, (code, other), strict=True),
            (HEAP_FRAMES[0], rng.randbytes(2 * HEAP_PAGES * PAGE)),
            (FIXED_FRAMES, bytes(2 * PAGE) + dwords(*starts)), (TABLES, tables),
        )  # fmt: skip
        return Scene(RAM_SIZE, memory, (("pmpaddr0", ONES >> 10), ("pmpcfg0", 0x1F)), RAM, patches)

    def show(self) -> str:
        """The source of the first variant; the second one's immediates stand behind the lines that have other ones."""
        return f"kernel in {self.kernel}-mode, web in {self.user}-mode, rarity {self.rarity}:\n{self.source(0)}"

    def smaller(self) -> Iterator[Web]:
        """Webs that leave something away, the largest first; functions stay, since others call them by number."""
        for number, function in enumerate(self.functions):
            for length in sorted({len(function.items), len(function.items) // 2, 1} - {0}, reverse=True):
                for at in range(0, len(function.items), length):
                    items = function.items[:at] + function.items[at + length :]
                    yield self._with(number, replace(function, items=items))
            for changed in (replace(function, gap=0), replace(function, tail=-1)):
                if changed != function:
                    yield self._with(number, changed)

    def _with(self, number: int, function: Function) -> Web:
        return replace(self, functions=(*self.functions[:number], function, *self.functions[number + 1 :]))


# ---- the kernel ------------------------------------------------------------------------------------------------------


@cache
def _kernel(level: str, user: str) -> bytes:
    """In S- or M-mode, as the letter says. x5 to x7, x28 to x31 and a0 to a5 are saved, the others are left alone."""
    saved = [n for n in (*range(6, 8), *range(28, 32), *range(10, 16))]
    bits = RIGHTS | (0x10 if user == "U" else 0)
    line = 0x200 if level == "s" else 0xA88
    lines = [
        f"start: li t0, {GLOBALS}; ld t1, {SPACES}(t0); csrw satp, t1; csrw {level}scratch, t0; la t1, trap",
        f"csrw {level}tvec, t1; li t1, {0xFFFF if level == 's' else 0}; csrw medeleg, t1; csrw mideleg, t1",
        f"li t1, {line}; csrw mie, t1; csrwi mcounteren, 5; csrwi scounteren, 5",
        f"li t1, {FS | (0x800 if user == 'S' else 0)}; csrw mstatus, t1; ld t1, {MAIN}(t0); csrw mepc, t1",
        *(f"ld x{n}, {8 * n}(t0)" for n in range(1, 32) if n != 5),
        f"mret; .align 64; trap: csrrw t0, {level}scratch, t0; " + "; ".join(f"sd x{n}, {8 * n}(t0)" for n in saved),
        f"csrr t1, {level}cause; blt t1, zero, interrupt; addi t2, t1, -12; beqz t2, fault; addi t2, t1, -13",
        f"beqz t2, fault; addi t2, t1, -15; beqz t2, fault; addi t2, t1, -{8 if user == 'U' else 9}; beqz t2, call",
        # anything else: begin anew, and tell
        f"ld t2, {MAIN}(t0); csrw {level}epc, t2; ld t2, {TALLY}(t0); addi t2, t2, 1; sd t2, {TALLY}(t0)",
        f"li s11, -1; li sp, {STACK + PAGE - 16}; j leave",
        f"interrupt: csrw {level}ie, zero; j leave",
        # give the rights back, in the space that is on
        f"fault: csrr t1, {level}tval; ld t2, {FLIP}(t0); add t2, t2, t0; ld t2, {LEAVES}(t2); srli t3, t1, 9",
        "andi t3, t3, 0x7f8; srli t4, t1, 9; li t5, 0x800; and t4, t4, t5; or t3, t3, t4; add t2, t2, t3",
        f"ld t3, 0(t2); ori t3, t3, {bits}; sd t3, 0(t2); sfence.vma t1, zero",
        f"ld t2, {FAULTS}(t0); addi t2, t2, 1; sd t2, {FAULTS}(t0); j leave",
        # a call: the instruction is over; a random number decides
        f"call: csrr t1, {level}epc; addi t1, t1, 4; csrw {level}epc, t1; li t1, {line}; csrw {level}ie, t1",
        f"ld a0, {SEED}(t0); li t1, {MULTIPLIER}; mul a0, a0, t1; li t1, {INCREMENT}; add a0, a0, t1",
        f"sd a0, {SEED}(t0); srli a0, a0, 33; ld t1, {RARITY}(t0); and t1, t1, a0; bnez t1, leave; srli a0, a0, 8",
        f"andi a1, a0, 7; srli a2, a0, 3; andi a2, a2, 0x1f8; add t1, a2, t0; ld a3, {SITES}(t1); ld t2, {FLIP}(t0)",
        f"add t3, t2, t0; ld a4, {LEAVES}(t3); add a4, a4, a3; xori t4, t2, 8; add t4, t4, t0; ld a5, {LEAVES}(t4)",
        f"add a5, a5, a3; slli a3, a3, 9; li t5, {WINDOW}; add a3, a3, t5; srli a0, a0, 9",
        # 0, 1: the page's entries are exchanged between the spaces
        "addi t1, a1, -1; blt zero, t1, not_swap; ld t1, 0(a4); ld t2, 0(a5); sd t2, 0(a4); sd t1, 0(a5)",
        "andi t1, a0, 1; bnez t1, all; sfence.vma a3, zero; j leave; all: sfence.vma zero, zero; j leave; not_swap:",
        # 2: the other space
        f"addi t1, a1, -2; bnez t1, not_space; xori t2, t2, 8; sd t2, {FLIP}(t0); add t2, t2, t0; ld t1, {SPACES}(t2)",
        "csrw satp, t1; j leave; not_space:",
        # 3: rights are taken, or A and D
        "addi t1, a1, -3; bnez t1, not_rights; andi t1, a0, 3; li t2, 0x01c00608; slli t1, t1, 3; srl t2, t2, t1",
        "andi t2, t2, 0xff; bnez t2, mask; li t2, 1; mask: xori t2, t2, -1; ld t1, 0(a4); and t1, t1, t2; sd t1, 0(a4)",
        "sfence.vma a3, zero; j leave; not_rights:",
        # 4: a frame gets another immediate
        f"addi t1, a1, -4; bnez t1, not_patch; add t1, a2, t0; ld t1, {PATCHES}(t1); lhu t2, 0(t1); li t3, 0x5550",
        "xor t2, t2, t3; sh t2, 0(t1); fence.i; j leave; not_patch:",
        # 5: FS becomes Clean, so that the next flag or register makes it Dirty; 6: MXR; 7: FS becomes Dirty
        f"addi t1, a1, -5; bnez t1, not_clean; li t1, 0x2000; csrc {level}status, t1; j leave; not_clean:",
        f"addi t1, a1, -6; bnez t1, not_mxr; li t1, 0x80000; csrrc t2, {level}status, t1; and t2, t2, t1",
        f"bnez t2, leave; csrs {level}status, t1; j leave; not_mxr:",
        f"li t1, {FS}; csrs {level}status, t1; leave: " + "; ".join(f"ld x{n}, {8 * n}(t0)" for n in saved),
        f"csrrw t0, {level}scratch, t0; {level}ret",
    ]
    code = assemble("\n".join(lines), RAM).code
    if RAM + len(code) > GLOBALS:
        raise ValueError(f"the kernel's {len(code)} bytes run into its globals")
    return code


@cache
def _spaces(user: str) -> tuple[tuple[int, int], tuple[int, int], bytes, tuple[int, ...]]:
    """Each space's satp and table for WINDOW; all tables; the offsets there of the entries that the kernel changes."""
    hart = Hart(ram=RAM_SIZE)
    spaces = [PageTables(hart, TABLES), PageTables(hart, TABLES + 0x8000)]
    letters = "vrwxad" + "u" * (user == "U")
    sites = []
    for number, space in enumerate(spaces):
        for page in range(PAGES):
            frame = CODE_FRAMES[(page + number) & 1] + PAGE * page
            for at in (WINDOW + PAGE * page, WINDOW + SECOND + PAGE * page):
                space.map(at, frame, letters)
                sites.append(space.entry(at) & 0xFFF)
        for page in range(HEAP_PAGES):
            space.map(HEAP + PAGE * page, HEAP_FRAMES[number] + PAGE * (page * 3 % HEAP_PAGES), letters)
            sites.append(space.entry(HEAP + PAGE * page) & 0xFFF)
        for page, at in enumerate((STACK, STACK + PAGE, POINTERS)):
            space.map(at, FIXED_FRAMES + PAGE * page, letters)
        for page in range(RAM, RAM + RAM_SIZE, PAGE):  # the kernel's
            space.map(page, page, "vrwxad")
    leaves = tuple(space.entry(WINDOW) & ~0xFFF for space in spaces)
    satps = tuple(space.satp | (number + 1) << 44 for number, space in enumerate(spaces))
    tables = bytes(hart.cpu.read(TABLES, 0x1_0000))
    return (satps[0], satps[1]), (leaves[0], leaves[1]), tables, tuple(dict.fromkeys(sites))


# ---- drawing ---------------------------------------------------------------------------------------------------------

ALU = (
    "add",
    "sub",
    "xor",
    "or",
    "and",
    "sltu",
    "slt",
    "addw",
    "subw",
    "mul",
    "mulh",
    "sll",
    "srl",
    "sraw",
    "div",
    "remuw",
)
WIDE_IMMEDIATE = ("addi", "addi", "addiw", "xori", "ori", "andi", "slti", "sltiu")
FLOATING = (
    "fadd.d {0}, {1}, {2}", "fmul.s {0}, {1}, {2}", "fsub.s {0}, {1}, {2}", "fdiv.d {0}, {1}, {2}",
    "fmadd.d {0}, {1}, {2}, {0}", "fnmsub.s {0}, {1}, {2}, {1}", "fsqrt.s {0}, {1}", "fmin.d {0}, {1}, {2}",
    "fsgnjx.s {0}, {1}, {2}", "fcvt.d.l {0}, {3}", "fcvt.s.w {0}, {3}", "fcvt.d.s {0}, {1}", "fcvt.s.d {0}, {1}",
    "fcvt.l.d {3}, {1}", "fmv.x.d {3}, {1}", "feq.d {3}, {1}, {2}", "flt.s {3}, {1}, {2}", "fclass.d {3}, {1}",
    "csrrs {3}, fflags, zero", "csrrs {3}, instret, zero", "csrrs {3}, cycle, zero",
)  # fmt: skip
ACCESSES = ("lb", "lbu", "lh", "lhu", "lw", "lwu", "ld", "sb", "sh", "sw", "sd", "ld", "sd")


class _Drawer:
    def __init__(self, rng: random.Random, functions: int) -> None:
        self.rng = rng
        self.functions = functions

    def register(self) -> str:
        return X[self.rng.choice(FREE)]

    def immediate(self) -> tuple[int, int]:
        return self.rng.randrange(-2048, 2048), self.rng.randrange(-2048, 2048)

    def computing(self) -> Item:
        kind, a, b, c = self.rng.random(), self.register(), self.register(), self.register()
        if kind < 0.35:
            return Item(f"{self.rng.choice(WIDE_IMMEDIATE)} {a}, {b}, {{i}}", self.immediate())
        if kind < 0.45:
            return Item(f"c.addi {a}, {{i}}", (self.rng.randrange(1, 32), self.rng.randrange(-31, 0)))
        if kind < 0.55:
            return Item(f"@_patch: addi {a}, {b}, {{i}}", self.immediate())
        if kind < 0.6:
            return Item(f"c.add {a}, {b}")
        if kind < 0.65:
            return Item(f"auipc {a}, {{i}}", self.immediate())
        if kind < 0.8:
            text = self.rng.choice(FLOATING)
            return Item(text.format(*(F[self.rng.randrange(24)] for _ in range(3)), a))
        return Item(f"{self.rng.choice(ALU)} {a}, {b}, {c}")

    def access(self) -> Item:
        name = self.rng.choice(ACCESSES)
        size = {"b": 1, "h": 2, "w": 4, "d": 8}[name[1]]
        offset = self.rng.randrange(-1024, 2047 - 8) if self.rng.random() < 0.3 else self.rng.randrange(-40, 40)
        if self.rng.random() < 0.7:
            offset &= -size
        return Item(f"{name} {self.register()}, {offset}(s0)")

    def floating_access(self) -> Item:
        name = self.rng.choice(("fld", "flw", "fsd", "fsw"))
        return Item(f"{name} {F[self.rng.randrange(24)]}, {8 * self.rng.randrange(-128, 255)}(s0)")

    def record(self) -> Item:
        """Several accesses off one register, which may be moved on among them: what one check may stand for."""
        rng, words = self.rng, []
        base = rng.choice(("s0", "t3", "sp"))
        first = {"s0": -24, "t3": rng.choice((-64, -8, 0, 24)), "sp": -96}[base]
        if base == "t3":
            words.append(f"addi t3, s0, {8 * rng.randrange(-4, 5)}")
        for _ in range(rng.randrange(3, 9)):
            name = rng.choice((*ACCESSES, "fld", "fsd"))
            register = F[rng.randrange(24)] if name.startswith("f") else self.register()
            words.append(f"{name} {register}, {first + 8 * rng.randrange(8)}({base})")
            if base == "t3" and rng.random() < 0.2:
                words.append(f"addi t3, t3, {rng.choice((8, -16, 40, 1, 0x7F8))}")
            if rng.random() < 0.2:
                words.append(
                    f"{rng.choice(('add', 'xor', 'mul'))} {self.register()}, {self.register()}, {register}"
                    if not name.startswith("f")
                    else f"addi {self.register()}, {self.register()}, 1"
                )
        return Item("; ".join(words))

    def pair(self) -> Item:
        """Two instructions that the host may do in one, or nearly such."""
        rng, a, b, c = self.rng, self.register(), self.register(), self.register()
        kind = rng.randrange(3)
        if kind == 0:
            up, by = rng.choice(((32, 32), (48, 48), (56, 56), (32, rng.randrange(64)), (rng.randrange(64), 9)))
            return Item(f"slli {a}, {b}, {up}; {rng.choice(('srli', 'srai'))} {a}, {a}, {by}")
        if kind == 1:
            return Item(f"slli {a}, {b}, {rng.randrange(1, 5)}; add {a}, {rng.choice((f'{a}, {c}', f'{c}, {a}'))}")
        upper = f"{rng.choice(('lui', 'auipc'))} {a}, {rng.getrandbits(20)}"
        return Item(f"{upper}; {rng.choice(('addi', 'addiw'))} {a}, {a}, {rng.randrange(-2048, 2048)}")

    def count(self) -> Item:
        """Something in memory that is read, changed and written again, by three instructions or by atomics."""
        rng, a, b = self.rng, self.register(), self.register()
        offset, size = 8 * rng.randrange(-4, 8), rng.choice("wd")
        if rng.random() < 0.5:
            offset += rng.choice((0, 0, 0, 4, 1))
            return Item(f"l{size} {a}, {offset}(s0); addi {a}, {a}, 1; s{size} {a}, {offset}(s0)")
        front = f"andi t3, s0, -8; addi t3, t3, {offset}"
        if rng.random() < 0.5:
            return Item(f"{front}; lr.{size} {a}, (t3); addi {b}, {a}, 1; sc.{size} {a}, {b}, (t3)")
        return Item(f"{front}; amo{rng.choice(('swap', 'add', 'xor', 'and', 'or', 'max'))}.{size} {a}, {b}, (t3)")

    def call(self) -> Item:
        target = self.rng.randrange(self.functions)
        if self.rng.random() < 0.5:
            return Item(f"jal ra, f{target}")
        return Item(f"ld t3, {8 * self.rng.randrange(COUNT)}(gp); jalr ra, 0(t3)")

    def any_call(self) -> Item:
        """By one of the table's pointers, which a register chooses."""
        return Item(f"andi t3, {self.register()}, 0x1f8; add t3, t3, gp; ld t3, 0(t3); jalr ra, 0(t3)")

    def straight(self) -> Item:
        kind = self.rng.random()
        return self.computing() if kind < 0.7 else self.access() if kind < 0.92 else self.floating_access()

    def skip(self) -> Item:
        branch = self.rng.choice(("beq", "bne", "blt", "bge", "bltu", "bgeu"))
        inner = self.straight() if self.rng.random() < 0.7 else self.call()
        head = f"{branch} {self.register()}, {self.register()}, @_skip; "
        return Item(f"{head}{inner.lines.replace('@_patch: ', '')}; @_skip:", inner.immediates)

    def loop(self) -> Item:
        turns = self.rng.choice((2, 3, 10, 10, 60))
        inner = (self.straight().lines for _ in range(self.rng.randrange(1, 5)))
        body = "; ".join(inner).replace("@_patch: ", "").replace("{i}", "5")
        return Item(f"addi t4, zero, {turns}; @_top: {body}; addi t4, t4, -1; bne t4, zero, @_top")

    def calling_loop(self) -> Item:
        turns, inner = self.rng.randrange(2, 12), self.call()
        head = f"addi t4, zero, {turns}; @_top: sd t4, 8(sp); {inner.lines}; "
        return Item(f"{head}ld t4, 8(sp); addi t4, t4, -1; bne t4, zero, @_top")

    def patch(self, targets: list[str]) -> Item:
        """The web rewrites an immediate of its own, and fences."""
        target = self.rng.choice(targets)
        return Item(f"la t3, {target}; lhu t5, 2(t3); li t6, 0x2aa0; xor t5, t5, t6; sh t5, 2(t3); fence.i")

    def patch_ahead(self) -> Item:
        """A loop that rewrites what comes next and executes it: mostly without a fence, which neither tier needs."""
        a, b = self.register(), self.register()
        fence = "fence.i; " * (self.rng.random() < 0.3)
        stores = "sh t5, 2(t3); sh t5, 2(t3)" if self.rng.random() < 0.7 else "sh t5, 2(t3)"
        text = f"la t3, @_ahead; lhu t5, 2(t3); li t6, 0x2aa0; xor t5, t5, t6; {stores}; {fence}"
        close = "addi t4, t4, -1; bne t4, zero, @_top"
        return Item(f"addi t4, zero, 7; @_top: {text}@_ahead: addi {a}, {b}, {{i}}; {close}", self.immediate())

    def rounding(self) -> Item:
        return Item(f"csrrwi zero, frm, {self.rng.choice((0, 0, 0, 1, 2))}")

    def move(self) -> Item:
        """The heap's pointer goes elsewhere."""
        where = HEAP + PAGE * self.rng.randrange(1, HEAP_PAGES) - self.rng.choice((0x800, 0x20, 8, 3, 0, -8))
        return Item(f"li s0, {where}")

    def item(self) -> Item:
        ways = (
            (self.straight, 42), (self.skip, 12), (self.loop, 5), (self.record, 10), (self.pair, 8), (self.count, 6),
            (self.call, 8), (self.any_call, 5), (self.calling_loop, 4), (self.move, 4), (self.rounding, 1),
        )  # fmt: skip
        kind = self.rng.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
        return Item("ecall") if self.rng.random() < 0.1 else kind()


def draw(seed: int) -> Web:
    """The web of a seed."""
    rng = random.Random(f"draw web {seed}")
    count = rng.randrange(4, 24)
    drawer = _Drawer(rng, count)
    functions = []
    for _ in range(count):
        items = tuple(drawer.item() for _ in range(rng.randrange(3, 30)))
        gap = rng.choice((0, 2, rng.randrange(0, 1200, 2)))
        functions.append(Function(gap, items, rng.randrange(count) if rng.random() < 0.15 else -1))
    kernel, user = rng.choice((("s", "U"), ("s", "U"), ("m", "U"), ("m", "S")))
    web = Web(tuple(functions), kernel, user, seed, rng.choice((0, 3, 7, 63, 255)))
    return _patching(web, drawer) if rng.random() < 0.35 else web


def _patching(web: Web, drawer: _Drawer) -> Web:
    """The web, where some functions rewrite what comes next, and then any function's immediate."""
    rng = drawer.rng
    functions = []
    for function in web.functions:
        at = rng.randrange(len(function.items))
        ahead = (drawer.patch_ahead(),) if rng.random() < 0.4 else ()
        functions.append(replace(function, items=(*function.items[:at], *ahead, *function.items[at:])))
    web = replace(web, functions=tuple(functions))
    targets = [name for name in web.code(0)[1] if name.endswith("_patch")]
    if not targets:
        return web
    patched = [
        replace(function, items=(*function.items, drawer.patch(targets))) if rng.random() < 0.3 else function
        for function in web.functions  # behind all items, whose labels are their numbers
    ]
    return replace(web, functions=tuple(patched))
