"""The database: commits, reads, opening; amplification of every compaction policy."""

from __future__ import annotations

import itertools
import shutil
import tempfile

import numpy as np
import pyarrow as pa

import lsmtensor as lt
from lsmtensor import memtable
from lsmtensor.bench.simulate import Simulator
from lsmtensor.lsm import compaction

from . import common

DIM = 32


def schema() -> lt.Schema:
    return lt.Schema([lt.Column("id", pa.int64()), lt.Column("n", pa.int64()), lt.Column("v", lt.tensor("float32", (DIM,)))], primary_key="id")


def batch(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"id": rng.permutation(count), "n": rng.integers(0, 100, count), "v": rng.standard_normal((count, DIM), dtype=np.float32)}


class Folder:
    """A database in a folder of its own, gone afterwards."""

    config = lt.RunConfig(background=False)

    def open(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="lsmtensor-asv-", dir=".")
        self.db = lt.open(f"{self.folder}/x.lsm", config=self.config)
        self.table = self.db.create_table("t", schema())

    def teardown(self, *params: object) -> None:
        if hasattr(self, "db"):
            self.db.close()
            shutil.rmtree(self.folder)


class Memtables(Folder):
    """Writes without a sync, by kind of memtable; keys come again, so nothing grows without bound."""

    params = [memtable.REGISTRY.names()]
    param_names = ["memtable"]

    def setup(self, kind: str) -> None:
        self.config = lt.RunConfig(background=False).with_set(f"memtable.kind={kind}", "wal.sync=none")
        self.open()
        self.rows = batch(common.rows(2000))
        self.one = {"n": 1, "v": self.rows["v"][0]}
        self.keys = itertools.cycle(range(500))
        self.table.upsert(self.rows)
        self.table.put(0, self.one)
        self.table.get(0)

    def time_put(self, kind: str) -> None:
        self.table.put(next(self.keys), self.one)

    def time_upsert_batch(self, kind: str) -> None:
        self.table.upsert(self.rows)

    def time_get(self, kind: str) -> None:
        self.table.get(next(self.keys))


class Syncs(Folder):
    """One small durable commit by sync mode: the disk's figure as much as ours."""

    params = [["none", "buffered", "group", "every"]]
    param_names = ["sync"]

    def setup(self, sync: str) -> None:
        self.config = lt.RunConfig(background=False).with_set(f"wal.sync={sync}")
        self.open()
        self.one = {"n": 1, "v": np.ones(DIM, np.float32)}
        self.keys = itertools.cycle(range(500))
        self.table.put(next(self.keys), self.one)

    def time_commit(self, sync: str) -> None:
        self.table.put(next(self.keys), self.one)


class Reads(Folder):
    """From table files, everything in the page cache."""

    def setup(self) -> None:
        self.open()
        self.count = common.rows(50_000)
        self.table.insert(batch(self.count))
        self.db.flush()
        self.db.compact()
        rng = np.random.default_rng(1)
        self.keys = itertools.cycle(rng.integers(0, self.count, 1000).tolist())
        self.many = rng.integers(0, self.count, 1000)
        self.query = rng.standard_normal(DIM).astype(np.float32)
        for once in (lambda: self.table.get(0), lambda: self.table.get_many(self.many), self.time_scan, self.time_search_exact, self.time_open):
            once()  # what the first call loads

    def time_get(self) -> None:
        self.table.get(next(self.keys))

    def time_get_absent(self) -> None:
        self.table.get(self.count + next(self.keys))

    def time_get_many_1000(self) -> None:
        self.table.get_many(self.many)

    def time_scan(self) -> None:
        for _ in self.table.scan():
            continue

    def time_search_exact(self) -> None:
        self.table.search(self.query, k=10, column="v")

    def time_open(self) -> None:
        lt.open(f"{self.folder}/x.lsm", mode="r").close()

    def peakmem_scan(self) -> None:
        for _ in self.table.scan():
            continue

    def track_bytes(self) -> float:
        return float(self.db.stats()["tables"]["t"]["file_bytes"] / self.count)

    track_bytes.unit = "bytes/row"  # type: ignore[attr-defined]


class Tensors(Folder):
    """Named arrays: 1 MiB written durably, read whole and in part."""

    params = [["none", "shuffle+zstd(level=1)"]]
    param_names = ["codec"]

    def setup(self, codec: str) -> None:
        self.open()
        self.array = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
        self.db.tensors.create("a", self.array.shape, "float32", data=self.array, codec=codec)

    def time_read(self, codec: str) -> None:
        self.db.tensors["a"].numpy()

    def time_slice(self, codec: str) -> None:
        self.db.tensors["a"][100:110, 200:300]

    def time_write(self, codec: str) -> None:
        self.db.tensors.create("b", self.array.shape, "float32", data=self.array, codec=codec)
        del self.db.tensors["b"]


class Policies:
    """What a policy rewrites, by replay: it decides as it does in the engine, no byte is written."""

    params = [compaction.REGISTRY.names()]
    param_names = ["policy"]

    def replay(self, policy: str) -> Simulator:
        config = lt.RunConfig().with_set("compaction.level_bytes=10000000").compaction
        simulator = Simulator(compaction.create(policy, config), keys=1_000_000, row_bytes=100)
        for _ in range(common.rows(500, 40)):
            simulator.flush(10_000)
        return simulator

    def time_replay(self, policy: str) -> None:
        self.replay(policy)

    def track_write_amplification(self, policy: str) -> float:
        return self.replay(policy).result.write_amplification

    def track_space_amplification(self, policy: str) -> float:
        return self.replay(policy).result.space_amplification

    def track_runs(self, policy: str) -> float:
        return self.replay(policy).result.mean_runs

    track_write_amplification.unit = "rows written / row"  # type: ignore[attr-defined]
    track_space_amplification.unit = "rows stored / live row"  # type: ignore[attr-defined]
    track_runs.unit = "runs"  # type: ignore[attr-defined]
