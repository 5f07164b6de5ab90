"""What every vector index must do, for any registry name, by any test runner.

::

    @pytest.mark.parametrize("check", indexes.CHECKS, ids=lambda c: c.__name__)
    def test_mine(check):
        check(lambda dim, metric="l2": lsmtensor.indexes.create("mine", dim=dim, metric=metric))

A check raises AssertionError; the truth is a float64 distance to every row.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import container, indexes
from ..errors import CorruptionError, DuplicateKeyError, InvalidArgumentError, KeyNotFoundError, SchemaError, UnknownNameError
from ..indexes import carry
from .indexes_rows import check_budget, check_dtypes, check_progress, check_unlike_rows
from .truth import METRICS, Make, expect, recall, sound, true_distances, vectors


def check_finds_the_nearest(make: Make) -> None:
    """Recall at the default parameters, and distances that are those of the rows."""
    for metric in METRICS:
        for clusters in (0, 20):
            rows, queries = vectors(1, 1500, 24, clusters), vectors(2, 40, 24, clusters)
            if metric == "hamming":
                rows, queries = np.sign(rows).clip(0), np.sign(queries).clip(0)
            index = make(24, metric)
            index.train(rows)
            index.add(rows[:1000])
            index.add(rows[1000:])
            ids, distances = index.search(queries, k=10)
            sound(ids, distances)
            truth = true_distances(queries, rows, metric)
            assert np.allclose(distances, np.take_along_axis(truth, ids, 1), rtol=1e-4, atol=1e-4)
            got = recall(distances, truth, 10)
            assert got >= index.recall_floor, f"recall {got} with {metric}, {clusters} clusters"


def check_shapes(make: Make) -> None:
    index = make(5)
    rows = vectors(1, 30, 5)
    index.add(rows)
    assert len(index) == 30 and index.dim == 5 and index.metric == "l2"
    many, one = index.search(rows[:3], k=4), index.search(rows[1], k=4)
    assert many[0].shape == many[1].shape == (3, 4) and one[0].shape == one[1].shape == (4,)
    assert np.array_equal(one[0], many[0][1]) and np.array_equal(one[1], many[1][1])
    assert index.search(rows[0], k=0)[0].shape == (0,)
    assert index.search(np.empty((0, 5)), k=3)[0].shape == (0, 3)
    ids, distances = index.search(rows[:2], k=50)
    sound(ids, distances)
    assert (np.sort(ids[:, :30]) == np.arange(30)).all() and (ids[:, 30:] == -1).all()
    for kind in (np.float16, np.float64, np.int32):
        whole = np.asfortranarray(np.round(rows[:3] * 4).astype(kind))
        assert np.array_equal(index.search(whole, k=4)[0], index.search(np.round(rows[:3] * 4), k=4)[0])


def check_empty_and_small(make: Make) -> None:
    index = make(3)
    for _ in range(2):
        ids, distances = index.search(np.zeros((2, 3)), k=4)
        assert (ids == -1).all() and np.isinf(distances).all() and len(index) == 0
        assert index.search(np.zeros(3), k=1, filter=np.empty(0, np.int64))[0].tolist() == [-1]
        index.add(np.empty((0, 3)))
        index.consolidate()
    index.add([1, 2, 3])
    assert index.search([1, 2, 3], k=2)[0].tolist() == [0, -1]
    index.add([1, 2, 4])
    assert index.search([1, 2, 5], k=2)[0].tolist() == [1, 0]


def check_odd_data(make: Make) -> None:
    """Equal rows, duplicates, one dimension, zero vectors: k answers, and the nearest."""
    for metric in METRICS:
        for rows in (
            np.ones((200, 6), np.float32),
            np.zeros((50, 6), np.float32),
            np.repeat(vectors(1, 8, 6), 60, axis=0),
            vectors(3, 300, 1),
            np.concatenate([np.zeros((70, 6), np.float32), vectors(4, 70, 6)]),
        ):
            index = make(rows.shape[1], metric)
            index.add(rows)
            queries = vectors(5, 5, rows.shape[1])
            for k in (1, 10, len(rows)):
                ids, distances = index.search(queries, k=k)
                sound(ids, distances)
                assert (ids >= 0).all(), f"only {(ids >= 0).sum(1)} of {k} found with {metric}"
            truth = np.sort(true_distances(queries, rows, metric), 1)
            assert np.allclose(distances, truth, rtol=1e-4, atol=1e-4)


def check_ids(make: Make) -> None:
    rows = vectors(1, 40, 4)
    index = make(4)
    index.add(rows[:10], ids=np.arange(100, 110))
    index.add(rows[10:12])
    index.add(rows[12], ids=7)
    index.add(rows[13])
    assert [index.search(rows[i], k=1)[0][0] for i in (0, 9, 10, 11, 12, 13)] == [100, 109, 110, 111, 7, 112]
    assert np.array_equal(index.reconstruct(111), rows[11])
    before = index.digest()
    expect(KeyNotFoundError, "5", lambda: index.reconstruct(5))
    expect(DuplicateKeyError, "109 is there already", lambda: index.add(rows[20:22], ids=[1, 109]))
    expect(DuplicateKeyError, "3 is given twice", lambda: index.add(rows[20:22], ids=[3, 3]))
    for wrong in ([1], [1.0, 2.0], [-1, 2], [1, 2**64 - 1], [[1, 2]]):
        expect(InvalidArgumentError, "2 rows", partial(index.add, rows[20:22], wrong))
    assert index.digest() == before and len(index) == 14


def check_wrong_input_is_refused(make: Make) -> None:
    """And nothing of it is kept."""
    index, rows = make(4), vectors(1, 20, 4)
    index.add(rows)
    before = index.digest()
    bad = rows.copy()
    bad[13, 2] = np.nan
    far = rows.copy()
    far[2, 1] = np.inf
    expect(SchemaError, "row 13", lambda: index.add(bad))
    expect(SchemaError, "row 2", lambda: index.add(far))
    expect(SchemaError, "row 13", lambda: index.search(bad))
    expect(SchemaError, "(n, 4)", lambda: index.add(np.zeros((2, 5))))
    expect(SchemaError, "(n, 4)", lambda: index.search(np.zeros(3)))
    expect(SchemaError, "dtype", lambda: index.add([["a", "b", "c", "d"]]))
    expect(SchemaError, "dtype", lambda: index.add(np.zeros((1, 4), complex)))
    expect(InvalidArgumentError, "k=-1", lambda: index.search(rows[0], k=-1))
    expect(UnknownNameError, "no search parameter 'probes'", lambda: index.search(rows[0], probes=3))
    expect(InvalidArgumentError, "(20,)", lambda: index.search(rows[0], filter=np.ones(19, bool)))
    expect(InvalidArgumentError, "dtype", lambda: index.search(rows[0], filter=np.ones(20)))
    expect(UnknownNameError, "did you mean 'cosine'", lambda: make(4, "cosin"))
    expect(InvalidArgumentError, "dim=0", lambda: make(0))
    assert index.digest() == before and len(index) == 20


def check_filters(make: Make) -> None:
    """At every selectivity, also where the matches lie far from the query."""
    rows, queries = vectors(1, 1500, 16, 10), vectors(2, 20, 16, 10)
    index = make(16)
    index.add(rows)
    luck = np.random.default_rng(3)
    masks = [luck.random(1500) < share for share in (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)]
    masks += [rows[:, 0] > np.quantile(rows[:, 0], 0.6), rows[:, 0] < np.quantile(rows[:, 0], 0.3)]
    for mask in masks:
        ids, distances = index.search(queries, k=10, filter=mask)
        sound(ids, distances)
        assert mask[ids[ids >= 0]].all(), "an answer that the filter does not allow"
        assert ((ids >= 0).sum(1) == min(10, mask.sum())).all()
        if mask.sum() >= 10:
            got = recall(distances, true_distances(queries, rows[mask], "l2"), 10)
            assert got >= index.recall_floor, f"recall {got} where {mask.mean():.3f} match"
        by_ids = index.search(queries, k=10, filter=np.flatnonzero(mask))
        assert np.array_equal(by_ids[0], ids) and np.array_equal(by_ids[1], distances)
        assert np.array_equal(index.search(queries, k=10, filter=mask.view(np.uint8))[0], ids)


def check_removal(make: Make) -> None:
    """Removed rows never come back: at once, after more of them, a rebuild, an update, a save."""
    rows = vectors(1, 800, 8)
    index = make(8)
    index.add(rows)
    gone = np.arange(0, 100, 7)
    assert index.remove([*gone, 5000, -3, 0]) == len(gone) and index.remove(gone) == 0
    assert len(index) == 800 - len(gone)
    expect(KeyNotFoundError, "7", lambda: index.reconstruct(7))
    ids, _ = index.search(rows[gone], k=20)
    assert not np.isin(ids, gone).any() and (ids >= 0).all()
    assert not np.isin(index.search(rows[gone], k=20, filter=np.arange(50))[0], gone).any()
    assert index.search(rows[8], k=1)[0][0] == 8
    index.remove(np.arange(100, 600))
    left = np.setdiff1d(np.arange(800), [*gone, *range(100, 600)])
    ids, distances = index.search(rows[:50], k=10)
    sound(ids, distances)
    assert np.isin(ids, left).all() and len(index) == len(left)
    got = recall(distances, true_distances(rows[:50], rows[left], "l2"), 10)
    assert got >= index.recall_floor, f"recall {got} after a rebuild"
    index.update(rows[[0, 7]] + 9, ids=[8, 900])
    assert index.search(rows[0] + 9, k=1)[0][0] == 8 and index.search(rows[7] + 9, k=1)[0][0] == 900
    assert np.array_equal(index.reconstruct(8), rows[0] + 9) and len(index) == len(left) + 1
    index.remove(900)
    index.add(rows[7])
    assert index.search(rows[7], k=1)[0][0] == 901, "an id was given again"
    index.remove(np.arange(1000))
    assert len(index) == 0 and index.search(rows[0], k=1)[0][0] == -1
    index.add(rows[:3], ids=[1, 2, 3])
    assert index.search(rows[0], k=1)[0][0] == 1


def check_same_calls_same_bytes(make: Make) -> None:
    rows = vectors(1, 400, 8)
    made = []
    for threads in (1, 1, 3):
        index = make(8, "cosine")
        index.threads = threads
        index.add(rows[:250])
        index.add(rows[250:])
        made.append((index.digest(), *index.search(rows[:30] + 0.1, k=5)))
    assert made[0][0] == made[1][0] == made[2][0], "the digest depends on more than the calls"
    assert all(np.array_equal(a, b) for other in made[1:] for a, b in zip(made[0][1:], other[1:], strict=True))


def check_save_and_load(make: Make) -> None:
    rows = vectors(1, 300, 8)
    with tempfile.TemporaryDirectory() as folder:
        for number, metric in enumerate(METRICS):
            index = make(8, metric)
            path = os.path.join(folder, f"{metric}.index")
            index.save(path)
            assert len(indexes.load(path)) == 0
            # trained, and empty
            index.train(rows)
            index.save(path)
            trained = indexes.load(path, kernel=index.stats()["backend"])
            for one in (index, trained):
                one.add(rows, ids=np.arange(300) + 7)
            assert trained.digest() == index.digest() and len(trained) == 300
            index = make(8, metric)
            index.add(rows, ids=None if number % 2 else np.arange(300) * 3)
            index.remove([3, 6])
            index.save(path)
            again = indexes.load(path, kernel=index.stats()["backend"])
            assert again.digest() == index.digest() and type(again) is type(index) and len(again) == 298
            assert again.stats() == index.stats() and again.spec == index.spec and again.metric == metric
            for a, b in zip(index.search(rows[:20], k=5), again.search(rows[:20], k=5), strict=True):
                assert np.array_equal(a, b)
            for one in (index, again):
                one.add(rows[:9] + 1)
                one.remove([9, 12])
            assert again.digest() == index.digest(), "they part after more calls"
        assert len(os.listdir(folder)) == len(METRICS), "something was left beside the files"


def check_segments(make: Make) -> None:
    """Sections without vectors, beside the rows themselves, answer as the whole."""
    rows, queries = vectors(1, 500, 12), vectors(2, 10, 12)
    rows[17] = 0
    rows.flags.writeable = False
    for metric in METRICS:
        index = make(12, metric)
        index.add(rows, copy=False)
        header, arrays = index.to_sections()
        header = json.loads(json.dumps(header))
        assert "vectors" not in arrays and "ids" not in arrays
        data = b"".join(bytes(b) for b in container.pack(header, arrays))
        header, arrays = container.unpack(data)
        segment = indexes.from_sections(header, arrays, vectors=rows)
        for a, b in zip(index.search(queries, k=7), segment.search(queries, k=7), strict=True):
            assert np.array_equal(a, b)
        expect(InvalidArgumentError, "500 rows", partial(indexes.from_sections, header, arrays, vectors=rows[1:]))
        expect(InvalidArgumentError, "500 rows", partial(indexes.from_sections, header, arrays))


def check_damage_is_found(make: Make) -> None:
    """A file cut or flipped anywhere is `CorruptionError`; never another answer."""
    index = make(3)
    index.add(vectors(1, 40, 3))
    data = b"".join(bytes(b) for b in container.pack(*index.to_sections(include_vectors=True)))
    luck = np.random.default_rng(1)
    for at in {*range(0, 64), *luck.integers(0, len(data), 300).tolist()}:
        bad = bytearray(data)
        bad[at] ^= 1 << int(luck.integers(8))
        for piece in (bytes(bad), data[:at], data + b"\0" * (at + 1)):
            expect(CorruptionError, "", partial(container.unpack, piece, where="x"))


def check_merge(make: Make) -> None:
    rows = vectors(1, 300, 6)
    one, two = make(6), make(6)
    one.add(rows[:150])
    one.remove(5)
    two.add(rows[150:], ids=np.arange(1000, 1150))
    two.remove(1001)
    one.merge(two)
    assert len(one) == 298 and len(two) == 149
    assert one.search(rows[150], k=1)[0][0] == 1000 and one.search(rows[0], k=1)[0][0] == 0
    expect(DuplicateKeyError, "already", lambda: one.merge(two))
    expect(InvalidArgumentError, "merging", lambda: one.merge(make(7)))
    expect(InvalidArgumentError, "merging", lambda: one.merge(make(6, "ip")))


def check_carried(make: Make) -> None:
    """An index of merged rows, of what two indexes of some of them worked out: as good as one built, whole, and it takes more rows."""
    rows, queries = vectors(1, 900, 12), vectors(2, 20, 12)
    for metric in METRICS:
        first, second = make(12, metric), make(12, metric)
        first.add(rows[:700:2], copy=False)
        header, arrays = first.to_sections()
        arrays = {name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in arrays.items()}
        first = indexes.from_sections(header, arrays, vectors=np.ascontiguousarray(rows[:700:2]))
        second.add(rows[1:101:2], copy=False)
        chosen = np.sort(np.random.default_rng(3).permutation(800)[:600])
        mine = np.where((chosen < 700) & (chosen % 2 == 0), chosen // 2, -1)
        theirs = np.where((chosen < 101) & (chosen % 2 == 1), chosen // 2, -1)
        merged = np.ascontiguousarray(rows[chosen])
        made = carry.carried([(second, theirs), (first, mine)], merged)
        if made is None:
            continue
        assert len(made) == 600 and np.array_equal(made.reconstruct(17), merged[17])
        fresh = make(12, metric)
        fresh.add(merged)
        true = true_distances(queries, merged, metric)
        ours, built = (recall(i.search(queries, k=10)[1], true, 10) for i in (made, fresh))
        assert ours >= built - 0.06, f"{metric}: recall {ours}, {built} when built"
        header, arrays = made.to_sections()
        again = indexes.from_sections(json.loads(json.dumps(header)), dict(arrays), vectors=merged)
        assert np.array_equal(again.search(queries, k=5)[0], made.search(queries, k=5)[0])
        made.add(rows[800:])
        assert metric not in ("l2", "cosine") or made.search(rows[850], k=1)[0][0] == 650
        made.remove(3)
        assert 3 not in made.search(merged[3], k=5)[0]


def check_recall_asked_for(make: Make) -> None:
    """``recall=`` turns the dial, by a calibration that is saved and does not change the digest."""
    rows, queries = vectors(1, 2500, 24), vectors(2, 60, 24)
    index = make(24)
    index.add(rows)
    before = index.digest()
    curve = index.calibrate()
    assert index.digest() == before and index.calibrate() is curve
    truth = true_distances(queries, rows, "l2")
    for wanted in (0.5, 0.9, 0.99):
        ids, distances = index.search(queries, k=10, recall=wanted)
        sound(ids, distances)
        reachable = max([got for _, got in curve], default=1.0)
        assert recall(distances, truth, 10) >= min(wanted, reachable) - 0.06, f"recall={wanted} was asked for"
    if index.dial is not None:
        assert [value for value, _ in curve] == sorted({value for value, _ in curve}) and curve[-1][1] >= index.recall_floor
        expect(InvalidArgumentError, "give one of them", lambda: index.search(queries, recall=0.9, **{str(index.dial): 8}))
    wrongs: tuple[Any, ...] = (0, 1.1, -0.5, "much", True)
    for wrong in wrongs:
        expect(InvalidArgumentError, "recall=", partial(index.search, queries, recall=wrong))
    with tempfile.TemporaryDirectory() as folder:
        index.save(os.path.join(folder, "x"))
        assert indexes.load(os.path.join(folder, "x")).calibrate() == curve
    assert make(24).search(queries[0], k=1, recall=0.9)[0][0] == -1


def check_radius(make: Make) -> None:
    """All within a distance, for several queries at once, with a filter, and none."""
    rows, queries = vectors(1, 1200, 8), vectors(2, 12, 8)
    for metric in ("l2", "cosine", "ip"):
        index = make(8, metric)
        index.add(rows, ids=np.arange(1200) + 5000)
        truth = true_distances(queries, rows, metric)
        for share in (0.0, 0.002, 0.1, 1.0):
            radius = float(np.quantile(truth, share)) + (1e-3 if share == 1 else -1e-3 if share == 0 else 0)
            starts, ids, distances = index.search_radius(queries, radius)
            assert starts.shape == (13,) and starts[0] == 0 and starts[-1] == len(ids) == len(distances)
            assert (distances <= radius).all() and np.allclose(distances, truth[np.repeat(np.arange(12), np.diff(starts)), ids - 5000], atol=1e-4)
            there = (truth <= radius).sum()
            assert len(ids) >= index.recall_floor * there - 2, f"{len(ids)} of {there} within {radius} by {metric}"
            assert share < 1 or len(ids) == 12 * 1200
        one = index.search_radius(queries[0], float(np.median(truth)), filter=np.arange(5100, 5200))
        assert len(one[0]) == 2 and len(one[1]) and np.isin(one[1], np.arange(5100, 5200)).all()
        assert index.search_radius(np.empty((0, 8)), 1.0)[0].tolist() == [0]
        expect(InvalidArgumentError, "radius", partial(index.search_radius, queries, float("nan")))
    assert make(8).search_radius(queries[0], 1.0)[0].tolist() == [0, 0]


def check_iterator(make: Make) -> None:
    """Every row once, farther and farther, until there are no more."""
    rows, query = vectors(1, 700, 8), vectors(2, 1, 8)[0]
    index = make(8)
    index.add(rows)
    index.remove([3, 5])
    batches = list(index.search_iterator(query, batch_size=50))
    ids, distances = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert sorted(ids.tolist()) == sorted(set(range(700)) - {3, 5})
    assert all(len(part) == 50 for part, _ in batches[:-1])
    order = np.sort(true_distances(query[None], rows[np.sort(ids)], "l2")[0])
    assert np.mean(np.abs(distances - order) <= 0.02 * order[-1]) >= index.recall_floor, "not farther and farther"
    allowed = np.arange(0, 700, 9)
    some = np.concatenate([part for part, _ in index.search_iterator(query, 20, filter=allowed)])
    assert sorted(some.tolist()) == sorted(set(allowed.tolist()) - {3, 5})
    assert list(make(8).search_iterator(query)) == []
    expect(InvalidArgumentError, "batch_size=0", lambda: index.search_iterator(query, 0))
    expect(InvalidArgumentError, "answers one", lambda: index.search_iterator(rows[:2]))


def check_trained_before_rows(make: Make) -> None:
    """What was learned from a sample is saved without rows, and with few."""
    sample, rows = vectors(1, 300, 12), vectors(2, 400, 12)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x")
        for metric in METRICS:
            index = make(12, metric)
            index.train(sample)
            for part in (rows[:0], rows[:5], rows[5:]):
                index.add(part)
                index.save(path)
                again = indexes.load(path, kernel=index.stats()["backend"])
                assert again.digest() == index.digest() and len(again) == len(index)
                assert np.array_equal(again.search(rows[:3], k=4)[1], index.search(rows[:3], k=4)[1])
            again.add(sample)
            index.add(sample)
            assert again.digest() == index.digest(), f"they part after more rows with {metric}"


CHECKS: tuple[Callable[[Make], None], ...] = (
    check_finds_the_nearest,
    check_shapes,
    check_empty_and_small,
    check_odd_data,
    check_ids,
    check_wrong_input_is_refused,
    check_filters,
    check_removal,
    check_same_calls_same_bytes,
    check_save_and_load,
    check_segments,
    check_damage_is_found,
    check_merge,
    check_carried,
    check_recall_asked_for,
    check_radius,
    check_iterator,
    check_trained_before_rows,
    check_dtypes,
    check_budget,
    check_progress,
    check_unlike_rows,
)

__all__ = ["CHECKS", "METRICS", "Make", "expect", "recall", "sound", "true_distances", "vectors"]
