"""Comparing the chunks of a file with their checksums: each once in a process."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..errors import CorruptionError
from ..metrics import count


class Checks:
    """Which chunks of a file were found right. Thread-safe without a lock: a flag only rises, and a chunk summed twice is as right."""

    def __init__(self, data: np.ndarray, crcs: np.ndarray, chunk: int, end: int, number: int, path: str) -> None:
        self._data, self._crcs, self._chunk, self._end, self._number, self._path = data, crcs, chunk, end, number, path
        self.good, self.whole = np.zeros(len(crcs), bool), False

    def forget(self) -> None:
        """Look at everything anew."""
        self.good[:], self.whole = False, False

    def check(self, start: int, end: int) -> None:
        """The chunks under [start, end). Raises `CorruptionError` for the first that is damaged."""
        if end <= start or self.whole:
            return
        first, last = start // self._chunk, -(-end // self._chunk)
        if not self.good[first:last].all():
            self._sum(first, last)
        self.whole = bool(self.good.all())

    def check_rows(self, at: int, width: int, n: int, rows: np.ndarray) -> None:
        """The chunks under some of the ``n`` rows of ``width`` bytes from ``at``."""
        first, last = at // self._chunk, -(-(at + n * width) // self._chunk)
        if not len(rows) or np.count_nonzero(self.good[first:last]) == last - first:
            return
        begins, ends = (at + rows * width) // self._chunk, (at + (rows + 1) * width - 1) // self._chunk
        spans = [begins, ends]
        if int((ends - begins).max()) > 1:
            spans = [np.arange(a, b + 1) for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        touched = np.concatenate(spans)
        if not self.good[touched].all():
            for chunk in np.unique(touched).tolist():
                self.check(chunk * self._chunk, min((chunk + 1) * self._chunk, self._end))

    def _sum(self, first: int, last: int) -> None:
        """Chunks [first, last) that are not good yet, stretch by stretch: one call of the kernel each."""
        crcs: Any = kernels.storage().crc32c_chunks
        size = self._chunk
        while first < last:
            good = self.good[first:last]
            if good.all():
                return
            first += int(np.argmin(good))
            good = self.good[first:last]
            run = int(np.argmax(good)) if good.any() else len(good)
            at, stop = first * size, min((first + run) * size, self._end)
            count("bytes_checked", stop - at)
            wrong = np.flatnonzero(crcs(self._data[at:stop], size, self._number, at) != self._crcs[first : first + run])
            if len(wrong):
                at += int(wrong[0]) * size
                raise CorruptionError(
                    f"chunk {at // size} ({min(size, stop - at)} bytes) is damaged; `lsmtensor repair` salvages what verifies", self._path, at
                )
            self.good[first : first + run] = True
            first += run
