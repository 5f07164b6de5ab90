"""Exact search: every distance is computed. The truth that the others are measured against."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import REGISTRY
from .base import Found, VectorIndex


@REGISTRY.register("flat")
class Flat(VectorIndex):
    """Build O(1), search O(n d) a query, no memory beside the rows."""

    name = "flat"
    recall_floor = 1.0

    def _clear(self) -> None:
        self._resident: np.ndarray | None = None

    def _insert(self, start: int, stop: int) -> None:
        """A list of rows needs no work; what the kernels hold of it is old."""
        self._resident = None

    def _worth(self, known: int, rows: int) -> bool:
        return True

    def _select(self, rows: np.ndarray) -> None:
        """There is nothing but rows."""

    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> Found:
        if self._resident is None:
            self._resident = self._kernels.resident(self._vectors.array)
        rows, distances = self._kernels.topk(queries, self._resident, k, self._code, mask)
        return rows, distances
