"""Integer instructions as x86-64: I, the word forms, and M.

Each function emits one instruction whose operands are where `_translator` says; a result for x0 is not computed. What the
specification wants of a division by zero or by -1 is made by hand: the processor's division traps there.

    emit_alu(c, ADD, 1, i, 1)           # add rd, rs1, rs2 → lea rd, [rs1 + rs2], or mov and add
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from vpod._decode cimport *
from vpod._hart cimport *
from vpod._translator cimport *
from vpod._x86 cimport *


cdef inline void emit_alu(Code* c, int op, bint wide, Insn* i, bint commutes) noexcept nogil:
    """rd = rs1 op rs2; of 32 bits if not wide, sign-extended."""
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX)
    if not wide:
        d = RAX
    if op == ADD and wide and PINS[i.rs1] >= 0 and PINS[i.rs2] >= 0 and d != PINS[i.rs1] and d != PINS[i.rs2]:
        op_rx(c, OP_LEA, 1, d, PINS[i.rs1], PINS[i.rs2], 0, 0)
    elif d == PINS[i.rs2] and i.rs1 != i.rs2:
        if commutes:
            alu_x(c, op, wide, d, i.rs1)
        else:
            fetch(c, RAX, i.rs1)
            alu_x(c, op, wide, RAX, i.rs2)
            d = RAX
    else:
        fetch(c, d, i.rs1)
        alu_x(c, op, wide, d, i.rs2)
    if not wide:
        extend_word(c, i.rd)
    else:
        give(c, i.rd, d)

cdef inline void emit_alu_imm(Code* c, int op, Insn* i) noexcept nogil:
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX)
    if i.rs1 == 0 and op != AND:                             # li
        if op == ADD or op == OR or op == XOR:
            if i.imm == 0 or PINS[i.rd] >= 0:
                mov_ri(c, d, <uint64_t><int64_t>i.imm)
                give(c, i.rd, d)
            else:
                mov_mi(c, 1, RBP, xoff(i.rd), i.imm)
            return
    if op == ADD and i.imm == 0:                             # mv
        if PINS[i.rd] >= 0:
            fetch(c, d, i.rs1)
        else:
            give(c, i.rd, use(c, i.rs1, RAX))
        return
    if i.rd == i.rs1 and PINS[i.rd] < 0:
        alu_mi(c, op, 1, RBP, xoff(i.rd), i.imm)
        return
    if op == ADD and PINS[i.rs1] >= 0 and d != PINS[i.rs1]:
        lea_rm(c, 1, d, PINS[i.rs1], i.imm)
    else:
        fetch(c, d, i.rs1)
        alu_ri(c, op, 1, d, i.imm)
    give(c, i.rd, d)

cdef inline void emit_addiw(Code* c, Insn* i) noexcept nogil:
    cdef int d, s
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX)
    s = use(c, i.rs1, RAX)
    if i.imm == 0:                                           # sext.w
        op_rr(c, OP_MOVSXD, 1, d, s)
    else:
        lea_rm(c, 0, RAX, s, i.imm)
        op_rr(c, OP_MOVSXD, 1, d, RAX)
    give(c, i.rd, d)

cdef inline void emit_shift_imm(Code* c, int op, bint wide, Insn* i) noexcept nogil:
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX) if wide else RAX
    fetch(c, d, i.rs1)
    if i.imm & (63 if wide else 31):
        shift_ri(c, op, wide, d, i.imm & (63 if wide else 31))
    if not wide:
        extend_word(c, i.rd)
    else:
        give(c, i.rd, d)

cdef inline void emit_shift(Code* c, int op, bint wide, Insn* i) noexcept nogil:
    cdef int d
    if i.rd == X0_SINK:
        return
    fetch(c, RCX, i.rs2)
    fetch(c, RAX, i.rs1)
    shift_rcl(c, op, wide, RAX)
    if not wide:
        extend_word(c, i.rd)
    else:
        give(c, i.rd, RAX)

cdef inline void emit_set_less(Code* c, bint is_signed, Insn* i, bint immediate) noexcept nogil:
    cdef int d, s
    if i.rd == X0_SINK:
        return
    s = use(c, i.rs1, RAX)
    if immediate:
        alu_ri(c, CMP, 1, s, i.imm)
    else:
        alu_x(c, CMP, 1, s, i.rs2)
    set_cc(c, CC_L if is_signed else CC_B, RAX)
    d = into(i.rd, RAX)
    op_rr8(c, OP_MOVZX8, 0, d, RAX)
    give(c, i.rd, d)

cdef inline void emit_mul(Code* c, Insn* i, bint wide) noexcept nogil:
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX) if wide and i.rd != i.rs2 else RAX
    fetch(c, d, i.rs1)
    if PINS[i.rs2] >= 0:
        op_rr(c, OP_IMUL, wide, d, PINS[i.rs2])
    else:
        op_rm(c, OP_IMUL, wide, d, RBP, xoff(i.rs2))
    if not wide:
        extend_word(c, i.rd)
    else:
        give(c, i.rd, d)

cdef inline void emit_mul_high(Code* c, Insn* i) noexcept nogil:
    cdef int s
    if i.rd == X0_SINK:
        return
    s = use(c, i.rs2, RCX)
    fetch(c, RAX, i.rs1)
    unary_r(c, IMUL if i.op == OP_MULH else MUL, 1, s)
    if i.op == OP_MULHSU:                                    # less rs2 where rs1 is negative
        fetch(c, RAX, i.rs1)
        shift_ri(c, SAR, 1, RAX, 63)
        alu_rr(c, AND, 1, RAX, s)
        alu_rr(c, SUB, 1, RDX, RAX)
    give(c, i.rd, RDX)

cdef inline void emit_divide(Code* c, Insn* i, bint is_signed, bint wide, bint remainder) noexcept nogil:
    """Divisors 0 and, signed, -1 are apart: the specification's results are no traps."""
    cdef uint8_t* zero
    cdef uint8_t* minus = NULL
    cdef uint8_t* done
    cdef uint8_t* done2 = NULL
    if i.rd == X0_SINK:
        return
    fetch(c, RCX, i.rs2)
    fetch(c, RAX, i.rs1)
    op_rr(c, OP_TEST, wide, RCX, RCX)
    zero = jump_cc(c, CC_E)
    if is_signed:
        alu_ri(c, CMP, wide, RCX, -1)
        minus = jump_cc(c, CC_E)
        sign_into_rdx(c, wide)
        unary_r(c, IDIV, wide, RCX)
    else:
        alu_rr(c, XOR, 0, RDX, RDX)
        unary_r(c, DIV, wide, RCX)
    if remainder:
        mov_rr(c, 1, RAX, RDX)
    done = jump(c)
    if is_signed:
        patch(minus, c.at)
        if remainder:
            alu_rr(c, XOR, 0, RAX, RAX)
        else:
            unary_r(c, NEG, wide, RAX)
        done2 = jump(c)
    patch(zero, c.at)
    if not remainder:
        mov_ri(c, RAX, NONE)
    patch(done, c.at)
    patch(done2, c.at)
    if not wide:
        extend_word(c, i.rd)
    else:
        give(c, i.rd, RAX)



cdef inline void emit_upper(Hart* h, Jit* j, Insn* i) noexcept nogil:
    """LUI and AUIPC; the page's address is the hart's, so the code holds wherever the page is mapped."""
    cdef Code* c = &j.code
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX)
    if i.op == OP_LUI:
        mov_ri(c, d, <uint64_t><int64_t>i.imm)
    else:
        mov_rm(c, 1, d, RBP, off(h, &h.page_va))
        alu_ri(c, ADD, 1, d, j.base + <int32_t>i.offset + i.imm)         # below 2**31: imm has no low bits
    give(c, i.rd, d)

cdef inline bint emit_integer(Hart* h, Jit* j, Insn* i) noexcept nogil:
    """One integer instruction that neither loads, stores nor jumps; false, and nothing emitted, if it is none."""
    cdef Code* c = &j.code
    cdef int op = i.op
    if op == OP_ADDI: emit_alu_imm(c, ADD, i)
    elif op == OP_XORI: emit_alu_imm(c, XOR, i)
    elif op == OP_ORI: emit_alu_imm(c, OR, i)
    elif op == OP_ANDI: emit_alu_imm(c, AND, i)
    elif op == OP_ADDIW: emit_addiw(c, i)
    elif op == OP_LUI or op == OP_AUIPC: emit_upper(h, j, i)
    elif op == OP_SLTI: emit_set_less(c, 1, i, 1)
    elif op == OP_SLTIU: emit_set_less(c, 0, i, 1)
    elif op == OP_SLT: emit_set_less(c, 1, i, 0)
    elif op == OP_SLTU: emit_set_less(c, 0, i, 0)
    elif op == OP_SLLI: emit_shift_imm(c, SHL, 1, i)
    elif op == OP_SRLI: emit_shift_imm(c, SHR, 1, i)
    elif op == OP_SRAI: emit_shift_imm(c, SAR, 1, i)
    elif op == OP_SLLIW: emit_shift_imm(c, SHL, 0, i)
    elif op == OP_SRLIW: emit_shift_imm(c, SHR, 0, i)
    elif op == OP_SRAIW: emit_shift_imm(c, SAR, 0, i)
    elif op == OP_SLL: emit_shift(c, SHL, 1, i)
    elif op == OP_SRL: emit_shift(c, SHR, 1, i)
    elif op == OP_SRA: emit_shift(c, SAR, 1, i)
    elif op == OP_SLLW: emit_shift(c, SHL, 0, i)
    elif op == OP_SRLW: emit_shift(c, SHR, 0, i)
    elif op == OP_SRAW: emit_shift(c, SAR, 0, i)
    elif op == OP_ADD: emit_alu(c, ADD, 1, i, 1)
    elif op == OP_SUB: emit_alu(c, SUB, 1, i, 0)
    elif op == OP_XOR: emit_alu(c, XOR, 1, i, 1)
    elif op == OP_OR: emit_alu(c, OR, 1, i, 1)
    elif op == OP_AND: emit_alu(c, AND, 1, i, 1)
    elif op == OP_ADDW: emit_alu(c, ADD, 0, i, 1)
    elif op == OP_SUBW: emit_alu(c, SUB, 0, i, 0)
    elif op == OP_MUL: emit_mul(c, i, 1)
    elif op == OP_MULW: emit_mul(c, i, 0)
    elif op == OP_MULH or op == OP_MULHU or op == OP_MULHSU: emit_mul_high(c, i)
    elif op == OP_DIV: emit_divide(c, i, 1, 1, 0)
    elif op == OP_DIVU: emit_divide(c, i, 0, 1, 0)
    elif op == OP_REM: emit_divide(c, i, 1, 1, 1)
    elif op == OP_REMU: emit_divide(c, i, 0, 1, 1)
    elif op == OP_DIVW: emit_divide(c, i, 1, 0, 0)
    elif op == OP_DIVUW: emit_divide(c, i, 0, 0, 0)
    elif op == OP_REMW: emit_divide(c, i, 1, 0, 1)
    elif op == OP_REMUW: emit_divide(c, i, 0, 0, 1)
    else: return op == OP_FENCE                              # one hart, and devices act between instructions: it orders nothing
    return 1


# ---- two instructions that are one for the host: the second overwrites what the first made ---------------------------------

cdef inline bint emit_field(Code* c, Insn* i, Insn* n) noexcept nogil:
    """slli and srli or srai by way of the upper end: a zero- or sign-extension of 32, 16 or 8 bits, which may be shifted."""
    cdef int keep = 64 - (i.imm & 63), by = (n.imm & 63) - (i.imm & 63), d, s
    cdef bint is_signed = n.op == OP_SRAI
    if keep != 32 and keep != 16 and keep != 8:
        return 0
    d = into(n.rd, RAX)
    s = use(c, i.rs1, RAX)
    if keep == 32 and is_signed: op_rr(c, OP_MOVSXD, 1, d, s)
    elif keep == 32: mov_rr(c, 0, d, s)
    elif keep == 16: op_rr(c, OP_MOVSX16 if is_signed else OP_MOVZX16, is_signed, d, s)
    else: op_rr8(c, OP_MOVSX8 if is_signed else OP_MOVZX8, is_signed, d, s)
    if by > 0:
        shift_ri(c, SAR if is_signed else SHR, 1, d, by)
    elif by < 0:
        shift_ri(c, SHL, 1, d, -by)
    give(c, n.rd, d)
    return 1

cdef inline bint emit_scaled(Code* c, Insn* i, Insn* n) noexcept nogil:
    """slli and add: an index times 2, 4 or 8."""
    cdef int other = n.rs2 if n.rs1 == i.rd else n.rs1, d, index, base
    if not 1 <= i.imm & 63 <= 3 or other == i.rd:
        return 0
    base = use(c, other, RAX)
    index = use(c, i.rs1, RCX)
    d = into(n.rd, RAX)
    op_rx(c, OP_LEA, 1, d, base, index, i.imm & 63, 0)
    give(c, n.rd, d)
    return 1

cdef inline bint emit_constant(Hart* h, Code* c, Insn* i, Insn* n, int32_t base) noexcept nogil:
    """lui and addi or addiw, auipc and addi: a constant, from the page on if of auipc."""
    cdef int d = into(n.rd, RAX)
    cdef int64_t value = <int64_t>i.imm + n.imm
    if i.op == OP_AUIPC:
        value += base + <int32_t>i.offset
    elif n.op == OP_ADDIW:
        value = <int32_t>value
    if not fits32(value) or i.op == OP_AUIPC and n.op == OP_ADDIW:
        return 0
    if i.op == OP_AUIPC:
        mov_rm(c, 1, d, RBP, off(h, &h.page_va))
        alu_ri(c, ADD, 1, d, <int32_t>value)
    else:
        mov_ri(c, d, <uint64_t>value)
    give(c, n.rd, d)
    return 1

cdef inline bint emit_pair(Hart* h, Jit* j, Step* one, Step* two) noexcept nogil:
    """Two steps at once; false, and nothing emitted, if they don't make a pair."""
    cdef Insn* i = one.insn
    cdef Insn* n = two.insn
    cdef int op = n.op
    if i.rd == X0_SINK or n.rd != i.rd:
        return 0
    if i.op == OP_SLLI and (op == OP_SRLI or op == OP_SRAI) and n.rs1 == i.rd:
        return emit_field(&j.code, i, n)
    if i.op == OP_SLLI and op == OP_ADD and (n.rs1 == i.rd or n.rs2 == i.rd):
        return emit_scaled(&j.code, i, n)
    if (i.op == OP_LUI or i.op == OP_AUIPC) and (op == OP_ADDI or op == OP_ADDIW) and n.rs1 == i.rd:
        return emit_constant(h, &j.code, i, n, one.base)
    return 0
