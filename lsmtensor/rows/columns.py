"""Between compact rows and Arrow: the format of a schema, rows as a batch, and where the values of a batch lie."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..dtypes import DTYPES, TensorType, numpy_dtype, of_arrow
from ..env.checksum import crc32c
from ..keys import KeyCodec
from ..schema import Schema, nulls
from .plain import BOOL, BYTES, FLOAT, HEAD, INT, OTHER, TENSOR, TEXT, UINT

_HEAD = struct.Struct("<IIII")
SYSTEM = ("_seq", "_op")


def read_head(payload: memoryview) -> tuple[int, int, bytes]:
    """(table, format, the serialized physical schema or nothing) of a payload of compact rows; `ValueError` where it is cut."""
    if len(payload) < HEAD:
        raise ValueError("a payload of compact rows is shorter than its head")
    table, format, size, zero = _HEAD.unpack_from(payload)
    if zero or HEAD + size > len(payload):
        raise ValueError("the head of compact rows makes no sense")
    return table, format, bytes(payload[HEAD : HEAD + size])


def declared(payload: bytes, physical: pa.Schema) -> bytes:
    """The same payload with its schema in it, as the first one of a table in a log has it."""
    table, format, _, _ = _HEAD.unpack_from(payload)
    schema = physical.serialize().to_pybytes()
    return _HEAD.pack(table, format, len(schema), 0) + schema + payload[HEAD:]


def undeclared(payload: memoryview, schema_bytes: int) -> bytes:
    """The head and the rows of a payload, without its schema."""
    table, format, _, _ = _HEAD.unpack_from(payload)
    return _HEAD.pack(table, format, 0, 0) + bytes(payload[HEAD + schema_bytes :])


def code_of(kind: Any) -> tuple[int, int, Any]:
    """(code, bytes of a value (of text and bytes: of Arrow's offset to one), (dtype, shape) of a tensor) of an Arrow type or one of ours."""
    t = pa.types
    if isinstance(kind, TensorType):
        stored, per = DTYPES[kind.dtype]
        if stored == kind.dtype and per == 1:
            dtype = numpy_dtype(kind.dtype)
            return TENSOR, dtype.itemsize * kind.size, (dtype, kind.shape)
    elif not isinstance(kind, pa.DataType):
        return OTHER, 0, None
    elif t.is_boolean(kind):
        return BOOL, 1, None
    elif t.is_signed_integer(kind):
        return INT, kind.bit_width // 8, None
    elif t.is_unsigned_integer(kind):
        return UINT, kind.bit_width // 8, None
    elif t.is_float32(kind) or t.is_float64(kind):
        return FLOAT, kind.bit_width // 8, None
    elif t.is_string(kind) or t.is_large_string(kind):
        return TEXT, 8 if t.is_large_string(kind) else 4, None
    elif t.is_binary(kind) or t.is_large_binary(kind):
        return BYTES, 8 if t.is_large_binary(kind) else 4, None
    return OTHER, 0, None


def format_of(kit: Any, schema: Schema, codec: KeyCodec, physical: pa.Schema, table_id: int) -> Any:
    """The kit's `RowFormat` of a table."""
    plain = {c.name: c for c in schema.columns if c.codec is None and c.quant is None}
    kinds = {name: code_of(column.type) for name, column in plain.items()}
    return _format(kit, physical, codec, table_id, kinds, {c.name for c in schema.columns if not c.nullable})


def format_of_arrow(kit: Any, physical: pa.Schema, codec: KeyCodec, table_id: int) -> Any:
    """The same of a physical schema alone, to read rows that were packed under it."""
    kinds = {f.name: code_of(of_arrow(f.type)) for f in physical}
    return _format(kit, physical, codec, table_id, kinds, set())


def _format(kit: Any, physical: pa.Schema, codec: KeyCodec, table_id: int, kinds: dict[str, Any], never_null: set[str]) -> Any:
    names = [f.name for f in physical if f.name not in SYSTEM]
    columns = []
    for name in names:
        if name == "_key":
            columns.append((name, BYTES, 4, False, False, None))
        else:
            code, width, extra = kinds.get(name, (OTHER, 0, None))
            columns.append((name, code, width, name not in never_null, True, extra))
    key_at = names.index("_key" if codec.stored else codec.names[0])
    fingerprint = crc32c(physical.serialize().to_pybytes())
    return kit.RowFormat(columns, key_at, codec.kind == "int64", _HEAD.pack(table_id, fingerprint, 0, 0))


def to_batch(table: Any, start: int, stop: int, physical: pa.Schema, key_kind: str) -> tuple[pa.RecordBatch, pa.Array]:
    """Compact rows [start, stop) of a `RowTable` as a physical batch, and their encoded keys. O(bytes)."""
    columns, seqs, ops = table.columns(start, stop)
    format, n, made = table.format, stop - start, []
    for (name, code, _, _, _, _), parts in zip(format.columns, columns, strict=True):
        made.append(array_of(physical.field(name).type, code, n, *parts))
    schema = pa.schema([physical.field(f.name) for f in physical if f.name not in SYSTEM] + [physical.field(n) for n in SYSTEM])
    batch = pa.RecordBatch.from_arrays([*made, pa.array(seqs), pa.array(ops)], schema=schema)
    key = made[format.key_at]
    if key_kind == "int64":
        return batch, key.cast(pa.int64())
    return batch, key if pa.types.is_binary(key.type) else key.cast(pa.binary())


def array_of(kind: pa.DataType, code: int, n: int, valid: np.ndarray | None, offsets: np.ndarray | None, data: np.ndarray) -> pa.Array:
    """An Arrow array over buffers that the kit made."""
    if code == OTHER:
        return nulls(n, kind)
    bits = None if valid is None else pa.py_buffer(valid)
    if code == TENSOR:
        storage = kind.storage_type
        values = pa.Array.from_buffers(storage.value_type, n * storage.list_size, [None, pa.py_buffer(data)])
        made = pa.Array.from_buffers(storage, n, [bits], children=[values])
        return pa.ExtensionArray.from_storage(kind, made)
    buffers = [bits, pa.py_buffer(data)]
    if offsets is not None:
        buffers.insert(1, pa.py_buffer(offsets))
    return pa.Array.from_buffers(kind, n, buffers)


Lane = tuple[str, int, int, int, int, int, int, int, int, Any]


def lanes_of(arrays: Sequence[tuple[str, Any, pa.Array]], other: Callable[[str, Any], Callable[[int], Any]]) -> list[Lane]:
    """Where the values of (name, type, array) lie, for the compiled `BatchRows`: (name, code, width, address, bytes, address of
    offsets, their width, address of validity, bits before row 0, more). ``other(name, type)`` reads a row of what has no lane."""
    return [_lane(name, kind, array) or (name, OTHER, 0, 0, 0, 0, 0, 0, 0, other(name, kind)) for name, kind, array in arrays]


def _lane(name: str, kind: Any, array: pa.Array) -> Lane | None:
    code, width, extra = code_of(kind)
    first, n = array.offset, len(array)
    if code == TENSOR and isinstance(array, pa.ExtensionArray):
        storage = array.storage
        first, values = storage.offset, storage.values
        valid, data = storage.buffers()[0], values.buffers()[1]
        itemsize = values.type.bit_width // 8
        if values.null_count or data is None:
            return None
        at = (first * storage.type.list_size + values.offset) * itemsize
        if at + n * width > data.size:
            return None
        return name, code, width, data.address + at, data.size - at, 0, 0, _address(valid, first + n, 8), first, extra
    if code in (OTHER, TENSOR):
        return None
    buffers = array.buffers()
    valid = _address(buffers[0], first + n, 8)
    if code in (TEXT, BYTES):
        wide = code_of(array.type)[1]
        offsets, data = buffers[1], buffers[2]
        if offsets is None or offsets.size < (first + n + 1) * wide:
            return None
        return name, code, 0, _address(data), 0 if data is None else data.size, offsets.address + first * wide, wide, valid, first, None
    data = buffers[1]
    if data is None or data.size * (8 if code == BOOL else 1) < (first + n) * (1 if code == BOOL else width):
        return None
    at = 0 if code == BOOL else first * width
    return name, code, width, data.address + at, data.size - at, 0, 0, valid, first, None


def _address(buffer: pa.Buffer | None, bits: int = 0, per_byte: int = 1) -> int:
    """Where a buffer begins; 0 where there is none. One too short for its rows would be read past its end."""
    if buffer is None:
        return 0
    if bits and buffer.size * per_byte < bits:
        raise ValueError("a validity bitmap is shorter than its column")
    return int(buffer.address)


def key_place(keys: pa.Array) -> tuple[bool, int, int, int]:
    """(whole numbers, address, bytes, address of int32 offsets) of encoded keys."""
    buffers, first = keys.buffers(), keys.offset
    if pa.types.is_int64(keys.type):
        return True, buffers[1].address + 8 * first, 0, 0
    return False, _address(buffers[2]), 0 if buffers[2] is None else buffers[2].size, buffers[1].address + 4 * first
