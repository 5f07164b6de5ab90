"""Index segments of table files, and the marks that say which of their rows are dead.

A segment indexes the rows of one file by position and borrows the vectors from the file's map. It
is derived data: missing or damaged it is replaced by a flat scan and built again.

A mark is the version that superseded a row. Within a source it follows from the order; from newer
sources it is resolved lazily, one vectorized pass over the keys committed since the last time. Since
the intervals of versions of sources that share keys never overlap, "since" is one number.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import indexes, kernels
from ..errors import CorruptionError, LsmTensorError, StorageError
from ..indexes import container
from ..registry import Spec
from ..schema import column_numpy
from . import keyspace, lists, ops
from .layout import SegmentRef
from .sorted import sort_column
from .source import MemSource, RunSource, Source

if TYPE_CHECKING:
    from .tree import Tree

ALIVE = np.iinfo(np.uint64).max


class Marks:
    """Which version superseded each row of one source; ``ALIVE`` where none has."""

    def __init__(self, keys: pa.Array, seqs: np.ndarray, ops_: np.ndarray, in_order: bool, newest: int) -> None:
        self.seqs = seqs
        self.dead = np.full(len(seqs), ALIVE, np.uint64)
        # from the last row back: of a transaction's rows of one key and version the last counts
        order = np.arange(len(seqs)) if in_order else len(seqs) - 1 - keyspace.order(_reversed(keys), seqs[::-1])
        again = np.flatnonzero(keyspace.same_as_previous(keys if in_order else keys.take(pa.array(order))))
        self.dead[order[again]] = seqs[order[again - 1]]
        # a delete is a row that no version sees
        self.dead[ops_ == 0] = 0
        self.any_dead = bool(len(again)) or bool((ops_ == 0).any())
        self.resolved = newest
        self._lock = threading.Lock()
        self._mask: tuple[int, int, np.ndarray | None] | None = None

    def resolve(self, source: Source, newer: Sequence[Source], to: int) -> None:
        """Mark the rows that commits in (resolved, to] superseded."""
        with self._lock:
            if to <= self.resolved:
                return
            for other in newer:
                if other.max_seq <= self.resolved:
                    continue
                for keys, seqs in changes(other, self.resolved):
                    rows = source.find(keys, int(ALIVE))
                    hit = rows >= 0
                    if hit.any():
                        np.minimum.at(self.dead, rows[hit], seqs[hit])
                        self.any_dead = True
            self.resolved = to

    def visible(self, snapshot: int) -> np.ndarray | None:
        """bool (rows,): what a snapshot sees; None when it sees every row. O(rows), kept for the last snapshot."""
        kept = self._mask
        if kept is not None and kept[0] == snapshot and kept[1] == self.resolved:
            return kept[2]
        resolved = self.resolved
        mask: np.ndarray | None = None
        if self.any_dead or (len(self.seqs) and int(self.seqs.max()) > snapshot):
            mask = (self.seqs <= snapshot) & (snapshot < self.dead)
        self._mask = (snapshot, resolved, mask)
        return mask


def _reversed(keys: pa.Array) -> pa.Array:
    return keys.take(pa.array(np.arange(len(keys) - 1, -1, -1)))


def changes(source: Source, since: int) -> list[tuple[pa.Array, np.ndarray]]:
    """(keys, seqs) of the source's rows newer than ``since``."""
    parts = []
    batches = [source.sorted()] if isinstance(source, MemSource) else [source]
    for b in batches:
        for i in range(b.num_batches):
            keys, seqs = b.keys(i), b.seqs(i)
            fresh = seqs > since
            if fresh.all():
                parts.append((keys, seqs))
            elif fresh.any():
                parts.append((keys.filter(pa.array(fresh)), seqs[fresh]))
    return parts


def marks_of(source: Source) -> Marks:
    """The marks of a run, made once; of a memtable, made again when it has grown."""
    kept: tuple[int, Marks] | None = source.__dict__.get("_marks")
    if kept is not None and kept[0] == source.rows:
        return kept[1]
    if isinstance(source, MemSource):
        # one view: a commit may land between two questions
        view = source.memtable.view()
        table, keys, rows = view.table(), view.keys(), view.rows
        marks = Marks(keys, table.column("_seq").to_numpy(), table.column("_op").to_numpy(), False, view.max_seq)
    else:
        numbers = range(source.num_batches)
        keys = keyspace.concat([source.keys(i) for i in numbers])
        seqs = np.concatenate([source.seqs(i) for i in numbers])
        marks = Marks(keys, seqs, np.concatenate([source.ops(i) for i in numbers]), True, source.max_seq)
        rows = source.rows
    source.__dict__["_marks"] = (rows, marks)
    return marks


def matrices(source: Source, column: str) -> tuple[list[tuple[int, np.ndarray]], np.ndarray | None]:
    """([(first row, (n, d) view)], bool mask of rows that have a vector or None when all have)."""
    if isinstance(source, MemSource):
        return _matrices(source.memtable.view().table().column(column).chunks)
    kept: dict[str, Any] = source.__dict__.setdefault("_matrices", {})
    if column not in kept:
        kept[column] = _matrices([c for i in range(source.num_batches) for c in source.columns(i, [column]).column(0).chunks])
    made: tuple[list[tuple[int, np.ndarray]], np.ndarray | None] = kept[column]
    return made


def _matrices(chunks: list[pa.Array]) -> tuple[list[tuple[int, np.ndarray]], np.ndarray | None]:
    parts: list[tuple[int, np.ndarray]] = []
    valid: list[np.ndarray] = []
    at, some_null = 0, False
    for chunk in chunks:
        parts.append((at, _matrix(chunk)))
        some_null = some_null or chunk.null_count > 0
        valid.append(np.ones(len(chunk), bool) if chunk.null_count == 0 else chunk.is_valid().to_numpy(zero_copy_only=False))
        at += len(chunk)
    return parts, np.concatenate(valid) if some_null else None


def _matrix(chunk: pa.Array) -> np.ndarray:
    """(n, d) over the values of a fixed-shape tensor column; null rows show what their slots hold."""
    storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    if storage.null_count == 0:
        whole = column_numpy(chunk)
        return whole.reshape(len(chunk), -1)
    width = storage.type.list_size
    values = storage.values.slice(storage.offset * width, len(storage) * width).to_numpy(zero_copy_only=False)
    return np.nan_to_num(values.reshape(-1, width))


def segment_of(source: RunSource, at: int, name: str, column: str, tree: Tree) -> Segment | None:
    """The opened index, of a column as it is called now, of a run's file number ``at``, or None where it has none that is whole."""
    file = source.files[at]
    ref = next((s for s in file.ref.segments if s.index == name), None)
    if ref is None:
        return None
    kept: dict[int, Any] = file.__dict__.setdefault("_segments", {})
    if ref.number not in kept:
        try:
            kept[ref.number] = _open_segment(tree, source, at, ref, column)
        except (LsmTensorError, OSError) as why:
            give_up(source, at, name, why)
    return kept[ref.number]


def give_up(source: RunSource, at: int, name: str, why: Exception) -> None:
    """Search a run's file number ``at`` without its segment from now on."""
    file = source.files[at]
    ref = next(s for s in file.ref.segments if s.index == name)
    warnings.warn(f"index segment {ref.file} cannot be used ({why}); searching without it", stacklevel=3)
    file.__dict__.setdefault("_segments", {})[ref.number] = None


def _vectors(source: RunSource, at: int, column: str) -> tuple[np.ndarray, np.ndarray | None]:
    """((n, d) of the rows of a file that have a vector, their numbers in it or None for all); the map for a file of one batch."""
    parts, valid = matrices(source, column)
    start, stop = int(source.starts[at]), int(source.starts[at + 1])
    mine = [m for first, m in parts if start <= first < stop]
    whole = mine[0] if len(mine) == 1 else np.concatenate(mine)
    if valid is None or valid[start:stop].all():
        return whole, None
    # deletes and nulls must not be nodes: they are no points of the space
    rows = np.flatnonzero(valid[start:stop])
    return whole[rows], rows


@dataclass(frozen=True)
class Segment:
    """An opened index over the rows of a file; ``rows`` are the numbers of those that have a vector, None for all."""

    index: Any
    rows: np.ndarray | None

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers in the file, distances), -1 and inf where fewer were found; ``mask`` bool over the file's rows."""
        if mask is not None and self.rows is not None:
            mask = mask[self.rows]
        ids, distances = self.index.search(queries, k, filter=mask, **params)
        if self.rows is not None and len(self.rows):
            ids = np.where(ids >= 0, self.rows[ids], -1)
        return ids, distances


def _open_segment(tree: Tree, source: RunSource, at: int, ref: SegmentRef, column: str) -> Segment:
    path = f"{tree.path}/sst/{ref.file}"
    header, arrays = container.unpack(tree.env.open(path, kind="index").map(), where=path, whole=False)
    has = source.files[at].ref.rows
    if header.get("rows") != has:
        raise CorruptionError(f"the segment indexes {header.get('rows')} rows, its table file has {has}", path=path, offset=0)
    of = source.files[at].ref.root
    if header.get("of", of) != of:
        raise CorruptionError("the segment was built over another table file", path=path, offset=0)
    vectors, rows = _vectors(source, at, column)
    stored = arrays.pop("_rows", None)
    if (rows is None) != (stored is None) or (rows is not None and stored is not None and not np.array_equal(rows, stored)):
        raise CorruptionError("the segment indexes other rows than have vectors", path=path, offset=0)
    return Segment(indexes.from_sections(header["index"], arrays, vectors=vectors, kernel=tree.config.kernel), rows)


def index_due(tree: Tree) -> None:
    """Build the segments that files large enough for one lack."""
    for table_id in list(tree.head()[0].tables):
        table = tree.head()[0].tables.get(table_id)
        for name, entry in (table.state.indexes if table is not None else {}).items():
            assert table is not None
            for run in table.runs:
                for at, file in enumerate(run.files):
                    large = file.ref.rows >= tree.config.index.min_rows
                    if large and not any(s.index == name for s in file.ref.segments):
                        with tree.events.timed("index", table=table.state.name, index=name, rows=file.ref.rows):
                            _build(tree, table_id, run, at, name, entry)
                        table = tree.head()[0].tables[table_id]


def _sections(tree: Tree, run: RunSource, at: int, spec: Spec, column: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if spec.name == "sorted":
        rows = np.arange(int(run.starts[at]), int(run.starts[at + 1]))
        return {"kind": "sorted"}, sort_column(run.take(rows, [column]).column(0))
    if spec.name in lists.LEXICAL:
        return lists.sections(run, at, spec, column, kernels.choose(tree.config.kernel))
    vectors, present = _vectors(run, at, column)
    index = indexes.create(spec, dim=vectors.shape[1], kernel=tree.config.kernel)
    index.add(vectors, copy=False)
    index.calibrate()
    header, arrays = index.to_sections()
    return header, arrays if present is None else {**arrays, "_rows": present}


def _build(tree: Tree, table_id: int, run: RunSource, at: int, name: str, entry: dict[str, Any]) -> None:
    spec, file = Spec.parse(entry["spec"]), run.files[at]
    header, arrays = _sections(tree, run, at, spec, entry["column"])
    number = tree.next_file()
    file_name = f"{file.ref.number:06d}.i{number}.{spec.name}"
    path = f"{tree.path}/sst/{file_name}"
    whole = {"rows": file.ref.rows, "column": entry["column"], "of": file.ref.root, "index": header}
    try:
        with tree.env.create(path, kind="index", cause="flush") as out:
            out.writev(container.pack(whole, arrays))
            out.sync()
        tree.env.sync_dir(f"{tree.path}/sst")
    except (StorageError, OSError) as why:
        warnings.warn(f"index {name!r} was not stored ({why}); searching without it", stacklevel=2)
        return
    ref = SegmentRef(
        index=name, column=entry["column"], spec=str(spec), number=number, rows=file.ref.rows, file=file_name
    )
    tree.install([ops.set_segments(table_id, file.ref.number, (*file.ref.segments, ref))])


