"""Records in words: rows of (what, figure) that the terminal and the page both show."""

from __future__ import annotations

from typing import Any

import numpy as np

Rows = list[tuple[str, str]]


def size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")  # pragma: no cover


def duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def number(value: float) -> str:
    """Three figures, or whole with separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentiles(seconds: list[float]) -> str:
    p50, p99 = np.percentile(seconds, [50, 99])
    return f"p50 {duration(p50)}, p99 {duration(p99)}"


def summary(facts: dict[str, Any]) -> list[tuple[str, Rows]]:
    """The main job in sections."""
    return [
        ("Ingest", _ingest(facts["ingest"])), ("Killed writers", _kills(facts["kills"])), ("Reads", _reads(facts["read"])),
        ("Change", _change(facts["change"])), ("Size", _size(facts["size"], facts["ingest"])),
    ]  # fmt: skip


def _ingest(f: dict[str, Any]) -> Rows:
    return [
        ("rows, durable batch by batch", f"{f['rows']:,} in {len(f['commit_seconds'])} commits of {size(f['bytes'] / len(f['commit_seconds']))}"),
        ("rate", f"{number(f['rows_per_second'])} rows/s, {size(f['bytes_per_second'])}/s"),
        ("a commit", percentiles(f["commit_seconds"])),
        ("flush, compaction, both indexes", duration(f["compact_seconds"])),
        ("write amplification (log, table, compaction, index)", f"{f['write_amplification']:.2f}"),
    ]


def _kills(f: dict[str, Any]) -> Rows:
    return [
        ("writer processes killed by SIGKILL", str(len(f["rounds"]))),
        ("commits acknowledged (the parent's own log)", f"{f['acknowledged']:,}"),
        ("recovered", f"{f['recovered']:,}"),
        ("lost", f"{f['lost']:,}"),
        ("torn (partly there)", f"{f['torn']:,}"),
        ("reopening after a kill", ", ".join(duration(r["reopen_ms"] / 1e3) for r in f["rounds"])),
    ]


def _reads(f: dict[str, Any]) -> Rows:
    return [
        ("get", percentiles(f["get_seconds"])),
        ("get of an absent key", percentiles(f["get_absent_seconds"])),
        (f"get_many of {f['get_many_keys']:,} keys", f"{number(f['get_many_keys'] / f['get_many_seconds'])} rows/s"),
        ("scan, all columns", f"{number(f['scan_rows'] / f['scan_seconds'])} rows/s"),
        (f"where {f['filter']}", f"{f['filter_rows']:,} rows in {duration(f['filter_seconds'])}"),
    ]


def _change(f: dict[str, Any]) -> Rows:
    return [
        ("inserted, updated, deleted", f"{f['inserted']}, {f['updated']}, {f['deleted']}"),
        (f"reading and searching version {f['past_version']:,} again", f"deleted rows found in {duration(f['past_seconds'])}"),
        ("verify", f"{f['verify']['files']} files, {size(f['verify']['bytes'])} right, {duration(f['verify_seconds'])}"),
        ("prove a row, check the proof, refuse another root", duration(f["prove_seconds"])),
        ("root", f["root"][:32] + "…"),
    ]


def _size(f: dict[str, Any], ingest: dict[str, Any]) -> Rows:
    return [
        ("rows", ", ".join(f"{name} {n:,}" for name, n in f["rows"].items())),
        ("live data", size(f["live_bytes"])),
        ("on disk", ", ".join(f"{kind} {size(n)}" for kind, n in sorted(f["files"].items()))),
        ("space amplification (past versions and indexes kept)", f"{f['space_amplification']:.2f}"),
        ("open", f"{f['open_ms']:.1f} ms"),
    ]


SEARCH_HEAD = ("index", "kernel", "ef", "recall@10", "QPS", "batch QPS", "first call", "queries")


def search(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """One row per index, kernel and beam."""
    return [
        (
            e["index"], e["isa"], "" if e["ef"] is None else str(e["ef"]), f"{e['recall']:.3f}", number(e["qps"]), number(e["qps_together"]),
            duration(e["first_seconds"]), str(e["queries"]),
        )
        for e in entries
    ]  # fmt: skip


CHECKED = ("total", "written", "wanted", "wrong", "missing rows")
"""Measures that only say that a result was right."""
BENCH_HEAD = ("case", "measure", "median", "quartiles", "n")


def bench(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """One row per case and measure of bench records."""
    rows = []
    for r in records:
        for measure, s in r["summary"].items():
            if measure not in CHECKED:
                spread = f"{number(s['q1'])} – {number(s['q3'])}"
                rows.append((r["case"], measure, number(s["median"]), spread, str(s["n"])))
    return rows
