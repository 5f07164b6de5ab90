"""What every kernel of every backend must do. A new kernel joins by a generator of arguments in ``ARGUMENTS``.

Where rounding is allowed the reference is computed here in float64; elsewhere the contract's own body is the
reference and results must be equal to the bit. Arguments that a kernel changes are compared like results.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..kernels import Kernels
from ..kernels.contract import COSINE, HAMMING, IP, KERNELS, L1, L2
from . import kernels_codes

Args = tuple[Any, ...]
SHAPES = [(1, 1, 1), (1, 5, 3), (3, 4, 16), (2, 7, 17), (5, 9, 31), (4, 3, 64), (9, 33, 100), (6, 50, 384), (2, 3, 769)]
EMPTY = [(0, 4, 8), (3, 0, 8), (0, 0, 5)]


def distances64(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    """float64 (q, n): the distances by their definitions."""
    a, b = queries.astype(np.float64)[:, None, :], points.astype(np.float64)[None, :, :]
    if metric == L2:
        return ((a - b) ** 2).sum(2)
    if metric == L1:
        return np.abs(a - b).sum(2)
    if metric == HAMMING:
        return (a != b).sum(2).astype(np.float64)
    dots = (a * b).sum(2)
    if metric == IP:
        return -dots
    norms = np.sqrt((a**2).sum(2)) * np.sqrt((b**2).sum(2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms == 0, 1.0, 1 - dots / norms)


def _rows(rng: np.random.Generator, n: int, d: int, metric: int) -> np.ndarray:
    rows = rng.normal(size=(n, d)).astype(np.float32)
    if metric == HAMMING:
        rows = np.round(rows)
    if n > 3:
        rows[1] = rows[0]  # ties
        rows[2] = 0
    return rows


def _views(x: np.ndarray) -> Iterator[np.ndarray]:
    """The same values in memory that is less convenient."""
    yield x
    wide = np.zeros((*x.shape[:-1], x.shape[-1] * 2), x.dtype)
    wide[..., ::2] = x
    yield wide[..., ::2]
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = np.ndarray(x.shape, x.dtype, raw[1:].data)
    odd[...] = x
    yield odd
    fixed = x.copy()
    fixed.flags.writeable = False
    yield fixed


def _pairwise(rng: np.random.Generator) -> Iterator[Args]:
    for metric in (L2, IP, COSINE, L1, HAMMING):
        for q, n, d in SHAPES + EMPTY:
            yield _rows(rng, q, d, metric), _rows(rng, n, d, metric), metric
        for view in _views(_rows(rng, 5, 20, metric)):
            yield view, view, metric


def _gathered(rng: np.random.Generator) -> Iterator[Args]:
    for metric in (L2, IP, COSINE, L1, HAMMING):
        for _, n, d in SHAPES:
            points = _rows(rng, n, d, metric)
            for m in (0, 1, 3, 8, 50):
                yield _rows(rng, 1, d, metric)[0], points, rng.integers(0, n, m), metric


def _topk(rng: np.random.Generator) -> Iterator[Args]:
    for queries, points, metric in _pairwise(rng):
        n = len(points)
        for k in (1, 4, n + 3):
            yield queries, points, k, metric, None
            yield queries, points, k, metric, (rng.random(n) < 0.5).astype(np.uint8)
        yield queries, points, 2, metric, np.zeros(n, np.uint8)
    points = _rows(rng, 40, 24, L2)
    points[5], points[9] = np.nan, np.inf
    yield _rows(rng, 6, 24, L2), points, 12, L2, None
    far = (rng.normal(size=(300, 8)) * 1e3 + 1e6).astype(np.float32)  # a large offset: differences cancel
    yield far[:9] + 1, far, 5, L2, None


def _assign(rng: np.random.Generator) -> Iterator[Args]:
    for _, n, d in SHAPES:
        for k in (1, 3, 64, 100):
            yield _rows(rng, n, d, L2), rng.normal(size=(k, d)).astype(np.float32)
    yield np.empty((0, 4), np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    for view in _views(_rows(rng, 9, 20, L2)):
        yield view, view


def check_assign(got: tuple[np.ndarray, np.ndarray], x: np.ndarray, centroids: np.ndarray) -> None:
    ids, distances = got
    assert ids.shape == distances.shape == (len(x),) and ids.dtype == np.int64 and distances.dtype == np.float32
    want = distances64(x, centroids, L2)
    size = max(float(np.abs(x).max(initial=0)), float(np.abs(centroids).max(initial=0)))
    slack = 4e-6 * max(x.shape[1], 1) * size * size
    if len(x):
        assert ids.min() >= 0 and ids.max() < len(centroids)
        np.testing.assert_allclose(want[np.arange(len(x)), ids], want.min(1), rtol=1e-5, atol=slack)
        np.testing.assert_allclose(distances, want.min(1), rtol=1e-5, atol=slack)


def _sorted_keys(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.sort(rng.integers(-(2**62), 2**62, n))


def _search_int64(rng: np.random.Generator) -> Iterator[Args]:
    for n in (0, 1, 2, 100):
        values = _sorted_keys(rng, n)
        yield values, np.concatenate([values, values + 1, [-(2**63), 2**63 - 1]]).astype(np.int64)
    yield np.array([3, 3, 3, 7]), np.array([2, 3, 4, 7, 8])


def _strings(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    texts = sorted(bytes(rng.integers(0, 3, rng.integers(0, 20), dtype=np.uint8)) for _ in range(n))
    offsets = np.cumsum([0] + [len(t) for t in texts]).astype(np.int32)
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def _search_bytes(rng: np.random.Generator) -> Iterator[Args]:
    for n in (0, 1, 40):
        yield *_strings(rng, n), *_strings(rng, 30)


def _merge_int64(rng: np.random.Generator) -> Iterator[Args]:
    """Runs of every number and length, the last in several blocks, with keys in common, and rows in common too."""
    for lengths in ((), (0,), (1,), (5, 0, 3), (40, 1), (30, 30, 30), (7, 50, 20, 3, 9, 0, 11), (400, 300), (9000, 20, 7000)):
        for span in (5, 2**62):
            runs = [(rng.integers(-span, span, n), rng.integers(0, 9, n).astype(np.uint64)) for n in lengths]
            runs = [(keys[by], seqs[by]) for keys, seqs in runs for by in [np.lexsort((~seqs, keys))]]
            starts = np.cumsum([0, *lengths]).astype(np.int64)
            yield *(np.concatenate([np.empty(0, t), *(run[i] for run in runs)]) for i, t in enumerate((np.int64, np.uint64))), starts


def _merge_bytes(rng: np.random.Generator) -> Iterator[Args]:
    for keys, seqs, starts in _merge_int64(rng):
        # two bytes of some alphabet behind a prefix that fills the first eight, or not
        texts = [b"prefix"[: 6 * (int(k) % 2)] + bytes([97 + int(k) % 3]) * (int(k) % 12) for k in keys]
        order = [sorted(range(a, b), key=lambda i: (texts[i], ~seqs[i])) for a, b in zip(starts[:-1], starts[1:], strict=True)]
        by = np.concatenate([np.empty(0, np.int64), *order]).astype(np.int64)
        sorted_texts = [texts[i] for i in by]
        yield np.frombuffer(b"".join(sorted_texts), np.uint8), np.cumsum([0] + [len(t) for t in sorted_texts]).astype(np.int32), seqs[by], starts


def _hash64_bytes(rng: np.random.Generator) -> Iterator[Args]:
    for n in (0, 1, 50):
        yield _strings(rng, n)


def _hash64_int64(rng: np.random.Generator) -> Iterator[Args]:
    for n in (0, 1, 100):
        yield (_sorted_keys(rng, n),)


def _bloom(rng: np.random.Generator) -> Iterator[Args]:
    for n in (0, 1, 200):
        yield np.zeros(64, np.uint8), rng.integers(0, 2**63, n).astype(np.uint64) * np.uint64(2), 7


def _bloom_test(rng: np.random.Generator) -> Iterator[Args]:
    for bits, hashes, probes in _bloom(rng):
        KERNELS["bloom_add"].define(bits, hashes[::2], probes)
        yield bits, hashes, probes


def _block_bloom_test(rng: np.random.Generator) -> Iterator[Args]:
    for bits, hashes, probes in _bloom(rng):
        wide = np.zeros(len(bits) * 3, np.uint8)
        KERNELS["block_bloom_add"].define(wide, hashes[::2], probes)
        yield wide, hashes, probes


def _crc32c_chunks(rng: np.random.Generator) -> Iterator[Args]:
    for n in (0, 1, 7, 4096, 40_000):
        for chunk in (1000, 1024, 4096):
            yield rng.integers(0, 256, n + 1, dtype=np.uint8)[1:], chunk, 7, 4096


def _shuffle(rng: np.random.Generator) -> Iterator[Args]:
    for itemsize in (1, 2, 3, 4, 8, 16):
        for n in (0, 1, 7, 8 * itemsize, 64 * itemsize + 5, 1000 * itemsize):
            yield rng.integers(0, 256, n, np.uint8), itemsize
            yield rng.integers(0, 256, n + 1, np.uint8)[1:], itemsize


def _graph(rng: np.random.Generator, metric: int, n: int, d: int) -> list[Any]:
    # whole numbers: sums are exact, so that every backend must make the same graph
    points = np.round(rng.normal(size=(n, d)) * 4).astype(np.float32)
    norms = np.sqrt((points**2).sum(1))
    scale = np.divide(1, norms, out=np.zeros(n, np.float32), where=norms > 0).astype(np.float32)
    levels = np.minimum(rng.geometric(0.75, n) - 1, 3).astype(np.uint8)
    upper = np.full((int(levels.sum()), 4), 0xFFFFFFFF, np.uint32)
    upper_at = np.cumsum(levels, dtype=np.int64) - levels
    links = np.full((n, 8), 0xFFFFFFFF, np.uint32)
    return [points, scale, metric, links, upper, upper_at, levels, np.array([-1, 0])]


def _graph_insert(rng: np.random.Generator) -> Iterator[Args]:
    for metric in (L2, IP, L1):
        for n, d in ((0, 3), (1, 3), (60, 1), (200, 8)):
            yield *_graph(rng, metric, n, d), 0, n, 20


def _graph_search(rng: np.random.Generator) -> Iterator[Args]:
    for metric in (L2, IP, L1):
        made = _graph(rng, metric, 200, 8)
        KERNELS["graph_insert"].define(*made, 0, 200, 20)
        points, scale, _, links, upper, upper_at, _, state = made
        queries = np.round(rng.normal(size=(9, 8)) * 4).astype(np.float32)
        for mask in (None, (rng.random(200) < 0.3).astype(np.uint8)):
            yield queries, points, scale, metric, links, upper, upper_at, state, 5, 30, mask


def _sparse_rows(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """(starts, terms, weights in eighths, lists): scores are exact in any order; frequent terms, rare ones, and more rows than one chunk holds."""
    for n, lists, each in ((1, 1, 1), (40, 6, 3), (3000, 30, 8), (66_000, 12, 2)):
        chance = 1 / (1 + np.arange(lists)) ** 1.5
        there = rng.random((n, lists)) < np.minimum(each * chance / chance.sum(), 0.9)
        row, terms = np.nonzero(there)
        starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))]).astype(np.int64)
        yield starts, terms.astype(np.uint32), (rng.integers(1, 200, len(terms)) / 8).astype(np.float32), lists


def _sparse_invert(rng: np.random.Generator) -> Iterator[Args]:
    for starts, terms, weights, lists in _sparse_rows(rng):
        for share in (1, 16):
            yield starts, terms, weights, lists, share
        yield starts, terms, -weights, lists, 16
    yield np.zeros(1, np.int64), np.empty(0, np.uint32), np.empty(0, np.float32), 3, 16


def _sparse_net(rng: np.random.Generator) -> Iterator[Args]:
    """Arguments of `sparse_net`: weights as they are, of either sign, and saturating."""
    for starts, terms, weights, lists in _sparse_rows(rng):
        owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        norms = (2.0 ** rng.integers(-1, 3, len(starts) - 1)).astype(np.float32)
        signed = np.where(rng.random(len(weights)) < 0.2, -weights, weights).astype(np.float32)
        saturated = (2 * (weights + norms[owner]) / (weights + 2 * norms[owner]) + 1).astype(np.float32)
        for values, made, rest in ((weights, weights, ()), (signed, signed, ()), (weights, saturated * 0.9, (norms, 2.0, 1.0, 1.0, 1.2))):
            _, most, *lists_ = KERNELS["sparse_invert"].define(starts, terms, made.astype(np.float32), lists, 16)
            heavy = KERNELS["sparse_heavy"].define(starts, terms, made.astype(np.float32), most, 500)
            yield starts, terms, values, most, *lists_, *(rest or (None, 1.0, 0.0, 0.0, 1.0)), heavy


def _sparse_heavy(rng: np.random.Generator) -> Iterator[Args]:
    for starts, terms, weights, lists in _sparse_rows(rng):
        most = KERNELS["sparse_invert"].define(starts, terms, weights, lists, 16)[1]
        for limit in (1, 20, 1 << 30):
            yield starts, terms, weights, most, limit


def _asked(rng: np.random.Generator, n: int, lists: int) -> Iterator[Args]:
    """The arguments of `sparse_search` behind its net of n rows."""
    for m in (0, 1, min(5, lists), lists):
        terms = rng.choice(lists, m, replace=False).astype(np.uint32)
        factors = (rng.integers(1, 40, m) / 4).astype(np.float32)
        for signs in (1, rng.choice([-1, 1, 1], m)):
            for k in (0, 1, 10, min(n + 3, 300)):
                for mask in (None, (rng.random(n) < 0.4).astype(np.uint8)):
                    yield terms, (factors * signs).astype(np.float32), k, mask


def _sparse_search(rng: np.random.Generator) -> Iterator[Args]:
    for net in _sparse_net(rng):
        for ask in _asked(rng, len(net[0]) - 1, len(net[3])):
            yield net, *ask


def _sparse_near(rng: np.random.Generator) -> Iterator[Args]:
    for net, terms, factors, k, mask in _sparse_search(rng):
        for budget, depth in ((20, 3), (400, 40)):
            yield net, terms, factors, k, budget, depth, mask


def check_sparse_search(name: str, kernels: Kernels, seed: int) -> None:
    """Searches over nets of a backend's own, exact ones or near, against the definition's."""
    rng = np.random.default_rng(seed)
    for args in _sparse_net(rng):
        want, got = KERNELS["sparse_net"].define(*args), kernels.sparse_net(*args)
        for terms, factors, k, mask in _asked(rng, len(args[0]) - 1, len(args[3])):
            for few in ((20, 3), (400, 40)) if name == "sparse_near" else ((),):
                rows, scores = (want.near if few else want.search)(terms, factors, k, *few, mask)
                ids, best = getattr(kernels, name)(got, terms, factors, k, *few, mask)
                there = rows >= 0
                assert np.array_equal(ids >= 0, there) and np.allclose(best[there], scores[there], rtol=1e-5), (terms, factors, k)
                # equal scores may be rounded apart: any row that has its score will do
                assert np.allclose(want.scores(terms, factors, ids[there]), scores[there], rtol=1e-5), (terms, factors, k)
                assert len(set(ids[there].tolist())) == there.sum() and (mask is None or mask[ids[there]].all())


ARGUMENTS: dict[str, Callable[[np.random.Generator], Iterator[Args]]] = {
    "assign": _assign, "pairwise": _pairwise, "gathered": _gathered, "topk": _topk, "search_int64": _search_int64, "search_bytes": _search_bytes,
    "merge_int64": _merge_int64, "merge_bytes": _merge_bytes,
    "hash64_int64": _hash64_int64, "hash64_bytes": _hash64_bytes, "bloom_add": _bloom, "bloom_test": _bloom_test,
    "block_bloom_add": _bloom, "block_bloom_test": _block_bloom_test,
    "shuffle": _shuffle, "unshuffle": _shuffle, "bitshuffle": _shuffle, "unbitshuffle": _shuffle,
    "sparse_invert": _sparse_invert, "sparse_net": _sparse_net, "sparse_search": _sparse_search, "sparse_heavy": _sparse_heavy, "sparse_near": _sparse_near,
    "crc32c_chunks": _crc32c_chunks, **kernels_codes.ARGUMENTS, "graph_insert": _graph_insert, "graph_search": _graph_search,
}  # fmt: skip


def check(name: str, kernels: Kernels, seed: int = 0) -> None:
    """One kernel of one backend against the reference, over every shape."""
    run = getattr(kernels, name)
    if name in ("sparse_near", "sparse_net", "sparse_search"):
        check_sparse_search("sparse_near" if name == "sparse_near" else "sparse_search", kernels, seed)
        return
    special = CHECKS.get(name)
    if name == "code_forest":
        kernels_codes.check_forests(name, kernels, seed)
        return
    if name in ("code_estimates", "code_net", "code_one", "code_ranges", "code_scan", "code_search"):
        kernels_codes.check_code_queries(name, kernels, seed)
        return
    if name in ("page_net", "page_scan", "page_search"):
        kernels_codes.check_pages(name, kernels, seed)
        return
    if name in ("pq_net", "pq_ranges"):
        kernels_codes.check_product_queries(name, kernels, seed)
        return
    for args in ARGUMENTS[name](np.random.default_rng(seed)):
        mine, reference = copy.deepcopy(args), copy.deepcopy(args)
        got = run(*(a if isinstance(a, np.ndarray) and not a.flags.writeable else m for a, m in zip(args, mine, strict=True)))
        if special is not None:
            special(got, *reference)
        else:
            _equal((got, *mine), (KERNELS[name].define(*reference), *reference), name)


def _equal(got: Any, want: Any, name: str) -> None:
    if isinstance(want, tuple):
        for g, w in zip(got, want, strict=True):
            _equal(g, w, name)
    elif isinstance(want, np.ndarray):
        assert got.dtype == want.dtype and got.shape == want.shape, f"{name}: {got.dtype} {got.shape}, wanted {want.dtype} {want.shape}"
        np.testing.assert_array_equal(got, want, err_msg=name)
    else:
        assert got == want, name


def _tolerance(queries: np.ndarray, points: np.ndarray, metric: int) -> float:
    """What rounding in float32 may do: some units in the last place of the largest sum."""
    if metric == COSINE:
        return 1e-5
    size = max(float(np.abs(np.nan_to_num(x, posinf=0)).max(initial=0)) for x in (queries, points))
    terms = max(queries.shape[-1], 1)
    if metric == L2:
        return 1e-13 * terms * size * size  # differences: the error is relative to the distance itself
    return 1e-6 * terms**0.5 * (size if metric == L1 else size * size)


def check_pairwise(got: np.ndarray, queries: np.ndarray, points: np.ndarray, metric: int) -> None:
    assert got.dtype == np.float32 and got.shape == (len(queries), len(points))
    want = distances64(queries, points, metric)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=_tolerance(queries, points, metric))


def check_gathered(got: np.ndarray, query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> None:
    check_pairwise(got[None, :], query[None, :], points[ids], metric)


def check_topk(
    got: tuple[np.ndarray, np.ndarray], queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> None:
    ids, distances = got
    assert ids.shape == distances.shape == (len(queries), k) and ids.dtype == np.int64 and distances.dtype == np.float32
    want = distances64(queries, points, metric)
    tolerance = _tolerance(queries, points, metric)
    allowed = np.ones(len(points), bool) if mask is None else mask != 0
    for row, near, far in zip(want, ids, distances, strict=True):
        good = np.flatnonzero(allowed & ~np.isnan(row))
        n = min(k, len(good))
        assert (near[n:] == -1).all() and (far[n:] == np.inf).all(), "padding"
        assert len(set(near[:n].tolist())) == n and set(near[:n].tolist()) <= set(good.tolist())
        np.testing.assert_allclose(far[:n], row[near[:n]], rtol=1e-5, atol=tolerance)
        np.testing.assert_allclose(far[:n], np.sort(row[good])[:n], rtol=1e-5, atol=tolerance)
        same = far[1:n] == far[: n - 1] if n else np.empty(0, bool)
        assert (np.diff(far[:n]) >= 0).all() if np.isfinite(far[:n]).all() else True
        assert (near[1:n][same] > near[: n - 1][same]).all(), "ties go to the lower id"


CHECKS: dict[str, Callable[..., None]] = {"assign": check_assign, "pairwise": check_pairwise, "gathered": check_gathered, "topk": check_topk}


def check_signature(name: str, kernels: Kernels) -> None:
    """A backend's kernel takes the contract's arguments under the contract's names."""
    want = list(inspect.signature(KERNELS[name].define).parameters)
    got = list(inspect.signature(getattr(kernels, name)).parameters)
    assert got == want, f"{kernels.backend} {name}{tuple(got)}; the contract has {tuple(want)}"
