"""Branches and checkpoints: another folder that shares the table files by hard links.

Files are immutable, so sharing is safe; each folder removes only its own names. A run that holds rows newer than the branch's
version is written again without them. ``CURRENT`` comes last: a crash before it leaves a half-made folder, which is made afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..errors import NotADatabaseError
from .blobs import BLOBS, Carrying, carried
from .layout import FileRef, Layout, Run, TableState, newest_first
from .maintenance import merged_batches
from .manifest import check_folder, create_folder, file_path
from .merge import Batches
from .output import Written, chains_of, write_files
from .source import RunSource, SortedTable

if TYPE_CHECKING:
    from .state import TableVersion
    from .tree import Tree


Place = Callable[[FileRef, str, str], object]
Blobs = Callable[[], "TableVersion"] | None


def make_branch(tree: Tree, path: str, version: int | None, place: Place | None = None) -> int:
    """A new database at ``path`` from ``tree`` at a version (its newest by default), which is returned.

    ``place`` puts a file of ours, or a segment over it, at its new name: a hard link unless given. O(files) links, and what
    must be rewritten.
    """
    env = tree.env
    place = place or (lambda ref, old, new: env.link(old, new))
    if check_folder(env, path):
        raise NotADatabaseError(f"{path} already holds a database; choose an empty or new folder for the branch")
    if not tree.read_only:
        tree.flush()
    with tree.maintaining(), tree.editing():  # files stay while they are linked
        state, visible = tree.head()
        limit = visible if version is None else version
        env.mkdir(path)
        for folder in ("wal", "sst", "blob", "readers"):
            env.mkdir(f"{path}/{folder}")
        tables: dict[int, TableState] = {}
        beside: list[Run] = []
        kept = state.by_name(BLOBS)
        blobs = None if kept is None else lambda: kept
        numbers = count(tree.next_file())
        for table in state.tables.values():
            if table.state.created > limit:
                continue
            table = table.whole.at(limit).keeping(0)
            runs: list[Run] = []
            for group in _groups(table):
                if max(source.max_seq for source in group) <= limit:
                    for file in (file for source in group for file in source.files):
                        _placed(tree, path, file.ref, place)
                    runs += [source.run for source in group]
                elif min(source.min_seq for source in group) <= limit:
                    made = _without_newer(tree, path, table, group, limit, numbers.__next__, blobs)
                    runs += _runs(made.files, group[0].run.level)
                    beside += made.blobs
            # a reader cannot flush: what it has from the log only is written here
            for mem in table.mems:
                if mem.rows and mem.min_seq <= limit:
                    made = _without_newer(tree, path, table, [mem.sorted()], limit, numbers.__next__, blobs)
                    runs += _runs(made.files, 0)
                    beside += made.blobs
            tables[table.state.id] = replace(table.state, runs=tuple(newest_first(runs)), flushed_seq=limit)
        if kept is not None and beside:
            here = tables[kept.state.id]
            tables[here.id] = replace(here, runs=tuple(newest_first((*here.runs, *beside))))
        env.sync_dir(f"{path}/sst")
        old = state.layout
        tags = {name: v for name, v in old.tags.items() if v <= limit}
        times = tuple(mark for mark in tree.times() if mark[0] <= limit)
        last = times[-1][1] if times else old.time_ns
        layout = Layout(
            tables=tables, next_file=next(numbers), tags=tags, version=limit, time_ns=last, times=times[-4096:], root=old.root
        )
        create_folder(env, path, layout)
        return limit


def _groups(table: TableVersion) -> list[list[RunSource]]:
    """The runs, each with what is behind it: the newest versions of its keys may be cut away, so that the others come before."""
    there = {run.id for run in table.runs}
    heads = [run for run in table.runs if run.behind not in there]
    return [[head, *(run for run in table.runs if run.behind == head.id)] for head in heads]


def _placed(tree: Tree, path: str, ref: FileRef, place: Place) -> None:
    place(ref, file_path(tree.path, "table", ref.number), file_path(path, "table", ref.number))
    for name in {name for segment in ref.segments for name in segment.names}:
        if not tree.env.exists(f"{path}/sst/{name}"):  # codebooks are shared
            place(ref, f"{tree.path}/sst/{name}", f"{path}/sst/{name}")


def _without_newer(
    tree: Tree, path: str, table: TableVersion, sources: Sequence[RunSource | SortedTable], limit: int, number: Callable[[], int], blobs: Blobs
) -> Written:
    def older(keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        return np.asarray(seqs <= limit)

    kinds = carried(table, [s for s in sources if isinstance(s, RunSource)], chains_of(table, tree.config, "branch"))
    parts: list[Batches] = [Carrying(s, kinds) if isinstance(s, RunSource) else s for s in sources]
    batches = merged_batches(parts, older, table.physical, tree.config.sstable.batch_rows, None, None)
    first = next(batches, None)
    if first is None:
        return Written((), ())
    return write_files(tree.env, path, tree.config, table, chain([first], batches), "branch", 0, number, blobs)


def _runs(files: tuple[FileRef, ...], level: int) -> list[Run]:
    return [Run(files[0].number, level, files)] if files else []
