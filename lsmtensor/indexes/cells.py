"""A tree of centroid cells: what the gravity well index and product codes in inverted lists are built over.

Two levels of k-means over samples (Nister & Stewenius, CVPR 2006): cells of about ``leaf`` rows under the root of so many branches. A row's cell
is the nearest under its three nearest branches, the same in training and at insertion.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.contract import COSINE, HAMMING, L1, L2
from ..kernels.training import kmeans
from .base import Found, VectorIndex
from .codes import CodedRows, inverse_norms
from .params import check_counts
from .rows import Rows

# rows are held flat until there are so many; the tree is made anew when they are this many times those it was made of
LEAST, GROWTH = 256, 4
# a row looks for its cell under so many of the branches nearest to it
SPREAD = 3
# rows a branch and a cell that k-means looks at
BRANCH_ROWS, CELL_ROWS = 64, 24
# rows that look for their cells at a time
BLOCK = 65536
# a filter's matches are looked for in the cells probed; so many more where these hold too few
WIDER = 4


class CellIndex(VectorIndex):
    """Rows in cells; a plug-in adds how rows are coded (``_learn``, ``_encode``), scanned (``_scan``) and forgotten (``_forget``)."""

    search_params = ("nprobe", "rerank")
    dial = "nprobe"
    leaf: int
    nprobe: int
    rerank: int
    seed: int

    @abstractmethod
    def _learn(self, rows: np.ndarray) -> None:
        """Learn codes from rows, the tree being made."""

    @abstractmethod
    def _encode(self, start: int, rows: np.ndarray, cells: np.ndarray) -> None:
        """Code rows from ``start`` on, which are in these cells; codes of later rows are forgotten."""

    @abstractmethod
    def _scan(self, queries: np.ndarray, near: np.ndarray, far: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> Found:
        """The k nearest in some cells, int64 (q, p), at kernel distances float32 (q, p); ``depth`` are looked at in full."""

    def _clear(self) -> None:
        self._branches = np.empty((0, self.dim), np.float32)
        self._centroids = np.empty((0, self.dim), np.float32)
        # the branch of each cell, in order; the cell of each row; how many rows the tree was made of
        self._under, self._cells, self._made_of = np.empty(0, np.uint32), Rows(np.empty(0, np.uint32)), 0
        self._changed()

    def _changed(self) -> None:
        """Rows came: what is laid out for searches is laid out anew at the next."""
        self._laid: tuple[np.ndarray, np.ndarray] | None = None
        self._seats: Any = None

    # -- building --------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Make the tree from a sample (n, dim); rows that are there find their cells anew."""
        rows = self._check(x, "x")
        if len(rows):
            self._clear()
            self._grow(rows)
            self._place(0, len(self._vectors))
        return self

    def _placed(self, rows: np.ndarray) -> np.ndarray:
        """Rows as centroids see them: by direction alone for cosine."""
        return rows * inverse_norms(rows, COSINE)[:, None] if self._code == COSINE else rows

    def _grow(self, rows: np.ndarray) -> None:
        n = len(rows)
        cells = max(1, n // self.leaf)
        branches = math.isqrt(cells - 1) + 1
        rng = np.random.default_rng(self.seed)
        self._branches = kmeans(self._placed(some(rows, self._at_once(BRANCH_ROWS * branches, 24 * self.dim, branches), rng)), branches, seed=self.seed, iterations=8, kernels=self._kernels)
        step = self._at_once(BLOCK, 16 * self.dim + 64)
        nearest = np.concatenate([self._kernels.assign(self._placed(rows[at : at + step]), self._branches)[0] for at in range(0, n, step)])
        order, starts = grouped(nearest, branches)
        made, under = [], []
        for branch in range(branches):
            mine = order[starts[branch] : starts[branch + 1]]
            if len(mine) == 0:
                continue
            count = max(1, round(len(mine) / self.leaf))
            if len(mine) > CELL_ROWS * count:
                mine = np.sort(rng.choice(mine, CELL_ROWS * count, replace=False))
            made.append(kmeans(self._placed(rows[mine]), count, seed=self.seed, iterations=5, kernels=self._kernels))
            under.append(np.full(count, branch, np.uint32))
        self._centroids, self._under, self._made_of = np.concatenate(made), np.concatenate(under), n
        self._learn(rows)

    def _insert(self, start: int, stop: int) -> None:
        self._changed()
        if len(self._centroids) == 0 or stop > GROWTH * self._made_of:
            if stop < LEAST:
                return
            self._clear()
            self._grow(self._vectors.array[:stop])
            start = 0
        self._place(min(start, len(self._cells)), stop)

    def _place(self, start: int, stop: int) -> None:
        self._changed()
        self._cells.cut(start)
        step = self._at_once(BLOCK, 16 * self.dim + 64)
        for at in range(start, stop, step):
            rows = self._vectors.array[at : min(at + step, stop)]
            cells = self._cell_of(self._placed(rows))
            self._encode(at, rows, cells)
            self._cells.append(cells)
            self._tell((at + len(rows) - start) / (stop - start))

    def _cell_of(self, rows: np.ndarray) -> np.ndarray:
        """The nearest cell under the nearest branches of each row, uint32. O(n (branches + SPREAD cells / branches) d)."""
        best, far = np.zeros(len(rows), np.uint32), np.full(len(rows), np.inf, np.float32)
        near, _ = self._kernels.topk(rows, self._branches, min(SPREAD, len(self._branches)), L2, None)
        starts = np.searchsorted(self._under, np.arange(len(self._branches) + 1))
        for branch in range(len(self._branches)):
            low, high = int(starts[branch]), int(starts[branch + 1])
            mine = np.flatnonzero((near == branch).any(1))
            if high > low and len(mine):
                cell, distance = self._kernels.assign(rows[mine], self._centroids[low:high])
                better = distance < far[mine]
                best[mine[better]], far[mine[better]] = cell[better] + low, distance[better]
        return best

    # -- carried over to merged rows ---------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        """Also where no row is known: the centroids are, until there are far more or fewer rows than they were made of."""
        return len(self._centroids) > 0 and self._made_of <= GROWTH * rows <= GROWTH * GROWTH * self._made_of

    def _select(self, rows: np.ndarray) -> None:
        self._cells = Rows(self._cells.array[rows])
        self._changed()

    def _shares(self, other: VectorIndex) -> bool:
        return isinstance(other, CellIndex) and np.array_equal(self._centroids, other._centroids)

    def _absorb(self, other: VectorIndex, rows: np.ndarray) -> None:
        self._cells.append(other._cells.array[rows])  # type: ignore[attr-defined]
        self._changed()

    def _inserted(self, stop: int) -> int:
        return stop if len(self._centroids) == 0 else len(self._cells)

    # -- searching -------------------------------------------------------------------------------

    def _near(
        self, queries: np.ndarray, k: int, mask: np.ndarray | None, nprobe: int | None = None, rerank: int | None = None, **params: Any
    ) -> Found:
        check_counts(nprobe=nprobe, rerank=rerank)
        n, cells = len(self._vectors), len(self._centroids)
        matches = n if mask is None else int(np.count_nonzero(mask))
        depth = max(k, int(rerank or self.rerank or self._depth(k)))
        if cells == 0 or depth >= matches or k == 0:
            rows, distances = self._kernels.topk(queries, self._vectors.array, k, self._code, mask)
            return rows, distances
        probes = self._probes(nprobe)
        if mask is not None and matches < 2 * probes * self.leaf:
            probes = cells  # few matches: all of them are looked at, in any cell
        seeker = queries
        while True:
            near, to = self._kernels.code_scan(self._above(), seeker, probes, probes, None)
            rows, distances = self._scan(seeker, near, to, k, depth, mask)
            short = rows[:, k - 1] < 0
            if seeker is queries:
                found, far, left = rows, distances, None
            else:
                found[left], far[left] = rows, distances
            if probes == cells or not short.any():
                return found, far
            left = np.flatnonzero(short) if left is None else left[short]
            # too few rows that the filter allows: more cells
            seeker, probes = queries[left], min(cells, WIDER * probes)

    def _depth(self, k: int) -> int:
        """How many rows are looked at in full at most, unless it is said."""
        return 32 + 2 * k

    def _probes(self, nprobe: int | None) -> int:
        cells = len(self._centroids)
        least, share = (12, 3) if self._code in (L1, HAMMING) else (8, 25)
        return min(int(nprobe or self.nprobe or max(least, -(-cells // share))), cells)

    def _above(self) -> Any:
        """The centroids as a net."""
        if self._seats is None:
            # cells are cells of L2: centroids of bits differ from every row in every place
            coded = CodedRows(self.dim, L2 if self._code in (L1, HAMMING) else self._code, "int8", self._kernels)
            coded.learn(self._centroids, self.seed)
            coded.append(self._centroids)
            self._seats = coded.net(self._centroids)
        return self._seats

    def _laid_out(self) -> tuple[np.ndarray, np.ndarray]:
        """(int64 rows in order of their cells, int64 (cells, 2) where each begins and ends); O(n log n) after a change."""
        if self._laid is None:
            order, starts = grouped(self._cells.array, len(self._centroids))
            self._laid = order, np.ascontiguousarray(np.stack([starts[:-1], starts[1:]], 1))
        return self._laid

    # -- as bytes --------------------------------------------------------------------------------

    def _tree(self) -> dict[str, np.ndarray]:
        tree = {"branches": self._branches, "centroids": self._centroids, "under": self._under, "cells": self._cells.array}
        return {**tree, "made_of": np.array([self._made_of], np.int64)}

    def _restore_tree(self, arrays: dict[str, np.ndarray]) -> bool:
        """The reverse; False where rows are held flat."""
        n, kind = len(self._vectors), f"{self.name} index"
        if "centroids" not in arrays:
            if n >= LEAST:
                raise CorruptionError(f"an {kind} of {n} rows has no tree")
            return False
        wanted = {"branches": (2, np.float32), "centroids": (2, np.float32), "under": (1, np.uint32), "cells": (1, np.uint32), "made_of": (1, np.int64)}
        for name, (ndim, dtype) in wanted.items():
            if name not in arrays or arrays[name].ndim != ndim or arrays[name].dtype != dtype:
                raise CorruptionError(f"the tree of an {kind} has no {name} of {np.dtype(dtype)}")
        branches, centroids, under, cells, made_of = (arrays[name] for name in wanted)
        widths = branches.shape[1] == centroids.shape[1] == self.dim and len(branches) and len(centroids)
        if not widths or not np.isfinite(branches).all() or not np.isfinite(centroids).all() or made_of.shape != (1,):
            raise CorruptionError(f"the tree of an {kind} has branches {branches.shape} and centroids {centroids.shape}")
        if len(under) != len(centroids) or (np.diff(under.astype(np.int64)) < 0).any() or (under >= len(branches)).any():
            raise CorruptionError(f"the cells of an {kind} hang under {len(under)} branches of {len(branches)}")
        if cells.shape != (n,) or (n and int(cells.max()) >= len(centroids)):
            raise CorruptionError(f"an {kind} of {n} rows has cells {cells.shape} of {len(centroids)}")
        self._branches, self._centroids, self._under, self._cells = branches, centroids, under, Rows(cells)
        self._made_of = int(made_of[0])
        self._changed()
        return True

    def stats(self) -> dict[str, Any]:
        counts = np.bincount(self._cells.array, minlength=max(1, len(self._centroids)))
        return {
            **super().stats(), "cells": len(self._centroids), "branches": len(self._branches), "largest_cell": int(counts.max()),
            "nprobe": self._probes(None),
        }  # fmt: skip


def some(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many of the rows, in order."""
    return rows if len(rows) <= count else rows[np.sort(rng.choice(len(rows), count, replace=False))]


def grouped(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 rows in order of their labels, int64 (count + 1,) where each label begins)."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=count))]).astype(np.int64)
    return np.argsort(labels, kind="stable").astype(np.int64), starts
