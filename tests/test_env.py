"""The file systems: the local one, the one in memory, and what a power loss or an error leaves of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmtensor.env import local
from lsmtensor.env.checksum import crc32c
from lsmtensor.env.local import STAGE_BYTES, LocalEnv
from lsmtensor.env.memory import FaultyEnv, MemoryEnv, SimulatedCrashError
from lsmtensor.errors import CorruptionError, LockedError, ReadOnlyError, StorageError

KIND = {"kind": "table", "cause": "flush"}


@pytest.fixture(params=["local", "memory", "faulty"])
def home(request, tmp_path):
    env = {"local": LocalEnv, "memory": MemoryEnv, "faulty": FaultyEnv}[request.param]()
    path = str(tmp_path / "a" / "b")
    env.mkdir(path)
    return env, path


def write(env, path, *parts, sync=True, **more):
    with env.create(path, **KIND, **more) as file:
        file.writev(parts)
        if sync:
            file.sync()


def test_bytes_come_back(home):
    env, folder = home
    parts = [b"abc", b"", np.arange(10, dtype="<i4"), memoryview(bytearray(b"xyz"))]
    whole = b"abc" + np.arange(10, dtype="<i4").tobytes() + b"xyz"
    write(env, f"{folder}/f", *parts)
    reader = env.open(f"{folder}/f", kind="table")
    assert bytes(reader.map()) == whole and reader.size == env.size(f"{folder}/f") == len(whole)
    assert reader.map().readonly
    assert reader.pread(3, 4) == whole[3:7] and reader.pread(len(whole), 0) == b""
    assert env.metrics.snapshot()["io.write.table.flush"] == len(whole)
    assert env.metrics.snapshot()["io.syncs.table.flush"] == 1


def test_a_view_outlives_its_file(home):
    env, folder = home
    write(env, f"{folder}/f", b"0123456789")
    reader = env.open(f"{folder}/f", kind="table")
    view = reader.map()
    reader.close()
    env.unlink(f"{folder}/f")
    del reader
    assert bytes(view) == b"0123456789"


@pytest.mark.parametrize(("offset", "length"), [(5, 6), (11, 1), (0, 1 << 60), (-1, 2), (2, -1)])
def test_a_damaged_length_is_named_and_allocates_nothing(home, offset, length):
    env, folder = home
    write(env, f"{folder}/f", b"0123456789")
    with pytest.raises(CorruptionError) as caught:
        env.open(f"{folder}/f", kind="table").pread(offset, length)
    assert caught.value.path.endswith("/f") and caught.value.offset == offset


def test_append_cuts_first_and_never_grows(home):
    env, folder = home
    write(env, f"{folder}/f", b"0123456789")
    with env.append_to(f"{folder}/f", **KIND, truncate_at=4) as file:
        assert file.tell() == 4
        file.write(b"ab")
        assert file.tell() == 6
    assert env.open(f"{folder}/f", kind="table").pread(0, 6) == b"0123ab"
    with pytest.raises(CorruptionError):
        env.append_to(f"{folder}/f", **KIND, truncate_at=7)


def test_names(home):
    env, folder = home
    write(env, f"{folder}/b", b"1")
    write(env, f"{folder}/a", b"22")
    with pytest.raises(StorageError) as caught:
        env.create(f"{folder}/a", **KIND)
    assert caught.value.errno == errno.EEXIST
    assert env.listdir(folder) == ["a", "b"] and env.listdir(f"{folder}/none") == []
    env.rename(f"{folder}/a", f"{folder}/b")
    assert env.listdir(folder) == ["b"] and env.size(f"{folder}/b") == 2
    env.unlink(f"{folder}/b")
    env.unlink(f"{folder}/b")
    assert not env.exists(f"{folder}/b") and env.exists(folder)
    env.mkdir(folder)
    with pytest.raises(StorageError) as caught:
        env.open(f"{folder}/b", kind="table")
    assert caught.value.errno == errno.ENOENT


def test_a_lock_is_exclusive_and_released(home):
    env, folder = home
    held = env.lock(f"{folder}/LOCK")
    with pytest.raises(LockedError, match="mode='r'"):
        env.lock(f"{folder}/LOCK")
    held.close()
    held.close()
    env.lock(f"{folder}/LOCK").close()


def test_a_dead_process_keeps_no_lock_and_a_living_one_is_named(tmp_path):
    path = f"{tmp_path}/LOCK"
    code = f"from lsmtensor.env.local import LocalEnv; l = LocalEnv().lock({path!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {child.pid}"):
            LocalEnv().lock(path)
        child.send_signal(signal.SIGKILL)
        child.wait()
    LocalEnv().lock(path).close()


def test_a_forked_child_does_not_unlock(tmp_path):
    held = LocalEnv().lock(f"{tmp_path}/LOCK")
    pid = os.fork()
    if pid == 0:
        held.close()
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(LockedError):
        LocalEnv().lock(f"{tmp_path}/LOCK")
    held.close()


SIZES = [0, 1, 4095, 4096, 4097, STAGE_BYTES - 1, STAGE_BYTES, STAGE_BYTES + 1, 3 * STAGE_BYTES + 17]


@pytest.mark.parametrize("size", SIZES)
def test_direct_writes_are_the_same_bytes(tmp_path, size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    env, path = LocalEnv(), f"{tmp_path}/f"
    write(env, path, data[: size // 3], data[size // 3 :], direct=True)
    assert os.path.getsize(path) == size
    assert bytes(env.open(path, kind="table").map()) == data.tobytes()
    assert env.metrics.snapshot()["io.write.table.flush"] == size


@given(st.lists(st.tuples(st.integers(0, 9000), st.booleans()), max_size=8))
def test_direct_writes_go_on_after_a_sync(tmp_path_factory, steps):
    path = str(tmp_path_factory.mktemp("direct") / "f")
    env, written = LocalEnv(), b""
    file = env.create(path, **KIND, direct=True)
    for i, (size, sync) in enumerate(steps):
        data = bytes([i + 1]) * size
        file.write(data)
        written += data
        assert file.tell() == len(written)
        if sync:
            file.sync()
            assert bytes(env.open(path, kind="table").map()) == written
    file.sync()
    file.close()
    file.close()
    assert bytes(env.open(path, kind="table").map()) == written


def test_a_source_may_change_once_the_write_returned(tmp_path):
    source = np.full(2 * STAGE_BYTES, 7, np.uint8)
    env = LocalEnv()
    file = env.create(f"{tmp_path}/f", **KIND, direct=True)
    file.write(source)
    source[:] = 0
    file.sync()
    file.close()
    assert np.all(np.frombuffer(env.open(f"{tmp_path}/f", kind="table").map(), np.uint8) == 7)


def test_a_failed_direct_write_fails_all_that_follows(tmp_path, monkeypatch):
    file = LocalEnv().create(f"{tmp_path}/f", **KIND, direct=True)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="disk is full") as caught:
            file.write(bytes(4 * STAGE_BYTES))
            file.sync()
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(StorageError):
        file.sync()  # the disk has room again, but bytes in the middle are missing
    with pytest.raises(StorageError):
        file.close()


def test_without_direct_writes_the_cache_serves(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    write(LocalEnv(), f"{tmp_path}/f", b"abc", direct=True)
    assert (tmp_path / "f").read_bytes() == b"abc"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ReadOnlyError, match="mode='r'"):
        LocalEnv().create(f"{tmp_path}/f", **KIND)


# -- what a power loss leaves ---------------------------------------------------------------------


def outcomes(env, path, keep=0.5, seeds=300):
    """All contents (None: absent) that crashes leave of a file."""
    found = set()
    for seed in range(seeds):
        after = env.crash(seed=seed, keep=keep)
        found.add(bytes(after.files[path].data) if after.exists(path) else None)
    return found


def test_unsynced_writes_are_kept_dropped_or_torn():
    env = MemoryEnv()
    file = env.create("d/f", **KIND)
    file.write(b"AA")
    file.sync()
    env.sync_dir("d")
    file.write(b"bb")
    file.write(b"cc")
    found = outcomes(env, "d/f")
    assert {b"AA", b"AAb", b"AAbb", b"AAbbc", b"AAbbcc", b"AA\0\0cc"} <= found
    assert all(f is not None and f.startswith(b"AA") for f in found)
    assert outcomes(env, "d/f", keep=0) == {b"AA"} and outcomes(env, "d/f", keep=1) == {b"AAbbcc"}
    file.sync()
    assert outcomes(env, "d/f") == {b"AAbbcc"}


def test_names_need_a_sync_of_their_folder():
    env = MemoryEnv()
    write(env, "d/new", b"x")
    assert outcomes(env, "d/new") == {None, b"x"}
    env.sync_dir("elsewhere")
    assert None in outcomes(env, "d/new")
    env.sync_dir("d")
    assert outcomes(env, "d/new") == {b"x"}
    env.unlink("d/new")
    assert outcomes(env, "d/new") == {None, b"x"}


def test_a_rename_is_whole():
    env = MemoryEnv()
    write(env, "CURRENT", b"old")
    write(env, "tmp", b"new")
    env.sync_dir("")
    env.rename("tmp", "CURRENT")
    states = set()
    for seed in range(100):
        after = env.crash(seed=seed)
        states.add((bytes(after.files["CURRENT"].data), after.exists("tmp")))
    assert states == {(b"old", True), (b"new", False)}
    env.sync_dir("")
    assert outcomes(env, "CURRENT") == {b"new"} and outcomes(env, "tmp") == {None}


def test_a_lost_cut_takes_later_writes_with_it():
    env = MemoryEnv()
    write(env, "f", b"0123456789")
    env.sync_dir("")
    file = env.append_to("f", **KIND, truncate_at=4)
    file.write(b"ab")
    found = outcomes(env, "f")
    assert found == {b"0123456789", b"0123", b"0123a", b"0123ab"}
    file.sync()
    assert outcomes(env, "f") == {b"0123ab"}


def test_a_crash_copies():
    env = MemoryEnv()
    write(env, "f", b"x")
    env.sync_dir("")
    after = env.crash()
    after.append_to("f", **KIND, truncate_at=0)
    assert bytes(env.files["f"].data) == b"x" and bytes(after.crash(keep=0).files["f"].data) == b"x"


def test_a_sync_after_a_failed_one_promises_nothing_old():
    env = FaultyEnv()
    file = env.create("f", **KIND)
    env.sync_dir("")
    file.write(b"ab")
    env.fail("sync", at=1)
    with pytest.raises(StorageError) as caught:
        file.sync()
    assert caught.value.errno == errno.EIO
    file.write(b"cd")
    file.sync()
    assert outcomes(env, "f", keep=0) == {b"\0\0cd"}


def test_faults_by_count_and_for_good():
    env = FaultyEnv()
    env.fail("create", at=2, code=errno.ENOSPC)
    env.create("a", **KIND)
    with pytest.raises(StorageError) as caught:
        env.create("b", **KIND)
    assert caught.value.errno == errno.ENOSPC and not env.exists("b")
    env.create("b", **KIND)
    env.fail("unlink", lasting=True)
    for _ in range(3):
        with pytest.raises(StorageError):
            env.unlink("a")
    env.heal()
    env.unlink("a")
    assert env.calls[0] == ("create", "a") and env.calls[-1] == ("unlink", "a")


def test_a_full_disk_takes_what_fits():
    env = FaultyEnv()
    file = env.create("f", **KIND)
    env.room = 5
    file.write(b"abc")
    with pytest.raises(StorageError, match="disk is full") as caught:
        file.write(b"defg")
    assert caught.value.errno == errno.ENOSPC and bytes(env.files["f"].data) == b"abcde"
    assert env.metrics.snapshot()["io.write.table.flush"] == 5


def test_crash_at_stops_at_every_later_call():
    env = FaultyEnv()
    env.crash_at(2)
    file = env.create("f", **KIND)
    for _ in range(2):
        with pytest.raises(SimulatedCrashError):
            file.write(b"x")


@given(st.binary(max_size=200), st.integers(0, 200))
def test_crc32c_continues(data, cut):
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_crc32c_is_castagnoli():
    assert crc32c(b"123456789") == 0xE3069283


def test_large_files_are_reserved_ahead_and_end_where_they_end(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "RESERVE_BYTES", STAGE_BYTES)
    data = bytes(range(251)) * (3 * STAGE_BYTES // 251 + 4000)
    for name, synced in (("a", True), ("b", False)):
        file = LocalEnv().create(str(tmp_path / name), kind="table", cause="bulk", direct=True)
        for at in range(0, len(data), 1 << 20):
            file.write(data[at : at + (1 << 20)])
        if synced:
            file.sync()
            assert (tmp_path / name).read_bytes() == data
            file.write(b"more")
            file.sync()
        file.close()
        kept = (tmp_path / name).read_bytes()
        assert kept == data + b"more" if synced else data.startswith(kept) and len(kept) >= 3 * STAGE_BYTES
