"""Columns with a codec: the values of neighbouring rows, about 64 KiB of them, coded as one group.

To Arrow such a column is binary, a row each: a group's bytes are the value of its first row, its other rows are empty. So any reader
opens the file, and ours finds the group of a row from the offsets alone. A group is the Arrow buffers of its rows, each coded by
itself, or plain where that gains under 5%. The bytes are in docs/format.md.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from .. import codecs
from ..arrowtake import one_chunk, take_array
from ..convert_tensors import dtype_shape
from ..dtypes import TensorType
from ..errors import CorruptionError, InvalidArgumentError, LsmTensorError, SchemaError
from ..schema import told
from . import ipc, outside
from .outside import Fetch

if TYPE_CHECKING:
    from ..quant import Quantizer

GROUP_BYTES = 65536
SAMPLE_BYTES = 65536
# values that were decoded once give the same codes again
ROUNDING = ("int8", "fp16", "bf16")
TRAINED = ("scalar", "binary", "pq")
_HEAD, _NODE, _BUFFER = struct.Struct("<QHHI"), struct.Struct("<QQ"), struct.Struct("<QQBB6x")
PLAIN, CODES = 0, 1  # what a buffer is: its bytes, or codes of a quantizer for them


class Chain(NamedTuple):
    """How a column is stored: a codec, over the codes of a quantizer where its values were rounded to such; ``outside``: rows by themselves,
    so that large ones can lie in a blob file."""

    codec: str = "none"
    quant: str | bytes | None = None
    outside: bool = False


class Coded(pa.ExtensionType):
    """Groups of values of ``field``'s type under a codec."""

    def __init__(self, field: pa.Field, codec: str, quant: str | bytes | None = None, outside: bool = False) -> None:
        self.field, self.codec, self.quant, self.outside = field, codec, quant, outside
        super().__init__(pa.large_binary(), "lsmtensor.coded")

    def __arrow_ext_serialize__(self) -> bytes:
        described = base64.b64encode(pa.schema([self.field]).serialize().to_pybytes()).decode()
        rest: dict[str, Any] = {"quant": _text(self.quant)} if self.quant else {"outside": True} if self.outside else {}
        return json.dumps({"codec": self.codec, "field": described} | rest).encode()

    @property
    def told(self) -> str:
        """The codec, and what the values were rounded by."""
        made = self.quantizer() if isinstance(self.quant, bytes) else None
        return "+".join(filter(None, (made.spec if made else str(self.quant or ""), self.codec)))

    def quantizer(self) -> Quantizer | None:
        """What its values were rounded by when they were committed."""
        return None if self.quant is None else _quantizer(self.quant, math.prod(dtype_shape(self.field.type)[1]))

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Coded:
        value = json.loads(serialized)
        if storage_type != pa.large_binary():
            raise InvalidArgumentError(f"extension lsmtensor.coded over {storage_type}; wanted large_binary")
        quant = value.get("quant")
        quant = base64.b64decode(quant["trained"]) if isinstance(quant, dict) else quant
        return cls(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(value["field"]))).field(0), str(value["codec"]), quant, bool(value.get("outside", False)))


pa.register_extension_type(Coded(pa.field("values", pa.int8()), "none"))


@lru_cache(64)
def _quantizer(spec: str | bytes, dim: int) -> Quantizer:
    from .. import quant

    if isinstance(spec, str):
        return quant.create(spec, dim)
    made = quant.load(spec)
    if made.dim != dim:
        raise InvalidArgumentError(f"a quantizer of {made.dim} dimensions for rows of {dim}")
    return made


def _text(spec: str | bytes) -> Any:
    """What JSON says of a quantizer."""
    return {"trained": base64.b64encode(spec).decode()} if isinstance(spec, bytes) else spec


def check_beside(column: str, kind: Any, spec: str | bytes) -> None:
    """Raises where codes cannot stand beside a column's full values."""
    if isinstance(spec, bytes):
        raise InvalidArgumentError(f"column {column!r}: quant={told(spec)} beside full values, of which each merge learns anew; give the quantizer's spec, or keep_full=False")
    try:
        _quantizer(spec, kind.size)
    except LsmTensorError as why:
        raise InvalidArgumentError(f"column {column!r}: quant={told(spec)}: {why}") from why


def check_quant(column: str, kind: Any, spec: str | bytes) -> None:
    """Raises where a column's values cannot be kept as codes alone."""
    if not isinstance(kind, TensorType) or kind.dtype != "float32":
        raise InvalidArgumentError(f"column {column!r}: quant={told(spec)} of a {kind} column; codes stand for float32 tensors")
    made = _quantizer(spec, kind.size)
    if made.name not in ROUNDING + TRAINED or getattr(made, "affine", False):
        raise InvalidArgumentError(
            f"column {column!r}: quant={told(spec)}; rows are kept as {', '.join(ROUNDING + TRAINED)}, whose values have the same codes again; others are for indexes"
        )
    if not made.fitted:
        raise InvalidArgumentError(
            f"column {column!r}: quant={told(spec)} learns, and rows are rounded when they are committed: train it first, Column(quant=lt.quant.create(…).fit(x))"
        )


def rounded(batch: pa.RecordBatch, column: str, spec: str | bytes) -> pa.RecordBatch:
    """The batch with a tensor column's values as the codes will have them; what is under a null is zero. O(bytes)."""
    at = batch.schema.get_field_index(column)
    array = batch.column(at)
    values, valid = _zeroed(array)
    try:
        quantizer = _quantizer(spec, values.shape[1])
        made = quantizer.decode(quantizer.encode(values))
    except SchemaError as why:
        raise SchemaError(f"column {column!r}, quant={told(spec)}: {why}") from why
    mask = None if valid.all() else pa.array(~valid)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(made.reshape(-1)), type=array.type.storage_type, mask=mask)
    return batch.set_column(at, batch.schema.field(at), pa.ExtensionArray.from_storage(array.type, storage))


def _zeroed(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """((rows, values) of a float32 tensor column, those under a null 0; bool: rows that are there)."""
    storage, width = array.storage, array.storage.type.list_size
    values = storage.values.slice(storage.offset * width, len(storage) * width)
    flat = values.to_numpy(zero_copy_only=False).reshape(len(storage), width)
    valid = np.ones(len(storage), bool) if storage.null_count == 0 else storage.is_valid().to_numpy(zero_copy_only=False)
    return (flat if valid.all() else np.where(valid[:, None], flat, np.float32(0))), valid


def check_codec(column: str, codec: str) -> None:
    """Raises where a column cannot be stored by this chain."""
    try:
        chain = codecs.create(codec, 4)
    except InvalidArgumentError as why:
        raise InvalidArgumentError(f"column {column!r}: {why}") from why
    if chain.uses_base:
        raise InvalidArgumentError(f"column {column!r}: codec={codec!r}; xor compares versions of a named array, a row of a table has no older bytes to compare with")


def stored_schema(schema: pa.Schema, chains: dict[str, Chain]) -> pa.Schema:
    """The columns as the file holds them."""
    fields = [f.with_type(Coded(f, *chains[f.name])).with_nullable(False) if f.name in chains else f for f in schema]
    return pa.schema(fields, schema.metadata)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns as readers see them."""
    return pa.schema([f.type.field if isinstance(f.type, Coded) else f for f in schema], schema.metadata)


# -- in ----------------------------------------------------------------------------------------------


def encode_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in its stored columns. O(bytes)."""
    columns = [encode(c, f.type) if isinstance(f.type, Coded) and c.type != f.type else c for c, f in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def encode(array: pa.Array, kind: Coded) -> pa.Array:
    n = len(array)
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    quantizer = kind.quantizer()
    if quantizer is not None and storage.null_count:
        values, valid = _zeroed(array)
        storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=storage.type, mask=pa.array(~valid))
    rows = 1 if kind.outside else max(1, GROUP_BYTES * n // max(1, storage.nbytes))
    sizes, parts = np.zeros(n + 1, np.int64), []
    for start in range(0, n, rows):
        group = _packed(storage.slice(start, rows), kind.codec, quantizer)
        if kind.outside:
            # one after the other in a blob file, where views are made of them
            group = [piece for part in group for piece in (part, bytes(-len(part) % ipc.ALIGN))]
        sizes[start + 1] = sum(len(p) for p in group)
        parts += group
    data = np.concatenate([np.empty(0, np.uint8), *(np.frombuffer(p, np.uint8) for p in parts)])
    made = pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(np.cumsum(sizes)), pa.py_buffer(data)])
    return pa.ExtensionArray.from_storage(kind, made)


def _packed(rows: pa.Array, codec: str, quantizer: Quantizer | None) -> list[Any]:
    """The header of a group and its buffers. Values become codes only where those give back every bit."""
    nodes: list[tuple[int, int]] = []
    buffers: list[Any] = []
    ipc.column_buffers(rows, nodes, buffers)
    described: list[bytes] = []
    body: list[np.ndarray] = []
    for buffer, width in zip(buffers, _widths(rows.type), strict=True):
        raw = np.empty(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
        how = PLAIN
        if quantizer is not None and len(body) == len(buffers) - 1:
            values = raw.view(np.float32).reshape(len(rows), -1)
            codes = _codes_of(values, quantizer)
            if codes is not None:
                raw, width, how = codes.reshape(-1), 1, CODES
        width = width or _guessed(raw, codec)
        small = codecs.create(codec, width).encode(raw)
        body.append(raw if small is None else np.ascontiguousarray(small))
        described.append(_BUFFER.pack(len(raw), len(body[-1]), width, how))
    head = _HEAD.pack(len(rows), len(nodes), len(buffers), 0)
    return [head + b"".join(_NODE.pack(*node) for node in nodes) + b"".join(described), *body]


def _codes_of(values: np.ndarray, quantizer: Quantizer) -> np.ndarray | None:
    """The codes that stand for exactly these values; None where there are none."""
    try:
        codes = quantizer.encode(values)
    except SchemaError:
        return None  # a value that rows had before the column was there
    return codes if np.array_equal(quantizer.decode(codes).view(np.uint32), values.view(np.uint32)) else None


def _widths(kind: pa.DataType) -> list[int]:
    """Bytes of a value in each buffer of a column, in the order of `ipc.column_buffers`; 0 where only the bytes can tell."""
    t = pa.types
    if t.is_null(kind):
        return []
    if t.is_struct(kind):
        return [1, *(w for i in range(kind.num_fields) for w in _widths(kind.field(i).type))]
    if t.is_fixed_size_list(kind):
        return [1, *_widths(kind.value_type)]
    if t.is_list(kind) or t.is_large_list(kind):
        return [1, 4 if t.is_list(kind) else 8, *_widths(kind.value_type)]
    if t.is_binary(kind) or t.is_large_binary(kind):
        return [1, 4 if t.is_binary(kind) else 8, 0]
    if t.is_string(kind) or t.is_large_string(kind):
        return [1, 4 if t.is_string(kind) else 8, 1]
    width = 1 if t.is_boolean(kind) else kind.bit_width // 8
    return [1, width if width in (1, 2, 4, 8, 16) else 1]


def _guessed(data: np.ndarray, codec: str) -> int:
    """The width at which the middle of these bytes becomes smallest."""
    middle = max(0, len(data) - SAMPLE_BYTES) // 16 * 8
    sample = data[middle : middle + SAMPLE_BYTES]
    sizes = {}
    for width in (4, 2, 8, 1):
        small = codecs.create(codec, width).encode(sample)
        sizes[width] = len(sample) if small is None else len(small)
    return min(sizes, key=lambda width: sizes[width])


# -- out ---------------------------------------------------------------------------------------------


class Groups:
    """The groups of one stored column; nothing in it is trusted but that its checksums were right."""

    def __init__(self, array: pa.Array) -> None:
        self.kind: Coded = array.type
        storage = array.storage
        _, offsets, data = storage.buffers()
        self.data = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        self.ends = np.frombuffer(offsets, np.int64)[storage.offset : storage.offset + len(storage) + 1] if len(storage) else np.zeros(1, np.int64)
        sizes = np.diff(self.ends)
        self.starts = np.flatnonzero(sizes)
        if (sizes < 0).any() or self.ends[0] < 0 or self.ends[-1] > len(self.data) or (len(sizes) and (not len(self.starts) or self.starts[0])):
            raise CorruptionError(f"the groups of column {self.kind.field.name!r} lie outside its bytes")
        self.stops = np.append(self.starts[1:], len(sizes))

    def of(self, row: int) -> int:
        """The number of a row's group."""
        return int(np.searchsorted(self.starts, row, "right")) - 1

    def span(self, group: int) -> tuple[int, int]:
        """Where its bytes are in ``data``."""
        at = int(self.starts[group])
        return int(self.ends[at]), int(self.ends[at + 1])

    def rows(self, start: int, stop: int, get: Callable[[int], pa.Array]) -> pa.Array:
        """Rows [start, stop); ``get`` answers the decoded rows of a group."""
        if start >= stop:
            return one_chunk(pa.chunked_array([], self.kind.field.type))
        first = self.of(start)
        parts = [get(group) for group in range(first, self.of(stop - 1) + 1)]
        whole = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
        return whole.slice(start - int(self.starts[first]), stop - start)

    def take(self, rows: np.ndarray, get: Callable[[int], pa.Array]) -> pa.Array:
        """Rows by number, in the order asked: each group that they touch is got once."""
        if len(rows) == 0:
            return self.rows(0, 0, get)
        owner = np.searchsorted(self.starts, rows, "right") - 1
        parts, places = [], []
        for group in np.unique(owner).tolist():
            places.append(np.flatnonzero(owner == group))
            held, mine = get(group), rows[places[-1]] - int(self.starts[group])
            parts.append(held if len(held) == len(mine) == 1 else take_array(held, mine))
        if len(parts) == 1:
            return parts[0]
        back = np.empty(len(rows), np.int64)
        back[np.concatenate(places)] = np.arange(len(rows))
        return take_array(pa.concat_arrays(parts), back)

    def validate(self, fetch: Fetch | None) -> None:
        """Raises `CorruptionError` or Arrow's own where some group is not what it should be. O(bytes)."""
        for group in range(len(self.starts)):
            self.decode(group, fetch).validate(full=True)

    def decode(self, group: int, fetch: Fetch | None = None) -> pa.Array:
        """The values of its rows, in memory of their own; ``fetch`` gets the bytes that lie outside. O(bytes)."""
        low, high = self.span(group)
        rows = int(self.stops[group] - self.starts[group])
        data = self.data[low:high]
        away = outside.parse(data)
        if away is not None:
            if fetch is None:
                raise CorruptionError(f"group {group} of column {self.kind.field.name!r} lies in blob file {away.file}: read it through its database")
            data = fetch(away)
        try:
            made = _unpacked(data, self.kind)
            made.validate()
        except (struct.error, pa.ArrowException, OSError, ValueError, LsmTensorError) as why:
            raise CorruptionError(f"group {group} of column {self.kind.field.name!r} does not parse ({why})") from why
        if len(made) != rows:
            raise CorruptionError(f"group {group} of column {self.kind.field.name!r} has {len(made)} rows; wanted {rows}")
        return made


def row_of(array: pa.Array, row: int, fetch: Fetch | None = None) -> pa.Array:
    """One row of a column, coded or not."""
    if not isinstance(array.type, Coded):
        return array.slice(row, 1)
    groups = Groups(array)
    group = groups.of(row)
    return groups.decode(group, fetch).slice(row - int(groups.starts[group]), 1)


def _unpacked(coded: np.ndarray, kind: Coded) -> pa.Array:
    data = memoryview(coded.data)
    rows, nodes, buffers, _ = _HEAD.unpack_from(data)
    at = _HEAD.size
    wanted = [_NODE.unpack_from(data, at + i * _NODE.size) for i in range(nodes)]
    at += nodes * _NODE.size
    described = [_BUFFER.unpack_from(data, at + i * _BUFFER.size) for i in range(buffers)]
    pad = ipc.ALIGN if kind.outside else 1
    at += buffers * _BUFFER.size
    at += -at % pad
    if at + sum(d[1] + -d[1] % pad for d in described) != len(data) or any(stored > raw for raw, stored, *_ in described):
        raise ValueError("its buffers are not as long as they say")
    parts, places, end = [], [], 0
    quantizer = kind.quantizer()
    for raw, stored, width, how in described:
        part = coded[at : at + stored]
        at += stored + -stored % pad
        # codecs say themselves what they cannot decode, before that many bytes are laid out
        part = part if raw == stored else codecs.create(kind.codec, width).decode(part, raw)
        if how == CODES and quantizer is not None:
            part = quantizer.decode(part.reshape(-1, quantizer.code_bytes)).reshape(-1).view(np.uint8)
        elif how != PLAIN:
            raise ValueError(f"a buffer of kind {how}")
        parts.append(part)
        places.append((end, len(part)))
        end += len(part) + -len(part) % ipc.ALIGN
    if kind.outside:
        storage = kind.field.type.storage_type
        return pa.ExtensionArray.from_storage(kind.field.type, _over(storage, iter(wanted), iter([pa.py_buffer(p) for p in parts])))
    message = ipc.record_batch(rows, wanted, places, end)
    head = struct.pack("<Ii", 0xFFFFFFFF, len(message) + -(8 + len(message)) % ipc.ALIGN)
    first = len(head) + len(message) + -(len(head) + len(message)) % ipc.ALIGN
    whole = np.empty(first + end, np.uint8)
    whole[: len(head) + len(message)] = np.frombuffer(head + message, np.uint8)
    whole[len(head) + len(message) : first] = 0
    for part, (place, size) in zip(parts, places, strict=True):
        whole[first + place : first + place + size] = part
    batch = pa.ipc.read_record_batch(pa.ipc.read_message(pa.py_buffer(whole)), pa.schema([kind.field]))
    return batch.column(0)


def _over(kind: pa.DataType, nodes: Iterator[tuple[int, int]], buffers: Iterator[pa.Buffer]) -> pa.Array:
    """A tensor's array over its buffers, in the order of `ipc.column_buffers`, without a copy."""
    n, nulls = next(nodes)
    children, t = [], pa.types
    own = [next(buffers)] if t.is_struct(kind) or t.is_fixed_size_list(kind) else [next(buffers), next(buffers)]
    if t.is_struct(kind):
        children = [_over(kind.field(i).type, nodes, buffers) for i in range(kind.num_fields)]
    elif t.is_nested(kind):
        children = [_over(kind.value_type, nodes, buffers)]
    return pa.Array.from_buffers(kind, n, [own[0] if own[0].size else None, *own[1:]], nulls, children=children)
