"""Codecs: how the bytes of a chunk are stored. A chain ``shuffle+zstd(level=3)`` is filters, then a compressor.

Each codec is one file here, found by its name. The name is in every stored chunk: it keeps its meaning for ever.
"""

from __future__ import annotations

import numpy as np

from ..errors import CorruptionError, InvalidArgumentError
from ..registry import Registry, Spec, parse_chain
from .base import Codec

REGISTRY = Registry("codec", __name__)

# a chunk that gains less is stored plain: reading it is then free
MIN_GAIN = 0.05


class Chain:
    """Codecs one after the other, for chunks of one item size."""

    def __init__(self, spec: str, itemsize: int) -> None:
        self.spec = "+".join(str(s) for s in parse_chain(spec))
        self.codecs: list[Codec] = [REGISTRY.create(s, itemsize=itemsize) for s in parse_chain(spec)]
        if any(c.compresses for c in self.codecs[:-1]):
            raise InvalidArgumentError(f"codec {spec!r}: a compressor comes last, filters before it")

    @property
    def plain(self) -> bool:
        """Whether chunks are stored as they are."""
        return all(c.name == "none" for c in self.codecs)

    def encode(self, data: np.ndarray) -> np.ndarray | None:
        """uint8 (m,) for uint8 (n,), or None where that would save less than 5%. O(n)."""
        if self.plain or len(data) == 0:
            return None
        made = data
        for codec in self.codecs:
            made = codec.encode(made)
        return made if len(made) <= (1 - MIN_GAIN) * len(data) else None

    def decode(self, data: np.ndarray, size: int) -> np.ndarray:
        """uint8 (size,): what was encoded. Raises `CorruptionError` where the bytes are not of this chain."""
        try:
            for codec in reversed(self.codecs):
                data = codec.decode(data, size + len(self.codecs))  # a filter may add a byte
        except Exception as why:  # every library has errors of its own
            raise CorruptionError(f"a chunk does not decode as {self.spec} ({why})") from why
        if len(data) != size:
            raise CorruptionError(f"a chunk decodes to {len(data)} bytes as {self.spec}; wanted {size}")
        return data


def create(spec: str | Spec, itemsize: int = 1) -> Chain:
    """The chain of a spec, such as ``"zstd"``, ``"shuffle+lz4"``. Raises `UnknownNameError` for a codec that is not there."""
    return Chain(str(spec), itemsize)


def names() -> list[str]:
    return REGISTRY.names()


__all__ = ["REGISTRY", "Chain", "Codec", "create", "names"]

