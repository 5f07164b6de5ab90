"""Scrubbing: everything is read and compared again and again slowly, so that rot is found while another copy is still there."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..errors import ClosedError, CorruptionError, InvalidArgumentError, StorageError
from .integrity import verify_tree

if TYPE_CHECKING:
    from .tree import Tree


class Scrub:
    """One pass over every file in a thread of its own, at ``rate`` bytes a second at most (0: as fast as can be).

    ``done`` counts bytes, ``found`` holds a `CorruptionError` for each damaged file; the tree's listeners get a ``scrub`` event at the
    end. A pass goes over the files that were there when it began.
    """

    def __init__(self, tree: Tree, rate: float) -> None:
        if rate < 0:
            raise InvalidArgumentError(f"rate={rate}; give bytes a second, or 0 for as fast as can be")
        self.done, self.found, self._rate = 0, list[CorruptionError](), rate
        self._tree, self._stop, self._begin = tree, threading.Event(), time.monotonic()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="lsmtensor-scrub", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._tree.events.timed("scrub") as facts:
                try:
                    verify_tree(self._tree, self._pace, self.found)
                finally:
                    facts.update(bytes=self.done, damaged=len(self.found))
        except _StoppedError:
            return
        except (ClosedError, StorageError) as why:
            self._failed = why

    def _pace(self, size: int) -> None:
        self.done += size
        ahead = self.done / self._rate - (time.monotonic() - self._begin) if self._rate else 0.0
        if self._stop.wait(max(0.0, ahead)) or self._tree.closed:
            raise _StoppedError

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """End at the next chunk; `found` stays."""
        self._stop.set()
        self._thread.join()

    def wait(self, timeout: float | None = None) -> list[CorruptionError]:
        """What was found, at the end of the pass or after ``timeout`` seconds. `StorageError` where a file could not be read."""
        self._thread.join(timeout)
        if self._failed is not None:
            raise self._failed
        return self.found


class _StoppedError(Exception):
    """Ends a pass between two chunks."""
