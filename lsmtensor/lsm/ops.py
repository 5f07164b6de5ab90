"""The operations of a layout edit, as the JSON values that the manifest records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .layout import Run, SegmentRef, TableState

Op = dict[str, Any]


def create_table(table: TableState) -> Op:
    return {"op": "create_table", "table": table.to_dict()}


def drop_table(table: int) -> Op:
    return {"op": "drop_table", "table": table}


def add_run(table: int, run: Run) -> Op:
    """A run that the log refers to; the table's flushed version stays."""
    return {"op": "add_run", "table": table, "run": run.to_dict()}


def flush(table: int, run: Run | None, flushed_seq: int) -> Op:
    """A memtable's run (None when it was empty), and how far the table's commits are in runs now."""
    return {"op": "flush", "table": table, "run": run.to_dict() if run else None, "flushed_seq": flushed_seq}


def replace_runs(table: int, old: Sequence[int], new: Sequence[Run]) -> Op:
    return {"op": "replace_runs", "table": table, "old": list(old), "new": [r.to_dict() for r in new]}


def set_segments(table: int, file: int, segments: Sequence[SegmentRef]) -> Op:
    return {"op": "set_segments", "table": table, "file": file, "segments": [s.to_dict() for s in segments]}


def set_index(table: int, name: str, entry: dict[str, Any] | None) -> Op:
    return {"op": "set_index", "table": table, "name": name, "entry": entry}


def set_schema(table: TableState, version: int, oldest: int) -> Op:
    """A changed schema, with indexes and options that name its columns, in force from ``version``; schemas that ended by ``oldest`` are forgotten."""
    return {
        "op": "set_schema", "table": table.id, "schema": table.schema, "indexes": table.indexes, "options": table.options, "version": version,
        "oldest": oldest,
    }  # fmt: skip


def add_wal(number: int) -> Op:
    return {"op": "add_wal", "number": number}


def end_wal(number: int, end: int) -> Op:
    """A log is closed, its last record ends at ``end``: were it shorter later, commits would be missing."""
    return {"op": "end_wal", "number": number, "end": end}


def drop_wals(numbers: Sequence[int]) -> Op:
    return {"op": "drop_wals", "numbers": list(numbers)}


def tag(name: str, version: int | None) -> Op:
    return {"op": "tag", "name": name, "version": version}
