"""Column values in and out: numpy, lists and Arrow to one Arrow array of the column's type, and rows back."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .convert_sparse import sparse, sparse_row
from .convert_tensors import column_numpy, fit, fixed, ragged, short
from .dtypes import JsonType, LogicalType, RaggedType, SparseType, TensorType, numpy_dtype
from .errors import SchemaError

_REFUSED = (pa.ArrowException, TypeError, ValueError, OverflowError)


def to_array(values: Any, column: str, kind: LogicalType | pa.DataType) -> pa.Array:
    """One Arrow array of the column's type. Zero copy for C-contiguous numpy of the right dtype.

    Raises `SchemaError` naming column, row, what was given and what is wanted.
    """
    values = _array_of(values, column)
    if isinstance(kind, TensorType):
        return fixed(values, column, kind)
    if isinstance(kind, RaggedType):
        return ragged(values, column, kind)
    if isinstance(kind, SparseType):
        return sparse(values, column, kind)
    array = _plain(values, column, kind.arrow_type if isinstance(kind, JsonType) else kind)
    if isinstance(kind, JsonType):
        _check_json(array, column)
    return array


def _array_of(values: Any, column: str) -> Any:
    """Arrow and numpy containers as one array; lists and scipy matrices as they are."""
    if isinstance(values, (list, tuple, np.ndarray, pa.Array)) or hasattr(values, "tocsr"):
        return values
    if isinstance(values, (str, bytes, Mapping)) or not (hasattr(values, "__iter__") or hasattr(values, "__array__")):
        raise SchemaError(f"column {column!r}: given {short(values)}; wanted an array or list with one value a row")
    try:
        if not isinstance(values, pa.ChunkedArray) and hasattr(values, "__arrow_c_stream__"):
            values = pa.chunked_array(values)  # pandas and polars series
        if isinstance(values, pa.ChunkedArray):
            if values.num_chunks == 1:
                return values.chunk(0)
            storage = values.type.storage_type if isinstance(values.type, pa.BaseExtensionType) else values.type
            return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], storage)
        return np.asarray(values) if hasattr(values, "__array__") else list(values)
    except (*_REFUSED, RuntimeError) as why:
        raise SchemaError(f"column {column!r}: {why}; wanted one array or list with one value a row") from why


# -- plain Arrow types -------------------------------------------------------------------------------


def _plain(values: Any, column: str, wanted: pa.DataType) -> pa.Array:
    mask = None
    if isinstance(values, np.ndarray):
        if values.ndim != 1 and not pa.types.is_nested(wanted):
            raise SchemaError(f"column {column!r}: given an array of shape {values.shape}; wanted one value a row of type {wanted}")
        if isinstance(values, np.ma.MaskedArray):
            mask, values = np.ma.getmaskarray(values), values.data
        if values.ndim == 1 and values.dtype.kind in "biufMmSU":
            values = _numbers(values, column, wanted)
            try:
                values = pa.array(values, mask=mask)
            except _REFUSED as why:
                raise SchemaError(f"column {column!r}: given {values.dtype}: {why}; wanted {wanted}") from why
        else:
            values = values.tolist()
    if isinstance(values, pa.Array):
        return values if values.type == wanted else _cast(values, column, wanted)
    return _python(values, column, wanted)


def _numbers(values: np.ndarray, column: str, wanted: pa.DataType) -> np.ndarray:
    """Numbers in the column's own numpy dtype, each of them unchanged; the rest as it is, for Arrow to cast."""
    t = pa.types
    if values.dtype.kind in "iuf" and (t.is_integer(wanted) or t.is_floating(wanted)):
        return fit(values, np.dtype(wanted.to_pandas_dtype()).name, lambda i: f"column {column!r}, row {i}")
    return values


def _cast(array: pa.Array, column: str, wanted: pa.DataType) -> pa.Array:
    given = array.type
    if pa.types.is_dictionary(given):
        array = array.dictionary_decode()
    if not _castable(array.type, wanted):
        raise SchemaError(f"column {column!r}: given {given}; wanted {wanted}")
    try:
        made = array.cast(wanted, safe=True)
    except _REFUSED as why:
        raise SchemaError(f"column {column!r}: given {given}: {why}; wanted {wanted}") from why
    if pa.types.is_floating(array.type) and array.type.bit_width > wanted.bit_width:
        # Arrow rounds floats without a word
        fit(array.to_numpy(zero_copy_only=False), np.dtype(wanted.to_pandas_dtype()).name, lambda i: f"column {column!r}, row {i}")
    return made


def _castable(given: pa.DataType, wanted: pa.DataType, *, inside: bool = False) -> bool:
    """Whether a cast keeps the meaning (that it keeps the values is checked by the cast)."""
    t = pa.types
    if given == wanted or t.is_null(given):
        return True
    if t.is_integer(given):
        return bool(t.is_integer(wanted) or t.is_floating(wanted) or t.is_decimal(wanted))
    if t.is_floating(given):
        return bool(t.is_floating(wanted)) and (not inside or given.bit_width <= wanted.bit_width)
    if t.is_struct(given) and t.is_struct(wanted):
        fields = {given.field(i).name: given.field(i).type for i in range(given.num_fields)}
        mine = {wanted.field(i).name: wanted.field(i).type for i in range(wanted.num_fields)}
        return fields.keys() == mine.keys() and all(_castable(fields[n], mine[n], inside=True) for n in mine)
    if any(same(given) and same(wanted) for same in (_text, _bytes, _lists)):
        return not _lists(given) or _castable(given.value_type, wanted.value_type, inside=True)
    if t.is_timestamp(given) and t.is_timestamp(wanted):
        return (given.tz is None) == (wanted.tz is None)
    return any(same(given) and same(wanted) for same in (t.is_date, t.is_time, t.is_duration, t.is_decimal))


def _text(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind))


def _bytes(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind))


def _lists(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _python(values: Sequence[Any], column: str, wanted: pa.DataType) -> pa.Array:
    """Python values; numbers are rounded to the column's precision, nothing else changes."""
    if pa.types.is_integer(wanted):
        # Arrow would cut fractions off, and make 1 of True, without a word
        for row, value in enumerate(values):
            if isinstance(value, (float, np.floating, bool, np.bool_)):
                raise SchemaError(f"column {column!r}, row {row}: given {short(value)}; wanted {wanted}")
    try:
        array = pa.array(values, wanted)
    except _REFUSED as why:
        for row, value in enumerate(values):
            try:
                pa.array([value], wanted)
            except _REFUSED as here:
                raise SchemaError(f"column {column!r}, row {row}: given {short(value)}; wanted {wanted} ({here})") from here
        raise SchemaError(f"column {column!r}: {why}; wanted {wanted}") from why
    if isinstance(array, pa.ChunkedArray):
        raise SchemaError(f"column {column!r}: given more than 2 GiB of values in one batch; write fewer rows at a time, or make it a large type")
    for row in _doubtful(values, array):
        wrong = _changed(values[row], array[row].as_py(), wanted)
        if wrong is not None:
            raise SchemaError(f"column {column!r}, row {row}: given {short(values[row])}: {wrong}; wanted {wanted}")
    return array


def _doubtful(values: Sequence[Any], array: pa.Array) -> Sequence[int]:
    """Rows whose value Arrow may have changed without a word: it cuts fractions off and drops unknown fields."""
    kind, t = array.type, pa.types
    if t.is_integer(kind):
        return [] if set(map(type, values)) <= {int, type(None)} else range(len(values))
    if t.is_floating(kind) and kind.bit_width < 64:
        rows: list[int] = np.flatnonzero(np.isinf(array.to_numpy(zero_copy_only=False))).tolist()
        return rows
    return range(len(values)) if _may_change(kind) else []


def _may_change(kind: pa.DataType) -> bool:
    t = pa.types
    if _lists(kind):
        return _may_change(kind.value_type)
    if t.is_temporal(kind):
        return getattr(kind, "unit", "s") != "ns"  # Python's times fit in nanoseconds
    return bool(t.is_struct(kind) or t.is_integer(kind) or (t.is_floating(kind) and kind.bit_width < 64))


def _changed(value: Any, made: Any, kind: pa.DataType) -> str | None:
    """What is wrong with what Arrow made of a Python value, or None. Floats may be rounded, nothing else may change."""
    if value is None or not _may_change(kind):
        return None
    t = pa.types
    if t.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        items = dict(value)
        extra = [n for n in items if n not in fields]
        return f"no field {extra[0]!r}" if extra else _first(_changed(v, made[n], fields[n]) for n, v in items.items())
    if _lists(kind):
        return _first(_changed(v, m, kind.value_type) for v, m in zip(value, made, strict=True))
    if t.is_floating(kind):
        return f"beyond the largest {kind}" if abs(made) == float("inf") != abs(value) else None
    if t.is_temporal(kind):
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime) and isinstance(made, datetime.datetime):
            made = made.replace(tzinfo=None)
            value = datetime.datetime.combine(value, datetime.time())
        return None if isinstance(value, int) or made == value else f"it would become {made}"
    return None if made == value else f"it would become {made}"


def _first(found: Iterable[str | None]) -> str | None:
    return next((f for f in found if f is not None), None)


def _check_json(array: pa.Array, column: str) -> None:
    for row, text in enumerate(array.to_pylist()):
        if text is not None:
            try:
                json.loads(text, parse_constant=_no_constant)
            except (ValueError, RecursionError) as why:
                raise SchemaError(f"column {column!r}, row {row}: given {short(text)}, which is not JSON: {why}") from why


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is JavaScript")


# -- rows out ----------------------------------------------------------------------------------------


def row_value(array: pa.Array, row: int, kind: LogicalType | pa.DataType) -> Any:
    """One value as Python: tensors as numpy arrays of their own memory, sparse as a dict, the rest as Arrow says."""
    if not array[row].is_valid:
        return None
    if isinstance(kind, TensorType):
        return column_numpy(array.slice(row, 1))[0].copy()
    if isinstance(kind, RaggedType):
        value = array.storage[row]
        flat = np.asarray(value["data"].values)
        return flat.view(numpy_dtype(kind.dtype)).reshape(value["shape"].as_py()).copy()
    if isinstance(kind, SparseType):
        return sparse_row(array, row, kind)
    return python_value(array[row])


def python_value(scalar: Any) -> Any:
    """What ``as_py`` gives; where Python's own types lack the nanoseconds (and pandas is not there), numpy's."""
    try:
        return scalar.as_py()
    except ValueError:
        return pa.array([scalar], scalar.type).to_numpy(zero_copy_only=False)[0]
