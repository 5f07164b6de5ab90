"""What verifies of a damaged database is salvaged, and nothing else; scrubbing finds all damage, not the first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.testing import damage, workload
from lsmtensor.testing.damage import with_file

ROWS = 2000


def large(flushed=True):
    """One table file of several chunks, and a few commits in the log."""
    env = MemoryEnv()
    config = lt.RunConfig(background=False).with_set("sstable.chunk_bytes=4096", "sstable.batch_rows=500")
    db = lt.open("db", env=env, config=config)
    columns = [lt.Column("k", pa.int64()), lt.Column("v", lt.tensor("float32", (16,))), lt.Column("s", pa.string())]
    table = db.create_table("t", lt.Schema(columns, primary_key="k"))
    vectors = np.arange(ROWS * 16, dtype=np.float32).reshape(ROWS, 16)
    table.insert({"k": np.arange(ROWS), "v": vectors, "s": [f"text {i}" for i in range(ROWS)]})
    if flushed:
        db.flush()
    db.tag("before")
    for n in range(5):
        table.upsert({"k": [n], "v": vectors[n : n + 1] * 2, "s": [f"newer {n}"]})
    db.close()
    return env.crash(keep=1), config


def rows(db):
    return {r["k"]: (r["s"], tuple(r["v"])) for r in db["t"].to_arrow().to_pylist()}


def whole_rows():
    env, config = large()
    with lt.open("db", env=env, config=config) as db:
        return rows(db)


def test_a_whole_database_comes_out_as_it_went_in():
    env = damage.made()
    made = lt.repair("db", "new", env=env)
    assert made["lost"] == []
    with lt.open("new", env=env, config=damage.CONFIG) as db:
        assert workload.held(db) == workload.models(damage.TINY)[-1]
        db.verify()


def test_a_damaged_chunk_costs_the_rows_that_lie_in_it():
    env, _ = large()
    (name,) = [n for n in env.files if n.endswith(".arrow")]
    data = bytearray(env.files[name].data)
    at = data.find(np.arange(900 * 16, 901 * 16, dtype=np.float32).tobytes())
    assert at > 0
    data[at] ^= 1
    env = with_file(env, name, bytes(data))
    made = lt.repair("db", "new", env=env)
    (lost,) = made["lost"]
    assert lost["path"] == name and lost["offset"] == at // 4096 * 4096 and 60 <= lost["rows"] <= 70
    with lt.open("new", env=env) as db:
        found, want = rows(db), whole_rows()
        assert len(found) == ROWS - lost["rows"] and 900 not in found
        assert all(found[k] == want[k] for k in found) and found[3][0] == "newer 3"
        with db.at(tag="before") as then:
            assert then["t"].get(3)["s"] == "text 3"
        db["t"].delete([0])
        db.compact()
        assert len(rows(db)) == len(found) - 1


def test_damage_in_a_log_costs_that_commit():
    env, _ = large()
    name = max(n for n in env.files if n.endswith(".wal"))
    data = bytearray(env.files[name].data)
    data[data.find(b"newer 2")] ^= 1
    env = with_file(env, name, bytes(data))
    with pytest.raises(lt.CorruptionError):
        lt.open("db", env=env)
    made = lt.repair("db", "new", env=env)
    assert [lost["path"] for lost in made["lost"]] == [name]
    with lt.open("new", env=env) as db:
        found = rows(db)
        assert [found[n][0] for n in range(5)] == ["newer 0", "newer 1", "text 2", "newer 3", "newer 4"]


@pytest.mark.parametrize("gone", ["CURRENT", "MANIFEST-000001"])
def test_without_a_manifest_tables_are_found_in_their_files(gone):
    env, _ = large()
    env = with_file(env, f"db/{gone}", None)
    made = lt.repair("db", "new", env=env)
    assert made["lost"] and made["lost"][0]["rows"] is None
    with lt.open("new", env=env) as db:
        (name,) = db.tables
        assert name == "t" or gone != "CURRENT"
        assert db[name].count() == ROWS and db[name].get(3)["s"] == "newer 3"


def test_a_missing_file_is_told_with_its_rows():
    env, _ = large()
    (name,) = [n for n in env.files if n.endswith(".arrow")]
    made = lt.repair("db", "new", env=with_file(env, name, None))
    assert [(lost["path"], lost["rows"]) for lost in made["lost"]] == [(name, ROWS)] and made["rows"] == 5


@pytest.mark.parametrize("every", [pytest.param(701, id="some"), pytest.param(11, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_whatever_the_damage_no_wrong_row_comes_out(every):
    env, want = damage.made(), workload.models(damage.TINY)[-1]
    other = damage.made([*damage.TINY[:1], workload._upsert(2, 24), *damage.TINY[1:-1]])
    known = {k: {row[k] for m in workload.models(damage.TINY) if k in m.tables.get("docs", {}) for row in [m.tables["docs"]]} for k in want.tables["docs"]}
    for _, fault, told, copy in damage.damages(env, other, every):
        if fault == "foreign":
            continue  # without a manifest of its own a foreign file cannot be told
        made = lt.repair("db", "new", env=copy)
        with lt.open("new", env=copy, config=damage.CONFIG) as db:
            found = workload._rows(db) if "docs" in db else {}
            assert made["lost"] or found == {**want.tables, **found}, f"{told}: nothing said, but other rows"
            for key, row in found.get("docs", {}).items():
                assert key not in known or row in known[key], f"{told}: row {key} is {row}"


def test_scrub_finds_every_damaged_file_and_tells_listeners():
    env = damage.made()
    names = [n for n in env.files if n.endswith(".arrow")]
    for name in names[:2]:
        data = bytearray(env.files[name].data)
        data[1000] ^= 1
        env = with_file(env, name, bytes(data))
    events = []
    with lt.open("db", env=env, config=damage.CONFIG) as db:
        db.on_event(events.append)
        scrub = db.scrub(rate=0)
        assert sorted(why.path for why in scrub.wait()) == names[:2] and not scrub.running
        assert [e["damaged"] for e in events if e["event"] == "scrub"] == [2]
        with pytest.raises(lt.CorruptionError):
            db.verify()


def test_scrub_keeps_to_its_rate_and_can_be_stopped():
    env, config = large()
    with lt.open("db", env=env, config=config) as db:
        scrub = db.scrub(rate=1.0)
        assert scrub.wait(0.05) == [] and scrub.running
        scrub.stop()
        assert not scrub.running and 0 < scrub.done < 20_000
        seen = []
        assert db.verify(progress=seen.append)["rows"] >= ROWS and sum(seen) > 100_000
        with pytest.raises(lt.LsmTensorError, match="rate"):
            db.scrub(rate=-1)
