"""RaBitQ: a random rotation, a few bits a value, and a factor that makes inner products unbiased (Gao & Long, SIGMOD 2024, 2025)."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError
from . import REGISTRY
from .base import Quantizer, floats_of, pack_bits, rotated, rotation, unpack_bits, with_floats


@REGISTRY.register("rabitq")
class RabitQ(Quantizer):
    """Rows less the mean, rotated; each value the nearest point of a symmetric grid of 2**bits, whose width is chosen a row for the
    smallest angle. What a code stands for is scaled so that its inner product with the row is the row's squared norm: estimates of
    inner products with any query are unbiased over the rotation, with an error of O(2**-bits / sqrt(dim)) times the norms."""

    name, learned = "rabitq", ("mean", "turn")

    def __init__(self, dim: int, bits: int = 1, seed: int = 0) -> None:
        super().__init__(dim, seed, bits=bits)
        if not 1 <= bits <= 8:
            raise InvalidArgumentError(f"rabitq(bits={bits}); give 1 to 8")
        self.bits = int(bits)
        self._mean, self._turn = np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32)

    @property
    def code_bytes(self) -> int:
        return -(-self.dim * self.bits // 8) + 4

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mean": (self.dim,), "turn": (self.dim, self.dim)}

    def _fit(self, x: np.ndarray) -> None:
        self._mean = x.mean(0, dtype=np.float64).astype(np.float32)
        self._turn = rotation(self.dim, self.seed)

    def _grid(self, codes: np.ndarray) -> np.ndarray:
        """Grid points -(2**bits - 1)/2 … (2**bits - 1)/2, none at zero."""
        return codes.astype(np.float32) - np.float32((2**self.bits - 1) / 2)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        y = rotated(x - self._mean, np.ascontiguousarray(self._turn.T))
        norms = np.sqrt((y.astype(np.float64) ** 2).sum(1))
        codes = (y >= 0).astype(np.uint8)
        best = np.full(len(y), -np.inf)
        top = 2**self.bits - 1
        spread = np.abs(y).max(1, keepdims=True)
        spread = np.where(spread > 0, spread, np.float32(1))
        for share in () if self.bits == 1 else np.linspace(0.35, 1.0, 14):
            # a unit of the grid is this part of the row's largest value
            unit = spread * np.float32(2 * share / (top + 1))
            points = np.floor(y / unit)
            points += np.float32(0.5)
            np.clip(points, -top / 2, top / 2, out=points)
            angle = np.einsum("nd,nd->n", points, y) / np.sqrt(np.einsum("nd,nd->n", points, points))
            rows = np.flatnonzero(angle > best)
            best[rows] = angle[rows]
            codes[rows] = points[rows] + np.float32(top / 2)
        points = self._grid(codes).astype(np.float64)
        inner = (points * y).sum(1)
        factor = np.where(inner > 0, norms**2 / np.where(inner > 0, inner, 1), 0)
        return with_floats(pack_bits(codes, self.bits), factor)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        (factor,) = floats_of(codes, 1)
        points = self._grid(unpack_bits(np.ascontiguousarray(codes[:, :-4]), self.bits, self.dim)) * factor[:, None]
        return rotated(points, self._turn) + self._mean
