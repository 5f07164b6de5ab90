/* Walks over neighbourhood graphs: _graph_body.h compiled once per instruction set, chosen at run time.

   A vector type of LANES floats, a masked load for the last few of a row, and four sums at once are all
   that differ between the sets; the order of every sum is fixed, so a result depends on the set alone. */
#ifndef LSMTENSOR_GRAPH_H
#define LSMTENSOR_GRAPH_H
#include "_entries.h"

#define GRAPH_MAX_DEGREE 512

typedef struct {
    const float *points, *scale;
    uint32_t *links, *upper;
    const int64_t *upper_at;
    int64_t n, d, degree, m;
    int metric;
} graph_net;

typedef struct {
    uint64_t *seen;          /* a bit per node */
    graph_entry *pool;       /* sorted, the beam */
    graph_entry *found;      /* sorted, what a filter allows; or the candidates of a row that overflowed */
    int64_t distances;       /* how many were computed */
} graph_scratch;

#define BODY "_graph_body.h"
#include "_each_isa.h"

typedef struct {
    const char *name;
    void (*insert)(graph_net *, const uint8_t *, int64_t *, int64_t, int64_t, int64_t, graph_scratch *);
    int64_t (*search)(const graph_net *, const float *, const int64_t *, int64_t, int64_t, int64_t, const uint8_t *, graph_scratch *,
                      int64_t *, float *);
} graph_table;

#define ROW(name, set) {name, insert_##set, search_##set}
ISA_CHOICE(graph_table, ROW)
#endif
