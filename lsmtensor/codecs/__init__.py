"""Codecs: how the bytes of a chunk are stored. A chain ``shuffle+zstd(level=3)`` is filters, then a compressor.

Each codec is one file here, found by its name. The name is in every stored chunk: it keeps its meaning for ever.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, cast

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
        names = [c.name for c in self.codecs]
        self.uses_base = names[0] == "xor"
        if "auto" in names and len(names) > 1:
            raise InvalidArgumentError(f"codec {spec!r}: auto stands alone; it tries chains itself")
        if "xor" in names and (names.count("xor") > 1 or not self.uses_base or not self.codecs[-1].compresses):
            raise InvalidArgumentError(f"codec {spec!r}: xor comes first and needs a compressor behind it, such as xor+shuffle+zstd")

    @property
    def plain(self) -> bool:
        """Whether chunks are stored as they are."""
        return all(c.name == "none" for c in self.codecs)

    def against(self, base: np.ndarray | None) -> Chain:
        """The chain for a chunk whose older bytes, uint8 (n,), are ``base``. Only ``xor`` looks at them."""
        if not self.uses_base:
            return self
        made, first = copy.copy(self), cast("Any", self.codecs[0])
        made.codecs = [first.against(base), *self.codecs[1:]]
        return made

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
            data = self.decode_up_to(data, size)
        except Exception as why:  # every library has errors of its own
            raise CorruptionError(f"a chunk does not decode as {self.spec} ({why})") from why
        if len(data) != size:
            raise CorruptionError(f"a chunk decodes to {len(data)} bytes as {self.spec}; wanted {size}")
        return data

    def decode_up_to(self, data: np.ndarray, limit: int) -> np.ndarray:
        """The bytes that were encoded, at most about ``limit``; any exception means that these are not of this chain."""
        for codec in reversed(self.codecs):
            data = codec.decode(data, limit + len(self.codecs))  # a filter may add a byte
        return data


def create(spec: str | Spec, itemsize: int = 1) -> Chain:
    """The chain of a spec, such as ``"zstd"``, ``"shuffle+lz4"``; shared between callers and threads. Raises `UnknownNameError`
    for a codec that is not there."""
    return _made(str(spec), itemsize)


@lru_cache(256)
def _made(spec: str, itemsize: int) -> Chain:
    return Chain(spec, itemsize)


def names() -> list[str]:
    return REGISTRY.names()


__all__ = ["REGISTRY", "Chain", "Codec", "create", "names"]

