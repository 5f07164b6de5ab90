"""One graph, with and without its upper levels, walked over float32, 8-bit and 4-bit rows: what each saves, in distances and in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lab  # noqa: E402

from lsmtensor import indexes, kernels  # noqa: E402
from lsmtensor.bench import datasets  # noqa: E402
from lsmtensor.bench.recall import recall  # noqa: E402
from lsmtensor.indexes.codes import CodedRows  # noqa: E402
from lsmtensor.kernels import numpy_codes, numpy_graph  # noqa: E402
from lsmtensor.kernels.contract import L2  # noqa: E402

K, AT, ROUNDS = 10, 0.95, 5
NONE = 0xFFFFFFFF
REAL = "real, 384-d"
CODES = ("float32", "int8", "int4")
ENTRIES = ("levels", "one row")
BEAMS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224)
Search = Callable[[np.ndarray, int], np.ndarray]


def shapes(scale: str) -> tuple[tuple[int, ...], int, int, int]:
    """(dimensions, rows, queries, queries whose distances are counted)."""
    return {"smoke": ((8, 64), 1500, 50, 5), "laptop": ((8, 32, 128, 768), 20_000, 200, 15), "full": ((8, 32, 128, 768), 100_000, 200, 15)}[scale]


def data(scale: str, seed: int) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """(name, dimensions, rows, queries): clustered rows of falling spectrum, and the real embeddings."""
    dims, count, asked, _ = shapes(scale)
    for dim in dims:
        made = lab.spectrum(count + asked, dim, seed, clusters=50)
        yield f"clustered, {dim}-d", dim, made[:-asked], made[-asked:]
    real = np.random.default_rng(seed).permutation(datasets.debian().embeddings)[: 4000 if scale != "smoke" else 1000]
    yield REAL, real.shape[1], real[:-asked], real[-asked:]


class Graph:
    """The links of an HNSW of some rows, and the searches that can be made of them: where a walk begins x what it compares."""

    def __init__(self, rows: np.ndarray) -> None:
        index = indexes.create("hnsw(m=16, ef_construction=200, quant=none)", dim=rows.shape[1], threads=1)
        index.add(rows)
        arrays = index.to_sections()[1]
        self.rows, self.links, self.upper, self.state = rows, arrays["links"], arrays["upper"], arrays["state"]
        levels = arrays["levels"].astype(np.int64)
        self.upper_at = np.cumsum(levels) - levels
        above = np.flatnonzero(levels)
        first = self.upper[self.upper_at[above]]
        self.above = above.astype(np.uint32), np.where(first == NONE, NONE, np.searchsorted(above, first)).astype(np.uint32)

    def search(self, backend: str, entry: str, codes: str) -> Search:
        """A batch of queries and a beam to the rows found. "levels": from the top down, for codes by the first level above; "one row": the same for all."""
        run: Any = kernels.choose(backend)
        if codes == "float32":
            scale, state = np.ones(len(self.rows), np.float32), self.state.copy()
            if entry == "one row":
                state[1] = 0
            graph = self.rows, scale, L2, self.links, self.upper, self.upper_at, state
            return lambda queries, ef: run.graph_search(queries, *graph, K, ef, None)[0]
        coded = CodedRows(self.rows.shape[1], L2, codes, run)
        coded.learn(self.rows, 0)
        coded.append(self.rows)
        if entry == "levels":
            names, links = self.above
            net = coded.net(self.rows, self.links, (coded.over(self.rows[names], names, links), names))
            return lambda queries, ef: run.code_search(net, queries, K, ef, ef, None)[0]
        net = coded.net(self.rows, self.links)
        return lambda queries, ef: run.code_search(net, queries, K, ef, ef, None, np.full((len(queries), 1), self.state[0], np.uint32))[0]


def swept(name: str, dim: int, graph: Graph, queries: np.ndarray, count: int) -> Iterator[dict[str, Any]]:
    true = kernels.choose().topk(queries, graph.rows, K, L2, None)[0]
    compiled = [k for k, what in kernels.available().items() if k in ("cython", "numba") and not what.startswith("unavailable")]
    searches = {(k, e, c): graph.search(k, e, c) for k, e, c in product(compiled, ENTRIES, CODES)}
    taken: dict[tuple[str, str, str, int], list[float]] = {}
    found: dict[tuple[str, str, str, int], np.ndarray] = {}
    for number, beam, key in product(range(-1, ROUNDS), BEAMS, searches):
        begin = time.perf_counter()
        found[*key, beam] = searches[key](queries, beam)
        if number >= 0:
            taken.setdefault((*key, beam), []).append((time.perf_counter() - begin) / len(queries))
    for (kernel, entry, codes, beam), seconds in taken.items():
        got = recall(found[kernel, entry, codes, beam], true)
        about = {"data": name, "dim": dim, "entry": entry, "codes": codes, "ef": beam}
        yield {"part": "times", **about, "kernel": kernel, "recall@10": got, "us": 1e6 * float(np.median(seconds)), "samples": seconds}
    for entry, codes in product(ENTRIES, CODES):
        search = graph.search("numpy", entry, codes)
        for beam in BEAMS[1::2]:
            with lab.counting((numpy_graph, "far_from"), (numpy_codes.Net, "far_from")) as computed:
                found_few = search(queries[:count], beam)
            about = {"data": name, "dim": dim, "entry": entry, "codes": codes, "ef": beam}
            yield {"part": "counts", **about, "distances": computed[0] / count, "recall@10": recall(found_few, true[:count])}


def measure(scale: str, seed: int) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    count = shapes(scale)[3]
    jobs = {
        name: lambda name=name, dim=dim, rows=rows, queries=queries: swept(name, dim, Graph(np.ascontiguousarray(rows)), np.ascontiguousarray(queries), count)
        for name, dim, rows, queries in data(scale, seed)
    }
    return {"data": lambda: iter([{"part": "data", **datasets.debian().describe()}]), **jobs}  # type: ignore[dict-item]


def summary(rows: lab.Rows) -> lab.Rows:
    """A line for each data set, entry, kind of codes and kernel, at a recall of 0.95."""
    lines: lab.Rows = []
    times, counts = ([r for r in rows if r["part"] == part] for part in ("times", "counts"))
    for name, entry, codes, kernel in dict.fromkeys((r["data"], r["entry"], r["codes"], r["kernel"]) for r in times):
        mine = [r for r in times if (r["data"], r["entry"], r["codes"], r["kernel"]) == (name, entry, codes, kernel)]
        recalls = {r["ef"]: r["recall@10"] for r in mine}
        counted = [r for r in counts if (r["data"], r["entry"], r["codes"]) == (name, entry, codes)]
        us = lab.at_recall([r["recall@10"] for r in mine], [r["us"] for r in mine], AT)
        distances = lab.at_recall([recalls[r["ef"]] for r in counted], [r["distances"] for r in counted], AT)
        lines.append(
            {"data": name, "dim": mine[0]["dim"], "entry": entry, "codes": codes, "kernel": kernel, "us": us, "distances": distances, "ns a distance": 1e3 * us / distances}
        )
    return lines


def facts(rows: lab.Rows) -> dict[str, float]:
    of = {(r["data"], r["entry"], r["codes"], r["kernel"]): r for r in summary(rows)}
    found: dict[str, float] = {}
    for name, kernel in dict.fromkeys((key[0], key[3]) for key in of):
        mine = {(entry, codes): of[name, entry, codes, kernel] for entry, codes in product(ENTRIES, CODES)}
        levels, one = mine["levels", "float32"], mine["one row", "float32"]
        found[f"{name}, {kernel}: one row / levels, us"] = one["us"] / levels["us"]
        found[f"{name}: one row / levels, distances"] = one["distances"] / levels["distances"]
        for codes in CODES[1:]:
            found[f"{name}, {kernel}: float32 / {codes}, us"] = one["us"] / mine["one row", codes]["us"]
            found[f"{name}: float32 / {codes}, distances"] = one["distances"] / mine["one row", codes]["distances"]
    times = {(r["data"], r["entry"], r["codes"], r["kernel"], r["ef"]): r["recall@10"] for r in rows if r["part"] == "times"}
    high = [abs(got - times[name, "one row", *rest]) for (name, entry, *rest), got in times.items() if entry == "levels" and name != "clustered, 8-d"]
    return found | {"recall, levels - one row, furthest apart over 8-d": max(high)}


def show(rows: lab.Rows, plt: Any) -> tuple[dict[str, lab.Rows], Any]:
    times = [r for r in rows if r["part"] == "times" and r["kernel"] == "cython"]
    lines = summary(rows)
    names = list(dict.fromkeys(r["data"] for r in times))
    figure, panels = plt.subplots(2, 3, figsize=(12, 7), constrained_layout=True)
    colours = dict(zip(CODES, ("#6c757d", "#3a5ba0", "#0b6e4f"), strict=True))
    for panel, name in zip(panels.flat, names, strict=False):
        for entry, codes in product(ENTRIES, CODES):
            line = [r for r in times if r["data"] == name and r["entry"] == entry and r["codes"] == codes]
            style = "o-" if entry == "levels" else "s--"
            panel.plot([r["recall@10"] for r in line], [1e6 / r["us"] for r in line], style, ms=3, lw=1, color=colours[codes], label=f"{codes}, {entry}")
        panel.set(xlabel="recall@10", ylabel="queries a second", yscale="log", title=name)
    panels.flat[0].legend(fontsize=6)
    last = panels.flat[-1]
    for codes in CODES:
        line = [r for r in lines if r["codes"] == codes and r["entry"] == "one row" and r["kernel"] == "cython" and r["data"] != REAL]
        last.plot([r["dim"] for r in line], [r["ns a distance"] for r in line], "o-", color=colours[codes], label=codes)
    last.set(xscale="log", yscale="log", xlabel="dimensions", ylabel="ns a query for each distance", title=f"at recall {AT}")
    last.legend(fontsize=7)
    for spare in panels.flat[len(names) : -1]:
        spare.set_visible(False)
    return {f"At recall@10 of {AT}, one thread, queries in a batch": lines}, figure


if __name__ == "__main__":
    lab.main(__file__, measure, facts, show)
