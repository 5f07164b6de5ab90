"""Some rows of an index, linked among themselves: the graph above another, in which its walks find where to begin."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..kernels.contract import mix64
from .carry import NONE, kept_links, leads_inside
from .codes import CodedRows, taken
from .rows import Rows


class Above:
    """Every ``share``-th row or so, as its number and the seed say: the same rows however they came. ``width`` links each.

    ``rows`` uint32, in any order once they were carried over to merged rows; ``links`` uint32 (n, width) are places among them.
    """

    def __init__(self, share: int, width: int, seed: int) -> None:
        self.share, self.width, self.seed = share, width, seed
        self.forget()

    def __len__(self) -> int:
        return len(self.rows)

    def forget(self) -> None:
        """No row is above."""
        self.rows, self.links = Rows(np.empty(0, np.uint32)), Rows(np.empty((0, self.width), np.uint32))
        # 8-bit codes and their sums, while rows are being added
        self._eight: tuple[Rows, Rows] | None = None
        self._net: Any = None

    def cut(self, n: int) -> None:
        """Rows from n on went: all is forgotten if one of them was above."""
        if len(self) and int(self.rows.array.max()) >= n:
            self.forget()

    def select(self, place: np.ndarray) -> None:
        """Keep those whose row has a new number, uint32 ``place`` of each row, NONE for those that go."""
        new = place[self.rows.array]
        stay = np.flatnonzero(new != NONE)
        links = kept_links(self.links.array, stay)
        self.forget()
        self.rows, self.links = Rows(new[stay]), Rows(links)

    def members(self, start: int, stop: int) -> np.ndarray:
        """int64: the rows of [start, stop) that belong here."""
        hashed = mix64(np.arange(start, stop, dtype=np.uint64) + np.uint64(self.seed))
        return start + np.flatnonzero(hashed % np.uint64(self.share) == 0)

    def take(self, new: np.ndarray, codes: np.ndarray, sums: np.ndarray) -> None:
        """Append rows, without links, of an index of these codes and sums."""
        self.eight(codes, sums)
        assert self._eight is not None
        for rows, more in (
            (self.rows, new.astype(np.uint32)), (self.links, np.full((len(new), self.width), NONE, np.uint32)),
            (self._eight[0], codes[new]), (self._eight[1], sums[new]),
        ):  # fmt: skip
            rows.append(more)
        self._net = None

    def eight(self, codes: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """8-bit codes and sums of the rows above, of those of all."""
        if self._eight is None:
            names = self.rows.array
            self._eight = Rows(taken(codes, names) if len(names) else codes[:0]), Rows(sums[names])
        return self._eight[0].array, self._eight[1].array

    def finished(self) -> None:
        """No more rows come for now."""
        self._eight = None

    def net(self, coded: CodedRows) -> Any:
        """The rows above for the kernels, coded as all are."""
        if self._net is None:
            self._net = coded.over(np.empty((0, coded.dim), np.float32), self.rows.array, self.links.array)
        return self._net

    def arrays(self) -> dict[str, np.ndarray]:
        return {"top_rows": self.rows.array, "top_links": self.links.array}

    def restore(self, arrays: dict[str, np.ndarray], n: int) -> None:
        """What `arrays` gave, of an index of n rows; `CorruptionError` for what would lead a walk astray."""
        rows, links = arrays["top_rows"], arrays["top_links"]
        if rows.dtype != np.uint32 or rows.ndim != 1 or links.dtype != np.uint32 or links.shape != (len(rows), self.width):
            raise CorruptionError(f"the graph above an index has rows {rows.dtype} {rows.shape} and links {links.dtype} {links.shape}")
        if (rows >= n).any() or not leads_inside(links, len(rows)):
            raise CorruptionError(f"the graph above an index leads beyond its {len(rows)} rows of {n}")
        self.forget()
        self.rows, self.links = Rows(rows), Rows(links)
