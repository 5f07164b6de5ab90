"""The CuPy backend on one card beside torch, and what the card can do at most, alternating in one run.

"one", "eight" and "thousand" are so many queries over 1,000,000 x 768 float32 resident rows (100,000 with --quick), the ten nearest by L2; "codes" one query
over their 8-bit codes, ten answered of fifty in full; "assign" one step of k-means, the rows to 1,024 centroids. "read" is the largest of all
rows' bytes as integers, the limit of "one"; "sgemm" the products of the thousand queries, in float32, the limit of "thousand". torch multiplies in
float32 too and takes its top-k. Answers come back to the host within the clock; rows are there before. GB/s count the bytes of rows or codes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..kernels.contract import L2
from .runner import Options, Ratio

K, DEPTH, CENTROIDS, WIDTH = 10, 50, 1024, 768
ROWS, FEW = 1_000_000, 100_000
QUERIES = {"one": 1, "eight": 8, "thousand": 1000}


@dataclass
class State:
    """Rows, queries, what each case calls, and the distances that are right for the first query."""

    points: np.ndarray
    queries: np.ndarray
    calls: dict[str, Callable[[], Any]]
    true: np.ndarray
    isa: str


def setup(options: Options) -> State:
    run = kernels.choose("cupy")
    rng = np.random.default_rng(options.seed)
    points = rng.standard_normal((FEW if options.quick else ROWS, WIDTH), dtype=np.float32)
    queries = rng.standard_normal((1000, WIDTH), dtype=np.float32)
    rows = run.resident(points)
    calls: dict[str, Callable[[], Any]] = {f"{name}, lsmtensor": _topk(run, queries[:count], rows) for name, count in QUERIES.items()}
    net = _codes(run, rows)
    calls["codes, lsmtensor"] = lambda: run.code_scan(net, queries[:1], K, DEPTH, None)[1]
    calls["assign, lsmtensor"] = lambda: run.assign(rows, points[:CENTROIDS])[1]
    calls |= _limits(rows, queries)
    if importlib.util.find_spec("torch") is not None and (options.peers is None or "torch" in options.peers):
        calls |= _torch(points, queries)
    true = np.sort(np.square(points - queries[0]).sum(1))[:K]
    return State(points, queries, calls, true, run.isa)


def _topk(run: Any, queries: np.ndarray, rows: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: run.topk(queries, rows, K, L2, None)[1]  # type: ignore[no-any-return]


def _codes(run: Any, rows: np.ndarray) -> Any:
    """8-bit codes of one step for all values; normal rows have no outliers to speak of."""
    step = float(np.abs(rows[:1000]).max()) / 127
    codes = (np.clip(np.rint(rows / step), -128, 127) + 128).astype(np.uint8)
    squares = ((codes.astype(np.float32) - 128) ** 2).sum(1) * np.float32(step * step)
    none = np.empty(0, np.float32)
    n, d = rows.shape
    return run.code_net(rows, np.ones(n, np.float32), L2, np.zeros(d, np.float32), step, codes, squares, none, 8, np.empty((0, 0), np.uint32), None, None)


def _limits(rows: Any, queries: np.ndarray) -> dict[str, Callable[[], Any]]:
    from ..kernels.cupy_backend import DEVICE

    def read() -> None:
        with DEVICE.work():
            DEVICE.download(rows.placed.rows.view(np.int32).max())

    def sgemm() -> None:
        with DEVICE.work():
            asked @ rows.placed.rows.T
            DEVICE.stream.synchronize()

    with DEVICE.work():
        asked = DEVICE.upload(queries)
    return {"read, limit": read, "sgemm, limit": sgemm}


def _torch(points: np.ndarray, queries: np.ndarray) -> dict[str, Callable[[], Any]]:
    import torch

    rows, asked = torch.from_numpy(points).cuda(), torch.from_numpy(queries)
    squares = (rows * rows).sum(1)

    def nearest(count: int) -> Any:
        q = asked[:count].cuda()
        best = torch.topk(squares - 2 * (q @ rows.T), K, largest=False).values + (q * q).sum(1, keepdim=True)
        return best.cpu().numpy()

    def assign() -> Any:
        # a part at a time: all scores would be 4 GB
        parts = [(squares[:CENTROIDS] - 2 * (rows[at : at + 65536] @ rows[:CENTROIDS].T)).min(1).values for at in range(0, len(rows), 65536)]
        return (torch.cat(parts) + squares).cpu().numpy()

    return {**{f"{name}, torch": lambda c=c: nearest(c) for name, c in QUERIES.items()}, "assign, torch": assign}  # type: ignore[misc]


def cases(state: State) -> dict[str, dict[str, Any]]:
    who = {"lsmtensor": "lsmtensor", "torch": "peer", "limit": "limit"}
    return {name: {"who": who[name.split(", ")[1]], "isa": state.isa, "cores": 2} for name in state.calls}


def ratios(state: State) -> list[Ratio]:
    made = [
        Ratio("one, lsmtensor / read", "one, lsmtensor", ("read, limit",), "GB/s"),
        Ratio("thousand, lsmtensor / sgemm", "thousand, lsmtensor", ("sgemm, limit",), "GFLOP/s"),
    ]
    pairs = [(name, name.replace("lsmtensor", "torch")) for name in state.calls if "lsmtensor" in name]
    return made + [Ratio(f"{ours} / torch", ours, (theirs,), "GFLOP/s") for ours, theirs in pairs if theirs in state.calls]


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"{len(state.points):,} x {WIDTH} float32, normal", "sha256": hashlib.sha256(state.points.data).hexdigest()}


def run(state: State, case: str) -> dict[str, float]:
    kind = case.split(", ")[0]
    begin = time.perf_counter()
    got = state.calls[case]()
    seconds = time.perf_counter() - begin
    pairs = {"read": 0, "sgemm": 1000, "codes": 1, "assign": CENTROIDS, **QUERIES}[kind] * len(state.points)
    size = state.points.nbytes // (4 if kind == "codes" else 1)
    wrong = 0.0
    if kind in QUERIES:
        wrong = float((~np.isclose(got[0], state.true, rtol=1e-3)).sum())
    elif kind == "codes":
        wrong = float((~np.isclose(got[0], state.true, rtol=1e-3)).sum() > K // 5)
    return {"seconds": seconds, "GB/s": size / seconds / 1e9, "GFLOP/s": 2.0 * pairs * WIDTH / seconds / 1e9, "wrong": wrong}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["wrong"] == 0, f"{case}: other distances than numpy's differences give"


def teardown(state: State) -> None:
    from ..kernels.cupy_backend import DEVICE

    state.calls.clear()
    DEVICE.release()
