"""Latencies: of calls one after the other, and of calls that are due at fixed times; as percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

PERCENTS = (50, 90, 99, 99.9)


def each(call: Callable[[Any], object], of: Iterable[Any]) -> list[float]:
    """Seconds of a call for each item, one after the other: no queue, so none waits for the one before."""
    taken = []
    for item in of:
        begin = time.perf_counter()
        call(item)
        taken.append(time.perf_counter() - begin)
    return taken


def due(call: Callable[[int], object], rate: float, seconds: float) -> list[float]:
    """Seconds of calls that are due every 1 / rate seconds, each counted from when it was due, however late it began: a stall shows in every call
    that it delayed (no coordinated omission; Tene, 2013)."""
    taken, begin = [], time.perf_counter()
    for number in range(max(1, int(rate * seconds))):
        at = begin + number / rate
        while (wait := at - time.perf_counter()) > 0:
            time.sleep(min(wait, 0.001) if wait > 0.0002 else 0)
        call(number)
        taken.append(time.perf_counter() - at)
    return taken


def percentiles(what: str, taken: Iterable[float], unit: str = "us") -> dict[str, float]:
    """``what p50 us`` and so on to the 99.9th, as many as the number of calls can tell apart (ten beyond a percentile)."""
    values = np.asarray(list(taken)) * (1e6 if unit == "us" else 1e3)
    told = [p for p in PERCENTS if p == 50 or len(values) * (100 - p) >= 1000]
    return {f"{what} p{p:g} {unit}".strip(): float(v) for p, v in zip(told, np.percentile(values, told), strict=True)}
