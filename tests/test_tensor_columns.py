"""Columns of tensors: every dtype and layout through memory, files, merges and a second opening, exactly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.dtypes import DTYPES, numpy_dtype

sp = pytest.importorskip("scipy.sparse", reason="scipy is for tests")


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tolist()


def values_of(dtype, n, rng):
    kind = numpy_dtype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, n).astype(bool)
    if kind.kind == "c":
        return (rng.normal(size=n) + 1j * rng.normal(size=n)).astype(kind)
    return (rng.normal(size=n) * 9).astype(np.float32).astype(kind) if kind.kind in "fV" else rng.integers(0, 99, n).astype(kind)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout_goes_through_files_exactly(tmp_path, dtype):
    rng = np.random.default_rng(1)
    schema = lt.Schema(
        [lt.Column("id", pa.int64()), lt.Column("fixed", lt.tensor(dtype, (2, 3))), lt.Column("ragged", lt.ragged(dtype, 2)),
         lt.Column("vector", lt.sparse(dtype, 1000)), lt.Column("matrix", lt.sparse(dtype, (40, 50)))], "id",
    )  # fmt: skip
    rows = []
    for i in range(40):
        places = np.sort(rng.choice(1000, int(rng.integers(0, 9)), replace=False))
        corners = np.stack(np.unravel_index(np.sort(rng.choice(2000, 5, replace=False)), (40, 50)), 1)
        rows.append({
            "id": i, "fixed": values_of(dtype, 6, rng).reshape(2, 3), "ragged": values_of(dtype, 2 * (i % 4), rng).reshape(2, -1),
            "vector": {"indices": places, "values": values_of(dtype, len(places), rng)}, "matrix": {"indices": corners, "values": values_of(dtype, 5, rng)},
        })  # fmt: skip
        for name in ("fixed", "ragged", "vector", "matrix"):
            if i % 7 == len(name) % 7:
                rows[-1][name] = None

    def same(db):
        for row in rows:
            found = db["t"].get(row["id"])
            for name, value in row.items():
                if isinstance(value, dict):
                    assert value["indices"].tolist() == found[name]["indices"].tolist() and bits(value["values"]) == bits(found[name]["values"])
                elif isinstance(value, np.ndarray):
                    assert bits(value) == bits(found[name]) and found[name].dtype == value.dtype and found[name].shape == value.shape
                else:
                    assert found[name] == value

    with lt.open(tmp_path / "a.lsm") as db:
        table = db.create_table("t", schema)
        table.upsert(rows[:25])
        db.flush()
        table.upsert(rows[20:])
        same(db)
        db.flush()
        same(db)
        db.compact()
        same(db)
    with lt.open(tmp_path / "a.lsm") as db:
        same(db)
        db.verify()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from(["csr", "csc", "coo"]))
def test_scipy_goes_in_and_comes_out_the_same(rows, dim, seed, format):
    rng = np.random.default_rng(seed)
    made = sp.random_array((rows, dim), density=0.4, rng=rng, dtype=np.float64).asformat(format)
    if made.nnz:
        made.data[0], made.data[-1] = 0.0, -0.0  # entries that are zero stay entries
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.sparse("float64", dim))], "id")
    batch = schema.batch({"id": np.arange(rows), "v": made})
    from lsmtensor.convert_sparse import scipy_column

    for column in (batch.column("v"), pa.chunked_array([batch.column("v").slice(0, 2), batch.column("v").slice(2)])):
        out = scipy_column(column, format)
        assert out.format == format and out.shape == made.shape and out.dtype == made.dtype
        ours, theirs = out.tocsr(), made.tocsr()
        for matrix in (ours, theirs):
            matrix.sort_indices()
        assert bits(ours.data) == bits(theirs.data) and ours.indices.tolist() == theirs.indices.tolist() and ours.indptr.tolist() == theirs.indptr.tolist()


def test_matrices_a_row(tmp_path):
    rng = np.random.default_rng(0)
    given = [sp.random_array((30, 70_000), density=1e-4, rng=rng, dtype=np.float32).asformat(f) for f in ("csr", "csc", "coo")]
    huge = lt.sparse("int64", (2**31, 2**31))
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("m", lt.sparse("float32", (30, 70_000))), lt.Column("h", huge)], "id")
    with lt.open(tmp_path / "a.lsm") as db:
        table = db.create_table("t", schema)
        far = {"indices": np.array([[2**31 - 1, 2**31 - 1], [0, 7]]), "values": np.array([5, 6])}
        table.upsert({"id": range(4), "m": [*given, None], "h": [far, None, None, {"indices": [], "values": []}]})
        db.flush()
        for format in ("csr", "csc", "coo"):
            out = table.to_scipy("m", format)
            assert out[3] is None and all(a.format == format and a.shape == b.shape and (a.tocsr() != b.tocsr()).nnz == 0 for a, b in zip(out, given, strict=False))
        found = table.get(0)["h"]
        assert found["indices"].tolist() == [[0, 7], [2**31 - 1, 2**31 - 1]] and found["values"].tolist() == [6, 5]
        assert table.get(3)["h"]["indices"].shape == (0, 2)
        # rows that a file gives back are rows that a table takes
        db.create_table("again", schema).upsert(table.to_arrow())
        assert db["again"].to_arrow().equals(table.to_arrow())
        for wrong, words in (
            (given[0].T, "given shape"), ({"indices": [[30, 1]], "values": [1.0]}, "axis 0"), ({"indices": [[1, 1], [1, 1]], "values": [1.0, 2.0]}, "rise strictly"),
            (np.zeros((30, 70_000)), "wanted {'indices'"),
        ):  # fmt: skip
            with pytest.raises(lt.SchemaError, match=words):
                table.upsert({"id": [9], "m": [wrong]})
        with pytest.raises(lt.SchemaError, match="one sparse tensor"):
            table.upsert({"id": [0], "m": given[0]})
        with pytest.raises(lt.InvalidArgumentError, match="csr, csc, coo"):
            table.to_scipy("m", "dia")
        with pytest.raises(lt.SchemaError, match="wanted a column of"):
            table.to_scipy("id")
        with pytest.raises(lt.InvalidArgumentError, match="sparse vectors"):
            table.create_index("m", "sparse")
