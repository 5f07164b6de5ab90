"""A compaction policy replayed without I/O: the class that the engine asks, over a trace of flushes.

Sizes follow from counting: of n rows drawn uniformly from U keys, U (1 - (1 - 1/U)^n) are distinct, and runs that are merged
keep the union of their keys. What the engine writes besides rows (filters, checksums, footers) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..lsm import compaction
from ..lsm.compaction import DoNothing, Drop, Merge, Moment, Move
from ..lsm.layout import FileRef, Run, TableState


@dataclass
class Simulated:
    """What a policy did: rows and bytes, by cause, and the runs that a read would have looked into."""

    user_rows: float = 0
    flushed_rows: float = 0
    merged_rows: float = 0
    merges: int = 0
    moves: int = 0
    runs: list[int] = field(default_factory=list)
    levels: int = 0
    live_rows: float = 0
    stored_rows: float = 0

    @property
    def write_amplification(self) -> float:
        """Rows written to table files for each row given."""
        return (self.flushed_rows + self.merged_rows) / max(1.0, self.user_rows)

    @property
    def space_amplification(self) -> float:
        return self.stored_rows / max(1.0, self.live_rows)

    @property
    def mean_runs(self) -> float:
        return sum(self.runs) / max(1, len(self.runs))


class Simulator:
    """One table under one policy. ``keys`` is how many different keys the rows are drawn from; without ``moves`` a run that
    only changes level is rewritten."""

    def __init__(self, policy: compaction.Policy, keys: int, row_bytes: int, *, moves: bool = True) -> None:
        self.policy, self.keys, self.row_bytes, self.moves = policy, keys, row_bytes, moves
        self.table = TableState(1, "simulated", {}, {}, {}, (), 0, 0)
        self.result = Simulated()
        self._numbers = 0

    def _run(self, wanted: float, level: int, first: int, last: int) -> Run:
        self._numbers += 1
        rows = round(wanted)
        return Run(self._numbers, level, (FileRef(self._numbers, rows * self.row_bytes, rows, 0, 0, self.keys, first, last, ""),))

    def flush(self, rows: int) -> None:
        """A memtable of ``rows`` rows, then everything that the policy asks for."""
        self.result.user_rows += rows
        distinct = -self.keys * math.expm1(rows * math.log1p(-1 / self.keys)) if self.keys > 1 else 1.0
        self.result.flushed_rows += distinct
        version = self.table.flushed_seq + 1
        self.table = replace(self.table, runs=(self._run(distinct, 0, version, version), *self.table.runs), flushed_seq=version)
        while not isinstance(decision := self.policy.choose(self.table, Moment()), DoNothing):
            self._do(decision)
        self.result.runs.append(len(self.table.runs))
        stored = [r.rows for r in self.table.runs]
        self.result.stored_rows = sum(stored)
        self.result.live_rows = self._union(stored)
        self.result.levels = max(r.level for r in self.table.runs) if self.table.runs else 0

    def _union(self, sizes: Iterable[float]) -> float:
        # by logarithms: of very many keys a run holds a share that 1 would swallow
        shares = [size / self.keys for size in sizes]
        return float(self.keys) if max(shares, default=0) >= 1 else -self.keys * math.expm1(sum(math.log1p(-share) for share in shares))

    def _do(self, decision: compaction.Decision) -> None:
        assert isinstance(decision, (Merge, Move, Drop))
        chosen = [r for r in self.table.runs if r.id in decision.runs]
        rest = [r for r in self.table.runs if r.id not in decision.runs]
        if isinstance(decision, Move) and self.moves:
            self.result.moves += 1
            rest += [replace(r, level=decision.level) for r in chosen]
        elif isinstance(decision, (Merge, Move)):
            rows = self._union(r.rows for r in chosen)
            self.result.merges += 1
            self.result.merged_rows += rows
            rest.append(self._run(rows, decision.level, min(r.min_seq for r in chosen), max(r.max_seq for r in chosen)))
        self.table = replace(self.table, runs=tuple(sorted(rest, key=lambda r: r.min_seq, reverse=True)))


def closed_form(policy: str, size_ratio: float, deepest: int) -> float:
    """Write amplification by the formulas of the Fluid LSM family, ``deepest`` the number of the last level.

    A row is flushed once. Leveling then rewrites it (T + 1) / 2 times in each level while that fills, tiering once a level,
    lazy leveling once a level and (T + 1) / 2 times in the last (Dayan & Idreos, SIGMOD 2018; `docs/compaction.md`).
    """
    filling = (size_ratio + 1) / 2
    return {"leveled": 1 + deepest * filling, "tiered": 1.0 + deepest, "lazy_leveled": deepest + filling}[policy]
