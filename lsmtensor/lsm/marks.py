"""Marks that say which version superseded a row of a source.

Within a source a mark follows from the order; from newer sources it is resolved lazily, one vectorized pass over the keys
committed since the last time. Since the intervals of versions of sources that share keys never overlap, "since" is one number.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from . import keyspace
from .source import MemSource, Source

ALIVE = np.iinfo(np.uint64).max


class Marks:
    """Which version superseded each row of one source; ``ALIVE`` where none has."""

    def __init__(self, keys: pa.Array, seqs: np.ndarray, ops_: np.ndarray, in_order: bool, newest: int) -> None:
        self.seqs = seqs
        self.dead = np.full(len(seqs), ALIVE, np.uint64)
        # from the last row back: of a transaction's rows of one key and version the last counts
        order = np.arange(len(seqs)) if in_order else len(seqs) - 1 - keyspace.order(_reversed(keys), seqs[::-1])
        again = np.flatnonzero(keyspace.same_as_previous(keys if in_order else keys.take(pa.array(order))))
        self.dead[order[again]] = seqs[order[again - 1]]
        # a delete is a row that no version sees
        self.dead[ops_ == 0] = 0
        self.any_dead = bool(len(again)) or bool((ops_ == 0).any())
        self.resolved = newest
        self._lock = threading.Lock()
        self._mask: tuple[int, int, np.ndarray | None] | None = None

    def resolve(self, source: Source, newer: Sequence[Source], to: int) -> None:
        """Mark the rows that commits in (resolved, to] superseded."""
        with self._lock:
            if to <= self.resolved:
                return
            for other in newer:
                if other.max_seq <= self.resolved:
                    continue
                for keys, seqs in changes(other, self.resolved):
                    rows = source.find(keys, int(ALIVE))
                    hit = rows >= 0
                    if hit.any():
                        np.minimum.at(self.dead, rows[hit], seqs[hit])
                        self.any_dead = True
            self.resolved = to

    def visible(self, snapshot: int) -> np.ndarray | None:
        """bool (rows,): what a snapshot sees; None when it sees every row. O(rows), kept for the last snapshot."""
        kept = self._mask
        if kept is not None and kept[0] == snapshot and kept[1] == self.resolved:
            return kept[2]
        resolved = self.resolved
        mask: np.ndarray | None = None
        if self.any_dead or (len(self.seqs) and int(self.seqs.max()) > snapshot):
            mask = (self.seqs <= snapshot) & (snapshot < self.dead)
        self._mask = (snapshot, resolved, mask)
        return mask


def _reversed(keys: pa.Array) -> pa.Array:
    return keys.take(pa.array(np.arange(len(keys) - 1, -1, -1)))


def changes(source: Source, since: int) -> list[tuple[pa.Array, np.ndarray]]:
    """(keys, seqs) of the source's rows newer than ``since``."""
    parts = []
    batches = [source.sorted()] if isinstance(source, MemSource) else [source]
    for b in batches:
        for i in range(b.num_batches):
            keys, seqs = b.keys(i), b.seqs(i)
            fresh = seqs > since
            if fresh.all():
                parts.append((keys, seqs))
            elif fresh.any():
                parts.append((keys.filter(pa.array(fresh)), seqs[fresh]))
    return parts


def marks_of(source: Source) -> Marks:
    """The marks of a run, made once; of a memtable, made again when it has grown."""
    kept: tuple[int, Marks] | None = source.__dict__.get("_marks")
    if kept is not None and kept[0] == source.rows:
        return kept[1]
    if isinstance(source, MemSource):
        # one view: a commit may land between two questions
        view = source.memtable.view()
        table, keys, rows = view.table(), view.keys(), view.rows
        marks = Marks(keys, table.column("_seq").to_numpy(), table.column("_op").to_numpy(), False, view.max_seq)
    else:
        numbers = range(source.num_batches)
        keys = keyspace.concat([source.keys(i) for i in numbers])
        seqs = np.concatenate([source.seqs(i) for i in numbers])
        # the run that another is behind has newer versions of its keys, whatever its interval
        marks = Marks(keys, seqs, np.concatenate([source.ops(i) for i in numbers]), True, 0 if source.behind else source.max_seq)
        rows = source.rows
    source.__dict__["_marks"] = (rows, marks)
    return marks
