"""The public API, step by step at random, against plain dicts of versions: tables, arrays, transactions, the past, faults."""

from __future__ import annotations

import contextlib
import errno
import warnings
from copy import deepcopy

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import lsmtensor as lt
from lsmtensor.env.base import Clock
from lsmtensor.env.memory import FaultyEnv

# a refused sync leaves handles whose finalizers meet it again
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

VECTOR = lt.Column("v", lt.tensor("float32", (3,)), nullable=True)
N = lt.Column("n", pa.int64(), nullable=True)
TABLES = {
    "ints": lt.Schema([lt.Column("k", pa.int64()), N, VECTOR], primary_key="k"),
    "texts": lt.Schema([lt.Column("k", pa.string()), N, VECTOR], primary_key="k"),
    "pairs": lt.Schema([lt.Column("k", pa.int64()), lt.Column("l", pa.string()), N, VECTOR], primary_key=["k", "l"]),
}
SETS = [
    [],
    ["memtable.limit_bytes=1", "compaction.level0_runs=1"],
    ["memtable.limit_bytes=2000", "compaction.level0_runs=2", "sstable.batch_rows=2", "compaction.policy=tiered"],
    ["direct_commit_bytes=100", "compaction.policy=leveled", "sstable.file_bytes=1000", "sstable.batch_rows=3"],
    ["wal.segment_bytes=1", "sstable.filter=none", "sstable.hash=sha256", "compaction.trivial_moves=false"],
    ["memtable.kind=skiplist", "memtable.limit_bytes=1500", "sstable.filter=blocked_bloom(bits=2)", "threads=2", "sstable.hash=none"],
]
KEYS = st.integers(0, 7)
VALUES = st.one_of(st.none(), st.integers(-5, 5))
ARRAYS = {"w": np.arange(24, dtype=np.float32).reshape(4, 6), "m": np.arange(700, dtype=np.int16), "s": np.array(3.5), "e": np.zeros((0, 3), np.uint8)}
INDEXES = ["flat(metric=l2)", "hnsw(m=4, metric=l2)", "ivfflat(lists=2, metric=l2)"]


def key_of(table, n):
    return {"ints": n - 3, "texts": "k" * n, "pairs": (n // 2 - 1, "ab"[n % 2])}[table]


def vector_of(n):
    return None if n is None or n % 4 == 3 else (float(n), float(n * n), 1.0)


def rows_of(table, chosen):
    """Rows for upsert, of {number: value}."""
    made = []
    for n, value in chosen.items():
        key = key_of(table, n)
        keys = {"k": key[0], "l": key[1]} if table == "pairs" else {"k": key}
        made.append({**keys, "n": value, "v": vector_of(value)})
    return made


def content(tables):
    found = {}
    for name in (n for n in tables.tables if not n.startswith("_")):
        rows = tables[name].to_arrow().to_pylist()
        keys = [(r["k"], r["l"]) if name == "pairs" else r["k"] for r in rows]
        assert keys == sorted(keys), f"{name} scans as {keys}"
        found[name] = {k: (r["n"], None if r["v"] is None else tuple(r["v"])) for k, r in zip(keys, rows)}
    return found


def arrays(tensors):
    return {name: (tensors[name].numpy().dtype.str, tensors[name].shape, tensors[name].numpy().tobytes()) for name in tensors}


def array_of(given):
    array = np.asarray(given)
    return (array.dtype.str, array.shape, array.tobytes())


class Held:
    """What a database holds; equal to another when it holds the same."""

    def __init__(self, tables=None, tensors=None):
        self.tables, self.tensors = tables or {}, tensors or {}

    @classmethod
    def read(cls, db):
        return cls(content(db), arrays(db.tensors))

    def __eq__(self, other):
        return self.tables == other.tables and self.tensors == other.tensors

    def __repr__(self):
        return f"Held({self.tables}, {list(self.tensors)})"


class Jumping(Clock):
    now = 10**18

    def time_ns(self):
        self.now += 1000
        return self.now


class Databases(RuleBasedStateMachine):
    @initialize(chosen=st.sampled_from(SETS), history=st.sampled_from(["forever", "one_day", "none", 3]), there=st.sets(st.sampled_from(list(TABLES)), min_size=1))
    def begin(self, chosen, history, there):
        self.env, self.history = FaultyEnv(Jumping()), history
        self.config = lt.RunConfig(background=False).with_set("index.min_rows=4", "sstable.chunk_bytes=4096", *chosen)
        self.db = lt.open("db", env=self.env, config=self.config)
        self.held, self.past, self.tags, self.indexes = Held(), {}, {}, {}
        self.snaps, self.armed, self.branches = [], False, 0
        for table in sorted(there):
            self.create(table, None)
            self.upsert(table, {n: n for n in range(6)})

    # -- doing a thing to both -------------------------------------------------------------------

    def do(self, act, change):
        after = deepcopy(self.held)
        change(after)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an index that could not be stored
                act()
        except lt.LsmTensorError:
            if not self.armed:
                raise
            self.mend()
            found = Held.read(self.db)
            assert found in (self.held, after), f"{found} after a fault; wanted {self.held} or {after}"
            self.held = found
        else:
            self.held = after
        self.past[self.db.version] = deepcopy(self.held)

    def mend(self):
        self.forget_handles()
        with contextlib.suppress(lt.LsmTensorError):
            self.db.close()
        self.env.heal()
        self.armed = False
        self.db = lt.open("db", env=self.env, config=self.config)
        self.past = {v: h for v, h in self.past.items() if v <= self.db.version}
        self.tags = {t: v for t, v in self.tags.items() if any(p["name"] == t for p in self.db.pins())}
        self.indexes = {t: {n for n in self.db[t].indexes} for t in self.db.tables}

    def forget_handles(self):
        for snap, _ in self.snaps:
            snap.close()
        self.snaps = []

    def exists(self, table):
        return table in self.held.tables

    # -- writes ----------------------------------------------------------------------------------

    def create(self, table, index):
        if not self.exists(table):
            given = {"indexes": {"v": index}} if index else {}
            self.do(lambda: self.db.create_table(table, TABLES[table], history=self.history, **given), lambda h: h.tables.update({table: {}}))
            self.indexes[table] = set(self.db[table].indexes) if table in self.db else set()

    @rule(table=st.sampled_from(list(TABLES)))
    def drop(self, table):
        if self.exists(table):
            self.do(lambda: self.db.drop_table(table), lambda h: h.tables.pop(table))
            # a dropped table is gone from the past too
            for held in self.past.values():
                if not self.exists(table):
                    held.tables.pop(table, None)

    @rule(table=st.sampled_from(list(TABLES)), index=st.sampled_from([None, *INDEXES]))
    def create_a_table(self, table, index):
        self.create(table, index)

    @rule(table=st.sampled_from(list(TABLES)), chosen=st.dictionaries(KEYS, VALUES, min_size=1, max_size=8))
    def write(self, table, chosen):
        self.upsert(table, chosen)

    def upsert(self, table, chosen):
        if self.exists(table):
            new = {key_of(table, n): (value, vector_of(value)) for n, value in chosen.items()}
            self.do(lambda: self.db[table].upsert(rows_of(table, chosen)), lambda h: h.tables[table].update(new))

    @rule(table=st.sampled_from(list(TABLES)), chosen=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
    def insert(self, table, chosen):
        if self.exists(table):
            new = {key_of(table, n): (value, vector_of(value)) for n, value in chosen.items()}
            if self.armed and set(new) & set(self.held.tables[table]):
                return
            if set(new) & set(self.held.tables[table]):
                with pytest.raises(lt.LsmTensorError, match="already"):
                    self.db[table].insert(rows_of(table, chosen))
            else:
                self.do(lambda: self.db[table].insert(rows_of(table, chosen)), lambda h: h.tables[table].update(new))

    @rule(table=st.sampled_from(list(TABLES)), numbers=st.lists(KEYS, max_size=4, unique=True), value=VALUES)
    def update(self, table, numbers, value):
        if self.exists(table):
            keys = [k for n in numbers if (k := key_of(table, n)) in self.held.tables[table]]
            if keys:
                self.do(
                    lambda: self.db[table].update(keys, {"n": [value] * len(keys)}),
                    lambda h: h.tables[table].update({k: (value, h.tables[table][k][1]) for k in keys}),
                )

    @rule(table=st.sampled_from(list(TABLES)), numbers=st.lists(KEYS, max_size=5, unique=True))
    def delete(self, table, numbers):
        if self.exists(table):
            keys = [key_of(table, n) for n in numbers]
            self.do(lambda: self.db[table].delete(keys), lambda h: [h.tables[table].pop(k, None) for k in keys])

    @rule(table=st.sampled_from(list(TABLES)), limit=st.integers(-5, 5))
    def delete_where(self, table, limit):
        if self.exists(table):
            gone = [k for k, (n, _) in self.held.tables[table].items() if n is not None and n > limit]
            self.do(lambda: self.db[table].delete(where=pc.field("n") > limit), lambda h: [h.tables[table].pop(k) for k in gone])

    @rule(name=st.sampled_from(list(ARRAYS)), factor=st.integers(1, 3))
    def assign(self, name, factor):
        array = ARRAYS[name] * np.asarray(factor, ARRAYS[name].dtype)
        self.do(lambda: self.db.tensors.__setitem__(name, array), lambda h: h.tensors.update({name: array_of(array)}))

    @rule(name=st.sampled_from(["w", "m"]), at=st.integers(0, 3), value=st.integers(0, 9))
    def slice(self, name, at, value):
        if name in self.held.tensors:
            kind, shape, data = self.held.tensors[name]
            array = np.frombuffer(data, kind).reshape(shape).copy()
            array[at::2] = value
            self.do(lambda: self.db.tensors[name].__setitem__(np.s_[at::2], value), lambda h: h.tensors.update({name: array_of(array)}))

    @rule(name=st.sampled_from(["w", "m"]), n=st.integers(1, 3))
    def append(self, name, n):
        if name in self.held.tensors:
            kind, shape, data = self.held.tensors[name]
            array = np.concatenate([np.frombuffer(data, kind).reshape(shape), ARRAYS[name][:n]])
            self.do(lambda: self.db.tensors[name].append(ARRAYS[name][:n]), lambda h: h.tensors.update({name: array_of(array)}))

    @rule(name=st.sampled_from(list(ARRAYS)))
    def remove_array(self, name):
        if name in self.held.tensors:
            self.do(lambda: self.db.tensors.__delitem__(name), lambda h: h.tensors.pop(name))

    @rule(table=st.sampled_from(list(TABLES)), chosen=st.dictionaries(KEYS, VALUES, max_size=4), gone=KEYS, name=st.sampled_from(list(ARRAYS)), leave=st.booleans())
    def transaction(self, table, chosen, gone, name, leave):
        if not self.exists(table):
            return
        new = {key_of(table, n): (value, vector_of(value)) for n, value in chosen.items()}

        def change(h):
            h.tables[table].update(new)
            h.tables[table].pop(key_of(table, gone), None)
            h.tensors[name] = array_of(ARRAYS[name])

        def act():
            with self.db.transaction() as txn:
                if chosen:
                    txn[table].upsert(rows_of(table, chosen))
                txn[table].delete([key_of(table, gone)])
                txn.tensors[name] = ARRAYS[name]
                want = deepcopy(self.held)
                change(want)
                assert content(_Only(txn, table))[table] == want.tables[table]
                assert arrays(txn.tensors) == want.tensors
                if leave:
                    raise KeyError("leaves")

        if leave:
            try:
                self.do(act, lambda h: None)
            except KeyError:
                # the tables of arrays may have been made
                self.past[self.db.version] = deepcopy(self.held)
        else:
            self.do(act, change)

    # -- care ------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["flush", "compact", "collect_garbage"]))
    def settle(self, what):
        self.do(lambda: getattr(self.db, what)(), lambda h: None)

    @rule(table=st.sampled_from(list(TABLES)), spec=st.sampled_from(INDEXES))
    def index(self, table, spec):
        if self.exists(table):
            name = f"v_{spec.split('(')[0]}"
            if name in self.db[table].indexes:
                self.do(lambda: self.db[table].drop_index(name), lambda h: None)
            else:
                self.do(lambda: self.db[table].create_index("v", spec, wait=True), lambda h: None)

    @rule(name=st.sampled_from("xyz"))
    def tag(self, name):
        self.do(lambda: self.db.tag(name), lambda h: None)
        now = {p["name"]: p["version"] for p in self.db.pins() if p["kind"] == "tag"}
        assert now.get(name) == self.db.version or now.get(name) == self.tags.get(name)
        self.tags = now

    @rule()
    def reopen(self):
        self.forget_handles()
        if not self.armed:
            self.db.close()
            self.db = lt.open("db", env=self.env, config=self.config)

    @rule(seed=st.integers(0, 9), keep=st.sampled_from([0.0, 0.5, 1.0]))
    def crash(self, seed, keep):
        self.forget_handles()
        self.env = self.env.crash(seed, keep)
        self.armed = False
        self.db = lt.open("db", env=self.env, config=self.config)
        assert Held.read(self.db) == self.held
        self.db.verify()

    @rule(op=st.sampled_from(["write", "sync", "create", "sync_dir", "unlink", "open"]), at=st.integers(1, 12))
    def arm(self, op, at):
        if not self.armed:
            self.env.fail(op, at, errno.ENOSPC if op == "write" else errno.EIO)
            self.armed = True

    @rule(hours=st.sampled_from([-50, -1, 1, 30]))
    def clock(self, hours):
        self.env.clock.now += hours * 3600 * 10**9

    # -- the past --------------------------------------------------------------------------------

    @rule()
    def snapshot(self):
        self.snaps.append((self.db.snapshot(), deepcopy(self.held)))

    @rule(data=st.data())
    def look_back(self, data):
        if self.armed or not self.past:
            return
        version = data.draw(st.sampled_from(sorted(self.past)))
        if version < self.db.oldest_version and version not in self.tags.values():
            return
        with self.db.at(version=version) as then:
            assert content(then) == {t: r for t, r in self.past[version].tables.items() if t in self.held.tables}
            assert arrays(then.tensors) == self.past[version].tensors

    @precondition(lambda self: getattr(self, "tags", None))
    @rule(data=st.data())
    def look_at_a_tag(self, data):
        name = data.draw(st.sampled_from(sorted(self.tags)))
        if not self.armed and self.tags[name] in self.past:
            with self.db.at(tag=name) as then:
                assert content(then) == {t: r for t, r in self.past[self.tags[name]].tables.items() if t in self.held.tables}

    @rule(data=st.data())
    def difference(self, data):
        known = [v for v in sorted(self.past) if v >= self.db.oldest_version]
        if self.armed or not known:
            return
        a, b = sorted(data.draw(st.tuples(st.sampled_from(known), st.sampled_from(known))))
        found = self.db.diff(a, b)
        for table in self.held.tables:
            before, after = self.past[a].tables.get(table, {}), self.past[b].tables.get(table, {})
            rows = found[table].to_pylist() if table in found else []
            change = {((r["k"], r["l"]) if table == "pairs" else r["k"]): r["_change"] for r in rows}
            for key in {*before, *after}:
                if before.get(key) != after.get(key):
                    assert change[key] == ("delete" if key not in after else "update" if key in before else "insert")
            assert all(c == "update" for k, c in change.items() if before.get(k) == after.get(k))

    @rule(data=st.data(), old=st.booleans())
    def branch(self, data, old):
        if self.armed:
            return
        known = [v for v in sorted(self.past) if v >= self.db.oldest_version]
        if self.history == "none" and old or (old and not known):
            return
        version = data.draw(st.sampled_from(known)) if old else None
        self.branches += 1
        path = f"branch{self.branches}"
        self.db.branch(path, version)
        want = deepcopy(self.past[version] if old else self.held)
        want.tables = {t: r for t, r in want.tables.items() if t in self.held.tables}
        with lt.open(path, env=self.env, config=self.config) as other:
            assert Held.read(other) == want
            other.verify()
            for table in other.tables:
                other[table].upsert(rows_of(table, {0: 99}))

    # -- reading ---------------------------------------------------------------------------------

    @rule(table=st.sampled_from(list(TABLES)), n=st.integers(-5, 5), k=st.integers(1, 9), where=st.booleans(), index=st.booleans())
    def search(self, table, n, k, where, index):
        if self.armed or not self.exists(table):
            return
        query = np.array([n, n * n, 1], np.float32)
        points = {key: np.array(v) for key, (m, v) in self.held.tables[table].items() if v is not None and not (where and (m is None or m <= 0))}
        options = {"where": pc.field("n") > 0} if where else {}
        found = self.db[table].search(query, k=k, metric="l2", columns=["k", *(["l"] if table == "pairs" else [])], **options).to_pylist()
        exact = {key: float(((query - v) ** 2).sum()) for key, v in points.items()}
        got = [((r["k"], r["l"]) if table == "pairs" else r["k"], r["_distance"]) for r in found]
        assert len(got) == min(k, len(exact)) and len(dict(got)) == len(got)
        assert all(np.isclose(exact[key], d) or np.isclose(exact[key] ** 0.5, d) for key, d in got), f"{got} against {exact}"
        assert got == sorted(got, key=lambda r: r[1])
        ranked = sorted(exact.values())
        assert np.allclose([exact[key] for key, _ in got], ranked[: len(got)]), f"{got} are not the nearest of {exact}"

    @rule(table=st.sampled_from(list(TABLES)), numbers=st.lists(KEYS, min_size=1, max_size=9))
    def get(self, table, numbers):
        if self.armed or not self.exists(table):
            return
        held = self.held.tables[table]
        keys = [key_of(table, n) for n in numbers]
        for key in keys[:2]:
            row = self.db[table].get(key)
            assert (row and (row["n"], None if row["v"] is None else tuple(np.asarray(row["v"]).tolist()))) == held.get(key)
            assert (key in self.db[table]) == (key in held)
        many = self.db[table].get_many(keys, ["n"]).column("n").to_pylist()
        assert many == [held[k][0] for k in keys if k in held]

    @rule(table=st.sampled_from(list(TABLES)), n=KEYS)
    def versions_of_a_row(self, table, n):
        if self.armed or not self.exists(table):
            return
        rows = self.db[table].history(key_of(table, n)).to_pylist()
        assert [r["_version"] for r in rows] == sorted({r["_version"] for r in rows})
        now = self.held.tables[table].get(key_of(table, n))
        if rows:
            assert rows[-1]["_deleted"] == (now is None) and (now is None or rows[-1]["n"] == now[0])
        else:
            assert now is None

    @invariant()
    def agrees(self):
        if not hasattr(self, "db") or self.armed:
            return
        assert Held.read(self.db) == self.held
        for table in self.held.tables:
            assert len(self.db[table]) == len(self.held.tables[table])
        for snap, then in self.snaps[-2:]:
            assert content(snap) == {t: r for t, r in then.tables.items()}
            assert arrays(snap.tensors) == then.tensors

    def teardown(self):
        if hasattr(self, "db"):
            self.forget_handles()
            with contextlib.suppress(*[lt.LsmTensorError] * self.armed):
                self.db.verify()
                self.db.close()


class _Only:
    """One table of a transaction, as a container."""

    def __init__(self, txn, table):
        self.tables, self._txn = [table], txn

    def __getitem__(self, name):
        return self._txn[name]


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def test_a_life_of_a_database_agrees_with_dicts():
    run_state_machine_as_test(Databases, settings=settings(max_examples=40, stateful_step_count=40, suppress_health_check=CHECKS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long_lives_of_databases_agree_with_dicts():
    run_state_machine_as_test(Databases, settings=settings(max_examples=600, stateful_step_count=60, suppress_health_check=CHECKS))
