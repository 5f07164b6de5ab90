"""How fast the machine is just now: the seconds of a fixed piece of work, and whether they changed while something was measured."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

_ROWS = np.ones(1 << 22, np.float32)
TOLD = 1.1
"""So much slower than its fastest is worth saying."""


def pace(tries: int = 3) -> float:
    """Seconds for 16 MB summed and 20,000 steps of the interpreter, the least of some tries: about 3 ms."""
    found = []
    for _ in range(tries):
        begin = time.perf_counter()
        float(_ROWS.sum(dtype=np.float32))
        sum(range(20_000))
        found.append(time.perf_counter() - begin)
    return min(found)


def drift(paces: Sequence[float]) -> str | None:
    """A sentence where the machine was not the same all the time: by its spread, and by its trend (first half against second)."""
    if len(paces) < 2 or max(paces) < TOLD * min(paces):
        return None
    slow, fast = int(np.argmax(paces)), int(np.argmin(paces))
    half = len(paces) // 2
    trend = float(np.median(paces[-half:]) / np.median(paces[:half]))
    way = "" if 1 / TOLD < trend < TOLD else f"; it got {abs(trend - 1):.0%} {'slower' if trend > 1 else 'faster'} from the first half to the second"
    return (
        f"the machine was {max(paces) / min(paces) - 1:.0%} slower in round {slow + 1} than in round {fast + 1}{way}. "
        "Cases alternate, so ratios within rounds stand; absolute figures are of that machine"
    )
