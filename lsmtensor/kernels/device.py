"""One GPU: memory from a pool with a limit, pinned staging, one stream, the kernels of device.cu, work recorded once and replayed.

cupy is handed in and never imported, so that tests run these lines on a processor with a stand-in for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from ..errors import DeviceMemoryError, UnavailableError

THREADS = 256
# what device.cu has by the same names
TILE, EACH = 8, 8
STAGING = 16 << 20


class Device:
    """Everything between `work` and its end is one thread's alone, on one stream, with arrays from the pool.

    ``limit``: bytes that arrays may take together; 0: what the card has.
    """

    def __init__(self, cupy: Any, limit: int = 0) -> None:
        self.xp, self.threads = cupy, THREADS
        self.pool = cupy.cuda.MemoryPool()
        self.pool.set_limit(size=limit)
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.peak = 0
        self._module = cupy.RawModule(code=Path(__file__).with_name("device.cu").read_text(), options=(f"-DTHREADS={THREADS}",))
        self._functions: dict[str, Any] = {}
        # two rooms, each with the event after which it may be filled again
        self._staging = [(self.pinned((STAGING,), np.uint8), cupy.cuda.Event(disable_timing=True)) for _ in range(2)]
        self._lock, self._process = threading.RLock(), os.getpid()
        # while work is recorded: the memory that it was given, which must stay its own
        self._recorded: list[Any] | None = None
        self._placed: WeakSet[Placed] = WeakSet()

    @contextmanager
    def work(self) -> Iterator[Any]:
        """The device for one thread: yields cupy. Raises `DeviceMemoryError`, and `UnavailableError` in the child of a fork."""
        if os.getpid() != self._process:
            raise UnavailableError("a GPU that was used before a fork cannot be used after it; start workers by 'spawn' or 'forkserver'")
        with self._lock, self.xp.cuda.using_allocator(self._allocate), self.stream:
            try:
                yield self.xp
            except self.xp.cuda.memory.OutOfMemoryError as why:
                report = self.memory()
                raise DeviceMemoryError(
                    f"{why}; {report['used']:,} bytes are in use, {report['resident']:,} of them resident rows, the limit is {report['limit']:,}: "
                    "raise LSMTENSOR_GPU_MEMORY, ask fewer queries at once, or let go of resident rows"
                ) from why

    def _allocate(self, size: int) -> Any:
        memory = self.pool.malloc(size)
        self.peak = max(self.peak, self.pool.used_bytes())
        if self._recorded is not None:
            self._recorded.append(memory)
        return memory

    @property
    def cells(self) -> int:
        """How many float32 an intermediate may have: a sixteenth of the limit, at most a quarter of a GiB."""
        limit = self.pool.get_limit()
        return min(1 << 26, limit // 64) if limit else 1 << 26

    def memory(self) -> dict[str, float]:
        """Bytes: ``used`` by arrays, ``free`` of what the pool ``held`` from the driver, the ``peak`` of used, the ``limit`` (0: none), ``resident``
        rows, the card's own ``card_free`` and ``card_total``; ``fragmentation``: the share of held that no array uses."""
        used, held = self.pool.used_bytes(), self.pool.total_bytes()
        card_free, card_total = self.xp.cuda.runtime.memGetInfo()
        return {
            "used": used, "free": held - used, "held": held, "peak": self.peak, "limit": self.pool.get_limit(), "resident": sum(placed.nbytes for placed in self._placed),
            "fragmentation": (held - used) / held if held else 0.0, "card_free": card_free, "card_total": card_total,
        }  # fmt: skip

    def release(self) -> None:
        """Give what the pool holds unused back to the driver."""
        self.pool.free_all_blocks()

    def resident(self, rows: np.ndarray) -> Resident:
        """float32 (n, d), contiguous: the same rows, copied to the device until the array is let go."""
        made = rows.view(Resident)
        made.flags.writeable = False
        with self.work():
            made.placed = Placed(self, rows)
        self._placed.add(made.placed)
        return made

    # -- between host and device; all of these within `work` -------------------------------------------

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A host array that copies need not wait for."""
        size = int(np.prod(shape))
        memory = self.xp.cuda.alloc_pinned_memory(max(size, 1) * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, size).reshape(shape)

    def upload(self, host: np.ndarray) -> Any:
        """A copy on the device of a contiguous array; one staging room is filled while the other is on its way."""
        made = self.xp.empty(host.shape, host.dtype)
        flat, target, step = host.reshape(-1), made.reshape(-1), STAGING // host.itemsize
        for turn, start in enumerate(range(0, host.size, step)):
            room, free = self._staging[turn % 2]
            free.synchronize()
            part = flat[start : start + step]
            piece = room[: part.nbytes].view(host.dtype)
            piece[:] = part
            target[start : start + step].set(piece, self.stream)
            free.record(self.stream)
        return made

    def download(self, array: Any) -> np.ndarray:
        got: np.ndarray = array.get(stream=self.stream)
        return got

    def launch(self, name: str, columns: int, rows: int, *args: Any) -> None:
        """A kernel of device.cu over a grid of blocks. Numbers are given as numpy scalars of the width that the kernel declares."""
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        self._functions[name]((columns, rows), (self.threads,), args)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """A call that does again what ``work`` queues, by one launch; arrays that work makes are kept for it. Work must have run before."""
        kept: list[Any] = []
        self._recorded = kept
        self.stream.begin_capture()
        try:
            work()
        finally:
            graph, self._recorded = self.stream.end_capture(), None

        def again(kept: list[Any] = kept) -> None:
            graph.launch(self.stream)

        return again


class Placed:
    """Rows on the device, and what is kept beside them: squared norms once asked for, recorded searches."""

    def __init__(self, device: Device, rows: np.ndarray) -> None:
        self.rows, self.recorded = device.upload(rows), dict[tuple[int, ...], Any]()
        self._squares: Any = None

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes) + (0 if self._squares is None else int(self._squares.nbytes))

    def squares(self, device: Device) -> Any:
        """The squared norms, float32 (n,)."""
        if self._squares is None:
            self._squares = device.xp.empty(len(self.rows), np.float32)
            step = max(1, device.cells // self.rows.shape[1])
            for start in range(0, len(self.rows), step):
                part = self.rows[start : start + step]
                self._squares[start : start + step] = (part * part).sum(1)
        return self._squares


class Resident(np.ndarray):
    """Rows on the host, not to be written, that know their copy on the device; views and slices of them do not."""

    placed: Placed | None

    def __array_finalize__(self, whole: Any) -> None:
        self.placed = None

