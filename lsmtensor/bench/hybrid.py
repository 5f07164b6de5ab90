"""Vectors and words together: a table's fused search beside each alone, and beside an index of vectors and one of words whose lists Python fuses.

A query is a package's embedding and 3 to 12 words of it; found says how often that package is among the ten best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from . import datasets
from .peers import choose
from .runner import Options, Ratio
from .sparse import questions

K, EACH, RANK = 10, 50, 60
# of each kind the one that fuses fastest
PEERS = {"dense": "hnswlib", "words": "bm25s"}
Search = Callable[[np.ndarray, str], list[int]]


@dataclass
class State:
    about: dict[str, Any]
    queries: list[tuple[np.ndarray, str]]
    true: np.ndarray
    db: lt.Database
    searches: dict[str, Search] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)


def setup(options: Options) -> State:
    data, rng = datasets.debian(options.data), np.random.default_rng(options.seed)
    texts = [t or "" for t in data.packages.column("description").to_pylist()]
    true = rng.integers(len(texts), size=50 if options.quick else 300)
    # a vector near the package's own
    near = data.embeddings[true] + 0.02 * rng.normal(size=(len(true), data.embeddings.shape[1]))
    asked = [questions([texts[row]], 1, rng)[0] for row in true.tolist()]
    db = lt.open(str(options.path / "hybrid.lsm"), config=options.config)
    columns = [lt.Column("id", pa.int64()), lt.Column("text", pa.string()), lt.Column("v", lt.tensor("float32", (data.embeddings.shape[1],)))]
    docs = db.create_table("docs", lt.Schema(columns, primary_key="id"), indexes={"text": "text", "v": "fqg(metric=cosine)"})
    begin = time.perf_counter()
    docs.insert({"id": np.arange(len(texts)), "text": texts, "v": data.embeddings})
    db.compact()
    state = State(data.describe(), list(zip(near.astype(np.float32), asked, strict=True)), true, db)
    seconds = time.perf_counter() - begin
    fusions: dict[str, dict[str, Any]] = {"vectors": {}, "words": {}, "rrf": {"fusion": "rrf"}, "weighted": {"fusion": "weighted(dense=0.5, text=0.5)"}}
    for name, given in fusions.items():

        def search(v: np.ndarray, words: str, name: str = name, given: dict[str, Any] = given) -> list[int]:
            q, text = None if name == "words" else v, None if name == "vectors" else words
            found: list[int] = docs.search(q, text=text, k=K, **given).column("id").to_pylist()
            return found

        state.searches[f"lsmtensor {name}"] = search
        state.cases[f"lsmtensor {name}"] = {"who": "lsmtensor", "params": given, "build_seconds": seconds}
    _add_peers(state, data.embeddings, texts, options)
    return state


def _add_peers(state: State, embeddings: np.ndarray, texts: list[str], options: Options) -> None:
    there = {kind: choose(kind, options.peers, own=False, quick=options.quick) for kind in PEERS}
    kinds = {kind: next((p for n, p in there[kind].items() if n.startswith(want)), None) for kind, want in PEERS.items()}
    if any(made is None for made in kinds.values()):
        return
    dense, words = (made() for made in kinds.values() if made is not None)
    folder = options.path / "words"
    folder.mkdir()
    begin = time.perf_counter()
    dense.build(embeddings)
    words.build(texts, folder)

    def search(v: np.ndarray, asked: str) -> list[int]:
        score: dict[int, float] = {}
        for found in (dense.search(v, EACH, **dense.settings[-1]).tolist(), words.search(asked, EACH)):
            for rank, row in enumerate(found, 1):
                score[row] = score.get(row, 0.0) + 1 / (RANK + rank)
        return sorted(score, key=lambda row: -score[row])[:K]

    case = " + ".join(PEERS.values())
    state.searches[case] = search
    state.cases[case] = {"who": case, "params": dense.settings[-1], "build_seconds": time.perf_counter() - begin}


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.about


def run(state: State, case: str) -> dict[str, float]:
    search = state.searches[case]
    begin = time.perf_counter()
    found = [search(v, words) for v, words in state.queries]
    seconds = time.perf_counter() - begin
    return {"queries/s": len(found) / seconds, "found": float(np.mean([row in ids for row, ids in zip(state.true.tolist(), found, strict=True)]))}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["found"] >= 0.5, f"{case}: {measures['found']:.3f} of the packages asked for are found"


def ratios(state: State) -> list[Ratio]:
    peers = tuple(c for c, about in state.cases.items() if about["who"] != "lsmtensor")
    return [Ratio(f"lsmtensor rrf / {c}", "lsmtensor rrf", (c,), "queries/s") for c in peers]


def teardown(state: State) -> None:
    state.db.close()
