"""Floating point in integers: IEEE 754 binary32 and binary64 exactly as RISC-V's F and D extensions want them.

Nothing here touches the host's floating-point unit, so neither its rounding mode, its flags, nor its idea of a NaN can
leak into the guest or the guest's into Python. One source serves both widths: every function is fused over `bits`, the
pattern of a value (`uint32_t` a single, `uint64_t` a double).

How it works. An operand is taken apart into sign, biased exponent and a 64-bit significand; the operation leaves a
result `sig * 2**(exp - bias - 62)` with its leading one at bit 62; `round_pack` puts it together. A double keeps 53 of
those bits and a single 24, so in both at least ten bits are left for rounding, the last of which is *sticky*: it is set
if any one was lost below ("jam"). The invariants that the code leans on:

* `exp` is the biased exponent, in an `int`: it may be out of the format's range until `round_pack` has seen it.
* One jammed bit is enough as long as it ends up below the rounding bit, which no shift to the left by one changes.
* `sign` is the sign bit in its place, of type `bits`, and tells the fused functions their width.
* `flags` is or-ed into, never cleared. Tininess is detected after rounding (F extension, "fcsr"): a result is tiny
  if, rounded as if exponents had no lower end, it is still below the smallest normal number.
* Every NaN that is made is the canonical one (F extension, "NaN Generation and Propagation").
* Rounding modes are the encodings of `frm`; callers have refused 5, 6 and 7.

Everything is total: any bit pattern, no loop, no table, no division that could trap.

    cdef uint32_t flags = 0
    f_add(<uint64_t>0x3ff0000000000000, <uint64_t>0x3ca0000000000000, RNE, &flags)   # 1 + 2**-53: 1.0, flags == NX
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from vpod._hart cimport likely

cdef extern from *:
    """
    typedef unsigned __int128 vpod_u128;

    static inline uint64_t vpod_high(vpod_u128 v) { return (uint64_t)(v >> 64); }
    static inline uint64_t vpod_low(vpod_u128 v) { return (uint64_t)v; }
    static inline vpod_u128 vpod_product(uint64_t a, uint64_t b) { return (vpod_u128)a * b; }
    static inline vpod_u128 vpod_wide(uint64_t high, uint64_t low) { return (vpod_u128)high << 64 | low; }
    static inline vpod_u128 vpod_add_if(int add, vpod_u128 a, vpod_u128 b) {          /* a + b or a - b, no branch */
        vpod_u128 negate = (vpod_u128)0 - !add;
        return a + ((b ^ negate) - negate);
    }
    static inline void vpod_swap_if(int condition, vpod_u128 *a, vpod_u128 *b) {
        vpod_u128 difference = (*a ^ *b) & ((vpod_u128)0 - (condition != 0));
        *a ^= difference;
        *b ^= difference;
    }
    static inline vpod_u128 vpod_shift_left(vpod_u128 v, int n) { return v << n; }
    static inline vpod_u128 vpod_shift_jam(vpod_u128 v, int n) {                       /* n >= 0; no branch */
        uint64_t far = (uint64_t)0 - (n > 63), low = (uint64_t)v, high = (uint64_t)(v >> 64), lost = low & far, kept;
        low = (low & ~far) | (high & far);
        high &= ~far;
        n = n > 127 ? 63 : n & 63;
        kept = low >> n;
        lost |= low ^ (kept << n);
        return (vpod_u128)(high >> n) << 64 | kept | ((high << 1) << (63 - n)) | (lost != 0);
    }
    static inline int vpod_leading_zeros(uint64_t v) { return __builtin_clzll(v); }

    /* high * 2**64 / divisor; high < divisor, or the quotient would not fit and x86 would trap */
    static inline uint64_t vpod_quotient(uint64_t high, uint64_t divisor, uint64_t *remainder) {
    #if defined(__x86_64__)
        uint64_t quotient;
        __asm__("divq %4" : "=a"(quotient), "=d"(*remainder) : "0"((uint64_t)0), "1"(high), "r"(divisor) : "cc");
        return quotient;
    #else
        vpod_u128 dividend = (vpod_u128)high << 64;
        *remainder = (uint64_t)(dividend % divisor);
        return (uint64_t)(dividend / divisor);
    #endif
    }
    static inline uint64_t vpod_divide(uint64_t a, uint64_t b) { return a / b; }
    static inline uint32_t vpod_divide32(uint32_t a, uint32_t b) { return a / b; }
    """
    ctypedef unsigned long long uint128_t "vpod_u128"
    uint64_t high_half "vpod_high"(uint128_t v) noexcept nogil
    uint64_t low_half "vpod_low"(uint128_t v) noexcept nogil
    uint128_t wide_product "vpod_product"(uint64_t a, uint64_t b) noexcept nogil
    uint128_t wide "vpod_wide"(uint64_t high, uint64_t low) noexcept nogil
    uint128_t wide_add_if "vpod_add_if"(bint add, uint128_t a, uint128_t b) noexcept nogil
    void wide_swap_if "vpod_swap_if"(bint condition, uint128_t* a, uint128_t* b) noexcept nogil
    uint128_t wide_shift_left "vpod_shift_left"(uint128_t v, int n) noexcept nogil
    uint128_t wide_shift_jam "vpod_shift_jam"(uint128_t v, int n) noexcept nogil
    int leading_zeros "vpod_leading_zeros"(uint64_t v) noexcept nogil         # v != 0
    uint64_t quotient128 "vpod_quotient"(uint64_t high, uint64_t divisor, uint64_t* remainder) noexcept nogil
    uint64_t quotient64 "vpod_divide"(uint64_t a, uint64_t b) noexcept nogil  # b != 0
    uint32_t quotient32 "vpod_divide32"(uint32_t a, uint32_t b) noexcept nogil

ctypedef fused bits:
    uint32_t
    uint64_t

cdef enum:                     # rounding modes, F extension, "Rounding mode encoding"
    RNE = 0                    # to nearest, ties to even
    RTZ = 1                    # towards zero
    RDN = 2                    # down
    RUP = 3                    # up
    RMM = 4                    # to nearest, ties away from zero

cdef enum:                     # accrued exceptions, as in fflags
    NX = 1
    UF = 2
    OF = 4
    DZ = 8
    NV = 16


# ---- the formats: constants once the compiler has seen the width ----

cdef inline int fraction_bits(bits a) noexcept nogil:
    if bits is uint32_t:
        return 23
    else:
        return 52

cdef inline int top_exponent(bits a) noexcept nogil:
    """The biased exponent of infinities and NaNs; half of it, rounded down, is the bias."""
    if bits is uint32_t:
        return 0xff
    else:
        return 0x7ff

cdef inline int bias(bits a) noexcept nogil:
    return top_exponent(a) >> 1

cdef inline bits sign_bit(bits a) noexcept nogil:
    if bits is uint32_t:
        return 0x80000000u
    else:
        return 0x8000000000000000u

cdef inline bits infinity(bits a) noexcept nogil:
    return (<bits>top_exponent(a)) << fraction_bits(a)

cdef inline bits canonical_nan(bits a) noexcept nogil:
    return infinity(a) | (<bits>1) << (fraction_bits(a) - 1)


# ---- taking operands apart ----

cdef inline bits sign_of(bits a) noexcept nogil:
    return a & sign_bit(a)

cdef inline bits magnitude(bits a) noexcept nogil:
    return a & (sign_bit(a) - 1)

cdef inline bits fraction(bits a) noexcept nogil:
    return a & (((<bits>1) << fraction_bits(a)) - 1)

cdef inline int exponent(bits a) noexcept nogil:
    return <int>(a >> fraction_bits(a)) & top_exponent(a)

cdef inline bint is_nan(bits a) noexcept nogil:
    return magnitude(a) > infinity(a)

cdef inline bint is_signalling(bits a) noexcept nogil:
    """A NaN whose quiet bit is clear."""
    return is_nan(a) and (a >> (fraction_bits(a) - 1) & 1) == 0

cdef inline bint is_normal(int exp, bits a) noexcept nogil:
    """Neither zero, subnormal, infinite nor NaN: `exp` is exponent(a)."""
    return <unsigned int>(exp - 1) < <unsigned int>(top_exponent(a) - 1)

cdef inline uint64_t significand(bits a) noexcept nogil:
    """Of a normal number, leading one at bit 63."""
    return <uint64_t>a << (63 - fraction_bits(a)) | 0x8000000000000000u

cdef inline uint64_t normalize(bits a, int* exp) noexcept nogil:
    """Of any finite number but zero, leading one at bit 63; `exp` becomes what it would be without a lower end."""
    cdef int shift
    cdef uint64_t sig
    exp[0] = exponent(a)
    if exp[0] != 0:
        return significand(a)
    sig = <uint64_t>magnitude(a) << (63 - fraction_bits(a))
    shift = leading_zeros(sig)
    exp[0] = 1 - shift
    return sig << shift


# ---- putting results together ----

cdef inline uint64_t shift_right_jam(uint64_t v, int n) noexcept nogil:
    """v >> n, 0 <= n, the lowest bit set if a one was lost; v < 2**63."""
    cdef int shift = n if n < 63 else 63
    cdef uint64_t shifted = v >> shift
    return shifted | (shifted << shift != v)

cdef inline uint64_t increment(bint negative, int rm, uint64_t half) noexcept nogil:
    """What is added below the last place kept before the bits under it are cut off; half is half of that place."""
    if rm == RTZ:
        return 0
    if rm == RDN:
        return half + half - 1 if negative else 0
    if rm == RUP:
        return 0 if negative else half + half - 1
    return half

cdef inline bits round_pack_any(bits sign, int exp, uint64_t sig, int rm, uint32_t* flags) noexcept nogil:
    """round_pack in every mode and for every exponent: overflow, subnormal results, underflow."""
    cdef int drop = 62 - fraction_bits(sign)
    cdef uint64_t half = <uint64_t>1 << (drop - 1)
    cdef uint64_t inc = increment(sign != 0, rm, half)
    cdef uint64_t tail, rounded
    cdef bint tiny = False
    if exp <= 0:
        tiny = exp < 0 or sig + inc < <uint64_t>1 << 63
        sig = shift_right_jam(sig, 1 - exp)
        exp = 1
    tail = sig & (half + half - 1)
    rounded = (sig + inc) >> drop
    if rm == RNE and tail == half:
        rounded &= ~<uint64_t>1
    if exp >= top_exponent(sign) or (exp == top_exponent(sign) - 1 and rounded >> (fraction_bits(sign) + 1)):
        flags[0] |= OF | NX
        return sign | (infinity(sign) - (inc == 0))
    if tail:
        flags[0] |= NX | UF if tiny else NX
    return sign | (((<bits>(exp - 1)) << fraction_bits(sign)) + <bits>rounded)

cdef inline bits round_pack(bits sign, int exp, uint64_t sig, int rm, uint32_t* flags) noexcept nogil:
    """The number sig * 2**(exp - bias - 62), 2**62 <= sig < 2**63, rounded; the leading one adds to the exponent."""
    cdef int drop = 62 - fraction_bits(sign)
    cdef uint64_t half = <uint64_t>1 << (drop - 1)
    if likely(rm == RNE and <unsigned int>(exp - 1) < <unsigned int>(top_exponent(sign) - 2)):
        flags[0] |= (sig & (half + half - 1)) != 0
        sig = (sig + (half - 1) + (sig >> drop & 1)) >> drop
        return sign | (((<bits>(exp - 1)) << fraction_bits(sign)) + <bits>sig)
    return round_pack_any(sign, exp, sig, rm, flags)

cdef inline bits nan_result(bits a, bits b, uint32_t* flags) noexcept nogil:
    """The result of an operation on a and b at least one of which is a NaN."""
    if is_signalling(a) or is_signalling(b):
        flags[0] |= NV
    return canonical_nan(a)

cdef inline bits invalid(bits a, uint32_t* flags) noexcept nogil:
    flags[0] |= NV
    return canonical_nan(a)


# ---- addition ----

cdef inline bits add_parts(
    bits sign, bint opposite, int exp, uint64_t sig, uint64_t sig_small, int distance, int rm, uint32_t* flags
) noexcept nogil:
    """sig and sig_small >> distance, leading ones at bit 61 or below, added or, if signs are opposite, subtracted."""
    cdef uint64_t negate = <uint64_t>0 - <uint64_t>opposite
    cdef int shift
    sig += (shift_right_jam(sig_small, distance) ^ negate) - negate
    if not likely(sig != 0):                                   # x - x is +0, or -0 when rounding down; -0 + -0 is -0
        return sign_bit(sign) if (rm == RDN if opposite else sign != 0) else 0
    shift = leading_zeros(sig) - 1
    return round_pack(sign, exp + 1 - shift, sig << shift, rm, flags)

cdef inline bits add_any(bits big, bits small, int rm, uint32_t* flags) noexcept nogil:
    """Zeros and subnormals are numbers without the leading one, of exponent 1."""
    cdef int exp = exponent(big), exp_small = exponent(small), shift = 61 - fraction_bits(big)
    cdef uint64_t sig = <uint64_t>fraction(big) << shift | <uint64_t>(exp != 0) << 61
    cdef uint64_t sig_small = <uint64_t>fraction(small) << shift | <uint64_t>(exp_small != 0) << 61
    cdef bint opposite = sign_of(<bits>(big ^ small)) != 0
    if is_nan(big):                                            # a NaN's magnitude is the larger one
        return nan_result(big, small, flags)
    if exp == top_exponent(big):
        return invalid(big, flags) if opposite and magnitude(small) == magnitude(big) else big
    exp += exp == 0
    exp_small += exp_small == 0
    return add_parts(sign_of(big), opposite, exp, sig, sig_small, exp - exp_small, rm, flags)

cdef inline bits f_add(bits a, bits b, int rm, uint32_t* flags) noexcept nogil:
    cdef bits swap = <bits>(a ^ b) & (<bits>0 - <bits>(magnitude(a) < magnitude(b)))
    cdef bits big = a ^ swap, small = b ^ swap                 # by magnitude; which is which no branch can foresee
    cdef int exp = exponent(big), exp_small = exponent(small)
    if not likely(exp_small != 0 and exp != top_exponent(a)):
        return add_any(big, small, rm, flags)
    return add_parts(
        sign_of(big), sign_of(<bits>(a ^ b)) != 0, exp, significand(big) >> 2, significand(small) >> 2, exp - exp_small,
        rm, flags,
    )

cdef inline bits f_sub(bits a, bits b, int rm, uint32_t* flags) noexcept nogil:
    return f_add(a, <bits>(b ^ sign_bit(b)), rm, flags)


# ---- multiplication ----

cdef inline bits multiply(
    bits sign, int exp_a, uint64_t a, int exp_b, uint64_t b, int rm, uint32_t* flags
) noexcept nogil:
    """Significands as from `significand`."""
    cdef uint128_t product = wide_product(a, b >> 1)           # leading one at bit 125 or 126
    cdef uint64_t sig = high_half(product) | (low_half(product) != 0)
    cdef int shift = 1 - <int>(sig >> 62)
    return round_pack(sign, exp_a + exp_b - bias(sign) + 1 - shift, sig << shift, rm, flags)

cdef inline bits multiply_any(bits a, bits b, int rm, uint32_t* flags) noexcept nogil:
    cdef bits sign = sign_of(<bits>(a ^ b))
    cdef int exp_a, exp_b
    cdef uint64_t sig_a, sig_b
    if is_nan(a) or is_nan(b):
        return nan_result(a, b, flags)
    if exponent(a) == top_exponent(a) or exponent(b) == top_exponent(b):
        return invalid(a, flags) if magnitude(a) == 0 or magnitude(b) == 0 else sign | infinity(a)
    if magnitude(a) == 0 or magnitude(b) == 0:
        return sign
    sig_a = normalize(a, &exp_a)
    sig_b = normalize(b, &exp_b)
    return multiply(sign, exp_a, sig_a, exp_b, sig_b, rm, flags)

cdef inline bits f_mul(bits a, bits b, int rm, uint32_t* flags) noexcept nogil:
    cdef int exp_a = exponent(a), exp_b = exponent(b)
    if likely(is_normal(exp_a, a) and is_normal(exp_b, b)):
        return multiply(sign_of(<bits>(a ^ b)), exp_a, significand(a), exp_b, significand(b), rm, flags)
    return multiply_any(a, b, rm, flags)


# ---- division ----

cdef inline bits divide(
    bits sign, int exp_a, uint64_t a, int exp_b, uint64_t b, int rm, uint32_t* flags
) noexcept nogil:
    """Significands as from `significand`."""
    cdef uint64_t remainder
    cdef uint64_t sig = quotient128(a >> 2, b, &remainder)     # a >> 2 < 2**62 < b; leading one at bit 61 or 62
    cdef int shift = 1 - <int>(sig >> 62)
    sig |= remainder != 0
    return round_pack(sign, exp_a - exp_b + bias(sign) - shift, sig << shift, rm, flags)

cdef inline bits divide_any(bits a, bits b, int rm, uint32_t* flags) noexcept nogil:
    cdef bits sign = sign_of(<bits>(a ^ b))
    cdef int exp_a, exp_b
    cdef uint64_t sig_a, sig_b
    if is_nan(a) or is_nan(b):
        return nan_result(a, b, flags)
    if exponent(a) == top_exponent(a):
        return invalid(a, flags) if exponent(b) == top_exponent(b) else sign | infinity(a)
    if exponent(b) == top_exponent(b):
        return sign
    if magnitude(b) == 0:
        if magnitude(a) == 0:
            return invalid(a, flags)
        flags[0] |= DZ
        return sign | infinity(a)
    if magnitude(a) == 0:
        return sign
    sig_a = normalize(a, &exp_a)
    sig_b = normalize(b, &exp_b)
    return divide(sign, exp_a, sig_a, exp_b, sig_b, rm, flags)

cdef inline bits f_div(bits a, bits b, int rm, uint32_t* flags) noexcept nogil:
    cdef int exp_a = exponent(a), exp_b = exponent(b)
    if likely(is_normal(exp_a, a) and is_normal(exp_b, b)):
        return divide(sign_of(<bits>(a ^ b)), exp_a, significand(a), exp_b, significand(b), rm, flags)
    return divide_any(a, b, rm, flags)


# ---- square root ----

cdef inline uint64_t root28(uint64_t n, uint64_t* remainder) noexcept nogil:
    """The integer square root, 28 bits, of 2**54 <= n < 2**56.

    A parabola through the interval is right to 7.6 bits (relative error below 0.0051), Newton's step makes that 14.8
    bits with its truncation, and the next one more than 28, never below the root: at most one too much.
    """
    cdef uint64_t root, t = n >> 40                            # n as a fraction of 2**56: t / 2**16
    cdef uint32_t x = <uint32_t>(16992 + (t * (68945 - (t * 20731 >> 16)) >> 16))
    x = (x + quotient32(<uint32_t>(n >> 24), x)) >> 1
    root = <uint64_t>x << 12
    root = (root + quotient64(n, root)) >> 1
    if root * root > n:
        root -= 1
    remainder[0] = n - root * root
    return root

cdef inline uint64_t root56(uint64_t n, uint64_t* remainder) noexcept nogil:
    """The integer square root, 56 bits, of n * 2**56, 2**54 <= n < 2**56: one digit to the base 2**28 after root28.

    With n = s*s + r the next digit is q = r * 2**28 / 2s, at most one too large (Zimmermann, "Karatsuba Square Root").
    """
    cdef uint64_t r, s = root28(n, &r)
    cdef uint64_t q = quotient64(r << 28, s + s)
    cdef uint64_t root = (s << 28) + q
    cdef uint64_t low = ((r << 28) - q * (s + s)) << 28
    if low < q * q:
        low += root + root - 1
        root -= 1
    remainder[0] = low - q * q
    return root

cdef inline bits f_sqrt(bits a, int rm, uint32_t* flags) noexcept nogil:
    cdef int exp = exponent(a), odd
    cdef uint64_t sig, rest
    if not likely(is_normal(exp, a) and sign_of(a) == 0):
        if is_nan(a):
            return nan_result(a, a, flags)
        if magnitude(a) == 0 or a == infinity(a):
            return a                                           # the root of -0 is -0
        if sign_of(a):
            return invalid(a, flags)
    sig = normalize(a, &exp)
    exp -= bias(a)
    odd = exp & 1
    sig >>= 9 - odd                                            # at least 11 zeros stood below
    if bits is uint32_t:
        sig = root28(sig, &rest) << 35
    else:
        sig = root56(sig, &rest) << 7
    return round_pack(<bits>0, (exp >> 1) + bias(a), sig | (rest != 0), rm, flags)


# ---- fused multiply-add ----

cdef inline bits multiply_add(bits a, bits b, bits c, int rm, uint32_t* flags) noexcept nogil:
    """a * b + c of finite numbers other than zero. In 128 bits, the leading one of c at 124, of a * b at 124 or 125.

    Of a * b at least the lowest 20 bits are zero and of c the lowest 72, so bits are jammed only from where the other
    is so much larger that the difference loses no more than two leading bits.
    """
    cdef int exp_a, exp_b, exp_c, distance, negate, shift
    cdef uint64_t sig_a = normalize(a, &exp_a), sig_b = normalize(b, &exp_b), sig_c = normalize(c, &exp_c)
    cdef uint128_t big = wide_product(sig_a >> 1, sig_b >> 1)
    cdef uint128_t small = wide(sig_c >> 3, sig_c << 61)
    cdef bits sign = sign_of(<bits>(a ^ b)), opposite = sign ^ sign_of(c)
    cdef int exp = exp_a + exp_b - bias(a)
    distance = exp - exp_c
    negate = -(distance < 0)                                   # order by exponent; again no branch can foresee it
    wide_swap_if(negate, &big, &small)
    sign ^= opposite & <bits>negate
    exp -= distance & negate
    distance = (distance ^ negate) - negate
    big = wide_add_if(opposite == 0, big, wide_shift_jam(small, distance))
    if not likely(high_half(big) >> 63 == 0):                  # less than zero: the exponents were next to each other
        big = wide_add_if(False, 0, big)
        sign ^= sign_bit(a)
    if likely(high_half(big) != 0):
        shift = leading_zeros(high_half(big)) - 1
    elif low_half(big) != 0:
        shift = leading_zeros(low_half(big)) + 63
    else:
        return sign_bit(a) if rm == RDN else 0
    big = wide_shift_left(big, shift)
    return round_pack(sign, exp + 2 - shift, high_half(big) | (low_half(big) != 0), rm, flags)

cdef inline bits multiply_add_any(bits a, bits b, bits c, int rm, uint32_t* flags) noexcept nogil:
    cdef bits sign = sign_of(<bits>(a ^ b)), product
    if is_nan(a) or is_nan(b) or is_nan(c):
        if (magnitude(a) == infinity(a) and magnitude(b) == 0) or (magnitude(b) == infinity(b) and magnitude(a) == 0):
            flags[0] |= NV                                     # even when c is a quiet NaN: F extension, "FMADD"
        if is_signalling(c):
            flags[0] |= NV
        return nan_result(a, b, flags)
    if exponent(a) == top_exponent(a) or exponent(b) == top_exponent(b):
        if magnitude(a) == 0 or magnitude(b) == 0:
            return invalid(a, flags)
        product = sign | infinity(a)
        return invalid(a, flags) if magnitude(c) == infinity(c) and c != product else product
    if exponent(c) == top_exponent(c):
        return c
    if magnitude(a) == 0 or magnitude(b) == 0:
        return f_add(sign, c, rm, flags)                       # a zero of the product's sign
    if magnitude(c) == 0:
        return f_mul(a, b, rm, flags)
    return multiply_add(a, b, c, rm, flags)

cdef inline bits f_fma(bits a, bits b, bits c, int rm, uint32_t* flags) noexcept nogil:
    """a * b + c, rounded once."""
    if likely(is_normal(exponent(a), a) and is_normal(exponent(b), b) and is_normal(exponent(c), c)):
        return multiply_add(a, b, c, rm, flags)
    return multiply_add_any(a, b, c, rm, flags)


# ---- comparison, minimum and maximum, classification ----

cdef inline int64_t order(bits a) noexcept nogil:
    """Where a stands among its format's numbers, -0 just below +0: negative patterns count downwards."""
    cdef int64_t key
    if bits is uint32_t:
        key = <int32_t>a
    else:
        key = <int64_t>a
    return key ^ <int64_t>(<uint64_t>(key >> 63) >> 1)

cdef inline bint ordered_less(bits a, bits b) noexcept nogil:
    """a < b of numbers that aren't NaN."""
    return (order(a) < order(b)) & ((magnitude(a) | magnitude(b)) != 0)

cdef inline bint ordered_equal(bits a, bits b) noexcept nogil:
    return a == b or (magnitude(a) | magnitude(b)) == 0

cdef inline bint f_eq(bits a, bits b, uint32_t* flags) noexcept nogil:
    """a == b, quiet: only a signalling NaN is invalid."""
    if is_nan(a) or is_nan(b):
        nan_result(a, b, flags)
        return False
    return ordered_equal(a, b)

cdef inline bint f_lt(bits a, bits b, uint32_t* flags) noexcept nogil:
    """a < b, signalling: every NaN is invalid."""
    if is_nan(a) or is_nan(b):
        flags[0] |= NV
        return False
    return ordered_less(a, b)

cdef inline bint f_le(bits a, bits b, uint32_t* flags) noexcept nogil:
    """a <= b, signalling: every NaN is invalid."""
    if is_nan(a) or is_nan(b):
        flags[0] |= NV
        return False
    return not ordered_less(b, a)

cdef inline bits extreme(bits a, bits b, bint largest, uint32_t* flags) noexcept nogil:
    """minimumNumber or maximumNumber of IEEE 754-2019: the number if the other is a NaN, and -0 below +0."""
    if is_nan(a) or is_nan(b):
        nan_result(a, b, flags)
        return canonical_nan(a) if is_nan(a) and is_nan(b) else (b if is_nan(a) else a)
    return a if (order(a) < order(b)) != largest else b

cdef inline bits f_min(bits a, bits b, uint32_t* flags) noexcept nogil:
    return extreme(a, b, False, flags)

cdef inline bits f_max(bits a, bits b, uint32_t* flags) noexcept nogil:
    return extreme(a, b, True, flags)

cdef inline uint32_t f_class(bits a) noexcept nogil:
    """One of ten bits: F extension, "Format of result of FCLASS instruction"."""
    cdef bint negative = sign_of(a) != 0
    if is_nan(a):
        return 1 << 8 if is_signalling(a) else 1 << 9
    if magnitude(a) == infinity(a):
        return 1 << 0 if negative else 1 << 7
    if magnitude(a) == 0:
        return 1 << 3 if negative else 1 << 4
    if exponent(a) == 0:
        return 1 << 2 if negative else 1 << 5
    return 1 << 1 if negative else 1 << 6


# ---- conversion ----

cdef inline uint64_t to_integer(bits a, uint64_t least, uint64_t most, int rm, uint32_t* flags) noexcept nogil:
    """a as an integer from -least to most, two's complement; what lies beyond is the nearest one and NV alone."""
    cdef bint negative = sign_of(a) != 0
    cdef int exp = exponent(a) - bias(a)
    cdef uint64_t negate = <uint64_t>0 - <uint64_t>negative
    cdef uint64_t limit = most ^ ((most ^ least) & negate)
    cdef uint64_t sig, whole = 0, tail, half = <uint64_t>1 << 63
    if not likely(exp <= 63):
        flags[0] |= NV
        return most if is_nan(a) else (limit ^ negate) - negate
    sig = significand(a) if likely(exponent(a) != 0) else <uint64_t>magnitude(a) << (63 - fraction_bits(a))
    if likely(exp >= 0):                                       # whole, and what follows its point in 64 bits
        whole = sig >> (63 - exp)
        tail = sig << exp << 1
    else:
        tail = shift_right_jam(sig >> 1, -exp - 2) if exp < -1 else sig
    if rm == RTZ:
        pass
    elif rm == RNE:
        whole += tail > half - (whole & 1)
    elif rm == RMM:
        whole += tail >= half
    else:
        whole += tail != 0 and rm == (RDN if negative else RUP)
    if not likely(whole <= limit):
        flags[0] |= NV
        return (limit ^ negate) - negate
    flags[0] |= tail != 0
    return (whole ^ negate) - negate

cdef inline uint64_t f_to_i32(bits a, int rm, uint32_t* flags) noexcept nogil:
    return to_integer(a, 0x80000000u, 0x7fffffffu, rm, flags)

cdef inline uint64_t f_to_u32(bits a, int rm, uint32_t* flags) noexcept nogil:
    """Sign-extended from 32 bits, as RV64 keeps every 32-bit result."""
    return <uint64_t><int64_t><int>to_integer(a, 0, 0xffffffffu, rm, flags)

cdef inline uint64_t f_to_i64(bits a, int rm, uint32_t* flags) noexcept nogil:
    return to_integer(a, 0x8000000000000000u, 0x7fffffffffffffffu, rm, flags)

cdef inline uint64_t f_to_u64(bits a, int rm, uint32_t* flags) noexcept nogil:
    return to_integer(a, 0, 0xffffffffffffffffu, rm, flags)

cdef inline bits f_from_u64(bits sign, uint64_t n, int rm, uint32_t* flags) noexcept nogil:
    """n with the given sign, in the format of `sign`; zero is +0."""
    cdef int shift
    if n == 0:
        return 0
    shift = leading_zeros(n)
    n <<= shift
    return round_pack(sign, bias(sign) + 63 - shift, n >> 1 | (n & 1), rm, flags)

cdef inline bits f_from_i64(bits zero, int64_t n, int rm, uint32_t* flags) noexcept nogil:
    """n in the format of `zero`."""
    if n < 0:
        return f_from_u64(sign_bit(zero), <uint64_t>0 - <uint64_t>n, rm, flags)
    return f_from_u64(zero, <uint64_t>n, rm, flags)

cdef inline uint64_t widen(uint32_t a, uint32_t* flags) noexcept nogil:
    """A single as a double: exact."""
    cdef uint64_t sign = <uint64_t>sign_of(a) << 32
    cdef int exp
    cdef uint64_t sig
    if is_nan(a):
        nan_result(a, a, flags)
        return canonical_nan(<uint64_t>0)
    if magnitude(a) == 0:
        return sign
    if magnitude(a) == infinity(a):
        return sign | infinity(<uint64_t>0)
    sig = normalize(a, &exp)
    return round_pack(sign, exp - bias(a) + bias(sign), sig >> 1, RNE, flags)

cdef inline uint32_t narrow(uint64_t a, int rm, uint32_t* flags) noexcept nogil:
    """A double as a single, rounded."""
    cdef uint32_t sign = <uint32_t>(sign_of(a) >> 32)
    cdef int exp
    cdef uint64_t sig
    if is_nan(a):
        nan_result(a, a, flags)
        return canonical_nan(<uint32_t>0)
    if magnitude(a) == 0:
        return sign
    if magnitude(a) == infinity(a):
        return sign | infinity(<uint32_t>0)
    sig = normalize(a, &exp)
    return round_pack(sign, exp - bias(a) + bias(sign), sig >> 1, rm, flags)
