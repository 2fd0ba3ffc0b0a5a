"""F and D as x86-64: SSE2, and FMA3 where the processor has it, under round to nearest even and with FS Dirty.

The key of a translation says that the dynamic rounding mode is RNE; so MXCSR is at its default, all exceptions masked, and its sticky flags
are the guest's, which `emit_sync` moves into `fflags` whenever somebody may look. What the two architectures do differently goes to the
interpreter's arm, which has the specification's answer: another static rounding mode, the result of a fused operation that is NaN, a
conversion out of range, `fmin` and `fmax` of equals and NaNs, a single that isn't boxed. NaN results of the rest become canonical here.

Invariants: `j.boxed` has a bit for each f register that certainly holds a boxed single; a result single is boxed as it is written. Underflow is
detected after rounding by both architectures. x86-64 names its operands the other way round for comparisons: rs1 < rs2 is "rs2 above rs1",
false when unordered.

    emit_floating(h, j, i, left)        # fadd.d fa0, fa1, fa2 → movaps xmm0, xmm3; addsd xmm0, xmm4; ucomisd; jp; movaps xmm2, xmm0
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from vpod._decode cimport *
from vpod._emit_memory cimport Place, emit_store_value, emit_window, is_float_load, is_float_store, over
from vpod._hart cimport *
from vpod._translator cimport *
from vpod._x86 cimport *


# ---- operands and results ----------------------------------------------------------------------------------------

cdef inline void ffetch(Hart* h, Code* c, int to, int n) noexcept nogil:
    """f[n] into XMM `to`."""
    if FPINS[n] >= 0:
        if FPINS[n] != to:
            sse_rr(c, 0, SSE_MOVAPS, 0, to, FPINS[n])
    else:
        sse_rm(c, 0xf3, SSE_MOVQ_LOAD, 0, to, RBP, off(h, &h.f[n]))

cdef inline int fuse(Hart* h, Code* c, int n, int scratch) noexcept nogil:
    """An XMM register that holds f[n]."""
    if FPINS[n] >= 0:
        return FPINS[n]
    ffetch(h, c, scratch, n)
    return scratch

cdef inline void fgive(Hart* h, Jit* j, int n, int source, bint single) noexcept nogil:
    """XMM `source` becomes f[n]; of a single, the box is in it."""
    if FPINS[n] >= 0:
        if FPINS[n] != source:
            sse_rr(&j.code, 0, SSE_MOVAPS, 0, FPINS[n], source)
    else:
        sse_rm(&j.code, 0x66, SSE_MOVQ_STORE, 0, source, RBP, off(h, &h.f[n]))
    if single:
        j.boxed |= <uint32_t>1 << n
    else:
        j.boxed &= ~(<uint32_t>1 << n)

cdef inline void fop(Hart* h, Code* c, uint32_t prefix, uint32_t op, int to, int n) noexcept nogil:
    """XMM `to` op f[n]"""
    if FPINS[n] >= 0:
        sse_rr(c, prefix, op, 0, to, FPINS[n])
    else:
        sse_rm(c, prefix, op, 0, to, RBP, off(h, &h.f[n]))

cdef struct Outs:              # of one instruction, whose end isn't known yet
    Out* list[8]
    int count

cdef inline Out* note(Out* out, Outs* outs) noexcept nogil:
    outs.list[outs.count] = out
    outs.count += 1
    return out

cdef inline Out* by_arm(Jit* j, int cc, Insn* i, int left, Outs* outs) noexcept nogil:
    """On this condition the arm does it all."""
    return note(out_of_line(j, OUT_ARM, jump_cc(&j.code, cc), i, left), outs)

cdef inline void check_box(Hart* h, Jit* j, Insn* i, int n, int left, Outs* outs) noexcept nogil:
    """A single in f[n] that isn't boxed is the arm's, and ends the translation there: what follows relies on the box."""
    if j.boxed >> n & 1:
        return
    if FPINS[n] >= 0:
        sse_rr(&j.code, 0x66, SSE_MOV_TO_GPR, 1, FPINS[n], RAX)
        shift_ri(&j.code, SHR, 1, RAX, 32)
        alu_ri(&j.code, CMP, 0, RAX, -1)
    else:
        alu_mi(&j.code, CMP, 0, RBP, off(h, &h.f[n]) + 4, -1)
    by_arm(j, CC_NE, i, left, outs).ends = 1
    j.boxed |= <uint32_t>1 << n

cdef inline void emit_result(Hart* h, Jit* j, Insn* i, int left, bint single, bint fused, Outs* outs) noexcept nogil:
    """XMM0 becomes f[rd]. NaNs are made canonical; those of fused operations by the arm, which knows their flags."""
    cdef Code* c = &j.code
    cdef Out* o
    sse_rr(c, 0 if single else 0x66, SSE_UCOMI, 0, 0, 0)
    o = note(out_of_line(j, OUT_ARM if fused else OUT_NAN, jump_cc(c, CC_P), i, left), outs)
    o.single = single
    o.back = c.at
    if single:
        sse_rp(c, 0, SSE_OR, 0, j.constants.box)
    fgive(h, j, i.rd, 0, single)

# ---- loads and stores --------------------------------------------------------------------------------------------

cdef inline void emit_at_place(Code* c, Insn* i, uint32_t op, int reg, Place* place) noexcept nogil:
    cdef uint32_t prefix = 0xf3 if i.op == OP_FLW or i.op == OP_FSW else 0xf2
    if place.index < 0:
        sse_rm(c, prefix, op, 0, reg, place.base, place.disp)
    else:
        sse_rx(c, prefix, op, reg, place.base, place.index, place.disp)

cdef inline void emit_fload(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    cdef Code* c = &j.code
    cdef int d = FPINS[i.rd] if FPINS[i.rd] >= 0 else 0
    cdef Place place
    emit_window(h, j, i, &place, left)
    emit_at_place(c, i, SSE_LOAD, d, &place)
    over(c, &place)                                          # a miss comes back with the bits in `d`
    if i.op == OP_FLW:
        sse_rp(c, 0, SSE_OR, d, j.constants.box)
    fgive(h, j, i.rd, d, i.op == OP_FLW)

cdef inline void emit_fstore(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    cdef Code* c = &j.code
    cdef Place place
    emit_window(h, j, i, &place, left)
    if FPINS[i.rs2] >= 0:
        emit_at_place(c, i, SSE_STORE, FPINS[i.rs2], &place)
    else:
        mov_rm(c, 1, RCX, RBP, off(h, &h.f[i.rs2]))
        emit_store_value(c, i.op, &place, RCX)
    over(c, &place)


# ---- groups of instructions: each emits one; `outs` notes where it leaves the straight line --------------------------

cdef inline void emit_arithmetic(Hart* h, Jit* j, Insn* i, int left, bint single, uint32_t code, Outs* outs) noexcept nogil:
    """rd = rs1 op rs2, or the square root of rs1."""
    cdef Code* c = &j.code
    cdef uint32_t prefix = 0xf3 if single else 0xf2
    if single:
        check_box(h, j, i, i.rs1, left, outs)
        if code != SSE_SQRT:
            check_box(h, j, i, i.rs2, left, outs)
    if code == SSE_SQRT:
        fop(h, c, prefix, code, 0, i.rs1)
    else:
        ffetch(h, c, 0, i.rs1)
        fop(h, c, prefix, code, 0, i.rs2)
    emit_result(h, j, i, left, single, 0, outs)

cdef inline void emit_fused(Hart* h, Jit* j, Insn* i, int left, bint single, uint32_t code, Outs* outs) noexcept nogil:
    """rd = ±(rs1 * rs2) ± rs3, rounded once."""
    cdef Code* c = &j.code
    cdef int factor
    if single:
        check_box(h, j, i, i.rs1, left, outs)
        check_box(h, j, i, i.rs2, left, outs)
        check_box(h, j, i, i.rs3, left, outs)
    ffetch(h, c, 0, i.rs1)
    factor = fuse(h, c, i.rs2, 1)
    if FPINS[i.rs3] >= 0:
        fma_rr(c, code, not single, 0, factor, FPINS[i.rs3])
    else:
        fma_rm(c, code, not single, 0, factor, RBP, off(h, &h.f[i.rs3]))
    emit_result(h, j, i, left, single, 1, outs)

cdef inline void emit_sign(Hart* h, Jit* j, Insn* i, int left, bint single, int way, Outs* outs) noexcept nogil:
    """FSGNJ (0), FSGNJN (1), FSGNJX (2): rs1 with a sign made of rs2's."""
    cdef Code* c = &j.code
    cdef uint64_t* sign = &j.constants.sign_s[0] if single else &j.constants.sign_d[0]
    cdef uint64_t* size = &j.constants.abs_s[0] if single else &j.constants.abs_d[0]
    if single:
        check_box(h, j, i, i.rs1, left, outs)
        check_box(h, j, i, i.rs2, left, outs)
    ffetch(h, c, 0, i.rs1)
    if i.rs1 == i.rs2:                                       # fmv, fneg, fabs
        if way == 1: sse_rp(c, 0, SSE_XOR, 0, sign)
        elif way == 2: sse_rp(c, 0, SSE_AND, 0, size)
    else:
        ffetch(h, c, 1, i.rs2)
        if way == 1: sse_rp(c, 0, SSE_XOR, 1, sign)
        sse_rp(c, 0, SSE_AND, 1, sign)
        if way != 2: sse_rp(c, 0, SSE_AND, 0, size)
        sse_rr(c, 0, SSE_XOR, 0, 0, 1)
    fgive(h, j, i.rd, 0, single)

cdef inline void emit_extreme(Hart* h, Jit* j, Insn* i, int left, bint single, bint least, Outs* outs) noexcept nogil:
    """FMIN and FMAX of two numbers that differ; the arm knows about zeros and NaNs."""
    cdef Code* c = &j.code
    if single:
        check_box(h, j, i, i.rs1, left, outs)
        check_box(h, j, i, i.rs2, left, outs)
    ffetch(h, c, 0, i.rs1)
    fop(h, c, 0 if single else 0x66, SSE_UCOMI, 0, i.rs2)
    by_arm(j, CC_E, i, left, outs)                           # equal, or unordered
    fop(h, c, 0xf3 if single else 0xf2, SSE_MIN if least else SSE_MAX, 0, i.rs2)
    fgive(h, j, i.rd, 0, single)

cdef inline void emit_fcompare(Hart* h, Jit* j, Insn* i, int left, bint single, int op, Outs* outs) noexcept nogil:
    """FEQ, FLT and FLE; `op` is the double's."""
    cdef Code* c = &j.code
    cdef uint32_t packed = 0 if single else 0x66
    cdef int s
    if single:
        check_box(h, j, i, i.rs1, left, outs)
        check_box(h, j, i, i.rs2, left, outs)
    if op == OP_FEQ_D:
        s = fuse(h, c, i.rs1, 0)
        fop(h, c, packed, SSE_UCOMI, s, i.rs2)               # quiet, as FEQ is
        set_cc(c, CC_NP, RAX)
        set_cc(c, CC_E, RCX)
        alu_rr(c, AND, 0, RAX, RCX)
    else:
        s = fuse(h, c, i.rs2, 0)
        fop(h, c, packed, SSE_COMI, s, i.rs1)
        set_cc(c, CC_A if op == OP_FLT_D else CC_AE, RAX)
    if i.rd != X0_SINK:
        s = into(i.rd, RAX)
        op_rr8(c, OP_MOVZX8, 0, s, RAX)
        give(c, i.rd, s)

cdef inline void emit_move_to_x(Hart* h, Jit* j, Insn* i, bint single) noexcept nogil:
    cdef Code* c = &j.code
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RAX)
    if FPINS[i.rs1] >= 0:
        sse_rr(c, 0x66, SSE_MOV_TO_GPR, not single, FPINS[i.rs1], d)
        if single:
            op_rr(c, OP_MOVSXD, 1, d, d)
    else:
        op_rm(c, OP_MOVSXD if single else OP_MOV_LOAD, 1, d, RBP, off(h, &h.f[i.rs1]))
    give(c, i.rd, d)

cdef inline void emit_move_from_x(Hart* h, Jit* j, Insn* i, bint single) noexcept nogil:
    cdef int d = FPINS[i.rd] if FPINS[i.rd] >= 0 else 0
    sse_rr(&j.code, 0x66, SSE_MOV_FROM_GPR, not single, d, use(&j.code, i.rs1, RAX))
    if single:
        sse_rp(&j.code, 0, SSE_OR, d, j.constants.box)
    fgive(h, j, i.rd, d, single)

cdef inline void emit_from_integer(Hart* h, Jit* j, Insn* i, bint single, bint is_signed, bint wide) noexcept nogil:
    cdef Code* c = &j.code
    cdef int s = use(c, i.rs1, RAX)
    if not wide and not is_signed:                           # as a 64-bit number it is positive
        mov_rr(c, 0, RAX, s)
        s = RAX
    sse_rr(c, 0, SSE_XOR, 0, 0, 0)                           # no dependence on what was there
    sse_rr(c, 0xf3 if single else 0xf2, SSE_CVT_FROM_GPR, wide or not is_signed, 0, s)
    if single:
        sse_rp(c, 0, SSE_OR, 0, j.constants.box)
    fgive(h, j, i.rd, 0, single)

cdef inline void emit_to_integer(Hart* h, Jit* j, Insn* i, int left, bint single, bint wide, Outs* outs) noexcept nogil:
    """FCVT to a signed integer; out of range the processor answers the least one, and the arm is asked."""
    cdef Code* c = &j.code
    cdef int s
    if single:
        check_box(h, j, i, i.rs1, left, outs)
    s = fuse(h, c, i.rs1, 0)
    sse_rr(c, 0xf3 if single else 0xf2, SSE_CVTT_TO_GPR if i.rm == RM_RTZ else SSE_CVT_TO_GPR, wide, RAX, s)
    alu_ri(c, CMP, wide, RAX, 1)
    by_arm(j, CC_O, i, left, outs)
    if i.rd == X0_SINK:
        return
    if wide:
        give(c, i.rd, RAX)
    else:
        extend_word(c, i.rd)

cdef inline void emit_convert(Hart* h, Jit* j, Insn* i, int left, bint to_single, Outs* outs) noexcept nogil:
    if not to_single:
        check_box(h, j, i, i.rs1, left, outs)
    fop(h, &j.code, 0xf2 if to_single else 0xf3, SSE_CVT_FLOAT, 0, i.rs1)
    emit_result(h, j, i, left, to_single, 0, outs)


# ---- which of them -----------------------------------------------------------------------------------------------

cdef inline int as_double(int op) noexcept nogil:
    """The D instruction of an F instruction's kind, for those that are emitted alike."""
    if op == OP_FADD_S: return OP_FADD_D
    elif op == OP_FSUB_S: return OP_FSUB_D
    elif op == OP_FMUL_S: return OP_FMUL_D
    elif op == OP_FDIV_S: return OP_FDIV_D
    elif op == OP_FSQRT_S: return OP_FSQRT_D
    elif op == OP_FMADD_S: return OP_FMADD_D
    elif op == OP_FMSUB_S: return OP_FMSUB_D
    elif op == OP_FNMSUB_S: return OP_FNMSUB_D
    elif op == OP_FNMADD_S: return OP_FNMADD_D
    elif op == OP_FSGNJ_S: return OP_FSGNJ_D
    elif op == OP_FSGNJN_S: return OP_FSGNJN_D
    elif op == OP_FSGNJX_S: return OP_FSGNJX_D
    elif op == OP_FMIN_S: return OP_FMIN_D
    elif op == OP_FMAX_S: return OP_FMAX_D
    elif op == OP_FEQ_S: return OP_FEQ_D
    elif op == OP_FLT_S: return OP_FLT_D
    elif op == OP_FLE_S: return OP_FLE_D
    elif op == OP_FMV_X_W: return OP_FMV_X_D
    elif op == OP_FMV_W_X: return OP_FMV_D_X
    elif op == OP_FCVT_S_W: return OP_FCVT_D_W
    elif op == OP_FCVT_S_WU: return OP_FCVT_D_WU
    elif op == OP_FCVT_S_L: return OP_FCVT_D_L
    elif op == OP_FCVT_W_S: return OP_FCVT_W_D
    elif op == OP_FCVT_L_S: return OP_FCVT_L_D
    else: return op

cdef inline bint is_exact(int op, bint single) noexcept nogil:
    """Conversions that no rounding mode changes."""
    return not single and (op == OP_FCVT_D_W or op == OP_FCVT_D_WU) or op == OP_FCVT_D_S

cdef inline bint emit_by_kind(Hart* h, Jit* j, Insn* i, int left, bint single, int op, Outs* outs) noexcept nogil:
    """`op` is the double's; false, and nothing emitted, if it is the arm's."""
    cdef int rm = RM_RNE if i.rm == RM_DYN else i.rm
    if op == OP_FSGNJ_D: emit_sign(h, j, i, left, single, 0, outs)
    elif op == OP_FSGNJN_D: emit_sign(h, j, i, left, single, 1, outs)
    elif op == OP_FSGNJX_D: emit_sign(h, j, i, left, single, 2, outs)
    elif op == OP_FMIN_D or op == OP_FMAX_D: emit_extreme(h, j, i, left, single, op == OP_FMIN_D, outs)
    elif op == OP_FEQ_D or op == OP_FLT_D or op == OP_FLE_D: emit_fcompare(h, j, i, left, single, op, outs)
    elif op == OP_FMV_X_D: emit_move_to_x(h, j, i, single)
    elif op == OP_FMV_D_X: emit_move_from_x(h, j, i, single)
    elif op == OP_FCVT_W_D or op == OP_FCVT_L_D:
        if rm > RM_RTZ:
            return 0
        emit_to_integer(h, j, i, left, single, op == OP_FCVT_L_D, outs)
    elif rm > RM_RMM or rm != RM_RNE and not is_exact(op, single): return 0
    elif op == OP_FADD_D: emit_arithmetic(h, j, i, left, single, SSE_ADD, outs)
    elif op == OP_FSUB_D: emit_arithmetic(h, j, i, left, single, SSE_SUB, outs)
    elif op == OP_FMUL_D: emit_arithmetic(h, j, i, left, single, SSE_MUL, outs)
    elif op == OP_FDIV_D: emit_arithmetic(h, j, i, left, single, SSE_DIV, outs)
    elif op == OP_FSQRT_D: emit_arithmetic(h, j, i, left, single, SSE_SQRT, outs)
    elif op == OP_FCVT_D_W: emit_from_integer(h, j, i, single, 1, 0)
    elif op == OP_FCVT_D_WU: emit_from_integer(h, j, i, single, 0, 0)
    elif op == OP_FCVT_D_L: emit_from_integer(h, j, i, single, 1, 1)
    elif op == OP_FCVT_S_D or op == OP_FCVT_D_S: emit_convert(h, j, i, left, op == OP_FCVT_S_D, outs)
    elif not j.has_fma: return 0
    elif op == OP_FMADD_D: emit_fused(h, j, i, left, single, VFMADD213, outs)
    elif op == OP_FMSUB_D: emit_fused(h, j, i, left, single, VFMSUB213, outs)
    elif op == OP_FNMSUB_D: emit_fused(h, j, i, left, single, VFNMADD213, outs)
    elif op == OP_FNMADD_D: emit_fused(h, j, i, left, single, VFNMSUB213, outs)
    else: return 0
    return 1

cdef inline bint emit_floating(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    """One F or D instruction; false, and nothing emitted, if it is the arm's or none of them."""
    cdef int n, op = as_double(i.op)
    cdef Outs outs
    outs.count = 0
    if is_float_load(op): emit_fload(h, j, i, left)
    elif is_float_store(op): emit_fstore(h, j, i, left)
    elif op < OP_FLW or op > OP_FMV_D_X or not emit_by_kind(h, j, i, left, op != i.op, op, &outs): return 0
    for n in range(outs.count):
        outs.list[n].done = j.code.at
    return 1


# ---- flags ------------------------------------------------------------------------------------------------------

cdef inline void fill_constants(Hart* h, Jit* j) noexcept nogil:
    cdef int n
    cdef Constants* k = j.constants
    k.box[0] = NAN_BOX
    k.sign_s[0] = <uint64_t>1 << 31
    k.abs_s[0] = ~(<uint64_t>1 << 31)
    k.nan_s[0] = NAN_BOX | 0x7fc00000
    k.sign_d[0] = <uint64_t>1 << 63
    k.abs_d[0] = ~(<uint64_t>1 << 63)
    k.nan_d[0] = <uint64_t>0x7ff8 << 48
    for n in range(64):                                      # MXCSR: IE 0, DE 1, ZE 2, OE 3, UE 4, PE 5
        h.flags_of[n] = <uint8_t>((FFLAG_NV if n & 1 else 0) | (FFLAG_DZ if n & 4 else 0) | (FFLAG_OF if n & 8 else 0)
                                  | (FFLAG_UF if n & 16 else 0) | (FFLAG_NX if n & 32 else 0))

cdef inline void emit_sync(Hart* h, Jit* j) noexcept nogil:
    """MXCSR's flags into fflags, and none in MXCSR. RAX is lost."""
    cdef Code* c = &j.code
    stmxcsr_m(c, RBP, off(h, &h.guest_mxcsr))
    mov_rm(c, 0, RAX, RBP, off(h, &h.guest_mxcsr))
    alu_ri(c, AND, 0, RAX, 0x3f)
    op_rx(c, OP_MOVZX8, 0, RAX, RBP, RAX, 0, off(h, &h.flags_of[0]))
    alu_mr(c, OR, 0, RBP, off(h, &h.fflags), RAX)
    mov_mi(c, 0, RBP, off(h, &h.guest_mxcsr), MXCSR_DEFAULT)
    ldmxcsr_m(c, RBP, off(h, &h.guest_mxcsr))
