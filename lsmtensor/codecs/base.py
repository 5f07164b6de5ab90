"""What a codec is: bytes to bytes and back, exactly."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Codec(Protocol):
    """``itemsize`` (1, 2, 4, 8, 16) is the width of the values that the bytes are. Filters keep the length; a compressor
    (``compresses``) changes it and comes last."""

    name: str
    compresses: bool

    def __init__(self, itemsize: int) -> None: ...
    def encode(self, data: np.ndarray) -> np.ndarray:
        """uint8 (n,) to uint8 (m,)."""
        ...

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        """The bytes that `encode` was given, at most ``limit``. Any exception means that they are not of this codec."""
        ...
