"""Lance, the format under LanceDB: cells of HNSW over 8-bit codes, in a folder (pip install pylance)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from .base import Dense, Setting, Tables, matrix, synced


class Lance(Dense):
    name, needs, promise = "lance IVF_HNSW_SQ", "lance", "no sync of its own"
    settings: ClassVar[tuple[Setting, ...]] = ({"ef": 20, "refine": 2}, {"ef": 80, "refine": 4})

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        import lance

        self.folder = Path(tempfile.mkdtemp(prefix="lsmtensor-lance-", dir="."))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.reshape(-1)), points.shape[1])
        self.data = lance.write_dataset(pa.table({"id": np.arange(len(points)), "v": vectors}), str(self.folder / "x.lance"))
        self.data.create_index("v", "IVF_HNSW_SQ", metric={"ip": "dot"}.get(metric, metric), num_partitions=1, m=16, ef_construction=200)

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        near = {"column": "v", "q": query, "k": k, **({"ef": setting["ef"], "refine_factor": setting["refine"]} if setting else {})}
        return self.data.to_table(columns=["id", "_distance"], nearest=near).column("id").to_numpy().astype(np.int64)

    def bytes(self) -> int:
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class LanceRows(Tables):
    name, needs, promise = "Lance", "lance", "no sync of its own"

    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        import lance

        for number, batch in enumerate(batches):
            lance.write_dataset(pa.Table.from_batches([batch]), str(folder / "x.lance"), mode="append" if number else "create")
            synced(folder)

    def row(self, folder: Path, id: int) -> np.ndarray:
        import lance

        return matrix(lance.dataset(str(folder / "x.lance")).to_table(columns=["vector"], filter=f"id = {id}").column("vector").combine_chunks())[0]

    def read(self, folder: Path) -> Iterator[np.ndarray]:
        import lance

        for batch in lance.dataset(str(folder / "x.lance")).to_batches(columns=["vector"]):
            yield matrix(batch.column("vector"))
