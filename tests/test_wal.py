"""The log: what was promised comes back or is an error; nothing else ever does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsmtensor.env.checksum import crc32c
from lsmtensor.env.local import LocalEnv
from lsmtensor.env.memory import MemoryEnv
from lsmtensor.errors import (
    CorruptionError,
    FormatVersionError,
)
from lsmtensor.wal import BATCHES, END, ROWS, WalWriter, read_wal, seal_wal
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
