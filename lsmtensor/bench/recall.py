"""Exact neighbours, and how many of them an answer holds."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError

BLOCK = 65536


def truth(points: np.ndarray, queries: np.ndarray, k: int, metric: str = "cosine") -> np.ndarray:
    """int64 (q, k): the rows of ``points`` nearest by cosine, l2 or ip, nearest first, ties by row; float64 throughout. O(q n d), a block of rows at a time."""
    if metric not in ("cosine", "l2", "ip"):
        raise InvalidArgumentError(f"exact neighbours by {metric!r}; give cosine, l2 or ip")
    asked = _unit(queries) if metric == "cosine" else queries.astype(np.float64)
    rows, far = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0))
    for at in range(0, len(points), BLOCK):
        some = points[at : at + BLOCK]
        wide = _unit(some) if metric == "cosine" else some.astype(np.float64)
        here = -(asked @ wide.T)
        if metric == "l2":
            here = np.einsum("nd,nd->n", wide, wide) + 2 * here
        kth = np.partition(here, min(k, len(some)) - 1, axis=1)[:, min(k, len(some)) - 1]
        new = [np.flatnonzero(line <= limit) for line, limit in zip(here, kth, strict=True)]
        # as many of each as any has: the rest lies infinitely far
        width = max(map(len, new), default=0)
        more, those = np.full((len(queries), width), np.inf), np.full((len(queries), width), -1)
        for i, found in enumerate(new):
            more[i, : len(found)], those[i, : len(found)] = here[i, found], found + at
        far, rows = np.concatenate([far, more], 1), np.concatenate([rows, those], 1)
        best = np.argsort(far, axis=1, kind="stable")[:, :k]
        far, rows = np.take_along_axis(far, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """The share of the true neighbours (q, k) that were found, in any order."""
    hits = sum(len(set(f.tolist()) & set(t.tolist())) for f, t in zip(found, true, strict=True))
    return hits / true.size
