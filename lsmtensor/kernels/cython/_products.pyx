# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Product codes, compiled. Shapes are checked, the GIL is released, scratch is kept between calls."""

include "_codes.pxi"

cdef extern from "_products.h" nogil:
    ctypedef struct pq_net_t "pq_net":
        net_t g
        const float *books
        const float *bias
        const uint8_t *codes
        int64_t m, width, count, pairs
    ctypedef struct pq_table:
        const char *name
        void (*pq_encode)(const float *, int64_t, int64_t, const float *, const float *, int64_t, int64_t, int64_t, uint8_t *) noexcept nogil
        int64_t (*pq_ranges)(const pq_net_t *, const float *, const float *, const int64_t *, const int64_t *, int64_t, int64_t, int64_t,
                             const uint8_t *, code_scratch *, int64_t *, float *) noexcept nogil
    const pq_table *chosen

include "_isa.pxi"


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
        chosen.pq_encode(&x[0, 0], n, x.shape[1], &books[0, 0, 0], &halves[0, 0], books.shape[0], books.shape[1], books.shape[2], &out[0, 0])
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
                hits = chosen.pq_ranges(p, &queries[i, 0], &base[i, 0], &order[0], &ranges[i, 0, 0], count, k, depth, allowed, &scratch.s,
                                             &ids[i, 0], &far[i, 0])
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    return id_array, far_array
