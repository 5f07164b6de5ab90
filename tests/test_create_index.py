"""Indexes that come and go on a table that has rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.errors import DuplicateKeyError, InvalidArgumentError, ReadOnlyError, UnknownNameError

CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 100}})


def table(db, n=400):
    columns = [lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8,))), lt.Column("text", pa.string())]
    docs = db.create_table("docs", lt.Schema(columns, primary_key="id"))
    luck = np.random.default_rng(1)
    docs.insert({"id": np.arange(n), "v": luck.normal(size=(n, 8)).astype(np.float32), "text": [f"row {i % 7}" for i in range(n)]})
    return docs


@pytest.mark.parametrize("spec", ["hnsw", "fqg", "gwi", "lsh", "ivfflat", "ivfpq", "diskann", "flat"])
def test_segments_are_made_used_kept_and_dropped(tmp_path, spec):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        db.flush()
        q = np.ones(8, np.float32)
        want = docs.search(q, k=5)
        assert docs.search(q, explain=True)["index"] is None
        name = docs.create_index("v", spec)
        assert name == f"v_{spec}" and docs.indexes == {name: f"v: {spec}"}
        plan = docs.search(q, k=5, explain=True)
        assert plan["index"] == name and plan["sources"][0]["plan"] == f"walk {name}"
        assert docs.search(q, k=5).equals(want)
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = db["docs"]
        assert docs.search(q, k=5, explain=True)["sources"][0]["plan"] == f"walk {name}"
        docs.upsert({"id": [3], "v": np.ones((1, 8), np.float32), "text": ["new"]})
        assert docs.search(q, k=1).column("id").to_pylist() == [3]
        docs.drop_index(name)
        assert docs.indexes == {} and docs.search(q, k=1, explain=True)["index"] is None
        assert docs.search(q, k=1).column("id").to_pylist() == [3]
        db.collect_garbage()
        assert not [p.name for p in (tmp_path / "a.lsm" / "sst").iterdir() if ".i" in p.name]
        db.verify()


def test_side_by_side_and_text(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        db.flush()
        docs.create_index("v", "hnsw(metric=cosine)", name="near")
        docs.create_index("v", "fqg(metric=l2)", name="far")
        q = np.ones(8, np.float32)
        assert docs.search(q, index="far", explain=True)["metric"] == "l2"
        assert docs.search(q, index="near", explain=True)["metric"] == "cosine"
        docs.create_index("text", "text(analyzer=english)")
        assert docs.search(text="row 3", k=400).num_rows == 400
        assert docs.search(text={"query": "3", "must": "3"}, k=400).num_rows == 57


def test_in_the_background(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig.from_dict({"index": {"min_rows": 100}})) as db:
        docs = table(db)
        db.flush()
        docs.create_index("v", "fqg", wait=True)
        assert docs.search(np.ones(8, np.float32), explain=True)["sources"][0]["plan"] == "walk v_fqg"
        docs.create_index("v", "hnsw", name="later")
        docs.insert({"id": [9000], "v": np.full((1, 8), 5, np.float32), "text": ["x"]})
        assert docs.search(np.full(8, 5, np.float32), k=1, index="later").column("id").to_pylist() == [9000]
        db.flush()
        db.compact()
        assert docs.search(np.ones(8, np.float32), index="later", explain=True)["sources"][0]["plan"] == "walk later"


def test_wrong_ones_are_refused(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=CONFIG) as db:
        docs = table(db)
        docs.create_index("v", "hnsw")
        with pytest.raises(DuplicateKeyError, match="v_hnsw"):
            docs.create_index("v", "hnsw(m=8)")
        with pytest.raises(InvalidArgumentError, match="vector indexes are for"):
            docs.create_index("text", "hnsw")
        with pytest.raises(UnknownNameError):
            docs.create_index("v", "hnws")
        with pytest.raises(UnknownNameError, match="did you mean 'v_hnsw'"):
            docs.drop_index("v_hnws")
        assert list(docs.indexes) == ["v_hnsw"]
    with lt.open(tmp_path / "a.lsm", mode="r") as db, pytest.raises(ReadOnlyError):
        db["docs"].create_index("v", "flat")
