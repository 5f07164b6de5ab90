"""What checks of indexes share: rows to try, float64 distances to every row, and what an answer must look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..errors import LsmTensorError
from ..indexes import VectorIndex

METRICS = ("l2", "cosine", "ip", "l1", "hamming")


class Make(Protocol):
    """An empty index of the kind under test."""

    def __call__(self, dim: int, metric: str = "l2") -> VectorIndex: ...


def vectors(seed: int, n: int, dim: int, clusters: int = 0) -> np.ndarray:
    """Float32 (n, dim) with a falling spectrum, as embeddings have; around ``clusters`` centres, or round one."""
    luck = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1 + np.arange(dim))
    rows = luck.standard_normal((n, dim)) * spread
    if clusters:
        rows = rows / 3 + (np.random.default_rng(1000).standard_normal((clusters, dim)) * spread)[luck.integers(0, clusters, n)]
    return rows.astype(np.float32)


def true_distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Float64 (q, n)."""
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)
        return 1 - np.divide(q @ x.T, norms, out=np.zeros(norms.shape), where=norms > 0)
    if metric == "ip":
        return -(q @ x.T)
    difference = q[:, None, :] - x
    if metric == "l2":
        return np.sqrt((difference**2).sum(2))
    return np.abs(difference).sum(2) if metric == "l1" else (difference != 0).sum(2).astype(np.float64)


def recall(found: np.ndarray, truth: np.ndarray, k: int) -> float:
    """The share of answers within the k-th true distance: safe about ties."""
    limit = np.sort(truth, axis=1)[:, min(k, truth.shape[1]) - 1][:, None]
    return float((found <= limit + 1e-4 * np.abs(limit) + 1e-5).mean())


def expect(error: type[LsmTensorError], part: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except error as why:
        assert part in str(why), f"{part!r} is not in {why!r}"
    else:
        raise AssertionError(f"no {error.__name__}")


def sound(ids: np.ndarray, distances: np.ndarray) -> None:
    """Sorted, no id twice, -1 and inf at the end only and together."""
    assert ids.dtype == np.int64 and distances.dtype == np.float32 and ids.shape == distances.shape
    assert ((ids == -1) == np.isinf(distances)).all()
    assert (distances[:, :-1] <= distances[:, 1:]).all(), "not nearest first"
    for row in ids:
        real = row[row >= 0]
        assert len(set(real.tolist())) == len(real), f"an id twice in {row}"
