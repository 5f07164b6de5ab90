"""Rows of a view in key order, some columns and those that a filter allows: the body of scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from .errors import InvalidArgumentError, SchemaError
from .lsm.ahead import ahead
from .lsm.points import some
from .lsm.state import View
from .metrics import count
from .search.where import check_where, indexed

SHORT = 1024  # rows of a range that are gathered at once
GATHER = 16384  # rows found by an index that are fetched at once


def project(view: View, columns: Sequence[str] | None) -> pa.Schema:
    arrow = view.table.schema.arrow
    if columns is None:
        return arrow
    if isinstance(columns, str):
        raise InvalidArgumentError(f"columns={columns!r}; give a list of names, such as [{columns!r}]")
    return pa.schema([arrow.field(view.table.schema.field(name).name) for name in columns])


def columns_of(view: View, where: Any) -> list[str]:
    """The columns that an expression may read: those whose name its text holds (a superset is harmless)."""
    check_where(where)
    text = str(where)
    return [n for n in view.table.schema.names if n in text] or [view.table.schema.names[0]]


def bound(view: View, key: Any) -> Any:
    return None if key is None else view.table.codec.bound(key)


def scanned(view: View, schema: pa.Schema, where: Any, start: Any, stop: Any, reverse: bool) -> Iterator[pa.Table]:
    found = None if where is None else indexed(view, where, bound(view, start), bound(view, stop))
    if found is not None:
        owner, row = (part[::-1] for part in found) if reverse else found
        yield from (view.rows(owner[at : at + GATHER], row[at : at + GATHER], schema) for at in range(0, len(owner), GATHER))
        return
    names = list(schema.names)
    read = names if where is None else names + [n for n in columns_of(view, where) if n not in names]
    wide = pa.schema([view.table.schema.arrow.field(n) for n in read])
    windows = view.windows(bound(view, start), bound(view, stop), reverse)
    for part in ahead(job for window in windows if len(window) for job in window.parts(read, where)):
        table = part if part.schema.equals(wide) else part.cast(wide)
        if where is not None:
            table = filtered(table, where, view).select(names)
        if table.num_rows:
            yield table if table.schema.equals(schema) else table.cast(schema)


def short_scan(view: View, schema: pa.Schema, start: Any, stop: Any, reverse: bool, limit: int | None) -> pa.Table | None:
    """A few rows of a range at once; None where they are many, or not to be had so."""
    wanted = SHORT + 1 if limit is None else limit
    if not view.compiled or wanted > SHORT + 1 or (limit is None and (start is None or stop is None)):
        return None
    found = some(view.table, view.version, bound(view, start), bound(view, stop), schema, wanted, reverse)
    return None if found is None or (limit is None and found.num_rows > SHORT) else found


def filtered(table: pa.Table, where: Any, view: View) -> pa.Table:
    count("rows_filtered", table.num_rows)
    try:
        return table.filter(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as why:
        known = ", ".join(view.table.schema.names)
        raise SchemaError(f"where={where} does not apply to table {view.table.state.name!r} ({why}); columns: {known}") from why


def limited(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        if left <= 0:
            return
        yield batch.slice(0, left)
        left -= batch.num_rows
