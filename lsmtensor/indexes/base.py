"""The contract of a vector index, and what all of them share: checks, ids, saving.

Inside, rows are numbered 0..n-1 in order of arrival; users see their own integer ids. Removed rows stay
as marks until `consolidate`. Distances are smaller-is-nearer: cosine 1 - cos, l2 Euclidean, ip minus
the inner product.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import DuplicateKeyError, InvalidArgumentError, KeyNotFoundError, SchemaError, UnknownNameError
from ..kernels.contract import METRICS
from ..registry import Spec, near


class VectorIndex:
    """Vectors with integer ids, and a search among them. Not safe for writing from two threads at once."""

    name: ClassVar[str]
    search_params: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, metric: str = "l2", kernel: str | None = None) -> None:
        if metric not in METRICS:
            raise UnknownNameError(f"no metric named {metric!r}; {near(str(metric), METRICS)}")
        self.dim, self.metric = dim, metric
        self.spec = Spec(self.name)
        self._code = METRICS[metric]
        self._kernels = kernels.choose(kernel)
        self._vectors = np.empty((0, dim), np.float32)
        self._ids: np.ndarray | None = np.empty(0, np.int64)
        self._alive: np.ndarray | None = None
        self._row_of: dict[int, int] | None = None

    # -- what an index adds ----------------------------------------------------------------------

    def _added(self, start: int) -> None:
        """Rows from ``start`` on were appended to ``_vectors``."""
        raise TypeError("abstract")  # pragma: no cover

    def _nearest(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64 (q, k), kernel distances float32 (q, k)), padded with -1 and inf."""
        raise TypeError("abstract")  # pragma: no cover

    def _arrays(self) -> dict[str, np.ndarray]:
        """What must be saved beside vectors and ids."""
        return {}

    def _restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """The reverse of ``_arrays``."""

    def _settings(self) -> dict[str, Any]:
        """Constructor arguments beside dim, metric and kernel."""
        return {}

    # -- rows ------------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Learn from a sample (n, dim); indexes without parameters to learn only check it."""
        self._check(x, "x")
        return self

    def add(self, vectors: Any, ids: Any = None) -> None:
        """Add rows (n, dim) or one (dim,). ``ids=None`` continues from the highest id. Present ids are refused."""
        rows = self._check(vectors, "vectors")
        start = len(self._vectors)
        if ids is None:
            first = int(self._all_ids().max()) + 1 if start else 0
            new = np.arange(first, first + len(rows), dtype=np.int64)
        else:
            new = np.atleast_1d(np.asarray(ids))
            if new.dtype.kind not in "iu" or new.shape != (len(rows),) or (new < 0).any():
                raise InvalidArgumentError(
                    f"ids of dtype {new.dtype} and shape {new.shape} for {len(rows)} rows; give one integer of 0 or more each"
                )
            new = new.astype(np.int64)
            values, counts = np.unique(new, return_counts=True)
            if (counts > 1).any():
                raise DuplicateKeyError(f"id {values[counts > 1][0]} is given twice")
            present = np.isin(new, self._live_ids())
            if present.any():
                raise DuplicateKeyError(f"id {new[present][0]} is there already; update() replaces it")
        if len(rows) == 0:
            return
        # one copy for the first load; later ones append
        self._vectors = rows.copy() if start == 0 else np.concatenate([self._vectors, rows])
        self._ids = np.concatenate([self._all_ids()[:start], new])
        if self._alive is not None:
            self._alive = np.concatenate([self._alive, np.ones(len(rows), np.uint8)])
        self._row_of = None
        self._added(start)

    def remove(self, ids: Any) -> int:
        """Remove by id; absent ones are ignored. Returns how many went. Over a fifth dead, the index is rebuilt."""
        rows = [r for r in (self._rows().get(int(i)) for i in np.atleast_1d(ids)) if r is not None]
        if rows:
            if self._alive is None:
                self._alive = np.ones(len(self._vectors), np.uint8)
            self._alive[rows] = 0
            self._row_of = None
            if len(self) < 0.8 * len(self._vectors):
                self.consolidate()
        return len(set(rows))

    def update(self, vectors: Any, ids: Any) -> None:
        """Replace or add rows by id."""
        self._check(vectors, "vectors")
        self.remove(ids)
        self.add(vectors, ids)

    def consolidate(self) -> None:
        """Forget removed rows and build again from the rest."""
        if self._alive is not None:
            keep = self._alive.astype(bool)
            vectors, ids = self._vectors[keep], self._all_ids()[keep]
            self._vectors, self._ids, self._alive, self._row_of = np.empty((0, self.dim), np.float32), np.empty(0, np.int64), None, None
            self._restore({"empty": True}, {})
            self.add(vectors, ids)

    def merge(self, other: VectorIndex) -> None:
        """Add every row of another index of the same metric and width."""
        if other.dim != self.dim or other.metric != self.metric:
            raise InvalidArgumentError(f"merging {other.metric} of {other.dim} dimensions into {self.metric} of {self.dim}")
        keep = slice(None) if other._alive is None else other._alive.astype(bool)
        self.add(other._vectors[keep], other._all_ids()[keep])

    def reconstruct(self, id: int) -> np.ndarray:  # noqa: A002 - the field's name
        """The vector of an id, float32 (dim,)."""
        row = self._rows().get(int(id))
        if row is None:
            raise KeyNotFoundError(f"no vector has id {id}")
        return self._vectors[row].copy()

    def __len__(self) -> int:
        return len(self._vectors) if self._alive is None else int(self._alive.sum())

    def _all_ids(self) -> np.ndarray:
        if self._ids is None:
            self._ids = np.arange(len(self._vectors), dtype=np.int64)
        return self._ids

    def _live_ids(self) -> np.ndarray:
        return self._all_ids() if self._alive is None else self._all_ids()[self._alive.astype(bool)]

    def _rows(self) -> dict[int, int]:
        if self._row_of is None:
            alive = np.flatnonzero(self._alive) if self._alive is not None else np.arange(len(self._vectors))
            self._row_of = dict(zip(self._all_ids()[alive].tolist(), alive.tolist(), strict=True))
        return self._row_of

    def _check(self, rows: Any, what: str) -> np.ndarray:
        array = np.asarray(rows)
        if array.ndim == 1:
            array = array[None, :] if array.size else array.reshape(0, self.dim)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise SchemaError(f"{what} of shape {np.shape(rows)}; wanted (n, {self.dim}) or ({self.dim},)")
        if array.dtype.kind not in "fiub":
            raise SchemaError(f"{what} of dtype {array.dtype}; wanted numbers")
        array = np.ascontiguousarray(array, np.float32)
        bad = np.flatnonzero(np.isnan(array).any(axis=1))
        if len(bad):
            raise SchemaError(f"{what}, row {bad[0]}: holds NaN, which has no distance")
        return array

    # -- search ----------------------------------------------------------------------------------

    def search(self, queries: Any, k: int = 10, filter: Any = None, **params: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: A002
        """(ids int64, distances float32) of shape (q, k), or (k,) for a 1-D query; -1 and inf where fewer are.

        ``filter`` is a bool mask over the rows in order of arrival, or an array of the ids to allow.
        """
        block = self._check(queries, "queries")
        if not isinstance(k, (int, np.integer)) or k < 0:
            raise InvalidArgumentError(f"k={k!r}; give 0 or more")
        for name in params:
            if name not in self.search_params:
                raise UnknownNameError(f"index {self.name!r} has no search parameter {name!r}; {near(name, self.search_params)}")
        mask = self._mask(filter)
        rows, distances = self._nearest(block, int(k), mask, **params)
        if self.metric == "l2":
            distances = np.sqrt(np.maximum(distances, 0))
        ids = np.where(rows >= 0, self._all_ids()[rows], -1) if len(self._vectors) else rows
        return (ids[0], distances[0]) if np.ndim(queries) == 1 else (ids, distances)

    def _mask(self, allowed: Any) -> np.ndarray | None:
        if allowed is None:
            return self._alive
        given = np.asarray(allowed)
        if given.dtype == bool or (given.dtype == np.uint8 and len(given) == len(self._vectors)):
            if given.shape != (len(self._vectors),):
                raise InvalidArgumentError(f"a filter mask of shape {given.shape}; wanted ({len(self._vectors)},)")
            mask = np.ascontiguousarray(given).view(np.uint8)
        else:
            mask = np.isin(self._all_ids(), given).view(np.uint8)
        return mask if self._alive is None else mask & self._alive

    # -- as bytes --------------------------------------------------------------------------------

    def to_sections(self, *, vectors: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(JSON header, arrays). Without ``vectors`` and ids: a segment beside the rows it indexes."""
        arrays = dict(self._arrays())
        if vectors:
            arrays["vectors"], arrays["ids"] = self._vectors, self._all_ids()
            if self._alive is not None:
                arrays["alive"] = self._alive
        header = {"name": self.name, "spec": str(self.spec), "dim": self.dim, "metric": self.metric, "settings": self._settings()}
        return header, arrays

    @classmethod
    def from_sections(
        cls, header: dict[str, Any], arrays: dict[str, np.ndarray], *, vectors: np.ndarray | None = None, kernel: str | None = None
    ) -> VectorIndex:
        made = cls(dim=int(header["dim"]), metric=str(header["metric"]), kernel=kernel, **header["settings"])
        own = arrays.get("vectors", vectors)
        if own is None or own.ndim != 2 or own.shape[1] != made.dim:
            raise InvalidArgumentError(f"an index of {made.dim} dimensions over vectors of shape {None if own is None else own.shape}")
        made._vectors = np.ascontiguousarray(own, np.float32)
        made._ids = arrays.get("ids")
        made._alive = arrays["alive"].copy() if "alive" in arrays else None
        made._restore(header, arrays)
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a new file, whole or not at all."""
        from ..env.local import LocalEnv
        from . import container

        env, name = LocalEnv(), os.fspath(path)
        temporary = f"{name}.tmp"
        env.unlink(temporary)
        with env.create(temporary, kind="index", cause="commit") as file:
            file.writev(container.pack(*self.to_sections(vectors=True)))
            file.sync()
        env.rename(temporary, name)
        env.sync_dir(os.path.dirname(name) or ".")

    def digest(self) -> str:
        """SHA-256 over the index's bytes: equal for equal data, parameters, seed, backend and instruction set."""
        from . import container

        state = hashlib.sha256()
        for buffer in container.pack(*self.to_sections(vectors=True)):
            state.update(buffer)
        return state.hexdigest()

    def memory(self) -> dict[str, int]:
        """Bytes by part."""
        parts = {"vectors": self._vectors.nbytes, **{n: a.nbytes for n, a in self._arrays().items()}}
        return {**parts, "total": sum(parts.values())}

    def stats(self) -> dict[str, Any]:
        removed = len(self._vectors) - len(self)
        return {"name": self.name, "rows": len(self), "removed": removed, "backend": self._kernels.backend, "isa": self._kernels.isa}

    def __repr__(self) -> str:
        return f"<lsmtensor index {self.spec} {len(self):,} rows of {self.dim}, {self.metric}, {self._kernels.isa}>"
