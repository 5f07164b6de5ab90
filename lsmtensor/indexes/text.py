"""BM25 and its kin over texts: the words of rows as postings, scored by frequencies and lengths of a collection that they may be a part of."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from .. import container, kernels
from ..errors import CorruptionError, InvalidArgumentError, SchemaError
from ..registry import Spec
from .analyze import Question, TextSpec
from .base import DEAD_SHARE, Found, filter_mask, new_ids
from .postings import Csr, Postings, restored

# lists are made again where the mean length is longer than theirs by more than this factor; as many scorings as are kept
STRETCH, KEPT = 1.5, 4
Part = TypeVar("Part", "TextLists", Postings)


class TextLists:
    """The words of some texts: ``documents`` of the rows have a text, with ``total`` words together; ``number`` is the list of a word."""

    def __init__(
        self, terms: list[str], rows: Csr, lengths: np.ndarray, documents: int, spec: TextSpec, kernel: Any, lists: dict[str, np.ndarray] | None = None,
        mean: float | None = None,
    ) -> None:  # fmt: skip
        self.terms, self.rows, self.lengths, self.documents, self.spec, self._kernels = terms, rows, lengths, documents, spec, kernel
        self.number = {term: i for i, term in enumerate(terms)}
        self.total = float(lengths.sum(dtype=np.float64))
        self.mean = self.total / max(1, documents) if mean is None else mean
        self._idf: tuple[int, np.ndarray] | None = None
        self.postings = self._made(self.mean, lists)
        self._nets: dict[float, Any] = {}

    @classmethod
    def of(cls, texts: pa.Array | pa.ChunkedArray, spec: TextSpec, kernel: Any) -> TextLists:
        """O(bytes)."""
        terms, owners, ids = spec.tokens(texts)
        key, counts = np.unique(owners * max(len(terms), 1) + ids, return_counts=True)
        row, term = np.divmod(key, max(len(terms), 1))
        starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(texts)))]).astype(np.int64)
        lengths = np.bincount(owners, minlength=len(texts)).astype(np.float32)
        return cls(terms, (starts, term.astype(np.uint32), counts.astype(np.float32)), lengths, len(texts) - texts.null_count, spec, kernel)

    @classmethod
    def joined(cls, parts: Sequence[TextLists]) -> TextLists:
        """One of several, their rows one after the other. O(words of all)."""
        number: dict[str, int] = {}
        terms, starts = [], [np.zeros(1, np.int64)]
        for part in parts:
            own = np.array([number.setdefault(term, len(number)) for term in part.terms], np.uint32)
            terms.append(own[part.rows[1]])
            starts.append(part.rows[0][1:] + starts[-1][-1])
        rows = np.concatenate(starts), np.concatenate(terms), np.concatenate([part.rows[2] for part in parts])
        documents = sum(part.documents for part in parts)
        return cls(list(number), rows, np.concatenate([part.lengths for part in parts]), documents, parts[0].spec, parts[0]._kernels)

    def _saturation(self, mean: float) -> tuple[np.ndarray, float, float, float]:
        """(norms, gain, shift, extra) of `sparse_net` for the formulas."""
        spec = self.spec
        norms = (spec.k1 * (1 - spec.b + spec.b * self.lengths / max(mean, 1e-9))).astype(np.float32)
        shift = spec.delta / (2 * spec.k1) if spec.scoring == "bm25l" and spec.k1 else 0.0
        return norms, spec.k1 + 1, shift, spec.delta if spec.scoring == "bm25+" else 0.0

    def _made(self, mean: float, lists: dict[str, np.ndarray] | None = None) -> Postings:
        starts, terms, counts = rows = self.rows
        owner, worth = np.repeat(np.arange(len(self)), np.diff(starts)), None
        if self.spec.scoring == "tfidf":
            rows = starts, terms, ((1 + np.log(counts)) / np.sqrt(np.maximum(self.lengths, 1))[owner]).astype(np.float32)
        elif lists is None:
            norms, gain, shift, extra = self._saturation(mean)
            norm = norms[owner]
            worth = (gain * (counts + np.float32(shift) * norm) / (counts + np.float32(shift + 1) * norm) + np.float32(extra)).astype(np.float32)
        if lists is None:
            return Postings(rows, len(self.terms), self._kernels, worth)
        return restored(rows, len(self.terms), self._kernels, lists)

    def __len__(self) -> int:
        return len(self.lengths)

    def net(self, mean: float) -> Any:
        """What a search by a mean length is over. A longer mean lifts no score by more than its ratio. O(rows) for a new one."""
        if self.spec.scoring == "tfidf":
            return self.postings.plain
        net = self._nets.get(mean)
        if net is None:
            stretch = max(1.0, mean / max(self.mean, 1e-9))
            postings, stretch = (self.postings, stretch) if stretch <= STRETCH else (self._made(mean), 1.0)
            net = postings.net(*self._saturation(mean), stretch * 1.00001)
            if len(self._nets) >= KEPT:
                self._nets = {}
            self._nets[mean] = net
        return net

    def df(self, term: str) -> int:
        """How many rows have a word."""
        at = self.number.get(term)
        return 0 if at is None else int(self.postings.lists["counts"][at])

    def factors(self, numbers: np.ndarray) -> np.ndarray:
        """Inverse document frequencies of lists, by these texts alone."""
        if self._idf is None or self._idf[0] != self.documents:
            counts = self.postings.lists["counts"].astype(np.float64)
            self._idf = self.documents, np.log(1 + (self.documents - counts + 0.5) / (counts + 0.5)).astype(np.float32)
        return self._idf[1][numbers]

    def allowed(self, question: Question, mask: np.ndarray | None) -> np.ndarray | None:
        """The rows of a mask that have what must and have not what must not occur."""
        for wanted, terms in ((True, question.must), (False, question.must_not)):
            for term in terms:
                at = self.number.get(term)
                has = np.zeros(len(self), bool) if at is None else self.postings.having(at)
                has = has if wanted else ~has
                mask = has if mask is None else mask[: len(has)] & has
        return None if mask is None else np.ascontiguousarray(mask).view(np.uint8)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file holds of it."""
        words = [term.encode() for term in self.terms]
        ends = np.cumsum(np.array([len(word) for word in words], np.int64))
        own = {"words": np.frombuffer(b"".join(words), np.uint8), "word_ends": ends, "lengths": self.lengths}
        return {**own, "row_starts": self.rows[0], "terms": self.rows[1], "row_weights": self.rows[2], **self.postings.lists}

    @classmethod
    def over(cls, header: dict[str, Any], arrays: dict[str, np.ndarray], spec: TextSpec, kernel: Any) -> TextLists:
        """Those of `arrays`, not copied; `ValueError`, `KeyError`, `TypeError` or `InvalidArgumentError` where they do not fit together."""
        ends, blob = arrays["word_ends"], arrays["words"].tobytes()
        if ends.dtype != np.int64 or ends.ndim != 1 or (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if len(ends) else 0) != len(blob):
            raise ValueError(f"{len(ends)} words in {len(blob)} bytes")
        terms = [blob[begin:end].decode() for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]
        rows, lengths = (arrays["row_starts"], arrays["terms"], arrays["row_weights"]), arrays["lengths"]
        if lengths.dtype != np.float32 or lengths.shape != (len(rows[0]) - 1,) or len(set(terms)) != len(terms) or not (lengths >= 0).all():
            raise ValueError(f"lengths {lengths.dtype} {lengths.shape} of {len(rows[0]) - 1} rows, {len(terms)} words")
        return cls(terms, rows, lengths, int(header["documents"]), spec, kernel, arrays, float(header["mean"]))


def grown(parts: list[Part], more: Part) -> list[Part]:
    """The parts and one more, small ones joined: there are few, and a row is joined O(log rows) times."""
    made: list[Any] = [*parts, more]
    while len(made) > 1 and len(made[-2]) < 2 * len(made[-1]):
        made[-2:] = [made[-1].joined(made[-2:])]
    return made


def ranked(parts: Sequence[TextLists], question: Question, k: int, masks: Sequence[np.ndarray | None]) -> list[Found]:
    """(rows, scores) of each part, k of them, largest first: scored as one collection, whose frequencies and lengths are those of all."""
    documents = sum(part.documents for part in parts)
    mean = sum(part.total for part in parts) / max(1, documents)
    found = []
    weights = {} if len(parts) == 1 else {term: idf(documents, sum(part.df(term) for part in parts)) for term in question.terms}
    for part, mask in zip(parts, masks, strict=True):
        here = [(n, term) for term in question.terms if (n := part.number.get(term)) is not None]
        numbers = np.array([n for n, _ in here], np.uint32)
        factors = np.array([weights[term] for _, term in here], np.float32) if weights else part.factors(numbers)
        found.append(part.postings.search(numbers, factors, k, part.allowed(question, mask), net=part.net(mean)))
    return found


def together(found: Sequence[Found], parts: Sequence[Any], k: int) -> Found:
    """The k best of what parts answered, numbered through them."""
    if len(found) == 1:
        return found[0]
    starts = np.cumsum([0, *map(len, parts)])
    rows = np.concatenate([np.full(k, -1), *(np.where(r >= 0, r + at, -1) for (r, _), at in zip(found, starts, strict=False))])
    scores = np.concatenate([np.full(k, -np.inf, np.float32), *(s for _, s in found)])
    best = np.lexsort((rows < 0, -scores))[:k]
    return rows[best], scores[best]


def idf(documents: int, df: int) -> float:
    """ln(1 + (N - df + 0.5) / (df + 0.5))."""
    return math.log(1 + (documents - df + 0.5) / (df + 0.5))


class TextIndex:
    """Texts with integer ids, ranked by the words of a query: exactly, by the formula that ``spec`` names (docs/text.md).

    Adding is O(bytes), the words of a text joined to those of others O(log texts) times. A search is O(postings of the query's words + texts / 32). Removed texts
    are not answered; frequencies count them until a fifth are, and they go.
    """

    name, version = "text", 1

    def __init__(self, spec: Any = "text", kernel: str | None = None) -> None:
        self.spec = TextSpec.of(spec)
        self._kernels: Any = kernels.choose(kernel)
        self._parts: list[TextLists] = []
        self._ids, self._alive, self._dead, self._next_id = np.empty(0, np.int64), np.empty(0, np.uint8), 0, 0
        self._row_of: dict[int, int] | None = {}

    def add(self, texts: Any, ids: Any = None) -> None:
        """Add texts: a string, several, or an Arrow array of strings; None counts as one without words. ``ids=None`` continues from the highest.

        `SchemaError` for what is no text, `DuplicateKeyError` for a present id; then nothing is added.
        """
        try:
            given = texts if isinstance(texts, (pa.Array, pa.ChunkedArray)) else pa.array([texts] if isinstance(texts, str) else texts, pa.string())
            given = given.cast(pa.string()).fill_null("")
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as why:
            raise SchemaError(f"texts are no strings ({why}); give a string, several, or an Arrow array of them") from why
        n, known = len(given), self._numbers()
        new = np.arange(self._next_id, self._next_id + n, dtype=np.int64) if ids is None else new_ids(ids, n, known.__contains__, self._next_id)
        if n == 0:
            return
        self._parts = grown(self._parts, TextLists.of(given, self.spec, self._kernels))
        known.update(zip(new.tolist(), range(len(self._ids), len(self._ids) + n), strict=True))
        self._ids, self._alive = np.concatenate([self._ids, new]), np.concatenate([self._alive, np.ones(n, np.uint8)])
        self._next_id = max(self._next_id, int(new.max()) + 1)

    def remove(self, ids: Any) -> int:
        """Remove by id, absent ones ignored; how many went."""
        known = self._numbers()
        gone = [row for row in (known.pop(int(i), None) for i in np.unique(np.asarray(ids)).tolist()) if row is not None]
        self._alive[gone] = 0
        self._dead += len(gone)
        if self._dead > DEAD_SHARE * len(self._ids):
            self.consolidate()
        return len(gone)

    def update(self, texts: Any, ids: Any) -> None:
        """Replace texts by id; absent ids are added."""
        fresh = TextIndex(kernel=self._kernels.backend)
        fresh.spec = self.spec
        fresh.add(texts, new_ids(ids, 1 if isinstance(texts, str) else len(texts), None))
        self.remove(fresh._ids)
        self.merge(fresh)

    def merge(self, other: TextIndex) -> None:
        """Add every text of another index of the same analyzer. `DuplicateKeyError` for shared ids."""
        if other.spec != self.spec:
            raise InvalidArgumentError(f"merging texts of {other.spec} into {self.spec}; both must agree")
        other.consolidate()
        known = self._numbers()
        new = new_ids(other._ids, len(other._ids), known.__contains__, self._next_id)
        known.update(zip(new.tolist(), range(len(self._ids), len(self._ids) + len(new)), strict=True))
        for part in other._parts:
            self._parts = grown(self._parts, part)
        self._ids, self._alive = np.concatenate([self._ids, new]), np.concatenate([self._alive, np.ones(len(new), np.uint8)])
        self._next_id = max(self._next_id, other._next_id)

    def consolidate(self) -> None:
        """One part, without what was removed."""
        if len(self._parts) > 1:
            self._parts = [TextLists.joined(self._parts)]
        if self._dead:
            (whole,) = self._parts
            starts, terms, counts = whole.rows
            keep = self._alive != 0
            sizes = np.diff(starts)
            entries = np.repeat(keep, sizes)
            used, terms = np.unique(terms[entries], return_inverse=True)
            rows = np.concatenate([[0], np.cumsum(sizes[keep])]).astype(np.int64), terms.astype(np.uint32), counts[entries]
            self._parts = [TextLists([whole.terms[i] for i in used.tolist()], rows, whole.lengths[keep], int(keep.sum()), self.spec, self._kernels)]
            self._ids, self._alive, self._dead, self._row_of = self._ids[keep], self._alive[keep], 0, None

    def search(self, text: Any, k: int = 10, filter: Any = None) -> Found:  # noqa: A002 - as the dense ones
        """(ids int64 (k,), scores float32 (k,)), largest first, ties to the earlier text; -1 and -inf where fewer have a word of the query.

        ``text`` is a string or a dict of strings: ``query``, ``must`` (words that have to occur), ``must_not``. ``filter`` is a mask over the texts in order of
        arrival or an array of ids.
        """
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise InvalidArgumentError(f"k={k!r}; give 0 or more")
        question = self.spec.question(text)
        mask = self._alive if self._dead else None
        if filter is not None:
            mask = filter_mask(filter, len(self._ids), lambda: self._ids, mask)
        bounds = np.cumsum([0, *map(len, self._parts)]).tolist()
        masks = [None if mask is None else mask[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
        rows, scores = together(ranked(self._parts, question, int(k), masks), self._parts, int(k))
        return (np.where(rows >= 0, self._ids[rows], -1) if len(self._ids) else rows), scores

    def __len__(self) -> int:
        return len(self._ids) - self._dead

    def _numbers(self) -> dict[int, int]:
        if self._row_of is None:
            live = np.flatnonzero(self._alive)
            self._row_of = dict(zip(self._ids[live].tolist(), live.tolist(), strict=True))
        return self._row_of

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all; a present one is replaced."""
        self.consolidate()
        whole = self._parts[0] if self._parts else TextLists.of(pa.array([], pa.string()), self.spec, self._kernels)
        header = {"name": self.name, "version": self.version, "spec": str(self.spec), "documents": whole.documents, "mean": whole.mean, "next_id": self._next_id}
        container.write(path, header, {"ids": self._ids, **whole.arrays()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, kernel: str | None = None) -> TextIndex:
        """An index that `save` wrote, over its map, every byte checked. `CorruptionError` for damage."""
        header, arrays = container.read(path, cls.name, cls.version)
        try:
            made = cls(Spec.parse(header["spec"]), kernel)
            whole, ids = TextLists.over(header, arrays, made.spec, made._kernels), arrays["ids"]
            if ids.dtype != np.int64 or ids.shape != whole.lengths.shape:
                raise ValueError(f"ids {ids.dtype} {ids.shape} of {len(whole.lengths)} texts")
            made._parts = [whole] if len(ids) else []
            made._ids, made._alive, made._next_id, made._row_of = ids, np.ones(len(ids), np.uint8), int(header["next_id"]), None
        except (KeyError, TypeError, ValueError, InvalidArgumentError) as why:
            raise CorruptionError(f"the sections of a text index do not fit together ({why!r})", path=os.fspath(path), offset=0) from why
        return made

    def stats(self) -> dict[str, Any]:
        """What is in it and what computes."""
        return {
            "name": self.name, "spec": str(self.spec), "rows": len(self), "removed": self._dead, "parts": len(self._parts), "words": sum(len(p.terms) for p in self._parts),
            "backend": self._kernels.backend, "isa": self._kernels.isa, "bytes": sum(a.nbytes for p in self._parts for a in p.arrays().values()),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<lsmtensor text index {self.spec}: {len(self):,} texts>"
