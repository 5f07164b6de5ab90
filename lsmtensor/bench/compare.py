"""Two sets of records, case by case: the ratio of medians, its bootstrap interval, and whether the difference is more than noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from .pace import TOLD
from .runner import AGAIN
from .words import CHECKED, number

HEAD = ("case", "measure", "A", "B", "B / A", "95% interval", "verdict")
RESAMPLES = 4000
FEWEST = 4
"""With fewer samples a side an interval means nothing."""


def again(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of an A/A run: each case against itself. What is not called noise here says how far an A/B run can be believed."""
    second = [{**r, "case": r["case"].removesuffix(AGAIN)} for r in records if r["case"].endswith(AGAIN)]
    return rows(records, second)


def machines(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> str | None:
    """A sentence where the machine itself was not as fast in B as in A, by the fixed work that every round begins with."""
    before, after = ([p for r in side for p in r.get("pace_ms", ())] for side in (a, b))
    if not before or not after:
        return None
    change = float(np.median(after) / np.median(before))
    if 1 / TOLD < change < TOLD:
        return None
    return f"the machine took {change:.2f} times as long for the same work in B as in A: what differs by about that may be the machine"


def rows(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """One row per case and measure that both have; the newest record of a case counts."""
    before = {(r["workload"], r["case"]): r for r in a}
    after = {(r["workload"], r["case"]): r for r in b}
    found = []
    for key in (k for k in before if k in after):
        for measure, x in before[key]["samples"].items():
            y = after[key]["samples"].get(measure)
            if y is not None and measure not in CHECKED:
                found.append((key[1], measure, number(float(np.median(x))), number(float(np.median(y))), *_words(x, y)))
    return found


def _words(x: list[float], y: list[float]) -> tuple[str, str, str]:
    if not np.median(x):
        return "–", "–", "same" if x == y else "B is not zero"
    ratio = number(float(np.median(y) / np.median(x)))
    if list(x) == list(y):
        return ratio, "–", "same"
    if min(len(x), len(y)) < FEWEST:
        return ratio, "–", f"too few samples (fewer than {FEWEST})"
    low, high = interval(x, y)
    verdict = "noise" if low <= 1 <= high else f"B is {'larger' if low > 1 else 'smaller'}"
    return ratio, f"{number(low)} – {number(high)}", verdict


def interval(x: list[float], y: list[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of median(y) / median(x): both sides resampled with replacement, percentiles of 4,000 ratios (Efron &
    Tibshirani, 1993). Samples of one side that lie in the record's order are taken as exchangeable."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(x, float), np.asarray(y, float)
    below = np.median(rng.choice(a, (RESAMPLES, len(a))), axis=1)
    above = np.median(rng.choice(b, (RESAMPLES, len(b))), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = above / below
    ratios = ratios[np.isfinite(ratios)]
    tail = (1 - level) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail]) if len(ratios) else (0.0, np.inf)
    return float(low), float(high)
