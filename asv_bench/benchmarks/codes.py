"""Quantizers and codecs: speed both ways, and what they save or lose."""

from __future__ import annotations

import numpy as np

from lsmtensor import codecs, quant
from lsmtensor.bench.recall import recall, truth

from . import common

FILTERS = ("shuffle", "bitshuffle", "delta", "xor")
"""They keep the length: alone they save nothing, so each stands before a compressor."""
CHAINS = [f"{name}+zstd(level=1)" if name in FILTERS else name for name in codecs.names() if name != "none"]


class Quantizers:
    params = [quant.names()]
    param_names = ["quantizer"]
    timeout = 300

    def setup(self, name: str) -> None:
        self.points, self.queries = common.embeddings()
        self.points = self.points[: common.rows(2000)]
        self.quantizer = quant.create(name, dim=self.points.shape[1])
        self.quantizer.fit(self.points)
        self.codes = self.quantizer.encode(self.points)

    def time_fit(self, name: str) -> None:
        quant.create(name, dim=self.points.shape[1]).fit(self.points)

    def time_encode(self, name: str) -> None:
        self.quantizer.encode(self.points)

    def time_decode(self, name: str) -> None:
        self.quantizer.decode(self.codes)

    def time_search(self, name: str) -> None:
        self.quantizer.search(self.queries, self.codes, common.K, "cosine")

    def track_recall(self, name: str) -> float:
        found = self.quantizer.search(self.queries, self.codes, common.K, "cosine")[0]
        return recall(found, truth(self.points, self.queries, common.K))

    track_recall.unit = "recall@10, not reranked"  # type: ignore[attr-defined]

    def track_bytes(self, name: str) -> int:
        return self.quantizer.code_bytes

    track_bytes.unit = "bytes/vector"  # type: ignore[attr-defined]


def sources() -> dict[str, np.ndarray]:
    """Bytes of four kinds, a chunk each: what lossless codecs can do depends on nothing else."""
    size = common.rows(1 << 18, 1 << 12)
    rng = np.random.default_rng(0)
    real = common.embeddings()[0].reshape(-1)[:size].astype(np.float32)
    full = (real + rng.standard_normal(len(real)).astype(np.float32) * 1e-4).astype(np.float32)  # the bundled values were float16
    widened = real.astype(np.float16).astype(np.float32)
    return {
        "float32": full, "fp16 in float32": widened, "sorted int64": np.cumsum(rng.integers(0, 50, size // 2)),
        "int8 codes": np.clip(np.round(full / np.abs(full).max() * 127), -127, 127).astype(np.int8),
    }  # fmt: skip


class Codecs:
    """One chunk of at most 1 MiB; a chain that would save less than 5% stores it plain."""

    params = [CHAINS, list(sources())]
    param_names = ["codec", "data"]

    def setup(self, chain: str, data: str) -> None:
        values = sources()[data]
        self.raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        self.chain = codecs.create(chain, values.itemsize)
        self.coded = self.chain.encode(self.raw)

    def time_encode(self, chain: str, data: str) -> None:
        self.chain.encode(self.raw)

    def time_decode(self, chain: str, data: str) -> None:
        if self.coded is not None:
            self.chain.decode(self.coded, len(self.raw))

    def track_bytes(self, chain: str, data: str) -> float:
        return 1.0 if self.coded is None else len(self.coded) / len(self.raw)

    track_bytes.unit = "stored/raw"  # type: ignore[attr-defined]
