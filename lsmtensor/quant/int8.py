"""Eight-bit integers with a scale: ``x ~ scale * code``, or ``scale * code + offset``."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError
from . import REGISTRY
from .base import Quantizer, floats_of

GRANULARITIES = ("vector", "channel", "tensor")


@REGISTRY.register("int8")
class Int8(Quantizer):
    """``per`` vector (the default: a scale of its own for each row), channel or tensor (scales learned by `fit`). ``affine`` adds an
    offset and uses the whole range. An error of at most half a step, range / 254, a value."""

    name, learned = "int8", ("low", "high")

    def __init__(self, dim: int, per: str = "vector", affine: bool = False, seed: int = 0) -> None:
        super().__init__(dim, seed, per=per, affine=affine)
        if per not in GRANULARITIES:
            raise InvalidArgumentError(f"int8(per={per!r}); give one of {', '.join(GRANULARITIES)}")
        self.per, self.affine = per, bool(affine)
        self._low = self._high = np.zeros(dim, np.float32)
        self.fitted = per == "vector"

    @property
    def code_bytes(self) -> int:
        return self.dim + (4 * (1 + self.affine) if self.per == "vector" else 0)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"low": (self.dim,), "high": (self.dim,)}

    def _fit(self, x: np.ndarray) -> None:
        axis = None if self.per == "tensor" else 0
        self._low = np.broadcast_to(x.min(axis), (self.dim,)).astype(np.float32)
        self._high = np.broadcast_to(x.max(axis), (self.dim,)).astype(np.float32)

    def _range(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(step, offset) that fit rows or channels; a constant range has a step of 1, and its codes are 0."""
        low, high = (x.min(1, keepdims=True), x.max(1, keepdims=True)) if self.per == "vector" else (self._low, self._high)
        if self.affine:
            step, offset = (high - low) / np.float32(255), low + (high - low) * np.float32(128 / 255)
        else:
            step, offset = np.maximum(np.abs(low), np.abs(high)) / np.float32(127), np.zeros_like(low)
        return np.where(step > 0, step, np.float32(1)).astype(np.float32), offset.astype(np.float32)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        step, offset = self._range(x)
        least = -128 if self.affine else -127
        y = x - offset
        y /= step
        codes = np.clip(np.rint(y, out=y), least, 127, out=y).astype(np.int8).view(np.uint8)
        if self.per != "vector":
            return codes
        return np.concatenate([codes, step.view(np.uint8), *([offset.view(np.uint8)] if self.affine else [])], 1)

    def _bound(self, x: np.ndarray) -> np.ndarray:
        """Half a step, and for values past a learned range how far past."""
        step, offset = self._range(x)
        reach = step * np.float32(127)
        past = np.abs(x - offset) - reach
        return np.maximum(past, np.broadcast_to(step / 2 * np.float32(1.0001), x.shape)) + np.spacing(np.abs(x) + np.abs(offset)) * 4

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(codes[:, : self.dim]).view(np.int8).astype(np.float32)
        if self.per == "vector":
            step, *offset = (f[:, None] for f in floats_of(codes, 1 + self.affine))
            return values * step + (offset[0] if offset else np.float32(0))
        steps, offsets = self._range(values)
        return values * steps + offsets
