"""Locally adaptive quantization: rows minus the mean, each on a grid of its own (Aguerrebere et al., PVLDB 2023); and ``int4``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..errors import InvalidArgumentError
from . import REGISTRY
from .base import Quantizer, floats_of, signs, unpack_bits

# how far inside a row's extremes its grid may end: the few values beyond it cost less than a finer grid gains
SHRINK = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7], np.float32)


@REGISTRY.register("lvq")
class Lvq(Quantizer):
    """``bits`` a value and two floats a row. With ``second`` bits the error of the first level is coded again, on a grid as wide as
    its step: two levels, of which a search may read one. ``rotate`` makes the values of a row alike first."""

    name, learned = "lvq", ("mean", "signs")

    def __init__(self, dim: int, bits: int = 4, second: int = 0, rotate: bool = True, seed: int = 0) -> None:
        super().__init__(dim, seed, bits=bits, second=second, rotate=rotate)
        if not 1 <= bits <= 8 or not 0 <= second <= 8:
            raise InvalidArgumentError(f"{self.name}(bits={bits}, second={second}); give 1 to 8, and 0 to 8 for the second level")
        self.bits, self.second, self.rotate = int(bits), int(second), bool(rotate)
        self._mean = np.zeros(dim, np.float32)
        self._signs = signs(dim, seed)[: 4 if rotate else 0]

    @property
    def code_bytes(self) -> int:
        return -(-self.dim * self.bits // 8) + -(-self.dim * self.second // 8) + 8

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mean": (self.dim,), "signs": (4 if self.rotate else 0, self.dim)}

    def _fit(self, x: np.ndarray) -> None:
        self._mean = x.mean(0, dtype=np.float64).astype(np.float32)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        run: Any = kernels.choose()
        y = run.turn(x - self._mean, self._signs, False)
        made: np.ndarray = run.grid_encode(y, self.bits, self.second, SHRINK if self.bits < 8 and not self.second else SHRINK[:1])
        return made

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        low, step = (f[:, None] for f in floats_of(codes, 2))
        first = -(-self.dim * self.bits // 8)
        y = unpack_bits(np.ascontiguousarray(codes[:, :first]), self.bits, self.dim).astype(np.float32)
        if self.second:
            stop = first + -(-self.dim * self.second // 8)
            rest = unpack_bits(np.ascontiguousarray(codes[:, first:stop]), self.second, self.dim)
            y += (rest + np.float32(0.5)) / np.float32(2**self.second) - np.float32(0.5)
        run: Any = kernels.choose()
        made: np.ndarray = run.turn(y * step + low, self._signs, True) + self._mean
        return made


@REGISTRY.register("int4")
class Int4(Lvq):
    """Four bits a value, centred and rotated, each row on a grid of its own: `Lvq` with 4 bits and one level."""

    name = "int4"

    def __init__(self, dim: int, rotate: bool = True, seed: int = 0) -> None:
        super().__init__(dim, 4, 0, rotate, seed)
        self._params = {"rotate": rotate}
