"""Checking everything, and proving a row to somebody who has only a root.

A proof carries the chunks that the row's bytes lie in with their paths to the file's root, the file's
path to the state root, and what chains that into the root of the layout.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import container
from ..dtypes import numpy_dtype
from ..errors import CorruptionError, InvalidArgumentError, KeyNotFoundError, LsmTensorError, StorageError
from ..merkle import inclusion_path, leaf_hash, root_from_path
from ..sstable.format import place
from ..sstable.outside import Reference
from ..tensor_meta import Meta
from ..wal.reader import read_wal
from . import keyspace
from .manifest import Manifest, file_path
from .source import RunSource, TableFile
from .state import State, View

if TYPE_CHECKING:
    from .tree import Tree


Step = Callable[[int], None]
MAX_CHUNK = 1 << 30


def verify_tree(tree: Tree, step: Step | None = None, found: list[CorruptionError] | None = None) -> dict[str, int]:
    """Check the manifest, logs, table files and segments; returns counts.

    ``step`` gets the bytes of each piece that was checked. Raises at the first damage; with ``found`` every damaged file is put there
    instead. Files that are retired meanwhile are left out.
    """
    counts = {"files": 0, "bytes": 0, "rows": 0}
    state, _ = tree.head()
    for rows, check in _checks(tree, state, step or (lambda size: None)):
        try:
            counts["bytes"] += check()
        except CorruptionError as why:
            if found is None:
                raise
            found.append(why)
        except StorageError as why:
            if why.errno != errno.ENOENT or tree.read_only:
                raise
            continue
        counts["files"] += 1
        counts["rows"] += rows
    return counts


def _checks(tree: Tree, state: State, step: Step) -> Iterator[tuple[int, Callable[[], int]]]:
    """(rows, what checks them and answers the bytes) of each file."""

    def manifest() -> int:
        Manifest.read(tree.env, tree.path)
        return 0

    def segment(path: str) -> int:
        data = tree.env.open(path, kind="index").map()
        container.unpack(data, where=path)
        step(len(data))
        return len(data)

    def log(number: int) -> int:
        for record in read_wal(tree.env, file_path(tree.path, "wal", number), number, state.layout.id):
            step(record.end - record.offset)
        return 0

    yield 0, manifest
    for table in state.tables.values():
        for run in table.every:
            for file in run.files:
                yield file.ref.rows, lambda file=file: file.reader.verify(file.ref.root, step)  # type: ignore[misc]
                for name in {n for ref in file.ref.segments for n in ref.names}:
                    yield 0, lambda name=name: segment(f"{tree.path}/sst/{name}")  # type: ignore[misc]
    active = max(state.layout.wals, default=0)
    for number in state.layout.wals:
        if number != active or tree.read_only:
            yield 0, lambda number=number: log(number)  # type: ignore[misc]


def root_of(tree: Tree) -> str:
    """The root of the newest layout, which holds every commit: memtables are flushed first."""
    if not tree.read_only:
        tree.flush()
    return tree.head()[0].layout.root


def prove(tree: Tree, view: View, key: Any) -> dict[str, Any]:
    """A JSON proof that the row is in the view's version."""
    owner, row = view.locate(keyspace.one(view.table.codec.scalar(key)))
    if owner[0] < 0:
        raise KeyNotFoundError(
            f"key {key!r} is not in table {view.table.state.name!r} at version {view.version}; only what is there is proved"
        )
    source = view.sources[int(owner[0])]
    if not isinstance(source, RunSource):
        raise InvalidArgumentError("the row is not in a table file yet; call db.flush() and take the proof from a new snapshot")
    starts = source.starts
    at = int(max(i for i in range(len(source.files)) if starts[i] <= row[0]))
    file = source.files[at]
    if not file.ref.root:
        raise InvalidArgumentError("the file has no hash tree (sstable.hash was 'none'); nothing can be proved")
    inner = file.reader.chunks_of(int(row[0] - starts[at]))
    layout = tree.head()[0].layout
    listed, leaves = layout.file_leaves()
    if (view.table.state.id, file.ref.number) not in listed:
        raise InvalidArgumentError(f"the row's file was merged since the snapshot was taken; take the proof from db.at(version={view.version})")
    index = listed.index((view.table.state.id, file.ref.number))
    for chunk in inner["chunks"]:
        chunk["data"] = base64.b64encode(chunk["data"]).decode()
        chunk["path"] = [p.hex() for p in chunk["path"]]
    previous, edit = tree.manifest.links
    return {
        "version": view.version, "key": str(key), "table": view.table.state.id, "file_root": file.ref.root, **inner, "blobs": _blobs(file, int(row[0] - starts[at])),
        "file_index": index, "file_count": len(leaves), "file_path": [p.hex() for p in inclusion_path(leaves, index)],
        "previous_root": previous, "edit": edit, "root": layout.root,
    }  # fmt: skip


def prove_chunk(tree: Tree, names: View, chunks: View, name: str, chunk: Sequence[int] = ()) -> dict[str, Any]:
    """A JSON proof that a chunk of a named array, by its place in the grid, is in the views' version."""
    array = prove(tree, names, name)
    meta = Meta(_verify(array, array["root"]))
    row = prove(tree, chunks, (meta.id, meta.number(_place_of(meta, chunk))))
    if meta.uses_base and _verify(row, row["root"])["coded"]:
        raise InvalidArgumentError(f"chunks of {name!r} are kept by what changed ({meta.codec}): one row says too little; only other codecs are proved")
    if row["root"] != array["root"]:
        raise InvalidArgumentError("the layout changed while the proof was made; take it again")
    return {"array": array, "row": row, "chunk": list(chunk), "root": array["root"]}


def _place_of(meta: Meta, chunk: Sequence[int]) -> tuple[int, ...]:
    place = tuple(int(i) for i in chunk)
    if len(place) != len(meta.grid) or any(not 0 <= i < n for i, n in zip(place, meta.grid, strict=True)):
        raise InvalidArgumentError(f"chunk {place} of tensor {meta.name!r}; its grid has {meta.grid} chunks")
    return place


def _verify_chunk(proof: dict[str, Any], root: str) -> dict[str, Any]:
    meta = Meta(_verify(proof["array"], root))
    index = _place_of(meta, proof["chunk"])
    row, shape = _verify(proof["row"], root), meta.held(index)
    if (row["tensor"], row["chunk"]) != (meta.id, meta.number(index)) or proof["row"]["version"] != proof["array"]["version"]:
        raise CorruptionError(f"the proof holds another chunk than {index} of tensor {meta.name!r}, or of another version")
    data, size = np.frombuffer(row["data"], np.uint8), math.prod(shape) * meta.itemsize
    if row["coded"]:
        data = meta.chain.decode(data, size)
    if len(data) != size:
        raise CorruptionError(f"chunk {index} of tensor {meta.name!r} has {len(data)} bytes; wanted {size}")
    values = data.view(numpy_dtype(meta.dtype)).reshape(shape)
    return {"name": meta.name, "dtype": meta.dtype, "shape": meta.shape, "chunks": meta.chunks, "chunk": index, "values": values}


def verify_proof(proof: dict[str, Any], *, root: str) -> dict[str, Any]:
    """Check a proof of `TableView.prove` or `Snapshot.prove_tensor` against a root, without the database.

    Returns the row; of a tensor its name, dtype, shape, chunks (sides), chunk (place in the grid) and values. Raises `CorruptionError`
    where any link of the chain does not hold.
    """
    try:
        return _verify_chunk(proof, root) if "array" in proof else _verify(proof, root)
    except CorruptionError:
        raise
    except LsmTensorError as why:
        raise CorruptionError(f"the proof does not hold together ({why})") from why
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError, struct.error) as why:
        raise CorruptionError(f"the proof does not parse ({why!r})") from why


def _verify(proof: dict[str, Any], root: str) -> dict[str, Any]:
    size, kind = int(proof["chunk_bytes"]), str(proof["hash"])
    if not 0 < size <= MAX_CHUNK:
        raise CorruptionError(f"the proof has chunks of {size} bytes; wanted 1 to {MAX_CHUNK}")
    held: dict[int, bytes] = {}
    for chunk in proof["chunks"]:
        data, index = base64.b64decode(chunk["data"]), int(chunk["index"])
        leaf = leaf_hash(place(int(proof["file"]), index * size) + data, kind)
        made = root_from_path(leaf, index, int(proof["count"]), [bytes.fromhex(p) for p in chunk["path"]], kind)
        if made is None or made.hex() != proof["file_root"]:
            raise CorruptionError(f"chunk {index} of the proof does not lead to the root of its file")
        held[index] = data
    name = f"{int(proof['table'])}/{int(proof['file'])}/{proof['file_root']}".encode()
    path = [bytes.fromhex(p) for p in proof["file_path"]]
    state = root_from_path(leaf_hash(name), int(proof["file_index"]), int(proof["file_count"]), path)
    if state is None:
        raise CorruptionError("the file of the proof does not lead to a state root")
    chained = hashlib.sha256(b"\x02" + bytes.fromhex(proof["previous_root"]) + bytes.fromhex(proof["edit"]) + state).hexdigest()
    if chained != proof["root"] or chained != root:
        raise CorruptionError(f"the proof leads to root {chained[:16]}…, not to {root[:16]}…")
    return _row(proof, held, size)


def _row(proof: dict[str, Any], held: dict[int, bytes], size: int) -> dict[str, Any]:
    """The row, read from the proved bytes alone; bytes that the proof does not hold are zeros that the row does not touch."""
    import pyarrow as pa

    from ..schema import Schema
    from ..sstable.coded import plain_schema, row_of
    from ..sstable.outside import proved
    from ..sstable.ranges import byte_ranges

    start, metadata, body = int(proof["offset"]), int(proof["metadata"]), int(proof["body"])
    if min(start, metadata, body) < 0 or start + metadata + body > int(proof["count"]) * size:
        raise CorruptionError("the batch of the proof lies outside its file")
    space = bytearray(start + metadata + body)
    for index, data in held.items():
        part = data[: max(0, len(space) - index * size)]
        space[index * size : index * size + len(part)] = part

    def held_whole(a: int, b: int) -> bool:
        return all(i in held for i in range(a // size, -(-b // size)))

    if not held_whole(0, int(proof["schema_end"])) or not held_whole(start, start + metadata):
        raise CorruptionError("the proof lacks the chunks of the schema or of the batch's head")
    buffer = pa.py_buffer(space)
    try:
        schema = pa.ipc.open_stream(buffer.slice(8, int(proof["schema_end"]) - 8)).schema
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(buffer.slice(start)), schema)
        row = int(proof["row"])
        if not 0 <= row < batch.num_rows:
            raise CorruptionError(f"row {row} of a batch of {batch.num_rows}")
        for column in batch.columns:
            for a, b in byte_ranges(column, row, row + 1, buffer.address):
                if not held_whole(a, b):
                    raise CorruptionError("the proof lacks chunks of the row")
        system = {n: batch.column(n)[row].as_py() for n in ("_seq", "_op")}
        if system["_seq"] > int(proof["version"]) or system["_op"] != 1:
            raise CorruptionError("the row of the proof is not in its version")
        described = schema.metadata
        user = Schema.from_dict(json.loads(described[b"lsmtensor.schema"]))
        one = [row_of(column, row, proved(lambda reference: _blob(proof, reference))) for column in batch.columns]
        return user.row(pa.RecordBatch.from_arrays(one, schema=plain_schema(schema)), 0)
    except (pa.ArrowException, OSError, EOFError) as why:
        raise CorruptionError(f"the rows of the proof do not parse ({why})") from why


def _blobs(file: TableFile, row: int) -> dict[str, str]:
    """The bytes, by id, of the values of a row that lie outside."""
    reader = file.reader
    i = int(np.searchsorted(reader.batch_starts, row, "right")) - 1
    found = [reader.references(i, name) for name in reader.schema.names]
    own = [Reference.of(value) for rows, values in found for value in values[rows == row - reader.batch_starts[i]]]
    return {str(reference.id): base64.b64encode(file.fetch(reference).data).decode() for reference in own}


def _blob(proof: dict[str, Any], reference: Reference) -> np.ndarray:
    """The bytes of a value outside of its row, as the proof has them; who asks compares their hash."""
    return np.frombuffer(base64.b64decode(proof["blobs"][str(reference.id)]), np.uint8)
