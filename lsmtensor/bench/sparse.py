"""Words and sparse vectors: the ten best, one query at a time, on one thread; ours alone and as a table, bm25s, tantivy, a product of scipy's.

Queries of words are 3 to 12 neighbouring ones of a text, stop words included. Vectors have some 115 entries of 30,000 dimensions a row, 40 a query. Those of
``topics`` are like SPLADE's: a third of the entries from a topic, a sixth from another, each topic 400 dimensions of falling salience, the rest from
all dimensions, frequent ones often and light; weights are log(1 + x), the ten heaviest of a query 72% of all, the 50 heaviest of a row 79% (Bruch et al., SIGIR 2024,
found 75% each). Those of ``chance`` have heavy weights anywhere: nothing tells before which few rows meet by them, and most of the nearest are of other topics.
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
    # the tenth best score of each query, by kind of vectors
    least: dict[str, np.ndarray] = field(default_factory=dict)
    peers: list[Words] = field(default_factory=list)


def questions(texts: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """3 to 12 neighbouring words of a text each."""
    found = []
    for row in rng.integers(len(texts), size=count).tolist():
        words, many = texts[row].split(), int(rng.integers(3, 13))
        at = int(rng.integers(max(1, len(words) - many)))
        found.append(" ".join(words[at : at + many]))
    return found


Vectors = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_topics(n: int, entries: int, rng: np.random.Generator, topics: np.ndarray, light: float) -> Vectors:
    """(starts, dimensions, weights) of rows of some ``entries``, see above; ``light`` are entries that no topic gives."""
    half = entries // 2
    own = rng.integers(len(topics), size=(n, 2))[:, (np.arange(half) >= 2 * half // 3).astype(int)]
    rank = (topics.shape[1] * rng.random((n, half)) ** 2).astype(np.int64)
    salient = 3 * np.exp(-4 * rank / topics.shape[1]) * rng.lognormal(0, 0.4, rank.shape)
    other = _others(n, entries - half, rng)
    return _rows(np.concatenate([topics[own, rank], other], 1), np.log1p(np.concatenate([salient, light * rng.lognormal(0, 0.8, other.shape)], 1)))


def by_chance(n: int, entries: int, rng: np.random.Generator, topics: np.ndarray, light: float) -> Vectors:
    """The same, a half from a topic, weights drawn anew for each entry."""
    half = entries // 2
    own = topics[rng.integers(len(topics), size=n)]
    mine = np.take_along_axis(own, (own.shape[1] * rng.random((n, half)) ** 2).astype(np.int64), 1)
    terms = np.concatenate([mine, _others(n, entries - half, rng)], 1)
    return _rows(terms, (rng.pareto(1.5, terms.shape) + 0.05).clip(max=8))


def _others(n: int, entries: int, rng: np.random.Generator) -> np.ndarray:
    return (DIM * rng.random((n, entries)) ** 3).astype(np.int64)


def _rows(terms: np.ndarray, weights: np.ndarray) -> Vectors:
    order = np.argsort(terms, 1, kind="stable")
    terms, weights = np.take_along_axis(terms, order, 1), np.take_along_axis(weights, order, 1).astype(np.float32)
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
    peers: dict[str, type[Words]] = {"lsmtensor table": Text, **choose("words", options.peers, own=False, quick=options.quick)}
    for name, made in peers.items():
        peer = made()
        folder = options.path / made.__name__
        folder.mkdir()
        begin = time.perf_counter()
        peer.build(texts, folder)
        _add(state, f"words: {name}", name.split()[0], begin, partial(peer.search, k=K))
        state.peers.append(peer)
    for kind, drawn in (("topics", by_topics), ("chance", by_chance)):
        _add_vectors(state, kind, drawn, options, rng)
    return state


def _add(state: State, case: str, who: str, begin: float, search: Search, **params: Any) -> None:
    state.searches[case] = search
    state.cases[case] = {"who": who, "params": params, "build_seconds": time.perf_counter() - begin}


def _add_vectors(state: State, kind: str, made: Callable[..., Vectors], options: Options, rng: np.random.Generator) -> None:
    n, asked = (4000, 20) if options.quick else (ROWS, 100)
    topics = np.stack([rng.choice(DIM, 400, replace=False) for _ in range(TOPICS)])
    starts, terms, weights = made(n, ENTRIES, rng, topics, 0.25)
    # half to calibrate by
    q_starts, q_terms, q_weights = made(2 * asked, 40, rng, topics, 0.06)
    queries = [{"indices": q_terms[a:b], "values": q_weights[a:b]} for a, b in zip(q_starts, q_starts[1:], strict=False)]
    queries, known = queries[:asked], queries[asked:]
    state.asked[kind] = queries
    rows = [{"indices": terms[a:b], "values": weights[a:b]} for a, b in zip(starts, starts[1:], strict=False)]
    begin = time.perf_counter()
    index = SparseIndex(DIM)
    index.add(rows)
    index.search(queries[0], 1)
    _add(state, f"{kind}: lsmtensor exact", "lsmtensor", begin, lambda q: index.search(q, K))
    state.least[kind] = np.array([index.search(q, K)[1][-1] for q in queries])
    begin = time.perf_counter()
    index.calibrate(known)
    _add(state, f"{kind}: lsmtensor recall={NEARLY}", "lsmtensor", begin, lambda q: index.search(q, K, recall=NEARLY), recall=NEARLY)
    wanted = options.peers is None or "scipy" in options.peers
    if wanted and importlib.util.find_spec("scipy") is not None:
        from scipy.sparse import csr_matrix

        begin = time.perf_counter()
        matrix = csr_matrix((weights, terms, starts), shape=(n, DIM))
        _add(state, f"{kind}: scipy csr product", "scipy", begin, lambda q: _product(matrix, q))


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
    if kind in state.least:
        measures["recall@10"] = float(np.mean([(f[1] >= least * (1 - 1e-5)).mean() for f, least in zip(found, state.least[kind], strict=True)]))
    return measures


def check(state: State, case: str, measures: dict[str, float]) -> None:
    least = 1 if "recall" not in case else 0.8
    assert measures.get("recall@10", 1) >= least, f"{case}: recall {measures['recall@10']:.3f}"


def ratios(state: State) -> list[Ratio]:
    words = [c for c in state.cases if c.startswith("words:") and "lsmtensor" not in c]
    made = [Ratio(f"{ours} / {c}", f"words: {ours}", (c,), "queries/s") for ours in ("lsmtensor", "lsmtensor table") for c in words]
    for kind in state.least:
        exact = f"{kind}: lsmtensor exact"
        made.append(Ratio(f"{kind}: nearly / exact", f"{kind}: lsmtensor recall={NEARLY}", (exact,), "queries/s"))
        made += [Ratio(f"exact / {c}", exact, (c,), "queries/s") for c in state.cases if c.startswith(kind) and "scipy" in c]
    return made


def teardown(state: State) -> None:
    for peer in state.peers:
        peer.close()
