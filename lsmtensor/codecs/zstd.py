"""Zstandard (RFC 8878), by the zstandard package: the best ratio of the general compressors."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError
from . import REGISTRY


@REGISTRY.register("zstd")
class Zstd:
    """``level`` from -7 (fast) to 22 (small)."""

    name, compresses = "zstd", True

    def __init__(self, level: int = 3, itemsize: int = 1) -> None:
        if not -7 <= level <= 22:
            raise InvalidArgumentError(f"zstd(level={level}); give -7 to 22")
        import zstandard  # first use, not import of the package

        self._library, self._level = zstandard, level

    def encode(self, data: np.ndarray) -> np.ndarray:
        # compressors are not shared between threads; a new one costs a microsecond
        made = self._library.ZstdCompressor(level=self._level, write_content_size=True).compress(data.data)
        return np.frombuffer(made, np.uint8)

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        # the frame's own idea of its size is not believed: a hostile one would make us allocate
        size = self._library.frame_content_size(data.data)
        if not 0 <= size <= limit:
            raise ValueError(f"the frame says {size} bytes, at most {limit} are wanted")
        return np.frombuffer(self._library.ZstdDecompressor().decompress(data.data, max_output_size=size), np.uint8)
