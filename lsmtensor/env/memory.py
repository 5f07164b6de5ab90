"""A file system in memory that knows what a power loss would leave, and can fail on command.

`MemoryEnv` keeps for each file what was written and what of it was synced, and for each folder which
names were synced. `MemoryEnv.crash` gives the file system after a power loss. `FaultyEnv` fails the
i-th call of an operation and keeps a log of calls.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Sequence

from ..errors import CorruptionError, LockedError, StorageError
from ..metrics import Metrics
from .base import Buffer, Clock, WritableFile


class _File:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced = bytes(data)
        # writes since the last sync, in order: (offset, bytes); a crash keeps some of them
        self.unsynced: list[tuple[int, bytes]] = []


class _Writer(WritableFile):
    def __init__(self, env: MemoryEnv, path: str, file: _File, counter: str) -> None:
        self.path, self._env, self._file, self._counter = path, env, file, counter

    def writev(self, buffers: Sequence[Buffer]) -> None:
        data = b"".join(bytes(memoryview(b).cast("B")) for b in buffers)
        self._env.before("write", self.path, len(data))
        # appended in place: a map taken earlier keeps its own copy
        with self._env.guard:
            self._file.unsynced.append((len(self._file.data), data))
            self._file.data += data
        self._env.metrics.add(f"io.write.{self._counter}", len(data))

    def tell(self) -> int:
        return len(self._file.data)

    def sync(self) -> None:
        self._env.before("sync", self.path, 0)
        with self._env.guard:
            self._file.synced = bytes(self._file.data)
            self._file.unsynced.clear()
        self._env.metrics.add(f"io.syncs.{self._counter}")

    def close(self) -> None:
        self._env.before("close", self.path, 0)


class _Readable:
    def __init__(self, env: MemoryEnv, path: str, data: bytes) -> None:
        self.path, self._data, self._env = path, data, env

    @property
    def size(self) -> int:
        return len(self._data)

    def pread(self, offset: int, length: int) -> bytes:
        self._env.before("read", self.path, length)
        data = self._data[offset : offset + length]
        if len(data) != length:
            raise CorruptionError(f"the file ends {length - len(data)} bytes before it should", self.path, offset)
        return data

    def map(self) -> memoryview:
        self._env.before("read", self.path, len(self._data))
        return memoryview(self._data)


class _Lock:
    def __init__(self, env: MemoryEnv, path: str) -> None:
        self._env, self._path = env, path

    def close(self) -> None:
        self._env.locks.discard(self._path)


class MemoryEnv:
    """Files in a dict; folders are implied by names but for their sync state."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.metrics = Metrics()
        self.clock = clock or Clock()
        self.guard = threading.RLock()
        self.files: dict[str, _File] = {}
        self.durable: dict[str, _File] = {}
        self.folders: set[str] = set()
        self.locks: set[str] = set()

    def before(self, op: str, path: str, size: int) -> None:
        """Called ahead of every operation that may fail or be crashed at."""

    def create(self, path: str, *, kind: str, cause: str, direct: bool = False) -> WritableFile:
        self.before("create", path, 0)
        with self.guard:
            if path in self.files:
                raise StorageError(f"creating {path}: it exists already", errno.EEXIST)
            file = self.files[path] = _File()
        return _Writer(self, path, file, f"{kind}.{cause}")

    def append_to(self, path: str, *, kind: str, cause: str, truncate_at: int) -> WritableFile:
        self.before("truncate", path, 0)
        with self.guard:
            file = self._get(path)
            del file.data[truncate_at:]
            file.unsynced = [(o, d[: truncate_at - o]) for o, d in file.unsynced if o < truncate_at]
            file.synced = file.synced[:truncate_at]
        return _Writer(self, path, file, f"{kind}.{cause}")

    def _get(self, path: str) -> _File:
        file = self.files.get(path)
        if file is None:
            raise StorageError(f"opening {path}: no such file", errno.ENOENT)
        return file

    def open(self, path: str, *, kind: str) -> _Readable:
        self.before("open", path, 0)
        with self.guard:
            return _Readable(self, path, bytes(self._get(path).data))

    def exists(self, path: str) -> bool:
        return path in self.files or path in self.folders

    def listdir(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        with self.guard:
            names = {p[len(prefix) :].split("/")[0] for p in [*self.files, *self.folders] if p.startswith(prefix)}
        return sorted(names)

    def size(self, path: str) -> int:
        return len(self._get(path).data)

    def mkdir(self, path: str) -> None:
        self.before("mkdir", path, 0)
        self.folders.add(path.rstrip("/"))

    def unlink(self, path: str) -> None:
        self.before("unlink", path, 0)
        with self.guard:
            self.files.pop(path, None)

    def rename(self, old: str, new: str) -> None:
        self.before("rename", old, 0)
        with self.guard:
            self.files[new] = self._get(old)
            del self.files[old]

    def sync_dir(self, path: str) -> None:
        self.before("sync_dir", path, 0)
        folder = path.rstrip("/")
        with self.guard:
            for name in [n for n in self.durable if n.rpartition("/")[0] == folder]:
                del self.durable[name]
            self.durable.update({n: f for n, f in self.files.items() if n.rpartition("/")[0] == folder})

    def lock(self, path: str) -> _Lock:
        if path in self.locks:
            raise LockedError(f"{path} is locked by another handle of this process; close it first, or open with mode='r'")
        self.locks.add(path)
        return _Lock(self, path)

    def crash(self, seed: int = 0, keep: float = 0.5) -> MemoryEnv:
        """What a power loss may leave: a new file system.

        A name not followed by a sync of its folder is kept or lost by chance; so is each unsynced
        write, and one that is kept may be torn. ``keep=0`` drops all of it, ``keep=1`` keeps it.
        """
        luck = random.Random(seed)
        after = MemoryEnv(self.clock)
        after.folders = set(self.folders)
        with self.guard:
            names = sorted({*self.files, *self.durable})
            for name in names:
                now, safe = self.files.get(name), self.durable.get(name)
                file = now if (now is safe or luck.random() < keep) else safe
                if file is not None:
                    after.files[name] = _File(_remains(file, luck, keep))
            after.durable = dict(after.files)
        return after


def _remains(file: _File, luck: random.Random, keep: float) -> bytes:
    data = bytearray(file.synced)
    for offset, written in file.unsynced:
        if luck.random() < keep:
            part = written if luck.random() < keep else written[: luck.randrange(len(written) + 1)]
            if len(data) < offset:
                data += bytes(offset - len(data))  # a hole where an earlier write was lost
            data[offset : offset + len(part)] = part
    return bytes(data)


class SimulatedCrashError(BaseException):
    """Stops the engine at a chosen call; no handler of the engine may catch it."""


class FaultyEnv(MemoryEnv):
    """Fails or crashes at chosen calls.

    ``fail(op, at, code)``: the ``at``-th later call of ``op`` (and, with ``lasting``, all after it) raises
    `StorageError` with that errno. ``crash_at(n)``: the n-th later mutating call raises `SimulatedCrashError`.
    """

    MUTATING = ("create", "write", "sync", "truncate", "unlink", "rename", "sync_dir", "mkdir")

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.calls: list[tuple[str, str]] = []
        self._rules: list[Callable[[str, str, int], None]] = []
        self.room: int | None = None

    def before(self, op: str, path: str, size: int) -> None:
        self.calls.append((op, path))
        for rule in self._rules:
            rule(op, path, size)
        if op == "write" and self.room is not None:
            if size > self.room:
                raise StorageError(f"writing to {path}: the disk is full; free space and try again", errno.ENOSPC)
            self.room -= size

    def fail(self, op: str, at: int = 1, code: int = errno.EIO, lasting: bool = False) -> None:
        count = 0

        def rule(this: str, path: str, size: int) -> None:
            nonlocal count
            if this == op:
                count += 1
                if count == at or (lasting and count > at):
                    raise StorageError(f"{op} of {path}: injected {errno.errorcode[code]}", code)

        self._rules.append(rule)

    def crash_at(self, n: int) -> None:
        count = 0

        def rule(this: str, path: str, size: int) -> None:
            nonlocal count
            if this in self.MUTATING:
                count += 1
                if count >= n:
                    raise SimulatedCrashError(f"{this} of {path}")

        self._rules.append(rule)

    def heal(self) -> None:
        """Forget every rule."""
        self._rules.clear()
        self.room = None
