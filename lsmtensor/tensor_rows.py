"""How the chunks of named arrays lie in the tree: rows of a system table, to batches and back."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from . import codecs
from .cache import Cache
from .dtypes import numpy_dtype
from .errors import CorruptionError, InvalidArgumentError, SchemaError
from .lsm import keyspace
from .lsm.commit import physical_batch
from .lsm.source import RunSource
from .lsm.state import View
from .lsm.tree import Write
from .quant.grouped import Grouped
from .schema import Schema
from .tensor_args import fitting
from .tensor_meta import CHUNKS_SCHEMA, Meta

JOIN_BYTES = 4 << 20  # small arrays share a batch of about so many bytes
_KEY = struct.Struct(">QQ")
MAX_VIEWS = 4096  # of chunks that a handle keeps at hand
_TOKENS = itertools.count()


class StoredChunks:
    """The chunks of one tensor at one version, as `lsmtensor.chunked.ChunkSource`."""

    def __init__(self, view: View | None, meta: Meta, cache: Cache | None = None) -> None:
        self._view, self._meta, self._cache = view, meta, cache or Cache(0)
        self.dtype, self.shape, self.chunks = meta.dtype, meta.shape, meta.chunks
        self._chain = meta.chain
        self._place: tuple[RunSource, int] | None = None
        self._looked = False
        self._views: dict[tuple[int, ...], np.ndarray] = {}
        self._token = next(_TOKENS)  # a version never changes, and no two sources of chunks share what is kept

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        known = self._views.get(index)
        if known is None:
            known = self._cache.get((self._token, index))
        if known is not None:
            return known
        shape = self._meta.held(index)
        size = math.prod(shape) * self._meta.itemsize
        data, mapped = (None, False) if self._view is None else stored_bytes(self._view, self._meta, self._chain, self._meta.number(index), size)
        if data is None:
            return np.broadcast_to(np.frombuffer(self._meta.fill, numpy_dtype(self.dtype)).reshape(()), shape)
        chunk = data.view(numpy_dtype(self.dtype)).reshape(shape)
        chunk.flags.writeable = False
        if mapped and len(self._views) < MAX_VIEWS:
            self._views[index] = chunk  # not in the cache: a view keeps its whole file
        elif not mapped:
            self._cache.put((self._token, index), chunk, chunk.nbytes)
        return chunk

    def there(self) -> list[int]:
        """The numbers of the chunks that have rows: the others hold the fill value."""
        return [] if self._view is None else numbers_there(self._view, self._meta.id, range(self._meta.count))

    def whole(self) -> np.ndarray | None:
        data = self.span(0, self._meta.count)
        return None if data is None else data.view(numpy_dtype(self.dtype)).reshape(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether one commit wrote all chunks back to back into one file. Looked up once; reads no values."""
        if not self._looked:
            self._place, self._looked = self._find(), True
        return self._place is not None

    def _find(self) -> tuple[RunSource, int] | None:
        meta = self._meta
        slabs = meta.chunks[1:] == tuple(max(1, n) for n in meta.shape[1:])
        if self._view is None or not slabs or not self._chain.plain or meta.count == 0:
            return None
        place = self._written_at_once(self._view)
        if place is not None:
            return place
        owner, row = self._view.locate(_chunk_keys(self._view, meta.id, np.arange(meta.count)))
        source = self._view.sources[int(owner[0])] if owner[0] >= 0 else None
        if not isinstance(source, RunSource) or (owner != owner[0]).any() or (np.diff(row) != 1).any():
            return None
        whole = source.in_one_batch(int(row[0]), int(row[-1]) + 1) and not source.is_coded(int(row[0]), "data")
        return (source, int(row[0])) if whole else None

    def _written_at_once(self, view: View) -> tuple[RunSource, int] | None:
        """The same by a look at the first chunk and the last: where one commit wrote a run and nothing newer reaches between them, as many rows
        as chunks are those chunks. None where that does not tell."""
        first, last = encoded_key(self._meta.id, 0), encoded_key(self._meta.id, self._meta.count - 1)
        for source in view.sources:
            if not isinstance(source, RunSource):
                return None
            if not source.run.overlaps(first, last):
                continue
            row = int(source.find(keyspace.one(first), view.version)[0])
            end = row + self._meta.count
            if row < 0 or source.min_seq != source.max_seq or end > source.rows or not source.in_one_batch(row, end) or source.is_coded(row, "data"):
                return None
            whole = source.one_batch(end - 1, end, "_key")[0].as_py() == last and np.asarray(source.one_batch(row, end, "_op")).all()
            return (source, row) if whole else None
        return None

    def span(self, first: int, stop: int, check: bool = True) -> np.ndarray | None:
        """uint8: the bytes of chunks [first, stop) as one view of the file's map, these checked; None where not contiguous."""
        if not self.contiguous or self._place is None:
            return None
        meta, (source, row) = self._meta, self._place
        data = _values(source.one_batch(row + first, row + stop, "data", check), 0, stop - first)
        lines = min(stop * meta.chunks[0], meta.shape[0]) - first * meta.chunks[0] if meta.shape else 1
        if len(data) != lines * math.prod(meta.shape[1:]) * meta.itemsize:
            raise CorruptionError(f"chunks {first} to {stop} of tensor {meta.name!r} have {len(data)} bytes, which is not what its grid says")
        return data

    def private(self) -> np.ndarray | None:
        """All values, checked, over a copy-on-write map made for this call; None where not contiguous."""
        data = self.span(0, self._meta.count)
        if data is None or self._place is None or len(data) == 0:
            return None
        source, row = self._place
        return source.private(row, data).view(numpy_dtype(self.dtype)).reshape(self.shape)


# -- rows of the system tables --------------------------------------------------------------------


def base_number(number: int) -> int:
    """The chunk number under which the older bytes lie that ``xor`` compares with."""
    return -1 - number


def numbers_of(meta: Meta) -> range:
    """Every chunk number that a tensor may have rows of."""
    return range(-meta.count if meta.uses_base else 0, meta.count)


def _stored_row(view: View, meta: Meta, number: int) -> tuple[np.ndarray, bool, bool] | None:
    """(the bytes of a chunk's row, whether they are coded, whether they are a view of a file); None where there is no such chunk."""
    owner, row = view.locate(_chunk_keys(view, meta.id, np.array([number])))
    if owner[0] < 0:
        return None
    source = view.sources[int(owner[0])]
    if isinstance(source, RunSource):
        # a view of the file's map, where a gather would copy
        coded, array = (source.one_batch(int(row[0]), int(row[0]) + 1, name) for name in ("coded", "data"))
        mapped = not source.is_coded(int(row[0]), "data")
    else:
        table = source.take(row, ["coded", "data"])
        coded, array, mapped = table.column("coded").chunk(0), table.column("data").chunk(0), False
    return _values(array, 0, 1), bool(coded[0].as_py()), mapped


def stored_bytes(view: View, meta: Meta, chain: codecs.Chain | Grouped, number: int, size: int) -> tuple[np.ndarray | None, bool]:
    """(uint8 (size,), the plain bytes of a chunk, or None where there is no such chunk; whether they are a view of a file)."""
    found = _stored_row(view, meta, number)
    if found is None:
        return None, False
    data, coded, mapped = found
    if coded:
        base = stored_bytes(view, meta, chain, base_number(number), size)[0] if chain.uses_base and number >= 0 else None
        return chain.against(base).decode(data, size), False
    if len(data) != size:
        raise CorruptionError(f"chunk {number} of tensor {meta.name!r} has {len(data)} bytes; wanted {size}")
    return data, mapped


def numbers_there(view: View, tensor: int, numbers: range) -> list[int]:
    """Those of the chunk numbers in a range of step 1 that have rows, rising."""
    found: list[int] = []
    if len(numbers):
        start, stop = (view.table.codec.bound((tensor, n)) for n in (numbers.start, numbers.stop))
        for window in view.windows(start, stop):
            found += window.gather(["chunk"]).column("chunk").to_pylist() if len(window) else []
    return found


def puts(view: View, table: int, batch: pa.RecordBatch) -> Write:
    keys = view.table.codec.encode(batch)
    return Write(table, physical_batch(view, batch, keys, 1), keys)


def tombstones(view: View, table: int, keys: pa.RecordBatch, schema: Schema) -> Write:
    columns = [keys.column(f.name) if f.name in keys.schema.names else pa.nulls(keys.num_rows, f.type) for f in schema.arrow]
    encoded = view.table.codec.encode(keys)
    whole = pa.RecordBatch.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in schema.arrow]))
    return Write(table, physical_batch(view, whole, encoded, 0), encoded)


def forget(view: View, table: int, tensor: int, numbers: Sequence[int]) -> list[Write]:
    """Deletes of those of the chunks that are there; a range is looked through, however wide it is. O(chunks there)."""
    if isinstance(numbers, range):
        numbers = numbers_there(view, tensor, numbers)
    if len(numbers) == 0:
        return []
    rows = _key_rows(tensor, np.asarray(numbers, np.int64))
    there = view.locate(view.table.codec.encode(rows))[0] >= 0
    return [tombstones(view, table, rows.filter(pa.array(there)), CHUNKS_SCHEMA)] if there.any() else []


def one_a_table(writes: list[Write]) -> list[Write]:
    """One write a table, by key; one that streams stays first and takes the others of its table behind it as they sort."""
    by_table: dict[int, list[Write]] = {}
    for write in writes:
        by_table.setdefault(write.table, []).append(write)
    made = []
    for table, group in by_table.items():
        streams = [w for w in group if w.more is not None]
        if len(group) == 1:
            made.append(group[0])
        elif streams:
            # ids rise: deletes are of older tensors, whose keys come before those written now
            (stream,) = streams
            rest = _joined(table, [w for w in group if w.more is None])
            made.append(Write(table, rest.batch, rest.keys, itertools.chain([(stream.batch, stream.keys)], stream.more or ())))
        else:
            made.append(_joined(table, group))
    return made


def _joined(table: int, group: list[Write]) -> Write:
    schema = group[0].batch.schema
    fields = [f.with_nullable(any(w.batch.schema.field(f.name).nullable for w in group)) for f in schema]
    parts = [pa.Table.from_batches([w.batch]).cast(pa.schema(fields)) for w in group]
    batch = pa.concat_tables(parts).combine_chunks().to_batches()[0]
    keys = keyspace.concat([w.keys for w in group])
    order = pa.array(keyspace.order(keys))
    return Write(table, batch.take(order), keys.take(order))


def write_of(table: int, batches: Iterator[tuple[pa.RecordBatch, pa.Array]], limit: int) -> list[Write]:
    """One write: of all the batches joined where they are small together, else a stream of them."""
    held: list[tuple[pa.RecordBatch, pa.Array]] = []
    size = 0
    for pair in batches:
        held.append(pair)
        size += pair[0].nbytes
        if size > limit:
            rest = _coalesced(itertools.chain(held, batches))
            return [Write(table, *next(rest), more=rest)]
    return [Write(table, *_concatenated(held))] if held else []


def _coalesced(batches: Iterator[tuple[pa.RecordBatch, pa.Array]]) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Neighbours that are small become one batch; large ones pass, over the caller's bytes."""
    held: list[tuple[pa.RecordBatch, pa.Array]] = []
    size = 0
    for pair in batches:
        if held and size + pair[0].nbytes > JOIN_BYTES:
            yield _concatenated(held)
            held, size = [], 0
        held.append(pair)
        size += pair[0].nbytes
    if held:
        yield _concatenated(held)


def _concatenated(pairs: list[tuple[pa.RecordBatch, pa.Array]]) -> tuple[pa.RecordBatch, pa.Array]:
    if len(pairs) == 1:
        return pairs[0]
    return pa.concat_batches([b for b, _ in pairs]), pa.concat_arrays([k for _, k in pairs])


def _key_rows(tensor: int, numbers: np.ndarray) -> pa.RecordBatch:
    columns = [pa.array(np.full(len(numbers), tensor, np.int64)), pa.array(numbers)]
    schema = pa.schema([CHUNKS_SCHEMA.arrow.field(n) for n in ("tensor", "chunk")])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def encoded_key(tensor: int, chunk: int) -> bytes:
    """What the table's `KeyCodec` makes of (tensor, chunk), without Arrow."""
    return _KEY.pack(tensor + 2**63, chunk + 2**63)


def _chunk_keys(view: View, tensor: int, numbers: np.ndarray) -> pa.Array:
    return view.table.codec.encode(_key_rows(tensor, numbers))


def chunk_batches(view: View, meta: Meta, data: Any) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """The chunks of a whole array as sorted batches: one over the array's own bytes where the grid allows."""
    if isinstance(data, Iterator) or not (hasattr(data, "__array__") or isinstance(data, (list, tuple, int, float, complex, bool))):
        yield from _slab_batches(view, meta, iter(data))
        return
    block = fitting(data, meta.dtype, f"tensor {meta.name!r}")
    if block.shape != meta.shape:
        raise SchemaError(f"tensor {meta.name!r}: data of shape {block.shape}; wanted {meta.shape}")
    slabs = meta.chunks[1:] == tuple(max(1, n) for n in meta.shape[1:])
    if meta.count == 0:
        return
    if slabs and meta.chain.plain:
        flat = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        step = math.prod(meta.chunks) * meta.itemsize
        yield _rows_over(view, meta, np.arange(meta.count), np.minimum(np.arange(meta.count + 1) * step, len(flat)), flat)
        return
    numbered = iter(parts_of(meta, block))
    while part := list(itertools.islice(numbered, 64)):
        yield chunk_rows(view, meta, part)


def parts_of(meta: Meta, block: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(number, values) of every chunk of a whole array; views."""
    grid = itertools.product(*(range(g) for g in meta.grid))
    boxes = (tuple(slice(i * c, i * c + h) for i, c, h in zip(index, meta.chunks, meta.held(index), strict=True)) for index in grid)
    return [(number, block[box]) for number, box in enumerate(boxes)]


def _slab_batches(view: View, meta: Meta, slabs: Iterator[Any]) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """From an iterator of blocks along axis 0, never more of them in memory than one slab of chunks needs."""
    if not meta.shape:
        raise InvalidArgumentError(f"tensor {meta.name!r} has no axis 0 to be written slab by slab; give its value")
    held: list[np.ndarray] = []
    rows = done = 0
    per_slab = math.prod(meta.grid[1:])

    def cut(wanted: int) -> np.ndarray:
        nonlocal held, rows
        block = np.concatenate(held) if len(held) > 1 else held[0]
        held, rows = ([block[wanted:]] if len(block) > wanted else []), rows - wanted
        return block[:wanted]

    for given in itertools.chain(slabs, [None]):
        if given is not None:
            block = fitting(given, meta.dtype, f"tensor {meta.name!r}")
            if block.shape[1:] != meta.shape[1:]:
                raise SchemaError(f"tensor {meta.name!r}: a slab of shape {block.shape}; wanted (n, {', '.join(map(str, meta.shape[1:]))})")
            held, rows = [*held, block], rows + len(block)
        while rows and (rows >= meta.chunks[0] or given is None):
            slab = cut(min(meta.chunks[0], rows))
            if done + len(slab) > meta.shape[0]:
                raise SchemaError(f"tensor {meta.name!r}: more than the {meta.shape[0]} rows of its shape came")
            first = done // meta.chunks[0] * per_slab
            chunks = []
            for number, index in enumerate(itertools.product(*(range(g) for g in meta.grid[1:])), first):
                box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, meta.chunks[1:], strict=True))
                chunks.append((number, slab[(slice(None), *box)]))
            done += len(slab)
            yield chunk_rows(view, meta, chunks)
    if done != meta.shape[0]:
        raise SchemaError(f"tensor {meta.name!r}: {done} rows came; its shape wants {meta.shape[0]}")


def changed_rows(view: View, meta: Meta, parts: list[tuple[int, np.ndarray]]) -> tuple[tuple[pa.RecordBatch, pa.Array], list[int]]:
    """Rows of chunks that take the place of older ones, and the numbers of rows that are wanted no more.

    A codec with ``xor`` keeps one older version of a chunk as its base: the one before the first change, until what is written differs
    so much that a base gains under 10%. Reading a chunk so needs one other at most, however many versions there are.
    """
    chain = meta.chain
    if not chain.uses_base:
        return chunk_rows(view, meta, parts), []
    made: dict[int, tuple[np.ndarray, bool]] = {}
    gone = []
    for number, chunk in parts:
        plain = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
        kept = stored_bytes(view, meta, chain, base_number(number), len(plain))[0]
        base = stored_bytes(view, meta, chain, number, len(plain))[0] if kept is None else kept
        alone = chain.encode(plain)
        near = None if base is None else chain.against(base).encode(plain)
        if base is not None and near is not None and len(near) < 0.9 * len(plain if alone is None else alone):
            made[number] = near, True
            if kept is None:
                coded = chain.encode(base)
                made[base_number(number)] = (base, False) if coded is None else (coded, True)
        else:
            made[number] = (plain, False) if alone is None else (alone, True)
            if kept is not None:
                gone.append(base_number(number))
    numbers = sorted(made)
    data = [made[n][0] for n in numbers]
    offsets = np.cumsum([0, *map(len, data)])
    return _rows_over(view, meta, np.array(numbers), offsets, np.concatenate(data), [made[n][1] for n in numbers]), gone


def chunk_rows(view: View, meta: Meta, parts: list[tuple[int, np.ndarray]]) -> tuple[pa.RecordBatch, pa.Array]:
    chain = meta.chain
    data, coded = [], []
    for number, chunk in parts:
        plain = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
        if isinstance(chain, Grouped):
            before = _stored_row(view, meta, number)
            small: np.ndarray | None = chain.encode(plain, None if before is None else before[0])
        else:
            small = chain.encode(plain)
        data.append(plain if small is None else small)
        coded.append(small is not None)
    offsets = np.cumsum([0, *map(len, data)])
    return _rows_over(view, meta, np.array([n for n, _ in parts]), offsets, np.concatenate(data) if data else np.empty(0, np.uint8), coded)


def _rows_over(
    view: View, meta: Meta, numbers: np.ndarray, offsets: np.ndarray, data: np.ndarray, coded: Sequence[bool] | None = None
) -> tuple[pa.RecordBatch, pa.Array]:
    """A batch of chunk rows whose bytes are slices of one buffer; no copy."""
    n = len(numbers)
    values = pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(data)])
    keys = _key_rows(meta.id, numbers.astype(np.int64))
    flags = pa.array(np.zeros(n, bool) if coded is None else np.asarray(coded, bool))
    batch = pa.RecordBatch.from_arrays([*keys.columns, flags, values], schema=CHUNKS_SCHEMA.arrow)
    encoded = view.table.codec.encode(keys)
    return physical_batch(view, batch, encoded, 1), encoded


def _values(array: pa.Array, start: int, stop: int) -> np.ndarray:
    """The bytes of rows [start, stop) of a large_binary array, back to back; a read-only view."""
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset + start : array.offset + stop + 1]
    if data is None:
        return np.empty(0, np.uint8)
    view = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    view.flags.writeable = False
    return view


def successor(start: Any) -> Any:
    """The least key after all that begin with the bytes ``start``."""
    if not start:
        return None
    body = bytes(start).rstrip(b"\xff")
    return body[:-1] + bytes([body[-1] + 1]) if body else None
