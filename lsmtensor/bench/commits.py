"""Single rows: synced commits by one thread, by several that share syncs, and by one that does not wait; reads with a past.

Each commit is one ``put`` of a 16-byte key and 100 bytes, durable when it returns (``sync=group``). "future" is one thread that
keeps up to 64 commits under way. Reads are of the newest version, with one version of each key behind it and with a thousand.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from .runner import Options, Ratio

SCHEMA = lt.Schema([lt.Column("key", pa.string()), lt.Column("value", pa.binary())], primary_key="key")
KEYS = 200
BEHIND = ", old versions behind"


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    commits: int
    versions: int
    reads: dict[str, lt.Database] = field(default_factory=dict)


def setup(options: Options) -> State:
    state = State(options.path, options.config, 100 if options.quick else 400, 50 if options.quick else 1000)
    for name, versions in (("", 1), (BEHIND, state.versions)):
        db = lt.open(str(state.folder / f"read{versions}.lsm"), config=options.config.with_set("wal.sync=none"))
        table = db.create_table("rows", SCHEMA, history="forever")
        for version in range(versions):
            table.upsert({"key": [_key(i) for i in range(KEYS)], "value": [bytes(100)] * KEYS})
            if version % 100 == 99:
                db.flush()
        db.compact()
        state.reads[name] = db
    return state


def _key(i: int) -> str:
    return f"key-{i:012d}"


def cases(state: State) -> dict[str, dict[str, Any]]:
    sync = {"who": "lsmtensor", "sync": state.config.wal.sync, "cores": 0}
    return {
        "put, 1 thread": {"threads": 1, **sync}, "put, 8 threads": {"threads": 8, **sync}, "put, 32 threads": {"threads": 32, **sync},
        "put, futures": {"threads": 1, **sync},
        **{f"{what}{name}": {"who": "lsmtensor", "versions": state.versions if name else 1} for what in ("get", "scan") for name in ("", BEHIND)},
    }  # fmt: skip


def ratios(state: State) -> list[Ratio]:
    one = ("put, 1 thread",)
    return [Ratio(f"{case} / 1 thread", case, one, "per second") for case in ("put, 8 threads", "put, 32 threads", "put, futures")] + [
        Ratio(f"{what} with old versions behind / without", f"{what}{BEHIND}", (what,), "per second") for what in ("get", "scan")
    ]


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"{state.commits} commits of one row; {KEYS} keys of {state.versions} versions", "sha256": ""}


def run(state: State, case: str) -> dict[str, float]:
    if case.startswith(("get", "scan")):
        return (_get if case.startswith("get") else _scan)(state.reads[case.removeprefix("get").removeprefix("scan")])
    path = state.folder / "write.lsm"
    shutil.rmtree(path, ignore_errors=True)
    with lt.open(str(path), config=state.config) as db:
        table = db.create_table("rows", SCHEMA)
        threads = int(cases(state)[case]["threads"])
        total = state.commits * (1 if threads == 1 else 4)
        begin = time.perf_counter()
        if case == "put, futures":
            _futures(db, total)
        else:
            _threads(table, threads, total)
        seconds = time.perf_counter() - begin
        rows = float(len(table))
    return {"per second": total / seconds, "rows": rows, "wanted": float(total)}


def _threads(table: Any, threads: int, total: int) -> None:
    def work(first: int) -> None:
        for i in range(first, total, threads):
            table.put(_key(i), {"value": bytes(100)})

    if threads == 1:
        return work(0)
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _futures(db: lt.Database, total: int) -> None:
    under_way: deque[Any] = deque()
    for i in range(total):
        txn = db.transaction()
        txn["rows"].put(_key(i), {"value": bytes(100)})
        under_way.append(txn.commit(wait=False))
        if len(under_way) >= 64:
            under_way.popleft().result()
    for future in under_way:
        future.result()


def _get(db: lt.Database) -> dict[str, float]:
    table, order = db["rows"], np.random.default_rng(0).integers(0, KEYS, 1000).tolist()
    for i in order[:50]:
        table.get(_key(i))
    begin = time.perf_counter()
    found = sum(table.get(_key(i)) is not None for i in order)
    return {"per second": len(order) / (time.perf_counter() - begin), "rows": float(found), "wanted": float(len(order))}


def _scan(db: lt.Database) -> dict[str, float]:
    table, times = db["rows"], 100
    table.to_arrow()
    begin = time.perf_counter()
    found = sum(table.to_arrow().num_rows for _ in range(times))
    return {"per second": times / (time.perf_counter() - begin), "rows": float(found), "wanted": float(times * KEYS)}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["rows"] == measures["wanted"], f"{case}: {measures['rows']:.0f} rows of {measures['wanted']:.0f}"


def teardown(state: State) -> None:
    for db in state.reads.values():
        db.close()
