"""The bits that differ from an older version of the same chunk: of checkpoints that are near each other, mostly zeros.

Exact for every bit pattern, NaN included, which the difference of floats would not be (BitX: Wang et al., ZipLLM, NSDI 2026).
"""

from __future__ import annotations

import numpy as np

from . import REGISTRY


@REGISTRY.register("xor")
class Xor:
    """Comes first in a chain; the chain gives it ``base``, the older bytes. Without them the bytes stay as they are."""

    name, compresses = "xor", False
    base: np.ndarray | None = None

    def __init__(self, itemsize: int = 1) -> None:
        self.itemsize = itemsize

    def against(self, base: np.ndarray | None) -> Xor:
        """The same codec with a base."""
        made = Xor(self.itemsize)
        made.base = base
        return made

    def encode(self, data: np.ndarray) -> np.ndarray:
        return data if self.base is None else np.bitwise_xor(data, self.base)

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        return self.encode(data)  # the same again undoes it
