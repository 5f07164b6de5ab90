"""Indexes: building, one query, many queries; recall and bytes beside them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from lsmtensor import indexes
from lsmtensor.bench.recall import recall, truth

from . import common

NAMES = common.dense_indexes()


def build(name: str, points: np.ndarray) -> Any:
    index = indexes.create(name, dim=points.shape[1], metric="cosine")
    index.train(points)
    index.add(points)
    return index


class Build:
    """From vectors in memory to an index that answers."""

    params = [NAMES]
    param_names = ["index"]
    timeout = 300

    def setup(self, name: str) -> None:
        self.points = common.embeddings()[0][: common.rows(1000, 200)]
        build(name, self.points[:64])  # what a backend compiles or loads once

    def time_build(self, name: str) -> None:
        build(name, self.points)

    def peakmem_build(self, name: str) -> None:
        build(name, self.points)


class Search:
    """Each index at its default effort, through each backend; built once, by the fastest."""

    params = [NAMES, common.backends()]
    param_names = ["index", "kernel"]
    timeout = 300

    def setup_cache(self) -> np.ndarray:
        points, queries = common.embeddings()
        for name in NAMES:
            build(name, points).save(f"{name}.index")
        return truth(points, queries, common.K)

    def setup(self, true: np.ndarray, name: str, kernel: str) -> None:
        self.queries = common.embeddings()[1]
        self.index = indexes.load(f"{name}.index", kernel=kernel)
        self.index.search(self.queries[:2], k=common.K)
        self.next = itertools.cycle(self.queries)

    def time_one(self, true: np.ndarray, name: str, kernel: str) -> None:
        self.index.search(next(self.next), k=common.K)

    def time_many(self, true: np.ndarray, name: str, kernel: str) -> None:
        self.index.search(self.queries, k=common.K)

    def time_filtered(self, true: np.ndarray, name: str, kernel: str) -> None:
        self.index.search(next(self.next), k=common.K, filter=np.arange(0, len(self.index), 10))

    def track_recall(self, true: np.ndarray, name: str, kernel: str) -> float:
        return recall(self.index.search(self.queries, k=common.K)[0], true)

    track_recall.unit = "recall@10"  # type: ignore[attr-defined]


class Size:
    """Bytes a vector, those of the vectors themselves included, and the time to have an index back from its file."""

    params = [NAMES]
    param_names = ["index"]
    timeout = 300

    def setup_cache(self) -> int:
        points = common.embeddings()[0]
        for name in NAMES:
            build(name, points).save(f"{name}.index")
        return len(points)

    def track_bytes(self, count: int, name: str) -> float:
        return float(indexes.load(f"{name}.index").memory()["total"] / count)

    track_bytes.unit = "bytes/vector"  # type: ignore[attr-defined]

    def time_load(self, count: int, name: str) -> None:
        indexes.load(f"{name}.index")
