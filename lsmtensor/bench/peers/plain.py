"""Files without promises: the machine's own limit for rows and arrays, and numpy's and pickle's ways of keeping them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from .base import LIMIT, Arrays, Tables, matrix, synced


class File(Tables):
    """The vectors one after the other; a row is where its id says."""

    name, needs, promise = f"plain file {LIMIT}", "numpy", "synced; no ids, no checks"
    dim = 0

    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        with open(folder / "x.raw", "wb", buffering=0) as file:
            for batch in batches:
                rows = matrix(batch.column("vector"))
                self.dim = rows.shape[1]
                file.write(rows.data)
                os.fsync(file.fileno())

    def row(self, folder: Path, id: int) -> np.ndarray:
        return self._rows(folder)[id].copy()

    def read(self, folder: Path) -> Iterator[np.ndarray]:
        yield self._rows(folder)

    def _rows(self, folder: Path) -> np.ndarray:
        return np.memmap(folder / "x.raw", np.float32, "r").reshape(-1, self.dim)


class Npy(Arrays):
    name, needs = "numpy .npy", "numpy"

    def save(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        synced(folder)

    def load(self, folder: Path) -> dict[str, np.ndarray]:
        return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}

    def part(self, folder: Path, name: str, box: tuple[slice, ...]) -> np.ndarray:
        return np.array(np.load(folder / f"{name}.npy", mmap_mode="r")[box])


class Pickle(Arrays):
    """What many do; the file it makes runs code when a stranger wrote it."""

    name, needs = "pickle", "pickle"

    def save(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        with open(folder / "x.pickle", "wb") as file:
            pickle.dump(arrays, file, protocol=5)
        synced(folder)

    def load(self, folder: Path) -> dict[str, np.ndarray]:
        with open(folder / "x.pickle", "rb") as file:
            found: dict[str, np.ndarray] = pickle.load(file)
            return found

    def part(self, folder: Path, name: str, box: tuple[slice, ...]) -> np.ndarray:
        return self.load(folder)[name][box].copy()
