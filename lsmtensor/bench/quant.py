"""What quantizers cost and lose: bytes, speed of coding and scanning, recall@10 before and after reranking.

Every code of the base rows is compared with full queries (asymmetric), no index. faiss's scalar, product, optimized product and
RaBitQ codes stand beside where faiss is installed, at the same bytes. Rows are unit vectors, so that cosine, inner product and L2
agree; recall is against the exact ten nearest. Training, coding and scanning are timed apart, on one core. Real embeddings, and two hard sets: values
of Student's t with three degrees of freedom (outliers stretch every grid), and 960 values (240 with --quick) that are never negative, whose variances fall as a power law and
which depend on 64 numbers, as GIST descriptors look.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import kernels, quant
from ..kernels.contract import IP
from . import datasets
from .runner import Options, Ratio

SPECS = (
    "fp16", "bf16", "int8", "scalar(bits=8)", "scalar(bits=4, range=quantile)", "int4", "lvq(bits=4)", "lvq(bits=4, second=8)", "rabitq(bits=4)", "binary",
    "rabitq(bits=1)", "pq(m={m})", "pq(m={m2}, bits=4)", "opq(m={m})",
)  # fmt: skip
PEERS = ("SQ8", "SQ4", "RaBitQ")
SLOW_PEERS = ("PQ{m}", "PQ{m2}x4", "OPQ{m}_{d},PQ{m}")  # of many rows their training takes minutes on one core: only with --peers faiss-pq
BESIDE = {"scalar(bits=8)": "SQ8", "scalar(bits=4, range=quantile)": "SQ4", "rabitq(bits=1)": "RaBitQ"} | dict(zip(("pq(m={m})", "pq(m={m2}, bits=4)", "opq(m={m})"), SLOW_PEERS, strict=True))
K, RERANK = 10, 100


@dataclass
class State:
    data: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    describe: dict[str, Any]
    specs: tuple[str, ...]
    peers: tuple[str, ...]
    done: dict[str, dict[str, float]] = field(default_factory=dict)


def setup(options: Options) -> State:
    found = datasets.debian(options.data)
    real = np.asarray(found.embeddings, np.float32)
    rng = np.random.default_rng(options.seed)
    heavy = rng.standard_t(3, size=(len(real) if not options.quick else 2000, 128)).astype(np.float32)
    few, dim = (2000, 240) if options.quick else (20_000, 960)
    axes = rng.standard_normal((64, dim)).astype(np.float32) * np.arange(1, 65, dtype=np.float32)[:, None] ** -0.5
    gist = np.abs(rng.standard_normal((few, 64)).astype(np.float32) @ axes) ** 1.5
    data = {"real": _split(real[: 2000 if options.quick else None], rng), "heavy-tailed": _split(heavy, rng), "gist-like": _split(gist, rng)}
    there = importlib.util.find_spec("faiss") is not None and options.peers != ()
    peers = PEERS + (SLOW_PEERS if "faiss-pq" in (options.peers or ()) else SLOW_PEERS[:2] if options.quick else ())
    return State(data, found.describe(), SPECS, peers if there else ())


def _split(rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(base, queries, their exact ten nearest)."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
    chosen = rng.choice(len(unit), min(200, len(unit) // 10), replace=False)
    base, queries = np.delete(unit, chosen, 0), unit[chosen]
    run: Any = kernels.choose()
    return base, queries, run.topk(queries, base, K, IP, None)[0]


def cases(state: State) -> dict[str, dict[str, Any]]:
    made = {f"{name}: {spec}": {"who": "lsmtensor", "data": name, "spec": spec} for name in state.data for spec in _fitting(state, name)}
    return made | {f"{name}: faiss {peer}": {"who": "peer", "data": name, "spec": peer} for name in state.data for peer in _peers(state, name)}


def _fitting(state: State, name: str) -> list[str]:
    return [_for(state, name, spec) for spec in state.specs]


def _peers(state: State, name: str) -> list[str]:
    return [_for(state, name, peer) for peer in state.peers]


def _for(state: State, name: str, spec: str) -> str:
    """A code of as many bytes a value in each data set."""
    dim = state.data[name][0].shape[1]
    return spec.format(m=dim // 8, m2=dim // 4, d=dim)


def ratios(state: State) -> list[Ratio]:
    return [
        Ratio(f"{name}: {what}, {_for(state, name, ours)} / faiss", f"{name}: {_for(state, name, ours)}", (f"{name}: faiss {_for(state, name, peer)}",), what)
        for name in state.data for ours, peer in BESIDE.items() if peer in state.peers for what in ("coded rows/s", "recall@10")
    ]  # fmt: skip


def dataset(state: State) -> dict[str, Any]:
    return state.describe


def run(state: State, case: str) -> dict[str, float]:
    about = cases(state)[case]
    base, queries, truth = state.data[about["data"]]
    return _ours(about["spec"], base, queries, truth) if about["who"] == "lsmtensor" else _faiss(about["spec"], base, queries, truth)


def _ours(spec: str, base: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    qz = quant.create(spec, dim=base.shape[1])
    begin = time.perf_counter()
    qz.fit(base)
    trained = time.perf_counter()
    codes = qz.encode(base)
    coded = time.perf_counter()
    ids, _ = qz.search(queries, codes, RERANK, "ip")
    done = time.perf_counter()
    extra = sum(a.nbytes for a in qz.to_sections()[1].values())
    errors = qz.errors(base[:2000])
    made = _measures(qz.ratio, extra, base, queries, truth, ids, trained - begin, coded - trained, done - coded)
    return made | {"relative error": errors["relative"], "bias of inner products": errors["bias"]}


def _faiss(spec: str, base: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(base.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    begin = time.perf_counter()
    index.train(base)
    trained = time.perf_counter()
    index.add(base)
    coded = time.perf_counter()
    _, ids = index.search(queries, RERANK)
    done = time.perf_counter()
    return _measures(index.sa_code_size() / (4 * base.shape[1]), 0, base, queries, truth, ids, trained - begin, coded - trained, done - coded)


def _measures(
    ratio: float, extra: int, base: np.ndarray, queries: np.ndarray, truth: np.ndarray, ids: np.ndarray, fit: float, encode: float, scan: float
) -> dict[str, float]:
    exact = np.einsum("qd,qkd->qk", queries, base[np.maximum(ids, 0)])
    again = np.take_along_axis(ids, np.argsort(-exact, 1), 1)
    return {
        "bytes of float32": ratio, "parameter bytes": float(extra), "recall@10": _recall(ids, truth), f"recall@10, {RERANK} reranked": _recall(again, truth),
        "train s": fit, "coded rows/s": len(base) / encode, "scanned M codes/s": len(base) * len(queries) / scan / 1e6,
    }  # fmt: skip


def _recall(ids: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a[:K]) & set(b)) / K for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]))


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert 0 < measures["recall@10"] <= 1, f"{case}: recall {measures['recall@10']}"
