"""Every encoding is legal exactly when the specification says so: executed here and under QEMU, and by the listings.

Three oracles, independent of each other and of `vpod/isa.py`:

* QEMU executes each encoding in the same bare-metal image (`encodings_image.py`); trap cause, mepc, mtval, previous
  privilege and a hash of all registers must be equal, and at the end the memory that stores wrote;
* `listing.py` says from the specification's tables which encodings are legal in which context;
* GNU binutils decodes the same words: reserved or not, and the same instruction.

A *sweep* is a set of encodings; a piece executes it in some contexts. Jumps to themselves are ended by a timer; the
only encodings that are never executed are writes that would take mtvec away from the monitor (`_spoils`).

    >>> run(sweep="rounding", contexts="M-frm7").counts
    {'encodings executed': 1152, 'of them legal': 720}
"""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.proof.board import on_qemu, on_vpod
from tests.proof.encodings_image import CAPACITY, DENSE, LENGTH, PITCH, SLOT, Record, image, records, scratch
from tests.proof.listing import Context, legal
from tests.proof.pieces import Form, Outcome, Piece
from vpod import disasm, isa
from vpod._cpu import decode_word

LIMIT, TIMED_LIMIT = 5_000, 5_000_000  # instructions that vpod may spend on a case; some hundreds are the monitor's
REGISTERS = (0, 1, 2, 31)  # in the places of rd and rs1: the ones that the specification treats apart, and one more
PAIRS = sorted(itertools.product(REGISTERS, REGISTERS), key=lambda pair: 0 not in pair)  # those with x0 first
PAGE = CAPACITY - DENSE
ILLEGAL, TIMER = 2, 1 << 63 | 7  # causes
QEMU_SECONDS = 600
DIFFERENCES = 20  # that one piece reports

BRANCH, JAL, SYSTEM, MISC_MEM = 0b1100011, 0b1101111, 0b1110011, 0b0001111
AMO = 0b0101111
WRITERS = {0b0100011, 0b0100111, AMO}  # with STORE and STORE-FP
ZICSR = CSRRW, CSRRS, CSRRC, CSRRWI, CSRRSI, CSRRCI = 1, 2, 3, 5, 6, 7  # funct3 of SYSTEM
MTVEC, VSTIMECMP = 0x305, 0x24D


# ---- the encodings --------------------------------------------------------------------------------------------------


def compressed() -> Iterator[int]:
    """All 65,536 low halves; the 16,384 of them that begin a longer instruction go on with zeros."""
    return (half for half in range(1 << 16) if not _is_zicsr(half))


def full(part: int, parts: int, pairs: int) -> Iterator[int]:
    """Every opcode, funct3, funct7 and rs2, each with `pairs` of the sixteen choices for rd and rs1, one after another.

    `part` of `parts`, an odd number, takes every so many-th; CSR instructions are left to `csr_cases`.
    """
    for number in range(part, 1 << 20, parts):
        opcode, funct3, funct7, rs2 = number & 31, number >> 5 & 7, number >> 8 & 127, number >> 15
        word = funct7 << 25 | rs2 << 20 | funct3 << 12 | opcode << 2 | 3
        if _is_zicsr(word):
            continue
        first = (number * 0x9E37_79B1 >> 16) % 16
        for pair in range(first, first + pairs):
            rd, rs1 = PAIRS[pair % 16]
            yield word | rd << 7 | rs1 << 15


def privileged(pairs: int) -> Iterator[int]:
    """Every funct12 of SYSTEM with funct3 0 or 4, and MISC-MEM in steps of funct12; each with `pairs` of rd and rs1."""
    for rd, rs1 in PAIRS[:pairs]:
        for funct12, funct3 in itertools.product(range(1 << 12), (0, 4)):
            yield funct12 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | SYSTEM
        for funct12, funct3 in itertools.product(range(0, 1 << 12, 37), range(8)):
            yield funct12 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | MISC_MEM


def rounding() -> Iterator[int]:
    """Every instruction with an rm field, with each of its eight values and some registers."""
    for row, rm, (rd, rs1) in itertools.product(isa.BASE_ROWS, range(8), PAIRS[::5]):
        if "rounds" in row.flags:
            yield row.match | rm << 12 | rd << 7 | rs1 << 15


def drawn(seed: int, count: int) -> Iterator[int]:
    """Random words of 32 bits."""
    source = random.Random(seed)
    return itertools.islice((word for _ in iter(int, 1) if not _is_zicsr(word := source.getrandbits(32) | 3)), count)


def csr_cases(context: Context) -> Iterator[tuple[int, ...]]:
    """All 4096 CSR numbers with all six instructions: reading, writing what was there, and writing immediates.

    Where csrrw may succeed its source is x5, into which a prefix has read the register; csrrs and csrrc have x5 = 0.
    """
    clear = disasm.encode("addi", rd="t0", rs1="zero", imm=0)
    for number in range(1 << 12):
        read = _csr(CSRRS, number, rd=5)
        yield (read,)
        yield (_csr(CSRRC, number, rd=0),)
        for rd in (0, 1, 31):
            yield read, _csr(CSRRW, number, rd, rs1=5)
        yield clear, _csr(CSRRS, number, rd=1, rs1=5)
        yield clear, _csr(CSRRC, number, rd=2, rs1=5)
        if not legal(_csr(CSRRW, number, rd=0), context):
            yield (_csr(CSRRW, number, rd=1, rs1=5),)
        for funct3, immediate in itertools.product((CSRRWI, CSRRSI, CSRRCI), (0, 1, 2, 31)):
            word = _csr(funct3, number, rd=1, rs1=immediate)
            if not _spoils(word, context):
                yield (word,)


def _csr(funct3: int, number: int, rd: int, rs1: int = 0) -> int:
    return number << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | SYSTEM


def csr_words() -> Iterator[int]:
    """All CSR numbers with all six instructions, for decoding."""
    for number, funct3 in itertools.product(range(1 << 12), ZICSR):
        yield _csr(funct3, number, rd=number % 29, rs1=number % 31)


def _is_zicsr(word: int) -> bool:
    return word & 0x7F == SYSTEM and word >> 12 & 7 in ZICSR


def _spoils(word: int, context: Context) -> bool:
    """csrrwi to mtvec in M: the trap that would tell the tale would go nowhere."""
    return context.mode == "M" and word >> 20 == MTVEC and word >> 12 & 7 == CSRRWI


# ---- how they are executed ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Encodings that go into the same images; the fields are those of `encodings_image.image`."""

    lone: bool = False
    timed: bool = False
    restore: bool = False


PLAIN, WRITER, JUMP, LOOP, SYSTEMS, CSR = "plain", "writer", "jump", "loop", "system", "csr"
KINDS = {
    PLAIN: Kind(),
    WRITER: Kind(),
    JUMP: Kind(lone=True),
    LOOP: Kind(lone=True, timed=True),
    SYSTEMS: Kind(restore=True),
    CSR: Kind(restore=True),  # registers are not compared: they hold what CSRs hold, which is not the subject here
}


def kind_of(word: int) -> str:
    """The name of the kind: what writes memory goes apart, since others jump into it, and so do relative jumps."""
    opcode, quadrant, funct3 = word & 0x7F, word & 3, word >> 13 & 7
    if quadrant != 3:
        if quadrant != 1:
            return WRITER if funct3 >= 5 else PLAIN
        offset = word & 0x1FFC if funct3 == 5 else word & 0x1C7C  # c.j; c.beqz, c.bnez
        return PLAIN if funct3 < 5 else JUMP if offset else LOOP
    if opcode in WRITERS:
        return WRITER
    if opcode == JAL:  # an offset of 2 goes to the upper half of the instruction, which may be a jump to itself
        return LOOP if word & 0xFFDF_F000 == 0 else JUMP
    if opcode == BRANCH:
        return LOOP if word & 0xFE00_0E80 == 0 else JUMP
    if opcode == SYSTEM:
        return CSR if _is_zicsr(word) else SYSTEMS
    return PLAIN


class Compared(NamedTuple):
    """One case after both machines executed it: the words, the records, and where the slot was."""

    words: tuple[int, ...]
    kind: str
    context: Context
    slot: int
    ours: Record
    theirs: Record

    def illegal_at(self, record: Record) -> int | None:
        """Which of the words raised an illegal-instruction exception where it stands."""
        if record[0] != ILLEGAL | self.context.level << 11:
            return None
        index, rest = divmod(record[1] - self.slot, 4)
        return index if not rest and 0 <= index < len(self.words) else None

    @property
    def listed(self) -> int | None:
        """Which of the words is illegal, by the listings."""
        for index, word in enumerate(self.words):
            if not legal(word, self.context):
                return index
        return None

    def __str__(self) -> str:
        text = "; ".join(f"{word:#010x} {disasm.disassemble(word)}" for word in self.words)
        listed = "legal" if self.listed is None else f"word {self.listed} is illegal"
        told = f"  vpod    {_told(self.ours, self.slot)}\n  QEMU    {_told(self.theirs, self.slot)}\n  listing {listed}"
        return f"{text} in {self.context}:\n{told}"


def _told(record: Record, slot: int) -> str:
    return (
        f"cause {record.cause:#x} from {record.previous} at slot{record.epc - slot:+#x}, tval {record.tval:#x}, "
        f"registers {record.registers:#018x}"
    )


# ---- what QEMU knowingly does otherwise -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A difference from QEMU 7.2 that the specification allows or decides for us; `why` says where."""

    name: str
    why: str
    applies: Callable[[Compared], bool]


def _only_tval(case: Compared) -> bool:
    return case.ours._replace(tval=0) == case.theirs._replace(tval=0)


def _funct5(case: Compared) -> int | None:
    """Which atomic it is, if any: 2 is load-reserved, 3 store-conditional, the others are AMOs."""
    return case.words[0] >> 27 if case.words[0] & 0x7F == AMO else None


def _amo(case: Compared) -> bool:
    return _funct5(case) not in (None, 2, 3) and case.ours._replace(trap=case.ours.trap - 2) == case.theirs


def _failed_sc(case: Compared) -> bool:
    """No case has a reservation; QEMU then doesn't look at the address."""
    return _funct5(case) == 3 and case.ours.cause == 7 and case.theirs.epc == case.slot + 4


def _sets_read_only(word: int) -> bool:
    """csrrs or csrrc of a register other than x0 to a read-only CSR."""
    return word & 0x7F == SYSTEM and word >> 12 & 7 in (CSRRS, CSRRC) and word >> 15 & 31 != 0 and word >> 30 == 3


def _breakpoint(case: Compared) -> bool:
    return _only_tval(case) and case.ours.cause == 3 and (case.ours.tval, case.theirs.tval) == (case.ours.epc, 0)


def _misaligned(case: Compared) -> bool:
    """QEMU tells the aligned address below the one that was accessed."""
    aligned = [case.ours.tval & -size for size in (2, 4, 8)]
    return _only_tval(case) and case.ours.cause in (5, 7) and case.theirs.tval in aligned


KNOWN = (
    Known(
        "csrrs and csrrc of zero bits to a read-only CSR",
        "Volume I, Zicsr, CSR Instructions: only rs1=x0 makes them not write, a zero in another register does not",
        lambda case: _sets_read_only(case.words[-1]) and case.illegal_at(case.theirs) is None,
    ),
    Known(
        "vstimecmp without the hypervisor extension",
        "Sstc, Hypervisor Extension Behavior: vstimecmp comes with the H extension, which neither machine has",
        lambda case: case.kind == CSR and case.words[-1] >> 20 == VSTIMECMP and case.illegal_at(case.theirs) is None,
    ),
    Known(
        "cause of an AMO's access fault",
        "Volume II, Machine Cause Register: AMOs raise store/AMO access faults (7), not load access faults (5)",
        lambda case: case.ours.cause == 7 and _amo(case),
    ),
    Known(
        "a failing SC to where there is no memory",
        "Volume I, Load-Reserved/Store-Conditional: failing is no exemption from the checks that stores undergo",
        _failed_sc,
    ),
    Known(
        "mtval of a misaligned access",
        "Volume II, Machine Trap Value Register: it is the address of the portion of the access that caused the fault",
        _misaligned,
    ),
    Known(
        "mtval of a breakpoint",
        "Volume II, Machine Trap Value Register: after an EBREAK it may be zero or the address of the instruction",
        _breakpoint,
    ),
    Known(
        "mtval of an illegal instruction",
        "Volume II, Machine Trap Value Register: it optionally holds the faulting instruction's bits, or else zero",
        lambda case: _only_tval(case) and case.ours.cause == 2 and not case.ours.tval,
    ),
)


# ---- running and comparing ------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What has been compared so far."""

    counts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    legal: set[int] = field(default_factory=set)  # words

    def outcome(self) -> Outcome:
        missing = missing_rows(self.legal) if self.counts["encodings executed"] else None
        return Outcome(dict(self.counts), tuple(self.differences[:DIFFERENCES]), dict(self.explained), missing)


def missing_rows(words: Iterable[int]) -> tuple[str, ...]:
    """The rows of the instruction table that are not among `words`."""
    names = {instruction(word) for word in words}
    return tuple(row.name for row in isa.ROWS if row.name not in names)


def execute(cases: Iterable[tuple[int, ...]], context: Context, tally: Tally) -> None:
    """Executes all cases on both machines, image by image, and compares."""
    by_kind: dict[str, list[tuple[int, ...]]] = {name: [] for name in KINDS}
    for words in cases:
        by_kind[kind_of(words[-1])].append(words)
    for name, those in by_kind.items():
        for start in range(0, len(those), PAGE):
            _execute_page(those[start : start + PAGE], context, name, tally)


def _execute_page(cases: Sequence[tuple[int, ...]], context: Context, name: str, tally: Tally) -> None:
    kind = KINDS[name]
    packed = [words[0] | (words[1] << 32 if len(words) > 1 else 0) for words in cases]
    code = image(packed, context, lone=kind.lone, timed=kind.timed, restore=kind.restore)
    legal_words: list[int] = []
    limit = TIMED_LIMIT if kind.timed else LIMIT
    ours = on_vpod(code, length=LENGTH, limit=limit * (len(cases) + DENSE)).memory
    theirs = on_qemu(code, length=LENGTH, seconds=QEMU_SECONDS).memory
    found = zip(cases, records(ours, len(cases)), records(theirs, len(cases)), strict=True)
    for number, (words, mine, yours) in enumerate(found):
        case = Compared(words, name, context, SLOT if kind.lone else SLOT + PITCH * (number % DENSE), mine, yours)
        listed = case.listed
        if listed is None:
            legal_words.append(words[-1])
        if mine != yours or case.illegal_at(mine) != listed:
            _explain(case, listed, tally)
    tally.counts["of them legal"] += len(legal_words)
    tally.legal.update(legal_words)
    tally.counts["encodings executed"] += len(cases)
    if scratch(ours) != scratch(theirs):
        tally.differences.append(f"{context}: the memory that {name} encodings wrote differs")


def _explain(case: Compared, listed: int | None, tally: Tally) -> None:
    """What the listing says must hold; what QEMU says, unless its error is known."""
    if case.illegal_at(case.ours) == listed:
        if _same(case):
            return
        for known in KNOWN:
            if known.applies(case):
                tally.explained[known.name] += 1
                return
    tally.differences.append(str(case))


def _same(case: Compared) -> bool:
    """Whether only that differs which is not compared: see CSR; and when a timer ended a loop."""
    if case.kind == CSR:
        return case.ours._replace(registers=0) == case.theirs._replace(registers=0)
    return case.kind == LOOP and TIMER in (case.ours.cause, case.theirs.cause)


# ---- GNU binutils ---------------------------------------------------------------------------------------------------

NAMES = {isa.OPCODES[row.op]: row.name for row in isa.BASE_ROWS}


def instruction(word: int) -> str | None:
    """The row that the core's decoder makes of `word`; of a compressed one the row that expands to it."""
    name = NAMES.get(decode_word(word)["op"])
    if word & 3 == 3 or name is None:
        return name
    row = isa.find(word)
    return row.name if row and isa.expand(row)[0].name == name else f"{name}, unlike the table's {row and row.name}"


def decode(words: Sequence[int], tally: Tally) -> None:
    """Compares what the core's decoder and binutils make of `words`, all of 16 or all of 32 bits."""
    for word, theirs in zip(words, objdump(words), strict=True):
        ours = instruction(word)
        if ours == theirs:
            continue
        reason = next((known.name for known in KNOWN_NAMES if known.applies(word, ours, theirs)), None)
        if reason is None:
            tally.differences.append(f"{word:#010x}: {ours or 'reserved'}, binutils {theirs or 'reserved'}")
        else:
            tally.explained[reason] += 1
    tally.counts["encodings decoded"] += len(words)


def objdump(words: Sequence[int]) -> Iterator[str | None]:
    """The mnemonic that binutils prints for each word, without ordering and other suffixes; None: reserved."""
    program = shutil.which("riscv64-linux-gnu-objdump")
    if program is None:
        raise RuntimeError("the oracle riscv64-linux-gnu-objdump is missing: apt-get install gcc-riscv64-linux-gnu")
    size = 2 if words[0] & 3 != 3 else 4
    with tempfile.NamedTemporaryFile(prefix="vpod-proof-") as file:
        file.write(b"".join(word.to_bytes(size, "little") for word in words))
        file.flush()
        options = ["-D", "-z", "-b", "binary", "-m", "riscv:rv64", "-M", "no-aliases,priv-spec=1.12"]
        listing = subprocess.run([program, *options, file.name], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ *([0-9a-f]+):\t[0-9a-f]+ *\t(\S+)", listing, re.MULTILINE)
    if len(found) != len(words) or int(found[-1][0], 16) != size * (len(words) - 1):
        raise RuntimeError(f"{program} printed {len(found)} instructions of {len(words)}")
    return (_mnemonic(text) for _, text in found)


def _mnemonic(text: str) -> str | None:
    if text.startswith("."):
        return None
    return MNEMONICS[text] if text in MNEMONICS else re.sub(r"(\.aq|\.rl|\.aqrl)$|(?<=^c\.s[lr][la]i)64$", "", text)


WIDENING = ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu")
MNEMONICS = {"pause": "fence", "fence.tso": "fence", "c.unimp": None}  # fences by another name; all zeros


@dataclass(frozen=True)
class KnownName:
    """What binutils knowingly names otherwise; `why` says where the specification decides."""

    name: str
    why: str
    applies: Callable[[int, str | None, str | None], bool]


KNOWN_NAMES = (
    KnownName(
        "instructions that were never ratified",
        "Volume II, Instruction Set Listings: neither uret, hret and dret nor sfence.vm, which became sfence.vma",
        lambda word, ours, theirs: ours is None and theirs in ("uret", "hret", "dret", "sfence.vm"),
    ),
    KnownName(
        "c.addi16sp by 0",
        "Volume I, RVC Instruction Set Listings: nzimm=0 is reserved",
        lambda word, ours, theirs: ours is None and theirs == "c.addi16sp" and word == 0x6101,
    ),
    KnownName(
        "c.nop with an immediate is printed as c.addi",
        "Volume I, RVC Instruction Set Listings: C.ADDI with rd=x0 and an immediate is C.NOP's hint",
        lambda word, ours, theirs: (ours, theirs) == ("c.nop", "c.addi") and word >> 7 & 31 == 0,
    ),
    KnownName(
        "fences with bits in their reserved fields",
        "Volume I, Memory Ordering Instructions and Zifencei: base implementations ignore fm, rd, rs1 and imm here",
        lambda word, ours, theirs: theirs is None and ours in ("fence", "fence.i") and word & 0xFFFF_8F80 != 0,
    ),
    KnownName(
        "a rounding mode where nothing is rounded",
        "Volume I, Floating-Point Control and Status Register: rm of widening conversions is treated as usual",
        lambda word, ours, theirs: theirs is None and ours in WIDENING and word >> 12 & 7 != 0,
    ),
)


# ---- pieces ---------------------------------------------------------------------------------------------------------

CONTEXTS = {
    "M": Context("M"),
    "S": Context("S"),
    "U": Context("U"),
    "M-off": Context("M", floating=False),
    "U-off": Context("U", floating=False),
    "S-trapped": Context("S", trapped=True),
    **{f"M-frm{frm}": Context("M", frm=frm) for frm in range(1, 8)},
}
EVERY_FRM = "+".join(["M", *(f"M-frm{frm}" for frm in range(1, 8)), "U-off"])
CHUNK = 250_000  # words that binutils prints at a time


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    """The same sweeps in both forms; the long one has more registers and modes, and random words."""
    parts, pairs, decoded = (3, 1, 3) if form == "short" else (15, 4, 1)
    work: list[dict[str, int | str]] = [
        {"sweep": "full", "contexts": "M", "part": part, "parts": parts, "pairs": pairs} for part in range(parts)
    ]
    work += [
        {"sweep": "privileged", "contexts": "M+S+U+S-trapped", "pairs": 4 * pairs},
        {"sweep": "csr", "contexts": "M+S+U+M-off+S-trapped"},
        {"sweep": "compressed", "contexts": "M+S+U+M-off"},
        {"sweep": "rounding", "contexts": EVERY_FRM},
        {"sweep": "decoded", "part": seed % decoded, "parts": decoded},
    ]
    if form == "long":
        others = itertools.product(("S", "U", "M-off"), range(3))
        work += [{"sweep": "full", "contexts": name, "part": part, "parts": 3} for name, part in others]
        work += [{"sweep": "drawn", "contexts": "M+U", "seed": 4 * seed + n, "count": 250_000} for n in range(4)]
        work += [{"sweep": "decoded-drawn", "seed": 4 * seed + n, "count": 3_000_000} for n in range(4)]
    return [Piece("encodings", arguments, 1800) for arguments in work]


def run(
    sweep: str, contexts: str = "", part: int = 0, parts: int = 1, pairs: int = 1, seed: int = 0, count: int = 0
) -> Outcome:
    """One piece: `sweep` in each of `contexts` (names of CONTEXTS, joined by +), or decoded by binutils."""
    tally = Tally()
    if sweep == "decoded":
        _decode_all(itertools.chain(full(part, parts, 1), csr_words()), tally)
        decode([half for half in range(1 << 16) if half & 3 != 3], tally)
        return tally.outcome()
    if sweep == "decoded-drawn":
        _decode_all(drawn(seed, count), tally)
        return tally.outcome()
    sweeps: dict[str, Callable[[], Iterator[int]]] = {
        "full": lambda: full(part, parts, pairs),
        "privileged": lambda: privileged(pairs),
        "compressed": compressed,
        "rounding": rounding,
        "drawn": lambda: drawn(seed, count),
    }
    for context in map(CONTEXTS.__getitem__, contexts.split("+")):
        execute(csr_cases(context) if sweep == "csr" else ((word,) for word in sweeps[sweep]()), context, tally)
    return tally.outcome()


def _decode_all(words: Iterator[int], tally: Tally) -> None:
    """`decode`, a chunk at a time, without the beginnings of longer instructions, which would shift the listing."""
    whole = (word for word in words if word & 31 != 31)
    while chunk := list(itertools.islice(whole, CHUNK)):
        decode(chunk, tally)
