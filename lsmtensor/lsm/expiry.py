"""Rows that expire: ``ttl=`` of a table, counted from the commit or from a column of times.

Judged at the commit time of the version that is read, so that a version reads the same for ever: rows vanish as commits come, and
the past still has them. Merges remove what had expired at the oldest version that anybody needs.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError, SchemaError
from ..schema import Schema
from . import retention
from .evaluate import evaluate
from .layout import time_of, version_before
from .merge import Batches, Window

if TYPE_CHECKING:
    from .state import TableVersion

_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}


def option_of(schema: Schema, ttl: Any) -> dict[str, Any]:
    """The layout's entry of a ``ttl=``: a duration from the commit on, or {column: duration} from its time on. Columns by id."""
    column, duration = None, ttl
    if isinstance(ttl, dict):
        if len(ttl) != 1:
            raise InvalidArgumentError(f"ttl={ttl!r}; give a duration such as '7d', or one column of times with it: {{'created': '7d'}}")
        ((name, duration),) = ttl.items()
        field = schema.field(name)
        if not isinstance(field.type, pa.DataType) or not (pa.types.is_timestamp(field.type) or pa.types.is_date(field.type)):
            raise SchemaError(f"ttl of column {name!r}, which is {field.type}; wanted a timestamp or a date")
        column = schema.ids[schema.names.index(name)]
    if isinstance(duration, datetime.timedelta):
        seconds = duration.total_seconds()
    else:
        kind, amount = ("", 0) if isinstance(duration, int) else retention.parse(str(duration))
        if kind != "seconds":
            raise InvalidArgumentError(f"ttl={duration!r} is no duration; give '12h', '7d', 'one_week' or a timedelta")
        seconds = amount
    if seconds <= 0:
        raise InvalidArgumentError(f"ttl={duration!r}; give a duration above zero")
    return {"ns": round(seconds * 1e9), "column": column}


@dataclass(frozen=True)
class Expiry:
    """What has expired at one version: rows of commits up to ``floor``, or those whose ``column`` is not above ``cutoff``."""

    floor: int
    column: str | None = None
    cutoff: Any = None

    @cached_property
    def alive(self) -> Any:
        """The column's rows that have not, as an Arrow expression; those without a time never do."""
        import pyarrow.compute as pc

        return (pc.field(self.column) > self.cutoff) | pc.field(self.column).is_null()

    def mask(self, table: pa.Table) -> np.ndarray:
        """bool (rows,): those of a table with ``_seq`` and the column that have not expired."""
        if self.column is None:
            return np.asarray(table.column("_seq").to_numpy() > self.floor)
        return evaluate(table.select([self.column]), self.alive)

    @property
    def names(self) -> Sequence[str]:
        """The columns that `mask` reads."""
        return ["_seq"] if self.column is None else [self.column]

    def left(self, window: Window) -> Window:
        """The rows of a window that have not expired."""
        if not len(window):
            return window
        keep = self.mask(window.gather(self.names))
        return window if keep.all() else Window(window.pieces, window.piece[keep], window.row[keep])


def expiry_of(table: TableVersion, version: int) -> Expiry | None:
    """What has expired at a version; None where nothing can have."""
    option = table.state.options.get("ttl")
    if option is None or table.times is None:
        return None
    marks = table.times()
    now = time_of(marks, version)
    if now is None:
        return None
    until = now - int(option["ns"])
    if option["column"] is None:
        floor = version_before(marks, until)
        return Expiry(floor) if floor else None
    schema = table.schema
    if option["column"] not in schema.ids:
        return None
    field = schema.columns[schema.ids.index(option["column"])]
    days = pa.types.is_date(field.type)
    unit = 86_400_000_000_000 if days else _UNITS[field.type.unit]
    ticks = pa.scalar(until // unit * (86_400_000 if field.type == pa.date64() else 1), pa.int32() if field.type == pa.date32() else pa.int64())
    return Expiry(0, field.name, ticks.cast(field.type))


class Expiring:
    """A run in a merge, whose expired rows look like deletes: they go where deletes go, and nothing older comes up from under them."""

    def __init__(self, run: Batches, expiry: Expiry) -> None:
        self._run, self._expiry = run, expiry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def ops(self, i: int) -> np.ndarray:
        table = self._run.columns(i, self._expiry.names)
        return np.where(self._expiry.mask(table), self._run.ops(i), 0).astype(np.uint8)
