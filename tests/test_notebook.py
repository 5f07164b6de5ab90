"""What a notebook shows: whole, escaped, small."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pyarrow as pa

import lsmtensor as lt
from lsmtensor.env.memory import MemoryEnv


class Balanced(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.cells = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "caption", "thead", "tbody", "tr", "th", "td", "pre") and not attrs
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data)


def test_html():
    with lt.open("n.lsm", env=MemoryEnv()) as db:
        schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("text", pa.string()), lt.Column("v", lt.tensor("float32", (64, 64)))], primary_key="id")
        docs = db.create_table("<docs>", schema)
        empty = Balanced(docs._repr_html_())
        assert "<docs>: 0 rows, key id" in empty.cells[0]
        docs.insert({"id": np.arange(2000), "text": ["<script>alert(1)</script>" + "x" * 500] * 2000, "v": np.zeros((2000, 64, 64), np.float32)})
        db.tensors["w"] = np.arange(10_000, dtype=np.int32).reshape(100, 100)
        shown = Balanced(docs._repr_html_())
        assert "<docs>: 2,000 rows" in shown.cells[0] and shown.cells[1:4] == ["id: int64", "text: string", "v: tensor(float32, (64, 64))"]
        assert len(shown.cells) == 1 + 3 + 5 * 3 and shown.cells[5].startswith("<script>") and shown.cells[5].endswith("…")
        assert shown.cells[6].startswith("float32 (64, 64) [[0. 0.") and max(map(len, shown.cells)) <= 200
        with db.snapshot() as snap:
            assert Balanced(snap["<docs>"]._repr_html_()).cells == shown.cells
        whole = Balanced(db._repr_html_())
        assert "1 named arrays" in whole.cells[0] and whole.cells[6:9] == ["<docs>", "2,000", "id, text, v"]
        tensor = "".join(Balanced(db.tensors["w"]._repr_html_()).cells)
        assert "int32 (100, 100)" in tensor and "[300 301 302 303]" in tensor
        db.tensors["scalar"] = np.float32(2.5)
        assert "2.5" in db.tensors["scalar"]._repr_html_()
    assert "closed" in Balanced(db._repr_html_()).cells[0]


def test_a_table_keeps_its_database(tmp_path):
    docs = lt.open(tmp_path / "a.lsm").create_table("docs", lt.Schema([lt.Column("id", pa.int64())], primary_key="id"))
    docs.insert({"id": [1]})
    assert docs.get(1) == {"id": 1}
    del docs  # and lets it go
    with lt.open(tmp_path / "a.lsm") as db:
        assert len(db["docs"]) == 1
