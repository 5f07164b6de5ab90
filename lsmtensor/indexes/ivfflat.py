"""Inverted lists: rows by the nearest of some centroids, full vectors in the lists (Sivic & Zisserman, ICCV 2003)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.contract import COSINE, HAMMING, IP, L2
from ..kernels.training import kmeans
from . import REGISTRY
from .base import Found, VectorIndex
from .params import SEEDS, check_counts, settled
from .rows import Rows

# k-means looks at so many rows a centroid, and no index has fewer in a list on average
TRAIN_ROWS, LEAST_ROWS = 64, 8
# matches of a filter below this many times the rows that a search would look at anyway are scanned
SCAN = 1.5


@REGISTRY.register("ivfflat")
class IVFFlat(VectorIndex):
    """``lists`` centroids (0: four times the root of the rows when they are learned), of which a search looks into the ``nprobe``
    nearest (0: an eighth of them, at least 8, a third for l1 and hamming; also a search parameter).

    Build O(n lists d) by k-means and assignment; search O((lists + n nprobe / lists) d). Memory 4 bytes a row and the centroids
    beside the vectors. Rows are held flat until there are eight a list. Under a filter, or where the lists probed hold fewer
    than k rows, further lists are looked into until k are found.
    """

    name = "ivfflat"
    learned = ("centroids",)
    search_params = ("nprobe",)
    dial = "nprobe"

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, lists: int = 0, nprobe: int = 0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.lists, self.nprobe, self.seed = settled("ivfflat", lists=(lists, 0, 1 << 24), nprobe=(nprobe, 0, 1 << 24), seed=(seed, *SEEDS))
        super().__init__(dim, metric, kernel, threads)

    def _settings(self) -> dict[str, Any]:
        return {"lists": self.lists, "nprobe": self.nprobe, "seed": self.seed}

    def _clear(self) -> None:
        self._centroids = np.empty((0, self.dim), np.float32)
        self._cells = Rows(np.empty(0, np.uint32))
        self._lists: tuple[np.ndarray, np.ndarray] | None = None

    # -- building --------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Learn the centroids from a sample (n, dim); rows that are there are dealt to them anew."""
        rows = self._check(x, "x")
        if len(rows):
            self._learn(rows)
            self._cells = Rows(np.empty(0, np.uint32))
            self._deal(0, len(self._vectors))
        return self

    def _row_bytes(self) -> tuple[int, int]:
        return 4 + 4 * self.dim // LEAST_ROWS, 32

    def _wanted(self, n: int) -> int:
        return min(self.lists or max(1, 4 * math.isqrt(n)), max(1, n // LEAST_ROWS))

    def _placed(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the centroids see them: by direction alone for cosine."""
        if self._code != COSINE:
            return rows
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, None]
        return np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0).astype(np.float32)

    def _learn(self, rows: np.ndarray) -> None:
        count = self._wanted(len(rows))
        most = self._at_once(TRAIN_ROWS * count, 32 * self.dim, count)
        if len(rows) > most:
            rows = rows[np.sort(np.random.default_rng(self.seed).choice(len(rows), most, replace=False))]
        self._centroids = kmeans(self._placed(rows), count, seed=self.seed, iterations=10, kernels=self._kernels)

    def _insert(self, start: int, stop: int) -> None:
        self._lists = None
        if len(self._centroids) == 0:
            if stop < LEAST_ROWS * max(self.lists, 8):
                return
            self._learn(self._vectors.array[:stop])
            start = 0
        self._cells.cut(start)
        self._deal(start, stop)

    def _deal(self, start: int, stop: int) -> None:
        self._lists = None
        step = self._at_once(65536, 16 * self.dim)
        for at in range(start, stop, step):
            rows = self._vectors.array[at : min(at + step, stop)]
            self._cells.append(self._kernels.assign(self._placed(rows), self._centroids)[0].astype(np.uint32))
            self._tell((at + len(rows) - start) / (stop - start))

    # -- carried over to merged rows ---------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        """Also where no row is known: the centroids are, until four times as many or as few would be wanted."""
        lists = len(self._centroids)
        return lists > 0 and lists <= 2 * self._wanted(rows) <= 4 * lists

    def _select(self, rows: np.ndarray) -> None:
        self._cells, self._lists = Rows(self._cells.array[rows]), None

    def _shares(self, other: VectorIndex) -> bool:
        return isinstance(other, IVFFlat) and np.array_equal(self._centroids, other._centroids)

    def _absorb(self, other: VectorIndex, rows: np.ndarray) -> None:
        self._cells.append(other._cells.array[rows])  # type: ignore[attr-defined]
        self._lists = None

    def _inserted(self, stop: int) -> int:
        return stop if len(self._centroids) == 0 else len(self._cells)

    # -- searching -------------------------------------------------------------------------------

    def _by_list(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows in order of their lists, where each list begins and the last ends); made at the first search after a change."""
        if self._lists is None:
            cells = self._cells.array
            counts = np.bincount(cells, minlength=len(self._centroids))
            self._lists = np.argsort(cells, kind="stable").astype(np.int64), np.concatenate([[0], np.cumsum(counts)])
        return self._lists

    def _probes(self, nprobe: int | None) -> int:
        check_counts(nprobe=nprobe)
        share = 8 if self._code in (L2, IP, COSINE) else 3  # lists are cells of L2: they tell less of the others
        return min(int(nprobe or self.nprobe or max(8, len(self._centroids) // share)), len(self._centroids))

    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, nprobe: int | None = None, **params: Any) -> Found:
        probes, n = self._probes(nprobe), len(self._vectors)
        matches = n if mask is None else int(np.count_nonzero(mask))
        looked = n * probes / max(1, len(self._centroids))
        if probes == 0 or k >= matches or matches <= SCAN * looked * (matches / max(n, 1)) + k:
            rows, distances = self._kernels.topk(queries, self._vectors.array, k, self._code, mask)
            return rows, distances
        near = self._nearest_lists(queries, probes)
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        for i, query in enumerate(queries):
            rows = self._held(near[i], mask)
            if len(rows) < k:
                # the filter leaves too few here: further lists, until there are enough
                every, at = self._nearest_lists(query[None, :], len(self._centroids))[0], probes
                while len(rows) < k and at < len(every):
                    rows = np.concatenate([rows, self._held(every[at : at + probes], mask)])
                    at += probes
            ids[i], far[i] = self._best(query, np.sort(rows), k)
        return ids, far

    def _nearest_lists(self, queries: np.ndarray, count: int) -> np.ndarray:
        # real centroids differ from every row in every place: lists of bits are ranked by L2
        metric = L2 if self._code == HAMMING else self._code
        near: np.ndarray = self._kernels.topk(self._placed(queries), self._centroids, count, metric, None)[0]
        return near

    def _held(self, lists: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """The rows of some lists that the mask allows."""
        order, starts = self._by_list()
        rows = np.concatenate([order[starts[c] : starts[c + 1]] for c in lists.tolist()])
        return rows if mask is None else rows[mask[rows] != 0]

    def _best(self, query: np.ndarray, rows: np.ndarray, k: int) -> Found:
        distances = self._kernels.gathered(query, self._vectors.array, rows, self._code)
        if len(rows) > k:
            keep = distances <= np.partition(distances, k - 1)[k - 1]
            rows, distances = rows[keep], distances[keep]
        best = np.argsort(distances, kind="stable")[:k]  # rows rise: ties go to the lower
        return rows[best], distances[best]

    # -- as bytes --------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"centroids": self._centroids, "cells": self._cells.array}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if not {"centroids", "cells"} <= set(arrays):
            raise CorruptionError("an ivfflat index lacks its centroids or cells")
        centroids, cells, n = arrays["centroids"], arrays["cells"], len(self._vectors)
        fits = centroids.ndim == 2 and centroids.shape[1] == self.dim and centroids.dtype == np.float32 and np.isfinite(centroids).all()
        rows = n if len(centroids) else 0
        if not fits or cells.shape != (rows,) or cells.dtype != np.uint32 or (len(cells) and cells.max() >= len(centroids)):
            raise CorruptionError(f"an ivfflat index of {n} rows has {len(centroids)} centroids and cells of {cells.dtype} {cells.shape}")
        self._centroids, self._cells, self._lists = centroids, Rows(cells), None

    def stats(self) -> dict[str, Any]:
        counts = np.bincount(self._cells.array, minlength=max(1, len(self._centroids)))
        return {**super().stats(), "lists": len(self._centroids), "largest_list": int(counts.max()), "nprobe": self._probes(None)}
