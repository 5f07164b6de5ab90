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
from typing import Self

from ..errors import CorruptionError, LockedError, StorageError
from ..metrics import Metrics
from .base import Buffer, Clock, WritableFile


class _File:
    """What readers see (``data``), what a crash cannot take (``safe``), and what lies between them.

    ``log`` holds the writes since the last sync as (offset, bytes), in order; bytes None is a cut to that
    length. After a failed sync they stay ``lost``: a later sync that succeeds does not bring them to the
    disk, as the kernel has marked their pages clean.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.safe = bytearray(data), bytes(data)
        self.log: list[tuple[int, bytes | None]] = []
        self.lost = 0

    def sync(self) -> None:
        safe = bytearray(self.safe)
        lost, later = self.log[: self.lost], self.log[self.lost :]
        for offset, written in later:
            _apply(safe, offset, written)
            lost = [part for entry in lost for part in _outside(entry, offset, written)]
        self.safe, self.log, self.lost = bytes(safe), lost, len(lost)

    def copy(self) -> _File:
        twin = _File()
        twin.data, twin.safe, twin.log, twin.lost = bytearray(self.data), self.safe, list(self.log), self.lost
        return twin

    def remains(self, luck: random.Random, keep: float) -> bytes:
        """The bytes after a power loss: each unsynced write is kept, dropped or torn, in any combination."""
        data = bytearray(self.safe)
        for offset, written in self.log:
            kept = luck.random() < keep
            if written is None and not kept:
                break  # journaled before what follows it: later writes went to new blocks, and are lost too
            if kept:
                torn = bool(written) and luck.random() >= keep
                _apply(data, offset, written[: luck.randrange(len(written) + 1)] if torn and written else written)
        return bytes(data)


def _outside(lost: tuple[int, bytes | None], offset: int, written: bytes | None) -> list[tuple[int, bytes | None]]:
    """What of a lost write a later one that reached the disk leaves in doubt."""
    start, data = lost
    if data is None:
        return [lost]
    parts = [(start, data[: max(0, offset - start)])]
    if written is not None:
        end = offset + len(written)
        parts.append((max(start, end), data[max(0, end - start) :]))
    return [part for part in parts if part[1]]


def _apply(data: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del data[offset:]
        return
    if len(data) < offset:
        data += bytes(offset - len(data))  # a hole where an earlier write was lost
    data[offset : offset + len(written)] = written


class _Writer(WritableFile):
    def __init__(self, env: MemoryEnv, path: str, file: _File, counter: str) -> None:
        self.path, self._env, self._file, self._counter = path, env, file, counter

    def writev(self, buffers: Sequence[Buffer]) -> None:
        data = b"".join(bytes(memoryview(b).cast("B")) for b in buffers)
        self._env.before("write", self.path, len(data))
        with self._env.guard:
            fits = self._env.fits(len(data))
            self._file.log.append((len(self._file.data), data[:fits]))
            self._file.data += data[:fits]  # a map taken earlier keeps its own copy
        self._env.metrics.add(f"io.write.{self._counter}", fits)
        if fits < len(data):
            raise StorageError(f"writing to {self.path}: the disk is full; free space and try again", errno.ENOSPC)

    def tell(self) -> int:
        return len(self._file.data)

    def sync(self) -> None:
        try:
            self._env.before("sync", self.path, 0)
        except StorageError:
            self._file.lost = len(self._file.log)
            raise
        if not self._env.deaf("sync", self.path):
            with self._env.guard:
                self._file.sync()
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
        if min(offset, length) < 0 or offset + length > len(self._data):
            raise CorruptionError(f"{length} bytes are wanted, the file has {len(self._data)}", self.path, offset)
        return self._data[offset : offset + length]

    def map(self) -> memoryview:
        self._env.before("read", self.path, len(self._data))
        return memoryview(self._data)

    def private(self, offset: int, length: int) -> memoryview:
        return memoryview(bytearray(self.pread(offset, length)))

    def joined(self, pieces: Sequence[tuple[int, int]]) -> memoryview | None:
        return None

    def close(self) -> None:
        self._data = b""


class _Lock:
    def __init__(self, env: MemoryEnv, path: str) -> None:
        self._env, self._path = env, path

    def close(self) -> None:
        self._env.locks.discard(self._path)


class MemoryEnv:
    """Files in a dict. ``durable`` holds the names that a power loss cannot take; a made folder is one at once."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.metrics = Metrics()
        self.clock = clock or Clock()
        self.guard = threading.RLock()
        self.files: dict[str, _File] = {}
        self.durable: dict[str, _File] = {}
        # names changed since their folder's sync, in order; None takes the name away; a rename is one step
        self.pending: list[dict[str, _File | None]] = []
        self.folders: set[str] = set()
        self.locks: set[str] = set()

    def before(self, op: str, path: str, size: int) -> None:
        """Called ahead of every operation that may fail or be crashed at."""

    def fits(self, size: int) -> int:
        """How many of ``size`` bytes the disk still takes."""
        return size

    def deaf(self, op: str, path: str) -> bool:
        """Whether a sync of a file or folder is answered without being done, as some disks do."""
        return False

    def _change(self, step: dict[str, _File | None]) -> None:
        self.pending.append(step)
        _rename(self.files, step)

    def create(self, path: str, *, kind: str, cause: str, direct: bool = False) -> WritableFile:
        self.before("create", path, 0)
        with self.guard:
            if path in self.files:
                raise StorageError(f"creating {path}: it exists already", errno.EEXIST)
            file = _File()
            self._change({path: file})
        return _Writer(self, path, file, f"{kind}.{cause}")

    def append_to(self, path: str, *, kind: str, cause: str, truncate_at: int, again_from: int | None = None) -> WritableFile:
        self.before("truncate", path, 0)
        with self.guard:
            file = self._get(path)
            if truncate_at > len(file.data):
                raise CorruptionError(f"the file ends here, {truncate_at} bytes are wanted", path, len(file.data))
            if truncate_at < len(file.data):
                del file.data[truncate_at:]
                file.log.append((truncate_at, None))
        if again_from is not None and again_from < truncate_at:
            self.before("write", path, truncate_at - again_from)
            with self.guard:
                file.log.append((again_from, bytes(file.data[again_from:])))
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
            if path in self.files:
                self._change({path: None})

    def rename(self, old: str, new: str) -> None:
        self.before("rename", old, 0)
        with self.guard:
            self._change({old: None, new: self._get(old)})

    def link(self, old: str, new: str) -> None:
        self.before("link", new, 0)
        with self.guard:
            self._change({new: self._get(old)})

    def sync_dir(self, path: str) -> None:
        self.before("sync_dir", path, 0)
        folder = path.rstrip("/")
        if self.deaf("sync_dir", path):
            return
        with self.guard:
            ours = [any(name.rpartition("/")[0] == folder for name in step) for step in self.pending]
            for step in (s for s, mine in zip(self.pending, ours, strict=True) if mine):
                _rename(self.durable, step)
            self.pending = [s for s, mine in zip(self.pending, ours, strict=True) if not mine]

    def lock(self, path: str, note: str | None = "") -> _Lock:
        if path in self.locks:
            raise LockedError(f"{path} is locked by another handle of this process; close it first, or open with mode='r'")
        self.locks.add(path)
        return _Lock(self, path)

    def kill(self) -> Self:
        """What a killed process leaves: everything is there to be read, no more of it is safe than was, no lock is held."""
        after = type(self)(self.clock)
        with self.guard:
            files = {id(f): f for f in [*self.files.values(), *self.durable.values(), *(f for s in self.pending for f in s.values() if f)]}
            twins = {key: file.copy() for key, file in files.items()}
            after.folders = set(self.folders)
            after.files = {name: twins[id(file)] for name, file in self.files.items()}
            after.durable = {name: twins[id(file)] for name, file in self.durable.items()}
            after.pending = [{name: twins[id(file)] if file else None for name, file in step.items()} for step in self.pending]
        return after

    def crash(self, seed: int = 0, keep: float = 0.5) -> Self:
        """What a power loss may leave: a new file system, healthy and without locks.

        A created, renamed or removed name whose folder was not synced since is kept or lost by chance
        (a rename as a whole); so is each unsynced write, and one that is kept may be torn. ``keep=0``
        drops all of it, ``keep=1`` keeps it.
        """
        luck = random.Random(seed)
        after = type(self)(self.clock)
        after.folders = set(self.folders)
        with self.guard:
            names = dict(self.durable)
            for step in self.pending:
                if luck.random() < keep:
                    _rename(names, step)
            after.files = {name: _File(names[name].remains(luck, keep)) for name in sorted(names)}
            after.durable = dict(after.files)
        return after


def _rename(names: dict[str, _File], step: dict[str, _File | None]) -> None:
    for name, file in step.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


class SimulatedCrashError(BaseException):
    """Stops the engine at a chosen call; no handler of the engine may catch it."""


class FaultyEnv(MemoryEnv):
    """Fails or crashes at chosen calls.

    ``fail(op, at, code)``: the ``at``-th later call of ``op`` (and, with ``lasting``, all after it) raises
    `StorageError` with that errno. ``crash_at(n)``: the n-th later mutating call raises `SimulatedCrashError`.
    ``room``: so many bytes fit on the disk; the write that meets the end is left half done, as a disk leaves it.
    """

    MUTATING = ("create", "write", "sync", "truncate", "unlink", "rename", "link", "sync_dir", "mkdir")

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.calls: list[tuple[str, str]] = []
        self._rules: list[Callable[[str, str, int], None]] = []
        self.room: int | None = None

    def before(self, op: str, path: str, size: int) -> None:
        self.calls.append((op, path))
        for rule in self._rules:
            rule(op, path, size)

    def fits(self, size: int) -> int:
        if self.room is not None:
            size = min(size, self.room)
            self.room -= size
        return size

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

    def watch(self, callback: Callable[[str, str], None]) -> None:
        """Call ``callback(op, path)`` ahead of every later mutating call; `crash` shows there what a power loss would leave."""

        def rule(op: str, path: str, size: int) -> None:
            if op in self.MUTATING:
                callback(op, path)

        self._rules.append(rule)

    def heal(self) -> None:
        """Forget every rule and watcher."""
        self._rules.clear()
        self.room = None
