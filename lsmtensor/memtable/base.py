"""What a memtable is to the tree, and the part that every kind shares: where the rows are.

A kind of memtable is an index over row numbers; the rows themselves lie in record batches here.

- One thread adds at a time (the tree's writer lock); any number read meanwhile, without locks.
- Rows are numbered from 0 in the order added, and a number never changes.
- Versions never fall, so the rows that a snapshot sees are always a prefix, and of one key's rows in
  that prefix the last is the newest.
- Single rows come compact (`Memtable.append`) and become a batch when somebody asks for one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from .. import rows
from ..arrowtake import take_array, take_table
from ..errors import InvalidArgumentError
from ..rows.columns import to_batch

KEY_TYPES = {"int64": pa.int64(), "bytes": pa.binary()}

# batches below both limits are joined, FAN_IN of about a size at a time, so that many small commits leave few batches
FAN_IN = 16
SMALL_ROWS = 4096
SMALL_BYTES = 1 << 16
JOINED_BYTES = 1 << 20  # of a column that is joined to take rows of it
SETTLE_ROWS = 16384  # compact rows that become one batch


@dataclass(frozen=True)
class View:
    """The rows of a memtable at one moment; a later `Memtable.add` does not change it."""

    schema: pa.Schema
    key_type: pa.DataType
    batches: tuple[pa.RecordBatch, ...] = ()
    key_parts: tuple[pa.Array, ...] = ()
    rows: int = 0
    min_seq: int = 0
    max_seq: int = 0
    nbytes: int = 0

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (batches + 1): the first row number of each batch, and of the next to come."""
        return np.cumsum([0, *map(len, self.key_parts)], dtype=np.int64)

    def table(self) -> pa.Table:
        """All rows by row number; no copy."""
        return pa.Table.from_batches(self.batches, self.schema)

    @cached_property
    def _keys(self) -> pa.Array:
        parts = self.key_parts
        return parts[0] if len(parts) == 1 else pa.concat_arrays([*parts, pa.array([], self.key_type)])

    def keys(self) -> pa.Array:
        """int64 or binary (rows): the encoded keys by row number."""
        return self._keys

    def keys_between(self, start: int, stop: int) -> list[pa.Array]:
        """The keys of rows [start, stop), in pieces; no copy."""
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        pieces = []
        for part, at in zip(self.key_parts[first:], self.starts[first:-1].tolist(), strict=True):
            if at >= stop:
                break
            low = max(start - at, 0)
            pieces.append(part.slice(low, stop - at - low))
        return pieces

    def take(self, rows: np.ndarray, names: Sequence[str] | None = None) -> pa.Table:
        """The rows of these numbers in the order given, all columns or the named ones. O(rows), copies them."""
        names = self.schema.names if names is None else names
        schema = pa.schema([self.schema.field(n) for n in names], self.schema.metadata)
        rows = np.asarray(rows, np.int64)
        if len(rows) == 0:
            return schema.empty_table()
        owner = np.searchsorted(self.starts, rows, "right") - 1
        if (owner == owner[0]).all():
            return self._take(int(owner[0]), rows, schema)
        whole = [column for name in schema.names if (column := self._joined(name)) is not None]
        if len(whole) == len(schema):
            return pa.Table.from_arrays([take_array(column, rows) for column in whole], schema=schema)
        grouped = np.argsort(owner, kind="stable")
        used, firsts = np.unique(owner[grouped], return_index=True)
        groups = np.split(rows[grouped], firsts[1:])
        parts = [self._take(int(b), group, schema) for b, group in zip(used, groups, strict=True)]
        back = np.empty(len(rows), np.int64)
        back[grouped] = np.arange(len(rows))
        return take_table(pa.concat_tables(parts), back)

    def _joined(self, name: str) -> pa.Array | None:
        """A column as one array, made once, where that takes little memory: gathering from many batches costs more."""
        if name not in self._columns:
            parts = [batch.column(name) for batch in self.batches]
            self._columns[name] = pa.concat_arrays(parts) if sum(part.nbytes for part in parts) <= JOINED_BYTES else None
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, pa.Array | None]:
        return {}

    def _take(self, batch: int, rows: np.ndarray, schema: pa.Schema) -> pa.Table:
        local = rows - self.starts[batch]
        columns = [take_array(self.batches[batch].column(name), local) for name in schema.names]
        return pa.Table.from_arrays(columns, schema=schema)


class Memtable(ABC):
    """Committed rows in memory. Subclasses say how keys are found: `_index`, `_find`, `_order`."""

    def __init__(self, key_kind: str, physical: pa.Schema) -> None:
        if key_kind not in KEY_TYPES:
            raise InvalidArgumentError(f"key kind {key_kind!r}; wanted one of {', '.join(KEY_TYPES)}")
        self.key_kind, self.physical = key_kind, physical
        self._view = View(physical, KEY_TYPES[key_kind])
        # every row by number, the compact ones whole; those at and after `_view.rows` are compact and in no batch yet
        self.store: Any = rows.kit().RowTable()
        self.batch_bytes = 0  # of rows that came in batches
        self._growing = threading.Lock()
        # the commits and the row counts after each; appended to only, `_ends` first, so that a reader finds its pair
        self._versions: list[int] = []
        self._ends: list[int] = []

    def add(self, batch: pa.RecordBatch, keys: pa.Array, version: int) -> None:
        """Rows of one commit, visible to snapshots at or above ``version``. O(rows · log rows) over many small adds.

        ``batch`` has the physical schema and ``_seq`` equal to ``version`` in every row; ``keys`` (rows) are
        encoded. Of equal keys in one commit the last row counts. Versions must not fall. The buffers are
        kept, not copied: they must not change.
        """
        view, count = self._view, batch.num_rows
        if not batch.schema.equals(self.physical) or keys.type != view.key_type or len(keys) != count:
            raise InvalidArgumentError(
                f"a memtable of {view.key_type} keys got {count} rows of {batch.schema} and {len(keys)} keys of "
                f"{keys.type}; wanted as many keys as rows, and the schema {self.physical}"
            )
        if version < self.max_seq:
            raise InvalidArgumentError(f"version {version} after {self.max_seq}; commits are added in their order")
        if count == 0:
            return
        with self._growing:
            self._settle()
            self.batch_bytes += self._extend(batch, keys, [version], [self._view.rows + count])
            # after the view: who finds rows without a key there looks for it in the view
            self.store.skip(count, version)

    def append(self, format: Any, payload: Any, version: int, check: bool = False) -> int:
        """Compact rows of one commit, as they are in its log record; O(bytes), no Arrow. Answers `nbytes`. ``check`` where they come
        from a file: `ValueError` for rows that are not of the format, and none of them is to be used."""
        store = self.store
        store.append(format, payload, version, check)
        return self.batch_bytes + store.nbytes  # type: ignore[no-any-return]

    def _extend(self, batch: pa.RecordBatch, keys: pa.Array, versions: list[int], ends: list[int]) -> int:
        """Another batch of rows in the view, its bytes; the caller holds the lock."""
        view = self._view
        size = int(batch.get_total_buffer_size() + keys.get_total_buffer_size())
        self._index(keys, view.rows)
        batches, parts = _joined([*view.batches, batch], [*view.key_parts, keys])
        self._ends += ends
        self._versions += versions
        self._view = View(
            view.schema,
            view.key_type,
            batches,
            parts,
            view.rows + batch.num_rows,
            view.min_seq if view.rows else versions[0],
            versions[-1],
            view.nbytes + size,
        )
        return size

    def _settle(self) -> None:
        """Compact rows become batches; the caller holds the lock."""
        stop = self.store.rows
        while (start := self._view.rows) < stop:
            end = min(start + SETTLE_ROWS, stop)
            batch, keys = to_batch(self.store, start, end, self.physical, self.key_kind)
            self._extend(batch, keys, batch.column("_seq").to_pylist(), list(range(start + 1, end + 1)))

    def view(self) -> View:
        """The rows as they are now: one consistent state for a reader that asks more than one question."""
        if self._view.rows < self.store.rows:
            with self._growing:
                self._settle()
        return self._view

    @property
    def settled(self) -> View:
        """The rows that are in batches by now: at least those that came in batches."""
        return self._view

    @property
    def rows(self) -> int:
        """Rows added, superseded ones and deletes included."""
        return int(self.store.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of rows and keys as they came; the index over them is not counted."""
        return int(self.batch_bytes + self.store.nbytes)

    @property
    def min_seq(self) -> int:
        """The oldest version; 0 while empty."""
        return int(self.store.min_seq)

    @property
    def max_seq(self) -> int:
        """The newest version; 0 while empty."""
        return int(self.store.max_seq)

    def table(self) -> pa.Table:
        return self.view().table()

    def keys(self) -> pa.Array:
        return self.view().keys()

    def take(self, rows: np.ndarray, names: Sequence[str] | None = None) -> pa.Table:
        return self.view().take(rows, names)

    def lookup(self, key: int | bytes, snapshot: int) -> tuple[int, int, int, dict[str, Any] | None] | None:
        """(version, op, row number, the row where it is at hand) of the newest version of one encoded key that the snapshot
        sees, deletes included; None where there is none."""
        found = self.get(pa.array([key], self._view.key_type), snapshot)
        if found[0] < 0:
            return None
        row = self.take(found, ["_seq", "_op"])
        return row.column("_seq")[0].as_py(), row.column("_op")[0].as_py(), int(found[0]), None

    def get(self, keys: pa.Array, snapshot: int) -> np.ndarray:
        """int64 (q): the row of the newest version of each key that the snapshot sees, deletes included; else -1."""
        view = self.view()
        limit = self._limit(view, snapshot)
        if limit == 0 or len(keys) == 0:
            return np.full(len(keys), -1, np.int64)
        return self._find(keys, limit, view)

    def sorted_run(self, snapshot: int | None = None) -> tuple[pa.Table, pa.Array]:
        """(table, keys) in run order: by key ascending, then version descending, each (key, version) once.

        With ``snapshot`` only the versions that it sees. O(n log n), copies the rows.
        """
        view = self.view()
        limit = view.rows if snapshot is None else self._limit(view, snapshot)
        if limit == 0:
            return view.schema.empty_table(), pa.array([], view.key_type)
        order = self._order(limit, view)
        table, keys = view.take(order), view.keys().take(pa.array(order))
        if limit > 1:
            again = _repeats(keys, table.column("_seq").to_numpy())
            if again.any():
                keep = pa.array(~again)
                table, keys = table.filter(keep), keys.filter(keep)
        return table, keys

    def _limit(self, view: View, snapshot: int) -> int:
        """How many rows a snapshot sees: a prefix, because versions never fall."""
        if snapshot >= view.max_seq:
            return view.rows
        at = bisect_right(self._versions, snapshot)
        return min(self._ends[at - 1], view.rows) if at else 0

    @abstractmethod
    def _index(self, keys: pa.Array, first_row: int) -> None:
        """New rows come, numbered from ``first_row``; readers do not see them yet."""

    @abstractmethod
    def _find(self, keys: pa.Array, limit: int, view: View) -> np.ndarray:
        """int64 (q): the last row below ``limit`` of each key, -1 where none."""

    @abstractmethod
    def _order(self, limit: int, view: View) -> np.ndarray:
        """int64 (limit): the rows below ``limit`` by key ascending, then row number descending."""


def _repeats(keys: pa.Array, seqs: np.ndarray) -> np.ndarray:
    """bool (n): the key and version of the row before, in run order."""
    again = np.zeros(len(keys), bool)
    same = np.flatnonzero(seqs[1:] == seqs[:-1])
    if len(same):
        import pyarrow.compute as pc

        equal = pc.equal(keys.take(pa.array(same)), keys.take(pa.array(same + 1)))
        again[same[equal.to_numpy(zero_copy_only=False)] + 1] = True
    return again


def _joined(
    batches: list[pa.RecordBatch], parts: list[pa.Array]
) -> tuple[tuple[pa.RecordBatch, ...], tuple[pa.Array, ...]]:
    """The same rows in fewer batches: FAN_IN neighbours at the end, of about a size, become one.

    Every row is copied once a size class, O(log n) times in all; rows keep their numbers.
    """
    while len(batches) >= FAN_IN:
        tail = batches[-FAN_IN:]
        # the newest alone says it where commits are large
        if tail[-1].get_total_buffer_size() >= SMALL_BYTES or tail[0].num_rows > FAN_IN // 2 * tail[-1].num_rows:
            break
        if any(b.num_rows >= SMALL_ROWS or b.get_total_buffer_size() >= SMALL_BYTES for b in tail):
            break
        batches[-FAN_IN:] = [pa.concat_batches(tail)]
        parts[-FAN_IN:] = [pa.concat_arrays(parts[-FAN_IN:])]
    return tuple(batches), tuple(parts)
