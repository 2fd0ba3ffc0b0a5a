"""The instruction table: one row for each instruction of RV64GC, and everything else is made from it.

The decoder (`isagen.py` writes `_decode.pxd`), the disassembler and encoder (`disasm.py`), the opcode names of the
interpreter and the translator, and the parameters of the tests all come from `ROWS`. What an instruction *does* is not
here: that is one arm of the interpreter.

A row reads like the tables of the specification (The RISC-V Instruction Set Manual, volume I, "RV32/64G Instruction Set
Listings" and the RVC listings; volume II for the privileged ones). Its pattern is drawn from bit 31 (or 15) down to 0:

    0 1    bits that must be so            d  rd          m  rm, the rounding mode
    i      bits of the immediate           s  rs1         r  rs3
    .      bits that are ignored           t  rs2

A register field of three bits in a compressed instruction means x8 to x15. The immediate's bits stand in the order of
the specification's own notation: `imm[12|10:5|4:1|11]` says which bit of the value each `i` is, left to right; `uimm`
is zero-extended, `imm` sign-extended. A compressed row also says which base instruction it *expands* to, in assembly,
and *where* it is valid; outside that the encoding is another row's or reserved. Hints are ordinary rows: they compute
into x0.

Invariants, which `tests/test_isa.py` proves: at most one row matches any word; the base rows' order is the numbering of
the opcodes; flags come from the format unless the row adds some.

    >>> insn = decode(0x00A5_8533)
    >>> insn.base.name, insn.rd, insn.rs1, insn.rs2
    ('add', 10, 11, 10)
    >>> decode(0x4505).base.name, decode(0x4505).row.name          # c.li a0, 1
    ('addi', 'c.li')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

X0_SINK = 32  # the destination that stands for x0, and for no destination: see _hart.pxd


@dataclass(frozen=True)
class Slice:
    """A run of bits: `width` bits of the instruction from bit `low` are those of the value from bit `to`."""

    low: int
    width: int
    to: int

    def take(self, word: int) -> int:
        """These bits of the value, taken out of `word`."""
        return (word >> self.low & (1 << self.width) - 1) << self.to

    def put(self, value: int) -> int:
        """These bits of `value`, where they stand in the instruction."""
        return (value >> self.to & (1 << self.width) - 1) << self.low


@dataclass(frozen=True)
class Format:
    """What instructions of one format share: assembly operands, layout of the immediate, flags.

    The operand names: `rd rs1 rs2 rs3` are integer registers, `fd fs1 fs2 fs3` floating-point ones, `imm` a number,
    `shamt` a shift amount, `upper` an immediate shown without its low 12 bits, `target` an offset from the instruction,
    `csr` a CSR's number, `uimm` a number in the place of rs1, `rm` a rounding mode, `pred` and `succ` a fence's sets.
    """

    syntax: str
    immediate: str = ""
    flags: str = ""


FORMATS = {
    "none": Format(""),
    "R": Format("rd, rs1, rs2"),
    "I": Format("rd, rs1, imm", "imm[11:0]"),
    "shift": Format("rd, rs1, shamt", "uimm[5:0]"),
    "shiftw": Format("rd, rs1, shamt", "uimm[4:0]"),
    "U": Format("rd, upper", "imm[31:12]"),
    "J": Format("rd, target", "imm[20|10:1|11|19:12]", "jump ends_block"),
    "jalr": Format("rd, imm(rs1)", "imm[11:0]", "jump indirect ends_block"),
    "B": Format("rs1, rs2, target", "imm[12|10:5|4:1|11]", "branch ends_block"),
    "load": Format("rd, imm(rs1)", "imm[11:0]", "load"),
    "store": Format("rs2, imm(rs1)", "imm[11:5|4:0]", "store"),
    "fence": Format("pred, succ", "uimm[11:0]", "fence"),
    "csr": Format("rd, csr, rs1", "uimm[11:0]", "csr ends_block"),
    "csri": Format("rd, csr, uimm", "uimm[11:0]", "csr ends_block"),
    "system": Format("", "", "system ends_block"),
    "sfence": Format("rs1, rs2", "", "system ends_block"),
    "lr": Format("rd, (rs1)", "uimm[1:0]", "atomic load"),  # imm is aq << 1 | rl
    "sc": Format("rd, rs2, (rs1)", "uimm[1:0]", "atomic store"),
    "amo": Format("rd, rs2, (rs1)", "uimm[1:0]", "atomic load store"),
    "fload": Format("fd, imm(rs1)", "imm[11:0]", "fp load"),
    "fstore": Format("fs2, imm(rs1)", "imm[11:5|4:0]", "fp store"),
    "fff": Format("fd, fs1, fs2", "", "fp"),
    "fff.rm": Format("fd, fs1, fs2, rm", "", "fp"),
    "ffff.rm": Format("fd, fs1, fs2, fs3, rm", "", "fp"),
    "ff.rm": Format("fd, fs1, rm", "", "fp"),
    "xff": Format("rd, fs1, fs2", "", "fp"),
    "xf": Format("rd, fs1", "", "fp"),
    "xf.rm": Format("rd, fs1, rm", "", "fp"),
    "fx": Format("fd, rs1", "", "fp"),
    "fx.rm": Format("fd, rs1, rm", "", "fp"),
}

# name | pattern | format | further flags
BASE = """
[I]
lui       | iiiiiiiiiiiiiiiiiiii ddddd 0110111      | U
auipc     | iiiiiiiiiiiiiiiiiiii ddddd 0010111      | U
jal       | iiiiiiiiiiiiiiiiiiii ddddd 1101111      | J
jalr      | iiiiiiiiiiii sssss 000 ddddd 1100111    | jalr
beq       | iiiiiii ttttt sssss 000 iiiii 1100011   | B
bne       | iiiiiii ttttt sssss 001 iiiii 1100011   | B
blt       | iiiiiii ttttt sssss 100 iiiii 1100011   | B
bge       | iiiiiii ttttt sssss 101 iiiii 1100011   | B
bltu      | iiiiiii ttttt sssss 110 iiiii 1100011   | B
bgeu      | iiiiiii ttttt sssss 111 iiiii 1100011   | B
lb        | iiiiiiiiiiii sssss 000 ddddd 0000011    | load
lh        | iiiiiiiiiiii sssss 001 ddddd 0000011    | load
lw        | iiiiiiiiiiii sssss 010 ddddd 0000011    | load
ld        | iiiiiiiiiiii sssss 011 ddddd 0000011    | load
lbu       | iiiiiiiiiiii sssss 100 ddddd 0000011    | load
lhu       | iiiiiiiiiiii sssss 101 ddddd 0000011    | load
lwu       | iiiiiiiiiiii sssss 110 ddddd 0000011    | load
sb        | iiiiiii ttttt sssss 000 iiiii 0100011   | store
sh        | iiiiiii ttttt sssss 001 iiiii 0100011   | store
sw        | iiiiiii ttttt sssss 010 iiiii 0100011   | store
sd        | iiiiiii ttttt sssss 011 iiiii 0100011   | store
addi      | iiiiiiiiiiii sssss 000 ddddd 0010011    | I
slti      | iiiiiiiiiiii sssss 010 ddddd 0010011    | I
sltiu     | iiiiiiiiiiii sssss 011 ddddd 0010011    | I
xori      | iiiiiiiiiiii sssss 100 ddddd 0010011    | I
ori       | iiiiiiiiiiii sssss 110 ddddd 0010011    | I
andi      | iiiiiiiiiiii sssss 111 ddddd 0010011    | I
slli      | 000000 iiiiii sssss 001 ddddd 0010011   | shift
srli      | 000000 iiiiii sssss 101 ddddd 0010011   | shift
srai      | 010000 iiiiii sssss 101 ddddd 0010011   | shift
add       | 0000000 ttttt sssss 000 ddddd 0110011   | R
sub       | 0100000 ttttt sssss 000 ddddd 0110011   | R
sll       | 0000000 ttttt sssss 001 ddddd 0110011   | R
slt       | 0000000 ttttt sssss 010 ddddd 0110011   | R
sltu      | 0000000 ttttt sssss 011 ddddd 0110011   | R
xor       | 0000000 ttttt sssss 100 ddddd 0110011   | R
srl       | 0000000 ttttt sssss 101 ddddd 0110011   | R
sra       | 0100000 ttttt sssss 101 ddddd 0110011   | R
or        | 0000000 ttttt sssss 110 ddddd 0110011   | R
and       | 0000000 ttttt sssss 111 ddddd 0110011   | R
addiw     | iiiiiiiiiiii sssss 000 ddddd 0011011    | I
slliw     | 0000000 iiiii sssss 001 ddddd 0011011   | shiftw
srliw     | 0000000 iiiii sssss 101 ddddd 0011011   | shiftw
sraiw     | 0100000 iiiii sssss 101 ddddd 0011011   | shiftw
addw      | 0000000 ttttt sssss 000 ddddd 0111011   | R
subw      | 0100000 ttttt sssss 000 ddddd 0111011   | R
sllw      | 0000000 ttttt sssss 001 ddddd 0111011   | R
srlw      | 0000000 ttttt sssss 101 ddddd 0111011   | R
sraw      | 0100000 ttttt sssss 101 ddddd 0111011   | R
fence     | iiiiiiiiiiii ..... 000 ..... 0001111    | fence
ecall     | 000000000000 00000 000 00000 1110011    | system
ebreak    | 000000000001 00000 000 00000 1110011    | system
[Zifencei]
fence.i   | ............ ..... 001 ..... 0001111    | none    | fence ends_block
[Zicsr]
csrrw     | iiiiiiiiiiii sssss 001 ddddd 1110011    | csr
csrrs     | iiiiiiiiiiii sssss 010 ddddd 1110011    | csr
csrrc     | iiiiiiiiiiii sssss 011 ddddd 1110011    | csr
csrrwi    | iiiiiiiiiiii sssss 101 ddddd 1110011    | csri
csrrsi    | iiiiiiiiiiii sssss 110 ddddd 1110011    | csri
csrrci    | iiiiiiiiiiii sssss 111 ddddd 1110011    | csri
[Privileged]
sret      | 000100000010 00000 000 00000 1110011    | system
mret      | 001100000010 00000 000 00000 1110011    | system
wfi       | 000100000101 00000 000 00000 1110011    | system
sfence.vma| 0001001 ttttt sssss 000 00000 1110011   | sfence
[M]
mul       | 0000001 ttttt sssss 000 ddddd 0110011   | R
mulh      | 0000001 ttttt sssss 001 ddddd 0110011   | R
mulhsu    | 0000001 ttttt sssss 010 ddddd 0110011   | R
mulhu     | 0000001 ttttt sssss 011 ddddd 0110011   | R
div       | 0000001 ttttt sssss 100 ddddd 0110011   | R
divu      | 0000001 ttttt sssss 101 ddddd 0110011   | R
rem       | 0000001 ttttt sssss 110 ddddd 0110011   | R
remu      | 0000001 ttttt sssss 111 ddddd 0110011   | R
mulw      | 0000001 ttttt sssss 000 ddddd 0111011   | R
divw      | 0000001 ttttt sssss 100 ddddd 0111011   | R
divuw     | 0000001 ttttt sssss 101 ddddd 0111011   | R
remw      | 0000001 ttttt sssss 110 ddddd 0111011   | R
remuw     | 0000001 ttttt sssss 111 ddddd 0111011   | R
[A]
lr.w      | 00010 ii 00000 sssss 010 ddddd 0101111  | lr
sc.w      | 00011 ii ttttt sssss 010 ddddd 0101111  | sc
amoswap.w | 00001 ii ttttt sssss 010 ddddd 0101111  | amo
amoadd.w  | 00000 ii ttttt sssss 010 ddddd 0101111  | amo
amoxor.w  | 00100 ii ttttt sssss 010 ddddd 0101111  | amo
amoand.w  | 01100 ii ttttt sssss 010 ddddd 0101111  | amo
amoor.w   | 01000 ii ttttt sssss 010 ddddd 0101111  | amo
amomin.w  | 10000 ii ttttt sssss 010 ddddd 0101111  | amo
amomax.w  | 10100 ii ttttt sssss 010 ddddd 0101111  | amo
amominu.w | 11000 ii ttttt sssss 010 ddddd 0101111  | amo
amomaxu.w | 11100 ii ttttt sssss 010 ddddd 0101111  | amo
lr.d      | 00010 ii 00000 sssss 011 ddddd 0101111  | lr
sc.d      | 00011 ii ttttt sssss 011 ddddd 0101111  | sc
amoswap.d | 00001 ii ttttt sssss 011 ddddd 0101111  | amo
amoadd.d  | 00000 ii ttttt sssss 011 ddddd 0101111  | amo
amoxor.d  | 00100 ii ttttt sssss 011 ddddd 0101111  | amo
amoand.d  | 01100 ii ttttt sssss 011 ddddd 0101111  | amo
amoor.d   | 01000 ii ttttt sssss 011 ddddd 0101111  | amo
amomin.d  | 10000 ii ttttt sssss 011 ddddd 0101111  | amo
amomax.d  | 10100 ii ttttt sssss 011 ddddd 0101111  | amo
amominu.d | 11000 ii ttttt sssss 011 ddddd 0101111  | amo
amomaxu.d | 11100 ii ttttt sssss 011 ddddd 0101111  | amo
[F]
flw       | iiiiiiiiiiii sssss 010 ddddd 0000111    | fload
fsw       | iiiiiii ttttt sssss 010 iiiii 0100111   | fstore
fmadd.s   | rrrrr 00 ttttt sssss mmm ddddd 1000011  | ffff.rm
fmsub.s   | rrrrr 00 ttttt sssss mmm ddddd 1000111  | ffff.rm
fnmsub.s  | rrrrr 00 ttttt sssss mmm ddddd 1001011  | ffff.rm
fnmadd.s  | rrrrr 00 ttttt sssss mmm ddddd 1001111  | ffff.rm
fadd.s    | 0000000 ttttt sssss mmm ddddd 1010011   | fff.rm
fsub.s    | 0000100 ttttt sssss mmm ddddd 1010011   | fff.rm
fmul.s    | 0001000 ttttt sssss mmm ddddd 1010011   | fff.rm
fdiv.s    | 0001100 ttttt sssss mmm ddddd 1010011   | fff.rm
fsqrt.s   | 0101100 00000 sssss mmm ddddd 1010011   | ff.rm
fsgnj.s   | 0010000 ttttt sssss 000 ddddd 1010011   | fff
fsgnjn.s  | 0010000 ttttt sssss 001 ddddd 1010011   | fff
fsgnjx.s  | 0010000 ttttt sssss 010 ddddd 1010011   | fff
fmin.s    | 0010100 ttttt sssss 000 ddddd 1010011   | fff
fmax.s    | 0010100 ttttt sssss 001 ddddd 1010011   | fff
fcvt.w.s  | 1100000 00000 sssss mmm ddddd 1010011   | xf.rm
fcvt.wu.s | 1100000 00001 sssss mmm ddddd 1010011   | xf.rm
fcvt.l.s  | 1100000 00010 sssss mmm ddddd 1010011   | xf.rm
fcvt.lu.s | 1100000 00011 sssss mmm ddddd 1010011   | xf.rm
fmv.x.w   | 1110000 00000 sssss 000 ddddd 1010011   | xf
feq.s     | 1010000 ttttt sssss 010 ddddd 1010011   | xff
flt.s     | 1010000 ttttt sssss 001 ddddd 1010011   | xff
fle.s     | 1010000 ttttt sssss 000 ddddd 1010011   | xff
fclass.s  | 1110000 00000 sssss 001 ddddd 1010011   | xf
fcvt.s.w  | 1101000 00000 sssss mmm ddddd 1010011   | fx.rm
fcvt.s.wu | 1101000 00001 sssss mmm ddddd 1010011   | fx.rm
fcvt.s.l  | 1101000 00010 sssss mmm ddddd 1010011   | fx.rm
fcvt.s.lu | 1101000 00011 sssss mmm ddddd 1010011   | fx.rm
fmv.w.x   | 1111000 00000 sssss 000 ddddd 1010011   | fx
[D]
fld       | iiiiiiiiiiii sssss 011 ddddd 0000111    | fload
fsd       | iiiiiii ttttt sssss 011 iiiii 0100111   | fstore
fmadd.d   | rrrrr 01 ttttt sssss mmm ddddd 1000011  | ffff.rm
fmsub.d   | rrrrr 01 ttttt sssss mmm ddddd 1000111  | ffff.rm
fnmsub.d  | rrrrr 01 ttttt sssss mmm ddddd 1001011  | ffff.rm
fnmadd.d  | rrrrr 01 ttttt sssss mmm ddddd 1001111  | ffff.rm
fadd.d    | 0000001 ttttt sssss mmm ddddd 1010011   | fff.rm
fsub.d    | 0000101 ttttt sssss mmm ddddd 1010011   | fff.rm
fmul.d    | 0001001 ttttt sssss mmm ddddd 1010011   | fff.rm
fdiv.d    | 0001101 ttttt sssss mmm ddddd 1010011   | fff.rm
fsqrt.d   | 0101101 00000 sssss mmm ddddd 1010011   | ff.rm
fsgnj.d   | 0010001 ttttt sssss 000 ddddd 1010011   | fff
fsgnjn.d  | 0010001 ttttt sssss 001 ddddd 1010011   | fff
fsgnjx.d  | 0010001 ttttt sssss 010 ddddd 1010011   | fff
fmin.d    | 0010101 ttttt sssss 000 ddddd 1010011   | fff
fmax.d    | 0010101 ttttt sssss 001 ddddd 1010011   | fff
fcvt.s.d  | 0100000 00001 sssss mmm ddddd 1010011   | ff.rm
fcvt.d.s  | 0100001 00000 sssss mmm ddddd 1010011   | ff.rm   | exact
feq.d     | 1010001 ttttt sssss 010 ddddd 1010011   | xff
flt.d     | 1010001 ttttt sssss 001 ddddd 1010011   | xff
fle.d     | 1010001 ttttt sssss 000 ddddd 1010011   | xff
fclass.d  | 1110001 00000 sssss 001 ddddd 1010011   | xf
fcvt.w.d  | 1100001 00000 sssss mmm ddddd 1010011   | xf.rm
fcvt.wu.d | 1100001 00001 sssss mmm ddddd 1010011   | xf.rm
fcvt.l.d  | 1100001 00010 sssss mmm ddddd 1010011   | xf.rm
fcvt.lu.d | 1100001 00011 sssss mmm ddddd 1010011   | xf.rm
fmv.x.d   | 1110001 00000 sssss 000 ddddd 1010011   | xf
fcvt.d.w  | 1101001 00000 sssss mmm ddddd 1010011   | fx.rm   | exact
fcvt.d.wu | 1101001 00001 sssss mmm ddddd 1010011   | fx.rm   | exact
fcvt.d.l  | 1101001 00010 sssss mmm ddddd 1010011   | fx.rm
fcvt.d.lu | 1101001 00011 sssss mmm ddddd 1010011   | fx.rm
fmv.d.x   | 1111001 00000 sssss 000 ddddd 1010011   | fx
"""

# name | pattern | operands | immediate | valid where | expands to
COMPRESSED = """
c.addi4spn | 000 iiiiiiii ddd 00      | rd, x2, imm   | uimm[5:4|9:6|2|3]          | imm!=0       | addi rd, x2, imm
c.fld      | 001 iii sss ii ddd 00    | fd, imm(rs1)  | uimm[5:3|7:6]              |              | fld fd, imm(rs1)
c.lw       | 010 iii sss ii ddd 00    | rd, imm(rs1)  | uimm[5:3|2|6]              |              | lw rd, imm(rs1)
c.ld       | 011 iii sss ii ddd 00    | rd, imm(rs1)  | uimm[5:3|7:6]              |              | ld rd, imm(rs1)
c.fsd      | 101 iii sss ii ttt 00    | fs2, imm(rs1) | uimm[5:3|7:6]              |              | fsd fs2, imm(rs1)
c.sw       | 110 iii sss ii ttt 00    | rs2, imm(rs1) | uimm[5:3|2|6]              |              | sw rs2, imm(rs1)
c.sd       | 111 iii sss ii ttt 00    | rs2, imm(rs1) | uimm[5:3|7:6]              |              | sd rs2, imm(rs1)
c.nop      | 000 i 00000 iiiii 01     | imm           | imm[5|4:0]                 |              | addi x0, x0, imm
c.addi     | 000 i ddddd iiiii 01     | rd, imm       | imm[5|4:0]                 | rd!=0        | addi rd, rd, imm
c.addiw    | 001 i ddddd iiiii 01     | rd, imm       | imm[5|4:0]                 | rd!=0        | addiw rd, rd, imm
c.li       | 010 i ddddd iiiii 01     | rd, imm       | imm[5|4:0]                 |              | addi rd, x0, imm
c.addi16sp | 011 i 00010 iiiii 01     | x2, imm       | imm[9|4|6|8:7|5]           | imm!=0       | addi x2, x2, imm
c.lui      | 011 i ddddd iiiii 01     | rd, upper     | imm[17|16:12]              | rd!=2 imm!=0 | lui rd, imm
c.srli     | 100 i 00 ddd iiiii 01    | rd, shamt     | uimm[5|4:0]                |              | srli rd, rd, imm
c.srai     | 100 i 01 ddd iiiii 01    | rd, shamt     | uimm[5|4:0]                |              | srai rd, rd, imm
c.andi     | 100 i 10 ddd iiiii 01    | rd, imm       | imm[5|4:0]                 |              | andi rd, rd, imm
c.sub      | 100 0 11 ddd 00 ttt 01   | rd, rs2       |                            |              | sub rd, rd, rs2
c.xor      | 100 0 11 ddd 01 ttt 01   | rd, rs2       |                            |              | xor rd, rd, rs2
c.or       | 100 0 11 ddd 10 ttt 01   | rd, rs2       |                            |              | or rd, rd, rs2
c.and      | 100 0 11 ddd 11 ttt 01   | rd, rs2       |                            |              | and rd, rd, rs2
c.subw     | 100 1 11 ddd 00 ttt 01   | rd, rs2       |                            |              | subw rd, rd, rs2
c.addw     | 100 1 11 ddd 01 ttt 01   | rd, rs2       |                            |              | addw rd, rd, rs2
c.j        | 101 iiiiiiiiiii 01       | target        | imm[11|4|9:8|10|6|7|3:1|5] |              | jal x0, imm
c.beqz     | 110 iii sss iiiii 01     | rs1, target   | imm[8|4:3|7:6|2:1|5]       |              | beq rs1, x0, imm
c.bnez     | 111 iii sss iiiii 01     | rs1, target   | imm[8|4:3|7:6|2:1|5]       |              | bne rs1, x0, imm
c.slli     | 000 i ddddd iiiii 10     | rd, shamt     | uimm[5|4:0]                |              | slli rd, rd, imm
c.fldsp    | 001 i ddddd iiiii 10     | fd, imm(x2)   | uimm[5|4:3|8:6]            |              | fld fd, imm(x2)
c.lwsp     | 010 i ddddd iiiii 10     | rd, imm(x2)   | uimm[5|4:2|7:6]            | rd!=0        | lw rd, imm(x2)
c.ldsp     | 011 i ddddd iiiii 10     | rd, imm(x2)   | uimm[5|4:3|8:6]            | rd!=0        | ld rd, imm(x2)
c.jr       | 100 0 sssss 00000 10     | rs1           |                            | rs1!=0       | jalr x0, 0(rs1)
c.mv       | 100 0 ddddd ttttt 10     | rd, rs2       |                            | rs2!=0       | add rd, x0, rs2
c.ebreak   | 100 1 00000 00000 10     |               |                            |              | ebreak
c.jalr     | 100 1 sssss 00000 10     | rs1           |                            | rs1!=0       | jalr x1, 0(rs1)
c.add      | 100 1 ddddd ttttt 10     | rd, rs2       |                            | rs2!=0       | add rd, rd, rs2
c.fsdsp    | 101 iiiiii ttttt 10      | fs2, imm(x2)  | uimm[5:3|8:6]              |              | fsd fs2, imm(x2)
c.swsp     | 110 iiiiii ttttt 10      | rs2, imm(x2)  | uimm[5:2|7:6]              |              | sw rs2, imm(x2)
c.sdsp     | 111 iiiiii ttttt 10      | rs2, imm(x2)  | uimm[5:3|8:6]              |              | sd rs2, imm(x2)
"""

FIELD_OF_LETTER = {"d": "rd", "s": "rs1", "t": "rs2", "r": "rs3", "m": "rm"}

# which field of the instruction an operand stands in
FIELD_OF_OPERAND = {
    "rd": "rd", "rs1": "rs1", "rs2": "rs2", "rs3": "rs3", "fd": "rd", "fs1": "rs1", "fs2": "rs2", "fs3": "rs3",
    "imm": "imm", "shamt": "imm", "upper": "imm", "target": "imm", "csr": "imm", "uimm": "rs1", "rm": "rm",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One instruction: what its encoding is, how it is written, and which kinds of instruction it belongs to.

    `mask` and `match` are the pattern's fixed bits: the row is that of `word` when `word & mask == match` and `where`
    holds. `fields` says where each of rd, rs1, rs2, rs3, rm and imm stands.

    The flags: `load`, `store`, `atomic`, `branch` (conditional), `jump`, `indirect` (a jump to a register), `csr`,
    `fence`, `system`, `fp`, `rounds` (has an rm field), `exact` (has one, but never rounds; assemblers write 0 there),
    `writes_x`, `writes_f`, and `ends_block`: the core's decoded blocks stop after it, because it may go elsewhere or
    change how the next instruction is fetched or executed. A compressed row's `writes_x` and `writes_f` speak of its
    written operands; what it does is for its base row's flags to say.
    """

    name: str
    extension: str
    format: str  # a name of FORMATS; empty for compressed rows
    pattern: str
    syntax: str
    flags: frozenset[str]
    mask: int
    match: int
    length: int  # bytes: 2 or 4
    fields: dict[str, tuple[Slice, ...]]
    signed: bool
    where: tuple[tuple[str, int], ...] = ()  # (field, value that it must not have)
    expansion: str = ""

    @property
    def op(self) -> str:
        """The name of the opcode in the generated `enum Op`: `OP_FADD_D`."""
        return "OP_" + self.name.upper().replace(".", "_")

    @property
    def operands(self) -> list[str]:
        """The names of the operands, in the order of the assembly text."""
        return re.findall(r"\w+", self.syntax)

    def bias(self, field: str) -> int:
        """What is added to a register field's bits: 8 where a compressed instruction has three of them."""
        return 8 if self.length == 2 and field in ("rd", "rs1", "rs2") and self.fields[field][0].width == 3 else 0

    def take(self, field: str, word: int) -> int:
        """The value of `field` in `word`: a register's number, a rounding mode, or the extended immediate."""
        slices = self.fields[field]
        value = sum(part.take(word) for part in slices) + self.bias(field)
        if field == "imm" and self.signed:
            sign = 1 << max(part.to + part.width for part in slices) - 1
            value = (value ^ sign) - sign
        return value

    def matches(self, word: int) -> bool:
        """Whether `word` (16 or 32 bits, by `length`) is this instruction."""
        return word & self.mask == self.match and all(self.take(field, word) != value for field, value in self.where)


@dataclass(frozen=True)
class Decoded:
    """One decoded instruction, field for field what the core's `Insn` holds (see `_hart.pxd`).

    `rd` is `X0_SINK` when the instruction has no destination or its integer destination is x0; sources that an
    instruction does not have are 0, and so are `rm` and `imm`. `base` is the row whose arm executes it.
    """

    row: Row
    base: Row
    length: int
    rd: int = X0_SINK
    rs1: int = 0
    rs2: int = 0
    rs3: int = 0
    rm: int = 0
    imm: int = 0


def _parse_immediate(layout: str) -> list[int]:
    """The bits of the value in the order in which they are drawn: `imm[5|4:2]` gives 5, 4, 3, 2."""
    bits: list[int] = []
    for part in layout[layout.index("[") + 1 : -1].split("|"):
        high, _, low = part.partition(":")
        bits += range(int(high), int(low or high) - 1, -1)
    return bits


def _slices(positions: list[tuple[int, int]]) -> tuple[Slice, ...]:
    """Joins (bit of the instruction, bit of the value) pairs, highest first, into runs."""
    runs: list[Slice] = []
    for low, to in positions:
        if runs and (runs[-1].low, runs[-1].to) == (low + 1, to + 1):
            runs[-1] = Slice(low, runs[-1].width + 1, to)
        else:
            runs.append(Slice(low, 1, to))
    return tuple(runs)


def _fields(positions: dict[str, list[int]], immediate: str) -> dict[str, tuple[Slice, ...]]:
    """Where each field stands, given the bits of each letter of the pattern, highest first."""
    fields = {
        field: _slices([(bit, bit - positions[letter][-1]) for bit in positions[letter]])
        for letter, field in FIELD_OF_LETTER.items()
        if letter in positions
    }
    if "i" in positions:
        fields["imm"] = _slices(list(zip(positions["i"], _parse_immediate(immediate), strict=True)))
    return fields


def _row(name: str, extension: str, pattern: str, form: Format, **more: str) -> Row:
    drawn = pattern.replace(" ", "")
    if len(drawn) not in (16, 32):
        raise ValueError(f"{name}: the pattern has {len(drawn)} bits, it needs 16 or 32")
    positions: dict[str, list[int]] = {}
    for bit, letter in zip(range(len(drawn) - 1, -1, -1), drawn, strict=True):
        positions.setdefault(letter, []).append(bit)
    fields = _fields(positions, form.immediate)
    flags = set(form.flags.split()) | set(more.get("flags", "").split())
    flags |= {flag for operand, flag in (("rd", "writes_x"), ("fd", "writes_f")) if operand in form.syntax}
    flags |= {"rounds"} if "rm" in fields else set()
    return Row(
        name=name,
        extension=extension,
        format=more.get("format", ""),
        pattern=pattern,
        syntax=form.syntax,
        flags=frozenset(flags),
        mask=sum(1 << bit for letter in "01" for bit in positions.get(letter, [])),
        match=sum(1 << bit for bit in positions.get("1", [])),
        length=len(drawn) // 8,
        fields=fields,
        signed=form.immediate.startswith("imm"),
        where=tuple((field, int(value)) for field, value in re.findall(r"(\w+)!=(\d+)", more.get("where", ""))),
        expansion=more.get("expansion", ""),
    )


def _columns(line: str, count: int) -> list[str]:
    columns = [column.strip() for column in re.split(r"\|(?![^\[]*\])", line)]
    return columns + [""] * (count - len(columns))


def _base_rows() -> list[Row]:
    rows: list[Row] = []
    extension = ""
    for line in BASE.strip().splitlines():
        if line.startswith("["):
            extension = line.strip("[]")
            continue
        name, pattern, form, flags = _columns(line, 4)
        rows.append(_row(name, extension, pattern, FORMATS[form], format=form, flags=flags))
    return rows


def _compressed_rows(base: dict[str, Row]) -> list[Row]:
    rows = []
    for line in COMPRESSED.strip().splitlines():
        name, pattern, syntax, immediate, where, expansion = _columns(line, 6)
        kinds = " ".join(base[expansion.split()[0]].flags - {"writes_x", "writes_f", "rounds"})
        rows.append(_row(name, "C", pattern, Format(syntax, immediate, kinds), where=where, expansion=expansion))
    return rows


BASE_ROWS: tuple[Row, ...] = tuple(_base_rows())
COMPRESSED_ROWS: tuple[Row, ...] = tuple(_compressed_rows({row.name: row for row in BASE_ROWS}))
ROWS: tuple[Row, ...] = BASE_ROWS + COMPRESSED_ROWS
BY_NAME: dict[str, Row] = {row.name: row for row in ROWS}

OPCODES: dict[str, int] = {row.op: number for number, row in enumerate(BASE_ROWS, start=1)}
"""The numbers of `enum Op`: base rows from 1 in the order of the table; `OP_ILLEGAL` is 0."""


def expand(row: Row) -> tuple[Row, dict[str, str | int]]:
    """The base row of `row`, and what each of its fields is made from: a field of `row`, or a constant.

    `expand(BY_NAME["c.beqz"])` is the row of `beq` and `{"rs1": "rs1", "rs2": 0, "imm": "imm"}`. A base row expands
    to itself.
    """
    if not row.expansion:
        return row, {field: field for field in row.fields}
    name, _, operands = row.expansion.partition(" ")
    base = BY_NAME[name]
    sources: dict[str, str | int] = {}
    for operand, source in zip(base.operands, re.findall(r"\w+", operands), strict=True):
        constant = re.fullmatch(r"x?(\d+)", source)
        sources[FIELD_OF_OPERAND[operand]] = int(constant[1]) if constant else FIELD_OF_OPERAND[source]
    return base, sources


_BY_LENGTH = {2: COMPRESSED_ROWS, 4: BASE_ROWS}


@cache
def _candidates(size: int, opcode: int) -> tuple[Row, ...]:
    """The rows of that length, in the table's order, that can have these low seven bits."""
    return tuple(row for row in _BY_LENGTH[size] if (row.match ^ opcode) & row.mask & 0x7F == 0)


def length(word: int) -> int:
    """2 or 4: the length in bytes of the instruction whose low 16 bits are those of `word`.

    Encodings of longer instructions (low five bits all ones) count as 4; none of them is legal here.
    """
    return 4 if word & 3 == 3 else 2


def find(word: int) -> Row | None:
    """The row of `word`, or None where the encoding is reserved. Only the low 16 bits of a compressed one count."""
    size = length(word)
    word &= (1 << 8 * size) - 1
    return next((row for row in _candidates(size, word & 0x7F) if row.matches(word)), None)


def decode(word: int) -> Decoded | None:
    """What the core's decoder makes of `word`, or None where that is `OP_ILLEGAL`.

    This is the reference that the generated decoder is tested against: plain, slow, straight from the rows.
    """
    row = find(word)
    if row is None:
        return None
    base, sources = expand(row)
    values = {field: source if isinstance(source, int) else row.take(source, word) for field, source in sources.items()}
    if "writes_x" in base.flags:
        values["rd"] = values["rd"] or X0_SINK
    return Decoded(row, base, row.length, **values)
