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
def _block(words, block, tables, sums):  # type: ignore[no-untyped-def]
    """The sums of 32 rows, whose codes of a pair of parts are a byte each of four words; tables (pairs, 256)."""
    byte = np.uint64(255)
    for w in range(4):
        a = b = c = d = e = f = g = h = np.uint32(0)
        for pair in range(words.shape[1]):
            v = words[block, pair, w]
            a += tables[pair, v & byte]
            b += tables[pair, v >> np.uint64(8) & byte]
            c += tables[pair, v >> np.uint64(16) & byte]
            d += tables[pair, v >> np.uint64(24) & byte]
            e += tables[pair, v >> np.uint64(32) & byte]
            f += tables[pair, v >> np.uint64(40) & byte]
            g += tables[pair, v >> np.uint64(48) & byte]
            h += tables[pair, v >> np.uint64(56)]
        at = 8 * w
        sums[at], sums[at + 1], sums[at + 2], sums[at + 3] = a, b, c, d
        sums[at + 4], sums[at + 5], sums[at + 6], sums[at + 7] = e, f, g, h


@_jit
def _ranges(queries, base, points, scale, metric, tables, steps, least, codes, words, bias, order, ranges, k, depth, mask, ids, far):  # type: ignore[no-untyped-def]
    """``codes`` (places, parts) of 256 centroids, or ``words`` (blocks, pairs, 4) of 16, whose tables are those of pairs."""
    pool, pool_n, done = np.empty(depth, np.float64), np.empty(depth, np.int64), np.zeros(depth, np.uint8)
    best, best_n, none = np.empty(k, np.float32), np.empty(k, np.int64), np.zeros(k, np.uint8)
    sums = np.empty(32, np.float32)
    for q in range(queries.shape[0]):
        x, inverse, size, table = queries[q], _inverse(queries[q]), 0, tables[q]
        for r in range(ranges.shape[1]):
            start, stop, offset = ranges[q, r, 0], ranges[q, r, 1], base[q, r] + least[q]
            for first in range(start // 32 * 32, stop, 32):
                begin, end = max(start, first), min(stop, first + 32)
                if words.shape[0]:
                    _block(words, first // 32, table, sums)
                else:
                    for at in range(begin, end):
                        total = np.float32(0)
                        for j in range(table.shape[0]):
                            total += table[j, codes[at, j]]
                        sums[at - first] = total
                for at in range(begin, end):
                    d = np.float64(offset + bias[at] + steps[q] * sums[at - first])
                    if (size == depth and d > pool[depth - 1]) or (mask.shape[0] and not mask[order[at]]):
                        continue
                    if _add(pool, pool_n, done, size, depth, d, order[at]) >= 0:
                        size = min(size + 1, depth)
        got = _nearest(x, inverse, points, scale, metric, pool, pool_n, size, k, best, best_n, none)
        ids[q, :got], far[q, :got] = best_n[:got], best[:got]


def _of_pairs(table: np.ndarray, pairs: int) -> np.ndarray:
    """uint16 (pairs, 256), half of what the first-level cache holds: what a byte of two codes adds, by the whole numbers (m, 16) that each adds."""
    whole = np.zeros((2 * pairs, 16), np.uint16)
    whole[: len(table)] = table
    return (whole[1::2, :, None] + whole[::2, None, :]).reshape(pairs, 256)


class Net(numpy_pq.Net):
    """The arrays that numpy's holds, scanned by a compiled loop."""

    def ranges(
        self, queries: np.ndarray, base: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check(queries, base, order, ranges, k, depth)
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        if k and len(queries):
            four = self.books.shape[2] == 16
            made = [self.rounded(t) if four else (t, np.float32(1), np.float32(0)) for t in map(self.tables, queries)]
            tables = np.stack([_of_pairs(t, self.pairs) if four else t for t, _, _ in made])
            steps, least = np.array([s for _, s, _ in made]), np.array([s for _, _, s in made])
            codes, words = np.empty((0, 0), np.uint8), np.empty((0, 0, 0), np.uint64)
            if four:
                words = np.ascontiguousarray(self.codes).view(np.uint64)
            else:
                codes = self.codes
            allowed = np.empty(0, np.uint8) if mask is None else mask
            _ranges(queries, base, self.points, self.scale, self.metric, tables, steps, least, codes, words, self.bias, order, ranges, k, depth, allowed, ids, far)
        return ids, far


def pq_net(points: np.ndarray, scale: np.ndarray, metric: int, books: np.ndarray, codes: np.ndarray, bias: np.ndarray) -> Any:
    return Net(points, scale, metric, books, codes, bias)
