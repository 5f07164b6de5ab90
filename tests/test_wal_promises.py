"""The log under power losses, faults, many threads, and each way to sync: what was promised is kept."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from lsmtensor.env.memory import FaultyEnv, MemoryEnv
from lsmtensor.errors import (
    ClosedError,
    InvalidArgumentError,
    LsmTensorError,
    StorageError,
    UnknownNameError,
)
from lsmtensor.wal import END, ROWS, WalWriter, read_wal, sync_mode
from lsmtensor.wal.format import HEADER_BYTES

PATH, NUMBER = "wal/000007.wal", 7
A, B, C = b"a" * 10, b"b" * 20, b"c" * 30


def payloads(env: MemoryEnv, number: int = NUMBER) -> list[bytes]:
    return [bytes(r.payload) for r in read_wal(env, PATH, number)]


def write_some(env: MemoryEnv, mode: str, count: int = 12) -> list[int]:
    """Versions that were acknowledged, in order; stops at the first failure."""
    acked: list[int] = []
    try:
        writer = WalWriter(env, PATH, NUMBER, sync=mode)
        env.sync_dir("wal")
        for version in range(1, count + 1):
            ticket = writer.append(version, version, ROWS, [b"%d" % version * version])
            writer.wait(ticket)
            acked.append(version)
    except StorageError:
        return acked
    return acked


@pytest.mark.parametrize("mode", ["group", "every"])
@pytest.mark.parametrize("seed", range(8))
def test_after_a_power_loss_every_promise_is_kept(mode, seed):
    env = MemoryEnv()
    acked = write_some(env, mode)
    after = env.crash(seed=seed)
    assert [r.version for r in read_wal(after, PATH, NUMBER)] == acked


@pytest.mark.parametrize("seed", range(30))
def test_unsynced_records_end_as_a_prefix(seed):
    env = MemoryEnv()
    writer = WalWriter(env, PATH, NUMBER, sync="none")
    env.sync_dir("wal")
    for version in range(1, 20):
        writer.append(version, 0, ROWS, [b"x" * version])
        if version == 8:
            writer.sync()
    found = [r.version for r in read_wal(env.crash(seed=seed, keep=0.6), PATH, NUMBER)]
    assert found == list(range(1, len(found) + 1)) and len(found) >= 8


def test_buffered_keeps_records_in_the_process_until_its_time():
    env = MemoryEnv()
    writer = WalWriter(env, PATH, NUMBER, sync="buffered(ms=20)")
    writer.append(1, 0, ROWS, [A])
    assert payloads(env) == [] and writer.size > HEADER_BYTES
    deadline = time.monotonic() + 5
    while payloads(env) != [A] and time.monotonic() < deadline:
        time.sleep(0.005)
    assert payloads(env) == [A] and writer.synced == HEADER_BYTES
    writer.append(2, 0, ROWS, [B])
    writer.append(3, 0, ROWS, [bytes(2 << 20)])
    assert len(payloads(env)) == 3, "more than a megabyte is not held back"
    writer.close()


def test_interval_syncs_within_its_time():
    env = FaultyEnv()
    writer = WalWriter(env, PATH, NUMBER, sync="interval(ms=20)")
    ticket = writer.append(1, 0, ROWS, [A])
    writer.wait(ticket)
    deadline = time.monotonic() + 5
    while writer.synced < ticket and time.monotonic() < deadline:
        time.sleep(0.005)
    assert writer.synced == ticket
    env.fail("sync", lasting=True)
    writer.append(2, 0, ROWS, [B])
    time.sleep(0.1)
    with pytest.raises(StorageError, match="injected EIO"):
        writer.append(3, 0, ROWS, [C])
    writer.close()


@pytest.mark.parametrize("mode, syncs", [("group", 1 + 3), ("every", 1 + 3), ("none", 1), ("interval(ms=60000)", 1)])
def test_count_of_syncs(mode, syncs):
    env = FaultyEnv()
    writer = WalWriter(env, PATH, NUMBER, sync=mode)
    for version in range(3):
        writer.wait(writer.append(version, 0, ROWS, [A]))
    assert sum(op == "sync" for op, _ in env.calls) == syncs
    writer.close()


def test_every_fault_of_a_write_or_sync_leaves_the_promises():
    for mode in ("group", "every", "none"):
        for op in ("write", "sync"):
            for at in range(1, 15):
                env = FaultyEnv()
                env.fail(op, at=at)
                acked = write_some(env, mode)
                if PATH not in env.durable:
                    assert acked == []
                    continue
                after = env.crash(keep=0) if mode != "none" else env
                found = [r.version for r in read_wal(after, PATH, NUMBER)]
                assert found[: len(acked)] == acked and len(found) <= len(acked) + 1


def test_after_a_failed_sync_the_log_refuses():
    env = FaultyEnv()
    writer = WalWriter(env, PATH, NUMBER)
    writer.wait(writer.append(1, 0, ROWS, [A]))
    env.fail("sync", code=errno.EIO)
    ticket = writer.append(2, 0, ROWS, [B])
    with pytest.raises(StorageError) as first:
        writer.wait(ticket)
    assert first.value.errno == errno.EIO
    # the disk works again, and a retry would prove nothing: what failed stays failed
    for again in (lambda: writer.wait(ticket), writer.sync, lambda: writer.append(3, 0, ROWS, [C])):
        with pytest.raises(StorageError, match="takes no more commits.*reopen") as refused:
            again()
        assert refused.value.errno == errno.EIO
    writer.close()
    assert payloads(env.crash(keep=0) if env.durable else env)[:1] == [A]


def test_after_a_full_disk_earlier_commits_still_sync():
    env = FaultyEnv()
    writer = WalWriter(env, PATH, NUMBER)
    env.sync_dir("wal")
    early = writer.append(1, 0, ROWS, [A])
    env.room = 10
    with pytest.raises(StorageError, match="disk is full") as full:
        writer.append(2, 0, ROWS, [B])
    assert full.value.errno == errno.ENOSPC
    env.room = None
    with pytest.raises(StorageError, match="takes no more commits"):
        writer.append(3, 0, ROWS, [C])
    writer.wait(early)
    writer.close()
    assert payloads(env.crash(keep=0)) == [A]


def test_a_full_disk_at_creation_is_said():
    env = FaultyEnv()
    env.room = 4
    with pytest.raises(StorageError, match="disk is full"):
        WalWriter(env, PATH, NUMBER)


def test_closed_logs_refuse_and_keep_earlier_tickets():
    env = MemoryEnv()
    writer = WalWriter(env, PATH, NUMBER)
    ticket = writer.append(1, 0, ROWS, [A])
    writer.close()
    writer.close()
    writer.wait(ticket)
    with pytest.raises(ClosedError, match="append to the newest log"):
        writer.append(2, 0, ROWS, [B])
    unsealed = WalWriter(env, "wal/2.wal", 2)
    ticket = unsealed.append(1, 0, ROWS, [A])
    unsealed.close(seal=False)
    with pytest.raises(ClosedError, match="without a sync"):
        unsealed.wait(ticket)
    with pytest.raises(InvalidArgumentError, match="record kind 3"):
        WalWriter(env, "wal/3.wal", 3).append(1, 0, END, [])


# -- group commit --------------------------------------------------------------------------------------


class SlowSync(FaultyEnv):
    def before(self, op: str, path: str, size: int) -> None:
        super().before(op, path, size)
        if op == "sync":
            time.sleep(0.004)


def test_waiting_threads_share_a_sync():
    env = SlowSync()
    writer = WalWriter(env, PATH, NUMBER)
    turn, versions = threading.Lock(), iter(range(1, 10_000))
    acked: list[int] = []

    def commit_some() -> None:
        for _ in range(20):
            with turn:
                version = next(versions)
                ticket = writer.append(version, 0, ROWS, [b"%d" % version])
            writer.wait(ticket)
            assert writer.synced >= ticket
            acked.append(version)

    threads = [threading.Thread(target=commit_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(acked) == list(range(1, 161))
    assert sum(op == "sync" for op, _ in env.calls) < 100
    writer.close()
    assert [r.version for r in read_wal(env, PATH, NUMBER)] == list(range(1, 161))


def test_a_failed_sync_is_told_to_every_waiting_thread():
    env = SlowSync()
    writer = WalWriter(env, PATH, NUMBER)
    tickets = [writer.append(v, 0, ROWS, [A]) for v in range(6)]
    env.fail("sync", lasting=True)
    failures: list[LsmTensorError] = []

    def wait(ticket: int) -> None:
        try:
            writer.wait(ticket)
        except StorageError as why:
            failures.append(why)

    threads = [threading.Thread(target=wait, args=(t,)) for t in tickets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(failures) == 6
    assert sum(op == "sync" for op, _ in env.calls) == 2, "the header's and one that failed; no retry"


# -- modes ---------------------------------------------------------------------------------------------


def test_sync_modes_parse():
    assert [str(sync_mode(m)) for m in ("group", "every", "none", "interval(ms=50)", "buffered(ms=2.5)")] == [
        "group",
        "every",
        "none",
        "interval(ms=50)",
        "buffered(ms=2.5)",
    ]
    assert sync_mode("interval").ms == 100 and sync_mode(sync_mode("none")).name == "none"


@pytest.mark.parametrize(
    "text, error, part",
    [
        ("grup", UnknownNameError, "did you mean 'group'"),
        ("group(ms=3)", UnknownNameError, "no parameter 'ms'"),
        ("interval(s=3)", UnknownNameError, "known: ms"),
        ("interval(ms=0)", InvalidArgumentError, "ms=0"),
        ("buffered(ms=true)", InvalidArgumentError, "ms=True"),
    ],
)
def test_wrong_sync_modes_are_refused(text, error, part):
    with pytest.raises(error, match=part):
        sync_mode(text)
