"""``db.tensors``: named arrays of any size, in the same commits, versions and transactions as rows.

Names and chunks are rows of two system tables: ``_tensors`` (name to id, dtype, shape, grid) and ``_chunks`` ((id, chunk) to
bytes). A chunk is the unit of change: writing a slice makes new rows of the chunks that it touches, and the new version shares
the rest. The default grid is slabs of axis 0 laid back to back, without codec: the bytes of such an array, written by one
assignment, lie in one buffer of one file and are read as one view of its map.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from . import exchange
from .cache import Cache
from .chunked import Tensor
from .dtypes import dtype_name, numpy_dtype
from .errors import ConflictError, InvalidArgumentError, KeyNotFoundError, SchemaError
from .lsm import keyspace
from .lsm.state import View
from .lsm.tree import Head, Write
from .quant.grouped import is_grouped
from .registry import near
from .tensor_args import as_array, box_of, check_name, fitting, touched_chunks
from .tensor_meta import CHUNKS, NAMES, NAMES_SCHEMA, SYSTEM, Meta, new_meta, optimal_chunks
from .tensor_rows import (
    StoredChunks,
    base_number,
    changed_rows,
    chunk_batches,
    chunk_rows,
    forget,
    numbers_of,
    one_a_table,
    parts_of,
    puts,
    successor,
    tombstones,
    write_of,
)

# `Tensors.list` takes the builtin's name inside its class
Names = list[str]
Writes = list[Write]
Known = dict[str, tuple[Meta | None, StoredChunks | None]]
NOTHING: tuple[Meta | None, StoredChunks | None] = (None, None)
MAX_KNOWN = 1024  # names that are not looked up again while nothing changes
Parts = list[tuple[int, np.ndarray]]


class Store(Protocol):
    """What tensors are kept in: a database, a transaction or a snapshot, seen through its system tables."""

    @property
    def cache(self) -> Cache:
        """Where chunks that were read are kept."""
        ...

    def moment(self, version: int | None = None) -> Any:
        """What is read now, for several looks at the same; with ``version``, what a commit of ours has just written."""
        ...

    def known(self, moment: Any) -> Known | None:
        """Arrays that were looked up at a moment already, and opened; None where nothing is remembered."""
        ...

    def view(self, name: str, moment: Any) -> View | None:
        """The system table as it is read at a moment; None where there is none yet."""
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

    def __init__(self, tensors: Tensors, meta: Meta, source: StoredChunks) -> None:
        self._tensors, self._meta = tensors, meta
        super().__init__(source)

    def _move(self, meta: Meta, version: int) -> None:
        """To what a commit of ours wrote."""
        self.__init__(self._tensors, meta, self._tensors._source(meta, self._tensors._store.moment(version)))  # type: ignore[misc]

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
        self._move(*self._tensors._edit(self._meta, lambda now, _: (now.with_(attrs=text), [], [])))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write a slice: the chunks that it touches are written anew, the rest is shared with the version before."""
        box, inner = box_of(key, self._meta.shape)
        given = fitting(value, self._meta.dtype, f"tensor {self.name!r}")

        def change(meta: Meta, source: StoredChunks) -> Change:
            target = Tensor(source)._box(box)
            try:
                target[inner] = given
            except ValueError as why:
                raise SchemaError(f"tensor {meta.name!r}[{key}]: {why}") from why
            parts = []
            for index in touched_chunks(box, meta.chunks):
                start = [i * c for i, c in zip(index, meta.chunks, strict=True)]
                held = meta.held(index)
                chunk = np.array(source.read(index))
                lows = [max(lo, s) for (lo, _), s in zip(box, start, strict=True)]
                highs = [min(hi, s + h) for (_, hi), s, h in zip(box, start, held, strict=True)]
                into = tuple(slice(a - s, b - s) for a, b, s in zip(lows, highs, start, strict=True))
                chunk[into] = target[tuple(slice(a - lo, b - lo) for a, b, (lo, _) in zip(lows, highs, box, strict=True))]
                parts.append((meta.number(index), chunk))
            return meta, parts, []

        self._move(*self._tensors._edit(self._meta, change))

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
        self._check_columns(longer)
        self._resized(longer, {axis: (old, block)})

    def _check_columns(self, shape: tuple[int, ...]) -> None:
        if is_grouped(self.codec) and shape[1] != self.shape[1]:
            raise InvalidArgumentError(f"tensor {self.name!r} of shape {self.shape} is kept as {self.codec}, in whole rows: they cannot become {shape[1]} wide; write a new array")

    def resize(self, shape: Sequence[int]) -> None:
        """Another shape of as many dimensions; new places hold the fill value, what falls outside is gone in this version."""
        sides = tuple(int(n) for n in shape)
        if len(sides) != len(self._meta.shape) or any(n < 0 for n in sides):
            raise InvalidArgumentError(f"resize({sides}) of tensor {self.name!r} of shape {self._meta.shape}; give as many sides, none below 0")
        self._check_columns(sides)
        self._resized(sides, {})

    def _resized(self, shape: tuple[int, ...], added: dict[int, tuple[int, np.ndarray]]) -> None:
        """Chunks keep their numbers where axis 0 alone changes; otherwise those that hold values are written anew. Chunks of nothing but
        the fill value are never written."""
        if self._meta.shape == shape and not added:
            return

        def change(meta: Meta, source: StoredChunks) -> Change:
            after = meta.with_(shape=list(shape))
            same_numbers = shape[1:] == meta.shape[1:]
            kept = [(0, min(a, b)) for a, b in zip(meta.shape, shape, strict=True)]
            there = (meta.index(n) for n in source.there())
            touched = {index for index in there if all(i * c < hi for i, c, (_, hi) in zip(index, meta.chunks, kept, strict=True))}
            if same_numbers:
                touched = {index for index in touched if meta.held(index) != after.held(index)}  # the others are as they were
            for axis, (start, _) in added.items():
                touched |= set(touched_chunks([(start, n) if i == axis else (0, n) for i, n in enumerate(shape)], meta.chunks))
            parts = [(after.number(index), _chunk_of(Tensor(source), after, index, kept, added)) for index in sorted(touched)]
            if same_numbers:
                return after, parts, [range(after.count, meta.count), range(-meta.count, -after.count)]
            return after.with_(id=self._tensors._store.fresh_id()), parts, [numbers_of(meta)]

        self._move(*self._tensors._edit(self._meta, change))

    def __repr__(self) -> str:
        return f"<lsmtensor tensor {self.name!r}" + super().__repr__().removeprefix("<lsmtensor.Tensor")


Metas = list[Meta]
# what becomes of an array: its row, new values of chunks, numbers of chunks of the old one that go
Change = tuple[Meta, Parts, list[range]]


def _chunk_of(old: Tensor, after: Meta, index: tuple[int, ...], kept: list[tuple[int, int]], added: dict[int, tuple[int, np.ndarray]]) -> np.ndarray:
    """A chunk of the array as it becomes: fill, under what stays, under what is added."""
    box = [(i * c, i * c + h) for i, c, h in zip(index, after.chunks, after.held(index), strict=True)]
    chunk = np.empty([hi - lo for lo, hi in box], numpy_dtype(after.dtype))
    chunk[...] = np.frombuffer(after.fill, chunk.dtype).reshape(())
    common = [(lo, min(hi, n)) for (lo, hi), (_, n) in zip(box, kept, strict=True)]
    if all(lo < hi for lo, hi in common):
        chunk[tuple(slice(0, hi - lo) for lo, hi in common)] = old._box(common)
    for axis, (first, block) in added.items():
        lo, hi = max(box[axis][0], first), box[axis][1]
        if lo < hi:
            into = tuple(slice(lo - a, hi - a) if i == axis else slice(None) for i, (a, _) in enumerate(box))
            chunk[into] = block[tuple(slice(lo - first, hi - first) if i == axis else slice(a, b) for i, (a, b) in enumerate(box))]
    return chunk


class Tensors:
    """The mapping from names to arrays of a database, a transaction or a snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- reading ---------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> NamedTensor:
        moment = self._store.moment()
        known = self._store.known(moment)
        meta, source = NOTHING if known is None else known.get(name, NOTHING)
        if meta is None or source is None:
            meta = meta or self._meta(name, moment)
            source = self._source(meta, moment)
            if known is not None:
                known[name] = meta, source
        return NamedTensor(self, meta, source)

    def _source(self, meta: Meta, moment: Any) -> StoredChunks:
        return StoredChunks(self._store.view(CHUNKS, moment), meta, self._store.cache)

    def _meta(self, name: str, moment: Any) -> Meta:
        meta = self._look(name, moment)
        if meta is None:
            raise KeyNotFoundError(f"no tensor named {name!r}; {near(str(name), self.list()[:1000])}")
        return meta

    def _look(self, name: str, moment: Any) -> Meta | None:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"a tensor's name is text, not {type(name).__name__}")
        view, known = self._store.view(NAMES, moment), self._store.known(moment)
        if view is None or known is None or len(known) >= MAX_KNOWN or sum(source.rows for source in view.sources) > MAX_KNOWN:
            if known is not None and len(known) >= MAX_KNOWN:
                known.clear()
            return _found(view, name)
        if not known:
            # few names: looking them up together costs what three alone do
            known.update((meta.name, (meta, None)) for meta in _every(view))
        found = known.get(name)
        return None if found is None else found[0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._look(name, self._store.moment()) is not None

    def list(self, prefix: str = "") -> Names:
        """The names that begin with ``prefix``, sorted."""
        view = self._store.view(NAMES, self._store.moment())
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
        moment = self._store.moment()
        plans: dict[str, tuple[Meta, Any]] = {}
        changes: list[tuple[Meta, Parts]] = []
        for name, value in arrays.items():
            check_name(name)
            block, dtype = as_array(value, f"tensor {name!r}")
            old = self._look(name, moment)
            if old is not None and (old.shape, old.dtype) == (block.shape, dtype) and old.uses_base:
                changes.append((old, parts_of(old, block)))
            else:
                plans[name] = (new_meta(name, block.shape, dtype, None, None, 0, {}), block)
        if not arrays:
            raise InvalidArgumentError("update({}) has no tensors to write")
        return self._assign(plans, changes)[1]

    def create(
        self, name: str, shape: Sequence[int] | int, dtype: Any, *, chunks: Sequence[int] | None = None, codec: str | None = None, quant: str | None = None,
        fill_value: Any = 0, attrs: Mapping[str, Any] | None = None, data: Any = None,
    ) -> NamedTensor:  # fmt: skip
        """A new array of ``fill_value``, or of ``data``: an array, or an iterator of slabs along axis 0 (for arrays larger than memory).

        ``chunks`` is the grid (slabs of axis 0 by default), ``codec`` a chain such as ``"shuffle+zstd"``. Replaces an array of the name.

        ``quant`` keeps a two-dimensional array of floats as ``"int8"`` or ``"int4"``, with a scale a row or a ``"int4(group=64)"``: reading gives
        the decoded values, of the chunks that a slice touches. Decided at the commit, so every version shows what it always showed.
        """
        check_name(name)
        sides = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
        if quant is not None and (codec is not None or not is_grouped(str(quant))):
            raise InvalidArgumentError(f"tensor {name!r}: quant={quant!r}, codec={codec!r}; give quant=\"int8\" or \"int4\" with an optional (group=…), without a codec")
        meta = new_meta(name, sides, dtype_name(dtype), chunks, codec or quant, fill_value, dict(attrs or {}))
        metas, version = self._assign({name: (meta, data)})
        return NamedTensor(self, metas[0], self._source(metas[0], self._store.moment(version)))

    def __delitem__(self, name: str) -> None:
        self._meta(name, self._store.moment())
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)

        def prepare(head: Head) -> Writes:
            view = head(names)
            meta = _found(view, name)
            if meta is None:
                return []
            return [tombstones(view, names, NAMES_SCHEMA.keys([name]), NAMES_SCHEMA), *forget(head(chunks), chunks, meta.id, numbers_of(meta))]

        self._store.commit(prepare)

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

    def _assign(self, plans: dict[str, tuple[Meta, Any]], changes: Sequence[tuple[Meta, Parts]] = ()) -> tuple[Metas, int]:
        """New arrays under the names, each with an id of its own, and the commit; the chunks of those before go in it. Data that is None
        writes no chunks. ``changes`` are new values of chunks of arrays that stay."""
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)
        metas = [meta.with_(id=self._store.fresh_id()) for meta, _ in plans.values()]

        def prepare(head: Head) -> Writes:
            view, known = head(chunks), head(names)
            batches = (
                pair for meta, (_, data) in zip(metas, plans.values(), strict=True) if data is not None for pair in chunk_batches(view, meta, data)
            )
            writes = [puts(known, names, NAMES_SCHEMA.batch([m.row() for m in metas]))] if metas else []
            old = [_found(known, name) for name in plans]
            for meta, _ in changes:
                _unchanged(meta, _found(known, meta.name))
            writes += write_of(chunks, batches, self._store.direct_bytes)
            for before in old:
                if before is not None:
                    writes += forget(view, chunks, before.id, numbers_of(before))
            for meta, parts in changes:
                (batch, keys), gone = changed_rows(view, meta, parts)
                writes += [Write(chunks, batch, keys), *forget(view, chunks, meta.id, gone)]
            return one_a_table(writes)

        return metas, self._store.commit(prepare)

    def _edit(self, meta: Meta, change: Callable[[Meta, StoredChunks], Change]) -> tuple[Meta, int]:
        """One commit of what ``change`` makes of an array as it is when the commit's turn comes, so that no write of another handle or
        thread is lost. Raises `ConflictError` where the array was replaced, resized or deleted since ``meta``."""
        names, chunks = self._store.number(NAMES), self._store.number(CHUNKS)
        made: Metas = []

        def prepare(head: Head) -> Writes:
            view, known = head(chunks), head(names)
            now = _unchanged(meta, _found(known, meta.name))
            after, parts, gone = change(now, StoredChunks(view, now))
            made[:] = [after]
            writes = [puts(known, names, NAMES_SCHEMA.batch([after.row()]))] if after.row() != now.row() else []
            if parts and after.shape != now.shape:
                # of another shape: what they were compared with is no base any more
                writes.append(Write(chunks, *chunk_rows(view, after, parts)))
                if after.uses_base and after.id == now.id:
                    writes += forget(view, chunks, now.id, [base_number(n) for n, _ in parts])
            elif parts:
                (batch, keys), old = changed_rows(view, after, parts)
                writes += [Write(chunks, batch, keys), *forget(view, chunks, after.id, old)]
            for numbers in gone:
                writes += forget(view, chunks, now.id, numbers)
            return one_a_table(writes)

        version = self._store.commit(prepare)
        return made[0], version

    def __repr__(self) -> str:
        return f"<lsmtensor tensors: {len(self):,} named arrays>"


def _found(view: View | None, name: str) -> Meta | None:
    """The array of a name in the table of names."""
    if view is None:
        return None
    owner, row = view.locate(keyspace.one(view.table.codec.scalar(name)))
    return None if owner[0] < 0 else Meta(view.rows(owner, row, view.table.schema.arrow).to_pylist()[0])


def _every(view: View) -> Iterator[Meta]:
    """All arrays in the table of names."""
    for window in view.windows():
        if len(window):
            yield from map(Meta, window.gather(view.table.schema.names).to_pylist())


def _unchanged(meta: Meta, now: Meta | None) -> Meta:
    """The array as it is now, where it is still the one of a handle."""
    if now is None or (now.id, now.shape) != (meta.id, meta.shape):
        what = "deleted" if now is None else "replaced" if now.id != meta.id else f"resized to {now.shape}"
        raise ConflictError(f"tensor {meta.name!r} was {what} since this handle was opened; take it again: db.tensors[{meta.name!r}]")
    return now


__all__ = ["SYSTEM", "NamedTensor", "Store", "Tensors", "optimal_chunks"]
