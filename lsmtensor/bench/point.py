"""Single rows beside RocksDB and LMDB: 16-byte keys, 100-byte values, each commit handed to the operating system.

Keys are random and asked for in another random order. "memory" reads what was just put, "files" what was written in batches, merged into files.
A get answers a dict of the row here and bytes there. "open" is a database of ten times the rows, opened and asked for one.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from .rivals import SCHEMA, chosen
from .runner import Options, Ratio

BATCH = 1000
VALUE = bytes(range(100))


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    stores: list[Any]
    keys: list[bytes]
    order: list[bytes]
    tables: list[pa.Table]
    asked: list[pa.Array]
    key_batches: list[list[bytes]]
    many: Path
    many_rows: int
    open_stores: dict[str, Any] = field(default_factory=dict)


def setup(options: Options) -> State:
    n = 5_000 if options.quick else 100_000
    luck = np.random.default_rng(options.seed)
    raw = luck.integers(0, 256, (n, 16), np.uint8)
    keys = [bytes(k) for k in raw]
    order = [keys[i] for i in luck.permutation(n)]
    key_batches = [keys[i : i + BATCH] for i in range(0, n, BATCH)]
    tables = [_table(b) for b in key_batches]
    asked = [pa.array(order[i : i + BATCH], pa.binary()) for i in range(0, n, BATCH)]
    many, rows = options.path / "many.lsm", 10 * n
    with lt.open(str(many), config=options.config.with_set("wal.sync=none")) as db:
        table = db.create_table("rows", SCHEMA)
        for i in range(0, rows, BATCH):
            table.upsert(_table([b"%016d" % k for k in range(i, i + BATCH)]))
    return State(options.path, options.config, chosen(options.peers), keys, order, tables, asked, key_batches, many, rows)


def _table(keys: list[bytes]) -> pa.Table:
    return pa.table({"key": pa.array(keys, pa.binary()), "value": pa.array([VALUE] * len(keys), pa.binary())})


def cases(state: State) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for what in ("put", "get, memory", "batches", "get, files", "get_many, files", "scan"):
        for store in state.stores:
            if what != "get_many, files" or store.who == "lsmtensor":
                made[f"{what}, {store.who}"] = {"who": store.who if store.who == "lsmtensor" else "peer", "rows": len(state.keys), "sync": "none"}
    made["open, lsmtensor"] = {"who": "lsmtensor", "rows": state.many_rows}
    return made


def ratios(state: State) -> list[Ratio]:
    wanted = [
        ("put", "put", "rocksdb"), ("batches", "batches", "rocksdb"), ("get, memory", "get, memory", "lmdb"), ("get, memory", "get, memory", "rocksdb"),
        ("get, files", "get, files", "rocksdb"), ("get, files", "get, files", "lmdb"), ("get_many, files", "get, files", "lmdb"), ("scan", "scan", "lmdb"),
    ]  # fmt: skip
    known = cases(state)
    return [
        Ratio(f"{ours} / {other} of {peer}", f"{ours}, lsmtensor", (f"{other}, {peer}",), "per second")
        for ours, other, peer in wanted
        if f"{other}, {peer}" in known
    ]


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"{len(state.keys)} random keys of 16 bytes", "sha256": hashlib.sha256(b"".join(state.keys)).hexdigest()}


def run(state: State, case: str) -> dict[str, float]:
    what, _, who = case.rpartition(", ")
    if what == "open":
        return _open(state)
    n = float(len(state.keys))
    if what in ("put", "batches"):
        _fresh(state, who)
    store = state.open_stores[who]
    if what == "get, files":
        store.settle()
    if what.startswith("get"):
        store.get(state.order[: len(state.order) // 10])
    if what.startswith("get_many"):
        store.get_many(state.asked[:10])
    given = state.tables if who == "lsmtensor" else state.key_batches
    begin = time.perf_counter()
    if what == "put":
        store.put(state.keys, VALUE)
        found = n
    elif what == "batches":
        store.batches(given, VALUE)
        found = n
    elif what == "get_many, files":
        found = store.get_many(state.asked)
    elif what == "scan":
        found = store.scan()
    else:
        found = store.get(state.order)
    return {"per second": n / (time.perf_counter() - begin), "rows": float(found), "wanted": n}


def _fresh(state: State, who: str) -> None:
    before = state.open_stores.pop(who, None)
    if before is not None:
        before.close()
    store = next(s for s in state.stores if s.who == who)
    state.open_stores[who] = store(state.folder / f"{who}.db", state.config)


def _open(state: State) -> dict[str, float]:
    begin = time.perf_counter()
    db = lt.open(str(state.many), config=state.config.with_set("wal.sync=none"))
    opened = time.perf_counter()
    found = db["rows"].get(b"%016d" % 7) is not None
    first = time.perf_counter()
    db.close()
    return {"ms": (opened - begin) * 1e3, "ms with first get": (first - begin) * 1e3, "rows": float(found), "wanted": 1.0}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["rows"] == measures["wanted"], f"{case}: {measures['rows']:.0f} rows of {measures['wanted']:.0f}"


def teardown(state: State) -> None:
    for store in state.open_stores.values():
        store.close()
