"""The newest version and the end of the log, as single rows move them on; the twin of `_commits.pxi`."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import Any

from ..env.checksum import crc32c

_FRAME = struct.Struct("<4sQQqQB3xI")
_CRC = struct.Struct("<I")


def log_record(number: int, offset: int, version: int, time_ns: int, kind: int, synced: int, payload: bytes) -> bytes:
    """A log record (docs/format-wal.md) as one piece of bytes: for payloads small enough to copy."""
    padded = payload + bytes(-len(payload) % 8)
    body = _FRAME.pack(b"LTWR", len(payload), version, time_ns, synced, kind, crc32c(padded))
    crc: int = crc32c(body, crc32c(struct.pack("<QQ", number, offset)))
    return _CRC.pack(crc) + body + padded


class LogEnd:
    """Where a log ends, in bytes: ``_end`` of the last record, ``_written`` to the system, ``_synced`` to the disk. The base of `WalWriter`."""

    number: int
    kind: int  # of the records that `_extend` makes
    waits: bool  # a commit is not done before it is synced
    declared: set[Any]  # what the log's owner noted of it: the row formats whose schema it holds
    _file: Any
    _held: list[Any]
    _end: int
    _written: int
    _synced: int
    _last_version: int
    _last_time: int
    _plain: bool  # a record is written and that is all
    _syncing: bool
    _torn: BaseException | None
    _lost: BaseException | None

    def _extend(self, version: int, time_ns: int, payload: bytes) -> bool:
        """Write a record as one piece; False where it must go another way."""
        if not self._plain or self._held or self._syncing or self._lost is not None:
            return False
        record = log_record(self.number, self._end, version, time_ns, self.kind, self._synced, payload)
        try:
            self._file.write(record)
        except BaseException as why:
            self.failed(why)
            raise
        self._last_version, self._last_time = version, time_ns
        self._end = self._written = self._end + len(record)
        return True

    def failed(self, why: BaseException) -> None:
        """A record was not written, or half of it: no other may follow."""
        raise TypeError("abstract")  # pragma: no cover


class Commits:
    """The newest version, and rows on their way to it. The base of `lsm.tree.Tree`.

    ``logged`` is the newest version, ``visible`` the newest that readers see; ``_times`` are (version, commit time) of those since the
    last layout edit, flat. ``calm`` says that nothing stands in the way of a write; it is looked at again when the state changes.
    """

    state: Any
    log: Any
    writing: Any
    logged: int
    visible: int
    calm: bool
    closed: bool
    memtable_limit: int
    log_limit: int
    _times: array[int]
    _clock: Callable[[], int]
    _time: int
    _commit_time: int

    def commit_time(self) -> int:
        """What the next commit bears, later than all before it; the caller holds the writer lock."""
        time, last = self._clock(), self._commit_time if self._commit_time > self._time else self._time
        self._commit_time = time = time if time > last else last + 1
        return time

    def note_time(self, version: int, time_ns: int) -> None:
        """Remember when a version was made."""
        self._times.extend((version, time_ns))

    def read_row(self, table_id: int, key: Any) -> Any:
        """The newest row of a key as a dict, or None; `NotImplemented` where it must be read the long way."""
        table = self.state.tables.get(table_id)
        if table is None or self.closed or not table.short:
            return NotImplemented
        # a state older than the version is as good: what is newer than the state came while we looked
        return table.points.get(key, self.visible)

    def write_row(self, table_id: int, format: Any, payload: bytes, check: Callable[[Any], bool] | None = None) -> tuple[int, Any, int] | None:
        """Log a row and show it to later commits: (version, log, place in it), place 0 where there is nothing to wait for.

        ``check`` sees the table under the writer lock and answers whether to go on; it may raise. None where the table is another by now.
        """
        if not self.calm:
            self.check_writable()
            self.make_room()
        with self.writing:
            table = self.state.tables.get(table_id)
            if table is None or table.format is not format or not table.short_writes or self.closed:
                return None
            if check is not None and not check(table):
                return self.logged, self.log, 0
            log, version, now = self.log, self.logged + 1, self.commit_time()
            known = format in log.declared
            place = end = log.append_rows(version, now, payload if known else table.declared(payload))
            if not known:
                log.declared.add(format)
            held = table.mems[0].memtable.append(format, payload, version)
            self.note_time(version, now)
            self.logged = version
            if not log.waits:
                self.visible, place = version, 0
            if held > self.memtable_limit or end > self.log_limit:
                self.turn_over(held > self.memtable_limit)
        return version, log, place

    def check_writable(self) -> None:
        raise TypeError("abstract")  # pragma: no cover

    def make_room(self) -> None:
        raise TypeError("abstract")  # pragma: no cover

    def turn_over(self, full: bool) -> None:
        raise TypeError("abstract")  # pragma: no cover
