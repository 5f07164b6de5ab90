"""Claims about quantized bytes, index builds and search times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import lab
import numpy as np

from lsmtensor import indexes, kernels, quant
from lsmtensor.bench.recall import recall, truth

DIM, K = 768, 10
EFFORTS = (10, 20, 40, 80, 160, 320)


def saved(scale: str) -> Iterator[dict[str, Any]]:
    """Bytes of codes with everything that decoding needs, at several sizes of a collection; recall beside."""
    rows = lab.spectrum(600 if scale == "smoke" else 4000, DIM, 1, clusters=50)
    base, queries = rows[:-100], rows[-100:]
    true = truth(base, queries, K)
    for name, spec in {"int8": "int8", "int4": "int4", "PQ, 96 bytes": "pq(m=96)"}.items():
        if scale == "smoke" and name.startswith("PQ"):
            spec = "pq(m=96, bits=4)"  # 256 centroids a part would be learned from 500 rows
        coder: Any = quant.create(spec, dim=DIM)
        coder.fit(base)
        codes = coder.encode(base)
        learned = sum(a.nbytes for a in coder.to_sections()[1].values())
        ids = coder.search(queries, codes, 10 * K, "cosine")[0]
        near = np.take_along_axis(ids, np.argsort(_cosine(queries, base, ids), axis=1, kind="stable"), 1)
        shares = {f"saved at {n:,}": 1 - (n * coder.code_bytes + learned) / (n * 4 * DIM) for n in (10_000, 50_000, 1_000_000)}
        yield {
            "part": "saved", "code": name, "bytes a vector": coder.code_bytes, "bytes learned": learned, **shares,
            "recall@10": recall(ids[:, :K], true), "recall@10, 100 looked at again": recall(near[:, :K], true),
        }  # fmt: skip


def _cosine(queries: np.ndarray, base: np.ndarray, ids: np.ndarray) -> np.ndarray:
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    return -np.einsum("qd,qkd->qk", queries, unit[ids])


def builds(scale: str) -> Iterator[dict[str, Any]]:
    """GWI and HNSW from the same rows in the same kernels, hnswlib beside as a check from outside; then their searches."""
    sizes = (500, 1000, 2000) if scale == "smoke" else (2500, 5000, 10_000, 20_000)
    everything = lab.spectrum(sizes[-1] + 200, DIM, 2, decay=0.7)
    queries = everything[-200:]
    for count in sizes:
        rows = np.ascontiguousarray(everything[:count])
        true = truth(rows, queries, K)
        for name, spec in {"hnsw": "hnsw(m=16, ef_construction=200)", "gwi": "gwi"}.items():
            seconds, index = _build(spec, rows)
            yield {"part": "builds", "index": name, "rows": count, "s": seconds}
            yield from searches(name, index, count, queries, true)
        if (outside := _hnswlib(rows)) is not None:
            yield {"part": "builds", "index": "hnswlib", "rows": count, "s": outside}


def _build(spec: str, rows: np.ndarray) -> tuple[float, Any]:
    begin = time.perf_counter()
    index = indexes.create(spec, dim=DIM, metric="cosine")
    index.train(rows)
    index.add(rows)
    return time.perf_counter() - begin, index


def _hnswlib(rows: np.ndarray) -> float | None:
    try:
        import hnswlib
    except ImportError:
        return None
    begin = time.perf_counter()
    index = hnswlib.Index(space="cosine", dim=DIM)
    index.init_index(max_elements=len(rows), M=16, ef_construction=200)
    index.add_items(rows, num_threads=1)
    return time.perf_counter() - begin


def searches(name: str, index: Any, count: int, queries: np.ndarray, true: np.ndarray) -> Iterator[dict[str, Any]]:
    """HNSW at the least effort that gives a recall of 0.95, by backend; GWI at 50 probes."""
    if name == "gwi":
        cells = len(index._centroids)
        ids = index.search(queries, k=K, nprobe=50)[0]
        seconds = lab.seconds(lambda: index.search(queries[0], k=K, nprobe=50), 0.02)
        yield {
            "part": "searches", "index": "gwi", "rows": count, "kernel": kernels.choose().backend, "effort": 50, "recall@10": recall(ids, true),
            "ms": float(np.median(seconds)) * 1e3, "share of cells": min(1.0, 50 / max(1, cells)),
        }  # fmt: skip
        return
    header, arrays = index.to_sections(include_vectors=True)
    for backend, what in kernels.available().items():
        if what.startswith("unavailable"):
            continue
        mine = indexes.from_sections(header, arrays, kernel=backend)
        few = queries[:20] if backend == "numpy" else queries
        for effort in EFFORTS:
            got = recall(mine.search(few, k=K, ef=effort)[0], true[: len(few)])
            if got >= 0.95 or effort == EFFORTS[-1]:
                break
        taken = []
        for query in few:
            begin = time.perf_counter()
            mine.search(query, k=K, ef=effort)
            taken.append(time.perf_counter() - begin)
        yield {"part": "searches", "index": "hnsw", "rows": count, "kernel": backend, "effort": effort, "recall@10": got, "ms": float(np.median(taken)) * 1e3}
