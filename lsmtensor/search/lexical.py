"""Search by words and by sparse vectors: the posting lists of each source, ranked as those of one collection.

Scores are exact: document frequencies and lengths count every row that is not compacted away yet, memtable included, as Lucene's do; only
visible rows are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from .. import kernels
from ..beside import beside
from ..dtypes import SparseType
from ..errors import InvalidArgumentError, SchemaError
from ..indexes.analyze import TextSpec
from ..indexes.dial import check_recall
from ..indexes.postings import Postings, reaching
from ..indexes.text import TextLists, ranked, together
from ..lsm.lists import Asked, asked_sparse, asked_text, lists_of
from ..lsm.marks import marks_of
from ..lsm.source import RunSource
from ..lsm.state import View
from ..registry import Spec
from .dense import answer_schema, merged, visible

Found = tuple[np.ndarray, np.ndarray]
Masks = list[np.ndarray | None]
T = TypeVar("T")


def search_text(view: View, asked: Any, k: int, column: str | None, where: Any, columns: Sequence[str] | None, config: Any) -> pa.Table:
    named = asked if isinstance(asked, dict) else {}
    spec, lists = _kept(view, "text", (named.get("column", column), named.get("index"), config.kernel), _text_lists)
    question = spec.question(asked, "column", "index")
    every = [lists_of(source, lists) for source in view.sources]
    masks = [_masks(view, number, where, parts) for number, parts in enumerate(every)]
    if len(every) == 1:
        found = ranked(every[0], question, k, masks[0])
        return _answered(view, [together(found, every[0], k)], k, columns)
    each = iter(ranked([part for parts in every for part in parts], question, k, [mask for part in masks for mask in part]))
    return _answered(view, [together([next(each) for _ in parts], parts, k) for parts in every], k, columns)


def _kept(view: View, what: str, asked: Any, make: Callable[..., T]) -> T:
    """What some arguments say about a table version: worked out once, for it is asked the same again."""
    kept: dict[Any, T] = beside(view.table, f"_asked_{what}", dict)
    found = kept.get(asked)
    if found is None:
        if len(kept) > 64:
            kept.clear()
        found = kept[asked] = make(view, *asked)
    return found


def _text_lists(view: View, column: str | None, index: str | None, kernel: Any) -> tuple[TextSpec, Asked[TextLists]]:
    name, index, spec = _chosen(view, column, index)
    return spec, asked_text(name, spec, index, kernels.choose(kernel))


def _chosen(view: View, column: str | None, index: str | None) -> tuple[str, str | None, TextSpec]:
    entries = {n: e for n, e in view.table.state.indexes.items() if Spec.parse(e["spec"]).name == "text"}
    if index is not None and index not in entries:
        raise InvalidArgumentError(f"no text index named {index!r}; there are {', '.join(entries) or 'none'}")
    fit = [n for n, e in entries.items() if index in (None, n) and column in (None, e["column"])]
    if fit and len({entries[n]["column"] for n in fit}) == 1:
        return entries[fit[0]]["column"], fit[0], TextSpec.of(entries[fit[0]]["spec"])
    strings = [c.name for c in view.table.schema.columns if c.type in (pa.string(), pa.large_string())]
    if column is not None and column not in strings:
        raise InvalidArgumentError(f"column {column!r} holds no text; columns of strings: {', '.join(strings) or 'none'}")
    if column is None and len(strings) != 1:
        raise InvalidArgumentError(f"{len(strings)} columns hold text ({', '.join(strings) or 'none'}); name one: text={{'query': …, 'column': …}}")
    return column or strings[0], None, TextSpec()


def search_sparse(
    view: View, asked: Any, k: int, column: str | None, where: Any, columns: Sequence[str] | None, config: Any, recall: float | None = None
) -> pa.Table:
    """Exact; with a ``recall`` nearly so in the segments of an index that was calibrated for it."""
    if recall is not None:
        check_recall(recall)
    dim, lists = _kept(view, "sparse", (column, config.kernel), _sparse_lists)
    weights, found = _sparse_query(asked, dim), []
    terms, factors = np.array(list(weights), np.int64), np.array(list(weights.values()), np.float32)
    for number, source in enumerate(view.sources):
        parts = lists_of(source, lists)
        near = []
        for part, mask in zip(parts, _masks(view, number, where, parts), strict=True):
            few = None if recall is None else reaching(part.curve, recall, k)
            near.append(part.search(*part.numbered(terms, factors), k, mask, few))
        found.append(together(near, parts, k))
    return _answered(view, found, k, columns)


def _sparse_lists(view: View, column: str | None, kernel: Any) -> tuple[int, Asked[Postings]]:
    name, dim = _sparse_column(view, column)
    index = next((n for n, e in view.table.state.indexes.items() if e["column"] == name and Spec.parse(e["spec"]).name == "sparse"), None)
    return dim, asked_sparse(name, dim, index, kernels.choose(kernel))


def _sparse_column(view: View, column: str | None) -> tuple[str, int]:
    fit = {c.name: c.type.dim for c in view.table.schema.columns if isinstance(c.type, SparseType) and c.type.searchable}
    if (column is not None and column not in fit) or (column is None and len(fit) != 1):
        raise InvalidArgumentError(f"column {column!r}: columns of sparse vectors are {', '.join(fit) or 'none'}; name one with column=")
    name = column or next(iter(fit))
    return name, fit[name]


def _sparse_query(asked: Any, dim: int) -> dict[int, np.float32]:
    """Weights by index, none 0: of {"indices", "values"}, of a mapping, or of one row of a scipy matrix; repeated indices are added up."""
    if hasattr(asked, "tocsr"):
        row = asked.tocsr()
        if row.shape[0] != 1:
            raise SchemaError(f"sparse of shape {row.shape}; give one row")
        indices, values = row.indices, row.data
    elif isinstance(asked, dict) and set(asked) == {"indices", "values"}:
        indices, values = asked["indices"], asked["values"]
    elif isinstance(asked, dict):
        indices, values = list(asked), list(asked.values())
    else:
        raise SchemaError(f"sparse={type(asked).__name__}; give {{'indices': …, 'values': …}}, a dict of weights by index, or one row of a scipy matrix")
    ids, weights = np.asarray(indices), np.asarray(values, np.float32)
    if ids.shape != weights.shape or ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise SchemaError(f"sparse has indices {ids.dtype} {ids.shape} and values {weights.shape}; give as many whole numbers as values")
    if len(ids) and (ids.min() < 0 or ids.max() >= dim):
        raise SchemaError(f"sparse has indices from {ids.min()} to {ids.max()}; the column has {dim} dimensions")
    if not np.isfinite(weights).all():
        raise SchemaError("sparse holds NaN or infinity, which has no product")
    made: dict[int, np.float32] = {}
    for i, w in zip(ids.tolist(), weights, strict=True):
        made[i] = made.get(i, np.float32(0)) + w
    return {i: w for i, w in made.items() if w != 0}


# -- sources -------------------------------------------------------------------------------------------


def _masks(view: View, number: int, where: Any, parts: Sequence[Any]) -> Masks:
    """uint8 of the rows of each part of a source that may be answered, None for all. Rows that came meanwhile may not."""
    source, total = view.sources[number], sum(map(len, parts))
    mask = visible(view, number, source, where)
    have = len(marks_of(source).seqs) if mask is None else len(mask)
    if mask is None and total == have:
        return [None] * len(parts)
    whole = np.zeros(total, np.uint8)
    whole[:have] = 1 if mask is None else mask[:total]
    bounds = np.cumsum([0, *map(len, parts)]).tolist()
    return [whole[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def _answered(view: View, found: list[Found], k: int, columns: Sequence[str] | None) -> pa.Table:
    if len(found) == 1 and isinstance(view.sources[0], RunSource):
        # rows of a run are in order of their keys, and equal scores in that of rows
        rows, scores = found[0]
        if rows[-1] < 0:
            rows = rows[: np.count_nonzero(rows >= 0)]
        schema = answer_schema(view, columns)
        table = view.sources[0].take(rows, schema.names)
        if not table.schema.equals(schema):
            table = table.cast(schema)
        scored = _kept(view, "scored", (schema,), lambda _, schema: schema.append(pa.field("_score", pa.float32())))
        return pa.Table.from_arrays([*table.columns, pa.array(scores[: len(rows)])], schema=scored)
    near = [(rows[None, :], -scores[None, :]) for rows, scores in found]
    table = merged(view, near, np.empty((1, 0)), k, columns, True)
    place = table.schema.get_field_index("_distance")
    return table.set_column(place, "_score", pa.array(-table.column(place).to_numpy(), pa.float32()))
