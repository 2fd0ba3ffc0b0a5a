"""Integer arithmetic where C's differs from RISC-V's: high products, and division by zero and at overflow.

M extension, "Division Operations": dividing by zero gives all ones and the dividend as remainder; the one signed overflow gives the dividend and
remainder zero. Nothing here traps, on the guest or on the host.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

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
    #define VPOD_INT64_MIN (-9223372036854775807ll - 1)
    #define VPOD_INT32_MIN (-2147483647 - 1)
    """
    uint64_t mulhu "vpod_mulhu"(uint64_t a, uint64_t b) noexcept nogil
    uint64_t mulh "vpod_mulh"(int64_t a, int64_t b) noexcept nogil
    uint64_t mulhsu "vpod_mulhsu"(int64_t a, uint64_t b) noexcept nogil
    const int64_t INT64_LEAST "VPOD_INT64_MIN"
    const int32_t INT32_LEAST "VPOD_INT32_MIN"

cdef inline uint64_t sext(uint32_t value) noexcept nogil:
    """A 32-bit result as a register holds it."""
    return <uint64_t><int64_t><int32_t>value

cdef inline uint64_t div64(int64_t a, int64_t b) noexcept nogil:
    if b == 0:
        return ~<uint64_t>0
    return <uint64_t>a if a == INT64_LEAST and b == -1 else <uint64_t>(a // b)

cdef inline uint64_t rem64(int64_t a, int64_t b) noexcept nogil:
    if b == 0:
        return <uint64_t>a
    return 0 if a == INT64_LEAST and b == -1 else <uint64_t>(a % b)

cdef inline uint64_t divu64(uint64_t a, uint64_t b) noexcept nogil:
    return a // b if b else ~<uint64_t>0

cdef inline uint64_t remu64(uint64_t a, uint64_t b) noexcept nogil:
    return a % b if b else a

cdef inline uint64_t div32(int32_t a, int32_t b) noexcept nogil:
    if b == 0:
        return ~<uint64_t>0
    return sext(<uint32_t>a if a == INT32_LEAST and b == -1 else <uint32_t>(a // b))

cdef inline uint64_t rem32(int32_t a, int32_t b) noexcept nogil:
    if b == 0:
        return sext(<uint32_t>a)
    return 0 if a == INT32_LEAST and b == -1 else sext(<uint32_t>(a % b))

cdef inline uint64_t divu32(uint32_t a, uint32_t b) noexcept nogil:
    return sext(a // b) if b else ~<uint64_t>0

cdef inline uint64_t remu32(uint32_t a, uint32_t b) noexcept nogil:
    return sext(a % b if b else a)
