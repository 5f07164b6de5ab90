/* Sorted pools of entries, and the exact distances of the best of them, for one instruction set. */

#include "_rows_body.h"

/* Of n entries those below a bound, in their order. */
static inline int64_t ISA(nearer)(graph_entry *far, int64_t n, graph_entry bound)
{
    int64_t kept = 0;
#if ISA_LEVEL == 2
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
#if ISA_LEVEL == 2
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

static inline float ISA(inverse_norm)(const float *x, int64_t d)
{
    const float *row[4] = {x, x, x, x};
    float out[4];
    ISA(dot4)(x, row, d, out);
    return out[0] > 0 ? 1.0f / sqrtf(out[0]) : 0.0f;
}

/* Distances of a query to four full rows. */
static inline void ISA(exact4)(const code_net *g, const float *x, float inverse, const float *const *row, const uint32_t *node, float *out)
{
    switch (g->metric) {
    case 0: ISA(square4)(x, row, g->d, out); break;
    case 3: ISA(absolute4)(x, row, g->d, out); break;
    case 4: ISA(unequal4)(x, row, g->d, out); break;
    default:
        ISA(dot4)(x, row, g->d, out);
        for (int64_t j = 0; j < 4; j++) out[j] = g->metric == 1 ? -out[j] : 1.0f - out[j] * (inverse * g->scale[node[j]]);
    }
}

/* Exact distances of the first ``n`` entries, the k nearest in order. How many.

   Estimates err by much the same at every row of a query: once k rows tell by how much, the look ends where even three times that
   would not bring the next row among the k nearest. */
static inline int64_t ISA(rerank)(const code_net *g, const float *x, float inverse, const graph_entry *entry, int64_t n, int64_t k,
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
        ISA(exact4)(g, x, inverse, row, node, out);
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
