"""Inputs of all benchmarks: fixed seeds, bundled real data, two sizes."""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np

from lsmtensor import indexes, kernels
from lsmtensor.bench import datasets
from lsmtensor.errors import LsmTensorError
from lsmtensor.indexes import VectorIndex

SMOKE = os.environ.get("LSMTENSOR_ASV") == "smoke"
"""Tiny inputs: to see that a benchmark runs, not to read its figure."""
QUERIES = 20 if SMOKE else 100
K = 10


def rows(regular: int, smoke: int = 300) -> int:
    return smoke if SMOKE else regular


@lru_cache(1)
def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """(points, queries) of the bundled real data, float32 of 384 dimensions (48 of them when small); queries are not among the points."""
    data = datasets.debian().embeddings
    order = np.random.default_rng(0).permutation(len(data))
    if SMOKE:
        data = np.ascontiguousarray(data[:, :48])
    points = data[np.sort(order[QUERIES:])][: rows(4000)]
    return np.ascontiguousarray(points), np.ascontiguousarray(data[order[:QUERIES]])


def backends() -> list[str]:
    """What can be loaded; when small, without the one that compiles for a minute before it does anything."""
    there = [name for name, what in kernels.available().items() if not what.startswith("unavailable")]
    return [name for name in there if name != "numba"] if SMOKE else there


def dense_indexes() -> list[str]:
    """Every index of the registry that takes dense vectors at its defaults."""
    found = []
    for name in indexes.names():
        factory = indexes.REGISTRY.get(name)
        if not (isinstance(factory, type) and issubclass(factory, VectorIndex)):
            continue
        try:
            indexes.create(name, dim=8, metric="cosine")
        except LsmTensorError:  # it wants parameters, such as the two halves of a hybrid
            continue
        found.append(name)
    return found
