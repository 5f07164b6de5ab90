"""hnswlib, the reference implementation of HNSW (pip install hnswlib)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .base import Dense, Setting


class Hnswlib(Dense):
    name, needs = "hnswlib M=16", "hnswlib"
    settings: ClassVar[tuple[Setting, ...]] = ({"ef": 10}, {"ef": 20}, {"ef": 40}, {"ef": 80}, {"ef": 160})

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        import hnswlib

        self.index = hnswlib.Index(space=metric, dim=points.shape[1])
        self.index.init_index(max_elements=len(points), M=16, ef_construction=200, random_seed=0)
        self.index.set_num_threads(1)
        self.index.add_items(points, num_threads=1)

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        if "ef" in setting:
            self.index.set_ef(setting["ef"])
        return self.index.knn_query(query, k=k, num_threads=1)[0][0].astype(np.int64)

    def bytes(self) -> int:
        return int(self.index.index_file_size())
