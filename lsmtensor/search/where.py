"""Filters: which rows an Arrow expression allows, by a look at every row or by sorted indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..beside import beside
from ..errors import InvalidArgumentError
from ..lsm import keyspace
from ..lsm.evaluate import evaluate, named
from ..lsm.sorted import candidates
from ..lsm.source import MemSource, RunSource, Source
from ..lsm.state import View
from ..recent import Recent
from ..registry import Spec


def check_where(where: Any) -> None:
    """A filter is an Arrow expression; `InvalidArgumentError` for text and for functions."""
    import pyarrow.compute as pc

    if not isinstance(where, pc.Expression):
        raise InvalidArgumentError(f"where={where!r} is a {type(where).__name__}; give a pyarrow.compute expression, such as pc.field('id') < 2")


def matching(view: View, source: Source, where: Any) -> np.ndarray:
    """bool (rows,): the filter on every row of a source; kept per run for the filters asked last."""
    check_where(where)
    if isinstance(source, MemSource):
        return _in_memory(source, where)
    kept: Recent[np.ndarray] = beside(source, "_matching", Recent)
    known = kept.get(where)
    if known is not None:
        return known
    some = candidates(source, sorted_columns(view), where)
    if some is not None:
        mask = np.zeros(source.rows, bool)
        mask[_sure(source, *some, where)] = True
        return kept.put(where, mask)
    names = named(source.reader(0).schema, where)
    masks = [
        evaluate(source.columns(i, names), where) if source.may_match(i, where) else np.zeros(len(source.seqs(i)), bool)
        for i in range(source.num_batches)
    ]
    return kept.put(where, np.concatenate(masks))


@dataclass(frozen=True)
class Estimate:
    """The share of a source's rows that a filter is expected to leave, and what says so."""

    share: float
    by: str


SAMPLE = 1024


def asked_before(source: Source, where: Any) -> bool:
    """Whether the rows that match are known, or the filter was asked of this source before: then they are worth working out."""
    if isinstance(source, MemSource):
        return True
    if beside(source, "_matching", Recent).get(where) is not None:
        return True
    asked: Recent[bool] = beside(source, "_asked", Recent)
    known = asked.get(where) is not None
    if not known:
        asked.put(where, True)
    return known


def estimate(view: View, source: RunSource, where: Any) -> Estimate:
    """By sorted indexes, else by the zone maps and 1,024 rows spread over the source, which are kept. Never more than that is read."""
    check_where(where)
    known = beside(source, "_matching", Recent).get(where)
    if known is not None:
        return Estimate(float(known.mean()), "the rows that match")
    some = candidates(source, sorted_columns(view), where)
    if some is not None:
        return Estimate(len(some[0]) / max(1, source.rows), "sorted indexes")
    left = sum(len(source.seqs(i)) for i in range(source.num_batches) if source.may_match(i, where))
    if left == 0:
        return Estimate(0.0, "zone maps")
    names = named(source.reader(0).schema, where)
    samples: dict[tuple[str, ...], pa.Table] = beside(source, "_samples", dict)
    if tuple(names) not in samples:
        samples[tuple(names)] = source.take(np.linspace(0, source.rows - 1, min(SAMPLE, source.rows)).astype(np.int64), names)
    sample = samples[tuple(names)]
    return Estimate(min(left / source.rows, float(evaluate(sample, where).mean())), f"{sample.num_rows} rows and zone maps")


def indexed(view: View, where: Any, start: Any = None, stop: Any = None) -> tuple[np.ndarray, np.ndarray] | None:
    """(source, row) of every visible row that a filter allows, by key in [start, stop): by sorted indexes alone, or None
    where they do not help. O(candidates log rows), whatever the table holds.
    """
    indexes = sorted_columns(view)
    if not indexes:
        return None
    check_where(where)
    found: list[np.ndarray] = []
    for source in view.sources:
        if isinstance(source, MemSource):
            found.append(np.flatnonzero(_in_memory(source, where)))
            continue
        some = candidates(source, indexes, where)
        if some is None:
            return None
        found.append(_sure(source, *some, where))
    owner, row, keys = [], [], []
    for s, rows in enumerate(found):
        if len(rows):
            mine = keys_of(view, view.sources[s], rows)
            # a row that is hidden here may match and its newer one not: only the owner of a key has a say
            whose, where_there = view.locate(mine)
            seen = (whose == s) & (where_there == rows)
            if start is not None or stop is not None:
                seen &= keyspace.between(mine, start, stop)
            owner.append(np.full(int(seen.sum()), s))
            row.append(rows[seen])
            keys.append(mine.filter(pa.array(seen)))
    if not keys:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = keyspace.order(keyspace.concat(keys))
    return np.concatenate(owner)[order], np.concatenate(row)[order]


def keys_of(view: View, source: Source, rows: np.ndarray) -> pa.Array:
    """The encoded keys of some rows of a source."""
    names = ["_key"] if view.table.codec.stored else list(view.table.schema.primary_key)
    return view.table.codec.encode(source.take(rows, names))


def sorted_columns(view: View) -> dict[str, str]:
    """Sorted indexes of the table: name to column."""
    entries = view.table.state.indexes
    return beside(view.table, "_sorted_columns", lambda: {n: e["column"] for n, e in entries.items() if Spec.parse(e["spec"]).name == "sorted"})


def _in_memory(source: MemSource, where: Any) -> np.ndarray:
    table = source.memtable.view().table()
    return evaluate(table.select(named(table.schema, where)), where)


def holding(source: RunSource, rows: np.ndarray, where: Any) -> np.ndarray:
    """bool (rows,): for which of some rows the filter holds."""
    if len(rows) == 0:
        return np.zeros(0, bool)
    return evaluate(source.take(rows, named(source.reader(0).schema, where)), where)


def _sure(source: RunSource, rows: np.ndarray, sure: bool, where: Any) -> np.ndarray:
    """Those of the rows for which the filter holds; ``sure`` that it does for all."""
    return rows if sure else rows[holding(source, rows, where)]
