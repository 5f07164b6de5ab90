"""An array that grows at its end."""

from __future__ import annotations

from typing import Any

import numpy as np


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins with a cache line: rows of whole lines then share none with their neighbours."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


class Rows:
    """Rows of one shape and dtype. Appending costs O(1) a row in the long run; a borrowed array, such as a file's
    map, is not copied before the first append to it."""

    def __init__(self, array: np.ndarray) -> None:
        self._room, self._n, self._mine = array, len(array), False

    def __len__(self) -> int:
        return self._n

    @property
    def array(self) -> np.ndarray:
        """The rows as a view; later appends may leave it behind."""
        return self._room[: self._n]

    @property
    def nbytes(self) -> int:
        return self._room.nbytes

    def append(self, rows: np.ndarray) -> None:
        n = self._n + len(rows)
        if not self._mine or n > len(self._room):
            # exact at first (one load is the common case), then by half
            room = aligned((n if self._n == 0 else n + n // 2, *self._room.shape[1:]), self._room.dtype)
            room[: self._n] = self.array
            self._room, self._mine = room, True
        self._room[self._n : n] = rows
        self._n = n

    def part(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), a view."""
        return self.array[start:stop]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, a copy."""
        return self.array[rows]

    def kept(self, rows: np.ndarray) -> Rows:
        """These alone."""
        return Rows(self.array[rows])

    def cut(self, n: int) -> None:
        self._n = min(n, self._n)
