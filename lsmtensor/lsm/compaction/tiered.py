"""Size-tiered: merge neighbours of like size when there are enough of them. Write amplification O(levels)."""

from __future__ import annotations

from ..layout import TableState
from . import REGISTRY
from .base import Decision, DoNothing, Merge


@REGISTRY.register("tiered")
class Tiered:
    """``level0_runs`` neighbouring runs, each at most ``size_ratio`` times the smallest of them, become one.

    The newest such window is taken, so that small runs are merged before large ones.
    """

    def __init__(self, size_ratio: float = 4.0, level0_runs: int = 4) -> None:
        self.size_ratio, self.count = max(1.0, float(size_ratio)), max(2, int(level0_runs))

    def choose(self, table: TableState) -> Decision:
        runs = table.runs
        for first in range(len(runs) - self.count + 1):
            window = runs[first : first + self.count]
            if max(r.bytes for r in window) <= self.size_ratio * max(1, min(r.bytes for r in window)):
                return Merge(tuple(r.id for r in window), max(r.level for r in window) + 1)
        if len(runs) > 4 * self.count:
            # sizes so uneven that no window is alike: bound the number of runs all the same
            return Merge(tuple(r.id for r in runs[: self.count]), max(r.level for r in runs[: self.count]) + 1)
        return DoNothing()
