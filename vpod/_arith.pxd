"""Integer arithmetic where C's differs from RISC-V's: high products, and division by zero and at overflow.

M extension, "Division Operations": dividing by zero gives all ones and the dividend as remainder; the one signed overflow gives the dividend and
remainder zero. Nothing here traps, on the guest or on the host: signed numbers are divided as magnitudes, which rounds towards zero by
itself and has no overflow.

    div64(-7, 2) == -3, rem64(-7, 2) == -1, div64(INT64_MIN, -1) == INT64_MIN, div64(7, 0) == -1         # as 64-bit patterns
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from vpod._hart cimport NONE

cdef extern from *:
    """
    static inline unsigned long long vpod_mulhu(unsigned long long a, unsigned long long b) {
        return (unsigned long long)(((unsigned __int128)a * b) >> 64);
    }
    static inline unsigned long long vpod_mulh(long long a, long long b) {
        return (unsigned long long)(((__int128)a * b) >> 64);
    }
    static inline unsigned long long vpod_mulhsu(long long a, unsigned long long b) {
        return (unsigned long long)(((__int128)a * (__int128)(unsigned __int128)b) >> 64);
    }
    """
    uint64_t mulhu "vpod_mulhu"(uint64_t a, uint64_t b) noexcept nogil
    uint64_t mulh "vpod_mulh"(int64_t a, int64_t b) noexcept nogil
    uint64_t mulhsu "vpod_mulhsu"(int64_t a, uint64_t b) noexcept nogil

cdef inline uint64_t sext(uint32_t value) noexcept nogil:
    """A 32-bit result as a register holds it."""
    return <uint64_t><int64_t><int32_t>value

cdef inline uint64_t negate_if(bint negative, uint64_t value) noexcept nogil:
    return 0 - value if negative else value

cdef inline uint64_t absolute(int64_t value) noexcept nogil:
    """As an unsigned number, which has room for that of -2**63."""
    return negate_if(value < 0, <uint64_t>value)

cdef inline uint64_t div64(int64_t a, int64_t b) noexcept nogil:
    if b == 0:
        return NONE
    return negate_if((a ^ b) < 0, absolute(a) // absolute(b))

cdef inline uint64_t rem64(int64_t a, int64_t b) noexcept nogil:
    if b == 0:
        return <uint64_t>a
    return negate_if(a < 0, absolute(a) % absolute(b))

cdef inline uint64_t divu64(uint64_t a, uint64_t b) noexcept nogil:
    return a // b if b else NONE

cdef inline uint64_t remu64(uint64_t a, uint64_t b) noexcept nogil:
    return a % b if b else a

cdef inline uint64_t div32(int32_t a, int32_t b) noexcept nogil:
    if b == 0:
        return NONE
    return sext(<uint32_t>negate_if((a ^ b) < 0, <uint32_t>absolute(a) // <uint32_t>absolute(b)))

cdef inline uint64_t rem32(int32_t a, int32_t b) noexcept nogil:
    if b == 0:
        return sext(<uint32_t>a)
    return sext(<uint32_t>negate_if(a < 0, <uint32_t>absolute(a) % <uint32_t>absolute(b)))

cdef inline uint64_t divu32(uint32_t a, uint32_t b) noexcept nogil:
    return sext(a // b) if b else NONE

cdef inline uint64_t remu32(uint32_t a, uint32_t b) noexcept nogil:
    return sext(a % b if b else a)
