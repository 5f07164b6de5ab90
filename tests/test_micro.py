"""Calls of a few microseconds, for pytest-benchmark: ``pytest tests/test_micro.py -m slow --benchmark-autosave``."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

import lsmtensor as lt
from lsmtensor import kernels
from lsmtensor.kernels.contract import L2
from lsmtensor.registry import Spec

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed; it is in lsmtensor[dev]")
pytestmark = pytest.mark.slow
BACKENDS = [name for name, what in kernels.available().items() if not what.startswith("unavailable")]


@pytest.fixture
def table(tmp_path):
    config = lt.RunConfig(background=False).with_set("wal.sync=none")
    with lt.open(str(tmp_path / "x.lsm"), config=config) as db:
        made = db.create_table("t", lt.Schema([lt.Column("id", pa.int64()), lt.Column("n", pa.int64())], primary_key="id"))
        made.insert({"id": np.arange(1000), "n": np.arange(1000)})
        db.flush()
        yield made


def test_put(benchmark, table):
    keys = itertools.cycle(range(1000))
    benchmark(lambda: table.put(next(keys), {"n": 7}))
    assert table.get(0) == {"id": 0, "n": 7}


def test_get_from_the_memtable(benchmark, table):
    table.put(500, {"n": 500})
    assert benchmark(table.get, 500) == {"id": 500, "n": 500}


def test_get_from_a_file(benchmark, tmp_path, table):
    with lt.open(str(tmp_path / "x.lsm"), mode="r") as db:
        assert benchmark(db["t"].get, 500) == {"id": 500, "n": 500}


def test_parse_a_spec(benchmark):
    assert benchmark(Spec.parse, "hnsw(m=16, ef_construction=200, metric=cosine)").params["m"] == 16


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearest_ten_of_a_thousand(benchmark, backend):
    rng = np.random.default_rng(0)
    points, query = rng.standard_normal((1000, 64), dtype=np.float32), rng.standard_normal((1, 64), dtype=np.float32)
    ids, _ = benchmark(kernels.choose(backend).topk, query, points, 10, L2, None)
    assert ids[0, 0] == ((points - query) ** 2).sum(1).argmin()
