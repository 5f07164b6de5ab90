"""The CuPy backend: distances, top-k, k-means and scans of codes on a GPU.

Rows are copied to the device by each call, or once by `resident`. ``LSMTENSOR_GPU_MEMORY``: bytes that arrays there may take.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from . import numpy_codes
from .contract_codes import code_estimates, code_ranges, code_scan
from .declare import COSINE, IP, L1, L2
from .device import EACH, THREADS, TILE, Device, Placed, Resident

try:
    if not cupy.cuda.runtime.getDeviceCount():
        raise ImportError("cupy is installed, and there is no GPU")
except cupy.cuda.runtime.CUDARuntimeError as why:
    raise ImportError(f"cupy is installed, and there is no GPU that it can use: {why}") from why

DEVICE = Device(cupy, int(os.environ.get("LSMTENSOR_GPU_MEMORY") or 0))
WARP = 32
# the most that are picked on the device; more are sorted on the host
MOST = THREADS * EACH // 2
# from so many queries on products by BLAS say which rows can be near
PRODUCTS_FROM = 16
# queries of one round trip
AT_ONCE = 1024
# searches of a shape that are kept recorded for some resident rows
KEPT = 16
NUMBER = 0xFFFFFFFF

Found = tuple[np.ndarray, np.ndarray]


def isa() -> str:
    return f"cupy {cupy.__version__} on {cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)['name'].decode()}"


def resident(rows: np.ndarray) -> np.ndarray:
    return DEVICE.resident(rows)


def _placed(rows: np.ndarray) -> Placed:
    there = rows.placed if isinstance(rows, Resident) else None
    return there or Placed(DEVICE, rows)


def _distances(queries: Any, points: Any, metric: int, start: int = 0, stop: int = 0, ids: Any = None) -> Any:
    """Device float32 (q, stop - start) of rows [start, stop), or (q, m) of rows ids, int64 (q, m)."""
    n = stop - start if ids is None else ids.shape[1]
    out = cupy.empty((len(queries), n), np.float32)
    listed = ids is not None
    DEVICE.launch(
        "distances", -(-n * WARP // THREADS), len(queries) if listed else -(-len(queries) // TILE), queries, np.int64(len(queries)), points[start:],
        ids if listed else out, np.int32(listed), np.int64(n), np.int64(points.shape[1]), np.int32(metric), out,
    )  # fmt: skip
    return out


def _pick(keys: Any, k: int) -> Any:
    """Device uint64 (q, k): the least of keys (q, m), rising."""
    while True:
        segments = -(-keys.shape[1] // (THREADS * EACH))
        out = cupy.empty((len(keys), segments * k), np.uint64)
        DEVICE.launch("pick_keys", segments, len(keys), keys, np.int64(keys.shape[1]), np.int32(k), out)
        if segments == 1:
            return out
        keys = out


def _pick_far(far: Any, k: int, base: int = 0, ids: Any = None, mask: Any = None) -> Any:
    """The same, the keys made of distances (q, m) to rows [base, base + m), or ids (q, m)."""
    segments = -(-far.shape[1] // (THREADS * EACH))
    out = cupy.empty((len(far), segments * k), np.uint64)
    DEVICE.launch(
        "pick_far", segments, len(far), far, np.int64(far.shape[1]), np.uint32(base), far if ids is None else ids, np.int32(ids is not None),
        far if mask is None else mask, np.int32(mask is not None), np.int32(k), out,
    )  # fmt: skip
    return out if segments == 1 else _pick(out, k)


def _opened(keys: np.ndarray) -> Found:
    """(numbers int64, distances float32) of keys; -1 and infinity where nothing was left to pick."""
    numbers, bits = (keys & np.uint64(NUMBER)).astype(np.int64), (keys >> np.uint64(32)).astype(np.uint32)
    none = numbers == NUMBER
    far = np.where(bits >> 31 == 1, bits ^ np.uint32(1 << 31), ~bits).view(np.float32)
    return np.where(none, -1, numbers), np.where(none, np.float32(np.inf), far)


def _least(far_of: Callable[[int, int], Any], q: int, n: int, k: int, mask: np.ndarray | None) -> Found:
    """(rows (q, k), distances (q, k)): the least of what ``far_of(start, stop)`` gives for q queries and n rows, (q, stop - start), in tiles."""
    step = max(1, DEVICE.cells // max(q, 1))
    spans = [(start, min(start + step, n)) for start in range(0, n, step)]
    if k <= MOST:
        there = None if mask is None else DEVICE.upload(mask)
        parts = [_pick_far(far_of(*span), k, span[0], None, there) for span in spans]
        return _opened(DEVICE.download(parts[0] if len(parts) == 1 else _pick(cupy.concatenate(parts, 1), k)))
    far = np.concatenate([DEVICE.download(far_of(*span)) for span in spans], 1)
    if mask is not None:
        far[:, mask == 0] = np.nan
    ids = np.full((q, k), -1, np.int64)
    order = np.argsort(far, 1, kind="stable")[:, :k]
    ids[:, : order.shape[1]] = order
    best = np.full((q, k), np.inf, np.float32)
    best[:, : order.shape[1]] = np.take_along_axis(far, order, 1)
    ids[np.isnan(best)], best[np.isnan(best)] = -1, np.inf
    return ids, best


def _exact(queries: Any, points: Any, ids: np.ndarray, metric: int, k: int) -> Found:
    """The k nearest among rows ids (q, m) of each query, -1 none."""
    there = DEVICE.upload(np.ascontiguousarray(ids))
    far = _distances(queries, points, metric, ids=there)
    return _opened(DEVICE.download(_pick_far(far, k, ids=there)))


class Recorded:
    """A search of one shape among resident rows: the buffers that it reads and writes, and the graph of its work from the second call on."""

    def __init__(self, placed: Placed, shape: tuple[int, int], k: int, metric: int) -> None:
        self.rows, self.k, self.metric = placed.rows, k, metric
        self.asked, self.queries = DEVICE.pinned(shape, np.float32), cupy.empty(shape, np.float32)
        self.keys = DEVICE.pinned((shape[0], k), np.uint64)
        self.again: Callable[[], None] | None = None
        self.calls = 0

    def _work(self) -> None:
        self.queries.set(self.asked, DEVICE.stream)
        keys = _pick_far(_distances(self.queries, self.rows, self.metric, 0, len(self.rows)), self.k)
        keys.get(stream=DEVICE.stream, out=self.keys, blocking=False)

    def __call__(self, queries: np.ndarray) -> Found:
        self.asked[:] = queries
        self.calls += 1
        if self.calls == 2:
            self.again = DEVICE.record(self._work)
        (self.again or self._work)()
        DEVICE.stream.synchronize()
        return _opened(self.keys)


def _of_products(queries: Any, placed: Placed, k: int, metric: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, distances, which queries are left open): dot products and a bound on their rounding say which rows can be near; these get
    their distance, the same that a single query gets. Open is a query whose last candidate does not prove that the rest is farther."""
    n, d = placed.rows.shape
    slack = np.float32(1e-3 if os.environ.get("CUPY_TF32") == "1" else 1.2e-7 * (d + 8))
    own, of_rows, less = (queries * queries).sum(1), placed.squares(DEVICE), np.float32(1 - slack)
    if metric == L2:
        u, w = own * less, of_rows * less
    elif metric == IP:
        u, w = cupy.sqrt(own), cupy.sqrt(of_rows) * slack
    else:
        u, w = (cupy.where(x == 0, x, 1 / cupy.sqrt(cupy.where(x == 0, x + 1, x))) for x in (own, of_rows))
    candidates, step = 2 * k + 32, max(1, DEVICE.cells // len(queries))
    there = None if mask is None else DEVICE.upload(mask)
    parts = []
    for start in range(0, n, step):
        dots = queries @ placed.rows[start : start + step].T
        width = dots.shape[1]
        segments = -(-width // (THREADS * EACH))
        parts.append(cupy.empty((len(queries), segments * candidates), np.uint64))
        DEVICE.launch(
            "pick_dots", segments, len(queries), dots, np.int64(width), np.uint32(start), u, w[start:], np.int32(metric), slack,
            dots if there is None else there, np.int32(there is not None), np.int32(candidates), parts[-1],
        )  # fmt: skip
    ids, least = _opened(DEVICE.download(_pick(cupy.concatenate(parts, 1), candidates)))
    rows, far = _exact(queries, placed.rows, ids, metric, k)
    return rows, far, np.flatnonzero((ids[:, -1] >= 0) & ~(least[:, -1] > far[:, k - 1]))


def pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    out = np.empty((len(queries), len(points)), np.float32)
    if out.size:
        with DEVICE.work():
            placed, step = _placed(points), max(1, DEVICE.cells // len(points))
            for start in range(0, len(queries), step):
                asked = DEVICE.upload(queries[start : start + step])
                out[start : start + step] = DEVICE.download(_distances(asked, placed.rows, metric, 0, len(points)))
    return out


def gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> np.ndarray:
    if len(ids) == 0:
        return np.empty(0, np.float32)
    with DEVICE.work():
        if isinstance(points, Resident) and points.placed is not None:
            rows, wanted = points.placed.rows, ids
        else:
            rows, wanted = DEVICE.upload(points[ids]), np.arange(len(ids))
        return DEVICE.download(_distances(DEVICE.upload(query[None, :]), rows, metric, ids=DEVICE.upload(wanted[None, :])))[0]


def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    if not (ids.size and len(points)):
        return ids, distances
    with DEVICE.work():
        placed = _placed(points)
        if isinstance(points, Resident) and mask is None and len(queries) <= TILE and k <= MOST and len(queries) * len(points) <= DEVICE.cells:
            return _small(placed, queries, k, metric)
        for start in range(0, len(queries), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            asked = DEVICE.upload(queries[part])
            left = np.arange(len(asked))
            if len(asked) >= PRODUCTS_FROM and metric < L1 and 2 * k + 32 <= MOST:
                ids[part], distances[part], left = _of_products(asked, placed, k, metric, mask)
            for at in range(0, len(left), TILE):
                some = left[at : at + TILE]
                few = DEVICE.upload(queries[part][some])
                ids[start + some], distances[start + some] = _least(
                    lambda a, b, few=few: _distances(few, placed.rows, metric, a, b), len(few), len(points), k, mask  # type: ignore[misc]
                )
    return ids, distances


def _small(placed: Placed, queries: np.ndarray, k: int, metric: int) -> Found:
    shape = (*queries.shape, k, metric)
    if shape not in placed.recorded:
        if len(placed.recorded) == KEPT:
            del placed.recorded[next(iter(placed.recorded))]
        placed.recorded[shape] = Recorded(placed, (len(queries), queries.shape[1]), k, metric)
    found: Found = placed.recorded[shape](queries)
    return found


def assign(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, distances = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    with DEVICE.work():
        there = x.placed if isinstance(x, Resident) else None
        centres = DEVICE.upload(centroids)
        norms, step = (centres * centres).sum(1), max(1, DEVICE.cells // max(centroids.shape))
        for start in range(0, len(x), step):
            rows = DEVICE.upload(x[start : start + step]) if there is None else there.rows[start : start + step]
            scores = norms - 2 * (rows @ centres.T)
            best = scores.argmin(1)
            far = cupy.take_along_axis(scores, best[:, None], 1)[:, 0] + (rows * rows).sum(1)
            ids[start : start + step], distances[start : start + step] = DEVICE.download(best), np.maximum(DEVICE.download(far), 0)
    return ids, distances


class Net(numpy_codes.Net):
    """Rows and codes, checked as the definition does, with a copy on the device."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        with DEVICE.work():
            self.words = DEVICE.upload(np.ascontiguousarray(self.codes).view(np.int32))
            # of length 0 where the metric or the width has none
            self.beside = [DEVICE.upload(np.ascontiguousarray(a, np.float32)) for a in (self.squares, self.factors)]
            self.full = _placed(self.points)

    def asked(self, queries: np.ndarray) -> tuple[Any, Any, Any]:
        """On the device: the values of queries as the codes' words have them, their sums, and what undoes their scale."""
        by = np.ones(len(queries), np.float32)
        if self.metric >= L1:
            values = np.clip(np.rint((queries - self.mean) / self.step), -128, 127)
        else:
            x = queries * np.array([[self.inverse(q)] for q in queries], np.float32) if self.metric == COSINE else queries
            x = x if self.metric == IP else x - self.mean
            largest = np.abs(x).max(1, keepdims=True)
            up = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
            values = np.rint(x * up)
            down = np.divide(1, up, out=np.zeros_like(up), where=up > 0)[:, 0]
            by = (2 if self.metric == L2 else 1) * down * np.float32(0.5 if self.bits == 4 else self.step)
        whole = np.zeros((len(queries), self.codes.shape[1] * (8 // self.bits)), np.int8)
        whole[:, : self.d] = values
        sums = whole.sum(1, dtype=np.int32)
        return DEVICE.upload(whole.view(np.int32)), DEVICE.upload(sums), DEVICE.upload(by.astype(np.float32))

    def estimate(self, asked: tuple[Any, Any, Any], start: int = 0, stop: int = 0, rows: Any = None) -> Any:
        """Device float32 (q, stop - start) of rows [start, stop), or (q, m) of rows, int64 (q, m), infinity where one is -1."""
        values, sums, by = asked
        q, n, listed = len(values), stop - start if rows is None else rows.shape[1], rows is not None
        out = cupy.empty((q, n), np.float32)
        squares, factors = (a[start:] for a in self.beside)
        DEVICE.launch(
            "estimates", -(-n * WARP // THREADS), q if listed else -(-q // TILE), values, sums, by, np.int64(q), self.words[start:],
            np.int64(self.words.shape[1]), squares, factors, np.int32(self.bits), np.int32(self.metric), rows if listed else out, np.int32(listed),
            np.int64(n), out,
        )  # fmt: skip
        return out

    def scan(self, queries: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> Found:
        def candidates(asked: tuple[Any, Any, Any], part: slice) -> np.ndarray:
            return _least(lambda a, b: self.estimate(asked, a, b), len(asked[0]), len(self.codes), depth, mask)[0]

        return self._nearest_of(queries, k, depth, candidates)

    def ranges(self, queries: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> Found:
        whole = self.places(queries, order, ranges, mask)

        def candidates(asked: tuple[Any, Any, Any], part: slice) -> np.ndarray:
            places = np.full((len(whole[part]), max(map(len, whole[part]))), -1, np.int64)
            for row, own in zip(places, whole[part], strict=True):
                row[: len(own)] = own
            if places.shape[1] > depth:
                there = DEVICE.upload(places)
                column, _ = _least(lambda a, b: self.estimate(asked, rows=there[:, a:b].copy()), len(places), places.shape[1], depth, None)
                places = np.where(column < 0, -1, np.take_along_axis(places, np.maximum(column, 0), 1))
            return np.where(places < 0, -1, order[places])

        return self._nearest_of(queries, k, depth, candidates)

    def _nearest_of(self, queries: np.ndarray, k: int, depth: int, candidates: Callable[[tuple[Any, Any, Any], slice], np.ndarray]) -> Found:
        """The k nearest among the rows that ``candidates`` gives for some queries, -1 none."""
        self.check_depth(k, depth)
        self.check_width(queries)
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        with DEVICE.work():
            for start in range(0, len(queries) if k else 0, AT_ONCE):
                part = slice(start, start + AT_ONCE)
                rows = candidates(self.asked(queries[part]), part)
                if rows.shape[1]:
                    ids[part], far[part] = _exact(DEVICE.upload(queries[part]), self.full.rows, rows, self.metric, k)
        return ids, far

    def estimates(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self.check_rows(queries, rows)
        if rows.size == 0:
            return np.empty(rows.shape, np.float32)
        with DEVICE.work():
            return DEVICE.download(self.estimate(self.asked(queries), rows=DEVICE.upload(np.ascontiguousarray(rows))))


def code_net(
    points: np.ndarray, scale: np.ndarray, metric: int, mean: np.ndarray, step: float, codes: np.ndarray, squares: np.ndarray,
    factors: np.ndarray, bits: int, links: np.ndarray, top: Any, rows: np.ndarray | None, forest: Any = None,
) -> Any:  # fmt: skip
    return Net(points, scale, metric, mean, step, codes, squares, factors, bits, links, top, rows, forest)


__all__ = ["assign", "code_estimates", "code_net", "code_ranges", "code_scan", "gathered", "isa", "pairwise", "resident", "topk"]
