"""The definitions of the kernels over quantized rows: the contract's numpy versions, too long for contract.py."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError

NONE = 0xFFFFFFFF
LINE = 64
# walks begin at so many rows and expand so many at once
ENTRIES, AHEAD = 32, 2
# the beam of the walk in the graph above, and how many of what it finds are begun from
TOP, BEGIN = 8, 4
# how many of the rows that a walk expands first are candidates for links, though nearer ones came: the way there
TRAIL = 64
# the most rows that a query may name to begin at
STARTS = 512

Entry = tuple[float, int]
Far = Callable[[np.ndarray], np.ndarray]


def entries(have: int) -> np.ndarray:
    """Where walks among the first ``have`` rows begin: some of them, scattered, the same until their number doubles."""
    from .contract import mix64

    power = 1 << (have.bit_length() - 1)
    return np.array(list(dict.fromkeys((mix64(np.arange(1, ENTRIES + 1, dtype=np.uint64)) & np.uint64(power - 1)).tolist())), np.int64)


def neighbours(row: np.ndarray) -> np.ndarray:
    return row[row != NONE].astype(np.int64)


def between(codes: np.ndarray, sums: np.ndarray, metric: int, node: int) -> Far:
    """Distances from a row of 8-bit codes to others, whole numbers."""
    own = codes[node].astype(np.int64) - 128

    def far(ids: np.ndarray) -> np.ndarray:
        others = codes[ids].astype(np.int64) - 128
        if metric == 3:
            return np.abs(others - own).sum(1)
        if metric == 4:
            return (others != own).sum(1)
        dots = others @ own
        return -dots if metric == 1 else sums[ids, 0].astype(np.int64) + int(sums[node, 0]) - 2 * dots

    return far


def walk(
    far: Far, links: np.ndarray, starts: np.ndarray, cap: int, mask: np.ndarray | None = None, ef: int = 0, trail: list[Entry] | None = None,
) -> tuple[list[Entry], list[Entry]]:
    """(the ``cap`` nearest reached, the ``ef`` nearest of them that the mask allows), sorted by (distance, row)."""
    pool: list[Entry] = []
    found: list[Entry] = []
    done: set[int] = set()
    seen = set(fresh := list(dict.fromkeys(starts.tolist())))
    while True:
        if fresh:
            for entry in zip(far(np.array(fresh)).tolist(), fresh, strict=True):
                if mask is not None:
                    if len(found) == ef and entry > found[-1]:
                        continue
                    if mask[entry[1]]:
                        insort(found, entry)
                        del found[ef:]
                if len(pool) == cap and entry > pool[-1]:
                    continue
                insort(pool, entry)
                del pool[cap:]
        picked: list[int] = []
        for entry in pool:
            if entry[1] in done:
                continue
            if len(picked) == AHEAD or (mask is not None and len(found) == ef and entry > found[-1]):
                break
            picked.append(entry[1])
            if trail is not None and len(trail) < TRAIL:
                trail.append(entry)
        if not picked:
            return pool, found
        done.update(picked)
        fresh = []
        for node in picked:
            fresh += [n for n in neighbours(links[node]).tolist() if n not in seen]
            seen.update(fresh)


def above(far: Far, links: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows that a walk begins at, by one in the graph above."""
    pool, _ = walk(far, links, entries(len(rows)), TOP)
    return rows[[place for _, place in pool[:BEGIN]]]


def select(codes: np.ndarray, sums: np.ndarray, metric: int, candidates: list[Entry], limit: int, alpha: int) -> list[int]:
    """Of sorted candidates each that no kept one comes between."""
    kept: list[int] = []
    for d, node in candidates:
        if len(kept) == limit:
            break
        reach = between(codes, sums, metric, node)(np.array(kept, np.int64)) if kept else np.empty(0, np.int64)
        if ((reach > d) if metric == 1 else (alpha * reach > 256 * d)).all():
            kept.append(node)
    return kept


def link(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, nodes: np.ndarray, starts: np.ndarray, top: Any, ef: int, degree: int,
    alpha: int,
) -> np.ndarray:  # fmt: skip
    out = np.full((len(nodes), degree), NONE, np.uint32)
    for i, node in enumerate(nodes.tolist()):
        far, begin, old = between(codes, sums, metric, node), starts, neighbours(links[node])
        if len(starts) == 0 and top is None:
            begin = old
        elif len(starts) == 0:
            rows = top[3].astype(np.int64)
            begin = above(lambda ids, far=far, rows=rows: far(rows[ids]), top[2], rows)  # type: ignore[misc]
        trail: list[Entry] = []
        pool, _ = walk(far, links, begin, ef, trail=trail)
        candidates = sorted({*(e for e in pool + trail if e[1] != node), *zip(far(old).tolist(), old.tolist(), strict=True)})
        kept = select(codes, sums, metric, candidates, degree, alpha)
        out[i, : len(kept)] = kept
    return out


def _chosen(codes: np.ndarray, sums: np.ndarray, metric: int, owner: int, ids: np.ndarray, degree: int, alpha: int) -> list[int]:
    candidates = sorted(zip(between(codes, sums, metric, owner)(ids).tolist(), ids.tolist(), strict=True))
    return select(codes, sums, metric, candidates, degree, alpha)


def reverse(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, out: np.ndarray, nodes: np.ndarray, alpha: int, part: int, parts: int,
) -> None:  # fmt: skip
    degree = out.shape[1]
    for node, row in zip(nodes.tolist(), out, strict=True):
        if node % parts == part:
            links[node] = NONE
            links[node, :degree] = row
    for node, row in zip(nodes.tolist(), out, strict=True):
        for owner in neighbours(row).tolist():
            near = neighbours(links[owner])
            if owner % parts != part or node in near:
                continue
            kept = [*near.tolist(), node]
            if len(kept) > links.shape[1]:
                kept = _chosen(codes, sums, metric, owner, np.array(kept), degree, alpha)
            links[owner] = NONE
            links[owner, : len(kept)] = kept


def shrink(
    codes: np.ndarray, sums: np.ndarray, metric: int, links: np.ndarray, start: int, stop: int, degree: int, alpha: int
) -> np.ndarray:
    out = np.full((stop - start, degree), NONE, np.uint32)
    for node in range(start, stop):
        near = neighbours(links[node])
        near = near[near < len(codes)]
        kept = near.tolist() if len(near) <= degree else _chosen(codes, sums, metric, node, near, degree, alpha)
        out[node - start, : len(kept)] = kept
    return out


def nearest(codes: np.ndarray, sums: np.ndarray, metric: int, nodes: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    out = np.full((len(nodes), k), NONE, np.uint32)
    for i, node in enumerate(nodes.tolist()):
        others = among[among != node].astype(np.int64)
        found = others[np.lexsort((others, between(codes, sums, metric, node)(others)))[:k]]
        out[i, : len(found)] = found
    return out


class Forest:
    """Keys in order and the rows that have them, as `code_forest` declares them."""

    def __init__(self, planes: np.ndarray, shifts: np.ndarray, keys: np.ndarray, rows: np.ndarray, nprobe: int, window: int) -> None:
        t, m = keys.shape
        fits = planes.ndim == 3 and planes.shape[:2] == (t, 32) and shifts.shape == (t, 32) and rows.shape == (t, m) and t >= 1 and m >= 1
        if not fits or not 1 <= nprobe <= 32 or window < 1 or t * nprobe * window > STARTS:
            raise InvalidArgumentError(
                f"a forest of planes {planes.shape}, shifts {shifts.shape}, keys {keys.shape}, rows {rows.shape}, nprobe {nprobe}, window {window}; "
                f"give up to {STARTS} rows to begin at"
            )
        largest = np.abs(planes).max(initial=0)
        by = np.float32(127) / largest if largest > 0 else np.float32(0)
        self.planes, self.shifts = np.rint(planes * by).astype(np.int8), shifts * by
        self.keys, self.rows, self.nprobe, self.window, self.highest = keys, rows, nprobe, window, int(rows.max())

    def offsets(self, mean: np.ndarray, metric: int) -> np.ndarray:
        """float32 (t, 32): what a side is more than the product with v, which lacks the mean but for ip."""
        means = np.zeros_like(self.shifts) if metric == 1 else (self.planes.astype(np.float64) @ mean).astype(np.float32)
        return means - self.shifts

    def starts(self, v: np.ndarray, unit: np.float32, offsets: np.ndarray) -> np.ndarray:
        """uint32 (t * nprobe * window,): the rows that the walk of a query begins at, its values v whole numbers of ``unit``."""
        t, m = self.keys.shape
        sides = (self.planes.astype(np.float64) @ v).astype(np.float32) * unit + offsets
        own = np.packbits(sides > 0, axis=1).view(">u4").astype(np.uint32)
        unsure = np.argsort(np.abs(sides[:, : prefix_of(m, self.window)]), axis=1, kind="stable")[:, : self.nprobe - 1]
        asked = np.concatenate([own, own ^ (np.uint32(1) << (31 - unsure).astype(np.uint32))], 1)
        places = np.stack([np.searchsorted(keys, sought) for keys, sought in zip(self.keys, asked, strict=True)])
        around = np.clip(places[:, :, None] + np.arange(-(self.window // 2), self.window - self.window // 2), 0, m - 1)
        return np.stack([rows[near] for rows, near in zip(self.rows, around, strict=True)]).ravel()


def prefix_of(m: int, window: int) -> int:
    """How many leading bits tell so many rows apart that ``window`` share them."""
    return min(32, max(1, (m // window).bit_length() - 1))


class Net:
    """Rows and their codes, as `code_net` declares them."""

    codes: np.ndarray

    def __init__(
        self, points: np.ndarray, scale: np.ndarray, metric: int, mean: np.ndarray, step: float, codes: np.ndarray, squares: np.ndarray,
        factors: np.ndarray, bits: int, links: np.ndarray, top: Net | None, rows: np.ndarray | None, forest: Any = None,
    ) -> None:  # fmt: skip
        n, self.d = len(codes), points.shape[1]
        wanted = (n if metric in (0, 2) else 0, n if bits == 4 else 0)
        if 0 < len(points) < n or len(scale) < n or (links.shape[1] and len(links) < n) or len(mean) != self.d or n == 0 or self.d == 0:
            raise InvalidArgumentError(f"{n} codes of {len(points)} points, {len(scale)} scales, {len(links)} rows of links, a mean of {len(mean)}")
        if (len(squares), len(factors)) != wanted:
            raise InvalidArgumentError(f"{len(squares)} squares, {len(factors)} factors for {n} codes; squares for l2 and cosine, factors for 4 bits")
        if bits not in (4, 8) or codes.shape[1] % LINE or codes.shape[1] * (8 // bits) < self.d or (metric >= 3 and bits != 8):
            raise InvalidArgumentError(f"codes of {bits} bits in {codes.shape[1]} bytes for {self.d} dimensions; whole lines of 64 bytes, 4 or 8 bits")
        if top is not None and (rows is None or len(rows) != len(top.codes) or top.d != self.d or rows.max() >= n):
            raise InvalidArgumentError(f"a graph of {len(top.codes)} rows of {top.d} dimensions above {n} of {self.d}")
        if forest is not None and (forest.planes.shape[2] != self.d or forest.highest >= n):
            raise InvalidArgumentError(f"a forest over {forest.highest + 1} rows of {forest.planes.shape[2]} dimensions for {n} of {self.d}")
        self.forest = forest
        self.offsets = np.empty((0, 0), np.float32) if forest is None else forest.offsets(mean, metric)
        self.top, self.rows = top, None if rows is None else rows.astype(np.int64)
        self.points, self.scale, self.metric, self.mean, self.step = points, scale, metric, mean, np.float32(step)
        self.codes, self.squares, self.factors, self.bits, self.links = codes, squares, factors, bits, links

    def values(self, ids: np.ndarray) -> np.ndarray:
        """int64 (m, d): what the codes of some rows stand for, before factors."""
        codes = self.codes[ids]
        if self.bits == 8:
            return codes[:, : self.d].astype(np.int64) - 128
        lines = codes.reshape(len(codes), codes.shape[1] // LINE, LINE)
        return np.stack([lines & 15, lines >> 4], 2).reshape(len(codes), 2 * codes.shape[1])[:, : self.d].astype(np.int64) * 2 - 15

    def far_from(self, query: np.ndarray) -> Far:
        """Estimates, as backends rank by them."""
        if self.metric >= 3:
            own = np.clip(np.rint((query - self.mean) / self.step), -128, 127).astype(np.int64)
            count = np.abs if self.metric == 3 else np.sign
            return lambda ids: np.abs(count(self.values(ids) - own)).sum(1)
        v, unit = self.whole(query)
        factor = np.float32((2 if self.metric == 0 else 1) * unit * (0.5 if self.bits == 4 else self.step))

        def far(ids: np.ndarray) -> np.ndarray:
            dots = factor * (self.values(ids) @ v).astype(np.float32)
            made: np.ndarray = (self.squares[ids] if len(self.squares) else 0) - (self.factors[ids] if len(self.factors) else 1) * dots
            return made

        return far

    def whole(self, query: np.ndarray) -> tuple[np.ndarray, np.float32]:
        """A query as int64 (d,) up to 127, and what they are whole numbers of."""
        x = query * np.float32(self.inverse(query)) if self.metric == 2 else query
        if self.metric != 1:
            x = x - self.mean
        largest = np.abs(x).max()
        by = np.float32(127) / largest if largest > 0 else np.float32(0)
        return np.rint(x * by).astype(np.int64), np.float32(1) / by if by > 0 else np.float32(0)

    def inverse(self, query: np.ndarray) -> float:
        square = float(query @ query)
        return 1 / square**0.5 if square > 0 else 0.0

    def exact(self, query: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Distances to full rows, whose numbers are ``ids``."""
        out: np.ndarray
        if self.metric == 0:
            out = ((rows - query) ** 2).sum(1)
        elif self.metric < 3:
            dots = rows @ query
            out = -dots if self.metric == 1 else 1 - dots * (np.float32(self.inverse(query)) * self.scale[ids])
        else:
            out = np.abs(rows - query).sum(1) if self.metric == 3 else (rows != query).sum(1).astype(np.float32)
        return out

    def nearest(self, query: np.ndarray, entry: list[Entry], k: int) -> tuple[list[int], list[float]]:
        """The k nearest by their full rows; ends where three standard deviations of the error seen would not bring another in."""
        best: list[Entry] = []
        errors: list[float] = []
        for at in range(0, len(entry), 4):
            if at >= max(8, k) and self.metric < 3 and entry[at][0] + np.mean(errors) - 3 * np.std(errors) > best[-1][0]:
                break
            ids = np.array([node for _, node in entry[at : at + 4]])
            out = self.exact(query, self.points[ids], ids)
            for (estimate, node), d in zip(entry[at : at + 4], out.tolist(), strict=True):
                errors.append(d - estimate)
                best.insert(bisect_left(best, (d, node)), (d, node))
                del best[k:]
        return [node for _, node in best], [d for d, _ in best]

    def search(
        self, queries: np.ndarray, k: int, ef: int, depth: int, mask: np.ndarray | None, starts: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check_search(queries, k, ef, depth, starts)
        cap = ef if mask is None else min(len(self.codes), 32 * ef)
        self.need_points()
        if starts is None:
            starts = self.forest_starts(queries)
        own = None if starts is None else iter(starts.astype(np.int64))

        def one(query: np.ndarray) -> list[Entry]:
            begin = self.begin(query) if own is None else next(own)
            pool, found = walk(self.far_from(query), self.links, begin, cap, mask, ef)
            return pool if mask is None else found

        return self._each(queries, k, depth, one)

    def begin(self, query: np.ndarray) -> np.ndarray:
        """The rows that a walk begins at, without a forest."""
        if self.top is None or self.rows is None:
            return entries(len(self.codes))
        return above(self.top.far_from(query), self.top.links, self.rows)

    def forest_starts(self, queries: np.ndarray) -> np.ndarray | None:
        if self.forest is None:
            return None
        return np.stack([self.forest.starts(*self.whole(q), self.offsets) for q in queries]) if len(queries) else np.empty((0, 1), np.uint32)

    def check_search(self, queries: np.ndarray, k: int, ef: int, depth: int, starts: np.ndarray | None) -> None:
        if not 0 <= k <= depth <= ef or self.links.shape[1] == 0:
            raise InvalidArgumentError(f"k {k}, depth {depth}, ef {ef}; give k <= depth <= ef, and a net with links")
        if starts is not None and (starts.ndim != 2 or len(starts) != len(queries) or not 1 <= starts.shape[1] <= STARTS or (starts >= len(self.codes)).any()):
            raise InvalidArgumentError(f"starts {starts.shape} for {len(queries)} queries of {len(self.codes)} rows; give 1 to {STARTS} rows each")

    def scan(self, queries: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        self.check_depth(k, depth)
        allowed = np.arange(len(self.codes)) if mask is None else np.flatnonzero(mask)
        return self._each(queries, k, depth, lambda q: sorted(zip(self.far_from(q)(allowed).tolist(), allowed.tolist(), strict=True)))

    def ranges(
        self, queries: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check_depth(k, depth)
        turn = iter(self.places(queries, order, ranges, mask))

        def one(query: np.ndarray) -> list[Entry]:
            places = next(turn)
            near = sorted(zip(self.far_from(query)(places).tolist(), places.tolist(), strict=True))
            return [(far, int(order[place])) for far, place in near]

        return self._each(queries, k, depth, one)

    def places(self, queries: np.ndarray, order: np.ndarray, ranges: np.ndarray, mask: np.ndarray | None) -> list[np.ndarray]:
        """Of each query the places in its ranges whose rows the mask allows."""
        self.check_ranges(queries, order, ranges)
        whole = [np.concatenate([np.empty(0, np.int64), *(np.arange(a, b) for a, b in own)]) for own in ranges]
        return whole if mask is None else [places[mask[order[places]] != 0] for places in whole]

    def check_ranges(self, queries: np.ndarray, order: np.ndarray, ranges: np.ndarray) -> None:
        if ranges.shape[0] != len(queries) or len(order) != len(self.codes):
            raise InvalidArgumentError(f"ranges {ranges.shape}, an order of {len(order)}; give pairs for each query and a row for each code")
        if (ranges[:, :, 0] < 0).any() or (ranges[:, :, 0] > ranges[:, :, 1]).any() or (ranges[:, :, 1] > len(order)).any():
            raise InvalidArgumentError(f"a range beyond {len(order)} places")

    def estimates(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self.check_rows(queries, rows)
        far = np.full(rows.shape, np.inf, np.float32)
        for query, own, out in zip(queries, rows, far, strict=True):
            out[own >= 0] = self.far_from(query)(own[own >= 0])
        return far

    def check_rows(self, queries: np.ndarray, rows: np.ndarray) -> None:
        if len(rows) != len(queries) or queries.shape[1] != self.d or (rows < -1).any() or (rows >= len(self.codes)).any():
            raise InvalidArgumentError(f"rows {rows.shape} of {len(self.codes)} for queries {queries.shape}; give rows of each query, -1 for none")

    def check_depth(self, k: int, depth: int) -> None:
        if not 0 <= k <= depth:
            raise InvalidArgumentError(f"k {k}, depth {depth}; give k <= depth")
        self.need_points()

    def check_width(self, queries: np.ndarray) -> None:
        if queries.shape[1] != self.d:
            raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, rows {self.d}")

    def need_points(self) -> None:
        if len(self.points) == 0:
            raise InvalidArgumentError("a net without points estimates only; give code_net the full rows")

    def _each(self, queries: np.ndarray, k: int, depth: int, entries_of: Callable[[np.ndarray], list[Entry]]) -> tuple[np.ndarray, np.ndarray]:
        self.check_width(queries)
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        for i, query in enumerate(queries if k else []):
            rows, distances = self.nearest(query, entries_of(query)[:depth], k)
            ids[i, : len(rows)], far[i, : len(rows)] = rows, distances
        return ids, far
