"""Values that lie outside their row: in its column 56 bytes refer to a row of a blob file, by id and by hash.

A column of this kind is a coded one (`coded`) in which every row is a group of its own. A group is its bytes, or in their place a
`Reference` to them, told apart by the count of rows that groups begin with: a reference has 0. The bytes are in docs/format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..errors import CorruptionError
from ..merkle import leaf_hash

_LAYOUT = struct.Struct("<QQQ32s")
SIZE = _LAYOUT.size
FILE = 1 << 24  # ids of a blob file: it holds fewer values
_FIELDS = np.dtype([("rows", "<u8"), ("id", "<u8"), ("size", "<u8"), ("digest", "V32")])

NOTHING = np.empty(0, np.int64), np.empty(0, _FIELDS)


class Reference(NamedTuple):
    """``id`` is FILE times the number of the file that the value was first written to, and which of its values it is; rewriting that file
    does not change it."""

    id: int
    size: int
    digest: bytes

    @classmethod
    def of(cls, fields: Any) -> Reference:
        """One of what `references` answers."""
        return cls(int(fields["id"]), int(fields["size"]), fields["digest"].tobytes())

    @property
    def file(self) -> int:
        return self.id // FILE


Fetch = Callable[[Reference], np.ndarray]


def digest_of(data: np.ndarray) -> bytes:
    """What a reference says of its bytes: BLAKE3, as a leaf of a hash tree."""
    return leaf_hash(data)


def proved(fetch: Fetch | None) -> Fetch | None:
    """The same, with the hash of what comes compared."""
    if fetch is None:
        return None

    def checked(reference: Reference) -> np.ndarray:
        data = fetch(reference)
        if digest_of(data) != reference.digest:
            raise CorruptionError(f"value {reference.id % FILE} of blob file {reference.file} differs from the hash that its row has")
        return data

    return checked


def parse(data: np.ndarray) -> Reference | None:
    """The reference that stands in place of a group; None where the bytes are the group."""
    if len(data) != SIZE:
        return None
    rows, *fields = _LAYOUT.unpack(data.data)
    return Reference(*fields) if rows == 0 else None


def references(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(int64 (n,) rows that refer, their fields: id, size, digest). O(rows)."""
    ends, data = parts(array.storage)
    rows = np.flatnonzero(np.diff(ends) == SIZE)
    found = data[ends[rows][:, None] + np.arange(SIZE)].view(_FIELDS)[:, 0] if len(rows) else np.empty(0, _FIELDS)
    outside = found["rows"] == 0
    return rows[outside], found[outside]


def moved(array: pa.Array, limit: int, put: Callable[[np.ndarray, pa.Array], list[Reference]]) -> pa.Array:
    """The column with every value of more than ``limit`` bytes given to ``put`` (the rows, their bytes) and referred to instead. O(bytes)."""
    ends, _ = parts(array.storage)
    sizes = np.diff(ends)
    large = np.flatnonzero(sizes > max(limit, SIZE))
    if not len(large):
        return array
    values = array.storage if len(large) == len(array) else array.storage.take(pa.array(large))
    small = np.frombuffer(b"".join(_LAYOUT.pack(0, *r) for r in put(large, values)), np.uint8)
    made = pa.Array.from_buffers(pa.large_binary(), len(large), [None, pa.py_buffer(np.arange(len(large) + 1) * SIZE), pa.py_buffer(small)])
    if len(large) < len(array):
        kept = np.flatnonzero(sizes <= max(limit, SIZE))
        back = np.empty(len(array), np.int64)
        back[np.concatenate([kept, large])] = np.arange(len(array))
        made = pa.concat_arrays([array.storage.take(pa.array(kept)), made]).take(pa.array(back))
    return pa.ExtensionArray.from_storage(array.type, made)


def parts(storage: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(int64 (n + 1,) where the values of a large_binary array begin and end, uint8 the bytes they lie in); views, where a scalar's buffer is a copy."""
    _, offsets, data = storage.buffers()
    ends = np.frombuffer(offsets, np.int64)[storage.offset : storage.offset + len(storage) + 1] if len(storage) else np.zeros(1, np.int64)
    return ends, np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
