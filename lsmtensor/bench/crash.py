"""A writer that is killed, and the count of what became of its commits.

The writer is a process of its own: one commit per package, holding all of that package's dependency edges, and one line
on a pipe after each commit that returned. The parent writes those lines to its own log, kills the writer by SIGKILL
at a random time, reads the pipe to its end, and compares the reopened database with that log alone. SIGKILL leaves
the page cache, so this shows that commits are whole and recovered; what a power loss takes is tested elsewhere,
with a file system that drops what was not synced.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import LsmTensorError

TABLE = "depends"
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Kill:
    """One killed writer. ``in_doubt``: commits found that were never acknowledged (at most the last, and whole)."""

    acknowledged: int
    recovered: int
    lost: int
    torn: int
    in_doubt: int
    seconds: float
    reopen_ms: float


def groups(edges: pa.Table) -> list[tuple[str, list[dict[str, str]]]]:
    """The edges of each package, in order of its name: one commit each."""
    found: dict[str, list[dict[str, str]]] = {}
    for edge in edges.to_pylist():
        found.setdefault(edge["src"], []).append(edge)
    return sorted(found.items())


def write_forever(path: str, data: str | None, number: int) -> None:
    """The writer's body: commit after commit, each acknowledged by a line ``number src`` once it returned."""
    import lsmtensor as lt

    from .datasets import debian

    todo = groups(debian(data).edges)
    with lt.open(path) as db:
        table = db[TABLE]
        while True:
            for src, edges in todo:
                table.upsert([{**edge, "commit": number} for edge in edges])
                os.write(1, f"{number} {src}\n".encode())
                number += 1


def kill_once(path: str, data: str | None, log: Path, first: int, rng: random.Random) -> tuple[int, float]:
    """Start a writer, let it commit, kill it; its acknowledgements are appended to ``log``. Returns (how many, seconds)."""
    command = [sys.executable, "-m", __name__, path, str(first), *([data] if data else [])]
    begin = time.perf_counter()
    count, tail, deadline = 0, b"", None
    with open(log, "ab") as out, subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        while line := os.read(writer.stdout.fileno(), 1 << 16):
            out.write(line)
            count += line.count(b"\n")
            tail = line
            if deadline is None and count:
                deadline = time.perf_counter() + rng.uniform(0.1, 0.6)
            late = time.perf_counter() - begin > PATIENCE_SECONDS
            if writer.poll() is None and (late or (deadline is not None and time.perf_counter() >= deadline)):
                writer.send_signal(signal.SIGKILL)
        writer.wait()
    if writer.returncode != -signal.SIGKILL or not count:
        raise LsmTensorError(f"the writer process ended by itself with code {writer.returncode} after {count} commits; last words: {tail!r}")
    return count, time.perf_counter() - begin


def acknowledgements(log: Path) -> dict[str, list[int]]:
    """Source package to the numbers of its acknowledged commits, in order. A line is whole or was not an acknowledgement."""
    found: dict[str, list[int]] = {}
    for line in log.read_text(encoding="utf-8").split("\n")[:-1]:
        number, src = line.split(" ", 1)
        found.setdefault(src, []).append(int(number))
    return found


def judge(rows: pa.Table, edges: pa.Table, acknowledged: dict[str, list[int]]) -> dict[str, int]:
    """Compare what the database holds with what was acknowledged.

    A package's newest acknowledged commit is recovered when all its edges are there, of that commit or a later one;
    lost when not. A package whose edges are of several commits, or not all there, was torn.
    """
    wanted = {src: {(e["dst"], e["kind"]) for e in group} for src, group in groups(edges)}
    held: dict[str, dict[tuple[str, str], int]] = {}
    for row in rows.to_pylist():
        held.setdefault(row["src"], {})[row["dst"], row["kind"]] = row["commit"]
    torn = {src for src, there in held.items() if set(there) != wanted.get(src) or len(set(there.values())) > 1}
    counts = {"acknowledged": 0, "recovered": 0, "lost": 0, "torn": len(torn), "in_doubt": 0}
    for src, numbers in acknowledged.items():
        there = set(held.get(src, {}).values())
        kept = bool(there) and src not in torn and min(there) >= numbers[-1]
        counts["acknowledged"] += len(numbers)
        # an earlier commit of the same package was replaced by the newest one: it stands or falls with it
        counts["recovered" if kept else "lost"] += len(numbers)
    for src, edges_of in held.items():
        counts["in_doubt"] += len({n for n in edges_of.values() if n not in set(acknowledged.get(src, []))})
    return counts


def kills(path: str, data: str | None, edges: pa.Table, log: Path, rounds: int, seed: int, **opening: Any) -> Iterator[Kill]:
    """``rounds`` writers, each killed and judged; the database is closed before and after."""
    import lsmtensor as lt

    rng = random.Random(seed)
    log.unlink(missing_ok=True)
    first = 1
    for _ in range(rounds):
        count, seconds = kill_once(path, data, log, first, rng)
        first += count + 1
        begin = time.perf_counter()
        with lt.open(path, **opening) as db:
            reopen = time.perf_counter() - begin
            judged = judge(db[TABLE].to_arrow(), edges, acknowledgements(log))
        yield Kill(**judged, seconds=seconds, reopen_ms=reopen * 1e3)


if __name__ == "__main__":
    write_forever(sys.argv[1], sys.argv[3] if len(sys.argv) > 3 else None, int(sys.argv[2]))
