"""Older versions lie apart from the newest: what each version reads, what a reader of now looks at, and what becomes of the files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.env.base import Clock
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.lsm import layout

SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("n", pa.int64()), lt.Column("v", lt.tensor("float32", (3,)))], primary_key="k")
CONFIG = lt.RunConfig(background=False).with_set("index.min_rows=30", "sstable.batch_rows=16")


def rows(keys, n):
    keys = np.asarray(keys)
    return {"k": keys, "n": np.full(len(keys), n), "v": np.stack([keys, keys * 0 + n, keys % 7], 1).astype(np.float32)}


def content(table):
    read = table.to_arrow(["k", "n"])
    return dict(zip(read["k"].to_pylist(), read["n"].to_pylist(), strict=True))


def reads_as(table, model):
    """Every way to read agrees with the model."""
    assert content(table) == model and len(table) == len(model)
    keys = list(range(0, 120, 7))
    assert [(table.get(k) or {}).get("n") for k in keys] == [model.get(k) for k in keys]
    assert table.get_many(keys, ["n"])["n"].to_pylist() == [model[k] for k in keys if k in model]
    for k in [k for k in keys if k in model][:4]:
        found = table.search(np.array([k, model[k], k % 7], np.float32), k=2, columns=["k", "n"])
        assert found.to_pylist()[0] == {"k": k, "n": model[k], "_distance": 0.0}
        assert len(set(found["k"].to_pylist())) == len(found), "a key is found in two versions"


def life(db, index, steps=16, **options):
    """(table, what each version held) of writes, deletes, flushes and merges of all, some, or ranges of the runs."""
    luck = np.random.default_rng(7)
    table = db.create_table("t", SCHEMA, indexes={"v": index} if index else {}, **options)
    model, held = {}, {}
    for step in range(steps):
        keys = np.unique(luck.integers(0, 120, 40))
        if step % 5 == 4:
            version = table.delete(keys[:15])
            model = {k: n for k, n in model.items() if k not in set(keys[:15].tolist())}
        else:
            version = table.upsert(rows(keys, step))
            model = {**model, **dict.fromkeys(keys.tolist(), step)}
        held[version] = model
        if step % 3 == 2:
            db.flush()
        if step % 6 == 3:
            db.compact(table="t", start=30, stop=60) if step % 12 == 3 else db.compact()
    return table, held


@pytest.mark.parametrize(
    "index, policy",
    [(None, "lazy_leveled"), ("hnsw(m=4)", "tiered"), ("ivfflat(placement=table, lists=2)", "lazy_leveled"), ("hnsw(m=4, placement=file)", "leveled")],
)
def test_every_version_reads_as_it_was(index, policy):
    env = MemoryEnv()
    config = CONFIG.with_set(f"compaction.policy={policy}", "compaction.level0_runs=3", "compaction.level_bytes=3000", "sstable.file_bytes=2500")
    with lt.open("db", env=env, config=config) as db:
        table, held = life(db, index, history="forever")
        snaps = [(db.at(version=v), held[v]) for v in list(held)[::5]]
        assert db._tree.state.by_name("t").behind
        for version, model in held.items():
            with db.at(version=version) as then:
                reads_as(then["t"], model)
        reads_as(table, held[db.version])
        for key in range(0, 120, 17):
            want = [m.get(key) for m in [{}, *held.values()]]
            told = table.history(key)
            changes = [n for n, before in zip(want[1:], want, strict=False) if n != before]
            assert [None if gone else n for n, gone in zip(told["n"].to_pylist(), told["_deleted"].to_pylist(), strict=True)] == changes
        first, last = held[list(held)[8]], held[db.version]
        diff = db.diff(list(held)[8], db.version)["t"]
        assert set(diff["k"].to_pylist()) == {k for k in {*first, *last} if first.get(k) != last.get(k)}
        db.verify()
        db.compact()
        table.upsert(rows([1, 2], 99))
        for snap, model in snaps:
            reads_as(snap["t"], model)
            snap.close()
        for version in list(held)[::5]:
            db.branch(f"branch-{version}", version=version)
            with lt.open(f"branch-{version}", env=env, config=config) as branch:
                reads_as(branch["t"], held[version])
                branch.verify()
    with lt.open("db", env=env, config=config) as db:
        assert content(db["t"]) == {**last, 1: 99, 2: 99}
        with db.at(version=list(held)[8]) as then:
            reads_as(then["t"], first)


def test_a_reader_of_now_opens_no_older_versions(tmp_path):
    with lt.open(tmp_path / "db", config=CONFIG) as db:
        table = db.create_table("t", SCHEMA, indexes={"v": "hnsw(m=4)"}, history="forever")
        for n in range(50):
            table.upsert(rows(range(100), n))
        db.compact()
    with lt.open(tmp_path / "db", config=CONFIG) as db:
        table = db["t"]
        (older,) = db._tree.state.by_name("t").behind
        assert older.rows == 4900 and any(f.ref.segments for f in older.files)
        with db.counters() as counts:
            assert table.to_arrow(["n"])["n"].to_pylist() == [49] * 100
        assert counts["rows_merged"] == 100
        assert table.get(3)["n"] == 49 and table.get(300) is None and table.count() == 100
        assert table.search(np.array([5, 49, 5], np.float32), k=1)["k"].to_pylist() == [5]
        assert all(f._reader is None for f in older.files)
        with db.at(version=20) as then:
            assert set(then["t"].to_arrow(["n"])["n"].to_pylist()) == {18}
            plan = then["t"].search(np.array([5, 18, 5], np.float32), k=1, explain=True)
        assert all(f._reader is not None for f in older.files) and len(plan["sources"]) == 2


def test_what_no_retention_needs_goes_with_the_next_merge():
    with lt.open("db", env=MemoryEnv(), config=CONFIG) as db:
        table = db.create_table("t", SCHEMA, history=3)
        versions = [table.upsert(rows(range(10), n)) for n in range(8)]
        db.tag("kept")
        db.compact()
        assert db.stats()["tables"]["t"]["file_rows"] == 40
        versions += [table.upsert(rows(range(10), n)) for n in range(8, 12)]
        db.compact()
        assert db.stats()["tables"]["t"]["file_rows"] == 50 and content(db.at(tag="kept")["t"]) == dict.fromkeys(range(10), 7)
        report = {r["what"]: r["rows"] for r in db.space_report()["tables"].to_pylist() if r["table"] == "t"}
        assert (report["live"], report["history"], report["garbage"]) == (10, 40, 0)
        db.drop_table("t")
        assert not [n for n in db._tree.env.listdir("db/sst") if n.endswith(".arrow")]


def test_a_salvaged_table_keeps_its_newest_rows_newest(tmp_path):
    """Of a run that lost a file the rest must not be hidden by what was behind it."""
    with lt.open(tmp_path / "db", config=CONFIG.with_set("sstable.file_bytes=1000", "sstable.chunk_bytes=4096")) as db:
        table, held = life(db, None, history="forever")
        db.compact()
        newest = held[db.version]
        head = db._tree.state.by_name("t").runs[0]
        assert len(head.files) > 1 and db._tree.state.by_name("t").behind
        lost = head.files[1].path
        low, high = head.files[1].ref.min_key, head.files[1].ref.max_key
    (tmp_path / "db" / "sst" / lost.rpartition("/")[2]).unlink()
    lt.repair(tmp_path / "db", tmp_path / "new")
    with lt.open(tmp_path / "new") as db:
        found = content(db["t"])
        assert all(found.get(k) == newest.get(k) for k in range(120) if not low <= k <= high)
        assert len(found) <= 120 and db.verify()


def test_a_layout_must_have_what_older_versions_lie_behind():
    run = layout.Run(3, 0, (layout.FileRef(3, 10, 1, 0, 1, 2, 1, 2, ""),), behind=2)
    table = layout.TableState(1, "t", {}, {}, {}, (), 0, 0)
    with pytest.raises(ValueError, match="behind a run that is not there"):
        layout._with_runs(table, [run])
    assert layout.Run.from_dict(run.to_dict()) == run


class Turning(Clock):
    """A clock that is set back."""

    now = 10**18

    def time_ns(self):
        self.now += 1000
        return self.now


def test_a_clock_that_is_set_back():
    """Versions stay in the order of their times: nothing comes back from the past and nothing kept is lost, in one life and over a reopening."""
    env, hour = MemoryEnv(Turning()), 3600 * 10**9
    db = lt.open("db", env=env, config=CONFIG)
    kept, brief = db.create_table("kept", SCHEMA), db.create_table("brief", SCHEMA, ttl="1h")
    brief.upsert(rows([1], 0))
    env.clock.now += 2 * hour
    first = kept.upsert(rows([1], 1))
    assert brief.get(1) is None
    for step in range(2, 8):
        env.clock.now -= 5 * hour
        kept.upsert(rows([1], step))
        brief.upsert(rows([step], step))
        if step % 2:
            db.close()
            db = lt.open("db", env=env, config=CONFIG)
            kept, brief = db["kept"], db["brief"]
        else:
            db.compact()
        assert brief.get(1) is None and brief.get(step)["n"] == step
    times = db._tree.times()
    assert all(a < b and s <= t for (a, s), (b, t) in zip(times, times[1:], strict=False))
    assert kept.history(1)["n"].to_pylist() == [1, 2, 3, 4, 5, 6, 7]
    at = dict(times)[first]
    assert db.at(time=at)["kept"].get(1)["n"] == 1 and db.at(time=at + hour)["kept"].get(1)["n"] == 7
    db.close()
