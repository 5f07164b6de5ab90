"""The payload of a commit in the log: what every table got, as Arrow IPC, or which finished file holds it.

A payload is ``u32 length | JSON header | padding to 64 | parts``. The header lists the parts in
order: ``{"parts": [{"table": 1, "bytes": 1234}], "runs": [{"table": 1, "run": {...}}]}``. A part is
an Arrow IPC stream of one physical batch without ``_seq``: all its rows carry the commit's version,
which the log record states once. A run is a file written, synced and linked before the record
(design part 4, bulk is written once). See ``docs/format.md``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import ConflictError, CorruptionError

if TYPE_CHECKING:
    from .state import View

ALIGN = 64
_LENGTH = struct.Struct("<I")
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an IPC stream
_SEQ = pa.field("_seq", pa.uint64(), nullable=False)


@dataclass(frozen=True, eq=False)
class Write:
    """Rows for one table in one commit: a physical batch without ``_seq``, and its encoded keys.

    ``more`` are batches that follow in key order, perhaps made only as they are written: for commits larger than memory. They
    make the write a direct one, so no rows of it are looked at again.
    """

    table: int
    batch: pa.RecordBatch
    keys: pa.Array
    more: Iterable[tuple[pa.RecordBatch, pa.Array]] | None = None


@dataclass(frozen=True)
class Commit:
    """What one log record says: batches by table id, and references to finished runs."""

    parts: list[tuple[int, pa.RecordBatch]] = field(default_factory=list)
    runs: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


_NOTE = struct.Struct("<QQ")


def note(manifest: int, length: int) -> bytes:
    """What a log's end record holds: the number of the manifest and how long it was when the log was closed."""
    return _NOTE.pack(manifest, length)


def read_note(data: bytes) -> tuple[int, int] | None:
    """(number, length), or None where the end record holds none."""
    return _NOTE.unpack(data) if len(data) == _NOTE.size else None  # type: ignore[return-value]


def encode(commit: Commit) -> tuple[list[Any], list[pa.RecordBatch]]:
    """The payload as a list of buffers, not joined, and the batches of its parts read back from those buffers.

    O(bytes): the one copy that frees us of the caller's arrays.
    """
    parts, buffers, copies = [], [], []
    for table, batch in commit.parts:
        schema = batch.schema
        head, rows = schema.serialize(), batch.serialize()
        size = head.size + rows.size + len(_END)
        parts.append(f'{{"table":{table},"bytes":{size}}}')
        buffers += [head, rows, _END + bytes(-size % ALIGN)]
        copies.append(pa.ipc.read_record_batch(rows, schema))
    runs = json.dumps([{"table": table, "run": run} for table, run in commit.runs], separators=(",", ":")) if commit.runs else "[]"
    header = f'{{"parts":[{",".join(parts)}],"runs":{runs}}}'.encode()
    return [_pad(_LENGTH.pack(len(header)) + header), *buffers], copies


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGN)


def decode(payload: memoryview | pa.Buffer, *, path: str, offset: int) -> Commit:
    """The commit of a payload whose checksum was already right; damage in its structure is CorruptionError."""
    data = memoryview(payload)
    try:
        (length,) = _LENGTH.unpack_from(data, 0)
        header = json.loads(bytes(data[_LENGTH.size : _LENGTH.size + length]))
        at = len(_pad(bytes(_LENGTH.size + length)))
        parts = []
        for part in header["parts"]:
            size = int(part["bytes"])
            if size < 0 or at + size > len(data):
                raise CorruptionError("a part of a commit reaches past its record", path=path, offset=offset)
            parts.append((int(part["table"]), read_stream(data[at : at + size])))
            at += size + -size % ALIGN
        return Commit(parts, [(int(run["table"]), run["run"]) for run in header["runs"]])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OSError, StopIteration, RecursionError, pa.ArrowException) as why:
        raise CorruptionError(f"a commit record does not parse ({why})", path=path, offset=offset) from why


def read_stream(data: memoryview | pa.Buffer) -> pa.RecordBatch:
    """The one batch of an IPC stream, its buffers inside ``data``."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        batch: pa.RecordBatch = reader.read_next_batch()
    return batch


def with_seq(batch: pa.RecordBatch, seq: int) -> pa.RecordBatch:
    """The batch with its ``_seq`` column, put before ``_op``."""
    at = batch.schema.get_field_index("_op")
    column = pa.array(np.full(batch.num_rows, seq, np.uint64))
    return batch.add_column(at, _SEQ, column)


def physical_batch(view: View, batch: pa.RecordBatch, keys: pa.Array, op: int) -> pa.RecordBatch:
    """User columns, the encoded key where it is stored, and ``_op``; ``_seq`` comes with the version."""
    wanted = view.table.schema.arrow
    if not batch.schema.equals(wanted) and (batch.schema.names != wanted.names or batch.schema.types != wanted.types):
        raise ConflictError(f"the columns of table {view.table.state.name!r} were changed while rows for it were made; write them again")
    columns = list(batch.columns)
    if view.table.codec.stored:
        columns.append(keys)
    columns.append(_ops(batch.num_rows, op))
    return pa.RecordBatch.from_arrays(columns, schema=view.table.shape.logged)


@lru_cache(4)
def _ops(n: int, op: int) -> pa.Array:
    return pa.array(np.full(n, op, np.uint8))
