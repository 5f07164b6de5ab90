"""Vector indexes: one file each, useful alone, knowing nothing of the tree. See docs/indexes.md."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from ..registry import Registry, Spec
from .base import VectorIndex

REGISTRY = Registry("index", __name__)


def names() -> list[str]:
    """Every index there is."""
    return REGISTRY.names()


def create(
    spec: Any, *, dim: int, metric: str | None = None, kernel: str | None = None, threads: int | None = None
) -> VectorIndex:
    """An empty index: ``create("hnsw(m=16)", dim=384, metric="cosine")``.

    ``metric`` is ``cosine``, ``l2`` (default), ``ip``, ``l1`` or ``hamming``, here or in the spec. ``kernel`` names
    a backend. Raises `UnknownNameError` for an unknown index or parameter.
    """
    if isinstance(spec, VectorIndex):
        return spec
    if not isinstance(dim, int) or dim < 1:
        raise InvalidArgumentError(f"dim={dim!r}; give the number of dimensions, 1 or more")
    extra: dict[str, Any] = {"dim": dim, "kernel": kernel}
    if metric is not None:
        extra["metric"] = metric
    parsed = Spec.of(spec)
    if metric is not None and parsed.params.get("metric", metric) != metric:
        raise InvalidArgumentError(f"metric={metric!r}, and the spec says {parsed.params['metric']!r}; give one")
    made: VectorIndex = REGISTRY.create(parsed, **extra)
    made.spec = parsed
    return made


def from_sections(
    header: dict[str, Any], arrays: dict[str, np.ndarray], *, vectors: np.ndarray | None = None, kernel: str | None = None
) -> VectorIndex:
    """The index that `VectorIndex.to_sections` described; ``vectors`` (n, d) where it stored none of its own."""
    name = str(header.get("name"))
    factory: Any = REGISTRY.get(name)
    made: VectorIndex = factory.from_sections(header, arrays, vectors=vectors, kernel=kernel)
    made.spec = Spec.of(header.get("spec", name))
    return made


def load(path: str | os.PathLike[str], *, kernel: str | None = None) -> VectorIndex:
    """An index that `VectorIndex.save` wrote, over its map. `CorruptionError` for damage."""
    from ..env.local import LocalEnv
    from . import container

    name = os.fspath(path)
    header, arrays = container.unpack(LocalEnv().open(name, kind="index").map(), where=name)
    return from_sections(header, arrays, kernel=kernel)


__all__ = ["REGISTRY", "VectorIndex", "create", "from_sections", "load", "names"]
