"""Nearest rows of a view. Each source answers its k nearest visible rows, exactly or by its segment; the answers are merged.

A source is answered by its segment when it has one of the metric asked for, which chooses between a walk and a scan of the rows
wanted; without one, or where the segment comes back short, it is scanned. Either way distances are computed from the stored values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..config import RunConfig
from ..dtypes import TensorType
from ..errors import CorruptionError, InvalidArgumentError, SchemaError, UnknownNameError
from ..indexes.dial import check_recall
from ..kernels.contract import METRICS
from ..lsm import keyspace, segments
from ..lsm.source import MemSource, RunSource, Source
from ..lsm.state import View
from ..metrics import count
from ..registry import Spec, near
from .where import matching


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
    found = [
        _search_source(view, tree, s, source, queries, int(k), where, plan, params) for s, source in enumerate(view.sources)
    ]
    if explain:
        return plan.to_dict()
    return merged(view, found, queries, int(k), columns, single)


def _target(view: View, queries: np.ndarray, column: str | None, index: str | None, metric: str | None) -> Target:
    kept: dict[Any, Target] = view.table.__dict__.setdefault("_targets", {})
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
        names = [n for n, e in entries.items() if e["column"] == column]
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


def _search_source(
    view: View, tree: Any, number: int, source: Source, queries: np.ndarray, k: int, where: Any, plan: Plan,
    params: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(rows, distances) of the k nearest visible rows of one source."""
    parts, valid = segments.matrices(source, plan.column)
    mask = _both(visible(view, number, source, where), valid)
    n = len(segments.marks_of(source).seqs)
    wanted = n if mask is None else int(np.count_nonzero(mask[:n]))
    step = {"source": "memtable" if isinstance(source, MemSource) else f"run {source.run.id}", "rows": n, "wanted": wanted}
    plan.steps.append(step)
    if wanted == 0:
        step["plan"] = "nothing visible"
        return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    bounds = [0, n] if isinstance(source, MemSource) else source.starts.tolist()
    answers = []
    for at, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        mine = None if mask is None else mask[start:stop]
        here = stop - start if mine is None else int(np.count_nonzero(mine))
        if here == 0:
            continue
        if isinstance(source, RunSource) and plan.index is not None:
            walked = _walk(source, at, tree, queries, min(k, here), mine, plan, params)
            if walked is not None and (walked[0] >= 0).all():
                step.setdefault("plan", f"walk {plan.index}")
                count("index_walks", len(queries))
                answers.append((walked[0] + start if start else walked[0], walked[1]))
                continue
            step["walked"] = "no segment" if walked is None else "came back short"
        step["plan"] = "scan" if here == stop - start else "scan of the wanted rows"
        count("vectors_scanned", here * len(queries))
        here_parts = [(first - start, part) for first, part in parts if start <= first < stop]
        rows, distances = _scan(here_parts, queries, k, plan.metric, None if mine is None else mine.view(np.uint8), tree.config)
        answers.append((np.where(rows >= 0, rows + start, -1), distances))
    if len(answers) == 1:
        return _pad(*answers[0], k)
    return _best(np.concatenate([r for r, _ in answers], 1), np.concatenate([d for _, d in answers], 1), k)


def visible(view: View, number: int, source: Source, where: Any) -> np.ndarray | None:
    """bool (rows,): the rows of a source, the ``number``-th of a view, that the view sees and a filter allows; None for all."""
    marks = segments.marks_of(source)
    own = view.overlay
    newer = [s for s in view.sources[:number] if s is not own]
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


def _walk(
    source: RunSource, at: int, tree: Any, queries: np.ndarray, k: int, mask: np.ndarray | None, plan: Plan, params: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray] | None:
    assert plan.index is not None
    segment = segments.segment_of(source, at, plan.index, plan.column, tree)
    if segment is None:
        return None
    try:
        return segment.search(queries, k, mask, **params)
    except CorruptionError as why:
        # a page that is read by a search only: the table file has the rows
        segments.give_up(source, at, plan.index, why)
        return None


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
    kept: dict[Any, pa.Schema] = view.table.__dict__.setdefault("_answers", {})
    asked = None if columns is None else tuple(columns)
    if asked not in kept:
        names = schema.primary_key if columns is None else [schema.field(n).name for n in columns]
        kept[asked] = pa.schema([schema.arrow.field(n) for n in names])
    return kept[asked]


def _key_schema(view: View) -> pa.Schema:
    if view.table.codec.stored:
        return pa.schema([view.table.physical.field("_key")])
    return pa.schema([view.table.schema.arrow.field(n) for n in view.table.schema.primary_key])
