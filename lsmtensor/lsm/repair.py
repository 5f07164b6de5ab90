"""Repair: what verifies of a damaged database goes to a new one, with its versions, and what does not is listed.

The damaged folder is only read. A table file that is whole is copied; of one that is not every row is taken whose bytes all verify.
Logs are read past damage, record by record. Where the manifest is damaged its good front counts; where there is none, tables are found
again in their files, which bear their schemas, and are called ``table-N``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from .. import container
from ..cache import Cache
from ..config import RunConfig
from ..env.base import Env
from ..errors import CorruptionError, FormatVersionError, LsmTensorError, NotADatabaseError, StorageError
from ..sstable.outside import Fetch, Reference
from ..sstable.reader import TableReader
from ..wal.reader import read_wal, salvage_wal
from . import commit as commits
from . import keyspace
from .blobs import BLOBS, Blobs
from .branch import make_branch
from .integrity import verify_tree
from .layout import FileRef, Layout, Run, TableState
from .maintenance import merged_batches
from .manifest import Edit, Manifest, edits, file_path, parse_file_name
from .merge import Batches
from .recover import open_tree, replay_record
from .source import RunSource, SortedTable, TableFile
from .tree import Tree

PIECE = 8 << 20


@dataclass
class Lost:
    """What could not be salvaged: where, what is wrong there, and the rows it cost (None where nobody knows)."""

    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, why: Exception | str, path: str, rows: int | None) -> None:
        place = why.offset if isinstance(why, CorruptionError) else 0
        told = why.message if isinstance(why, CorruptionError) else str(why)
        self.found.append({"path": path, "offset": place, "what": told, "rows": rows})


def repair(env: Env, path: str, new: str, config: RunConfig, system: dict[str, Any]) -> dict[str, Any]:
    """The body of `lsmtensor.repair`; ``system`` holds the schemas of the tables that have names of our own."""
    if not env.listdir(path):
        raise NotADatabaseError(f"{path} holds no database to repair")
    lost = Lost()
    number, last = _layout(env, path, lost, system)
    layout, rest = _whole_files(env, path, last.layout, lost)
    tree = Tree(env, path, config, Manifest(env, path, number, layout, None, last.links, last.end), read_only=True)
    _replay(tree, lost)
    for table_id, (run, ref, rows) in ((t, found) for t, many in rest.items() for found in many):
        _take(tree, table_id, run, ref, rows, lost)
    _merge(tree, [t for t in layout.tables.values() if not last.end or _torn(last.layout.tables[t.id], t)])
    version = make_branch(tree, new, None, lambda ref, old, copy: _copy(env, old, copy))
    made = open_tree(env, new, config, read_only=True)
    try:
        counts = verify_tree(made)
    finally:
        made.close()
    return {"version": version, "tables": len(layout.tables), "rows": counts["rows"], "lost": lost.found}


# -- the layout ----------------------------------------------------------------------------------


def _layout(env: Env, path: str, lost: Lost, system: dict[str, Any]) -> tuple[int, Edit]:
    """The newest layout that reads: of the manifest that ``CURRENT`` names, of another one, or made from the files."""
    try:
        number, last = Manifest.read(env, path)
    except (CorruptionError, StorageError, FormatVersionError) as why:
        lost.add(why, getattr(why, "path", "") or f"{path}/CURRENT", None)
    else:
        if _witnesses(env, path) <= (number, last.end):
            return number, last
        told = "the manifest ends here, and logs know of later edits: tables are what their files say"
        lost.add(CorruptionError(told, "", last.end), file_path(path, "manifest", number), None)
        return number, replace(last, end=0, layout=_from_files(env, path, lost, system, last.layout))
    numbers = sorted((p[1] for n in env.listdir(path) if (p := parse_file_name(n)) is not None and p[0] == "manifest"), reverse=True)
    for number in numbers:
        name, found = file_path(path, "manifest", number), None
        reader = env.open(name, kind="manifest")
        try:
            for edit in edits(reader.pread(0, reader.size), number, name):
                found = edit
        except (CorruptionError, FormatVersionError) as why:
            lost.add(why, name, None)
        if found is not None:
            return number, found
    return 1, Edit(0, 0, [], _from_files(env, path, lost, system), ("00" * 32, "00" * 32))


def _witnesses(env: Env, path: str) -> tuple[int, int]:
    """(number, length) of the manifest when the last log was closed, as the ends of logs tell it."""
    noted = (0, 0)
    for name in env.listdir(f"{path}/wal"):
        parsed = parse_file_name(name)
        if parsed is not None and parsed[0] == "wal":
            try:
                log = read_wal(env, f"{path}/wal/{name}", parsed[1])
                deque(log, maxlen=0)  # the note is at its end
                noted = max(noted, commits.read_note(log.note) or (0, 0))
            except (CorruptionError, FormatVersionError):
                continue  # it says nothing, and is told of when it is read
    return noted


def _from_files(env: Env, path: str, lost: Lost, system: dict[str, Any], before: Layout | None = None) -> Layout:
    """A layout of every table file that can be opened, and of every log; what an older layout says of a table counts."""
    tables = {t.id: replace(t, runs=(), flushed_seq=0) for t in before.tables.values()} if before is not None else {}
    for name in env.listdir(f"{path}/sst"):
        parsed = parse_file_name(name)
        if parsed is None or parsed[0] != "table":
            continue
        try:
            reader = TableReader(env, f"{path}/sst/{name}", parsed[1])
            ref = _described(reader)
            table_id, schema = int(reader.meta["table"]), reader.meta["schema"]
        except (LsmTensorError, KeyError) as why:
            lost.add(why, f"{path}/sst/{name}", None)
            continue
        called = next((name for name, ours in system.items() if ours == schema), f"table-{table_id}")
        state = tables.get(table_id) or TableState(table_id, called, schema, {"compaction": "none"} if called in system else {}, {}, (), 0, 0)
        runs = sorted((*state.runs, Run(ref.number, 0, (ref,))), key=lambda run: run.min_seq, reverse=True)
        tables[table_id] = replace(state, runs=tuple(runs))
    logs = tuple(p[1] for n in env.listdir(f"{path}/wal") if (p := parse_file_name(n)) is not None)
    newest = max((run.max_seq for t in tables.values() for run in t.runs), default=0)
    old = before or Layout()
    return replace(old, tables=tables, wals=logs, ends=(), version=newest, next_file=1 + max([0, *logs, *(r.id for t in tables.values() for r in t.runs)]))


def _described(reader: TableReader) -> FileRef:
    """What a layout says of a file, from the file itself. O(rows)."""
    rows = [reader.column(i, name).to_numpy() for i in range(reader.num_batches) for name in ("_seq", "_op")]
    seqs, ops = rows[::2], rows[1::2]
    ends = reader.first_key(0), reader.last_key(reader.num_batches - 1)
    deletes = sum(int((o == 0).sum()) for o in ops)
    size, root = reader.identity()
    return FileRef(reader.number, size, reader.rows, deletes, *ends, int(min(s.min() for s in seqs)), int(max(s.max() for s in seqs)), root, blobs=reader.blobs)


# -- table files ---------------------------------------------------------------------------------

Rest = dict[int, list[tuple[Run, FileRef, RunSource]]]


def _whole_files(env: Env, path: str, layout: Layout, lost: Lost) -> tuple[Layout, Rest]:
    """(the layout with only the files and segments that verify, the files that can be read in part)."""
    tables, rest = dict(layout.tables), Rest()
    fetch = _fetch(env, path, layout)
    for table in layout.tables.values():
        runs = []
        for run in table.runs:
            whole = []
            for ref in run.files:
                file = TableFile(env, file_path(path, "table", ref.number), ref, Cache(0), fetch)
                try:
                    file.reader.verify(ref.root)
                    whole.append(replace(ref, segments=tuple(s for s in ref.segments if all(_verifies(env, f"{path}/sst/{name}", lost) for name in s.names))))
                except (CorruptionError, FormatVersionError, StorageError) as why:
                    _say(why, file, run, ref, table, rest, lost)
            if whole:
                runs.append(replace(run, files=tuple(whole)))
        tables[table.id] = replace(table, runs=tuple(runs))
    return replace(layout, tables=tables), rest


def _fetch(env: Env, path: str, layout: Layout) -> Fetch:
    """Gets values outside from the damaged blob files too, as far as they verify."""

    def nothing(reference: Reference) -> np.ndarray:
        raise CorruptionError(f"a value of a blob file refers to another, {reference.id}")

    runs = [
        RunSource(run, [TableFile(env, file_path(path, "table", ref.number), ref, Cache(0), nothing) for ref in run.files], table.schema)
        for table in layout.tables.values() if table.name == BLOBS for run in table.runs
    ]  # fmt: skip
    blobs = Blobs(lambda: runs)

    def fetch(reference: Reference) -> np.ndarray:
        try:
            return blobs.fetch(reference)
        except (StorageError, FormatVersionError) as why:
            raise CorruptionError(f"value {reference.id} cannot be read ({why})") from why

    return fetch


def _say(why: Exception, file: TableFile, run: Run, ref: FileRef, table: TableState, rest: Rest, lost: Lost) -> None:
    try:
        file.reader.check_is(ref.size, ref.root)
    except LsmTensorError:
        lost.add(why, file.path, ref.rows)  # no part of it can be trusted
        return
    alone = replace(run, files=(replace(ref, segments=()),))
    rest.setdefault(table.id, []).append((run, ref, RunSource(alone, [file], table.schema)))


def _verifies(env: Env, path: str, lost: Lost) -> bool:
    try:
        container.unpack(env.open(path, kind="index").map(), where=path)
        return True
    except LsmTensorError as why:
        lost.add(why, path, 0)  # an index holds nothing of its own: it is built again
        return False


def _take(tree: Tree, table_id: int, run: Run, ref: FileRef, source: RunSource, lost: Lost) -> None:
    """The rows of a damaged file whose bytes verify, as a source of their own behind the memtables."""
    table = tree.state.tables[table_id]
    parts: list[pa.Table] = []
    reader = source.reader(0)
    taken = 0
    for i in range(source.num_batches):
        rows = int(reader.batch_starts[i + 1] - reader.batch_starts[i])
        for part in _rows(source, i, table.physical.names, 0, rows, lost, file_path(tree.path, "table", ref.number)):
            parts.append(part.cast(table.physical))
            taken += part.num_rows
    if not taken:
        return
    whole = pa.concat_tables(parts).combine_chunks()
    batch = whole.to_batches()[0]
    keys = table.codec.encode(pa.RecordBatch.from_arrays([batch.column(n) for n in table.schema.names], schema=table.schema.arrow))
    seqs = whole.column("_seq").to_numpy()
    found = _Salvaged(SortedTable(whole, keys), taken, int(seqs.min()), int(seqs.max()))
    tree.state = tree.state.with_table(replace(table, mems=(*table.mems, found)))  # type: ignore[arg-type]


def _torn(before: TableState, now: TableState) -> bool:
    """Whether a table lost files and had older versions apart, which are no longer behind all that is newer."""
    return any(r.behind for r in before.runs) and [r.files for r in before.runs] != [r.files for r in now.runs]


def _merge(tree: Tree, tables: Sequence[TableState]) -> None:
    """Everything becomes one run, each version of a key once: without a manifest nobody knows which rows of the logs are in files too."""

    def once(keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        again = keyspace.same_as_previous(keys)
        again[1:] &= seqs[1:] == seqs[:-1]
        return ~again

    for table in [tree.state.tables[t.id] for t in tables if t.name != BLOBS]:  # their keys are given once
        sources: list[Batches] = [*(m.sorted() for m in table.mems if m.rows), *table.every]
        pairs = list(merged_batches(sources, once, table.physical, tree.config.sstable.batch_rows, None, None))
        if pairs:
            whole = pa.Table.from_batches([batch for batch, _ in pairs]).combine_chunks()
            seqs = whole.column("_seq").to_numpy()
            merged = _Salvaged(SortedTable(whole, keyspace.concat([k for _, k in pairs])), whole.num_rows, int(seqs.min()), int(seqs.max()))
            tree.state = tree.state.with_table(replace(table, mems=(merged,), runs=(), behind=()))  # type: ignore[arg-type]


def _rows(source: RunSource, i: int, names: list[str], start: int, stop: int, lost: Lost, path: str) -> Iterator[pa.Table]:
    """Rows [start, stop) of a batch, halved where they do not verify; each piece that never does is told as lost."""
    try:
        yield source.columns(i, names, start, stop)
    except CorruptionError as why:
        if stop - start == 1:
            last = lost.found[-1] if lost.found else {}
            if (last.get("path"), last.get("offset")) == (path, why.offset):
                last["rows"] += 1
            else:
                lost.add(why, path, 1)
            return
        middle = (start + stop) // 2
        yield from _rows(source, i, names, start, middle, lost, path)
        yield from _rows(source, i, names, middle, stop, lost, path)


@dataclass(frozen=True)
class _Salvaged:
    """Rows in run order, as `make_branch` takes a memtable."""

    table: SortedTable
    rows: int
    min_seq: int
    max_seq: int

    def sorted(self) -> SortedTable:
        return self.table


# -- logs ----------------------------------------------------------------------------------------


def _replay(tree: Tree, lost: Lost) -> None:
    """The commits of every log that read, also those behind damage."""
    layout = tree.manifest.layout
    known = {f.number for t in layout.tables.values() for r in t.runs for f in r.files}
    for number in sorted(layout.wals):
        name = file_path(tree.path, "wal", number)
        declared: dict[tuple[int, int], Any] = {}
        try:
            end = 0
            for found in salvage_wal(tree.env, name, number):
                if isinstance(found, CorruptionError):
                    lost.add(found, name, None)
                    continue
                end = found.end
                try:
                    replay_record(tree, found, name, declared, known)
                except LsmTensorError as why:
                    lost.add(why, name, None)
            if end < dict(layout.ends).get(number, 0):
                lost.add(CorruptionError(f"the log ends here; it was closed with records up to {dict(layout.ends)[number]}", "", end), name, None)
        except StorageError as why:
            lost.add(why, name, None)
    tree.show(tree.logged)


def _copy(env: Env, old: str, new: str) -> None:
    data = env.open(old, kind="table").map()
    with env.create(new, kind="table", cause="repair") as file:
        for at in range(0, len(data), PIECE):
            file.write(data[at : at + PIECE])
        file.sync()
