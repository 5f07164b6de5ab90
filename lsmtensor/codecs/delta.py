"""Differences of neighbouring values, as integers of their width: for counters, times and sorted ids."""

from __future__ import annotations

import numpy as np

from . import REGISTRY

_WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@REGISTRY.register("delta")
class Delta:
    """The bits of a value minus those of the one before, modulo its width; exact for any bits."""

    name, compresses = "delta", False

    def __init__(self, itemsize: int = 1) -> None:
        self._dtype = np.dtype(_WIDTHS.get(itemsize, np.uint64))

    def encode(self, data: np.ndarray) -> np.ndarray:
        whole = len(data) // self._dtype.itemsize * self._dtype.itemsize
        values = np.ascontiguousarray(data[:whole]).view(self._dtype)
        steps = np.diff(values, prepend=self._dtype.type(0))
        return np.concatenate([steps.view(np.uint8), data[whole:]])

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        whole = len(data) // self._dtype.itemsize * self._dtype.itemsize
        values = np.cumsum(np.ascontiguousarray(data[:whole]).view(self._dtype), dtype=self._dtype)
        return np.concatenate([values.view(np.uint8), data[whole:]])
