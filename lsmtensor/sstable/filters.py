"""Key filters: may a file hold this key? A wrong "yes" costs a look, a "no" is always right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..errors import CorruptionError, InvalidArgumentError, UnknownNameError
from ..registry import Spec, near

NAMES = ("bloom", "blocked_bloom", "monkey", "none")
MAX_PROBES = 64


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


def for_level(spec: str, above: int, size_ratio: float) -> str:
    """What ``monkey(bits=b)`` means for a run ``above`` levels over the last: a Bloom filter of b bits a key at the last
    level, log2(T) / ln 2 more for each level above, so that false positives shrink with the runs (Dayan, Athanassoulis &
    Idreos, SIGMOD 2017). Other filters are the same on every level."""
    parsed = Spec.of(spec)
    if parsed.name != "monkey":
        return spec
    bits = float(parsed.params.get("bits", 10)) + max(0, above) * math.log2(max(2.0, size_ratio)) / math.log(2)
    return f"bloom(bits={round(bits, 2)})"


def build(spec: str, key_hashes: np.ndarray) -> tuple[dict[str, Any], np.ndarray] | None:
    """(parameters, bits) of a filter over distinct key hashes, or None for ``none``.

    ``bloom`` (CACM 1970) has the fewest false positives for its bits; ``blocked_bloom`` touches one line of cache a test.
    """
    parsed = Spec.of(spec)
    if parsed.name == "none":
        return None
    if parsed.name not in NAMES:
        raise UnknownNameError(f"no key filter named {parsed.name!r}; {near(parsed.name, NAMES)}")
    bits_per_key = float(parsed.params.get("bits", 10))
    if not 0 < bits_per_key <= 64:
        raise InvalidArgumentError(f"{spec}: bits={bits_per_key}; give more than 0 and at most 64 bits a key")
    probes = min(MAX_PROBES, max(1, round(bits_per_key * 0.69)))
    size = max(64, int(len(key_hashes) * bits_per_key / 8) // 64 * 64 + 64)
    bits = np.zeros(size, np.uint8)
    _kernels(parsed.name)[0](bits, key_hashes, probes)
    return {"name": parsed.name if parsed.name == "blocked_bloom" else "bloom", "probes": probes}, bits


def test(parameters: dict[str, Any], bits: np.ndarray, key_hashes: np.ndarray) -> np.ndarray:
    """bool (n,): may be there."""
    name, probes = _checked(parameters, bits)
    found: np.ndarray = _kernels(name)[1](bits, key_hashes, probes)
    return found


def plain(filter: tuple[dict[str, Any], np.ndarray] | None) -> tuple[np.ndarray, int, bool] | None:
    """(bits, probes, blocked) of a filter, for those who test one hash at a time."""
    if filter is None:
        return None
    name, probes = _checked(*filter)
    return filter[1], probes, name == "blocked_bloom"


def _checked(parameters: dict[str, Any], bits: np.ndarray) -> tuple[str, int]:
    name, probes = parameters.get("name"), int(parameters.get("probes", 0))
    if name not in ("bloom", "blocked_bloom") or not 1 <= probes <= MAX_PROBES or len(bits) == 0 or len(bits) % 64:
        raise CorruptionError(f"a key filter with parameters {parameters} is not one of ours")
    return name, probes


def _kernels(name: str) -> tuple[Any, Any]:
    k: Any = kernels.storage()
    return (k.block_bloom_add, k.block_bloom_test) if name == "blocked_bloom" else (k.bloom_add, k.bloom_test)
