"""The curves of `scale` as a page of docs/: powers of the rows by least squares, and what they say of sizes that nobody measured.

    python -m lsmtensor.bench.scale_page runs/scale.jsonl docs/scale.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RunConfig
from ..lsm import compaction
from .peers.page import renew
from .simulate import Simulator
from .words import number, size

FLAT = (
    "insert, us a row", "merge and index, us a row", "scan, ns a row", "bytes written a row", "bytes stored a row", "open, ms", "first search, ms", "search, us",
    "search in a batch, us", "get, us",
)  # fmt: skip
GROWING = ("memory when open, MB", "memory in use, MB")
FAR = (10_000_000, 100_000_000, 1_000_000_000)
POLICIES = ("leveled", "tiered", "lazy_leveled")


def newest(records: Iterable[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """By (rows, threads), the last record of each."""
    return {(r["rows"], r["threads"]): r for r in records if r["workload"] == "scale" and r["who"] != "ratio" and not r["quick"]}


def power(rows: list[int], values: list[float]) -> tuple[float, float]:
    """(a, b) of a N^b, least squares of the logarithms."""
    b, a = np.polyfit(np.log(rows), np.log(np.maximum(values, 1e-9)), 1)
    return float(np.exp(a)), float(b)


def figures(records: Iterable[dict[str, Any]]) -> str:
    of = newest(records)
    sizes, threads = sorted({n for n, _ in of}), sorted({t for _, t in of})
    parts = []
    for t in threads:
        have = [n for n in sizes if (n, t) in of]
        lines = ["| | " + " | ".join(f"{n:,}" for n in have) + " | as |", "|---|" + "---|" * (len(have) + 1)]
        for measure in (*FLAT, *GROWING, "recall@10"):
            values = [of[n, t]["summary"][measure]["median"] for n in have]
            law = "" if measure == "recall@10" else f"{_law(measure, have, values)}"
            lines.append(f"| {measure} | " + " | ".join(f"{v:.3f}" if measure == "recall@10" else number(v) for v in values) + f" | {law} |")
        parts += [f"## {t} thread{'s' if t > 1 else ''}", "\n".join(lines)]
    last = of[sizes[-1], threads[-1]]
    parts += ["## Sizes that nobody measured here", _far(of, sizes, threads[-1]), "## The tree at those sizes, by replay of its policies", _tree(last)]
    code, machine = last["code"], last["machine"]
    told = (
        f"{last['started']}, {last['rounds']} round{'s' if last['rounds'] > 1 else ''}; {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; "
        f"lsmtensor {code['version']} ({(code['commit'] or 'no commit')[:12]}); data {last['dataset']['name']}, beam {last['ef']}."
    )
    return "\n\n".join([told, *parts])


def _law(measure: str, rows: list[int], values: list[float]) -> str:
    if measure in GROWING:
        slope, base = np.polyfit(rows, values, 1)
        return f"{number(base)} MB + {slope * 1e6:.0f} bytes a row"
    return f"N^{round(power(rows, values)[1], 2) + 0.0:.2f}"


def _far(of: dict[tuple[int, int], dict[str, Any]], sizes: list[int], threads: int) -> str:
    have = [n for n in sizes if (n, threads) in of]

    def series(measure: str) -> list[float]:
        return [of[n, threads]["summary"][measure]["median"] for n in have]

    def at(n: int, measure: str) -> float:
        a, b = power(have, series(measure))
        return float(a * n**b)

    slope, base = np.polyfit(have, series("memory in use, MB"), 1)
    per, start = np.polyfit(np.log(have), series("search, us"), 1)
    lines = ["| rows | ingest, merge and index | on disk | memory in use | search, by the power | search, by log N | open |", "|---|---|---|---|---|---|---|"]
    for n in FAR:
        hours = n * (at(n, "insert, us a row") + at(n, "merge and index, us a row")) / 3.6e9
        lines.append(
            f"| {n:,} | {number(hours)} h | {size(n * at(n, 'bytes stored a row'))} | {size(1e6 * (base + slope * n))} | {number(at(n, 'search, us'))} us | "
            f"{number(start + per * np.log(n))} us | {number(at(n, 'open, ms'))} ms |"
        )
    return "\n".join(lines)


def _tree(last: dict[str, Any]) -> str:
    config = RunConfig.from_dict(last["config"])
    row = max(1, round(last["summary"]["bytes stored a row"]["median"]))
    rows = max(1, config.memtable.limit_bytes // row)
    lines = ["| policy | rows | flushes | levels | runs, mean | write amplification |", "|---|---|---|---|---|---|"]
    for policy in POLICIES:
        simulator = Simulator(compaction.create(policy, config.compaction), 1 << 62, row)
        for n in FAR:
            while simulator.result.user_rows < n:
                simulator.flush(rows)
            found = simulator.result
            flushes = round(found.user_rows / rows)
            lines.append(f"| {policy} | {n:,} | {flushes:,} | {found.levels + 1} | {found.mean_runs:.1f} | {found.write_amplification:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from .record import read

    where = Path(sys.argv[2])
    where.write_text(renew(where.read_text(encoding="utf-8"), figures(read(sys.argv[1]))), encoding="utf-8")
