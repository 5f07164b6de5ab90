"""Where a new graph begins: rows fall into small leaves by the nearest of some leaders, and all of a leaf are compared with each other.

After HCNNG (Muñoz et al., Pattern Recognition 2019) and its kin, on the 8-bit codes that graphs are built on: whole numbers, so the same links for any number of
threads and on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..kernels.contract import mix64
from .carry import NONE

# rows of a leaf as a rule (or the root of all), in how many a row is, and the least of each leaf's nearest that are kept
LEAF, LEAVES, NEAR = 512, 2, 24
# a leaf of so many times the rule is cut by leaders of its own
MOST = 4
# rows that a kernel call looks at: Ctrl-C is heard between them
STEP = 8192


def kept(degree: int) -> int:
    """How many of a leaf's nearest are looked at for ``degree`` links."""
    return max(NEAR, degree * 3 // 4)


def leaf_bytes(degree: int) -> int:
    """What `Leaves.link` takes a row: the nearest and which are there twice, leaders and order. Chosen links are where those of the index will be."""
    return LEAVES * kept(degree) * 5 + 32


class Leaves:
    """Over 8-bit codes (n, lines * 64) and sums (n, 2); ``tell`` is called with how many rows more were looked at, one for each leaf that they are in."""

    def __init__(self, codes: np.ndarray, sums: np.ndarray, metric: int, seed: int, threads: int, kernels: Any, tell: Callable[[float], None]) -> None:
        self._coded, self.n, self.seed, self.threads = (codes, sums, metric), len(codes), seed, threads
        self._kernels, self._tell = kernels, tell
        self.size = max(LEAF, math.isqrt(self.n))

    def link(self, links: np.ndarray, degree: int, alpha: int) -> np.ndarray:
        """Fill ``links`` (n, width) with at most ``degree`` of the nearest in a row's leaves and the links back; int64 (n,): the rows, leaf by leaf. O(n^1.5) distances, of rows in cache."""
        rows, keep = np.arange(self.n), kept(degree)
        near = np.full((self.n, LEAVES, keep), NONE, np.uint32)
        with ThreadPoolExecutor(self.threads) as pool:
            leaders = self._leaders(rows, LEAVES)
            parts = np.split(rows, range(STEP, self.n, STEP))
            mine = np.concatenate(self._each(pool, lambda some: self._led(some, leaders, LEAVES), parts, 0))

            def compare(entries: np.ndarray) -> None:
                some, place = entries // LEAVES, entries % LEAVES
                near[some, place] = self._kernels.code_near(*self._coded, some, some.astype(np.uint32), keep)

            self._each(pool, compare, [leaf for group in _groups(mine.ravel()) for leaf in self._cut(group)], 1 / LEAVES)
            # a row that is near in two leaves is there once
            found = near.reshape(self.n, -1)
            found.sort(axis=1)
            found[:, 1:][found[:, 1:] == found[:, :-1]] = NONE
            found.sort(axis=1)
            chosen = self._each(pool, lambda some: self._kernels.code_shrink(*self._coded, found, some[0], some[-1] + 1, degree, alpha), parts, 0)
            out = np.concatenate(chosen)
            list(pool.map(lambda part: self._kernels.code_reverse(*self._coded, links, out, rows, alpha, part, self.threads), range(self.threads)))
        return np.argsort(mine[:, 0], kind="stable")

    def _each(self, pool: ThreadPoolExecutor, work: Callable[[np.ndarray], Any], parts: list[np.ndarray], share: float) -> list[Any]:
        made: list[Any] = []
        for at in range(0, len(parts), 4 * self.threads):
            some = parts[at : at + 4 * self.threads]
            made += pool.map(work, some)
            self._tell(share * sum(map(len, some)))
        return made

    def _leaders(self, rows: np.ndarray, times: int) -> np.ndarray:
        """uint32: some rows, as their numbers and the seed say, in order."""
        order = np.argsort(mix64(rows.astype(np.uint64) + np.uint64(self.seed) * np.uint64(2**32)), kind="stable")
        return np.sort(rows[order[: -(-len(rows) * times // self.size)]]).astype(np.uint32)

    def _led(self, rows: np.ndarray, leaders: np.ndarray, times: int) -> np.ndarray:
        """uint32 (len(rows), times): the nearest leaders of rows in order; first of a leader is itself."""
        mine: np.ndarray = self._kernels.code_near(*self._coded, rows, leaders, times)
        own = np.isin(rows, leaders)
        mine[own] = np.concatenate([rows[own, None].astype(np.uint32), mine[own, :-1]], axis=1)
        return mine

    def _cut(self, entries: np.ndarray) -> Iterator[np.ndarray]:
        """The leaf of these entries, LEAVES * row + place each, in leaves that are not too large."""
        if len(entries) <= MOST * self.size:
            yield entries
            return
        rows = entries // LEAVES
        groups = _groups(self._led(rows, self._leaders(rows, 2), 1)[:, 0])
        if max(map(len, groups)) > len(rows) * 3 // 4:
            # rows that nothing tells apart
            yield from np.array_split(entries, -(-len(entries) // self.size))
            return
        for group in groups:
            yield from self._cut(entries[group])


def _groups(names: np.ndarray) -> list[np.ndarray]:
    """The places of each name, NONE left out."""
    order = np.argsort(names, kind="stable")
    order = order[: np.searchsorted(names[order], NONE)]
    return np.split(order, np.flatnonzero(np.diff(names[order])) + 1)
