"""Power loss at every call: what was acknowledged is there, the rest is whole or absent."""

from __future__ import annotations

import errno

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import FaultyEnv, MemoryEnv, SimulatedCrashError

# a crash leaves handles whose finalizers meet the dead file system
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = lt.RunConfig(background=False, direct_commit_bytes=3000).with_set(
    "memtable.limit_bytes=1500", "compaction.level0_runs=2", "wal.segment_bytes=2500", "sstable.chunk_bytes=4096"
)
SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("n", pa.int64())], primary_key="id")


def batch(step: int) -> dict:
    size = 200 if step % 5 == 4 else 12
    ids = (np.arange(size) * 3 + step) % 97
    return {"id": ids, "n": np.full(size, step)}


def workload(env: MemoryEnv, acknowledged: list[int]) -> None:
    db = lt.open("db", env=env, config=CONFIG)
    table = db.create_table("t", SCHEMA)
    acknowledged.append(-1)
    for step in range(12):
        if step % 4 == 3:
            table.delete(list(range(step, step + 20)))
        else:
            table.upsert(batch(step))
        acknowledged.append(step)
    db.flush()
    db.compact()
    db.close()


def model(steps: int) -> dict[int, int]:
    rows: dict[int, int] = {}
    for step in range(steps):
        if step % 4 == 3:
            for key in range(step, step + 20):
                rows.pop(key, None)
        else:
            rows.update({int(i): step for i in batch(step)["id"]})
    return rows


def contents(db: lt.Database) -> dict[int, int]:
    table = db["t"].to_arrow()
    return dict(zip(table["id"].to_pylist(), table["n"].to_pylist(), strict=True))


def calls() -> int:
    env = FaultyEnv()
    workload(env, [])
    return sum(op in FaultyEnv.MUTATING for op, _ in env.calls)


def check_after_crash(env: MemoryEnv, acknowledged: list[int]) -> None:
    db = lt.open("db", env=env, config=CONFIG)
    if not acknowledged:
        assert db.tables in ([], ["t"])
    else:
        done = acknowledged[-1] + 1
        found = contents(db)
        assert found in (model(done), model(done + 1)), "neither the acknowledged commits nor those and the one under way"
        db.verify()
        db["t"].upsert({"id": [1000], "n": [1]})
        assert db["t"].get(1000)["n"] == 1
    db.close()


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_power_loss_at_every_call(keep):
    for at in range(1, calls() + 1):
        env = FaultyEnv()
        env.crash_at(at)
        acknowledged: list[int] = []
        with pytest.raises(SimulatedCrashError):
            workload(env, acknowledged)
        check_after_crash(env.crash(seed=at, keep=keep), acknowledged)


def test_power_loss_during_recovery():
    env = FaultyEnv()
    env.crash_at(calls() // 2)
    acknowledged: list[int] = []
    with pytest.raises(SimulatedCrashError):
        workload(env, acknowledged)
    for at in range(1, 12):
        left = env.crash(seed=at, keep=0.5)
        again = FaultyEnv()
        again.files, again.durable, again.folders = left.files, left.durable, left.folders
        again.crash_at(at)
        try:
            lt.open("db", env=again, config=CONFIG)
        except SimulatedCrashError:
            check_after_crash(again.crash(seed=at, keep=0.5), acknowledged)


@pytest.mark.parametrize("op", ["write", "sync", "create", "rename", "sync_dir"])
def test_an_error_at_every_call_loses_nothing(op):
    at = 0
    while True:
        at += 1
        env = FaultyEnv()
        env.fail(op, at, errno.ENOSPC if op == "write" else errno.EIO)
        acknowledged: list[int] = []
        try:
            workload(env, acknowledged)
        except (lt.StorageError, lt.LsmTensorError):
            env.heal()
            env.locks.clear()
            check_after_crash(env, acknowledged)
        else:
            if sum(call == op for call, _ in env.calls) < at:
                break


def test_after_a_failed_sync_nothing_more_is_acknowledged():
    env = FaultyEnv()
    db = lt.open("db", env=env, config=CONFIG)
    table = db.create_table("t", SCHEMA)
    table.upsert(batch(0))
    env.fail("sync", 1)
    with pytest.raises(lt.StorageError):
        table.upsert(batch(1))
    env.heal()
    with pytest.raises(lt.StorageError, match="reopen the database"):
        table.upsert(batch(2))
    assert contents(db) == model(1)


def test_a_full_disk_leaves_the_rest_readable():
    env = FaultyEnv()
    db = lt.open("db", env=env, config=CONFIG)
    table = db.create_table("t", SCHEMA)
    table.upsert(batch(0))
    env.room = 100
    with pytest.raises(lt.StorageError, match="disk is full"):
        table.upsert(batch(4))
    assert contents(db) == model(1)
    env.heal()
    env.locks.clear()
    assert contents(lt.open("db", env=env, config=CONFIG)) == model(1)


def test_flipped_bytes_are_never_served():
    env = MemoryEnv()
    workload(env, [])
    whole = contents(lt.open("db", env=env.crash(keep=1), config=CONFIG))
    for name in sorted(env.files):
        if name.endswith("LOCK"):
            continue
        size = len(env.files[name].data)
        for at in range(0, size, max(1, size // 60)):
            copy = env.crash(keep=1)
            copy.files[name].data[at] ^= 0x10
            try:
                db = lt.open("db", env=copy, config=CONFIG)
                found = contents(db)
            except (lt.CorruptionError, lt.FormatVersionError, lt.NotADatabaseError):
                continue
            assert found == whole, f"{name} at {at}"
