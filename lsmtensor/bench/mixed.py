"""Reads while rows are written, at a fixed rate: latencies that a user would see, waiting in the queue included.

Operations are due at fixed times (an open loop): one that finds the engine busy with the one before waits, and its latency counts from when it
was due, so a stall of a second shows in every operation that it delayed (no coordinated omission; Tene, 2013). One thread commits batches of
100 rows of a key, a number and 64 float32, another reads single rows and, every tenth time, searches. "reads alone" is the same without the writer.
The rate is a share of what the reader manages unhurried, measured in setup.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from . import latency
from .runner import Options, Ratio

DIM, BATCH = 64, 100
SHARE = 0.5
SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("n", pa.int64()), lt.Column("v", lt.tensor("float32", (DIM,)))], primary_key="id")


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    rows: int
    seconds: float
    rate: float = 0.0
    commits_per_second: float = 20.0


def setup(options: Options) -> State:
    state = State(options.path, options.config, *((2000, 0.5) if options.quick else (50_000, 5.0)))
    with _opened(state) as db:
        reader = _reader(db["t"], state.rows)
        for i in range(20):
            reader(i)
        begin = time.perf_counter()
        for i in range(100):
            reader(i)
        state.rate = SHARE * 100 / (time.perf_counter() - begin)
    return state


def cases(state: State) -> dict[str, dict[str, Any]]:
    shape = {"who": "lsmtensor", "rows": state.rows, "reads due a second": state.rate, "sync": state.config.wal.sync, "cores": 0}
    return {"reads alone": {**shape, "commits due a second": 0}, "reads and writes": {**shape, "commits due a second": state.commits_per_second}}


def ratios(state: State) -> list[Ratio]:
    return [Ratio("reads done a second: with writes / alone", "reads and writes", ("reads alone",), "reads/s")]


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"{state.rows} rows of {DIM} float32, batches of {BATCH}", "sha256": ""}


def _opened(state: State) -> lt.Database:
    path = state.folder / "mixed.lsm"
    shutil.rmtree(path, ignore_errors=True)
    db = lt.open(str(path), config=state.config)
    db.create_table("t", SCHEMA).insert(_rows(np.arange(state.rows)))
    db.flush()
    return db


def _rows(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"id": ids, "n": ids % 7, "v": np.random.default_rng(int(ids[0])).standard_normal((len(ids), DIM), dtype=np.float32)}


def _reader(table: lt.Table, rows: int) -> Callable[[int], None]:
    rng = np.random.default_rng(1)
    ids, query = rng.integers(0, rows, 1 << 16), rng.standard_normal(DIM).astype(np.float32)

    def read(number: int) -> None:
        if number % 10 == 9:
            table.search(query, k=10, column="v")
        elif table.get(int(ids[number % len(ids)])) is None:
            raise AssertionError("a row is gone")

    return read


def run(state: State, case: str) -> dict[str, float]:
    with _opened(state) as db:
        table = db["t"]
        written: list[float] = []

        def write() -> None:
            def commit(number: int) -> None:
                table.upsert(_rows(np.arange(number * BATCH, (number + 1) * BATCH)))

            written.extend(latency.due(commit, state.commits_per_second, state.seconds))

        writer = threading.Thread(target=write)
        if case == "reads and writes":
            writer.start()
        begin = time.perf_counter()
        read = latency.due(_reader(table, state.rows), state.rate, state.seconds)
        seconds = time.perf_counter() - begin
        if writer.ident is not None:
            writer.join()
    measures = {"reads/s": len(read) / seconds, **latency.percentiles("read", read, "ms")}
    return measures | (latency.percentiles("commit", written, "ms") if written else {})


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["reads/s"] > 0
