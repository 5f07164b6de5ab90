"""The benchmarks of LevelDB's and RocksDB's db_bench by their names: 16-byte keys, values of 100 bytes, one operation after the other unless the name says else.

Writes are handed to the operating system (``fillsync``: to the disk) as there. Each round begins with an empty database; reads are of what ``fillrandom`` and
``overwrite`` left, merged by ``compact`` between ``readrandom`` and ``readrandom, compacted``. Who has numbers of db_bench on their machine can set these beside them.
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
from .runner import Options

VALUE, BATCH, LARGE, HOT, SEEK = 100, 1000, 100_000, 0.01, 10
SCHEMA = lt.Schema([lt.Column("key", pa.binary()), lt.Column("value", pa.binary())], primary_key="key")


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    rows: int
    order: np.ndarray
    value: bytes
    db: lt.Database | None = None

    def fresh(self, sync: str = "none") -> lt.Table:
        """An empty table in an empty database."""
        self.close()
        shutil.rmtree(self.folder / "db_bench.lsm", ignore_errors=True)
        self.db = lt.open(str(self.folder / "db_bench.lsm"), config=self.config.with_set(f"wal.sync={sync}"))
        return self.db.create_table("t", SCHEMA, history="none")

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None


def setup(options: Options) -> State:
    rows = 2000 if options.quick else 100_000
    rng = np.random.default_rng(options.seed)
    return State(options.path, options.config, rows, rng.permutation(rows), rng.bytes(VALUE))


def cases(state: State) -> dict[str, dict[str, Any]]:
    return {name: {"who": "lsmtensor", "sync": "group" if name == "fillsync" else "none", "entries": state.rows} for name in BENCHMARKS}


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"db_bench, {state.rows} entries of 16 + {VALUE} bytes", "sha256": ""}


def key(number: int) -> bytes:
    return b"%016d" % number


def run(state: State, case: str) -> dict[str, float]:
    return BENCHMARKS[case](state)


def _told(state: State, operations: int, seconds: float, size: float, taken: list[float], wrong: float = 0.0) -> dict[str, float]:
    return {
        "operations/s": operations / seconds, "MB/s": size / seconds / 1e6, "wrong": wrong,
        **(latency.percentiles("", taken) if taken else {}),
    }  # fmt: skip


def _table(state: State) -> lt.Table:
    assert state.db is not None, "a fill comes first"
    return state.db["t"]


def _put(table: lt.Table, order: np.ndarray, value: bytes) -> list[float]:
    return latency.each(lambda k: table.put(k, {"value": value}), [key(i) for i in order.tolist()])


def _fill(order: Callable[[State], np.ndarray], sync: str = "none", value: int = VALUE, again: bool = False) -> Callable[[State], dict[str, float]]:
    def fill(state: State) -> dict[str, float]:
        table = _table(state) if again else state.fresh(sync)
        which = order(state)
        taken = _put(table, which, state.value * (value // VALUE))
        wrong = abs(len(table) - (state.rows if again else len(which)))
        return _told(state, len(which), sum(taken), len(which) * (16 + value), taken, wrong)

    return fill


def _fillbatch(state: State) -> dict[str, float]:
    table = state.fresh()
    given = [{"key": [key(i) for i in range(at, min(at + BATCH, state.rows))]} for at in range(0, state.rows, BATCH)]
    batches = [pa.table({"key": pa.array(g["key"], pa.binary()), "value": pa.array([state.value] * len(g["key"]), pa.binary())}) for g in given]
    begin = time.perf_counter()
    for batch in batches:
        table.upsert(batch)
    seconds = time.perf_counter() - begin
    return _told(state, state.rows, seconds, state.rows * (16 + VALUE), [], state.rows - len(table))


def _read(wanted: Callable[[State], np.ndarray], there: bool = True) -> Callable[[State], dict[str, float]]:
    def read(state: State) -> dict[str, float]:
        table, which = _table(state), wanted(state)
        found = [0]

        def one(k: bytes) -> None:
            found[0] += table.get(k) is not None

        keys = [key(i) for i in which.tolist()]
        one(keys[0])
        found[0] = 0
        taken = latency.each(one, keys)
        return _told(state, len(keys), sum(taken), found[0] * (16 + VALUE), taken, abs(found[0] - (len(keys) if there else 0)))

    return read


def _scan(reverse: bool) -> Callable[[State], dict[str, float]]:
    def scan(state: State) -> dict[str, float]:
        begin = time.perf_counter()
        rows = sum(b.num_rows for b in _table(state).scan(reverse=reverse))
        seconds = time.perf_counter() - begin
        return _told(state, rows, seconds, rows * (16 + VALUE), [], abs(rows - state.rows))

    return scan


def _seek(state: State) -> dict[str, float]:
    """To a key, and the ten entries from there on."""
    table, found = _table(state), [0]
    starts = state.order[: min(state.rows, 2000)]
    starts = starts[starts < state.rows - SEEK]

    def one(k: bytes) -> None:
        found[0] += sum(b.num_rows for b in table.scan(start=k, limit=SEEK))

    taken = latency.each(one, [key(i) for i in starts.tolist()])
    return _told(state, len(starts), sum(taken), found[0] * (16 + VALUE), taken, abs(found[0] - SEEK * len(starts)))


def _multiread(state: State) -> dict[str, float]:
    table, found = _table(state), 0
    asked = [pa.array([key(i) for i in state.order[at : at + BATCH].tolist()], pa.binary()) for at in range(0, state.rows, BATCH)]
    begin = time.perf_counter()
    for keys in asked:
        found += table.get_many(keys).num_rows
    seconds = time.perf_counter() - begin
    return _told(state, state.rows, seconds, found * (16 + VALUE), [], state.rows - found)


def _compact(state: State) -> dict[str, float]:
    assert state.db is not None
    begin = time.perf_counter()
    state.db.compact()
    seconds = time.perf_counter() - begin
    return _told(state, state.rows, seconds, state.rows * (16 + VALUE), [], abs(len(_table(state)) - state.rows))


def _read_while_writing(state: State) -> dict[str, float]:
    """Reads of one thread while another overwrites without pause."""
    table, stop = _table(state), threading.Event()

    def write() -> None:
        for i in state.order.tolist():
            if stop.is_set():
                return
            table.put(key(i), {"value": state.value})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return _read(lambda s: s.order[: s.rows // 5])(state)
    finally:
        stop.set()
        writer.join()


def _update(state: State) -> dict[str, float]:
    """Read, and write what was read."""
    table, wrong = _table(state), [0]

    def one(k: bytes) -> None:
        row = table.get(k)
        wrong[0] += row is None
        table.put(k, {"value": row["value"] if row else b""})

    keys = [key(i) for i in state.order[: state.rows // 5].tolist()]
    taken = latency.each(one, keys)
    return _told(state, len(keys), sum(taken), 2 * len(keys) * (16 + VALUE), taken, wrong[0])


def _delete(order: Callable[[State], np.ndarray]) -> Callable[[State], dict[str, float]]:
    def delete(state: State) -> dict[str, float]:
        table, which = _table(state), order(state)
        before = len(table)
        taken = latency.each(table.delete, [key(i) for i in which.tolist()])
        return _told(state, len(which), sum(taken), len(which) * 16, taken, abs(before - len(which) - len(table)))

    return delete


def _hot(state: State) -> np.ndarray:
    """From a hundredth of the keys."""
    few = max(1, int(HOT * state.rows))
    return state.order[np.arange(state.rows) % few]


BENCHMARKS: dict[str, Callable[[State], dict[str, float]]] = {
    "fillseq": _fill(lambda s: np.arange(s.rows)),
    "fillsync": _fill(lambda s: s.order[: max(1, s.rows // 100)], sync="group"),
    "fill100K": _fill(lambda s: s.order[: max(1, s.rows // 1000)], value=LARGE),
    "fillbatch": _fillbatch,
    "fillrandom": _fill(lambda s: s.order),
    "overwrite": _fill(lambda s: s.order[::-1], again=True),
    "readrandom": _read(lambda s: s.order),
    "readmissing": _read(lambda s: s.order + s.rows, there=False),
    "compact": _compact,
    "readrandom, compacted": _read(lambda s: s.order),
    "readhot": _read(_hot),
    "multireadrandom": _multiread,
    "readseq": _scan(reverse=False),
    "readreverse": _scan(reverse=True),
    "seekrandom": _seek,
    "updaterandom": _update,
    "readwhilewriting": _read_while_writing,
    "deleteseq": _delete(lambda s: np.arange(s.rows // 2)),
    "deleterandom": _delete(lambda s: s.order[s.order >= s.rows // 2]),
}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["wrong"] == 0, f"{case}: {measures['wrong']:.0f} entries are not what they should be"


def teardown(state: State) -> None:
    state.close()
