"""The pages' Python, run: the blocks of a page in order, in one folder, as a reader would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PAGES = [p for p in ("README.md", "ARCHITECTURE.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))) if BLOCK.search((ROOT / p).read_text())]
PAGES.remove("docs/mistakes.md")  # its blocks are to fail: below

COMMON = """
import itertools
from datetime import datetime
import numpy as np, pyarrow as pa, pyarrow.compute as pc
import lsmtensor, lsmtensor as lt
class REGISTRY:  # a page's plug-in is not there for other tests
    register = staticmethod(lambda name: lambda made: made)
rng = np.random.default_rng(0)
"""
# what a page takes as given
BEFORE = {
    "docs/indexes.md": """
from lsmtensor.indexes.base import VectorIndex
vectors, queries = rng.random((300, 384), np.float32), rng.random((4, 384), np.float32)
""",
    "docs/memtable.md": """
import lsmtensor.memtable
from lsmtensor.keys import KeyCodec, physical_schema
from lsmtensor.lsm.commit import with_seq
from lsmtensor.memtable.base import Memtable
from lsmtensor.rows import kit
from lsmtensor.rows.columns import format_of
schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("text", pa.string())], primary_key="id")
codec, physical, version, snapshot = KeyCodec(schema), physical_schema(schema), 1, 1
rows = schema.batch({"id": [2, 1], "text": ["b", "a"]})
key_kind, keys = codec.kind, codec.encode(rows)
fields = [f for f in physical if f.name != "_seq"]
batch = with_seq(pa.RecordBatch.from_arrays([*rows.columns, pa.array([1, 1], pa.uint8())], schema=pa.schema(fields)), version)
format, key = format_of(kit(), schema, codec, physical, 1), 1
payload = format.pack(3, {"text": "c"})
""",
    "docs/quantizers.md": "x, queries = rng.random((500, 384), np.float32), rng.random((4, 384), np.float32)",
    "docs/tensors.md": """
from safetensors.numpy import save_file
db = lt.open("data.lsm")
w, biases, shape = np.ones((32, 16), np.float32), [np.zeros(16), np.ones(16)], (20, 4)
frames, more = np.zeros((10, 480, 640), np.uint8), np.ones((2, 480, 640), np.uint8)
slabs = [np.full((10, 4), i, np.float32) for i in range(2)]
db.tensors["old"] = w
while db.version < 12:
    db.tensors["layer1/weight"] = w
txn = db.transaction()
save_file({"a": w}, "model.safetensors")
from scipy import sparse as sp
ids, csr, m0, m1 = [3, 4], sp.random_array((2, 30522), density=0.001, format="csr", dtype=np.float32), sp.eye_array(1000, format="csc", dtype=np.float32), sp.coo_array((1000, 1000), dtype=np.float32)
""",
    "docs/text.md": """
db, q, weights = lt.open("data.lsm"), np.ones(384, np.float32), {"indices": [7], "values": [1.0]}
""",
    "docs/transactions.md": """
clock = datetime
class datetime(clock):  # the page's date is when the database was there
    def __new__(cls, *date):
        return clock.now()
db = lt.open("data.lsm")
columns = [lt.Column("id", pa.int64()), lt.Column("text", pa.string()), lt.Column("score", pa.float64()), lt.Column("v", lt.tensor("float32", (4,)))]
docs, users = (db.create_table(name, lt.Schema(columns, primary_key="id")) for name in ("docs", "users"))
a, b, q = {"id": [1], "text": ["one"]}, [5], np.ones(4, np.float32)
while db.version < 123:
    docs.upsert({"id": [7], "score": [1.0], "v": np.ones((1, 4), np.float32)})
db.tag("v1")
""",
    "docs/wal.md": """
from lsmtensor.env.local import LocalEnv
from lsmtensor.wal import WalWriter, read_wal, seal_wal
from lsmtensor.wal.format import BATCHES
env, path, number, version, time_ns, buffer, more = LocalEnv(), "000001.wal", 1, 1, 1, b"one", b"two"
""",
}


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / page).read_text())
    space: dict[str, object] = {}
    exec(COMMON + BEFORE.get(page, ""), space)
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), space)


def _mistakes():
    text = (ROOT / "docs/mistakes.md").read_text()
    setup, *blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    said = re.findall(r"^> (.*)$", text, re.M)
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert len(blocks) == len(said) == len(titles) >= 30
    return [pytest.param(setup, *each, id=title) for title, *each in zip(titles, blocks, said, strict=True)]


@pytest.mark.parametrize(("setup", "mistake", "said"), _mistakes())
def test_a_mistake_gets_the_sentence_on_the_page(setup, mistake, said, tmp_path, monkeypatch):
    import lsmtensor as lt

    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(setup, space)
    try:
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 - the sentence is compared below
            exec(mistake, space)
        found = re.sub(r"process \d+", "process N", f"{type(caught.value).__name__}: {caught.value}")
        # names of plug-ins that were added since are no reason to write the page again
        cut = re.compile(r"known: .*")
        assert cut.sub("known:", found) == cut.sub("known:", said)
        assert isinstance(caught.value, (lt.LsmTensorError, IndexError))
    finally:
        space["db"].close()  # type: ignore[attr-defined]


def test_the_plug_in_of_the_guide_keeps_the_contract(tmp_path):
    """In a process of its own: its name is not there for other tests."""
    (code,) = re.findall(r"^```py\n(.*?)^```", (ROOT / "docs/laboratory.md").read_text(), re.M | re.S)
    checks = "check_finds_the_nearest", "check_filters", "check_removal", "check_same_calls_same_bytes", "check_save_and_load"
    after = f"""
from lsmtensor import indexes
from lsmtensor.testing import indexes as suite
for check in {checks}:
    getattr(suite, check)(lambda dim, metric="l2": indexes.create("sketch", dim=dim, metric=metric))
"""
    (tmp_path / "sketch.py").write_text(code + after)
    subprocess.run([sys.executable, str(tmp_path / "sketch.py")], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200)
