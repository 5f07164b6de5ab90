"""What the fault suites and the model test found: one test each, smallest form."""

from __future__ import annotations

import gc
import os
import time

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import FaultyEnv

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONFIG = lt.RunConfig(background=False)
SCHEMA = lt.Schema([lt.Column("k", pa.int64())], primary_key="k")


def opened(env):
    return lt.open("db", env=env, config=CONFIG)


@pytest.mark.parametrize("what", ["a commit", "a layout edit"])
def test_what_a_failed_sync_left_in_memory_is_written_again(what):
    """Pages whose sync failed are read back as if they were on the disk; a power loss after the next good sync took them and
    made what followed them unreadable."""
    env = FaultyEnv()
    db = opened(env)
    table = db.create_table("t", SCHEMA)
    env.fail("sync")
    with pytest.raises(lt.StorageError):
        table.put(1) if what == "a commit" else db.create_table("other", SCHEMA)
    with pytest.raises(lt.StorageError, match="reopen"):
        table.put(3) if what == "a commit" else db.tag("x")
    db.close()
    env.heal()
    with opened(env) as db:
        db["t"].put(2)
    with opened(env.crash(keep=0)) as db:
        assert 2 in db["t"]
        db.verify()


def test_ids_of_arrays_are_not_given_twice_across_a_crash():
    """Ids were file numbers; those of commits that only the log held were given again, and two arrays shared their chunks."""
    env = FaultyEnv()
    db = opened(env)
    db.tensors["first"] = np.zeros(3)
    db.tensors["second"] = np.arange(4.0)
    env = env.crash(keep=0)
    for n in range(4):
        with opened(env) as db:
            db.tensors[f"later {n}"] = np.ones(7)
            np.testing.assert_array_equal(db.tensors["second"].numpy(), np.arange(4.0))
        env = env.crash(keep=0)


def test_levels_do_not_rise_with_every_full_compaction():
    """They did, and after some hundred the capacity of a level was no float any more: the worker died and writers waited for ever."""
    with opened(FaultyEnv()) as db:
        table = db.create_table("t", SCHEMA)
        for n in range(5):
            table.put(n)
            db.compact()
        assert db.stats()["tables"]["t"]["levels"] == [1]


def test_a_worker_outlives_whatever_its_work_raises():
    def fails(*given):
        raise ZeroDivisionError("a policy of somebody else")

    with lt.open("db", env=FaultyEnv(), config=lt.RunConfig()) as db:
        work, db._tree.work = db._tree.work, fails
        db._tree.on_work()
        for _ in range(200):
            if db._tree._failed is not None:
                break
            time.sleep(0.01)
        assert isinstance(db._tree._failed, ZeroDivisionError) and db._worker._thread.is_alive()
        db._tree.work = work


def test_closing_lets_go_of_every_file(tmp_path):
    """The manifest stayed open, so that a file system could not be made read-only."""
    lt.open(tmp_path / "a").close()
    before = len(os.listdir("/proc/self/fd"))
    dbs = [lt.open(tmp_path / "a")]
    dbs[0].close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("op", ["sync", "write"])
def test_a_database_that_failed_and_was_dropped_lets_go_of_its_lock(op):
    """The log kept the exception, its traceback kept the frames, and they kept the database: only the end of the process freed the lock."""
    env = FaultyEnv()

    def fails():
        db = opened(env)
        table = db.create_table("t", SCHEMA)
        env.fail(op)
        table.put(1)

    with pytest.raises(lt.StorageError):
        fails()
    env.heal()
    gc.collect()
    with opened(env) as db:
        assert db.tables == ["t"]
