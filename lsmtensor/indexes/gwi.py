"""The gravity well index: a tree of centroid cells, rows lying cell by cell as small codes.

After SynaDB's index of the name, with what it lacks: cells of like size, the same cell for a row in training and at insertion, codes
scanned in order instead of vectors gathered, exact distances at the end, removal, filters. In the literature: hierarchical k-means
trees (Nister & Stewenius, CVPR 2006), inverted lists (Sivic & Zisserman, ICCV 2003).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import REGISTRY
from .base import Found, VectorIndex
from .cells import CellIndex
from .codes import CodedRows
from .params import SEEDS, settled


@REGISTRY.register("gwi")
class GWI(CellIndex):
    """Cells of about ``leaf`` rows under the root of so many branches; a search scans the codes of the ``nprobe`` nearest cells (0: 4% of
    them, at least 8; for l1 and hamming a third) and looks at the nearest in full (``rerank`` of them at most; 0: 32 and 2 k).

    Build O(n sqrt(n / leaf) d), by two levels of k-means over samples; search O((n / leaf + nprobe leaf) d) bytes, ids d. Memory d / 2 (int4) or d
    bytes a row and the centroids beside the vectors. ``nprobe`` and ``rerank`` are search parameters too.
    """

    name = "gwi"
    learned = ("branches", "centroids", "under", "made_of", "mean", "step", "lift")

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, leaf: int = 48, nprobe: int = 0,
        rerank: int = 0, quant: str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        self.leaf, self.nprobe, self.rerank, self.seed = settled(
            "gwi", leaf=(leaf, 4, 1 << 20), nprobe=(nprobe, 0, 1 << 24), rerank=(rerank, 0, 1 << 20), seed=(seed, *SEEDS)
        )
        self.quant = quant
        super().__init__(dim, metric, kernel, threads)
        CodedRows.check(self.name, self.dim, self._code, quant)

    def _settings(self) -> dict[str, Any]:
        return {"leaf": self.leaf, "nprobe": self.nprobe, "rerank": self.rerank, "quant": self.quant, "seed": self.seed}

    def _clear(self) -> None:
        super()._clear()
        self._coded = CodedRows(self.dim, self._code, self.quant, self._kernels)

    def _changed(self) -> None:
        super()._changed()
        self._net: Any = None

    def _row_bytes(self) -> tuple[int, int]:
        codes, eight = self._coded.row_bytes()
        return codes + 4 + 4 * self.dim // self.leaf, eight + 64

    def _learn(self, rows: np.ndarray) -> None:
        self._coded.learn(rows, self.seed, self.budget)

    def _encode(self, start: int, rows: np.ndarray, cells: np.ndarray) -> None:
        self._coded.cut(start)
        codes, sums, _ = self._coded.append(rows)
        if start == 0 and len(rows) == len(self._vectors):
            self._coded.settle(rows, (codes, sums), self.seed)

    def _scan(self, queries: np.ndarray, near: np.ndarray, far: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> Found:
        order, bounds = self._laid_out()
        if self._net is None:
            self._net = self._coded.net(self._vectors.array, order=order)
        rows, distances = self._kernels.code_ranges(self._net, queries, order, bounds[near], k, depth, mask)
        return rows, distances

    def _select(self, rows: np.ndarray) -> None:
        super()._select(rows)
        self._coded.select(rows)

    def _shares(self, other: VectorIndex) -> bool:
        return isinstance(other, GWI) and super()._shares(other) and self._coded.like(other._coded)

    def _absorb(self, other: VectorIndex, rows: np.ndarray) -> None:
        super()._absorb(other, rows)
        self._coded.absorb(other._coded, rows)  # type: ignore[attr-defined]

    def _arrays(self) -> dict[str, np.ndarray]:
        return {**self._tree(), **self._coded.arrays()} if len(self._centroids) else {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if self._restore_tree(arrays):
            self._coded.restore(arrays, len(self._vectors))

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "quant": f"int{self._coded.bits}"}
