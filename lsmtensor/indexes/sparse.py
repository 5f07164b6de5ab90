"""An inverted index over sparse vectors: exact inner products, or nearly so and faster.

Lists hold what a row can gain at most in bytes; sums of them say which few rows are worth scoring from their own entries (bounds as in block-max pruning:
Mallia, Suel & Tonellotto, SIGIR 2024; sums over dense columns). Nearly: of each query the postings that count for most alone (Lin & Trotman, ICTIR 2015), and the
best of what they give scored in full, as learned sparse retrieval allows (Bruch et al., SIGIR 2024).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from .. import container, kernels
from ..errors import CorruptionError, InvalidArgumentError, KeyNotFoundError, SchemaError
from .base import Found, filter_mask, new_ids
from .dial import STALE, check_recall
from .params import check_counts, is_whole
from .postings import Csr, Curve, Few, Postings, asking, reaching, restored, taken
from .rows import Rows

DEAD_SHARE = 0.2


class SparseIndex:
    """Sparse float32 vectors of ``dim`` dimensions with integer ids; scores are inner products, larger is nearer.

    Lists are made at the first search after a change, O(entries). A search is O(postings of the terms looked at + rows / 32). Memory 8 bytes an entry of the
    rows, 3 a posting of a list, a byte a row of a list of over a 16th of them. Any weights; 0 is no entry. Weights below 0, of rows or queries, are answered
    exactly: bounds are then of magnitudes and leave more rows to score.
    """

    name, version = "sparse", 3

    def __init__(self, dim: int, kernel: str | None = None) -> None:
        if not is_whole(dim, 1) or dim > 2**32:
            raise InvalidArgumentError(f"dim={dim!r}; give the size of the vocabulary, from 1 to {2**32}")
        self.dim = int(dim)
        self._kernels: Any = kernels.choose(kernel)
        self._empty()

    def _empty(self) -> None:
        # the rows: where each begins, its dimensions in order, their weights
        self._starts, self._terms, self._weights = Rows(np.zeros(1, np.int64)), Rows(np.empty(0, np.uint32)), Rows(np.empty(0, np.float32))
        self._ids, self._alive, self._dead, self._next_id = Rows(np.empty(0, np.int64)), Rows(np.empty(0, np.uint8)), 0, 0
        self._row_of: dict[int, int] | None = None
        self._lists: Postings | None = None
        # the rows that there were, and recall by the dial
        self._calibrated: tuple[int, Curve] | None = None
        # what a recall came to, by (recall, k, rows)
        self._chosen: dict[tuple[Any, int, int], Few | None] = {}

    # -- rows ------------------------------------------------------------------------------------

    def add(self, vectors: Any, ids: Any = None) -> None:
        """Add rows: a scipy sparse matrix (n, dim), ``{"indices", "values"}``, or several of these. ``ids=None`` continues from the highest.

        `SchemaError` for a dimension of dim or more, repeated in a row, NaN or infinity; `DuplicateKeyError` for a present id; then nothing is added.
        """
        self._add(self._rows(vectors, "vectors"), ids)

    def _add(self, rows: Csr, ids: Any) -> None:
        starts, terms, weights = rows
        n, known = len(starts) - 1, self._numbers()
        new = np.arange(self._next_id, self._next_id + n, dtype=np.int64) if ids is None else new_ids(ids, n, known.__contains__, self._next_id)
        known.update(zip(new.tolist(), range(len(self._ids), len(self._ids) + n), strict=True))
        self._starts.append(starts[1:] + self._starts.array[-1])
        for part, more in ((self._terms, terms), (self._weights, weights), (self._ids, new), (self._alive, np.ones(n, np.uint8))):
            part.append(more)
        self._next_id = max(self._next_id, int(new.max(initial=-1)) + 1)
        self._lists = None

    def remove(self, ids: Any) -> int:
        """Remove by id, absent ones ignored; how many went. Over a fifth dead, the rest is written together."""
        known = self._numbers()
        gone = [row for row in (known.pop(int(i), None) for i in np.unique(np.asarray(ids)).tolist()) if row is not None]
        self._alive.array[gone] = 0
        self._dead += len(gone)
        if self._dead > DEAD_SHARE * len(self._ids):
            self.consolidate()
        return len(gone)

    def update(self, vectors: Any, ids: Any) -> None:
        """Replace rows by id; absent ids are added."""
        rows = self._rows(vectors, "vectors")
        new = new_ids(ids, len(rows[0]) - 1, None)
        self.remove(new)
        self._add(rows, new)

    def consolidate(self) -> None:
        """Forget removed rows."""
        if self._dead:
            keep, next_id = np.flatnonzero(self._alive.array), self._next_id
            rows, ids = self._taken(keep), self._ids.array[keep]
            self._empty()
            self._add(rows, ids)
            self._next_id = next_id

    def merge(self, other: SparseIndex) -> None:
        """Add every row of another index of the same vocabulary. `DuplicateKeyError` for shared ids."""
        if other.dim != self.dim:
            raise InvalidArgumentError(f"merging {other.dim} dimensions into {self.dim}; both must agree")
        keep = np.flatnonzero(other._alive.array)
        self._add(other._taken(keep), other._ids.array[keep])

    def reconstruct(self, id: int) -> dict[str, np.ndarray]:  # noqa: A002 - the name that users type
        """``{"indices", "values"}`` of an id, copies. `KeyNotFoundError` where there is none."""
        row = self._numbers().get(int(id))
        if row is None:
            raise KeyNotFoundError(f"no vector has id {id}")
        span = slice(self._starts.array[row], self._starts.array[row + 1])
        return {"indices": self._terms.array[span].copy(), "values": self._weights.array[span].copy()}

    def __len__(self) -> int:
        return len(self._ids) - self._dead

    def _numbers(self) -> dict[int, int]:
        if self._row_of is None:
            live = np.flatnonzero(self._alive.array)
            self._row_of = dict(zip(self._ids.array[live].tolist(), live.tolist(), strict=True))
        return self._row_of

    def _taken(self, rows: np.ndarray) -> Csr:
        return taken(self._csr, rows)

    @property
    def _csr(self) -> Csr:
        return self._starts.array, self._terms.array, self._weights.array

    def _rows(self, given: Any, what: str) -> Csr:
        """(starts int64 (n + 1,), terms uint32 rising in each row, weights float32 without zeros)."""
        if isinstance(given, Mapping):
            given = [given]
        if hasattr(given, "tocsr"):
            matrix = given.tocsr()
            if matrix.shape[1] > self.dim:
                raise SchemaError(f"{what} of shape {matrix.shape}; this index has {self.dim} dimensions")
            starts, terms, weights = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), np.asarray(matrix.data)
        elif isinstance(given, Sequence) and all(isinstance(v, Mapping) and set(v) == {"indices", "values"} for v in given):
            parts = [(np.atleast_1d(np.asarray(v["indices"])), np.atleast_1d(np.asarray(v["values"]))) for v in given]
            for row, (places, values) in enumerate(parts):
                if places.shape != values.shape or places.ndim != 1 or (places.size and places.dtype.kind not in "iu"):
                    raise SchemaError(f"{what}, row {row}: {places.shape} indices of {places.dtype} and {values.shape} values; give as many integers as numbers")
            starts = np.concatenate([[0], np.cumsum([len(places) for places, _ in parts])]).astype(np.int64)
            terms = np.concatenate([np.empty(0, np.int64), *(places.astype(np.int64) for places, _ in parts)])
            weights = np.concatenate([np.empty(0, np.float32), *(values for _, values in parts)])
        else:
            raise SchemaError(f'{what} is a {type(given).__name__}; give a scipy sparse matrix or {{"indices": …, "values": …}}, one or a list of them')
        if weights.size and weights.dtype.kind not in "fiub":
            raise SchemaError(f"{what} of dtype {weights.dtype}; wanted real numbers")
        owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        weights = weights.astype(np.float32)
        for bad, why in (((terms < 0) | (terms >= self.dim), f"a dimension that is not from 0 to {self.dim - 1}"), (~np.isfinite(weights), "NaN or infinity")):
            if bad.any():
                raise SchemaError(f"{what}, row {owner[bad][0]}: holds {why}")
        key = owner * self.dim + terms
        if (key[1:] < key[:-1]).any():
            order = np.argsort(key, kind="stable")
            owner, terms, weights = owner[order], terms[order], weights[order]
        again = (owner[1:] == owner[:-1]) & (terms[1:] == terms[:-1])
        if again.any():
            raise SchemaError(f"{what}, row {owner[1:][again][0]}: gives dimension {terms[1:][again][0]} twice; add the weights up")
        there = weights != 0
        sizes = np.bincount(owner[there], minlength=len(starts) - 1)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), terms[there].astype(np.uint32), weights[there]

    def _one(self, given: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """(terms, weights) of one query as it should be, in order, finite, without zeros: the checks of many cost more than its search. None for others."""
        if not isinstance(given, Mapping) or len(given) != 2:
            return None
        terms, weights = given.get("indices"), given.get("values")
        if type(terms) is not np.ndarray or type(weights) is not np.ndarray or terms.dtype.kind not in "iu" or weights.dtype != np.float32:
            return None
        if terms.ndim != 1 or terms.shape != weights.shape or not len(terms) or terms[0] < 0 or terms[-1] >= self.dim:
            return None
        # counts, for a reduction of numpy takes four times as long
        if np.count_nonzero(terms[1:] > terms[:-1]) < len(terms) - 1 or np.count_nonzero(weights) < len(weights) or not isfinite(weights.dot(weights)):
            return None
        return terms.astype(np.uint32), np.ascontiguousarray(weights)

    # -- lists -----------------------------------------------------------------------------------

    def _inverted(self) -> Postings:
        if self._lists is None:
            self._lists = Postings(self._csr, self.dim, self._kernels)
        return self._lists

    # -- search ----------------------------------------------------------------------------------

    def search(
        self, queries: Any, k: int = 10, filter: Any = None, *, postings: int | None = None, rerank: int | None = None, recall: float | None = None  # noqa: A002
    ) -> Found:
        """(ids int64, scores float32), (q, k), or (k,) for one ``{"indices", "values"}``: largest first, ties to the lower row; -1 and -inf where fewer
        rows share a dimension with the query.

        Exact, unless ``postings`` (of a query, the heaviest: those that are added up) and ``rerank`` (rows then scored in full, at least k) say
        otherwise, or ``recall``, which chooses them by a calibration. ``filter`` is a mask over the rows in order of arrival or an array of ids; one that leaves
        less than a quarter of the rows is answered exactly.
        """
        if not is_whole(k, 0):
            raise InvalidArgumentError(f"k={k!r}; give 0 or more")
        few = None if postings is rerank is recall is None else self._few(int(k), postings, rerank, recall)
        mask, one = self._mask(filter), self._one(queries)
        if one is not None:
            return self._found(*one, int(k), mask, few)
        starts, terms, weights = self._rows(queries, "queries")
        ids, scores = np.full((len(starts) - 1, k), -1, np.int64), np.full((len(starts) - 1, k), -np.inf, np.float32)
        for i, (start, stop) in enumerate(zip(starts.tolist(), starts[1:].tolist(), strict=False)):
            ids[i], scores[i] = self._found(terms[start:stop], weights[start:stop], int(k), mask, few)
        return (ids[0], scores[0]) if isinstance(queries, Mapping) else (ids, scores)

    def _found(self, terms: np.ndarray, weights: np.ndarray, k: int, mask: np.ndarray | None, few: Few | None) -> Found:
        lists = self._inverted()
        rows, scores = lists.search(*lists.numbered(terms, weights), k, mask, few)
        ids = self._ids.array
        if not k or not len(ids):
            return rows, scores
        ids = ids[rows]
        if rows[-1] < 0:
            ids[rows < 0] = -1
        return ids, scores

    def _few(self, k: int, postings: int | None, rerank: int | None, recall: float | None) -> Few | None:
        """(postings, rows scored) that a search of k is to look at; None for all."""
        if recall is None:
            check_counts(postings=postings, rerank=rerank)
            return postings or 8000, max(rerank or 10 * k, k)
        asked = (recall, k, len(self))
        if type(recall) is float and postings is rerank is None and asked in self._chosen:
            return self._chosen[asked]
        check_recall(recall)
        if postings is not None or rerank is not None:
            raise InvalidArgumentError(f"recall={recall} and postings={postings}, rerank={rerank}; give one of them, for recall= chooses the others")
        few = reaching(self.calibrate(), recall, k)
        self._chosen = {**(self._chosen if len(self._chosen) < 64 else {}), asked: few}
        return few

    def calibrate(self, queries: Any = None) -> Curve:
        """[(postings, rows scored, recall@10)] up to the first without a miss, kept and saved: what `recall=` chooses by.

        By ``queries`` like those to come, best some hundred; else by 64 rows that ask for their neighbours by their 40 heaviest dimensions, which is harder.
        """
        if queries is not None or self._calibrated is None or abs(len(self) - self._calibrated[0]) > STALE * self._calibrated[0]:
            asked = asking(self._csr, np.flatnonzero(self._alive.array)) if queries is None else self._rows(queries, "queries")
            self._calibrated, self._chosen = (len(self), self._inverted().calibrate(asked, self._mask(None))), {}
        return self._calibrated[1]

    def _mask(self, allowed: Any) -> np.ndarray | None:
        alive = self._alive.array if self._dead else None
        return alive if allowed is None else filter_mask(allowed, len(self._ids), lambda: self._ids.array, alive)

    # -- as bytes --------------------------------------------------------------------------------

    def _sections(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        header = {"name": self.name, "version": self.version, "dim": self.dim, "rows": len(self._ids), "next_id": self._next_id, "calibration": self._calibrated}
        own = {"row_starts": self._starts, "terms": self._terms, "row_weights": self._weights, "ids": self._ids, "alive": self._alive}
        return header, {**{name: rows.array for name, rows in own.items()}, **self._inverted().arrays()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all; a present one is replaced."""
        container.write(path, *self._sections())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, kernel: str | None = None) -> SparseIndex:
        """An index that `save` wrote, over its map, every byte checked. `CorruptionError` for damage."""
        header, arrays = container.read(path, cls.name, cls.version)
        try:
            made = cls(int(header["dim"]), kernel)
            made._restore(header, arrays)
        except (KeyError, TypeError, ValueError, IndexError, InvalidArgumentError) as why:
            raise CorruptionError(f"the sections of a sparse index do not fit together ({why!r})", path=os.fspath(path), offset=0) from why
        return made

    def _restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        n = int(header["rows"])
        starts, terms, weights, ids, alive = (arrays[name] for name in ("row_starts", "terms", "row_weights", "ids", "alive"))
        if any(a.shape != (n,) for a in (ids, alive)) or len(starts) != n + 1 or ids.dtype != np.int64 or alive.dtype != np.uint8:
            raise ValueError(f"{len(starts)} begins, ids {ids.shape} and marks {alive.shape} of {n} rows")
        # lists of the first format are made again, as calibrations of the first two are
        lists = None if header["version"] == 1 else restored((starts, terms, weights), self.dim, self._kernels, arrays)
        self._starts, self._terms, self._weights, self._ids = Rows(starts), Rows(terms), Rows(weights), Rows(ids)
        self._alive, self._lists, self._next_id = Rows(np.array(alive != 0, np.uint8)), lists, int(header["next_id"])
        self._dead = n - int(self._alive.array.sum())
        if header["calibration"] is not None and header["version"] == self.version:
            count, curve = header["calibration"]
            self._calibrated = int(count), [(int(cut), int(depth), float(reached)) for cut, depth, reached in curve]

    def memory(self) -> dict[str, int]:
        """Bytes by part; mapped ones count too."""
        parts = {name: array.nbytes for name, array in self._sections()[1].items()}
        return {**parts, "total": sum(parts.values())}

    def stats(self) -> dict[str, Any]:
        """What is in it and what computes."""
        return {
            "name": self.name, "dim": self.dim, "rows": len(self), "removed": self._dead, "entries": len(self._terms),
            "backend": self._kernels.backend, "isa": self._kernels.isa, "bytes": self.memory()["total"],
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<lsmtensor sparse index: {len(self):,} rows of {self.dim:,} dimensions, {len(self._terms):,} entries>"
