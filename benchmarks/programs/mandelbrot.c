/* How soon each point of a grid leaves the Mandelbrot set's circle: multiplications, additions and a comparison in double
 * precision, in a loop that nobody can predict the end of.
 * Known: the set's area, 1.5066 (Förstemann, 2012: 1.50659), and that it is its own mirror image. */
#include "program.h"

#include <math.h>

enum { WIDTH = 560, HALF = 224, LIMIT = 400 };

#define LEFT (-2.1)
#define STEP (2.8 / WIDTH)
#define AREA 1.5066

static NOINLINE uint32_t steps(double x, double y)
{
    double real = x, imaginary = y;
    for (uint32_t step = 0; step < LIMIT; step++) {
        double a = real * real, b = imaginary * imaginary;
        if (a + b > 4)
            return step;
        imaginary = 2 * real * imaginary + y;
        real = a - b + x;
    }
    return LIMIT;
}

int main(void)
{
    bool right = true;
    uint64_t checksum = 0, inside = 0;
    for (int row = 0; row < HALF; row++)
        for (int column = 0; column < WIDTH; column++) {
            double x = LEFT + (column + 0.5) * STEP, y = (row + 0.5) * STEP;
            uint32_t above = steps(x, y), below = steps(x, -y);
            right = right && above == below;
            inside += above == LIMIT;
            checksum = mix(checksum, above);
        }
    double area = 2 * (double)inside * STEP * STEP;
    return finish("mandelbrot", checksum, right && fabs(area / AREA - 1) < 0.02);
}
