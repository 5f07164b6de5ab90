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
from .numba_pq import pq_encode, pq_net
from .numba_sparse import sparse_heavy, sparse_invert, sparse_near, sparse_net, sparse_search

_jit = njit(nogil=True, cache=True, error_model="numpy")
# sums may be split into lanes; NaN and infinities keep their meaning
_sum = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})


def isa() -> str:
    return f"numba {numba.__version__}"


# Four rows share one pass over the query: four streams of memory hide each other's latency.


@_sum
def _dot4(q, a, b, c, d):  # type: ignore[no-untyped-def]
    s = t = u = v = np.float32(0)
    for i in range(q.shape[0]):
        s += q[i] * a[i]
        t += q[i] * b[i]
        u += q[i] * c[i]
        v += q[i] * d[i]
    return s, t, u, v


@_sum
def _square4(q, a, b, c, d):  # type: ignore[no-untyped-def]
    s = t = u = v = np.float32(0)
    for i in range(q.shape[0]):
        w, x, y, z = q[i] - a[i], q[i] - b[i], q[i] - c[i], q[i] - d[i]
        s += w * w
        t += x * x
        u += y * y
        v += z * z
    return s, t, u, v


@_sum
def _absolute4(q, a, b, c, d):  # type: ignore[no-untyped-def]
    s = t = u = v = np.float32(0)
    for i in range(q.shape[0]):
        s += abs(q[i] - a[i])
        t += abs(q[i] - b[i])
        u += abs(q[i] - c[i])
        v += abs(q[i] - d[i])
    return s, t, u, v


@_sum
def _unequal4(q, a, b, c, d):  # type: ignore[no-untyped-def]
    s = t = u = v = np.float32(0)
    for i in range(q.shape[0]):
        s += np.float32(q[i] != a[i])
        t += np.float32(q[i] != b[i])
        u += np.float32(q[i] != c[i])
        v += np.float32(q[i] != d[i])
    return s, t, u, v


@_sum
def _norm(a):  # type: ignore[no-untyped-def]
    s = np.float32(0)
    for i in range(a.shape[0]):
        s += a[i] * a[i]
    return np.sqrt(s)


@_sum
def _dot_norm4(q, a, b, c, d):  # type: ignore[no-untyped-def]
    s = t = u = v = w = x = y = z = np.float32(0)
    for i in range(q.shape[0]):
        s += q[i] * a[i]
        t += q[i] * b[i]
        u += q[i] * c[i]
        v += q[i] * d[i]
        w += a[i] * a[i]
        x += b[i] * b[i]
        y += c[i] * c[i]
        z += d[i] * d[i]
    return s, t, u, v, np.sqrt(w), np.sqrt(x), np.sqrt(y), np.sqrt(z)


@_jit
def _cosine(dot, norms):  # type: ignore[no-untyped-def]
    return np.float32(1) if norms == 0 else np.float32(1) - dot / norms


@_jit
def _four(q, norm, a, b, c, d, metric):  # type: ignore[no-untyped-def]
    """Distances of a query, whose norm is known (cosine), to four rows."""
    if metric == 0:
        return _square4(q, a, b, c, d)
    if metric == 3:
        return _absolute4(q, a, b, c, d)
    if metric == 4:
        return _unequal4(q, a, b, c, d)
    if metric == 1:
        s, t, u, v = _dot4(q, a, b, c, d)
        return -s, -t, -u, -v
    s, t, u, v, w, x, y, z = _dot_norm4(q, a, b, c, d)
    return _cosine(s, norm * w), _cosine(t, norm * x), _cosine(u, norm * y), _cosine(v, norm * z)


@_jit
def _gathered(query, points, ids, metric, out):  # type: ignore[no-untyped-def]
    norm = _norm(query) if metric == 2 else np.float32(0)
    n = ids.shape[0]
    for i in range(0, n, 4):
        last = n - 1
        a, b, c = points[ids[i]], points[ids[min(i + 1, last)]], points[ids[min(i + 2, last)]]
        four = _four(query, norm, a, b, c, points[ids[min(i + 3, last)]], metric)
        for j in range(min(4, n - i)):
            out[i + j] = four[j]


def gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty(len(ids), np.float32)
    _gathered(query, points, ids, metric, out)
    return out


def pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty((len(queries), len(points)), np.float32)
    every = np.arange(len(points))
    for i, query in enumerate(queries):
        _gathered(query, points, every, metric, out[i])
    return out


@_jit
def _topk(queries, points, k, metric, rows, ids, distances):  # type: ignore[no-untyped-def]
    """The k nearest of ``points[rows]`` (all when ``rows`` is empty), kept sorted."""
    some = rows.shape[0] > 0
    n = rows.shape[0] if some else points.shape[0]
    last = n - 1
    for i in range(queries.shape[0]):
        norm = _norm(queries[i]) if metric == 2 else np.float32(0)
        size = 0
        for j in range(0, n, 4):
            w, x, y, z = j, min(j + 1, last), min(j + 2, last), min(j + 3, last)
            if some:
                w, x, y, z = rows[w], rows[x], rows[y], rows[z]
            four = _four(queries[i], norm, points[w], points[x], points[y], points[z], metric)
            for step in range(min(4, n - j)):
                d = four[step]
                if d != d or (size == k and not d < distances[i, k - 1]):
                    continue
                at = size if size < k else k - 1
                size = min(size + 1, k)
                while at > 0 and distances[i, at - 1] > d:
                    distances[i, at], ids[i, at] = distances[i, at - 1], ids[i, at - 1]
                    at -= 1
                distances[i, at], ids[i, at] = d, rows[j + step] if some else j + step


def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    rows = np.empty(0, np.int64) if mask is None else np.flatnonzero(mask)
    if k and len(points) and (mask is None or len(rows)):
        _topk(queries, points, k, metric, rows, ids, distances)
    return ids, distances


@_sum
def _assign(x, turned, norms, ids, distances):  # type: ignore[no-untyped-def]
    """``turned`` (d, k): the loop over centroids is the inner one, so that no sum is split."""
    scores = np.empty(norms.shape[0], np.float32)
    for i in range(x.shape[0]):
        scores[:] = norms
        square = np.float32(0)
        for j in range(x.shape[1]):
            value = x[i, j]
            square += value * value
            twice = np.float32(-2) * value
            for c in range(norms.shape[0]):
                scores[c] += twice * turned[j, c]
        best = 0
        for c in range(1, norms.shape[0]):
            if scores[c] < scores[best]:
                best = c
        ids[i], distances[i] = best, max(scores[best] + square, np.float32(0))


def assign(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    _assign(x, np.ascontiguousarray(centroids.T), (centroids**2).sum(1), ids, distances)
    return ids, distances


__all__ = [
    "angle_encode", "grid_encode", "half_encode", "scalar_encode", "turn",
    "code_estimates", "code_forest", "code_link", "code_net", "code_one", "code_ranges", "code_reverse", "code_scan", "code_search", "code_shrink", "page_net", "page_scan", "page_search", "pq_encode", "pq_net", "pq_ranges",
    "assign", "gathered", "graph_insert", "graph_search", "isa", "pairwise", "sparse_heavy", "sparse_invert", "sparse_near", "sparse_net", "sparse_search", "topk",
]  # fmt: skip
