"""Merging sorted sources, a window at a time, into (source batch, row) gather lists.

A window is a range of keys that every cursor has wholly in its current batch. Inside it only keys
and sequence numbers are looked at; wide columns are gathered afterwards, and only for the rows that
survive. Invariants: a source is sorted by (key ascending, ``_seq`` descending), and the rows of one
key never span two windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..arrowtake import take_table as take
from ..metrics import count
from . import keyspace
from .ahead import Job
from .keyspace import Key

PUT = 1
STREAM_BYTES = 8 << 20  # what a scan hands on at once: checked and used while the processor's cache still holds it


class Batches(Protocol):
    """A sorted source: batches in key order, each with its keys, sequence numbers and operations."""

    @property
    def num_batches(self) -> int: ...
    def first_key(self, i: int) -> Key: ...
    def last_key(self, i: int) -> Key: ...
    def keys(self, i: int) -> pa.Array: ...
    def seqs(self, i: int) -> np.ndarray: ...
    def ops(self, i: int) -> np.ndarray: ...
    def columns(self, i: int, names: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table: ...
    def row_bytes(self, i: int, names: Sequence[str]) -> float: ...
    def checked(self, i: int, names: Sequence[str], start: int, stop: int) -> bool: ...
    def may_match(self, i: int, where: Any) -> bool: ...


@dataclass
class Piece:
    """Rows of one batch (or of a few that one key spans) of one source, cut to the window."""

    source: Batches
    batches: tuple[int, ...]
    start: int
    stop: int
    keys: pa.Array
    seqs: np.ndarray
    ops: np.ndarray

    def columns(self, names: Sequence[str]) -> pa.Table:
        tables = [self.source.columns(i, names) for i in self.batches]
        whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        return whole.slice(self.start, self.stop - self.start)

    def may_match(self, where: Any) -> bool:
        return where is None or any(self.source.may_match(i, where) for i in self.batches)


class _Cursor:
    """A place in one source, moving forward or backward over the keys in [start, stop)."""

    def __init__(self, source: Batches, start: Key | None, stop: Key | None, reverse: bool) -> None:
        self.source, self.low, self.high, self.reverse = source, start, stop, reverse
        numbers = [
            i
            for i in range(source.num_batches)
            if (start is None or source.last_key(i) >= start) and (stop is None or source.first_key(i) < stop)  # type: ignore[operator]
        ]
        self._todo = numbers if reverse else numbers[::-1]
        self.done = False
        self._load()

    def _load(self) -> None:
        """Take the next batch, and those after it that begin with the key it ends with."""
        while self._todo:
            taken = [self._todo.pop()]
            while self._todo and self._joined(taken[-1], self._todo[-1]):
                taken.append(self._todo.pop())
            if self.reverse:
                taken.reverse()
            self.batches = tuple(taken)
            self.keys = keyspace.concat([self.source.keys(i) for i in taken])
            self.seqs = np.concatenate([self.source.seqs(i) for i in taken])
            self.ops = np.concatenate([self.source.ops(i) for i in taken])
            self.at = 0 if self.low is None else keyspace.search(self.keys, self.low)
            self.end = len(self.keys) if self.high is None else keyspace.search(self.keys, self.high)
            if self.at < self.end:
                return
        self.done = True

    def _joined(self, a: int, b: int) -> bool:
        earlier, later = (b, a) if self.reverse else (a, b)
        return self.source.last_key(earlier) == self.source.first_key(later)

    def edge(self) -> Key:
        """The last key (first, in reverse) of what is loaded."""
        key: Key = self.keys[self.at if self.reverse else self.end - 1].as_py()
        return key

    def cut(self, edge: Key) -> Piece | None:
        """Remove and return the rows up to and with ``edge``."""
        if self.reverse:
            start, stop = max(self.at, keyspace.search(self.keys, edge)), self.end
            self.end = start
        else:
            start, stop = self.at, min(self.end, keyspace.search(self.keys, edge, "right"))
            self.at = stop
        piece = None
        if start < stop:
            part = slice(start, stop)
            keys = self.keys.slice(start, stop - start)
            piece = Piece(self.source, self.batches, start, stop, keys, self.seqs[part], self.ops[part])
        if self.at >= self.end:
            self._load()
        return piece


@dataclass
class Window:
    """Pieces, and the rows of them that survive: ``piece[i]``, ``row[i]`` in key order."""

    pieces: list[Piece]
    piece: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def gather(self, names: Sequence[str], where: Any = None) -> pa.Table:
        """The columns of the surviving rows; rows of batches that zone maps rule out are left away."""
        piece, row = self.piece, self.row
        if where is not None:
            alive = np.array([p.may_match(where) for p in self.pieces])
            count("batches_pruned", int(np.count_nonzero(~alive)))
            if not alive.all():
                keep = alive[piece]
                piece, row = piece[keep], row[keep]
        used = np.unique(piece)
        count("batches_read", len(used))
        if len(used) == 0:
            return self.pieces[0].columns(names).slice(0, 0)
        if len(used) == 1:
            table = self.pieces[used[0]].columns(names)
            return table if _is_range(row, table.num_rows) else take(table, row)
        tables = [self.pieces[p].columns(names) for p in used]
        starts = np.zeros(len(self.pieces), np.int64)
        starts[used] = np.cumsum([0] + [t.num_rows for t in tables[:-1]])
        return take(pa.concat_tables(tables), starts[piece] + row)


    def parts(self, names: Sequence[str], where: Any = None) -> Iterator[Job[pa.Table]]:
        """The same as jobs of a few megabytes where the rows lie together in one batch: views, checked when loaded."""
        piece = self.pieces[0]
        if len(self.pieces) > 1 or len(piece.batches) > 1 or not _is_range(self.row, len(piece.keys)):
            yield Job(partial(self.gather, names, where), cheap=True)
        elif not piece.may_match(where):
            count("batches_pruned")
        else:
            count("batches_read")
            source, i = piece.source, piece.batches[0]
            step = max(1, int(STREAM_BYTES / max(1.0, source.row_bytes(i, names))))
            for at in range(piece.start, piece.stop, step):
                stop = min(at + step, piece.stop)
                yield Job(partial(source.columns, i, names, at, stop), cheap=source.checked(i, names, at, stop))


def _is_range(rows: np.ndarray, n: int) -> bool:
    return len(rows) == n and (n == 0 or (rows[0] == 0 and rows[-1] == n - 1 and bool((np.diff(rows) == 1).all())))


Chooser = Callable[[pa.Array, np.ndarray, np.ndarray], np.ndarray]


def windows(
    sources: Iterable[Batches], choose: Chooser, *, start: Key | None = None, stop: Key | None = None, reverse: bool = False
) -> Iterator[Window]:
    """Windows in key order (descending if ``reverse``) over the keys in [start, stop).

    ``choose(keys, seqs, ops)`` gets the merged rows of a window and answers a bool mask of survivors.
    O(n log s) in n rows of s sources.
    """
    cursors = [_Cursor(source, start, stop, reverse) for source in sources]
    nearest = max if reverse else min
    while active := [c for c in cursors if not c.done]:
        edge = nearest(c.edge() for c in active)  # type: ignore[type-var]
        pieces = [p for c in active if (p := c.cut(edge)) is not None]
        count("rows_merged", sum(len(p.keys) for p in pieces))
        if len(pieces) == 1:
            piece = pieces[0]
            kept = np.flatnonzero(choose(piece.keys, piece.seqs, piece.ops))
            owner = np.zeros(len(kept), np.int64)
        else:
            keys = pa.concat_arrays([p.keys for p in pieces])
            seqs = np.concatenate([p.seqs for p in pieces])
            ops = np.concatenate([p.ops for p in pieces])
            starts = np.cumsum([0] + [len(p.keys) for p in pieces])
            by_key = keyspace.merged(keys, seqs, starts)
            kept = by_key[choose(keys.take(pa.array(by_key)), seqs[by_key], ops[by_key])]
            owner = np.searchsorted(starts, kept, "right") - 1
            kept = kept - starts[owner]
        if reverse:
            owner, kept = owner[::-1], kept[::-1]
        yield Window(pieces, owner, kept)


def visible_at(snapshot: int) -> Chooser:
    """The newest version of each key that the snapshot sees, unless it is a delete."""

    def choose(keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        seen = seqs <= snapshot
        again = keyspace.same_as_previous(keys)
        # the row above is newer: what it shadows is a row whose predecessor of the same key is seen too
        again[1:] &= seen[:-1]
        return np.asarray(seen & ~again & (ops == PUT))

    return choose


def needed_since(oldest: int, pinned: Sequence[int], bottom: bool) -> Chooser:
    """What compaction keeps: every version newer than ``oldest``, and what each older point still sees.

    ``pinned`` are the snapshots below ``oldest`` that somebody holds. At the bottom of the tree a
    delete that nothing older can be shadowed by is dropped too.
    """
    points = np.array(sorted({*pinned, oldest}), np.uint64)

    def choose(keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        # the first point that sees a row; rows newer than all points are always kept
        first = np.searchsorted(points, seqs)
        again = keyspace.same_as_previous(keys)
        again[1:] &= first[1:] == first[:-1]
        keep = ~again | (first == len(points))
        if bottom:
            # a delete that every point sees, with nothing kept below it, says nothing
            keep &= ~((ops != PUT) & (first == 0))
        return np.asarray(keep)

    return choose


class Split:
    """What a merge keeps, in two: the newest row of each key, and those behind it. ``older`` says whether there were any."""

    def __init__(self, keep: Chooser) -> None:
        self._keep, self.older = keep, False

    def newest(self, keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        keep, again = self._keep(keys, seqs, ops), keyspace.same_as_previous(keys)
        if (keep & again).any():
            self.older = True
        return np.asarray(keep & ~again)

    def rest(self, keys: pa.Array, seqs: np.ndarray, ops: np.ndarray) -> np.ndarray:
        return np.asarray(self._keep(keys, seqs, ops) & keyspace.same_as_previous(keys))


def rebatch(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.RecordBatch]:
    """Record batches of at most ``rows`` rows; never joins two windows, so that a plain scan copies nothing."""
    for table in tables:
        for batch in table.to_batches(max_chunksize=rows):
            if batch.num_rows:
                yield batch
