"""Single rows in plain Python: what the compiled module does, said once more, and what serves where it was not compiled.

A compact row, little-endian; docs/format-wal.md shows it inside a log record::

    row    := size:u32 key_size:u32 op:u8 0[3] key[key_size] present[(columns - 1 + 7) / 8] value*
    value  := fixed[width] | size:u32 bytes[size]          of each column but the key's, in order, where its bit is set

``key`` is the encoded key (keys.py), a whole number as 8 bytes. ``op`` is 1 for a row, 0 for a delete.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CorruptionError
from .committing import Commits, LogEnd, log_record

BOOL, INT, UINT, FLOAT, TEXT, BYTES, TENSOR, OTHER = range(1, 9)
HEAD = 16
PACKED_LIMIT = 1 << 20
_ROW = struct.Struct("<IIB3x")
_SIZE = struct.Struct("<I")

# (name, code, bytes of a fixed value or of Arrow's offset to one, may be null, is shown to the user, (dtype, shape) of a tensor)
ColumnInfo = tuple[str, int, int, bool, bool, Any]
Key = int | bytes


class RowFormat:
    """How rows of one schema are packed. ``key_at`` is the column that the encoded key is; ``head`` (16 bytes) begins each payload."""

    def __init__(self, columns: Sequence[ColumnInfo], key_at: int, key_is_int: bool, head: bytes) -> None:
        self.columns, self.key_at, self.key_is_int, self.head = tuple(columns), key_at, key_is_int, head
        if len(head) != HEAD or not 0 <= key_at < len(self.columns):
            raise ValueError(f"head of {len(head)} bytes, key column {key_at} of {len(self.columns)}")
        self.nulls = (len(self.columns) + 6) // 8

    def pack(self, key: Any, row: dict[str, Any] | None, op: int = 1) -> bytes | None:
        """The payload of a log record with this row, or None where some value is not what its column holds as it stands.

        ``key`` is the user's (the encoded one where ``key_at`` is a column of its own). Text, bytes, whole numbers, floats,
        bools and arrays of the very dtype and shape are taken; everything else, also what is wrong, goes the long way.
        """
        if len(self.columns) > 64 or not (row is None or type(row) is dict):
            return None
        encoded = self.key(key)
        if encoded is None:
            return None
        present, values, bit, used = bytearray(self.nulls), [], 0, 0
        for i, (name, _, _, nullable, _, _) in enumerate(self.columns):
            if i == self.key_at:
                continue
            value = None if row is None else row.get(name)
            used += row is not None and name in row
            if value is None:
                if op and not nullable:
                    return None
            else:
                packed = self._pack(i, value)
                if packed is None:
                    return None
                present[bit >> 3] |= 1 << (bit & 7)
                values.append(packed)
            bit += 1
        if row is not None and used != len(row):
            return None
        body = encoded + bytes(present) + b"".join(values)
        total = HEAD + _ROW.size + len(body)
        return None if total > PACKED_LIMIT else self.head + _ROW.pack(total - HEAD, len(encoded), op) + body

    def key(self, key: Any) -> bytes | None:
        """The bytes of a user's key in a row; None where the codec must look at it."""
        _, code, _, _, _, _ = self.columns[self.key_at]
        if code in (INT, UINT):
            return struct.pack("<q", key) if type(key) is int and self._pack(self.key_at, key) is not None else None
        packed = self._pack(self.key_at, key) if code in (TEXT, BYTES) else None
        return None if packed is None else packed[4:]

    def _pack(self, i: int, value: Any) -> bytes | None:
        _, code, width, _, _, extra = self.columns[i]
        given: Any = type(value)
        if code == BYTES and given is bytes:
            return _SIZE.pack(len(value)) + value
        if code == TEXT and given is str:
            try:
                text = value.encode()
            except UnicodeEncodeError:
                return None
            return _SIZE.pack(len(text)) + text
        if code in (INT, UINT) and given is int:
            low, high = (0, min(1 << 8 * width, 1 << 63)) if code == UINT else (-(1 << 8 * width - 1), 1 << 8 * width - 1)
            return value.to_bytes(width, "little", signed=code == INT) if low <= value < high else None
        if code == FLOAT and (given is float or (given is int and abs(value) <= 1 << 53)):
            try:
                return struct.pack("<d" if width == 8 else "<f", value)
            except OverflowError:
                return None
        if code == BOOL and given is bool:
            return b"\1" if value else b"\0"
        if code == TENSOR and given is np.ndarray and value.dtype == extra[0] and value.shape == extra[1] and value.flags.c_contiguous:
            return bytes(value.tobytes())
        return None

    def row(self, data: bytes) -> dict[str, Any]:
        """The row of a compact record."""
        _, key_size, _ = _ROW.unpack_from(data)
        key = data[_ROW.size : _ROW.size + key_size]
        values = self.values(data)
        made = {}
        for i, (name, code, _, _, shown, _) in enumerate(self.columns):
            if not shown:
                continue
            if i == self.key_at:
                made[name] = int.from_bytes(key, "little", signed=True) if self.key_is_int else _decoded(code, key, None)
            else:
                value = values[i]
                made[name] = None if value is None else _decoded(code, value, self.columns[i][5])
        return made

    def values(self, data: bytes) -> list[bytes | None]:
        """The bytes of each column's value, None for null and for the key. `ValueError` where the row is not one of this format."""
        size, key_size, op = _ROW.unpack_from(data)
        at = _ROW.size + key_size
        if size != len(data) or at + self.nulls > size or op > 1 or (self.key_is_int and key_size != 8):
            raise ValueError("a compact row does not fit its format")
        bits, at, bit = data[at : at + self.nulls], at + self.nulls, 0
        found: list[bytes | None] = []
        for i, (_, code, width, nullable, _, _) in enumerate(self.columns):
            if i == self.key_at:
                found.append(None)
                continue
            if bits[bit >> 3] >> (bit & 7) & 1:
                n = width
                if code == OTHER:
                    raise ValueError("a compact row holds a value of a column that has none")
                if code in (TEXT, BYTES):
                    n = int.from_bytes(data[at : at + 4], "little")
                    at += 4
                found.append(data[at : at + n])
                at += n
            elif op and not nullable:
                raise ValueError("a compact row lacks a value")
            else:
                found.append(None)
            bit += 1
        if at != size:
            raise ValueError("a compact row does not fit its format")
        return found


def _decoded(code: int, data: bytes, extra: Any) -> Any:
    if code == BYTES:
        return data
    if code == TEXT:
        try:
            return data.decode()
        except UnicodeDecodeError as why:
            raise CorruptionError(f"text of a row is not UTF-8 ({why})") from why
    if code in (INT, UINT):
        return int.from_bytes(data, "little", signed=code == INT)
    if code == FLOAT:
        return struct.unpack("<d" if len(data) == 8 else "<f", data)[0]
    if code == BOOL:
        return data != b"\0"
    return np.frombuffer(data, extra[0]).reshape(extra[1]).copy()


class RowTable:
    """Rows in memory by number and by key: compact ones whole, of those in batches the keys only.

    One thread adds, any number look. Rows are numbered in the order added; versions never fall. Nothing is indexed before somebody
    looks for a key, so that adding costs a copy. ``waiting`` counts the rows that were skipped and not filled yet.
    """

    def __init__(self) -> None:
        self.format: RowFormat | None = None
        self.rows = self.nbytes = self.waiting = self.min_seq = self.max_seq = 0
        self._keys: list[Key | None] = []
        self._found: list[tuple[int, int, bytes | None]] = []  # (seq, op, a compact row)
        self._last: dict[Key, int] = {}
        self._before: list[int] = []

    def append(self, format: RowFormat, payload: Any, seq: int, check: bool = False) -> int:
        """The rows of a payload, seen from ``seq`` on; answers how many. ``check`` for those that come from a file: `ValueError`."""
        self.format = self.format or format
        data, at, n = bytes(payload), HEAD, 0
        while at < len(data):
            if len(data) - at < _ROW.size:
                raise ValueError("a compact row does not fit its format")
            size, key_size, op = _ROW.unpack_from(data, at)
            row = data[at : at + size]
            if check:
                format.values(row)
            key = row[_ROW.size : _ROW.size + key_size]
            self._keys.append(int.from_bytes(key, "little", signed=True) if format.key_is_int else key)
            self._found.append((seq, op, row))
            self.rows += 1
            self.nbytes += size
            at += size
            n += 1
        self._seen(seq, n)
        return n

    def _seen(self, seq: int, n: int) -> None:
        if n:
            self.min_seq, self.max_seq = self.min_seq or seq, seq

    def skip(self, n: int, seq: int) -> None:
        """As many rows are in a batch; their keys come with `fill` when somebody asks for one."""
        self._keys += [None] * n
        self._found += [(seq, 0, None)] * n
        self.waiting += n
        self.rows += n
        self._seen(seq, n)

    def fill(self, first: int, keys: np.ndarray, offsets: np.ndarray | None, ops: np.ndarray, seqs: np.ndarray) -> None:
        """The keys of rows that were skipped: int64 (n), or bytes with int32 offsets (n + 1); uint8 and uint64 (n)."""
        if first < 0 or first + len(ops) > self.rows or len(seqs) != len(ops):
            raise ValueError("rows that were not skipped")
        for i, (key, op, seq) in enumerate(zip(_plain(keys, offsets), ops.tolist(), seqs.tolist(), strict=True), first):
            if self._keys[i] is None:
                self._found[i] = (seq, op, None)
                self._keys[i] = key
                self.nbytes += 24
                self.waiting -= 1

    def missing(self, start: int) -> tuple[int, int] | None:
        """The first rows at or after ``start`` whose keys wait, as (first, behind the last); None where none do."""
        first = next((i for i in range(start, self.rows) if self._keys[i] is None), None)
        if first is None:
            return None
        return first, next((i for i in range(first, self.rows) if self._keys[i] is not None), self.rows)

    def _index(self) -> None:
        for row in range(len(self._before), self.rows):
            key = self._keys[row]
            if key is None:
                break  # skipped since the last `fill`: rows newer than any that a reader may ask for
            # the chain first: a reader that finds `row` must find its predecessor
            self._before.append(self._last.get(key, -1))
            self._last[key] = row

    def find_many(self, keys: np.ndarray, offsets: np.ndarray | None, limit: int) -> np.ndarray:
        """int64 (q): the last row below ``limit`` of each key, -1 where none."""
        self._index()
        found = []
        for key in _plain(keys, offsets):
            row = self._last.get(key, -1)
            while row >= limit:
                row = self._before[row]
            found.append(row)
        return np.array(found, np.int64)

    def lookup(self, key: Key, snapshot: int) -> tuple[int, int, int, dict[str, Any] | None] | None:
        """(seq, op, row number, the row as a dict, or None where it is a delete or in a batch) of a key's newest version
        that the snapshot sees; None where there is none."""
        self._index()
        row = self._last.get(key, -1)
        while row >= 0 and self._found[row][0] > snapshot:
            row = self._before[row]
        if row < 0:
            return None
        seq, op, data = self._found[row]
        return seq, op, row, self.format.row(data) if self.format is not None and data is not None and op else None

    def columns(self, start: int, stop: int) -> tuple[list[tuple[np.ndarray | None, np.ndarray | None, np.ndarray]], np.ndarray, np.ndarray]:
        """Rows [start, stop), all compact, column by column: (validity uint8 or None, offsets (n + 1) or None, data uint8), Arrow's
        buffers; then their versions uint64 (n) and operations uint8 (n)."""
        assert self.format is not None
        rows, columns = self._found[start:stop], []
        values = []
        for _, _, data in rows:
            if data is None:
                raise ValueError("rows of a batch among compact ones")
            values.append(self.format.values(data))
            key_size = _ROW.unpack_from(data)[1]
            values[-1][self.format.key_at] = data[_ROW.size : _ROW.size + key_size]
        for i, (_, code, width, _, _, _) in enumerate(self.format.columns):
            mine = [v[i] for v in values]
            present = np.array([v is not None for v in mine], bool)
            valid = None if present.all() else np.packbits(present, bitorder="little")
            offsets = None
            if code in (TEXT, BYTES):
                offsets = np.cumsum([0, *(len(v or b"") for v in mine)], dtype=np.int32 if width == 4 else np.int64)
                data = b"".join(v or b"" for v in mine)
            else:
                data = b"".join(bytes(width) if v is None else v[:width] for v in mine)
            made = np.frombuffer(data, np.uint8)
            columns.append((valid, offsets, np.packbits(made, bitorder="little") if code == BOOL else made))
        return columns, np.array([seq for seq, _, _ in rows], np.uint64), np.array([op for _, op, _ in rows], np.uint8)


def _plain(keys: np.ndarray, offsets: np.ndarray | None) -> list[Any]:
    if offsets is None:
        listed: list[Any] = keys.tolist()
        return listed
    data, ends = keys.tobytes(), offsets.tolist()
    return [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def distinct(keys: np.ndarray, offsets: np.ndarray | None) -> bool:
    """Whether no key is there twice: int64 (n), or bytes with int32 offsets (n + 1). O(n)."""
    listed = _plain(keys, offsets)
    return len(set(listed)) == len(listed)


class Points:
    """One key in every source of a table, newest first: the first that knows the key settles it.

    A source has ``lookup(encoded key, snapshot)``: (version, op, function that makes the row) or None.
    """

    def __init__(self, format: RowFormat, scalar: Any, sources: Sequence[Any]) -> None:
        self._scalar, self._sources = scalar, tuple(sources)

    def get(self, key: Any, snapshot: int) -> dict[str, Any] | None:
        """The row as a dict, or None. ``key`` is the user's."""
        found = self._find(self._scalar(key), snapshot)
        made: dict[str, Any] | None = found[2]() if found is not None and found[1] else None
        return made

    def has(self, key: Any, snapshot: int) -> bool:
        """Whether there is a row."""
        found = self._find(self._scalar(key), snapshot)
        return found is not None and bool(found[1])

    def newest(self, key: Key) -> int:
        """The version of the newest row or delete of an encoded key; 0 where there is none."""
        found = self._find(key, (1 << 63) - 1)
        return 0 if found is None else int(found[0])

    def locate(self, keys: np.ndarray, offsets: np.ndarray | None, snapshot: int) -> None:
        """None: many keys are sought through Arrow here. The compiled module answers (source, row number) of each."""
        return None

    def many(self, keys: np.ndarray, offsets: np.ndarray | None, snapshot: int, wanted: list[int], skip: bool) -> None:
        """None, for the same reason. The compiled module answers the rows and Arrow's buffers of the columns ``wanted``."""
        return None

    def some(self, start: Key | None, stop: Key | None, snapshot: int, limit: int, reverse: bool, wanted: list[int]) -> None:
        """None, likewise: the first rows in a range of keys."""
        return None

    def _find(self, key: Key, snapshot: int) -> Any:
        return next((found for source in self._sources if (found := source.lookup(key, snapshot)) is not None), None)


__all__ = ["Commits", "LogEnd", "Points", "RowFormat", "RowTable", "distinct", "log_record"]
