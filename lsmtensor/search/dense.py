"""Nearest rows of a view. Each source answers its k nearest visible rows, exactly or by its segment; the answers are merged.

A source is walked by its segment when it has one of the metric asked for and most of its rows are wanted;
when few are, or the walk comes back short, it is scanned: the cost of a scan is in rows, that of a walk
in selectivity. Either way distances are computed from the stored values.
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
from ..errors import InvalidArgumentError, SchemaError, UnknownNameError
from ..kernels.contract import METRICS
from ..lsm import segments
from ..lsm.source import MemSource, RunSource, Source
from ..lsm.state import View
from ..registry import Spec, near

# below this share of rows wanted a scan of them beats a walk that steps over the rest
SCAN_SHARE = 0.1


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


def search_view(
    view: View, tree: Any, q: Any, *, k: int, column: str | None, where: Any, columns: Sequence[str] | None,
    index: str | None, metric: str | None, explain: bool, params: dict[str, Any],
) -> Any:  # fmt: skip
    """The body of `TableView.search`."""
    if q is None:
        raise InvalidArgumentError("search() needs a query: give q, a vector (d,) or several (q, d)")
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise InvalidArgumentError(f"k={k!r}; give 1 or more")
    queries = np.asarray(q)
    name = column or _guess_column(view, queries)
    kind = view.table.schema.field(name).type
    if not isinstance(kind, TensorType) or len(kind.shape) != 1:
        raise InvalidArgumentError(f"column {name!r} is a {kind}; search needs a one-dimensional tensor column")
    single = queries.ndim == 1
    queries = np.ascontiguousarray(np.atleast_2d(queries), np.float32)
    if queries.ndim != 2 or queries.shape[1] != kind.shape[0]:
        raise SchemaError(f"q has shape {np.shape(q)}; column {name!r} wants ({kind.shape[0]},) or (q, {kind.shape[0]})")
    if np.isnan(queries).any():
        raise SchemaError("q holds NaN, which has no distance")
    chosen, chosen_metric = _choose_index(view, name, index, metric)
    _check_params(view, chosen, params)
    plan = Plan(name, chosen_metric, chosen, int(k))
    found = [
        _search_source(view, tree, s, source, queries, int(k), where, plan, params) for s, source in enumerate(view.sources)
    ]
    if explain:
        return plan.to_dict()
    return _merged(view, found, queries, int(k), columns, single)


def _guess_column(view: View, queries: np.ndarray) -> str:
    width = queries.shape[-1] if queries.ndim else 0
    fit = [c.name for c in view.table.schema.columns if isinstance(c.type, TensorType) and c.type.shape == (width,)]
    if len(fit) != 1:
        which = ", ".join(fit) or "none"
        raise InvalidArgumentError(f"{len(fit)} columns hold vectors of {width} dimensions ({which}); name one with column=")
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


def _check_params(view: View, index: str | None, params: dict[str, Any]) -> None:
    from .. import indexes

    known: tuple[str, ...] = ()
    if index is not None:
        factory: Any = indexes.REGISTRY.get(Spec.parse(view.table.state.indexes[index]["spec"]).name)
        known = factory.search_params
    for name in params:
        if name not in known:
            raise UnknownNameError(f"search has no parameter {name!r} here; {near(name, known)}")


def _search_source(
    view: View, tree: Any, number: int, source: Source, queries: np.ndarray, k: int, where: Any, plan: Plan,
    params: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(rows, distances) of the k nearest visible rows of one source."""
    marks = segments.marks_of(source)
    newer = view.sources[:number]
    marks.resolve(source, newer, max([view.version, *(s.max_seq for s in newer)]))
    parts, valid = segments.matrices(source, plan.column)
    mask = _both(marks.visible(view.version), valid)
    if where is not None:
        mask = _both(mask, _matching(source, where))
    n = len(marks.seqs)
    wanted = n if mask is None else int(mask[:n].sum())
    step = {"source": "memtable" if isinstance(source, MemSource) else f"run {source.run.id}", "rows": n, "wanted": wanted}
    plan.steps.append(step)
    if wanted == 0:
        step["plan"] = "nothing visible"
        return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    bits = None if mask is None else np.ascontiguousarray(mask[:n]).view(np.uint8)
    if plan.index is not None and isinstance(source, RunSource) and wanted >= SCAN_SHARE * n:
        segment = segments.segment_of(source, plan.index, tree)
        if segment is not None:
            rows, distances = segment.search(queries, min(k, wanted), None if bits is None else bits.view(bool), **params)
            if (rows >= 0).all():
                step["plan"] = f"walk {plan.index}"
                return _pad(rows, distances, k)
            step["walked"] = "came back short"
    step["plan"] = "scan" if wanted == n else "scan of the wanted rows"
    return _scan(parts, queries, k, plan.metric, bits, tree.config)


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
    all_rows, all_distances = np.concatenate(rows, 1), np.concatenate(distances, 1)
    order = np.argsort(all_distances, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(all_distances, order, 1)
    if metric == "l2":
        best = np.sqrt(np.maximum(best, 0))
    return _pad(np.take_along_axis(all_rows, order, 1), best, k)


def _matching(source: Source, where: Any) -> np.ndarray:
    """bool (rows,): the filter on every row of a source; kept per run and filter."""
    kept: dict[str, np.ndarray] = source.__dict__.setdefault("_matching", {})
    text = str(where)
    if isinstance(source, MemSource):
        table = source.memtable.table()
        return _evaluate(table, where)
    if text not in kept:
        if len(kept) >= 16:
            kept.clear()
        names = [n for n in source.files[0].reader.schema.names if n in text]
        masks = [
            _evaluate(source.columns(i, names), where)
            if source.may_match(i, where)
            else np.zeros(len(source.seqs(i)), bool)
            for i in range(source.num_batches)
        ]
        kept[text] = np.concatenate(masks)
    return kept[text]


def _evaluate(table: pa.Table, where: Any) -> np.ndarray:
    plain = table.select([f.name for f in table.schema if not isinstance(f.type, pa.BaseExtensionType)])
    numbered = plain.append_column("_row", pa.array(np.arange(table.num_rows)))
    try:
        rows = numbered.filter(where).column("_row").to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as why:
        raise SchemaError(f"where={where} does not apply to this table ({why}); columns: {', '.join(plain.schema.names)}") from why
    mask = np.zeros(table.num_rows, bool)
    mask[rows] = True
    return mask


def _merged(
    view: View, found: list[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int, columns: Sequence[str] | None, single: bool
) -> pa.Table:
    """The k best over all sources, ties by key, with their columns."""
    schema = view.table.schema
    names = list(schema.primary_key) if columns is None else [schema.field(n).name for n in columns]
    if not found:
        rows = distances = np.empty((len(queries), 0))
        owner = np.empty((len(queries), 0), np.int64)
    else:
        rows = np.concatenate([r for r, _ in found], 1)
        distances = np.concatenate([d for _, d in found], 1)
        owner = np.repeat(np.arange(len(found)), k)[None, :].repeat(len(queries), 0)
    there = rows >= 0
    number = np.nonzero(there)[0]
    flat_owner, flat_row, flat_distance = owner[there], rows[there].astype(np.int64), distances[there].astype(np.float32)
    keys = view.table.codec.encode(view.rows(flat_owner, flat_row, _key_schema(view)))
    rank = np.empty(len(keys), np.int64)
    from ..lsm import keyspace

    rank[keyspace.order(keys)] = np.arange(len(keys))
    order = np.lexsort((rank, flat_distance, number))
    within = np.arange(len(order)) - np.searchsorted(number[order], number[order])
    order = order[within < k]
    table = view.rows(flat_owner[order], flat_row[order], pa.schema([schema.arrow.field(n) for n in names]))
    table = table.append_column("_distance", pa.array(flat_distance[order], pa.float32()))
    return table if single else table.append_column("_query", pa.array(number[order], pa.int64()))


def _key_schema(view: View) -> pa.Schema:
    if view.table.codec.stored:
        return pa.schema([view.table.physical.field("_key")])
    return pa.schema([view.table.schema.arrow.field(n) for n in view.table.schema.primary_key])
