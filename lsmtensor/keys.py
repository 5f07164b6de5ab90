"""Keys as the tree sorts them: one int64, or bytes whose order is the user's order.

One integer, date or timestamp column is its int64 view; one string or binary column is its bytes.
Anything else is encoded column after column: integers and times big-endian with the sign flipped,
floats by their order-preserving bits, text with 0x00 escaped as 0x00 0xFF and ended by 0x00 0x00.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import SchemaError
from .schema import Schema

SYSTEM = ("_key", "_seq", "_op")
_END, _ESCAPED = b"\x00\x00", b"\x00\xff"


def _int64_like(kind: pa.DataType) -> bool:
    t = pa.types
    return (t.is_integer(kind) and kind != pa.uint64()) or t.is_date(kind) or t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind)


def _bytes_like(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_string(kind) or t.is_binary(kind))


class KeyCodec:
    """How the keys of one schema are encoded; stateless once made."""

    def __init__(self, schema: Schema) -> None:
        self._fields = [schema.arrow.field(n) for n in schema.primary_key]
        self.names: Sequence[str] = schema.primary_key
        self._schema = pa.schema(self._fields)
        first = self._fields[0].type
        single = len(self._fields) == 1
        self.kind = "int64" if single and _int64_like(first) else "bytes"
        # whether the encoded key is a column of its own, since no user column is it
        self.stored = not (single and (_int64_like(first) or _bytes_like(first)))
        if self.stored:
            for field in self._fields:
                _encoder(field)

    def encode(self, batch: pa.RecordBatch | pa.Table) -> pa.Array:
        """int64 or binary keys of a batch that has the key columns. O(n), without a copy for a single plain column."""
        if self.stored:
            if "_key" in batch.schema.names:
                return batch.column("_key")
            return self._composite(batch)
        column = batch.column(self.names[0])
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
        if self.kind == "int64":
            kind = column.type
            if pa.types.is_integer(kind):
                return column if kind == pa.int64() else column.cast(pa.int64())
            return column.view(pa.int64()) if kind.bit_width == 64 else column.view(pa.int32()).cast(pa.int64())
        return column if pa.types.is_binary(column.type) else column.cast(pa.binary())

    def _composite(self, batch: pa.RecordBatch | pa.Table) -> pa.Array:
        encoders = [_encoder(f) for f in self._fields]
        columns = [batch.column(n).to_pylist() for n in self.names]
        return pa.array([b"".join(e(v) for e, v in zip(encoders, row, strict=True)) for row in zip(*columns, strict=True)], pa.binary())

    def scalar(self, key: Any) -> int | bytes:
        """One encoded key; `SchemaError` where the value does not fit the column."""
        parts = key if isinstance(key, tuple) and len(self.names) > 1 else (key,)
        if len(parts) != len(self.names):
            raise SchemaError(f"key {key!r} has {len(parts)} parts; wanted {tuple(self.names)}")
        arrays = []
        for field, part in zip(self._fields, parts, strict=True):
            if part is None or not _same_kind(part, field.type):
                raise SchemaError(f"key {key!r}: {part!r} for column {field.name!r}; wanted {field.type}")
            try:
                arrays.append(pa.array([part], field.type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as why:
                raise SchemaError(f"key {key!r}: {part!r} for column {field.name!r}; wanted {field.type}") from why
        encoded: int | bytes = self.encode(pa.RecordBatch.from_arrays(arrays, schema=self._schema))[0].as_py()
        return encoded

    def key_of(self, scalar: int | bytes) -> Any:
        """The user's key of an encoded one, for messages and results."""
        if self.stored:
            parts, at = [], 0
            for field in self._fields:
                value, at = _decode(field, scalar, at)  # type: ignore[arg-type]
                parts.append(value)
            return tuple(parts) if len(parts) > 1 else parts[0]
        kind = self._fields[0].type
        if self.kind == "int64":
            array = pa.array([scalar], pa.int64())
            if pa.types.is_integer(kind):
                return array.cast(kind)[0].as_py()
            return (array.view(kind) if kind.bit_width == 64 else array.cast(pa.int32()).view(kind))[0].as_py()
        return scalar.decode() if pa.types.is_string(kind) else scalar  # type: ignore[union-attr]


def _same_kind(value: Any, kind: pa.DataType) -> bool:
    """Whether Arrow may convert the value; it would make 1 of True and of 1.5."""
    if isinstance(value, (bool, np.bool_)):
        return bool(pa.types.is_boolean(kind))
    return not (isinstance(value, (float, np.floating)) and pa.types.is_integer(kind))


def _encoder(field: pa.Field) -> Any:
    kind, t = field.type, pa.types
    if t.is_boolean(kind):
        return lambda v: b"\x01" if v else b"\x00"
    if kind == pa.uint64():
        return lambda v: struct.pack(">Q", v)
    if t.is_integer(kind):
        return lambda v: struct.pack(">Q", v + (1 << 63))
    if t.is_floating(kind):
        return lambda v: _float_bytes(v, field.name)
    if t.is_string(kind) or t.is_large_string(kind):
        return lambda v: v.encode().replace(b"\x00", _ESCAPED) + _END
    if t.is_binary(kind) or t.is_large_binary(kind):
        return lambda v: bytes(v).replace(b"\x00", _ESCAPED) + _END
    if t.is_temporal(kind):
        return lambda v: struct.pack(">Q", _ticks(v, kind) + (1 << 63))
    raise SchemaError(
        f"column {field.name!r} of type {kind} cannot be in a primary key; keys are integers, floats, bool, text, bytes, dates and times"
    )


def _ticks(value: Any, kind: pa.DataType) -> int:
    array = pa.array([value], kind)
    ticks: int = (array.view(pa.int64()) if kind.bit_width == 64 else array.view(pa.int32()))[0].as_py()
    return ticks


def _float_bytes(value: float, name: str) -> bytes:
    if value != value:
        raise SchemaError(f"key column {name!r}: given NaN, which equals nothing; a key cannot be NaN")
    (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
    return struct.pack(">Q", bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63))


def _decode(field: pa.Field, data: bytes, at: int) -> tuple[Any, int]:
    kind, t = field.type, pa.types
    if t.is_boolean(kind):
        return data[at] == 1, at + 1
    if t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind):
        end = at
        while data[end : end + 2] != _END:
            end += 2 if data[end] == 0 else 1
        raw = data[at:end].replace(_ESCAPED, b"\x00")
        return (raw if t.is_binary(kind) or t.is_large_binary(kind) else raw.decode()), end + 2
    (bits,) = struct.unpack_from(">Q", data, at)
    if kind == pa.uint64():
        return bits, at + 8
    if t.is_floating(kind):
        bits ^= (1 << 63) if bits >> 63 else 0xFFFFFFFFFFFFFFFF
        return struct.unpack(">d", struct.pack(">Q", bits))[0], at + 8
    value = bits - (1 << 63)
    if t.is_temporal(kind):
        ticks = pa.array([value], pa.int64() if kind.bit_width == 64 else pa.int32())
        return ticks.view(kind)[0].as_py(), at + 8
    return value, at + 8


def physical_schema(schema: Schema) -> pa.Schema:
    """What is logged, kept in memory and written: the user's columns, ``_key`` where no column is the key, ``_seq``, ``_op``.

    Only key columns are never null: a delete has no other values. ``_op`` is 1 for a row, 0 for a delete.
    """
    key = set(schema.primary_key)
    fields = [f.with_nullable(f.name not in key) for f in schema.arrow]
    if KeyCodec(schema).stored:
        fields.append(pa.field("_key", pa.binary(), nullable=False))
    fields.append(pa.field("_seq", pa.uint64(), nullable=False))
    fields.append(pa.field("_op", pa.uint8(), nullable=False))
    return pa.schema(fields)
