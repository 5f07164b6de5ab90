"""YCSB A to F: reads, updates, inserts, short scans and read-modify-writes over keys that are asked for unequally.

The core workloads of Cooper et al. (SoCC 2010): zipfian keys (exponent 0.99, scattered over the key space), latest for D. One thread, one
operation after the other; rows are a 16-byte key and a value of 1,000 bytes. Each round loads a database afresh, untimed, then runs one workload.
``wal.sync`` decides what an update costs: ``--set wal.sync=none`` for the engine without the disk.
Latencies are of single calls; there is no queue, so none is left out.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from .runner import Options

VALUE = 1000
THETA = 0.99
SCAN = 50
MIXES: dict[str, dict[str, float]] = {
    "A: half reads, half updates": {"read": 0.5, "update": 0.5},
    "B: 95% reads, 5% updates": {"read": 0.95, "update": 0.05},
    "C: reads": {"read": 1.0},
    "D: the latest": {"read": 0.95, "insert": 0.05},
    "E: short scans": {"scan": 0.95, "insert": 0.05},
    "F: read, change, write": {"read": 0.5, "change": 0.5},
}
SCHEMA = lt.Schema([lt.Column("key", pa.string()), lt.Column("value", pa.binary())], primary_key="key")


@dataclass
class State:
    folder: Path
    own_folder: bool
    config: lt.RunConfig
    rows: int
    operations: int
    seed: int


def setup(options: Options) -> State:
    folder = Path(options.folder) if options.folder else Path(tempfile.mkdtemp(prefix="lsmtensor-ycsb-", dir="."))
    folder.mkdir(parents=True, exist_ok=True)
    rows, operations = (1000, 300) if options.quick else (100_000, 5000)
    return State(folder, options.folder is None, options.config, rows, operations, options.seed)


def cases(state: State) -> dict[str, dict[str, Any]]:
    return {name: {"who": "lsmtensor", "sync": state.config.wal.sync, "rows": state.rows, "mix": mix} for name, mix in MIXES.items()}


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"YCSB, {state.rows} rows of {VALUE} bytes, {state.operations} operations", "sha256": str(state.seed)}


def key(number: int) -> str:
    """16 letters; numbers next to each other lie far apart, as YCSB's hashed keys do."""
    return f"{(number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF:016x}"


def zipfian(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (draws,): ranks 0 … count - 1, rank r with a probability in proportion to (r + 1)^-0.99. O(count + draws log count)."""
    share = np.cumsum((1.0 + np.arange(count)) ** -THETA)
    return np.searchsorted(share, rng.random(draws) * share[-1], side="right")


def run(state: State, case: str) -> dict[str, float]:
    rng = np.random.default_rng(state.seed)
    path = state.folder / "ycsb.lsm"
    shutil.rmtree(path, ignore_errors=True)
    with lt.open(str(path), config=state.config) as db:
        table = db.create_table("t", SCHEMA, history="none")
        value = rng.bytes(VALUE)
        for at in range(0, state.rows, 10_000):
            stop = min(at + 10_000, state.rows)
            table.insert({"key": [key(i) for i in range(at, stop)], "value": [value] * (stop - at)})
        db.flush()
        db.compact()
        names = list(MIXES[case])
        plan = rng.choice(len(names), state.operations, p=list(MIXES[case].values()))
        ranks = zipfian(state.rows, state.operations, rng)
        return _operations(table, [names[i] for i in plan], ranks, state.rows, value, latest=case.startswith("D"))


def _operations(table: lt.Table, plan: list[str], ranks: np.ndarray, rows: int, value: bytes, *, latest: bool) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    count, wrong = rows, 0
    table.get(key(0))
    start = time.perf_counter()
    for act, rank in zip(plan, ranks.tolist(), strict=True):
        # ranks are popularity; D's most popular row is the newest
        wanted = key(count - 1 - rank if latest else rank)
        begin = time.perf_counter()
        if act in ("read", "change"):
            row = table.get(wanted)
            wrong += row is None or len(row["value"]) != VALUE
        if act in ("update", "change"):
            table.put(wanted, {"value": value})
        elif act == "insert":
            table.put(key(count), {"value": value})
            count += 1
        elif act == "scan":
            found = sum(b.num_rows for b in table.scan(start=wanted, limit=SCAN))
            wrong += not 0 < found <= SCAN
        taken.setdefault(act, []).append(time.perf_counter() - begin)
    seconds = time.perf_counter() - start
    measures = {"operations/s": len(plan) / seconds, "wrong": float(wrong + (len(table) != count))}
    for act, each in taken.items():
        p50, p99 = np.percentile(each, [50, 99])
        measures |= {f"{act} p50 us": p50 * 1e6, f"{act} p99 us": p99 * 1e6}
    return measures


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["wrong"] == 0, f"{case}: {measures['wrong']:.0f} rows were absent or wrong"


def teardown(state: State) -> None:
    shutil.rmtree(state.folder / "ycsb.lsm", ignore_errors=True)
    if state.own_folder:
        shutil.rmtree(state.folder, ignore_errors=True)
