"""Commits that do not wait: a thread waits for their sync, shows them, and answers their futures in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..errors import ClosedError


class Syncer:
    """One thread, started at the first such commit. All that gathers while a sync is under way shares the next."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self._show = show
        self._changed = threading.Condition()
        self._queue: list[tuple[int, Any, Future[int]]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, version: int, ticket: tuple[Any, Any] | None) -> Future[int]:
        """``ticket`` is (log writer, place in it), None where nothing was written."""
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        if ticket is None:
            future.set_result(version)
            return future
        with self._changed:
            if self._closed:
                raise ClosedError("the database is closed; open it again")
            self._queue.append((version, ticket, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lsmtensor-syncer", daemon=True)
                self._thread.start()
            self._changed.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                batch, self._queue = self._queue, []
                if not batch:
                    return
            for i, (version, (writer, place), future) in enumerate(batch):
                last_of_log = i + 1 == len(batch) or batch[i + 1][1][0] is not writer
                try:
                    # the last record of a log syncs those before it; they then need not wait
                    writer.wait(batch[self._last(batch, i)][1][1] if not last_of_log else place)
                    self._show(version)
                    future.set_result(version)
                except BaseException as why:
                    future.set_exception(why)

    @staticmethod
    def _last(batch: list[tuple[int, Any, Future[int]]], i: int) -> int:
        writer = batch[i][1][0]
        while i + 1 < len(batch) and batch[i + 1][1][0] is writer:
            i += 1
        return i

    def close(self) -> None:
        """Answer what is waiting, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
