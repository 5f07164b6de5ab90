"""Two sets of records, case by case."""

from __future__ import annotations

from typing import Any

from .words import CHECKED, number

HEAD = ("case", "measure", "A", "B", "B / A", "quartiles")


def rows(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """One row per case and measure that both have; the newest record of a case counts."""
    before = {(r["workload"], r["case"]): r for r in a}
    after = {(r["workload"], r["case"]): r for r in b}
    found = []
    for key in (k for k in before if k in after):
        for measure, x in before[key]["summary"].items():
            y = after[key]["summary"].get(measure)
            if y is not None and measure not in CHECKED:
                apart = x["q3"] < y["q1"] or y["q3"] < x["q1"]
                ratio = number(y["median"] / x["median"]) if x["median"] else "–"
                found.append((key[1], measure, number(x["median"]), number(y["median"]), ratio, "apart" if apart else "overlap"))
    return found
