"""Reading a log back: every record that was promised, or an error; never a wrong byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..env.base import Env
from ..errors import CorruptionError
from .format import (
    END,
    FRAME_BYTES,
    HEADER_BYTES,
    KINDS,
    MARK,
    Frame,
    check_header,
    decode_frame,
    encode_record,
    payload_of,
)


@dataclass(frozen=True)
class WalRecord:
    """One record; ``payload`` is a view of the mapped file, the record's bytes are [offset, end)."""

    version: int
    time_ns: int
    kind: int
    payload: memoryview
    offset: int
    end: int


def read_wal(env: Env, path: str, number: int, owner: int = 0) -> LogReader:
    """The records of log ``number``, oldest first. The header is checked here, each record when it is reached.

    With ``owner`` a log that another database wrote is `CorruptionError`.
    """
    return LogReader(env, path, number, owner)


class LogReader:
    """Iterates over `WalRecord`; after that ``valid_end``, ``promised`` (what is known to be synced), ``records_end`` (where
    the last record ends), ``sealed``, ``note`` (the end record's payload) and ``torn_bytes`` say how the log ended.

    Each record says up to which offset the log was synced when it was written. A record that does not
    read ends the log quietly where no record in the file promises it (a torn tail, zeros, space of an
    older file), and is `CorruptionError` where one does. O(bytes): each byte is checksummed once; at
    the damage, the rest is searched for frames once more.
    """

    def __init__(self, env: Env, path: str, number: int, owner: int = 0) -> None:
        self.path, self.number = path, number
        self._data = env.open(path, kind="wal").map()
        check_header(self._data, number, path, owner)
        self.valid_end = self.promised = self.records_end = HEADER_BYTES
        self.sealed, self.note = False, b""
        self._last = (0, 0)

    @property
    def last(self) -> tuple[int, int]:
        """(version, time_ns) of the newest record read, (0, 0) before any."""
        return self._last

    @property
    def torn_bytes(self) -> int:
        """Bytes behind ``valid_end`` that belong to no record."""
        return len(self._data) - self.valid_end

    def __iter__(self) -> Iterator[WalRecord]:
        data, at = self._data, HEADER_BYTES
        self.valid_end = self.promised = self.records_end = at
        self.sealed, self.note, self._last = False, b"", (0, 0)
        while True:
            frame = decode_frame(data, at, self.number)
            payload = None if frame is None else payload_of(data, frame)
            if frame is None or payload is None:
                self._check_end(at)
                return
            if frame.kind not in KINDS:
                raise CorruptionError(f"a log record of unknown kind {frame.kind}; known: {KINDS}", self.path, at)
            self.valid_end = frame.end
            if frame.kind == END:
                self.sealed, self.note = True, bytes(payload)
                return
            self.records_end = frame.end
            self.promised, self._last = max(self.promised, frame.synced), (frame.version, frame.time_ns)
            yield WalRecord(frame.version, frame.time_ns, frame.kind, payload, at, frame.end)
            at = frame.end

    def _check_end(self, at: int) -> None:
        """Nothing readable is at ``at``: was it promised?"""
        promised = max([self.promised, *(frame.synced for frame in self._frames(at + 1))])
        if promised > at:
            raise CorruptionError(
                f"log record is damaged below offset {promised}, up to which the log was synced; "
                f"the commits after version {self._last[0]} in this log are lost unless a copy is put back",
                self.path,
                at,
            )

    def _frames(self, at: int) -> Iterator[Frame]:
        """Frames that were written where they stand, at or after ``at``, whether or not the bytes between are whole."""
        step = 1 << 20
        while at + FRAME_BYTES <= len(self._data):
            # piecewise, so that a large log is never copied whole; pieces overlap by a frame
            piece = bytes(self._data[at : at + step + FRAME_BYTES])
            found = piece.find(MARK)
            while found >= 0:
                frame = decode_frame(self._data, at + found - 4, self.number)
                if frame is not None:
                    yield frame
                found = piece.find(MARK, found + 1)
            at += step


def salvage_wal(env: Env, path: str, number: int) -> Iterator[WalRecord | CorruptionError]:
    """Every record that reads, also behind damage, and an error for each stretch that does not. The header is not needed."""
    log = LogReader.__new__(LogReader)
    log.path, log.number, log._data = path, number, env.open(path, kind="wal").map()
    data, at = log._data, HEADER_BYTES
    while at < len(data):
        frame = decode_frame(data, at, number)
        payload = None if frame is None else payload_of(data, frame)
        if frame is not None and payload is not None:
            if frame.kind != END:
                yield WalRecord(frame.version, frame.time_ns, frame.kind, payload, at, frame.end)
            at = frame.end
            continue
        after = next((f.offset for f in log._frames(at + 1) if payload_of(data, f) is not None), None)
        if after is None:
            return  # a torn end is normal
        yield CorruptionError(f"{after - at} bytes of the log hold no record that reads", path, at)
        at = after


def seal_wal(env: Env, path: str, log: LogReader, *, cause: str = "recovery") -> None:
    """Make what was read final: cut the torn tail, write again what no record promises, append the end record, sync.

    ``log`` was iterated to its end. Without this, a record that was read here but never synced (or whose sync failed: it is
    read from memory then) could be lost in the next power loss while newer commits in a newer log survive. A sealed log
    stays as it is.
    """
    if log.sealed:
        return
    end = log.valid_end
    with env.append_to(path, kind="wal", cause=cause, truncate_at=end, again_from=log.promised) as file:
        file.sync()
        file.writev(encode_record(log.number, end, *log.last, END, end, []))
        file.sync()
