/* How a graph over codes is built, for one instruction set. */

#include "_walk_body.h"

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
    const uint32_t *row = g->links + node * g->width;
    int64_t old = code_count(row, g->width);
    if (count == 0 && g->top)
        count = ISA(begin)(g, q, 0, found, s), start = found;
    else if (count == 0)
        count = old, start = row;
    int64_t size = ISA(walk)(g, q, 0, start, count, ef, 0, 0, 0, s), n = 0;
    for (int64_t j = 0; j < size; j++)
        if (graph_node(s->pool[j]) != (uint32_t)node) s->found[n++] = s->pool[j] & ~1ull;
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

#if ISA_LEVEL == 2
/* Four rows beside two blocks of 16, each four bytes of all 16 after each other: products without sums across a vector. */
static inline void ISA(tile)(const uint8_t *block, const int8_t *const *q, int64_t stride, __m512i *dot)
{
    for (int i = 0; i < 8; i++) dot[i] = _mm512_setzero_si512();
    for (int64_t b = 0; b < stride; b += 4) {
        __m512i low = _mm512_load_si512(block + 16 * b), high = _mm512_load_si512(block + 16 * (stride + b));
        for (int i = 0; i < 4; i++) {
            int32_t four;
            memcpy(&four, q[i] + b, 4);
            __m512i own = _mm512_set1_epi32(four);
            dot[2 * i] = _mm512_dpbusd_epi32(dot[2 * i], low, own);
            dot[2 * i + 1] = _mm512_dpbusd_epi32(dot[2 * i + 1], high, own);
        }
    }
}

/* As below, for distances of products. */
static void ISA(near_blocks)(const code_net *g, const int64_t *node, int64_t many, const uint32_t *among, int64_t count, int64_t k,
                             uint32_t *out, code_scratch *s)
{
    const int64_t stride = g->stride, room = k + 8, blocks = (count + 31) / 32 * 2;
    uint32_t *packed = (uint32_t *)(s->values + 4 * stride);
    int32_t square[blocks * 16];
    for (int64_t i = 0; i < blocks * 16; i++) {
        const int64_t row = among[i < count ? i : 0];
        const uint8_t *from = g->codes + row * stride;
        square[i] = g->metric == 1 ? 0 : g->sums[2 * row];
        for (int64_t b = 0; b < stride / 4; b++) memcpy(packed + (i / 16 * stride / 4 + b) * 16 + i % 16, from + 4 * b, 4);
    }
    for (int64_t i = 0; i < many; i += 4) {
        const int64_t left = many - i < 4 ? many - i : 4;
        code_query q[4];
        const int8_t *values[4];
        int64_t size[4] = {0, 0, 0, 0};
        for (int64_t j = 0; j < 4; j++) {
            q[j].values = s->values + j * stride;
            ISA(as_query)(g, node[i + (j < left ? j : 0)], &q[j]);
            values[j] = q[j].values;
        }
        for (int64_t at = 0; at < blocks; at += 2) {
            __m512i dot[8];
            ISA(tile)((const uint8_t *)packed + at * 16 * stride, values, stride, dot);
            for (int64_t j = 0; j < 2 * left; j++) {
                graph_entry *pool = s->pool + j / 2 * room;
                const int64_t first = (at + (j & 1)) * 16;
                const int32_t worst = size[j / 2] == k ? (int32_t)code_far_int(pool[k - 1]) : INT32_MAX;
                int32_t lane[16];
                __m512i far = _mm512_sub_epi32(dot[j], _mm512_set1_epi32(128 * q[j / 2].sum));
                far = g->metric == 1 ? _mm512_sub_epi32(_mm512_setzero_si512(), far)
                                     : _mm512_sub_epi32(_mm512_add_epi32(_mm512_loadu_si512(square + first), _mm512_set1_epi32(q[j / 2].square)),
                                                        _mm512_slli_epi32(far, 1));
                uint32_t mask = _mm512_cmple_epi32_mask(far, _mm512_set1_epi32(worst));
                if (!mask) continue;
                _mm512_storeu_si512(lane, far);
                for (; mask; mask &= mask - 1) {
                    const int64_t l = __builtin_ctz(mask);
                    if (first + l >= count || among[first + l] == (uint32_t)node[i + j / 2]) continue;
                    if (ISA(put)(pool, size[j / 2], k, code_pack_int(lane[l], among[first + l])) >= 0 && size[j / 2] < k) size[j / 2]++;
                }
            }
        }
        for (int64_t j = 0; j < left; j++)
            for (int64_t c = 0; c < k; c++) out[(i + j) * k + c] = c < size[j] ? graph_node(s->pool[j * room + c]) : GRAPH_NO_LINK;
    }
    s->distances += many * count;
}
#endif

/* Of ``count`` rows the k nearest to each of some rows, itself left out. */
static void ISA(near)(const code_net *g, const int64_t *node, int64_t many, const uint32_t *among, int64_t count, int64_t k, uint32_t *out,
                      code_scratch *s)
{
#if ISA_LEVEL == 2
    if (g->metric < 3 && count <= CODE_BLOCKS) {
        ISA(near_blocks)(g, node, many, among, count, k, out, s);
        return;
    }
#endif
    code_query q = {.values = s->values};
    graph_entry far[64 + 8];
    for (int64_t i = 0; i < many; i++) {
        int64_t size = 0;
        ISA(as_query)(g, node[i], &q);
        for (int64_t at = 0; at < count; at += 64) {
            int64_t n = count - at < 64 ? count - at : 64;
            ISA(weigh)(g, &q, 0, among + at, n, far);
            s->distances += n;
            n = size == k ? ISA(nearer)(far, n, s->pool[size - 1]) : n;
            for (int64_t j = 0; j < n; j++)
                if (graph_node(far[j]) != (uint32_t)node[i] && ISA(put)(s->pool, size, k, far[j]) >= 0 && size < k) size++;
        }
        for (int64_t j = 0; j < k; j++) out[i * k + j] = j < size ? graph_node(s->pool[j]) : GRAPH_NO_LINK;
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
