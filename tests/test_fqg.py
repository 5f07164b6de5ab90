"""The flat quantized graph beyond what every index must do."""

from __future__ import annotations

import numpy as np
import pytest

import lsmtensor as lt
from lsmtensor import kernels
from lsmtensor.bench import datasets
from lsmtensor.errors import CorruptionError, InvalidArgumentError
from lsmtensor.indexes import carry
from lsmtensor.indexes import fqg as module
from lsmtensor.testing.indexes import expect, recall, true_distances, vectors

BACKENDS = [name for name, how in kernels.available().items() if not how.startswith("unavailable")]


def made(rows: np.ndarray, spec: str = "fqg", metric: str = "l2", **rest) -> module.FQG:
    index = lt.indexes.create(spec, dim=rows.shape[1], metric=metric, **rest)
    index.add(rows)
    return index


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip", "l1", "hamming"])
def test_every_backend_builds_one_graph(metric):
    """Distances between codes are whole numbers: links agree to the bit, whatever computes and on how many threads."""
    rows = vectors(1, 300, 20, clusters=5)
    graphs = [made(rows, "fqg(degree=8, ef_construction=12)", metric, kernel=b, threads=t)._links.array for b in BACKENDS for t in (1, 2)]
    assert all(np.array_equal(graphs[0], g) for g in graphs[1:])


def test_golden_graph():
    """Bytes on disk are a promise: a change of this digest is a new version of the format."""
    rows = np.round(vectors(7, 400, 16) * 50)
    from blake3 import blake3

    assert blake3(made(rows)._links.array.tobytes()).hexdigest()[:16] == GOLDEN


GOLDEN = "b6b977003f4def7e"


def test_real_embeddings_at_the_defaults():
    rows = datasets.debian().embeddings
    base, queries = np.ascontiguousarray(rows[200:]), rows[:200]
    index = made(base, metric="cosine")
    truth = true_distances(queries, base, "cosine")
    assert index.stats()["quant"] == "int4"
    assert recall(index.search(queries, 10)[1], truth, 10) >= 0.98
    assert recall(index.search(queries, 10, ef=800)[1], truth, 10) >= 0.999, "recall does not come near 1 however wide the beam"
    one = [index.search(q, 10) for q in queries]
    many = index.search(queries, 10)
    assert np.array_equal(np.array([i for i, _ in one]), many[0]) and np.array_equal(np.array([d for _, d in one]), many[1])
    for share in (0.005, 0.05, 0.3, 0.8):
        mask = np.random.default_rng(1).random(len(base)) < share
        got = recall(index.search(queries, 10, filter=mask)[1], truth[:, mask], 10)
        assert got >= 0.97, f"recall {got} where {share} match"


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_every_row_is_reached(metric):
    index = made(vectors(3, 3000, 16, clusters=40), metric=metric)
    links = index._links.array
    reached = np.zeros(len(links), bool)
    carry.spread(links, index._begins(), reached)
    assert reached.all()
    for i, row in enumerate(links):
        near = row[row != module.NONE].tolist()
        assert i not in near and len(set(near)) == len(near)


def test_rows_unlike_those_before_are_found():
    """A grid learned from small values does not hold large ones: it is learned again."""
    rows = vectors(1, 600, 16)
    index = made(rows[:300])
    step = index._coded.grid.step
    index.add(rows[300:] * 4 + 10)
    assert index._coded.grid.step > 3 * step
    every = np.concatenate([rows[:300], rows[300:] * 4 + 10])
    assert recall(index.search(every[280:320], 10)[1], true_distances(every[280:320], every, "l2"), 10) > 0.95


def test_rows_one_by_one_as_good_as_at_once():
    rows, queries = vectors(1, 900, 24, 9), vectors(2, 50, 24, 9)
    index = made(rows[:400])
    for row in rows[400:]:
        index.add(row)
    assert recall(index.search(queries, 10)[1], true_distances(queries, rows, "l2"), 10) > 0.97


def test_interrupted_builds_keep_the_first_rows(monkeypatch):
    rows = vectors(1, 1200, 16)
    index = lt.indexes.create("fqg", dim=16)
    calls, run = [], index._kernels.code_reverse

    class Broken:
        def __getattr__(self, name):
            return getattr(kernels.choose(), name) if name != "code_reverse" else self.reverse

        def reverse(self, *args):
            calls.append(args)
            if len(calls) == 50:
                raise KeyboardInterrupt
            return run(*args)

    index._kernels = Broken()
    with pytest.raises(KeyboardInterrupt):
        index.add(rows)
    n = len(index)
    assert 0 < n < 1200
    assert (index._links.array[index._links.array != module.NONE] < n).all()
    ids, distances = index.search(rows[:20], 5)
    assert (ids < n).all() and recall(distances, true_distances(rows[:20], rows[:n], "l2"), 5) > 0.9
    index.add(rows[n:])
    assert len(index) == 1200 and recall(index.search(rows[:50], 10)[1], true_distances(rows[:50], rows, "l2"), 10) > 0.95


def test_wrong_settings_are_refused():
    for spec, part in (("fqg(degree=2)", "degree=2"), ("fqg(quant=pq)", "quant='pq'"), ("fqg(passes=0)", "passes=0"), ("fqg(ef=0)", "ef=0")):
        expect(InvalidArgumentError, part, lambda spec=spec: lt.indexes.create(spec, dim=4))
    expect(InvalidArgumentError, "l1", lambda: lt.indexes.create("fqg(quant=int4)", dim=4, metric="l1"))
    expect(InvalidArgumentError, "32768", lambda: lt.indexes.create("fqg", dim=40000))
    index = made(vectors(1, 300, 8))
    for params in ({"ef": 0}, {"ef": 2.5}, {"rerank": -1}, {"ef": True}):
        expect(InvalidArgumentError, next(iter(params)), lambda params=params: index.search(np.zeros(8, np.float32), 3, **params))


def test_files_that_lie_are_refused():
    index = made(vectors(1, 300, 8))
    header, arrays = index.to_sections(include_vectors=True)
    for name, change in (
        ("links", lambda a: np.where(a == a[0, 0], 300, a)), ("codes", lambda a: a[:, :32]), ("step", lambda a: a * 0), ("mean", lambda a: a * np.nan),
        ("squares", lambda a: a[1:]),
    ):  # fmt: skip
        expect(CorruptionError, "", lambda name=name, change=change: lt.indexes.from_sections(header, {**arrays, name: change(arrays[name])}))
    expect(CorruptionError, "no codes", lambda: lt.indexes.from_sections(header, {"vectors": arrays["vectors"]}))
