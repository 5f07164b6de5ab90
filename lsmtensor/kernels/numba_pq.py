"""Product codes in Numba: the loops of numpy_pq.py, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import numpy_pq
from .numba_codes import _add, _inverse, _jit, _nearest


@_jit
def _encode(x, books, out):  # type: ignore[no-untyped-def]
    m, width, count = books.shape
    far = np.empty(count, np.float32)
    for i in range(x.shape[0]):
        for j in range(m):
            far[:] = 0
            for s in range(width):
                v = x[i, j * width + s] if j * width + s < x.shape[1] else np.float32(0)
                for c in range(count):
                    far[c] += (v - books[j, s, c]) ** 2
            best = 0
            for c in range(count):
                if far[c] < far[best]:
                    best = c
            out[i, j] = best


def pq_encode(x: np.ndarray, books: np.ndarray) -> np.ndarray:
    out = numpy_pq.encode(x[:0], books)
    out = np.empty((len(x), books.shape[0]), np.uint8)
    _encode(x, books, out)
    return out


@_jit
def _ranges(queries, base, points, scale, metric, tables, steps, least, codes, bias, order, ranges, k, depth, mask, ids, far):  # type: ignore[no-untyped-def]
    pool, pool_n, done = np.empty(depth, np.float64), np.empty(depth, np.int64), np.zeros(depth, np.uint8)
    best, best_n, none = np.empty(k, np.float32), np.empty(k, np.int64), np.zeros(k, np.uint8)
    m, four = tables.shape[1], tables.shape[2] == 16
    flat = codes.ravel()
    pairs = codes.shape[1] if four else 0
    for q in range(queries.shape[0]):
        x, inverse, size = queries[q], _inverse(queries[q]), 0
        for r in range(ranges.shape[1]):
            for at in range(ranges[q, r, 0], ranges[q, r, 1]):
                if mask.shape[0] and not mask[order[at]]:
                    continue
                total = np.float32(0)
                for j in range(m):
                    if four:
                        both = np.int64(flat[(at // 32 * pairs + j // 2) * 32 + at % 32])
                        total += tables[q, j, both >> 4 if j & 1 else both & 15]
                    else:
                        total += tables[q, j, np.int64(flat[at * m + j])]
                d = (base[q, r] + least[q]) + bias[at] + steps[q] * total
                if _add(pool, pool_n, done, size, depth, np.float64(d), order[at]) >= 0:
                    size = min(size + 1, depth)
        got = _nearest(x, inverse, points, scale, metric, pool, pool_n, size, k, best, best_n, none)
        ids[q, :got], far[q, :got] = best_n[:got], best[:got]


class Net(numpy_pq.Net):
    """The arrays that numpy's holds, scanned by a compiled loop."""

    def ranges(
        self, queries: np.ndarray, base: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check(queries, base, order, ranges, k, depth)
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        if k and len(queries):
            made = [(t, np.float32(1), np.float32(0)) if t.shape[1] == 256 else self.rounded(t) for t in map(self.tables, queries)]
            tables = np.stack([t for t, _, _ in made]).astype(np.float32)
            steps, least = np.array([s for _, s, _ in made]), np.array([s for _, _, s in made])
            allowed = np.empty(0, np.uint8) if mask is None else mask
            _ranges(queries, base, self.points, self.scale, self.metric, tables, steps, least, self.codes, self.bias, order, ranges, k, depth, allowed, ids, far)
        return ids, far


def pq_net(points: np.ndarray, scale: np.ndarray, metric: int, books: np.ndarray, codes: np.ndarray, bias: np.ndarray) -> Any:
    return Net(points, scale, metric, books, codes, bias)
