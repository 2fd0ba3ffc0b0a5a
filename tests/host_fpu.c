/* The host's floating-point unit as an oracle for vpod's softfloat: one instruction over many operand sets.
 *
 * Usage: host_fpu OP RM < operands > results. OP is the RISC-V name ("fmadd.d"), RM its encoding 0..3 (hosts lack RMM).
 * Standard input is n patterns of a, then of b, then of c, 64 bits each in the host's order; standard output is n
 * patterns of results, then n bytes of flags as in fflags. Flags of NO_OPINION say that the C standard or the host
 * defines something else there: conversions out of range, and infinity times zero plus a quiet NaN.
 *
 * Built with -frounding-math -ffp-contract=off.
 */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma STDC FENV_ACCESS ON

#define NO_OPINION 0x80

static const int MODES[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

static unsigned raised(void) {
    int e = fetestexcept(FE_ALL_EXCEPT);
    return (e & FE_INEXACT ? 1 : 0) | (e & FE_UNDERFLOW ? 2 : 0) | (e & FE_OVERFLOW ? 4 : 0)
        | (e & FE_DIVBYZERO ? 8 : 0) | (e & FE_INVALID ? 16 : 0);
}

static uint64_t from_float(float v) {
    uint32_t bits;
    if (v != v) return 0x7fc00000u;                    /* every NaN is canonical */
    memcpy(&bits, &v, 4);
    return bits;
}

static uint64_t from_double(double v) {
    uint64_t bits;
    if (v != v) return 0x7ff8000000000000u;
    memcpy(&bits, &v, 8);
    return bits;
}

static float to_float(uint64_t v) { uint32_t low = (uint32_t)v; float f; memcpy(&f, &low, 4); return f; }
static double to_double(uint64_t v) { double d; memcpy(&d, &v, 8); return d; }

/* One function an instruction: volatile operands and result, so that mode and flags frame just this expression. */
#define SINGLE(name, expression) \
    static uint64_t name##_s(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) { \
        volatile float x = to_float(a), y = to_float(b), z = to_float(c), r = (expression); \
        *flags = raised(); \
        (void)x, (void)y, (void)z; \
        return from_float(r); \
    }
#define DOUBLE(name, expression) \
    static uint64_t name##_d(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) { \
        volatile double x = to_double(a), y = to_double(b), z = to_double(c), r = (expression); \
        *flags = raised(); \
        (void)x, (void)y, (void)z; \
        return from_double(r); \
    }
#define COMPARE(name, operator) \
    static uint64_t name##_s(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) { \
        volatile float x = to_float(a), y = to_float(b); \
        volatile int r = x operator y; \
        *flags = raised(); \
        return (void)c, (uint64_t)r; \
    } \
    static uint64_t name##_d(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) { \
        volatile double x = to_double(a), y = to_double(b); \
        volatile int r = x operator y; \
        *flags = raised(); \
        return (void)c, (uint64_t)r; \
    }
/* To an integer: round in the current mode, take the flags (only the rounding raises one), cast what is in range. */
#define TO_INTEGER(name, type, low, high, from, number, round) \
    static uint64_t name(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) { \
        volatile number x = from(a), r = round(x); \
        *flags = raised(); \
        (void)b, (void)c; \
        if (!(r >= low && r < high)) { *flags = NO_OPINION; return 0; } \
        return sizeof(type) == 4 ? (uint64_t)(int64_t)(int32_t)(type)r : (uint64_t)(type)r; \
    }
#define FROM_INTEGER(name, type, number, pattern) \
    static uint64_t name(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) { \
        volatile type x = (type)a; \
        volatile number r = (number)x; \
        *flags = raised(); \
        return (void)b, (void)c, pattern(r); \
    }

SINGLE(fadd, x + y)
DOUBLE(fadd, x + y)
SINGLE(fsub, x - y)
DOUBLE(fsub, x - y)
SINGLE(fmul, x * y)
DOUBLE(fmul, x * y)
SINGLE(fdiv, x / y)
DOUBLE(fdiv, x / y)
SINGLE(fsqrt, sqrtf(x))
DOUBLE(fsqrt, sqrt(x))
SINGLE(fused, fmaf(x, y, z))
DOUBLE(fused, fma(x, y, z))
SINGLE(narrow, (float)to_double(a))
DOUBLE(widen, (double)to_float(a))
COMPARE(feq, ==)
COMPARE(flt, <)
COMPARE(fle, <=)
TO_INTEGER(w_s, int32_t, -0x1p31f, 0x1p31f, to_float, float, rintf)
TO_INTEGER(wu_s, uint32_t, 0.0f, 0x1p32f, to_float, float, rintf)
TO_INTEGER(l_s, int64_t, -0x1p63f, 0x1p63f, to_float, float, rintf)
TO_INTEGER(lu_s, uint64_t, 0.0f, 0x1p64f, to_float, float, rintf)
TO_INTEGER(w_d, int32_t, -0x1p31, 0x1p31, to_double, double, rint)
TO_INTEGER(wu_d, uint32_t, 0.0, 0x1p32, to_double, double, rint)
TO_INTEGER(l_d, int64_t, -0x1p63, 0x1p63, to_double, double, rint)
TO_INTEGER(lu_d, uint64_t, 0.0, 0x1p64, to_double, double, rint)
FROM_INTEGER(s_w, int32_t, float, from_float)
FROM_INTEGER(s_wu, uint32_t, float, from_float)
FROM_INTEGER(s_l, int64_t, float, from_float)
FROM_INTEGER(s_lu, uint64_t, float, from_float)
FROM_INTEGER(d_w, int32_t, double, from_double)
FROM_INTEGER(d_wu, uint32_t, double, from_double)
FROM_INTEGER(d_l, int64_t, double, from_double)
FROM_INTEGER(d_lu, uint64_t, double, from_double)

static uint64_t fmadd_s(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) {
    uint64_t result = fused_s(a, b, c, flags);
    float x = to_float(a), y = to_float(b);
    if (isnan(to_float(c)) && ((isinf(x) && y == 0) || (isinf(y) && x == 0))) *flags = NO_OPINION;
    return result;
}

static uint64_t fmadd_d(uint64_t a, uint64_t b, uint64_t c, unsigned *flags) {
    uint64_t result = fused_d(a, b, c, flags);
    double x = to_double(a), y = to_double(b);
    if (isnan(to_double(c)) && ((isinf(x) && y == 0) || (isinf(y) && x == 0))) *flags = NO_OPINION;
    return result;
}

static const struct { const char *name; uint64_t (*apply)(uint64_t, uint64_t, uint64_t, unsigned *); } OPERATIONS[] = {
    {"fadd.s", fadd_s}, {"fadd.d", fadd_d}, {"fsub.s", fsub_s}, {"fsub.d", fsub_d}, {"fmul.s", fmul_s},
    {"fmul.d", fmul_d}, {"fdiv.s", fdiv_s}, {"fdiv.d", fdiv_d}, {"fsqrt.s", fsqrt_s}, {"fsqrt.d", fsqrt_d},
    {"fmadd.s", fmadd_s}, {"fmadd.d", fmadd_d}, {"feq.s", feq_s}, {"feq.d", feq_d}, {"flt.s", flt_s},
    {"flt.d", flt_d}, {"fle.s", fle_s}, {"fle.d", fle_d}, {"fcvt.s.d", narrow_s}, {"fcvt.d.s", widen_d},
    {"fcvt.w.s", w_s}, {"fcvt.wu.s", wu_s}, {"fcvt.l.s", l_s}, {"fcvt.lu.s", lu_s}, {"fcvt.w.d", w_d},
    {"fcvt.wu.d", wu_d}, {"fcvt.l.d", l_d}, {"fcvt.lu.d", lu_d}, {"fcvt.s.w", s_w}, {"fcvt.s.wu", s_wu},
    {"fcvt.s.l", s_l}, {"fcvt.s.lu", s_lu}, {"fcvt.d.w", d_w}, {"fcvt.d.wu", d_wu}, {"fcvt.d.l", d_l},
    {"fcvt.d.lu", d_lu},
};

static uint64_t *read_all(size_t *words) {
    size_t size = 0, room = 1 << 20, got;
    char *data = malloc(room);
    while (data && (got = fread(data + size, 1, room - size, stdin)) > 0)
        if ((size += got) == room) data = realloc(data, room *= 2);
    *words = size / 8;
    return (uint64_t *)data;
}

int main(int argc, char **argv) {
    size_t row = 0, rows = sizeof OPERATIONS / sizeof *OPERATIONS, words;
    int rm = argc == 3 ? atoi(argv[2]) : -1;
    while (row < rows && (argc < 2 || strcmp(argv[1], OPERATIONS[row].name) != 0)) row++;
    if (row == rows || rm < 0 || rm > 3) return 2;
    uint64_t *in = read_all(&words);
    size_t n = words / 3;
    uint64_t *out = malloc(n * 8 + 8);
    unsigned char *out_flags = malloc(n + 1);
    if (!in || !out || !out_flags) return 1;
    fesetround(MODES[rm]);
    for (size_t k = 0; k < n; k++) {
        unsigned flags;
        feclearexcept(FE_ALL_EXCEPT);
        out[k] = OPERATIONS[row].apply(in[k], in[n + k], in[2 * n + k], &flags);
        out_flags[k] = (unsigned char)flags;
    }
    fesetround(FE_TONEAREST);
    return fwrite(out, 8, n, stdout) == n && fwrite(out_flags, 1, n, stdout) == n ? 0 : 1;
}
