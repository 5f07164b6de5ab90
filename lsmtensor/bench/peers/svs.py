"""SVS: a Vamana graph over float16 (pip install scalable-vs). Its LVQ codes refuse processors that are not Intel's."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .base import Dense, Setting


class Svs(Dense):
    name, needs = "SVS Vamana f16", "svs"
    settings: ClassVar[tuple[Setting, ...]] = ({"window": 10}, {"window": 20}, {"window": 40}, {"window": 80}, {"window": 160})

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        import svs

        distance = {"l2": svs.DistanceType.L2, "ip": svs.DistanceType.MIP, "cosine": svs.DistanceType.Cosine}[metric]
        degree, parameters = 64, svs.VamanaBuildParameters
        made = parameters(graph_max_degree=degree, window_size=128, alpha=1.2 if metric == "l2" else 0.95)
        self.index: Any = svs.Vamana.build(made, points.astype(np.float16), distance, num_threads=1)
        self.size = points.size * 2 + len(points) * 4 * (degree + 1)

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        if setting:
            self.index.search_window_size = setting["window"]
        return self.index.search(query[None], k)[0][0].astype(np.int64)

    def bytes(self) -> int:
        return self.size
