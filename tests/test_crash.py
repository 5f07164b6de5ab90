"""Power loss at every call of a life of commits, flushes, merges, arrays, index segments, checkpoints and backups; errors too."""

from __future__ import annotations

import copy
import errno

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import FaultyEnv, MemoryEnv
from lsmtensor.lsm import manifest
from lsmtensor.testing import workload
from lsmtensor.testing.crash import enumerate_crashes, enumerate_errors

# a refused sync leaves handles whose finalizers meet it again
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SOME_OR_ALL = [pytest.param(97, 40, id="some"), pytest.param(1, 60, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]


@pytest.mark.parametrize("every, recovery_every", SOME_OR_ALL)
def test_power_loss_at_every_call_and_in_recovery(every, recovery_every):
    tried = enumerate_crashes(every=every, recovery_every=recovery_every)
    assert not tried.wrong, tried.wrong[0]
    assert tried.calls > 1000 and tried.checked > 100 and tried.in_recovery > 100


@pytest.mark.parametrize("every", [pytest.param(61, id="some"), pytest.param(3, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sync", ["every", "none", "buffered(ms=5)"])
def test_each_sync_mode_keeps_what_it_promises(sync, every):
    config = workload.CONFIG.with_set(f"wal.sync={sync}")
    tried = enumerate_crashes(config=config, every=every, prefix=sync != "every")
    assert not tried.wrong, tried.wrong[0]
    assert tried.checked > 20


def test_the_enumeration_sees_a_lost_commit():
    lost = workload.Step("a commit that was only claimed", lambda db: None, workload.STEPS[5].change)
    assert enumerate_crashes([*workload.STEPS[:5], lost, *workload.STEPS[6:9]], every=3).wrong


@pytest.mark.parametrize("sooner", [pytest.param(1, id="some"), pytest.param(8, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(
    "op, code, every",
    [
        ("write", errno.ENOSPC, 200), ("write", errno.EIO, 211), ("sync", errno.EIO, 40), ("create", errno.EMFILE, 20), ("rename", errno.EIO, 2),
        ("link", errno.EMLINK, 4), ("unlink", errno.EROFS, 20), ("sync_dir", errno.EIO, 20), ("truncate", errno.EIO, 1), ("mkdir", errno.EDQUOT, 10),
        ("open", errno.EMFILE, 10), ("read", errno.EIO, 10),
    ],
)  # fmt: skip
def test_an_error_at_every_call_loses_nothing(op, code, every, lasting, sooner):
    tried = enumerate_errors(op, code, every=max(1, every // sooner), lasting=lasting)
    assert not tried.wrong, tried.wrong[0]
    assert tried.checked == tried.calls > 0


SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("n", pa.int64())], primary_key="id")


def batch(step: int, size: int = 12) -> dict:
    ids = np.unique((np.arange(size) * 3 + step) % 97)
    return {"id": ids, "n": np.full(len(ids), step)}


def rows(step: int) -> dict[int, int]:
    return {int(i): step for i in batch(step)["id"]}


def contents(db: lt.Database) -> dict[int, int]:
    table = db["t"].to_arrow()
    return dict(zip(table["id"].to_pylist(), table["n"].to_pylist(), strict=True))


def test_after_a_failed_sync_nothing_more_is_acknowledged():
    env = FaultyEnv()
    db = lt.open("db", env=env, config=workload.CONFIG)
    table = db.create_table("t", SCHEMA)
    table.upsert(batch(0))
    env.fail("sync", 1)
    with pytest.raises(lt.StorageError):
        table.upsert(batch(1))
    env.heal()
    with pytest.raises(lt.StorageError, match="reopen the database"):
        table.upsert(batch(2))
    assert contents(db) == rows(0)


def test_a_full_disk_leaves_the_rest_readable():
    env = FaultyEnv()
    db = lt.open("db", env=env, config=workload.CONFIG)
    table = db.create_table("t", SCHEMA)
    table.upsert(batch(0))
    env.room = 100
    with pytest.raises(lt.StorageError, match="disk is full"):
        table.upsert(batch(4, 200))
    assert contents(db) == rows(0)
    env.heal()
    env.locks.clear()
    assert contents(lt.open("db", env=env, config=workload.CONFIG)) == rows(0)


def test_flipped_bytes_are_never_served():
    env = MemoryEnv()
    workload.run(env)
    whole = workload.models()[-1]
    for name in sorted(env.files):
        size = len(env.files[name].data)
        for at in range(0, size, max(1, size // 10)):
            copy = env.crash(keep=1)
            copy.files[name].data[at] ^= 0x10
            try:
                with lt.open(workload.PATH, env=copy, config=workload.CONFIG) as db:
                    found = workload.held(db)
            except (lt.CorruptionError, lt.FormatVersionError, lt.NotADatabaseError):
                continue
            assert found == whole, f"{name} at {at}"


def test_what_was_read_after_a_kill_outlives_a_power_loss(monkeypatch):
    """A writer is killed at each call that changes manifests and their names; the next one reads what the page cache holds, commits, and
    the power is lost. The commit was acknowledged, so all below it must be there."""
    monkeypatch.setattr(manifest, "ROTATE_BYTES", 1500)
    env, tried = FaultyEnv(), 0

    def kill(op: str, path: str) -> None:
        nonlocal tried
        if not ("MANIFEST" in path or "CURRENT" in path or path.rstrip("/") == "db") or op == "write":
            return
        tried += 1
        left = FaultyEnv()
        left.files, left.durable, left.pending = copy.deepcopy((env.files, env.durable, env.pending))
        left.folders = set(env.folders)
        db = lt.open("db", env=left, config=workload.CONFIG)
        seen = contents(db) if "t" in db else {}
        db.create_table("after", SCHEMA).put(1, {"n": 1})
        with lt.open("db", env=left.crash(keep=0.0), config=workload.CONFIG) as again:
            assert again["after"].get(1) == {"id": 1, "n": 1} and (contents(again) if "t" in again else {}) == seen, f"{op} of {path}"

    env.watch(kill)
    with lt.open("db", env=env, config=workload.CONFIG) as db:
        table = db.create_table("t", SCHEMA)
        for step in range(6):
            table.upsert(batch(step))
            db.flush()
    assert tried > 20
