"""The numpy backend: the definitions themselves."""

from __future__ import annotations

import numpy as np

from .contract import (
    assign,
    bitshuffle,
    block_bloom_add,
    block_bloom_test,
    bloom_add,
    bloom_test,
    crc32c_chunks,
    gathered,
    hash64_bytes,
    hash64_int64,
    merge_bytes,
    merge_int64,
    pairwise,
    search_bytes,
    search_int64,
    shuffle,
    topk,
    unbitshuffle,
    unshuffle,
)
from .contract_codes import (
    code_estimates,
    code_forest,
    code_link,
    code_near,
    code_net,
    code_one,
    code_ranges,
    code_reverse,
    code_scan,
    code_search,
    code_shrink,
    graph_insert,
    graph_search,
    page_net,
    page_scan,
    page_search,
    pq_encode,
    pq_net,
    pq_ranges,
)
from .contract_grid import angle_encode, grid_encode, half_encode, scalar_encode, turn
from .contract_sparse import sparse_heavy, sparse_invert, sparse_near, sparse_net, sparse_search


def isa() -> str:
    return f"numpy {np.__version__}"


__all__ = [
    "angle_encode", "grid_encode", "half_encode", "scalar_encode", "turn",
    "bitshuffle", "shuffle", "unbitshuffle", "unshuffle",
    "code_estimates", "code_forest", "code_link", "code_near", "code_net", "code_one", "code_ranges", "code_reverse", "code_scan", "code_search", "code_shrink", "page_net", "page_scan", "page_search", "pq_encode", "pq_net", "pq_ranges",
    "assign", "block_bloom_add", "block_bloom_test", "bloom_add", "bloom_test", "crc32c_chunks", "gathered", "graph_insert", "graph_search", "hash64_bytes", "hash64_int64", "isa", "merge_bytes", "merge_int64",
    "pairwise", "search_bytes", "search_int64", "sparse_heavy", "sparse_invert", "sparse_near", "sparse_net", "sparse_search", "topk",
]  # fmt: skip
