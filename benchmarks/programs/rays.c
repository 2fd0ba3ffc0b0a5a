/* Spheres drawn by casting a ray for each point, in single precision: square roots, divisions, comparisons and minima.
 * Known: rays are parallel to the light, so a sphere of radius r covers pi r^2, and the light that it gives back by
 * Lambert's law is two thirds of that. */
#include "program.h"

#include <math.h>

enum { WIDTH = 256, SPHERES = 9, TURNS = 9 };

#define SIZE 8.0f /* of the picture, which is square */
#define PI 3.14159265f

struct vector {
    float x, y, z;
};

struct sphere {
    struct vector centre;
    float radius;
};

/* None hides part of another. */
static const struct sphere spheres[SPHERES] = {
    { { 1.2f, 1.2f, 9 }, 1.1f }, { { 4.0f, 1.3f, 5 }, 1.2f }, { { 6.8f, 1.1f, 7 }, 1.0f },
    { { 1.1f, 4.0f, 6 }, 1.0f }, { { 4.1f, 4.1f, 8 }, 1.4f }, { { 6.9f, 3.9f, 4 }, 1.05f },
    { { 1.3f, 6.7f, 5 }, 1.25f }, { { 4.2f, 6.8f, 7 }, 1.15f }, { { 6.7f, 6.6f, 9 }, 1.2f },
};

static float dot(struct vector a, struct vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

static struct vector minus(struct vector a, struct vector b) { return (struct vector){ a.x - b.x, a.y - b.y, a.z - b.z }; }

/* How far along the ray the sphere begins; INFINITY if it is not met. `along` has length 1. */
static float distance(const struct sphere *sphere, struct vector from, struct vector along)
{
    struct vector away = minus(sphere->centre, from);
    float nearest = dot(away, along);
    float inside = sphere->radius * sphere->radius - (dot(away, away) - nearest * nearest);
    return inside < 0 ? INFINITY : nearest - sqrtf(inside);
}

/* The light that comes back along the ray, -1 if it meets nothing. */
static NOINLINE float light(struct vector from, struct vector along)
{
    const struct sphere *met = NULL;
    float nearest = INFINITY;
    for (const struct sphere *sphere = spheres; sphere < spheres + SPHERES; sphere++) {
        float found = distance(sphere, from, along);
        if (found < nearest) {
            nearest = found;
            met = sphere;
        }
    }
    if (met == NULL)
        return -1;
    struct vector at = { from.x + nearest * along.x, from.y + nearest * along.y, from.z + nearest * along.z };
    struct vector normal = minus(met->centre, at);
    return fmaxf(dot(normal, along) / sqrtf(dot(normal, normal)), 0);
}

static bool close(double found, double wanted) { return fabs(found / wanted - 1) < 0.01; }

int main(void)
{
    double area = 0;
    for (int i = 0; i < SPHERES; i++)
        area += PI * spheres[i].radius * spheres[i].radius;
    const double point = SIZE / WIDTH * (SIZE / WIDTH);
    const struct vector along = { 0, 0, 1 };
    bool right = true;
    uint64_t checksum = 0;
    for (int turn = 1; turn <= TURNS; turn++) {
        double covered = 0, returned = 0;
        for (int row = 0; row < WIDTH; row++)
            for (int column = 0; column < WIDTH; column++) {
                struct vector from = { ((float)column + 0.5f) * SIZE / WIDTH, ((float)row + 0.5f) * SIZE / WIDTH, 1.0f / (float)turn };
                float found = light(from, along);
                if (found >= 0) {
                    covered += point;
                    returned += point * (double)found;
                }
            }
        right = right && close(covered, area) && close(returned, area * 2 / 3);
        checksum = mix(mix(checksum, bits_of(covered)), bits_of(returned));
    }
    return finish("rays", checksum, right);
}
