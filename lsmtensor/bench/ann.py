"""Approximate search alone: recall@10 against queries per second, one query at a time, index x kernel and peers.

One build an index, by the fastest backend, serves every backend and setting; peers build their own. Queries are
rows held out of the data. All on one thread. Slow cases (numpy walking a graph) see fewer queries, and say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import indexes, kernels
from ..errors import UnknownNameError
from ..registry import Spec, near
from . import datasets
from .recall import recall, truth
from .runner import Options

K = 10
QUERIES = 400
SAMPLE_SECONDS = 0.5
DEFAULT_INDEXES = ("flat", "hnsw(m=16, ef_construction=200)")
BEAMS = {"hnsw": (10, 20, 40, 80, 160), "ivfflat": (4, 8, 16, 32, 64)}
EFFORT = {"hnsw": "ef", "ivfflat": "nprobe"}
PEERS = ("hnswlib", "faiss")
Search = Callable[[np.ndarray], np.ndarray]


@dataclass
class State:
    queries: np.ndarray
    true: np.ndarray
    about: dict[str, Any]
    searches: dict[str, Search] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)


def setup(options: Options) -> State:
    data = datasets.debian(options.data)
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(data))
    count = 50 if options.quick else QUERIES
    points = np.ascontiguousarray(data.embeddings[np.sort(order[count:])])
    queries = np.ascontiguousarray(data.embeddings[order[:count]])
    state = State(queries, truth(points, queries, K), data.describe())
    for text in options.indexes or DEFAULT_INDEXES:
        _add_index(state, text, points, options)
    for peer in PEERS if options.peers is None else options.peers:
        if peer not in PEERS:
            raise UnknownNameError(f"no peer named {peer!r}; {near(peer, PEERS)}")
        _ADD_PEER[peer](state, points, options, required=options.peers is not None)
    for case in state.cases:
        _calibrate(state, case)
    return state


def _beams(name: str, options: Options) -> tuple[int | None, ...]:
    beams: tuple[int | None, ...] = BEAMS.get(name, (None,))
    return beams[1:4:2] if options.quick and len(beams) > 3 else beams


def _add_index(state: State, text: str, points: np.ndarray, options: Options) -> None:
    spec = Spec.parse(text)
    begin = time.perf_counter()
    built = indexes.create(spec, dim=points.shape[1], metric="cosine")
    built.add(points)
    seconds = time.perf_counter() - begin
    header, arrays = built.to_sections(include_vectors=True)
    chosen = options.kernels or tuple(n for n, what in kernels.available().items() if not what.startswith("unavailable"))
    for kernel in chosen:
        backend = kernels.choose(kernel)
        begin = time.perf_counter()
        index = indexes.from_sections(header, arrays, kernel=kernel)
        index.search(state.queries[0], k=K)
        first_call = time.perf_counter() - begin
        for ef in _beams(spec.name, options):
            effort = EFFORT.get(spec.name, "ef")
            params = {} if ef is None else {effort: ef}
            name = f"{spec} {kernel}" + ("" if ef is None else f" {effort}={ef}")
            state.searches[name] = _ours(index, params)
            state.cases[name] = {
                "who": "lsmtensor", "index": str(spec), "kernel": kernel, "isa": backend.isa, "params": params,
                "build_seconds": seconds, "built_by": built.stats()["isa"], "first_call_seconds": first_call,
                "bytes": int(built.memory()["total"]),
            }  # fmt: skip


def _ours(index: Any, params: dict[str, Any]) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        return np.array([index.search(q, k=K, **params)[0] for q in queries])

    return search


def _add_hnswlib(state: State, points: np.ndarray, options: Options, *, required: bool) -> None:
    hnswlib = _peer("hnswlib", required)
    if hnswlib is None:
        return
    begin = time.perf_counter()
    index = hnswlib.Index(space="cosine", dim=points.shape[1])
    index.init_index(max_elements=len(points), M=16, ef_construction=200, random_seed=options.seed)
    index.set_num_threads(1)
    index.add_items(points, num_threads=1)
    seconds = time.perf_counter() - begin
    for ef in _beams("hnsw", options):

        def search(queries: np.ndarray, ef: int | None = ef) -> np.ndarray:
            index.set_ef(ef)
            return np.array([index.knn_query(q, k=K, num_threads=1)[0][0] for q in queries]).astype(np.int64)

        name = f"hnswlib M=16 efC=200 ef={ef}"
        state.searches[name] = search
        state.cases[name] = {"who": "hnswlib", "params": {"ef": ef}, "build_seconds": seconds, "bytes": int(index.index_file_size())}


def _add_faiss(state: State, points: np.ndarray, options: Options, *, required: bool) -> None:
    faiss = _peer("faiss", required)
    if faiss is None:
        return
    faiss.omp_set_num_threads(1)
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
    for text in ("Flat", "HNSW16", "HNSW32"):
        begin = time.perf_counter()
        index = faiss.index_factory(points.shape[1], text, faiss.METRIC_INNER_PRODUCT)
        if text != "Flat":
            index.hnsw.efConstruction = 200
        index.add(unit)
        seconds = time.perf_counter() - begin
        size = len(faiss.serialize_index(index))
        for ef in _beams("hnsw" if text != "Flat" else "flat", options):

            def search(queries: np.ndarray, ef: int | None = ef, index: Any = index) -> np.ndarray:
                if ef is not None:
                    index.hnsw.efSearch = ef
                return np.array([index.search(q[None, :], K)[1][0] for q in queries])

            name = f"faiss {text}" + ("" if ef is None else f" ef={ef}")
            state.searches[name] = search
            state.cases[name] = {
                "who": "faiss", "index": text, "params": {} if ef is None else {"ef": ef}, "build_seconds": seconds, "bytes": size,
            }  # fmt: skip


def _peer(name: str, required: bool) -> Any:
    """A peer's module; None where it is not installed and nobody asked for it by name."""
    import importlib

    from ..errors import UnavailableError

    try:
        return importlib.import_module(name)
    except ImportError as why:
        if required:
            raise UnavailableError(f"peer {name!r} is not installed ({why}); install it with: pip install 'lsmtensor[peers]'") from why
        return None


_ADD_PEER = {"hnswlib": _add_hnswlib, "faiss": _add_faiss}


def _calibrate(state: State, case: str) -> None:
    """How many queries a sample takes: all, or as many as half a second allows."""
    search = state.searches[case]
    search(state.queries[:1])
    begin = time.perf_counter()
    search(state.queries[:1])
    each = time.perf_counter() - begin
    state.cases[case]["queries"] = int(np.clip(SAMPLE_SECONDS / max(each, 1e-9), 5, len(state.queries)))


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.about


def run(state: State, case: str) -> dict[str, float]:
    count = state.cases[case]["queries"]
    queries = state.queries[:count]
    search = state.searches[case]
    begin = time.perf_counter()
    found = search(queries)
    seconds = time.perf_counter() - begin
    return {"qps": count / seconds, "recall@10": recall(found, state.true[:count])}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    exact = "flat" in case.lower()
    assert measures["recall@10"] >= (0.995 if exact else 0.3), f"{case}: recall {measures['recall@10']:.3f}"
