"""Exact neighbours, and how many of them an answer holds."""

from __future__ import annotations

import numpy as np


def truth(points: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """int64 (q, k): the rows of ``points`` nearest by cosine, nearest first, ties by row; float64 throughout. O(q n d)."""
    return np.argsort(1 - _unit(queries) @ _unit(points).T, axis=1, kind="stable")[:, :k]


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """The share of the true neighbours (q, k) that were found, in any order."""
    hits = sum(len(set(f.tolist()) & set(t.tolist())) for f, t in zip(found, true, strict=True))
    return hits / true.size
