"""The part of the suite about what rows come in and how: types, odd numbers, progress and Ctrl-C; see indexes.py."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np

from .. import indexes
from ..errors import MemoryBudgetError
from .truth import Make, expect, recall, sound, true_distances, vectors


def check_dtypes(make: Make) -> None:
    """Rows and queries of any numbers are those numbers."""
    whole = np.round(vectors(1, 60, 8) * 20).clip(-128, 127) + np.float32(0)  # no -0, which integers have not
    kinds: list[Any] = [np.float16, np.float64, np.int8, np.int64]
    try:
        import ml_dtypes
    except ImportError:
        pass
    else:
        kinds.append(ml_dtypes.bfloat16)
    for metric, rows, types in (("l2", whole, kinds), ("hamming", whole > 0, [bool, np.uint8, np.int8])):
        index = make(8, metric)
        index.add(rows.astype(np.float32))
        for kind in types:
            other = make(8, metric)
            other.add(rows.astype(kind))
            assert other.digest() == index.digest(), f"rows of {np.dtype(kind)}"
            for a, b in zip(index.search(rows[:9].astype(np.float32), k=5), other.search(rows[:9].astype(kind), k=5), strict=True):
                assert np.array_equal(a, b), f"queries of {np.dtype(kind)}"


def check_budget(make: Make) -> None:
    """What does not fit is refused before anything changes; what is said to fit does, and finds as much."""
    rows, queries = vectors(1, 2500, 40, 20), vectors(2, 30, 40, 20)
    index = make(40)
    index.add(rows[:3])
    before = index.digest()
    index.budget = 1000
    for call in (lambda: index.add(rows), lambda: index.update(rows, np.arange(2500))):
        expect(MemoryBudgetError, "its budget is 1,000", call)
    assert index.digest() == before and len(index) == 3
    make(40).add(rows[:300])  # what is loaded at the first build is not the build's
    index = make(40)
    index.budget = index.build_bytes(2500)
    tracemalloc.start()
    try:
        index.add(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= index.budget, f"{peak:,} bytes were taken of a budget of {index.budget:,}"
    got = recall(index.search(queries, k=10)[1], true_distances(queries, rows, "l2"), 10)
    assert got >= index.recall_floor, f"recall {got}"


def check_progress(make: Make) -> None:
    """Progress rises to 1; broken off anywhere the index holds its first rows, answers, is saved, and takes the rest."""
    rows = vectors(1, 2600, 8)
    shares: list[float] = []
    index = make(8)
    index.add(rows, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0 and min(shares) > 0
    for limit in (0.0, 0.3, 0.8):
        index = make(8)
        index.add(rows[:300])

        def stop(share: float, limit: float = limit) -> None:
            if share > limit:
                raise KeyboardInterrupt

        try:
            index.add(rows[300:], progress=stop)
        except KeyboardInterrupt:
            n = len(index)
        else:
            raise AssertionError("what progress raised went nowhere")
        assert 300 <= n <= 2600
        header, arrays = index.to_sections(include_vectors=True)
        again = indexes.from_sections(json.loads(json.dumps(header)), arrays, kernel=index.stats()["backend"])
        for one in (index, again):
            ids, distances = one.search(rows[:30], k=10)
            sound(ids, distances)
            assert ids.max() < n and recall(distances, true_distances(rows[:30], rows[:n], "l2"), 10) >= index.recall_floor
        index.add(rows[n:])
        assert len(index) == 2600
        assert recall(index.search(rows[:30], k=10)[1], true_distances(rows[:30], rows, "l2"), 10) >= index.recall_floor


def check_unlike_rows(make: Make) -> None:
    """Rows of very different lengths, rows far out, rows of huge numbers: recall at the default, and no overflow."""
    rows, queries = vectors(1, 1500, 12, 15), vectors(2, 30, 12, 15)
    lengths = np.exp(np.random.default_rng(3).standard_normal((1500, 1)) * 2).astype(np.float32)
    for metric, x, q in (
        ("cosine", rows * lengths, queries * 1e3), ("l2", rows * 1e15, queries * 1e15), ("l2", rows * 1e-12, queries * 1e-12), ("l2", rows + 50, queries + 50),
        ("cosine", rows * 1e15, queries * 1e-12), ("ip", rows * 1e8, queries),
    ):  # fmt: skip
        index = make(12, metric)
        index.add(x)
        ids, distances = index.search(q, k=10)
        sound(ids, distances)
        assert (ids >= 0).all() and np.isfinite(distances).all()
        truth, size = true_distances(q, x, metric), float(np.abs(distances).max()) or 1.0
        got = recall(distances / size, truth / size, 10)
        assert got >= index.recall_floor, f"recall {got} with {metric} of rows up to {np.abs(x).max():.1e}"
