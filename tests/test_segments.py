"""Segments through merges: placements, what is carried over, what is shared, damage, garbage."""

from __future__ import annotations

import gc
import threading
import time
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.errors import InvalidArgumentError, UnknownNameError

CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 300}, "compaction": {"policy": "none"}})
SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8,))), lt.Column("n", pa.int64())], primary_key="id")
SPECS = ["hnsw", "fqg", "gwi", "ivfflat", "ivfpq", "lsh", "diskann", "cascade", "flat"]


def vectors(ids, seed=0):
    return np.random.default_rng(seed).normal(size=(10_000, 8)).astype(np.float32)[np.asarray(ids)]


def rows(ids, seed=0, n=0):
    return {"id": np.asarray(ids), "v": vectors(ids, seed), "n": np.full(len(ids), n)}


def same(docs, k=10, floor=0.9, **more):
    """Searches against distances to every row that a scan of the view gives."""
    queries = vectors(np.arange(9000, 9020), 5)
    found = docs.search(queries, k=k, **more)
    want = docs.to_arrow() if "where" not in more else docs.scan(where=more["where"]).read_all()
    held = want.column("v").combine_chunks().storage.flatten().to_numpy().reshape(want.num_rows, -1)
    far = np.sqrt(((queries[:, None, :] - held[None]) ** 2).sum(2))
    hits = 0
    ids = np.array(want.column("id"))
    for q in range(len(queries)):
        mine = found.filter(pc.equal(found.column("_query"), q))
        assert mine.num_rows == min(k, len(ids))
        got = mine.column("id").to_pylist()
        assert len(set(got)) == len(got)
        np.testing.assert_allclose(mine.column("_distance").to_numpy(), far[q][np.searchsorted(ids, got)], rtol=1e-4, atol=1e-4)
        hits += len(set(got) & set(ids[np.argsort(far[q], kind="stable")[:k]].tolist()))
    assert hits >= floor * k * len(queries)


def watch(db):
    """The facts of index builds from now on."""
    seen = []
    db.on_event(lambda fact: seen.append(fact) if fact["event"] == "index" else None)
    return seen


@pytest.mark.parametrize("placement", ["run", "file", "table"])
@pytest.mark.parametrize("spec", SPECS)
def test_searches_agree_through_flushes_merges_and_reopening(spec, placement):
    env, config = MemoryEnv(), CONFIG.with_set("sstable.file_bytes=20000", "sstable.batch_rows=400")
    made = f"{spec}(placement={placement})"
    with lt.open("db", env=env, config=config) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": made})
        docs.insert(rows(np.arange(0, 1600, 2)))
        db.flush()
        same(docs)
        docs.upsert(rows(np.arange(1, 1600, 2)))
        docs.delete(list(range(100, 160)))
        db.flush()
        docs.upsert(rows(np.arange(400, 420), seed=1))
        before = db.version
        same(docs)
        same(docs, where=pc.field("id") < 700)
        plans = [s["plan"] for s in docs.search(vectors([3])[0], explain=True)["sources"]]
        assert sum(p.startswith("walk") for p in plans) >= (1 if placement == "table" else 2), plans
        db.compact()
        same(docs)
        docs.upsert(rows(np.arange(0, 50), seed=2))
        with db.at(version=before) as then:
            same(then["docs"])
        files = [f for r in docs._view().table.runs for f in r.files]
        assert len(files) > 1 if placement == "file" else len(files) == 1
        assert docs.indexes[f"v_{spec}"].endswith(f"placement={placement}") == (placement != "run")
        db.verify()
    with lt.open("db", env=env, config=config) as db:
        same(db["docs"])
        assert any(s["plan"].startswith("walk") for s in db["docs"].search(vectors([3])[0], explain=True)["sources"])
        db.branch("fork")
        db.backup("saved")
        assert db.collect_garbage() == []
    with lt.open("fork", env=env, config=config) as fork:
        same(fork["docs"])
        fork.verify()


@pytest.mark.parametrize("spec, sure", [("hnsw", True), ("fqg", True), ("gwi", True), ("ivfflat", True), ("ivfpq", True), ("lsh", True), ("diskann", False)])
def test_a_merge_carries_over_what_was_worked_out(spec, sure):
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": spec}, history="none")
        docs.insert(rows(np.arange(1000)))
        db.flush()
        docs.upsert(rows(np.arange(900, 1250), seed=1))
        docs.delete(list(range(20)))
        db.flush()
        seen = watch(db)
        db.compact()
        assert [f["rows"] for f in seen] == [1230] and seen[0]["carried"] is sure
        same(docs, floor=0.85)


@pytest.mark.parametrize("spec", ["gwi", "ivfflat", "ivfpq", "lsh"])
def test_segments_share_what_was_learned(spec, tmp_path):
    with lt.open(tmp_path / "db", config=CONFIG) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": spec}, history="none")
        for start in (0, 800):
            docs.insert(rows(np.arange(start, start + 800)))
            db.flush()

        def books():
            return {s.codebook for r in docs._view().table.runs for f in r.files for s in f.ref.segments}

        first = books()
        assert len(first) == 1 and all((tmp_path / "db" / "sst" / name).exists() for name in first)
        db.compact()
        if spec != "lsh":
            assert books() == first
        db.collect_garbage()
        same(docs, floor=0.8)
        for name in books():
            (tmp_path / "db" / "sst" / name).write_bytes(b"damaged")
    with lt.open(tmp_path / "db", config=CONFIG) as db, pytest.warns(UserWarning, match="cannot be used"):
        docs = db["docs"]
        same(docs, floor=1)
        assert docs.search(vectors([1])[0], explain=True)["sources"][0]["walked"] == "no segment"
        db.flush()
        assert docs.search(vectors([1])[0], explain=True)["sources"][0]["plan"].startswith("walk")
        db.verify()


def test_a_vector_that_did_not_change_is_one_node(tmp_path):
    with lt.open(tmp_path / "db", config=CONFIG) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "hnsw"}, history="forever")
        docs.insert(rows(np.arange(500)))
        db.flush()
        for n in range(1, 4):
            docs.update(list(range(0, 500, 2)), {"n": np.full(250, n)})
        docs.upsert(rows(np.arange(0, 20), seed=3, n=9))
        versions = [db.version]
        docs.delete([4, 5])
        docs.upsert(rows([4], n=10))
        versions.append(db.version)
        db.compact()
        (newest,), (older,) = docs._view().table.runs, docs._view().table.behind
        assert newest.rows == 500 and older.rows == 3 * 250 + 20 + 3
        # a delete has no vector; of the keys that were written again with theirs one node stands for all that went behind
        assert [len(lt.lsm.segments.nodes_of([(run, 0)], "v").vectors) for run in (newest, older)] == [499, 250 + 10 + 2]
        for version in [1, *versions]:
            with db.at(version=max(2, version)) as then:
                same(then["docs"])
        assert docs.search(vectors([4])[0], k=1, columns=["id", "n"]).to_pylist()[0]["n"] == 10
        with db.at(version=versions[0]) as then:
            assert then["docs"].search(vectors([6], 3)[0], k=1, columns=["id", "n"]).to_pylist()[0]["n"] == 9
            assert then["docs"].search(vectors([30])[0], k=1, columns=["id", "n"]).to_pylist()[0] == {"id": 30, "n": 3, "_distance": 0.0}
        seen = watch(db)
        docs.update(list(range(7, 400, 2)), {"n": np.full(197, 7)})
        db.compact()
        assert seen[-1]["carried"]
        same(docs)


def test_garbage_over_a_fifth_is_merged_away():
    config = CONFIG.with_set("compaction.policy=lazy_leveled", "compaction.level0_runs=40")
    with lt.open("db", env=MemoryEnv(), config=config) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "fqg"}, history="none")
        docs.insert(rows(np.arange(1000)))
        db.flush()
        docs.delete(list(range(0, 300, 2)))
        db.flush()
        assert sum(r.rows for r in docs._view().table.runs) == 1150
        docs.delete(list(range(1, 300, 2)))
        db.flush()
        assert sum(r.rows for r in docs._view().table.runs) == 700
        same(docs)


def test_churn_keeps_recall_and_space():
    env, config = MemoryEnv(), CONFIG.with_set("compaction.policy=lazy_leveled")
    with lt.open("db", env=env, config=config) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "fqg"}, history="none")
        docs.insert(rows(np.arange(1500)))
        for turn in range(25):
            docs.delete(list(range(turn * 300, turn * 300 + 300)))
            docs.insert(rows(np.arange(1500 + turn * 300, 1800 + turn * 300)))
            db.flush()
        same(docs, floor=0.97)
        gc.collect()
        used = sum(len(f.data) for name, f in env.files.items() if name.startswith("db/sst/"))
        db.compact()
        db.collect_garbage()
        assert used <= 1.5 * sum(len(f.data) for name, f in env.files.items() if name.startswith("db/sst/"))


def test_the_next_index_answers_when_it_is_built():
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "ivfflat"})
        docs.insert(rows(np.arange(1000)))
        db.flush()
        with pytest.raises(UnknownNameError, match="to replace"):
            docs.create_index("v", "fqg", replaces="v_ivf")
        docs.create_index("v", "fqg", wait=True, replaces="v_ivfflat")
        assert docs.indexes == {"v_fqg": "v: fqg"}
        assert docs.search(vectors([1])[0], explain=True)["sources"][0]["plan"] == "walk v_fqg"
        with pytest.raises(UnknownNameError, match="placement"):
            docs.create_index("v", "fqg(placement=rum)", name="x")
        with pytest.raises(InvalidArgumentError, match="vector indexes"):
            docs.create_index("n", "sorted(placement=file)")


def test_a_budget_closes_segments():
    with lt.open("db", env=MemoryEnv(), config=CONFIG.with_set("index.memory_bytes=60000")) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "hnsw"})
        for start in range(0, 2000, 500):
            docs.insert(rows(np.arange(start, start + 500)))
            db.flush()
        same(docs)
        opened = lt.lsm.segments.Opened.of(db._tree)
        assert 1 <= opened.stats()["segments"] < 4 and opened.bytes <= max(60000, opened.bytes // opened.stats()["segments"])
        same(docs)


def test_a_filter_is_planned(monkeypatch):
    monkeypatch.setattr("lsmtensor.search.dense.MANY", 500)
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "fqg"})
        docs.insert({**rows(np.arange(2000)), "n": np.arange(2000) % 10})
        db.flush()
        q, many, few = vectors([9000])[0], pc.field("n") < 5, pc.field("id") < 20
        plan = docs.search(q, where=many, explain=True)["sources"][0]
        assert plan["plan"] == "walk v_fqg, filter afterwards" and 900 < plan["estimate"] < 1100 and plan["left"] >= 10
        plan = docs.search(q, where=many, explain=True)["sources"][0]
        assert plan["plan"] == "walk v_fqg" and plan["wanted"] == 1000
        plan = docs.search(q, where=few, explain=True)["sources"][0]
        assert plan["wanted"] == 20 and plan["estimate"] < 100
        assert docs.search(q, where=pc.field("n") < 4).column("id").to_pylist() == docs.search(q, where=pc.field("n") < 4).column("id").to_pylist()
        nothing = docs.search(q, where=pc.field("id") > 5000, explain=True)["sources"][0]
        assert nothing["estimate"] == 0 and nothing["by"] == "zone maps" and nothing["wanted"] == 0
        docs.create_index("n", "sorted", wait=True)
        assert docs.search(q, where=(pc.field("n") == 3), explain=True)["sources"][0]["by"] == "sorted indexes"
        same(docs, where=pc.field("n") < 7)


def settled(done, seconds=20.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the background did not come to an end"
        time.sleep(0.01)


def test_large_segments_are_mapped_and_checked_beside_the_first_searches(tmp_path, monkeypatch):
    monkeypatch.setattr("lsmtensor.lsm.segments.LARGE", 0)
    monkeypatch.setattr("lsmtensor.sstable.ipc.LARGE", 4096)
    path, config = tmp_path / "db", CONFIG.with_set("background=true", "sstable.batch_rows=128", "compaction.policy=lazy_leveled")
    with lt.open(path, config=config) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "fqg"}, history="none")
        docs.insert(rows(np.arange(1000)))
        docs.delete(list(range(0, 50)))
        db.compact()

    def segment(db):
        table = db["docs"]._view().table
        (unit,) = lt.lsm.segments.units(table, "v_fqg")
        return lt.lsm.segments.segment_of(db._tree, unit, "v")

    with lt.open(path, config=config) as db:
        same(db["docs"])
        assert not segment(db).index._vectors.array.flags.writeable, "the vectors were copied"
        settled(lambda: segment(db).checked)
        same(db["docs"])
    (file,) = (path / "sst").glob("*.fqg")
    data = bytearray(file.read_bytes())
    data[len(data) - 500] ^= 0xFF
    file.write_bytes(data)
    with lt.open(path, config=config) as db, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said in a thread of its own
        same(db["docs"], floor=0)
        settled(lambda: db.stats()["segments"]["damaged"] == 1)
        settled(lambda: db["docs"].search(vectors([70])[0], explain=True)["sources"][0]["plan"] == "walk v_fqg")
        same(db["docs"])


def test_segments_are_opened_ahead(tmp_path):
    config = CONFIG.with_set("background=true", "index.prefetch=open")
    with lt.open(tmp_path / "db", config=config) as db:
        db.create_table("docs", SCHEMA, indexes={"v": "hnsw"}).insert(rows(np.arange(800)))
        db.compact()
    with lt.open(tmp_path / "db", config=config) as db:
        settled(lambda: db.stats()["segments"]["segments"] == 1)
    with pytest.raises(InvalidArgumentError, match=r"index\.prefetch"):
        lt.open(tmp_path / "db", config=CONFIG.with_set("index.prefetch=some"))


def test_writers_go_on_while_an_index_is_built(tmp_path, monkeypatch):
    config = CONFIG.with_set("background=true", "compaction.policy=lazy_leveled", "memtable.limit_bytes=20000")
    building, go = threading.Event(), threading.Event()
    from lsmtensor.indexes.fqg import FQG

    insert = FQG._insert

    def slow(self, start, stop):
        building.set()
        assert go.wait(20)
        insert(self, start, stop)

    monkeypatch.setattr(FQG, "_insert", slow)
    with lt.open(tmp_path / "db", config=config) as db:
        docs = db.create_table("docs", SCHEMA)
        docs.insert(rows(np.arange(1000)))
        db.flush()
        docs.create_index("v", "fqg")
        assert building.wait(20)
        for start in range(1000, 4000, 100):
            docs.insert(rows(np.arange(start, start + 100)))  # more than the memtables hold: some are flushed meanwhile
        docs.create_index("v", "flat", name="other")
        same(docs, floor=1, index="other")
        go.set()
        db.flush()
        same(docs)
