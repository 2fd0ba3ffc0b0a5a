"""The state of the hart and of what caches it: everything that the core's chapters share.

One `Hart` is owned by one `vpod._cpu.Cpu` and passed by pointer. What is architectural comes first and is what a
snapshot keeps; the rest (TLB, blocks, counters of this run) is rebuilt. Invariants:

* `x[0]` is always zero; `x[32]` is where writes to x0 go (the decoder says 32 for a destination of x0), so no
  instruction tests its destination.
* An f register that holds a single is NaN-boxed: its upper 32 bits are ones.
* A trap is stored here (`trap_pending`, `trap_cause`, `trap_value`), never raised; whoever stored it returns 0 (false).
* Instructions retired = `retired_base - countdown`: one counter serves the budget, the timer check and `minstret`.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define VPOD_RAM_BASE 0x80000000ull
    #define VPOD_MENVCFG_STCE (1ull << 63)
    #define VPOD_MENVCFG_ADUE (1ull << 61)
    #define VPOD_SD (1ull << 63)
    #define VPOD_NONE (~0ull)
    #define VPOD_PPN 0xfffffffffffull
    #define VPOD_PMPADDR 0x3fffffffffffffull
    #define VPOD_BOX 0xffffffff00000000ull
    #define vpod_likely(x) __builtin_expect(!!(x), 1)
    #define vpod_unlikely(x) __builtin_expect(!!(x), 0)
    """
    const uint64_t RAM_BASE "VPOD_RAM_BASE"
    const uint64_t MENVCFG_STCE "VPOD_MENVCFG_STCE"
    const uint64_t MENVCFG_ADUE "VPOD_MENVCFG_ADUE"
    const uint64_t STATUS_SD "VPOD_SD"
    const uint64_t NONE "VPOD_NONE"
    const uint64_t PPN_MASK "VPOD_PPN"           # physical page numbers of satp and page tables
    const uint64_t PMPADDR_MASK "VPOD_PMPADDR"
    const uint64_t NAN_BOX "VPOD_BOX"
    bint likely "vpod_likely"(bint) noexcept nogil
    bint unlikely "vpod_unlikely"(bint) noexcept nogil

cdef enum:
    PRIV_U = 0
    PRIV_S = 1
    PRIV_M = 3

cdef enum:
    PAGE_SHIFT = 12
    PAGE_SIZE = 4096
    TLB_SIZE = 1024
    TLB_MODES = 4              # U, S, S with SUM, M (and every bare access)
    JUMP_SIZE = 4096
    PMP_ENTRIES = 16
    X0_SINK = 32
    KEYS = 8                   # of translations
    WINDOWS = 256              # of a data mode, for translated code
    LANDINGS = 4096
    SITES = 65536
    ENTERED_WORDS = 4096

cdef enum:                     # exception causes, privileged specification, table "mcause values after trap"
    CAUSE_FETCH_MISALIGNED = 0
    CAUSE_FETCH_ACCESS = 1
    CAUSE_ILLEGAL = 2
    CAUSE_BREAKPOINT = 3
    CAUSE_LOAD_MISALIGNED = 4
    CAUSE_LOAD_ACCESS = 5
    CAUSE_STORE_MISALIGNED = 6
    CAUSE_STORE_ACCESS = 7
    CAUSE_ECALL_U = 8
    CAUSE_ECALL_S = 9
    CAUSE_ECALL_M = 11
    CAUSE_FETCH_PAGE = 12
    CAUSE_LOAD_PAGE = 13
    CAUSE_STORE_PAGE = 15

cdef enum:                     # bits of mip and mie
    IRQ_SSIP = 1 << 1
    IRQ_MSIP = 1 << 3
    IRQ_STIP = 1 << 5
    IRQ_MTIP = 1 << 7
    IRQ_SEIP = 1 << 9
    IRQ_MEIP = 1 << 11

cdef enum:                     # accrued exceptions, F extension, "fflags"
    FFLAG_NX = 1
    FFLAG_UF = 2
    FFLAG_OF = 4
    FFLAG_DZ = 8
    FFLAG_NV = 16

cdef struct Hart
cdef struct Insn
ctypedef void (*Arm)(Hart* h, Insn* i) noexcept nogil      # what an instruction does, and then all that follow

cdef struct Insn:              # a decoded instruction, 24 bytes
    Arm run                    # set when its block is built
    uint16_t op                # an Op of _decode.pxd
    uint8_t rd                 # 32 for integer destinations of x0; 0..31 for f registers
    uint8_t rs1                # register number, or the 5-bit immediate of csrr*i
    uint8_t rs2
    uint8_t rs3                # third source of fused multiply-adds
    uint8_t rm                 # rounding mode field of floating-point instructions (7: dynamic)
    uint8_t length             # 2 or 4
    int32_t imm                # sign-extended immediate; shift amount; CSR number; the word itself when op is OP_ILLEGAL
    uint32_t offset            # of this instruction from the start of its block, in bytes

cdef struct TlbEntry:          # a tag that can't match (~0) makes the access miss
    uint64_t read_tag          # virtual page address of an access that needs no further check
    uint64_t write_tag
    uint64_t exec_tag
    uint64_t addend            # host address minus virtual address

cdef struct Window:            # the page that accesses off one base register hit last: a TLB entry before the TLB, for translated code
    uint64_t read_tag
    uint64_t write_tag
    uint64_t addend
    uint64_t unused

cdef struct Block
cdef struct Translation

cdef struct Link:              # where a jump out of translated code goes; the code jumps through it and never changes
    uint8_t* target            # host code: `stub` until it is linked
    uint8_t* stub
    Translation* source
    Translation* leads_to
    Link* next                 # of those that lead to the same translation
    Link* previous
    Link* sibling              # of the same source
    int32_t offset             # of the guest's target from the page that the jump is in
    bint far                   # that is another page: this is a FarLink

cdef struct FarLink:
    Link link
    uint64_t page_va           # the page it starts from, and the generation, for which it holds
    uint64_t generation
    uint64_t next_page_va      #   and the page it leads to

cdef struct Translation:
    Block* block
    uint8_t* entry             # host code
    Translation* next          # the same block's for another key
    Link* incoming
    Link* links                # its own
    Translation* neighbour     # in the same region of the memory for code
    uint64_t pa
    uint32_t count             # instructions of the whole trace
    uint32_t key               # what of the hart's mode the code depends on: see _jit.pyx
    uint32_t region            # which region of the memory for code it is in
    bint dropped               # its block was, or it was made anew elsewhere

cdef struct Landing:           # of indirect jumps: virtual pc → host code, one table for each key
    uint64_t tag
    uint8_t* code

cdef struct Block:
    uint64_t pa                # physical address of the first instruction
    Block* hash_next
    Block* page_next           # the other blocks of this physical page
    Block* link[2]             # successors within the same page: 0 falls through, 1 taken
    Translation* translations
    Arm first                  # what insns[0].run was before it became the arm that counts, or that enters translated code
    uint32_t heat              # entries left until it is translated
    uint32_t count             # instructions
    uint32_t size              # bytes
    Insn insns[1]              # `count` of them and a terminator

cdef struct JumpEntry:
    uint64_t tag               # virtual pc: each privilege has a table of its own
    Block* block

cdef struct CodePage:          # a page of RAM from which something was decoded
    uint64_t lines             # one bit for each 64 bytes that hold decoded instructions
    Block* blocks

cdef enum Status:              # how the interpreter's inner functions end
    CONTINUE = 0               # the instruction is done, go on
    FAULT = 1                  # it is not: a trap is pending, or an access waits for the bus
    LEAVE = 2                  # it is done, but what follows must be looked up anew

cdef enum MmioState:
    MMIO_NONE = 0
    MMIO_READ = 1              # run() must ask the bus, then the instruction is executed again
    MMIO_WRITE = 2
    MMIO_READY = 3             # the answer is in mmio_value
    MMIO_REFUSED = 4           # no device answered: access fault

cdef struct Hart:
    # integer and floating-point state
    uint64_t x[33]
    uint64_t pc
    uint64_t f[32]
    uint32_t fflags
    uint32_t frm
    # privileged state
    uint32_t priv
    uint64_t mstatus, medeleg, mideleg, mie, mip, mtvec, mscratch, mepc, mcause, mtval
    uint64_t mcounteren, mcountinhibit, menvcfg
    uint64_t stvec, sscratch, sepc, scause, stval, satp, scounteren, senvcfg, stimecmp
    uint8_t pmpcfg[PMP_ENTRIES]
    uint64_t pmpaddr[PMP_ENTRIES]
    uint64_t mtimecmp
    uint64_t reservation       # LR/SC: physical address of the reservation, ~0 for none
    uint64_t cycle_offset      # mcycle and minstret minus the instructions retired
    uint64_t instret_offset
    int64_t time_offset        # mtime minus the host's monotonic clock, in ticks of 100 ns
    uint32_t external          # the PLIC's line to mip.SEIP, which is ORed with the software bit

    # memory
    uint8_t* ram
    uint64_t ram_size
    TlbEntry tlb[TLB_MODES][TLB_SIZE]
    TlbEntry* data_tlb         # the array for loads and stores in the present mode
    uint32_t data_mode         # its index
    uint64_t super_low[2]      # virtual ranges, of the lower and the upper half, in which superpages were cached: an
    uint64_t super_high[2]     #   sfence.vma of one address there empties everything
    uint32_t jumped            # a bit for each privilege whose table has entries
    uint32_t local_supervisor  # a supervisor page that is not global was cached: it ends with its address space
    uint64_t pmp_low[PMP_ENTRIES]      # inclusive ranges of the PMP entries, from their registers
    uint64_t pmp_high[PMP_ENTRIES]
    uint32_t pmp_active        # entries up to the last that is not off

    # a trap on its way, an access to a device on its way
    uint32_t trap_pending
    uint64_t trap_cause
    uint64_t trap_value
    uint32_t mmio_state
    uint32_t mmio_size
    uint64_t mmio_address
    uint64_t mmio_value

    # counting: instructions retired so far = retired_base - countdown
    int64_t countdown          # instructions until somebody must look at time, budget and requests
    int64_t retired_base
    int64_t budget             # instructions of this run() not yet put into countdown
    uint32_t waiting           # a wfi found nothing pending
    int stop_request           # set by another thread

    # decoded code
    CodePage** code_pages      # by RAM page; NULL: nothing was decoded from it
    Block** block_hash
    uint8_t* arena
    uint64_t arena_used
    Arm arms[256]              # by op; _arms.pxd fills it
    uint64_t block_pc          # while arms run: the virtual address of the running block
    Block* block               #   and the block
    JumpEntry jump[PRIV_M + 1][JUMP_SIZE]      # by privilege
    uint64_t scratch[80]       # a Block that is used once: page-crossing or cut short

    # translated code
    uint64_t page_va           # while it runs: the virtual address of its page
    uint64_t generation[PRIV_M + 1]    # by privilege; moves on whenever a virtual pc may mean another physical one
    uint64_t running_generation        # that of the present privilege
    uint32_t running_key               # of the translation that was entered last from outside
    uint64_t generations               # the last one given out
    Link* exit_link            # the link through which the code was left, to be linked with what runs next; NULL: none
    uint64_t group_addend      # kept while a helper runs
    uint32_t status            # how a helper ended, a Status
    uint32_t resumed           # an arm called from translated code came to its end
    uint32_t host_mxcsr
    uint32_t guest_mxcsr
    uint8_t flags_of[64]       # MXCSR's flags → fflags
    void* jit                  # a Jit of _jit.pyx; NULL: no translator
    Arm counting               # stands in front of cold blocks; NULL: no translator
    uint32_t threshold         # entries of a block before it is translated
    uint32_t code_dropped      # all decoded blocks were dropped: translations too must go
    uint64_t entered[ENTERED_WORDS]    # a bit for the virtual pages that landings and links between pages lead to
    uint32_t landed            # a bit for each key whose table has entries
    Window window[TLB_MODES][WINDOWS]
    void* helpers[8]
    Landing landing[KEYS][LANDINGS]
    Translation* site[SITES]   # physical pc and key → the translation, if no other took its place
