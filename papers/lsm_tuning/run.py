"""Monkey and Dostoevsky: what policies write, and what a lookup of an absent key costs, in bytes and filters of real files."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lab  # noqa: E402

import lsmtensor as lt  # noqa: E402
from lsmtensor.bench.simulate import Simulator, closed_form  # noqa: E402
from lsmtensor.env.local import LocalEnv  # noqa: E402
from lsmtensor.lsm import compaction  # noqa: E402
from lsmtensor.sstable import filters  # noqa: E402
from lsmtensor.sstable.reader import TableReader  # noqa: E402

POLICIES = ("leveled", "tiered", "lazy_leveled")
BITS = 5
ASKED = 40_000
SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.binary(56))], primary_key="k")


def shapes(scale: str) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...], int]:
    """((size ratio, deepest level) for what policies write, (size ratio, levels) for what lookups cost, rows a flush)."""
    if scale == "smoke":
        return ((4, 2),), ((4, 1), (4, 2)), 300
    return ((2, 5), (4, 3), (8, 2)), ((4, 1), (4, 2), (4, 3)), 1000


def config(policy: str, ratio: int, flush_bytes: int, key_filter: str) -> lt.RunConfig:
    runs = 1 if policy == "leveled" else ratio
    return lt.RunConfig(background=False).with_set(
        "wal.sync=none", "compaction.trivial_moves=false", f"compaction.policy={policy}", f"compaction.size_ratio={float(ratio)}",
        f"compaction.level0_runs={runs}", f"compaction.level_bytes={runs * flush_bytes}", f"sstable.filter={key_filter}",
    )  # fmt: skip


def life(policy: str, ratio: int, flushes: int, rows: int, seed: int, key_filter: str) -> dict[str, Any]:
    """So many flushes of rows drawn from eight times as many even keys as are written: most are new, as the formulas assume."""
    keys = 8 * flushes * rows
    folder = Path(tempfile.mkdtemp(prefix="lsmtensor-paper-", dir="."))
    try:
        # what one flush takes on disk decides where a level is full
        flush_bytes = int(_flushed(folder / "one.lsm", config(policy, ratio, rows * 80, key_filter), 1, keys, rows, seed)["flushed"])
        made = config(policy, ratio, flush_bytes, key_filter)
        found = _flushed(folder / "x.lsm", made, flushes, keys, rows, seed)
        simulator = Simulator(compaction.create(policy, made.compaction), keys, round(flush_bytes / rows), moves=False)
        for _ in range(flushes):
            simulator.flush(rows)
        return {
            "policy": policy, "size ratio": ratio, "filter": key_filter, "flushes": flushes, "deepest level": found["deepest"],
            "written": (found["flushed"] + found["merged"]) / found["flushed"], "closed form": closed_form(policy, ratio, int(found["deepest"])),
            "simulated": simulator.result.write_amplification, "space": found["space"], "runs, mean": found["runs"],
            **asked(folder / "x.lsm", keys, np.random.default_rng(seed + 1)),
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flushed(path: Path, made: lt.RunConfig, flushes: int, keys: int, rows: int, seed: int) -> dict[str, float]:
    rng, runs = np.random.default_rng(seed), []
    with lt.open(str(path), config=made) as db:
        table = db.create_table("t", SCHEMA, history="none")
        for _ in range(flushes):
            drawn = np.unique(rng.integers(0, keys, rows))
            table.upsert({"k": 2 * drawn, "v": pa.array([bytes(56)] * len(drawn), pa.binary(56))})
            db.flush()
            runs.append(db.stats()["tables"]["t"]["runs"])
        stats, io = db.stats()["tables"]["t"], db.stats()["io"]
        space = stats["file_rows"] / len(table)
    return {
        "flushed": io["io.write.table.flush"], "merged": io.get("io.write.table.compaction", 0), "deepest": max(stats["levels"]), "space": space,
        "runs": float(np.mean(runs)),
    }  # fmt: skip


def asked(path: Path, keys: int, rng: np.random.Generator) -> dict[str, float]:
    """The filters of all files, asked for odd keys, which nobody wrote: files that a lookup would read for nothing, and bits a key."""
    absent = filters.hashes(pa.array(2 * rng.integers(0, keys, ASKED) + 1))
    looks = size = rows = files = 0
    for file in sorted((path / "sst").glob("*.arrow")):
        reader = TableReader(LocalEnv(), str(file), int(file.stem))
        assert reader._filter is not None
        looks += int(filters.test(*reader._filter, absent).sum())
        size, rows, files = size + reader._filter[1].nbytes, rows + reader.rows, files + 1
    return {"looks for an absent key": looks / ASKED, "bits a key": 8 * size / rows, "files at the end": files}


def measure(scale: str, seed: int) -> Iterator[dict[str, Any]]:
    writes, lookups, rows = shapes(scale)
    for ratio, deepest in writes:
        for policy in POLICIES:
            # until the last level is full but for one merge
            yield {"part": "writes", **life(policy, ratio, ratio**deepest - ratio, rows, seed, f"bloom(bits={BITS})")}
    for ratio, levels in lookups:
        for key_filter in (f"bloom(bits={BITS})", f"monkey(bits={BITS})"):
            # until every level holds as many runs as it may
            yield {"part": "lookups", **life("tiered", ratio, ratio**levels - 1, rows, seed, key_filter)}


def facts(rows: lab.Rows) -> dict[str, float]:
    writes, lookups = ([r for r in rows if r["part"] == part] for part in ("writes", "lookups"))
    found = {
        "measured over closed form, least": min(r["written"] / r["closed form"] for r in writes),
        "measured over closed form, most": max(r["written"] / r["closed form"] for r in writes),
        "measured over simulated, furthest from 1": max((r["written"] / r["simulated"] for r in writes), key=lambda v: abs(v - 1)),
    }  # fmt: skip
    largest = max(r["size ratio"] for r in writes)
    of = {r["policy"]: r for r in writes if r["size ratio"] == largest}
    found["leveled / lazy, written"] = of["leveled"]["written"] / of["lazy_leveled"]["written"]
    found["lazy / leveled, space"] = of["lazy_leveled"]["space"] / of["leveled"]["space"]
    found["tiered / lazy, space"] = of["tiered"]["space"] / of["lazy_leveled"]["space"]
    for name, start in (("uniform", "bloom"), ("monkey", "monkey")):
        line = sorted((r for r in lookups if r["filter"].startswith(start)), key=lambda r: r["deepest level"])
        found[f"looks, {name}, deepest over shallowest"] = line[-1]["looks for an absent key"] / line[0]["looks for an absent key"]
        found[f"looks, {name}, deepest"] = line[-1]["looks for an absent key"]
        found[f"bits a key, {name}, deepest"] = line[-1]["bits a key"]
    found["looks, uniform over monkey, deepest"] = found["looks, uniform, deepest"] / found["looks, monkey, deepest"]
    # as many bits for uniform as monkey took: exp(-bits ln(2)^2) a run
    more = found["bits a key, monkey, deepest"] - found["bits a key, uniform, deepest"]
    found["looks, uniform over monkey, deepest, equal bits"] = found["looks, uniform over monkey, deepest"] * float(np.exp(-more * np.log(2) ** 2))
    return found


def show(rows: lab.Rows, plt: Any) -> tuple[dict[str, lab.Rows], Any]:
    writes, lookups = ([{k: v for k, v in r.items() if k != "part"} for r in rows if r["part"] == part] for part in ("writes", "lookups"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    ratios = sorted({r["size ratio"] for r in writes})
    for at, policy in enumerate(POLICIES):
        line = [next(r for r in writes if r["policy"] == policy and r["size ratio"] == t) for t in ratios]
        left.bar(np.arange(len(ratios)) + (at - 1) * 0.27, [r["written"] for r in line], 0.25, label=policy)
        left.plot(np.arange(len(ratios)) + (at - 1) * 0.27, [r["closed form"] for r in line], "k_", ms=12)
    left.set_xticks(range(len(ratios)), [f"T = {t}" for t in ratios])
    left.set(ylabel="bytes written for each flushed", title="bars: measured; marks: closed form")
    for start, label in (("bloom", f"bloom, {BITS} bits on each level"), ("monkey", f"monkey, {BITS} bits at the last")):
        line = sorted((r for r in lookups if r["filter"].startswith(start)), key=lambda r: r["deepest level"])
        right.plot([r["deepest level"] for r in line], [r["looks for an absent key"] for r in line], "o-", label=label)
    right.set(xlabel="deepest level", ylabel="files read for an absent key", title="tiered, T = 4", xticks=sorted({r["deepest level"] for r in lookups}))
    right.set_ylim(0)
    for panel in (left, right):
        panel.legend(fontsize=7)
    return {"What policies write": writes, "What a lookup of an absent key costs": lookups}, figure


if __name__ == "__main__":
    lab.main(__file__, measure, facts, show)
