"""One bit a value: on which side of the middle it lies."""

from __future__ import annotations

import numpy as np

from ..kernels.numpy_grid import packed
from . import REGISTRY
from .base import Quantizer, unpack_bits


@REGISTRY.register("binary")
class Binary(Quantizer):
    """The sign of each value less the mean; a bit stands for the mean plus or minus the dimension's mean deviation."""

    name, learned = "binary", ("mean", "deviation")

    def __init__(self, dim: int, seed: int = 0) -> None:
        super().__init__(dim, seed)
        self._mean = self._deviation = np.zeros(dim, np.float32)

    @property
    def code_bytes(self) -> int:
        return -(-self.dim // 8)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mean": (self.dim,), "deviation": (self.dim,)}

    def _fit(self, x: np.ndarray) -> None:
        self._mean = x.mean(0, dtype=np.float64).astype(np.float32)
        self._deviation = np.abs(x - self._mean).mean(0, dtype=np.float64).astype(np.float32)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return packed(x > self._mean, 1)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        bits = unpack_bits(codes, 1, self.dim).astype(np.float32)
        return self._mean + (2 * bits - 1) * self._deviation
