"""The distance kernels of every backend beside faiss and BLAS, and what the machine can do at most, in one run on one core.

"scan" is one query over rows that do not fit a cache (100,000 x 768 float32; 20,000 with --quick), "cached" one over 3,600 x 384, "block"
1,000 queries over the same: the ten nearest by L2 each time. "read" is numpy's largest-of over the bytes of the scan, the limit of a
scan; "sgemm" the product of the block's matrices through BLAS, without the top ten. GB/s count the bytes of the rows, GFLOP/s two
operations a dimension. A backend's first calls (compilation) are made before any clock runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..kernels.contract import L2
from .runner import Options, Ratio

K, QUERIES, CALLS = 10, 1000, 50


@dataclass
class State:
    """Rows and queries of the two places, and what is compared by name."""

    far: np.ndarray
    near: np.ndarray
    far_queries: np.ndarray
    near_queries: np.ndarray
    true: dict[str, np.ndarray]
    searchers: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]
    isas: dict[str, str]
    blas: Any


def setup(options: Options) -> State:
    rng = np.random.default_rng(options.seed)
    far = rng.standard_normal((20_000 if options.quick else 100_000, 768), dtype=np.float32)
    near = rng.standard_normal((3_600, 384), dtype=np.float32)
    far_queries = rng.standard_normal((1, 768), dtype=np.float32)
    near_queries = rng.standard_normal((QUERIES, 384), dtype=np.float32)
    there = kernels.available()
    names = options.kernels or tuple(n for n in ("cython", "numba", "numpy") if not there[n].startswith("unavailable"))
    searchers: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {n: _own(n) for n in names}
    if importlib.util.find_spec("faiss") is not None and (options.peers is None or "faiss" in options.peers):
        searchers["faiss"] = _faiss()
    for search in searchers.values():
        search(near_queries[:5], near[:100])
    true = {"scan": _nearest(far_queries, far), "cached": _nearest(near_queries[:1], near), "block": _nearest(near_queries, near)}
    return State(far, near, far_queries, near_queries, true, searchers, {n: there[n] for n in names}, _one_thread())


def _own(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    topk = kernels.choose(name).topk
    return lambda queries, points: topk(queries, points, K, L2, None)[1]


def _faiss() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    import faiss

    faiss.omp_set_num_threads(1)
    return lambda queries, points: faiss.knn(queries, points, K)[0]


def _one_thread() -> Any:
    """BLAS held to one thread, which pinning does not do; None where nothing can hold it, and then "sgemm" is left out."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _nearest(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The K smallest squared distances by differences, a query at a time: the oracle, no kernel of ours in it."""
    return np.stack([np.sort(np.partition(np.square(points - q).sum(1), K)[:K]) for q in queries])


def cases(state: State) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {"read": {"who": "limit"}}
    if state.blas is not None:
        made["sgemm"] = {"who": "limit"}
    for kind in state.true:
        for name in state.searchers:
            made[f"{kind}, {name}"] = {"who": "lsmtensor", "isa": state.isas[name]} if name in state.isas else {"who": "peer"}
    return made


def ratios(state: State) -> list[Ratio]:
    ours = next(iter(state.searchers))
    made = [Ratio(f"scan, {ours} / read", f"scan, {ours}", ("read",), "GB/s")]
    for other in list(state.searchers)[1:]:
        made += [Ratio(f"{kind}, {ours} / {other}", f"{kind}, {ours}", (f"{kind}, {other}",), "GFLOP/s") for kind in state.true]
    if state.blas is not None:
        made.append(Ratio(f"block, {ours} / sgemm", f"block, {ours}", ("sgemm",), "GFLOP/s"))
    return made


def dataset(state: State) -> dict[str, Any]:
    shapes = " and ".join(f"{len(x):,} x {x.shape[1]}" for x in (state.far, state.near))
    return {"name": f"{shapes} float32, normal", "sha256": hashlib.sha256(state.far.data).hexdigest()}


def run(state: State, case: str) -> dict[str, float]:
    kind, _, name = case.partition(", ")
    if kind == "read":
        words = state.far.reshape(-1).view(np.int32)
        begin = time.perf_counter()
        words.max()
        return {"GB/s": words.nbytes / (time.perf_counter() - begin) / 1e9}
    if kind == "sgemm":
        begin = time.perf_counter()
        state.near_queries @ state.near.T
        return {"GFLOP/s": _operations(state.near_queries, state.near) / (time.perf_counter() - begin) / 1e9}
    points = state.far if kind == "scan" else state.near
    queries = {"scan": state.far_queries, "cached": state.near_queries[:1], "block": state.near_queries}[kind]
    search, calls = state.searchers[name], CALLS if kind == "cached" else 1
    begin = time.perf_counter()
    for _ in range(calls):
        distances = search(queries, points)
    seconds = (time.perf_counter() - begin) / calls
    wrong = int((~np.isclose(distances, state.true[kind], rtol=1e-4)).sum())
    measures = {"GFLOP/s": _operations(queries, points) / seconds / 1e9, "seconds": seconds, "wrong": float(wrong)}
    return measures if kind == "block" else {"GB/s": points.nbytes / seconds / 1e9, **measures}


def _operations(queries: np.ndarray, points: np.ndarray) -> float:
    return 2.0 * len(queries) * points.size


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures.get("wrong", 0) == 0, f"{case}: other distances than numpy's differences give"


def teardown(state: State) -> None:
    if state.blas is not None:
        state.blas.restore_original_limits()
