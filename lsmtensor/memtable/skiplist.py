"""A skip list: the worked example of a second memtable, and the textbook one.

Pugh, "Skip lists: a probabilistic alternative to balanced trees", CACM 1990. Expected O(log n) steps a
row added and a key found, each a step of Python; ``sorted_run`` needs no sort. Where the default
indexes nothing until it is asked, this one is always sorted. Every rule of the seam is in
``lsmtensor.testing.memtables``, and this file is all that a new kind needs.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from typing import Any

import numpy as np
import pyarrow as pa

from . import REGISTRY
from .base import Memtable, View

MAX_HEIGHT = 20  # enough for 2^40 keys where one node in four rises


class _Node:
    """A key, its row numbers (ascending) and the next node on each level below its height."""

    __slots__ = ("key", "next", "rows")

    def __init__(self, key: Any, height: int) -> None:
        self.key = key
        self.rows: list[int] = []
        self.next: list[_Node | None] = [None] * height


@REGISTRY.register("skiplist")
class SkipListMemtable(Memtable):
    """Nodes by key; one writer links, readers walk without locks."""

    def __init__(self, key_kind: str, physical: pa.Schema, seed: int = 0) -> None:
        super().__init__(key_kind, physical)
        self._head = _Node(None, MAX_HEIGHT)
        self._luck = random.Random(seed)

    def _before(self, key: Any) -> list[_Node]:
        """On every level, the last node whose key is below ``key``."""
        path, node = [self._head] * MAX_HEIGHT, self._head
        for level in range(MAX_HEIGHT - 1, -1, -1):
            while (following := node.next[level]) is not None and following.key < key:
                node = following
            path[level] = node
        return path

    def _index(self, keys: pa.Array, first_row: int) -> None:
        for row, key in enumerate(keys.to_pylist(), first_row):
            path = self._before(key)
            node = path[0].next[0]
            if node is not None and node.key == key:
                node.rows.append(row)
                continue
            height = 1
            while height < MAX_HEIGHT and self._luck.random() < 0.25:
                height += 1
            node = _Node(key, height)
            node.rows.append(row)
            # whole before it can be reached, and linked from the bottom: a reader finds it or passes by
            node.next = [path[level].next[level] for level in range(height)]
            for level in range(height):
                path[level].next[level] = node

    def _find(self, keys: pa.Array, limit: int, view: View) -> np.ndarray:
        found = np.full(len(keys), -1, np.int64)
        for i, key in enumerate(keys.to_pylist()):
            node = self._before(key)[0].next[0]
            if node is not None and node.key == key:
                below = bisect_left(node.rows, limit)
                if below:
                    found[i] = node.rows[below - 1]
        return found

    def _order(self, limit: int, view: View) -> np.ndarray:
        order: list[int] = []
        node = self._head.next[0]
        while node is not None:
            order.extend(reversed(node.rows[: bisect_left(node.rows, limit)]))
            node = node.next[0]
        return np.array(order, np.int64)
