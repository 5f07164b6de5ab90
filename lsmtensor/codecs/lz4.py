"""LZ4 blocks, by the lz4 package: the fastest to decode."""

from __future__ import annotations

import numpy as np

from . import REGISTRY


@REGISTRY.register("lz4")
class Lz4:
    name, compresses = "lz4", True

    def __init__(self, itemsize: int = 1) -> None:
        import lz4.block  # first use, not import of the package

        self._library = lz4.block

    def encode(self, data: np.ndarray) -> np.ndarray:
        return np.frombuffer(self._library.compress(data.data, store_size=False), np.uint8)

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        return np.frombuffer(self._library.decompress(data.data, uncompressed_size=limit), np.uint8)
