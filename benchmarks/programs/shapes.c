/* Objects of eight classes in random order, two virtual calls each: the indirect call of every object-oriented program.
 * Known: the same sum, taken class by class from how many objects there are of each size. */
#include "program.h"

enum { CLASSES = 8, OBJECTS = 20000, SIZES = 64, TURNS = 600 };

struct shape;

struct class {
    uint64_t (*area)(const struct shape *);
    uint64_t (*edge)(const struct shape *);
};

struct shape {
    const struct class *class;
    uint64_t size;
};

/* The classes differ in two numbers, which are constants in each one's own functions. */
#define CLASS(name, a, b) \
    static uint64_t name##_area(const struct shape *shape) { return (a) * shape->size * shape->size; } \
    static uint64_t name##_edge(const struct shape *shape) { return (b) * shape->size; } \
    static const struct class name = { name##_area, name##_edge };

CLASS(square, 1, 4)
CLASS(domino, 2, 6)
CLASS(tromino, 3, 8)
CLASS(tetromino, 4, 10)
CLASS(pentomino, 5, 12)
CLASS(ring, 8, 16)
CLASS(carpet, 64, 80)
CLASS(board, 63, 32)

static const struct class *const classes[CLASSES] = { &square, &domino, &tromino, &tetromino, &pentomino, &ring, &carpet, &board };
static const uint64_t areas[CLASSES] = { 1, 2, 3, 4, 5, 8, 64, 63 }, edges[CLASSES] = { 4, 6, 8, 10, 12, 16, 80, 32 };

static struct shape shapes[OBJECTS];

static NOINLINE uint64_t measure(uint64_t weight)
{
    uint64_t sum = 0;
    for (const struct shape *shape = shapes; shape < shapes + OBJECTS; shape++)
        sum += shape->class->area(shape) + weight * shape->class->edge(shape);
    return sum;
}

int main(void)
{
    uint64_t state = 3, area = 0, edge = 0, checksum = 0;
    for (int i = 0; i < OBJECTS; i++) {
        uint64_t number = next_random(&state) >> 32, kind = number % CLASSES, size = 1 + number / CLASSES % SIZES;
        shapes[i] = (struct shape){ classes[kind], size };
        area += areas[kind] * size * size;
        edge += edges[kind] * size;
    }
    bool right = true;
    for (uint64_t turn = 0; turn < TURNS; turn++) {
        uint64_t found = measure(turn);
        right = right && found == area + turn * edge;
        checksum = mix(checksum, found);
    }
    return finish("shapes", checksum, right);
}
