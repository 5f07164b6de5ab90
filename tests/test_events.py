"""Events say what was done, also where it failed, and a listener cannot harm the work."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.env.base import Clock
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.lsm.events import Events

SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8,)))], primary_key="id")


def rows(start, stop):
    return {"id": np.arange(start, stop), "v": np.random.default_rng(start).random((stop - start, 8), np.float32)}


def test_what_is_told():
    told = []
    with lt.open("e.lsm", env=MemoryEnv(), config=lt.RunConfig().with_set("index.min_rows=100", "background=false")) as db:
        docs = db.create_table("docs", SCHEMA, indexes={"v": "hnsw(m=8)"}, compaction="none", history="none")
        stop = db.on_event(told.append)
        docs.insert(rows(0, 150))
        db.flush()
        docs.upsert(rows(0, 100))
        db.compact()
        by_kind = {kind: [e for e in told if e["event"] == kind] for kind in ("flush", "compaction", "index", "stall")}
        assert [e["rows"] for e in by_kind["flush"]] == [150, 100] and all(e["file_bytes"] > 0 for e in by_kind["flush"])
        (merge,) = by_kind["compaction"]
        assert (merge["table"], merge["runs"], merge["rows"], merge["files"], merge["file_rows"]) == ("docs", 2, 250, 1, 150)
        assert [(e["index"], e["rows"]) for e in by_kind["index"]][-1][1] == 150 and not by_kind["stall"]
        assert all(e["seconds"] >= 0 and "error" not in e for e in told)
        counts = db.latencies().group_by("event").aggregate([("count", "sum")]).to_pydict()
        assert dict(zip(counts["event"], counts["count_sum"], strict=True)) == {k: len(v) for k, v in by_kind.items() if v}
        stop()
        stop()
        before = len(told)
        docs.insert(rows(200, 210))
        db.flush()
        assert len(told) == before


def test_a_listener_that_fails_harms_nothing():
    with lt.open("e.lsm", env=MemoryEnv(), config=lt.RunConfig().with_set("background=false")) as db:
        docs = db.create_table("docs", SCHEMA)
        told = []
        db.on_event(lambda event: 1 / 0)
        db.on_event(told.append)
        docs.insert(rows(0, 10))
        with pytest.warns(UserWarning, match="listener failed at 'flush': ZeroDivisionError"):
            db.flush()
        assert len(told) == 1 and len(docs) == 10 and db.stats()["tables"]["docs"]["memtable_rows"] == 0


def test_work_that_fails_says_so():
    events, told = Events(Clock()), []
    events.listen(told.append)
    with pytest.raises(lt.StorageError), events.timed("flush", table="docs"):
        raise lt.StorageError("the disk is full")
    assert told[0]["error"] == "StorageError: the disk is full" and events.histogram().num_rows == 1


def test_buckets_are_powers_of_two():
    class Fixed(Clock):
        now = 0.0

        def monotonic(self):
            return self.now

    events, clock = Events(clock := Fixed()), clock
    for seconds in (0.0, 1e-9, 0.25, 0.26, 0.5, 3.0):
        with events.timed("flush"):
            clock.now += seconds
    made = events.histogram().to_pydict()
    assert made["up_to_seconds"] == [2.0**-20, 0.25, 0.5, 4.0] and sum(made["count"]) == 6


def test_a_stall_is_told():
    with lt.open("e.lsm", env=MemoryEnv(), config=lt.RunConfig().with_set("background=false")) as db:
        docs, told = db.create_table("docs", SCHEMA), []
        db.on_event(told.append)
        docs.insert(rows(0, 5))
        tree = db._tree
        tree._level0, tree.calm = tree.config.compaction.stop_runs + 1, False
        writer = threading.Thread(target=docs.insert, args=(rows(10, 15),))
        writer.start()
        time.sleep(0.1)
        assert writer.is_alive() and not told
        with tree._publish:
            tree._level0 = 0
            tree._publish.notify_all()
        writer.join(10)
        assert [e["event"] for e in told] == ["stall"] and told[0]["seconds"] > 0.03 and len(docs) == 10


def test_bytes_by_kind_of_file_and_cause():
    with lt.open("e.lsm", env=MemoryEnv(), config=lt.RunConfig().with_set("background=false")) as db:
        docs = db.create_table("docs", SCHEMA, compaction="none")
        docs.insert(rows(0, 500))
        docs.upsert(rows(0, 10))
        db.compact()
        io = db.io()
        assert io.schema.names == ["what", "kind", "cause", "amount"]
        found = {(r["what"], r["kind"], r["cause"]): r["amount"] for r in io.to_pylist()}
        # each row of 500 x 40 bytes is written to the log, and by a flush or a merge
        assert found["write", "wal", "commit"] > 500 * 40 and found["write", "table", "flush"] > 500 * 40
        assert found["syncs", "manifest", "layout"] >= 2 and all(r["cause"] is None for r in io.to_pylist() if r["what"] == "read")
        assert sum(found.values()) == sum(db.stats()["io"].values())
