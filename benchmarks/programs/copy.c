/* The C library's memcpy and memmove, as programs call them: many short pieces, few long ones, at any alignment.
 * Known: every move is a rotation of one buffer, and together they bring each byte back to where it was. */
#include "program.h"

enum { SIZE = 1 << 18, SHORTEST = 8, LONGEST = 1 << 12, MOVES = 1000, TURNS = 240 };

static uint8_t bytes[SIZE], before[SIZE];

struct move {
    size_t first, size, by; /* rotate `size` bytes from `first` to the left by `by` */
};

static NOINLINE void rotate(uint8_t *first, size_t size, size_t by)
{
    uint8_t kept[LONGEST];
    memcpy(kept, first, by);
    memmove(first, first + by, size - by);
    memcpy(first + size - by, kept, by);
}

/* Sizes spread evenly over their logarithm, so that each power of two is as frequent as the next. */
static struct move next_move(uint64_t *state)
{
    uint64_t number = next_random(state);
    size_t limit = SHORTEST * 2 << number % 9;
    size_t size = limit / 2 + (number >> 8) % (limit / 2);
    return (struct move){ (number >> 24) % (SIZE - size), size, 1 + (number >> 48) % (size - 1) };
}

int main(void)
{
    static struct move moves[MOVES];
    uint64_t state = 1, checksum = 0;
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(next_random(&state) >> 56);
    memcpy(before, bytes, SIZE);
    bool right = true;
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < MOVES; i++) {
            moves[i] = next_move(&state);
            rotate(bytes + moves[i].first, moves[i].size, moves[i].by);
        }
        for (size_t i = 0; i < SIZE; i += 4096)
            checksum = mix(checksum, bytes[i]);
        for (int i = MOVES - 1; i >= 0; i--)
            rotate(bytes + moves[i].first, moves[i].size, moves[i].size - moves[i].by);
        right = right && memcmp(bytes, before, SIZE) == 0;
    }
    return finish("copy", checksum, right);
}
