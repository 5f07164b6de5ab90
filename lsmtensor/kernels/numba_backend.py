"""The Numba backend: the distance and graph loops compiled without the GIL, cached on disk.

Storage kernels are not hot enough in Python's own time to be worth their compile time here: they are
chosen apart (``RunConfig.storage_kernel``), so this backend holds the compute groups only.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit

from .contract_codes import code_estimates, code_forest, code_one, code_ranges, code_scan, code_search, page_net, page_scan, page_search, pq_ranges
from .numba_codes import code_link, code_net, code_reverse, code_shrink
from .numba_graph import graph_insert, graph_search
from .numba_grid import angle_encode, grid_encode, half_encode, scalar_encode, turn
from .numba_near import code_near
from .numba_pq import pq_encode, pq_net
from .numba_sparse import sparse_heavy, sparse_invert, sparse_near, sparse_net, sparse_search

_jit = njit(nogil=True, cache=True, error_model="numpy")
# sums may be split into lanes; NaN and infinities keep their meaning
_sum = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})


def isa() -> str:
    return f"numba {numba.__version__}"


# Rows are named by number: a slice of an array costs more than a short loop over it. A loop over one row becomes one of several vectors of sums.


@_sum
def _dot(q, points, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(q.shape[0]):
        total += q[i] * points[row, i]
    return total


@_sum
def _square(q, points, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(q.shape[0]):
        x = q[i] - points[row, i]
        total += x * x
    return total


@_sum
def _absolute(q, points, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(q.shape[0]):
        total += abs(q[i] - points[row, i])
    return total


@_sum
def _unequal(q, points, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(q.shape[0]):
        total += np.float32(q[i] != points[row, i])
    return total


@_sum
def _norm(points, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(points.shape[1]):
        total += points[row, i] * points[row, i]
    return np.sqrt(total)


@_sum
def _dot_norm(q, points, row):  # type: ignore[no-untyped-def]
    dot = square = np.float32(0)
    for i in range(q.shape[0]):
        dot += q[i] * points[row, i]
        square += points[row, i] * points[row, i]
    return dot, np.sqrt(square)


@_jit
def _far(q, norm, points, row, metric):  # type: ignore[no-untyped-def]
    """The distance of a query, whose norm is known (cosine), to a row."""
    if metric == 0:
        return _square(q, points, row)
    if metric == 1:
        return -_dot(q, points, row)
    if metric == 3:
        return _absolute(q, points, row)
    if metric == 4:
        return _unequal(q, points, row)
    dot, other = _dot_norm(q, points, row)
    norms = norm * other
    return np.float32(1) if norms == 0 else np.float32(1) - dot / norms


@_jit
def _norms(x, metric):  # type: ignore[no-untyped-def]
    out = np.zeros(x.shape[0], np.float32)
    if metric == 2:
        for i in range(x.shape[0]):
            out[i] = _norm(x, i)
    return out


@_jit
def _gathered(query, points, ids, metric, out):  # type: ignore[no-untyped-def]
    norm = _norms(query.reshape(1, -1), metric)[0]
    for i in range(ids.shape[0]):
        out[i] = _far(query, norm, points, ids[i], metric)


def gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty(len(ids), np.float32)
    _gathered(query, points, ids, metric, out)
    return out


@_jit
def _pairwise(queries, points, metric, out):  # type: ignore[no-untyped-def]
    norms = _norms(queries, metric)
    for a in range(queries.shape[0]):
        q, norm = queries[a], norms[a]
        for i in range(points.shape[0]):
            out[a, i] = _far(q, norm, points, i, metric)


def pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty((len(queries), len(points)), np.float32)
    _pairwise(queries, points, metric, out)
    return out


@_jit
def _keep(ids, distances, a, size, d, row):  # type: ignore[no-untyped-def]
    """Put a row among the nearest of query ``a``, of which there are ``size``; how many there are then. Empty places are at infinity."""
    k = ids.shape[1]
    if d != d or (size == k and not d < distances[a, k - 1]):
        return size
    at = size if size < k else k - 1
    while at > 0 and distances[a, at - 1] > d:
        distances[a, at], ids[a, at] = distances[a, at - 1], ids[a, at - 1]
        at -= 1
    distances[a, at], ids[a, at] = d, row
    return min(size + 1, k)


@_jit
def _topk(queries, points, metric, mask, ids, distances):  # type: ignore[no-untyped-def]
    norms = _norms(queries, metric)
    for a in range(queries.shape[0]):
        q, norm, size = queries[a], norms[a], 0
        for i in range(points.shape[0]):
            if mask.shape[0] == 0 or mask[i]:
                size = _keep(ids, distances, a, size, _far(q, norm, points, i, metric), i)


@_sum
def _block(queries, a, b, c, d, points, i, j, k, m, out):  # type: ignore[no-untyped-def]
    """The products of four queries with four rows, each loaded once for four sums."""
    ai = aj = ak = al = bi = bj = bk = bl = np.float32(0)
    ci = cj = ck = cl = di = dj = dk = dl = np.float32(0)
    for x in range(queries.shape[1]):
        p, q, r, s = queries[a, x], queries[b, x], queries[c, x], queries[d, x]
        t, u, v, w = points[i, x], points[j, x], points[k, x], points[m, x]
        ai, aj, ak, al = ai + p * t, aj + p * u, ak + p * v, al + p * w
        bi, bj, bk, bl = bi + q * t, bj + q * u, bk + q * v, bl + q * w
        ci, cj, ck, cl = ci + r * t, cj + r * u, ck + r * v, cl + r * w
        di, dj, dk, dl = di + s * t, dj + s * u, dk + s * v, dl + s * w
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = ai, aj, ak, al
    out[1, 0], out[1, 1], out[1, 2], out[1, 3] = bi, bj, bk, bl
    out[2, 0], out[2, 1], out[2, 2], out[2, 3] = ci, cj, ck, cl
    out[3, 0], out[3, 1], out[3, 2], out[3, 3] = di, dj, dk, dl


@_jit
def _topk_block(queries, points, metric, mask, ids, distances):  # type: ignore[no-untyped-def]
    """Products of a tile of rows, in cache, with all queries say which rows can be near; these get the distance that ``_topk`` gives."""
    n, many, width = points.shape[0], queries.shape[0], points.shape[1]
    # twice what rounding can do to sums of ``width`` terms, however they are split
    slack = np.float32(1.2e-7) * np.float32(width + 8)
    two, kept = np.float32(2), np.float32(1) - slack
    tile = max(131072 // (4 * width) // 4 * 4, 8)
    norms, sizes = _norms(queries, 2), np.zeros(many, np.int64)
    of_point, dots, least = np.empty(tile, np.float32), np.empty((4, 4), np.float32), np.empty(4, np.float32)
    of_query = norms * norms * kept if metric == 0 else norms
    for start in range(0, n, tile):
        stop = min(start + tile, n)
        for i in range(start, stop):
            norm = _norm(points, i)
            of_point[i - start] = norm * norm * kept if metric == 0 else norm
        for a in range(0, many, 4):
            last = many - 1
            for i in range(start, stop, 4):
                end = stop - 1
                _block(queries, a, min(a + 1, last), min(a + 2, last), min(a + 3, last), points, i, min(i + 1, end), min(i + 2, end), min(i + 3, end), dots)
                for b in range(min(4, many - a)):
                    worst, u, near = distances[a + b, ids.shape[1] - 1], of_query[a + b], False
                    for c in range(4):
                        w = of_point[min(i + c, end) - start]
                        if metric == 0:
                            least[c] = u + w - two * dots[b, c]
                        elif metric == 1:
                            least[c] = -dots[b, c] - u * w * slack
                        else:
                            norm = u * w
                            least[c] = kept - (dots[b, c] / norm if norm > 0 else np.float32(0))
                        near |= not least[c] > worst
                    if near:
                        for c in range(min(4, stop - i)):
                            if (mask.shape[0] and not mask[i + c]) or least[c] > distances[a + b, ids.shape[1] - 1]:
                                continue
                            d = _far(queries[a + b], norms[a + b], points, i + c, metric)
                            sizes[a + b] = _keep(ids, distances, a + b, sizes[a + b], d, i + c)


def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    if k and len(points):
        run = _topk_block if len(queries) >= 4 and metric <= 2 and points.shape[1] else _topk
        run(queries, points, metric, np.empty(0, np.uint8) if mask is None else mask, ids, distances)
    return ids, distances


@_sum
def _scores(x, a, b, c, d, turned, scores):  # type: ignore[no-untyped-def]
    """The products of four rows with every centroid, a column of ``turned`` (width, k) each: no sum is split, four rows and four values share every load."""
    p, q, r, s = scores[0], scores[1], scores[2], scores[3]
    scores[:] = 0
    width = x.shape[1]
    for j in range(0, width - 3, 4):
        a0, a1, a2, a3 = x[a, j], x[a, j + 1], x[a, j + 2], x[a, j + 3]
        b0, b1, b2, b3 = x[b, j], x[b, j + 1], x[b, j + 2], x[b, j + 3]
        c0, c1, c2, c3 = x[c, j], x[c, j + 1], x[c, j + 2], x[c, j + 3]
        d0, d1, d2, d3 = x[d, j], x[d, j + 1], x[d, j + 2], x[d, j + 3]
        t, u, v, w = turned[j], turned[j + 1], turned[j + 2], turned[j + 3]
        for i in range(turned.shape[1]):
            p[i] += a0 * t[i] + a1 * u[i] + a2 * v[i] + a3 * w[i]
            q[i] += b0 * t[i] + b1 * u[i] + b2 * v[i] + b3 * w[i]
            r[i] += c0 * t[i] + c1 * u[i] + c2 * v[i] + c3 * w[i]
            s[i] += d0 * t[i] + d1 * u[i] + d2 * v[i] + d3 * w[i]
    for j in range(width // 4 * 4, width):
        for i in range(turned.shape[1]):
            p[i] += x[a, j] * turned[j, i]
            q[i] += x[b, j] * turned[j, i]
            r[i] += x[c, j] * turned[j, i]
            s[i] += x[d, j] * turned[j, i]


@_jit
def _assign(x, turned, norms, ids, distances):  # type: ignore[no-untyped-def]
    n, scores = x.shape[0], np.empty((4, norms.shape[0]), np.float32)
    for at in range(0, n, 4):
        _scores(x, at, min(at + 1, n - 1), min(at + 2, n - 1), min(at + 3, n - 1), turned, scores)
        for i in range(at, min(at + 4, n)):
            best, far = 0, np.float32(np.inf)
            for c in range(norms.shape[0]):
                score = norms[c] - np.float32(2) * scores[i - at, c]
                if score < far:
                    best, far = c, score
            ids[i], distances[i] = best, max(far + _norm(x, i) ** 2, np.float32(0))


def assign(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    _assign(x, np.ascontiguousarray(centroids.T), (centroids**2).sum(1), ids, distances)
    return ids, distances


__all__ = [
    "angle_encode", "grid_encode", "half_encode", "scalar_encode", "turn",
    "code_estimates", "code_forest", "code_link", "code_near", "code_net", "code_one", "code_ranges", "code_reverse", "code_scan", "code_search", "code_shrink", "page_net", "page_scan", "page_search", "pq_encode", "pq_net", "pq_ranges",
    "assign", "gathered", "graph_insert", "graph_search", "isa", "pairwise", "sparse_heavy", "sparse_invert", "sparse_near", "sparse_net", "sparse_search", "topk",
]  # fmt: skip
