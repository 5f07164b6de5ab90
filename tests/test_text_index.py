"""Texts alone, and the lists of tables as segments of files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_text import WORDS, bm25, rows, same, table, texts_of

import lsmtensor as lt
from lsmtensor.errors import CorruptionError, DuplicateKeyError, InvalidArgumentError, SchemaError, UnavailableError
from lsmtensor.indexes import TextIndex

BACKENDS = ["numpy", "numba", "cython"]


def there(kernel: str) -> str:
    try:
        lt.kernels.choose(kernel)
    except UnavailableError as why:
        pytest.skip(str(why))
    return kernel


def check(index: TextIndex, texts: dict[int, str], query: str, scoring: str, k: int) -> None:
    ids, scores = index.search(query, k)
    want = bm25(texts, query, scoring)
    best = sorted(want.values(), reverse=True)[:k]
    assert len(ids) == k and (ids >= 0).sum() == len(best) and np.isneginf(scores[len(best) :]).all()
    assert np.allclose(scores[: len(best)], best, rtol=1e-5)
    assert np.allclose([want[i] for i in ids[: len(best)].tolist()], best, rtol=1e-5)


@pytest.mark.parametrize("scoring", ["bm25", "bm25+", "bm25l", "tfidf"])
@pytest.mark.parametrize("kernel", BACKENDS)
def test_scores_are_those_of_the_formula(kernel, scoring):
    luck = np.random.default_rng(1)
    texts = dict(enumerate(t or "" for t in texts_of(luck, 600)))
    index = TextIndex({"name": "text", "scoring": scoring}, kernel=there(kernel))
    # parts of other mean lengths than the whole
    index.add([texts[i] for i in range(600)])
    index.add(["tree"] * 3 + ["log merge " * 40])
    texts |= {600: "tree", 601: "tree", 602: "tree", 603: "log merge " * 40}
    assert index.stats()["parts"] == 2
    for query in ("tree", "log merge tree", "tensor vector index write read page cache", "absent", ""):
        for k in (1, 10, 650):
            check(index, texts, query, scoring, k)


def test_texts_come_and_go(tmp_path):
    luck = np.random.default_rng(2)
    texts = dict(enumerate(t or "" for t in texts_of(luck, 500)))
    index = TextIndex("text(k1=0.9)")
    for start in range(0, 500, 50):
        index.add(pa.array([texts[i] for i in range(start, start + 50)]))
    assert index.stats()["parts"] <= 4 and len(index) == 500
    assert index.remove([3, 3, 9999]) == 1 and 3 not in index.search("tree log", 500)[0]
    index.update(["tree zebra", "quagga"], [7, 1000])
    assert index.search("zebra")[0].tolist()[:2] == [7, -1] and index.search("quagga", 1)[0].tolist() == [1000]
    index.consolidate()
    now = {**{i: t for i, t in texts.items() if i != 3}, 7: "tree zebra", 1000: "quagga"}
    ids, scores = index.search("tree page log", 400)
    want = bm25(now, "tree page log", k1=0.9)
    assert np.allclose(scores[ids >= 0], sorted(want.values(), reverse=True)[: (ids >= 0).sum()], rtol=1e-5)
    path = tmp_path / "a.text"
    index.save(path)
    again = TextIndex.load(path)
    assert len(again) == 500 and again.spec == index.spec
    for a, b in zip(again.search("tree page log", 400), (ids, scores), strict=True):
        assert np.array_equal(a, b)
    again.add("okapi")
    assert again.search("okapi", 1)[0].tolist() == [1001]
    other = TextIndex("text(k1=0.9)")
    other.add(["numbat"], ids=[5000])
    again.merge(other)
    assert again.search("numbat", 1)[0].tolist() == [5000]
    with pytest.raises(DuplicateKeyError):
        again.merge(other)


def test_questions_and_filters():
    index = TextIndex()
    index.add(["a tree", "tree and log", "log", None])
    assert set(index.search({"query": "tree log", "must": "log"}, 9)[0].tolist()) == {1, 2, -1}
    assert set(index.search({"query": "tree", "must_not": "log"}, 9)[0].tolist()) == {0, -1}
    assert set(index.search("tree", 9, filter=np.array([1, 2]))[0].tolist()) == {1, -1}
    assert set(index.search("tree", 9, filter=np.array([True, False, True, True]))[0].tolist()) == {0, -1}
    for bad in (5, {"words": "a"}, {"query": 3}):
        with pytest.raises(InvalidArgumentError, match="give a string"):
            index.search(bad)
    for error, call in (
        (InvalidArgumentError, lambda: index.search("a", k=-1)), (SchemaError, lambda: index.add([1, 2])), (SchemaError, lambda: index.add(7)),
        (DuplicateKeyError, lambda: index.add("x", ids=[0])), (InvalidArgumentError, lambda: index.add(["x", "y"], ids=[9])),
        (InvalidArgumentError, lambda: TextIndex("hnsw")), (InvalidArgumentError, lambda: index.merge(TextIndex("text(b=0.5)"))),
    ):  # fmt: skip
        with pytest.raises(error):
            call()
    assert len(index) == 4 and TextIndex().search("a", 2)[0].tolist() == [-1, -1]


def test_damage_is_found(tmp_path):
    index = TextIndex()
    index.add(["a tree", "tree and log"])
    path = tmp_path / "a"
    index.save(path)
    data, luck = path.read_bytes(), np.random.default_rng(1)
    for at in luck.integers(0, len(data), 100).tolist():
        bad = bytearray(data)
        bad[at] ^= 1 << int(luck.integers(8))
        path.write_bytes(bad)
        with pytest.raises(CorruptionError):
            TextIndex.load(path)


@given(st.lists(st.lists(st.sampled_from(WORDS[:12]), max_size=12), min_size=1, max_size=60), st.lists(st.sampled_from(WORDS[:12]), max_size=9), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_any_texts(words, query, k):
    index = TextIndex()
    index.add([" ".join(w) for w in words])
    check(index, {i: " ".join(w) for i, w in enumerate(words)}, " ".join(query), "bm25", k)


def test_lists_of_many_rows_and_of_several_chunks():
    luck = np.random.default_rng(3)
    n = 70_000
    words = np.array(["the", "of", "tree", "log", "rare", "page"])
    chance = np.array([0.9, 0.5, 0.1, 0.02, 0.0005, 0.07])
    texts = [" ".join(words[luck.random(6) < chance]) for _ in range(n)]
    index = TextIndex()
    index.add(texts)
    alive = np.ones(n, bool)
    alive[luck.integers(0, n, 900)] = False
    index.remove(np.flatnonzero(~alive))
    counts = {w: np.array([w in t.split() for t in texts]) for w in words.tolist()}
    lengths = np.sum(list(counts.values()), 0)
    for query in ("the of", "the rare", "tree log page the", "rare"):
        score = np.zeros(n)
        for w in query.split():
            df = counts[w].sum()
            score += counts[w] * np.log(1 + (n - df + 0.5) / (df + 0.5)) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
        ids, got = index.search(query, 10)
        assert np.allclose(got, np.sort(score * alive)[::-1][:10], rtol=1e-5) and np.allclose(score[ids], got, rtol=1e-5) and alive[ids].all()


def test_lists_are_segments_of_files(tmp_path):
    luck = np.random.default_rng(4)
    texts = texts_of(luck, 300)
    config = lt.RunConfig().with_set("index.min_rows=100")
    lexical = {"indices": [1, 2, 3], "values": [1.0, 2.0, 3.0]}
    with lt.open(tmp_path / "a.lsm", config=config) as db:
        docs = table(db)
        docs.create_index("lex", "sparse")
        data = rows(range(300), texts, luck)
        docs.insert(data)
        db.compact()
        want, near = docs.search(text="log merge tree", k=15), docs.search(sparse=lexical, k=15)
        same(want, bm25(dict(enumerate(texts)), "log merge tree"), 15)
    kinds = [p.suffix for p in (tmp_path / "a.lsm" / "sst").iterdir()]
    assert ".text" in kinds and ".sparse" in kinds
    with lt.open(tmp_path / "a.lsm", config=config) as db:
        docs = db["docs"]
        assert docs.search(text="log merge tree", k=15).equals(want) and docs.search(sparse=lexical, k=15).equals(near)
        # what comes in the memtable is ranked with it, of other mean length
        docs.insert(rows(range(300, 340), ["tree " * 50] * 40, luck))
        docs.insert(rows(range(340, 342), ["log", "page"], luck))
        same(docs.search(text="log tree", k=30), bm25(dict(enumerate([*texts, *["tree " * 50] * 40, "log", "page"])), "log tree"), 30)
    for path in (tmp_path / "a.lsm" / "sst").iterdir():
        if path.suffix in (".text", ".sparse"):
            whole = bytearray(path.read_bytes())
            whole[-70] ^= 4
            path.write_bytes(whole)
    with lt.open(tmp_path / "a.lsm", config=config) as db, pytest.warns(UserWarning, match="cannot be used"):
        same(db["docs"].search(text="page", k=30), bm25(dict(enumerate([*texts, *["tree " * 50] * 40, "log", "page"])), "page"), 30)
        assert db["docs"].search(sparse=lexical, k=15).num_rows == 15
