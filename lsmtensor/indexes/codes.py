"""Rows as small whole numbers, the form that graphs are built on and walked in.

8 bits: ``128 + round((x - mean) / step)``, one step for all, so that distances between codes are whole numbers. 4 bits: values of
a row less the mean, in 16 steps over 2.5 standard deviations, times a factor by which the row's estimate of itself is exact.
Layouts and what a measurement says of both: docs/indexes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from ..kernels.contract import COSINE, HAMMING, IP, L1, L2
from .budget import at_once
from .rows import Rows, aligned

LINE = 64
# rows that a grid is learned from
LEARNT = 16384
# rows coded at a time: their float32 copy stays in cache
BLOCK = 1024
# a row with a value so far out, where the grid ends at 127, is not what the grid was learned from
FAR = 160
# 4-bit values cover so many standard deviations of their row
REACH = np.float32(2.5)


@dataclass(frozen=True)
class Grid:
    """What codes are relative to: float32 ``mean`` (d,), the ``step`` of the 8-bit grid; for products the squared length of a sphere
    that holds the rows, and how far they are below its surface as a rule (see `lifted`)."""

    mean: np.ndarray
    step: float
    metric: int
    lift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def learn(cls, rows: np.ndarray, scale: np.ndarray, metric: int, seed: int, looked_at: int) -> Grid:
        """From rows (n, d) with inverse norms (n,) for cosine; looks at so many of them."""
        if len(rows) > looked_at:
            chosen = np.sort(np.random.default_rng(seed).choice(len(rows), looked_at, replace=False))
            rows, scale = rows[chosen], scale[chosen]
        if metric == COSINE:
            rows = rows * scale[:, None]
        # what is equal to what may change under a shift, once it is rounded
        mean = np.zeros(rows.shape[1], np.float32) if metric == HAMMING else rows.mean(0, dtype=np.float64).astype(np.float32)
        far = rows.copy() if metric == IP else rows - mean
        np.abs(far, out=far)
        # a hundred-thousandth may stick out: what is cut off costs less than coarser steps for all. It lies in as many rows at most, those of the largest values
        out = far.size - int((far.size - 1) * 0.99999) if far.size else 0
        if 0 < out < len(far):
            far = far[np.argpartition(far.max(1), -out)[-out:]]
        top = float(np.partition(far, -out, axis=None)[-out]) if out else 0.0
        lift = (0.0, 0.0)
        if metric == IP:
            squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
            most = np.float32(np.quantile(squares, 0.999))
            lift = float(most), float(np.float32(np.median(np.sqrt(np.maximum(most - squares, 0)))))
        return cls(mean, float(np.float32(top / 127)) if top > 0 else 1.0, metric, lift)

    def eight(self, rows: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """(codes uint8 (n, lines * 64), sums int32 (n, 2) of squares and of values around 128, how many rows stick far out). O(n d)."""
        (n, d), out = rows.shape, 0
        codes, sums = aligned((n, -(-d // LINE) * LINE), np.uint8), np.empty((n, 2), np.int32)
        codes[:, d:] = 128
        for at in range(0, n, BLOCK):
            x = self._placed(rows[at : at + BLOCK], scale[at : at + BLOCK])
            if self.metric != IP:  # products of two rows change under a shift
                x -= self.mean
            x /= np.float32(self.step)
            np.rint(x, out=x)
            out += int((np.maximum(x.max(1), -x.min(1)) > FAR).sum())
            np.clip(x, -128, 127, out=x)
            sums[at : at + BLOCK, 0] = np.einsum("nd,nd->n", x, x, dtype=np.float64)
            sums[at : at + BLOCK, 1] = x.sum(1, dtype=np.float64)
            x += 128
            codes[at : at + BLOCK, :d] = x
        return codes, sums, out

    def lifted(self, rows: np.ndarray, codes: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """8-bit codes and sums whose squared distances rank as products do: rows are lifted onto a sphere by one more value (Bachrach
        et al., RecSys 2014), spread over one more line. Graphs of products alone have rows that no walk comes to. O(n d)."""
        height = np.sqrt(np.maximum(self.lift[0] - np.einsum("nd,nd->n", rows, rows, dtype=np.float64), 0)) - self.lift[1]
        values = np.clip(np.rint(height / (LINE**0.5 * self.step)), -128, 127).astype(np.int32)
        made = aligned((len(codes), codes.shape[1] + LINE), np.uint8)
        made[:, :-LINE] = codes
        made[:, -LINE:] = (values + 128)[:, None]
        return made, sums + LINE * np.stack([values * values, values], 1).astype(np.int32)

    def four(self, rows: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(codes uint8 (n, lines * 64), squared lengths float32 (n,), factors float32 (n,)). O(n d)."""
        n, d = rows.shape
        lines = -(-d // (2 * LINE))
        codes, lengths, factors = aligned((n, lines * LINE), np.uint8), np.empty(n, np.float32), np.zeros(n, np.float32)
        for at in range(0, n, BLOCK):
            x = self._placed(rows[at : at + BLOCK], scale[at : at + BLOCK])
            x -= self.mean
            squares = lengths[at : at + BLOCK] = np.einsum("nd,nd->n", x, x)
            with np.errstate(divide="ignore"):
                by = np.where(squares > 0, np.float32(7.5) / (REACH * np.sqrt(squares / np.float32(d))), 0).astype(np.float32)
            c = x * by[:, None]
            c += np.float32(7.5)
            np.rint(c, out=c)
            np.clip(c, 0, 15, out=c)
            whole = np.zeros((len(c), lines, 2, LINE), np.uint8)
            whole.reshape(len(c), -1)[:, :d] = c
            codes[at : at + BLOCK] = (whole[:, :, 0] | whole[:, :, 1] << np.uint8(4)).reshape(len(c), -1)
            c -= np.float32(7.5)
            own = np.einsum("nd,nd->n", c, x)
            np.divide(squares, own, out=factors[at : at + BLOCK], where=own > 0)
        return codes, lengths, factors

    def _placed(self, rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """A copy; unit rows for cosine."""
        return rows * scale[:, None] if self.metric == COSINE else rows.copy()


# 4-bit codes are kept if of so many rows' ten nearest this share is among the 33 nearest by code
SAMPLE, APART = 64, 0.99


class CodedRows:
    """Rows as codes beside their vectors, and what kernels need to compare queries with them.

    ``quant`` is int4, int8 or auto: int4 from 128 dimensions (not for l1 and hamming) where `settle` finds that it tells rows apart.
    """

    def __init__(self, dim: int, metric: int, quant: str, kernels: Any) -> None:
        self.dim, self.metric, self.quant, self._kernels = dim, metric, quant, kernels
        self.bits = 4 if quant == "int4" or (quant == "auto" and dim >= 128 and metric not in (L1, HAMMING)) else 8
        self.grid: Grid | None = None
        self.codes = Rows(np.empty((0, 0), np.uint8))
        self.scale, self.squares, self.factors = (Rows(np.empty(0, np.float32)) for _ in range(3))

    @staticmethod
    def check(name: str, dim: int, metric: int, quant: str, *others: str) -> None:
        """`InvalidArgumentError` for codes that there are not; ``others`` are what else might have been given."""
        if quant not in ("auto", "int4", "int8"):
            raise InvalidArgumentError(f"{name}: quant={quant!r}; give {', '.join(('auto', 'int4', *others))} or int8")
        if dim > 32768:
            raise InvalidArgumentError(f"{name}: dim={dim}; give up to 32768, or sums of products do not fit 32 bits")
        if quant == "int4" and metric in (L1, HAMMING):
            raise InvalidArgumentError(f"{name}: int4 codes have no l1 or hamming distance; give quant=int8")

    def __len__(self) -> int:
        return len(self.codes)

    def row_bytes(self) -> tuple[int, int]:
        """(bytes of a row's code and what lies beside it, of its 8-bit code and sums, which are there while rows are taken in)."""
        return -(-self.dim * self.bits // (8 * LINE)) * LINE + 12, -(-self.dim // LINE) * LINE + 8

    def learn(self, rows: np.ndarray, seed: int, budget: int | None = None) -> None:
        """Mean and step from rows, or a sample that fits a budget in bytes; codes that are there are forgotten."""
        self.grid = Grid.learn(rows, inverse_norms(rows, self.metric), self.metric, seed, at_once(budget, LEARNT, 24 * self.dim, 256))
        self.cut(0)

    def append(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Code more rows; their 8-bit codes, sums, and how many stick out of the grid."""
        assert self.grid is not None
        scale = inverse_norms(rows, self.metric)
        codes, sums, out = self.grid.eight(rows, scale)
        self._keep(rows, scale, codes, sums)
        return codes, sums, out

    def _keep(self, rows: np.ndarray, scale: np.ndarray, codes: np.ndarray, sums: np.ndarray) -> None:
        assert self.grid is not None
        squares, factors = sums[:, 0].astype(np.float32) * np.float32(self.grid.step) ** 2, np.empty(0, np.float32)
        if self.bits == 4:
            codes, squares, factors = self.grid.four(rows, scale)
        if len(self) == 0:
            self.codes = Rows(codes)
        else:
            self.codes.append(codes)
        self.scale.append(scale)
        if self.metric in (L2, COSINE):
            # half the squared distance of unit rows is one minus their cosine
            self.squares.append(squares if self.metric == L2 else squares / 2)
        self.factors.append(factors)

    def settle(self, vectors: np.ndarray, eight: tuple[np.ndarray, np.ndarray], seed: int) -> None:
        """Where ``auto`` took 4 bits and they do not tell neighbours apart, as in tight clusters, take the 8-bit codes and sums given."""
        n, k = len(self), 11
        if self.quant != "auto" or self.bits == 8:
            return
        queries = vectors[np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False))]
        _, true = self._kernels.topk(queries, vectors, k, self.metric, None)
        _, found = self._kernels.code_scan(self.net(vectors), queries, k, 3 * k, None)
        if float((found <= true[:, -1:] + 1e-6 * np.abs(true[:, -1:])).mean()) < APART:
            self.bits, scale = 8, self.scale.array
            self.cut(0)
            self._keep(vectors, scale, *eight)

    def net(
        self, vectors: np.ndarray, links: np.ndarray | None = None, above: tuple[Any, np.ndarray] | None = None, order: np.ndarray | None = None,
        forest: Any = None,
    ) -> Any:  # fmt: skip
        """A net for the kernels: with links; with a net above, `over` some rows; with codes in another order; with a forest to begin in."""
        assert self.grid is not None
        none = np.empty((0, 0), np.uint32)
        coded = [rows.array for rows in (self.codes, self.squares, self.factors)]
        if order is not None:
            coded = [taken(a, order) for a in coded]
        top, names = above or (None, None)
        return self._made([vectors, self.scale.array, *coded], none if links is None else links, top, names, forest)

    def over(self, vectors: np.ndarray, rows: np.ndarray, links: np.ndarray) -> Any:
        """The net of some rows alone, whose vectors are given or none, with links among them."""
        return self._made([vectors, *(taken(part.array, rows) for part in (self.scale, self.codes, self.squares, self.factors))], links, None, None)

    def _made(self, arrays: list[np.ndarray], links: np.ndarray, top: Any, rows: np.ndarray | None, forest: Any = None) -> Any:
        assert self.grid is not None
        vectors, scale, *coded = arrays
        return self._kernels.code_net(vectors, scale, self.metric, self.grid.mean, self.grid.step, *coded, self.bits, links, top, rows, forest)

    def parts(self) -> tuple[Rows, ...]:
        return self.codes, self.scale, self.squares, self.factors

    def cut(self, n: int) -> None:
        for part in self.parts():
            part.cut(n)

    def select(self, rows: np.ndarray) -> None:
        """Keep the codes of some rows, in this order."""
        self.codes, self.scale, self.squares, self.factors = (Rows(taken(part.array, rows)) for part in self.parts())

    def absorb(self, other: CodedRows, rows: np.ndarray) -> None:
        """Put the codes of some rows of another, of the same grid and bits, behind these."""
        for mine, part in zip(self.parts(), other.parts(), strict=True):
            if len(part):
                mine.append(part.array[rows])

    def like(self, other: CodedRows) -> bool:
        """Whether codes of both can stand side by side."""
        a, b = self.grid, other.grid
        return a is not None and b is not None and self.bits == other.bits and a.step == b.step and a.lift == b.lift and np.array_equal(a.mean, b.mean)

    def arrays(self) -> dict[str, np.ndarray]:
        if self.grid is None:
            return {}
        optional = {"squares": self.squares, "factors": self.factors} | ({"scale": self.scale} if self.metric == COSINE else {})
        codes = self.codes.array if len(self) else np.empty((0, -(-self.dim * self.bits // (8 * LINE)) * LINE), np.uint8)
        made = {"mean": self.grid.mean, "step": np.array([self.grid.step], np.float32), "codes": codes}
        if self.metric == IP:
            made["lift"] = np.array(self.grid.lift, np.float32)
        return made | {name: rows.array for name, rows in optional.items() if len(rows)}

    def restore(self, arrays: dict[str, np.ndarray], n: int) -> None:
        """What `arrays` gave; `CorruptionError` for anything else."""
        if self.quant == "auto" and n:
            self.bits = 4 if "factors" in arrays else 8
        lines = -(-self.dim * self.bits // (8 * LINE))
        wanted: dict[str, tuple[tuple[int, ...], Any]] = {"mean": ((self.dim,), np.float32), "step": ((1,), np.float32)}
        wanted["codes"] = (n, lines * LINE), np.uint8
        if self.metric == IP:
            wanted["lift"] = (2,), np.float32
        floats = {"squares": self.metric in (L2, COSINE), "factors": self.bits == 4, "scale": self.metric == COSINE}
        wanted |= {name: ((n,), np.float32) for name, there in floats.items() if there and n}
        for name, (shape, dtype) in wanted.items():
            given = arrays.get(name)
            if given is None or given.shape != shape or given.dtype != dtype:
                raise CorruptionError(f"{name} of {n} coded rows is {None if given is None else (given.dtype, given.shape)}, not {dtype} {shape}")
            if dtype == np.float32 and not np.isfinite(given).all():
                raise CorruptionError(f"{name} of {n} coded rows holds NaN or infinity")
        if not float(arrays["step"][0]) > 0:
            raise CorruptionError(f"the step of coded rows is {arrays['step'][0]}")
        lift = arrays.get("lift", np.zeros(2, np.float32))
        self.grid = Grid(arrays["mean"], float(arrays["step"][0]), self.metric, (float(lift[0]), float(lift[1])))
        # trained and empty there are none, of no width
        self.codes, self.scale = Rows(arrays["codes"] if n else np.empty((0, 0), np.uint8)), Rows(arrays.get("scale", np.ones(n, np.float32)))
        self.squares, self.factors = (Rows(arrays.get(name, np.empty(0, np.float32))) for name in ("squares", "factors"))


def taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows of an array, beginning with a cache line; itself where it is empty."""
    if len(array) == 0:
        return array
    made = aligned((len(rows), *array.shape[1:]), array.dtype)
    np.take(array, rows, axis=0, out=made)
    return made


def inverse_norms(rows: np.ndarray, metric: int) -> np.ndarray:
    """float32 (n,): for cosine 1 / |row|, 0 for a zero row; else ones."""
    if metric != COSINE:
        return np.ones(len(rows), np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return np.divide(1, norms, out=np.zeros(len(rows)), where=norms > 0).astype(np.float32)
