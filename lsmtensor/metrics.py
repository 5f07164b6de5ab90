"""Counters: cheap to add to from any thread, read as one dict."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from typing import Protocol


class Reporter(Protocol):
    """Counts by itself what happens too often for a lock, and adds it to the sums when asked."""

    def report(self) -> None: ...


class Metrics:
    """Named sums. ``io.write.wal.commit`` counts bytes written to logs on behalf of commits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, int] = defaultdict(int)
        self.reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._sums[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All counters by name, as they are now."""
        for reporter in list(self.reporters):
            reporter.report()
        with self._lock:
            return dict(sorted(self._sums.items()))
