"""diskann from a cold file in little memory: recall@10, page reads and bytes that the device gave, one query at a time.

The index is built and saved. A sample is a process of its own, which joins a control group of memory before it loads the index: a quarter of the rows' bytes for all that the index
and its searches take, pages of the file that the system keeps included. The file is dropped from the page cache first, so what a query reads is read from the device. Where there are
no control groups, or no right to make one, the process may allocate as much (``limit`` says which it was), and the system's cache is not held back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import indexes
from . import vectors
from .recall import recall
from .runner import Options

K = 10
BEAMS = (12, 16, 24, 32, 48, 64)
SHARE = 0.25
"""Of the rows' bytes, what the index may take."""
GROUPS = Path("/sys/fs/cgroup")


@dataclass
class State:
    folder: Path
    data: vectors.Vectors
    found: dict[str, dict[str, Any]]


def setup(options: Options) -> State:
    data = vectors.load(options.data, 30 if options.quick else 200, K, options.seed)
    begin = time.perf_counter()
    built = indexes.create((options.indexes or ("diskann",))[0], dim=data.points.shape[1], metric=data.metric, threads=os.cpu_count())
    built.add(data.points)
    seconds = time.perf_counter() - begin
    built.save(options.path / "x.index")
    np.save(options.path / "queries.npy", data.queries)
    stats = built.stats()
    common = {
        "who": "lsmtensor", "index": str(built.spec), "kernel": stats["backend"], "isa": stats["isa"], "build_seconds": seconds, "bytes": stats["bytes"],
        "resident_share": stats["resident"] / data.points.nbytes,
    }  # fmt: skip
    beams = BEAMS[1:4:2] if options.quick else BEAMS
    found = {f"{built.spec} ef={ef}": {**common, "params": {"ef": ef}} for ef in beams}
    return State(options.path, data, found)


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.found


def run(state: State, case: str) -> dict[str, float]:
    limit = int(SHARE * state.data.points.nbytes)
    with group(limit) as (joined, peak):
        ask = json.dumps({"params": state.found[case]["params"], "group": joined, "limit": limit})
        done = subprocess.run([sys.executable, "-m", __name__, str(state.folder), ask], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{case} in {limit:,} bytes: {done.stderr[-2000:] or f'ended by signal {-done.returncode}'}"
        measures: dict[str, float] = json.loads(done.stdout)
        held = peak()
    state.found[case]["limit"] = "control group" if joined else "RLIMIT_DATA"
    ids = np.load(state.folder / "ids.npy")
    return {**measures, "recall": recall(ids, state.data.true), **({"memory_share": held / state.data.points.nbytes} if held else {})}


def asked(folder: str, ask: str) -> None:
    """The process that searches: what it measured as JSON, the ids in a file."""
    given, path, queries = json.loads(ask), f"{folder}/x.index", np.load(f"{folder}/queries.npy")
    forget(path)
    if given["group"]:
        Path(given["group"], "cgroup.procs").write_text(str(os.getpid()))
    else:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + given["limit"], used + given["limit"]))
    index = indexes.load(path)
    index.search(queries[0], K)
    forget(path)
    before, device = index.stats()["page_reads"], device_bytes()
    begin = time.perf_counter()
    ids = np.array([index.search(query, K, **given["params"])[0] for query in queries])
    seconds = time.perf_counter() - begin
    np.save(f"{folder}/ids.npy", ids)
    reads, read = index.stats()["page_reads"] - before, device_bytes() - device
    print(json.dumps({"page_reads": reads / len(ids), "device_bytes": read / len(ids), "qps": len(ids) / seconds}))


@contextmanager
def group(limit: int) -> Iterator[tuple[str, Any]]:
    """A control group of so many bytes, as (its folder, its peak so far); ("", always 0) where none can be made."""
    name, first = f"lsmtensor-{os.getpid()}", (GROUPS / "memory").is_dir()
    place, most, peak = (
        (GROUPS / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes") if first else (GROUPS / name, "memory.max", "memory.peak")
    )
    try:
        place.mkdir()
        (place / most).write_text(str(limit))
    except OSError:
        if place.is_dir():
            place.rmdir()
        yield "", lambda: 0
        return
    try:
        yield str(place), lambda: int((place / peak).read_text())
    finally:
        place.rmdir()


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["recall"] > 0.8, f"{case}: recall {measures['recall']}"


def dataset(state: State) -> dict[str, Any]:
    return state.data.about


def forget(path: str) -> None:
    """Ask the system to drop a file's pages from its cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def device_bytes() -> float:
    """Bytes that this process had the device read; 0 where the system does not say."""
    try:
        with open("/proc/self/io") as lines:
            return float(next(line.split()[1] for line in lines if line.startswith("read_bytes")))
    except OSError:
        return 0.0


if __name__ == "__main__":
    asked(*sys.argv[1:])
