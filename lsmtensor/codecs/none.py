"""No codec: the bytes as they are, read without a copy."""

from __future__ import annotations

import numpy as np

from . import REGISTRY


@REGISTRY.register("none")
class Plain:
    name, compresses = "none", False

    def __init__(self, itemsize: int = 1) -> None:
        self.itemsize = itemsize

    def encode(self, data: np.ndarray) -> np.ndarray:
        return data

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        return data
