"""Quantizers: vectors in fewer bytes, with a known error. Each is one file here, found by its name.

    qz = lt.quant.create("pq(m=48)", dim=384).fit(x)
    codes = qz.encode(x); near = qz.decode(codes); ids, distances = qz.search(queries, codes, k=10)
"""

from __future__ import annotations

from typing import Any

from .. import container
from ..errors import CorruptionError, LsmTensorError
from ..registry import Registry, Spec
from .base import Quantizer

REGISTRY = Registry("quantizer", __name__)


def create(spec: str | Spec | dict[str, Any] | Quantizer, dim: int, **extra: Any) -> Quantizer:
    """An untrained quantizer of vectors of ``dim`` values. Raises `UnknownNameError` for a name or parameter that is not there."""
    if isinstance(spec, Quantizer):
        return spec
    made: Quantizer = REGISTRY.create(Spec.of(spec), dim=dim, **extra)
    return made


def names() -> list[str]:
    return REGISTRY.names()


def save(quantizer: Quantizer) -> bytes:
    """The trained parameters as bytes, without pickle (`docs/format.md`, the container of index files)."""
    return quantizer.saved()


def load(data: Any) -> Quantizer:
    """A quantizer from what `save` gave; every byte is checked. Raises `CorruptionError`."""
    header, arrays = container.unpack(data, where="quantizer")
    try:
        made = create(str(header["spec"]), dim=int(header["dim"]))
        made.restore(header, arrays)
    except LsmTensorError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise CorruptionError(f"the parameters of a quantizer do not fit together ({why!r})") from why
    return made


__all__ = ["REGISTRY", "Quantizer", "create", "load", "names", "save"]
