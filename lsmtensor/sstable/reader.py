"""Reading a table file over its map. Nothing in it is trusted: a chunk is checked when first touched."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ..arrowtake import take_array, take_table
from ..cache import Cache
from ..env.base import Env
from ..env.checksum import crc32c
from ..errors import CorruptionError, FormatVersionError
from ..merkle import HASHES, inclusion_path, leaf_hash, leaf_hash_of, merkle_root
from ..metrics import looked_up
from . import filters, outside
from .checks import Checks
from .coded import Coded, Groups, encode, plain_schema
from .format import FORMAT, MAGIC, TRAILER, key_value, place
from .lower import equal, lower
from .outside import Fetch
from .ranges import Column, byte_ranges, fixed_width, has_offsets, storage_of
from .zones import Pruner

MAX_BATCHES = 1 << 20


class TableReader:
    """An open table file: immutable, shared between threads. ``fetch`` gets the values that lie in blob files; without it reading one is an error."""

    def __init__(self, env: Env, path: str, number: int, cache: Cache | None = None, fetch: Fetch | None = None) -> None:
        self.path, self.number, self._cache, self._fetch = path, number, cache or Cache(0), fetch
        self.metrics = env.metrics
        self.file = env.open(path, kind="table")
        self._map = self.file.map()
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.base = self._bytes.ctypes.data
        self._sections()
        self._batches: list[pa.RecordBatch | None] = [None] * len(self._blocks)
        self._columns: dict[tuple[int, str], Column] = {}
        self._pruner: Pruner | None = None

    # -- opening ---------------------------------------------------------------------------------

    def _bad(self, what: str, offset: int = 0) -> CorruptionError:
        return CorruptionError(f"{what}; `lsmtensor repair` salvages what verifies", self.path, offset)

    def _sections(self) -> None:
        data, size = self._map, len(self._map)
        if size < TRAILER.size + 10 or bytes(data[size - 6 :]) != b"ARROW1":
            raise self._bad("the file does not end as a table file", max(0, size - 6))
        footer_length = int.from_bytes(data[size - 10 : size - 6], "little")
        at = size - 10 - footer_length - TRAILER.size
        if at < 0:
            raise self._bad("the footer is longer than the file", size - 10)
        trailer = bytes(data[at : at + TRAILER.size])
        if int.from_bytes(trailer[-8:-4], "little") != crc32c(trailer[:-8]) or any(trailer[-4:]):
            raise self._bad("the trailer is damaged", at)
        magic, form, length, offset, crc, footer_size, footer_crc, self._chunks_end, number, _ = TRAILER.unpack(trailer)
        if magic != MAGIC:
            raise self._bad("this is no table file of ours", at)
        if form > FORMAT:
            raise FormatVersionError(f"{self.path} has table format {form}; this lsmtensor reads up to {FORMAT}: upgrade it")
        if number != self.number:
            raise self._bad(f"this is file {number}, not {self.number}", at)
        self._tail = data[at:]
        footer = data[at + TRAILER.size : at + TRAILER.size + footer_length]
        if footer_size != footer_length or crc32c(footer) != footer_crc:
            raise self._bad("Arrow's footer is damaged", at + TRAILER.size)
        if offset + length > at or any(data[offset + length : at]):
            raise self._bad("the directory of sections is damaged", offset)
        self._directory = data[offset : offset + length]
        if crc32c(self._directory) != crc:
            raise self._bad("the directory of sections is damaged", offset)
        try:
            self._read_sections(json.loads(bytes(self._directory)), offset)
        except (ValueError, KeyError, TypeError, IndexError) as why:
            raise self._bad(f"a section does not parse ({why!r})", offset) from why

    @cached_property
    def _stored_schema(self) -> pa.Schema:
        """The columns in the file, as Arrow's footer says: the front of a new file is not in the page cache."""
        try:
            return pa.ipc.open_file(pa.py_buffer(self._tail)).schema
        except (pa.ArrowException, ValueError, KeyError, TypeError) as why:
            raise self._bad(f"the schema does not parse ({why})") from why

    @cached_property
    def schema(self) -> pa.Schema:
        """The physical columns, decoded."""
        return plain_schema(self._stored_schema)

    def coded(self, name: str) -> bool:
        """Whether a column is under a codec, or outside: no view of it is to be had."""
        return isinstance(self._stored_schema.field(name).type, Coded)

    def outside(self, name: str) -> bool:
        """Whether the large values of a column lie in blob files."""
        kind = self._stored_schema.field(name).type
        return isinstance(kind, Coded) and kind.outside

    def references(self, i: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What `outside.references` says of a column of a batch, checked; nothing of one that has no values outside."""
        return outside.references(self._whole(i, name)) if self.outside(name) else outside.NOTHING

    def stored(self, i: int, name: str, kind: Coded, start: int = 0, stop: int | None = None) -> pa.Array:
        """The same as `column`, encoded as ``kind``; what lies in blob files stays there where it was encoded so."""
        have = self._stored_schema.field(name).type
        if not (self.outside(name) and have.field.type == kind.field.type and have.codec == kind.codec):
            return encode(self.column(i, name, start, stop), kind)
        return pa.ExtensionArray.from_storage(kind, self._whole(i, name).storage.slice(start, None if stop is None else stop - start))

    def _whole(self, i: int, name: str) -> pa.Array:
        for at, end in self._column(i, name).others:
            self._check(at, end)
        return self._column(i, name).array

    def _first_offset(self) -> int:
        return self._blocks[0]["offset"] if self._blocks else self._chunks_end

    def _read_sections(self, directory: list[dict[str, Any]], end: int) -> None:
        found: dict[str, memoryview] = {}
        parameters: dict[str, Any] = {}
        at = self._chunks_end
        for entry in directory:
            start, size = int(entry["offset"]), int(entry["size"])
            if start < at or size < 0 or start + size > end or any(self._map[at:start]):
                raise self._bad(f"section {entry['name']!r} lies outside the file", start)
            view = self._map[start : start + size]
            if crc32c(view, crc32c(place(self.number, start))) != entry["crc"]:
                raise self._bad(f"section {entry['name']!r} is damaged", start)
            if entry["must"] and entry["name"] not in ("meta", "blocks", "crcs", "leaves", "blobs"):
                raise FormatVersionError(f"{self.path} has a section {entry['name']!r} that this lsmtensor must understand: upgrade it")
            found[entry["name"]] = view
            parameters = entry.get("parameters", parameters)
            at = start + size
        if at != end:
            raise self._bad("bytes between the sections and their directory", at)
        self.meta: dict[str, Any] = json.loads(bytes(found["meta"]))
        self._blocks: list[dict[str, Any]] = json.loads(bytes(found["blocks"]))
        self._chunk = int(self.meta["chunk_bytes"])
        self._kind = str(self.meta["hash"])
        if self._chunk < 4096 or self._kind not in HASHES or len(self._blocks) > MAX_BATCHES:
            raise self._bad("the file's settings make no sense", end)
        crcs = np.frombuffer(found["crcs"], "<u4")
        chunks = -(-self._chunks_end // self._chunk)
        if len(crcs) != chunks or len(found["leaves"]) != (0 if self._kind == "none" else 32 * chunks):
            raise self._bad("as many checksums as chunks are wanted", end)
        self._leaves = found["leaves"]
        self._checks = Checks(self._bytes, crcs, self._chunk, self._chunks_end, self.number, self.path)
        self._check = self._checks.check
        self.blobs = tuple((int(file), int(n), int(size)) for file, (n, size) in json.loads(bytes(found.get("blobs", b"{}"))).items())
        self._filter = (parameters, np.frombuffer(found["filter"], np.uint8)) if "filter" in found else None
        self._first = [key_value(b["first"]) for b in self._blocks]
        self._last = [key_value(b["last"]) for b in self._blocks]
        self.batch_starts = np.cumsum([0] + [int(b["rows"]) for b in self._blocks])
        self.rows = int(self.batch_starts[-1])
        for b in self._blocks:
            if not 0 <= b["offset"] <= b["offset"] + b["metadata"] + b["body"] <= self._chunks_end or b["rows"] < 1:
                raise self._bad("a block lies outside the file", b["offset"])

    # -- chunks ----------------------------------------------------------------------------------

    def private(self, view: np.ndarray) -> np.ndarray:
        """uint8 (n,): the bytes of a view of the map, mapped again copy-on-write; writing to it changes nothing else."""
        return np.frombuffer(self.file.private(view.ctypes.data - self.base, len(view)), np.uint8)

    def _checked(self, start: int, end: int) -> memoryview:
        self._check(start, end)
        return self._map[start:end]

    # -- batches ---------------------------------------------------------------------------------

    @property
    def num_batches(self) -> int:
        return len(self._blocks)

    @property
    def filter(self) -> tuple[dict[str, Any], np.ndarray] | None:
        """(parameters, bits) of the key filter."""
        return self._filter

    @property
    def key_ranges(self) -> tuple[list[Any], list[Any]]:
        """The first and the last key of each batch."""
        return self._first, self._last

    def first_key(self, i: int) -> int | bytes:
        return self._first[i]

    def last_key(self, i: int) -> int | bytes:
        return self._last[i]

    def _batch(self, i: int) -> pa.RecordBatch:
        """The batch over the map, its columns not yet checked."""
        batch = self._batches[i]
        if batch is None:
            b = self._blocks[i]
            body = b["offset"] + b["metadata"]
            self._check(b["offset"], body)
            message = pa.py_buffer(self._map[b["offset"] : body + b["body"]])
            try:
                batch = pa.ipc.read_record_batch(pa.ipc.read_message(message), self._stored_schema)
            except (pa.ArrowException, OSError) as why:
                raise self._bad(f"batch {i} does not parse ({why})", b["offset"]) from why
            if batch.num_rows != b["rows"]:
                raise self._bad(f"batch {i} has {batch.num_rows} rows, its block says {b['rows']}", b["offset"])
            self._batches[i] = batch
        return batch

    def _column(self, i: int, name: str) -> Column:
        column = self._columns.get((i, name))
        if column is None:
            array = self._batch(i).column(name)
            buffers, width, at = storage_of(array).buffers(), fixed_width(array), 0
            if width is not None:
                at = buffers.pop().address - self.base
            others = [(b.address - self.base, b.address - self.base + b.size) for b in buffers if b is not None and b.size]
            column = self._columns[i, name] = Column(array, width, at, others, self._groups(i, array))
        return column

    def _groups(self, i: int, array: pa.Array) -> Groups | None:
        if not isinstance(array.type, Coded):
            return None
        offsets = array.storage.buffers()[1]
        self._check(offsets.address - self.base, offsets.address - self.base + offsets.size)
        try:
            return Groups(array)
        except CorruptionError as why:
            raise self._bad(str(why), self._blocks[i]["offset"]) from why

    def _group(self, i: int, name: str, group: int, *, check: bool = True, keep: bool = False) -> pa.Array:
        """The decoded rows of a group of a coded column; those kept are not decoded again, and ``keep`` keeps them."""
        key = (self.number, i, name, group)
        known = self._cache.get(key)
        if known is None:
            groups = self._column(i, name).groups
            assert groups is not None
            low, high = groups.span(group)
            at = groups.data.ctypes.data - self.base
            if check and not self._checks.whole:
                self._check(at + low, at + high)
            try:
                known = groups.decode(group, self._fetch)
            except CorruptionError as why:
                raise why if why.path else self._bad(str(why), at + low) from why
            if keep and not groups.kind.outside:  # a view of a blob file would keep all of it
                self._cache.put(key, known, known.nbytes)
        return known

    def column(self, i: int, name: str, start: int = 0, stop: int | None = None, check: bool = True) -> pa.Array:
        """Rows [start, stop) of one column of one batch, every chunk under them checked; a view of the map."""
        column = self._column(i, name)
        array = column.array
        stop = len(array) if stop is None else stop
        if column.groups is not None:
            return column.groups.rows(start, stop, lambda g: self._group(i, name, g, check=check))
        if check and not self._checks.whole:
            if stop - start < len(array) and pa.types.is_large_binary(array.type) and array.null_count == 0:
                self._check_values(array, start, stop)
            else:
                for at, end in column.ranges(start, stop):
                    self._check(at, end)
        return array if stop - start == len(array) else array.slice(start, stop - start)

    def _check_values(self, array: pa.Array, start: int, stop: int) -> None:
        """The offsets, and of the bytes only those of rows [start, stop): values may be megabytes each."""
        validity, offsets, data = array.buffers()
        for buffer in (validity, offsets):
            if buffer is not None and buffer.size:
                at = buffer.address - self.base
                self._check(at, at + buffer.size)
        ends = np.frombuffer(offsets, np.int64)
        if data is not None and stop > start:
            low, high = int(ends[start]), int(ends[stop])
            if not 0 <= low <= high <= data.size:
                raise self._bad("offsets of a column lie outside its bytes", offsets.address - self.base)
            at = data.address - self.base
            self._check(at + low, at + high)

    def unchecked(self, i: int, name: str) -> pa.Array:
        """A column of a batch of whose buffers only validity and offsets were checked; who looks at a value checks it (`guard`)."""
        array = self._column(i, name).array
        for buffer in storage_of(array).buffers()[: None if fixed_width(array) is None and not has_offsets(array) else -1]:
            if buffer is not None and buffer.size:
                self._check(buffer.address - self.base, buffer.address - self.base + buffer.size)
        return array

    def guard(self) -> tuple[np.ndarray, int, int, Callable[[int, int], None], str]:
        """(which chunks were found right uint8, bytes a chunk, address of the file, check of a range of it, path)."""
        return self._checks.good.view(np.uint8), self._chunk, self.base, self._check, self.path

    def checked(self, i: int, name: str, start: int, stop: int) -> bool:
        """Whether reading rows [start, stop) of a column is free: plain, and all chunks under them were found right before."""
        column = self._column(i, name)
        if column.groups is not None:
            return False
        ranges = column.ranges(start, stop)
        return self._checks.whole or all(self._checks.good[at // self._chunk : -(-end // self._chunk)].all() for at, end in ranges)

    def row_bytes(self, i: int, names: Sequence[str]) -> float:
        """Mean bytes of a row of a batch in these columns; reads nothing of them."""
        batch = self._batch(i)
        away = sum(float(self.references(i, n)[1]["size"].sum()) for n in names)
        return (away + sum(b.size for n in names for b in batch.column(n).buffers() if b is not None)) / batch.num_rows

    def keys(self, i: int) -> pa.Array:
        """The encoded keys of a batch."""
        return self._key_of(lambda name: self.column(i, name))

    def _key_of(self, column: Callable[[str], pa.Array]) -> pa.Array:
        if "_key" in self.schema.names:
            return column("_key")
        from ..keys import KeyCodec
        from ..schema import Schema

        if not hasattr(self, "_codec"):
            self._codec = KeyCodec(Schema.from_dict(self.meta["schema"]))
        name = self._codec.names[0]
        array = column(name)
        return self._codec.encode(pa.RecordBatch.from_arrays([array], schema=pa.schema([self.schema.field(name)])))

    def zones(self) -> list[dict[str, Any]]:
        """The zone map of each batch."""
        return [b["zones"] for b in self._blocks]

    def may_match(self, i: int, where: Any) -> bool:
        """Whether a filter can hold for some row of a batch, by its zone map."""
        if where is None:
            return True
        if self._pruner is None:
            self._pruner = Pruner(self.schema, self.zones())
        return i in self._pruner.survivors(where)

    # -- by key ----------------------------------------------------------------------------------

    def find(self, keys: pa.Array, snapshot: int) -> np.ndarray:
        """Rows, int64 (q,), of the newest version of each key with ``_seq <= snapshot``, deletes included; -1 where none."""
        rows = np.full(len(keys), -1, np.int64)
        wanted = np.arange(len(keys))
        if self._filter is not None:
            wanted = np.flatnonzero(filters.test(self._filter[0], self._filter[1], filters.hashes(keys)))
        if len(wanted):
            plain = (keys if len(wanted) == len(keys) else keys.take(pa.array(wanted))).to_pylist()
            starts = np.fromiter((bisect.bisect_left(self._last, key) for key in plain), np.int64, len(plain))
            for i in np.unique(starts).tolist():
                if i < self.num_batches:
                    self._find_in(i, keys, wanted[starts == i], snapshot, rows)
        looked_up(self.metrics, self._filter is not None, len(keys), len(wanted), int(np.count_nonzero(rows >= 0)))
        return rows

    def _find_in(self, i: int, keys: pa.Array, mine: np.ndarray, snapshot: int, rows: np.ndarray) -> None:
        while len(mine) and i < self.num_batches:
            here = self.keys(i)
            seqs = self.column(i, "_seq").to_numpy()
            sought = keys.take(pa.array(mine))
            position, same = lower(here, sought)
            while True:
                # step over versions that the snapshot does not see yet; they are few
                later = same & (seqs[np.minimum(position, len(seqs) - 1)] > snapshot)
                if not later.any():
                    break
                position = position + later
                same &= ~later | equal(here, position, sought)
            rows[mine[same]] = self.batch_starts[i] + position[same]
            i += 1
            if i >= self.num_batches:
                return
            # versions of one key may go on in the next batch
            first = self._first[i]
            mine = mine[~same]
            mine = mine[[key == first for key in keys.take(pa.array(mine)).to_pylist()]] if len(mine) else mine

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        """Rows by number, in the order asked; only the chunks that they touch are checked."""
        if len(self._blocks) == 1:
            return self._take(0, rows, names)
        if not len(rows):
            return self.schema.empty_table().select(list(names))
        owner = np.searchsorted(self.batch_starts, rows, "right") - 1
        if (owner == owner[0]).all():
            return self._take(int(owner[0]), rows - self.batch_starts[owner[0]], names)
        parts, places = [], []
        for i in np.unique(owner).tolist():
            places.append(np.flatnonzero(owner == i))
            parts.append(self._take(i, rows[places[-1]] - self.batch_starts[i], names))
        back = np.empty(len(rows), np.int64)
        back[np.concatenate(places)] = np.arange(len(rows))
        return take_table(pa.concat_tables(parts), back)

    def _take(self, i: int, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        arrays = []
        for name, column in ((name, self._column(i, name)) for name in names):
            if column.groups is not None:
                arrays.append(column.groups.take(rows, lambda g, name=name: self._group(i, name, g, keep=True)))  # type: ignore[misc]
                continue
            if not self._checks.whole:
                self._check_rows(column, rows)
            arrays.append(take_array(column.array, rows))
        return pa.Table.from_arrays(arrays, schema=pa.schema([self.schema.field(n) for n in names]))

    def _check_rows(self, column: Column, rows: np.ndarray) -> None:
        if len(rows) < 64 and pa.types.is_large_binary(column.array.type) and column.array.null_count == 0:
            for row in rows.tolist():
                self._check_values(column.array, row, row + 1)
            return
        for at, end in column.others:
            self._check(at, end)
        if column.width:
            self._checks.check_rows(column.at, column.width, len(column.array), rows)

    def about(self) -> dict[str, Any]:
        """The settings that the file was written with."""
        used = None if self._filter is None else {**self._filter[0], "bytes": self._filter[1].nbytes}
        return {"meta": self.meta, "chunk_bytes": self._chunk, "chunks": len(self._checks.good), "hash": self._kind, "filter": used,
                "codecs": {f.name: f.type.told for f in self._stored_schema if isinstance(f.type, Coded)}}  # fmt: skip

    # -- whole -----------------------------------------------------------------------------------

    def identity(self) -> tuple[int, str]:
        """(bytes, root of the stored hash tree in hex, empty without one). O(chunks), the chunks are not read."""
        return len(self._map), merkle_root(self.leaves(), self._kind).hex() if self._kind != "none" else ""

    def check_is(self, size: int, root: str) -> None:
        """Whether this is the file that the layout means, by its identity."""
        has, made = self.identity()
        if has != size or made != root:
            raise self._bad("size or hash-tree root is not as in the layout: this is the file of another database or time", min(size, has))

    def leaves(self) -> list[bytes]:
        """The stored leaf hashes, and the one of the directory last."""
        return [bytes(self._leaves[i : i + 32]) for i in range(0, len(self._leaves), 32)] + [leaf_hash(self._directory, self._kind)]

    def verify(self, root: str, step: Callable[[int], None] | None = None) -> int:
        """Check every byte against the checksums and the hash tree; returns how many. ``step`` gets the bytes of each chunk. O(bytes)."""
        size, fetch = len(self._map), outside.proved(self._fetch)
        self._checks.forget()
        leaves = []
        for at in range(0, self._chunks_end, self._chunk):
            end = min(at + self._chunk, self._chunks_end)
            self._check(at, end)
            if self._kind != "none":
                leaves.append(self._leaf(at, self._map[at:end]))
                if leaves[-1] != bytes(self._leaves[len(leaves) * 32 - 32 : len(leaves) * 32]):
                    raise self._bad(f"chunk {len(leaves) - 1} differs from its leaf in the hash tree", at)
            if step is not None:
                step(end - at)
        if self._kind != "none":
            leaves.append(leaf_hash(self._directory, self._kind))
            if merkle_root(leaves, self._kind).hex() != root:
                raise self._bad("the root of the hash tree is not the one in the layout")
        for i in range(self.num_batches):
            try:
                self._batch(i).validate(full=True)
                for groups in filter(None, (self._column(i, name).groups for name in self.schema.names)):
                    groups.validate(fetch)
            except (pa.ArrowException, CorruptionError) as why:
                raise why if getattr(why, "path", "") else self._bad(f"batch {i} is not valid ({why})", self._blocks[i]["offset"]) from why
        return size

    def _leaf(self, at: int, data: memoryview) -> bytes:
        return leaf_hash_of(place(self.number, at), [data], self._kind)

    def chunks_of(self, row: int) -> dict[str, Any]:
        """What proves a row: the batch's framed message with the chunks it lies in, and their paths to the root."""
        i = int(np.searchsorted(self.batch_starts, row, "right")) - 1
        b = self._blocks[i]
        ranges = {*range(0, -(-self._first_offset() // self._chunk))}
        ranges |= {*range(b["offset"] // self._chunk, -(-(b["offset"] + b["metadata"]) // self._chunk))}
        batch = self._batch(i)
        local = row - int(self.batch_starts[i])
        for name in batch.schema.names:
            self._column(i, name)  # the offsets of groups are checked before they are followed
        for column in batch.columns:
            for start, end in byte_ranges(column, local, local + 1, self.base):
                ranges |= {*range(start // self._chunk, -(-end // self._chunk))}
        leaves = self.leaves()
        chunks = []
        for c in sorted(ranges):
            at = c * self._chunk
            self._check(at, min(at + self._chunk, self._chunks_end))
            data = bytes(self._map[at : min(at + self._chunk, self._chunks_end)])
            chunks.append({"index": c, "data": data, "path": inclusion_path(leaves, c, self._kind)})
        return {
            "file": self.number, "count": len(leaves), "chunk_bytes": self._chunk, "hash": self._kind, "row": local,
            "offset": b["offset"], "metadata": b["metadata"], "body": b["body"], "schema_end": self._first_offset(), "chunks": chunks,
        }  # fmt: skip
