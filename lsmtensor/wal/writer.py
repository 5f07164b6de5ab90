"""Appending to a log, and the promise that a commit which returned is durable as its sync mode says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import rows
from ..env.base import Env
from ..errors import ClosedError, InvalidArgumentError, StorageError
from .format import BATCHES, END, HEADER_BYTES, ROWS, encode_header, encode_record
from .sync import sync_mode

BUFFER_BYTES = 1 << 20  # what mode `buffered` holds at most before it hands over


if TYPE_CHECKING:
    from ..rows.committing import LogEnd
else:
    LogEnd = rows.kit().LogEnd


class WalWriter(LogEnd):
    """One log, from its first byte to its end record. Every method may be called from any thread.

    ``append`` gives a ticket (the record's end offset), ``wait(ticket)`` returns when that record is as
    safe as the mode says. In mode ``group`` the first waiting thread syncs for all that wait by then.

    After a failed sync nothing is known of the pages (they may be lost though marked clean), after a
    failed write the tail is torn: the log then refuses further records with `StorageError`. What was
    synced before stays safe, and what was wholly written before a failed *write* can still be synced.
    The header is synced here; the name in the folder is safe after the caller's ``env.sync_dir``.
    """

    def __init__(self, env: Env, path: str, number: int, *, sync: Any = "group", owner: int = 0) -> None:
        self.path, self.number, self.mode = path, number, sync_mode(sync)
        self._file = env.create(path, kind="wal", cause="commit")
        self._changed = threading.Condition()
        self._held = []
        self._syncing = self._closed = False
        self._torn = self._lost = None
        self._timer: threading.Timer | None = None
        self._end = self._written = self._synced = 0
        self._last_version = self._last_time = 0
        self.kind = ROWS
        self.waits = self.mode.name == "group"  # only there `wait` has something to wait for
        self._always, self._timed, self._buffered = self.mode.name == "every", self.mode.ms > 0, self.mode.name == "buffered"
        self._plain = not self._always and not self._timed  # as long as writing works
        self.declared = set()
        try:
            self._hold([encode_header(number, owner)], HEADER_BYTES)
            self.sync()
        except BaseException:
            self._file.close()
            raise

    @property
    def size(self) -> int:
        """Bytes appended, those not yet written included."""
        return self._end

    @property
    def synced(self) -> int:
        """The offset below which every byte is on the disk."""
        return self._synced

    def append(self, version: int, time_ns: int, kind: int, payload: Sequence[Any]) -> int:
        """Add a record; O(bytes). The buffers of ``payload`` must not change until they are written.

        Returns the ticket for `wait`. `StorageError` when the write fails or an earlier one did, `ClosedError`
        after `close`.
        """
        if kind not in (BATCHES, ROWS):
            raise InvalidArgumentError(f"log record kind {kind}; wanted {BATCHES} (batches) or {ROWS} (rows)")
        with self._changed:
            self._check_open()
            self._append(version, time_ns, kind, payload)
            return self._appended()

    def append_rows(self, version: int, time_ns: int, payload: bytes) -> int:
        """`append` of compact rows that are small enough to copy: the record is made and written as one piece.

        The caller keeps others from appending meanwhile, so that modes which hold nothing back need no lock.
        """
        return self._end if self._extend(version, time_ns, payload) else self.append(version, time_ns, ROWS, [payload])

    def failed(self, why: BaseException) -> None:
        """A record was not written, or half of it: no other may follow."""
        self._torn, self._plain = _kept(why), False

    def _appended(self) -> int:
        ticket = self._end
        if self._always:
            self._sync_to(ticket, always=True)
        elif self._timed:
            self._start_timer()
        return ticket

    def wait(self, ticket: int) -> None:
        """Return when the record is as safe as the mode says; `StorageError` where that cannot be."""
        with self._changed:
            if self.mode.name == "group":
                self._sync_to(ticket)
            elif ticket > self._synced and self._lost is not None:
                raise self._refusal(self._lost)
            elif ticket > self._written and self._torn is not None:
                raise self._refusal(self._torn)

    def sync(self) -> None:
        """Everything appended so far is on the disk when this returns."""
        with self._changed:
            self._sync_to(self._end)

    @property
    def healthy(self) -> bool:
        """Whether the log is open and no write or sync of it failed."""
        return not self._closed and self._torn is None and self._lost is None

    def close(self, seal: bool = True, note: bytes = b"") -> int | None:
        """Write what is held and close; ``seal`` syncs it and adds a synced end record with ``note`` as its payload.

        Answers where the last record ends if the log was sealed.

        A log that already failed is closed without one: its writers were told. Twice is fine.
        """
        with self._changed:
            if self._closed:
                return None
            sealed = None
            try:
                if self._torn is None and self._lost is None:
                    if seal:
                        # synced before the end record is written: that record promises everything below it
                        self._sync_to(self._end)
                        end = self._end
                        self._append(self._last_version, self._last_time, END, [note])
                        self._sync_to(self._end)
                        sealed = end
                    else:
                        self._write_held()
                elif self._lost is None:
                    self._sync_to(self._written)
            finally:
                self._closed, self._plain = True, False
                if self._timer is not None:
                    self._timer.cancel()
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._syncing)
                self._file.close()
            return sealed

    # -- under the lock ------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"log {self.path} is closed; append to the newest log")
        why = self._lost or self._torn
        if why is not None:
            raise self._refusal(why)

    def _refusal(self, why: BaseException) -> StorageError:
        return StorageError(
            f"log {self.path} takes no more commits since one failed ({why}); commits that returned under mode "
            f"{self.mode} up to offset {self._synced} are safe; mend the disk and reopen the database",
            getattr(why, "errno", None),
        )

    def _append(self, version: int, time_ns: int, kind: int, payload: Sequence[Any]) -> None:
        buffers = encode_record(self.number, self._end, version, time_ns, kind, self._synced, payload)
        self._hold(buffers, sum(memoryview(b).nbytes for b in buffers))
        self._last_version, self._last_time = version, time_ns

    def _hold(self, buffers: list[Any], size: int) -> None:
        self._held += buffers
        self._end += size
        # a write would wait for the sync under way, and be safe only with the next one anyhow: that one writes it
        later = self._buffered or (self.waits and self._syncing)
        if not later or self._end - self._written > BUFFER_BYTES:
            self._write_held()

    def _write_held(self) -> None:
        if not self._held:
            return
        held, self._held = self._held, []
        try:
            if len(held) == 1:
                self._file.write(held[0])
            else:
                self._file.writev(held)
        except BaseException as why:
            # even an interrupt may leave half a record behind
            self.failed(why)
            self._end = self._written
            raise
        self._written = self._end

    def _sync_to(self, target: int, always: bool = False) -> None:
        """Sync up to ``target``, sharing a sync under way; ``always`` syncs even where another did already."""
        while self._synced < target or always:
            if self._lost is not None:
                raise self._refusal(self._lost)
            if self._syncing:
                self._changed.wait()
                continue
            if self._torn is None:
                self._write_held()
            if self._torn is not None and target > self._written:
                raise self._refusal(self._torn)
            if self._closed:
                raise ClosedError(f"log {self.path} was closed without a sync; a power loss may take its end")
            self._lead()
            always = False

    def _lead(self) -> None:
        """One sync for every thread that waits; the lock is free meanwhile, so that others append."""
        reached, self._syncing = self._written, True
        self._changed.release()
        failure: BaseException | None = None
        try:
            self._file.sync()
        except OSError as why:
            failure = why
        except BaseException:
            reached = 0  # interrupted, not refused: the next one to wait tries again
            raise
        finally:
            self._changed.acquire()
            self._syncing = False
            if failure is None:
                self._synced = max(self._synced, reached)
            else:
                self._lost = _kept(failure)
            self._changed.notify_all()
        if failure is not None:
            raise failure

    # -- modes with a clock --------------------------------------------------------------------------

    def _start_timer(self) -> None:
        if self._timer is None:
            # not a daemon: the interpreter waits for it at exit, so what was appended is handed over
            self._timer = threading.Timer(self.mode.ms / 1000, self._tick)
            self._timer.start()

    def _tick(self) -> None:
        with self._changed:
            self._timer = None
            if self._closed or self._torn is not None or self._lost is not None:
                return
            try:
                if self.mode.name == "buffered":
                    self._write_held()
                else:
                    self._sync_to(self._end)
            except OSError:
                return  # kept in `_torn` or `_lost`: the next append and wait say it


def _kept(why: BaseException) -> StorageError:
    """A failure to tell again, without its traceback: that would hold the frames of whoever met it, and the database in them."""
    return StorageError(f"{why}", getattr(why, "errno", None))
