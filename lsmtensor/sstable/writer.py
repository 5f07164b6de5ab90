"""Writing a table file in one pass: rows stream through, checksums and hashes are taken as they pass."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import SSTableConfig
from ..env.base import Env
from ..env.checksum import crc32c
from ..errors import InvalidArgumentError, UnknownNameError
from ..merkle import HASHES, leaf_hash, merkle_root
from ..registry import near
from . import filters, ipc
from .format import FORMAT, MAGIC, TRAILER, key_json, place
from .meta import TableMeta
from .zones import zone_map

PIECE_BYTES = 1 << 20


class _Chunks:
    """CRC32C and leaf hash of every ``size`` bytes of what is written, taken in place."""

    def __init__(self, number: int, size: int, kind: str) -> None:
        self._number, self._size, self._kind = number, size, kind
        self.crcs: list[int] = []
        self.leaves: list[bytes] = []
        self.at = 0
        self._begin()

    def _begin(self) -> None:
        self._filled = 0
        here = place(self._number, self.at)
        self._crc = crc32c(here)
        if self._kind == "blake3":
            from blake3 import blake3

            self._hash: Any = blake3(b"\x00" + here)
        elif self._kind == "sha256":
            import hashlib

            self._hash = hashlib.sha256(b"\x00" + here)
        else:
            self._hash = None

    def update(self, buffer: Any) -> None:
        view = memoryview(buffer).cast("B")
        at = 0
        while at < len(view):
            piece = view[at : at + self._size - self._filled]
            self._crc = crc32c(piece, self._crc)
            if self._hash is not None:
                self._hash.update(piece)
            self._filled += len(piece)
            self.at += len(piece)
            at += len(piece)
            if self._filled == self._size:
                self._end()

    def _end(self) -> None:
        self.crcs.append(self._crc)
        if self._hash is not None:
            self.leaves.append(self._hash.digest())
        self._begin()

    def finish(self) -> None:
        if self._filled:
            self._end()


def write_table(
    env: Env,
    path: str,
    number: int,
    pairs: Iterable[tuple[pa.RecordBatch, pa.Array]],
    *,
    schema: pa.Schema,
    key_kind: str,
    config: SSTableConfig,
    cause: str,
    meta: dict[str, Any],
) -> TableMeta:
    """Write (physical batch, keys) pairs, sorted, to a new synced file. O(bytes), one pass.

    The caller syncs the folder. On failure the file is removed and the error goes on.
    """
    if config.hash not in HASHES:
        raise UnknownNameError(f"no hash named {config.hash!r}; {near(config.hash, HASHES)}")
    if config.chunk_bytes < 4096 or config.chunk_bytes % 4096:
        raise InvalidArgumentError(f"sstable.chunk_bytes={config.chunk_bytes}; give a multiple of 4096")
    file = env.create(path, kind="table", cause=cause, direct=config.direct and cause in ("bulk", "compaction"))
    try:
        with file:
            return _Writer(file, number, schema, key_kind, config, meta).write(pairs)
    except BaseException:
        env.unlink(path)
        raise


class _Writer:
    def __init__(
        self, file: Any, number: int, schema: pa.Schema, key_kind: str, config: SSTableConfig, meta: dict[str, Any]
    ) -> None:
        self._file, self._number, self._config = file, number, config
        self._schema = schema.with_metadata({"lsmtensor.schema": _json(meta["schema"])})
        self._chunks = _Chunks(number, config.chunk_bytes, config.hash)
        self._meta = {
            **meta, "format": FORMAT, "number": number, "key_kind": key_kind, "hash": config.hash, "chunk_bytes": config.chunk_bytes,
        }  # fmt: skip
        self._blocks: list[dict[str, Any]] = []
        self._hashes: list[np.ndarray] = []
        self._rows = self._tombstones = 0
        self._seqs = (np.iinfo(np.int64).max, 0)
        self._keys: list[int | bytes] = []

    def _out(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            # piece by piece: it is hashed and copied while in cache, and the disk writes the ones before
            for at in range(0, len(view), PIECE_BYTES):
                piece = view[at : at + PIECE_BYTES]
                self._chunks.update(piece)
                self._file.write(piece)

    def write(self, pairs: Iterable[tuple[pa.RecordBatch, pa.Array]]) -> TableMeta:
        head = ipc.MAGIC + self._schema.serialize().to_pybytes()
        self._out([head + bytes(-len(head) % 8)])
        for batch, keys in pairs:
            if batch.num_rows:
                self._batch(batch, keys)
        if not self._blocks:
            raise InvalidArgumentError("a table file of no rows is not written")
        self._out([ipc.END_OF_STREAM])
        self._chunks.finish()
        return self._finish()

    def _batch(self, batch: pa.RecordBatch, keys: pa.Array) -> None:
        offset = self._chunks.at
        message, body, size = ipc.batch_message(batch, offset)
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

    def _finish(self) -> TableMeta:
        chunks_end = self._chunks.at
        made = filters.build(self._config.filter, np.concatenate(self._hashes))
        self._meta.update(rows=self._rows, tombstones=self._tombstones, min_seq=self._seqs[0], max_seq=self._seqs[1])
        sections: list[tuple[str, bytes]] = [
            ("meta", _json(self._meta)),
            ("blocks", _json(self._blocks)),
            ("crcs", np.array(self._chunks.crcs, "<u4").tobytes()),
            ("leaves", b"".join(self._chunks.leaves)),
        ]
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
        return TableMeta(self._number, size, self._rows, self._tombstones, self._keys[0], self._keys[-1], *self._seqs, root)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
