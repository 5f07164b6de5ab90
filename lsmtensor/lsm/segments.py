"""Index segments of table files, opened.

A segment indexes rows by position and borrows the vectors from the file's map. It is derived data: missing or damaged it is replaced by a
flat scan and built again (`indexing`). As its index's placement says it covers a file, all files of a run, or all runs that there were.
Rows of one key that lie together with equal vectors are one node of it: what changed was another column.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .. import container, indexes
from ..beside import beside
from ..cache import memory
from ..errors import CorruptionError, InvalidArgumentError, LsmTensorError
from ..registry import Spec
from ..schema import column_numpy
from .layout import SegmentRef
from .source import MemSource, RunSource, Source

if TYPE_CHECKING:
    from .state import TableVersion
    from .tree import Tree

PLACEMENTS = ("run", "file", "table")
# indexes of a table that have no graph or cells: posting lists, and values in order, of each file
OTHERS = ("text", "sparse", "sorted")
LARGE = 16 << 20
Part = tuple[RunSource, int]
"""A file of a run."""


def matrices(source: Source, column: str) -> tuple[list[tuple[int, np.ndarray]], np.ndarray | None]:
    """([(first row, (n, d) view)], bool mask of rows that have a vector or None when all have)."""
    kept: dict[str, tuple[int, Any]] = beside(source, "_matrices", dict)
    rows, made = kept.get(column, (-1, None))
    if rows != source.rows:
        if isinstance(source, MemSource):
            view = source.memtable.view()
            kept[column] = view.rows, (made := _matrices(view.table().column(column).chunks))
        else:
            kept[column] = source.rows, (made := _matrices([c for i in range(source.num_batches) for c in source.columns(i, [column]).column(0).chunks]))
    return made  # type: ignore[no-any-return]


def _unchecked(source: RunSource, column: str) -> tuple[list[tuple[int, np.ndarray]], np.ndarray | None]:
    """The same of a run, whose bytes nobody compared with their sums yet."""
    chunks, row = [], 0
    for i in range(source.num_batches):
        stop = row + len(source.seqs(i))
        chunks.append(source.one_batch(row, stop, column, check=False))
        row = stop
    return _matrices(chunks)


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


# -- which there are -------------------------------------------------------------------------------


def vector_indexes(table: TableVersion) -> dict[str, dict[str, Any]]:
    """The table's vector indexes: name to layout entry."""
    return {n: e for n, e in table.state.indexes.items() if Spec.parse(e["spec"]).name not in OTHERS}


def whole_runs(table: TableVersion) -> bool:
    """Whether a run of the table is one file, however large: one graph, whose rows lie in one map, is searched faster than many."""
    return any(e.get("placement", "run") != "file" for e in vector_indexes(table).values())


@dataclass(frozen=True)
class Unit:
    """What one search goes through: files, and the segment over them where there is one. ``starts`` are the first rows of the files, and the end."""

    parts: tuple[Part, ...]
    ref: SegmentRef | None

    @cached_property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *(source.files[at].ref.rows for source, at in self.parts)])

    @cached_property
    def rows(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def spans(self) -> list[tuple[RunSource, int, int]]:
        """(run, first row in it, the row behind the last) of each file."""
        return [(source, int(source.starts[at]), int(source.starts[at + 1])) for source, at in self.parts]

    @cached_property
    def name(self) -> str:
        """What `explain` calls it."""
        return ", ".join(f"run {s.run.id}" + (f" file {s.files[at].ref.number}" if len(s.files) > 1 else "") for s, at in self.parts)


def units(table: TableVersion, name: str | None) -> list[Unit]:
    """The files of a table's runs, oldest first, by the segments of an index that cover them; those without one each by itself."""
    kept: dict[str | None, list[Unit]] = beside(table, "_units", dict)
    if name not in kept:
        kept[name] = _units(table, name)
    return kept[name]


def _units(table: TableVersion, name: str | None) -> list[Unit]:
    parts = {run.files[at].ref.number: (run, at) for run in reversed(table.runs) for at in range(len(run.files))}
    made: list[Unit] = []
    refs = [] if name is None else [(n, s) for n, (run, at) in parts.items() for s in run.files[at].ref.segments if s.index == name]
    for number, ref in sorted(refs, key=lambda r: -r[1].rows):
        covers = ref.files or (number,)
        if all(n in parts for n in covers):
            made.append(Unit(tuple(parts.pop(n) for n in covers), ref))
    return made + [Unit((part,), None) for part in parts.values()]


# -- opening ---------------------------------------------------------------------------------------


class Opened:
    """The segments that are open, within a number of bytes (mapped ones count): the least recently used go first, the last one stays."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[int, Segment] = OrderedDict()
        self._lock = threading.Lock()
        # numbers of segments that turned out to be damaged
        self.damaged: set[int] = set()

    @classmethod
    def of(cls, tree: Tree) -> Opened:
        def made() -> Opened:
            limit = tree.config.memory_limit
            return cls(tree.config.index.memory_bytes or (memory() // 2 if limit is None else limit) // 4)

        return beside(tree, "_opened_segments", made)

    def get(self, number: int) -> Segment | None:
        with self._lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
            return found

    def put(self, number: int, segment: Segment) -> None:
        with self._lock:
            if number not in self._kept:
                self._kept[number] = segment
                self.bytes += segment.bytes
            while self.bytes > self.limit and len(self._kept) > 1:
                self.bytes -= self._kept.popitem(last=False)[1].bytes

    def drop(self, number: int) -> None:
        with self._lock:
            gone = self._kept.pop(number, None)
            self.bytes -= gone.bytes if gone is not None else 0

    def stats(self) -> dict[str, int]:
        return {"segments": len(self._kept), "bytes": self.bytes, "limit": self.limit, "damaged": len(self.damaged)}


@dataclass(frozen=True)
class Nodes:
    """The vectors of a unit, float32 (m, d), and for each the first of the rows that it stands for; None where every row is one."""

    vectors: np.ndarray
    rows: np.ndarray | None


@dataclass
class Segment:
    """An opened index; ``rows`` are the numbers, in its unit, of the rows that its nodes stand for, None for all. ``shared`` where a node
    may stand for several. Until it is ``checked``, whoever answers by it reads what he answers, checked."""

    index: Any
    rows: np.ndarray | None
    shared: bool
    bytes: int
    checked: bool = True

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers in the unit, distances), -1 and inf where fewer were found; ``mask`` bool over the unit's rows, at most one of a node."""
        if self.rows is None:
            return self._search(queries, k, mask, params)
        if len(self.rows) == 0:
            return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        allowed = mask
        if mask is not None:
            allowed = np.logical_or.reduceat(mask, self.rows) if self.shared else mask[self.rows]
        ids, distances = self._search(queries, k, allowed, params)
        rows = np.where(ids >= 0, self.rows[ids], -1)
        if self.shared and mask is not None:
            # rows of a node lie together: the one that is seen is a few on
            while len(late := np.flatnonzero((ids >= 0).ravel() & ~mask[rows.ravel()])):
                rows.ravel()[late] += 1
        return rows, distances

    def _search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None, params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        # one by one takes an index's short way
        ids, distances = self.index.search(queries[0] if len(queries) == 1 else queries, k, filter=allowed, **params)
        return (ids[None], distances[None]) if len(queries) == 1 else (ids, distances)


def segment_of(tree: Tree, unit: Unit, column: str) -> Segment | None:
    """The opened index of a unit, of a column as it is called now, or None where it has none that is whole."""
    ref = unit.ref
    if ref is None:
        return None
    opened = Opened.of(tree)
    segment = opened.get(ref.number)
    if segment is None and ref.number not in opened.damaged:
        try:
            segment = _open(tree, unit, ref, column)
        except (LsmTensorError, OSError) as why:
            give_up(tree, ref, why)
        else:
            opened.put(ref.number, segment)
            if not segment.checked:
                threading.Thread(target=_check, args=(tree, unit, ref, column, segment), name="lsmtensor-check", daemon=True).start()
    return segment


def _check(tree: Tree, unit: Unit, ref: SegmentRef, column: str, segment: Segment) -> None:
    """Compare every byte that a segment answers from with its sums."""
    try:
        for name in ref.names:
            path = f"{tree.path}/sst/{name}"
            container.unpack(tree.env.open(path, kind="index").map(), where=path)
        for source, _ in unit.parts:
            matrices(source, column)
        segment.checked = True
    except (LsmTensorError, OSError) as why:
        give_up(tree, ref, why)


def prefetch(tree: Tree) -> None:
    """What ``index.prefetch`` asks for when a database is opened: ``open`` opens every segment, reads and checks its bytes, and asks it once, in a thread of its own."""
    how = tree.config.index.prefetch
    if how not in ("none", "open"):
        raise InvalidArgumentError(f"setting index.prefetch is {how!r}; wanted none or open")
    if how == "open":
        tables = list(tree.state.tables.values())
        # where a table is flushed or closed meanwhile, a segment is found gone, and nothing is lost
        threading.Thread(target=_touch, args=(tree, tables), name="lsmtensor-prefetch", daemon=True).start()


def _touch(tree: Tree, tables: Sequence[TableVersion]) -> None:
    for table in tables:
        for name, entry in vector_indexes(table).items():
            for unit in units(table, name):
                segment = None if tree.closed else segment_of(tree, unit, entry["column"])
                if segment is not None:
                    segment.index.search(np.zeros(segment.index.dim, np.float32), k=1)


def give_up(tree: Tree, ref: SegmentRef, why: Exception) -> None:
    """Search without a segment from now on, until it is built again."""
    opened = Opened.of(tree)
    opened.drop(ref.number)
    opened.damaged.add(ref.number)
    warnings.warn(f"index segment {ref.file} cannot be used ({why}); searching without it", stacklevel=3)
    if not tree.read_only and tree.config.background:
        tree.on_work()


def nodes_of(parts: Sequence[Part], column: str, chosen: np.ndarray | None = None, checked: bool = True) -> Nodes:
    """The nodes of some files: every row that has a vector and differs from the row of its key before it, or those ``chosen`` by number.

    The vectors are the map of one file of float32 where all its rows are chosen, else a copy.
    """
    views: list[tuple[int, np.ndarray]] = []
    there: list[np.ndarray] = []
    same: list[np.ndarray] = []
    whole, at = True, 0
    for source, number in parts:
        start, stop = int(source.starts[number]), int(source.starts[number + 1])
        matrices_, valid = matrices(source, column) if checked else _unchecked(source, column)
        mine = [(first - start + at, m) for first, m in matrices_ if start <= first < stop]
        views += mine
        valid = np.ones(stop - start, bool) if valid is None else valid[start:stop]
        again = _again(source, start, stop, mine, at)
        whole = whole and bool(valid.all()) and not again.any()
        there.append(valid)
        same.append(again)
        at += stop - start
    if whole and chosen is None:
        return Nodes(_in_one(parts, [m for _, m in views]), None)
    valid = np.concatenate(there)
    if chosen is None:
        chosen = np.flatnonzero(valid & ~(np.concatenate(same) & np.concatenate([[False], valid[:-1]])))
    elif len(chosen) and not valid[chosen].all():
        raise CorruptionError("the segment indexes rows that have no vector", "", 0)
    return Nodes(_gathered(views, chosen), chosen)


def _in_one(parts: Sequence[Part], views: list[np.ndarray]) -> np.ndarray:
    if len(views) == 1:
        return views[0]
    source, at = parts[0]
    plain = len(parts) == 1 and all(v.dtype == np.float32 and v.flags.c_contiguous for v in views)
    joined = source.files[at].joined(views) if plain else None
    return np.concatenate(views) if joined is None else joined.view(np.float32).reshape(-1, views[0].shape[1])


def _gathered(views: list[tuple[int, np.ndarray]], rows: np.ndarray) -> np.ndarray:
    made = np.empty((len(rows), views[0][1].shape[1]), np.float32)
    for first, view in views:
        low, high = np.searchsorted(rows, [first, first + len(view)])
        made[low:high] = view[rows[low:high] - first]
    return made


def _again(source: RunSource, start: int, stop: int, views: list[tuple[int, np.ndarray]], at: int) -> np.ndarray:
    """bool (rows,): rows of the key and the vector of the row before them."""
    from . import keyspace

    repeated = np.zeros(stop - start, bool)
    row = 0
    for i in range(source.num_batches):
        keys = source.keys(i)
        if start <= row < stop:
            repeated[row - start : row - start + len(keys)] = keyspace.same_as_previous(keys)
        row += len(keys)
    for first, view in views:
        low = first - at
        some = np.flatnonzero(repeated[low : low + len(view)])
        equal = (view[some].view(np.uint8) == view[some - 1].view(np.uint8)).all(1) if len(some) else some.astype(bool)
        repeated[low + some[~equal]] = False
    return repeated


def opened_apart(tree: Tree, unit: Unit, column: str) -> tuple[Any, Nodes]:
    """The index of a unit with a segment, for the caller to change, and its nodes. `CorruptionError` for damage."""
    assert unit.ref is not None
    index, nodes, _ = _read(tree, unit, unit.ref, column, True)
    return index, nodes


def _open(tree: Tree, unit: Unit, ref: SegmentRef, column: str) -> Segment:
    size = tree.env.size(f"{tree.path}/sst/{ref.file}")
    # what is large is checked beside the first searches, which look at little of it
    checked = size < LARGE or not tree.config.background
    index, nodes, shared = _read(tree, unit, ref, column, checked)
    return Segment(index, nodes.rows, shared, size + nodes.vectors.nbytes, checked)


def _read(tree: Tree, unit: Unit, ref: SegmentRef, column: str, checked: bool) -> tuple[Any, Nodes, bool]:
    """(index, its nodes, whether a node may stand for several rows); unless ``checked``, what would lead a search astray is found all the same."""
    path = f"{tree.path}/sst/{ref.file}"
    header, arrays = container.unpack(tree.env.open(path, kind="index").map(), where=path, whole=False, sums=checked)
    if header.get("rows") != unit.rows or ref.rows != unit.rows:
        raise CorruptionError(f"the segment indexes {header.get('rows')} rows, its table files have {unit.rows}", path=path, offset=0)
    of = roots(unit.parts)
    if header.get("of", of) != of:
        raise CorruptionError("the segment was built over another table file", path=path, offset=0)
    if ref.codebook:
        book = f"{tree.path}/sst/{ref.codebook}"
        arrays |= container.unpack(tree.env.open(book, kind="index").map(), where=book)[1]
    stored = arrays.pop("_rows", None)
    if stored is not None and (stored.ndim != 1 or (np.diff(stored) <= 0).any() or (len(stored) and not 0 <= stored[0] <= stored[-1] < unit.rows)):
        raise CorruptionError("the numbers of the rows that a segment indexes do not rise", path=path, offset=0)
    nodes = nodes_of(unit.parts, column, stored, checked)
    if stored is None and nodes.rows is not None:
        raise CorruptionError("the segment indexes other rows than have vectors", path=path, offset=0)
    index = indexes.from_sections(header.get("index", {}), arrays, vectors=nodes.vectors, kernel=tree.config.kernel, where=path)
    return index, nodes, bool(header.get("shared", False))


def roots(parts: Sequence[Part]) -> Any:
    """What a segment says that it was built over: the root of its file, or of its files."""
    made = [source.files[at].ref.root for source, at in parts]
    return made[0] if len(made) == 1 else made
