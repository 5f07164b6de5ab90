"""Compaction policies: pure functions of a table's runs to a decision. See docs/compaction.md."""

from __future__ import annotations

from typing import Any

from ...registry import Registry
from .base import Decision, DoNothing, Drop, Merge, Move, Policy

REGISTRY = Registry("compaction", __name__)


def create(spec: Any, config: Any) -> Policy:
    """The policy of a spec; ``config`` gives the defaults."""
    policy: Policy = REGISTRY.create(spec, size_ratio=config.size_ratio, level0_runs=config.level0_runs)
    return policy


__all__ = ["REGISTRY", "Decision", "DoNothing", "Drop", "Merge", "Move", "Policy", "create"]
