"""A hot and a cold index as one."""

from __future__ import annotations

import numpy as np
import pytest

import lsmtensor as lt
from lsmtensor.errors import CorruptionError, InvalidArgumentError, UnknownNameError
from lsmtensor.testing import indexes as suite
from lsmtensor.testing.indexes import expect, recall, true_distances, vectors


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("spec", ["hybrid(hot_rows=70)", "hybrid(hot=hnsw, cold=diskann(degree=16), hot_rows=150)", "hybrid(hot=lsh, cold=gwi, hot_rows=60)"])
def test_conformance(spec, check):
    """With rows in both, which the defaults of so few do not have."""
    check(lambda dim, metric="l2": lt.indexes.create(spec, dim=dim, metric=metric))


def made(spec="hybrid(hot_rows=100)", dim=16, metric="l2"):
    return lt.indexes.create(spec, dim=dim, metric=metric)


def counts(index):
    stats = index.stats()
    assert stats["hot"]["rows"] + stats["cold"]["rows"] == stats["rows"] + stats["removed"]
    return stats["hot"]["rows"], stats["cold"]["rows"]


def test_rows_move_once():
    rows = vectors(1, 700, 16)
    index = made()
    seen = []
    for at in range(0, 700, 35):
        index.add(rows[at : at + 35])
        seen.append(counts(index))
        ids, far = index.search(rows[: at + 35 : 7], 3)
        assert (ids[:, 0] == np.arange(0, at + 35, 7)).mean() > 0.97 and (np.diff(ids, axis=1) != 0).all()
    assert 0 < max(hot for hot, _ in seen) <= 100
    assert sorted(cold for _, cold in seen) == [cold for _, cold in seen] and seen[-1][1] >= 600
    assert index.promote() == seen[-1][0] and counts(index) == (0, 700) and index.promote() == 0


def test_an_updated_row_is_never_its_older_self():
    """Promotion copies nothing twice, and a nearer old version does not come back."""
    rows = vectors(1, 500, 16)
    index = made()
    index.add(rows)
    index.promote()
    index.update(rows[:50] + 100, ids=np.arange(50))
    for _ in range(2):
        assert len(index) == 500
        ids, far = index.search(rows[:50], 5)
        assert not np.isin(ids, np.arange(50)).any(), "an older version was answered"
        assert (index.search(rows[:50] + 100, 1)[0][:, 0] == np.arange(50)).all()
        index.promote()
    assert np.array_equal(index.reconstruct(7), rows[7] + 100)


def test_parameters_reach_the_index_that_knows_them():
    rows = vectors(1, 3000, 24)
    index = made("hybrid(hot=lsh, cold=fqg, hot_rows=1500)", 24)
    index.add(rows[:2000])
    index.add(rows[2000:])
    assert set(index.search_params) == {"ef", "rerank", "nprobe"} and index.dial == "ef" and counts(index) == (1000, 2000)
    truth = true_distances(rows[:50] + 0.01, rows, "l2")
    low, high = (recall(index.search(rows[:50] + 0.01, 10, ef=ef, nprobe=nprobe)[1], truth, 10) for ef, nprobe in ((10, 1), (200, 128)))
    assert low < 0.95 < high
    expect(UnknownNameError, "no search parameter", lambda: index.search(rows[0], probes=1))


def test_interrupted_promotions_lose_nothing(monkeypatch):
    rows = vectors(1, 900, 16)
    index = made("hybrid(cold=hnsw, hot_rows=800)")
    index.add(rows[:850])
    index.add(rows[850:])
    assert counts(index) == (50, 850)
    calls = []

    def broken(start, stop):
        calls.append(stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(index._cold, "_insert", broken)
    monkeypatch.setattr(index._cold, "_inserted", lambda stop: 870)
    with pytest.raises(KeyboardInterrupt):
        index.promote()
    assert calls == [900] and counts(index) == (30, 870) and len(index) == 900
    assert np.array_equal(index.reconstruct(895), rows[895]) and np.array_equal(index._vectors.array, rows)


def test_what_does_not_fit_is_refused(tmp_path):
    for spec in ("hybrid(hot=hybrid)", "hybrid(cold=hnsw(metric=ip))", "hybrid(hot_rows=-1)", "hybrid(hot_rows=many)"):
        expect(InvalidArgumentError, "hybrid: ", lambda spec=spec: made(spec))
    expect(UnknownNameError, "hnws", lambda: made("hybrid(cold=hnws)"))
    index = made()
    index.add(vectors(1, 300, 16))
    header, arrays = index.to_sections(include_vectors=True)
    lying = {**header, "cold": {**header["cold"], "metric": "ip"}}
    expect(CorruptionError, "", lambda: lt.indexes.from_sections(lying, arrays))
    expect(InvalidArgumentError, "0 rows", lambda: lt.indexes.from_sections({**header, "cold": header["hot"]}, arrays))
    expect(CorruptionError, "", lambda: lt.indexes.from_sections({k: v for k, v in header.items() if k != "hot"}, arrays))


def test_cold_rows_may_lie_in_pages(tmp_path):
    rows = vectors(1, 1200, 16)
    index = made("hybrid(cold=diskann, hot_rows=400)")
    index.add(rows[:1000])
    index.add(rows[1000:])
    index.save(tmp_path / "x.index")
    again = lt.indexes.load(tmp_path / "x.index")
    found = again.search(rows[:40], 5)
    assert np.array_equal(found[0], index.search(rows[:40], 5)[0]) and again.stats()["cold"]["page_reads"] > 0
    again.add(rows[:300] + 1)
    index.add(rows[:300] + 1)
    assert counts(again) == (0, 1500) and again.digest() == index.digest()
