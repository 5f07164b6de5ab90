"""What a user opens: a folder as a `Database`, and its past as `Snapshot`s."""

from __future__ import annotations

import copyreg
import os
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import sleep
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from . import notebook
from .config import RunConfig
from .copies import local_env
from .env.base import Env
from .errors import (
    ConflictError,
    InvalidArgumentError,
    NotADatabaseError,
    ReadOnlyError,
    UnknownNameError,
    VersionExpiredError,
)
from .lsm import past, readers, retention, space
from .lsm.backup import make_backup
from .lsm.blobs import BLOBS
from .lsm.branch import make_branch
from .lsm.indexing import index_due
from .lsm.integrity import root_of, verify_tree
from .lsm.maintenance import compact_all
from .lsm.manifest import check_folder, create_folder
from .lsm.recover import open_tree
from .lsm.scrub import Scrub
from .lsm.segments import prefetch
from .lsm.state import State
from .lsm.stats import Stats, stats_of
from .lsm.tree import Tree
from .lsm.unique import CLAIMS
from .lsm.worker import Worker
from .metrics import Counters
from .registry import near
from .schema import Schema
from .search import declare
from .snapshot import Container, HeadStore, Snapshot
from .table import Table, TableView
from .tensors import Tensors
from .transaction import Transaction
from .transfer import schema_of

Indexes = Mapping[str, Any]
T = TypeVar("T")


def open(  # noqa: A001 - the name users know
    path: str | os.PathLike[str], mode: str = "a", *, config: RunConfig | None = None, env: Env | None = None
) -> Database:
    """Open a database folder.

    ``mode``: ``"a"`` opens or creates, ``"x"`` only creates, ``"r"`` reads beside a writer (`Database.refresh`
    follows it). ``env`` is a file system; the local one by default. O(manifest + unflushed log).

    Raises `NotADatabaseError` for a folder with other things in it, `LockedError` when another process
    writes there, `FormatVersionError` when newer code wrote it, `CorruptionError` for damage.
    """
    if mode not in ("a", "x", "r"):
        raise InvalidArgumentError(f"mode={mode!r}; give 'a' (open or create), 'x' (create only) or 'r' (read only)")
    return Database(env or local_env(), os.fspath(path), mode, config or RunConfig())


class Database(Container):
    """An open folder. A context manager; safe to share between threads."""

    def __init__(self, env: Env, path: str, mode: str, config: RunConfig) -> None:
        self.path, self.mode, self.config, self._env = path, mode, config, env
        read_only, self._lock = mode == "r", None
        exists = check_folder(env, path)
        if mode == "x" and exists:
            raise NotADatabaseError(f"{path} already holds a database; open it with mode='a', or choose another folder")
        if read_only and not exists:
            raise NotADatabaseError(f"{path} holds no database to read; create one with lsmtensor.open({path!r})")
        if not read_only:
            env.mkdir(path)
            self._lock = env.lock(f"{path}/LOCK")
        try:
            if not exists:
                create_folder(env, path)
            self._tree = open_tree(env, path, config, read_only=read_only)
            prefetch(self._tree)
            self._arrays = HeadStore(self._tree)
        except BaseException:
            if self._lock is not None:
                self._lock.close()
            raise
        self._worker = Worker(self._tree) if config.background and not read_only else None
        self._pin = readers.register(env, path, self.version) if read_only else None
        self._finalizer = weakref.finalize(self, _release, self._tree, self._worker, self._lock, self._env, self._pin)
        _OPEN.add(self)

    # -- tables ----------------------------------------------------------------------------------

    def _state(self) -> State:
        return self._tree.head()[0]

    def __getitem__(self, name: str) -> Table:
        return self._table(self._find(name))

    def _table(self, number: int) -> Table:
        table = Table(self._tree, number)
        table._keeps = self  # lsmtensor.open(path)["docs"] keeps the database open
        return table

    def create_table(
        self,
        name: str,
        schema: Schema,
        *,
        indexes: Indexes | None = None,
        history: str | int | None = None,
        compaction: str | None = None,
        ttl: Any = None,
        unique: str | Sequence[str | Sequence[str]] = (),
    ) -> Table:
        """A new, empty table; one commit.

        ``indexes`` maps a column to an index spec or a list of them (``"hnsw(m=16, metric=cosine)"``).
        ``history`` is ``"one_day"`` unless given: ``"none"``, a number of versions, a duration, ``"forever"``.
        ``ttl`` lets rows expire: a duration from their commit on (``"7d"``, a timedelta), or from the time in a column (``{"created": "7d"}``). What
        has expired is judged at the commit time of the version that is read: rows go as commits come, the past keeps them.
        ``unique`` names columns, or groups of them, whose values no two rows share: ``["email", ("first", "last")]``.
        """
        number = declare.create_table(
            self._tree, name, schema, indexes or {}, history=history, compaction=compaction, ttl=ttl, unique=unique
        )  # fmt: skip
        return self._table(number)

    def import_table(
        self, name: str, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], primary_key: str | Sequence[str], *,
        indexes: Indexes | None = None, sorted: bool = False, format: str | None = None,
    ) -> Table:  # fmt: skip
        """A new table with the columns of a Parquet, Arrow or CSV file, or the first of several, and the rows of all; see `Table.load`.

        Where loading fails there is no table.
        """
        paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        if not paths:
            raise InvalidArgumentError("import_table: no files; give one path or several")
        table = self.create_table(name, schema_of(os.fspath(paths[0]), primary_key, format), indexes=indexes)
        try:
            table.load(paths, sorted=sorted, format=format)
        except BaseException:
            self.drop_table(name)
            raise
        return table

    def drop_table(self, name: str) -> None:
        """Remove a table and its files; snapshots that hold it go on reading."""
        number = self._find(name)
        claims = self._state().tables[number].state.options.get("unique", [])
        for table in [number, *(rule["table"] for rule in claims)]:
            self._tree.drop_table(table)

    @property
    def tensors(self) -> Tensors:
        """Named arrays: ``db.tensors["layer1/weight"] = w``."""
        return Tensors(self._arrays)

    # -- versions --------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The number of the newest visible commit; 0 for an empty database."""
        return self._tree.head()[1]

    @property
    def oldest_version(self) -> int:
        """The oldest version that every table still has whole."""
        state, visible = self._tree.head()
        versions = [
            retention.oldest_version(self._tree, t.options.get("history", retention.DEFAULT), visible)
            for t in state.layout.tables.values()
            if not t.name.startswith((CLAIMS, BLOBS))
        ]
        return max(versions, default=0)

    def snapshot(self) -> Snapshot:
        """The database as it is now, for as long as the snapshot lives."""
        state, version = self._tree.head()
        return Snapshot(self._tree, state, version)

    def at(self, *, version: int | None = None, tag: str | None = None, time: datetime | int | None = None) -> Snapshot:
        """The database as it was at a version, a tag or a time (a datetime, or ns since 1970), search included.

        Raises `VersionExpiredError` below `oldest_version` and for a time before the first commit.
        """
        state, visible = self._tree.head()
        if sum(x is not None for x in (version, tag, time)) != 1:
            raise InvalidArgumentError("give exactly one of version=, tag= and time=")
        tags = state.layout.tags
        if tag is not None:
            if tag not in tags:
                raise UnknownNameError(f"no tag named {tag!r}; {near(tag, tags)}")
            return Snapshot(self._tree, state, tags[tag])
        wanted = past.version_at(self._tree, time) if time is not None else version
        assert wanted is not None
        past.check_version(self._tree, wanted, visible, self.oldest_version, tags)
        return Snapshot(self._tree, state, int(wanted))

    def transaction(self, *, serializable: bool = False) -> Transaction:
        """A block whose writes are all made or none: ``with db.transaction() as txn: txn["docs"].upsert(…)``."""
        self._tree.check_writable()
        state, version = self._tree.head()
        return Transaction(self._tree, state, version, serializable)

    def transact(self, work: Callable[[Transaction], T], *, attempts: int = 10, serializable: bool = False) -> T:
        """Run ``work(txn)`` and commit; when another writer was first, again from a new snapshot, at most ``attempts`` times.

        Answers what ``work`` does. It must not have effects of its own: it may run several times.
        """
        if attempts < 1:
            raise InvalidArgumentError(f"attempts={attempts}; give at least 1")
        for attempt in range(attempts):
            try:
                with self.transaction(serializable=serializable) as txn:
                    return work(txn)
            except ConflictError:
                if attempt + 1 == attempts:
                    raise
                # waits grow and differ, so that the same two do not meet again
                sleep(random.uniform(0, 0.001 * 2 ** min(attempt, 7)))
        raise AssertionError("unreachable")  # pragma: no cover

    def diff(self, v1: int, v2: int | None = None) -> dict[str, pa.Table]:
        """What changed after version ``v1`` up to ``v2`` (now by default): for each changed table its rows as they are at
        ``v2`` (of deleted ones only the key) with ``_change``: insert, update or delete. O(rows written in between).
        """
        found = {}
        with self.at(version=self.version if v2 is None else v2) as late:
            if v1 > late.version:
                raise InvalidArgumentError(f"diff({v1}, {late.version}): give the older version first")
            with self.at(version=v1) as early:
                for name in late.tables:
                    before = early[name]._view() if name in early else None
                    table = past.diff_of(before, late[name]._view())
                    if table.num_rows:
                        found[name] = table
        return found

    def space_report(self) -> dict[str, Any]:
        """Where the bytes are. ``tables`` (Arrow): table, what, rows, bytes, with what ``live`` (seen now), ``history`` (kept for the
        retention, tags and snapshots), ``deletes``, ``garbage`` (the next merge drops it), ``indexes``, ``memtable``. Beside it
        the sums, the logs, and ``stray_files`` that nothing refers to. Bytes of a file are dealt to its rows alike. O(rows).
        """
        return space.report(self._tree)

    def collect_garbage(self, *, dry_run: bool = False) -> list[str]:
        """Remove files that nothing refers to, as crashes leave them; with ``dry_run`` only name them. Every open does so too."""
        if not dry_run:
            self._tree.check_writable()
        return space.collect(self._tree, dry_run)

    def pins(self) -> list[dict[str, Any]]:
        """What keeps old versions readable: tags, open snapshots and transactions here, readers in other processes."""
        state, _ = self._tree.head()
        held = [{"kind": "tag", "name": name, "version": version} for name, version in sorted(state.layout.tags.items())]
        held += [{"kind": "snapshot", "name": type(s).__name__, "version": s.version} for s in self._tree.holders()]
        return held + [{"kind": "reader", **reader} for reader in readers.listed(self._env, self.path)]

    def root(self, version: int | None = None) -> str:
        """The root of the hash tree over the newest layout, which holds every commit (flushes first); with ``version``
        the recorded root of the layout that was in force then."""
        if version is None:
            return root_of(self._tree)
        state, visible = self._tree.head()
        past.check_version(self._tree, version, visible, 0, {})
        known = [(v, root) for v, root in state.layout.roots if v <= version]
        if not known:
            raise VersionExpiredError(f"no root is recorded for version {version}; the oldest is of version {state.layout.roots[0][0]}")
        return known[-1][1]

    def branch(self, path: str | os.PathLike[str], version: int | None = None) -> None:
        """A database of its own at ``path`` that goes on from a version (now by default), by hard links: files that hold
        newer rows too are written again without them. Open it with `lsmtensor.open`; neither sees the other's writes.
        """
        state, visible = self._tree.head()
        if version is not None:
            past.check_version(self._tree, version, visible, self.oldest_version, state.layout.tags)
        make_branch(self._tree, os.fspath(path), version)

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """A copy of the database as it is now, by hard links: no bytes are copied on the same file system."""
        self.branch(path)

    def backup(self, folder: str | os.PathLike[str]) -> dict[str, int]:
        """Add a backup of the database as it is now to ``folder``: only files that the last backup there lacks are copied.

        Answers its number, its version, its files and what of them was copied. Each backup is a whole database that
        `lsmtensor.open` reads and that may be removed by itself. Copies are synced; the folder may be on another disk.
        """
        return make_backup(self._tree, os.fspath(folder))

    def tag(self, name: str) -> int:
        """Name the current version and keep it readable; returns it."""
        return retention.tag(self._tree, name)

    # -- care ------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write memtables to table files; returns when they are durable."""
        self._tree.flush()

    def compact(self, table: str | None = None, *, start: Any = None, stop: Any = None) -> None:
        """Merge every table, or one, into one run and build its index segments.

        With ``start`` and ``stop`` (keys of ``table``) only the runs that hold keys in [start, stop).
        """
        if table is None and (start is not None or stop is not None):
            raise InvalidArgumentError("compact(start=, stop=) needs the table whose keys they are: compact('docs', start=…)")
        self._tree.seal_all()
        if table is None:
            compact_all(self._tree)
        else:
            number = self._find(table)
            codec = self._state().tables[number].codec
            first, last = (None if key is None else codec.bound(key) for key in (start, stop))
            compact_all(self._tree, [number], first, last)
        with self._tree.maintaining():
            index_due(self._tree)

    def pause_compaction(self) -> None:
        """Merge nothing in the background until `resume_compaction`; a merge in hand is finished. Runs pile up meanwhile."""
        self._tree.check_writable()
        self._tree.compaction_paused = True

    def resume_compaction(self) -> None:
        """Go on merging, with what piled up first."""
        self._tree.check_writable()
        self._tree.compaction_paused = False
        self._tree.on_work()

    def refresh(self) -> int:
        """In mode ``"r"``: follow the writer to its newest version, which is returned."""
        if self.mode != "r":
            raise ReadOnlyError("refresh() is for databases opened with mode='r'; a writer always sees its own commits")
        fresh = open_tree(self._env, self.path, self.config, read_only=True)
        self._tree.become(fresh)
        old, self._pin = self._pin, readers.register(self._env, self.path, self.version)
        readers.release(self._env, old)
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _release, self._tree, self._worker, self._lock, self._env, self._pin)
        return self.version

    def _after_fork(self) -> None:
        """In the child of a fork: a reader of the version that was current, without the parent's lock and threads."""
        self._finalizer.detach()
        if self._lock is not None:
            self._lock.close()  # closes the descriptor; the lock stays the parent's
        self._lock, self._worker, self._pin, self.mode = None, None, None, "r"
        self._tree.become_reader()
        self._finalizer = weakref.finalize(self, _release, self._tree, None, None, self._env, None)

    def verify(self, progress: Callable[[int], None] | None = None) -> dict[str, int]:
        """Check every byte of every file against its checksums and hash trees.

        Returns counts: files, bytes, rows. ``progress`` gets the bytes of each piece as it was checked. Raises `CorruptionError` at
        the first damage. O(bytes).
        """
        return verify_tree(self._tree, progress)

    def scrub(self, rate: float = 20e6) -> Scrub:
        """`verify` in the background at ``rate`` bytes a second, past the first damage: ``db.scrub().wait()`` gives what was found.

        Bytes that the system has in its cache are read from there, not from the disk.
        """
        return Scrub(self._tree, rate)

    def stats(self, *, deep: bool = False) -> Stats:
        """What is held and what was done since the open: a mapping, and with ``to_arrow()`` one table of it all.

        The table has write amplification by cause, read amplification, bytes held and written by kind of file, filter and cache hits, seconds of stalls,
        latencies as histograms. ``deep`` adds space amplification by cause: live, history, deletes, garbage, indexes, logs; O(rows).
        """
        return stats_of(self._tree, deep)

    def counters(self) -> Counters:
        """What queries do: ``with db.counters() as seen: docs.scan(…).read_all()``, then ``seen["rows_merged"]``; see `Counters`.

        Counts what this whole process does meanwhile. Single rows by the short way (`get`, `put`, `delete` of one key) are not counted.
        """
        return Counters()

    def io(self) -> pa.Table:
        """Since the open: what (read and write in bytes, syncs), kind of file, cause (null of reads), amount."""
        return space.io_table(self._env.metrics.snapshot())

    def on_event(self, listener: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
        """Call ``listener`` with a dict as each flush, compaction, index build and stall of a writer ends; call the answer to stop.

        Each has ``event`` and ``seconds``, ``table`` where it has one, rows and bytes, and ``error`` where it failed. The listener
        runs in the thread that did the work, under its locks: it must be quick and must not call the database. Its
        exceptions become warnings.
        """
        return self._tree.events.listen(listener)

    def latencies(self) -> pa.Table:
        """How long flushes, compactions, index builds and stalls took since the open: event, up_to_seconds, count."""
        return self._tree.events.histogram()

    def close(self) -> None:
        """Seal the log and let go of the folder. Closing twice is harmless."""
        self._finalizer()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "r")

    def _repr_html_(self) -> str:
        """For notebooks: the tables with their rows, columns and bytes."""
        if self._tree.closed:
            return notebook.table(repr(self), [], [])
        about = self.stats()["tables"]
        rows = [(n, len(self[n]), ", ".join(self[n].schema.names), about[n]["file_bytes"], about[n]["memtable_rows"]) for n in self.tables]
        title = f"{self.path}, version {self.version}, {len(self.tensors):,} named arrays"
        return notebook.table(title, ["table", "rows", "columns", "bytes in files", "rows in memory"], rows)

    def __repr__(self) -> str:
        if self._tree.closed:
            return f"<lsmtensor.Database {self.path!r} closed>"
        rows = ", ".join(f"{n}: {len(self[n]):,} rows" for n in self.tables)
        return f"<lsmtensor.Database {self.path!r} version {self.version}; {rows or 'no tables'}>"


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def _forked() -> None:
    for database in list(_OPEN):
        database._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _release(tree: Tree, worker: Worker | None, lock: Any, env: Env, pin: Any) -> None:
    if worker is not None:
        worker.stop()
    try:
        tree.close()
    finally:
        readers.release(env, pin)
        if lock is not None:
            lock.close()


def _at(path: str, version: int) -> Snapshot:
    db = open(path, "r")
    snapshot = db.at(version=version)
    snapshot._keeps = db  # the handle lives as long as the snapshot
    return snapshot


def _table(path: str, name: str, version: int | None) -> Any:
    db = open(path, "r")
    table = db[name] if version is None else db.at(version=version)[name]
    table._keeps = db  # the handle lives as long as the table
    return table


# in another process a table is a reader of what is there then, a table of a snapshot the same version
copyreg.pickle(Snapshot, lambda s: (_at, (s._tree.path, s.version)))
copyreg.pickle(Table, lambda t: (_table, (t._tree.path, t.name, None)))
copyreg.pickle(TableView, lambda t: (_table, (t._tree.path, t.name, t._view().version)))
