"""The work that indexes did on rows they knew, for an index of merged rows: only rows new to all of them are taken in.

A graph's rows are renumbered, and a link to a row that went becomes one to a row that the lost one led to (the heirs of IP-DiskANN, Xu et al.,
arXiv 2502.13826, without distances). Cells of the same centroids are put together as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .rows import Rows

if TYPE_CHECKING:
    from .base import VectorIndex

NONE = 0xFFFFFFFF
# a graph is built anew where it knows less than this share of the rows, or lost more than that of its own
KNOWN, LOST = 0.25, 0.3
# and where it lost this many times its rows since it was built: 25 times a fifth of 20,000 x 384 cost fqg 0.007 of recall, hnsw 0.012
WORN = 0.6
# rows that a lost one led to, of which one takes its place in a list of links
HEIRS = 4


def carried(olds: Sequence[tuple[VectorIndex, np.ndarray]], vectors: np.ndarray) -> VectorIndex | None:
    """An index over ``vectors`` float32 (n, dim), borrowed, from some of one kind and its settings, each with int64 (n,): which of its rows row i is,
    -1 for none. The first of them is used up. None where none of them is worth it, and then all are as they were.

    O(rows known), and what the insertion of the others costs.
    """
    olds = sorted(olds, key=lambda old: -int(np.count_nonzero(old[1] >= 0)))
    if not olds:
        return None
    made, origin = olds[0]
    known = origin >= 0
    stay = int(np.count_nonzero(known))
    worn = made._worn + (1 - stay / len(made._vectors) if stay else 0)
    if worn > WORN or not made._worth(stay, len(vectors)):
        return None
    made._worn = worn
    order = [np.flatnonzero(known)]
    made._select(origin[order[0]])
    for other, origin in olds[1:]:
        if made._shares(other):
            order.append(np.flatnonzero((origin >= 0) & ~known))
            made._absorb(other, origin[order[-1]])
            known[order[-1]] = True
    start = sum(map(len, order))
    places = np.concatenate([*order, np.flatnonzero(~known)])
    in_order = bool((np.diff(places) == 1).all())
    made._vectors = Rows(vectors if in_order else vectors[places])
    made._ids = made._alive = made._row_of = None
    made._dead, made._next_id = 0, len(vectors)
    if start < len(vectors):
        made._carrying = True
        made._insert(start, len(vectors))
        made._carrying = False
    if not in_order:
        made._select(np.argsort(places))
        made._vectors = Rows(vectors)
    made._finish()
    return made


def leads_inside(links: np.ndarray, n: int) -> bool:
    """Whether every uint32 link of a C-contiguous array is below ``n``, at most 2**31, or NONE. O(links), at the speed of memory."""
    flat = links.reshape(-1).view(np.int32)
    return all(int(part.max()) < n and int(part.min()) >= -1 for at in range(0, len(flat), 1 << 18) for part in [flat[at : at + (1 << 18)]])


def numbers(rows: np.ndarray, n: int) -> np.ndarray:
    """uint32 (n + 1,): the new number of each old row, NONE for those that go and at the end."""
    made = np.full(n + 1, NONE, np.uint32)
    made[rows] = np.arange(len(rows), dtype=np.uint32)
    return made


def kept_links(links: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint32 (len(rows), width): links (n, width) of a graph of which only ``rows`` stay, in this order. O(links)."""
    n = len(links)
    place = numbers(rows, n)
    mine = links[rows]
    to = place[np.where(mine == NONE, n, mine)]
    if len(rows) < n:
        _inherit(links, place, mine, to)
        # lists end at their first hole
        order = np.argsort(to == NONE, axis=1, kind="stable")
        to = np.take_along_axis(to, order, 1)
    return np.ascontiguousarray(to)


def _inherit(links: np.ndarray, place: np.ndarray, mine: np.ndarray, to: np.ndarray) -> None:
    """Fill the places of lost rows in ``to`` with heirs that are not there yet."""
    lost = (mine != NONE) & (to == NONE)
    gone = np.flatnonzero(place[:-1] == NONE)
    # of each lost row the first that stay
    led = place[np.where(links[gone] == NONE, len(links), links[gone])]
    first = np.argsort(led == NONE, axis=1, kind="stable")[:, :HEIRS]
    heirs = np.take_along_axis(led, first, 1)
    which = np.searchsorted(gone, np.where(lost, mine, 0))
    for slot in range(mine.shape[1]):
        for heir in range(heirs.shape[1]):
            open_ = np.flatnonzero(lost[:, slot] & (to[:, slot] == NONE))
            if len(open_) == 0:
                break
            new = heirs[which[open_, slot], heir]
            there = (to[open_] == new[:, None]).any(1) | (new == open_)
            to[open_[~there], slot] = new[~there]


def connect(links: np.ndarray, begins: np.ndarray) -> None:
    """Give every row that no walk would come to a link from a row near it: rows lose their last link for it, so look again, a few
    times. What is left is equal to so many rows that no graph holds them; a search that comes back short is a scan. O(links)."""
    n = len(links)
    for _ in range(3):
        reached = np.zeros(n, bool)
        spread(links, begins, reached)
        lost = np.flatnonzero(~reached)
        if len(lost) == 0:
            return
        for node in lost.tolist():
            near = links[node][links[node] != NONE]
            through = near[reached[near]]
            if reached[node] or len(through) == 0:
                continue
            row = links[through[0]]
            free = np.flatnonzero(row == NONE)
            row[free[0] if len(free) else len(row) - 1] = node
            reached[node] = True
            spread(links, np.array([node]), reached)


def spread(links: np.ndarray, start: np.ndarray, reached: np.ndarray) -> None:
    """Mark what is reached from some rows."""
    reached[start] = True
    while len(start):
        near = links[start].ravel()
        near = near[near != NONE]
        start = np.unique(near[~reached[near]])
        reached[start] = True
