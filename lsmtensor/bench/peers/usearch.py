"""usearch: HNSW over float32 and bfloat16 (pip install usearch)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Dense, Setting


class Usearch(Dense):
    name, needs = "usearch f32", "usearch"
    dtype: ClassVar[str] = "f32"
    settings: ClassVar[tuple[Setting, ...]] = ({"ef": 10}, {"ef": 20}, {"ef": 40}, {"ef": 80}, {"ef": 160})

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        from usearch.index import Index

        self.index: Any = Index(ndim=points.shape[1], metric={"cosine": "cos", "l2": "l2sq", "ip": "ip"}[metric], dtype=self.dtype, connectivity=16, expansion_add=200)
        self.index.add(np.arange(len(points)), points, threads=1)

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        if "ef" in setting:
            self.index.expansion_search = setting["ef"]
        return np.asarray(self.index.search(query, k, threads=1).keys, np.int64)

    def bytes(self) -> int:
        return int(self.index.serialized_length)


class UsearchHalf(Usearch):
    name, dtype = "usearch bf16", "bf16"
