/* Product codes for one instruction set.

   Four bits (Andre et al., PVLDB 2015): 32 rows are a block, of which each pair of parts is 32 bytes, one a row, low half the even part. The
   query's table of a part, 16 values of 7 bits or less, lies in a register: one shuffle looks up 16 to 64 rows. */

#include "_pool_body.h"

/* The nearest centroid of each part: by half its square, in ``halves`` (m, count), less its product with the part. Four rows at once share each
   look at a centroid; the rows of a block share a part's centroids while these are near. */
static void ISA(pq_encode)(const float *x, int64_t n, int64_t d, const float *books, const float *halves, int64_t m, int64_t width, int64_t count,
                           uint8_t *out)
{
    typedef ISA(vec) vec;
    typedef int32_t places __attribute__((vector_size(4 * LANES)));
    enum { ROWS = 4, BLOCK = 64 };
    for (int64_t from = 0; from < n; from += BLOCK)
        for (int64_t j = 0; j < m; j++) {
            const float *book = books + j * width * count, *half = halves + j * count;
            int64_t have = d - j * width < width ? d - j * width : width, stop = from + BLOCK < n ? from + BLOCK : n;
            for (int64_t i = from; i < stop; i += ROWS) {
                const float *part[ROWS];
                vec low[ROWS];
                places at[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    part[r] = x + (i + r < stop ? i + r : i) * d + j * width;
                    low[r] = (vec){0} + INFINITY, at[r] = (places){0};
                }
                for (int64_t c = 0; c < count; c += LANES) {
                    vec far[ROWS];
                    for (int r = 0; r < ROWS; r++) far[r] = *(const vec *)(half + c);
                    for (int64_t s = 0; s < have; s++) {
                        vec centroids = *(const vec *)(book + s * count + c);
                        for (int r = 0; r < ROWS; r++) far[r] -= part[r][s] * centroids;
                    }
                    for (int r = 0; r < ROWS; r++) {
                        places nearer = far[r] < low[r];
                        low[r] = (vec)(((places)far[r] & nearer) | ((places)low[r] & ~nearer));
                        at[r] = ((int32_t)c & nearer) | (at[r] & ~nearer);
                    }
                }
                for (int r = 0; r < ROWS && i + r < stop; r++) {
#if ISA_LEVEL == 2
                    /* without branches, which nothing predicts */
                    __m512 v = (__m512)low[r];
                    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                    __mmask16 least = _mm512_cmpeq_ps_mask(v, _mm512_set1_ps(_mm512_reduce_min_ps(v)));
                    int64_t place = _mm512_mask_reduce_min_epi32(least, _mm512_add_epi32((__m512i)at[r], lane));
#else
                    int64_t best = 0, place = at[r][0];
                    for (int64_t e = 1; e < LANES; e++)
                        if (low[r][e] < low[r][best] || (low[r][e] == low[r][best] && at[r][e] + e < place)) best = e, place = at[r][e] + e;
#endif
                    out[(i + r) * m + j] = (uint8_t)place;
                }
            }
        }
}

/* What a row's code adds to its estimate: (m, count) of -2 q.c for squared distances, else -q.c. */
static void ISA(pq_tables)(const pq_net *p, const float *x, float inverse, float *table)
{
    float by = p->g.metric == 1 ? -1.0f : p->g.metric == 2 ? -inverse : -2.0f;
    for (int64_t j = 0; j < p->m; j++) {
        float *t = table + j * p->count;
        for (int64_t c = 0; c < p->count; c++) t[c] = 0;
        for (int64_t s = 0; s < p->width; s++) {
            float v = j * p->width + s < p->g.d ? by * x[j * p->width + s] : 0;
            const float *book = p->books + (j * p->width + s) * p->count;
            for (int64_t c = 0; c < p->count; c += 16)
                for (int64_t e = c; e < c + 16; e++) t[e] += v * book[e];
        }
    }
}

static inline void ISA(pq_extremes)(const float *t, float *low, float *high)
{
#if ISA_LEVEL == 2
    __m512 v = _mm512_loadu_ps(t);
    *low = _mm512_reduce_min_ps(v), *high = _mm512_reduce_max_ps(v);
#else
    float a[4], b[4];
    for (int64_t i = 0; i < 4; i++) {
        a[i] = b[i] = t[i];
        for (int64_t j = i + 4; j < 16; j += 4) a[i] = t[j] < a[i] ? t[j] : a[i], b[i] = t[j] > b[i] ? t[j] : b[i];
    }
    *low = *high = a[0];
    for (int64_t i = 0; i < 4; i++) *low = a[i] < *low ? a[i] : *low, *high = b[i] > *high ? b[i] : *high;
#endif
}

/* Tables as whole numbers of one step, each twice in a row; 0 for the parts that fill the last line. Returns the step; ``least`` is what all are above. */
static float ISA(pq_round)(const pq_net *p, const float *table, float *low, uint8_t *even, uint8_t *odd, float *least)
{
    float widest = 0, sum = 0, high;
    int32_t most = 65535 / p->m < 127 ? (int32_t)(65535 / p->m) : 127, v[16];
    for (int64_t j = 0; j < p->m; j++) {
        ISA(pq_extremes)(table + 16 * j, low + j, &high);
        widest = high - low[j] > widest ? high - low[j] : widest;
        sum += low[j];
    }
    float step = widest > 0 ? widest / (float)most : 1.0f, by = 1.0f / step;
    for (int64_t j = 0; j < 2 * p->pairs; j++) {
        uint8_t *to = (j & 1 ? odd : even) + 32 * (j / 2);
        if (j >= p->m) {
            memset(to, 0, 32);
            continue;
        }
        for (int64_t c = 0; c < 16; c++) v[c] = (int32_t)((table[16 * j + c] - low[j]) * by + 0.5f);
        for (int64_t c = 0; c < 16; c++) v[c] = v[c] > most ? most : v[c];
        for (int64_t c = 0; c < 16; c++) to[c] = (uint8_t)v[c];
        memcpy(to + 16, to, 16);
    }
    *least = sum;
    return step;
}

/* The sums of a block's 32 rows. */
static inline void ISA(pq_block)(const uint8_t *code, const uint8_t *even, const uint8_t *odd, int64_t pairs, uint16_t *out)
{
#if ISA_LEVEL == 2
    const __m512i low = _mm512_set1_epi8(15), byte = _mm512_set1_epi16(255);
    __m512i a = _mm512_setzero_si512(), b = a;
    for (int64_t i = 0; i < 32 * pairs; i += 64) {
        __m512i v = _mm512_loadu_si512(code + i);
        __m512i t = _mm512_add_epi8(_mm512_shuffle_epi8(_mm512_load_si512(even + i), _mm512_and_si512(v, low)),
                                    _mm512_shuffle_epi8(_mm512_load_si512(odd + i), _mm512_and_si512(_mm512_srli_epi16(v, 4), low)));
        a = _mm512_add_epi16(a, _mm512_and_si512(t, byte));
        b = _mm512_add_epi16(b, _mm512_srli_epi16(t, 8));
    }
    __m256i e = _mm256_add_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m256i o = _mm256_add_epi16(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1));
    __m256i first = _mm256_unpacklo_epi16(e, o), second = _mm256_unpackhi_epi16(e, o);
    _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256((__m256i *)(out + 16), _mm256_permute2x128_si256(first, second, 0x31));
#elif ISA_LEVEL == 1
    const __m256i low = _mm256_set1_epi8(15), byte = _mm256_set1_epi16(255);
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int64_t i = 0; i < 32 * pairs; i += 32) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(code + i));
        __m256i t = _mm256_add_epi8(_mm256_shuffle_epi8(_mm256_load_si256((const __m256i *)(even + i)), _mm256_and_si256(v, low)),
                                    _mm256_shuffle_epi8(_mm256_load_si256((const __m256i *)(odd + i)), _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));
        a = _mm256_add_epi16(a, _mm256_and_si256(t, byte));
        b = _mm256_add_epi16(b, _mm256_srli_epi16(t, 8));
    }
    __m256i first = _mm256_unpacklo_epi16(a, b), second = _mm256_unpackhi_epi16(a, b);
    _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256((__m256i *)(out + 16), _mm256_permute2x128_si256(first, second, 0x31));
#else
    memset(out, 0, 32 * sizeof *out);
    for (int64_t p = 0; p < pairs; p++)
        for (int64_t r = 0; r < 32; r++) {
            uint8_t v = code[32 * p + r];
            out[r] = (uint16_t)(out[r] + even[32 * p + (v & 15)] + odd[32 * p + (v >> 4)]);
        }
#endif
}

/* Estimates of a block's rows; a bit for each that is not beyond ``worst``. */
static inline uint32_t ISA(pq_near)(const uint16_t *sums, const float *bias, float offset, float step, float worst, float *est)
{
#if ISA_LEVEL == 2
    uint32_t near = 0;
    for (int h = 0; h < 2; h++) {
        __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(sums + 16 * h))));
        v = _mm512_add_ps(_mm512_mul_ps(v, _mm512_set1_ps(step)), _mm512_add_ps(_mm512_set1_ps(offset), _mm512_loadu_ps(bias + 16 * h)));
        _mm512_storeu_ps(est + 16 * h, v);
        near |= (uint32_t)_mm512_cmp_ps_mask(v, _mm512_set1_ps(worst), _CMP_LE_OQ) << 16 * h;
    }
    return near;
#else
    uint32_t near = 0;
    for (int64_t i = 0; i < 32; i++) est[i] = offset + bias[i] + step * (float)sums[i];
    for (int64_t i = 0; i < 32; i++) near |= (uint32_t)(est[i] <= worst) << i;
    return near;
#endif
}

static int64_t ISA(pq_ranges)(const pq_net *p, const float *x, const float *base, const int64_t *order, const int64_t *range, int64_t count,
                              int64_t k, int64_t depth, const uint8_t *mask, code_scratch *s, int64_t *ids, float *far)
{
    float inverse = p->g.metric == 2 ? ISA(inverse_norm)(x, p->g.d) : 1.0f, least = 0, step = 0, est[32];
    float *table = (float *)s->values, *low = table + p->m * p->count;
    uint8_t *even = (uint8_t *)(low + p->m), *odd;
    int64_t size = 0;
    even += -(uintptr_t)even & 63, odd = even + 32 * p->pairs;
    ISA(pq_tables)(p, x, inverse, table);
    if (p->count == 16) step = ISA(pq_round)(p, table, low, even, odd, &least);
    for (int64_t r = 0; r < count; r++) {
        int64_t start = range[2 * r], stop = range[2 * r + 1];
        float worst = size == depth ? graph_far(s->pool[size - 1]) : INFINITY, offset = base[r] + least;
        if (r + 1 < count && p->count == 16)
            for (int64_t b = 0; b < 512; b += LINE) __builtin_prefetch(p->codes + range[2 * r + 2] / 32 * 32 * p->pairs + b);
        for (int64_t at = start & ~31ll; at < stop; at += 32) {
            int64_t from = at < start ? start - at : 0, to = stop - at < 32 ? stop - at : 32;
            uint32_t near, inside = (uint32_t)((1ull << to) - (1ull << from));
            if (p->count == 16) {
                uint16_t sums[32];
                ISA(pq_block)(p->codes + at * p->pairs, even, odd, p->pairs, sums);
                near = ISA(pq_near)(sums, p->bias + at, offset, step, worst, est) & inside;
            } else {
                near = inside;
                for (int64_t i = from; i < to; i++) {
                    const uint8_t *code = p->codes + (at + i) * p->m;
                    float a = 0, b = 0;
                    for (int64_t j = 0; j + 2 <= p->m; j += 2) a += table[256 * j + code[j]], b += table[256 * j + 256 + code[j + 1]];
                    if (p->m & 1) a += table[256 * (p->m - 1) + code[p->m - 1]];
                    est[i] = offset + p->bias[at + i] + (a + b);
                }
            }
            s->distances += to - from;
            for (; near; near &= near - 1) {
                int64_t i = __builtin_ctz(near), row = order[at + i];
                if (est[i] > worst || (mask && !mask[row])) continue;
                if (ISA(put)(s->pool, size, depth, graph_pack(est[i] + 0.0f, (uint32_t)row)) >= 0 && size < depth) size++;
                if (size == depth) worst = graph_far(s->pool[size - 1]);
            }
        }
    }
    return ISA(rerank)(&p->g, x, inverse, s->pool, size, k, s->found, ids, far);
}
