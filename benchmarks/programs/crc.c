/* CRC-32 by a table: loads, shifts and exclusive ors in a tight loop, one byte at a time.
 * Known: the check value of CRC-32/ISO-HDLC is cbf43926; the checksum printed is zlib's crc32 of the same bytes. */
#include "program.h"

enum { SIZE = 1 << 16, TURNS = 2400 };

static uint32_t table[256];
static uint8_t data[SIZE];

static void make_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        table[byte] = value;
    }
}

static NOINLINE uint32_t crc32(uint32_t crc, const uint8_t *bytes, size_t size)
{
    crc = ~crc;
    for (size_t i = 0; i < size; i++)
        crc = table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
    return ~crc;
}

int main(void)
{
    make_table();
    bool right = crc32(0, (const uint8_t *)"123456789", 9) == 0xcbf43926u;
    for (int i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 7);
    uint32_t crc = 0;
    for (int turn = 0; turn < TURNS; turn++)
        crc = crc32(crc, data, SIZE);
    return finish("crc", crc, right);
}
