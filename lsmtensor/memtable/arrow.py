"""The default memtable: record batches, and an index that readers build in bulk when they first ask.

Adding costs nothing per row, so a bulk load that nobody reads builds no index at all.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import count

import numpy as np
import pyarrow as pa

from . import REGISTRY
from .base import Memtable, View


@REGISTRY.register("arrow")
class ArrowMemtable(Memtable):
    """``get``: O(log n) a key for int64 keys, O(1) for bytes; the index takes 16 or about 150 bytes a row."""

    def __init__(self, key_kind: str, physical: pa.Schema) -> None:
        super().__init__(key_kind, physical)
        self._int64: tuple[_Segment, ...] = ()
        self._bytes = _HashIndex()

    def _index(self, keys: pa.Array, first_row: int) -> None:
        """Nothing: `_find` indexes what it lacks."""

    def _find(self, keys: pa.Array, limit: int, view: View) -> np.ndarray:
        if self.key_kind == "bytes":
            return self._bytes.find(keys, limit, view)
        # two readers may both extend; each has a right answer, and the one stored last may be the shorter
        self._int64 = segments = _extended(self._int64, limit, view)
        wanted = keys.to_numpy()
        rows = np.full(len(wanted), -1, np.int64)
        for segment in reversed(segments):
            open_ = np.flatnonzero(rows < 0)
            if len(open_) == 0:
                break
            if segment.start < limit:
                rows[open_] = segment.find(wanted[open_], limit)
        return rows

    def _order(self, limit: int, view: View) -> np.ndarray:
        # sorted stably from the newest row back, equal keys come newest first
        keys = view.keys().slice(0, limit)
        if self.key_kind == "int64":
            return limit - 1 - np.argsort(keys.to_numpy()[::-1], kind="stable")
        import pyarrow.compute as pc

        backwards = keys.take(pa.array(np.arange(limit - 1, -1, -1)))
        order: np.ndarray = limit - 1 - pc.sort_indices(backwards).to_numpy().astype(np.int64)
        return order


@dataclass(frozen=True)
class _Segment:
    """Rows [start, stop), sorted by (key, row): ``keys`` int64 (n), ``rows`` int64 (n)."""

    start: int
    stop: int
    keys: np.ndarray
    rows: np.ndarray

    def find(self, wanted: np.ndarray, limit: int) -> np.ndarray:
        """int64 (q): the last row below ``limit`` of each key, -1 where none."""
        end = np.searchsorted(self.keys, wanted, "right")
        if limit < self.stop:
            end = self._before(np.searchsorted(self.keys, wanted, "left"), end, limit)
        at = np.maximum(end - 1, 0)
        found = (end > 0) & (self.keys[at] == wanted)
        return np.where(found, self.rows[at], -1)

    def _before(self, low: np.ndarray, high: np.ndarray, limit: int) -> np.ndarray:
        """The first position in each [low, high) whose row is not below ``limit``; a bisection of all at once."""
        low, high = low.copy(), high.copy()
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            below = open_ & (self.rows[np.where(open_, middle, 0)] < limit)
            low = np.where(below, middle + 1, low)
            high = np.where(open_ & ~below, middle, high)
        return low


def _extended(segments: tuple[_Segment, ...], limit: int, view: View) -> tuple[_Segment, ...]:
    """Segments that cover rows [0, limit) at least. A row is sorted again O(log n) times over its life."""
    start = segments[-1].stop if segments else 0
    if start >= limit:
        return segments
    kept = list(segments)
    keys = np.concatenate([part.to_numpy() for part in view.keys_between(start, limit)])
    rows = np.arange(start, limit, dtype=np.int64)
    # like a binary counter: a segment joins the one before it unless that is more than twice as large
    while kept and len(kept[-1].rows) <= 2 * len(rows):
        last = kept.pop()
        start = last.start
        keys, rows = np.concatenate([last.keys, keys]), np.concatenate([last.rows, rows])
    # stable, and rows of equal keys ascend in the input, so they do in the result
    order = np.argsort(keys, kind="stable")
    kept.append(_Segment(start, limit, keys[order], rows[order]))
    return tuple(kept)


class _HashIndex:
    """Key bytes to the last indexed row of the key, and from each row to the row of the same key before it."""

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}
        self._previous: list[int] = []
        self._extending = threading.Lock()

    def find(self, keys: pa.Array, limit: int, view: View) -> np.ndarray:
        if len(self._previous) < limit:
            self._extend(limit, view)
        last, previous = self._last, self._previous
        found = np.fromiter((last.get(key, -1) for key in keys.to_pylist()), np.int64, len(keys))
        for at in np.flatnonzero(found >= limit).tolist():
            row = int(found[at])
            while row >= limit:
                row = previous[row]
            found[at] = row
        return found

    def _extend(self, limit: int, view: View) -> None:
        with self._extending:
            last, previous = self._last, self._previous
            start = len(previous)
            numbers = count(start)
            for part in view.keys_between(start, limit) if start < limit else ():
                for key, row in zip(part.to_pylist(), numbers, strict=False):
                    # the chain first: a reader without the lock that finds `row` must find its predecessor
                    previous.append(last.get(key, -1))
                    last[key] = row
