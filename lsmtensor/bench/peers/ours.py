"""Us, under the same conditions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import lsmtensor as lt

from ... import indexes
from .base import Arrays, Dense, Keys, Setting, Tables, Words, matrix


class _Index(Dense):
    needs = "lsmtensor"
    spec: ClassVar[str]

    def build(self, points: np.ndarray, metric: str = "cosine") -> None:
        self.index = indexes.create(self.spec, dim=points.shape[1], metric=metric, threads=1)
        self.index.train(points)
        self.index.add(points)

    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        return self.index.search(query, k=k, **setting)[0]

    def bytes(self) -> int:
        return int(self.index.memory()["total"])


class Hnsw(_Index):
    name, spec = "lsmtensor hnsw", "hnsw(m=16, ef_construction=200)"
    settings: ClassVar[tuple[Setting, ...]] = ({"ef": 10}, {"ef": 20}, {"ef": 40}, {"ef": 80}, {"ef": 160})


class Fqg(_Index):
    name, spec = "lsmtensor fqg", "fqg"
    settings: ClassVar[tuple[Setting, ...]] = ({"ef": 10}, {"ef": 20}, {"ef": 40}, {"ef": 80}, {"ef": 160})


class Flat(_Index):
    name, spec = "lsmtensor flat", "flat"


class Table(Keys):
    name, needs = "lsmtensor", "lsmtensor"

    def open(self, folder: Path) -> None:
        self.db = lt.open(str(folder / "x.lsm"), config=lt.RunConfig(threads=1))
        self.table = self.db.create_table("t", lt.Schema([lt.Column("k", pa.binary()), lt.Column("v", pa.binary())], primary_key="k"))

    def put(self, keys: list[bytes], values: list[bytes]) -> None:
        if len(keys) == 1:
            self.table.put(keys[0], {"v": values[0]})
        else:
            self.table.upsert({"k": keys, "v": values})

    def get(self, key: bytes) -> bytes | None:
        row = self.table.get(key)
        return None if row is None else row["v"]

    def values(self) -> Iterator[bytes]:
        for batch in self.table.scan(columns=["v"]):
            yield from batch.column("v").to_pylist()

    def scan(self) -> int:
        return sum(pc.sum(pc.binary_length(batch.column("v"))).as_py() for batch in self.table.scan(columns=["v"]))

    def close(self) -> None:
        self.db.close()


class Rows(Tables):
    name, needs = "lsmtensor", "lsmtensor"

    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        dim = batches[0].column("vector").type.list_size
        schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("vector", lt.tensor("float32", (dim,)))], primary_key="id")
        with lt.open(str(folder / "x.lsm")) as db:
            table = db.create_table("rows", schema)
            for batch in batches:
                table.insert(batch)

    def row(self, folder: Path, id: int) -> np.ndarray:
        with lt.open(str(folder / "x.lsm"), mode="r") as db:
            found = db["rows"].get(id)
            return np.empty(0) if found is None else found["vector"]

    def read(self, folder: Path) -> Iterator[np.ndarray]:
        with lt.open(str(folder / "x.lsm"), mode="r") as db:
            for batch in db["rows"].scan(columns=["vector"]):
                yield matrix(getattr(batch.column("vector"), "storage", batch.column("vector")))


class Text(Words):
    name, needs = "lsmtensor", "lsmtensor"

    def build(self, texts: list[str], folder: Path) -> None:
        schema = lt.Schema([lt.Column("id", pa.int64()), lt.Column("text", pa.string())], primary_key="id")
        self.db = lt.open(str(folder / "words.lsm"), config=lt.RunConfig(threads=1))
        self.table = self.db.create_table("t", schema, indexes={"text": "text"})
        self.table.insert({"id": np.arange(len(texts)), "text": texts})
        self.db.compact()
        self.search("words", 1)  # the lists are made at the first search

    def search(self, words: str, k: int) -> list[int]:
        found: list[int] = self.table.search(text=words, k=k).column("id").to_pylist()
        return found

    def close(self) -> None:
        self.db.close()


class Tensors(Arrays):
    name, needs = "lsmtensor", "lsmtensor"

    def save(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        with lt.open(str(folder / "x.lsm")) as db:
            db.tensors.update(arrays)

    def load(self, folder: Path) -> dict[str, np.ndarray]:
        with lt.open(str(folder / "x.lsm"), mode="r") as db:
            return {name: db.tensors[name].numpy() for name in db.tensors}

    def part(self, folder: Path, name: str, box: tuple[slice, ...]) -> np.ndarray:
        with lt.open(str(folder / "x.lsm"), mode="r") as db:
            made: Any = db.tensors[name][box]
            return np.array(made)
