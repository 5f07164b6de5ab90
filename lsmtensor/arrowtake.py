"""Gathering rows of Arrow arrays; fixed-size rows by numpy, which is several times faster than Arrow's nested take."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def take_array(array: pa.Array, rows: np.ndarray) -> pa.Array:
    """Rows by number."""
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    kind, t = storage.type, pa.types
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
