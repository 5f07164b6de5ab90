/* The best rows of a query for one instruction set; ISA(name) comes from _sparse.h.

   What a row can have at most is added up in 16 bits: of each list 255ths of its largest weight, rounded up, times the query's factor. The
   rows with the largest bounds are then scored from their own terms, and every row whose bound reaches the k-th score. */

typedef uint16_t ISA(vec) __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef uint8_t ISA(bytes) __attribute__((vector_size(2 * LANES), aligned(1), may_alias));
#define VEC ISA(vec)
#define WIDE (2 * LANES)

static inline VEC ISA(most)(VEC a, VEC b)
{
#if LANES == 16
    return (VEC)_mm512_max_epu16((__m512i)a, (__m512i)b);
#else
    VEC larger = (VEC)(a > b);
    return (a & larger) | (b & ~larger);
#endif
}

/* impact * by / 256, rounded down, of one list */
static inline VEC ISA(part)(const uint8_t *dense, VEC high, VEC low)
{
#if LANES == 16
    (void)low;
    return (VEC)_mm512_mulhi_epu16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)dense)), 8), (__m512i)high);
#elif LANES == 8
    (void)low;
    return (VEC)_mm256_mulhi_epu16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)dense)), 8), (__m256i)high);
#else
    VEC impact = __builtin_convertvector(*(const ISA(bytes) *)dense, VEC);
    return impact * high + (impact * low >> 8);
#endif
}

/* The bounds of a block, lists of every row added, and the largest of each stripe. */
static inline void ISA(block)(const sparse_scratch *s, int64_t wide, int64_t b, const uint8_t *allowed, uint16_t *sums, uint16_t *top)
{
    VEC sum[SPARSE_BLOCK / WIDE], none = {0};
    for (int v = 0; v < SPARSE_BLOCK / WIDE; v++) sum[v] = *(const VEC *)(sums + v * WIDE);
    for (int64_t i = 0; i < wide; i++) {
        const uint8_t *dense = s->wide[i] + b;
#if LANES == 4
        VEC high = none + (uint16_t)(s->wide_by[i] >> 8), low = none + (uint16_t)(s->wide_by[i] & 255);
#else
        VEC high = none + (uint16_t)s->wide_by[i], low = none;
#endif
        for (int v = 0; v < SPARSE_BLOCK / WIDE; v++) sum[v] += ISA(part)(dense + v * WIDE, high, low);
    }
    if (allowed)
        for (int v = 0; v < SPARSE_BLOCK / WIDE; v++)
            sum[v] &= (VEC)(__builtin_convertvector(*(const ISA(bytes) *)(allowed + v * WIDE), VEC) != 0);
    for (int v = 0; v < SPARSE_BLOCK / WIDE; v++) *(VEC *)(sums + v * WIDE) = sum[v];
    for (int v = SPARSE_STRIPES / WIDE; v < SPARSE_BLOCK / WIDE; v++)
        sum[v % (SPARSE_STRIPES / WIDE)] = ISA(most)(sum[v % (SPARSE_STRIPES / WIDE)], sum[v]);
    for (int v = 0; v < SPARSE_STRIPES / WIDE; v++) *(VEC *)(top + v * WIDE) = sum[v];
}

/* Bounds of the rows of a chunk, and the largest of each stripe of a block; the largest of all. */
static uint16_t ISA(bounds)(const sparse_net *g, int64_t chunk, int64_t count, const uint8_t *mask, sparse_scratch *s)
{
    int64_t wide = 0, width = sparse_width(g, chunk), n = g->n - chunk * SPARSE_CHUNK;
    n = n < width ? n : width;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *dense = sparse_wide(g, chunk, s->terms[i]);
        if (dense) {
            s->wide[wide] = dense, s->wide_by[wide++] = s->by[i];
            continue;
        }
        const int64_t *span = g->starts + chunk * g->lists + s->terms[i];
        uint32_t by = s->by[i];
        for (int64_t p = span[0]; p < span[1]; p++) s->sums[g->rows[p]] += (uint16_t)(g->impacts[p] * by >> 8);
    }
    for (int64_t b = 0; b < width; b += SPARSE_BLOCK) {
        uint8_t some[SPARSE_BLOCK] = {0};
        const uint8_t *allowed = mask ? mask + chunk * SPARSE_CHUNK + b : NULL;
        if (mask && n - b < SPARSE_BLOCK) allowed = memcpy(some, allowed, (size_t)(n - b));
        ISA(block)(s, wide, b, allowed, s->sums + b, s->tops + b / SPARSE_BLOCK * SPARSE_STRIPES);
    }
    uint16_t largest = 0;
    for (int64_t i = 0; i < width / SPARSE_BLOCK * SPARSE_STRIPES; i++) largest = s->tops[i] > largest ? s->tops[i] : largest;
    return largest;
}

/* The largest limit, not below ``low``, that at least ``wanted`` stripes reach, to a 128th; ``low`` where fewer do. */
static uint16_t ISA(limit)(const uint16_t *tops, int64_t count, int64_t wanted, uint16_t low, uint16_t high)
{
    for (int step = 0; step < 9 && low < high; step++) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);
        /* a lane counts no more than the blocks of a chunk */
        VEC here = {0}, least = here + middle;
        for (int64_t b = 0; b < count; b += WIDE) here -= (VEC)(*(const VEC *)(tops + b) >= least);
        int64_t reach = 0;
        for (int j = 0; j < WIDE; j++) reach += here[j];
        if (reach >= wanted) low = middle; else high = middle - 1;
        if (reach >= wanted && reach <= wanted + wanted / 2) break;
    }
    return low;
}

/* Whether any stripe of a block reaches a limit. */
static inline int ISA(reaches)(const uint16_t *top, uint16_t low)
{
#if LANES == 16
    return _mm512_cmpge_epu16_mask(_mm512_loadu_si512(top), _mm512_set1_epi16((short)low)) != 0;
#else
    int any = 0;
    for (int64_t j = 0; j < SPARSE_STRIPES; j++) any |= top[j] >= low;
    return any;
#endif
}

/* The rows of a chunk whose bound is from ``low`` to below ``high``; how many. */
static int64_t ISA(within)(int64_t blocks, uint32_t low, uint32_t high, sparse_scratch *s)
{
    int64_t count = 0;
    for (int64_t b = 0; b < blocks; b++) {
        const uint16_t *top = s->tops + b * SPARSE_STRIPES;
        if (!ISA(reaches)(top, (uint16_t)low)) continue;
        for (int64_t j = 0; j < SPARSE_STRIPES; j++)
            if (top[j] >= low)
                for (int64_t row = b * SPARSE_BLOCK + j; row < (b + 1) * SPARSE_BLOCK; row += SPARSE_STRIPES) {
                    s->found[count] = (uint32_t)row;
                    count += s->sums[row] >= low && s->sums[row] < high;
                }
    }
    return count;
}

/* Of the rows found those that there are and that are allowed: a bound of nothing does not say so. */
static int64_t ISA(real)(const sparse_net *g, int64_t base, int64_t count, const uint8_t *mask, sparse_scratch *s)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        s->found[kept] = s->found[i];
        kept += base + s->found[i] < g->n && (!mask || mask[base + s->found[i]]);
    }
    return kept;
}

/* The score of a row: factor * weight over its terms, or factor * gain * (w + shift norm) / (w + (shift + 1) norm) + extra. */
static float ISA(score)(const sparse_net *g, int64_t row, const sparse_scratch *s)
{
    double sum = 0;
    double norm = g->norms ? g->norms[row] : 0, more = g->shift * norm;
    for (int64_t p = g->row_starts[row]; p < g->row_starts[row + 1]; p++) {
        uint32_t at = sparse_place(g->terms[p]) & s->slot_mask;
        for (; s->slots[at].factor != 0; at = (at + 1) & s->slot_mask)
            if (s->slots[at].term == g->terms[p]) {
                double w = g->weights[p];
                sum += s->slots[at].factor * (g->norms ? g->gain * (w + more) / (w + more + norm) + g->extra : w);
                break;
            }
    }
    return (float)sum;
}

/* Ask memory for a row, or for its first 8 KiB. */
static inline void ISA(fetch)(const sparse_net *g, int64_t row)
{
    int64_t p = g->row_starts[row], end = g->row_starts[row + 1];
    for (end = end < p + 1024 ? end : p + 1024; p < end; p += 16) __builtin_prefetch(g->terms + p), __builtin_prefetch(g->weights + p);
}

static int64_t ISA(scored)(const sparse_net *g, int64_t base, int64_t count, int64_t k, sparse_scratch *s, float *best, int64_t *ids, int64_t size)
{
    for (int64_t i = 0; i < count; i++) {
        if (i + 3 < count) ISA(fetch)(g, base + s->found[i + 3]);
        float score = ISA(score)(g, base + s->found[i], s);
        if (score != 0) size = sparse_put(best, ids, size, k, score, base + s->found[i]);
    }
    return size;
}

/* The terms by falling bound, their factors where `score` finds them; the scale of bounds, 0 where no list has any. */
static double ISA(prepare)(const sparse_net *g, const uint32_t *terms, const float *factors, int64_t m, int64_t used, sparse_scratch *s)
{
    double total = 0;
    memset(s->slots, 0, (s->slot_mask + 1) * sizeof *s->slots);
    for (int64_t i = 0; i < m; i++) {
        float bound = fabsf(factors[i]) * g->most[terms[i]] * g->stretch;
        int64_t at = i;
        for (; at > 0 && s->bounds[at - 1] < bound; at--)
            s->bounds[at] = s->bounds[at - 1], s->terms[at] = s->terms[at - 1];
        s->bounds[at] = bound, s->terms[at] = terms[i];
        uint32_t slot = sparse_place(terms[i]) & s->slot_mask;
        while (s->slots[slot].factor != 0) slot = (slot + 1) & s->slot_mask;
        s->slots[slot].term = terms[i], s->slots[slot].factor = factors[i];
    }
    for (int64_t i = 0; i < used; i++) total += s->bounds[i];
    if (!(total > 0) || !isfinite(total)) return 0;
    double scale = (65535.0 - 258 * used) / total;
    for (int64_t i = 0; i < used; i++) {
        double by = ceil(s->bounds[i] * scale * (256 * 1.000001 / 255));
        /* no posting may round to nothing */
        s->by[i] = (uint32_t)(by < 256 ? 256 : by > 65535 ? 65535 : by);
    }
    return scale;
}

/* The k best; how many. ``cut`` lists and ``depth`` rows at most are looked at, unless ``depth`` is 0. */
static int64_t ISA(search)(const sparse_net *g, const uint32_t *terms, const float *factors, int64_t m, int64_t k, int64_t cut, int64_t depth,
                           const uint8_t *mask, sparse_scratch *s, int64_t *ids, float *best)
{
    int64_t used = m < SPARSE_TERMS ? m : SPARSE_TERMS, size = 0, pooled = 0;
    if (depth && cut < used) used = cut;
    double scale = ISA(prepare)(g, terms, factors, m, used, s), rest = 0;
    if (scale == 0) return 0;
    for (int64_t i = used; i < m; i++) rest += s->bounds[i];
    for (int64_t chunk = 0; chunk * SPARSE_CHUNK < g->n; chunk++) {
        int64_t base = chunk * SPARSE_CHUNK, blocks = sparse_width(g, chunk) / SPARSE_BLOCK, stripes = blocks * SPARSE_STRIPES;
        uint16_t largest = ISA(bounds)(g, chunk, used, mask, s);
        if (depth) {
            uint16_t least = pooled == depth ? (uint16_t)(s->pool[depth - 1] >> 32) : 1;
            if (largest >= least) {
                int64_t count = ISA(within)(blocks, ISA(limit)(s->tops, stripes, depth, least, largest), 65536, s);
                for (int64_t i = 0; i < count; i++) {
                    /* larger first, then lower rows */
                    uint64_t entry = (uint64_t)s->sums[s->found[i]] << 32 | (0xFFFFFFFFu - (uint32_t)(base + s->found[i]));
                    if (pooled == depth && entry <= s->pool[depth - 1]) continue;
                    int64_t low = 0, high = pooled;
                    while (low < high) {
                        int64_t middle = (low + high) >> 1;
                        if (s->pool[middle] > entry) low = middle + 1; else high = middle;
                    }
                    pooled += pooled < depth;
                    memmove(s->pool + low + 1, s->pool + low, (size_t)(pooled - 1 - low) * sizeof *s->pool);
                    s->pool[low] = entry;
                }
            }
        } else {
            for (uint32_t high = 65536; high > 0;) {
                /* bounds are rounded down by less than one a list */
                double least = size == k && best[k - 1] > 0 ? (best[k - 1] * 0.999999 - rest) * scale - used - 1 : 0;
                uint32_t low = least > 1 ? (uint32_t)least : rest > 0 ? 0 : 1;
                if (high == 65536) low = largest > low ? ISA(limit)(s->tops, stripes, k, (uint16_t)low, largest) : low;
                else if (low >= high) break;
                int64_t count = ISA(within)(blocks, low, high, s);
                size = ISA(scored)(g, base, low ? count : ISA(real)(g, base, count, mask, s), k, s, best, ids, size);
                high = high == 65536 ? low : 0;
            }
        }
        memset(s->sums, 0, (size_t)blocks * SPARSE_BLOCK * sizeof *s->sums);
    }
    for (int64_t i = 0; i < pooled; i++) {
        int64_t row = 0xFFFFFFFFu - (uint32_t)s->pool[i];
        if (i + 3 < pooled) ISA(fetch)(g, 0xFFFFFFFFu - (uint32_t)s->pool[i + 3]);
        float score = ISA(score)(g, row, s);
        if (score != 0) size = sparse_put(best, ids, size, k, score, row);
    }
    return size;
}
#undef WIDE
