"""YCSB A to F: reads, updates, inserts, short scans and read-modify-writes over keys that are asked for unequally.

The core workloads of Cooper et al. (SoCC 2010): zipfian keys (exponent 0.99, scattered over the key space), latest for D. One thread, one
operation after the other; rows are a 16-byte key and a value of 1,000 bytes. Each round loads a database afresh, untimed, then runs one workload.
``wal.sync`` decides what an update costs. With ``--set wal.sync=none``, the engine without the disk, RocksDB and LMDB run beside it, which
do not wait for the disk either.
Latencies are of single calls; there is no queue, so none is left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from .rivals import Ours, chosen
from .runner import Options, Ratio

VALUE = 1000
THETA = 0.99
SCAN = 50
LOAD = 10_000  # rows of a batch
MIXES: dict[str, dict[str, float]] = {
    "A: half reads, half updates": {"read": 0.5, "update": 0.5},
    "B: 95% reads, 5% updates": {"read": 0.95, "update": 0.05},
    "C: reads": {"read": 1.0},
    "D: the latest": {"read": 0.95, "insert": 0.05},
    "E: short scans": {"scan": 0.95, "insert": 0.05},
    "F: read, change, write": {"read": 0.5, "change": 0.5},
}


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    stores: list[Any]
    rows: int
    operations: int
    seed: int


def setup(options: Options) -> State:
    folder = options.path
    rows, operations = (1000, 300) if options.quick else (100_000, 50_000)
    stores = chosen(options.peers) if options.config.wal.sync == "none" else [Ours]
    return State(folder, options.config, stores, rows, operations, options.seed)


def cases(state: State) -> dict[str, dict[str, Any]]:
    return {
        f"{name}, {store.who}": {"who": store.who if store is Ours else "peer", "sync": state.config.wal.sync, "rows": state.rows, "mix": mix}
        for name, mix in MIXES.items()
        for store in state.stores
    }


def ratios(state: State) -> list[Ratio]:
    peers = [s.who for s in state.stores if s is not Ours]
    return [Ratio(f"{name[0]} / {who}", f"{name}, lsmtensor", (f"{name}, {who}",), "operations/s") for name in MIXES for who in peers]


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"YCSB, {state.rows} rows of {VALUE} bytes, {state.operations} operations", "sha256": str(state.seed)}


def key(number: int) -> bytes:
    """16 bytes; numbers next to each other lie far apart, as YCSB's hashed keys do."""
    return b"%016x" % ((number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)


def zipfian(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (draws,): ranks 0 … count - 1, rank r with a probability in proportion to (r + 1)^-0.99. O(count + draws log count)."""
    share = np.cumsum((1.0 + np.arange(count)) ** -THETA)
    return np.searchsorted(share, rng.random(draws) * share[-1], side="right")


def run(state: State, case: str) -> dict[str, float]:
    mix, _, who = case.rpartition(", ")
    rng = np.random.default_rng(state.seed)
    made = next(s for s in state.stores if s.who == who)
    path = state.folder / f"ycsb-{who}.db"
    store = made(path, state.config, state.config.wal.sync) if made is Ours else made(path, state.config)
    try:
        value = rng.bytes(VALUE)
        for at in range(0, state.rows, LOAD):
            keys = [key(i) for i in range(at, min(at + LOAD, state.rows))]
            store.batches([pa.table({"key": pa.array(keys, pa.binary()), "value": [value] * len(keys)}) if made is Ours else keys], value)
        store.settle()
        names = list(MIXES[mix])
        plan = rng.choice(len(names), state.operations, p=list(MIXES[mix].values()))
        ranks = zipfian(state.rows, state.operations, rng)
        return _operations(store, [names[i] for i in plan], ranks, state.rows, value, latest=mix.startswith("D"))
    finally:
        store.close()


def _operations(store: Any, plan: list[str], ranks: np.ndarray, rows: int, value: bytes, *, latest: bool) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    count, wrong = rows, 0
    store.read(key(0))
    start = time.perf_counter()
    for act, rank in zip(plan, ranks.tolist(), strict=True):
        # ranks are popularity; D's most popular row is the newest
        wanted = key(count - 1 - rank if latest else rank)
        begin = time.perf_counter()
        if act in ("read", "change"):
            found = store.read(wanted)
            wrong += found is None or len(found) != VALUE
        if act in ("update", "change"):
            store.write(wanted, value)
        elif act == "insert":
            store.write(key(count), value)
            count += 1
        elif act == "scan":
            wrong += not 0 < store.following(wanted, SCAN) <= SCAN
        taken.setdefault(act, []).append(time.perf_counter() - begin)
    seconds = time.perf_counter() - start
    measures = {"operations/s": len(plan) / seconds, "wrong": float(wrong + (len(store) != count))}
    for act, each in taken.items():
        p50, p99 = np.percentile(each, [50, 99])
        measures |= {f"{act} p50 us": p50 * 1e6, f"{act} p99 us": p99 * 1e6}
    return measures


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["wrong"] == 0, f"{case}: {measures['wrong']:.0f} rows were absent or wrong"
