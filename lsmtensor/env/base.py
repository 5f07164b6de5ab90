"""What a file system is to the engine. Paths are text joined with ``/``.

Durability is explicit: what was written is safe after `WritableFile.sync`, a name that was created,
renamed or removed is safe after `Env.sync_dir` of its folder. Every byte is counted under
``io.OP.KIND.CAUSE`` in ``metrics``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Any, Protocol

from ..metrics import Metrics

Buffer = Any


class Clock:
    """The system's clock; tests pass another."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that only rise."""
        return time.monotonic()


class WritableFile:
    """A file that grows. Any failure is a `StorageError` with its ``errno``."""

    path: str

    def writev(self, buffers: Sequence[Buffer]) -> None:
        raise TypeError("abstract")  # pragma: no cover

    def write(self, buffer: Buffer) -> None:
        self.writev([buffer])

    def tell(self) -> int:
        raise TypeError("abstract")  # pragma: no cover

    def sync(self) -> None:
        raise TypeError("abstract")  # pragma: no cover

    def close(self) -> None:
        raise TypeError("abstract")  # pragma: no cover

    def __enter__(self) -> WritableFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ReadableFile(Protocol):
    path: str

    @property
    def size(self) -> int: ...
    def pread(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes; `CorruptionError` where the file ends before."""
        ...

    def map(self) -> memoryview:
        """The whole file, read-only; lives as long as any view of it."""
        ...

    def private(self, offset: int, length: int) -> memoryview:
        """Bytes of the file as memory of the caller's own: what is written to it goes nowhere else."""
        ...

    def joined(self, pieces: Sequence[tuple[int, int]]) -> memoryview | None:
        """Pieces (offset, length) of the file as one view, where that takes no copy; else None."""
        ...

    def close(self) -> None: ...


class Lock(Protocol):
    def close(self) -> None: ...


class Env(Protocol):
    metrics: Metrics
    clock: Clock

    def create(self, path: str, *, kind: str, cause: str, direct: bool = False) -> WritableFile:
        """A new file; one that exists is refused."""
        ...

    def append_to(self, path: str, *, kind: str, cause: str, truncate_at: int, again_from: int | None = None) -> WritableFile:
        """An existing file, first cut to ``truncate_at`` bytes.

        The bytes from ``again_from`` up to there are written again in their place: after a sync that failed, the system may
        show bytes as clean that never reached the disk, and only a write makes the next sync carry them there.
        """
        ...

    def open(self, path: str, *, kind: str) -> ReadableFile: ...
    def exists(self, path: str) -> bool: ...
    def listdir(self, path: str) -> list[str]:
        """Names, sorted; none for a folder that is not there."""
        ...

    def size(self, path: str) -> int: ...
    def mkdir(self, path: str) -> None:
        """With its parents, safe at once; one that exists is fine."""
        ...

    def unlink(self, path: str) -> None:
        """A file that is not there is fine."""
        ...

    def rename(self, old: str, new: str) -> None: ...
    def sync_dir(self, path: str) -> None: ...
    def link(self, old: str, new: str) -> None:
        """Another name of a finished file; where the two folders cannot share one, a synced copy."""
        ...

    def lock(self, path: str, note: str | None = "") -> Lock:
        """Exclusive; `LockedError` while another process (or handle) holds it. The holder and its note are written there; of None, nothing is."""
        ...


@cache
def memory() -> int:
    """Bytes of memory of this machine; 0 where nobody says."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
