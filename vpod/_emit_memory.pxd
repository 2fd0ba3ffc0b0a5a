"""Loads and stores as x86-64: the window of the base register, the TLB behind it, and the helpers behind that.

A *window* (`Hart.window`, by data mode and base register) is a copy of the TLB entry that accesses off this register hit last. Its compare is
the whole check, as the interpreter's: page and alignment in one. Neither of its fields depends on the address, so a load's value
depends on its base by one instruction.

    lea rcx, [base + imm]; and rcx, ~0xff8; cmp rcx, [window.read_tag]; jne miss
    mov rdx, [window.addend]; mov rd, [base + rdx + imm]

Several accesses off one unchanged base are a *group*: its first and last byte are compared, and the accesses are one instruction each. If they
are not all in one page, a copy of these instructions behind the translation checks each of them. Accesses within the aligned bytes of the
first, a reference count that is read and written, need one comparison, and two of them are a group.

A base that was loaded in the same trace is a pointer from a structure and may lead anywhere: its accesses ask the TLB itself, which takes three
instructions more, and the time of a load more until the address is known.

A miss refills the window from the TLB and tries again; if that misses too, C does the access, with the page tables, PMP, devices and
decoded code, and may say that the instruction faults. Windows are emptied with the TLB.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from vpod._decode cimport *
from vpod._hart cimport *
from vpod._mmu cimport STATUS_FS
from vpod._translator cimport *
from vpod._x86 cimport *

cdef enum:
    GROUP_MIN = 3              # accesses: with fewer, a check each costs no more
    GROUP_REACH = 32           # instructions
    PAIR_REACH = 6             #   where they are two: what stands between is emitted twice
    GROUP_SPAN = 1024          # bytes

cdef struct Place:             # where an access is
    int base
    int index                  # -1: none
    int32_t disp
    Out* out                   # its miss; NULL if there can't be one

cdef inline int window_of(Jit* j, int n) noexcept nogil:
    """The window for accesses off x[n]: one for all off the stack pointer, others by trace and register."""
    return 0 if n == 2 else 1 + <int>((j.seed + <uint32_t>n) % (WINDOWS - 1))

cdef inline bint is_load(int op) noexcept nogil:
    return op == OP_LB or op == OP_LBU or op == OP_LH or op == OP_LHU or op == OP_LW or op == OP_LWU or op == OP_LD

cdef inline bint is_store(int op) noexcept nogil:
    return op == OP_SB or op == OP_SH or op == OP_SW or op == OP_SD

cdef inline bint is_float_load(int op) noexcept nogil:
    return op == OP_FLW or op == OP_FLD

cdef inline bint is_float_store(int op) noexcept nogil:
    return op == OP_FSW or op == OP_FSD

cdef inline int log_size(int op) noexcept nogil:
    if op == OP_LB or op == OP_LBU or op == OP_SB: return 0
    elif op == OP_LH or op == OP_LHU or op == OP_SH: return 1
    elif op == OP_LW or op == OP_LWU or op == OP_SW or op == OP_FLW or op == OP_FSW: return 2
    else: return 3

cdef inline void emit_address(Code* c, Insn* i) noexcept nogil:
    """rs1 + imm into RAX."""
    if PINS[i.rs1] >= 0:
        if i.imm:
            lea_rm(c, 1, RAX, PINS[i.rs1], i.imm)
        else:
            mov_rr(c, 1, RAX, PINS[i.rs1])
    else:
        fetch(c, RAX, i.rs1)
        if i.imm:
            alu_ri(c, ADD, 1, RAX, i.imm)

cdef inline bint is_access(Jit* j, int op) noexcept nogil:
    """A load or store that is emitted here, and not left to its arm."""
    return is_load(op) or is_store(op) or is_float_store(op) or j.fp and is_float_load(op)

cdef inline bint writes(int op) noexcept nogil:
    return is_store(op) or is_float_store(op)

cdef inline bint is_chased(Jit* j, int n) noexcept nogil:
    return j.chased >> n & 1

cdef inline void follow(Jit* j, Insn* i) noexcept nogil:
    """Keep `j.chased` after an instruction: loaded pointers stay so when a constant is added."""
    if writes(i.op) or is_float_load(i.op) or i.rd == X0_SINK or OP_BEQ <= i.op <= OP_BGEU or i.op > OP_REMUW:
        return
    if i.op == OP_LD or i.op == OP_ADDI and is_chased(j, i.rs1):
        j.chased |= <uint32_t>1 << i.rd
    else:
        j.chased &= ~(<uint32_t>1 << i.rd)

cdef inline void emit_index(Code* c) noexcept nogil:
    """RDX becomes the offset in a TLB of the entry for the address in RCX."""
    mov_rr(c, 0, RDX, RCX)
    shift_ri(c, SHR, 0, RDX, PAGE_SHIFT - 5)                 # an entry is 32 bytes
    alu_ri(c, AND, 0, RDX, (TLB_SIZE - 1) << 5)

cdef inline void emit_window(Hart* h, Jit* j, Insn* i, Place* place, int left) noexcept nogil:
    """Check the access, unless its group was. `place` says where it is then: [base + RDX + imm], or [RAX]; RCX is lost."""
    cdef Code* c = &j.code
    cdef Window* w = &h.window[j.key & 3][window_of(j, i.rs1)]
    cdef TlbEntry* e = &h.tlb[j.key & 3][0]
    cdef bint inside = j.step <= j.group.last, direct
    cdef uint8_t* start = c.at
    place.out = NULL
    place.base = use(c, i.rs1, RAX)
    place.disp = i.imm
    place.index = RDX
    if inside and i.rs1 == j.group.base:
        return
    direct = not inside and is_chased(j, i.rs1)
    lea_rm(c, 1, RCX, place.base, i.imm)
    if direct:
        emit_index(c)
    alu_ri(c, AND, 1, RCX, -PAGE_SIZE | ((1 << log_size(i.op)) - 1))
    if direct:
        op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, off(h, &e.write_tag) if writes(i.op) else off(h, &e.read_tag))
    else:
        alu_rm(c, CMP, 1, RCX, RBP, off(h, &w.write_tag) if writes(i.op) else off(h, &w.read_tag))
    place.out = out_of_line(j, OUT_STORE if writes(i.op) else OUT_LOAD, jump_cc(c, CC_NE), i, left)
    place.out.back = start
    place.out.direct = direct
    if inside:                                               # RDX is the group's
        lea_rm(c, 1, RAX, place.base, i.imm)
        alu_rm(c, ADD, 1, RAX, RBP, off(h, &w.addend))
        place.base = RAX
        place.disp = 0
        place.index = -1
    elif direct:
        op_rx(c, OP_MOV_LOAD, 1, RDX, RBP, RDX, 0, off(h, &e.addend))
    else:
        mov_rm(c, 1, RDX, RBP, off(h, &w.addend))
        place.out.access = c.at

cdef inline void at_place(Code* c, uint32_t op, bint wide, int reg, Place* place) noexcept nogil:
    """`op` with the memory at `place`."""
    if place.index < 0:
        op_rm(c, op, wide, reg, place.base, place.disp)
    else:
        op_rx(c, op, wide, reg, place.base, place.index, 0, place.disp)

cdef inline void over(Code* c, Place* place) noexcept nogil:
    """The access is done."""
    if place.out != NULL:
        place.out.done = c.at

cdef inline void emit_load(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    cdef Code* c = &j.code
    cdef int op = i.op, d = RAX if i.rd == X0_SINK else into(i.rd, RAX)
    cdef uint32_t code = OP_MOV_LOAD
    cdef Place place
    emit_window(h, j, i, &place, left)
    if op == OP_LB: code = OP_MOVSX8
    elif op == OP_LBU: code = OP_MOVZX8
    elif op == OP_LH: code = OP_MOVSX16
    elif op == OP_LHU: code = OP_MOVZX16
    elif op == OP_LW: code = OP_MOVSXD
    at_place(c, code, not (op == OP_LBU or op == OP_LHU or op == OP_LWU), d, &place)
    if i.rd != X0_SINK:
        give(c, i.rd, d)
    over(c, &place)

cdef inline void emit_store_value(Code* c, int op, Place* place, int value) noexcept nogil:
    """`value` into memory."""
    if op == OP_SB and place.index < 0: mov_mr8(c, place.base, place.disp, value)
    elif op == OP_SB: mov_xr8(c, place.base, place.index, place.disp, value)
    elif op == OP_SH and place.index < 0: mov_mr16(c, place.base, place.disp, value)
    elif op == OP_SH: mov_xr16(c, place.base, place.index, place.disp, value)
    else: at_place(c, OP_MOV_STORE, op == OP_SD or op == OP_FSD, value, place)

cdef inline void emit_store(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    cdef Place place
    emit_window(h, j, i, &place, left)
    emit_store_value(&j.code, i.op, &place, use(&j.code, i.rs2, RCX))
    over(&j.code, &place)

cdef inline void emit_store_at_rest(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    """FSW or FSD where f is in the hart and FS may be Off: a setjmp in a process that doesn't compute with F. Nothing becomes Dirty."""
    cdef Code* c = &j.code
    cdef Place place
    cdef Out* off_out
    mov_ri(c, RAX, STATUS_FS)
    op_rm(c, OP_TEST, 0, RAX, RBP, off(h, &h.mstatus))
    off_out = out_of_line(j, OUT_ARM, jump_cc(c, CC_E), i, left)
    off_out.ends = 1                                         # it traps
    emit_window(h, j, i, &place, left)
    mov_rm(c, 1, RCX, RBP, off(h, &h.f[i.rs2]))
    emit_store_value(c, i.op, &place, RCX)
    over(c, &place)


# ---- atomics: one hart runs at a time, so they are a load, an operation and a store ------------------------------------

cdef inline bint is_atomic(int op) noexcept nogil:
    """One that is emitted: LR, SC, and the AMOs that are one instruction on memory. The others are left to their arms."""
    return OP_LR_W <= op <= OP_AMOOR_W or OP_LR_D <= op <= OP_AMOOR_D

cdef inline Out* emit_host_address(Hart* h, Jit* j, Insn* i, int size, bint write, int left) noexcept nogil:
    """x[rs1] as the host's address into RDX, if the TLB allows the access, which is aligned then; otherwise the arm does it all, and the
    result says where. RAX and RCX are lost."""
    cdef Code* c = &j.code
    cdef TlbEntry* e = &h.tlb[j.key & 3][0]
    cdef int base = use(c, i.rs1, RAX)
    cdef Out* o
    mov_rr(c, 1, RCX, base)
    emit_index(c)
    alu_ri(c, AND, 1, RCX, -PAGE_SIZE | ((1 << size) - 1))
    op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, off(h, &e.write_tag) if write else off(h, &e.read_tag))
    o = out_of_line(j, OUT_ARM, jump_cc(c, CC_NE), i, left)
    op_rx(c, OP_MOV_LOAD, 1, RDX, RBP, RDX, 0, off(h, &e.addend))
    alu_rr(c, ADD, 1, RDX, base)
    return o

cdef inline void emit_physical(Hart* h, Code* c, int reg) noexcept nogil:
    """A host's address within RAM becomes the guest's physical one."""
    alu_rm(c, SUB, 1, reg, RBP, off(h, &h.ram))
    alu_ri(c, SUB, 1, reg, <int32_t>RAM_BASE)                # which, sign-extended, is less 4 GiB: it is added

cdef inline void emit_atomic(Hart* h, Jit* j, Insn* i, int left) noexcept nogil:
    cdef Code* c = &j.code
    cdef int op = i.op if i.op < OP_LR_D else i.op - OP_LR_D + OP_LR_W, d
    cdef bint wide = i.op >= OP_LR_D
    cdef uint8_t* failed
    cdef Out* o = emit_host_address(h, j, i, 3 if wide else 2, op != OP_LR_W, left)
    d = RAX if i.rd == X0_SINK else into(i.rd, RAX)
    if op == OP_LR_W:
        op_rm(c, OP_MOV_LOAD if wide else OP_MOVSXD, 1, d, RDX, 0)
        emit_physical(h, c, RDX)
        mov_mr(c, 1, RBP, off(h, &h.reservation), RDX)
    elif op == OP_SC_W:
        mov_rr(c, 1, RAX, RDX)
        emit_physical(h, c, RAX)
        alu_rm(c, CMP, 1, RAX, RBP, off(h, &h.reservation))
        mov_mi(c, 1, RBP, off(h, &h.reservation), -1)        # the flags stay
        failed = jump_cc(c, CC_NE)
        op_rm(c, OP_MOV_STORE, wide, use(c, i.rs2, RCX), RDX, 0)     # x0's zero is made by an instruction that says "equal" too
        patch(failed, c.at)
        set_cc(c, CC_NE, RAX)
        op_rr8(c, OP_MOVZX8, 0, d, RAX)
    else:
        op_rm(c, OP_MOV_LOAD if wide else OP_MOVSXD, 1, RAX, RDX, 0)
        if op == OP_AMOSWAP_W:
            op_rm(c, OP_MOV_STORE, wide, use(c, i.rs2, RCX), RDX, 0)
        else:
            alu_mr(c, ADD if op == OP_AMOADD_W else XOR if op == OP_AMOXOR_W else AND if op == OP_AMOAND_W else OR,
                   wide, RDX, 0, use(c, i.rs2, RCX))
        if d != RAX and i.rd != X0_SINK:
            mov_rr(c, 1, d, RAX)
    if i.rd != X0_SINK:
        give(c, i.rd, d)
    o.done = c.at


# ---- groups: one check for several accesses off one base register ----------------------------------------------------

cdef inline bint breaks_group(Jit* j, Insn* i) noexcept nogil:
    """Does the instruction need RDX, or may its arm change what addresses mean? Anything but what is known not to."""
    cdef int op = i.op
    return not (is_access(j, op) or OP_ADDI <= op <= OP_FENCE or OP_BEQ <= op <= OP_BGEU or op == OP_LUI or op == OP_AUIPC
                or op == OP_MUL or op == OP_MULW or op == OP_JAL and (i.rd == X0_SINK or PINS[i.rd] >= 0))

cdef inline Group group_at(Jit* j, int first) noexcept nogil:
    """The group that begins with a step, which is an access; its count is 0 if there is no point."""
    cdef Group g
    cdef Insn* i = j.steps[first].insn
    cdef int k
    cdef int32_t low, high
    g.base = i.rs1
    g.low = i.imm
    g.high = i.imm + (1 << log_size(i.op)) - 1
    g.count = 0
    g.write = 0
    g.direct = is_chased(j, g.base)
    g.unit = log_size(i.op)
    g.last = first
    for k in range(first, j.step_count):
        i = j.steps[k].insn
        if k - first >= GROUP_REACH or breaks_group(j, i):
            break
        if is_access(j, i.op) and i.rs1 == g.base:
            low = i.imm if i.imm < g.low else g.low
            high = i.imm + (1 << log_size(i.op)) - 1
            if high < g.high:
                high = g.high
            if high - low >= GROUP_SPAN:
                break
            g.low = low
            g.high = high
            g.count += 1
            g.last = k
            g.write |= writes(i.op)
        if i.rd == g.base and not (writes(i.op) or is_float_load(i.op)):
            break
    if g.low != j.steps[first].insn.imm or (g.high - g.low) >> g.unit:
        g.unit = -1
    if g.count < GROUP_MIN and (g.count < 2 or g.unit < 0 or g.last - first > PAIR_REACH):
        g.count = 0
    return g

cdef inline int32_t page_mask(Group* g) noexcept nogil:
    """What of an address is compared: the page, and with a unit that it is aligned to that."""
    return -PAGE_SIZE | ((1 << g.unit) - 1 if g.unit > 0 else 0)

cdef inline uint8_t* emit_page_check(Hart* h, Code* c, Group* g, Window* w, TlbEntry* e) noexcept nogil:
    """Is the address in RCX in the page of the window, or of the TLB's entry at RDX, and aligned to the unit? The jump that says no."""
    alu_ri(c, AND, 1, RCX, page_mask(g))
    if g.direct:
        op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, off(h, &e.write_tag) if g.write else off(h, &e.read_tag))
    else:
        alu_rm(c, CMP, 1, RCX, RBP, off(h, &w.write_tag) if g.write else off(h, &w.read_tag))
    return jump_cc(c, CC_NE)

cdef inline void emit_group(Hart* h, Jit* j, Group* g, int left) noexcept nogil:
    """Check that all of a group lies in the page of its window, by its first and last byte, or by its unit; RDX is the addend then."""
    cdef Code* c = &j.code
    cdef Window* w = &h.window[j.key & 3][window_of(j, g.base)]
    cdef TlbEntry* e = &h.tlb[j.key & 3][0]
    cdef int base = use(c, g.base, RAX)
    cdef uint8_t* low = NULL
    cdef Out* o
    lea_rm(c, 1, RCX, base, g.low)
    if g.direct:
        emit_index(c)
    if g.unit < 0:
        low = emit_page_check(h, c, g, w, e)
        lea_rm(c, 1, RCX, base, g.high)
    o = out_of_line(j, OUT_GROUP, emit_page_check(h, c, g, w, e), j.steps[j.step].insn, left)
    o.low = low
    o.back = c.at
    o.group = g[0]
    o.step = j.step
    o.boxed = j.boxed
    o.chased = j.chased
    if g.direct:
        op_rx(c, OP_MOV_LOAD, 1, RDX, RBP, RDX, 0, off(h, &e.addend))
    else:
        mov_rm(c, 1, RDX, RBP, off(h, &w.addend))

cdef inline void emit_group_miss(Hart* h, Jit* j, Out* o) noexcept nogil:
    """The window is refilled, and the last byte compared again; what still isn't in one page goes on behind this, access by access."""
    cdef Code* c = &j.code
    cdef uint32_t mode = j.key & 3
    cdef Window* w = &h.window[mode][window_of(j, o.group.base)]
    cdef uint8_t* apart
    patch(o.low, c.at)
    if o.group.direct:
        return
    lea_rm(c, 1, RCX, use(c, o.group.base, RAX), o.group.low)
    alu_ri(c, AND, 1, RCX, page_mask(&o.group))
    mov_ri(c, RAX, <uint64_t>window_of(j, o.group.base) * sizeof(Window))
    call_to(c, j.refill[mode][o.group.write])
    if o.group.unit >= 0:
        jump_cc_to(c, CC_E, o.back)
        return
    apart = jump_cc(c, CC_NE)
    lea_rm(c, 1, RCX, use(c, o.group.base, RAX), o.group.high)
    alu_ri(c, AND, 1, RCX, -PAGE_SIZE)
    alu_rm(c, CMP, 1, RCX, RBP, off(h, &w.write_tag) if o.group.write else off(h, &w.read_tag))
    jump_cc_to(c, CC_E, o.back)
    patch(apart, c.at)


# ---- a miss ------------------------------------------------------------------------------------------------------

cdef inline void emit_loaded(Jit* j, Insn* i) noexcept nogil:
    """RAX, zero-extended from memory, becomes the result of a load; of FLW and FLD in the register that the load uses."""
    cdef Code* c = &j.code
    cdef int d
    if is_float_load(i.op):
        sse_rr(c, 0x66, SSE_MOV_FROM_GPR, 1, FPINS[i.rd] if FPINS[i.rd] >= 0 else 0, RAX)
    elif i.rd != X0_SINK:
        d = into(i.rd, RAX)
        if i.op == OP_LB: op_rr8(c, OP_MOVSX8, 1, d, RAX)
        elif i.op == OP_LH: op_rr(c, OP_MOVSX16, 1, d, RAX)
        elif i.op == OP_LW: op_rr(c, OP_MOVSXD, 1, d, RAX)
        else: mov_rr(c, 1, d, RAX)
        give(c, i.rd, d)

cdef inline void emit_miss(Hart* h, Jit* j, Out* o) noexcept nogil:
    """An access that its window didn't allow. A fault leaves everything as it was before the instruction."""
    cdef Code* c = &j.code
    cdef Insn* i = o.insn
    cdef bint write = o.kind == OUT_STORE
    cdef int size = log_size(i.op)
    cdef uint8_t* miss
    if o.grouped:
        mov_mr(c, 1, RBP, off(h, &h.group_addend), RDX)
    if not o.direct:
        mov_ri(c, RAX, <uint64_t>window_of(j, i.rs1) * sizeof(Window))
        call_to(c, j.refill[j.key & 3][write])
        if o.access == NULL:                                 # RDX is a group's: the check again, and what follows it
            mov_rm(c, 1, RDX, RBP, off(h, &h.group_addend))  # the flags stay
            jump_cc_to(c, CC_E, o.back)
        elif PINS[i.rs1] >= 0:
            jump_cc_to(c, CC_E, o.access)
        else:
            miss = jump_cc(c, CC_NE)
            fetch(c, RAX, i.rs1)
            jump_to(c, o.access)
            patch(miss, c.at)
    emit_address(c, i)
    mov_ri(c, RDX, packed(i, size, o.at, o.left))
    if is_float_store(i.op) and j.fp and FPINS[i.rs2] >= 0:
        sse_rr(c, 0x66, SSE_MOV_TO_GPR, 1, FPINS[i.rs2], RCX)
    elif is_float_store(i.op):
        mov_rm(c, 1, RCX, RBP, off(h, &h.f[i.rs2]))
    elif write:
        fetch(c, RCX, i.rs2)
    call_to(c, j.slow[j.fp][write])
    if not write:
        emit_loaded(j, i)
    if o.grouped:
        mov_rm(c, 1, RDX, RBP, off(h, &h.group_addend))
    jump_to(c, o.done)
