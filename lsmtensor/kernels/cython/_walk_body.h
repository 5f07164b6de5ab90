/* The walk over a graph of codes for one instruction set, which both queries and rows that are inserted take. */

#include "_dots_body.h"
#include "_pool_body.h"

/* Packed distances of a query to any number of rows. ``estimate``: to a float query, by terms; else between codes. */
static inline void ISA(weigh)(const code_net *g, const code_query *q, int estimate, const uint32_t *node, int64_t n, graph_entry *out)
{
    if (g->metric >= 3) {
        for (int64_t i = 0; i < n; i++)
            out[i] = code_pack_int(ISA(apart)(q->bytes, g->codes + (int64_t)node[i] * g->stride, g->stride, g->metric), node[i]);
        return;
    }
    int32_t dot[AHEAD * CODE_MAX_DEGREE + 4];
    for (int64_t i = 0; i < n; i += 4) {
        const uint8_t *row[4];
        int64_t left = n - i < 4 ? n - i : 4;
        for (int64_t j = 0; j < 4; j++) row[j] = g->codes + (int64_t)node[i + (j < left ? j : 0)] * g->stride;
        if (estimate && g->bits == 4)
            ISA(dot4bit)(q->values, row, g->stride, dot + i);
        else
            ISA(dot8)(q->values, row, g->stride, dot + i);
    }
    if (estimate) {
        int32_t times = g->bits == 4 ? 2 : 1, less = q->less;
        float factor = q->factor;
        const float *squares = g->squares, *factors = g->factors;
        for (int64_t i = 0; i < n; i++) {
            float far = (squares ? squares[node[i]] : 0.0f) - (factors ? factors[node[i]] : 1.0f) * (factor * (float)(times * dot[i] - less));
            uint32_t order;
            far += 0.0f; /* -0 is 0 */
            memcpy(&order, &far, 4);
            order ^= (uint32_t)((int32_t)order >> 31) | 0x80000000u;
            out[i] = (uint64_t)order << 32 | (uint64_t)node[i] << 1;
        }
    } else {
        int32_t less = 128 * q->sum, square = q->square;
        for (int64_t i = 0; i < n; i++) {
            int32_t product = dot[i] - less;
            out[i] = code_pack_int(g->metric == 1 ? -product : g->sums[2 * (int64_t)node[i]] + square - 2 * product, node[i]);
        }
    }
}

/* A row of 8-bit codes as the query. */
static inline void ISA(as_query)(const code_net *g, int64_t node, code_query *q)
{
    const int64_t stride = g->stride;
    /* said to be apart, or bytes go one by one: a fifth of a build */
    const uint8_t *restrict row = g->codes + node * stride;
    int8_t *restrict values = q->values;
    q->bytes = (uint8_t *)row;
    if (g->metric >= 3) return;
    for (int64_t i = 0; i < stride; i += LINE)
        for (int64_t j = i; j < i + LINE; j++) values[j] = (int8_t)(row[j] ^ 0x80);
    q->square = g->sums[2 * node], q->sum = g->sums[2 * node + 1];
}

static inline void ISA(fetch)(const code_net *g, uint32_t node)
{
    const uint8_t *p = g->codes + (int64_t)node * g->stride;
    for (int64_t b = 0; b < g->stride; b += LINE) __builtin_prefetch(p + b);
    if (g->sums) __builtin_prefetch(g->sums + 2 * (int64_t)node);
}

/* Fill the pool with the ``cap`` nearest reached; with a mask keep the ``ef`` nearest allowed in ``found``, and end when these are
   full and nothing nearer is left to expand. The size of the pool. */
static inline int64_t ISA(walk)(const code_net *g, const code_query *q, int estimate, const uint32_t *start, int64_t count, int64_t cap,
                                const uint8_t *mask, int64_t ef, int64_t *hits_out, code_scratch *s)
{
    uint32_t fresh[AHEAD * CODE_MAX_DEGREE];
    graph_entry far[AHEAD * CODE_MAX_DEGREE + 8];
    int64_t size = 0, at = 0, hits = 0, n = 0;
    graph_entry *pool = s->pool;
    s->count = s->trail_size = 0;
    n = code_unseen(s, start, count, fresh);
    for (int64_t j = 0; j < n; j++) ISA(fetch)(g, fresh[j]);
    for (;;) {
        ISA(weigh)(g, q, estimate, fresh, n, far);
        s->distances += n;
        int64_t lowest = size;
        graph_entry worst = size == cap ? pool[size - 1] : ~0ull;
        n = mask ? n : ISA(nearer)(far, n, worst);
        for (int64_t j = 0; j < n; j++) {
            graph_entry e = far[j];
            if (mask) {
                if (hits == ef && e > s->found[hits - 1]) continue;
                if (mask[graph_node(e)] && graph_add(s->found, hits, ef, e) >= 0 && hits < ef) hits++;
            }
            if (e > worst) continue;
            int64_t place = ISA(put)(pool, size, cap, e);
            if (size < cap) size++;
            if (size == cap) worst = pool[size - 1];
            if (place < lowest) lowest = place;
        }
        if (lowest < at) at = lowest;
        /* two rows at a time: while one's misses are waited for, so are the other's */
        n = 0;
        int64_t picked = 0;
        const uint32_t *row[AHEAD];
        for (; at < size && picked < AHEAD; at++) {
            if (pool[at] & 1) continue;
            if (mask && hits == ef && pool[at] > (s->found[hits - 1] | 1)) break;
            row[picked] = g->links + (int64_t)graph_node(pool[at]) * g->width;
            for (int64_t b = 0; b < g->width; b += LINE / 4) __builtin_prefetch(row[picked] + b);
            if (!estimate && s->trail_size < CODE_TRAIL) s->trail[s->trail_size++] = pool[at];
            pool[at] |= 1;
            picked++;
        }
        if (picked == 0) break;
        /* collect, then prefetch, then compute: the cache misses of a row overlap */
        for (int64_t p = 0; p < picked; p++) {
            int64_t more = code_unseen(s, row[p], code_count(row[p], g->width), fresh + n);
            for (int64_t j = n; j < n + more; j++) {
                ISA(fetch)(g, fresh[j]);
                }
            n += more;
        }
        if (at < size) {
            const uint32_t *next = g->links + (int64_t)graph_node(pool[at]) * g->width;
            for (int64_t b = 0; b < g->width; b += LINE / 4) __builtin_prefetch(next + b);
        }
    }
    code_forget(s, g->n);
    if (hits_out) *hits_out = hits;
    return size;
}

/* Where a walk begins: the nearest of the graph above, or rows scattered over all. How many. */
static int64_t ISA(begin)(const code_net *g, const code_query *q, int estimate, uint32_t *start, code_scratch *s)
{
    if (!g->top) return code_entries(g->n, start);
    uint32_t scattered[CODE_ENTRIES];
    int64_t n = ISA(walk)(g->top, q, estimate, scattered, code_entries(g->top->n, scattered), CODE_TOP, 0, 0, 0, s);
    if (n > CODE_BEGIN) n = CODE_BEGIN;
    for (int64_t j = 0; j < n; j++) start[j] = g->rows[graph_node(s->pool[j])];
    return n;
}
