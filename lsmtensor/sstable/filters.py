"""Key filters: may a file hold this key? A wrong "yes" costs a look, a "no" is always right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..errors import CorruptionError, UnknownNameError
from ..registry import Spec, near

NAMES = ("bloom", "none")


def hashes(keys: pa.Array) -> np.ndarray:
    """uint64 (n,): the key hash that filters on disk are made of."""
    k: Any = kernels.storage()
    if pa.types.is_int64(keys.type):
        ints: np.ndarray = k.hash64_int64(np.asarray(keys))
        return ints
    from ..arrowbytes import binary_parts

    data, offsets = binary_parts(keys)
    made: np.ndarray = k.hash64_bytes(data, offsets)
    return made


def build(spec: str, key_hashes: np.ndarray) -> tuple[dict[str, Any], np.ndarray] | None:
    """(parameters, bits) of a filter over distinct key hashes, or None for ``none``. Bloom, CACM 1970."""
    parsed = Spec.of(spec)
    if parsed.name == "none":
        return None
    if parsed.name != "bloom":
        raise UnknownNameError(f"no key filter named {parsed.name!r}; {near(parsed.name, NAMES)}")
    bits_per_key = float(parsed.params.get("bits", 10))
    probes = max(1, round(bits_per_key * 0.69))
    size = max(64, int(len(key_hashes) * bits_per_key / 8) // 64 * 64 + 64)
    bits = np.zeros(size, np.uint8)
    kernels.storage().bloom_add(bits, key_hashes, probes)
    return {"name": "bloom", "probes": probes}, bits


def test(parameters: dict[str, Any], bits: np.ndarray, key_hashes: np.ndarray) -> np.ndarray:
    """bool (n,): may be there."""
    if parameters.get("name") != "bloom" or not 1 <= int(parameters.get("probes", 0)) <= 64 or len(bits) == 0:
        raise CorruptionError(f"a key filter with parameters {parameters} is not one of ours")
    found: np.ndarray = kernels.storage().bloom_test(bits, key_hashes, int(parameters["probes"]))
    return found
