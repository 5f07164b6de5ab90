"""A table file read through another schema than it was written with: columns renamed, widened, added since, or dropped and still needed.

Columns are matched by id. One that the file lacks is the column's fill, or stands in a file of its own beside the table file
where a function made it. Merges write what they read, so files catch up with the schema as they are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import container
from ..arrowbytes import stream_arrays
from ..arrowtake import take_array
from ..errors import CorruptionError
from ..evolution import cast
from ..keys import physical_schema
from ..schema import Schema, nulls
from ..sstable.coded import Coded, encode
from ..sstable.zones import Pruner

if TYPE_CHECKING:
    from .source import TableFile

GONE = "_was_"  # followed by the id: a dropped column in files that keep it for older versions
MADE = "_column_"  # followed by the id: the name of the segment that holds a column made by a function


def reader_for(file: TableFile, schema: dict[str, Any], kept: tuple[pa.Field, ...]) -> Any:
    """The file's reader, or one that answers for ``schema`` and the dropped columns ``kept``."""
    reader = file.reader
    return reader if reader.meta["schema"] == schema and not kept else Evolved(file, schema, kept)


@dataclass(frozen=True)
class _Origin:
    """Where a column comes from: a column of the file, one made beside it, or a fill that all rows share."""

    kind: pa.DataType
    stored: str | None = None
    made: str | None = None
    fill: pa.Array | None = None


class Evolved:
    """What `TableReader` answers, for other columns; keys are the same."""

    def __init__(self, file: TableFile, schema: dict[str, Any], kept: tuple[pa.Field, ...]) -> None:
        self._file, self._reader = file, file.reader
        own, wanted = Schema.from_dict(self._reader.meta["schema"]), Schema.from_dict(schema)
        base = physical_schema(wanted)
        self.schema = pa.schema([*base, *kept])
        names = dict(zip(own.ids, own.names, strict=True))
        there = {*self._reader.schema.names}
        beside = {s.index for s in file.ref.segments}
        ids = {**dict(zip(wanted.names, wanted.ids, strict=True)), **{f.name: int(f.name.removeprefix(GONE)) for f in kept}}
        self._origins = {}
        for field in self.schema:
            number = ids.get(field.name)
            if number is None:  # _key, _seq, _op
                self._origins[field.name] = _Origin(field.type, stored=field.name)
            elif number in names or f"{GONE}{number}" in there:
                self._origins[field.name] = _Origin(field.type, stored=names.get(number, f"{GONE}{number}"))
            elif f"{MADE}{number}" in beside:
                self._origins[field.name] = _Origin(field.type, made=f"{MADE}{number}")
            else:
                self._origins[field.name] = _Origin(field.type, fill=wanted.fills.get(number))
        self._made: dict[str, list[pa.Array]] = {}
        self._pruner: Pruner | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def column(self, i: int, name: str, start: int = 0, stop: int | None = None, check: bool = True) -> pa.Array:
        origin = self._origins[name]
        if origin.stored is not None:
            return cast(self._reader.column(i, origin.stored, start, stop, check), origin.kind)
        end = int(self._reader.batch_starts[i + 1] - self._reader.batch_starts[i]) if stop is None else stop
        if origin.made is not None:
            return cast(self._beside(origin.made)[i].slice(start, end - start), origin.kind)
        return _filled(origin, end - start)

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        stored = [n for n in names if self._origins[n].stored is not None]
        found = self._reader.take(rows, [self._origins[n].stored or "" for n in stored]) if stored else None
        columns = []
        for name in names:
            origin = self._origins[name]
            if origin.stored is not None:
                assert found is not None
                columns.append(pa.chunked_array([cast(c, origin.kind) for c in found.column(stored.index(name)).chunks], origin.kind))
            elif origin.made is not None:
                whole = pa.concat_arrays(self._beside(origin.made))
                columns.append(pa.chunked_array([cast(take_array(whole, rows), origin.kind)]))
            else:
                columns.append(pa.chunked_array([_filled(origin, len(rows))]))
        return pa.Table.from_arrays(columns, schema=pa.schema([self.schema.field(n) for n in names]))

    def outside(self, name: str) -> bool:
        origin = self._origins[name]
        return origin.stored is not None and self._reader.outside(origin.stored)

    def stored(self, i: int, name: str, kind: Coded, start: int = 0, stop: int | None = None) -> pa.Array:
        origin = self._origins[name]
        if origin.stored is not None and self._reader.schema.field(origin.stored).type == origin.kind:
            return self._reader.stored(i, origin.stored, kind, start, stop)
        return encode(self.column(i, name, start, stop), kind)

    def row_bytes(self, i: int, names: Sequence[str]) -> float:
        origins = [self._origins[n] for n in names]
        stored = [o.stored for o in origins if o.stored is not None]
        rest = sum(16.0 if o.fill is None else float(o.fill.nbytes) for o in origins if o.stored is None)
        return rest + (float(self._reader.row_bytes(i, stored)) if stored else 0.0)

    def checked(self, i: int, name: str, start: int, stop: int) -> bool:
        origin = self._origins[name]
        return origin.stored is None or self._reader.checked(i, origin.stored, start, stop)

    def may_match(self, i: int, where: Any) -> bool:
        if where is None:
            return True
        if self._pruner is None:
            same = {o.stored: n for n, o in self._origins.items() if o.stored is not None and self._reader.schema.field(o.stored).type == o.kind}
            zones = [{same[n]: zone for n, zone in z.items() if n in same} for z in self._reader.zones()]
            self._pruner = Pruner(self.schema, zones)
        return i in self._pruner.survivors(where)

    def _beside(self, name: str) -> list[pa.Array]:
        """The arrays of a column made by a function, one a batch."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = made_column(self._file, name)
        return made


def made_column(file: TableFile, name: str) -> list[pa.Array]:
    """Read and check the file of a column that a function made. Unlike an index it cannot be made again: damage is an error."""
    ref = next(s for s in file.ref.segments if s.index == name)
    path = f"{file.path.rsplit('/', 1)[0]}/{ref.file}"
    _, arrays = container.unpack(file.env.open(path, kind="index").map(), where=path)
    try:
        made = stream_arrays(arrays["values"])
    except (KeyError, pa.ArrowException) as why:
        raise CorruptionError(f"the values of column {ref.column!r} do not parse ({why!r})", path, 0) from why
    if [len(a) for a in made] != np.diff(file.reader.batch_starts).tolist():
        raise CorruptionError(f"column {ref.column!r} has other rows than its table file", path, 0)
    return made


def _filled(origin: _Origin, n: int) -> pa.Array:
    return nulls(n, origin.kind) if origin.fill is None else cast(take_array(origin.fill, np.zeros(n, np.int64)), origin.kind)

