# What the kernels over codes share: the structures of _code_net.h, and scratch that is kept between calls.
from libc.stdint cimport int32_t, int64_t, int8_t, uint8_t, uint32_t, uint64_t
from libc.math cimport INFINITY

import numpy as np

from lsmtensor.errors import InvalidArgumentError

cdef extern from "_code_net.h" nogil:
    int CODE_MAX_DEGREE, CODE_ENTRIES, CODE_TOP, CODE_TRAIL, CODE_STARTS
    ctypedef struct net_t "code_net":
        const net_t *top
        const uint32_t *rows
        const uint8_t *codes
        const int32_t *sums
        const float *squares
        const float *factors
        uint32_t *links
        const float *points
        const float *scale
        int64_t n, d, stride, width
        int metric, bits
        const uint8_t *planes
        const float *offsets
        const uint32_t *keys
        const uint32_t *keyed
        const uint32_t *begins
        int64_t plane, tables, trees, probes, window, prefix, jump
    ctypedef struct code_scratch:
        uint64_t *seen
        int64_t distances
    int code_reserve(code_scratch *, int64_t, int64_t, int64_t, int64_t)
    void code_free(code_scratch *)
    int code_finite(const float *, int64_t)


cdef class Scratch:
    """Buffers of one walk at a time; a call takes one from the shelf under the GIL and puts it back."""

    cdef code_scratch s

    def __dealloc__(self):
        code_free(&self.s)


cdef list shelf = []


cdef Scratch take(int64_t nodes, int64_t pool, int64_t found, int64_t values):
    cdef Scratch scratch = shelf.pop() if shelf else Scratch()
    if not code_reserve(&scratch.s, nodes, pool, found, values):
        raise MemoryError(f"no memory for a walk over {nodes} rows")
    return scratch


cdef put_back(Scratch scratch):
    if len(shelf) < 8:
        shelf.append(scratch)


cdef inline int check_ranges(const float[:, ::1] queries, const int64_t[::1] order, const int64_t[:, :, ::1] ranges, int64_t k, int64_t depth,
                      const uint8_t[::1] mask, int64_t n, int64_t d) except -1:
    """Ranges of places lie within n rows of d dimensions, a pair for each place of each query."""
    cdef int64_t i, j
    if k < 0 or depth < k or ranges.shape[0] != queries.shape[0] or ranges.shape[2] != 2:
        raise InvalidArgumentError(f"k {k}, depth {depth}, {ranges.shape[0]} x {ranges.shape[1]} ranges for {queries.shape[0]} queries; give k <= depth, pairs for each")
    if queries.shape[1] != d or order.shape[0] != n or (mask is not None and mask.shape[0] != n):
        raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, rows {d}; an order and a mask have one entry a row")
    for i in range(ranges.shape[0]):
        for j in range(ranges.shape[1]):
            if not 0 <= ranges[i, j, 0] <= ranges[i, j, 1] <= n:
                raise InvalidArgumentError(f"a range from {ranges[i, j, 0]} to {ranges[i, j, 1]} of {n} places")
    return 0
