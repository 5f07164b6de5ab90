"""Writing a table file in one pass: rows stream through, checksums and hashes are taken as they pass."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..config import SSTableConfig
from ..env.base import Env, cores
from ..env.checksum import crc32c
from ..errors import InvalidArgumentError, UnknownNameError
from ..merkle import HASHES, leaf_hash, leaf_hash_of, merkle_root
from ..registry import near
from . import filters, ipc, outside
from .coded import Chain, encode_batch, stored_schema
from .format import FORMAT, MAGIC, TRAILER, key_json, place
from .meta import TableMeta
from .zones import zone_map

PIECE_BYTES = 1 << 20
HASH_CHUNKS = 16  # chunks a helper hashes at once: enough that handing them over costs nothing


class _Chunks:
    """CRC32C and leaf hash of every ``size`` bytes of what is written, taken in place.

    The hashes are the dearer half: where there is a second core a helper takes them.
    """

    def __init__(self, number: int, size: int, kind: str) -> None:
        self._number, self._size, self._kind = number, size, kind
        self.crcs: list[int] = []
        self.leaves: list[bytes] = []
        self.at = 0
        self._full: list[tuple[bytes, list[np.ndarray]]] = []
        self._hashed: deque[Future[list[bytes]]] = deque()
        self._helper = ThreadPoolExecutor(1, "lsmtensor-hash") if kind != "none" and cores() > 1 else None
        self._begin()

    def _begin(self) -> None:
        self._filled = 0
        self._place = place(self._number, self.at)
        self._views: list[np.ndarray] = []
        self._crc = crc32c(self._place)

    def update(self, buffer: Any) -> None:
        data = np.frombuffer(buffer, np.uint8)
        at = self._part(data[: -self._filled % self._size])
        whole = (len(data) - at) // self._size * self._size
        if whole:
            crcs: Any = kernels.storage().crc32c_chunks
            self.crcs += crcs(data[at : at + whole], self._size, self._number, self.at).tolist()
            for start in range(at, at + whole, self._size):
                here = place(self._number, self.at)
                self._full.append((here, [data[start : start + self._size]]))
                self.at += self._size
            at += whole
            self._begin()
        self._part(data[at:])
        self._hash()

    def _part(self, data: np.ndarray) -> int:
        """Bytes that go on with a chunk, at most to its end; returns how many."""
        if len(data):
            self._crc = crc32c(data, self._crc)
            self._views.append(data)
            self._filled += len(data)
            self.at += len(data)
            if self._filled == self._size:
                self.crcs.append(self._crc)
                self._full.append((self._place, self._views))
                self._begin()
        return len(data)

    def _hash(self) -> None:
        if self._kind == "none" or not self._full:
            self._full.clear()
        elif self._helper is None:
            self.leaves += _leaves(self._full, self._kind)
        elif len(self._full) >= HASH_CHUNKS:
            self._hashed.append(self._helper.submit(_leaves, self._full, self._kind))
        else:
            return
        self._full = []

    def finish(self) -> None:
        if self._filled:
            self.crcs.append(self._crc)
            self._full.append((self._place, self._views))
        for done in self._hashed:
            self.leaves += done.result()
        if self._kind != "none":
            self.leaves += _leaves(self._full, self._kind)
        self.close()

    def close(self) -> None:
        if self._helper is not None:
            self._helper.shutdown(cancel_futures=True)


def _leaves(chunks: list[tuple[bytes, list[np.ndarray]]], kind: str) -> list[bytes]:
    return [leaf_hash_of(here, views, kind) for here, views in chunks]


def write_table(env: Env, path: str, number: int, pairs: Iterable[tuple[pa.RecordBatch, pa.Array]], **settings: Any) -> TableMeta:
    """Write (physical batch, keys) pairs, sorted, to a new synced file; ``settings`` are those of `TableWriter`. O(bytes), one pass.

    The caller syncs the folder. On failure the file is removed and the error goes on.
    """
    with TableWriter(env, path, number, **settings) as writer:
        for batch, keys in pairs:
            writer.add(batch, keys)
        return writer.finish()


class TableWriter:
    """A table file that is being written, a batch at a time. A context manager: left without `finish`, the file is removed.

    ``codecs`` are the chains of the columns that are not stored plain.
    """

    def __init__(
        self, env: Env, path: str, number: int, *, schema: pa.Schema, key_kind: str, config: SSTableConfig, cause: str, meta: dict[str, Any],
        codecs: dict[str, Chain] | None = None,
    ) -> None:  # fmt: skip
        if config.hash not in HASHES:
            raise UnknownNameError(f"no hash named {config.hash!r}; {near(config.hash, HASHES)}")
        if config.chunk_bytes < 4096 or config.chunk_bytes % 4096:
            raise InvalidArgumentError(f"sstable.chunk_bytes={config.chunk_bytes}; give a multiple of 4096")
        self._env, self._path, self._number, self._config = env, path, number, config
        self._file = env.create(path, kind="table", cause=cause, direct=config.direct and cause in ("bulk", "compaction"))
        self._schema = stored_schema(schema, codecs or {}).with_metadata({"lsmtensor.schema": _json(meta["schema"])})
        self._coded = bool(codecs)
        self._outside = [name for name, chain in (codecs or {}).items() if chain.outside]
        self._chunks = _Chunks(number, config.chunk_bytes, config.hash)
        self._meta = {
            **meta, "format": FORMAT, "number": number, "key_kind": key_kind, "hash": config.hash, "chunk_bytes": config.chunk_bytes,
        }  # fmt: skip
        self._blocks: list[dict[str, Any]] = []
        self._hashes: list[np.ndarray] = []
        self._blobs: dict[int, tuple[int, int]] = {}
        self._rows = self._tombstones = 0
        self._seqs = (np.iinfo(np.int64).max, 0)
        self._keys: list[int | bytes] = []
        self._finished = False

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.close()
        self._file.close()
        if not self._finished:
            self._env.unlink(self._path)

    def _out(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            # piece by piece: it is hashed and copied while in cache, and the disk writes the ones before
            for at in range(0, len(view), PIECE_BYTES):
                piece = view[at : at + PIECE_BYTES]
                self._chunks.update(piece)
                self._file.write(piece)

    def add(self, batch: pa.RecordBatch, keys: pa.Array) -> None:
        """Rows that sort behind all before them, with their encoded keys."""
        if not batch.num_rows:
            return
        if not self._blocks:
            head = ipc.MAGIC + self._schema.serialize().to_pybytes()
            self._out([head + bytes(-len(head) % 8)])
        self._batch(batch, keys)

    def _batch(self, batch: pa.RecordBatch, keys: pa.Array) -> None:
        offset = self._chunks.at
        stored = encode_batch(batch, self._schema) if self._coded else batch
        message, body, size = ipc.batch_message(stored, offset)
        self._out([message, *body])
        seqs = batch.column("_seq").to_numpy()
        deletes = int((batch.column("_op").to_numpy() == 0).sum())
        first, last = keys[0].as_py(), keys[-1].as_py()
        self._blocks.append(
            {
                "offset": offset, "metadata": len(message), "body": size, "rows": batch.num_rows,
                "first": key_json(first), "last": key_json(last), "zones": zone_map(batch),
            }  # fmt: skip
        )
        if not self._keys:
            self._keys.append(first)
        self._keys[1:] = [last]
        self._hashes.append(filters.hashes(keys))
        self._rows += batch.num_rows
        self._tombstones += deletes
        self._seqs = (min(self._seqs[0], int(seqs.min())), max(self._seqs[1], int(seqs.max())))
        for name in self._outside:
            _, found = outside.references(stored.column(name))
            files = found["id"] // outside.FILE
            for file in np.unique(files).tolist():
                sizes = found["size"][files == file]
                count, size = self._blobs.get(file, (0, 0))
                self._blobs[file] = count + len(sizes), size + int(sizes.sum())

    def finish(self) -> TableMeta:
        """What follows the rows; the file is synced."""
        if not self._blocks:
            raise InvalidArgumentError("a table file of no rows is not written")
        self._out([ipc.END_OF_STREAM])
        self._chunks.finish()
        chunks_end = self._chunks.at
        made = filters.build(self._config.filter, np.concatenate(self._hashes))
        self._meta.update(rows=self._rows, tombstones=self._tombstones, min_seq=self._seqs[0], max_seq=self._seqs[1])
        sections: list[tuple[str, bytes]] = [
            ("meta", _json(self._meta)),
            ("blocks", _json(self._blocks)),
            ("crcs", np.array(self._chunks.crcs, "<u4").tobytes()),
            ("leaves", b"".join(self._chunks.leaves)),
        ]
        if self._blobs:
            sections.append(("blobs", _json(self._blobs)))
        if made is not None:
            sections.append(("filter", made[1].tobytes()))
        directory = []
        at = chunks_end
        for name, data in sections:
            pad = -at % ipc.ALIGN
            self._file.write(bytes(pad))
            at += pad
            self._file.write(data)
            crc = crc32c(data, crc32c(place(self._number, at)))
            entry = {"name": name, "offset": at, "size": len(data), "crc": crc, "must": name != "filter"}
            if name == "filter" and made is not None:
                entry["parameters"] = made[0]
            directory.append(entry)
            at += len(data)
        described = _json(directory)
        footer = ipc.footer(self._schema, [(b["offset"], b["metadata"], b["body"]) for b in self._blocks])
        tail = -(at + len(described) + TRAILER.size) % 8
        trailer = TRAILER.pack(
            MAGIC, FORMAT, len(described), at, crc32c(described), len(footer), crc32c(footer), chunks_end, self._number, 0
        )
        trailer = trailer[:-8] + crc32c(trailer[:-8]).to_bytes(4, "little") + bytes(4)
        self._file.writev([described, bytes(tail), trailer, footer, len(footer).to_bytes(4, "little"), b"ARROW1"])
        self._file.sync()
        root = ""
        if self._config.hash != "none":
            root = merkle_root([*self._chunks.leaves, leaf_hash(described, self._config.hash)], self._config.hash).hex()
        size = self._file.tell()
        self._finished = True
        blobs = tuple((file, count, size) for file, (count, size) in self._blobs.items())
        return TableMeta(self._number, size, self._rows, self._tombstones, self._keys[0], self._keys[-1], *self._seqs, root, blobs)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
