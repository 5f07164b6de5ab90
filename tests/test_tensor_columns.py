"""Columns of tensors: every dtype and layout through memory, files, merges and a second opening, exactly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor import container, indexes
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


# -- codecs ------------------------------------------------------------------------------------------


def table_of(n, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 32)).astype(np.float16).astype(np.float32)
    return pa.table({
        "id": np.arange(n), "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 32), "n": pa.array([None if i % 5 == 0 else i for i in range(n)], pa.int64()),
        "s": pa.array([None if i % 7 == 0 else f"text {i % 9}" * (i % 4) for i in range(n)]), "b": pa.array([bytes([i % 3]) * (i % 50) for i in range(n)], pa.large_binary()),
        "flag": pa.array([i % 3 == 0 for i in range(n)]), "l": pa.array([[i] * (i % 3) if i % 11 else None for i in range(n)], pa.list_(pa.int32())),
        "c": pa.array([{"x": i, "y": str(i)} for i in range(n)], pa.struct([("x", pa.int16()), ("y", pa.string())])),
        "r": lt.Schema([lt.Column("r", lt.ragged("float32", 2)), lt.Column("id", pa.int64())], "id").batch(
            {"id": np.arange(n), "r": [None if i % 6 == 0 else np.full((i % 3, 2), i, np.float32) for i in range(n)]}
        ).column("r"),
    })  # fmt: skip


def schema_with(codec):
    kinds = {
        "v": lt.tensor("float32", (32,)), "n": pa.int64(), "s": pa.string(), "b": pa.large_binary(), "flag": pa.bool_(), "l": pa.list_(pa.int32()),
        "c": pa.struct([("x", pa.int16()), ("y", pa.string())]), "r": lt.ragged("float32", 2),
    }  # fmt: skip
    return lt.Schema([lt.Column("id", pa.int64()), *(lt.Column(n, k, codec=codec) for n, k in kinds.items())], "id")


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd", "shuffle+zstd(level=1)", "bitshuffle+lz4", "delta+zstd", "narrow+zstd", "auto"])
def test_a_codec_changes_bytes_and_no_value(tmp_path, codec):
    with lt.open(tmp_path / "a.lsm") as db:
        plain, coded = db.create_table("plain", schema_with(None)), db.create_table("coded", schema_with(codec))
        for at in (0, 1500):
            for table in (plain, coded):
                table.upsert(table_of(5000).slice(at, 3500))
                table.delete([at + 3, at + 4])
            db.flush()
        for _ in range(2):
            assert coded.to_arrow().equals(plain.to_arrow())
            wanted = plain.get_many([4000, 1, 3, 1, 2499])
            assert coded.get_many([4000, 1, 3, 1, 2499]).equals(wanted) and len(wanted) == 4
            for columns, start, stop in ((["v"], 10, 4000), (["s", "id"], None, 3), (["c", "l"], 4990, None)):
                assert coded.scan(columns, start=start, stop=stop).read_all().equals(plain.scan(columns, start=start, stop=stop).read_all())
            import pyarrow.compute as pc

            assert coded.count(pc.field("n") > 3000) == plain.count(pc.field("n") > 3000)
            db.compact()
        sizes = {n: db.stats()["tables"][n]["file_bytes"] for n in ("plain", "coded")}
        # lz4 finds nothing in values drawn by chance
        assert codec in ("none", "lz4") or sizes["coded"] < 0.9 * sizes["plain"], sizes
        root = db.root()
        with db.snapshot() as snapshot:
            found = lt.verify_proof(snapshot["coded"].prove(17), root=root)
        assert found["id"] == 17 and bits(found["v"]) == bits(plain.get(17)["v"]) and found["s"] == plain.get(17)["s"]
    with lt.open(tmp_path / "a.lsm", mode="r") as db:
        assert db["coded"].to_arrow().equals(db["plain"].to_arrow()) and db.verify()["files"]
    # any reader opens the file, and sees the codes
    for path in (tmp_path / "a.lsm" / "sst").glob("*.arrow"):
        with pa.memory_map(str(path)) as data:
            assert pa.ipc.open_file(data).read_all().num_rows


def test_damage_under_a_codec_is_found(tmp_path):
    with lt.open(tmp_path / "a.lsm") as db:
        db.create_table("t", schema_with("shuffle+zstd")).upsert(table_of(4000))
        db.compact()
    (path,) = (tmp_path / "a.lsm" / "sst").glob("*.arrow")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 40).tolist():
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(lt.CorruptionError), lt.open(tmp_path / "a.lsm", mode="r") as db:
            db["t"].to_arrow()
            db.verify()


def test_groups_that_lie_are_refused():
    from lsmtensor.sstable.coded import Coded, Groups, encode

    array = pa.array(np.repeat(np.arange(100.0), 500))
    kind = Coded(pa.field("x", pa.float64()), "shuffle+zstd")
    good = encode(array, kind)
    groups = Groups(good)
    assert len(groups.starts) > 3 and pa.concat_arrays([groups.decode(g) for g in range(len(groups.starts))]).equals(array)
    body = np.frombuffer(good.storage.buffers()[2], np.uint8)
    rng = np.random.default_rng(1)
    refused = 0
    for at in [*range(100), *rng.integers(0, len(body), 100).tolist()]:
        changed = body.copy()
        changed[at] ^= 0xFF
        storage = pa.Array.from_buffers(pa.large_binary(), len(array), [None, good.storage.buffers()[1], pa.py_buffer(changed)])
        try:
            made = Groups(pa.ExtensionArray.from_storage(kind, storage))
            for g in range(len(made.starts)):
                made.decode(g).validate(full=True)
        except lt.CorruptionError:
            refused += 1
    assert refused > 100
    ends = np.frombuffer(good.storage.buffers()[1], np.int64).copy()
    ends[5] = 2**40
    with pytest.raises(lt.CorruptionError, match="outside"):
        Groups(pa.ExtensionArray.from_storage(kind, pa.Array.from_buffers(pa.large_binary(), len(array), [None, pa.py_buffer(ends), pa.py_buffer(body)])))


def test_codecs_that_columns_do_not_take(tmp_path):
    with lt.open(tmp_path / "a.lsm") as db:
        for codec, words in (("xor+zstd", "no older bytes"), ("zst", "did you mean"), ("zstd+shuffle", "comes last")):
            with pytest.raises(lt.LsmTensorError, match=words):
                db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("x", pa.int64(), codec=codec)], "id"))
        assert db.tables == []
    with pytest.raises(lt.InvalidArgumentError, match="where they lie"):
        lt.Schema([lt.Column("id", pa.int64(), codec="zstd")], "id")


def test_merges_compress_what_is_cold_when_asked(tmp_path):
    config = lt.RunConfig().with_set("compaction.codec=shuffle+zstd", "direct_commit_bytes=100000")
    big = np.repeat(np.arange(100_000, dtype=np.float32), 10).reshape(1000, -1)
    with lt.open(tmp_path / "a.lsm", config=config) as db:
        db.create_table("t", schema_with(None)).upsert(table_of(4000))
        db.tensors["w"] = big
        db.flush()
        before = db["t"].to_arrow()
        assert db.tensors["w"].contiguous
        hot = sum(t["file_bytes"] for t in db.stats()["tables"].values())
        db.compact()
        cold = sum(t["file_bytes"] for t in db.stats()["tables"].values())
        assert cold < 0.6 * hot and db["t"].to_arrow().equals(before)
        assert not db.tensors["w"].contiguous and np.array_equal(db.tensors["w"].numpy(), big) and np.array_equal(db.tensors["w"][7:900:3, 5], big[7:900:3, 5])
        db.tensors["w"][3] = 1.0
        assert db.tensors["w"][3].max() == 1.0 and np.array_equal(db.tensors["w"][4:], big[4:])
    with lt.open(tmp_path / "a.lsm") as db:
        db.compact()  # nothing asked: plain again
        assert db.stats()["tables"]["_chunks"]["file_bytes"] > big.nbytes and db.tensors["w"][3].max() == 1.0 and db["t"].to_arrow().equals(before)


def test_decoded_groups_are_kept_within_the_limit(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig(memory_limit=4 << 20)) as db:
        db.create_table("t", schema_with("zstd")).upsert(table_of(20_000))
        db.flush()
        db["t"].get(5)
        before = db.stats()["cache"]["misses"]
        db["t"].get(6)
        assert db.stats()["cache"]["misses"] == before and db.stats()["cache"]["bytes"] > 0
        for key in range(0, 20_000, 50):
            db["t"].get(key)
        assert 0 < db.stats()["cache"]["bytes"] <= db.stats()["cache"]["limit"] == 1 << 20


# -- codes instead of values ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["int8", "fp16", "bf16"]), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(-30, 30), st.integers(0, 4))
def test_values_that_were_rounded_have_exact_codes(spec, dim, seed, magnitude, power):
    x = (np.random.default_rng(seed).normal(size=(50, dim)) ** power * 10.0**magnitude).astype(np.float32)
    quantizer = lt.quant.create(spec, dim)
    once = quantizer.decode(quantizer.encode(x))
    assert bits(quantizer.decode(quantizer.encode(once))) == bits(once)


@pytest.mark.parametrize("codec", [None, "zstd"])
@pytest.mark.parametrize("spec", ["int8", "fp16", "bf16"])
def test_columns_of_codes(tmp_path, spec, codec):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 8, 12)).astype(np.float32)
    values = [None if i % 50 == 7 else v for i, v in enumerate(x)]
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8, 12)), quant=spec, keep_full=False, codec=codec)], "id")
    quantizer = lt.quant.create(spec, 96)
    wanted = quantizer.decode(quantizer.encode(x.reshape(-1, 96))).reshape(x.shape)

    def same(db):
        table = db["t"].to_arrow()
        there = table.column("v").is_valid().to_numpy()
        assert there.sum() == 2940 and bits(lt.schema.column_numpy(table.column("v"))[there]) == bits(wanted[there])
        assert bits(db["t"].get(8)["v"]) == bits(wanted[8]) and db["t"].get(7)["v"] is None

    with lt.open(tmp_path / "a.lsm") as db:
        table = db.create_table("t", schema)
        table.upsert({"id": np.arange(2000), "v": values[:2000]})
        first = db.version
        db.flush()
        with db.transaction() as txn:
            txn["t"].upsert({"id": np.arange(1500, 2999), "v": values[1500:2999]})
            assert bits(txn["t"].get(2500)["v"]) == bits(wanted[2500])
        db["t"].put(2999, {"v": x[2999]})
        same(db)
        assert bits(db.at(version=first)["t"].get(1999)["v"]) == bits(wanted[1999])
        table.update([8], {"v": [table.get(8)["v"]]})  # what was read and is written again stays
        db.flush()
        same(db)
        db.compact()
        same(db)
        size = db.stats()["tables"]["t"]["file_bytes"]
        assert size < (0.4 if spec == "int8" else 0.7) * x.nbytes
        for bad in (np.nan, np.inf):
            with pytest.raises(lt.SchemaError, match="column 'v', quant"):
                table.upsert({"id": [0], "v": np.full((1, 8, 12), bad, np.float32)})
    with lt.open(tmp_path / "a.lsm") as db:
        same(db)
        assert db.verify()


def trained(spec, x):
    return lt.quant.create(spec, x.shape[1]).fit(x)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["scalar(bits=8)", "scalar(bits=3, range=quantile)", "binary", "pq(m=4, bits=4)"]), st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_values_of_trained_quantizers_have_the_same_codes_again(spec, seed, power):
    x = (np.random.default_rng(seed).normal(size=(64, 8)) ** power).astype(np.float32)
    quantizer = trained(spec, x)
    once = quantizer.decode(quantizer.encode(2 * x))
    assert np.array_equal(quantizer.decode(quantizer.encode(once)), once)


@pytest.mark.parametrize("spec", ["scalar(bits=4)", "binary", "pq(m=24, bits=4)"])
def test_columns_of_codes_of_what_was_trained(tmp_path, spec):
    x = np.random.default_rng(0).normal(size=(3000, 96)).astype(np.float32)
    quantizer = trained(spec, x[:500])
    wanted = quantizer.decode(quantizer.encode(x))
    column = lt.Column("v", lt.tensor("float32", (96,)), quant=quantizer, keep_full=False)
    schema = lt.Schema([lt.Column("id", pa.int64()), column], "id")
    assert lt.Schema.from_dict(schema.to_dict()) == schema and "trained" in repr(schema)
    with lt.open(tmp_path / "a.lsm") as db:
        table = db.create_table("t", schema)
        table.upsert({"id": np.arange(3000), "v": x})
        assert bits(table.get(7)["v"]) == bits(wanted[7])  # in memory already
        table.update([8], {"v": [table.get(8)["v"]]})
        db.compact()
        with db.snapshot() as snap:
            proof, root = snap["t"].prove(9), snap.root()
        assert bits(lt.verify_proof(proof, root=root)["v"]) == bits(wanted[9])
        assert db.stats()["tables"]["t"]["file_bytes"] < 0.27 * x.nbytes
    with lt.open(tmp_path / "a.lsm") as db:
        assert bits(lt.schema.column_numpy(db["t"].to_arrow().column("v"))) == bits(wanted) and db.verify()
    with pytest.raises(lt.LsmTensorError, match="dimensions"), lt.open(tmp_path / "b.lsm") as db:
        db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8,)), quant=quantizer, keep_full=False)], "id"))
    damaged = bytearray(quantizer.saved())
    damaged[-1] ^= 1
    with pytest.raises(lt.LsmTensorError), lt.open(tmp_path / "c.lsm") as db:
        db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (96,)), quant=bytes(damaged), keep_full=False)], "id"))


def test_search_sees_what_codes_stand_for(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 32)).astype(np.float32)
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (32,)), quant="int8", keep_full=False)], "id")
    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig().with_set("index.min_rows=100")) as db:
        table = db.create_table("t", schema, indexes={"v": "hnsw(m=8)"})
        table.upsert({"id": np.arange(500), "v": x})
        before = table.search(x[5], k=5)
        db.compact()
        assert table.search(x[5], k=5, ef=400).equals(before)
        seen = table.get(5)["v"]
        distance = before.column("_distance")[0].as_py()
        assert abs(distance - np.sqrt(((seen - x[5]) ** 2).sum())) < 1e-5 or abs(distance - ((seen - x[5]) ** 2).sum()) < 1e-5 or distance < 1e-4


def test_quantizers_that_columns_do_not_take(tmp_path):
    for spec, kind, keep, words in (
        ("int9", lt.tensor("float32", (4,)), True, "int8"), (lt.quant.create("int8", 4), lt.tensor("float32", (4,)), True, "keep_full=False"), ("pq(m=2)", lt.tensor("float32", (4,)), False, "train it first"),
        ("int8(affine=True)", lt.tensor("float32", (4,)), False, "same codes again"), ("rabitq(bits=4)", lt.tensor("float32", (4,)), False, "same codes again"), ("opq(m=2)", lt.tensor("float32", (4,)), False, "same codes again"), ("int8", lt.tensor("float16", (4,)), False, "float32 tensors"),
        ("int9", lt.tensor("float32", (4,)), False, "did you mean"),
    ):  # fmt: skip
        with lt.open(tmp_path / "a.lsm") as db, pytest.raises(lt.LsmTensorError, match=words):
            db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", kind, quant=spec, keep_full=keep)], "id"))


def test_codes_beside_full_values_are_learned_anew_by_merges(tmp_path):
    rng = np.random.default_rng(0)
    column = lt.Column("v", lt.tensor("float32", (16,)), quant="scalar(bits=8)")
    with lt.open(tmp_path / "x.lsm", config=lt.RunConfig(background=False).with_set("index.min_rows=256")) as db:
        t = db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), column], "id"), indexes={"v": "flat(metric=cosine)"})
        rows = rng.normal(size=(1200, 16)).astype(np.float32)
        rows[600:] *= 2
        for at in (0, 600):
            t.upsert({"id": np.arange(at, at + 600), "v": rows[at : at + 600]})
            db.flush()
        plain = indexes.create("flat(metric=cosine)", dim=16)
        plain.add(rows)
        truth = plain.search(rows[:30], 5)[0]
        grids = []
        for _ in range(2):
            found = t.search(rows[:30], column="v", k=5)
            assert np.array_equal(np.asarray(found["id"]).reshape(30, 5), truth)
            assert "walk v_flat" in str(t.search(rows[0], column="v", k=5, explain=True))
            learned = [container.unpack(path.read_bytes(), where="x")[1]["quantizer"] for path in (tmp_path / "x.lsm" / "sst").glob("*.flat")]
            grids.append([lt.quant.load(data.tobytes())._high.max() for data in learned])
            db.compact()
        assert len(grids[0]) == 2 and len(grids[1]) == 1 and grids[1][0] == max(grids[0])
        np.testing.assert_array_equal(t.get(7)["v"], rows[7])
        assert t.schema.field("v").quant == "scalar(bits=8)" and t.schema.field("v").keep_full
        with pytest.raises(lt.InvalidArgumentError, match="create_index"):
            t.add_column(lt.Column("w", lt.tensor("float32", (16,)), quant="int8"))
