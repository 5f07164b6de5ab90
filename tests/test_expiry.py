"""Rows that expire: judged at the commit time of the version read, by their commit or by a column."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.env.base import Clock
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.errors import InvalidArgumentError, SchemaError

HOUR = 3600 * 10**9
START = 1_800_000_000 * 10**9
CONFIG = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 1}})


class SetClock(Clock):
    now = START

    def time_ns(self) -> int:
        return self.now


def opened(**options):
    env = MemoryEnv()
    env.clock = SetClock()
    db = lt.open("db", env=env, config=CONFIG)
    columns = [lt.Column("id", pa.int64()), lt.Column("x", pa.int64()), lt.Column("at", pa.timestamp("ms")), lt.Column("v", lt.tensor("float32", (2,)))]
    return db, env.clock, db.create_table("t", lt.Schema(columns, primary_key="id"), **options)


def row(key, at=None):
    return {"id": [key], "x": [key * 10], "at": pa.array([None if at is None else at // 10**6], pa.timestamp("ms")), "v": np.full((1, 2), key, np.float32)}


def ids(view):
    return view.to_arrow(["id"]).column("id").to_pylist()


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("by", ["commit", "column"])
def test_every_read_agrees(by, flushed):
    db, clock, t = opened(ttl="2h" if by == "commit" else {"at": datetime.timedelta(hours=2)}, indexes={"v": "flat", "x": "sorted"})
    with db:
        for key in range(6):
            clock.now = START + key * HOUR
            t.upsert(row(key, clock.now))
            if flushed:
                db.flush()
        version = db.version
        # hour 5: those of hours 0 to 3 are two hours old at least
        assert ids(t) == [4, 5] and len(t) == t.count() == 2
        assert t.get(3) is None and t.get(4)["x"] == 40 and 3 not in t and t.get_many([0, 5]).num_rows == 1
        assert t.count(pc.field("x") <= 40) == 1 and t.scan(["id"], where=pc.field("x") == 30).read_all().num_rows == 0
        assert t.search(np.zeros(2, np.float32), k=9).column("id").to_pylist() == [4, 5]
        assert t.sample(9).num_rows == 2 and t.scan(reverse=True).read_all().column("id").to_pylist() == [5, 4]
        # nothing expires by itself: a version is a version
        clock.now += 100 * HOUR
        assert ids(t) == [4, 5]
        t.insert(row(3, clock.now))  # its key is free again
        assert ids(t) == [3] and ids(db.at(version=version)["t"]) == [4, 5]
        with db.transaction() as txn:
            assert ids(txn["t"]) == [3]
            txn["t"].upsert(row(8, clock.now))
            assert ids(txn["t"]) == [3, 8]
        # what expired is gone from the files once the retention of a day has passed it
        clock.now += 1
        db.compact()
        assert ids(t) == [3, 8] and db["t"]._view().table.runs[0].rows > 2 - 1
        clock.now += 30 * HOUR
        t.upsert(row(9, clock.now))
        clock.now += 30 * HOUR
        t.upsert(row(10, clock.now))
        db.compact()
        assert ids(t) == [10] and db["t"]._view().table.runs[0].rows <= 3


def test_rows_without_a_time_stay_and_nothing_older_comes_back():
    db, clock, t = opened(ttl={"at": "1h"}, history="none")
    with db:
        t.upsert(row(1, START + 50 * HOUR))
        t.upsert(row(2))
        db.flush()
        t.upsert(row(1, START - 5 * HOUR))  # the newer row of its key has expired when it comes
        assert ids(t) == [2]
        db.compact()
        assert ids(t) == [2] and db["t"]._view().table.runs[0].rows == 1
        clock.now += 1000 * HOUR
        t.upsert(row(3, clock.now + 9 * HOUR))
        assert ids(t) == [2, 3]


def test_a_ttl_that_comes_changes_and_goes():
    db, clock, t = opened()
    with db:
        t.upsert(row(1, START))
        clock.now += 10 * HOUR
        t.upsert(row(2, clock.now))
        before = db.version
        first = t.set_ttl({"at": "5h"})
        t.rename_column("at", "when")
        assert ids(t) == [2] and ids(db.at(version=before)["t"]) == [1, 2]
        with pytest.raises(SchemaError, match="set_ttl"):
            t.drop_column("when")
        t.set_ttl(None)
        assert ids(t) == [1, 2] and ids(db.at(version=first)["t"]) == [2] and ids(db.at(version=before)["t"]) == [1, 2]
        t.drop_column("when")
        env = db._env
    with lt.open("db", env=env, config=CONFIG) as db:
        assert ids(db["t"]) == [1, 2] and ids(db.at(version=first)["t"]) == [2]


@pytest.mark.parametrize("ttl", ["soon", "forever", "none", 7, 0, "0s", datetime.timedelta(0), {"x": "1h"}, {"no": "1h"}, {"at": "x"}, {}, {"at": "1h", "x": "1h"}])
def test_what_is_refused(ttl):
    with pytest.raises((InvalidArgumentError, SchemaError)):
        opened(ttl=ttl)


@given(st.lists(st.tuples(st.sampled_from(["put", "wait", "flush", "compact", "delete"]), st.integers(0, 8), st.integers(-6, 3)), max_size=30), st.booleans())
@settings(max_examples=40)
def test_against_a_model(acts, by_column):
    db, clock, t = opened(ttl={"at": "3h"} if by_column else "3h", history="forever")
    with db:
        rows: dict[int, int] = {}
        seen = {}
        for act, key, hours in acts:
            clock.now += HOUR // 3600  # commit times only ever grow: standing still, they would run ahead of this clock
            if act == "put":
                stamp = clock.now + hours * HOUR
                t.upsert(row(key, stamp))
                rows[key] = stamp if by_column else clock.now
            elif act == "delete":
                t.delete([key])
                rows.pop(key, None)
            elif act == "wait":
                clock.now += key * HOUR
            elif act == "flush":
                db.flush()
            else:
                db.compact()
            if db.version not in seen:
                seen[db.version] = sorted(k for k, at in rows.items() if at + 3 * HOUR > clock.now)
        for version, want in seen.items():
            if version > 1:
                assert ids(db.at(version=version)["t"]) == want
