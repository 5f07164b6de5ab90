"""A table file by key, one row at a time: what the compiled lookup in `rows` needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from ..convert import row_value
from ..metrics import looked_up, lookups
from ..rows.columns import key_place, lanes_of
from ..schema import Schema
from .filters import plain
from .reader import TableReader


def file_rows(reader: TableReader, kit: Any, schema: Schema, physical: pa.Schema, first: int) -> Any:
    """The kit's `FileRows` of a file whose rows are numbered from ``first``; None where its columns are not the table's, one is under a codec, or the kit has none."""
    if not hasattr(kit, "FileRows") or not reader.schema.equals(physical, check_metadata=False) or any(map(reader.coded, physical.names)):
        return None
    firsts, lasts = reader.key_ranges
    ints = bool(lasts) and isinstance(lasts[0], int)
    tell = partial(looked_up, reader.metrics, reader.filter is not None)
    made = kit.FileRows(ints, firsts, lasts, plain(reader.filter), lambda i: _batch(reader, kit, schema, i), (reader.batch_starts + first).tolist(), tell)
    reader.metrics.reporters.add(made)
    lookups.add(made)
    return made


def _batch(reader: TableReader, kit: Any, schema: Schema, i: int) -> Any:
    """A batch whose keys, versions and operations were checked, and the offsets and validity of its values; those themselves
    are checked row by row."""
    keys, seqs, ops = reader.keys(i), reader.column(i, "_seq"), reader.column(i, "_op")
    arrays = [(c.name, c.type, reader.unchecked(i, c.name)) for c in schema.columns]

    def other(name: str, kind: Any) -> Callable[[int], Any]:
        return lambda row: row_value(reader.column(i, name, row, row + 1), 0, kind)

    lanes = lanes_of(arrays, other)
    places = [b.buffers()[1].address + b.offset * width for b, width in ((seqs, 8), (ops, 1))]
    return kit.BatchRows(len(keys), key_place(keys), *places, lanes, reader.guard(), (keys, seqs, ops, [a for _, _, a in arrays]))
