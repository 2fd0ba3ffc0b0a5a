/* A matrix product in double precision with fused multiply-add, which is what compilers make of this loop on RV64GC.
 * Known: the entries are small integers, so that every sum is exact and equals the same sum in integers. */
#include "program.h"

#include <math.h>

enum { N = 160, TURNS = 15 };

static double left[N][N], right[N][N], product[N][N];

static NOINLINE void multiply(void)
{
    for (int row = 0; row < N; row++)
        for (int column = 0; column < N; column++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum = fma(left[row][k], right[k][column], sum);
            product[row][column] += sum;
        }
}

static bool exact(int row, int column)
{
    int64_t sum = 0;
    for (int64_t k = 0; k < N; k++)
        sum += (row * k + 1) * (k - column);
    return product[row][column] == (double)(TURNS * sum);
}

int main(void)
{
    for (int row = 0; row < N; row++)
        for (int column = 0; column < N; column++) {
            left[row][column] = row * column + 1;
            right[row][column] = row - column;
        }
    for (int turn = 0; turn < TURNS; turn++)
        multiply();
    bool well = true;
    uint64_t checksum = 0;
    for (int row = 0; row < N; row++)
        for (int column = 0; column < N; column++) {
            well = well && exact(row, column);
            checksum = mix(checksum, bits_of(product[row][column]));
        }
    return finish("matrix", checksum, well);
}
