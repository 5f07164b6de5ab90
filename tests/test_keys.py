"""Keys: encoded order is the user's order, and every key comes back."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsmtensor.errors import CorruptionError, SchemaError
from lsmtensor.keys import KeyCodec, physical_schema
from lsmtensor.schema import Column, Schema

FLOATS = st.floats(allow_nan=False).map(lambda v: v + 0.0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text("\x00\x01a", max_size=6)
VALUES = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(allow_nan=False, width=32).map(lambda v: v + 0.0),
    pa.float64(): FLOATS,
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.binary(): st.binary(max_size=6) | st.lists(st.sampled_from([0, 1, 255]), max_size=6).map(bytes),
    pa.large_binary(): st.binary(max_size=6),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.duration("us"): st.timedeltas(dt.timedelta(days=-9999), dt.timedelta(days=9999)),
    pa.time32("s"): st.integers(0, 86399).map(lambda s: dt.time(s // 3600, s // 60 % 60, s % 60)),
}


def codec(*types: pa.DataType) -> KeyCodec:
    columns = [Column(f"k{i}", t) for i, t in enumerate(types)]
    return KeyCodec(Schema([*columns, Column("v", pa.int8())], [c.name for c in columns]))


def batch_of(keys: list[tuple], types: tuple[pa.DataType, ...]) -> pa.RecordBatch:
    arrays = [pa.array([k[i] for k in keys], t) for i, t in enumerate(types)]
    return pa.RecordBatch.from_arrays(arrays, names=[f"k{i}" for i in range(len(types))])


@st.composite
def typed_keys(draw: st.DrawFn) -> tuple[tuple[pa.DataType, ...], list[tuple]]:
    types = tuple(draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3)))
    return types, draw(st.lists(st.tuples(*(VALUES[t] for t in types)), min_size=1, max_size=12))


@settings(max_examples=300, deadline=None)
@given(typed_keys())
def test_encoded_keys_sort_as_tuples_do_and_come_back(case):
    types, keys = case
    made = codec(*types)
    encoded = made.encode(batch_of(keys, types))
    assert encoded.type == (pa.int64() if made.kind == "int64" else pa.binary()) and encoded.null_count == 0
    plain = encoded.to_pylist()
    assert [keys[i] for i in sorted(range(len(keys)), key=lambda i: plain[i])] == sorted(keys)
    for i, a in enumerate(keys):
        assert all((a < b) == (plain[i] < plain[j]) and (a == b) == (plain[i] == plain[j]) for j, b in enumerate(keys))
    assert made.decode(encoded).to_pylist() == batch_of(keys, types).to_pylist()
    for key, one in zip(keys, plain, strict=True):
        user = key if len(types) > 1 else key[0]
        assert made.scalar(user) == one and made.key_of(one) == user


@settings(max_examples=100, deadline=None)
@given(typed_keys(), st.data())
def test_a_prefix_bound_stands_before_exactly_the_keys_that_do_not_precede_it(case, data):
    types, keys = case
    if len(types) == 1:
        return
    made = codec(*types)
    width = data.draw(st.integers(1, len(types) - 1))
    prefix = data.draw(st.sampled_from(keys))[:width]
    bound = made.bound(prefix)
    for key, one in zip(keys, made.encode(batch_of(keys, types)).to_pylist(), strict=True):
        assert (one >= bound) == (key[:width] >= prefix)


def test_encoded_bytes_are_these_for_ever():
    made = codec(pa.bool_(), pa.int16(), pa.float64(), pa.string(), pa.uint64())
    assert made.scalar((True, -1, 1.0, "a\x00b", 3)).hex() == "017fffffffffffffffbff00000000000006100ff6200000000000000000003"
    assert made.scalar((False, 0, -1.0, "", 0)).hex() == "008000000000000000400fffffffffffff00000000000000000000"
    assert codec(pa.float64()).scalar(-0.0) == codec(pa.float64()).scalar(0.0)


@pytest.mark.parametrize("kind", [pa.int64(), pa.timestamp("ns"), pa.string(), pa.binary()])
def test_one_plain_column_is_its_own_key_without_a_copy(kind):
    values = np.arange(1000) if kind == pa.int64() else [str(i).encode() for i in range(1000)]
    column = pa.array(np.arange(1000)).view(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)
    made = codec(kind)
    assert not made.stored
    for array in (column, column.slice(7, 11)):
        encoded = made.encode(pa.RecordBatch.from_arrays([array], names=["k0"]))
        assert encoded.buffers()[-1].address == array.buffers()[-1].address
        assert made.decode(encoded).column(0).equals(array)


def test_large_text_is_its_own_key():
    made = codec(pa.large_string())
    assert (made.kind, made.stored) == ("bytes", False)
    assert made.encode(pa.table({"k0": pa.array(["b", "a"], pa.large_string())})).to_pylist() == [b"b", b"a"]


def test_chunks_empty_batches_and_stored_keys():
    made = codec(pa.string(), pa.int64())
    table = pa.table({"k0": pa.chunked_array([["a"], ["b", "c"]]), "k1": pa.chunked_array([[1, 2], [3]])})
    encoded = made.encode(table)
    assert made.decode(encoded).to_pylist() == table.to_pylist()
    assert made.encode(table.slice(0, 0)).equals(pa.array([], pa.binary()))
    assert made.encode(pa.table({"_key": encoded})).equals(encoded)
    assert codec(pa.int64()).encode(pa.table({"k0": pa.chunked_array([], pa.int64())})).equals(pa.array([], pa.int64()))


def test_nanoseconds_survive():
    made = codec(pa.timestamp("ns"), pa.int8())
    keys = pa.RecordBatch.from_arrays([pa.array([1, 10**18 + 1]).view(pa.timestamp("ns")), pa.array([1, 2], pa.int8())], names=["k0", "k1"])
    assert made.decode(made.encode(keys)).column(0).equals(keys.column(0))


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (pa.int64(), "7"), (pa.int64(), None), (pa.int64(), True), (pa.int64(), 2**63), (pa.int8(), 128), (pa.int64(), 1.5),
        (pa.string(), 7), (pa.string(), b"x"), (pa.string(), "\ud800"), (pa.binary(), "x"), (pa.bool_(), 1), (pa.float64(), float("nan")),
        (pa.float64(), "x"), (pa.date32(), "today"), (pa.int64(), (1, 2)),
    ],
)  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(kind, bad):
    with pytest.raises(SchemaError, match="key"):
        codec(kind).scalar(bad)


def test_tuples_of_another_length_are_refused():
    made = codec(pa.string(), pa.int64())
    for bad in ("a", ("a",), ("a", 1, 2)):
        with pytest.raises(SchemaError, match="parts; wanted"):
            made.scalar(bad)
    with pytest.raises(SchemaError, match="one or more"):
        made.bound(())
    with pytest.raises(SchemaError, match="2 GiB|parts|wanted"):
        made.bound((1,))


def test_nan_keys_name_their_row():
    with pytest.raises(SchemaError, match="'k0', row 1: given NaN"):
        codec(pa.float32(), pa.int8()).encode(batch_of([(1.0, 1), (float("nan"), 2)], (pa.float32(), pa.int8())))


def test_types_without_an_order_are_refused():
    for kind in (pa.list_(pa.int8()), pa.decimal128(5, 2), pa.month_day_nano_interval()):
        with pytest.raises(SchemaError, match="cannot be in a primary key"):
            codec(kind)


@given(st.binary(max_size=40))
def test_damaged_encoded_keys_are_corruption(data):
    made = codec(pa.string(), pa.int64(), pa.bool_())
    try:
        key = made.key_of(data)
    except CorruptionError:
        return
    assert made.key_of(made.scalar(key)) == key


def test_physical_schema():
    plain = physical_schema(Schema([Column("id", pa.int64()), Column("v", pa.string(), nullable=False)], "id"))
    assert plain.names == ["id", "v", "_seq", "_op"]
    assert [f.nullable for f in plain] == [False, True, False, False]
    assert physical_schema(Schema([Column("a", pa.string()), Column("b", pa.int8())], ("b", "a"))).names == ["a", "b", "_key", "_seq", "_op"]
