"""A state dict saved durably, read back, opened lazily; a slice of a chunked array. Beside raw files, safetensors, Zarr, tensorstore.

The dict is 40 float32 arrays (2 GiB; 128 MiB with --quick), in memory and touched before the clock starts. Every save ends with a
sync of its own; "raw write+sync" writes the arrays' bytes to one plain file, the better of through the page cache and past it: a limit, not a
rival. Reads are warm: the files were read once, untimed. "read" sums every byte over the views of a fresh handle, checksums checked;
"read again" does so in the same handle; "memory map" is the same sum over the plain file, mapped afresh. "view" opens one array of the dict
by name and takes an unverified view. The slice is [1000:1100, 200:300] of 20,000 x 5,000 float32 in 1000 x 500 chunks without codec.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lsmtensor as lt

from ..env.base import cores
from .runner import Options, Ratio

ARRAYS, WIDTH = 40, 1024
PIECE = 4 << 20
BOX = (slice(1000, 1100), slice(200, 300))
GRID = (1000, 500)
REPEAT = 200
PEERS = ("safetensors", "tensorstore", "zarr")


@dataclass
class State:
    folder: Path
    config: lt.RunConfig
    arrays: dict[str, np.ndarray]
    grid: np.ndarray
    total: int
    bytes: int
    peers: tuple[str, ...]
    checksum: str
    aligned: mmap.mmap
    slicers: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    closers: list[Callable[[], Any]] = field(default_factory=list)
    handle: lt.Database | None = None


def setup(options: Options) -> State:
    rows = (128 << 20 if options.quick else 2 << 30) // (ARRAYS * WIDTH * 4)
    rng = np.random.default_rng(options.seed)
    block = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    arrays = {f"layer{i:02d}/weight": np.roll(block, i, axis=0) for i in range(ARRAYS)}
    size = sum(a.nbytes for a in arrays.values())
    aligned = mmap.mmap(-1, PIECE)
    folder = options.path
    there = tuple(p for p in PEERS if importlib.util.find_spec(p) is not None and (options.peers is None or p in options.peers))
    grid = np.arange((5_000 if options.quick else 20_000) * 5_000, dtype=np.float32).reshape(-1, 5_000)
    state = State(
        folder, options.config, arrays, grid, sum(map(_sum, arrays.values())) % 2**64, size, there,
        hashlib.sha256(block.data).hexdigest(), aligned,
    )  # fmt: skip
    _save_raw(state, direct=False)
    _save(state)
    for name in ("lsmtensor", *there):
        if name in _SLICERS:
            state.slicers[name] = _SLICERS[name](state)
    return state


def _sum(array: np.ndarray) -> int:
    return int(array.reshape(-1).view(np.uint64).sum(dtype=np.uint64))


def cases(state: State) -> dict[str, dict[str, Any]]:
    shape = {"arrays": ARRAYS, "bytes": state.bytes}
    own = {"who": "lsmtensor", "cores": cores(), **shape}
    peer = {"who": "peer", "cores": cores(), **shape}
    made = {
        "save": {"sync": state.config.wal.sync, **own}, "raw write+sync": {**peer}, "raw direct write+sync": {**peer},
        "view": own, "read": {"checksums": "checked", **own}, "read again": {"checksums": "checked before", **own}, "memory map": peer,
    }  # fmt: skip
    if "safetensors" in state.peers:
        made |= {"save, safetensors": peer, "view, safetensors": peer}
    return made | {f"slice, {name}": {"who": "lsmtensor" if name == "lsmtensor" else "peer", "shape": list(state.grid.shape)} for name in state.slicers}


def ratios(state: State) -> list[Ratio]:
    made = [
        Ratio("save / best raw write and sync", "save", ("raw write+sync", "raw direct write+sync"), "GB/s"),
        Ratio("read, first time / memory map", "read", ("memory map",), "GB/s"),
        Ratio("read again / memory map", "read again", ("memory map",), "GB/s"),
    ]
    if "safetensors" in state.peers:
        made.append(Ratio("save / safetensors", "save", ("save, safetensors",), "GB/s"))
        made.append(Ratio("view / safetensors", "view", ("view, safetensors",), "per second"))
    return made + [Ratio(f"slice / {n}", "slice, lsmtensor", (f"slice, {n}",), "per second") for n in state.slicers if n != "lsmtensor"]


def dataset(state: State) -> dict[str, Any]:
    return {"name": f"{ARRAYS} float32 arrays, {state.bytes / 2**20:.0f} MiB, normal", "sha256": state.checksum}


def run(state: State, case: str) -> dict[str, float]:
    kind, _, who = case.partition(", ")
    if kind == "slice":
        return _timed_slices(state, state.slicers[who])
    if kind == "view":
        return _views(state, who)
    work: dict[str, Callable[[State], tuple[float, int]]] = {
        "save": _save, "save, safetensors": _save_safetensors, "raw write+sync": lambda s: _save_raw(s, direct=False),
        "raw direct write+sync": lambda s: _save_raw(s, direct=True), "read": _read, "read again": _read_again, "memory map": _read_map,
    }  # fmt: skip
    seconds, total = work[case](state)
    return {"GB/s": state.bytes / seconds / 1e9, "seconds": seconds, "wrong": float(total != state.total)}


def check(state: State, case: str, measures: dict[str, float]) -> None:
    assert measures["wrong"] == 0, f"{case}: other values came back than were saved"


# -- saving ---------------------------------------------------------------------------------------


def _save(state: State) -> tuple[float, int]:
    if state.handle is not None:
        state.handle.close()
        state.handle = None
    path = state.folder / "dict.lsm"
    shutil.rmtree(path, ignore_errors=True)
    with lt.open(str(path), config=state.config) as db:
        begin = time.perf_counter()
        db.tensors.update(state.arrays)
        seconds = time.perf_counter() - begin
        total = sum(_sum(db.tensors[name].numpy()) for name in db.tensors) % 2**64
    return seconds, total


def _save_raw(state: State, direct: bool) -> tuple[float, int]:
    path = state.folder / ("direct" if direct else "raw")
    path.unlink(missing_ok=True)
    begin = time.perf_counter()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0))
    stage = memoryview(state.aligned)
    try:
        for array in state.arrays.values():
            data = memoryview(array.data).cast("B")
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                if direct:
                    np.copyto(np.frombuffer(stage, np.uint8)[: len(piece)], np.frombuffer(piece, np.uint8))
                    piece = stage[: len(piece)]
                done = 0
                while done < len(piece):
                    done += os.write(fd, piece[done:])
        os.fsync(fd)
    finally:
        os.close(fd)
    seconds = time.perf_counter() - begin
    same = path.stat().st_size == state.bytes
    if direct:
        path.unlink()
    return seconds, state.total if same else -1


def _save_safetensors(state: State) -> tuple[float, int]:
    from safetensors.numpy import load_file, save_file

    path = state.folder / "dict.safetensors"
    path.unlink(missing_ok=True)
    begin = time.perf_counter()
    save_file(state.arrays, path)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    seconds = time.perf_counter() - begin
    return seconds, sum(map(_sum, load_file(path).values())) % 2**64


# -- reading --------------------------------------------------------------------------------------


def _read(state: State) -> tuple[float, int]:
    if state.handle is not None:
        state.handle.close()
    begin = time.perf_counter()
    state.handle = lt.open(str(state.folder / "dict.lsm"), config=state.config)
    return _read_again(state, begin)


def _read_again(state: State, begin: float | None = None) -> tuple[float, int]:
    assert state.handle is not None
    begin = time.perf_counter() if begin is None else begin
    tensors = state.handle.tensors
    total = sum(_sum(tensors[name].numpy()) for name in state.arrays) % 2**64
    return time.perf_counter() - begin, total


def _read_map(state: State) -> tuple[float, int]:
    begin = time.perf_counter()
    whole = np.memmap(state.folder / "raw", np.uint8, "r")
    step = state.bytes // ARRAYS
    total = sum(_sum(whole[at : at + step]) for at in range(0, state.bytes, step)) % 2**64
    return time.perf_counter() - begin, total


def _views(state: State, who: str) -> dict[str, float]:
    names = list(state.arrays)
    wrong = 0
    begin = time.perf_counter()
    if who == "safetensors":
        from safetensors import safe_open

        with safe_open(state.folder / "dict.safetensors", "numpy") as file:
            begin = time.perf_counter()
            for name in names:
                wrong += file.get_tensor(name)[7, 7] != state.arrays[name][7, 7]
    else:
        if state.handle is None:
            state.handle = lt.open(str(state.folder / "dict.lsm"), config=state.config)
        tensors = state.handle.tensors
        begin = time.perf_counter()
        for name in names:
            wrong += tensors[name].numpy(verify=False)[7, 7] != state.arrays[name][7, 7]
    seconds = time.perf_counter() - begin
    return {"per second": len(names) / seconds, "ms": seconds / len(names) * 1e3, "wrong": float(wrong)}


# -- slices ---------------------------------------------------------------------------------------


def _timed_slices(state: State, slicer: Callable[[], np.ndarray]) -> dict[str, float]:
    wrong = not np.array_equal(slicer(), state.grid[BOX])
    begin = time.perf_counter()
    for _ in range(REPEAT):
        slicer()
    seconds = (time.perf_counter() - begin) / REPEAT
    return {"per second": 1 / seconds, "us": seconds * 1e6, "wrong": float(wrong)}


def _slice_lsmtensor(state: State) -> Callable[[], np.ndarray]:
    db = lt.open(str(state.folder / "grid.lsm"), config=state.config)
    state.closers.append(db.close)
    db.tensors.create("grid", state.grid.shape, "float32", chunks=GRID, data=state.grid)
    grid = db.tensors["grid"]
    return lambda: np.asarray(grid[BOX])


def _slice_tensorstore(state: State) -> Callable[[], np.ndarray]:
    import tensorstore as ts

    spec = {
        "driver": "zarr3", "kvstore": {"driver": "file", "path": str(state.folder / "grid.ts")},
        "metadata": {
            "shape": list(state.grid.shape), "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(GRID)}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        },
        # the chunks stay in its cache, as ours do in the page cache
        "context": {"cache_pool": {"total_bytes_limit": 1 << 30}}, "recheck_cached_data": False, "recheck_cached_metadata": False,
    }  # fmt: skip
    store = ts.open(spec, create=True, delete_existing=True).result()
    store.write(state.grid).result()
    return lambda: np.asarray(store[BOX].read().result())


def _slice_zarr(state: State) -> Callable[[], np.ndarray]:
    import zarr

    array = zarr.create_array(str(state.folder / "grid.zarr"), shape=state.grid.shape, chunks=GRID, dtype="float32", compressors=None, overwrite=True)
    array[:] = state.grid
    return lambda: np.asarray(array[BOX])


_SLICERS: dict[str, Callable[[State], Callable[[], np.ndarray]]] = {
    "lsmtensor": _slice_lsmtensor, "tensorstore": _slice_tensorstore, "zarr": _slice_zarr,
}  # fmt: skip


def teardown(state: State) -> None:
    if state.handle is not None:
        state.handle.close()
    for close in state.closers:
        close()
