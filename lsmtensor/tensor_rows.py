"""How named arrays lie in the tree: rows of two system tables, the grid of chunks, chunks to batches and back."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from . import codecs
from .dtypes import dtype_name, numpy_dtype
from .errors import CorruptionError, InvalidArgumentError, SchemaError
from .lsm import keyspace
from .lsm.source import RunSource
from .lsm.state import View
from .lsm.tree import Write
from .schema import Column, Schema
from .table import physical_batch
from .tensor_args import fitting

NAMES, CHUNKS = "_tensors", "_chunks"
SLAB_BYTES = 1 << 20
RECENT_BYTES = 16 << 20  # of chunks that a handle keeps as it read them
JOIN_BYTES = 4 << 20  # small arrays share a batch of about so many bytes
NAMES_SCHEMA = Schema(
    [
        Column("name", pa.string()), Column("id", pa.int64()), Column("dtype", pa.string()), Column("shape", pa.list_(pa.int64())),
        Column("chunks", pa.list_(pa.int64())), Column("codec", pa.string()), Column("fill", pa.binary()), Column("attrs", pa.string()),
    ],
    primary_key="name",
)  # fmt: skip
CHUNKS_SCHEMA = Schema(
    [Column("tensor", pa.int64()), Column("chunk", pa.int64()), Column("coded", pa.bool_()), Column("data", pa.large_binary())],
    primary_key=["tensor", "chunk"],
)
SYSTEM = {NAMES: NAMES_SCHEMA, CHUNKS: CHUNKS_SCHEMA}


def default_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Slabs of axis 0 of about a MiB: whole rows, so that the array is contiguous in its chunks' order."""
    if not shape:
        return ()
    row = max(1, math.prod(shape[1:]) * itemsize)
    return (max(1, min(shape[0], SLAB_BYTES // row)), *(max(1, n) for n in shape[1:]))


def optimal_chunks(shape: Sequence[int], dtype: Any, access: str = "sequential", chunk_bytes: int = SLAB_BYTES) -> tuple[int, ...]:
    """Advice for ``chunks=``: a grid of about ``chunk_bytes`` a chunk for how the array will be read.

    ``sequential``: slabs of axis 0 (the default grid). ``time series``: long in axis 0, narrow in the others. ``spatial``: whole in
    the trailing axes, one step of axis 0. ``random``: as near to cubes as the shape allows.
    """
    sides = tuple(int(n) for n in shape)
    items = max(1, chunk_bytes // numpy_dtype(dtype_name(dtype)).itemsize)
    if not sides:
        return ()
    if access == "sequential":
        return default_chunks(sides, numpy_dtype(dtype_name(dtype)).itemsize)
    grow = {"time series": [0], "spatial": list(range(len(sides) - 1, 0, -1)), "random": []}
    if access not in grow:
        raise InvalidArgumentError(f"access={access!r}; give 'time series', 'spatial', 'sequential' or 'random'")
    made = [1] * len(sides)
    for axis in grow[access]:
        made[axis] = max(1, min(sides[axis], items // math.prod(made)))
    while math.prod(made) * 2 <= items and (small := [i for i, n in enumerate(sides) if made[i] < n]):
        axis = min(small, key=lambda i: made[i])
        made[axis] = min(sides[axis], made[axis] * 2)
    return tuple(made)


class Meta:
    """One row of ``_tensors``."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.name, self.id = str(row["name"]), int(row["id"])
        self.dtype, self.shape = dtype_name(row["dtype"]), tuple(int(n) for n in row["shape"])
        self.chunks = tuple(int(n) for n in row["chunks"])
        self.codec, self.fill, self.attrs = str(row["codec"]), bytes(row["fill"]), dict(json.loads(row["attrs"]))
        if len(self.chunks) != len(self.shape) or any(c < 1 for c in self.chunks) or any(n < 0 for n in self.shape):
            raise CorruptionError(f"tensor {self.name!r} has shape {self.shape} and chunks {self.chunks}")

    @property
    def grid(self) -> tuple[int, ...]:
        """How many chunks in each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    @property
    def count(self) -> int:
        return math.prod(self.grid)

    @property
    def itemsize(self) -> int:
        return numpy_dtype(self.dtype).itemsize

    @property
    def uses_base(self) -> bool:
        """Whether chunks are stored by what changed since an older version."""
        return codecs.create(self.codec, self.itemsize).uses_base

    def held(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a chunk; those at the far edges are cut off."""
        return tuple(min(c, n - i * c) for i, c, n in zip(index, self.chunks, self.shape, strict=True))

    def number(self, index: tuple[int, ...]) -> int:
        return int(np.ravel_multi_index(index, self.grid)) if self.grid else 0

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "id": self.id, "dtype": self.dtype, "shape": list(self.shape), "chunks": list(self.chunks),
            "codec": self.codec, "fill": self.fill, "attrs": json.dumps(self.attrs, sort_keys=True),
        }  # fmt: skip

    def with_(self, **changes: Any) -> Meta:
        return Meta({**self.row(), **changes})


class StoredChunks:
    """The chunks of one tensor at one version, as `lsmtensor.chunked.ChunkSource`."""

    def __init__(self, view: View | None, meta: Meta) -> None:
        self._view, self._meta = view, meta
        self.dtype, self.shape, self.chunks = meta.dtype, meta.shape, meta.chunks
        self._chain = codecs.create(meta.codec, meta.itemsize)
        self._place: tuple[RunSource, int] | None = None
        self._looked = False
        self._recent: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        with self._lock:
            known = self._recent.get(index)
            if known is not None:
                self._recent.move_to_end(index)
                return known
        shape = self._meta.held(index)
        data = self._bytes(self._meta.number(index), math.prod(shape) * self._meta.itemsize)
        if data is None:
            return np.broadcast_to(np.frombuffer(self._meta.fill, numpy_dtype(self.dtype)).reshape(()), shape)
        return self._keep(index, data.view(numpy_dtype(self.dtype)).reshape(shape))

    def _keep(self, index: tuple[int, ...], chunk: np.ndarray) -> np.ndarray:
        """Among the recently read: a version never changes. Chunks larger than the whole of it are not kept."""
        chunk.flags.writeable = False
        with self._lock:
            if chunk.nbytes <= RECENT_BYTES and index not in self._recent:
                self._recent[index] = chunk
                self._held += chunk.nbytes
                while self._held > RECENT_BYTES:
                    self._held -= self._recent.popitem(last=False)[1].nbytes
        return chunk

    def _bytes(self, number: int, size: int) -> np.ndarray | None:
        return None if self._view is None else stored_bytes(self._view, self._meta, self._chain, number, size)

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
        owner, row = self._view.locate(_chunk_keys(self._view, meta.id, np.arange(meta.count)))
        source = self._view.sources[int(owner[0])] if owner[0] >= 0 else None
        if not isinstance(source, RunSource) or (owner != owner[0]).any() or (np.diff(row) != 1).any():
            return None
        return (source, int(row[0])) if source.in_one_batch(int(row[0]), int(row[-1]) + 1) else None

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


def stored_bytes(view: View, meta: Meta, chain: codecs.Chain, number: int, size: int) -> np.ndarray | None:
    """uint8 (size,): the plain bytes of a chunk, a view where it is stored so; None where there is no such chunk."""
    owner, row = view.locate(_chunk_keys(view, meta.id, np.array([number])))
    if owner[0] < 0:
        return None
    source = view.sources[int(owner[0])]
    if isinstance(source, RunSource):
        # a view of the file's map, where a gather would copy
        coded, array = (source.one_batch(int(row[0]), int(row[0]) + 1, name) for name in ("coded", "data"))
    else:
        table = source.take(row, ["coded", "data"])
        coded, array = table.column("coded").chunk(0), table.column("data").chunk(0)
    data = _values(array, 0, 1)
    if coded[0].as_py():
        base = stored_bytes(view, meta, chain, base_number(number), size) if chain.uses_base and number >= 0 else None
        return chain.against(base).decode(data, size)
    if len(data) != size:
        raise CorruptionError(f"chunk {number} of tensor {meta.name!r} has {len(data)} bytes; wanted {size}")
    return data


def puts(view: View, table: int, batch: pa.RecordBatch) -> Write:
    keys = view.table.codec.encode(batch)
    return Write(table, physical_batch(view, batch, keys, 1), keys)


def tombstones(view: View, table: int, keys: pa.RecordBatch, schema: Schema) -> Write:
    columns = [keys.column(f.name) if f.name in keys.schema.names else pa.nulls(keys.num_rows, f.type) for f in schema.arrow]
    encoded = view.table.codec.encode(keys)
    whole = pa.RecordBatch.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in schema.arrow]))
    return Write(table, physical_batch(view, whole, encoded, 0), encoded)


def forget(view: View, table: int, tensor: int, numbers: Sequence[int]) -> list[Write]:
    """Deletes of those of the chunks that are there."""
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
    if slabs and codecs.create(meta.codec, meta.itemsize).plain:
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
    chain = codecs.create(meta.codec, meta.itemsize)
    if not chain.uses_base:
        return chunk_rows(view, meta, parts), []
    made: dict[int, tuple[np.ndarray, bool]] = {}
    gone = []
    for number, chunk in parts:
        plain = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
        kept = stored_bytes(view, meta, chain, base_number(number), len(plain))
        base = stored_bytes(view, meta, chain, number, len(plain)) if kept is None else kept
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
    chain = codecs.create(meta.codec, meta.itemsize)
    data, coded = [], []
    for _, chunk in parts:
        plain = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
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


def new_meta(
    name: str, shape: tuple[int, ...], dtype: str, chunks: Sequence[int] | None, codec: str | None, fill_value: Any, attrs: dict[str, Any]
) -> Meta:
    if any(n < 0 for n in shape):
        raise InvalidArgumentError(f"tensor {name!r}: shape {shape} has a side below 0")
    itemsize = numpy_dtype(dtype).itemsize
    grid = default_chunks(shape, itemsize) if chunks is None else tuple(int(c) for c in chunks)
    if len(grid) != len(shape) or any(c < 1 for c in grid):
        raise InvalidArgumentError(f"tensor {name!r}: chunks {grid} for shape {shape}; give one side of 1 or more for each dimension")
    chain = codecs.create(codec or "none", itemsize)
    fill = fitting(fill_value, dtype, f"fill_value of tensor {name!r}")
    if fill.shape:
        raise InvalidArgumentError(f"fill_value of tensor {name!r} has shape {fill.shape}; give one value")
    try:
        text = json.dumps(attrs, sort_keys=True)
    except (TypeError, ValueError) as why:
        raise InvalidArgumentError(f"attrs of tensor {name!r}: {why}; give values that JSON has") from why
    return Meta(
        {
            "name": name, "id": 0, "dtype": dtype, "shape": shape, "chunks": grid, "codec": chain.spec, "fill": fill.tobytes(), "attrs": text,
        }  # fmt: skip
    )


def successor(start: Any) -> Any:
    """The least key after all that begin with the bytes ``start``."""
    if not start:
        return None
    body = bytes(start).rstrip(b"\xff")
    return body[:-1] + bytes([body[-1] + 1]) if body else None
