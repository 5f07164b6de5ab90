"""Byte shuffle: the first bytes of all values, then the second, … Exponents lie together and compress (Alted, CISE 2010)."""

from __future__ import annotations

import numpy as np

from . import REGISTRY


@REGISTRY.register("shuffle")
class Shuffle:
    """Bytes after the last whole value stay where they are."""

    name, compresses = "shuffle", False

    def __init__(self, itemsize: int = 1) -> None:
        self._width = itemsize

    def encode(self, data: np.ndarray) -> np.ndarray:
        whole = len(data) // self._width * self._width
        planes = np.ascontiguousarray(data[:whole].reshape(-1, self._width).T).reshape(-1)
        return np.concatenate([planes, data[whole:]]) if whole < len(data) else planes

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        whole = len(data) // self._width * self._width
        values = np.ascontiguousarray(data[:whole].reshape(self._width, -1).T).reshape(-1)
        return np.concatenate([values, data[whole:]]) if whole < len(data) else values
