"""The cascade: hashes choose buckets, buckets give rows to begin at, a graph leads from there to the nearest.

After SynaDB's index of the name, with what it lacks: hashes drawn by a seed, stored links, exact removal, rows to begin at chosen by
distance. The adaptive bucket tree is an LSH forest (Bawa et al., WWW 2005): keys in order, in which the rows that share the longest prefix with a query
are neighbours, however crowded the place is. The graph is that of `fqg`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError, UnknownNameError
from ..kernels.numpy_codes import STARTS, prefix_of
from ..registry import near
from . import REGISTRY
from .base import Found
from .codes import inverse_norms
from .forest import BITS, Forest
from .fqg import FQG
from .params import settled

# queries that are answered at once, since each asks for rows of many buckets
BLOCK = 1024
# a bucket of fixed size is that of so many rows on average
FIXED = 16
PRESETS: dict[str, dict[str, int]] = {
    "": {"degree": 32, "ef_construction": 64, "passes": 2, "tables": 4, "nprobe": 4, "window": 8, "ef": 64},
    "small": {"degree": 16, "ef_construction": 48, "passes": 2, "tables": 4, "nprobe": 2, "window": 8, "ef": 64},
    "large": {"degree": 32, "ef_construction": 96, "passes": 2, "tables": 8, "nprobe": 4, "window": 8, "ef": 128},
    "high_recall": {"degree": 64, "ef_construction": 128, "passes": 2, "tables": 8, "nprobe": 8, "window": 8, "ef": 256},
    "fast_search": {"degree": 32, "ef_construction": 64, "passes": 2, "tables": 2, "nprobe": 2, "window": 8, "ef": 24},
}


@REGISTRY.register("cascade")
class Cascade(FQG):
    """``tables`` keys of 32 hyperplanes a row; a query takes ``window`` rows around its place in each, and around those of ``nprobe`` - 1 keys one
    uncertain bit away; from these rows a graph of ``degree`` links is walked with a beam of ``ef``. ``preset`` is small, large, high_recall or
    fast_search; what is not 0 beside it counts. ``lsh=False`` begins where `fqg` does, ``tree=False`` takes buckets of one prefix length, ``graph=False``
    answers from the buckets' rows alone: for ablations.

    Build as `fqg`, and O(n tables 32 d); search O((tables 32 + tables nprobe window + ef log n) d). Memory as `fqg` and 8 ``tables`` bytes a row. ``ef`` and ``rerank`` are search parameters too.
    """

    name = "cascade"
    planted_from = 1

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, preset: str = "", degree: int = 0,
        ef_construction: int = 0, passes: int = 0, tables: int = 0, nprobe: int = 0, window: int = 0, ef: int = 0, rerank: int = 0, quant: str = "auto",
        lsh: bool = True, tree: bool = True, graph: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        if preset not in PRESETS:
            raise UnknownNameError(f"cascade has no preset {preset!r}; {near(str(preset), [p for p in PRESETS if p])}")
        self._given = {"degree": degree, "ef_construction": ef_construction, "passes": passes, "tables": tables, "nprobe": nprobe, "window": window, "ef": ef}
        chosen = {name: value if isinstance(value, bool) or value else PRESETS[preset][name] for name, value in self._given.items()}
        self.tables, self.nprobe, self.window = settled(
            "cascade", tables=(chosen["tables"], 1, 64), nprobe=(chosen["nprobe"], 1, BITS), window=(chosen["window"], 1, 128)
        )
        for name, on in (("lsh", lsh), ("tree", tree), ("graph", graph)):
            if not isinstance(on, bool):
                raise InvalidArgumentError(f"cascade: {name}={on!r}; give True or False")
        self.preset, self.lsh, self.tree, self.graph = preset, lsh, tree, graph
        _fits(self.tables, self.nprobe, self.window)
        if not lsh and not graph:
            raise InvalidArgumentError("cascade: lsh=False and graph=False leave nothing to search by; switch one of them on")
        walk = {name: chosen[name] for name in ("degree", "ef_construction", "passes", "ef")}
        super().__init__(dim, metric, kernel, threads, rerank=rerank, quant=quant, entries="forest" if lsh else "top", seed=seed, **walk)

    def _settings(self) -> dict[str, Any]:
        given = {**self._given, "rerank": self.rerank, "quant": self.quant, "seed": self.seed}
        return {"preset": self.preset, "lsh": self.lsh, "tree": self.tree, "graph": self.graph, **given}

    @property
    def _trees(self) -> tuple[int, int, int]:
        return self.tables, self.nprobe, self.window

    def _buckets(self, queries: np.ndarray, forest: Forest) -> np.ndarray:
        """uint32 (q, s): the rows that the stages before the graph give, some more than once."""
        seen = np.ascontiguousarray(queries * inverse_norms(queries, self._code)[:, None])
        sides = np.einsum("qd,tbd->qtb", seen, forest.planes, optimize=True) - forest.shifts
        n = forest.keys.shape[1]
        # buckets as deep as they are crowded, or of one prefix length; an empty one of these gives the row after it
        prefix = BITS if self.tree else prefix_of(n, FIXED)
        own = np.packbits(sides > 0, axis=2).view(">u4")[:, :, 0].astype(np.uint32) >> np.uint32(BITS - prefix)
        unsure = np.argsort(np.abs(sides[:, :, : prefix_of(n, self.window if self.tree else FIXED)]), axis=2, kind="stable")[:, :, : self.nprobe - 1]
        asked = np.concatenate([own[:, :, None], own[:, :, None] ^ (np.uint32(1) << (prefix - 1 - unsure).astype(np.uint32))], 2)
        found = []
        for table in range(self.tables):
            keys = forest.keys[table] >> np.uint32(BITS - prefix)
            low, high = (np.searchsorted(keys, asked[:, table], side)[:, :, None] for side in ("left", "right"))
            places = low + np.arange(self.window) - (self.window // 2 if self.tree else 0)
            places = places if self.tree else np.where(places < high, places, low)
            found.append(forest.rows[table][np.clip(places, 0, n - 1)].reshape(len(queries), -1))
        return np.ascontiguousarray(np.concatenate(found, 1))

    # -- searching -------------------------------------------------------------------------------

    def _reach(self, net: Any, queries: np.ndarray, k: int, ef: int, depth: int, mask: np.ndarray | None, **params: Any) -> Found:
        if self._forest is None or (self.tree and self.graph) or len(queries) == 0:
            return super()._reach(net, queries, k, ef, depth, mask)
        parts: list[Found] = []
        for at in range(0, len(queries), BLOCK):
            some = queries[at : at + BLOCK]
            starts = self._buckets(some, self._forest)
            if self.graph:
                parts.append(self._kernels.code_search(net, some, k, ef, depth, mask, starts))
            else:
                parts.append(self._of_buckets(some, starts, k, mask))
        return parts[0] if len(parts) == 1 else (np.concatenate([rows for rows, _ in parts]), np.concatenate([far for _, far in parts]))

    def _of_buckets(self, queries: np.ndarray, starts: np.ndarray, k: int, mask: np.ndarray | None) -> Found:
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        for i, query in enumerate(queries):
            rows = np.unique(starts[i]).astype(np.int64)
            rows = rows if mask is None else rows[mask[rows] != 0]
            distances = self._kernels.gathered(query, self._vectors.array, rows, self._code)
            best = np.argsort(distances, kind="stable")[:k]
            ids[i, : len(best)], far[i, : len(best)] = rows[best], distances[best]
        return ids, far

    def _ready(self) -> Any:
        net = super()._ready()
        if not (self.tree and self.graph):
            self._short = None
        return net

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "tables": self.tables, "stages": [s for s in ("lsh", "tree", "graph") if getattr(self, s)]}


def _fits(tables: int, probes: int, window: int) -> None:
    if tables * probes * window > STARTS:
        raise InvalidArgumentError(f"cascade: {tables} tables, nprobe={probes}, windows of {window}: {tables * probes * window} rows; give up to {STARTS} together")
