"""Tensor column values to Arrow: fixed shape and ragged (sparse ones are in `convert_sparse`), each checked without a loop over rows where it can be.

Numbers that carry a dtype (numpy, Arrow) must survive the conversion to the column's dtype exactly;
plain Python numbers are rounded to it. Errors are `SchemaError` naming column, row, given and wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from .dtypes import DTYPES, RaggedType, TensorType, numpy_dtype
from .errors import SchemaError

_BITS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_STRIDE = 1 << 18  # elements converted and checked at a time: stays in the cache
_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}

Where = Callable[[int], str]


def fit(block: np.ndarray, dtype: str, where: Where, *, exact: bool = True) -> np.ndarray:
    """``block`` in the numpy dtype of a column; the same array where it has it already, O(1).

    ``where(i)`` names the flat element ``i`` in messages. Unsigned integers of the right width are taken
    as the bits of bf16 and fp8. Raises `SchemaError` for values that the dtype does not hold.
    """
    seen = numpy_dtype(dtype)
    if block.dtype == seen:
        return block
    if dtype in _BITS and block.dtype == DTYPES[dtype][0]:
        return block.view(seen)
    given, wanted = block.dtype.kind, seen.kind
    if dtype in _BITS and wanted == "u":
        raise SchemaError(f"{where(0)}: given {block.dtype}; wanted {dtype}, as ml_dtypes arrays (pip install ml_dtypes) or as bits in {seen}")
    if given not in _RANK or _RANK[given] > _RANK[wanted] or (given == "V" and block.dtype.names is not None):
        raise SchemaError(f"{where(0)}: given {block.dtype}; wanted {dtype}")
    out = np.empty(block.shape, seen)
    source, target = np.ascontiguousarray(block).reshape(-1), out.reshape(-1)
    rounding = not exact and _RANK[wanted] >= 2
    for at in range(0, len(source), _STRIDE):
        piece = source[at : at + _STRIDE]
        with np.errstate(all="ignore"):
            made = piece.astype(seen)
            bad = _overflow(piece, made) if rounding else _lossy(piece, made)
        if bad.any():
            i = at + int(np.flatnonzero(bad)[0])
            hint = "" if rounding else f"; use .astype({dtype!r}) if a change of value is meant"
            raise SchemaError(f"{where(i)}: given {source[i]} ({block.dtype}), which {dtype} does not hold; wanted {dtype}{hint}")
        target[at : at + _STRIDE] = made
    return out


def _lossy(given: np.ndarray, made: np.ndarray) -> np.ndarray:
    """bool: elements that do not come back. NaN stays NaN."""
    if given.dtype.kind in "iu":
        if made.dtype.kind in "iu":
            # a value that wraps may come back, but with the other sign
            return (made.astype(given.dtype) != given) | ((made < 0) != (given < 0))
        # converting back an integer that was rounded up to 2**63 or 2**64 overflows, perhaps to the same value
        limit = 2.0 ** np.iinfo(given.dtype).bits if given.dtype.kind == "u" else 2.0 ** (np.iinfo(given.dtype).bits - 1)
        real = made.real.astype(np.float64) if made.dtype.kind == "c" else made.astype(np.float64)
        inside = np.isfinite(real) & (real < limit)
        return ~inside | (np.where(inside, real, 0).astype(given.dtype) != given)
    back = made.astype(given.dtype)
    return (back != given) & ~((back != back) & (given != given))


def _overflow(given: np.ndarray, made: np.ndarray) -> np.ndarray:
    """bool: finite elements that became infinite or NaN."""
    wide: Any = np.complex128 if made.dtype.kind == "c" else np.float64
    return np.isfinite(given.astype(wide)) & ~np.isfinite(made.astype(wide))


def stored_values(block: np.ndarray, dtype: str) -> np.ndarray:
    """The stored values of a fitted block, one dimension; a view where the block is C-contiguous."""
    flat: np.ndarray = np.ascontiguousarray(block).reshape(-1)
    stored = np.dtype(DTYPES[dtype][0])
    return flat if flat.dtype == stored else flat.view(stored)


# -- fixed shape -------------------------------------------------------------------------------------


def fixed(values: Any, column: str, kind: TensorType) -> pa.Array:
    """(rows, *shape) to the column's Arrow array; no copy for C-contiguous numpy of the column's dtype."""
    if isinstance(values, pa.Array):
        return _fixed_arrow(values, column, kind)
    if isinstance(values, np.ma.MaskedArray):
        raise SchemaError(f"column {column!r}: given a masked array; wanted {kind}: use .filled(), or None for a row without a value")
    if not isinstance(values, np.ndarray) or values.dtype == object:
        block, absent = _rows(list(values), column, kind)
        return _fixed_storage(block, absent, kind)
    if values.ndim < 1 or values.shape[1:] != kind.shape:
        raise SchemaError(f"column {column!r}: given shape {values.shape}; wanted (rows, {', '.join(map(str, kind.shape))})")
    return _fixed_storage(fit(values, kind.dtype, _in_rows(column, kind.size)), None, kind)


def _in_rows(column: str, width: int) -> Where:
    return lambda i: f"column {column!r}, row {i // width}"


def _fixed_storage(block: np.ndarray, absent: np.ndarray | None, kind: TensorType) -> pa.Array:
    target = kind.arrow_type
    mask = pa.array(absent) if absent is not None and absent.any() else None
    storage = pa.FixedSizeListArray.from_arrays(pa.array(stored_values(block, kind.dtype)), type=target.storage_type, mask=mask)
    return pa.ExtensionArray.from_storage(target, storage)


def _rows(rows: list[Any], column: str, kind: TensorType) -> tuple[np.ndarray, np.ndarray]:
    """One array and the mask of absent rows from one value a row."""
    absent = np.array([v is None for v in rows], bool)
    block = (np.zeros if absent.any() else np.empty)((len(rows), *kind.shape), numpy_dtype(kind.dtype))
    for row, value in enumerate(rows):
        if value is not None:
            here = f"column {column!r}, row {row}"
            one = as_block(value, here, str(kind))
            if one.shape != kind.shape:
                raise SchemaError(f"{here}: given shape {one.shape}; wanted {kind.shape}")
            block[row] = fit(one, kind.dtype, lambda i, here=here: here, exact=hasattr(value, "dtype"))  # type: ignore[misc]
    return block, absent


def as_block(value: Any, where: str, wanted: str) -> np.ndarray:
    """numpy of a nested list or of anything that converts itself."""
    try:
        block = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as why:
        raise SchemaError(f"{where}: {why}; wanted {wanted}") from why
    if block.dtype.kind in "OSUmM":
        raise SchemaError(f"{where}: given {short(value)}; wanted {wanted}")
    return block


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"


def _fixed_arrow(values: pa.Array, column: str, kind: TensorType) -> pa.Array:
    target = kind.arrow_type
    n = len(values)
    if values.type == target:
        if values.storage.values.null_count == 0:
            return values
    elif pa.types.is_null(values.type):
        return pa.ExtensionArray.from_storage(target, pa.nulls(n, target.storage_type))
    absent = np.zeros(n, bool) if values.null_count == 0 else values.is_null().to_numpy(zero_copy_only=False)
    there = np.flatnonzero(~absent)
    dtype = None
    if isinstance(values, pa.ExtensionArray):
        if not hasattr(values.type, "shape") or getattr(values.type, "permutation", None) is not None:
            raise SchemaError(f"column {column!r}: given {values.type}; wanted {kind}")
        dtype, shape = dtype_shape(values.type)
        if shape != kind.shape:
            raise SchemaError(f"column {column!r}: given tensors of shape {shape}; wanted {kind.shape}")
        values = values.storage
    level, given = values.filter(pa.array(~absent)) if absent.any() else values, values.type
    depth = 0
    while _is_list(level.type):
        inner_is_list = _is_list(level.type.value_type)
        # a flat list of all values stands for the whole shape
        want = kind.size if depth == 0 and not inner_is_list else kind.shape[depth] if depth < len(kind.shape) else -1
        lengths = list_lengths(level)
        bad = np.flatnonzero(lengths != want)
        if len(bad):
            row = int(there[bad[0] * len(there) // len(level)])
            raise SchemaError(f"column {column!r}, row {row}: given a list of {lengths[bad[0]]} values; wanted shape {kind.shape}")
        level, depth = level.flatten(), depth + 1
        if level.null_count:
            at = int(np.flatnonzero(level.is_null().to_numpy(zero_copy_only=False))[0])
            raise SchemaError(f"column {column!r}, row {there[at * len(there) // len(level)]}: given a null within; wanted {kind}")
    if depth == 0 or depth not in (1, len(kind.shape)) or not _is_number(level.type):
        raise SchemaError(f"column {column!r}: given {given}; wanted {kind}")
    flat = level.to_numpy(zero_copy_only=False)
    if dtype is not None:
        flat = flat.view(numpy_dtype(dtype))
    block = fit(flat, kind.dtype, lambda i: f"column {column!r}, row {there[i // kind.size]}")
    if not absent.any():
        return _fixed_storage(block, None, kind)
    whole = np.zeros((n, kind.size), block.dtype)
    whole[there] = block.reshape(-1, kind.size)
    return _fixed_storage(whole, absent, kind)


def _is_list(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_floating(kind) or t.is_integer(kind) or t.is_boolean(kind))


def list_lengths(array: pa.Array) -> np.ndarray:
    """int64 (n,): values in each list; what lies under a null counts as it lies."""
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size, np.int64)
    return np.diff(array.offsets.to_numpy().astype(np.int64)) if len(array) else np.zeros(0, np.int64)


# -- a shape per row ---------------------------------------------------------------------------------


def ragged(values: Any, column: str, kind: RaggedType) -> pa.Array:
    """One array of ``ndim`` dimensions a row."""
    target = kind.arrow_type
    leaf: np.dtype[Any] | None = None
    if isinstance(values, pa.Array):
        if values.type in (target, target.storage_type):
            return _checked_ragged(values, column, kind)
        inner = values.type
        while _is_list(inner):
            inner = inner.value_type
        if not pa.types.is_null(inner) and (inner is values.type or not _is_number(inner)):
            raise SchemaError(f"column {column!r}: given {values.type}; wanted {kind}")
        leaf = None if pa.types.is_null(inner) else np.dtype(inner.to_pandas_dtype())
        values = values.to_pylist()
    flats, shapes, mask = [], [], []
    for row, value in enumerate(values):
        here = f"column {column!r}, row {row}"
        mask.append(value is None)
        if value is None:
            block, exact = np.zeros((0,) * kind.ndim, numpy_dtype(kind.dtype)), True
        else:
            block, exact = as_block(value, here, str(kind)), leaf is not None or hasattr(value, "dtype")
            block = block if leaf is None else block.astype(leaf)
        if block.ndim != kind.ndim:
            raise SchemaError(f"{here}: given {block.ndim} dimensions {block.shape}; wanted {kind.ndim}")
        if max(block.shape) > 2**31 - 1:
            raise SchemaError(f"{here}: given shape {block.shape}; wanted at most 2**31 - 1 along a dimension")
        if block.size == 0:
            block = block.astype(numpy_dtype(kind.dtype))  # an empty list has no dtype of its own
        flats.append(stored_values(fit(block, kind.dtype, lambda i, here=here: here, exact=exact), kind.dtype))  # type: ignore[misc]
        shapes.extend(block.shape)
    flat = np.concatenate(flats) if flats else np.empty(0, DTYPES[kind.dtype][0])
    if len(flat) > 2**31 - 1:
        raise SchemaError(f"column {column!r}: given {len(flat)} values in one batch; wanted at most 2**31 - 1: write fewer rows at a time")
    offsets = np.zeros(len(flats) + 1, np.int32)
    np.cumsum([len(f) for f in flats], out=offsets[1:])
    data = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    shape = pa.FixedSizeListArray.from_arrays(pa.array(shapes, pa.int32()), kind.ndim)
    storage = pa.StructArray.from_arrays([data, shape], fields=list(target.storage_type), mask=pa.array(mask, pa.bool_()))
    return pa.ExtensionArray.from_storage(target, storage)


def _checked_ragged(values: pa.Array, column: str, kind: RaggedType) -> pa.Array:
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    valid = storage.is_valid()
    rows = np.flatnonzero(valid.to_numpy(zero_copy_only=False))
    data, shape = storage.field(0).filter(valid), storage.field(1).filter(valid)
    flat = shape.flatten()
    if data.null_count or shape.null_count or flat.null_count or data.flatten().null_count:
        raise SchemaError(f"column {column!r}: given a null within a tensor; wanted {kind}")
    sizes = flat.to_numpy().reshape(-1, kind.ndim).astype(np.float64)
    wanted = sizes.prod(axis=1) * DTYPES[kind.dtype][1]  # exact where it can equal a length, which is below 2**31
    bad = np.flatnonzero((wanted != list_lengths(data)) | (sizes < 0).any(axis=1))
    if len(bad):
        at = int(bad[0])
        given = tuple(int(s) for s in sizes[at])
        raise SchemaError(f"column {column!r}, row {rows[at]}: given {list_lengths(data)[at]} values; wanted those of shape {given}")
    return values if isinstance(values, pa.ExtensionArray) else pa.ExtensionArray.from_storage(kind.arrow_type, values)


# -- values out --------------------------------------------------------------------------------------


def dtype_shape(kind: pa.DataType) -> tuple[str, tuple[int, ...]]:
    """Dtype name and shape of a fixed-shape tensor column's Arrow type."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.dtype(kind.value_type.to_pandas_dtype()).name, tuple(kind.shape)
    return kind.dtype, kind.shape


def column_numpy(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(rows, *shape) of a fixed-shape tensor column; a view for one chunk. What a null row holds is not defined."""
    dtype, shape = dtype_shape(array.type)
    if isinstance(array, pa.ChunkedArray):
        parts = [column_numpy(c) for c in array.chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty((0, *shape), numpy_dtype(dtype))
    storage = array.storage
    width = storage.type.list_size
    flat = storage.values.slice(storage.offset * width, len(storage) * width).to_numpy(zero_copy_only=False)
    return flat.view(numpy_dtype(dtype)).reshape(len(storage), *shape)
