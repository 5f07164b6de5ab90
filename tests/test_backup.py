"""Backups share what did not change, survive being cut short, and are checked before they are restored."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt

SCHEMA = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (8,)))], primary_key="id")


def rows(start, stop):
    return {"id": np.arange(start, stop), "v": np.random.default_rng(start).random((stop - start, 8), np.float32)}


@pytest.fixture
def db(tmp_path):
    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig().with_set("index.min_rows=100")) as opened:
        opened.create_table("docs", SCHEMA, indexes={"v": "hnsw(m=8)"}, compaction="none").insert(rows(0, 3000))
        opened.compact()
        yield opened


def test_incremental_and_restored(db, tmp_path):
    folder = tmp_path / "backups"
    first = db.backup(folder)
    assert first["number"] == 1 and first["copied_files"] == first["files"] >= 2 and first["version"] == db.version
    db["docs"].insert(rows(3000, 3100))
    second = db.backup(folder)
    assert second["files"] > second["copied_files"] >= 1 and second["copied_bytes"] < first["copied_bytes"] / 4
    db["docs"].delete([1, 2])
    assert [b["version"] for b in lt.backups(folder)] == [first["version"], second["version"]]
    # none of the bytes are the database's own
    own = {os.stat(f).st_ino for f in (tmp_path / "a.lsm" / "sst").iterdir()}
    assert not own & {os.stat(f).st_ino for f in folder.glob("*/sst/*")}
    assert lt.restore(folder, tmp_path / "b.lsm") == second["version"]
    with lt.open(tmp_path / "b.lsm") as back:
        assert back["docs"].to_arrow() == db.at(version=second["version"])["docs"].to_arrow()
        assert back["docs"].search(np.ones(8, np.float32), k=3) == db.at(version=second["version"])["docs"].search(np.ones(8, np.float32), k=3)
        back["docs"].insert(rows(5000, 5010))
        back.verify()
        # a database that went another way shares only what is the same
        third = back.backup(folder)
        assert 0 < third["copied_files"] < third["files"]
    assert lt.restore(folder, tmp_path / "c.lsm", number=1) == first["version"]
    with lt.open(tmp_path / "c.lsm", mode="r") as old:
        assert len(old["docs"]) == 3000
    with lt.open(folder / "000003", mode="r") as opened:  # a backup is a database
        assert len(opened["docs"]) == 3110 and opened.verify()["rows"] == 3110


def test_one_that_was_cut_short(db, tmp_path, monkeypatch):
    folder = tmp_path / "backups"
    from lsmtensor.lsm import branch

    with monkeypatch.context() as patch:
        patch.setattr(branch, "create_folder", lambda *a: (_ for _ in ()).throw(lt.StorageError("the disk went away")))
        with pytest.raises(lt.StorageError):
            db.backup(folder)
    assert lt.backups(folder) == [] and list(folder.glob("000001/sst/*"))
    with pytest.raises(lt.NotADatabaseError, match="no finished backup"):
        lt.restore(folder, tmp_path / "b.lsm")
    assert db.backup(folder)["number"] == 2
    assert not list(folder.glob("000001/sst/*")) and [b["number"] for b in lt.backups(folder)] == [2]
    with pytest.raises(lt.UnknownNameError, match="number 1.*there: 2"):
        lt.restore(folder, tmp_path / "b.lsm", number=1)


def test_damage_is_found_before_anything_is_written(db, tmp_path):
    folder = tmp_path / "backups"
    db.backup(folder)
    victim = max((folder / "000001" / "sst").glob("*.arrow"), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    victim.write_bytes(data)
    with pytest.raises(lt.CorruptionError):
        lt.restore(folder, tmp_path / "b.lsm")
    assert not (tmp_path / "b.lsm").exists()
    db.verify()


def test_a_reader_takes_what_only_the_log_holds(db, tmp_path):
    db["docs"].insert(rows(3000, 3005))
    with lt.open(tmp_path / "a.lsm", mode="r") as reader:
        reader.checkpoint(tmp_path / "copy.lsm")
        made = reader.backup(tmp_path / "backups")
    assert made["version"] == db.version
    for path in (tmp_path / "copy.lsm", tmp_path / "backups" / "000001"):
        with lt.open(path, mode="r") as copy:
            assert copy["docs"].to_arrow() == db["docs"].to_arrow()
