"""Approximate search alone: recall@10 against queries per second, one query at a time, build time and bytes; index x kernel x quantizer and peers.

A quick run takes two indexes, a whole one every family with each kind of codes it has. One build an index, by the fastest backend, serves every backend and setting; peers build their own. Queries are
rows held out of the data. All on one thread. Slow cases (numpy walking a graph) see fewer queries, and say so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import indexes, kernels
from ..registry import Spec
from . import vectors
from .peers import Dense, choose
from .recall import recall
from .runner import Options

K = 10
QUERIES = 400
SAMPLE_SECONDS = 0.5
QUICK_INDEXES = ("flat", "hnsw(m=16, ef_construction=200)")
DEFAULT_INDEXES = (
    "flat", "flat(quant=int8)", "hnsw", "hnsw(quant=int4)", "hnsw(quant=none)", "fqg", "fqg(quant=int8)", "ivfflat", "ivfpq", "ivfpq(bits=8)", "lsh", "gwi",
    "gwi(quant=int8)", "cascade", "diskann", "hybrid",
)  # fmt: skip
STEPS = {"nprobe": (4, 8, 16, 32, 64)}
"""Values of an index's dial: these, or those of a beam."""
BEAM = (10, 20, 40, 80, 160)
Search = Callable[[np.ndarray], np.ndarray]


@dataclass
class State:
    data: vectors.Vectors
    searches: dict[str, Search] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    peers: list[Dense] = field(default_factory=list)


def setup(options: Options) -> State:
    state = State(vectors.load(options.data, 50 if options.quick else QUERIES, K, options.seed))
    for text in options.indexes or (QUICK_INDEXES if options.quick else DEFAULT_INDEXES):
        _add_index(state, text, options)
    for name, peer in choose("dense", options.peers, own=False).items():
        made = peer()
        state.peers.append(made)
        _add_peer(state, name, made, options)
    for case in state.cases:
        _calibrate(state, case)
    return state


def _steps(dial: str | None, options: Options) -> tuple[int | None, ...]:
    beams: tuple[int | None, ...] = (None,) if dial is None else STEPS.get(dial, BEAM)
    return beams[1:4:2] if options.quick and len(beams) > 3 else beams


def _add_index(state: State, text: str, options: Options) -> None:
    spec, points = Spec.parse(text), state.data.points
    begin = time.perf_counter()
    built = indexes.create(spec, dim=points.shape[1], metric=state.data.metric)
    built.add(points)
    seconds = time.perf_counter() - begin
    header, arrays = built.to_sections(include_vectors=True)
    chosen = options.kernels or tuple(n for n, what in kernels.available().items() if not what.startswith("unavailable"))
    for kernel in chosen:
        backend = kernels.choose(kernel)
        begin = time.perf_counter()
        index = indexes.from_sections(header, arrays, kernel=kernel)
        index.search(state.data.queries[0], k=K)
        first_call = time.perf_counter() - begin
        for step in _steps(built.dial, options):
            params = {} if step is None else {str(built.dial): step}
            name = f"{spec} {kernel}" + ("" if step is None else f" {built.dial}={step}")
            state.searches[name] = _ours(index, params)
            state.cases[name] = {
                "who": "lsmtensor", "build": str(spec), "index": str(spec), "kernel": kernel, "isa": backend.isa, "params": params,
                "build_seconds": seconds, "built_by": built.stats()["isa"], "first_call_seconds": first_call,
                "bytes": int(built.memory()["total"]),
            }  # fmt: skip


def _ours(index: Any, params: dict[str, Any]) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        return np.array([index.search(q, k=K, **params)[0] for q in queries])

    return search


def _add_peer(state: State, name: str, peer: Dense, options: Options) -> None:
    begin = time.perf_counter()
    peer.build(state.data.points, state.data.metric)
    seconds = time.perf_counter() - begin
    settings = peer.settings[1:4:2] if options.quick and len(peer.settings) > 3 else peer.settings
    for setting in settings:

        def search(queries: np.ndarray, setting: dict[str, int] = setting) -> np.ndarray:
            return np.array([peer.search(q, K, **setting) for q in queries])

        case = " ".join([name, *(f"{k}={v}" for k, v in setting.items())])
        state.searches[case] = search
        state.cases[case] = {"who": name.split()[0], "build": name, "params": setting, "build_seconds": seconds, "bytes": peer.bytes()}


def _calibrate(state: State, case: str) -> None:
    """How many queries a sample takes: all, or as many as half a second allows."""
    search = state.searches[case]
    search(state.data.queries[:1])
    begin = time.perf_counter()
    search(state.data.queries[:1])
    each = time.perf_counter() - begin
    state.cases[case]["queries"] = int(np.clip(SAMPLE_SECONDS / max(each, 1e-9), 5, len(state.data.queries)))


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.data.about


def run(state: State, case: str) -> dict[str, float]:
    count = state.cases[case]["queries"]
    queries = state.data.queries[:count]
    search = state.searches[case]
    begin = time.perf_counter()
    found = search(queries)
    seconds = time.perf_counter() - begin
    about = state.cases[case]
    measures = {"qps": count / seconds, "recall@10": recall(found, state.data.true[:count])}
    # once a line, of its first step: what was built for all of them
    first = next(c for c in state.cases.values() if c["build"] == about["build"])
    return measures if first is not about else {**measures, "build s": about["build_seconds"], "MiB": about["bytes"] / 2**20}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    exact = re.search(r"\bflat\b(?!\()", state.cases[case]["build"].lower()) is not None  # not ivfflat, nor over codes
    assert measures["recall@10"] >= (0.995 if exact else 0.3), f"{case}: recall {measures['recall@10']:.3f}"


def teardown(state: State) -> None:
    for peer in state.peers:
        peer.close()
