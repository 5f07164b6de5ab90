"""How long a database takes to open after its process died, by the bytes that its log holds; and what is there then.

A child process commits batches without flushing, says how many it made, and is killed (SIGKILL) with its log unsealed. The folder is opened:
that replays the log, seals it and begins the next. Every round kills another child. "closed" is the same folder after a clean close.
"""

from __future__ import annotations

import os
import shutil
import signal
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
from .runner import Options

BATCH, PAYLOAD = 1000, 100
LIMIT = "memtable.limit_bytes=2000000000"
"""All stays in the log: nothing is flushed before the end."""


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    sizes: tuple[int, ...]


def setup(options: Options) -> State:
    return State(options.path, options.config, (5, 20) if options.quick else (10, 100, 1000))


def cases(state: State) -> dict[str, dict[str, Any]]:
    shape = {"who": "lsmtensor", "rows a commit": BATCH, "sync": state.config.wal.sync}
    killed = {f"killed after {n} commits": {"commits": n, "killed": True, **shape} for n in state.sizes}
    return {**killed, f"closed after {state.sizes[-1]} commits": {"commits": state.sizes[-1], "killed": False, **shape}}


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"batches of {BATCH} rows of {PAYLOAD} bytes", "sha256": ""}


def write(path: str, commits: int, killed: bool) -> None:
    """The child: so many commits, a line, and then it waits to be killed, or closes."""
    db = lt.open(path, config=lt.RunConfig().with_set(LIMIT))
    table = db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", pa.binary(PAYLOAD))], primary_key="id"))
    value = pa.array([bytes(PAYLOAD)] * BATCH, pa.binary(PAYLOAD))
    for number in range(commits):
        table.insert({"id": np.arange(number * BATCH, (number + 1) * BATCH), "v": value})
    if not killed:
        db.close()
    os.write(1, b"done\n")
    if killed:
        signal.pause()


def run(state: State, case: str) -> dict[str, float]:
    about = cases(state)[case]
    path = state.folder / "recovery.lsm"
    shutil.rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", __name__, str(path), str(about["commits"]), str(int(about["killed"]))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        if about["killed"]:
            child.kill()
        child.wait()
    if said != b"done\n":
        raise LsmTensorError(f"the writer of {case!r} ended early with code {child.returncode}")
    log = sum(p.stat().st_size for p in (path / "wal").glob("*.wal"))
    begin = time.perf_counter()
    db = lt.open(str(path), config=state.config.with_set(LIMIT))
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    row = db["t"].get(about["commits"] * BATCH - 1)
    first = time.perf_counter() - begin
    rows = len(db["t"])
    db.close()
    return {
        "open ms": seconds * 1e3, "first get ms": first * 1e3, "log MB": log / 1e6, "log MB/s": log / 1e6 / seconds,
        "missing rows": float(about["commits"] * BATCH - rows + (row is None)),
    }  # fmt: skip


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["missing rows"] == 0, f"{case}: {measures['missing rows']:.0f} rows that were acknowledged are gone"


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")
