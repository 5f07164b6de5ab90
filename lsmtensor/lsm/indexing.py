"""Making index segments: for files that lack one, and for the files of a merge before anybody sees them.

A merge's segments take over what those of the merged files worked out (`indexes.carry`), or are built afresh where that is the cheaper or
better choice. What an index learned of the rows (centroids, codebooks) lies in a file of its own, which the segments that use it name. A build
runs in a thread of its own, and what is sealed meanwhile is flushed: writers do not wait for it.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from blake3 import blake3

from .. import container, indexes, kernels
from ..env.base import cores
from ..errors import LsmTensorError, StorageError
from ..indexes.carry import carried
from ..registry import Spec
from . import fresh, keyspace, lists, ops, readers
from .layout import FileRef, Run, SegmentRef
from .marks import marks_of
from .retention import oldest_needed
from .segments import OTHERS, Nodes, Opened, Part, Unit, nodes_of, roots, units, vector_indexes
from .sorted import sort_column
from .source import RunSource

if TYPE_CHECKING:
    from .state import TableVersion
    from .tree import Tree

T = TypeVar("T")
# of an indexed run, the share of rows that nothing needs any more from which on it is merged
GARBAGE = 0.2
BLOCK = 65536
# what builds take of a core that others want, in the terms of nice(2): a tenth
NICE = 10


def index_due(tree: Tree, between: Callable[[], None] = lambda: None) -> None:
    """Build the segments that are wanted and not there or damaged; ``between`` is called after each."""
    tried: set[tuple[int, str, tuple[int, ...]]] = set()
    for table_id in list(tree.head()[0].tables):
        while (table := tree.head()[0].tables.get(table_id)) is not None:
            if tree.merge_asked:
                return
            todo = next((t for t in _due(tree, table) if (table_id, t[0], _numbers(t[1])) not in tried), None)
            if todo is None:
                break
            name, parts = todo
            tried.add((table_id, name, _numbers(parts)))
            ref = beside(tree, lambda: build(tree, table, name, parts, _helpful(tree, table, name), False))  # noqa: B023 - called at once
            if ref is not None:
                _install(tree, table_id, name, parts, ref)
            between()
        if table is not None:
            _replaced(tree, table_id)


def _replaced(tree: Tree, table_id: int) -> None:
    """Drop the indexes that another one was to replace, which is there now."""
    with tree.editing():
        table = tree.state.tables[table_id]
        for name, entry in table.state.indexes.items():
            if entry.get("replaces") in table.state.indexes:
                done = {k: v for k, v in entry.items() if k != "replaces"}
                files = [f.ref for run in table.every for f in run.files]
                tree.install([*forget_index(table_id, entry["replaces"], files), ops.set_index(table_id, name, done)])


def _helpful(tree: Tree, table: TableVersion, name: str) -> list[Unit]:
    """The segments of an index that one over other rows can be made from: of a table, and those that learned something."""
    entry = table.state.indexes[name]
    kind = Spec.parse(entry["spec"]).name
    factory: Any = None if kind in OTHERS else indexes.REGISTRY.get(kind)
    if factory is None or not (entry.get("placement") == "table" or factory.learned):
        return []
    return [u for u in units(table, name) if u.ref is not None and u.ref.number not in Opened.of(tree).damaged]


def _numbers(parts: Sequence[Part]) -> tuple[int, ...]:
    return tuple(source.files[at].ref.number for source, at in parts)


def _due(tree: Tree, table: TableVersion) -> list[tuple[str, tuple[Part, ...]]]:
    """(index, files) of the segments that are wanted, by its placement, and not there."""
    made: list[tuple[str, tuple[Part, ...]]] = []
    table = table.whole
    least, damaged = tree.config.index.min_rows, Opened.of(tree).damaged
    every = [(run, at) for run in reversed(table.runs) for at in range(len(run.files))]
    for name, entry in table.state.indexes.items():
        kind = Spec.parse(entry["spec"]).name
        if kind in OTHERS:
            there = {run.files[at].ref.number for run, at in every if any(s.index == name for s in run.files[at].ref.segments)}
            made += [(name, ((run, at),)) for run, at in every if run.files[at].ref.rows >= least and run.files[at].ref.number not in there]
            continue
        covered = {n for u in units(table, name) if u.ref is not None and u.ref.number not in damaged for n in _numbers(u.parts)}
        made += [(name, parts) for parts in _placed(entry, every) if sum(_rows(p) for p in parts if p[0].files[p[1]].ref.number not in covered) >= least]
    return made


def _placed(entry: dict[str, Any], parts: Sequence[Part]) -> list[tuple[Part, ...]]:
    """Files, dealt to segments as an index wants them."""
    placement = entry.get("placement", "run")
    if placement == "table":
        return [g for g in (tuple(p for p in parts if bool(p[0].behind) is past) for past in (False, True)) if g]
    if placement == "file":
        return [(part,) for part in parts]
    runs: dict[int, list[Part]] = {}
    for source, at in parts:
        runs.setdefault(source.run.id, []).append((source, at))
    return [tuple(group) for group in runs.values()]


def _rows(part: Part) -> int:
    return part[0].files[part[1]].ref.rows


def _install(tree: Tree, table_id: int, name: str, parts: Sequence[Part], ref: SegmentRef) -> None:
    """Show a segment that was built, unless its index or files went meanwhile; those of the index that it replaces go."""
    with tree.editing():
        table = tree.state.tables.get(table_id)
        files = {} if table is None else {f.ref.number: f.ref for run in table.every for f in run.files}
        covers = _numbers(parts)
        if table is None or name not in table.state.indexes or not files.keys() >= set(covers):
            tree.env.unlink(f"{tree.path}/sst/{ref.file}")
            return
        edits, before = [], [s for file in files.values() for s in file.segments]
        for number, file in files.items():
            kept = tuple(s for s in file.segments if s.index != name or not set(s.files or (number,)) & set(covers))
            kept = (*kept, ref) if number == covers[0] else kept
            if kept != file.segments:
                edits.append(ops.set_segments(table_id, number, kept))
        tree.install(edits)
    fresh.forget(parts)
    discard(tree, table_id, before)


def discard(tree: Tree, table_id: int, before: Sequence[SegmentRef]) -> None:
    """Remove those of some segments that the layout does not name any more."""
    table = tree.state.tables.get(table_id)
    now = set() if table is None else {s.number for run in table.every for f in run.files for s in f.ref.segments}
    for ref in before:
        if ref.number not in now:
            Opened.of(tree).drop(ref.number)
            readers.discard(tree.env, tree.path, f"{tree.path}/sst/{ref.file}")


def beside(tree: Tree, work: Callable[[], T]) -> T:
    """``work()`` in a thread of its own, while this one flushes what is sealed."""
    from .maintenance import flush_sealed

    if not tree.config.background:
        return work()
    # searches and commits go before it; threads that it starts are of its priority
    with ThreadPoolExecutor(1, "lsmtensor-index", initializer=_stand_back) as pool:
        made = pool.submit(work)
        while wait([made], timeout=0.02).not_done:
            flush_sealed(tree)
        return made.result()


def _stand_back() -> None:
    # of a thread where the system has priorities of threads; elsewhere it is refused
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def threads_of(tree: Tree) -> int:
    """How many build a segment."""
    return tree.config.index.threads or (cores() if tree.config.background else tree.config.threads)


# -- merges ----------------------------------------------------------------------------------------


def with_segments(tree: Tree, table: TableVersion, old: Sequence[int], run: Run) -> tuple[Run, list[dict[str, Any]]]:
    """A run that a merge of the runs ``old`` made, not in the layout yet, with its segments; and edits for the files of other runs."""
    made = RunSource(run, [tree.file(ref) for ref in run.files], table.state.schema)
    others = [r for r in reversed(table.runs) if r.run.id not in set(old) and bool(r.behind) is bool(run.behind)]
    files = {ref.number: ref for ref in run.files}
    edits: list[dict[str, Any]] = []
    for name, entry in vector_indexes(table).items():
        olds = [u for u in units(table, name) if u.ref is not None]
        touched = [u for u in olds if any(source.run.id in old for source, _ in u.parts)]
        if not touched and tree.config.background and entry.get("placement") != "table":
            continue  # nobody misses what none of the merged runs had: built when they are one (`index_due`)
        every = [(made, at) for at in range(len(made.files))]
        if entry.get("placement") != "table":
            olds = touched
        elif olds and not touched and made.rows < tree.config.index.min_rows:
            continue  # the index of the table stands, and so few rows stay beside it
        else:
            # the oldest first, as they were
            every = sorted([*every, *((r, at) for r in others for at in range(len(r.files)))], key=lambda p: p[0].min_seq)
        for parts in _placed(entry, every):
            if sum(map(_rows, parts)) < tree.config.index.min_rows:
                continue
            first = parts[0][0].files[parts[0][1]].ref
            if entry.get("placement") == "file" and any(s.index == name for s in first.segments):
                continue  # a file that was taken as it is
            ref = beside(tree, lambda: build(tree, table, name, parts, olds, True))  # noqa: B023 - called at once
            if ref is None:
                continue
            if first.number in files:
                files[first.number] = replace(files[first.number], segments=(*files[first.number].segments, ref))
            else:
                edits.append(ops.set_segments(table.state.id, first.number, (*(s for s in first.segments if s.index != name), ref)))
    return replace(run, files=tuple(files[ref.number] for ref in run.files)), edits


def garbage(tree: Tree, table_id: int) -> list[int] | None:
    """The runs to merge because over a fifth of an indexed one is rows that nothing needs: that one and all newer ones; None where there is none."""
    view = tree.view(table_id)
    if not vector_indexes(view.table):
        return None
    oldest, pinned = oldest_needed(tree, view.table)
    # what is not in runs yet hides rows that a merge cannot drop
    limit = view.table.unflushed() or view.version + 1
    settled = [r for r in view.table.runs if r.max_seq < limit]
    for i in range(len(settled) - 1, -1, -1):
        source = settled[i]
        if source.rows < tree.config.index.min_rows or not any(f.ref.segments for f in source.files):
            continue
        marks, newer = marks_of(source), view.every_source[: view.every_source.index(source)]
        marks.resolve(source, newer, max([view.version, *(s.max_seq for s in newer)]))
        free = marks.dead <= min(oldest, limit - 1)
        for point in pinned:
            free &= ~((marks.seqs <= point) & (point < marks.dead))
        if i < len(settled) - 1:
            free &= marks.dead > 0  # deletes hide rows of older runs
        if np.count_nonzero(free) > GARBAGE * source.rows:
            return [r.run.id for r in settled[: i + 1]]
    return None


# -- one segment -----------------------------------------------------------------------------------


def build(tree: Tree, table: TableVersion, name: str, parts: Sequence[Part], olds: Sequence[Unit], merged: bool) -> SegmentRef | None:
    """Build and write the segment of an index over some files, from ``olds`` where they help; None where it could not be stored. ``merged``: rows
    of their files that are not among these may be found by key."""
    entry = table.state.indexes[name]
    spec, rows = Spec.parse(entry["spec"]), sum(map(_rows, parts))
    with tree.events.timed("index", table=table.state.name, index=name, rows=rows) as facts:
        whole: dict[str, Any] = {"rows": rows, "column": entry["column"], "of": roots(parts)}
        learned: dict[str, np.ndarray] = {}
        source, at = parts[0]
        if spec.name in lists.LEXICAL:
            header, arrays = lists.sections(source, at, spec, entry["column"], kernels.choose(tree.config.kernel))
        elif spec.name == "sorted":
            here = np.arange(int(source.starts[at]), int(source.starts[at + 1]))
            header, arrays = {"kind": "sorted"}, sort_column(source.take(here, [entry["column"]]).column(0))
        else:
            nodes = nodes_of(parts, entry["column"])
            index = _carried(tree, entry["column"], parts, nodes, olds, merged)
            facts["carried"] = index is not None
            if index is None:
                index = indexes.create(spec, dim=nodes.vectors.shape[1], kernel=tree.config.kernel, threads=threads_of(tree))
                index.add(nodes.vectors, copy=False)
            index.calibrate()
            header, arrays = index.to_sections()
            learned = {n: arrays.pop(n) for n in index.learned if n in arrays}
            if nodes.rows is not None:
                arrays["_rows"] = nodes.rows
                whole["shared"] = len(nodes.rows) < _with_vectors(parts, entry["column"])
        first, number = parts[0][0].files[parts[0][1]].ref.number, tree.next_file()
        file = f"{first:06d}.i{number}.{spec.name}"
        try:
            book = _codebook(tree, first, learned, olds) if learned else ""
            _write(tree, file, {**whole, "index": header}, arrays)
            tree.env.sync_dir(f"{tree.path}/sst")
        except (StorageError, OSError) as why:
            warnings.warn(f"index {name!r} was not stored ({why}); searching without it", stacklevel=2)
            return None
        facts["bytes"] = tree.env.size(f"{tree.path}/sst/{file}")
    covers = _numbers(parts) if len(parts) > 1 else ()
    return SegmentRef(name, entry["column"], str(spec), number, rows, file, covers, book)


def _with_vectors(parts: Sequence[Part], column: str) -> int:
    from .segments import matrices

    counts = []
    for source, at in parts:
        valid = matrices(source, column)[1]
        counts.append(_rows((source, at)) if valid is None else int(np.count_nonzero(valid[int(source.starts[at]) : int(source.starts[at + 1])])))
    return sum(counts)


def _write(tree: Tree, file: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    with tree.env.create(f"{tree.path}/sst/{file}", kind="index", cause="flush") as out:
        out.writev(container.pack(header, arrays))
        out.sync()


def _codebook(tree: Tree, first: int, learned: dict[str, np.ndarray], olds: Sequence[Unit]) -> str:
    """The file of what an index learned: that of a segment it was carried over from, or a new one."""
    state = blake3()
    for array in learned.values():
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    digest = str(state.hexdigest())
    for book in {u.ref.codebook for u in olds if u.ref is not None and u.ref.codebook}:
        path = f"{tree.path}/sst/{book}"
        try:
            if container.unpack(tree.env.open(path, kind="index").map(), where=path)[0].get("digest") == digest:
                return book
        except (LsmTensorError, OSError):
            continue  # damaged: written again
    file = f"{first:06d}.i{tree.next_file()}.codebook"
    _write(tree, file, {"digest": digest}, learned)
    return file


def _carried(tree: Tree, column: str, parts: Sequence[Part], nodes: Nodes, olds: Sequence[Unit], merged: bool) -> Any:
    """An index of the nodes from segments that know some of them, or None."""
    from .segments import opened_apart

    known = []
    for unit in olds:
        try:
            segment, was = opened_apart(tree, unit, column)
        except (LsmTensorError, OSError):
            continue  # built afresh then
        segment.threads = threads_of(tree)
        known.append((segment, _origin(parts, nodes, unit, was, merged)))
    return carried(known, nodes.vectors)


def _origin(parts: Sequence[Part], nodes: Nodes, unit: Unit, was: Nodes, merged: bool) -> np.ndarray:
    """int64 (nodes,): the node of a unit's segment that has the same key and vector, -1 where there is none. O(n log n)."""
    rows = np.arange(len(nodes.vectors)) if nodes.rows is None else nodes.rows
    old = np.full(len(rows), -1, np.int64)
    starts = dict(zip(_numbers(unit.parts), unit.starts.tolist(), strict=False))
    now = set(_numbers(parts))
    gone = [part for part in unit.parts if merged and part[0].files[part[1]].ref.number not in now]
    at = 0
    for source, number in parts:
        file = source.files[number].ref
        mine = slice(*np.searchsorted(rows, [at, at + file.rows]))
        here = rows[mine] - at
        if file.number in starts:
            old[mine] = here + starts[file.number]
        elif gone:
            old[mine] = _found(source, number, here, gone, starts)
        at += file.rows
    there = np.flatnonzero(old >= 0)
    node = old[there] if was.rows is None else np.searchsorted(was.rows, old[there], "right") - 1
    there, node = there[node >= 0], node[node >= 0]
    # each node once, and only for what it was made of
    _, first = np.unique(node, return_index=True)
    there, node = there[first], node[first]
    origin = np.full(len(rows), -1, np.int64)
    for begin in range(0, len(there), BLOCK):
        a, b = there[begin : begin + BLOCK], node[begin : begin + BLOCK]
        same = (nodes.vectors[a].view(np.uint32) == was.vectors[b].view(np.uint32)).all(1)
        origin[a[same]] = b[same]
    return origin


def _found(source: RunSource, number: int, rows: np.ndarray, gone: Sequence[Part], starts: dict[int, int]) -> np.ndarray:
    """The rows of a unit, in its files ``gone``, that rows of a new file were, or else the newest of their key; -1 where there is none."""
    keys, seqs = _keys(source, number)
    keys, seqs = keys.take(pa.array(rows)), seqs[rows]
    found, exact = np.full(len(rows), -1, np.int64), np.zeros(len(rows), bool)
    for run, at in gone:
        their, versions = _keys(run, at)
        place = np.asarray(keyspace.search_many(their, keys))
        ends = np.append(~keyspace.same_as_previous(their)[1:], True) if len(their) else np.zeros(0, bool)
        inside = np.flatnonzero(place < len(their))
        hit = inside[keyspace.equal(their.take(pa.array(place[inside])), keys.take(pa.array(inside)))]
        spot = place[hit]
        newest = spot.copy()
        # versions of a key lie newest first
        while len(on := np.flatnonzero((versions[spot] > seqs[hit]) & ~ends[spot])):
            spot[on] += 1
        same = versions[spot] == seqs[hit]
        offset = starts[run.files[at].ref.number]
        take = same | ((found[hit] < 0) & ~exact[hit])
        found[hit[take]] = np.where(same, spot, newest)[take] + offset
        exact[hit[same]] = True
    return found


def _keys(source: RunSource, number: int) -> tuple[pa.Array, np.ndarray]:
    """(keys, versions) of a file of a run."""
    first = sum(source.reader(at).num_batches for at in range(number))
    batches = range(first, first + source.reader(number).num_batches)
    return keyspace.concat([source.keys(i) for i in batches]), np.concatenate([source.seqs(i) for i in batches])


def forget_index(table_id: int, name: str, files: Sequence[FileRef]) -> list[dict[str, Any]]:
    """The edits by which an index and its segments go."""
    edits = [ops.set_index(table_id, name, None)]
    for file in files:
        kept = tuple(s for s in file.segments if s.index != name)
        if len(kept) < len(file.segments):
            edits.append(ops.set_segments(table_id, file.number, kept))
    return edits
