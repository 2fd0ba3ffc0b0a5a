"""The translator's face to the core: see _jit.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from vpod._hart cimport Hart

cdef enum:
    JIT_MIN = 192 << 10        # bytes of memory for code: the least of which two regions can be made

cdef bint jit_possible() noexcept nogil
cdef bint jit_new(Hart* h, uint64_t size, uint32_t trace, uint32_t room, uint32_t landings, bint at_once,
                  uint32_t patience) noexcept nogil
cdef void jit_free(Hart* h) noexcept nogil
