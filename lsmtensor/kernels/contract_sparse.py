"""The kernels over sparse rows and their posting lists, declared; see contract.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from .declare import kernel

CHUNK, BLOCK = 65536, 256
"""Rows of a chunk, whose lists stand together and number them in 16 bits; those in which bytes of lists of every row are read."""
Lists = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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
    size, most = np.abs(weights), np.zeros(lists, np.float32)
    np.maximum.at(most, terms, size)
    step = most.astype(np.float64)[terms] / 255
    units = (size / step).astype(np.int64)
    units += units * step < size
    impacts = np.clip(units, 1, 255).astype(np.uint8)
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


def _check_rows(starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, lists: int) -> None:
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(terms) or (np.diff(starts) < 0).any() or len(weights) != len(terms):
        raise InvalidArgumentError(f"{len(starts) - 1} rows of {len(terms)} terms and {len(weights)} weights")
    if len(terms) and int(terms.max()) >= lists:
        raise InvalidArgumentError(f"term {int(terms.max())} of {lists}")


@kernel("sparse", "exact")
def sparse_net(
    row_starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, most: np.ndarray, starts: np.ndarray, rows: np.ndarray, impacts: np.ndarray,
    dense_of: np.ndarray, dense: np.ndarray, norms: np.ndarray | None = None, gain: float = 1, shift: float = 0, extra: float = 0, stretch: float = 1,
) -> Any:  # fmt: skip
    """Rows and their lists in a backend's own form, checked once, for `sparse_search`. Rows and lists as `sparse_invert` has them.

    A weight w counts as w, or with ``norms`` float32 (n,), 0 or more, as gain * (w + shift * norm) / (w + (shift + 1) * norm) + extra. What it counts for is at
    most ``stretch`` times what the lists were made of.
    """
    return Net(row_starts, terms, weights, most, starts, rows, impacts, dense_of, dense, norms, gain, shift, extra, stretch)


@kernel("sparse", "rounding")
def sparse_search(
    net: Any, terms: np.ndarray, factors: np.ndarray, k: int, cut: int, depth: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 (k,), scores float32 (k,)): the k largest sums of factor * weight, then -1 and -inf; ties to the lower row. A sum of 0 is no answer.

    terms uint32 (m,), each at most once, factors float32 (m,), none 0. ``mask``, uint8 (n,): rows of 0 are not answered. With a ``depth`` over 0 only the
    ``cut`` terms of largest factor * most are looked at in their lists, and the ``depth`` rows of the largest sums of impacts scored; cut and depth 0: exact.
    O(postings of the terms + rows / 32).
    """
    return net.search(terms, factors, k, cut, depth, mask)  # type: ignore[no-any-return]


class Net:
    """The definition: every row is scored."""

    def __init__(
        self, row_starts: np.ndarray, terms: np.ndarray, weights: np.ndarray, most: np.ndarray, starts: np.ndarray, rows: np.ndarray, impacts: np.ndarray,
        dense_of: np.ndarray, dense: np.ndarray, norms: np.ndarray | None, gain: float, shift: float, extra: float, stretch: float,
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
        self.norms, self.gain, self.shift, self.extra, self.stretch = norms, gain, shift, extra, stretch

    def ordered(self, terms: np.ndarray, factors: np.ndarray, cut: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """(the terms by falling bound, what a bound counts for, bounds, the scale of all): the first ``cut`` have 65535 together."""
        bounds = np.abs(factors) * self.most[terms] * np.float32(self.stretch)
        order = np.argsort(-bounds, kind="stable")
        terms, bounds = terms[order], bounds[order]
        total = 0.0
        for bound in bounds[:cut].tolist():  # in the order of a loop
            total += bound
        scale = (65535 - 258 * min(cut, len(terms))) / total if 0 < total < np.inf else 0.0
        return terms, np.clip(np.ceil(bounds[:cut] * scale * (256 * 1.000001 / 255)), 256, 65535).astype(np.uint32), bounds, scale

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

    def bounds(self, terms: np.ndarray, by: np.ndarray) -> np.ndarray:
        """uint32 (n,): the sums of impacts."""
        sums = np.zeros(self.n, np.uint32)
        for chunk in range(self.chunks):
            part = sums[chunk * CHUNK : (chunk + 1) * CHUNK]
            for term, times in zip(terms.tolist(), by, strict=False):
                span = self.span(chunk, term)
                if isinstance(span, slice):
                    part[self.rows[span]] += self.impacts[span] * times >> np.uint32(8)
                else:
                    part += span * times >> np.uint32(8)
        return sums

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

    def search(self, terms: np.ndarray, factors: np.ndarray, k: int, cut: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if len(factors) != len(terms) or (mask is not None and len(mask) != self.n) or min(k, cut, depth) < 0:
            raise InvalidArgumentError(f"{len(terms)} terms, {len(factors)} factors, k {k}, cut {cut}, depth {depth}; one factor a term, a mask of {self.n}")
        if len(terms) and int(terms.max()) >= len(self.most):
            raise InvalidArgumentError(f"term {int(terms.max())} of {len(self.most)}")
        rows = np.arange(self.n) if mask is None else np.flatnonzero(mask)
        if depth:
            chosen, by, _, _ = self.ordered(terms, factors, min(cut, 200))
            sums = self.bounds(chosen, by)[rows]
            rows = np.sort(rows[np.lexsort((rows, -sums.astype(np.int64)))[: min(depth, int((sums > 0).sum()))]])
        return best_of(rows, self.scores(terms, factors, rows), k)


def best_of(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of rising rows, padded."""
    rows, scores = rows[scores != 0], scores[scores != 0]
    order = np.argsort(-scores, kind="stable")[:k]
    ids, best = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
    ids[: len(order)], best[: len(order)] = rows[order], scores[order]
    return ids, best
