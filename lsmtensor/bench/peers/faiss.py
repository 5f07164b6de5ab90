"""faiss: graphs, and cells of fast-scan PQ codes with a second look (pip install faiss-cpu)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Dense, Setting


class _Faiss(Dense):
    needs = "faiss"
    factory: ClassVar[str]

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        rows = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30) if metric == "cosine" else points
        self.index: Any = faiss.index_factory(points.shape[1], self.factory.format(m=points.shape[1] // 4, cells=2 ** round(np.log2(len(points)) / 2)), faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        if hasattr(self.index, "hnsw"):
            self.index.hnsw.efConstruction = 200
        self.index.train(rows)
        self.index.add(rows)
        if "IVF" in self.factory:
            refined: Any = self.index
            self.cells: Any = faiss.downcast_index(refined.base_index)
        self.size = len(faiss.serialize_index(self.index))

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        if "ef" in setting:
            self.index.hnsw.efSearch = setting["ef"]
        if "nprobe" in setting:
            self.cells.nprobe, self.index.k_factor = setting["nprobe"], setting["depth"]
        return self.index.search(query[None, :], k)[1][0]

    def bytes(self) -> int:
        return self.size


class FaissFlat(_Faiss):
    name, factory = "faiss Flat", "Flat"


class FaissHnsw(_Faiss):
    name, factory = "faiss HNSW32", "HNSW32"
    settings: ClassVar[tuple[Setting, ...]] = ({"ef": 10}, {"ef": 20}, {"ef": 40}, {"ef": 80}, {"ef": 160})


class FaissCells(_Faiss):
    name, factory = "faiss IVF,PQx4fs,Refine", "IVF{cells},PQ{m}x4fs,RFlat"
    # cells looked into, and how many times k rows are looked at in full
    settings: ClassVar[tuple[Setting, ...]] = tuple({"nprobe": n, "depth": depth} for n, depth in ((2, 4), (4, 4), (8, 4), (16, 8), (32, 16), (64, 32)))
