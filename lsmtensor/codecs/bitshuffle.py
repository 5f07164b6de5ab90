"""Bit shuffle: the first bits of all values, then the second, … (Masui et al., Astronomy and Computing 2015)."""

from __future__ import annotations

import numpy as np

from .. import kernels
from . import REGISTRY


@REGISTRY.register("bitshuffle")
class BitShuffle:
    """Values beyond a multiple of eight stay where they are, after the planes."""

    name, compresses = "bitshuffle", False

    def __init__(self, itemsize: int = 1) -> None:
        self._width = itemsize

    def encode(self, data: np.ndarray) -> np.ndarray:
        return np.asarray(kernels.storage().bitshuffle(data, self._width))

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        return np.asarray(kernels.storage().unbitshuffle(data, self._width))
