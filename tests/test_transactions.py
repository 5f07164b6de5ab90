"""Transactions: what they see, what they refuse, and what two of them may do at once."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv

SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.int64())], primary_key="k")
TEXT = lt.Schema([lt.Column("name", pa.string()), lt.Column("v", pa.int64())], primary_key="name")
VECTORS = lt.Schema([lt.Column("k", pa.int64()), lt.Column("x", lt.tensor("float32", (4,)))], primary_key="k")
INLINE = lt.RunConfig(background=False)


@pytest.fixture
def db():
    with lt.open("db", env=MemoryEnv(), config=INLINE) as made:
        made.create_table("a", SCHEMA)
        made.create_table("b", TEXT)
        yield made


def content(table, key="k"):
    read = table.to_arrow()
    return dict(zip(read.column(key).to_pylist(), read.column("v").to_pylist(), strict=True))


def test_all_or_nothing_across_tables(db):
    before = db.version
    with db.transaction() as txn:
        txn["a"].insert({"k": [1, 2], "v": [10, 20]})
        txn["b"].upsert({"name": ["x"], "v": [1]})
        assert content(db["a"]) == {} and content(db["b"], "name") == {}
    assert db.version == before + 1
    assert content(db["a"]) == {1: 10, 2: 20} and content(db["b"], "name") == {"x": 1}
    with pytest.raises(RuntimeError), db.transaction() as txn:
        txn["a"].delete([1])
        txn["b"].delete(["x"])
        raise RuntimeError
    assert db.version == before + 1 and content(db["a"]) == {1: 10, 2: 20}


@pytest.mark.parametrize("flushed", [False, True])
def test_own_writes_are_seen(db, flushed):
    db["a"].insert({"k": [1, 2, 3], "v": [1, 2, 3]})
    if flushed:
        db.flush()
    with db.transaction() as txn:
        a = txn["a"]
        a.put(2, {"v": 20})
        a.put(2, {"v": 21})
        a.delete([3])
        a.insert({"k": [4], "v": [4]})
        a.update([1], {"v": 11})
        assert a.get(2) == {"k": 2, "v": 21} and a.get(3) is None and 4 in a and 3 not in a
        assert content(a) == {1: 11, 2: 21, 4: 4}
        assert a.count() == len(a) == 3 and a.count(where=pc.field("v") > 10) == 2
        assert a.get_many([4, 3, 1]).column("v").to_pylist() == [4, 11]
        assert a.scan(start=2, reverse=True).read_all().column("k").to_pylist() == [4, 2]
        with pytest.raises(lt.DuplicateKeyError):
            a.insert({"k": [4], "v": [5]})
        with pytest.raises(lt.KeyNotFoundError):
            a.update([3], {"v": 1})
        a.delete(where=pc.field("v") == 4)
        a.insert({"k": [3], "v": [33]})
        assert content(db["a"]) == {1: 1, 2: 2, 3: 3}
    assert content(db["a"]) == {1: 11, 2: 21, 3: 33}


@pytest.mark.parametrize("flushed", [False, True])
def test_search_sees_own_writes(db, flushed):
    docs = db.create_table("docs", VECTORS)
    docs.insert({"k": np.arange(50), "x": np.arange(200, dtype=np.float32).reshape(50, 4)})
    if flushed:
        db.flush()
    q = np.array([0, 1, 2, 3], np.float32)
    with db.transaction() as txn:
        inside = txn["docs"]
        inside.delete([0])
        inside.put(1, {"x": np.full(4, 1000, np.float32)})
        inside.put(99, {"x": q + 1})
        inside.put(98, {"x": q + 500})
        inside.put(98, {"x": q + 2})
        assert inside.search(q, k=3, metric="l2").column("k").to_pylist() == [99, 98, 2]
        assert docs.search(q, k=2, metric="l2").column("k").to_pylist() == [0, 1]
    assert docs.search(q, k=3, metric="l2").column("k").to_pylist() == [99, 98, 2]


def test_the_first_committer_wins(db):
    db["a"].insert({"k": [1, 2], "v": [0, 0]})
    first, second, third = db.transaction(), db.transaction(), db.transaction()
    first["a"].put(1, {"v": 1})
    second["a"].put(1, {"v": 2})
    third["a"].put(2, {"v": 3})
    first.commit()
    with pytest.raises(lt.ConflictError, match="key 1 of table 'a'"):
        second.commit()
    third.commit()
    assert content(db["a"]) == {1: 1, 2: 3}
    with db.transaction() as txn:
        txn["a"].put(5, {"v": 5})
        db["a"].put(6, {"v": 6})  # another key: no conflict
    with pytest.raises(lt.ConflictError), db.transaction() as txn:
        txn["a"].delete([1])
        db["a"].put(1, {"v": 9})  # single writes count
        db.flush()
        db.compact()
    with pytest.raises(lt.ConflictError), db.transaction() as txn:
        txn["a"].insert({"k": [7], "v": [7]})
        db["a"].insert({"k": [7], "v": [8]})
        db["a"].delete([7])  # gone again, but it was there


def test_write_skew_only_without_serializable(db):
    db["a"].insert({"k": [1, 2], "v": [1, 1]})

    def skewed(serializable):
        one, two = db.transaction(serializable=serializable), db.transaction(serializable=serializable)
        for txn, mine, other in ((one, 1, 2), (two, 2, 1)):
            if txn["a"].get(other)["v"] == 1:
                txn["a"].put(mine, {"v": 0})
        one.commit()
        two.commit()

    skewed(False)
    assert content(db["a"]) == {1: 0, 2: 0}
    db["a"].upsert({"k": [1, 2], "v": [1, 1]})
    with pytest.raises(lt.ConflictError, match="read"):
        skewed(True)
    assert content(db["a"]) == {1: 0, 2: 1}


@pytest.mark.parametrize(
    "read, conflicts",
    [
        (lambda a: a.scan(start=0, stop=10).read_all(), True), (lambda a: a.scan(start=20).read_all(), False), (lambda a: a.count(), True),
        (lambda a: a.get(7), True), (lambda a: a.get(8), False), (lambda a: 7 in a, True), (lambda a: a.get_many([6, 7]), True),
    ],
)  # fmt: skip
def test_serializable_validates_what_was_read(db, read, conflicts):
    txn = db.transaction(serializable=True)
    read(txn["a"])
    txn["b"].put("x", {"v": 1})
    db["a"].put(7, {"v": 7})  # a phantom
    if conflicts:
        with pytest.raises(lt.ConflictError):
            txn.commit()
    else:
        txn.commit()


def test_a_search_reads_the_table(db):
    docs = db.create_table("docs", VECTORS)
    docs.put(1, {"x": np.ones(4, np.float32)})
    txn = db.transaction(serializable=True)
    txn["docs"].search(np.ones(4, np.float32), k=1)
    txn["a"].put(1, {"v": 1})
    docs.put(2, {"x": np.ones(4, np.float32)})
    with pytest.raises(lt.ConflictError):
        txn.commit()


def test_after_the_end_it_says_so(db):
    txn = db.transaction()
    txn["a"].put(1, {"v": 1})
    txn.rollback()
    for use in (lambda: txn["a"], txn.commit, lambda: txn.tables):
        with pytest.raises(lt.InvalidArgumentError, match="has ended"):
            use()
    assert content(db["a"]) == {}
    with db.transaction() as empty:
        pass
    assert empty.closed
    with pytest.raises(lt.TableNotFoundError), db.transaction() as txn:
        txn["nothing"]


def test_transact_tries_again(db):
    db["a"].put(1, {"v": 0})
    runs = []

    def work(txn):
        runs.append(1)
        value = txn["a"].get(1)["v"]
        if len(runs) < 3:
            db["a"].put(1, {"v": value + 100})
        txn["a"].put(1, {"v": value + 1})
        return value

    assert db.transact(work) == 200 and db["a"].get(1)["v"] == 201 and len(runs) == 3
    with pytest.raises(lt.ConflictError):
        db.transact(lambda txn: (txn["a"].put(1, {"v": 1}), db["a"].put(1, {"v": 2})), attempts=2)


def test_futures(db):
    futures = []
    for i in range(20):
        txn = db.transaction()
        txn["a"].put(i, {"v": i})
        futures.append(txn.commit(wait=False))
    versions = [f.result(timeout=30) for f in futures]
    assert versions == sorted(set(versions)) and db.version == versions[-1]
    assert content(db["a"]) == {i: i for i in range(20)}
    assert db.transaction().commit(wait=False).result() == db.version


def test_counters_under_threads_lose_nothing(tmp_path):
    with lt.open(tmp_path / "db", config=lt.RunConfig().with_set("wal.sync=none", "memtable.limit_bytes=4000")) as db:
        table = db.create_table("a", SCHEMA)
        table.insert({"k": [0, 1], "v": [0, 0]})
        seen, broken = [], []

        def add(key):
            for _ in range(25):
                db.transact(lambda txn: txn["a"].put(key, {"v": txn["a"].get(key)["v"] + 1}), attempts=1000)

        def move():
            for _ in range(40):
                with db.snapshot() as snap:
                    one, two = content(snap["a"]), content(snap["a"])
                if one != two:
                    broken.append((one, two))
                seen.append(one)

        threads = [threading.Thread(target=add, args=(i % 2,)) for i in range(4)] + [threading.Thread(target=move)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert content(table) == {0: 50, 1: 50} and not broken
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(seen, seen[1:], strict=False))
