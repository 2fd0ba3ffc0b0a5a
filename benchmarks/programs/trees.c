/* Binary trees made and given back, node by node: malloc, free, pointers followed through scattered memory.
 * Known: a full tree of depth d has 2^(d+1) - 1 nodes, and the sum of its nodes' numbers follows from that. */
#include "program.h"

#include <stdlib.h>

enum { DEPTH = 16, TURNS = 8 };

struct node {
    struct node *left, *right;
    uint64_t number;
};

static struct node *grow(int depth, uint64_t number)
{
    struct node *node = malloc(sizeof *node);
    if (node == NULL) {
        fputs("trees: out of memory\n", stderr);
        exit(1);
    }
    node->number = number;
    node->left = depth ? grow(depth - 1, 2 * number) : NULL;
    node->right = depth ? grow(depth - 1, 2 * number + 1) : NULL;
    return node;
}

static uint64_t sum(const struct node *node)
{
    return node == NULL ? 0 : node->number + sum(node->left) + sum(node->right);
}

static void fell(struct node *node)
{
    if (node == NULL)
        return;
    fell(node->left);
    fell(node->right);
    free(node);
}

int main(void)
{
    const uint64_t nodes = (UINT64_C(2) << DEPTH) - 1;
    bool right = true;
    uint64_t checksum = 0;
    struct node *kept = grow(DEPTH, 1); /* so that the trees after it lie around it */
    for (int turn = 0; turn < TURNS; turn++) {
        struct node *tree = grow(DEPTH, 1);
        uint64_t found = sum(tree);
        right = right && found == nodes * (nodes + 1) / 2;
        checksum = mix(checksum, found);
        fell(tree);
    }
    checksum = mix(checksum, sum(kept));
    fell(kept);
    return finish("trees", checksum, right);
}
