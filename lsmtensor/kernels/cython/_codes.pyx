# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Walks and scans over quantized rows, compiled. Shapes are checked, the GIL is released, scratch is kept between calls."""

from libc.stdint cimport int32_t, int64_t, int8_t, uint8_t, uint32_t, uint64_t
from libc.math cimport INFINITY

cimport numpy as np
import numpy as np

from lsmtensor.errors import InvalidArgumentError
from lsmtensor.kernels import numpy_codes

cdef extern from "_codes.h" nogil:
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
    ctypedef struct pq_net_t "pq_net":
        net_t g
        const float *books
        const float *bias
        const uint8_t *codes
        int64_t m, width, count, pairs
    ctypedef struct code_table:
        const char *name
        void (*link)(const net_t *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, int64_t, int64_t, uint32_t *,
                     code_scratch *) noexcept nogil
        void (*reverse)(net_t *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, int64_t, int64_t, code_scratch *) noexcept nogil
        void (*shrink)(const net_t *, int64_t, int64_t, int64_t, int64_t, uint32_t *, code_scratch *) noexcept nogil
        int64_t (*search)(const net_t *, const float *, const float *, float, int64_t, int64_t, int64_t, int64_t, const uint8_t *,
                          const uint32_t *, int64_t, code_scratch *, int64_t *, float *) noexcept nogil
        int64_t (*scan)(const net_t *, const float *, const float *, float, int64_t, int64_t, const uint8_t *, code_scratch *, int64_t *,
                        float *) noexcept nogil
        int64_t (*ranges)(const net_t *, const float *, const float *, float, const int64_t *, const int64_t *, int64_t, int64_t, int64_t,
                          const uint8_t *, code_scratch *, int64_t *, float *) noexcept nogil
        void (*estimates)(const net_t *, const float *, const float *, float, const int64_t *, int64_t, code_scratch *, float *) noexcept nogil
        void (*pq_encode)(const float *, int64_t, int64_t, const float *, const float *, int64_t, int64_t, int64_t, uint8_t *) noexcept nogil
        int64_t (*pq_ranges)(const pq_net_t *, const float *, const float *, const int64_t *, const int64_t *, int64_t, int64_t, int64_t,
                             const uint8_t *, code_scratch *, int64_t *, float *) noexcept nogil
    const code_table *code_chosen
    int code_choose(const char *)
    int code_reserve(code_scratch *, int64_t, int64_t, int64_t, int64_t)
    void code_free(code_scratch *)
    int code_finite(const float *, int64_t)


def set_isa(name):
    """Choose an instruction set by name (None: the widest); False where this processor cannot run it."""
    if name is None:
        return bool(code_choose(NULL))
    cdef bytes text = name.encode()
    return bool(code_choose(text))


code_choose(NULL)
np.import_array()


cdef class Scratch:
    """Buffers of one walk at a time; a call takes one from the shelf under the GIL and puts it back."""

    cdef code_scratch s

    def __dealloc__(self):
        code_free(&self.s)


cdef list shelf = []


cdef table(int64_t rows, int64_t width):
    """An empty uint32 table that begins with a cache line."""
    room = np.empty(max(rows, 0) * width + 16, np.uint32)
    cdef int64_t skip = (-(<int64_t>room.ctypes.data) & 63) // 4
    return room[skip : skip + max(rows, 0) * width].reshape(max(rows, 0), width)


cdef Scratch take(int64_t nodes, int64_t pool, int64_t found, int64_t values):
    cdef Scratch scratch = shelf.pop() if shelf else Scratch()
    if not code_reserve(&scratch.s, nodes, pool, found, values):
        raise MemoryError(f"no memory for a walk over {nodes} rows")
    return scratch


cdef put_back(Scratch scratch):
    if len(shelf) < 8:
        shelf.append(scratch)


cdef int building(net_t *g, const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric, const uint32_t[:, ::1] links) except -1:
    g.n, g.stride, g.width, g.metric, g.bits = codes.shape[0], codes.shape[1], links.shape[1], metric, 8
    g.top = NULL
    if g.n == 0 or sums.shape[0] != g.n or sums.shape[1] != 2 or links.shape[0] < g.n:
        raise InvalidArgumentError(f"{g.n} codes, {sums.shape[0]} sums, {links.shape[0]} rows of links")
    if g.stride % 64 or g.stride == 0 or not 0 < g.width < CODE_MAX_DEGREE:
        raise InvalidArgumentError(f"codes of {g.stride} bytes, {g.width} links a row; whole lines of 64, fewer than {CODE_MAX_DEGREE} links")
    g.codes, g.sums, g.links = &codes[0, 0], &sums[0, 0], <uint32_t *>&links[0, 0]
    return 0


cdef int within(const int64_t[::1] nodes, int64_t n, int64_t degree, int64_t width) except -1:
    cdef int64_t i
    for i in range(nodes.shape[0]):
        if not 0 <= nodes[i] < n:
            raise InvalidArgumentError(f"row {nodes[i]} of {n}")
    if not 0 < degree <= width:
        raise InvalidArgumentError(f"{degree} links for rows of {width}")
    return 0


def code_link(const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric, const uint32_t[:, ::1] links, const int64_t[::1] nodes,
              const uint32_t[::1] starts, top, int64_t ef, int64_t degree, int64_t alpha):
    cdef net_t g, above
    cdef int64_t i
    cdef const uint32_t[::1] rows
    made = table(nodes.shape[0], degree)
    if nodes.shape[0] == 0:
        return made
    building(&g, codes, sums, metric, links)
    within(nodes, g.n, degree, g.width)
    if top is not None:
        building(&above, top[0], top[1], metric, top[2])
        rows = top[3]
        if rows.shape[0] != above.n or above.stride != g.stride:
            raise InvalidArgumentError(f"{rows.shape[0]} rows and {above.n} codes of {above.stride} bytes above codes of {g.stride}")
        for i in range(rows.shape[0]):
            if rows[i] >= g.n:
                raise InvalidArgumentError(f"row {rows[i]} of {g.n}")
        g.top, g.rows = &above, &rows[0]
    for i in range(starts.shape[0]):
        if starts[i] >= g.n:
            raise InvalidArgumentError(f"a walk from row {starts[i]} of {g.n}")
    if (starts.shape[0] == 0 and top is None) or starts.shape[0] > CODE_ENTRIES or ef < 1:
        raise InvalidArgumentError(f"{starts.shape[0]} rows to begin from, ef {ef}; give 1 to {CODE_ENTRIES}, or a graph above, and 1 or more")
    cdef uint32_t[:, ::1] out = made
    cdef const uint32_t *begin = &starts[0] if starts.shape[0] else NULL
    cdef Scratch scratch = take(g.n, max(ef, CODE_TOP) + 1, ef + g.width + CODE_TRAIL + 2, 2 * g.stride)
    with nogil:
        code_chosen.link(&g, &nodes[0], nodes.shape[0], begin, starts.shape[0], ef, degree, alpha, &out[0, 0], &scratch.s)
    put_back(scratch)
    return made


def code_reverse(const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric, uint32_t[:, ::1] links, const uint32_t[:, ::1] out,
                 const int64_t[::1] nodes, int64_t alpha, int64_t part, int64_t parts):
    cdef net_t g
    if nodes.shape[0] == 0:
        return
    building(&g, codes, sums, metric, links)
    within(nodes, g.n, out.shape[1], g.width)
    if not 0 <= part < parts or out.shape[0] != nodes.shape[0]:
        raise InvalidArgumentError(f"part {part} of {parts}, {out.shape[0]} rows of links for {nodes.shape[0]} rows")
    cdef Scratch scratch = take(0, 1, g.width + 2, 2 * g.stride)
    with nogil:
        code_chosen.reverse(&g, &nodes[0], nodes.shape[0], &out[0, 0], out.shape[1], alpha, part, parts, &scratch.s)
    put_back(scratch)


def code_shrink(const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric, const uint32_t[:, ::1] links, int64_t start, int64_t stop,
                int64_t degree, int64_t alpha):
    cdef net_t g
    made = table(stop - start, degree)
    if stop <= start:
        return made
    building(&g, codes, sums, metric, links)
    if start < 0 or stop > g.n or not 0 < degree <= g.width:
        raise InvalidArgumentError(f"rows [{start}, {stop}) of {g.n}, {degree} of {g.width} links")
    cdef uint32_t[:, ::1] out = made
    cdef Scratch scratch = take(0, 1, g.width + 2, 2 * g.stride)
    with nogil:
        code_chosen.shrink(&g, start, stop, degree, alpha, &out[0, 0], &scratch.s)
    put_back(scratch)
    return made


cdef class Forest:
    """Keys in order and the rows that have them, checked once, with a table of where the keys of each prefix begin."""

    cdef const uint8_t[:, :, ::1] planes
    cdef const uint32_t[:, ::1] keys, keyed, begins
    cdef int64_t d, probes, window, prefix, jump, highest
    cdef object plain

    def __init__(self, planes, shifts, keys, rows, nprobe, window):
        # numpy's form makes the checks
        self.plain = numpy_codes.Forest(planes, shifts, keys, rows, nprobe, window)
        self.d, self.highest, self.keys, self.keyed = planes.shape[2], self.plain.highest, keys, rows
        lines = np.full((*planes.shape[:2], -(-planes.shape[2] // 64) * 64), 128, np.uint8)
        lines[:, :, : self.d] = self.plain.planes.view(np.uint8) ^ 128
        self.planes = lines
        self.probes, self.window = nprobe, window
        self.prefix = numpy_codes.prefix_of(self.keys.shape[1], window)
        self.jump = min(self.prefix, 24)
        edges = (np.arange(1 << self.jump, dtype=np.uint64) << np.uint64(32 - self.jump)).astype(np.uint32)
        begins = np.full((len(keys), len(edges) + 1), keys.shape[1], np.uint32)
        for i in range(len(keys)):
            begins[i, :-1] = np.searchsorted(keys[i], edges)
        self.begins = begins


def code_forest(planes, shifts, keys, rows, nprobe, window):
    return Forest(planes, shifts, keys, rows, nprobe, window)


cdef class Net:
    """A graph or table of codes, checked once, as the loops take it."""

    cdef net_t g
    cdef const float *mean
    cdef float step
    cdef object kept

    def __init__(self, const float[:, ::1] points, const float[::1] scale, int metric, const float[::1] mean, float step,
                 const uint8_t[:, ::1] codes, const float[::1] squares, const float[::1] factors, int bits, const uint32_t[:, ::1] links, Net top, const uint32_t[::1] rows, forest):
        cdef int64_t i
        cdef net_t *g = &self.g
        g.n, g.d, g.stride, g.width, g.metric, g.bits = codes.shape[0], points.shape[1], codes.shape[1], links.shape[1], metric, bits
        if mean.shape[0] != g.d or g.d == 0 or g.n == 0:
            raise InvalidArgumentError(f"{g.n} codes of {g.d} dimensions and a mean of {mean.shape[0]}; give 1 or more of each")
        if 0 < points.shape[0] < g.n or scale.shape[0] < g.n or (links.shape[1] and links.shape[0] < g.n):
            raise InvalidArgumentError(f"{g.n} codes of {points.shape[0]} points, {scale.shape[0]} scales, {links.shape[0]} rows of links")
        if squares.shape[0] != (g.n if metric in (0, 2) else 0) or factors.shape[0] != (g.n if bits == 4 else 0):
            raise InvalidArgumentError(f"{squares.shape[0]} squares, {factors.shape[0]} factors for {g.n} codes; squares for l2 and cosine, factors for 4 bits")
        if bits not in (4, 8) or g.stride % 64 or g.stride * (8 // bits) < g.d or (metric >= 3 and bits != 8) or not 0 <= metric <= 4:
            raise InvalidArgumentError(f"codes of {bits} bits in {g.stride} bytes for {g.d} dimensions; whole lines of 64 bytes, 4 or 8 bits")
        if links.shape[1] >= CODE_MAX_DEGREE:
            raise InvalidArgumentError(f"rows of {links.shape[1]} links; give fewer than {CODE_MAX_DEGREE}")
        g.codes, g.scale = &codes[0, 0], &scale[0]
        g.points = &points[0, 0] if points.shape[0] else NULL
        g.squares = &squares[0] if squares.shape[0] else NULL
        g.factors = &factors[0] if factors.shape[0] else NULL
        g.links = <uint32_t *>&links[0, 0] if links.shape[1] else NULL
        self.mean, self.step = &mean[0], step
        g.top = NULL
        if top is not None:
            if top.g.d != g.d or top.g.bits != bits or top.g.metric != metric or top.g.links == NULL or rows.shape[0] != top.g.n:
                raise InvalidArgumentError(f"a graph of {top.g.n} rows of {top.g.d} dimensions and {rows.shape[0]} names above {g.n} of {g.d}")
            for i in range(rows.shape[0]):
                if rows[i] >= g.n:
                    raise InvalidArgumentError(f"row {rows[i]} of {g.n}")
            g.top, g.rows = &top.g, &rows[0]
        self.kept = [points, scale, mean, codes, squares, factors, links, top, rows]
        g.tables = 0
        if forest is not None:
            self.begin_in(forest)

    cdef begin_in(self, Forest forest):
        cdef net_t *g = &self.g
        cdef const float[:, ::1] offsets
        if forest.d != g.d or forest.highest >= g.n:
            raise InvalidArgumentError(f"a forest over {forest.highest + 1} rows of {forest.d} dimensions for {g.n} of {g.d}")
        offsets = made = forest.plain.offsets(np.asarray(<float[:g.d]>self.mean), g.metric)
        g.trees, g.probes, g.window, g.prefix, g.jump = forest.keys.shape[1], forest.probes, forest.window, forest.prefix, forest.jump
        g.planes, g.plane, g.offsets, g.begins = &forest.planes[0, 0, 0], forest.planes.shape[2], &offsets[0, 0], &forest.begins[0, 0]
        g.keys, g.keyed, g.tables = &forest.keys[0, 0], &forest.keyed[0, 0], forest.keys.shape[0]
        self.kept += [forest, made]


def code_net(points, scale, metric, mean, step, codes, squares, factors, bits, links, top, rows, forest=None):
    return Net(points, scale, metric, mean, step, codes, squares, factors, bits, links, top, rows, forest)


cdef int need_points(Net net) except -1:
    if net.g.points == NULL:
        raise InvalidArgumentError("a net without points estimates only; give code_net the full rows")
    return 0


def code_search(Net net not None, const float[:, ::1] queries, int64_t k, int64_t ef, int64_t depth, const uint8_t[::1] mask,
                const uint32_t[:, ::1] starts=None):
    cdef int64_t q = queries.shape[0], i, j, hits, cap = ef, own = 0
    cdef const uint8_t *allowed = NULL
    cdef const uint32_t *begin = NULL
    if starts is not None:
        own = starts.shape[1]
        if starts.shape[0] != q or not 1 <= own <= CODE_STARTS:
            raise InvalidArgumentError(f"starts ({starts.shape[0]}, {own}) for {q} queries of {net.g.n} rows; give 1 to {CODE_STARTS} rows each")
        for i in range(q):
            for j in range(own):
                if starts[i, j] >= net.g.n:
                    raise InvalidArgumentError(f"a walk from row {starts[i, j]} of {net.g.n}")
    if k < 0 or depth < k or ef < depth or net.g.links == NULL:
        raise InvalidArgumentError(f"k {k}, depth {depth}, ef {ef}; give k <= depth <= ef, and a net with links")
    if queries.shape[1] != net.g.d or (mask is not None and mask.shape[0] != net.g.n):
        raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, rows {net.g.d}; a mask has one entry a row")
    need_points(net)
    id_array, far_array = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    if q == 0 or k == 0:
        return id_array, far_array
    if mask is not None:
        allowed, cap = &mask[0], min(net.g.n, 32 * ef)
    cdef int64_t[:, ::1] ids = id_array
    cdef float[:, ::1] far = far_array
    cdef Scratch scratch = take(net.g.n, max(cap, CODE_TOP) + 1, ef + k + 3, 2 * net.g.stride)
    with nogil:
        for i in range(q):
            if own:
                begin = &starts[i, 0]
            hits = code_chosen.search(&net.g, &queries[i, 0], net.mean, net.step, k, ef, cap, depth, allowed, begin, own, &scratch.s, &ids[i, 0],
                                      &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    return id_array, far_array


def code_one(Net net not None, query, int64_t k, int64_t ef, int64_t depth):
    cdef int64_t hits
    cdef np.npy_intp shape = k
    if not np.PyArray_Check(query) or k < 1 or depth < k or ef < depth or net.g.links == NULL or net.g.points == NULL:
        return None
    cdef np.ndarray given = query
    if np.PyArray_NDIM(given) != 1 or np.PyArray_TYPE(given) != np.NPY_FLOAT32 or not np.PyArray_ISCARRAY_RO(given):
        return None
    cdef const float *x = <const float *>np.PyArray_DATA(given)
    if np.PyArray_DIM(given, 0) != net.g.d or not code_finite(x, net.g.d):
        return None
    cdef np.ndarray ids = np.PyArray_SimpleNew(1, &shape, np.NPY_INT64), far = np.PyArray_SimpleNew(1, &shape, np.NPY_FLOAT32)
    cdef int64_t *id_at = <int64_t *>np.PyArray_DATA(ids)
    cdef float *far_at = <float *>np.PyArray_DATA(far)
    cdef Scratch scratch = take(net.g.n, max(ef, CODE_TOP) + 1, ef + k + 3, 2 * net.g.stride)
    with nogil:
        hits = code_chosen.search(&net.g, x, net.mean, net.step, k, ef, ef, depth, NULL, NULL, 0, &scratch.s, id_at, far_at)
    put_back(scratch)
    return (ids, far) if hits == k else None


def code_scan(Net net not None, const float[:, ::1] queries, int64_t k, int64_t depth, const uint8_t[::1] mask):
    cdef int64_t q = queries.shape[0], i, j, hits
    cdef const uint8_t *allowed = NULL
    if k < 0 or depth < k:
        raise InvalidArgumentError(f"k {k}, depth {depth}; give k <= depth")
    if queries.shape[1] != net.g.d or (mask is not None and mask.shape[0] != net.g.n):
        raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, rows {net.g.d}; a mask has one entry a row")
    need_points(net)
    id_array, far_array = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    if q == 0 or k == 0:
        return id_array, far_array
    if mask is not None:
        allowed = &mask[0]
    cdef int64_t[:, ::1] ids = id_array
    cdef float[:, ::1] far = far_array
    cdef Scratch scratch = take(0, depth + 1, k + 1, 2 * net.g.stride)
    with nogil:
        for i in range(q):
            hits = code_chosen.scan(&net.g, &queries[i, 0], net.mean, net.step, k, depth, allowed, &scratch.s, &ids[i, 0], &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    return id_array, far_array


cdef int check_ranges(const float[:, ::1] queries, const int64_t[::1] order, const int64_t[:, :, ::1] ranges, int64_t k, int64_t depth,
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


def code_ranges(Net net not None, const float[:, ::1] queries, const int64_t[::1] order, const int64_t[:, :, ::1] ranges, int64_t k, int64_t depth,
                const uint8_t[::1] mask):
    cdef int64_t q = queries.shape[0], i, j, hits, count = ranges.shape[1]
    cdef const uint8_t *allowed = NULL
    check_ranges(queries, order, ranges, k, depth, mask, net.g.n, net.g.d)
    need_points(net)
    id_array, far_array = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    if q == 0 or k == 0:
        return id_array, far_array
    if mask is not None:
        allowed = &mask[0]
    cdef int64_t[:, ::1] ids = id_array
    cdef float[:, ::1] far = far_array
    cdef Scratch scratch = take(0, depth + 1, k + 1, 2 * net.g.stride)
    with nogil:
        for i in range(q):
            hits = 0
            if count:
                hits = code_chosen.ranges(&net.g, &queries[i, 0], net.mean, net.step, &order[0], &ranges[i, 0, 0], count, k, depth, allowed,
                                          &scratch.s, &ids[i, 0], &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    return id_array, far_array


def code_estimates(Net net not None, const float[:, ::1] queries, const int64_t[:, ::1] rows):
    cdef int64_t q = queries.shape[0], m = rows.shape[1], i, j
    if rows.shape[0] != q or queries.shape[1] != net.g.d:
        raise InvalidArgumentError(f"{rows.shape[0]} x {m} rows for {q} queries of {queries.shape[1]} dimensions; give rows of each query of {net.g.d}")
    made = np.empty((q, m), np.float32)
    if q == 0 or m == 0:
        return made
    for i in range(q):
        for j in range(m):
            if not -1 <= rows[i, j] < net.g.n:
                raise InvalidArgumentError(f"row {rows[i, j]} of {net.g.n}; give -1 for none")
    cdef float[:, ::1] far = made
    cdef Scratch scratch = take(0, 1, 1, 2 * net.g.stride)
    with nogil:
        for i in range(q):
            code_chosen.estimates(&net.g, &queries[i, 0], net.mean, net.step, &rows[i, 0], m, &scratch.s, &far[i, 0])
    put_back(scratch)
    return made


def pq_encode(const float[:, ::1] x, const float[:, :, ::1] books):
    cdef int64_t n = x.shape[0]
    made = np.empty((n, books.shape[0]), np.uint8)
    if books.shape[2] not in (16, 256) or books.shape[0] * books.shape[1] < x.shape[1] or books.shape[0] == 0:
        raise InvalidArgumentError(f"{x.shape[1]} dimensions by {books.shape[0]} parts of {books.shape[1]} with {books.shape[2]} centroids")
    if n == 0:
        return made
    cdef uint8_t[:, ::1] out = made
    cdef const float[:, ::1] halves = np.einsum("msc,msc->mc", books, books) / np.float32(2)
    with nogil:
        code_chosen.pq_encode(&x[0, 0], n, x.shape[1], &books[0, 0, 0], &halves[0, 0], books.shape[0], books.shape[1], books.shape[2], &out[0, 0])
    return made


cdef class ProductNet:
    """Product codes, checked once, as the loops take them."""

    cdef pq_net_t p
    cdef object kept

    def __init__(self, const float[:, ::1] points, const float[::1] scale, int metric, const float[:, :, ::1] books, codes, const float[::1] bias):
        cdef pq_net_t *p = &self.p
        cdef const uint8_t[::1] flat = codes.reshape(-1)
        p.g.n, p.g.d, p.g.metric = points.shape[0], points.shape[1], metric
        p.m, p.width, p.count = books.shape[0], books.shape[1], books.shape[2]
        p.pairs = (p.m + 3) // 4 * 2
        blocks = (p.g.n + 31) // 32
        wanted = (blocks, p.pairs, 32) if p.count == 16 else (32 * blocks, p.m)
        if p.g.n == 0 or p.m == 0 or p.count not in (16, 256) or p.m * p.width < p.g.d or codes.shape != wanted:
            raise InvalidArgumentError(f"codes {codes.shape} of {points.shape[0]} x {points.shape[1]} by {p.m} parts with {p.count} centroids; wanted {wanted}")
        if scale.shape[0] != p.g.n or bias.shape[0] != 32 * blocks or not 0 <= metric <= 4 or p.m > 4096:
            raise InvalidArgumentError(f"{scale.shape[0]} scales and {bias.shape[0]} biases for {p.g.n} rows, {p.m} parts; biases fill whole blocks of 32")
        p.g.points, p.g.scale, p.books, p.bias, p.codes = &points[0, 0], &scale[0], &books[0, 0, 0], &bias[0], &flat[0]
        self.kept = (points, scale, books, codes, bias)


def pq_net(points, scale, metric, books, codes, bias):
    return ProductNet(points, scale, metric, books, codes, bias)


def pq_ranges(ProductNet net not None, const float[:, ::1] queries, const float[:, ::1] base, const int64_t[::1] order, const int64_t[:, :, ::1] ranges,
              int64_t k, int64_t depth, const uint8_t[::1] mask):
    cdef int64_t q = queries.shape[0], i, j, hits, count = ranges.shape[1]
    cdef const uint8_t *allowed = NULL
    cdef pq_net_t *p = &net.p
    check_ranges(queries, order, ranges, k, depth, mask, p.g.n, p.g.d)
    if base.shape[0] != q or base.shape[1] != count:
        raise InvalidArgumentError(f"{base.shape[0]} x {base.shape[1]} bases for {q} x {count} ranges; give one for each")
    id_array, far_array = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    if q == 0 or k == 0:
        return id_array, far_array
    if mask is not None:
        allowed = &mask[0]
    cdef int64_t[:, ::1] ids = id_array
    cdef float[:, ::1] far = far_array
    cdef Scratch scratch = take(0, depth + 1, k + 1, 2 * p.m * (p.count + 1) + 32 * p.pairs + 64)
    with nogil:
        for i in range(q):
            hits = 0
            if count:
                hits = code_chosen.pq_ranges(p, &queries[i, 0], &base[i, 0], &order[0], &ranges[i, 0, 0], count, k, depth, allowed, &scratch.s,
                                             &ids[i, 0], &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    return id_array, far_array
