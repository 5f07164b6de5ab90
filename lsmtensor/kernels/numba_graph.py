"""The graph kernels for Numba: the walk of numpy_graph.py as loops, compiled without the GIL and cached on disk."""

from __future__ import annotations

import numpy as np
from numba import njit

_jit = njit(nogil=True, cache=True, error_model="numpy")
# sums may be split into lanes; NaN and infinities keep their meaning
_sum = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})

NONE = np.uint32(0xFFFFFFFF)


@_sum
def _total(a, b, metric):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    if metric == 0:
        for i in range(a.shape[0]):
            x = a[i] - b[i]
            total += x * x
    elif metric == 3:
        for i in range(a.shape[0]):
            total += abs(a[i] - b[i])
    elif metric == 4:
        for i in range(a.shape[0]):
            total += np.float32(a[i] != b[i])
    else:
        for i in range(a.shape[0]):
            total += a[i] * b[i]
    return total


@_jit
def distance(a, scale_a, b, scale_b, metric):  # type: ignore[no-untyped-def]
    """Between two rows, with their inverse norms (cosine)."""
    total = _total(a, b, metric)
    if metric == 1:
        return -total
    return np.float32(1) - total * (scale_a * scale_b) if metric == 2 else total


@_jit
def _far(a, scale_a, b, scale_b, metric):  # type: ignore[no-untyped-def]
    d = distance(a, scale_a, b, scale_b, metric)
    return np.float32(np.inf) if d != d else d


@_jit
def _add(pool_d, pool_n, done, size, cap, d, node):  # type: ignore[no-untyped-def]
    """Put (d, node) in its place of a sorted pool; the place, or -1 when it is full of nearer ones."""
    if size == cap:
        if d > pool_d[size - 1] or (d == pool_d[size - 1] and node > pool_n[size - 1]):
            return -1
        size -= 1
    at = size
    while at > 0 and (pool_d[at - 1] > d or (pool_d[at - 1] == d and pool_n[at - 1] > node)):
        pool_d[at], pool_n[at], done[at] = pool_d[at - 1], pool_n[at - 1], done[at - 1]
        at -= 1
    pool_d[at], pool_n[at], done[at] = d, node, 0
    return at


@_jit
def _descend(q, sq, points, scale, metric, upper, upper_at, node, top, bottom):  # type: ignore[no-untyped-def]
    best = _far(q, sq, points[node], scale[node], metric)
    for level in range(top, bottom, -1):
        moved = True
        while moved:
            moved = False
            row = upper[upper_at[node] + level - 1]
            for j in range(row.shape[0]):
                if row[j] == NONE:
                    break
                d = _far(q, sq, points[row[j]], scale[row[j]], metric)
                if d < best or (d == best and row[j] < node):
                    best, node, moved = d, np.int64(row[j]), True
    return node


@_jit
def _beam(q, sq, points, scale, metric, net, at, entry, cap, mask, ef, seen, epoch, pool, pool_n, done, found, found_n, none):  # type: ignore[no-untyped-def]
    """(size of the pool, of what the mask allows); a node's neighbours are net[at[node]], or net[node] without ``at``."""
    fresh = np.empty(net.shape[1] + 1, np.int64)
    fresh[0], count, size, hits, here = entry, 1, 0, 0, 0
    masked = mask.shape[0] > 0
    seen[entry] = epoch
    while True:
        lowest = size
        for j in range(count):
            node = fresh[j]
            d = _far(q, sq, points[node], scale[node], metric)
            if masked:
                if hits == ef and (d > found[hits - 1] or (d == found[hits - 1] and node > found_n[hits - 1])):
                    continue
                if mask[node] and _add(found, found_n, none, hits, ef, d, node) >= 0:
                    hits = min(hits + 1, ef)
            place = _add(pool, pool_n, done, size, cap, d, node)
            if place >= 0:
                size = min(size + 1, cap)
                lowest = min(lowest, place)
        here = min(here, lowest)
        while here < size and done[here]:
            here += 1
        if here == size:
            break
        if masked and hits == ef and (pool[here] > found[ef - 1] or (pool[here] == found[ef - 1] and pool_n[here] > found_n[ef - 1])):
            break
        done[here] = 1
        row = net[at[pool_n[here]] if at.shape[0] else pool_n[here]]
        count = 0
        for j in range(row.shape[0]):
            if row[j] == NONE:
                break
            if seen[row[j]] != epoch:
                seen[row[j]] = epoch
                fresh[count] = row[j]
                count += 1
    return size, hits


@_jit
def _select(points, scale, metric, cand_d, cand_n, count, limit, row):  # type: ignore[no-untyped-def]
    kept = 0
    chosen = np.empty(row.shape[0], np.int64)
    for c in range(count):
        if kept == limit:
            break
        node, good = cand_n[c], True
        for j in range(kept):
            if _far(points[node], scale[node], points[chosen[j]], scale[chosen[j]], metric) < cand_d[c]:
                good = False
                break
        if good:
            chosen[kept] = node
            kept += 1
    for j in range(row.shape[0]):
        row[j] = chosen[j] if j < kept else NONE
    return kept


@_jit
def _connect(points, scale, metric, row, owner, new, cand_d, cand_n, done):  # type: ignore[no-untyped-def]
    width = row.shape[0]
    for j in range(width):
        if row[j] == NONE:
            row[j] = new
            return
    for j in range(width):
        node = np.int64(row[j])
        _add(cand_d, cand_n, done, j, width + 1, _far(points[owner], scale[owner], points[node], scale[node], metric), node)
    _add(cand_d, cand_n, done, width, width + 1, _far(points[owner], scale[owner], points[new], scale[new], metric), new)
    _select(points, scale, metric, cand_d, cand_n, width + 1, width, row)


@_jit
def graph_insert(points, scale, metric, links, upper, upper_at, levels, state, start, stop, ef):  # type: ignore[no-untyped-def]
    m, room = upper.shape[1], ef + 1
    wide = links.shape[1] + upper.shape[1] + 2
    seen, epoch = np.zeros(points.shape[0], np.int64), 0
    pool, pool_n, done = np.empty(room, np.float32), np.empty(room, np.int64), np.zeros(room, np.uint8)
    cand, cand_n, cand_done = np.empty(wide, np.float32), np.empty(wide, np.int64), np.zeros(wide, np.uint8)
    no_mask, plain = np.empty(0, np.uint8), np.empty(0, np.int64)
    for node in range(start, stop):
        level = np.int64(levels[node])
        if state[0] < 0:
            state[0], state[1] = node, level
            continue
        q, sq = points[node], scale[node]
        entry = _descend(q, sq, points, scale, metric, upper, upper_at, state[0], state[1], level)
        for here in range(min(level, state[1]), -1, -1):
            epoch += 1
            net, at = (links, plain) if here == 0 else (upper, upper_at + (here - 1))
            size, _ = _beam(q, sq, points, scale, metric, net, at, entry, ef, no_mask, 0, seen, epoch, pool, pool_n, done, cand, cand_n, cand_done)
            entry = pool_n[0]
            row = net[at[node] if here else node]
            kept = _select(points, scale, metric, pool, pool_n, size, m, row)
            for j in range(kept):
                owner = np.int64(row[j])
                _connect(points, scale, metric, net[at[owner] if here else owner], owner, node, cand, cand_n, cand_done)
        if level > state[1]:
            state[0], state[1] = node, level


@_jit
def _search(queries, points, scale, metric, links, upper, upper_at, state, k, ef, mask, ids, distances):  # type: ignore[no-untyped-def]
    masked = mask.shape[0] > 0
    cap = min(points.shape[0], 32 * ef) if masked else ef
    seen, plain = np.zeros(points.shape[0], np.int64), np.empty(0, np.int64)
    pool, pool_n, done = np.empty(cap, np.float32), np.empty(cap, np.int64), np.zeros(cap, np.uint8)
    found, found_n, none = np.empty(ef, np.float32), np.empty(ef, np.int64), np.zeros(ef, np.uint8)
    for i in range(queries.shape[0]):
        q, norm = queries[i], np.sqrt(_total(queries[i], queries[i], 1))
        sq = np.float32(1) / norm if norm > 0 else np.float32(0)
        entry = _descend(q, sq, points, scale, metric, upper, upper_at, state[0], state[1], 0)
        size, hits = _beam(q, sq, points, scale, metric, links, plain, entry, cap, mask, ef, seen, i + 1, pool, pool_n, done, found, found_n, none)
        for j in range(min(k, hits if masked else size)):
            ids[i, j], distances[i, j] = (found_n[j], found[j]) if masked else (pool_n[j], pool[j])


def graph_search(
    queries: np.ndarray, points: np.ndarray, scale: np.ndarray, metric: int, links: np.ndarray, upper: np.ndarray,
    upper_at: np.ndarray, state: np.ndarray, k: int, ef: int, mask: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    ids, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    if k and state[0] >= 0:
        none = np.empty(0, np.uint8)
        _search(queries, points, scale, metric, links, upper, upper_at, state, k, ef, none if mask is None else mask, ids, distances)
    return ids, distances
