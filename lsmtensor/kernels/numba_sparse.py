"""The kernel over posting lists for Numba: every list is added up."""

from __future__ import annotations

import numpy as np
from numba import njit

_jit = njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _topk(starts, rows, weights, terms, factors, mask, sums, touched, ids, best):  # type: ignore[no-untyped-def]
    count, k, size = 0, ids.shape[0], 0
    for i in range(terms.shape[0]):
        for p in range(starts[terms[i]], starts[terms[i] + 1]):
            row = rows[p]
            if mask.shape[0] and not mask[row]:
                continue
            if sums[row] == 0:
                touched[count] = row
                count += 1
            sums[row] += factors[i] * weights[p]
    for j in range(count):
        row = np.int64(touched[j])
        score = sums[row]
        sums[row] = 0
        if score == 0 or (size == k and (score < best[k - 1] or (score == best[k - 1] and row > ids[k - 1]))):
            continue
        at = size if size < k else k - 1
        size = min(size + 1, k)
        while at > 0 and (best[at - 1] < score or (best[at - 1] == score and ids[at - 1] > row)):
            best[at], ids[at] = best[at - 1], ids[at - 1]
            at -= 1
        best[at], ids[at] = score, row


def sparse_topk(
    starts: np.ndarray, rows: np.ndarray, weights: np.ndarray, terms: np.ndarray, factors: np.ndarray, bounds: np.ndarray, n: int, k: int,
    mask: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    ids, best = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
    if k and n and len(terms):
        # an entry of lists that cancel out is touched again
        room = int((starts[terms + 1] - starts[terms]).sum()) + 1
        none = np.empty(0, np.uint8)
        _topk(starts, rows, weights, terms, factors, none if mask is None else mask, np.zeros(n, np.float32), np.empty(room, np.uint32), ids, best)
    return ids, best
