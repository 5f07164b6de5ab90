"""Counters: cheap to add to from any thread, read as one dict."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Protocol


class Reporter(Protocol):
    """Counts by itself what happens too often for a lock, and adds it to the sums when asked."""

    def report(self) -> None: ...


class Reporters:
    """Who counts by itself, held weakly. Others may come while these are told to report: a `weakref.WeakSet` cannot be gone through then."""

    def __init__(self) -> None:
        self._all: weakref.WeakValueDictionary[int, Reporter] = weakref.WeakValueDictionary()

    def add(self, reporter: Reporter) -> None:
        self._all[id(reporter)] = reporter

    def report(self) -> None:
        for ref in self._all.valuerefs():
            if (reporter := ref()) is not None:
                reporter.report()


class Metrics:
    """Named sums. ``io.write.wal.commit`` counts bytes written to logs on behalf of commits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, int] = defaultdict(int)
        self.reporters = Reporters()

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._sums[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All counters by name, as they are now."""
        self.reporters.report()
        with self._lock:
            return dict(sorted(self._sums.items()))


class Counters(Mapping[str, int]):
    """What this process did while it was open, in every thread: name to count. A context manager; nested ones each count all.

    keys_sought, filter_passed, keys_found: keys looked up in table files, those that a filter let through, those that were there.
    rows_merged: rows whose keys a scan looked at. batches_read, batches_pruned: what it took up, what zone maps left out. rows_filtered: rows
    that a filter was applied to. index_candidates: rows that sorted indexes left of all. vectors_scanned, index_walks: of
    searches. bytes_checked: bytes compared with their checksums, which happens once a chunk.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[str, int] = defaultdict(int)

    def add(self, name: str, amount: int) -> None:
        with self._lock:
            self._sums[name] += amount

    def __enter__(self) -> Counters:
        global _open
        report_all()
        with _CHANGING:
            _open = (*_open, self)
        return self

    def __exit__(self, *_: object) -> None:
        global _open
        report_all()
        with _CHANGING:
            _open = tuple(c for c in _open if c is not self)

    def __getitem__(self, name: str) -> int:
        """The count; 0 for what did not happen."""
        return self._sums.get(name, 0)

    def __contains__(self, name: object) -> bool:
        return name in self._sums

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._sums))

    def __len__(self) -> int:
        return len(self._sums)

    def __repr__(self) -> str:
        return f"<lsmtensor.Counters {', '.join(f'{n}={c:,}' for n, c in self.items()) or 'nothing'}>"


lookups = Reporters()  # of keys


def report_all() -> None:
    """What was counted so far is told to who is open so far."""
    lookups.report()


_CHANGING = threading.Lock()
_open: tuple[Counters, ...] = ()


def counting() -> bool:
    """Whether some counters are open."""
    return bool(_open)


def count(name: str, amount: int = 1) -> None:
    """Tell the open counters, of which there are none as a rule."""
    for counters in _open:
        counters.add(name, amount)


def looked_up(metrics: Metrics, filtered: bool, sought: int, passed: int, found: int) -> None:
    """Keys that a table file was asked for, those that its filter let through, and those that were there."""
    for name, amount in (("sought", sought), ("passed", passed), ("found", found)) if filtered else ():
        metrics.add(f"filter.{name}", amount)
    for name, amount in (("keys_sought", sought), ("filter_passed", passed), ("keys_found", found)) if _open else ():
        count(name, amount)
