"""The nearest of some coded rows to others for Numba, as numpy_codes.py defines them."""

from __future__ import annotations

import numpy as np

from .numba_codes import _add, _between, _centre, _jit
from .numpy_codes import NONE


@_jit
def _nearest_of(codes, sums, metric, nodes, among, k, out):  # type: ignore[no-untyped-def]
    pool, pool_n, done = np.empty(k, np.float64), np.empty(k, np.int64), np.zeros(k, np.uint8)
    values = np.empty((1, codes.shape[1]), np.int8)
    for i in range(nodes.shape[0]):
        node, size = nodes[i], 0
        _centre(codes[node], values)
        for j in range(among.shape[0]):
            other = np.int64(among[j])
            if other != node and _add(pool, pool_n, done, size, k, _between(codes, sums, metric, codes[node], values, node, other), other) >= 0:
                size = min(size + 1, k)
        for j in range(size):
            out[i, j] = pool_n[j]


def code_near(codes: np.ndarray, sums: np.ndarray, metric: int, nodes: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    out = np.full((len(nodes), k), NONE, np.uint32)
    if k:
        _nearest_of(codes, sums, metric, nodes, among, k, out)
    return out
