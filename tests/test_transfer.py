"""Tables into files of other programs and back; bulk loads of sorted files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv

WIDE = [lt.Column("id", pa.int64()), lt.Column("text", pa.string()), lt.Column("x", pa.float64()), lt.Column("v", lt.tensor("float32", (3,))),
        lt.Column("shape", lt.ragged("uint8", ndim=2)), lt.Column("about", lt.json())]  # fmt: skip


@pytest.fixture
def db():
    with lt.open("t.lsm", env=MemoryEnv()) as opened:
        table = opened.create_table("docs", lt.Schema(WIDE, primary_key="id"))
        n = 1000
        table.insert({"id": np.arange(n), "text": [None if i % 7 == 0 else f"t,{i}\n\"" for i in range(n)], "x": np.arange(n) / 4,
                      "v": np.arange(3 * n, dtype=np.float32).reshape(n, 3), "shape": [np.full((i % 3 + 1, 2), i % 250, np.uint8) for i in range(n)],
                      "about": [f'{{"i": {i}}}' for i in range(n)]})  # fmt: skip
        yield opened


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_there_and_back(db, tmp_path, ending):
    path = tmp_path / f"docs.{ending}"
    assert db["docs"].export(path, where=pc.field("id") >= 10) == 990
    again = db.import_table("again", path, "id")
    assert again.schema.arrow == db["docs"].schema.arrow  # json is text to others
    assert again.to_arrow() == db["docs"].to_arrow().slice(10).combine_chunks()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_csv(db, tmp_path):
    path = tmp_path / "docs.csv"
    with pytest.raises(lt.InvalidArgumentError, match="'v', 'shape'; leave them out with columns="):
        db["docs"].export(path)
    assert not list(tmp_path.iterdir())
    assert db["docs"].export(path, columns=["id", "text", "x"]) == 1000
    plain = db.create_table("plain", lt.Schema(WIDE[:3], primary_key="id"))
    plain.load(path)
    assert plain.to_arrow() == db["docs"].to_arrow(["id", "text", "x"])
    assert db.import_table("made", path, ["id"]).schema.field("x").type == pa.float64()


def test_several_files_make_a_table(db, tmp_path):
    paths = [tmp_path / "low.parquet", tmp_path / "high.parquet"]
    for path, low, high in zip(paths, (0, 400), (400, 1000), strict=True):
        db["docs"].export(path, where=(pc.field("id") >= low) & (pc.field("id") < high))
    assert db.import_table("again", paths, "id", sorted=True).to_arrow() == db["docs"].to_arrow().combine_chunks()
    with pytest.raises(lt.InvalidArgumentError, match="no files; give one path"):
        db.import_table("none", [], "id")
    with pytest.raises(lt.LsmTensorError):
        db.import_table("none", paths[::-1], "id", sorted=True)
    assert "none" not in db


def test_to_other_libraries(db):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    table = db["docs"]
    arrays = table.to_numpy()
    assert arrays["v"].shape == (1000, 3) and arrays["v"].dtype == np.float32 and arrays["v"][5].tolist() == [15, 16, 17]
    assert arrays["shape"][1].tolist() == [[1, 1], [1, 1]] and arrays["about"][3] == '{"i": 3}'
    frame = table.to_pandas(["id", "text", "v"])
    assert isinstance(frame, pandas.DataFrame) and frame["v"][2].tolist() == [6, 7, 8] and pandas.isna(frame["text"][0])
    other = table.to_polars(["id", "v"])
    assert isinstance(other, polars.DataFrame) and other["v"][2].to_list() == [6, 7, 8]
    # and what they hold goes back in
    version = table.upsert(frame.assign(text="new"))
    assert table.get(7)["text"] == "new" and table.get(7)["v"].tolist() == [21, 22, 23] and version == db.version


def _parts(tmp_path, edges):
    paths = []
    for i, (start, stop) in enumerate(edges):
        ids = np.arange(start, stop)
        pq.write_table(pa.table({"id": ids, "x": ids * 1.0}), tmp_path / f"{i}.parquet", row_group_size=100)
        paths.append(tmp_path / f"{i}.parquet")
    return paths


def test_sorted_files_are_written_once(db, tmp_path):
    db["docs"].delete(where=pc.field("id") >= 0)
    db.flush()
    version = db.version
    paths = _parts(tmp_path, [(0, 1000), (1000, 2500)])
    assert db["docs"].load(paths, sorted=True) == version + 1
    assert len(db["docs"]) == 2500 and db["docs"].get(1700)["x"] == 1700.0
    about = db.stats()["tables"]["docs"]
    assert about["file_rows"] >= 2500 and about["memtable_rows"] == 0  # nothing of the load goes through memory
    assert db["docs"].load([], sorted=True) == db["docs"].load(iter([])) == db.version


@pytest.mark.parametrize("edges", [[(0, 500), (499, 900)], [(500, 900), (0, 500)]])
def test_a_break_in_the_order_writes_nothing(db, tmp_path, edges):
    before, version = db["docs"].to_arrow(), db.version
    with pytest.raises(lt.SchemaError, match=r"do not rise at or after (499|0);"):
        db["docs"].load(_parts(tmp_path, edges), sorted=True)
    assert db["docs"].to_arrow() == before and db.version == version
    db["docs"].load(_parts(tmp_path, edges))
    assert len(db["docs"]) == 1000 and db["docs"].get(498)["text"] is None


def test_refusals(db, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    for path, kind, said in [(tmp_path / "gone.parquet", lt.StorageError, "No such file"), (tmp_path / "bad.parquet", lt.SchemaError, "cannot be read"),
                             (tmp_path / "what.xls", lt.InvalidArgumentError, "format=")]:  # fmt: skip
        with pytest.raises(kind, match=said):
            db["docs"].load(path)
        with pytest.raises(kind, match=said):
            db.import_table("fresh", path, "id")
    assert db.tables == ["docs"]
    pq.write_table(pa.table({"id": [1, None]}), tmp_path / "null.parquet")
    with pytest.raises(lt.SchemaError, match="never null"):
        db.import_table("fresh", tmp_path / "null.parquet", "id")
    assert db.tables == ["docs"]
    with pytest.raises(lt.StorageError, match="cannot be written"):
        db["docs"].export(tmp_path / "no" / "docs.parquet")
    with pytest.raises(lt.InvalidArgumentError, match="parquet"):
        db["docs"].export(tmp_path / "x", format="parqet")
