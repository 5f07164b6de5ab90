"""Navigable small world graphs under a level of fewer rows: Malkov & Yashunin, TPAMI 2020 (arXiv 1603.09320).

Over codes by default: built in batches and walked as `fqg` is, from a graph over every m-th row. ``quant=none`` walks full rows, with as many
levels as the paper draws.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from . import REGISTRY
from .base import Found, VectorIndex
from .carry import KNOWN, LOST, connect
from .codes import CodedRows
from .fqg import FQG
from .levels import Levels
from .params import check_counts, settled


@REGISTRY.register("hnsw")
class HNSW(FQG):
    """``m`` links a row on upper levels and 2m on the lowest; ``ef_construction`` the beam of the build (0: 64 twice, over codes, 200 over full rows).

    Walked over codes of ``quant`` (int8, int4; auto: int4 from 128 dimensions where it tells neighbours apart), and the nearest looked at in full
    until the error seen allows no more; ``none``: full rows alone, for data of mixed scales. Build about O(n log n), ``m * ef_construction``
    distances a row and pass; search O(ef log n). Memory 8m bytes a row, a little above, and d (int8), d / 2 (int4) or nothing (none) beside the
    vectors. ``ef`` (also a search parameter) trades time for recall.
    """

    name = "hnsw"
    version = 2
    search_params: ClassVar[tuple[str, ...]] = ("ef",)

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, m: int = 16,
        ef_construction: int = 0, ef: int = 64, quant: str = "int8", seed: int = 0,
    ) -> None:  # fmt: skip
        self.m, self._beam = settled("hnsw", m=(m, 2, 256), ef_construction=(ef_construction, 0, 100_000))
        self._full = quant == "none"
        self.above = self.m, 2 * self.m
        # rows that come together, in the order of names say, do not see each other in the first pass
        super().__init__(dim, metric, kernel, threads, 2 * self.m, self._beam or (200 if self._full else 64), 2, quant, ef, 0, "top", seed)

    def _settings(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self._beam, "ef": self.ef, "quant": self.quant, "seed": self.seed}

    def _check_quant(self) -> None:
        if not self._full:
            CodedRows.check(self.name, self.dim, self._code, self.quant, "none")

    def _clear(self) -> None:
        super()._clear()
        self._levels = Levels(self.m, self.ef_construction, self.seed, self._code, self._kernels)

    def _row_bytes(self) -> tuple[int, int]:
        return super()._row_bytes() if not self._full else (8 * self.m + 64, 64)

    def train(self, x: Any) -> VectorIndex:
        return VectorIndex.train(self, x) if self._full else super().train(x)

    def _insert(self, start: int, stop: int) -> None:
        if self._full:
            self._check_count(stop)
            self._levels.insert(self._vectors.array, start, stop, self._tell)
        else:
            super()._insert(start, stop)

    def _inserted(self, stop: int) -> int:
        if not self._full:
            return super()._inserted(stop)
        self._levels.cut(self._levels.built)
        return self._levels.built

    # -- carried over to merged rows ---------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        return super()._worth(known, rows) if not self._full else known >= KNOWN * rows and known >= (1 - LOST) * len(self._vectors)

    def _select(self, rows: np.ndarray) -> None:
        if self._full:
            self._levels.select(rows)
        else:
            super()._select(rows)

    def _finish(self) -> None:
        if self._full:
            connect(self._levels.links.array, self._levels.state[:1])
        else:
            super()._finish()

    # -- searching -------------------------------------------------------------------------------

    def _near(  # type: ignore[override]
        self, queries: np.ndarray, k: int, mask: np.ndarray | None, ef: int | None = None, **params: Any
    ) -> Found:
        if not self._full:
            return super()._near(queries, k, mask, ef, **params)
        check_counts(ef=ef)
        return self._levels.near(self._vectors.array, queries, k, mask, self.ef if ef is None else int(ef))

    # -- as bytes --------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, np.ndarray]:
        return self._levels.arrays() if self._full else super()._arrays()

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if self._full:
            self._levels.restore(arrays, len(self._vectors))
        else:
            super()._restore(arrays)

    @classmethod
    def from_sections(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], **over: Any) -> VectorIndex:
        # of version 1 there were no codes
        settings = {"quant": "none"} | header["settings"] if header["version"] == 1 else header["settings"]
        return super().from_sections({**header, "settings": settings}, arrays, **over)

    def stats(self) -> dict[str, Any]:
        if self._full:
            return {**VectorIndex.stats(self), "quant": "none", **self._levels.stats()}
        kept = super().stats()
        del kept["degree"], kept["entries"]
        return {**kept, "levels": 1 + (len(self._above) > 0)}
