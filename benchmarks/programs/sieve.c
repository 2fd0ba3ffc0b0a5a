/* The sieve of Eratosthenes, a byte a number: strided stores over more memory than a first-level cache or a TLB holds.
 * Known: there are 348,513 primes below 5,000,000. */
#include "program.h"

enum { LIMIT = 5000000, TURNS = 6 };

static uint8_t composite[LIMIT];

static NOINLINE uint32_t sieve(void)
{
    uint32_t primes = 0;
    memset(composite, 0, sizeof composite);
    for (uint32_t number = 2; number < LIMIT; number++) {
        if (composite[number])
            continue;
        primes++;
        for (uint64_t multiple = (uint64_t)number * number; multiple < LIMIT; multiple += number)
            composite[multiple] = 1;
    }
    return primes;
}

int main(void)
{
    bool right = true;
    uint64_t checksum = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        uint32_t primes = sieve();
        right = right && primes == 348513;
        checksum = mix(checksum, primes);
    }
    return finish("sieve", checksum, right);
}
