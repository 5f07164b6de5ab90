"""Interchangeable compute: every kernel declared once (contract.py), implemented per backend, chosen by name.

``choose("numba").topk(...)``. Nobody chose: the first of cython, numba, numpy that is there. Somebody
chose: that one or `UnavailableError`, so that a figure labelled "numba" never timed numpy. A mix names groups or
single kernels: ``choose("cython,distance=cupy")``, or ``choose({"distance": "cupy", "topk": "numba"})``.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ..errors import InvalidArgumentError, UnavailableError, UnknownNameError
from ..registry import near

BACKENDS = ("cython", "numba", "numpy", "cupy")
# these hand each other structures of their backend's own making
TOGETHER = (
    ("code_estimates", "code_forest", "code_net", "code_one", "code_ranges", "code_scan", "code_search", "page_net", "page_scan", "page_search"),
    ("pq_net", "pq_ranges"),
    ("sparse_near", "sparse_net", "sparse_search"),
)
DEFAULT_ORDER = ("cython", "numba", "numpy")


class Kernels:
    """The kernels of one backend, or of a mix, as attributes; ``backend`` and ``isa`` say what runs.

    ``resident(rows)``: float32 rows (n, d) that will be asked often and not change, as this backend likes them: on the device, or as they are.
    """

    def __init__(self, backend: str, functions: dict[str, Any], isa: str, resident: Callable[[Any], Any] | None = None) -> None:
        self.backend, self.isa = backend, isa
        self.resident: Callable[[Any], Any] = resident or (lambda rows: rows)
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

    return Kernels(backend, {n: _guarded(d, getattr(module, n)) for n, d in KERNELS.items() if hasattr(module, n)}, module.isa(), getattr(module, "resident", None))


@lru_cache
def _mix(choice: str) -> Kernels:
    """The kernels of several backends: a name alone stands for what no ``group=name`` or ``kernel=name`` is about."""
    from .contract import KERNELS

    words = [word.strip().partition("=") for word in choice.split(",")]
    named = {of: backend for of, sign, backend in words if sign}
    rest = next((of for of, sign, _ in words if not sign), None) or _default()
    known = {*KERNELS, *(d.group for d in KERNELS.values())}
    for of in named.keys() - known:
        raise UnknownNameError(f"no kernel or group of kernels named {of!r} in {choice!r}; {near(of, known)}")
    whose = {n: named.get(n) or named.get(d.group) or rest for n, d in KERNELS.items()}
    for together in TOGETHER:
        if len(makers := {whose[n] for n in together}) > 1:
            raise InvalidArgumentError(f"{choice!r}: take {', '.join(together)}, which share structures, from one of {', '.join(sorted(makers))}")
    functions = {n: _load(backend)._functions[n] for n, backend in whose.items() if n in _load(backend)._functions}
    return Kernels(choice, functions, "; ".join(sorted({_load(b).isa for b in whose.values()})), _load(whose["topk"]).resident)


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
        return f"kernel backend 'cupy' needs an NVIDIA GPU and lsmtensor[cuda12] or lsmtensor[cuda13]: {why}"
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


def choose(kernel: str | Mapping[str, str] | None = None) -> Kernels:
    """The kernels of a backend, or of a mix: the one named, else ``LSMTENSOR_KERNEL``, else the fastest there is."""
    if isinstance(kernel, Mapping):
        kernel = ",".join(f"{of}={backend}" for of, backend in kernel.items())
    name = kernel or os.environ.get("LSMTENSOR_KERNEL") or _default()
    return _mix(name) if "=" in name else _load(name)


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
    return _load(kernel or _storage_default())


@lru_cache
def _storage_default() -> str:
    try:
        _load("cython")
    except UnavailableError:
        return "numpy"
    return "cython"
