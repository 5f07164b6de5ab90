"""Vectors in a tree: rows come in durable batches, then again while another thread searches without a pause; then a tenth of them is replaced, twice.

Each case says how long the rows took until all were searchable by the index (ingest, flush, merges, builds) with nobody searching, the queries a second meanwhile where
somebody does and alone, what a row cost in bytes written and stored, and the recall as rows came. After each batch its last row is looked for: a committed row is
found by the next search.
Cases are our placements and policies; beside them Lance (the format under LanceDB; an index at the end, unindexed rows are scanned) and hnswlib with
the rows in SQLite, whose index is in memory and written at the end. Ours and SQLite sync every batch; Lance does not sync.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from ..errors import UnavailableError
from . import vectors
from .ann import K
from .recall import recall, truth
from .runner import Options, Ratio

OURS = (
    {"placement": "run", "policy": "lazy_leveled"}, {"placement": "file", "policy": "lazy_leveled"}, {"placement": "table", "policy": "lazy_leveled"},
    {"placement": "run", "policy": "leveled"}, {"placement": "run", "policy": "tiered"},
)  # fmt: skip
CHURN, TURNS = 0.1, 2


class Store(Protocol):
    """What is compared: rows in, neighbours out."""

    def add(self, ids: np.ndarray, points: np.ndarray) -> None: ...

    def remove(self, ids: np.ndarray) -> None: ...

    def settle(self) -> None:
        """All rows are in the index when this returns."""

    def search(self, query: np.ndarray) -> np.ndarray:
        """int64, the ids nearest by the metric of the data."""

    def written(self) -> int:
        """Bytes written to files so far; 0 where nobody counts."""

    def close(self) -> None: ...


@dataclass
class State:
    folder: Path
    points: np.ndarray
    queries: np.ndarray
    batch: int
    about: dict[str, Any]
    config: lt.RunConfig
    made: dict[str, dict[str, Any]]
    index: str
    metric: str


def setup(options: Options) -> State:
    data = vectors.load(options.data, 20 if options.quick else 100, K, options.seed)
    # in no order
    points = data.points[np.random.default_rng(options.seed).permutation(len(data.points))[: 2000 if options.quick else None]]
    made: dict[str, dict[str, Any]] = {f"{o['placement']} {o['policy']}": {"who": "lsmtensor", "cores": 0, **o} for o in (OURS[:1] if options.quick else OURS)}
    for name, needs in (("lance", "lance"), ("hnswlib + SQLite", "hnswlib")):
        if options.peers is None or needs in options.peers:
            try:
                __import__(needs)
            except ImportError as why:
                if options.peers is not None:
                    raise UnavailableError(f"peer {needs!r} is not installed; install it with: pip install 'lsmtensor[peers]'") from why
                continue
            made[name] = {"who": name, "cores": 0}
    index = next(iter(options.indexes), "fqg")
    return State(options.path, points, data.queries, max(200, len(points) // 40), data.about, options.config, made, index, data.metric)


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.made


def dataset(state: State) -> dict[str, Any]:
    return state.about


def ratios(state: State) -> list[Ratio]:
    others = tuple(case for case, about in state.made.items() if about["who"] != "lsmtensor")
    ours = next(iter(state.made))
    return [Ratio("rows searchable a second: ours / best peer", ours, others, "rows/s")] if others else []


class _Ours:
    def __init__(self, path: Path, state: State, about: dict[str, Any]) -> None:
        small = min(10_000, max(500, len(state.points) // 10))
        settings = (f"index.min_rows={small}", f"compaction.policy={about['policy']}", f"memtable.limit_bytes={4 * state.points[: 2 * small].nbytes // 4}")
        self.db = lt.open(str(path), config=state.config.with_set(*settings))
        columns = [lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (state.points.shape[1],)))]
        name, _, rest = state.index.partition("(")
        spec = f"{name}({rest.rstrip(')')}{', ' if rest else ''}metric={state.metric}, placement={about['placement']})"
        self.docs = self.db.create_table("docs", lt.Schema(columns, primary_key="id"), indexes={"v": spec}, history="none")

    def add(self, ids: np.ndarray, points: np.ndarray) -> None:
        self.docs.upsert({"id": ids, "v": points})

    def remove(self, ids: np.ndarray) -> None:
        self.docs.delete(ids)

    def settle(self) -> None:
        self.db.compact()

    def search(self, query: np.ndarray) -> np.ndarray:
        return np.asarray(self.docs.search(query, k=K).column("id"))

    def written(self) -> int:
        return sum(int(n) for name, n in self.db.stats()["io"].items() if name.startswith("io.write.") and ".wal" not in name)

    def close(self) -> None:
        self.db.close()


class _Lance:
    def __init__(self, path: Path, state: State, about: dict[str, Any]) -> None:
        self.path, self.data, self.lock = str(path), cast(Any, None), threading.Lock()
        self.metric = {"ip": "dot"}.get(state.metric, state.metric)

    def add(self, ids: np.ndarray, points: np.ndarray) -> None:
        import lance

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(points).reshape(-1)), points.shape[1])
        table = pa.table({"id": ids, "v": vectors})
        with self.lock:  # a data set is changed in place, and may not be while it is searched
            self.data = lance.write_dataset(table, self.path, mode="create" if self.data is None else "append")

    def remove(self, ids: np.ndarray) -> None:
        with self.lock:
            self.data.delete(f"id in ({', '.join(map(str, ids.tolist()))})")

    def settle(self) -> None:
        with self.lock:
            self.data.optimize.compact_files()
            self.data.create_index("v", "IVF_HNSW_SQ", metric=self.metric, num_partitions=1, m=16, ef_construction=200, replace=True)

    def search(self, query: np.ndarray) -> np.ndarray:
        near = {"column": "v", "q": query, "k": K, "metric": self.metric, "ef": 80, "refine_factor": 4}
        with self.lock:
            found: np.ndarray = self.data.to_table(columns=["id", "_distance"], nearest=near).column("id").to_numpy()
        return found

    def written(self) -> int:
        return 0

    def close(self) -> None:
        self.data = None


class _Hnswlib:
    def __init__(self, path: Path, state: State, about: dict[str, Any]) -> None:
        import sqlite3

        import hnswlib

        path.mkdir()
        self.path, self.lock = path, threading.Lock()
        self.rows = sqlite3.connect(path / "x.sqlite", isolation_level=None, check_same_thread=False)
        for setting in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)"):
            self.rows.execute(setting)
        self.index = hnswlib.Index(space=state.metric, dim=state.points.shape[1])
        self.index.init_index(max_elements=2 * len(state.points), M=16, ef_construction=200, random_seed=0)
        self.index.set_num_threads(1)
        self.index.set_ef(80)

    def add(self, ids: np.ndarray, points: np.ndarray) -> None:
        self.rows.execute("BEGIN")
        self.rows.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", zip(ids.tolist(), map(np.ndarray.tobytes, points), strict=True))
        self.rows.execute("COMMIT")
        with self.lock:  # it may not add and search at once
            self.index.add_items(points, ids, num_threads=1)

    def remove(self, ids: np.ndarray) -> None:
        self.rows.execute(f"DELETE FROM t WHERE id IN ({', '.join(map(str, ids.tolist()))})")
        with self.lock:
            for i in ids.tolist():
                self.index.mark_deleted(i)

    def settle(self) -> None:
        self.index.save_index(str(self.path / "x.hnsw"))

    def search(self, query: np.ndarray) -> np.ndarray:
        with self.lock:
            found: np.ndarray = self.index.knn_query(query, k=K, num_threads=1)[0][0]
        return found

    def written(self) -> int:
        return 0

    def close(self) -> None:
        self.rows.close()


def run(state: State, case: str) -> dict[str, float]:
    made: dict[str, Callable[..., Store]] = {"lance": _Lance, "hnswlib + SQLite": _Hnswlib}
    path = state.folder / "rows"
    measures: dict[str, float] = {}
    for meanwhile in (False, True):
        shutil.rmtree(path, ignore_errors=True)
        store = made.get(case, _Ours)(path, state, state.made[case])
        try:
            measures |= _beside(state, store) if meanwhile else {**_come(state, store), **_churned(state, store, path)}
        finally:
            store.close()
    return measures


def _come(state: State, store: Store, begun: Callable[[], object] = lambda: None) -> dict[str, float]:
    """All rows, in batches, and the last of each looked for; ``begun`` is called after the first."""
    n, owner, missed = len(state.points), np.arange(len(state.points)), 0
    begin = time.perf_counter()
    for at in range(0, n, state.batch):
        rows = owner[at : at + state.batch]
        store.add(rows, state.points[rows])
        missed += int(rows[-1] not in store.search(state.points[rows[-1]]))
        if at == 0:
            begun()
    taken = time.perf_counter() - begin
    found = _recall(state, store, owner)
    again = time.perf_counter()
    store.settle()
    ready = taken + time.perf_counter() - again
    return {"rows/s": n / ready, "ingest s": taken, "recall@10, all come": found, "searchable s": ready, "not found at once": float(missed)}


def _beside(state: State, store: Store) -> dict[str, float]:
    """The same while somebody searches, and searches when all is done."""
    stop, latencies = threading.Event(), list[float]()
    searcher = threading.Thread(target=_search_on, args=(store, state.queries, stop, latencies))
    try:
        came = _come(state, store, searcher.start)
    finally:
        stop.set()
        searcher.join()
    return {
        "queries/s meanwhile": len(latencies) / came["searchable s"], "searchable s, searched": came["searchable s"], "not found meanwhile": came["not found at once"],
        "p50 ms meanwhile": 1e3 * float(np.median(latencies)), "p99 ms meanwhile": 1e3 * float(np.percentile(latencies, 99)),
        "queries/s alone": _alone(store, state.queries),
    }  # fmt: skip


def _churned(state: State, store: Store, path: Path) -> dict[str, float]:
    n, owner = len(state.points), np.arange(len(state.points))
    measures = {"recall@10": _recall(state, store, owner)}
    luck, ids = np.random.default_rng(1), owner.copy()
    for turn in range(TURNS):
        # rows go, and come back under other ids
        rows = np.sort(luck.choice(n, int(CHURN * n), replace=False))
        store.remove(ids[rows])
        ids[rows] = n * (turn + 1) + rows
        store.add(ids[rows], state.points[rows])
    measures["recall@10, churned"] = _recall(state, store, ids)
    store.settle()
    live = state.points.nbytes
    measures |= {"recall@10, settled": _recall(state, store, ids), "space amplification": _bytes(path) / live}
    if store.written():
        measures["write amplification"] = store.written() / (live * (1 + TURNS * CHURN))
    return measures


def _search_on(store: Store, queries: np.ndarray, stop: threading.Event, latencies: list[float]) -> None:
    while not stop.is_set():
        for query in queries:
            begin = time.perf_counter()
            store.search(query)
            latencies.append(time.perf_counter() - begin)
            if stop.is_set():
                return


def _alone(store: Store, queries: np.ndarray) -> float:
    for query in queries[:5]:
        store.search(query)
    begin = time.perf_counter()
    for query in queries:
        store.search(query)
    return len(queries) / (time.perf_counter() - begin)


def _recall(state: State, store: Store, ids: np.ndarray) -> float:
    found = np.full((len(state.queries), K), -1, np.int64)
    for i, query in enumerate(state.queries):
        some = store.search(query)
        found[i, : len(some)] = some
    return recall(found, ids[truth(state.points, state.queries, K, state.metric)])


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def check(state: State, case: str, measures: dict[str, float]) -> None:
    if state.made[case]["who"] == "lsmtensor":
        missed = measures["not found at once"] + measures["not found meanwhile"]
        assert missed == 0, f"{case}: {missed:.0f} committed rows were not found by the next search"
        for what in ("recall@10, all come", "recall@10", "recall@10, churned", "recall@10, settled"):
            assert measures[what] >= 0.9, f"{case}: {what} {measures[what]:.3f}"
