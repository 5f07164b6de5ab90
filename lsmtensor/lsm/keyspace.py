"""What the tree does with arrays of encoded keys: order, search, compare.

Keys are Arrow arrays, either ``int64`` or ``binary`` (see ``keys.py``). Both orders are total and
agree with the user's; sequence numbers break ties, newest first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from .. import kernels, rows
from ..arrowbytes import binary_parts

Key = int | bytes


def int64_view(keys: pa.Array) -> np.ndarray:
    """The int64 keys as numpy, without a copy."""
    return np.asarray(keys.to_numpy(zero_copy_only=False))


def is_int(keys: pa.Array) -> bool:
    return bool(pa.types.is_int64(keys.type))


def one(key: Key) -> pa.Array:
    """An array that holds one key."""
    return pa.array([key], pa.int64() if isinstance(key, int) else pa.binary())


def concat(arrays: list[pa.Array]) -> pa.Array:
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def search(keys: pa.Array, key: Key, side: str = "left") -> int:
    """The position of ``key`` in sorted ``keys``; O(log n)."""
    if isinstance(key, int):
        return int(np.searchsorted(int64_view(keys), key, side))  # type: ignore[call-overload]
    lo, hi = 0, len(keys)
    while lo < hi:
        mid = (lo + hi) // 2
        here = keys[mid].as_py()
        if here < key or (side == "right" and here == key):
            lo = mid + 1
        else:
            hi = mid
    return lo


def search_many(keys: pa.Array, wanted: pa.Array, storage: str | None = None) -> np.ndarray:
    """Left positions of ``wanted`` in sorted ``keys``, int64; O(q log n) in a kernel."""
    k: Any = kernels.storage(storage)
    if is_int(keys):
        result: np.ndarray = k.search_int64(int64_view(keys), int64_view(wanted))
    else:
        result = k.search_bytes(*binary_parts(keys), *binary_parts(wanted))
    return result


def equal(a: pa.Array, b: pa.Array) -> np.ndarray:
    """bool (n,): where two arrays of n keys agree."""
    if is_int(a):
        return int64_view(a) == int64_view(b)
    import pyarrow.compute as pc

    return np.asarray(pc.equal(a, b).to_numpy(zero_copy_only=False), bool)


def is_sorted(keys: pa.Array) -> bool:
    """Whether the keys rise strictly, so that no sort (and no gather of wide rows) is needed."""
    if len(keys) < 2:
        return True
    if is_int(keys):
        values = int64_view(keys)
        return bool((values[1:] > values[:-1]).all())
    import pyarrow.compute as pc

    return bool(pc.all(pc.less(keys[:-1], keys[1:])).as_py())


def distinct(keys: pa.Array) -> bool:
    """Whether no key is there twice; O(n)."""
    if is_int(keys):
        return bool(rows.kit().distinct(int64_view(keys), None))
    return bool(rows.kit().distinct(*binary_parts(keys)))


def order(keys: pa.Array, seqs: np.ndarray | None = None) -> np.ndarray:
    """The permutation that sorts by key, then newest first; stable; int64."""
    if is_int(keys):
        values = int64_view(keys)
        if seqs is None:
            return np.argsort(values, kind="stable")
        return np.lexsort((~seqs, values))
    import pyarrow.compute as pc

    if seqs is None:
        return np.asarray(pc.array_sort_indices(keys)).astype(np.int64)
    table = pa.table({"k": keys, "s": pa.array(seqs, pa.uint64())})
    return np.asarray(pc.sort_indices(table, [("k", "ascending"), ("s", "descending")])).astype(np.int64)


def merged(keys: pa.Array, seqs: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The same order, where runs that begin at ``starts``, int64, and end with the last of them are each in it; O(n log runs) in a kernel."""
    k: Any = kernels.storage()
    result: np.ndarray = k.merge_int64(int64_view(keys), seqs, starts) if is_int(keys) else k.merge_bytes(*binary_parts(keys), seqs, starts)
    return result


def between(keys: pa.Array, start: Key | None, stop: Key | None) -> np.ndarray:
    """bool (n,): the keys in [start, stop)."""
    import pyarrow.compute as pc

    inside = np.ones(len(keys), bool)
    for bound, test in ((start, pc.greater_equal), (stop, pc.less)):
        if bound is not None:
            inside &= test(keys, pa.scalar(bound, keys.type)).to_numpy(zero_copy_only=False)
    return inside


def same_as_previous(keys: pa.Array) -> np.ndarray:
    """bool (n,): the row has the key of the row before it; False for row 0."""
    result = np.zeros(len(keys), bool)
    if len(keys) > 1:
        if is_int(keys):
            values = int64_view(keys)
            result[1:] = values[1:] == values[:-1]
        else:
            import pyarrow.compute as pc

            result[1:] = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return result


def equal_at(keys: pa.Array, positions: np.ndarray, wanted: pa.Array) -> np.ndarray:
    """bool (q,): ``keys[positions[i]] == wanted[i]``; a position at the end of ``keys`` is False."""
    inside = positions < len(keys)
    result = np.zeros(len(wanted), bool)
    if inside.any():
        import pyarrow.compute as pc

        found = keys.take(pa.array(positions[inside]))
        result[inside] = pc.equal(found, wanted.filter(pa.array(inside))).to_numpy(zero_copy_only=False)
    return result


def last_of_each(keys: pa.Array) -> np.ndarray:
    """Positions, in key order, of the last occurrence of every key: within a commit the last write wins."""
    by_key = order(keys)
    ordered = keys.take(pa.array(by_key))
    last = np.ones(len(keys), bool)
    last[:-1] = ~same_as_previous(ordered)[1:]
    return by_key[last]


def first_duplicate(keys: pa.Array) -> int | None:
    """The row of some key's second occurrence, or None; the message of a refused insert names it."""
    if distinct(keys):
        return None
    by_key = order(keys)
    again = same_as_previous(keys.take(pa.array(by_key)))
    return int(by_key[again].min()) if again.any() else None
