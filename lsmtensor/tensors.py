"""``db.tensors``: named arrays of any size, in the same commits, versions and transactions as rows.

Names and chunks are rows of two system tables: ``_tensors`` (name to id, dtype, shape, grid) and ``_chunks`` ((id, chunk) to
bytes). A chunk is the unit of change: writing a slice makes new rows of the chunks that it touches, and the new version shares
the rest. The default grid is slabs of axis 0 laid back to back, without codec: the bytes of such an array, written by one
assignment, lie in one buffer of one file and are read as one view of its map.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from . import exchange
from .chunked import Tensor
from .dtypes import dtype_name, numpy_dtype
from .errors import InvalidArgumentError, KeyNotFoundError, SchemaError
from .lsm import keyspace
from .lsm.state import View
from .lsm.tree import Head, Write
from .registry import near
from .tensor_args import as_array, box_of, check_name, fitting, touched_chunks
from .tensor_rows import (
    CHUNKS,
    NAMES,
    NAMES_SCHEMA,
    SYSTEM,
    Meta,
    StoredChunks,
    base_number,
    changed_rows,
    chunk_batches,
    chunk_rows,
    forget,
    new_meta,
    numbers_of,
    one_a_table,
    optimal_chunks,
    parts_of,
    puts,
    successor,
    tombstones,
    write_of,
)

# `Tensors.list` takes the builtin's name inside its class
Names = list[str]
Writes = list[Write]
Parts = list[tuple[int, np.ndarray]]


class Store(Protocol):
    """What tensors are kept in: a database, a transaction or a snapshot, seen through its system tables."""

    def view(self, name: str) -> View | None:
        """The system table as it is read here; None where there is none yet."""
        ...

    def number(self, name: str) -> int:
        """The id of a system table, made where it is not there. Raises `ReadOnlyError` where nothing is written."""
        ...

    @property
    def direct_bytes(self) -> int:
        """Commits above it go to files of their own."""
        ...

    def fresh_id(self) -> int: ...
    def commit(self, prepare: Callable[[Head], list[Write]]) -> int: ...


class NamedTensor(Tensor):
    """A named array of one version. Writing through it commits, and moves this handle to the version written."""

    def __init__(self, tensors: Tensors, meta: Meta) -> None:
        self._tensors = tensors
        self._move(meta)

    def _move(self, meta: Meta) -> None:
        self._meta = meta
        super().__init__(StoredChunks(self._tensors._store.view(CHUNKS), meta))

    @property
    def name(self) -> str:
        return self._meta.name

    @property
    def contiguous(self) -> bool:
        """Whether all values lie back to back in one file, so that `numpy()` copies nothing."""
        return self._chunks_of.contiguous

    @property
    def _chunks_of(self) -> StoredChunks:
        assert isinstance(self._source, StoredChunks)
        return self._source

    def numpy(self, *, verify: bool = True) -> np.ndarray:
        """All values, read-only: a view where `contiguous`, else a copy.

        Every byte is compared with its checksum when this process first sees it; ``verify=False`` leaves that out for views.
        """
        if verify or not self.contiguous:
            return super().numpy()
        data = self._chunks_of.span(0, self._meta.count, check=False)
        assert data is not None
        return data.view(self.dtype).reshape(self.shape)

    def _exported(self) -> np.ndarray:
        array = self._chunks_of.private()
        return self.numpy() if array is None else array

    def __getitem__(self, key: Any) -> Any:
        """numpy's indexing; only the chunks that a basic index touches are read and checked."""
        parts = key if isinstance(key, tuple) else (key,)
        first = parts[0] if parts else None
        if not (self.shape and self.contiguous and isinstance(first, (int, np.integer, slice))) or isinstance(first, bool):
            return super().__getitem__(key)
        n, side = self.shape[0], self.chunks[0]
        steps = range(*first.indices(n)) if isinstance(first, slice) else range(int(first) + (n if first < 0 else 0), int(first) + (n if first < 0 else 0) + 1)
        if len(steps) == 0 or not 0 <= min(steps[0], steps[-1]) <= max(steps[0], steps[-1]) < n:
            return super().__getitem__(key)
        low, high = min(steps[0], steps[-1]) // side, max(steps[0], steps[-1]) // side + 1
        data = self._chunks_of.span(low, high)
        assert data is not None
        block = data.view(self.dtype).reshape(-1, *self.shape[1:])
        start = low * side
        if isinstance(first, slice):
            stop = steps[-1] - start + (1 if steps.step > 0 else -1)
            inner: Any = slice(steps[0] - start, stop if stop >= 0 else None, steps.step)
        else:
            inner = steps[0] - start
        return block[(inner, *parts[1:])]

    @property
    def codec(self) -> str:
        """How its chunks are stored."""
        return self._meta.codec

    @property
    def attrs(self) -> dict[str, Any]:
        """A copy of what was kept with the array; `set_attrs` replaces it."""
        return dict(self._meta.attrs)

    def set_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Keep these values (JSON) with the array instead."""
        try:
            text = json.dumps(dict(attrs), sort_keys=True)
        except (TypeError, ValueError) as why:
            raise InvalidArgumentError(f"attrs of tensor {self.name!r}: {why}; give values that JSON has") from why
        self._move(self._tensors._replace(self._meta.with_(attrs=text)))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write a slice: the chunks that it touches are written anew, the rest is shared with the version before."""
        meta = self._meta
        box, inner = box_of(key, meta.shape)
        target = np.empty([hi - lo for lo, hi in box], numpy_dtype(meta.dtype))
        target[...] = self._box(box)
        try:
            target[inner] = fitting(value, meta.dtype, f"tensor {meta.name!r}")
        except ValueError as why:
            raise SchemaError(f"tensor {meta.name!r}[{key}]: {why}") from why
        touched = touched_chunks(box, meta.chunks)
        source = self._source
        parts = []
        for index in touched:
            start = [i * c for i, c in zip(index, meta.chunks, strict=True)]
            held = meta.held(index)
            chunk = np.array(source.read(index))
            lows = [max(lo, s) for (lo, _), s in zip(box, start, strict=True)]
            highs = [min(hi, s + h) for (_, hi), s, h in zip(box, start, held, strict=True)]
            into = tuple(slice(a - s, b - s) for a, b, s in zip(lows, highs, start, strict=True))
            chunk[into] = target[tuple(slice(a - lo, b - lo) for a, b, (lo, _) in zip(lows, highs, box, strict=True))]
            parts.append((meta.number(index), chunk))
        self._tensors._write_chunks(meta, parts)
        self._move(meta)

    def append(self, values: Any, axis: int = 0) -> None:
        """Make the array longer along an axis by ``values``, whose other sides must be its own."""
        meta = self._meta
        block = fitting(values, meta.dtype, f"append to tensor {meta.name!r}")
        if not -len(meta.shape) <= axis < len(meta.shape):
            raise InvalidArgumentError(f"axis={axis} of tensor {meta.name!r} of shape {meta.shape}")
        axis %= len(meta.shape)
        if block.ndim != len(meta.shape) or any(a != b for i, (a, b) in enumerate(zip(block.shape, meta.shape, strict=False)) if i != axis):
            raise SchemaError(f"append of shape {block.shape} along axis {axis} to tensor {meta.name!r} of shape {meta.shape}; the other sides must agree")
        old = meta.shape[axis]
        longer = tuple(n + block.shape[axis] if i == axis else n for i, n in enumerate(meta.shape))
        self._resized(longer, {axis: (old, block)})

    def resize(self, shape: Sequence[int]) -> None:
        """Another shape of as many dimensions; new places hold the fill value, what falls outside is gone in this version."""
        sides = tuple(int(n) for n in shape)
        if len(sides) != len(self._meta.shape) or any(n < 0 for n in sides):
            raise InvalidArgumentError(f"resize({sides}) of tensor {self.name!r} of shape {self._meta.shape}; give as many sides, none below 0")
        self._resized(sides, {})

    def _resized(self, shape: tuple[int, ...], added: dict[int, tuple[int, np.ndarray]]) -> None:
        """Chunks keep their places where axis 0 alone changes; otherwise their numbers change, and all are written anew."""
        meta, after = self._meta, self._meta.with_(shape=list(shape))
        if meta.shape == shape and not added:
            return
        same_numbers = shape[1:] == meta.shape[1:]
        if not same_numbers:
            whole = np.empty(shape, numpy_dtype(meta.dtype))
            whole[...] = np.frombuffer(meta.fill, whole.dtype).reshape(())
            common = tuple(slice(0, min(a, b)) for a, b in zip(shape, meta.shape, strict=True))
            whole[common] = self.numpy()[common]
            for axis, (start, block) in added.items():
                whole[tuple(slice(start, None) if i == axis else slice(None) for i in range(len(shape)))] = block
            self._move(self._tensors._assign({meta.name: (after.with_(id=0), whole)})[0])
            return
        parts = []
        fill = np.frombuffer(meta.fill, numpy_dtype(meta.dtype)).reshape(())
        for index in itertools.product(*(range(g) for g in after.grid)):
            start, held = index[0] * meta.chunks[0], after.held(index)
            if start + held[0] <= meta.shape[0] and (index[0] < meta.grid[0] and meta.held(index) == held):
                continue  # as it was
            chunk = np.empty(held, fill.dtype)
            chunk[...] = fill
            if start < meta.shape[0]:
                old = self._source.read(index)
                keep = min(held[0], old.shape[0])
                chunk[:keep] = old[:keep]
            for first, block in added.values():
                lo, hi = max(start, first), start + held[0]
                if lo < hi:
                    columns = tuple(slice(i * c, i * c + h) for i, c, h in zip(index[1:], meta.chunks[1:], held[1:], strict=True))
                    chunk[lo - start : hi - start] = block[(slice(lo - first, hi - first), *columns)]
            parts.append((after.number(index), chunk))
        gone = sorted(set(numbers_of(meta)) - set(numbers_of(after)))
        self._tensors._write_chunks(after, parts, gone=gone, replace=True)
        self._move(after)

    def __repr__(self) -> str:
        return f"<lsmtensor tensor {self.name!r}" + super().__repr__().removeprefix("<lsmtensor.Tensor")


Metas = list[Meta]


class Tensors:
    """The mapping from names to arrays of a database, a transaction or a snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- reading ---------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> NamedTensor:
        return NamedTensor(self, self._meta(name))

    def _meta(self, name: str) -> Meta:
        meta = self._look(name)
        if meta is None:
            raise KeyNotFoundError(f"no tensor named {name!r}; {near(str(name), self.list()[:1000])}")
        return meta

    def _look(self, name: str) -> Meta | None:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"a tensor's name is text, not {type(name).__name__}")
        view = self._store.view(NAMES)
        if view is None:
            return None
        owner, row = view.locate(keyspace.one(view.table.codec.scalar(name)))
        if owner[0] < 0:
            return None
        return Meta(view.rows(owner, row, view.table.schema.arrow).to_pylist()[0])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._look(name) is not None

    def list(self, prefix: str = "") -> Names:
        """The names that begin with ``prefix``, sorted."""
        view = self._store.view(NAMES)
        if view is None:
            return []
        start = view.table.codec.scalar(prefix) if prefix else None
        found: Names = []
        for window in view.windows(start, successor(start)):
            found += window.gather(["name"]).column("name").to_pylist() if len(window) else []
        return [name for name in found if not name.startswith("\x00")]

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def keys(self) -> Names:
        return self.list()

    def items(self) -> Iterator[tuple[str, NamedTensor]]:
        return ((name, self[name]) for name in self.list())

    # -- writing ---------------------------------------------------------------------------------

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, arrays: Mapping[str, Any]) -> int:
        """Assign many arrays in one commit, which is returned. Their bytes are written once, straight from the arrays.

        An array whose codec begins with ``xor`` keeps its grid and codec where shape and dtype stay: it is stored by what changed.
        """
        plans: dict[str, tuple[Meta, Any]] = {}
        changes: list[tuple[Meta, Parts]] = []
        for name, value in arrays.items():
            check_name(name)
            block = as_array(value, f"tensor {name!r}")
            old = self._look(name)
            if old is not None and (old.shape, old.dtype) == (block.shape, dtype_name(block.dtype)) and old.uses_base:
                changes.append((old, parts_of(old, block)))
            else:
                plans[name] = (new_meta(name, block.shape, dtype_name(block.dtype), None, None, 0, {}), block)
        if not arrays:
            raise InvalidArgumentError("update({}) has no tensors to write")
        self._assign(plans, changes)
        return self._version

    def create(
        self, name: str, shape: Sequence[int] | int, dtype: Any, *, chunks: Sequence[int] | None = None, codec: str | None = None,
        fill_value: Any = 0, attrs: Mapping[str, Any] | None = None, data: Any = None,
    ) -> NamedTensor:  # fmt: skip
        """A new array of ``fill_value``, or of ``data``: an array, or an iterator of slabs along axis 0 (for arrays larger than memory).

        ``chunks`` is the grid (slabs of axis 0 by default), ``codec`` a chain such as ``"shuffle+zstd"``. Replaces an array of the name.
        """
        check_name(name)
        sides = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
        meta = new_meta(name, sides, dtype_name(dtype), chunks, codec, fill_value, dict(attrs or {}))
        if data is None:
            return NamedTensor(self, self._replace(meta.with_(id=self._store.fresh_id()), fresh=True))
        return NamedTensor(self, self._assign({name: (meta, data)})[0])

    def __delitem__(self, name: str) -> None:
        meta = self._meta(name)
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)

        def prepare(head: Head) -> Writes:
            rows = NAMES_SCHEMA.keys([name])
            view = head(names)
            return [tombstones(view, names, rows, NAMES_SCHEMA), *forget(head(chunks), chunks, meta.id, numbers_of(meta))]

        self._commit(prepare)

    # -- exchange --------------------------------------------------------------------------------

    def import_safetensors(self, path: str | os.PathLike[str], prefix: str = "") -> Names:
        """All tensors of a safetensors file in one commit, named ``prefix`` + their names, which are returned. The bytes are
        written from the file's map; a damaged or hostile header raises `CorruptionError` and nothing is written."""
        return exchange.import_safetensors(self, path, prefix)

    def export_safetensors(self, path: str | os.PathLike[str], prefix: str = "") -> None:
        """A safetensors file of the tensors under ``prefix``; of those of an imported file, byte for byte that file."""
        exchange.export_safetensors(self, path, prefix)

    def import_npz(self, path: str | os.PathLike[str], prefix: str = "") -> Names:
        """The arrays of an ``.npz`` (or the one of an ``.npy``, named ``prefix``) in one commit."""
        return exchange.import_npz(self, path, prefix)

    def export_npz(self, path: str | os.PathLike[str], prefix: str = "") -> None:
        """An ``.npz`` file of the tensors under ``prefix``."""
        exchange.export_npz(self, path, prefix)

    def _import(self, arrays: Mapping[str, tuple[np.ndarray, dict[str, Any]]]) -> None:
        self._assign({n: (new_meta(n, a.shape, dtype_name(a.dtype), None, None, 0, attrs), a) for n, (a, attrs) in arrays.items()})

    _version = 0

    def _commit(self, prepare: Callable[[Head], Writes]) -> None:
        self._version = self._store.commit(prepare)

    def _replace(self, meta: Meta, fresh: bool = False) -> Meta:
        """Write the row of a name alone; with ``fresh`` its chunks are new, and those of the array before go."""
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)
        old = self._look(meta.name)

        def prepare(head: Head) -> Writes:
            writes = [puts(head(names), names, NAMES_SCHEMA.batch([meta.row()]))]
            return writes + (forget(head(chunks), chunks, old.id, numbers_of(old)) if fresh and old is not None else [])

        self._commit(prepare)
        return meta

    def _assign(self, plans: dict[str, tuple[Meta, Any]], changes: Sequence[tuple[Meta, Parts]] = ()) -> Metas:
        """New arrays under the names, each with an id of its own; the chunks of those before go in the same commit.
        ``changes`` are new values of chunks of arrays that stay."""
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)
        metas = [meta.with_(id=self._store.fresh_id()) for meta, _ in plans.values()]
        old = [self._look(name) for name in plans]

        def prepare(head: Head) -> Writes:
            view = head(chunks)
            batches = (
                pair for meta, (_, data) in zip(metas, plans.values(), strict=True) for pair in chunk_batches(view, meta, data)
            )
            writes = [puts(head(names), names, NAMES_SCHEMA.batch([m.row() for m in metas]))] if metas else []
            writes += write_of(chunks, batches, self._store.direct_bytes)
            for meta in old:
                if meta is not None:
                    writes += forget(view, chunks, meta.id, numbers_of(meta))
            for meta, parts in changes:
                (batch, keys), gone = changed_rows(view, meta, parts)
                writes += [Write(chunks, batch, keys), *forget(view, chunks, meta.id, gone)]
            return one_a_table(writes)

        self._commit(prepare)
        return metas

    def _write_chunks(self, meta: Meta, parts: Parts, gone: Sequence[int] = (), replace: bool = False) -> None:
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)

        def prepare(head: Head) -> Writes:
            view = head(chunks)
            writes = [puts(head(names), names, NAMES_SCHEMA.batch([meta.row()]))] if replace else []
            dropped = list(gone)
            if parts and replace:
                # of another shape: what they were compared with is no base any more
                batch, keys = chunk_rows(view, meta, parts)
                dropped += [base_number(n) for n, _ in parts] if meta.uses_base else []
                writes.append(Write(chunks, batch, keys))
            elif parts:
                (batch, keys), old = changed_rows(view, meta, parts)
                dropped += old
                writes.append(Write(chunks, batch, keys))
            return one_a_table(writes + forget(view, chunks, meta.id, dropped))

        self._commit(prepare)

    def __repr__(self) -> str:
        return f"<lsmtensor tensors: {len(self):,} named arrays>"


__all__ = ["SYSTEM", "NamedTensor", "Store", "Tensors", "optimal_chunks"]
