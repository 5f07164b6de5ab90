"""Tiering: up to ``size_ratio`` runs a level, merged into one of the next. Each row is rewritten once a level."""

from __future__ import annotations

from . import REGISTRY
from .base import Fluid


@REGISTRY.register("tiered")
class Tiered(Fluid):
    """Cheapest to write; reads look into up to ``size_ratio - 1`` runs a level."""

    def __init__(self, size_ratio: float = 4.0, level0_runs: int = 4, level_bytes: int = 256 << 20) -> None:
        runs = max(1, int(size_ratio) - 1)
        super().__init__(size_ratio, level0_runs, level_bytes, upper=runs, last=runs)
