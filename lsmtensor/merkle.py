"""Hash trees in RFC 6962's way: leaves and nodes in separate domains, an odd node promoted.

Hashes are ``blake3`` (default), ``sha256``, both 32 bytes, or ``none`` (empty roots, nothing provable).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from .errors import UnknownNameError
from .registry import near

HASHES = ("blake3", "sha256", "none")


def new_hash(kind: str) -> Any:
    """A hash to be updated, as hashlib's are."""
    if kind == "blake3":
        return _blake3()()
    if kind == "sha256":
        return hashlib.sha256()
    raise UnknownNameError(f"no hash named {kind!r}; {near(kind, HASHES)}")


@cache
def _blake3() -> Any:
    from blake3 import blake3  # first use, not import: it costs some milliseconds

    return blake3


def leaf_hash(data: Any, kind: str = "blake3") -> bytes:
    """H(0x00 || data)."""
    return leaf_hash_of(b"", [data], kind)


def leaf_hash_of(head: bytes, parts: Iterable[Any], kind: str) -> bytes:
    """H(0x00 || head || parts), without joining them."""
    state = new_hash(kind)
    state.update(b"\x00" + head)
    for part in parts:
        state.update(part)
    return bytes(state.digest())


def node_hash(left: bytes, right: bytes, kind: str = "blake3") -> bytes:
    """H(0x01 || left || right)."""
    state = new_hash(kind)
    state.update(b"\x01" + left + right)
    return bytes(state.digest())


def merkle_root(leaves: Sequence[bytes], kind: str = "blake3") -> bytes:
    """The root over leaf hashes; of none, the hash of nothing. O(n)."""
    if not leaves:
        return bytes(new_hash(kind).digest())
    level = list(leaves)
    while len(level) > 1:
        pairs = [node_hash(level[i], level[i + 1], kind) for i in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return level[0]


def inclusion_path(leaves: Sequence[bytes], index: int, kind: str = "blake3") -> list[bytes]:
    """The siblings that lead from leaf ``index`` to the root, lowest first; O(n) to make, O(log n) long."""
    path = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        pairs = [node_hash(level[i], level[i + 1], kind) for i in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
        index //= 2
    return path


def root_from_path(leaf: bytes, index: int, count: int, path: Sequence[bytes], kind: str = "blake3") -> bytes | None:
    """The root that the path leads to, or None where the path does not fit ``index`` of ``count`` leaves."""
    if not 0 <= index < count:
        return None
    here, rest = leaf, list(path)
    while count > 1:
        if index ^ 1 < count:
            if not rest:
                return None
            sibling = rest.pop(0)
            here = node_hash(sibling, here, kind) if index & 1 else node_hash(here, sibling, kind)
        index, count = index // 2, (count + 1) // 2
    return None if rest else here
