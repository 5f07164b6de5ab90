"""The definitions of the kernels over rows in pages: the contract's numpy versions, too long for contract.py."""

from __future__ import annotations

from bisect import insort
from typing import Any

import numpy as np

from ..env.checksum import crc32c
from ..errors import CorruptionError, InvalidArgumentError
from .numpy_codes import Entry, neighbours

NONE = 0xFFFFFFFF
PAGE, BODY = 4096, 4092
# bytes of pages that a call holds, and units at least for each query
HELD, LEAST = 1 << 23, 64


def room(queries: int, span: int) -> int:
    """How many units a call of so many queries holds."""
    return max(1, min(queries * LEAST, HELD // (span * BODY)))


def damaged(bad: int, span: int, known: int) -> CorruptionError:
    """What a page is that its sum does not fit, or, at -1 - unit, one whose links lead astray."""
    if bad >= 0:
        return CorruptionError(f"page {bad} of the rows is damaged", "", bad * PAGE)
    first = (-1 - bad) * span
    return CorruptionError(f"pages {first} to {first + span - 1} hold links beyond {known} rows", "", first * PAGE)


class Shape:
    """How rows lie, as `page_net` declares it; `InvalidArgumentError` for what does not fit together."""

    def __init__(
        self, n: int, d: int, pages: np.ndarray, hot: np.ndarray, order: np.ndarray, place: np.ndarray, slot: np.ndarray, points: np.ndarray,
        links: np.ndarray,
    ) -> None:  # fmt: skip
        self.width = links.shape[1]
        self.record = 4 * (d + self.width)
        self.per = max(1, BODY // self.record)
        self.span = -(-self.per * self.record // BODY)
        slots = len(pages) // self.span * self.per
        if not order.shape == place.shape == slot.shape == (n,) or links.shape[0] not in (0, n) or points.shape[1:] != (d,):
            raise InvalidArgumentError(f"{n} rows of {d} in an order of {order.shape}, places {place.shape}, slots {slot.shape}, points {points.shape}, links {links.shape}")
        if pages.shape[1] != PAGE or len(pages) % self.span or hot.shape[1] != self.span * BODY or len(hot) * self.span > len(pages):
            raise InvalidArgumentError(f"pages {pages.shape}, {hot.shape} of them in memory; give units of {self.span} pages of {PAGE} bytes")
        if not np.array_equal(order[place], np.arange(n)) or place.min() < 0 or slot.min() < -len(points) or slot.max() >= slots:
            raise InvalidArgumentError(f"slots from {slot.min()} to {slot.max()} of {slots} in pages and {len(points)} points, or places that are not an order")
        if len(links) == 0 and slot.min() < 0:
            raise InvalidArgumentError("a row beside the pages has no links; give links of all")


class Net(Shape):
    """Rows in pages and a net of their codes."""

    def __init__(
        self, net: Any, pages: np.ndarray, hot: np.ndarray, order: np.ndarray, place: np.ndarray, slot: np.ndarray, points: np.ndarray,
        links: np.ndarray, known: int,
    ) -> None:  # fmt: skip
        super().__init__(len(net.codes), net.d, pages, hot, order, place, slot, points, links)
        self.codes, self.pages, self.hot, self.order, self.place, self.slot = net, pages, hot, order, place, slot
        self.points, self.links, self.known = points, links, known

    def search(self, queries: np.ndarray, k: int, ef: int, beam: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
        self._check(queries, k, ef, beam, mask)
        reader = _Reader(self, len(queries))
        return self._each(queries, k, reader, [self._walk(q, k, ef, max(beam, 1), mask, reader) for q in queries if k])

    def _walk(self, query: np.ndarray, k: int, ef: int, beam: int, mask: np.ndarray | None, reader: _Reader) -> list[Entry]:
        far, per = self.codes.far_from(query), self.per
        fresh = list(dict.fromkeys(self.codes.begin(query).tolist()))
        seen, expanded = set(fresh), set[int]()
        pool: list[Entry] = []
        best: list[Entry] = []
        while True:
            if fresh:
                pool = sorted([*pool, *zip(far(np.array(fresh)).tolist(), fresh, strict=True)])[:ef]
            worst = pool[-1] if len(pool) == ef else (np.inf, 0)
            picked = [node for _, node in pool if node not in expanded][:beam]
            if not picked:
                return best
            expanded.update(picked)
            fresh = []
            for unit in sorted({int(self.place[node]) // per for node in picked}):
                members = self.order[unit * per : (unit + 1) * per].astype(np.int64)
                for entry in zip(far(members).tolist(), members.tolist(), strict=True):
                    node = entry[1]
                    row, links = reader.row(node)
                    if mask is None or mask[node]:
                        insort(best, (float(self.codes.exact(query, row[None, :], np.array([node]))[0]), node))
                        del best[k:]
                    if node not in picked:
                        if entry > worst:
                            continue
                        expanded.add(node)
                        if node not in seen:
                            seen.add(node)
                            fresh.append(node)
                    new = [n for n in neighbours(links).tolist() if n not in seen]
                    seen.update(new)
                    fresh += new

    def scan(self, queries: np.ndarray, k: int, depth: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, int]:
        self._check(queries, k, depth, 0, mask)
        reader = _Reader(self, len(queries))
        allowed = np.arange(len(self.order)) if mask is None else np.flatnonzero(mask)
        found = []
        for query in queries if k else []:
            near = sorted(zip(self.codes.far_from(query)(allowed).tolist(), allowed.tolist(), strict=True))[:depth]
            rows = np.array(sorted((node for _, node in near), key=self.place.__getitem__), np.int64)
            full = np.array([reader.row(node)[0] for node in rows.tolist()], np.float32).reshape(len(rows), self.codes.d)
            found.append(sorted(zip(self.codes.exact(query, full, rows).tolist(), rows.tolist(), strict=True))[:k])
        return self._each(queries, k, reader, found)

    def _check(self, queries: np.ndarray, k: int, ef: int, beam: int, mask: np.ndarray | None) -> None:
        self.codes.check_width(queries)
        if k < 0 or ef < max(k, 1) or not 0 <= beam <= 1024 or (mask is not None and len(mask) != len(self.order)):
            raise InvalidArgumentError(f"k {k}, {ef} kept, {beam} at a time; give k <= those kept, 1 or more, up to 1024 at a time, a mask of one entry a row")

    def _each(self, queries: np.ndarray, k: int, reader: _Reader, found: list[list[Entry]]) -> tuple[np.ndarray, np.ndarray, int]:
        ids, far = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        for i, best in enumerate(found):
            ids[i, : len(best)], far[i, : len(best)] = [node for _, node in best], [d for d, _ in best]
        return ids, far, reader.reads


class _Reader:
    """Of one call: the bodies of units that were read."""

    def __init__(self, net: Net, queries: int) -> None:
        self.net, self.room, self.reads = net, room(queries, net.span), 0
        # the unit that each place holds
        self.held: dict[int, tuple[int, np.ndarray]] = {}

    def row(self, node: int) -> tuple[np.ndarray, np.ndarray]:
        """A row and its links."""
        net, slot = self.net, int(self.net.slot[node])
        if slot < 0:
            return net.points[-1 - slot], net.links[node]
        at = slot % net.per * net.record
        record = self._unit(slot // net.per)[at : at + net.record]
        links = net.links[node] if len(net.links) else record[4 * net.codes.d :].view(np.uint32)
        return record[: 4 * net.codes.d].view(np.float32), links

    def _unit(self, unit: int) -> np.ndarray:
        net = self.net
        if unit < len(net.hot):
            return net.hot[unit]
        whose, body = self.held.get(unit % self.room, (-1, net.pages))
        if whose == unit:
            return body
        pages = np.array(net.pages[unit * net.span : (unit + 1) * net.span])
        self.reads += net.span
        for number, page in enumerate(pages, unit * net.span):
            if crc32c(page[:BODY], number) != int(page[BODY:].view("<u4")[0]):
                raise damaged(number, net.span, net.known)
        body = pages[:, :BODY].reshape(-1)
        links = body[: net.per * net.record].reshape(net.per, net.record)[:, net.record - 4 * net.width :].copy().view(np.uint32)
        if ((links >= net.known) & (links != NONE)).any():
            raise damaged(-1 - unit, net.span, net.known)
        self.held[unit % self.room] = unit, body
        return body
