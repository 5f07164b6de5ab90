"""What a row and a query cost as a table grows, from 10 thousand rows to a million, on one core and on two: points for curves.

Rows are an int64 key, a scalar and a clustered float32 vector of 32, committed durably in batches of 10,000, then merged and indexed (``fqg``). Another process
opens the result: what it measures is what a user's would be, and its memory is its own. `scale_page` fits powers of the rows and writes docs/scale.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from ..errors import LsmTensorError
from . import vectors
from .recall import recall, truth
from .runner import Options

DIM, BATCH, K, EF, ASKED, GETS = 32, 10_000, 10, 64, 200, 2000
SIZES, QUICK = (10_000, 30_000, 100_000, 300_000, 1_000_000), (1000, 3000, 10_000)
THREADS = (1, 2)
SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("n", pa.int64()), lt.Column("v", lt.tensor("float32", (DIM,)))], primary_key="id")


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    data: vectors.Vectors
    true: dict[int, np.ndarray]

    @property
    def database(self) -> str:
        return str(self.folder / "scale.lsm")


def setup(options: Options) -> State:
    sizes = QUICK if options.quick else SIZES
    data = vectors.load(f"clustered(rows={sizes[-1]}, dim={DIM}, clusters=1000)", ASKED, K, options.seed)
    np.save(options.path / "queries.npy", data.queries)
    warm()
    return State(options.path, options.config, data, {n: truth(data.points[:n], data.queries, K, data.metric) for n in sizes})


def cases(state: State) -> dict[str, dict[str, Any]]:
    return {f"{n:,} rows, {t} threads": {"who": "lsmtensor", "rows": n, "threads": t, "cores": t, "ef": EF} for n in state.true for t in THREADS}


def dataset(state: State) -> dict[str, Any]:
    return state.data.about


def run(state: State, case: str) -> dict[str, float]:
    about = cases(state)[case]
    n, config = about["rows"], state.config.with_set(f"threads={about['threads']}")
    shutil.rmtree(state.database, ignore_errors=True)
    given = 0.0
    with lt.open(state.database, config=config) as db:
        table = db.create_table("t", SCHEMA, history="none", indexes={"v": "fqg"})
        for at in range(0, n, BATCH):
            ids = np.arange(at, min(at + BATCH, n))
            batch = {"id": ids, "n": ids % 7, "v": state.data.points[ids]}
            begin = time.perf_counter()
            table.insert(batch)
            given += time.perf_counter() - begin
        begin = time.perf_counter()
        db.compact()
        merged = time.perf_counter() - begin
        begin = time.perf_counter()
        seen = sum(b.num_rows for b in table.scan(columns=["id", "n"]))
        scanned = time.perf_counter() - begin
        written = sum(v for name, v in db.stats()["io"].items() if name.startswith("io.write."))
    stored = sum(p.stat().st_size for p in Path(state.database).rglob("*") if p.is_file())
    command = [sys.executable, "-m", __name__, state.database, str(state.folder / "queries.npy"), str(n), str(about["threads"])]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise LsmTensorError(f"the reader of {case!r} ended with code {told.returncode}: {told.stderr.strip()[-500:]}")
    found = json.loads(told.stdout)
    return {
        "insert, us a row": given / n * 1e6, "merge and index, us a row": merged / n * 1e6, "scan, ns a row": scanned / n * 1e9,
        "bytes written a row": written / n, "bytes stored a row": stored / n, "recall@10": recall(np.array(found.pop("found")), state.true[n]), **found,
        "missing rows": float(n - seen),
    }  # fmt: skip


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["missing rows"] == 0, f"{case}: {measures['missing rows']:.0f} rows are not there"
    assert measures["recall@10"] > 0.8, f"{case}: recall {measures['recall@10']:.3f}"


def read(path: str, queries: np.ndarray, rows: int, threads: int) -> dict[str, Any]:
    """The other process: open, first answers, single rows and searches, memory."""
    warm()
    before = resident()
    begin = time.perf_counter()
    db = lt.open(path, mode="r", config=lt.RunConfig(threads=threads))
    opened = time.perf_counter() - begin
    table, ids = db["t"], np.random.default_rng(0).integers(0, rows, GETS).tolist()
    after_open = resident()
    begin = time.perf_counter()
    table.search(queries[0], k=K, column="v", ef=EF)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    answers = [table.search(q, k=K, column="v", ef=EF).column("id").to_pylist() for q in queries]
    searched = time.perf_counter() - begin
    begin = time.perf_counter()
    together = table.search(queries, k=K, column="v", ef=EF).num_rows
    batch = time.perf_counter() - begin
    for i in ids[:100]:
        table.get(i)
    begin = time.perf_counter()
    hits = sum(table.get(i) is not None for i in ids)
    got = time.perf_counter() - begin
    if hits != len(ids) or together != K * len(queries):
        raise LsmTensorError(f"{len(ids) - hits} of {len(ids)} rows are not there, {together} answers")
    return {
        "open, ms": opened * 1e3, "first search, ms": first * 1e3, "search, us": searched / len(queries) * 1e6, "search in a batch, us": batch / len(queries) * 1e6,
        "get, us": got / len(ids) * 1e6, "memory when open, MB": max(0.0, after_open - before) / 1e6, "memory in use, MB": max(0.0, resident() - before) / 1e6, "found": answers,
    }  # fmt: skip


def warm() -> None:
    """What a process loads once is no matter of size: the library, its kernels, and pandas, which pyarrow imports where it is installed."""
    _ = lt.Database, lt.kernels.choose(), pa.array(np.zeros(1)).take(pa.array([0]))


def resident() -> float:
    """Bytes of this process in memory, mapped files included."""
    import psutil

    return float(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
