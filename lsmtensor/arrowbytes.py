"""Views of Arrow buffers as numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def binary_parts(keys: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(data uint8, offsets int32 of length n + 1) of a binary array, offsets into ``data``; no copy."""
    _, offsets, data = keys.buffers()
    n = len(keys)
    if n == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int32)
    starts = np.frombuffer(offsets, np.int32, n + 1, keys.offset * 4)
    return (np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)), starts


def stream_bytes(*arrays: pa.Array) -> bytes:
    """Arrays of one type as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([pa.field("value", arrays[0].type)])) as writer:
        for array in arrays:
            writer.write_batch(pa.RecordBatch.from_arrays([array], names=["value"]))
    made: bytes = sink.getvalue().to_pybytes()
    return made


def stream_arrays(data: Any) -> list[pa.Array]:
    """What `stream_bytes` was given, as views of ``data``."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return [batch.column(0) for batch in reader]
