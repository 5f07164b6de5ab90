"""What an editor knows of a program that uses us."""

from __future__ import annotations

import pytest

PROGRAM = '''
import lsmtensor as lt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (4,)))], primary_key="id")
with lt.open("m.lsm", config=lt.RunConfig().with_set("wal.sync=none")) as db:
    docs = db.create_table("docs", schema, ttl="3d", unique=["id"])
    version: int = docs.insert({"id": np.arange(3), "v": np.zeros((3, 4), np.float32)})
    row: dict[str, object] | None = docs.get(1)
    count: int = docs.count(where=pc.field("id") < 2)
    plan: dict[str, object] = docs.search(np.zeros(4), k=2, explain=True)
    arrays: dict[str, np.ndarray] = docs.to_numpy()
    with db.snapshot() as then:
        rows: int = len(then["docs"])
    made: dict[str, int] = db.backup("b")
    db.tensors["w"] = np.zeros(3)
    docs.get_many([5], missing=3)  # wrong
    docs.export(5)  # wrong
    docs.serach([0.0])  # wrong
'''


@pytest.mark.slow
def test_a_program_is_checked_in_an_editor(tmp_path):
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(PROGRAM)
    said, _, _ = api.run(["--strict", "--ignore-missing-imports", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "user.py")])
    wrong = [n + 1 for n, line in enumerate(PROGRAM.splitlines()) if "# wrong" in line]
    assert [int(line.split(":")[1]) for line in said.splitlines() if "error" in line and line.startswith(str(tmp_path))] == wrong, said
