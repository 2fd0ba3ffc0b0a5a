"""Where decoded code lies, and how it is forgotten when that memory is written.

`code_pages[page]` says which 64-byte lines of a RAM page were decoded. A store to such a page never hits the TLB; the slow path, and
every device that writes, calls `code_written`, which drops all blocks of the page when a decoded line is hit. Dropped blocks stay in
the arena, unreachable, until it is full and everything is dropped at once between two blocks: a running block is never freed under
the interpreter.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from vpod._hart cimport *

cdef enum:
    HASH_SIZE = 1 << 16


# ---- the jump cache ------------------------------------------------------------------------------------------

cdef inline JumpEntry* jump_entry(Hart* h, uint64_t pc) noexcept nogil:
    """Where the block at `pc` stands if its tag is `pc`; a page's entries lie in one row of 64.

    A table for each privilege: no bit of a pc is free to hold it, since a guest may jump to any address, canonical or not.
    """
    return &h.jump[h.priv][((pc >> PAGE_SHIFT) & 63) << 6 | ((pc >> 1) ^ (pc >> 7)) & 63]

cdef inline void land_flush(Hart* h, uint32_t keys) noexcept nogil:
    """Forget where indirect jumps lead in translated code of these keys, a bit each."""
    cdef int key
    for key in range(KEYS):
        if h.landed & keys & (<uint32_t>1 << key):
            memset(h.landing[key], 0xff, sizeof(h.landing[key]))
    h.landed &= ~keys

cdef inline void new_generation(Hart* h, uint32_t priv) noexcept nogil:
    """A virtual pc of this privilege may mean another physical one: landings are forgotten, links between pages hold no more."""
    h.generations += 1
    h.generation[priv] = h.generations
    land_flush(h, 0x88 if priv == PRIV_M else 0x66 if priv == PRIV_S else 0x11)       # keys of their data modes

cdef inline uint64_t* entered_word(Hart* h, uint64_t va, uint64_t* bit) noexcept nogil:
    """Where, and by which bit, it is noted that translated code was entered in a virtual page. Pages share bits."""
    cdef uint64_t page = va >> PAGE_SHIFT
    bit[0] = <uint64_t>1 << (page & 63)
    return &h.entered[((page >> 6) ^ (page >> 18)) & (ENTERED_WORDS - 1)]

cdef inline void note_entered(Hart* h, uint64_t va) noexcept nogil:
    cdef uint64_t bit
    entered_word(h, va, &bit)[0] |= bit

cdef inline bint was_entered(Hart* h, uint64_t va) noexcept nogil:
    cdef uint64_t bit
    return entered_word(h, va, &bit)[0] & bit != 0

cdef inline void jump_flush_mode(Hart* h, uint32_t priv) noexcept nogil:
    new_generation(h, priv)
    if h.jumped >> priv & 1:
        memset(h.jump[priv], 0xff, sizeof(h.jump[priv]))
        h.jumped &= ~(<uint32_t>1 << priv)

cdef inline void jump_flush(Hart* h) noexcept nogil:
    jump_flush_mode(h, PRIV_U)
    jump_flush_mode(h, PRIV_S)
    jump_flush_mode(h, PRIV_M)

cdef inline void jump_flush_page(Hart* h, uint64_t va) noexcept nogil:
    if was_entered(h, va):                               # Linux fences each page that it maps: most hold no code
        memset(h.entered, 0, sizeof(h.entered))
        new_generation(h, PRIV_U)
        new_generation(h, PRIV_S)
    memset(&h.jump[PRIV_U][((va >> PAGE_SHIFT) & 63) << 6], 0xff, 64 * sizeof(JumpEntry))
    memset(&h.jump[PRIV_S][((va >> PAGE_SHIFT) & 63) << 6], 0xff, 64 * sizeof(JumpEntry))


# ---- the blocks' places -----------------------------------------------------------------------------------------

cdef inline Block** hash_slot(Hart* h, uint64_t pa) noexcept nogil:
    return &h.block_hash[((pa >> 1) ^ (pa >> 17)) & (HASH_SIZE - 1)]

cdef inline void unlink(Link* link) noexcept nogil:
    """The link leads nowhere any more: the code behind it leaves by its exit."""
    if link.leads_to == NULL:
        return
    if link.previous != NULL:
        link.previous.next = link.next
    else:
        link.leads_to.incoming = link.next
    if link.next != NULL:
        link.next.previous = link.previous
    link.leads_to = NULL
    link.target = link.stub
    if link.far:
        (<FarLink*>link).page_va = NONE

cdef inline void isolate(Translation* t) noexcept nogil:
    """No link leads to the translation any more."""
    while t.incoming != NULL:
        unlink(t.incoming)

cdef inline Translation** site_of(Hart* h, uint64_t pa, uint32_t key) noexcept nogil:
    """Where the translation for a physical address and a key is noted, or another that shares the place."""
    return &h.site[((pa >> 1) ^ (pa >> 16) ^ <uint64_t>key << 13) & (SITES - 1)]

cdef inline void leave_site(Hart* h, Translation* t) noexcept nogil:
    """The translation is no longer found by its address."""
    cdef Translation** site = site_of(h, t.pa, t.key)
    if site[0] == t:
        site[0] = NULL

cdef inline void drop_page(Hart* h, uint64_t page) noexcept nogil:
    """Forget all blocks of a RAM page, by number."""
    cdef Block* block = h.code_pages[page].blocks
    cdef Block** at
    cdef Translation* t
    while block != NULL:
        t = block.translations
        while t != NULL:
            isolate(t)
            leave_site(h, t)
            t.dropped = 1
            t = t.next
        at = hash_slot(h, block.pa)
        while at[0] != block:
            at = &at[0].hash_next
        at[0] = block.hash_next
        block = block.page_next
    h.code_pages[page] = NULL
    jump_flush(h)

cdef inline bint code_written(Hart* h, uint64_t offset, uint64_t size) noexcept nogil:
    """RAM [offset, offset+size), within one page, was written: true if decoded code was there and is dropped."""
    cdef CodePage* page = h.code_pages[offset >> PAGE_SHIFT]
    cdef uint64_t first, last, lines
    if likely(page == NULL):
        return 0
    first = (offset & (PAGE_SIZE - 1)) >> 6
    last = ((offset + size - 1) & (PAGE_SIZE - 1)) >> 6
    lines = (NONE >> (63 - last + first)) << first
    if not page.lines & lines:
        return 0
    drop_page(h, offset >> PAGE_SHIFT)
    return 1

cdef inline void drop_all(Hart* h) noexcept nogil:
    """Empty the arena. Only between blocks."""
    cdef uint64_t n
    cdef Block* block
    for n in range(HASH_SIZE):
        block = h.block_hash[n]
        while block != NULL:
            h.code_pages[(block.pa - RAM_BASE) >> PAGE_SHIFT] = NULL
            block = block.hash_next
        h.block_hash[n] = NULL
    h.arena_used = 0
    h.code_dropped = 1
    memset(h.site, 0, sizeof(h.site))
    h.exit_link = NULL
    jump_flush(h)
