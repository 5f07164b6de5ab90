"""Sparse columns in and out: scipy's COO, CSR and CSC (any format it has), or indices and values a row.

A row is kept as its places in row-major order, rising strictly, and their values: what comes out is what went in, explicit zeros
and -0.0 included, with repeated places added up as scipy does. Neither direction looks at a vector column row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from .convert_tensors import Where, as_block, fit, list_lengths, short, stored_values
from .dtypes import DTYPES, SparseType, numpy_dtype
from .errors import InvalidArgumentError, SchemaError, UnavailableError

FORMATS = ("csr", "csc", "coo")


def sparse(values: Any, column: str, kind: SparseType) -> pa.Array:
    """A scipy matrix of a vector a row; or one value a row: ``{"indices", "values"}``, or scipy's of the row's shape."""
    target = kind.arrow_type
    if isinstance(values, pa.Array):
        if values.type in (target, target.storage_type):
            return _checked(values, column, kind)
        if not (pa.types.is_struct(values.type) or pa.types.is_null(values.type)):
            raise SchemaError(f"column {column!r}: given {values.type}; wanted {kind}")
        values = [None if not v.is_valid else {n: np.asarray(v[n].values) for n in v} for v in values]
    if hasattr(values, "tocsr"):
        offsets, indices, data = _matrix(values, column, kind)
        mask = np.zeros(len(offsets) - 1, bool)
    else:
        rows = list(values)
        mask = np.array([v is None for v in rows], bool)
        pairs = [_pair(v, column, row, kind) for row, v in enumerate(rows)]
        offsets = np.cumsum([0] + [len(i) for i, _ in pairs])
        indices = np.concatenate([i for i, _ in pairs]) if pairs else np.empty(0, np.int64)
        data = np.concatenate([v for _, v in pairs]) if pairs else np.empty(0, numpy_dtype(kind.dtype))
    _check(offsets, indices, data, column, kind, None)
    per = DTYPES[kind.dtype][1]
    if len(indices) * per > 2**31 - 1:
        raise SchemaError(f"column {column!r}: given {len(indices)} values in one batch; wanted at most 2**31 - 1: write fewer rows at a time")
    at = offsets.astype(np.int32)
    places = pa.ListArray.from_arrays(pa.array(at), pa.array(indices.astype(kind.index_type.to_pandas_dtype())))
    numbers = pa.ListArray.from_arrays(pa.array(at * np.int32(per)), pa.array(stored_values(data, kind.dtype)))
    storage = pa.StructArray.from_arrays([places, numbers], fields=list(target.storage_type), mask=pa.array(mask))
    return pa.ExtensionArray.from_storage(target, storage)


def _matrix(given: Any, column: str, kind: SparseType) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets, indices, values) of a matrix of a vector a row."""
    if kind.shape:
        raise SchemaError(f"column {column!r}: given one matrix of shape {given.shape}; wanted a list with one sparse tensor of shape {kind.shape} a row")
    if len(given.shape) != 2 or given.shape[1] != kind.dim:
        raise SchemaError(f"column {column!r}: given a matrix of {given.shape[-1]} columns; wanted {kind.dim} of them, in two dimensions")
    matrix = given.tocsr()
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # summing duplicates works in place: the caller's matrix stays as it is
        matrix.sum_duplicates()
    offsets = np.asarray(matrix.indptr)
    return offsets, np.asarray(matrix.indices), fit(matrix.data, kind.dtype, _in_lists(column, offsets))


def _in_lists(column: str, offsets: np.ndarray) -> Where:
    return lambda i: f"column {column!r}, row {np.searchsorted(offsets, i, 'right') - 1}"


def _pair(value: Any, column: str, row: int, kind: SparseType) -> tuple[np.ndarray, np.ndarray]:
    here = f"column {column!r}, row {row}"
    if value is None:
        return np.empty(0, np.int64), np.empty(0, numpy_dtype(kind.dtype))
    if hasattr(value, "tocoo"):
        return _scipy_row(value, here, kind)
    if not isinstance(value, Mapping) or set(value) != {"indices", "values"}:
        raise SchemaError(f"{here}: given {short(value)}; wanted {{'indices': [...], 'values': [...]}}")
    parts = []
    for name, dtype in (("indices", "int64"), ("values", kind.dtype)):
        part = as_block(value[name], f"{here}, {name}", str(kind))
        part = part.astype(numpy_dtype(dtype)) if part.size == 0 else part
        parts.append(fit(part, dtype, lambda i, name=name: f"{here}, {name}", exact=hasattr(value[name], "dtype")))  # type: ignore[misc]
    indices, values = parts
    if kind.shape and indices.ndim == 2 and indices.shape == (*values.shape, len(kind.shape)):
        return _flattened(indices.T, values, here, kind)
    if indices.shape != values.shape or indices.ndim != 1:
        raise SchemaError(f"{here}: {indices.shape} indices for {values.shape} values; wanted as many of both, in one dimension")
    return indices, values


def _scipy_row(value: Any, here: str, kind: SparseType) -> tuple[np.ndarray, np.ndarray]:
    given = tuple(value.shape)
    if given != (kind.shape or (kind.dim,)) and (kind.shape or given != (1, kind.dim)):
        raise SchemaError(f"{here}: given shape {given}; wanted {kind.shape or (kind.dim,)}")
    coo = value.tocoo(copy=True)
    coo.sum_duplicates()
    places = getattr(coo, "coords", None) or (coo.row, coo.col)
    made = fit(np.asarray(coo.data), kind.dtype, lambda i: here)
    return _flattened(np.asarray(places), made, here, kind) if kind.shape else (np.asarray(places[-1]).astype(np.int64), made)


def _flattened(places: np.ndarray, values: np.ndarray, here: str, kind: SparseType) -> tuple[np.ndarray, np.ndarray]:
    """Places (ndim, n) in any order as row-major indices that rise."""
    for axis, (at, side) in enumerate(zip(places, kind.shape, strict=True)):
        if at.size and not 0 <= at.min() <= at.max() < side:
            raise SchemaError(f"{here}: indices from {at.min()} to {at.max()} along axis {axis}; wanted 0..{side - 1}")
    indices = np.zeros(places.shape[1], np.int64)
    for at, side in zip(places, kind.shape, strict=True):
        indices = indices * side + at
    order = np.argsort(indices, kind="stable")
    return indices[order], values[order]


def _check(offsets: np.ndarray, indices: np.ndarray, data: np.ndarray, column: str, kind: SparseType, rows: np.ndarray | None) -> None:
    """Indices rise strictly within each row and lie in 0..dim-1; values are finite."""
    if len(indices) == 0:
        return
    starts = np.zeros(len(indices), bool)
    starts[offsets[:-1][offsets[:-1] < len(indices)]] = True
    bad = (indices < 0) | (indices >= kind.dim) | ~np.isfinite(data)
    bad[1:] |= ~starts[1:] & (indices[1:] <= indices[:-1])
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(offsets, at, "right")) - 1
        raise SchemaError(
            f"column {column!r}, row {row if rows is None else rows[row]}: given index {indices[at]} with value {data[at]}; wanted "
            f"indices that rise strictly within 0..{kind.dim - 1}, and finite values"
        )


def _checked(values: pa.Array, column: str, kind: SparseType) -> pa.Array:
    storage = values.storage if isinstance(values, pa.ExtensionArray) else values
    valid = storage.is_valid()
    rows = np.flatnonzero(valid.to_numpy(zero_copy_only=False))
    indices, data = storage.field(0).filter(valid), storage.field(1).filter(valid)
    places, numbers = indices.flatten(), data.flatten()
    if indices.null_count or data.null_count or places.null_count or numbers.null_count:
        raise SchemaError(f"column {column!r}: given a null within a sparse vector; wanted {kind}")
    lengths, per = list_lengths(indices), DTYPES[kind.dtype][1]
    bad = np.flatnonzero(lengths * per != list_lengths(data))
    if len(bad):
        raise SchemaError(f"column {column!r}, row {rows[bad[0]]}: given {lengths[bad[0]]} indices; wanted as many as values")
    typed = numbers.to_numpy(zero_copy_only=False).view(numpy_dtype(kind.dtype))
    _check(np.concatenate([[0], np.cumsum(lengths)]), places.to_numpy(), typed, column, kind, rows)
    return values if isinstance(values, pa.ExtensionArray) else pa.ExtensionArray.from_storage(kind.arrow_type, values)


# -- out ---------------------------------------------------------------------------------------------


def sparse_row(array: pa.Array, row: int, kind: SparseType) -> dict[str, np.ndarray]:
    """``indices`` (n,), or (n, ndim) of tensors, and ``values`` (n,) of a row that is there; memory of their own."""
    value = array.storage[row]
    indices, values = np.asarray(value["indices"].values), np.array(value["values"].values).view(numpy_dtype(kind.dtype))
    return {"indices": np.stack(np.unravel_index(indices, kind.shape), 1) if kind.shape else indices.copy(), "values": values}


def scipy_column(column: pa.Array | pa.ChunkedArray, format: str = "csr") -> Any:
    """A sparse column as scipy's: of vectors one (rows, dim) array, in which a null is a row without entries; of tensors of two
    sides a list with one array a row, None for a null. O(entries). Needs scipy."""
    if format not in FORMATS:
        raise InvalidArgumentError(f"format={format!r}; give one of {', '.join(FORMATS)}")
    kind = _type_of(column)
    try:
        from scipy import sparse as sp
    except ImportError as why:
        raise UnavailableError("sparse columns as scipy's need scipy: pip install scipy; rows as dicts need none") from why
    if len(kind.shape) > 2:
        raise InvalidArgumentError(f"rows of shape {kind.shape}; scipy's {format} has two dimensions: take the rows as dicts")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts, make = [_parts(c.storage, kind) for c in chunks], getattr(sp, f"{format}_array")
    lengths = np.concatenate([np.zeros(1, np.int64), *(p[0] for p in parts)])
    ends = np.cumsum(lengths)
    indices = np.concatenate([np.empty(0, kind.index_type.to_pandas_dtype()), *(p[1] for p in parts)])
    values = np.concatenate([np.empty(0, numpy_dtype(kind.dtype)), *(p[2] for p in parts)])
    if not kind.shape:
        return make(sp.csr_array((values, indices, ends), shape=(len(ends) - 1, kind.dim)))
    valid = np.concatenate([np.empty(0, bool), *(c.is_valid().to_numpy(zero_copy_only=False) for c in chunks)])
    spans = zip(ends[:-1].tolist(), ends[1:].tolist(), valid.tolist(), strict=True)
    return [make(sp.coo_array((values[a:b], np.unravel_index(indices[a:b], kind.shape)), shape=kind.shape)) if there else None for a, b, there in spans]


def _type_of(column: pa.Array | pa.ChunkedArray) -> SparseType:
    kind = getattr(column, "type", None)
    if getattr(kind, "extension_name", None) != "lsmtensor.sparse":
        raise SchemaError(f"given {kind or type(column).__name__}; wanted a column of lsmtensor.sparse(…)")
    assert kind is not None
    return SparseType(kind.dtype, kind.dim, kind.shape)


def _parts(storage: pa.StructArray, kind: SparseType) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(entries of each row, indices, values) of a chunk; a null row has none."""
    valid = storage.is_valid().to_numpy(zero_copy_only=False)
    indices, data = storage.field(0), storage.field(1)
    lengths = np.where(valid, list_lengths(indices), 0)
    if int(lengths.sum()) != int(list_lengths(indices).sum()):  # what lies under a null is nobody's
        indices, data = indices.filter(storage.is_valid()), data.filter(storage.is_valid())
    values = data.flatten().to_numpy(zero_copy_only=False).view(numpy_dtype(kind.dtype))
    if math.prod(values.shape) != int(lengths.sum()):
        raise SchemaError(f"a sparse column has {len(values)} values for {int(lengths.sum())} indices")
    return lengths, indices.flatten().to_numpy(zero_copy_only=False), values
