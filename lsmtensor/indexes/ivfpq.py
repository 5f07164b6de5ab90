"""Inverted lists of product codes: rows by cell, coded by what they differ from its centroid (Jegou et al., TPAMI 2011).

4-bit codes are scanned 32 rows at a time with the query's tables in registers (Andre et al., PVLDB 2015). A squared distance to centroid + code is
the distance to the centroid, a number of the row's own, and products of the query with the code's parts: one table a query serves all cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from ..kernels.contract import COSINE, HAMMING, IP, L1
from ..kernels.numpy_pq import BLOCK, packed
from ..kernels.training import codebooks
from . import REGISTRY
from .base import Found, VectorIndex
from .cells import CellIndex, some
from .codes import inverse_norms
from .params import SEEDS, settled
from .rows import Rows

# rows a centroid that parts are learned from
PART_ROWS = 256


@REGISTRY.register("ivfpq")
class IVFPQ(CellIndex):
    """Cells of about ``leaf`` rows; rows are coded in ``m`` parts (0: of two dimensions each for 4 bits, of four for 8) by the nearest of 2**``bits`` centroids of what they
    differ from their cell's. A search scans the ``nprobe`` nearest cells (0: 4%, at least 8) and looks at the best ``rerank`` (0: 64 and 4 k) in full.

    Build O(n sqrt(n / leaf) d + n d 2**bits); search O((n / leaf) d + nprobe leaf m / 64) for 4 bits. Memory m ``bits`` / 8 and 12 bytes a row. l1 and hamming are ranked by squared
    distance, hence with more cells and a deeper look. ``nprobe`` and ``rerank`` are search parameters too.
    """

    name = "ivfpq"
    learned = ("branches", "centroids", "under", "made_of", "books")

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, leaf: int = 64, nprobe: int = 0,
        m: int = 0, bits: int = 4, rerank: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.leaf, self.nprobe, self.m, self.rerank, self.seed = settled(
            "ivfpq", leaf=(leaf, 4, 1 << 20), nprobe=(nprobe, 0, 1 << 24), m=(m, 0, 4096), rerank=(rerank, 0, 1 << 20), seed=(seed, *SEEDS)
        )
        if bits not in (4, 8) or isinstance(bits, bool):
            raise InvalidArgumentError(f"ivfpq: bits={bits!r}; give 4 or 8")
        self.bits = bits
        super().__init__(dim, metric, kernel, threads)
        if m > self.dim:
            raise InvalidArgumentError(f"ivfpq: m={m} parts of {self.dim} dimensions; give at most as many")
        # parts of equal width, the last filled up with zeros; no part beyond the dimensions
        width = -(-self.dim // m) if m else min(self.dim, 2 if bits == 4 else 4)
        self._m = -(-self.dim // max(width, -(-self.dim // 4096)))

    def _settings(self) -> dict[str, Any]:
        return {"leaf": self.leaf, "nprobe": self.nprobe, "m": self.m, "bits": self.bits, "rerank": self.rerank, "seed": self.seed}

    def _clear(self) -> None:
        super()._clear()
        self._books = np.empty((0, 0, 0), np.float32)
        # two 4-bit codes a byte; what each row adds to its estimates
        self._codes, self._bias = Rows(np.empty((0, 0), np.uint8)), Rows(np.empty(0, np.float32))

    def _changed(self) -> None:
        super()._changed()
        self._net: Any = None

    # -- coding ----------------------------------------------------------------------------------

    def _anchors(self) -> np.ndarray:
        """The centroids as rows differ from them: of unit length for cosine, whose half squared distance is then one minus the cosine."""
        return self._centroids * inverse_norms(self._centroids, COSINE)[:, None] if self._code == COSINE else self._centroids

    def _row_bytes(self) -> tuple[int, int]:
        return -(-self._m * self.bits // 8) + 8 + 4 * self.dim // self.leaf, 64

    def _learn(self, rows: np.ndarray) -> None:
        count = min(2**self.bits, len(rows))
        sample = self._placed(some(rows, self._at_once(PART_ROWS * count, 40 * self.dim, count), np.random.default_rng(self.seed)))
        books = codebooks(sample - self._anchors()[self._cell_of(sample)], self._m, count, seed=self.seed, iterations=10, kernels=self._kernels)
        # fewer rows than centroids: the first is there more than once
        self._books = np.ascontiguousarray(np.pad(books, ((0, 0), (0, 0), (0, 2**self.bits - count)), mode="edge"))
        self._codes = Rows(np.empty((0, -(-self._m * self.bits // 8)), np.uint8))

    def _encode(self, start: int, rows: np.ndarray, cells: np.ndarray) -> None:
        self._codes.cut(start)
        self._bias.cut(start)
        anchors = self._anchors()
        step = self._at_once(8192, 32 * self.dim)
        for at in range(0, len(rows), step):
            here = anchors[cells[at : at + step]]
            rest = np.ascontiguousarray(self._placed(rows[at : at + step]) - here, np.float32)
            codes = self._kernels.pq_encode(rest, self._books)
            coded = np.concatenate([self._books[j, :, codes[:, j]] for j in range(self._m)], 1)[:, : self.dim]
            bias = np.einsum("nd,nd->n", coded, coded + 2 * here)
            self._bias.append((bias * {COSINE: 0.5, IP: 0.0}.get(self._code, 1.0)).astype(np.float32))
            self._codes.append(halves(codes) if self.bits == 4 else codes)

    def _select(self, rows: np.ndarray) -> None:
        super()._select(rows)
        self._codes, self._bias = Rows(self._codes.array[rows]), Rows(self._bias.array[rows])

    def _shares(self, other: VectorIndex) -> bool:
        return isinstance(other, IVFPQ) and super()._shares(other) and np.array_equal(self._books, other._books)

    def _absorb(self, other: VectorIndex, rows: np.ndarray) -> None:
        super()._absorb(other, rows)
        self._codes.append(other._codes.array[rows])  # type: ignore[attr-defined]
        self._bias.append(other._bias.array[rows])  # type: ignore[attr-defined]

    # -- searching -------------------------------------------------------------------------------

    def _depth(self, k: int) -> int:
        return (64 + 4 * k) * (4 if self._code in (L1, HAMMING) else 1)

    def _scan(self, queries: np.ndarray, near: np.ndarray, far: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> Found:
        order, bounds = self._laid_out()
        if self._net is None:
            n = len(order)
            codes, bias = np.zeros((-(-n // BLOCK) * BLOCK, self._codes.array.shape[1]), np.uint8), np.zeros(-(-n // BLOCK) * BLOCK, np.float32)
            np.take(self._codes.array, order, 0, out=codes[:n])
            np.take(self._bias.array, order, out=bias[:n])
            laid = packed(whole(codes, self._m)) if self.bits == 4 else codes
            scale = inverse_norms(self._vectors.array, self._code)
            self._net = self._kernels.pq_net(self._vectors.array, scale, self._code, self._books, laid, bias)
        rows, distances = self._kernels.pq_ranges(self._net, queries, far, order, bounds[near], k, depth, mask)
        return rows, distances

    # -- as bytes --------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, np.ndarray]:
        if len(self._centroids) == 0:
            return {}
        return {**self._tree(), "books": self._books, "codes": self._codes.array, "bias": self._bias.array}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        if not self._restore_tree(arrays):
            return
        n, width = len(self._vectors), -(-self.dim // self._m)
        wanted: dict[str, tuple[tuple[int, ...], Any]] = {
            "books": ((self._m, width, 2**self.bits), np.float32), "codes": ((n, -(-self._m * self.bits // 8)), np.uint8), "bias": ((n,), np.float32),
        }  # fmt: skip
        for name, (shape, dtype) in wanted.items():
            given = arrays.get(name)
            if given is None or given.shape != shape or given.dtype != dtype or not np.isfinite(given).all():
                raise CorruptionError(f"{name} of an ivfpq index of {n} rows is {None if given is None else (given.dtype, given.shape)}, not {dtype} {shape}")
        self._books, self._codes, self._bias = arrays["books"], Rows(arrays["codes"]), Rows(arrays["bias"])

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "m": self._m, "bits": self.bits}


def halves(codes: np.ndarray) -> np.ndarray:
    """4-bit codes, uint8 (n, m), two a byte, the first in the low half."""
    made = np.zeros((len(codes), -(-codes.shape[1] // 2)), np.uint8)
    made |= codes[:, 0::2]
    made[:, : codes.shape[1] // 2] |= codes[:, 1::2] << np.uint8(4)
    return made


def whole(made: np.ndarray, m: int) -> np.ndarray:
    """The reverse of `halves`."""
    codes = np.empty((len(made), 2 * made.shape[1]), np.uint8)
    codes[:, 0::2], codes[:, 1::2] = made & 15, made >> 4
    return codes[:, :m]
