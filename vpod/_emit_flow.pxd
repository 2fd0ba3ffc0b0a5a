"""Where translated code goes next: links, indirect jumps, branches, and the interpreter's arms.

* A direct jump goes through its *link*, a data slot that leads to the exit until `_jit.pyx` has found what follows. Code never changes.
  A link within a page holds under whatever address that page is mapped; one into another page holds for the virtual page it was made
  from and the generation of the address space, and both are compared first.
* An indirect jump looks its virtual address up in the table of *landings* of its key, which is emptied whenever a virtual address may
  mean another physical one.
* A branch in the middle of a trace leaves it by a side exit, which gives the countdown back what was not executed.
* What has no emitter is executed by its arm, alone in a block of its own; so is what lies in two pages, fetched each time.

    emit_link(h, j, t, offset)          # jmp [link.target]
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from vpod._code cimport note_entered
from vpod._decode cimport *
from vpod._emit_memory cimport emit_address
from vpod._hart cimport *
from vpod._translator cimport *
from vpod._x86 cimport *


cdef inline bint is_branch(int op) noexcept nogil:
    return op == OP_BEQ or op == OP_BNE or op == OP_BLT or op == OP_BGE or op == OP_BLTU or op == OP_BGEU

cdef inline bint straddles(Hart* h, Translation* t) noexcept nogil:
    """Does an instruction of four bytes begin with the last two of the page?"""
    return h.ram[(t.pa | (PAGE_SIZE - 1)) - 1 - RAM_BASE] & 3 == 3

cdef inline void emit_link(Hart* h, Jit* j, Translation* t, int32_t offset) noexcept nogil:
    """Go on at `offset` from the page's start: through a link, or back to the trace's head."""
    cdef Code* c = &j.code
    cdef FarLink* far
    cdef Link* link
    cdef uint8_t* other = NULL
    cdef uint8_t* older = NULL
    if offset == j.head:
        jump_to(c, t.entry)
        return
    if offset == PAGE_SIZE - 2 and straddles(h, t):
        jump_to(c, j.straddle[j.fp])
        return
    far = <FarLink*>take_data(j, sizeof(Link) if 0 <= offset < PAGE_SIZE else sizeof(FarLink))
    link = &far.link
    link.offset = offset
    link.source = t
    link.sibling = t.links
    t.links = link
    if not 0 <= offset < PAGE_SIZE:                          # another page: is it still the one that the link was made for?
        link.far = 1
        far.page_va = NONE
        mov_rm(c, 1, RAX, RBP, off(h, &h.page_va))
        op_rp(c, CMP << 3 | 3, 1, RAX, &far.page_va)
        other = jump_cc(c, CC_NE)
        mov_rm(c, 1, RAX, RBP, off(h, &h.running_generation))
        op_rp(c, CMP << 3 | 3, 1, RAX, &far.generation)
        older = jump_cc(c, CC_NE)
        op_rp(c, OP_MOV_LOAD, 1, RAX, &far.next_page_va)
        mov_mr(c, 1, RBP, off(h, &h.page_va), RAX)
    jump_p(c, &link.target)
    patch(other, c.at)
    patch(older, c.at)
    link.stub = c.at
    link.target = c.at
    op_rp(c, OP_LEA, 1, RAX, link)
    jump_to(c, j.onward[j.fp])

cdef inline void emit_return_address(Hart* h, Code* c, Insn* i, int32_t next_offset) noexcept nogil:
    """rd of a jump. RAX is kept."""
    cdef int d
    if i.rd == X0_SINK:
        return
    d = into(i.rd, RDX)
    mov_rm(c, 1, d, RBP, off(h, &h.page_va))
    alu_ri(c, ADD, 1, d, next_offset)
    give(c, i.rd, d)

cdef inline void emit_indirect(Hart* h, Jit* j, Insn* i) noexcept nogil:
    """JALR, through the table of landings."""
    cdef Code* c = &j.code
    cdef Landing* landing = &h.landing[j.key][0]
    emit_address(c, i)
    alu_ri(c, AND, 1, RAX, -2)
    emit_return_address(h, c, i, j.base + <int32_t>i.offset + i.length)
    mov_rr(c, 0, RCX, RAX)
    shift_ri(c, SHR, 0, RCX, 11)
    alu_rr(c, XOR, 0, RCX, RAX)
    alu_ri(c, AND, 0, RCX, <int32_t>(j.landing_mask << 1))   # twice the index: a landing is 16 bytes
    op_rx(c, CMP << 3 | 3, 1, RAX, RBP, RCX, 3, off(h, &landing.tag))
    jump_cc_to(c, CC_NE, j.land_apart[j.key])
    emit_landed(h, j, j.key)

cdef inline void emit_landed(Hart* h, Jit* j, uint32_t key) noexcept nogil:
    """To the landing of RAX, of which RCX is twice the index."""
    cdef Code* c = &j.code
    cdef Landing* landing = &h.landing[key][0]
    alu_ri(c, AND, 1, RAX, -PAGE_SIZE)
    mov_mr(c, 1, RBP, off(h, &h.page_va), RAX)
    op_rx(c, 0xff, 0, 4, RBP, RCX, 3, off(h, &landing.code))

cdef inline void emit_land_apart(Hart* h, Jit* j, uint32_t key) noexcept nogil:
    """RAX is not at its first place, of whose index RCX is twice: it may be at the second."""
    cdef Code* c = &j.code
    j.land_apart[key] = c.at
    alu_ri(c, XOR, 0, RCX, <int32_t>(second_landing(j, 0) << 1))
    op_rx(c, CMP << 3 | 3, 1, RAX, RBP, RCX, 3, off(h, &h.landing[key][0].tag))
    jump_cc_to(c, CC_NE, j.onward_pc[key >> 2])
    emit_landed(h, j, key)

cdef inline uint64_t first_landing(Jit* j, uint64_t pc) noexcept nogil:
    """The index where `emit_indirect` looks for `pc` first."""
    return ((pc >> 1) ^ (pc >> 12)) & j.landing_mask

cdef inline uint64_t second_landing(Jit* j, uint64_t first) noexcept nogil:
    """And where it looks then."""
    return first ^ ((<uint64_t>j.landing_mask + 1) >> 1)

cdef inline Landing* landing_of(Hart* h, Jit* j, uint32_t key, uint64_t pc) noexcept nogil:
    """The landing that is known for `pc`, or NULL."""
    cdef uint64_t first = first_landing(j, pc), second = second_landing(j, first)
    if h.landing[key][first].tag == pc:
        return &h.landing[key][first]
    return &h.landing[key][second] if h.landing[key][second].tag == pc else NULL

cdef inline void land(Hart* h, Jit* j, Translation* t, uint64_t pc) noexcept nogil:
    """Indirect jumps to `pc` lead to `t` from now on. What was in its first place moves to the second."""
    cdef uint64_t first = first_landing(j, pc)
    cdef Landing* landing = &h.landing[t.key][first]
    if landing.tag != pc and landing.tag != NONE:
        h.landing[t.key][second_landing(j, first)] = landing[0]
    landing.tag = pc
    landing.code = t.entry
    note_entered(h, pc)
    h.landed |= <uint32_t>1 << t.key

cdef inline int emit_compare(Code* c, Insn* i) noexcept nogil:
    """Compare as a branch does; the condition under which it is taken."""
    cdef int a
    if i.rs2 == 0 and PINS[i.rs1] >= 0:
        op_rr(c, OP_TEST, 1, PINS[i.rs1], PINS[i.rs1])       # as cmp with zero: OF and CF are clear
    elif i.rs2 == 0 and i.rs1 != 0:
        alu_mi(c, CMP, 1, RBP, xoff(i.rs1), 0)
    elif PINS[i.rs1] < 0 and PINS[i.rs2] >= 0 and i.rs1 != 0:
        alu_mr(c, CMP, 1, RBP, xoff(i.rs1), PINS[i.rs2])
    else:
        a = use(c, i.rs1, RAX)
        alu_x(c, CMP, 1, a, i.rs2)
    if i.op == OP_BEQ: return CC_E
    elif i.op == OP_BNE: return CC_NE
    elif i.op == OP_BLT: return CC_L
    elif i.op == OP_BGE: return CC_GE
    elif i.op == OP_BLTU: return CC_B
    else: return CC_AE

cdef inline void emit_branch(Hart* h, Jit* j, Translation* t, Insn* i, int32_t follows, int left) noexcept nogil:
    """A branch; the trace goes on at `follows`, or ends here (-1)."""
    cdef Code* c = &j.code
    cdef int32_t taken = j.base + i.imm, next = j.base + <int32_t>i.offset + i.length
    cdef int cc = emit_compare(c, i)
    if follows == -1 and taken == j.head:
        jump_cc_to(c, cc, t.entry)
        emit_link(h, j, t, next)
    elif follows == -1:
        out_of_line(j, OUT_SIDE, jump_cc(c, cc), i, 0).target = taken
        emit_link(h, j, t, next)
    elif follows == next:
        out_of_line(j, OUT_SIDE, jump_cc(c, cc), i, left).target = taken
    else:
        out_of_line(j, OUT_SIDE, jump_cc(c, cc ^ 1), i, left).target = next

cdef inline void emit_arm(Hart* h, Jit* j, Insn* i, int32_t at, int left) noexcept nogil:
    """Have the interpreter's arm execute one instruction, at an offset in the page. It comes back here if the next one follows;
    otherwise it is over, or goes on where the guest does."""
    cdef Code* c = &j.code
    cdef Single* s = <Single*>take_data(j, sizeof(Single))
    s.insn = i[0]
    s.insn.offset = 0
    s.insn.run = h.arms[i.op]
    s.at = at
    s.left = left
    op_rp(c, OP_LEA, 1, RAX, s)
    call_to(c, j.arm[j.fp])
