"""A stream of vectors whose distribution moves: insert, delete the oldest, search, step by step (after the streaming track of big-ann-benchmarks).

A window of the newest rows is kept: each step a part comes in and as much goes out, through the table, with its index; then queries that look like the newest rows are
asked for their ten nearest, and an exact scan of the window says which these are. What matters is whether recall and latency at the end are those at the beginning.
``--index`` names the indexes; half of a window is "warm" before the clock runs.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from ..registry import Spec
from . import latency, vectors
from .recall import recall, truth
from .runner import Options

K, ASKED, DIM = 10, 50, 64


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    data: vectors.Vectors
    indexes: tuple[str, ...]
    window: int
    steps: int


def setup(options: Options) -> State:
    window, steps = (2000, 4) if options.quick else (30_000, 20)
    step = window // 10
    data = vectors.load(options.data or f"drifting(rows={window + steps * step}, dim={DIM}, speed=3.0)", 1, K, options.seed)
    return State(options.path, options.config, data, options.indexes or ("fqg", "gwi"), window, (len(data.points) - window) // step)


def cases(state: State) -> dict[str, dict[str, Any]]:
    return {text: {"who": "lsmtensor", "index": text, "window": state.window, "steps": state.steps, "cores": 0} for text in state.indexes}


def dataset(state: State) -> dict[str, Any]:
    return state.data.about


def run(state: State, case: str) -> dict[str, float]:
    path, step, points = state.folder / "stream.lsm", state.window // 10, state.data.points
    shutil.rmtree(path, ignore_errors=True)
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (points.shape[1],)))], primary_key="id")
    spec, rng = Spec.parse(case), np.random.default_rng(0)
    recalls, searched, changed, wrong = [], [], [], 0
    with lt.open(str(path), config=state.config) as db:
        table = db.create_table("t", schema, history="none", indexes={"v": str(replace(spec, params={**spec.params, "metric": state.data.metric}))})
        table.insert({"id": np.arange(state.window), "v": points[: state.window]})
        db.compact()
        for number in range(state.steps):
            first, stop = (number + 1) * step, state.window + (number + 1) * step
            begin = time.perf_counter()
            table.insert({"id": np.arange(stop - step, stop), "v": points[stop - step : stop]})
            table.delete(np.arange(first - step, first))
            changed.append((time.perf_counter() - begin) / (2 * step))
            queries = points[rng.integers(stop - step, stop, ASKED)] + rng.standard_normal((ASKED, points.shape[1]), dtype=np.float32) * points.std() * 0.1
            found: list[list[int]] = []
            searched += latency.each(lambda q: found.append(table.search(q, k=K, column="v").column("id").to_pylist()), queries)  # noqa: B023
            recalls.append(recall(np.array(found), first + truth(points[first:stop], queries, K, state.data.metric)))
            wrong += any(row < first for line in found for row in line)
        wrong += len(table) != state.window
    third = max(1, state.steps // 3)
    return {
        "recall@10, first third": float(np.mean(recalls[:third])), "recall@10, last third": float(np.mean(recalls[-third:])), "recall@10, least": min(recalls),
        "rows changed/s": 1 / float(np.mean(changed)), **latency.percentiles("search", searched), "wrong": float(wrong),
    }  # fmt: skip


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["wrong"] == 0, f"{case}: rows that were deleted came back, or the window is not whole"
    assert measures["recall@10, least"] > 0.5, f"{case}: recall {measures['recall@10, least']:.3f}"
