"""diskann from a cold file: recall@10, page reads and bytes that the device gave, one query at a time.

The index is built, saved, dropped from the page cache and loaded; only codes, the graph above and the hottest pages are in memory then. Every
sample drops the file again, so what a query reads is read from the device; what its memory is, ``resident`` says, as a share of the rows.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import indexes
from . import vectors
from .recall import recall
from .runner import Options

K = 10
BEAMS = (12, 16, 24, 32, 48, 64)


@dataclass
class State:
    path: str
    data: vectors.Vectors
    found: dict[str, dict[str, Any]]


def setup(options: Options) -> State:
    data = vectors.load(options.data, 30 if options.quick else 200, K, options.seed)
    path = str(options.path / "x.index")
    begin = time.perf_counter()
    built = indexes.create("diskann", dim=data.points.shape[1], metric=data.metric)
    built.add(data.points)
    seconds = time.perf_counter() - begin
    built.save(path)
    stats = built.stats()
    common = {
        "who": "lsmtensor", "index": "diskann", "kernel": stats["backend"], "isa": stats["isa"], "build_seconds": seconds, "bytes": stats["bytes"],
        "resident_share": stats["resident"] / data.points.nbytes,
    }  # fmt: skip
    beams = BEAMS[1:4:2] if options.quick else BEAMS
    found = {f"diskann ef={ef}": {**common, "params": {"ef": ef}} for ef in beams}
    return State(path, data, found)


def cases(state: State) -> dict[str, dict[str, Any]]:
    return state.found


def run(state: State, case: str) -> dict[str, float]:
    index = indexes.load(state.path)
    index.search(state.data.queries[0], K)
    forget(state.path)
    before, device = index.stats()["page_reads"], device_bytes()
    begin = time.perf_counter()
    ids = np.array([index.search(query, K, **state.found[case]["params"])[0] for query in state.data.queries])
    seconds = time.perf_counter() - begin
    return {
        "recall": recall(ids, state.data.true), "page_reads": (index.stats()["page_reads"] - before) / len(ids),
        "device_bytes": (device_bytes() - device) / len(ids), "qps": len(ids) / seconds,
    }  # fmt: skip


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
