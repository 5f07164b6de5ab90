# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The kernels of contract_sparse.py, compiled. What a net holds is checked when it is made, the GIL is released."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc

import numpy as np

from lsmtensor.errors import InvalidArgumentError

cdef extern from "_sparse.h" nogil:
    int SPARSE_CHUNK, SPARSE_BLOCK, SPARSE_FEW, SPARSE_PARTS
    ctypedef struct net_t "sparse_net":
        const int64_t *row_starts
        const uint32_t *terms
        const float *weights
        const float *norms
        float gain, shift, extra, stretch
        const float *most
        const int64_t *starts
        const uint16_t *rows
        const uint8_t *impacts
        const int64_t *dense_of
        const uint8_t *dense
        int64_t n, lists, dense_count, dense_full
        const uint32_t *begins
        const uint32_t *heavy
        const uint8_t *heavy_impacts
    ctypedef struct sparse_scratch:
        pass
    ctypedef struct sparse_table:
        const char *name
        int64_t (*search)(const net_t *, const uint32_t *, const float *, int64_t, int64_t, const uint8_t *, sparse_scratch *, int64_t *,
                          float *) noexcept nogil
        int64_t (*near)(const net_t *, const uint32_t *, const float *, int64_t, int64_t, int64_t, int64_t, const uint8_t *, sparse_scratch *,
                        int64_t *, float *) noexcept nogil
    const sparse_table *chosen
    int sparse_reserve(sparse_scratch *, int64_t, int64_t, int64_t)
    void sparse_free(sparse_scratch *)
    uint8_t sparse_impact(float, float)
    int64_t sparse_parts(const uint32_t *, const uint8_t *, int64_t, int64_t, int64_t, uint32_t *, uint32_t *, uint8_t *)
    void sparse_fill(const int64_t *, const uint32_t *, const float *, const float *, int64_t, int64_t, int64_t *, uint16_t *, uint8_t *, uint8_t *)


include "_isa.pxi"


cdef class Scratch:
    """Buffers of one search at a time, bounds all zero; a call takes one from the shelf under the GIL and puts it back."""

    cdef sparse_scratch *s

    def __cinit__(self):
        self.s = <sparse_scratch *>calloc(1, sizeof(sparse_scratch))
        if self.s == NULL:
            raise MemoryError("no memory for a search of posting lists")

    def __dealloc__(self):
        sparse_free(self.s)


cdef list shelf = []


def sparse_invert(const int64_t[::1] starts, const uint32_t[::1] terms, const float[::1] weights, int64_t lists, int64_t share):
    cdef int64_t n = starts.shape[0] - 1, chunks = (n + SPARSE_CHUNK - 1) // SPARSE_CHUNK, row, p, chunk, t, many, width, here, postings = 0, wide = 0, size = 0
    cdef float one
    if n < 0 or terms.shape[0] != weights.shape[0] or starts[0] != 0 or starts[n] != terms.shape[0]:
        raise InvalidArgumentError(f"{n} rows of {terms.shape[0]} terms and {weights.shape[0]} weights")
    for row in range(n):
        if starts[row + 1] < starts[row]:
            raise InvalidArgumentError(f"row {row} ends before it begins")
    for p in range(terms.shape[0]):
        if terms[p] >= lists:
            raise InvalidArgumentError(f"term {terms[p]} of {lists}")
    count_array, most_array, at_array = np.zeros(lists, np.uint32), np.zeros(lists, np.float32), np.zeros(chunks * lists + 1, np.int64)
    begin_array = np.zeros(chunks * lists + 1, np.int64)
    cdef uint32_t[::1] counts = count_array
    cdef float[::1] most = most_array
    cdef int64_t[::1] at = at_array, begins = begin_array
    with nogil:
        for row in range(n):
            chunk = row // SPARSE_CHUNK * lists
            for p in range(starts[row], starts[row + 1]):
                t = terms[p]
                one = weights[p] if weights[p] >= 0 else -weights[p]
                counts[t] += 1
                at[chunk + t] += 1
                if one > most[t]:
                    most[t] = one
        for chunk in range(chunks):
            here = min(n - chunk * SPARSE_CHUNK, <int64_t>SPARSE_CHUNK)
            width = (here + SPARSE_BLOCK - 1) // SPARSE_BLOCK * SPARSE_BLOCK
            for t in range(chunk * lists, (chunk + 1) * lists):
                many = at[t]
                begins[t] = postings
                if here >= SPARSE_BLOCK and many * share > here:
                    at[t] = -1 - size
                    size += width
                    wide += 1
                else:
                    at[t] = postings
                    postings += many
        begins[chunks * lists] = postings
    key_array = np.flatnonzero(at_array[: chunks * lists] < 0)
    row_array, impact_array, dense_array = np.empty(postings, np.uint16), np.empty(postings, np.uint8), np.zeros(size, np.uint8)
    cdef uint16_t[::1] rows = row_array
    cdef uint8_t[::1] impacts = impact_array, dense = dense_array
    if terms.shape[0]:
        with nogil:
            sparse_fill(&starts[0], &terms[0], &weights[0], &most[0], n, lists, &at[0], &rows[0] if postings else NULL, &impacts[0] if postings else NULL,
                        &dense[0] if size else NULL)
    return count_array, most_array, begin_array, row_array, impact_array, key_array, dense_array


cdef class Net:
    """Rows and their lists, checked once, as the loops take them."""

    cdef net_t g
    cdef object kept
    cdef bint few

    def __init__(self, const int64_t[::1] row_starts, const uint32_t[::1] terms, const float[::1] weights, const float[::1] most,
                 const int64_t[::1] starts, const uint16_t[::1] rows, const uint8_t[::1] impacts, const int64_t[::1] dense_of,
                 const uint8_t[::1] dense, const float[::1] norms, float gain, float shift, float extra, float stretch, heavy):
        cdef net_t *g = &self.g
        g.n, g.lists, g.dense_count = row_starts.shape[0] - 1, most.shape[0], dense_of.shape[0]
        cdef int64_t chunks = (g.n + SPARSE_CHUNK - 1) // SPARSE_CHUNK
        if g.n < 1 or g.n >= 2**32 or starts.shape[0] != chunks * g.lists + 1 or (norms is not None and norms.shape[0] != g.n):
            raise InvalidArgumentError(f"{g.n} rows, {g.lists} lists that begin at {starts.shape[0]} places")
        self.kept = [row_starts, terms, weights, most, starts, rows, impacts, dense_of, dense, norms]
        check(row_starts, terms.shape[0], "rows")
        check(starts, rows.shape[0], "lists")
        cdef int64_t i, j, last = (g.n - 1) % SPARSE_CHUNK, begin = (chunks - 1) * g.lists, width = (last + SPARSE_BLOCK) // SPARSE_BLOCK * SPARSE_BLOCK
        g.dense_full = 0
        for i in range(g.dense_count):
            if not 0 <= dense_of[i] < chunks * g.lists or (i and dense_of[i] <= dense_of[i - 1]):
                raise InvalidArgumentError(f"list {dense_of[i]} of every row, of {chunks} chunks of {g.lists}; rising")
            g.dense_full += dense_of[i] < begin
        if dense.shape[0] != g.dense_full * SPARSE_CHUNK + (g.dense_count - g.dense_full) * width:
            raise InvalidArgumentError(f"{g.dense_count} lists of every row in {dense.shape[0]} bytes")
        if weights.shape[0] != terms.shape[0] or impacts.shape[0] != rows.shape[0]:
            raise InvalidArgumentError(f"{terms.shape[0]} terms, {weights.shape[0]} weights, {rows.shape[0]} postings, {impacts.shape[0]} impacts")
        for i in range(starts[begin], rows.shape[0]):
            if rows[i] > last:
                raise InvalidArgumentError(f"a posting of row {rows[i]} in a chunk of {last + 1}")
        for i in range(g.dense_full, g.dense_count):
            for j in range(last + 1, width):
                if dense[g.dense_full * SPARSE_CHUNK + (i - g.dense_full) * width + j]:
                    raise InvalidArgumentError(f"a posting behind row {last} in a chunk of {last + 1}")
        g.row_starts, g.most, g.starts = &row_starts[0], &most[0] if g.lists else NULL, &starts[0]
        g.terms, g.weights = &terms[0] if terms.shape[0] else NULL, &weights[0] if terms.shape[0] else NULL
        g.rows, g.impacts = &rows[0] if rows.shape[0] else NULL, &impacts[0] if rows.shape[0] else NULL
        g.dense_of, g.dense = &dense_of[0] if g.dense_count else NULL, &dense[0] if g.dense_count else NULL
        g.norms = &norms[0] if norms is not None else NULL
        g.gain, g.shift, g.extra, g.stretch = gain, shift, extra, stretch
        if heavy is not None:
            self.also(*heavy)

    def also(self, const uint32_t[::1] begins, const uint32_t[::1] rows, const uint8_t[::1] impacts):
        cdef net_t *g = &self.g
        cdef int64_t i, t
        if begins.shape[0] != g.lists * (SPARSE_PARTS + 1) or impacts.shape[0] != rows.shape[0]:
            raise InvalidArgumentError(f"{begins.shape[0]} begins of {g.lists} lists, {rows.shape[0]} rows and {impacts.shape[0]} impacts")
        for t in range(g.lists):
            for i in range(t * (SPARSE_PARTS + 1), t * (SPARSE_PARTS + 1) + SPARSE_PARTS):
                if begins[i] > begins[i + 1]:
                    raise InvalidArgumentError(f"the heaviest of list {t} end before they begin")
            if begins[(t + 1) * (SPARSE_PARTS + 1) - 1] > rows.shape[0]:
                raise InvalidArgumentError(f"the heaviest of list {t} end behind all")
        for i in range(rows.shape[0]):
            if rows[i] >= g.n or not impacts[i]:
                raise InvalidArgumentError(f"a posting of row {rows[i]} of {g.n}, of impact {impacts[i]}")
        self.kept += [begins, rows, impacts]
        g.begins, g.heavy, g.heavy_impacts = &begins[0] if g.lists else NULL, &rows[0] if rows.shape[0] else NULL, &impacts[0] if rows.shape[0] else NULL
        self.few = True


cdef int check(const int64_t[::1] starts, int64_t size, what) except -1:
    cdef int64_t i
    for i in range(starts.shape[0] - 1):
        if starts[i + 1] < starts[i]:
            raise InvalidArgumentError(f"{what}: number {i} ends before it begins")
    if starts[0] != 0 or starts[starts.shape[0] - 1] != size:
        raise InvalidArgumentError(f"{what} from {starts[0]} to {starts[starts.shape[0] - 1]} of {size}")
    return 0


def sparse_net(row_starts, terms, weights, most, starts, rows, impacts, dense_of, dense, norms=None, gain=1, shift=0, extra=0, stretch=1,
               heavy=None):
    return Net(row_starts, terms, weights, most, starts, rows, impacts, dense_of, dense, norms, gain, shift, extra, stretch, heavy)


def sparse_heavy(const int64_t[::1] starts, const uint32_t[::1] terms, const float[::1] weights, const float[::1] most, int64_t limit):
    cdef int64_t n = starts.shape[0] - 1, lists = most.shape[0], row, p, t, at = 0, made = 0
    check(starts, terms.shape[0], "rows")
    for p in range(terms.shape[0]):
        if terms[p] >= lists:
            raise InvalidArgumentError(f"term {terms[p]} of {lists}")
    if terms.shape[0] >= 2**32:
        raise InvalidArgumentError(f"{terms.shape[0]} entries; the heaviest of up to {2**32 - 1} are found")
    next_array = np.zeros(lists + 1, np.int64)
    list_array, impact_array = np.empty(terms.shape[0] + 1, np.uint32), np.empty(terms.shape[0] + 1, np.uint8)
    cdef int64_t[::1] next = next_array
    cdef uint32_t[::1] whole = list_array
    cdef uint8_t[::1] impacts = impact_array
    with nogil:
        for p in range(terms.shape[0]):
            next[terms[p] + 1] += 1
        for t in range(lists):
            made += min(next[t + 1], limit)
            next[t + 1] += next[t]
        for row in range(n):
            for p in range(starts[row], starts[row + 1]):
                t = terms[p]
                whole[next[t]] = <uint32_t>row
                impacts[next[t]] = sparse_impact(weights[p], most[t])
                next[t] += 1
    begin_array, row_array, heavy_array = np.empty(lists * (SPARSE_PARTS + 1), np.uint32), np.empty(made + 1, np.uint32), np.empty(made + 1, np.uint8)
    cdef uint32_t[::1] begins = begin_array, rows = row_array
    cdef uint8_t[::1] heavy = heavy_array
    with nogil:
        made = 0
        for t in range(lists):
            # a list now ends where the next one began
            made = sparse_parts(&whole[at], &impacts[at], next[t] - at, limit, made, &begins[t * (SPARSE_PARTS + 1)], &rows[0], &heavy[0])
            at = next[t]
    return begin_array, row_array[:made], heavy_array[:made]


def sparse_search(Net net not None, const uint32_t[::1] terms, const float[::1] factors, int64_t k, const uint8_t[::1] mask):
    return asked(net, terms, factors, k, 0, 0, mask)


def sparse_near(Net net not None, const uint32_t[::1] terms, const float[::1] factors, int64_t k, int64_t budget, int64_t depth, const uint8_t[::1] mask):
    if not net.few or budget < 1 or depth < 1:
        raise InvalidArgumentError(f"a budget of {budget}, a depth of {depth}; give 1 or more, over a net that has heaviest postings")
    return asked(net, terms, factors, k, min(budget, <int64_t>SPARSE_FEW), depth, mask)


cdef asked(Net net, const uint32_t[::1] terms, const float[::1] factors, int64_t k, int64_t budget, int64_t depth, const uint8_t[::1] mask):
    cdef int64_t m = terms.shape[0], i, size = 0
    cdef const uint8_t *allowed = NULL
    if factors.shape[0] != m or (mask is not None and mask.shape[0] != net.g.n) or k < 0:
        raise InvalidArgumentError(f"{m} terms, {factors.shape[0]} factors, k {k}; one factor a term, a mask of {net.g.n}")
    for i in range(m):
        if terms[i] >= net.g.lists:
            raise InvalidArgumentError(f"term {terms[i]} of {net.g.lists}")
    id_array, best_array = np.empty(k, np.int64), np.empty(k, np.float32)
    cdef int64_t[::1] ids = id_array
    cdef float[::1] best = best_array
    if mask is not None:
        allowed = &mask[0]
    cdef Scratch room
    if m and k:
        room = shelf.pop() if shelf else Scratch()
        if not sparse_reserve(room.s, m, net.g.n, budget):
            raise MemoryError(f"no memory for a search of {m} terms and {budget} postings")
        with nogil:
            if budget:
                size = chosen.near(&net.g, &terms[0], &factors[0], m, k, budget, depth, allowed, room.s, &ids[0], &best[0])
            else:
                size = chosen.search(&net.g, &terms[0], &factors[0], m, k, allowed, room.s, &ids[0], &best[0])
        if len(shelf) < 8:
            shelf.append(room)
    for i in range(size, k):
        ids[i] = -1
        best[i] = -INFINITY
    return id_array, best_array
