"""Where the rows of an Arrow array lie in memory."""

from __future__ import annotations

import pyarrow as pa


def storage_of(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def has_offsets(array: pa.Array) -> bool:
    """Offsets and then bytes: text and binary."""
    kind, t = array.type, pa.types
    return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind))


def fixed_width(array: pa.Array) -> int | None:
    """Bytes of a row's values where every row has as many, one after the other in the last buffer; else None."""
    storage, t = storage_of(array), pa.types
    kind, times = storage.type, 1
    if t.is_fixed_size_list(kind):
        if storage.values.null_count:
            return None
        kind, times = kind.value_type, kind.list_size
    if t.is_primitive(kind) and not t.is_boolean(kind):
        return int(times * kind.bit_width // 8)
    return None


def byte_ranges(array: pa.Array, start: int, stop: int, base: int) -> list[tuple[int, int]]:
    """Where rows [start, stop) of a whole column lie, counted from the address ``base``."""
    buffers, ranges = storage_of(array).buffers(), []
    width = fixed_width(array)
    if width is not None:
        at = buffers.pop().address - base
        ranges.append((at + start * width, at + stop * width))
    return ranges + [(b.address - base, b.address - base + b.size) for b in buffers if b is not None and b.size]
