"""Where a new graph begins: leaves by leaders, all of a leaf compared."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lsmtensor import indexes, kernels
from lsmtensor.indexes import leaves
from lsmtensor.indexes.carry import NONE
from lsmtensor.indexes.leaves import Leaves


def coded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes = np.full((len(rows), 64), 128, np.uint8)
    codes[:, : rows.shape[1]] = np.clip(128 + rows, 0, 255)
    values = codes.astype(np.int32) - 128
    return codes, np.stack([(values**2).sum(1), values.sum(1)], 1).astype(np.int32)


def linked(rows: np.ndarray, threads: int = 1, backend: str = "cython") -> tuple[np.ndarray, np.ndarray, float]:
    codes, sums = coded(rows)
    links, told = np.full((len(rows), 12), NONE, np.uint32), [0.0]

    def tell(n: float) -> None:
        told[0] += n

    order = Leaves(codes, sums, 0, 5, threads, kernels.choose(backend), tell).link(links, 8, 256)
    return links, order, told[0]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "LEAF", 24)
    monkeypatch.setattr(leaves, "NEAR", 6)
    monkeypatch.setattr(leaves, "STEP", 100)


def test_rows_are_linked_with_near_ones_and_told_once() -> None:
    rows = np.random.default_rng(0).integers(-60, 60, (700, 6))
    links, order, told = linked(rows)
    assert sorted(order.tolist()) == list(range(700)) and told == pytest.approx(700)
    far = ((rows[:, None] - rows[None]) ** 2).sum(2)
    first = np.argsort(far + np.eye(700, dtype=int) * 10**6, axis=1)[:, 0]
    assert np.mean([first[i] in links[i] for i in range(700)]) > 0.8
    for i, row in enumerate(links):
        near = row[row != NONE].tolist()
        assert near and i not in near and len(set(near)) == len(near)
    # neighbours in the order share a leaf: they are nearer than any two
    assert np.mean([far[a, b] for a, b in pairwise(order)]) < 0.6 * far.mean()


@pytest.mark.parametrize("other", [(3, "cython"), (1, "numpy"), (2, "numba")])
def test_threads_and_backends_agree(other: tuple[int, str]) -> None:
    if other[1] not in kernels.available():
        pytest.skip(f"{other[1]} is not installed")
    rows = np.random.default_rng(1).integers(-60, 60, (300, 4))
    for a, b in zip(linked(rows), linked(rows, *other), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("rows", [np.zeros((900, 3), int), np.repeat([[0, 0, 0], [50, 0, 0]], [880, 20], axis=0)])
def test_rows_that_nothing_tells_apart_are_cut(rows: np.ndarray) -> None:
    links, order, told = linked(rows)
    assert (links != NONE).any(1).all() and told == pytest.approx(len(rows)) and len(np.unique(order)) == len(rows)


def test_an_index_of_many_rows_begins_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    link = Leaves.link
    monkeypatch.setattr(Leaves, "link", lambda self, *args: (calls.append(self.n), link(self, *args))[1])
    rows = np.random.default_rng(2).standard_normal((5000, 8)).astype(np.float32)
    for spec in ("fqg", "hnsw"):
        digests = set()
        for threads in (1, 3):
            index = indexes.create(spec, dim=8, threads=threads)
            index.add(rows)
            digests.add(index.digest())
        assert len(digests) == 1
        exact = np.argsort(((rows[:50, None] - rows[None]) ** 2).sum(2), axis=1)[:, :10]
        found = index.search(rows[:50], 10, ef=64)[0]
        assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]) > 9.8
    assert calls == [5000] * 4
    index.add(rows[:1000] + 1)
    assert calls == [5000] * 4
