"""Changing the columns of a table that has rows: a layout edit, after a flush. No table file is written again.

The change is a commit of its own: snapshots, tags and time travel below its version see the schema of before. A column that a
function makes is computed once for the rows that are there, and stands beside each table file until a merge takes it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import container, evolution
from ..arrowbytes import stream_bytes
from ..convert import to_array
from ..dtypes import TensorType
from ..errors import InvalidArgumentError, SchemaError
from ..schema import Column, Schema, told
from ..sstable.coded import check_beside, check_codec, check_quant
from . import ops
from .columns import MADE
from .expiry import option_of
from .layout import SegmentRef
from .maintenance import flush_sealed
from .marks import marks_of
from .retention import oldest_needed
from .source import RunSource
from .state import TableVersion

if TYPE_CHECKING:
    from .tree import Tree

Function = Callable[[pa.RecordBatch], Any]


def check_stored(column: Column) -> None:
    """How a column asks to be stored must be something that table files can."""
    if column.codec is not None:
        check_codec(column.name, column.codec)
    if column.quant is not None:
        (check_beside if column.keep_full else check_quant)(column.name, column.type, column.quant)


def add_column(tree: Tree, table: int, column: Column, value: Any, columns: Sequence[str] | None) -> int:
    """The body of `Table.add_column`."""
    if not isinstance(column, Column):
        raise InvalidArgumentError(f"column is a {type(column).__name__}; give lsmtensor.Column(name, type)")
    check_stored(column)
    if column.quant is not None and column.keep_full:
        raise InvalidArgumentError(f"column {column.name!r} with quant={told(column.quant)} beside full values; add it without, then create_index({column.name!r}, 'flat(quant=…)')")
    if column.quant is not None and value is not None:
        raise InvalidArgumentError(f"column {column.name!r} with quant={told(column.quant)} and a value; codes are made when rows are written: add it without one, then update()")
    if not callable(value):
        return _change(tree, table, lambda schema: evolution.added(schema, column, evolution.fill_of(column, value)))
    if columns is not None and not columns:
        raise InvalidArgumentError("columns=[]; name those that the function reads, or leave it out for all")
    return _change(tree, table, lambda schema: evolution.added(schema, column, None), beside=lambda now: _made(tree, now, column, value, columns))


def drop_column(tree: Tree, table: int, name: str) -> int:
    """The body of `Table.drop_column`."""

    def change(schema: Schema) -> Schema:
        users = [n for n, e in tree.view(table).table.state.indexes.items() if e["column"] == name]
        if users:
            raise SchemaError(f"column {name!r} has the index {users[0]!r}; drop_index({users[0]!r}) first")
        _not_unique(tree, table, schema, name)
        ttl = tree.view(table).table.state.options.get("ttl") or {}
        if name in schema.names and ttl.get("column") == schema.ids[schema.names.index(name)]:
            raise SchemaError(f"column {name!r} says when rows expire; set_ttl(None) first")
        return evolution.dropped(schema, name)

    return _change(tree, table, change)


def rename_column(tree: Tree, table: int, old: str, new: str) -> int:
    """The body of `Table.rename_column`."""
    return _change(tree, table, lambda schema: evolution.renamed(schema, old, new), names={old: new})


def _not_unique(tree: Tree, table: int, schema: Schema, name: str) -> None:
    for rule in tree.view(table).table.state.options.get("unique", ()):
        if name in schema.names and schema.ids[schema.names.index(name)] in rule["columns"]:
            raise SchemaError(f"column {name!r} is unique; drop_unique() first")
        if name in schema.primary_key:
            raise SchemaError(f"key column {name!r} is in the claims of unique columns; drop_unique() first")


def set_options(tree: Tree, table: int, options: dict[str, Any]) -> int:
    """Commit options of a table; those of None go."""
    return _change(tree, table, lambda same: same, options=options)


def set_ttl(tree: Tree, table: int, ttl: Any) -> int:
    """The body of `Table.set_ttl`."""
    schema = tree.view(table).table.schema
    return set_options(tree, table, {"ttl": None if ttl is None else option_of(schema, ttl)})


def widen_column(tree: Tree, table: int, name: str, kind: Any) -> int:
    """The body of `Table.widen_column`."""

    def change(schema: Schema) -> Schema:
        users = [n for n, e in tree.view(table).table.state.indexes.items() if e["column"] == name]
        if users and isinstance(schema.field(name).type, TensorType):
            raise SchemaError(f"column {name!r} has the index {users[0]!r}, which was built from its old values; drop_index({users[0]!r}) first")
        _not_unique(tree, table, schema, name)
        if schema.field(name).rounding is not None:
            raise SchemaError(f"column {name!r} holds codes of {told(schema.field(name).quant)}, which another type would change; add a column of that type instead")
        return evolution.widened(schema, name, kind)

    return _change(tree, table, change)


def _change(
    tree: Tree, table: int, change: Callable[[Schema], Schema], *, names: dict[str, str] | None = None,
    beside: Callable[[TableVersion], list[dict[str, Any]]] | None = None, options: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Commit a changed schema, and options (those of None go); writers wait meanwhile. What a refusal finds is as it was."""
    tree.check_writable()
    with tree.maintaining(alone=True):
        made = change(tree.view(table).table.schema)
        tree.seal(table)
        flush_sealed(tree)
        now = tree.state.tables[table]
        edits = beside(now) if beside is not None else []
        indexes = {n: {**e, "column": (names or {}).get(e["column"], e["column"])} for n, e in now.state.indexes.items()}
        oldest, pinned = oldest_needed(tree, now)
        version = tree.next_version()
        chosen = {k: v for k, v in {**now.state.options, **(options or {})}.items() if v is not None}
        state = replace(now.state, schema=made.to_dict(), indexes=indexes, options=chosen)
        tree.install([*edits, ops.set_schema(state, version, min([oldest, *pinned]))])
        tree.show(version)
        return version


def _made(tree: Tree, table: TableVersion, column: Column, function: Function, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    """The files of a new column's values, one beside each table file, and the edits that name them."""
    names = table.schema.names if columns is None else [table.schema.field(n).name for n in columns]
    edits = []
    newest = tree.logged
    with tree.events.timed("column", table=table.state.name, column=column.name) as facts:
        facts["rows"] = 0
        for s, source in enumerate(table.whole.runs):
            marks = marks_of(source)
            newer = list(table.whole.runs[:s])
            marks.resolve(source, newer, newest)
            live = (marks.seqs <= newest) & (newest < marks.dead)
            facts["rows"] += int(np.count_nonzero(live))
            at = batch = 0
            for place, file in enumerate(source.files):
                arrays = []
                for _ in range(source.reader(place).num_batches):
                    rows = len(source.seqs(batch))
                    arrays.append(_values(source, batch, live[at : at + rows], names, column, function))
                    at, batch = at + rows, batch + 1
                ref = _store(tree, file.ref.number, file.ref.rows, f"{MADE}{table.schema.next_id}", column.name, arrays)
                edits.append(ops.set_segments(table.state.id, file.ref.number, (*file.ref.segments, ref)))
    tree.env.sync_dir(f"{tree.path}/sst")
    return edits


def _values(source: RunSource, batch: int, live: np.ndarray, names: Sequence[str], column: Column, function: Function) -> pa.Array:
    """What the function says of the rows that are visible now; null in the others, which no later version sees."""
    kind = column.arrow.type
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    found = pa.nulls(0, storage)
    if live.any():
        table = source.columns(batch, names)
        given = (table if live.all() else table.filter(pa.array(live))).combine_chunks().to_batches()[0]
        made = to_array(function(given), column.name, column.type)
        if len(made) != given.num_rows:
            raise SchemaError(f"the function for column {column.name!r} answered {len(made)} values for {given.num_rows} rows; wanted one a row")
        if made.null_count and not column.nullable:
            raise SchemaError(f"the function for column {column.name!r} answered null; this column is never null")
        found = made.storage if isinstance(made, pa.ExtensionArray) else made
    if not live.all():
        found = found.take(pa.array(np.cumsum(live) - 1, mask=~live))
    return pa.ExtensionArray.from_storage(kind, found) if isinstance(kind, pa.BaseExtensionType) else found


def _store(tree: Tree, file: int, rows: int, index: str, column: str, arrays: list[pa.Array]) -> SegmentRef:
    number = tree.next_file()
    name = f"{file:06d}.i{number}.column"
    values = np.frombuffer(stream_bytes(*arrays), np.uint8)
    with tree.env.create(f"{tree.path}/sst/{name}", kind="index", cause="column") as out:
        out.writev(container.pack({"rows": rows, "column": column, "index": {"kind": "column"}}, {"values": values}))
        out.sync()
    return SegmentRef(index=index, column=column, spec="column", number=number, rows=rows, file=name)
