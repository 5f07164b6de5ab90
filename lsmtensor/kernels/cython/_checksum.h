/* CRC32C of many chunks at once. One chunk's sum is a chain of dependent steps of three cycles each; four chunks
 * side by side keep the unit busy. The polynomial is Castagnoli's, reflected: 0x82F63B78. */
#include <stdint.h>
#include <string.h>

static uint32_t crc_table[8][256];

static void crc_tables(void)
{
    for (int i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? 0x82F63B78u : 0);
        crc_table[0][i] = c;
    }
    for (int i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

static inline uint64_t load64(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

/* eight bytes a step by tables (little-endian machines only, as the formats are) */
static uint32_t crc_plain(uint32_t c, const unsigned char *p, long n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w = load64(p) ^ c;
        c = 0;
        for (int i = 0; i < 8; i++)
            c ^= crc_table[7 - i][w >> 8 * i & 255];
    }
    for (; n > 0; n--, p++)
        c = c >> 8 ^ crc_table[0][(c ^ *p) & 255];
    return c;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc_hard(uint32_t c, const unsigned char *p, long n)
{
    uint64_t wide = c;
    for (; n >= 8; n -= 8, p += 8)
        wide = _mm_crc32_u64(wide, load64(p));
    c = (uint32_t)wide;
    for (; n > 0; n--, p++)
        c = _mm_crc32_u8(c, *p);
    return c;
}

__attribute__((target("sse4.2"))) static void crc_four(uint32_t *c, const unsigned char *p, long n)
{
    uint64_t c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
    for (long i = 0; i < n; i += 8) {
        c0 = _mm_crc32_u64(c0, load64(p + i));
        c1 = _mm_crc32_u64(c1, load64(p + n + i));
        c2 = _mm_crc32_u64(c2, load64(p + 2 * n + i));
        c3 = _mm_crc32_u64(c3, load64(p + 3 * n + i));
    }
    c[0] = c0, c[1] = c1, c[2] = c2, c[3] = c3;
}

static int crc_has_unit(void) { return __builtin_cpu_supports("sse4.2"); }
#else
#define crc_hard crc_plain
static void crc_four(uint32_t *c, const unsigned char *p, long n)
{
    for (int i = 0; i < 4; i++)
        c[i] = crc_plain(c[i], p + i * n, n);
}
static int crc_has_unit(void) { return 0; }
#endif

static uint32_t crc_place(uint64_t file, uint64_t offset)
{
    unsigned char place[16];
    memcpy(place, &file, 8);
    memcpy(place + 8, &offset, 8);
    return crc_plain(0xFFFFFFFFu, place, 16);
}

static void crc_chunks(const unsigned char *data, long n, long chunk, uint64_t file, uint64_t offset, uint32_t *out)
{
    int unit = crc_has_unit();
    for (long at = 0; at < n;) {
        long left = n - at;
        if (unit && left >= 4 * chunk && chunk % 8 == 0) {
            for (int i = 0; i < 4; i++)
                out[i] = crc_place(file, offset + at + i * chunk);
            crc_four(out, data + at, chunk);
            for (int i = 0; i < 4; i++)
                out[i] = ~out[i];
            out += 4, at += 4 * chunk;
        } else {
            long size = left < chunk ? left : chunk;
            uint32_t c = crc_place(file, offset + at);
            *out++ = ~(unit ? crc_hard(c, data + at, size) : crc_plain(c, data + at, size));
            at += size;
        }
    }
}
