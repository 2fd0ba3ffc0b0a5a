/* One list through 128 KiB in random order: each load gives the address of the next, so nothing but its latency counts.
 * Its 32 pages fit any emulator's TLB; with more, QEMU's, which grows and shrinks, makes two measurements differ tenfold.
 * Known: Sattolo's shuffle makes a single cycle, so as many steps as there are nodes lead back to the first. */
#include "program.h"

enum { NODES = 1 << 13, TURNS = 16000 };

struct node {
    struct node *next;
    uint64_t number;
};

static struct node nodes[NODES];

static void make_cycle(void)
{
    static uint32_t order[NODES];
    uint64_t state = 7;
    for (uint32_t i = 0; i < NODES; i++)
        order[i] = i;
    for (uint32_t i = NODES - 1; i > 0; i--) {
        uint32_t other = (uint32_t)((next_random(&state) >> 32) % i), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    for (uint32_t i = 0; i < NODES; i++)
        nodes[i] = (struct node){ nodes + order[i], i };
}

static NOINLINE const struct node *walk(const struct node *node, int steps, uint64_t *sum)
{
    uint64_t found = 0;
    for (int step = 0; step < steps; step++) {
        found += node->number;
        node = node->next;
    }
    *sum = found;
    return node;
}

int main(void)
{
    make_cycle();
    bool right = true;
    uint64_t checksum = 0, sum;
    for (int turn = 0; turn < TURNS; turn++) {
        const struct node *first = nodes + turn % NODES, *last = walk(first, NODES - 1, &sum);
        right = right && last->next == first && sum + last->number == (uint64_t)NODES * (NODES - 1) / 2;
        checksum = mix(checksum, sum);
    }
    return finish("chase", checksum, right);
}
