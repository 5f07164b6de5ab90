"""Search by words and by sparse vectors: posting lists of each source, made when first asked for, and sums over them.

Scores are exact: document frequencies and lengths count every row that is not compacted away yet, memtable included, as Lucene's do; only
visible rows are answered. Lists are derived from the rows and live in memory beside their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..dtypes import SparseType
from ..errors import InvalidArgumentError, SchemaError
from ..lsm.source import MemSource, Source
from ..lsm.state import View
from ..registry import Spec
from .analyze import TextSpec
from .dense import merged, visible

Found = tuple[np.ndarray, np.ndarray]


@dataclass
class Lists:
    """Posting lists of one source: list t is rows[starts[t] : starts[t + 1]] with weights, counts of a word or values of a dimension."""

    number: dict[Any, int]
    starts: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    # how many rows have a value, and the sum of the lengths
    documents: int
    total: float
    impacts: dict[Any, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def count(self, term: Any) -> int:
        at = self.number.get(term)
        return 0 if at is None else int(self.starts[at + 1] - self.starts[at])

    def largest(self, weights: np.ndarray) -> np.ndarray:
        """float32 (terms,): the largest weight of each list."""
        return np.maximum.reduceat(weights, self.starts[:-1]) if len(weights) else np.zeros(0, np.float32)


def lists_of(names: Sequence[Any], rows: np.ndarray, ids: np.ndarray, values: np.ndarray | None, n: int, documents: int) -> Lists:
    """From one entry a token (row, id), counted, or with a value each; every id occurs."""
    key = ids * max(n, 1) + rows
    if values is None:
        key, counts = np.unique(key, return_counts=True)
        weights = counts.astype(np.float32)
    else:
        order = np.argsort(key, kind="stable")
        key, weights = key[order], values[order].astype(np.float32)
    ids, at = np.divmod(key, max(n, 1))
    starts = np.searchsorted(ids, np.arange(len(names) + 1)).astype(np.int64)
    lengths = np.bincount(at, weights=weights if values is None else None, minlength=n).astype(np.float32)
    return Lists(
        {name: i for i, name in enumerate(names)}, starts, at.astype(np.uint32), weights, lengths, documents,
        float(lengths.sum(dtype=np.float64)),
    )  # fmt: skip


def _column(source: Source, name: str) -> pa.ChunkedArray:
    if isinstance(source, MemSource):
        return source.memtable.view().table().column(name)
    return pa.chunked_array([c for i in range(source.num_batches) for c in source.columns(i, [name]).column(0).chunks])


def _kept(source: Source, key: Any, make: Any) -> Lists:
    """Of a run for ever; of a memtable until it has more rows."""
    home = (source.memtable if isinstance(source, MemSource) else source).__dict__.setdefault("_lists", {})
    rows = source.rows if isinstance(source, MemSource) else -1
    known = home.get(key)
    if known is None or known[0] != rows:
        known = home[key] = (rows, make())
    made: Lists = known[1]
    return made


def text_lists(source: Source, column: str, spec: TextSpec) -> Lists:
    def make() -> Lists:
        texts = _column(source, column)
        terms, rows, ids = spec.tokens(texts)
        return lists_of(terms, rows, ids, None, len(texts), len(texts) - texts.null_count)

    return _kept(source, (column, spec.analyzer, spec.ngrams), make)


def sparse_lists(source: Source, column: str) -> Lists:
    def make() -> Lists:
        chunks = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in _column(source, column).chunks]
        rows, ids, values, at = [], [], [], 0
        for chunk in chunks:
            indices, weights = chunk.field("indices"), chunk.field("values")
            sizes = indices.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            sizes = np.where(chunk.is_valid().to_numpy(zero_copy_only=False), sizes, 0)
            if int(sizes.sum()) != len(indices.flatten()):  # null rows that hold entries
                valid = chunk.is_valid()
                indices, weights = indices.filter(valid), weights.filter(valid)
            rows.append(np.repeat(np.arange(at, at + len(chunk)), sizes))
            ids.append(indices.flatten().to_numpy(zero_copy_only=False).astype(np.int64))
            values.append(weights.flatten().to_numpy(zero_copy_only=False).astype(np.float32))
            at += len(chunk)
        none = np.empty(0, np.int64)
        every = np.concatenate([none, *ids])
        names, number = np.unique(every, return_inverse=True)
        weight = np.concatenate([np.empty(0, np.float32), *values])
        return lists_of(names.tolist(), np.concatenate([none, *rows]), number.astype(np.int64), weight, at, at)

    return _kept(source, (column, "sparse"), make)


# -- what a query is -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextQuery:
    """Words, of which some must or must not occur."""

    column: str
    spec: TextSpec
    terms: tuple[str, ...]
    must: tuple[str, ...]
    must_not: tuple[str, ...]

    @classmethod
    def of(cls, view: View, asked: Any, column: str | None) -> TextQuery:
        parts = {"query": asked} if isinstance(asked, str) else asked
        known = ("query", "must", "must_not", "column", "index")
        if not isinstance(parts, dict) or set(parts) - set(known) or not all(isinstance(v, str) for v in parts.values()):
            raise InvalidArgumentError(f"text={asked!r}; give a string, or a dict of strings with some of {', '.join(known)}")
        name, spec = _text_column(view, parts.get("column", column), parts.get("index"))
        must = spec.query(parts.get("must", ""))
        terms = dict.fromkeys([*must, *spec.query(parts.get("query", ""))])
        return cls(name, spec, tuple(terms), tuple(must), tuple(spec.query(parts.get("must_not", ""))))


def _text_column(view: View, column: str | None, index: str | None) -> tuple[str, TextSpec]:
    entries = {n: e for n, e in view.table.state.indexes.items() if Spec.parse(e["spec"]).name == "text"}
    if index is not None and index not in entries:
        raise InvalidArgumentError(f"no text index named {index!r}; there are {', '.join(entries) or 'none'}")
    fit = [e for n, e in entries.items() if index in (None, n) and column in (None, e["column"])]
    if fit and (len({e["column"] for e in fit}) == 1):
        return fit[0]["column"], TextSpec.of(fit[0]["spec"])
    strings = [c.name for c in view.table.schema.columns if c.type in (pa.string(), pa.large_string())]
    if column is not None and column not in strings:
        raise InvalidArgumentError(f"column {column!r} holds no text; columns of strings: {', '.join(strings) or 'none'}")
    if column is None and len(strings) != 1:
        raise InvalidArgumentError(f"{len(strings)} columns hold text ({', '.join(strings) or 'none'}); name one: text={{'query': …, 'column': …}}")
    return column or strings[0], TextSpec()


def search_text(view: View, asked: Any, k: int, column: str | None, where: Any, columns: Sequence[str] | None, config: Any) -> pa.Table:
    query = TextQuery.of(view, asked, column)
    every = [text_lists(source, query.column, query.spec) for source in view.sources]
    documents = sum(one.documents for one in every)
    length = sum(one.total for one in every) / max(1, documents)
    spec = query.spec
    factors = {}
    for term in query.terms:
        df = sum(one.count(term) for one in every)
        factors[term] = np.float32(np.log(1 + (documents - df + 0.5) / (df + 0.5)))
    found = []
    for number, (source, lists) in enumerate(zip(view.sources, every, strict=True)):
        mask = visible(view, number, source, where)
        for term in query.must:
            mask = _within(mask, lists, term, True)
        for term in query.must_not:
            mask = _within(mask, lists, term, False)
        impacts = _impacts(lists, spec, length)
        found.append(_best(lists, impacts, {t: factors[t] for t in query.terms if t in lists.number}, k, mask, config))
    return _answered(view, found, k, columns)


def search_sparse(view: View, asked: Any, k: int, column: str | None, where: Any, columns: Sequence[str] | None, config: Any) -> pa.Table:
    name, dim = _sparse_column(view, column)
    weights = _sparse_query(asked, dim)
    found = []
    for number, source in enumerate(view.sources):
        lists = sparse_lists(source, name)
        if "plain" not in lists.impacts:
            bounds = lists.largest(lists.weights)
            # values below 0: sums may fall again, so nothing may be left out
            lists.impacts["plain"] = lists.weights, bounds if not (lists.weights < 0).any() else np.full(len(bounds), np.inf, np.float32)
        mask = visible(view, number, source, where)
        found.append(_best(lists, lists.impacts["plain"], {t: f for t, f in weights.items() if t in lists.number}, k, mask, config))
    return _answered(view, found, k, columns)


def _sparse_column(view: View, column: str | None) -> tuple[str, int]:
    fit = {c.name: c.type.dim for c in view.table.schema.columns if isinstance(c.type, SparseType) and c.type.searchable}
    if (column is not None and column not in fit) or (column is None and len(fit) != 1):
        raise InvalidArgumentError(f"column {column!r}: columns of sparse vectors are {', '.join(fit) or 'none'}; name one with column=")
    name = column or next(iter(fit))
    return name, fit[name]


def _sparse_query(asked: Any, dim: int) -> dict[int, np.float32]:
    """Weights by index: of {"indices", "values"}, of a mapping, or of one row of a scipy matrix; repeated indices are added up."""
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


# -- scoring -------------------------------------------------------------------------------------------


def _impacts(lists: Lists, spec: TextSpec, length: float) -> tuple[np.ndarray, np.ndarray]:
    """(what each posting adds for an inverse document frequency of 1, the largest of each list); kept while the mean length stands."""
    key = (spec.scoring, spec.k1, spec.b, spec.delta, length)
    if key not in lists.impacts:
        tf = lists.weights.astype(np.float64)
        long = lists.lengths[lists.rows] / max(length, 1e-9)
        norm = 1 - spec.b + spec.b * long
        if spec.scoring == "bm25l":
            c = tf / norm + spec.delta / 2
            made = (spec.k1 + 1) * c / (spec.k1 + c)
        elif spec.scoring == "tfidf":
            made = (1 + np.log(tf)) / np.sqrt(np.maximum(lists.lengths[lists.rows], 1))
        else:
            made = tf * (spec.k1 + 1) / (tf + spec.k1 * norm) + (spec.delta if spec.scoring == "bm25+" else 0)
        impacts = made.astype(np.float32)
        if len(lists.impacts) > 4:
            lists.impacts.clear()
        lists.impacts[key] = impacts, lists.largest(impacts)
    return lists.impacts[key]


def _best(lists: Lists, impacts: tuple[np.ndarray, np.ndarray], factors: dict[Any, np.float32], k: int, mask: np.ndarray | None, config: Any) -> Found:
    """(rows, scores) of one source, largest first."""
    weights, largest = impacts
    terms = np.array([lists.number[t] for t in factors], np.int64)
    factor = np.array(list(factors.values()), np.float32)
    bounds = factor * largest[terms] if len(terms) else factor
    if (factor < 0).any():
        bounds = np.full(len(terms), np.inf, np.float32)
    order = np.argsort(-bounds, kind="stable")
    bits = None if mask is None else np.ascontiguousarray(mask).view(np.uint8)
    run: Any = kernels.choose(config.kernel)
    rows, scores = run.sparse_topk(lists.starts, lists.rows, weights, terms[order], factor[order], bounds[order], len(lists.lengths), k, bits)
    return rows, scores


def _within(mask: np.ndarray | None, lists: Lists, term: str, wanted: bool) -> np.ndarray:
    has = np.zeros(len(lists.lengths), bool)
    at = lists.number.get(term)
    if at is not None:
        has[lists.rows[lists.starts[at] : lists.starts[at + 1]]] = True
    has = has if wanted else ~has
    return has if mask is None else mask[: len(has)] & has


def _answered(view: View, found: list[Found], k: int, columns: Sequence[str] | None) -> pa.Table:
    near = [(rows[None, :], -scores[None, :]) for rows, scores in found]
    table = merged(view, near, np.empty((1, 0)), k, columns, True)
    place = table.schema.get_field_index("_distance")
    return table.set_column(place, "_score", pa.array(-table.column(place).to_numpy(), pa.float32()))
