"""What `lsmtensor.kernels.device` and its backend use of cupy, on a processor: numpy's arrays as device arrays, and the CUDA text compiled by
g++ behind cuda_shim.h. It refuses what a GPU refuses: host arrays among device arrays, kernel arguments of a wrong width, memory over the limit, and
copies or launches that were recorded do nothing until their graph is launched. It says nothing about speed, BLAS on the device, or the driver.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
import types
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__version__ = "stand-in"
_pool: Any = None
_recording: list[Any] | None = None


class DeviceArray(np.ndarray):
    """Takes part in arithmetic with its like and with numbers only."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(type(x) is np.ndarray and x.ndim for x in inputs):
            raise TypeError(f"{ufunc.__name__} of a host array and a device array")
        made = getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, DeviceArray) else x for x in inputs), **options)
        return on_device(made)

    def set(self, host: np.ndarray, stream: Any) -> None:
        assert type(host) is np.ndarray and host.shape == self.shape and host.dtype == self.dtype and self.flags.c_contiguous
        do(lambda: np.copyto(np.asarray(self), host))

    def get(self, stream: Any = None, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        assert _recording is None or not blocking, "a copy that is waited for cannot be recorded"
        made = np.empty(self.shape, self.dtype) if out is None else out
        do(lambda: np.copyto(made, np.asarray(self)))
        return made


def do(work: Any) -> None:
    work() if _recording is None else _recording.append(work)


def on_device(x: Any) -> DeviceArray:
    """An array of its own that the pool knows of; views of device arrays are none."""
    made = np.array(x).view(DeviceArray)
    if _pool is not None:
        made.memory = _pool(made.nbytes)
    return made


def empty(shape: Any, dtype: Any) -> DeviceArray:
    return on_device(np.full(shape, np.array(0xA5A5A5A5A5A5A5A5 % 2**63).astype(dtype)))  # so that nobody counts on zeros


def _function(name: str) -> Any:
    def run(*args: Any, **options: Any) -> DeviceArray:
        flat = [x for a in args for x in (a if isinstance(a, list) else [a])]
        assert not any(type(x) is np.ndarray and x.ndim for x in flat), f"{name} of a host array"
        bare = [[np.asarray(x) for x in a] if isinstance(a, list) else np.asarray(a) if isinstance(a, DeviceArray) else a for a in args]
        return on_device(getattr(np, name)(*bare, **options))

    return run


concatenate, sqrt, where, take_along_axis = (_function(n) for n in ("concatenate", "sqrt", "where", "take_along_axis"))


class RawModule:
    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        names = re.findall(r'extern "C" __global__ void (\w+)', code)
        table = "".join(f'    if (!strcmp(name, "{n}")) return run({n}, columns, rows, args, sizes, count);\n' for n in names)
        entry = f'extern "C" int launch(const char *name, unsigned columns, unsigned rows, void **args, const int *sizes, int count)\n{{\n{table}    return -3;\n}}\n'
        with tempfile.TemporaryDirectory() as folder:
            text, made = Path(folder, "device.cpp"), Path(folder, "device.so")
            text.write_text('#include "cuda_shim.h"\n' + code + entry)
            subprocess.run(
                ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", *options, f"-I{Path(__file__).parent}", str(text), "-o", str(made)], check=True
            )
            self._launch = ctypes.CDLL(str(made)).launch

    def get_function(self, name: str) -> Any:
        def launch(grid: tuple[int, int], block: tuple[int], args: tuple[Any, ...]) -> None:
            assert all(0 < side < limit for side, limit in zip(grid, (2**31, 2**16), strict=True)), grid
            cells = []
            for a in args:
                assert isinstance(a, (DeviceArray, np.generic)), f"{name}: {type(a)} is no argument of a kernel"
                assert not isinstance(a, DeviceArray) or a.flags.c_contiguous, f"{name}: an array that is not contiguous"
                cells.append(np.array([a.ctypes.data if isinstance(a, DeviceArray) else a], np.uint64 if isinstance(a, DeviceArray) else a.dtype))
            pointers = (ctypes.c_void_p * len(cells))(*(c.ctypes.data for c in cells))
            sizes = (ctypes.c_int * len(cells))(*(c.itemsize for c in cells))

            def work(keep: Any = (cells, args)) -> None:
                code = self._launch(name.encode(), *grid, pointers, sizes, len(cells))
                assert code == 0, f"{name}: wrong arguments ({code})"

            do(work)

        return launch


class Block:
    """Memory from the pool until it is let go."""


class MemoryPool:
    def __init__(self) -> None:
        self._used = self._held = self._limit = 0

    def set_limit(self, size: int) -> None:
        self._limit = size

    def get_limit(self) -> int:
        return self._limit

    def malloc(self, size: int) -> Any:
        size = -(-size // 512) * 512
        if self._limit and self._used + size > self._limit:
            raise cuda.memory.OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        self._used += size
        self._held = max(self._held, self._used)
        block = Block()
        weakref.finalize(block, self._gone, size)
        return block

    def _gone(self, size: int) -> None:
        self._used -= size

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._held

    def free_all_blocks(self) -> None:
        self._held = self._used


class Graph:
    launches = 0

    def __init__(self, work: list[Any]) -> None:
        self._work = work

    def launch(self, stream: Any) -> None:
        Graph.launches += 1
        for work in self._work:
            work()


class Stream:
    def __init__(self, non_blocking: bool) -> None:
        assert non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *why: Any) -> None:
        """Nothing is ever left in flight."""

    def synchronize(self) -> None:
        assert _recording is None, "a stream that is recorded cannot be waited for"

    def begin_capture(self) -> None:
        global _recording
        _recording = []

    def end_capture(self) -> Graph:
        global _recording
        work, _recording = _recording, None
        return Graph(work or [])


class Event:
    def __init__(self, disable_timing: bool) -> None:
        assert disable_timing

    def record(self, stream: Any) -> None:
        assert isinstance(stream, Stream)

    def synchronize(self) -> None:
        assert _recording is None, "an event cannot be waited for while work is recorded"


@contextmanager
def using_allocator(allocate: Any) -> Any:
    global _pool
    before, _pool = _pool, allocate
    try:
        yield
    finally:
        _pool = before


class CUDARuntimeError(RuntimeError):
    """What the driver says."""


cuda = types.SimpleNamespace(
    MemoryPool=MemoryPool, Stream=Stream, Event=Event, using_allocator=using_allocator, alloc_pinned_memory=bytearray,
    Device=lambda: types.SimpleNamespace(id=0),
    memory=types.SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1, memGetInfo=lambda: (3 << 30, 4 << 30),
        getDeviceProperties=lambda _: {"name": b"no card"},
    ),
)  # fmt: skip
