"""Columns whose values no two rows share."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.errors import ConflictError, DuplicateKeyError, InvalidArgumentError, SchemaError, UnknownNameError

CONFIG = lt.RunConfig.from_dict({"background": False})
SCHEMA = lt.Schema(
    [lt.Column("id", pa.int64()), lt.Column("email", pa.string()), lt.Column("a", pa.int64()), lt.Column("b", pa.float64())], primary_key="id"
)


def people(db, **options):
    return db.create_table("people", SCHEMA, unique=["email", ("a", "b")], **options)


def test_each_write_is_checked(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        t = people(db)
        t.insert({"id": [1, 2, 3], "email": ["x", "y", None], "a": [1, 1, 1], "b": [1.0, 2.0, None]})
        t.upsert({"id": [4], "email": [None], "a": [1], "b": [None]})  # nulls are no values
        version = db.version
        refused = [
            lambda: t.insert({"id": [9], "email": ["x"]}), lambda: t.upsert({"id": [2], "email": ["x"]}), lambda: t.put(9, {"email": "y"}),
            lambda: t.update([3], {"email": "x"}), lambda: t.upsert({"id": [8, 9], "email": ["z", "z"]}), lambda: t.load({"id": [9], "email": ["x"]}),
            lambda: t.put(9, {"a": 1, "b": 2.0}),
        ]  # fmt: skip
        for _ in range(2):
            for act in refused:
                with pytest.raises(DuplicateKeyError, match="unique"):
                    act()
            db.flush()
        assert db.version == version and len(t) == 4
        with pytest.raises(DuplicateKeyError, match=r"row 0: email = 'x' is in table 'people' already, at key 1"):
            t.put(9, {"email": "x"})
        with pytest.raises(InvalidArgumentError, match="sorted"):
            t.load({"id": [9], "email": ["q"]}, sorted=True)
        t.put(1, {"email": "x", "a": 5, "b": 5.0})  # its own
        t.upsert({"id": [1, 2], "email": ["y", "x"]})  # the two change places
        t.delete([1])
        t.put(9, {"email": "y"})  # given up
        t.put(9, {"email": "w"})
        t.put(10, {"email": "y"})
        assert {r["id"]: r["email"] for r in t.to_arrow().to_pylist()} == {2: "x", 3: None, 4: None, 9: "w", 10: "y"}
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        assert db.tables == ["people"] and db.snapshot().tables == ["people"]
        with pytest.raises(DuplicateKeyError, match="at key 10"):
            db["people"].put(11, {"email": "y"})
        db.checkpoint(tmp_path / "b.lsm")
        db.drop_table("people")
        assert not db._tree.head()[0].tables
    with lt.open(tmp_path / "b.lsm", config=CONFIG) as db, pytest.raises(DuplicateKeyError):
        db["people"].put(11, {"email": "y"})


def test_transactions_that_take_one_value(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        t = people(db)
        t.put(1, {"email": "x"})
        with db.transaction() as txn:
            with pytest.raises(DuplicateKeyError):
                txn["people"].put(2, {"email": "x"})
            txn["people"].delete([1])
            txn["people"].put(2, {"email": "x"})
            with pytest.raises(DuplicateKeyError):
                txn["people"].insert({"id": [3], "email": ["x"]})
        one, two = db.transaction(), db.transaction()
        one["people"].put(5, {"email": "new"})
        two["people"].put(6, {"email": "new"})
        one.commit()
        with pytest.raises(ConflictError):
            two.commit()
        t.put(5, {"email": "other"})  # the claim of "new" is left behind
        one, two = db.transaction(), db.transaction()
        one["people"].put(5, {"email": "new"})
        two["people"].put(7, {"email": "new"})
        two.commit()
        with pytest.raises(ConflictError):
            one.commit()
        assert sorted(t.to_arrow().column("email").to_pylist()) == ["new", "other", "x"]


def test_threads_that_take_one_value(tmp_path):
    with lt.open(tmp_path / "a.lsm") as db:
        t = people(db)
        won = []

        def take(me):
            for value in range(20):
                try:
                    t.put(me * 100 + value, {"email": f"v{value}"})
                    won.append(value)
                except DuplicateKeyError:
                    continue

        threads = [threading.Thread(target=take, args=(me,)) for me in range(4)]
        [x.start() for x in threads]
        [x.join() for x in threads]
        assert sorted(won) == list(range(20)) and len(t) == 20


def test_constraints_that_come_and_go(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        t = db.create_table("people", SCHEMA)
        t.insert({"id": [1, 2, 3], "email": ["x", "x", None], "a": [1, 2, 3]})
        before = db.version
        with pytest.raises(DuplicateKeyError, match="'x'"):
            t.add_unique("email")
        t.put(2, {"email": "y"})
        t.add_unique("email")
        t.add_unique(["a", "b"])
        with pytest.raises(DuplicateKeyError, match="already"):
            t.add_unique("email")
        t.rename_column("email", "mail")
        with pytest.raises(DuplicateKeyError, match="mail = 'x'"):
            t.put(9, {"mail": "x"})
        for act in (lambda: t.drop_column("mail"), lambda: t.widen_column("mail", pa.large_string()), lambda: t.widen_column("id", pa.int64())):
            with pytest.raises(SchemaError):
                act()
        with pytest.raises(UnknownNameError, match="mail; a, b"):
            t.drop_unique("email")
        t.drop_unique("mail")
        with pytest.raises(ConflictError, match="rules"), db.transaction() as txn:
            txn["people"].put(8, {"mail": "x"})
            t.add_unique("mail")
        t.drop_unique("mail")
        t.put(9, {"mail": "x"})
        assert db.at(version=before)["people"].get(2)["email"] == "x"
        db.compact()
        db.verify()
        for unique, said in ((["nothing"], "no column"), ([[]], "one or more"), ([("a", "a")], "different")):
            with pytest.raises((SchemaError, InvalidArgumentError), match=said):
                db.create_table("other", SCHEMA, unique=unique)
        tensors = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (2,)))], primary_key="id")
        with pytest.raises(SchemaError, match="unique over v"):
            db.create_table("other", tensors, unique="v")


def test_an_expired_row_holds_nothing(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("at", pa.timestamp("s")), lt.Column("x", pa.int64())], primary_key="id")
        t = db.create_table("t", schema, ttl={"at": "1h"}, unique="x")
        t.insert({"id": [1], "at": [0], "x": [7]})
        t.insert({"id": [2], "at": [2**33], "x": [7]})
        with pytest.raises(DuplicateKeyError):
            t.insert({"id": [3], "at": [0], "x": [7]})


@given(st.lists(st.tuples(st.sampled_from(["put", "delete", "many", "flush", "compact"]), st.integers(0, 6), st.integers(0, 4)), max_size=40))
@settings(max_examples=30)
def test_against_a_model(tmp_path_factory, acts):
    with lt.open(tmp_path_factory.mktemp("x") / "a.lsm", config=CONFIG) as db:
        t = db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("x", pa.int64())], primary_key="id"), unique=["x"])
        rows = {}
        for act, key, value in acts:
            if act == "delete":
                t.delete([key])
                rows.pop(key, None)
            elif act in ("put", "many"):
                given_ = {key: value or None} if act == "put" else {key: value or None, key + 1: (value + 1) % 5 or None}
                after = {**rows, **given_}
                values = [x for x in after.values() if x is not None]
                try:
                    t.upsert({"id": list(given_), "x": pa.array(list(given_.values()), pa.int64())})
                    assert len(values) == len(set(values))
                    rows = after
                except DuplicateKeyError:
                    assert len(values) > len(set(values))
            elif act == "flush":
                db.flush()
            else:
                db.compact()
            assert {r["id"]: r["x"] for r in t.to_arrow().to_pylist()} == rows
