"""The graph kernels in numpy: the definition that the compiled ones are held to. Clear and slow; for small graphs.

A beam is a sorted list of (distance, node), cut at a length; its nearest unexpanded entry is expanded until none
is left. Ties go to the lower node, so that every backend walks alike where distances are exact.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

import numpy as np

NONE = 0xFFFFFFFF
Pair = tuple[float, int]
Far = Callable[[np.ndarray], list[float]]


def far_from(q: np.ndarray, scale_q: np.float32, points: np.ndarray, scale: np.ndarray, metric: int) -> Far:
    """A function from nodes to their distances from ``q``; NaN is farthest."""

    def far(nodes: np.ndarray) -> list[float]:
        rows = points[nodes]
        if metric == 0:
            result = ((rows - q) ** 2).sum(1)
        elif metric == 1:
            result = -(rows @ q)
        elif metric == 2:
            result = np.float32(1) - (rows @ q) * (scale_q * scale[nodes])
        elif metric == 3:
            result = np.abs(rows - q).sum(1)
        else:
            result = (rows != q).sum(1).astype(np.float32)
        return np.where(np.isnan(result), np.inf, result).tolist()

    return far


class Net:
    """Rows of neighbours by (node, level), over the arrays of the contract."""

    def __init__(self, links: np.ndarray, upper: np.ndarray, upper_at: np.ndarray) -> None:
        self.links, self.upper, self.upper_at = links, upper, upper_at

    def row(self, node: int, level: int) -> np.ndarray:
        return self.links[node] if level == 0 else self.upper[self.upper_at[node] + level - 1]

    def neighbours(self, node: int, level: int) -> np.ndarray:
        row = self.row(node, level)
        return row[row != NONE].astype(np.int64)


def descend(far: Far, net: Net, node: int, top: int, bottom: int) -> int:
    """The greedy walk from level ``top`` down to the one above ``bottom``."""
    best = (far(np.array([node]))[0], node)
    for level in range(top, bottom, -1):
        while True:
            near = net.neighbours(best[1], level)
            nearer = min([best, *zip(far(near), near.tolist(), strict=True)])
            if nearer == best:
                break
            best = nearer
    return best[1]


def beam(far: Far, net: Net, entry: int, level: int, cap: int, mask: np.ndarray | None, ef: int) -> tuple[list[Pair], list[Pair]]:
    """(the ``cap`` nearest reached, of them the ``ef`` nearest that the mask allows), both sorted."""
    pool: list[Pair] = []
    found: list[Pair] = []
    seen, expanded = {entry}, set()
    fresh = np.array([entry])
    while True:
        for pair in zip(far(fresh), fresh.tolist(), strict=True):
            if mask is not None:
                if len(found) == ef and pair > found[-1]:
                    continue
                if mask[pair[1]]:
                    insort(found, pair)
                    del found[ef:]
            insort(pool, pair)
            del pool[cap:]
        here = next((p for p in pool if p[1] not in expanded), None)
        if here is None or (mask is not None and len(found) == ef and here > found[-1]):
            return pool, found
        expanded.add(here[1])
        fresh = np.array([n for n in net.neighbours(here[1], level).tolist() if n not in seen], np.int64)
        seen.update(fresh.tolist())


def insert(
    points: np.ndarray, scale: np.ndarray, metric: int, links: np.ndarray, upper: np.ndarray, upper_at: np.ndarray,
    levels: np.ndarray, state: np.ndarray, start: int, stop: int, ef: int,
) -> None:  # fmt: skip
    net, m = Net(links, upper, upper_at), upper.shape[1]

    def from_node(node: int) -> Far:
        return far_from(points[node], scale[node], points, scale, metric)

    def select(candidates: list[Pair], limit: int, row: np.ndarray) -> list[int]:
        """Keep each candidate, nearest first, that lies nearer to the owner than to every one kept before."""
        kept: list[int] = []
        for d, node in candidates:
            if len(kept) == limit:
                break
            if not kept or min(from_node(node)(np.array(kept))) >= d:
                kept.append(node)
        row[:], row[: len(kept)] = NONE, kept
        return kept

    for node in range(start, stop):
        level = int(levels[node])
        if state[0] < 0:
            state[:] = node, level
            continue
        far = from_node(node)
        entry = descend(far, net, int(state[0]), int(state[1]), level)
        for here in range(min(level, int(state[1])), -1, -1):
            pool, _ = beam(far, net, entry, here, ef, None, 0)
            entry = pool[0][1]
            for owner in select(pool, m, net.row(node, here)):
                row, near = net.row(owner, here), net.neighbours(owner, here)
                if len(near) < len(row):
                    row[len(near)] = node
                else:
                    near = np.append(near, node)
                    select(sorted(zip(from_node(owner)(near), near.tolist(), strict=True)), len(row), row)
        if level > state[1]:
            state[:] = node, level


def search(
    queries: np.ndarray, points: np.ndarray, scale: np.ndarray, metric: int, links: np.ndarray, upper: np.ndarray,
    upper_at: np.ndarray, state: np.ndarray, k: int, ef: int, mask: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    if state[0] < 0 or k == 0:
        return ids, distances
    net, cap = Net(links, upper, upper_at), ef if mask is None else min(len(points), 32 * ef)
    for i, q in enumerate(queries):
        norm = np.sqrt(q @ q)
        far = far_from(q, np.float32(1) / norm if norm > 0 else np.float32(0), points, scale, metric)
        entry = descend(far, net, int(state[0]), int(state[1]), 0)
        pool, found = beam(far, net, entry, 0, cap, mask, ef)
        best = (pool if mask is None else found)[:k]
        ids[i, : len(best)], distances[i, : len(best)] = [n for _, n in best], [d for d, _ in best]
    return ids, distances
