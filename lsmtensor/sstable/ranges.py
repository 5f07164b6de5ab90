"""Where the rows of a column lie in a file."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from .coded import Coded, Groups


@dataclass(frozen=True)
class Column:
    """A column of a batch, and where it lies in the file: ``width`` bytes a row from ``at``, and buffers that all rows share."""

    array: pa.Array
    width: int | None
    at: int
    others: list[tuple[int, int]]
    groups: Groups | None = None

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Byte ranges of the file under rows [start, stop)."""
        if self.width is not None:
            return [*self.others, (self.at + start * self.width, self.at + stop * self.width)]
        return self.others


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
    if isinstance(array.type, Coded) and len(array):
        groups = Groups(array)
        low = groups.span(groups.of(start))[0]
        high = groups.span(groups.of(stop - 1))[1]
        at = groups.data.ctypes.data - base
        return [(at + low, at + high), (buffers[1].address - base, buffers[1].address - base + buffers[1].size)]
    width = fixed_width(array)
    if width is not None:
        at = buffers.pop().address - base
        ranges.append((at + start * width, at + stop * width))
    return ranges + [(b.address - base, b.address - base + b.size) for b in buffers if b is not None and b.size]
