"""Decoded blocks: straight runs of instructions, kept by physical address.

A block lies within one page of RAM and holds at most MAX_BLOCK instructions. Since its key is physical and nothing in it depends on
privilege, it survives `sfence.vma`, `satp` switches and traps. What ties it to a virtual address is kept apart: the jump cache
(virtual pc and privilege → block), emptied with the TLB, and the links of a block, which lead only to blocks of the same page
and so hold under whatever address that page is mapped.

How written code is noticed and blocks are dropped stands in `_code.pxd`.

An instruction that crosses into another page, or lies in a page that PMP splits, is decoded into the hart's scratch block each time.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from vpod._hart cimport *
from vpod._decode cimport *
from vpod._code cimport *
from vpod._mmu cimport *

cdef enum:
    MAX_BLOCK = 64
    MAX_SCRATCH = 20
    ARENA_SIZE = 64 << 20

cdef enum Pseudo:              # what only the block builder makes; numbers go on where the table's end
    OP_NEXT = OP_TABLE_END     # end of a block that just runs on; not an instruction, not counted
    OP_CSR_INLINE              # a CSR instruction after which the block may go on

cdef enum CsrKind:             # kept in rs3 of a CSR instruction
    CSR_WRITE = 1
    CSR_SET = 2
    CSR_CLEAR = 3
    CSR_IMMEDIATE = 4          # added when rs1 is the operand itself


# ---- entering a block under its page ------------------------------------------------------------------------------

cdef inline void mark_code(Hart* h, Block* block) noexcept nogil:
    """Enter a finished block under its page, and make stores to the page miss."""
    cdef uint64_t offset = block.pa - RAM_BASE
    cdef uint64_t number = offset >> PAGE_SHIFT
    cdef CodePage* page = h.code_pages[number]
    cdef uint64_t first = (offset & (PAGE_SIZE - 1)) >> 6
    cdef uint64_t last = ((offset + block.size - 1) & (PAGE_SIZE - 1)) >> 6
    if page == NULL:
        page = <CodePage*>(h.arena + h.arena_used)
        h.arena_used += sizeof(CodePage)
        page.lines = 0
        page.blocks = NULL
        h.code_pages[number] = page
        tlb_forbid_writes(h, number)
    page.lines |= (NONE >> (63 - last + first)) << first
    block.page_next = page.blocks
    page.blocks = block


# ---- building ------------------------------------------------------------------------------------------------

cdef inline bint csr_is_quiet(int32_t number) noexcept nogil:
    """CSRs whose access changes nothing that the rest of a block depends on: no interrupt, no mode, no count."""
    return (number == 0x140 or number == 0x141 or number == 0x142 or number == 0x143     # sscratch sepc scause stval
            or number == 0x001 or number == 0x002 or number == 0x003 or number == 0xc01)  # fflags frm fcsr time

cdef inline bint finish(Insn* i, uint32_t offset) noexcept nogil:
    """Fit a decoded instruction into its block; true if it ends the block."""
    cdef int op = i.op
    i.offset = offset
    if (op == OP_BEQ or op == OP_BNE or op == OP_BLT or op == OP_BGE or op == OP_BLTU or op == OP_BGEU or op == OP_JAL):
        i.imm += <int32_t>offset                         # now from the start of the block
        return 1
    if op == OP_CSRRW or op == OP_CSRRWI:
        i.rs3 = CSR_WRITE
    elif op == OP_CSRRS or op == OP_CSRRSI:
        i.rs3 = CSR_SET
    elif op == OP_CSRRC or op == OP_CSRRCI:
        i.rs3 = CSR_CLEAR
    else:
        return (op == OP_JALR or op == OP_ILLEGAL or op == OP_ECALL or op == OP_EBREAK or op == OP_MRET or op == OP_SRET
                or op == OP_WFI or op == OP_SFENCE_VMA or op == OP_FENCE_I)
    if op == OP_CSRRWI or op == OP_CSRRSI or op == OP_CSRRCI:
        i.rs3 += CSR_IMMEDIATE
    if csr_is_quiet(i.imm):
        i.op = OP_CSR_INLINE
        return 0
    return 1

cdef inline void fill_block(Hart* h, Block* block, uint8_t* code, uint32_t room, uint32_t limit) noexcept nogil:
    """Decode at most `limit` instructions from `code`, of which `room` bytes may be read; the first one fits."""
    cdef Insn* i = block.insns
    cdef uint32_t at = 0, word
    cdef bint ended = 0
    block.count = 0
    block.link[0] = NULL
    block.link[1] = NULL
    while not ended and block.count < limit and at + 2 <= room:
        word = <uint32_t>load_raw(code + at, 2)
        if word & 3 == 3:
            if at + 4 > room:
                break
            word = <uint32_t>load_raw(code + at, 4)
        decode(word, i)
        ended = finish(i, at)
        i.run = h.arms[i.op]
        at += i.length
        block.count += 1
        i += 1
    block.size = at
    i.op = OP_NEXT
    i.run = h.arms[<int>OP_NEXT]
    i.offset = at
    i.length = 0

cdef inline Block* new_block(Hart* h, uint64_t pa) noexcept nogil:
    """Decode the block at a physical address, of which the page is RAM and may be executed; NULL if the arena is full, or if its first
    instruction crosses into another page."""
    cdef Block* block = <Block*>(h.arena + h.arena_used)
    cdef Block** slot = hash_slot(h, pa)
    cdef uint8_t* code = h.ram + (pa - RAM_BASE)
    cdef uint32_t room = PAGE_SIZE - <uint32_t>(pa & (PAGE_SIZE - 1))
    if (h.arena_used + sizeof(Block) + (MAX_BLOCK + 1) * sizeof(Insn) + sizeof(CodePage) > ARENA_SIZE
            or room == 2 and code[0] & 3 == 3):
        return NULL
    fill_block(h, block, code, room, MAX_BLOCK)
    h.arena_used += sizeof(Block) + block.count * sizeof(Insn)
    block.pa = pa
    block.translations = NULL
    block.heat = h.threshold
    if h.counting != NULL:
        block.first = block.insns[0].run
        block.insns[0].run = h.counting
    block.hash_next = slot[0]
    slot[0] = block
    mark_code(h, block)
    return block

cdef inline Block* scratch_block(Hart* h, uint8_t* code, uint32_t room, uint32_t limit) noexcept nogil:
    cdef Block* block = <Block*>h.scratch
    block.pa = NONE                                      # never linked, never entered anywhere
    fill_block(h, block, code, room, limit if limit < MAX_SCRATCH else MAX_SCRATCH)
    return block

cdef inline uint32_t fetch_parcels(Hart* h, uint64_t pc, uint8_t* code) noexcept nogil:
    """The bytes of one instruction, each parcel with its own translation and rights: 2 or 4 of them; 0 with a stored trap."""
    cdef uint64_t pa
    cdef uint32_t at = 0, size = 2
    cdef TlbEntry* e
    while at < size:
        e = first_place(h, fetch_mode(h), pc + at)
        if likely(e.exec_tag == (pc + at) & ~<uint64_t>(PAGE_SIZE - 1)):
            pa = e.addend + pc + at - <uint64_t>h.ram + RAM_BASE
        elif not translate(h, pc + at, EXECUTE, fetch_mode(h), 2, &pa):
            return 0                                     # the trap's value is the parcel's address, its epc will be pc
        if not in_ram(h, pa, 2):
            access_fault(h, pc + at, EXECUTE)
            return 0
        code[at] = h.ram[pa - RAM_BASE]
        code[at + 1] = h.ram[pa - RAM_BASE + 1]
        if code[0] & 3 == 3:
            size = 4
        at += 2
    return size

cdef inline Block* fetch_apart(Hart* h, uint64_t pc) noexcept nogil:
    """A block of one instruction, fetched parcel by parcel; NULL with a stored trap."""
    cdef uint8_t code[4]
    cdef uint32_t size = fetch_parcels(h, pc, code)
    return scratch_block(h, code, size, 1) if size else NULL

cdef inline Block* find_block(Hart* h, uint32_t limit) noexcept nogil:
    """The block at h.pc, of at most `limit` instructions (0: any number); NULL with a stored trap."""
    cdef uint64_t pc = h.pc
    cdef uint64_t pa, offset
    cdef uint32_t room = PAGE_SIZE - <uint32_t>(pc & (PAGE_SIZE - 1))
    cdef uint32_t mode = fetch_mode(h)
    cdef TlbEntry* e = first_place(h, mode, pc)
    cdef Block* block
    cdef JumpEntry* entry
    if e.exec_tag != pc & ~<uint64_t>(PAGE_SIZE - 1):
        if not translate(h, pc, EXECUTE, mode, 2, &pa):
            return NULL
        if e.exec_tag != pc & ~<uint64_t>(PAGE_SIZE - 1):
            return fetch_apart(h, pc)                    # not RAM, or rights differ within the page
    offset = e.addend + pc - <uint64_t>h.ram
    if room == 2 and h.ram[offset] & 3 == 3:
        return fetch_apart(h, pc)
    if limit:
        return scratch_block(h, h.ram + offset, room, limit)
    pa = offset + RAM_BASE
    block = hash_slot(h, pa)[0]
    while block != NULL and block.pa != pa:
        block = block.hash_next
    if block == NULL:
        block = new_block(h, pa)
    if block == NULL:
        drop_all(h)
        block = new_block(h, pa)
    entry = jump_entry(h, pc)
    entry.tag = pc
    entry.block = block
    h.jumped |= <uint32_t>1 << h.priv
    return block
