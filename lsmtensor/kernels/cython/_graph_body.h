/* Beam search and insertion for one instruction set; LANES and ISA(name) come from _graph.h. */

#include "_rows_body.h"

/* Distances of q (inverse norm sq) to 1 to 4 nodes. */
static inline void ISA(four)(const graph_net *g, const float *q, float sq, const uint32_t *node, int64_t n, float *out)
{
    const float *row[4];
    for (int64_t i = 0; i < 4; i++) row[i] = g->points + (int64_t)node[i < n ? i : 0] * g->d;
    switch (g->metric) {
    case 0: ISA(square4)(q, row, g->d, out); return;
    case 1:
        ISA(dot4)(q, row, g->d, out);
        for (int64_t i = 0; i < n; i++) out[i] = -out[i];
        return;
    case 2:
        ISA(dot4)(q, row, g->d, out);
        for (int64_t i = 0; i < n; i++) out[i] = 1.0f - out[i] * (sq * g->scale[node[i]]);
        return;
    case 3: ISA(absolute4)(q, row, g->d, out); return;
    default: ISA(unequal4)(q, row, g->d, out); return;
    }
}

static inline void ISA(many)(const graph_net *g, const float *q, float sq, const uint32_t *node, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += 4) {
        float four[4];
        int64_t left = n - i < 4 ? n - i : 4;
        ISA(four)(g, q, sq, node + i, left, four);
        for (int64_t j = 0; j < left; j++) out[i + j] = four[j];
    }
}

static inline uint32_t *ISA(row_of)(const graph_net *g, int64_t node, int64_t level)
{
    return level == 0 ? g->links + node * g->degree : g->upper + (g->upper_at[node] + level - 1) * g->m;
}

static inline int64_t ISA(width)(const uint32_t *row, int64_t limit)
{
    int64_t n = 0;
    while (n < limit && row[n] != GRAPH_NO_LINK) n++;
    return n;
}

static inline void ISA(fetch)(const graph_net *g, uint32_t node)
{
    const char *p = (const char *)(g->points + (int64_t)node * g->d);
    int64_t bytes = g->d * 4 < 1024 ? g->d * 4 : 1024;
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(p + b);
}

/* The greedy walk from level ``top`` down to the one above ``bottom``. */
static uint32_t ISA(descend)(const graph_net *g, const float *q, float sq, uint32_t node, int64_t top, int64_t bottom, graph_scratch *s)
{
    float out[GRAPH_MAX_DEGREE];
    ISA(many)(g, q, sq, &node, 1, out);
    graph_entry best = graph_pack(out[0], node);
    for (int64_t level = top; level > bottom; level--) {
        for (;;) {
            graph_entry before = best;
            const uint32_t *row = ISA(row_of)(g, graph_node(best), level);
            int64_t n = ISA(width)(row, g->m);
            for (int64_t j = 0; j < n; j++) ISA(fetch)(g, row[j]);
            ISA(many)(g, q, sq, row, n, out);
            s->distances += n;
            for (int64_t j = 0; j < n; j++) {
                graph_entry e = graph_pack(out[j], row[j]);
                if (e < best) best = e;
            }
            if (best == before) break;
        }
    }
    return graph_node(best);
}

/* Fill the pool with the ``cap`` nearest reached from ``entry``. With a mask, keep the ``ef`` nearest allowed ones
   in ``found`` and end when they are full and nothing nearer is left to expand. */
static int64_t ISA(beam)(const graph_net *g, const float *q, float sq, uint32_t entry, int64_t level, int64_t cap,
                         const uint8_t *mask, int64_t ef, int64_t *hits_out, graph_scratch *s)
{
    uint32_t fresh[GRAPH_MAX_DEGREE];
    float out[GRAPH_MAX_DEGREE];
    int64_t size = 0, at = 0, hits = 0, degree = level == 0 ? g->degree : g->m;
    memset(s->seen, 0, (size_t)((g->n + 63) / 64) * 8);
    fresh[0] = entry;
    s->seen[entry >> 6] |= 1ull << (entry & 63);
    for (int64_t n = 1;;) {
        ISA(many)(g, q, sq, fresh, n, out);
        s->distances += n;
        int64_t lowest = size;
        for (int64_t j = 0; j < n; j++) {
            graph_entry e = graph_pack(out[j], fresh[j]);
            if (mask) {
                if (hits == ef && e > s->found[hits - 1]) continue;
                if (mask[fresh[j]] && graph_add(s->found, hits, ef, e) >= 0 && hits < ef) hits++;
            }
            int64_t place = graph_add(s->pool, size, cap, e);
            if (place < 0) continue;
            if (size < cap) size++;
            if (place < lowest) lowest = place;
        }
        if (lowest < at) at = lowest;
        while (at < size && (s->pool[at] & 1)) at++;
        if (at == size || (mask && hits == ef && s->pool[at] > (s->found[hits - 1] | 1))) break;
        const uint32_t *row = ISA(row_of)(g, graph_node(s->pool[at]), level);
        s->pool[at] |= 1;
        /* collect, then prefetch, then compute: the cache misses of a row overlap */
        n = 0;
        for (int64_t j = 0; j < degree && row[j] != GRAPH_NO_LINK; j++) {
            uint64_t *word = s->seen + (row[j] >> 6), bit = 1ull << (row[j] & 63);
            if (*word & bit) continue;
            *word |= bit;
            ISA(fetch)(g, row[j]);
            fresh[n++] = row[j];
        }
        /* the likely next row */
        if (at + 1 < size) __builtin_prefetch(ISA(row_of)(g, graph_node(s->pool[at + 1]), level));
    }
    if (hits_out) *hits_out = hits;
    return size;
}

/* Of sorted candidates keep each that lies nearer to the owner than to every one kept before; at most ``limit``. */
static int64_t ISA(select)(const graph_net *g, const graph_entry *cand, int64_t count, int64_t limit, int64_t width, uint32_t *row,
                           graph_scratch *s)
{
    uint32_t kept[GRAPH_MAX_DEGREE];
    int64_t n = 0;
    for (int64_t c = 0; c < count && n < limit; c++) {
        uint32_t node = graph_node(cand[c]);
        const float *p = g->points + (int64_t)node * g->d;
        float reach = graph_far(cand[c]), out[4];
        int good = 1;
        for (int64_t j = 0; j < n && good; j += 4) {
            int64_t left = n - j < 4 ? n - j : 4;
            ISA(four)(g, p, g->scale[node], kept + j, left, out);
            s->distances += left;
            for (int64_t i = 0; i < left; i++) good &= !(out[i] < reach);
        }
        if (good) kept[n++] = node;
    }
    memcpy(row, kept, (size_t)n * sizeof *row);
    for (int64_t j = n; j < width; j++) row[j] = GRAPH_NO_LINK;
    return n;
}

/* Add the edge owner -> node; a row that overflows is selected anew. */
static void ISA(connect)(const graph_net *g, uint32_t *row, int64_t width, uint32_t owner, uint32_t node, graph_scratch *s)
{
    float out[GRAPH_MAX_DEGREE];
    int64_t n = ISA(width)(row, width), size = 0;
    if (n < width) {
        row[n] = node;
        return;
    }
    const float *p = g->points + (int64_t)owner * g->d;
    for (int64_t j = 0; j < n; j++) ISA(fetch)(g, row[j]);
    ISA(many)(g, p, g->scale[owner], row, n, out);
    for (int64_t j = 0; j < n; j++, size++) graph_add(s->found, size, width + 1, graph_pack(out[j], row[j]));
    ISA(many)(g, p, g->scale[owner], &node, 1, out);
    graph_add(s->found, size++, width + 1, graph_pack(out[0], node));
    s->distances += size;
    ISA(select)(g, s->found, size, width, width, row, s);
}

static void ISA(insert)(graph_net *g, const uint8_t *levels, int64_t *state, int64_t start, int64_t stop, int64_t ef, graph_scratch *s)
{
    for (int64_t node = start; node < stop; node++) {
        int64_t level = levels[node];
        if (state[0] < 0) {
            state[0] = node;
            state[1] = level;
            continue;
        }
        const float *q = g->points + node * g->d;
        float sq = g->scale[node];
        uint32_t entry = ISA(descend)(g, q, sq, (uint32_t)state[0], state[1], level, s);
        for (int64_t here = level < state[1] ? level : state[1]; here >= 0; here--) {
            int64_t width = here == 0 ? g->degree : g->m;
            int64_t size = ISA(beam)(g, q, sq, entry, here, ef, 0, 0, 0, s);
            entry = graph_node(s->pool[0]);
            uint32_t *row = ISA(row_of)(g, node, here);
            int64_t kept = ISA(select)(g, s->pool, size, g->m, width, row, s);
            for (int64_t j = 0; j < kept; j++) ISA(connect)(g, ISA(row_of)(g, row[j], here), width, row[j], (uint32_t)node, s);
        }
        if (level > state[1]) {
            state[0] = node;
            state[1] = level;
        }
    }
}

/* One query: ids and distances of the k nearest found, at most; how many. ``cap`` is the room of the pool. */
static int64_t ISA(search)(const graph_net *g, const float *q, const int64_t *state, int64_t k, int64_t ef, int64_t cap,
                           const uint8_t *mask, graph_scratch *s, int64_t *ids, float *far)
{
    float sq = 0;
    if (g->metric == 2) {
        const float *row[4] = {q, q, q, q};
        float out[4];
        ISA(dot4)(q, row, g->d, out);
        sq = out[0] > 0 ? 1.0f / sqrtf(out[0]) : 0.0f;
    }
    int64_t hits = 0;
    uint32_t entry = ISA(descend)(g, q, sq, (uint32_t)state[0], state[1], 0, s);
    int64_t size = ISA(beam)(g, q, sq, entry, 0, cap, mask, ef, &hits, s);
    const graph_entry *from = mask ? s->found : s->pool;
    int64_t n = mask ? hits : size;
    if (n > k) n = k;
    for (int64_t j = 0; j < n; j++) {
        ids[j] = graph_node(from[j]);
        far[j] = graph_far(from[j]);
    }
    return n;
}
