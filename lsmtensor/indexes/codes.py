"""Rows as small whole numbers, the form that graphs are built on and walked in.

8 bits: ``128 + round((x - mean) / step)``, one step for all, so that distances between codes are whole numbers. 4 bits: values of
a row less the mean, in 16 steps over 2.5 standard deviations, times a factor by which the row's estimate of itself is exact.
Layouts and what a measurement says of both: docs/indexes.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.contract import COSINE, HAMMING, IP
from .rows import aligned

LINE = 64
# rows coded at a time: their float32 copy stays in cache
BLOCK = 1024
# a row with a value so far out, where the grid ends at 127, is not what the grid was learned from
FAR = 160
# 4-bit values cover so many standard deviations of their row
REACH = np.float32(2.5)


@dataclass(frozen=True)
class Grid:
    """What codes are relative to: float32 ``mean`` (d,) and the ``step`` of the 8-bit grid."""

    mean: np.ndarray
    step: float
    metric: int

    @classmethod
    def learn(cls, rows: np.ndarray, scale: np.ndarray, metric: int, seed: int) -> Grid:
        """From rows (n, d) with inverse norms (n,) for cosine; looks at 16,384 of them."""
        if len(rows) > 16384:
            chosen = np.sort(np.random.default_rng(seed).choice(len(rows), 16384, replace=False))
            rows, scale = rows[chosen], scale[chosen]
        if metric == COSINE:
            rows = rows * scale[:, None]
        # what is equal to what may change under a shift, once it is rounded
        mean = np.zeros(rows.shape[1], np.float32) if metric == HAMMING else rows.mean(0, dtype=np.float64).astype(np.float32)
        far = np.abs(rows if metric == IP else rows - mean)
        # a hundred-thousandth may stick out: what is cut off costs less than coarser steps for all
        top = float(np.partition(far, int((far.size - 1) * 0.99999), axis=None)[int((far.size - 1) * 0.99999)]) if far.size else 0.0
        return cls(mean, float(np.float32(top / 127)) if top > 0 else 1.0, metric)

    def eight(self, rows: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """(codes uint8 (n, lines * 64), sums int32 (n, 2) of squares and of values around 128, how many rows stick far out). O(n d)."""
        (n, d), out = rows.shape, 0
        codes, sums = aligned((n, -(-d // LINE) * LINE), np.uint8), np.empty((n, 2), np.int32)
        codes[:, d:] = 128
        for at in range(0, n, BLOCK):
            x = self._placed(rows[at : at + BLOCK], scale[at : at + BLOCK])
            if self.metric != IP:  # products of two rows change under a shift
                x -= self.mean
            x /= np.float32(self.step)
            np.rint(x, out=x)
            out += int((np.maximum(x.max(1), -x.min(1)) > FAR).sum())
            np.clip(x, -128, 127, out=x)
            sums[at : at + BLOCK, 0] = np.einsum("nd,nd->n", x, x, dtype=np.float64)
            sums[at : at + BLOCK, 1] = x.sum(1, dtype=np.float64)
            x += 128
            codes[at : at + BLOCK, :d] = x
        return codes, sums, out

    def four(self, rows: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(codes uint8 (n, lines * 64), squared lengths float32 (n,), factors float32 (n,)). O(n d)."""
        n, d = rows.shape
        lines = -(-d // (2 * LINE))
        codes, lengths, factors = aligned((n, lines * LINE), np.uint8), np.empty(n, np.float32), np.zeros(n, np.float32)
        for at in range(0, n, BLOCK):
            x = self._placed(rows[at : at + BLOCK], scale[at : at + BLOCK])
            x -= self.mean
            squares = lengths[at : at + BLOCK] = np.einsum("nd,nd->n", x, x)
            with np.errstate(divide="ignore"):
                by = np.where(squares > 0, np.float32(7.5) / (REACH * np.sqrt(squares / np.float32(d))), 0).astype(np.float32)
            c = x * by[:, None]
            c += np.float32(7.5)
            np.rint(c, out=c)
            np.clip(c, 0, 15, out=c)
            whole = np.zeros((len(c), lines, 2, LINE), np.uint8)
            whole.reshape(len(c), -1)[:, :d] = c
            codes[at : at + BLOCK] = (whole[:, :, 0] | whole[:, :, 1] << np.uint8(4)).reshape(len(c), -1)
            c -= np.float32(7.5)
            own = np.einsum("nd,nd->n", c, x)
            np.divide(squares, own, out=factors[at : at + BLOCK], where=own > 0)
        return codes, lengths, factors

    def _placed(self, rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """A copy; unit rows for cosine."""
        return rows * scale[:, None] if self.metric == COSINE else rows.copy()
