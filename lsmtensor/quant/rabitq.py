"""RaBitQ: a random rotation, a few bits a value, and a factor that makes inner products unbiased (Gao & Long, SIGMOD 2024, 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..errors import InvalidArgumentError
from . import REGISTRY
from .base import Quantizer, floats_of, signs, unpack_bits

# how far of a row's largest value its grid may reach
SHARES = np.linspace(1.0, 0.35, 14).astype(np.float32)


@REGISTRY.register("rabitq")
class RabitQ(Quantizer):
    """Rows less the mean, rotated; each value the nearest point of a symmetric grid of 2**bits, whose width is chosen a row for the
    smallest angle. What a code stands for is scaled so that its inner product with the row is the row's squared norm: estimates of
    inner products with any query are unbiased over the rotation, with an error of O(2**-bits / sqrt(dim)) times the norms."""

    name, learned = "rabitq", ("mean", "signs")

    def __init__(self, dim: int, bits: int = 1, seed: int = 0) -> None:
        super().__init__(dim, seed, bits=bits)
        if not 1 <= bits <= 8:
            raise InvalidArgumentError(f"rabitq(bits={bits}); give 1 to 8")
        self.bits = int(bits)
        self._mean, self._signs = np.zeros(dim, np.float32), signs(dim, seed)

    @property
    def code_bytes(self) -> int:
        return -(-self.dim * self.bits // 8) + 4

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mean": (self.dim,), "signs": (4, self.dim)}

    def _fit(self, x: np.ndarray) -> None:
        self._mean = x.mean(0, dtype=np.float64).astype(np.float32)

    def _grid(self, codes: np.ndarray) -> np.ndarray:
        """Grid points -(2**bits - 1)/2 … (2**bits - 1)/2, none at zero."""
        return codes.astype(np.float32) - np.float32((2**self.bits - 1) / 2)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        run: Any = kernels.choose()
        made: np.ndarray = run.angle_encode(run.turn(x - self._mean, self._signs, False), self.bits, SHARES[:1] if self.bits == 1 else SHARES)
        return made

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        (factor,) = floats_of(codes, 1)
        points = self._grid(unpack_bits(np.ascontiguousarray(codes[:, :-4]), self.bits, self.dim)) * factor[:, None]
        run: Any = kernels.choose()
        made: np.ndarray = run.turn(points, self._signs, True) + self._mean
        return made
