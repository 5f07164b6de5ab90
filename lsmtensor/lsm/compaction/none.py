"""No compaction: runs pile up until `Database.compact` is called. For experiments, and for write-once loads."""

from __future__ import annotations

from ..layout import TableState
from . import REGISTRY
from .base import Decision, DoNothing, Moment


@REGISTRY.register("none")
class Never:
    """Never asks for anything."""

    bounded = False

    def __init__(self, size_ratio: float = 4.0, level0_runs: int = 4, level_bytes: int = 0) -> None:
        self.size_ratio, self.level0_runs = size_ratio, level0_runs

    def choose(self, table: TableState, moment: Moment) -> Decision:
        return DoNothing()
