/* Walks and scans over codes whose rows lie in pages, for one instruction set; after _codes_body.h. */

/* The row with a number and its links, until the next is asked for; NULL where its page is damaged. */
static inline const float *ISA(page_row)(const page_net *f, page_reader *r, uint32_t node, const uint32_t **links)
{
    int64_t slot = f->slot[node], d = f->g->d;
    const float *row;
    *links = f->links ? f->links + (int64_t)node * f->width : NULL;
    if (slot < 0) return f->points + (-1 - slot) * d;
    const uint8_t *body = page_unit(f, r, slot / f->per);
    if (!body) return NULL;
    row = (const float *)(body + slot % f->per * f->record);
    if (!f->links) *links = (const uint32_t *)(row + d);
    return row;
}

static inline float ISA(exactly)(const code_net *g, const float *x, float inverse, const float *row, uint32_t node)
{
    const float *rows[4] = {row, row, row, row};
    float out[4];
    ISA(exact4)(g, x, inverse, rows, (const uint32_t[4]){node, node, node, node}, out);
    return out[0];
}

/* Put rows that were not met before into the pool by their estimates; ``at`` is where the first that is not expanded may lie. */
static inline void ISA(page_join)(const code_net *g, const code_query *q, const uint32_t *node, int64_t n, code_scratch *s, int64_t *size,
                                  int64_t ef, int64_t *at)
{
    graph_entry far[AHEAD * CODE_MAX_DEGREE + 8];
    ISA(weigh)(g, q, 1, node, n, far);
    n = *size == ef ? ISA(nearer)(far, n, s->pool[ef - 1]) : n;
    for (int64_t j = 0; j < n; j++) {
        int64_t place = ISA(put)(s->pool, *size, ef, far[j]);
        if (place < 0) continue;
        *size += *size < ef;
        if (place < *at) *at = place;
    }
}

/* Look at the pages of the ``beam`` nearest at a time, until all in the pool were. -1 where a page is damaged. */
static int64_t ISA(page_walk)(const page_net *f, const float *x, const float *mean, float step, int64_t k, int64_t ef, int64_t beam,
                              const uint8_t *mask, code_scratch *s, page_reader *r, int64_t *ids, float *far)
{
    const code_net *g = f->g;
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    uint32_t fresh[AHEAD * CODE_MAX_DEGREE], member[CODE_MAX_DEGREE];
    graph_entry own[CODE_MAX_DEGREE + 8], *best = s->found;
    int64_t picked[PAGE_BEAM], size = 0, hits = 0, at = 0, n;
    ISA(prepare)(g, x, mean, step, inverse, &q);
    n = ISA(begin)(g, &q, 1, member, s);
    s->count = 0;
    n = code_unseen(s, member, n, fresh);
    for (;;) {
        ISA(page_join)(g, &q, fresh, n, s, &size, ef, &at);
        graph_entry worst = size == ef ? s->pool[size - 1] | 1 : ~0ull;
        int64_t count = 0;
        for (; at < size && count < beam; at++) {
            if (s->pool[at] & 1) continue;
            picked[count++] = (int64_t)f->place[graph_node(s->pool[at])] << 32 | graph_node(s->pool[at]);
            s->pool[at] |= 1;
        }
        if (count == 0) break;
        /* in the order of their places; all that is to be read is asked for at once */
        page_sort(picked, count);
        for (int64_t j = 0; j < count; j++) page_soon(f, r, (uint32_t)picked[j]);
        n = 0;
        for (int64_t j = 0; j < count;) {
            int64_t first = (picked[j] >> 32) / f->per * f->per, many = g->n - first < f->per ? g->n - first : f->per;
            memcpy(member, f->order + first, (size_t)many * sizeof *member);
            ISA(weigh)(g, &q, 1, member, many, own);
            for (int64_t m = 0; m < many; m++) {
                const uint32_t *links;
                const float *row = ISA(page_row)(f, r, member[m], &links);
                if (!row) {
                    code_forget(s, g->n);
                    return -1;
                }
                if (!mask || mask[member[m]])
                    hits += graph_add(best, hits, k, graph_pack(ISA(exactly)(g, x, inverse, row, member[m]), member[m])) >= 0 && hits < k;
                if (j < count && picked[j] >> 32 == first + m) {
                    j++;
                } else {
                    /* on a page with one that is expanded, it is too if it is near enough */
                    uint32_t seen;
                    if ((own[m] | 1) > worst) continue;
                    if (!code_unseen(s, member + m, 1, &seen)) {
                        /* it may be among those that are not in the pool yet */
                        ISA(page_join)(g, &q, fresh, n, s, &size, ef, &at);
                        n = 0;
                    }
                    page_expand(s->pool, &size, ef, own[m]);
                }
                if (n + f->width > AHEAD * CODE_MAX_DEGREE) {
                    ISA(page_join)(g, &q, fresh, n, s, &size, ef, &at);
                    n = 0;
                }
                int64_t more = code_unseen(s, links, code_count(links, f->width), fresh + n);
                for (int64_t i = n; i < n + more; i++) ISA(fetch)(g, fresh[i]);
                n += more;
            }
        }
    }
    code_forget(s, g->n);
    for (int64_t j = 0; j < hits; j++) ids[j] = graph_node(best[j]), far[j] = graph_far(best[j]);
    return hits;
}

/* The ``depth`` nearest by their codes of those that the mask allows, read in order. -1 where a page is damaged. */
static int64_t ISA(page_scan)(const page_net *f, const float *x, const float *mean, float step, int64_t k, int64_t depth, const uint8_t *mask,
                              code_scratch *s, page_reader *r, int64_t *ids, float *far)
{
    const code_net *g = f->g;
    code_query q = {.values = s->values, .bytes = (uint8_t *)s->values};
    float inverse = g->metric == 2 ? ISA(inverse_norm)(x, g->d) : 1.0f;
    graph_entry *best = s->found;
    int64_t hits = 0;
    ISA(prepare)(g, x, mean, step, inverse, &q);
    int64_t size = ISA(scanned)(g, &q, depth, mask, s);
    /* by where they lie: neighbours share pages */
    for (int64_t j = 0; j < size; j++) s->pool[j] = (uint64_t)f->place[graph_node(s->pool[j])] << 32 | graph_node(s->pool[j]);
    page_sort((int64_t *)s->pool, size);
    for (int64_t j = 0; j < size; j++) {
        for (int64_t a = j; j % PAGE_AHEAD == 0 && a < size && a < j + PAGE_AHEAD; a++) page_soon(f, r, (uint32_t)s->pool[a]);
        const uint32_t *links;
        uint32_t node = (uint32_t)s->pool[j];
        const float *row = ISA(page_row)(f, r, node, &links);
        if (!row) return -1;
        if (graph_add(best, hits, k, graph_pack(ISA(exactly)(g, x, inverse, row, node), node)) >= 0 && hits < k) hits++;
    }
    for (int64_t j = 0; j < hits; j++) ids[j] = graph_node(best[j]), far[j] = graph_far(best[j]);
    return hits;
}
