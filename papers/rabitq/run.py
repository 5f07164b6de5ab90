"""RaBitQ: is the estimator unbiased, does its error fall with the root of the dimension, and what recall do a few bits give?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lab  # noqa: E402

from lsmtensor import kernels, quant  # noqa: E402
from lsmtensor.bench import datasets  # noqa: E402
from lsmtensor.bench.recall import recall  # noqa: E402
from lsmtensor.kernels.contract import L2  # noqa: E402

K = 10
EPSILON = 1.9
"""The confidence that the paper's experiments use in its bound (section 5.1)."""
BITS = (1, 2, 3, 4, 5, 6, 7, 8)


def sizes(scale: str) -> tuple[tuple[int, ...], int, int]:
    """(dimensions, rotations, rows of the real data)."""
    return ((64, 128, 256), 4, 1000) if scale == "smoke" else ((128, 256, 384, 512, 768, 1024, 1536), 10, 4000)


def pairs(dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """300 rows and 300 unit queries, the i-th query at every angle to the i-th row: inner products cover the whole range."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((300, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    other = rng.standard_normal((300, dim))
    other -= (other * rows).sum(1, keepdims=True) * rows
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    cosine = np.linspace(-1, 1, 300)[:, None]
    return rows.astype(np.float32), (cosine * rows + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def estimates(scale: str) -> Iterator[dict[str, Any]]:
    """Estimated beside true inner products, over rotations: bias, error, and how often the bound is left."""
    dims, rotations, _ = sizes(scale)
    for dim in dims:
        rows, queries = pairs(dim, dim)
        for bits in (1, 2, 4) if dim == 384 or scale == "smoke" else (1, 4):
            found, over = [], []
            for seed in range(rotations):
                coder: Any = quant.create(f"rabitq(bits={bits}, seed={seed})", dim=dim)
                coder.fit(rows)
                mean = rows.mean(0, dtype=np.float64)
                back = coder.decode(coder.encode(rows)).astype(np.float64) - mean
                inner, true = (back * queries).sum(1), ((rows - mean) * queries).sum(1)
                norms = np.linalg.norm(rows - mean, axis=1)
                cosine = norms / np.linalg.norm(back, axis=1)  # of the code with its row: the factor makes the projection exact
                bound = EPSILON * norms * np.sqrt((1 - cosine**2) / cosine**2 / (dim - 1))
                found.append(inner)
                over.append(np.abs(inner - true) > bound)
            every = np.array(found)
            yield {
                "part": "estimates", "dim": dim, "bits": bits, "slope": float(np.polyfit(np.tile(true, rotations), every.reshape(-1), 1)[0]),
                "mean error": float(np.abs(every - true).mean()), "bias": float((every.mean(0) - true).mean()),
                "max error": float(np.abs(every - true).max()), "over the bound": float(np.mean(over)),
            }  # fmt: skip


def data(scale: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Real embeddings, and rows of heavy-tailed values without a common norm, where a grid for all rows suffers."""
    count = sizes(scale)[2]
    real = datasets.debian().embeddings[:count]
    heavy = np.random.default_rng(3).standard_t(3, size=(count, 128)).astype(np.float32)
    luck = np.random.default_rng(4)
    made = {}
    for name, rows in (("real, 384-d", real), ("heavy-tailed, 128-d", heavy)):
        chosen = luck.choice(count, 200 if scale != "smoke" else 50, replace=False)
        made[name] = (np.delete(rows, chosen, 0), rows[chosen])
    return made


def recalls(scale: str) -> Iterator[dict[str, Any]]:
    """recall@10 from codes alone at equal bits, and how few rows the bound says must be looked at again."""
    run: Any = kernels.choose()
    for name, (base, queries) in data(scale).items():
        dim = base.shape[1]
        true = run.topk(queries, base, K, L2, None)[0]
        for bits in BITS if scale != "smoke" else (1, 4, 7):
            specs = {"rabitq": f"rabitq(bits={bits})", "scalar": f"scalar(bits={bits})", "scalar, tails cut": f"scalar(bits={bits}, range=quantile)"}
            if bits in (1, 2) and scale != "smoke":
                specs["pq"] = f"pq(m={dim * bits // 8})"
            for kind, spec in specs.items():
                coder: Any = quant.create(spec, dim=dim)
                coder.fit(base)
                codes = coder.encode(base)
                ids = coder.search(queries, codes, K, "l2")[0]
                row = {"part": "recall", "data": name, "bits": bits, "code": kind, "bytes a vector": coder.code_bytes, "recall@10": recall(ids, true)}
                if kind == "rabitq":
                    row |= again(coder, base, codes, queries, true)
                yield row


def again(coder: Any, base: np.ndarray, codes: np.ndarray, queries: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Rerank by the bound: rows are looked at in the order of their estimate; one whose bound lies beyond the tenth exact distance is
    skipped. Returns the rows looked at a query and the recall of what comes out."""
    mean = base.mean(0, dtype=np.float64)
    rows = base - mean
    back = coder.decode(codes).astype(np.float64) - mean
    norms = np.linalg.norm(rows, axis=1)
    cosine = np.minimum(1, norms / np.maximum(np.linalg.norm(back, axis=1), 1e-30))
    looseness = norms * np.sqrt((1 - cosine**2) / np.maximum(cosine**2, 1e-30) / (base.shape[1] - 1))
    looked, found = [], []
    for query in queries - mean:
        estimate = norms**2 + query @ query - 2 * (back @ query)
        low = estimate - 2 * EPSILON * np.linalg.norm(query) * looseness
        exact = ((rows - query) ** 2).sum(1)
        order = np.argsort(estimate, kind="stable")
        best, count = np.sort(exact[order[:K]])[:K], K
        chosen = list(order[:K])
        for row in order[K:]:
            if low[row] > best[-1]:
                continue
            count += 1
            chosen.append(row)
            if exact[row] < best[-1]:
                best = np.sort(np.append(best[:-1], exact[row]))
        looked.append(count)
        found.append(np.array(chosen)[np.argsort(exact[chosen], kind="stable")[:K]])
    return {"looked at again": float(np.mean(looked)), "recall@10 then": recall(np.array(found), true)}


def measure(scale: str, seed: int) -> Iterator[dict[str, Any]]:
    yield {"part": "data", **datasets.debian().describe()}
    yield from estimates(scale)
    yield from recalls(scale)


def facts(rows: lab.Rows) -> dict[str, float]:
    found = [r for r in rows if r["part"] == "estimates"]
    got = {(r["data"], r["bits"], r["code"]): r for r in rows if r["part"] == "recall"}
    real, heavy = "real, 384-d", "heavy-tailed, 128-d"
    named = {
        "slope, 1 bit, furthest from 1": max((r["slope"] for r in found if r["bits"] == 1), key=lambda s: abs(s - 1)),
        "slope, 4 bits, furthest from 1": max((r["slope"] for r in found if r["bits"] == 4), key=lambda s: abs(s - 1)),
        "over the bound": max(r["over the bound"] for r in found if r["bits"] == 1),
        "looked at again, 1 bit": got[real, 1, "rabitq"]["looked at again"], "recall then, 1 bit": got[real, 1, "rabitq"]["recall@10 then"],
    }  # fmt: skip
    for bits in (1, 4):
        line = [r for r in found if r["bits"] == bits]
        named[f"exponent, {bits} bit"] = lab.exponent([r["dim"] for r in line], [r["mean error"] for r in line])
    for bits in sorted({r["bits"] for r in got.values()}):
        named[f"recall, {bits} bit"] = got[real, bits, "rabitq"]["recall@10"]
        named[f"recall, {bits} bit, heavy-tailed"] = got[heavy, bits, "rabitq"]["recall@10"]
    named["recall over scalar, 4 bit"] = got[real, 4, "rabitq"]["recall@10"] - got[real, 4, "scalar"]["recall@10"]
    named["recall over scalar, 4 bit, heavy-tailed"] = got[heavy, 4, "rabitq"]["recall@10"] - got[heavy, 4, "scalar"]["recall@10"]
    if (real, 1, "pq") in got:
        for name, ending in ((real, ""), (heavy, ", heavy-tailed")):
            named[f"recall over pq, 1 bit{ending}"] = got[name, 1, "rabitq"]["recall@10"] - got[name, 1, "pq"]["recall@10"]
    return named


def show(rows: lab.Rows, plt: Any) -> tuple[dict[str, lab.Rows], Any]:
    found, got = [r for r in rows if r["part"] == "estimates"], [r for r in rows if r["part"] == "recall"]
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for bits in sorted({r["bits"] for r in found}):
        line = [r for r in found if r["bits"] == bits]
        panels[0].plot([r["dim"] for r in line], [r["mean error"] for r in line], "o-", label=f"{bits} bit")
    dims = np.array(sorted({r["dim"] for r in found}), float)
    panels[0].plot(dims, found[0]["mean error"] * (dims / dims[0]) ** -0.5, "k:", label="dim^-1/2")
    panels[0].set(xscale="log", yscale="log", xlabel="dimension", ylabel="mean error of an inner product of unit vectors")
    for panel, name in zip(panels[1:], dict.fromkeys(r["data"] for r in got), strict=True):
        for code in dict.fromkeys(r["code"] for r in got):
            line = [r for r in got if r["code"] == code and r["data"] == name]
            panel.plot([r["bits"] for r in line], [r["recall@10"] for r in line], "o-", label=code)
        panel.set(xlabel="bits a value", ylabel="recall@10 from codes alone", title=name, ylim=(0, 1.02))
    for panel in panels:
        panel.legend(fontsize=7)
    strip = lambda lines: [{k: v for k, v in r.items() if k != "part"} for r in lines]  # noqa: E731
    return {"Estimates of inner products": strip(found), "Recall from codes alone": strip(got)}, figure


if __name__ == "__main__":
    lab.main(__file__, measure, facts, show)
