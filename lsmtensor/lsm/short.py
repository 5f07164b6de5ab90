"""The short way of single rows: packed once, into the log and the memtable as they are, no Arrow.

What a row needs of a commit and no more: the same locks in the same order, the same version, time and log as `Tree.commit`. A row
that is not plain (a value to convert, a table with rules) is not taken, and goes the long way, which also says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import rows
from ..errors import ConflictError, CorruptionError
from ..rows.columns import format_of_arrow, read_head, to_batch, undeclared

if TYPE_CHECKING:
    from .state import TableVersion
    from .tree import Tree

Packed = tuple[Any, bytes]  # a row format, and the payload that it made


def pack(table: TableVersion, key: Any, row: dict[str, Any] | None, op: int = 1) -> bytes | None:
    """The payload of a row, or of the delete of one; None where it must go the long way."""
    if not table.short_writes:
        return None
    if table.codec.stored:
        names = table.codec.names
        parts = key if isinstance(key, tuple) and len(names) > 1 else (key,)
        if len(parts) != len(names) or (row is not None and not row.keys().isdisjoint(names)):
            return None
        row = {**dict(zip(names, parts, strict=True)), **(row or {})}
        key = table.codec.scalar(key)
    payload: bytes | None = table.format.pack(key, row, op)
    return payload


def as_batch(table: TableVersion, payload: bytes) -> tuple[pa.RecordBatch, pa.Array]:
    """The rows of a payload as a physical batch without ``_seq``, and their keys."""
    store = rows.kit().RowTable()
    store.append(table.format, payload, 1)
    batch, keys = to_batch(store, 0, store.rows, table.physical, table.codec.kind)
    return batch.select([n for n in batch.schema.names if n != "_seq"]), keys


def put(tree: Tree, table_id: int, key: Any, row: dict[str, Any] | None) -> int | None:
    """Commit one row; its version, or None where it must go the long way."""
    table = tree.state.tables.get(table_id)
    if table is None:
        return None
    payload = table.packer(key, row) if table.packer is not None else pack(table, key, row)
    if payload is None:
        return None
    made = tree.write_row(table_id, table.format, payload)
    if made is None:
        return None
    version, log, place = made
    return finish(tree, version, log, place) if place else version


def delete(tree: Tree, table_id: int, key: Any) -> int | None:
    """Commit the delete of one key; where it has no row nothing is written."""
    table = tree.state.tables.get(table_id)
    payload = None if table is None or not table.short else pack(table, key, None, 0)
    if table is None or payload is None:
        return None
    made = tree.write_row(table_id, table.format, payload, lambda now: bool(now.points.has(key, tree.logged)))
    return None if made is None else finish(tree, *made)


def unchanged(key: int | bytes, since: int) -> Callable[[TableVersion], bool]:
    """Raises `ConflictError` where an encoded key has a version newer than the one at which a transaction began."""

    def check(table: TableVersion) -> bool:
        if table.points.newest(key) > since:
            raise ConflictError(
                f"key {table.codec.key_of(key)!r} of table {table.state.name!r}, written by this transaction, was changed after "
                f"version {since}, where it began; begin again (db.transact() does)"
            )
        return True

    return check


def finish(tree: Tree, version: int, log: Any, place: int) -> int:
    """Wait until the row is as safe as the mode says, then show it."""
    if place:
        log.wait(place)
        tree.show(version)
    return version


def later(tree: Tree, version: int, log: Any, place: int) -> Future[int]:
    """The same without waiting."""
    return tree.syncer.add(version, (log, place) if place else None)


def known_table(tree: Tree, table_id: int, version: int, path: str, offset: int) -> TableVersion | None:
    """The table of a commit, None where it was dropped later. One that the layout should know of and does not is damage."""
    table = tree.state.tables.get(table_id)
    if table is None and version > tree.manifest.layout.version:
        raise CorruptionError(
            f"commit {version} is of table number {table_id}, which the layout of version {tree.manifest.layout.version} does not know: "
            "the manifest has lost edits", path, offset,
        )  # fmt: skip
    return table


def replay(tree: Tree, declared_in_log: dict[tuple[int, int], pa.Schema], payload: memoryview, version: int, *, path: str, offset: int) -> list[tuple[int, pa.RecordBatch]]:
    """Put the compact rows of a log record into the memtable; rows of an older schema are answered as batches without ``_seq``."""
    try:
        table_id, fingerprint, schema = read_head(payload)
        if schema:
            declared_in_log[table_id, fingerprint] = pa.ipc.read_schema(pa.py_buffer(schema))
        physical = declared_in_log[table_id, fingerprint]
        table = known_table(tree, table_id, version, path, offset)
        if table is None or version <= table.state.flushed_seq:
            return []
        data: Any = undeclared(payload, len(schema)) if schema else payload
        if data[: rows.plain.HEAD] == table.format.head:
            table.mems[0].memtable.append(table.format, data, version, check=True)
            return []
        store = rows.kit().RowTable()
        store.append(format_of_arrow(rows.kit(), physical, table.codec, table_id), data, version, True)
        batch, _ = to_batch(store, 0, store.rows, physical, table.codec.kind)
        return [(table_id, batch.select([n for n in batch.schema.names if n != "_seq"]))]
    except (ValueError, KeyError, pa.ArrowException) as why:
        raise CorruptionError(f"a record of compact rows does not parse ({why})", path=path, offset=offset) from why
