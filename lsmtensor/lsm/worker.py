"""The background thread: does the tree's work when told that there is some."""

from __future__ import annotations

import threading

from .tree import Tree


class Worker:
    """One daemon thread a tree. A failure is kept, shown to the next writer, and tried again at the next wake."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="lsmtensor-worker", daemon=True)
        tree.on_work = self._wake.set
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopped:
                return
            try:
                self._tree.work()
                self._tree.failed(None)
            except Exception as why:  # whatever it is: a dead worker would stop the writers without a word
                self._tree.failed(why)

    def stop(self) -> None:
        """End after the work in hand; never called from the worker itself."""
        self._stopped = True
        self._wake.set()
        self._thread.join()
