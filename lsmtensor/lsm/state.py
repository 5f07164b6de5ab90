"""What a reader sees: one immutable object, and a version number beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from .. import rows
from ..arrowbytes import binary_parts
from ..arrowtake import one_chunk
from ..beside import beside
from ..keys import KeyCodec, physical_schema
from ..metrics import counting
from ..rows.columns import declared, format_of
from ..schema import Schema
from . import keyspace
from .columns import GONE
from .expiry import Expiry, expiry_of
from .keyspace import Key
from .layout import Layout, TableState, newest_first
from .merge import Batches, Window, visible_at, windows
from .points import points_of
from .source import MemSource, RunSource, Source, gather, locate

MANY = 1024  # keys that are worth a look at where they lie as a whole
PLAIN_OPTIONS = frozenset({"history", "compaction"})  # what asks nothing of a single row
READ_OPTIONS, WRITE_OPTIONS = PLAIN_OPTIONS | {"unique"}, PLAIN_OPTIONS | {"ttl"}  # nothing of one that is read, or written


class Shape:
    """What follows from a table's schema; made once and shared by all its states."""

    _KEPT: dict[tuple[int, int], tuple[dict[str, Any], Shape]] = {}

    def __init__(self, table_id: int, schema: dict[str, Any]) -> None:
        self.schema = Schema.from_dict(schema)
        self.codec = KeyCodec(self.schema)
        self.physical = physical_schema(self.schema)
        self.logged = pa.schema([f for f in self.physical if f.name != "_seq"])
        self.format = format_of(rows.kit(), self.schema, self.codec, self.physical, table_id)
        self.plain = all(c.codec is None and c.rounding is None for c in self.schema.columns)

    @classmethod
    def of(cls, state: TableState) -> Shape:
        """States of a table share one schema value, so that its identity names it."""
        known = id(state.schema), state.id
        kept = cls._KEPT.get(known)
        if kept is None:
            if len(cls._KEPT) > 256:
                cls._KEPT.clear()
            kept = cls._KEPT[known] = (state.schema, cls(state.id, state.schema))
        return kept[1]


@dataclass(frozen=True, eq=False)
class TableVersion:
    """One table in one state: its layout entry, memtables and runs, each tuple newest first; apart, the runs ``behind`` others."""

    state: TableState
    mems: tuple[MemSource, ...]
    runs: tuple[RunSource, ...]
    kept: tuple[pa.Field, ...] = ()
    # (version, commit time) marks, for rows that expire
    times: Callable[[], Sequence[tuple[int, int]]] | None = None
    behind: tuple[RunSource, ...] = ()

    @cached_property
    def shape(self) -> Shape:
        return Shape.of(self.state)

    @cached_property
    def schema(self) -> Schema:
        return self.shape.schema

    @cached_property
    def codec(self) -> KeyCodec:
        return self.shape.codec

    @cached_property
    def physical(self) -> pa.Schema:
        return pa.schema([*self.shape.physical, *self.kept]) if self.kept else self.shape.physical

    @property
    def every(self) -> tuple[RunSource, ...]:
        """All runs, those behind others last."""
        return (*self.runs, *self.behind)

    @property
    def whole(self) -> TableVersion:
        """The table with the runs behind others among its runs, as reads of the past and merges need it."""
        # not kept where it is the table itself: files go with the last reference, which a circle would keep
        return self._joined if self.behind else self

    @cached_property
    def _joined(self) -> TableVersion:
        return replace(self, runs=tuple(newest_first(self.every)), behind=())

    @cached_property
    def _head(self) -> int:
        """The version from which on nothing behind a run is seen."""
        before = {r.behind for r in self.behind}
        return max((r.max_seq for r in self.runs if r.id in before), default=1 << 63)

    def seen(self, version: int) -> TableVersion:
        """The table with no more runs than a reader of a version needs."""
        return self.whole if self.behind and version < self._head else self

    def at(self, version: int) -> TableVersion:
        """The table with the schema that was in force at a version."""
        for before in self.state.past:
            if version < before["until"]:
                known: dict[int, TableVersion] = beside(self, "_at", dict)
                if before["until"] not in known:
                    known[before["until"]] = self._before(before["until"], before["schema"], before["options"])
                return known[before["until"]]
        return self

    def _before(self, until: int, schema: dict[str, Any], options: dict[str, Any]) -> TableVersion:
        # a change of schema flushes first: no memtable holds rows of before it
        then = Schema.from_dict(schema)
        columns = {i: c for i, c in zip(then.ids, then.columns, strict=True)}
        indexes = {}
        for name, entry in self.state.indexes.items():
            now = self.schema.field(entry["column"])
            was = columns.get(self.schema.ids[self.schema.names.index(now.name)])
            if was is not None and was.type == now.type:
                indexes[name] = {**entry, "column": was.name}
        past = tuple(p for p in self.state.past if p["until"] < until)
        state = replace(self.state, schema=schema, options=options, indexes=indexes, past=past)
        runs = tuple(RunSource(r.run, r.files, schema) for r in self.whole.runs if r.min_seq < until)
        return TableVersion(state, (), runs, times=self.times)

    def keeping(self, oldest: int) -> TableVersion:
        """The table with the columns that were dropped after version ``oldest`` among its own: what a merge must carry on."""
        ids = {*self.schema.ids}
        gone: dict[int, pa.Field] = {}
        for before in self.state.past:
            if before["until"] > oldest:
                then = Schema.from_dict(before["schema"])
                gone |= {i: pa.field(f"{GONE}{i}", c.arrow.type) for i, c in zip(then.ids, then.columns, strict=True) if i not in ids}
        if not gone:
            return self
        kept = tuple(gone.values())
        return replace(self, kept=kept, runs=tuple(RunSource(r.run, r.files, r.schema, kept) for r in self.runs))

    @cached_property
    def format(self) -> Any:
        return self.shape.format

    @cached_property
    def short(self) -> bool:
        """Whether single rows may be read the short way: nothing but the row itself says what a read of it gives."""
        return self.shape.plain and READ_OPTIONS.issuperset(self.state.options)

    @cached_property
    def short_writes(self) -> bool:
        """Whether single rows may be written so: nothing is to be written with them. Those that expire do it as they are read."""
        return self.shape.plain and WRITE_OPTIONS.issuperset(self.state.options)

    def declared(self, payload: bytes) -> bytes:
        """The payload of a row with the schema in it, as the first one in a log has it."""
        return declared(payload, self.physical)

    @cached_property
    def packer(self) -> Any:
        """The format's ``pack`` where single rows go the short way and their key is one column; else None."""
        return self.shape.format.pack if self.short_writes and not self.codec.stored else None

    @cached_property
    def points(self) -> Any:
        """`rows.plain.Points` of the sources: one key at a time."""
        return self._points[0]

    @cached_property
    def _points(self) -> tuple[Any, list[Source]]:
        return points_of(self)

    def locate(self, keys: pa.Array, version: int, sources: list[Source]) -> tuple[np.ndarray, np.ndarray] | None:
        """`source.locate` in one compiled pass; None where a source is one that only Arrow reads."""
        points, ordered = self._points
        found = points.locate(*((keys.to_numpy(), None) if keyspace.is_int(keys) else binary_parts(keys)), version)
        if found is None:
            return None
        # an empty memtable is no source of a view; none of its rows is found
        places = np.array([*(sources.index(s) if s in sources else -1 for s in ordered), -1])
        return places[found[0]], found[1]

    def sources(self) -> list[Source]:
        """Every source, newest interval of versions first; empty memtables left out."""
        full: list[Source] = [m for m in self.mems if m.rows]
        full.extend(self.runs)
        return newest_first(full)

    def unflushed(self) -> int | None:
        """The oldest version that only the log and a memtable hold."""
        return min((m.min_seq for m in self.mems if m.rows), default=None)


@dataclass(frozen=True, eq=False)
class State:
    """The layout and every table's sources."""

    layout: Layout
    tables: dict[int, TableVersion]

    def by_name(self, name: str) -> TableVersion | None:
        return next((t for t in self.tables.values() if t.state.name == name), None)

    def with_table(self, table: TableVersion) -> State:
        return replace(self, tables={**self.tables, table.state.id: table})


@dataclass(frozen=True, eq=False)
class View:
    """A table at a version. All reads of the tree go through here; it never changes."""

    table: TableVersion
    version: int

    def __post_init__(self) -> None:
        if self.table.behind:
            object.__setattr__(self, "table", self.table.seen(self.version))

    @cached_property
    def sources(self) -> list[Source]:
        return self.table.sources()

    @cached_property
    def every_source(self) -> list[Source]:
        """With those that hold nothing which this version sees."""
        own: list[Source] = [] if self.overlay is None else [self.overlay]
        return [*own, *self.table.whole.sources()] if self.table.behind else self.sources

    @property
    def overlay(self) -> MemSource | None:
        """Rows that stand before all sources for this view alone: a transaction's own writes."""
        return None

    def get(self, key: Any) -> dict[str, Any] | None:
        """The row of a user's key as a dict, or None. O(log n) a run."""
        own = self.overlay
        if own is None and self.table.short:
            found: dict[str, Any] | None = self.table.points.get(key, self.version)
            return found
        owner, row = self.locate(keyspace.one(self.table.codec.scalar(key)))
        if owner[0] < 0:
            return None
        schema = self.table.schema
        made: dict[str, Any] = schema.row(_one_batch(self.rows(owner, row, schema.arrow)), 0)
        return made

    def has(self, key: Any) -> bool:
        """Whether a user's key has a row."""
        if self.overlay is None and self.table.short:
            return bool(self.table.points.has(key, self.version))
        return bool(self.locate(keyspace.one(self.table.codec.scalar(key)))[0][0] >= 0)

    @property
    def compiled(self) -> bool:
        """Whether the compiled passes may be asked: nothing but the sources says what is there, and nobody counts."""
        return self.overlay is None and self.table.short and not counting()

    def locate(self, keys: pa.Array) -> tuple[Any, Any]:
        """(source, row) per encoded key; -1 where no row is visible."""
        if len(keys) >= MANY and self._beyond(keys):
            return np.full(len(keys), -1), np.full(len(keys), -1)
        if self.compiled:
            found = self.table.locate(keys, self.version, self.sources)
            if found is not None:
                return found
        owner, row = locate(self.sources, keys, self.version)
        if self.expiry is not None:
            there = np.flatnonzero(owner >= 0)
            fields = [self.table.physical.field(n) for n in self.expiry.names]
            gone = there[~self.expiry.mask(gather(self.sources, owner[there], row[there], pa.schema(fields)))]
            owner[gone] = row[gone] = -1
        return owner, row

    @cached_property
    def expiry(self) -> Expiry | None:
        """What has expired at this version, where the table has a ttl."""
        return expiry_of(self.table, self.version)

    def _beyond(self, keys: pa.Array) -> bool:
        """Whether rising keys lie outside all that is here, as those of an ingest in order do."""
        if not all(isinstance(s, RunSource) for s in self.sources) or not keyspace.is_sorted(keys):
            return False
        first, last = keys[0].as_py(), keys[-1].as_py()
        return not any(s.run.overlaps(first, last) for s in self.sources if isinstance(s, RunSource))

    def rows(self, owner: Any, row: Any, schema: pa.Schema) -> pa.Table:
        return gather(self.sources, owner, row, schema)

    def windows(self, start: Key | None = None, stop: Key | None = None, reverse: bool = False) -> Iterator[Window]:
        batches: Sequence[Batches] = [s.sorted() if isinstance(s, MemSource) else s for s in self.sources]
        found = windows(batches, visible_at(self.version), start=start, stop=stop, reverse=reverse)
        return found if self.expiry is None else map(self.expiry.left, found)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([one_chunk(c) for c in table.columns], schema=table.schema)
