"""Views of Arrow buffers as numpy."""

from __future__ import annotations

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
