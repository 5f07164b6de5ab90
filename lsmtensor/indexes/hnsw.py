"""Hierarchical navigable small world graphs: Malkov & Yashunin, TPAMI 2020 (arXiv 1603.09320).

A row's level is drawn from its number and the seed alone, rows are inserted in order, and ties go to
the lower row: the same adds give the same graph on the same backend and instruction set.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from . import REGISTRY
from .base import VectorIndex

NONE = 0xFFFFFFFF
MAX_LEVEL = 16


@REGISTRY.register("hnsw")
class HNSW(VectorIndex):
    """``m`` links a row on each upper level and 2m on the lowest; ``ef_construction`` the beam of the build.

    Build O(n log n ef_construction d), search about O(log n ef d); memory 8m bytes a row beside the vectors.
    ``ef`` (search parameter, default 64) trades recall for time.
    """

    name = "hnsw"
    search_params = ("ef",)

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, m: int = 16, ef_construction: int = 200, seed: int = 0,
        ef: int = 64,
    ) -> None:  # fmt: skip
        super().__init__(dim, metric, kernel)
        for name, value, low, high in (("m", m, 2, 128), ("ef_construction", ef_construction, 1, 100_000), ("ef", ef, 1, 1_000_000)):
            if not isinstance(value, int) or not low <= value <= high:
                raise InvalidArgumentError(f"hnsw: {name}={value!r}; give {low} to {high}")
        self.m, self.ef_construction, self.seed, self.ef = m, ef_construction, seed, ef
        self._links, self._upper = np.empty((0, 2 * m), np.uint32), np.empty((0, m), np.uint32)
        self._upper_at, self._level = np.empty(0, np.int64), np.empty(0, np.uint8)
        self._scale, self._state = np.empty(0, np.float32), np.array([-1, 0], np.int64)

    def _settings(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction, "seed": self.seed, "ef": self.ef}

    def _levels(self, start: int, stop: int) -> np.ndarray:
        """Levels of rows, geometric with ratio 1/m, from a counter-based generator: independent of batch sizes."""
        from ..kernels.contract import mix64

        x = mix64(np.arange(start, stop, dtype=np.uint64) ^ mix64(np.array([self.seed], np.uint64)))
        uniform = ((x >> np.uint64(11)).astype(np.float64) + 1) / 2**53
        return np.minimum(np.floor(-np.log(uniform) / math.log(self.m)), MAX_LEVEL).astype(np.uint8)

    def _inverse_norms(self, rows: np.ndarray) -> np.ndarray:
        if self.metric != "cosine":
            return np.ones(len(rows), np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        with np.errstate(divide="ignore"):
            return np.where(norms > 0, 1 / norms, 0).astype(np.float32)

    def _added(self, start: int) -> None:
        n = len(self._vectors)
        levels = self._levels(start, n)
        self._level = np.concatenate([self._level, levels])
        at = len(self._upper) + np.cumsum(levels) - levels
        self._upper_at = np.concatenate([self._upper_at, at.astype(np.int64)])
        grown = np.full((int(levels.sum()), self.m), NONE, np.uint32)
        self._upper = np.concatenate([self._upper, grown])
        self._links = np.concatenate([self._links, np.full((n - start, 2 * self.m), NONE, np.uint32)])
        self._scale = np.concatenate([self._scale, self._inverse_norms(self._vectors[start:])])
        self._kernels.graph_insert(
            self._vectors, self._scale, self._code, self._links, self._upper, self._upper_at, self._level, self._state,
            start, n, self.ef_construction,
        )  # fmt: skip

    def _nearest(
        self, queries: np.ndarray, k: int, mask: np.ndarray | None, ef: int | None = None, **params: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        width = self.ef if ef is None else int(ef)
        if width < 1:
            raise InvalidArgumentError(f"ef={ef}; give 1 or more")
        width = min(max(width, k, 1), max(1, len(self._vectors)))
        rows, distances = self._kernels.graph_search(
            queries, self._vectors, self._scale, self._code, self._links, self._upper, self._upper_at, self._state, k,
            width, mask,
        )  # fmt: skip
        return rows, distances

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"links": self._links, "upper": self._upper, "upper_at": self._upper_at, "level": self._level, "state": self._state}

    def _restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        if "empty" in header:
            self._links, self._upper = np.empty((0, 2 * self.m), np.uint32), np.empty((0, self.m), np.uint32)
            self._upper_at, self._level = np.empty(0, np.int64), np.empty(0, np.uint8)
            self._scale, self._state = np.empty(0, np.float32), np.array([-1, 0], np.int64)
            return
        n = len(self._vectors)
        self._links, self._upper, self._upper_at = arrays["links"], arrays["upper"], arrays["upper_at"]
        self._level, self._state = arrays["level"], arrays["state"].copy()
        self._check_graph(n)
        self._scale = self._inverse_norms(self._vectors)

    def _check_graph(self, n: int) -> None:
        """A graph from a file must not lead a walk outside the arrays, whatever it says."""
        rows, entry = len(self._upper), int(self._state[0])
        shapes = self._links.shape == (n, 2 * self.m) and self._upper.shape[1:] == (self.m,) and self._upper_at.shape == (n,)
        links = all(((a < n) | (a == NONE)).all() for a in (self._links, self._upper))
        levels = self._level.astype(np.int64)
        places = shapes and self._level.shape == (n,) and bool(((self._upper_at >= 0) & (self._upper_at + levels <= rows)).all())
        top = places and (-1 <= entry < n) and (entry < 0 or int(self._state[1]) == levels[entry])
        if not (shapes and links and top) or not self._walkable(levels):
            raise CorruptionError("the graph of an hnsw index leads outside itself")

    def _walkable(self, levels: np.ndarray) -> bool:
        """Links of an upper level end at rows that have that level."""
        for node in np.flatnonzero(levels).tolist():
            for level in range(1, int(levels[node]) + 1):
                row = self._upper[self._upper_at[node] + level - 1]
                if (levels[row[row != NONE]] < level).any():
                    return False
        return True
