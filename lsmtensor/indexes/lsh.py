"""Locality-sensitive hashing with several probes a table.

Hyperplanes for cosine and inner product (Charikar, STOC 2002), steps along random lines for l2 and l1 (Datar et al., SoCG 2004; normal and
Cauchy lines), places for hamming (Indyk & Motwani, STOC 1998); buckets are probed in the order in which the query lies near to their
borders (Lv et al., VLDB 2007).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.contract import COSINE, HAMMING, IP, L1, L2
from . import REGISTRY
from .base import Found, VectorIndex
from .codes import CodedRows
from .params import SEEDS, check_counts, settled
from .rows import Rows

# the width of a step is so many of the median distance between rows; Cauchy lines have long tails
STEP = {L2: 0.5, L1: 1.5}
# buckets one change away are tried singly, then in pairs, up to this many changes a table
CHANGES = 24


@REGISTRY.register("lsh")
class LSH(VectorIndex):
    """``tables`` tables of ``bits`` hashes each (0: about log2 of n / 16, when the hashes are drawn); a search looks at the codes of the
    rows in ``nprobe`` buckets a table, and at the nearest of them in full.

    Build O(n tables bits d), one matrix product; search O((tables bits + candidates) d). Memory 8 ``tables`` and d / 2 (int4) or d bytes a row beside the vectors. Hashes
    are drawn at the first rows (l2 and l1 take the width of a step from them). ``nprobe`` is a search parameter too.
    """

    name = "lsh"
    learned = ("planes", "shift", "mean", "step", "lift")
    search_params = ("nprobe",)
    dial = "nprobe"

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, tables: int = 16, bits: int = 0,
        nprobe: int = 16, quant: str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        self.tables, self.bits, self.nprobe, self.seed = settled(
            "lsh", tables=(tables, 1, 1024), bits=(bits, 0, 60), nprobe=(nprobe, 1, 1 << 20), seed=(seed, *SEEDS)
        )
        self.quant = quant
        super().__init__(dim, metric, kernel, threads)
        CodedRows.check(self.name, self.dim, self._code, quant)

    def _settings(self) -> dict[str, Any]:
        return {"tables": self.tables, "bits": self.bits, "nprobe": self.nprobe, "quant": self.quant, "seed": self.seed}

    def _clear(self) -> None:
        self._planes = np.empty((0, self.dim), np.float32)
        self._shift = np.empty(0, np.float32)
        # the bucket of each row in each table
        self._keys = Rows(np.empty((0, self.tables), np.uint64))
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._coded = CodedRows(self.dim, self._code, self.quant, self._kernels)
        self._net: Any = None

    def _row_bytes(self) -> tuple[int, int]:
        codes, eight = self._coded.row_bytes()
        return codes + 8 * self.tables, eight

    # -- hashing ---------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Draw the hashes with the steps that suit a sample (n, dim); rows that are there are hashed anew."""
        rows = self._check(x, "x")
        if len(rows):
            self._clear()
            self._draw(rows)
            self._hash(0, len(self._vectors))
        return self

    def _draw(self, rows: np.ndarray) -> None:
        rng = np.random.default_rng(self.seed)
        self._coded.learn(rows, self.seed, self.budget)
        each = self._bits_for(len(rows))
        count = self.tables * each
        if self._code == HAMMING:
            planes = np.zeros((count, self.dim), np.float32)
            planes[np.arange(count), rng.integers(0, self.dim, count)] = 1
            self._planes, self._shift = planes, np.zeros(count, np.float32)
        elif self._code in (COSINE, IP):
            self._planes, self._shift = rng.standard_normal((count, self.dim), np.float32), np.zeros(count, np.float32)
        else:
            lines = rng.standard_normal((count, self.dim)) if self._code == L2 else rng.standard_cauchy((count, self.dim))
            pick = rows[rng.integers(0, len(rows), (2, 512))]
            apart = self._kernels.pairwise(pick[0][:64], pick[1][:64], self._code)
            typical = float(np.median(np.sqrt(apart) if self._code == L2 else apart)) or 1.0
            self._planes = np.ascontiguousarray(lines / (STEP[self._code] * typical * np.sqrt(each)), np.float32)
            self._shift = rng.random(count, np.float32)

    def _bits_for(self, n: int) -> int:
        return self.bits or max(4, int(np.log2(max(n, 1) / 16 + 1)))

    @property
    def _each(self) -> int:
        return len(self._planes) // self.tables

    def _values(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, tables, bits): where rows lie along each line."""
        made = -self._kernels.pairwise(rows, self._planes, IP) + self._shift
        return np.ascontiguousarray(made.reshape(len(rows), self.tables, self._each))

    def _steps(self, values: np.ndarray) -> np.ndarray:
        """int64: the step that each value lies on; for hyperplanes its side."""
        if self._code in (COSINE, IP):
            return (values > 0).astype(np.int64)
        return np.floor(np.clip(values, -(2.0**40), 2.0**40)).astype(np.int64)

    @staticmethod
    def _key(steps: np.ndarray) -> np.ndarray:
        """uint64 (...,): one number a bucket, by the same mixing for one and for all."""
        key = np.zeros(steps.shape[:-1], np.uint64)
        with np.errstate(over="ignore"):
            for j in range(steps.shape[-1]):
                key = (key ^ steps[..., j].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
        return key

    def _insert(self, start: int, stop: int) -> None:
        if len(self._planes) == 0:
            self._draw(self._vectors.array[:stop])
        self._hash(start, stop)

    def _hash(self, start: int, stop: int) -> None:
        self._sorted = self._net = None
        self._keys.cut(start)
        self._coded.cut(start)
        step = self._at_once(16384, 24 * len(self._planes) + 16 * self.dim)
        for at in range(start, stop, step):
            rows = self._vectors.array[at : min(at + step, stop)]
            self._coded.append(rows)
            self._keys.append(self._key(self._steps(self._values(rows))))
            self._tell((at + len(rows) - start) / (stop - start))

    # -- carried over to merged rows ---------------------------------------------------------------

    def _worth(self, known: int, rows: int) -> bool:
        """Also where no row is known: the hashes are, while about as many bits suit the rows."""
        return len(self._planes) > 0 and abs(self._each - self._bits_for(rows)) <= 1

    def _select(self, rows: np.ndarray) -> None:
        self._keys, self._sorted, self._net = Rows(self._keys.array[rows]), None, None
        self._coded.select(rows)

    def _shares(self, other: VectorIndex) -> bool:
        alike = isinstance(other, LSH) and np.array_equal(self._planes, other._planes) and np.array_equal(self._shift, other._shift)
        return alike and self._coded.like(other._coded)  # type: ignore[attr-defined]

    def _absorb(self, other: VectorIndex, rows: np.ndarray) -> None:
        self._keys.append(other._keys.array[rows])  # type: ignore[attr-defined]
        self._coded.absorb(other._coded, rows)  # type: ignore[attr-defined]
        self._sorted = self._net = None

    def _inserted(self, stop: int) -> int:
        return len(self._keys)

    # -- searching -------------------------------------------------------------------------------

    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """(keys in order, uint64 (tables, n); the rows that have them, int64); O(n log n) after a change."""
        if self._sorted is None:
            keys = np.ascontiguousarray(self._keys.array.T)
            order = np.argsort(keys, axis=1, kind="stable")
            self._sorted = np.take_along_axis(keys, order, 1), order
        return self._sorted

    def _probed(self, values: np.ndarray, probes: int) -> np.ndarray:
        """uint64 (tables, probes): the buckets nearest to one query, values (tables, bits)."""
        steps = self._steps(values)
        if self._code in (COSINE, IP):
            cost, change = np.abs(values), 1 - 2 * steps
        else:
            up = values - steps
            cost = np.concatenate([up, 1 - up], 1)
            change = np.concatenate([np.full(steps.shape, -1), np.full(steps.shape, 1)], 1)
        if self._code == HAMMING:
            return self._key(steps)[:, None]
        each = self._each
        nearest = np.argsort(cost, axis=1, kind="stable")[:, :CHANGES]
        cost = np.take_along_axis(cost, nearest, 1) ** 2
        change = np.take_along_axis(change, nearest, 1)
        place = nearest % each
        # one change, then two, by the sum of squares of what they cost
        first, second = np.triu_indices(cost.shape[1], 1)
        both = cost[:, first] + cost[:, second]
        both[place[:, first] == place[:, second]] = np.inf
        every = np.concatenate([np.zeros((self.tables, 1), cost.dtype), cost, both], 1)
        chosen = np.argsort(every, axis=1, kind="stable")[:, : min(probes, every.shape[1])]
        probed = np.repeat(steps[:, None, :], chosen.shape[1], 1)
        singles, pairs = cost.shape[1], (first, second)
        for which in (0, 1):
            two = np.take(pairs[which], np.maximum(chosen - 1 - singles, 0)) if cost.shape[1] > 1 else np.full(chosen.shape, -1)
            one = chosen - 1 if which == 0 else np.full(chosen.shape, -1)
            index = np.where(chosen <= singles, np.where(chosen == 0, -1, one), two)
            there = index >= 0
            t, p = np.nonzero(there)
            j = index[there]
            probed[t, p, place[t, j]] += change[t, j]
        return self._key(probed)

    def _candidates(self, values: np.ndarray, probes: int) -> np.ndarray:
        """uint8 (n,): 1 for the rows of the buckets probed."""
        keys, order = self._tables()
        wanted = self._probed(values, probes)
        parts = []
        for table in range(self.tables):
            low = np.searchsorted(keys[table], wanted[table], "left")
            high = np.searchsorted(keys[table], wanted[table], "right")
            parts += [order[table, a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True) if b > a]
        seen = np.zeros(len(self._vectors), np.uint8)
        if parts:
            seen[np.concatenate(parts)] = 1
        return seen

    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, nprobe: int | None = None, **params: Any) -> Found:
        check_counts(nprobe=nprobe)
        n = len(self._vectors)
        matches = n if mask is None else int(np.count_nonzero(mask))
        count, depth = int(nprobe or self.nprobe), 32 + 2 * k
        # what a few hundred rows cost to scan, or the matches that a filter leaves, is less than hashing
        if n == 0 or k == 0 or matches <= max(4 * k, 512, n // 20):
            rows, distances = self._kernels.topk(queries, self._vectors.array, k, self._code, mask)
            return rows, distances
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        short: list[int] = []
        if self._net is None:
            self._net = self._coded.net(self._vectors.array)
        for i, values in enumerate(self._values(queries)):
            there = self._candidates(values, count)
            if mask is not None:
                there &= mask
            ids[i], far[i] = (found[0] for found in self._kernels.code_scan(self._net, queries[i : i + 1], k, depth, there))
            if ids[i, k - 1] < 0:
                short.append(i)
        if short:
            # too few in the buckets: looked for everywhere
            ids[short], far[short] = self._kernels.topk(queries[short], self._vectors.array, k, self._code, mask)
        return ids, far

    # -- as bytes --------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"planes": self._planes, "shift": self._shift, "keys": self._keys.array, **self._coded.arrays()} if len(self._planes) else {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        n = len(self._vectors)
        if "planes" not in arrays:
            if n:
                raise CorruptionError(f"an lsh index of {n} rows has no hashes")
            return
        planes, shift, keys = (arrays.get(name, np.empty(0)) for name in ("planes", "shift", "keys"))
        fits = planes.ndim == 2 and planes.shape[1] == self.dim and len(planes) and len(planes) % self.tables == 0 and planes.dtype == np.float32
        if not fits or shift.shape != (len(planes),) or shift.dtype != np.float32 or keys.shape != (n, self.tables) or keys.dtype != np.uint64:
            raise CorruptionError(f"an lsh index of {n} rows and {self.tables} tables has planes {planes.shape}, shifts {shift.shape}, keys {keys.shape}")
        if not np.isfinite(planes).all() or not np.isfinite(shift).all():
            raise CorruptionError("the hashes of an lsh index hold NaN or infinity")
        self._coded.restore(arrays, n)
        self._planes, self._shift, self._keys, self._sorted, self._net = planes, shift, Rows(keys), None, None

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "tables": self.tables, "bits_a_table": self._each}
