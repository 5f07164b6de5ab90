/* Bytes, or bits, of elements put together; definitions in contract.py. */
#include <stdint.h>
#include <string.h>

#define SPREAD(SIZE)                                                   \
    for (long i = 0; i < m; i++)                                       \
        for (int b = 0; b < SIZE; b++)                                 \
            out[b * m + i] = in[i * SIZE + b];
#define GATHER(SIZE)                                                   \
    for (long i = 0; i < m; i++)                                       \
        for (int b = 0; b < SIZE; b++)                                 \
            out[i * SIZE + b] = in[b * m + i];

static void shuffle_bytes(const uint8_t *restrict in, uint8_t *restrict out, long n, long size)
{
    long m = n / size;
    if (size == 2) { SPREAD(2) } else if (size == 4) { SPREAD(4) } else if (size == 8) { SPREAD(8) } else { SPREAD(size) }
    memcpy(out + m * size, in + m * size, n - m * size);
}

static void unshuffle_bytes(const uint8_t *restrict in, uint8_t *restrict out, long n, long size)
{
    long m = n / size;
    if (size == 2) { GATHER(2) } else if (size == 4) { GATHER(4) } else if (size == 8) { GATHER(8) } else { GATHER(size) }
    memcpy(out + m * size, in + m * size, n - m * size);
}

/* bit j of byte i becomes bit i of byte j: three rounds of swapped blocks (Warren, Hacker's Delight, 7-3) */
static uint64_t transpose8(uint64_t x)
{
    uint64_t t;
    t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAULL, x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCULL, x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ULL, x ^= t ^ (t << 28);
    return x;
}

static void shuffle_bits(const uint8_t *restrict in, uint8_t *restrict out, long n, long size)
{
    long groups = n / (8 * size);
    for (long g = 0; g < groups; g++)
        for (long b = 0; b < size; b++) {
            uint64_t x = 0;
            for (int i = 0; i < 8; i++)
                x |= (uint64_t)in[(g * 8 + i) * size + b] << (8 * i);
            x = transpose8(x);
            for (int j = 0; j < 8; j++)
                out[(b * 8 + j) * groups + g] = (uint8_t)(x >> (8 * j));
        }
    memcpy(out + groups * 8 * size, in + groups * 8 * size, n - groups * 8 * size);
}

static void unshuffle_bits(const uint8_t *restrict in, uint8_t *restrict out, long n, long size)
{
    long groups = n / (8 * size);
    for (long g = 0; g < groups; g++)
        for (long b = 0; b < size; b++) {
            uint64_t x = 0;
            for (int j = 0; j < 8; j++)
                x |= (uint64_t)in[(b * 8 + j) * groups + g] << (8 * j);
            x = transpose8(x);
            for (int i = 0; i < 8; i++)
                out[(g * 8 + i) * size + b] = (uint8_t)(x >> (8 * i));
        }
    memcpy(out + groups * 8 * size, in + groups * 8 * size, n - groups * 8 * size);
}
