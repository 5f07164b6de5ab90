"""The parts of a table file that are ours: chunks, sections, trailer. The picture is in docs/format.md."""

from __future__ import annotations

import base64
import struct
from typing import Any

FORMAT = 1
MAGIC = b"LSMTSST\x01"
# magic, format, directory length, directory offset, directory CRC, footer length, footer CRC, end of chunks, file number, trailer CRC
TRAILER = struct.Struct("<8sIIQIIIxxxxQQI4x")
_PLACE = struct.Struct("<QQ")


def place(number: int, offset: int) -> bytes:
    """What a checksum begins with: file and offset, so that misdirected bytes do not pass."""
    return _PLACE.pack(number, offset)


def key_json(key: int | bytes) -> Any:
    return key if isinstance(key, int) else {"b64": base64.b64encode(key).decode()}


def key_value(value: Any) -> int | bytes:
    return value if isinstance(value, int) else base64.b64decode(value["b64"])
