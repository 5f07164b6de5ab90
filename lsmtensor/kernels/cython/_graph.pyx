# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The graph kernels of contract.py, compiled. Shapes are checked, the GIL is released, scratch is one allocation."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc

import numpy as np

from lsmtensor.errors import InvalidArgumentError

cdef extern from "_graph.h" nogil:
    int GRAPH_MAX_DEGREE
    ctypedef uint64_t graph_entry
    ctypedef struct graph_net:
        const float *points
        const float *scale
        uint32_t *links
        uint32_t *upper
        const int64_t *upper_at
        int64_t n, d, degree, m
        int metric
    ctypedef struct graph_scratch:
        uint64_t *seen
        graph_entry *pool
        graph_entry *found
        int64_t distances
    ctypedef struct graph_table:
        const char *name
        void (*insert)(graph_net *, const uint8_t *, int64_t *, int64_t, int64_t, int64_t, graph_scratch *) noexcept nogil
        int64_t (*search)(const graph_net *, const float *, const int64_t *, int64_t, int64_t, int64_t, const uint8_t *,
                          graph_scratch *, int64_t *, float *) noexcept nogil
    const graph_table *chosen


include "_isa.pxi"


cdef int fill(graph_net *g, const float[:, ::1] points, const float[::1] scale, int metric, const uint32_t[:, ::1] links,
              const uint32_t[:, ::1] upper, const int64_t[::1] upper_at) except -1:
    g.n, g.d, g.degree, g.m, g.metric = points.shape[0], points.shape[1], links.shape[1], upper.shape[1], metric
    if scale.shape[0] < g.n or links.shape[0] < g.n or upper_at.shape[0] < g.n:
        raise InvalidArgumentError(f"{g.n} points with {scale.shape[0]} scales, {links.shape[0]} rows of links, {upper_at.shape[0]} upper_at")
    if not 0 < g.degree <= GRAPH_MAX_DEGREE or not 0 < g.m <= GRAPH_MAX_DEGREE:
        raise InvalidArgumentError(f"a graph of degree {g.degree} with {g.m} links above; give 1 to {GRAPH_MAX_DEGREE}")
    g.points, g.scale, g.links, g.upper_at = &points[0, 0], &scale[0], <uint32_t *>&links[0, 0], &upper_at[0]
    g.upper = <uint32_t *>&upper[0, 0] if upper.shape[0] else NULL
    return 0


cdef int take(graph_scratch *s, int64_t n, int64_t pool, int64_t found) except -1:
    cdef int64_t words = (n + 63) // 64
    s.seen = <uint64_t *>malloc(<size_t>(words + pool + found) * 8)
    if s.seen == NULL:
        raise MemoryError(f"no memory for a graph walk: {(words + pool + found) * 8} bytes")
    s.pool, s.found, s.distances = s.seen + words, s.seen + words + pool, 0
    return 0


def graph_insert(const float[:, ::1] points, const float[::1] scale, int metric, uint32_t[:, ::1] links, uint32_t[:, ::1] upper,
                 const int64_t[::1] upper_at, const uint8_t[::1] levels, int64_t[::1] state, int64_t start, int64_t stop, int64_t ef):
    cdef graph_net g
    cdef graph_scratch s
    if stop <= start:
        return
    if start < 0 or stop > points.shape[0] or levels.shape[0] < stop or state.shape[0] != 2 or ef < 1:
        raise InvalidArgumentError(f"points [{start}, {stop}) of {points.shape[0]}, {levels.shape[0]} levels, ef {ef}; give what exists")
    if points.shape[1] == 0:
        raise InvalidArgumentError("points of 0 dimensions have no distance; give 1 or more")
    fill(&g, points, scale, metric, links, upper, upper_at)
    take(&s, g.n, ef + 1, max(g.degree, g.m) + 2)
    with nogil:
        chosen.insert(&g, &levels[0], &state[0], start, stop, ef, &s)
    free(s.seen)


def graph_search(const float[:, ::1] queries, const float[:, ::1] points, const float[::1] scale, int metric,
                 const uint32_t[:, ::1] links, const uint32_t[:, ::1] upper, const int64_t[::1] upper_at, const int64_t[::1] state,
                 int64_t k, int64_t ef, const uint8_t[::1] mask):
    cdef graph_net g
    cdef graph_scratch s
    cdef int64_t q = queries.shape[0], i, j, hits, cap
    if queries.shape[1] != points.shape[1]:
        raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, points {points.shape[1]}")
    if ef < k or k < 0 or (mask is not None and mask.shape[0] != points.shape[0]):
        raise InvalidArgumentError(f"k {k}, ef {ef}; give ef >= k >= 0, and a mask of one entry a point")
    id_array, far_array = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    cdef int64_t[:, ::1] ids = id_array
    cdef float[:, ::1] far = far_array
    cdef const uint8_t *allowed = NULL
    if q == 0 or k == 0:
        return id_array, far_array
    if points.shape[0] == 0 or points.shape[1] == 0 or state[0] < 0:
        id_array[:], far_array[:] = -1, np.inf
        return id_array, far_array
    fill(&g, points, scale, metric, links, upper, upper_at)
    cap = ef
    if mask is not None:
        allowed, cap = &mask[0], min(g.n, 32 * ef)
    take(&s, g.n, cap + 1, ef + 1)
    with nogil:
        for i in range(q):
            hits = chosen.search(&g, &queries[i, 0], &state[0], k, ef, cap, allowed, &s, &ids[i, 0], &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    free(s.seen)
    return id_array, far_array
