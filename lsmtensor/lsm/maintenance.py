"""Flush and compaction: the work that turns memtables into runs, and runs into fewer runs.

Policies only decide (`compaction/`); here it is done. Both end in one layout edit: until that edit
is durable the old files and logs are all there, so a crash at any point costs only the new files.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError, StorageError
from ..registry import Spec
from . import blobs, compaction, fresh, indexing, keyspace, ops, readers
from .compaction.fifo import Fifo
from .compaction.none import Never
from .expiry import Expiring, Expiry, expiry_of
from .layout import FileRef, Key, Run, TableState
from .manifest import file_path
from .merge import Batches, Chooser, Split, needed_since, rebatch, windows
from .output import chains_of
from .retention import oldest_needed
from .segments import Opened, whole_runs
from .source import MemSource, RunSource, TableFile
from .state import TableVersion
from .tree import Tree

Written = tuple[Run, list[tuple[int, Run]]]  # and blob files that it refers to, by table


def flush_sealed(tree: Tree) -> None:
    """Write every sealed memtable as a level-0 run, oldest first."""
    for table_id in list(tree.head()[0].tables):
        while (table := tree.head()[0].tables.get(table_id)) is not None and len(table.mems) > 1:
            _flush_one(tree, table, table.mems[-1])
    _retire_logs(tree)


def _retire_logs(tree: Tree) -> None:
    with tree.editing():
        done = tree.finished_logs()
        if done:
            tree.install([ops.drop_wals(done)])
    for number in done:
        try:
            readers.discard(tree.env, tree.path, file_path(tree.path, "wal", number))
        except StorageError as why:
            warnings.warn(f"log {number} is done with but stays on disk: {why}", stacklevel=2)


def _flush_one(tree: Tree, table: TableVersion, mem: MemSource) -> None:
    run, beside = None, list[tuple[int, Run]]()
    if mem.rows:
        ordered = mem.sorted()
        keys = ordered.keys(0)
        at = 0
        pairs = []
        for batch in ordered.table.combine_chunks().to_batches(max_chunksize=tree.config.sstable.batch_rows):
            pairs.append((batch, keys.slice(at, batch.num_rows)))
            at += batch.num_rows
        with tree.events.timed("flush", table=table.state.name, rows=mem.rows, memory_bytes=mem.memtable.nbytes) as facts:
            run, beside = tree.write_run(table, pairs, "flush")
            facts["file_bytes"] = run.bytes
        fresh.follow(tree, table, [mem], run)

    with tree.editing():
        # read in this order: a commit that lands in between is in a memtable before it is counted
        logged = tree.logged
        rest = min((m.min_seq for m in tree.head()[0].tables[table.state.id].mems if m is not mem and m.rows), default=None)
        flushed = logged if rest is None else min(logged, rest - 1)
        tree.install([*(ops.add_run(*blob) for blob in beside), ops.flush(table.state.id, run, flushed)], flushed=mem)


def compact_due(tree: Tree) -> None:
    """Ask each table's policy until none wants anything."""
    for table_id in list(tree.head()[0].tables):
        while (table := tree.head()[0].tables.get(table_id)) is not None:
            if tree.compaction_paused or tree.merge_asked:
                return
            policy = policy_of(tree, table)
            decision = policy.choose(_settled(table), compaction.Moment(tree.env.clock.time_ns(), tree.manifest.layout.times))
            if isinstance(decision, compaction.DoNothing):
                break
            _carry_out(tree, table, decision)
        stale = None if table is None or isinstance(policy, (Never, Fifo)) else indexing.garbage(tree, table_id)
        if table is not None and stale is not None:
            _merge(tree, table, stale, max(r.run.level for r in table.runs if r.run.id in stale))


def policy_of(tree: Tree, table: TableVersion) -> compaction.Policy:
    return compaction.create(table.state.options.get("compaction", tree.config.compaction.policy), tree.config.compaction)


def compact_all(tree: Tree, tables: Sequence[int] | None = None, start: Key | None = None, stop: Key | None = None) -> None:
    """One run a table, of the runs that hold keys in [start, stop); what nothing needs of them is gone afterwards."""
    # whoever is at work ends early: segments and merges of runs that go into these would be made in vain
    tree.merge_asked = True
    try:
        with tree.maintaining():
            tree.merge_asked = False
            flush_sealed(tree)
            for table_id in list(tree.head()[0].tables if tables is None else tables):
                _compact_table(tree, table_id, start, stop)
            collect_blobs(tree, all_of_it=True)
    finally:
        tree.merge_asked = False


def _compact_table(tree: Tree, table_id: int, start: Key | None, stop: Key | None) -> None:
    table = tree.head()[0].tables.get(table_id)
    if table is None or table.state.name == blobs.BLOBS:
        return
    runs = _settled(table).runs
    touched = [i for i, r in enumerate(runs) if (start is None or r.max_key >= start) and (stop is None or r.min_key < stop)]  # type: ignore[operator]
    if touched:
        # with those between them: merged runs must be neighbours in version order
        runs = runs[touched[0] : touched[-1] + 1]
        _merge(tree, table, [r.id for r in runs], max(int(len(runs) > 1), *(r.level for r in runs)), whole=True)


def collect_blobs(tree: Tree, all_of_it: bool = False) -> None:
    """Drop the blob files that no row refers to, and write those anew of which less than half is referred to; with ``all_of_it`` those of
    which any value is garbage. Rows that an open view still reads count. The caller holds the maintenance lock."""
    table = tree.head()[0].by_name(blobs.BLOBS)
    if table is None or not table.runs:
        return
    files = blobs.held(tree)
    used = blobs.used(files)
    for run in table.runs:
        values, size = used.get(blobs.file_of(run.run), (0, 0))
        if values < run.rows and (all_of_it or 2 * size < run.run.bytes):
            _collect(tree, table, run, blobs.live_ids(blobs.file_of(run.run), files) if values else np.empty(0, np.int64))


def _collect(tree: Tree, table: TableVersion, run: RunSource, live: np.ndarray) -> None:
    """A blob file without the values that nobody refers to."""
    if len(live) == run.rows:
        return
    made = []
    with tree.events.timed("compaction", table=table.state.name, level=0, runs=1, rows=run.rows, bytes=run.run.bytes) as facts:
        if len(live):
            pairs = merged_batches([run], blobs.chooser(live), table.physical, tree.config.sstable.batch_rows, None, None)
            made = [tree.write_run(table, pairs, "compaction")[0]]
        _replace(tree, table, [run.run.id], made)
        facts |= {"files": len(made), "file_rows": len(live), "file_bytes": sum(r.bytes for r in made)}


def _settled(table: TableVersion) -> TableState:
    """The table's entry with only the runs below every unflushed commit: merging above would cross intervals."""
    limit = table.unflushed()
    runs = tuple(r.run for r in table.runs if limit is None or r.max_seq < limit)
    return replace(table.state, runs=runs)


def _carry_out(tree: Tree, table: TableVersion, decision: object) -> None:
    if isinstance(decision, compaction.Merge) or (isinstance(decision, compaction.Move) and not tree.config.compaction.trivial_moves):
        _merge(tree, table, list(decision.runs), decision.level)
    elif isinstance(decision, compaction.Drop):
        _replace(tree, table, [r.id for r in table.every if {r.id, r.behind} & set(decision.runs)], [])
    elif isinstance(decision, compaction.Move):
        moved = [replace(r.run, level=decision.level) for r in table.runs if r.run.id in set(decision.runs)]
        _replace(tree, table, [r.id for r in moved], moved)
    else:
        raise InvalidArgumentError(f"a compaction policy answered {decision!r}; wanted DoNothing, Move, Merge or Drop")


def _merge(tree: Tree, table: TableVersion, ids: list[int], level: int, whole: bool = False) -> None:
    """Merge runs, and what is behind them, into one of ``level`` and one behind it. Without ``whole``, files that share no keys with others are taken
    as they are."""
    oldest, pinned = oldest_needed(tree, table)
    table = table.whole.keeping(min([oldest, *pinned]))
    chosen = [r for r in table.runs if {r.id, r.behind} & set(ids)]
    ids = [r.id for r in chosen]
    # what is in runs is durable: nobody reads at a version that needs what goes behind, unless he asks for the past
    tree.show(max(r.max_seq for r in chosen))
    oldest_chosen = min(r.min_seq for r in chosen)
    others = [r for r in table.runs if r not in chosen]
    bottom = not any(r.min_seq < oldest_chosen for r in others)
    keep, expiry = needed_since(oldest, pinned, bottom), expiry_of(table, min([oldest, *pinned]))
    # a table with lists in memory too: one of them is searched faster than many
    lists = any(Spec.parse(e["spec"]).name in ("text", "sparse") for e in table.state.indexes.values())
    moves = tree.config.compaction.trivial_moves and not whole and not lists and not whole_runs(table)
    files, older = list[FileRef](), list[FileRef]()
    beside: list[tuple[int, Run]] = []
    read = {"runs": len(chosen), "rows": sum(r.rows for r in chosen), "bytes": sum(r.run.bytes for r in chosen)}
    with tree.events.timed("compaction", table=table.state.name, level=level, **read) as facts:
        for group in _groups(chosen) if moves else [chosen]:
            only = group[0].files[0].ref
            if moves and len(group) == 1 and len(group[0].files) == 1 and not only.tombstones:
                files.append(only)
                continue
            split = Split(keep)
            written = _rewrite(tree, table, [r for r in group if not r.behind], split.newest, level, expiry)
            files += [f for run, _ in written for f in run.files]
            if split.older or any(r.behind for r in group):
                behind = _rewrite(tree, table, group, split.rest, level, expiry)
                older += [f for run, _ in behind for f in run.files]
                written += behind
            beside += [run for _, of_it in written for run in of_it]
        runs, edits = list[Run](), [ops.add_run(*run) for run in beside]
        for refs in filter(None, (files, older)):
            run, more = indexing.with_segments(tree, table, ids, Run(refs[0].number, level, tuple(refs), behind=runs[0].id if runs else 0))
            runs.append(run)
            edits += more
        if runs:
            fresh.follow(tree, table, chosen, runs[0])
        _replace(tree, table, ids, runs, edits)
        files += older
        facts |= {"files": len(files), "file_rows": sum(f.rows for f in files), "file_bytes": sum(f.size for f in files)}


def _groups(runs: list[RunSource]) -> list[list[RunSource]]:
    """The runs cut, in key order, where no file spans the cut."""
    spread = sorted(((f, r) for r in runs for f in r.files), key=lambda p: p[0].ref.min_key)  # type: ignore[arg-type, return-value]
    groups: list[list[tuple[TableFile, RunSource]]] = []
    edge: Key | None = None
    for file, run in spread:
        if edge is None or file.ref.min_key > edge:  # type: ignore[operator]
            groups.append([])
            edge = file.ref.max_key
        groups[-1].append((file, run))
        edge = max(edge, file.ref.max_key)  # type: ignore[type-var]
    return [_part_runs(group) for group in groups]


def _part_runs(group: list[tuple[TableFile, RunSource]]) -> list[RunSource]:
    by_run: dict[int, tuple[RunSource, list[TableFile]]] = {}
    for file, run in group:
        by_run.setdefault(run.run.id, (run, []))[1].append(file)
    return [
        RunSource(replace(run.run, files=tuple(f.ref for f in files)), files, run.schema, run.kept) for run, files in by_run.values()
    ]


def _rewrite(tree: Tree, table: TableVersion, runs: list[RunSource], keep: Chooser, level: int, expiry: Expiry | None) -> list[Written]:
    """The surviving rows in new files; over ``threads`` ranges of keys at once."""
    kinds = blobs.carried(table, runs, chains_of(table, tree.config, "compaction"))
    carried: Sequence[Batches] = [blobs.Carrying(r, kinds) for r in runs] if kinds else runs
    sources = carried if expiry is None else [Expiring(r, expiry) for r in carried]
    cuts = [] if whole_runs(table) else _cuts(runs, tree.config.threads)
    ranges = list(zip([None, *cuts], [*cuts, None], strict=True))

    def write(bounds: tuple[Key | None, Key | None]) -> list[Written]:
        batches = merged_batches(sources, keep, table.physical, tree.config.sstable.batch_rows, *bounds)
        first = next(batches, None)
        if first is None:
            return []
        rate = tree.config.compaction.rate_limit / len(ranges)
        return [tree.write_run(table, _throttled(_chain(first, batches), rate), "compaction", level)]

    if len(ranges) == 1:
        return write(ranges[0])
    with ThreadPoolExecutor(len(ranges), "lsmtensor-merge") as pool:
        return [made for part in pool.map(write, ranges) for made in part]


def _cuts(runs: list[RunSource], parts: int) -> list[Key]:
    """Keys that cut the runs into about equal parts, by the first keys of their batches."""
    firsts = sorted(r.first_key(i) for r in runs for i in range(r.num_batches))  # type: ignore[type-var]
    wanted = [firsts[len(firsts) * i // parts] for i in range(1, parts)] if len(firsts) >= 2 * parts else []
    return sorted({k for k in wanted if k > firsts[0]})  # type: ignore[type-var, operator]


def _throttled(
    pairs: Iterator[tuple[pa.RecordBatch, pa.Array]], rate: float
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """The pairs, no faster than ``rate`` bytes a second; 0 means as fast as can be."""
    begin, done = time.monotonic(), 0
    for batch, keys in pairs:
        yield batch, keys
        done += batch.nbytes
        if rate and (ahead := done / rate - (time.monotonic() - begin)) > 0:
            time.sleep(ahead)


def _chain(
    first: tuple[pa.RecordBatch, pa.Array], rest: Iterator[tuple[pa.RecordBatch, pa.Array]]
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    yield first
    yield from rest


def merged_batches(
    runs: Sequence[Batches], keep: Chooser, physical: pa.Schema, rows: int, start: Key | None, stop: Key | None
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    for window in windows(runs, keep, start=start, stop=stop):
        if not len(window):
            continue
        table = window.gather(physical.names)
        keys = keyspace.concat([p.keys for p in window.pieces])
        starts = [0]
        for piece in window.pieces:
            starts.append(starts[-1] + len(piece.keys))
        order = np.asarray(starts)[window.piece] + window.row
        chosen = keys.take(pa.array(order))
        at = 0
        for batch in rebatch([table], rows):
            yield batch, chosen.slice(at, batch.num_rows)
            at += batch.num_rows


def _replace(tree: Tree, table: TableVersion, old: list[int], new: list[Run], edits: Sequence[dict[str, Any]] = ()) -> None:
    gone = set(old)
    kept_files = {f.number for run in new for f in run.files}

    before = [s for r in table.every if r.run.id not in gone for f in r.files for s in f.ref.segments]
    tree.install([ops.replace_runs(table.state.id, old, new), *edits])
    indexing.discard(tree, table.state.id, before)
    left = [f for r in table.every if r.run.id in gone for f in r.files if f.ref.number not in kept_files]
    for file in left:
        for ref in file.ref.segments:
            Opened.of(tree).drop(ref.number)
    tree.forget(left)
