"""How a kernel is declared, and what declarations share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import InvalidArgumentError

L2, IP, COSINE, L1, HAMMING = range(5)
METRICS = {"l2": L2, "ip": IP, "cosine": COSINE, "l1": L1, "hamming": HAMMING}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Declaration:
    """A kernel's group and how exactly backends must agree: ``exact`` or ``rounding``.

    ``guard`` checks the arguments and brings them into the form that compiled loops want, the same for every backend;
    kernels without one get theirs from structures that were checked when they were made.
    """

    name: str
    group: str
    result: str
    define: Callable[..., Any]
    guard: Callable[..., tuple[Any, ...]] | None = None


KERNELS: dict[str, Declaration] = {}


def kernel(group: str, result: str, guard: Callable[..., tuple[Any, ...]] | None = None) -> Callable[[F], F]:
    def add(define: F) -> F:
        KERNELS[define.__name__] = Declaration(define.__name__, group, result, define, guard)
        return define

    return add


def plain(x: np.ndarray) -> np.ndarray:
    """The array as C loops read it: float32, contiguous, aligned; itself where it is so already."""
    flags = x.flags
    if x.dtype == np.float32 and flags.c_contiguous and flags.aligned:
        return x
    return np.array(x, np.float32, order="C")


def same_width(queries: np.ndarray, points: np.ndarray) -> None:
    if queries.shape[-1] != points.shape[-1]:
        raise InvalidArgumentError(f"queries have {queries.shape[-1]} dimensions, points {points.shape[-1]}")
