"""The sparse index against dense products, and the file of it."""

from __future__ import annotations

import numpy as np
import pytest

import lsmtensor as lt
from lsmtensor.indexes import SparseIndex

sp = pytest.importorskip("scipy.sparse")


def vectors(n: int, dim: int, seed: int, negative: bool = False) -> sp.csr_matrix:
    """Rows of about ten entries with a few frequent dimensions."""
    luck = np.random.default_rng(seed)
    chance = 1 / (1 + np.arange(dim)) ** 0.7
    there = luck.random((n, dim)) < 10 * chance / chance.sum()
    weights = luck.gamma(1.0, 1.0, (n, dim)).astype(np.float32) * there
    if negative:
        weights *= luck.choice([-1, 1, 1], (n, dim))
    return sp.csr_matrix(weights)


def check(found, dense, k):
    """Scores are those of the product, sorted, and none is missed."""
    ids, scores = found
    for row in range(len(ids)):
        want = np.sort(dense[row][dense[row] != 0])[::-1][:k]
        got = scores[row][ids[row] >= 0]
        assert len(got) == min(k, len(want)) and np.allclose(got, want, rtol=1e-5, atol=1e-6)
        assert np.allclose(got, dense[row][ids[row][ids[row] >= 0]], rtol=1e-5, atol=1e-6)
        assert (np.isneginf(scores[row]) == (ids[row] < 0)).all()


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("kernel", ["numpy", None])
def test_exact(negative, kernel):
    rows, queries = vectors(900, 300, 1, negative), vectors(20, 300, 2, negative)
    index = SparseIndex(dim=300, kernel=kernel)
    index.add(rows[:500])
    index.add(rows[500:])
    dense = np.asarray((queries @ rows.T).todense())
    for k in (1, 10, 900):
        check(index.search(queries, k), dense, k)
    mask = np.random.default_rng(3).random(900) < 0.1
    check(index.search(queries, 10, filter=mask), dense * mask, 10)
    check(index.search(queries, 10, filter=np.flatnonzero(mask)), dense * mask, 10)
    one = index.search({"indices": queries[3].indices[::-1], "values": queries[3].data[::-1]}, 5)
    assert one[0].shape == (5,) and np.array_equal(one[0], index.search(queries[3], 5)[0][0])


def test_nearly():
    rows, queries = vectors(12_000, 400, 1), vectors(50, 400, 2)
    index = SparseIndex(dim=400)
    index.add(rows)
    true = index.search(queries, 10)[1][:, -1:]
    shares = []
    for params in ({"postings": 300, "rerank": 20}, {"postings": 20_000, "rerank": 400}, {"recall": 0.9}):
        ids, scores = index.search(queries, 10, **params)
        dense = np.asarray((queries @ rows.T).todense())
        assert np.allclose(scores, np.take_along_axis(dense, ids, 1), rtol=1e-5)
        shares.append((scores >= true * (1 - 1e-5)).mean())
    assert shares[0] < shares[1] and shares[2] > 0.8
    curve = index.calibrate()
    assert curve is index.calibrate() and 0 < curve[0][2] <= 1
    known = index.calibrate(vectors(30, 400, 3))
    assert known is index.calibrate() and known != curve and [step[2] for step in known][-1] >= 0.95
    few = np.random.default_rng(4).random(12_000) < 0.1
    for got, want in zip(index.search(queries, 10, filter=few, recall=0.5), index.search(queries, 10, filter=few), strict=True):
        assert np.array_equal(got, want), "a filter that leaves few is answered exactly"
    most = np.random.default_rng(5).random(12_000) < 0.7
    ids, scores = index.search(queries, 10, filter=most, recall=0.9)
    assert most[ids[ids >= 0]].all() and (scores >= index.search(queries, 10, filter=most)[1][:, -1:] * (1 - 1e-5)).mean() > 0.8


def test_rows_come_and_go(tmp_path):
    rows = vectors(400, 120, 1)
    index = SparseIndex(dim=120)
    index.add(rows[:200], ids=np.arange(200) * 2)
    index.add(rows[200])
    assert index._next_id == 400 and len(index) == 201
    assert index.remove([0, 4, 4, 999]) == 2
    dense = np.asarray((rows[:1] @ rows[:201].T).todense())
    dense[:, [0, 2]] = 0
    found = index.search(rows[:1], 50)
    assert not np.isin(found[0], [0, 4]).any()
    check((np.where(found[0] == 399, 200, found[0] // 2), found[1]), dense, 50)
    index.update(rows[300:302], ids=[2, 1001])
    assert np.allclose(index.reconstruct(1001)["values"], rows[301].data) and len(index) == 200
    path = tmp_path / "a.sparse"
    index.calibrate()
    index.save(path)
    again = SparseIndex.load(path)
    for a, b in zip(index.search(rows, 7), again.search(rows, 7), strict=True):
        assert np.array_equal(a, b)
    assert again.calibrate() == index.calibrate() and again.stats() == index.stats() and len(again) == 200
    again.add(rows[303], ids=2000)
    assert again.search(rows[303], 1)[0][0, 0] == 2000
    index.remove(np.arange(100))
    assert index._dead == 0 and len(index) == 200 - 48
    other = SparseIndex(dim=120)
    other.add(rows[350:], ids=np.arange(5000, 5050))
    index.merge(other)
    assert index.search(rows[350], 1)[0][0, 0] == 5000
    with pytest.raises(lt.DuplicateKeyError):
        index.merge(other)
    with pytest.raises(lt.KeyNotFoundError):
        index.reconstruct(4)


def test_empty():
    index = SparseIndex(dim=9)
    assert index.search({"indices": [1], "values": [1.0]}, 3)[0].tolist() == [-1, -1, -1]
    index.add({"indices": [], "values": []})
    index.add([{"indices": [4], "values": [0.0]}, {"indices": [8, 2], "values": [1, 2]}])
    assert index.search({"indices": [], "values": []}, 2)[0].tolist() == [-1, -1]
    assert index.search({"indices": [2], "values": [1]}, 2)[0].tolist() == [2, -1]
    assert index.search({"indices": [2], "values": [1]}, 2, postings=3)[0].tolist() == [2, -1]


@pytest.mark.parametrize(
    "wrong, part",
    [
        ({"indices": [1, 9], "values": [1, 1]}, "not from 0 to 8"), ({"indices": [-1], "values": [1]}, "not from 0 to 8"),
        ({"indices": [3, 3], "values": [1, 1]}, "dimension 3 twice"), ({"indices": [3], "values": [np.nan]}, "NaN"),
        ({"indices": [3, 4], "values": [1]}, "as many"), ({"indices": [1.5], "values": [1]}, "integers"), ({"indices": [1]}, "scipy sparse matrix"),
        ([1.0, 2.0], "scipy sparse matrix"), ((np.array([0, 1]), np.array([99]), np.array([np.nan])), "scipy sparse matrix"), (sp.csr_matrix(np.ones((2, 10))), "9 dimensions"),
    ],
)  # fmt: skip
def test_wrong_rows_are_refused(wrong, part):
    index = SparseIndex(dim=9)
    index.add({"indices": [1], "values": [1]})
    for call in (index.add, index.search):
        with pytest.raises(lt.SchemaError, match=part):
            call(wrong)
    assert len(index) == 1


def test_wrong_arguments_are_refused():
    index, row = SparseIndex(dim=9), {"indices": [1], "values": [1]}
    index.add(row)
    for bad in ({"k": -1}, {"postings": 0}, {"rerank": True}, {"recall": 2}, {"recall": 0.9, "rerank": 5}, {"filter": np.ones(3, bool)}):
        with pytest.raises(lt.InvalidArgumentError):
            index.search(row, **bad)
    with pytest.raises(lt.InvalidArgumentError):
        SparseIndex(dim=0)
    with pytest.raises(lt.DuplicateKeyError):
        index.add(row, ids=[0])
    for ids in ([1, 2], [-1], [1.5], [2**63 - 1], [2**64 - 1]):
        with pytest.raises(lt.InvalidArgumentError, match="0 to 2"):
            index.add(row, ids=ids)
        with pytest.raises(lt.InvalidArgumentError, match="0 to 2"):
            index.update(row, ids=ids)
    index.add(row, ids=[2**63 - 2])
    for ids in ([5, 5], [5, 0]):
        with pytest.raises(lt.DuplicateKeyError):
            index.add([row, row], ids=ids)
    with pytest.raises(lt.DuplicateKeyError, match="twice"):
        index.update([row, row], ids=[0, 0])
    assert len(index) == 2


def test_damage_is_found(tmp_path):
    index = SparseIndex(dim=9)
    index.add([{"indices": [1, 3], "values": [1, 2]}, {"indices": [3], "values": [4]}])
    path = tmp_path / "a"
    index.save(path)
    data = path.read_bytes()
    luck = np.random.default_rng(1)
    for at in luck.integers(0, len(data), 200).tolist():
        bad = bytearray(data)
        bad[at] ^= 1 << int(luck.integers(8))
        path.write_bytes(bad)
        with pytest.raises(lt.CorruptionError):
            SparseIndex.load(path)
    dense = lt.indexes.create("flat", dim=3)
    dense.save(path)
    with pytest.raises(lt.CorruptionError, match="'flat'"):
        SparseIndex.load(path)
