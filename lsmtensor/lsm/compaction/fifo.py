"""First in, first out: no merging; a run goes when its newest row is older than ``ttl``. For caches and streams."""

from __future__ import annotations

import re

from ...errors import InvalidArgumentError
from ..layout import TableState
from . import REGISTRY
from .base import Decision, DoNothing, Drop, Moment

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@REGISTRY.register("fifo")
class Fifo:
    """``ttl`` is a duration: seconds, or a text such as ``12h``, ``7d``. Open snapshots go on reading what was dropped."""

    bounded = False

    def __init__(self, ttl: str | float = "1d", size_ratio: float = 4.0, level0_runs: int = 4, level_bytes: int = 0) -> None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(ttl))
        if match is None:
            raise InvalidArgumentError(f"fifo(ttl={ttl!r}); give seconds, or a number with one of s, m, h, d, w")
        self.seconds = float(match[1]) * _UNITS[match[2] or "s"]

    def choose(self, table: TableState, moment: Moment) -> Decision:
        expired = moment.version_before(self.seconds)
        gone = tuple(r.id for r in table.runs if r.max_seq <= expired)
        return Drop(gone) if gone else DoNothing()
