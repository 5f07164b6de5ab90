"""The laboratory: data sets, workloads, peers, run records, reports. Workloads are listed by name; nothing is imported."""

from __future__ import annotations

WORKLOADS = ("amplification", "ann", "commits", "db-bench", "disk", "gpu", "hybrid", "ingest", "kernels", "mixed", "peers", "point", "quant", "recovery", "scale", "sparse", "streaming", "tensor-io", "ycsb")
