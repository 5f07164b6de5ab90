"""Product quantization: vectors in ``m`` parts, each the nearest of 2**bits centroids (Jegou et al., TPAMI 2011)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .. import kernels
from ..errors import InvalidArgumentError
from ..kernels.numpy_grid import packed
from ..kernels.training import codebooks
from . import REGISTRY
from .base import Quantizer, unpack_bits


@REGISTRY.register("pq")
class Pq(Quantizer):
    """``m`` divides dim; ``bits`` 4 or 8. m * bits / 8 bytes a vector. Training takes at least 2**bits rows."""

    name = "pq"
    learned: ClassVar[tuple[str, ...]] = ("codebooks",)

    def __init__(self, dim: int, m: int = 8, bits: int = 8, iterations: int = 12, seed: int = 0) -> None:
        super().__init__(dim, seed, m=m, bits=bits, iterations=iterations)
        if m < 1 or dim % m:
            raise InvalidArgumentError(f"{self.name}(m={m}) of {dim} dimensions; m must divide them")
        if bits not in (4, 8):
            raise InvalidArgumentError(f"{self.name}(bits={bits}); give 4 or 8")
        self.m, self.bits, self.iterations = int(m), int(bits), int(iterations)
        self._codebooks = np.zeros((m, 2**bits, dim // m), np.float32)
        self._turned: tuple[Any, Any] = (None, None)  # the codebooks and as the kernel wants them: (m, width, 2**bits)

    @property
    def code_bytes(self) -> int:
        return -(-self.m * self.bits // 8)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {"codebooks": (self.m, 2**self.bits, self.dim // self.m)}

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        return [np.ascontiguousarray(p) for p in np.split(x, self.m, axis=1)]

    def _fit(self, x: np.ndarray) -> None:
        made = codebooks(x, self.m, 2**self.bits, seed=self.seed, iterations=self.iterations)
        self._codebooks = np.ascontiguousarray(made.transpose(0, 2, 1))

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        run: Any = kernels.choose()
        if self._turned[0] is not self._codebooks:
            self._turned = self._codebooks, np.ascontiguousarray(self._codebooks.transpose(0, 2, 1))
        made: np.ndarray = run.pq_encode(np.ascontiguousarray(x, np.float32), self._turned[1])
        return made

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return packed(self._nearest(x), self.bits)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        chosen = unpack_bits(codes, self.bits, self.m)
        return np.concatenate([book[chosen[:, i]] for i, book in enumerate(self._codebooks)], 1)

    def tables(self, query: np.ndarray) -> np.ndarray:
        """float32 (m, 2**bits): squared distances of each part of a query (dim,) to the centroids; a code's distance is a sum of m."""
        parts = self._check(query, "query").reshape(self.m, 1, -1)
        return np.asarray(((parts - self._codebooks) ** 2).sum(2), np.float32)
