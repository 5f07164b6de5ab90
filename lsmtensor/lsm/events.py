"""What the tree does beside commits, told to listeners as it ends, and counted by how long it took."""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from ..env.base import Clock

Listener = Callable[[dict[str, Any]], object]
FINEST = -20  # buckets are powers of two of a second, from a microsecond


class Events:
    """Listeners, and a histogram of seconds for each kind of event. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._listeners: list[Listener] = []
        self._counts: Counter[tuple[str, int]] = Counter()
        self._seconds: Counter[str] = Counter()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each event from now on; what is answered ends that."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

        def stop() -> None:
            with self._lock:
                # by identity: a listener may compare equal to another
                self._listeners = [known for known in self._listeners if known is not listener]

        return stop

    @contextmanager
    def timed(self, event: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """An event that lasts as long as the block, which may add facts; one that fails is told with its ``error``."""
        begin = self._clock.monotonic()
        try:
            yield facts
        except BaseException as why:
            facts["error"] = f"{type(why).__name__}: {why}"
            raise
        finally:
            seconds = self._clock.monotonic() - begin
            bucket = max(FINEST, math.ceil(math.log2(seconds))) if seconds > 0 else FINEST
            with self._lock:
                self._counts[event, bucket] += 1
                self._seconds[event] += seconds  # type: ignore[assignment]
                listeners = self._listeners
            for listener in listeners:
                try:
                    listener({"event": event, "seconds": seconds, **facts})
                except Exception as why:  # noqa: BLE001 - the work goes on, whatever a listener does
                    warnings.warn(f"a listener failed at {event!r}: {type(why).__name__}: {why}", stacklevel=2)

    def seconds(self) -> dict[str, float]:
        """How long each kind of event took in all."""
        with self._lock:
            return dict(self._seconds)

    def histogram(self) -> pa.Table:
        """event, up_to_seconds (a power of two; the bucket holds what took more than half of it), count; in order."""
        with self._lock:
            rows = sorted(self._counts.items())
        return pa.table({
            "event": pa.array([event for (event, _), _ in rows], pa.string()),
            "up_to_seconds": pa.array([2.0**bucket for (_, bucket), _ in rows], pa.float64()),
            "count": pa.array([count for _, count in rows], pa.int64()),
        })  # fmt: skip
