/* What every measured program shares, so that each file is its algorithm and nothing else.
 *
 * A program takes no arguments, checks its own result against something it knows, prints one line
 * `NAME CHECKSUM` (16 hex digits) and exits with 0; a wrong result exits with 1 and says so. The line is the same on
 * every machine: integers have fixed widths, and floating point is compiled without contraction, so that each
 * operation is IEEE 754's own.
 *
 *     int main(void) { return finish("sum", 3, 1 + 2 == 3); }
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

/* The next of a fixed sequence of numbers (xorshift64*: Vigna, 2016); *state must not be 0. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

/* One more value into a checksum; the order of values matters. */
static inline uint64_t mix(uint64_t checksum, uint64_t value)
{
    checksum = (checksum ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return checksum ^ checksum >> 29;
}

/* A double's bits, for `mix`. */
static inline uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Print the line; the exit code of main. */
static inline int finish(const char *name, uint64_t checksum, bool right)
{
    if (!right)
        fprintf(stderr, "%s: the result is wrong\n", name);
    printf("%s %016" PRIx64 "\n", name, checksum);
    return right ? 0 : 1;
}

#endif
