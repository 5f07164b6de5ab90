"""Sorted indexes of scalar columns: the same answers as a look at every row, at every version."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.errors import InvalidArgumentError, SchemaError
from lsmtensor.lsm import sorted as sorted_indexes
from lsmtensor.search import where as filters
from lsmtensor.sstable.zones import compares_nan

CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 10}, "sstable": {"batch_rows": 700}})
N = 20_000


def big(db, n=N):
    columns = [
        lt.Column("id", pa.int64()), lt.Column("price", pa.float64()), lt.Column("name", pa.string()),
        lt.Column("at", pa.timestamp("us")), lt.Column("v", lt.tensor("float32", (4,))),
    ]  # fmt: skip
    docs = db.create_table("docs", lt.Schema(columns, primary_key="id"), history="forever")
    luck = np.random.default_rng(3)
    price = luck.integers(0, 5000, n).astype(float)
    price[::97] = np.nan
    docs.insert({
        "id": np.arange(n), "price": price, "name": [None if i % 50 == 0 else f"n{x:05d}" for i, x in enumerate(luck.integers(0, 3000, n))],
        "at": np.datetime64("2026-01-01", "us") + luck.integers(0, 10**12, n), "v": luck.normal(size=(n, 4)).astype(np.float32),
    })  # fmt: skip
    db.flush()
    return docs


def test_scan_count_delete_and_search_use_it(tmp_path, monkeypatch):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = big(db)
        day = datetime.datetime(2026, 1, 3)
        asked = [
            pc.field("price") == 77, pc.field("price") < 100, (pc.field("price") > 40) & (pc.field("price") <= 90) & (pc.field("id") > 99),
            pc.field("name") == "n00123", pc.field("name").isin(["n00001", "n02999", "absent"]), pc.field("name").is_null(),
            (pc.field("at") >= day) & (pc.field("at") < day + datetime.timedelta(hours=2)), pc.field("price") == -1,
            (pc.field("name") == "n00007") | (pc.field("name") == "n00008"), (pc.field("price") == 7) & (pc.field("name") < "n02000"),
        ]  # fmt: skip
        q = np.ones(4, np.float32)
        plain = [(docs.scan(where=w).read_all(), docs.count(w), docs.search(q, k=5, where=w)) for w in asked]
        for column in ("price", "name", "at"):
            assert docs.create_index(column, "sorted") == f"{column}_sorted"
        looked = []
        evaluate = filters.evaluate
        monkeypatch.setattr(filters, "evaluate", lambda table, where: looked.append(table.num_rows) or evaluate(table, where))
        for w, (rows, count, near) in zip(asked, plain, strict=True):
            assert repr(docs.scan(where=w).read_all().to_pylist()) == repr(rows.to_pylist()) and docs.count(w) == count  # NaN is not itself
            assert docs.search(q, k=5, where=w).equals(near)
            assert repr(docs.scan(where=w, reverse=True, limit=3).read_all().to_pylist()) == repr(rows.to_pylist()[::-1][:3])
            assert docs.scan(["id"], where=w, start=100, stop=9000).read_all().column("id").to_pylist() == [i for i in rows.column("id").to_pylist() if 100 <= i < 9000]
        assert max(looked) <= 4096 < N
        looked.clear()
        # what it cannot help with is answered all the same
        for w in (pc.field("price") > 1, (pc.field("price") == 7) | (pc.field("id") == 7), pc.field("price") + 1 == 8, pc.field("id") < 3):
            assert docs.count(w) == docs.to_arrow(["id", "price"]).filter(w).num_rows
        docs.delete(where=asked[0])
        assert docs.count(asked[0]) == 0 and docs.count() == N - plain[0][1] and docs.scan(where=asked[1]).read_all().num_rows == plain[1][1] - plain[0][1]
        with db.at(version=db.version - 1) as then:
            assert then["docs"].scan(where=asked[0]).read_all().equals(plain[0][0])
        db.verify()


def test_it_is_kept_moved_and_made_again(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = big(db, 5000)
        docs.create_index("price", "sorted", name="by_price")
        want = docs.scan(where=pc.field("price") == 11).read_all()
        docs.rename_column("price", "cost")
        assert docs.scan(where=pc.field("cost") == 11).read_all().equals(want.rename_columns(docs.schema.names))
        with pytest.raises(SchemaError, match="by_price"):
            docs.drop_column("cost")
        docs.upsert({"id": [3, 9000], "cost": [11.0, 11.0]})
        db.compact()
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = db["docs"]
        assert sorted({*want.column("id").to_pylist(), 3, 9000}) == docs.scan(["id"], where=pc.field("cost") == 11).read_all().column("id").to_pylist()
        db.collect_garbage()
        (segment,) = (tmp_path / "a.lsm" / "sst").glob("*.sorted")
        segment.write_bytes(segment.read_bytes()[:-100])
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db, pytest.warns(UserWarning, match="cannot be used"):
        assert db["docs"].count(pc.field("cost") == 11) == len({*want.column("id").to_pylist(), 3, 9000})


KINDS = {
    "int8": (pa.int8(), lambda r: int(r.integers(-128, 128))),
    "uint64": (pa.uint64(), lambda r: int(r.integers(2**64 - 50, 2**64 - 1, dtype=np.uint64))),
    "float32": (pa.float32(), lambda r: [float("nan"), float("inf"), -0.0, 0.0, 1.5][int(r.integers(5))]),
    "string": (pa.string(), lambda r: ["", "a", "a\0", "ab", "ä", "z" * 100][int(r.integers(6))]),
    "binary": (pa.binary(), lambda r: [b"", b"\0", b"\xff\xff", b"a"][int(r.integers(4))]),
    "date32": (pa.date32(), lambda r: datetime.date(2020, 1, 1) + datetime.timedelta(days=int(r.integers(-9, 9)))),
    "time64": (pa.time64("us"), lambda r: datetime.time(int(r.integers(24)))),
    "duration": (pa.duration("s"), lambda r: datetime.timedelta(seconds=int(r.integers(-9, 9)))),
    "decimal": (pa.decimal128(9, 2), lambda r: decimal.Decimal(int(r.integers(-99, 99))) / 4),
}


@given(kind=st.sampled_from(sorted(KINDS)), n=st.integers(1, 1200), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_candidates_hold_every_match(kind, n, seed):
    luck = np.random.default_rng(seed)
    arrow, draw = KINDS[kind]
    values = pa.array([None if luck.random() < 0.1 else draw(luck) for _ in range(n)], arrow)
    arrays = sorted_indexes.sort_column(pa.chunked_array([values]))
    (ordered,) = sorted_indexes.stream_arrays(arrays["values"])
    schema = pa.schema([("x", arrow), ("y", pa.int64())])
    index = sorted_indexes.SortedIndex(schema, "x", ordered, arrays["rows"], arrays["nulls"], arrays["nans"])
    table = pa.table({"x": values, "y": pa.array(np.arange(n))}, schema=schema)
    x, some = pc.field("x"), pa.scalar(draw(luck), arrow)
    asked = [x == some, x != some, x < some, x >= some, x.is_null(), x.is_valid(), (x == some) | (pc.field("y") < 3), ~(x < some), (x == some) & (pc.field("y") < 3)]
    if kind != "duration":
        asked.append(x.isin(pa.array([some.as_py()], arrow)))
    for where in asked:
        want = table.filter(where).column("y").to_numpy()
        if compares_nan(where):
            continue  # `candidates` leaves these alone
        got = index.candidates(where)
        assert np.isin(want, got).all() and (np.diff(got) > 0).all() and len(got) <= n
    plain = draw(luck)
    if kind in ("int8", "float32", "string", "binary"):
        for where in (x == plain, x < plain, x <= plain, x > plain, x >= plain, x == plain + plain if kind == "string" else x == 5, (x == plain) & (x == plain)):
            found = index.exactly(where)
            if found is not None and not compares_nan(where):
                assert found.tolist() == table.filter(where).column("y").to_pylist()


def test_filters_that_compare_are_known():
    x = pc.field("x y")
    for where, found in (
        (x == 5, ("==", 5)), (x < -2.5, ("<", -2.5)), (x >= 'a "q" (b) == c', (">=", 'a "q" (b) == c')), (x <= 7.0, ("<=", 7.0)), (x > "5", (">", "5")),
        (x == pa.scalar(5, pa.int8()), None), (x == True, None), (x == b"a", None), (x == None, None), (x == float("inf"), None),  # noqa: E711, E712
        ((x == 5) & (x < 9), None), (~(x == 5), None), (pc.field("z") == 5, None), (x == pc.field("z"), None),
    ):  # fmt: skip
        assert sorted_indexes.compared(where, "x y") == found, where


@given(st.lists(st.tuples(st.sampled_from(["put", "delete", "flush", "compact", "tag"]), st.integers(0, 30), st.integers(0, 5)), max_size=40))
@settings(max_examples=25)
def test_every_version_answers_like_a_scan(tmp_path_factory, acts):
    config = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 1}})
    with lt.open(tmp_path_factory.mktemp("x") / "a.lsm", config=config) as db:
        schema = lt.Schema([lt.Column("k", pa.string()), lt.Column("n", pa.int64()), lt.Column("x", pa.int64())], primary_key=["k", "n"])
        table = db.create_table("t", schema, indexes={"x": "sorted"}, history="forever")
        seen = {}
        for act, key, value in acts:
            if act == "put":
                table.put((str(key), key), {"x": value if value else None})
            elif act == "delete":
                table.delete([(str(key), key)])
            elif act == "flush":
                db.flush()
            elif act == "compact":
                db.compact()
            seen[db.version] = table.to_arrow()
        for version, rows in seen.items():
            view = db.at(version=version)["t"] if version else table
            for where in (pc.field("x") == 2, pc.field("x").is_null(), pc.field("x") > 3):
                assert view.scan(where=where).read_all().equals(rows.filter(where).combine_chunks()) or not rows.num_rows
                assert view.count(where) == rows.filter(where).num_rows
        with db.transaction() as txn:
            txn["t"].upsert({"k": ["own"], "n": [1], "x": [2]})
            assert ("own", 1) in [(r["k"], r["n"]) for r in txn["t"].scan(where=pc.field("x") == 2).read_all().to_pylist()]


@pytest.mark.parametrize("index", [False, True])
def test_nan_in_a_filter(tmp_path, index):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = big(db, 3000)
        docs.update(np.flatnonzero(np.isnan(docs.to_numpy(["price"])["price"])), {"price": 1.0})
        db.compact()
        if index:
            docs.create_index("price", "sorted")
        for where in (pc.field("price") != float("nan"), ~(pc.field("price") < float("nan")), pc.field("price") == float("nan")):
            assert docs.count(where) == docs.to_arrow(["price"]).filter(where).num_rows


def test_what_is_refused(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = big(db, 10)
        for column, spec, said in (("v", "sorted", "numbers, text"), ("price", "sorted(x=1)", "no parameters"), ("price", "hnsw", "vector")):
            with pytest.raises(InvalidArgumentError, match=said):
                docs.create_index(column, spec)
