"""What all translations share: the way into translated code and out of it, and the calls of C's helpers.

It stands in the first pages of the memory for code, is emitted once, and never changes. Invariants:

* In and out again, RBX, RBP, R12 to R15, the stack and MXCSR are the host's as they were.
* Before C is called, what C may change is put away: the pins that are not callee-saved, and all F and D registers; the stack is aligned.
* A helper that says that the instruction didn't end, or that what follows must be looked up, leads to an exit, and the countdown is
  given back what was not executed.

    j.run[fp](h, translation.entry)     # returns when something is unusual
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from vpod._emit_float cimport emit_sync
from vpod._emit_flow cimport emit_land_apart
from vpod._emit_memory cimport emit_index
from vpod._hart cimport *
from vpod._translator cimport *
from vpod._x86 cimport *

cdef enum:
    COMMON_SIZE = 4 * PAGE_SIZE        # of all this


cdef inline bint callee_saved(int reg) noexcept nogil:
    return reg == RBX or reg >= R12

cdef inline void emit_spill(Code* c, bint all_of_them) noexcept nogil:
    cdef int n
    for n in range(PIN_COUNT):
        if all_of_them or not callee_saved(PINS[PINNED[n]]):
            mov_mr(c, 1, RBP, xoff(PINNED[n]), PINS[PINNED[n]])

cdef inline void emit_reload(Code* c, bint all_of_them) noexcept nogil:
    cdef int n
    for n in range(PIN_COUNT):
        if all_of_them or not callee_saved(PINS[PINNED[n]]):
            mov_rm(c, 1, PINS[PINNED[n]], RBP, xoff(PINNED[n]))

cdef inline void emit_fspill(Hart* h, Code* c) noexcept nogil:
    cdef int n
    for n in range(FPIN_COUNT):
        sse_rm(c, 0x66, SSE_MOVQ_STORE, 0, FPINS[FPINNED[n]], RBP, off(h, &h.f[FPINNED[n]]))

cdef inline void emit_freload(Hart* h, Code* c) noexcept nogil:
    cdef int n
    for n in range(FPIN_COUNT):
        sse_rm(c, 0xf3, SSE_MOVQ_LOAD, 0, FPINS[FPINNED[n]], RBP, off(h, &h.f[FPINNED[n]]))

cdef inline void emit_entry(Hart* h, Jit* j, int fp) noexcept nogil:
    """run(hart, code), and the exits: the host's registers and MXCSR are as they were, the guest's are in the hart."""
    cdef Code* c = &j.code
    j.run[fp] = <Run>c.at
    push_r(c, RBX); push_r(c, RBP); push_r(c, R12); push_r(c, R13); push_r(c, R14); push_r(c, R15)
    alu_ri(c, SUB, 1, RSP, 8)
    lea_rm(c, 1, RBP, RDI, BIAS)
    mov_rr(c, 1, RAX, RSI)
    mov_rm(c, 1, R15, RBP, off(h, &h.countdown))
    if fp:
        stmxcsr_m(c, RBP, off(h, &h.host_mxcsr))
        mov_mi(c, 0, RBP, off(h, &h.guest_mxcsr), MXCSR_DEFAULT)
        ldmxcsr_m(c, RBP, off(h, &h.guest_mxcsr))
        emit_freload(h, c)
    emit_reload(c, 1)
    jump_r(c, RAX)
    j.exit_at[fp] = c.at
    alu_rm(c, ADD, 1, RAX, RBP, off(h, &h.page_va))
    mov_mr(c, 1, RBP, off(h, &h.pc), RAX)
    j.exit_set[fp] = c.at
    alu_rr(c, XOR, 0, RAX, RAX)
    j.exit_link[fp] = c.at
    mov_mr(c, 1, RBP, off(h, &h.exit_link), RAX)
    emit_spill(c, 1)
    if fp:
        emit_fspill(h, c)
        emit_sync(h, j)
        ldmxcsr_m(c, RBP, off(h, &h.host_mxcsr))
    mov_mr(c, 1, RBP, off(h, &h.countdown), R15)
    alu_ri(c, ADD, 1, RSP, 8)
    pop_r(c, R15); pop_r(c, R14); pop_r(c, R13); pop_r(c, R12); pop_r(c, RBP); pop_r(c, RBX)
    ret(c)

cdef inline void emit_refill(Hart* h, Jit* j, int mode, bint write) noexcept nogil:
    """RCX: an address as it is compared with a tag, RAX: a window's offset from the mode's first. Equal: the window is refilled from the TLB,
    the access is allowed, and RDX is the addend; RCX is lost."""
    cdef Code* c = &j.code
    cdef TlbEntry* e = &h.tlb[mode][0]
    cdef Window* w = &h.window[mode][0]
    cdef int32_t tag = off(h, &e.write_tag) if write else off(h, &e.read_tag)
    cdef uint8_t* found
    cdef uint8_t* miss
    j.refill[mode][write] = c.at
    emit_index(c)
    op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, tag)
    found = jump_cc(c, CC_E)
    alu_ri(c, XOR, 0, RDX, TLB_SIZE >> 1 << 5)               # as `second_place`
    op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, tag)
    miss = jump_cc(c, CC_NE)
    patch(found, c.at)                                       # moves keep the flags
    op_rx(c, OP_MOV_LOAD, 1, RCX, RBP, RDX, 0, off(h, &e.read_tag))
    op_rx(c, OP_MOV_STORE, 1, RCX, RBP, RAX, 0, off(h, &w.read_tag))
    op_rx(c, OP_MOV_LOAD, 1, RCX, RBP, RDX, 0, off(h, &e.write_tag))
    op_rx(c, OP_MOV_STORE, 1, RCX, RBP, RAX, 0, off(h, &w.write_tag))
    op_rx(c, OP_MOV_LOAD, 1, RDX, RBP, RDX, 0, off(h, &e.addend))
    op_rx(c, OP_MOV_STORE, 1, RDX, RBP, RAX, 0, off(h, &w.addend))
    patch(miss, c.at)
    ret(c)

cdef inline void emit_call(Hart* h, Jit* j, int number, int fp, bint all_of_them) noexcept nogil:
    """Call a helper with the hart as its first argument. The stack is aligned; registers that C may use are put away."""
    cdef Code* c = &j.code
    mov_mr(c, 1, RBP, off(h, &h.countdown), R15)
    lea_rm(c, 1, RDI, RBP, -BIAS)
    call_m(c, RBP, off(h, &h.helpers[number]))
    mov_rm(c, 1, R15, RBP, off(h, &h.countdown))
    emit_reload(c, all_of_them)
    if fp:
        emit_freload(h, c)

cdef inline void emit_slow(Hart* h, Jit* j, int fp, bint write) noexcept nogil:
    """RAX: address, EDX: `packed`, RCX: the value of a store; RAX: that of a load. Comes back only if the next instruction follows."""
    cdef Code* c = &j.code
    cdef uint8_t* over
    cdef uint8_t* fault = NULL
    j.slow[fp][write] = c.at
    push_r(c, RDX)
    emit_spill(c, 0)
    if fp:
        emit_fspill(h, c)
    mov_rr(c, 1, RSI, RAX)
    mov_rr(c, 1, R8, RCX)
    mov_rr(c, 0, RCX, RDX)
    shift_ri(c, SHR, 0, RCX, 25)
    alu_ri(c, AND, 0, RCX, 3)
    mov_ri(c, RDX, 1)
    shift_rcl(c, SHL, 0, RDX)
    mov_rr(c, 1, RCX, R8)
    emit_call(h, j, 1 if write else 0, fp, 0)
    pop_r(c, RDX)
    alu_mi(c, CMP, 0, RBP, off(h, &h.status), CONTINUE)
    over = jump_cc(c, CC_NE)
    ret(c)
    patch(over, c.at)
    alu_ri(c, ADD, 1, RSP, 8)                                # it doesn't come back
    op_rr(c, OP_MOVZX16, 0, RAX, RDX)                        # where the instruction is
    mov_rr(c, 0, RCX, RDX)
    shift_ri(c, SHR, 0, RDX, 16)
    op_rr8(c, OP_MOVZX8, 0, RDX, RDX)                        # how many were left
    alu_rr(c, ADD, 1, R15, RDX)
    if write:                                                # a store into code is done, and what follows is looked up anew
        alu_mi(c, CMP, 0, RBP, off(h, &h.status), LEAVE)
        fault = jump_cc(c, CC_NE)
        shift_ri(c, SHR, 0, RCX, 23)
        alu_ri(c, AND, 0, RCX, 2)
        alu_rr(c, ADD, 0, RAX, RCX)
        alu_ri(c, ADD, 0, RAX, 2)
        jump_to(c, j.exit_at[fp])
        patch(fault, c.at)
    alu_ri(c, ADD, 1, R15, 1)
    jump_to(c, j.exit_at[fp])

cdef inline void emit_arm_call(Hart* h, Jit* j, int fp) noexcept nogil:
    """RAX: a Single. Comes back if the next instruction follows, or goes where the helper says."""
    cdef Code* c = &j.code
    cdef uint8_t* elsewhere
    j.arm[fp] = c.at
    alu_ri(c, SUB, 1, RSP, 8)
    emit_spill(c, 1)
    if fp:
        emit_fspill(h, c)
    mov_rr(c, 1, RSI, RAX)
    emit_call(h, j, 2, fp, 1)
    alu_ri(c, ADD, 1, RSP, 8)
    op_rr(c, OP_TEST, 1, RAX, RAX)
    elsewhere = jump_cc(c, CC_NE)
    ret(c)
    patch(elsewhere, c.at)
    alu_ri(c, ADD, 1, RSP, 8)
    jump_r(c, RAX)

cdef inline void emit_straddle(Hart* h, Jit* j, int fp) noexcept nogil:
    """To what lies in this page and the next one, and on from there."""
    cdef Code* c = &j.code
    j.straddle[fp] = c.at
    emit_spill(c, 1)
    if fp:
        emit_fspill(h, c)
        emit_sync(h, j)                                      # it may read the flags
    emit_call(h, j, 3, fp, 1)
    jump_r(c, RAX)

cdef inline void emit_onward(Hart* h, Jit* j, int fp) noexcept nogil:
    """From a link that leads nowhere, or from an indirect jump without landing, to translated code if there is any, or out."""
    cdef Code* c = &j.code
    cdef uint8_t* out
    j.onward_pc[fp] = c.at
    mov_mr(c, 1, RBP, off(h, &h.pc), RAX)
    alu_rr(c, XOR, 0, RAX, RAX)
    j.onward[fp] = c.at
    emit_spill(c, 0)
    if fp:
        emit_fspill(h, c)
    mov_rr(c, 1, RSI, RAX)
    emit_call(h, j, 4, fp, 0)
    op_rr(c, OP_TEST, 1, RAX, RAX)
    out = jump_cc(c, CC_E)
    jump_r(c, RAX)
    patch(out, c.at)
    mov_rm(c, 1, RAX, RBP, off(h, &h.exit_link))
    jump_to(c, j.exit_link[fp])

cdef inline void emit_common(Hart* h, Jit* j) noexcept nogil:
    cdef Code* c = &j.code
    cdef int mode, fp, key
    j.code.at = j.memory
    j.code.end = j.memory + COMMON_SIZE
    emit_entry(h, j, 0)
    emit_entry(h, j, 1)
    for mode in range(TLB_MODES):
        emit_refill(h, j, mode, 0)
        emit_refill(h, j, mode, 1)
    for fp in range(2):
        emit_slow(h, j, fp, 0)
        emit_slow(h, j, fp, 1)
        emit_arm_call(h, j, fp)
        emit_straddle(h, j, fp)
        emit_onward(h, j, fp)
    for key in range(KEYS):
        emit_land_apart(h, j, <uint32_t>key)
    j.sync = c.at
    emit_sync(h, j)
    ret(c)
