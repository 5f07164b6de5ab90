"""Nearest rows of a view. Each unit (a memtable, the files under one segment) answers its k nearest visible rows; the answers are merged.

A unit is answered by its segment when it has one of the metric asked for, which chooses between a walk and a scan of the rows wanted; without
one, or where the segment comes back short, it is scanned. A filter that is asked for the first time and leaves many rows is applied to what is
found instead, more of which is asked for until k are left. Either way distances are computed from the stored values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..beside import beside
from ..config import RunConfig
from ..dtypes import TensorType
from ..errors import CorruptionError, InvalidArgumentError, SchemaError, UnknownNameError
from ..indexes.dial import check_recall
from ..kernels.contract import METRICS
from ..lsm import fresh, keyspace, segments
from ..lsm.marks import marks_of
from ..lsm.source import MemSource, Source
from ..lsm.state import View
from ..metrics import count
from ..registry import Spec, near
from .where import asked_before, estimate, holding, matching


@dataclass
class Plan:
    """What was done, for ``explain=True``."""

    column: str
    metric: str
    index: str | None
    k: int
    steps: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"column": self.column, "metric": self.metric, "index": self.index, "k": self.k, "sources": self.steps}


@dataclass(frozen=True)
class Target:
    """What a search is about, as its arguments say: worked out once per table version and choice of arguments."""

    column: str
    dim: int
    index: str | None
    metric: str
    params: tuple[str, ...]


def search_view(
    view: View, tree: Any, q: Any, *, k: int, column: str | None, where: Any, columns: Sequence[str] | None,
    index: str | None, metric: str | None, explain: bool, params: dict[str, Any],
) -> Any:  # fmt: skip
    """The body of `TableView.search`."""
    if q is None:
        raise InvalidArgumentError("search() needs a query: give q, a vector (d,) or several (q, d)")
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise InvalidArgumentError(f"k={k!r}; give 1 or more")
    queries = np.asarray(q)
    target = _target(view, queries, column, index, metric)
    single = queries.ndim == 1
    queries = np.ascontiguousarray(queries.reshape(1, -1) if single else queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != target.dim:
        raise SchemaError(f"q has shape {np.shape(q)}; column {target.column!r} wants ({target.dim},) or (q, {target.dim})")
    if np.isnan(queries).any():
        raise SchemaError("q holds NaN, which has no distance")
    for name in params:
        if name not in target.params:
            raise UnknownNameError(f"search has no parameter {name!r} here; {near(name, target.params)}")
    if params.get("recall") is not None:
        check_recall(params["recall"])
    plan = Plan(target.column, target.metric, target.index, int(k))
    found = _Search(view, tree, queries, int(k), where, plan, params, explain).answers()
    if explain:
        return plan.to_dict()
    return merged(view, found, queries, int(k), columns, single)


def _target(view: View, queries: np.ndarray, column: str | None, index: str | None, metric: str | None) -> Target:
    kept: dict[Any, Target] = beside(view.table, "_targets", dict)
    asked = (column, queries.shape[-1] if queries.ndim and column is None else None, index, metric)
    target = kept.get(asked)
    if target is None:
        name = column or _guess_column(view, queries)
        kind = view.table.schema.field(name).type
        if not isinstance(kind, TensorType) or len(kind.shape) != 1:
            raise InvalidArgumentError(f"column {name!r} is a {kind}; search needs a one-dimensional tensor column")
        chosen, its_metric = _choose_index(view, name, index, metric)
        if len(kept) > 64:
            kept.clear()
        target = kept[asked] = Target(name, kind.shape[0], chosen, its_metric, _search_params(view, chosen))
    return target


def _guess_column(view: View, queries: np.ndarray) -> str:
    width = queries.shape[-1] if queries.ndim else 0
    fit = [c.name for c in view.table.schema.columns if isinstance(c.type, TensorType) and c.type.shape == (width,)]
    if not fit:
        there = [f"{c.name} of {c.type.shape[0]}" for c in view.table.schema.columns if isinstance(c.type, TensorType) and len(c.type.shape) == 1]
        raise InvalidArgumentError(f"no column holds vectors of {width} dimensions; those of table {view.table.state.name!r}: {', '.join(there) or 'none'}")
    if len(fit) > 1:
        raise InvalidArgumentError(f"{len(fit)} columns hold vectors of {width} dimensions ({', '.join(fit)}); name one with column=")
    return fit[0]


def _choose_index(view: View, column: str, index: str | None, metric: str | None) -> tuple[str | None, str]:
    entries = view.table.state.indexes
    if metric is not None and metric not in METRICS:
        raise UnknownNameError(f"no metric named {metric!r}; {near(metric, METRICS)}")
    if index is not None:
        if index not in entries or entries[index]["column"] != column:
            raise UnknownNameError(f"column {column!r} has no index named {index!r}; {near(index, entries)}")
        names = [index]
    else:
        # one that is to replace another stands back until it is built
        names = [n for n, e in entries.items() if e["column"] == column and e.get("replaces") not in entries]
    for name in names:
        own = str(Spec.parse(entries[name]["spec"]).params.get("metric", "l2"))
        if metric is None or own == metric:
            return name, own
    return None, metric or "l2"


def _search_params(view: View, index: str | None) -> tuple[str, ...]:
    from .. import indexes

    if index is None:
        return ("recall",)
    factory: Any = indexes.REGISTRY.get(Spec.parse(view.table.state.indexes[index]["spec"]).name)
    return (*factory.search_params, "recall")


# a filter is applied to what is found rather than to all rows where it was not asked before, is expected to leave such a share of them, and there are so many
LEAVES, MANY = 0.05, 100_000
# how much more is asked for than should be enough, and how often again
SPARE, TRIES = 1.3, 3
Found = tuple[np.ndarray, np.ndarray]


@dataclass
class _Search:
    """One search: what each source sees is worked out once, whichever units ask."""

    view: View
    tree: Any
    queries: np.ndarray
    k: int
    where: Any
    plan: Plan
    params: dict[str, Any]
    explain: bool
    masks: dict[tuple[int, bool], np.ndarray | None] = field(default_factory=dict)

    def answers(self) -> list[Found]:
        """(rows, distances) of the k nearest visible rows of each source of the view."""
        sources = self.view.sources
        found: list[list[Found]] = [[] for _ in sources]
        for number, source in enumerate(sources):
            if isinstance(source, MemSource):
                found[number] = self._memory(number, source)
        number_of = {id(source): number for number, source in enumerate(sources)}
        for unit in segments.units(self.view.table, self.plan.index):
            parts = [(number_of[id(source)], start, stop) for source, start, stop in unit.spans]
            step = self._step(unit.name, unit.rows)
            rows, distances = self._unit(unit, parts, step)
            if len(parts) == 1:
                number, start, _ = parts[0]
                found[number].append((np.where(rows >= 0, rows + start, -1) if start else rows, distances))
                continue
            at = 0
            for number, start, stop in parts:
                mine = (rows >= at) & (rows < at + stop - start)
                found[number].append((np.where(mine, rows - at + start, -1), np.where(mine, distances, np.float32(np.inf))))
                at += stop - start
        return [self._together(parts) for parts in found]

    def _together(self, parts: list[Found]) -> Found:
        if len(parts) == 1:
            return _pad(*parts[0], self.k)
        if not parts:
            return self._nothing()
        return _best(np.concatenate([r for r, _ in parts], 1), np.concatenate([d for _, d in parts], 1), self.k)

    def _nothing(self) -> Found:
        shape = len(self.queries), self.k
        return np.full(shape, -1, np.int64), np.full(shape, np.inf, np.float32)

    def _step(self, name: str, rows: int) -> dict[str, Any]:
        step = {"source": name, "rows": rows}
        self.plan.steps.append(step)
        return step

    # -- what is seen --------------------------------------------------------------------------------

    def _mask(self, number: int, filtered: bool) -> np.ndarray | None:
        """bool (rows,): the rows of a source that have a vector, are seen and, where ``filtered``, match; None for all."""
        if (number, filtered) not in self.masks:
            source = self.view.sources[number]
            mask = visible(self.view, number, source, self.where if filtered else None)
            self.masks[number, filtered] = _both(mask, segments.matrices(source, self.plan.column)[1])
        return self.masks[number, filtered]

    def _allowed(self, parts: list[tuple[int, int, int]], filtered: bool = True) -> np.ndarray | None:
        masks = [self._mask(number, filtered) for number, _, _ in parts]
        if all(mask is None for mask in masks):
            return None
        if len(parts) == 1 and masks[0] is not None and parts[0][1] == 0 and parts[0][2] >= len(masks[0]):
            return masks[0]
        return np.concatenate([np.ones(b - a, bool) if m is None else m[a:b] for m, (_, a, b) in zip(masks, parts, strict=True)])

    # -- one unit ------------------------------------------------------------------------------------

    def _memory(self, number: int, source: MemSource) -> list[Found]:
        """What a memtable holds in codes, and a scan of what came since."""
        step = self._step("memtable", len(marks_of(source).seqs))
        rows, views = step["rows"], segments.matrices(source, self.plan.column)[0]
        codes = fresh.of_memory(self.tree, source, self.plan.column, self.plan.metric) if self._coded else None
        # a commit may have come since its rows were counted
        stop = 0 if codes is None else min(len(codes), rows)
        late = [(max(at, stop) - stop, m[max(0, stop - at) : rows - at]) for at, m in views if at < rows and at + len(m) > stop]
        if codes is None or stop == 0:
            return [self._scan([(number, 0, rows)], step, late)]
        mask = self._allowed([(number, 0, stop)])
        some = stop if mask is None else int(np.count_nonzero(mask))
        near = codes.search(self.queries, min(self.k, some), stop, mask) if some else self._nothing()
        if not late:
            step |= {"wanted": some, "plan": "scan of codes"}
            return [near]
        found, far = self._scan([(number, stop, rows)], step, late)
        step |= {"wanted": some + step["wanted"], "plan": f"scan of codes, and of {rows - stop} rows"}
        return [near, (np.where(found >= 0, found + stop, -1), far)]

    @cached_property
    def _coded(self) -> bool:
        return fresh.wanted(self.view.table, self.plan.index)

    def _unit(self, unit: segments.Unit, parts: list[tuple[int, int, int]], step: dict[str, Any]) -> Found:
        segment = segments.segment_of(self.tree, unit, self.plan.column)
        if segment is None and self._coded:
            segment = fresh.of_file(self.tree, unit.parts[0], self.plan.column, self.plan.metric) if len(unit.parts) == 1 else None
        if segment is not None:
            if self.where is not None and step["rows"] >= MANY:
                late = self._afterwards(unit, segment, parts, step)
                if late is not None:
                    return late
            mask = self._allowed(parts)
            wanted = step["wanted"] = step["rows"] if mask is None else int(np.count_nonzero(mask))
            if wanted:
                found = self._ask(unit, segment, min(self.k, wanted), mask)
                if found is not None and found[0].min() >= 0:
                    step["plan"] = "scan of codes" if isinstance(segment, fresh.FileCodes) else f"walk {self.plan.index}"
                    if self.explain:
                        step |= segment.index.plan(self.k, wanted, **{n: v for n, v in self.params.items() if n != "recall"})
                    return found
                step["walked"] = "came back short"
        elif self.plan.index is not None:
            step["walked"] = "no segment"
        views = []
        at = 0
        for number, start, stop in parts:
            views += [(first - start + at, m) for first, m in segments.matrices(self.view.sources[number], self.plan.column)[0] if start <= first < stop]
            at += stop - start
        return self._scan(parts, step, views)

    def _ask(self, unit: segments.Unit, segment: segments.Segment, k: int, mask: np.ndarray | None) -> Found | None:
        count("index_walks", len(self.queries))
        try:
            found = segment.search(self.queries, k, mask, **self.params)
        except CorruptionError as why:
            # a page that is read by a search only: the table file has the rows
            assert unit.ref is not None
            segments.give_up(self.tree, unit.ref, why)
            return None
        if not segment.checked:
            rows = np.unique(found[0][found[0] >= 0])
            for part, start, mine in _by_part(unit, rows):
                source, at = unit.parts[part]
                source.take(rows[mine] - start + source.starts[at], [self.plan.column])
        return found

    def _afterwards(self, unit: segments.Unit, segment: segments.Segment, parts: list[tuple[int, int, int]], step: dict[str, Any]) -> Found | None:
        """What is found without the filter, less what it does not allow; None where looking at all rows first is the better plan."""
        sources = [source for source, _ in unit.parts]
        if any(asked_before(source, self.where) for source in sources):
            return None
        shares = [estimate(self.view, source, self.where) for source in sources]
        share = sum(s.share * (b - a) for s, (_, a, b) in zip(shares, parts, strict=True)) / step["rows"]
        step |= {"estimate": round(share * step["rows"]), "by": shares[0].by}
        if share < LEAVES or len(self.queries) > 1:
            return None
        mask, k = self._allowed(parts, filtered=False), self.k
        seen = step["rows"] if mask is None else int(np.count_nonzero(mask))
        for _ in range(TRIES):
            many = min(seen, int(SPARE * k / share) + 8)
            found = self._ask(unit, segment, many, mask)
            if found is None:
                return None
            rows, distances = found[0][0], found[1][0]
            rows, distances = rows[rows >= 0], distances[: np.count_nonzero(rows >= 0)]
            keep = self._holding(unit, rows)
            if np.count_nonzero(keep) >= self.k:
                step |= {"plan": f"walk {self.plan.index}, filter afterwards", "found": len(rows), "left": int(np.count_nonzero(keep))}
                return rows[keep][None, : self.k], distances[keep][None, : self.k]
            k = 4 * k
        step["walked"] = "too few of what was found matched"
        return None

    def _holding(self, unit: segments.Unit, rows: np.ndarray) -> np.ndarray:
        keep = np.zeros(len(rows), bool)
        for part, start, mine in _by_part(unit, rows):
            source, at = unit.parts[part]
            keep[mine] = holding(source, rows[mine] - start + source.starts[at], self.where)
        return keep

    def _scan(self, parts: list[tuple[int, int, int]], step: dict[str, Any], views: list[tuple[int, np.ndarray]]) -> Found:
        mask = self._allowed(parts)
        wanted = step["wanted"] = step["rows"] if mask is None else int(np.count_nonzero(mask))
        if wanted == 0:
            step["plan"] = "nothing visible"
            return self._nothing()
        step["plan"] = "scan" if wanted == step["rows"] else "scan of the wanted rows"
        count("vectors_scanned", wanted * len(self.queries))
        return _scan(views, self.queries, self.k, self.plan.metric, None if mask is None else mask.view(np.uint8), self.tree.config)


def _by_part(unit: segments.Unit, rows: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """(file of the unit, its first row, which of the rows are in it)."""
    starts = unit.starts
    owner = np.searchsorted(starts, rows, "right") - 1
    return [(int(part), int(starts[part]), np.flatnonzero(owner == part)) for part in np.unique(owner)]


def visible(view: View, number: int, source: Source, where: Any) -> np.ndarray | None:
    """bool (rows,): the rows of a source, the ``number``-th of a view, that the view sees and a filter allows; None for all."""
    marks = marks_of(source)
    own = view.overlay
    every = view.every_source
    newer = [s for s in every[: every.index(source)] if s is not own]
    marks.resolve(source, newer, max([view.version, *(s.max_seq for s in newer)]))
    mask = marks.visible(view.version)
    if own is not None and source is not own:
        mask = _both(mask, _not_overwritten(source, own, view.version, len(marks.seqs)))
    expiry = view.expiry
    if expiry is not None:
        mask = _both(mask, marks.seqs > expiry.floor if expiry.column is None else matching(view, source, expiry.alive))
    return mask if where is None else _both(mask, matching(view, source, where))


def _not_overwritten(source: Source, own: MemSource, version: int, n: int) -> np.ndarray:
    """bool (rows,): rows that a transaction did not write again or delete. Never kept: others do not see its writes."""
    mask = np.ones(n, bool)
    rows = source.find(own.sorted().keys(0), version)
    mask[rows[rows >= 0]] = False
    return mask


def _best(rows: np.ndarray, distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return _pad(np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1), k)


def _pad(rows: np.ndarray, distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    short = k - rows.shape[1]
    if short <= 0:
        return rows, distances
    return np.pad(rows, ((0, 0), (0, short)), constant_values=-1), np.pad(distances, ((0, 0), (0, short)), constant_values=np.inf)


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return b if a is None else a
    n = min(len(a), len(b))
    return a[:n] & b[:n]


def _scan(
    parts: list[tuple[int, np.ndarray]], queries: np.ndarray, k: int, metric: str, bits: np.ndarray | None, config: RunConfig
) -> tuple[np.ndarray, np.ndarray]:
    kernel: Any = kernels.choose(config.kernel)
    rows, distances = [], []
    for start, matrix in parts:
        stop = start + len(matrix) if bits is None else min(start + len(matrix), len(bits))
        if stop <= start:
            continue
        mask = None if bits is None else bits[start:stop]
        if mask is not None and not mask.any():
            continue
        block = np.ascontiguousarray(matrix[: stop - start], np.float32)
        near_rows, near = kernel.topk(queries, block, k, METRICS[metric], mask)
        rows.append(np.where(near_rows >= 0, near_rows + start, -1))
        distances.append(near)
    best_rows, best = (rows[0], distances[0]) if len(rows) == 1 else _best(np.concatenate(rows, 1), np.concatenate(distances, 1), k)
    return _pad(best_rows, np.sqrt(best) if metric == "l2" else best, k)


def merged(
    view: View, found: list[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int, columns: Sequence[str] | None, single: bool
) -> pa.Table:
    """The k best over all sources, ties by key, with their columns."""
    schema = answer_schema(view, columns)
    if not found:
        found = [(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))]
    rows, distances = found[0] if len(found) == 1 else (np.concatenate(part, 1) for part in zip(*found, strict=True))
    distances = distances.astype(np.float32, copy=False)
    if len(found) > 1:
        order = np.argsort(distances, 1, kind="stable")
        rows, distances = np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)
        owner = order // k
    else:
        owner = np.zeros(rows.shape, np.int64)
    there = rows >= 0
    if (there[:, 1:] & (distances[:, 1:] == distances[:, :-1])).any():
        owner, rows, distances = _by_key(view, owner, rows, distances, there)
    there[:, k:] = False
    table = view.rows(owner[there], rows[there], schema).append_column(_DISTANCE, [pa.array(distances[there])])
    return table if single else table.append_column("_query", pa.array(np.nonzero(there)[0]))


_DISTANCE = pa.field("_distance", pa.float32())


def _by_key(
    view: View, owner: np.ndarray, rows: np.ndarray, distances: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, rows at equal distance in order of their keys."""
    keys = view.table.codec.encode(view.rows(owner[there], rows[there], _key_schema(view)))
    rank = np.full(rows.shape, len(keys), np.int64)
    places = np.empty(len(keys), np.int64)
    places[keyspace.order(keys)] = np.arange(len(keys))
    rank[there] = places
    order = np.lexsort((rank, distances), axis=1)
    return np.take_along_axis(owner, order, 1), np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)


def answer_schema(view: View, columns: Sequence[str] | None) -> pa.Schema:
    schema = view.table.schema
    kept: dict[Any, pa.Schema] = beside(view.table, "_answers", dict)
    asked = None if columns is None else tuple(columns)
    if asked not in kept:
        names = schema.primary_key if columns is None else [schema.field(n).name for n in columns]
        kept[asked] = pa.schema([schema.arrow.field(n) for n in names])
    return kept[asked]


def _key_schema(view: View) -> pa.Schema:
    if view.table.codec.stored:
        return pa.schema([view.table.physical.field("_key")])
    return pa.schema([view.table.schema.arrow.field(n) for n in view.table.schema.primary_key])
