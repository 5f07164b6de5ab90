"""Large values of table columns: blob files, references, garbage, and all that must know them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.errors import CorruptionError
from lsmtensor.lsm.blobs import BLOBS
from lsmtensor.testing.workload import vectors

CONFIG = lt.RunConfig(background=False, large_tensor_bytes=2000, direct_commit_bytes=100_000).with_set("sstable.chunk_bytes=4096", "compaction.policy=none")
SCHEMA = lt.Schema(
    [
        lt.Column("id", pa.int64()), lt.Column("image", lt.ragged("uint8", 2)), lt.Column("frame", lt.tensor("float32", (600,)), codec="shuffle+zstd"),
        lt.Column("terms", lt.sparse("float32", 100_000)), lt.Column("v", lt.tensor("float32", (4,))),
    ],
    primary_key="id",
)  # fmt: skip


def rows(ids, seed=0):
    """Images of 100 to 6,000 bytes, so that some lie outside and some do not; every seventh is null."""
    made = []
    for i in ids:
        rng = np.random.default_rng(seed * 10_000 + int(i))
        n = int(rng.integers(10, 600))
        made.append(
            {
                "id": int(i), "image": None if i % 7 == 3 else rng.integers(0, 255, (10, n), dtype=np.uint8), "frame": rng.normal(size=600).astype(np.float32),
                "terms": {"indices": np.arange(n, dtype=np.int32) * 3, "values": np.ones(n, np.float32) * i}, "v": vectors(i).astype(np.float32),
            }  # fmt: skip
        )
    return made


def same(found, wanted):
    for row in wanted:
        here = found.get(row["id"]) if not isinstance(found, dict) else found[row["id"]]
        assert here is not None, row["id"]
        for name in ("image", "frame", "v"):
            if row[name] is None:
                assert here[name] is None
            else:
                assert here[name].dtype == row[name].dtype and np.array_equal(here[name], row[name]), (row["id"], name)
        assert all(np.array_equal(here["terms"][n], row["terms"][n]) for n in ("indices", "values"))


def blob_runs(db):
    table = db._state().by_name(BLOBS)
    return [] if table is None else table.runs


@pytest.fixture
def db(tmp_path):
    with lt.open(str(tmp_path / "db"), config=CONFIG) as db:
        db.create_table("t", SCHEMA, history="none")
        yield db


@pytest.mark.parametrize("how", ["flushed", "direct"])
def test_large_values_lie_outside_and_come_back(db, how):
    given = rows(range(40 if how == "direct" else 20))
    version = db.version
    if how == "direct":
        db["t"].upsert(given)
    else:
        for row in given:
            db["t"].put(row["id"], {k: v for k, v in row.items() if k != "id"})
        db.flush()
    assert blob_runs(db) and db.version - version == (1 if how == "direct" else 20)
    (file,) = (f for run in db._state().by_name("t").runs for f in run.files)
    assert file.ref.blobs and file.ref.size < 0.3 * sum(run.run.bytes for run in blob_runs(db))
    same(db["t"], given)
    table = db["t"].to_arrow()
    assert table.schema.equals(SCHEMA.arrow) and table.column("id").to_pylist()[: len(given)] == [r["id"] for r in given]
    whole = db["t"].get_many([r["id"] for r in given[::-1]])
    assert np.array_equal(lt.schema.column_numpy(whole.column("frame")), np.stack([r["frame"] for r in given[::-1]]))
    assert db["t"].search(given[5]["v"], k=1).column("id").to_pylist() == [5]
    assert db.verify()


def test_merges_carry_references_and_blobs_are_collected_by_live_share(db):
    first, second = rows(range(30)), rows(range(20), seed=1)
    db["t"].upsert(first)
    db["t"].upsert(second)
    db.flush()
    sizes = {run.run.id: run.run.bytes for run in blob_runs(db)}
    with db.snapshot() as before:
        db.compact()
        assert {run.run.id for run in blob_runs(db)} == set(sizes), "an open view reads rows that the merge left out"
        same(before["t"], second)
    del before
    same(db["t"], second + first[20:])
    # nobody reads the older versions any more: what they referred to goes
    db.compact()
    left = blob_runs(db)
    assert sum(r.run.bytes for r in left) < 0.8 * sum(sizes.values())
    assert max(sizes) in {r.run.id for r in left}, "a blob file whose every value is referred to is not written again"
    same(db["t"], second + first[20:])
    report = db.space_report()["tables"].to_pylist()
    mine = {row["what"]: row for row in report if row["table"] == BLOBS}
    assert mine["garbage"]["rows"] == 0 and mine["live"]["rows"] == sum(r.rows for r in left)
    db["t"].delete(list(range(30)))
    db.compact()
    assert blob_runs(db) == () and db.verify()
    db.drop_table("t")


def test_an_open_view_keeps_its_blobs(db):
    given = rows(range(30))
    db["t"].upsert(given)
    snap = db.snapshot()
    db.drop_table("t")
    db.compact()
    same(snap["t"], given)
    snap.close()
    del snap
    db.compact()
    db.compact()
    assert len(blob_runs(db)) == 0


def test_time_travel_tags_and_history(tmp_path):
    with lt.open(str(tmp_path / "db"), config=CONFIG) as db:
        db.create_table("t", SCHEMA)
        versions = {}
        for seed in range(3):
            versions[db["t"].upsert(rows(range(12), seed))] = seed
            db.flush()
        db.compact()
        for version, seed in versions.items():
            with db.at(version=version) as then:
                same(then["t"], rows(range(12), seed))
        assert db["t"].history(1).num_rows == 3
        db.branch(str(tmp_path / "branch"), version=min(versions))
    with lt.open(str(tmp_path / "branch"), config=CONFIG) as fork:
        same(fork["t"], rows(range(12), 0))
        fork["t"].upsert(rows(range(5), 9))
        fork.compact()
        same(fork["t"], rows(range(5), 9))
        assert fork.verify()


def test_copies_carry_their_blobs(db, tmp_path):
    given = rows(range(30))
    db["t"].upsert(given)
    db["t"].upsert(rows([50]))  # in the log only
    db.checkpoint(str(tmp_path / "copy"))
    db.backup(str(tmp_path / "saved"))
    lt.restore(str(tmp_path / "saved"), str(tmp_path / "restored"))
    for name in ("copy", "restored"):
        with lt.open(str(tmp_path / name), "r") as other:
            same(other["t"], [*given, *rows([50])])
            assert other.verify()
    with lt.open(str(tmp_path / "db"), "r") as reader:
        same(reader["t"], given)
        db["t"].delete(list(range(25)))
        db.compact()
        same(reader["t"], given)  # its files stay while it is open
        reader.refresh()
        assert len(reader["t"]) == 6
        same(reader["t"], given[25:])


def test_a_row_with_values_outside_is_proved(db):
    given = rows(range(30))
    db["t"].upsert(given)
    db.flush()
    with db.snapshot() as snap:
        proof, root = snap["t"].prove(5), snap.root()
    assert len(proof["blobs"]) >= 2
    same({5: lt.verify_proof(proof, root=root)}, [given[5]])
    name, other = list(proof["blobs"])[:2]
    proof["blobs"][name] = proof["blobs"][other]
    with pytest.raises(CorruptionError, match="hash"):
        lt.verify_proof(proof, root=root)


def test_changed_columns(db):
    given = rows(range(30))
    db["t"].upsert(given)
    db.flush()
    db["t"].rename_column("image", "picture")
    db["t"].upsert([{**{k: v for k, v in r.items() if k != "image"}, "picture": r["image"]} for r in rows(range(5), 2)])
    db.tag("old")
    db["t"].drop_column("frame")
    db.compact()
    assert np.array_equal(db["t"].get(9)["picture"], given[9]["image"])
    with db.at(tag="old") as then:
        assert np.array_equal(then["t"].get(9)["frame"], given[9]["frame"])
    assert db.verify()


def test_damage_to_a_blob_costs_its_rows(tmp_path):
    path = tmp_path / "db"
    with lt.open(str(path), config=CONFIG) as db:
        db.create_table("t", SCHEMA)
        given = rows(range(30))
        db["t"].upsert(given)
        (run,) = blob_runs(db)
        name = path / "sst" / f"{run.files[0].ref.number:06d}.arrow"
    data = bytearray(name.read_bytes())
    data[len(data) // 2] ^= 1
    name.write_bytes(data)
    with lt.open(str(path), "r") as db:
        with pytest.raises(CorruptionError, match=name.name):
            db["t"].to_arrow()
        with pytest.raises(CorruptionError, match=name.name):
            db.verify()
    found = lt.repair(path, tmp_path / "new")
    lost = sum(entry["rows"] for entry in found["lost"] if entry["rows"])
    with lt.open(str(tmp_path / "new"), "r") as db:
        there = set(db["t"].to_arrow(["id"]).column("id").to_pylist())
        assert 0 < 30 - len(there) <= lost < 30
        same(db["t"], [row for row in given if row["id"] in there])
        assert db.verify()


def test_a_plain_reader_opens_the_files(db):
    db["t"].upsert(rows(range(30)))
    folder = db.path + "/sst"
    (run,), (blobs,) = db._state().by_name("t").runs, blob_runs(db)
    with pa.ipc.open_file(f"{folder}/{run.files[0].ref.number:06d}.arrow") as file:
        assert file.read_all().column("id").to_pylist() == list(range(30))
    with pa.ipc.open_file(f"{folder}/{blobs.files[0].ref.number:06d}.arrow") as file:
        table = file.read_all()
        assert table.column_names == ["id", "data", "_seq", "_op"]
        buffers = [chunk.buffers()[1] for chunk in table.column("data").chunks]
        assert all((np.frombuffer(b, np.int64) % 64 == 0).all() for b in buffers), "every value begins on a multiple of 64"


def test_cold_values_are_compressed_when_a_merge_is_asked_to(tmp_path):
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("image", lt.ragged("uint8", 2))], "id")
    images = [np.full((100, 100 + i), i, np.uint8) for i in range(20)]
    with lt.open(str(tmp_path / "db"), config=CONFIG.with_set("compaction.codec=zstd")) as db:
        db.create_table("t", schema, history="none")
        db["t"].upsert({"id": range(20), "image": images})
        (plain,) = blob_runs(db)
        assert plain.run.bytes > sum(a.nbytes for a in images)
        db.compact()
        assert sum(r.run.bytes for r in blob_runs(db)) < 0.1 * plain.run.bytes
        db["t"].upsert({"id": [3], "image": [images[4]]})
        db.compact()
        assert all(np.array_equal(db["t"].get(i)["image"], images[4 if i == 3 else i]) for i in range(20)) and db.verify()


def test_reading_a_value_copies_nothing(db):
    given = rows(range(30))
    db["t"].upsert(given)
    (run,) = blob_runs(db)
    values = [run.one_batch(*run.reader(0).batch_starts[i : i + 2].tolist(), "data").buffers()[2] for i in range(run.num_batches)]
    for array in db["t"].get_many([8]).column("image").chunks:
        at = array.storage.field(0).values.buffers()[1].address
        assert any(v.address < at < v.address + v.size for v in values) and at % 64 == 0
