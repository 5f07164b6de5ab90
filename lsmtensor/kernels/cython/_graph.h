/* Walks over neighbourhood graphs: _graph_body.h compiled once per instruction set, chosen at run time.

   A vector type of LANES floats, a masked load for the last few of a row, and four sums at once are all
   that differ between the sets; the order of every sum is fixed, so a result depends on the set alone. */
#ifndef LSMTENSOR_GRAPH_H
#define LSMTENSOR_GRAPH_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "_isa.h"

#define GRAPH_NO_LINK 0xFFFFFFFFu
#define GRAPH_MAX_DEGREE 512

/* A pool entry is one integer: distance in the high half (as ordered bits), the node below, "expanded" last.
   Comparing entries compares (distance, node): ties and determinism need no further thought. */
typedef uint64_t graph_entry;

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

static inline graph_entry graph_pack(float d, uint32_t node)
{
    uint32_t bits;
    d = d != d ? INFINITY : d + 0.0f; /* NaN is farthest; -0 is 0 */
    memcpy(&bits, &d, 4);
    bits ^= (uint32_t)((int32_t)bits >> 31) | 0x80000000u;
    return (uint64_t)bits << 32 | (uint64_t)node << 1;
}

static inline float graph_far(graph_entry e)
{
    uint32_t bits = (uint32_t)(e >> 32);
    float d;
    bits ^= bits >> 31 ? 0x80000000u : 0xFFFFFFFFu;
    memcpy(&d, &bits, 4);
    return d;
}

static inline uint32_t graph_node(graph_entry e) { return (uint32_t)e >> 1; }

/* Put e in its place among ``size`` sorted entries of at most ``cap``; the place, or -1 when all are nearer. */
static inline int64_t graph_add(graph_entry *pool, int64_t size, int64_t cap, graph_entry e)
{
    if (size == cap) {
        if (e > pool[size - 1]) return -1;
        size--;
    }
    int64_t low = 0, count = size;
    while (count > 0) {
        int64_t half = count >> 1;
        int right = pool[low + half] < e;
        low = right ? low + half + 1 : low;
        count = right ? count - half - 1 : half;
    }
    memmove(pool + low + 1, pool + low, (size_t)(size - low) * sizeof *pool);
    pool[low] = e;
    return low;
}

#define LANES 4
#define ISA(name) graph_##name##_base
#include "_graph_body.h"
#undef ISA
#undef LANES

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define ISA(name) graph_##name##_avx2
#include "_graph_body.h"
#undef ISA
#undef LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#define LANES 16
#define ISA(name) graph_##name##_avx512
#include "_graph_body.h"
#undef ISA
#undef LANES
#pragma GCC pop_options
#endif

typedef struct {
    const char *name;
    void (*insert)(graph_net *, const uint8_t *, int64_t *, int64_t, int64_t, int64_t, graph_scratch *);
    int64_t (*search)(const graph_net *, const float *, const int64_t *, int64_t, int64_t, int64_t, const uint8_t *, graph_scratch *,
                      int64_t *, float *);
} graph_table;

static const graph_table graph_tables[] = {
    {"baseline", graph_insert_base, graph_search_base},
#if defined(__x86_64__) && defined(__GNUC__)
    {"avx2", graph_insert_avx2, graph_search_avx2},
    {"avx512", graph_insert_avx512, graph_search_avx512},
#endif
};

static const graph_table *graph_chosen = &graph_tables[0];

ISA_CHOICE(graph_choose, graph_tables, graph_chosen)
#endif
