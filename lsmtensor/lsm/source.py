"""The sources that a reader merges: a memtable, a sorted run; and the files under a run.

A `TableFile` opens its file on first use and unlinks it when it is obsolete and the last view that
holds it lets go: readers never see a file vanish, and nobody counts references by hand.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrowtake import take_table as take
from ..cache import Cache
from ..env.base import Env
from ..errors import StorageError
from ..memtable.base import Memtable
from ..sstable.coded import Coded
from ..sstable.outside import Fetch
from ..sstable.reader import TableReader
from . import keyspace, readers
from .columns import reader_for
from .keyspace import Key
from .layout import FileRef, Run


class TableFile:
    """One table file of the layout, opened on first use; thread-safe."""

    def __init__(self, env: Env, path: str, ref: FileRef, cache: Cache, fetch: Fetch) -> None:
        self.env, self.path, self.ref, self.cache, self.fetch = env, path, ref, cache, fetch
        self.obsolete = False
        self._lock = threading.Lock()
        self._reader: TableReader | None = None

    @property
    def reader(self) -> TableReader:
        if self._reader is None:
            with self._lock:
                if self._reader is None:
                    reader = TableReader(self.env, self.path, self.ref.number, self.cache, self.fetch)
                    reader.check_is(self.ref.size, self.ref.root)
                    self._reader = reader
        return self._reader

    def joined(self, views: Sequence[np.ndarray]) -> np.ndarray | None:
        """Contiguous views of the map behind each other, uint8, where that takes no copy; else None. They are not checked by this."""
        reader = self.reader
        whole = reader.file.joined([(v.ctypes.data - reader.base, v.nbytes) for v in views])
        return None if whole is None else np.frombuffer(whole, np.uint8)

    def __del__(self) -> None:
        if getattr(self, "obsolete", False):
            # what stays behind is swept at the next open
            with contextlib.suppress(StorageError, OSError):
                folder = os.path.dirname(self.path)
                for path in (self.path, *(f"{folder}/{s.file}" for s in self.ref.segments)):
                    readers.discard(self.env, os.path.dirname(folder), path)


class RunSource:
    """A sorted run as one sequence of batches; files are disjoint and in key order.

    Its columns are those of ``schema`` (a value of `Schema.to_dict`), whatever its files were written with, and of ``kept``, which
    were dropped and are still needed.
    """

    def __init__(self, run: Run, files: Sequence[TableFile], schema: dict[str, Any], kept: tuple[pa.Field, ...] = ()) -> None:
        self.run, self.files, self.schema, self.kept = run, tuple(files), schema, kept
        self.id, self.behind = run.id, run.behind
        self._readers: list[Any] = [None] * len(self.files)
        self.min_seq, self.max_seq = run.min_seq, run.max_seq
        self.starts = np.cumsum([0] + [f.ref.rows for f in self.files])
        self._map: list[tuple[Any, int]] | None = None

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def reader(self, at: int) -> Any:
        """The reader of a file, or of what it holds seen through the schema of this source."""
        found = self._readers[at]
        if found is None:
            found = self._readers[at] = reader_for(self.files[at], self.schema, self.kept)
        return found

    @property
    def _batches(self) -> list[tuple[Any, int]]:
        if self._map is None:
            readers = [self.reader(at) for at in range(len(self.files))]
            self._map = [(r, i) for r in readers for i in range(r.num_batches)]
        return self._map

    @property
    def num_batches(self) -> int:
        return len(self._batches)

    def first_key(self, i: int) -> Key:
        reader, at = self._batches[i]
        return reader.first_key(at)

    def last_key(self, i: int) -> Key:
        reader, at = self._batches[i]
        return reader.last_key(at)

    def keys(self, i: int) -> pa.Array:
        reader, at = self._batches[i]
        return reader.keys(at)

    def seqs(self, i: int) -> np.ndarray:
        reader, at = self._batches[i]
        return np.asarray(reader.column(at, "_seq"))

    def ops(self, i: int) -> np.ndarray:
        reader, at = self._batches[i]
        return np.asarray(reader.column(at, "_op"))

    def columns(self, i: int, names: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows [start, stop) of a batch, checked; views of the map."""
        reader, at = self._batches[i]
        schema = pa.schema([reader.schema.field(n) for n in names])
        return pa.Table.from_arrays([reader.column(at, n, start, stop) for n in names], schema=schema)

    def stored(self, i: int, name: str, kind: Coded, start: int = 0, stop: int | None = None) -> pa.Array:
        """Rows [start, stop) of a column of a batch as a file stores them under ``kind``; values that lie outside stay there."""
        reader, at = self._batches[i]
        return reader.stored(at, name, kind, start, stop)

    def row_bytes(self, i: int, names: Sequence[str]) -> float:
        """Mean bytes of a row of a batch in these columns."""
        reader, at = self._batches[i]
        return reader.row_bytes(at, names)

    def checked(self, i: int, names: Sequence[str], start: int, stop: int) -> bool:
        """Whether the checksums under these rows were right before, so that reading them is free."""
        reader, at = self._batches[i]
        return all(reader.checked(at, name, start, stop) for name in names)

    def may_match(self, i: int, where: Any) -> bool:
        reader, at = self._batches[i]
        return reader.may_match(at, where)

    def find(self, keys: pa.Array, snapshot: int) -> np.ndarray:
        """Row numbers in the run of the newest version that the snapshot sees, deletes included; -1 where none."""
        if len(self.files) == 1:
            return self.reader(0).find(keys, snapshot)
        rows = np.full(len(keys), -1, np.int64)
        for at, start in enumerate(self.starts[:-1]):
            open_ = np.flatnonzero(rows < 0)
            if len(open_) == 0:
                break
            found = self.reader(at).find(keys.take(pa.array(open_)), snapshot)
            rows[open_[found >= 0]] = found[found >= 0] + start
        return rows

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        """The rows in the order asked."""
        if len(self.files) == 1:
            return self.reader(0).take(rows, names)
        owner = np.searchsorted(self.starts, rows, "right") - 1
        tables, places = [], []
        for f in np.unique(owner):
            mine = np.flatnonzero(owner == f)
            tables.append(self.reader(f).take(rows[mine] - self.starts[f], names))
            places.append(mine)
        back = np.empty(len(rows), np.int64)
        back[np.concatenate(places)] = np.arange(len(rows))
        return take(pa.concat_tables(tables), back)

    def _batch_of(self, row: int) -> tuple[Any, int, int, int]:
        """(reader, number of the batch in its file, its first row in the run, the row behind its last)."""
        at = int(np.searchsorted(self.starts, row, "right")) - 1
        reader, first = self.reader(at), int(self.starts[at])
        i = int(np.searchsorted(reader.batch_starts, row - first, "right")) - 1
        return reader, i, first + int(reader.batch_starts[i]), first + int(reader.batch_starts[i + 1])

    def in_one_batch(self, start: int, stop: int) -> bool:
        return stop <= self._batch_of(start)[3]

    def one_batch(self, start: int, stop: int, name: str, check: bool = True) -> pa.Array:
        """Rows [start, stop) of a column, all in one batch, as a view of the map; checked unless told otherwise."""
        reader, i, begin, _ = self._batch_of(start)
        return reader.column(i, name, start - begin, stop - begin, check)

    def is_coded(self, row: int, name: str) -> bool:
        """Whether a column of the row's file is under a codec, so that there is no view of it."""
        return self._batch_of(row)[0].coded(name)

    def private(self, row: int, view: np.ndarray) -> np.ndarray:
        """The bytes of a view that `one_batch` gave of this row and those behind it, as memory of the caller's own."""
        return self._batch_of(row)[0].private(view)

    def deleted(self, rows: np.ndarray) -> np.ndarray:
        """bool: the rows are deletes."""
        return self.take(rows, ["_op"]).column("_op").to_numpy() == 0


class MemSource:
    """A memtable as a source; ``frozen`` ones are sorted once, the active one at each scan that finds it changed."""

    id, behind = -1, 0  # not the number of any run

    def __init__(self, memtable: Memtable) -> None:
        self.memtable = memtable
        self._sorted: tuple[int, pa.Table, pa.Array] | None = None

    @property
    def min_seq(self) -> int:
        return self.memtable.min_seq

    @property
    def max_seq(self) -> int:
        return self.memtable.max_seq

    @property
    def rows(self) -> int:
        return self.memtable.rows

    def sorted(self) -> SortedTable:
        rows = self.memtable.rows
        kept = self._sorted
        if kept is None or kept[0] != rows:
            table, keys = self.memtable.sorted_run()
            kept = self._sorted = (rows, table, keys)
        return SortedTable(kept[1], kept[2])

    def find(self, keys: pa.Array, snapshot: int) -> np.ndarray:
        return self.memtable.get(keys, snapshot)

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        return self.memtable.take(rows, names)

    def deleted(self, rows: np.ndarray) -> np.ndarray:
        """bool: the rows are deletes."""
        return self.memtable.take(rows, ["_op"]).column("_op").to_numpy() == 0


class SortedTable:
    """A table in memory, already in run order, as a source of one batch."""

    def __init__(self, table: pa.Table, keys: pa.Array) -> None:
        self.table, self._keys = table, keys

    @property
    def num_batches(self) -> int:
        return 1 if self.table.num_rows else 0

    def first_key(self, i: int) -> Key:
        key: Key = self._keys[0].as_py()
        return key

    def last_key(self, i: int) -> Key:
        key: Key = self._keys[-1].as_py()
        return key

    def keys(self, i: int) -> pa.Array:
        return self._keys

    def seqs(self, i: int) -> np.ndarray:
        return np.asarray(self.table.column("_seq").to_numpy())

    def ops(self, i: int) -> np.ndarray:
        return np.asarray(self.table.column("_op").to_numpy())

    def columns(self, i: int, names: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        return self.table.select(list(names)).slice(start, None if stop is None else stop - start)

    def row_bytes(self, i: int, names: Sequence[str]) -> float:
        return float(self.table.select(list(names)).nbytes / max(1, self.table.num_rows))

    def checked(self, i: int, names: Sequence[str], start: int, stop: int) -> bool:
        return True

    def may_match(self, i: int, where: Any) -> bool:
        return True


Source = MemSource | RunSource


def locate(sources: Sequence[Source], keys: pa.Array, snapshot: int) -> tuple[np.ndarray, np.ndarray]:
    """(source, row) of the visible version of every key; source -1 where there is none or it is deleted.

    Sources come newest interval first, so the first that knows a key settles it. O(q log n) a source.
    """
    owner = np.full(len(keys), -1, np.int64)
    row = np.full(len(keys), -1, np.int64)
    todo = np.arange(len(keys))
    # a batch that rises by key, as most do, tells its range: runs beside it are not asked
    ends = (keys[0].as_py(), keys[-1].as_py()) if len(keys) == 1 or (len(keys) > 64 and keyspace.is_sorted(keys)) else None
    for s, source in enumerate(sources):
        if len(todo) == 0:
            break
        if ends is not None and isinstance(source, RunSource) and not source.run.overlaps(*ends):
            continue
        wanted = keys if len(todo) == len(keys) else keys.take(pa.array(todo))
        found = source.find(wanted, snapshot)
        hit = found >= 0
        if hit.any():
            places = todo[hit]
            row[places] = found[hit]
            owner[places] = np.where(source.deleted(found[hit]), -1, s)
            todo = todo[~hit]
    row[owner < 0] = -1
    return owner, row


def gather(sources: Sequence[Source], owner: np.ndarray, row: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema`` for rows that `locate` found, in their order; -1 gives a row of nulls."""
    names = schema.names
    if len(owner) and owner[0] >= 0 and (owner == owner[0]).all():
        table = sources[owner[0]].take(row, names)
        return table if table.schema.equals(schema) else table.cast(schema)
    tables, places = [], []
    for s in np.unique(owner):
        mine = np.flatnonzero(owner == s)
        tables.append(_nulls(schema, len(mine)) if s < 0 else sources[s].take(row[mine], names).cast(schema))
        places.append(mine)
    if not tables:
        return schema.empty_table()
    if len(tables) == 1:
        return tables[0]
    back = np.empty(len(owner), np.int64)
    back[np.concatenate(places)] = np.arange(len(owner))
    return take(pa.concat_tables(tables), back)


def _nulls(schema: pa.Schema, n: int) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(n, f.type) for f in schema], schema=schema)
