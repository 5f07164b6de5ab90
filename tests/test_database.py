"""Databases, tables and versions, through the public names only."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.lsm import commit as commits


def schema(dim: int = 8) -> lt.Schema:
    return lt.Schema(
        [lt.Column("id", pa.int64()), lt.Column("text", pa.string()), lt.Column("v", lt.tensor("float32", (dim,)))],
        primary_key="id",
    )


def rows(start: int, stop: int, text: str = "t", dim: int = 8) -> dict:
    ids = np.arange(start, stop)
    vectors = np.random.default_rng(start).normal(size=(stop - start, dim)).astype(np.float32)
    return {"id": ids, "text": [f"{text}{i}" for i in ids], "v": vectors}


@pytest.fixture(params=["inline", "background"])
def db(request, tmp_path):
    config = lt.RunConfig(background=request.param == "background")
    with lt.open(tmp_path / "a.lsm", config=config.with_set("index.min_rows=100")) as made:
        yield made


def test_a_row_comes_back(db):
    docs = db.create_table("docs", schema())
    data = rows(0, 100)
    docs.insert(data)
    row = docs.get(7)
    assert row["text"] == "t7"
    np.testing.assert_array_equal(row["v"], data["v"][7])
    assert docs.get(1000) is None
    assert 7 in docs and 1000 not in docs
    assert len(docs) == 100


@pytest.mark.parametrize("flush", [False, True])
def test_writes_replace_and_delete(db, flush):
    docs = db.create_table("docs", schema())
    docs.insert(rows(0, 100))
    if flush:
        db.flush()
    docs.upsert(rows(50, 150, "u"))
    docs.delete([1, 2, 1000])
    docs.update([3, 4], {"text": ["x", "y"]})
    docs.put(200, {"text": "one"})
    if flush:
        db.flush()
    assert len(docs) == 149
    assert [docs.get(i) and docs.get(i)["text"] for i in (0, 1, 3, 4, 60, 149, 200)] == ["t0", None, "x", "y", "u60", "u149", "one"]
    assert docs.get(200)["v"] is None
    assert docs.delete(where=pc.field("id") >= 100) == db.version
    assert len(docs) == 98
    db.compact()
    assert len(docs) == 98 and docs.to_arrow()["id"].to_pylist() == [0, *range(3, 100)]


def test_the_caller_may_reuse_its_arrays(db):
    docs = db.create_table("docs", schema())
    data = rows(0, 10)
    docs.insert(data)
    before = docs.get(3)["v"].copy()
    data["v"][:] = 0
    np.testing.assert_array_equal(docs.get(3)["v"], before)


def test_within_a_commit_the_last_write_wins(db):
    docs = db.create_table("docs", schema())
    docs.upsert([{"id": 1, "text": "a"}, {"id": 2, "text": "b"}, {"id": 1, "text": "c"}])
    assert docs.get(1)["text"] == "c" and len(docs) == 2


def test_get_many_keeps_the_order_asked(db):
    docs = db.create_table("docs", schema())
    docs.insert(rows(0, 50))
    db.flush()
    docs.insert(rows(50, 100))
    assert docs.get_many([70, 3, 999, 50], columns=["id"])["id"].to_pylist() == [70, 3, 50]
    assert docs.get_many([70, 999], missing="null")["text"].to_pylist() == ["t70", None]
    assert docs.get_many([]).num_rows == 0


def test_scans(db):
    docs = db.create_table("docs", schema())
    docs.insert(rows(0, 1000))
    db.flush()
    docs.upsert(rows(500, 1500, "u"))
    assert docs.scan(["id"]).read_all()["id"].to_pylist() == list(range(1500))
    assert docs.scan(["id"], reverse=True, limit=3).read_all()["id"].to_pylist() == [1499, 1498, 1497]
    assert docs.scan(["id"], start=10, stop=13).read_all()["id"].to_pylist() == [10, 11, 12]
    found = docs.scan(["text"], where=(pc.field("id") >= 499) & (pc.field("id") < 502)).read_all()
    assert found["text"].to_pylist() == ["t499", "u500", "u501"]
    assert docs.count(pc.field("text") == "t600") == 0, "a filter must not bring back what a newer row hides"
    assert docs.count(pc.field("id") < 100) == 100
    assert sum(b.num_rows for b in docs.scan(batch_rows=7)) == 1500
    assert docs.sample(5, seed=1)["id"].to_pylist() == docs.sample(5, seed=1)["id"].to_pylist()


def test_string_and_composite_keys(db):
    text = db.create_table("text", lt.Schema([lt.Column("k", pa.string()), lt.Column("n", pa.int32())], "k"))
    text.insert({"k": ["b", "a", "", "aa"], "n": [1, 2, 3, 4]})
    db.flush()
    text.upsert({"k": ["c", "aa"], "n": [5, 6]})
    assert text.to_arrow().to_pydict() == {"k": ["", "a", "aa", "b", "c"], "n": [3, 2, 6, 1, 5]}
    columns = [lt.Column("a", pa.string()), lt.Column("b", pa.float64()), lt.Column("n", pa.int8())]
    both = db.create_table("both", lt.Schema(columns, ("a", "b")))
    both.insert({"a": ["x", "x", "w\x00", "w"], "b": [2.5, -1.0, 0.0, 9.0], "n": [1, 2, 3, 4]})
    db.flush()
    assert both.get(("x", -1.0))["n"] == 2
    assert both.to_arrow()["n"].to_pylist() == [4, 3, 2, 1]
    assert both.delete([("x", 2.5)]) == db.version and len(both) == 3


def test_versions_and_snapshots(db):
    docs = db.create_table("docs", schema())
    first = docs.insert(rows(0, 10))
    with db.snapshot() as before:
        second = docs.upsert(rows(5, 15, "u"))
        db.flush()
        db.compact()
        assert len(before["docs"]) == 10 and before["docs"].get(7)["text"] == "t7"
    assert second == first + 1 == db.version
    assert db.at(version=first)["docs"].get(7)["text"] == "t7"
    assert db.at(version=second)["docs"].get(7)["text"] == "u7"
    assert db.at(version=1)["docs"].to_arrow().num_rows == 0
    assert db.tag("v1") == second
    docs.delete(list(range(15)))
    assert len(db.at(tag="v1")["docs"]) == 15 and len(docs) == 0


def test_no_history_is_kept_when_none_is_asked(tmp_path):
    with lt.open(tmp_path / "a", config=lt.RunConfig(background=False)) as db:
        docs = db.create_table("docs", schema(), history="none")
        for _ in range(5):
            docs.upsert(rows(0, 100))
        docs.delete(list(range(50)))
        db.compact()
        assert db.stats()["tables"]["docs"]["file_rows"] == 50
        with pytest.raises(lt.VersionExpiredError, match="oldest that can be read"):
            db.at(version=2)


@pytest.mark.parametrize("index", ["flat", "hnsw(m=8)"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_search_agrees_with_brute_force_everywhere(db, index, metric):
    spec = f"{index[:-1]}, metric={metric})" if "(" in index else f"{index}(metric={metric})"
    docs = db.create_table("docs", schema(16), indexes={"v": spec})
    docs.insert(rows(0, 400, dim=16))
    db.flush()
    docs.upsert(rows(300, 600, "u", dim=16))
    docs.delete(list(range(0, 40)))
    query = np.random.default_rng(9).normal(size=16).astype(np.float32)
    params = {"ef": 400} if "hnsw" in index else {}

    def truth(table: pa.Table) -> list[int]:
        x = np.stack(table["v"].combine_chunks().to_numpy_ndarray() if hasattr(table["v"], "combine_chunks") else [])
        if metric == "l2":
            d = ((x - query) ** 2).sum(1)
        elif metric == "ip":
            d = -(x @ query)
        else:
            d = 1 - x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        return table["id"].to_numpy()[np.argsort(d, kind="stable")[:10]].tolist()

    for step in ("memtable", "flushed", "compacted"):
        if step == "flushed":
            db.flush()
        elif step == "compacted":
            db.compact()
        assert docs.search(query, k=10, **params)["id"].to_pylist() == truth(docs.to_arrow()), step
        few = pc.field("id") < 60
        assert docs.search(query, k=10, where=few)["id"].to_pylist() == truth(docs.scan(where=few).read_all()), step
    past = db.at(version=2)["docs"]
    assert past.search(query, k=10, **params)["id"].to_pylist() == truth(past.to_arrow())
    both = docs.search(np.stack([query, -query]), k=3, columns=["id", "text"])
    assert both["_query"].to_pylist() == [0, 0, 0, 1, 1, 1] and both.column_names == ["id", "text", "_distance", "_query"]


def test_direct_commits_and_reopening(tmp_path):
    config = lt.RunConfig(direct_commit_bytes=10_000)
    with lt.open(tmp_path / "a", config=config) as db:
        docs = db.create_table("docs", schema())
        docs.insert(rows(0, 10))
        docs.insert({k: v[::-1] for k, v in rows(10, 2000).items()})
        docs.upsert(rows(5, 15, "u"))
        docs.upsert(rows(1000, 3000, "w"))
        texts = docs.to_arrow()["text"].to_pylist()
    with lt.open(tmp_path / "a") as db:
        docs = db["docs"]
        assert docs.to_arrow()["text"].to_pylist() == texts
        assert texts[7] == "u7" and texts[500] == "t500" and texts[1500] == "w1500" and len(texts) == 3000
        assert db.version == 5
        db.verify()


def test_many_small_commits_flush_compact_and_survive(tmp_path):
    config = lt.RunConfig().with_set("memtable.limit_bytes=20000", "wal.segment_bytes=50000", "compaction.level0_runs=2")
    with lt.open(tmp_path / "a", config=config) as db:
        docs = db.create_table("docs", schema())
        for i in range(200):
            docs.upsert(rows(i * 7 % 300, i * 7 % 300 + 20, f"r{i}-"))
        before = docs.to_arrow()
    with lt.open(tmp_path / "a") as db:
        assert db["docs"].to_arrow().equals(before)
        assert db.verify()["files"] >= 1
        assert db.version == 201


def test_a_reader_follows_the_writer(tmp_path):
    with lt.open(tmp_path / "a") as db:
        docs = db.create_table("docs", schema())
        docs.insert(rows(0, 10))
        with lt.open(tmp_path / "a", mode="r") as reader:
            assert len(reader["docs"]) == 10
            docs.insert(rows(10, 30))
            db.flush()
            assert len(reader["docs"]) == 10
            assert reader.refresh() == db.version
            assert len(reader["docs"]) == 30
            with pytest.raises(lt.ReadOnlyError, match="mode='a'"):
                reader["docs"].delete([1])


def test_a_proof_convinces_without_the_database(tmp_path):
    with lt.open(tmp_path / "a") as db:
        docs = db.create_table("docs", schema())
        data = rows(0, 5000)
        docs.insert(data)
        root = db.snapshot().root()
        snapshot = db.snapshot()
        proof = snapshot["docs"].prove(1234)
        assert snapshot.root() == root
    row = lt.verify_proof(proof, root=root)
    assert row["text"] == "t1234"
    np.testing.assert_array_equal(row["v"], data["v"][1234])
    with pytest.raises(lt.CorruptionError, match="root"):
        lt.verify_proof(proof, root="00" * 32)
    with pytest.raises(lt.CorruptionError):
        lt.verify_proof({**proof, "row": proof["row"] + 4000}, root=root)
    broken = {**proof, "chunks": [{**c, "data": "AAAA" + c["data"][4:]} for c in proof["chunks"]]}
    with pytest.raises(lt.CorruptionError, match="does not lead"):
        lt.verify_proof(broken, root=root)


@pytest.mark.parametrize(
    ("rows_", "message"),
    [
        ({"id": [1], "txt": ["a"]}, "did you mean 'text'"),
        ({"id": [1.5]}, "column 'id'"),
        ({"id": [1], "v": np.zeros((1, 9), np.float32)}, r"given shape \(1, 9\)"),
        ({"id": [1], "v": np.zeros((1, 8), np.complex64)}, "complex64"),
        ({"id": [1, 2], "text": ["a"]}, "1 rows"),
        ({"id": [None]}, "null"),
        ({"text": ["a"]}, "lack the key"),
        ([{"id": 1, "text": 5}], "row 0"),
        (7, "int"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(db, rows_, message):
    docs = db.create_table("docs", schema())
    version = db.version
    with pytest.raises(lt.SchemaError, match=message):
        docs.insert(rows_)
    assert db.version == version and len(docs) == 0


def test_keys_that_are_there_or_not(db):
    docs = db.create_table("docs", schema())
    docs.insert(rows(0, 10))
    with pytest.raises(lt.DuplicateKeyError, match="key 3 is in table 'docs' already"):
        docs.insert(rows(3, 20))
    with pytest.raises(lt.DuplicateKeyError, match="twice in the rows"):
        docs.insert([{"id": 50}, {"id": 50}])
    with pytest.raises(lt.KeyNotFoundError, match="key 99 is not in"):
        docs.update([99], {"text": ["x"]})
    assert len(docs) == 10


def test_folders_that_are_no_database(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(lt.NotADatabaseError, match=r"notes\.txt"):
        lt.open(tmp_path / "other")
    with pytest.raises(lt.NotADatabaseError, match="holds no database"):
        lt.open(tmp_path / "none", mode="r")
    assert not (tmp_path / "none").exists()
    with lt.open(tmp_path / "a"):
        with pytest.raises(lt.LockedError, match="one writer at a time"):
            lt.open(tmp_path / "a")
        with pytest.raises(lt.NotADatabaseError, match="already holds"):
            lt.open(tmp_path / "a", mode="x")
    half = tmp_path / "half"
    (half / "wal").mkdir(parents=True)
    (half / "MANIFEST-000001").write_bytes(b"torn")
    with lt.open(half) as db:
        assert db.tables == []


def test_unknown_names_say_what_is_near(db):
    docs = db.create_table("docs", schema())
    with pytest.raises(lt.TableNotFoundError, match="did you mean 'docs'"):
        _ = db["dosc"]
    with pytest.raises(lt.UnknownNameError, match="did you mean 'hnsw'"):
        db.create_table("x", schema(), indexes={"v": "hsnw"})
    with pytest.raises(lt.UnknownNameError, match="ef_construction"):
        db.create_table("x", schema(), indexes={"v": "hnsw(ef_constructon=3)"})
    with pytest.raises(lt.UnknownNameError, match="no parameter 'efx'"):
        docs.search(np.zeros(8), efx=3)
    with pytest.raises(lt.SchemaError, match=r"\(5,\)|wants"):
        docs.search(np.zeros(5), column="v")
    db.close()
    with pytest.raises(lt.ClosedError, match="is closed"):
        docs.get(1)


def test_a_database_in_memory():
    env = MemoryEnv()
    with lt.open("m", env=env) as db:
        db.create_table("docs", schema()).insert(rows(0, 10))
    with lt.open("m", env=env) as db:
        assert len(db["docs"]) == 10
        db.drop_table("docs")
        assert db.tables == []


def test_bulk_commits_that_were_compacted_away_are_not_replayed(tmp_path):
    config = lt.RunConfig(direct_commit_bytes=1000).with_set("compaction.level0_runs=2")
    with lt.open(tmp_path / "a", config=config) as db:
        docs = db.create_table("docs", schema())
        for i in range(8):
            docs.upsert(rows(i * 100, i * 100 + 150))
            docs.put(i, {"text": "small"})
        before = docs.to_arrow()
        db.compact()
    with lt.open(tmp_path / "a", config=config) as db:
        assert db["docs"].to_arrow().equals(before)
        db.verify()


def test_a_seal_does_not_bring_back_what_was_flushed(tmp_path):
    """Once, a memtable sealed while a flush ended came back with the flushed one behind it, which was flushed again."""
    config = lt.RunConfig(direct_commit_bytes=1000).with_set("compaction.level0_runs=2")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for attempt in range(12):
            with lt.open(tmp_path / str(attempt), config=config) as db:
                docs = db.create_table("docs", schema())
                for i in range(10):
                    docs.upsert(rows(i * 100, i * 100 + 150))
                    docs.put(i, {"text": "small"})
                db.compact()
                assert docs.count() == 1050
    finally:
        sys.setswitchinterval(before)


def test_long_lists_in_where_are_told_apart(db):
    table = db.create_table(
        "t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (4,)))], primary_key="id"),
    )  # fmt: skip
    table.insert({"id": np.arange(2000), "v": np.arange(8000, dtype=np.float32).reshape(2000, 4)})
    db.flush()
    first, second = list(range(1000)), list(range(1000))
    second[500] = 1999  # the text of an expression leaves the middle of its list out
    q = np.full(4, 1e6, np.float32)
    assert table.search(q, k=1, where=pc.field("id").isin(first)).column("id").to_pylist() == [999]
    assert table.search(q, k=1, where=pc.field("id").isin(second)).column("id").to_pylist() == [1999]


def test_a_bound_may_be_the_first_columns_of_a_key(db):
    schema = lt.Schema([lt.Column("a", pa.int64()), lt.Column("b", pa.string())], primary_key=["a", "b"])
    table = db.create_table("pairs", schema)
    table.insert({"a": [1, 1, 2, 3], "b": ["x", "y", "x", "x"]})
    assert [r["b"] for r in table.scan(start=(1,), stop=(2,)).read_all().to_pylist()] == ["x", "y"]


@pytest.mark.parametrize("asked", [{"codec": "xor+zstd"}, {"quant": "pq(m=2)", "keep_full": False}, {"quant": "int9"}])
def test_what_is_not_stored_so_is_refused(db, asked):
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (4,)), **asked)], primary_key="id")
    with pytest.raises(lt.InvalidArgumentError, match="'v'"):
        db.create_table("t", schema)
    assert "t" not in db


def test_a_payload_is_arrow_streams_and_its_rows_lie_in_it():
    batch = pa.record_batch({"id": pa.array([1, 2]), "v": lt.tensor("float32", (2,)).arrow_type.wrap_array(pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)))})
    payload, copies = commits.encode(commits.Commit(parts=[(3, batch), (4, batch.slice(1))], runs=[(5, {"files": []})]))
    whole = b"".join(bytes(b) for b in payload)
    made = commits.decode(memoryview(whole), path="x", offset=0)
    assert [t for t, _ in made.parts] == [3, 4] and made.runs == [(5, {"files": []})]
    for (_, read), copy, given in zip(made.parts, copies, [batch, batch.slice(1)], strict=True):
        assert read.equals(given) and copy.equals(given)
        assert copy.column(0).buffers()[1].address != given.column(0).buffers()[1].address
