"""DuckDB: columns in one file, every commit synced (pip install duckdb)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .base import Tables, matrix


class DuckDB(Tables):
    name, needs = "DuckDB", "duckdb"

    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        with self._open(folder) as db:
            dim = batches[0].column("vector").type.list_size
            db.execute(f"CREATE TABLE rows (id BIGINT PRIMARY KEY, vector FLOAT[{dim}])")
            for batch in batches:
                db.register("batch", pa.Table.from_batches([batch]))
                db.execute("INSERT INTO rows SELECT * FROM batch")

    def row(self, folder: Path, id: int) -> np.ndarray:
        with self._open(folder) as db:
            return np.array(db.execute("SELECT vector FROM rows WHERE id = ?", [id]).fetchone()[0], np.float32)

    def read(self, folder: Path) -> Iterator[np.ndarray]:
        with self._open(folder) as db:
            for batch in db.sql("SELECT vector FROM rows").to_arrow_reader(100_000):
                yield matrix(batch.column("vector"))

    def _open(self, folder: Path) -> Any:
        import duckdb

        return duckdb.connect(str(folder / "x.duckdb"), config={"threads": 1})
