"""The kernels over posting lists for Numba: bounds of every row, then the scores of those that they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .contract_sparse import ADDED, CHUNK, Heavy, Net, best_of, sparse_heavy, sparse_invert, sparse_near, sparse_search

_jit = njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _add(sums, rows, impacts, by):  # type: ignore[no-untyped-def]
    for p in range(rows.shape[0]):
        sums[rows[p]] += impacts[p] * by >> 8


@_jit
def _add_all(sums, dense, by):  # type: ignore[no-untyped-def]
    for row in range(sums.shape[0]):
        sums[row] += dense[row] * by >> 8


@_jit
def _scores(starts, terms, weights, norms, gain, shift, extra, query, rows, scores):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        row, total = rows[i], 0.0
        for p in range(starts[row], starts[row + 1]):
            factor = query[terms[p]]
            if factor != 0:
                w = np.float64(weights[p])
                if norms.shape[0]:
                    norm = np.float64(norms[row])
                    w = gain * (w + shift * norm) / (w + (shift + 1) * norm) + extra
                total += factor * w
        scores[i] = total


class NumbaNet(Net):
    """Exact search by bounds: those that reach the k-th score of the rows with the largest ones are scored."""

    def bounds(self, terms: np.ndarray, by: np.ndarray) -> np.ndarray:
        sums = np.zeros(self.n, np.uint32)
        for chunk in range(self.chunks):
            part = sums[chunk * CHUNK : (chunk + 1) * CHUNK]
            for term, times in zip(terms.tolist(), by, strict=False):
                span = self.span(chunk, term)
                if isinstance(span, slice):
                    _add(part, self.rows[span], self.impacts[span], times)
                else:
                    _add_all(part, span, times)
        return sums

    def scores(self, terms: np.ndarray, factors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        query, scores = np.zeros(len(self.most)), np.empty(len(rows), np.float32)
        query[terms] = factors
        norms = np.empty(0, np.float32) if self.norms is None else self.norms
        _scores(self.row_starts, self.terms, self.weights, norms, self.gain, self.shift, self.extra, query, rows, scores)
        return scores

    def search(self, terms: np.ndarray, factors: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        # lists beyond those that are added up have no bound here
        if k == 0 or k >= self.n or not 0 < len(terms) <= ADDED:
            return super().search(terms, factors, k, mask)
        self.check(terms, factors, k, mask)
        chosen, by, scale = self.ordered(terms, factors)
        sums = self.bounds(chosen, by)
        if mask is not None:
            sums[mask == 0] = 0
        limit = max(int(np.partition(sums, self.n - k)[self.n - k]), 1)
        rows = np.flatnonzero(sums >= limit)
        ids, best = best_of(rows, self.scores(terms, factors, rows), k)
        least = int(max((best[k - 1] * 0.999999) * scale - len(terms) - 1, 1)) if ids[k - 1] >= 0 else 1
        if least < limit:
            rows = np.flatnonzero(sums >= least)
            ids, best = best_of(rows, self.scores(terms, factors, rows), k)
        return ids, best


def sparse_net(
    row_starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, most: np.ndarray, starts: np.ndarray, rows: np.ndarray, impacts: np.ndarray,
    dense_of: np.ndarray, dense: np.ndarray, norms: np.ndarray | None = None, gain: float = 1, shift: float = 0, extra: float = 0, stretch: float = 1,
    heavy: Heavy | None = None,
) -> Any:  # fmt: skip
    return NumbaNet(row_starts, terms, weights, most, starts, rows, impacts, dense_of, dense, norms, gain, shift, extra, stretch, heavy)


__all__ = ["sparse_heavy", "sparse_invert", "sparse_near", "sparse_net", "sparse_search"]
