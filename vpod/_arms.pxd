"""What every instruction does: one arm an instruction, which ends by calling the next one's.

This is the interpreter. `Insn.run` holds the arm of a decoded instruction, and an arm's last act is `i[1].run(h, i + 1)`: a call in tail
position, which an optimising compiler makes a jump. So there is no dispatch loop: the hart and the instruction stay in two machine registers,
and every arm has an indirect jump of its own for the processor to predict. (The one flat switch that this replaces was measured against it:
docs/performance.md, "Dispatch".) A compiler that makes real calls instead is still correct: no chain of arms is longer than the countdown
that the run loop gives, CHUNK, which is small where calls are real.

Invariants: within a block `h.block_pc` is the address of its first instruction and `i.offset` tells the rest; `h.pc` is right only
when the chain of arms has ended, by returning. A fault leaves every register as it was before the faulting instruction.

    cdef inline void do_add(Hart* h, Insn* i) noexcept nogil: h.x[i.rd] = h.x[i.rs1] + h.x[i.rs2]; i[1].run(h, i + 1)
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from vpod._arith cimport *
from vpod._blocks cimport *
from vpod._code cimport *
from vpod._csr cimport *
from vpod._decode cimport *
from vpod._exec_amo cimport *
from vpod._exec_fp cimport exec_fp
from vpod._hart cimport *
from vpod._mmu cimport *
from vpod._trap cimport *

# masks of an address whose comparison with a tag is the whole check of an aligned access
cdef enum:
    ALIGN_1 = ~0xfff
    ALIGN_2 = ~0xffe
    ALIGN_4 = ~0xffc
    ALIGN_8 = ~0xff8


# ---- vocabulary ------------------------------------------------------------------------------------------------

cdef inline uint64_t imm(Insn* i) noexcept nogil:
    return <uint64_t><int64_t>i.imm

cdef inline uint32_t word1(Hart* h, Insn* i) noexcept nogil:
    return <uint32_t>h.x[i.rs1]

cdef inline uint32_t word2(Hart* h, Insn* i) noexcept nogil:
    return <uint32_t>h.x[i.rs2]

cdef inline uint64_t address(Hart* h, Insn* i) noexcept nogil:
    return h.x[i.rs1] + imm(i)

cdef inline TlbEntry* entry_of(Hart* h, uint64_t va) noexcept nogil:
    return &h.data_tlb[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)]


# ---- from block to block ----------------------------------------------------------------------------------------

cdef inline void enter(Hart* h, Block* block) noexcept nogil:
    """Run `block`, whose address is h.block_pc, unless the countdown doesn't reach to its end."""
    h.countdown -= block.count
    if unlikely(h.countdown < 0):
        h.countdown += block.count
        h.pc = h.block_pc
        return
    h.block = block
    block.insns[0].run(h, block.insns)

cdef inline void jump(Hart* h, uint64_t target) noexcept nogil:
    """Go on at `target` through the jump cache; what is not there the run loop looks up."""
    cdef JumpEntry* entry = jump_entry(h, target)
    if unlikely(entry.tag != target):
        h.pc = target
        return
    h.block_pc = target
    enter(h, entry.block)

cdef inline void go_unlinked(Hart* h, uint64_t target, uint32_t way) noexcept nogil:
    """Make the link if the jump stays in its page: blocks of one physical page, which one virtual page shows at a time."""
    cdef JumpEntry* entry = jump_entry(h, target)
    if (entry.tag == target and (target ^ h.block_pc) >> PAGE_SHIFT == 0 and h.block.pa != NONE
            and (entry.block.pa ^ h.block.pa) >> PAGE_SHIFT == 0):
        h.block.link[way] = entry.block
    jump(h, target)

cdef inline void go(Hart* h, uint64_t target, uint32_t way) noexcept nogil:
    """Go on at `target`, the block's successor if it is not taken (0) or taken (1)."""
    cdef Block* successor = h.block.link[way]
    if unlikely(successor == NULL):
        go_unlinked(h, target, way)
    else:
        h.block_pc = target
        enter(h, successor)

cdef inline void give_up(Hart* h, Insn* i) noexcept nogil:
    """End the chain before `i`: a trap is pending, or a device must be asked."""
    h.pc = h.block_pc + i.offset
    h.countdown += h.block.count - (i - h.block.insns)

cdef inline void leave(Hart* h, Insn* i) noexcept nogil:
    """End the chain after `i`: what follows must be looked up anew."""
    give_up(h, i + 1)
    h.pc = h.block_pc + i.offset + i.length

cdef inline void refuse(Hart* h, Insn* i) noexcept nogil:
    raise_trap(h, CAUSE_ILLEGAL, 0)
    give_up(h, i)


# ---- integers --------------------------------------------------------------------------------------------------

# RV64I
cdef inline void do_addi(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = h.x[i.rs1] + imm(i); i[1].run(h, i + 1)
cdef inline void do_lui(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = imm(i); i[1].run(h, i + 1)
cdef inline void do_auipc(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = h.block_pc + i.offset + imm(i); i[1].run(h, i + 1)
cdef inline void do_slti(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = <int64_t>h.x[i.rs1] < i.imm; i[1].run(h, i + 1)
cdef inline void do_sltiu(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = h.x[i.rs1] < imm(i); i[1].run(h, i + 1)
cdef inline void do_xori(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = h.x[i.rs1] ^ imm(i); i[1].run(h, i + 1)
cdef inline void do_ori(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] | imm(i); i[1].run(h, i + 1)
cdef inline void do_andi(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = h.x[i.rs1] & imm(i); i[1].run(h, i + 1)
cdef inline void do_slli(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = h.x[i.rs1] << (i.imm & 63); i[1].run(h, i + 1)
cdef inline void do_srli(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = h.x[i.rs1] >> (i.imm & 63); i[1].run(h, i + 1)
cdef inline void do_srai(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = <uint64_t>(<int64_t>h.x[i.rs1] >> (i.imm & 63)); i[1].run(h, i + 1)
cdef inline void do_add(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] + h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_sub(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] - h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_sll(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] << (h.x[i.rs2] & 63); i[1].run(h, i + 1)
cdef inline void do_slt(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = <int64_t>h.x[i.rs1] < <int64_t>h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_sltu(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = h.x[i.rs1] < h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_xor(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] ^ h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_srl(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] >> (h.x[i.rs2] & 63); i[1].run(h, i + 1)
cdef inline void do_sra(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = <uint64_t>(<int64_t>h.x[i.rs1] >> (h.x[i.rs2] & 63)); i[1].run(h, i + 1)
cdef inline void do_or(Hart* h, Insn* i) noexcept nogil:     h.x[i.rd] = h.x[i.rs1] | h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_and(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] & h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_addiw(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = sext(word1(h, i) + <uint32_t>i.imm); i[1].run(h, i + 1)
cdef inline void do_slliw(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = sext(word1(h, i) << (i.imm & 31)); i[1].run(h, i + 1)
cdef inline void do_srliw(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = sext(word1(h, i) >> (i.imm & 31)); i[1].run(h, i + 1)
cdef inline void do_sraiw(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = sext(<uint32_t>(<int32_t>word1(h, i) >> (i.imm & 31))); i[1].run(h, i + 1)
cdef inline void do_addw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = sext(word1(h, i) + word2(h, i)); i[1].run(h, i + 1)
cdef inline void do_subw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = sext(word1(h, i) - word2(h, i)); i[1].run(h, i + 1)
cdef inline void do_sllw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = sext(word1(h, i) << (word2(h, i) & 31)); i[1].run(h, i + 1)
cdef inline void do_srlw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = sext(word1(h, i) >> (word2(h, i) & 31)); i[1].run(h, i + 1)
cdef inline void do_sraw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = sext(<uint32_t>(<int32_t>word1(h, i) >> (word2(h, i) & 31))); i[1].run(h, i + 1)
# M
cdef inline void do_mul(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = h.x[i.rs1] * h.x[i.rs2]; i[1].run(h, i + 1)
cdef inline void do_mulh(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = mulh(<int64_t>h.x[i.rs1], <int64_t>h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_mulhsu(Hart* h, Insn* i) noexcept nogil: h.x[i.rd] = mulhsu(<int64_t>h.x[i.rs1], h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_mulhu(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = mulhu(h.x[i.rs1], h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_div(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = div64(<int64_t>h.x[i.rs1], <int64_t>h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_divu(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = divu64(h.x[i.rs1], h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_rem(Hart* h, Insn* i) noexcept nogil:    h.x[i.rd] = rem64(<int64_t>h.x[i.rs1], <int64_t>h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_remu(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = remu64(h.x[i.rs1], h.x[i.rs2]); i[1].run(h, i + 1)
cdef inline void do_mulw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = sext(word1(h, i) * word2(h, i)); i[1].run(h, i + 1)
cdef inline void do_divw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = div32(<int32_t>word1(h, i), <int32_t>word2(h, i)); i[1].run(h, i + 1)
cdef inline void do_divuw(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = divu32(word1(h, i), word2(h, i)); i[1].run(h, i + 1)
cdef inline void do_remw(Hart* h, Insn* i) noexcept nogil:   h.x[i.rd] = rem32(<int32_t>word1(h, i), <int32_t>word2(h, i)); i[1].run(h, i + 1)
cdef inline void do_remuw(Hart* h, Insn* i) noexcept nogil:  h.x[i.rd] = remu32(word1(h, i), word2(h, i)); i[1].run(h, i + 1)

# one hart, and devices act between instructions: a fence orders nothing
cdef inline void do_fence(Hart* h, Insn* i) noexcept nogil: i[1].run(h, i + 1)


# ---- loads and stores: one compare and one add, or a miss ------------------------------------------------------------

cdef inline void load_missed(Hart* h, Insn* i) noexcept nogil:
    """The slow half of every load: size and extension from the opcode."""
    cdef int op = i.op
    cdef uint64_t v = 0
    cdef uint32_t size = 8
    if (op == OP_FLW or op == OP_FLD) and h.mstatus & STATUS_FS == 0:
        refuse(h, i)
        return
    if op == OP_LB or op == OP_LBU: size = 1
    elif op == OP_LH or op == OP_LHU: size = 2
    elif op == OP_LW or op == OP_LWU or op == OP_FLW: size = 4
    if load_slow(h, address(h, i), size, &v) != CONTINUE:
        give_up(h, i)
        return
    if op == OP_LB: v = <uint64_t><int64_t><int8_t>v
    elif op == OP_LH: v = <uint64_t><int64_t><int16_t>v
    elif op == OP_LW: v = sext(<uint32_t>v)
    if op == OP_FLW: h.f[i.rd] = v | NAN_BOX; h.mstatus |= STATUS_FS
    elif op == OP_FLD: h.f[i.rd] = v; h.mstatus |= STATUS_FS
    else: h.x[i.rd] = v
    i[1].run(h, i + 1)

cdef inline void store_missed(Hart* h, Insn* i) noexcept nogil:
    cdef int op = i.op
    cdef uint32_t size = 8
    cdef bint floating = op == OP_FSW or op == OP_FSD
    if floating and h.mstatus & STATUS_FS == 0:
        refuse(h, i)
        return
    if op == OP_SB: size = 1
    elif op == OP_SH: size = 2
    elif op == OP_SW or op == OP_FSW: size = 4
    go_by(h, i, store_slow(h, address(h, i), size, h.f[i.rs2] if floating else h.x[i.rs2]))

cdef inline void go_by(Hart* h, Insn* i, Status status) noexcept nogil:
    """Continue, give up or leave, as an inner function ended."""
    if status == CONTINUE: i[1].run(h, i + 1)
    elif status == LEAVE: leave(h, i)
    else: give_up(h, i)

cdef inline void do_lb(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_1): load_missed(h, i)
    else: h.x[i.rd] = <uint64_t><int64_t>(<int8_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_lbu(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_1): load_missed(h, i)
    else: h.x[i.rd] = (<uint8_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_lh(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_2): load_missed(h, i)
    else: h.x[i.rd] = <uint64_t><int64_t>(<int16_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_lhu(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_2): load_missed(h, i)
    else: h.x[i.rd] = (<uint16_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_lw(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_4): load_missed(h, i)
    else: h.x[i.rd] = <uint64_t><int64_t>(<int32_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_lwu(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_4): load_missed(h, i)
    else: h.x[i.rd] = (<uint32_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_ld(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_8): load_missed(h, i)
    else: h.x[i.rd] = (<uint64_t*>(e.addend + a))[0]; i[1].run(h, i + 1)

cdef inline void do_sb(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.write_tag != a & <uint64_t><int64_t>ALIGN_1): store_missed(h, i)
    else: (<uint8_t*>(e.addend + a))[0] = <uint8_t>h.x[i.rs2]; i[1].run(h, i + 1)

cdef inline void do_sh(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.write_tag != a & <uint64_t><int64_t>ALIGN_2): store_missed(h, i)
    else: (<uint16_t*>(e.addend + a))[0] = <uint16_t>h.x[i.rs2]; i[1].run(h, i + 1)

cdef inline void do_sw(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.write_tag != a & <uint64_t><int64_t>ALIGN_4): store_missed(h, i)
    else: (<uint32_t*>(e.addend + a))[0] = <uint32_t>h.x[i.rs2]; i[1].run(h, i + 1)

cdef inline void do_sd(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.write_tag != a & <uint64_t><int64_t>ALIGN_8): store_missed(h, i)
    else: (<uint64_t*>(e.addend + a))[0] = h.x[i.rs2]; i[1].run(h, i + 1)

cdef inline void do_flw(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_4 or h.mstatus & STATUS_FS == 0): load_missed(h, i)
    else: h.f[i.rd] = (<uint32_t*>(e.addend + a))[0] | NAN_BOX; h.mstatus |= STATUS_FS; i[1].run(h, i + 1)

cdef inline void do_fld(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.read_tag != a & <uint64_t><int64_t>ALIGN_8 or h.mstatus & STATUS_FS == 0): load_missed(h, i)
    else: h.f[i.rd] = (<uint64_t*>(e.addend + a))[0]; h.mstatus |= STATUS_FS; i[1].run(h, i + 1)

cdef inline void do_fsw(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.write_tag != a & <uint64_t><int64_t>ALIGN_4 or h.mstatus & STATUS_FS == 0): store_missed(h, i)
    else: (<uint32_t*>(e.addend + a))[0] = <uint32_t>h.f[i.rs2]; i[1].run(h, i + 1)

cdef inline void do_fsd(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t a = address(h, i)
    cdef TlbEntry* e = entry_of(h, a)
    if unlikely(e.write_tag != a & <uint64_t><int64_t>ALIGN_8 or h.mstatus & STATUS_FS == 0): store_missed(h, i)
    else: (<uint64_t*>(e.addend + a))[0] = h.f[i.rs2]; i[1].run(h, i + 1)


# ---- jumps and branches: their imm is from the start of the block ------------------------------------------------------

cdef inline void do_beq(Hart* h, Insn* i) noexcept nogil:
    if h.x[i.rs1] == h.x[i.rs2]: go(h, h.block_pc + imm(i), 1)
    else: go(h, h.block_pc + i.offset + i.length, 0)

cdef inline void do_bne(Hart* h, Insn* i) noexcept nogil:
    if h.x[i.rs1] != h.x[i.rs2]: go(h, h.block_pc + imm(i), 1)
    else: go(h, h.block_pc + i.offset + i.length, 0)

cdef inline void do_blt(Hart* h, Insn* i) noexcept nogil:
    if <int64_t>h.x[i.rs1] < <int64_t>h.x[i.rs2]: go(h, h.block_pc + imm(i), 1)
    else: go(h, h.block_pc + i.offset + i.length, 0)

cdef inline void do_bge(Hart* h, Insn* i) noexcept nogil:
    if <int64_t>h.x[i.rs1] >= <int64_t>h.x[i.rs2]: go(h, h.block_pc + imm(i), 1)
    else: go(h, h.block_pc + i.offset + i.length, 0)

cdef inline void do_bltu(Hart* h, Insn* i) noexcept nogil:
    if h.x[i.rs1] < h.x[i.rs2]: go(h, h.block_pc + imm(i), 1)
    else: go(h, h.block_pc + i.offset + i.length, 0)

cdef inline void do_bgeu(Hart* h, Insn* i) noexcept nogil:
    if h.x[i.rs1] >= h.x[i.rs2]: go(h, h.block_pc + imm(i), 1)
    else: go(h, h.block_pc + i.offset + i.length, 0)

cdef inline void do_jal(Hart* h, Insn* i) noexcept nogil:
    h.x[i.rd] = h.block_pc + i.offset + i.length
    go(h, h.block_pc + imm(i), 1)

cdef inline void do_jalr(Hart* h, Insn* i) noexcept nogil:
    cdef uint64_t target = address(h, i) & ~<uint64_t>1
    h.x[i.rd] = h.block_pc + i.offset + i.length
    jump(h, target)

# not an instruction: the end of a block that just runs on
cdef inline void do_next(Hart* h, Insn* i) noexcept nogil: go(h, h.block_pc + i.offset, 0)


# ---- A, F, D and the system, in chapters of their own ------------------------------------------------------------------

cdef inline void do_atomic(Hart* h, Insn* i) noexcept nogil:
    go_by(h, i, execute_amo(h, i))

cdef inline void do_floating(Hart* h, Insn* i) noexcept nogil:
    if exec_fp(h, i): i[1].run(h, i + 1)
    else: refuse(h, i)

cdef inline void do_csr_inline(Hart* h, Insn* i) noexcept nogil:
    if csr_execute(h, i): i[1].run(h, i + 1)
    else: give_up(h, i)

# The rest end their block, and the chain with it: mode, address space or interrupts may be others afterwards.

cdef inline void do_csr(Hart* h, Insn* i) noexcept nogil:
    if csr_execute(h, i): leave(h, i)
    else: give_up(h, i)

cdef inline void do_mret(Hart* h, Insn* i) noexcept nogil:
    if not mret(h): give_up(h, i)

cdef inline void do_sret(Hart* h, Insn* i) noexcept nogil:
    if not sret(h): give_up(h, i)

cdef inline void do_ecall(Hart* h, Insn* i) noexcept nogil:
    raise_trap(h, CAUSE_ECALL_U + h.priv, 0)
    give_up(h, i)

cdef inline void do_ebreak(Hart* h, Insn* i) noexcept nogil:
    raise_trap(h, CAUSE_BREAKPOINT, h.block_pc + i.offset)
    give_up(h, i)

cdef inline void do_illegal(Hart* h, Insn* i) noexcept nogil:
    raise_trap(h, CAUSE_ILLEGAL, <uint32_t>i.imm)
    give_up(h, i)

cdef inline void do_wfi(Hart* h, Insn* i) noexcept nogil:
    if wfi(h): leave(h, i)
    else: give_up(h, i)

cdef inline void do_sfence_vma(Hart* h, Insn* i) noexcept nogil:
    if sfence_vma(h, i): leave(h, i)
    else: give_up(h, i)

# written code is noticed at the write: fence.i only ends the block
cdef inline void do_fence_i(Hart* h, Insn* i) noexcept nogil: leave(h, i)


# ---- the table of arms ------------------------------------------------------------------------------------------

cdef inline void put(Arm* arms, int op, Arm arm) noexcept nogil:
    arms[op] = arm

cdef inline void fill_arms(Arm* arms) noexcept nogil:
    """`arms[op]` for every op of the instruction table and every pseudo-op."""
    cdef int op
    put(arms, OP_ADDI, do_addi); put(arms, OP_LUI, do_lui); put(arms, OP_AUIPC, do_auipc)
    put(arms, OP_SLTI, do_slti); put(arms, OP_SLTIU, do_sltiu); put(arms, OP_XORI, do_xori)
    put(arms, OP_ORI, do_ori); put(arms, OP_ANDI, do_andi); put(arms, OP_SLLI, do_slli)
    put(arms, OP_SRLI, do_srli); put(arms, OP_SRAI, do_srai); put(arms, OP_ADD, do_add)
    put(arms, OP_SUB, do_sub); put(arms, OP_SLL, do_sll); put(arms, OP_SLT, do_slt)
    put(arms, OP_SLTU, do_sltu); put(arms, OP_XOR, do_xor); put(arms, OP_SRL, do_srl)
    put(arms, OP_SRA, do_sra); put(arms, OP_OR, do_or); put(arms, OP_AND, do_and)
    put(arms, OP_ADDIW, do_addiw); put(arms, OP_SLLIW, do_slliw); put(arms, OP_SRLIW, do_srliw)
    put(arms, OP_SRAIW, do_sraiw); put(arms, OP_ADDW, do_addw); put(arms, OP_SUBW, do_subw)
    put(arms, OP_SLLW, do_sllw); put(arms, OP_SRLW, do_srlw); put(arms, OP_SRAW, do_sraw)
    put(arms, OP_MUL, do_mul); put(arms, OP_MULH, do_mulh); put(arms, OP_MULHSU, do_mulhsu)
    put(arms, OP_MULHU, do_mulhu); put(arms, OP_DIV, do_div); put(arms, OP_DIVU, do_divu)
    put(arms, OP_REM, do_rem); put(arms, OP_REMU, do_remu); put(arms, OP_MULW, do_mulw)
    put(arms, OP_DIVW, do_divw); put(arms, OP_DIVUW, do_divuw); put(arms, OP_REMW, do_remw)
    put(arms, OP_REMUW, do_remuw); put(arms, OP_FENCE, do_fence); put(arms, OP_LB, do_lb)
    put(arms, OP_LBU, do_lbu); put(arms, OP_LH, do_lh); put(arms, OP_LHU, do_lhu)
    put(arms, OP_LW, do_lw); put(arms, OP_LWU, do_lwu); put(arms, OP_LD, do_ld)
    put(arms, OP_SB, do_sb); put(arms, OP_SH, do_sh); put(arms, OP_SW, do_sw)
    put(arms, OP_SD, do_sd); put(arms, OP_FLW, do_flw); put(arms, OP_FLD, do_fld)
    put(arms, OP_FSW, do_fsw); put(arms, OP_FSD, do_fsd); put(arms, OP_BEQ, do_beq)
    put(arms, OP_BNE, do_bne); put(arms, OP_BLT, do_blt); put(arms, OP_BGE, do_bge)
    put(arms, OP_BLTU, do_bltu); put(arms, OP_BGEU, do_bgeu); put(arms, OP_JAL, do_jal)
    put(arms, OP_JALR, do_jalr); put(arms, OP_NEXT, do_next); put(arms, OP_CSR_INLINE, do_csr_inline)
    put(arms, OP_ECALL, do_ecall); put(arms, OP_EBREAK, do_ebreak); put(arms, OP_MRET, do_mret)
    put(arms, OP_SRET, do_sret); put(arms, OP_WFI, do_wfi); put(arms, OP_SFENCE_VMA, do_sfence_vma)
    put(arms, OP_FENCE_I, do_fence_i); put(arms, OP_ILLEGAL, do_illegal)
    for op in range(OP_CSRRW, OP_CSRRCI + 1):
        arms[op] = do_csr
    for op in range(OP_LR_W, OP_AMOMAXU_D + 1):
        arms[op] = do_atomic
    for op in range(OP_FMADD_S, OP_FMV_W_X + 1):
        arms[op] = do_floating
    for op in range(OP_FMADD_D, OP_FMV_D_X + 1):
        arms[op] = do_floating
