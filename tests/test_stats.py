"""What a database says it did: as a mapping, as Arrow, and of the queries of a block."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lsmtensor as lt

CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 100}, "sstable": {"batch_rows": 500}})


def table(db):
    columns = [lt.Column("id", pa.int64()), lt.Column("x", pa.int64()), lt.Column("v", lt.tensor("float32", (8,)))]
    t = db.create_table("t", lt.Schema(columns, primary_key="id"), compaction="none", history="none")
    for start in (0, 1000):
        ids = np.arange(start, start + 2000)
        t.upsert({"id": ids, "x": ids % 700, "v": np.random.default_rng(start).random((2000, 8), np.float32)})
        db.flush()
    return t


def test_as_arrow(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        t = table(db)
        with db.counters():  # lookups by the compiled pass are not counted
            t.get_many(np.arange(2500, 6000))
        stats = db.stats(deep=True)
        rows = stats.to_arrow()
        assert pa.table(pa.RecordBatchReader.from_stream(stats)).equals(rows) and set(stats) == {"version", "tables", "cache", "segments", "filters", "io"}

        def value(group, name, of=None):
            (found,) = [r["value"] for r in rows.to_pylist() if (r["group"], r["name"], r["table"]) == (group, name, of)]
            return found

        assert value("table", "runs", "t") == value("amplification", "read", "t") == stats["tables"]["t"]["runs"] == 2
        assert value("held", "table files", "t") == stats["tables"]["t"]["file_bytes"] == sum(p.stat().st_size for p in (tmp_path / "a.lsm/sst").glob("*.arrow"))
        written = value("written", "wal.commit")
        assert value("amplification", "write table.flush") == pytest.approx(stats["io"]["io.write.table.flush"] / written)
        parts = [r["value"] for r in rows.to_pylist() if r["group"] == "amplification" and r["name"].startswith("write ")]
        assert value("amplification", "write") == pytest.approx(sum(parts)) and sum(parts) > 1
        # 500 keys lie in the range of the newer run, none in that of the older; through Arrow a run is asked for all of a batch
        assert value("filter", "sought") in (500, 3500) and value("filter", "found") == 500
        assert all(0 <= r["value"] < 0.05 for r in rows.to_pylist() if r["name"] == "false_positives")
        assert value("space", "garbage", "t") > 0 and value("amplification", "space") == pytest.approx(
            1 + sum(value("amplification", f"space {n}") for n in ("history", "garbage", "index", "log", "stray"))
        )
        flushes = [r["value"] for r in rows.to_pylist() if r["group"] == "latency" and r["name"] == "flush"]
        assert sum(flushes) == 2 and value("busy", "flush") > 0
        db.compact()
        assert dict(db.stats())["tables"]["t"]["runs"] == 1 and json.dumps({**db.stats()})


def test_counters_of_a_block(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        t = table(db)
        with db.counters() as outer:
            with db.counters() as seen:
                t.get_many([5, 1500, 9999])
            assert seen["keys_sought"] >= 2 and seen["keys_found"] == 2 and seen["bytes_checked"] > 0 and "rows_merged" not in seen
            with db.counters() as seen:
                t.scan(["id"], where=pc.field("id") < 100).read_all()
            assert seen["rows_merged"] == 4000 and seen["batches_pruned"] > 0 and 100 <= seen["rows_filtered"] <= 1000
            with db.counters() as seen:
                t.search(np.ones(8, np.float32), k=3)
            assert seen["vectors_scanned"] == 3000 and seen["index_walks"] == 0
            db.compact()
            t.create_index("x", "sorted")
            t.create_index("v", "hnsw")
            with db.counters() as seen:
                assert t.count(pc.field("x") == 7) == 5
            assert seen["index_candidates"] >= 5 and seen["rows_merged"] == 0 and seen["rows_filtered"] < 1500
            with db.counters() as seen:
                t.search(np.ones((2, 8), np.float32), k=3)
            assert dict(seen)["index_walks"] == 2 and "index_walks=2" in repr(seen)
        before = outer["keys_sought"]
        t.get_many([5])
        assert outer["keys_sought"] == before > 0
