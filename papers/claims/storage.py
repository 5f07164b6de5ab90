"""Claims about loading, exchange, compression and ingest."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lab
import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import lsmtensor as lt
from lsmtensor import codecs
from lsmtensor.bench import datasets

ROUNDS = 5


def median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def touch(arrays: Any) -> int:
    """Every byte goes into one number, at the rate of memory."""
    return sum(int(a.reshape(-1).view(np.uint64).sum(dtype=np.uint64)) for a in arrays)


def forget(path: Path) -> None:
    """Ask the system to drop a file from its page cache; it keeps what is still mapped."""
    gc.collect()
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(call: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> float:
    found = []
    for number in range(ROUNDS + 1):
        before()
        begin = time.perf_counter()
        call()
        if number:  # the first pays for what is loaded once
            found.append(time.perf_counter() - begin)
    return median(found)


def loading(scale: str) -> Iterator[dict[str, Any]]:
    """A state dict of 20 float32 arrays: opened only; opened and every byte summed, from the page cache and from the disk."""
    for size in (20 << 20,) if scale == "smoke" else (100 << 20, 300 << 20):
        rng = np.random.default_rng(0)
        arrays = {f"layer{i}": rng.standard_normal(size // 80, dtype=np.float32) for i in range(20)}
        with tempfile.TemporaryDirectory(prefix="lsmtensor-paper-", dir=".") as name:
            folder = Path(name)
            with open(folder / "w.pickle", "wb") as out:
                pickle.dump(arrays, out, protocol=5)
            save_file(arrays, folder / "w.safetensors")
            with lt.open(str(folder / "w.lsm")) as db:
                db.tensors.update(arrays)
            want = touch(arrays.values())
            del arrays

            def unpickle(folder: Path = folder) -> Any:
                with open(folder / "w.pickle", "rb") as file:
                    return list(pickle.load(file).values())

            def ours(folder: Path = folder) -> Any:
                with lt.open(str(folder / "w.lsm"), mode="r") as db:
                    return [db.tensors[n].numpy() for n in db.tensors]

            def header(folder: Path = folder) -> Any:
                with safe_open(folder / "w.safetensors", framework="np") as file:
                    return list(file.keys())

            def listing(folder: Path = folder) -> Any:
                with lt.open(str(folder / "w.lsm"), mode="r") as db:
                    return list(db.tensors)

            load = {"pickle": unpickle, "safetensors": lambda folder=folder: list(load_file(folder / "w.safetensors").values()), "lsmtensor": ours}
            only = {"pickle": unpickle, "safetensors": header, "lsmtensor": listing}
            files = [p for p in folder.rglob("*") if p.is_file()]
            for who, call in load.items():
                assert touch(call()) == want, f"{who} read other bytes"
                yield {
                    "part": "loading", "bytes": size, "who": who, "open only, s": timed(only[who]), "every byte, warm, s": timed(lambda call=call: touch(call())),
                    "every byte, cold, s": timed(lambda call=call: touch(call()), lambda files=files: [forget(f) for f in files]),
                }  # fmt: skip


def exchange(scale: str) -> Iterator[dict[str, Any]]:
    """An array handed over by DLPack, and copied."""
    for power in range(10, 25 if scale == "smoke" else 29, 2):
        array = np.ones(1 << (power - 2), np.float32)
        out = np.empty_like(array)
        out[:] = 0
        handed, copied = median(lab.seconds(lambda a=array: np.from_dlpack(a), 0.01)), median(lab.seconds(lambda a=array, o=out: np.copyto(o, a), 0.01))
        yield {"part": "exchange", "bytes": 1 << power, "DLPack, s": handed, "copy, s": copied, "copy / DLPack": copied / handed}


def compression(scale: str) -> Iterator[dict[str, Any]]:
    """Saved by lossless codecs, on values that use all of a float32 and on values that do not."""
    count = 200 if scale == "smoke" else 4000
    half = datasets.debian().embeddings[:count]
    unit = (half.astype(np.float64) / np.linalg.norm(half.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    rng = np.random.default_rng(0)
    bf16 = (unit.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    sources = {
        "embeddings, float32": unit, "initial weights, float32": (rng.standard_normal(unit.shape) * 0.02).astype(np.float32),
        "bf16 values in float32": bf16, "fp16 values in float32": unit.astype(np.float16).astype(np.float32),
        "int8 codes": np.clip(np.round(unit / np.abs(unit).max(1, keepdims=True) * 127), -127, 127).astype(np.int8),
    }  # fmt: skip
    for name, values in sources.items():
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        for spec in ("zstd(level=3)", "zstd(level=19)", "shuffle+zstd(level=3)", "narrow+shuffle+zstd(level=3)"):
            chain: Any = codecs.create(spec, values.itemsize)
            stored = 0
            for at in range(0, len(raw), 1 << 20):
                coded = chain.encode(raw[at : at + (1 << 20)])
                stored += len(raw[at : at + (1 << 20)]) if coded is None else len(coded)
            yield {"part": "compression", "data": name, "codec": spec, "saved": 1 - stored / len(raw)}


def ingest(scale: str) -> Iterator[dict[str, Any]]:
    """Rows of 768 float32 in batches of 1,000: a memory map, and ours, at the same durability; rows pickled one by one beside."""
    rows = 3000 if scale == "smoke" else 30_000
    data = np.random.default_rng(0).standard_normal((rows, 768), dtype=np.float32)
    schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("v", lt.tensor("float32", (768,)))], primary_key="id")
    batches = [schema.batch({"id": np.arange(at, at + 1000), "v": data[at : at + 1000]}) for at in range(0, rows, 1000)]

    def mapped(folder: str, sync: str) -> None:
        file = np.memmap(f"{folder}/x.bin", np.float32, "w+", shape=data.shape)
        for at in range(0, rows, 1000):
            file[at : at + 1000] = data[at : at + 1000]
            if sync == "each batch":
                file.flush()
        if sync == "at the end":
            file.flush()

    def stored(folder: str, sync: str) -> None:
        mode = {"nothing": "none", "at the end": "none", "each batch": "group"}[sync]
        with lt.open(f"{folder}/x.lsm", config=lt.RunConfig().with_set(f"wal.sync={mode}")) as db:
            table = db.create_table("t", schema)
            for batch in batches:
                table.insert(batch)
            times.append(time.perf_counter())  # closing makes all of it durable: that is the end of "at the end" only

    def pickled(folder: str, sync: str) -> None:
        with open(f"{folder}/x.pickle", "wb") as out:
            for number, row in enumerate(data):
                pickle.dump((number, row), out, protocol=5)

    times: list[float] = []
    for who, call, syncs in (
        ("memory map", mapped, ("nothing", "at the end", "each batch")), ("lsmtensor", stored, ("nothing", "at the end", "each batch")),
        ("a pickle a row", pickled, ("nothing",)),
    ):  # fmt: skip
        for sync in syncs:
            found = []
            for _ in range(ROUNDS):
                with tempfile.TemporaryDirectory(prefix="lsmtensor-paper-", dir=".") as folder:
                    times.clear()
                    begin = time.perf_counter()
                    call(folder, sync)
                    ended = time.perf_counter()
                    found.append((times[0] if times and sync != "at the end" else ended) - begin)
            yield {"part": "ingest", "who": who, "synced": sync, "s": median(found), "GB/s": data.nbytes / median(found) / 1e9}
