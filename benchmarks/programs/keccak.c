/* SHA3-256 (FIPS 202): the Keccak permutation's rotations, exclusive ors and and-nots of 64-bit words, 25 of them alive.
 * Known: the digest of nothing; the checksum printed is the start of SHA3-256 of the same 12 MiB, read as big-endian. */
#include "program.h"

enum { RATE = 136, SIZE = 1 << 16, TURNS = 192 };

static const uint64_t round_constants[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000, 0x000000000000808b, 0x0000000080000001,
    0x8000000080008081, 0x8000000000008009, 0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
    0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003, 0x8000000000008002, 0x8000000000000080,
    0x000000000000800a, 0x800000008000000a, 0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
};

struct sponge {
    uint64_t lanes[25];
    size_t filled; /* bytes of the rate */
};

static inline uint64_t rotate(uint64_t value, unsigned by) { return by ? value << by | value >> (64 - by) : value; }

static NOINLINE void permute(uint64_t a[25])
{
    /* Where rho and pi take each lane, in the order of their one cycle (FIPS 202, 3.2.2 and 3.2.3). */
    static const uint8_t turn[24] = { 1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 2, 14, 27, 41, 56, 8, 25, 43, 62, 18, 39, 61, 20, 44 };
    static const uint8_t lane[24] = { 10, 7, 11, 17, 18, 3, 5, 16, 8, 21, 24, 4, 15, 23, 19, 13, 12, 2, 20, 14, 22, 9, 6, 1 };

    for (int round = 0; round < 24; round++) {
        uint64_t column[5];
        for (int x = 0; x < 5; x++) /* theta */
            column[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
        for (int x = 0; x < 5; x++) {
            uint64_t change = column[(x + 4) % 5] ^ rotate(column[(x + 1) % 5], 1);
            for (int y = 0; y < 25; y += 5)
                a[y + x] ^= change;
        }
        uint64_t carried = a[1]; /* rho and pi */
        for (int step = 0; step < 24; step++) {
            uint64_t next = a[lane[step]];
            a[lane[step]] = rotate(carried, turn[step]);
            carried = next;
        }
        for (int y = 0; y < 25; y += 5) { /* chi */
            uint64_t row[5];
            memcpy(row, a + y, sizeof row);
            for (int x = 0; x < 5; x++)
                a[y + x] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5]);
        }
        a[0] ^= round_constants[round]; /* iota */
    }
}

static void put(struct sponge *sponge, uint8_t byte)
{
    sponge->lanes[sponge->filled / 8] ^= (uint64_t)byte << 8 * (sponge->filled % 8);
}

static void absorb(struct sponge *sponge, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        put(sponge, bytes[i]);
        if (++sponge->filled == RATE) {
            permute(sponge->lanes);
            sponge->filled = 0;
        }
    }
}

/* The first eight bytes of the digest, as a big-endian number. */
static uint64_t digest(struct sponge *sponge)
{
    put(sponge, 0x06);
    sponge->filled = RATE - 1;
    put(sponge, 0x80);
    permute(sponge->lanes);
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | (sponge->lanes[0] >> 8 * i & 255);
    return value;
}

int main(void)
{
    static uint8_t data[SIZE];
    struct sponge nothing = { { 0 }, 0 }, sponge = { { 0 }, 0 };
    bool right = digest(&nothing) == UINT64_C(0xa7ffc6f8bf1ed766);
    for (int i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 7);
    for (int turn = 0; turn < TURNS; turn++)
        absorb(&sponge, data, SIZE);
    return finish("keccak", digest(&sponge), right);
}
