"""The bytes of a log, little-endian; docs/format-wal.md says what each field is for.

::

    log    := header record*
    header := magic[8] major:u16 minor:u16 owner:u32 number:u64 0:u32 crc:u32                           32 bytes
    record := crc:u32 mark[4] length:u64 version:u64 time_ns:i64 synced:u64 kind:u8 0[3] payload_crc:u32 48 bytes
              payload[length] 0[pad to 8]
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..env.checksum import crc32c
from ..errors import CorruptionError, FormatVersionError

# On disk: never change, never renumber.
MAGIC = b"LSMTWAL\x00"
MAJOR, MINOR = 1, 0
MARK = b"LTWR"
BATCHES = 1  # the payload is Arrow batches
ROWS = 2  # the payload is compact rows
END = 3  # the log was closed here; the payload is empty, or the number and length of the manifest then
KINDS = (BATCHES, ROWS, END)

ALIGN = 8
_HEADER = struct.Struct("<8sHHIQI")
_FRAME = struct.Struct("<4sQQqQB3sI")
_PLACE = struct.Struct("<QQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
FRAME_BYTES = _CRC.size + _FRAME.size


@dataclass(frozen=True)
class Frame:
    """A record's frame whose own checksum is right. ``end`` is where the next record begins."""

    offset: int
    length: int
    version: int
    time_ns: int
    synced: int
    kind: int
    payload_crc: int

    @property
    def start(self) -> int:
        return self.offset + FRAME_BYTES

    @property
    def end(self) -> int:
        return self.start + self.length + -self.length % ALIGN


def encode_header(number: int, owner: int = 0) -> bytes:
    """The first 32 bytes of log ``number`` of the database with id ``owner`` (0: of none)."""
    body = _HEADER.pack(MAGIC, MAJOR, MINOR, owner, number, 0)
    return body + _CRC.pack(crc32c(body))


def check_header(data: memoryview, number: int, path: str, owner: int = 0) -> None:
    """The header is synced before a log is used, so damage here is never a torn write.

    `CorruptionError` for damage or another log's file, `FormatVersionError` for a newer major version.
    """
    lost = "the commits in this log are lost unless the file is put back"
    if len(data) < HEADER_BYTES:
        raise CorruptionError(f"the log has {len(data)} bytes, its header alone takes {HEADER_BYTES}; {lost}", path, 0)
    body = bytes(data[: _HEADER.size])
    magic, major, _minor, whose, found, _zero = _HEADER.unpack(body)
    (stored,) = _CRC.unpack_from(data, _HEADER.size)
    if magic != MAGIC:
        raise CorruptionError(f"this is not a log: it begins with {magic!r}, wanted {MAGIC!r}; {lost}", path, 0)
    computed = crc32c(body)
    if stored != computed:
        text = f"log header checksum mismatch: stored {stored:#010x}, computed {computed:#010x}"
        raise CorruptionError(f"{text}; {lost}", path, 0)
    if major > MAJOR:
        raise FormatVersionError(f"{path} has log format {major}; this lsmtensor reads 1 to {MAJOR}; upgrade lsmtensor")
    if found != number:
        raise CorruptionError(f"this file is log {found}, wanted log {number}: a misplaced file; {lost}", path, 0)
    if owner and whose and whose != owner:
        raise CorruptionError(f"this log is of another database (id {whose:08x}, wanted {owner:08x}); {lost}", path, 0)


def encode_record(
    number: int, offset: int, version: int, time_ns: int, kind: int, synced: int, payload: Sequence[Any]
) -> list[Any]:
    """The record as buffers [frame, *payload, padding], the payload not copied. O(payload) for its CRC."""
    views: list[memoryview[int]] = [memoryview(b).cast("B") for b in payload if memoryview(b).nbytes]
    length = sum(view.nbytes for view in views)
    if length % ALIGN:
        views.append(memoryview(bytes(-length % ALIGN)))
    crc = 0
    for view in views:
        crc = crc32c(view, crc)
    body = _FRAME.pack(MARK, length, version, time_ns, synced, kind, bytes(3), crc)
    return [_CRC.pack(_frame_crc(number, offset, body)) + body, *views]


def _frame_crc(number: int, offset: int, body: bytes) -> int:
    # a record found at another place, or in another log (recycled space), must not pass for one written here
    crc: int = crc32c(body, crc32c(_PLACE.pack(number, offset)))
    return crc


def decode_frame(data: memoryview, offset: int, number: int) -> Frame | None:
    """The frame at ``offset``, or None where there is none that was written there. The payload is not looked at."""
    if offset + FRAME_BYTES > len(data):
        return None
    body = bytes(data[offset + _CRC.size : offset + FRAME_BYTES])
    if not body.startswith(MARK) or _CRC.unpack_from(data, offset)[0] != _frame_crc(number, offset, body):
        return None
    _mark, length, version, time_ns, synced, kind, _zero, payload_crc = _FRAME.unpack(body)
    return Frame(offset, length, version, time_ns, synced, kind, payload_crc)


def payload_of(data: memoryview, frame: Frame) -> memoryview | None:
    """The payload, no copy; None where the file ends before it or its checksum is wrong. O(payload)."""
    if frame.end > len(data) or crc32c(data[frame.start : frame.end]) != frame.payload_crc:
        return None
    return data[frame.start : frame.start + frame.length]
