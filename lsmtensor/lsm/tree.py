"""The tree: commits in, views out, and the work between them.

Locks, in the order they may be taken: ``writing`` (one commit at a time, held while a version is
given, logged and put in the memtable), ``_maintenance`` (one flush or compaction at a time),
``_manifest_lock`` (one layout edit at a time), ``_publish`` (a moment: swap the state, raise the
visible version). Readers take only ``_publish``, once, to get (state, version) as a pair.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import memtable as memtables
from .. import rows
from ..cache import for_limit
from ..config import RunConfig
from ..env.base import Env
from ..errors import ClosedError, ReadOnlyError, StorageError, TableNotFoundError
from ..wal.writer import WalWriter
from . import commit as commits
from . import keyspace, ops
from .blobs import Blobs, runs_of, table_of
from .commit import Write
from .events import Events
from .layout import FileRef, Run, TableState, thinned
from .manifest import Manifest, file_path
from .output import write_files
from .source import MemSource, RunSource, TableFile
from .state import State, TableVersion, View
from .syncer import Syncer

Head = Callable[[int], View]
MAX_SEALED, MAX_LOGS, MIN_MEMTABLE = 4, 8, 1 << 16


if TYPE_CHECKING:
    from ..rows.committing import Commits
else:
    Commits = rows.kit().Commits


class Tree(Commits):
    """One open database folder, below the public handles."""

    def __init__(self, env: Env, path: str, config: RunConfig, manifest: Manifest, *, read_only: bool) -> None:
        self.env, self.path, self.config, self.manifest, self.read_only = env, path, config, manifest, read_only
        self.writing = threading.RLock()
        self._maintenance = threading.RLock()
        self._manifest_lock = threading.RLock()
        self._publish = threading.Condition()
        self._files: dict[int, TableFile] = {}
        self.held_files: weakref.WeakValueDictionary[int, TableFile] = weakref.WeakValueDictionary()  # also of old views
        self.log: Any = None  # the `WalWriter` of the newest log, none in readers
        self._wal_last, self._next_file = dict[int, int](), manifest.layout.next_file
        self.blobs = Blobs(lambda: runs_of(self.state))
        self.logged = self.visible = manifest.layout.version
        self.closed, self.cache = False, for_limit(config.memory_limit)
        self.compaction_paused = self.merge_asked = self.warned_of_leak = False
        self.calm = False
        self._level0, self._times = 0, array("q")
        self.syncer, self.events = Syncer(self.show), Events(env.clock)
        # what `now` gave last, and the last commit: each rises under its own lock, above the other
        self._time = self._commit_time = manifest.layout.time_ns
        self._clock = env.clock.time_ns
        self._failed: BaseException | None = None
        self.memtable_limit, self.log_limit = config.memtable.limit_bytes, config.wal.segment_bytes
        self.recovered_runs: list[tuple[int, Run]] = []
        self.ended: list[tuple[int, int]] = []  # logs closed, which the layout does not say yet
        self._snapshots: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.on_work: Callable[[], None] = self.work
        layout = manifest.layout
        self.state = State(layout, {t.id: self._table_version(t) for t in layout.tables.values()})

    # -- opening ---------------------------------------------------------------------------------

    def clock_floor(self, time_ns: int) -> None:
        """Commit times only rise, also across a clock that was set back."""
        self._time = max(self._time, time_ns)

    def note_log(self, number: int, last_version: int) -> None:
        self._wal_last[number] = last_version

    def adopt_run(self, table_id: int, run: Run) -> None:
        """A run that a log record refers to and the layout does not know yet."""
        with self._publish:
            table = self.state.tables[table_id]
            state = replace(table.state, runs=(run, *table.state.runs))
            self.state = self.state.with_table(self._table_version(state, table.mems, table.every))

    def begin(self, next_file: int) -> None:
        """End recovery: enter the recovered runs in the layout and begin a log of our own."""
        self._next_file = next_file
        if self.recovered_runs:
            self.install([op for t, run in self.recovered_runs for op in self._adopted(t, run, run.max_seq)])
        self._new_log()

    # -- reading ---------------------------------------------------------------------------------

    def head(self) -> tuple[State, int]:
        """The newest state and the version to read it at, as one consistent pair."""
        self.check_open()
        with self._publish:
            # the version first: a state that is newer than its version hides nothing of it
            version = self.visible
            return self.state, version

    def view(self, table_id: int) -> View:
        state, version = self.head()
        return View(self._table(state, table_id), version)

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"the database {self.path} is closed; open it again with lsmtensor.open({self.path!r})")

    def _table(self, state: State, table_id: int) -> TableVersion:
        if table_id not in state.tables:
            raise TableNotFoundError(f"table number {table_id} was dropped; known: {sorted(t.name for t in state.layout.tables.values())}")
        return state.tables[table_id]

    # -- committing ------------------------------------------------------------------------------

    def commit(self, prepare: Callable[[Head], list[Write]]) -> int:
        """One commit. ``prepare`` runs under the writer lock and sees every commit before this one.

        Returns its version once it is durable as the sync mode says. An exception of ``prepare``
        leaves everything as it was.
        """
        version, ticket = self._begin_commit(prepare)
        if ticket is not None:
            ticket[0].wait(ticket[1])
            self.show(version)
        return version

    def commit_later(self, prepare: Callable[[Head], list[Write]]) -> Future[int]:
        """The same, returning at once: the future's result is the version, when it is durable and visible."""
        version, ticket = self._begin_commit(prepare)
        return self.syncer.add(version, ticket)

    def _begin_commit(self, prepare: Callable[[Head], list[Write]]) -> tuple[int, tuple[WalWriter, Any] | None]:
        if not self.calm:
            self.check_writable()
            self.make_room()
        with self.writing:
            self.check_open()
            writes = [w for w in prepare(lambda t: View(self._table(self.state, t), self.logged)) if w.batch.num_rows]
            if not writes:
                return self.logged, None
            version = self.logged + 1
            now = self.commit_time()
            bulk, small = self._by_size(writes)
            if bulk:
                ticket = self._commit_direct(bulk, small, version, now)
            else:
                payload, copies = commits.encode(commits.Commit(parts=[(w.table, w.batch) for w in small]))
                ticket = self._log(version, now, payload)
                self._remember(small, copies, version)
            self.logged = version
            if not self.log.waits:
                self.visible = version
            full = any(t.mems[0].memtable.nbytes > self.memtable_limit for t in self.state.tables.values())
            if full or self.log.size > self.config.wal.segment_bytes:
                self.turn_over(full)
        return version, ticket

    def _by_size(self, writes: list[Write]) -> tuple[list[Write], list[Write]]:
        """(those that go to files of their own, those that go through the log); all to files where only their sum is large."""
        limit = self.config.direct_commit_bytes
        # whole buffers first: quickly asked, and never too little
        for size in (pa.RecordBatch.get_total_buffer_size, lambda batch: batch.nbytes):
            sizes = [limit + 1 if w.more is not None else size(w.batch) for w in writes]
            if sum(sizes) <= limit:
                return [], writes
        large = [w for w, size in zip(writes, sizes, strict=True) if size > limit] or writes
        return large, [w for w in writes if w not in large]

    def _remember(self, writes: list[Write], copies: list[pa.RecordBatch], version: int) -> None:
        """Put what was logged in memtables, over the log record's bytes: they never alias the caller's arrays."""
        for write, copy in zip(writes, copies, strict=True):
            table = self._table(self.state, write.table)
            table.mems[0].memtable.add(commits.with_seq(copy, version), table.codec.encode(copy), version)

    def _commit_direct(self, bulk: list[Write], small: list[Write], version: int, now: int) -> tuple[WalWriter, Any]:
        """Bulk is written once: sorted files first, synced, then one log record that refers to them, with what is small in it."""
        runs: list[tuple[int, Run]] = []
        for write in bulk:
            table = self._table(self.state, write.table)
            self.seal(write.table)
            batch, keys = write.batch, write.keys
            if not keyspace.is_sorted(keys):
                by_key = pa.array(keyspace.order(keys))
                batch, keys = batch.take(by_key), keys.take(by_key)
            pairs = itertools.chain([(batch, keys)], write.more or ())
            run, blobs = self.write_run(table, ((commits.with_seq(b, version), k) for b, k in pairs), "bulk")
            runs += [*blobs, (write.table, run)]
        refs = [(table_id, run.to_dict()) for table_id, run in runs]
        payload, copies = commits.encode(commits.Commit(parts=[(w.table, w.batch) for w in small], runs=refs))
        ticket = self._log(version, now, payload)
        self._remember(small, copies, version)
        self.log.wait(ticket[1])
        # as one step: a flush must not call this commit flushed before its runs are in the layout
        with self._manifest_lock:
            self.logged = version
            self.install([op for t, run in runs for op in self._adopted(t, run, version)])
        self.on_work()
        return ticket

    def _adopted(self, table_id: int, run: Run, version: int) -> list[dict[str, Any]]:
        """The run enters the layout; where no older commit waits in a memtable, all up to it is in runs now."""
        waiting = self.state.tables[table_id].unflushed()
        done = version if waiting is None else waiting - 1
        return [ops.add_run(table_id, run), ops.flush(table_id, None, done)]

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Hold the layout still between looking at it and installing an edit."""
        with self._manifest_lock:
            yield

    def _log(self, version: int, now: int, payload: list[Any]) -> tuple[WalWriter, Any]:
        ticket = self.log.append(version, now, 1, payload)
        self.note_time(version, now)
        return self.log, ticket

    def show(self, version: int) -> None:
        """Readers may see a version: after its wait in mode ``group``, under the writer lock in the others."""
        with self._publish:
            self.visible = max(self.visible, version)

    def now(self) -> int:
        """A time that rises with each call, also across restarts: what ids of arrays are made of."""
        with self._publish:
            self._time = max(self.env.clock.time_ns(), self._time + 1, self._commit_time + 1)
            return self._time

    def times(self) -> tuple[tuple[int, int], ...]:
        """(version, commit time in ns), rising: what the layout remembers, and every commit since its last edit."""
        with self._publish:
            return (*self.state.layout.times, *_pairs(self._times))

    def check_writable(self) -> None:
        self.check_open()
        if self.read_only:
            raise ReadOnlyError(f"{self.path} is open for reading (mode='r'); open it with mode='a' to write")

    # -- sealing, logs ---------------------------------------------------------------------------

    def _new_mem(self, table: TableState) -> MemSource:
        version = TableVersion(table, (), ())
        return MemSource(memtables.create(self.config.memtable.kind, version.codec.kind, version.physical))

    def _table_version(self, table: TableState, mems: tuple[MemSource, ...] = (), old: tuple[RunSource, ...] = ()) -> TableVersion:
        known = {r.run: r for r in old}
        made = [known.get(run) or RunSource(run, [self.file(ref) for ref in run.files], table.schema) for run in table.runs]
        runs, behind = tuple(r for r in made if not r.behind), tuple(r for r in made if r.behind)
        return TableVersion(table, mems or (self._new_mem(table),), runs, times=self.times, behind=behind)

    def file(self, ref: FileRef) -> TableFile:
        file = self._files.get(ref.number)
        if file is None:
            file = self._files[ref.number] = self.held_files[ref.number] = TableFile(self.env, file_path(self.path, "table", ref.number), ref, self.cache, self.blobs.fetch)
        elif file.ref is not ref:
            file.ref = ref
        return file

    def seal(self, table_id: int) -> None:
        """Put an empty memtable before one that has rows; the caller holds the writer lock."""
        with self._publish:
            # looked up here: a flush may have shown another state a moment ago
            table = self.state.tables[table_id]
            if table.mems[0].rows:
                self.state = self.state.with_table(replace(table, mems=(self._new_mem(table.state), *table.mems)))
                self.calm = False

    def turn_over(self, full: bool) -> None:
        """Seal what is full, begin a new log, wake the worker; where logs pile up behind a table that is seldom written, seal all."""
        for table in list(self.state.tables.values()):
            if not full or table.mems[0].memtable.nbytes * 4 > self.memtable_limit or len(self.state.layout.wals) > MAX_LOGS:
                self.seal(table.state.id)
        self._new_log()
        self.on_work()

    def _new_log(self) -> None:
        """Close the log and begin another, named in the manifest before its first commit returns."""
        if self.log is not None:
            if (end := self.log.close(note=commits.note(*self.manifest.place))) is not None:
                self.ended.append((self.log.number, end))
            self._wal_last[self.log.number] = self.logged
        number = self.next_file()
        path, owner = file_path(self.path, "wal", number), self.manifest.layout.id
        self.log = WalWriter(self.env, path, number, sync=self.config.wal.sync, owner=owner)
        self.env.sync_dir(f"{self.path}/wal")
        self.install([*(ops.end_wal(*end) for end in self.ended), ops.add_wal(number)])
        self.ended.clear()

    def next_file(self) -> int:
        with self._publish:
            number = self._next_file
            self._next_file += 1
            return number

    def make_room(self) -> None:
        """Slow writers down to what flushing and merging can take; a failed flush is said here, to the writer."""
        limits = self.config.compaction

        def room() -> bool:
            calm = max((len(t.mems) for t in self.state.tables.values()), default=0) <= MAX_SEALED and (self._level0 <= limits.stop_runs or self.compaction_paused)
            return calm or self.closed or self._failed is not None

        if self._level0 > limits.slowdown_runs and not self.compaction_paused:
            # a little wait now spares everybody the full stop later
            time.sleep(min(0.05, 0.001 * (self._level0 - limits.slowdown_runs)))
        with self._publish if room() else self.events.timed("stall", runs=self._level0), self._publish:
            self._publish.wait_for(room)
            waiting = max((len(t.mems) for t in self.state.tables.values()), default=0)
            if self._failed is not None and waiting > MAX_SEALED:
                raise StorageError(
                    f"memtables cannot be flushed ({self._failed}); what is committed is safe in the log, "
                    "free space or mend the disk, then call flush()"
                ) from self._failed
            self.calm = waiting <= MAX_SEALED and self._level0 <= limits.slowdown_runs and self._failed is None and not self.closed

    # -- the layout ------------------------------------------------------------------------------

    def install(self, edits: list[dict[str, Any]], flushed: MemSource | None = None) -> None:
        """Append a layout edit, durably, then show readers the state it describes, in that order."""
        with self._manifest_lock:
            if self.log is not None:
                # a layout must not know of versions that a crash could still take from the log
                self.log.sync()
            noted = len(self._times)
            times = thinned(_pairs(self._times[:noted]))
            layout = self.manifest.append(
                edits, version=self.logged, time_ns=max(self._time, self._commit_time, self.env.clock.time_ns()), next_file=self._next_file, times=times
            )
            with self._publish:
                del self._times[:noted]
                tables = {}
                for state in layout.tables.values():
                    current = self.state.tables.get(state.id)
                    if current is None or current.state.schema != state.schema:  # whoever changes a schema flushes first
                        tables[state.id] = self._table_version(state)
                        continue
                    mems = tuple(m for m in current.mems if m is not flushed)
                    tables[state.id] = self._table_version(state, mems, current.every)
                self.state = State(layout, tables)
                self._level0, self.calm = self._pressure(), False
                self.memtable_limit = min(self.config.memtable.limit_bytes, max(MIN_MEMTABLE, self.cache.limit // max(1, len(tables))))
                self._publish.notify_all()

    def _pressure(self) -> int:
        """The most level-0 runs of a table whose policy merges them."""
        usual = self.config.compaction.policy
        merged = (t for t in self.state.tables.values() if not str(t.state.options.get("compaction", usual)).startswith(("none", "fifo")))
        return max((sum(r.run.level == 0 for r in t.runs) for t in merged), default=0)

    def write_run(self, table: TableVersion, batches: Any, cause: str, level: int = 0) -> tuple[Run, list[tuple[int, Run]]]:
        """Sorted (batch, keys) pairs to a synced run of one or more files, linked in the folder, and (table, run) of the blobs that it refers to."""
        made = write_files(self.env, self.path, self.config, table, batches, cause, level, self.next_file, lambda: table_of(self))
        return Run(made.files[0].number, level, made.files), [(table_of(self).state.id, run) for run in made.blobs]

    # -- tables ----------------------------------------------------------------------------------

    def create_table(self, name: str, schema: dict[str, Any], indexes: dict[str, Any], options: dict[str, Any]) -> int:
        """A new table; creating one is a commit of its own. Returns its id."""
        self.check_writable()
        with self.writing:
            version, table_id = self.next_version(), self.next_file()
            state = TableState(table_id, name, schema, options, indexes, (), version, version)
            self.install([ops.create_table(state)])
            self.show(version)
            return table_id

    def system_table(self, name: str, schema: dict[str, Any]) -> int:
        """The id of a table of our own, made at its first use."""
        with self.writing:
            found = self.state.by_name(name)
            return found.state.id if found is not None else self.create_table(name, schema, {}, {"compaction": "none"})

    def drop_table(self, table_id: int) -> None:
        self.check_writable()
        with self.writing, self._maintenance:
            version = self.next_version()
            gone = self._table(self.state, table_id)
            self.install([ops.drop_table(table_id)])
            self.forget([f for run in gone.every for f in run.files])
            self.show(version)

    def next_version(self) -> int:
        """Of a commit that is a layout edit; the caller holds the writer lock."""
        self.logged += 1
        self.note_time(self.logged, self.commit_time())
        return self.logged

    def forget(self, files: list[TableFile]) -> None:
        for file in files:
            self._files.pop(file.ref.number, None)
            file.obsolete = True

    def pin(self, snapshot: Any) -> None:
        """Keep a snapshot's version alive for as long as the object lives; ``snapshot.version`` names it."""
        self._snapshots[id(snapshot)] = snapshot

    def holders(self) -> list[Any]:
        """Open snapshots and transactions, oldest version first."""
        return sorted((s for r in self._snapshots.valuerefs() if (s := r()) is not None and not s.closed), key=lambda s: s.version)

    # -- maintenance -----------------------------------------------------------------------------

    def failed(self, why: BaseException | None) -> None:
        """What the last background work ended with; writers wait for room no longer once it failed."""
        with self._publish:
            self._failed, self.calm = why, False
            self._publish.notify_all()

    def work(self) -> None:
        """Flush what is sealed, then compact until the policies ask for nothing; one at a time."""
        from .indexing import index_due
        from .maintenance import collect_blobs, compact_due, flush_sealed

        with self._maintenance:
            flush_sealed(self)
            compact_due(self)
            collect_blobs(self)
            # a merge that became due goes first: segments of its runs would be built in vain
            index_due(self, lambda: compact_due(self))

    def flush(self) -> None:
        """Everything committed so far is in table files when this returns."""
        self.seal_all()
        self.work()

    def seal_all(self) -> None:
        self.check_writable()
        with self.writing:
            for table_id in list(self.state.tables):
                self.seal(table_id)

    @contextmanager
    def maintaining(self, alone: bool = False) -> Iterator[None]:
        """No flush or merge but ours meanwhile; ``alone`` keeps commits out too."""
        with self.writing if alone else nullcontext(), self._maintenance:
            yield

    def finished_logs(self) -> list[int]:
        """The logs whose every commit is in table files; the active one stays."""
        oldest = min((u for t in self.state.tables.values() if (u := t.unflushed()) is not None), default=self.logged + 1)
        return [n for n in self.state.layout.wals if n != self.log.number and self._wal_last.get(n, oldest) < oldest]

    def become_reader(self) -> None:
        """After a fork: nothing of the parent's threads, locks and log is ours."""
        self.read_only, self.calm = True, False
        self.writing, self._maintenance, self._manifest_lock = threading.RLock(), threading.RLock(), threading.RLock()
        self._publish, self.syncer, self.log = threading.Condition(), Syncer(self.show), None
        self.on_work = self.work

    def become(self, fresh: Tree) -> None:
        """A reader's step to what another process wrote since."""
        with self._publish:
            self.state, self.visible, self.logged = fresh.state, fresh.visible, fresh.logged
            self.manifest, self._files = fresh.manifest, fresh._files

    def _close_log(self, log: WalWriter) -> None:
        """The layout says where the log ends, the log's end how long the manifest is: neither can be cut unseen."""
        note = b""
        try:
            if log.healthy and not self.manifest.broken:
                self.install([ops.end_wal(log.number, log.size)])
                note = commits.note(*self.manifest.place)
        finally:
            log.close(note=note)

    def close(self) -> None:
        """Seal the log with a synced end record. What is in memtables is in the log: nothing is flushed."""
        if self.closed:
            return
        self.syncer.close()
        with self.writing, self._maintenance:
            try:
                if self.log is not None:
                    self._close_log(self.log)
            finally:
                self.manifest.close()
            self.closed, self.calm = True, False
            with self._publish:
                self._publish.notify_all()


def _pairs(times: array[int]) -> list[tuple[int, int]]:
    return list(zip(times[::2], times[1::2], strict=True))
