"""Make the golden databases that are not there: `python tests/golden/make.py`. Each is made once, when its format is, never again.

The files are committed; every later version of lsmtensor reads them (tests/test_golden.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

import lsmtensor as lt

HERE = Path(__file__).parent


def rows(start: int, stop: int) -> dict[str, object]:
    ids = np.arange(start, stop)
    vectors = ((ids[:, None] * 7 + np.arange(8)) % 11).astype(np.float32)
    return {
        "name": [f"key-{i:04d}" for i in ids], "count": ids * 3, "note": [None if i % 5 == 0 else f"note {i}" for i in ids],
        "vector": vectors, "image": [np.full((1 + i % 2, 2), i % 250, np.uint8) for i in ids],
    }  # fmt: skip


def make(folder: Path) -> None:
    config = lt.RunConfig.from_dict({"background": False, "index": {"min_rows": 1}})
    db = lt.open(str(folder), config=config)
    table = db.create_table(
        "things",
        lt.Schema(
            [
                lt.Column("name", pa.string()), lt.Column("count", pa.int64()), lt.Column("note", pa.string()),
                lt.Column("vector", lt.tensor("float32", (8,))), lt.Column("image", lt.ragged("uint8", ndim=2)),
            ],
            primary_key="name",
        ),
        indexes={"vector": "hnsw(m=4, ef_construction=20, metric=l2)"},
    )  # fmt: skip
    pairs = db.create_table("pairs", lt.Schema([lt.Column("a", pa.int64()), lt.Column("b", pa.string()), lt.Column("x", pa.float64())], primary_key=["a", "b"]))
    table.insert(rows(0, 300))
    pairs.insert({"a": [2, 1, 1], "b": ["x", "y", "x"], "x": [0.5, 1.5, None]})
    db.flush()
    table.delete([f"key-{i:04d}" for i in range(0, 300, 10)])
    table.upsert(rows(290, 310))
    db.tag("golden")
    db.flush()
    table.put("key-0001", {"count": -1, "note": "only in the log", "vector": np.zeros(8, np.float32), "image": np.zeros((1, 1), np.uint8)})
    db.close()
    (folder / "LOCK").unlink()


def films(ids: range) -> dict[str, object]:
    """Values of 20 to 1,100 bytes: some lie in a blob file."""
    return {"id": list(ids), "frames": [None if i == 4 else (np.arange(20 * (1 + i * i), dtype=np.uint8) + i).reshape(-1, 20) for i in ids]}


def make_blobs(folder: Path) -> None:
    db = lt.open(str(folder), config=lt.RunConfig(background=False, large_tensor_bytes=600))
    db.create_table("films", lt.Schema([lt.Column("id", pa.int64()), lt.Column("frames", lt.ragged("uint8", 2))], primary_key="id"), history="none")
    db["films"].insert(films(range(8)))
    db.flush()
    db["films"].delete([7])
    db.compact()
    db.close()
    (folder / "LOCK").unlink()


if __name__ == "__main__":
    targets = {HERE / "v1": make, HERE / "v1-blobs": make_blobs}
    wanted = [target for target in targets if not target.exists()]
    if not wanted:
        sys.exit("golden files are there; they are made once")
    for target in wanted:
        targets[target](target)
