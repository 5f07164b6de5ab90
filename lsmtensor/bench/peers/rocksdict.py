"""RocksDB through rocksdict (pip install rocksdict)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import KeyedTables, Keys


class RocksDB(Keys):
    name, needs = "RocksDB", "rocksdict"

    def open(self, folder: Path) -> None:
        from rocksdict import Options, Rdict, WriteOptions

        self.db = Rdict(str(folder / "rocks"), Options(raw_mode=True))
        self.synced = WriteOptions()
        self.synced.sync = True

    def put(self, keys: list[bytes], values: list[bytes]) -> None:
        from rocksdict import WriteBatch

        batch = WriteBatch(raw_mode=True)
        for key, value in zip(keys, values, strict=True):
            batch.put(key, value)
        self.db.write(batch, self.synced)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self.db.get(key)
        return found

    def values(self) -> Iterator[bytes]:
        yield from self.db.values()

    def close(self) -> None:
        self.db.close()


class RocksRows(KeyedTables):
    name, needs, store = "RocksDB", "rocksdict", RocksDB
