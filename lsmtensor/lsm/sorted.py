"""Sorted indexes of scalar columns: for each table file its values in order with the rows they stand in, a segment like any other.

A filter is an Arrow expression, whose only readable form is Arrow's own answer to "can this hold where the column lies in [a, b]?". So the
sorted values are a tree of intervals, and Arrow is asked on the way down: equality, ranges, lists, nulls, and what is joined by
and. What comes back is a superset of the matching rows; the caller applies the filter to them.
"""

from __future__ import annotations

import json
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from .. import container
from ..arrowbytes import stream_arrays, stream_bytes
from ..arrowtake import one_chunk
from ..beside import beside
from ..errors import CorruptionError, LsmTensorError
from ..evolution import cast
from ..metrics import count
from ..recent import Recent
from ..sstable.zones import compares_nan
from . import keyspace
from .evaluate import evaluate, named
from .source import RunSource

Opened = TypeVar("Opened")
_RELATIONS = {"==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
FAN = 16
LEAF = 256


def sortable(kind: Any) -> bool:
    """Whether a column of this type can have a sorted index: numbers, text, bytes, dates, times, decimals."""
    t = pa.types
    if not isinstance(kind, pa.DataType) or kind == pa.float16():
        return False
    plain = t.is_integer(kind) or t.is_floating(kind) or t.is_temporal(kind) or t.is_decimal(kind)
    return bool((plain and not t.is_interval(kind)) or t.is_string(kind) or t.is_large_string(kind) or t.is_binary(kind) or t.is_large_binary(kind))


def sort_column(column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """The sections of a segment: ``values`` in order, as an Arrow stream; ``rows`` they stand in; ``rest``, the rows of nulls and NaN. O(n log n)."""
    import pyarrow.compute as pc

    array = one_chunk(column)
    plain = array.is_valid()
    if pa.types.is_floating(array.type):
        plain = pc.and_(plain, pc.invert(pc.is_nan(array.fill_null(0))))
    there = plain.to_numpy(zero_copy_only=False)
    order = pc.sort_indices(array).to_numpy()
    order = order[there[order]]
    nulls = ~array.is_valid().to_numpy(zero_copy_only=False)
    return {
        "values": np.frombuffer(stream_bytes(array.take(pa.array(order))), np.uint8), "rows": order.astype("<u4"),
        "nulls": np.flatnonzero(nulls).astype("<u4"), "nans": np.flatnonzero(~there & ~nulls).astype("<u4"),
    }  # fmt: skip


class SortedIndex:
    """The index of one file, opened: ``values`` (m) rise, ``rows`` (m) uint32 are where they stand; ``schema`` is what filters speak of."""

    def __init__(self, schema: pa.Schema, column: str, values: pa.Array, rows: np.ndarray, nulls: np.ndarray, nans: np.ndarray) -> None:
        import pyarrow.compute as pc

        self._schema, self._name, self._column = schema, column, pc.field(column)
        self._values, self._rows, self._nulls, self._nans = values, rows, nulls, nans
        self._nodes: dict[tuple[int, int], tuple[Any, list[tuple[int, int]]]] = {}
        self._kept: Recent[np.ndarray] = Recent()

    def exactly(self, where: Any) -> np.ndarray | None:
        """int64, ascending: the rows for which a filter holds that compares this column with a number or a text, and nothing else; None
        for all others. O(log n)."""
        found = compared(where, self._name)
        if found is None:
            return None
        sign, value = found
        kind, values = self._values.type, self._values
        if pa.types.is_integer(kind) and type(value) is int:
            limits = np.iinfo(kind.to_pandas_dtype())
            if not limits.min <= value <= limits.max:
                return None
        elif not (kind == pa.float64() and isinstance(value, float)):
            if not (pa.types.is_string(kind) and isinstance(value, str)):
                return None
            texts = values.cast(pa.binary())
            return self._between(sign, *(keyspace.search(texts, value.encode(), side) for side in ("left", "right")))
        plain = values.to_numpy()
        return self._between(sign, *(int(np.searchsorted(plain, plain.dtype.type(value), side)) for side in ("left", "right")))  # type: ignore[call-overload]

    def _between(self, sign: str, first: int, behind: int) -> np.ndarray:
        """The rows that stand in this relation to a value which takes [first, behind) of the sorted ones."""
        n = len(self._rows)
        start, stop = {"==": (first, behind), "<": (0, first), "<=": (0, behind), ">": (behind, n), ">=": (first, n)}[sign]
        return np.sort(self._rows[start:stop].astype(np.int64))

    def candidates(self, where: Any) -> np.ndarray:
        """int64, ascending: rows for which the filter may hold. O(log n) questions to Arrow for each end of a range."""
        known = self._kept.get(where)
        if known is None:
            spans = self._spans(where, 0, len(self._rows))
            # NaN is in no interval
            parts = [self._nans, *(self._rows[a:b] for a, b in spans)]
            if spans and named(self._schema, where) == [self._name]:
                # of the end leaves, those that match: their values are here, the file's are far apart
                for i in {0, len(spans) - 1}:
                    values = pa.table([self._values.slice(spans[i][0], len(parts[i + 1]))], [self._name])
                    parts[i + 1] = parts[i + 1][evaluate(values, where)]
            if len(self._nulls) and _survivors(self._fragments([self._column.is_null()]), where):
                parts.append(self._nulls)
            known = self._kept.put(where, np.sort(np.concatenate(parts).astype(np.int64)))
        return known

    def _spans(self, where: Any, start: int, stop: int) -> list[tuple[int, int]]:
        """Intervals of the sorted values that hold every match in [start, stop)."""
        if start == stop:
            return []
        node = self._nodes.get((start, stop))
        if node is None:
            step = -(-(stop - start) // (FAN * LEAF)) * LEAF
            children = [(a, min(a + step, stop)) for a in range(start, stop, step)]
            inside = [(self._column >= self._values[a]) & (self._column <= self._values[b - 1]) for a, b in children]
            node = self._nodes[start, stop] = (self._fragments(inside), children)
        asked, children = node
        found = [children[i] for i in _survivors(asked, where)]
        return found if children[0][1] - start <= LEAF else [span for a, b in found for span in self._spans(where, a, b)]

    def _fragments(self, guarantees: list[Any]) -> Any:
        """A data set of one fragment for each guarantee, of no bytes: Arrow answers which of them a filter leaves."""
        import pyarrow.dataset as ds
        import pyarrow.fs as fs

        form, disk = ds.IpcFileFormat(), fs.LocalFileSystem()
        fragments = [form.make_fragment(f"{i}", disk, partition_expression=g) for i, g in enumerate(guarantees)]
        return ds.FileSystemDataset(fragments, self._schema, form, disk)


def _survivors(asked: Any, where: Any) -> list[int]:
    return [int(f.path) for f in asked.get_fragments(where)]


def compared(where: Any, column: str) -> tuple[str, Any] | None:
    """(relation, value) of a filter that compares this column with a finite number or a text. Its text tells what it may be, and
    it is that if the filter made so is equal to it."""
    import pyarrow.compute as pc

    match = re.fullmatch(rf"\({re.escape(column)} (==|<=?|>=?) (.+)\)", str(where), re.DOTALL)
    if match is None:
        return None
    try:
        value = json.loads(match[2])
    except ValueError:
        return None
    if type(value) not in (int, float, str) or (type(value) is float and not np.isfinite(value)):
        return None
    for guess in (value, float(value)) if type(value) is int else (value,):
        try:
            if _RELATIONS[match[1]](pc.field(column), guess).equals(where):
                return match[1], guess
        except (pa.ArrowException, OverflowError):
            continue
    return None


def candidates(source: RunSource, indexes: Mapping[str, str], where: Any) -> tuple[np.ndarray, bool] | None:
    """(int64, ascending: the rows of a run for which a filter may hold, whether it does for each), by its sorted indexes (name to
    column); None where they leave so many that a look at every row is as quick. A file without a segment stands whole among them.
    """
    text = str(where)
    asked = {n: column for n, column in indexes.items() if column in text}
    if not asked or compares_nan(where):
        return None
    parts, most, exact = [], max(source.rows // 256, 4096), True
    for at, file in enumerate(source.files):
        there = [index for n, column in asked.items() if (index := opened(source, at, n, partial(_open, source, at, column))) is not None]
        best = next((found for index in there if (found := index.exactly(where)) is not None), None)
        if best is None:
            exact = False
            for index in there:
                found = index.candidates(where)
                best = found if best is None else np.intersect1d(best, found, assume_unique=True)
        parts.append((np.arange(file.ref.rows) if best is None else best) + int(source.starts[at]))
        most -= len(parts[-1])
        if most < 0:
            return None
    found = np.concatenate(parts)
    count("index_candidates", len(found))
    return found, exact


def opened(source: RunSource, at: int, name: str, open_: Callable[[str], Opened]) -> Opened | None:
    """What ``open_`` makes of the segment file of an index of a run's file; None where it has none that is whole."""
    ref = next((s for s in source.files[at].ref.segments if s.index == name), None)
    if ref is None:
        return None
    kept: dict[int, Opened | None] = beside(source, "_opened", dict)
    if ref.number not in kept:
        try:
            kept[ref.number] = open_(ref.file)
        except (LsmTensorError, OSError) as why:
            warnings.warn(f"index segment {ref.file} cannot be used ({why}); searching without it", stacklevel=2)
            kept[ref.number] = None
    return kept[ref.number]


def _open(source: RunSource, at: int, column: str, name: str) -> SortedIndex:
    file = source.files[at]
    path = f"{file.path.rsplit('/', 1)[0]}/{name}"
    header, arrays = container.unpack(file.env.open(path, kind="index").map(), where=path)
    try:
        (values,) = stream_arrays(arrays["values"])
        rows, nulls, nans = arrays["rows"], arrays["nulls"], arrays["nans"]
    except (KeyError, ValueError, pa.ArrowException) as why:
        raise CorruptionError(f"the sorted values do not parse ({why!r})", path, 0) from why
    every, n = [part for part in (rows, nulls, nans) if len(part)], file.ref.rows
    if header.get("rows") != n or sum(map(len, every)) != n or len(values) != len(rows) or any(int(part.max()) >= n for part in every):
        raise CorruptionError("the segment indexes other rows than its table file has", path, 0)
    schema = source.reader(at).schema
    return SortedIndex(schema, column, cast(values, schema.field(column).type), rows, nulls, nans)
