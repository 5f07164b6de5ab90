/* Queries over codes for one instruction set. */

#include "_walk_body.h"

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

/* Fill the pool with the ``depth`` nearest by estimate of the rows that the mask allows. How many. */
static int64_t ISA(scanned)(const code_net *g, const code_query *q, int64_t depth, const uint8_t *mask, code_scratch *s)
{
    uint32_t node[64];
    graph_entry out[64 + 8];
    int64_t size = 0, at = 0;
    while (at < g->n) {
        int64_t n = 0;
        if (!mask)
            while (n < 64 && at < g->n) node[n++] = (uint32_t)at++;
        else
            while (n < 64 && at < g->n) {
                uint64_t line[8];
                if (at + 64 <= g->n) {
                    memcpy(line, mask + at, 64);
                    if (!(line[0] | line[1] | line[2] | line[3] | line[4] | line[5] | line[6] | line[7])) {
                        at += 64;
                        continue;
                    }
                }
                if (at + 8 <= g->n && (memcpy(line, mask + at, 8), !line[0])) {
                    at += 8;
                    continue;
                }
                if (mask[at]) {
                    ISA(fetch)(g, (uint32_t)at);
                    node[n++] = (uint32_t)at;
                }
                at++;
            }
        ISA(weigh)(g, q, 1, node, n, out);
        s->distances += n;
        n = size == depth ? ISA(nearer)(out, n, s->pool[size - 1]) : n;
        for (int64_t j = 0; j < n; j++)
            if (ISA(put)(s->pool, size, depth, out[j]) >= 0 && size < depth) size++;
    }
    return size;
}

static int64_t ISA(scan)(const code_net *g, const float *x, const float *mean, float step, int64_t k, int64_t depth, const uint8_t *mask,
                         code_scratch *s, int64_t *ids, float *far)
{
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    ISA(prepare)(g, x, mean, step, inverse, &q);
    int64_t size = ISA(scanned)(g, &q, depth, mask, s);
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

#include "_pages_body.h"
