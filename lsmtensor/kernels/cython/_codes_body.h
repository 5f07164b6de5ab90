/* Quantized rows for one instruction set; CODE_ISA, LANES and ISA(name) come from _codes.h. */

#include "_rows_body.h"

/* -- products of one query with four rows ---------------------------------------------------------------------------- */

#if CODE_ISA == CODE_ISA_VNNI

static inline void ISA(sums)(__m512i a, __m512i b, __m512i c, __m512i d, int32_t *out)
{
#define HALVES(v) _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1))
    __m256i h = _mm256_hadd_epi32(_mm256_hadd_epi32(HALVES(a), HALVES(b)), _mm256_hadd_epi32(HALVES(c), HALVES(d)));
#undef HALVES
    _mm_storeu_si128((__m128i *)out, _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

static inline void ISA(dot8)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i < stride; i += LINE) {
        __m512i u = _mm512_load_si512(q + i);
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row[0] + i), u);
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(row[1] + i), u);
        c = _mm512_dpbusd_epi32(c, _mm512_loadu_si512(row[2] + i), u);
        d = _mm512_dpbusd_epi32(d, _mm512_loadu_si512(row[3] + i), u);
    }
    ISA(sums)(a, b, c, d, out);
}

static inline void ISA(dot4bit)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i < stride; i += LINE) {
        __m512i u = _mm512_load_si512(q + 2 * i), v = _mm512_load_si512(q + 2 * i + LINE), x;
#define STEP(acc, r)                                                                                                   \
    x = _mm512_loadu_si512(row[r] + i);                                                                                \
    acc = _mm512_dpbusd_epi32(acc, _mm512_and_si512(x, low), u);                                                       \
    acc = _mm512_dpbusd_epi32(acc, _mm512_and_si512(_mm512_srli_epi16(x, 4), low), v);
        STEP(a, 0) STEP(b, 1) STEP(c, 2) STEP(d, 3)
#undef STEP
    }
    ISA(sums)(a, b, c, d, out);
}

static inline int32_t ISA(apart)(const uint8_t *q, const uint8_t *row, int64_t stride, int metric)
{
    __m512i sum = _mm512_setzero_si512();
    int64_t unequal = 0;
    for (int64_t i = 0; i < stride; i += LINE) {
        __m512i a = _mm512_loadu_si512(q + i), b = _mm512_loadu_si512(row + i);
        if (metric == 3)
            sum = _mm512_add_epi64(sum, _mm512_sad_epu8(a, b));
        else
            unequal += __builtin_popcountll(_mm512_cmpneq_epi8_mask(a, b));
    }
    return (int32_t)(metric == 3 ? _mm512_reduce_add_epi64(sum) : unequal);
}

#elif CODE_ISA == CODE_ISA_AVX2

static inline int32_t ISA(sum)(__m256i v)
{
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xB1)));
}

/* bytes are widened: pairs of 255 * 127 do not fit the 16 bits of a product of bytes */
static inline void ISA(dot8)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    __m256i acc[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t i = 0; i < stride; i += 16) {
        __m256i u = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(q + i)));
        for (int r = 0; r < 4; r++)
            acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(u, _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(row[r] + i)))));
    }
    for (int r = 0; r < 4; r++) out[r] = ISA(sum)(acc[r]);
}

/* 15 * 127 * 2 fits 16 bits, and eight of those too */
static inline void ISA(dot4bit)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    __m256i acc[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t i = 0; i < stride; i += LINE)
        for (int r = 0; r < 4; r++) {
            __m256i pairs = _mm256_setzero_si256();
            for (int64_t h = 0; h < LINE; h += 32) {
                __m256i x = _mm256_loadu_si256((const __m256i *)(row[r] + i + h));
                __m256i u = _mm256_load_si256((const __m256i *)(q + 2 * i + h)), v = _mm256_load_si256((const __m256i *)(q + 2 * i + LINE + h));
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(_mm256_and_si256(x, low), u));
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), low), v));
            }
            acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(pairs, one));
        }
    for (int r = 0; r < 4; r++) out[r] = ISA(sum)(acc[r]);
}

static inline int32_t ISA(apart)(const uint8_t *q, const uint8_t *row, int64_t stride, int metric)
{
    __m256i sum = _mm256_setzero_si256();
    int64_t unequal = 0;
    for (int64_t i = 0; i < stride; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(q + i)), b = _mm256_loadu_si256((const __m256i *)(row + i));
        if (metric == 3)
            sum = _mm256_add_epi64(sum, _mm256_sad_epu8(a, b));
        else
            unequal += 32 - __builtin_popcount((unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)));
    }
    return metric == 3 ? ISA(sum)(sum) : (int32_t)unequal;
}

#else

static inline void ISA(dot8)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    for (int r = 0; r < 4; r++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < stride; i++) sum += (int32_t)q[i] * row[r][i];
        out[r] = sum;
    }
}

static inline void ISA(dot4bit)(const int8_t *q, const uint8_t *const *row, int64_t stride, int32_t *out)
{
    for (int r = 0; r < 4; r++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < stride; i += LINE)
            for (int64_t j = 0; j < LINE; j++)
                sum += (int32_t)q[2 * i + j] * (row[r][i + j] & 15) + (int32_t)q[2 * i + LINE + j] * (row[r][i + j] >> 4);
        out[r] = sum;
    }
}

static inline int32_t ISA(apart)(const uint8_t *q, const uint8_t *row, int64_t stride, int metric)
{
    int32_t sum = 0;
    for (int64_t i = 0; i < stride; i++) sum += metric == 3 ? abs((int)q[i] - (int)row[i]) : q[i] != row[i];
    return sum;
}

#endif

/* -- entries ----------------------------------------------------------------------------------------------------------- */

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
    const uint8_t *row = g->codes + node * g->stride;
    q->bytes = (uint8_t *)row;
    if (g->metric >= 3) return;
    for (int64_t i = 0; i < g->stride; i++) q->values[i] = (int8_t)(row[i] ^ 0x80);
    q->square = g->sums[2 * node], q->sum = g->sums[2 * node + 1];
}

static inline void ISA(fetch)(const code_net *g, uint32_t node)
{
    const uint8_t *p = g->codes + (int64_t)node * g->stride;
    for (int64_t b = 0; b < g->stride; b += LINE) __builtin_prefetch(p + b);
}

/* Of n entries those below a bound, in their order. */
static inline int64_t ISA(nearer)(graph_entry *far, int64_t n, graph_entry bound)
{
    int64_t kept = 0;
#if CODE_ISA == CODE_ISA_VNNI
    for (int64_t i = 0; i < n; i += 8) {
        __mmask8 lanes = (__mmask8)(n - i >= 8 ? 255 : (1 << (n - i)) - 1);
        __m512i v = _mm512_maskz_loadu_epi64(lanes, far + i);
        lanes = _mm512_mask_cmplt_epu64_mask(lanes, v, _mm512_set1_epi64((long long)bound));
        _mm512_storeu_si512(far + kept, _mm512_maskz_compress_epi64(lanes, v));
        kept += __builtin_popcount(lanes);
    }
#else
    for (int64_t i = 0; i < n; i++) {
        far[kept] = far[i];
        kept += far[i] < bound;
    }
#endif
    return kept;
}

/* graph_add for a pool that short vectors run through faster than a binary search guesses its branches. */
static inline int64_t ISA(put)(graph_entry *pool, int64_t size, int64_t cap, graph_entry e)
{
#if CODE_ISA == CODE_ISA_VNNI
    if (size <= 160) {
        __m512i v = _mm512_set1_epi64((long long)e);
        int64_t place = 0, i;
        for (i = 0; i + 8 <= size; i += 8) place += __builtin_popcount(_mm512_cmplt_epu64_mask(_mm512_loadu_si512(pool + i), v));
        place += __builtin_popcount(_mm512_mask_cmplt_epu64_mask((__mmask8)((1 << (size - i)) - 1), _mm512_loadu_si512(pool + i), v));
        if (size == cap) {
            if (place == size) return -1;
            size--;
        }
        int64_t j = size;
        for (; j - 8 >= place; j -= 8) _mm512_storeu_si512(pool + j - 7, _mm512_loadu_si512(pool + j - 8));
        for (; j > place; j--) pool[j] = pool[j - 1];
        pool[place] = e;
        return place;
    }
#endif
    return graph_add(pool, size, cap, e);
}

/* -- the walk ------------------------------------------------------------------------------------------------------------ */

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

/* Rows around the places of a query's keys. How many. */
static int64_t ISA(forest)(const code_net *g, const code_query *q, uint32_t *start)
{
    uint32_t asked[CODE_STARTS];
    int64_t place[CODE_STARTS], many = 0, count = 0;
    for (int64_t t = 0; t < g->tables; t++) {
        float side[32];
        uint32_t own = 0, used = 0;
        int32_t dot[32];
        for (int64_t b = 0; b < 32; b += 4) {
            const uint8_t *plane = g->planes + (t * 32 + b) * g->plane;
            const uint8_t *row[4] = {plane, plane + g->plane, plane + 2 * g->plane, plane + 3 * g->plane};
            ISA(dot8)(q->values, row, g->plane, dot + b);
        }
        for (int64_t b = 0; b < 32; b++) {
            side[b] = (float)(dot[b] - 128 * q->sum) * q->unit + g->offsets[t * 32 + b];
            own |= (uint32_t)(side[b] > 0) << (31 - b);
            side[b] = fabsf(side[b]);
        }
        asked[many++] = own;
        for (int64_t p = 1; p < g->probes; p++) {
            int64_t least = -1;
            for (int64_t b = 0; b < g->prefix; b++)
                if (!(used >> b & 1) && (least < 0 || side[b] < side[least])) least = b;
            if (least < 0) least = 0, asked[many++] = own; /* fewer bits than probes: the same again */
            else used |= 1u << least, asked[many++] = own ^ 1u << (31 - least);
        }
    }
    int64_t jumps = (1ll << g->jump) + 1;
    for (int64_t i = 0; i < many; i++) __builtin_prefetch(g->begins + i / g->probes * jumps + (asked[i] >> (32 - g->jump)));
    for (int64_t i = 0; i < many; i++) {
        const uint32_t *begin = g->begins + i / g->probes * jumps + (asked[i] >> (32 - g->jump));
        place[i] = begin[0];
        __builtin_prefetch(g->keys + i / g->probes * g->trees + place[i]);
        __builtin_prefetch(g->keyed + i / g->probes * g->trees + place[i]);
    }
    for (int64_t i = 0; i < many; i++) {
        const uint32_t *key = g->keys + i / g->probes * g->trees, *row = g->keyed + i / g->probes * g->trees;
        int64_t low = place[i], high = g->begins[i / g->probes * jumps + (asked[i] >> (32 - g->jump)) + 1];
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (key[middle] < asked[i]) low = middle + 1;
            else high = middle;
        }
        for (int64_t w = 0; w < g->window; w++) {
            int64_t at = low - g->window / 2 + w;
            start[count++] = row[at < 0 ? 0 : at >= g->trees ? g->trees - 1 : at];
        }
    }
    return count;
}

/* -- building ------------------------------------------------------------------------------------------------------------ */

/* Of sorted candidates keep each e that no kept one r comes between: alpha d(r, e) > 256 d(owner, e). How many. */
static int64_t ISA(select)(const code_net *g, const graph_entry *cand, int64_t count, int64_t limit, int64_t alpha, uint32_t *row,
                           int64_t width, code_scratch *s)
{
    uint32_t kept[CODE_MAX_DEGREE];
    graph_entry far[4];
    code_query q = {.values = s->values + g->stride};
    int64_t n = 0;
    for (int64_t c = 0; c < count && n < limit; c++) {
        uint32_t node = graph_node(cand[c]);
        int64_t reach = code_far_int(cand[c]) * (g->metric == 1 ? 1 : 256);
        int good = 1;
        ISA(as_query)(g, node, &q);
        for (int64_t j = 0; j < n && good; j += 4) {
            int64_t left = n - j < 4 ? n - j : 4;
            ISA(weigh)(g, &q, 0, kept + j, left, far);
            s->distances += left;
            for (int64_t i = 0; i < left; i++) good &= code_far_int(far[i]) * (g->metric == 1 ? 1 : alpha) > reach;
        }
        if (good) kept[n++] = node;
    }
    memcpy(row, kept, (size_t)n * sizeof *row);
    for (int64_t j = n; j < width; j++) row[j] = GRAPH_NO_LINK;
    return n;
}

/* The candidates of one row, from a walk and from the links that it has. Sorted in ``found``; how many. */
static int64_t ISA(candidates)(const code_net *g, const code_query *q, int64_t node, const uint32_t *start, int64_t count, int64_t ef,
                               code_scratch *s)
{
    graph_entry far[CODE_MAX_DEGREE];
    uint32_t found[CODE_ENTRIES];
    if (count == 0) count = ISA(begin)(g, q, 0, found, s), start = found;
    int64_t size = ISA(walk)(g, q, 0, start, count, ef, 0, 0, 0, s), n = 0;
    for (int64_t j = 0; j < size; j++)
        if (graph_node(s->pool[j]) != (uint32_t)node) s->found[n++] = s->pool[j] & ~1ull;
    const uint32_t *row = g->links + node * g->width;
    int64_t old = code_count(row, g->width);
    ISA(weigh)(g, q, 0, row, old, far);
    s->distances += old;
    for (int64_t j = 0; j < old; j++) n += code_join(s->found, n, far[j]);
    for (int64_t j = 0; j < s->trail_size; j++)
        if (graph_node(s->trail[j]) != (uint32_t)node) n += code_join(s->found, n, s->trail[j]);
    return n;
}

static void ISA(link)(const code_net *g, const int64_t *node, int64_t many, const uint32_t *start, int64_t count, int64_t ef,
                      int64_t degree, int64_t alpha, uint32_t *out, code_scratch *s)
{
    code_query q = {.values = s->values};
    for (int64_t i = 0; i < many; i++) {
        ISA(as_query)(g, node[i], &q);
        int64_t n = ISA(candidates)(g, &q, node[i], start, count, ef, s);
        ISA(select)(g, s->found, n, degree, alpha, out + i * degree, degree, s);
    }
}

static void ISA(overfull)(const code_net *g, int64_t owner, const uint32_t *node, int64_t n, int64_t limit, int64_t alpha, uint32_t *row,
                          int64_t width, code_scratch *s)
{
    graph_entry far[CODE_MAX_DEGREE + 1];
    code_query q = {.values = s->values};
    for (int64_t j = 0; j < n; j++) ISA(fetch)(g, node[j]);
    ISA(as_query)(g, owner, &q);
    ISA(weigh)(g, &q, 0, node, n, far);
    s->distances += n;
    for (int64_t j = 0; j < n; j++) graph_add(s->found, j, n + 1, far[j]);
    ISA(select)(g, s->found, n, limit, alpha, row, width, s);
}

static void ISA(reverse)(code_net *g, const int64_t *nodes, int64_t count, const uint32_t *out, int64_t degree, int64_t alpha, int64_t part,
                         int64_t parts, code_scratch *s)
{
    uint32_t many[CODE_MAX_DEGREE + 1];
    for (int64_t i = 0; i < count; i++) {
        if (nodes[i] % parts != part) continue;
        uint32_t *row = g->links + nodes[i] * g->width;
        memcpy(row, out + i * degree, (size_t)degree * sizeof *row);
        for (int64_t j = degree; j < g->width; j++) row[j] = GRAPH_NO_LINK;
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < degree; j++) {
            int64_t node = nodes[i];
            uint32_t owner = out[i * degree + j];
            if (owner == GRAPH_NO_LINK) break;
            if (owner % parts != (uint64_t)part) continue;
            uint32_t *row = g->links + (int64_t)owner * g->width;
            int64_t n = 0;
            while (n < g->width && row[n] != GRAPH_NO_LINK && row[n] != (uint32_t)node) n++;
            if (n < g->width) {
                if (row[n] == (uint32_t)node) continue;
                row[n] = (uint32_t)node;
                continue;
            }
            memcpy(many, row, (size_t)n * sizeof *row);
            many[n] = (uint32_t)node;
            ISA(overfull)(g, owner, many, n + 1, degree, alpha, row, g->width, s);
        }
}

static void ISA(shrink)(const code_net *g, int64_t start, int64_t stop, int64_t degree, int64_t alpha, uint32_t *out, code_scratch *s)
{
    uint32_t many[CODE_MAX_DEGREE];
    for (int64_t node = start; node < stop; node++) {
        const uint32_t *row = g->links + node * g->width;
        uint32_t *to = out + (node - start) * degree;
        int64_t n = 0;
        /* links to rows of an insertion that was broken off go */
        for (int64_t j = 0; j < g->width && row[j] != GRAPH_NO_LINK; j++)
            if (row[j] < g->n) many[n++] = row[j];
        if (n > degree) {
            ISA(overfull)(g, node, many, n, degree, alpha, to, degree, s);
            continue;
        }
        memcpy(to, many, (size_t)n * sizeof *to);
        for (int64_t j = n; j < degree; j++) to[j] = GRAPH_NO_LINK;
    }
}

/* -- queries ------------------------------------------------------------------------------------------------------------- */

static inline float ISA(inverse_norm)(const float *x, int64_t d)
{
    const float *row[4] = {x, x, x, x};
    float out[4];
    ISA(dot4)(x, row, d, out);
    return out[0] > 0 ? 1.0f / sqrtf(out[0]) : 0.0f;
}

/* A float query in the form that rows are compared with: whole numbers of -127 to 127 by its largest, or codes by ``step``. */
static void ISA(whole)(const code_net *g, const float *x, const float *mean, float inverse, code_query *q)
{
    int64_t padded = g->bits == 4 ? 2 * g->stride : g->stride;
    float scale = g->metric == 2 ? inverse : 1.0f, shift = g->metric == 1 ? 0.0f : 1.0f, largest = 0;
    /* as whole numbers, whose largest vectors find */
    uint32_t top = 0;
    for (int64_t i = 0; i < g->d; i++) {
        float v = fabsf(x[i] * scale - shift * mean[i]);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        top = bits > top ? bits : top;
    }
    memcpy(&largest, &top, 4);
    float by = largest > 0 ? 127.0f / largest : 0.0f;
    q->sum = 0;
    for (int64_t i = 0; i < g->d; i++) {
        q->values[i] = (int8_t)rintf((x[i] * scale - shift * mean[i]) * by);
        q->sum += q->values[i];
    }
    for (int64_t i = g->d; i < padded; i++) q->values[i] = 0;
    q->unit = by > 0 ? 1.0f / by : 0.0f;
}

static void ISA(prepare)(const code_net *g, const float *x, const float *mean, float step, float inverse, code_query *q)
{
    if (g->metric >= 3) {
        for (int64_t i = 0; i < g->stride; i++) {
            float v = i < g->d ? rintf((x[i] - mean[i]) / step) : 0;
            q->bytes[i] = (uint8_t)(128 + (v > 127 ? 127 : v < -128 ? -128 : v));
        }
        return;
    }
    ISA(whole)(g, x, mean, inverse, q);
    q->less = (g->bits == 4 ? 15 : 128) * q->sum;
    q->factor = (g->metric == 0 ? 2.0f : 1.0f) * q->unit * (g->bits == 4 ? 0.5f : 1.0f) * (g->factors ? 1.0f : step);
}

/* Exact distances of the first ``n`` entries, the k nearest in order. How many.

   Estimates err by much the same at every row of a query: once k rows tell by how much, the look ends where even three times that
   would not bring the next row among the k nearest. */
static int64_t ISA(rerank)(const code_net *g, const float *x, float inverse, const graph_entry *entry, int64_t n, int64_t k,
                           graph_entry *best, int64_t *ids, float *far)
{
    int64_t bytes = g->d * 4 < 512 ? g->d * 4 : 512, size = 0;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n && i < 4; i++)
        for (int64_t b = 0; b < bytes; b += LINE) __builtin_prefetch((const char *)(g->points + (int64_t)graph_node(entry[i]) * g->d) + b);
    for (int64_t i = 0; i < n; i += 4) {
        const float *row[4];
        uint32_t node[4];
        float out[4];
        int64_t left = n - i < 4 ? n - i : 4;
        if (i >= 8 && i >= k && g->metric < 3) {
            double mean = sum / (double)i, spread = squares / (double)i - mean * mean;
            if (graph_far(entry[i]) + mean - 3 * sqrt(spread > 0 ? spread : 0) > graph_far(best[size - 1])) break;
        }
        for (int64_t j = 0; j < 4; j++) {
            node[j] = graph_node(entry[i + (j < left ? j : 0)]);
            row[j] = g->points + (int64_t)node[j] * g->d;
        }
        for (int64_t j = i + 4; j < n && j < i + 8; j++)
            for (int64_t b = 0; b < bytes; b += LINE) __builtin_prefetch((const char *)(g->points + (int64_t)graph_node(entry[j]) * g->d) + b);
        switch (g->metric) {
        case 0: ISA(square4)(x, row, g->d, out); break;
        case 3: ISA(absolute4)(x, row, g->d, out); break;
        case 4: ISA(unequal4)(x, row, g->d, out); break;
        default:
            ISA(dot4)(x, row, g->d, out);
            for (int64_t j = 0; j < 4; j++) out[j] = g->metric == 1 ? -out[j] : 1.0f - out[j] * (inverse * g->scale[node[j]]);
        }
        for (int64_t j = 0; j < left; j++) {
            double error = (double)out[j] - (double)graph_far(entry[i + j]);
            sum += error, squares += error * error;
            if (graph_add(best, size, k, graph_pack(out[j], node[j])) >= 0 && size < k) size++;
        }
    }
    for (int64_t j = 0; j < size; j++) {
        ids[j] = graph_node(best[j]);
        far[j] = graph_far(best[j]);
    }
    return size;
}

static int64_t ISA(search)(const code_net *g, const float *x, const float *mean, float step, int64_t k, int64_t ef, int64_t cap,
                           int64_t depth, const uint8_t *mask, const uint32_t *start, int64_t count, code_scratch *s, int64_t *ids,
                           float *far)
{
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    uint32_t own[CODE_STARTS];
    int64_t hits = 0, size;
    ISA(prepare)(g, x, mean, step, inverse, &q);
    if (!start && g->tables) {
        code_query whole = q;
        if (g->metric >= 3) whole.values = s->values + g->stride, ISA(whole)(g, x, mean, inverse, &whole);
        count = ISA(forest)(g, &whole, own), start = own;
    }
    if (!start) count = ISA(begin)(g, &q, 1, own, s), start = own;
    if (mask)
        size = ISA(walk)(g, &q, 1, start, count, cap, mask, ef, &hits, s);
    else
        size = ISA(walk)(g, &q, 1, start, count, cap, 0, 0, 0, s);
    const graph_entry *from = mask ? s->found : s->pool;
    int64_t n = mask ? hits : size;
    return ISA(rerank)(g, x, inverse, from, n < depth ? n : depth, k, s->found + (mask ? ef + 1 : 0), ids, far);
}

static int64_t ISA(scan)(const code_net *g, const float *x, const float *mean, float step, int64_t k, int64_t depth, const uint8_t *mask,
                         code_scratch *s, int64_t *ids, float *far)
{
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    uint32_t node[64];
    graph_entry out[64 + 8];
    int64_t size = 0, at = 0;
    ISA(prepare)(g, x, mean, step, inverse, &q);
    while (at < g->n) {
        int64_t n = 0;
        if (!mask)
            while (n < 64 && at < g->n) node[n++] = (uint32_t)at++;
        else
            while (n < 64 && at < g->n) {
                uint64_t eight;
                if (at + 8 <= g->n && (memcpy(&eight, mask + at, 8), !eight)) {
                    at += 8;
                    continue;
                }
                if (mask[at]) {
                    ISA(fetch)(g, (uint32_t)at);
                    node[n++] = (uint32_t)at;
                }
                at++;
            }
        ISA(weigh)(g, &q, 1, node, n, out);
        s->distances += n;
        n = size == depth ? ISA(nearer)(out, n, s->pool[size - 1]) : n;
        for (int64_t j = 0; j < n; j++)
            if (ISA(put)(s->pool, size, depth, out[j]) >= 0 && size < depth) size++;
    }
    return ISA(rerank)(g, x, inverse, s->pool, size, k, s->found, ids, far);
}
/* The same over ranges of places, ``order`` saying which row has its codes at a place. */
static int64_t ISA(ranges)(const code_net *g, const float *x, const float *mean, float step, const int64_t *order, const int64_t *range,
                           int64_t count, int64_t k, int64_t depth, const uint8_t *mask, code_scratch *s, int64_t *ids, float *far)
{
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    uint32_t node[64];
    graph_entry out[64 + 8];
    int64_t size = 0;
    ISA(prepare)(g, x, mean, step, inverse, &q);
    for (int64_t r = 0; r < count; r++)
        for (int64_t at = range[2 * r]; at < range[2 * r + 1];) {
            int64_t n = 0;
            for (; n < 64 && at < range[2 * r + 1]; at++)
                if (!mask || mask[order[at]]) node[n++] = (uint32_t)at;
            ISA(weigh)(g, &q, 1, node, n, out);
            s->distances += n;
            n = size == depth ? ISA(nearer)(out, n, s->pool[size - 1]) : n;
            for (int64_t j = 0; j < n; j++)
                if (ISA(put)(s->pool, size, depth, out[j]) >= 0 && size < depth) size++;
        }
    for (int64_t j = 0; j < size; j++) s->pool[j] = (s->pool[j] & ~0xFFFFFFFFull) | (uint64_t)order[graph_node(s->pool[j])] << 1;
    return ISA(rerank)(g, x, inverse, s->pool, size, k, s->found, ids, far);
}

/* Estimates of n rows, in the order given; infinity where one is -1. */
static void ISA(estimates)(const code_net *g, const float *x, const float *mean, float step, const int64_t *rows, int64_t n, code_scratch *s,
                           float *far)
{
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    uint32_t node[64];
    int64_t place[64];
    graph_entry out[64];
    ISA(prepare)(g, x, mean, step, inverse, &q);
    for (int64_t at = 0; at < n;) {
        int64_t m = 0;
        for (; m < 64 && at < n; at++) {
            far[at] = INFINITY;
            if (rows[at] < 0) continue;
            ISA(fetch)(g, (uint32_t)rows[at]);
            place[m] = at, node[m++] = (uint32_t)rows[at];
        }
        ISA(weigh)(g, &q, 1, node, m, out);
        s->distances += m;
        for (int64_t j = 0; j < m; j++) far[place[j]] = g->metric >= 3 ? (float)code_far_int(out[j]) : graph_far(out[j]);
    }
}
#undef VEC
#undef IVEC
#undef STEP_SQUARE
#undef STEP_DOT
#undef STEP_ABSOLUTE
#undef STEP_UNEQUAL
#undef FOUR_ROWS
