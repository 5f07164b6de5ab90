"""tensorstore: Zarr v3 arrays by a C++ library, 1 MiB chunks, no compression (pip install tensorstore)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .base import Arrays


class Tensorstore(Arrays):
    name, needs, promise = "tensorstore zarr3", "tensorstore", "files synced by it, folders not"

    def _open(self, folder: Path, name: str, **how: Any) -> Any:
        import tensorstore

        where = {"driver": "file", "path": str(folder / "tensorstore" / name)}
        return tensorstore.open({"driver": "zarr3", "kvstore": where}, **how).result()

    def save(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        import tensorstore

        layout = tensorstore.ChunkLayout(chunk_shape=[512, 512])
        for name, array in arrays.items():
            store = self._open(folder, name, create=True, delete_existing=True, dtype=array.dtype, shape=array.shape, chunk_layout=layout)
            store.write(array).result()

    def load(self, folder: Path) -> dict[str, np.ndarray]:
        return {p.name: self._open(folder, p.name, open=True).read().result() for p in sorted((folder / "tensorstore").iterdir())}

    def part(self, folder: Path, name: str, box: tuple[slice, ...]) -> np.ndarray:
        return np.asarray(self._open(folder, name, open=True)[box].read().result())
