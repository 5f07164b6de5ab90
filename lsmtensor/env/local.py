"""The local file system: buffered and direct writes, maps, flock."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ..errors import CorruptionError, LockedError, ReadOnlyError, StorageError
from ..metrics import Metrics
from .base import Buffer, Clock, WritableFile

PAGE = 4096
MAP_FIXED = 0x10
STAGE_BYTES = 2 << 20
STAGES, WRITERS = 4, 2
RESERVE_BYTES = 64 << 20
TAIL_BYTES = 256 << 10
IOV_MAX = 1024
LOCK_BYTES = 64  # what a lock file says, padded
MAX_SPARE = 8
_SPARE: list[mmap.mmap] = []


@contextlib.contextmanager
def _said(doing: str, path: str) -> Iterator[None]:
    """Turn an OSError into a sentence that names the file and what to do."""
    try:
        yield
    except OSError as why:
        hint = {
            errno.ENOSPC: "the disk is full; free space and try again",
            errno.EDQUOT: "the quota is used up; free space and try again",
            errno.EROFS: "the file system is read-only; open with mode='r' or choose another folder",
            errno.EACCES: "permission is missing; open with mode='r' or change the owner",
            errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
        }.get(why.errno or 0, "see the error of the system")
        text = f"{doing} {path}: {why.strerror or why}; {hint}"
        if why.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(text) from why
        raise StorageError(text, why.errno) from why


def _stage() -> mmap.mmap:
    """Memory of our own that comes in large pages where the system has them: the first touch of small ones costs more than the copy."""
    made = mmap.mmap(-1, STAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE)
    return made


class LocalFile(WritableFile):
    """Appends through the page cache."""

    def __init__(self, fd: int, path: str, at: int, metrics: Metrics, counter: str) -> None:
        self.path, self._fd, self._at, self._metrics, self._counter = path, fd, at, metrics, counter
        self._reported, self._reporting = at, threading.Lock()
        metrics.reporters.add(self)

    def report(self) -> None:
        """Add the bytes written since the last time to the sums."""
        with self._reporting:
            reported, self._reported = self._reported, self._at
            self._metrics.add(f"io.write.{self._counter}", self._reported - reported)

    def writev(self, buffers: Sequence[Buffer]) -> None:
        views = [memoryview(b).cast("B") for b in buffers]
        views = [v for v in views if len(v)]
        with _said("writing to", self.path):
            while views:
                done = os.pwritev(self._fd, views[:IOV_MAX], self._at)
                self._at += done
                while views and done >= len(views[0]):
                    done -= len(views.pop(0))
                if done:
                    views[0] = views[0][done:]

    def write(self, buffer: Buffer) -> None:
        # the common case by the shortest way: `writev` says what is wrong and goes on after half a write
        size = len(buffer)
        try:
            done = os.pwrite(self._fd, buffer, self._at)
        except OSError:
            done = 0
        self._at += done
        if done < size:
            self.writev([memoryview(buffer)[done:]])

    def tell(self) -> int:
        return self._at

    def sync(self) -> None:
        with _said("syncing", self.path):
            os.fdatasync(self._fd)
        self._metrics.add(f"io.syncs.{self._counter}")

    def close(self) -> None:
        if self._fd >= 0:
            self.report()
            fd, self._fd = self._fd, -1
            with _said("closing", self.path):
                os.close(fd)


class DirectFile(LocalFile):
    """Appends past the page cache: one page-aligned stage is filled while threads write those before.

    The disk is faster so than through the cache, and the cache keeps what readers want. Each byte is
    copied once, while the stage before is on its way. Space is reserved ahead only where a file is large: then
    two writes go on at once, and small files are not a third slower to begin. A failed write fails every later
    call: bytes are missing.
    """

    def __init__(self, fd: int, path: str, metrics: Metrics, counter: str) -> None:
        super().__init__(fd, path, 0, metrics, counter)
        self._stages = [_SPARE.pop() if _SPARE else _stage() for _ in range(STAGES)]
        self._filled, self._flushed = 0, 0
        self._pool = ThreadPoolExecutor(WRITERS, "lsmtensor-direct")
        self._pending: deque[tuple[Future[None], mmap.mmap]] = deque()
        self._tail_done = False
        self._reserved = 0
        self._failed: OSError | None = None

    def writev(self, buffers: Sequence[Buffer]) -> None:
        import numpy as np

        total = 0
        for buffer in buffers:
            view = memoryview(buffer)
            if view.nbytes == 0:
                continue
            source = np.frombuffer(view, np.uint8)
            total += len(source)
            at = 0
            while at < len(source):
                stage = np.frombuffer(self._stages[0], np.uint8)
                n = min(STAGE_BYTES - self._filled, len(source) - at)
                # numpy copies without the GIL, so the writer thread goes on
                np.copyto(stage[self._filled : self._filled + n], source[at : at + n])
                self._filled += n
                at += n
                if self._filled == STAGE_BYTES:
                    self._submit(STAGE_BYTES)
        self._at += total
        self._tail_done = False

    def write(self, buffer: Buffer) -> None:
        self.writev([buffer])

    def _submit(self, length: int) -> None:
        stage, at = self._stages.pop(0), self._flushed
        if at >= RESERVE_BYTES and at + length > self._reserved >= 0:
            try:
                os.posix_fallocate(self._fd, at, RESERVE_BYTES)
                self._reserved = at + RESERVE_BYTES
            except OSError:
                self._reserved = -1  # not supported, or not so much is free: the write itself will tell
        self._flushed += length
        self._filled = 0
        self._pending.append((self._pool.submit(self._write, stage, at, length), stage))
        if not self._stages:
            self._wait(1)

    def _write(self, stage: mmap.mmap, at: int, length: int) -> None:
        view = memoryview(stage)
        done = 0
        while done < length:
            done += os.pwrite(self._fd, view[done:length], at + done)

    def _wait(self, writes: int | None = None) -> None:
        """Return when the oldest ``writes`` pending writes (all by default) are done."""
        with _said("writing to", self.path):
            for _ in range(len(self._pending) if writes is None else writes):
                done, stage = self._pending.popleft()
                self._stages.append(stage)
                try:
                    done.result()
                except OSError as why:
                    self._failed = why
            if self._failed is not None:
                raise self._failed

    def sync(self) -> None:
        self._wait()
        if self._filled and not self._tail_done:
            # the end goes through the cache: it need not fill a page, and who opens the file looks there first
            stage, at, filled = self._stages[0], self._flushed, self._filled
            cut = max(0, filled - TAIL_BYTES) // PAGE * PAGE
            with _said("writing to", self.path):
                self._write(stage, at, cut)
                with open(self.path, "r+b", buffering=0) as cached, memoryview(stage) as view:
                    while cut < filled:
                        cut += os.pwrite(cached.fileno(), view[cut:filled], at + cut)
            self._tail_done = True
        self._cut(self._at)
        super().sync()

    def _cut(self, size: int) -> None:
        """Give back what is reserved beyond ``size``."""
        if self._reserved > size:
            with _said("writing to", self.path):
                os.ftruncate(self._fd, size)
            self._reserved = 0

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            self._wait()
            self._cut(min(self._at, self._flushed))  # never synced: zeros must not pass for rows
        finally:
            self._pool.shutdown()
            if self._stages:
                # touched pages are worth keeping: fresh ones cost more than the copy into them
                _SPARE.extend(self._stages[: MAX_SPARE - len(_SPARE)])
                self._stages = []
            super().close()


class LocalReadable:
    """A file for reading; the map is made once."""

    def __init__(self, path: str, fd: int, metrics: Metrics, kind: str) -> None:
        self.path, self._metrics, self._counter = path, metrics, f"io.read.{kind}"
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._map: memoryview | None = None

    @property
    def size(self) -> int:
        return self._size

    def pread(self, offset: int, length: int) -> bytes:
        # asked first: a damaged length must not make us allocate
        if min(offset, length) < 0 or offset + length > self._size:
            raise CorruptionError(f"{length} bytes are wanted, the file has {self._size}", self.path, offset)
        with _said("reading", self.path):
            data = os.pread(self._fd, length, offset)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
                data += more  # Linux reads at most 2 GiB a call
        self._metrics.add(self._counter, len(data))
        if len(data) != length:
            raise CorruptionError("the file was cut while it was read", self.path, offset + len(data))
        return data

    def map(self) -> memoryview:
        if self._map is None:
            if self._size == 0:
                self._map = memoryview(b"")
            else:
                with _said("mapping", self.path):
                    self._map = memoryview(mmap.mmap(self._fd, self._size, prot=mmap.PROT_READ))
        return self._map

    def private(self, offset: int, length: int) -> memoryview:
        """A copy-on-write map: no byte is copied before it is written to."""
        if min(offset, length) < 0 or offset + length > self._size:
            raise CorruptionError(f"{length} bytes are wanted, the file has {self._size}", self.path, offset)
        start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with _said("mapping", self.path):
            mapped = mmap.mmap(self._fd, offset - start + length, access=mmap.ACCESS_COPY, offset=start) if length else bytearray()
        return memoryview(mapped)[offset - start :]

    def joined(self, pieces: Sequence[tuple[int, int]]) -> memoryview | None:
        """Pieces (offset, length) of the file behind each other, read-only, mapped and not copied but for a last one that begins with no page (rewired
        memory: Schuhknecht et al., PVLDB 2016). None where the others are not whole pages, or the system cannot."""
        page, whole = mmap.PAGESIZE, pieces[:-1] if pieces[-1][0] % mmap.PAGESIZE else pieces
        outside = any(at < 0 or at + n > self._size for at, n in pieces)
        if outside or any(at % page for at, _ in whole) or any(n % page for _, n in pieces[:-1]) or not hasattr(mmap, "MAP_ANONYMOUS"):
            return None
        # it holds the addresses, and gives them back with all that is mapped there
        room = memoryview(mmap.mmap(-1, sum(n for _, n in pieces), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        call = ctypes.CDLL(None, use_errno=True).mmap
        call.restype, call.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        to = ctypes.addressof(ctypes.c_char.from_buffer(room))
        for at, n in whole:
            if call(to, n, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, self._fd, at) != to:
                return None
            to += n
        for at, n in pieces[len(whole) :]:
            room[-n:] = self.map()[at : at + n]
        return room.toreadonly()

    def close(self) -> None:
        """Views of the map stay valid."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


class LocalLock:
    """flock on an open descriptor: the kernel releases it when the process dies."""

    def __init__(self, fd: int) -> None:
        self._fd, self._pid = fd, os.getpid()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            if os.getpid() == self._pid:
                fcntl.flock(fd, fcntl.LOCK_UN)
            # a forked child only closes: unlocking would take the parent's lock away
            os.close(fd)


class LocalEnv:
    """The file system of the machine."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.metrics = Metrics()
        self.clock = clock or Clock()

    def create(self, path: str, *, kind: str, cause: str, direct: bool = False) -> WritableFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        counter = f"{kind}.{cause}"
        if direct:
            try:
                return DirectFile(os.open(path, flags | os.O_DIRECT, 0o644), path, self.metrics, counter)
            except OSError as why:
                if why.errno != errno.EINVAL:
                    with _said("creating", path):
                        raise
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # some file systems create the file before they refuse O_DIRECT
        with _said("creating", path):
            return LocalFile(os.open(path, flags, 0o644), path, 0, self.metrics, counter)

    def append_to(self, path: str, *, kind: str, cause: str, truncate_at: int, again_from: int | None = None) -> WritableFile:
        with _said("opening", path):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if (size := os.fstat(fd).st_size) < truncate_at:
                    raise CorruptionError(f"the file ends here, {truncate_at} bytes are wanted", path, size)
                os.ftruncate(fd, truncate_at)
                at = truncate_at if again_from is None else again_from
                while at < truncate_at:
                    at += os.pwrite(fd, os.pread(fd, min(truncate_at - at, 4 << 20), at), at)
            except BaseException:
                os.close(fd)
                raise
            return LocalFile(fd, path, truncate_at, self.metrics, f"{kind}.{cause}")

    def open(self, path: str, *, kind: str) -> LocalReadable:
        with _said("opening", path):
            return LocalReadable(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), self.metrics, kind)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def listdir(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []
        except OSError as why:
            raise StorageError(f"{path} cannot be listed as a folder: {why.strerror}", why.errno) from why

    def size(self, path: str) -> int:
        with _said("looking at", path):
            return os.stat(path).st_size

    def mkdir(self, path: str) -> None:
        parent = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(path):
            return
        self.mkdir(parent)
        with _said("creating the folder", path):
            try:
                os.mkdir(path)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise
        self.sync_dir(parent)

    def unlink(self, path: str) -> None:
        with _said("removing", path), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def rename(self, old: str, new: str) -> None:
        with _said("renaming", old):
            os.replace(old, new)

    def link(self, old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError as why:
            if why.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                with _said("linking", new):
                    raise
            with _said("copying to", new), open(old, "rb") as source, open(new, "xb") as copy:
                shutil.copyfileobj(source, copy, 4 << 20)
                copy.flush()
                os.fsync(copy.fileno())

    def sync_dir(self, path: str) -> None:
        with _said("syncing the folder", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def lock(self, path: str, note: str | None = "") -> LocalLock:
        with _said("opening", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            holder = os.pread(fd, LOCK_BYTES, 0).decode("ascii", "replace").partition("\n")[0] or "another process"
            os.close(fd)
            raise LockedError(f"{path} is locked by {holder}; one writer at a time: close it there, or open with mode='r'") from why
        if note is not None:
            with _said("writing to", path):
                # over what was there: cutting it off first takes the file system milliseconds
                os.pwrite(fd, f"process {os.getpid()}\n{note}".encode().ljust(LOCK_BYTES, b"\n"), 0)
        return LocalLock(fd)
