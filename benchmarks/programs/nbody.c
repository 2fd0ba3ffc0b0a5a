/* The sun and four planets under gravity: dependent multiplications and additions, a square root and a division a pair.
 * Known: the system's energy to nine decimals, at the start and after 1,000 steps of 0.01 days, as published for this
 * problem in the Computer Language Benchmarks Game (whose constants these are). */
#include "program.h"

#include <math.h>

#define PI 3.141592653589793
#define DAYS 365.24
#define SOLAR_MASS (4 * PI * PI)

enum { BODIES = 5, STEPS = 700000 };

struct body {
    double at[3], speed[3], mass;
};

static struct body bodies[BODIES] = {
    { { 0, 0, 0 }, { 0, 0, 0 }, SOLAR_MASS },
    { { 4.84143144246472090e+00, -1.16032004402742839e+00, -1.03622044471123109e-01 },
      { 1.66007664274403694e-03 * DAYS, 7.69901118419740425e-03 * DAYS, -6.90460016972063023e-05 * DAYS },
      9.54791938424326609e-04 * SOLAR_MASS },
    { { 8.34336671824457987e+00, 4.12479856412430479e+00, -4.03523417114321381e-01 },
      { -2.76742510726411021e-03 * DAYS, 4.99852801234917238e-03 * DAYS, 2.30417297573763929e-05 * DAYS },
      2.85885980666130812e-04 * SOLAR_MASS },
    { { 1.28943695621391310e+01, -1.51111514016986312e+01, -2.23307578892655734e-01 },
      { 2.96460137564761618e-03 * DAYS, 2.37847173959480950e-03 * DAYS, -2.96589568540237556e-05 * DAYS },
      4.36624404335156298e-05 * SOLAR_MASS },
    { { 1.53796971148509165e+01, -2.59193146099879641e+01, 1.79258772950371181e-01 },
      { 2.68067772490389322e-03 * DAYS, 1.62824170038242295e-03 * DAYS, -9.51592254519715870e-05 * DAYS },
      5.15138902046611451e-05 * SOLAR_MASS },
};

static double distance_squared(const struct body *a, const struct body *b, double away[3])
{
    for (int axis = 0; axis < 3; axis++)
        away[axis] = a->at[axis] - b->at[axis];
    return away[0] * away[0] + away[1] * away[1] + away[2] * away[2];
}

static NOINLINE void advance(double time)
{
    double away[3];
    for (struct body *a = bodies; a < bodies + BODIES; a++)
        for (struct body *b = a + 1; b < bodies + BODIES; b++) {
            double squared = distance_squared(a, b, away);
            double pull = time / (squared * sqrt(squared));
            for (int axis = 0; axis < 3; axis++) {
                a->speed[axis] -= away[axis] * b->mass * pull;
                b->speed[axis] += away[axis] * a->mass * pull;
            }
        }
    for (struct body *a = bodies; a < bodies + BODIES; a++)
        for (int axis = 0; axis < 3; axis++)
            a->at[axis] += time * a->speed[axis];
}

/* The sun gets what momentum makes the whole system's zero. */
static void rest(void)
{
    for (int axis = 0; axis < 3; axis++) {
        double momentum = 0;
        for (int i = 0; i < BODIES; i++)
            momentum += bodies[i].speed[axis] * bodies[i].mass;
        bodies[0].speed[axis] = -momentum / SOLAR_MASS;
    }
}

static double energy(void)
{
    double sum = 0, away[3];
    for (const struct body *a = bodies; a < bodies + BODIES; a++) {
        const double *v = a->speed;
        sum += 0.5 * a->mass * (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
        for (const struct body *b = a + 1; b < bodies + BODIES; b++)
            sum -= a->mass * b->mass / sqrt(distance_squared(a, b, away));
    }
    return sum;
}

static bool shown_as(double value, const char *text)
{
    char shown[32];
    snprintf(shown, sizeof shown, "%.9f", value);
    return strcmp(shown, text) == 0;
}

int main(void)
{
    rest();
    bool right = shown_as(energy(), "-0.169075164");
    for (int step = 1; step <= STEPS; step++) {
        advance(0.01);
        if (step == 1000)
            right = right && shown_as(energy(), "-0.169087605");
    }
    uint64_t checksum = bits_of(energy());
    for (int i = 0; i < BODIES; i++)
        for (int axis = 0; axis < 3; axis++)
            checksum = mix(checksum, bits_of(bodies[i].at[axis]));
    return finish("nbody", checksum, right);
}
