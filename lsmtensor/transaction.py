"""Transactions: a snapshot, writes kept beside it, and one commit that is refused when somebody was first.

The writes of a transaction lie in a memtable of its own for each table, at the snapshot's version and before all other sources, so
that get, scan and search see them as they would after the commit. Nobody waits for anybody: the writer lock is held only while
committing, when the keys written (and, if serializable, those read) are looked up among the versions that came since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from . import memtable as memtables
from .cache import Cache
from .errors import ConflictError, InvalidArgumentError, TableNotFoundError
from .lsm import commit as commits
from .lsm import keyspace, short
from .lsm.keyspace import Key
from .lsm.marks import ALIVE, changes
from .lsm.source import MemSource, Source
from .lsm.state import State, View
from .lsm.tree import Head, Tree, Write
from .lsm.unique import guarded
from .table import Table
from .tensors import SYSTEM, Tensors


@dataclass(frozen=True, eq=False)
class OverlayView(View):
    """A view with a transaction's own writes before everything else."""

    own: MemSource

    @cached_property
    def sources(self) -> list[Source]:
        return [self.own, *self.table.sources()]

    @property
    def overlay(self) -> MemSource:
        return self.own


@dataclass
class _Reads:
    """What a serializable transaction read of a table: keys, ranges [start, stop), or all of it."""

    keys: list[pa.Array] = field(default_factory=list)
    ranges: list[tuple[Key | None, Key | None]] = field(default_factory=list)


class TransactionTable(Table):
    """A table inside a transaction: what it reads is the snapshot with the transaction's own writes."""

    def __init__(self, transaction: Transaction, tree: Tree, table_id: int) -> None:
        super().__init__(tree, table_id)
        self._transaction = transaction

    def _view(self) -> View:
        return self._transaction.view(self._id)

    def _commit(self, prepare: Callable[[Head], list[Write]]) -> int:
        return self._transaction.buffer(guarded(prepare)(self._transaction.view))

    def get(self, key: Any) -> dict[str, Any] | None:
        view = self._view()
        self._reading(keyspace.one(view.table.codec.scalar(key)))
        return view.get(key)

    def __contains__(self, key: object) -> bool:
        view = self._view()
        self._reading(keyspace.one(view.table.codec.scalar(key)))
        return view.has(key)

    def put(self, key: Any, row: dict[str, Any] | None = None) -> int:
        return self._transaction.version if self._transaction.take(self._id, key, row) else self._put_long(key, row)

    def _delete_one(self, key: Any) -> None:
        return None

    def _reading(self, keys: pa.Array | None = None, start: Key | None = None, stop: Key | None = None) -> None:
        self._transaction.read(self._id, keys, start, stop)


class Transaction:
    """All or nothing, across tables. A context manager: leaving the block commits, an exception throws everything away.

    Raises `ConflictError` on leaving when a key written here got another version since the snapshot (first committer wins),
    or, with ``serializable``, when something read here did.
    """

    def __init__(self, tree: Tree, state: State, version: int, serializable: bool) -> None:
        tree.check_writable()
        self.version, self.serializable, self.closed = version, serializable, False
        self._tree, self._state = tree, state
        self._own: dict[int, MemSource] = {}
        self._pending: dict[int, list[Write]] = {}
        self._reads: dict[int, _Reads] = {}
        self._one: tuple[int, Key, bytes] | None = None  # a single row, while there is nothing else
        tree.pin(self)

    # -- reading and writing ---------------------------------------------------------------------

    @property
    def tables(self) -> list[str]:
        """The tables of the snapshot, sorted."""
        self._check()
        return sorted(t.name for t in self._state.layout.tables.values() if t.created <= self.version and not t.name.startswith("_"))

    def __getitem__(self, name: str) -> TransactionTable:
        self._check()
        found = self._state.by_name(name)
        if found is None or found.state.created > self.version:
            raise TableNotFoundError(f"no table named {name!r} in this transaction; known: {', '.join(self.tables) or 'none'}")
        return TransactionTable(self, self._tree, found.state.id)

    def __contains__(self, name: object) -> bool:
        return name in self.tables

    @property
    def tensors(self) -> Tensors:
        """Named arrays in this transaction: ``txn.tensors["w"] = w``. What is written is held in memory until the commit."""
        self._check()
        return Tensors(_Store(self))

    def system_view(self, name: str) -> View | None:
        """A system table as this transaction sees it."""
        found = self._state.by_name(name)
        if found is None:
            return None
        self.read(found.state.id, None, None, None)
        return self.view(found.state.id)

    def system_table(self, name: str) -> int:
        """The id of a system table; made (by a commit of its own) at its first use."""
        self._check()
        number = self._tree.system_table(name, SYSTEM[name].to_dict())
        if number not in self._state.tables:
            self._state = self._state.with_table(self._tree.head()[0].tables[number])
        return number

    def fresh_id(self) -> int:
        return self._tree.now()

    @property
    def cache(self) -> Cache:
        return self._tree.cache

    def view(self, table_id: int) -> View:
        self._check()
        self._spill()
        table, own = self._state.tables[table_id], self._written(table_id)
        return View(table, self.version) if own is None else OverlayView(table, self.version, own)

    def take(self, table_id: int, key: Any, row: dict[str, Any] | None) -> bool:
        """Keep a row packed where it is all that the transaction does so far: alone it is committed the short way."""
        self._check()
        if self._one is not None or self._own or self._pending or self._reads:
            return False
        table = self._state.tables[table_id]
        payload = short.pack(table, key, row)
        if payload is not None:
            self._one = (table_id, table.codec.scalar(key), payload)
        return payload is not None

    def _spill(self) -> None:
        """The single row becomes one write of many."""
        if self._one is not None:
            (table_id, _, payload), self._one = self._one, None
            table = self._state.tables[table_id]
            self._pending[table_id] = [Write(table_id, *short.as_batch(table, payload))]

    def _commit_one(self, wait: bool) -> Any:
        """The answer of `commit`, or None where the row must go the long way."""
        assert self._one is not None
        table_id, key, payload = self._one
        made = self._tree.write_row(table_id, self._state.tables[table_id].format, payload, short.unchanged(key, self.version))
        if made is None:
            return None
        return short.finish(self._tree, *made) if wait else short.later(self._tree, *made)

    def buffer(self, writes: Sequence[Write]) -> int:
        """Keep writes for the commit; answers the snapshot's version, for there is no other yet."""
        self._spill()
        for write in writes:
            if write.batch.num_rows:
                copy = Write(write.table, _copied(write.batch), _copied_array(write.keys))
                self._pending.setdefault(write.table, []).append(copy)
        return self.version

    def _written(self, table_id: int) -> MemSource | None:
        """The transaction's rows of a table, once somebody looks: one write alone needs no memtable."""
        pending = self._pending.pop(table_id, [])
        own = self._own.get(table_id)
        if pending and own is None:
            table = self._state.tables[table_id]
            own = self._own[table_id] = MemSource(memtables.create(self._tree.config.memtable.kind, table.codec.kind, table.physical))
        for write in pending:
            assert own is not None
            own.memtable.add(commits.with_seq(write.batch, self.version), write.keys, self.version)
        return own

    def read(self, table_id: int, keys: pa.Array | None, start: Key | None, stop: Key | None) -> None:
        """Note what was read, where it matters."""
        if not self.serializable:
            return
        reads = self._reads.setdefault(table_id, _Reads())
        if keys is not None:
            reads.keys.append(keys)
        else:
            reads.ranges.append((start, stop))

    # -- ending ----------------------------------------------------------------------------------

    def commit(self, wait: bool = True) -> Any:
        """Commit; answers the version, or with ``wait=False`` a future of it that is done when the commit is durable and visible."""
        self._check()
        self.closed = True
        if self._one is not None:
            answer = self._commit_one(wait)
            if answer is not None:
                return answer
            self._spill()
        if not self._own and not self._pending:
            return self._answer(self.version, wait)
        return self._tree.commit(self._prepare) if wait else self._tree.commit_later(self._prepare)

    @staticmethod
    def _answer(version: int, wait: bool) -> Any:
        if wait:
            return version
        future: Future[int] = Future()
        future.set_result(version)
        return future

    def rollback(self) -> None:
        """Throw the writes away. Ending twice is harmless."""
        self.closed = True
        self._own.clear()
        self._pending.clear()
        self._one = None

    def _prepare(self, head: Head) -> list[Write]:
        writes = []
        for table_id in sorted({*self._own, *self._pending}):
            now, then = head(table_id).table.state, self._state.tables[table_id].state
            if (now.schema, now.options) != (then.schema, then.options):
                raise ConflictError(f"the columns or rules of table {then.name!r} were changed since this transaction began; begin again")
            pending = self._pending.get(table_id, [])
            if len(pending) == 1 and table_id not in self._own:
                self._refuse_newer(head(table_id), pending[0].keys, "written")
                writes += pending
                continue
            own = self._written(table_id)
            assert own is not None
            table, keys = own.memtable.sorted_run()
            self._refuse_newer(head(table_id), keys, "written")
            whole = table.combine_chunks().to_batches()[0]
            at = whole.schema.get_field_index("_seq")
            fields = [f for i, f in enumerate(whole.schema) if i != at]
            columns = [c for i, c in enumerate(whole.columns) if i != at]
            writes.append(Write(table_id, pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)), keys))
        for table_id, reads in self._reads.items():
            for keys in reads.keys:
                self._refuse_newer(head(table_id), keys, "read")
            for start, stop in reads.ranges:
                self._refuse_changes(head(table_id), start, stop)
        return writes

    def _refuse_newer(self, view: View, keys: pa.Array, what: str) -> None:
        for source in view.sources:
            if source.max_seq <= self.version or len(keys) == 0:
                continue
            rows = source.find(keys, int(ALIVE))
            hit = np.flatnonzero(rows >= 0)
            if len(hit) == 0:
                continue
            seqs = source.take(rows[hit], ["_seq"]).column("_seq").to_numpy()
            newer = hit[seqs > self.version]
            if len(newer):
                self._refuse(view, keys[int(newer[0])].as_py(), what)

    def _refuse_changes(self, view: View, start: Key | None, stop: Key | None) -> None:
        for source in view.sources:
            for keys, _ in changes(source, self.version) if source.max_seq > self.version else ():
                for key in keys.to_pylist() if start is not None or stop is not None else keys[:1].to_pylist():
                    if (start is None or key >= start) and (stop is None or key < stop):
                        self._refuse(view, key, "read")

    def _refuse(self, view: View, key: Key, what: str) -> None:
        raise ConflictError(
            f"key {view.table.codec.key_of(key)!r} of table {view.table.state.name!r}, {what} by this transaction, was changed after "
            f"version {self.version}, where it began; begin again (db.transact() does)"
        )

    def _check(self) -> None:
        if self.closed:
            raise InvalidArgumentError("the transaction has ended; begin another with db.transaction()")
        self._tree.check_open()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        if self.closed:
            return
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def __repr__(self) -> str:
        rows = (self._one is not None) + sum(own.rows for own in self._own.values()) + sum(w.batch.num_rows for ws in self._pending.values() for w in ws)
        return f"<lsmtensor.Transaction at version {self.version}, {rows:,} rows written{', ended' if self.closed else ''}>"


class _Store:
    """What `Tensors` needs of a transaction."""

    direct_bytes = 1 << 62  # nothing is written to files before the commit

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.number, self.fresh_id, self.cache = transaction.system_table, transaction.fresh_id, transaction.cache

    def moment(self, version: int | None = None) -> None:
        """Always what the transaction sees now."""

    def known(self, moment: None) -> None:
        """Nothing is remembered: every write changes what is seen."""

    def view(self, name: str, moment: None) -> View | None:
        return self._transaction.system_view(name)

    def commit(self, prepare: Callable[[Head], list[Write]]) -> int:
        return self._transaction.buffer(prepare(self._transaction.view))


def _copied_array(array: pa.Array) -> pa.Array:
    """The values in memory of our own: the caller may change his after the call."""
    return pa.concat_arrays([array, array.slice(0, 0)])


def _copied(batch: pa.RecordBatch) -> pa.RecordBatch:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return commits.read_stream(sink.getvalue())
