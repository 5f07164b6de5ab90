"""k-means over the distance kernels: what quantizers and cell indexes are trained with."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from . import choose


def kmeans(x: np.ndarray, k: int, *, seed: int = 0, iterations: int = 12, kernels: Any = None) -> np.ndarray:
    """float32 (k, d): centroids of Lloyd's algorithm over rows x float32 (n, d), begun from k different rows.

    A centroid that loses all its rows takes the row farthest from its own. The same for the same seed and backend.
    O(iterations n k d). Raises `InvalidArgumentError` for fewer rows than centroids, NaN or infinity.
    """
    if not 1 <= k <= len(x):
        raise InvalidArgumentError(f"{k} centroids of {len(x)} rows; give at least as many rows as centroids")
    if not np.isfinite(x).all():
        raise InvalidArgumentError("the training rows hold NaN or infinity")
    run: Any = kernels or choose()
    rng = np.random.default_rng(seed)
    x = run.resident(np.ascontiguousarray(x, np.float32))
    centroids = x[np.sort(rng.choice(len(x), k, replace=False))].copy()
    for _ in range(iterations):
        ids, far = run.assign(x, centroids)
        counts = np.bincount(ids, minlength=k)
        order = np.argsort(ids, kind="stable")
        starts = np.cumsum(counts) - counts
        there = counts > 0
        sums = np.add.reduceat(x[order].astype(np.float64), starts[there])
        fresh = centroids.copy()
        fresh[there] = (sums / counts[there, None]).astype(np.float32)
        if not there.all():
            fresh[~there] = x[np.argsort(-far, kind="stable")[: int((~there).sum())]]
        if np.array_equal(fresh, centroids):
            break
        centroids = fresh
    return centroids


def codebooks(x: np.ndarray, m: int, count: int, *, seed: int = 0, iterations: int = 12, kernels: Any = None) -> np.ndarray:
    """float32 (m, width, count): for each of m parts of rows float32 (n, d) the centroids of Lloyd's algorithm; width is d / m, rounded up.

    All parts at once, by `pq_encode`. A centroid that loses all its rows takes one drawn anew. O(iterations n d count). Raises `InvalidArgumentError`
    for fewer rows than centroids.
    """
    if len(x) < count:
        raise InvalidArgumentError(f"{len(x)} training rows for {count} centroids a part; give at least as many")
    run: Any = kernels or choose()
    rng = np.random.default_rng(seed)
    n, width = len(x), -(-x.shape[1] // m)
    parts = np.zeros((n, m * width), np.float32)
    parts[:, : x.shape[1]] = x
    split = parts.reshape(n, m, width)
    books = np.ascontiguousarray(split[np.sort(rng.choice(n, count, replace=False))].transpose(1, 2, 0))
    for _ in range(iterations):
        place = run.pq_encode(parts, books).astype(np.int64) + np.arange(m) * count
        flat, size = place.ravel(), m * count
        counts = np.bincount(flat, minlength=size)
        fresh = np.stack([np.bincount(flat, split[:, :, s].ravel(), size) for s in range(width)], 1) / np.maximum(counts, 1)[:, None]
        lost = np.flatnonzero(counts == 0)
        fresh[lost] = split[rng.integers(0, n, len(lost)), lost // count]
        made = np.ascontiguousarray(fresh.reshape(m, count, width).transpose(0, 2, 1), np.float32)
        if np.array_equal(made, books):
            break
        books = made
    return books
