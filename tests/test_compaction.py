"""Compaction: every policy on layouts alone, and in the engine against a model of versions."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.bench.simulate import Simulator, closed_form
from lsmtensor.env.base import Clock
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.lsm import compaction
from lsmtensor.lsm.compaction import Merge, Moment, Move
from lsmtensor.testing import compaction as suite

DEFAULTS = lt.RunConfig().compaction
POLICIES = compaction.REGISTRY.names()


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", POLICIES)
def test_conformance(name, check):
    check(lambda: compaction.create(name, DEFAULTS))


@given(st.sampled_from(POLICIES), st.integers(2, 8), st.integers(1, 6), st.lists(st.integers(1, 10**6), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_shape_settles(name, size_ratio, level0_runs, sizes):
    policy = compaction.REGISTRY.create(name, size_ratio=float(size_ratio), level0_runs=level0_runs, level_bytes=10**5)
    table = suite.table_of([])
    for version, rows in enumerate(sizes, 1):
        table = suite.settle(policy, suite.table_of([suite.run_of(1000 * version, 0, rows, (version, version)), *table.runs]))


def runs(*levels):
    """Newest first: (level, rows)."""
    return suite.table_of(suite.run_of(i, level, rows, (100 - i, 100 - i)) for i, (level, rows) in enumerate(levels, 1))


def test_leveled_merges_with_the_run_below():
    policy = compaction.create("leveled(size_ratio=4, level0_runs=2, level_bytes=1000)", DEFAULTS)
    assert policy.choose(runs((0, 10), (0, 10), (1, 20)), Moment()) == Merge((1, 2, 3), 1)
    assert policy.choose(runs((1, 40)), Moment()) == Move((1,), 2)
    assert policy.choose(runs((1, 40), (2, 50)), Moment()) == Merge((1, 2), 2)


def test_tiered_merges_a_level_into_a_run_of_the_next():
    policy = compaction.create("tiered(size_ratio=3, level0_runs=3)", DEFAULTS)
    assert policy.choose(runs((0, 9), (0, 9), (0, 9), (1, 30)), Moment()) == Merge((1, 2, 3), 1)
    assert policy.choose(runs((0, 9), (1, 30), (1, 30), (1, 30)), Moment()) == Merge((2, 3, 4), 2)


def test_lazy_leveling_keeps_one_last_run():
    policy = compaction.create("lazy_leveled(size_ratio=3, level0_runs=3, level_bytes=100000)", DEFAULTS)
    assert policy.choose(runs((0, 9), (0, 9), (0, 9), (1, 30)), Moment()) == Merge((1, 2, 3, 4), 1)
    assert policy.choose(runs((0, 9), (0, 9), (0, 9), (1, 30), (2, 90)), Moment()) == Merge((1, 2, 3), 1)


def test_fifo_drops_what_is_too_old():
    policy = compaction.create("fifo(ttl=10s)", DEFAULTS)
    table = suite.table_of([suite.run_of(1, 0, 5, (7, 9)), suite.run_of(2, 0, 5, (1, 3))])
    times = ((3, 1_000_000_000), (9, 8_000_000_000))
    assert policy.choose(table, Moment(11_000_000_000, times)) == compaction.Drop((2,))
    with pytest.raises(lt.InvalidArgumentError, match="ttl"):
        compaction.create("fifo(ttl=soon)", DEFAULTS)


@pytest.mark.parametrize("name", ["leveled", "tiered", "lazy_leveled"])
def test_the_simulator_agrees_with_the_closed_form(name):
    ratio, level0 = 4, 1 if name == "leveled" else 4
    policy = compaction.REGISTRY.create(name, size_ratio=ratio, level0_runs=level0, level_bytes=level0 * 100_000)
    simulator = Simulator(policy, keys=10**9, row_bytes=100, moves=False)
    for _ in range(252):
        simulator.flush(1000)
    want = closed_form(name, ratio, simulator.result.levels)
    assert simulator.result.write_amplification == pytest.approx(want, rel=0.15)


class SetClock(Clock):
    def __init__(self):
        self.now = 1_000_000_000_000

    def time_ns(self):
        return self.now


SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.int64())], primary_key="k")


def content(table):
    read = table.to_arrow()
    return dict(zip(read.column("k").to_pylist(), read.column("v").to_pylist(), strict=True))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("policy", ["leveled", "tiered", "lazy_leveled", "none"])
def test_no_policy_loses_or_invents_anything(policy, threads):
    config = lt.RunConfig(background=False, threads=threads).with_set(
        f"compaction.policy={policy}", "compaction.level0_runs=2", "compaction.level_bytes=4000", "compaction.size_ratio=2.0",
        "sstable.batch_rows=16", "sstable.file_bytes=3000",
    )  # fmt: skip
    rng, model, kept = np.random.default_rng(5), {}, []
    with lt.open("db", env=MemoryEnv(), config=config) as db:
        table = db.create_table("t", SCHEMA, history="none")
        for step in range(60):
            keys = np.unique(rng.integers(0, 300, rng.integers(1, 60)))
            if step % 4 == 3:
                table.delete(keys)
                model = {k: v for k, v in model.items() if k not in set(keys.tolist())}
            else:
                table.upsert({"k": keys, "v": keys * 0 + step})
                model = {**model, **dict.fromkeys(keys.tolist(), step)}
            if step % 3 == 0:
                db.flush()
            if step % 10 == 5:
                kept.append((db.snapshot(), dict(model)))
        db.flush()
        assert content(table) == model
        for snap, then in kept:
            assert content(snap["t"]) == then
            assert all((snap["t"].get(k) or {}).get("v") == then.get(k) for k in range(0, 300, 37))
        db.verify()
        db.compact()
        assert content(table) == model
        for snap, then in kept:
            assert content(snap["t"]) == then
            snap.close()
        db.compact()
        assert content(table) == model and db.stats()["tables"]["t"]["file_rows"] == len(model)


def filled(config):
    db = lt.open("db", env=MemoryEnv(), config=config)
    table = db.create_table("t", SCHEMA, history="none")
    for start in range(0, 1000, 100):
        table.insert({"k": np.arange(start, start + 100), "v": np.arange(100)})
        db.flush()
    return db, table


def test_runs_that_share_no_keys_are_not_rewritten():
    db, table = filled(lt.RunConfig(background=False))
    stats = db.stats()
    assert stats["io"].get("io.write.table.compaction", 0) == 0 and stats["tables"]["t"]["runs"] < 5
    assert len(table) == 1000
    db.close()
    db, table = filled(lt.RunConfig(background=False).with_set("compaction.trivial_moves=false"))
    assert db.stats()["io"]["io.write.table.compaction"] > 0 and len(table) == 1000


def test_a_part_of_a_table_is_compacted():
    db, table = filled(lt.RunConfig(background=False).with_set("compaction.policy=none"))
    db.compact("t", start=250, stop=450)
    assert db.stats()["tables"]["t"]["runs"] == 8  # 200–499 in one
    assert content(table) == {k: k % 100 for k in range(1000)}
    with pytest.raises(lt.InvalidArgumentError, match="compact"):
        db.compact(start=1)
    with pytest.raises(lt.TableNotFoundError):
        db.compact("u")


def test_pause_and_resume():
    config = lt.RunConfig(background=False).with_set("compaction.level0_runs=2", "compaction.trivial_moves=false", "compaction.stop_runs=4")
    with lt.open("db", env=MemoryEnv(), config=config) as db:
        table = db.create_table("t", SCHEMA)
        db.pause_compaction()
        for i in range(8):
            table.upsert({"k": [1, 2], "v": [i, i]})
            db.flush()
        assert db.stats()["tables"]["t"]["runs"] == 8
        db.resume_compaction()
        assert db.stats()["tables"]["t"]["runs"] == 1 and table.get(2)["v"] == 7


def test_writers_slow_down_before_they_stop():
    config = lt.RunConfig(background=False).with_set("compaction.slowdown_runs=2", "compaction.policy=lazy_leveled(level0_runs=100)")
    with lt.open("db", env=MemoryEnv(), config=config) as db:
        table = db.create_table("t", SCHEMA)
        for i in range(12):
            table.put(i, {"v": i})
            db.flush()
        begin = time.monotonic()
        table.put(99, {"v": 99})
        assert time.monotonic() - begin >= 0.009  # nine runs too many, a millisecond each


def test_the_rate_of_merges_is_limited():
    db, _ = filled(lt.RunConfig(background=False).with_set("compaction.policy=none", "compaction.rate_limit=200000", "sstable.batch_rows=100"))
    begin = time.monotonic()
    db.compact()
    written = db.stats()["io"]["io.write.table.compaction"]
    assert time.monotonic() - begin >= 0.6 * 1000 * 25 / 200_000, written


def test_a_fifo_table_forgets():
    env, clock = MemoryEnv(), SetClock()
    env.clock = clock
    with lt.open("db", env=env, config=lt.RunConfig(background=False)) as db:
        table = db.create_table("t", SCHEMA, compaction="fifo(ttl=60s)")
        table.insert({"k": [1, 2], "v": [0, 0]})
        db.flush()
        clock.now += 50_000_000_000
        table.insert({"k": [3], "v": [0]})
        snap = db.snapshot()
        db.flush()
        assert len(table) == 3
        clock.now += 30_000_000_000
        db.flush()
        assert content(table) == {3: 0} and content(snap["t"]) == {1: 0, 2: 0, 3: 0}


def test_space_is_accounted_for():
    config = lt.RunConfig(background=False).with_set("compaction.policy=none")
    with lt.open("db", env=MemoryEnv(), config=config) as db:
        kept, gone = db.create_table("kept", SCHEMA), db.create_table("gone", SCHEMA, history="none")
        for table in (kept, gone):
            table.insert({"k": np.arange(100), "v": np.arange(100)})
            db.flush()
            table.upsert({"k": np.arange(40), "v": np.zeros(40, int)})
            table.delete(np.arange(90, 100))
            db.flush()
        report = db.space_report()
        rows = {(r["table"], r["what"]): r["rows"] for r in report["tables"].to_pylist()}
        assert [rows["kept", w] for w in ("live", "history", "deletes", "garbage")] == [90, 50, 10, 0]
        assert [rows["gone", w] for w in ("live", "history", "deletes", "garbage")] == [90, 0, 10, 50]
        assert report["garbage_bytes"] > 0 and report["live_bytes"] > report["history_bytes"] > 0 and report["stray_files"] == []
        with db.snapshot():
            gone.delete(np.arange(90))
            db.flush()
            held = {(r["table"], r["what"]): r["rows"] for r in db.space_report()["tables"].to_pylist()}
            assert held["gone", "history"] == 90  # the snapshot still sees them
        db.compact()
        after = {(r["table"], r["what"]): r["rows"] for r in db.space_report()["tables"].to_pylist()}
        assert [after["gone", w] for w in ("live", "history", "deletes", "garbage")] == [0, 0, 0, 0] and after["kept", "live"] == 90


def test_stray_files_are_found_and_removed(tmp_path):
    with lt.open(tmp_path / "db", config=lt.RunConfig(background=False)) as db:
        table = db.create_table("t", SCHEMA)
        table.insert({"k": [1], "v": [1]})
        db.flush()
        stray = tmp_path / "db" / "sst" / "000999.arrow"
        stray.write_bytes(b"half a file")
        assert db.space_report()["stray_bytes"] == 11
        assert [p.endswith("000999.arrow") for p in db.collect_garbage(dry_run=True)] == [True] and stray.exists()
        assert len(db.collect_garbage()) == 1 and not stray.exists() and db.collect_garbage() == []
        assert content(table) == {1: 1}
        db.verify()


def test_logs_do_not_pile_up_behind_a_table_that_is_seldom_written():
    config = lt.RunConfig(background=False, direct_commit_bytes=1 << 20).with_set("memtable.limit_bytes=20000")
    with lt.open("t.lsm", env=MemoryEnv(), config=config) as db:
        seldom, often = (db.create_table(name, SCHEMA) for name in ("seldom", "often"))
        seldom.put(1, {"v": 1})
        most = 0
        for n in range(60):
            often.upsert({"k": np.arange(1000) + 1000 * n, "v": np.arange(1000)})
            most = max(most, len(db._tree.state.layout.wals))
        assert 2 < most <= 10
        assert seldom.get(1) == {"k": 1, "v": 1} and often.count() == 60_000


def test_memtables_share_the_memory_limit():
    config = lt.RunConfig(background=False, memory_limit=8 << 20)  # a quarter of it is for memtables
    with lt.open("t.lsm", env=MemoryEnv(), config=config) as db:
        tables = [db.create_table(f"t{i}", SCHEMA) for i in range(8)]
        most = 0
        for n in range(40):
            for table in tables:
                table.upsert({"k": np.arange(1000) + 1000 * n, "v": np.arange(1000)})
                most = max(most, sum(t.mems[0].memtable.nbytes for t in db._tree.state.tables.values()))
        assert 1 << 20 < most < 3 << 20
        assert all(table.count() == 40_000 for table in tables)
