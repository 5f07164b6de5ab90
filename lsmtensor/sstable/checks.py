"""Comparing the chunks of a file with their checksums: each once in a process, large ranges by two threads, the next ones ahead.

Who reads a file from front to back, array after array, uses one stretch while a helper sums the next: the bytes are in memory and known
to be right when they are asked for.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from .. import kernels
from ..env.base import cores
from ..errors import CorruptionError
from ..metrics import count

LARGE = 4 << 20  # ranges below it are summed where they are asked for
PIECE = 1 << 20  # what a thread sums before it looks what is next
AHEAD = 64 << 20  # no more than this is summed before it is asked for
GAP = 1 << 20  # between what was read last and what goes on with it: keys, offsets, padding


class Checks:
    """Which chunks of a file were found right. Thread-safe without a lock: a flag only rises, and a chunk summed twice is as right."""

    def __init__(self, data: np.ndarray, crcs: np.ndarray, chunk: int, end: int, number: int, path: str) -> None:
        self._data, self._crcs, self._chunk, self._end, self._number, self._path = data, crcs, chunk, end, number, path
        self.good, self.whole = np.zeros(len(crcs), bool), False
        self._last = -1  # where the last large range ended
        self._helper: _Helper | None = None

    def forget(self) -> None:
        """Look at everything anew."""
        self.good[:], self.whole = False, False

    def check(self, start: int, end: int) -> None:
        """The chunks under [start, end). Raises `CorruptionError` for the first that is damaged."""
        if end <= start or self.whole:
            return
        first, last = start // self._chunk, -(-end // self._chunk)
        if end - start >= LARGE:
            self._together(first, last, start)
        if not self.good[first:last].all():
            self._sum(first, last)
        self.whole = bool(self.good.all())

    def _sum(self, first: int, last: int) -> None:
        """Chunks [first, last) that are not good yet, stretch by stretch: one call of the kernel each."""
        size, crcs = self._chunk, kernels.storage().crc32c_chunks  # type: ignore[attr-defined]
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

    def _together(self, first: int, last: int, start: int) -> None:
        """Sum a large range with a helper, which goes on behind it where the file is read from front to back."""
        sequential = 0 <= start - self._last <= GAP
        self._last = min(last * self._chunk, self._end)
        if cores() < 2:
            return
        ahead = min(len(self.good), last + min(last - first, AHEAD // self._chunk)) if sequential else last
        step = max(1, PIECE // self._chunk)
        if not self.good[first:ahead].all():
            if self._helper is None or not self._helper.extend(ahead, sequential):
                if self._helper is not None and self._helper.is_alive():
                    return  # at work elsewhere
                self._helper = _Helper(self, first, ahead, step)
                self._helper.start()
            self._helper.work(last)
            self._helper.wait(first, last)


class _Helper(threading.Thread):
    """Sums pieces in order, as does whoever calls `work`: each takes the next that nobody has. Damage is left for the reader to find."""

    def __init__(self, checks: Checks, first: int, last: int, step: int) -> None:
        super().__init__(name="lsmtensor-ahead", daemon=True)
        self._checks, self._next, self._last, self._step = checks, first, last, step
        self._lock = threading.Lock()
        self._over = False

    def extend(self, last: int, sequential: bool) -> bool:
        """Go on to ``last``; False where that is not what comes next, or the thread is at its end or is one of this process's parent."""
        with self._lock:
            if self._over or not sequential or not self.is_alive():
                return False
            self._last = max(self._last, last)
            return True

    def _take(self, limit: int | None) -> int:
        with self._lock:
            at = self._next
            if at >= (self._last if limit is None else min(limit, self._last)):
                self._over = self._over or limit is None
                return -1
            self._next = at + self._step
            return at

    def work(self, limit: int | None = None) -> None:
        while (at := self._take(limit)) >= 0:
            try:
                self._checks._sum(at, min(at + self._step, len(self._checks.good)))
            except CorruptionError:
                continue  # not good: said when it is read

    def run(self) -> None:
        self.work()

    def wait(self, first: int, last: int) -> None:
        """Until the helper is through with [first, last); at once where it is not at work there."""
        for _ in range(10_000):
            if self._over or self._checks.good[first:last].all() or not self.is_alive():
                return
            time.sleep(0.00005)
