"""Half-precision floats: ``fp16`` (11 bits of precision, to 65,504) and ``bf16`` (8 bits, the range of float32)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from . import REGISTRY
from .base import Quantizer


def halves(x: np.ndarray, brain: bool) -> np.ndarray:
    """uint8 (n, 2 dim)."""
    run: Any = kernels.choose()
    made: np.ndarray = run.half_encode(x, brain)
    return made.view(np.uint8)


@REGISTRY.register("fp16")
class Fp16(Quantizer):
    """IEEE half precision; values past its range take its ends. Relative error at most 2**-11."""

    name, trains = "fp16", False

    @property
    def code_bytes(self) -> int:
        return 2 * self.dim

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return halves(x, brain=False)

    def _bound(self, x: np.ndarray) -> np.ndarray:
        """Half a unit in the last place, and for values past the range how far past."""
        return np.maximum(np.abs(x) * np.float32(2**-11) + np.float32(2**-25), np.abs(x) - np.float32(65504))

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return codes.view("<f2").astype(np.float32)


@REGISTRY.register("bf16")
class Bf16(Quantizer):
    """The high half of float32, rounded to even. Relative error at most 2**-8."""

    name, trains = "bf16", False

    @property
    def code_bytes(self) -> int:
        return 2 * self.dim

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return halves(x, brain=True)

    def _bound(self, x: np.ndarray) -> np.ndarray:
        """Half a unit in the last place."""
        return np.abs(x) * np.float32(2**-8) + np.float32(2**-134)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return (codes.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
