"""Search by words, by sparse vectors, and by several at once."""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsmtensor as lt
from lsmtensor.errors import InvalidArgumentError, LsmTensorError, SchemaError
from lsmtensor.indexes.analyze import TextSpec

WORDS = ["tree", "log", "merge", "tensor", "vector", "index", "write", "read", "page", "cache", "query", "search", "Größe", "naïve", "c++", "x1"]


def bm25(texts: dict[int, str | None], query: str, scoring: str = "bm25", k1: float = 1.2, b: float = 0.75, delta: float = 1.0) -> dict[int, float]:
    """By the formula, one row at a time."""
    words = {i: re.findall(r"[^\W_]+", t.lower()) for i, t in texts.items() if t is not None}
    n, mean = len(words), sum(map(len, words.values())) / max(1, len(words))
    scores: dict[int, float] = {}
    for term in dict.fromkeys(re.findall(r"[^\W_]+", query.lower())):
        df = sum(term in w for w in words.values())
        for i, w in words.items():
            tf = w.count(term)
            if tf:
                idf, norm = math.log(1 + (n - df + 0.5) / (df + 0.5)), 1 - b + b * len(w) / mean
                if scoring == "bm25l":
                    c = tf / norm + delta / 2
                    part = (k1 + 1) * c / (k1 + c)
                elif scoring == "tfidf":
                    part = (1 + math.log(tf)) / math.sqrt(len(w))
                else:
                    part = tf * (k1 + 1) / (tf + k1 * norm) + (delta if scoring == "bm25+" else 0)
                scores[i] = scores.get(i, 0.0) + idf * part
    return scores


def table(db, spec: str = "text", **rest):
    columns = [lt.Column("id", pa.int64()), lt.Column("text", pa.string()), lt.Column("n", pa.int64()), lt.Column("lex", lt.sparse("float32", 100))]
    return db.create_table("docs", lt.Schema([*columns, lt.Column("v", lt.tensor("float32", (4,)))], primary_key="id"), indexes={"text": spec}, **rest)


def rows(ids, texts, luck) -> dict:
    lex = []
    for _ in ids:
        indices = np.sort(luck.choice(100, luck.integers(0, 8), replace=False))
        lex.append({"indices": indices.astype(np.int32), "values": luck.integers(1, 9, len(indices)).astype(np.float32)})
    return {"id": list(ids), "text": texts, "n": [i % 3 for i in ids], "lex": lex, "v": luck.normal(size=(len(ids), 4)).astype(np.float32)}


def texts_of(luck, n):
    return [None if luck.random() < 0.05 else " ".join(luck.choice(WORDS, luck.integers(1, 12))) for _ in range(n)]


def same(answer: pa.Table, scores: dict[int, float], k: int) -> None:
    best = sorted(scores.items(), key=lambda e: (-e[1], e[0]))[:k]
    got = answer.column("_score").to_numpy()
    assert np.allclose(got, [s for _, s in best], rtol=1e-5, atol=1e-5)
    assert all(abs(scores[i] - s) < 1e-5 * max(1, abs(s)) for i, s in zip(answer.column("id").to_pylist(), got.tolist(), strict=True))


@pytest.mark.parametrize("scoring", ["bm25", "bm25+", "bm25l", "tfidf"])
def test_scores_are_those_of_the_formula(tmp_path, scoring):
    luck = np.random.default_rng(1)
    texts = texts_of(luck, 300)
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db, f"text(scoring={scoring})" if scoring != "bm25+" else 'text(scoring="bm25+")')
        docs.insert(rows(range(200), texts[:200], luck))
        db.flush()
        docs.insert(rows(range(200, 300), texts[200:], luck))  # in the memtable
        for query in ("tree", "log merge tree", "größe NAÏVE c++", "tensor vector index write read page cache", "absent", ""):
            want = bm25(dict(enumerate(texts)), query, scoring)
            same(docs.search(text=query, k=15), want, 15)
        db.compact()
        same(docs.search(text="log merge tree"), bm25(dict(enumerate(texts)), "log merge tree", scoring), 10)


def test_dead_rows_are_not_answered_and_time_travel_sees_them(tmp_path):
    luck = np.random.default_rng(2)
    texts = texts_of(luck, 120)
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db, history="none")
        docs.insert(rows(range(120), texts, luck))
        past = db.snapshot()
        before = docs.search(text="tree page", k=200)
        db.flush()
        gone = before.column("id").to_pylist()[:5]
        docs.delete(gone)
        docs.upsert(rows([7, 8], ["tree tree tree page", "nothing"], luck))
        now = docs.search(text="tree page", k=200)
        assert not set(gone) - {7} & set(now.column("id").to_pylist()) and 8 not in now.column("id").to_pylist()
        assert 7 in now.column("id").to_pylist()
        with past:
            # the same rows; frequencies count what is not compacted away, so scores may differ
            assert set(past["docs"].search(text="tree page", k=200).column("id").to_pylist()) == set(before.column("id").to_pylist())
        with db.transaction() as txn:
            txn["docs"].upsert(rows([500], ["zebra"], luck))
            assert txn["docs"].search(text="zebra").column("id").to_pylist() == [500]
            assert docs.search(text="zebra").num_rows == 0
        db.compact()
        kept = {i: t for i, t in enumerate(texts) if i not in gone} | {7: "tree tree tree page", 8: "nothing", 500: "zebra"}
        same(docs.search(text="tree page", k=200), bm25(kept, "tree page"), 200)


def test_must_must_not_and_where(tmp_path):
    luck = np.random.default_rng(3)
    texts = texts_of(luck, 200)
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db)
        docs.insert(rows(range(200), texts, luck))
        answer = docs.search(text={"query": "log", "must": "tree page", "must_not": "cache"}, k=100, where=pc.field("n") == 1, columns=["id", "text", "n"])
        want = {i for i, t in enumerate(texts) if t and i % 3 == 1 and {"tree", "page"} <= set(t.lower().split()) and "cache" not in t.split()}
        assert set(answer.column("id").to_pylist()) == want and want
        assert answer.column("text").to_pylist() == [texts[i] for i in answer.column("id").to_pylist()]


def test_analyzers(tmp_path):
    assert TextSpec.of("text(analyzer=english)").query("The trees and THE logs") == ["trees", "logs"]
    assert TextSpec.of("text(ngrams=2)").query("a b c") == ["a", "b", "c", "a b", "b c"]
    pytest.importorskip("Stemmer", reason="PyStemmer is an extra")
    stem = TextSpec.of("text(analyzer=snowball_english)")
    assert stem.query("running trees are the runs") == ["run", "tree"]
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db, "text(analyzer=snowball_english, ngrams=2)")
        luck = np.random.default_rng(1)
        docs.insert(rows([1, 2, 3], ["running databases", "a database that runs", "other"], luck))
        assert set(docs.search(text="run database").column("id").to_pylist()) == {1, 2}
        assert docs.search(text="running databases").column("id").to_pylist()[0] == 1


@given(st.text(max_size=40), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_a_query_has_the_terms_of_a_row(text, ngrams):
    """Two ways to the same terms: rows go through Arrow's pattern, queries through Python's."""
    text = "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)
    spec = TextSpec(ngrams=ngrams)
    terms, _, ids = spec.tokens(pa.array([text]))
    assert set(spec.query(text)) == {terms[i] for i in ids.tolist()}


def test_sparse_is_the_inner_product(tmp_path):
    luck = np.random.default_rng(4)
    data = rows(range(300), texts_of(luck, 300), luck)
    dense = np.zeros((300, 100), np.float32)
    for i, one in enumerate(data["lex"]):
        dense[i, one["indices"]] = one["values"]
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is for tests")
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db, "text")
        docs.insert({k: v[:250] for k, v in data.items()})
        db.flush()
        docs.insert({k: v[250:] for k, v in data.items()})
        for _ in range(5):
            q = np.zeros(100, np.float32)
            q[luck.choice(100, 6, replace=False)] = luck.integers(1, 9, 6)
            at = np.flatnonzero(q)
            answers = [
                docs.search(sparse=given, k=20)
                for given in ({"indices": at, "values": q[at]}, dict(zip(at.tolist(), q[at].tolist(), strict=True)), sparse.csr_matrix(q[None, :]))
            ]
            products = dense @ q
            want = sorted(((-s, i) for i, s in enumerate(products.tolist()) if s), key=lambda e: e)[:20]
            for answer in answers:
                assert np.allclose(answer.column("_score").to_numpy(), [-s for s, _ in want])
                assert np.allclose(products[answer.column("id").to_numpy()], answer.column("_score").to_numpy())
        negative = docs.search(sparse={"indices": [3, 4], "values": [-1.0, 2.0]}, k=300)
        products = dense[:, 4] * 2 - dense[:, 3]
        assert np.allclose(negative.column("_score").to_numpy(), np.sort(products[products != 0])[::-1])


def test_sparse_nearly(tmp_path):
    luck = np.random.default_rng(6)
    n, dim = 6000, 100
    dense = (luck.random((n + 10, dim)) < 0.2) * luck.gamma(1, 1, (n + 10, dim)).astype(np.float32)
    lex = [{"indices": np.flatnonzero(row), "values": row[row != 0]} for row in dense]
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("lex", lt.sparse("float32", dim))], primary_key="id")
    with lt.open(tmp_path / "a.lsm", config=lt.RunConfig().with_set("index.min_rows=100")) as db:
        docs = db.create_table("docs", schema, indexes={"lex": "sparse(nearly=true)"})
        docs.insert({"id": np.arange(n), "lex": lex[:n]})
        db.compact()
        assert any(b"heavy_rows" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        docs.insert({"id": np.arange(n, n + 10), "lex": lex[n:]})
        hits = []
        for _ in range(20):
            q = np.where(luck.random(dim) < 0.1, luck.gamma(1, 1, dim), 0).astype(np.float32)
            asked = {"indices": np.flatnonzero(q), "values": q[q != 0]}
            true, found = docs.search(sparse=asked, k=10), docs.search(sparse=asked, k=10, recall=0.8)
            assert np.allclose(found.column("_score").to_numpy(), (dense @ q)[found.column("id").to_numpy()], rtol=1e-4)
            hits.append(np.isin(true.column("id"), found.column("id")).mean())
            new = pc.field("id") >= n
            assert docs.search(sparse=asked, where=new, recall=0.5).equals(docs.search(sparse=asked, where=new)), "rows of a memtable are all looked at"
        assert np.mean(hits) >= 0.75
        for bad in ({"recall": 2}, {"recall": True}):
            with pytest.raises(lt.InvalidArgumentError):
                docs.search(sparse=asked, **bad)
        for bad in ({"text": "a", "recall": 0.9}, {"sparse": asked, "ef": 3}):
            with pytest.raises(lt.UnknownNameError, match="no parameter"):
                docs.search(**bad)
        for spec in ("sparse(nearly=3)", "sparse(recall=0.9)"):
            with pytest.raises(lt.InvalidArgumentError, match="nearly"):
                docs.create_index("lex", spec, name="other")


def test_fusion(tmp_path):
    luck = np.random.default_rng(5)
    data = rows(range(200), texts_of(luck, 200), luck)
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db)
        docs.insert(data)
        q = data["v"][17]
        lexical = {"indices": [1, 2, 3], "values": [1.0, 2.0, 3.0]}
        answer = docs.search(q, text="tree log", sparse=lexical, k=10, columns=["id", "text"])
        assert answer.column_names == ["id", "text", "_score", "_dense", "_text", "_sparse"]
        ranks = [docs.search(q, k=50), docs.search(text="tree log", k=50), docs.search(sparse=lexical, k=50)]
        score: dict[int, float] = {}
        for part in ranks:
            for rank, key in enumerate(part.column("id").to_pylist()):
                score[key] = score.get(key, 0) + 1 / (61 + rank)
        best = sorted(score, key=lambda key: (-score[key], key))[:10]
        assert answer.column("id").to_pylist() == best and np.allclose(answer.column("_score").to_numpy(), [score[i] for i in best])
        distance = dict(zip(ranks[0].column("id").to_pylist(), ranks[0].column("_distance").to_pylist(), strict=True))
        assert answer.column("_dense").to_pylist() == [distance.get(i) for i in best]
        assert answer.column("text").to_pylist() == [data["text"][i] for i in best]
        only = docs.search(q, text="tree log", fusion="weighted(dense=1, text=0)", k=5)
        assert only.column("id").to_pylist() == ranks[0].column("id").to_pylist()[:5]
        assert docs.search(q, text="absent", k=3).num_rows == 3


def test_wrong_questions_are_refused(tmp_path):
    luck = np.random.default_rng(6)
    with lt.open(tmp_path / "a.lsm") as db:
        docs = table(db)
        docs.insert(rows([1, 2], ["a", "b"], luck))
        for error, part, call in (
            (InvalidArgumentError, "holds no text", lambda: docs.search(text={"query": "a", "column": "n"})),
            (InvalidArgumentError, "give a string", lambda: docs.search(text=5)),
            (InvalidArgumentError, "give rrf", lambda: docs.search(np.zeros(4), text="a", fusion="mean")),
            (InvalidArgumentError, "give rrf", lambda: docs.search(np.zeros(4), text="a", fusion="weighted(words=1)")),
            (InvalidArgumentError, "k=0", lambda: docs.search(text="a", k=0)),
            (SchemaError, "100 dimensions", lambda: docs.search(sparse={"indices": [100], "values": [1.0]})),
            (SchemaError, "NaN", lambda: docs.search(sparse={"indices": [1], "values": [np.nan]})),
            (SchemaError, "as many", lambda: docs.search(sparse={"indices": [1, 2], "values": [1.0]})),
            (SchemaError, "scipy", lambda: docs.search(sparse=[1, 2])),
        ):  # fmt: skip
            with pytest.raises(error, match=re.escape(part)):
                call()
        assert docs.search(sparse={"indices": [], "values": []}).num_rows == 0
        for spec in ("text(analyzer=french)", "text(ngrams=4)", "text(k2=1)", "text(b=2)", "text(scoring=lucene)"):
            with pytest.raises(LsmTensorError):
                TextSpec.of(spec)
        with pytest.raises(InvalidArgumentError, match="strings"):
            db.create_table("other", docs.schema, indexes={"n": "text"})
