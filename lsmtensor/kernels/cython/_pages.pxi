# Walks and scans over codes whose rows lie in pages; of _pages.h. A part of _codes.pyx, whose nets these are over.

cdef class PageNet:
    """Rows in pages, checked once, as the loops take them."""

    cdef page_net_t p
    cdef Net net
    cdef object kept

    def __init__(self, Net net not None, const uint8_t[:, ::1] pages, const uint8_t[:, ::1] hot, const uint32_t[::1] order, const int32_t[::1] place,
                 const int32_t[::1] slot, const float[:, ::1] points, const uint32_t[:, ::1] links, int64_t known, bint ahead):
        cdef page_net_t *p = &self.p
        # numpy's form makes the checks
        plain = numpy_pages.Shape(net.g.n, net.g.d, *map(np.asarray, (pages, hot, order, place, slot, points, links)))
        p.g, p.width, p.known, p.ahead = &net.g, links.shape[1], known, ahead
        p.per, p.span, p.record, p.warm = plain.per, plain.span, plain.record, hot.shape[0]
        p.pages = &pages[0, 0] if pages.shape[0] else NULL
        p.hot = &hot[0, 0] if hot.shape[0] else NULL
        p.points = &points[0, 0] if points.shape[0] else NULL
        p.links = &links[0, 0] if links.shape[0] else NULL
        p.order, p.place, p.slot = &order[0], &place[0], &slot[0]
        self.net, self.kept = net, (pages, hot, order, place, slot, points, links, plain)


def page_net(net, pages, hot, order, place, slot, points, links, known, ahead):
    return PageNet(net, pages, hot, order, place, slot, points, links, known, ahead)


cdef found_in_pages(PageNet rows, const float[:, ::1] queries, int64_t k, int64_t ef, int64_t beam, const uint8_t[::1] mask):
    """What a walk finds, or with no ``beam`` a scan."""
    cdef int64_t q = queries.shape[0], i, j, hits = 0, reads
    cdef const uint8_t *allowed = NULL
    cdef net_t *g = &rows.net.g
    cdef page_reader reader
    if queries.shape[1] != g.d or (mask is not None and mask.shape[0] != g.n):
        raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, rows {g.d}; a mask has one entry a row")
    if k < 0 or ef < max(k, 1) or not 0 <= beam <= PAGE_BEAM:
        raise InvalidArgumentError(f"k {k}, {ef} kept, {beam} at a time; give k <= those kept, 1 or more, up to {PAGE_BEAM} at a time")
    id_array, far_array = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    if q == 0 or k == 0:
        return id_array, far_array, 0
    if mask is not None:
        allowed = &mask[0]
    cdef int64_t[:, ::1] ids = id_array
    cdef float[:, ::1] far = far_array
    reader.room = numpy_pages.room(q, rows.p.span)
    held, whose = np.empty(reader.room * rows.p.span * numpy_pages.BODY, np.uint8), np.full(reader.room, -1)
    cdef uint8_t[::1] held_at = held
    cdef int64_t[::1] whose_at = whose
    reader.held, reader.whose, reader.reads = &held_at[0], &whose_at[0], 0
    cdef Scratch scratch = take(g.n, max(ef, CODE_TOP) + 1, k + 1, 2 * g.stride)
    with nogil:
        for i in range(q):
            if beam:
                hits = chosen.page_walk(&rows.p, &queries[i, 0], rows.net.mean, rows.net.step, k, ef, beam, allowed, &scratch.s, &reader, &ids[i, 0], &far[i, 0])
            else:
                hits = chosen.page_scan(&rows.p, &queries[i, 0], rows.net.mean, rows.net.step, k, ef, allowed, &scratch.s, &reader, &ids[i, 0], &far[i, 0])
            if hits < 0:
                break
            for j in range(hits, k):
                ids[i, j] = -1
                far[i, j] = INFINITY
    put_back(scratch)
    if hits < 0:
        raise numpy_pages.damaged(reader.bad, rows.p.span, rows.p.known)
    return id_array, far_array, reader.reads


def page_search(PageNet net not None, const float[:, ::1] queries, int64_t k, int64_t ef, int64_t beam, const uint8_t[::1] mask):
    return found_in_pages(net, queries, k, ef, max(beam, 1), mask)


def page_scan(PageNet net not None, const float[:, ::1] queries, int64_t k, int64_t depth, const uint8_t[::1] mask):
    return found_in_pages(net, queries, k, depth, 0, mask)
