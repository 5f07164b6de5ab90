"""What a database flushed and merged, recorded while it works, and replayed under another policy without a byte written.

    stop = record(db, "work.trace"); ...; stop()
    lsmtensor simulate tiered --trace work.trace
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..lsm.compaction import Policy
from .simulate import Simulated, Simulator

Event = dict[str, Any]
KEPT = ("flush", "compaction", "stall")
MANY = 1 << 62
"""Keys so many that no two rows share one."""


def record(db: Any, path: str | os.PathLike[str]) -> Callable[[], None]:
    """Append a JSON line for each flush, compaction and stall of an open database from now on; call the answer to stop. One write of some 200 bytes each."""
    out = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open until the answer is called

    def listen(event: Event) -> None:
        if event["event"] in KEPT and "error" not in event:
            out.write(json.dumps(event, default=str) + "\n")

    stop = db.on_event(listen)

    def end() -> None:
        stop()
        out.close()

    return end


def read(path: str | os.PathLike[str], table: str | None = None) -> list[Event]:
    """The events of one table, in order: of ``table``, or of the only one that was flushed. Raises `InvalidArgumentError`."""
    try:
        events = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        tables = {e["table"] for e in events if e["event"] == "flush"}
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise InvalidArgumentError(f"{path} is no trace ({why}); record one with lsmtensor.bench.trace.record(db, path)") from why
    if table is None and len(tables) != 1:
        raise InvalidArgumentError(f"{path} has flushes of {', '.join(sorted(tables)) or 'no table'}; name one table")
    if table is not None and table not in tables:
        raise InvalidArgumentError(f"{path} has no flush of {table!r}; there are: {', '.join(sorted(tables))}")
    return [e for e in events if e.get("table") == (table or next(iter(tables)))]


@dataclass
class Replayed:
    """``measured``: bytes of table files for each byte flushed, by the engine that was recorded; ``predicted``: rows for each row flushed, by the replay."""

    measured: float
    predicted: float
    keys: int
    row_bytes: int
    simulated: Simulated


def replay(events: Sequence[Event], policy: Policy, keys: int | None = None) -> Replayed:
    """The same flushes under ``policy``. Keys are drawn evenly from ``keys`` (by default as many as explain what merges left of their rows)."""
    flushes = [e for e in events if e["event"] == "flush"]
    merges = [e for e in events if e["event"] == "compaction"]
    flushed = sum(e["file_bytes"] for e in flushes)
    rows = sum(e["rows"] for e in flushes)
    found = keys or _keys(merges)
    simulator = Simulator(policy, found, max(1, round(flushed / max(1, rows))))
    for flush in flushes:
        simulator.flush(flush["rows"])
    result = simulator.result
    measured = (flushed + sum(e.get("file_bytes", 0) for e in merges)) / max(1, flushed)
    return Replayed(measured, (result.flushed_rows + result.merged_rows) / max(1.0, result.flushed_rows), found, simulator.row_bytes, result)


def _keys(merges: Sequence[Event]) -> int:
    """So many that the largest merge, its runs taken as equal, would have left as many rows as it did."""
    largest = max(merges, key=lambda e: e["rows"], default=None)
    if largest is None or largest["file_rows"] >= largest["rows"]:
        return MANY
    runs, each, left = largest["runs"], largest["rows"] / largest["runs"], largest["file_rows"]
    low, high = max(1, left), MANY
    while low < high:
        middle = (low + high) // 2
        if middle * (1 - (1 - min(1.0, each / middle)) ** runs) < left:
            low = middle + 1
        else:
            high = middle
    return low
