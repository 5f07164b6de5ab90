"""safetensors: a header and the arrays one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import Arrays, synced


class Safetensors(Arrays):
    name, needs = "safetensors", "safetensors"

    def save(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        from safetensors.numpy import save_file

        save_file(arrays, folder / "x.safetensors")
        synced(folder)

    def load(self, folder: Path) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(folder / "x.safetensors")

    def part(self, folder: Path, name: str, box: tuple[slice, ...]) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(folder / "x.safetensors", framework="np") as file:
            return np.asarray(file.get_slice(name)[box])
