"""Exhaustive search: of all rows, the truth that the others are measured against; or of all codes, and then of the nearest rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import quant as quantizers
from ..errors import CorruptionError
from ..quant import Quantizer
from . import REGISTRY
from .base import Found, VectorIndex
from .params import settled
from .rows import Rows

# rows to learn from: fewer are looked at in full
LEAST = 256


@REGISTRY.register("flat")
class Flat(VectorIndex):
    """Build O(1), search O(n d) a query, no memory beside the rows.

    With ``quant``, a quantizer's spec such as ``"pq(m=48)"``, it keeps codes of the rows, learned from the first 256 or more that come together, compares
    queries with all of them, and the ``rerank`` nearest (0: ten times k; k or less: none) in full.
    """

    name = "flat"
    recall_floor = 1.0
    search_params = ("rerank",)

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, quant: Any = "none", rerank: int = 0
    ) -> None:
        (self.rerank,) = settled("flat", rerank=(rerank, 0, 1 << 20))
        self.quant = str(quant)
        if self.quant != "none":
            quantizers.create(self.quant, dim)  # refuses what is no quantizer before there are rows
        super().__init__(dim, metric, kernel, threads)

    def _settings(self) -> dict[str, Any]:
        return {} if self.quant == "none" else {"quant": self.quant, "rerank": self.rerank}

    def _clear(self) -> None:
        self._resident: np.ndarray | None = None
        self._quantizer: Quantizer | None = None
        self._codes = Rows(np.empty((0, 0), np.uint8))

    def _row_bytes(self) -> tuple[int, int]:
        if self.quant == "none":
            return 0, 0
        # a quantizer learns from copies
        return (self._quantizer or quantizers.create(self.quant, self.dim)).code_bytes, 16 * self.dim

    def _insert(self, start: int, stop: int) -> None:
        """What the kernels hold of the rows is old; codes are made of those that have none."""
        self._resident = None
        if self.quant == "none" or (self._quantizer is None and stop < LEAST):
            return
        if self._quantizer is None:
            fresh = quantizers.create(self.quant, self.dim)
            self._quantizer = fresh.fit(self._vectors.part(0, stop))
            self._codes = Rows(np.empty((0, self._quantizer.code_bytes), np.uint8))
        self._codes.cut(start)
        self._codes.append(self._quantizer.encode(self._vectors.part(len(self._codes), stop)))

    def _worth(self, known: int, rows: int) -> bool:
        """Merged rows are learned from anew."""
        return self.quant == "none"

    def _select(self, rows: np.ndarray) -> None:
        """There is nothing but rows."""

    def _arrays(self) -> dict[str, np.ndarray]:
        return {} if self._quantizer is None else {"quantizer": np.frombuffer(self._quantizer.saved(), np.uint8), "codes": self._codes.array}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if "quantizer" not in arrays:
            return
        self._quantizer = quantizers.load(arrays["quantizer"].data)
        if self._quantizer.dim != self.dim or arrays["codes"].dtype != np.uint8 or arrays["codes"].shape != (len(self._vectors), self._quantizer.code_bytes):
            raise CorruptionError(f"codes of {arrays['codes'].dtype} and shape {arrays['codes'].shape} for {len(self._vectors)} rows of {self._quantizer!r}")
        self._codes = Rows(arrays["codes"])

    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, rerank: int | None = None, **params: Any) -> Found:
        if self._quantizer is None:
            if self._resident is None:
                self._resident = self._kernels.resident(self._vectors.array)
            rows, distances = self._kernels.topk(queries, self._resident, k, self._code, mask)
            return rows, distances
        wanted = self.rerank if rerank is None else rerank
        near, far = self._quantizer.search(queries, self._codes.array, max(k, wanted or 10 * k), self.metric, self._kernels, mask)
        if 0 < wanted <= k:
            return near, far
        rows, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        for i, query in enumerate(queries):
            found = np.sort(near[i][near[i] >= 0])
            exact = self._kernels.gathered(query, self._vectors.array, found, self._code)
            order = np.argsort(exact, kind="stable")[:k]
            rows[i, : len(order)], distances[i, : len(order)] = found[order], exact[order]
        return rows, distances

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "quant": self.quant, "coded": len(self._codes)}
