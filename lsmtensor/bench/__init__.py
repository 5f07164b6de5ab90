"""The laboratory: data sets, workloads, peers, run records, reports. Workloads are listed by name; nothing is imported."""

from __future__ import annotations

WORKLOADS = (
    "amplification", "ann", "commits", "db-bench", "disk", "filter", "gpu", "hybrid", "ingest", "kernels", "lsm-vector",
    "mixed", "peers", "point", "quant", "recovery", "scale", "sparse", "streaming", "tensor-io", "ycsb",
)  # fmt: skip
