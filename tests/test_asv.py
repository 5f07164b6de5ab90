"""The suite in asv_bench: asv accepts it, and every benchmark runs at its smallest size."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUITE = ROOT / "asv_bench"
MODULES = ("vectors", "codes", "compute", "engine")
KINDS = ("time_", "peakmem_", "track_")


@pytest.fixture(scope="module")
def suite():
    """The suite's modules at the smallest size, as asv imports them."""
    before = dict(os.environ)
    os.environ["LSMTENSOR_ASV"] = "smoke"
    sys.path.insert(0, str(SUITE))
    try:
        yield {name: importlib.import_module(f"benchmarks.{name}") for name in MODULES}
    finally:
        sys.path.remove(str(SUITE))
        os.environ.clear()
        os.environ.update(before)
        for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
            del sys.modules[name]


def benchmarks(module):
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return [(c, [m for m in dir(c) if m.startswith(KINDS)]) for c in found if any(m.startswith(KINDS) for m in dir(c))]


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_runs(name, suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = skipped = 0
    for made, methods in benchmarks(suite[name]):
        cache = (made().setup_cache(),) if hasattr(made, "setup_cache") else ()
        for params in itertools.product(*getattr(made, "params", [])):
            bench = made()
            try:
                if hasattr(bench, "setup"):
                    bench.setup(*cache, *params)
            except NotImplementedError:
                skipped += 1
                continue
            for method in methods:
                result = getattr(bench, method)(*cache, *params)
                if method.startswith("track_"):
                    assert result > 0, f"{made.__name__}.{method}{params} gave {result}"
                ran += 1
            if hasattr(bench, "teardown"):
                bench.teardown(*cache, *params)
    assert ran > skipped
    assert not list(tmp_path.glob("lsmtensor-asv-*")), "a benchmark left its folder"


def test_parameters_come_from_the_registries(suite):
    from lsmtensor import codecs, kernels, quant

    assert {"flat", "hnsw", "fqg"} <= set(suite["vectors"].NAMES)
    assert suite["codes"].Quantizers.params == [quant.names()]
    for name in set(codecs.names()) - {"none"}:
        assert any(name in chain for chain in suite["codes"].CHAINS)
    there = [n for n, what in kernels.available().items() if not what.startswith("unavailable") and n != "numba"]
    assert suite["compute"].Every.params[1] == there
    tracked = {m for module in suite.values() for _, methods in benchmarks(module) for m in methods}
    assert {"track_recall", "track_bytes", "track_write_amplification", "peakmem_build", "time_one"} <= tracked


@pytest.mark.slow
def test_asv_accepts_the_suite(tmp_path):
    pytest.importorskip("asv", reason="asv is not installed; it is in lsmtensor[dev]")
    environment = {**os.environ, "ASV_PYTHONPATH": str(ROOT), "LSMTENSOR_ASV": "smoke", "HOME": str(tmp_path)}
    for command in (["machine", "--yes"], ["check", "-E", f"existing:{sys.executable}"]):
        done = subprocess.run([sys.executable, "-m", "asv", *command], cwd=SUITE, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
