"""What the F and D instructions do, loads and stores aside: one arm an instruction, over the vocabulary just below.

`exec_fp` answers whether the instruction is legal; the caller raises illegal-instruction if it isn't, and nothing has
changed. Invariants:

* A single is read through `rs1_s` and its like, which take a register that isn't NaN-boxed for the canonical NaN (D
  extension, "NaN Boxing of Narrower Values"), and written through `set_s`, which boxes it. Only the moves and stores
  of 32 bits look at no box.
* Whatever writes an f register or changes fflags makes mstatus.FS Dirty; SD is made from FS when mstatus is read.
* The rounding mode is checked before anything is done, also where nothing is rounded (fcvt.d.s). The decoder leaves rm
  at 0, a legal mode, for instructions that have none, so one check at the top serves all.

    elif op == OP_FADD_S:    set_s(h, i, f_add(rs1_s(h, i), rs2_s(h, i), rm, flags))
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from vpod._decode cimport *
from vpod._hart cimport NAN_BOX, Hart, Insn, likely, unlikely
from vpod._mmu cimport STATUS_FS
from vpod._softfloat cimport (
    RMM, bits, canonical_nan, f_add, f_class, f_div, f_eq, f_fma, f_from_i64, f_from_u64, f_le, f_lt, f_max, f_min,
    f_mul, f_sqrt, f_sub, f_to_i32, f_to_i64, f_to_u32, f_to_u64, narrow, sign_bit, sign_of, widen,
)


cdef inline uint32_t unboxed(uint64_t v) noexcept nogil:
    return <uint32_t>v if likely(v >= NAN_BOX) else canonical_nan(<uint32_t>0)

cdef inline uint32_t rs1_s(Hart* h, Insn* i) noexcept nogil: return unboxed(h.f[i.rs1])
cdef inline uint32_t rs2_s(Hart* h, Insn* i) noexcept nogil: return unboxed(h.f[i.rs2])
cdef inline uint32_t rs3_s(Hart* h, Insn* i) noexcept nogil: return unboxed(h.f[i.rs3])
cdef inline uint64_t rs1_d(Hart* h, Insn* i) noexcept nogil: return h.f[i.rs1]
cdef inline uint64_t rs2_d(Hart* h, Insn* i) noexcept nogil: return h.f[i.rs2]
cdef inline uint64_t rs3_d(Hart* h, Insn* i) noexcept nogil: return h.f[i.rs3]

cdef inline void set_s(Hart* h, Insn* i, uint32_t v) noexcept nogil:
    h.f[i.rd] = NAN_BOX | v
    h.mstatus |= STATUS_FS

cdef inline void set_d(Hart* h, Insn* i, uint64_t v) noexcept nogil:
    h.f[i.rd] = v
    h.mstatus |= STATUS_FS

cdef inline bits minus(bits v) noexcept nogil:
    return v ^ sign_bit(v)

cdef inline bits with_sign(bits v, bits sign) noexcept nogil:
    return (v & ~sign_bit(v)) | sign_of(sign)


cdef inline bint exec_fp(Hart* h, Insn* i) noexcept nogil:
    """Carry out one instruction; 0 if it is illegal here: FS is Off or the rounding mode is reserved."""
    cdef int op = i.op, rm = i.rm
    cdef uint32_t* flags = &h.fflags
    cdef uint32_t before = h.fflags
    if rm == 7:
        rm = h.frm
    if unlikely(h.mstatus & STATUS_FS == 0) or unlikely(<unsigned int>rm > RMM):
        return 0
    # F
    if op == OP_FMADD_S:        set_s(h, i, f_fma(rs1_s(h, i), rs2_s(h, i), rs3_s(h, i), rm, flags))
    elif op == OP_FMSUB_S:      set_s(h, i, f_fma(rs1_s(h, i), rs2_s(h, i), minus(rs3_s(h, i)), rm, flags))
    elif op == OP_FNMSUB_S:     set_s(h, i, f_fma(minus(rs1_s(h, i)), rs2_s(h, i), rs3_s(h, i), rm, flags))
    elif op == OP_FNMADD_S:     set_s(h, i, f_fma(minus(rs1_s(h, i)), rs2_s(h, i), minus(rs3_s(h, i)), rm, flags))
    elif op == OP_FADD_S:       set_s(h, i, f_add(rs1_s(h, i), rs2_s(h, i), rm, flags))
    elif op == OP_FSUB_S:       set_s(h, i, f_sub(rs1_s(h, i), rs2_s(h, i), rm, flags))
    elif op == OP_FMUL_S:       set_s(h, i, f_mul(rs1_s(h, i), rs2_s(h, i), rm, flags))
    elif op == OP_FDIV_S:       set_s(h, i, f_div(rs1_s(h, i), rs2_s(h, i), rm, flags))
    elif op == OP_FSQRT_S:      set_s(h, i, f_sqrt(rs1_s(h, i), rm, flags))
    elif op == OP_FMIN_S:       set_s(h, i, f_min(rs1_s(h, i), rs2_s(h, i), flags))
    elif op == OP_FMAX_S:       set_s(h, i, f_max(rs1_s(h, i), rs2_s(h, i), flags))
    elif op == OP_FSGNJ_S:      set_s(h, i, with_sign(rs1_s(h, i), rs2_s(h, i)))
    elif op == OP_FSGNJN_S:     set_s(h, i, with_sign(rs1_s(h, i), minus(rs2_s(h, i))))
    elif op == OP_FSGNJX_S:     set_s(h, i, rs1_s(h, i) ^ sign_of(rs2_s(h, i)))
    elif op == OP_FEQ_S:        h.x[i.rd] = f_eq(rs1_s(h, i), rs2_s(h, i), flags)
    elif op == OP_FLT_S:        h.x[i.rd] = f_lt(rs1_s(h, i), rs2_s(h, i), flags)
    elif op == OP_FLE_S:        h.x[i.rd] = f_le(rs1_s(h, i), rs2_s(h, i), flags)
    elif op == OP_FCLASS_S:     h.x[i.rd] = f_class(rs1_s(h, i))
    elif op == OP_FCVT_W_S:     h.x[i.rd] = f_to_i32(rs1_s(h, i), rm, flags)
    elif op == OP_FCVT_WU_S:    h.x[i.rd] = f_to_u32(rs1_s(h, i), rm, flags)
    elif op == OP_FCVT_L_S:     h.x[i.rd] = f_to_i64(rs1_s(h, i), rm, flags)
    elif op == OP_FCVT_LU_S:    h.x[i.rd] = f_to_u64(rs1_s(h, i), rm, flags)
    elif op == OP_FCVT_S_W:     set_s(h, i, f_from_i64(<uint32_t>0, <int32_t>h.x[i.rs1], rm, flags))
    elif op == OP_FCVT_S_WU:    set_s(h, i, f_from_u64(<uint32_t>0, <uint32_t>h.x[i.rs1], rm, flags))
    elif op == OP_FCVT_S_L:     set_s(h, i, f_from_i64(<uint32_t>0, <int64_t>h.x[i.rs1], rm, flags))
    elif op == OP_FCVT_S_LU:    set_s(h, i, f_from_u64(<uint32_t>0, h.x[i.rs1], rm, flags))
    elif op == OP_FMV_X_W:      h.x[i.rd] = <uint64_t><int64_t><int32_t>h.f[i.rs1]
    elif op == OP_FMV_W_X:      set_s(h, i, <uint32_t>h.x[i.rs1])
    # D
    elif op == OP_FMADD_D:      set_d(h, i, f_fma(rs1_d(h, i), rs2_d(h, i), rs3_d(h, i), rm, flags))
    elif op == OP_FMSUB_D:      set_d(h, i, f_fma(rs1_d(h, i), rs2_d(h, i), minus(rs3_d(h, i)), rm, flags))
    elif op == OP_FNMSUB_D:     set_d(h, i, f_fma(minus(rs1_d(h, i)), rs2_d(h, i), rs3_d(h, i), rm, flags))
    elif op == OP_FNMADD_D:     set_d(h, i, f_fma(minus(rs1_d(h, i)), rs2_d(h, i), minus(rs3_d(h, i)), rm, flags))
    elif op == OP_FADD_D:       set_d(h, i, f_add(rs1_d(h, i), rs2_d(h, i), rm, flags))
    elif op == OP_FSUB_D:       set_d(h, i, f_sub(rs1_d(h, i), rs2_d(h, i), rm, flags))
    elif op == OP_FMUL_D:       set_d(h, i, f_mul(rs1_d(h, i), rs2_d(h, i), rm, flags))
    elif op == OP_FDIV_D:       set_d(h, i, f_div(rs1_d(h, i), rs2_d(h, i), rm, flags))
    elif op == OP_FSQRT_D:      set_d(h, i, f_sqrt(rs1_d(h, i), rm, flags))
    elif op == OP_FMIN_D:       set_d(h, i, f_min(rs1_d(h, i), rs2_d(h, i), flags))
    elif op == OP_FMAX_D:       set_d(h, i, f_max(rs1_d(h, i), rs2_d(h, i), flags))
    elif op == OP_FSGNJ_D:      set_d(h, i, with_sign(rs1_d(h, i), rs2_d(h, i)))
    elif op == OP_FSGNJN_D:     set_d(h, i, with_sign(rs1_d(h, i), minus(rs2_d(h, i))))
    elif op == OP_FSGNJX_D:     set_d(h, i, rs1_d(h, i) ^ sign_of(rs2_d(h, i)))
    elif op == OP_FEQ_D:        h.x[i.rd] = f_eq(rs1_d(h, i), rs2_d(h, i), flags)
    elif op == OP_FLT_D:        h.x[i.rd] = f_lt(rs1_d(h, i), rs2_d(h, i), flags)
    elif op == OP_FLE_D:        h.x[i.rd] = f_le(rs1_d(h, i), rs2_d(h, i), flags)
    elif op == OP_FCLASS_D:     h.x[i.rd] = f_class(rs1_d(h, i))
    elif op == OP_FCVT_W_D:     h.x[i.rd] = f_to_i32(rs1_d(h, i), rm, flags)
    elif op == OP_FCVT_WU_D:    h.x[i.rd] = f_to_u32(rs1_d(h, i), rm, flags)
    elif op == OP_FCVT_L_D:     h.x[i.rd] = f_to_i64(rs1_d(h, i), rm, flags)
    elif op == OP_FCVT_LU_D:    h.x[i.rd] = f_to_u64(rs1_d(h, i), rm, flags)
    elif op == OP_FCVT_D_W:     set_d(h, i, f_from_i64(<uint64_t>0, <int32_t>h.x[i.rs1], rm, flags))
    elif op == OP_FCVT_D_WU:    set_d(h, i, f_from_u64(<uint64_t>0, <uint32_t>h.x[i.rs1], rm, flags))
    elif op == OP_FCVT_D_L:     set_d(h, i, f_from_i64(<uint64_t>0, <int64_t>h.x[i.rs1], rm, flags))
    elif op == OP_FCVT_D_LU:    set_d(h, i, f_from_u64(<uint64_t>0, h.x[i.rs1], rm, flags))
    elif op == OP_FMV_X_D:      h.x[i.rd] = h.f[i.rs1]
    elif op == OP_FMV_D_X:      set_d(h, i, h.x[i.rs1])
    elif op == OP_FCVT_S_D:     set_s(h, i, narrow(rs1_d(h, i), rm, flags))
    elif op == OP_FCVT_D_S:     set_d(h, i, widen(rs1_s(h, i), flags))
    else:
        return 0
    if h.fflags != before:
        h.mstatus |= STATUS_FS
    return 1
