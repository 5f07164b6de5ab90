/* Keys: the hash that filters on disk are made of (never change it), and binary search in sorted ones. */
#pragma once
#include <stdint.h>
#include <string.h>

static inline uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

static uint64_t hash_bytes(const unsigned char *data, long n)
{
    uint64_t h = (uint64_t)n;
    for (; n > 0; n -= 8, data += 8) {
        uint64_t word = 0;
        memcpy(&word, data, n < 8 ? (size_t)n : 8);
        h = mix64(h ^ word);
    }
    return mix64(h);
}

static long lower_int64(const long *values, long n, long key)
{
    long low = 0;
    while (n > 0) {
        long half = n / 2;
        if (values[low + half] < key) { low += half + 1; n -= half + 1; } else n = half;
    }
    return low;
}

static long lower_bytes(const unsigned char *data, const int *offsets, long n, const unsigned char *key, long size)
{
    long low = 0;
    while (n > 0) {
        long half = n / 2, mid = low + half;
        long have = offsets[mid + 1] - offsets[mid];
        int c = memcmp(data + offsets[mid], key, (size_t)(have < size ? have : size));
        if (c < 0 || (c == 0 && have < size)) { low = mid + 1; n -= half + 1; } else n = half;
    }
    return low;
}
