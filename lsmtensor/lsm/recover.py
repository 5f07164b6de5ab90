"""Opening a folder: layout, then logs, then a sweep of what nobody refers to.

Costs O(manifest + unflushed log). Nothing is deleted before the manifest, the logs and the files
agree on the highest file number and version (design part 5).
"""

from __future__ import annotations

import struct
from typing import Any

from ..config import RunConfig
from ..env.base import Env
from ..errors import CorruptionError, FormatVersionError, LsmTensorError, StorageError
from ..wal.format import ROWS
from ..wal.reader import LogReader, WalRecord, read_wal, seal_wal
from . import commit as commits
from . import readers, short
from .columns import MADE
from .layout import Run
from .manifest import Manifest, file_path, parse_file_name
from .tree import Tree

READER_ATTEMPTS = 100
FOLDERS = ("wal", "sst", "blob", "readers")


def open_tree(env: Env, path: str, config: RunConfig, *, read_only: bool) -> Tree:
    """The tree of a folder whose manifest is there; the caller holds the folder's lock unless ``read_only``.

    A reader says that it is there before it looks, so that a writer keeps the files it may read of. One that cannot, or that finds a log grown, looks again
    where the layout has changed.
    """
    if not read_only:
        return _open(env, path, config, read_only)
    pin = readers.register(env, path, None)
    try:
        for _ in range(READER_ATTEMPTS):
            seen = _layout_place(env, path)
            try:
                return _open(env, path, config, read_only)
            except (CorruptionError, StorageError):
                if _layout_place(env, path) == seen:
                    raise
    finally:
        readers.release(env, pin)
    raise StorageError(f"{path} changes faster than it can be read; try again")


def _layout_place(env: Env, path: str) -> tuple[str, int]:
    """(name of the manifest, its length): what changes with every layout edit."""
    try:
        current = env.open(f"{path}/CURRENT", kind="current")
        name = current.pread(0, min(current.size, 64)).decode("ascii", "replace").strip()
        return name, env.size(f"{path}/{name}")
    except (CorruptionError, StorageError):
        return "", 0


def _open(env: Env, path: str, config: RunConfig, read_only: bool) -> Tree:
    manifest = Manifest.open(env, path, read_only=read_only)
    try:
        return _opened(env, path, config, read_only, manifest)
    except LsmTensorError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError, struct.error) as why:
        # its checksums are right: somebody made it so
        raise CorruptionError(f"the layout describes no database ({why!r})", file_path(path, "manifest", manifest.place[0]), 0) from why


def _opened(env: Env, path: str, config: RunConfig, read_only: bool, manifest: Manifest) -> Tree:
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
            for source in opened.every:
                for file in source.files:
                    _ = file.reader
        return tree
    _check_strays(tree)
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
        log = read_wal(env, name, number, layout.id)
        last = 0
        declared: dict[tuple[int, int], Any] = {}  # row formats whose schema the log told
        for record in log:
            last = record.version
            for table_id, run, new in replay_record(tree, record, name, declared, known):
                highest = max(highest, *(f.number + 1 for f in run.files))
                if new:
                    added.append((table_id, run))
        tree.note_log(number, last)
        _check_ends(tree, log, dict(layout.ends).get(number, 0))
        if not tree.read_only and not log.sealed:
            # what was read here must not be lost later while newer commits survive
            seal_wal(env, name, log)
        if number not in dict(layout.ends):
            tree.ended.append((number, log.records_end))
    tree.recovered_runs = added
    tree.show(tree.logged)
    return highest


def replay_record(
    tree: Tree, record: WalRecord, name: str, declared: dict[tuple[int, int], Any], known: set[int]
) -> list[tuple[int, Run, bool]]:  # fmt: skip
    """Put what no run holds of a commit into memtables; answers the runs that it refers to, and whether each was new to the layout."""
    tree.logged = max(tree.logged, record.version)
    tree.clock_floor(record.time_ns)
    if record.version > tree.manifest.layout.version:
        tree.note_time(record.version, record.time_ns)
    if record.kind == ROWS:
        old = short.replay(tree, declared, record.payload, record.version, path=name, offset=record.offset)
        change = commits.Commit(parts=old)
    else:
        change = commits.decode(record.payload, path=name, offset=record.offset)
    for table_id, batch in change.parts:
        table = short.known_table(tree, table_id, record.version, name, record.offset)
        if table is not None and record.version > table.state.flushed_seq:
            rows = commits.with_seq(batch, record.version)
            table.mems[0].memtable.add(rows, table.codec.encode(batch), record.version)
    runs = []
    for table_id, entry in change.runs:
        table = short.known_table(tree, table_id, record.version, name, record.offset)
        run = Run.from_dict(entry)
        new = table is not None and record.version > table.state.flushed_seq and not {f.number for f in run.files} & known
        if table is not None and record.version > table.state.flushed_seq:
            # memtable rows older than the run must stay a source of their own, below it, and newer ones one above it
            tree.seal(table_id)
        if new:
            tree.adopt_run(table_id, run)
        runs.append((table_id, run, new))
    return runs


def _check_ends(tree: Tree, log: LogReader, end: int) -> None:
    """Closed, the layout says where the log ended, and the log how long the manifest was."""
    if log.records_end < end:
        raise CorruptionError(f"the log ends here; it was closed with records up to {end}, and those commits are lost", log.path, log.records_end)
    noted = commits.read_note(log.note)
    if noted is not None and noted > tree.manifest.place:
        raise CorruptionError(
            f"the manifest ends here; when log {log.number} was closed it was number {noted[0]} with {noted[1]} bytes: layout edits are lost",
            *_end_of_manifest(tree),
        )  # fmt: skip


def _check_strays(tree: Tree) -> None:
    """A log with commits that the layout never heard of: the manifest has lost the edit that named it."""
    for path in orphans(tree):
        parsed = parse_file_name(path.rpartition("/")[2])
        if parsed is not None and parsed[0] == "wal":
            try:
                newest = max((record.version for record in read_wal(tree.env, path, parsed[1])), default=0)
            except (CorruptionError, FormatVersionError):
                continue  # cut short by a crash before its first commit, or damaged after its last was flushed
            if newest > tree.manifest.layout.version:
                raise CorruptionError(
                    f"the manifest ends at version {tree.manifest.layout.version} and does not name {path}, which holds commits up to {newest}: "
                    "layout edits are lost", *_end_of_manifest(tree),
                )  # fmt: skip


def _end_of_manifest(tree: Tree) -> tuple[str, int]:
    """(path, length) of the manifest."""
    number, length = tree.manifest.place
    return file_path(tree.path, "manifest", number), length


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
                live.update(n for s in file.segments for name in s.names if (n := _number(name)) is not None)
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
