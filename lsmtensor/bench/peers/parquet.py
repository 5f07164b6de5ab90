"""Parquet through pyarrow: a file a batch, plain pages, synced by us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from .base import Tables, matrix, synced


class Parquet(Tables):
    name, needs, promise = "Parquet", "pyarrow.parquet", "synced by the benchmark"

    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        from pyarrow import parquet

        for number, batch in enumerate(batches):
            parquet.write_table(pa.Table.from_batches([batch]), folder / f"{number:04d}.parquet", compression="none", use_dictionary=False)
            synced(folder)

    def row(self, folder: Path, id: int) -> np.ndarray:
        from pyarrow import parquet

        return matrix(parquet.read_table(folder, columns=["vector"], filters=[("id", "=", id)]).column("vector").combine_chunks())[0]

    def read(self, folder: Path) -> Iterator[np.ndarray]:
        from pyarrow import parquet

        for path in sorted(folder.glob("*.parquet")):
            for chunk in parquet.read_table(path, columns=["vector"]).column("vector").chunks:
                yield matrix(chunk)
