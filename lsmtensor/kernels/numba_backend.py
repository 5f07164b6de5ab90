"""The Numba backend: the distance and graph loops compiled without the GIL, cached on disk.

Storage kernels are not hot enough in Python's own time to be worth their compile time here: they are
chosen apart (``RunConfig.storage_kernel``), so this backend holds the compute groups only.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit

from .numba_graph import distance as _distance
from .numba_graph import graph_insert, graph_search

_jit = njit(nogil=True, cache=True, error_model="numpy")
_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})


def isa() -> str:
    return f"numba {numba.__version__}"


@_fast
def _scale(row: np.ndarray) -> np.floating:
    total = np.float32(0)
    for i in range(row.shape[0]):
        total += row[i] * row[i]
    return np.float32(1) / np.sqrt(total) if total != 0 else np.float32(0)


@_jit
def _pairwise(queries, points, metric, out):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    for i in range(queries.shape[0]):
        sq = _scale(queries[i]) if metric == 2 else one
        for j in range(points.shape[0]):
            out[i, j] = _distance(queries[i], sq, points[j], _scale(points[j]) if metric == 2 else one, metric)


def pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty((len(queries), len(points)), np.float32)
    _pairwise(queries, points, metric, out)
    return out


@_jit
def _gathered(query, points, ids, metric, out):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    sq = _scale(query) if metric == 2 else one
    for j in range(ids.shape[0]):
        p = points[ids[j]]
        out[j] = _distance(query, sq, p, _scale(p) if metric == 2 else one, metric)


def gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty(len(ids), np.float32)
    _gathered(query, points, ids, metric, out)
    return out


@_jit
def _topk(queries, points, k, metric, mask, ids, distances):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    for i in range(queries.shape[0]):
        sq = _scale(queries[i]) if metric == 2 else one
        size = 0
        for j in range(points.shape[0]):
            if mask.shape[0] and not mask[j]:
                continue
            d = _distance(queries[i], sq, points[j], _scale(points[j]) if metric == 2 else one, metric)
            if d != d or (size == k and not d < distances[i, k - 1]):
                continue
            at = size if size < k else k - 1
            size = min(size + 1, k)
            while at > 0 and distances[i, at - 1] > d:
                distances[i, at], ids[i, at] = distances[i, at - 1], ids[i, at - 1]
                at -= 1
            distances[i, at], ids[i, at] = d, j


def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    if k:
        _topk(queries, points, k, metric, np.empty(0, np.uint8) if mask is None else mask, ids, distances)
    return ids, distances


__all__ = ["gathered", "graph_insert", "graph_search", "isa", "pairwise", "topk"]
