"""One key-value store behind one face, for ``point`` and ``ycsb``: lsmtensor, RocksDB through rocksdict, LMDB. Keys and values are bytes.

Every store hands a commit to the operating system and does not wait for the disk: RocksDB's default, LMDB with ``sync=False``,
``wal.sync=none`` here.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import lsmtensor as lt

from ..errors import UnavailableError

SCHEMA = lt.Schema([lt.Column("key", pa.binary()), lt.Column("value", pa.binary())], primary_key="key")


class Ours:
    """A table of two binary columns."""

    who = "lsmtensor"

    def __init__(self, path: Path, config: lt.RunConfig, sync: str = "none") -> None:
        shutil.rmtree(path, ignore_errors=True)
        self.db = lt.open(str(path), config=config.with_set(f"wal.sync={sync}"))
        self.table = self.db.create_table("rows", SCHEMA, history="none")

    def read(self, key: bytes) -> bytes | None:
        row = self.table.get(key)
        return None if row is None else row["value"]

    def write(self, key: bytes, value: bytes) -> None:
        self.table.put(key, {"value": value})

    def following(self, key: bytes, n: int) -> int:
        """How many rows of ``n`` asked for there are from a key on; each is looked at."""
        return len(self.table.scan(start=key, limit=n).read_all().column("value").to_pylist())

    def __len__(self) -> int:
        return len(self.table)

    def put(self, keys: Iterable[bytes], value: bytes) -> None:
        put = self.table.put
        for key in keys:
            put(key, {"value": value})

    def batches(self, batches: Sequence[Any], value: bytes) -> None:
        """Batches are Arrow tables, made before."""
        for batch in batches:
            self.table.upsert(batch)

    def get(self, keys: Iterable[bytes]) -> int:
        get, found = self.table.get, 0
        for key in keys:
            found += get(key) is not None
        return found

    def get_many(self, batches: Sequence[Any]) -> int:
        return sum(self.table.get_many(keys).num_rows for keys in batches)

    def scan(self) -> int:
        return sum(batch.num_rows for batch in self.table.scan())

    def settle(self) -> None:
        """What is held goes to files, merged."""
        self.db.compact()

    def close(self) -> None:
        self.db.close()


class Rocks:
    """RocksDB with its defaults, raw bytes."""

    who = "rocksdb"

    def __init__(self, path: Path, config: lt.RunConfig) -> None:
        self._lib = _needed("rocksdict")
        shutil.rmtree(path, ignore_errors=True)
        self.db = self._lib.Rdict(str(path), self._lib.Options(raw_mode=True))

    def read(self, key: bytes) -> bytes | None:
        return self.db.get(key)  # type: ignore[no-any-return]

    def write(self, key: bytes, value: bytes) -> None:
        self.db[key] = value

    def following(self, key: bytes, n: int) -> int:
        return sum(1 for _ in itertools.islice(self.db.items(from_key=key), n))

    def __len__(self) -> int:
        return self.scan()

    def put(self, keys: Iterable[bytes], value: bytes) -> None:
        db = self.db
        for key in keys:
            db[key] = value

    def batches(self, batches: Sequence[Sequence[bytes]], value: bytes) -> None:
        for keys in batches:
            batch = self._lib.WriteBatch(raw_mode=True)
            for key in keys:
                batch.put(key, value)
            self.db.write(batch)

    def get(self, keys: Iterable[bytes]) -> int:
        db, found = self.db, 0
        for key in keys:
            found += db[key] is not None
        return found

    def scan(self) -> int:
        return sum(1 for _ in self.db.items())

    def settle(self) -> None:
        self.db.flush()
        self.db.compact_range(None, None)

    def close(self) -> None:
        self.db.close()


class Lmdb:
    """LMDB without syncs; a write is a transaction of its own, all reads of a call share one."""

    who = "lmdb"

    def __init__(self, path: Path, config: lt.RunConfig) -> None:
        shutil.rmtree(path, ignore_errors=True)
        self.env = _needed("lmdb").open(str(path), map_size=16 << 30, sync=False, metasync=False)

    def read(self, key: bytes) -> bytes | None:
        with self.env.begin() as txn:
            return txn.get(key)  # type: ignore[no-any-return]

    def write(self, key: bytes, value: bytes) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(key, value)

    def following(self, key: bytes, n: int) -> int:
        with self.env.begin() as txn:
            cursor = txn.cursor()
            return sum(1 for _ in itertools.islice(cursor, n)) if cursor.set_range(key) else 0

    def __len__(self) -> int:
        return self.scan()

    def put(self, keys: Iterable[bytes], value: bytes) -> None:
        begin = self.env.begin
        for key in keys:
            with begin(write=True) as txn:
                txn.put(key, value)

    def batches(self, batches: Sequence[Sequence[bytes]], value: bytes) -> None:
        for keys in batches:
            with self.env.begin(write=True) as txn:
                for key in keys:
                    txn.put(key, value)

    def get(self, keys: Iterable[bytes]) -> int:
        found = 0
        with self.env.begin() as txn:
            get = txn.get
            for key in keys:
                found += get(key) is not None
        return found

    def scan(self) -> int:
        with self.env.begin() as txn:
            return sum(1 for _ in txn.cursor())

    def settle(self) -> None:
        self.env.sync(True)

    def close(self) -> None:
        self.env.close()


STORES: dict[str, Any] = {"rocksdb": Rocks, "lmdb": Lmdb}


def chosen(peers: tuple[str, ...] | None) -> list[Any]:
    """Ours, and the peers that were named (of those that this knows), or all that are installed."""
    found: list[Any] = [Ours]
    for name, store in STORES.items():
        if peers is None:
            try:
                _needed("rocksdict" if name == "rocksdb" else name)
            except UnavailableError:
                continue
            found.append(store)
        elif name in peers:
            found.append(store)
    return found


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as why:
        raise UnavailableError(f"peer {package!r} is not installed ({why}); install it with: pip install 'lsmtensor[peers]'") from why
