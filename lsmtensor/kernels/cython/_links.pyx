# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Graphs over quantized rows are built, compiled. Shapes are checked, the GIL is released, scratch is kept between calls."""

include "_codes.pxi"

from lsmtensor.kernels.numpy_codes import NONE

cdef extern from "_links.h" nogil:
    int CODE_BLOCKS
    ctypedef struct link_table:
        const char *name
        void (*link)(const net_t *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, int64_t, int64_t, uint32_t *,
                     code_scratch *) noexcept nogil
        void (*reverse)(net_t *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, int64_t, int64_t, code_scratch *) noexcept nogil
        void (*near)(const net_t *, const int64_t *, int64_t, const uint32_t *, int64_t, int64_t, uint32_t *, code_scratch *) noexcept nogil
        void (*shrink)(const net_t *, int64_t, int64_t, int64_t, int64_t, uint32_t *, code_scratch *) noexcept nogil
    const link_table *chosen

include "_isa.pxi"


cdef table(int64_t rows, int64_t width):
    """An empty uint32 table that begins with a cache line."""
    room = np.empty(max(rows, 0) * width + 16, np.uint32)
    cdef int64_t skip = (-(<int64_t>room.ctypes.data) & 63) // 4
    return room[skip : skip + max(rows, 0) * width].reshape(max(rows, 0), width)


cdef int between(net_t *g, const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric) except -1:
    g.n, g.stride, g.metric, g.bits = codes.shape[0], codes.shape[1], metric, 8
    g.top = NULL
    if g.n == 0 or sums.shape[0] != g.n or sums.shape[1] != 2 or g.stride % 64 or g.stride == 0:
        raise InvalidArgumentError(f"{g.n} codes of {g.stride} bytes, {sums.shape[0]} x {sums.shape[1]} sums; give whole lines of 64, and two sums a row")
    g.codes, g.sums = &codes[0, 0], &sums[0, 0]
    return 0


cdef int building(net_t *g, const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric, const uint32_t[:, ::1] links) except -1:
    between(g, codes, sums, metric)
    g.width = links.shape[1]
    if links.shape[0] < g.n or not 0 < g.width < CODE_MAX_DEGREE:
        raise InvalidArgumentError(f"{links.shape[0]} rows of {g.width} links for {g.n} rows; give a row each, fewer than {CODE_MAX_DEGREE} links")
    g.links = <uint32_t *>&links[0, 0]
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
    if starts.shape[0] > CODE_ENTRIES or ef < 1:
        raise InvalidArgumentError(f"{starts.shape[0]} rows to begin from, ef {ef}; give at most {CODE_ENTRIES}, and 1 or more")
    cdef uint32_t[:, ::1] out = made
    cdef const uint32_t *begin = &starts[0] if starts.shape[0] else NULL
    cdef Scratch scratch = take(g.n, max(ef, CODE_TOP) + 1, ef + g.width + CODE_TRAIL + 2, 2 * g.stride)
    with nogil:
        chosen.link(&g, &nodes[0], nodes.shape[0], begin, starts.shape[0], ef, degree, alpha, &out[0, 0], &scratch.s)
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
        chosen.reverse(&g, &nodes[0], nodes.shape[0], &out[0, 0], out.shape[1], alpha, part, parts, &scratch.s)
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
        chosen.shrink(&g, start, stop, degree, alpha, &out[0, 0], &scratch.s)
    put_back(scratch)
    return made


def code_near(const uint8_t[:, ::1] codes, const int32_t[:, ::1] sums, int metric, const int64_t[::1] nodes, const uint32_t[::1] among, int64_t k):
    cdef net_t g
    cdef int64_t i
    made = table(nodes.shape[0], k)
    made[:] = NONE
    if nodes.shape[0] == 0 or among.shape[0] == 0 or k == 0:
        return made
    between(&g, codes, sums, metric)
    within(nodes, g.n, k, k)
    for i in range(among.shape[0]):
        if among[i] >= g.n:
            raise InvalidArgumentError(f"row {among[i]} of {g.n}")
    cdef uint32_t[:, ::1] out = made
    cdef int64_t blocks = (among.shape[0] + 31) // 32 * 32 if among.shape[0] <= CODE_BLOCKS else 0
    cdef Scratch scratch = take(0, 4 * (k + 8), 1, (2 + blocks // 2) * g.stride)
    with nogil:
        chosen.near(&g, &nodes[0], nodes.shape[0], &among[0], among.shape[0], k, &out[0, 0], &scratch.s)
    put_back(scratch)
    return made
