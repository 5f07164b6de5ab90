/* Distances and graph walks, compiled once per instruction set: ISA(name) gives each its own names.

   Sums run in W independent lanes that the compiler keeps in registers; the lanes are added at the
   end in a fixed order, so a result depends on the instruction set but on nothing else. */

static inline float ISA(add_lanes)(const float *lane)
{
    float sum = 0;
    for (int i = 0; i < W; i++) sum += lane[i];
    return sum;
}

static float ISA(dot)(const float *a, const float *b, long d)
{
    float lane[W] = {0};
    long i = 0;
    for (; i + W <= d; i += W)
        for (int j = 0; j < W; j++) lane[j] += a[i + j] * b[i + j];
    float rest = 0;
    for (; i < d; i++) rest += a[i] * b[i];
    return ISA(add_lanes)(lane) + rest;
}

static float ISA(square)(const float *a, const float *b, long d)
{
    float lane[W] = {0};
    long i = 0;
    for (; i + W <= d; i += W)
        for (int j = 0; j < W; j++) { float x = a[i + j] - b[i + j]; lane[j] += x * x; }
    float rest = 0;
    for (; i < d; i++) { float x = a[i] - b[i]; rest += x * x; }
    return ISA(add_lanes)(lane) + rest;
}

static float ISA(absolute)(const float *a, const float *b, long d)
{
    float lane[W] = {0};
    long i = 0;
    for (; i + W <= d; i += W)
        for (int j = 0; j < W; j++) lane[j] += __builtin_fabsf(a[i + j] - b[i + j]);
    float rest = 0;
    for (; i < d; i++) rest += __builtin_fabsf(a[i] - b[i]);
    return ISA(add_lanes)(lane) + rest;
}

static float ISA(unequal)(const float *a, const float *b, long d)
{
    long count = 0;
    for (long i = 0; i < d; i++) count += a[i] != b[i];
    return (float)count;
}

/* the distance with the inverse norms known (cosine only) */
static inline float ISA(dist)(const float *a, float sa, const float *b, float sb, long d, int metric)
{
    switch (metric) {
    case 0: return ISA(square)(a, b, d);
    case 1: return -ISA(dot)(a, b, d);
    case 2: return 1.0f - ISA(dot)(a, b, d) * sa * sb;
    case 3: return ISA(absolute)(a, b, d);
    default: return ISA(unequal)(a, b, d);
    }
}

static float ISA(inverse_norm)(const float *a, long d)
{
    float s = ISA(dot)(a, a, d);
    return s > 0 ? 1.0f / __builtin_sqrtf(s) : (s == 0 ? 0.0f : s);
}

static void ISA(one_to_many)(const float *q, const float *points, const long *ids, long n, long d, int metric, float *out)
{
    float sq = metric == 2 ? ISA(inverse_norm)(q, d) : 0;
    for (long i = 0; i < n; i++) {
        const float *p = points + (ids ? ids[i] : i) * d;
        if (ids && i + 2 < n) __builtin_prefetch(points + ids[i + 2] * d);
        float sp = metric == 2 ? ISA(inverse_norm)(p, d) : 0;
        out[i] = ISA(dist)(q, sq, p, sp, d, metric);
    }
}

/* the k nearest of n points, kept in a sorted list; a block of distances is compared with the worst first */
static void ISA(nearest)(const float *q, const float *points, long n, long d, int metric, const unsigned char *mask,
                         long k, long *ids, float *best)
{
    long size = 0;
    float sq = metric == 2 ? ISA(inverse_norm)(q, d) : 0;
    for (long i = 0; i < n; i++) {
        if (mask && !mask[i]) continue;
        const float *p = points + i * d;
        float sp = metric == 2 ? ISA(inverse_norm)(p, d) : 0;
        float x = ISA(dist)(q, sq, p, sp, d, metric);
        if (x != x || (size == k && !(x < best[k - 1]))) continue;
        long at = size < k ? size++ : k - 1;
        for (; at > 0 && best[at - 1] > x; at--) { best[at] = best[at - 1]; ids[at] = ids[at - 1]; }
        best[at] = x;
        ids[at] = i;
    }
}

/* ---- graph: the same walk as graph.py ---- */

static inline long ISA(pool_add)(entry_t *pool, long size, long cap, float d, unsigned node)
{
    if (size == cap && (d > pool[size - 1].d || (d == pool[size - 1].d && node > pool[size - 1].node))) return -1;
    long low = 0, high = size;
    while (low < high) {
        long mid = (low + high) / 2;
        if (pool[mid].d < d || (pool[mid].d == d && pool[mid].node < node)) low = mid + 1; else high = mid;
    }
    long last = size < cap ? size : cap - 1;
    memmove(pool + low + 1, pool + low, (size_t)(last - low) * sizeof(entry_t));
    pool[low].d = d;
    pool[low].node = node;
    pool[low].done = 0;
    return low;
}

static float ISA(to_node)(const graph_t *g, const float *q, float sq, unsigned node)
{
    return ISA(dist)(q, sq, g->points + (long)node * g->d, g->scale[node], g->d, g->metric);
}

static inline unsigned *ISA(row_of)(const graph_t *g, unsigned node, long level)
{
    return level == 0 ? g->links + (long)node * g->degree : g->upper + (g->upper_at[node] + level - 1) * g->m;
}

static unsigned ISA(descend)(const graph_t *g, const float *q, float sq, unsigned node, long top, long bottom)
{
    float best = ISA(to_node)(g, q, sq, node);
    for (long level = top; level > bottom; level--) {
        int moved = 1;
        while (moved) {
            moved = 0;
            const unsigned *row = ISA(row_of)(g, node, level);
            for (long j = 0; j < g->m && row[j] != NO_LINK; j++) {
                float d = ISA(to_node)(g, q, sq, row[j]);
                if (d < best || (d == best && row[j] < node)) { best = d; node = row[j]; moved = 1; }
            }
        }
    }
    return node;
}

static long ISA(beam)(const graph_t *g, const float *q, float sq, unsigned entry, long level, long ef, unsigned *seen,
                      unsigned epoch, entry_t *pool, const unsigned char *mask, entry_t *found, long k, long *found_n)
{
    unsigned fresh[256];
    long size = 0, at = 0, hits = 0;
    long degree = level == 0 ? g->degree : g->m;
    float d = ISA(to_node)(g, q, sq, entry);
    seen[entry] = epoch;
    ISA(pool_add)(pool, size++, ef, d, entry);
    if (k > 0 && (!mask || mask[entry])) ISA(pool_add)(found, hits++, k, d, entry);
    while (at < size) {
        if (pool[at].done) { at++; continue; }
        pool[at].done = 1;
        const unsigned *row = ISA(row_of)(g, pool[at].node, level);
        long n = 0, lowest = size;
        /* collect, then prefetch, then compute: the misses of one row overlap */
        for (long j = 0; j < degree && row[j] != NO_LINK; j++) {
            unsigned node = row[j];
            if (seen[node] == epoch) continue;
            seen[node] = epoch;
            const char *p = (const char *)(g->points + (long)node * g->d);
            for (long b = 0; b < g->d * 4 && b < 512; b += 64) __builtin_prefetch(p + b);
            fresh[n++] = node;
        }
        for (long j = 0; j < n; j++) {
            float x = ISA(to_node)(g, q, sq, fresh[j]);
            long place = ISA(pool_add)(pool, size, ef, x, fresh[j]);
            if (place >= 0) {
                if (size < ef) size++;
                if (place < lowest) lowest = place;
            }
            if (k > 0 && (!mask || mask[fresh[j]]) && ISA(pool_add)(found, hits, k, x, fresh[j]) >= 0 && hits < k) hits++;
        }
        at = lowest <= at ? lowest : at + 1;
    }
    if (found_n) *found_n = hits;
    return size;
}

static long ISA(select)(const graph_t *g, const entry_t *cand, long count, long limit, long width, unsigned *row)
{
    long kept = 0;
    for (long c = 0; c < count && kept < limit; c++) {
        int good = 1;
        const float *p = g->points + (long)cand[c].node * g->d;
        for (long j = 0; j < kept && good; j++) good = !(ISA(to_node)(g, p, g->scale[cand[c].node], row[j]) < cand[c].d);
        if (good) row[kept++] = cand[c].node;
    }
    for (long j = kept; j < width; j++) row[j] = NO_LINK;
    return kept;
}

static void ISA(connect)(const graph_t *g, unsigned *row, long width, unsigned owner, unsigned node, entry_t *cand)
{
    for (long j = 0; j < width; j++)
        if (row[j] == NO_LINK) { row[j] = node; return; }
    const float *p = g->points + (long)owner * g->d;
    for (long j = 0; j < width; j++) ISA(pool_add)(cand, j, width + 1, ISA(to_node)(g, p, g->scale[owner], row[j]), row[j]);
    ISA(pool_add)(cand, width, width + 1, ISA(to_node)(g, p, g->scale[owner], node), node);
    ISA(select)(g, cand, width + 1, width, width, row);
}

static void ISA(insert)(graph_t *g, const unsigned char *levels, long *state, long start, long stop, long ef,
                        unsigned *seen, entry_t *pool, entry_t *cand)
{
    unsigned epoch = 0;
    for (long node = start; node < stop; node++) {
        long level = levels[node];
        if (state[0] < 0) { state[0] = node; state[1] = level; continue; }
        const float *q = g->points + node * g->d;
        float sq = g->scale[node];
        unsigned entry = ISA(descend)(g, q, sq, (unsigned)state[0], state[1], level);
        for (long here = level < state[1] ? level : state[1]; here >= 0; here--) {
            long width = here == 0 ? g->degree : g->m;
            long size = ISA(beam)(g, q, sq, entry, here, ef, seen, ++epoch, pool, 0, 0, 0, 0);
            entry = pool[0].node;
            unsigned *row = ISA(row_of)(g, (unsigned)node, here);
            long kept = ISA(select)(g, pool, size, g->m, width, row);
            for (long j = 0; j < kept; j++) ISA(connect)(g, ISA(row_of)(g, row[j], here), width, row[j], (unsigned)node, cand);
        }
        if (level > state[1]) { state[0] = node; state[1] = level; }
    }
}

static long ISA(search)(graph_t *g, const float *q, const long *state, long k, long ef, const unsigned char *mask,
                        unsigned *seen, unsigned epoch, entry_t *pool, entry_t *found)
{
    long hits = 0;
    float sq = g->metric == 2 ? ISA(inverse_norm)(q, g->d) : 0;
    unsigned entry = ISA(descend)(g, q, sq, (unsigned)state[0], state[1], 0);
    ISA(beam)(g, q, sq, entry, 0, ef, seen, epoch, pool, mask, found, k, &hits);
    return hits;
}
