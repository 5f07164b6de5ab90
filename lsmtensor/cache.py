"""What was decoded or read lately, within a number of bytes: one for all readers of a database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

SHARE = 0.25  # of the memory limit


class Cache:
    """The least recently used goes first. Thread-safe; values are never changed, so a loser of a race only did work twice."""

    def __init__(self, limit: int) -> None:
        self.limit = max(0, limit)
        self.bytes = self.hits = self.misses = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> Any:
        """Keep a value of ``size`` bytes, which is returned; one larger than a quarter of all is not kept."""
        with self._lock:
            if size * 4 <= self.limit and key not in self._kept:
                self._kept[key] = value, size
                self.bytes += size
                while self.bytes > self.limit:
                    self.bytes -= self._kept.popitem(last=False)[1][1]
        return value

    def stats(self) -> dict[str, int]:
        return {"bytes": self.bytes, "limit": self.limit, "values": len(self._kept), "hits": self.hits, "misses": self.misses}


def memory() -> int:
    """Bytes of RAM of this machine, or of the control group that this process is in; 4 GiB where nobody says."""
    import os

    found = []
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        with open("/sys/fs/cgroup/memory.max") as file:
            found.append(int(file.read()))
    except (OSError, ValueError, AttributeError):
        pass  # another system, or no limit
    return min((n for n in found if n > 0), default=4 << 30)


def for_limit(limit: int | None) -> Cache:
    """The cache under ``RunConfig.memory_limit``; None means half of RAM."""
    return Cache(int(SHARE * (memory() // 2 if limit is None else limit)))
