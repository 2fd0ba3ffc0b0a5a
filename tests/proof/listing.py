"""Which encodings are legal, stated once more and apart from `vpod/isa.py`: from the specification's listings, as data.

`legal(word, context)` says whether an instruction may execute in a context (privilege, FS, frm, TVM, TW, TSR) or must
raise an illegal-instruction exception. It is made of tables of major opcodes, functs and CSR numbers, as in the
specification's chapter "RV32/64G Instruction Set Listings", not of patterns, so that an error in the instruction table
is unlikely to be repeated here. Sections are named as in the ratified manuals of 2019 (volume I) and 2021 (volume II).

Invariants: nothing here is imported from `vpod`; a word whose low bits are not 11 is a compressed encoding, and only
its low 16 bits count.

    >>> legal(0x0000_9002, Context("M")), legal(0x0000_0000, Context("M"))           # c.ebreak; all zeros
    (True, False)
    >>> legal(0x3020_0073, Context("M")), legal(0x3020_0073, Context("S"))           # mret
    (True, False)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

LEVELS = {"U": 0, "S": 1, "M": 3}


@dataclass(frozen=True)
class Context:
    """What, beside the encoding, decides whether it is legal. Counters are enabled for all modes, and so is Sstc."""

    mode: str  # a key of LEVELS
    floating: bool = True  # mstatus.FS is not Off
    frm: int = 0
    trapped: bool = False  # mstatus.TVM, TW and TSR are set

    @property
    def level(self) -> int:
        return LEVELS[self.mode]


# ---- compressed: "RVC Instruction Set Listings" ---------------------------------------------------------------------

# What is reserved of the three quadrants: (quadrant, funct3) -> the words among them, and the listing's note.
RESERVED_COMPRESSED: dict[tuple[int, int], tuple[str, Callable[[int], bool]]] = {
    (0, 0): ("C.ADDI4SPN, RES nzuimm=0; all zeros is a defined illegal instruction", lambda w: w >> 5 & 0xFF == 0),
    (0, 4): ("quadrant 0, funct3 100: Reserved", lambda w: True),
    (1, 1): ("C.ADDIW, RES rd=0", lambda w: _rd(w) == 0),
    (1, 3): ("C.ADDI16SP and C.LUI, RES nzimm=0", lambda w: w >> 12 & 1 == 0 and w >> 2 & 31 == 0),
    (1, 4): ("quadrant 1, 100 1 11 --- 1-: Reserved", lambda w: w >> 10 & 7 == 7 and w >> 6 & 1 == 1),
    (2, 2): ("C.LWSP, RES rd=0", lambda w: _rd(w) == 0),
    (2, 3): ("C.LDSP, RES rd=0", lambda w: _rd(w) == 0),
    (2, 4): ("C.JR, RES rs1=0", lambda w: w >> 12 & 1 == 0 and _rd(w) == 0 and w >> 2 & 31 == 0),
}
FLOATING_COMPRESSED = {(0, 1), (0, 5), (2, 1), (2, 5)}  # C.FLD, C.FSD, C.FLDSP, C.FSDSP of RV64


def _rd(word: int) -> int:
    return word >> 7 & 31


def legal_compressed(word: int, context: Context) -> bool:
    """Quadrants 0 to 2; the reserved places are the ones that the listings mark RES or Reserved."""
    place = word & 3, word >> 13 & 7
    if place in FLOATING_COMPRESSED:
        return context.floating
    return place not in RESERVED_COMPRESSED or not RESERVED_COMPRESSED[place][1](word)


# ---- 32 bits wide: "RV32/64G Instruction Set Listings" --------------------------------------------------------------

ALWAYS = {0b0110111: "LUI", 0b0010111: "AUIPC", 0b1101111: "JAL"}

BY_FUNCT3 = {  # opcodes of which funct3 alone decides
    0b1100111: ("JALR", {0}),
    0b1100011: ("BRANCH: 010 and 011 are not assigned", {0, 1, 4, 5, 6, 7}),
    0b0000011: ("LOAD: LB LH LW LD LBU LHU LWU", {0, 1, 2, 3, 4, 5, 6}),
    0b0100011: ("STORE: SB SH SW SD", {0, 1, 2, 3}),
    # "Fences": "Base implementations shall ignore all such reserved fields"; FENCE.I's fields are treated likewise
    0b0001111: ("MISC-MEM: FENCE, FENCE.I", {0, 1}),
}

SHIFTS = {  # OP-IMM and OP-IMM-32: shifts have a funct6 (RV64I) or a funct7 (W forms), the other funct3 an immediate
    0b0010011: (26, {1: {0b000000}, 5: {0b000000, 0b010000}}, {0, 2, 3, 4, 6, 7}),
    0b0011011: (25, {1: {0b0000000}, 5: {0b0000000, 0b0100000}}, {0}),
}

BY_FUNCT7 = {  # OP and OP-32, RV64I and M: funct7 -> funct3
    0b0110011: {0b0000000: set(range(8)), 0b0100000: {0, 5}, 0b0000001: set(range(8))},
    0b0111011: {0b0000000: {0, 1, 5}, 0b0100000: {0, 5}, 0b0000001: {0, 4, 5, 6, 7}},
}

AMO = 0b0101111
AMO_FUNCT5 = {0b00011, 0b00001, 0b00000, 0b00100, 0b01100, 0b01000, 0b10000, 0b10100, 0b11000, 0b11100}
LOAD_RESERVED = 0b00010  # whose rs2 is 0 in the listing
AMO_WIDTHS = {2, 3}

FLOATING_MEMORY = {0b0000111: "LOAD-FP", 0b0100111: "STORE-FP"}
FLOATING_WIDTHS = {2, 3}  # FLW and FSW, FLD and FSD
FUSED = {0b1000011: "MADD", 0b1000111: "MSUB", 0b1001011: "NMSUB", 0b1001111: "NMADD"}
FORMATS = {0, 1}  # "Single-Precision Floating-Point Computational Instructions", the format field: S, D; not H, Q
OP_FP = 0b1010011
ROUNDED: Collection[int] = ()  # in the place of funct3's values: it is the rm field
ANY = range(32)

FLOATING: dict[int, tuple[Collection[int], Collection[int]]] = {  # OP-FP by funct5: the values of rs2, and of funct3
    0b00000: (ANY, ROUNDED),  # FADD
    0b00001: (ANY, ROUNDED),  # FSUB
    0b00010: (ANY, ROUNDED),  # FMUL
    0b00011: (ANY, ROUNDED),  # FDIV
    0b01011: ({0}, ROUNDED),  # FSQRT
    0b00100: (ANY, {0, 1, 2}),  # FSGNJ, FSGNJN, FSGNJX
    0b00101: (ANY, {0, 1}),  # FMIN, FMAX
    0b10100: (ANY, {0, 1, 2}),  # FLE, FLT, FEQ
    0b11000: ({0, 1, 2, 3}, ROUNDED),  # FCVT.W, WU, L, LU from S or D
    0b11010: ({0, 1, 2, 3}, ROUNDED),  # FCVT to S or D from W, WU, L, LU
    0b11100: ({0}, {0, 1}),  # FMV.X.W, FMV.X.D; FCLASS
    0b11110: ({0}, {0}),  # FMV.W.X, FMV.D.X
}
BETWEEN_FORMATS = 0b01000  # FCVT.S.D and FCVT.D.S: rs2 is the other format
RESERVED_ROUNDING = {5, 6}  # "Floating-Point Control and Status Register": 101 and 110 are reserved
DYNAMIC = 7


def _rounding(funct3: int, context: Context) -> bool:
    """A static mode that exists, or the dynamic one while frm holds one; also where the operation is exact anyway."""
    return context.frm < 5 if funct3 == DYNAMIC else funct3 not in RESERVED_ROUNDING


def _floating(word: int, context: Context) -> bool:
    """OP-FP."""
    funct5, form, rs2, funct3 = word >> 27, word >> 25 & 3, word >> 20 & 31, word >> 12 & 7
    if form not in FORMATS:
        return False
    if funct5 == BETWEEN_FORMATS:
        return rs2 == 1 - form and _rounding(funct3, context)
    if funct5 not in FLOATING:
        return False
    seconds, functs = FLOATING[funct5]
    return rs2 in seconds and (_rounding(funct3, context) if functs is ROUNDED else funct3 in functs)


def _atomic(word: int) -> bool:
    if word >> 12 & 7 not in AMO_WIDTHS:
        return False
    funct5 = word >> 27
    return word >> 20 & 31 == 0 if funct5 == LOAD_RESERVED else funct5 in AMO_FUNCT5


# ---- SYSTEM: "RV32/RV64 Zicsr Standard Extension"; volume II, "Instruction Set Listings", "CSR Listing" -------------

SYSTEM = 0b1110011
ECALL, EBREAK, SRET, MRET, WFI = 0x000, 0x001, 0x102, 0x302, 0x105
SFENCE_VMA = 0b0001001

COUNTERS = range(0xC00, 0xC03)  # cycle, time, instret: the ones that mcounteren and scounteren can enable here
CSRS = [  # "Currently allocated RISC-V CSR addresses", those of a machine with F, D, S, U, Sstc and 16 PMP entries
    range(0x001, 0x004),  # fflags, frm, fcsr
    range(0xC00, 0xC20),  # cycle, time, instret, hpmcounter3 to 31
    [0x100, 0x104, 0x105, 0x106, 0x10A],  # sstatus, sie, stvec, scounteren, senvcfg
    range(0x140, 0x145),  # sscratch, sepc, scause, stval, sip
    [0x14D, 0x180],  # stimecmp, satp
    range(0xF11, 0xF16),  # mvendorid, marchid, mimpid, mhartid, mconfigptr
    range(0x300, 0x307),  # mstatus, misa, medeleg, mideleg, mie, mtvec, mcounteren; mstatush is RV32's
    [0x30A],  # menvcfg; menvcfgh is RV32's
    range(0x340, 0x345),  # mscratch, mepc, mcause, mtval, mip
    [0x3A0, 0x3A2],  # "Physical Memory Protection CSRs": on RV64 the odd pmpcfg are illegal
    range(0x3B0, 0x3C0),  # pmpaddr0 to 15
    [0xB00, 0xB02, *range(0xB03, 0xB20)],  # mcycle, minstret, mhpmcounter3 to 31: all are there, if only as zeros
    [0x320, *range(0x323, 0x340)],  # mcountinhibit, mhpmevent3 to 31
]
EXISTING = frozenset(number for numbers in CSRS for number in numbers)
SATP = 0x180


def legal_csr(number: int, writes: bool, context: Context) -> bool:
    """Whether CSR `number` may be read, and written, in `context`: "CSR Address Mapping Conventions"."""
    if number not in EXISTING or context.level < (number >> 8 & 3):
        return False
    if writes and number >> 10 == 3:
        return False
    if number <= 0x003:
        return context.floating
    if number >> 8 == 0xC and context.level < 3:  # an enable bit of a counter that is hardwired to zero is zero
        return number in COUNTERS
    return not (number == SATP and context.level == 1 and context.trapped)


def _system(word: int, context: Context) -> bool:
    funct3, rd, rs1, funct12 = word >> 12 & 7, word >> 7 & 31, word >> 15 & 31, word >> 20
    if funct3 in (1, 2, 3, 5, 6, 7):
        return legal_csr(funct12, funct3 in (1, 5) or rs1 != 0, context)
    if funct3 != 0 or rd != 0:
        return False
    supervisor = context.level == 3 or (context.level == 1 and not context.trapped)
    if word >> 25 == SFENCE_VMA:
        return supervisor
    if rs1 != 0:
        return False
    if funct12 in (SRET, WFI):
        return supervisor
    return funct12 in (ECALL, EBREAK) or (funct12 == MRET and context.level == 3)


def legal_full(word: int, context: Context) -> bool:
    """A 32-bit encoding, or the beginning of a longer one, of which there is none."""
    opcode, funct3, funct7 = word & 0x7F, word >> 12 & 7, word >> 25
    if opcode in ALWAYS:
        return True
    if opcode in BY_FUNCT3:
        return funct3 in BY_FUNCT3[opcode][1]
    if opcode in SHIFTS:
        low, shifts, others = SHIFTS[opcode]
        return word >> low in shifts[funct3] if funct3 in shifts else funct3 in others
    if opcode in BY_FUNCT7:
        return funct3 in BY_FUNCT7[opcode].get(funct7, ())
    if opcode == AMO:
        return _atomic(word)
    if opcode == SYSTEM:
        return _system(word, context)
    if not context.floating:
        return False
    if opcode in FLOATING_MEMORY:
        return funct3 in FLOATING_WIDTHS
    if opcode in FUSED:
        return word >> 25 & 3 in FORMATS and _rounding(funct3, context)
    return opcode == OP_FP and _floating(word, context)


def legal(word: int, context: Context) -> bool:
    """Whether the instruction at the beginning of `word` is legal in `context`."""
    return legal_full(word, context) if word & 3 == 3 else legal_compressed(word & 0xFFFF, context)
