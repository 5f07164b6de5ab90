"""What a peer is: a class for what it is good at, in a file of this folder, that imports its library when it is made.

Add a file with a subclass of `Dense`, `Words`, `Keys`, `Tables` or `Arrays`, its ``name`` and the module that it ``needs``; it is found by itself.
All of it runs on one thread. What "durable" means is said beside each method: a peer that syncs less says so in ``promise``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ...errors import UnavailableError, UnknownNameError
from ...registry import near

OWN = "lsmtensor"
LIMIT = "(the limit)"
Setting = dict[str, int]


class Peer(ABC):
    """``name`` as it is shown, ``needs`` the module that must be installed, ``promise`` what its writes survive, ``compiles``: for seconds, when first asked."""

    kind: ClassVar[str]
    name: ClassVar[str]
    needs: ClassVar[str]
    promise: ClassVar[str] = "synced"
    compiles: ClassVar[bool] = False

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of files and handles."""


class Dense(Peer):
    """The nearest of float32 (n, d) by cosine, l2 or ip. ``settings``: efforts at which one build is searched, the least first."""

    kind = "dense"
    settings: ClassVar[tuple[Setting, ...]] = ({},)

    @abstractmethod
    def build(self, points: np.ndarray, metric: str = "cosine") -> None: ...

    @abstractmethod
    def search(self, query: np.ndarray, k: int, **setting: int) -> np.ndarray:
        """int64 (k,): the rows nearest to a float32 (d,)."""

    @abstractmethod
    def bytes(self) -> int:
        """Of the index, its vectors included, in memory or on disk."""


class Words(Peer):
    """BM25 over texts."""

    kind = "words"

    @abstractmethod
    def build(self, texts: list[str], folder: Path) -> None: ...

    @abstractmethod
    def search(self, words: str, k: int) -> list[int]:
        """The rows of the best texts, best first; fewer where fewer match."""


class Keys(Peer):
    """16-byte keys and their values in a folder."""

    kind = "keys"

    @abstractmethod
    def open(self, folder: Path) -> None: ...

    @abstractmethod
    def put(self, keys: list[bytes], values: list[bytes]) -> None:
        """One batch, whole, durable when this returns."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None: ...

    @abstractmethod
    def values(self) -> Iterator[bytes]:
        """Every value, by key."""

    def scan(self) -> int:
        """How many bytes all values have together, every value looked at."""
        return sum(map(len, self.values()))


class Tables(Peer):
    """Rows of an int64 ``id``, ascending from 0, and a float32 ``vector`` (d,), in a folder."""

    kind = "tables"

    @abstractmethod
    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        """Each batch durable before the next is begun."""

    @abstractmethod
    def row(self, folder: Path, id: int) -> np.ndarray:
        """A vector by its id, from a fresh handle."""

    @abstractmethod
    def read(self, folder: Path) -> Iterator[np.ndarray]:
        """Arrays of float32 that together hold every vector, from a fresh handle."""


class KeyedTables(Tables):
    """A table kept in a store of keys: the id, big-endian, and the bytes of the vector."""

    store: ClassVar[type[Keys]]

    def write(self, folder: Path, batches: list[pa.RecordBatch]) -> None:
        store = self._open(folder)
        for batch in batches:
            store.put([_key(i) for i in batch.column("id").to_pylist()], [row.tobytes() for row in matrix(batch.column("vector"))])
        store.close()

    def row(self, folder: Path, id: int) -> np.ndarray:
        store = self._open(folder)
        found = np.frombuffer(store.get(_key(id)) or b"", np.float32)
        store.close()
        return found

    def read(self, folder: Path) -> Iterator[np.ndarray]:
        store = self._open(folder)
        yield from (np.frombuffer(value, np.float32) for value in store.values())
        store.close()

    def _open(self, folder: Path) -> Keys:
        store = self.store()
        store.open(folder)
        return store


def _key(id: int) -> bytes:
    return id.to_bytes(16, "big")


def matrix(column: pa.Array) -> np.ndarray:
    """float32 (n, d) of a column of fixed-size lists, no copy."""
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), -1)


def synced(folder: Path) -> None:
    """All files of a folder, and the folder, to the disk, for libraries that do not ask for it themselves."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Arrays(Peer):
    """Named arrays in a folder."""

    kind = "arrays"

    @abstractmethod
    def save(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        """All of them, durable when this returns."""

    @abstractmethod
    def load(self, folder: Path) -> dict[str, np.ndarray]:
        """All of them; views where it can."""

    @abstractmethod
    def part(self, folder: Path, name: str, box: tuple[slice, ...]) -> np.ndarray:
        """A box of one array, from a fresh handle."""


KINDS: dict[str, type[Peer]] = {c.kind: c for c in (Dense, Words, Keys, Tables, Arrays)}


def every(kind: str) -> dict[str, type[Any]]:
    """All peers of a kind by name, installed or not; ours first."""
    package = importlib.import_module(__package__)
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name in ("__main__", "base", "workload", "page"):
            continue
        for _, made in inspect.getmembers(importlib.import_module(f"{__package__}.{module.name}"), inspect.isclass):
            if issubclass(made, KINDS[kind]) and not inspect.isabstract(made) and hasattr(made, "name"):
                found[made.name] = made
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith(OWN), item[0])))


def installed(peer: type[Peer]) -> bool:
    return importlib.util.find_spec(peer.needs) is not None


def choose(kind: str, wanted: tuple[str, ...] | None, *, own: bool = True, quick: bool = False) -> dict[str, type[Any]]:
    """The peers of a kind that are installed, or of those ``wanted`` (by name or by library): `UnknownNameError` for a name that is
    none, `UnavailableError` for one that is not installed. ``own``: us among them. ``quick``: without those that compile, unless wanted."""
    there = every(kind)
    if wanted is None:
        return {name: peer for name, peer in there.items() if installed(peer) and (own or not name.startswith(OWN)) and not (quick and peer.compiles)}
    names = {name for each in KINDS for name in every(each)} | {peer.needs for each in KINDS for peer in every(each).values()}
    for name in wanted:
        if name not in names:
            raise UnknownNameError(f"no peer named {name!r}; {near(name, names)}")
    chosen = {n: p for n, p in there.items() if n in wanted or p.needs in wanted or (own and n.startswith(OWN))}
    for name, peer in chosen.items():
        if not installed(peer):
            raise UnavailableError(f"peer {name!r} is not installed (no module {peer.needs!r}); install it with: pip install 'lsmtensor[peers]'")
    return {n: p for n, p in chosen.items() if own or not n.startswith(OWN)}


def absent() -> list[str]:
    """A line for each peer that is not installed."""
    lines = {f"{peer.needs}: not installed, so {name} is left out" for kind in KINDS for name, peer in every(kind).items() if not installed(peer)}
    return sorted(lines)
