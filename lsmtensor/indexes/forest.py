"""An LSH forest: where walks begin (Bawa et al., WWW 2005).

A row has in each table a key of 32 bits, the sides of hyperplanes through the mean that it lies on. Keys are in order, so that the rows around a query's place
share the longest prefixes with it, however crowded the place is: buckets that split where there are many rows, as one sorted array.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.contract import IP
from .codes import CodedRows, inverse_norms

BITS = 32
# rows hashed at a time
BLOCK = 16384


@dataclass(frozen=True)
class Forest:
    """float32 ``planes`` (t, 32, d) and ``shifts`` (t, 32); uint32 ``keys`` in order and the ``rows`` that have them, (t, n).

    A query asks for ``nprobe`` keys in each table and takes ``window`` rows around each.
    """

    planes: np.ndarray
    shifts: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    nprobe: int
    window: int
    kernels: Any

    @cached_property
    def planted(self) -> Any:
        """The form that the kernels take, made once."""
        return self.kernels.code_forest(self.planes, self.shifts, self.keys, self.rows, self.nprobe, self.window)

    @classmethod
    def plant(cls, vectors: np.ndarray, coded: CodedRows, trees: tuple[int, int, int], seed: int, kernels: Any, step: int = BLOCK) -> Forest:
        """Over rows (n, d) as they are coded, so many at a time; ``trees`` are tables, nprobe and window. O(n tables (32 d + log n))."""
        tables, nprobe, window = trees
        assert coded.grid is not None
        n, d = vectors.shape
        planes = np.random.default_rng(seed).standard_normal((tables * BITS, d), np.float32)
        shifts = -kernels.pairwise(coded.grid.mean[None], planes, IP).reshape(tables, BITS)
        keys = np.empty((tables, n), np.uint32)
        for at in range(0, n, step):
            some = vectors[at : at + step]
            sides = -kernels.pairwise(some * inverse_norms(some, coded.metric)[:, None], planes, IP).reshape(len(some), tables, BITS)
            keys[:, at : at + step] = np.packbits(sides > shifts, axis=2).view(">u4")[:, :, 0].T
        rows = np.argsort(keys, axis=1, kind="stable").astype(np.uint32)
        return cls(planes.reshape(tables, BITS, d), shifts, np.ascontiguousarray(np.take_along_axis(keys, rows, 1)), rows, nprobe, window, kernels)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"planes": self.planes, "shifts": self.shifts, "keys": self.keys, "keyed": self.rows}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], n: int, dim: int, trees: tuple[int, int, int], kernels: Any) -> Forest | None:
        """What `arrays` gave, None where there is none; `CorruptionError` for anything else."""
        if "planes" not in arrays:
            return None
        tables, nprobe, window = trees
        planes, shifts, keys, rows = (arrays.get(name, np.empty((0, 0), np.uint8)) for name in ("planes", "shifts", "keys", "keyed"))
        shapes = planes.shape == (tables, BITS, dim) and shifts.shape == (tables, BITS) and rows.shape == keys.shape and keys.shape[0] == tables
        dtypes = planes.dtype == shifts.dtype == np.float32 and keys.dtype == rows.dtype == np.uint32
        if not shapes or not dtypes or not 1 <= keys.shape[1] <= n or (rows >= n).any() or (keys[:, 1:] < keys[:, :-1]).any():
            raise CorruptionError(f"a forest over {n} rows has planes {planes.shape}, keys {keys.dtype} {keys.shape} out of order, or rows beyond them")
        if not np.isfinite(planes).all() or not np.isfinite(shifts).all():
            raise CorruptionError("the planes of a forest hold NaN or infinity")
        return cls(planes, shifts, keys, rows, nprobe, window, kernels)
