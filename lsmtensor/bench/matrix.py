"""Search through the database: every index with every kernel, recall and speed measured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

import lsmtensor as lt

from . import recall

if TYPE_CHECKING:
    from .main_job import Job

K = 10
BEAMS: dict[str, tuple[int | None, ...]] = {"flat": (None,), "hnsw": (10, 20, 40, 80)}
FEW = 20
"""Queries for numpy, which is the definition of each kernel and not meant to be fast."""


def search(job: Job) -> None:
    """Fill ``job.facts["search"]``: one entry per index, kernel and beam width."""
    from .main_job import PACKAGES, must

    queries = np.ascontiguousarray(job.data.embeddings[job.queries])
    true = recall.truth(job.data.embeddings[job.stored], queries, K)
    row_of = {name: row for row, name in enumerate(job.names(job.stored))}
    there = lt.kernels.available()
    chosen = [name for name, what in there.items() if not what.startswith("unavailable")]
    entries: list[dict[str, Any]] = []
    with job.progress("searching", sum(len(b) for b in BEAMS.values()) * len(chosen)) as advance:
        for kernel in chosen:
            few = queries[: FEW if kernel == "numpy" else len(queries)]
            # settings of the job, with this kernel; reading only, so the same segments serve every kernel
            with lt.open(job.path, mode="r", config=job.config.with_set(f"kernel={kernel}")) as db:
                table = db[PACKAGES]
                for index, beams in BEAMS.items():
                    name = next(n for n, what in table.indexes.items() if what.startswith(f"embedding: {index}"))
                    for ef in beams:
                        params: dict[str, Any] = {"index": name, **({} if ef is None else {"ef": ef})}
                        entries.append({"index": index, "kernel": kernel, "isa": there[kernel], "ef": ef, **_measure(table, few, params, true, row_of)})
                        advance(1)
    job.facts["search"] = entries
    for entry in entries:
        floor = 0.999 if entry["index"] == "flat" else 0.8
        must(entry["recall"] >= floor, f"recall of {entry['index']} by {entry['kernel']} is {entry['recall']:.3f}, below {floor}")


def _measure(table: lt.Table, queries: np.ndarray, params: dict[str, Any], true: np.ndarray, row_of: dict[str, int]) -> dict[str, Any]:
    begin = time.perf_counter()
    table.search(queries[0], k=K, **params)
    first = time.perf_counter() - begin
    found, seconds = [], []
    for query in queries:
        begin = time.perf_counter()
        answer = table.search(query, k=K, **params)
        seconds.append(time.perf_counter() - begin)
        found.append([row_of[n] for n in answer.column("name").to_pylist()])
    table.search(queries[:2], k=K, **params)
    begin = time.perf_counter()
    table.search(queries, k=K, **params)
    together = time.perf_counter() - begin
    return {
        "queries": len(queries), "recall": recall.recall(np.array(found), true[: len(queries)]), "first_seconds": first,
        "seconds": seconds, "qps": 1 / float(np.median(seconds)), "qps_together": len(queries) / together,
        "plan": [s.get("plan") for s in table.search(queries[0], k=K, explain=True, **params)["sources"]],
    }  # fmt: skip
