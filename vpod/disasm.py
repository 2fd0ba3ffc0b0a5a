"""The disassembler and its inverse, made from the rows of `isa.py`.

For tests, debugging and error messages; nothing in the run of a machine depends on it. The text is the specification's
canonical form without pseudo-instructions (but `pause` and `fence.tso`, whose encodings are fences): ABI register
names, decimal immediates, hexadecimal upper immediates and addresses. Invariant: for every row, `encode` of the fields
of a word gives the word back, ignored bits aside.

    >>> disassemble(0x00A5_8533)
    'add a0, a1, a0'
    >>> disassemble(0xFE0514E3, pc=0x8000_0010)
    'bne a0, zero, 0x7ffffff8'
    >>> hex(encode("sd", rs2="ra", rs1="sp", imm=8))
    '0x113423'
"""

from __future__ import annotations

import re

from vpod import isa
from vpod.isa import Row

X_NAMES = (
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5",
    "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
)  # fmt: skip
F_NAMES = (
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
    "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
)  # fmt: skip
REGISTERS: dict[str, int] = {name: number for names in (X_NAMES, F_NAMES) for number, name in enumerate(names)}

ROUNDING_MODES = ("rne", "rtz", "rdn", "rup", "rmm", "rm5", "rm6", "dyn")  # rm5 and rm6 are reserved
DYNAMIC = 7

CSR_NAMES: dict[int, str] = {
    0x001: "fflags", 0x002: "frm", 0x003: "fcsr", 0xC00: "cycle", 0xC01: "time", 0xC02: "instret",
    0x100: "sstatus", 0x104: "sie", 0x105: "stvec", 0x106: "scounteren", 0x10A: "senvcfg",
    0x140: "sscratch", 0x141: "sepc", 0x142: "scause", 0x143: "stval", 0x144: "sip", 0x14D: "stimecmp", 0x180: "satp",
    0x300: "mstatus", 0x301: "misa", 0x302: "medeleg", 0x303: "mideleg", 0x304: "mie", 0x305: "mtvec",
    0x306: "mcounteren", 0x30A: "menvcfg", 0x320: "mcountinhibit",
    0x340: "mscratch", 0x341: "mepc", 0x342: "mcause", 0x343: "mtval", 0x344: "mip",
    0xB00: "mcycle", 0xB02: "minstret",
    0xF11: "mvendorid", 0xF12: "marchid", 0xF13: "mimpid", 0xF14: "mhartid", 0xF15: "mconfigptr",
    **{0xC00 + n: f"hpmcounter{n}" for n in range(3, 32)},
    **{0xB00 + n: f"mhpmcounter{n}" for n in range(3, 32)},
    **{0x320 + n: f"mhpmevent{n}" for n in range(3, 32)},
    **{0x3A0 + n: f"pmpcfg{n}" for n in range(0, 16, 2)},
    **{0x3B0 + n: f"pmpaddr{n}" for n in range(64)},
}  # fmt: skip

FENCE_TSO = 0x833  # fm, pred and succ of fence.tso
PAUSE = 0x010  # Zihintpause: a fence with pred=w and succ empty


def _fence_set(bits: int) -> str:
    return "".join(letter for letter, bit in zip("iorw", (8, 4, 2, 1), strict=True) if bits & bit) or "0"


def _operand(operand: str, value: int, pc: int | None) -> str:
    """The text of one operand whose field holds `value`."""
    if operand in ("rd", "rs1", "rs2", "rs3"):
        return X_NAMES[value]
    if operand in ("fd", "fs1", "fs2", "fs3"):
        return F_NAMES[value]
    match operand:
        case "rm":
            return ROUNDING_MODES[value]
        case "csr":
            return CSR_NAMES.get(value, f"{value:#x}")
        case "upper":
            return f"{value >> 12 & 0xFFFFF:#x}"
        case "target":
            return f".{value:+d}" if pc is None else f"{pc + value & 0xFFFF_FFFF_FFFF_FFFF:#x}"
        case "pred":
            return _fence_set(value >> 4 & 15)
        case "succ":
            return _fence_set(value & 15)
    return str(value)


def _default_rm(row: Row) -> int:
    """The rounding mode that the text leaves out."""
    return 0 if "exact" in row.flags else DYNAMIC


def _fence(word: int) -> str:
    bits = word >> 20 & 0xFFF
    if bits in (FENCE_TSO, PAUSE):
        return "fence.tso" if bits == FENCE_TSO else "pause"
    reserved = f", fm={bits >> 8}" if bits >> 8 else ""
    return f"fence {_fence_set(bits >> 4 & 15)}, {_fence_set(bits & 15)}{reserved}"


def disassemble(word: int, pc: int | None = None) -> str:
    """The assembly text of `word`; of a reserved encoding `.half 0x...` or `.word 0x...`.

    `word` holds the instruction in its low 16 or 32 bits. With `pc`, targets of jumps and branches are addresses;
    without, offsets such as `.+8` from the instruction.
    """
    row = isa.find(word)
    if row is None:
        return f".half {word & 0xFFFF:#06x}" if isa.length(word) == 2 else f".word {word & 0xFFFF_FFFF:#010x}"
    if row.name == "fence":
        return _fence(word)
    name, syntax = row.name, row.syntax
    if "atomic" in row.flags:
        name += ("", ".rl", ".aq", ".aqrl")[row.take("imm", word)]
    if "rm" in row.fields and row.take("rm", word) == _default_rm(row):
        syntax = syntax.removesuffix(", rm")
    if name == "c.nop" and not row.take("imm", word):
        syntax = ""

    def text(found: re.Match[str]) -> str:
        operand = found[0]
        if operand not in isa.FIELD_OF_OPERAND:
            return X_NAMES[int(operand[1:])]  # a register that the instruction names by itself: x2
        return _operand(operand, row.take(isa.FIELD_OF_OPERAND[operand], word), pc)

    return f"{name} {re.sub(r'[a-z]+[0-9]?', text, syntax)}".rstrip()


def encode(name: str, **operands: int | str) -> int:
    """The word of the instruction `name` with these operands: the inverse of `isa.decode` on the row's own fields.

    The operands are the row's fields: `rd`, `rs1`, `rs2`, `rs3` (numbers, or names such as "a0" and "fa0"), `rm` (a
    number or a name; by default the one that assemblers write), and `imm` in the units of `isa.Decoded` (byte offsets,
    shifted upper immediates, a CSR number, aq << 1 | rl, which is 0 by default).
    Raises ValueError where an operand is missing, unknown, out of range or misaligned, or the encoding is reserved.
    """
    row = isa.BY_NAME.get(name)
    if row is None:
        raise ValueError(f"{name!r} is not an instruction of RV64GC")
    if unknown := operands.keys() - row.fields.keys():
        raise ValueError(
            f"{name} has no operand {', '.join(sorted(unknown))}; it has {', '.join(row.fields) or 'none'}"
        )
    defaults: dict[str, int | str] = {"rm": _default_rm(row)}
    if "atomic" in row.flags:
        defaults["imm"] = 0
    word = row.match
    for field, slices in row.fields.items():
        value = operands.get(field, defaults.get(field))
        if value is None:
            raise ValueError(f"{name} needs the operand {field}")
        if isinstance(value, str):
            value = _number(name, field, value)
        bits = 0
        for part in slices:
            bits |= part.put(value - row.bias(field))
        if row.take(field, bits) != value:
            raise ValueError(f"{name}: {field}={value} does not fit the encoding")
        word |= bits
    if not row.matches(word):
        forbidden = " and ".join(f"{field} other than {value}" for field, value in row.where)
        raise ValueError(f"{name} needs {forbidden}")
    return word


def _number(name: str, field: str, value: str) -> int:
    """The number of the register or rounding mode that is called `value`."""
    if field == "rm" and value in ROUNDING_MODES:
        return ROUNDING_MODES.index(value)
    if field != "imm" and value in REGISTERS:
        return REGISTERS[value]
    raise ValueError(f"{name}: {field}={value!r} is neither a number nor a name of the ABI")
