"""Which index, with which parameters."""

from __future__ import annotations

import numpy as np
import pytest

import lsmtensor as lt
from lsmtensor.bench import datasets
from lsmtensor.errors import InvalidArgumentError, SchemaError, UnknownNameError
from lsmtensor.indexes import tuning
from lsmtensor.indexes.flat import Flat
from lsmtensor.testing.indexes import expect, recall, true_distances, vectors


def test_real_embeddings():
    """Every index there is; what is chosen reaches the recall on queries that it was not chosen by."""
    rows = datasets.debian().embeddings
    base, queries = rows[200:], rows[:200]
    tuned = lt.indexes.tune(base, recall=0.95, metric="cosine")
    tried = {lt.registry.Spec.parse(trial.spec).name for trial in tuned.trials}
    assert tried == set(lt.indexes.names()) - {"hybrid"}
    assert tuned.why.startswith(tuned.spec) and "recall@10 of 0.95" in tuned.why and str(len(tuned.trials)) in tuned.why
    index = tuned.create(base.shape[1])
    index.add(base)
    assert index.metric == "cosine" and str(index.spec) == tuned.spec
    assert recall(index.search(queries, 10)[1], true_distances(queries, base, "cosine"), 10) >= 0.92
    chosen = next(trial for trial in tuned.trials if trial.spec == tuned.spec)
    for trial in tuned.trials:
        assert trial is chosen or trial.verdict, f"{trial} was not taken, and nothing says why"
        assert trial.recall < 0.95 or trial.microseconds >= chosen.microseconds
    assert str(tuned).count("\n") == len(tuned.trials) + 1


def test_few_at_first_then_all(monkeypatch):
    monkeypatch.setattr(tuning, "FIRST", 300)
    rows = vectors(1, 4000, 24)
    tuned = lt.indexes.tune(rows, recall=0.9, specs=["flat", "fqg", "lsh(tables=1, bits=12)"])
    sizes = [trial.rows for trial in tuned.trials]
    assert sizes[:3] == [950] * 3 and sizes[-1] == 3800
    assert "over 3,800 rows" in tuned.why
    # one table of so narrow buckets turns its dial as far as it goes
    assert any("nprobe=" in trial.spec for trial in tuned.trials)


def test_a_budget_that_is_spent(monkeypatch):
    monkeypatch.setattr(tuning, "FIRST", 300)
    tuned = lt.indexes.tune(vectors(1, 4000, 24), budget=1e-6, specs=["flat", "fqg"])
    assert tuned.spec == "flat" and "Measured over 950 of 3,800 rows" in tuned.why and "budget of 1e-06 s" in tuned.why
    assert [trial.verdict.split(":")[0] for trial in tuned.trials][1] == "not begun"


def test_memory_leaves_what_reads_from_files():
    rows = datasets.debian().embeddings[:3000]
    tuned = lt.indexes.tune(rows, metric="cosine", memory=rows.nbytes // 3, specs=["flat", "fqg", "diskann"])
    assert tuned.spec.startswith("diskann(") and "MiB" in tuned.why
    assert all("are over the" in trial.verdict for trial in tuned.trials if not trial.spec.startswith("diskann"))
    none = lt.indexes.tune(rows, metric="cosine", memory=1000, specs=["flat", "gwi"])
    assert "comes nearest" in none.why


class Half(Flat):
    """Sees every other row."""

    name = "half"

    def _near(self, queries, k, mask, **params):
        return super()._near(queries, k, (np.arange(len(self._vectors)) % 2).astype(np.uint8), **params)


def test_own_queries_and_a_recall_out_of_reach(monkeypatch):
    monkeypatch.setitem(lt.indexes.REGISTRY._factories, "half", Half)
    rows, queries = vectors(1, 1500, 16), vectors(9, 40, 16) * 5
    tuned = lt.indexes.tune(rows, recall=0.9, queries=queries, specs=["half"])
    assert "comes nearest" in tuned.why and tuned.trials[0].rows == 1500
    assert 0.4 < tuned.trials[0].recall < 0.6 and "at most" in tuned.trials[0].verdict
    both = lt.indexes.tune(rows, recall=0.9, queries=queries, specs=["half", "flat"])
    assert both.spec == "flat" and both.trials[0].recall == tuned.trials[0].recall


def test_what_cannot_be_used_says_so():
    tuned = lt.indexes.tune(vectors(1, 600, 16), metric="l1", specs=["fqg(quant=int4)", "flat"])
    assert tuned.spec == "flat" and "cannot be used: fqg: int4 codes" in str(tuned)
    expect(InvalidArgumentError, "none of the candidates", lambda: lt.indexes.tune(vectors(1, 600, 16), metric="l1", specs=["fqg(quant=int4)"]))
    expect(InvalidArgumentError, "none of the candidates", lambda: lt.indexes.tune(vectors(1, 60, 16), specs=["fqgg"]))


@pytest.mark.parametrize("n", [2, 5, 60])
def test_few_rows(n):
    tuned = lt.indexes.tune(vectors(1, n, 8))
    assert tuned.trials and tuned.create(8).search(np.zeros(8), 1)[0][0] == -1


def test_arguments():
    rows = vectors(1, 100, 8)
    for wrong in ({"recall": 0}, {"recall": 2}, {"budget": 0}, {"budget": "much"}, {"k": 0}, {"queries": np.empty((0, 8))}):
        expect(InvalidArgumentError, next(iter(wrong)), lambda wrong=wrong: lt.indexes.tune(rows, **wrong))
    expect(InvalidArgumentError, "(n, dim)", lambda: lt.indexes.tune(rows[0]))
    expect(SchemaError, "(n, 8)", lambda: lt.indexes.tune(rows, queries=np.zeros((3, 7))))
    expect(SchemaError, "NaN", lambda: lt.indexes.tune(np.full((9, 2), np.nan)))
    expect(UnknownNameError, "cosine", lambda: lt.indexes.tune(rows, metric="cosin"))
