/* Quantized rows and their graphs: what loops over them share.

   Codes are unsigned bytes around 128 (8 bits), or two values of 0 to 15 a byte (4 bits): in each line of 64 bytes the low
   halves are values 128 i to 128 i + 63, the high ones the next 64. Rows are whole lines. Between two rows of 8-bit codes
   distances are whole numbers, the same on every machine; between a query and a row they are estimates that a look at the
   full rows puts right. */
#ifndef LSMTENSOR_CODE_NET_H
#define LSMTENSOR_CODE_NET_H
#include <stdlib.h>
#include "_entries.h"

#define LINE 64
#define CODE_ENTRIES 32
/* the most rows that a query may name to begin at: a row of links and its next are as many */
#define CODE_STARTS 512
/* the beam of the walk above, and how many of what it finds are begun from */
#define CODE_TOP 8
#define CODE_BEGIN 4
/* how many of the rows that a walk expands first are candidates for links, though nearer ones came: the way there */
#define CODE_TRAIL 64
/* more rows than these at once are never asked for: a row of links and what it overflows by */
#define CODE_MAX_DEGREE 1024
/* rows expanded at once */
#ifndef AHEAD
#define AHEAD 2
#endif

typedef struct code_net {
    /* a small graph over some rows, ``rows`` of them, in which walks find where to begin; or NULL */
    const struct code_net *top;
    const uint32_t *rows;
    const uint8_t *codes;    /* n rows of ``stride`` bytes */
    const int32_t *sums;     /* symmetric: sum of (c - 128)^2 and of c - 128 of each row */
    /* to a query: estimate = square - factor * scale of the query * centred dot product; NULL: no square, one factor */
    const float *squares, *factors;
    uint32_t *links;         /* n rows of ``width``; a row ends at GRAPH_NO_LINK */
    const float *points, *scale;
    int64_t n, d, stride, width;
    int metric, bits;
    /* tables of keys of 32 bits in order, the rows that have them, where keys of each leading ``jump`` bits begin; tables 0: none */
    const uint8_t *planes; /* around 128, rows of ``plane`` bytes, whole lines */
    const float *offsets;  /* of a side beside its product */
    const uint32_t *keys, *keyed, *begins;
    int64_t plane, tables, trees, probes, window, prefix, jump;
} code_net;

/* What one query or one inserted row is compared by. */
typedef struct {
    int8_t *values;          /* centred, padded with zeros to whole lines */
    uint8_t *bytes;          /* the same as codes, for l1 and hamming */
    int32_t square, sum;
    float unit, factor;      /* what values are whole numbers of; what an estimate takes a product times */
    int32_t less;
} code_query;

/* Kept between calls, one a thread at work; ``seen`` is zero outside of a walk. */
typedef struct {
    uint64_t *seen;
    int64_t nodes;
    uint32_t *touched;
    int64_t count, room;
    graph_entry *pool, *found, *trail;
    int64_t pool_room, found_room, trail_room, trail_size;
    int8_t *values;
    int64_t values_room;
    int64_t distances;
} code_scratch;

static int code_reserve(code_scratch *s, int64_t nodes, int64_t pool, int64_t found, int64_t values)
{
    if (s->nodes < nodes) {
        free(s->seen);
        s->nodes = 0;
        s->seen = calloc((size_t)(nodes + 63) / 64, 8);
        if (!s->seen) return 0;
        s->nodes = nodes;
    }
#define ROOM(field, have, want, size)                                                                                  \
    if (s->have < (want)) {                                                                                            \
        free(s->field);                                                                                                \
        s->have = 0;                                                                                                   \
        s->field = aligned_alloc(LINE, ((size_t)(want) * (size) + LINE - 1) / LINE * LINE);                            \
        if (!s->field) return 0;                                                                                       \
        s->have = (want);                                                                                              \
    }
    ROOM(touched, room, nodes < 65536 ? nodes + 1 : 65536, sizeof *s->touched)
    ROOM(pool, pool_room, pool + 8, sizeof *s->pool) /* read in eights */
    ROOM(found, found_room, found + 8, sizeof *s->found)
    ROOM(trail, trail_room, CODE_TRAIL, sizeof *s->trail)
    ROOM(values, values_room, values, 2)
#undef ROOM
    s->distances = 0;
    return 1;
}

static void code_free(code_scratch *s)
{
    free(s->seen), free(s->touched), free(s->pool), free(s->found), free(s->trail), free(s->values);
}

/* Of n nodes those not seen before, which now are. Without a branch: whether one was seen is a coin's toss. */
static inline int64_t code_unseen(code_scratch *s, const uint32_t *node, int64_t n, uint32_t *fresh)
{
    int64_t kept = 0;
    for (int64_t j = 0; j < n; j++) {
        uint64_t *word = s->seen + (node[j] >> 6), bit = 1ull << (node[j] & 63);
        fresh[kept] = node[j];
        kept += !(*word & bit);
        *word |= bit;
    }
    if (s->count + kept <= s->room) memcpy(s->touched + s->count, fresh, (size_t)kept * sizeof *fresh);
    s->count += kept;
    return kept;
}

static inline void code_forget(code_scratch *s, int64_t n)
{
    if (s->count > s->room || s->count > n / 512)
        memset(s->seen, 0, (size_t)((n + 63) / 64) * 8);
    else
        for (int64_t i = 0; i < s->count; i++) s->seen[s->touched[i] >> 6] = 0;
    s->count = 0;
}

/* Whether no value is NaN or infinite. */
static inline int code_finite(const float *x, int64_t n)
{
    uint32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7FFFFFFFu;
        top = bits > top ? bits : top;
    }
    return top < 0x7F800000u;
}

static inline uint64_t code_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/* Where walks among the first ``have`` rows begin: some of them, scattered, the same until their number doubles. */
static inline int64_t code_entries(int64_t have, uint32_t *out)
{
    uint64_t power = 1;
    while (power * 2 <= (uint64_t)have) power *= 2;
    for (int64_t j = 0; j < CODE_ENTRIES; j++) out[j] = (uint32_t)(code_mix((uint64_t)j + 1) & (power - 1));
    return CODE_ENTRIES;
}

static inline graph_entry code_pack_int(int32_t d, uint32_t node)
{
    return (uint64_t)((uint32_t)d ^ 0x80000000u) << 32 | (uint64_t)node << 1;
}

static inline int64_t code_far_int(graph_entry e) { return (int64_t)(int32_t)((uint32_t)(e >> 32) ^ 0x80000000u); }

static inline int64_t code_count(const uint32_t *row, int64_t width)
{
    int32_t n = 0;
    for (int64_t j = 0; j < width; j++) n += row[j] != GRAPH_NO_LINK;
    return n;
}

/* Put e among n sorted entries unless it is there; how many more there are. */
static inline int64_t code_join(graph_entry *pool, int64_t n, graph_entry e)
{
    int64_t low = entry_place(pool, n, e);
    if (low < n && pool[low] == e) return 0;
    memmove(pool + low + 1, pool + low, (size_t)(n - low) * sizeof *pool);
    pool[low] = e;
    return 1;
}
#endif
