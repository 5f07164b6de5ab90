"""Large values of table columns: written once to blob files, referred to by rows, collected when nothing refers to them.

A blob file is a table file of the system table ``_blobs`` (id → bytes), so that all that checks, links, copies and repairs files knows
it. An id tells the file that a value was first written to, which rewriting does not change. Values leave their rows when a table file
is written; merges carry the references on. How much of a blob file is referred to is known from the layout alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..dtypes import RaggedType, SparseType, TensorType, of_arrow
from ..errors import CorruptionError
from ..keys import physical_schema
from ..schema import Column, Schema
from ..sstable import outside
from ..sstable.coded import Chain, Coded, encode
from ..sstable.outside import FILE, Reference
from ..sstable.ranges import storage_of
from ..sstable.writer import TableWriter
from . import keyspace, ops
from .layout import FileRef, Run, TableState
from .merge import Chooser
from .source import RunSource, TableFile

if TYPE_CHECKING:
    from .state import State, TableVersion
    from .tree import Tree

BLOBS = "_blobs"
BLOBS_SCHEMA = Schema([Column("id", pa.int64()), Column("data", pa.large_binary())], primary_key="id")
ALONE_BYTES = 256  # about what a row costs that is a group by itself
PIECE_BYTES = 16 << 20  # of values to a batch of references, so that what reads a batch holds no more of them
NEWEST = np.iinfo(np.int64).max
Kinds = dict[str, Coded]


class Blobs:
    """Gets values by reference from the runs of blob files that there are at each use; thread-safe."""

    def __init__(self, runs: Callable[[], Sequence[RunSource]]) -> None:
        self._runs = runs

    def fetch(self, reference: Reference) -> np.ndarray:
        """uint8 (size,): the bytes, checked, as a view of the blob file's map. Raises `CorruptionError` where there are none such. O(runs)."""
        run = next((r for r in self._runs() if r.run.overlaps(reference.id, reference.id)), None)
        row = -1 if run is None else _row_of(run, reference.id)
        if run is None or row < 0:
            raise CorruptionError(f"value {reference.id % FILE} of blob file {reference.file} is nowhere")
        (low, high), data = outside.parts(run.one_batch(row, row + 1, "data"))
        data = data[low:high]
        if len(data) != reference.size:
            raise CorruptionError(f"value {reference.id % FILE} has {len(data)} bytes; its row says {reference.size}", run.files[0].path, 0)
        return data


def _row_of(run: RunSource, number: int) -> int:
    """The row of an id, -1 where there is none; where ids follow each other, as until a file is written anew, they tell it."""
    first, last = run.run.min_key, run.run.max_key
    assert isinstance(first, int) and isinstance(last, int)
    return number - first if last - first + 1 == run.rows else int(run.find(keyspace.one(number), NEWEST)[0])


def runs_of(state: State) -> Sequence[RunSource]:
    """The blob files of a database."""
    table = state.by_name(BLOBS)
    return () if table is None else table.runs


def table_of(tree: Tree) -> TableVersion:
    """The table of large values, made at its first use; that is no commit, for it holds only what rows do."""
    with tree.editing():
        if tree.state.by_name(BLOBS) is None:
            options = {"compaction": "none", "history": "forever"}
            tree.install([ops.create_table(TableState(tree.next_file(), BLOBS, BLOBS_SCHEMA.to_dict(), options, {}, (), 0, 0))])
        made = tree.state.by_name(BLOBS)
        assert made is not None
        return made


# -- which columns -----------------------------------------------------------------------------------


def may_hold(field: pa.Field) -> bool:
    """Whether values of a column can lie outside: tensors."""
    return isinstance(field.type, pa.BaseExtensionType) and isinstance(of_arrow(field.type), (TensorType, RaggedType, SparseType))


def carried(table: TableVersion, runs: Iterable[RunSource], chains: dict[str, Chain]) -> Kinds:
    """The columns of which some run has values outside, and how a merge of them stores these."""
    files = [r.reader(at) for r in runs for at, file in enumerate(r.files) if file.ref.blobs]
    names = [f.name for f in table.physical if may_hold(f) and any(reader.outside(f.name) for reader in files)]
    return {name: Coded(table.physical.field(name), chains.get(name, Chain()).codec, outside=True) for name in names}


def leaving(batch: pa.RecordBatch, physical: pa.Schema, chains: dict[str, Chain], limit: int) -> Kinds:
    """The columns of a table file that begins with ``batch`` of which values lie outside, and how it stores them."""
    made: Kinds = {}
    for field, array in zip(physical, batch.columns, strict=True):
        if isinstance(array.type, Coded):
            made[field.name] = array.type
        elif may_hold(field) and chains.get(field.name, Chain()).quant is None and _large(array, limit):
            made[field.name] = Coded(field, chains.get(field.name, Chain()).codec, outside=True)
    return made


def _large(array: pa.Array, limit: int) -> bool:
    """Whether values of more than ``limit`` bytes are most of a tensor column, and its rows not so many that each by itself would cost more."""
    storage = storage_of(array)
    if pa.types.is_fixed_size_list(storage.type):
        return bool(storage.type.list_size * storage.type.value_type.bit_width // 8 > limit and storage.null_count < len(storage))
    lists = [storage.field(i) for i in range(storage.type.num_fields)]
    sizes = sum(np.diff(one.offsets.to_numpy()).astype(np.int64) * (one.type.value_type.bit_width // 8) for one in lists if pa.types.is_list(one.type))
    total = int(np.sum(sizes))
    return bool(2 * int(np.sum(sizes, where=sizes > limit)) > total >= ALONE_BYTES * len(storage))


class Carrying:
    """A run in a merge whose values outside stay there: columns of ``kinds`` are as files store them."""

    def __init__(self, run: RunSource, kinds: Kinds) -> None:
        self._run, self._kinds = run, kinds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def columns(self, i: int, names: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        plain = self._run.columns(i, [n for n in names if n not in self._kinds], start, stop)
        made = [self._run.stored(i, n, self._kinds[n], start, stop) if n in self._kinds else plain.column(n) for n in names]
        return pa.table(made, names=list(names))


# -- in ----------------------------------------------------------------------------------------------


class Leaving:
    """Batches for one table file, and beside it a blob file of their values of more than ``limit`` bytes, which ``create`` makes for the first
    of them. Columns of ``kinds`` come out as files store them. A context manager: what was not finished is removed."""

    def __init__(
        self, pairs: Iterable[tuple[pa.RecordBatch, pa.Array]], kinds: Kinds, limit: int, create: Callable[[], tuple[int, TableWriter]]
    ) -> None:
        self._pairs, self._kinds, self._limit, self._create = pairs, kinds, limit, create
        self._writer: TableWriter | None = None
        self._next = 0

    def __enter__(self) -> Leaving:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.__exit__()

    def __iter__(self) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        if not self._kinds:
            yield from self._pairs
            return
        for batch, keys in self._pairs:
            rows = max(1, PIECE_BYTES * batch.num_rows // max(1, batch.nbytes))
            for at in range(0, batch.num_rows, rows):
                piece = batch.slice(at, rows)
                yield self._left(piece), keys.slice(at, piece.num_rows)

    def _left(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        seqs = batch.column("_seq")
        for name, kind in self._kinds.items():
            at = batch.schema.get_field_index(name)
            array = batch.column(at)
            array = outside.moved(array if array.type == kind else encode(array, kind), self._limit, partial(self._put, seqs))
            batch = batch.set_column(at, pa.field(name, kind, False), array)
        return batch

    def _put(self, seqs: pa.Array, rows: np.ndarray, values: pa.Array) -> list[Reference]:
        if self._writer is None:
            number, self._writer = self._create()
            self._next = number * FILE
        ids = np.arange(self._next, self._next + len(rows))
        self._next += len(rows)
        columns = [pa.array(ids), values, seqs.take(pa.array(rows)), pa.array(np.ones(len(rows), np.uint8))]
        self._writer.add(pa.RecordBatch.from_arrays(columns, schema=physical_schema(BLOBS_SCHEMA)), columns[0])
        ends, data = outside.parts(values)
        groups = (data[low:high] for low, high in zip(ends[:-1], ends[1:], strict=True))
        return [Reference(own, len(group), outside.digest_of(group)) for own, group in zip(ids.tolist(), groups, strict=True)]

    def finish(self) -> tuple[Run, ...]:
        """The blob file, synced; nothing where no value was large."""
        if self._writer is None:
            return ()
        made = FileRef.from_meta(self._writer.finish())
        return (Run(made.number, 0, (made,)),)


# -- garbage -----------------------------------------------------------------------------------------


def held(tree: Tree) -> list[TableFile]:
    """The table files that any view of this process holds. Others open files meanwhile, which the references stand and iteration does not."""
    return [file for ref in tree.held_files.valuerefs() if (file := ref()) is not None]


def used(files: Iterable[TableFile]) -> dict[int, tuple[int, int]]:
    """(values, bytes) of each blob file that rows of these table files refer to. Those of rows that two files hold, one of them for an open
    view, count twice."""
    found: dict[int, tuple[int, int]] = {}
    for file in files:
        for number, count, size in file.ref.blobs:
            values, total = found.get(number, (0, 0))
            found[number] = values + count, total + size
    return found


def file_of(run: Run) -> int:
    """The number of the file that the values of a blob file were first written to."""
    assert isinstance(run.min_key, int)
    return run.min_key // FILE


def live_ids(file: int, files: Iterable[TableFile]) -> np.ndarray:
    """int64, ascending: the values of a blob file that rows of these table files refer to. O(their rows)."""
    readers = [f.reader for f in files if any(number == file for number, *_ in f.ref.blobs)]
    parts = [r.references(i, name)[1]["id"].astype(np.int64) for r in readers for i in range(r.num_batches) for name in r.schema.names]
    ids = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
    return ids[ids // FILE == file]


def chooser(ids: np.ndarray) -> Chooser:
    """Of a merge of blob files: only these values stay."""
    return lambda keys, seqs, ops: np.isin(keyspace.int64_view(keys), ids, assume_unique=True)
