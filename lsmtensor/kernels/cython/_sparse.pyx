# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Posting lists, compiled: see `sparse_topk` in contract.py. The GIL is released; sums are kept between calls, zero outside of one."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

import numpy as np

from lsmtensor.errors import InvalidArgumentError

cdef enum:
    # a row looked for in a list takes as long as so many postings in order
    SEEK = 40


cdef class Sums:
    """A sum for each row, all zero, and room for the rows that were touched."""

    cdef float *sums
    cdef uint32_t *touched
    cdef int64_t n

    def __cinit__(self, int64_t n):
        self.sums, self.touched, self.n = <float *>calloc(n + 1, 4), <uint32_t *>malloc((n + 1) * 4), n
        if self.sums == NULL or self.touched == NULL:
            raise MemoryError(f"no memory for {n} sums")

    def __dealloc__(self):
        free(self.sums)
        free(self.touched)


cdef list shelf = []


cdef inline int64_t put(float *best, int64_t *ids, int64_t size, int64_t k, float score, int64_t row) noexcept nogil:
    """Keep (score, row) among the k best, larger first, then lower rows; how many there are."""
    cdef int64_t at
    if size == k:
        if score < best[k - 1] or (score == best[k - 1] and row > ids[k - 1]):
            return size
        size -= 1
    at = size
    while at > 0 and (best[at - 1] < score or (best[at - 1] == score and ids[at - 1] > row)):
        best[at], ids[at] = best[at - 1], ids[at - 1]
        at -= 1
    best[at], ids[at] = score, row
    return size + 1


cdef inline float held(const uint32_t *rows, const float *weights, int64_t low, int64_t high, uint32_t row) noexcept nogil:
    """The weight of a row in a list, 0 where it is not."""
    cdef int64_t middle, end = high
    while low < high:
        middle = (low + high) >> 1
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return weights[low] if low < end and rows[low] == row else 0


cdef int64_t sift(const float *sums, const uint8_t *mask, int64_t n, int64_t k, float *best, int64_t *ids) noexcept nogil:
    """The k best of all sums that are not 0; how many. Sixteen at a time are compared with the worst kept."""
    cdef int64_t at, j, stop, size = 0
    cdef int hit
    cdef float least
    for at in range(0, n, 16):
        stop = min(at + 16, n)
        hit = 0
        if size < k:
            for j in range(at, stop):
                hit |= sums[j] != 0
        else:
            least = best[k - 1]
            for j in range(at, stop):
                hit |= sums[j] > least
        if hit:
            for j in range(at, stop):
                if sums[j] != 0 and (size < k or sums[j] > best[k - 1]) and (mask == NULL or mask[j]):
                    size = put(best, ids, size, k, sums[j], j)
    return size


cdef int64_t finish(const int64_t *starts, const uint32_t *rows, const float *weights, const int64_t *terms, const float *factors, int64_t i,
                    const float *bounds, float rest, int64_t m, int64_t k, const uint32_t *touched, int64_t count, float *sums, float limit,
                    float *best, int64_t *ids) noexcept nogil:
    """Ask the lists from i on for the rows touched that may still come among the best; every sum is 0 afterwards."""
    cdef int64_t j, p, size = 0
    cdef float score, more
    for p in range(count):
        score = sums[touched[p]]
        sums[touched[p]] = 0
        if score != 0 and score >= limit:
            more = rest
            for j in range(i, m):
                if size == k and score + more < best[k - 1] * <float>0.99999:
                    break
                more -= bounds[j]
                score += factors[j] * held(rows, weights, starts[terms[j]], starts[terms[j] + 1], touched[p])
            else:
                size = put(best, ids, size, k, score, touched[p])
    return size


cdef int64_t run(const int64_t *starts, const uint32_t *rows, const float *weights, const int64_t *terms, const float *factors,
                 const float *bounds, int64_t m, int64_t n, int64_t k, const uint8_t *mask, float *sums, uint32_t *touched, float *best,
                 int64_t *ids) noexcept nogil:
    cdef int64_t i, j, p, t, left, kept, count = 0, size = 0
    cdef float rest, score, limit, factor
    cdef uint32_t row
    # few rows at first, of the lists with large bounds: those touched are written down
    cdef bint few = True
    for i in range(m):
        rest, left, t = 0, 0, terms[i]
        for j in range(i, m):
            rest += bounds[j]
            left += starts[terms[j] + 1] - starts[terms[j]]
        if i and rest < INFINITY and left > (count if few else n // 4):
            if few:
                size = 0
                for j in range(count):
                    score = sums[touched[j]]
                    if size < k or score > best[k - 1]:
                        size = put(best, ids, size, k, score, touched[j])
            else:
                size = sift(sums, mask, n, k, best, ids)
            # rows not touched yet cannot come among the best: the lists left are asked for single rows
            if size == k and rest < best[k - 1]:
                limit = best[k - 1] * <float>0.99999 - rest
                kept = 0
                if few:
                    for j in range(count):
                        kept += sums[touched[j]] >= limit
                    if kept * (m - i) * SEEK < left:
                        return finish(starts, rows, weights, terms, factors, i, bounds, rest, m, k, touched, count, sums, limit, best, ids)
                    kept = n
                for j in range(0 if few else n):
                    touched[kept] = <uint32_t>j
                    if sums[j] >= limit and (mask == NULL or mask[j] != 0):
                        kept += 1
                if kept * (m - i) * SEEK < left:
                    size = finish(starts, rows, weights, terms, factors, i, bounds, rest, m, k, touched, kept, sums, limit, best, ids)
                    memset(sums, 0, n * sizeof(float))
                    return size
        factor = factors[i]
        if few and count + starts[t + 1] - starts[t] <= n // 8:
            for p in range(starts[t], starts[t + 1]):
                row = rows[p]
                if mask == NULL or mask[row]:
                    score = sums[row]
                    touched[count] = row
                    count += score == 0
                    sums[row] = score + factor * weights[p]
        else:
            few = False
            for p in range(starts[t], starts[t + 1]):
                sums[rows[p]] += factor * weights[p]
    if few:
        return finish(starts, rows, weights, terms, factors, m, bounds, 0, m, k, touched, count, sums, -INFINITY, best, ids)
    size = sift(sums, mask, n, k, best, ids)
    memset(sums, 0, n * sizeof(float))
    return size


def sparse_topk(const int64_t[::1] starts, const uint32_t[::1] rows, const float[::1] weights, const int64_t[::1] terms, const float[::1] factors,
                const float[::1] bounds, int64_t n, int64_t k, const uint8_t[::1] mask):
    cdef int64_t m = terms.shape[0], i, size = 0
    id_array, best_array = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
    if m == 0 or k == 0 or n == 0 or rows.shape[0] == 0:
        return id_array, best_array
    if factors.shape[0] != m or bounds.shape[0] != m or (mask is not None and mask.shape[0] != n) or weights.shape[0] != rows.shape[0]:
        raise InvalidArgumentError(f"{m} terms, {factors.shape[0]} factors, {bounds.shape[0]} bounds; one of each, and a mask of {n}")
    for i in range(m):
        if not 0 <= terms[i] < starts.shape[0] - 1 or starts[terms[i] + 1] > rows.shape[0]:
            raise InvalidArgumentError(f"term {terms[i]} of {starts.shape[0] - 1}")
    cdef Sums room = shelf.pop() if shelf else Sums(n)
    if room.n < n:
        room = Sums(n)
    cdef int64_t[::1] ids = id_array
    cdef float[::1] best = best_array
    cdef const uint8_t *allowed = NULL
    if mask is not None:
        allowed = &mask[0]
    with nogil:
        size = run(&starts[0], &rows[0], &weights[0], &terms[0], &factors[0], &bounds[0], m, n, k, allowed, room.sums, room.touched, &best[0],
                   &ids[0])
    for i in range(size, k):
        ids[i] = -1
        best[i] = -INFINITY
    if len(shelf) < 8:
        shelf.append(room)
    return id_array, best_array
