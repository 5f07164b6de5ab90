"""A chain chosen for each chunk: what costs least, bytes and the time to read them back together, on a sample of it."""

from __future__ import annotations

import numpy as np

from . import REGISTRY, Chain

SAMPLE_BYTES = 65536
PLAIN = 255
# Byte 0 of a chunk is the place in this list, so it only grows. What decoding a plain byte costs beside what reading a stored one from
# a disk of about 2 GB/s does: orders of magnitude, for the choice alone.
CHOICES = [
    ("narrow", 0.05), ("shuffle+lz4", 0.15), ("shuffle+zstd(level=3)", 0.3), ("narrow+shuffle+zstd(level=3)", 0.3),
    ("delta+shuffle+zstd(level=3)", 0.4), ("bitshuffle+zstd(level=3)", 0.5), ("zstd(level=3)", 0.3),
]  # fmt: skip


@REGISTRY.register("auto")
class Auto:
    """Stands alone. The sample is at most 64 KiB from the chunk's middle, so choosing is O(1)."""

    name, compresses = "auto", True

    def __init__(self, itemsize: int = 1) -> None:
        self._itemsize = itemsize
        self._chains = [Chain(spec, itemsize) for spec, _ in CHOICES]

    def choose(self, data: np.ndarray) -> int | None:
        """The place of the cheapest chain for these bytes; None where plain bytes are cheapest."""
        at = max(0, len(data) - SAMPLE_BYTES) // 2 // self._itemsize * self._itemsize
        sample = data[at : at + SAMPLE_BYTES]
        costs = [1.0]
        for chain, (_, decoding) in zip(self._chains, CHOICES, strict=True):
            coded = chain.encode(sample)
            costs.append(1.0 if coded is None else len(coded) / len(sample) + decoding)
        best = int(np.argmin(costs))
        return None if best == 0 else best - 1

    def encode(self, data: np.ndarray) -> np.ndarray:
        best = self.choose(data)
        coded = None if best is None else self._chains[best].encode(data)
        place = PLAIN if coded is None or best is None else best
        return np.concatenate([np.array([place], np.uint8), data if coded is None else coded])

    def decode(self, data: np.ndarray, limit: int) -> np.ndarray:
        place, body = int(data[0]), data[1:]
        if place == PLAIN:
            return body
        return self._chains[place].decode_up_to(body, limit)
