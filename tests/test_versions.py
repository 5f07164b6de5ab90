"""Time travel, branches, readers: against a plain model of versions."""

from __future__ import annotations

import os
import pickle
import time as clocks
import warnings
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv

SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("v", pa.int64())], primary_key="k")
TEXT = lt.Schema([lt.Column("name", pa.string()), lt.Column("v", pa.int64())], primary_key="name")
VECTORS = lt.Schema([lt.Column("k", pa.int64()), lt.Column("x", lt.tensor("float32", (4,)))], primary_key="k")
INLINE = lt.RunConfig(background=False)


@pytest.fixture
def db():
    with lt.open("db", env=MemoryEnv(), config=INLINE) as made:
        made.create_table("a", SCHEMA)
        made.create_table("b", TEXT)
        yield made


def content(table, key="k"):
    read = table.to_arrow()
    return dict(zip(read.column(key).to_pylist(), read.column("v").to_pylist(), strict=True))


# -- time -----------------------------------------------------------------------------------------


def test_time_travel_by_time(tmp_path):
    marks = []
    with lt.open(tmp_path / "db", config=INLINE) as db:
        table = db.create_table("a", SCHEMA)
        for i in range(6):
            table.put(1, {"v": i})
            marks.append((clocks.time_ns(), i))
            clocks.sleep(0.002)
            if i == 3:
                db.flush()
        for _ in range(2):
            for when, value in marks:
                with db.at(time=when) as past:
                    assert past["a"].get(1)["v"] == value
            with db.at(time=datetime.now()) as past:
                assert past["a"].get(1)["v"] == 5
            db.flush()
        with pytest.raises(lt.VersionExpiredError, match="before the first"):
            db.at(time=1)
        with pytest.raises(lt.InvalidArgumentError, match="datetime"):
            db.at(time="yesterday")
    with lt.open(tmp_path / "db") as db, db.at(time=marks[2][0]) as past:
        assert past["a"].get(1)["v"] == 2


def test_versions_that_cannot_be_read(db):
    with pytest.raises(lt.InvalidArgumentError, match="future"):
        db.at(version=db.version + 1)
    with pytest.raises(lt.InvalidArgumentError, match="exactly one"):
        db.at()
    with pytest.raises(lt.UnknownNameError, match="v1"):
        db.tag("v1")
        db.at(tag="v2")
    table = db.create_table("now", SCHEMA, history="none")
    table.put(1, {"v": 1})
    old = db.version
    table.put(1, {"v": 2})
    with pytest.raises(lt.VersionExpiredError, match=f"version {old} has expired"):
        db.at(version=old)


@pytest.mark.parametrize("flushed", [False, True])
def test_history_of_a_row(db, flushed):
    for value in (5, 6, None, 7):
        if value is None:
            db["a"].delete([1])
        else:
            db["a"].put(1, {"v": value})
        db["a"].put(2, {"v": 0})
        if flushed:
            db.flush()
    history = db["a"].history(1)
    assert history.column("v").to_pylist() == [5, 6, None, 7]
    assert history.column("_deleted").to_pylist() == [False, False, True, False]
    assert history.column("_version").to_pylist() == sorted(history.column("_version").to_pylist())
    values = db["a"].history(1, "v")
    assert values.tolist() == [5, 6, 7] and values.flags.c_contiguous and values.dtype == np.int64
    assert db["a"].history(99).num_rows == 0 and db["a"].history(99, "v").shape == (0,)
    db["b"].put("x", {"v": 1})
    assert db["b"].history("x", "v").tolist() == [1]
    with pytest.raises(lt.SchemaError, match="numeric"):
        db["b"].history("x", "name")


def test_diff(db):
    db["a"].insert({"k": [1, 2, 3], "v": [1, 2, 3]})
    v1 = db.version
    db["a"].put(2, {"v": 20})
    db["a"].delete([3])
    db["a"].put(4, {"v": 4})
    db["a"].put(5, {"v": 5})
    db["a"].delete([5])
    for _ in range(2):
        diff = db.diff(v1)
        assert set(diff) == {"a"}
        assert {r["k"]: (r["v"], r["_change"]) for r in diff["a"].to_pylist()} == {2: (20, "update"), 3: (None, "delete"), 4: (4, "insert")}
        assert db.diff(db.version) == {}
        db.flush()
    with pytest.raises(lt.InvalidArgumentError, match="older version first"):
        db.diff(db.version, v1)


# -- branches and readers -------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_a_branch_goes_its_own_way(tmp_path, local):
    env = None if local else MemoryEnv()
    base, fork = (str(tmp_path / n) if local else n for n in ("base", "fork"))
    with lt.open(base, config=INLINE, env=env) as db:
        table = db.create_table("a", SCHEMA)
        table.insert({"k": np.arange(100), "v": np.arange(100)})
        db.tag("start")
        then = db.version
        table.delete(np.arange(50))
        table.put(1, {"v": -1})
        db.create_table("later", SCHEMA)
        db.branch(fork, version=then)
        db.checkpoint(fork + "2")
        with pytest.raises(lt.NotADatabaseError, match="already"):
            db.branch(fork)
        with lt.open(fork, config=INLINE, env=env) as other:
            assert other.version == then and other.tables == ["a"]
            assert content(other["a"]) == {k: k for k in range(100)}
            other["a"].put(1, {"v": 1000})
            other.verify()
            other.compact()
            assert other["a"].get(1)["v"] == 1000 and other.at(tag="start")["a"].get(1)["v"] == 1
        with lt.open(fork + "2", config=INLINE, env=env) as other:
            assert content(other["a"]) == content(table) and "later" in other and other.version == db.version
        assert table.get(1)["v"] == -1
        db.verify()
    if local:
        shared = {os.stat(f).st_ino for f in (tmp_path / "base" / "sst").iterdir()} & {os.stat(f).st_ino for f in (tmp_path / "fork2" / "sst").iterdir()}
        assert shared


def test_a_crash_while_branching_leaves_a_folder_that_is_made_afresh():
    env = MemoryEnv()
    with lt.open("base", config=INLINE, env=env) as db:
        db.create_table("a", SCHEMA).insert({"k": [1], "v": [1]})
        db.branch("fork")
        for seed in range(20):
            after = env.crash(seed=seed, keep=0.0)
            with lt.open("fork", config=INLINE, env=after) as other:
                assert content(other["a"]) == {1: 1}  # it returned: it is whole


def test_pins_say_what_holds_versions(tmp_path):
    with lt.open(tmp_path / "db", config=INLINE) as db:
        db.create_table("a", SCHEMA)
        db.tag("t")
        with db.snapshot() as snap, db.transaction() as txn, lt.open(tmp_path / "db", mode="r") as reader:
            kinds = [(p["kind"], p["name"], p["version"]) for p in db.pins()]
            assert kinds[:3] == [("tag", "t", 1), ("snapshot", "Snapshot", snap.version), ("snapshot", "Transaction", txn.version)]
            assert kinds[3][0] == "reader" and kinds[3][1].startswith(f"{os.getpid()}-") and kinds[3][2] == reader.version
        assert [p["kind"] for p in db.pins()] == ["tag"]
        assert os.listdir(tmp_path / "db" / "readers") == []


def test_a_leaked_snapshot_is_said_once(db):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            db.snapshot()
    assert [str(w.message).startswith("a snapshot of version") for w in caught] == [True]


def test_the_child_of_a_fork_reads_and_leaves_the_lock(tmp_path):
    with lt.open(tmp_path / "db") as db:
        table = db.create_table("a", SCHEMA)
        table.put(1, {"v": 1})
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if table.get(1)["v"] == 1 and db.mode == "r":
                    try:
                        table.put(2, {"v": 2})
                    except lt.ReadOnlyError:
                        code = 0
                    db.close()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        table.put(3, {"v": 3})
        with pytest.raises(lt.LockedError):
            lt.open(tmp_path / "db")
        assert content(table) == {1: 1, 3: 3}


def test_pickled_handles(tmp_path):
    with lt.open(tmp_path / "db") as db:
        db.create_table("a", SCHEMA).put(1, {"v": 1})
        snap = db.snapshot()
        db["a"].put(1, {"v": 2})
        with pickle.loads(pickle.dumps(db)) as other:
            assert other.mode == "r" and other["a"].get(1)["v"] == 2
        assert pickle.loads(pickle.dumps(db["a"])).get(1)["v"] == 2
        with pickle.loads(pickle.dumps(snap)) as again:
            assert again.version == snap.version and again["a"].get(1)["v"] == 1
        snap.close()


def test_roots_are_recorded(db):
    db["a"].put(1, {"v": 1})
    root, version = db.root(), db.version
    db["a"].put(1, {"v": 2})
    assert db.root() != root and db.root(version=version) == root
    with pytest.raises(lt.InvalidArgumentError, match="future"):
        db.root(version=10**9)


# -- the model ------------------------------------------------------------------------------------

KEYS = st.integers(0, 12)


class Versions(RuleBasedStateMachine):
    """Tables, transactions, snapshots, tags, flushes and reopening against dicts of versions."""

    @initialize(policy=st.sampled_from(["lazy_leveled", "tiered", "leveled"]))
    def begin(self, policy):
        self.env = MemoryEnv()
        self.config = INLINE.with_set(f"compaction.policy={policy}", "compaction.level0_runs=2", "sstable.batch_rows=4", "memtable.limit_bytes=3000")
        self.db = lt.open("db", env=self.env, config=self.config)
        self.db.create_table("a", SCHEMA)
        self.model, self.past, self.snaps, self.txns = {}, {}, [], []
        self.past[self.db.version] = {}

    def done(self):
        self.past[self.db.version] = dict(self.model)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=5, unique=True), value=st.integers(0, 99))
    def upsert(self, keys, value):
        self.db["a"].upsert({"k": keys, "v": [value] * len(keys)})
        self.model.update(dict.fromkeys(keys, value))
        self.done()

    @rule(keys=st.lists(KEYS, max_size=4, unique=True))
    def delete(self, keys):
        self.db["a"].delete(keys)
        for k in keys:
            self.model.pop(k, None)
        self.done()

    @rule(flush=st.booleans())
    def settle(self, flush):
        self.db.flush() if flush else self.db.compact()

    @rule()
    def snapshot(self):
        self.snaps.append((self.db.snapshot(), dict(self.model)))

    @rule()
    def reopen(self):
        for snap, _ in self.snaps:
            snap.close()
        self.snaps, self.txns = [], []
        self.db.close()
        self.db = lt.open("db", env=self.env, config=self.config)

    @rule(serializable=st.booleans())
    def transaction(self, serializable):
        self.txns.append((self.db.transaction(serializable=serializable), dict(self.model), {}, set()))

    @rule(data=st.data(), key=KEYS, value=st.one_of(st.none(), st.integers(0, 99)))
    def write_inside(self, data, key, value):
        if self.txns:
            txn, base, own, _ = data.draw(st.sampled_from(self.txns))
            txn["a"].delete([key]) if value is None else txn["a"].put(key, {"v": value})
            if value is not None or {**base, **own}.get(key) is not None:
                own[key] = value

    @rule(data=st.data(), key=KEYS)
    def read_inside(self, data, key):
        if self.txns:
            txn, base, own, read = data.draw(st.sampled_from(self.txns))
            want = {k: v for k, v in {**base, **own}.items() if v is not None}
            assert (txn["a"].get(key) or {}).get("v") == want.get(key)
            read.add(key)
            if not txn.serializable:
                assert content(txn["a"]) == want

    @rule(data=st.data())
    def commit(self, data):
        if self.txns:
            txn, _, own, read = self.txns.pop(data.draw(st.integers(0, len(self.txns) - 1)))
            touched = {k for v, state in self.past.items() if v > txn.version for k in self.changed.get(v, ())}
            lost = touched & set(own) or (txn.serializable and own and touched & read)
            try:
                txn.commit()
            except lt.ConflictError:
                assert lost
            else:
                assert not lost
                for k, v in own.items():
                    self.model.pop(k, None) if v is None else self.model.update({k: v})
                self.done()

    @property
    def changed(self):
        """The keys that each version wrote; a key written with the same value counts, so rows are asked for their versions."""
        found: dict[int, set[int]] = {}
        for key in range(13):
            for version in self.db["a"].history(key).column("_version").to_pylist():
                found.setdefault(version, set()).add(key)
        return found

    @invariant()
    def agrees(self):
        if not hasattr(self, "db"):
            return
        assert content(self.db["a"]) == self.model
        for snap, then in self.snaps[-2:]:
            assert content(snap["a"]) == then
        for version in list(self.past)[-6::2]:
            with self.db.at(version=version) as at:
                assert content(at["a"]) == self.past[version]

    def teardown(self):
        if hasattr(self, "db"):
            self.db.close()


Versions.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestVersions = Versions.TestCase
