"""The bare-metal monitor of the privileged target: it sets up episodes, logs each trap, and steers to the next step.

An *episode* begins with everything privileged set anew from a table (`Episode`): PMP, address space, delegation,
interrupts, registers, and a few page-table entries (`Poke`). Then come its *steps*: for each the monitor returns to a
piece of code (`Slot`) in a mode and with bits of mstatus of the step's own; whatever traps to M-mode in the end (every
slot ends with a trap) makes one *record* in the log: all integer registers and what a trap leaves in the CSRs.
After the last step the log also gets the page-table entries that were poked, with their A and D bits, and they are put
back. Traps delegated to S run one of several handlers, which trap on to M by a cause that is not delegated.

Invariants, on which the drawing (`privileged_draw.py`) relies and which it keeps:

* `tp` points to the record that comes next; no slot writes it, nor any other of `PROTECTED`.
* An M-mode slot leaves mtvec and stvec as it found them, and never returns below M with MPRV set.
* The S-mode handlers can always be fetched when fetch faults are delegated.
* Nothing random is ever written to what may be executed, and everything in the image comes from its arguments.

    >>> image = Image([Slot(("csrr t0, mstatus", "ebreak"))], [Episode(steps=[Step(0, 3)])], tables=b"", seed=1)
    >>> image.records(board.on_vpod(image.memory, length=image.used).memory)[0]["mcause"]
    3
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.machine_code import ALIASES, ONES, RAM, assemble
from tests.proof.board import CLINT, FINISHER, USABLE
from vpod import disasm

# ---- where things are, in RAM ---------------------------------------------------------------------------------------

VARIABLES = RAM + 0x4000  # of the monitor
HANDLERS = RAM + 0x6000  # S-mode's, a page
FLOATS = RAM + 0x8000  # what the floating-point registers are loaded from
SLOTS, SLOTS_SIZE = RAM + 0x2_0000, 0x3_0000  # the slots' code: U-mode sees it at USER from there
DATA, DATA_PAGES = RAM + 0x10_0000, 16  # pages that programs store to, between two guard pages
CODE, CODE_PAGES = RAM + 0x12_0000, 16  # pages that programs jump to and never store to
TABLES = RAM + 0x14_0000  # page tables
EPISODES = RAM + 0x20_0000  # descriptors, and after them the log
USER = 1 << 37  # added to a physical address it is where U-mode finds code in every address space

PROTECTED = (0, 2, 3, 4, 8, 9, 10, 11, 20, 21, 22, 23, 24)  # what no slot writes: pointers, and what is told below
USER_OFFSET = 3  # gp: USER when the episode translates addresses, else 0
POKE_AT, POKE_WITH, POKE_ADDRESS, POKE_ASID, OTHER_SATP = 20, 21, 22, 23, 24  # for slots that edit page tables

UXL_SXL = 2 << 32 | 2 << 34
MPRV, MPP, MPIE, SUM_MXR = 1 << 17, 3 << 11, 1 << 7, 3 << 18
FAR = 1 << 50  # a time that never comes, and that QEMU's timers count without overflow

# ---- the log --------------------------------------------------------------------------------------------------------

CSRS = (
    "mcause", "mepc", "mtval", "mstatus", "mip", "mie", "scause", "sepc", "stval", "sip", "satp", "medeleg", "mideleg",
    "mscratch", "sscratch", "scounteren", "fcsr",
)  # fmt: skip
FIELDS = ("vector", *(f"x{n}" for n in range(1, 32)), *CSRS)
RECORD = 8 * len(FIELDS)

# what an episode sets, in this order, which is also its layout
SETTINGS = (
    "pmpaddr0", "pmpaddr1", "pmpaddr2", "pmpaddr3", "pmpaddr4", "pmpaddr5", "pmpaddr6", "pmpaddr7", "pmpaddr8",
    "pmpaddr9", "pmpaddr10", "pmpaddr11", "pmpaddr12", "pmpaddr13", "pmpaddr14", "pmpaddr15", "pmpcfg0", "pmpcfg2",
    "mtvec", "stvec", "medeleg", "mideleg", "menvcfg", "senvcfg", "stimecmp", "mip", "mie", "mcounteren", "scounteren",
    "mcountinhibit", "sscratch", "mscratch", "sepc", "satp", "fcsr", "mstatus",
)  # fmt: skip
DEFAULTS = {
    "mtvec": 0, "stvec": 0, "menvcfg": 1 << 61, "stimecmp": FAR, "pmpaddr15": ONES >> 10, "pmpcfg2": 0x1F << 56,
    "mstatus": UXL_SXL,
}  # fmt: skip


def _monitor() -> str:
    """The source. Registers within it are free to use once the record is made, but tp."""
    saved = [n for n in range(1, 32) if n not in (4, 5)]
    lines = [f"start: la s0, variables; li t0, {EPISODES}; sd t0, 16(s0)"]
    lines += [f"li t0, {CLINT + 0x4000}; li t1, -1; sd t1, 0(t0); {{prologue}}; j next_episode; .align 256; m_vectors:"]
    lines += [f"j m_{n}" for n in range(16)]
    lines += [f"m_{n}: sd t0, 40(tp); li t0, {n}; j common" for n in range(16)]
    lines += ["common: sd t0, 0(tp)", *(f"sd x{n}, {8 * n}(tp)" for n in saved)]
    at = {name: 256 + 8 * n for n, name in enumerate(CSRS)}
    lines += [f"csrr t0, {name}; sd t0, {at[name]}(tp)" for name in CSRS if name not in ("mtval", "fcsr")]
    lines += [
        # a breakpoint's tval is zero or the address, as "Machine Trap Value Register" leaves open: both are made zero
        "csrr t1, mcause; csrr t2, mtval; addi t3, t1, -3; bnez t3, tval; csrw mtval, zero; li t2, 0",
        f"tval: sd t2, {at['mtval']}(tp)",
        f"csrr t0, mstatus; li t2, 0x6000; csrs mstatus, t2; csrr t2, fcsr; sd t2, {at['fcsr']}(tp); csrw mstatus, t0",
        "bge t1, zero, steer; li t2, 1; sll t2, t2, t1; csrc mie, t2",  # an interrupt comes once
        "steer: mv t6, tp; step: la t0, variables; ld t1, 0(t0); ld t2, 0(t1); ld t3, 8(t1); addi t1, t1, 16",
        f"sd t1, 0(t0); beqz t2, episode_ends; csrw mepc, t2; li t4, {MPRV | MPP | MPIE | SUM_MXR}; csrc mstatus, t4",
        f"csrs mstatus, t3; addi tp, tp, {RECORD}",
        *(f"ld x{n}, {8 * n}(t6)" for n in range(1, 31) if n != 4),
        "ld t6, 248(t6); mret",
        # the poked entries go to the log, and back to what they were
        f"episode_ends: li t5, {MPRV}; csrc mstatus, t5; addi t4, tp, {RECORD}; ld t1, 8(t0)",
        "undo: ld t2, 0(t1); beqz t2, next_episode; ld t3, 0(t2); sd t3, 0(t4); ld t3, 16(t1); sd t3, 0(t2)",
        "addi t1, t1, 24; addi t4, t4, 8; j undo",
        "next_episode: la t0, variables; ld s0, 16(t0); ld t1, 0(s0); beqz t1, finish; sd t1, 16(t0)",
        "ld tp, 8(s0); ld t1, 16(s0); sd t1, 0(t0); ld t1, 24(s0); sd t1, 8(t0)",
        f"li t1, {CLINT}; ld t2, 32(s0); sw t2, 0(t1); ld t2, 40(s0); li t1, {CLINT + 0x4000}; sd t2, 0(t1)",
        "csrw mie, zero; csrw satp, zero; csrw pmpcfg0, zero; csrw pmpcfg2, zero; li t1, 0x6000; csrs mstatus, t1",
        "csrw mcause, zero; csrw mtval, zero; csrw scause, zero; csrw stval, zero; addi s1, s0, 48",
        f"li t1, {FLOATS}; " + "; ".join(f"fld {name}, {8 * n}(t1)" for n, name in enumerate(disasm.F_NAMES)),
        *(f"ld t1, {8 * n}(s1); csrw {name}, t1" for n, name in enumerate(SETTINGS)),
        "la t0, variables; ld t1, 8(t0)",
        "poke: ld t2, 0(t1); beqz t2, poked; ld t3, 8(t1); sd t3, 0(t2); addi t1, t1, 24; j poke",
        f"poked: sfence.vma zero, zero; fence.i; addi tp, tp, {-RECORD}; addi t6, s1, {8 * len(SETTINGS) - 8}; j step",
        f"finish: li t0, {FINISHER}; li t1, 0x5555; sw t1, 0(t0); finished: j finished",
    ]
    return "\n".join(lines)


# ---- S-mode's handlers ----------------------------------------------------------------------------------------------

EXITS = {9: "ecall", 3: "ebreak", 2: ".word 0"}  # how a handler gets on to M: by a cause that is not delegated
BODIES = {
    "at once": "nop",
    # a load that may trap again, at most three times
    "nested": "andi t6, t6, 3; addi t6, t6, -1; blt t6, zero, {0}; ld t0, 0(s0); ld t0, 0(s1)",
    # goes on after the instruction, as if it had four bytes, at most three times
    "returns": "andi t6, t6, 3; addi t6, t6, -1; blt t6, zero, {0}; csrr t0, sepc; addi t0, t0, 4; csrw sepc, t0; sret",
}


def _handlers() -> str:
    """Each with a table for vectored interrupts, whose entries tell themselves by t4 = x29."""
    lines = []
    for cause, leave in EXITS.items():
        for n, body in enumerate(BODIES.values()):
            name = f"s_{cause}_{n}"
            lines += [f".align 64; {name}:", *(f"jal t4, {name}_common" for _ in range(16)), f"{name}_common:"]
            # the tval of a breakpoint: as in the monitor
            lines += ["csrr t0, scause; addi t0, t0, -3", f"bnez t0, {name}_body; csrw stval, zero; {name}_body:"]
            lines += [f"{body.format(name + '_exit')}; {name}_exit: {leave}; j {name}_exit"]
    return "\n".join(lines)


@functools.cache
def handlers() -> dict[tuple[int, str], int]:
    """The address of the S-mode handler that leaves by a cause and does what `BODIES` says."""
    labels = assemble(_handlers(), HANDLERS).labels
    return {(cause, body): labels[f"s_{cause}_{n}"] for cause in EXITS for n, body in enumerate(BODIES)}


@functools.cache
def m_vectors() -> int:
    return _assembled_monitor("nop")[1]


@functools.cache
def _assembled_monitor(prologue: str) -> tuple[bytes, int]:
    program = assemble(_monitor().format(prologue=prologue), RAM, variables=VARIABLES)
    if RAM + len(program.code) > VARIABLES:
        raise ValueError(f"the monitor's {len(program.code)} bytes run into its variables")
    return program.code, program["m_vectors"]


# ---- what an image is made of ---------------------------------------------------------------------------------------


# after each slot: a handler that goes on behind the trapping instruction never gets into the next one
GUARD = assemble("ebreak; ebreak; ebreak; ebreak").code


@dataclass(frozen=True)
class Slot:
    """Code of a step, as lines of assembly; the last one traps. `covers` says what was shown if that is reached."""

    lines: tuple[str, ...]
    covers: frozenset[str] = frozenset()

    @functools.cached_property
    def rows(self) -> frozenset[str]:
        """The names of the instructions that are written by name."""
        names = (line.partition(" ")[0] for line in self.lines)
        return frozenset(ALIASES[name][0] if name in ALIASES else name for name in names if not name.endswith(":"))

    @property
    def names_asid(self) -> bool:
        """Whether it fences a single address space."""
        return any(line.startswith("sfence.vma") and not line.endswith("zero") for line in self.lines)

    @functools.cached_property
    def code(self) -> bytes:
        """Its bytes, which are the same wherever it stands."""
        return b"".join(_assembled(part) for part in self._parts())

    def _parts(self) -> Iterator[str]:
        """Lines that assemble by themselves, and the rest together, since labels tie them."""
        if any(":" in line for line in self.lines):
            yield "\n".join(self.lines)
        else:
            yield from self.lines


@functools.lru_cache(200_000)
def _assembled(source: str) -> bytes:
    return assemble(source).code


@dataclass(frozen=True)
class Step:
    """Goes to slot number `slot` in `mode`, with `status` bits of mstatus set; SUM, MXR and MPIE are else clear."""

    slot: int
    mode: int
    status: int = 0


@dataclass(frozen=True)
class Poke:
    """A dword of memory that an episode sets, logs at its end, and puts back to what it `was`."""

    address: int
    value: int
    was: int


@dataclass(frozen=True)
class Episode:
    """What the monitor sets up, and the steps; `settings` overrides DEFAULTS, and `registers` are x1 to x31."""

    steps: Sequence[Step]
    settings: dict[str, int] = field(default_factory=dict)
    registers: tuple[int, ...] = (0,) * 31
    pokes: tuple[Poke, ...] = ()
    msip: int = 0
    mtimecmp: int = FAR
    atomic: bool = False  # its last step is an AMO: see KNOWN

    def setting(self, name: str) -> int:
        if name == "mtvec":
            return m_vectors() | self.settings.get(name, 0)
        return self.settings.get(name, DEFAULTS.get(name, 0))

    @property
    def paged(self) -> bool:
        return self.setting("satp") >> 60 == 8


class Image:
    """Slots and episodes laid out in memory, ready to run, and how to read what they left in the log."""

    def __init__(
        self, slots: Sequence[Slot], episodes: Sequence[Episode], tables: bytes, seed: int, prologue: str = "nop"
    ) -> None:
        self.slots, self.episodes = slots, episodes
        self.places, code = self._place_slots()
        layout, at = [], EPISODES
        for episode in episodes:  # descriptors first, then the log
            layout.append(at)
            at += self._size(episode)
        layout.append(at)
        at = (at + 8 + 63) & ~63
        self.log = at
        self.log_of: list[int] = []
        descriptors = bytearray()
        for n, episode in enumerate(episodes):
            self.log_of.append(at)
            descriptors += self._describe(episode, layout[n], layout[n + 1], at)
            at += len(episode.steps) * RECORD + 8 * len(episode.pokes)
        self.used = at - RAM
        if self.used > USABLE:
            raise ValueError(f"{len(episodes)} episodes take {self.used} bytes; there are {USABLE}")
        memory = bytearray(layout[-1] + 8 - RAM)
        for where, data in (
            (RAM, _assembled_monitor(prologue)[0]),
            (HANDLERS, assemble(_handlers(), HANDLERS).code),
            (FLOATS, random.Random(seed).randbytes(256)),
            (SLOTS, code),
            (DATA, random.Random(seed).randbytes(DATA_PAGES << 12)),
            (CODE, _code_pages()),
            (TABLES, tables),
            (EPISODES, bytes(descriptors)),
        ):
            memory[where - RAM : where - RAM + len(data)] = data
        self.memory = bytes(memory)

    def _place_slots(self) -> tuple[list[int], bytes]:
        places, code = [], bytearray()
        for slot in self.slots:
            code += bytes(-len(code) % 4)
            places.append(SLOTS + len(code))
            code += slot.code + GUARD
        if len(code) > SLOTS_SIZE:
            raise ValueError(f"{len(self.slots)} slots take {len(code)} bytes; there are {SLOTS_SIZE}")
        return places, bytes(code)

    @staticmethod
    def _size(episode: Episode) -> int:
        return 8 * (6 + len(SETTINGS) + 31 + 2 * len(episode.steps) + 1 + 3 * len(episode.pokes) + 1)

    def _describe(self, episode: Episode, at: int, following: int, log: int) -> bytes:
        steps = at + 8 * (6 + len(SETTINGS) + 31)
        pokes = steps + 8 * (2 * len(episode.steps) + 1)
        words = [following, log, steps, pokes, episode.msip, episode.mtimecmp]
        words += [episode.setting(name) for name in SETTINGS]
        words += episode.registers
        for step in episode.steps:
            words += [self.pc(episode, step), step.mode << 11 | step.status]
        words.append(0)
        for poke in episode.pokes:
            words += [poke.address, poke.value, poke.was]
        words.append(0)
        return struct.pack(f"<{len(words)}Q", *words)

    def pc(self, episode: Episode, step: Step) -> int:
        """Where `step` begins, as its mode sees it."""
        return self.places[step.slot] + (USER if step.mode == 0 and episode.paged else 0)

    def end(self, episode: Episode, step: Step) -> int:
        """The slot's last address, where its trapping instruction ends; where in memory, whatever the mode."""
        return self.places[step.slot] + len(self.slots[step.slot].code)

    def log_end(self, episode: int) -> int:
        """Where the log of an episode ends, that of the next one begins."""
        return [*self.log_of[1:], RAM + self.used][episode]

    def log_bytes(self, memory: bytes) -> bytes:
        """The log alone, out of what a run left."""
        return memory[self.log - RAM : self.used]

    def records(self, memory: bytes, episode: int = 0) -> list[dict[str, int]]:
        """What an episode logged, by name: a record for each step, and the poked entries with the last one."""
        at, found = self.log_of[episode] - RAM, []
        steps, pokes = self.episodes[episode].steps, self.episodes[episode].pokes
        for _ in steps:
            found.append(dict(zip(FIELDS, struct.unpack_from(f"<{len(FIELDS)}Q", memory, at), strict=True)))
            at += RECORD
        values = struct.unpack_from(f"<{len(pokes)}Q", memory, at)
        found[-1].update((f"[{poke.address:#x}]", value) for poke, value in zip(pokes, values, strict=True))
        return found


# ---- the pages to jump to -------------------------------------------------------------------------------------------

ENTRIES = (0, 2, 0x400, 0x800, 0x806, 0x900, 0xA00, 0xFFC, 0xFFE)  # offsets in a page where something begins
PATCHED = 0xA00  # where an episode may put another instruction


@functools.cache
def _code_pages() -> bytes:
    """Pages full of breakpoints that also return, add, tell which page they are, and cross into the next one."""
    pages = bytearray()
    for n in range(CODE_PAGES):
        page = bytearray(bytes.fromhex("0290") * 2048)  # c.ebreak
        for offset, source in (
            (0x000, ".half 0x0010"),  # the second half of a page before's ebreak, and c.addi4spn by itself
            (0x800, "ret"),
            (0x806, "addi s9, s9, 1; jr ra"),
            (0x900, f"li s10, {n}; add s9, s9, s10; ebreak"),
            (PATCHED, "addi s10, zero, 7; jr ra"),
            (0xFFC, ".half 0x0001; .half 0x0073"),  # c.nop, and an ebreak that goes on in the next page
        ):
            code = assemble(source).code
            page[offset : offset + len(code)] = code
        pages += page
    return bytes(pages)
