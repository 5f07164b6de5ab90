"""Exact search: every distance is computed. The truth that the others are measured against."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import REGISTRY
from .base import VectorIndex


@REGISTRY.register("flat")
class Flat(VectorIndex):
    """Build O(1), search O(n d) a query, memory n d floats."""

    name = "flat"

    def _added(self, start: int) -> None:
        """A list of rows needs no work."""

    def _nearest(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, distances = self._kernels.topk(queries, self._vectors, k, self._code, mask)
        return rows, distances
