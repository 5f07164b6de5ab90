"""Write amplification of the policies: bytes of table files for each byte flushed, beside the closed forms.

Rows are uniform draws from a large space of keys, in commits of one memtable each. For the comparison with the formulas a
merge rewrites whole runs and moves are off; the defaults are reported beside. Bytes are counted by the file layer, by
cause; time plays no part. The simulator's prediction, made by the same policy class without I/O, stands beside.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lsmtensor as lt

from ..lsm import compaction
from .runner import Options
from .simulate import Simulator, closed_form

PAYLOAD = 100
POLICIES = ("leveled", "tiered", "lazy_leveled")


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    ratio: int
    levels: int
    rows: int
    seed: int
    flush_bytes: int = 0

    @property
    def flushes(self) -> int:
        """As many as fill the last level but for one merge: one more would only just begin another level."""
        return int(self.ratio**self.levels - self.ratio)

    @property
    def keys(self) -> int:
        """Eight times the rows written: most draws are new keys, as the formulas assume, and some overwrite."""
        return 8 * self.flushes * self.rows


def setup(options: Options) -> State:
    shape = (4, 2, 200) if options.quick else (4, 3, 1000)
    state = State(options.path, options.config, *shape, options.seed)
    # what one flush takes on disk decides where a level is full
    state.flush_bytes = int(_measured(state, _config(state, "tiered"), flushes=1)[0])
    return state


def cases(state: State) -> dict[str, dict[str, Any]]:
    shape = {"who": "lsmtensor", "flushes": state.flushes, "rows_per_flush": state.rows, "size_ratio": state.ratio}
    return {**{p: {"policy": p, "moves": False, **shape} for p in POLICIES}, "defaults": {"policy": state.config.compaction.policy, **shape}}


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"uniform overwrites, {state.flushes} x {state.rows} rows of {PAYLOAD + 8} bytes", "sha256": str(state.seed)}


def _config(state: State, case: str) -> lt.RunConfig:
    if case == "defaults":
        return state.config.with_set("background=false", "wal.sync=none")
    runs = 1 if case == "leveled" else state.ratio
    return state.config.with_set(
        "background=false", "wal.sync=none", "compaction.trivial_moves=false", f"compaction.policy={case}",
        f"compaction.size_ratio={float(state.ratio)}", f"compaction.level0_runs={runs}",
        f"compaction.level_bytes={runs * state.flush_bytes}",
    )  # fmt: skip


def _measured(state: State, config: lt.RunConfig, flushes: int) -> tuple[float, float, float, list[int], int]:
    """(bytes flushed, bytes merged, bytes stored a live row, runs after each flush, deepest level)."""
    path = state.folder / "rows.lsm"
    shutil.rmtree(path, ignore_errors=True)
    rng = np.random.default_rng(state.seed)
    runs, deepest = [], 0
    schema = lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.binary(PAYLOAD))], primary_key="k")
    with lt.open(str(path), config=config) as db:
        table = db.create_table("rows", schema, history="none")
        for _ in range(flushes):
            drawn = np.unique(rng.integers(0, state.keys, state.rows))
            payload = rng.integers(0, 256, (len(drawn), PAYLOAD), np.uint8)
            table.upsert({"k": drawn, "v": pa.array([bytes(v) for v in payload], pa.binary(PAYLOAD))})
            db.flush()
            stats = db.stats()["tables"]["rows"]
            runs.append(stats["runs"])
            deepest = max(deepest, *stats["levels"])
        written = db.stats()["io"]
        a_row = stats["file_bytes"] / len(table)
    return float(written["io.write.table.flush"]), float(written.get("io.write.table.compaction", 0)), a_row, runs, deepest


def run(state: State, case: str) -> dict[str, float]:
    config = _config(state, case)
    flushed, merged, a_row, runs, deepest = _measured(state, config, state.flushes)
    measures = {
        "write amplification": (flushed + merged) / flushed, "space amplification": a_row / (flushed / (state.flushes * state.rows)),
        "runs, mean": float(np.mean(runs)), "deepest level": float(deepest),
    }  # fmt: skip
    if case in POLICIES:
        policy = compaction.create(case, config.compaction)
        simulator = Simulator(policy, state.keys, round(state.flush_bytes / state.rows), moves=False)
        for _ in range(state.flushes):
            simulator.flush(state.rows)
        formula = closed_form(case, state.ratio, deepest)
        measures |= {
            "closed form": formula, "measured / closed form": measures["write amplification"] / formula,
            "simulated": simulator.result.write_amplification,
        }  # fmt: skip
    return measures


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["write amplification"] >= 1, f"{case}: fewer bytes written than flushed"
