"""The kernels of every backend beside public equivalents, and what the machine can do at most, in one run on one core.

    scan       the ten nearest by L2 of one query, 100,000 x 768 float32, which no cache holds
    int8, int4 the ten nearest by inner product with codes of a byte, of half a byte, 200,000 x 768; faiss: its scalar quantizers
    distances  of one query to 3,600 x 384 float32, in cache; faiss, simsimd
    cached     the ten nearest of the same
    block      the ten nearest of 1,000 queries over the same
    fast scan  one query over product codes, 200,000 rows of 96 parts of 4 bits; faiss: IndexPQFastScan
    assign     the nearest of 1,024 centroids, 10,000 x 384; faiss: its search for one, which its k-means does
    merge      four sorted runs of 500,000 int64 keys; numpy: a stable sort, which finds the runs
    read       numpy's largest-of over the bytes of the scan: the limit of what reads from memory
    sgemm      the product of the block's matrices through BLAS, without the top ten

With --quick there are a tenth of the rows. GB/s count the bytes of rows or codes, GFLOP/s two operations a dimension. A backend's first
calls (compilation) are made before any clock runs; results are checked before a figure counts. A ratio says what it should be. Rows and codes
begin with a cache line, as those of every index do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import kernels
from ..indexes.rows import aligned
from ..kernels.contract import IP, L2
from ..kernels.numpy_pq import packed
from .runner import Options, Ratio

K, QUERIES, CALLS, CENTROIDS, PARTS, RUNS = 10, 1000, 50, 1024, 96, 4


@dataclass
class Kind:
    """What every contender of a kind does: how much it reads and computes, how often within one clock, and whether a result is right."""

    amount: dict[str, float]
    right: Callable[[Any], bool]
    calls: int = 1


@dataclass
class State:
    """Kinds, contenders by (kind, name), and the rows that the limits are measured with."""

    far: np.ndarray
    near: np.ndarray
    queries: np.ndarray
    isas: dict[str, str]
    blas: Any
    kinds: dict[str, Kind] = field(default_factory=dict)
    contenders: dict[tuple[str, str], Callable[[], Any]] = field(default_factory=dict)


def setup(options: Options) -> State:
    rng = np.random.default_rng(options.seed)
    less = 10 if options.quick else 1
    there = kernels.available()
    names = options.kernels or tuple(n for n in ("cython", "numba", "numpy") if not there[n].startswith("unavailable"))
    far, near, queries = (aligned(shape, np.float32) for shape in ((100_000 // less, 768), (3_600, 384), (QUERIES, 384)))
    for rows in (far, near, queries):
        rng.standard_normal(dtype=np.float32, out=rows)
    state = State(far, near, queries, {n: there[n] for n in names}, _one_thread())
    peers = {n for n in ("faiss", "simsimd") if importlib.util.find_spec(n) and (options.peers is None or n in options.peers)}
    _distances(state, peers, rng.standard_normal((1, 768), dtype=np.float32))
    _codes(state, peers, rng, 200_000 // less)
    _products(state, peers, rng, 200_000 // less)
    _assign(state, peers, rng.standard_normal((10_000 // less, 384), dtype=np.float32))
    _merge(state, options.peers is None, rng, 500_000 // less)
    for call in state.contenders.values():
        call()
    return state


def _part(which: int, call: Callable[..., Any], *args: Any) -> Any:
    return call(*args)[which]


def _unchecked(call: Callable[..., Any], *args: Any) -> None:
    """A peer over its own codes of the same size: what it answers is not ours to know."""
    call(*args)


def _one_thread() -> Any:
    """BLAS held to one thread, which pinning does not do; None where nothing can hold it, and then "sgemm" is left out."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _distances(state: State, peers: set[str], far_query: np.ndarray) -> None:
    def nearest(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
        """By differences, a query at a time: no kernel of ours in it."""
        return np.stack([np.sort(np.partition(np.square(points - q).sum(1), K)[:K]) for q in queries])

    one, near = state.queries[:1], state.near
    every = np.square(near - one[0]).sum(1)
    state.kinds["distances"] = Kind(_work(one, near), lambda got: np.allclose(np.ravel(got), every, rtol=1e-4), CALLS)
    for name in state.isas:
        state.contenders["distances", name] = partial(kernels.choose(name).pairwise, one, near, L2)
    if "simsimd" in peers:
        import simsimd

        state.contenders["distances", "simsimd"] = lambda: np.asarray(simsimd.cdist(one, near, "sqeuclidean", out_dtype="float32"))
    if "faiss" in peers:
        import faiss

        faiss.omp_set_num_threads(1)
        state.contenders["distances", "faiss"] = lambda: faiss.pairwise_distances(one, near)
    for kind, queries, points in (("scan", far_query, state.far), ("cached", one, near), ("block", state.queries, near)):
        true = nearest(queries, points)
        state.kinds[kind] = Kind(_work(queries, points), lambda got, true=true: np.allclose(got, true, rtol=1e-4), CALLS if kind == "cached" else 1)  # type: ignore[misc]
        for name in state.isas:
            state.contenders[kind, name] = partial(_part, 1, kernels.choose(name).topk, queries, points, K, L2, None)
        if "faiss" in peers:
            state.contenders[kind, "faiss"] = partial(_part, 0, faiss.knn, queries, points, K)


def _codes(state: State, peers: set[str], rng: np.random.Generator, n: int) -> None:
    """Full rows are zeros that are never touched but for the ten answered; whole numbers make estimates exact."""
    points, query = np.zeros((n, 768), np.float32), rng.integers(-127, 128, (1, 768)).astype(np.float32)
    query[0, 0] = 127
    none, flat = np.empty(0, np.float32), np.empty((0, 0), np.uint32)
    for kind, bits in (("int8", 8), ("int4", 4)):
        codes = aligned((n, 96 * bits), np.uint8)
        codes[:] = rng.integers(0, 256, codes.shape, np.uint8)
        if bits == 8:
            dots = np.concatenate([(codes[at : at + 10_000].astype(np.float32) - 128) @ query[0] for at in range(0, n, 10_000)])
        else:
            halves = query.reshape(-1, 2, 64).transpose(1, 0, 2).reshape(2, -1)
            parts = (codes[at : at + 10_000] for at in range(0, n, 10_000))
            dots = np.concatenate([((part & 15) * np.float32(2) - 15) @ halves[0] + ((part >> 4) * np.float32(2) - 15) @ halves[1] for part in parts])
        best = np.sort(np.partition(dots, -K)[-K:])
        state.kinds[kind] = Kind({"GB/s": codes.nbytes}, lambda ids, dots=dots, best=best: ids is None or np.array_equal(np.sort(dots[ids[0]]), best))  # type: ignore[misc]
        factors = np.ones(n, np.float32) if bits == 4 else none
        for name in state.isas:
            if name == "numpy":
                continue  # a definition, a row at a time
            run = kernels.choose(name)
            net = run.code_net(points, np.zeros(n, np.float32), IP, points[0], 1.0, codes, none, factors, bits, flat, None, None)
            state.contenders[kind, name] = partial(_part, 0, run.code_scan, net, query, K, K, None)
        if "faiss" in peers:
            import faiss

            index = faiss.IndexScalarQuantizer(768, faiss.ScalarQuantizer.QT_8bit if bits == 8 else faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT)
            index.train(rng.standard_normal((1000, 768), dtype=np.float32))
            faiss.copy_array_to_vector(codes.reshape(-1), index.codes)
            index.ntotal = n
            state.contenders[kind, "faiss"] = partial(_unchecked, index.search, query, K)


def _products(state: State, peers: set[str], rng: np.random.Generator, n: int) -> None:
    """Centroids of whole numbers, so that tables of 8 bits are exact."""
    d, blocks = 4 * PARTS, -(-n // 32)
    books = rng.integers(0, 128, (PARTS, 4, 16)).astype(np.float32)
    books[:, 1:], books[:, 0, :2] = 0, [0, 127]
    codes = rng.integers(0, 16, (n, PARTS)).astype(np.uint8)
    query = np.zeros((1, d), np.float32)
    query[0, ::4] = 1
    sums = np.zeros(n, np.float32)
    for part in range(PARTS):
        sums += books[part, 0, codes[:, part]]
    best = np.sort(np.partition(sums, -K)[-K:])
    points, order, whole = np.zeros((n, d), np.float32), np.arange(n), np.array([[[0, n]]])
    base, bias = np.zeros((1, 1), np.float32), np.zeros(32 * blocks, np.float32)
    state.kinds["fast scan"] = Kind({"GB/s": n * PARTS / 2}, lambda ids: ids is None or np.array_equal(np.sort(sums[ids[0]]), best))
    for name in state.isas:
        if name != "numpy":
            run = kernels.choose(name)
            net = run.pq_net(points, np.zeros(n, np.float32), IP, books, packed(codes), bias)
            state.contenders["fast scan", name] = partial(_part, 0, run.pq_ranges, net, query, base, order, whole, K, K, None)
    if "faiss" in peers:
        import faiss

        index = faiss.IndexPQFastScan(d, PARTS, 4, faiss.METRIC_INNER_PRODUCT)
        index.train(rng.standard_normal((2000, d), dtype=np.float32))
        index.add(rng.standard_normal((n, d), dtype=np.float32))
        asked = rng.standard_normal((1, d), dtype=np.float32)
        state.contenders["fast scan", "faiss"] = partial(_unchecked, index.search, asked, K)


def _assign(state: State, peers: set[str], x: np.ndarray) -> None:
    centroids = x[:: len(x) // CENTROIDS or 1][:CENTROIDS].copy() if len(x) >= CENTROIDS else state.near[:CENTROIDS]
    true = np.stack([np.square(centroids - row).sum(1).min() for row in x])
    state.kinds["assign"] = Kind(_work(x, centroids), lambda got: np.allclose(got, true, rtol=1e-4, atol=1e-2))
    for name in state.isas:
        state.contenders["assign", name] = partial(_part, 1, kernels.choose(name).assign, x, centroids)
    if "faiss" in peers:
        import faiss

        state.contenders["assign", "faiss"] = lambda: faiss.knn(x, centroids, 1)[0][:, 0]


def _merge(state: State, peers: bool, rng: np.random.Generator, n: int) -> None:
    keys = np.concatenate([np.sort(rng.integers(-(2**62), 2**62, n)) for _ in range(RUNS)])
    seqs, starts = np.arange(len(keys), dtype=np.uint64), np.arange(RUNS + 1) * n
    true = np.argsort(keys, kind="stable")
    state.kinds["merge"] = Kind({"Mkeys/s": len(keys) / 1e6}, lambda got: np.array_equal(keys[got], keys[true]))
    for name in state.isas:
        if "merge_int64" in kernels.choose(name).names():
            state.contenders["merge", name] = partial(kernels.choose(name).merge_int64, keys, seqs, starts)
    if peers:
        state.contenders["merge", "numpy's sort"] = partial(np.argsort, keys, kind="stable")


def _work(queries: np.ndarray, points: np.ndarray) -> dict[str, float]:
    amount = {"GFLOP/s": 2e0 * len(queries) * points.size}
    return amount if len(queries) > 1 else {"GB/s": points.nbytes, **amount}


def cases(state: State) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {"read": {"who": "limit"}}
    if state.blas is not None:
        made["sgemm"] = {"who": "limit"}
    for kind, name in state.contenders:
        made[f"{kind}, {name}"] = {"who": "lsmtensor", "isa": state.isas[name]} if name in state.isas else {"who": "peer"}
    return made


def ratios(state: State) -> list[Ratio]:
    """The first backend beside the limits, the peers, and the others, which should not be this many times behind."""
    ours, there = next(iter(state.isas)), state.contenders
    made = [
        Ratio(f"{kind}, {ours} / read, wanted {bar}", f"{kind}, {ours}", ("read",), "GB/s")
        for kind, bar in (("scan", 0.85), ("int8", 0.75), ("int4", 0.75))
        if (kind, ours) in there
    ]
    if state.blas is not None:
        made.append(Ratio(f"block, {ours} / sgemm, wanted 0.8", f"block, {ours}", ("sgemm",), "GFLOP/s"))
    for kind, about in state.kinds.items():
        others = [name for of, name in there if of == kind and name != ours]
        measure = next(iter(about.amount))
        if (kind, ours) in there:
            behind = {"numba": 6 if kind in ("int8", "int4", "fast scan") else 1.5}
            made += [
                Ratio(f"{kind}, {ours} / {name}" + (f", wanted at most {behind[name]}" if name in behind else ""), f"{kind}, {ours}", (f"{kind}, {name}",), measure)
                for name in others
            ]
    return made


def dataset(state: State) -> dict[str, Any]:
    shapes = " and ".join(f"{len(x):,} x {x.shape[1]}" for x in (state.far, state.near))
    return {"name": f"{shapes} float32, normal; codes and keys drawn evenly", "sha256": hashlib.sha256(state.far.data).hexdigest()}


def run(state: State, case: str) -> dict[str, float]:
    if case == "read":
        words = state.far.reshape(-1).view(np.int32)
        begin = time.perf_counter()
        words.max()
        return {"GB/s": words.nbytes / (time.perf_counter() - begin) / 1e9}
    if case == "sgemm":
        begin = time.perf_counter()
        state.queries @ state.near.T
        return {"GFLOP/s": 2.0 * QUERIES * state.near.size / (time.perf_counter() - begin) / 1e9}
    kind, _, name = case.partition(", ")
    about, call = state.kinds[kind], state.contenders[kind, name]
    begin = time.perf_counter()
    for _ in range(about.calls):
        got = call()
    seconds = (time.perf_counter() - begin) / about.calls
    rates = {m: amount / seconds / (1 if m == "Mkeys/s" else 1e9) for m, amount in about.amount.items()}
    return {**rates, "seconds": seconds, "wrong": float(not about.right(got))}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures.get("wrong", 0) == 0, f"{case}: another result than numpy computes"


def teardown(state: State) -> None:
    if state.blas is not None:
        state.blas.restore_original_limits()
