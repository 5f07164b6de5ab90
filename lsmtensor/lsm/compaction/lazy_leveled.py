"""Lazy leveling (Dayan & Idreos, SIGMOD 2018): tiering above, leveling at the last level.

Nearly all rows lie in one run, which can own one graph; the few above it are merged as rarely as with tiering.
"""

from __future__ import annotations

from . import REGISTRY
from .base import Fluid


@REGISTRY.register("lazy_leveled")
class LazyLeveled(Fluid):
    """Up to ``size_ratio - 1`` runs a level, one run at the last."""

    def __init__(self, size_ratio: float = 4.0, level0_runs: int = 4, level_bytes: int = 256 << 20) -> None:
        super().__init__(size_ratio, level0_runs, level_bytes, upper=max(1, int(size_ratio) - 1), last=1)
