"""One key in every source of a table: what the compiled lookup in `rows` needs to know of memtables and runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import rows
from ..arrowbytes import binary_parts
from ..arrowtake import one_chunk
from ..convert import row_value
from ..rows.columns import array_of, lanes_of
from ..schema import Schema
from ..sstable.points import file_rows
from ..sstable.reader import TableReader
from . import keyspace
from .keyspace import Key
from .layout import newest_first
from .source import MemSource, RunSource, Source

if TYPE_CHECKING:
    from .state import TableVersion

Found = tuple[int, int, Callable[[], dict[str, Any]]]


def points_of(table: TableVersion) -> tuple[Any, list[Source]]:
    """The `Points` of a table's sources, and these, newest interval of versions first."""
    # the active memtable is the newest also while it is empty
    others: list[Source] = [*table.mems[1:], *table.runs]
    kit, ordered = rows.kit(), [*table.mems[:1], *newest_first(others)]
    known: list[Any] = [MemPoints(s, table.schema, kit) if isinstance(s, MemSource) else RunPoints(s, table, kit) for s in ordered]
    return kit.Points(table.format, table.codec.scalar, known), ordered


def many(table: TableVersion, version: int, keys: pa.Array, schema: pa.Schema, skip: bool) -> pa.Table | None:
    """The rows of encoded keys in the order asked, absent ones left out or nulls; None where the compiled pass cannot answer."""
    wanted = [table.schema.names.index(n) for n in schema.names]
    sought = (keys.to_numpy(), None) if keyspace.is_int(keys) else binary_parts(keys)
    return _table(table, schema, wanted, table.points.many(*sought, version, wanted, skip))


def some(table: TableVersion, version: int, start: Key | None, stop: Key | None, schema: pa.Schema, limit: int, reverse: bool) -> pa.Table | None:
    """The first ``limit`` rows in a range of encoded keys, in their order; None where the compiled pass cannot answer."""
    wanted = [table.schema.names.index(n) for n in schema.names]
    return _table(table, schema, wanted, table.points.some(start, stop, version, limit, reverse, wanted))


def _table(table: TableVersion, schema: pa.Schema, wanted: list[int], found: tuple[int, list[Any]] | None) -> pa.Table | None:
    if found is None:
        return None
    n, buffers = found
    columns = table.format.columns
    arrays = [array_of(f.type, columns[at][1], n, *parts) for f, at, parts in zip(schema, wanted, buffers, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


class MemPoints:
    """A memtable by key. ``table`` is its rows for the compiled lookup, None for kinds that have an index of their own."""

    def __init__(self, source: MemSource, schema: Schema, kit: Any) -> None:
        self._memtable, self._source, self._schema, self._kit = source.memtable, source, schema, kit
        self.table = self._memtable.store if getattr(self._memtable, "indexed", False) and isinstance(self._memtable.store, kit.RowTable) else None
        self.fill: Any = getattr(self._memtable, "fill", None)
        self._readers: tuple[Any, list[int], list[Any], dict[int, Any]] = (None, [], [], {})

    def points(self) -> bool:
        return False

    def lookup(self, key: int | bytes, snapshot: int) -> Found | None:
        found = self._memtable.lookup(key, snapshot)
        if found is None:
            return None
        seq, op, row, made = found
        return seq, op, lambda: self.batch_row(row) if made is None else made

    def batches(self) -> tuple[list[int], list[Any]]:
        """(the first row of each batch, the batches by row) of the rows that came in batches."""
        view = self._memtable.settled
        if self._readers[0] is not view:
            known = self._readers[3]
            pairs = {id(b): known.get(id(b)) or (b, self._reader(b)) for b in view.batches}
            self._readers = view, view.starts.tolist(), [reader for _, reader in pairs.values()], pairs
        return self._readers[1:3]

    def batch_row(self, row: int) -> dict[str, Any]:
        """A row by number, from the batch that it is in."""
        starts, readers = self.batches()
        at = bisect_right(starts, row) - 1
        made: dict[str, Any] = readers[at].row(row - starts[at])
        return made

    def _reader(self, batch: pa.RecordBatch) -> Any:
        columns = [(c.name, c.type, batch.column(c.name)) for c in self._schema.columns]
        if not hasattr(self._kit, "BatchRows"):
            return _Plain(self._schema, batch)
        lanes = lanes_of(columns, lambda name, kind: lambda row: row_value(batch.column(name), row, kind))
        return self._kit.BatchRows(batch.num_rows, (True, 0, 0, 0), 0, 0, lanes, None, batch)


@dataclass(frozen=True)
class _Plain:
    """What `BatchRows` is to a memtable, without a compiler."""

    schema: Schema
    batch: pa.RecordBatch

    def row(self, row: int) -> dict[str, Any]:
        made: dict[str, Any] = self.schema.row(self.batch, row)
        return made


class RunPoints:
    """A run by key: its files for the compiled lookup, where they hold the table's columns as they are."""

    table = None

    def __init__(self, source: RunSource, table: TableVersion, kit: Any) -> None:
        # not the table's version itself, which holds these: what is superseded goes at once, and its files with it
        self._source, self._schema, self._physical, self._kit = source, table.schema, table.physical, kit

    def points(self) -> Any:
        """The files, or False where Arrow must read them."""
        readers = [self._source.reader(i) for i in range(len(self._source.files))]
        if not all(isinstance(r, TableReader) for r in readers):
            return False
        starts = self._source.starts.tolist()
        made = [file_rows(r, self._kit, self._schema, self._physical, at) for r, at in zip(readers, starts, strict=False)]
        return False if None in made else tuple(made)

    def lookup(self, key: int | bytes, snapshot: int) -> Found | None:
        return found_in(self._source, self._schema, key, snapshot)


def found_in(source: Source, schema: Schema, key: int | bytes, snapshot: int) -> Found | None:
    """(version, operation, function that makes the row) of a key's newest version in one source, through Arrow."""
    if isinstance(source, RunSource) and not source.run.overlaps(key, key):
        return None
    found = source.find(keyspace.one(key), snapshot)
    if found[0] < 0:
        return None
    marks = source.take(found, ["_seq", "_op"])

    def made() -> dict[str, Any]:
        table = source.take(found, schema.arrow.names).cast(schema.arrow)
        batch = pa.RecordBatch.from_arrays([one_chunk(c) for c in table.columns], schema=table.schema)
        row: dict[str, Any] = schema.row(batch, 0)
        return row

    return marks.column("_seq")[0].as_py(), marks.column("_op")[0].as_py(), made
