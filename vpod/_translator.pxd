"""What the translator's chapters share: its state, the registers it pins, and the words in which they emit.

`_jit.pyx` decides what is translated and owns the memory for code; `_emit_integer`, `_emit_memory`, `_emit_float` and `_emit_flow`
turn decoded instructions into x86-64 code, `_emit_common` makes what all of it shares; `_x86` encodes it. docs/design/translator.md is the design, docs/translator.md the
argument for its safety.

Invariants: while translated code runs RBP is the hart (+ BIAS), R15 the countdown, and PINS says which host register holds which x
register; RAX, RCX and RDX are free between instructions. In code for keys with F and D (`key >> 2`), FPINS says which XMM register
holds which f register; XMM0 and XMM1 are free. All other registers of the guest are in the hart. `x[32]`, where results for x0 go, is
never written: such an instruction emits nothing but its side effects.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from vpod._hart cimport *
from vpod._x86 cimport *

cdef extern from *:
    """
    /* By dynamic count over the benchmarks; -1: in the hart. Helpers keep rbx and r12 to r15, so what C calls keep is there. */
    static const signed char vpod_pins[33] = {
        -1, 14, 11, -1, -1, -1, -1, -1, 12, 13, 3, 6, 7, 8, 9, 10,      /* ra sp s0 s1 a0 to a5 */
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    static const signed char vpod_pinned[10] = {1, 2, 8, 9, 10, 11, 12, 13, 14, 15};
    static const signed char vpod_fpins[32] = {
        10, 11, 12, 13, -1, -1, -1, -1, 14, 15, 2, 3, 4, 5, 6, 7, 8, 9, /* ft0 to ft3, fs0, fs1, fa0 to fa7 */
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    static const signed char vpod_fpinned[14] = {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    """
    const int8_t PINS "vpod_pins"[33]
    const int8_t PINNED "vpod_pinned"[10]
    const int8_t FPINS "vpod_fpins"[32]
    const int8_t FPINNED "vpod_fpinned"[14]

cdef enum:
    PIN_COUNT = 10
    FPIN_COUNT = 14
    BIAS = 128                 # RBP is the hart's address plus this: x0 to x31 have one-byte displacements
    MAX_TRACE = 128            # instructions of a translation
    MAX_PARTS = 16             # and blocks
    APART_SIZE = 64
    MAX_OUTS = 640             # places that a translation leaves its straight line from
    CODE_ROOM = 36 << 10       # more than a translation needs: of code
    DATA_ROOM = 24 << 10       #   and of data
    MAX_REGIONS = 8
    MAX_WAITING = 32           # blocks that are hot, and will be translated with the next that is
    RM_RNE = 0
    RM_RTZ = 1
    RM_RMM = 4
    RM_DYN = 7
    FLOATING = 4               # the bit of a key: F and D are ready, FS being Dirty and frm RNE

ctypedef void (*Run)(Hart* h, const uint8_t* code) noexcept nogil

cdef enum OutKind:
    OUT_LOAD                   # a load or store whose window didn't fit
    OUT_STORE
    OUT_HEAD                   # the countdown doesn't reach to the end of the trace
    OUT_ARM                    # the whole instruction by its arm
    OUT_NAN                    # the result becomes the canonical NaN
    OUT_SIDE                   # a branch leaves the trace
    OUT_GROUP                  # the accesses of a group are not all in the window's page

cdef struct Step:              # an instruction of the trace being made
    Insn* insn
    int32_t base               # the offset in its page of its block
    int32_t follows            # where the trace goes on after the block; -1: nowhere
    int left                   # instructions of the trace behind this one

cdef struct Group:             # loads and stores off one base register that one check stands for; RDX is its window's addend
    int base                   # the register
    int last                   # the step of the last of them; less than the present one: there is no group
    int count
    bint write                 # are there stores?
    bint direct                # is the TLB to be asked, not a window?
    int unit                   # log2 of the aligned bytes that they are all within, so that one compare does; -1: they aren't
    int32_t low                # the first byte, from the base
    int32_t high               #   and the last

cdef struct Out:               # what stands out of line, behind a translation
    int kind
    uint8_t* place             # the jump that leads here
    uint8_t* low               #   and of OUT_GROUP the other one
    uint8_t* back              # where it goes on when a window was refilled: before the check
    uint8_t* access            #   or behind it, the addend in RDX
    uint8_t* done              # where the instruction is over
    Insn* insn
    int32_t at                 # the instruction's offset in its page
    int32_t target             # of a side exit: where to, likewise
    int left                   # instructions of the trace behind this one
    bint single                # of OUT_NAN: which NaN
    bint ends                  # of OUT_ARM: what follows relies on what the arm doesn't do
    bint grouped               # RDX is a group's and must be kept
    bint direct                # the TLB was asked, not a window
    Group group                # of OUT_GROUP
    int step                   #   and its first step
    uint32_t boxed             #   and what was known there
    uint32_t chased

cdef struct Constants:         # of 16 bytes each, as SSE wants them
    uint64_t box[2]            # the upper half of a boxed single
    uint64_t sign_s[2]
    uint64_t abs_s[2]
    uint64_t nan_s[2]
    uint64_t sign_d[2]
    uint64_t abs_d[2]
    uint64_t nan_d[2]

cdef struct Single:            # one instruction to be executed by its arm
    Insn insn
    int32_t at                 # its offset in its page
    int32_t left               # instructions of the trace behind it

cdef struct Alone:             # and the block in which that happens
    Block block
    Insn resume                # behind it: the arm that says it is over

cdef struct Apart:             # an instruction that was met where it lies in two pages; its word says all
    uint32_t word              # 0: none
    Insn insn

cdef struct Waiting:           # a hot block
    Block* block
    uint64_t pa                # and where it was: its memory is another's once all were dropped
    uint32_t key

cdef struct Region:            # a part of the memory for code: code grows up from its start, data down from its end
    uint8_t* start
    uint8_t* end
    Translation* translations

cdef struct Counters:
    uint64_t translations      # made so far
    uint64_t batches           # in which they were made
    uint64_t bytes             # of guest code in them
    uint64_t nanoseconds       # that making them took
    uint64_t regions           # of memory begun anew, so far
    uint64_t moved             # translations in use that were made again before their region went
    uint64_t entered           # how often translated code was entered, by the run loop
    uint64_t arms[256]         # calls of the interpreter's arms, by op

cdef struct Jit:
    uint8_t* memory
    uint64_t size
    Region regions[MAX_REGIONS]
    int region_count
    int region                 # the one being filled; the next one's translations are on probation
    Code code
    uint8_t* data              # in the region being filled
    uint8_t* data_floor        # of the translation being made
    uint8_t* fresh             # here and above: code memory of this region that was never executable
    uint8_t* huge              # here and above: code memory in huge pages
    Waiting waiting[MAX_WAITING]
    int waiting_count
    Run run[2]                 # here and below: [1] with F and D
    uint8_t* exit_at[2]        # EAX: offset in the page of the next instruction
    uint8_t* exit_link[2]      # RAX: the link
    uint8_t* exit_set[2]       # h.pc is set
    uint8_t* onward[2]         # RAX: a link that leads nowhere yet
    uint8_t* onward_pc[2]      # RAX: the next pc, which has no landing
    uint8_t* straddle[2]       # what begins with the page's last two bytes is next, and is in the next page too
    uint8_t* land_apart[KEYS]  # RAX: the next pc, RCX: twice the index where it has no landing
    uint8_t* refill[TLB_MODES][2]      # see `emit_refill`; [1] for stores
    uint8_t* slow[2][2]        # RAX: address, EDX likewise, RCX: value of a store ([1]); RAX: value of a load
    uint8_t* arm[2]            # RAX: a Single
    uint8_t* sync              # MXCSR's flags into fflags
    Constants* constants
    Alone alone
    Apart apart[APART_SIZE]
    int max_trace              # instructions
    uint32_t room              # bytes of code that a translation may take, up to CODE_ROOM
    bint ahead                 # decode what a trace may go on with
    uint32_t patience          # entries that a hot block waits for others that are translated with it
    bint has_fma
    uint32_t landing_mask
    # the translation being made
    uint32_t key
    int fp                     # its FLOATING bit
    int32_t base               # the offset in its page of the block being translated
    int32_t head               #   and of the first block
    uint32_t boxed             # f registers known to hold boxed singles
    uint32_t chased            # x registers that hold what was loaded: a pointer from a structure, which may lead anywhere
    Step steps[MAX_TRACE + 1]
    int step_count
    uint32_t seed              # which windows it uses: see `window_of`
    int step                   # the present one
    Group group
    uint8_t* ends[MAX_TRACE]   # where the code of each step ends
    Out outs[MAX_OUTS]
    int out_count
    uint64_t spare[64]         # for data that has no room: what was emitted is thrown away then
    Counters counters


# ---- the hart's fields, and the guest's registers ------------------------------------------------------------------

cdef inline int32_t off(Hart* h, void* field) noexcept nogil:
    """The displacement of a field of the hart from RBP."""
    return <int32_t>(<char*>field - <char*>h) - BIAS

cdef inline int32_t xoff(int n) noexcept nogil:
    return 8 * n - BIAS        # x is the hart's first field

cdef inline void fetch(Code* c, int to, int n) noexcept nogil:
    """x[n] into `to`."""
    if PINS[n] >= 0:
        mov_rr(c, 1, to, PINS[n])
    elif n == 0:
        mov_ri(c, to, 0)
    else:
        mov_rm(c, 1, to, RBP, xoff(n))

cdef inline int use(Code* c, int n, int scratch) noexcept nogil:
    """A register that holds x[n]: its own, or `scratch`, into which it is loaded."""
    if PINS[n] >= 0:
        return PINS[n]
    fetch(c, scratch, n)
    return scratch

cdef inline int into(int n, int scratch) noexcept nogil:
    """Where to compute x[n]."""
    return PINS[n] if PINS[n] >= 0 else scratch

cdef inline void give(Code* c, int n, int source) noexcept nogil:
    """`source` becomes x[n]."""
    if PINS[n] >= 0:
        mov_rr(c, 1, PINS[n], source)
    else:
        mov_mr(c, 1, RBP, xoff(n), source)

cdef inline void alu_x(Code* c, int op, bint wide, int to, int n) noexcept nogil:
    """to = to op x[n]"""
    if PINS[n] >= 0:
        alu_rr(c, op, wide, to, PINS[n])
    else:
        alu_rm(c, op, wide, to, RBP, xoff(n))

cdef inline void extend_word(Code* c, int n) noexcept nogil:
    """EAX, sign-extended, becomes x[n]."""
    cdef int d = into(n, RAX)
    op_rr(c, OP_MOVSXD, 1, d, RAX)
    give(c, n, d)


cdef inline uint32_t packed(Insn* i, int log_size, int32_t at, int left) noexcept nogil:
    """What the helpers of a load or store must know: size, length of the instruction, instructions left, and where it is."""
    return <uint32_t>log_size << 25 | <uint32_t>(i.length == 4) << 24 | <uint32_t>left << 16 | <uint32_t>at


# ---- what is emitted out of line, and data ------------------------------------------------------------------------

cdef inline Out* out_of_line(Jit* j, int kind, uint8_t* place, Insn* i, int left) noexcept nogil:
    """Note that the jump at `place` leads to code behind the translation."""
    cdef Out* o = &j.outs[j.out_count]
    if j.out_count < MAX_OUTS - 1:
        j.out_count += 1
    else:
        j.code.full = 1                                      # MAX_OUTS is more than MAX_TRACE needs
    memset(o, 0, sizeof(Out))
    o.kind = kind
    o.place = place
    o.insn = i
    o.at = j.base + <int32_t>i.offset if i != NULL else j.head
    o.left = left
    o.grouped = j.step < j.group.last
    return o

cdef inline void* take_data(Jit* j, uint64_t size) noexcept nogil:
    """`size` zero bytes of data behind the code, aligned to 16; something to write to, and a full buffer, if there is no room."""
    size = (size + 15) & ~<uint64_t>15
    if <uint64_t>(j.data - j.data_floor) < size:
        j.code.full = 1
        return j.spare
    j.data -= size
    memset(j.data, 0, size)
    return j.data

cdef inline void emit_exit(Jit* j, int32_t offset, int left) noexcept nogil:
    """To the run loop, which goes on at an offset in the page; `left` instructions of the trace were not executed."""
    if left:
        alu_ri(&j.code, ADD, 1, R15, left)
    mov_ri(&j.code, RAX, <uint32_t>offset)
    jump_to(&j.code, j.exit_at[j.fp])
