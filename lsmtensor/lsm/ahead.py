"""A second thread that works ahead of a reader: checksums of the next megabytes while these are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..env.base import cores

T = TypeVar("T")
DEPTH = 8


@dataclass
class Job(Generic[T]):
    """Something to be loaded; ``cheap`` jobs are not worth another thread."""

    load: Callable[[], T]
    cheap: bool
    future: Future[T] | None = None
    done: list[T] | None = None

    def claim(self) -> bool:
        """Do it here, unless it is done or the helper is at it."""
        if self.done is not None or (self.future is not None and not self.future.cancel()):
            return False
        self.done = [self.load()]
        return True


def ahead(jobs: Iterator[Job[T]]) -> Iterator[T]:
    """What the jobs load, in order. A helper does those further on; what it has not begun is done here: nobody waits idle."""
    queue: deque[Job[T]] = deque()
    pool: ThreadPoolExecutor | None = None
    alone = cores() < 2
    try:
        for job in jobs:
            queue.append(job)
            if not (alone or job.cheap) and len(queue) > 1:
                pool = pool or ThreadPoolExecutor(1, "lsmtensor-ahead")
                job.future = pool.submit(job.load)
            if len(queue) == DEPTH:
                yield _take(queue)
        while queue:
            yield _take(queue)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _take(queue: deque[Job[T]]) -> T:
    job = queue.popleft()
    if not job.claim() and job.done is None:
        assert job.future is not None
        for later in queue:
            if job.future.done():
                break
            if not later.cheap:
                later.claim()
        return job.future.result()
    assert job.done is not None
    return job.done[0]
