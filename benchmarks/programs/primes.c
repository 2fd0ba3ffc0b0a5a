/* Miller and Rabin's test of one number after the other: remainders of 64-bit products, which wait for each other.
 * Known: to the bases 2, 3, 5 and 7 it is wrong for nothing below 3,215,031,751 (Jaeschke, 1993); a sieve of the same
 * numbers must find the same primes. */
#include "program.h"

enum { FIRST = 2000000001, BLOCK = 1 << 15, BLOCKS = 128, ROOT = 44769 }; /* ROOT * ROOT is more than the last of them */

static bool composite[BLOCK]; /* by the sieve */

static uint64_t power(uint64_t base, uint64_t exponent, uint64_t modulus)
{
    uint64_t result = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1)
            result = result * base % modulus;
        base = base * base % modulus;
    }
    return result;
}

static bool passes(uint64_t number, uint64_t base)
{
    int halvings = __builtin_ctzll(number - 1);
    uint64_t value = power(base, (number - 1) >> halvings, number);
    if (value == 1 || value == number - 1)
        return true;
    while (--halvings > 0) {
        value = value * value % number;
        if (value == number - 1)
            return true;
    }
    return false;
}

static NOINLINE bool prime(uint64_t number)
{
    return number % 2 && passes(number, 2) && passes(number, 3) && passes(number, 5) && passes(number, 7);
}

static void sieve(uint32_t first)
{
    memset(composite, 0, sizeof composite);
    for (uint32_t factor = 2; factor <= ROOT; factor += 1 + (factor > 2))
        for (uint32_t at = (factor - first % factor) % factor; at < BLOCK; at += factor)
            composite[at] = true;
}

int main(void)
{
    bool right = true;
    uint64_t checksum = 0, primes = 0;
    for (uint32_t block = 0; block < BLOCKS; block++) {
        uint32_t first = FIRST + block * BLOCK;
        sieve(first);
        for (uint32_t i = 0; i < BLOCK; i++) {
            bool found = prime(first + i);
            right = right && found != composite[i];
            if (found)
                checksum = mix(checksum, first + i), primes++;
        }
    }
    return finish("primes", mix(checksum, primes), right);
}
