"""A uniform grid of 2**bits steps for each dimension, between bounds learned from the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..errors import InvalidArgumentError
from . import REGISTRY
from .base import Quantizer, unpack_bits


@REGISTRY.register("scalar")
class Scalar(Quantizer):
    """``range`` minmax, or quantile: the middle 1 - 2 ``tail`` of each dimension, which outliers do not stretch."""

    name, learned = "scalar", ("low", "high")

    def __init__(self, dim: int, bits: int = 8, range: str = "minmax", tail: float = 0.005, seed: int = 0) -> None:  # noqa: A002
        super().__init__(dim, seed, bits=bits, range=range, tail=tail)
        if not 1 <= bits <= 8:
            raise InvalidArgumentError(f"scalar(bits={bits}); give 1 to 8")
        if range not in ("minmax", "quantile") or not 0 <= tail < 0.5:
            raise InvalidArgumentError(f"scalar(range={range!r}, tail={tail}); give minmax or quantile, and a tail of 0 to 0.5")
        self.bits, self.range, self.tail = int(bits), range, float(tail)
        self._low = self._high = np.zeros(dim, np.float32)

    @property
    def code_bytes(self) -> int:
        return -(-self.dim * self.bits // 8)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"low": (self.dim,), "high": (self.dim,)}

    def _fit(self, x: np.ndarray) -> None:
        tail = self.tail if self.range == "quantile" else 0.0
        self._low, self._high = np.quantile(x, [tail, 1 - tail], axis=0).astype(np.float32)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        top = np.float32(2**self.bits - 1)
        span = np.where(self._high > self._low, self._high - self._low, np.float32(1))
        run: Any = kernels.choose()
        made: np.ndarray = run.scalar_encode(x, self._low, top / span, self.bits)
        return made

    def _bound(self, x: np.ndarray) -> np.ndarray:
        """Half a step, and for values past the range how far past."""
        half = (self._high - self._low) / np.float32(2 * (2**self.bits - 1))
        past = np.maximum(self._low - x, x - self._high)
        return np.maximum(past, half) + 4 * np.spacing(np.abs(x) + np.abs(self._low) + np.abs(self._high))

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        step = (self._high - self._low) / np.float32(2**self.bits - 1)
        return unpack_bits(codes, self.bits, self.dim).astype(np.float32) * step + self._low
