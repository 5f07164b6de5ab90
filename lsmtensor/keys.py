"""Keys as the tree sorts them: one int64, or bytes whose order is the user's order.

One integer, date or time column is its int64 view; one text or binary column is its bytes. Anything
else is encoded column after column, so that bytes compare as the tuples do:

    bool                  1 byte, 0 or 1
    uint64                8 bytes, big-endian
    integers, times       8 bytes, big-endian, of the value + 2**63
    floats                8 bytes, big-endian, of the IEEE double: all bits flipped if negative, else the sign bit; -0.0 is 0.0
    text, binary          its bytes with 0x00 written as 0x00 0xFF, ended by 0x00 0x00

These bytes are on disk: a change of encoding takes a new format version.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from .convert import python_value, to_array
from .convert_tensors import short
from .errors import CorruptionError, SchemaError
from .schema import Schema

SYSTEM = ("_key", "_seq", "_op")
_END, _ESCAPED = b"\x00\x00", b"\x00\xff"


def _int64_like(kind: pa.DataType) -> bool:
    t = pa.types
    return (t.is_integer(kind) and kind != pa.uint64()) or t.is_date(kind) or t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind)


def _bytes_like(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(_text(kind) or t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind))


def _text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class KeyCodec:
    """How the keys of one schema are encoded; immutable, free to share between threads.

    ``kind`` is ``"int64"`` or ``"bytes"``; ``stored`` says that encoded keys are a column of their own
    (``_key``), since no user column is one. Raises `SchemaError` for column types that have no order.
    """

    def __init__(self, schema: Schema) -> None:
        self._fields = [schema.arrow.field(n) for n in schema.primary_key]
        self.names: tuple[str, ...] = schema.primary_key
        self._schema = pa.schema(self._fields)
        for field in self._fields:
            kind, t = field.type, pa.types
            if not (_int64_like(kind) or _bytes_like(kind) or kind == pa.uint64() or t.is_boolean(kind) or t.is_floating(kind)):
                raise SchemaError(f"column {field.name!r} of type {kind} cannot be in a primary key; keys are integers, floats, bool, text, bytes, dates and times")
        first, single = self._fields[0].type, len(self._fields) == 1
        self.kind = "int64" if single and _int64_like(first) else "bytes"
        self.stored = not (single and (_int64_like(first) or _bytes_like(first)))
        # the fast path of one Python key: an int within these bounds, or text, is encoded without Arrow
        self._range: tuple[int, int] | None = None
        if single and pa.types.is_integer(first) and not self.stored:
            limits = np.iinfo(first.to_pandas_dtype())
            self._range = (int(limits.min), int(limits.max))
        self._is_text = single and _text(first)

    def encode(self, batch: pa.RecordBatch | pa.Table) -> pa.Array:
        """int64 or binary keys of a batch that has the key columns (or ``_key``). O(n); for one plain column of int64,
        time or text nothing is copied (large text: its offsets, and all keys must fit in 2 GiB)."""
        if self.stored:
            names = batch.schema.names
            return _one(batch.column("_key")) if "_key" in names else self._composite([_one(batch.column(n)) for n in self.names])
        column = _one(batch.column(self.names[0]))
        return _ticks(column) if self.kind == "int64" else self._binary(column, self.names[0])

    def decode(self, keys: pa.Array) -> pa.RecordBatch:
        """The key columns of encoded keys: what `encode` was given, but -0.0 comes back as 0.0."""
        if self.stored:
            rows = [self._parts(k) for k in keys.to_pylist()]
            arrays = [_column([r[i] for r in rows], f.type) for i, f in enumerate(self._fields)]
        elif self.kind == "int64":
            arrays = [_of_ticks(keys, self._fields[0].type)]
        else:
            arrays = [keys.cast(self._fields[0].type)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def scalar(self, key: Any) -> int | bytes:
        """One encoded key; `SchemaError` where the value does not fit the column."""
        if type(key) is int and self._range is not None and self._range[0] <= key <= self._range[1]:
            return key
        if type(key) is str and self._is_text:
            try:
                return key.encode()
            except UnicodeEncodeError as why:
                raise SchemaError(f"key {key!r}: {why}; wanted text that UTF-8 can hold") from why
        parts = key if isinstance(key, tuple) and len(self.names) > 1 else (key,)
        if len(parts) != len(self.names):
            raise SchemaError(f"key {key!r} has {len(parts)} parts; wanted {self.names}")
        arrays = self._arrays(key, parts)
        encoded: int | bytes = self.encode(pa.RecordBatch.from_arrays(arrays, schema=self._schema))[0].as_py()
        return encoded

    def bound(self, key: Any) -> int | bytes:
        """The least encoded key of a scan bound: of a whole key it is the key; a tuple of the first columns
        stands before every key that begins with it."""
        if not (self.stored and isinstance(key, tuple) and len(key) < len(self.names)):
            return self.scalar(key)
        if not key:
            raise SchemaError(f"bound (): wanted one or more of {self.names}")
        least: bytes = self._composite(self._arrays(key, key))[0].as_py()
        return least

    def key_of(self, scalar: int | bytes) -> Any:
        """The user's key of an encoded one, for messages and results."""
        keys = pa.array([scalar], pa.int64() if self.kind == "int64" else pa.binary())
        parts = tuple(python_value(column[0]) for column in self.decode(keys).columns)
        return parts if len(parts) > 1 else parts[0]

    # -- inside ----------------------------------------------------------------------------------

    def _arrays(self, key: Any, parts: tuple[Any, ...]) -> list[pa.Array]:
        arrays = []
        for field, part in zip(self._fields, parts, strict=False):
            wrong = f"key {key!r}: {short(part)} for column {field.name!r}; wanted {field.type}"
            if part is None or isinstance(part, (bool, np.bool_)) != pa.types.is_boolean(field.type):
                raise SchemaError(wrong)
            if isinstance(part, (str, bytes)) and isinstance(part, str) != _text(field.type):
                raise SchemaError(wrong)
            try:
                arrays.append(to_array([part], field.name, field.type))
            except SchemaError as why:
                raise SchemaError(wrong) from why
        return arrays

    def _binary(self, column: pa.Array, name: str) -> pa.Array:
        if pa.types.is_binary(column.type):
            return column
        try:
            return column.cast(pa.binary())
        except pa.ArrowException as why:
            raise SchemaError(f"key column {name!r}: {why}; wanted less than 2 GiB of keys in one batch") from why

    def _composite(self, columns: list[pa.Array]) -> pa.Array:
        import pyarrow.compute as pc

        parts = []
        for field, column in zip(self._fields, columns, strict=False):
            kind = field.type
            if _bytes_like(kind):
                raw = self._binary(column, field.name)
                data = raw.buffers()[2]
                # most texts hold no zero byte, and one look at the bytes tells
                if data is not None and not np.frombuffer(data, np.uint8).all():
                    raw = pc.replace_substring(raw, pattern=b"\x00", replacement=_ESCAPED)
                parts += [raw, pa.scalar(_END, pa.binary())]
            else:
                parts.append(_fixed_bytes(column, field.name))
        if len(columns[0]) == 0:
            return pa.array([], pa.binary())
        return _one(pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary())))

    def _parts(self, data: bytes) -> list[Any]:
        """The column values of an encoded key: ticks for times, plain Python for the rest."""
        parts, at = [], 0
        try:
            for field in self._fields:
                value, at = _decode(field.type, data, at)
                parts.append(value)
        except (IndexError, ValueError) as why:
            raise CorruptionError(f"encoded key {data!r} is not one of {self.names}: {why}") from why
        if at != len(data):
            raise CorruptionError(f"encoded key {data!r} has {len(data) - at} bytes after {self.names}")
        return parts


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _ticks(column: pa.Array) -> pa.Array:
    """Integers and times as int64; a view where they are 64 bits wide."""
    kind = column.type
    if pa.types.is_integer(kind):
        return column if kind == pa.int64() else column.cast(pa.int64())
    return column.view(pa.int64()) if kind.bit_width == 64 else column.view(pa.int32()).cast(pa.int64())


def _of_ticks(ticks: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_integer(kind):
        return ticks.cast(kind)
    return ticks.view(kind) if kind.bit_width == 64 else ticks.cast(pa.int32()).view(kind)


def _fixed_bytes(column: pa.Array, name: str) -> pa.Array:
    """Numbers, times and bool as binary of 8 bytes (bool: 1) that sort as they do."""
    kind, t = column.type, pa.types
    if t.is_boolean(kind):
        raw, width = column.to_numpy(zero_copy_only=False).astype(np.uint8), 1
    else:
        width = 8
        if t.is_floating(kind):
            values = column.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0  # -0.0 becomes 0.0
            bad = np.flatnonzero(np.isnan(values))
            if len(bad):
                raise SchemaError(f"key column {name!r}, row {bad[0]}: given NaN, which equals nothing; a key cannot be NaN")
            bits = values.view(np.uint64)
            bits = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))
        elif kind == pa.uint64():
            bits = column.to_numpy(zero_copy_only=False)
        else:
            bits = _ticks(column).to_numpy(zero_copy_only=False).view(np.uint64) ^ np.uint64(1 << 63)
        raw = bits.astype(">u8")
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(column), [None, pa.py_buffer(raw)]).cast(pa.binary())


def _decode(kind: pa.DataType, data: bytes, at: int) -> tuple[Any, int]:
    t = pa.types
    if t.is_boolean(kind):
        return data[at] == 1, at + 1
    if _bytes_like(kind):
        end = data.index(b"\x00", at)
        while data[end + 1] != 0:
            end = data.index(b"\x00", end + 2)
        raw = data[at:end].replace(_ESCAPED, b"\x00")
        return (raw.decode() if _text(kind) else raw), end + 2
    if len(data) < at + 8:
        raise IndexError(f"it ends within byte {at}")
    bits = int.from_bytes(data[at : at + 8], "big")
    if t.is_floating(kind):
        bits = bits ^ (1 << 63) if bits >> 63 else bits ^ (2**64 - 1)
        return float(np.uint64(bits).view(np.float64)), at + 8
    return bits if kind == pa.uint64() else bits - (1 << 63), at + 8


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(kind):
        return pa.array(np.array(values, kind.to_pandas_dtype()))
    return _of_ticks(pa.array(values, pa.int64()), kind) if _int64_like(kind) else pa.array(values, kind)


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
