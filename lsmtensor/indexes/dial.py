"""Searches that any index answers by its dial, the search parameter that trades work for recall: to a recall, to a radius, without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgumentError
from .params import is_whole

if TYPE_CHECKING:
    from .base import Found, VectorIndex

LADDER = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
# rows that are asked for their own nearest, and how many
ASKED, NEAREST = 128, 10
# steps without a gain after which the dial is no use any more
IDLE = 3
# rows compared with them at a time
BLOCK = 65536
# the rows may grow or shrink by this share before a calibration is made anew
STALE = 0.2
Curve = list[tuple[int, float]]


def calibrate(index: VectorIndex) -> Curve:
    """(value, recall@10) of every step of the dial up to the first without a miss, or the third that brings nothing, over rows of the index that ask for their neighbours.

    O(128 n d) once for the truth, and the searches.
    """
    live = index._live()
    asked = live[:: max(1, len(live) // ASKED)][:ASKED]
    if index.dial is None or len(asked) < 2:
        return []
    queries = np.ascontiguousarray(index._vectors.take(asked))
    alive = None if index._alive is None else index._alive.array
    # each finds itself too: one more, which counts neither way
    k = min(NEAREST + 1, len(live))
    nearest = np.full((len(asked), k), np.inf, np.float32)
    for at in range(0, len(index._vectors), BLOCK):
        # rows may lie in a file and be more than memory holds
        rows, mask = index._vectors.part(at, min(at + BLOCK, len(index._vectors))), None if alive is None else alive[at : at + BLOCK]
        nearest = np.sort(np.concatenate([nearest, index._kernels.topk(queries, rows, k, index._code, mask)[1]], 1), 1)[:, :k]
    limit = nearest[:, -1:]
    curve: Curve = []
    best, idle = -1.0, 0
    for value in LADDER:
        found = index._near(queries, k, alive, **{index.dial: value})[1]
        hits = (found <= limit + 1e-5 * np.abs(limit) + 1e-6).sum()
        curve.append((value, float(hits - len(asked)) / (len(asked) * (k - 1))))
        idle = idle + 1 if curve[-1][1] <= best else 0
        best = max(best, curve[-1][1])
        if best >= 1 or value >= len(live) or idle == IDLE:
            break
    return curve


def check_recall(recall: Any) -> None:
    """`InvalidArgumentError` for what is no share."""
    if isinstance(recall, bool) or not isinstance(recall, (int, float, np.floating)) or not 0 < recall <= 1:
        raise InvalidArgumentError(f"recall={recall!r}; give a share over 0, at most 1")


def dialled(index: VectorIndex, recall: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Search parameters that reach a recall by the calibration, with a fifth of what is missing to 1 on top: the sample is small."""
    check_recall(recall)
    if index.dial is None:
        return params
    if index.dial in params:
        raise InvalidArgumentError(f"recall={recall} and {index.dial}={params[index.dial]}; give one of them, for recall= chooses {index.dial}")
    wanted = recall + (1 - recall) / 5
    curve = index.calibrate()
    if not curve:
        return params
    return {**params, index.dial: next((value for value, reached in curve if reached >= wanted), curve[-1][0])}


def within(index: VectorIndex, queries: Any, radius: float, allowed: Any, params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The body of `VectorIndex.search_radius`: k grows until half of those found are beyond the radius."""
    if isinstance(radius, bool) or not isinstance(radius, (int, float, np.integer, np.floating)) or np.isnan(radius):
        raise InvalidArgumentError(f"radius={radius!r}; give a distance as search() answers it")
    block = index._check(queries, "queries")
    answers: list[Found] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(block)
    left, k = np.arange(len(block)), 64
    while len(left):
        ids, distances = index.search(block[left], min(k, max(1, len(index))), allowed, **params)
        # the last half of a walk may have holes: what is asked for has to lie in the first
        whole = (ids[:, -1] < 0) | (distances[:, ids.shape[1] // 2] > radius) | (k >= len(index))
        for at in np.flatnonzero(whole):
            keep = (distances[at] <= radius) & (ids[at] >= 0)
            answers[left[at]] = ids[at][keep], distances[at][keep]
        left, k = left[~whole], 4 * k
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in answers])]).astype(np.int64)
    if not answers:
        return starts, np.empty(0, np.int64), np.empty(0, np.float32)
    return starts, np.concatenate([ids for ids, _ in answers]), np.concatenate([distances for _, distances in answers])


def without_end(index: VectorIndex, query: Any, batch_size: int, allowed: Any, params: dict[str, Any]) -> Iterator[Found]:
    """The body of `VectorIndex.search_iterator`: k doubles, and what was answered before is left out."""
    if not is_whole(batch_size, 1):
        raise InvalidArgumentError(f"batch_size={batch_size!r}; give 1 or more")
    row = index._check(query, "query")
    if len(row) != 1:
        raise InvalidArgumentError(f"query of shape {np.shape(query)}; an iterator answers one, of shape ({index.dim},)")
    return _batches(index, row[0], int(batch_size), allowed, params)


def _batches(index: VectorIndex, query: np.ndarray, size: int, allowed: Any, params: dict[str, Any]) -> Iterator[Found]:
    given, k = np.empty(0, np.int64), 2 * size
    while True:
        ids, distances = index.search(query, min(k, len(index)), allowed, **params)
        fresh = (ids >= 0) & ~np.isin(ids, given)
        ended = k >= len(index) or ids[-1] < 0
        ids, distances = ids[fresh], distances[fresh]
        # the last of a walk that could go on are the least sure: they wait for the longer one
        sure = len(ids) if ended else len(ids) // size * size
        for at in range(0, sure, size):
            yield ids[at : min(at + size, sure)], distances[at : min(at + size, sure)]
        if ended:
            return
        given, k = np.concatenate([given, ids[:sure]]), 2 * k
