"""The softfloat's face for tests: one instruction, many operands.

The core includes `_softfloat.pxd` for itself; this module exists so that millions of operand sets can be compared with
a model and with the host's floating-point unit in seconds. Instructions have the names of the assembler.

    >>> evaluate("fadd.d", 0, array("Q", [0x3FF0000000000000]), array("Q", [0x3CA0000000000000]))
    (array('Q', [4607182418800017408]), b'\\x01')
"""

from array import array

from cpython cimport array as arrays
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from vpod._softfloat cimport (
    bits, f_add, f_class, f_div, f_eq, f_fma, f_from_i64, f_from_u64, f_le, f_lt, f_max, f_min, f_mul, f_sqrt, f_sub,
    f_to_i32, f_to_i64, f_to_u32, f_to_u64, narrow, widen,
)

cdef enum Op:
    ADD, SUB, MUL, DIV, SQRT, FMA, MIN, MAX, EQ, LT, LE, CLASS, TO_I32, TO_U32, TO_I64, TO_U64
    FROM_I32, FROM_U32, FROM_I64, FROM_U64, NARROW, WIDEN

cdef dict _OPS = {
    "fadd": ADD, "fsub": SUB, "fmul": MUL, "fdiv": DIV, "fsqrt": SQRT, "fmadd": FMA, "fmin": MIN, "fmax": MAX,
    "feq": EQ, "flt": LT, "fle": LE, "fclass": CLASS,
    "fcvt.w": TO_I32, "fcvt.wu": TO_U32, "fcvt.l": TO_I64, "fcvt.lu": TO_U64,
}
cdef dict _FROM_INTEGER = {"w": FROM_I32, "wu": FROM_U32, "l": FROM_I64, "lu": FROM_U64}

OPERATIONS = (
    *(f"{name}.{width}" for name in _OPS for width in "sd"),
    *(f"fcvt.{width}.{name}" for name in _FROM_INTEGER for width in "sd"),
    "fcvt.s.d",
    "fcvt.d.s",
)


cdef inline uint64_t apply(int op, int rm, bits a, bits b, bits c, uint64_t n, uint32_t* flags) noexcept nogil:
    """One operation of the width of a, b and c; integers to convert are in n."""
    if op == ADD: return f_add(a, b, rm, flags)
    elif op == SUB: return f_sub(a, b, rm, flags)
    elif op == MUL: return f_mul(a, b, rm, flags)
    elif op == DIV: return f_div(a, b, rm, flags)
    elif op == SQRT: return f_sqrt(a, rm, flags)
    elif op == FMA: return f_fma(a, b, c, rm, flags)
    elif op == MIN: return f_min(a, b, flags)
    elif op == MAX: return f_max(a, b, flags)
    elif op == EQ: return f_eq(a, b, flags)
    elif op == LT: return f_lt(a, b, flags)
    elif op == LE: return f_le(a, b, flags)
    elif op == CLASS: return f_class(a)
    elif op == TO_I32: return f_to_i32(a, rm, flags)
    elif op == TO_U32: return f_to_u32(a, rm, flags)
    elif op == TO_I64: return f_to_i64(a, rm, flags)
    elif op == TO_U64: return f_to_u64(a, rm, flags)
    elif op == FROM_I32: return f_from_i64(<bits>0, <int32_t>n, rm, flags)
    elif op == FROM_U32: return f_from_u64(<bits>0, <uint32_t>n, rm, flags)
    elif op == FROM_I64: return f_from_i64(<bits>0, <int64_t>n, rm, flags)
    elif op == FROM_U64: return f_from_u64(<bits>0, n, rm, flags)
    elif op == NARROW: return narrow(n, rm, flags)
    else: return widen(<uint32_t>n, flags)


cdef void sweep(int op, int rm, bits width, Py_ssize_t count, const uint64_t* a, const uint64_t* b, const uint64_t* c,
                uint64_t* results, unsigned char* flags) noexcept nogil:
    """Every operand set; `width` only chooses the format."""
    cdef Py_ssize_t i
    cdef uint32_t raised
    for i in range(count):
        raised = 0
        results[i] = apply(op, rm, <bits>a[i], <bits>b[i], <bits>c[i], a[i], &raised)
        flags[i] = <unsigned char>raised


cdef parse(str name):
    """(operation, whether singles) of an assembler name; None if there is no such."""
    cdef str head, tail
    if name == "fcvt.s.d":
        return NARROW, False
    if name == "fcvt.d.s":
        return WIDEN, True
    head, _, tail = name.rpartition(".")
    if head in _OPS and tail in ("s", "d"):
        return _OPS[head], tail == "s"
    if head in ("fcvt.s", "fcvt.d") and tail in _FROM_INTEGER:
        return _FROM_INTEGER[tail], head == "fcvt.s"
    return None


def evaluate(str op, int rm, a, b=None, c=None):
    """Apply one instruction to each operand set. See the stub."""
    found = parse(op)
    if found is None:
        raise ValueError(f"{op}: no such operation; there are {', '.join(OPERATIONS)}")
    if not 0 <= rm <= 4:
        raise ValueError(f"rounding mode {rm}: 0 to 4 are RNE, RTZ, RDN, RUP, RMM")
    cdef int number = found[0]
    cdef const uint64_t[::1] first = memoryview(a).cast("B").cast("Q")
    cdef const uint64_t[::1] second = first if b is None else memoryview(b).cast("B").cast("Q")
    cdef const uint64_t[::1] third = first if c is None else memoryview(c).cast("B").cast("Q")
    if second.shape[0] != first.shape[0] or third.shape[0] != first.shape[0]:
        raise ValueError(f"{op}: {first.shape[0]}, {second.shape[0]} and {third.shape[0]} operands: as many of each")
    cdef Py_ssize_t count = first.shape[0]
    if count == 0:
        return array("Q"), b""
    cdef arrays.array results = arrays.clone(array("Q"), count, zero=True)
    cdef bytearray flags = bytearray(count)
    cdef unsigned char* raised = flags
    cdef uint64_t* out = <uint64_t*>results.data.as_voidptr
    cdef bint single = found[1]
    with nogil:
        if single:
            sweep(number, rm, <uint32_t>0, count, &first[0], &second[0], &third[0], out, raised)
        else:
            sweep(number, rm, <uint64_t>0, count, &first[0], &second[0], &third[0], out, raised)
    return results, bytes(flags)
