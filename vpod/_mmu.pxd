"""Addresses and memory: PMP, Sv39, the soft TLB, and the slow half of every load and store.

The interpreter's hit path is one compare and one add (`tag == address & mask`, `addend + address`). Everything unusual is
arranged to miss and comes here: devices, misaligned and page-crossing accesses, pages with decoded code, clean pages, pages that
PMP splits. Only RAM pages with uniform rights ever enter the TLB, so `addend` can't lead outside RAM: `tlb_fill` is the
one place that makes an entry, and it is given an offset into RAM that `ram_offset` has checked.

Example: a store to a clean page misses (its write tag isn't set), `translate` walks the table, sets the D bit, and `tlb_fill` sets the
write tag; the next store hits.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vpod._hart cimport *
from vpod._code cimport code_written, jump_flush, jump_flush_mode, jump_flush_page

cdef enum Access:
    READ = 1                   # the values are PMP's and, shifted by one, the PTE's permission bits
    WRITE = 2
    EXECUTE = 4

cdef enum:
    MODE_U = 0
    MODE_S = 1
    MODE_S_SUM = 2
    MODE_M = 3

cdef enum:                     # bits of a page-table entry
    PTE_V = 1 << 0
    PTE_R = 1 << 1
    PTE_W = 1 << 2
    PTE_X = 1 << 3
    PTE_U = 1 << 4
    PTE_G = 1 << 5
    PTE_A = 1 << 6
    PTE_D = 1 << 7

cdef enum:                     # mstatus
    STATUS_SIE = 1 << 1
    STATUS_MIE = 1 << 3
    STATUS_SPIE = 1 << 5
    STATUS_MPIE = 1 << 7
    STATUS_SPP = 1 << 8
    STATUS_MPP = 3 << 11
    STATUS_FS = 3 << 13
    STATUS_MPRV = 1 << 17
    STATUS_SUM = 1 << 18
    STATUS_MXR = 1 << 19
    STATUS_TVM = 1 << 20
    STATUS_TW = 1 << 21
    STATUS_TSR = 1 << 22

cdef enum:
    PMP_A = 3 << 3
    PMP_L = 1 << 7

# ---- traps that an access stores -------------------------------------------------------------------------------

cdef inline bint raise_trap(Hart* h, uint64_t cause, uint64_t value) noexcept nogil:
    """Store a trap for the run loop to deliver; false, so that a caller can return it."""
    h.trap_pending = 1
    h.trap_cause = cause
    h.trap_value = value
    return 0

cdef inline bint page_fault(Hart* h, uint64_t va, uint32_t access) noexcept nogil:
    return raise_trap(h, CAUSE_FETCH_PAGE if access == EXECUTE else CAUSE_LOAD_PAGE if access == READ else CAUSE_STORE_PAGE, va)

cdef inline bint access_fault(Hart* h, uint64_t va, uint32_t access) noexcept nogil:
    return raise_trap(
        h, CAUSE_FETCH_ACCESS if access == EXECUTE else CAUSE_LOAD_ACCESS if access == READ else CAUSE_STORE_ACCESS, va)


# ---- physical memory protection ---------------------------------------------------------------------------------

cdef inline void pmp_update(Hart* h) noexcept nogil:
    """Work out the entries' ranges after a write to a PMP register. Privileged specification, "Physical Memory Protection"."""
    cdef int n
    cdef uint64_t a, ones
    cdef uint32_t kind
    h.pmp_active = 0
    for n in range(PMP_ENTRIES):
        kind = (h.pmpcfg[n] & PMP_A) >> 3
        a = h.pmpaddr[n]
        h.pmp_low[n] = 1                     # low > high: matches nothing
        h.pmp_high[n] = 0
        if kind == 0:
            continue
        h.pmp_active = n + 1
        if kind == 1:                        # TOR: from the entry before
            h.pmp_low[n] = (h.pmpaddr[n - 1] << 2) if n else 0
            if a != 0 and (a << 2) > h.pmp_low[n]:
                h.pmp_high[n] = (a << 2) - 1
            else:
                h.pmp_low[n] = 1
        elif kind == 2:                      # NA4
            h.pmp_low[n] = a << 2
            h.pmp_high[n] = (a << 2) + 3
        else:                                # NAPOT: trailing ones give the size
            ones = a ^ (a + 1)               # 2^(trailing ones + 1) - 1
            h.pmp_low[n] = (a & ~ones) << 2
            h.pmp_high[n] = h.pmp_low[n] + (ones << 2) + 3

cdef inline int pmp_rights(Hart* h, uint64_t pa, uint64_t size, uint32_t priv) noexcept nogil:
    """READ|WRITE|EXECUTE that the lowest matching entry gives to [pa, pa+size); -1 where it covers only a part."""
    cdef uint32_t n
    cdef uint64_t last = pa + size - 1
    for n in range(h.pmp_active):
        if h.pmp_low[n] > h.pmp_high[n] or last < h.pmp_low[n] or pa > h.pmp_high[n]:
            continue
        if pa < h.pmp_low[n] or last > h.pmp_high[n]:
            return -1
        if priv == PRIV_M and not h.pmpcfg[n] & PMP_L:
            return READ | WRITE | EXECUTE
        return h.pmpcfg[n] & 7
    return READ | WRITE | EXECUTE if priv == PRIV_M else 0

cdef inline bint pmp_allows(Hart* h, uint64_t pa, uint64_t size, uint32_t access, uint32_t priv) noexcept nogil:
    cdef int rights = pmp_rights(h, pa, size, priv)
    return rights > 0 and rights & access == access      # an access that an entry covers only in part fails


# ---- physical RAM ----------------------------------------------------------------------------------------------

cdef inline bint in_ram(Hart* h, uint64_t pa, uint64_t size) noexcept nogil:
    return pa >= RAM_BASE and pa - RAM_BASE <= h.ram_size - size

cdef inline uint64_t load_raw(uint8_t* p, uint32_t size) noexcept nogil:
    """A little-endian value of 1, 2, 4 or 8 bytes at any alignment; hosts are little-endian."""
    cdef uint64_t value = 0
    memcpy(&value, p, size)
    return value

cdef inline void store_raw(uint8_t* p, uint32_t size, uint64_t value) noexcept nogil:
    memcpy(p, &value, size)


# ---- the soft TLB ----------------------------------------------------------------------------------------------

cdef inline uint32_t mode_priv(uint32_t mode) noexcept nogil:
    return PRIV_M if mode == MODE_M else PRIV_U if mode == MODE_U else PRIV_S

cdef inline uint32_t fetch_mode(Hart* h) noexcept nogil:
    return MODE_M if h.priv == PRIV_M else h.priv

cdef inline void update_mode(Hart* h) noexcept nogil:
    """Choose the data TLB after anything that changes privilege, SUM, MPRV or MPP."""
    cdef uint32_t priv = h.priv
    if priv == PRIV_M and h.mstatus & STATUS_MPRV:
        priv = (h.mstatus & STATUS_MPP) >> 11
    if priv == PRIV_M:
        h.data_mode = MODE_M
    elif priv == PRIV_U:
        h.data_mode = MODE_U
    else:
        h.data_mode = MODE_S_SUM if h.mstatus & STATUS_SUM else MODE_S
    h.data_tlb = h.tlb[h.data_mode]

cdef inline TlbEntry* first_place(Hart* h, uint32_t mode, uint64_t va) noexcept nogil:
    """Where the TLB has the page of `va`."""
    return &h.tlb[mode][(va >> PAGE_SHIFT) & (TLB_SIZE - 1)]

cdef inline TlbEntry* second_place(Hart* h, uint32_t mode, uint64_t va) noexcept nogil:
    """Where it is when another page took its first place: hot paths don't look there."""
    return &h.tlb[mode][(va >> PAGE_SHIFT) & (TLB_SIZE - 1) ^ TLB_SIZE >> 1]

cdef inline void windows_flush(Hart* h) noexcept nogil:
    memset(h.window, 0xff, sizeof(h.window))

cdef inline void tlb_flush(Hart* h) noexcept nogil:
    memset(h.tlb, 0xff, sizeof(h.tlb))
    windows_flush(h)
    h.super_low[0] = h.super_low[1] = NONE
    h.super_high[0] = h.super_high[1] = 0
    h.local_supervisor = 0
    jump_flush(h)

cdef inline void tlb_flush_local(Hart* h) noexcept nogil:
    """Forget what belongs to one address space: all but global mappings, which no user page may be counted among."""
    if h.local_supervisor:
        tlb_flush(h)
        return
    windows_flush(h)
    memset(h.tlb[MODE_U], 0xff, sizeof(h.tlb[MODE_U]))
    memset(h.tlb[MODE_S_SUM], 0xff, sizeof(h.tlb[MODE_S_SUM]))
    jump_flush_mode(h, PRIV_U)

cdef inline void tlb_flush_page(Hart* h, uint64_t va) noexcept nogil:
    """For sfence.vma with an address. Superpages are cached a page at a time, so an address among them empties all."""
    cdef int mode
    if h.super_low[va >> 63] <= va <= h.super_high[va >> 63]:
        tlb_flush(h)
        return
    windows_flush(h)
    for mode in range(MODE_M):
        memset(first_place(h, mode, va), 0xff, sizeof(TlbEntry))
        memset(second_place(h, mode, va), 0xff, sizeof(TlbEntry))
    jump_flush_page(h, va)

cdef inline void tlb_forbid_writes(Hart* h, uint64_t page) noexcept nogil:
    """Make every store to a RAM page (by number) miss from now on: something was decoded from it."""
    cdef uint64_t host = <uint64_t>(h.ram + (page << PAGE_SHIFT))
    cdef int mode, n
    windows_flush(h)
    for mode in range(TLB_MODES):
        for n in range(TLB_SIZE):
            if h.tlb[mode][n].write_tag != NONE and h.tlb[mode][n].write_tag + h.tlb[mode][n].addend == host:
                h.tlb[mode][n].write_tag = NONE

cdef inline void tlb_fill(Hart* h, uint64_t va, uint64_t pa, uint32_t mode, uint32_t rights) noexcept nogil:
    """Enter the page of `va` if it is RAM and PMP treats all of it alike; `rights` is what the page table gives."""
    cdef uint64_t page = va & ~<uint64_t>(PAGE_SIZE - 1)
    cdef uint64_t ppage = pa & ~<uint64_t>(PAGE_SIZE - 1)
    cdef uint64_t before
    cdef int allowed
    cdef TlbEntry* e
    if not in_ram(h, ppage, PAGE_SIZE):
        return
    allowed = pmp_rights(h, ppage, PAGE_SIZE, mode_priv(mode))
    if allowed < 0:
        return
    rights &= allowed
    if h.code_pages[(ppage - RAM_BASE) >> PAGE_SHIFT] != NULL:
        rights &= ~<uint32_t>WRITE
    e = first_place(h, mode, va)
    before = e.read_tag & e.write_tag & e.exec_tag           # each the page or NONE, all ones
    if before != page and before != NONE:
        second_place(h, mode, va)[0] = e[0]
    e.read_tag = page if rights & READ else NONE
    e.write_tag = page if rights & WRITE else NONE
    e.exec_tag = page if rights & EXECUTE else NONE
    e.addend = <uint64_t>(h.ram + (ppage - RAM_BASE)) - page


# ---- address translation --------------------------------------------------------------------------------------

cdef inline bint walk(Hart* h, uint64_t va, uint32_t access, uint32_t mode, uint64_t* pa, uint32_t* rights) noexcept nogil:
    """Sv39, privileged specification "Virtual Address Translation Process"; steps are numbered as there."""
    cdef uint64_t table = (h.satp & PPN_MASK) << PAGE_SHIFT
    cdef uint64_t pte, pte_at, offset_mask
    cdef uint32_t level = 2, shift, half = va >> 63
    cdef uint64_t globally = 0
    cdef bint user = mode == MODE_U
    if <uint64_t>((<int64_t>(va << 25)) >> 25) != va:             # bits 63–39 must equal bit 38
        return page_fault(h, va, access)
    while True:                                                   # step 2
        shift = PAGE_SHIFT + 9 * level
        pte_at = table + ((va >> shift) & 0x1ff) * 8
        if not in_ram(h, pte_at, 8) or not pmp_allows(h, pte_at, 8, READ, PRIV_S):
            return access_fault(h, va, access)
        pte = (<uint64_t*>(h.ram + (pte_at - RAM_BASE)))[0]
        if not pte & PTE_V or pte & (PTE_R | PTE_W) == PTE_W or pte >> 54:    # step 3; no Svnapot, no Svpbmt
            return page_fault(h, va, access)
        globally |= pte & PTE_G                                   # of a pointer: for all below it
        if pte & (PTE_R | PTE_X):
            break
        if pte & (PTE_A | PTE_D | PTE_U) or level == 0:           # reserved in a pointer to the next level
            return page_fault(h, va, access)
        level -= 1
        table = (pte >> 10) << PAGE_SHIFT
    if user:                                                      # step 5 to 7: permissions
        if not pte & PTE_U:
            return page_fault(h, va, access)
    elif pte & PTE_U and (access == EXECUTE or mode != MODE_S_SUM):
        return page_fault(h, va, access)
    rights[0] = (pte >> 1) & 7                                    # R, W, X in PMP's order
    if h.mstatus & STATUS_MXR and pte & PTE_X:
        rights[0] |= READ
    if not rights[0] & access:
        return page_fault(h, va, access)
    if not user and pte & PTE_U:
        rights[0] &= ~<uint32_t>EXECUTE
    offset_mask = (<uint64_t>1 << shift) - 1
    if ((pte >> 10) << PAGE_SHIFT) & offset_mask:                 # step 8: misaligned superpage
        return page_fault(h, va, access)
    if not pte & PTE_A or (access == WRITE and not pte & PTE_D):  # step 9
        if not h.menvcfg & MENVCFG_ADUE:
            return page_fault(h, va, access)
        if not pmp_allows(h, pte_at, 8, WRITE, PRIV_S):
            return access_fault(h, va, access)
        pte |= PTE_A | (PTE_D if access == WRITE else 0)
        (<uint64_t*>(h.ram + (pte_at - RAM_BASE)))[0] = pte
        code_written(h, pte_at - RAM_BASE, 8)
    if not pte & PTE_D:
        rights[0] &= ~<uint32_t>WRITE                             # a clean page is arranged to miss
    if level:
        if va < h.super_low[half]:
            h.super_low[half] = va & ~offset_mask
        if (va | offset_mask) > h.super_high[half]:
            h.super_high[half] = va | offset_mask
    if mode == MODE_S and not globally:
        h.local_supervisor = 1
    pa[0] = ((pte >> 10) << PAGE_SHIFT) | (va & offset_mask)
    return 1

cdef inline bint translate(Hart* h, uint64_t va, uint32_t access, uint32_t mode, uint32_t size, uint64_t* pa) noexcept nogil:
    """The physical address of an access within one page, all rights checked, the TLB filled; or a stored trap and false."""
    cdef uint32_t rights = READ | WRITE | EXECUTE
    cdef uint64_t page = va & ~<uint64_t>(PAGE_SIZE - 1)
    cdef TlbEntry* e = second_place(h, mode, va)
    cdef TlbEntry other
    if (e.read_tag if access == READ else e.write_tag if access == WRITE else e.exec_tag) == page:
        pa[0] = e.addend + va - <uint64_t>h.ram + RAM_BASE
        other = e[0]
        e[0] = first_place(h, mode, va)[0]
        first_place(h, mode, va)[0] = other
        return 1
    if mode == MODE_M or h.satp >> 60 == 0:
        pa[0] = va
    elif not walk(h, va, access, mode, pa, &rights):
        return 0
    if not pmp_allows(h, pa[0], size, access, mode_priv(mode)):
        return access_fault(h, va, access)
    tlb_fill(h, va, pa[0], mode, rights)
    return 1


# ---- the slow half of loads and stores ----------------------------------------------------------------------------

cdef inline Status mmio(Hart* h, uint64_t va, uint64_t pa, uint32_t size, uint32_t access, uint64_t* value) noexcept nogil:
    """An access to a device: the first time it is recorded and the instruction given up; then run() has the answer."""
    if h.mmio_state == MMIO_READY:
        h.mmio_state = MMIO_NONE
        if access == READ:
            value[0] = h.mmio_value
        return CONTINUE
    if h.mmio_state == MMIO_REFUSED or pa & (size - 1):
        h.mmio_state = MMIO_NONE
        access_fault(h, va, access)
        return FAULT
    h.mmio_state = MMIO_READ if access == READ else MMIO_WRITE
    h.mmio_address = pa
    h.mmio_size = size
    h.mmio_value = value[0]
    return FAULT

cdef inline Status load_slow(Hart* h, uint64_t va, uint32_t size, uint64_t* value) noexcept nogil:
    """A load that missed: `value` gets `size` bytes, zero-extended."""
    cdef uint64_t pa, pa2
    cdef uint32_t first
    cdef TlbEntry* e = &h.data_tlb[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)]
    first = PAGE_SIZE - <uint32_t>(va & (PAGE_SIZE - 1))
    if first >= size:
        if e.read_tag == va & ~<uint64_t>(PAGE_SIZE - 1):         # only misaligned
            value[0] = load_raw(<uint8_t*>(e.addend + va), size)
            return CONTINUE
        if not translate(h, va, READ, h.data_mode, size, &pa):
            return FAULT
        if unlikely(not in_ram(h, pa, size)):
            return mmio(h, va, pa, size, READ, value)
        value[0] = load_raw(h.ram + (pa - RAM_BASE), size)
        return CONTINUE
    if not translate(h, va, READ, h.data_mode, first, &pa):       # two pages: the lower one faults first
        return FAULT
    if not translate(h, va + first, READ, h.data_mode, size - first, &pa2):
        return FAULT
    if not in_ram(h, pa, first) or not in_ram(h, pa2, size - first):
        access_fault(h, va if not in_ram(h, pa, first) else va + first, READ)
        return FAULT
    value[0] = load_raw(h.ram + (pa - RAM_BASE), first) | load_raw(h.ram + (pa2 - RAM_BASE), size - first) << (8 * first)
    return CONTINUE

cdef inline Status ram_store(Hart* h, uint64_t offset, uint32_t size, uint64_t value) noexcept nogil:
    """Store to RAM by offset; LEAVE when decoded code was dropped, since the running block may be among it."""
    store_raw(h.ram + offset, size, value)
    return LEAVE if code_written(h, offset, size) else CONTINUE

cdef inline Status store_slow(Hart* h, uint64_t va, uint32_t size, uint64_t value) noexcept nogil:
    """A store that missed. Nothing is written unless all of it can be."""
    cdef uint64_t pa, pa2
    cdef uint32_t first
    cdef Status low, high
    cdef TlbEntry* e = &h.data_tlb[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)]
    first = PAGE_SIZE - <uint32_t>(va & (PAGE_SIZE - 1))
    if first >= size:
        if e.write_tag == va & ~<uint64_t>(PAGE_SIZE - 1):        # only misaligned
            store_raw(<uint8_t*>(e.addend + va), size, value)
            return CONTINUE
        if not translate(h, va, WRITE, h.data_mode, size, &pa):
            return FAULT
        if unlikely(not in_ram(h, pa, size)):
            return mmio(h, va, pa, size, WRITE, &value)
        return ram_store(h, pa - RAM_BASE, size, value)
    if not translate(h, va, WRITE, h.data_mode, first, &pa):
        return FAULT
    if not translate(h, va + first, WRITE, h.data_mode, size - first, &pa2):
        return FAULT
    if not in_ram(h, pa, first) or not in_ram(h, pa2, size - first):
        access_fault(h, va if not in_ram(h, pa, first) else va + first, WRITE)
        return FAULT
    low = ram_store(h, pa - RAM_BASE, first, value)
    high = ram_store(h, pa2 - RAM_BASE, size - first, value >> (8 * first))
    return LEAVE if low == LEAVE or high == LEAVE else CONTINUE

cdef inline uint8_t* atomic_target(Hart* h, uint64_t va, uint32_t size, uint32_t access, uint64_t* pa) noexcept nogil:
    """Where an LR, SC or AMO works: aligned RAM with the right to `access` it; NULL with a stored trap otherwise.

    AMOs and SC fault as stores whatever half of them failed: A extension, and "Store/AMO" in the table of causes.
    """
    cdef TlbEntry* e = &h.data_tlb[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)]
    if va & (size - 1):
        raise_trap(h, CAUSE_LOAD_MISALIGNED if access == READ else CAUSE_STORE_MISALIGNED, va)
        return NULL
    if (e.read_tag if access == READ else e.write_tag) == va & ~<uint64_t>(PAGE_SIZE - 1):
        pa[0] = e.addend + va - <uint64_t>h.ram + RAM_BASE
        return <uint8_t*>(e.addend + va)
    if not translate(h, va, access, h.data_mode, size, pa):
        return NULL
    if not in_ram(h, pa[0], size):
        access_fault(h, va, access)
        return NULL
    return h.ram + (pa[0] - RAM_BASE)
