"""An encoder of x86-64 machine code: bytes into a buffer. It knows nothing of RISC-V.

Functions are named after the instruction and the forms of its operands, destination first: `r` register, `m` memory at base + displacement,
`x` memory at base + index * scale + displacement, `i` immediate, `p` memory relative to the instruction pointer. `wide` chooses 64 bits over 32.
Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, is the reference; `tests/test_x86.py` compares each form with GNU as.

Invariants: nothing is written behind `end`: an instruction that might not fit sets `full` and leaves the buffer alone, so whoever emits looks at `full`
once, when done; every instruction is at most 15 bytes, as the architecture has it.

    mov_rr(c, 1, RAX, RDX); alu_ri(c, ADD, 1, RAX, 8); jump_r(c, RAX)
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef struct Code:
    uint8_t* at                # where the next byte goes
    uint8_t* end
    bint full                  # something did not fit

cdef enum Gpr:
    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15

cdef enum Alu:                 # the operation's number in opcodes and in /digit
    ADD = 0
    OR = 1
    ADC = 2
    SBB = 3
    AND = 4
    SUB = 5
    XOR = 6
    CMP = 7

cdef enum Shift:               # /digit
    ROL = 0
    ROR = 1
    SHL = 4
    SHR = 5
    SAR = 7

cdef enum Unary:               # /digit of F7
    NOT = 2
    NEG = 3
    MUL = 4
    IMUL = 5
    DIV = 6
    IDIV = 7

cdef enum Condition:
    CC_O = 0
    CC_NO = 1
    CC_B = 2
    CC_AE = 3
    CC_E = 4
    CC_NE = 5
    CC_BE = 6
    CC_A = 7
    CC_S = 8
    CC_NS = 9
    CC_P = 10
    CC_NP = 11
    CC_L = 12
    CC_GE = 13
    CC_LE = 14
    CC_G = 15

cdef enum:
    MAX_LENGTH = 15            # of an instruction
    # opcodes that the general forms below are used with; 0x0f?? stand for the two-byte map
    OP_MOV_STORE = 0x89
    OP_MOV_LOAD = 0x8b
    OP_MOVSXD = 0x63
    OP_MOVZX8 = 0x0fb6
    OP_MOVZX16 = 0x0fb7
    OP_MOVSX8 = 0x0fbe
    OP_MOVSX16 = 0x0fbf
    OP_LEA = 0x8d
    OP_IMUL = 0x0faf
    OP_TEST = 0x85
    # SSE: with prefix 0xf3 of singles, 0xf2 of doubles; the comparisons 0 and 0x66; the moves as their names are used
    SSE_LOAD = 0x0f10
    SSE_STORE = 0x0f11
    SSE_MOVAPS = 0x0f28
    SSE_CVT_FROM_GPR = 0x0f2a
    SSE_CVTT_TO_GPR = 0x0f2c
    SSE_CVT_TO_GPR = 0x0f2d
    SSE_UCOMI = 0x0f2e
    SSE_COMI = 0x0f2f
    SSE_SQRT = 0x0f51
    SSE_AND = 0x0f54
    SSE_OR = 0x0f56
    SSE_XOR = 0x0f57
    SSE_ADD = 0x0f58
    SSE_MUL = 0x0f59
    SSE_CVT_FLOAT = 0x0f5a     # to the other of single and double; the prefix says from which
    SSE_SUB = 0x0f5c
    SSE_MIN = 0x0f5d
    SSE_DIV = 0x0f5e
    SSE_MAX = 0x0f5f
    SSE_MOV_FROM_GPR = 0x0f6e  # with 0x66
    SSE_MOV_TO_GPR = 0x0f7e    # with 0x66; `reg` is the XMM register
    SSE_MOVQ_LOAD = 0x0f7e     # with 0xf3
    SSE_MOVQ_STORE = 0x0fd6    # with 0x66
    # FMA3: reg = reg * vvvv + rm, and its relatives with the product, the addend or both negated
    VFMADD213 = 0xa9
    VFMSUB213 = 0xab
    VFNMADD213 = 0xad
    VFNMSUB213 = 0xaf
    MXCSR_DEFAULT = 0x1f80     # all exceptions masked, no flags, round to nearest


# ---- bytes -----------------------------------------------------------------------------------------------------

cdef inline bint room(Code* c) noexcept nogil:
    if c.end - c.at < MAX_LENGTH:
        c.full = 1
        return 0
    return 1

cdef inline void put8(Code* c, uint32_t byte) noexcept nogil:
    c.at[0] = <uint8_t>byte
    c.at += 1

cdef inline void put32(Code* c, int32_t value) noexcept nogil:
    memcpy(c.at, &value, 4)
    c.at += 4

cdef inline void put64(Code* c, uint64_t value) noexcept nogil:
    memcpy(c.at, &value, 8)
    c.at += 8

cdef inline bint fits8(int64_t value) noexcept nogil:
    return <int8_t>value == value

cdef inline bint fits32(int64_t value) noexcept nogil:
    return <int32_t>value == value

cdef inline void opcode(Code* c, uint32_t op) noexcept nogil:
    """One byte, or 0x0f and another, or 0x0f, 0x38 or 0x3a and a third."""
    if op > 0xffff:
        put8(c, op >> 16)
    if op > 0xff:
        put8(c, (op >> 8) & 0xff)
    put8(c, op & 0xff)

cdef inline void rex(Code* c, bint wide, int reg, int index, int base, bint always) noexcept nogil:
    cdef uint32_t bits = 0x40 | (8 if wide else 0) | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3
    if bits != 0x40 or always:
        put8(c, bits)

cdef inline void modrm_r(Code* c, int reg, int rm) noexcept nogil:
    put8(c, 0xc0 | (reg & 7) << 3 | rm & 7)

cdef inline void modrm_m(Code* c, int reg, int base, int32_t disp) noexcept nogil:
    """[base + disp], as short as it can be."""
    cdef uint32_t mode = 0 if disp == 0 and base & 7 != RBP else 0x40 if fits8(disp) else 0x80
    put8(c, mode | (reg & 7) << 3 | base & 7)
    if base & 7 == RSP:
        put8(c, 0x24)
    if mode == 0x40:
        put8(c, <uint8_t>disp)
    elif mode == 0x80:
        put32(c, disp)

cdef inline void modrm_x(Code* c, int reg, int base, int index, int scale, int32_t disp) noexcept nogil:
    """[base + index * (1 << scale) + disp]; index isn't RSP."""
    cdef uint32_t mode = 0 if disp == 0 and base & 7 != RBP else 0x40 if fits8(disp) else 0x80
    put8(c, mode | (reg & 7) << 3 | 4)
    put8(c, scale << 6 | (index & 7) << 3 | base & 7)
    if mode == 0x40:
        put8(c, <uint8_t>disp)
    elif mode == 0x80:
        put32(c, disp)


# ---- general forms: opcode, then a register and a register or memory ----------------------------------------------------

cdef inline void op_rr(Code* c, uint32_t op, bint wide, int reg, int rm) noexcept nogil:
    if room(c):
        rex(c, wide, reg, 0, rm, 0)
        opcode(c, op)
        modrm_r(c, reg, rm)

cdef inline void op_rr8(Code* c, uint32_t op, bint wide, int reg, int rm) noexcept nogil:
    """As op_rr where `rm` is a byte register: RSP to RDI need a REX prefix to mean their low bytes."""
    if room(c):
        rex(c, wide, reg, 0, rm, 1)
        opcode(c, op)
        modrm_r(c, reg, rm)

cdef inline void op_rm(Code* c, uint32_t op, bint wide, int reg, int base, int32_t disp) noexcept nogil:
    if room(c):
        rex(c, wide, reg, 0, base, 0)
        opcode(c, op)
        modrm_m(c, reg, base, disp)

cdef inline void op_rx(Code* c, uint32_t op, bint wide, int reg, int base, int index, int scale, int32_t disp) noexcept nogil:
    if room(c):
        rex(c, wide, reg, index, base, 0)
        opcode(c, op)
        modrm_x(c, reg, base, index, scale, disp)

cdef inline void op_rp(Code* c, uint32_t op, bint wide, int reg, const void* target) noexcept nogil:
    """Memory at `target`, which lies within 2 GiB; no immediate may follow."""
    if room(c):
        rex(c, wide, reg, 0, 0, 0)
        opcode(c, op)
        put8(c, (reg & 7) << 3 | 5)
        put32(c, <int32_t>(<const uint8_t*>target - (c.at + 4)))


# ---- moves -----------------------------------------------------------------------------------------------------

cdef inline void mov_rr(Code* c, bint wide, int to, int source) noexcept nogil:
    if to != source or not wide:
        op_rr(c, OP_MOV_LOAD, wide, to, source)

cdef inline void mov_rm(Code* c, bint wide, int to, int base, int32_t disp) noexcept nogil:
    op_rm(c, OP_MOV_LOAD, wide, to, base, disp)

cdef inline void mov_mr(Code* c, bint wide, int base, int32_t disp, int source) noexcept nogil:
    op_rm(c, OP_MOV_STORE, wide, source, base, disp)

cdef inline void mov_mr8(Code* c, int base, int32_t disp, int source) noexcept nogil:
    if room(c):
        rex(c, 0, source, 0, base, source >= RSP)
        put8(c, 0x88)
        modrm_m(c, source, base, disp)

cdef inline void mov_mr16(Code* c, int base, int32_t disp, int source) noexcept nogil:
    if room(c):
        put8(c, 0x66)
        rex(c, 0, source, 0, base, 0)
        put8(c, OP_MOV_STORE)
        modrm_m(c, source, base, disp)

cdef inline void mov_xr8(Code* c, int base, int index, int32_t disp, int source) noexcept nogil:
    if room(c):
        rex(c, 0, source, index, base, source >= RSP)
        put8(c, 0x88)
        modrm_x(c, source, base, index, 0, disp)

cdef inline void mov_xr16(Code* c, int base, int index, int32_t disp, int source) noexcept nogil:
    if room(c):
        put8(c, 0x66)
        rex(c, 0, source, index, base, 0)
        put8(c, OP_MOV_STORE)
        modrm_x(c, source, base, index, 0, disp)

cdef inline void mov_mi(Code* c, bint wide, int base, int32_t disp, int32_t value) noexcept nogil:
    """A sign-extended immediate to memory."""
    if room(c):
        rex(c, wide, 0, 0, base, 0)
        put8(c, 0xc7)
        modrm_m(c, 0, base, disp)
        put32(c, value)

cdef inline void mov_ri(Code* c, int to, uint64_t value) noexcept nogil:
    """Any constant, by the shortest form; flags may change (a zero is xor)."""
    if value == 0:
        op_rr(c, 0x31, 0, to, to)
    elif value >> 32 == 0:
        if room(c):
            rex(c, 0, 0, 0, to, 0)
            put8(c, 0xb8 | to & 7)
            put32(c, <int32_t>value)
    elif fits32(<int64_t>value):
        if room(c):
            rex(c, 1, 0, 0, to, 0)
            put8(c, 0xc7)
            modrm_r(c, 0, to)
            put32(c, <int32_t>value)
    elif room(c):
        rex(c, 1, 0, 0, to, 0)
        put8(c, 0xb8 | to & 7)
        put64(c, value)

cdef inline void push_r(Code* c, int reg) noexcept nogil:
    if room(c):
        rex(c, 0, 0, 0, reg, 0)
        put8(c, 0x50 | reg & 7)

cdef inline void pop_r(Code* c, int reg) noexcept nogil:
    if room(c):
        rex(c, 0, 0, 0, reg, 0)
        put8(c, 0x58 | reg & 7)


# ---- arithmetic --------------------------------------------------------------------------------------------------

cdef inline void alu_rr(Code* c, int op, bint wide, int to, int source) noexcept nogil:
    op_rr(c, op << 3 | 3, wide, to, source)

cdef inline void alu_rm(Code* c, int op, bint wide, int to, int base, int32_t disp) noexcept nogil:
    op_rm(c, op << 3 | 3, wide, to, base, disp)

cdef inline void alu_mr(Code* c, int op, bint wide, int base, int32_t disp, int source) noexcept nogil:
    op_rm(c, op << 3 | 1, wide, source, base, disp)

cdef inline void alu_ri(Code* c, int op, bint wide, int to, int32_t value) noexcept nogil:
    if room(c):
        rex(c, wide, 0, 0, to, 0)
        put8(c, 0x83 if fits8(value) else 0x81)
        modrm_r(c, op, to)
        if fits8(value):
            put8(c, <uint8_t>value)
        else:
            put32(c, value)

cdef inline void alu_mi(Code* c, int op, bint wide, int base, int32_t disp, int32_t value) noexcept nogil:
    if room(c):
        rex(c, wide, 0, 0, base, 0)
        put8(c, 0x83 if fits8(value) else 0x81)
        modrm_m(c, op, base, disp)
        if fits8(value):
            put8(c, <uint8_t>value)
        else:
            put32(c, value)

cdef inline void shift_ri(Code* c, int op, bint wide, int to, int count) noexcept nogil:
    if room(c):
        rex(c, wide, 0, 0, to, 0)
        put8(c, 0xc1)
        modrm_r(c, op, to)
        put8(c, count)

cdef inline void shift_rcl(Code* c, int op, bint wide, int to) noexcept nogil:
    """By CL, of which the processor takes the low 6 bits, or 5 for 32-bit operands."""
    op_rr(c, 0xd3, wide, op, to)

cdef inline void unary_r(Code* c, int op, bint wide, int reg) noexcept nogil:
    """NOT, NEG, and RDX:RAX = RAX * reg, RDX:RAX / reg."""
    op_rr(c, 0xf7, wide, op, reg)

cdef inline void imul_rri(Code* c, bint wide, int to, int source, int32_t value) noexcept nogil:
    if room(c):
        rex(c, wide, to, 0, source, 0)
        put8(c, 0x6b if fits8(value) else 0x69)
        modrm_r(c, to, source)
        if fits8(value):
            put8(c, <uint8_t>value)
        else:
            put32(c, value)

cdef inline void sign_into_rdx(Code* c, bint wide) noexcept nogil:
    """CDQ or CQO: RDX becomes copies of RAX's sign."""
    if room(c):
        rex(c, wide, 0, 0, 0, 0)
        put8(c, 0x99)

cdef inline void lea_rm(Code* c, bint wide, int to, int base, int32_t disp) noexcept nogil:
    op_rm(c, OP_LEA, wide, to, base, disp)

cdef inline void set_cc(Code* c, int cc, int to) noexcept nogil:
    """The low byte of `to` only."""
    if room(c):
        rex(c, 0, 0, 0, to, to >= RSP)
        opcode(c, 0x0f90 | cc)
        modrm_r(c, 0, to)

cdef inline void cmov_rr(Code* c, int cc, bint wide, int to, int source) noexcept nogil:
    op_rr(c, 0x0f40 | cc, wide, to, source)


# ---- shifts and a multiplication that leave the flags alone (BMI2): VEX.LZ ------------------------------------------------

cdef inline void vex_0f38(Code* c, uint32_t pp, bint wide, uint32_t op, int reg, int vvvv, int rm) noexcept nogil:
    """A VEX-encoded register form from the map 0F 38, 128 bits; pp: 0 none, 1 66, 2 F3, 3 F2."""
    if room(c):
        put8(c, 0xc4)
        put8(c, (0 if reg & 8 else 0x80) | 0x40 | (0 if rm & 8 else 0x20) | 2)
        put8(c, (0x80 if wide else 0) | (~vvvv & 15) << 3 | pp)
        put8(c, op)
        modrm_r(c, reg, rm)

cdef inline void fma_rr(Code* c, uint32_t op, bint double, int reg, int vvvv, int rm) noexcept nogil:
    """reg = reg * vvvv + rm for 0xa9 (VFMADD213), and its relatives."""
    vex_0f38(c, 1, double, op, reg, vvvv, rm)

cdef inline void fma_rm(Code* c, uint32_t op, bint double, int reg, int vvvv, int base, int32_t disp) noexcept nogil:
    if room(c):
        put8(c, 0xc4)
        put8(c, (0 if reg & 8 else 0x80) | 0x40 | (0 if base & 8 else 0x20) | 2)
        put8(c, (0x80 if double else 0) | (~vvvv & 15) << 3 | 1)
        put8(c, op)
        modrm_m(c, reg, base, disp)

cdef inline void shlx_rrr(Code* c, bint wide, int to, int source, int count) noexcept nogil:
    vex_0f38(c, 1, wide, 0xf7, to, count, source)

cdef inline void shrx_rrr(Code* c, bint wide, int to, int source, int count) noexcept nogil:
    vex_0f38(c, 3, wide, 0xf7, to, count, source)

cdef inline void sarx_rrr(Code* c, bint wide, int to, int source, int count) noexcept nogil:
    vex_0f38(c, 2, wide, 0xf7, to, count, source)


# ---- jumps: those to places not yet known return where the 32-bit offset is to be patched ---------------------------------

cdef inline uint8_t* jump(Code* c) noexcept nogil:
    if not room(c):
        return NULL
    put8(c, 0xe9)
    put32(c, 0)
    return c.at - 4

cdef inline uint8_t* jump_cc(Code* c, int cc) noexcept nogil:
    if not room(c):
        return NULL
    opcode(c, 0x0f80 | cc)
    put32(c, 0)
    return c.at - 4

cdef inline void patch(uint8_t* place, const uint8_t* target) noexcept nogil:
    """Make the jump whose offset is at `place` go to `target`; NULL, a jump that did not fit, is left alone."""
    cdef int32_t offset
    if place != NULL:
        offset = <int32_t>(target - (place + 4))
        memcpy(place, &offset, 4)

cdef inline void jump_to(Code* c, const uint8_t* target) noexcept nogil:
    patch(jump(c), target)

cdef inline void jump_cc_to(Code* c, int cc, const uint8_t* target) noexcept nogil:
    patch(jump_cc(c, cc), target)

cdef inline void jump_r(Code* c, int reg) noexcept nogil:
    op_rr(c, 0xff, 0, 4, reg)

cdef inline void jump_m(Code* c, int base, int32_t disp) noexcept nogil:
    op_rm(c, 0xff, 0, 4, base, disp)

cdef inline void jump_p(Code* c, const void* slot) noexcept nogil:
    """To the address that is in memory at `slot`."""
    op_rp(c, 0xff, 0, 4, slot)

cdef inline void call_m(Code* c, int base, int32_t disp) noexcept nogil:
    op_rm(c, 0xff, 0, 2, base, disp)

cdef inline void call_p(Code* c, const void* slot) noexcept nogil:
    op_rp(c, 0xff, 0, 2, slot)

cdef inline void call_to(Code* c, const uint8_t* target) noexcept nogil:
    if room(c):
        put8(c, 0xe8)
        put32(c, <int32_t>(target - (c.at + 4)))

cdef inline void ret(Code* c) noexcept nogil:
    if room(c):
        put8(c, 0xc3)


# ---- SSE2: `prefix` is 0x66, 0xf2 (double), 0xf3 (single) or 0 -------------------------------------------------------------

cdef inline void sse_rr(Code* c, uint32_t prefix, uint32_t op, bint wide, int reg, int rm) noexcept nogil:
    """Registers are XMM numbers or, where the instruction has it so, general ones."""
    if room(c):
        if prefix:
            put8(c, prefix)
        rex(c, wide, reg, 0, rm, 0)
        opcode(c, op)
        modrm_r(c, reg, rm)

cdef inline void sse_rm(Code* c, uint32_t prefix, uint32_t op, bint wide, int reg, int base, int32_t disp) noexcept nogil:
    if room(c):
        if prefix:
            put8(c, prefix)
        rex(c, wide, reg, 0, base, 0)
        opcode(c, op)
        modrm_m(c, reg, base, disp)

cdef inline void sse_rx(Code* c, uint32_t prefix, uint32_t op, int reg, int base, int index, int32_t disp) noexcept nogil:
    if room(c):
        if prefix:
            put8(c, prefix)
        rex(c, 0, reg, index, base, 0)
        opcode(c, op)
        modrm_x(c, reg, base, index, 0, disp)

cdef inline void sse_rp(Code* c, uint32_t prefix, uint32_t op, int reg, const void* target) noexcept nogil:
    if room(c):
        if prefix:
            put8(c, prefix)
        rex(c, 0, reg, 0, 0, 0)
        opcode(c, op)
        put8(c, (reg & 7) << 3 | 5)
        put32(c, <int32_t>(<const uint8_t*>target - (c.at + 4)))

cdef inline void ldmxcsr_m(Code* c, int base, int32_t disp) noexcept nogil:
    op_rm(c, 0x0fae, 0, 2, base, disp)

cdef inline void stmxcsr_m(Code* c, int base, int32_t disp) noexcept nogil:
    op_rm(c, 0x0fae, 0, 3, base, disp)
