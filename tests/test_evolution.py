"""Columns added, dropped, renamed and widened under rows that stay as they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.errors import ConflictError, CorruptionError, DuplicateKeyError, InvalidArgumentError, ReadOnlyError, SchemaError

CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 50}, "sstable": {"batch_rows": 16}})


def table(db, n=100, history="forever"):
    columns = [lt.Column("id", pa.int64()), lt.Column("a", pa.int32()), lt.Column("v", lt.tensor("float16", (4,)))]
    docs = db.create_table("docs", lt.Schema(columns, primary_key="id"), history=history)
    docs.insert({"id": np.arange(n), "a": np.arange(n, dtype=np.int32), "v": np.random.default_rng(1).normal(size=(n, 4)).astype(np.float16)})
    return docs


def sizes(path):
    return {p.name: p.stat().st_size for p in (path / "sst").iterdir()}


def test_no_file_is_written_again_and_every_reader_sees_the_change(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        db.flush()
        before, version = sizes(tmp_path / "a.lsm"), db.version
        snapshot = db.snapshot()
        assert docs.add_column(lt.Column("b", pa.float64(), nullable=False), 1.5) == version + 1
        docs.add_column(lt.Column("tags", pa.list_(pa.string())))
        docs.add_column(lt.Column("w", lt.tensor("float32", (2,))), np.array([1, 2], np.float32))
        docs.rename_column("a", "rank")
        docs.widen_column("rank", pa.int64())
        docs.widen_column("v", lt.tensor("float32", (4,)))
        docs.drop_column("tags")
        assert sizes(tmp_path / "a.lsm") == before and db.version == version + 7
        assert docs.schema.names == ["id", "rank", "v", "b", "w"] and docs.schema.field("rank").type == pa.int64()
        docs.put(100, {"rank": 1 << 40, "b": 2.0})
        assert docs.get(7)["b"] == 1.5 and docs.get(7)["w"].tolist() == [1, 2] and docs.get(7)["v"].dtype == np.float32
        assert docs.scan(["id"], where=(pc.field("rank") > 97) & (pc.field("b") < 5)).read_all().column("id").to_pylist() == [98, 99, 100]
        assert docs.count(pc.field("rank") < 5) == 5 and docs.get_many([100, 3], ["b"]).column("b").to_pylist() == [2.0, 1.5]
        assert docs.search(docs.get(42)["v"], k=1, where=pc.field("rank") == 42).column("id").to_pylist() == [42]
        docs.update([3], {"b": 9.0})
        assert docs.delete(where=pc.field("b") == 9.0) and 3 not in docs
        with pytest.raises(SchemaError, match="a"):
            docs.insert({"id": [200], "a": [1]})
        # a snapshot, a version and a reader of before
        for old in (snapshot["docs"], db.at(version=version)["docs"]):
            assert old.schema.names == ["id", "a", "v"] and old.get(3)["a"] == 3 and old.count(pc.field("a") < 5) == 5
            assert old.get(7)["v"].dtype == np.float16 and 100 not in old
        snapshot.close()
        docs.export(tmp_path / "x.parquet")
        assert db.import_table("copy", tmp_path / "x.parquet", "id").to_arrow().equals(docs.to_arrow())
        whole = docs.to_arrow()
        db.checkpoint(tmp_path / "b.lsm")
        with lt.open(tmp_path / "b.lsm") as other, lt.open(tmp_path / "a.lsm", mode="r") as reader:
            assert other["docs"].to_arrow().equals(whole) and reader["docs"].to_arrow().equals(whole)
            other["docs"].drop_column("b")
        db.compact()
        assert docs.to_arrow().equals(whole) and db.verify()["rows"] > 100
        assert db.at(version=version)["docs"].get(3)["a"] == 3
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        assert db["docs"].to_arrow().equals(whole) and db.at(version=version)["docs"].schema.names == ["id", "a", "v"]


@pytest.mark.parametrize("compacted", [False, True])
def test_a_function_makes_a_column(tmp_path, compacted):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        docs.delete([5])
        docs.upsert({"id": [6], "a": [1000], "v": np.zeros((1, 4), np.float16)})
        seen = []

        def double(batch):
            seen.extend(batch.column("a").to_pylist())
            return [2 * x for x in batch.column("a").to_pylist()]

        told = []
        db.on_event(told.append)
        docs.add_column(lt.Column("twice", pa.int64(), nullable=False), double, columns=["a"])
        docs.add_column(lt.Column("norm", lt.tensor("float32", (2,))), lambda b: np.ones((b.num_rows, 2), np.float32) * 3)
        assert sorted(seen) == sorted([*range(5), *range(7, 100), 1000])
        assert [e["rows"] for e in told if e["event"] == "column"] == [99, 99]
        docs.rename_column("twice", "doubled")
        if compacted:
            db.compact()
            db.collect_garbage()
            assert not [n for n in sizes(tmp_path / "a.lsm") if n.endswith(".column")]
        db.verify()
        db.checkpoint(tmp_path / "b.lsm")
    for path in ("a.lsm", "b.lsm"):
        with lt.open(tmp_path / path, config=CONFIG) as db:
            docs = db["docs"]
            assert docs.get(7)["doubled"] == 14 and docs.get(6)["doubled"] == 2000 and docs.get(7)["norm"].tolist() == [3, 3]
            assert docs.scan(["id"], where=pc.field("doubled") == 2000).read_all().column("id").to_pylist() == [6]
            assert docs.search(np.full(2, 3, np.float32), k=1, column="norm").column("id").to_pylist() == [0]


def test_a_damaged_or_missing_made_column_is_never_served(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        docs.add_column(lt.Column("twice", pa.int64()), lambda b: [1] * b.num_rows)
    (made,) = (tmp_path / "a.lsm" / "sst").glob("*.column")
    data = bytearray(made.read_bytes())
    data[-70] ^= 1
    made.write_bytes(data)
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        assert db["docs"].get_many([3], ["a"]).num_rows == 1
        for act in (lambda: db["docs"].get(3), db.verify, db.compact):
            with pytest.raises(CorruptionError, match="column"):
                act()
    made.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        lt.open(tmp_path / "a.lsm")


def test_an_index_follows_its_column(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        db.flush()
        version = db.version
        name = docs.create_index("v", "hnsw")
        docs.rename_column("v", "vector")
        q = docs.get(9)["vector"]
        plan = docs.search(q, k=3, explain=True)
        assert plan["column"] == "vector" and plan["sources"][0]["plan"] == f"walk {name}"
        assert docs.search(q, k=1).column("id").to_pylist() == [9]
        assert db.at(version=version)["docs"].search(q, k=1, column="v").column("id").to_pylist() == [9]
        for act in (lambda: docs.drop_column("vector"), lambda: docs.widen_column("vector", lt.tensor("float32", (4,)))):
            with pytest.raises(SchemaError, match="drop_index"):
                act()
        docs.drop_index(name)
        docs.widen_column("vector", lt.tensor("float32", (4,)))
        docs.create_index("vector", "hnsw")
        assert docs.search(q, k=1, explain=True)["sources"][0]["plan"] == "walk vector_hnsw"
        assert docs.search(q, k=1).column("id").to_pylist() == [9] == db.at(version=version)["docs"].search(q, k=1).column("id").to_pylist()


def test_keys_are_renamed_and_widened_where_their_order_stays(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        schema = lt.Schema([lt.Column("x", pa.int16()), lt.Column("y", pa.string()), lt.Column("n", pa.int8())], primary_key=["x", "y"])
        pairs = db.create_table("pairs", schema)
        pairs.insert({"x": [1, 2], "y": ["a", "b"], "n": [1, 2]})
        pairs.rename_column("x", "left")
        pairs.widen_column("left", pa.int64())
        pairs.widen_column("y", pa.large_string())
        pairs.put((1 << 40, "c"), {"n": 3})
        assert pairs.get((1, "a")) == {"left": 1, "y": "a", "n": 1} and len(pairs) == 3
        db.compact()
        assert pairs.get((2, "b"))["left"] == 2 and pairs.schema.primary_key == ("left", "y")
        for kind in (pa.float64(), pa.uint64(), pa.int8()):
            with pytest.raises(SchemaError):
                pairs.widen_column("left", kind)
        with pytest.raises(SchemaError, match="primary key"):
            pairs.drop_column("left")


def test_what_is_refused_changes_nothing(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        version = db.version
        refused = [
            (lambda: docs.add_column(lt.Column("a", pa.int64())), DuplicateKeyError, "already"),
            (lambda: docs.add_column(("b", pa.int64())), InvalidArgumentError, "Column"),
            (lambda: docs.add_column(lt.Column("b", pa.int64(), nullable=False)), SchemaError, "never null"),
            (lambda: docs.add_column(lt.Column("b", pa.int64()), "x"), SchemaError, "wanted int64"),
            (lambda: docs.add_column(lt.Column("b", pa.int64()), lambda b: [1]), SchemaError, "1 values for"),
            (lambda: docs.add_column(lt.Column("b", pa.int64(), nullable=False), lambda b: [None] * b.num_rows), SchemaError, "null"),
            (lambda: docs.add_column(lt.Column("b", pa.int64()), lambda b: 1 / 0), ZeroDivisionError, "zero"),
            (lambda: docs.drop_column("b"), SchemaError, "no column"),
            (lambda: docs.rename_column("a", "v"), DuplicateKeyError, "already"),
            (lambda: docs.rename_column("a", "_x"), InvalidArgumentError, "_"),
            (lambda: docs.widen_column("a", pa.int16()), SchemaError, "hold"),
            (lambda: docs.widen_column("a", pa.float32()), SchemaError, "hold"),
            (lambda: docs.widen_column("v", lt.tensor("float32", (5,))), SchemaError, "hold"),
        ]
        for act, error, said in refused:
            with pytest.raises(error, match=said):
                act()
        assert db.version == version and docs.schema.names == ["id", "a", "v"]
        docs.put(1, {"a": 5})
        assert docs.get(1)["a"] == 5
        with pytest.raises(ConflictError, match="columns"), db.transaction() as txn:
            txn["docs"].upsert({"id": [1], "a": [6]})
            docs.drop_column("a")
        assert docs.get(1) == {"id": 1, "v": None}
    with lt.open(tmp_path / "a.lsm", mode="r") as db, pytest.raises(ReadOnlyError):
        db["docs"].drop_column("v")


def test_a_dropped_column_goes_when_nothing_needs_it(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db, history="none")
        docs.add_column(lt.Column("big", pa.string()), lambda b: [f"{i:0200d}" for i in range(b.num_rows)])
        tagged = db.tag("then")
        docs.drop_column("big")
        docs.add_column(lt.Column("big", pa.int64()), 7)
        db.compact()
        assert db.at(version=tagged)["docs"].get(3)["big"] == f"{3:0200d}" and docs.get(3)["big"] == 7
        db.collect_garbage()
        (kept,) = sizes(tmp_path / "a.lsm").values()
    with lt.open(tmp_path / "c.lsm", config=CONFIG) as db:
        docs = table(db, history="none")
        docs.add_column(lt.Column("big", pa.string()), lambda b: [f"{i:0200d}" for i in range(b.num_rows)])
        docs.drop_column("big")
        docs.add_column(lt.Column("big", pa.int64()), 7)
        db.compact()
        db.collect_garbage()
        (gone,) = sizes(tmp_path / "c.lsm").values()
    assert gone < kept - 100 * 190


CHANGES = ("add", "function", "drop", "rename", "widen")


@given(st.lists(st.sampled_from(["write", "delete", "flush", "compact", "reopen", *CHANGES]), min_size=4, max_size=18), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_every_version_reads_as_it_was(tmp_path_factory, acts, seed):
    """A model of rows as dicts, beside the table; each version is looked at again at the end."""
    luck = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("x") / "a.lsm"
    db = lt.open(path, config=CONFIG)
    t = db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("a", pa.int8())], primary_key="id"), history="forever")
    rows: dict[int, dict] = {}
    kinds = {"a": pa.int8()}
    seen = {}
    names = iter("bcdefghijklmnopqrstuvw")
    try:
        for act in acts:
            others = [n for n in kinds]
            some = others[int(luck.integers(len(others)))] if others else None
            if act == "write":
                for key in luck.integers(0, 20, 5).tolist():
                    rows[key] = {n: int(luck.integers(0, 100)) for n in kinds}
                    t.put(key, rows[key])
            elif act == "delete":
                gone = luck.integers(0, 20, 4).tolist()
                t.delete(gone)
                rows = {k: r for k, r in rows.items() if k not in gone}
            elif act == "flush":
                db.flush()
            elif act == "compact":
                db.compact()
            elif act == "reopen":
                db.close()
                db = lt.open(path, config=CONFIG)
                t = db["t"]
            elif act == "add":
                # sometimes under the name of a column that was dropped
                name = next((n for n in "abc" if n not in kinds), None) or next(names)
                if name not in kinds:
                    value = int(luck.integers(0, 100)) if luck.random() < 0.7 else None
                    t.add_column(lt.Column(name, pa.int16()), value)
                    kinds[name] = pa.int16()
                    rows = {k: {**r, name: value} for k, r in rows.items()}
            elif act == "function":
                name = next(n for n in names if n not in kinds)
                t.add_column(lt.Column(name, pa.int16()), lambda b: [x % 7 for x in b.column("id").to_pylist()], columns=["id"])
                kinds[name] = pa.int16()
                rows = {k: {**r, name: k % 7} for k, r in rows.items()}
            elif act == "drop" and some:
                t.drop_column(some)
                del kinds[some]
                rows = {k: {n: x for n, x in r.items() if n != some} for k, r in rows.items()}
            elif act == "rename" and some:
                name = next(n for n in names if n not in kinds)
                t.rename_column(some, name)
                kinds = {name if n == some else n: x for n, x in kinds.items()}
                rows = {k: {name if n == some else n: x for n, x in r.items()} for k, r in rows.items()}
            elif act == "widen" and some:
                wider = {pa.int8(): pa.int16(), pa.int16(): pa.int64(), pa.int64(): None}[kinds[some]]
                if wider is not None:
                    t.widen_column(some, wider)
                    kinds[some] = wider
            seen[db.version] = (dict(kinds), dict(rows))
            expect(t, kinds, rows)
        for version, (kinds, rows) in seen.items():
            expect(db.at(version=version)["t"], kinds, rows)
        db.verify()
    finally:
        db.close()


def expect(view, kinds, rows):
    assert {c.name: c.type for c in view.schema.columns[1:]} == kinds and view.schema.names[0] == "id"
    wanted = [{"id": k, **{n: rows[k][n] for n in kinds}} for k in sorted(rows)]
    assert view.to_arrow().to_pylist() == wanted
    assert [view.get(k) for k in sorted(rows)] == wanted
    for name in kinds:
        got = view.scan(["id"], where=pc.field(name) > 50).read_all().column("id").to_pylist()
        assert got == [k for k in sorted(rows) if rows[k][name] is not None and rows[k][name] > 50]


def test_columns_under_codecs_and_of_codes(tmp_path):
    luck = np.random.default_rng(2)
    kind = lt.tensor("float32", (8,))
    columns = [
        lt.Column("id", pa.int64()), lt.Column("s", pa.string(), codec="zstd(level=3)"), lt.Column("v", kind, quant="int8", keep_full=False),
        lt.Column("w", kind, codec="shuffle+lz4"),
    ]  # fmt: skip
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        t = db.create_table("t", lt.Schema(columns, primary_key="id"))
        v, w = (luck.normal(size=(100, 8)).astype(np.float32) for _ in range(2))
        t.insert({"id": range(100), "s": [f"x{i % 9}" for i in range(100)], "v": v, "w": w})
        db.flush()
        before, version = t.to_arrow(), db.version
        t.rename_column("v", "codes")
        t.rename_column("s", "text")
        t.widen_column("w", lt.tensor("float64", (8,)))
        t.add_column(lt.Column("z", kind, codec="zstd(level=1)"), np.ones(8, np.float32))
        t.add_column(lt.Column("q", kind, quant="int8", keep_full=False))
        with pytest.raises(SchemaError, match="codes"):
            t.widen_column("codes", lt.tensor("float64", (8,)))
        with pytest.raises(InvalidArgumentError, match="codes"):
            t.add_column(lt.Column("p", kind, quant="int8", keep_full=False), np.ones(8, np.float32))
        t.update([3], {"q": np.ones((1, 8)), "codes": np.ones((1, 8))})
        row = {n: np.asarray(x).tolist() for n, x in t.get(3).items()}
        assert row["z"] == [1] * 8 and row["w"] == w[3].tolist() and t.get(4)["codes"].tolist() == before.column("v")[4].as_py()
        for act in (db.flush, db.compact, db.verify):
            act()
            assert {n: np.asarray(x).tolist() for n, x in t.get(3).items()} == row
        assert db.at(version=version)["t"].to_arrow().equals(before)
