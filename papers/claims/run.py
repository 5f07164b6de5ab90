"""The field's round numbers, tried one by one: under what conditions is each true?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lab  # noqa: E402
import storage  # noqa: E402
import vectors  # noqa: E402

from lsmtensor.bench import datasets  # noqa: E402


def measure(scale: str, seed: int) -> Iterator[dict[str, Any]]:
    yield {"part": "data", **datasets.debian().describe()}
    for part in (storage.compression, storage.exchange, storage.loading, storage.ingest, vectors.saved, vectors.builds):
        yield from part(scale)


def facts(rows: lab.Rows) -> dict[str, float]:
    of = {part: [r for r in rows if r["part"] == part] for part in {r["part"] for r in rows}}
    found: dict[str, float] = {}
    largest = max(r["bytes"] for r in of["loading"])
    load = {r["who"]: r for r in of["loading"] if r["bytes"] == largest}
    for how in ("open only", "every byte, warm", "every byte, cold"):
        for who in ("safetensors", "lsmtensor"):
            found[f"{how}: pickle / {who}"] = load["pickle"][f"{how}, s"] / load[who][f"{how}, s"]
    for r in of["exchange"]:
        found[f"copy / DLPack at {r['bytes'] >> 10} KiB"] = r["copy / DLPack"]
    large = [r for r in of["exchange"] if r["bytes"] >= 1 << 18]
    found["exponent of the ratio in bytes"] = lab.exponent([r["bytes"] for r in large], [r["copy / DLPack"] for r in large])
    best: dict[str, float] = {}
    for r in of["compression"]:
        best[r["data"]] = max(best.get(r["data"], 0.0), r["saved"])
    found |= {f"saved: {data}": share for data, share in best.items()}
    rate = {(r["who"], r["synced"]): r["s"] for r in of["ingest"]}
    for sync in ("nothing", "at the end", "each batch"):
        found[f"ingest synced {sync}: lsmtensor / memory map"] = rate["lsmtensor", sync] / rate["memory map", sync]
    found["ingest, unequal: a pickle a row / memory map"] = rate["a pickle a row", "nothing"] / rate["memory map", "nothing"]
    found["ingest, unequal: lsmtensor each batch / memory map unsynced"] = rate["lsmtensor", "each batch"] / rate["memory map", "nothing"]
    for r in of["saved"]:
        for n in (10_000, 50_000, 1_000_000):
            found[f"{r['code']} saved at {n:,}"] = r[f"saved at {n:,}"]
        found[f"{r['code']} recall"] = r["recall@10"]
    return found | _of_indexes(of)


def _of_indexes(of: dict[str, lab.Rows]) -> dict[str, float]:
    built = {(r["index"], r["rows"]): r["s"] for r in of["builds"]}
    sizes = sorted({r["rows"] for r in of["builds"]})
    ratios = [built["hnsw", n] / built["gwi", n] for n in sizes]
    slope = lab.exponent(sizes, ratios)
    line = [r for r in of["searches"] if r["index"] == "hnsw"]
    compiled = [r for r in line if r["kernel"] == line[0]["kernel"]]
    log_fit = np.polyfit(np.log([r["rows"] for r in compiled]), [r["ms"] for r in compiled], 1)
    gwi = [r for r in of["searches"] if r["index"] == "gwi"][-1]
    slow = [r["ms"] for r in line if r["kernel"] == "numpy"][-1]
    found = {
        "build, hnsw / gwi, at the largest": ratios[-1], "build, hnsw / gwi, exponent": slope,
        "build, hnsw / gwi, at 50,000 by the fit": ratios[-1] * (50_000 / sizes[-1]) ** slope,
        "gwi recall at 50 probes": gwi["recall@10"], "gwi share of cells at 50 probes": gwi["share of cells"],
        "hnsw ms, compiled, at the largest": compiled[-1]["ms"], "hnsw ms, compiled, at 1,000,000 by the fit": float(np.polyval(log_fit, np.log(1e6))),
        "hnsw ms, numpy over compiled": slow / compiled[-1]["ms"], "hnsw ms, numpy, at the largest": slow,
    }  # fmt: skip
    if ("hnswlib", sizes[-1]) in built:
        found["build, hnswlib / hnsw, at the largest"] = built["hnswlib", sizes[-1]] / built["hnsw", sizes[-1]]
    return found


def show(rows: lab.Rows, plt: Any) -> tuple[dict[str, lab.Rows], Any]:
    of = {part: [{k: v for k, v in r.items() if k != "part"} for r in rows if r["part"] == part] for part in dict.fromkeys(r["part"] for r in rows)}
    figure, panels = plt.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    (a, b), (c, d) = panels
    a.plot([r["bytes"] for r in of["exchange"]], [r["copy / DLPack"] for r in of["exchange"]], "o-")
    a.axhline(300, color="k", lw=0.8, ls=":")
    a.set(xscale="log", yscale="log", xlabel="bytes", ylabel="copy / DLPack", title="“300x”: a law, not a number")
    data = list(dict.fromkeys(r["data"] for r in of["compression"]))
    b.barh(data, [100 * max(r["saved"] for r in of["compression"] if r["data"] == name) for name in data], color="#3a5ba0")
    b.axvline(67, color="k", lw=0.8, ls=":")
    b.set(xlabel="percent saved by the best lossless chain", title="“67% smaller”")
    b.invert_yaxis()
    for name in dict.fromkeys(r["index"] for r in of["builds"]):
        line = [r for r in of["builds"] if r["index"] == name]
        c.plot([r["rows"] for r in line], [r["s"] for r in line], "o-", label=name)
    c.set(xscale="log", yscale="log", xlabel="rows of 768", ylabel="build, seconds", title="“168x faster builds”")
    for name in dict.fromkeys(r["kernel"] for r in of["searches"] if r["index"] == "hnsw"):
        line = [r for r in of["searches"] if r["index"] == "hnsw" and r["kernel"] == name]
        d.plot([r["rows"] for r in line], [r["ms"] for r in line], "o-", label=f"hnsw, {name}")
    d.axhspan(5, 10, color="k", alpha=0.12)
    d.set(xscale="log", yscale="log", xlabel="rows of 768", ylabel="ms a query at recall 0.95", title="“5–10 ms”")
    for panel in (c, d):
        panel.legend(fontsize=7)
    titles = {
        "compression": "Saved by lossless codecs", "exchange": "DLPack beside a copy", "loading": "A state dict loaded", "ingest": "Rows of 768 float32 taken in",
        "saved": "Saved by quantizers", "builds": "Index builds, one core", "searches": "Searches, one query at a time",
    }  # fmt: skip
    return {titles[part]: lines for part, lines in of.items() if part in titles}, figure


if __name__ == "__main__":
    lab.main(__file__, measure, facts, show)
