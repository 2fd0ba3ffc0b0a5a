"""The translator: hot blocks as x86-64 machine code. docs/design/translator.md is its design, docs/translator.md the argument for its safety.

Two arms like the interpreter's stand in the first instruction of a block: `arm_count` until it was entered often enough, and then `arm_enter`,
which runs the block's translation. To make code executable takes longer than to make it: so a hot block *waits* for others, for a while, and
they are translated in one batch. Translated code goes on from block to block by itself and comes back when something is unusual. Here
stand what is translated (a *trace*: a block, and those it runs on to within its page), the memory for code, and who enters it; what an
instruction becomes stands in the `_emit_*` chapters. Invariants:

* A translation depends on its physical address and its key alone: the data TLB in use, which implies the privilege, and whether F and D are
  ready. No guest address is in it, only offsets within the page that `h.page_va` names.
* At every exit all of the guest's registers are in the hart, R15 is in `h.countdown`, and `h.pc` (or `h.exit_link`) says what comes next.
* Code is never writable and executable at once, and never changed once it may run: what changes (links) is data behind it.
* Memory for code is a ring of regions. When the one being filled is full the next is emptied and filled. Before that its translations were
  on probation: nothing leads to them, so one that is still in use comes through `arm_enter`, which makes it again where it stays.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from vpod._blocks cimport OP_CSR_INLINE, fetch_parcels, finish, new_block
from vpod._code cimport hash_slot, isolate, land_flush, leave_site, note_entered, site_of, unlink
from vpod._decode cimport *
from vpod._emit_common cimport COMMON_SIZE, emit_common
from vpod._emit_float cimport emit_floating, fill_constants
from vpod._emit_flow cimport *
from vpod._emit_integer cimport emit_integer, emit_pair
from vpod._emit_memory cimport *
from vpod._hart cimport *
from vpod._mmu cimport MODE_M, STATUS_FS, fetch_mode, first_place, load_raw, load_slow, store_slow
from vpod._trap cimport enter_trap, take_interrupt
from vpod._translator cimport *
from vpod._x86 cimport *

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <time.h>
    #ifdef __x86_64__
    #define VPOD_X86_64 1
    static int vpod_has_fma(void) { return __builtin_cpu_supports("fma") != 0; }
    #else
    #define VPOD_X86_64 0
    static int vpod_has_fma(void) { return 0; }
    #endif
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    static void *vpod_reserve(size_t size, size_t alignment) {          /* all of it within the same 4 GiB */
        const size_t whole = (size_t)1 << 32;
        char *p = mmap(0, size + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
        char *other;
        size_t before;
        if (p == MAP_FAILED) return 0;
        if (((size_t)p ^ ((size_t)p + size + alignment)) / whole) {     /* another place, while this one is taken, has no border */
            other = mmap(0, size + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
            munmap(p, size + alignment);
            if (other == MAP_FAILED) return 0;
            p = other;
            if (((size_t)p ^ ((size_t)p + size + alignment)) / whole) {
                munmap(p, size + alignment);
                return 0;
            }
        }
        before = -(size_t)p & (alignment - 1);
        if (before) munmap(p, before);
        munmap(p + before + size, alignment - before);
        return p + before;
    }
    static void vpod_huge(void *p, size_t size) {                       /* without them it works too */
    #ifdef MADV_HUGEPAGE
        madvise(p, size, MADV_HUGEPAGE);
    #endif
    }
    static int vpod_protect(void *p, size_t size, int executable) {     /* one or the other, never both */
        return mprotect(p, size, executable ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE) == 0;
    }
    static unsigned long long vpod_nanoseconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (unsigned long long)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    """
    const bint HOST_IS_X86_64 "VPOD_X86_64"
    bint has_fma "vpod_has_fma"() noexcept nogil
    void* reserve "vpod_reserve"(size_t size, size_t alignment) noexcept nogil
    void ask_for_huge_pages "vpod_huge"(void* p, size_t size) noexcept nogil
    bint protect "vpod_protect"(void* p, size_t size, bint executable) noexcept nogil
    uint64_t nanoseconds "vpod_nanoseconds"() noexcept nogil
    int munmap(void* address, size_t size) noexcept nogil

cdef enum:
    HUGE_PAGE = 2 << 20
    REGION_MIN = 84 << 10              # COMMON_SIZE, CODE_ROOM, DATA_ROOM and two pages
    THRESHOLD = 30                     # entries of a block before it is hot, and waits for others
    UNTRANSLATABLE = 1 << 20           #   and before that is tried again


# ---- links and sites -----------------------------------------------------------------------------------------------

cdef inline bint leads_to(Hart* h, Link* link, Translation* t, uint64_t pc) noexcept nogil:
    """Does the link, through which the code was left, lead to `t`, which begins at `pc`, from now on?"""
    return (link.source.key == t.key and h.page_va + <uint64_t>link.offset == pc
            and h.running_generation == h.generation[h.priv]
            and (link.far or (link.source.pa ^ t.pa) >> PAGE_SHIFT == 0))

cdef inline void connect(Link* link, Translation* t) noexcept nogil:
    link.leads_to = t
    link.previous = NULL
    link.next = t.incoming
    if t.incoming != NULL:
        t.incoming.previous = link
    t.incoming = link
    link.target = t.entry

cdef void link_up(Hart* h, Link* link, Translation* t, uint64_t pc) noexcept nogil:
    """Lead the link to `t`, which begins at `pc`."""
    cdef FarLink* far = <FarLink*>link
    unlink(link)
    if link.far:
        far.page_va = h.page_va
        far.generation = h.running_generation
        far.next_page_va = pc & ~<uint64_t>(PAGE_SIZE - 1)
        note_entered(h, pc)
    connect(link, t)

cdef inline void take_site(Hart* h, Translation* t) noexcept nogil:
    """The translation is found by its address."""
    site_of(h, t.pa, t.key)[0] = t


# ---- what translated code calls ------------------------------------------------------------------------------------

cdef uint64_t help_load(Hart* h, uint64_t va, uint32_t size) noexcept nogil:
    cdef uint64_t value = 0
    h.status = load_slow(h, va, size, &value)
    return value

cdef void help_store(Hart* h, uint64_t va, uint32_t size, uint64_t value) noexcept nogil:
    h.status = store_slow(h, va, size, value)

cdef inline int key_of(Hart* h) noexcept nogil:
    """The key of the present mode; -1 where translated code can't run: in M with another mode's data."""
    if h.priv == PRIV_M and h.data_mode != MODE_M:
        return -1
    return h.data_mode | (FLOATING if h.mstatus & STATUS_FS == STATUS_FS and h.frm == RM_RNE else 0)

cdef uint8_t* help_arm(Hart* h, Single* single) noexcept nogil:
    """Execute one instruction by its arm. Returns NULL if the code behind it is next, translated code that is to be gone on with, or,
    when neither can be, the exit."""
    cdef Jit* j = <Jit*>h.jit
    cdef int fp = h.running_key >> 2
    j.counters.arms[single.insn.op] += 1
    h.resumed = 0
    h.block = &j.alone.block
    h.block_pc = h.page_va + <uint64_t>single.at
    j.alone.block.insns[0] = single.insn
    single.insn.run(h, j.alone.block.insns)
    if h.resumed:
        return NULL
    h.countdown += single.left
    return go_on(h, j, fp)

cdef inline Insn* known_apart(Hart* h, Jit* j, uint32_t word) noexcept nogil:
    """A four-byte instruction, decoded."""
    cdef Apart* known = &j.apart[(word >> 7 ^ word >> 15 ^ word >> 25) & (APART_SIZE - 1)]
    if known.word != word:
        decode(word, &known.insn)
        finish(&known.insn, 0)
        known.insn.run = h.arms[known.insn.op]
        known.word = word
    return &known.insn

cdef uint8_t* help_straddle(Hart* h) noexcept nogil:
    """Execute the instruction that begins with the last two bytes of the page, and lies in the next one too. Returns where to go on."""
    cdef Jit* j = <Jit*>h.jit
    cdef int fp = h.running_key >> 2
    cdef uint8_t code[4]
    cdef uint32_t size
    cdef int64_t left
    cdef Insn* i = j.alone.block.insns
    h.pc = h.page_va + PAGE_SIZE - 2
    if h.countdown == 0 or h.mmio_state != MMIO_NONE:
        return j.exit_set[fp]
    size = fetch_parcels(h, h.pc, code)
    if size == 2:                                            # it has been overwritten
        return j.exit_set[fp]
    if size:
        i[0] = known_apart(h, j, <uint32_t>load_raw(code, 4))[0]
        h.resumed = 0
        h.block = &j.alone.block
        h.block_pc = h.pc
        left = h.countdown - 1
        if is_branch(i.op) or i.op == OP_JAL or i.op == OP_JALR:
            h.countdown = 0                                  # no block is entered from here
            i.run(h, i)
            h.countdown = left
        else:
            h.countdown = left
            i.run(h, i)
            if h.resumed:
                h.pc = h.block_pc + 4
    return go_on(h, j, fp)

cdef inline Translation* known_at(Hart* h, uint64_t pc, uint32_t key) noexcept nogil:
    """The translation for a virtual pc, if the TLB has its page and the translation its site; NULL says nothing."""
    cdef TlbEntry* e = first_place(h, fetch_mode(h), pc)
    cdef uint64_t pa = e.addend + pc - <uint64_t>h.ram + RAM_BASE
    cdef Translation* t
    if e.exec_tag != pc & ~<uint64_t>(PAGE_SIZE - 1):
        return NULL
    t = site_of(h, pa, key)[0]
    return t if t != NULL and t.pa == pa and t.key == key else NULL

cdef uint8_t* help_on(Hart* h, Link* link) noexcept nogil:
    """Where to go on from a link that leads nowhere, or (NULL) at `h.pc`, which has no landing; NULL if the run loop must find out."""
    cdef Jit* j = <Jit*>h.jit
    cdef Translation* t
    h.exit_link = link
    if link != NULL:
        h.pc = h.page_va + <uint64_t>link.offset
    t = known_at(h, h.pc, h.running_key)
    if t == NULL:
        return NULL
    if link == NULL:
        land(h, j, t, h.pc)
    elif leads_to(h, link, t, h.pc):
        link_up(h, link, t, h.pc)
    h.page_va = h.pc & ~<uint64_t>(PAGE_SIZE - 1)
    return t.entry

cdef inline uint8_t* go_on(Hart* h, Jit* j, int fp) noexcept nogil:
    """What the run loop would do between two blocks: traps, interrupts, and the next block's translation if its landing is known and it
    expects the same registers; otherwise the exit, and the run loop does it."""
    cdef Landing* landing
    cdef Translation* t
    cdef uint8_t* code
    cdef int key
    if h.mmio_state != MMIO_NONE or h.waiting or h.stop_request:
        return j.exit_set[fp]
    if h.trap_pending:
        if h.countdown == 0 or h.trap_cause == CAUSE_ILLEGAL:
            return j.exit_set[fp]
        h.countdown -= 1                                     # as `pay_for_trap`
        h.retired_base -= 1
        enter_trap(h, h.trap_cause, h.trap_value)
    take_interrupt(h)
    key = key_of(h)
    if key < 0 or key >> 2 != fp:
        return j.exit_set[fp]
    landing = landing_of(h, j, <uint32_t>key, h.pc)
    if landing != NULL:
        code = landing.code
    else:
        t = known_at(h, h.pc, <uint32_t>key)
        if t == NULL:
            return j.exit_set[fp]
        land(h, j, t, h.pc)
        code = t.entry
    h.page_va = h.pc & ~<uint64_t>(PAGE_SIZE - 1)
    h.running_generation = h.generation[h.priv]
    h.running_key = <uint32_t>key
    return code

cdef void arm_resume(Hart* h, Insn* i) noexcept nogil:
    h.resumed = 1


# ---- which blocks make a trace ---------------------------------------------------------------------------------------

cdef inline int32_t base_of(Block* block) noexcept nogil:
    return <int32_t>(block.pa & (PAGE_SIZE - 1))

cdef inline Insn* last_of(Block* block) noexcept nogil:
    return &block.insns[block.count - 1]

cdef Block* block_at(Hart* h, uint64_t pa) noexcept nogil:
    """The decoded block at a physical address, if there is one."""
    cdef Block* block = hash_slot(h, pa)[0]
    while block != NULL and block.pa != pa:
        block = block.hash_next
    return block

cdef Block* next_part(Hart* h, Block* block) noexcept nogil:
    """The block with which a trace goes on after `block`: in the same page, and decoded already."""
    cdef Insn* last = last_of(block)
    cdef Block* next
    cdef int32_t to
    if last.op == OP_JAL:
        to = base_of(block) + last.imm
    elif is_branch(last.op):
        to = base_of(block) + <int32_t>block.size
        if block.link[1] != NULL and block.link[0] == NULL:  # was never not taken
            to = base_of(block) + last.imm
    else:
        return NULL
    if not 0 <= to < PAGE_SIZE:
        return NULL
    next = block_at(h, (block.pa & ~<uint64_t>(PAGE_SIZE - 1)) + <uint64_t>to)
    if next == NULL and (<Jit*>h.jit).ahead:
        next = new_block(h, (block.pa & ~<uint64_t>(PAGE_SIZE - 1)) + <uint64_t>to)
    return next

cdef inline bint is_wanted(Jit* j, Translation* made) noexcept nogil:
    """Is a translation to be made where `made` is what there is?"""
    return made == NULL or <int>made.region == on_probation(j)

cdef inline Translation* made_for(Block* block, uint32_t key) noexcept nogil:
    """The block's translation for `key`, or NULL."""
    cdef Translation* t = block.translations
    while t != NULL and t.key != key:
        t = t.next
    return t

cdef int plan(Hart* h, Block* block, Block** parts, int* total) noexcept nogil:
    """The blocks of the trace that begins with `block`; their number, and in `total` that of their instructions."""
    cdef Jit* j = <Jit*>h.jit
    cdef int count = 1, k
    cdef Block* next
    parts[0] = block
    total[0] = block.count
    while count < MAX_PARTS:
        next = next_part(h, parts[count - 1])
        if next == NULL or total[0] + <int>next.count > j.max_trace:
            break
        for k in range(count):
            if parts[k] == next:
                return count
        parts[count] = next
        total[0] += next.count
        count += 1
    return count


# ---- one instruction, and what stands behind the trace -------------------------------------------------------------------

cdef void emit_insn(Hart* h, Jit* j, Translation* t, Step* step) noexcept nogil:
    cdef Insn* i = step.insn
    cdef int op = i.op, left = step.left
    cdef int32_t at
    j.base = step.base
    at = step.base + <int32_t>i.offset
    if emit_integer(h, j, i): return
    elif is_load(op): emit_load(h, j, i, left)
    elif is_store(op): emit_store(h, j, i, left)
    elif is_float_store(op) and not j.fp: emit_store_at_rest(h, j, i, left)
    elif is_branch(op): emit_branch(h, j, t, i, step.follows, left)
    elif op == OP_JALR: emit_indirect(h, j, i)
    elif op == OP_JAL:
        emit_return_address(h, &j.code, i, at + i.length)
        if step.follows == -1:
            emit_link(h, j, t, j.base + i.imm)
    elif is_atomic(op): emit_atomic(h, j, i, left)
    elif j.fp and emit_floating(h, j, i, left): return
    elif op == OP_CSR_INLINE and i.imm <= 3:                 # fflags, frm, fcsr: the flags must be there, and the key may change
        if j.fp:
            call_to(&j.code, j.sync)
        emit_arm(h, j, i, at, left)
        emit_exit(j, at + i.length, left)
    else:
        emit_arm(h, j, i, at, left)
        if OP_FLW <= op <= OP_FMV_D_X and j.fp:
            j.boxed &= ~(<uint32_t>1 << (i.rd & 31))
        elif OP_FLW <= op <= OP_FMV_D_X:                     # FS may have become Dirty: the translation with F and D is for that
            emit_exit(j, at + i.length, left)

cdef void emit_steps(Hart* h, Jit* j, Translation* t, int first, int last, bint groups) noexcept nogil:
    """These steps of the trace, with the checks of groups or each access with its own."""
    cdef Group g
    cdef int k = first
    j.group.last = -1
    while k <= last:
        j.step = k
        if groups and k > j.group.last and is_access(j, j.steps[k].insn.op):
            g = group_at(j, k)
            if g.count:
                j.base = j.steps[k].base
                emit_group(h, j, &g, j.steps[k].left)
                j.group = g
        if k < last and emit_pair(h, j, &j.steps[k], &j.steps[k + 1]):
            follow(j, j.steps[k].insn)
            k += 1                                           # no group ends in front of a pair's second: it is no access
            j.base = j.steps[k].base
        else:
            emit_insn(h, j, t, &j.steps[k])
        follow(j, j.steps[k].insn)
        if groups:
            j.ends[k] = j.code.at
        k += 1
    j.group.last = -1

cdef void emit_out(Hart* h, Jit* j, Translation* t, Out* o) noexcept nogil:
    """One place that the straight line leads to."""
    cdef Code* c = &j.code
    cdef int last
    patch(o.place, c.at)
    if o.kind == OUT_LOAD or o.kind == OUT_STORE:
        emit_miss(h, j, o)
    elif o.kind == OUT_ARM:
        emit_arm(h, j, o.insn, o.at, o.left)
        if o.ends:
            emit_exit(j, o.at + o.insn.length, o.left)
        else:
            jump_to(c, o.done)
    elif o.kind == OUT_GROUP:
        last = o.group.last
        emit_group_miss(h, j, o)
        j.boxed = o.boxed
        j.chased = o.chased
        emit_steps(h, j, t, o.step, last, 0)
        jump_to(c, j.ends[last])
    elif o.kind == OUT_NAN:
        sse_rp(c, 0, SSE_MOVAPS, 0, &j.constants.nan_s[0] if o.single else &j.constants.nan_d[0])
        jump_to(c, o.back)
    elif o.kind == OUT_SIDE:
        if o.left:
            alu_ri(c, ADD, 1, R15, o.left)
        emit_link(h, j, t, o.target)
    else:                                                    # OUT_HEAD
        emit_exit(j, j.head, t.count)


# ---- a translation -----------------------------------------------------------------------------------------------------

cdef inline uint8_t* unit_down(Jit* j, uint8_t* p) noexcept nogil:
    """The beginning of the page that holds `p`."""
    return <uint8_t*>(<uint64_t>p & ~<uint64_t>((HUGE_PAGE if p >= j.huge else PAGE_SIZE) - 1))

cdef inline uint8_t* unit_up(Jit* j, uint8_t* p) noexcept nogil:
    """The end of the page that holds what stands in front of `p`."""
    return unit_down(j, p - 1) + (HUGE_PAGE if p > j.huge else PAGE_SIZE)

cdef inline bint has_room(Jit* j) noexcept nogil:
    """Is there room for one more translation in the region, with code and data in pages of their own?"""
    return unit_up(j, j.code.at + CODE_ROOM) + DATA_ROOM <= j.data

cdef inline bint open_code(Jit* j) noexcept nogil:
    """Make the page that the next translation begins in writable. What it holds can't run, and nothing runs."""
    cdef uint8_t* start = unit_down(j, j.code.at)
    return j.code.at >= j.fresh or protect(start, <uint64_t>(unit_up(j, j.code.at + 1) - start), 0)

cdef inline bint close_code(Jit* j, uint8_t* start) noexcept nogil:
    """What was written from `start` on is code from now on."""
    cdef uint8_t* end
    if j.code.at > j.fresh:
        j.fresh = unit_up(j, j.code.at)
    start = unit_down(j, start)
    end = unit_up(j, j.code.at)
    return end <= start or protect(start, <uint64_t>(end - start), 1)

cdef void lay_out(Jit* j, Block** parts, int count, int total) noexcept nogil:
    """The steps of a trace."""
    cdef Step* step = j.steps
    cdef int k, done = 0
    cdef uint32_t n
    for k in range(count):
        for n in range(parts[k].count):
            done += 1
            step.insn = &parts[k].insns[n]
            step.base = base_of(parts[k])
            step.follows = base_of(parts[k + 1]) if k + 1 < count else -1
            step.left = total - done
            step += 1
    j.step_count = total
    j.chased = 0
    for k in range(total):                                   # a list's pointer is what was loaded from it, the turn before
        if j.steps[k].insn.op == OP_LD and j.steps[k].insn.rd == j.steps[k].insn.rs1:
            j.chased |= <uint32_t>1 << j.steps[k].insn.rd

cdef Translation* emit_trace(Hart* h, Jit* j, Block** parts, int count, int total) noexcept nogil:
    """Emit a trace at j.code.at, which is writable; j.code.full says whether it is to be thrown away."""
    cdef Code* c = &j.code
    cdef Translation* t
    cdef int k
    c.full = 0
    c.end = c.at + j.room
    j.data_floor = j.data - <uint64_t>j.room * DATA_ROOM // CODE_ROOM
    j.out_count = 0
    j.boxed = 0
    j.group.last = -1
    j.head = j.base = base_of(parts[0])
    j.seed = <uint32_t>((parts[0].pa >> 1) * 0x9e3779b97f4a7c15u >> 40)
    t = <Translation*>take_data(j, sizeof(Translation))
    t.block = parts[0]
    t.key = j.key
    t.pa = parts[0].pa
    t.count = total
    t.region = j.region
    t.entry = c.at
    alu_ri(c, SUB, 1, R15, total)
    out_of_line(j, OUT_HEAD, jump_cc(c, CC_L), NULL, 0)
    lay_out(j, parts, count, total)
    emit_steps(h, j, t, 0, total - 1, 1)
    if not is_branch(last_of(parts[count - 1]).op) and last_of(parts[count - 1]).op != OP_JAL:
        emit_link(h, j, t, j.base + <int32_t>parts[count - 1].size)        # of no use after JALR, and never reached then
    k = 0
    while k < j.out_count:
        emit_out(h, j, t, &j.outs[k])
        k += 1
    while <uint64_t>c.at & 15 and not c.full:
        put8(c, 0xcc)
    return t

cdef void waits_no_more(Hart* h, Jit* j, Block* block) noexcept nogil:
    """The block isn't translated for its own sake unless it is found hot again."""
    cdef int n
    for n in range(j.waiting_count):
        if j.waiting[n].block == block:
            j.waiting[n].pa = NONE
            block.heat = h.threshold

cdef Translation* emit_translation(Hart* h, Block* block, uint32_t key) noexcept nogil:
    """Emit the translation that begins with `block`, for `key`, into memory that is writable; NULL if it doesn't fit."""
    cdef Jit* j = <Jit*>h.jit
    cdef Code* c = &j.code
    cdef Translation* t
    cdef Translation* older = made_for(block, key)
    cdef Block* parts[MAX_PARTS]
    cdef uint8_t* start = c.at
    cdef uint8_t* data = j.data
    cdef int k, total = 0, count = plan(h, block, parts, &total)
    j.key = key
    j.fp = key >> 2
    t = emit_trace(h, j, parts, count, total)
    if c.full and count > 1:                                 # a long trace may be too much: its first block alone isn't
        c.at = start
        j.data = data
        count = 1
        total = block.count
        t = emit_trace(h, j, parts, count, total)
    if c.full:
        c.at = start
        j.data = data
        return NULL
    t.next = block.translations
    block.translations = t
    take_site(h, t)
    if older != NULL:                                        # it is on probation
        retire(h, older)
        j.counters.moved += 1
    block.insns[0].run = arm_enter
    block.heat = 0
    t.neighbour = j.regions[j.region].translations
    j.regions[j.region].translations = t
    for k in range(count):
        j.counters.bytes += parts[k].size
        waits_no_more(h, j, parts[k])                        # most often it is entered from the trace, which holds it
    j.counters.translations += 1
    return t

cdef Translation* translate(Hart* h, Block* block, uint32_t key) noexcept nogil:
    """The translation that begins with `block`, for `key`; NULL if it can't be made. Blocks that are waiting are translated with it."""
    cdef Jit* j = <Jit*>h.jit
    cdef Translation* t
    cdef Translation* older
    cdef Waiting* waiting
    cdef uint8_t* start
    cdef uint64_t began = nanoseconds()
    cdef Counters before
    cdef int n
    if not has_room(j) and not begin_region(h) or not open_code(j):
        return NULL
    before = j.counters
    start = j.code.at
    older = j.regions[j.region].translations
    t = emit_translation(h, block, key)
    for n in range(j.waiting_count):
        waiting = &j.waiting[n]
        if has_room(j) and block_at(h, waiting.pa) == waiting.block and is_wanted(j, made_for(waiting.block, waiting.key)):
            emit_translation(h, waiting.block, waiting.key)
    j.waiting_count = 0
    if not close_code(j, start):
        forget_region(h, j.region)                           # what shares a page with it can't run either
        j.counters = before
        return NULL
    link_among(h, j, older)
    j.counters.batches += 1
    j.counters.nanoseconds += nanoseconds() - began
    return t


# ---- the memory for code: a ring of regions ------------------------------------------------------------------------------

cdef inline int on_probation(Jit* j) noexcept nogil:
    return (j.region + 1) % j.region_count

cdef void retire(Hart* h, Translation* t) noexcept nogil:
    """Take a translation from its block, which counts anew if it was the last."""
    cdef Translation** at = &t.block.translations
    while at[0] != t:
        at = &at[0].next
    at[0] = t.next
    isolate(t)
    leave_site(h, t)
    t.dropped = 1
    if t.block.translations == NULL:
        t.block.insns[0].run = h.counting
        t.block.heat = h.threshold

cdef void forget_region(Hart* h, int n) noexcept nogil:
    """Nothing leads into a region any more, and nothing outside knows it."""
    cdef Jit* j = <Jit*>h.jit
    cdef Region* region = &j.regions[n]
    cdef Translation* t = region.translations
    cdef Link* link
    while t != NULL:
        if not t.dropped:
            retire(h, t)
        link = t.links
        while link != NULL:
            unlink(link)
            link = link.sibling
        t = t.neighbour
    region.translations = NULL
    h.exit_link = NULL                                       # it may be one of those
    land_flush(h, (1 << KEYS) - 1)

cdef bint begin_region(Hart* h) noexcept nogil:
    """Fill the next region, and put the one behind it on probation. Only while no translated code runs."""
    cdef Jit* j = <Jit*>h.jit
    cdef int next = on_probation(j)
    cdef Region* region = &j.regions[next]
    cdef Translation* t
    forget_region(h, next)
    if not protect(region.start, <uint64_t>(region.end - region.start), 0):
        return 0
    j.region = next
    j.code.at = j.fresh = region.start
    j.data = region.end
    j.counters.regions += 1
    t = j.regions[on_probation(j)].translations
    while t != NULL:
        isolate(t)
        leave_site(h, t)
        t = t.neighbour
    land_flush(h, (1 << KEYS) - 1)
    return 1

cdef void forget_all(Hart* h) noexcept nogil:
    """All blocks were dropped, and their memory used again: begin with empty regions."""
    cdef Jit* j = <Jit*>h.jit
    cdef int n
    for n in range(j.region_count):
        j.regions[n].translations = NULL
    h.code_dropped = 0
    h.exit_link = NULL
    land_flush(h, (1 << KEYS) - 1)
    begin_region(h)


# ---- into translated code and out of it ------------------------------------------------------------------------------------

cdef void link_among(Hart* h, Jit* j, Translation* older) noexcept nogil:
    """Lead the links of the translations made after `older` to what is there already. Within a page that always holds."""
    cdef Translation* t = j.regions[j.region].translations
    cdef Block* block
    cdef Link* link
    while t != older:
        link = t.links
        while link != NULL:
            block = NULL if link.far else block_at(h, (t.pa & ~<uint64_t>(PAGE_SIZE - 1)) + <uint64_t>link.offset)
            if block != NULL and not is_wanted(j, made_for(block, t.key)):
                connect(link, made_for(block, t.key))
            link = link.sibling
        t = t.neighbour

cdef bint waits(Hart* h, Block* block, int key) noexcept nogil:
    """Should the block wait: until it is hot, and then for others, which will be translated with it? False if it has, or too many do."""
    cdef Jit* j = <Jit*>h.jit
    cdef Waiting* waiting = &j.waiting[j.waiting_count]
    cdef int n
    if block.heat:
        block.heat -= 1
        return 1
    if j.patience == 0 or key < 0 or j.waiting_count == MAX_WAITING:
        return 0
    for n in range(j.waiting_count):
        if j.waiting[n].block == block:
            return 0
    j.waiting_count += 1
    waiting.block = block
    waiting.pa = block.pa
    waiting.key = <uint32_t>key
    block.heat = j.patience
    return 1

cdef void arm_enter(Hart* h, Insn* i) noexcept nogil:
    """Run the translation of the block that begins with `i`."""
    cdef Block* block = h.block
    cdef Jit* j = <Jit*>h.jit
    cdef Translation* t
    cdef int key = key_of(h)
    cdef bint stays = 1
    if key < 0:
        block.first(h, i)
        return
    t = made_for(block, <uint32_t>key)
    if is_wanted(j, t):
        if waits(h, block, key):
            stays = 0
        else:
            t = translate(h, block, <uint32_t>key)
            if t == NULL:                                    # no memory: try again much later
                i.run = h.counting
                block.heat = UNTRANSLATABLE
    if t == NULL or h.countdown + <int64_t>block.count < t.count:
        block.first(h, i)
        return
    if stays:                                                # nothing leads to what is on probation
        if h.exit_link != NULL and leads_to(h, h.exit_link, t, h.block_pc):
            link_up(h, h.exit_link, t, h.block_pc)
        land(h, j, t, h.block_pc)
    h.countdown += block.count
    h.page_va = h.block_pc & ~<uint64_t>(PAGE_SIZE - 1)
    h.running_generation = h.generation[h.priv]
    h.running_key = t.key
    h.exit_link = NULL
    j.counters.entered += 1
    j.run[t.key >> 2](h, t.entry)
    if h.exit_link != NULL:
        h.pc = h.page_va + <uint64_t>h.exit_link.offset

cdef void arm_count(Hart* h, Insn* i) noexcept nogil:
    """Stands in front of a cold block, as all are when all were dropped."""
    if h.code_dropped:
        forget_all(h)
    if waits(h, h.block, key_of(h)):
        h.block.first(h, i)
    else:
        arm_enter(h, i)


# ---- the translator's face to the core ---------------------------------------------------------------------------------------

cdef bint jit_possible() noexcept nogil:
    """Is this a host that is translated to?"""
    return HOST_IS_X86_64

cdef void divide_memory(Jit* j) noexcept nogil:
    """Make the regions. If they are large, and the host has huge pages, code is in such, but for the first two megabytes, with which small
    programs do. A quarter of a region is left to data."""
    cdef uint64_t each, small, unit = PAGE_SIZE
    cdef Region* region
    cdef int n
    j.region_count = MAX_REGIONS
    while j.size // <uint64_t>j.region_count < REGION_MIN and j.region_count > 2:
        j.region_count -= 1
    each = j.size // <uint64_t>j.region_count
    j.huge = j.memory + j.size
    if each >= 4 * HUGE_PAGE:
        unit = HUGE_PAGE
        j.huge = j.memory + HUGE_PAGE
    each &= ~(unit - 1)
    for n in range(j.region_count):
        region = &j.regions[n]
        region.start = j.memory + <uint64_t>n * each
        region.end = region.start + each
        if unit == HUGE_PAGE:
            small = HUGE_PAGE if n == 0 else 0
            ask_for_huge_pages(region.start + small, (each * 3 >> 2 & ~(unit - 1)) - small)
    j.regions[0].start += COMMON_SIZE
    j.regions[j.region_count - 1].end = <uint8_t*>j.constants

cdef bint jit_new(Hart* h, uint64_t size, uint32_t trace, uint32_t room, uint32_t landings, bint at_once,
                  uint32_t patience) noexcept nogil:
    """Give the hart a translator with `size` bytes for code, from JIT_MIN on; traces of at most `trace` instructions and `room` bytes of
    code; a power of two of `landings`; hot blocks wait for others for `patience` entries. False if this host has no memory for it, or
    none that can be made executable."""
    cdef Jit* j
    size &= ~<uint64_t>(PAGE_SIZE - 1)
    j = <Jit*>calloc(1, sizeof(Jit))
    if j != NULL:
        j.memory = <uint8_t*>reserve(size, HUGE_PAGE)
    if j == NULL or j.memory == NULL:
        free(j)
        return 0
    j.size = size
    j.constants = <Constants*>(j.memory + size - PAGE_SIZE)
    fill_constants(h, j)
    j.landing_mask = landings - 1 if landings < LANDINGS else LANDINGS - 1
    emit_common(h, j)
    if j.code.full or not protect(j.memory, COMMON_SIZE, 1):
        munmap(j.memory, size)
        free(j)
        return 0
    divide_memory(j)
    j.code.at = j.fresh = j.regions[0].start
    j.data = j.regions[0].end
    j.max_trace = trace if trace < MAX_TRACE else MAX_TRACE
    j.room = room if room < CODE_ROOM else CODE_ROOM
    j.ahead = at_once
    j.patience = patience
    j.has_fma = has_fma()
    j.alone.block.pa = NONE
    j.alone.block.count = 1
    j.alone.resume.run = arm_resume
    h.helpers[0] = <void*>help_load
    h.helpers[1] = <void*>help_store
    h.helpers[2] = <void*>help_arm
    h.helpers[3] = <void*>help_straddle
    h.helpers[4] = <void*>help_on
    h.jit = j
    h.counting = arm_count
    h.threshold = 0 if at_once else THRESHOLD
    return 1

cdef void jit_free(Hart* h) noexcept nogil:
    cdef Jit* j = <Jit*>h.jit
    if j != NULL:
        munmap(j.memory, j.size)
        free(j)
        h.jit = NULL
