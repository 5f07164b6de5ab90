"""Leveling: one run a level. Fewest runs to read, most rewriting: about (size_ratio + 1) / 2 times a level."""

from __future__ import annotations

from . import REGISTRY
from .base import Fluid


@REGISTRY.register("leveled")
class Leveled(Fluid):
    """Each level holds one run, ``size_ratio`` times the one above; a merge rewrites the run that it meets."""

    def __init__(self, size_ratio: float = 4.0, level0_runs: int = 4, level_bytes: int = 256 << 20) -> None:
        super().__init__(size_ratio, level0_runs, level_bytes, upper=1, last=1)
