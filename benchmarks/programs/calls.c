/* Recursive calls with next to no work in each: call, return, saving registers. Known: fib(36) = 14,930,352, and Takeuchi's
 * tak(24, 16, 8) = 9, both long published. */
#include "program.h"

static NOINLINE uint32_t fib(uint32_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static NOINLINE int32_t tak(int32_t x, int32_t y, int32_t z)
{
    if (x <= y)
        return z;
    return tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y));
}

int main(void)
{
    uint32_t number = fib(36);
    int32_t taken = tak(24, 16, 8);
    return finish("calls", mix(number, (uint64_t)taken), number == 14930352 && taken == 9);
}
