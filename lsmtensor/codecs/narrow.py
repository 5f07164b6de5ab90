"""float32 values that are bf16 or float16 ones in wide clothes, stored as those: half the bytes, nothing lost."""

from __future__ import annotations

import numpy as np

from . import REGISTRY

PLAIN, BF16, FP16 = 0, 1, 2


@REGISTRY.register("narrow")
class Narrow:
    """One byte says how the rest is stored: 0 as it is, 1 the high halves (bf16), 2 float16. Judged by all values, to the bit."""

    name, compresses = "narrow", False

    def __init__(self, itemsize: int = 1) -> None:
        self._applies = itemsize == 4

    def encode(self, data: np.ndarray) -> np.ndarray:
        kind, body = PLAIN, data
        if self._applies and len(data) and len(data) % 4 == 0:
            bits = np.ascontiguousarray(data).view(np.uint32)
            if not (bits & np.uint32(0xFFFF)).any():
                kind, body = BF16, (bits >> np.uint32(16)).astype(np.uint16).view(np.uint8)
            else:
                with np.errstate(over="ignore", invalid="ignore"):
                    half = bits.view(np.float32).astype(np.float16)
                if np.array_equal(half.astype(np.float32).view(np.uint32), bits):
                    kind, body = FP16, half.view(np.uint8)
        return np.concatenate([np.array([kind], np.uint8), body])

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        kind, body = int(data[0]), np.ascontiguousarray(data[1:])
        if kind == PLAIN:
            return body
        if kind == BF16:
            return (body.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.uint8)
        if kind == FP16:
            return body.view(np.float16).astype(np.float32).view(np.uint8)
        raise ValueError(f"kind {kind} of narrow values")
