"""The log: what was promised comes back or is an error; nothing else ever does."""

from __future__ import annotations

import errno
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsmtensor.env.checksum import crc32c
from lsmtensor.env.local import LocalEnv
from lsmtensor.env.memory import FaultyEnv, MemoryEnv
from lsmtensor.errors import (
    ClosedError,
    CorruptionError,
    FormatVersionError,
    InvalidArgumentError,
    LsmTensorError,
    StorageError,
    UnknownNameError,
)
from lsmtensor.wal import BATCHES, END, ROWS, WalWriter, read_wal, seal_wal, sync_mode
from lsmtensor.wal.format import FRAME_BYTES, HEADER_BYTES, encode_header, encode_record

PATH, NUMBER = "wal/000007.wal", 7


def put(data: bytes, path: str = PATH) -> MemoryEnv:
    env = MemoryEnv()
    with env.create(path, kind="wal", cause="commit") as file:
        file.write(data)
        file.sync()
    return env


def log(*payloads: bytes, synced: list[int] | None = None, number: int = NUMBER, end: bool = False) -> bytes:
    """A log's bytes; ``synced`` counts how many records were synced when each was written (default: none)."""
    data, starts = encode_header(number), []
    for i, payload in enumerate(payloads):
        starts.append(len(data))
        safe = HEADER_BYTES if synced is None or synced[i] == 0 else (starts + [len(data)])[synced[i]]
        data += b"".join(bytes(b) for b in encode_record(number, len(data), i + 1, 100 + i, BATCHES, safe, [payload]))
    if end:
        data += b"".join(bytes(b) for b in encode_record(number, len(data), 0, 0, END, len(data), []))
    return data


def payloads(env: MemoryEnv, number: int = NUMBER) -> list[bytes]:
    return [bytes(r.payload) for r in read_wal(env, PATH, number)]


# -- round trips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["group", "every", "none", "interval(ms=5)", "buffered(ms=5)"])
@pytest.mark.parametrize("make", [MemoryEnv, LocalEnv])
def test_what_is_appended_comes_back(mode, make, tmp_path):
    env, path = make(), str(tmp_path / "1.wal")
    writer = WalWriter(env, path, 1, sync=mode)
    sizes = [0, 1, 7, 8, 9, 63, 64, 65, 5000]
    for i, size in enumerate(sizes):
        payload = [bytes([i]) * size, np.arange(i, dtype="<i4")]
        ticket = writer.append(i + 1, 1000 + i, ROWS if i % 2 else BATCHES, payload)
        writer.wait(ticket)
        assert ticket == writer.size and ticket % 8 == 0
    writer.close()
    log = read_wal(env, path, 1)
    for i, (size, record) in enumerate(zip(sizes, log, strict=True)):
        assert (record.version, record.time_ns, record.kind) == (i + 1, 1000 + i, ROWS if i % 2 else BATCHES)
        assert bytes(record.payload) == bytes([i]) * size + np.arange(i, dtype="<i4").tobytes()
        assert record.payload.readonly
    assert log.sealed and log.torn_bytes == 0 and log.valid_end == env.size(path)
    assert log.last == (len(sizes), 1000 + len(sizes) - 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans())), st.booleans())
def test_round_trip_of_any_payloads(parts, seal):
    env = MemoryEnv()
    writer = WalWriter(env, PATH, NUMBER, sync="none")
    for i, (payload, synced) in enumerate(parts):
        writer.append(i, -i, ROWS, [payload[:3], b"", payload[3:]])
        if synced:
            writer.sync()
    writer.close(seal)
    log = read_wal(env, PATH, NUMBER)
    assert [bytes(r.payload) for r in log] == [p for p, _ in parts] and log.sealed == seal


def test_golden_bytes():
    """The format of docs/format-wal.md, byte by byte. A change here is a new format version."""
    golden = (
        "4c534d5457414c000100000000000000"
        + "0700000000000000"
        + "00000000"
        + "d8154151"
        # crc, mark, length, version, time_ns, synced, kind, payload crc, payload
        + "89d737d1"
        + "4c545752"
        + "0300000000000000"
        + "0100000000000000"
        + "6400000000000000"
        + "2000000000000000"
        + "01000000"
        + "ed3ab2fa"
        + "6162630000000000"
    )
    data = log(b"abc")
    assert data.hex() == golden
    assert crc32c(b"123456789") == 0xE3069283


# -- where logs end ------------------------------------------------------------------------------------

A, B, C = b"a" * 10, b"b" * 20, b"c" * 30


@pytest.mark.parametrize(
    "tail",
    [b"", b"\0", bytes(4096), b"\xff" * 100, log(A, B)[HEADER_BYTES:], log(A)[HEADER_BYTES:-1], b"LTWR" * 40],
    ids=["none", "a zero", "zeros", "ones", "records of another place", "half a record", "marks"],
)
def test_what_follows_the_last_record_ends_the_log(tail):
    data = log(A, B)
    env = put(data + tail)
    reader = read_wal(env, PATH, NUMBER)
    assert [bytes(r.payload) for r in reader] == [A, B]
    assert reader.valid_end == len(data) and reader.torn_bytes == len(tail) and not reader.sealed


def test_recycled_space_of_another_log_is_not_read():
    other = log(A, B, C, number=6)
    mine = log(A)
    env = put(mine + other[len(mine) :])
    assert payloads(env) == [A]


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**32, 1000])
def test_a_hostile_length_is_a_torn_tail(length):
    data = bytearray(log(A))
    record = b"".join(bytes(b) for b in encode_record(NUMBER, len(data), 2, 0, ROWS, 32, [b"x"]))
    body = record[4:8] + length.to_bytes(8, "little") + record[16:FRAME_BYTES]
    place = NUMBER.to_bytes(8, "little") + len(data).to_bytes(8, "little")
    env = put(bytes(data) + crc32c(body, crc32c(place)).to_bytes(4, "little") + body + b"x" * 8)
    assert payloads(env) == [A]


def test_an_unknown_kind_is_refused():
    data = log(A)
    data += b"".join(bytes(b) for b in encode_record(NUMBER, len(data), 2, 0, 9, 32, [b"x"]))
    with pytest.raises(CorruptionError, match="unknown kind 9"):
        payloads(put(data))


def test_damage_below_what_was_synced_is_corruption_and_above_ends_the_log():
    starts = [len(log(*[A, B, C][:i])) for i in range(3)]
    for synced in ([0, 0, 0], [0, 1, 1], [0, 1, 2]):
        for i, start in enumerate(starts):
            data = bytearray(log(A, B, C, synced=synced))
            data[start + FRAME_BYTES] ^= 1
            env = put(bytes(data))
            if i < synced[-1]:
                with pytest.raises(CorruptionError, match=f"{PATH} at offset {start}.*after version {i} ") as caught:
                    payloads(env)
                assert (caught.value.path, caught.value.offset) == (PATH, start)
            else:
                assert payloads(env) == [A, B, C][:i]


def test_the_promise_of_the_end_record_holds():
    data = bytearray(log(A, B, end=True))
    data[-FRAME_BYTES - 1] ^= 1
    with pytest.raises(CorruptionError):
        payloads(put(bytes(data)))


def test_a_promise_behind_a_megabyte_of_damage_is_found():
    data = bytearray(log(A, b"x" * (3 << 20), C, synced=[0, 1, 2]))
    start = len(log(A))
    data[start : start + (3 << 20)] = bytes(3 << 20)
    with pytest.raises(CorruptionError, match=f"offset {start}"):
        payloads(put(bytes(data)))


def test_truncation_at_every_byte():
    data = log(A, B, C, synced=[0, 1, 2], end=True)
    ends = [len(log(*[A, B, C][:i])) for i in range(4)]
    for cut in range(len(data)):
        env = put(data[:cut])
        if cut < HEADER_BYTES:
            with pytest.raises(CorruptionError, match="header alone takes 32"):
                payloads(env)
            continue
        whole = sum(end <= cut for end in ends) - 1
        # a record that is whole promises those before it, and they are whole too: a cut is always a torn tail
        assert payloads(env) == [A, B, C][:whole]


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("synced", [[0, 0, 0], [0, 1, 2]])
def test_a_flip_of_every_byte_is_an_error_or_a_prefix(synced, bit):
    data = log(A, B, C, synced=synced, end=True)
    ends = [len(log(*[A, B, C][:i])) for i in range(4)]
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        env = put(bytes(damaged))
        if at < ends[3]:
            # the end record promises all of it
            with pytest.raises(CorruptionError):
                payloads(env)
        else:
            assert payloads(env) == [A, B, C]


def test_exchanged_records_are_damage():
    data = log(A, A, A, synced=[0, 1, 2])
    size = (len(data) - HEADER_BYTES) // 3
    one, two, three = (data[HEADER_BYTES + i * size : HEADER_BYTES + (i + 1) * size] for i in range(3))
    with pytest.raises(CorruptionError, match="offset 32:"):
        payloads(put(data[:HEADER_BYTES] + two + one + three))


@pytest.mark.parametrize(
    "data, error, text",
    [
        (b"", CorruptionError, "0 bytes"),
        (bytes(64), CorruptionError, "not a log"),
        (b"PK\x03\x04" + b"x" * 100, CorruptionError, "not a log"),
        (log(A, number=8), CorruptionError, "log 8, wanted log 7"),
    ],
)
def test_other_files_are_refused(data, error, text):
    with pytest.raises(error, match=text):
        read_wal(put(data), PATH, NUMBER)


def test_a_newer_format_is_refused():
    body = bytearray(encode_header(NUMBER)[:-4])
    body[8] = 2
    with pytest.raises(FormatVersionError, match="log format 2; this lsmtensor reads 1 to 1"):
        read_wal(put(bytes(body) + crc32c(bytes(body)).to_bytes(4, "little")), PATH, NUMBER)


# -- sealing after recovery ----------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", b"torn" * 20])
def test_sealing_makes_what_was_read_final(tail):
    env = put(log(A, B) + tail)
    reader = read_wal(env, PATH, NUMBER)
    assert len(list(reader)) == 2
    seal_wal(env, PATH, reader)
    after = read_wal(env.crash(keep=0), PATH, NUMBER) if env.durable else read_wal(env, PATH, NUMBER)
    assert [bytes(r.payload) for r in after] == [A, B] and after.sealed and after.torn_bytes == 0
    size = env.size(PATH)
    seal_wal(env, PATH, after)
    assert env.size(PATH) == size
    damaged = bytearray(env.files[PATH].data)
    damaged[HEADER_BYTES + FRAME_BYTES] ^= 1
    with pytest.raises(CorruptionError):
        payloads(put(bytes(damaged)))


# -- promises under crashes and faults -----------------------------------------------------------------


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
