/* A fast Fourier transform of 4,096 complex numbers and back, in single precision: strides that double, butterflies of ten
 * operations that depend on each other little.
 * Known: the transform of a pure tone is one line, as high as there are points; there and back gives the same numbers. */
#include "program.h"

#include <math.h>

enum { LEVELS = 12, N = 1 << LEVELS, TONE = 37, TURNS = 150 };

struct complex {
    float real, imaginary;
};

static struct complex roots[N / 2], tone[N], numbers[N];

/* exp(-2 pi i k / N) for k < N / 2, by halving angles and multiplying: sqrt is the same on every machine, sin is not. */
static void make_roots(void)
{
    static double real[N / 2], imaginary[N / 2];
    double cosine = -1; /* of the angle pi, which is halved LEVELS - 1 times */
    real[0] = 1;
    for (int k = N / 4; k > 0; k /= 2) {
        double sine = sqrt((1 - cosine) / 2);
        cosine = sqrt((1 + cosine) / 2);
        real[k] = cosine;
        imaginary[k] = -sine;
    }
    for (int k = 1; k < N / 2; k++) {
        int lowest = k & -k, rest = k - lowest;
        if (rest) {
            real[k] = real[rest] * real[lowest] - imaginary[rest] * imaginary[lowest];
            imaginary[k] = real[rest] * imaginary[lowest] + imaginary[rest] * real[lowest];
        }
    }
    for (int k = 0; k < N / 2; k++)
        roots[k] = (struct complex){ (float)real[k], (float)imaginary[k] };
}

static void reverse_bits(void)
{
    for (int i = 0, j = 0; i < N; i++) {
        if (i < j) {
            struct complex kept = numbers[i];
            numbers[i] = numbers[j];
            numbers[j] = kept;
        }
        for (int bit = N / 2; bit && !((j ^= bit) & bit); bit /= 2) /* one more, carried downwards */
            ;
    }
}

/* In place; `sign` is 1 for the transform, -1 for N times its inverse. */
static NOINLINE void transform(float sign)
{
    reverse_bits();
    for (int half = 1; half < N; half *= 2)
        for (int first = 0; first < N; first += 2 * half)
            for (int k = 0; k < half; k++) {
                struct complex *a = numbers + first + k, *b = a + half, root = roots[k * (N / 2 / half)];
                float turn = sign * root.imaginary;
                float real = b->real * root.real - b->imaginary * turn;
                float imaginary = b->real * turn + b->imaginary * root.real;
                *b = (struct complex){ a->real - real, a->imaginary - imaginary };
                *a = (struct complex){ a->real + real, a->imaginary + imaginary };
            }
}

static void make_tone(void)
{
    for (int i = 0; i < N; i++) {
        int k = i * TONE % N;
        float sign = k < N / 2 ? 1.0f : -1.0f;
        tone[i] = (struct complex){ sign * roots[k % (N / 2)].real, -sign * roots[k % (N / 2)].imaginary };
    }
}

static bool near(struct complex found, float real, float imaginary, float tolerance)
{
    return fabsf(found.real - real) < tolerance && fabsf(found.imaginary - imaginary) < tolerance;
}

int main(void)
{
    make_roots();
    make_tone();
    bool right = true;
    uint64_t checksum = 0;
    memcpy(numbers, tone, sizeof numbers);
    for (int turn = 0; turn < TURNS; turn++) {
        transform(1);
        for (int i = 0; i < N; i++)
            right = right && near(numbers[i], i == TONE ? (float)N : 0.0f, 0, 0.5f);
        transform(-1);
        for (int i = 0; i < N; i++) {
            numbers[i] = (struct complex){ numbers[i].real / N, numbers[i].imaginary / N };
            right = right && near(numbers[i], tone[i].real, tone[i].imaginary, 1e-3f);
        }
        checksum = mix(checksum, bits_of((double)numbers[turn % N].real));
    }
    return finish("fft", checksum, right);
}
