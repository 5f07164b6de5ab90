# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled kernels. Arguments were checked by the contract's guards; the GIL is released throughout."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import numpy as np

cdef extern from "_kernels.h" nogil:
    ctypedef struct nearest_list:
        int64_t k
    ctypedef struct table_t:
        const char *name
        void (*one_to_many)(const float *, const float *, const int64_t *, int64_t, int64_t, int, float *) noexcept nogil
        void (*nearest)(const float *, const float *, int64_t, int64_t, int, const uint8_t *, int64_t, int64_t *, float *) noexcept nogil
        void (*nearest_block)(const float *, int64_t, const float *, int64_t, int64_t, int, const uint8_t *, int64_t, int64_t *, float *, const float *, float *, nearest_list *) noexcept nogil
        void (*all_pairs)(const float *, int64_t, const float *, int64_t, int64_t, int, float *, const float *, float *) noexcept nogil
        float (*square_of)(const float *, int64_t) noexcept nogil
        void (*assign)(const float *, int64_t, int64_t, const float *, int64_t, const float *, int64_t *, float *) noexcept nogil
    const table_t *chosen
    uint64_t mix64(uint64_t)
    uint64_t hash_bytes(const unsigned char *, long)
    long lower_int64(const long *, long, long)
    long lower_bytes(const unsigned char *, const int *, long, const unsigned char *, long)
    ctypedef struct merge_keys:
        const int64_t *keys
        const unsigned char *data
        const int *offsets
        int64_t skip
        const uint64_t *seqs
    int merge_runs(merge_keys, const int64_t *, int64_t, int64_t *)


# from so many queries on it pays to share the loads of a row between them
cdef int BLOCK_FROM = 4


include "_isa.pxi"


cdef scratch(const float[:, ::1] queries, int64_t d):
    """Squares of the queries, room for those of a tile of points."""
    cdef int64_t q = queries.shape[0], i
    made = np.empty(q + max(131072 // (4 * d), 8), np.float32)
    cdef float[::1] view = made
    for i in range(q):
        view[i] = chosen.square_of(&queries[i, 0], d)
    return made


def pairwise(const float[:, ::1] queries, const float[:, ::1] points, int metric):
    cdef int64_t q = queries.shape[0], n = points.shape[0], d = points.shape[1], i
    out = np.empty((q, n), np.float32)
    cdef float[:, ::1] o = out
    cdef float[::1] squares
    if q and n and d:
        squares = scratch(queries, d)
        with nogil:
            chosen.all_pairs(&queries[0, 0], q, &points[0, 0], n, d, metric, &o[0, 0], &squares[0], &squares[q])
    elif q and n:
        out[:] = 1 if metric == 2 else 0
    return out


def gathered(const float[::1] query, const float[:, ::1] points, const int64_t[::1] ids, int metric):
    cdef int64_t m = ids.shape[0], d = points.shape[1]
    out = np.empty(m, np.float32)
    cdef float[::1] o = out
    if m:
        with nogil:
            chosen.one_to_many(&query[0] if d else NULL, &points[0, 0] if d else NULL, &ids[0], m, d, metric, &o[0])
    return out


def topk(const float[:, ::1] queries, const float[:, ::1] points, int64_t k, int metric, const uint8_t[::1] mask, ids, distances):
    cdef int64_t q = queries.shape[0], n = points.shape[0], d = points.shape[1], i
    cdef int64_t[:, ::1] o = ids
    cdef float[:, ::1] s = distances
    cdef const uint8_t *m = &mask[0] if mask is not None and n else NULL
    cdef float[::1] squares
    cdef uint8_t[::1] lists
    if not (q and n and k):
        return
    if d == 0 or q < BLOCK_FROM or metric > 2:
        with nogil:
            for i in range(q):
                chosen.nearest(&queries[i, 0] if d else NULL, &points[0, 0] if d else NULL, n, d, metric, m, k, &o[i, 0], &s[i, 0])
        return
    squares = scratch(queries, d)
    lists = np.empty(q * sizeof(nearest_list), np.uint8)
    with nogil:
        chosen.nearest_block(&queries[0, 0], q, &points[0, 0], n, d, metric, m, k, &o[0, 0], &s[0, 0], &squares[0], &squares[q],
                             <nearest_list *>&lists[0])


def assign(const float[:, ::1] x, const float[:, ::1] centroids):
    cdef int64_t n = x.shape[0], d = x.shape[1], k = centroids.shape[0]
    cdef int64_t kp = (k + 63) // 64 * 64  # a multiple of every set's block
    columns, squares = np.zeros((d, kp), np.float32), np.full(kp, np.inf, np.float32)
    columns[:, :k] = np.asarray(centroids).T
    squares[:k] = (np.asarray(centroids) ** 2).sum(1)
    ids, distances = np.zeros(n, np.int64), np.zeros(n, np.float32)
    cdef const float[:, ::1] turned = columns
    cdef const float[::1] norms = squares
    cdef int64_t[::1] o = ids
    cdef float[::1] s = distances
    if n and d:
        with nogil:
            chosen.assign(&x[0, 0], n, d, &turned[0, 0], kp, &norms[0], &o[0], &s[0])
    return ids, distances


def search_int64(const int64_t[::1] values, const int64_t[::1] wanted):
    cdef long q = wanted.shape[0], n = values.shape[0], i
    out = np.zeros(q, np.int64)
    cdef int64_t[::1] o = out
    if n:
        with nogil:
            for i in range(q):
                o[i] = lower_int64(<const long *>&values[0], n, wanted[i])
    return out


def search_bytes(const uint8_t[::1] data, const int[::1] offsets, const uint8_t[::1] wanted_data, const int[::1] wanted_offsets):
    cdef long q = wanted_offsets.shape[0] - 1, n = offsets.shape[0] - 1, i
    out = np.zeros(max(q, 0), np.int64)
    cdef int64_t[::1] o = out
    cdef uint8_t none = 0
    cdef const unsigned char *here = &data[0] if data.shape[0] else &none
    cdef const unsigned char *there = &wanted_data[0] if wanted_data.shape[0] else &none
    if n > 0:
        with nogil:
            for i in range(q):
                o[i] = lower_bytes(here, &offsets[0], n, there + wanted_offsets[i], wanted_offsets[i + 1] - wanted_offsets[i])
    return out


def merge_int64(const int64_t[::1] keys, const uint64_t[::1] seqs, const int64_t[::1] starts):
    cdef merge_keys rows = merge_keys(NULL, NULL, NULL, 0, NULL)
    if keys.shape[0]:
        rows.keys, rows.seqs = &keys[0], &seqs[0]
    return merged(rows, keys.shape[0], starts)


def merge_bytes(const uint8_t[::1] data, const int[::1] offsets, const uint64_t[::1] seqs, const int64_t[::1] starts):
    cdef merge_keys rows = merge_keys(NULL, NULL, NULL, 0, NULL)
    cdef uint8_t none = 0
    rows.data = &data[0] if data.shape[0] else &none
    if seqs.shape[0]:
        rows.offsets, rows.seqs = &offsets[0], &seqs[0]
    return merged(rows, seqs.shape[0], starts)


cdef merged(merge_keys rows, int64_t n, const int64_t[::1] starts):
    cdef int done
    out = np.empty(n, np.int64)
    cdef int64_t[::1] o = out
    if n:
        with nogil:
            done = merge_runs(rows, &starts[0], starts.shape[0] - 1, &o[0])
        if not done:
            raise MemoryError(f"no memory to merge {n} rows")
    return out


def hash64_int64(const int64_t[::1] keys):
    cdef long n = keys.shape[0], i
    out = np.empty(n, np.uint64)
    cdef uint64_t[::1] o = out
    with nogil:
        for i in range(n):
            o[i] = mix64(<uint64_t>keys[i] + <uint64_t>0x9E3779B97F4A7C15)
    return out


def hash64_bytes(const uint8_t[::1] data, const int[::1] offsets):
    cdef long n = offsets.shape[0] - 1, i
    out = np.empty(max(n, 0), np.uint64)
    cdef uint64_t[::1] o = out
    cdef uint8_t none = 0
    cdef const unsigned char *here = &data[0] if data.shape[0] else &none
    with nogil:
        for i in range(n):
            o[i] = hash_bytes(here + offsets[i], offsets[i + 1] - offsets[i])
    return out


def bloom_add(uint8_t[::1] bits, const uint64_t[::1] hashes, int probes):
    cdef uint64_t size = <uint64_t>bits.shape[0] * 8, h, step
    cdef long n = hashes.shape[0], i
    cdef int p
    with nogil:
        for i in range(n):
            h = hashes[i]
            step = ((h >> 32) | (h << 32)) | 1
            for p in range(probes):
                bits[(h % size) >> 3] |= <uint8_t>(1 << ((h % size) & 7))
                h = h + step


def bloom_test(const uint8_t[::1] bits, const uint64_t[::1] hashes, int probes):
    cdef uint64_t size = <uint64_t>bits.shape[0] * 8, h, step
    cdef long n = hashes.shape[0], i
    cdef int p
    out = np.ones(n, np.uint8)
    cdef uint8_t[::1] o = out
    with nogil:
        for i in range(n):
            h = hashes[i]
            step = ((h >> 32) | (h << 32)) | 1
            for p in range(probes):
                if not (bits[(h % size) >> 3] >> ((h % size) & 7)) & 1:
                    o[i] = 0
                    break
                h = h + step
    return out.view(bool)


cdef inline uint64_t block_of(uint64_t h, uint64_t blocks) noexcept nogil:
    return ((h >> 32) * blocks >> 32) * 64


def block_bloom_add(uint8_t[::1] bits, const uint64_t[::1] hashes, int probes):
    cdef uint64_t blocks = bits.shape[0] // 64, start
    cdef long n = hashes.shape[0], i
    cdef uint32_t a, b, at
    cdef int p
    with nogil:
        for i in range(n):
            start = block_of(hashes[i], blocks)
            a = <uint32_t>hashes[i]
            b = ((a << 15) | (a >> 17)) | 1
            for p in range(probes):
                at = a >> 23
                bits[start + (at >> 3)] |= <uint8_t>(1 << (at & 7))
                a = a + b


def block_bloom_test(const uint8_t[::1] bits, const uint64_t[::1] hashes, int probes):
    cdef uint64_t blocks = bits.shape[0] // 64, start
    cdef long n = hashes.shape[0], i
    cdef uint32_t a, b, at
    cdef int p
    out = np.ones(n, np.uint8)
    cdef uint8_t[::1] o = out
    with nogil:
        for i in range(n):
            start = block_of(hashes[i], blocks)
            a = <uint32_t>hashes[i]
            b = ((a << 15) | (a >> 17)) | 1
            for p in range(probes):
                at = a >> 23
                if not (bits[start + (at >> 3)] >> (at & 7)) & 1:
                    o[i] = 0
                    break
                a = a + b
    return out.view(bool)
