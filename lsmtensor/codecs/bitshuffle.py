"""Bit shuffle: the first bits of all values, then the second, … (Masui et al., Astronomy and Computing 2015)."""

from __future__ import annotations

import numpy as np

from . import REGISTRY


@REGISTRY.register("bitshuffle")
class BitShuffle:
    """Values beyond a multiple of eight stay where they are, after the planes."""

    name, compresses = "bitshuffle", False

    def __init__(self, itemsize: int = 1) -> None:
        self._width = itemsize

    def _whole(self, n: int) -> int:
        return n // (8 * self._width) * 8 * self._width

    def encode(self, data: np.ndarray) -> np.ndarray:
        whole = self._whole(len(data))
        bits = np.unpackbits(data[:whole].reshape(-1, self._width), axis=1, bitorder="little")
        planes = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little").reshape(-1)
        return np.concatenate([planes, data[whole:]])

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        whole = self._whole(len(data))
        planes = data[:whole].reshape(8 * self._width, -1)
        bits = np.unpackbits(planes, axis=1, bitorder="little")
        values = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little").reshape(-1)
        return np.concatenate([values, data[whole:]])
