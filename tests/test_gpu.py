"""The CuPy backend: its own lines on a processor, behind a stand-in for cupy, and on a card where one is.

tests/test_kernels.py runs the conformance suite on a card by itself; here it runs on the stand-in.
"""

from __future__ import annotations

import importlib
import multiprocessing
import shutil
import sys
import threading

import cupy_standin
import numpy as np
import pytest
from click.testing import CliRunner

from lsmtensor import kernels
from lsmtensor.bench import runner
from lsmtensor.cli import main
from lsmtensor.errors import DeviceMemoryError, InvalidArgumentError, UnavailableError, UnknownNameError
from lsmtensor.indexes.flat import Flat
from lsmtensor.kernels import device
from lsmtensor.kernels.contract import L1, L2
from lsmtensor.kernels.training import kmeans
from lsmtensor.testing import kernels as suite

NAMES = ["assign", "code_estimates", "code_net", "code_ranges", "code_scan", "gathered", "pairwise", "topk"]
NAME = "lsmtensor.kernels.cupy_backend"


def _forget() -> None:
    """Backends are loaded again when they are asked for."""
    for cached in (kernels._load, kernels._mix, kernels._default):
        cached.cache_clear()


def _loaded(limit: int, monkeypatch: pytest.MonkeyPatch):
    if shutil.which("g++") is None:
        pytest.skip("the stand-in compiles device.cu with g++, which is not here")
    monkeypatch.setenv("LSMTENSOR_GPU_MEMORY", str(limit))
    monkeypatch.setitem(sys.modules, "cupy", cupy_standin)
    monkeypatch.setattr(device, "THREADS", 32)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    _forget()
    return importlib.import_module(NAME)


@pytest.fixture(scope="module")
def backend():
    """The backend over the stand-in; small blocks, so that small inputs take several of them."""
    with pytest.MonkeyPatch.context() as patch:
        yield _loaded(64 << 20, patch)
    _forget()


@pytest.fixture
def small():
    """The same with a megabyte of memory."""
    with pytest.MonkeyPatch.context() as patch:
        yield _loaded(1 << 20, patch)
    _forget()


@pytest.mark.parametrize("name", NAMES)
def test_conformance_on_the_stand_in(backend, name):
    suite.check(name, kernels.choose("cupy"))
    suite.check_signature(name, kernels.choose("cupy"))


def rows(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("metric", range(5))
@pytest.mark.parametrize("q, k", [(1, 5), (3, 140), (20, 5), (20, 60), (70, 1)])
def test_every_way_to_the_nearest_is_the_same(backend, monkeypatch, metric, q, k):
    """Alone, by products and a proof, and sorted on the host: a query gets the same rows and the same bits."""
    monkeypatch.setattr(backend, "AT_ONCE", 32)
    queries, points = np.round(rows(0, q, 24)), np.round(rows(1, 400, 24))
    want = kernels.choose("numpy").topk(queries, points, k, metric, None)
    for there in (points, backend.resident(points)):
        ids, far = kernels.choose("cupy").topk(queries, there, k, metric, None)
        np.testing.assert_allclose(far, want[1], rtol=1e-5, atol=1e-5)
        if metric != 2:
            np.testing.assert_array_equal(ids, want[0])
        one = kernels.choose("cupy").topk(queries[-1:], there, k, metric, None)
        np.testing.assert_array_equal(one[0][0], ids[-1])
        np.testing.assert_array_equal(one[1][0], far[-1])


def test_what_products_cannot_prove_is_computed_again(backend):
    """Rows so far from the origin that their products say nothing about who is near."""
    points = rows(2, 600, 8) + np.float32(1e5)
    queries = points[:40] + np.float32(1)
    asked = []
    least = backend._least
    backend._least = lambda *args: asked.append(args[1]) or least(*args)
    try:
        _, far = kernels.choose("cupy").topk(queries, points, 3, L2, None)
    finally:
        backend._least = least
    assert sum(asked) == 40
    np.testing.assert_allclose(far, np.sort(suite.distances64(queries, points, L2), 1)[:, :3], rtol=1e-5)


def test_a_small_search_is_recorded_and_replayed(backend):
    points = backend.resident(rows(3, 500, 16))
    queries = rows(4, 12, 16)
    before = cupy_standin.Graph.launches
    for query in queries:
        ids, far = kernels.choose("cupy").topk(query[None], points, 4, L2, None)
        want = kernels.choose("numpy").topk(query[None], points, 4, L2, None)
        np.testing.assert_array_equal(ids, want[0])
        np.testing.assert_allclose(far, want[1], rtol=1e-5)
    assert cupy_standin.Graph.launches == before + len(queries) - 1
    for k in range(1, backend.KEPT + 9):
        kernels.choose("cupy").topk(queries[:1], points, k, L1, None)
    assert len(points.placed.recorded) == backend.KEPT


def test_memory_is_counted_and_given_back(backend):
    made = backend.DEVICE
    before = made.memory()
    points = backend.resident(rows(5, 1000, 32))
    held = made.memory()
    assert held["resident"] - before["resident"] == 128_000 and held["used"] - before["used"] == 128_000
    assert held["peak"] >= held["used"] and held["limit"] == 64 << 20 and held["free"] == held["held"] - held["used"]
    kernels.choose("cupy").topk(rows(6, 30, 32), points, 3, L2, None)
    assert made.memory()["fragmentation"] > 0 and made.memory()["used"] == held["used"] + 4096  # the squared norms are kept
    del points
    made.release()
    after = made.memory()
    assert after["used"] == before["used"] and after["resident"] == before["resident"] and after["fragmentation"] == 0


def test_the_command_line_shows_the_backend(backend):
    shown = CliRunner().invoke(main, ["kernels"], catch_exceptions=False).output
    assert "cupy stand-in on no card" in shown and "card_total 4,294,967,296" in shown


def test_a_limit_that_is_too_small_says_so(small):
    with pytest.raises(DeviceMemoryError, match="LSMTENSOR_GPU_MEMORY"):
        small.resident(rows(0, 10_000, 32))
    ids, _ = kernels.choose("cupy").topk(rows(1, 40, 32), rows(0, 2000, 32), 3, L2, None)  # intermediates are cut to the limit
    np.testing.assert_array_equal(ids, kernels.choose("numpy").topk(rows(1, 40, 32), rows(0, 2000, 32), 3, L2, None)[0])


def test_upload_goes_through_both_staging_rooms(backend, monkeypatch):
    monkeypatch.setattr(device, "STAGING", 4096)
    host = np.arange(10_000, dtype=np.int32).reshape(100, 100)
    with backend.DEVICE.work():
        np.testing.assert_array_equal(backend.DEVICE.download(backend.DEVICE.upload(host)), host)


def _in_child(queue) -> None:
    try:
        kernels.choose("cupy").topk(rows(0, 1, 4), rows(1, 9, 4), 1, L2, None)
        queue.put("answered")
    except UnavailableError as why:
        queue.put(str(why))


def test_a_forked_child_is_told(backend):
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_in_child, args=(queue := context.SimpleQueue(),))
    child.start()
    child.join(60)
    assert "spawn" in queue.get()


def test_threads_take_turns(backend):
    points, queries = backend.resident(rows(7, 400, 8)), rows(8, 40, 8)
    want, wrong = kernels.choose("numpy").topk(queries, points, 3, L2, None)[0], []

    def work(some: np.ndarray, true: np.ndarray) -> None:
        for query, row in zip(some, true):
            if not np.array_equal(kernels.choose("cupy").topk(query[None], points, 3, L2, None)[0][0], row):
                wrong.append(row)

    threads = [threading.Thread(target=work, args=(queries[i::2], want[i::2])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_index_keeps_its_rows_on_the_device(backend):
    index, exact = Flat(12, kernel="cupy"), Flat(12, kernel="numpy")
    for seed in range(3):
        for each in (index, exact):
            each.add(rows(seed, 50, 12))
        got = [each.search(rows(9, 5, 12), k=4) for each in (index, exact)]
        np.testing.assert_array_equal(got[0][0], got[1][0])
        assert index._resident.placed is not None and len(index._resident) == 50 * (seed + 1)


def test_kmeans_uploads_its_rows_once(backend, monkeypatch):
    sizes = []
    upload = device.Device.upload
    monkeypatch.setattr(device.Device, "upload", lambda self, host: sizes.append(host.size) or upload(self, host))
    centroids = kmeans(rows(10, 300, 6), 5, kernels=kernels.choose("cupy"))
    assert sizes.count(1800) == 1
    np.testing.assert_allclose(centroids, kmeans(rows(10, 300, 6), 5, kernels=kernels.choose("numpy")), rtol=1e-4, atol=1e-5)


def test_the_bench_measures_right_answers(backend, monkeypatch):
    workload = runner.load("gpu")
    monkeypatch.setattr(workload, "FEW", 1030)
    monkeypatch.setattr(workload, "WIDTH", 64)
    result = runner.run(workload, runner.Options(quick=True, rounds=1, warmup=0, peers=()), say=lambda _: None)
    assert {r["case"] for r in result.records if r["who"] == "lsmtensor"} == {f"{kind}, lsmtensor" for kind in ("one", "eight", "thousand", "codes", "assign")}
    assert {"one, lsmtensor / read", "thousand, lsmtensor / sgemm"} <= set(result.ratios)
    state = workload.setup(runner.Options(quick=True, peers=()))
    state.true = state.true + 1
    with pytest.raises(AssertionError, match="other distances"):
        workload.check(state, "one, lsmtensor", workload.run(state, "one, lsmtensor"))


def test_a_mix_takes_each_kernel_from_who_was_named(backend):
    mixed = kernels.choose({"distance": "cupy", "graph": "numpy", "quantized": "numpy", "gathered": "numpy"})
    assert mixed.topk is kernels.choose("cupy").topk and mixed.gathered is kernels.choose("numpy").gathered
    assert "stand-in" in mixed.isa and "numpy" in mixed.isa and mixed.backend == "distance=cupy,graph=numpy,quantized=numpy,gathered=numpy"
    assert isinstance(mixed.resident(rows(0, 3, 3)), device.Resident)
    assert kernels.choose("numpy,training=cupy").assign is kernels.choose("cupy").assign
    with pytest.raises(UnavailableError, match="search_int64"):
        kernels.choose("numpy,storage=cupy").search_int64  # noqa: B018 - looking is what raises
    with pytest.raises(UnknownNameError, match="distance"):
        kernels.choose("distanse=cupy")
    with pytest.raises(InvalidArgumentError, match="code_net"):
        kernels.choose("numpy,quantized=cupy")
