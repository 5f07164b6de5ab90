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

/* How many of ``count`` sums reach a limit; of blocks of a chunk or of as many rows as a search of few touches a lane has no more than its 16 bits hold. */
static inline int64_t ISA(reach)(const uint16_t *sums, int64_t count, uint16_t limit)
{
    VEC here = {0}, least = here + limit;
    int64_t reach = 0;
    for (int64_t b = 0; b < count; b += WIDE) here -= (VEC)(*(const VEC *)(sums + b) >= least);
    for (int j = 0; j < WIDE; j++) reach += here[j];
    return reach;
}

/* The largest limit, not below ``low``, that at least ``wanted`` stripes reach, to a 128th; ``low`` where fewer do. */
static uint16_t ISA(limit)(const uint16_t *tops, int64_t count, int64_t wanted, uint16_t low, uint16_t high)
{
    for (int step = 0; step < 9 && low < high; step++) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);
        int64_t reach = ISA(reach)(tops, count, middle);
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

/* Which of the terms from p on, as many as there are lanes, may be the query's: their slots are taken. Only those before ``end`` count. */
static inline uint32_t ISA(asked)(const sparse_net *g, int64_t p, int64_t end, const sparse_scratch *s)
{
#if LANES == 16
    __mmask16 there = end - p < 16 ? (__mmask16)((1u << (end - p)) - 1) : 0xFFFF;
    __m512i at = _mm512_srli_epi32(_mm512_mullo_epi32(_mm512_maskz_loadu_epi32(there, g->terms + p), _mm512_set1_epi32((int)0x9E3779B1u)), 8);
    at = _mm512_and_si512(at, _mm512_set1_epi32((int)s->slot_mask));
    __m512i words = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, _mm512_srli_epi32(at, 5), s->taken, 4);
    return _mm512_mask_test_epi32_mask(there, _mm512_srlv_epi32(words, _mm512_and_si512(at, _mm512_set1_epi32(31))), _mm512_set1_epi32(1));
#else
    uint32_t found = 0;
    for (int64_t j = 0; j < LANES && p + j < end; j++) {
        uint32_t at = sparse_place(g->terms[p + j]) & s->slot_mask;
        found |= (s->taken[at >> 5] >> (at & 31) & 1) << j;
    }
    return found;
#endif
}

/* The score of a row: factor * weight over its terms, or factor * gain * (w + shift norm) / (w + (shift + 1) norm) + extra. */
static float ISA(score)(const sparse_net *g, int64_t row, const sparse_scratch *s)
{
    double sum = 0;
    double norm = g->norms ? g->norms[row] : 0, more = g->shift * norm;
    for (int64_t begin = g->row_starts[row], end = g->row_starts[row + 1]; begin < end; begin += LANES)
        for (uint32_t found = ISA(asked)(g, begin, end, s); found; found &= found - 1) {
            int64_t p = begin + __builtin_ctz(found);
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

static int64_t ISA(scored)(const sparse_net *g, int64_t base, const uint32_t *rows, int64_t count, int64_t k, const sparse_scratch *s, float *best, int64_t *ids,
                           int64_t size)
{
    for (int64_t i = 0; i < count; i++) {
        if (i + 3 < count) ISA(fetch)(g, base + rows[i + 3]);
        float score = ISA(score)(g, base + rows[i], s);
        if (score != 0) size = sparse_put(best, ids, size, k, score, base + rows[i]);
    }
    return size;
}

/* The terms by falling bound, their factors where `score` finds them; the scale of bounds, 0 where no list has any. */
static double ISA(prepare)(const sparse_net *g, const uint32_t *terms, const float *factors, int64_t m, int64_t used, sparse_scratch *s)
{
    double total = 0;
    memset(s->slots, 0, (s->slot_mask + 1) * sizeof *s->slots);
    memset(s->taken, 0, (s->slot_mask + 1) / 8);
    for (int64_t i = 0; i < m; i++) {
        float bound = fabsf(factors[i]) * g->most[terms[i]] * g->stretch;
        int64_t at = i;
        for (; at > 0 && s->bounds[at - 1] < bound; at--)
            s->bounds[at] = s->bounds[at - 1], s->terms[at] = s->terms[at - 1];
        s->bounds[at] = bound, s->terms[at] = terms[i];
        uint32_t slot = sparse_place(terms[i]) & s->slot_mask;
        while (s->slots[slot].factor != 0) slot = (slot + 1) & s->slot_mask;
        s->slots[slot].term = terms[i], s->slots[slot].factor = factors[i];
        s->taken[slot >> 5] |= 1u << (slot & 31);
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

/* The k best; how many. */
static int64_t ISA(search)(const sparse_net *g, const uint32_t *terms, const float *factors, int64_t m, int64_t k, const uint8_t *mask, sparse_scratch *s,
                           int64_t *ids, float *best)
{
    int64_t used = m < SPARSE_TERMS ? m : SPARSE_TERMS, size = 0;
    double scale = ISA(prepare)(g, terms, factors, m, used, s), rest = 0;
    if (scale == 0) return 0;
    for (int64_t i = used; i < m; i++) rest += s->bounds[i];
    for (int64_t chunk = 0; chunk * SPARSE_CHUNK < g->n; chunk++) {
        int64_t base = chunk * SPARSE_CHUNK, blocks = sparse_width(g, chunk) / SPARSE_BLOCK, stripes = blocks * SPARSE_STRIPES;
        uint16_t largest = ISA(bounds)(g, chunk, used, mask, s);
        for (uint32_t high = 65536; high > 0;) {
            /* bounds are rounded down by less than one a list */
            double least = size == k && best[k - 1] > 0 ? (best[k - 1] * 0.999999 - rest) * scale - used - 1 : 0;
            uint32_t low = least > 1 ? (uint32_t)least : rest > 0 ? 0 : 1;
            if (high == 65536) low = largest > low ? ISA(limit)(s->tops, stripes, k, (uint16_t)low, largest) : low;
            else if (low >= high) break;
            int64_t count = ISA(within)(blocks, low, high, s);
            size = ISA(scored)(g, base, s->found, low ? count : ISA(real)(g, base, count, mask, s), k, s, best, ids, size);
            high = high == 65536 ? low : 0;
        }
        memset(s->sums, 0, (size_t)blocks * SPARSE_BLOCK * sizeof *s->sums);
    }
    return size;
}

/* Add up the heaviest ``budget`` postings of a query: of each list the parts that add most, a quarter of an octave at a time, the last as far as it goes, in order of
   the terms. The rows touched go to few_rows in order of arrival; how many. */
static int64_t ISA(heaviest)(const sparse_net *g, int64_t used, int64_t budget, sparse_scratch *s)
{
    int64_t sizes[128] = {0}, left = budget, count = 0;
    const uint32_t lowest = sparse_grade(1, 21);
    uint8_t grades[SPARSE_TERMS][SPARSE_PARTS];
    for (int64_t i = 0; i < used; i++) __builtin_prefetch(g->begins + (SPARSE_PARTS + 1) * (int64_t)s->terms[i]);
    for (int64_t i = 0; i < used; i++) {
        const uint32_t *begins = g->begins + (SPARSE_PARTS + 1) * (int64_t)s->terms[i];
        if (begins[0] < begins[SPARSE_PARTS]) __builtin_prefetch(g->heavy + begins[0]), __builtin_prefetch(g->heavy_impacts + begins[0]);
        for (int j = 0; j < SPARSE_PARTS; j++) grades[i][j] = (uint8_t)(sparse_grade(sparse_lowest[j] * s->by[i], 21) - lowest);
        for (int j = 0; j < SPARSE_PARTS; j++) sizes[grades[i][j]] += begins[j + 1] - begins[j];
    }
    int edge = 127;
    while (edge >= 0 && sizes[edge] <= left) left -= sizes[edge--];
    for (int last = 0; last < 2; last++)
        for (int64_t i = 0; i < used; i++) {
            const uint32_t *begins = g->begins + (SPARSE_PARTS + 1) * (int64_t)s->terms[i];
            int from = 0, to = 0;
            while (to < SPARSE_PARTS && grades[i][to] > edge) to++;
            if (last) for (from = to; to < SPARSE_PARTS && grades[i][to] == edge;) to++;
            uint32_t begin = begins[from], end = begins[to], by = s->by[i];
            if (i + 1 < used && !last) {
                uint32_t next = g->begins[(SPARSE_PARTS + 1) * (int64_t)s->terms[i + 1]];
                for (uint32_t p = 0; p < 256; p += 16) __builtin_prefetch(g->heavy + next + p);
                for (uint32_t p = 0; p < 256; p += 64) __builtin_prefetch(g->heavy_impacts + next + p);
            }
            if (last) end = end - begin < left ? end : begin + (uint32_t)left, left -= end - begin;
            for (uint32_t p = begin; p < end; p++) {
                uint32_t row = g->heavy[p];
                uint16_t sum = s->few[row];
                s->few_rows[count] = row;
                count += sum == 0;
                s->few[row] = (uint16_t)(sum + (g->heavy_impacts[p] * by >> 8));
            }
        }
    return count;
}

/* The k best of the ``depth`` rows whose heaviest ``budget`` postings add up to most; how many. */
static int64_t ISA(near)(const sparse_net *g, const uint32_t *terms, const float *factors, int64_t m, int64_t k, int64_t budget, int64_t depth,
                         const uint8_t *mask, sparse_scratch *s, int64_t *ids, float *best)
{
    int64_t used = m < SPARSE_TERMS ? m : SPARSE_TERMS, above = 0, kept = 0;
    if (ISA(prepare)(g, terms, factors, m, used, s) == 0) return 0;
    int64_t count = ISA(heaviest)(g, used, budget, s), width = (count + SPARSE_STRIPES - 1) / SPARSE_STRIPES * SPARSE_STRIPES;
    uint32_t low = 1, high = 1;
    for (int64_t i = 0; i < count; i++) s->few_sums[i] = s->few[s->few_rows[i]], s->few[s->few_rows[i]] = 0;
    if (mask)
        for (int64_t i = 0; i < count; i++) s->few_sums[i] = mask[s->few_rows[i]] ? s->few_sums[i] : 0;
    for (int64_t i = 0; i < count; i++) high = s->few_sums[i] > high ? s->few_sums[i] : high;
    memset(s->few_sums + count, 0, (size_t)(width - count) * sizeof *s->few_sums);
    /* the sum of the row number ``depth``, and how many have more */
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        if (ISA(reach)(s->few_sums, width, (uint16_t)middle) >= depth) low = middle; else high = middle - 1;
    }
    if (low < 65535) above = ISA(reach)(s->few_sums, width, (uint16_t)(low + 1));
    int64_t equal = depth - above;
    for (int64_t b = 0; b < width; b += SPARSE_STRIPES) {
        if (!ISA(reaches)(s->few_sums + b, (uint16_t)low)) continue;
        for (int64_t i = b; i < b + SPARSE_STRIPES; i++)
            if (s->few_sums[i] > low || (s->few_sums[i] == low && equal-- > 0)) {
                s->few_rows[kept++] = s->few_rows[i];
                __builtin_prefetch(g->row_starts + s->few_rows[i]);
            }
    }
    return ISA(scored)(g, 0, s->few_rows, kept, k, s, best, ids, 0);
}
#undef WIDE
