"""The graph of full rows that `hnsw(quant=none)` walks: Malkov & Yashunin, TPAMI 2020 (arXiv 1603.09320).

A row's level is drawn from its number and the seed alone, rows are inserted in order, and ties go to the lower
row: the same rows give the same graph on the same backend and instruction set, whatever their batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.contract import COSINE, mix64
from .above import NONE
from .base import Found
from .carry import kept_links, leads_inside, numbers
from .codes import inverse_norms
from .rows import Rows

MAX_LEVEL = 16
# rows a kernel call inserts: Ctrl-C is heard between them
STEP = 1024
# A walk under a filter computes about SCAN * ef * n / matches distances, a scan of the matches one for each, in order.
SCAN = 10


class Levels:
    """``m`` links a row on each upper level and 2m on the lowest, ``ef_construction`` the beam of the build, over the ``vectors`` of an index."""

    def __init__(self, m: int, ef_construction: int, seed: int, metric: int, kernels: Any) -> None:
        self.m, self.ef_construction, self.seed, self.metric, self._kernels = m, ef_construction, seed, metric, kernels
        self.links = Rows(np.empty((0, 2 * m), np.uint32))
        self.upper = Rows(np.empty((0, m), np.uint32))
        self.upper_at, self.levels = Rows(np.empty(0, np.int64)), Rows(np.empty(0, np.uint8))
        self.scale, self.state = Rows(np.empty(0, np.float32)), np.array([-1, 0], np.int64)
        self.built = 0
        self._views: tuple[Any, ...] | None = None

    def _draw(self, start: int, stop: int) -> np.ndarray:
        """Levels, geometric with ratio 1/m, from a counter-based generator: independent of batches."""
        x = mix64(np.arange(start, stop, dtype=np.uint64) ^ mix64(np.array([self.seed + 1], np.uint64)))
        uniform = ((x >> np.uint64(11)).astype(np.float64) + 1) / 2**53
        return np.minimum(np.floor(-np.log(uniform) / math.log(self.m)), MAX_LEVEL).astype(np.uint8)

    def insert(self, vectors: np.ndarray, start: int, stop: int, tell: Callable[[float], object]) -> None:
        """Link rows [start, stop), and ``tell`` the share done; broken off, ``built`` says how many are linked."""
        self.cut(start)
        levels = self._draw(start, stop)
        self.levels.append(levels)
        self.upper_at.append(len(self.upper) + np.cumsum(levels, dtype=np.int64) - levels)
        self.upper.append(np.full((int(levels.sum()), self.m), NONE, np.uint32))
        self.links.append(np.full((stop - start, 2 * self.m), NONE, np.uint32))
        for at in range(start, stop, 65536):
            self.scale.append(inverse_norms(vectors[at : min(at + 65536, stop)], self.metric))
        for at in range(start, stop, STEP):
            end = min(at + STEP, stop)
            try:
                self._kernels.graph_insert(*self._graph(vectors)[:-1], self.levels.array, self.state, at, end, self.ef_construction)
            finally:
                # an interrupt is raised behind the call that it came in: its rows are linked
                self.built = end
            tell((end - start) / (stop - start))

    def cut(self, n: int) -> None:
        """Forget what an insertion that was broken off prepared for rows from n on."""
        for part in (self.links, self.upper_at, self.levels, self.scale):
            part.cut(n)
        self.upper.cut(int(self.levels.array.sum()))
        self.built, self._views = n, None

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows, in this order. O(links)."""
        levels, at = self.levels.array[rows], self.upper_at.array[rows]
        # a row's place on a level above is its place in ``upper``; links there are among such places
        starts = np.cumsum(levels, dtype=np.int64) - levels
        above = np.repeat(at - starts, levels) + np.arange(int(levels.sum()))
        owner = np.repeat(np.arange(len(self.levels)), self.levels.array)
        depth = np.arange(len(owner)) - np.repeat(self.upper_at.array, self.levels.array)
        upper = self.upper.array
        there = upper != NONE
        places = np.full(upper.shape, NONE, np.uint32)
        places[there] = (self.upper_at.array[upper[there]] + np.repeat(depth, there.sum(1))).astype(np.uint32)
        links, mine = kept_links(places, above), numbers(rows, len(self.links))
        whose = mine[owner[above]]
        self.upper = Rows(np.where(links == NONE, NONE, whose[np.where(links == NONE, 0, links)]).astype(np.uint32) if len(links) else upper[:0])
        self.links, self.scale = Rows(kept_links(self.links.array, rows)), Rows(self.scale.array[rows])
        self.levels, self.upper_at = Rows(levels), Rows(starts)
        top = int(levels.argmax()) if len(levels) else -1
        entry = int(mine[int(self.state[0])]) if self.state[0] >= 0 else NONE
        self.state = np.array([top if entry == NONE else entry, 0], np.int64)
        self.state[1] = levels[self.state[0]] if len(levels) else 0
        self.built, self._views = len(rows), None

    def near(self, vectors: np.ndarray, queries: np.ndarray, k: int, mask: np.ndarray | None, ef: int) -> Found:
        """The k nearest that a beam of ``ef`` finds; where a filter leaves few, of all."""
        n = len(vectors)
        matches = n if mask is None else int(np.count_nonzero(mask))
        width = max(min(ef, n), k, 1)
        if matches == n:
            mask = None
        if mask is not None and matches * matches <= SCAN * width * n:
            return self._scan(vectors, queries, k, mask)
        rows, distances = self._kernels.graph_search(queries, *self._graph(vectors), k, width, mask)
        # a walk can come back short: matches far from the query, or an island of equal rows
        if k and matches and len(rows) and rows[:, (last := min(k, matches) - 1)].min() < 0:
            short = rows[:, last] < 0
            rows[short], distances[short] = self._scan(vectors, queries[short], k, mask)
        return rows, distances

    def _graph(self, vectors: np.ndarray) -> tuple[Any, ...]:
        """The graph as kernels take it; kept, since making views costs as much as a short walk."""
        if self._views is None:
            parts = (self.scale.array, self.metric, self.links.array, self.upper.array, self.upper_at.array, self.state)
            self._views = (vectors, *parts)
        return self._views

    def _scan(self, vectors: np.ndarray, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Found:
        rows, distances = self._kernels.topk(queries, vectors, k, self.metric, mask)
        return rows, distances

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"links": self.links.array, "upper": self.upper.array, "levels": self.levels.array, "state": self.state}
        return {**arrays, "scale": self.scale.array} if self.metric == COSINE else arrays

    def restore(self, arrays: dict[str, np.ndarray], n: int) -> None:
        """What `arrays` gave, of n rows; `CorruptionError` for what would lead a walk astray."""
        dtypes = {"links": np.uint32, "upper": np.uint32, "levels": np.uint8, "state": np.int64}
        for name, dtype in dtypes.items():
            if name not in arrays or arrays[name].dtype != dtype:
                raise CorruptionError(f"the graph of an hnsw index has no {name} of {np.dtype(dtype)}")
        links, upper, levels, state = (arrays[name] for name in dtypes)
        if links.shape != (n, 2 * self.m) or levels.shape != (n,) or state.shape != (2,) or upper.shape != (int(levels.sum()), self.m):
            raise CorruptionError(f"the graph of an hnsw index of {n} rows has links {links.shape}, upper {upper.shape}, levels {levels.shape}")
        scale = arrays.get("scale", np.ones(n, np.float32))
        if scale.shape != (n,) or scale.dtype != np.float32 or ("scale" in arrays) != (self.metric == COSINE):
            raise CorruptionError(f"the graph of an hnsw index of {n} rows has norms of shape {scale.shape}")
        _check_graph(links, upper, levels.astype(np.int64), int(state[0]), int(state[1]))
        self.links, self.upper, self.levels, self.scale, self.state = Rows(links), Rows(upper), Rows(levels), Rows(scale), state.copy()
        self.upper_at = Rows(np.cumsum(levels, dtype=np.int64) - levels)
        self.built, self._views = n, None

    def stats(self) -> dict[str, Any]:
        links = self.links.array
        return {"levels": int(self.levels.array.max(initial=0)) + 1, "mean_degree": float((links != NONE).sum() / len(links)) if len(links) else 0.0}


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
