"""Zone maps: the least and greatest value of a column in a batch, so that a filter can leave batches out."""

from __future__ import annotations

import math
import re
from typing import Any

import pyarrow as pa

from ..recent import Recent

MAX_TEXT = 64
_NAN = re.compile(r"\bnan\b")


def zone_map(batch: pa.RecordBatch) -> dict[str, Any]:
    """``{column: [min, max, null count]}`` for integer, float and short text columns of the user."""
    import pyarrow.compute as pc

    zones: dict[str, Any] = {}
    for field in batch.schema:
        t, kind = pa.types, field.type
        if field.name.startswith("_") or not (t.is_integer(kind) or t.is_floating(kind) or t.is_string(kind)):
            continue
        column = batch.column(field.name)
        if column.null_count == len(column):
            continue
        if t.is_floating(kind) and pc.any(pc.is_nan(column)).as_py():
            continue  # NaN is in no interval
        both = pc.min_max(column).as_py()
        low, high = both["min"], both["max"]
        if isinstance(low, str) and max(len(low), len(high)) > MAX_TEXT:
            continue
        if isinstance(low, float) and not (math.isfinite(low) and math.isfinite(high)):
            continue
        zones[field.name] = [low, high, column.null_count]
    return zones


def compares_nan(where: Any) -> bool:
    """Whether a filter compares with NaN: Arrow then thinks that intervals are ruled out which are not."""
    return _NAN.search(str(where)) is not None


class Pruner:
    """Which batches a filter can match. Arrow expressions have no readable form but this: each batch is a
    fragment of a data set whose partition expression is its zone map, and Arrow answers which fragments remain."""

    def __init__(self, schema: pa.Schema, zones: list[dict[str, Any]]) -> None:
        self._schema, self._zones = schema, zones
        self._dataset: Any = None
        self._kept: Recent[frozenset[int]] = Recent()

    def survivors(self, where: Any) -> frozenset[int]:
        """Numbers of the batches that may hold a match."""
        known = self._kept.get(where)
        if known is None:
            known = self._kept.put(where, frozenset(range(len(self._zones))) if compares_nan(where) else self._ask(where))
        return known

    def _ask(self, where: Any) -> frozenset[int]:
        import pyarrow.dataset as ds
        import pyarrow.fs as fs

        if self._dataset is None:
            form, disk = ds.IpcFileFormat(), fs.LocalFileSystem()
            fragments = [
                form.make_fragment(f"{i}", disk, partition_expression=_expression(zone, self._schema))
                for i, zone in enumerate(self._zones)
            ]
            self._dataset = ds.FileSystemDataset(fragments, self._schema, form, disk)
        try:
            return frozenset(int(f.path) for f in self._dataset.get_fragments(where))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return frozenset(range(len(self._zones)))  # the filter itself will say what is wrong


def _expression(zone: dict[str, Any], schema: pa.Schema) -> Any:
    import pyarrow.compute as pc

    whole = pc.scalar(True)
    for name, (low, high, nulls) in zone.items():
        kind = schema.field(name).type
        field = pc.field(name)
        inside = (field >= pa.scalar(low, kind)) & (field <= pa.scalar(high, kind))
        whole = whole & (inside | field.is_null() if nulls else inside)
    return whole
