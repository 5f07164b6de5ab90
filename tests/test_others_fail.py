"""What stores of this kind fail at (docs/reliability.md, T1 to T15), where no other file of tests has it. Costs are counted, not timed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor.bench.datasets import debian
from lsmtensor.bench.recall import recall, truth
from lsmtensor.env.memory import MemoryEnv

SCHEMA = lt.Schema([lt.Column("k", pa.int64()), lt.Column("n", pa.int64()), lt.Column("v", lt.tensor("float32", (4,)))], primary_key="k")
DOCS = Path(__file__).parent.parent / "docs"


def calls(act) -> int:
    """How many functions are called, of Python and of C."""
    made = 0

    def count(frame, event, what) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    act()  # what is made once is made
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize("where", ["in memory", "in a file", "merged"])
def test_a_key_written_often_is_read_at_flat_cost(where):
    """T5; and reads at the head cost the same whatever the number of versions behind them."""
    costs = {}
    for times in (1, 600):
        with lt.open("t.lsm", env=MemoryEnv(), config=lt.RunConfig(background=False)) as db:
            table = db.create_table("t", SCHEMA)  # history="all": every version is kept
            for n in range(times):
                table.upsert({"k": np.arange(5), "n": np.full(5, n), "v": np.full((5, 4), n, np.float32)})
                if where == "merged" and n % 200 == 199:
                    db.flush()
            if where != "in memory":
                db.flush()
            if where == "merged":
                db.compact()
            assert len(table.history(3)) == times
            costs[times] = {
                "get": calls(lambda table=table: table.get(3)),
                "get many": calls(lambda table=table: table.get_many([0, 4])),
                "scan": calls(lambda table=table: table.to_arrow(["n"])),
                "search": calls(lambda table=table: table.search(np.zeros(4, np.float32), k=2)),
                "count": calls(lambda table=table: table.count()),
            }
            assert table.get(3)["n"] == times - 1 and table.to_arrow(["n"])["n"].to_pylist() == [times - 1] * 5
    for what, once in costs[1].items():
        if (what, where) == ("search", "in memory"):
            continue  # rows in memory are scanned, those of older versions too, until a flush
        assert costs[600][what] <= 1.3 * once + 10, f"{what} {where}: {costs}"


def test_the_published_recall_of_gwi_is_reached():
    """T15. The table is in docs/indexes.md; the floor is two hundredths below it."""
    text = (DOCS / "indexes.md").read_text()
    published = [(int(n), float(r)) for n, r in re.findall(r"^\| (\d+) \| (0\.\d+|1\.0+) \|$", text[text.index("\n## gwi") :], re.MULTILINE)]
    rows = debian().embeddings
    base, queries = rows[:-100], rows[-100:]
    true = truth(base, queries, 10)
    index = lt.indexes.create("gwi(seed=1)", dim=rows.shape[1], metric="cosine")
    index.add(base)
    reached = {n: recall(index.search(queries, 10, nprobe=n)[0], true) for n, _ in published}
    assert len(published) >= 5
    for nprobe, floor in published:
        assert reached[nprobe] >= floor - 0.02, f"nprobe={nprobe}: {reached[nprobe]:.3f}, published {floor}"
    assert list(reached.values()) == sorted(reached.values()) and published[-1][1] > 0.95
