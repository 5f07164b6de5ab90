"""LMDB: a B-tree in a memory map (pip install lmdb)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base import KeyedTables, Keys


class Lmdb(Keys):
    name, needs = "LMDB", "lmdb"

    def open(self, folder: Path) -> None:
        import lmdb

        self.env = lmdb.open(str(folder / "lmdb"), map_size=8 << 30)
        self.reader = None

    def put(self, keys: list[bytes], values: list[bytes]) -> None:
        with self.env.begin(write=True) as txn:
            txn.cursor().putmulti(list(zip(keys, values, strict=True)))

    def get(self, key: bytes) -> bytes | None:
        with self.env.begin() as txn:
            found: bytes | None = txn.get(key)
            return found

    def values(self) -> Iterator[bytes]:
        with self.env.begin() as txn:
            yield from txn.cursor().iternext(keys=False)

    def close(self) -> None:
        self.env.close()


class LmdbRows(KeyedTables):
    name, needs, store = "LMDB", "lmdb", Lmdb
