"""SQLite with a write-ahead log, every commit synced; it comes with Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from .base import Keys


class SQLite(Keys):
    name, needs = "SQLite", "sqlite3"

    def open(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "x.sqlite", isolation_level=None)
        for setting in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID"):
            self.db.execute(setting)

    def put(self, keys: list[bytes], values: list[bytes]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", zip(keys, values, strict=True))
        self.db.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        row = self.db.execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def values(self) -> Iterator[bytes]:
        yield from (value for (value,) in self.db.execute("SELECT v FROM t ORDER BY k"))

    def close(self) -> None:
        self.db.close()
