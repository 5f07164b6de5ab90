"""Words and sparse vectors: the ten best, one query at a time, on one thread; ours alone and as a table, bm25s, tantivy, a product of scipy's.

Queries of words are 3 to 12 neighbouring ones of a text, stop words included. Vectors are made like SPLADE's: some 120 entries of 30,000
dimensions a row, 40 a query, the ten heaviest with most of the weight, and rows in topics.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ..indexes import SparseIndex, TextIndex
from . import datasets
from .peers import Words, choose
from .peers.ours import Text
from .runner import Options, Ratio

K = 10
ROWS, DIM, ENTRIES, TOPICS = 200_000, 30_000, 120, 500
NEARLY = 0.95
Search = Callable[[Any], Any]


@dataclass
class State:
    about: dict[str, Any]
    asked: dict[str, list[Any]]
    searches: dict[str, Search] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    # the tenth best score of each query, of vectors
    least: np.ndarray = field(default_factory=lambda: np.empty(0))
    peers: list[Words] = field(default_factory=list)


def questions(texts: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """3 to 12 neighbouring words of a text each."""
    found = []
    for row in rng.integers(len(texts), size=count).tolist():
        words, many = texts[row].split(), int(rng.integers(3, 13))
        at = int(rng.integers(max(1, len(words) - many)))
        found.append(" ".join(words[at : at + many]))
    return found


def vectors(n: int, entries: int, rng: np.random.Generator, topics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts, dimensions, weights) of rows of ``entries``: a half from a topic of its own, the rest from all, frequent ones often."""
    half = entries // 2
    own = topics[rng.integers(len(topics), size=n)]
    mine = np.take_along_axis(own, (own.shape[1] * rng.random((n, half)) ** 2).astype(np.int64), 1)
    other = (DIM * rng.random((n, entries - half)) ** 3).astype(np.int64)
    terms = np.sort(np.concatenate([mine, other], 1), 1)
    weights = (rng.pareto(1.5, terms.shape) + 0.05).clip(max=8).astype(np.float32)
    there = np.ones(terms.shape, bool)
    there[:, 1:] = terms[:, 1:] != terms[:, :-1]
    return np.concatenate([[0], np.cumsum(there.sum(1))]), terms[there], weights[there]


def setup(options: Options) -> State:
    data, rng = datasets.debian(options.data), np.random.default_rng(options.seed)
    packages = data.packages
    texts = [f"{a or ''} {b or ''}" for a, b in zip(packages.column("summary").to_pylist(), packages.column("description").to_pylist(), strict=True)]
    count = 100 if options.quick else 1000
    state = State(data.describe(), {"words": questions(texts, count, rng)})
    begin = time.perf_counter()
    index = TextIndex()
    index.add(pa.array(texts))
    _add(state, "words: lsmtensor", "lsmtensor", begin, lambda q: index.search(q, K))
    peers: dict[str, type[Words]] = {"lsmtensor table": Text, **choose("words", options.peers, own=False)}
    for name, made in peers.items():
        peer = made()
        folder = options.path / made.__name__
        folder.mkdir()
        begin = time.perf_counter()
        peer.build(texts, folder)
        _add(state, f"words: {name}", name.split()[0], begin, partial(peer.search, k=K))
        state.peers.append(peer)
    _add_vectors(state, options, rng)
    return state


def _add(state: State, case: str, who: str, begin: float, search: Search, **params: Any) -> None:
    state.searches[case] = search
    state.cases[case] = {"who": who, "params": params, "build_seconds": time.perf_counter() - begin}


def _add_vectors(state: State, options: Options, rng: np.random.Generator) -> None:
    n, asked = (4000, 20) if options.quick else (ROWS, 50)
    topics = np.stack([rng.choice(DIM, 400, replace=False) for _ in range(TOPICS)])
    starts, terms, weights = vectors(n, ENTRIES, rng, topics)
    q_starts, q_terms, q_weights = vectors(asked, 40, rng, topics)
    queries = [{"indices": q_terms[a:b], "values": q_weights[a:b]} for a, b in zip(q_starts, q_starts[1:], strict=False)]
    state.asked["vectors"] = queries
    rows = [{"indices": terms[a:b], "values": weights[a:b]} for a, b in zip(starts, starts[1:], strict=False)]
    begin = time.perf_counter()
    index = SparseIndex(DIM)
    index.add(rows)
    index.search(queries[0], 1)
    _add(state, "vectors: lsmtensor exact", "lsmtensor", begin, lambda q: index.search(q, K))
    state.least = np.array([index.search(q, K)[1][-1] for q in queries])
    begin = time.perf_counter()
    index.calibrate()
    _add(state, f"vectors: lsmtensor recall={NEARLY}", "lsmtensor", begin, lambda q: index.search(q, K, recall=NEARLY), recall=NEARLY)
    wanted = options.peers is None or "scipy" in options.peers
    if wanted and importlib.util.find_spec("scipy") is not None:
        from scipy.sparse import csr_matrix

        begin = time.perf_counter()
        matrix = csr_matrix((weights, terms, starts), shape=(n, DIM))
        _add(state, "vectors: scipy csr product", "scipy", begin, lambda q: _product(matrix, q))


def _product(matrix: Any, query: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    dense = np.zeros(DIM, np.float32)
    dense[query["indices"]] = query["values"]
    scores = matrix @ dense
    best = np.argpartition(-scores, K)[:K]
    best = best[np.argsort(-scores[best])]
    return best, scores[best]


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.about


def run(state: State, case: str) -> dict[str, float]:
    kind, search = case.split(":")[0], state.searches[case]
    queries = state.asked[kind]
    begin = time.perf_counter()
    found = [search(q) for q in queries]
    measures = {"queries/s": len(queries) / (time.perf_counter() - begin)}
    if kind == "vectors":
        measures["recall@10"] = float(np.mean([(f[1] >= least * (1 - 1e-5)).mean() for f, least in zip(found, state.least, strict=True)]))
    return measures


def check(state: State, case: str, measures: dict[str, float]) -> None:
    least = 1 if "recall" not in case else 0.8
    assert measures.get("recall@10", 1) >= least, f"{case}: recall {measures['recall@10']:.3f}"


def ratios(state: State) -> list[Ratio]:
    words = [c for c in state.cases if c.startswith("words:") and "lsmtensor" not in c]
    made = [Ratio(f"{ours} / {c}", f"words: {ours}", (c,), "queries/s") for ours in ("lsmtensor", "lsmtensor table") for c in words]
    exact = "vectors: lsmtensor exact"
    made.append(Ratio("nearly / exact", f"vectors: lsmtensor recall={NEARLY}", (exact,), "queries/s"))
    return made + [Ratio(f"exact / {c}", exact, (c,), "queries/s") for c in state.cases if "scipy" in c]


def teardown(state: State) -> None:
    for peer in state.peers:
        peer.close()
