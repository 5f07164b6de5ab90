"""Rows that no segment covers are searched by codes in memory."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.lsm import fresh

CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 100_000}, "compaction": {"policy": "none"}})
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(6000, 32)).astype(np.float32)
QUERIES = VECTORS[:40] + RNG.normal(size=(40, 32), scale=0.3).astype(np.float32)


def table(db, spec="fqg", **more):
    columns = [lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (32,)), nullable=True), lt.Column("n", pa.int64())]
    return db.create_table("docs", lt.Schema(columns, primary_key="id"), indexes={"v": spec}, **more)


def rows(start, stop, n=0):
    return {"id": np.arange(start, stop), "v": VECTORS[start:stop], "n": np.full(stop - start, n)}


def plans(docs, **more):
    return [step["plan"] for step in docs.search(QUERIES[0], explain=True, **more)["sources"]]


def same(docs, metric="l2", floor=0.95, keep=None, **more):
    """Against distances to every row that is there."""
    held = docs.to_arrow() if keep is None else docs.scan(where=keep).read_all()
    held = held.filter(held.column("v").is_valid())
    ids, points = np.array(held.column("id")), held.column("v").combine_chunks().storage.flatten().to_numpy().reshape(held.num_rows, -1)
    hits = 0
    for query in QUERIES:
        if metric == "l2":
            far = np.sqrt(((points - query) ** 2).sum(1))
        elif metric == "l1":
            far = np.abs(points - query).sum(1)
        else:
            far = 1 - points @ query / np.linalg.norm(points, axis=1) / np.linalg.norm(query)
        found = docs.search(query, k=10, **more if keep is None else {"where": keep, **more})
        got = found.column("id").to_pylist()
        assert len(set(got)) == 10
        np.testing.assert_allclose(found.column("_distance").to_numpy(), far[np.searchsorted(ids, got)], rtol=1e-4, atol=1e-5)
        hits += len(set(got) & set(ids[np.argsort(far, kind="stable")[:10]].tolist()))
    assert hits >= floor * 10 * len(QUERIES), hits


@pytest.mark.parametrize("metric", ["l2", "cosine", "l1"])
def test_a_memtable_and_an_unindexed_run_are_searched_by_codes(metric):
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = table(db, f"fqg(metric={metric})")
        docs.insert(rows(0, 3000))
        assert plans(docs) == ["scan of codes"]
        docs.upsert(rows(2900, 3200))
        assert plans(docs) == ["scan of codes, and of 300 rows"]
        docs.upsert(rows(3200, 4000, n=1))
        docs.delete(list(range(50)))
        assert plans(docs)[0].startswith("scan of codes")
        same(docs, metric)
        same(docs, metric, keep=pc.field("n") == 1)
        db.flush()
        # before anybody asked: the memtable had codes
        assert all(fresh.of_file(db._tree, (run, 0), "v", metric) is not None for run in docs._view().table.runs)
        assert plans(docs)[-1] == "scan of codes"
        docs.upsert(rows(3900, 4100))
        docs.upsert(pa.table({"id": [60, 61], "v": pa.nulls(2, docs.schema.arrow.field("v").type), "n": [0, 0]}))
        before = db.version
        docs.delete(list(range(100, 200)))
        same(docs, metric)
        same(docs, metric, recall=0.99, floor=0.99)
        same(docs, metric, keep=pc.field("id") < 300)
        with db.at(version=before) as then:
            same(then["docs"], metric)
        db.compact()
        same(docs, metric)


def test_codes_go_when_a_segment_is_there():
    with lt.open("db", env=MemoryEnv(), config=CONFIG.with_set("index.min_rows=4000")) as db:
        docs = table(db)
        docs.insert(rows(0, 3000))
        db.flush()
        assert plans(docs) == ["scan of codes"]
        docs.insert(rows(3000, 6000))
        db.compact()
        assert plans(docs) == ["walk v_fqg"]
        (run,) = docs._view().table.runs
        assert "_coded" not in run.files[0].__dict__
        same(docs)


def test_who_wants_every_row_looked_at_gets_that():
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = table(db, "flat")
        docs.insert(rows(0, 3000))
        assert plans(docs) == ["scan"]
        assert plans(docs, metric="cosine") == ["scan"]
        same(docs, floor=1)


def test_codes_follow_a_column_through_its_names():
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = table(db)
        docs.insert(rows(0, 3000))
        db.flush()
        assert plans(docs) == ["scan of codes"]
        docs.rename_column("v", "w")
        docs.add_column(lt.Column("v", lt.tensor("float32", (32,)), nullable=True))
        docs.insert({"id": [9000], "w": VECTORS[:1], "v": VECTORS[1:2], "n": [0]})
        db.flush()
        docs.create_index("v", "fqg", name="other", wait=True)
        assert docs.search(VECTORS[0], column="v").column("id").to_pylist() == [9000]
        assert docs.search(VECTORS[0], column="w", k=2).column("id").to_pylist() == [0, 9000]


def test_infinity_has_no_code_and_stops_nobody():
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = table(db)
        some = rows(0, 3000)
        some["v"] = some["v"].copy()
        some["v"][7] = np.inf
        try:
            docs.insert(some)
        except lt.LsmTensorError:
            return  # refused at the door
        assert plans(docs) == plans(docs) == ["scan"]
        db.flush()
        assert plans(docs) == plans(docs) == ["scan"]


def test_searches_see_commits_while_codes_are_made(monkeypatch, tmp_path):
    monkeypatch.setattr(fresh, "LEAST", 256)
    monkeypatch.setattr(fresh, "STEP", 64)
    with lt.open(tmp_path / "db", config=lt.RunConfig().with_set("memtable.limit_bytes=131072", "index.min_rows=2000", "wal.sync=none")) as db:
        docs = table(db, history="none")
        missed, stop = [], threading.Event()

        def search():
            while not stop.is_set():
                found = docs.search(QUERIES[0], k=3).column("_distance").to_pylist()
                if sorted(found) != found:
                    missed.append(found)

        beside = threading.Thread(target=search)
        beside.start()
        try:
            for start in range(0, 6000, 100):
                docs.upsert(rows(start, start + 100))
                if docs.search(VECTORS[start + 99], k=1).column("id").to_pylist() != [start + 99]:
                    missed.append(start)
        finally:
            stop.set()
            beside.join()
        assert not missed
        db.compact()
        same(docs)
