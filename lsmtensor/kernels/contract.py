"""Every kernel once: its name, shapes, dtypes, meaning and cost. The body is the definition, in numpy.

Other backends are modules with functions of the same names and signatures. Metrics: 0 squared L2,
1 minus the inner product, 2 one minus the cosine (a zero vector: 1), 3 L1, 4 Hamming (unequal places).
Ties go to the lower id. Integer results are exact; distances agree within rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from .declare import COSINE, HAMMING, IP, KERNELS, L1, L2, METRICS, kernel, plain, same_width

# -- distance -------------------------------------------------------------------------------------


def _guard_pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> tuple[Any, ...]:
    same_width(queries, points)
    return plain(queries), plain(points), metric


def _guard_gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> tuple[Any, ...]:
    same_width(query, points)
    if len(ids) and (ids.min() < 0 or ids.max() >= len(points)):
        raise InvalidArgumentError(f"ids reach from {ids.min()} to {ids.max()}; there are {len(points)} points")
    return plain(query), plain(points), np.ascontiguousarray(ids, np.int64), metric


def _guard_topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[Any, ...]:
    same_width(queries, points)
    if mask is not None:
        if len(mask) != len(points):
            raise InvalidArgumentError(f"the mask has {len(mask)} entries for {len(points)} points")
        mask = np.ascontiguousarray(mask, np.uint8 if mask.dtype != bool else bool).view(np.uint8)
    return plain(queries), plain(points), k, metric, mask


@kernel("distance", "rounding", _guard_pairwise)
def pairwise(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    """float32 (q, n): the distance of every query to every point.

    queries (q, d), points (n, d), float32. A row holding NaN gives NaN. L2 of near rows is as exact as float32 holds
    it, however far from the origin they lie. O(q n d).
    """
    if metric == L2:
        # in float64: near rows far from the origin would be lost in the cancellation
        a, b = queries.astype(np.float64), points.astype(np.float64)
        with np.errstate(invalid="ignore"):
            result = (a**2).sum(1)[:, None] - 2 * (a @ b.T) + (b**2).sum(1)[None, :]
        return np.maximum(result, 0).astype(np.float32)
    if metric == IP:
        return -(queries @ points.T)
    if metric == COSINE:
        norms = np.sqrt((queries**2).sum(1))[:, None] * np.sqrt((points**2).sum(1))[None, :]
        dots = queries @ points.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(norms == 0, np.float32(1), 1 - dots / norms).astype(np.float32)
    result = np.empty((len(queries), len(points)), np.float32)
    for i, query in enumerate(queries):
        result[i] = np.abs(points - query).sum(1) if metric == L1 else (points != query).sum(1)
    return result


@kernel("distance", "rounding", _guard_gathered)
def gathered(query: np.ndarray, points: np.ndarray, ids: np.ndarray, metric: int) -> np.ndarray:
    """float32 (m,): the distance of one query (d,) to ``points[ids]``, ids int64 (m,) within range. O(m d)."""
    return pairwise(query[None, :], points[ids], metric)[0]


@kernel("distance", "rounding", _guard_topk)
def topk(
    queries: np.ndarray, points: np.ndarray, k: int, metric: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(ids int64 (q, k), distances float32 (q, k)): the k nearest points, nearest first, -1 and inf where fewer are.

    mask: uint8 (n,) or None; points whose mask is 0 are left out. NaN distances are left out. O(q n d).
    """
    ids = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.inf, np.float32)
    allowed = np.arange(len(points)) if mask is None else np.flatnonzero(mask)
    for start in range(0, len(queries), 64):
        block = pairwise(queries[start : start + 64], points if mask is None else points[allowed], metric)
        for i, row in enumerate(block, start):
            good = np.flatnonzero(~np.isnan(row))
            n = min(k, len(good))
            if n:
                # every point as near as the n-th, so that ties are cut by id
                near = good[row[good] <= np.partition(row[good], n - 1)[n - 1]]
                best = near[np.lexsort((near, row[near]))][:n]
                ids[i, :n], distances[i, :n] = allowed[best], row[best]
    return ids, distances


# -- storage --------------------------------------------------------------------------------------


@kernel("storage", "exact")
def search_int64(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 (q,): where each wanted key would be inserted, left of equals, in sorted int64 values. O(q log n)."""
    return np.searchsorted(values, wanted, "left").astype(np.int64)


@kernel("storage", "exact")
def search_bytes(
    data: np.ndarray, offsets: np.ndarray, wanted_data: np.ndarray, wanted_offsets: np.ndarray
) -> np.ndarray:
    """The same for byte strings in Arrow's layout: data uint8, offsets int32 (n + 1). Order is that of memcmp."""
    import bisect

    strings = [bytes(data[a:b]) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    places = [
        bisect.bisect_left(strings, bytes(wanted_data[a:b]))
        for a, b in zip(wanted_offsets[:-1], wanted_offsets[1:], strict=True)
    ]
    return np.array(places, np.int64)


def _check_runs(starts: np.ndarray, n: int) -> None:
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != n or (np.diff(starts) < 0).any():
        raise InvalidArgumentError(f"runs begin at {starts} of {n} rows; give where each begins, from 0 on, and then {n}")


def _guard_merge_int64(keys: np.ndarray, seqs: np.ndarray, starts: np.ndarray) -> tuple[Any, ...]:
    _check_runs(starts, len(keys))
    if len(seqs) != len(keys):
        raise InvalidArgumentError(f"{len(seqs)} sequence numbers for {len(keys)} keys")
    return keys, seqs, starts


def _guard_merge_bytes(data: np.ndarray, offsets: np.ndarray, seqs: np.ndarray, starts: np.ndarray) -> tuple[Any, ...]:
    _check_runs(starts, len(offsets) - 1)
    if len(seqs) != len(offsets) - 1:
        raise InvalidArgumentError(f"{len(seqs)} sequence numbers for {len(offsets) - 1} keys")
    return data, offsets, seqs, starts


@kernel("storage", "exact", _guard_merge_int64)
def merge_int64(keys: np.ndarray, seqs: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64 (n,): the order of rows by key int64 (n,), the newer of equal keys first, by seq uint64 (n,), else as they stand.

    Run i, [starts[i], starts[i + 1]), is in this order already; starts int64 (runs + 1,). O(n log runs).
    """
    return np.lexsort((~seqs, keys))


@kernel("storage", "exact", _guard_merge_bytes)
def merge_bytes(data: np.ndarray, offsets: np.ndarray, seqs: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The same for byte strings, as `search_bytes` has them."""
    texts = [bytes(data[a:b]) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    newer = (~seqs).tolist()
    return np.array(sorted(range(len(texts)), key=lambda i: (texts[i], newer[i])), np.int64)


def mix64(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every input bit moves every output bit (Stafford's variant 13)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel("storage", "exact")
def hash64_int64(keys: np.ndarray) -> np.ndarray:
    """uint64 (n,): the hash of int64 keys that filters on disk are made of. On disk: never change."""
    return mix64(keys.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))


@kernel("storage", "exact")
def hash64_bytes(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The same for byte strings: 8 bytes at a time, little-endian, the last padded with zeros; the length goes in first."""
    result = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(result)):
        text = bytes(data[offsets[i] : offsets[i + 1]])
        h = np.array([len(text)], np.uint64)
        for word in np.frombuffer(text + bytes(-len(text) % 8), "<u8"):
            h = mix64(h ^ word)
        result[i] = mix64(h)[0]
    return result


@kernel("storage", "exact")
def bloom_add(bits: np.ndarray, hashes: np.ndarray, probes: int) -> None:
    """Set ``probes`` bits of a filter (uint8) for each hash: bit (h + i * g) mod size, g the odd rotation of h."""
    size = np.uint64(len(bits) * 8)
    for at in _probes(hashes, probes, size):
        np.bitwise_or.at(bits, (at >> np.uint64(3)).astype(np.int64), np.uint8(1) << (at & np.uint64(7)).astype(np.uint8))


@kernel("storage", "exact")
def bloom_test(bits: np.ndarray, hashes: np.ndarray, probes: int) -> np.ndarray:
    """bool (n,): whether all bits of each hash are set."""
    size = np.uint64(len(bits) * 8)
    found = np.ones(len(hashes), bool)
    for at in _probes(hashes, probes, size):
        found &= (bits[(at >> np.uint64(3)).astype(np.int64)] >> (at & np.uint64(7)).astype(np.uint8)) & 1 == 1
    return found


def _probes(hashes: np.ndarray, probes: int, size: np.uint64) -> Any:
    with np.errstate(over="ignore"):
        step = (hashes >> np.uint64(32) | hashes << np.uint64(32)) | np.uint64(1)
        for i in range(probes):
            yield (hashes + np.uint64(i) * step) % size


@kernel("storage", "exact")
def block_bloom_add(bits: np.ndarray, hashes: np.ndarray, probes: int) -> None:
    """Set ``probes`` bits for each hash in one block of 64 bytes (bits: uint8, a multiple of 64), so that a test touches one
    line of cache. Block: high half of h times blocks, over 2**32; bit i: (a + i b) / 2**23 mod 512 in 32-bit arithmetic,
    a the low half of h, b = a rotated by 15, its lowest bit set (Putze, Sanders & Singler, JEA 2009). On disk: never change."""
    for at in _block_probes(hashes, probes, len(bits) // 64):
        np.bitwise_or.at(bits, at >> 3, np.uint8(1) << (at & 7).astype(np.uint8))


@kernel("storage", "exact")
def block_bloom_test(bits: np.ndarray, hashes: np.ndarray, probes: int) -> np.ndarray:
    """bool (n,): whether all bits of each hash are set."""
    found = np.ones(len(hashes), bool)
    for at in _block_probes(hashes, probes, len(bits) // 64):
        found &= (bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1 == 1
    return found


def _block_probes(hashes: np.ndarray, probes: int, blocks: int) -> Any:
    start = ((hashes >> np.uint64(32)) * np.uint64(blocks) >> np.uint64(32)).astype(np.int64) * 512
    a = hashes.astype(np.uint32)
    b = (a << np.uint32(15) | a >> np.uint32(17)) | np.uint32(1)
    for i in range(probes):
        yield start + (a + np.uint32(i) * b >> np.uint32(23)).astype(np.int64)


@kernel("storage", "exact")
def crc32c_chunks(data: np.ndarray, chunk: int, file: int, offset: int) -> np.ndarray:
    """uint32 (ceil(n / chunk),): the CRC32C of each ``chunk`` bytes of data (uint8 (n,)), the last may be shorter.

    Each sum begins with the chunk's place, two little-endian u64: the file's number and the chunk's offset in
    it, ``offset`` for the first. On disk: never change. O(n).
    """
    from ..env.checksum import crc32c

    sums = [
        crc32c(data[at : at + chunk], crc32c(np.array([file, offset + at], "<u8").tobytes()))
        for at in range(0, len(data), chunk)
    ]
    return np.array(sums, np.uint32)


@kernel("storage", "exact")
def shuffle(data: np.ndarray, itemsize: int) -> np.ndarray:
    """uint8 (n,): byte 0 of every element of ``itemsize`` bytes, then byte 1 of each, …; a rest that is no element as it is. On disk."""
    n = len(data) // itemsize * itemsize
    return np.concatenate([data[:n].reshape(-1, itemsize).T.reshape(-1), data[n:]])


@kernel("storage", "exact")
def unshuffle(data: np.ndarray, itemsize: int) -> np.ndarray:
    """uint8 (n,): what `shuffle` was given."""
    n = len(data) // itemsize * itemsize
    return np.concatenate([data[:n].reshape(itemsize, -1).T.reshape(-1), data[n:]])


@kernel("storage", "exact")
def bitshuffle(data: np.ndarray, itemsize: int) -> np.ndarray:
    """uint8 (n,): bit 0 of every element, eight elements a byte, the first lowest, then bit 1 of each, …; what is no group of
    eight elements stays as it is. On disk: never change."""
    n = len(data) // (8 * itemsize) * 8 * itemsize
    bits = np.unpackbits(data[:n].reshape(-1, itemsize), axis=1, bitorder="little")
    return np.concatenate([np.packbits(bits.T, axis=1, bitorder="little").reshape(-1), data[n:]])


@kernel("storage", "exact")
def unbitshuffle(data: np.ndarray, itemsize: int) -> np.ndarray:
    """uint8 (n,): what `bitshuffle` was given."""
    n = len(data) // (8 * itemsize) * 8 * itemsize
    bits = np.unpackbits(data[:n].reshape(8 * itemsize, -1), axis=1, bitorder="little")
    return np.concatenate([np.packbits(bits.T, axis=1, bitorder="little").reshape(-1), data[n:]])


# -- training --------------------------------------------------------------------------------------


def _guard_assign(x: np.ndarray, centroids: np.ndarray) -> tuple[Any, ...]:
    same_width(x, centroids)
    if len(centroids) == 0:
        raise InvalidArgumentError("no centroids to assign rows to; give at least one")
    return plain(x), plain(centroids)


@kernel("training", "rounding", _guard_assign)
def assign(x: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nearest centroid int64 (n,), squared L2 distance float32 (n,)) of rows x (n, d), by |c|^2 - 2 x.c; ties to the lower.

    centroids (k, d), k >= 1. For training and coding: distances near 0 carry the rounding of the norms. O(n k d).
    """
    norms = (centroids**2).sum(1)
    ids, distances = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    for at in range(0, len(x), 1024):
        block = x[at : at + 1024]
        scores = norms - 2 * (block @ centroids.T)
        best = scores.argmin(1)
        ids[at : at + 1024] = best
        distances[at : at + 1024] = np.maximum(scores[np.arange(len(block)), best] + (block**2).sum(1), 0)
    return ids, distances


# those over graphs and codes and those over posting lists are in files of their own, which declare them after what is here
from . import contract_codes, contract_grid, contract_sparse  # noqa: E402, F401

__all__ = ["COSINE", "HAMMING", "IP", "KERNELS", "L1", "L2", "METRICS"]
