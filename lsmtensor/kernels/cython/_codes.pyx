# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Walks and scans over quantized rows, compiled. Shapes are checked, the GIL is released, scratch is kept between calls."""

cimport numpy as np

from lsmtensor.kernels import numpy_codes, numpy_pages

include "_codes.pxi"

cdef extern from "_codes.h" nogil:
    int PAGE_BEAM
    ctypedef struct page_net_t "page_net":
        const net_t *g
        const uint8_t *pages
        const uint8_t *hot
        const uint32_t *order
        const uint32_t *links
        const int32_t *place
        const int32_t *slot
        const float *points
        int64_t per, span, record, width, warm, known
        int ahead
    ctypedef struct page_reader:
        uint8_t *held
        int64_t *whose
        int64_t room, reads, bad
    void page_begin()
    ctypedef struct code_table:
        const char *name
        int64_t (*search)(const net_t *, const float *, const float *, float, int64_t, int64_t, int64_t, int64_t, const uint8_t *,
                          const uint32_t *, int64_t, code_scratch *, int64_t *, float *) noexcept nogil
        int64_t (*scan)(const net_t *, const float *, const float *, float, int64_t, int64_t, const uint8_t *, code_scratch *, int64_t *,
                        float *) noexcept nogil
        int64_t (*ranges)(const net_t *, const float *, const float *, float, const int64_t *, const int64_t *, int64_t, int64_t, int64_t,
                          const uint8_t *, code_scratch *, int64_t *, float *) noexcept nogil
        void (*estimates)(const net_t *, const float *, const float *, float, const int64_t *, int64_t, code_scratch *, float *) noexcept nogil
        int64_t (*page_walk)(const page_net_t *, const float *, const float *, float, int64_t, int64_t, int64_t, const uint8_t *, code_scratch *,
                             page_reader *, int64_t *, float *) noexcept nogil
        int64_t (*page_scan)(const page_net_t *, const float *, const float *, float, int64_t, int64_t, const uint8_t *, code_scratch *,
                             page_reader *, int64_t *, float *) noexcept nogil
    const code_table *chosen

include "_isa.pxi"


page_begin()
np.import_array()


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
            hits = chosen.search(&net.g, &queries[i, 0], net.mean, net.step, k, ef, cap, depth, allowed, begin, own, &scratch.s, &ids[i, 0],
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
        hits = chosen.search(&net.g, x, net.mean, net.step, k, ef, ef, depth, NULL, NULL, 0, &scratch.s, id_at, far_at)
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
            hits = chosen.scan(&net.g, &queries[i, 0], net.mean, net.step, k, depth, allowed, &scratch.s, &ids[i, 0], &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    return id_array, far_array


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
                hits = chosen.ranges(&net.g, &queries[i, 0], net.mean, net.step, &order[0], &ranges[i, 0, 0], count, k, depth, allowed,
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
            chosen.estimates(&net.g, &queries[i, 0], net.mean, net.step, &rows[i, 0], m, &scratch.s, &far[i, 0])
    put_back(scratch)
    return made


include "_pages.pxi"
