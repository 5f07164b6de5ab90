"""Locally adaptive quantization: rows minus the mean, each on a grid of its own (Aguerrebere et al., PVLDB 2023); and ``int4``."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError
from . import REGISTRY
from .base import Quantizer, floats_of, pack_bits, rotated, rotation, unpack_bits, with_floats

# how far inside a row's extremes its grid may end: the few values beyond it cost less than a finer grid gains
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@REGISTRY.register("lvq")
class Lvq(Quantizer):
    """``bits`` a value and two floats a row. With ``second`` bits the error of the first level is coded again, on a grid as wide as
    its step: two levels, of which a search may read one. ``rotate`` makes the values of a row alike first (a matrix is learned)."""

    name, learned = "lvq", ("mean", "turn")

    def __init__(self, dim: int, bits: int = 4, second: int = 0, rotate: bool = True, seed: int = 0) -> None:
        super().__init__(dim, seed, bits=bits, second=second, rotate=rotate)
        if not 1 <= bits <= 8 or not 0 <= second <= 8:
            raise InvalidArgumentError(f"{self.name}(bits={bits}, second={second}); give 1 to 8, and 0 to 8 for the second level")
        self.bits, self.second, self.rotate = int(bits), int(second), bool(rotate)
        self._mean = np.zeros(dim, np.float32)
        self._turn = np.zeros((dim if rotate else 0, dim if rotate else 0), np.float32)

    @property
    def code_bytes(self) -> int:
        return -(-self.dim * self.bits // 8) + -(-self.dim * self.second // 8) + 8

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        side = self.dim if self.rotate else 0
        return {"mean": (self.dim,), "turn": (side, side)}

    def _fit(self, x: np.ndarray) -> None:
        self._mean = x.mean(0, dtype=np.float64).astype(np.float32)
        if self.rotate:
            self._turn = rotation(self.dim, self.seed)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        y = x - self._mean
        if self.rotate:
            y = rotated(y, np.ascontiguousarray(self._turn.T))
        top = np.float32(2**self.bits - 1)
        low, high = y.min(1, keepdims=True), y.max(1, keepdims=True)
        middle, half = (low + high) / 2, (high - low) / 2
        best = np.full((len(y), 1), np.inf, np.float32)
        codes, steps, lows = np.zeros(y.shape, np.uint8), np.zeros_like(low), low.copy()
        for share in SHRINK if self.bits < 8 and not self.second else SHRINK[:1]:
            start = middle - half * np.float32(share)
            step = 2 * half * np.float32(share) / top
            step = np.where(step > 0, step, np.float32(1))
            tried = y - start
            tried /= step
            np.clip(np.rint(tried, out=tried), 0, top, out=tried)
            missed = tried * step
            missed += start
            missed -= y
            error = np.einsum("nd,nd->n", missed, missed)[:, None]
            better = error < best
            rows = np.flatnonzero(better)
            codes[rows] = tried[rows]
            best, steps, lows = np.where(better, error, best), np.where(better, step, steps), np.where(better, start, lows)
        parts = [pack_bits(codes, self.bits)]
        if self.second:
            finer = np.float32(2**self.second)
            rest = (y - (codes * steps + lows)) / steps + np.float32(0.5)  # 0 to 1 where the first level did not clip
            parts.append(pack_bits(np.clip(np.floor(rest * finer), 0, finer - 1), self.second))
        return with_floats(np.concatenate(parts, 1), lows[:, 0], steps[:, 0])

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        low, step = (f[:, None] for f in floats_of(codes, 2))
        first = -(-self.dim * self.bits // 8)
        y = unpack_bits(np.ascontiguousarray(codes[:, :first]), self.bits, self.dim).astype(np.float32)
        if self.second:
            stop = first + -(-self.dim * self.second // 8)
            rest = unpack_bits(np.ascontiguousarray(codes[:, first:stop]), self.second, self.dim)
            y += (rest + np.float32(0.5)) / np.float32(2**self.second) - np.float32(0.5)
        y = y * step + low
        if self.rotate:
            y = rotated(y, self._turn)
        return np.asarray(y + self._mean, np.float32)


@REGISTRY.register("int4")
class Int4(Lvq):
    """Four bits a value, centred and rotated, each row on a grid of its own: `Lvq` with 4 bits and one level."""

    name = "int4"

    def __init__(self, dim: int, rotate: bool = True, seed: int = 0) -> None:
        super().__init__(dim, 4, 0, rotate, seed)
        self._params = {"rotate": rotate}
