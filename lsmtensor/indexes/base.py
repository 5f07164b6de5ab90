"""The contract of a vector index, and what all of them share: checks, ids, filters, threads, saving.

Inside, rows are numbered 0..n-1 in order of arrival; users see integer ids of their own. Removed rows stay as
marks, which a search crosses and does not answer, until `consolidate`. Distances are smaller-is-nearer: cosine
1 - cos (a zero vector: 1), l2 Euclidean, ip minus the inner product, l1, hamming the number of unequal places.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import DuplicateKeyError, FormatVersionError, InvalidArgumentError, KeyNotFoundError, SchemaError, UnknownNameError
from ..kernels.contract import METRICS
from ..registry import Spec, near
from . import dial
from .budget import at_once, build_bytes, check_budget
from .dial import Curve
from .params import is_whole
from .rows import Rows

# over this share of removed rows an index is built again
DEAD_SHARE = 0.2
# floats of the package ml_dtypes
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
Found = tuple[np.ndarray, np.ndarray]


def new_ids(ids: Any, count: int, present: Callable[[int], bool] | None, next_id: int = 2**63 - 1) -> np.ndarray:
    """``ids`` as int64 (count,): `InvalidArgumentError` unless there is a whole number from 0 to 2**63 - 2 for each row, `DuplicateKeyError` for one that is
    given twice or ``present``; no id from ``next_id`` on is."""
    new = np.atleast_1d(np.asarray(ids))
    if new.shape != (count,) or (count and (new.dtype.kind not in "iu" or new.min() < 0 or new.max() >= 2**63 - 1)):
        raise InvalidArgumentError(f"ids of dtype {new.dtype} and shape {new.shape} for {count} rows; give one integer from 0 to 2**63 - 2 each")
    new = new.astype(np.int64)
    values, counts = np.unique(new, return_counts=True)
    if len(values) < count:
        raise DuplicateKeyError(f"id {values[counts > 1][0]} is given twice")
    if present is not None and count and values[0] < next_id:
        again = next((i for i in new.tolist() if present(i)), None)
        if again is not None:
            raise DuplicateKeyError(f"id {again} is there already; update() replaces it")
    return new


def filter_mask(allowed: Any, n: int, ids: Callable[[], np.ndarray], alive: np.ndarray | None) -> np.ndarray:
    """uint8 (n,): the live rows that a mask over them, or an array of ids, allows."""
    given = np.asarray(allowed)
    if given.dtype in (bool, np.uint8):
        if given.shape != (n,):
            raise InvalidArgumentError(f"a filter mask of shape {given.shape}; wanted ({n},), or integer ids (not uint8)")
        mask = np.ascontiguousarray(given if given.dtype == bool else given != 0).view(np.uint8)
    elif given.size == 0 or given.dtype.kind in "iu":
        mask = np.isin(ids(), given).view(np.uint8)
    else:
        raise InvalidArgumentError(f"a filter of dtype {given.dtype}; give a mask of {n} or an array of ids")
    return mask if alive is None else mask & alive


def _unheard(share: float) -> None:
    """Nobody asked for progress."""


class VectorIndex(ABC):
    """Vectors float32 (n, dim) with integer ids, and a search among them.

    Reads may run beside each other; a write wants the index to itself. A plug-in gives ``name``, ``_insert``, ``_near``
    and, where it keeps more than rows, ``_arrays``, ``_restore`` and ``_clear``; see docs/indexes.md.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    search_params: ClassVar[tuple[str, ...]] = ()
    # the one of them that trades work for recall, if any: ``search(recall=…)`` sets it
    dial: ClassVar[str | None] = None
    # its arrays that were learned of rows and say nothing of single ones: segments of one table share them
    learned: ClassVar[tuple[str, ...]] = ()
    # recall@10 that the conformance suite asks of the default parameters
    recall_floor: ClassVar[float] = 0.9
    # bytes that additions may take at a time, the index counted; None: as many as there are
    budget: int | None = None

    def __init__(self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None) -> None:
        if not is_whole(dim, 1):
            raise InvalidArgumentError(f"dim={dim!r}; give the number of dimensions, 1 or more")
        if metric not in METRICS:
            raise UnknownNameError(f"no metric named {metric!r}; {near(str(metric), METRICS)}")
        self.dim, self.metric = int(dim), metric
        self.threads = int(threads or os.environ.get("LSMTENSOR_THREADS") or 1)
        self.spec = Spec(self.name)
        self._code = METRICS[metric]
        self._kernels: Any = kernels.choose(kernel)
        # what `_finish` does may wait for it
        self._carrying = False
        # who is told what share of the rows being added is in
        self._tell: Callable[[float], object] = _unheard
        self._empty()

    def _empty(self) -> None:
        self._vectors = Rows(np.empty((0, self.dim), np.float32))
        # None: the ids are the row numbers
        self._ids: Rows | None = None
        self._alive: Rows | None = None
        self._dead = self._next_id = 0
        self._row_of: dict[int, int] | None = None
        # the rows that there were, and recall by the dial
        self._calibrated: tuple[int, Curve] | None = None
        # the share of its rows that it lost to merges since it was built
        self._worn = 0.0
        self._clear()

    # -- what an index adds ----------------------------------------------------------------------

    @abstractmethod
    def _insert(self, start: int, stop: int) -> None:
        """Take in rows [start, stop) of ``_vectors``."""

    @abstractmethod
    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> Found:
        """(rows int64 (q, k), kernel distances float32 (q, k)) among those whose mask is not 0, padded with -1 and inf."""

    def _clear(self) -> None:  # noqa: B027 - an index of nothing but rows has nothing to forget
        """Forget everything."""

    def _arrays(self) -> dict[str, np.ndarray]:
        """What must be saved beside vectors and ids."""
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:  # noqa: B027 - likewise
        """The reverse of ``_arrays``; `CorruptionError` for what would lead a search astray."""

    def _stored(self, header: dict[str, Any], arrays: dict[str, np.ndarray], vectors: np.ndarray | None) -> Any:
        """The rows of an index from a file: an array, or `Rows` of its own."""
        return arrays.get("vectors", vectors)

    def _saved_rows(self) -> dict[str, np.ndarray]:
        """The rows as a file holds them, where ``_arrays`` does not."""
        return {"vectors": self._vectors.array}

    def _settings(self) -> dict[str, Any]:
        """Constructor arguments beside dim, metric, kernel and threads."""
        return {}

    def _row_bytes(self) -> tuple[int, int]:
        """(bytes that are kept of a row beside its vector, bytes beside those while it is taken in)."""
        return 0, 0

    def _at_once(self, most: int, row_bytes: int, least: int = 1) -> int:
        """How many rows may be looked at together, that take so many bytes each."""
        return at_once(self.budget, most, row_bytes, least)

    def _inserted(self, stop: int) -> int:
        """How many rows were taken in when an insertion up to ``stop`` was broken off."""
        return stop

    # -- what is carried over to an index of merged rows, see `carry` -------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        """Whether an index of so many rows, of which this one knows ``known``, is better made of this one than built."""
        return False

    def _select(self, rows: np.ndarray) -> None:
        """Keep what was worked out for some rows, int64 (m,), distinct, which are numbered in this order from now on; ``_vectors`` are the caller's."""
        raise NotImplementedError

    def _shares(self, other: VectorIndex) -> bool:
        """Whether what another index worked out can stand beside what this one did."""
        return False

    def _absorb(self, other: VectorIndex, rows: np.ndarray) -> None:
        """Put what it worked out for some of its rows behind what is here."""
        raise NotImplementedError

    def _finish(self) -> None:  # noqa: B027 - most have nothing left to do
        """What is made of all rows, when all are there."""

    # -- rows ------------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Learn from a sample (n, dim); indexes without anything to learn only check it."""
        self._check(x, "x")
        return self

    def add(self, vectors: Any, ids: Any = None, *, copy: bool = True, progress: Callable[[float], object] | None = None) -> None:
        """Add rows (n, dim), or one (dim,). ``ids=None`` continues from the highest id.

        ``copy=False`` lets an empty index borrow a float32 array that will not change. ``progress`` is called now and then with the share done,
        rising, 1.0 at last. Raises `SchemaError` for a wrong shape, NaN or infinity, `DuplicateKeyError` for a present id; then nothing is
        added. `MemoryBudgetError` where ``budget`` would not do. Broken off by Ctrl-C, or by what ``progress`` raises, the index holds the first rows, whole.
        """
        rows = self._check(vectors, "vectors")
        check_budget(self, len(rows), borrowed=not copy and len(self._vectors) == 0)
        new = self._new_ids(ids, len(rows))
        tell = progress or _unheard
        if len(rows):
            self._tell = tell
            try:
                self._take(rows, new, copy)
            finally:
                self._tell = _unheard
        tell(1.0)

    def _take(self, rows: np.ndarray, new: np.ndarray, copy: bool = True) -> None:
        start, stop = len(self._vectors), len(self._vectors) + len(rows)
        if self._ids is None and not (new[0] == start and new[-1] == stop - 1 and (np.diff(new) == 1).all()):
            self._ids = Rows(np.arange(start))
        if start == 0 and not copy:
            self._vectors = Rows(rows)
        else:
            self._vectors.append(rows)
        if self._ids is not None:
            self._ids.append(new)
        if self._alive is not None:
            self._alive.append(np.ones(len(rows), np.uint8))
        if self._row_of is not None:
            self._row_of.update(zip(new.tolist(), range(start, stop), strict=True))
        self._next_id = max(self._next_id, int(new.max()) + 1)
        try:
            self._insert(start, stop)
        except BaseException:
            done = self._inserted(stop)
            for part in (self._vectors, self._ids, self._alive):
                if part is not None:
                    part.cut(done)
            self._row_of = None
            raise

    def _new_ids(self, ids: Any, count: int) -> np.ndarray:
        if ids is None:
            return np.arange(self._next_id, self._next_id + count, dtype=np.int64)
        return new_ids(ids, count, lambda id_: self._row(id_) is not None, self._next_id)

    def build_bytes(self, rows: int, *, borrowed: bool = False) -> int:
        """About the most bytes that additions up to so many rows take at a time, the index counted, its vectors unless they are ``borrowed``."""
        return build_bytes(self, rows, borrowed)

    def remove(self, ids: Any) -> int:
        """Remove by id, absent ones ignored; how many went. Over a fifth dead, the index is built again."""
        rows = sorted({row for row in map(self._row, np.atleast_1d(np.asarray(ids)).tolist()) if row is not None})
        if rows:
            if self._alive is None:
                self._alive = Rows(np.empty(0, np.uint8))
                self._alive.append(np.ones(len(self._vectors), np.uint8))
            if self._row_of is not None:
                for id_ in self._all_ids()[rows].tolist():
                    del self._row_of[id_]
            self._alive.array[rows] = 0
            self._dead += len(rows)
            if self._dead > DEAD_SHARE * len(self._vectors):
                self.consolidate()
        return len(rows)

    def update(self, vectors: Any, ids: Any) -> None:
        """Replace rows by id; absent ids are added."""
        rows = self._check(vectors, "vectors")
        new = np.atleast_1d(np.asarray(ids))
        # refused before anything goes
        new_ids(new, len(rows), None)
        check_budget(self, len(rows))
        self.remove(new)
        self.add(rows, new)

    def consolidate(self) -> None:
        """Forget removed rows and build again from the rest."""
        if self._dead:
            keep, next_id = self._live(), self._next_id
            vectors, ids = self._vectors.take(keep), self._all_ids()[keep]
            self._empty()
            self._next_id = next_id
            if len(ids):
                self._take(vectors, ids, copy=False)

    def merge(self, other: VectorIndex) -> None:
        """Add every row of another index, of any kind, of the same metric and width. `DuplicateKeyError` for shared ids."""
        if other.dim != self.dim or other.metric != self.metric:
            raise InvalidArgumentError(f"merging {other.metric} of {other.dim} dimensions into {self.metric} of {self.dim}; both must agree")
        keep = other._live()
        self.add(other._vectors.take(keep), other._all_ids()[keep])

    def reconstruct(self, id: int) -> np.ndarray:  # noqa: A002 - the name that users type
        """The vector of an id, float32 (dim,), a copy. `KeyNotFoundError` where there is none."""
        row = self._row(int(id))
        if row is None:
            raise KeyNotFoundError(f"no vector has id {id}")
        return self._vectors.take(np.array([row]))[0]

    def __len__(self) -> int:
        return len(self._vectors) - self._dead

    def _live(self) -> np.ndarray:
        return np.arange(len(self._vectors)) if self._alive is None else np.flatnonzero(self._alive.array)

    def _all_ids(self) -> np.ndarray:
        return np.arange(len(self._vectors)) if self._ids is None else self._ids.array

    def _row(self, id_: int) -> int | None:
        if self._ids is None:
            there = 0 <= id_ < len(self._vectors) and (self._alive is None or self._alive.array[id_])
            return id_ if there else None
        if self._row_of is None:
            live = self._live()
            self._row_of = dict(zip(self._ids.array[live].tolist(), live.tolist(), strict=True))
        return self._row_of.get(id_)

    def _check(self, rows: Any, what: str) -> np.ndarray:
        if type(rows) is np.ndarray and rows.dtype == np.float32 and rows.shape == (self.dim,) and rows.flags.c_contiguous:
            # one query or row as it should be: the checks of many cost more than its search
            if not isfinite(rows.dot(rows)) and not np.isfinite(rows).all():
                raise SchemaError(f"{what}, row 0: holds NaN or infinity, which has no distance")
            return rows[None, :]
        array = np.asarray(rows)
        if array.ndim == 1:
            array = array[None, :] if array.size else array.reshape(0, self.dim)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise SchemaError(f"{what} of shape {np.shape(rows)}; wanted (n, {self.dim}) or ({self.dim},)")
        if array.dtype != np.float32:
            if array.dtype.kind not in "fiub" and array.dtype.name not in NARROW:
                raise SchemaError(f"{what} of dtype {array.dtype}; wanted real numbers")
            array = array.astype(np.float32)
        array = np.ascontiguousarray(array)
        for start in range(0, len(array), 65536):
            block = array[start : start + 65536]
            # a sum is finite when all are, unless it overflows: then look closer
            if not np.isfinite(block.sum()):
                bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
                if len(bad):
                    raise SchemaError(f"{what}, row {start + bad[0]}: holds NaN or infinity, which has no distance")
        return array

    # -- search ----------------------------------------------------------------------------------

    def search(self, queries: Any, k: int = 10, filter: Any = None, *, recall: float | None = None, **params: Any) -> Found:  # noqa: A002 - as users type
        """(ids int64, distances float32), (q, k) for queries (q, dim) and (k,) for one (dim,): nearest first, ties by row.

        -1 and inf where fewer are. ``filter`` is a mask (bool or uint8) over the rows in order of arrival, or an array of
        the ids to allow. ``params`` are those of the index; unknown ones raise `UnknownNameError`. ``recall`` over 0 and up to 1 sets
        ``ef`` or ``nprobe`` by `calibrate` instead.
        """
        block = self._check(queries, "queries")
        if not is_whole(k, 0):
            raise InvalidArgumentError(f"k={k!r}; give 0 or more")
        for name in params:
            if name not in self.search_params:
                raise UnknownNameError(f"index {self.name!r} has no search parameter {name!r}; {near(name, self.search_params)}")
        if recall is not None:
            params = dial.dialled(self, recall, params)
        mask = self._mask(filter)
        if self.threads > 1 and len(block) > 1:
            rows, distances = self._split(lambda part: self._near(part, int(k), mask, **params), block)
        else:
            rows, distances = self._near(block, int(k), mask, **params)
        if self.metric == "l2":
            np.sqrt(distances, out=distances)
        if self._ids is not None:
            rows = np.where(rows >= 0, self._ids.array[rows], -1) if len(self._vectors) else rows
        one = getattr(queries, "ndim", None) or np.ndim(queries)
        return (rows[0], distances[0]) if one == 1 else (rows, distances)

    def plan(self, k: int, matches: int, **params: Any) -> dict[str, Any]:
        """What a search under a filter of so many matches would do, and what it expects of the choices, in microseconds; empty where there is one way."""
        return {}

    def calibrate(self) -> Curve:
        """[(value of the dial, recall@10)] by 128 rows that ask for their neighbours; kept, and saved, while the rows change by under a fifth.

        O(128 n d) when made. Queries unlike the rows may reach less.
        """
        if self._calibrated is None or abs(len(self) - self._calibrated[0]) > dial.STALE * self._calibrated[0]:
            self._calibrated = len(self), dial.calibrate(self)
        return self._calibrated[1]

    def search_radius(self, queries: Any, radius: float, filter: Any = None, **params: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # noqa: A002
        """All rows within a distance: (starts int64 (q + 1,), ids, distances); those of query i are [starts[i]:starts[i + 1]], nearest first.

        As exact as `search` with as many neighbours, and as dear: O(log of the answer) searches of growing k.
        """
        return dial.within(self, queries, radius, filter, params)

    def search_iterator(self, query: Any, batch_size: int = 100, filter: Any = None, **params: Any) -> Iterator[Found]:  # noqa: A002
        """Ever farther neighbours of one query (dim,), ``batch_size`` at a time, each row once, until there are no more.

        A row that a shorter walk overlooked comes late rather than never. All batches together cost about twice the search for as many.
        """
        return dial.without_end(self, query, batch_size, filter, params)

    def _split(self, work: Callable[[np.ndarray], Found], block: np.ndarray) -> Found:
        """Queries over threads; each query is answered by one, so the count changes nothing in an answer."""
        # a pool a call: nothing of it is alive at a fork
        with ThreadPoolExecutor(min(self.threads, len(block))) as pool:
            parts = list(pool.map(work, np.array_split(block, min(self.threads, len(block)))))
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([distances for _, distances in parts])

    def _mask(self, allowed: Any) -> np.ndarray | None:
        alive = None if self._alive is None else self._alive.array
        return alive if allowed is None else filter_mask(allowed, len(self._vectors), self._all_ids, alive)

    # -- as bytes --------------------------------------------------------------------------------

    def to_sections(self, *, include_vectors: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(a header for JSON, arrays). Without vectors it is a segment beside a table file: its ids are row numbers."""
        if not include_vectors and (self._ids is not None or self._dead):
            raise InvalidArgumentError("a segment without its vectors needs ids 0..n-1 and no removed rows; give include_vectors=True")
        arrays = dict(self._arrays())
        if include_vectors:
            arrays |= self._saved_rows()
            if self._ids is not None:
                arrays["ids"] = self._ids.array
            if self._alive is not None:
                arrays["alive"] = self._alive.array
        header = {
            "name": self.name, "version": self.version, "spec": str(self.spec), "dim": self.dim, "metric": self.metric,
            "rows": len(self._vectors), "next_id": self._next_id, "settings": self._settings(),
        }  # fmt: skip
        if self._calibrated is not None:
            header["calibration"] = [self._calibrated[0], self._calibrated[1]]
        if self._worn:
            header["worn"] = self._worn
        return header, arrays

    @classmethod
    def from_sections(
        cls, header: dict[str, Any], arrays: dict[str, np.ndarray], *, vectors: np.ndarray | None = None,
        kernel: str | None = None, threads: int | None = None,
    ) -> VectorIndex:  # fmt: skip
        """The index of `to_sections`, over ``vectors`` (n, dim), borrowed where float32 and contiguous, where it holds none."""
        if header["version"] > cls.version:
            raise FormatVersionError(f"this {cls.name} index has format {header['version']}; this lsmtensor reads up to {cls.version}: upgrade it")
        made = cls(dim=header["dim"], metric=header["metric"], kernel=kernel, threads=threads, **header["settings"])
        own, rows = made._stored(header, arrays, vectors), int(header["rows"])
        parts = [len(arrays[n]) for n in ("ids", "alive") if n in arrays]
        if own is None or own.shape != (rows, made.dim) or any(n != rows for n in parts):
            raise InvalidArgumentError(f"an index of {rows} rows of {made.dim} over vectors of shape {None if own is None else own.shape}, {parts}")
        made._vectors = own if isinstance(own, Rows) else Rows(np.ascontiguousarray(own, np.float32))
        made._ids = Rows(np.asarray(arrays["ids"], np.int64)) if "ids" in arrays else None
        if "alive" in arrays:
            made._alive = Rows(np.array(arrays["alive"] != 0, np.uint8))
            made._dead = rows - int(made._alive.array.sum())
        made._next_id, made._worn = int(header["next_id"]), float(header.get("worn", 0))
        made._restore(arrays)
        if "calibration" in header:
            count, curve = header["calibration"]
            made._calibrated = int(count), [(int(value), float(reached)) for value, reached in curve]
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all; a present one is replaced."""
        from .. import container

        container.write(path, *self.to_sections(include_vectors=True))

    def digest(self) -> str:
        """BLAKE3 of the index's bytes but for its calibration: a function of the calls, parameters, seed, backend and instruction set."""
        from blake3 import blake3

        from .. import container

        state = blake3()
        header, arrays = self.to_sections(include_vectors=True)
        header.pop("calibration", None)
        for buffer in container.pack(header, arrays):
            state.update(buffer)
        return str(state.hexdigest())

    def memory(self) -> dict[str, int]:
        """Bytes by part; mapped ones count too."""
        parts = {name: array.nbytes for name, array in self.to_sections(include_vectors=True)[1].items()}
        return {**parts, "total": sum(parts.values())}

    def stats(self) -> dict[str, Any]:
        """What is in it and what computes."""
        return {
            "name": self.name, "spec": str(self.spec), "dim": self.dim, "metric": self.metric, "rows": len(self),
            "removed": self._dead, "backend": self._kernels.backend, "isa": self._kernels.isa, "bytes": self.memory()["total"],
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<lsmtensor index {self.spec}: {len(self):,} rows of {self.dim}, {self.metric}, {self._kernels.isa}>"
