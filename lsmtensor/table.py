"""Tables: `TableView` reads one version, `Table` reads the newest and writes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa

from . import notebook
from .altering import Alterable
from .arrowtake import one_chunk
from .convert import row_value
from .convert_sparse import scipy_column
from .convert_tensors import column_numpy
from .dtypes import TensorType, of_arrow
from .errors import DuplicateKeyError, InvalidArgumentError, KeyNotFoundError, SchemaError, UnavailableError
from .lsm import keyspace, short
from .lsm.commit import physical_batch
from .lsm.merge import Window, rebatch
from .lsm.past import history_of, oldest_of
from .lsm.points import many
from .lsm.state import View
from .lsm.tree import Head, Tree, Write
from .lsm.unique import guarded
from .scanning import bound, columns_of, limited, project, scanned, short_scan
from .schema import Schema
from .search.dense import search_view
from .search.fuse import search as search_fused
from .sstable.coded import rounded
from .transfer import read, write

BATCH_ROWS = 65536


class TableView:
    """A table at one version: all that reads."""

    _keeps: Any = None

    def __init__(self, view: View, tree: Tree) -> None:
        self._fixed, self._tree = view, tree

    def _view(self) -> View:
        self._tree.check_open()
        return self._fixed

    def _reading(self, keys: pa.Array | None = None, start: Any = None, stop: Any = None) -> None:
        """Told what is read: some encoded keys, or the range [start, stop). Only serializable transactions care."""

    # -- what it is ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._view().table.state.name

    @property
    def schema(self) -> Schema:
        return self._view().table.schema

    @property
    def indexes(self) -> dict[str, str]:
        """Index name to ``column: spec``."""
        return {n: f"{e['column']}: {e['spec']}" + (f", placement={e['placement']}" if "placement" in e else "") for n, e in self._view().table.state.indexes.items()}

    def __len__(self) -> int:
        """Rows visible; a merge over the keys, O(rows)."""
        return self.count()

    def __repr__(self) -> str:
        columns = ", ".join(c.name for c in self.schema.columns)
        return f"<lsmtensor.{type(self).__name__} {self.name!r} {len(self):,} rows; {columns}; key {self.schema.primary_key}>"

    def _repr_html_(self) -> str:
        """For notebooks: the first five rows, under the types of their columns."""
        columns = self.schema.columns
        first = self.scan(limit=5).read_all()
        rows = [list(self.schema.row(batch, i).values()) for batch in first.to_batches() for i in range(batch.num_rows)]
        what = f"{self.name}: {len(self):,} rows, key {', '.join(self.schema.primary_key)}" + "".join(f"; index {n} ({w})" for n, w in self.indexes.items())
        return notebook.table(what, [f"{c.name}: {c.type}" for c in columns], rows)

    # -- by key ----------------------------------------------------------------------------------

    def get(self, key: Any) -> dict[str, Any] | None:
        """The row as a dict, tensor columns as numpy arrays; None where there is none. O(log n) a run."""
        return self._view().get(key)

    def get_many(self, keys: Any, columns: Sequence[str] | None = None, *, missing: str = "skip") -> pa.Table:
        """Rows by key, in the order asked; absent keys are skipped, or rows of nulls with ``missing="null"``."""
        if missing not in ("skip", "null"):
            raise InvalidArgumentError(f"missing={missing!r}; give 'skip' or 'null'")
        view = self._view()
        schema = project(view, columns)
        sought = view.table.codec.encode(view.table.schema.keys(keys))
        self._reading(sought)
        found = many(view.table, view.version, sought, schema, missing == "skip") if view.compiled else None
        if found is not None:
            return found
        owner, row = view.locate(sought)
        if missing == "skip":
            there = owner >= 0
            owner, row = owner[there], row[there]
        return view.rows(owner, row, schema)

    def __contains__(self, key: object) -> bool:
        return self._view().has(key)

    # -- in order --------------------------------------------------------------------------------

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: Any = None,
        start: Any = None,
        stop: Any = None,
        reverse: bool = False,
        limit: int | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> pa.RecordBatchReader:
        """Rows in key order (descending with ``reverse``), as a stream of record batches.

        ``where`` is a `pyarrow.compute` expression over any columns; ``start`` is included, ``stop``
        is not. A run that overlaps nothing streams from the map without a copy.
        """
        if batch_rows < 1:
            raise InvalidArgumentError(f"batch_rows={batch_rows}; give at least 1")
        if limit is not None and limit < 0:
            raise InvalidArgumentError(f"limit={limit}; give 0 or more, or None for all")
        view = self._view()
        schema = project(view, columns)
        self._reading(None, bound(view, start), bound(view, stop))
        few = short_scan(view, schema, start, stop, reverse, limit) if where is None else None
        tables = scanned(view, schema, where, start, stop, reverse) if few is None else iter([few])
        return pa.RecordBatchReader.from_batches(schema, limited(rebatch(tables, batch_rows), limit))

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table in memory, in key order."""
        return self.scan(columns).read_all()

    def to_numpy(self, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns as arrays: tensors (rows, *shape), numbers of their dtype (floats with NaN where some are null), others of objects."""
        table = self.to_arrow(columns)
        return {n: _numpy(c) for n, c in zip(table.column_names, table.columns, strict=True)}

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """A pandas DataFrame in key order; a tensor column holds one array a row. Needs pandas."""
        pandas = _needed("pandas", "to_pandas()")
        table = self.to_arrow(columns)
        made = {n: list(_numpy(c)) if isinstance(c.type, pa.BaseExtensionType) else c.to_pandas() for n, c in zip(table.column_names, table.columns, strict=True)}
        return pandas.DataFrame(made, columns=table.column_names)

    def to_polars(self, columns: Sequence[str] | None = None) -> Any:
        """A polars DataFrame in key order; a tensor column becomes its flat values. Needs polars."""
        polars = _needed("polars", "to_polars()")
        table = self.to_arrow(columns)
        plain = [c.cast(c.type.storage_type) if isinstance(c.type, pa.BaseExtensionType) else c for c in table.columns]
        return polars.from_arrow(pa.table(plain, names=table.column_names))

    def to_scipy(self, column: str, format: str = "csr") -> Any:
        """A sparse column in key order as scipy's ``csr``, ``csc`` or ``coo``: of vectors one (rows, dim) array (a null is an empty row),
        of matrices a list with one a row. Needs scipy."""
        return scipy_column(self.to_arrow([column]).column(column), format)

    def export(self, path: str | os.PathLike[str], *, columns: Sequence[str] | None = None, where: Any = None, format: str | None = None) -> int:
        """Write rows to a Parquet, Arrow or CSV file (by its ending, or ``format``), in key order; returns how many.

        The file appears whole or not at all. Memory: a batch. Parquet and Arrow keep tensor types; CSV refuses them.
        """
        return write(self.scan(columns, where), os.fspath(path), format)

    def count(self, where: Any = None) -> int:
        """Rows visible, or those of them that match."""
        view = self._view()
        self._reading()
        if where is None:
            return sum(len(w) for w in view.windows())
        schema = pa.schema([view.table.schema.arrow.field(n) for n in columns_of(view, where)])
        return sum(t.num_rows for t in scanned(view, schema, where, None, None, False))

    def sample(self, n: int, seed: int = 0) -> pa.Table:
        """``n`` rows without replacement (all, where there are fewer), in key order; the same for the same seed."""
        if n < 0:
            raise InvalidArgumentError(f"n={n}; give 0 or more")
        view = self._view()
        self._reading()
        total = sum(len(w) for w in view.windows())
        chosen = np.sort(np.random.default_rng(seed).choice(total, min(n, total), replace=False))
        parts, at = [], 0
        for window in view.windows():
            mine = chosen[(chosen >= at) & (chosen < at + len(window))] - at
            at += len(window)
            if len(mine):
                parts.append(Window(window.pieces, window.piece[mine], window.row[mine]).gather(view.table.schema.names))
        schema = view.table.schema.arrow
        return pa.concat_tables([p.cast(schema) for p in parts]) if parts else schema.empty_table()

    # -- by nearness -----------------------------------------------------------------------------

    @overload
    def search(self, q: Any = None, *, explain: Literal[True], **params: Any) -> dict[str, Any]: ...

    @overload
    def search(
        self, q: Any = None, *, text: Any = None, sparse: Any = None, fusion: Any = "rrf", k: int = 10, column: str | None = None,
        where: Any = None, columns: Sequence[str] | None = None, index: str | None = None, metric: str | None = None,
        explain: Literal[False] = False, **params: Any,
    ) -> pa.Table: ...  # fmt: skip

    def search(
        self,
        q: Any = None,
        *,
        text: Any = None,
        sparse: Any = None,
        fusion: Any = "rrf",
        k: int = 10,
        column: str | None = None,
        where: Any = None,
        columns: Sequence[str] | None = None,
        index: str | None = None,
        metric: str | None = None,
        explain: bool = False,
        **params: Any,
    ) -> Any:
        """The ``k`` nearest rows to ``q`` (d,) as a table with ``_distance``; of each of (q, d) with ``_query`` too.

        ``column`` may be left out where one tensor column of the width of ``q`` exists. Default columns:
        the key. ``params`` are those of the index (``ef``). Distances are exact, ties go by key; fewer than
        ``k`` rows only when fewer match. ``explain=True`` returns the plan instead.

        ``text`` (words, or a dict of ``query``, ``must``, ``must_not``, ``column``) ranks by BM25, ``sparse`` ({"indices", "values"} or one scipy row) by inner
        product; each answers with ``_score``, larger first. Several together are fused over one snapshot, ``fusion="rrf"`` or
        ``weighted(dense=…, text=…)``, with what each contributed in ``_dense``, ``_text``, ``_sparse``. See docs/text.md.
        """
        self._reading()
        if text is not None or sparse is not None:
            return search_fused(
                self._view(), self._tree, q, text, sparse, k=k, column=column, where=where, columns=columns, fusion=fusion, index=index,
                metric=metric, explain=explain, params=params,
            )  # fmt: skip
        return search_view(
            self._view(), self._tree, q, k=k, column=column, where=where, columns=columns, index=index,
            metric=metric, explain=explain, params=params,
        )  # fmt: skip

    def history(self, key: Any, column: str | None = None) -> Any:
        """Every retained version of a row, oldest first: a table of its columns, ``_version`` and ``_deleted``.

        With ``column``, a numeric one: its values as one contiguous array (versions, ...), deletes left out.
        """
        view = self._view()
        self._reading(keyspace.one(view.table.codec.scalar(key)))
        return history_of(view, oldest_of(self._tree, view), key, column)

    def prove(self, key: Any) -> dict[str, Any]:
        """A proof that the row is in this version, checkable by `lsmtensor.verify_proof` without the database."""
        from .lsm.integrity import prove

        return prove(self._tree, self._view(), key)


class Table(TableView, Alterable):
    """A table at the newest version, and its writes. Every write returns the version it made."""

    def __init__(self, tree: Tree, table_id: int) -> None:
        self._tree, self._id = tree, table_id

    def _view(self) -> View:
        return self._tree.view(self._id)

    def get(self, key: Any) -> dict[str, Any] | None:
        """The row as a dict, tensor columns as numpy arrays; None where there is none. O(log n) a run."""
        found: dict[str, Any] | None = self._tree.read_row(self._id, key)
        return self._view().get(key) if found is NotImplemented else found

    # -- writes ----------------------------------------------------------------------------------

    def _commit(self, prepare: Callable[[Head], list[Write]]) -> int:
        return self._tree.commit(guarded(prepare))

    def insert(self, rows: Any) -> int:
        """Add rows; a key that is there, or twice in ``rows``, is refused and nothing is written."""
        batch = self.schema.batch(rows)

        def prepare(head: Head) -> list[Write]:
            view = head(self._id)
            write = self._put(view, batch)
            twice = keyspace.first_duplicate(write.keys)
            if twice is not None:
                key = view.table.codec.key_of(write.keys[twice].as_py())
                raise DuplicateKeyError(f"row {twice}: key {key!r} is twice in the rows given; upsert() takes the last")
            present = np.flatnonzero(view.locate(write.keys)[0] >= 0)
            if len(present):
                key = view.table.codec.key_of(write.keys[int(present[0])].as_py())
                raise DuplicateKeyError(f"row {present[0]}: key {key!r} is in table {self.name!r} already; upsert() replaces it")
            return [write]

        return self._commit(prepare)

    def upsert(self, rows: Any) -> int:
        """Add rows or replace those whose key is there; the last of a key wins."""
        batch = self.schema.batch(rows)
        return self._commit(lambda head: [_last(self._put(head(self._id), batch))])

    def load(self, source: Any, *, sorted: bool = False, format: str | None = None) -> int:
        """Add or replace the rows of Parquet, Arrow or CSV files (a path or several), or of a stream of batches, in one commit.

        With ``sorted`` the keys of all of them together rise strictly: rows then stream to table files that are written once,
        in memory of a batch; a key that does not rise raises `SchemaError` and nothing is visible. Without it all rows are
        read first and the last of a key wins.
        """
        paths = [source] if isinstance(source, (str, os.PathLike)) else source
        if isinstance(paths, (list, tuple)) and paths and all(isinstance(p, (str, os.PathLike)) for p in paths):
            batches: Iterator[Any] = (b for p in paths for b in read(os.fspath(p), format, self.schema))
        else:
            batches = iter([source]) if not hasattr(source, "__iter__") or isinstance(source, (dict, pa.RecordBatch, pa.Table)) else iter(source)
        schema = self.schema
        if not sorted:
            made = [schema.batch(b) for b in batches if not isinstance(b, pa.RecordBatch) or b.num_rows]
            return self.upsert(pa.Table.from_batches(made, schema.arrow)) if made else self._tree.head()[1]

        def prepare(head: Head) -> list[Write]:
            view = head(self._id)
            writes = (self._put(view, schema.batch(b)) for b in batches if not isinstance(b, pa.RecordBatch) or b.num_rows)
            pairs = _rising(view, writes)
            first = next(pairs, None)
            return [] if first is None else [Write(self._id, *first, more=pairs)]

        return self._commit(prepare)

    def put(self, key: Any, row: dict[str, Any] | None = None) -> int:
        """One row: its key, and its other columns; those left out are null. The fast way for one row: microseconds, not a batch."""
        version = short.put(self._tree, self._id, key, row)
        return self._put_long(key, row) if version is None else version

    def _put_long(self, key: Any, row: dict[str, Any] | None) -> int:
        names = self.schema.primary_key
        parts = key if isinstance(key, tuple) and len(names) > 1 else (key,)
        if len(parts) != len(names):
            raise SchemaError(f"key {key!r} has {len(parts)} parts; the primary key is {names}")
        clash = set(names) & set(row or {})
        if clash:
            raise SchemaError(f"put() got key column {min(clash)!r} twice; give it as the key only")
        return self.upsert([{**dict(zip(names, parts, strict=True)), **(row or {})}])

    def update(self, keys: Any, values: Any) -> int:
        """Change the named columns of present rows; an absent key raises `KeyNotFoundError` and nothing is written."""
        schema = self.schema
        key_batch = schema.keys(keys)
        given = dict(values) if isinstance(values, dict) else {n: pa.table(values).column(n) for n in pa.table(values).column_names}
        for name in schema.primary_key:
            if name in given:
                raise SchemaError(f"column {name!r} is of the primary key and cannot be updated; delete the row and insert another")
        rows = {**{n: key_batch.column(n) for n in key_batch.schema.names}, **_broadcast(given, key_batch.num_rows)}
        part = schema.batch(rows, partial=True)

        def prepare(head: Head) -> list[Write]:
            view = head(self._id)
            encoded = view.table.codec.encode(key_batch)
            owner, row = view.locate(encoded)
            absent = np.flatnonzero(owner < 0)
            if len(absent):
                key = view.table.codec.key_of(encoded[int(absent[0])].as_py())
                raise KeyNotFoundError(f"row {absent[0]}: key {key!r} is not in table {self.name!r}; upsert() adds rows")
            old = _one_batch(view.rows(owner, row, view.table.schema.arrow))
            new = [part.column(n) if n in part.schema.names else old.column(n) for n in schema.names]
            return [_last(self._put(view, pa.RecordBatch.from_arrays(new, schema=schema.arrow)))]

        return self._commit(prepare)

    def delete(self, keys: Any = None, *, where: Any = None) -> int:
        """Remove rows by key, or all that match; absent keys are ignored."""
        if (keys is None) == (where is None):
            raise InvalidArgumentError("give either keys or where= to delete()")
        if type(keys) in (str, int, bytes, tuple):
            version = self._delete_one(keys)
            if version is not None:
                return version
        chosen = None if keys is None else self.schema.keys(keys)

        def prepare(head: Head) -> list[Write]:
            view = head(self._id)
            batch = chosen if chosen is not None else _matching_keys(view, where)
            encoded = view.table.codec.encode(batch)
            there = view.locate(encoded)[0] >= 0
            keep = pa.array(there)
            return [_last(self._tombstones(view, batch.filter(keep), encoded.filter(keep)))]

        return self._commit(prepare)

    def _delete_one(self, key: Any) -> int | None:
        return short.delete(self._tree, self._id, key)

    def _put(self, view: View, batch: pa.RecordBatch) -> Write:
        for column in view.table.schema.columns:
            if column.rounding is not None:
                batch = rounded(batch, column.name, column.rounding)
        keys = view.table.codec.encode(batch)
        return Write(self._id, physical_batch(view, batch, keys, 1), keys)

    def _tombstones(self, view: View, batch: pa.RecordBatch, keys: pa.Array) -> Write:
        arrow = view.table.schema.arrow
        columns = [
            batch.column(f.name) if f.name in batch.schema.names else pa.nulls(batch.num_rows, f.type) for f in arrow
        ]
        nullable = pa.schema([f.with_nullable(True) for f in arrow])
        return Write(self._id, physical_batch(view, pa.RecordBatch.from_arrays(columns, schema=nullable), keys, 0), keys)


def _rising(view: View, writes: Iterator[Write]) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """The batches of the writes, checked to rise by key within and between them."""
    last: Any = None
    for part in writes:
        key = part.keys[0].as_py()
        if (last is not None and key <= last) or not keyspace.is_sorted(part.keys) or keyspace.first_duplicate(part.keys) is not None:
            raise SchemaError(f"load(sorted=True): the keys do not rise at or after {view.table.codec.key_of(key)!r}; sort the rows, or leave sorted out")
        last = part.keys[-1].as_py()
        yield part.batch, part.keys


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        made = of_arrow(kind)
        if isinstance(made, TensorType) and not column.null_count:
            return column_numpy(column)
        values = [row_value(chunk, i, made) for chunk in column.chunks for i in range(len(chunk))]
        found = np.empty(len(values), object)
        found[:] = values
        return found
    return np.asarray(column.to_numpy())


def _needed(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as why:
        raise UnavailableError(f"{what} needs {package}: pip install {package}; or take to_arrow()") from why


def _last(write: Write) -> Write:
    """Within a commit the last write of a key wins."""
    if keyspace.distinct(write.keys):
        return write
    rows = keyspace.last_of_each(write.keys)
    if len(rows) == len(write.keys):
        return write
    indices = pa.array(rows)
    return Write(write.table, write.batch.take(indices), write.keys.take(indices))


def _broadcast(values: dict[str, Any], n: int) -> dict[str, Any]:
    """One plain value for all rows becomes a list; arrays and lists stay."""
    return {k: [v] * n if v is None or isinstance(v, (str, bytes, bool, int, float)) else v for k, v in values.items()}


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([one_chunk(c) for c in table.columns], schema=table.schema)


def _matching_keys(view: View, where: Any) -> pa.RecordBatch:
    schema = pa.schema([view.table.schema.arrow.field(n) for n in view.table.schema.primary_key])
    tables = list(scanned(view, schema, where, None, None, False))
    return _one_batch(pa.concat_tables(tables) if tables else schema.empty_table())
