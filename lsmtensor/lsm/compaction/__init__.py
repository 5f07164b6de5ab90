"""Compaction policies: pure functions of a table's runs to a decision. See docs/compaction.md."""

from __future__ import annotations

from typing import Any

from ...registry import Registry, Spec
from .base import Decision, DoNothing, Drop, Fluid, Merge, Moment, Move, Policy

REGISTRY = Registry("compaction", __name__)


def create(spec: Any, config: Any) -> Policy:
    """The policy of a spec (``leveled(size_ratio=10)``); ``config`` gives what the spec does not say."""
    parsed = Spec.of(spec)
    given = {"size_ratio": config.size_ratio, "level0_runs": config.level0_runs, "level_bytes": config.level_bytes}
    policy: Policy = REGISTRY.create(parsed, **{k: v for k, v in given.items() if k not in parsed.params})
    return policy


__all__ = ["REGISTRY", "Decision", "DoNothing", "Drop", "Fluid", "Merge", "Moment", "Move", "Policy", "create"]
