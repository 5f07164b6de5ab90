"""The write-ahead log: framed records that survive a crash up to the last one that was promised.

``writer.WalWriter`` appends, ``reader.read_wal`` reads back, ``sync.sync_mode`` parses the sync modes,
``format`` holds the bytes (docs/format-wal.md). What a payload means is the tree's affair.
"""

from __future__ import annotations

from .format import BATCHES, END, ROWS
from .reader import LogReader, WalRecord, read_wal, seal_wal
from .sync import SyncMode, sync_mode
from .writer import WalWriter

__all__ = [
    "BATCHES",
    "END",
    "ROWS",
    "LogReader",
    "SyncMode",
    "WalRecord",
    "WalWriter",
    "read_wal",
    "seal_wal",
    "sync_mode",
]
