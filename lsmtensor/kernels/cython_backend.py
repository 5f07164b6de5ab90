"""The Cython backend: checks what C cannot, then runs compiled loops without the GIL.

``LSMTENSOR_ISA`` (baseline, avx2, avx512) overrides the instruction set chosen at import.
"""

from __future__ import annotations

import os

import numpy as np

from ..errors import InvalidArgumentError
from .cython import _graph as _g
from .cython import _kernels as _c
from .cython._checksum import crc32c_chunks
from .cython._graph import graph_insert, graph_search
from .cython._kernels import bloom_add, bloom_test, hash64_bytes, hash64_int64, search_bytes, search_int64

if not all([module.set_isa(os.environ.get("LSMTENSOR_ISA") or None) for module in (_c, _g)]):
    raise ImportError(f"LSMTENSOR_ISA={os.environ['LSMTENSOR_ISA']!r} cannot run here; this processor runs {_c.runnable()}")


def isa() -> str:
    return f"cython {_c.isa()}"


def _same_width(queries: np.ndarray, points: np.ndarray) -> None:
    if queries.shape[-1] != points.shape[-1]:
        raise InvalidArgumentError(f"queries have {queries.shape[-1]} dimensions, points {points.shape[-1]}")


def pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    _same_width(queries, points)
    result: np.ndarray = _c.pairwise(queries, points, metric)
    return result


def gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> np.ndarray:
    _same_width(query, points)
    if len(ids) and (ids.min() < 0 or ids.max() >= len(points)):
        raise InvalidArgumentError(f"ids reach from {ids.min()} to {ids.max()}; there are {len(points)} points")
    result: np.ndarray = _c.gathered(query, points, ids, metric)
    return result


def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    _same_width(queries, points)
    if mask is not None and len(mask) != len(points):
        raise InvalidArgumentError(f"the mask has {len(mask)} entries for {len(points)} points")
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    _c.topk(queries, points, k, metric, mask, ids, distances)
    return ids, distances


__all__ = [
    "bloom_add", "bloom_test", "crc32c_chunks", "gathered", "graph_insert", "graph_search", "hash64_bytes", "hash64_int64", "isa",
    "pairwise", "search_bytes", "search_int64", "topk",
]  # fmt: skip
