"""Filtered search: recall@10 and queries a second where 0.1, 1, 10 and 50% of the rows match, the bitmap ready; one query at a time, one thread.

At each selectivity: an exact scan of the matches with the gather inside the timing, our indexes (the least effort of a few that finds 0.95), faiss
where it is installed, and a table's ``search(where=)``, its bitmap kept from the query before. Which rows match is drawn, independent of the vectors.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import lsmtensor as lt

from .. import indexes, kernels
from ..kernels.contract import METRICS
from . import vectors
from .ann import QUERIES, K
from .recall import recall, truth
from .runner import Options, Ratio

SHARES = (0.001, 0.01, 0.1, 0.5)
SPECS = ("fqg",)
EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
WANTED = 0.95
Search = Callable[[np.ndarray], np.ndarray]


@dataclass
class State:
    queries: np.ndarray
    points: np.ndarray
    about: dict[str, Any]
    folder: Path
    metric: str
    masks: dict[float, np.ndarray] = field(default_factory=dict)
    true: dict[float, np.ndarray] = field(default_factory=dict)
    searches: dict[str, Search] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    db: Any = None


def setup(options: Options) -> State:
    data = vectors.load(options.data, 50 if options.quick else QUERIES, K, options.seed)
    luck, points = np.random.default_rng(options.seed), data.points
    state = State(data.queries, points, data.about, options.path, data.metric)
    drawn = luck.random(len(points))
    for share in SHARES:
        state.masks[share] = drawn <= np.sort(drawn)[max(K, round(share * len(points))) - 1]
        rows = np.flatnonzero(state.masks[share])
        state.true[share] = rows[truth(points[rows], state.queries, K, state.metric)]
    _add_exact(state)
    built = {}
    for spec in options.indexes or SPECS:
        built[spec] = indexes.create(spec, dim=points.shape[1], metric=state.metric, kernel=options.config.kernel)
        built[spec].add(points)
        _add_index(state, spec, built[spec])
    _add_table(state, next(iter(built)), drawn, options)
    if options.peers is None or "faiss" in options.peers:
        _add_faiss(state)
    return state


def _add(state: State, name: str, share: float, search: Search, **about: Any) -> float:
    """A case, and its recall over some of the queries."""
    count = min(len(state.queries), 100)
    begin = time.perf_counter()
    found = search(state.queries[:count])
    about |= {"queries": int(np.clip(0.4 / ((time.perf_counter() - begin) / count), 20, len(state.queries))), "share": share}
    case = f"{share:g} {name}"
    state.searches[case], state.cases[case] = search, about
    return recall(found, state.true[share][:count])


def _least(state: State, name: str, share: float, make: Callable[[int], Search], **about: Any) -> None:
    """The case of the least effort that finds what is wanted, or the greatest."""
    for effort in EFFORTS:
        if _add(state, name, share, make(effort), effort=effort, **about) >= WANTED:
            return


def _add_exact(state: State) -> None:
    compiled: Any = kernels.choose(None)
    for share, mask in state.masks.items():

        def search(queries: np.ndarray, mask: np.ndarray = mask) -> np.ndarray:
            return np.array([_exact(compiled, state.points, q, mask, METRICS[state.metric]) for q in queries])

        _add(state, "exact scan of the matches", share, search, who="exact")


def _exact(compiled: Any, points: np.ndarray, query: np.ndarray, mask: np.ndarray, metric: int) -> np.ndarray:
    rows = np.flatnonzero(mask)
    near = compiled.topk(query[None], points[rows], K, metric, None)[0]
    return rows[near[0]]


def _add_index(state: State, spec: str, index: Any) -> None:
    for share, mask in state.masks.items():

        def make(effort: int, mask: np.ndarray = mask) -> Search:
            return lambda queries: np.array([index.search(q, k=K, filter=mask, **{index.dial: effort})[0] for q in queries])

        _least(state, spec, share, make, who="lsmtensor", index=spec)


def _add_table(state: State, spec: str, drawn: np.ndarray, options: Options) -> None:
    path = state.folder / "rows.lsm"
    state.db = lt.open(str(path), config=options.config.with_set("index.min_rows=1000"))
    columns = [lt.Column("id", pa.int64()), lt.Column("drawn", pa.float64()), lt.Column("v", lt.tensor("float32", (state.points.shape[1],)))]
    docs = state.db.create_table("docs", lt.Schema(columns, primary_key="id"), indexes={"v": f"{spec.rstrip(')')}{', ' if '(' in spec else '('}metric={state.metric})"})
    docs.insert({"id": np.arange(len(drawn)), "drawn": drawn, "v": state.points})
    state.db.compact()
    dial = indexes.REGISTRY.get(spec.partition("(")[0]).dial  # type: ignore[attr-defined]
    for share, mask in state.masks.items():
        where = pc.field("drawn") <= float(drawn[mask].max())

        def make(effort: int, where: Any = where) -> Search:
            return lambda queries: np.array([docs.search(q, k=K, where=where, **{dial: effort}).column("id").to_numpy() for q in queries])

        _least(state, f"table of {spec}", share, make, who="lsmtensor", index=spec)


def _add_faiss(state: State) -> None:
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError:
        return
    faiss.omp_set_num_threads(1)
    rows, asked, kind = state.points, state.queries, faiss.METRIC_L2 if state.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if state.metric == "cosine":
        rows, asked = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (rows, asked))
    graph = faiss.IndexHNSWFlat(rows.shape[1], 32, kind)
    graph.hnsw.efConstruction = 200
    flat = faiss.IndexFlatL2(rows.shape[1]) if state.metric == "l2" else faiss.IndexFlatIP(rows.shape[1])
    cells = faiss.IndexIVFFlat(flat, rows.shape[1], max(1, min(256, len(rows) // 40)), kind)
    cells.train(rows)
    for index in (graph, cells):
        index.add(rows)
    for share, mask in state.masks.items():
        chosen = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

        def of(index: Any, params: Any, queries: np.ndarray) -> np.ndarray:
            return np.array([index.search(q[None], K, params=params)[1][0] for q in queries])

        def walk(effort: int, chosen: Any = chosen) -> Search:
            return lambda queries: of(graph, faiss.SearchParametersHNSW(sel=chosen, efSearch=effort), queries)

        def lists(effort: int, chosen: Any = chosen) -> Search:
            return lambda queries: of(cells, faiss.SearchParametersIVF(sel=chosen, nprobe=max(1, effort // 8)), queries)

        _least(state, "faiss HNSW32", share, walk, who="faiss")
        _least(state, "faiss IVF256", share, lists, who="faiss")


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.cases


def dataset(state: State) -> dict[str, Any]:
    return state.about


def ratios(state: State) -> list[Ratio]:
    made = []
    for share in SHARES:
        ours = next(c for c, about in state.cases.items() if about["who"] == "lsmtensor" and about["share"] == share)
        made.append(Ratio(f"{share:g}: ours / exact", ours, (f"{share:g} exact scan of the matches",), "qps"))
        peers = tuple(c for c, about in state.cases.items() if about["who"] == "faiss" and about["share"] == share)
        if peers:
            made.append(Ratio(f"{share:g}: ours / best peer", ours, peers, "qps at 0.95"))
    return made


def run(state: State, case: str) -> dict[str, float]:
    share, count = state.cases[case]["share"], state.cases[case]["queries"]
    queries, search = state.queries[:count], state.searches[case]
    begin = time.perf_counter()
    found = search(queries)
    qps = count / (time.perf_counter() - begin)
    reached = recall(found, state.true[share][:count])
    return {"qps": qps, "recall@10": reached, "qps at 0.95": qps if reached >= WANTED - 0.01 else 0.0}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    ours = state.cases[case]["who"] != "faiss"
    assert not ours or measures["recall@10"] >= (0.995 if "exact" in case else WANTED - 0.03), f"{case}: recall {measures['recall@10']:.3f}"


def teardown(state: State) -> None:
    if state.db is not None:
        state.db.close()
