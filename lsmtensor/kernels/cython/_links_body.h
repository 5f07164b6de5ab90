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
