"""What the fault suites and the model test found: one test each, smallest form."""

from __future__ import annotations

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
