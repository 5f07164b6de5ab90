"""Arrow IPC framing by hand: pyarrow aligns buffers to 8 bytes and offers no choice; we want 64.

Only two things are ours: the RecordBatch message (a small flatbuffer of fixed layout) and the block
list of the footer. Schemas are serialized by pyarrow.
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

ALIGN = 64
# buffers of a megabyte and more begin with a page: those of a column's batches can be mapped behind each other
PAGE, LARGE = 4096, 1 << 20
MAGIC = b"ARROW1\x00\x00"
END_OF_STREAM = struct.pack("<Ii", 0xFFFFFFFF, 0)
_METADATA_V5, _RECORD_BATCH = 4, 3


def column_buffers(array: pa.Array, nodes: list[tuple[int, int]], buffers: list[Any]) -> None:
    """Append the field nodes and buffers of an array, depth first, as the format orders them; slices become whole."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind, n, t = array.type, len(array), pa.types
    nodes.append((n, array.null_count))
    if t.is_null(kind):
        return
    if array.offset and not (t.is_struct(kind) or t.is_fixed_size_list(kind)):
        if array.null_count or t.is_boolean(kind) or t.is_nested(kind) or not t.is_primitive(kind):
            array = pa.concat_arrays([array, array.slice(0, 0)])  # rebases offsets and bits
        if array.offset:
            width = kind.bit_width // 8
            buffers.append(None)
            data = array.buffers()[1]
            buffers.append(data.slice(array.offset * width, n * width))
            return
    raw = array.buffers()
    validity = raw[0] if array.null_count else None
    if t.is_struct(kind):
        if array.offset:
            array = pa.concat_arrays([array, array.slice(0, 0)])
            validity = array.buffers()[0] if array.null_count else None
        buffers.append(_cut(validity, (n + 7) // 8))
        for i in range(kind.num_fields):
            column_buffers(array.field(i), nodes, buffers)
    elif t.is_fixed_size_list(kind):
        if array.offset and array.null_count:
            array = pa.concat_arrays([array, array.slice(0, 0)])
            validity = array.buffers()[0]
        buffers.append(_cut(validity, (n + 7) // 8))
        column_buffers(array.values.slice(array.offset * kind.list_size, n * kind.list_size), nodes, buffers)
    elif t.is_list(kind) or t.is_large_list(kind):
        buffers.append(_cut(validity, (n + 7) // 8))
        width = 4 if t.is_list(kind) else 8
        buffers.append(_cut(raw[1], (n + 1) * width))
        end = array.offsets[n].as_py() if n else 0
        column_buffers(array.values.slice(0, end), nodes, buffers)
    elif t.is_binary(kind) or t.is_string(kind) or t.is_large_binary(kind) or t.is_large_string(kind):
        buffers.append(_cut(validity, (n + 7) // 8))
        wide = t.is_large_binary(kind) or t.is_large_string(kind)
        offsets = _cut(raw[1], (n + 1) * (8 if wide else 4))
        buffers.append(offsets)
        end = struct.unpack_from("<q" if wide else "<i", offsets, n * (8 if wide else 4))[0] if n and offsets is not None else 0
        buffers.append(_cut(raw[2], end))
    elif t.is_boolean(kind):
        buffers.append(_cut(validity, (n + 7) // 8))
        buffers.append(_cut(raw[1], (n + 7) // 8))
    elif t.is_primitive(kind) or t.is_decimal(kind) or t.is_fixed_size_binary(kind):
        buffers.append(_cut(validity, (n + 7) // 8))
        buffers.append(_cut(raw[1], n * kind.bit_width // 8))
    else:
        raise pa.ArrowNotImplementedError(f"columns of type {kind} are not stored")


def _cut(buffer: Any, size: int) -> Any:
    if buffer is None or size == 0:
        return None
    return buffer if buffer.size == size else buffer.slice(0, size)


def batch_message(batch: pa.RecordBatch, offset: int) -> tuple[bytes, list[Any], int]:
    """(framed metadata, body buffers with their padding, body length) of a batch that begins at file ``offset``.

    The body, and every buffer in it, lies on a multiple of 64 of the file; a large buffer, and a body that holds one, on a page.
    """
    nodes: list[tuple[int, int]] = []
    buffers: list[Any] = []
    for column in batch.columns:
        column_buffers(column, nodes, buffers)
    body: list[Any] = []
    places: list[tuple[int, int]] = []
    at = 0
    begin = PAGE if any(b is not None and b.size >= LARGE for b in buffers) else ALIGN
    for buffer in buffers:
        size = 0 if buffer is None else buffer.size
        if size >= LARGE and at % PAGE:
            body.append(bytes(-at % PAGE))
            at += -at % PAGE
        places.append((at, size))
        if size:
            body.append(buffer)
            pad = -size % ALIGN
            if pad:
                body.append(bytes(pad))
            at += size + pad
    message = record_batch(batch.num_rows, nodes, places, at)
    pad = -(offset + 8 + len(message)) % begin
    message += bytes(pad)
    return struct.pack("<Ii", 0xFFFFFFFF, len(message)) + message, body, at


def record_batch(rows: int, nodes: list[tuple[int, int]], places: list[tuple[int, int]], body: int) -> bytes:
    """A Message table holding a RecordBatch table, laid out so that every field is aligned by construction."""
    head = bytearray(72)
    struct.pack_into("<I", head, 0, 16)
    # Message: vtable at 4, table at 16 (version at +16, header type +18, header +4, body length +8)
    struct.pack_into("<6H", head, 4, 12, 20, 16, 18, 4, 8)
    struct.pack_into("<iIqhB", head, 16, 12, 48 - 20, body, _METADATA_V5, _RECORD_BATCH)
    # RecordBatch: vtable at 36, table at 48 (length at +8, nodes +4, buffers +16)
    struct.pack_into("<5H", head, 36, 10, 20, 8, 4, 16)
    end_of_nodes = 72 + 16 * len(nodes)
    struct.pack_into("<iIqII", head, 48, 12, 68 - 52, rows, end_of_nodes + 4 - 64, len(nodes))
    parts = [bytes(head), *(struct.pack("<qq", n, nulls) for n, nulls in nodes)]
    parts.append(struct.pack("<II", 0, len(places)))
    parts.extend(struct.pack("<qq", o, n) for o, n in places)
    return b"".join(parts)


def footer(schema: pa.Schema, blocks: list[tuple[int, int, int]]) -> bytes:
    """The footer flatbuffer: pyarrow's for no batches, its empty block list replaced by ours.

    ``blocks`` are (offset, framed metadata length, body length). The footer's table is at the front of its
    buffer, so a list appended at the end is reached by a forward offset, as the format wants.
    """
    sink = pa.BufferOutputStream()
    pa.ipc.new_file(sink, schema).close()
    whole = sink.getvalue().to_pybytes()
    (length,) = struct.unpack_from("<i", whole, len(whole) - 10)
    made = bytearray(whole[len(whole) - 10 - length : len(whole) - 10])
    (table,) = struct.unpack_from("<I", made, 0)
    vtable = table - struct.unpack_from("<i", made, table)[0]
    (slot,) = struct.unpack_from("<H", made, vtable + 4 + 2 * 3)  # field 3: recordBatches
    made += bytes(-len(made) % 8 + 4)
    struct.pack_into("<I", made, table + slot, len(made) - (table + slot))
    made += struct.pack("<I", len(blocks))
    for block in blocks:
        made += struct.pack("<qi4xq", *block)
    return bytes(made)
