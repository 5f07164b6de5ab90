/* What graph walks keep in sorted pools, and what ends a row of links. */
#ifndef LSMTENSOR_ENTRIES_H
#define LSMTENSOR_ENTRIES_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define GRAPH_NO_LINK 0xFFFFFFFFu

/* A pool entry is one integer: distance in the high half (as ordered bits), the node below, "expanded" last.
   Comparing entries compares (distance, node): ties and determinism need no further thought. */
typedef uint64_t graph_entry;

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

/* Where e belongs among size sorted entries: ahead of the first that is not less. */
static inline int64_t entry_place(const graph_entry *pool, int64_t size, graph_entry e)
{
    int64_t low = 0;
    while (size > 0) {
        int64_t half = size >> 1;
        int right = pool[low + half] < e;
        low = right ? low + half + 1 : low;
        size = right ? size - half - 1 : half;
    }
    return low;
}

/* Put e in its place among ``size`` sorted entries of at most ``cap``; the place, or -1 when all are nearer. */
static inline int64_t graph_add(graph_entry *pool, int64_t size, int64_t cap, graph_entry e)
{
    if (size == cap) {
        if (e > pool[size - 1]) return -1;
        size--;
    }
    int64_t low = entry_place(pool, size, e);
    memmove(pool + low + 1, pool + low, (size_t)(size - low) * sizeof *pool);
    pool[low] = e;
    return low;
}
#endif
