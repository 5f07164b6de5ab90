"""Every kernel of every backend and instruction set against the shipped suite."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from lsmtensor import kernels
from lsmtensor.errors import InvalidArgumentError, UnavailableError, UnknownNameError
from lsmtensor.kernels.contract import KERNELS
from lsmtensor.testing import kernels as suite


def there() -> list[str]:
    return [name for name, how in kernels.available().items() if not how.startswith("unavailable")]


PAIRS = [(backend, name) for backend in there() for name in kernels.choose(backend).names()]


def test_every_kernel_has_arguments():
    assert set(suite.ARGUMENTS) == set(KERNELS), "a kernel without arguments is never tested"


@pytest.mark.parametrize("backend, name", PAIRS)
def test_conformance(backend, name):
    suite.check(name, kernels.choose(backend))


@pytest.mark.parametrize("backend, name", PAIRS)
def test_signature(backend, name):
    suite.check_signature(name, kernels.choose(backend))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_conformance_of_each_instruction_set(isa):
    """In a process of its own: the set is chosen at import."""
    if "cython" not in there():
        pytest.skip("the Cython kernels were not built")
    script = (
        "from lsmtensor import kernels; from lsmtensor.testing import kernels as suite\n"
        "k = kernels.choose('cython')\n"
        f"assert k.isa == 'cython {isa}', k.isa\n"
        "for name in k.names(): suite.check(name, k)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "LSMTENSOR_ISA": isa}, capture_output=True, text=True)
    if "cannot run here" in done.stderr:
        pytest.skip(f"this processor does not run {isa}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", there())
def test_two_threads_at_once(backend):
    k, rng = kernels.choose(backend), np.random.default_rng(1)
    queries, points = rng.normal(size=(8, 33)).astype(np.float32), rng.normal(size=(500, 33)).astype(np.float32)
    want = k.topk(queries, points, 5, 0, None)
    wrong = []

    def work() -> None:
        for _ in range(30):
            got = k.topk(queries, points, 5, 0, None)
            if not all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)):
                wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def _child(backend: str, queue) -> None:
    points = np.arange(40, dtype=np.float32).reshape(10, 4)
    queue.put(kernels.choose(backend).topk(points[:1], points, 3, 0, None)[0].tolist())


@pytest.mark.parametrize("backend", there())
def test_after_fork(backend):
    _child(backend, queue := multiprocessing.get_context("fork").SimpleQueue())
    assert queue.get() == [[0, 1, 2]]
    child = multiprocessing.get_context("fork").Process(target=_child, args=(backend, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and queue.get() == [[0, 1, 2]]


@pytest.mark.parametrize("backend", [b for b in there() if b != "numpy"])
def test_results_do_not_depend_on_the_batch(backend):
    """A query alone and among others gets the same bits: answers must not change with how they are asked."""
    k, rng = kernels.choose(backend), np.random.default_rng(2)
    queries, points = rng.normal(size=(11, 50)).astype(np.float32), rng.normal(size=(300, 50)).astype(np.float32)
    for metric in (0, 1, 2):
        ids, distances = k.topk(queries, points, 7, metric, None)
        for i in range(len(queries)):
            one = k.topk(queries[i : i + 1], points, 7, metric, None)
            assert np.array_equal(one[0][0], ids[i]) and np.array_equal(one[1][0], distances[i])


@pytest.mark.parametrize("backend", there())
def test_widths_must_agree(backend):
    with pytest.raises(InvalidArgumentError, match="4.*5|5.*4"):
        kernels.choose(backend).topk(np.zeros((1, 4), np.float32), np.zeros((2, 5), np.float32), 1, 0, None)
    with pytest.raises(InvalidArgumentError):
        kernels.choose(backend).gathered(np.zeros(4, np.float32), np.zeros((2, 4), np.float32), np.array([2]), 0)
    with pytest.raises(InvalidArgumentError):
        kernels.choose(backend).topk(np.zeros((1, 4), np.float32), np.zeros((2, 4), np.float32), 1, 0, np.zeros(3, np.uint8))


def test_a_backend_by_a_wrong_name():
    with pytest.raises(UnknownNameError, match="numba"):
        kernels.choose("nunba")


def test_a_kernel_that_a_backend_lacks():
    made = kernels.Kernels("numba", {}, "numba")
    with pytest.raises(UnavailableError, match="topk"):
        made.topk  # noqa: B018 - looking is what raises
