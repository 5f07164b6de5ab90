"""Where the bytes of a database are, and why: rows that a reader of now sees, rows kept for the past, garbage, files of nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..errors import LsmTensorError
from . import blobs
from .manifest import file_path
from .marks import marks_of
from .recover import orphans
from .retention import oldest_needed
from .source import MemSource
from .state import View

if TYPE_CHECKING:
    from .tree import Tree


def report(tree: Tree) -> dict[str, Any]:
    """The body of `Database.space_report`. O(rows) over keys; values are not read."""
    state, version = tree.head()
    rows = [entry for table in state.tables.values() for entry in _of_table(tree, View(table.whole, version))]
    names = ("table", "what", "rows", "bytes")
    table = pa.table({n: [r[i] for r in rows] for i, n in enumerate(names)} if rows else {n: [] for n in names})
    logs = sum(size_of(tree, file_path(tree.path, "wal", number)) for number in state.layout.wals)
    stray = {path: size_of(tree, path) for path in orphans(tree)}
    return {
        "tables": table, "live_bytes": _sum(rows, "live"), "history_bytes": _sum(rows, "history"), "garbage_bytes": _sum(rows, "garbage"),
        "index_bytes": _sum(rows, "indexes"), "log_bytes": logs, "stray_bytes": sum(stray.values()), "stray_files": sorted(stray),
    }  # fmt: skip


def _of_table(tree: Tree, view: View) -> list[tuple[str, str, int, int]]:
    """(table, what, rows, bytes); bytes of a file are dealt to its rows alike."""
    name = view.table.state.name
    oldest, pinned = oldest_needed(tree, view.table)
    rows = {"live": 0, "history": 0, "deletes": 0, "garbage": 0}
    size = {"live": 0.0, "history": 0.0, "deletes": 0.0, "garbage": 0.0}
    memory, segments = 0, set[str]()
    if name == blobs.BLOBS:
        used = blobs.used(blobs.held(tree))
        for run in view.table.runs:
            count, held = used.get(blobs.file_of(run.run), (0, 0))
            rows["live"], size["live"] = rows["live"] + min(count, run.rows), size["live"] + min(held, run.run.bytes)
        rows["garbage"], size["garbage"] = sum(r.rows for r in view.table.runs) - rows["live"], sum(r.run.bytes for r in view.table.runs) - size["live"]
        return [(name, kind, rows[kind], round(size[kind])) for kind in rows]
    for number, source in enumerate(view.sources):
        if isinstance(source, MemSource):
            memory += source.memtable.nbytes
            continue
        marks, newer = marks_of(source), view.sources[:number]
        marks.resolve(source, newer, max([view.version, *(s.max_seq for s in newer)]))
        deletes = np.concatenate([source.ops(i) for i in range(source.num_batches)]) == 0
        live = (marks.seqs <= view.version) & (view.version < marks.dead)
        needed = (marks.dead > oldest) & ~deletes
        for point in pinned:
            needed |= (marks.seqs <= point) & (point < marks.dead)
        kinds = {"live": live, "history": needed & ~live, "deletes": deletes, "garbage": ~needed & ~live & ~deletes}
        width = sum(f.ref.size for f in source.files) / max(1, source.rows)
        for kind, mask in kinds.items():
            count = int(np.count_nonzero(mask))
            rows[kind] += count
            size[kind] += count * width
        segments |= {name for f in source.files for s in f.ref.segments for name in s.names}
    indexes = sum(size_of(tree, f"{tree.path}/sst/{name}") for name in segments)
    made = [(name, kind, rows[kind], round(size[kind])) for kind in rows]
    return [*made, (name, "indexes", 0, indexes), (name, "memtable", sum(m.rows for m in view.table.mems), memory)]


def _sum(rows: list[tuple[str, str, int, int]], what: str) -> int:
    return sum(size for _, kind, _, size in rows if kind == what)


def size_of(tree: Tree, path: str) -> int:
    try:
        return tree.env.size(path)
    except LsmTensorError:
        return 0  # gone since


def collect(tree: Tree, dry_run: bool) -> list[str]:
    """Remove the files that neither the layout, nor a log, nor an open view of this process refers to; answers their paths.

    They come of crashes: what is superseded is removed when its last reader lets go.
    """
    with tree.maintaining(alone=True), tree.editing():  # a bulk commit's files are not in the layout yet
        opened = blobs.held(tree)
        held = {f.path for f in opened} | {f"{tree.path}/sst/{n}" for f in opened for s in f.ref.segments for n in s.names}
        found = [path for path in orphans(tree) if path not in held]
        if not dry_run:
            for path in found:
                tree.env.unlink(path)
        return found


def io_table(counters: dict[str, int]) -> pa.Table:
    """The counters ``io.WHAT.KIND[.CAUSE]`` as rows, in order."""
    rows = [(*name.split(".")[1:], None)[:3] + (amount,) for name, amount in counters.items() if name.startswith("io.")]
    types = {"what": pa.string(), "kind": pa.string(), "cause": pa.string(), "amount": pa.int64()}
    return pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(types.items())})
