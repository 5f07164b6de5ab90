"""Byte shuffle: the first bytes of all values, then the second, … Exponents lie together and compress (Alted, CISE 2010)."""

from __future__ import annotations

import numpy as np

from .. import kernels
from . import REGISTRY


@REGISTRY.register("shuffle")
class Shuffle:
    """Bytes after the last whole value stay where they are."""

    name, compresses = "shuffle", False

    def __init__(self, itemsize: int = 1) -> None:
        self._width = itemsize

    def encode(self, data: np.ndarray) -> np.ndarray:
        return np.asarray(kernels.storage().shuffle(data, self._width))

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        return np.asarray(kernels.storage().unshuffle(data, self._width))
