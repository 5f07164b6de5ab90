"""Hierarchical navigable small world graphs: Malkov & Yashunin, TPAMI 2020 (arXiv 1603.09320).

A row's level is drawn from its number and the seed alone, rows are inserted in order, and ties go to the lower
row: the same adds give the same graph on the same backend and instruction set, whatever their batches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from ..kernels.contract import mix64
from . import REGISTRY
from .base import Found, VectorIndex
from .carry import KNOWN, LOST, connect, kept_links, leads_inside, numbers
from .rows import Rows

NONE = 0xFFFFFFFF
MAX_LEVEL = 16
# rows a kernel call inserts: Ctrl-C is heard between them
STEP = 1024
# A walk under a filter computes about SCAN * ef * n / matches distances, a scan of the matches one for each, in order.
SCAN = 10


@REGISTRY.register("hnsw")
class HNSW(VectorIndex):
    """``m`` links a row on each upper level and 2m on the lowest; ``ef_construction`` the beam of the build.

    Build about O(n log n), ``m * ef_construction`` distances a row; search O(ef log n). Memory 8m bytes a row and a
    little beside the vectors. ``ef`` (also a search parameter) trades time for recall.
    """

    name = "hnsw"
    search_params = ("ef",)
    dial = "ef"

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, m: int = 16,
        ef_construction: int = 200, ef: int = 64, seed: int = 0,
    ) -> None:  # fmt: skip
        limits = {"m": (m, 2, 256), "ef_construction": (ef_construction, 1, 100_000), "ef": (ef, 1, 1_000_000), "seed": (seed, 0, 2**63)}
        for name, (value, low, high) in limits.items():
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InvalidArgumentError(f"hnsw: {name}={value!r}; give a whole number from {low} to {high}")
        self.m, self.ef_construction, self.ef, self.seed = m, ef_construction, ef, seed
        super().__init__(dim, metric, kernel, threads)

    def _settings(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction, "ef": self.ef, "seed": self.seed}

    def _clear(self) -> None:
        self._links = Rows(np.empty((0, 2 * self.m), np.uint32))
        self._upper = Rows(np.empty((0, self.m), np.uint32))
        self._upper_at, self._levels = Rows(np.empty(0, np.int64)), Rows(np.empty(0, np.uint8))
        self._scale, self._state = Rows(np.empty(0, np.float32)), np.array([-1, 0], np.int64)
        self._built = 0
        self._views: tuple[Any, ...] | None = None

    def _draw_levels(self, start: int, stop: int) -> np.ndarray:
        """Geometric with ratio 1/m, from a counter-based generator: independent of batches."""
        x = mix64(np.arange(start, stop, dtype=np.uint64) ^ mix64(np.array([self.seed + 1], np.uint64)))
        uniform = ((x >> np.uint64(11)).astype(np.float64) + 1) / 2**53
        return np.minimum(np.floor(-np.log(uniform) / math.log(self.m)), MAX_LEVEL).astype(np.uint8)

    def _inverse_norms(self, rows: np.ndarray) -> np.ndarray:
        if self.metric != "cosine":
            return np.ones(len(rows), np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        return np.divide(1, norms, out=np.zeros(len(rows)), where=norms > 0).astype(np.float32)

    def _insert(self, start: int, stop: int) -> None:
        if stop >= 2**31:
            raise InvalidArgumentError(f"{stop} rows in one hnsw; give fewer than 2**31")
        # rows of an insertion that was broken off
        for part in (self._links, self._upper_at, self._levels, self._scale):
            part.cut(start)
        self._built, self._views = start, None
        levels = self._draw_levels(start, stop)
        self._levels.append(levels)
        self._upper_at.append(len(self._upper) + np.cumsum(levels, dtype=np.int64) - levels)
        self._upper.append(np.full((int(levels.sum()), self.m), NONE, np.uint32))
        self._links.append(np.full((stop - start, 2 * self.m), NONE, np.uint32))
        for at in range(start, stop, 65536):
            self._scale.append(self._inverse_norms(self._vectors.array[at : min(at + 65536, stop)]))
        for at in range(start, stop, STEP):
            end = min(at + STEP, stop)
            try:
                self._kernels.graph_insert(*self._graph()[:-1], self._levels.array, self._state, at, end, self.ef_construction)
            finally:
                # an interrupt is raised behind the call that it came in: its rows are linked
                self._built = end

    def _inserted(self, stop: int) -> int:
        for part in (self._links, self._upper_at, self._levels, self._scale):
            part.cut(self._built)
        self._views = None
        return self._built

    # -- carried over to merged rows ---------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        return known >= KNOWN * rows and known >= (1 - LOST) * len(self._links)

    def _select(self, rows: np.ndarray) -> None:
        levels, at = self._levels.array[rows], self._upper_at.array[rows]
        # a row's place on a level above is its place in ``upper``; links there are among such places
        starts = np.cumsum(levels, dtype=np.int64) - levels
        above = np.repeat(at - starts, levels) + np.arange(int(levels.sum()))
        owner = np.repeat(np.arange(len(self._levels)), self._levels.array)
        depth = np.arange(len(owner)) - np.repeat(self._upper_at.array, self._levels.array)
        upper = self._upper.array
        there = upper != NONE
        places = np.full(upper.shape, NONE, np.uint32)
        places[there] = (self._upper_at.array[upper[there]] + np.repeat(depth, there.sum(1))).astype(np.uint32)
        links, mine = kept_links(places, above), numbers(rows, len(self._links))
        whose = mine[owner[above]]
        self._upper = Rows(np.where(links == NONE, NONE, whose[np.where(links == NONE, 0, links)]).astype(np.uint32) if len(links) else upper[:0])
        self._links, self._scale = Rows(kept_links(self._links.array, rows)), Rows(self._scale.array[rows])
        self._levels, self._upper_at = Rows(levels), Rows(starts)
        top = int(levels.argmax()) if len(levels) else -1
        entry = int(mine[int(self._state[0])]) if self._state[0] >= 0 else NONE
        self._state = np.array([top if entry == NONE else entry, 0], np.int64)
        self._state[1] = levels[self._state[0]] if len(levels) else 0
        self._built, self._views = len(rows), None

    def _finish(self) -> None:
        connect(self._links.array, self._state[:1])

    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, ef: int | None = None, **params: Any) -> Found:
        if ef is not None and (isinstance(ef, bool) or not isinstance(ef, (int, np.integer)) or ef < 1):
            raise InvalidArgumentError(f"ef={ef!r}; give a whole number of 1 or more")
        n = len(self._vectors)
        matches = n if mask is None else int(np.count_nonzero(mask))
        width = max(min(self.ef if ef is None else int(ef), n), k, 1)
        if matches == n:
            mask = None
        if mask is not None and matches * matches <= SCAN * width * n:
            return self._scan(queries, k, mask)
        rows, distances = self._kernels.graph_search(queries, *self._graph(), k, width, mask)
        # a walk can come back short: matches far from the query, or an island of equal rows
        if k and matches and len(rows) and rows[:, (last := min(k, matches) - 1)].min() < 0:
            short = rows[:, last] < 0
            rows[short], distances[short] = self._scan(queries[short], k, mask)
        return rows, distances

    def _graph(self) -> tuple[Any, ...]:
        """The graph as kernels take it; kept, since making views costs as much as a short walk."""
        if self._views is None:
            self._views = (
                self._vectors.array, self._scale.array, self._code, self._links.array, self._upper.array, self._upper_at.array,
                self._state,
            )  # fmt: skip
        return self._views

    def _scan(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Found:
        rows, distances = self._kernels.topk(queries, self._vectors.array, k, self._code, mask)
        return rows, distances

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"links": self._links.array, "upper": self._upper.array, "levels": self._levels.array, "state": self._state}
        return {**arrays, "scale": self._scale.array} if self.metric == "cosine" else arrays

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        n = len(self._vectors)
        dtypes = {"links": np.uint32, "upper": np.uint32, "levels": np.uint8, "state": np.int64}
        for name, dtype in dtypes.items():
            if name not in arrays or arrays[name].dtype != dtype:
                raise CorruptionError(f"the graph of an hnsw index has no {name} of {np.dtype(dtype)}")
        links, upper, levels, state = (arrays[name] for name in dtypes)
        if links.shape != (n, 2 * self.m) or levels.shape != (n,) or state.shape != (2,) or upper.shape != (int(levels.sum()), self.m):
            raise CorruptionError(f"the graph of an hnsw index of {n} rows has links {links.shape}, upper {upper.shape}, levels {levels.shape}")
        scale = arrays.get("scale", np.ones(n, np.float32))
        if scale.shape != (n,) or scale.dtype != np.float32 or ("scale" in arrays) != (self.metric == "cosine"):
            raise CorruptionError(f"the graph of an hnsw index of {n} rows has norms of shape {scale.shape}")
        _check_graph(links, upper, levels.astype(np.int64), int(state[0]), int(state[1]))
        self._links, self._upper, self._levels, self._scale, self._state = Rows(links), Rows(upper), Rows(levels), Rows(scale), state.copy()
        self._upper_at = Rows(np.cumsum(levels, dtype=np.int64) - levels)
        self._built, self._views = n, None

    def stats(self) -> dict[str, Any]:
        links, levels = self._links.array, self._levels.array
        degree = float((links != NONE).sum() / len(links)) if len(links) else 0.0
        return {**super().stats(), "levels": int(levels.max(initial=0)) + 1, "mean_degree": degree}


def _check_graph(links: np.ndarray, upper: np.ndarray, levels: np.ndarray, entry: int, top: int) -> None:
    """A graph from a file must not lead a walk outside its arrays, whatever it says. O(links)."""
    n = len(links)
    if not (-1 <= entry < n) or (entry < 0) != (n == 0) or (entry >= 0 and top != levels[entry]):
        raise CorruptionError(f"the graph of an hnsw index of {n} rows is entered at {entry}, level {top}")
    if not leads_inside(links, n) or not leads_inside(upper, n):
        raise CorruptionError(f"the graph of an hnsw index links to rows beyond its {n}")
    if len(upper):
        # the level of each upper row: 1, 2, … for each of its node's
        level = np.arange(len(upper)) - np.repeat(np.cumsum(levels) - levels, levels) + 1
        reached = np.where(upper == NONE, np.iinfo(np.int64).max, levels[np.where(upper == NONE, 0, upper)])
        if (reached < level[:, None]).any():
            raise CorruptionError("the graph of an hnsw index links to a row on a level that it does not have")
