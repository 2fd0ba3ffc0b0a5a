"""Control and status registers: which exist, who may touch them, and what a write leaves of the value (WARL).

`csr_read` and `csr_write` know no privilege; `csr_allowed` decides that. Numbers, fields and legal values are those of the
privileged specification 1.12, chapter "Control and Status Registers (CSRs)"; unimplemented numbers are illegal instructions, as OpenSBI's
probing expects. Performance counters beyond cycle, time and instret are hardwired to zero.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from vpod._blocks cimport CSR_CLEAR, CSR_IMMEDIATE, CSR_SET, CSR_WRITE
from vpod._hart cimport *
from vpod._mmu cimport *
from vpod._trap cimport mtime, pending, update_timers

cdef extern from *:
    """
    #define VPOD_MISA   ((2ull << 62) | 0x14112d)                 /* RV64 ACDFIMSU */
    #define VPOD_UXL_SXL ((2ull << 32) | (2ull << 34))
    #define VPOD_MSTATUS_WRITABLE 0x7e79aaull
    #define VPOD_SSTATUS_WRITABLE 0x0c6122ull
    #define VPOD_SSTATUS_READABLE (0x80000003000c6122ull)
    """
    const uint64_t MISA "VPOD_MISA"
    const uint64_t UXL_SXL "VPOD_UXL_SXL"
    const uint64_t MSTATUS_WRITABLE "VPOD_MSTATUS_WRITABLE"
    const uint64_t SSTATUS_WRITABLE "VPOD_SSTATUS_WRITABLE"
    const uint64_t SSTATUS_READABLE "VPOD_SSTATUS_READABLE"

cdef enum:
    MEDELEG_WRITABLE = 0xb3ff  # every synchronous cause but an environment call from M
    S_INTERRUPTS = 0x222
    ALL_INTERRUPTS = 0xaaa
    COUNTER_ENABLES = 7        # CY, TM, IR


# ---- counters ------------------------------------------------------------------------------------------------

cdef inline uint64_t retired(Hart* h) noexcept nogil:
    """Instructions retired before the present one, which ends its block and has been counted with it."""
    return <uint64_t>(h.retired_base - h.countdown - 1)

cdef inline uint64_t counter(Hart* h, uint64_t offset, uint64_t inhibit) noexcept nogil:
    return offset if h.mcountinhibit & inhibit else offset + retired(h)

cdef inline void set_counter(Hart* h, uint64_t* offset, uint64_t inhibit, uint64_t value) noexcept nogil:
    # the increment of the writing instruction is suppressed: "Hardware Performance Monitor"
    offset[0] = value if h.mcountinhibit & inhibit else value - (retired(h) + 1)

cdef inline void write_countinhibit(Hart* h, uint64_t value) noexcept nogil:
    cdef uint64_t cycle = counter(h, h.cycle_offset, 1)
    cdef uint64_t instret = counter(h, h.instret_offset, 4)
    h.mcountinhibit = value & 5
    h.cycle_offset = cycle if value & 1 else cycle - retired(h)
    h.instret_offset = instret if value & 4 else instret - retired(h)


# ---- who may ---------------------------------------------------------------------------------------------------

cdef inline bint counter_enabled(Hart* h, uint64_t bit) noexcept nogil:
    if h.priv == PRIV_M:
        return 1
    return h.mcounteren & bit and (h.priv == PRIV_S or h.scounteren & bit)

cdef inline bint csr_allowed(Hart* h, uint32_t number, bint write) noexcept nogil:
    """Privilege, read-only numbers, and the controls that take single registers away from a mode."""
    if h.priv < (number >> 8) & 3 or (write and number >> 10 == 3):
        return 0
    if number <= 0x003:
        return h.mstatus & STATUS_FS != 0
    if 0xc00 <= number < 0xc20:
        return counter_enabled(h, <uint64_t>1 << (number - 0xc00))
    if number == 0x14d:                                    # stimecmp: Sstc, "Machine Environment Configuration"
        return h.priv == PRIV_M or (h.menvcfg & MENVCFG_STCE and h.mcounteren & 2)
    if number == 0x180:
        return not (h.priv == PRIV_S and h.mstatus & STATUS_TVM)
    return 1


# ---- status ----------------------------------------------------------------------------------------------------

cdef inline uint64_t read_mstatus(Hart* h) noexcept nogil:
    cdef uint64_t value = (h.mstatus & MSTATUS_WRITABLE) | UXL_SXL
    return value | STATUS_SD if h.mstatus & STATUS_FS == STATUS_FS else value

cdef inline void write_mstatus(Hart* h, uint64_t value, uint64_t mask) noexcept nogil:
    cdef uint64_t old = h.mstatus
    mask &= MSTATUS_WRITABLE
    if value & STATUS_MPP == 2 << 11:                      # no such privilege: keep what was there
        mask &= ~<uint64_t>STATUS_MPP
    h.mstatus = (old & MSTATUS_WRITABLE & ~mask) | (value & mask)
    if (old ^ h.mstatus) & STATUS_MXR:
        tlb_flush(h)                                       # cached read rights depend on it
    update_mode(h)

cdef inline void write_satp(Hart* h, uint64_t value) noexcept nogil:
    """A write with an unsupported mode has no effect at all. ASIDLEN is 16: of what is cached, only global mappings stay."""
    cdef uint64_t mode = value >> 60
    if mode != 0 and mode != 8:
        return
    if mode != h.satp >> 60:
        tlb_flush(h)
    elif value != h.satp:
        tlb_flush_local(h)
    h.satp = value

cdef inline void write_pmpcfg(Hart* h, uint32_t first, uint64_t value) noexcept nogil:
    cdef uint32_t n
    cdef uint8_t cfg
    for n in range(8):
        cfg = <uint8_t>((value >> (8 * n)) & 0x9f)
        if cfg & 3 == 2:                                   # W without R is reserved
            cfg &= ~<uint8_t>3
        if not h.pmpcfg[first + n] & PMP_L:
            h.pmpcfg[first + n] = cfg
    pmp_update(h)
    tlb_flush(h)

cdef inline void write_pmpaddr(Hart* h, uint32_t n, uint64_t value) noexcept nogil:
    cdef bint next_locked = n + 1 < PMP_ENTRIES and h.pmpcfg[n + 1] & PMP_L and (h.pmpcfg[n + 1] & PMP_A) >> 3 == 1
    if h.pmpcfg[n] & PMP_L or next_locked:                 # a locked TOR entry locks its lower bound too
        return
    h.pmpaddr[n] = value & PMPADDR_MASK
    pmp_update(h)
    tlb_flush(h)

cdef inline uint64_t read_pmpcfg(Hart* h, uint32_t first) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint32_t n
    for n in range(8):
        value |= <uint64_t>h.pmpcfg[first + n] << (8 * n)
    return value

cdef inline uint64_t vector_base(uint64_t old, uint64_t value) noexcept nogil:
    return value if value & 3 < 2 else (value & ~<uint64_t>3) | (old & 3)


# ---- read and write ---------------------------------------------------------------------------------------------

cdef inline bint csr_read(Hart* h, uint32_t number, uint64_t* value) noexcept nogil:
    """False if there is no such register."""
    cdef uint64_t v
    if number == 0x001: v = h.fflags
    elif number == 0x002: v = h.frm
    elif number == 0x003: v = h.frm << 5 | h.fflags
    elif number == 0xc00 or number == 0xb00: v = counter(h, h.cycle_offset, 1)
    elif number == 0xc01: v = mtime(h)
    elif number == 0xc02 or number == 0xb02: v = counter(h, h.instret_offset, 4)
    elif 0xc03 <= number < 0xc20 or 0xb03 <= number < 0xb20 or 0x323 <= number < 0x340: v = 0
    elif number == 0x100: v = read_mstatus(h) & SSTATUS_READABLE
    elif number == 0x104: v = h.mie & h.mideleg
    elif number == 0x105: v = h.stvec
    elif number == 0x106: v = h.scounteren
    elif number == 0x10a: v = h.senvcfg
    elif number == 0x140: v = h.sscratch
    elif number == 0x141: v = h.sepc
    elif number == 0x142: v = h.scause
    elif number == 0x143: v = h.stval
    elif number == 0x144: v = pending(h) & h.mideleg
    elif number == 0x14d: v = h.stimecmp
    elif number == 0x180: v = h.satp
    elif number == 0x300: v = read_mstatus(h)
    elif number == 0x301: v = MISA
    elif number == 0x302: v = h.medeleg
    elif number == 0x303: v = h.mideleg
    elif number == 0x304: v = h.mie
    elif number == 0x305: v = h.mtvec
    elif number == 0x306: v = h.mcounteren
    elif number == 0x30a: v = h.menvcfg
    elif number == 0x320: v = h.mcountinhibit
    elif number == 0x340: v = h.mscratch
    elif number == 0x341: v = h.mepc
    elif number == 0x342: v = h.mcause
    elif number == 0x343: v = h.mtval
    elif number == 0x344: v = pending(h)
    elif number == 0x3a0: v = read_pmpcfg(h, 0)
    elif number == 0x3a2: v = read_pmpcfg(h, 8)
    elif 0x3b0 <= number < 0x3c0: v = h.pmpaddr[number - 0x3b0]
    elif 0xf11 <= number <= 0xf15: v = 0       # mvendorid, marchid, mimpid, mhartid, mconfigptr
    else: return 0
    value[0] = v
    return 1

cdef inline void csr_write(Hart* h, uint32_t number, uint64_t v) noexcept nogil:
    """Only for registers that `csr_read` knows and that are not read-only."""
    if number == 0x001: write_fcsr(h, h.frm, v)
    elif number == 0x002: write_fcsr(h, v, h.fflags)
    elif number == 0x003: write_fcsr(h, v >> 5, v)
    elif number == 0xb00: set_counter(h, &h.cycle_offset, 1, v)
    elif number == 0xb02: set_counter(h, &h.instret_offset, 4, v)
    elif number == 0x100: write_mstatus(h, v, SSTATUS_WRITABLE)
    elif number == 0x104: h.mie = (h.mie & ~h.mideleg) | (v & h.mideleg & ALL_INTERRUPTS)
    elif number == 0x105: h.stvec = vector_base(h.stvec, v)
    elif number == 0x106: h.scounteren = v & COUNTER_ENABLES
    elif number == 0x10a: h.senvcfg = v & 1
    elif number == 0x140: h.sscratch = v
    elif number == 0x141: h.sepc = v & ~<uint64_t>1
    elif number == 0x142: h.scause = v
    elif number == 0x143: h.stval = v
    elif number == 0x144: h.mip = (h.mip & ~(h.mideleg & IRQ_SSIP)) | (v & h.mideleg & IRQ_SSIP)
    elif number == 0x14d: h.stimecmp = v; update_timers(h)
    elif number == 0x180: write_satp(h, v)
    elif number == 0x300: write_mstatus(h, v, NONE)
    elif number == 0x302: h.medeleg = v & MEDELEG_WRITABLE
    elif number == 0x303: h.mideleg = v & S_INTERRUPTS
    elif number == 0x304: h.mie = v & ALL_INTERRUPTS
    elif number == 0x305: h.mtvec = vector_base(h.mtvec, v)
    elif number == 0x306: h.mcounteren = v & COUNTER_ENABLES
    elif number == 0x30a: write_menvcfg(h, v)
    elif number == 0x320: write_countinhibit(h, v)
    elif number == 0x340: h.mscratch = v
    elif number == 0x341: h.mepc = v & ~<uint64_t>1
    elif number == 0x342: h.mcause = v
    elif number == 0x343: h.mtval = v
    elif number == 0x344: write_mip(h, v)
    elif number == 0x3a0: write_pmpcfg(h, 0, v)
    elif number == 0x3a2: write_pmpcfg(h, 8, v)
    elif 0x3b0 <= number < 0x3c0: write_pmpaddr(h, number - 0x3b0, v)

cdef inline void write_fcsr(Hart* h, uint64_t frm, uint64_t fflags) noexcept nogil:
    h.frm = frm & 7
    h.fflags = fflags & 31
    h.mstatus |= STATUS_FS

cdef inline void write_menvcfg(Hart* h, uint64_t value) noexcept nogil:
    h.menvcfg = value & (MENVCFG_STCE | MENVCFG_ADUE | 1)
    if not value & MENVCFG_STCE:
        h.mip &= ~<uint64_t>IRQ_STIP                       # from now on software's own bit
    tlb_flush(h)
    update_timers(h)

cdef inline void write_mip(Hart* h, uint64_t value) noexcept nogil:
    cdef uint64_t mask = IRQ_SSIP | IRQ_SEIP | (0 if h.menvcfg & MENVCFG_STCE else IRQ_STIP)
    h.mip = (h.mip & ~mask) | (value & mask)


# ---- the six instructions ----------------------------------------------------------------------------------------

cdef inline bint csr_execute(Hart* h, Insn* i) noexcept nogil:
    """csrrw, csrrs, csrrc and their immediate forms; false with a stored trap. Zicsr, "CSR Instructions"."""
    cdef uint32_t number = <uint32_t>i.imm & 0xfff
    cdef uint32_t kind = i.rs3 & 3
    cdef uint64_t operand = i.rs1 if i.rs3 & CSR_IMMEDIATE else h.x[i.rs1]
    cdef bint write = kind == CSR_WRITE or i.rs1 != 0      # csrrs and csrrc with x0 or 0 don't write
    cdef uint64_t old = 0, base
    if not csr_allowed(h, number, write) or not csr_read(h, number, &old):
        return raise_trap(h, CAUSE_ILLEGAL, 0)
    if write:
        base = old
        if number == 0x344:
            base = h.mip                                   # read-modify-write leaves the PLIC's line out of SEIP
        if kind == CSR_SET:
            operand = base | operand
        elif kind == CSR_CLEAR:
            operand = base & ~operand
        csr_write(h, number, operand)
    h.x[i.rd] = old
    return 1
