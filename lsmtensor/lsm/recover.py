"""Opening a folder: layout, then logs, then a sweep of what nobody refers to.

Costs O(manifest + unflushed log). Nothing is deleted before the manifest, the logs and the files
agree on the highest file number and version (design part 5).
"""

from __future__ import annotations

from typing import Any

from ..config import RunConfig
from ..env.base import Env
from ..errors import CorruptionError
from ..wal.format import ROWS
from ..wal.reader import read_wal, seal_wal
from . import commit as commits
from . import short
from .columns import MADE
from .layout import Run
from .manifest import Manifest, file_path, parse_file_name
from .tree import Tree

FOLDERS = ("wal", "sst", "blob", "readers")


def open_tree(env: Env, path: str, config: RunConfig, *, read_only: bool) -> Tree:
    """The tree of a folder whose manifest is there; the caller holds the folder's lock unless ``read_only``."""
    manifest = Manifest.open(env, path, read_only=read_only)
    for table in manifest.layout.tables.values():
        for run in table.runs:
            for ref in run.files:
                # an index can be built again, a column that a function made cannot
                made = [f"{path}/sst/{s.file}" for s in ref.segments if s.index.startswith(MADE)]
                for name in [file_path(path, "table", ref.number), *made]:
                    if not env.exists(name):
                        raise CorruptionError(f"the file of {ref.rows} rows of table {table.name!r} is missing", name, 0)
    tree = Tree(env, path, config, manifest, read_only=read_only)
    highest = _replay(tree)
    if read_only:
        # a reader that cannot pin files holds them open instead
        for opened in tree.head()[0].tables.values():
            for source in opened.runs:
                for file in source.files:
                    _ = file.reader
        return tree
    for folder in FOLDERS:
        env.mkdir(f"{path}/{folder}")
    numbers = [n for folder in FOLDERS[:3] for name in env.listdir(f"{path}/{folder}") if (n := _number(name)) is not None]
    tree.begin(max([highest, manifest.layout.next_file, *(n + 1 for n in numbers)]))
    sweep(tree)
    return tree


def _replay(tree: Tree) -> int:
    """Put the logs' commits that no run holds into memtables; returns the first free file number."""
    env, path, layout = tree.env, tree.path, tree.manifest.layout
    known = {f.number for t in layout.tables.values() for r in t.runs for f in r.files}
    highest = layout.next_file
    added: list[tuple[int, Run]] = []
    for number in sorted(layout.wals):
        name = file_path(path, "wal", number)
        if not env.exists(name):
            raise CorruptionError("the log is missing: the commits in it are lost unless the file is put back", path=name, offset=0)
        log = read_wal(env, name, number)
        last = 0
        declared: dict[tuple[int, int], Any] = {}  # row formats whose schema the log told
        for record in log:
            last = record.version
            tree.logged = max(tree.logged, record.version)
            tree.clock_floor(record.time_ns)
            if record.version > layout.version:
                tree.note_time((record.version, record.time_ns))
            if record.kind == ROWS:
                old = short.replay(tree, declared, record.payload, record.version, path=name, offset=record.offset)
                change = commits.Commit(parts=old)
            else:
                change = commits.decode(record.payload, path=name, offset=record.offset)
            for table_id, batch in change.parts:
                table = tree.state.tables.get(table_id)
                if table is not None and record.version > table.state.flushed_seq:
                    rows = commits.with_seq(batch, record.version)
                    table.mems[0].memtable.add(rows, table.codec.encode(batch), record.version)
            for table_id, entry in change.runs:
                table = tree.state.tables.get(table_id)
                run = Run.from_dict(entry)
                numbers = {f.number for f in run.files}
                highest = max(highest, *(n + 1 for n in numbers))
                if table is not None and record.version > table.state.flushed_seq:
                    # memtable rows older than the run must stay a source of their own, below it, and newer ones one above it
                    tree.seal(table_id)
                    if not numbers & known:
                        tree.adopt_run(table_id, run)
                        added.append((table_id, run))
        tree.note_log(number, last)
        if not tree.read_only and not log.sealed:
            # what was read here must not be lost later while newer commits survive
            seal_wal(env, name, log)
    tree.recovered_runs = added
    tree.show(tree.logged)
    return highest


def _number(name: str) -> int | None:
    parsed: Any = parse_file_name(name)
    return None if parsed is None else int(parsed[1])


def orphans(tree: Tree) -> list[str]:
    """Files of ours in the folder that no layout, log or open view refers to."""
    layout = tree.state.layout
    live = set(layout.wals)
    for table in layout.tables.values():
        for run in table.runs:
            for file in run.files:
                live.add(file.number)
                live.update(s.number for s in file.segments)
    found = []
    for folder in FOLDERS[:3]:
        base = f"{tree.path}/{folder}"
        for name in tree.env.listdir(base):
            number = _number(name)
            if number is not None and number not in live:
                found.append(f"{base}/{name}")
    return found


def sweep(tree: Tree) -> None:
    for path in orphans(tree):
        tree.env.unlink(path)
