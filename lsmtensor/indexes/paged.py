"""Rows with their links in pages of a file, read one at a time: what a graph larger than memory lies in.

A *unit* of ``span`` pages holds ``per`` records, each a float32 row and its uint32 links. A page is 4,092 bytes and the CRC32C of
them, continued from the page's number: it is checked when it is read, not when the file is opened.
"""

from __future__ import annotations

import mmap
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CorruptionError
from ..pages import BODY, PAGE, check, seal
from .rows import Rows

NONE = 0xFFFFFFFF
# units written or gathered at a time
BLOCK = 2048


@dataclass(frozen=True)
class Layout:
    """How rows of ``dim`` with ``degree`` links lie in pages."""

    dim: int
    degree: int

    @property
    def record(self) -> int:
        return 4 * (self.dim + self.degree)

    @property
    def per(self) -> int:
        return max(1, BODY // self.record)

    @property
    def span(self) -> int:
        return -(-self.per * self.record // BODY)

    def units(self, n: int) -> int:
        return -(-n // self.per)

    def order(self, links: np.ndarray) -> np.ndarray:
        """uint32 (n,): the rows as they lie. Those with the most links to them come first, each with neighbours that have no place yet. O(links)."""
        n, per = len(links), self.per
        by = np.argsort(-np.bincount(links[links != NONE], minlength=n), kind="stable")
        if per == 1:
            return by.astype(np.uint32)
        order, placed, at = np.empty(n, np.uint32), np.zeros(n + 1, bool), 0
        placed[n] = True  # what no link leads to
        for seed in by.tolist():
            if placed[seed]:
                continue
            member, order[at], placed[seed] = at, seed, True
            at += 1
            while at % per and member < at:
                near = links[order[member]]
                fresh = near[~placed[np.minimum(near, n)]][: -at % per]
                placed[fresh] = True
                order[at : at + len(fresh)] = fresh
                at += len(fresh)
                member += 1
        return order

    def written(self, rows: Rows, links: np.ndarray, order: np.ndarray) -> np.ndarray:
        """uint8 (units * span, 4096): the pages."""
        units = self.units(len(order))
        pages = np.zeros((units * self.span, PAGE), np.uint8)
        for at in range(0, units, BLOCK):
            some = order[at * self.per : (at + BLOCK) * self.per].astype(np.int64)
            records = np.zeros((min(BLOCK, units - at) * self.per, self.record // 4), np.uint32)
            records[: len(some), : self.dim] = rows.take(some).view(np.uint32)
            records[: len(some), self.dim :] = links[some]
            body = np.zeros((len(records) // self.per, self.span * BODY), np.uint8)
            body[:, : self.per * self.record] = records.view(np.uint8).reshape(len(body), -1)
            pages[at * self.span : (at + len(body)) * self.span, :BODY] = body.reshape(-1, BODY)
        seal(pages)
        return pages


class Paged(Rows):
    """The rows of an index over its pages, in the order of their numbers; rows appended later lie in memory.

    The first ``share`` of the units, the hottest, are kept. ``reads`` counts the pages read since.
    """

    def __init__(self, pages: np.ndarray, order: np.ndarray, layout: Layout, share: float) -> None:
        n = len(order)
        super().__init__(np.empty((0, layout.dim), np.float32))
        self.pages, self.layout, self._n, self.reads = pages, layout, n, 0
        self._written = n
        self.place = np.empty(n, np.int32)
        self.place[order] = np.arange(n, dtype=np.int32)
        self._more = Rows(np.empty((0, layout.dim), np.float32))
        self._lock, self._map = threading.Lock(), _Map(pages)
        hot = pages[: int(np.ceil(share * layout.units(n))) * layout.span]
        check(hot, range(len(hot)))
        # bodies of units
        self._hot = np.ascontiguousarray(hot[:, :BODY]).reshape(-1, layout.span * BODY)
        # their links are looked at once, those of others when they are read
        self.read(np.arange(len(self._hot)))

    @property
    def shape(self) -> tuple[int, int]:
        return self._n, self.layout.dim

    @property
    def resident(self) -> int:
        """Bytes in memory."""
        return self._hot.nbytes + self.place.nbytes + self._more.nbytes

    @property
    def array(self) -> np.ndarray:
        return self.part(0, self._n)

    def part(self, start: int, stop: int) -> np.ndarray:
        return self.take(np.arange(start, min(stop, self._n)))

    def take(self, rows: np.ndarray) -> np.ndarray:
        made = np.empty((len(rows), self.layout.dim), np.float32)
        on, per = rows < len(self.place), self.layout.per
        made[~on] = self._more.array[rows[~on] - len(self.place)]
        where = np.flatnonzero(on)
        for at in range(0, len(where), BLOCK * per):
            some = where[at : at + BLOCK * per]
            place = self.place[rows[some]]
            units, which = np.unique(place // per, return_inverse=True)
            made[some] = self.read(units)[0][which * per + place % per]
        return made

    def read(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows float32 (m, d), links uint32 (m, degree)) of units that rise, ``per`` of each."""
        per, record = self.layout.per, self.layout.record
        records = self._bodies(units)[:, : per * record].reshape(len(units) * per, record)
        links = records.view(np.uint32)[:, self.layout.dim :]
        # as int32 NONE is -1
        near = links.view(np.int32)
        if len(near) and (near.max() >= self._written or near.min() < -1):
            raise CorruptionError(f"pages {units[0] * self.layout.span} to {units[-1] * self.layout.span} hold links beyond {self._written} rows")
        return records.view(np.float32)[:, : self.layout.dim], links

    def links(self) -> np.ndarray:
        """uint32 (n, degree), as they are on the pages."""
        units, per = self.layout.units(len(self.place)), self.layout.per
        lying = np.empty((units * per, self.layout.degree), np.uint32)
        for at in range(0, units, BLOCK):
            lying[at * per : (at + BLOCK) * per] = self.read(np.arange(at, min(at + BLOCK, units)))[1]
        return lying[self.place]

    def kept(self, rows: np.ndarray) -> Rows:
        """These alone, numbered from 0; rows that rise."""
        made: Paged = object.__new__(Paged)
        made.__dict__.update(self.__dict__)
        on = rows < len(self.place)
        made._more = Rows(np.empty((0, self.layout.dim), np.float32))
        made._more.append(self._more.array[rows[~on] - len(self.place)])
        made.place, made._n = self.place[rows[on]], len(rows)
        return made

    def _bodies(self, units: np.ndarray) -> np.ndarray:
        """uint8 (m, span * 4092) of units that rise."""
        span, warm = self.layout.span, int(np.searchsorted(units, len(self._hot)))
        cold = (units[warm:, None] * span + np.arange(span)).ravel()
        self._map.soon(cold)
        got = self.pages[cold]
        check(got, cold.tolist())
        self.count(len(cold))
        return np.concatenate([self._hot[units[:warm]], got[:, :BODY].reshape(-1, span * BODY)])

    def count(self, reads: int) -> None:
        """So many pages were read."""
        with self._lock:
            self.reads += reads

    def lying(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
        """As the function of the name."""
        late = self._more.array
        slot = np.concatenate([self.place, -1 - np.arange(len(late), dtype=np.int32)]) if len(late) else self.place
        return self.pages, self._hot, slot, late, self._map.there

    def append(self, rows: np.ndarray) -> None:
        self._more.append(rows)
        self._n += len(rows)

    def cut(self, n: int) -> None:
        if n < self._n:
            self.place = self.place[:n]
            self._more.cut(max(0, n - len(self.place)))
            self._n = n


def lying(rows: Rows, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    """(pages, the units of them in memory, where each row's record lies in them or -1 - i, row i of these, whether they are a map), as `page_net` takes them."""
    if isinstance(rows, Paged):
        return rows.lying()
    none = np.empty((0, PAGE), np.uint8), np.empty((0, layout.span * BODY), np.uint8)
    return *none, -1 - np.arange(len(rows), dtype=np.int32), rows.array, False


class _Map:
    """The map of a file that an array lies in, told what will be read: without reading ahead, several pages at once. Nothing for arrays in memory."""

    def __init__(self, array: np.ndarray) -> None:
        owner: Any = array
        while isinstance(owner, (np.ndarray, memoryview)):
            owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
        self._mmap = owner if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise") and array.size else None
        if self._mmap is not None:
            self._start = array.__array_interface__["data"][0] - np.frombuffer(self._mmap, np.uint8).__array_interface__["data"][0]
            if self._start % mmap.PAGESIZE or PAGE % mmap.PAGESIZE:
                self._mmap = None
            else:
                self._mmap.madvise(mmap.MADV_RANDOM, self._start, array.nbytes)

    @property
    def there(self) -> bool:
        return self._mmap is not None

    def soon(self, pages: np.ndarray) -> None:
        if self._mmap is not None and len(pages) <= 1024:
            for page in pages.tolist():
                self._mmap.madvise(mmap.MADV_WILLNEED, self._start + page * PAGE, PAGE)
