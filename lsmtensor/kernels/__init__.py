"""Interchangeable compute: every kernel declared once (contract.py), implemented per backend, chosen by name.

``choose("numba").topk(...)``. Nobody chose: the first of cython, numba, numpy that is there. Somebody
chose: that one or `UnavailableError`, so that a figure labelled "numba" never timed numpy.
"""

from __future__ import annotations

import functools
import importlib
import os
from functools import lru_cache
from typing import Any

from ..errors import UnavailableError, UnknownNameError
from ..registry import near

BACKENDS = ("cython", "numba", "numpy", "cupy")
DEFAULT_ORDER = ("cython", "numba", "numpy")


class Kernels:
    """The kernels of one backend as attributes; ``backend`` and ``isa`` say what runs."""

    def __init__(self, backend: str, functions: dict[str, Any], isa: str) -> None:
        self.backend, self.isa = backend, isa
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        function = self.__dict__["_functions"].get(name)
        if function is None:
            raise UnavailableError(f"kernel {name!r} has no {self.backend!r} version; choose another backend, known: {', '.join(BACKENDS)}")
        return function

    def names(self) -> list[str]:
        return sorted(self._functions)

    def __repr__(self) -> str:
        return f"<kernels {self.backend} ({self.isa})>"


@lru_cache
def _load(backend: str) -> Kernels:
    if backend not in BACKENDS:
        raise UnknownNameError(f"no kernel backend named {backend!r}; {near(backend, BACKENDS)}")
    try:
        module = importlib.import_module(f".{backend}_backend", __name__)
    except ImportError as why:
        raise UnavailableError(_hint(backend, why)) from why
    from .contract import KERNELS

    return Kernels(backend, {n: _guarded(d, getattr(module, n)) for n, d in KERNELS.items() if hasattr(module, n)}, module.isa())


def _guarded(declaration: Any, function: Any) -> Any:
    guard = declaration.guard
    if guard is None:
        return function

    @functools.wraps(function)
    def checked(*args: Any) -> Any:
        return function(*guard(*args))

    return checked


def _hint(backend: str, why: ImportError) -> str:
    if backend == "cython":
        return f"kernel backend 'cython' was not built ({why}); install a C compiler and reinstall, or use 'numba'"
    if backend == "cupy":
        return "kernel backend 'cupy' is not in this version"
    return f"kernel backend {backend!r} cannot be loaded: {why}"


@lru_cache
def _default() -> str:
    for backend in DEFAULT_ORDER:
        try:
            _load(backend)
        except UnavailableError:
            continue
        return backend
    raise UnavailableError("no kernel backend can be loaded")  # pragma: no cover - numpy always can


def choose(kernel: str | None = None) -> Kernels:
    """The kernels of a backend: the one named, else ``LSMTENSOR_KERNEL``, else the fastest there is."""
    return _load(kernel or os.environ.get("LSMTENSOR_KERNEL") or _default())


def available() -> dict[str, str]:
    """Every backend: its version and instruction set, or why it cannot be used."""
    result = {}
    for backend in BACKENDS:
        try:
            result[backend] = _load(backend).isa
        except UnavailableError as why:
            result[backend] = f"unavailable: {why}"
    return result


def storage(kernel: str | None = None) -> Kernels:
    """The kernels of the storage group: the backend named, else compiled ones, else numpy's. The compute choice does not reach them."""
    if kernel is not None:
        return _load(kernel)
    try:
        return _load("cython")
    except UnavailableError:
        return _load("numpy")
