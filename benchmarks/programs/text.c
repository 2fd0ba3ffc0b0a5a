/* text MEBIBYTES: that much of a text that compresses about as prose does, the same on every machine.
 *
 * Words from a vocabulary of 4,096, short and frequent ones first, in lines: the input of `sha256sum` and `gzip`. */
#include "program.h"

#include <stdlib.h>

enum { WORDS = 4096, LONGEST = 12, BLOCK = 1 << 20 };

static char words[WORDS][LONGEST];
static size_t lengths[WORDS];
static char block[BLOCK + LONGEST + 1];

static void make_words(uint64_t *state)
{
    for (int word = 0; word < WORDS; word++) {
        uint64_t number = next_random(state);
        lengths[word] = 2 + number % 4 + (size_t)word / 700;
        for (size_t i = 0; i < lengths[word]; i++)
            words[word][i] = "etaoinshrdlucmfwypvbgkjqxz"[next_random(state) % 26 * (next_random(state) % 26) / 26];
    }
}

int main(int count, char **arguments)
{
    long mebibytes = count == 2 ? strtol(arguments[1], NULL, 10) : 0;
    if (mebibytes < 1 || mebibytes > 1024) {
        fputs("usage: text MEBIBYTES (1 to 1024)\n", stderr);
        return 2;
    }
    uint64_t state = 42;
    make_words(&state);
    for (size_t filled = 0; mebibytes > 0; mebibytes--) {
        while (filled < BLOCK) {
            uint64_t number = next_random(&state) >> 16;
            size_t word = (number & 4095) * (number >> 12 & 4095) >> 12;
            memcpy(block + filled, words[word], lengths[word]);
            filled += lengths[word];
            block[filled++] = (number >> 24 & 15) ? ' ' : '\n';
        }
        if (fwrite(block, 1, BLOCK, stdout) != BLOCK)
            return 1;
        memmove(block, block + BLOCK, filled -= BLOCK);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
