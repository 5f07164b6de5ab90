"""What a quantizer is: ``fit``, ``encode``, ``decode``, and a search over codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from .. import container, kernels
from ..errors import CorruptionError, InvalidArgumentError, SchemaError
from ..kernels.contract import IP, METRICS
from ..registry import Spec

SAMPLE = 65_536
BLOCK_BYTES = 1 << 20
NEAR_BYTES = 1 << 18  # rows coded at once: they and what is made of them lie in cache


class Quantizer(ABC):
    """Codes are uint8 (n, code_bytes). Subclasses say how: `_fit`, `_encode`, `_decode`, and list what was learned in ``learned``.

    Training looks at no more than 65,536 rows, drawn by ``seed``. The same rows, parameters and seed give the same codes.
    """

    name: ClassVar[str]
    learned: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True

    def __init__(self, dim: int, seed: int = 0, **params: Any) -> None:
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
            raise InvalidArgumentError(f"dim={dim!r}; give 1 or more")
        self.dim, self.seed, self._params = int(dim), int(seed), params
        self.fitted = not self.trains

    @property
    def spec(self) -> str:
        """The quantizer as text, from which `create` makes the like."""
        return str(Spec(self.name, {**self._params, "seed": self.seed}))

    @property
    @abstractmethod
    def code_bytes(self) -> int:
        """Bytes of one vector's code, everything included."""

    @property
    def ratio(self) -> float:
        """Bytes of a code over those of the float32 vector."""
        return self.code_bytes / (4 * self.dim)

    # -- what users call -------------------------------------------------------------------------

    def fit(self, x: Any) -> Quantizer:
        """Learn from rows (n, dim). Raises `SchemaError` for a wrong shape or NaN, `InvalidArgumentError` for too few rows."""
        rows = self._check(x, "training rows")
        if len(rows) == 0 and self.trains:
            raise InvalidArgumentError(f"quantizer {self.spec} got no rows to learn from")
        if len(rows) > SAMPLE:
            rows = rows[np.sort(np.random.default_rng(self.seed).choice(len(rows), SAMPLE, replace=False))]
        self._fit(rows)
        self.fitted = True
        return self

    def encode(self, x: Any) -> np.ndarray:
        """uint8 (n, code_bytes) of rows (n, dim). Values past the range learned take its nearest end."""
        self._check_fitted()
        rows = self._check(x, "rows")
        codes = np.empty((len(rows), self.code_bytes), np.uint8)
        step = max(64, NEAR_BYTES // (4 * self.dim))
        for at in range(0, len(rows), step):
            codes[at : at + step] = self._encode(rows[at : at + step])
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """float32 (n, dim): what the codes stand for."""
        self._check_fitted()
        given = np.asarray(codes)
        if given.dtype != np.uint8 or given.ndim != 2 or given.shape[1] != self.code_bytes:
            raise SchemaError(f"codes of {given.dtype} and shape {given.shape}; quantizer {self.spec} wants uint8 (n, {self.code_bytes})")
        made = np.empty((len(given), self.dim), np.float32)
        step = max(64, NEAR_BYTES // (4 * self.dim))
        for at in range(0, len(given), step):
            made[at : at + step] = self._decode(np.ascontiguousarray(given[at : at + step]))
        return made

    def search(
        self, queries: Any, codes: np.ndarray, k: int = 10, metric: str = "l2", kernel: str | kernels.Kernels | None = None, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(ids int64 (q, k), distances float32 (q, k)): the k codes nearest to the full queries, of those whose mask, uint8 (n,), is not 0, by the distance
        to what each stands for (asymmetric), squared for ``l2``; -1 and inf where fewer are. O(q n dim), a block of codes at a time in cache.
        """
        if metric not in METRICS:
            raise InvalidArgumentError(f"metric={metric!r}; give one of {', '.join(METRICS)}")
        wanted = self._check(queries, "queries")
        run: Any = kernel if isinstance(kernel, kernels.Kernels) else kernels.choose(kernel)
        ids, best = np.full((len(wanted), k), -1, np.int64), np.full((len(wanted), k), np.inf, np.float32)
        step = max(64, BLOCK_BYTES // (4 * self.dim))
        for at in range(0, len(codes), step):
            here = None if mask is None else mask[at : at + step]
            near, far = run.topk(wanted, self.decode(codes[at : at + step]), k, METRICS[metric], here)
            both = np.concatenate([best, far], 1)
            order = np.argsort(both, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(both, order, 1)
            ids = np.take_along_axis(np.concatenate([ids, np.where(near >= 0, near + at, -1)], 1), order, 1)
        return ids, best

    def errors(self, x: Any) -> dict[str, float]:
        """What coding does to rows: ``mse`` (a value), ``relative`` (squared error over squared norm), ``bias`` (mean of the inner
        product of a row with its error, over its squared norm: 0 for an unbiased code)."""
        rows = self._check(x, "rows")
        error = self.decode(self.encode(rows)).astype(np.float64) - rows
        norms = np.maximum((rows.astype(np.float64) ** 2).sum(1), 1e-30)
        return {
            "mse": float((error**2).mean()), "relative": float(((error**2).sum(1) / norms).mean()),
            "bias": float(((error * rows).sum(1) / norms).mean()),
        }  # fmt: skip

    def bound(self, x: Any) -> np.ndarray | None:
        """float32 (n, dim): how far each value of rows may be from what its code stands for, at most; None where no such bound is known (of
        grids that leave outliers out, of codebooks, of rotated rows)."""
        self._check_fitted()
        return self._bound(self._check(x, "rows"))

    # -- as bytes --------------------------------------------------------------------------------

    def to_sections(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(a header for JSON, arrays)."""
        self._check_fitted()
        return {"spec": self.spec, "dim": self.dim, "version": 1}, {name: np.asarray(getattr(self, f"_{name}")) for name in self.learned}

    def saved(self) -> bytes:
        """What it learned as bytes, without pickle, for `lsmtensor.quant.load`."""
        return b"".join(bytes(part) for part in container.pack(*self.to_sections()))

    def restore(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take what `to_sections` gave; shapes are compared with those that this quantizer would learn."""
        if header.get("version") != 1 or set(arrays) != set(self.learned):
            raise CorruptionError(f"quantizer {self.spec} wants {sorted(self.learned)}, got {sorted(arrays)} of version {header.get('version')}")
        for name, shape in self._shapes().items():
            if arrays[name].shape != shape or arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
                raise CorruptionError(f"{name} of quantizer {self.spec} is {arrays[name].dtype} {arrays[name].shape}; wanted float32 {shape}")
        for name in self.learned:
            setattr(self, f"_{name}", arrays[name])
        self.fitted = True

    # -- what subclasses do ----------------------------------------------------------------------

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each learned float32 array."""
        return {}

    def _fit(self, x: np.ndarray) -> None:  # noqa: B027 - a quantizer that learns nothing keeps this
        """Learn from float32 (n, dim), n >= 1, finite."""

    def _bound(self, x: np.ndarray) -> np.ndarray | None:
        """What `bound` answers."""
        return None

    @abstractmethod
    def _encode(self, x: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _decode(self, codes: np.ndarray) -> np.ndarray: ...

    def _check(self, x: Any, what: str) -> np.ndarray:
        rows = np.ascontiguousarray(x, np.float32)
        if rows.ndim == 1:
            rows = rows[None, :]
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise SchemaError(f"{what} of shape {np.shape(x)}; wanted (n, {self.dim})")
        flat = rows.reshape(-1)
        # squares that overflow look like infinity too; a second look tells
        if not np.isfinite(np.vdot(flat, flat)) and not np.isfinite(rows).all():
            raise SchemaError(f"{what} hold NaN or infinity, which no code stands for; row {int(np.argmin(np.isfinite(rows).all(1)))}")
        return rows

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise InvalidArgumentError(f"quantizer {self.spec} was not trained; call fit(x) first")

    def __repr__(self) -> str:
        return f"<lsmtensor.quant {self.spec}, dim {self.dim}, {self.code_bytes} bytes a vector{'' if self.fitted else ', untrained'}>"


def unpack_bits(packed: np.ndarray, bits: int, dim: int) -> np.ndarray:
    """uint8 (n, dim): the values that `packed` was given."""
    if bits == 8:
        return packed
    if bits == 4 and dim % 2 == 0:
        made = np.empty((len(packed), dim), np.uint8)
        made[:, ::2], made[:, 1::2] = packed & np.uint8(15), packed >> np.uint8(4)
        return made
    each = np.unpackbits(packed, axis=1, count=dim * bits, bitorder="little").reshape(len(packed), dim, bits)
    return (each << np.arange(bits, dtype=np.uint8)).sum(2, dtype=np.uint8)


def floats_of(codes: np.ndarray, count: int) -> list[np.ndarray]:
    """The ``count`` float32 columns behind codes."""
    width = codes.shape[1]
    return [np.ascontiguousarray(codes[:, width - 4 * (count - i) : width - 4 * (count - i) + 4]).view(np.float32)[:, 0] for i in range(count)]


def rotated(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 (n, dim): inner products of x with each of ``rows`` (dim, dim), C-contiguous. By a kernel, not by BLAS: the result of
    a row, and so its code, does not depend on the rows beside it."""
    run: Any = kernels.choose()
    return np.negative(run.pairwise(x, rows, IP))


def signs(dim: int, seed: int) -> np.ndarray:
    """float32 (4, dim) of +1 and -1: what `kernels.turn` turns rows by. Values of a vector become alike, so that one grid fits all."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (4, dim))
