"""Vector indexes: one file each, useful alone, knowing nothing of the tree. See docs/indexes.md."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError, LsmTensorError
from ..registry import Registry, Spec
from .base import VectorIndex
from .budget import settled_budget
from .sparse import SparseIndex
from .text import TextIndex

REGISTRY = Registry("index", __name__)


def names() -> list[str]:
    """Every index there is."""
    return REGISTRY.names()


def create(
    spec: Any, *, dim: int, metric: str | None = None, kernel: str | None = None, threads: int | None = None, budget: int | None = None
) -> VectorIndex:
    """An empty index: ``create("hnsw(m=16)", dim=384, metric="cosine")``.

    ``metric`` is ``l2`` (default), ``cosine``, ``ip``, ``l1`` or ``hamming``, here or in the spec; ``kernel`` names a
    backend. ``budget`` is in bytes: additions that would take more at a time, the index counted, raise `MemoryBudgetError` before they begin, and samples
    and blocks are as small as it wants. An instance passes through. `UnknownNameError` for an unknown index, parameter or metric.
    """
    if isinstance(spec, VectorIndex):
        return spec
    parsed = Spec.of(spec)
    if metric is not None and parsed.params.get("metric", metric) != metric:
        raise InvalidArgumentError(f"metric={metric!r}, and the spec says {parsed.params['metric']!r}; give one")
    extra = {"dim": dim, "kernel": kernel, "threads": threads, **({} if metric is None else {"metric": metric})}
    made: VectorIndex = REGISTRY.create(parsed, **extra)
    made.spec, made.budget = parsed, settled_budget(budget)
    return made


def from_sections(
    header: dict[str, Any], arrays: dict[str, np.ndarray], *, vectors: np.ndarray | None = None, kernel: str | None = None,
    threads: int | None = None, where: str = "",
) -> VectorIndex:  # fmt: skip
    """The index that `VectorIndex.to_sections` described; ``vectors`` (n, dim) where it stored none of its own.

    ``where`` names the file in errors: `CorruptionError` for what does not hold together.
    """
    try:
        factory: Any = REGISTRY.get(str(header["name"]))
        made: VectorIndex = factory.from_sections(header, arrays, vectors=vectors, kernel=kernel, threads=threads)
        made.spec = Spec.parse(header["spec"])
        return made
    except CorruptionError as why:
        raise CorruptionError(why.message, why.path or where, why.offset) from why
    except LsmTensorError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise CorruptionError(f"the header describes no index ({why!r})", where) from why


def load(path: str | os.PathLike[str], *, kernel: str | None = None, threads: int | None = None) -> VectorIndex:
    """An index that `VectorIndex.save` wrote, over its map, every byte checked, pages when they are read. `CorruptionError` for damage."""
    from .. import container
    from ..env.local import LocalEnv

    name = os.fspath(path)
    header, arrays = container.unpack(LocalEnv().open(name, kind="index").map(), where=name, whole=False)
    return from_sections(header, arrays, kernel=kernel, threads=threads, where=name)


from .tuning import Tuned, tune  # noqa: E402 - it creates indexes

__all__ = ["REGISTRY", "SparseIndex", "TextIndex", "Tuned", "VectorIndex", "create", "from_sections", "load", "names", "tune"]
