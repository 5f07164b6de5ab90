"""``bench peers``: us beside the libraries that one would otherwise use, one small file each. See docs/peers.md."""

from __future__ import annotations

from .base import Arrays, Dense, Keys, Peer, Tables, Words, absent, choose
from .workload import cases, check, dataset, ratios, run, setup, teardown

__all__ = ["Arrays", "Dense", "Keys", "Peer", "Tables", "Words", "absent", "cases", "check", "choose", "dataset", "ratios", "run", "setup", "teardown"]
