"""The Cython backend: compiled loops without the GIL; the contract's guards check what C cannot.

``LSMTENSOR_ISA`` (baseline, avx2, avx512) overrides the instruction set chosen at import.
"""

from __future__ import annotations

import os

import numpy as np

from .cython import _codes, _graph, _grid, _kernels, _links, _products, _sparse
from .cython._checksum import crc32c_chunks
from .cython._codes import code_estimates, code_forest, code_net, code_one, code_ranges, code_scan, code_search, page_net, page_scan, page_search
from .cython._graph import graph_insert, graph_search
from .cython._grid import angle_encode, grid_encode, half_encode, scalar_encode, turn
from .cython._kernels import (
    assign,
    block_bloom_add,
    block_bloom_test,
    bloom_add,
    bloom_test,
    gathered,
    hash64_bytes,
    hash64_int64,
    merge_bytes,
    merge_int64,
    pairwise,
    search_bytes,
    search_int64,
)
from .cython._links import code_link, code_near, code_reverse, code_shrink
from .cython._products import pq_encode, pq_net, pq_ranges
from .cython._shuffle import bitshuffle, shuffle, unbitshuffle, unshuffle
from .cython._sparse import sparse_heavy, sparse_invert, sparse_near, sparse_net, sparse_search


def compiled() -> dict[str, bool]:
    """{instruction set in this build: whether this processor runs it}, the widest last."""
    sets: dict[str, bool] = _kernels.compiled()
    return sets


if not all([module.set_isa(os.environ.get("LSMTENSOR_ISA") or None) for module in (_codes, _graph, _grid, _kernels, _links, _products, _sparse)]):
    raise ImportError(f"LSMTENSOR_ISA={os.environ['LSMTENSOR_ISA']!r} cannot run here; this processor runs {', '.join(n for n, runs in compiled().items() if runs)}")


def isa() -> str:
    return f"cython {_kernels.isa()}"


def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    _kernels.topk(queries, points, k, metric, mask, ids, distances)
    return ids, distances


__all__ = [
    "angle_encode", "grid_encode", "half_encode", "scalar_encode", "turn",
    "assign", "bitshuffle", "block_bloom_add", "block_bloom_test", "bloom_add", "bloom_test", "code_estimates", "code_forest", "code_link", "code_near", "code_net", "code_one", "code_ranges", "code_reverse", "code_scan", "code_search", "code_shrink", "crc32c_chunks", "gathered", "graph_insert",
    "graph_search", "hash64_bytes", "hash64_int64", "isa", "merge_bytes", "merge_int64", "page_net", "page_scan", "page_search", "pairwise", "pq_encode", "pq_net", "pq_ranges", "search_bytes", "search_int64", "shuffle", "sparse_heavy", "sparse_invert", "sparse_near", "sparse_net", "sparse_search", "topk",
    "unbitshuffle", "unshuffle",
]  # fmt: skip
