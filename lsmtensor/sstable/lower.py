"""Where encoded keys stand in a sorted array of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels
from ..arrowbytes import binary_parts


def lower(here: pa.Array, sought: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(int64 (q,) the first place whose key is not below each sought one, bool (q,) whether it is that key). O(q log n)."""
    k: Any = kernels.storage()
    if pa.types.is_int64(here.type):
        values, wanted = np.asarray(here), np.asarray(sought)
        position = k.search_int64(values, wanted)
    else:
        position = k.search_bytes(*binary_parts(here), *binary_parts(sought))
    return position, equal(here, position, sought)


def equal(here: pa.Array, position: np.ndarray, sought: pa.Array) -> np.ndarray:
    """bool (q,): whether each place holds the key sought."""
    inside = position < len(here)
    found = np.zeros(len(sought), bool)
    if inside.any():
        import pyarrow.compute as pc

        pairs = pc.equal(here.take(pa.array(position[inside])), sought.filter(pa.array(inside)))
        found[inside] = pairs.to_numpy(zero_copy_only=False)
    return found
