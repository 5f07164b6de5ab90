"""The compiled kernels under the address and undefined-behaviour sanitizers, and the reference counts that kernels leave.

The sanitized build is a copy of the package in a scratch folder. Its interpreter loads the sanitizer first and takes every block from
malloc, so that one byte read or written beyond an array ends the run with a report.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsmtensor import kernels
from lsmtensor.testing import kernels as suite

ROOT = Path(__file__).parent.parent
FLAGS = "-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
TESTS = {
    "kernels": ["tests/test_kernels.py", "-k", "cython or instruction_set"],
    "indexes": ["tests/test_indexes_conformance.py", "tests/test_fqg.py", "tests/test_diskann.py", "tests/test_sparse_index.py"],
    "rows": ["tests/test_rows.py", "tests/test_memtable.py", "tests/test_keys.py", "tests/test_wal.py", "tests/test_codecs.py"],
}


def _sanitizer(compiler: str) -> str | None:
    """The address sanitizer's library, which must be loaded before everything else."""
    said = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False).stdout.strip()
    return said if os.path.isabs(said) else None


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """(a folder with the sanitized package, the environment to use it in)."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    library = _sanitizer(compiler)
    if library is None:
        pytest.skip(f"{compiler} has no address sanitizer")
    root = tmp_path_factory.mktemp("sanitized")
    shutil.copytree(ROOT / "lsmtensor", root / "lsmtensor", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    made = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=root, env={**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS}, capture_output=True, text=True
    )  # fmt: skip
    missing = [s for s in (*root.glob("lsmtensor/kernels/cython/*.pyx"), *root.glob("lsmtensor/rows/*.pyx")) if not list(s.parent.glob(f"{s.stem}.*.so"))]
    assert not missing, f"not built: {missing}\n{made.stderr[-4000:]}"
    return root, {
        **os.environ, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(root), "LSMTENSOR_KERNEL": "cython",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_sanitizer_sees(sanitized):
    """A kernel without its guard, sent beyond its rows, ends the run: silence below means something."""
    root, environment = sanitized
    script = (
        "import numpy as np; from lsmtensor.kernels.cython import _kernels\n"
        "_kernels.gathered(np.zeros(64, np.float32), np.zeros((100, 64), np.float32), np.array([100]), 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("group", TESTS)
def test_sanitizers_find_nothing(sanitized, group):
    root, environment = sanitized
    where = [str(ROOT / t) if t.startswith("tests/") else t for t in TESTS[group]]
    script = (
        "import sys, pytest, lsmtensor\n"
        "assert lsmtensor.__file__.startswith(sys.argv[1]), lsmtensor.__file__\n"
        "sys.exit(pytest.main(['-x', '-q', '-m', 'not slow', *sys.argv[2:]]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root), *where], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"


class Recorder:
    """The kernels of a backend; what was called with what is kept, arrays as copies, for the first few calls of each."""

    def __init__(self, wrapped: kernels.Kernels, most: int) -> None:
        self.wrapped, self.most, self.calls = wrapped, most, []

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            if sum(n == name for n, _ in self.calls) < self.most:
                self.calls.append((name, fresh(args)))
            return getattr(self.wrapped, name)(*args)

        return run


def fresh(args: tuple[Any, ...]) -> list[Any]:
    """Arrays are copied: some kernels change them."""
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


def counts(args: list[Any]) -> list[int]:
    return [sys.getrefcount(a) for a in args if isinstance(a, np.ndarray)]


def replay(backend: kernels.Kernels, calls: list[tuple[str, list[Any]]], rounds: int) -> None:
    """Call again; the arguments of each call are held afterwards by whom they were held before."""
    for _ in range(rounds):
        for name, kept in calls:
            args = fresh(tuple(kept))
            before = counts(args)
            try:
                getattr(backend, name)(*args)
            except ValueError:  # the suite tries wrong arguments too
                continue
            after = counts(args)
            assert after == before, f"{name}: references of the arguments went from {before} to {after}"


@pytest.mark.slow
@pytest.mark.parametrize("backend, name", [(b, n) for b in ("cython", "numba") if not kernels.available()[b].startswith("unavailable") for n in kernels.choose(b).names()])
def test_calls_by_the_thousand_hold_nothing(backend, name):
    chosen = kernels.choose(backend)
    recorder = Recorder(chosen, most=8)
    suite.check(name, recorder)  # type: ignore[arg-type] - it calls like one
    rounds = 2000 // len(recorder.calls)
    replay(chosen, recorder.calls, rounds // 10)
    gc.collect()
    tracemalloc.start()
    try:
        begin = tracemalloc.get_traced_memory()[0]
        replay(chosen, recorder.calls, rounds)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - begin
    finally:
        tracemalloc.stop()
    assert grown < 16 * rounds, f"{name} keeps {grown / rounds:.0f} bytes a round of calls"
