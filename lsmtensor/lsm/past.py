"""Looking back: the versions of a row, what changed between two versions, which version a time saw."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..arrowtake import one_chunk
from ..dtypes import TensorType
from ..errors import InvalidArgumentError, SchemaError, VersionExpiredError
from ..schema import column_numpy
from . import keyspace, retention
from .layout import version_before
from .marks import changes
from .merge import windows
from .source import MemSource
from .state import View

if TYPE_CHECKING:
    from .tree import Tree


def version_at(tree: Tree, time: datetime | int) -> int:
    """The version that was the newest at a time: a datetime (naive ones are local), or nanoseconds since 1970.

    Exact for commits since the last flush, and coarser the longer ago: the layout remembers some thousands of commit times.
    """
    if isinstance(time, datetime):
        # whole microseconds: a float of seconds would lose some
        whole = int(time.timestamp() // 1)
        nanoseconds = whole * 1_000_000_000 + time.microsecond * 1000
    elif isinstance(time, (int, np.integer)) and not isinstance(time, bool):
        nanoseconds = int(time)
    else:
        raise InvalidArgumentError(f"time={time!r}; give a datetime, or nanoseconds since 1970")
    marks = tree.times()
    if not marks or nanoseconds < marks[0][1]:
        first = f"; the first that is known was at {marks[0][1]} ns" if marks else ""
        raise VersionExpiredError(f"time {time} is before the first commit{first}")
    _, visible = tree.head()
    return min(visible, version_before(marks, nanoseconds))


def oldest_of(tree: Tree, view: View) -> int:
    """The oldest version of the table that its retention promises at this view."""
    return retention.oldest_version(tree, view.table.state.options.get("history", retention.DEFAULT), view.version)


def history_of(view: View, oldest: int, key: Any, column: str | None) -> Any:
    """The body of `TableView.history`. O(versions of the key + sources log n)."""
    schema = view.table.schema
    encoded = view.table.codec.scalar(key)
    if column is not None:
        kind = schema.field(column).type
        numeric = isinstance(kind, TensorType) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if not numeric:
            raise SchemaError(f"history(…, {column!r}): the column is {schema.field(column).type}; only numeric ones make an array")
    names = schema.names if column is None else [column]
    sources = [s.sorted() if isinstance(s, MemSource) else s for s in view.every_source]

    def seen(keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        return np.asarray(seqs <= view.version)

    stop = encoded + 1 if isinstance(encoded, int) else encoded + b"\0"
    if isinstance(stop, int) and stop > np.iinfo(np.int64).max:
        stop = None  # type: ignore[assignment]
    parts = [w.gather([*names, "_seq", "_op"]) for w in windows(sources, seen, start=encoded, stop=stop) if len(w)]
    fields = [schema.arrow.field(n).with_nullable(True) for n in names]
    physical = pa.schema([*fields, pa.field("_seq", pa.uint64()), pa.field("_op", pa.uint8())])
    table = pa.concat_tables([p.cast(physical) for p in parts]) if parts else physical.empty_table()
    seqs = table.column("_seq").to_numpy()
    # newest first; the first at or below the oldest version is what that version still sees
    keep = int(np.sum(seqs > oldest)) + 1
    table = table.slice(0, keep)
    table = table.take(pa.array(np.arange(table.num_rows)[::-1]))
    deleted = table.column("_op").to_numpy() == 0
    if column is None:
        answer = table.select(names).append_column("_version", table.column("_seq"))
        return answer.append_column("_deleted", pa.array(deleted))
    array = one_chunk(table.filter(pa.array(~deleted)).column(column))
    if array.null_count:
        raise SchemaError(f"history(…, {column!r}): {array.null_count} of {len(array)} versions are null; an array cannot hold them")
    tensor = isinstance(schema.field(column).type, TensorType)
    return np.ascontiguousarray(column_numpy(array) if tensor else array.to_numpy(zero_copy_only=False))


def diff_of(before: View | None, after: View) -> pa.Table:
    """What changed between two versions of a table: its columns as they are after (keys only for deletes), and ``_change``."""
    schema = after.table.schema
    floor = before.version if before is not None else 0
    parts = [
        keys.filter(pa.array(seqs <= after.version)) for s in after.sources if s.max_seq > floor for keys, seqs in changes(s, floor)
    ]
    kind = pa.int64() if after.table.codec.kind == "int64" else pa.binary()
    keys = keyspace.concat(parts) if parts else pa.array([], kind)
    keys = keys.take(pa.array(keyspace.last_of_each(keys))) if len(keys) else keys
    owner, row = after.locate(keys)
    was = before.locate(keys)[0] >= 0 if before is not None else np.zeros(len(keys), bool)
    now = owner >= 0
    change = np.where(now & was, "update", np.where(now, "insert", "delete"))
    real = now | was
    fields = [f.with_nullable(True) for f in schema.arrow]
    table = after.rows(owner[real], row[real], pa.schema(fields))
    decoded = after.table.codec.decode(keys.filter(pa.array(real)))
    for i, name in enumerate(schema.names):
        if name in schema.primary_key:
            table = table.set_column(i, fields[i], decoded.column(name))
    return table.append_column("_change", pa.array(change[real].tolist(), pa.string()))


def check_version(tree: Tree, version: int, visible: int, oldest: int, tags: dict[str, int]) -> None:
    """A version that can be read, or the sentence why not."""
    if isinstance(version, bool) or not isinstance(version, (int, np.integer)) or version < 0:
        raise InvalidArgumentError(f"version={version!r}; give a number from {oldest} to {visible}")
    if version > visible:
        raise InvalidArgumentError(f"version {version} is in the future; the newest is {visible}")
    if version < oldest and version not in tags.values() and all(version != s.version for s in tree.holders()):
        raise VersionExpiredError(f"version {version} has expired; the oldest that can be read is {oldest}")
