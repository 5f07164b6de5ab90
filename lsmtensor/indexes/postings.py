"""Rows of terms with weights, and their lists: what a sparse index, a text index and a source of a table search alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..kernels.contract_sparse import CHUNK

# a list of over this share of the rows has a byte for each
SHARE = 16
# up to so many numbers there is a list for each that could be
NUMBERS = 1 << 22
# (postings of a query, rows scored in full): the dial of a recall, cheapest first
LADDER = (
    (500, 15), (1000, 20), (1500, 20), (2000, 20), (2000, 30), (3000, 20), (3000, 30), (4000, 20), (4000, 30), (4000, 50), (6000, 30), (6000, 60), (8000, 60), (8000, 100),
    (12000, 60), (12000, 100), (16000, 100), (16000, 200), (24000, 150), (32000, 200), (48000, 400), (96000, 800),
)  # fmt: skip
# rows that are asked for their K nearest, by so many of their heaviest terms
ASKED, TERMS, K = 64, 40, 10
Csr = tuple[np.ndarray, np.ndarray, np.ndarray]
Few = tuple[int, int]
Curve = list[tuple[int, int, float]]
PARTS = ("counts", "most", "starts", "rows", "impacts", "dense_of", "dense")
HEAVY = ("heavy_begins", "heavy_rows", "heavy_impacts")
# so many of the heaviest postings of a list are kept for a search of few, or as many as make it a list of every row
HEAVIEST = 4096


class Postings:
    """Lists over rows (starts int64 (n + 1,), terms uint32, weights float32, none 0), and a search by them: see `sparse_search` of docs/kernels.md.

    ``impacts`` float32 are what the lists bound, where it is not the weights. Build O(entries), memory 8 bytes an entry of the rows, 3 of a list of few
    of them, a byte a row of a list of many.
    """

    def __init__(self, rows: Csr, dim: int, kernels: Any, impacts: np.ndarray | None = None, lists: dict[str, np.ndarray] | None = None) -> None:
        self.rows, self.dim, self._kernels = rows, dim, kernels
        self.names: np.ndarray | None = None
        terms = rows[1]
        if dim > max(NUMBERS, 4 * len(terms)):
            self.names, terms = np.unique(terms, return_inverse=True)
        self.count = dim if self.names is None else len(self.names)
        self._numbers = terms.astype(np.uint32, copy=False)
        if lists is None:
            made = kernels.sparse_invert(rows[0], self._numbers, rows[2] if impacts is None else impacts, self.count, SHARE)
            lists = dict(zip(PARTS, made, strict=True))
        self.lists = lists
        self.plain = self.net()
        # what `calibrate` said, where a file keeps it
        self.curve: Curve = []

    def net(
        self, norms: np.ndarray | None = None, gain: float = 1, shift: float = 0, extra: float = 0, stretch: float = 1, heavy: bool = False
    ) -> Any:
        """What a search is over; weights count for what `sparse_net` says. None without rows."""
        if not len(self):
            return None
        most, *lists = (self.lists[name] for name in PARTS[1:])
        few = tuple(self.lists[name] for name in HEAVY) if heavy else None
        return self._kernels.sparse_net(self.rows[0], self._numbers, self.rows[2], most, *lists, norms, gain, shift, extra, stretch, few)

    @cached_property
    def few(self) -> Any:
        """What a search of few postings is over: weights as they are. The heaviest of each list are kept with the lists, 5 bytes each. O(entries) the first time."""
        if HEAVY[0] not in self.lists and len(self):
            limit = max(HEAVIEST, len(self) // SHARE)
            made = self._kernels.sparse_heavy(self.rows[0], self._numbers, self.rows[2], self.lists["most"], limit)
            self.lists = {**self.lists, **dict(zip(HEAVY, made, strict=True))}
        return self.net(heavy=True)

    def __len__(self) -> int:
        return len(self.rows[0]) - 1

    def numbered(self, terms: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lists of terms, and their factors, without those that no row has."""
        if self.names is not None:
            at = np.minimum(np.searchsorted(self.names, terms), max(self.count - 1, 0))
            there = self.names[at] == terms if self.count else np.zeros(len(terms), bool)
            terms, factors = at[there], factors[there]
        return terms if terms.dtype == np.uint32 else terms.astype(np.uint32), factors

    def search(
        self, terms: np.ndarray, factors: np.ndarray, k: int, mask: np.ndarray | None = None, few: Few | None = None, net: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64 (k,), scores float32 (k,)) of distinct terms and their factors float32, largest first, then -1 and -inf.

        ``few``: (postings, rows scored) of `sparse_near`, for as many rows as a mask leaves; exact where that is less than a quarter.
        """
        if self.plain is None:
            return np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
        found: tuple[np.ndarray, np.ndarray]
        left = 1.0 if few is None or mask is None else np.count_nonzero(mask) / len(mask)
        if few is None or left < 0.25:
            found = self._kernels.sparse_search(net or self.plain, terms, factors, k, mask)
        else:
            found = self._kernels.sparse_near(self.few, terms, factors, k, int(few[0] / left), few[1], mask)
        return found

    def calibrate(self, queries: Csr, mask: np.ndarray | None = None) -> Curve:
        """(postings, rows scored, recall@10) of the steps of the ladder for some queries, up to the first without a miss. O(exact searches of all, and the steps)."""
        starts, terms, weights = queries
        asked = [self.numbered(terms[a:b], weights[a:b]) for a, b in zip(starts.tolist(), starts[1:].tolist(), strict=False)]
        true = [self.search(*query, K, mask) for query in asked]
        total = sum(int((rows >= 0).sum()) for rows, _ in true)
        curve: Curve = []
        for few in LADDER if total else ():
            hits = 0
            for query, (rows, scores) in zip(asked, true, strict=True):
                least = scores[max(int((rows >= 0).sum()), 1) - 1]
                hits += int((self.search(*query, K, mask, few)[1] >= least - 1e-5 * abs(least)).sum()) if rows[0] >= 0 else 0
            curve.append((*few, hits / total))
            if hits == total:
                break
        return curve

    @classmethod
    def joined(cls, parts: Sequence[Postings]) -> Postings:
        """One of several of weights as they are, their rows one after the other. O(entries)."""
        starts = [np.zeros(1, np.int64)]
        for part in parts:
            starts.append(part.rows[0][1:] + starts[-1][-1])
        rows = np.concatenate(starts), np.concatenate([part.rows[1] for part in parts]), np.concatenate([part.rows[2] for part in parts])
        return cls(rows, parts[0].dim, parts[0]._kernels)

    def having(self, term: int) -> np.ndarray:
        """bool (n,): the rows that have a term, by its number."""
        starts, rows, dense_of, dense = (self.lists[name] for name in ("starts", "rows", "dense_of", "dense"))
        has = np.zeros(-(-len(self) // CHUNK) * CHUNK, bool)
        at = 0
        for chunk in range(len(has) // CHUNK):
            key, part = chunk * self.count + term, has[chunk * CHUNK : (chunk + 1) * CHUNK]
            width = -(-min(len(self) - chunk * CHUNK, CHUNK) // 256) * 256
            first, here, last = np.searchsorted(dense_of, [chunk * self.count, key, (chunk + 1) * self.count])
            if here < last and dense_of[here] == key:
                begin = at + (here - first) * width
                part[:width] = dense[begin : begin + width] != 0
            part[rows[starts[key] : starts[key + 1]]] = True
            at += int(last - first) * width
        return has[: len(self)]

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds of it, beside the rows."""
        return self.lists


def taken(rows: Csr, which: np.ndarray) -> Csr:
    """Some rows, copies."""
    begins = rows[0][which]
    sizes = rows[0][which + 1] - begins
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    at = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], sizes)
    return starts, rows[1][at], rows[2][at]


def asking(rows: Csr, live: np.ndarray | None = None) -> Csr:
    """Some rows as queries, their heaviest terms alone."""
    live = np.arange(len(rows[0]) - 1) if live is None else live
    starts, terms, weights = taken(rows, live[:: max(1, len(live) // ASKED)][:ASKED])
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((-np.abs(weights), owner))
    kept = np.sort(order[np.arange(len(order)) - starts[owner] < TERMS])
    return np.searchsorted(owner[kept], np.arange(len(starts))), terms[kept], weights[kept]


def reaching(curve: Curve, recall: float, k: int) -> Few | None:
    """What reaches a recall by a calibration, with a fifth of what is missing to 1 on top; None where all is to be looked at."""
    wanted, more = recall + (1 - recall) / 5, max(1.0, k / K)
    return next(((int(budget * more), int(depth * more)) for budget, depth, reached in curve if reached >= wanted), None)


def restored(rows: Csr, dim: int, kernels: Any, arrays: dict[str, np.ndarray]) -> Postings:
    """Over arrays from a file; `ValueError` or `InvalidArgumentError` where they do not fit together."""
    starts, terms, weights = rows
    kinds = {"counts": np.uint32, "most": np.float32, "starts": np.int64, "rows": np.uint16, "impacts": np.uint8, "dense_of": np.int64, "dense": np.uint8}
    if HEAVY[0] in arrays:
        kinds |= dict(zip(HEAVY, (np.uint32, np.uint32, np.uint8), strict=True))
    lists = {name: arrays[name] for name in kinds}
    wrong = [name for name, kind in kinds.items() if lists[name].dtype != kind or lists[name].ndim != 1]
    if wrong or starts.dtype != np.int64 or terms.dtype != np.uint32 or weights.dtype != np.float32:
        raise ValueError(f"rows of {starts.dtype}, {terms.dtype}, {weights.dtype}; wrong lists: {', '.join(wrong) or 'none'}")
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(terms) or len(terms) != len(weights) or (np.diff(starts) < 0).any() or (terms >= dim).any():
        raise ValueError(f"{len(starts)} begins of {len(terms)} terms and {len(weights)} weights")
    made = Postings(rows, dim, kernels, lists=lists)
    if not np.isfinite(lists["most"]).all() or len(lists["counts"]) != made.count or len(lists["most"]) != made.count:
        raise ValueError(f"{len(lists['counts'])} counts and {len(lists['most'])} largest weights of {made.count} lists")
    return made
