"""The kernels over quantized rows for Numba: the walk of numpy_codes.py as loops, compiled without the GIL and cached on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from . import numpy_codes
from .numba_graph import NONE, _add
from .numba_graph import distance as _distance

_jit = njit(nogil=True, cache=True, error_model="numpy")
# an array is seven arguments of a call: for what is called once a row
_inline = njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
# as in numpy_codes.py: written out, since the cache of compiled code looks at this file alone
AHEAD, TOP, BEGIN, TRAIL = 2, 8, 4, 64
assert (numpy_codes.AHEAD, numpy_codes.TOP, numpy_codes.BEGIN, numpy_codes.TRAIL) == (AHEAD, TOP, BEGIN, TRAIL)


# Rows are named by number: a slice of an array costs more than a short loop over it.


@_inline
def _dot8(values, codes, row):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for i in range(codes.shape[1]):
        # 32 bits all along: wider sums are half as fast
        total = np.int32(total + np.int32(np.int32(values[0, i]) * np.int32(codes[row, i])))
    return total


@_inline
def _dot4(values, codes, row):  # type: ignore[no-untyped-def]
    """``values`` (2, bytes of a row): of the low halves, of the high ones."""
    total = np.int32(0)
    for i in range(codes.shape[1]):
        c = codes[row, i]
        low, high = np.int16(values[0, i]) * np.int16(c & np.uint8(15)), np.int16(values[1, i]) * np.int16(c >> np.uint8(4))
        total = np.int32(total + np.int32(low) + np.int32(high))
    return total


@_jit
def _apart(own, codes, row, metric):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for i in range(codes.shape[1]):
        d = np.int32(np.int32(own[i]) - np.int32(codes[row, i]))
        total = np.int32(total + (abs(d) if metric == 3 else np.int32(d != 0)))
    return total


@_inline
def _between(codes, sums, metric, own, values, node, other):  # type: ignore[no-untyped-def]
    """From row ``node``, whose values around 128 are ``values`` and whose codes are ``own``, to another."""
    if metric >= 3:
        return np.float64(_apart(own, codes, other, metric))
    product = np.int64(_dot8(values, codes, other)) - 128 * np.int64(sums[node, 1])
    if metric == 1:
        return np.float64(-product)
    return np.float64(np.int64(sums[other, 0]) + np.int64(sums[node, 0]) - 2 * product)


@_jit
def _centre(row, values):  # type: ignore[no-untyped-def]
    for i in range(row.shape[0]):
        values[0, i] = np.int8(np.int32(row[i]) - 128)


@_inline
def _estimate(codes, squares, factors, bits, metric, own, values, factor, less, other):  # type: ignore[no-untyped-def]
    if metric >= 3:
        return np.float64(_apart(own, codes, other, metric))
    times = np.int64(2 * np.int64(_dot4(values, codes, other)) if bits == 4 else np.int64(_dot8(values, codes, other))) - less
    square = squares[other] if squares.shape[0] else np.float32(0)
    return np.float64(square - (factors[other] if factors.shape[0] else np.float32(1)) * (factor * np.float32(times)))


@_jit
def _walk(  # type: ignore[no-untyped-def]
    codes, sums, squares, factors, bits, metric, own, values, node, factor, less, links, starts, cap, mask, ef, seen, epoch, pool, pool_n, done,
    found, found_n, none, trail, trail_n,
):  # fmt: skip
    """(size of the pool, of what the mask allows, of the trail). ``node`` >= 0: between codes; else estimates of a query."""
    fresh = np.empty(starts.shape[0] + AHEAD * links.shape[1], np.int64)
    size, hits, at, count, steps = 0, 0, 0, 0, 0
    masked = mask.shape[0] > 0
    for j in range(starts.shape[0]):
        if seen[starts[j]] != epoch:
            seen[starts[j]] = epoch
            fresh[count] = starts[j]
            count += 1
    while True:
        lowest = size
        for j in range(count):
            x = fresh[j]
            if node >= 0:
                d = _between(codes, sums, metric, own, values, node, x)
            else:
                d = _estimate(codes, squares, factors, bits, metric, own, values, factor, less, x)
            if masked:
                if hits == ef and (d > found[hits - 1] or (d == found[hits - 1] and x > found_n[hits - 1])):
                    continue
                if mask[x] and _add(found, found_n, none, hits, ef, d, x) >= 0:
                    hits = min(hits + 1, ef)
            place = _add(pool, pool_n, done, size, cap, d, x)
            if place >= 0:
                size = min(size + 1, cap)
                lowest = min(lowest, place)
        at = min(at, lowest)
        picked, count = 0, 0
        while at < size and picked < AHEAD:
            if not done[at]:
                if masked and hits == ef and (pool[at] > found[ef - 1] or (pool[at] == found[ef - 1] and pool_n[at] > found_n[ef - 1])):
                    break
                done[at] = 1
                picked += 1
                if steps < trail.shape[0]:
                    trail[steps], trail_n[steps] = pool[at], pool_n[at]
                    steps += 1
                row = links[pool_n[at]]
                for j in range(row.shape[0]):
                    if row[j] == NONE:
                        break
                    if seen[row[j]] != epoch:
                        seen[row[j]] = epoch
                        fresh[count] = row[j]
                        count += 1
            at += 1
        if picked == 0:
            return size, hits, steps


@_jit
def _select(codes, sums, metric, cand, cand_n, count, limit, alpha, values, row):  # type: ignore[no-untyped-def]
    kept = 0
    for c in range(count):
        if kept == limit:
            break
        node, good = cand_n[c], True
        _centre(codes[node], values)
        for j in range(kept):
            d = _between(codes, sums, metric, codes[node], values, node, np.int64(row[j]))
            if not (d > cand[c] if metric == 1 else alpha * d > 256 * cand[c]):
                good = False
                break
        if good:
            row[kept] = node
            kept += 1
    row[kept:] = NONE
    return kept


@_jit
def _join(cand, cand_n, done, count, d, node):  # type: ignore[no-untyped-def]
    """Put (d, node) among sorted candidates unless it is there; how many more there are."""
    for j in range(count):
        if cand_n[j] == node:
            return 0
    _add(cand, cand_n, done, count, cand.shape[0], d, node)
    return 1


@_jit
def _begin(codes, sums, squares, factors, bits, metric, own, values, node, factor, less, links, rows, scattered, seen, epoch):  # type: ignore[no-untyped-def]
    """The rows that a walk begins at, by one in the graph above."""
    none8, nonef, nonei = np.empty(0, np.uint8), np.empty(0, np.float64), np.empty(0, np.int64)
    pool, pool_n, done = np.empty(TOP, np.float64), np.empty(TOP, np.int64), np.zeros(TOP, np.uint8)
    size, _, _ = _walk(codes, sums, squares, factors, bits, metric, own, values, node, factor, less, links, scattered, TOP, none8, 0, seen, epoch,
                    pool, pool_n, done, nonef, nonei, none8, nonef, nonei)  # fmt: skip
    out = np.empty(min(size, BEGIN), np.int64)
    for i in range(out.shape[0]):
        out[i] = rows[pool_n[i]]
    return out


@_jit
def _link(codes, sums, metric, links, nodes, starts, top_codes, top_sums, top_links, top_rows, scattered, ef, degree, alpha, out):  # type: ignore[no-untyped-def]
    n, room = codes.shape[0], ef + links.shape[1] + TRAIL + 1
    trail, trail_n = np.empty(TRAIL, np.float64), np.empty(TRAIL, np.int64)
    seen, none8, nonef = np.zeros(n, np.int64), np.empty(0, np.uint8), np.empty(0, np.float32)
    pool, pool_n, done = np.empty(ef, np.float64), np.empty(ef, np.int64), np.zeros(ef, np.uint8)
    cand, cand_n, cand_done = np.empty(room, np.float64), np.empty(room, np.int64), np.zeros(room, np.uint8)
    values, others = np.empty((1, codes.shape[1]), np.int8), np.empty((1, codes.shape[1]), np.int8)
    top_seen = np.zeros(top_codes.shape[0], np.int64)
    own_sums = np.empty((top_codes.shape[0] + 1, 2), np.int32)
    for turn in range(nodes.shape[0]):
        node = nodes[turn]
        _centre(codes[node], values)
        begin = starts
        if starts.shape[0] == 0 and top_rows.shape[0] == 0:
            begin = links[node][links[node] != NONE].astype(np.int64)
        elif starts.shape[0] == 0:
            # the row itself as one more beyond those above
            own_sums[:-1], own_sums[-1] = top_sums, sums[node]
            begin = _begin(top_codes, own_sums, nonef, nonef, 8, metric, codes[node], values, top_codes.shape[0], np.float32(0), 0, top_links, top_rows,
                           scattered, top_seen, turn + 1)  # fmt: skip
        size, _, steps = _walk(codes, sums, nonef, nonef, 8, metric, codes[node], values, node, np.float32(0), 0, links, begin, ef, none8, 0, seen,
                        turn + 1, pool, pool_n, done, cand, cand_n, cand_done, trail, trail_n)  # fmt: skip
        count = 0
        for j in range(size):
            if pool_n[j] != node:
                cand[count], cand_n[count] = pool[j], pool_n[j]
                count += 1
        for j in range(links.shape[1]):
            other = np.int64(links[node, j])
            if other == NONE:
                break
            count += _join(cand, cand_n, cand_done, count, _between(codes, sums, metric, codes[node], values, node, other), other)
        for j in range(steps):
            if trail_n[j] != node:
                count += _join(cand, cand_n, cand_done, count, trail[j], trail_n[j])
        _select(codes, sums, metric, cand, cand_n, count, degree, alpha, others, out[turn])


@_jit
def _choose(codes, sums, metric, owner, ids, count, degree, alpha, row):  # type: ignore[no-untyped-def]
    cand, cand_n, done = np.empty(count, np.float64), np.empty(count, np.int64), np.zeros(count, np.uint8)
    values = np.empty((1, codes.shape[1]), np.int8)
    _centre(codes[owner], values)
    for j in range(count):
        other = np.int64(ids[j])
        _add(cand, cand_n, done, j, count, _between(codes, sums, metric, codes[owner], values, owner, other), other)
    kept = np.empty(degree, np.uint32)
    n = _select(codes, sums, metric, cand, cand_n, count, degree, alpha, values, kept)
    row[:n] = kept[:n]
    row[n:] = NONE


@_jit
def _reverse(codes, sums, metric, links, out, nodes, alpha, part, parts):  # type: ignore[no-untyped-def]
    degree, width = out.shape[1], links.shape[1]
    many = np.empty(width + 1, np.int64)
    for i in range(out.shape[0]):
        if nodes[i] % parts == part:
            links[nodes[i], :degree] = out[i]
            links[nodes[i], degree:] = NONE
    for i in range(out.shape[0]):
        for j in range(degree):
            owner = np.int64(out[i, j])
            if owner == NONE:
                break
            if owner % parts != part:
                continue
            row, n = links[owner], 0
            while n < width and row[n] != NONE and row[n] != nodes[i]:
                n += 1
            if n < width:
                row[n] = nodes[i]
                continue
            many[:width], many[width] = row, nodes[i]
            _choose(codes, sums, metric, owner, many, width + 1, degree, alpha, row)


@_jit
def _shrink(codes, sums, metric, links, start, stop, degree, alpha, out):  # type: ignore[no-untyped-def]
    many = np.empty(links.shape[1], np.int64)
    for node in range(start, stop):
        n = 0
        for j in range(links.shape[1]):
            if links[node, j] == NONE:
                break
            if links[node, j] < codes.shape[0]:
                many[n] = links[node, j]
                n += 1
        if n > degree:
            _choose(codes, sums, metric, node, many, n, degree, alpha, out[node - start])
        else:
            for j in range(n):
                out[node - start, j] = many[j]


def code_link(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, nodes: np.ndarray, starts: np.ndarray, top: Any, ef: int, degree: int,
    alpha: int,
) -> np.ndarray:  # fmt: skip
    out = np.full((len(nodes), degree), NONE, np.uint32)
    begin = np.array(list(dict.fromkeys(starts.tolist())), np.int64)
    if top is None:
        top = codes[:0], sums[:0], links[:0], np.empty(0, np.uint32)
    scattered = numpy_codes.entries(len(top[3])) if len(top[3]) else np.empty(0, np.int64)
    above: tuple[np.ndarray, ...] = top
    _link(codes, sums, metric, links, nodes, begin, above[0], above[1], above[2], above[3], scattered, ef, degree, alpha, out)  # type: ignore[call-arg]
    return out


def code_reverse(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, out: np.ndarray, nodes: np.ndarray, alpha: int, part: int, parts: int,
) -> None:  # fmt: skip
    _reverse(codes, sums, metric, links, out, nodes, alpha, part, parts)


def code_shrink(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, start: int, stop: int, degree: int, alpha: int
) -> np.ndarray:
    out = np.full((stop - start, degree), NONE, np.uint32)
    _shrink(codes, sums, metric, links, start, stop, degree, alpha, out)
    return out


# -- queries ----------------------------------------------------------------------------------------


@_jit
def _inverse(x):  # type: ignore[no-untyped-def]
    """One over the norm, 0 for a row of zeros."""
    square = np.float32(0)
    for i in range(x.shape[0]):
        square += x[i] * x[i]
    return np.float32(1) / np.sqrt(square) if square > 0 else np.float32(0)


@_jit
def _prepare(x, metric, bits, mean, step, factors, inverse, values, own):  # type: ignore[no-untyped-def]
    """(factor, less) of a query; ``values`` and ``own`` are filled, their ends as padding is."""
    d, largest = x.shape[0], np.float32(0)
    values[:], own[:] = 0, 128
    if metric >= 3:
        for i in range(d):
            own[i] = np.uint8(128 + min(max(np.rint((x[i] - mean[i]) / step), -128), 127))
        return np.float32(0), 0
    scale = inverse if metric == 2 else np.float32(1)
    shift = np.float32(0) if metric == 1 else np.float32(1)
    for i in range(d):
        largest = max(largest, abs(x[i] * scale - shift * mean[i]))
    by = np.float32(127) / largest if largest > 0 else np.float32(0)
    total = 0
    for i in range(d):
        value = np.int8(np.rint((x[i] * scale - shift * mean[i]) * by))
        if bits == 4:
            values[i // 64 % 2, i // 128 * 64 + i % 64] = value
        else:
            values[0, i] = value
        total += int(value)
    factor = (2 if metric == 0 else 1) * (1 / by if by > 0 else 0.0) * (0.5 if bits == 4 else 1.0) * (1.0 if factors.shape[0] else step)
    return np.float32(factor), (15 if bits == 4 else 128) * total


@_jit
def _nearest(x, inverse, points, scale, metric, entry, entry_n, n, k, best, best_n, none):  # type: ignore[no-untyped-def]
    size, total, squares = 0, 0.0, 0.0
    for i in range(n):
        if i % 4 == 0 and i >= 8 and i >= k and metric < 3:
            mean = total / i
            if entry[i] + mean - 3 * np.sqrt(max(squares / i - mean * mean, 0.0)) > best[size - 1]:
                break
        node = entry_n[i]
        d = _distance(x, inverse, points[node], scale[node], metric)
        total += d - entry[i]
        squares += (d - entry[i]) ** 2
        if _add(best, best_n, none, size, k, d, node) >= 0:
            size = min(size + 1, k)
    return size


@_jit
def _queries(queries, points, scale, metric, mean, step, codes, squares, factors, bits, links, starts, top_codes, top_squares, top_factors, top_links, top_rows, own_starts, walk, k, ef, cap, depth, mask, ids, far):  # type: ignore[no-untyped-def]
    masked, n = mask.shape[0] > 0, codes.shape[0]
    seen, top_seen = np.zeros(n if walk else 0, np.int64), np.zeros(top_codes.shape[0], np.int64)
    pool, pool_n, done = np.empty(cap, np.float64), np.empty(cap, np.int64), np.zeros(cap, np.uint8)
    found, found_n, none = np.empty(ef, np.float64), np.empty(ef, np.int64), np.zeros(max(ef, k), np.uint8)
    values, own = np.empty((8 // bits, codes.shape[1]), np.int8), np.empty(codes.shape[1], np.uint8)
    sums = np.empty((0, 2), np.int32)
    best, best_n = np.empty(k, np.float32), np.empty(k, np.int64)
    for q in range(queries.shape[0]):
        x, inverse = queries[q], _inverse(queries[q])
        factor, less = _prepare(x, metric, bits, mean, step, factors, inverse, values, own)
        if walk:
            begin = starts
            if own_starts.shape[0]:
                begin = own_starts[q]
            elif top_rows.shape[0]:
                begin = _begin(top_codes, sums, top_squares, top_factors, bits, metric, own, values, -1, factor, less, top_links, top_rows, starts, top_seen,
                               q + 1)  # fmt: skip
            size, hits, _ = _walk(codes, sums, squares, factors, bits, metric, own, values, -1, factor, less, links, begin, cap, mask, ef, seen,
                               q + 1, pool, pool_n, done, found, found_n, none, pool[:0], pool_n[:0])  # fmt: skip
        else:
            size = hits = 0
            for node in range(n):
                if masked and not mask[node]:
                    continue
                d = _estimate(codes, squares, factors, bits, metric, own, values, factor, less, node)
                if size == cap and d > pool[cap - 1]:
                    continue
                if _add(pool, pool_n, done, size, cap, d, node) >= 0:
                    size = min(size + 1, cap)
        if masked and walk:
            got = _nearest(x, inverse, points, scale, metric, found, found_n, min(hits, depth), k, best, best_n, none)
        else:
            got = _nearest(x, inverse, points, scale, metric, pool, pool_n, min(size, depth), k, best, best_n, none)
        ids[q, :got], far[q, :got] = best_n[:got], best[:got]


@_jit
def _ranges(queries, points, scale, metric, mean, step, codes, squares, factors, bits, order, ranges, k, depth, mask, ids, far):  # type: ignore[no-untyped-def]
    pool, pool_n, done = np.empty(depth, np.float64), np.empty(depth, np.int64), np.zeros(depth, np.uint8)
    values, own = np.empty((8 // bits, codes.shape[1]), np.int8), np.empty(codes.shape[1], np.uint8)
    best, best_n, none = np.empty(k, np.float32), np.empty(k, np.int64), np.zeros(k, np.uint8)
    for q in range(queries.shape[0]):
        x, inverse, size = queries[q], _inverse(queries[q]), 0
        factor, less = _prepare(x, metric, bits, mean, step, factors, inverse, values, own)
        for r in range(ranges.shape[1]):
            for at in range(ranges[q, r, 0], ranges[q, r, 1]):
                if mask.shape[0] and not mask[order[at]]:
                    continue
                d = _estimate(codes, squares, factors, bits, metric, own, values, factor, less, at)
                if size == depth and d > pool[depth - 1]:
                    continue
                if _add(pool, pool_n, done, size, depth, d, at) >= 0:
                    size = min(size + 1, depth)
        for i in range(size):
            pool_n[i] = order[pool_n[i]]
        got = _nearest(x, inverse, points, scale, metric, pool, pool_n, size, k, best, best_n, none)
        ids[q, :got], far[q, :got] = best_n[:got], best[:got]


@_jit
def _estimates(queries, metric, mean, step, codes, squares, factors, bits, rows, far):  # type: ignore[no-untyped-def]
    values, own = np.empty((8 // bits, codes.shape[1]), np.int8), np.empty(codes.shape[1], np.uint8)
    for q in range(queries.shape[0]):
        x, inverse = queries[q], _inverse(queries[q])
        factor, less = _prepare(x, metric, bits, mean, step, factors, inverse, values, own)
        for i in range(rows.shape[1]):
            if rows[q, i] >= 0:
                far[q, i] = _estimate(codes, squares, factors, bits, metric, own, values, factor, less, rows[q, i])


class Net(numpy_codes.Net):
    """The arrays that numpy's holds, walked by compiled loops."""

    def search(
        self, queries: np.ndarray, k: int, ef: int, depth: int, mask: np.ndarray | None, starts: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check_search(queries, k, ef, depth, starts)
        cap = ef if mask is None else min(len(self.codes), 32 * ef)
        return self._run(queries, numpy_codes.entries(len((self.top or self).codes)), True, k, ef, cap, depth, mask,
                         self.forest_starts(queries) if starts is None else starts)  # fmt: skip

    def scan(self, queries: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        self.check_depth(k, depth)
        return self._run(queries, np.empty(0, np.int64), False, k, 1, max(depth, 1), depth, mask)

    def ranges(
        self, queries: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check_depth(k, depth)
        self.check_width(queries)
        self.check_ranges(queries, order, ranges)
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        if k and len(queries):
            allowed = np.empty(0, np.uint8) if mask is None else mask
            _ranges(queries, self.points, self.scale, self.metric, self.mean, self.step, self.codes, self.squares, self.factors, self.bits, order,
                    ranges, k, depth, allowed, ids, far)  # fmt: skip
        return ids, far

    def estimates(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self.check_rows(queries, rows)
        far = np.full(rows.shape, np.inf, np.float32)
        _estimates(queries, self.metric, self.mean, self.step, self.codes, self.squares, self.factors, self.bits, rows, far)
        return far

    def _above(self) -> tuple[np.ndarray, ...]:
        if self.top is None or self.rows is None:
            return self.codes[:0], self.squares[:0], self.factors[:0], np.empty((0, 0), np.uint32), np.empty(0, np.int64)
        return self.top.codes, self.top.squares, self.top.factors, self.top.links, self.rows

    def _run(
        self, queries: np.ndarray, starts: np.ndarray, walk: bool, k: int, ef: int, cap: int, depth: int, mask: Any, own: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        self.need_points()
        self.check_width(queries)
        if k and len(queries):
            allowed = np.empty(0, np.uint8) if mask is None else mask
            _queries(queries, self.points, self.scale, self.metric, self.mean, self.step, self.codes, self.squares, self.factors, self.bits,
                     self.links, starts, *self._above(), np.empty((0, 0), np.int64) if own is None else own.astype(np.int64), walk, k, ef, cap, depth, allowed, ids, far)  # type: ignore[call-arg]  # fmt: skip
        return ids, far


def code_net(
    points: np.ndarray, scale: np.ndarray, metric: int, mean: np.ndarray, step: float, codes: np.ndarray, squares: np.ndarray,
    factors: np.ndarray, bits: int, links: np.ndarray, top: Any, rows: np.ndarray | None, forest: Any = None,
) -> Net:  # fmt: skip
    return Net(points, scale, metric, mean, step, codes, squares, factors, bits, links, top, rows, forest)
