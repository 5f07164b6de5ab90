"""Gathering rows of Arrow arrays; plain numbers and fixed-size rows by numpy: a call of Arrow's take costs more than a few rows, its nested one several times as much."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

NUMBERS = frozenset((pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float32(), pa.float64()))


def take_array(array: pa.Array, rows: np.ndarray) -> pa.Array:
    """Rows by number."""
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    kind, t = storage.type, pa.types
    if len(rows) < 64 and kind in NUMBERS and storage.null_count == 0 and storage is array and len(storage):
        return pa.array(storage.to_numpy()[rows], kind)
    plain = t.is_fixed_size_list(kind) and (t.is_floating(kind.value_type) or t.is_integer(kind.value_type))
    if plain and storage.null_count == 0 and len(storage):
        width = kind.list_size
        values = storage.values.slice(storage.offset * width, len(storage) * width).to_numpy().reshape(-1, width)
        storage = pa.FixedSizeListArray.from_arrays(pa.array(values[rows].reshape(-1)), type=kind)
    else:
        storage = storage.take(pa.array(rows, pa.int64()))
    return pa.ExtensionArray.from_storage(array.type, storage) if isinstance(array, pa.ExtensionArray) else storage


def take_table(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Rows by number. Chunks are joined first: Arrow's chunked take costs a search per row."""
    return pa.Table.from_arrays([take_array(one_chunk(c), rows) for c in table.columns], schema=table.schema)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; without a copy where it has one chunk."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        storage = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
        empty = pa.array([], storage)
        return pa.ExtensionArray.from_storage(column.type, empty) if storage is not column.type else empty
    return pa.concat_arrays(column.chunks)
