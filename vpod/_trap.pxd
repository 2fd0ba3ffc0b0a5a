"""Traps and interrupts: delivery, return, and which interrupt is next.

Traps are stored by whoever finds them (`raise_trap`) and delivered here, by the run loop, with `pc` at the instruction that trapped.
Privileged specification, "Machine Cause Register" and "Supervisor Trap Vector"; interrupt priorities from "Machine Interrupt Registers".
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from vpod._hart cimport *
from vpod._mmu cimport *

cdef extern from *:
    """
    #include <time.h>
    static inline long long vpod_ticks(void) {              /* the host's monotonic clock, in ticks of 100 ns */
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (long long)t.tv_sec * 10000000 + t.tv_nsec / 100;
    }
    #define VPOD_INTERRUPT (1ull << 63)
    """
    int64_t host_ticks "vpod_ticks"() noexcept nogil
    const uint64_t INTERRUPT "VPOD_INTERRUPT"


# ---- time ----------------------------------------------------------------------------------------------------

cdef inline uint64_t mtime(Hart* h) noexcept nogil:
    return <uint64_t>(host_ticks() + h.time_offset)

cdef inline void update_timers(Hart* h) noexcept nogil:
    """Set or clear MTIP and, when Sstc is on, STIP, as the clock stands now."""
    cdef uint64_t now = mtime(h)
    if now >= h.mtimecmp:
        h.mip |= IRQ_MTIP
    else:
        h.mip &= ~<uint64_t>IRQ_MTIP
    if h.menvcfg & MENVCFG_STCE:
        if now >= h.stimecmp:
            h.mip |= IRQ_STIP
        else:
            h.mip &= ~<uint64_t>IRQ_STIP

cdef inline uint64_t pending(Hart* h) noexcept nogil:
    """mip as software sees it: the PLIC's line is ORed into SEIP."""
    return h.mip | (IRQ_SEIP if h.external else 0)


# ---- traps ---------------------------------------------------------------------------------------------------

cdef inline void enter_trap(Hart* h, uint64_t cause, uint64_t value) noexcept nogil:
    """Deliver a trap from h.pc; `cause` has INTERRUPT set for interrupts."""
    cdef uint64_t bit = <uint64_t>1 << (cause & 63)
    cdef bint interrupt = cause >> 63
    cdef uint64_t vector
    h.trap_pending = 0
    h.reservation = NONE                        # SC fails on any intervening trap
    if h.priv != PRIV_M and (h.mideleg if interrupt else h.medeleg) & bit:
        h.scause = cause
        h.sepc = h.pc
        h.stval = value
        h.mstatus = (h.mstatus & ~<uint64_t>(STATUS_SPIE | STATUS_SPP | STATUS_SIE)
                     | (STATUS_SPIE if h.mstatus & STATUS_SIE else 0) | (STATUS_SPP if h.priv == PRIV_S else 0))
        h.priv = PRIV_S
        vector = h.stvec
    else:
        h.mcause = cause
        h.mepc = h.pc
        h.mtval = value
        h.mstatus = (h.mstatus & ~<uint64_t>(STATUS_MPIE | STATUS_MPP | STATUS_MIE)
                     | (STATUS_MPIE if h.mstatus & STATUS_MIE else 0) | <uint64_t>h.priv << 11)
        h.priv = PRIV_M
        vector = h.mtvec
    h.pc = (vector & ~<uint64_t>3) + (4 * (cause & 63) if interrupt and vector & 1 else 0)
    update_mode(h)

cdef inline bint take_interrupt(Hart* h) noexcept nogil:
    """Deliver the most urgent interrupt that is pending and enabled, if any."""
    cdef uint64_t ready = pending(h) & h.mie
    cdef uint64_t chosen, cause
    if likely(ready == 0):
        return 0
    chosen = ready & ~h.mideleg
    if chosen == 0 or (h.priv == PRIV_M and not h.mstatus & STATUS_MIE):
        chosen = ready & h.mideleg
        if chosen == 0 or h.priv == PRIV_M or (h.priv == PRIV_S and not h.mstatus & STATUS_SIE):
            return 0
    if chosen & IRQ_MEIP:
        cause = 11
    elif chosen & IRQ_MSIP:
        cause = 3
    elif chosen & IRQ_MTIP:
        cause = 7
    elif chosen & IRQ_SEIP:
        cause = 9
    elif chosen & IRQ_SSIP:
        cause = 1
    else:
        cause = 5
    enter_trap(h, cause | INTERRUPT, 0)
    return 1

cdef inline bint mret(Hart* h) noexcept nogil:
    if h.priv != PRIV_M:
        return raise_trap(h, CAUSE_ILLEGAL, 0)
    h.pc = h.mepc
    h.priv = (h.mstatus & STATUS_MPP) >> 11
    h.mstatus = (h.mstatus & ~<uint64_t>(STATUS_MIE | STATUS_MPP) | (STATUS_MIE if h.mstatus & STATUS_MPIE else 0) | STATUS_MPIE)
    if h.priv != PRIV_M:
        h.mstatus &= ~<uint64_t>STATUS_MPRV
    update_mode(h)
    return 1

cdef inline bint sret(Hart* h) noexcept nogil:
    if h.priv == PRIV_U or (h.priv == PRIV_S and h.mstatus & STATUS_TSR):
        return raise_trap(h, CAUSE_ILLEGAL, 0)
    h.pc = h.sepc
    h.priv = PRIV_S if h.mstatus & STATUS_SPP else PRIV_U
    h.mstatus = (h.mstatus & ~<uint64_t>(STATUS_SIE | STATUS_SPP | STATUS_MPRV)
                 | (STATUS_SIE if h.mstatus & STATUS_SPIE else 0) | STATUS_SPIE)
    update_mode(h)
    return 1

cdef inline bint wfi(Hart* h) noexcept nogil:
    """Ask the run loop to wait unless something is pending; U may not, and S may not when TW is set."""
    if h.priv == PRIV_U or (h.priv == PRIV_S and h.mstatus & STATUS_TW):
        return raise_trap(h, CAUSE_ILLEGAL, 0)
    update_timers(h)
    h.waiting = pending(h) & h.mie == 0
    return 1

cdef inline bint sfence_vma(Hart* h, Insn* i) noexcept nogil:
    if h.priv == PRIV_U or (h.priv == PRIV_S and h.mstatus & STATUS_TVM):
        return raise_trap(h, CAUSE_ILLEGAL, 0)
    if i.rs1:
        tlb_flush_page(h, h.x[i.rs1])
    elif i.rs2 == 0:
        tlb_flush(h)
    elif h.x[i.rs2] & 0xffff == h.satp >> 44 & 0xffff:     # another address space has nothing here: satp writes see to that
        tlb_flush_local(h)
    return 1
