"""The A extension: LR, SC and the AMOs, on RAM only.

One hart runs at a time, so an AMO is a load, an operation and a store; `aq` and `rl` ask for nothing more. The reservation is a physical
address; it ends with any SC, any trap and any write of a device to it (`Cpu.write`).
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t

from vpod._arith cimport sext
from vpod._decode cimport *
from vpod._hart cimport *
from vpod._mmu cimport *

cdef inline uint64_t amo_result(int op, uint64_t old, uint64_t operand) noexcept nogil:
    """What is stored; a word's operands come sign-extended, which keeps signed and unsigned order alike."""
    if op == OP_AMOSWAP_W or op == OP_AMOSWAP_D: return operand
    elif op == OP_AMOADD_W or op == OP_AMOADD_D: return old + operand
    elif op == OP_AMOXOR_W or op == OP_AMOXOR_D: return old ^ operand
    elif op == OP_AMOAND_W or op == OP_AMOAND_D: return old & operand
    elif op == OP_AMOOR_W or op == OP_AMOOR_D:   return old | operand
    elif op == OP_AMOMIN_W or op == OP_AMOMIN_D: return old if <int64_t>old < <int64_t>operand else operand
    elif op == OP_AMOMAX_W or op == OP_AMOMAX_D: return old if <int64_t>old > <int64_t>operand else operand
    elif op == OP_AMOMINU_W or op == OP_AMOMINU_D: return old if old < operand else operand
    else: return old if old > operand else operand

cdef inline bint is_word(int op) noexcept nogil:
    return (op == OP_LR_W or op == OP_SC_W or op == OP_AMOSWAP_W or op == OP_AMOADD_W or op == OP_AMOXOR_W or op == OP_AMOAND_W
            or op == OP_AMOOR_W or op == OP_AMOMIN_W or op == OP_AMOMAX_W or op == OP_AMOMINU_W or op == OP_AMOMAXU_W)

cdef inline uint64_t load_atom(uint8_t* at, bint word) noexcept nogil:
    return sext((<uint32_t*>at)[0]) if word else (<uint64_t*>at)[0]

cdef inline Status store_atom(Hart* h, uint64_t pa, uint32_t size, uint64_t value) noexcept nogil:
    return ram_store(h, pa - RAM_BASE, size, value)

cdef inline Status execute_amo(Hart* h, Insn* i) noexcept nogil:
    cdef bint word = is_word(i.op)
    cdef uint32_t size = 4 if word else 8
    cdef uint64_t va = h.x[i.rs1], operand = h.x[i.rs2], pa = 0, old
    cdef uint8_t* at
    if i.op == OP_LR_W or i.op == OP_LR_D:
        at = atomic_target(h, va, size, READ, &pa)
        if at == NULL:
            return FAULT
        h.reservation = pa
        h.x[i.rd] = load_atom(at, word)
        return CONTINUE
    at = atomic_target(h, va, size, WRITE, &pa)
    if at == NULL:
        return FAULT
    if i.op == OP_SC_W or i.op == OP_SC_D:
        h.x[i.rd] = h.reservation != pa
        old = h.reservation
        h.reservation = NONE
        return store_atom(h, pa, size, operand) if old == pa else CONTINUE
    old = load_atom(at, word)
    if word:
        operand = sext(<uint32_t>operand)
    h.x[i.rd] = old
    return store_atom(h, pa, size, amo_result(i.op, old, operand))
