"""ScaNN: a tree of cells, anisotropic 4-bit codes, a second look (pip install scann)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Dense, Setting


class Scann(Dense):
    name, needs = "ScaNN", "scann"
    settings: ClassVar[tuple[Setting, ...]] = (
        {"leaves": 4, "rerank": 30}, {"leaves": 8, "rerank": 60}, {"leaves": 16, "rerank": 100}, {"leaves": 32, "rerank": 150}, {"leaves": 80, "rerank": 250},
    )  # fmt: skip

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        import scann

        rows = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30) if metric == "cosine" else points
        maker = scann.scann_ops_pybind.builder(rows, 10, "squared_l2" if metric == "l2" else "dot_product")
        maker = maker.set_n_training_threads(1).tree(round(len(points) ** 0.5), 16, training_sample_size=min(len(points), 100_000))
        self.index: Any = maker.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
        self.size = points.nbytes + points.size // 4

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        more = {"leaves_to_search": setting["leaves"], "pre_reorder_num_neighbors": setting["rerank"]} if setting else {}
        return self.index.search(query, k, **more)[0].astype(np.int64)

    def bytes(self) -> int:
        return self.size
