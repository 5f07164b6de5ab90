"""Column values in and out: numpy, lists and Arrow to one Arrow array of the column's type, and rows back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from .arrowtake import one_chunk
from .dtypes import DTYPES, JsonType, LogicalType, RaggedType, SparseType, TensorType, numpy_dtype
from .errors import SchemaError


def to_array(values: Any, column: str, kind: LogicalType | pa.DataType) -> pa.Array:
    """One Arrow array of the column's type. Zero copy for C-contiguous numpy of the right dtype.

    Raises `SchemaError` naming column, row, what was given and what is wanted.
    """
    if isinstance(values, pa.ChunkedArray):
        values = one_chunk(values)
    if isinstance(kind, TensorType):
        return _fixed(values, column, kind)
    if isinstance(kind, RaggedType):
        return _ragged(values, column, kind)
    if isinstance(kind, SparseType):
        return _sparse(values, column, kind)
    wanted = kind.arrow_type if isinstance(kind, JsonType) else kind
    array = _plain(values, column, wanted)
    if isinstance(kind, JsonType):
        _check_json(array, column)
    return array


def _plain(values: Any, column: str, wanted: pa.DataType) -> pa.Array:
    try:
        if isinstance(values, pa.Array):
            return values if values.type == wanted else _cast(values, wanted)
        if isinstance(values, np.ndarray) and values.dtype.kind in "biufM":
            if values.ndim != 1:
                raise SchemaError(f"column {column!r}: given an array of shape {values.shape}; wanted one value a row of type {wanted}")
            array = pa.array(values)
            return array if array.type == wanted else _cast(array, wanted)
        values = list(values)
        if pa.types.is_integer(wanted):
            # Arrow would cut the fraction off without a word
            for row, value in enumerate(values):
                if isinstance(value, float):
                    raise SchemaError(f"column {column!r}, row {row}: given {_short(value)}; wanted {wanted}")
        try:
            return pa.array(values, wanted)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError) as why:
            for row, value in enumerate(values):
                try:
                    pa.array([value], wanted)
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
                    raise SchemaError(f"column {column!r}, row {row}: given {_short(value)}; wanted {wanted}") from why
            raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as why:
        if isinstance(why, SchemaError):
            raise
        raise SchemaError(f"column {column!r}: {why}; wanted {wanted}") from why


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    given, to = array.type, wanted
    if pa.types.is_floating(given) and pa.types.is_integer(to):
        raise SchemaError(f"given {given}; wanted {to}: convert it yourself if the fractions do not matter")
    if pa.types.is_dictionary(given):
        array = array.dictionary_decode()
    return array.cast(to, safe=True)


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"


def _check_json(array: pa.Array, column: str) -> None:
    for row, text in enumerate(array.to_pylist()):
        if text is not None:
            try:
                json.loads(text)
            except ValueError as why:
                raise SchemaError(f"column {column!r}, row {row}: given {_short(text)}, which is not JSON: {why}") from why


def _stored_values(block: np.ndarray, column: str, dtype: str) -> np.ndarray:
    """The flat stored values of elements of any numpy dtype that holds them without loss."""
    stored = np.dtype(DTYPES[dtype][0])
    seen = numpy_dtype(dtype)
    if block.dtype != seen and not (block.dtype == stored and DTYPES[dtype][1] == 1):
        if block.dtype == object or not _holds(block.dtype, seen):
            raise SchemaError(f"column {column!r}: given {block.dtype}; wanted {dtype} (a conversion would lose values: use .astype)")
        block = block.astype(seen)
    flat: np.ndarray = np.ascontiguousarray(block).reshape(-1)
    return flat if flat.dtype == stored else flat.view(stored)


def _holds(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    # lists of Python numbers arrive as int64 and float64 and are meant as the column's type
    if given in (np.dtype("float64"), np.dtype("int64")) and wanted.kind in "fcV":
        return True
    return bool(np.can_cast(given, wanted, "same_kind")) and given.kind != "b" or given == wanted


def _fixed(values: Any, column: str, kind: TensorType) -> pa.Array:
    target = kind.arrow_type
    if isinstance(values, pa.Array):
        if values.type == target:
            return values
        values = _arrow_rows(values, column, kind)
        if isinstance(values, pa.Array):
            return values
    if not isinstance(values, np.ndarray):
        rows = list(values)
        absent = np.array([v is None for v in rows], bool)
        if absent.any():
            return _with_nulls(rows, absent, column, kind)
        values = _stack(rows, column, kind)
    if values.ndim < 1 or values.shape[1:] != kind.shape:
        raise SchemaError(f"column {column!r}: given shape {values.shape}; wanted (rows, {', '.join(map(str, kind.shape))})")
    return _storage(pa.array(_stored_values(values, column, kind.dtype)), len(values), target, None)


def _storage(flat: pa.Array, rows: int, target: pa.DataType, mask: np.ndarray | None) -> pa.Array:
    storage = pa.FixedSizeListArray.from_arrays(flat, type=target.storage_type, mask=None if mask is None else pa.array(mask))
    return pa.ExtensionArray.from_storage(target, storage)


def _stack(rows: list[Any], column: str, kind: TensorType) -> np.ndarray:
    seen = numpy_dtype(kind.dtype)
    for row, value in enumerate(rows):
        try:
            shape = np.shape(value)
        except ValueError:
            shape = None
        if shape != kind.shape:
            raise SchemaError(f"column {column!r}, row {row}: given shape {shape}; wanted {kind.shape}")
    if not rows:
        return np.empty((0, *kind.shape), seen)
    try:
        first = np.asarray(rows[0])
        return np.array(rows, dtype=first.dtype if first.dtype == seen else None)
    except (TypeError, ValueError) as why:
        raise SchemaError(f"column {column!r}: {why}; wanted {kind}") from why


def _with_nulls(rows: list[Any], absent: np.ndarray, column: str, kind: TensorType) -> pa.Array:
    target = kind.arrow_type
    there = _stack([v for v in rows if v is not None], column, kind)
    width = kind.size * DTYPES[kind.dtype][1]
    flat = np.zeros((len(rows), width), DTYPES[kind.dtype][0])
    flat[~absent] = _stored_values(there, column, kind.dtype).reshape(-1, width)
    return _storage(pa.array(flat.reshape(-1)), len(rows), target, absent)


def _arrow_rows(values: pa.Array, column: str, kind: TensorType) -> pa.Array | np.ndarray | list[Any]:
    """Lists and tensors of another width or type: as storage where it fits, else as numpy rows."""
    target = kind.arrow_type
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    if storage.type == target.storage_type:
        return pa.ExtensionArray.from_storage(target, storage)
    if pa.types.is_null(storage.type):
        return pa.ExtensionArray.from_storage(target, pa.nulls(len(storage), target.storage_type))
    if not (pa.types.is_fixed_size_list(storage.type) or pa.types.is_list(storage.type) or pa.types.is_large_list(storage.type)):
        raise SchemaError(f"column {column!r}: given {values.type}; wanted {kind}")
    out: list[Any] = []
    for row, scalar in enumerate(storage):
        value = None if not scalar.is_valid else np.asarray(scalar.values)
        if value is not None and value.size != kind.size:
            raise SchemaError(f"column {column!r}, row {row}: given {value.size} values; wanted shape {kind.shape}")
        out.append(None if value is None else value.reshape(kind.shape))
    return out


def _ragged(values: Any, column: str, kind: RaggedType) -> pa.Array:
    target = kind.arrow_type
    if isinstance(values, pa.Array):
        if values.type == target:
            return values
        if values.type == target.storage_type:
            return pa.ExtensionArray.from_storage(target, values)
        values = values.to_pylist()
    flats: list[np.ndarray] = []
    shapes: list[int] = []
    offsets, mask = [0], []
    for row, value in enumerate(values):
        mask.append(value is None)
        block = np.zeros((0,) * kind.ndim, numpy_dtype(kind.dtype)) if value is None else np.asarray(value)
        if block.ndim != kind.ndim:
            raise SchemaError(f"column {column!r}, row {row}: given {block.ndim} dimensions {block.shape}; wanted {kind.ndim}")
        flats.append(_stored_values(block, f"{column}', row {row} of '{column}", kind.dtype))
        shapes.extend(block.shape)
        offsets.append(offsets[-1] + len(flats[-1]))
    flat = np.concatenate(flats) if flats else np.empty(0, DTYPES[kind.dtype][0])
    data = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))
    shape = pa.FixedSizeListArray.from_arrays(pa.array(shapes, pa.int32()), kind.ndim)
    fields = list(target.storage_type)
    storage = pa.StructArray.from_arrays([data, shape], fields=fields, mask=pa.array(mask, pa.bool_()))
    return pa.ExtensionArray.from_storage(target, storage)


def _sparse(values: Any, column: str, kind: SparseType) -> pa.Array:
    target = kind.arrow_type
    if isinstance(values, pa.Array):
        if values.type == target:
            return values
        values = values.to_pylist()
    value_type = np.dtype(kind.dtype)
    if hasattr(values, "tocsr"):
        matrix = values.tocsr()
        matrix.sum_duplicates()
        if matrix.shape[1] != kind.dim:
            raise SchemaError(f"column {column!r}: given a matrix of {matrix.shape[1]} columns; wanted {kind.dim}")
        offsets, indices, data = matrix.indptr, matrix.indices, matrix.data
        mask = np.zeros(matrix.shape[0], bool)
    else:
        rows = list(values)
        mask = np.array([v is None for v in rows], bool)
        pairs = [_pair(v, column, row) for row, v in enumerate(rows)]
        offsets = np.cumsum([0] + [len(i) for i, _ in pairs])
        indices = np.concatenate([i for i, _ in pairs]) if pairs else np.empty(0, np.int64)
        data = np.concatenate([v for _, v in pairs]) if pairs else np.empty(0, value_type)
    if len(indices):
        starts = np.zeros(len(indices), bool)
        starts[offsets[:-1][offsets[:-1] < len(indices)]] = True
        bad = np.flatnonzero((indices < 0) | (indices >= kind.dim) | (~starts & (np.diff(indices, prepend=-1) <= 0)) | ~np.isfinite(data))
        if len(bad):
            row = int(np.searchsorted(offsets, bad[0], "right")) - 1
            raise SchemaError(
                f"column {column!r}, row {row}: index {indices[bad[0]]} with value {data[bad[0]]}; wanted indices that rise "
                f"strictly within 0..{kind.dim - 1}, and finite values"
            )
    at = pa.array(np.asarray(offsets), pa.int32())
    lists = [
        pa.ListArray.from_arrays(at, pa.array(np.asarray(indices), pa.int32())),
        pa.ListArray.from_arrays(at, pa.array(np.asarray(data).astype(value_type))),
    ]
    storage = pa.StructArray.from_arrays(lists, fields=list(target.storage_type), mask=pa.array(mask))
    return pa.ExtensionArray.from_storage(target, storage)


def _pair(value: Any, column: str, row: int) -> tuple[np.ndarray, np.ndarray]:
    if value is None:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    if not isinstance(value, Mapping) or set(value) != {"indices", "values"}:
        raise SchemaError(f"column {column!r}, row {row}: given {_short(value)}; wanted {{'indices': [...], 'values': [...]}}")
    indices, values = np.asarray(value["indices"], np.int64), np.asarray(value["values"])
    if indices.shape != values.shape or indices.ndim != 1:
        raise SchemaError(f"column {column!r}, row {row}: {indices.shape} indices for {values.shape} values")
    return indices, values


def column_numpy(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(rows, \\*shape) of a fixed-shape tensor column; a view for one chunk without nulls."""
    if isinstance(array, pa.ChunkedArray):
        parts = [column_numpy(c) for c in array.chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0)
    storage = array.storage
    dtype, shape = _dtype_shape(array.type)
    width = storage.type.list_size
    values = storage.values.slice(storage.offset * width, len(storage) * width)
    flat = values.to_numpy(zero_copy_only=False)
    return flat.view(numpy_dtype(dtype)).reshape(len(storage), *shape)


def _dtype_shape(kind: pa.DataType) -> tuple[str, tuple[int, ...]]:
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.dtype(kind.value_type.to_pandas_dtype()).name, tuple(kind.shape)
    return kind.dtype, kind.shape


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
        value = array.storage[row]
        return {"indices": np.asarray(value["indices"].values).copy(), "values": np.asarray(value["values"].values).copy()}
    return array[row].as_py()
