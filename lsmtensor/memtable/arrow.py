"""The default memtable: rows and batches as they come, and an index by key that is brought up to date when readers ask.

Adding costs nothing per row, so a bulk load that nobody reads builds no index at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ..arrowbytes import binary_parts
from . import REGISTRY
from .base import Memtable, View


@REGISTRY.register("arrow")
class ArrowMemtable(Memtable):
    """``get``: O(1) a key; once asked, the index takes about 60 bytes a row and, of rows that came in batches, their keys."""

    indexed = True

    def _index(self, keys: pa.Array, first_row: int) -> None:
        """Nothing: `fill` and the table index what they lack."""

    def fill(self) -> None:
        """Give the table the keys of the rows that came in batches."""
        at = 0
        while (gap := self.store.missing(at)) is not None:
            at = gap[0]
            view = self._view
            for start, batch, keys in zip(view.starts.tolist(), view.batches, view.key_parts, strict=False):
                if start < gap[1] and start + len(keys) > at:
                    data, offsets = _parts(keys)
                    self.store.fill(start, data, offsets, batch.column("_op").to_numpy(), batch.column("_seq").to_numpy())
            at = gap[1]

    def _find(self, keys: pa.Array, limit: int, view: View) -> np.ndarray:
        if self.store.waiting:
            self.fill()
        found: np.ndarray = self.store.find_many(*_parts(keys), limit)
        return found

    def lookup(self, key: int | bytes, snapshot: int) -> tuple[int, int, int, dict[str, Any] | None] | None:
        if self.store.waiting:
            self.fill()
        found: tuple[int, int, int, dict[str, Any] | None] | None = self.store.lookup(key, snapshot)
        return found

    def _order(self, limit: int, view: View) -> np.ndarray:
        # sorted stably from the newest row back, equal keys come newest first
        keys = view.keys().slice(0, limit)
        if self.key_kind == "int64":
            return limit - 1 - np.argsort(keys.to_numpy()[::-1], kind="stable")
        import pyarrow.compute as pc

        backwards = keys.take(pa.array(np.arange(limit - 1, -1, -1)))
        order: np.ndarray = limit - 1 - pc.sort_indices(backwards).to_numpy().astype(np.int64)
        return order


def _parts(keys: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """What the table takes of encoded keys."""
    return (keys.to_numpy(), None) if pa.types.is_int64(keys.type) else binary_parts(keys)
