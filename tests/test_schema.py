"""Rows in and out: every type round trips, nothing changes silently, bad rows are refused by name."""

from __future__ import annotations

import datetime as dt
import pickle
import time
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lsmtensor as lt
from lsmtensor.convert_tensors import column_numpy
from lsmtensor.dtypes import DTYPES, numpy_dtype, of_arrow
from lsmtensor.errors import InvalidArgumentError, SchemaError, UnknownNameError
from lsmtensor.schema import Column, Schema


def schema_of(kind, **more) -> Schema:
    return Schema([Column("id", pa.int64()), Column("v", kind, **more)], "id")


def batch_of(kind, values, **more) -> pa.RecordBatch:
    n = values.shape[0] if hasattr(values, "shape") else len(values)
    return schema_of(kind, **more).batch({"id": np.arange(n), "v": values})


def refused(kind, values, match: str, **more) -> None:
    with pytest.raises(SchemaError, match=match):
        batch_of(kind, values, **more)


def bits(shape):
    return hnp.arrays(np.uint8, shape)


@st.composite
def tensors(draw, rows: int = 3):
    """(dtype, values of any bits but other than 0 and 1 for bool)."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    seen = numpy_dtype(dtype)
    if dtype == "bool":
        return dtype, shape, draw(hnp.arrays(bool, (rows, *shape)))
    raw = draw(bits((rows, *shape[:-1], shape[-1] * seen.itemsize)))
    return dtype, shape, raw.view(seen)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# -- round trips -------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(tensors())
def test_tensors_of_every_dtype_round_trip(case):
    dtype, shape, values = case
    schema = schema_of(lt.tensor(dtype, shape))
    batch = schema.batch({"id": [0, 1, 2], "v": values})
    batch.validate(full=True)
    assert same(column_numpy(batch.column("v")), values)
    assert same(column_numpy(batch.slice(1, 2).column("v")), values[1:])
    assert all(same(schema.row(batch, i)["v"], values[i]) for i in range(3))
    with_null = schema.batch([{"id": 0, "v": values[0]}, {"id": 1, "v": None}, {"id": 2, "v": values[2]}])
    assert schema.row(with_null, 1)["v"] is None and same(schema.row(with_null, 2)["v"], values[2])
    assert same(column_numpy(schema.batch(batch).column("v")), values)
    assert schema.row(schema.batch(with_null), 1)["v"] is None
    back = through_ipc(batch)  # compared as bytes: to Arrow, NaN differs from itself
    assert same(column_numpy(back.column("v")), values) and back.schema == schema.arrow


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ragged_tensors_of_every_dtype_round_trip(data):
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    seen, ndim = numpy_dtype(dtype), data.draw(st.integers(1, 3))
    values: list[np.ndarray | None] = []
    for _ in range(data.draw(st.integers(0, 4))):
        shape = tuple(data.draw(st.lists(st.integers(0, 3), min_size=ndim, max_size=ndim)))
        values.append(data.draw(st.none() | bits((*shape, seen.itemsize)).map(lambda b, s=shape: (b & 1).view(seen).reshape(s))))
    schema = schema_of(lt.ragged(dtype, ndim))
    batch = schema.batch({"id": np.arange(len(values)), "v": values})
    batch.validate(full=True)
    for i, value in enumerate(values):
        out = schema.row(batch, i)["v"]
        assert out is None if value is None else same(out, value)
    assert schema.batch(batch).equals(batch) and through_ipc(batch).equals(batch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.dictionaries(st.integers(0, 49), st.integers(-9, 9), max_size=5), max_size=4))
def test_sparse_vectors_round_trip(rows):
    schema = schema_of(lt.sparse("float32", 50))
    values = [None if r is None else {"indices": sorted(r), "values": [r[i] for i in sorted(r)]} for r in rows]
    batch = schema.batch({"id": np.arange(len(rows)), "v": values})
    for i, value in enumerate(values):
        out = schema.row(batch, i)["v"]
        assert out is None if value is None else {n: a.tolist() for n, a in out.items()} == value
    assert schema.batch(batch).equals(batch) and schema.batch(batch.slice(1)).equals(batch.slice(1)) and through_ipc(batch).equals(batch)


SCALARS = [
    (pa.bool_(), [True, None]), (pa.int8(), [-128, 127]), (pa.uint64(), [2**64 - 1, 0]), (pa.float16(), [0.5, None]),
    (pa.float32(), [1.5, float("inf")]), (pa.float64(), [0.1, None]), (pa.string(), ["é", ""]), (pa.large_string(), ["a", None]),
    (pa.binary(), [b"\x00", None]), (pa.binary(2), [b"ab", None]), (pa.decimal128(9, 2), [Decimal("1.25"), None]),
    (pa.date32(), [dt.date(2020, 2, 29), None]), (pa.time64("us"), [dt.time(1, 2, 3, 4), None]),
    (pa.timestamp("us"), [dt.datetime(1969, 1, 1, 0, 0, 0, 1), None]), (pa.duration("ms"), [dt.timedelta(milliseconds=-5), None]),
    (pa.timestamp("s", "UTC"), [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), None]),
    (pa.list_(pa.int16()), [[1, None], []]), (pa.struct([("a", pa.list_(pa.string())), ("b", pa.int8())]), [{"a": ["x"], "b": 1}, None]),
    (lt.json(), ['{"a": [1, null]}', None]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), SCALARS, ids=lambda v: str(v)[:24])
def test_scalars_lists_and_structs_round_trip(kind, values):
    schema = schema_of(kind)
    batch = schema.batch([{"id": i, "v": v} for i, v in enumerate(values)])
    assert [schema.row(batch, i)["v"] for i in range(len(values))] == values
    assert schema.batch(batch).equals(batch) and through_ipc(batch).equals(batch)


def through_ipc(batch: pa.RecordBatch) -> pa.RecordBatch:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    table = pa.ipc.open_stream(sink.getvalue()).read_all().combine_chunks()
    return table.to_batches()[0] if table.num_rows else batch


# -- containers --------------------------------------------------------------------------------------


def test_every_container_gives_the_same_batch():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    schema = Schema([Column("id", pa.int64()), Column("t", pa.string()), Column("e", lt.tensor("float32", (2,)))], "id")
    columns = {"id": [1, 2], "t": ["a", None], "e": np.array([[1, 2], [3, 4]], np.float32)}
    table = pa.table({"id": [1, 2], "t": ["a", None], "e": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32()))})
    wanted = schema.batch(columns)
    assert wanted.schema == schema.arrow
    frame = pd.DataFrame({"id": [1, 2], "t": ["a", None], "e": [np.array([1, 2], "f4"), np.array([3, 4], "f4")]})
    ways = {
        "rows": [{"id": 1, "t": "a", "e": [1, 2]}, {"e": columns["e"][1], "id": 2}],
        "table": table, "batch": table.to_batches()[0], "reader": table.to_reader(), "batches": (b for b in table.to_batches(1)),
        "chunked": pa.concat_tables([table[:1], table[1:]]), "pandas": frame, "series": {n: frame[n] for n in frame},
        "polars": pl.from_arrow(table), "polars array": pl.from_arrow(table).with_columns(pl.col("e").list.to_array(2)),
        "objects": {"id": np.array([1, 2], object), "t": np.array(["a", None], object), "e": frame["e"].to_numpy()},
        "dictionary": table.set_column(1, "t", table["t"].dictionary_encode()), "generator": (r for r in table.to_pylist()),
        "fortran": {**columns, "e": np.asfortranarray(columns["e"])}, "big-endian": {**columns, "e": columns["e"].astype(">f4")},
        "fixed list": {**columns, "e": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))},
    }  # fmt: skip
    for name, rows in ways.items():
        assert schema.batch(rows).equals(wanted), name


def test_nested_and_null_arrow_lists_become_tensors():
    kind = lt.tensor("float32", (2, 2))
    nested = pa.array([None, [[1, 2], [3, 4]], None], pa.list_(pa.list_(pa.float32())))
    batch = batch_of(kind, nested)
    assert batch.column("v").null_count == 2
    assert column_numpy(batch.slice(1, 1).column("v")).tolist() == [[[1, 2], [3, 4]]]
    under_null = pa.ExtensionArray.from_storage(kind.arrow_type, pa.array([None, [1, 2, 3, 4]], pa.list_(pa.float32(), 4)))
    assert batch_of(kind, under_null).column("v").null_count == 1
    assert batch_of(kind, pa.nulls(2)).column("v").null_count == 2


def test_scipy_matrices_are_taken_and_left_as_they_were():
    sp = pytest.importorskip("scipy.sparse")
    messy = sp.csr_matrix((np.array([1, 2, 3], np.float32), np.array([5, 1, 5]), np.array([0, 3, 3])), shape=(2, 9))
    messy.has_canonical_format = False
    schema = schema_of(lt.sparse("float32", 9))
    batch = schema.batch({"id": [0, 1], "v": messy})
    row = schema.row(batch, 0)["v"]
    assert (row["indices"].tolist(), row["values"].tolist()) == ([1, 5], [2, 4])
    assert messy.indices.tolist() == [5, 1, 5]
    refused(lt.sparse("float32", 8), messy, "matrix of 9 columns; wanted 8")
    assert schema.batch({"id": [0, 1], "v": messy.tocoo()}).equals(batch)


def test_matching_numpy_is_not_copied_and_costs_under_a_millisecond():
    x = np.zeros((20000, 768), np.float32)
    schema = Schema([Column("id", pa.int64()), Column("e", lt.tensor("float32", (768,))), Column("s", pa.float64())], "id")
    rows = {"id": np.arange(len(x)), "e": x, "s": np.zeros(len(x))}
    batch = schema.batch(rows)
    assert batch.column("e").storage.values.buffers()[1].address == x.ctypes.data
    assert batch.column("s").buffers()[1].address == rows["s"].ctypes.data
    assert np.shares_memory(column_numpy(batch.column("e")), x)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        schema.batch(rows)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.003


# -- what is refused ---------------------------------------------------------------------------------


def test_values_that_would_change_are_refused_by_row():
    f32, i8 = lt.tensor("float32", (1,)), lt.tensor("int8", (1,))
    refused(f32, np.array([[1.0], [0.1]]), r"'v', row 1: given 0.1 \(float64\), which float32 does not hold")
    refused(f32, pa.array([[1.0], [0.1]]), "row 1: given 0.1")
    refused(f32, [[1.0], np.array([0.1])], "row 1: given 0.1")
    refused(f32, [[1.0], [1e300]], "row 1: given 1e\\+300")
    refused(i8, np.array([[1], [300]]), "row 1: given 300")
    refused(i8, [[1], [1.5]], "row 1: given float64; wanted int8")
    refused(lt.tensor("uint64", 1), np.array([[-1]]), "given -1")
    refused(lt.tensor("int64", 1), np.array([[2**64 - 1]], np.uint64), "given 18446744073709551615")
    refused(lt.tensor("float64", 1), np.array([[2**63 - 1]]), "given 9223372036854775807")
    refused(lt.tensor("float32", 1), np.array([[2**64 - 1]], np.uint64), "given 18446744073709551615")
    refused(lt.tensor("bool", 1), np.array([[2]]), "given int64; wanted bool")
    refused(f32, np.array([[1j]]), "given complex128; wanted float32")
    refused(lt.ragged("float32", 1), [np.array([0.1])], "row 0: given 0.1")
    refused(lt.sparse("float32", 9), [{"indices": [1], "values": np.array([0.1])}], "row 0, values: given 0.1")
    assert column_numpy(batch_of(f32, np.array([[0.5], [np.nan]])).column("v"))[0] == 0.5
    assert column_numpy(batch_of(f32, [[0.1]]).column("v"))[0] == np.float32(0.1)


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        (pa.float32(), np.array([0.5, 0.1]), "row 1: given 0.1"), (pa.float32(), pa.array([None, 0.1]), "row 1: given 0.1"),
        (pa.float32(), [1e300], "beyond the largest"), (pa.int64(), np.array([1.0]), "given float64; wanted int64"),
        (pa.int64(), [1, 1.5], "row 1: given 1.5"), (pa.int64(), [Decimal("1.5")], "it would become 1"),
        (pa.int8(), np.array([1, 128]), "row 1: given 128"), (pa.int8(), [1, 128], "row 1: given 128"), (pa.int64(), ["1"], "row 0: given '1'"),
        (pa.int64(), pa.array(["1"]), "given string; wanted int64"), (pa.string(), pa.array([1]), "given int64; wanted string"),
        (pa.int64(), [True], "row 0: given True"), (pa.int64(), np.array([True]), "given bool"), (pa.string(), [1], "row 0: given 1"),
        (pa.string(), ["a", "\ud800"], "row 1"), (pa.float64(), np.zeros((2, 2)), "given an array of shape"),
        (pa.timestamp("s"), [dt.datetime(2020, 1, 1, 0, 0, 0, 5)], "it would become"),
        (pa.timestamp("us"), [dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], "it would become"),
        (pa.timestamp("us"), np.array(["2020-01-01T00:00:00.000000001"], "M8[ns]"), "wanted timestamp"),
        (pa.date32(), [dt.datetime(2020, 1, 1, 5)], "it would become"), (pa.duration("s"), [dt.timedelta(microseconds=1)], "it would become"),
        (pa.timestamp("us"), np.array([1]), "given int64"), (pa.binary(2), [b"abc"], "row 0"),
        (pa.list_(pa.int64()), [[1], [2, 1.5]], "row 1: given"), (pa.list_(pa.float32()), pa.array([[0.1]]), "given list"),
        (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 1, "z": 2}], "row 1.*no field 'z'"),
        (pa.struct([("a", pa.int64())]), pa.array([{"a": 1, "z": 2}]), "given struct"),
        (lt.json(), ["{}", "{"], "row 1: given '{'.*not JSON"), (lt.json(), ["NaN"], "not JSON"), (lt.json(), ["[" * 99999], "not JSON"),
        (pa.string(), "abc", "wanted an array or list"), (pa.int64(), {"a": 1}, "wanted an array or list"),
        (lt.tensor("float32", 2), np.zeros((2, 3), "f4"), r"given shape \(2, 3\); wanted \(rows, 2\)"),
        (lt.tensor("float32", 2), [[1, 2], [1]], "row 1: given shape"), (lt.tensor("float32", 2), [[1, [2]]], "row 0"),
        (lt.tensor("float32", 2), [["a", "b"]], "row 0: given"), (lt.tensor("float32", 2), pa.array([[1.0, None]]), "row 0: given a null within"),
        (lt.tensor("float32", 2), pa.array([None, [1.0]]), "row 1: given a list of 1"), (lt.tensor("float32", 2), pa.array([1.0]), "given double"),
        (lt.tensor("float32", 2), np.ma.masked_array(np.zeros((1, 2), "f4"), True), "masked"),
        (lt.tensor("float32", (2, 3)), pa.array([[[1.0, 2], [3, 4], [5, 6]]]), "row 0: given a list of 3 values"),
        (lt.ragged("uint8", 2), [np.zeros(3, "u1")], "row 0: given 1 dimensions"), (lt.ragged("uint8", 2), [["a"]], "row 0: given"),
        (lt.sparse("float32", 9), [{"indices": [2, 1], "values": [1, 2]}], "row 0: given index 1"),
        (lt.sparse("float32", 9), [None, {"indices": [9], "values": [1]}], "row 1: given index 9"),
        (lt.sparse("float32", 9), [{"indices": [-1], "values": [1]}], "given index -1"),
        (lt.sparse("float32", 9), [{"indices": [1], "values": [float("nan")]}], "value nan"),
        (lt.sparse("float32", 9), [{"indices": [1], "values": [1, 2]}], "row 0"), (lt.sparse("float32", 9), [3], "row 0: given 3"),
        (lt.sparse("float32", 9), [{"indices": [1.5], "values": [1]}], "row 0, indices"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_column_and_row(kind, values, match):
    refused(kind, values, match)
    with pytest.raises(SchemaError, match="'v'"):
        batch_of(kind, values)


def test_malformed_arrow_tensors_are_refused():
    def made(kind, rows):
        return pa.ExtensionArray.from_storage(kind.arrow_type, pa.array(rows, kind.arrow_type.storage_type))

    ragged, sparse = lt.ragged("uint8", 2), lt.sparse("float32", 9)
    refused(ragged, made(ragged, [{"data": [1, 2], "shape": [1, 2]}, {"data": [1, 2], "shape": [2, 2]}]), "row 1: given 2 values")
    refused(ragged, made(ragged, [{"data": [1], "shape": [-1, -1]}]), "row 0")
    refused(ragged, made(ragged, [{"data": [1, None], "shape": [1, 2]}]), "null within")
    refused(sparse, made(sparse, [None, {"indices": [3, 3], "values": [1, 2]}]), "row 1: given index 3")
    refused(sparse, made(sparse, [{"indices": [3], "values": []}]), "row 0: given 1 indices")
    other = pa.array([[1, 2, 3, 4]], pa.list_(pa.float32(), 4))
    for shape, permutation in (([4, 1], None), ([2, 2], [1, 0])):
        foreign = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), shape, permutation=permutation), other)
        refused(lt.tensor("float32", (2, 2)), foreign, "given")


def test_bad_rows_are_refused():
    schema = Schema([Column("id", pa.int64()), Column("text", pa.string()), Column("n", pa.int8(), nullable=False)], "id")
    for rows, match in [
        ({"id": [1], "txet": ["a"]}, "no column named 'txet'; did you mean 'text'"), ({"text": ["a"]}, "lack the key column 'id'"),
        ({"id": [1], "text": ["a"]}, "lack the column 'n', which is never null"), ({"id": [1, None], "n": [1, 2]}, "'id', row 1: given null"),
        ([{"id": 1, "n": 1}, {"id": 2}], "'n', row 1: given null"), ({"id": [1], "n": [1, 2]}, "'n' has 2 rows, column 'id' has 1"),
        ([], "no rows given"), (7, "rows of type int"), ("abc", "rows of type str"), ([{"id": 1}, 7], "row 1 is a int"), ({}, "key column"),
        (pa.table([[1], [2]], names=["id", "id"]), "'id' is there twice"), ({"id": 7}, "wanted an array or list"),
    ]:  # fmt: skip
        with pytest.raises(SchemaError, match=match):
            schema.batch(rows)


def test_partial_batches_and_missing_columns():
    schema = Schema([Column("id", pa.int64()), Column("e", lt.tensor("bf16", 2)), Column("s", lt.sparse("float32", 3))], "id")
    assert schema.batch({"id": [1]}).column("e").null_count == 1
    part = schema.batch({"e": [[1, 2]], "id": [1]}, partial=True)
    assert part.schema.names == ["id", "e"]


def test_keys():
    one = schema_of(pa.string())
    for keys in (7, [7], (7,), np.array([7]), np.int64(7), np.array(7), pa.array([7]), pa.chunked_array([[7]]), pa.table({"id": [7]})):
        assert one.keys(keys).to_pylist() == [{"id": 7}]
    assert one.keys([]).num_rows == 0
    two = Schema([Column("a", pa.string()), Column("b", pa.int64())], ["b", "a"])
    assert two.keys((1, "x")).to_pylist() == two.keys([(1, "x")]).to_pylist() == [{"b": 1, "a": "x"}]
    for keys in ([1], [(1,)], pa.table({"a": ["x"]}), [(1, None)], ("x", 1)):
        with pytest.raises(SchemaError):
            two.keys(keys)


# -- schemas as values -------------------------------------------------------------------------------


def test_schemas_survive_dicts_and_pickle_and_tell_what_they_are():
    import json

    kinds = {f"c{i}": k for i, (k, _) in enumerate(SCALARS)}
    kinds |= {"r": lt.ragged("uint8", 3), "s": lt.sparse("float32", 99), "f": pa.fixed_shape_tensor(pa.int8(), [2, 3])}
    columns = [Column("id", pa.int64()), *(Column(n, k) for n, k in kinds.items())]
    columns.append(Column("q", lt.tensor("float32", 8), codec="shuffle+zstd(level=3)", quant="int8", keep_full=False))
    schema = Schema(columns, "id")
    for other in (Schema.from_dict(json.loads(json.dumps(schema.to_dict()))), pickle.loads(pickle.dumps(schema))):
        assert other == schema and hash(other) == hash(schema) and other.arrow == schema.arrow
    assert schema.field("f").type == lt.tensor("int8", (2, 3))
    text = repr(schema)
    assert "primary key id" in text and "q: tensor(float32, (8,)), codec=shuffle+zstd(level=3), quant=int8, codes only" in text
    assert schema != schema_of(pa.int8()) and all(of_arrow(f.type) == c.type or c.type == lt.json() for f, c in zip(schema.arrow, schema.columns, strict=True))


def test_no_module_hides_a_public_name():
    import pkgutil

    homes = {m.name for m in pkgutil.iter_modules(lt.__path__)} - {"codecs", "indexes", "kernels", "quant"}
    assert not homes & set(lt.__all__)


def test_bad_schemas_are_refused():
    for make, match in [
        (lambda: Column("_x", pa.int8()), "does not begin with '_'"), (lambda: Column("", pa.int8()), "non-empty"),
        (lambda: Column("x", int), "give an Arrow type"), (lambda: Column("x", pa.dictionary(pa.int8(), pa.string())), "'x'.*value type"),
        (lambda: Column("x", pa.list_(pa.map_(pa.int8(), pa.int8()))), "not stored"), (lambda: Column("x", pa.uuid()), "storage type"),
        (lambda: Column("x", pa.fixed_shape_tensor(pa.int8(), [2, 3], permutation=[1, 0])), "permuted"),
        (lambda: Column("x", pa.string(), quant="int8"), "only fixed-shape tensors"), (lambda: Column("x", pa.string(), codec="a(("), "'x'"),
        (lambda: Column("x", lt.tensor("float32", 3), keep_full=False), "without quant"), (lambda: lt.tensor("float32", ()), "at least one"),
        (lambda: lt.tensor("float32", (2, 0)), "1 or more"), (lambda: lt.ragged("uint8", 0), "1 to 32"), (lambda: lt.sparse("float32", 0), "dim"),
        (lambda: lt.sparse("f32", (3, 0)), "sides"), (lambda: Schema([Column("a", pa.int8())] * 2, "a"), "twice"),
        (lambda: Schema([Column("a", pa.int8())], "b"), "not a column"), (lambda: Schema([Column("a", pa.int8())], []), "one or more"),
        (lambda: Schema([Column("a", lt.json())], "a"), "plain scalars"),
    ]:  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=match):
            make()
    with pytest.raises(UnknownNameError, match="did you mean 'float32'"):
        lt.tensor("flaot32", 3)


def test_extension_metadata_of_a_foreign_file_is_not_trusted():
    kind = lt.tensor("bfloat16", (2,)).arrow_type
    with pytest.raises(InvalidArgumentError, match="its metadata wants"):
        type(kind).__arrow_ext_deserialize__(kind.storage_type, b'{"dtype": "bfloat16", "shape": [1000000]}')


def test_without_ml_dtypes_bits_are_shown(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    batch = batch_of(lt.tensor("bfloat16", 2), np.array([[16256, 0]], np.uint16))
    assert column_numpy(batch.column("v")).tolist() == [[16256, 0]]
    refused(lt.tensor("bfloat16", 2), np.ones((1, 2), np.float32), "ml_dtypes")
