"""The contract: a policy answers, a worker acts. A policy touches no file, reads no clock and keeps no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..layout import Run, TableState, version_before


@dataclass(frozen=True)
class DoNothing:
    """The tree is in shape."""


@dataclass(frozen=True)
class Move:
    """Runs that only change level."""

    runs: tuple[int, ...]
    level: int


@dataclass(frozen=True)
class Merge:
    """Runs to merge into one of ``level``. They must be neighbours in version order, so that intervals stay apart."""

    runs: tuple[int, ...]
    level: int


@dataclass(frozen=True)
class Drop:
    """Runs to forget with all their rows."""

    runs: tuple[int, ...]


Decision = DoNothing | Move | Merge | Drop


@dataclass(frozen=True)
class Moment:
    """What a policy may know of time: the layout's marks (version, nanoseconds), and now."""

    now_ns: int = 0
    times: tuple[tuple[int, int], ...] = ()

    def version_before(self, seconds: float) -> int:
        """The newest version that is at least so old; 0 where none is known to be."""
        return version_before(self.times, self.now_ns - int(seconds * 1e9))


class Policy(Protocol):
    """``bounded`` policies keep the number of runs small; writers wait for them when level 0 grows."""

    bounded: bool

    def choose(self, table: TableState, moment: Moment) -> Decision:
        """The next thing to do; asked again after it was done. ``table.runs`` are newest first."""
        ...


class Fluid:
    """The family that leveling, tiering and lazy leveling belong to (Dayan & Idreos, SIGMOD 2018), run by run.

    Level 0 gathers up to ``level0_runs`` flushed runs. A level above the last holds at most ``upper`` runs, the last at most
    ``last``. A level of one run is bounded by about ``level_bytes * size_ratio ** level`` bytes; what outgrows it goes one down.
    One of several runs is bounded by their number: one more, and they become one run of the next level.
    """

    bounded = True

    def __init__(self, size_ratio: float, level0_runs: int, level_bytes: int, upper: int, last: int) -> None:
        self.size_ratio, self.level0_runs, self.level_bytes = max(2.0, float(size_ratio)), max(1, int(level0_runs)), int(level_bytes)
        self.upper, self.last = max(1, upper), max(1, last)

    def capacity(self, level: int) -> float:
        """Bytes above which a level of one run is full: to the nearest of the runs that it takes in, size_ratio of them."""
        return float(self.level_bytes * self.size_ratio**level * (1 - 0.5 / self.size_ratio))

    def choose(self, table: TableState, moment: Moment) -> Decision:
        levels: dict[int, list[Run]] = {}
        for run in table.runs:
            levels.setdefault(run.level, []).append(run)
        deepest = max(levels, default=0)
        for level in sorted(levels):
            if self._full(level, levels[level], deepest):
                return self._down(level, levels, deepest)
        return DoNothing()

    def _allowed(self, level: int, deepest: int) -> int:
        if level == 0:
            return self.level0_runs - 1
        return self.last if level >= deepest else self.upper

    def _full(self, level: int, runs: list[Run], deepest: int) -> bool:
        allowed = self._allowed(level, deepest)
        if level > 0 and allowed == 1:
            return len(runs) > 1 or sum(r.bytes for r in runs) > self.capacity(level)
        return len(runs) > allowed

    def _down(self, level: int, levels: dict[int, list[Run]], deepest: int) -> Decision:
        runs = levels[level]
        if level > 0 and self._allowed(level, deepest) == 1 and len(runs) > 1 and sum(r.bytes for r in runs) <= self.capacity(level):
            return Merge(tuple(r.id for r in runs), level)
        below = levels.get(level + 1, [])
        if self._allowed(level + 1, max(deepest, level + 1)) == 1 and below:
            # the level below holds one run: it is rewritten once, not first beside it and then with it
            return Merge(tuple(r.id for r in runs + below), level + 1)
        ids = tuple(r.id for r in runs)
        return Move(ids, level + 1) if len(ids) == 1 else Merge(ids, level + 1)
