"""The kernels over sparse rows and their posting lists, declared; see contract.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from .declare import kernel

CHUNK, BLOCK = 65536, 256
"""Rows of a chunk, whose lists stand together and number them in 16 bits; those in which bytes of lists of every row are read."""
Lists = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Heavy = tuple[np.ndarray, np.ndarray, np.ndarray]
# lists that are added up, and postings that a search of few does, at most
ADDED, FEW = 200, 1 << 18
# the lowest impacts of the parts of a list
LOWEST = np.array([192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1], np.uint32)


@kernel("sparse", "exact")
def sparse_invert(starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, lists: int, share: int) -> Lists:
    """Rows to lists: (counts uint32 (lists,), most float32 (lists,), begins int64 (chunks * lists + 1,), rows uint16 (p,), impacts uint8 (p,), dense_of
    int64 (w,), dense uint8 (bytes,)).

    Row i holds terms[starts[i] : starts[i + 1]], uint32 below ``lists``, each once, with float32 weights, none 0; starts int64 (n + 1,). ``counts`` are rows
    by term, ``most`` the largest magnitude of a term's weights. The list of term t in chunk c is rows[begins[c * lists + t] : begins[c * lists + t + 1]], numbers
    within the chunk, rising, with the impacts of their weights: 255ths of ``most``, rounded up. A list of over 1 / share of the rows of a chunk of 256 or more is
    a byte for each row of it instead, 0 for none, filled up to whole blocks of 256: ``dense_of`` has its c * lists + t, rising, ``dense`` the bytes
    of all. O(entries + chunks * lists).
    """
    n = len(starts) - 1
    chunks = -(-n // CHUNK)
    _check_rows(starts, terms, weights, lists)
    row = np.repeat(np.arange(n), np.diff(starts))
    most = np.zeros(lists, np.float32)
    np.maximum.at(most, terms, np.abs(weights))
    impacts = _impacts(terms, weights, most)
    key = row // CHUNK * lists + terms
    many = np.bincount(key, minlength=chunks * lists)
    here = np.minimum(n - np.arange(chunks) * CHUNK, CHUNK)
    wide = (many.reshape(chunks, lists) * share > here[:, None]) & (here[:, None] >= BLOCK)
    order = np.argsort(key, kind="stable")
    order = order[~wide.reshape(-1)[key[order]]]
    begins = np.concatenate([[0], np.cumsum(np.where(wide.reshape(-1), 0, many))]).astype(np.int64)
    dense_of = np.flatnonzero(wide)
    widths = -(-here[dense_of // max(lists, 1)] // BLOCK) * BLOCK
    places = np.zeros(chunks * lists, np.int64)
    places[dense_of] = np.cumsum(widths) - widths
    dense = np.zeros(int(widths.sum()), np.uint8)
    inside = wide.reshape(-1)[key]
    dense[places[key[inside]] + row[inside] % CHUNK] = impacts[inside]
    counts = np.bincount(terms, minlength=lists).astype(np.uint32)
    return counts, most, begins, (row[order] % CHUNK).astype(np.uint16), impacts[order], dense_of, dense


def _impacts(terms: np.ndarray, weights: np.ndarray, most: np.ndarray) -> np.ndarray:
    size, step = np.abs(weights), most.astype(np.float64)[terms] / 255
    units = (size / step).astype(np.int64)
    units += units * step < size
    return np.clip(units, 1, 255).astype(np.uint8)


@kernel("sparse", "exact")
def sparse_heavy(starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, most: np.ndarray, limit: int) -> Heavy:
    """The ``limit`` heaviest postings of each list at most: (begins uint32 (16 * lists,), rows uint32 (p,), impacts uint8 (p,)).

    Rows and ``most`` as `sparse_invert` has them. Part j of list t is begins[16 * t + j] to begins[16 * t + j + 1] of the rows, rising, and their impacts: those
    from 192 on, then from 128, 96, 64, 48, ... 4, 3, 2 and 1. The last part is cut by the limit. O(entries).
    """
    _check_rows(starts, terms, weights, len(most))
    impacts = _impacts(terms, weights, most)
    part = np.searchsorted(-LOWEST.astype(np.int64), -impacts.astype(np.int64))
    order = np.lexsort((part, terms))
    counts = np.bincount(terms, minlength=len(most))
    order = order[np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts) < limit]
    begins = np.searchsorted(terms[order].astype(np.int64) * 16 + part[order], np.arange(16 * len(most)))
    return begins.astype(np.uint32), np.repeat(np.arange(len(starts) - 1), np.diff(starts))[order].astype(np.uint32), impacts[order]


def _grade(numbers: np.ndarray, drop: int) -> np.ndarray:
    """Levels of whole numbers, 2^(23 - drop) of them an octave."""
    return (numbers.astype(np.float32).view(np.uint32) >> np.uint32(drop)).astype(np.int64)


def _check_rows(starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, lists: int) -> None:
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(terms) or (np.diff(starts) < 0).any() or len(weights) != len(terms):
        raise InvalidArgumentError(f"{len(starts) - 1} rows of {len(terms)} terms and {len(weights)} weights")
    if len(terms) and int(terms.max()) >= lists:
        raise InvalidArgumentError(f"term {int(terms.max())} of {lists}")


@kernel("sparse", "exact")
def sparse_net(
    row_starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, most: np.ndarray, starts: np.ndarray, rows: np.ndarray, impacts: np.ndarray,
    dense_of: np.ndarray, dense: np.ndarray, norms: np.ndarray | None = None, gain: float = 1, shift: float = 0, extra: float = 0, stretch: float = 1,
    heavy: Heavy | None = None,
) -> Any:  # fmt: skip
    """Rows and their lists in a backend's own form, checked once, for `sparse_search`, with ``heavy`` for `sparse_near`. As `sparse_invert` and `sparse_heavy` have them.

    A weight w counts as w, or with ``norms`` float32 (n,), 0 or more, as gain * (w + shift * norm) / (w + (shift + 1) * norm) + extra. What it counts for is at
    most ``stretch`` times what the lists were made of.
    """
    return Net(row_starts, terms, weights, most, starts, rows, impacts, dense_of, dense, norms, gain, shift, extra, stretch, heavy)


@kernel("sparse", "rounding")
def sparse_search(net: Any, terms: np.ndarray, factors: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 (k,), scores float32 (k,)): the k largest sums of factor * weight, then -1 and -inf; ties to the lower row. A sum of 0 is no answer.

    terms uint32 (m,), each at most once, factors float32 (m,), none 0. ``mask``, uint8 (n,): rows of 0 are not answered. O(postings of the terms + rows / 32).
    """
    return net.search(terms, factors, k, mask)  # type: ignore[no-any-return]


@kernel("sparse", "rounding")
def sparse_near(net: Any, terms: np.ndarray, factors: np.ndarray, k: int, budget: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The same of ``depth`` rows alone: those to which the ``budget`` postings (262,144 at most) that count for most add most, levels of the heaviest postings of
    each list taken by factor * most * level, a quarter of an octave at a time (score at a time: Lin & Trotman, ICTIR 2015). O(budget + depth * entries a row).
    """
    return net.near(terms, factors, k, budget, depth, mask)  # type: ignore[no-any-return]


class Net:
    """The definition: every row is scored."""

    def __init__(
        self, row_starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, most: np.ndarray, starts: np.ndarray, rows: np.ndarray, impacts: np.ndarray,
        dense_of: np.ndarray, dense: np.ndarray, norms: np.ndarray | None, gain: float, shift: float, extra: float, stretch: float, heavy: Heavy | None,
    ) -> None:  # fmt: skip
        n, lists = len(row_starts) - 1, len(most)
        chunks = -(-n // CHUNK)
        _check_rows(row_starts, terms, weights, lists)
        width = (-(-(n - CHUNK * (chunks - 1)) // BLOCK)) * BLOCK
        full = int((dense_of < (chunks - 1) * lists).sum())
        if n < 1 or len(starts) != chunks * lists + 1 or starts[0] != 0 or starts[-1] != len(rows) or (np.diff(starts) < 0).any() or len(impacts) != len(rows):
            raise InvalidArgumentError(f"{n} rows, {lists} lists that begin at {len(starts)} places, of {len(rows)} postings and {len(impacts)} impacts")
        if len(dense_of) and (dense_of[0] < 0 or dense_of[-1] >= chunks * lists or (np.diff(dense_of) <= 0).any()):
            raise InvalidArgumentError(f"lists of every row, of {chunks} chunks of {lists}, that do not rise")
        if len(dense) != full * CHUNK + (len(dense_of) - full) * width or (norms is not None and len(norms) != n):
            raise InvalidArgumentError(f"{len(dense_of)} lists of every row in {len(dense)} bytes")
        last = n - CHUNK * (chunks - 1)
        if (rows[starts[(chunks - 1) * lists] :] >= last).any() or dense[full * CHUNK :].reshape(-1, width)[:, last:].any():
            raise InvalidArgumentError(f"a posting behind the last row of a chunk of {last}")
        self.row_starts, self.terms, self.weights, self.most, self.starts, self.rows, self.impacts = row_starts, terms, weights, most, starts, rows, impacts
        self.dense_of, self.dense, self.full, self.width, self.chunks, self.n = dense_of, dense, full, width, chunks, n
        self.norms, self.gain, self.shift, self.extra, self.stretch, self.heavy = norms, gain, shift, extra, stretch, heavy
        if heavy is not None:
            begins, heaviest, worth = heavy
            if len(begins) != 16 * lists or (np.diff(begins.reshape(-1, 16).astype(np.int64)) < 0).any() or int(begins.max(initial=0)) > len(heaviest):
                raise InvalidArgumentError(f"{len(begins)} begins of the heaviest of {lists} lists, {len(heaviest)} postings")
            if len(worth) != len(heaviest) or (heaviest >= n).any() or (worth == 0).any():
                raise InvalidArgumentError(f"{len(heaviest)} heaviest postings of {n} rows and {len(worth)} impacts")

    def ordered(self, terms: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(the terms by falling bound, what a bound counts for, the scale of all): the first 200 have 65535 together."""
        bounds = np.abs(factors) * self.most[terms] * np.float32(self.stretch)
        order = np.argsort(-bounds, kind="stable")[:ADDED]
        terms, bounds = terms[order], bounds[order]
        total = 0.0
        for bound in bounds.tolist():  # in the order of a loop
            total += bound
        scale = (65535 - 258 * len(terms)) / total if 0 < total < np.inf else 0.0
        return terms, np.clip(np.ceil(bounds * scale * (256 * 1.000001 / 255)), 256, 65535).astype(np.uint32), scale

    def span(self, chunk: int, term: int) -> np.ndarray | slice:
        """The bytes of a list of every row, or where the postings of another are."""
        key = chunk * len(self.most) + term
        at = int(np.searchsorted(self.dense_of, key))
        if at == len(self.dense_of) or self.dense_of[at] != key:
            return slice(int(self.starts[key]), int(self.starts[key + 1]))
        if at < self.full:
            return self.dense[at * CHUNK : (at + 1) * CHUNK]
        begin = self.full * CHUNK + (at - self.full) * self.width
        return self.dense[begin : begin + self.n - (self.chunks - 1) * CHUNK]

    def scores(self, terms: np.ndarray, factors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float32 of each of some rows."""
        query = np.zeros(len(self.most))
        query[terms] = factors
        sizes = np.diff(self.row_starts)[rows]
        ends = np.cumsum(sizes)
        at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(self.row_starts[rows] - (ends - sizes), sizes)
        worth = self.weights[at].astype(np.float64)
        if self.norms is not None:
            norm = np.repeat(self.norms[rows], sizes).astype(np.float64)
            worth = self.gain * (worth + self.shift * norm) / (worth + (self.shift + 1) * norm) + self.extra
        made: np.ndarray = np.bincount(np.repeat(np.arange(len(rows)), sizes), query[self.terms[at]] * worth, len(rows)).astype(np.float32)
        return made

    def search(self, terms: np.ndarray, factors: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        self.check(terms, factors, k, mask)
        rows = np.arange(self.n) if mask is None else np.flatnonzero(mask)
        return best_of(rows, self.scores(terms, factors, rows), k)

    def check(self, terms: np.ndarray, factors: np.ndarray, k: int, mask: np.ndarray | None) -> None:
        if len(factors) != len(terms) or (mask is not None and len(mask) != self.n) or k < 0:
            raise InvalidArgumentError(f"{len(terms)} terms, {len(factors)} factors, k {k}; one factor a term, a mask of {self.n}")
        if len(terms) and int(terms.max()) >= len(self.most):
            raise InvalidArgumentError(f"term {int(terms.max())} of {len(self.most)}")

    def near(
        self, terms: np.ndarray, factors: np.ndarray, k: int, budget: int, depth: int, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check(terms, factors, k, mask)
        if self.heavy is None or budget < 1 or depth < 1:
            raise InvalidArgumentError(f"a budget of {budget}, a depth of {depth}; give 1 or more, over a net that has heaviest postings")
        rows, sums = self.heaviest(terms, factors, min(budget, FEW))
        if mask is not None:
            rows, sums = rows[mask[rows] != 0], sums[mask[rows] != 0]
        rows = np.sort(rows[np.argsort(-sums, kind="stable")[:depth]])
        return best_of(rows, self.scores(terms, factors, rows), k)

    def heaviest(self, terms: np.ndarray, factors: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows in order of arrival, what is added to each)."""
        begins, heavy, impacts = self.heavy  # type: ignore[misc]
        chosen, by, _ = self.ordered(terms, factors)
        places = begins.reshape(-1, 16)[chosen].astype(np.int64)
        start, sizes, by = places[:, :-1].ravel(), np.diff(places, axis=1).ravel(), np.repeat(by, len(LOWEST))
        grade = _grade(by * np.tile(LOWEST, len(chosen)), 21)
        per = np.bincount(grade, sizes, 1).astype(np.int64)[::-1]
        edge = len(per) - 1 - int((np.cumsum(per) <= budget).sum())
        order = np.concatenate([np.flatnonzero(grade > edge), np.flatnonzero(grade == edge)])
        start, by, sizes = start[order], by[order], sizes[order]
        taken = np.clip(budget - (np.cumsum(sizes) - sizes), 0, sizes)
        at = np.arange(taken.sum()) + np.repeat(start - (np.cumsum(taken) - taken), taken)
        rows, adds = heavy[at], impacts[at] * np.repeat(by, taken) >> 8
        distinct, first, number = np.unique(rows, return_index=True, return_inverse=True)
        sums = np.bincount(number, adds, len(distinct)).astype(np.int64)
        arrived = np.argsort(first)
        return distinct[arrived], sums[arrived]


def best_of(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of rising rows, padded."""
    rows, scores = rows[scores != 0], scores[scores != 0]
    order = np.argsort(-scores, kind="stable")[:k]
    ids, best = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
    ids[: len(order)], best[: len(order)] = rows[order], scores[order]
    return ids, best
