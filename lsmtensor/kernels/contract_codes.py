"""The part of the contract about graphs and quantized rows; see contract.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from .declare import kernel, plain

# -- graph -----------------------------------------------------------------------------------------
# The definitions stand in numpy_graph.py; they are long enough for a file.


@kernel("graph", "rounding")
def graph_insert(
    points: np.ndarray, scale: np.ndarray, metric: int, links: np.ndarray, upper: np.ndarray, upper_at: np.ndarray,
    levels: np.ndarray, state: np.ndarray, start: int, stop: int, ef: int,
) -> None:  # fmt: skip
    """Insert points [start, stop) into a hierarchical graph, in order (Malkov & Yashunin, TPAMI 2020).

    points float32 (n, d), d >= 1; scale float32 (n,), inverse norms (cosine; 0 for a zero vector); links uint32
    (n, 2m), level 0; upper uint32 (rows, m), a row for each level above 0 of each node, the first at
    upper_at[node] (int64 (n,)); levels uint8 (n,); state int64 (2,): entry point (-1: none) and its level. A row
    of links ends at 0xFFFFFFFF. links, upper and state are changed. ``ef`` >= 1 is the beam of the build. O(log n)
    hops of 2m distances each in practice. Ties go to the lower node: one graph in every backend where sums are exact.
    """
    from . import numpy_graph

    numpy_graph.insert(points, scale, metric, links, upper, upper_at, levels, state, start, stop, ef)


@kernel("graph", "rounding")
def graph_search(
    queries: np.ndarray, points: np.ndarray, scale: np.ndarray, metric: int, links: np.ndarray, upper: np.ndarray,
    upper_at: np.ndarray, state: np.ndarray, k: int, ef: int, mask: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(ids int64 (q, k), distances float32 (q, k)): the k nearest that a beam finds, by (distance, id), then -1 and inf.

    queries float32 (q, d), ef >= k; the graph as `graph_insert` left it. Without a mask the beam is ``ef`` wide. With
    one, uint8 (n,), the walk crosses every point, answers those whose mask is not 0, and goes on until ``ef`` of
    these are kept and no nearer point is unexpanded, within a beam of 32 ef.
    """
    from . import numpy_graph

    return numpy_graph.search(queries, points, scale, metric, links, upper, upper_at, state, k, ef, mask)


@kernel("graph", "exact")
def code_link(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, nodes: np.ndarray, starts: np.ndarray, top: Any, ef: int, degree: int,
    alpha: int,
) -> np.ndarray:  # fmt: skip
    """uint32 (len(nodes), degree): links for some rows, int64, from walks in the graph as it is; a row ends at 0xFFFFFFFF.

    codes uint8 (n, lines * 64), values around 128; sums int32 (n, 2), of squares and of values around 128; links uint32 (n, width),
    which is only read. A walk begins at ``starts``, uint32, at most 32; where there are none, at the four nearest that a walk 8 wide finds in
    ``top``: (codes, sums, links, rows uint32) of a graph over some rows, and without that at the links that the row has. Candidates are the ``ef`` nearest of the walk, the 64 that it expanded first and
    the links that the row has; nearest first, each is kept that no kept one comes between: alpha d(kept, it) > 256 d(row, it), without alpha for inner
    products. Ties go to the lower row.
    """
    from . import numpy_codes

    return numpy_codes.link(codes, sums, metric, links, nodes, starts, top, ef, degree, alpha)


@kernel("graph", "exact")
def code_reverse(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, out: np.ndarray, nodes: np.ndarray, alpha: int, part: int, parts: int,
) -> None:  # fmt: skip
    """Give rows ``nodes`` the links that `code_link` found, and each of these the link back.

    Only rows whose number leaves ``part`` modulo ``parts`` are changed: the parts together are the whole, whatever runs beside what.
    A row of links (n, width) that overflows is chosen anew, up to the width of ``out``, as in `code_link`.
    """
    from . import numpy_codes

    numpy_codes.reverse(codes, sums, metric, links, out, nodes, alpha, part, parts)


@kernel("graph", "exact")
def code_shrink(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, start: int, stop: int, degree: int, alpha: int
) -> np.ndarray:
    """uint32 (stop - start, degree): rows [start, stop) of links (m, width), chosen anew where there are more than ``degree``; links
    to rows beyond the codes are dropped."""
    from . import numpy_codes

    return numpy_codes.shrink(codes, sums, metric, links, start, stop, degree, alpha)


@kernel("graph", "exact")
def code_near(codes: np.ndarray, sums: np.ndarray, metric: int, nodes: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    """uint32 (len(nodes), k): of the rows ``among``, uint32, the k nearest to each of ``nodes``, int64, in order, without itself; a row ends at 0xFFFFFFFF. Ties go to the lower row."""
    from . import numpy_codes

    return numpy_codes.nearest(codes, sums, metric, nodes, among, k)


@kernel("graph", "exact")
def code_forest(planes: np.ndarray, shifts: np.ndarray, keys: np.ndarray, rows: np.ndarray, nprobe: int, window: int) -> Any:
    """Where walks begin, in a backend's own form, checked once, for `code_net`: planes float32 (t, 32, d), shifts float32 (t, 32), keys uint32 (t, m) in
    order, the rows uint32 (t, m) that have them.

    A query (of unit length for cosine) has in each table the key of the sides it lies on, plane . query > shift, first plane highest; of planes in 8 bits, their largest value at
    127, and the query as `code_net` has it, v. Begun from are the rows at the ``window`` places around where it belongs, and around keys with one bit changed, the nprobe - 1 least
    sure of the first log2(m / window). t nprobe window <= 512.
    """
    from . import numpy_codes

    return numpy_codes.Forest(planes, shifts, keys, rows, nprobe, window)


@kernel("graph", "exact")
def code_net(
    points: np.ndarray, scale: np.ndarray, metric: int, mean: np.ndarray, step: float, codes: np.ndarray, squares: np.ndarray,
    factors: np.ndarray, bits: int, links: np.ndarray, top: Any, rows: np.ndarray | None, forest: Any = None,
) -> Any:  # fmt: skip
    """Rows and their codes in a backend's own form, checked once, for `code_search`, `code_one` and `code_scan`.

    points float32 (n, d); scale float32 (n,), inverse norms (cosine); mean float32 (d,). codes uint8 (n, lines * 64): of ``bits`` 8, values
    c - 128, or 4, values 2 c - 15, where bytes of a line hold values i and i + 64. A query (l2: less the mean), scaled to 127 by its
    largest value and rounded, is v; a row is estimated at square - factor f (v . values), f undoing the query's scale: squares
    float32 (n,) for l2, else (0,); factors float32 (n,) of 4-bit rows, else (0,) and ``step`` for all. l1 and hamming compare 8-bit codes
    with those of the query. links uint32 (n, width), or (0, 0). A walk begins at the four nearest that one
    8 wide finds in ``top``, the net of a graph over ``rows``, uint32; without it at 32 rows scattered over all; but
    where there is a ``forest``, of `code_forest`, at its rows. Without points, (0, d), a net is for `code_estimates` alone.
    """
    from . import numpy_codes

    return numpy_codes.Net(points, scale, metric, mean, step, codes, squares, factors, bits, links, top, rows, forest)


def _guard_code_search(net: Any, queries: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    return net, plain(queries), *rest


@kernel("graph", "rounding", _guard_code_search)
def code_search(
    net: Any, queries: np.ndarray, k: int, ef: int, depth: int, mask: np.ndarray | None, starts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64 (q, k), distances float32 (q, k)): the k nearest that a walk over codes finds, then -1 and inf.

    The walk keeps the ``ef`` nearest estimates, by (estimate, row), and expands two at a time; the first ``depth`` at most are looked at
    in full, k <= depth <= ef, fewer once three standard deviations of the error seen would not bring another in. With a mask, uint8 (n,), it crosses every row, keeps the ``ef`` nearest allowed, and ends when nothing nearer is unexpanded, within a beam
    of 32 ef. It begins where the net says, or at the query's own ``starts``, uint32 (q, s), 1 <= s <= 512, repeats allowed.
    """
    return net.search(queries, k, ef, depth, mask, starts)  # type: ignore[no-any-return]


@kernel("graph", "rounding")
def code_one(net: Any, query: np.ndarray, k: int, ef: int, depth: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(ids (k,), distances (k,)) of one query (d,), the same as `code_search`; None unless it is a contiguous finite float32 row
    and k are found: the caller then takes the long way, with its checks."""
    if type(query) is not np.ndarray or query.dtype != np.float32 or query.ndim != 1 or not query.flags.carray or not np.isfinite(query).all():
        return None
    if len(query) != net.d or not 1 <= k <= depth <= ef:
        return None
    ids, far = net.search(query[None, :], k, ef, depth, None, None)
    return None if (ids < 0).any() else (ids[0], far[0])


@kernel("quantized", "rounding", _guard_code_search)
def code_scan(net: Any, queries: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The same over every row whose mask is not 0: ``depth`` by estimate, of these the k nearest. O(q n d / 64) and depth full distances."""
    return net.scan(queries, k, depth, mask)  # type: ignore[no-any-return]


@kernel("quantized", "rounding", _guard_code_search)
def code_ranges(
    net: Any, queries: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `code_scan`, over ranges of places: ranges int64 (q, p, 2), of which a query's do not overlap.

    Codes, squares and factors of the net lie in some order of rows: order int64 (n,), a permutation, says whose are at a place. Points, scale and
    mask are by row. O(places d / 64) a query and depth full distances.
    """
    return net.ranges(queries, order, ranges, k, depth, mask)  # type: ignore[no-any-return]


@kernel("quantized", "rounding", _guard_code_search)
def code_estimates(net: Any, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 (q, m): how far queries are by the codes of some rows of each, rows int64 (q, m); inf where a row is -1. O(q m d / 64)."""
    return net.estimates(queries, rows)  # type: ignore[no-any-return]


@kernel("graph", "exact")
def page_net(
    net: Any, pages: np.ndarray, hot: np.ndarray, order: np.ndarray, place: np.ndarray, slot: np.ndarray, points: np.ndarray, links: np.ndarray,
    known: int, ahead: bool,
) -> Any:  # fmt: skip
    """Rows with their links in pages, in a backend's own form, checked once, for `page_search` and `page_scan`.

    ``net`` is a `code_net` of all n rows without points. A record is a float32 row and its uint32 links, ``per`` = max(1, 4092 // record) of them a unit of as
    few pages as hold them; pages uint8 (units * span, 4096) are 4,092 bytes and the CRC32C of these, continued from the page's number. hot uint8 (w, span * 4092) are the first w units,
    checked, without sums. order uint32 (n,) says which row is at a place, place int32 (n,) the reverse: rows of one place // per are expanded together. slot int32
    (n,) says where a row's record lies in the pages, or -1 - i for row i of points float32 (m, d). links uint32 (n, width), or (0, width) where they are those of the
    records, which lead to rows below ``known``. ``ahead``: the pages are a map of a file, to be asked for before they are read.
    """
    from . import numpy_pages

    return numpy_pages.Net(net, pages, hot, order, place, slot, points, links, known)


@kernel("graph", "rounding", _guard_code_search)
def page_search(net: Any, queries: np.ndarray, k: int, ef: int, beam: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
    """(ids int64 (q, k), distances float32 (q, k), pages read): the k nearest, by full rows, of those that a walk by codes reads and the mask, uint8 (n,), allows.

    The walk keeps the ``ef`` nearest estimates, k <= ef, begins where `code_search` does, and expands up to ``beam`` <= 1024 at a time: all rows of their units
    are looked at in full, and of these the rows that would be kept are expanded too. A page that several queries ask for is read once while 8 MiB hold what was read.
    `CorruptionError` for a page whose sum is not its own, or whose links lead astray.
    """
    return net.search(queries, k, ef, beam, mask)  # type: ignore[no-any-return]


@kernel("graph", "rounding", _guard_code_search)
def page_scan(net: Any, queries: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
    """The same over the ``depth`` nearest by code of all rows that the mask allows."""
    return net.scan(queries, k, depth, mask)  # type: ignore[no-any-return]


@kernel("quantized", "rounding")
def pq_encode(x: np.ndarray, books: np.ndarray) -> np.ndarray:
    """uint8 (n, m): of each part of rows float32 (n, d) the nearest centroid, books float32 (m, width, 16 or 256), the first of equals.

    Values beyond d are 0. O(n d count).
    """
    from . import numpy_pq

    return numpy_pq.encode(x, books)


@kernel("quantized", "exact")
def pq_net(points: np.ndarray, scale: np.ndarray, metric: int, books: np.ndarray, codes: np.ndarray, bias: np.ndarray) -> Any:
    """Product codes in a backend's own form, checked once, for `pq_ranges`.

    points float32 (n, d) and scale float32 (n,) as in `code_net`; books float32 (m, width, count), (part, value, centroid). With 256 centroids codes are
    uint8 (n, m); with 16 they are blocks of 32 rows, (blocks, pairs, 32), an even number of pairs of parts, the even part in the low half. Codes and
    biases, float32, lie in some order of rows and fill whole blocks of 32.
    """
    from . import numpy_pq

    return numpy_pq.Net(points, scale, metric, books, codes, bias)


def _guard_pq_ranges(net: Any, queries: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    return net, plain(queries), *rest


@kernel("quantized", "rounding", _guard_pq_ranges)
def pq_ranges(
    net: Any, queries: np.ndarray, base: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64 (q, k), distances float32 (q, k)) over ranges of places, int64 (q, p, 2), as `code_ranges` does.

    A row in range r is estimated at base[q, r] + bias + the sum over its parts of -2 q.centroid, or -q.centroid for cosine, the query of unit length, and ip. l1 and hamming
    are ranked by squared distance. With 16 centroids the sums are of whole numbers, a table's least taken off and all of one step, at most 127 and 65535 / m of them. The ``depth`` best are
    looked at in full. O(places m / 64) for 16 centroids.
    """
    return net.ranges(queries, base, order, ranges, k, depth, mask)  # type: ignore[no-any-return]
