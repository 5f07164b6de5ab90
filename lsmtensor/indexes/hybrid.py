"""Two indexes as one: new rows in a hot one that takes them cheaply, the rest in a cold one that is searched cheaply.

What a tree of runs does by itself (memtable and small runs are hot, large ones cold), for an index used alone. A row is in one of
the two: moving it, updating it or removing it never leaves an older one behind.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from ..registry import Spec
from . import REGISTRY, create, from_sections
from .base import Found, VectorIndex
from .params import settled
from .rows import Rows

# the hot index holds this many times the root of all rows, and so many at least
ROOTS, LEAST = 8, 1000


@REGISTRY.register("hybrid")
class Hybrid(VectorIndex):
    """Rows are added to ``hot``, an index spec, and move to ``cold`` in one batch when there are more than ``hot_rows`` (0: 8 times the root of
    all, at least 1,000), or at `promote`.

    Adding costs what it does in ``hot``, and every row once in a batch what it does in ``cold``; a search asks both and merges by distance.
    Search parameters are those of both, each given to the index that knows it; `consolidate` builds ``cold`` of all that is left.
    """

    name = "hybrid"

    def __init__(
        self, dim: int, metric: str = "l2", kernel: str | None = None, threads: int | None = None, hot: str | Spec = "flat", cold: str | Spec = "fqg",
        hot_rows: int = 0,
    ) -> None:  # fmt: skip
        (self.hot_rows,) = settled("hybrid", hot_rows=(hot_rows, 0, 2**31))
        self._specs = {"cold": Spec.of(cold), "hot": Spec.of(hot)}
        for part, spec in self._specs.items():
            if spec.name == self.name or "metric" in spec.params:
                raise InvalidArgumentError(f"hybrid: {part}={spec}; give an index that is no hybrid, and the metric to the whole")
        super().__init__(dim, metric, kernel, threads)
        self.search_params = tuple(dict.fromkeys(self._cold.search_params + self._hot.search_params))  # type: ignore[misc]
        self.dial = self._cold.dial  # type: ignore[misc]

    def _settings(self) -> dict[str, Any]:
        return {**{part: str(spec) for part, spec in self._specs.items()}, "hot_rows": self.hot_rows}

    def _made(self, part: str) -> VectorIndex:
        return create(self._specs[part], dim=self.dim, metric=self.metric, kernel=self._kernels.backend, threads=self.threads)

    def _clear(self) -> None:
        self._cold, self._hot = self._made("cold"), self._made("hot")
        self._vectors = Joined(self._cold, self._hot)

    def _row_bytes(self) -> tuple[int, int]:
        return self._cold._row_bytes()

    # -- building --------------------------------------------------------------------------------

    def train(self, x: Any) -> VectorIndex:
        """Train both on a sample (n, dim)."""
        for index in (self._cold, self._hot):
            index.train(x)
        return self

    def _insert(self, start: int, stop: int) -> None:
        if not isinstance(self._vectors, Joined):
            # borrowed, by an empty index
            self._cold._vectors, self._cold._tell, self._cold.budget = self._vectors, self._tell, self.budget
            self._vectors = Joined(self._cold, self._hot)
            self._cold._insert(0, stop)
            return
        cold = len(self._cold._vectors)
        if stop - cold > (self.hot_rows or max(LEAST, ROOTS * math.isqrt(stop))):
            self.promote()
        else:
            self._hot.threads, self._hot._tell, self._hot.budget = self.threads, self._tell, self.budget
            self._hot._insert(start - cold, stop - cold)

    def _inserted(self, stop: int) -> int:
        cold = len(self._cold._vectors)
        return cold + self._hot._inserted(stop - cold) if stop > cold else self._cold._inserted(stop)

    def promote(self) -> int:
        """Move every hot row to the cold index; how many. Broken off by Ctrl-C, those that were taken in have moved."""
        rows, before = self._hot._vectors, len(self._cold._vectors)
        if len(rows) == 0:
            return 0
        self._cold.threads, self._cold._tell, self._cold.budget, stop = self.threads, self._tell, self.budget, before + len(rows)
        self._cold._vectors.append(rows.array)
        try:
            self._cold._insert(before, stop)
        except BaseException:
            stop = self._cold._inserted(stop)
            self._cold._vectors.cut(stop)
            raise
        finally:
            self._hot = self._made("hot")
            self._vectors = Joined(self._cold, self._hot)
            left = rows.part(stop - before, len(rows))
            if len(left):
                self._hot._vectors.append(left)
                self._hot._insert(0, len(left))
        return stop - before

    # -- searching -------------------------------------------------------------------------------

    def _near(self, queries: np.ndarray, k: int, mask: np.ndarray | None, **params: Any) -> Found:
        cold, answers = len(self._cold._vectors), []
        for index, first in ((self._cold, 0), (self._hot, cold)):
            n = len(index._vectors)
            if n == 0 and first:
                continue
            mine = {name: value for name, value in params.items() if name in index.search_params}
            rows, far = index._near(queries, k, None if mask is None else np.ascontiguousarray(mask[first : first + n]), **mine)
            answers.append((np.where(rows >= 0, rows + first, -1), far))
        if len(answers) == 1:
            return answers[0]
        rows, far = (np.concatenate(part, 1) for part in zip(*answers, strict=True))
        # cold rows first, as they are the older: ties go to the lower row
        best = np.argsort(far, 1, kind="stable")[:, :k]
        return np.take_along_axis(rows, best, 1), np.take_along_axis(far, best, 1)

    # -- as bytes --------------------------------------------------------------------------------

    def to_sections(self, *, include_vectors: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        header, arrays = super().to_sections(include_vectors=include_vectors)
        for part, index in (("cold", self._cold), ("hot", self._hot)):
            header[part], own = index.to_sections(include_vectors=include_vectors)
            arrays |= {f"{part}.{name}": array for name, array in own.items()}
        return header, arrays

    def _saved_rows(self) -> dict[str, np.ndarray]:
        return {}

    def _stored(self, header: dict[str, Any], arrays: dict[str, np.ndarray], vectors: np.ndarray | None) -> Any:
        if vectors is not None and vectors.shape != (header["rows"], self.dim):
            return vectors
        at, made = 0, []
        for part in ("cold", "hot"):
            own = {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}
            n = int(header[part]["rows"])
            index = from_sections(header[part], own, vectors=None if vectors is None else vectors[at : at + n], kernel=self._kernels.backend, threads=self.threads)
            if (index.spec, index.metric, index._dead) != (self._specs[part], self.metric, 0):
                raise CorruptionError(f"the {part} index of a hybrid is {index}, not {self._specs[part]} by {self.metric} without removed rows")
            made.append(index)
            at += n
        self._cold, self._hot = made
        return Joined(*made)

    def memory(self) -> dict[str, int]:
        kept = {"ids": self._ids, "alive": self._alive}
        parts = {name: rows.array.nbytes for name, rows in kept.items() if rows is not None}
        for part, index in (("cold", self._cold), ("hot", self._hot)):
            parts |= {f"{part}.{name}": size for name, size in index.memory().items() if name != "total"}
        return {**parts, "total": sum(parts.values())}

    def stats(self) -> dict[str, Any]:
        """With the two under ``hot`` and ``cold``."""
        return {**super().stats(), "hot": self._hot.stats(), "cold": self._cold.stats()}


class Joined(Rows):
    """The rows of a cold index and of a hot one behind them; what is appended is hot."""

    def __init__(self, cold: VectorIndex, hot: VectorIndex) -> None:
        self._parts = cold, hot

    def __len__(self) -> int:
        return sum(len(index._vectors) for index in self._parts)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._parts[0].dim

    @property
    def nbytes(self) -> int:
        return sum(index._vectors.nbytes for index in self._parts)

    @property
    def array(self) -> np.ndarray:
        return self.part(0, len(self))

    def part(self, start: int, stop: int) -> np.ndarray:
        cold, hot = (index._vectors for index in self._parts)
        n = len(cold)
        if stop <= n or len(hot) == 0:
            return cold.part(start, stop)
        late = hot.part(max(0, start - n), stop - n)
        return late if start >= n else np.concatenate([cold.part(start, n), late])

    def take(self, rows: np.ndarray) -> np.ndarray:
        cold, hot = (index._vectors for index in self._parts)
        made, late = np.empty((len(rows), self._parts[0].dim), np.float32), rows >= len(cold)
        made[~late] = cold.take(rows[~late])
        made[late] = hot.take(rows[late] - len(cold))
        return made

    def kept(self, rows: np.ndarray) -> Rows:
        return Rows(self.take(rows))

    def append(self, rows: np.ndarray) -> None:
        self._parts[1]._vectors.append(rows)

    def cut(self, n: int) -> None:
        cold, hot = (index._vectors for index in self._parts)
        hot.cut(max(0, n - len(cold)))
        cold.cut(n)
