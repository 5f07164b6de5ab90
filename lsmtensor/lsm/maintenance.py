"""Flush and compaction: the work that turns memtables into runs, and runs into fewer runs.

Policies only decide (`compaction/`); here it is done. Both end in one layout edit: until that edit
is durable the old files and logs are all there, so a crash at any point costs only the new files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError
from . import compaction, keyspace, ops
from .layout import Run, TableState
from .merge import needed_since, rebatch, windows
from .retention import oldest_needed
from .source import MemSource, RunSource
from .state import TableVersion
from .tree import Tree


def flush_sealed(tree: Tree) -> None:
    """Write every sealed memtable as a level-0 run, oldest first."""
    for table_id in list(tree.head()[0].tables):
        while (table := tree.head()[0].tables.get(table_id)) is not None and len(table.mems) > 1:
            _flush_one(tree, table, table.mems[-1])
    tree.retire_logs()


def _flush_one(tree: Tree, table: TableVersion, mem: MemSource) -> None:
    run = None
    if mem.rows:
        ordered = mem.sorted()
        keys = ordered.keys(0)
        at = 0
        pairs = []
        for batch in ordered.table.combine_chunks().to_batches(max_chunksize=tree.config.sstable.batch_rows):
            pairs.append((batch, keys.slice(at, batch.num_rows)))
            at += batch.num_rows
        run = tree.write_run(table, pairs, "flush")

    with tree.editing():
        # read in this order: a commit that lands in between is in a memtable before it is counted
        logged = tree.logged
        rest = min((m.min_seq for m in tree.head()[0].tables[table.state.id].mems if m is not mem and m.rows), default=None)
        flushed = logged if rest is None else min(logged, rest - 1)
        tree.install([ops.flush(table.state.id, run, flushed)], flushed=mem)


def compact_due(tree: Tree) -> None:
    """Ask each table's policy until none wants anything."""
    for table_id in list(tree.head()[0].tables):
        while (table := tree.head()[0].tables.get(table_id)) is not None:
            policy = compaction.create(table.state.options.get("compaction", tree.config.compaction.policy), tree.config.compaction)
            decision = policy.choose(_settled(table))
            if isinstance(decision, compaction.DoNothing):
                break
            _carry_out(tree, table, decision)


def compact_all(tree: Tree) -> None:
    """One run a table; deletes and versions that nothing needs are gone afterwards."""
    with tree.maintaining():
        flush_sealed(tree)
        for table_id in list(tree.head()[0].tables):
            table = tree.head()[0].tables.get(table_id)
            runs = _settled(table).runs if table is not None else ()
            if table is not None and runs:
                _merge(tree, table, [r.id for r in runs], max(r.level for r in runs) + 1)


def _settled(table: TableVersion) -> TableState:
    """The table's entry with only the runs below every unflushed commit: merging above would cross intervals."""
    limit = table.unflushed()
    runs = tuple(r.run for r in table.runs if limit is None or r.max_seq < limit)
    return replace(table.state, runs=runs)


def _carry_out(tree: Tree, table: TableVersion, decision: object) -> None:
    if isinstance(decision, compaction.Merge):
        _merge(tree, table, list(decision.runs), decision.level)
    elif isinstance(decision, compaction.Drop):
        _replace(tree, table, list(decision.runs), [])
    elif isinstance(decision, compaction.Move):
        moved = [replace(r.run, level=decision.level) for r in table.runs if r.run.id in set(decision.runs)]
        _replace(tree, table, [r.id for r in moved], moved)
    else:
        raise InvalidArgumentError(f"a compaction policy answered {decision!r}; wanted DoNothing, Move, Merge or Drop")


def _merge(tree: Tree, table: TableVersion, ids: list[int], level: int) -> None:
    chosen = [r for r in table.runs if r.run.id in set(ids)]
    oldest_chosen = min(r.min_seq for r in chosen)
    others = [r for r in table.runs if r.run.id not in set(ids)]
    bottom = not any(r.min_seq < oldest_chosen for r in others)
    keep = needed_since(*oldest_needed(tree, table), bottom)
    batches = _merged(chosen, keep, table.physical, tree.config.sstable.batch_rows)
    first = next(batches, None)
    new: list[Run] = []
    if first is not None:
        new = [tree.write_run(table, _chain(first, batches), "compaction", level)]
    _replace(tree, table, ids, new)


def _chain(
    first: tuple[pa.RecordBatch, pa.Array], rest: Iterator[tuple[pa.RecordBatch, pa.Array]]
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    yield first
    yield from rest


def _merged(
    runs: list[RunSource], keep: object, physical: pa.Schema, rows: int
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    for window in windows(runs, keep):  # type: ignore[arg-type]
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


def _replace(tree: Tree, table: TableVersion, old: list[int], new: list[Run]) -> None:
    gone = set(old)
    kept_files = {f.number for run in new for f in run.files}

    tree.install([ops.replace_runs(table.state.id, old, new)])
    tree.forget([f for r in table.runs if r.run.id in gone for f in r.files if f.ref.number not in kept_files])
