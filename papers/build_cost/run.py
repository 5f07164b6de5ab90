"""What an index costs to build, in seconds, distances and floating-point operations: cells, insertion into graphs, and a graph made of partitions by products of matrices."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lab  # noqa: E402

from lsmtensor import indexes, kernels  # noqa: E402
from lsmtensor.bench.recall import recall  # noqa: E402
from lsmtensor.indexes import fqg  # noqa: E402
from lsmtensor.indexes.rows import Rows  # noqa: E402
from lsmtensor.kernels import numpy_graph  # noqa: E402
from lsmtensor.kernels.contract import L2  # noqa: E402

DIM, K, AT, ASKED = 128, 10, 0.95, 200
NAMES = ("hnswlib", "hnsw", "fqg", "partitions", "ivfflat", "gwi")
EFFORTS: dict[str, tuple[int, ...]] = {"ef": (10, 14, 20, 28, 40, 56, 80, 112, 160, 224), "nprobe": (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)}


def sizes(scale: str) -> tuple[int, ...]:
    return {"smoke": (1000, 2000, 4000), "laptop": (2500, 5000, 10_000, 20_000, 40_000), "full": (5000, 10_000, 20_000, 50_000, 100_000, 200_000)}[scale]


class Partitions(fqg.FQG):
    """The flat quantized graph with another builder: every row goes to the leaves of its ``FANOUT`` nearest leaders, all distances in a leaf are one product of
    matrices, the ``NEAR`` nearest there are candidates for links, thinned out by the same rule and kernels as when rows are inserted. Codes, entries and walks are fqg's."""

    name = "partitions"
    LEAF: ClassVar[int] = 512
    FANOUT: ClassVar[int] = 3
    NEAR: ClassVar[int] = 16
    products = 0

    def _build(self, start: int, stop: int) -> None:
        assert self._eight is not None
        codes, sums = (part.array[:stop] for part in self._eight)
        again = self._kernels.code_shrink(codes, sums, self._built, self._candidates(self._vectors.array[:stop]), 0, stop, self.degree, fqg.LOOSE)
        links = np.full((stop, self.degree + self.degree // 2), fqg.NONE, np.uint32)
        self._kernels.code_reverse(codes, sums, self._built, links, again, np.arange(stop), fqg.LOOSE, 0, 1)
        self._done = stop
        self._links = Rows(self._shrunk(codes, sums, links))
        fqg.connect(self._links.array, self._begins())
        self._plant()

    def _candidates(self, rows: np.ndarray) -> np.ndarray:
        """uint32 (n, FANOUT NEAR): of each leaf that a row is in, the nearest there."""
        n, squares = len(rows), np.einsum("nd,nd->n", rows, rows)
        leaders = np.random.default_rng(self.seed).choice(n, -(-n * self.FANOUT // self.LEAF), replace=False)
        self.products = n * len(leaders)
        mine = np.concatenate([_nearest(squares[leaders] - 2 * (rows[at : at + 4096] @ rows[leaders].T), self.FANOUT) for at in range(0, n, 4096)])
        found = np.full((n, self.FANOUT, self.NEAR), fqg.NONE, np.uint32)
        order = np.argsort(mine, axis=None, kind="stable")
        for members in np.split(order, np.cumsum(np.bincount(mine.ravel(), minlength=len(leaders)))[:-1]):
            # a leaf that is too large is halved at random
            for part in np.array_split(np.random.default_rng(len(members)).permutation(members), max(1, round(len(members) / self.LEAF))):
                which, here = part // self.FANOUT, rows[part // self.FANOUT]
                self.products += len(part) ** 2
                far = squares[which] - 2 * (here @ here.T)
                np.fill_diagonal(far, np.inf)
                count = min(self.NEAR, len(part) - 1)
                if count > 0:
                    found[which, part % self.FANOUT, :count] = which[_nearest(far, count)]
        return found.reshape(n, -1)


def _nearest(far: np.ndarray, count: int) -> np.ndarray:
    """int64 (n, count): where each row is least, in no order."""
    return np.argpartition(far, count - 1, axis=1)[:, :count] if count < far.shape[1] else np.broadcast_to(np.arange(far.shape[1]), far.shape)


class Counting:
    """A backend that counts the distances of rows to centroids."""

    def __init__(self, kernels: Any) -> None:
        self._kernels, self.count = kernels, 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._kernels, name)
        if name not in ("assign", "topk", "pairwise"):
            return call

        def counted(rows: np.ndarray, others: np.ndarray, *rest: Any) -> Any:
            self.count += len(rows) * len(others)
            return call(rows, others, *rest)

        return counted


def create(name: str) -> Any:
    if name == "partitions":
        return Partitions(DIM, threads=1)
    return indexes.create({"hnsw": "hnsw(m=16, ef_construction=200, quant=none)"}.get(name, name), dim=DIM, threads=1)


def build(name: str, rows: np.ndarray) -> tuple[float, Any]:
    """(seconds, the index); for hnswlib None."""
    begin = time.perf_counter()
    if name == "hnswlib":
        import hnswlib

        outside = hnswlib.Index(space="l2", dim=DIM)
        outside.init_index(max_elements=len(rows), M=16, ef_construction=200)
        outside.add_items(rows, num_threads=1)
        return time.perf_counter() - begin, None
    index = create(name)
    index.train(rows)
    index.add(rows)
    return time.perf_counter() - begin, index


def distances(name: str, index: Any, rows: np.ndarray, more: np.ndarray) -> float | None:
    """Distances a row. Cells and partitions: all that were computed, over the rows. HNSW: those of some more rows, inserted by the numpy
    kernels into the finished graph. Not known for fqg, which thins out links of many rows together: a few more show nothing of that."""
    if name == "fqg":
        return None
    if name == "partitions":
        return float(index.products / len(rows))
    if name in ("ivfflat", "gwi"):
        again = create(name)
        again._kernels = Counting(again._kernels)
        again.train(rows)
        again.add(rows)
        return float(again._kernels.count / len(rows))
    header, arrays = index.to_sections(include_vectors=True)
    slow = indexes.from_sections(header, arrays, kernel="numpy")
    with lab.counting((numpy_graph, "far_from")) as computed:
        slow.add(more)
    return computed[0] / len(more)


def searched(index: Any, queries: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Microseconds a query of a batch where recall reaches 0.95."""
    recalls, taken = [], []
    for effort in EFFORTS[index.dial]:
        found, seconds = [], []
        for _ in range(3):
            begin = time.perf_counter()
            found = index.search(queries, k=K, **{index.dial: effort})[0]
            seconds.append(time.perf_counter() - begin)
        recalls.append(recall(found, true))
        taken.append(1e6 * min(seconds) / len(queries))
    return {"us at 0.95": lab.at_recall(recalls, taken, AT), "highest recall": max(recalls)}


def measured(everything: np.ndarray, count: int, added: int) -> Iterator[dict[str, Any]]:
    rows, more, queries = np.ascontiguousarray(everything[:count]), everything[-ASKED - added : -ASKED], np.ascontiguousarray(everything[-ASKED:])
    true = kernels.choose().topk(queries, rows, K, L2, None)[0]
    names = [name for name in NAMES if name != "hnswlib" or kernels_beside()]
    taken: dict[str, list[float]] = {}
    built = {}
    with threadpool_limits(1):  # products of matrices too on one core
        for _ in range(3 if count in (2500, 5000, 10_000) else 1):
            for name in names:
                seconds, built[name] = build(name, rows)
                taken.setdefault(name, []).append(seconds)
    for name in names:
        row = {"part": "builds", "index": name, "rows": count, "s": float(np.median(taken[name])), "samples": taken[name]}
        if (index := built[name]) is not None:
            row |= {"distances a row": distances(name, index, rows, more), **searched(index, queries, true)}
        yield row


def kernels_beside() -> bool:
    import importlib.util

    return importlib.util.find_spec("hnswlib") is not None


def measure(scale: str, seed: int) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    added = 10 if scale == "smoke" else 100
    everything = lab.spectrum(sizes(scale)[-1] + added + ASKED, DIM, seed, clusters=100)
    for name in ("hnsw", "fqg", "partitions", "gwi", "ivfflat"):
        build(name, everything[:600])  # what a library loads once
    return {f"{count} rows": lambda count=count: measured(everything, count, added) for count in sizes(scale)}  # type: ignore[misc]


def facts(rows: lab.Rows) -> dict[str, float]:
    of = {(r["index"], r["rows"]): r for r in rows}
    counts = sorted({r["rows"] for r in rows})
    found: dict[str, float] = {}
    for name in dict.fromkeys(r["index"] for r in rows):
        line = [of[name, n] for n in counts]
        found[f"{name}: exponent of seconds"] = lab.exponent(counts, [r["s"] for r in line])
        if line[0].get("distances a row"):
            found[f"{name}: exponent of distances"] = 1 + lab.exponent(counts, [r["distances a row"] for r in line])
            least, found[f"{name}: ns a distance"] = (1e9 * r["s"] / r["rows"] / r["distances a row"] for r in (line[0], line[-1]))
            found[f"{name}: ns a distance, largest over smallest"] = found[f"{name}: ns a distance"] / least
    for slow, fast in (("hnsw", "gwi"), ("hnsw", "fqg"), ("hnsw", "partitions"), ("fqg", "partitions"), ("hnswlib", "hnsw"), ("hnswlib", "fqg"), ("hnswlib", "gwi")):
        if (slow, counts[0]) in of:
            ratios = [of[slow, n]["s"] / of[fast, n]["s"] for n in counts]
            found |= {f"{slow} / {fast}, largest": ratios[-1], f"{slow} / {fast}, least": min(ratios), f"{slow} / {fast}, exponent": lab.exponent(counts, ratios)}
    found["hnsw / partitions, ns a distance"] = found["hnsw: ns a distance"] / found["partitions: ns a distance"]
    found["partitions / fqg, us at 0.95"] = of["partitions", counts[-1]]["us at 0.95"] / of["fqg", counts[-1]]["us at 0.95"]
    return found


def show(rows: lab.Rows, plt: Any) -> tuple[dict[str, lab.Rows], Any]:
    lines = [
        {k: v for k, v in r.items() if k not in ("part", "samples")}
        | ({"GFLOP/s": 2e-9 * DIM * r["distances a row"] * r["rows"] / r["s"]} if r.get("distances a row") else {})
        for r in rows
    ]
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), constrained_layout=True)
    for name in dict.fromkeys(r["index"] for r in lines):
        mine = [r for r in lines if r["index"] == name]
        counts = [r["rows"] for r in mine]
        power = lab.exponent(counts, [r["s"] for r in mine])
        panels[0].plot(counts, [r["s"] for r in mine], "o-", ms=4, label=f"{name}: N^{power:.2f}")
        for panel, what in ((panels[1], "distances a row"), (panels[2], "GFLOP/s")):
            if mine[0].get(what):
                panel.plot(counts, [r[what] for r in mine], "o-", ms=4, label=name)
            else:
                panel.plot([], [])  # colours stay those of the first panel
    for panel, what in zip(panels, ("seconds to build", "distances a row", "GFLOP/s, of distances alone"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel=f"rows of {DIM} float32", ylabel=what)
        panel.legend(fontsize=7)
    return {f"Builds over clustered rows of {DIM} float32, one thread": lines}, figure


if __name__ == "__main__":
    lab.main(__file__, measure, facts, show)
