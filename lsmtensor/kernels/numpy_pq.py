"""The definitions of the kernels over product codes."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError
from .numpy_codes import Entry
from .numpy_codes import Net as CodeNet

BLOCK = 32


def encode(x: np.ndarray, books: np.ndarray) -> np.ndarray:
    m, width, count = books.shape
    if count not in (16, 256) or m == 0 or m * width < x.shape[1]:
        raise InvalidArgumentError(f"{x.shape[1]} dimensions by {m} parts of {width} with {count} centroids")
    parts = np.zeros((len(x), m * width), np.float32)
    parts[:, : x.shape[1]] = x
    out = np.empty((len(x), m), np.uint8)
    for j in range(m):
        out[:, j] = ((parts[:, j * width : (j + 1) * width, None] - books[j]) ** 2).sum(1).argmin(1)
    return out


def packed(codes: np.ndarray) -> np.ndarray:
    """4-bit codes, uint8 (n, m), as blocks (n / 32, pairs, 32)."""
    n, m = codes.shape
    pairs = -(-m // 4) * 2
    whole = np.zeros((-(-n // BLOCK) * BLOCK, 2 * pairs), np.uint8)
    whole[:n, :m] = codes
    both = (whole[:, 0::2] | whole[:, 1::2] << np.uint8(4)).reshape(-1, BLOCK, pairs)
    return np.ascontiguousarray(both.transpose(0, 2, 1))


class Net:
    """Product codes, as `pq_net` declares them."""

    def __init__(self, points: np.ndarray, scale: np.ndarray, metric: int, books: np.ndarray, codes: np.ndarray, bias: np.ndarray) -> None:
        n, d = points.shape
        m, width, count = books.shape
        blocks, self.pairs = -(-n // BLOCK), -(-m // 4) * 2
        wanted = (blocks, self.pairs, BLOCK) if count == 16 else (BLOCK * blocks, m)
        if n == 0 or m == 0 or count not in (16, 256) or m * width < d or codes.shape != wanted:
            raise InvalidArgumentError(f"codes {codes.shape} of {n} x {d} by {m} parts with {count} centroids; wanted {wanted}")
        if len(scale) != n or len(bias) != BLOCK * blocks or not 0 <= metric <= 4 or m > 4096:
            raise InvalidArgumentError(f"{len(scale)} scales and {len(bias)} biases for {n} rows, {m} parts; biases fill whole blocks of {BLOCK}")
        self.points, self.scale, self.metric, self.books, self.codes, self.bias = points, scale, metric, books, codes, bias

    def chosen(self, places: np.ndarray) -> np.ndarray:
        """int64 (places, m): the centroids of rows at some places."""
        m = self.books.shape[0]
        if self.books.shape[2] == 256:
            return self.codes[places].astype(np.int64)
        both = self.codes[places // BLOCK, :, places % BLOCK]
        return np.stack([both & 15, both >> 4], 2).reshape(len(places), 2 * self.pairs)[:, :m].astype(np.int64)

    def tables(self, query: np.ndarray) -> np.ndarray:
        """float32 (m, count): what each centroid adds to an estimate."""
        m, width, _ = self.books.shape
        square = np.float32(query @ query)
        by = -1 if self.metric == 1 else -2 if self.metric != 2 else -1 / np.sqrt(square) if square > 0 else 0
        parts = np.zeros(m * width, np.float32)
        parts[: len(query)] = np.float32(by) * query
        made: np.ndarray = np.einsum("ms,msc->mc", parts.reshape(m, width), self.books)
        return made

    def rounded(self, table: np.ndarray) -> tuple[np.ndarray, np.float32, np.float32]:
        """(whole numbers (m, 16), their step, the sum of what they are above)."""
        most = min(127, 65535 // len(table))
        low = table.min(1)
        widest = (table.max(1) - low).max()
        step = np.float32(widest / np.float32(most)) if widest > 0 else np.float32(1)
        return np.minimum(((table - low[:, None]) * (1 / step) + np.float32(0.5)).astype(np.int64), most), step, np.float32(low.sum(dtype=np.float32))

    def ranges(
        self, queries: np.ndarray, base: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.check(queries, base, order, ranges, k, depth)
        exact = CodeNet.__new__(CodeNet)
        exact.points, exact.scale, exact.metric = self.points, self.scale, self.metric
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        for i, query in enumerate(queries if k else []):
            table, step, least = self.tables(query), np.float32(1), np.float32(0)
            if self.books.shape[2] == 16:
                table, step, least = self.rounded(table)
            found: list[Entry] = []
            for offset, (start, stop) in zip(base[i], ranges[i], strict=True):
                places = np.arange(start, stop)
                if mask is not None:
                    places = places[mask[order[places]] != 0]
                sums = np.take_along_axis(table[None], self.chosen(places)[:, :, None], 2)[:, :, 0].sum(1)
                estimates = (offset + least) + self.bias[places] + step * sums.astype(np.float32)
                found += zip(estimates.tolist(), order[places].tolist(), strict=True)
            rows, distances = exact.nearest(query, sorted(found)[:depth], k)
            ids[i, : len(rows)], far[i, : len(rows)] = rows, distances
        return ids, far

    def check(self, queries: np.ndarray, base: np.ndarray, order: np.ndarray, ranges: np.ndarray, k: int, depth: int) -> None:
        if not 0 <= k <= depth or ranges.shape[0] != len(queries) or ranges.shape[2] != 2 or base.shape != ranges.shape[:2]:
            raise InvalidArgumentError(f"k {k}, depth {depth}, ranges {ranges.shape}, bases {base.shape}; give k <= depth, a pair and a base for each query")
        if queries.shape[1] != self.points.shape[1] or len(order) != len(self.points):
            raise InvalidArgumentError(f"queries have {queries.shape[1]} dimensions, rows {self.points.shape[1]}; an order has one entry a row")
        if (ranges[:, :, 0] < 0).any() or (ranges[:, :, 0] > ranges[:, :, 1]).any() or (ranges[:, :, 1] > len(order)).any():
            raise InvalidArgumentError(f"a range beyond {len(order)} places")
